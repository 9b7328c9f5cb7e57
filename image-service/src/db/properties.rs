//! The tables `image_properties` and `image_tags`: loaded and written together with their image.

use std::collections::HashMap;

use database::{Database, Result, Row, Tx, Value, params};
use uuid::Uuid;

use crate::image::Image;

/// Fills in properties and tags of the images, with two statements for any number of images.
pub async fn load(database: &Database, images: &mut [Image]) -> Result<()> {
    if images.is_empty() {
        return Ok(());
    }
    let marks = vec!["?"; images.len()].join(", ");
    let ids: Vec<Value> = images.iter().map(|image| Value::from(image.id)).collect();
    let position: HashMap<Uuid, usize> = images
        .iter()
        .enumerate()
        .map(|(at, image)| (image.id, at))
        .collect();
    let sql =
        format!("SELECT image_id, name, value FROM image_properties WHERE image_id IN ({marks})");
    for row in database.fetch_all(&sql, &ids).await? {
        let image = position
            .get(&row.get::<Uuid>("image_id")?)
            .and_then(|at| images.get_mut(*at));
        if let Some(image) = image {
            add_property(image, &row)?;
        }
    }
    let sql = format!("SELECT image_id, tag FROM image_tags WHERE image_id IN ({marks})");
    for row in database.fetch_all(&sql, &ids).await? {
        let image = position
            .get(&row.get::<Uuid>("image_id")?)
            .and_then(|at| images.get_mut(*at));
        if let Some(image) = image {
            image.tags.insert(row.get("tag")?);
        }
    }
    Ok(())
}

/// Fills in properties and tags of one image as the transaction sees them.
pub async fn load_one(tx: &mut Tx, image: &mut Image) -> Result<()> {
    let sql = "SELECT name, value FROM image_properties WHERE image_id = ?";
    for row in tx.fetch_all(sql, params![image.id]).await? {
        add_property(image, &row)?;
    }
    let sql = "SELECT tag FROM image_tags WHERE image_id = ?";
    for row in tx.fetch_all(sql, params![image.id]).await? {
        image.tags.insert(row.get("tag")?);
    }
    Ok(())
}

fn add_property(image: &mut Image, row: &Row) -> Result<()> {
    image.properties.insert(row.get("name")?, row.get("value")?);
    Ok(())
}

/// Makes the stored properties and tags those of `image`, writing only what differs.
pub async fn replace(tx: &mut Tx, image: &Image) -> Result<()> {
    let mut stored = Image {
        properties: Default::default(),
        tags: Default::default(),
        ..image.clone()
    };
    load_one(tx, &mut stored).await?;
    for name in stored
        .properties
        .keys()
        .filter(|name| !image.properties.contains_key(*name))
    {
        let sql = "DELETE FROM image_properties WHERE image_id = ? AND name = ?";
        tx.execute(sql, params![image.id, name]).await?;
    }
    for (name, value) in &image.properties {
        match stored.properties.get(name) {
            Some(old) if old == value => continue,
            Some(_) => {
                let sql = "UPDATE image_properties SET value = ? WHERE image_id = ? AND name = ?";
                tx.execute(sql, params![value, image.id, name]).await?;
            }
            None => {
                let sql = "INSERT INTO image_properties (image_id, name, value) VALUES (?, ?, ?)";
                tx.execute(sql, params![image.id, name, value]).await?;
            }
        }
    }
    for tag in stored.tags.difference(&image.tags) {
        let sql = "DELETE FROM image_tags WHERE image_id = ? AND tag = ?";
        tx.execute(sql, params![image.id, tag]).await?;
    }
    for tag in image.tags.difference(&stored.tags) {
        let sql = "INSERT INTO image_tags (image_id, tag) VALUES (?, ?)";
        tx.execute(sql, params![image.id, tag]).await?;
    }
    Ok(())
}
