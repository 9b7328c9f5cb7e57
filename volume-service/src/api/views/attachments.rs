//! Attachments in answers.

use serde::Serialize;
use uuid::Uuid;

use super::{Rows, time};
use crate::db::attachments::{Attachment, Document};

/// `{"attachment": …}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct One {
    attachment: AttachmentView,
}

impl One {
    pub fn new(attachment: Attachment) -> Self {
        One {
            attachment: AttachmentView::new(attachment),
        }
    }
}

/// `{"attachments": […]}`
#[derive(Debug, Serialize)]
pub(in crate::api) struct List {
    pub attachments: Rows<SummaryView, AttachmentView>,
}

#[derive(Debug, Serialize)]
pub(in crate::api) struct SummaryView {
    id: Uuid,
    status: String,
    instance: Option<Uuid>,
    volume_id: Uuid,
}

impl SummaryView {
    pub fn new(attachment: Attachment) -> Self {
        SummaryView {
            id: attachment.id,
            status: attachment.attach_status,
            instance: attachment.instance_id,
            volume_id: attachment.volume_id,
        }
    }
}

/// An attachment as shown and as listed in detail. Times that are not yet are empty texts.
#[derive(Debug, Serialize)]
pub(in crate::api) struct AttachmentView {
    #[serde(flatten)]
    summary: SummaryView,
    attached_at: String,
    detached_at: &'static str,
    attach_mode: String,
    connection_info: Document,
}

impl AttachmentView {
    pub fn new(mut attachment: Attachment) -> Self {
        AttachmentView {
            attached_at: attachment.attached_at.map(time).unwrap_or_default(),
            // A deleted attachment is not shown any more.
            detached_at: "",
            attach_mode: std::mem::take(&mut attachment.attach_mode),
            connection_info: attachment.connection_info.take().unwrap_or_default(),
            summary: SummaryView::new(attachment),
        }
    }
}
