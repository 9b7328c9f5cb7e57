//! What a volume asks of the pool that takes it.

use serde_json::{Map, Value};

use crate::db::volume_types::ExtraSpecs;

/// The extra spec with the zones in which volumes of a type may be (3.52).
pub const ZONES_SPEC: &str = "RESKEY:availability_zones";

/// What a volume needs, and what its owner would like.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub size_gib: u32,
    /// Any of these; empty: any zone.
    pub availability_zones: Vec<String>,
    pub extra_specs: ExtraSpecs,
    /// The client's scheduler hints, as they came.
    pub hints: Map<String, Value>,
    /// The back-ends (`host@backend`) of the volumes in the hint `same_host`.
    pub same_backends: Option<Vec<String>>,
    /// The machine that the server in the hint `local_to_instance` runs on.
    pub local_to: Locality,
    /// The back-ends of the volumes in the hint `different_host`.
    pub other_backends: Vec<String>,
    /// Pools where a create has failed.
    pub tried: Vec<String>,
    /// The pool that holds the volume already.
    pub exists_on: Option<String>,
}

/// Where the server of the hint `local_to_instance` is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Locality {
    /// Nobody asked.
    #[default]
    Anywhere,
    /// On no host, or nobody knows.
    Nowhere,
    Host(String),
}

impl Request {
    /// Whether the volume's space may be promised more than once.
    pub fn thin(&self) -> bool {
        self.extra_specs
            .get("provisioning:type")
            .is_none_or(|kind| kind != "thick")
    }
}

/// The zones of [`ZONES_SPEC`]; none where the type does not restrict them.
pub fn zones_of_type(extra_specs: &ExtraSpecs) -> Option<Vec<String>> {
    let zones: Vec<String> = extra_specs
        .get(ZONES_SPEC)?
        .split(',')
        .map(|zone| zone.trim().to_owned())
        .filter(|zone| !zone.is_empty())
        .collect();
    (!zones.is_empty()).then_some(zones)
}
