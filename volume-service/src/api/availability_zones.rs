//! `GET os-availability-zone`.

use axum::Json;
use serde::Serialize;

use super::Answer;
use super::call::Call;
use crate::domain::services;

/// `{"availabilityZoneInfo": […]}`
#[derive(Serialize)]
pub(super) struct List {
    #[serde(rename = "availabilityZoneInfo")]
    zones: Vec<Zone>,
}

#[derive(Serialize)]
struct Zone {
    #[serde(rename = "zoneName")]
    name: String,
    #[serde(rename = "zoneState")]
    state: State,
}

#[derive(Serialize)]
struct State {
    available: bool,
}

/// `GET os-availability-zone`
pub(super) async fn index(call: Call) -> Answer<Json<List>> {
    let zones = services::zones(&call.service).await?;
    let view = |(name, available)| Zone {
        name,
        state: State { available },
    };
    Ok(Json(List {
        zones: zones.into_iter().map(view).collect(),
    }))
}
