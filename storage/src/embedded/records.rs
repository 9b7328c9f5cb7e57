//! The records of the catalogue, byte by byte.
//!
//! Keys start with a letter. Numbers in keys are big-endian u64, in values little-endian; a text
//! in a value is a u16 length and UTF-8. `\0` cannot be part of a name.
//!
//! | Key | Value |
//! |---|---|
//! | `V` | format u32, fsid 36 bytes, next id u64, clean u8 |
//! | `P` pool | |
//! | `N` pool `\0` image | image id |
//! | `I` image | pool, name, parent image, parent snapshot (0: none) |
//! | `H` image | head: size, root node, height u8, mapped blocks |
//! | `S` image, snapshot | size, root node, height u8, mapped blocks, protected u8, name |
//! | `L` parent image, parent snapshot, child image | |
//! | `M` image, key | metadata value |
//! | `O` pool `\0` object | data |
//! | `D` sequence | dropped node, level u8 |
//! | `C` chunk | used blocks of its 256 groups, u16 each |

use super::table::corrupt;
use super::tree::Root;
use crate::{Error, ImageSpec, Result};

pub(super) const FORMAT: u32 = 1;

/// Reads a value's fields in order.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = u16::from_le_bytes(self.bytes()?);
        let (text, rest) = self.0.split_at_checked(length.into())?;
        self.0 = rest;
        Some(std::str::from_utf8(text).ok()?.to_owned())
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The first key behind all that start with `prefix`.
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end
}

pub(super) fn key(letter: u8, numbers: &[u64]) -> Vec<u8> {
    let mut key = vec![letter];
    key.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    key
}

pub(super) fn name_key(letter: u8, pool: &str, name: &str) -> Vec<u8> {
    [&[letter], pool.as_bytes(), b"\0", name.as_bytes()].concat()
}

pub(super) fn number_at(key: &[u8], index: usize) -> Result<u64> {
    let at = 1 + 8 * index;
    let bytes = key.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(u64::from_be_bytes)
        .ok_or_else(|| corrupt(format!("key {key:02x?}")))
}

/// Record `V`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) format: u32,
    pub(super) fsid: String,
    pub(super) next_id: u64,
    /// The store was closed, and no block file holds space that the catalogue knows nothing of.
    pub(super) clean: bool,
}

impl Superblock {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.format.to_le_bytes().to_vec();
        out.extend(self.fsid.as_bytes());
        out.extend(self.next_id.to_le_bytes());
        out.push(self.clean.into());
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let format = u32::from_le_bytes(fields.bytes()?);
        let fsid = std::str::from_utf8(&fields.bytes::<36>()?).ok()?.to_owned();
        let (next_id, clean) = (fields.u64()?, fields.u8()? == 1);
        Some(Superblock {
            format,
            fsid,
            next_id,
            clean,
        })
    }
}

/// Record `I`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageRecord {
    pub(super) spec: ImageSpec,
    /// Image and snapshot.
    pub(super) parent: Option<(u64, u64)>,
}

impl ImageRecord {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        push_text(&mut out, &self.spec.pool);
        push_text(&mut out, &self.spec.image);
        let (image, snapshot) = self.parent.unwrap_or_default();
        out.extend(image.to_le_bytes());
        out.extend(snapshot.to_le_bytes());
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let spec = ImageSpec::new(fields.text()?, fields.text()?);
        let parent = (fields.u64()?, fields.u64()?);
        fields.end()?;
        let parent = (parent.0 != 0).then_some(parent);
        Some(ImageRecord { spec, parent })
    }
}

/// Record `H`, and the beginning of `S`: what an image or snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Disk {
    pub(super) size_bytes: u64,
    pub(super) root: Root,
}

impl Disk {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = self.size_bytes.to_le_bytes().to_vec();
        out.extend(self.root.node.to_le_bytes());
        out.push(self.root.height);
        out.extend(self.root.mapped.to_le_bytes());
        out
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let size_bytes = fields.u64()?;
        let (node, height, mapped) = (fields.u64()?, fields.u8()?, fields.u64()?);
        let root = Root {
            node,
            height,
            mapped,
        };
        Some(Disk { size_bytes, root })
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let disk = Self::read(&mut fields)?;
        fields.end().map(|()| disk)
    }
}

/// Record `S`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SnapshotRecord {
    pub(super) id: u64,
    pub(super) disk: Disk,
    pub(super) protected: bool,
    pub(super) name: String,
}

impl SnapshotRecord {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.disk.to_bytes();
        out.push(self.protected.into());
        push_text(&mut out, &self.name);
        out
    }

    pub(super) fn from_bytes(id: u64, bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let disk = Disk::read(&mut fields)?;
        let (protected, name) = (fields.u8()? == 1, fields.text()?);
        fields.end()?;
        Some(SnapshotRecord {
            id,
            disk,
            protected,
            name,
        })
    }
}

pub(super) fn broken(what: &str, id: u64) -> Error {
    corrupt(format!("the record of {what} {id}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_come_back(pool in "[a-z]{1,255}", name in ".{0,60}", numbers in any::<[u64; 4]>(), flag: bool) {
            let [id, size_bytes, node, mapped] = numbers;
            let parent = flag.then_some((id.max(1), node));
            let image = ImageRecord { spec: ImageSpec::new(pool, &name), parent };
            prop_assert_eq!(ImageRecord::from_bytes(&image.to_bytes()), Some(image));
            let disk = Disk { size_bytes, root: Root { node, height: 3, mapped } };
            prop_assert_eq!(Disk::from_bytes(&disk.to_bytes()), Some(disk));
            let snapshot = SnapshotRecord { id, disk, protected: flag, name };
            prop_assert_eq!(SnapshotRecord::from_bytes(id, &snapshot.to_bytes()), Some(snapshot));
        }

        #[test]
        fn any_bytes_are_a_record_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (ImageRecord::from_bytes(&bytes), SnapshotRecord::from_bytes(1, &bytes), Superblock::from_bytes(&bytes));
        }
    }

    #[test]
    fn a_prefix_ends_behind_its_keys() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
    }
}
