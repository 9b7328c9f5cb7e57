//! Reading the virtual disk from its start to its end.

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;

use super::header::{HEADER_BYTES, Header};
use super::mapping::{L2Table, Mapping, Run};
use super::piece::read_piece;
use super::{DiskExtent, MAX_PIECE_BYTES, OFFSET_MASK};
use crate::endian::be_u64;
use crate::{ByteSource, Error, Result};

/// The longest zero extent: bounds the time between two extents.
const MAX_ZERO_BYTES: u64 = 1024 * 1024 * 1024;
/// Entries of the L1 table that are read at once: 64 KiB.
const L1_PAGE_ENTRIES: u64 = 8192;

/// Reads a qcow2 image as a stream of extents.
pub struct Qcow2Reader<S> {
    source: S,
    header: Header,
    /// Where the next run starts on the virtual disk.
    position: u64,
    /// A run that was looked at but belongs to the next extent.
    next_run: Option<Run>,
    l1_page: Option<(u64, Bytes)>,
    l2_table: Option<L2Table>,
}

impl<S: ByteSource> Qcow2Reader<S> {
    /// Reads and checks the header. Errors: everything that [`Error`] names but `Invalid`.
    pub async fn open(source: S) -> Result<Self> {
        let length = source.len().min(HEADER_BYTES as u64) as usize;
        let header = Header::parse(&source.read_at(0, length).await?)?;
        header.check_file_length(source.len())?;
        Ok(Qcow2Reader {
            source,
            header,
            position: 0,
            next_run: None,
            l1_page: None,
            l2_table: None,
        })
    }

    pub fn virtual_size_bytes(&self) -> u64 {
        self.header.virtual_size_bytes
    }

    /// The next extent; `None` at the virtual size. After an error the reader is of no use.
    pub async fn next_extent(&mut self) -> Result<Option<DiskExtent>> {
        let Some(first) = self.take_run().await? else {
            return Ok(None);
        };
        if first.mapping == Mapping::Zero {
            return Ok(Some(self.zero_extent(first).await?));
        }
        let mut length = first.length;
        let mut runs = vec![first];
        while let Some(run) = self.take_run().await? {
            if run.mapping == Mapping::Zero || length + run.length > MAX_PIECE_BYTES as u64 {
                self.next_run = Some(run);
                break;
            }
            length += run.length;
            join(&mut runs, run);
        }
        let cluster_size = self.header.cluster_size() as usize;
        let data = read_piece(&self.source, runs, cluster_size, self.header.compression).await?;
        Ok(Some(DiskExtent::Data {
            offset: first.offset,
            data,
        }))
    }

    /// The rest of the disk as a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<DiskExtent>> {
        stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next_extent().await?.map(|extent| (extent, reader)))
        })
    }

    async fn zero_extent(&mut self, first: Run) -> Result<DiskExtent> {
        let mut length = first.length;
        while length < MAX_ZERO_BYTES {
            match self.take_run().await? {
                Some(run) if run.mapping == Mapping::Zero => length += run.length,
                other => {
                    self.next_run = other;
                    break;
                }
            }
        }
        // An empty L1 entry may cover more than an extent may have.
        if length > MAX_ZERO_BYTES {
            let offset = first.offset + MAX_ZERO_BYTES;
            self.next_run = Some(Run {
                offset,
                length: length - MAX_ZERO_BYTES,
                mapping: Mapping::Zero,
            });
            length = MAX_ZERO_BYTES;
        }
        Ok(DiskExtent::Zero {
            offset: first.offset,
            length,
        })
    }

    /// The next run, which ends at the virtual size at the latest.
    async fn take_run(&mut self) -> Result<Option<Run>> {
        if let Some(run) = self.next_run.take() {
            return Ok(Some(run));
        }
        let left = self.header.virtual_size_bytes.saturating_sub(self.position);
        if left == 0 {
            return Ok(None);
        }
        let coverage = self.header.l2_coverage();
        let l2_offset = self.l2_offset(self.position / coverage).await?;
        let mut run = if l2_offset == 0 {
            let length = coverage - self.position % coverage;
            Run {
                offset: self.position,
                length,
                mapping: Mapping::Zero,
            }
        } else {
            self.load_l2(l2_offset).await?;
            let table = self
                .l2_table
                .as_ref()
                .ok_or_else(|| Error::corrupt("no L2 table"))?;
            table.run_at(&self.header, self.position, self.source.len())?
        };
        run.length = run.length.min(left);
        self.position += run.length;
        Ok(Some(run))
    }

    /// The host offset of an L2 table; 0: there is none.
    async fn l2_offset(&mut self, index: u64) -> Result<u64> {
        let page_number = index / L1_PAGE_ENTRIES;
        let page = match &self.l1_page {
            Some((number, page)) if *number == page_number => page,
            _ => {
                let first = page_number * L1_PAGE_ENTRIES;
                let entries = (self.header.l1_entries() - first).min(L1_PAGE_ENTRIES);
                let offset = self.header.l1_offset + first * 8;
                let page = self.source.read_at(offset, entries as usize * 8).await?;
                &self.l1_page.insert((page_number, page)).1
            }
        };
        let entry = be_u64(page, (index % L1_PAGE_ENTRIES) as usize * 8);
        let offset = entry.ok_or_else(|| Error::corrupt("the L1 table is cut"))? & OFFSET_MASK;
        if offset & (self.header.cluster_size() - 1) != 0 {
            return Err(Error::corrupt("an L2 table does not start at a cluster"));
        }
        Ok(offset)
    }

    async fn load_l2(&mut self, host_offset: u64) -> Result<()> {
        if self
            .l2_table
            .as_ref()
            .is_some_and(|table| table.host_offset == host_offset)
        {
            return Ok(());
        }
        let length = self.header.cluster_size();
        if host_offset
            .checked_add(length)
            .is_none_or(|end| end > self.source.len())
        {
            return Err(Error::corrupt("an L2 table lies past the end of the file"));
        }
        // Dropped first: two tables of 2 MiB need not be held.
        self.l2_table = None;
        let entries = self.source.read_at(host_offset, length as usize).await?;
        self.l2_table = Some(L2Table {
            host_offset,
            entries,
        });
        Ok(())
    }
}

/// Appends a run, or lengthens the last where the file continues it.
fn join(runs: &mut Vec<Run>, run: Run) {
    if let (
        Some(Run {
            length,
            mapping: Mapping::Plain {
                host_offset: before,
            },
            ..
        }),
        Mapping::Plain { host_offset },
    ) = (runs.last_mut(), run.mapping)
        && *before + *length == host_offset
    {
        *length += run.length;
        return;
    }
    runs.push(run);
}
