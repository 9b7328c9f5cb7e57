//! Snapshots in answers.

use serde::Serialize;
use uuid::Uuid;

use super::super::call::Call;
use super::{NextPage, Rows, time, time_or_null};
use crate::db::metadata::Metadata;
use crate::domain::snapshots::SnapshotDetails;

/// `{"snapshot": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct One<T> {
    pub snapshot: T,
}

/// `{"snapshots": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct List {
    pub snapshots: Rows<SummaryView, SnapshotView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots_links: NextPage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// A snapshot in a summary list, and as create and update answer it.
#[derive(Debug, Serialize)]
pub(in crate::api) struct SummaryView {
    id: Uuid,
    created_at: String,
    updated_at: Option<String>,
    name: Option<String>,
    description: Option<String>,
    volume_id: Uuid,
    status: String,
    size: u32,
    metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_snapshot_id: Option<Option<Uuid>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumes_quota: Option<bool>,
}

impl SummaryView {
    /// The keys of every microversion only.
    pub fn brief(details: SnapshotDetails) -> Self {
        let SnapshotDetails { snapshot, metadata } = details;
        SummaryView {
            id: snapshot.id,
            created_at: time(snapshot.created_at),
            updated_at: time_or_null(snapshot.updated_at),
            name: snapshot.name,
            description: snapshot.description,
            volume_id: snapshot.volume_id,
            status: snapshot.status,
            size: snapshot.size_gib,
            metadata,
            group_snapshot_id: None,
            user_id: None,
            consumes_quota: None,
        }
    }

    /// With what the microversion adds.
    pub fn new(call: &Call, details: SnapshotDetails) -> Self {
        let user_id = call.at_least(41).then(|| details.snapshot.user_id.clone());
        let consumes_quota = call.at_least(65).then_some(details.snapshot.consumes_quota);
        let group_snapshot_id = call
            .at_least(14)
            .then_some(details.snapshot.group_snapshot_id);
        SummaryView {
            user_id,
            consumes_quota,
            group_snapshot_id,
            ..SummaryView::brief(details)
        }
    }
}

/// A snapshot as shown and as listed in detail.
#[derive(Debug, Serialize)]
pub(in crate::api) struct SnapshotView {
    #[serde(flatten)]
    plain: SummaryView,
    #[serde(
        rename = "os-extended-snapshot-attributes:progress",
        skip_serializing_if = "Option::is_none"
    )]
    progress: Option<Option<String>>,
    #[serde(
        rename = "os-extended-snapshot-attributes:project_id",
        skip_serializing_if = "Option::is_none"
    )]
    project_id: Option<String>,
}

impl SnapshotView {
    pub fn new(call: &Call, details: SnapshotDetails) -> Self {
        let snapshot = &details.snapshot;
        let rule = "volume_extension:extended_snapshot_attributes";
        let extended = call
            .service
            .policy
            .allows(&call.context, rule, &snapshot.project_id);
        SnapshotView {
            progress: extended.then(|| snapshot.progress.clone()),
            project_id: extended.then(|| snapshot.project_id.clone()),
            plain: SummaryView::new(call, details),
        }
    }
}
