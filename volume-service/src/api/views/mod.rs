//! Bodies of answers, as typed structs that consult the microversion. A field that a version
//! does not have is left out; one that has no value is null.

pub(super) mod attachments;
pub(super) mod backups;
pub(super) mod consistency_groups;
pub(super) mod group_snapshots;
pub(super) mod group_types;
pub(super) mod groups;
pub(super) mod manageable;
pub(super) mod messages;
pub(super) mod qos_specs;
pub(super) mod quotas;
pub(super) mod snapshots;
pub(super) mod transfers;
pub(super) mod types;
pub(super) mod volumes;

use serde::Serialize;
use serde_json::Value;

use super::call::Link;

/// Whether a list shows summaries or everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    Summary,
    Full,
}

impl Detail {
    /// The last part of a list's path: nothing, or `/detail`.
    pub fn path(self, collection: &str) -> String {
        match self {
            Detail::Summary => collection.to_owned(),
            Detail::Full => format!("{collection}/detail"),
        }
    }
}

/// What a summary shows of a volume or a backup.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub id: uuid::Uuid,
    pub name: Option<String>,
    pub links: [Link; 2],
}

/// A list of either kind.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Rows<S, F> {
    Summary(Vec<S>),
    Full(Vec<F>),
}

/// The time in Cinder's form.
pub(super) fn time(us: i64) -> String {
    rest::time::format_micros(us)
}

/// The time in Cinder's form, or null.
pub(super) fn time_or_null(us: Option<i64>) -> Option<String> {
    us.map(time)
}

/// The link to the next page, left out where there is none.
pub(super) type NextPage = Option<Value>;
