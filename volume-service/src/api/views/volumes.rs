//! Volumes in answers.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use uuid::Uuid;

use super::super::call::{Call, Link};
use super::{NextPage, Rows, Summary, time, time_or_null};
use crate::db::attachments::Attachment;
use crate::db::metadata::Metadata;
use crate::db::status;
use crate::db::volumes::Volume;
use crate::domain::volumes::VolumeDetails;
use crate::keys::FIXED_KEY_ID;

/// `{"volume": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct One {
    pub volume: VolumeView,
}

/// `{"volumes": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct List {
    pub volumes: Rows<Summary, VolumeView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes_links: NextPage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// A volume as shown and as listed in detail.
#[derive(Debug, Serialize)]
pub(in crate::api) struct VolumeView {
    id: Uuid,
    status: String,
    size: u32,
    availability_zone: String,
    created_at: String,
    updated_at: Option<String>,
    name: Option<String>,
    description: Option<String>,
    volume_type: Option<String>,
    snapshot_id: Option<Uuid>,
    source_volid: Option<Uuid>,
    metadata: Metadata,
    links: [Link; 2],
    user_id: String,
    bootable: &'static str,
    encrypted: bool,
    replication_status: Option<String>,
    consistencygroup_id: Option<Uuid>,
    multiattach: bool,
    attachments: Vec<AttachedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    migration_status: Option<Option<String>>,
    #[serde(
        rename = "os-vol-host-attr:host",
        skip_serializing_if = "Option::is_none"
    )]
    host: Option<Option<String>>,
    #[serde(
        rename = "os-vol-tenant-attr:tenant_id",
        skip_serializing_if = "Option::is_none"
    )]
    tenant_id: Option<String>,
    #[serde(
        rename = "os-vol-mig-status-attr:migstat",
        skip_serializing_if = "Option::is_none"
    )]
    migstat: Option<Option<String>>,
    #[serde(
        rename = "os-vol-mig-status-attr:name_id",
        skip_serializing_if = "Option::is_none"
    )]
    name_id: Option<Option<Uuid>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_image_metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_id: Option<Option<Uuid>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_id: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_targets: Option<Option<bool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_uuid: Option<Option<Uuid>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_name: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_type_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_key_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumes_quota: Option<bool>,
}

impl VolumeView {
    /// A volume as create and update answer it: without the attributes of extensions.
    pub fn plain(call: &Call, details: VolumeDetails) -> Self {
        let VolumeDetails {
            volume,
            type_name,
            metadata,
            attachments,
            in_consistency_group,
            cluster_name,
            ..
        } = details;
        let admin = call.context.is_admin;
        let metadata = with_admin_metadata(&volume, metadata, &attachments);
        let attached = attachments
            .into_iter()
            .filter(|one| one.attach_status == status::ATTACHED);
        // No back-end shares targets between volumes; before 3.69 "unknown" was told as true.
        let shared_targets = Some(false);
        VolumeView {
            id: volume.id,
            status: shown_status(&volume.status).to_owned(),
            size: volume.size_gib,
            availability_zone: volume.availability_zone,
            created_at: time(volume.created_at),
            updated_at: time_or_null(volume.updated_at),
            name: volume.name,
            description: volume.description,
            volume_type: type_name,
            snapshot_id: volume.snapshot_id,
            source_volid: volume.source_volid,
            metadata,
            links: call.links.of("volumes", volume.id),
            user_id: volume.user_id,
            bootable: if volume.bootable { "true" } else { "false" },
            encrypted: volume.encryption_key_id.is_some(),
            replication_status: volume.replication_status,
            consistencygroup_id: volume.group_id.filter(|_| in_consistency_group),
            multiattach: volume.multiattach,
            attachments: attached.map(|one| AttachedView::new(call, one)).collect(),
            migration_status: admin.then_some(volume.migration_status),
            host: None,
            tenant_id: None,
            migstat: None,
            name_id: None,
            volume_image_metadata: None,
            group_id: call.at_least(13).then_some(volume.group_id),
            provider_id: (admin && call.at_least(21)).then_some(volume.provider_id),
            shared_targets: call.at_least(48).then_some(shared_targets),
            service_uuid: call.at_least(48).then_some(volume.service_uuid),
            cluster_name: (admin && call.at_least(61)).then_some(cluster_name),
            volume_type_id: call.at_least(63).then_some(volume.volume_type_id),
            encryption_key_id: shown_key(volume.encryption_key_id, call),
            consumes_quota: call.at_least(65).then_some(volume.consumes_quota),
        }
    }

