//! Attachments: reserve, connect, complete, delete. Each is one transaction.

use database::Tx;
use rest::RequestContext;
use rest::list_query::{Clause, Column, Columns};
use uuid::Uuid;

use super::listing::{self, Query, Rows, Table};
use super::{detach_guard, parse_id, qos_specs, requester, sees, volumes};
use crate::connection::{Connection, Target};
use crate::db::attachments::{self, Attachment, Document, MODE_UNSET};
use crate::db::exports::{self, Export};
use crate::db::messages::{self, Action, Detail, NewMessage, Resource};
use crate::db::volumes::Volume;
use crate::db::{self, Change, Outcome, connections, status, volume_types};
use crate::manager::volume_image_name;
use crate::{Error, Result, VolumeService};

/// What lists of attachments may be sorted by.
pub static SORTABLE: Columns = Columns {
    columns: &[
        Column::int("created_at", "created_at"),
        Column::int("updated_at", "updated_at").nullable(),
        Column::int("attach_time", "attached_at").nullable(),
        Column::text("volume_id", "volume_id"),
        Column::text("instance_id", "instance_id").nullable(),
        Column::text("instance_uuid", "instance_id").nullable(),
        Column::text("attach_status", "attach_status"),
        Column::text("attached_host", "attached_host").nullable(),
    ],
    id: Column::text("id", "id"),
};

static TABLE: Table = Table {
    resource: "Volume attachment",
    name: "volume_attachments",
    columns: attachments::COLUMNS,
    sortable: &SORTABLE,
    soft_deleted: false,
};

/// Statuses that say nothing but how a volume is attached; attaching and detaching move it among
/// them. Any other belongs to an operation, which puts the volume back when it ends.
pub(super) const RESTING: &[&str] = &[
    status::AVAILABLE,
    status::RESERVED,
    status::ATTACHING,
    status::DETACHING,
    status::IN_USE,
];

/// "Volume attachment could not be found with filter: attachment_id = …."
pub fn not_found(id: impl std::fmt::Display) -> Error {
    Error::NotFound(format!(
        "Volume attachment could not be found with filter: attachment_id = {id}."
    ))
}

/// The attachment of this id with its volume, if the caller may see the volume.
pub async fn get(
    service: &VolumeService,
    context: &RequestContext,
    id: &str,
) -> Result<(Attachment, Volume)> {
    let uuid = parse_id(id).ok_or_else(|| not_found(id))?;
    let attachment = attachments::get(&service.database, uuid).await?;
    let attachment = attachment.ok_or_else(|| not_found(id))?;
    let volume = db::volumes::get(&service.database, attachment.volume_id).await?;
    let volume = volume
        .filter(|volume| sees(context, &volume.project_id))
        .ok_or_else(|| not_found(id))?;
    Ok((attachment, volume))
}

/// The filter for attachments of a project's volumes.
pub fn of_project(project_id: &str) -> Clause {
    let sql = "EXISTS (SELECT 1 FROM volumes v WHERE v.id = volume_attachments.volume_id AND v.project_id = ?)";
    Clause::raw(sql, vec![project_id.into()])
}

/// One page of attachments.
pub async fn list(service: &VolumeService, query: Query) -> Result<Rows<Attachment>> {
    listing::fetch(&service.database, &TABLE, query, Attachment::from_row).await
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The server.
    pub instance_id: Option<Uuid>,
    /// Its host, if that is known already.
    pub connector: Option<Document>,
    /// `rw` or `ro`; none: as the connector says.
    pub mode: Option<String>,
}

/// Reserves a volume, and connects it where the connector is known.
///
/// Errors: [`Error::Invalid`] when the volume is in the wrong state.
pub async fn create(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    request: Request,
) -> Result<Attachment> {
    let mut tx = service.database.begin().await?;
    let current = db::volumes::get(&mut tx, volume.id)
        .await?
        .ok_or_else(|| volumes::not_found(volume.id))?;
    if current.status.contains("error") {
        return Err(in_error("created", &current, Error::invalid_volume));
    }
    if current.multiattach && current.status == status::IN_USE && current.bootable {
        let rule = "volume:multiattach_bootable_volume";
        service.policy.enforce(context, rule, &current.project_id)?;
    }
    reserve(&mut tx, &current, request.instance_id).await?;
    let mode = match current.readonly {
        Some(true) => "ro",
        _ => request.mode.as_deref().unwrap_or(MODE_UNSET),
    };
    let mut attachment = Attachment::reserved(current.id, request.instance_id, mode);
    attachments::insert(&mut tx, &attachment).await?;
    if let Some(connector) = request.connector.filter(|connector| !connector.is_empty()) {
        let notices = &service.notices;
        notices
            .volume(&mut tx, current.id, "attach.start", context)
            .await?;
        connect(&mut tx, &current, &mut attachment, connector).await?;
        notices
            .volume(&mut tx, current.id, "attach.end", context)
            .await?;
    }
    tx.commit().await?;
    Ok(attachment)
}

