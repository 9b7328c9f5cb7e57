//! The bytes on the disk: `docs/store-format.md` draws them. Numbers are little-endian.
//!
//! Parsers take any bytes, and answer `None` for what is not what they look for.

pub(super) mod batch;
pub(super) mod node;
pub(super) mod state;
pub(super) mod superblock;

use super::buffer::UNIT_BYTES;

/// Number of a 4 KiB unit in the chunk files; 0 means none.
pub(crate) type Unit = u64;

/// Units of a chunk file: 1 GiB.
pub(crate) const CHUNK_UNITS: u64 = 1 << 18;
/// Units at the start of a chunk file that hold its space map, in two slots.
pub(crate) const SPACE_MAP_UNITS: u64 = 2 * CHUNK_UNITS / UNIT_BYTES as u64;
/// Units that one unit of a space map counts.
pub(crate) const COUNTED_UNITS: u64 = UNIT_BYTES as u64;
/// Units are numbers below this: 40 bits.
pub(crate) const MAX_UNITS: u64 = 1 << 40;

/// Reads numbers and texts one after another.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// 48 bits.
    pub(crate) fn u48(&mut self) -> Option<u64> {
        let [a, b, c, d, e, f] = self.array()?;
        Some(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        let length = self.u32()?;
        let text = self.bytes(length as usize)?;
        Some(std::str::from_utf8(text).ok()?.to_owned())
    }

    /// A count of things that take at least `least_bytes` each: what is there can hold them.
    pub(crate) fn count(&mut self, least_bytes: usize) -> Option<usize> {
        let count = self.u32()? as usize;
        (count.checked_mul(least_bytes)? <= self.0.len()).then_some(count)
    }
}

/// Where numbers and texts are put, one after another.
pub(crate) trait Put {
    fn put_bytes(&mut self, bytes: &[u8]);

    fn put_8(&mut self, number: u8) {
        self.put_bytes(&[number]);
    }

    fn put_32(&mut self, number: u32) {
        self.put_bytes(&number.to_le_bytes());
    }

    fn put_48(&mut self, number: u64) {
        let [a, b, c, d, e, f, _, _] = number.to_le_bytes();
        self.put_bytes(&[a, b, c, d, e, f]);
    }

    fn put_64(&mut self, number: u64) {
        self.put_bytes(&number.to_le_bytes());
    }

    fn put_text(&mut self, text: &str) {
        self.put_32(text.len() as u32);
        self.put_bytes(text.as_bytes());
    }
}

impl Put for Vec<u8> {
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts what would be put.
#[derive(Default)]
pub(super) struct Length(pub(super) u64);

impl Put for Length {
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::super::buffer::{UNIT_BYTES, crc};
    use super::super::records::{CatalogueChange as C, Record};
    use super::batch::{BatchHeader, header_units};
    use super::node::Node;
    use super::state::Saved;
    use super::superblock::{Found, LaterParts, LogPart, Superblock};
    use super::*;
    use crate::ImageSpec;

    fn record() -> impl Strategy<Value = Record> {
        let text = "[a-z]{0,40}";
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
        let crcs = prop::collection::vec(any::<u32>(), 1..40);
        (0..19u8, numbers, text, text, crcs).prop_map(|(kind, (id, snapshot, more), a, b, crcs)| {
            let spec = ImageSpec::new(a.clone(), b.clone());
            let change = match kind {
                0 => {
                    let unit = snapshot % MAX_UNITS;
                    return Record::Data {
                        image: id,
                        block: more,
                        unit,
                        crcs,
                    };
                }
                1 => {
                    return Record::Zero {
                        image: id,
                        block: snapshot,
                        count: more,
                    };
                }
                2 => C::CreatePool { pool: a },
                3 => C::CreateImage {
                    id,
                    spec,
                    size_bytes: more,
                },
                4 => C::RemoveImage { id },
                5 => C::Rename { id, name: a },
                6 => C::Resize {
                    id,
                    size_bytes: more,
                },
                7 => C::CreateSnapshot {
                    id,
                    snapshot,
                    name: a,
                },
                8 => C::Protect {
                    id,
                    snapshot,
                    protected: more % 2 == 0,
                },
                9 => C::RemoveSnapshot { id, snapshot },
                10 => C::RollBack { id, snapshot },
                11 => C::Clone {
                    id,
                    spec,
                    parent: more,
                    snapshot,
                },
                12 => C::Flatten { id },
                13 => C::SetMetadata {
                    id,
                    key: a,
                    value: b,
                },
                14 => C::RemoveMetadata { id, key: a },
                15 => C::CreateHidden {
                    id,
                    size_bytes: more,
                },
                16 => C::PutObject {
                    id,
                    pool: a,
                    name: b,
                },
                17 => C::RemoveObject { pool: a, name: b },
                _ => C::RenameSnapshot {
                    id,
                    snapshot,
                    name: a,
                },
            };
            Record::Change(change)
        })
    }

