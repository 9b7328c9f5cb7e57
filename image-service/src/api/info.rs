//! What this service offers and what a project uses of it.

use axum::Json;
use axum::extract::State;
use rest::RequestContext;
use serde_json::{Value, json};

use super::{Service, access};
use crate::db::usage as usage_db;
use crate::error::{Error, Result};
use crate::views::LimitView;

/// Import methods: none is enabled.
pub async fn import(_: RequestContext) -> Json<Value> {
    Json(json!({
        "import-methods": {"description": "Import methods available.", "type": "array", "value": []}
    }))
}

/// There is one store, and it has no id to choose it by (Glance without `enabled_backends`).
pub async fn stores(_: RequestContext) -> Result<Json<Value>> {
    Err(Error::NotFound(
        "Multi backend is not supported at this site.".to_owned(),
    ))
}

pub async fn stores_detail(
    State(service): Service,
    context: RequestContext,
) -> Result<Json<Value>> {
    service
        .policy
        .enforce(&context, "stores_info_detail", &context)
        .map_err(|denied| access::not_authorized(&denied.rule))?;
    stores(context).await
}

const MIB: u64 = 1 << 20;

/// Usage of the caller's project; sizes in whole MiB, as limits count. `-1` stands for no limit.
pub async fn usage(State(service): Service, context: RequestContext) -> Result<Json<Value>> {
    let used = usage_db::of_project(&service.database, context.project()).await?;
    let limits = &service.options.limits;
    let view = |usage, limit: Option<u64>| LimitView {
        usage,
        limit: limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX)),
    };
    Ok(Json(json!({"usage": {
        "image_size_total": view(used.size_bytes / MIB, limits.image_size_total),
        "image_stage_total": view(used.staged_bytes / MIB, limits.image_stage_total),
        "image_count_total": view(used.images, limits.image_count_total),
        "image_count_uploading": view(used.uploading, limits.image_count_uploading),
    }})))
}
