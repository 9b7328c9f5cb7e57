//! What the API does, apart from HTTP: check the state, check the quota, write rows and flow in
//! one transaction, ring the doorbell. A file per resource.

pub mod attachments;
pub mod backup_hosts;
pub mod backup_records;
pub mod backups;
pub mod clusters;
pub mod default_types;
pub mod detach_guard;
pub mod encryption;
pub mod group_delete;
pub mod group_from_source;
pub mod group_replication;
pub mod group_snapshots;
pub mod group_types;
pub mod group_update;
pub mod groups;
pub mod hosts;
pub mod limits;
pub mod listing;
pub mod manage;
pub mod manageable;
pub mod messages;
pub mod qos_specs;
pub mod quota;
pub mod relocation;
pub mod services;
pub mod snapshots;
pub mod transfers;
pub mod type_encryption;
pub mod types;
pub mod usage_audit;
pub mod volume_actions;
pub mod volume_attach;
pub mod volume_create;
pub mod volume_delete;
pub mod volume_image;
pub mod volume_source;
mod volume_zones;
pub mod volumes;
pub mod workers;

use rest::RequestContext;
use uuid::Uuid;

use crate::flows::Requester;

/// Who asks, as flows keep it. `project_id` is the resource's owner, who gets its messages.
pub(crate) fn requester(context: &RequestContext, project_id: &str) -> Requester {
    Requester {
        request_id: context.request_id.clone(),
        project_id: project_id.to_owned(),
        user_id: context.user_id.clone(),
    }
}

/// Whether the caller may know that a resource of `project_id` exists.
pub(crate) fn sees(context: &RequestContext, project_id: &str) -> bool {
    context.is_admin || context.project_id.as_deref() == Some(project_id)
}

/// An id out of a URL or a body; what is no uuid names nothing.
pub(crate) fn parse_id(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text).ok()
}
