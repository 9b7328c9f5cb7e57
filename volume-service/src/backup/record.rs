//! A backup's row as text, so that it can be brought back after the database was lost, or taken
//! to another service: base64 of JSON, with the names of Cinder's backup object.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use database::now_us;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::db::backups::Backup;
use crate::db::metadata::Metadata;
use crate::db::status;

/// The driver whose layout backups have here.
pub const BACKUP_SERVICE: &str = "cinder.backup.drivers.ceph.CephBackupDriver";

/// The longest record that is read.
const MAX_BYTES: usize = 256 << 10;
const MAX_TEXT_CHARS: usize = 255;

/// Cinder's backup object; what is not read here is written for Cinder's sake.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    id: Uuid,
    #[serde(default)]
    user_id: String,
    #[serde(default)]
    project_id: String,
    volume_id: Uuid,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    availability_zone: Option<String>,
    #[serde(default)]
    container: Option<String>,
    #[serde(default)]
    parent_id: Option<Uuid>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    fail_reason: Option<String>,
    size: u32,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    display_description: Option<String>,
    #[serde(default)]
    service_metadata: Option<String>,
    #[serde(default)]
    service: Option<String>,
    #[serde(default)]
    object_count: u64,
    #[serde(default)]
    temp_volume_id: Option<Uuid>,
    #[serde(default)]
    temp_snapshot_id: Option<Uuid>,
    #[serde(default)]
    snapshot_id: Option<Uuid>,
    #[serde(default)]
    data_timestamp: Option<String>,
    #[serde(default)]
    restore_volume_id: Option<Uuid>,
    #[serde(default)]
    encryption_key_id: Option<Uuid>,
    #[serde(default)]
    num_dependent_backups: u64,
    #[serde(default)]
    backup_metadata: Option<Metadata>,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    updated_at: Option<String>,
}

/// The record of a backup (`backup_url`).
pub fn encode(backup: &Backup, metadata: &Metadata, dependents: u64) -> Result<String, String> {
    let time = |us: i64| rest::time::format_micros(us) + "Z";
    let record = Record {
        id: backup.id,
        user_id: backup.user_id.clone(),
        project_id: backup.project_id.clone(),
        volume_id: backup.volume_id,
        host: backup.host.clone(),
        availability_zone: backup.availability_zone.clone(),
        container: backup.container.clone(),
        parent_id: backup.parent_id,
        status: Some(backup.status.clone()),
        fail_reason: backup.fail_reason.clone(),
        size: backup.size_gib,
        display_name: backup.name.clone(),
        display_description: backup.description.clone(),
        service_metadata: backup.service_metadata.clone(),
        service: Some(BACKUP_SERVICE.to_owned()),
        object_count: backup.object_count,
        temp_volume_id: None,
        temp_snapshot_id: None,
        snapshot_id: backup.snapshot_id,
        data_timestamp: Some(time(backup.data_timestamp)),
        restore_volume_id: backup.restore_volume_id,
        encryption_key_id: backup.encryption_key_id,
        num_dependent_backups: dependents,
        backup_metadata: Some(metadata.clone()),
        created_at: Some(time(backup.created_at)),
        updated_at: backup.updated_at.map(time),
    };
    let json = serde_json::to_vec(&record).map_err(|error| error.to_string())?;
    Ok(STANDARD.encode(json))
}

/// The backup of a record, `available`, with its metadata. User and project are the record's:
/// the caller puts its own in. Errors: Cinder's text for what is wrong.
pub fn decode(url: &str) -> Result<(Backup, Metadata), String> {
    if url.len() > MAX_BYTES {
        return Err(format!("Backup record is longer than {MAX_BYTES} bytes."));
    }
    let json = STANDARD
        .decode(url.trim())
        .map_err(|_| "Can't decode backup record.".to_owned())?;
    let record: Record = serde_json::from_slice(&json)
        .map_err(|error| format!("Can't parse backup record: {error}"))?;
    let texts = [
        &record.container,
        &record.display_name,
        &record.display_description,
        &record.availability_zone,
    ];
    let too_long = |text: &str| text.chars().count() > MAX_TEXT_CHARS;
    let metadata = record.backup_metadata.unwrap_or_default();
    if texts.into_iter().flatten().any(|text| too_long(text))
        || metadata
            .iter()
            .any(|(key, value)| too_long(key) || too_long(value))
    {
        return Err(format!(
            "Backup record has a text of more than {MAX_TEXT_CHARS} characters."
        ));
    }
    if record.size == 0 || i32::try_from(record.size).is_err() {
        return Err(format!("Backup record has the size {}.", record.size));
    }
    if i64::try_from(record.object_count).is_err() {
        return Err("Backup record has too many objects.".to_owned());
    }
    let now = now_us();
    let time = |text: Option<String>| text.and_then(|text| rest::time::parse_iso8601(&text));
    let backup = Backup {
        id: record.id,
        user_id: record.user_id,
        project_id: record.project_id,
        volume_id: record.volume_id,
        snapshot_id: record.snapshot_id,
        parent_id: record.parent_id,
        name: record.display_name,
        description: record.display_description,
        status: status::AVAILABLE.to_owned(),
        fail_reason: None,
        size_gib: record.size,
        object_count: record.object_count,
        container: record.container,
        availability_zone: record.availability_zone,
        host: None,
        service_metadata: record.service_metadata,
        restore_volume_id: None,
        encryption_key_id: record.encryption_key_id,
        data_timestamp: time(record.data_timestamp).unwrap_or(now),
        created_at: now,
        updated_at: None,
    };
    Ok((backup, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was() {
        let json = r#"{"id": "11111111-2222-3333-4444-555555555555", "size": 2,
            "volume_id": "21111111-2222-3333-4444-555555555555", "service_metadata": "{\"base\": \"b\"}",
            "data_timestamp": "2024-05-06T07:08:09.000000Z", "something_new": [1, 2],
            "backup_metadata": {"k": "v"}}"#;
        let (backup, metadata) = decode(&STANDARD.encode(json)).unwrap();
        assert_eq!((backup.size_gib, backup.status.as_str()), (2, "available"));
        let again = encode(&backup, &metadata, 0).unwrap();
        let (same, same_metadata) = decode(&again).unwrap();
        assert_eq!(same.service_metadata, backup.service_metadata);
        assert_eq!(same.data_timestamp, backup.data_timestamp);
        assert_eq!(same_metadata, metadata);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let of = |json: &str| decode(&STANDARD.encode(json)).unwrap_err();
        assert!(decode("###").unwrap_err().contains("decode"));
        assert!(of("[]").contains("parse"));
        assert!(of("{}").contains("parse"));
        let with = |rest: &str| {
            format!(
                r#"{{"id": "11111111-2222-3333-4444-555555555555",
                "volume_id": "21111111-2222-3333-4444-555555555555", {rest}}}"#
            )
        };
        assert!(of(&with(r#""size": 0"#)).contains("size"));
        assert!(of(&with(r#""size": 4000000000"#)).contains("size"));
        assert!(
            of(&with(r#""size": 1, "object_count": 18446744073709551615"#)).contains("objects")
        );
        let long = format!(r#""size": 1, "display_name": "{}""#, "x".repeat(256));
        assert!(of(&with(&long)).contains("255"));
        assert!(decode(&"A".repeat(MAX_BYTES + 1)).is_err());
    }
}
