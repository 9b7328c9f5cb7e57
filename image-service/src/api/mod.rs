//! The handlers: a file per resource. Each parses, asks the policy, does one thing, and answers
//! with a view.

mod access;
mod actions;
mod attributes;
mod bodies;
mod byte_range;
mod cache;
mod disk_snapshots;
mod image_create;
mod image_data;
mod image_download;
mod image_list;
mod image_patch;
mod image_send;
mod image_stage;
mod images;
mod imports;
mod info;
mod json_patch;
mod location_patch;
mod locations;
mod members;
mod metadef_schemas;
mod metadefs;
mod schemas;
mod stores;
mod tags;
mod tasks;
mod versions;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::{delete, get, post, put};
use rest::ErrorShape;
use rest::frame::FrameOptions;
use rest::identity::Identity;

use crate::ImageService;

/// What PATCH takes: the value of `Accept-Patch`.
pub const PATCH_MEDIA_TYPES: &str =
    "application/openstack-images-v2.1-json-patch, application/openstack-images-v2.0-json-patch";

/// Handlers share the service.
type Service = axum::extract::State<Arc<ImageService>>;

/// The whole API in its frame.
pub fn router(service: &Arc<ImageService>, identity: Arc<dyn Identity>) -> Router {
    let v2 = service
        .resources()
        .layer(from_fn(bodies::refuse_unexpected));
    let mut api = Router::new().nest("/v2", v2.clone());
    let offered = versions::Offered {
        stores_have_ids: service.stores.have_ids(),
        has_cache: service.cache.is_some(),
    };
    for id in versions::listed(offered) {
        api = api.nest(&format!("/{id}"), v2.clone());
    }
    let api = rest::auth::apply(api, identity, service.policy.clone(), ErrorShape::Image);
    let mut frame = FrameOptions::new(ErrorShape::Image);
    frame.public_endpoint = service.options.public_endpoint.as_deref().map(Arc::from);
    frame.healthcheck_disable_file = service.options.healthcheck_disable_file.clone();
    frame.cors = service.options.cors.clone();
    let framed = rest::frame::apply(versions::routes(offered).merge(api), frame);
    versions::by_media_type(framed, offered)
}

/// Every route that needs a token, without the version before it.
pub fn v2_routes() -> Router<Arc<ImageService>> {
    Router::new()
        .route("/images", get(image_list::list).post(image_create::create))
        .route(
            "/images/{id}",
            get(images::show)
                .patch(image_patch::update)
                .delete(images::delete),
        )
        .route(
            "/images/{id}/file",
            get(image_download::download).put(image_data::upload),
        )
        .route("/images/{id}/stage", put(image_stage::stage))
        .route("/images/{id}/import", post(imports::import))
        .route("/images/{id}/tasks", get(imports::tasks))
        .route("/images/{id}/actions/deactivate", post(actions::deactivate))
        .route("/images/{id}/actions/reactivate", post(actions::reactivate))
        .route(
            "/images/{id}/actions/snapshot_disk",
            post(disk_snapshots::create),
        )
        .route(
            "/images/{id}/tags/{tag}",
            put(tags::add).delete(tags::remove),
        )
        .route(
            "/images/{id}/members",
            get(members::list).post(members::create),
        )
        .route(
            "/images/{id}/members/{member_id}",
            get(members::show)
                .put(members::update)
                .delete(members::delete),
        )
        .route(
            "/images/{id}/locations",
            get(locations::list).post(locations::add),
        )
        .route("/stores/{store_id}/{image_id}", delete(stores::delete))
        .route("/tasks", get(tasks::list).post(tasks::create))
        .route("/tasks/{id}", get(tasks::show))
        .route("/schemas/{name}", get(schemas::show))
        .route("/schemas/metadefs/{name}", get(metadef_schemas::show))
        .nest("/metadefs", metadefs::routes())
        .route("/cache", get(cache::list).delete(cache::clear))
        .route("/cache/clean", post(cache::clean))
        .route("/cache/prune", post(cache::prune))
        .route("/cache/nodes/{id}", get(cache::nodes))
        .route("/cache/{id}", put(cache::queue).delete(cache::delete))
        .route("/info/import", get(info::import))
        .route("/info/stores", get(info::stores))
        .route("/info/stores/detail", get(info::stores_detail))
        .route("/info/usage", get(info::usage))
}
