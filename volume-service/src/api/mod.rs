//! The REST API: a file per resource. Handlers parse, ask the policy, make one call into
//! [`crate::domain`] and hand the result to a view.

mod actions;
mod attachments;
mod availability_zones;
mod backup_actions;
mod backups;
mod body;
mod call;
mod extensions;
mod extra_specs;
mod limits;
mod list_params;
mod messages;
pub mod policy_rules;
mod pools;
mod quota_classes;
mod quota_sets;
mod resource_filters;
mod services;
mod snapshot_actions;
mod snapshot_metadata;
mod snapshots;
mod type_access;
mod types;
mod versions;
mod views;
mod volume_actions;
mod volume_create;
mod volume_filters;
mod volume_image_actions;
mod volume_metadata;
mod volumes;

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post, put};
use rest::frame::FrameOptions;
use rest::identity::Identity;
use rest::microversion::VersionRange;
use rest::{ErrorShape, Fault, Microversion};

use crate::VolumeService;

/// The microversions of this release.
pub const VERSIONS: VersionRange = VersionRange {
    service: "volume",
    min: Microversion::new(3, 0),
    max: Microversion::new(3, 71),
};

/// What a handler returns.
type Answer<T> = Result<T, Fault>;

/// The whole service with identity, microversions and frame: ready to be served.
pub fn router(service: Arc<VolumeService>, identity: Arc<dyn Identity>) -> Router {
    let mut frame = FrameOptions::new(ErrorShape::Volume);
    frame.public_endpoint = service.options.public_endpoint.as_deref().map(Arc::from);
    frame.json_limit_bytes = service.options.max_request_body_size;
    frame.healthcheck_disable_file = service.options.healthcheck_disable_file.clone();
    let policy = service.policy.clone();
    let api = resources().with_state(service);
    let api = rest::auth::apply(api, identity, policy, ErrorShape::Volume);
    let api = versions::unauthenticated().merge(api);
    let api = rest::microversion::apply(api, VERSIONS);
    let api = rest::project_path::apply(api, "/v3");
    rest::frame::apply(api, frame)
}

/// The routes that need a token, without what stands around them in [`router`].
pub fn resources() -> Router<Arc<VolumeService>> {
    Router::new()
        .merge(volumes_and_metadata())
        .merge(snapshots_and_metadata())
        .merge(backups_and_actions())
        .merge(types_and_specs())
        .merge(operations())
}

fn volumes_and_metadata() -> Router<Arc<VolumeService>> {
    let metadata = get(volume_metadata::index)
        .post(volume_metadata::merge)
        .put(volume_metadata::replace);
    let entry = get(volume_metadata::show)
        .put(volume_metadata::update)
        .delete(volume_metadata::delete);
    Router::new()
        .route(
            "/v3/volumes",
            get(volumes::index).post(volume_create::create),
        )
        .route("/v3/volumes/detail", get(volumes::detail))
        .route("/v3/volumes/summary", get(volumes::summary))
        .route(
            "/v3/volumes/{id}",
            get(volumes::show)
                .put(volumes::update)
                .delete(volumes::delete),
        )
        .route("/v3/volumes/{id}/action", post(volume_actions::act))
        .route("/v3/volumes/{id}/metadata", metadata)
        .route("/v3/volumes/{id}/metadata/{key}", entry)
        .route("/v3/volumes/{id}/encryption", get(volumes::encryption))
        .route(
            "/v3/volumes/{id}/encryption/{key}",
            get(volumes::encryption_key),
        )
}

fn snapshots_and_metadata() -> Router<Arc<VolumeService>> {
    let metadata = get(snapshot_metadata::index)
        .post(snapshot_metadata::merge)
        .put(snapshot_metadata::replace);
    let entry = get(snapshot_metadata::show)
        .put(snapshot_metadata::update)
        .delete(snapshot_metadata::delete);
    Router::new()
        .route(
            "/v3/snapshots",
            get(snapshots::index).post(snapshots::create),
        )
        .route("/v3/snapshots/detail", get(snapshots::detail))
        .route(
            "/v3/snapshots/{id}",
            get(snapshots::show)
                .put(snapshots::update)
                .delete(snapshots::delete),
        )
        .route("/v3/snapshots/{id}/action", post(snapshot_actions::act))
        .route("/v3/snapshots/{id}/metadata", metadata)
        .route("/v3/snapshots/{id}/metadata/{key}", entry)
}

fn backups_and_actions() -> Router<Arc<VolumeService>> {
    Router::new()
        .route("/v3/backups", get(backups::index).post(backups::create))
        .route("/v3/backups/detail", get(backups::detail))
        .route(
            "/v3/backups/{id}",
            get(backups::show)
                .put(backups::update)
                .delete(backups::delete),
        )
        .route("/v3/backups/{id}/restore", post(backups::restore))
        .route("/v3/backups/{id}/action", post(backup_actions::act))
}

fn types_and_specs() -> Router<Arc<VolumeService>> {
    let spec = get(extra_specs::show)
        .put(extra_specs::update)
        .delete(extra_specs::delete);
    Router::new()
        .route("/v3/types", get(types::index).post(types::create))
        .route(
            "/v3/types/{id}",
            get(types::show).put(types::update).delete(types::delete),
        )
        .route("/v3/types/{id}/action", post(type_access::act))
        .route(
            "/v3/types/{id}/os-volume-type-access",
            get(type_access::index),
        )
        .route(
            "/v3/types/{id}/extra_specs",
            get(extra_specs::index).post(extra_specs::create),
        )
        .route("/v3/types/{id}/extra_specs/{key}", spec)
        .route("/v3/types/{id}/encryption", get(types::encryption))
}

fn operations() -> Router<Arc<VolumeService>> {
    let quota_set = get(quota_sets::show)
        .put(quota_sets::update)
        .delete(quota_sets::delete);
    Router::new()
        .route("/v3/attachments", get(attachments::index))
        .route("/v3/attachments/detail", get(attachments::index))
        .route("/v3/limits", get(limits::index))
        .route("/v3/os-quota-sets/{project}", quota_set)
        .route(
            "/v3/os-quota-sets/{project}/defaults",
            get(quota_sets::defaults),
        )
        .route(
            "/v3/os-quota-class-sets/{class}",
            get(quota_classes::show).put(quota_classes::update),
        )
        .route("/v3/os-services", get(services::index))
        .route("/v3/os-services/{action}", put(services::update))
        .route("/v3/os-availability-zone", get(availability_zones::index))
        .route("/v3/extensions", get(extensions::index))
        .route("/v3/extensions/{alias}", get(extensions::show))
        .route("/v3/scheduler-stats/get_pools", get(pools::index))
        .route("/v3/resource_filters", get(resource_filters::index))
        .route("/v3/messages", get(messages::index))
        .route(
            "/v3/messages/{id}",
            get(messages::show).merge(delete(messages::delete)),
        )
}
