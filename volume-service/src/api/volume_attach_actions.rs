//! `POST volumes/{id}/action`: attaching and detaching without the attachments API.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rest::BadInput;
use rest::validate::Object;
use serde::Serialize;
use serde_json::Value;

use super::call::Call;
use super::{Answer, actions};
use crate::db::attachments::Document;
use crate::db::volumes::Volume;
use crate::domain::volume_attach::{self as domain, Attach};
use crate::domain::{parse_id, volumes};

/// The actions about attaching, by name; `None`: it is none of them.
pub(super) async fn act(
    call: &Call,
    id: &str,
    name: &str,
    body: &Value,
) -> Option<Answer<Response>> {
    let answer = match name {
        "os-reserve" => reserve(call, id).await,
        "os-unreserve" => unreserve(call, id).await,
        "os-begin_detaching" => begin_detaching(call, id).await,
        "os-roll_detaching" => roll_detaching(call, id).await,
        "os-attach" => attach(call, id, body).await,
        "os-detach" => detach(call, id, body).await,
        "os-force_detach" => force_detach(call, id, body).await,
        "os-terminate_connection" => terminate_connection(call, id, body).await,
        "os-initialize_connection" => {
            let answer = initialize_connection(call, id, body).await;
            return Some(answer.map(IntoResponse::into_response));
        }
        _ => return None,
    };
    Some(answer.map(|()| StatusCode::ACCEPTED.into_response()))
}

/// The volume, once `rule` lets the caller do this to it.
async fn volume(call: &Call, id: &str, rule: &str) -> Answer<Volume> {
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce(rule, &volume.project_id)?;
    Ok(volume)
}

async fn reserve(call: &Call, id: &str) -> Answer<()> {
    let volume = volume(call, id, "volume_extension:volume_actions:reserve").await?;
    Ok(domain::reserve(&call.service, &volume).await?)
}

async fn unreserve(call: &Call, id: &str) -> Answer<()> {
    let volume = volume(call, id, "volume_extension:volume_actions:unreserve").await?;
    Ok(domain::unreserve(&call.service, volume.id).await?)
}

async fn begin_detaching(call: &Call, id: &str) -> Answer<()> {
    let rule = "volume_extension:volume_actions:begin_detaching";
    let volume = volume(call, id, rule).await?;
    Ok(domain::begin_detaching(&call.service, &volume).await?)
}

async fn roll_detaching(call: &Call, id: &str) -> Answer<()> {
    let rule = "volume_extension:volume_actions:roll_detaching";
    let volume = volume(call, id, rule).await?;
    Ok(domain::roll_detaching(&call.service, volume.id).await?)
}

async fn attach(call: &Call, id: &str, body: &Value) -> Answer<()> {
    let arguments = actions::arguments(body, "os-attach")?;
    arguments.only(&["instance_uuid", "host_name", "mountpoint", "mode"])?;
    let attach = Attach {
        instance_id: arguments.uuid("instance_uuid")?.and_then(parse_id),
        host_name: arguments.string("host_name", 0..=255)?.map(str::to_owned),
        mountpoint: arguments.required_string("mountpoint", 1..=255)?.to_owned(),
        mode: arguments
            .one_of("mode", &["rw", "ro"])?
            .unwrap_or("rw")
            .to_owned(),
    };
    if attach.instance_id.is_none() && attach.host_name.is_none() {
        return Err(BadInput::new("'instance_uuid' or 'host_name' is a required property").into());
    }
    let volume = volume(call, id, "volume_extension:volume_actions:attach").await?;
    Ok(domain::attach(&call.service, &call.context, &volume, attach).await?)
}

/// The object under the action's name; null is an empty one.
fn optional_arguments<'a>(body: &'a Value, name: &'a str) -> Result<Option<Object<'a>>, BadInput> {
    Object::new(body)?.object(name)
}

async fn detach(call: &Call, id: &str, body: &Value) -> Answer<()> {
    let arguments = optional_arguments(body, "os-detach")?;
    let attachment_id = match &arguments {
        Some(arguments) => {
            arguments.only(&["attachment_id"])?;
            arguments.uuid("attachment_id")?.and_then(parse_id)
        }
        None => None,
    };
    let volume = volume(call, id, "volume_extension:volume_actions:detach").await?;
    Ok(domain::detach(&call.service, &call.context, &volume, attachment_id).await?)
}

async fn force_detach(call: &Call, id: &str, body: &Value) -> Answer<()> {
    let arguments = actions::arguments(body, "os-force_detach")?;
    arguments.only(&["attachment_id", "connector"])?;
    let attachment_id = arguments.uuid("attachment_id")?.and_then(parse_id);
    let connector = optional_connector(&arguments)?;
    let rule = "volume_extension:volume_admin_actions:force_detach";
    let volume = volume(call, id, rule).await?;
    domain::terminate_connection(&call.service, &call.context, &volume, connector).await?;
    Ok(domain::detach(&call.service, &call.context, &volume, attachment_id).await?)
}

async fn terminate_connection(call: &Call, id: &str, body: &Value) -> Answer<()> {
    let arguments = actions::arguments(body, "os-terminate_connection")?;
    arguments.only(&["connector"])?;
    if !arguments.contains("connector") {
        return Err(arguments.lacks("connector").into());
    }
    let connector = optional_connector(&arguments)?;
    let rule = "volume_extension:volume_actions:terminate_connection";
    let volume = volume(call, id, rule).await?;
    Ok(domain::terminate_connection(&call.service, &call.context, &volume, connector).await?)
}

/// The connector; null and, as ever, an empty text are none.
fn optional_connector<'a>(arguments: &Object<'a>) -> Result<Option<&'a Document>, BadInput> {
    if arguments.get("connector").and_then(Value::as_str) == Some("") {
        return Ok(None);
    }
    Ok(arguments
        .object("connector")?
        .map(|connector| connector.map()))
}

#[derive(Serialize)]
struct ConnectionInfo {
    connection_info: Document,
}

async fn initialize_connection(
    call: &Call,
    id: &str,
    body: &Value,
) -> Answer<Json<ConnectionInfo>> {
    let arguments = actions::arguments(body, "os-initialize_connection")?;
    arguments.only(&["connector"])?;
    let connector = arguments.required_object("connector")?;
    let rule = "volume_extension:volume_actions:initialize_connection";
    let volume = volume(call, id, rule).await?;
    let connection_info =
        domain::initialize_connection(&call.service, &volume, connector.map()).await?;
    Ok(Json(ConnectionInfo { connection_info }))
}
