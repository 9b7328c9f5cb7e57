//! `manageable_volumes` and `manageable_snapshots` (3.8), and their older names `os-volume-manage`
//! and `os-snapshot-manage`.

use axum::Json;
use axum::extract::OriginalUri;
use http::StatusCode;
use rest::paging::Page;
use rest::sort::{self, SortKey};
use rest::validate::Object;
use rest::{BadInput, JsonBody, QueryParams};
use serde_json::Value;

use super::call::Call;
use super::views::manageable::{Snapshots, Volumes};
use super::views::snapshots::{One as OneSnapshot, SummaryView};
use super::views::volumes::{One as OneVolume, VolumeView};
use super::views::{Detail, manageable as views};
use super::{Answer, body};
use crate::Error;
use crate::db::services::VOLUME;
use crate::domain::manage::{self as domain, Reference, Request};
use crate::domain::{clusters, manageable, parse_id, snapshots, volumes};

/// The microversion of the newer names.
fn require_version(call: &Call, uri: &OriginalUri) -> Answer<()> {
    if uri.path().contains("/manageable_") {
        call.version.require(3, 8)?;
    }
    Ok(())
}

/// What a list asks for: the host, the page, the order.
struct ListRequest {
    on: Place,
    page: Page,
    sort: Vec<SortKey>,
}

impl ListRequest {
    fn parse(call: &Call, mut query: QueryParams) -> Result<Self, BadInput> {
        let max = call.service.options.osapi_max_limit;
        let page = Page::take(&mut query, max, max)?;
        let sorted = query.contains("sort") || query.contains("sort_key");
        let mut sort = sort::take(&mut query)?;
        if !sorted {
            for key in &mut sort {
                "reference".clone_into(&mut key.key);
            }
        }
        let cluster = query.take("cluster");
        let on = place(call, query.take("host"), cluster, 17)?;
        Ok(ListRequest { on, page, sort })
    }
}

/// Where something is managed.
enum Place {
    Host(String),
    Cluster(String),
}

impl Place {
    /// The host; of a cluster one that is up.
    async fn host(self, call: &Call) -> crate::Result<String> {
        match self {
            Place::Host(host) => Ok(host),
            Place::Cluster(name) => {
                let host = clusters::host_of(&call.service, &name).await?;
                host.ok_or_else(|| {
                    let text = format!("Service {VOLUME} could not be found in cluster {name}.");
                    Error::NotFound(text)
                })
            }
        }
    }
}

fn place(
    call: &Call,
    host: Option<String>,
    cluster: Option<String>,
    cluster_since: u16,
) -> Result<Place, BadInput> {
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    let (host, cluster) = (given(host), given(cluster));
    if !call.at_least(cluster_since) {
        let host = host.ok_or_else(|| BadInput::invalid_input("Host field is missing."))?;
        return Ok(Place::Host(host));
    }
    match (host, cluster) {
        (Some(host), None) => Ok(Place::Host(host)),
        (None, Some(cluster)) => Ok(Place::Cluster(cluster)),
        _ => Err(BadInput::invalid_input(
            "One and only one of cluster and host must be set.",
        )),
    }
}

/// `GET manageable_volumes?host=`
pub(super) async fn volumes(
    call: Call,
    uri: OriginalUri,
    query: QueryParams,
) -> Answer<Json<Volumes>> {
    list_volumes(call, uri, query, Detail::Summary).await
}

/// `GET manageable_volumes/detail?host=`
pub(super) async fn volumes_detail(
    call: Call,
    uri: OriginalUri,
    query: QueryParams,
) -> Answer<Json<Volumes>> {
    list_volumes(call, uri, query, Detail::Full).await
}

async fn list_volumes(
    call: Call,
    uri: OriginalUri,
    query: QueryParams,
    detail: Detail,
) -> Answer<Json<Volumes>> {
    require_version(&call, &uri)?;
    call.enforce_own("volume_extension:list_manageable")?;
    let asked = ListRequest::parse(&call, query)?;
    let host = asked.on.host(&call).await?;
    let found = manageable::volumes(&call.service, &host, &asked.page, &asked.sort).await?;
    let volumes = found.into_iter().map(|one| views::entry(one, detail));
    Ok(Json(Volumes {
        volumes: volumes.collect(),
    }))
}

/// `GET manageable_snapshots?host=`
pub(super) async fn snapshots(
    call: Call,
    uri: OriginalUri,
    query: QueryParams,
) -> Answer<Json<Snapshots>> {
    list_snapshots(call, uri, query, Detail::Summary).await
}