    /// A volume as shown and listed, with what the caller may see of the extensions.
    pub fn full(call: &Call, details: VolumeDetails) -> Self {
        let policy = &call.service.policy;
        let volume = &details.volume;
        let allows = |rule| policy.allows(&call.context, rule, &volume.project_id);
        let host = allows("volume_extension:volume_host_attribute").then(|| volume.host.clone());
        let tenant_id =
            allows("volume_extension:volume_tenant_attribute").then(|| volume.project_id.clone());
        let migration = allows("volume_extension:volume_mig_status_attribute");
        let migstat = migration.then(|| volume.migration_status.clone());
        let from_image = !details.image_metadata.is_empty()
            && allows("volume_extension:volume_image_metadata:show");
        let volume_image_metadata = from_image.then(|| details.image_metadata.clone());
        VolumeView {
            host,
            tenant_id,
            migstat,
            name_id: migration.then_some(volume.name_id),
            volume_image_metadata,
            ..VolumeView::plain(call, details)
        }
    }
}

/// The key since 3.64, unless it is the one that all volumes share.
pub(super) fn shown_key(key_id: Option<Uuid>, call: &Call) -> Option<Uuid> {
    key_id.filter(|id| call.at_least(64) && *id != FIXED_KEY_ID)
}

/// One entry of a volume's `attachments`.
#[derive(Debug, Serialize)]
struct AttachedView {
    id: Uuid,
    attachment_id: Uuid,
    volume_id: Uuid,
    server_id: Option<Uuid>,
    /// For admins and services.
    host_name: Option<String>,
    device: Option<String>,
    attached_at: Option<String>,
}

impl AttachedView {
    fn new(call: &Call, attachment: Attachment) -> Self {
        let trusted = call.context.is_admin || !call.context.service_roles.is_empty();
        AttachedView {
            id: attachment.volume_id,
            attachment_id: attachment.id,
            volume_id: attachment.volume_id,
            server_id: attachment.instance_id,
            host_name: attachment.attached_host.filter(|_| trusted),
            device: attachment.mountpoint,
            attached_at: time_or_null(attachment.attached_at),
        }
    }
}

/// What a summary list shows of a volume.
pub(in crate::api) fn summary(call: &Call, volume: Volume) -> Summary {
    Summary {
        id: volume.id,
        name: volume.name,
        links: call.links.of("volumes", volume.id),
    }
}

/// States that only managing uses are shown as their plain ones.
fn shown_status(status: &str) -> &str {
    match status {
        "managing" => "creating",
        "error_managing" => "error",
        "error_managing_deleting" => "deleting",
        other => other,
    }
}

/// The user's metadata with `readonly`, once somebody has set it, and `attached_mode` while the
/// volume is attached by `os-attach`.
fn with_admin_metadata(
    volume: &Volume,
    mut metadata: Metadata,
    attachments: &[Attachment],
) -> Metadata {
    let by_action =
        |one: &&Attachment| one.attach_status == status::ATTACHED && one.connector.is_none();
    if let Some(attached) = attachments.iter().rfind(by_action) {
        metadata.insert("attached_mode".to_owned(), attached.attach_mode.clone());
    }
    if let Some(readonly) = volume.readonly {
        metadata.insert(
            "readonly".to_owned(),
            if readonly { "True" } else { "False" }.to_owned(),
        );
    }
    metadata
}

/// `{"volume-summary": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct Totals {
    #[serde(rename = "volume-summary")]
    pub summary: TotalsView,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct TotalsView {
    pub total_count: u64,
    pub total_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, BTreeSet<String>>>,
}
