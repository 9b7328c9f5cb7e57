//! Group types in answers.

use serde::Serialize;
use uuid::Uuid;

use super::super::call::Call;
use super::NextPage;
use crate::db::metadata::Metadata;
use crate::domain::group_types::GroupTypeDetails;

/// `{"group_type": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct One {
    pub group_type: GroupTypeView,
}

/// `{"group_types": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct List {
    pub group_types: Vec<GroupTypeView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_type_links: NextPage,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct GroupTypeView {
    id: Uuid,
    name: String,
    description: Option<String>,
    is_public: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_specs: Option<Metadata>,
}

impl GroupTypeView {
    pub fn new(call: &Call, details: GroupTypeDetails) -> Self {
        let GroupTypeDetails { group_type, specs } = details;
        GroupTypeView {
            id: group_type.id,
            name: group_type.name,
            description: group_type.description,
            is_public: group_type.is_public,
            group_specs: call
                .allows_own("group:access_group_types_specs")
                .then_some(specs),
        }
    }
}
