//! Metadata definitions: what the properties of images, volumes, flavors and so on mean. A
//! namespace holds objects, properties and tags, and says which types of resource it is for
//! (Image API ref, "Metadata definitions").

pub mod document;
pub mod load;
pub mod views;

use serde_json::{Map, Value};
use uuid::Uuid;

/// Longest name of a namespace, object, property, tag or resource type, in characters.
pub const NAME_CHARS_MAX: usize = 80;
pub const DESCRIPTION_CHARS_MAX: usize = 500;

/// Who may see a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    Public,
    Private,
}

impl Visibility {
    pub fn as_str(self) -> &'static str {
        match self {
            Visibility::Public => "public",
            Visibility::Private => "private",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "public" => Some(Visibility::Public),
            "private" => Some(Visibility::Private),
            _ => None,
        }
    }
}

/// A namespace without what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    pub id: Uuid,
    /// Unique, and what clients call it by.
    pub namespace: String,
    pub display_name: Option<String>,
    pub description: Option<String>,
    pub visibility: Visibility,
    /// Neither it nor what it holds may be deleted.
    pub protected: bool,
    /// The project that it belongs to; `None`: nobody's, and seen by everybody.
    pub owner: Option<String>,
    pub created_at_us: i64,
    pub updated_at_us: i64,
}

impl Namespace {
    /// Whether every project may see it.
    pub fn is_shown_to_all(&self) -> bool {
        self.visibility == Visibility::Public || self.owner.is_none()
    }
}

/// What a namespace holds by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Object,
    Property,
    Tag,
}

impl Kind {
    /// The word of the database and of messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Object => "object",
            Kind::Property => "property",
            Kind::Tag => "tag",
        }
    }
}

/// An object, a property or a tag.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub name: String,
    /// An object's `description`, `required` and `properties`; a property's schema; a tag's
    /// nothing.
    pub document: Map<String, Value>,
    pub created_at_us: i64,
    pub updated_at_us: i64,
}

/// That a namespace is for a type of resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    pub resource_type: String,
    /// What names of properties begin with on such a resource.
    pub prefix: Option<String>,
    /// Which of the resource's several collections of properties is meant.
    pub properties_target: Option<String>,
    pub created_at_us: i64,
    pub updated_at_us: i64,
}

/// A type of resource that definitions can be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceType {
    pub name: String,
    pub created_at_us: i64,
    pub updated_at_us: i64,
}
