//! The records of the log: every change of the store, as it is replayed.

use super::format::{Fields, Put, Unit};
use crate::ImageSpec;

/// One change. Images and snapshots have numbers that are never used again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// `crcs.len()` blocks from `block` on are in as many units from `unit` on.
    Data {
        image: u64,
        block: u64,
        unit: Unit,
        crcs: Vec<u32>,
    },
    /// The blocks read as zero.
    Zero {
        image: u64,
        block: u64,
        count: u64,
    },
    Change(CatalogueChange),
}

/// A change of the catalogue that was found possible.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CatalogueChange {
    CreatePool {
        pool: String,
    },
    CreateImage {
        id: u64,
        spec: ImageSpec,
        size_bytes: u64,
    },
    RemoveImage {
        id: u64,
    },
    Rename {
        id: u64,
        name: String,
    },
    Resize {
        id: u64,
        size_bytes: u64,
    },
    CreateSnapshot {
        id: u64,
        snapshot: u64,
        name: String,
    },
    Protect {
        id: u64,
        snapshot: u64,
        protected: bool,
    },
    RemoveSnapshot {
        id: u64,
        snapshot: u64,
    },
    RenameSnapshot {
        id: u64,
        snapshot: u64,
        name: String,
    },
    RollBack {
        id: u64,
        snapshot: u64,
    },
    Clone {
        id: u64,
        spec: ImageSpec,
        parent: u64,
        snapshot: u64,
    },
    Flatten {
        id: u64,
    },
    SetMetadata {
        id: u64,
        key: String,
        value: String,
    },
    RemoveMetadata {
        id: u64,
        key: String,
    },
    /// An image without a name, for the data of an object.
    CreateHidden {
        id: u64,
        size_bytes: u64,
    },
    /// The object's data is the hidden image's; the one that had the name goes.
    PutObject {
        id: u64,
        pool: String,
        name: String,
    },
    RemoveObject {
        pool: String,
        name: String,
    },
}

impl Record {
    /// Bytes of a data record with this many blocks.
    pub(crate) fn data_bytes(blocks: usize) -> usize {
        27 + 4 * blocks
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Record::Data {
                image,
                block,
                unit,
                crcs,
            } => {
                out.push(1);
                out.put_64(*image);
                out.put_64(*block);
                out.put_48(*unit);
                out.put_32(crcs.len() as u32);
                crcs.iter().for_each(|crc| out.put_32(*crc));
            }
            Record::Zero {
                image,
                block,
                count,
            } => {
                out.push(2);
                [image, block, count]
                    .into_iter()
                    .for_each(|number| out.put_64(*number));
            }
            Record::Change(change) => change.put(out),
        }
    }

    pub(crate) fn take(fields: &mut Fields<'_>) -> Option<Self> {
        let tag = fields.u8()?;
        Some(match tag {
            1 => {
                let (image, block, unit) = (fields.u64()?, fields.u64()?, fields.u48()?);
                let count = fields.count(4)?;
                let crcs = (0..count).map(|_| fields.u32()).collect::<Option<_>>()?;
                Record::Data {
                    image,
                    block,
                    unit,
                    crcs,
                }
            }
            2 => Record::Zero {
                image: fields.u64()?,
                block: fields.u64()?,
                count: fields.u64()?,
            },
            _ => Record::Change(CatalogueChange::take(tag, fields)?),
        })
    }
}

fn put_spec(out: &mut Vec<u8>, spec: &ImageSpec) {
    out.put_text(&spec.pool);
    out.put_text(&spec.image);
}

fn take_spec(fields: &mut Fields<'_>) -> Option<ImageSpec> {
    Some(ImageSpec::new(fields.text()?, fields.text()?))
}

