//! The table `metadef_items`: objects, properties and tags of namespaces.

use database::{Database, Error, Result, Row, Tx, Value, now_us, params};
use rest::list_query::{Clause, Column, Columns, Order, Select};
use uuid::Uuid;

use crate::metadef::{Item, Kind};

const COLUMNS: &str = "m.name, m.document, m.created_at, m.updated_at";

pub const SORT_COLUMNS: Columns = Columns {
    columns: &[
        Column::int("created_at", "m.created_at"),
        Column::int("updated_at", "m.updated_at"),
    ],
    id: Column::text("name", "m.name"),
};

fn from_row(row: &Row) -> Result<Item> {
    let document: String = row.get("document")?;
    let document = serde_json::from_str(&document).map_err(|error| Error::Decode {
        column: "document".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Item {
        name: row.get("name")?,
        document,
        created_at_us: row.get("created_at")?,
        updated_at_us: row.get("updated_at")?,
    })
}

/// All items of one kind, by name.
pub async fn all(database: &Database, namespace_id: Uuid, kind: Kind) -> Result<Vec<Item>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM metadef_items m WHERE m.namespace_id = ? AND m.kind = ? ORDER BY m.name"
    );
    database
        .fetch_all(&sql, params![namespace_id, kind.as_str()])
        .await?
        .iter()
        .map(from_row)
        .collect()
}

/// One page of the items of one kind, behind `marker`.
pub async fn page(
    database: &Database,
    namespace_id: Uuid,
    kind: Kind,
    order: Order,
    marker: Option<Item>,
    limit: u32,
) -> Result<Vec<Item>> {
    let marker = marker.map(|marker| marker_values(&order, &marker));
    let mut select = Select::new(COLUMNS, "metadef_items m")
        .filter(Clause::equal("m.namespace_id", namespace_id))
        .filter(Clause::equal("m.kind", kind.as_str()))
        .order(order)
        .limit(limit, 0);
    if let Some(marker) = marker {
        select = select.after(marker);
    }
    let (sql, params) = select.build();
    database
        .fetch_all(&sql, &params)
        .await?
        .iter()
        .map(from_row)
        .collect()
}

fn marker_values(order: &Order, item: &Item) -> Vec<Value> {
    let value = |column: Column| match column.key {
        "created_at" => Value::from(item.created_at_us),
        "updated_at" => Value::from(item.updated_at_us),
        _ => Value::from(&item.name),
    };
    order.marker_columns().map(value).collect()
}

pub async fn find(
    database: &Database,
    namespace_id: Uuid,
    kind: Kind,
    name: &str,
) -> Result<Option<Item>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM metadef_items m WHERE m.namespace_id = ? AND m.kind = ? AND m.name = ?"
    );
    let row = database
        .fetch_optional(&sql, params![namespace_id, kind.as_str(), name])
        .await?;
    row.as_ref().map(from_row).transpose()
}

/// [`database::Error::Constraint`]: the name is taken.
pub async fn insert(tx: &mut Tx, namespace_id: Uuid, kind: Kind, item: &Item) -> Result<()> {
    let sql = "INSERT INTO metadef_items (namespace_id, kind, name, document, created_at, updated_at) \
        VALUES (?, ?, ?, ?, ?, ?)";
    tx.execute(
        sql,
        params![
            namespace_id,
            kind.as_str(),
            &item.name,
            document_column(item),
            item.created_at_us,
            item.updated_at_us,
        ],
    )
    .await
    .map(|_| ())
}

/// Name and document. `false`: there is no item `old_name`. [`database::Error::Constraint`]: the
/// new name is taken.
pub async fn update(
    tx: &mut Tx,
    namespace_id: Uuid,
    kind: Kind,
    old_name: &str,
    item: &Item,
) -> Result<bool> {
    let sql = "UPDATE metadef_items SET name = ?, document = ?, updated_at = ? \
        WHERE namespace_id = ? AND kind = ? AND name = ?";
    let updated = tx
        .execute(
            sql,
            params![
                &item.name,
                document_column(item),
                now_us(),
                namespace_id,
                kind.as_str(),
                old_name,
            ],
        )
        .await?;
    Ok(updated == 1)
}

fn document_column(item: &Item) -> String {
    serde_json::Value::Object(item.document.clone()).to_string()
}

/// `false`: there is no such item.
pub async fn delete(tx: &mut Tx, namespace_id: Uuid, kind: Kind, name: &str) -> Result<bool> {
    let sql = "DELETE FROM metadef_items WHERE namespace_id = ? AND kind = ? AND name = ?";
    Ok(tx
        .execute(sql, params![namespace_id, kind.as_str(), name])
        .await?
        == 1)
}

pub async fn delete_all(tx: &mut Tx, namespace_id: Uuid, kind: Kind) -> Result<()> {
    let sql = "DELETE FROM metadef_items WHERE namespace_id = ? AND kind = ?";
    tx.execute(sql, params![namespace_id, kind.as_str()])
        .await
        .map(|_| ())
}
