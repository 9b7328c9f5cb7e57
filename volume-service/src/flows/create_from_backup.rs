//! The task of [`CreateVolume`] that fills a new volume from a backup.

use async_trait::async_trait;
use taskflow::{Retry, Run, Task, TaskError};

use super::create_from_snapshot::wrong_source;
use super::create_volume::{CreateVolume, VolumeSource, place};
use super::restore_backup::{read_metadata, verify, write_volume};
use super::steps::STORE_RETRY;
use crate::backup::VolumeMetadata;

/// The backup's bytes; the output is what the backup tells of its volume. Nothing to undo: the
/// image goes as a whole.
pub(super) struct Restore;

#[async_trait]
impl Task<CreateVolume> for Restore {
    const NAME: &'static str = "restore";
    type Output = VolumeMetadata;

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateVolume>) -> Result<VolumeMetadata, TaskError> {
        let VolumeSource::Backup { backup_id, .. } = run.params.source else {
            return Err(wrong_source());
        };
        let data = verify(&run.ctx, backup_id).await?;
        let target = place(run).await?;
        write_volume(&run.ctx, &data, &target, run).await?;
        read_metadata(&run.ctx, backup_id).await
    }
}
