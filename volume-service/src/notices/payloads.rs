//! What notifications say of a resource: the keys of Cinder's `volume_utils._usage_from_*`.

use std::collections::BTreeMap;

use database::{Result, Tx};
use rest::time::format_micros;
use serde_json::{Value, json};

use crate::backup::record::BACKUP_SERVICE;
use crate::db::attachments::{self, Attachment};
use crate::db::backups::Backup;
use crate::db::group_snapshots::GroupSnapshot;
use crate::db::groups::Group;
use crate::db::metadata::{self, Kind};
use crate::db::snapshots::Snapshot;
use crate::db::volumes::Volume;

/// As Python writes a time in UTC.
fn time(us: i64) -> String {
    format!("{}+00:00", format_micros(us))
}

fn pairs(entries: BTreeMap<String, String>) -> Vec<Value> {
    let pair = |(key, value): (String, String)| json!({"key": key, "value": value});
    entries.into_iter().map(pair).collect()
}

pub(super) async fn volume(tx: &mut Tx, volume: &Volume) -> Result<Value> {
    let user_metadata = metadata::get(&mut *tx, Kind::Volume, volume.id).await?;
    let image_metadata = metadata::get(&mut *tx, Kind::VolumeImage, volume.id).await?;
    let attachments = attachments::of_volume(&mut *tx, volume.id).await?;
    let attachments: Vec<Value> = attachments.iter().map(attachment).collect();
    let mut payload = json!({
        "tenant_id": volume.project_id,
        "host": volume.host,
        "user_id": volume.user_id,
        "availability_zone": volume.availability_zone,
        "volume_id": volume.id,
        "volume_type": volume.volume_type_id,
        "display_name": volume.name,
        // As Cinder: the present where it was never launched.
        "launched_at": time(volume.launched_at.unwrap_or_else(database::now_us)),
        "created_at": time(volume.created_at),
        "status": volume.status,
        "snapshot_id": volume.snapshot_id,
        "size": volume.size_gib,
        "replication_status": volume.replication_status,
        "replication_extended_status": null,
        "replication_driver_data": null,
        "metadata": pairs(user_metadata),
        "volume_attachment": attachments,
    });
    if !image_metadata.is_empty() {
        payload["glance_metadata"] = pairs(image_metadata).into();
    }
    Ok(payload)
}

fn attachment(attachment: &Attachment) -> Value {
    json!({
        "id": attachment.id,
        "volume_id": attachment.volume_id,
        "instance_uuid": attachment.instance_id,
        "server_id": attachment.instance_id,
        "attached_host": attachment.attached_host,
        "mountpoint": attachment.mountpoint,
        "attach_mode": attachment.attach_mode,
        "attach_status": attachment.attach_status,
        "attach_time": attachment.attached_at.map(time),
        "detach_time": null,
    })
}

pub(super) async fn snapshot(
    tx: &mut Tx,
    snapshot: &Snapshot,
    is_deleted: bool,
    volume: Option<&Volume>,
) -> Result<Value> {
    let entries = metadata::get(&mut *tx, Kind::Snapshot, snapshot.id).await?;
    Ok(json!({
        "tenant_id": snapshot.project_id,
        "user_id": snapshot.user_id,
        "availability_zone": volume.map(|volume| &volume.availability_zone),
        "volume_id": snapshot.volume_id,
        "volume_size": snapshot.size_gib,
        "snapshot_id": snapshot.id,
        "display_name": snapshot.name,
        "created_at": time(snapshot.created_at),
        "status": snapshot.status,
        "deleted": if is_deleted { "True" } else { "" },
        "metadata": python_dict(&entries),
    }))
}

/// `str(dict)` of Python, which Cinder puts into this one field.
fn python_dict(entries: &BTreeMap<String, String>) -> String {
    if entries.is_empty() {
        // `null_safe_str` of what is false.
        return String::new();
    }
    let quoted = |text: &str| {
        let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
        if escaped.contains('\'') && !escaped.contains('"') {
            return format!("\"{escaped}\"");
        }
        format!("'{}'", escaped.replace('\'', "\\'"))
    };
    let pairs = entries
        .iter()
        .map(|(key, value)| format!("{}: {}", quoted(key), quoted(value)));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
}

pub(super) fn backup(backup: &Backup, dependents: u64) -> Value {
    json!({
        "tenant_id": backup.project_id,
        "user_id": backup.user_id,
        "availability_zone": backup.availability_zone,
        "backup_id": backup.id,
        "host": backup.host,
        "display_name": backup.name,
        "created_at": time(backup.created_at),
        "status": backup.status,
        "volume_id": backup.volume_id,
        "size": backup.size_gib,
        "service_metadata": backup.service_metadata,
        "service": BACKUP_SERVICE,
        "fail_reason": backup.fail_reason,
        "parent_id": backup.parent_id,
        "num_dependent_backups": dependents,
        "snapshot_id": backup.snapshot_id,
    })
}

pub(super) fn group(group: &Group) -> Value {
    json!({
        "tenant_id": group.project_id,
        "user_id": group.user_id,
        "availability_zone": group.availability_zone,
        "group_id": group.id,
        "group_type": group.group_type_id,
        "name": group.name,
        "created_at": time(group.created_at),
        "status": group.status,
    })
}

pub(super) fn group_snapshot(snapshot: &GroupSnapshot) -> Value {
    json!({
        "tenant_id": snapshot.project_id,
        "user_id": snapshot.user_id,
        "group_id": snapshot.group_id,
        "group_type": snapshot.group_type_id,
        "group_snapshot_id": snapshot.id,
        "name": snapshot.name,
        "created_at": time(snapshot.created_at),
        "status": snapshot.status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dictionary_reads_as_in_python() {
        let entries = [("a", "1"), ("b'c", "d\\e"), ("f\"'", "")];
        let entries = entries.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let expected = r#"{'a': '1', "b'c": 'd\\e', 'f"\'': ''}"#;
        assert_eq!(python_dict(&entries.into()), expected);
        assert_eq!(python_dict(&BTreeMap::new()), "");
    }

    #[test]
    fn times_are_of_utc() {
        assert_eq!(
            time(1_767_323_045_000_006),
            "2026-01-02T03:04:05.000006+00:00"
        );
    }
}
