//! User messages in answers.

use serde::Serialize;
use uuid::Uuid;

use super::super::call::{Call, Link};
use super::{NextPage, time};
use crate::db::messages::Message;

/// `{"message": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct One {
    pub message: MessageView,
}

/// `{"messages": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct List {
    pub messages: Vec<MessageView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_links: NextPage,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct MessageView {
    id: Uuid,
    event_id: String,
    user_message: String,
    message_level: String,
    created_at: String,
    guaranteed_until: String,
    request_id: Option<String>,
    links: [Link; 2],
    resource_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_uuid: Option<Uuid>,
}

impl MessageView {
    pub fn new(call: &Call, message: Message) -> Self {
        MessageView {
            id: message.id,
            event_id: message.event_id(),
            user_message: message.text(),
            message_level: message.level,
            created_at: time(message.created_at),
            guaranteed_until: time(message.expires_at),
            request_id: message.request_id,
            links: call.links.of("messages", message.id),
            resource_type: message.resource_type,
            resource_uuid: message.resource_id,
        }
    }
}
