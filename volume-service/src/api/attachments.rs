//! `attachments` (3.27): volumes are attached over NBD, not through this API, so there are none.

use axum::Json;
use serde::Serialize;

use super::Answer;
use super::call::Call;

/// `{"attachments": []}`
#[derive(Serialize)]
pub(super) struct List {
    attachments: [(); 0],
}

/// `GET attachments` and `attachments/detail`
pub(super) async fn index(call: Call) -> Answer<Json<List>> {
    call.version.require(3, 27)?;
    Ok(Json(List { attachments: [] }))
}
