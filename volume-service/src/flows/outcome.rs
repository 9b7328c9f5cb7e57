//! How flows leave rows behind: statuses and user messages of failures.

use database::Tx;
use taskflow::{FlowInfo, TaskError};
use uuid::Uuid;

use crate::db::messages::{self, Action, Detail, NewMessage, Resource};
use crate::db::{Change, Outcome, status, volumes};
use crate::domain::attachments;

/// Tells the requester of a failure, in the transaction that writes the error status.
pub(crate) async fn tell(
    tx: &mut Tx,
    flow: &FlowInfo,
    resource: (Resource, Uuid),
    action: Action,
    detail: Detail,
) -> Result<(), TaskError> {
    let message = NewMessage {
        project_id: &flow.project_id,
        request_id: Some(flow.request_id.as_str()).filter(|id| !id.is_empty()),
        resource: resource.0,
        resource_id: resource.1,
        action,
        detail,
    };
    messages::insert(tx, message).await?;
    Ok(())
}

/// Writes the final status of a successful flow. A row that somebody has reset meanwhile keeps
/// what it was reset to: the operator's word stands.
pub(crate) async fn settle(tx: &mut Tx, change: Change) -> Result<(), TaskError> {
    let outcome = change.apply(tx).await?;
    warn_if_reset(&outcome);
    Ok(())
}

/// Logs that a final status was not written.
pub(crate) fn warn_if_reset(outcome: &Outcome) {
    if let Outcome::WrongState { status } = outcome {
        tracing::warn!(
            status,
            "the resource was put into another state while its flow ran"
        );
    }
}

/// The status of a volume that nothing is done to: `in-use` while attached, else `available`.
pub(crate) async fn resting_status(
    tx: &mut Tx,
    volume_id: Uuid,
) -> Result<&'static str, TaskError> {
    let volume = volumes::get(&mut *tx, volume_id).await?;
    Ok(volume.map_or(status::AVAILABLE, |volume| {
        attachments::resting_status(&volume.attach_status)
    }))
}

/// Ends the work of bringing data to a volume: from one of `busy` to `to`. A volume that was
/// reserved meanwhile stays so when the work succeeded.
pub(crate) async fn end_download(
    tx: &mut Tx,
    volume_id: Uuid,
    busy: &[&'static str],
    to: &str,
) -> Result<Outcome, TaskError> {
    let outcome = Change::volume(volume_id)
        .when(busy)
        .status(to)
        .apply(tx)
        .await?;
    if !matches!(outcome, Outcome::WrongState { .. }) {
        return Ok(outcome);
    }
    let mut reserved = Change::volume(volume_id)
        .when(&[status::RESERVED])
        .and("previous_status = ?", &[status::DOWNLOADING.into()])
        .set("previous_status = ?", None::<&str>);
    if to == status::ERROR {
        reserved = reserved.status(to);
    }
    Ok(reserved.apply(tx).await?)
}

/// The text of a failure, for `fail_reason` (255 characters).
pub(crate) fn fail_reason(failure: Option<&TaskError>) -> String {
    let reason = failure.map_or_else(|| "unknown".to_owned(), |failure| failure.message.clone());
    reason.chars().take(255).collect()
}
