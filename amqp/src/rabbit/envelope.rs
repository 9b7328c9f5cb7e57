//! The bytes on the wire: oslo.messaging's envelope 2.0, requests, replies and notifications.
//!
//! Contract: oslo.messaging `_drivers/common.py`, `_drivers/amqp.py`, `notify/messaging.py`.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Message, Notification, RemoteFailure, RequestContext};

/// A request as it arrives.
#[derive(Debug)]
pub(super) struct Request {
    pub message: Message,
    /// `_unique_id`: the same for every copy of the message.
    pub unique_id: Option<String>,
    pub answer_to: Option<AnswerTo>,
}

/// Where the answer of a call goes.
#[derive(Debug, Clone)]
pub(super) struct AnswerTo {
    pub queue: String,
    pub message_id: String,
    /// Seconds within which the caller wants to hear that the method still runs.
    pub monitor_s: Option<f64>,
}

/// A reply as it arrives.
#[derive(Debug)]
pub(super) struct Reply {
    pub message_id: String,
    /// False: the method still runs.
    pub is_last: bool,
    pub outcome: Result<Value, RemoteFailure>,
}

/// An id as oslo.messaging makes them: 32 hex digits.
pub(super) fn new_id() -> String {
    Uuid::new_v4().simple().to_string()
}

/// The inner message in its envelope.
fn sealed(inner: &Map<String, Value>) -> Vec<u8> {
    let inner = Value::Object(inner.clone()).to_string();
    json!({"oslo.version": "2.0", "oslo.message": inner})
        .to_string()
        .into_bytes()
}

/// The inner message of a body, with or without an envelope.
fn opened(body: &[u8]) -> Result<Map<String, Value>, String> {
    let outer: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| format!("not a JSON object: {error}"))?;
    let (Some(version), Some(inner)) = (outer.get("oslo.version"), outer.get("oslo.message"))
    else {
        return Ok(outer);
    };
    let version = version.as_str().unwrap_or_default();
    if version.split('.').next() != Some("2") {
        return Err(format!("envelope of version {version:?}"));
    }
    let inner = inner.as_str().ok_or("the envelope holds no text")?;
    serde_json::from_str(inner).map_err(|error| format!("the envelope holds no object: {error}"))
}

fn text(map: &Map<String, Value>, key: &str) -> Option<String> {
    map.get(key)?.as_str().map(str::to_owned)
}

/// Adds the `_context_*` keys that every OpenStack service reads.
fn add_context(inner: &mut Map<String, Value>, context: &RequestContext) {
    let filled = |text: &String| (!text.is_empty()).then(|| text.clone());
    for (key, value) in [
        ("request_id", filled(&context.request_id)),
        ("user_id", filled(&context.user_id)),
        ("user", filled(&context.user_id)),
        ("project_id", filled(&context.project_id)),
        ("project", filled(&context.project_id)),
        ("tenant", filled(&context.project_id)),
    ] {
        inner.insert(format!("_context_{key}"), value.into());
    }
    inner.insert("_context_roles".to_owned(), json!([]));
    inner.insert("_context_is_admin".to_owned(), json!(false));
    inner.insert("_context_read_deleted".to_owned(), json!("no"));
}

fn context(inner: &Map<String, Value>) -> RequestContext {
    let first = |keys: &[&str]| {
        keys.iter()
            .find_map(|key| text(inner, &format!("_context_{key}")))
            .unwrap_or_default()
    };
    RequestContext {
        request_id: first(&["request_id"]),
        user_id: first(&["user_id", "user"]),
        project_id: first(&["project_id", "project", "tenant"]),
    }
}

