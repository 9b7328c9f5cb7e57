//! `POST workers/cleanup` (3.24).

use axum::Json;
use http::StatusCode;
use rest::JsonBody;
use rest::validate::{self, Object};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::call::Call;
use super::{Answer, body};
use crate::db::services::Service;
use crate::domain::workers::{self as domain, Selection};

/// Who cleans up, and who cannot.
#[derive(Serialize)]
pub(super) struct Cleanup {
    cleaning: Vec<WorkerView>,
    unavailable: Vec<WorkerView>,
}

#[derive(Serialize)]
struct WorkerView {
    id: Uuid,
    host: String,
    binary: String,
    cluster_name: Option<String>,
}

fn view(service: Service) -> WorkerView {
    WorkerView {
        id: service.id,
        host: service.host,
        binary: service.binary,
        cluster_name: service.cluster_name,
    }
}

/// `POST workers/cleanup`
pub(super) async fn cleanup(call: Call, body: JsonBody) -> Answer<(StatusCode, Json<Cleanup>)> {
    call.version.require(3, 24)?;
    call.enforce_own("workers:cleanup")?;
    let body = body::required(body)?;
    let object = Object::new(&body)?;
    object.only(&[
        "cluster_name",
        "service_id",
        "host",
        "binary",
        "is_up",
        "disabled",
        "resource_id",
        "resource_type",
    ])?;
    let resource_id = object.uuid("resource_id")?.map(str::to_owned);
    object.one_of("binary", &["cinder-volume", "cinder-scheduler"])?;
    object.one_of(
        "resource_type",
        &["Volume", "Snapshot", "volume", "snapshot"],
    )?;
    let text = |key: &str| Ok::<_, rest::BadInput>(object.string(key, 1..=255)?.map(str::to_owned));
    let service_id = match object.get("service_id") {
        None | Some(Value::Null) => None,
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(Value::String(id)) => Some(id.clone()),
        Some(other) => return Err(validate::invalid("service_id", other, "is no id").into()),
    };
    let selection = Selection {
        service_id,
        cluster_name: text("cluster_name")?,
        host: text("host")?,
        binary: text("binary")?,
        is_up: match object.get("is_up") {
            // Who is not asked about is down.
            None => Some(false),
            Some(_) => object.lenient_boolean("is_up")?,
        },
        disabled: object.lenient_boolean("disabled")?,
    };
    let selection = domain::locate(&call.service, selection, resource_id.as_deref()).await?;
    let cleanup = domain::cleanup(&call.service, &selection).await?;
    let views = |services: Vec<Service>| services.into_iter().map(view).collect();
    let answer = Cleanup {
        cleaning: views(cleanup.cleaning),
        unavailable: views(cleanup.unavailable),
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
