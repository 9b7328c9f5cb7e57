//! The tables of metadata definitions: namespaces and the types of resource that they are for.

use database::{Database, Result, Row, Tx, Value, now_us, params};
use rest::list_query::{Clause, Column, Columns, Order, Select};
use uuid::Uuid;

use crate::metadef::{Association, Namespace, ResourceType, Visibility};

const COLUMNS: &str = "n.id, n.namespace, n.display_name, n.description, n.visibility, \
    n.protected, n.owner, n.created_at, n.updated_at";

/// What a list of namespaces may be sorted by.
pub const SORT_COLUMNS: Columns = Columns {
    columns: &[
        Column::text("display_name", "n.display_name").nullable(),
        Column::text("visibility", "n.visibility"),
        Column::int("protected", "n.protected"),
        Column::text("owner", "n.owner").nullable(),
        Column::int("created_at", "n.created_at"),
        Column::int("updated_at", "n.updated_at"),
    ],
    id: Column::text("namespace", "n.namespace"),
};

fn from_row(row: &Row) -> Result<Namespace> {
    let visibility: String = row.get("visibility")?;
    let unknown = || database::Error::Decode {
        column: "visibility".to_owned(),
        reason: format!("{visibility:?} is unknown"),
    };
    Ok(Namespace {
        id: row.get("id")?,
        namespace: row.get("namespace")?,
        display_name: row.get("display_name")?,
        description: row.get("description")?,
        visibility: Visibility::parse(&visibility).ok_or_else(unknown)?,
        protected: row.get("protected")?,
        owner: row.get("owner")?,
        created_at_us: row.get("created_at")?,
        updated_at_us: row.get("updated_at")?,
    })
}

/// A list request, parsed.
pub struct NamespaceQuery {
    /// Whose namespaces besides those shown to all; `None` with `is_admin` false: only these.
    pub project_id: Option<String>,
    pub is_admin: bool,
    pub visibility: Option<Visibility>,
    /// Only namespaces for one of these; empty: any.
    pub resource_types: Vec<String>,
    pub order: Order,
    pub marker: Option<Namespace>,
    pub limit: u32,
}

pub async fn page(database: &Database, query: NamespaceQuery) -> Result<Vec<Namespace>> {
    let mut conditions = Vec::new();
    if !query.is_admin {
        let mut seen = vec![
            Clause::equal("n.visibility", Visibility::Public.as_str()),
            Clause::is_null("n.owner"),
        ];
        seen.extend(
            query
                .project_id
                .map(|project| Clause::equal("n.owner", project)),
        );
        conditions.push(Clause::any(seen));
    }
    if let Some(visibility) = query.visibility {
        conditions.push(Clause::equal("n.visibility", visibility.as_str()));
    }
    if !query.resource_types.is_empty() {
        let one = |name: String| {
            let sql = "EXISTS (SELECT 1 FROM metadef_associations a \
                WHERE a.namespace_id = n.id AND a.resource_type = ?)";
            Clause::raw(sql, vec![name.into()])
        };
        conditions.push(Clause::any(query.resource_types.into_iter().map(one)));
    }
    let marker = query
        .marker
        .map(|marker| marker_values(&query.order, &marker));
    let mut select = Select::new(COLUMNS, "metadef_namespaces n")
        .filters(conditions)
        .order(query.order)
        .limit(query.limit, 0);
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

fn marker_values(order: &Order, namespace: &Namespace) -> Vec<Value> {
    let value = |column: Column| match column.key {
        "display_name" => Value::from(&namespace.display_name),
        "visibility" => Value::from(namespace.visibility.as_str()),
        "protected" => Value::from(namespace.protected),
        "owner" => Value::from(&namespace.owner),
        "created_at" => Value::from(namespace.created_at_us),
        "updated_at" => Value::from(namespace.updated_at_us),
        _ => Value::from(&namespace.namespace),
    };
    order.marker_columns().map(value).collect()
}

pub async fn find(database: &Database, name: &str) -> Result<Option<Namespace>> {
    let sql = format!("SELECT {COLUMNS} FROM metadef_namespaces n WHERE n.namespace = ?");
    let row = database.fetch_optional(&sql, params![name]).await?;
    row.as_ref().map(from_row).transpose()
}

/// [`database::Error::Constraint`]: the name is taken.
pub async fn insert(tx: &mut Tx, namespace: &Namespace) -> Result<()> {
    let sql = "INSERT INTO metadef_namespaces (id, namespace, display_name, description, \
        visibility, protected, owner, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    tx.execute(
        sql,
        params![
            namespace.id,
            &namespace.namespace,
            &namespace.display_name,
            &namespace.description,
            namespace.visibility.as_str(),
            namespace.protected,
            &namespace.owner,
            namespace.created_at_us,
            namespace.updated_at_us,
        ],
    )
    .await
    .map(|_| ())
}

