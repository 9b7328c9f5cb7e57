//! What this service offers and what a project uses of it.

use axum::Json;
use axum::extract::State;
use rest::RequestContext;
use serde_json::{Value, json};

use super::{Service, access};
use crate::db::usage as usage_db;
use crate::error::{Error, Result};
use crate::quota;
use crate::stores::Store;
use crate::views::{LimitView, StoreDetailView, StoreView, StoresView};

/// The import methods that are enabled.
pub async fn import(State(service): Service, _: RequestContext) -> Json<Value> {
    let methods = &service.options.enabled_import_methods;
    Json(json!({
        "import-methods": {
            "description": "Import methods available.", "type": "array", "value": methods,
        }
    }))
}

/// The stores that clients may choose.
pub async fn stores(State(service): Service, _: RequestContext) -> Result<Json<StoresView>> {
    if !service.stores.have_ids() {
        let message = "Multi backend is not supported at this site.";
        return Err(Error::NotFound(message.to_owned()));
    }
    let view = |store: &Store| StoreView {
        id: store.name().to_owned(),
        description: Some(store.description.clone()).filter(|text| !text.is_empty()),
        default: service.stores.is_default(store).then_some("true"),
        read_only: store.pool.is_none().then_some("true"),
        detail: None,
    };
    Ok(Json(StoresView {
        stores: service.stores.all().iter().map(view).collect(),
    }))
}

/// The stores and how they keep data.
pub async fn stores_detail(
    State(service): Service,
    context: RequestContext,
) -> Result<Json<StoresView>> {
    service
        .policy
        .enforce(&context, "stores_info_detail", &context)
        .map_err(|denied| access::not_authorized(&denied.rule))?;
    let Json(mut view) = stores(State(service.clone()), context).await?;
    for (store, shown) in service.stores.all().iter().zip(&mut view.stores) {
        let (kind, properties) = match &store.pool {
            None => ("http", json!({})),
            Some(pool) => (
                "rbd",
                json!({
                    "chunk_size": pool.chunk_bytes,
                    "pool": pool.name,
                    "thin_provisioning": true,
                    "fsid": pool.engine.fsid(),
                }),
            ),
        };
        shown.detail = Some(StoreDetailView {
            kind,
            weight: store.weight,
            properties,
        });
    }
    Ok(Json(view))
}

const MIB: u64 = 1 << 20;

/// Usage of the caller's project; sizes in whole MiB, as limits count. `-1` stands for no limit.
pub async fn usage(State(service): Service, context: RequestContext) -> Result<Json<Value>> {
    let used = usage_db::of_project(&service.database, context.project()).await?;
    let limits = quota::limits_of(&service, context.project_id.as_deref()).await?;
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
