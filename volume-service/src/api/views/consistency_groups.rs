//! Groups and group snapshots as the consistency group API shows them.

use serde::Serialize;
use uuid::Uuid;

use super::{NextPage, Rows, time};
use crate::db::group_snapshots::GroupSnapshot;
use crate::db::groups::Group;
use crate::domain::groups::GroupDetails;

/// `{"consistencygroup": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct OneGroup<T> {
    pub consistencygroup: T,
}

/// `{"consistencygroups": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct Groups {
    pub consistencygroups: Rows<SummaryView, GroupView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistencygroup_links: NextPage,
}

/// `{"cgsnapshot": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct OneSnapshot<T> {
    pub cgsnapshot: T,
}

/// `{"cgsnapshots": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct Snapshots {
    pub cgsnapshots: Rows<SummaryView, SnapshotView>,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct SummaryView {
    id: Uuid,
    name: Option<String>,
}

impl SummaryView {
    pub fn of_group(group: Group) -> Self {
        SummaryView {
            id: group.id,
            name: group.name,
        }
    }

    pub fn of_snapshot(snapshot: GroupSnapshot) -> Self {
        SummaryView {
            id: snapshot.id,
            name: snapshot.name,
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
    volume_types: Vec<Uuid>,
}

impl GroupView {
    pub fn new(details: GroupDetails) -> Self {
        let group = details.group;
        GroupView {
            id: group.id,
            status: group.status,
            availability_zone: group.availability_zone,
            created_at: time(group.created_at),
            name: group.name,
            description: group.description,
            volume_types: details.volume_types,
        }
    }
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct SnapshotView {
    id: Uuid,
    consistencygroup_id: Uuid,
    status: String,
    created_at: String,
    name: Option<String>,
    description: Option<String>,
}

impl SnapshotView {
    pub fn new(of: GroupSnapshot) -> Self {
        SnapshotView {
            id: of.id,
            consistencygroup_id: of.group_id,
            status: of.status,
            created_at: time(of.created_at),
            name: of.name,
            description: of.description,
        }
    }
}