/// A request; with `answer_to` a call.
pub(super) fn request(message: &Message, answer_to: Option<&AnswerTo>) -> Vec<u8> {
    let mut inner = Map::new();
    inner.insert("method".to_owned(), message.method.clone().into());
    inner.insert("args".to_owned(), message.args.clone());
    inner.insert("version".to_owned(), message.version.clone().into());
    if let Some(namespace) = &message.namespace {
        inner.insert("namespace".to_owned(), namespace.clone().into());
    }
    if let Some(answer_to) = answer_to {
        inner.insert("_msg_id".to_owned(), answer_to.message_id.clone().into());
        inner.insert("_reply_q".to_owned(), answer_to.queue.clone().into());
        inner.insert("_timeout".to_owned(), Value::Null);
    }
    inner.insert("_unique_id".to_owned(), new_id().into());
    add_context(&mut inner, &message.context);
    sealed(&inner)
}

/// Reads a request. The error says what is wrong with it.
pub(super) fn read_request(body: &[u8]) -> Result<Request, String> {
    let inner = opened(body)?;
    let method = text(&inner, "method").ok_or("no method")?;
    let args = inner.get("args").cloned().unwrap_or_else(|| json!({}));
    let answer_to = match (text(&inner, "_msg_id"), text(&inner, "_reply_q")) {
        (Some(message_id), Some(queue)) => Some(AnswerTo {
            queue,
            message_id,
            monitor_s: inner.get("_timeout").and_then(Value::as_f64),
        }),
        _ => None,
    };
    let message = Message {
        method,
        args,
        version: text(&inner, "version").unwrap_or_else(|| "1.0".to_owned()),
        namespace: text(&inner, "namespace"),
        context: context(&inner),
    };
    Ok(Request {
        message,
        unique_id: text(&inner, "_unique_id"),
        answer_to,
    })
}

/// The answer of a call, or with `None` the sign that it still runs.
pub(super) fn reply(message_id: &str, outcome: Option<&Result<Value, RemoteFailure>>) -> Vec<u8> {
    let (result, failure) = match outcome {
        Some(Ok(result)) => (result.clone(), Value::Null),
        Some(Err(failure)) => (Value::Null, serialized(failure).into()),
        None => (Value::Null, Value::Null),
    };
    let mut inner = Map::new();
    inner.insert("result".to_owned(), result);
    inner.insert("failure".to_owned(), failure);
    inner.insert("ending".to_owned(), outcome.is_some().into());
    inner.insert("_msg_id".to_owned(), message_id.into());
    inner.insert("_unique_id".to_owned(), new_id().into());
    sealed(&inner)
}

/// A failure as `serialize_remote_exception` writes it.
fn serialized(failure: &RemoteFailure) -> String {
    let module = match failure.class.as_str() {
        "NoSuchMethod" | "UnsupportedVersion" => "oslo_messaging.rpc.dispatcher",
        _ => "cinder.exception",
    };
    json!({
        "class": failure.class, "module": module, "message": failure.message,
        "tb": [], "args": [failure.message], "kwargs": {},
    })
    .to_string()
}

/// Reads a reply. The error says what is wrong with it.
pub(super) fn read_reply(body: &[u8]) -> Result<Reply, String> {
    let inner = opened(body)?;
    let message_id = text(&inner, "_msg_id").ok_or("no _msg_id")?;
    let outcome = match inner.get("failure") {
        None | Some(Value::Null) => Ok(inner.get("result").cloned().unwrap_or(Value::Null)),
        Some(failure) => Err(read_failure(failure)),
    };
    Ok(Reply {
        message_id,
        is_last: inner.get("ending").and_then(Value::as_bool).unwrap_or(true),
        outcome,
    })
}

fn read_failure(failure: &Value) -> RemoteFailure {
    let parsed: Option<Map<String, Value>> = failure
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok());
    let Some(parsed) = parsed else {
        return RemoteFailure::new("RemoteError", failure.to_string());
    };
    let class = text(&parsed, "class").unwrap_or_else(|| "RemoteError".to_owned());
    let class = class.strip_suffix("_Remote").unwrap_or(&class);
    RemoteFailure::new(class, text(&parsed, "message").unwrap_or_default())
}

