//! The table `image_locations`: where the data of an image lies.

use database::{Database, Error, Result, Row, Tx, Value, now_us, params};
use uuid::Uuid;

use crate::image::Location;

fn from_row(row: &Row) -> Result<Location> {
    let metadata: String = row.get("metadata")?;
    let metadata = serde_json::from_str(&metadata).map_err(|error| Error::Decode {
        column: "metadata".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Location {
        url: row.get("url")?,
        metadata,
    })
}

/// The locations of the image, in order.
pub async fn of_image(database: &Database, image_id: Uuid) -> Result<Vec<Location>> {
    let sql = "SELECT url, metadata FROM image_locations WHERE image_id = ? ORDER BY position";
    database
        .fetch_all(sql, params![image_id])
        .await?
        .iter()
        .map(from_row)
        .collect()
}

/// The locations of several images, each with its image's id, in order.
pub async fn of_images(database: &Database, image_ids: &[Uuid]) -> Result<Vec<(Uuid, Location)>> {
    if image_ids.is_empty() {
        return Ok(Vec::new());
    }
    let marks = vec!["?"; image_ids.len()].join(", ");
    let ids: Vec<Value> = image_ids.iter().map(Value::from).collect();
    let sql = format!(
        "SELECT image_id, url, metadata FROM image_locations WHERE image_id IN ({marks}) ORDER BY position"
    );
    let rows = database.fetch_all(&sql, &ids).await?;
    rows.iter()
        .map(|row| Ok((row.get("image_id")?, from_row(row)?)))
        .collect()
}

/// The locations as the transaction sees them, in order.
pub async fn of_image_in(tx: &mut Tx, image_id: Uuid) -> Result<Vec<Location>> {
    let sql = "SELECT url, metadata FROM image_locations WHERE image_id = ? ORDER BY position";
    let rows = tx.fetch_all(sql, params![image_id]).await?;
    rows.iter().map(from_row).collect()
}

/// Makes `locations` the image's only ones, in their order.
pub async fn replace_all(tx: &mut Tx, image_id: Uuid, locations: &[Location]) -> Result<()> {
    delete_all(tx, image_id).await?;
    let now = now_us();
    let sql = "INSERT INTO image_locations (image_id, position, url, metadata, created_at) \
        VALUES (?, ?, ?, ?, ?)";
    for (position, location) in (0_i64..).zip(locations) {
        let metadata = serde_json::Value::Object(location.metadata.clone()).to_string();
        tx.execute(
            sql,
            params![image_id, position, &location.url, metadata, now],
        )
        .await?;
    }
    Ok(())
}

pub async fn delete_all(tx: &mut Tx, image_id: Uuid) -> Result<()> {
    tx.execute(
        "DELETE FROM image_locations WHERE image_id = ?",
        params![image_id],
    )
    .await
    .map(|_| ())
}
