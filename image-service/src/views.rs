//! The documents that clients get, as typed structs (Image API ref, v2).

use std::collections::BTreeMap;

use rest::time::format_seconds_z as timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::cache::CachedImage;
use crate::image::{Image, Location, Member, Task};
use crate::stores::store_of;

/// An image. Custom properties stand beside the attributes.
#[derive(Debug, Serialize)]
pub struct ImageView {
    pub id: Uuid,
    pub name: Option<String>,
    pub status: &'static str,
    pub visibility: &'static str,
    pub protected: bool,
    pub os_hidden: bool,
    pub checksum: Option<String>,
    pub os_hash_algo: Option<String>,
    pub os_hash_value: Option<String>,
    pub owner: Option<String>,
    pub size: Option<u64>,
    pub virtual_size: Option<u64>,
    pub container_format: Option<String>,
    pub disk_format: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    pub min_ram: i64,
    pub min_disk: i64,
    pub tags: Vec<String>,
    #[serde(rename = "self")]
    pub self_path: String,
    pub file: String,
    pub schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locations: Option<Vec<Location>>,
    /// Ids separated by commas, where stores have ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stores: Option<String>,
    #[serde(flatten)]
    pub properties: BTreeMap<String, Option<String>>,
}

/// Which of an image's locations a document shows.
#[derive(Debug, Clone, Copy)]
pub struct LocationVisibility {
    pub direct_url: bool,
    pub locations: bool,
    /// The ids of the stores that they lie in.
    pub stores: bool,
}

impl LocationVisibility {
    /// Whether a document needs the locations at all.
    pub fn any(self) -> bool {
        self.direct_url || self.locations || self.stores
    }
}

impl ImageView {
    /// `locations` in the order in which they are to be used.
    pub fn new(image: Image, locations: Vec<Location>, show: LocationVisibility) -> Self {
        let self_path = format!("/v2/images/{}", image.id);
        let direct_url = locations
            .first()
            .filter(|_| show.direct_url)
            .map(|location| location.url.clone());
        let stores = show.stores.then(|| {
            let ids: Vec<&str> = locations.iter().filter_map(store_of).collect();
            ids.join(",")
        });
        ImageView {
            id: image.id,
            name: image.name,
            status: image.status.as_str(),
            visibility: image.visibility.as_str(),
            protected: image.protected,
            os_hidden: image.os_hidden,
            checksum: image.checksum,
            os_hash_algo: image.os_hash_algo,
            os_hash_value: image.os_hash_value,
            owner: image.owner,
            size: image.size_bytes,
            virtual_size: image.virtual_size_bytes,
            container_format: image.container_format,
            disk_format: image.disk_format,
            created_at: timestamp(image.created_at_us),
            updated_at: timestamp(image.updated_at_us),
            min_ram: image.min_ram_mib,
            min_disk: image.min_disk_gib,
            tags: image.tags.into_iter().collect(),
            file: format!("{self_path}/file"),
            self_path,
            schema: "/v2/schemas/image",
            direct_url,
            locations: show.locations.then_some(locations),
            stores: stores.filter(|ids| !ids.is_empty()),
            properties: image.properties,
        }
    }
}

/// A page of images.
#[derive(Debug, Serialize)]
pub struct ImagesView {
    pub images: Vec<ImageView>,
    pub first: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    pub schema: &'static str,
}

#[derive(Debug, Serialize)]
pub struct MemberView {
    pub member_id: String,
    pub image_id: Uuid,
    pub status: &'static str,
    pub created_at: String,
    pub updated_at: String,
    pub schema: &'static str,
}

impl From<Member> for MemberView {
    fn from(member: Member) -> Self {
        MemberView {
            member_id: member.member_id,
            image_id: member.image_id,
            status: member.status.as_str(),
            created_at: timestamp(member.created_at_us),
            updated_at: timestamp(member.updated_at_us),
            schema: "/v2/schemas/member",
        }
    }
}

#[derive(Debug, Serialize)]
pub struct MembersView {
    pub members: Vec<MemberView>,
    pub schema: &'static str,
}

#[derive(Debug, Serialize)]
pub struct VersionsView {
    pub versions: Vec<VersionView>,
}

#[derive(Debug, Serialize)]
pub struct VersionView {
    pub id: &'static str,
    pub status: &'static str,
    pub links: Vec<LinkView>,
}

