//! What happens to metadata definitions: `metadef_namespace`, `metadef_object`,
//! `metadef_property`, `metadef_tag` and `metadef_resource_type` with `create`, `update` and
//! `delete`. What an operator loads from files is not told.

use database::{Result, Tx, now_us};
use serde_json::{Map, Value, json};

use super::{By, Notices, timestamp};
use crate::metadef::load::Inserted;
use crate::metadef::{Association, Item, Kind, Namespace};

/// Keys of a property's schema in the order in which Glance lists them.
const SCHEMA_KEYS: &[&str] = &[
    "type",
    "title",
    "description",
    "default",
    "minimum",
    "maximum",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "confidential",
    "items",
    "uniqueItems",
    "minItems",
    "maxItems",
    "additionalItems",
];

/// What happened to a definition.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    Create,
    /// With the name that it had before.
    Update(&'a str),
    Delete,
}

impl Event<'_> {
    fn word(self) -> &'static str {
        match self {
            Event::Create => "create",
            Event::Update(_) => "update",
            Event::Delete => "delete",
        }
    }

    /// Adds what the event says beside the definition.
    fn put_into(self, payload: &mut Value, old_name: &str) {
        let is_deleted = matches!(self, Event::Delete);
        payload["deleted"] = is_deleted.into();
        payload["deleted_at"] = is_deleted.then(|| timestamp(now_us())).into();
        if let Event::Update(name) = self {
            payload[old_name] = name.into();
        }
    }
}

impl Notices {
    /// A namespace with all that it was made with.
    pub(crate) async fn metadef_inserted(
        &self,
        tx: &mut Tx,
        inserted: &Inserted,
        by: impl Into<By>,
    ) -> Result<()> {
        let (namespace, by) = (&inserted.namespace, by.into());
        self.metadef_namespace(tx, Event::Create, namespace, by.clone())
            .await?;
        for association in &inserted.associations {
            self.metadef_association(tx, Event::Create, namespace, association, by.clone())
                .await?;
        }
        for (kind, item) in &inserted.items {
            self.metadef_item(tx, Event::Create, (namespace, *kind, item), by.clone())
                .await?;
        }
        Ok(())
    }

    /// `metadef_namespace.<event>`
    pub(crate) async fn metadef_namespace(
        &self,
        tx: &mut Tx,
        event: Event<'_>,
        namespace: &Namespace,
        by: impl Into<By>,
    ) -> Result<()> {
        let mut payload = of_namespace(namespace);
        event.put_into(&mut payload, "namespace_old");
        let event = format!("metadef_namespace.{}", event.word());
        self.put(tx, &event, payload, by.into()).await
    }

    /// `metadef_namespace.delete_objects`, `…_properties`, `…_tags`
    pub(crate) async fn metadef_emptied(
        &self,
        tx: &mut Tx,
        namespace: &Namespace,
        kind: Kind,
        by: impl Into<By>,
    ) -> Result<()> {
        let event = match kind {
            Kind::Object => "metadef_namespace.delete_objects",
            Kind::Property => "metadef_namespace.delete_properties",
            Kind::Tag => "metadef_namespace.delete_tags",
        };
        self.put(tx, event, of_namespace(namespace), by.into())
            .await
    }

    /// `metadef_object.<event>`, `metadef_property.<event>`, `metadef_tag.<event>`
    pub(crate) async fn metadef_item(
        &self,
        tx: &mut Tx,
        event: Event<'_>,
        (namespace, kind, item): (&Namespace, Kind, &Item),
        by: impl Into<By>,
    ) -> Result<()> {
        let mut payload = of_item(namespace, kind, item);
        event.put_into(&mut payload, "name_old");
        let event = format!("metadef_{}.{}", kind.as_str(), event.word());
        self.put(tx, &event, payload, by.into()).await
    }

    /// `metadef_resource_type.<event>`
    pub(crate) async fn metadef_association(
        &self,
        tx: &mut Tx,
        event: Event<'_>,
        namespace: &Namespace,
        association: &Association,
        by: impl Into<By>,
    ) -> Result<()> {
        let mut payload = json!({
            "namespace": namespace.namespace,
            "name": association.resource_type,
            "name_old": association.resource_type,
            "prefix": association.prefix,
            "properties_target": association.properties_target,
            "created_at": timestamp(association.created_at_us),
            "updated_at": timestamp(association.updated_at_us),
        });
        event.put_into(&mut payload, "name_old");
        let event = format!("metadef_resource_type.{}", event.word());
        self.put(tx, &event, payload, by.into()).await
    }
}

fn of_namespace(namespace: &Namespace) -> Value {
    json!({
        "namespace": namespace.namespace,
        "namespace_old": namespace.namespace,
        "display_name": namespace.display_name,
        "protected": namespace.protected,
        "visibility": namespace.visibility.as_str(),
        "owner": namespace.owner,
        "description": namespace.description,
        "created_at": timestamp(namespace.created_at_us),
        "updated_at": timestamp(namespace.updated_at_us),
        "deleted": false,
        "deleted_at": null,
    })
}

fn of_item(namespace: &Namespace, kind: Kind, item: &Item) -> Value {
    let mut payload = match kind {
        // Without its times, as Glance tells it.
        Kind::Property => Value::Object(schema(&item.document)),
        Kind::Tag => json!({}),
        Kind::Object => {
            let properties = item.document.get("properties").and_then(Value::as_object);
            let properties: Vec<Value> = properties
                .into_iter()
                .flatten()
                .map(|(name, property)| {
                    let mut told = property.as_object().map(schema).unwrap_or_default();
                    told.insert("name".to_owned(), name.as_str().into());
                    Value::Object(told)
                })
                .collect();
            json!({
                "properties": properties,
                "required": item.document.get("required"),
                "description": item.document.get("description"),
            })
        }
    };
    if kind != Kind::Property {
        payload["created_at"] = timestamp(item.created_at_us).into();
        payload["updated_at"] = timestamp(item.updated_at_us).into();
    }
    payload["namespace"] = namespace.namespace.as_str().into();
    payload["name"] = item.name.as_str().into();
    payload["name_old"] = item.name.as_str().into();
    payload
}

/// Every key of a schema, null where it has no value.
fn schema(document: &Map<String, Value>) -> Map<String, Value> {
    let told = |key: &&str| {
        let value = document.get(*key).cloned().unwrap_or(Value::Null);
        ((*key).to_owned(), value)
    };
    SCHEMA_KEYS.iter().map(told).collect()
}
