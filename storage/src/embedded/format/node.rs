//! Pages of the trees: 256 entries each, one unit on the disk, checked by the CRC in the parent.

use super::super::buffer::UNIT_BYTES;
use super::{Fields, Unit};

/// Entries of a page.
pub(crate) const FANOUT: usize = 256;

/// Level 0: where blocks are. Unit 0: a hole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Leaf {
    pub(crate) units: [Unit; FANOUT],
    pub(crate) crcs: [u32; FANOUT],
}

/// Higher levels: where pages are, and how many blocks are mapped below each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Inner {
    pub(crate) pages: [Unit; FANOUT],
    pub(crate) crcs: [u32; FANOUT],
    pub(crate) mapped: [u64; FANOUT],
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Node {
    Leaf(Box<Leaf>),
    Inner(Box<Inner>),
}

impl Node {
    pub(crate) fn empty(level: u8) -> Self {
        match level {
            0 => Node::Leaf(Box::new(Leaf {
                units: [0; FANOUT],
                crcs: [0; FANOUT],
            })),
            _ => Node::Inner(Box::new(Inner {
                pages: [0; FANOUT],
                crcs: [0; FANOUT],
                mapped: [0; FANOUT],
            })),
        }
    }

    /// What the entries point to.
    pub(crate) fn targets(&self) -> &[Unit; FANOUT] {
        match self {
            Node::Leaf(leaf) => &leaf.units,
            Node::Inner(inner) => &inner.pages,
        }
    }

    /// One unit: an entry takes 10 or 16 bytes.
    pub(crate) fn to_bytes(&self) -> [u8; UNIT_BYTES] {
        let mut bytes = [0u8; UNIT_BYTES];
        match self {
            Node::Leaf(leaf) => {
                let entries = leaf.units.iter().zip(&leaf.crcs);
                for (at, (unit, crc)) in bytes.chunks_exact_mut(10).zip(entries) {
                    at[..6].copy_from_slice(&unit.to_le_bytes()[..6]);
                    at[6..].copy_from_slice(&crc.to_le_bytes());
                }
            }
            Node::Inner(inner) => {
                let entries = inner.pages.iter().zip(&inner.crcs).zip(&inner.mapped);
                for (at, ((page, crc), mapped)) in bytes.chunks_exact_mut(16).zip(entries) {
                    at[..6].copy_from_slice(&page.to_le_bytes()[..6]);
                    at[6..10].copy_from_slice(&crc.to_le_bytes());
                    at[10..].copy_from_slice(&mapped.to_le_bytes()[..6]);
                }
            }
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8], level: u8) -> Option<Self> {
        let mut node = Self::empty(level);
        let mut fields = Fields(bytes.get(..UNIT_BYTES)?);
        for index in 0..FANOUT {
            match &mut node {
                Node::Leaf(leaf) => {
                    leaf.units[index] = fields.u48()?;
                    leaf.crcs[index] = fields.u32()?;
                }
                Node::Inner(inner) => {
                    inner.pages[index] = fields.u48()?;
                    inner.crcs[index] = fields.u32()?;
                    inner.mapped[index] = fields.u48()?;
                }
            }
        }
        Some(node)
    }
}
