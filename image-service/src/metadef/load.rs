//! Namespaces from documents: those that a new installation starts with, those that an operator
//! keeps in files (the format of Glance's `etc/metadefs`), and those of requests.

use std::path::{Path, PathBuf};

use database::{Database, Tx, now_us, params};
use serde_json::Value;
use uuid::Uuid;

use super::document::{AssociationDocument, NamedDocument, NamespaceDocument};
use super::{Association, Item, Kind, Namespace, Visibility, document};
use crate::db::{metadef_items, metadefs};
use crate::error::{Error, Result};

/// The namespaces that Horizon and users of Nova expect, as Glance ships them, by what they are
/// about: arrays of documents.
const STANDARD_SET: &[&str] = &[
    include_str!("../../metadefs/cim.json"),
    include_str!("../../metadefs/compute.json"),
    include_str!("../../metadefs/compute-drivers.json"),
    include_str!("../../metadefs/compute-hardware.json"),
    include_str!("../../metadefs/images.json"),
    include_str!("../../metadefs/software.json"),
];
/// Types of resource that are known before any namespace names them.
const RESOURCE_TYPES: &[&str] = &[
    "OS::Cinder::Volume",
    "OS::Glance::Image",
    "OS::Nova::Aggregate",
    "OS::Nova::Flavor",
    "OS::Nova::Server",
    "OS::Trove::Instance",
];
/// Owner of namespaces that come from files, unless they name one; Glance's choice.
const FILE_OWNER: &str = "admin";
/// A larger definition file is refused.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Loads the standard set into a database that has seen none; what an operator changes or deletes
/// afterwards stays as it is.
pub async fn standard_set(database: &Database) -> Result<()> {
    let known = "SELECT name FROM metadef_resource_types LIMIT 1";
    if database.fetch_optional(known, params![]).await?.is_some() {
        return Ok(());
    }
    let broken = |error: serde_json::Error| Error::Internal(format!("standard set: {error}"));
    let mut documents: Vec<Value> = Vec::new();
    for text in STANDARD_SET {
        documents.append(&mut serde_json::from_str(text).map_err(broken)?);
    }
    let mut tx = database.begin().await?;
    // Another process may have been faster.
    if tx.fetch_optional(known, params![]).await?.is_some() {
        return Ok(());
    }
    for name in RESOURCE_TYPES {
        metadefs::insert_resource_type(&mut tx, name).await?;
    }
    for document in &documents {
        insert(&mut tx, &of_file(document)?).await?;
    }
    Ok(tx.commit().await?)
}

/// A document as files write it: public, and the operator's, unless it says otherwise.
fn of_file(document: &Value) -> Result<NamespaceDocument> {
    let mut document = document::namespace(Some(document))?;
    document.visibility.get_or_insert(Visibility::Public);
    document.owner.get_or_insert_with(|| FILE_OWNER.to_owned());
    Ok(document)
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    Created,
    Replaced,
    /// The namespace was there, and was not to be replaced.
    Kept,
}

/// Loads every `*.json` of a folder, in the order of their names; each is one transaction. Stops
/// at the first that is wrong. With `replace`, a namespace that exists is deleted first.
pub async fn load_folder(
    database: &Database,
    folder: &Path,
    replace: bool,
) -> Result<Vec<(PathBuf, Loaded)>> {
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        Error::BadRequest(format!("{}: {error}", path.display()))
    };
    let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    files.sort();
    let mut loaded = Vec::new();
    for file in files {
        let size = std::fs::metadata(&file).map_err(|error| unreadable(&file, &error))?;
        if size.len() > FILE_BYTES_MAX {
            return Err(unreadable(&file, &"the file is too large"));
        }
        let text = std::fs::read(&file).map_err(|error| unreadable(&file, &error))?;
        let value: Value =
            serde_json::from_slice(&text).map_err(|error| unreadable(&file, &error))?;
        let document = of_file(&value).map_err(|error| unreadable(&file, &error))?;
        loaded.push((file, load(database, &document, replace).await?));
    }
    Ok(loaded)
}

async fn load(database: &Database, document: &NamespaceDocument, replace: bool) -> Result<Loaded> {
    let there = metadefs::find(database, &document.namespace).await?;
    let mut tx = database.begin().await?;
    let loaded = match there {
        Some(_) if !replace => return Ok(Loaded::Kept),
        Some(old) => {
            metadefs::delete(&mut tx, old.id).await?;
            Loaded::Replaced
        }
        None => Loaded::Created,
    };
    insert(&mut tx, document).await?;
    tx.commit().await?;
    Ok(loaded)
}

/// A namespace and what came with it.
#[derive(Debug)]
pub struct Inserted {
    pub namespace: Namespace,
    pub associations: Vec<Association>,
    pub items: Vec<(Kind, Item)>,
}

