//! Table `qos_specs`, and which volume types have them. The keys are metadata of `Kind::Qos`.

use database::{Result, Row, Tx, now_us, params};
use uuid::Uuid;

use super::{Source, metadata};

/// QoS specs without their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QosSpecs {
    pub id: Uuid,
    pub name: String,
    /// `back-end`, `front-end` or `both`: who enforces them.
    pub consumer: String,
    pub created_at: i64,
}

pub(crate) const COLUMNS: &str = "id, name, consumer, created_at";

impl QosSpecs {
    /// The row of a select of [`COLUMNS`].
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        Ok(QosSpecs {
            id: row.get("id")?,
            name: row.get("name")?,
            consumer: row.get("consumer")?,
            created_at: row.get("created_at")?,
        })
    }
}

/// Inserts specs. `Error::Constraint` when the name is taken.
pub async fn insert(tx: &mut Tx, name: &str, consumer: &str) -> Result<QosSpecs> {
    let specs = QosSpecs {
        id: Uuid::new_v4(),
        name: name.to_owned(),
        consumer: consumer.to_owned(),
        created_at: now_us(),
    };
    let sql =
        "INSERT INTO qos_specs (id, name, live_name, consumer, created_at) VALUES (?, ?, ?, ?, ?)";
    tx.execute(
        sql,
        params![specs.id, name, name, consumer, specs.created_at],
    )
    .await?;
    Ok(specs)
}

/// The live specs `id`.
pub async fn get<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Option<QosSpecs>> {
    let sql = format!("SELECT {COLUMNS} FROM qos_specs WHERE id = ? AND deleted_at IS NULL");
    let row = from.into().fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(QosSpecs::from_row).transpose()
}

/// Notes a change, of the consumer too if one is given.
pub async fn touch(tx: &mut Tx, id: Uuid, consumer: Option<&str>) -> Result<()> {
    let sql = "UPDATE qos_specs SET consumer = COALESCE(?, consumer), updated_at = ? WHERE id = ?";
    tx.execute(sql, params![consumer, now_us(), id]).await?;
    Ok(())
}

/// Marks the specs deleted, with their keys.
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<()> {
    metadata::delete_all(tx, metadata::Kind::Qos, id).await?;
    let sql = "UPDATE qos_specs SET deleted_at = ?, live_name = NULL WHERE id = ?";
    tx.execute(sql, params![now_us(), id]).await?;
    Ok(())
}

/// Id and name of the live volume types that have these specs.
pub async fn volume_types<'a>(
    from: impl Into<Source<'a>>,
    id: Uuid,
) -> Result<Vec<(Uuid, String)>> {
    let sql = "SELECT id, name FROM volume_types WHERE qos_specs_id = ? AND deleted_at IS NULL ORDER BY name";
    let rows = from.into().fetch_all(sql, params![id]).await?;
    rows.iter()
        .map(|row| Ok((row.get("id")?, row.get("name")?)))
        .collect()
}

/// Gives a volume type these specs unless it has others; whether it was so.
pub async fn associate(tx: &mut Tx, id: Uuid, volume_type_id: Uuid) -> Result<bool> {
    let sql = "UPDATE volume_types SET qos_specs_id = ? WHERE id = ? AND deleted_at IS NULL \
               AND (qos_specs_id IS NULL OR qos_specs_id = ?)";
    Ok(tx.execute(sql, params![id, volume_type_id, id]).await? > 0)
}

/// Takes the specs from one volume type, or from all.
pub async fn disassociate(tx: &mut Tx, id: Uuid, volume_type_id: Option<Uuid>) -> Result<()> {
    let all = "UPDATE volume_types SET qos_specs_id = NULL WHERE qos_specs_id = ?";
    match volume_type_id {
        None => tx.execute(all, params![id]).await?,
        Some(of) => {
            tx.execute(&format!("{all} AND id = ?"), params![id, of])
                .await?
        }
    };
    Ok(())
}
