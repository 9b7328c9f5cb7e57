//! Table `volume_messages`: what went wrong with an asynchronous operation, told to the user
//! (Cinder API ref, "messages").

use database::{Result, Row, Tx, now_us, params};
use uuid::Uuid;

use super::Source;

/// How long a message is kept: 2592000 s (Cinder's `message_ttl`).
const TTL_US: i64 = 2_592_000 * 1_000_000;

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    ScheduleAllocateVolume,
    CopyVolumeToImage,
    UpdateAttachment,
    CopyImageToVolume,
    ExtendVolume,
    CreateVolumeFromBackend,
    SnapshotCreate,
    SnapshotDelete,
    BackupCreate,
    BackupDelete,
    BackupRestore,
    ReimageVolume,
}

/// Why it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    UnknownError,
    DriverNotInitialized,
    NoBackendAvailable,
    FailedToUploadVolume,
    QuotaExceed,
    NotEnoughSpaceForImage,
    NotifyComputeServiceFailed,
    DriverFailedExtend,
    SignatureVerificationFailed,
    DriverFailedCreate,
    SnapshotCreateError,
    SnapshotIsBusy,
    SnapshotDeleteError,
    BackupServiceDown,
    BackupCreateDriverError,
    BackupDeleteDriverError,
    BackupRestoreError,
    VolumeInvalidState,
    ReimageVolumeFailed,
    ImageFormatUnacceptable,
    IncrementalBackupForcedToFull,
}

impl Action {
    /// The id in `event_id`, and the text.
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Action::ScheduleAllocateVolume => ("001", "schedule allocate volume"),
            Action::CopyVolumeToImage => ("003", "copy volume to image"),
            Action::UpdateAttachment => ("004", "update attachment"),
            Action::CopyImageToVolume => ("005", "copy image to volume"),
            Action::ExtendVolume => ("007", "extend volume"),
            Action::CreateVolumeFromBackend => ("008", "create volume from backend storage"),
            Action::SnapshotCreate => ("009", "create snapshot"),
            Action::SnapshotDelete => ("010", "delete snapshot"),
            Action::BackupCreate => ("013", "create backup"),
            Action::BackupDelete => ("014", "delete backup"),
            Action::BackupRestore => ("015", "restore backup"),
            Action::ReimageVolume => ("016", "reimage volume"),
        }
    }

    const ALL: &'static [Action] = &[
        Action::ScheduleAllocateVolume,
        Action::CopyVolumeToImage,
        Action::UpdateAttachment,
        Action::CopyImageToVolume,
        Action::ExtendVolume,
        Action::CreateVolumeFromBackend,
        Action::SnapshotCreate,
        Action::SnapshotDelete,
        Action::BackupCreate,
        Action::BackupDelete,
        Action::BackupRestore,
        Action::ReimageVolume,
    ];
}

impl Detail {
    /// The id in `event_id`, and the text.
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Detail::UnknownError => ("001", "An unknown error occurred."),
            Detail::DriverNotInitialized => ("002", "Driver is not initialized at present."),
            Detail::NoBackendAvailable => ("003", "Could not find any available weighted backend."),
            Detail::FailedToUploadVolume => ("004", "Failed to upload volume to image at backend."),
            Detail::QuotaExceed => ("006", "Not enough quota resource for operation."),
            Detail::NotEnoughSpaceForImage => (
                "007",
                "Image used for creating volume exceeds available space.",
            ),
            Detail::NotifyComputeServiceFailed => {
                ("009", "Compute service failed to extend volume.")
            }
            Detail::DriverFailedExtend => ("010", "Volume Driver failed to extend volume."),
            Detail::SignatureVerificationFailed => ("011", "Image signature verification failed."),
            Detail::DriverFailedCreate => ("012", "Driver failed to create the volume."),
            Detail::SnapshotCreateError => ("013", "Snapshot failed to create."),
            Detail::SnapshotIsBusy => ("015", "Snapshot is busy."),
            Detail::SnapshotDeleteError => ("016", "Snapshot failed to delete."),
            Detail::BackupServiceDown => ("018", "Backup service is down."),
            Detail::BackupCreateDriverError => ("020", "Backup driver failed to create backup."),
            Detail::BackupDeleteDriverError => ("025", "Backup driver failed to delete backup."),
            Detail::BackupRestoreError => ("026", "Backup driver failed to restore backup."),
            Detail::VolumeInvalidState => ("027", "Volume status is invalid."),
            Detail::ReimageVolumeFailed => ("028", "Compute service failed to reimage volume."),
            Detail::ImageFormatUnacceptable => (
                "029",
                "The image disk format must be the same as the volume format for the volume type you are requesting.",
            ),
            Detail::IncrementalBackupForcedToFull => (
                "030",
                "Incremental backup not possible, forcing full backup.",
            ),
        }
    }

    const ALL: &'static [Detail] = &[
        Detail::UnknownError,
        Detail::DriverNotInitialized,
        Detail::NoBackendAvailable,
        Detail::FailedToUploadVolume,
        Detail::QuotaExceed,
        Detail::NotEnoughSpaceForImage,
        Detail::NotifyComputeServiceFailed,
        Detail::DriverFailedExtend,
        Detail::SignatureVerificationFailed,
        Detail::DriverFailedCreate,
        Detail::SnapshotCreateError,
        Detail::SnapshotIsBusy,
        Detail::SnapshotDeleteError,
        Detail::BackupServiceDown,
        Detail::BackupCreateDriverError,
        Detail::BackupDeleteDriverError,
        Detail::BackupRestoreError,
        Detail::VolumeInvalidState,
        Detail::ReimageVolumeFailed,
        Detail::ImageFormatUnacceptable,
        Detail::IncrementalBackupForcedToFull,
    ];
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Volume,
    VolumeSnapshot,
    VolumeBackup,
}

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Resource::Volume => "VOLUME",
            Resource::VolumeSnapshot => "VOLUME_SNAPSHOT",
            Resource::VolumeBackup => "VOLUME_BACKUP",
        }
    }
}

