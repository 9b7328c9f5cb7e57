//! What a rule is checked against: the fields behind `%(name)s`.

use std::collections::BTreeMap;

use crate::RequestContext;

/// Fields of a target by name.
pub trait Fields {
    /// `None`: the target has no such field, and a check that asks for it fails. `Some(None)`:
    /// it has the field without a value, Python's `None`.
    fn field(&self, name: &str) -> Option<Option<&str>>;
}

/// The target of a request: the owner of a resource, and what else rules ask for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Target<'a> {
    /// Owner of the resource; `None` where it has no owner (then no "same project" admits).
    pub project_id: Option<&'a str>,
    /// Who made it, where that is known.
    pub user_id: Option<&'a str>,
    /// Of images: a project that it is shared with, if that is the caller's.
    pub member_id: Option<&'a str>,
    /// Of images: `public`, `community`, `shared` or `private`.
    pub visibility: Option<&'a str>,
}

impl Fields for Target<'_> {
    fn field(&self, name: &str) -> Option<Option<&str>> {
        match name {
            "project_id" | "tenant_id" | "owner" => Some(self.project_id),
            "user_id" => Some(self.user_id),
            "member_id" => Some(self.member_id),
            "visibility" => Some(self.visibility),
            _ => None,
        }
    }
}

impl Fields for BTreeMap<String, String> {
    fn field(&self, name: &str) -> Option<Option<&str>> {
        self.get(name).map(|text| Some(text.as_str()))
    }
}

impl<'a> From<&'a str> for Target<'a> {
    fn from(project_id: &'a str) -> Self {
        Self {
            project_id: Some(project_id),
            ..Self::default()
        }
    }
}

impl<'a> From<&'a String> for Target<'a> {
    fn from(project_id: &'a String) -> Self {
        Self::from(project_id.as_str())
    }
}

impl<'a> From<&'a RequestContext> for Target<'a> {
    /// The caller's own project: for lists and creation.
    fn from(context: &'a RequestContext) -> Self {
        Self {
            project_id: context.project_id.as_deref(),
            user_id: Some(&context.user_id),
            ..Self::default()
        }
    }
}