/// Sets the volume `reserved`. One that the same server has already may be reserved once more
/// whatever its state: the server moves to another host.
async fn reserve(tx: &mut Tx, volume: &Volume, instance_id: Option<Uuid>) -> Result<()> {
    let expected: &[&'static str] = if volume.multiattach {
        &[status::AVAILABLE, status::IN_USE, status::DOWNLOADING]
    } else {
        &[status::AVAILABLE, status::DOWNLOADING]
    };
    if let Some(from) = expected.iter().find(|from| **from == volume.status) {
        let mut change = Change::volume(volume.id).when(&[*from]);
        if *from == status::DOWNLOADING {
            // Its data are not all there yet: the flow that brings them clears this.
            change = change.set("previous_status = ?", status::DOWNLOADING);
        }
        match change.status(status::RESERVED).apply(tx).await? {
            Outcome::Done => return Ok(()),
            Outcome::NotFound => return Err(volumes::not_found(volume.id)),
            Outcome::WrongState { .. } => {}
        }
    }
    let moving = [status::IN_USE, status::RESERVED].contains(&volume.status.as_str())
        && instance_id.is_some()
        && attachments::of_volume(&mut *tx, volume.id)
            .await?
            .iter()
            .any(|one| one.instance_id == instance_id);
    if moving {
        return Ok(());
    }
    let expected = expected.join(" or ");
    Err(Error::invalid_volume(format!(
        "Volume {} status must be {expected} to reserve, but the current status is {}.",
        volume.id, volume.status
    )))
}

