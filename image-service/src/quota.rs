//! What a project may use: the four limits that Glance takes from Keystone's unified limits.
//!
//! A check comes after the change that it is about, in the same transaction: a change that goes
//! over a limit is rolled back. As with Glance, sizes count in whole MiB and only as far as they
//! are announced, so one upload of unknown length may go over; `user_storage_quota` is the limit
//! that holds within the stream.

use std::collections::BTreeMap;

use database::Tx;

use crate::ImageService;
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

/// A demand beside the limit that it is held to.
struct Claim {
    resource: &'static str,
    limit: Option<u64>,
    /// Without the demand.
    used: u64,
    delta: u64,
}

impl Demand {
    fn claim(self, limits: &Limits, used: &Usage) -> Claim {
        let counted = |resource, limit, images: u64| Claim {
            resource,
            limit,
            used: images.saturating_sub(1),
            delta: 1,
        };
        let sized = |resource, limit, used: u64, bytes: u64| Claim {
            resource,
            limit,
            used: used / MIB,
            delta: bytes / MIB,
        };
        let Limits {
            image_size_total,
            image_stage_total,
            image_count_total,
            image_count_uploading,
        } = *limits;
        match self {
            Demand::Image => counted("image_count_total", image_count_total, used.images),
            Demand::Uploading => counted(
                "image_count_uploading",
                image_count_uploading,
                used.uploading,
            ),
            Demand::Data { bytes } => {
                sized("image_size_total", image_size_total, used.size_bytes, bytes)
            }
            Demand::Staged { bytes } => sized(
                "image_stage_total",
                image_stage_total,
                used.staged_bytes,
                bytes,
            ),
        }
    }
}

impl Limits {
    /// As Keystone has them. A resource that it knows nothing of may not be used, as oslo.limit
    /// has it.
    fn of_keystone(found: &BTreeMap<String, i64>) -> Self {
        // Negative is no limit.
        let limit = |name: &str| u64::try_from(found.get(name).copied().unwrap_or(0)).ok();
        Limits {
            image_size_total: limit("image_size_total"),
            image_stage_total: limit("image_stage_total"),
            image_count_total: limit("image_count_total"),
            image_count_uploading: limit("image_count_uploading"),
        }
    }
}

/// What this owner may use. Keystone is asked, if it has the limits: not within a transaction.
pub async fn limits_of(service: &ImageService, owner: Option<&str>) -> Result<Limits> {
    let options = &service.options;
    let (Some(keystone), Some(owner)) = (&options.unified_limits, owner) else {
        return Ok(options.limits.clone());
    };
    let found = keystone.of_project(owner).await;
    let found = found.map_err(|error| Error::Unavailable(error.to_string()))?;
    Ok(Limits::of_keystone(&found))
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
    let usage = usage::of_project_locked(tx, owner).await?;
    for demand in demands {
        let Claim {
            resource,
            limit,
            used,
            delta,
        } = demand.claim(limits, &usage);
        if let Some(limit) = limit.filter(|limit| used.saturating_add(delta) > *limit) {
            return Err(Error::TooLarge(format!(
                "Project {owner} is over a limit for [Resource {resource} is over limit of \
                 {limit} due to current usage {used} and delta {delta}]"
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
        let claim = |demand: Demand| {
            let claim = demand.claim(&limits, &used);
            (claim.resource, claim.limit, claim.used, claim.delta)
        };
        let expected = ("image_size_total", Some(2), 2, 0);
        assert_eq!(claim(Demand::Data { bytes: MIB - 1 }), expected);
        assert_eq!(claim(Demand::Data { bytes: MIB }).3, 1);
        assert_eq!(claim(Demand::Image), ("image_count_total", None, 0, 1));
    }

    #[test]
    fn what_keystone_does_not_know_may_not_be_used() {
        let found = [("image_size_total", -1), ("image_count_total", 5)];
        let found = found.map(|(name, limit)| (name.to_owned(), limit));
        let limits = Limits::of_keystone(&BTreeMap::from(found));
        assert_eq!(limits.image_size_total, None);
        assert_eq!(limits.image_count_total, Some(5));
        assert_eq!(limits.image_stage_total, Some(0));
    }
}
