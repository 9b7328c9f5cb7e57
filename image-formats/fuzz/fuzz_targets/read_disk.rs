//! Reading the disk in any bytes ends in an error or in extents that keep their promises.

#![no_main]

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use image_formats::{ByteSource, DiskExtent, DiskReader, Format, MAX_PIECE_BYTES};
use libfuzzer_sys::fuzz_target;

const FORMATS: [Format; 6] = [
    Format::Qcow2,
    Format::Vmdk,
    Format::Vhd,
    Format::Vhdx,
    Format::Vdi,
    Format::Raw,
];
/// A small file may legally describe a huge disk.
const EXTENTS: usize = 64;

/// Refuses reads that are larger than a piece with its surroundings.
struct Bounded(Bytes);

#[async_trait]
impl ByteSource for Bounded {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        assert!(length <= 3 * MAX_PIECE_BYTES, "a read of {length} bytes");
        self.0.read_at(offset, length).await
    }
}

async fn read(format: Format, file: Vec<u8>) {
    let Ok(mut reader) = DiskReader::open(Bounded(file.into()), format).await else {
        return;
    };
    let mut position = 0;
    for _ in 0..EXTENTS {
        let Ok(Some(extent)) = reader.next_extent().await else {
            return;
        };
        let (offset, length) = match &extent {
            DiskExtent::Data { offset, data } => (*offset, data.len() as u64),
            DiskExtent::Zero { offset, length } => (*offset, *length),
        };
        assert_eq!(offset, position);
        assert!(length > 0);
        position += length;
        assert!(position <= reader.virtual_size_bytes());
    }
}

// The first byte is the number of the format.
fuzz_target!(|input: &[u8]| {
    let Some((number, file)) = input.split_first() else {
        return;
    };
    let format = FORMATS[usize::from(*number) % FORMATS.len()];
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(read(format, file.to_vec()));
});