/// Tells a reserved attachment how its host reaches the volume.
///
/// Errors: [`Error::Conflict`] when the volume is in an error state, or another host is
/// connected to a volume that only one may have.
pub async fn update(
    service: &VolumeService,
    context: &RequestContext,
    id: Uuid,
    connector: Document,
) -> Result<Attachment> {
    let mut tx = service.database.begin().await?;
    let mut attachment = attachments::get(&mut tx, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    let volume_id = attachment.volume_id;
    let volume = db::volumes::get(&mut tx, volume_id)
        .await?
        .ok_or_else(|| volumes::not_found(volume_id))?;
    if volume.status.contains("error") {
        return Err(in_error("updated", &volume, Error::Conflict));
    }
    let all = attachments::of_volume(&mut tx, volume_id).await?;
    let connected = all.iter().any(|one| {
        one.connection_info
            .as_ref()
            .is_some_and(|info| !info.is_empty())
    });
    if all.len() > 1 && !volume.multiattach && connected {
        return Err(Error::Conflict(format!(
            "duplicate connectors detected on volume {volume_id}"
        )));
    }
    let notices = &service.notices;
    notices
        .volume(&mut tx, volume_id, "attach.start", context)
        .await?;
    match connect(&mut tx, &volume, &mut attachment, connector).await {
        Ok(()) => {
            notices
                .volume(&mut tx, volume_id, "attach.end", context)
                .await?;
            tx.commit().await?;
        }
        Err(error @ Error::Unavailable(_)) => {
            attachment.attach_status = status::ERROR_ATTACHING.to_owned();
            attachments::update(&mut tx, &attachment).await?;
            let by = requester(context, &volume.project_id);
            let message = NewMessage {
                project_id: &by.project_id,
                request_id: Some(&by.request_id),
                resource: Resource::Volume,
                resource_id: volume_id,
                action: Action::UpdateAttachment,
                detail: Detail::DriverNotInitialized,
            };
            messages::insert(&mut tx, message).await?;
            tx.commit().await?;
            return Err(error);
        }
        Err(error) => return Err(error),
    }
    Ok(attachment)
}

fn in_error(verb: &str, volume: &Volume, error: fn(String) -> Error) -> Error {
    error(format!(
        "Volume attachments can not be {verb} if the volume is in an error state. \
         The Volume {} currently has a status of: {} ",
        volume.id, volume.status
    ))
}

/// Gives the attachment its connection_info; volume and attachment become `attaching`.
async fn connect(
    tx: &mut Tx,
    volume: &Volume,
    attachment: &mut Attachment,
    mut connector: Document,
) -> Result<()> {
    if volume.status == status::RESERVED
        && volume.previous_status.as_deref() == Some(status::DOWNLOADING)
    {
        return Err(Error::Conflict(format!(
            "Volume {} cannot be connected before its image is copied.",
            volume.id
        )));
    }
    let text = |key: &str| -> Result<Option<String>> {
        match connector.get(key) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(text)) if text.chars().count() <= 255 => {
                Ok(Some(text.clone()))
            }
            Some(_) => Err(Error::invalid_input(format!(
                "The connector's {key} must be a text of at most 255 characters."
            ))),
        }
    };
    let (host, mountpoint, asked_mode) = (text("host")?, text("mountpoint")?, text("mode")?);
    let host = host.unwrap_or_default();
    let read_only = match attachment.attach_mode.as_str() {
        MODE_UNSET => asked_mode.as_deref() == Some("ro") || volume.readonly == Some(true),
        mode => mode == "ro",
    };
    let mode = if read_only { "ro" } else { "rw" };
    connector.insert("mode".to_owned(), mode.into());
    let export = Export::new(volume.id, Some(attachment.id), &host, read_only);
    let mut info = connection_info(tx, volume, &export).await?;
    info.insert("attachment_id".to_owned(), attachment.id.to_string().into());
    info.insert(
        "enforce_multipath".to_owned(),
        enforce_multipath(&connector),
    );
    exports::delete_of_attachment(tx, attachment.id).await?;
    exports::insert(tx, &export).await?;
    attachment.attached_host = Some(host);
    attachment.mountpoint = Some(mountpoint.unwrap_or_else(|| "na".to_owned()));
    attachment.attach_mode = mode.to_owned();
    attachment.attach_status = status::ATTACHING.to_owned();
    attachment.attached_at = Some(database::now_us());
    attachment.connector = Some(connector);
    attachment.connection_info = Some(info);
    attachments::update(tx, attachment).await?;
    move_to(tx, volume, status::ATTACHING, status::ATTACHING).await
}

/// `enforce_multipath` of a connector, which is handed back in the connection_info.
pub(super) fn enforce_multipath(connector: &Document) -> serde_json::Value {
    let asked = connector.get("enforce_multipath").cloned();
    asked.unwrap_or(serde_json::Value::Bool(false))
}

/// What the holder of `export` needs to reach the volume, flat: `driver_volume_type` and data.
///
/// Errors: [`Error::Unavailable`] while the volume's manager has not said how.
pub(super) async fn connection_info(
    tx: &mut Tx,
    volume: &Volume,
    export: &Export,
) -> Result<Document> {
    let host = volume.host.as_deref().unwrap_or_default();
    let connection: Option<Connection> = connections::of_pool(&mut *tx, host).await?;
    let connection =
        connection.ok_or_else(|| Error::Unavailable("Volume driver not ready.".to_owned()))?;
    let specs = volume_types::extra_specs(&mut *tx, volume.volume_type_id).await?;
    let image = volume_image_name(volume.image_id());
    let qos_specs = qos_specs::for_client(tx, volume).await?;
    let target = Target {
        volume_id: volume.id,
        pool: host.split_once('#').map_or("", |(_, pool)| pool),
        image: &image,
        export_name: &export.name,
        read_only: export.read_only,
        encrypted: volume.encryption_key_id.is_some(),
        qos_specs,
        cacheable: !volume.multiattach
            && specs
                .get("cacheable")
                .is_some_and(|value| value == "<is> True"),
    };
    let mut info = connection.data(&target);
    let protocol = connection.driver_volume_type();
    info.insert("driver_volume_type".to_owned(), protocol.into());
    Ok(info)
}

