//! The filters of lists of volumes.

use rest::list_query::Clause;
use rest::{BadInput, filter};

use super::call::Call;
use super::list_params::{ListParams, integer, metadata, nothing, text, times};
use crate::db::metadata::Kind;

/// Filters with the minor version they came with.
pub(super) const SINCE: &[(&str, u16)] = &[
    ("glance_metadata", 4),
    ("group_id", 10),
    ("created_at", 60),
    ("updated_at", 60),
    ("consumes_quota", 65),
];

/// The conditions of a list request, the caller's scope among them.
pub(super) fn clauses(call: &Call, params: &ListParams) -> Result<Vec<Clause>, BadInput> {
    let mut clauses = params.scope(call);
    if !call.context.is_admin {
        let hidden = "migration_status IS NULL OR migration_status NOT LIKE 'target:%'";
        clauses.push(Clause::raw(hidden, Vec::new()));
    }
    for (key, value) in &params.filters {
        clauses.push(clause(call, key, value)?);
    }
    Ok(clauses)
}

fn clause(call: &Call, key: &str, value: &str) -> Result<Clause, BadInput> {
    Ok(match key.trim_end_matches('~') {
        "name" | "display_name" => text(key, "name", value),
        "description" | "display_description" => text(key, "description", value),
        "status" => text(key, "status", value),
        "attach_status" => text(key, "attach_status", value),
        "migration_status" => text(key, "migration_status", value),
        "availability_zone" => text(key, "availability_zone", value),
        "host" => text(key, "host", value),
        "user_id" => text(key, "user_id", value),
        "project_id" => text(key, "project_id", value),
        "id" => text(key, "id", value),
        "group_id" => text(key, "group_id", value),
        "snapshot_id" => text(key, "snapshot_id", value),
        "source_volid" => text(key, "source_volid", value),
        "volume_type_id" => text(key, "volume_type_id", value),
        "service_uuid" => text(key, "service_uuid", value),
        "size" => integer("size_gib", value),
        "bootable" => Clause::equal("bootable", bootable(call, value)?),
        "multiattach" => Clause::equal("multiattach", filter::require_bool(key, value)?),
        "consumes_quota" => Clause::equal("consumes_quota", filter::require_bool(key, value)?),
        "metadata" => metadata(key, Kind::Volume.has_entry(), value)?,
        "glance_metadata" => metadata(key, Kind::VolumeImage.has_entry(), value)?,
        "created_at" => times(key, "created_at", value)?,
        "updated_at" => times(key, "updated_at", value)?,
        _ => nothing(),
    })
}

/// Since 3.2 a boolean; before, whatever is not plainly false is true.
fn bootable(call: &Call, value: &str) -> Result<bool, BadInput> {
    if !call.at_least(2) {
        return Ok(!["False", "false", "FALSE"].contains(&value));
    }
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => filter::require_bool("bootable", value),
    }
}
