//! Limits and quota sets in answers.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::db::quotas::Limits;
use crate::domain::limits::{Quota, QuotaSet};

/// `{"quota_set": {"id": …, "volumes": 10, …}}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct OneSet {
    pub quota_set: SetView,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct SetView {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(flatten)]
    pub values: Values,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(in crate::api) enum Values {
    Limits(Limits),
    Usage(BTreeMap<String, UsageView>),
}

/// What `usage=true` shows of one resource.
#[derive(Debug, Serialize)]
pub(in crate::api) struct UsageView {
    limit: i64,
    in_use: i64,
    /// Usage counts rows from the moment they are inserted: nothing is ever only reserved.
    reserved: i64,
}

impl OneSet {
    pub fn limits(id: Option<&str>, limits: Limits) -> Self {
        OneSet {
            quota_set: SetView {
                id: id.map(str::to_owned),
                values: Values::Limits(limits),
            },
        }
    }

    pub fn usage(id: &str, set: QuotaSet) -> Self {
        let view = |quota: Quota| UsageView {
            limit: quota.limit,
            in_use: quota.in_use,
            reserved: 0,
        };
        let values = set
            .into_iter()
            .map(|(resource, quota)| (resource, view(quota)))
            .collect();
        OneSet {
            quota_set: SetView {
                id: Some(id.to_owned()),
                values: Values::Usage(values),
            },
        }
    }
}

/// `{"quota_class_set": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct OneClass {
    pub quota_class_set: SetView,
}

/// `{"limits": {"rate": [], "absolute": {…}}}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct LimitsBody {
    limits: LimitsView,
}

#[derive(Debug, Serialize)]
struct LimitsView {
    rate: [(); 0],
    absolute: BTreeMap<&'static str, i64>,
}

impl LimitsBody {
    /// `with_usage`: the caller may see what is used.
    pub fn new(set: &QuotaSet, with_usage: bool) -> Self {
        let quota = |resource: &str| set.get(resource).copied().unwrap_or_default();
        let mut absolute = BTreeMap::from([
            ("maxTotalVolumes", quota("volumes").limit),
            ("maxTotalVolumeGigabytes", quota("gigabytes").limit),
            ("maxTotalSnapshots", quota("snapshots").limit),
            ("maxTotalBackups", quota("backups").limit),
            ("maxTotalBackupGigabytes", quota("backup_gigabytes").limit),
        ]);
        if with_usage {
            absolute.extend([
                ("totalVolumesUsed", quota("volumes").in_use),
                ("totalGigabytesUsed", quota("gigabytes").in_use),
                ("totalSnapshotsUsed", quota("snapshots").in_use),
                ("totalBackupsUsed", quota("backups").in_use),
                ("totalBackupGigabytesUsed", quota("backup_gigabytes").in_use),
            ]);
        }
        LimitsBody {
            limits: LimitsView { rate: [], absolute },
        }
    }
}