/// Volume and `attach_status` into a new state; the status of an operation under way stays.
pub(super) async fn move_to(
    tx: &mut Tx,
    volume: &Volume,
    to: &str,
    attach_status: &str,
) -> Result<()> {
    let change = Change::volume(volume.id)
        .when(RESTING)
        .status(to)
        .set("attach_status = ?", attach_status);
    match change.apply(tx).await? {
        Outcome::Done => return Ok(()),
        Outcome::NotFound => return Err(volumes::not_found(volume.id)),
        Outcome::WrongState { .. } => {}
    }
    if volume.attach_status == status::DETACHED {
        return Err(Error::Conflict(format!(
            "Volume {} cannot be attached in status {}.",
            volume.id, volume.status
        )));
    }
    Change::volume(volume.id)
        .set("attach_status = ?", attach_status)
        .apply(tx)
        .await?;
    Ok(())
}

/// The client has connected: attachment `attached`, volume `in-use`.
pub async fn complete(service: &VolumeService, id: Uuid) -> Result<()> {
    let mut tx = service.database.begin().await?;
    let mut attachment = attachments::get(&mut tx, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    let volume_id = attachment.volume_id;
    let volume = db::volumes::get(&mut tx, volume_id)
        .await?
        .ok_or_else(|| volumes::not_found(volume_id))?;
    attachment.attach_status = status::ATTACHED.to_owned();
    if attachment.attached_at.is_none() {
        attachment.attached_at = Some(database::now_us());
    }
    attachments::update(&mut tx, &attachment).await?;
    move_to(&mut tx, &volume, status::IN_USE, status::ATTACHED).await?;
    Ok(tx.commit().await?)
}

/// Deletes an attachment, unless a server uses it and the caller is no service; returns those
/// that the volume has left.
pub async fn delete(
    service: &VolumeService,
    context: &RequestContext,
    attachment: &Attachment,
) -> Result<Vec<Attachment>> {
    detach_guard::check(service, context, attachment).await?;
    let (mut tx, volume_id) = (service.database.begin().await?, attachment.volume_id);
    let notices = &service.notices;
    // A reservation was never an attachment to anybody but us.
    let was_attached = attachment.attach_status != status::RESERVED;
    if was_attached {
        notices
            .volume(&mut tx, volume_id, "detach.start", context)
            .await?;
    }
    if !attachments::delete(&mut tx, attachment.id).await? {
        return Err(not_found(attachment.id));
    }
    exports::delete_of_attachment(&mut tx, attachment.id).await?;
    settle(&mut tx, volume_id).await?;
    if was_attached {
        notices
            .volume(&mut tx, volume_id, "detach.end", context)
            .await?;
    }
    let left = attachments::of_volume(&mut tx, volume_id).await?;
    tx.commit().await?;
    Ok(left)
}

/// Gives a volume the states that its attachments make, after one of them went.
pub(super) async fn settle(tx: &mut Tx, volume_id: Uuid) -> Result<()> {
    // Takes the row before it is read: whoever else changes it waits.
    if !Change::volume(volume_id).apply(tx).await?.is_done() {
        return Ok(());
    }
    let Some(volume) = db::volumes::get(&mut *tx, volume_id).await? else {
        return Ok(());
    };
    let attach_status = attachments::status_of_volume(tx, volume_id).await?;
    let resting = resting_status(&attach_status);
    let mut change = Change::volume(volume_id).set("attach_status = ?", attach_status.as_str());
    let migrating = volume
        .migration_status
        .as_deref()
        .is_some_and(|state| !["success", "error"].contains(&state));
    let by_attachments = RESTING.contains(&volume.status.as_str())
        || volume.status == status::ERROR
        || volume.status == status::ERROR_EXTENDING;
    if by_attachments && (attach_status != status::DETACHED || !migrating) {
        change = change.status(resting);
    } else if volume
        .previous_status
        .as_deref()
        .is_some_and(|previous| RESTING.contains(&previous))
    {
        change = change.set("previous_status = ?", resting);
    }
    change.apply(tx).await?;
    Ok(())
}

/// The status of a volume that nothing is done to.
pub(crate) fn resting_status(attach_status: &str) -> &'static str {
    match attach_status {
        status::ATTACHED => status::IN_USE,
        status::ATTACHING => status::ATTACHING,
        status::DETACHING => status::DETACHING,
        status::RESERVED => status::RESERVED,
        _ => status::AVAILABLE,
    }
}
