//! The header and its extensions.

use crate::endian::{be_u32, be_u64};
use crate::{Error, Result};

/// How many first bytes of a file the parser needs at most. A longer header is refused.
pub(crate) const HEADER_BYTES: usize = 64 * 1024;

const VERSION_2_LENGTH: usize = 72;
const VERSION_3_LENGTH: usize = 104;
/// QEMU's own limit: 32 MiB.
const MAX_L1_ENTRIES: u64 = 4 * 1024 * 1024;
/// QEMU addresses a disk with 63 bits.
const MAX_DISK_BYTES: u64 = i64::MAX as u64;

mod feature {
    pub const DIRTY: u64 = 1 << 0;
    pub const CORRUPT: u64 = 1 << 1;
    pub const DATA_FILE: u64 = 1 << 2;
    pub const COMPRESSION: u64 = 1 << 3;
    pub const EXTENDED_L2: u64 = 1 << 4;
    /// A dirty image has only stale reference counts, which a reader does not use.
    pub const READABLE: u64 = DIRTY | COMPRESSION | EXTENDED_L2;
}

mod extension {
    pub const END: u32 = 0;
    pub const DATA_FILE_NAME: u32 = 0x4441_5441;
    pub const ENCRYPTION: u32 = 0x0537_be77;
}

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Raw deflate without the zlib header, in spite of the name.
    Zlib,
    Zstd,
}

/// A header that describes an image that this crate can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub version: u32,
    pub cluster_bits: u32,
    pub virtual_size_bytes: u64,
    pub l1_offset: u64,
    pub extended_l2: bool,
    pub compression: Compression,
}

impl Header {
    /// Parses the first [`HEADER_BYTES`] bytes of the file, or all, if it has fewer. Refuses what
    /// refers to another file, is encrypted, or uses features that are not known.
    pub fn parse(head: &[u8]) -> Result<Header> {
        if !head.starts_with(b"QFI\xfb") {
            return Err(Error::NotQcow2);
        }
        let version = u32_at(head, 4)?;
        if !matches!(version, 2 | 3) {
            return Err(Error::NotQcow2);
        }
        if u64_at(head, 8)? != 0 {
            return Err(Error::BackingFile);
        }
        if u32_at(head, 32)? != 0 {
            return Err(Error::Encrypted);
        }
        let cluster_bits = u32_at(head, 20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(Error::corrupt(format!(
                "clusters of 2^{cluster_bits} bytes"
            )));
        }
        let virtual_size_bytes = u64_at(head, 24)?;
        if virtual_size_bytes > MAX_DISK_BYTES {
            return Err(Error::corrupt("the virtual size is too large"));
        }
        let mut header = Header {
            version,
            cluster_bits,
            virtual_size_bytes,
            l1_offset: u64_at(head, 40)?,
            extended_l2: false,
            compression: Compression::Zlib,
        };
        let mut header_length = VERSION_2_LENGTH;
        if version == 3 {
            header_length = header.parse_version_3(head)?;
        }
        check_extensions(head, header_length, header.cluster_size())?;
        header.check_l1(u32_at(head, 36)?)?;
        Ok(header)
    }

    /// The fields that version 3 added; gives the header's length.
    fn parse_version_3(&mut self, head: &[u8]) -> Result<usize> {
        let features = u64_at(head, 72)?;
        if features & feature::DATA_FILE != 0 {
            return Err(Error::ExternalDataFile);
        }
        if features & feature::CORRUPT != 0 {
            return Err(Error::corrupt("it is marked as corrupt"));
        }
        if features & !feature::READABLE != 0 {
            return Err(Error::UnknownFeatures(features & !feature::READABLE));
        }
        if u32_at(head, 96)? > 6 {
            return Err(Error::corrupt("reference counts wider than 64 bits"));
        }
        let length = u32_at(head, 100)? as usize;
        if length < VERSION_3_LENGTH || !length.is_multiple_of(8) || length > HEADER_BYTES {
            return Err(Error::corrupt(format!("a header of {length} bytes")));
        }
        if length > VERSION_3_LENGTH {
            self.compression = match head.get(VERSION_3_LENGTH) {
                Some(0) => Compression::Zlib,
                Some(1) => Compression::Zstd,
                _ => return Err(Error::corrupt("an unknown compression type")),
            };
        }
        if (self.compression == Compression::Zstd) != (features & feature::COMPRESSION != 0) {
            return Err(Error::corrupt(
                "compression type and feature bit contradict each other",
            ));
        }
        self.extended_l2 = features & feature::EXTENDED_L2 != 0;
        if self.extended_l2 && self.cluster_bits < 14 {
            return Err(Error::corrupt(
                "subclusters need clusters of at least 16 KiB",
            ));
        }
        Ok(length)
    }

    fn check_l1(&self, l1_entries: u32) -> Result<()> {
        let needed = self.l1_entries();
        if needed > MAX_L1_ENTRIES {
            return Err(Error::corrupt("the L1 table would be larger than 32 MiB"));
        }
        if u64::from(l1_entries) < needed {
            return Err(Error::corrupt(
                "the L1 table does not cover the virtual size",
            ));
        }
        if self.l1_offset & (self.cluster_size() - 1) != 0 {
            return Err(Error::corrupt("the L1 table does not start at a cluster"));
        }
        Ok(())
    }

    /// Checks that what the header points to lies in a file of that length.
    pub fn check_file_length(&self, length_bytes: u64) -> Result<()> {
        // At most 4 Mi entries, and an offset far from the end of u64 or caught by the checked add.
        let end = self.l1_offset.checked_add(self.l1_entries() * 8);
        if end.is_none_or(|end| end > length_bytes) {
            return Err(Error::corrupt("the L1 table lies past the end of the file"));
        }
        Ok(())
    }

    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub fn l2_entry_size(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Bytes of the virtual disk that one L2 table maps.
    pub fn l2_coverage(&self) -> u64 {
        // At most 2^21 * 2^18.
        self.cluster_size() * (self.cluster_size() / self.l2_entry_size())
    }

    /// Entries of the L1 table that the virtual size needs.
    pub fn l1_entries(&self) -> u64 {
        self.virtual_size_bytes.div_ceil(self.l2_coverage())
    }
}

/// Walks the header extensions, which end in the first cluster.
fn check_extensions(head: &[u8], header_length: usize, cluster_size: u64) -> Result<()> {
    let end = usize::try_from(cluster_size)
        .unwrap_or(usize::MAX)
        .min(HEADER_BYTES);
    let mut offset = header_length;
    // Each round moves on by at least 8 bytes.
    while offset.saturating_add(8) <= end {
        let kind = u32_at(head, offset)?;
        let length = u32_at(head, offset + 4)? as usize;
        match kind {
            extension::END => return Ok(()),
            extension::DATA_FILE_NAME => return Err(Error::ExternalDataFile),
            extension::ENCRYPTION => return Err(Error::Encrypted),
            _ => {}
        }
        offset = offset
            .saturating_add(8)
            .saturating_add(length.saturating_add(7) & !7);
    }
    if offset > end {
        return Err(Error::corrupt(
            "the header extensions pass the first cluster",
        ));
    }
    Ok(())
}

fn u32_at(head: &[u8], offset: usize) -> Result<u32> {
    be_u32(head, offset).ok_or_else(cut)
}

fn u64_at(head: &[u8], offset: usize) -> Result<u64> {
    be_u64(head, offset).ok_or_else(cut)
}

fn cut() -> Error {
    Error::corrupt("the file ends in the header")
}