impl CatalogueChange {
    fn put(&self, out: &mut Vec<u8>) {
        let mut numbers = |tag: u8, numbers: &[u64]| {
            out.push(tag);
            numbers.iter().for_each(|number| out.put_64(*number));
        };
        match self {
            Self::CreatePool { pool } => {
                numbers(3, &[]);
                out.put_text(pool);
            }
            Self::CreateImage {
                id,
                spec,
                size_bytes,
            } => {
                numbers(4, &[*id, *size_bytes]);
                put_spec(out, spec);
            }
            Self::RemoveImage { id } => numbers(5, &[*id]),
            Self::Rename { id, name } => {
                numbers(6, &[*id]);
                out.put_text(name);
            }
            Self::Resize { id, size_bytes } => numbers(7, &[*id, *size_bytes]),
            Self::CreateSnapshot { id, snapshot, name } => {
                numbers(8, &[*id, *snapshot]);
                out.put_text(name);
            }
            Self::Protect {
                id,
                snapshot,
                protected,
            } => {
                numbers(9, &[*id, *snapshot, u64::from(*protected)]);
            }
            Self::RemoveSnapshot { id, snapshot } => numbers(10, &[*id, *snapshot]),
            Self::RollBack { id, snapshot } => numbers(11, &[*id, *snapshot]),
            Self::Clone {
                id,
                spec,
                parent,
                snapshot,
            } => {
                numbers(12, &[*id, *parent, *snapshot]);
                put_spec(out, spec);
            }
            Self::Flatten { id } => numbers(13, &[*id]),
            Self::SetMetadata { id, key, value } => {
                numbers(14, &[*id]);
                out.put_text(key);
                out.put_text(value);
            }
            Self::RemoveMetadata { id, key } => {
                numbers(15, &[*id]);
                out.put_text(key);
            }
            Self::CreateHidden { id, size_bytes } => numbers(16, &[*id, *size_bytes]),
            Self::PutObject { id, pool, name } => {
                numbers(17, &[*id]);
                out.put_text(pool);
                out.put_text(name);
            }
            Self::RenameSnapshot { id, snapshot, name } => {
                numbers(19, &[*id, *snapshot]);
                out.put_text(name);
            }
            Self::RemoveObject { pool, name } => {
                numbers(18, &[]);
                out.put_text(pool);
                out.put_text(name);
            }
        }
    }

    fn take(tag: u8, fields: &mut Fields<'_>) -> Option<Self> {
        Some(match tag {
            3 => Self::CreatePool {
                pool: fields.text()?,
            },
            4 => {
                let (id, size_bytes) = (fields.u64()?, fields.u64()?);
                Self::CreateImage {
                    id,
                    spec: take_spec(fields)?,
                    size_bytes,
                }
            }
            5 => Self::RemoveImage { id: fields.u64()? },
            6 => Self::Rename {
                id: fields.u64()?,
                name: fields.text()?,
            },
            7 => Self::Resize {
                id: fields.u64()?,
                size_bytes: fields.u64()?,
            },
            8 => Self::CreateSnapshot {
                id: fields.u64()?,
                snapshot: fields.u64()?,
                name: fields.text()?,
            },
            9 => Self::Protect {
                id: fields.u64()?,
                snapshot: fields.u64()?,
                protected: fields.u64()? != 0,
            },
            10 => Self::RemoveSnapshot {
                id: fields.u64()?,
                snapshot: fields.u64()?,
            },
            11 => Self::RollBack {
                id: fields.u64()?,
                snapshot: fields.u64()?,
            },
            12 => {
                let (id, parent, snapshot) = (fields.u64()?, fields.u64()?, fields.u64()?);
                Self::Clone {
                    id,
                    spec: take_spec(fields)?,
                    parent,
                    snapshot,
                }
            }
            13 => Self::Flatten { id: fields.u64()? },
            14 => Self::SetMetadata {
                id: fields.u64()?,
                key: fields.text()?,
                value: fields.text()?,
            },
            15 => Self::RemoveMetadata {
                id: fields.u64()?,
                key: fields.text()?,
            },
            16 => Self::CreateHidden {
                id: fields.u64()?,
                size_bytes: fields.u64()?,
            },
            17 => Self::PutObject {
                id: fields.u64()?,
                pool: fields.text()?,
                name: fields.text()?,
            },
            18 => Self::RemoveObject {
                pool: fields.text()?,
                name: fields.text()?,
            },
            19 => Self::RenameSnapshot {
                id: fields.u64()?,
                snapshot: fields.u64()?,
                name: fields.text()?,
            },
            _ => return None,
        })
    }
}