/// A notification; `enveloped`: as the driver `messagingv2` sends it, else as `messaging`.
pub(super) fn notification(notification: &Notification, enveloped: bool) -> Vec<u8> {
    let mut inner = Map::new();
    inner.insert(
        "message_id".to_owned(),
        notification.message_id.clone().into(),
    );
    inner.insert(
        "publisher_id".to_owned(),
        notification.publisher_id.clone().into(),
    );
    inner.insert(
        "event_type".to_owned(),
        notification.event_type.clone().into(),
    );
    inner.insert("priority".to_owned(), json!(notification.priority));
    inner.insert("payload".to_owned(), notification.payload.clone());
    inner.insert("timestamp".to_owned(), timestamp(notification.at_us).into());
    inner.insert("_unique_id".to_owned(), new_id().into());
    add_context(&mut inner, &notification.context);
    if enveloped {
        return sealed(&inner);
    }
    Value::Object(inner).to_string().into_bytes()
}

/// `2026-01-02 03:04:05.678901`.
fn timestamp(at_us: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_us) * 1_000);
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{} {:02}:{:02}:{:02}.{:06}",
        at.date(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_survive_the_wire() {
        let context = RequestContext {
            request_id: "req-1".to_owned(),
            user_id: "u".to_owned(),
            project_id: "p".to_owned(),
        };
        let message = Message::new("wake", json!({"a": 1}))
            .with_version("3.2")
            .with_context(context);
        let answer_to = AnswerTo {
            queue: "reply_x".to_owned(),
            message_id: "m".to_owned(),
            monitor_s: None,
        };
        let read = read_request(&request(&message, Some(&answer_to))).unwrap();
        assert_eq!(read.message, message);
        assert_eq!(read.answer_to.unwrap().queue, "reply_x");
        assert_eq!(read.unique_id.unwrap().len(), 32);
        assert!(
            read_request(&request(&message, None))
                .unwrap()
                .answer_to
                .is_none()
        );

        let failed = Err(RemoteFailure::new(
            "VolumeNotFound",
            "Volume v is not there.",
        ));
        let back = read_reply(&reply("m", Some(&failed))).unwrap();
        assert_eq!((back.outcome, back.is_last), (failed, true));
        let back = read_reply(&reply("m", Some(&Ok(json!([1]))))).unwrap();
        assert_eq!(back.outcome, Ok(json!([1])));
        assert!(!read_reply(&reply("m", None)).unwrap().is_last);
    }

    #[test]
    fn bodies_without_an_envelope_are_read_and_broken_ones_refused() {
        let bare = json!({"method": "wake", "_context_tenant": "p"}).to_string();
        let read = read_request(bare.as_bytes()).unwrap().message;
        assert_eq!(
            (read.version.as_str(), read.context.project_id.as_str()),
            ("1.0", "p")
        );
        for broken in [
            "",
            "[]",
            "{}",
            "{\"oslo.version\": \"3.0\", \"oslo.message\": \"{}\"}",
            "{\"oslo.version\": \"2.0\", \"oslo.message\": 1}",
            "{\"oslo.version\": \"2.0\", \"oslo.message\": \"x\"}",
        ] {
            assert!(read_request(broken.as_bytes()).is_err(), "{broken}");
            assert!(read_reply(broken.as_bytes()).is_err(), "{broken}");
        }
        let odd = json!({"_msg_id": "m", "failure": 7}).to_string();
        let odd = read_reply(odd.as_bytes()).unwrap().outcome.unwrap_err();
        assert_eq!(odd.class, "RemoteError");
    }

    #[test]
    fn notifications_have_the_fields_of_the_contract() {
        let sent = Notification::info("volume.h", "volume.create.end", json!({"size": 1}));
        let inner = opened(&notification(&sent, true)).unwrap();
        for key in [
            "message_id",
            "publisher_id",
            "event_type",
            "payload",
            "_unique_id",
        ] {
            assert!(inner.contains_key(key), "{key}");
        }
        assert_eq!(inner["priority"], "INFO");
        assert_eq!(
            timestamp(1_767_323_045_000_012),
            "2026-01-02 03:04:05.000012"
        );
    }
}
