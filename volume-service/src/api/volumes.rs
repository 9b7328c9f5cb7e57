//! `volumes`: list, show, update, delete, summary, encryption.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::validate::Object;
use rest::{BadInput, Fault, JsonBody, QueryParams, filter};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::call::Call;
use super::list_params::ListParams;
use super::views::volumes::{List, One, Totals, TotalsView, VolumeView, summary as summary_view};
use super::views::{Detail, Rows};
use super::{Answer, body, volume_filters};
use crate::db::type_encryption;
use crate::domain::volume_delete::{self, Manner};
use crate::domain::volumes as domain;

/// `GET volumes`
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, Detail::Summary).await
}

/// `GET volumes/detail`
pub(super) async fn detail(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, Detail::Full).await
}

async fn list(call: Call, query: QueryParams, detail: Detail) -> Answer<Json<List>> {
    call.enforce_own("volume:get_all")?;
    let params = ListParams::parse(&call, query, "volume", volume_filters::SINCE)?;
    let filters = volume_filters::clauses(&call, &params)?;
    let (query, next) = params.into_query(filters);
    let page = domain::list(&call.service, query).await?;
    let ids: Vec<String> = page
        .rows
        .iter()
        .map(|volume| volume.id.to_string())
        .collect();
    let volumes_links = next.of(&call, &detail.path("volumes"), ids.into_iter());
    let volumes = match detail {
        Detail::Summary => Rows::Summary(
            page.rows
                .into_iter()
                .map(|volume| summary_view(&call, volume))
                .collect(),
        ),
        Detail::Full => {
            let rows = domain::with_details(&call.service, page.rows).await?;
            Rows::Full(
                rows.into_iter()
                    .map(|details| VolumeView::full(&call, details))
                    .collect(),
            )
        }
    };
    Ok(Json(List {
        volumes,
        volumes_links,
        count: page.total,
    }))
}

/// `GET volumes/summary?all_tenants=` (3.12)
pub(super) async fn summary(call: Call, query: QueryParams) -> Answer<Json<Totals>> {
    call.version.require(3, 12)?;
    call.enforce_own("volume:get_all")?;
    let all = query
        .get("all_tenants")
        .map(|text| filter::require_bool("all_tenants", text))
        .transpose()?;
    let all = all.unwrap_or(false) && call.context.is_admin;
    let project_id = (!all).then(|| call.context.project());
    let with_metadata = call.at_least(36);
    let totals = domain::summary(&call.service, project_id, with_metadata).await?;
    let summary = TotalsView {
        total_count: totals.count,
        total_size: totals.size_gib,
        metadata: with_metadata.then_some(totals.metadata),
    };
    Ok(Json(Totals { summary }))
}

/// `GET volumes/{id}`
pub(super) async fn show(call: Call, Path(id): Path<String>) -> Answer<Json<One>> {
    let volume = domain::get(&call.service, &call.context, &id).await?;
    let details = domain::details(&call.service, volume).await?;
    Ok(Json(One {
        volume: VolumeView::full(&call, details),
    }))
}

/// `PUT volumes/{id}`
pub(super) async fn update(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<Json<One>> {
    let body = body::required(body)?;
    let object = Object::only_member(&body, "volume")?;
    let known = [
        "name",
        "description",
        "display_name",
        "display_description",
        "metadata",
    ];
    object.only(&known)?;
    if !known.iter().any(|key| object.contains(key)) && call.at_least(53) {
        return Err(BadInput::new(
            "Must specify at least one of 'name', 'description' or 'metadata' to update.",
        )
        .into());
    }
    let changes = body::changes(&object)?;
    let volume = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("volume:update", &volume.project_id)?;
    let details = domain::update(&call.service, &call.context, volume.id, &changes).await?;
    Ok(Json(One {
        volume: VolumeView::plain(&call, details),
    }))
}

/// `DELETE volumes/{id}?cascade=&force=` (`force` since 3.23)
pub(super) async fn delete(
    call: Call,
    Path(id): Path<String>,
    query: QueryParams,
) -> Answer<StatusCode> {
    let flag = |key: &str| -> Result<bool, BadInput> {
        let value = query
            .get(key)
            .map(|text| filter::require_bool(key, text))
            .transpose()?;
        Ok(value.unwrap_or(false))
    };
    let manner = Manner {
        cascade: flag("cascade")?,
        force: call.at_least(23) && flag("force")?,
        unmanage: false,
    };
    let volume = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("volume:delete", &volume.project_id)?;
    if manner.force {
        call.enforce("volume:force_delete", &volume.project_id)?;
    }
    volume_delete::delete(&call.service, &call.context, &volume, manner).await?;
    Ok(StatusCode::ACCEPTED)
}

/// What `volumes/{id}/encryption` shows.
#[derive(Serialize)]
pub(super) struct Encryption {
    encryption_key_id: Option<Uuid>,
    /// Of an encrypted volume.
    #[serde(flatten)]
    settings: Option<EncryptionSettings>,
}

/// How the volume's type encrypts.
#[derive(Serialize)]
struct EncryptionSettings {
    control_location: String,
    cipher: Option<String>,
    key_size: Option<i64>,
    provider: String,
}

/// `GET volumes/{id}/encryption`
pub(super) async fn encryption(call: Call, Path(id): Path<String>) -> Answer<Json<Encryption>> {
    let volume = domain::get(&call.service, &call.context, &id).await?;
    call.enforce(
        "volume_extension:volume_encryption_metadata",
        &volume.project_id,
    )?;
    let of_type = match volume.encryption_key_id {
        Some(_) => type_encryption::get(&call.service.database, volume.volume_type_id).await?,
        None => None,
    };
    let settings = of_type.map(|of| EncryptionSettings {
        control_location: of.control_location,
        cipher: of.cipher,
        key_size: of.key_size,
        provider: of.provider,
    });
    Ok(Json(Encryption {
        encryption_key_id: volume.encryption_key_id,
        settings,
    }))
}

/// `GET volumes/{id}/encryption/{key}`
pub(super) async fn encryption_key(
    call: Call,
    Path((id, key)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let Json(shown) = encryption(call, Path(id)).await?;
    let shown = serde_json::to_value(shown).map_err(|error| Fault::internal(&error))?;
    Ok(Json(shown.get(&key).cloned().unwrap_or_default()))
}
