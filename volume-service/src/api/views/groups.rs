//! Groups in answers.

use serde::Serialize;
use uuid::Uuid;

use super::super::call::Call;
use super::{NextPage, Rows, time};
use crate::db::groups::Group;
use crate::domain::groups::GroupDetails;

/// `{"group": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct One<T> {
    pub group: T,
}

/// `{"groups": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct List {
    pub groups: Rows<SummaryView, GroupView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_links: NextPage,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct SummaryView {
    id: Uuid,
    name: Option<String>,
}

impl SummaryView {
    pub fn new(group: Group) -> Self {
        SummaryView {
            id: group.id,
            name: group.name,
        }
    }
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct GroupView {
    id: Uuid,
    status: String,
    availability_zone: String,
    created_at: String,
    name: Option<String>,
    description: Option<String>,
    group_type: Uuid,
    volume_types: Vec<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_snapshot_id: Option<Option<Uuid>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_group_id: Option<Option<Uuid>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volumes: Option<Vec<Uuid>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replication_status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project_id: Option<String>,
}

impl GroupView {
    /// `list_volumes`: the client asked for the ids of its volumes (3.25).
    pub fn new(call: &Call, details: GroupDetails, list_volumes: bool) -> Self {
        let GroupDetails {
            group,
            volume_types,
            volumes,
        } = details;
        let sources = call.at_least(14);
        let project_id = call.at_least(58) && call.allows_own("group:group_project_attribute");
        GroupView {
            id: group.id,
            status: group.status,
            availability_zone: group.availability_zone,
            created_at: time(group.created_at),
            name: group.name,
            description: group.description,
            group_type: group.group_type_id,
            volume_types,
            group_snapshot_id: sources.then_some(group.group_snapshot_id),
            source_group_id: sources.then_some(group.source_group_id),
            volumes: (call.at_least(25) && list_volumes).then_some(volumes),
            replication_status: call.at_least(38).then_some(group.replication_status),
            project_id: project_id.then_some(group.project_id),
        }
    }
}
