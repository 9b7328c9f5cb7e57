//! The audit of usage: what existed in a period is told once more, for those who bill by it. Keys
//! and payloads are those of `cinder-volume-usage-audit`.

use database::{Result, Tx};
use rest::time::format_micros;
use serde_json::json;
use uuid::Uuid;

use super::{By, Notices, payloads};
use crate::db::usage_audit::Audited;
use crate::db::{backups, snapshots, volumes};

/// A span of time, in microseconds since the epoch; the end is not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    pub begin_us: i64,
    pub end_us: i64,
}

impl Period {
    /// A moment.
    pub fn at(us: i64) -> Self {
        Period {
            begin_us: us,
            end_us: us,
        }
    }
}

impl Notices {
    /// `volume.<event>`, `snapshot.<event>` or `backup.<event>` with the period that it is for.
    pub async fn audited(
        &self,
        tx: &mut Tx,
        what: Audited,
        id: Uuid,
        event: &str,
        period: Period,
    ) -> Result<()> {
        let found = match what {
            Audited::Volume => match volumes::even_deleted(tx, id).await? {
                Some(volume) => Some((payloads::volume(tx, &volume).await?, volume.host)),
                None => None,
            },
            Audited::Snapshot => match snapshots::even_deleted(tx, id).await? {
                Some((snapshot, is_deleted)) => {
                    let volume = volumes::even_deleted(tx, snapshot.volume_id).await?;
                    let of = volume.as_ref();
                    let payload = payloads::snapshot(tx, &snapshot, is_deleted, of).await?;
                    Some((payload, volume.and_then(|volume| volume.host)))
                }
                None => None,
            },
            Audited::Backup => match backups::even_deleted(tx, id).await? {
                Some(backup) => {
                    let dependents = backups::count_dependents(&mut *tx, id).await?;
                    Some((payloads::backup(&backup, dependents), backup.host))
                }
                None => None,
            },
        };
        let Some((mut payload, host)) = found else {
            return Ok(());
        };
        payload["audit_period_beginning"] = json!(python_time(period.begin_us));
        payload["audit_period_ending"] = json!(python_time(period.end_us));
        let by = By::default();
        self.put(tx, what.kind(), host.as_deref(), event, payload, by)
            .await
    }
}

/// `str()` of a time in UTC in Python: the fraction only where there is one.
fn python_time(us: i64) -> String {
    let text = format_micros(us).replace('T', " ");
    let text = text.strip_suffix(".000000").unwrap_or(&text);
    format!("{text}+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_python_does() {
        assert_eq!(
            python_time(1_767_323_045_000_000),
            "2026-01-02 03:04:05+00:00"
        );
        assert_eq!(
            python_time(1_767_323_045_000_006),
            "2026-01-02 03:04:05.000006+00:00"
        );
    }
}
