//! Volume types in answers.

use serde::Serialize;
use uuid::Uuid;

use super::super::call::Call;
use super::{NextPage, time, time_or_null};
use crate::db::volume_types::ExtraSpecs;
use crate::domain::types::TypeDetails;

/// The extra specs that every user may see.
const USER_VISIBLE: &[&str] = &[
    "RESKEY:availability_zones",
    "multiattach",
    "replication_enabled",
];

/// `{"volume_type": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct One {
    pub volume_type: TypeView,
}

/// `{"volume_types": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct List {
    pub volume_types: Vec<TypeView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_type_links: NextPage,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct TypeView {
    id: Uuid,
    name: String,
    is_public: bool,
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_specs: Option<ExtraSpecs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qos_specs_id: Option<Option<Uuid>>,
    #[serde(
        rename = "os-volume-type-access:is_public",
        skip_serializing_if = "Option::is_none"
    )]
    access_is_public: Option<bool>,
}

/// The answers that show a type differ in a few fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Shown {
    /// When it is shown or listed.
    Whole,
    /// When it was made.
    Created,
    /// When it was changed.
    Updated,
}

impl TypeView {
    pub fn new(call: &Call, details: TypeDetails, shown: Shown) -> Self {
        let TypeDetails {
            volume_type,
            extra_specs,
        } = details;
        let specs = call.allows_own("volume_extension:access_types_extra_specs");
        TypeView {
            id: volume_type.id,
            name: volume_type.name,
            is_public: volume_type.is_public,
            description: volume_type.description,
            extra_specs: specs.then(|| visible_specs(call, extra_specs)),
            qos_specs_id: (shown == Shown::Whole
                && call.allows_own("volume_extension:access_types_qos_specs_id"))
            .then_some(volume_type.qos_specs_id),
            access_is_public: (shown != Shown::Updated
                && call.allows_own("volume_extension:volume_type_access"))
            .then_some(volume_type.is_public),
        }
    }
}

/// A volume's type in the answer to its upload: the row as it stands in Cinder's database.
#[derive(Debug, Serialize)]
pub(in crate::api) struct UploadedType {
    id: Uuid,
    name: String,
    description: Option<String>,
    is_public: bool,
    extra_specs: ExtraSpecs,
    qos_specs_id: Option<Uuid>,
    created_at: String,
    updated_at: Option<String>,
    deleted: bool,
    deleted_at: Option<String>,
}

impl UploadedType {
    /// Extra specs that the caller may not see are left out.
    pub fn new(call: &Call, details: TypeDetails) -> Self {
        let volume_type = details.volume_type;
        UploadedType {
            id: volume_type.id,
            name: volume_type.name,
            description: volume_type.description,
            is_public: volume_type.is_public,
            extra_specs: visible_specs(call, details.extra_specs),
            qos_specs_id: volume_type.qos_specs_id,
            created_at: time(volume_type.created_at),
            updated_at: time_or_null(volume_type.updated_at),
            deleted: false,
            deleted_at: None,
        }
    }
}

/// Whether every user may see an extra spec.
pub(in crate::api) fn is_user_visible(key: &str) -> bool {
    USER_VISIBLE.contains(&key)
}

/// The extra specs that this caller may see.
pub(in crate::api) fn visible_specs(call: &Call, mut specs: ExtraSpecs) -> ExtraSpecs {
    if !call.allows_own("volume_extension:types_extra_specs:read_sensitive") {
        specs.retain(|key, _| is_user_visible(key));
    }
    specs
}