/// `GET manageable_snapshots/detail?host=`
pub(super) async fn snapshots_detail(
    call: Call,
    uri: OriginalUri,
    query: QueryParams,
) -> Answer<Json<Snapshots>> {
    list_snapshots(call, uri, query, Detail::Full).await
}

async fn list_snapshots(
    call: Call,
    uri: OriginalUri,
    query: QueryParams,
    detail: Detail,
) -> Answer<Json<Snapshots>> {
    require_version(&call, &uri)?;
    call.enforce_own("snapshot_extension:list_manageable")?;
    let asked = ListRequest::parse(&call, query)?;
    let host = asked.on.host(&call).await?;
    let found = manageable::snapshots(&call.service, &host, &asked.page, &asked.sort).await?;
    let snapshots = found.into_iter().map(|one| views::entry(one, detail));
    Ok(Json(Snapshots {
        snapshots: snapshots.collect(),
    }))
}

/// `{"source-name": …}` or `{"source-id": …}`.
fn reference(object: &Object<'_>) -> Result<Reference, BadInput> {
    let reference = object.required_object("ref")?;
    if let Some(name) = reference.string("source-name", 1..=255)? {
        return Ok(Reference::Name(name.to_owned()));
    }
    let id = reference.uuid("source-id")?.and_then(parse_id);
    id.map(Reference::Id).ok_or_else(|| {
        BadInput::invalid_input("Reference must contain source-name or source-id element.")
    })
}

/// `POST manageable_volumes`
pub(super) async fn manage_volume(
    call: Call,
    uri: OriginalUri,
    body: JsonBody,
) -> Answer<(StatusCode, Json<OneVolume>)> {
    require_version(&call, &uri)?;
    call.enforce_own("volume_extension:volume_manage")?;
    let body = body::required(body)?;
    let (request, on) = volume_request(&call, &body)?;
    let host = on.host(&call).await.map_err(|error| match error {
        Error::NotFound(text) => Error::invalid_input(text),
        other => other,
    })?;
    let request = Request { host, ..request };
    let details = domain::manage_volume(&call.service, &call.context, request).await?;
    let volume = VolumeView::plain(&call, details);
    Ok((StatusCode::ACCEPTED, Json(OneVolume { volume })))
}

/// The request without its host, and where that is.
fn volume_request(call: &Call, body: &Value) -> Result<(Request, Place), BadInput> {
    let object = Object::only_member(body, "volume")?;
    let mut keys = vec![
        "ref",
        "host",
        "name",
        "description",
        "volume_type",
        "metadata",
        "availability_zone",
        "bootable",
    ];
    if call.at_least(16) {
        keys.push("cluster");
    }
    object.only(&keys)?;
    let text = |key| Ok::<_, BadInput>(object.string(key, 0..=255)?.map(str::to_owned));
    let on = place(call, text("host")?, text("cluster")?, 16)?;
    let request = Request {
        reference: reference(&object)?,
        host: String::new(),
        name: body::text(&object, "name")?,
        description: body::text(&object, "description")?,
        volume_type: text("volume_type")?,
        metadata: body::metadata(&object)?,
        availability_zone: text("availability_zone")?.filter(|zone| !zone.is_empty()),
        bootable: object.boolean("bootable")?.unwrap_or(false),
    };
    Ok((request, on))
}

/// `POST manageable_snapshots`
pub(super) async fn manage_snapshot(
    call: Call,
    uri: OriginalUri,
    body: JsonBody,
) -> Answer<(StatusCode, Json<OneSnapshot<SummaryView>>)> {
    require_version(&call, &uri)?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "snapshot")?;
    object.only(&["volume_id", "ref", "name", "description", "metadata"])?;
    let volume_id = object.required_uuid("volume_id")?;
    let reference = reference(&object)?;
    let request = snapshots::Request {
        name: body::text(&object, "name")?,
        description: body::text(&object, "description")?,
        metadata: body::metadata(&object)?,
        in_use_too: true,
    };
    let volume = volumes::get(&call.service, &call.context, volume_id).await?;
    call.enforce("snapshot_extension:snapshot_manage", &volume.project_id)?;
    let details =
        domain::manage_snapshot(&call.service, &call.context, &volume, &reference, request).await?;
    let snapshot = SummaryView::new(&call, details);
    Ok((StatusCode::ACCEPTED, Json(OneSnapshot { snapshot })))
}
