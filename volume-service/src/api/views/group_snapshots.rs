//! Group snapshots in answers.

use serde::Serialize;
use uuid::Uuid;

use super::super::call::Call;
use super::{NextPage, Rows, time};
use crate::db::group_snapshots::GroupSnapshot;

/// `{"group_snapshot": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct One<T> {
    pub group_snapshot: T,
}

/// `{"group_snapshots": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct List {
    pub group_snapshots: Rows<SummaryView, GroupSnapshotView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_snapshot_links: NextPage,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct SummaryView {
    id: Uuid,
    name: Option<String>,
    /// Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    group_type_id: Option<Uuid>,
}

impl SummaryView {
    /// As a list shows it.
    pub fn listed(of: GroupSnapshot) -> Self {
        SummaryView {
            id: of.id,
            name: of.name,
            group_type_id: None,
        }
    }

    /// As the request that made it is answered.
    pub fn created(of: GroupSnapshot) -> Self {
        let group_type_id = Some(of.group_type_id);
        SummaryView {
            group_type_id,
            ..SummaryView::listed(of)
        }
    }
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct GroupSnapshotView {
    id: Uuid,
    group_id: Uuid,
    group_type_id: Uuid,
    status: String,
    created_at: String,
    name: Option<String>,
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project_id: Option<String>,
}

impl GroupSnapshotView {
    pub fn new(call: &Call, of: GroupSnapshot) -> Self {
        let rule = "group:group_snapshot_project_attribute";
        let project_id = call.at_least(58) && call.allows_own(rule);
        GroupSnapshotView {
            id: of.id,
            group_id: of.group_id,
            group_type_id: of.group_type_id,
            status: of.status,
            created_at: time(of.created_at),
            name: of.name,
            description: of.description,
            project_id: project_id.then_some(of.project_id),
        }
    }
}
