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

/// Usage of the caller's project; sizes in MiB, rounded up. `-1` stands for no limit.
pub async fn usage(State(service): Service, context: RequestContext) -> Result<Json<Value>> {
    let used = usage_db::of_project(&service.database, context.project()).await?;
    let quota = service.options.user_storage_quota;
    let size_limit = if quota == 0 {
        -1
    } else {
        i64::try_from(quota / MIB).unwrap_or(i64::MAX)
    };
    let view = |usage, limit| LimitView { usage, limit };
    Ok(Json(json!({"usage": {
        "image_size_total": view(used.size_bytes.div_ceil(MIB), size_limit),
        "image_stage_total": view(0, -1),
        "image_count_total": view(used.images, -1),
        "image_count_uploading": view(used.uploading, -1),
    }})))
}
