//! The documents that clients get, as typed structs (Image API ref, v2).

use std::collections::BTreeMap;

use rest::time::format_seconds_z as timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::cache::CachedImage;
use crate::image::{Image, Location, Member};

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
    #[serde(flatten)]
    pub properties: BTreeMap<String, Option<String>>,
}

/// Which of an image's locations a document shows.
#[derive(Debug, Clone, Copy)]
pub struct LocationVisibility {
    pub direct_url: bool,
    pub locations: bool,
}

impl ImageView {
    pub fn new(image: Image, locations: Vec<Location>, show: LocationVisibility) -> Self {
        let self_path = format!("/v2/images/{}", image.id);
        let direct_url = locations
            .first()
            .filter(|_| show.direct_url)
            .map(|location| location.url.clone());
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
