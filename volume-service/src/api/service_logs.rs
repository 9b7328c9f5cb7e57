//! `PUT os-services/get-log` and `…/set-log` (3.32): the log levels of services.
//!
//! A prefix is one of this service's module paths, with dots or colons (`volume_service.flows`);
//! `cinder` stands for the whole service. Services of one process share one log.

use std::collections::BTreeMap;

use rest::BadInput;
use rest::validate::Object;
use serde::Serialize;
use serde_json::Value;

use super::Answer;
use super::call::Call;
use crate::db::services::{self, BACKUP, SCHEDULER, VOLUME};
use crate::logs::Level;

/// The API has no row among the services.
const API: &str = "cinder-api";

/// `{"log_levels": […]}`
#[derive(Serialize)]
pub(super) struct LogLevels {
    log_levels: Vec<ServiceLevels>,
}

#[derive(Serialize)]
struct ServiceLevels {
    host: String,
    binary: String,
    levels: BTreeMap<String, &'static str>,
}

/// What both requests name: services, and a prefix.
struct Selection {
    binary: Option<String>,
    server: Option<String>,
    prefix: String,
}

fn selection(object: &Object<'_>) -> Result<Selection, BadInput> {
    let text = |key: &str| {
        let text = object.string(key, 0..=255)?;
        Ok::<_, BadInput>(text.filter(|text| !text.is_empty() && *text != "*"))
    };
    let binary = text("binary")?;
    if let Some(binary) = binary
        && ![API, VOLUME, SCHEDULER, BACKUP].contains(&binary)
    {
        return Err(BadInput::invalid_input(format!(
            "Invalid input for field/attribute binary. Value: {binary}."
        )));
    }
    Ok(Selection {
        binary: binary.map(str::to_owned),
        server: text("server")?.map(str::to_owned),
        prefix: target(text("prefix")?.unwrap_or_default()),
    })
}

/// The module path that a prefix means.
fn target(prefix: &str) -> String {
    let path = prefix.trim_matches('.').replace('.', "::");
    match path.strip_prefix("cinder") {
        Some(rest) if rest.is_empty() || rest.starts_with("::") => format!("volume_service{rest}"),
        _ => path,
    }
}

/// Host and binary of the selected services of this process.
async fn selected(call: &Call, selection: &Selection) -> Answer<Vec<(String, String)>> {
    let own_host = &call.service.options.host;
    let known = services::list(&call.service.database).await?;
    let mut found: Vec<_> = known
        .into_iter()
        .filter(|one| one.host.split('@').next() == Some(own_host))
        .map(|one| (one.host, one.binary))
        .collect();
    found.push((own_host.clone(), API.to_owned()));
    found.retain(|(host, binary)| {
        let is_binary = selection
            .binary
            .as_ref()
            .is_none_or(|wanted| wanted == binary);
        is_binary
            && selection
                .server
                .as_ref()
                .is_none_or(|wanted| wanted == host)
    });
    Ok(found)
}

/// The levels of the selected services.
pub(super) async fn get(call: &Call, body: &Value) -> Answer<LogLevels> {
    let object = Object::new(body)?;
    object.only(&["binary", "server", "prefix"])?;
    let selection = selection(&object)?;
    let levels: BTreeMap<String, &'static str> = call
        .service
        .logs
        .levels()
        .into_iter()
        .filter(|(target, _)| target.starts_with(&selection.prefix))
        .map(|(target, level)| (target.replace("::", "."), level.name()))
        .collect();
    let with_levels = |(host, binary)| ServiceLevels {
        host,
        binary,
        levels: levels.clone(),
    };
    let selected = selected(call, &selection).await?;
    Ok(LogLevels {
        log_levels: selected.into_iter().map(with_levels).collect(),
    })
}

/// Sets the level of everything that begins with the prefix.
pub(super) async fn set(call: &Call, body: &Value) -> Answer<()> {
    let object = Object::new(body)?;
    object.only(&["binary", "server", "prefix", "level"])?;
    let selection = selection(&object)?;
    if !is_path(&selection.prefix) {
        return Err(BadInput::invalid_input("prefix must be a module path").into());
    }
    let text = object.required_string("level", 1..=255)?;
    let level = Level::parse(text).ok_or_else(|| {
        BadInput::invalid_input(format!("Invalid input for level: {text} is no log level"))
    })?;
    if !selected(call, &selection).await?.is_empty() {
        call.service.logs.set(&selection.prefix, level);
    }
    Ok(())
}

fn is_path(prefix: &str) -> bool {
    prefix
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}
