//! The documents of metadata definitions (Image API ref). What is not set is left out.

use rest::time::format_seconds_z as timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Association, Item, Namespace, ResourceType};

#[derive(Debug, Serialize)]
pub struct NamespaceView {
    pub namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub visibility: &'static str,
    pub protected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    #[serde(rename = "self")]
    pub self_path: String,
    pub schema: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_type_associations: Vec<AssociationView>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub properties: Map<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<ObjectView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<TagNameView>,
}

/// Where a namespace is read.
pub fn namespace_path(namespace: &str) -> String {
    format!("/v2/metadefs/namespaces/{namespace}")
}

impl From<Namespace> for NamespaceView {
    fn from(namespace: Namespace) -> Self {
        NamespaceView {
            self_path: namespace_path(&namespace.namespace),
            namespace: namespace.namespace,
            display_name: namespace.display_name,
            description: namespace.description,
            visibility: namespace.visibility.as_str(),
            protected: namespace.protected,
            owner: namespace.owner,
            created_at: timestamp(namespace.created_at_us),
            updated_at: timestamp(namespace.updated_at_us),
            schema: "/v2/schemas/metadefs/namespace",
            resource_type_associations: Vec::new(),
            properties: Map::new(),
            objects: Vec::new(),
            tags: Vec::new(),
        }
    }
}

impl NamespaceView {
    /// Names of properties as a resource of this type bears them.
    pub fn prefix_properties(&mut self, resource_type: &str) {
        let association = self
            .resource_type_associations
            .iter()
            .find(|association| association.name == resource_type);
        let Some(prefix) = association.and_then(|association| association.prefix.clone()) else {
            return;
        };
        self.properties = prefixed(&prefix, std::mem::take(&mut self.properties));
        for object in &mut self.objects {
            object.prefix_properties(&prefix);
        }
    }
}

fn prefixed(prefix: &str, properties: Map<String, Value>) -> Map<String, Value> {
    properties
        .into_iter()
        .map(|(name, schema)| (format!("{prefix}{name}"), schema))
        .collect()
}

/// A page of namespaces.
#[derive(Debug, Serialize)]
pub struct NamespacesView {
    pub namespaces: Vec<NamespaceView>,
    pub first: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    pub schema: &'static str,
}

/// An object; `description`, `required` and `properties` stand beside its name.
#[derive(Debug, Serialize)]
pub struct ObjectView {
    pub name: String,
    #[serde(flatten)]
    pub document: Map<String, Value>,
    pub created_at: String,
    pub updated_at: String,
    #[serde(rename = "self")]
    pub self_path: String,
    pub schema: &'static str,
}

impl ObjectView {
    pub fn new(namespace: &str, mut object: Item) -> Self {
        let document = &mut object.document;
        let empty = [
            ("properties", Value::Object(Map::new())),
            ("required", Value::Array(Vec::new())),
        ];
        for (name, nothing) in empty {
            document.entry(name).or_insert(nothing);
        }
        ObjectView {
            self_path: format!("{}/objects/{}", namespace_path(namespace), object.name),
            name: object.name,
            document: object.document,
            created_at: timestamp(object.created_at_us),
            updated_at: timestamp(object.updated_at_us),
            schema: "/v2/schemas/metadefs/object",
        }
    }

    fn prefix_properties(&mut self, prefix: &str) {
        if let Some(Value::Object(properties)) = self.document.get_mut("properties") {
            *properties = prefixed(prefix, std::mem::take(properties));
        }
        if let Some(Value::Array(required)) = self.document.get_mut("required") {
            for name in required {
                if let Value::String(name) = name {
                    name.insert_str(0, prefix);
                }
            }
        }
    }
}

#[derive(Debug, Serialize)]
pub struct ObjectsView {
    pub objects: Vec<ObjectView>,
    pub schema: &'static str,
}

/// A property by itself: its name stands in its schema.
#[derive(Debug, Serialize)]
pub struct PropertyView {
    pub name: String,
    #[serde(flatten)]
    pub schema: Map<String, Value>,
}

impl From<Item> for PropertyView {
    fn from(property: Item) -> Self {
        PropertyView {
            name: property.name,
            schema: property.document,
        }
    }
}

/// Properties by name.
#[derive(Debug, Serialize)]
pub struct PropertiesView {
    pub properties: Map<String, Value>,
}

/// `{name: schema, …}`
pub fn property_map(properties: Vec<Item>) -> Map<String, Value> {
    properties
        .into_iter()
        .map(|property| (property.name, Value::Object(property.document)))
        .collect()
}

#[derive(Debug, Serialize)]
pub struct TagView {
    pub name: String,
    pub created_at: String,
    pub updated_at: String,
}

impl From<Item> for TagView {
    fn from(tag: Item) -> Self {
        TagView {
            name: tag.name,
            created_at: timestamp(tag.created_at_us),
            updated_at: timestamp(tag.updated_at_us),
        }
    }
}

/// A tag in a list.
#[derive(Debug, Serialize)]
pub struct TagNameView {
    pub name: String,
}

impl From<Item> for TagNameView {
    fn from(tag: Item) -> Self {
        TagNameView { name: tag.name }
    }
}

#[derive(Debug, Serialize)]
pub struct TagsView {
    pub tags: Vec<TagNameView>,
}

#[derive(Debug, Serialize)]
pub struct AssociationView {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub properties_target: Option<String>,
    pub created_at: String,
    pub updated_at: String,
}

impl From<Association> for AssociationView {
    fn from(association: Association) -> Self {
        AssociationView {
            name: association.resource_type,
            prefix: association.prefix,
            properties_target: association.properties_target,
            created_at: timestamp(association.created_at_us),
            updated_at: timestamp(association.updated_at_us),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct AssociationsView {
    pub resource_type_associations: Vec<AssociationView>,
}

#[derive(Debug, Serialize)]
pub struct ResourceTypeView {
    pub name: String,
    pub created_at: String,
    pub updated_at: String,
}

impl From<ResourceType> for ResourceTypeView {
    fn from(resource_type: ResourceType) -> Self {
        ResourceTypeView {
            name: resource_type.name,
            created_at: timestamp(resource_type.created_at_us),
            updated_at: timestamp(resource_type.updated_at_us),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct ResourceTypesView {
    pub resource_types: Vec<ResourceTypeView>,
}
