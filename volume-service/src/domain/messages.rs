//! User messages: find, list, delete.

use rest::RequestContext;
use rest::list_query::{Column, Columns};

use super::listing::{self, Query, Rows, Table};
use super::{parse_id, sees};
use crate::db::messages::{self, Message};
use crate::{Error, Result, VolumeService};

/// What lists of messages may be sorted by.
pub static SORTABLE: Columns = Columns {
    columns: &[
        Column::int("created_at", "created_at"),
        Column::text("event_id", "action_id"),
        Column::text("resource_type", "resource_type"),
        Column::text("resource_uuid", "resource_id").nullable(),
        Column::text("request_id", "request_id").nullable(),
        Column::text("message_level", "level"),
        Column::int("guaranteed_until", "expires_at"),
        Column::int("expires_at", "expires_at"),
    ],
    id: Column::text("id", "id"),
};

static TABLE: Table = Table {
    resource: "Message",
    name: "volume_messages",
    columns: messages::COLUMNS,
    sortable: &SORTABLE,
    soft_deleted: false,
};

/// The message of this id, if the caller may see it; otherwise it does not exist.
pub async fn get(service: &VolumeService, context: &RequestContext, id: &str) -> Result<Message> {
    let not_found = || Error::no_such("Message", id);
    let uuid = parse_id(id).ok_or_else(not_found)?;
    let found = messages::get(&service.database, uuid).await?;
    found
        .filter(|message| sees(context, &message.project_id))
        .ok_or_else(not_found)
}

/// One page of messages.
pub async fn list(service: &VolumeService, query: Query) -> Result<Rows<Message>> {
    listing::fetch(&service.database, &TABLE, query, Message::from_row).await
}

/// Removes a message.
pub async fn delete(service: &VolumeService, message: &Message) -> Result<()> {
    let mut tx = service.database.begin().await?;
    if !messages::delete(&mut tx, message.id).await? {
        return Err(Error::no_such("Message", message.id));
    }
    Ok(tx.commit().await?)
}