/// A new namespace with all that its document holds. A name that is taken is a 409.
pub async fn insert(tx: &mut Tx, document: &NamespaceDocument) -> Result<Inserted> {
    let now = now_us();
    let namespace = Namespace {
        id: Uuid::new_v4(),
        namespace: document.namespace.clone(),
        display_name: document.display_name.clone(),
        description: document.description.clone(),
        visibility: document.visibility.unwrap_or(Visibility::Private),
        protected: document.protected.unwrap_or(false),
        owner: document.owner.clone(),
        created_at_us: now,
        updated_at_us: now,
    };
    metadefs::insert(tx, &namespace)
        .await
        .map_err(|error| taken(error, "namespace", &namespace.namespace))?;
    let mut associations = Vec::with_capacity(document.associations.len());
    for association in &document.associations {
        associations.push(insert_association(tx, &namespace, association).await?);
    }
    let mut items = Vec::new();
    for (kind, documents) in [
        (Kind::Object, &document.objects),
        (Kind::Property, &document.properties),
        (Kind::Tag, &document.tags),
    ] {
        for named in documents {
            items.push((kind, insert_item(tx, &namespace, kind, named).await?));
        }
    }
    Ok(Inserted {
        namespace,
        associations,
        items,
    })
}

pub async fn insert_association(
    tx: &mut Tx,
    namespace: &Namespace,
    document: &AssociationDocument,
) -> Result<Association> {
    let now = now_us();
    let association = Association {
        resource_type: document.resource_type.clone(),
        prefix: document.prefix.clone(),
        properties_target: document.properties_target.clone(),
        created_at_us: now,
        updated_at_us: now,
    };
    metadefs::insert_association(tx, namespace.id, &association)
        .await
        .map_err(|error| taken(error, "resource type", &association.resource_type))?;
    Ok(association)
}

pub async fn insert_item(
    tx: &mut Tx,
    namespace: &Namespace,
    kind: Kind,
    named: &NamedDocument,
) -> Result<Item> {
    let now = now_us();
    let item = Item {
        name: named.name.clone(),
        document: named.document.clone(),
        created_at_us: now,
        updated_at_us: now,
    };
    metadef_items::insert(tx, namespace.id, kind, &item)
        .await
        .map_err(|error| taken(error, kind.as_str(), &item.name))?;
    Ok(item)
}

/// A name that is taken becomes a 409.
pub fn taken(error: database::Error, what: &str, name: &str) -> Error {
    match error {
        database::Error::Constraint(_) => Error::Conflict(format!(
            "A metadata definition {what} with name={name} already exists."
        )),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn database() -> (Database, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let database = database::testing::migrated_database(folder.path());
        let database = database.await.unwrap();
        (database, folder)
    }

    #[tokio::test]
    async fn the_standard_set_is_loaded_once() {
        let (database, _folder) = database().await;
        standard_set(&database).await.unwrap();
        let count = "SELECT COUNT(*) AS n FROM metadef_namespaces WHERE visibility = 'public'";
        let counted = database.fetch_optional(count, params![]).await.unwrap();
        assert_eq!(counted.unwrap().get::<i64>("n").unwrap(), 33);
        let image = metadefs::find(&database, "OS::Compute::LibvirtImage").await;
        let image = image.unwrap().unwrap();
        let bus = metadef_items::find(&database, image.id, Kind::Property, "hw_disk_bus");
        assert_eq!(bus.await.unwrap().unwrap().document["type"], "string");
        let software = metadefs::find(&database, "OS::Software::DBMS").await;
        let software = software.unwrap().unwrap();
        let mysql = metadef_items::find(&database, software.id, Kind::Object, "MySQL").await;
        let mysql = mysql.unwrap().unwrap().document;
        let port = &mysql["properties"]["sw_database_mysql_listen_port"];
        assert_eq!(port["maximum"], 65535);
        // What the operator deletes does not come back.
        let mut tx = database.begin().await.unwrap();
        metadefs::delete(&mut tx, image.id).await.unwrap();
        tx.commit().await.unwrap();
        standard_set(&database).await.unwrap();
        let gone = metadefs::find(&database, "OS::Compute::LibvirtImage").await;
        assert_eq!(gone.unwrap(), None);
    }

    #[tokio::test]
    async fn files_are_created_kept_and_replaced() {
        let (database, folder) = database().await;
        let file = folder.path().join("a.json");
        let write = |title: &str| {
            let text = format!(
                r#"{{"namespace": "N", "properties": {{"p": {{"title": "{title}", "type": "string"}}}}}}"#
            );
            std::fs::write(&file, text).unwrap();
        };
        let title = async || {
            let found = metadefs::find(&database, "N").await.unwrap().unwrap();
            assert_eq!(found.owner.as_deref(), Some(FILE_OWNER));
            let item = metadef_items::find(&database, found.id, Kind::Property, "p");
            item.await.unwrap().unwrap().document["title"].clone()
        };
        for (text, replace, loaded, expected) in [
            ("one", false, Loaded::Created, "one"),
            ("two", false, Loaded::Kept, "one"),
            ("two", true, Loaded::Replaced, "two"),
        ] {
            write(text);
            let done = load_folder(&database, folder.path(), replace).await;
            assert_eq!(done.unwrap(), [(file.clone(), loaded)]);
            assert_eq!(title().await, expected);
        }
        std::fs::write(&file, r#"{"namespace": "M", "colour": 1}"#).unwrap();
        let error = load_folder(&database, folder.path(), true).await;
        assert!(error.unwrap_err().to_string().contains("a.json"));
    }
}