/// One message as stored.
#[derive(Debug, Clone)]
pub struct Message {
    pub id: Uuid,
    pub project_id: String,
    pub request_id: Option<String>,
    pub resource_type: String,
    pub resource_id: Option<Uuid>,
    pub action_id: String,
    pub detail_id: String,
    pub level: String,
    pub created_at: i64,
    pub expires_at: i64,
}

pub(crate) const COLUMNS: &str = "id, project_id, request_id, resource_type, resource_id, action_id, detail_id, \
    level, created_at, expires_at";

impl Message {
    /// The row of a select of [`COLUMNS`].
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        Ok(Message {
            id: row.get("id")?,
            project_id: row.get("project_id")?,
            request_id: row.get("request_id")?,
            resource_type: row.get("resource_type")?,
            resource_id: row.get("resource_id")?,
            action_id: row.get("action_id")?,
            detail_id: row.get("detail_id")?,
            level: row.get("level")?,
            created_at: row.get("created_at")?,
            expires_at: row.get("expires_at")?,
        })
    }

    /// `VOLUME_<resource type>_<action>_<detail>`.
    pub fn event_id(&self) -> String {
        format!(
            "VOLUME_{}_{}_{}",
            self.resource_type, self.action_id, self.detail_id
        )
    }

    /// `action:detail` in words.
    pub fn text(&self) -> String {
        let action = Action::ALL
            .iter()
            .map(|action| action.describe())
            .find(|(id, _)| *id == self.action_id);
        let detail = Detail::ALL
            .iter()
            .map(|detail| detail.describe())
            .find(|(id, _)| *id == self.detail_id);
        let action = action.map_or("unknown action", |(_, text)| text);
        format!(
            "{action}:{}",
            detail.map_or(Detail::UnknownError.describe().1, |(_, text)| text)
        )
    }
}

/// A message to write.
#[derive(Debug, Clone)]
pub struct NewMessage<'a> {
    pub project_id: &'a str,
    pub request_id: Option<&'a str>,
    pub resource: Resource,
    pub resource_id: Uuid,
    pub action: Action,
    pub detail: Detail,
}

/// Tells the user of an error; in the transaction that sets the resource's error status.
pub async fn insert(tx: &mut Tx, new: NewMessage<'_>) -> Result<Uuid> {
    let (id, now) = (Uuid::new_v4(), now_us());
    tx.execute(
        "INSERT INTO volume_messages (id, project_id, request_id, resource_type, resource_id, action_id, \
         detail_id, level, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            id,
            new.project_id,
            new.request_id,
            new.resource.name(),
            new.resource_id,
            new.action.describe().0,
            new.detail.describe().0,
            "ERROR",
            now,
            now.saturating_add(TTL_US),
        ],
    )
    .await?;
    Ok(id)
}

/// The message `id` of a project (of any project where none is given).
pub async fn get<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Option<Message>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_messages WHERE id = ?");
    let row = from.into().fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(Message::from_row).transpose()
}

/// Removes one message; whether it was there.
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<bool> {
    Ok(tx
        .execute("DELETE FROM volume_messages WHERE id = ?", params![id])
        .await?
        > 0)
}

/// Removes what has expired.
pub async fn delete_expired(tx: &mut Tx) -> Result<u64> {
    tx.execute(
        "DELETE FROM volume_messages WHERE expires_at < ?",
        params![now_us()],
    )
    .await
}
