//! `GET capabilities/{host}`: what a back-end can do, and which extra specs it understands.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::Path;
use rest::Fault;
use serde::Serialize;
use serde_json::Value;

use super::Answer;
use super::call::Call;
use crate::db::services::{self, Pool};

#[derive(Serialize)]
pub(super) struct CapabilitiesView {
    namespace: String,
    vendor_name: String,
    volume_backend_name: String,
    pool_name: Option<String>,
    driver_version: String,
    storage_protocol: String,
    display_name: Option<String>,
    description: Option<String>,
    visibility: &'static str,
    replication_targets: Vec<Value>,
    properties: BTreeMap<&'static str, Property>,
}

#[derive(Serialize)]
struct Property {
    title: &'static str,
    description: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
}

/// What an extra spec of the name can ask for, in Cinder's words.
fn properties() -> BTreeMap<&'static str, Property> {
    let boolean = |title, description| Property {
        title,
        description,
        kind: "boolean",
    };
    BTreeMap::from([
        (
            "thin_provisioning",
            boolean("Thin Provisioning", "Sets thin provisioning."),
        ),
        (
            "compression",
            boolean("Compression", "Enables compression."),
        ),
        ("qos", boolean("QoS", "Enables QoS.")),
        (
            "replication_enabled",
            boolean("Replication", "Enables replication."),
        ),
        (
            "multiattach",
            boolean("Multiattach", "Lets a volume be attached more than once."),
        ),
    ])
}

fn view(host: String, pool: Pool) -> CapabilitiesView {
    let capabilities = pool.capabilities;
    CapabilitiesView {
        namespace: format!("OS::Storage::Capabilities::{host}"),
        vendor_name: capabilities.vendor_name,
        volume_backend_name: capabilities.volume_backend_name,
        pool_name: Some(capabilities.pool_name),
        driver_version: capabilities.driver_version,
        storage_protocol: capabilities.storage_protocol,
        display_name: None,
        description: None,
        visibility: "public",
        replication_targets: Vec::new(),
        properties: properties(),
    }
}

/// `GET capabilities/{host}`: `host@backend`, or with `#pool`.
pub(super) async fn show(call: Call, Path(host): Path<String>) -> Answer<Json<CapabilitiesView>> {
    call.enforce_own("volume_extension:capabilities")?;
    let pools = services::pools(&call.service.database).await?;
    let found = pools
        .into_iter()
        .find(|pool| pool.name == host || pool.service_host == host);
    let pool = found.ok_or_else(|| {
        Fault::not_found(format!(
            "Service {} could not be found on host {host}.",
            services::VOLUME
        ))
    })?;
    Ok(Json(view(host, pool)))
}