#[derive(Debug, Serialize)]
pub struct LinkView {
    pub rel: &'static str,
    pub href: String,
}

/// A copy in the image cache; times are seconds since the epoch.
#[derive(Debug, Serialize)]
pub struct CachedImageView {
    pub image_id: Uuid,
    pub hits: u64,
    pub last_accessed: f64,
    pub last_modified: f64,
    pub size: u64,
}

impl From<CachedImage> for CachedImageView {
    fn from(copy: CachedImage) -> Self {
        CachedImageView {
            image_id: copy.image_id,
            hits: copy.hits,
            last_accessed: copy.last_accessed_s,
            last_modified: copy.last_modified_s,
            size: copy.size_bytes,
        }
    }
}

/// What a project uses of one limit; `-1`: no limit.
#[derive(Debug, Serialize)]
pub struct LimitView {
    pub usage: u64,
    pub limit: i64,
}

/// A store that clients may choose.
#[derive(Debug, Serialize)]
pub struct StoreView {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<&'static str>,
    #[serde(rename = "read-only", skip_serializing_if = "Option::is_none")]
    pub read_only: Option<&'static str>,
    #[serde(flatten)]
    pub detail: Option<StoreDetailView>,
}

/// What only operators see of a store.
#[derive(Debug, Serialize)]
pub struct StoreDetailView {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub weight: i64,
    pub properties: serde_json::Value,
}

#[derive(Debug, Serialize)]
pub struct StoresView {
    pub stores: Vec<StoreView>,
}

/// A task in a list.
#[derive(Debug, Serialize)]
pub struct TaskStubView {
    pub id: Uuid,
    #[serde(rename = "type")]
    pub kind: String,
    pub status: &'static str,
    pub owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<Uuid>,
    pub request_id: String,
    pub user_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    #[serde(rename = "self")]
    pub self_path: String,
    pub schema: &'static str,
}

impl From<Task> for TaskStubView {
    fn from(task: Task) -> Self {
        TaskStubView {
            id: task.id,
            kind: task.kind,
            status: task.status.as_str(),
            owner: task.owner,
            image_id: task.image_id,
            request_id: task.request_id,
            user_id: task.user_id,
            expires_at: task.expires_at_us.map(timestamp),
            created_at: timestamp(task.created_at_us),
            updated_at: timestamp(task.updated_at_us),
            self_path: format!("/v2/tasks/{}", task.id),
            schema: "/v2/schemas/task",
        }
    }
}

/// A task.
#[derive(Debug, Serialize)]
pub struct TaskView {
    #[serde(flatten)]
    pub stub: TaskStubView,
    pub input: serde_json::Value,
    pub result: Option<serde_json::Value>,
    pub message: String,
}

impl From<Task> for TaskView {
    fn from(mut task: Task) -> Self {
        TaskView {
            input: task.input.take(),
            result: task.result.take(),
            message: std::mem::take(&mut task.message),
            stub: task.into(),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct TasksView {
    pub tasks: Vec<TaskStubView>,
    pub first: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    pub schema: &'static str,
}

/// A task among those of an image: every field, and times without a zone.
#[derive(Debug, Serialize)]
pub struct ImageTaskView {
    pub id: Uuid,
    #[serde(rename = "type")]
    pub kind: String,
    pub status: &'static str,
    pub owner: String,
    pub created_at: String,
    pub updated_at: String,
    /// Tasks are not shown once they are deleted.
    pub deleted: bool,
    pub deleted_at: Option<String>,
    pub expires_at: Option<String>,
    pub image_id: Option<Uuid>,
    pub request_id: String,
    pub user_id: String,
    pub message: String,
    pub input: serde_json::Value,
    pub result: Option<serde_json::Value>,
}

impl From<Task> for ImageTaskView {
    fn from(task: Task) -> Self {
        let plain = |us: i64| timestamp(us).trim_end_matches('Z').to_owned();
        ImageTaskView {
            id: task.id,
            kind: task.kind,
            status: task.status.as_str(),
            owner: task.owner,
            created_at: plain(task.created_at_us),
            updated_at: plain(task.updated_at_us),
            deleted: false,
            deleted_at: None,
            expires_at: task.expires_at_us.map(plain),
            image_id: task.image_id,
            request_id: task.request_id,
            user_id: task.user_id,
            message: task.message,
            input: task.input,
            result: task.result,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct ImageTasksView {
    pub tasks: Vec<ImageTaskView>,
}
