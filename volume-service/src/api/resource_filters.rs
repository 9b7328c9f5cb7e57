//! `GET resource_filters`, and the table of filters that users may use
//! (Cinder's `resource_filters.json`).

use axum::Json;
use rest::QueryParams;
use serde::Serialize;

use super::Answer;
use super::call::Call;

const TABLE: &[(&str, &[&str])] = &[
    (
        "volume",
        &[
            "name",
            "status",
            "metadata",
            "bootable",
            "migration_status",
            "availability_zone",
            "group_id",
            "size",
            "created_at",
            "updated_at",
            "consumes_quota",
        ],
    ),
    ("backup", &["name", "status", "volume_id"]),
    (
        "snapshot",
        &[
            "name",
            "status",
            "volume_id",
            "metadata",
            "availability_zone",
            "consumes_quota",
        ],
    ),
    ("group", &["name"]),
    ("group_snapshot", &["name", "status", "group_id"]),
    (
        "attachment",
        &["volume_id", "status", "instance_id", "attach_status"],
    ),
    (
        "message",
        &[
            "resource_uuid",
            "resource_type",
            "event_id",
            "request_id",
            "message_level",
        ],
    ),
    ("pool", &["name", "volume_type"]),
    ("volume_type", &["is_public", "extra_specs"]),
];

/// The filters that users may use on a resource.
pub(super) fn of(resource: &str) -> &'static [&'static str] {
    TABLE
        .iter()
        .find(|(name, _)| *name == resource)
        .map_or(&[], |(_, filters)| *filters)
}

#[derive(Serialize)]
pub(super) struct FilterList {
    resource_filters: Vec<Filters>,
}

#[derive(Serialize)]
struct Filters {
    resource: &'static str,
    filters: &'static [&'static str],
}

/// `GET resource_filters?resource=` (3.33)
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<FilterList>> {
    call.version.require(3, 33)?;
    let wanted = query.get("resource");
    let shown = TABLE
        .iter()
        .filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name));
    let resource_filters = shown
        .map(|(resource, filters)| Filters { resource, filters })
        .collect();
    Ok(Json(FilterList { resource_filters }))
}
