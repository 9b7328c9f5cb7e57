//! QoS specs in answers.

use serde::Serialize;
use uuid::Uuid;

use super::super::call::{Call, Link};
use super::NextPage;
use crate::db::metadata::Metadata;
use crate::domain::qos_specs::QosDetails;

/// `{"qos_specs": …, "links": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct One {
    qos_specs: QosView,
    links: [Link; 2],
}

/// `{"qos_specs": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct List {
    pub qos_specs: Vec<QosView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos_specs_links: NextPage,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct QosView {
    id: Uuid,
    name: String,
    consumer: String,
    specs: Metadata,
}

/// `{"qos_associations": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct Associations {
    pub qos_associations: Vec<Association>,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct Association {
    association_type: &'static str,
    id: Uuid,
    name: String,
}

impl One {
    pub fn new(call: &Call, details: QosDetails) -> Self {
        One {
            links: call.links.of("qos-specs", details.qos.id),
            qos_specs: QosView::new(details),
        }
    }
}

impl QosView {
    pub fn new(details: QosDetails) -> Self {
        QosView {
            id: details.qos.id,
            name: details.qos.name,
            consumer: details.qos.consumer,
            specs: details.specs,
        }
    }
}

impl Associations {
    pub fn new(volume_types: Vec<(Uuid, String)>) -> Self {
        let association = |(id, name)| Association {
            association_type: "volume_type",
            id,
            name,
        };
        Associations {
            qos_associations: volume_types.into_iter().map(association).collect(),
        }
    }
}
