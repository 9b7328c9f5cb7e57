//! What an image is: its attributes, its states, and which keys of a document mean what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use uuid::Uuid;

/// Longest name, tag, property name or member id, in characters.
pub const NAME_CHARS_MAX: usize = 255;
/// Longest value of a custom property, in bytes (a TEXT column of every supported server).
pub const PROPERTY_VALUE_BYTES_MAX: usize = 65_535;

macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($variant),+ }

        impl $name {
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word of the API and of the database.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    };
}

word_enum! {
    /// Where an image is in its life (Image API, "Image status").
    Status {
        Queued = "queued",
        Saving = "saving",
        Uploading = "uploading",
        Importing = "importing",
        Active = "active",
        Deactivated = "deactivated",
        PendingDelete = "pending_delete",
        Killed = "killed",
        Deleted = "deleted",
    }
}

word_enum! {
    /// Who may see an image.
    Visibility {
        Private = "private",
        Shared = "shared",
        Community = "community",
        Public = "public",
    }
}

word_enum! {
    /// What a project has answered to being made a member of an image.
    MemberStatus { Pending = "pending", Accepted = "accepted", Rejected = "rejected" }
}

word_enum! {
    /// How far a task is.
    TaskStatus {
        Pending = "pending",
        Processing = "processing",
        Success = "success",
        Failure = "failure",
    }
}

/// An image with its properties and tags; locations and members are read apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub id: Uuid,
    pub name: Option<String>,
    pub status: Status,
    pub visibility: Visibility,
    /// The project that the image belongs to.
    pub owner: Option<String>,
    pub protected: bool,
    pub os_hidden: bool,
    pub container_format: Option<String>,
    pub disk_format: Option<String>,
    pub min_ram_mib: i64,
    pub min_disk_gib: i64,
    pub size_bytes: Option<u64>,
    pub virtual_size_bytes: Option<u64>,
    /// MD5 of the data, in hex.
    pub checksum: Option<String>,
    pub os_hash_algo: Option<String>,
    pub os_hash_value: Option<String>,
    /// The upload that may write the data while the status is `saving`.
    pub upload_id: Option<Uuid>,
    pub created_at_us: i64,
    pub updated_at_us: i64,
    /// Custom properties.
    pub properties: BTreeMap<String, Option<String>>,
    pub tags: BTreeSet<String>,
}

/// Where an image's data lies.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Location {
    /// `rbd://<fsid>/<pool>/<image>/<snapshot>`.
    pub url: String,
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// A project that an image is shared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub image_id: Uuid,
    pub member_id: String,
    pub status: MemberStatus,
    pub created_at_us: i64,
    pub updated_at_us: i64,
}

/// What clients see of an import or of a location that is added. Its id is its flow's.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub id: Uuid,
    /// `import`, `api_image_import` or `location_import`.
    pub kind: String,
    pub status: TaskStatus,
    /// The project that asked for it.
    pub owner: String,
    pub image_id: Option<Uuid>,
    pub request_id: String,
    pub user_id: String,
    pub input: serde_json::Value,
    pub result: Option<serde_json::Value>,
    pub message: String,
    /// When it is forgotten; `None` while it runs.
    pub expires_at_us: Option<i64>,
    pub created_at_us: i64,
    pub updated_at_us: i64,
}

/// What a key of an image document is to the one who writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// An attribute that a client may set.
    Base,
    /// An attribute that only the service sets.
    ReadOnly,
    /// A name that no property may have.
    Reserved,
    /// A custom property.
    Property,
}

const BASE: &[&str] = &[
    "container_format",
    "disk_format",
    "id",
    "locations",
    "min_disk",
    "min_ram",
    "name",
    "os_hidden",
    "owner",
    "protected",
    "tags",
    "visibility",
];
const READ_ONLY: &[&str] = &[
    "checksum",
    "created_at",
    "direct_url",
    "file",
    "os_hash_algo",
    "os_hash_value",
    "schema",
    "self",
    "size",
    "status",
    "stores",
    "updated_at",
    "virtual_size",
];
const RESERVED: &[&str] = &["deleted", "deleted_at", "location"];

/// The beginning of the names of properties that only the service writes.
pub const SYSTEM_PREFIX: &str = "os_glance_";

impl Key {
    pub fn of(name: &str) -> Key {
        if BASE.contains(&name) {
            Key::Base
        } else if READ_ONLY.contains(&name) {
            Key::ReadOnly
        } else if RESERVED.contains(&name) || name.starts_with(SYSTEM_PREFIX) {
            Key::Reserved
        } else {
            Key::Property
        }
    }
}

/// Whether a custom property may have this name.
pub fn is_property_name(name: &str) -> bool {
    let length = name.chars().count();
    Key::of(name) == Key::Property && (1..=NAME_CHARS_MAX).contains(&length)
}

/// What the flows of one image lock.
pub fn lock_key(id: Uuid) -> String {
    format!("image/{id}")
}

/// The snapshot of an image in the store that holds its data, Glance's name.
pub const STORE_SNAPSHOT: &str = "snap";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_and_keys_are_told_apart() {
        for word in Status::WORDS {
            assert_eq!(Status::parse(word).unwrap().as_str(), *word);
        }
        assert_eq!(Status::parse("ACTIVE"), None);
        assert_eq!(Key::of("name"), Key::Base);
        assert_eq!(Key::of("checksum"), Key::ReadOnly);
        assert_eq!(Key::of("os_glance_import_task"), Key::Reserved);
        assert_eq!(Key::of("hw_disk_bus"), Key::Property);
    }
}
