//! Names of base images and snapshots, and which backup an incremental builds on.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The base image of the chain that begins with the full backup `backup_id`.
pub fn base_name(volume_id: Uuid, backup_id: Uuid) -> String {
    format!("volume-{volume_id}.backup.{backup_id}")
}

/// `backup.<backup id>.snap.<Unix time>`: a backup's snapshot, on the volume and on the base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSnapshot {
    pub backup_id: Uuid,
    /// Seconds since the epoch, with two decimals.
    pub taken_at: String,
}

impl BackupSnapshot {
    pub fn new(backup_id: Uuid, taken_at_us: i64) -> Self {
        let (seconds, rest_us) = (
            taken_at_us.div_euclid(1_000_000),
            taken_at_us.rem_euclid(1_000_000),
        );
        BackupSnapshot {
            backup_id,
            taken_at: format!("{seconds}.{:02}", rest_us / 10_000),
        }
    }

    /// `None` for a snapshot that is not a backup's.
    pub fn parse(name: &str) -> Option<Self> {
        let (id, taken_at) = name.strip_prefix("backup.")?.split_once(".snap.")?;
        if taken_at.is_empty() {
            return None;
        }
        Some(BackupSnapshot {
            backup_id: Uuid::parse_str(id).ok()?,
            taken_at: taken_at.to_owned(),
        })
    }

    /// The names among `names` that are snapshots of this backup.
    pub fn of_backup<'a>(names: impl IntoIterator<Item = &'a str>, backup_id: Uuid) -> Vec<String> {
        let ours = |name: &&str| {
            BackupSnapshot::parse(name).is_some_and(|snapshot| snapshot.backup_id == backup_id)
        };
        names.into_iter().filter(ours).map(str::to_owned).collect()
    }
}

impl fmt::Display for BackupSnapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "backup.{}.snap.{}",
            self.backup_id, self.taken_at
        )
    }
}

/// Whether a snapshot of a volume's image was made by a backup.
pub fn is_backup_snapshot(name: &str) -> bool {
    BackupSnapshot::parse(name).is_some()
}

/// A backup's `service_metadata`: what its data hangs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceMetadata {
    /// The base image in the backup pool.
    pub base: String,
}

impl ServiceMetadata {
    pub fn to_json(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// `None` when the text is not such metadata.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// A backup of the same volume and project that an incremental might build on.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub id: Uuid,
    pub available: bool,
    /// Of which moment the data is, in microseconds: the backup's, or its source snapshot's.
    pub data_timestamp_us: i64,
}

/// The backup that an incremental builds on: the latest available one, and, when a snapshot is
/// backed up, one that is older than the snapshot.
pub fn choose_parent(
    candidates: &[Candidate],
    snapshot_created_at_us: Option<i64>,
) -> Option<Uuid> {
    let older = |candidate: &&Candidate| {
        snapshot_created_at_us
            .is_none_or(|created_at_us| candidate.data_timestamp_us < created_at_us)
    };
    let usable = candidates
        .iter()
        .filter(|candidate| candidate.available)
        .filter(older);
    usable
        .max_by_key(|candidate| candidate.data_timestamp_us)
        .map(|candidate| candidate.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_names_survive_the_round_trip() {
        let id = Uuid::new_v4();
        let snapshot = BackupSnapshot::new(id, 1_700_000_000_123_456);
        assert_eq!(
            snapshot.to_string(),
            format!("backup.{id}.snap.1700000000.12")
        );
        assert_eq!(BackupSnapshot::parse(&snapshot.to_string()), Some(snapshot));
        for other in [
            "snapshot-1",
            "backup.x.snap.1",
            &format!("backup.{id}.snap."),
            &format!("backup.{id}"),
        ] {
            assert_eq!(BackupSnapshot::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_parent_is_the_latest_available_backup_before_the_snapshot() {
        let candidate = |available, data_timestamp_us| Candidate {
            id: Uuid::new_v4(),
            available,
            data_timestamp_us,
        };
        let all = [
            candidate(true, 10),
            candidate(true, 20),
            candidate(false, 30),
        ];
        assert_eq!(choose_parent(&all, None), Some(all[1].id));
        assert_eq!(choose_parent(&all, Some(20)), Some(all[0].id));
        assert_eq!(choose_parent(&all, Some(10)), None);
        assert_eq!(choose_parent(&[], None), None);
    }

    #[test]
    fn service_metadata_is_cinders() {
        let metadata = ServiceMetadata {
            base: "volume-1.backup.2".into(),
        };
        assert_eq!(metadata.to_json(), r#"{"base":"volume-1.backup.2"}"#);
        assert_eq!(ServiceMetadata::parse(&metadata.to_json()), Some(metadata));
        assert_eq!(ServiceMetadata::parse("{}"), None);
    }
}
