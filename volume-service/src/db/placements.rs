//! Table `volume_placements`: what the scheduler must know of a volume beside its row, from the
//! request until the volume is where it belongs.

use database::{Error, Result, Row, Tx, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Source;

/// Where a volume may go, and where it has been tried.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Placement {
    /// `OS-SCH-HNT:scheduler_hints` of the request.
    pub hints: Map<String, Value>,
    /// None: the zone of the volume's row.
    pub availability_zones: Option<Vec<String>>,
    /// Pools (`host@backend#pool`) that were chosen before, and failed.
    pub tried: Vec<String>,
    /// How often another pool may be chosen when one fails.
    pub attempts_left: u32,
    /// The type that a retype goes to.
    pub new_type_id: Option<Uuid>,
    /// Where a migration goes: asked for by the client, then made exact by the scheduler.
    pub target_host: Option<String>,
}

const COLUMNS: &str = "hints, availability_zones, tried, attempts_left, new_type_id, target_host";

impl Placement {
    fn from_row(row: &Row) -> Result<Self> {
        let zones: Option<String> = row.get("availability_zones")?;
        Ok(Placement {
            hints: read(&row.get::<String>("hints")?, "hints")?,
            availability_zones: zones
                .map(|json| read(&json, "availability_zones"))
                .transpose()?,
            tried: read(&row.get::<String>("tried")?, "tried")?,
            attempts_left: row.get("attempts_left")?,
            new_type_id: row.get("new_type_id")?,
            target_host: row.get("target_host")?,
        })
    }
}

fn read<T: DeserializeOwned>(json: &str, column: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::Decode {
        column: column.to_owned(),
        reason: error.to_string(),
    })
}

fn write<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Other(error.to_string()))
}

/// What is known of the volume; none once it is where it belongs.
pub async fn get<'a>(from: impl Into<Source<'a>>, volume_id: Uuid) -> Result<Option<Placement>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_placements WHERE volume_id = ?");
    let row = from.into().fetch_optional(&sql, params![volume_id]).await?;
    row.as_ref().map(Placement::from_row).transpose()
}

/// Replaces what is known of the volume.
pub async fn put(tx: &mut Tx, volume_id: Uuid, placement: &Placement) -> Result<()> {
    delete(tx, volume_id).await?;
    let zones = placement
        .availability_zones
        .as_ref()
        .map(write)
        .transpose()?;
    let sql = format!(
        "INSERT INTO volume_placements (volume_id, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
    );
    let values = params![
        volume_id,
        write(&placement.hints)?,
        zones,
        write(&placement.tried)?,
        placement.attempts_left,
        placement.new_type_id,
        &placement.target_host,
    ];
    tx.execute(&sql, values).await?;
    Ok(())
}

/// Forgets the volume. Nothing to forget is fine.
pub async fn delete(tx: &mut Tx, volume_id: Uuid) -> Result<()> {
    let sql = "DELETE FROM volume_placements WHERE volume_id = ?";
    tx.execute(sql, params![volume_id]).await?;
    Ok(())
}

/// Whether a retype goes to this type.
pub async fn any_to_type(tx: &mut Tx, volume_type_id: Uuid) -> Result<bool> {
    let sql = "SELECT volume_id FROM volume_placements WHERE new_type_id = ? LIMIT 1";
    let row = tx.fetch_optional(sql, params![volume_type_id]).await?;
    Ok(row.is_some())
}
