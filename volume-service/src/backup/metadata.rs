//! What a backup keeps of its volume beside the bytes: the object `backup.<id>.meta` in the
//! backup pool, version 2 of Cinder's layout.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::db::metadata::Metadata;
use crate::db::volumes::Volume;

const VERSION: u32 = 2;

/// The name of the object.
pub fn metadata_object(backup_id: Uuid) -> String {
    format!("backup.{backup_id}.meta")
}

/// What a restored volume gets back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMetadata {
    pub bootable: bool,
    pub metadata: Metadata,
    pub image_metadata: Metadata,
}

/// The object's JSON.
#[derive(Serialize, Deserialize)]
struct Container {
    version: u32,
    #[serde(rename = "volume-base-metadata")]
    base: Base,
    #[serde(rename = "volume-metadata", default)]
    metadata: Metadata,
    #[serde(rename = "volume-glance-metadata", default)]
    image_metadata: Metadata,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Base {
    id: String,
    display_name: Option<String>,
    display_description: Option<String>,
    size: u32,
    bootable: bool,
    availability_zone: Option<String>,
    volume_type_id: Option<String>,
}

impl VolumeMetadata {
    pub fn is_bootable(&self) -> bool {
        self.bootable || !self.image_metadata.is_empty()
    }

    /// The object of a backup of `volume`.
    pub fn to_object(&self, volume: &Volume) -> String {
        let base = Base {
            id: volume.id.to_string(),
            display_name: volume.name.clone(),
            display_description: volume.description.clone(),
            size: volume.size_gib,
            bootable: volume.bootable,
            availability_zone: Some(volume.availability_zone.clone()),
            volume_type_id: Some(volume.volume_type_id.to_string()),
        };
        let (metadata, image_metadata) = (self.metadata.clone(), self.image_metadata.clone());
        serde_json::json!(Container {
            version: VERSION,
            base,
            metadata,
            image_metadata
        })
        .to_string()
    }

    /// Errors: the text says what is wrong with the object.
    pub fn from_object(json: &[u8]) -> Result<Self, String> {
        let container: Container =
            serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if container.version > VERSION {
            return Err(format!(
                "version {} is newer than {VERSION}",
                container.version
            ));
        }
        Ok(VolumeMetadata {
            bootable: container.base.bootable,
            metadata: container.metadata,
            image_metadata: container.image_metadata,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_cinder_is_understood() {
        let json = br#"{"version": 2, "volume-base-metadata": {"display_name": "a", "bootable": true, "host": "x"},
            "volume-metadata": {"k": "v"}, "volume-glance-metadata": {"image_id": "1"}}"#;
        let metadata = VolumeMetadata::from_object(json).unwrap();
        assert!(metadata.bootable);
        assert_eq!(metadata.metadata.get("k").unwrap(), "v");
        assert_eq!(metadata.image_metadata.get("image_id").unwrap(), "1");
        assert!(
            VolumeMetadata::from_object(br#"{"version": 3, "volume-base-metadata": {}}"#).is_err()
        );
        assert!(VolumeMetadata::from_object(b"[]").is_err());
    }
}
