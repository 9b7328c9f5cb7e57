//! What a project may use: the four limits that Glance takes from Keystone's unified limits.
//!
//! A check comes after the change that it is about, in the same transaction: a change that goes
//! over a limit is rolled back. As with Glance, sizes count in whole MiB and only as far as they
//! are announced, so one upload of unknown length may go over; `user_storage_quota` is the limit
//! that holds within the stream.

use database::Tx;

use crate::db::usage::{self, Usage};
use crate::error::{Error, Result};

const MIB: u64 = 1 << 20;

/// The limits of every project; `None`: any amount. Names are those of the registered limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// MiB of image data.
    pub image_size_total: Option<u64>,
    /// MiB of staged data.
    pub image_stage_total: Option<u64>,
    pub image_count_total: Option<u64>,
    /// Images that are receiving data.
    pub image_count_uploading: Option<u64>,
}

/// What a change needs room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// A further image, which is counted already.
    Image,
    /// A further image that receives data, which is counted already.
    Uploading,
    /// Bytes of image data that are announced; 0 where their number is not known.
    Data { bytes: u64 },
    /// Bytes of staged data that are announced.
    Staged { bytes: u64 },
}

impl Demand {
    /// Name of the limit, the limit, and what would be used.
    fn judge(self, limits: &Limits, used: &Usage) -> (&'static str, Option<u64>, u64) {
        let with = |used: u64, bytes: u64| (used / MIB).saturating_add(bytes / MIB);
        match self {
            Demand::Image => ("image_count_total", limits.image_count_total, used.images),
            Demand::Uploading => (
                "image_count_uploading",
                limits.image_count_uploading,
                used.uploading,
            ),
            Demand::Data { bytes } => (
                "image_size_total",
                limits.image_size_total,
                with(used.size_bytes, bytes),
            ),
            Demand::Staged { bytes } => (
                "image_stage_total",
                limits.image_stage_total,
                with(used.staged_bytes, bytes),
            ),
        }
    }
}

/// 413 if the owner goes over a limit. Serialises the checks of one owner.
pub async fn check(
    tx: &mut Tx,
    limits: &Limits,
    owner: Option<&str>,
    demands: &[Demand],
) -> Result<()> {
    let Some(owner) = owner.filter(|_| *limits != Limits::default()) else {
        return Ok(());
    };
    let used = usage::of_project_locked(tx, owner).await?;
    for demand in demands {
        let (name, limit, wanted) = demand.judge(limits, &used);
        if let Some(limit) = limit.filter(|limit| wanted > *limit) {
            return Err(Error::TooLarge(format!(
                "Project {owner} is over a limit for [Resource {name} is over limit of {limit}: {wanted} would be used]"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_in_whole_mib() {
        let limits = Limits {
            image_size_total: Some(2),
            ..Limits::default()
        };
        let used = Usage {
            size_bytes: 2 * MIB + 5,
            staged_bytes: 0,
            images: 1,
            uploading: 1,
        };
        let judged = |demand: Demand| demand.judge(&limits, &used);
        let (name, limit, wanted) = judged(Demand::Data { bytes: MIB - 1 });
        assert_eq!((name, limit, wanted), ("image_size_total", Some(2), 2));
        assert_eq!(judged(Demand::Data { bytes: MIB }).2, 3);
        assert_eq!(judged(Demand::Image).1, None);
    }
}