/// Everything but id and `created_at`. `false`: it is gone. [`database::Error::Constraint`]: the
/// new name is taken.
pub async fn update(tx: &mut Tx, namespace: &Namespace) -> Result<bool> {
    let sql = "UPDATE metadef_namespaces SET namespace = ?, display_name = ?, description = ?, \
        visibility = ?, protected = ?, owner = ?, updated_at = ? WHERE id = ?";
    let updated = tx
        .execute(
            sql,
            params![
                &namespace.namespace,
                &namespace.display_name,
                &namespace.description,
                namespace.visibility.as_str(),
                namespace.protected,
                &namespace.owner,
                namespace.updated_at_us,
                namespace.id,
            ],
        )
        .await?;
    Ok(updated == 1)
}

/// Locks the namespace for the rest of the transaction. `None`: it is gone; `true`: it is
/// protected.
pub async fn lock(tx: &mut Tx, id: Uuid) -> Result<Option<bool>> {
    let lock = "UPDATE metadef_namespaces SET updated_at = updated_at WHERE id = ?";
    if tx.execute(lock, params![id]).await? == 0 {
        return Ok(None);
    }
    let sql = "SELECT protected FROM metadef_namespaces WHERE id = ?";
    tx.fetch_one(sql, params![id])
        .await?
        .get("protected")
        .map(Some)
}

/// The namespace and all it holds.
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<()> {
    for table in ["metadef_items", "metadef_associations"] {
        let sql = format!("DELETE FROM {table} WHERE namespace_id = ?");
        tx.execute(&sql, params![id]).await?;
    }
    tx.execute("DELETE FROM metadef_namespaces WHERE id = ?", params![id])
        .await
        .map(|_| ())
}

fn association_from_row(row: &Row) -> Result<Association> {
    Ok(Association {
        resource_type: row.get("resource_type")?,
        prefix: row.get("prefix")?,
        properties_target: row.get("properties_target")?,
        created_at_us: row.get("created_at")?,
        updated_at_us: row.get("updated_at")?,
    })
}

/// The associations of several namespaces, each with its namespace's id.
pub async fn associations(
    database: &Database,
    namespace_ids: &[Uuid],
) -> Result<Vec<(Uuid, Association)>> {
    if namespace_ids.is_empty() {
        return Ok(Vec::new());
    }
    let marks = vec!["?"; namespace_ids.len()].join(", ");
    let ids: Vec<Value> = namespace_ids.iter().map(Value::from).collect();
    let sql = format!(
        "SELECT namespace_id, resource_type, prefix, properties_target, created_at, updated_at \
         FROM metadef_associations WHERE namespace_id IN ({marks}) ORDER BY resource_type"
    );
    let rows = database.fetch_all(&sql, &ids).await?;
    rows.iter()
        .map(|row| Ok((row.get("namespace_id")?, association_from_row(row)?)))
        .collect()
}

/// Makes the resource type known if it is not. [`database::Error::Constraint`]: the namespace is
/// for it already.
pub async fn insert_association(
    tx: &mut Tx,
    namespace_id: Uuid,
    association: &Association,
) -> Result<()> {
    insert_resource_type(tx, &association.resource_type).await?;
    let sql = "INSERT INTO metadef_associations (namespace_id, resource_type, prefix, \
        properties_target, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)";
    tx.execute(
        sql,
        params![
            namespace_id,
            &association.resource_type,
            &association.prefix,
            &association.properties_target,
            association.created_at_us,
            association.updated_at_us,
        ],
    )
    .await
    .map(|_| ())
}

/// `false`: there is no such association.
pub async fn delete_association(
    tx: &mut Tx,
    namespace_id: Uuid,
    resource_type: &str,
) -> Result<bool> {
    let sql = "DELETE FROM metadef_associations WHERE namespace_id = ? AND resource_type = ?";
    Ok(tx
        .execute(sql, params![namespace_id, resource_type])
        .await?
        == 1)
}

pub async fn resource_types(database: &Database) -> Result<Vec<ResourceType>> {
    let sql = "SELECT name, created_at, updated_at FROM metadef_resource_types ORDER BY name";
    let rows = database.fetch_all(sql, params![]).await?;
    rows.iter()
        .map(|row| {
            Ok(ResourceType {
                name: row.get("name")?,
                created_at_us: row.get("created_at")?,
                updated_at_us: row.get("updated_at")?,
            })
        })
        .collect()
}

/// Does nothing where it is known.
pub async fn insert_resource_type(tx: &mut Tx, name: &str) -> Result<()> {
    let sql = "SELECT name FROM metadef_resource_types WHERE name = ?";
    if tx.fetch_optional(sql, params![name]).await?.is_some() {
        return Ok(());
    }
    let now = now_us();
    let sql = "INSERT INTO metadef_resource_types (name, created_at, updated_at) VALUES (?, ?, ?)";
    tx.execute(sql, params![name, now, now]).await.map(|_| ())
}
