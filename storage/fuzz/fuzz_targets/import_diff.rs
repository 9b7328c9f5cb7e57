//! Any bytes as a diff stream, in pieces of any size, come to the same image or the same error.

#![no_main]

use bytes::Bytes;
use futures_util::stream;
use libfuzzer_sys::fuzz_target;
use storage::memory::MemoryStore;
use storage::{ImageSpec, ImageStore, Result, diff_stream};

const SIZE_BYTES: u64 = 1 << 20;

async fn import(bytes: &[u8], piece_bytes: usize) -> (bool, Option<Bytes>) {
    let store = MemoryStore::new();
    let image = ImageSpec::new("p", "a");
    store.ensure_pool("p").await.expect("a pool");
    store.create(&image, SIZE_BYTES).await.expect("an image");
    store.create_snapshot(&image.at("s")).await.expect("a snapshot");
    let pieces: Vec<Result<Bytes>> = bytes
        .chunks(piece_bytes)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    let imported = diff_stream::import(&store, &image, stream::iter(pieces)).await;
    let handle = store.open(&image, None).await.expect("the image");
    let length = handle.size_bytes().min(SIZE_BYTES) as usize;
    (imported.is_ok(), handle.read(0, length).await.ok())
}

// The first two bytes are the size of the pieces.
fuzz_target!(|input: &[u8]| {
    let Some((piece_bytes, rest)) = input.split_first_chunk::<2>() else {
        return;
    };
    let piece_bytes = usize::from(u16::from_le_bytes(*piece_bytes)).max(1);
    let stream = [&b"rbd diff v1\n"[..], rest].concat();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let whole = import(&stream, stream.len()).await;
        let pieces = import(&stream, piece_bytes).await;
        assert!(whole == pieces);
    });
});
