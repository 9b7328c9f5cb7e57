//! Transfers in answers.

use serde::Serialize;
use uuid::Uuid;

use super::super::call::{Call, Link};
use super::{NextPage, Rows, time};
use crate::db::transfers::Transfer;

/// The collection that links point to, whichever the client used.
const COLLECTION: &str = "os-volume-transfer";

/// `{"transfer": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct One<T> {
    pub transfer: T,
}

/// `{"transfers": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct List {
    pub transfers: Rows<SummaryView, TransferView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfers_links: NextPage,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct SummaryView {
    id: Uuid,
    volume_id: Uuid,
    name: Option<String>,
    links: [Link; 2],
}

impl SummaryView {
    pub fn new(call: &Call, transfer: Transfer) -> Self {
        SummaryView {
            id: transfer.id,
            volume_id: transfer.volume_id,
            name: transfer.name,
            links: call.links.of(COLLECTION, transfer.id),
        }
    }
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct TransferView {
    #[serde(flatten)]
    summary: SummaryView,
    created_at: String,
    /// Only in the answer to the request that made the transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_snapshots: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_project_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_project_id: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<bool>,
}

impl TransferView {
    pub fn new(call: &Call, transfer: Transfer, auth_key: Option<String>) -> Self {
        let history = call.at_least(57);
        TransferView {
            created_at: time(transfer.created_at),
            auth_key,
            no_snapshots: call.at_least(55).then_some(transfer.no_snapshots),
            source_project_id: history.then(|| transfer.source_project_id.clone()),
            destination_project_id: history.then(|| transfer.destination_project_id.clone()),
            accepted: history.then_some(transfer.accepted),
            summary: SummaryView::new(call, transfer),
        }
    }
}
