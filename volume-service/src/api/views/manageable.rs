//! What could be managed, in answers.

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Detail;
use crate::domain::manageable::Manageable;

/// `{"manageable-volumes": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct Volumes {
    #[serde(rename = "manageable-volumes")]
    pub volumes: Vec<Entry>,
}

/// `{"manageable-snapshots": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct Snapshots {
    #[serde(rename = "manageable-snapshots")]
    pub snapshots: Vec<Entry>,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct Entry {
    reference: Value,
    size: u64,
    safe_to_manage: bool,
    /// Of snapshots: where their image is.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_reference: Option<Value>,
    #[serde(flatten)]
    detail: Option<EntryDetail>,
}

#[derive(Debug, Serialize)]
struct EntryDetail {
    reason_not_safe: Option<&'static str>,
    cinder_id: Option<Uuid>,
    /// No back-end has any.
    extra_info: Option<String>,
}

/// One image or snapshot of a list.
pub(in crate::api) fn entry(one: Manageable, detail: Detail) -> Entry {
    let of_detail = EntryDetail {
        reason_not_safe: one.reason_not_safe,
        cinder_id: one.managed_as,
        extra_info: None,
    };
    Entry {
        reference: one.reference(),
        size: one.size_gib,
        safe_to_manage: one.reason_not_safe.is_none(),
        source_reference: one.source_name.map(|name| json!({"source-name": name})),
        detail: (detail == Detail::Full).then_some(of_detail),
    }
}
