//! Backups in answers.

use serde::Serialize;
use uuid::Uuid;

use super::super::call::{Call, Link};
use super::volumes::shown_key;
use super::{NextPage, Rows, Summary, time, time_or_null};
use crate::db::backups::Backup;
use crate::db::metadata::Metadata;
use crate::domain::backups::BackupDetails;

/// `{"backup": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct One<T> {
    pub backup: T,
}

/// `{"backups": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct List {
    pub backups: Rows<Summary, BackupView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backups_links: NextPage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// A backup as shown and as listed in detail.
#[derive(Debug, Serialize)]
pub(in crate::api) struct BackupView {
    id: Uuid,
    status: String,
    size: u32,
    object_count: u64,
    availability_zone: Option<String>,
    container: Option<String>,
    created_at: String,
    updated_at: Option<String>,
    name: Option<String>,
    description: Option<String>,
    fail_reason: Option<String>,
    volume_id: Uuid,
    links: [Link; 2],
    is_incremental: bool,
    has_dependent_backups: bool,
    snapshot_id: Option<Uuid>,
    data_timestamp: String,
    #[serde(
        rename = "os-backup-project-attr:project_id",
        skip_serializing_if = "Option::is_none"
    )]
    project_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_key_id: Option<Uuid>,
}

impl BackupView {
    pub fn new(call: &Call, details: BackupDetails) -> Self {
        let BackupDetails {
            backup,
            metadata,
            has_dependents,
        } = details;
        let rule = "backup:backup_project_attribute";
        let admin = call
            .service
            .policy
            .allows(&call.context, rule, &backup.project_id);
        BackupView {
            id: backup.id,
            status: backup.status,
            size: backup.size_gib,
            object_count: backup.object_count,
            availability_zone: backup.availability_zone,
            container: backup.container,
            created_at: time(backup.created_at),
            updated_at: time_or_null(backup.updated_at),
            name: backup.name,
            description: backup.description,
            fail_reason: backup.fail_reason,
            volume_id: backup.volume_id,
            links: call.links.of("backups", backup.id),
            is_incremental: backup.parent_id.is_some(),
            has_dependent_backups: has_dependents,
            snapshot_id: backup.snapshot_id,
            data_timestamp: time(backup.data_timestamp),
            project_id: (admin && call.at_least(18)).then_some(backup.project_id),
            metadata: call.at_least(43).then_some(metadata),
            user_id: (admin && call.at_least(56)).then_some(backup.user_id),
            encryption_key_id: shown_key(backup.encryption_key_id, call),
        }
    }
}

/// What a summary list shows of a backup, and what create and update answer.
pub(in crate::api) fn summary(call: &Call, backup: Backup) -> Summary {
    Summary {
        id: backup.id,
        name: backup.name,
        links: call.links.of("backups", backup.id),
    }
}

/// `{"restore": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct Restore {
    pub restore: RestoreView,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct RestoreView {
    pub backup_id: Uuid,
    pub volume_id: Uuid,
    pub volume_name: Option<String>,
}
