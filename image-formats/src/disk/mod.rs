//! The virtual disk in a file of any format that can be converted, as a stream of extents.

mod blocks;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use futures_util::{Stream, stream};

use crate::{ByteSource, DiskExtent, Error, Format, Qcow2Reader, Result};
use blocks::BlockReader;

/// Reads the disk in a raw, qcow2, VMDK (one file), VHD, VHDX or VDI file.
///
/// An image that refers to another file, has a parent, or uses features that are not known is
/// refused. Holds one page of a table (64 KiB) and one piece of data.
pub struct DiskReader<S>(Reader<S>);

enum Reader<S> {
    Qcow2(Box<Qcow2Reader<S>>),
    Blocks(Box<BlockReader<S>>),
}

impl<S: ByteSource> DiskReader<S> {
    /// Opens a file of a format that is known already: see [`Inspector`](crate::Inspector).
    /// Errors: [`Error::Invalid`] for a format that has no reader; else what the file is refused
    /// for.
    pub async fn open(source: S, format: Format) -> Result<Self> {
        let (size_bytes, table) = match format {
            Format::Qcow2 => {
                let reader = Qcow2Reader::open(source).await?;
                return Ok(DiskReader(Reader::Qcow2(Box::new(reader))));
            }
            Format::Raw | Format::Gpt | Format::Mbr | Format::Iso => {
                (source.len(), blocks::Table::Plain { offset: 0 })
            }
            Format::Vmdk => vmdk::open(&source).await?,
            Format::Vhd => vhd::open(&source).await?,
            Format::Vhdx => vhdx::open(&source).await?,
            Format::Vdi => vdi::open(&source).await?,
            Format::Qcow | Format::Qed | Format::Luks | Format::Ploop => {
                return Err(Error::Invalid(format!("{format} cannot be converted")));
            }
        };
        let reader = BlockReader::new(source, size_bytes, table)?;
        Ok(DiskReader(Reader::Blocks(Box::new(reader))))
    }

    pub fn virtual_size_bytes(&self) -> u64 {
        match &self.0 {
            Reader::Qcow2(reader) => reader.virtual_size_bytes(),
            Reader::Blocks(reader) => reader.size_bytes(),
        }
    }

    /// The next extent; `None` at the virtual size. After an error the reader is of no use.
    pub async fn next_extent(&mut self) -> Result<Option<DiskExtent>> {
        match &mut self.0 {
            Reader::Qcow2(reader) => reader.next_extent().await,
            Reader::Blocks(reader) => reader.next_extent().await,
        }
    }

    /// The rest of the disk as a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<DiskExtent>> {
        stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next_extent().await?.map(|extent| (extent, reader)))
        })
    }
}

/// The first `length` bytes of the file, or all it has.
async fn head(source: &impl ByteSource, length: usize) -> Result<bytes::Bytes> {
    let length = usize::try_from(source.len()).map_or(length, |all| all.min(length));
    Ok(source.read_at(0, length).await?)
}

/// A range that the file must have.
async fn part(source: &impl ByteSource, offset: u64, length: usize) -> Result<bytes::Bytes> {
    if offset
        .checked_add(length as u64)
        .is_none_or(|end| end > source.len())
    {
        return Err(Error::corrupt("a table lies past the end of the file"));
    }
    Ok(source.read_at(offset, length).await?)
}

fn cut() -> Error {
    Error::corrupt("the file is cut")
}
