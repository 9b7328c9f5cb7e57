//! The one file in a zip archive (PKWARE's APPNOTE, sections 4.3 and 4.5.3).
//!
//! The archive is read as its directory at the end says, which is what other readers do: what
//! lies beside it is not looked at.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use flate2::Crc;
use flate2::bufread::DeflateDecoder;

use super::{BUFFER_BYTES, damaged, unsupported};
use crate::endian::{le_u16, le_u32, le_u64};

const END_BYTES: usize = 22;
/// The end of the directory may be followed by a comment of this length.
const COMMENT_BYTES_MAX: usize = u16::MAX as usize;
const END64_LOCATOR_BYTES: usize = 20;
const END64_BYTES: usize = 56;
const ENTRY_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;
/// Stands in a field of 32 bits for a value that is in the entry's extra field.
const IN_EXTRA: u64 = u32::MAX as u64;

pub fn open<R: Read + Seek + Send + 'static>(mut source: R) -> io::Result<Box<dyn Read + Send>> {
    let directory = Directory::find(&mut source)?;
    if directory.entries != 1 {
        return Err(unsupported(format!(
            "the archive holds {} files instead of one",
            directory.entries
        )));
    }
    let entry = Entry::read(&mut source, directory.offset)?;
    let local = part(&mut source, entry.local_offset, LOCAL_BYTES)?;
    if !local.starts_with(b"PK\x03\x04") {
        return Err(damaged("the file's header is missing"));
    }
    let names = [26, 28].map(|at| u64::from(le_u16(&local, at).unwrap_or_default()));
    let start = names
        .into_iter()
        .try_fold(LOCAL_BYTES as u64, u64::checked_add)
        .and_then(|length| length.checked_add(entry.local_offset))
        .ok_or_else(|| damaged("an offset is too large"))?;
    source.seek(SeekFrom::Start(start))?;
    let packed = BufReader::with_capacity(BUFFER_BYTES, source.take(entry.packed_bytes));
    match entry.method {
        0 => Ok(Box::new(Checked::new(packed, &entry))),
        8 => Ok(Box::new(Checked::new(DeflateDecoder::new(packed), &entry))),
        method => Err(unsupported(format!(
            "the file is packed by method {method}, which is not known"
        ))),
    }
}

/// The list of the files.
struct Directory {
    entries: u64,
    offset: u64,
}

impl Directory {
    fn find<R: Read + Seek>(source: &mut R) -> io::Result<Self> {
        let missing = || damaged("it has no directory");
        let length = source.seek(SeekFrom::End(0))?;
        let tail_bytes = length.min((END_BYTES + COMMENT_BYTES_MAX) as u64) as usize;
        let tail = part(source, length - tail_bytes as u64, tail_bytes)?;
        let last = tail.len().checked_sub(END_BYTES).ok_or_else(missing)?;
        let is_end = |at: &usize| {
            let end = tail.get(*at..).unwrap_or_default();
            let comment = le_u16(end, 20).map(usize::from);
            end.starts_with(b"PK\x05\x06") && comment == end.len().checked_sub(END_BYTES)
        };
        let at = (0..=last).rev().find(is_end).ok_or_else(missing)?;
        let end = tail.get(at..).unwrap_or_default();
        let entries = u64::from(le_u16(end, 10).ok_or_else(missing)?);
        let offset = u64::from(le_u32(end, 16).ok_or_else(missing)?);
        if entries != u64::from(u16::MAX) && offset != IN_EXTRA {
            return Ok(Directory { entries, offset });
        }
        let at = length - tail_bytes as u64 + at as u64;
        let locator = at.checked_sub(END64_LOCATOR_BYTES as u64);
        let locator = part(source, locator.ok_or_else(missing)?, END64_LOCATOR_BYTES)?;
        if !locator.starts_with(b"PK\x06\x07") {
            return Err(missing());
        }
        let at = le_u64(&locator, 8).ok_or_else(missing)?;
        let end = part(source, at, END64_BYTES)?;
        if !end.starts_with(b"PK\x06\x06") {
            return Err(missing());
        }
        Ok(Directory {
            entries: le_u64(&end, 32).ok_or_else(missing)?,
            offset: le_u64(&end, 48).ok_or_else(missing)?,
        })
    }
}

/// What the directory says of the file.
struct Entry {
    method: u16,
    crc: u32,
    packed_bytes: u64,
    size_bytes: u64,
    local_offset: u64,
}

impl Entry {
    fn read<R: Read + Seek>(source: &mut R, offset: u64) -> io::Result<Self> {
        let cut = || damaged("its directory is cut");
        let entry = part(source, offset, ENTRY_BYTES)?;
        if !entry.starts_with(b"PK\x01\x02") {
            return Err(damaged("its directory is missing"));
        }
        let flags = le_u16(&entry, 8).ok_or_else(cut)?;
        if flags & 1 != 0 {
            return Err(unsupported("the file is encrypted"));
        }
        let name_bytes = le_u16(&entry, 28).ok_or_else(cut)?;
        let extra_bytes = le_u16(&entry, 30).ok_or_else(cut)?;
        let extra_at = offset
            .checked_add(ENTRY_BYTES as u64 + u64::from(name_bytes))
            .ok_or_else(cut)?;
        let extra = part(source, extra_at, extra_bytes.into())?;
        let mut large = zip64_values(&extra);
        // The extra field has the values that do not fit, in this order.
        let mut wide = |at: usize| match le_u32(&entry, at).map(u64::from) {
            Some(IN_EXTRA) => large.next().ok_or_else(cut),
            value => value.ok_or_else(cut),
        };
        Ok(Entry {
            size_bytes: wide(24)?,
            packed_bytes: wide(20)?,
            local_offset: wide(42)?,
            method: le_u16(&entry, 10).ok_or_else(cut)?,
            crc: le_u32(&entry, 16).ok_or_else(cut)?,
        })
    }
}

/// The numbers of the extra field 1; none where it is missing or cut.
fn zip64_values(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut values: &[u8] = &[];
    while let (Some(id), Some(length)) = (le_u16(extra, 0), le_u16(extra, 2)) {
        let end = 4 + usize::from(length);
        let Some(value) = extra.get(4..end) else {
            break;
        };
        if id == 1 {
            values = value;
            break;
        }
        extra = extra.get(end..).unwrap_or_default();
    }
    values.chunks_exact(8).filter_map(|value| le_u64(value, 0))
}

fn part<R: Read + Seek>(source: &mut R, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    source.seek(SeekFrom::Start(offset))?;
    let mut data = vec![0; length];
    source.read_exact(&mut data)?;
    Ok(data)
}

/// Ends as the directory says, or with an error.
struct Checked<R> {
    inner: R,
    crc: Crc,
    expected_crc: u32,
    left_bytes: u64,
}

impl<R: Read> Checked<R> {
    fn new(inner: R, entry: &Entry) -> Self {
        Checked {
            inner,
            crc: Crc::new(),
            expected_crc: entry.crc,
            left_bytes: entry.size_bytes,
        }
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        let read = buffer.get(..length).unwrap_or_default();
        self.crc.update(read);
        let left = self.left_bytes.checked_sub(length as u64);
        self.left_bytes = left.ok_or_else(|| damaged("the file is longer than it says"))?;
        if length == 0 && !buffer.is_empty() {
            if self.left_bytes > 0 {
                return Err(damaged("the file is cut"));
            }
            if self.crc.sum() != self.expected_crc {
                return Err(damaged("the checksum is wrong"));
            }
        }
        Ok(length)
    }
}