    proptest! {
        #[test]
        fn batches_come_back(records in prop::collection::vec(record(), 0..30), numbers in any::<[u64; 4]>(), flip in any::<(usize, u8)>()) {
            let [epoch, sequence, next, durable] = numbers;
            let header = BatchHeader { epoch, sequence, next, durable, records };
            let mut bytes = bytes::BytesMut::new();
            header.put(&mut bytes);
            let length = BatchHeader::length(&bytes, epoch, sequence).unwrap();
            prop_assert_eq!(header_units(length - 48), (bytes.len() / UNIT_BYTES) as u64);
            prop_assert_eq!(BatchHeader::from_bytes(&bytes), Some(header));
            let mut broken = bytes.to_vec();
            broken[flip.0 % length] ^= flip.1 | 1;
            prop_assert_eq!(BatchHeader::from_bytes(&broken), None);
        }

        #[test]
        fn superblocks_come_back(numbers in any::<[u64; 5]>(), fsid in any::<[u8; 16]>(), state_crc: u32, clean: bool, parts in 0..65u64, flip in any::<(usize, u8)>()) {
            let [checkpoint, epoch, start, sequence, state_bytes] = numbers;
            let log = LogPart { epoch, start, sequence };
            let mut later = LaterParts::default();
            for part in 0..parts {
                later.push(LogPart { epoch: part, start: part + 1, sequence }).unwrap();
            }
            let superblock = Superblock { fsid, checkpoint, log, later, state_bytes, state_crc, clean };
            let mut bytes = superblock.to_bytes().to_vec();
            prop_assert_eq!(bytes.len(), UNIT_BYTES);
            prop_assert_eq!(Superblock::from_bytes(&bytes), Found::Sound(Box::new(superblock)));
            bytes[flip.0 % UNIT_BYTES] ^= flip.1 | 1;
            prop_assert_eq!(Superblock::from_bytes(&bytes), Found::Broken);
        }

        #[test]
        fn pages_come_back(entries in prop::collection::vec((0..MAX_UNITS, any::<u32>(), 0..1u64 << 48), 256)) {
            for level in [0, 1] {
                let mut node = Node::empty(level);
                for (index, (unit, sum, mapped)) in entries.iter().enumerate() {
                    match &mut node {
                        Node::Leaf(leaf) => (leaf.units[index], leaf.crcs[index]) = (*unit, *sum),
                        Node::Inner(inner) => {
                            (inner.pages[index], inner.crcs[index], inner.mapped[index]) = (*unit, *sum, *mapped);
                        }
                    }
                }
                let bytes = node.to_bytes();
                prop_assert_eq!(Node::from_bytes(&bytes, level), Some(node));
            }
        }

        #[test]
        fn any_bytes_are_something_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let _ = (Saved::from_bytes(&bytes), Superblock::from_bytes(&bytes), BatchHeader::from_bytes(&bytes));
            let _ = (Node::from_bytes(&bytes, 0), Node::from_bytes(&bytes, 3), BatchHeader::length(&bytes, 1, 1));
            // Behind a checksum that holds.
            let mut batch = b"BLOG\0\0\0\0".to_vec();
            batch.extend([0; 32]);
            batch.put_32(48 + bytes.len() as u32);
            batch.put_32(u32::from(bytes.first().copied().unwrap_or(0)));
            batch.extend(&bytes);
            let sum = crc(&batch).to_le_bytes();
            batch[4..8].copy_from_slice(&sum);
            let _ = BatchHeader::from_bytes(&batch);
        }
    }
}
