//! `POST volumes`.

use axum::Json;
use http::StatusCode;
use rest::validate::Object;
use rest::{BadInput, JsonBody};

use super::call::Call;
use super::views::volumes::{One, VolumeView};
use super::{Answer, body, scheduler_hints};
use crate::domain::volume_create::{self as domain, Request};
use crate::domain::volume_source::SourceRef;

const MULTIATTACH_REMOVED: &str = "multiattach parameter has been removed. The default behavior is to use multiattach \
     enabled volume types. Contact your administrator to create a multiattach enabled volume type and use it to \
     create multiattach volumes.";
const HINTS: &str = "OS-SCH-HNT:scheduler_hints";
const KEYS: &[&str] = &[
    "name",
    "description",
    "display_name",
    "display_description",
    "volume_type",
    "metadata",
    "snapshot_id",
    "source_volid",
    "consistencygroup_id",
    "size",
    "availability_zone",
    "multiattach",
    "image_id",
    "imageRef",
    "group_id",
    "backup_id",
    HINTS,
];

/// `POST volumes`
pub(super) async fn create(call: Call, body: JsonBody) -> Answer<(StatusCode, Json<One>)> {
    let body = body::required(body)?;
    let body = Object::new(&body)?;
    let volume = body.required_object("volume")?;
    body.only(&["volume", HINTS])?;
    let mut request = parse(&call, &volume)?;
    request.hints = scheduler_hints::parse(body.object(HINTS)?)?;
    let details = domain::create(&call.service, &call.context, request).await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(One {
            volume: VolumeView::plain(&call, details),
        }),
    ))
}

fn parse(call: &Call, volume: &Object<'_>) -> Result<Request, BadInput> {
    if call.at_least(53) {
        volume.only(KEYS)?;
    }
    if volume.boolean("multiattach")?.unwrap_or(false) {
        return Err(BadInput::new(MULTIATTACH_REMOVED));
    }
    let size_gib = volume
        .integer("size", 1..=body::MAX_INT)?
        .and_then(|size| u32::try_from(size).ok());
    // Named, a group counts at every microversion, as a backup does.
    let group_id = volume
        .uuid("group_id")?
        .or(volume.uuid("consistencygroup_id")?);
    Ok(Request {
        size_gib,
        name: body::name(volume)?,
        description: body::description(volume)?,
        volume_type: volume.string("volume_type", 0..=255)?.map(str::to_owned),
        metadata: body::metadata(volume)?,
        availability_zone: volume
            .string("availability_zone", 1..=255)?
            .map(|zone| zone.trim().to_owned()),
        group_id: group_id.map(str::to_owned),
        source: source(call, volume)?,
        hints: serde_json::Map::new(),
    })
}

fn image_source(call: &Call, reference: &str) -> SourceRef {
    if call.at_least(46) {
        SourceRef::ImageOrSnapshot(reference.to_owned())
    } else {
        SourceRef::Image(reference.to_owned())
    }
}

/// The source that the request names; it may name one at most.
fn source(call: &Call, volume: &Object<'_>) -> Result<SourceRef, BadInput> {
    let image = volume
        .string("imageRef", 0..=255)?
        .or(volume.string("image_id", 0..=255)?);
    let backup = volume.uuid("backup_id")?;
    let mut named = vec![
        ("backup", backup.map(|id| SourceRef::Backup(id.to_owned()))),
        ("imageRef", image.map(|id| image_source(call, id))),
        (
            "snapshot",
            volume
                .uuid("snapshot_id")?
                .map(|id| SourceRef::Snapshot(id.to_owned())),
        ),
        (
            "source_volume",
            volume
                .uuid("source_volid")?
                .map(|id| SourceRef::Volume(id.to_owned())),
        ),
    ];
    named.retain(|(_, source)| source.is_some());
    if named.len() > 1 {
        let names: Vec<_> = named.iter().map(|(name, _)| *name).collect();
        return Err(BadInput::invalid_input(format!(
            "May specify only one of {}",
            names.join(", ")
        )));
    }
    Ok(named
        .pop()
        .and_then(|(_, source)| source)
        .unwrap_or(SourceRef::Nothing))
}
