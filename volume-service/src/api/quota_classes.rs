//! `os-quota-class-sets/{class}`; the class `default` holds every project's defaults.

use axum::Json;
use axum::extract::Path;
use rest::JsonBody;

use super::call::Call;
use super::quota_sets;
use super::views::quotas::{OneClass, SetView, Values};
use super::{Answer, body};
use crate::db::quotas::Limits;
use crate::domain::limits as domain;

fn view(id: Option<String>, limits: Limits) -> Json<OneClass> {
    Json(OneClass {
        quota_class_set: SetView {
            id,
            values: Values::Limits(limits),
        },
    })
}

/// `GET os-quota-class-sets/{class}`
pub(super) async fn show(call: Call, Path(class): Path<String>) -> Answer<Json<OneClass>> {
    call.enforce_own("volume_extension:quota_classes:get")?;
    let limits = domain::of_class(&call.service, &class).await?;
    Ok(view(Some(class), limits))
}

/// `PUT os-quota-class-sets/{class}`
pub(super) async fn update(
    call: Call,
    Path(class): Path<String>,
    body: JsonBody,
) -> Answer<Json<OneClass>> {
    call.enforce_own("volume_extension:quota_classes:update")?;
    let limits = quota_sets::limits(&body::required(body)?, "quota_class_set", &[])?;
    domain::set_of_class(&call.service, &class, &limits).await?;
    Ok(view(None, domain::of_class(&call.service, &class).await?))
}
