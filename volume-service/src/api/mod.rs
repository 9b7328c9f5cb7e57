//! The REST API: a file per resource. Handlers parse, ask the policy, make one call into
//! [`crate::domain`] and hand the result to a view.

mod actions;
mod attachments;
mod availability_zones;
mod backup_actions;
mod backup_records;
mod backups;
mod body;
mod call;
mod capabilities;
mod cgsnapshots;
mod clusters;
mod consistency_groups;
mod default_types;
mod extensions;
mod extra_specs;
mod group_actions;
mod group_snapshots;
mod group_specs;
mod group_types;
mod groups;
mod hosts;
mod limits;
mod list_params;
mod manageable;
mod messages;
pub mod policy_rules;
mod pools;
mod qos_specs;
mod quota_classes;
mod quota_sets;
mod resource_filters;
mod scheduler_hints;
mod service_logs;
mod services;
mod snapshot_actions;
mod snapshot_metadata;
mod snapshots;
mod transfers;
mod type_access;
mod type_encryption;
mod types;
mod versions;
mod views;
mod volume_actions;
mod volume_attach_actions;
mod volume_create;
mod volume_filters;
mod volume_image_actions;
mod volume_metadata;
mod volume_relocation;
mod volumes;
mod workers;

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
    frame.cors = service.options.cors.clone();
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
        .merge(attachments_and_actions())
        .merge(manageable_resources())
        .merge(types_and_specs())
        .merge(qos_and_defaults())
        .merge(transfers::routes())
        .merge(groups_and_types())
        .merge(consistency_groups::routes())
        .merge(cgsnapshots::routes())
        .merge(operations())
        .merge(infrastructure())
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
        .route("/v3/backups/import_record", post(backup_records::import))
        .route(
            "/v3/backups/{id}/export_record",
            get(backup_records::export),
        )
        .route("/v3/backups/{id}/restore", post(backups::restore))
        .route("/v3/backups/{id}/action", post(backup_actions::act))
}

fn attachments_and_actions() -> Router<Arc<VolumeService>> {
    Router::new()
        .route(
            "/v3/attachments",
            get(attachments::index).post(attachments::create),
        )
        .route("/v3/attachments/detail", get(attachments::detail))
        .route(
            "/v3/attachments/{id}",
            get(attachments::show)
                .put(attachments::update)
                .delete(attachments::delete),
        )
        .route("/v3/attachments/{id}/action", post(attachments::act))
}

fn manageable_resources() -> Router<Arc<VolumeService>> {
    let volumes = || get(manageable::volumes).post(manageable::manage_volume);
    let snapshots = || get(manageable::snapshots).post(manageable::manage_snapshot);
    let volumes_detail = || get(manageable::volumes_detail);
    let snapshots_detail = || get(manageable::snapshots_detail);
    Router::new()
        .route("/v3/manageable_volumes", volumes())
        .route("/v3/manageable_volumes/detail", volumes_detail())
        .route("/v3/os-volume-manage", volumes())
        .route("/v3/os-volume-manage/detail", volumes_detail())
        .route("/v3/manageable_snapshots", snapshots())
        .route("/v3/manageable_snapshots/detail", snapshots_detail())
        .route("/v3/os-snapshot-manage", snapshots())
        .route("/v3/os-snapshot-manage/detail", snapshots_detail())
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
        .route(
            "/v3/types/{id}/encryption",
            get(type_encryption::index).post(type_encryption::create),
        )
        .route(
            "/v3/types/{id}/encryption/{key}",
            get(type_encryption::show)
                .put(type_encryption::update)
                .delete(type_encryption::delete),
        )
}

fn qos_and_defaults() -> Router<Arc<VolumeService>> {
    let one = get(qos_specs::show)
        .put(qos_specs::update)
        .delete(qos_specs::delete);
    let default_type = get(default_types::show)
        .put(default_types::update)
        .delete(default_types::delete);
    Router::new()
        .route(
            "/v3/qos-specs",
            get(qos_specs::index).post(qos_specs::create),
        )
        .route("/v3/qos-specs/{id}", one)
        .route(
            "/v3/qos-specs/{id}/delete_keys",
            put(qos_specs::delete_keys),
        )
        .route(
            "/v3/qos-specs/{id}/associations",
            get(qos_specs::associations),
        )
        .route("/v3/qos-specs/{id}/associate", get(qos_specs::associate))
        .route(
            "/v3/qos-specs/{id}/disassociate",
            get(qos_specs::disassociate),
        )
        .route(
            "/v3/qos-specs/{id}/disassociate_all",
            get(qos_specs::disassociate_all),
        )
        .route("/v3/default-types", get(default_types::index))
        .route("/v3/default-types/{project}", default_type)
}

fn groups_and_types() -> Router<Arc<VolumeService>> {
    let group_type = get(group_types::show)
        .put(group_types::update)
        .delete(group_types::delete);
    let spec = get(group_specs::show)
        .put(group_specs::update)
        .delete(group_specs::delete);
    Router::new()
        .route("/v3/groups", get(groups::index).post(groups::create))
        .route("/v3/groups/detail", get(groups::detail))
        .route("/v3/groups/action", post(groups::create_from_source))
        .route("/v3/groups/{id}", get(groups::show).put(groups::update))
        .route("/v3/groups/{id}/action", post(group_actions::act))
        .route(
            "/v3/group_snapshots",
            get(group_snapshots::index).post(group_snapshots::create),
        )
        .route("/v3/group_snapshots/detail", get(group_snapshots::detail))
        .route(
            "/v3/group_snapshots/{id}",
            get(group_snapshots::show).delete(group_snapshots::delete),
        )
        .route(
            "/v3/group_snapshots/{id}/action",
            post(group_snapshots::act),
        )
        .route(
            "/v3/group_types",
            get(group_types::index).post(group_types::create),
        )
        .route("/v3/group_types/{id}", group_type)
        .route(
            "/v3/group_types/{id}/group_specs",
            get(group_specs::index).post(group_specs::create),
        )
        .route("/v3/group_types/{id}/group_specs/{key}", spec)
}

fn operations() -> Router<Arc<VolumeService>> {
    let quota_set = get(quota_sets::show)
        .put(quota_sets::update)
        .delete(quota_sets::delete);
    Router::new()
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
        .route("/v3/os-services/{action}", put(services::act))
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

/// Hosts, clusters, back-ends: what operators look at.
fn infrastructure() -> Router<Arc<VolumeService>> {
    Router::new()
        .route("/v3/os-hosts", get(hosts::index))
        .route("/v3/os-hosts/{host}", get(hosts::show))
        .route("/v3/capabilities/{host}", get(capabilities::show))
        .route("/v3/clusters", get(clusters::index))
        .route("/v3/clusters/detail", get(clusters::detail))
        .route(
            "/v3/clusters/{name}",
            get(clusters::show).put(clusters::update),
        )
        .route("/v3/workers/cleanup", post(workers::cleanup))
}
