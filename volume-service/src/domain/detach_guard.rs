//! Who may take a volume from a server: the rule against CVE-2023-2088.
//!
//! A user who deletes an attachment behind the compute service's back leaves a device on its
//! host that may later show another project's data. So a volume that a server uses is detached
//! by the compute service only, which says so with a service token.

use rest::RequestContext;
use uuid::Uuid;

use crate::compute::Compute;
use crate::db::attachments::{self, Attachment};
use crate::{Error, Result, VolumeService};

/// Whether the request comes from a service.
fn is_service(service: &VolumeService, context: &RequestContext) -> bool {
    let wanted = &service.options.service_token_roles;
    context
        .service_roles
        .iter()
        .any(|role| wanted.iter().any(|one| one.eq_ignore_ascii_case(role)))
}

/// Refuses to delete an attachment that a server uses.
///
/// Errors: [`Error::Conflict`]; [`Error::Unavailable`] when the compute service does not answer.
pub async fn check(
    service: &VolumeService,
    context: &RequestContext,
    attachment: &Attachment,
) -> Result<()> {
    if is_service(service, context) {
        return Ok(());
    }
    let connected = attachment
        .connection_info
        .as_ref()
        .is_some_and(|info| !info.is_empty());
    let Some(server_id) = attachment.instance_id.filter(|_| connected) else {
        return Ok(());
    };
    let compute = match &service.compute {
        Compute::Absent => return Ok(()),
        Compute::Unknown => return Err(refused(Some(server_id))),
        Compute::At(compute) => compute,
    };
    match compute.attachment_of(server_id, attachment.volume_id).await {
        Ok(Some(used)) if used == attachment.id => Err(refused(Some(server_id))),
        Ok(used) => {
            tracing::warn!(
                attachment = %attachment.id, server = %server_id, ?used,
                "the server does not use this attachment: it is deleted here alone"
            );
            Ok(())
        }
        Err(error) => Err(Error::Unavailable(error.to_string())),
    }
}

/// [`check`] of the attachment that an action on a volume means: the named one, else the only
/// one. Which of several is meant only a service knows.
pub async fn check_volume(
    service: &VolumeService,
    context: &RequestContext,
    volume_id: Uuid,
    attachment_id: Option<Uuid>,
) -> Result<()> {
    if is_service(service, context) {
        return Ok(());
    }
    let all = attachments::of_volume(&service.database, volume_id).await?;
    let meant = match (attachment_id, all.as_slice()) {
        (None, []) => return Ok(()),
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(id), all) => all.iter().find(|one| one.id == id),
    };
    if let Some(meant) = meant {
        return check(service, context, meant).await;
    }
    let elsewhere = match attachment_id {
        Some(id) => attachments::get(&service.database, id).await?,
        None => None,
    };
    if elsewhere.is_some() {
        return Err(Error::invalid_input("Mismatched volume and attachment"));
    }
    Err(refused(None))
}

fn refused(server_id: Option<Uuid>) -> Error {
    let server = server_id.map(|id| id.to_string()).unwrap_or_default();
    Error::Conflict(format!(
        "Detach volume from instance {server} using the Compute API"
    ))
}
