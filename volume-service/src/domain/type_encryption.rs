//! The encryption of volume types. It can be changed while no volume has the type.

use database::{Tx, now_us};
use rest::RequestContext;
use serde_json::json;
use uuid::Uuid;

use crate::db::type_encryption::{self, TypeEncryption};
use crate::db::volumes;
use crate::{Error, Result, VolumeService};

/// What a client sets; what is `None` stays (or, of a new encryption, has no value).
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub provider: Option<String>,
    pub control_location: Option<String>,
    pub cipher: Option<Option<String>>,
    pub key_size: Option<Option<i64>>,
}

/// "Volume type encryption for type … does not exist."
pub fn none(volume_type_id: Uuid) -> Error {
    Error::NotFound(format!(
        "Volume type encryption for type {volume_type_id} does not exist."
    ))
}

async fn refuse_used(tx: &mut Tx, volume_type_id: Uuid, verb: &str) -> Result<()> {
    if volumes::any_of_type(tx, volume_type_id).await? {
        return Err(Error::Invalid(format!(
            "Cannot {verb} encryption specs. Volume type in use."
        )));
    }
    Ok(())
}

/// Gives a type its encryption. `provider` and `control_location` are there.
pub async fn create(
    service: &VolumeService,
    context: &RequestContext,
    volume_type_id: Uuid,
    request: Request,
) -> Result<TypeEncryption> {
    let mut tx = service.database.begin().await?;
    refuse_used(&mut tx, volume_type_id, "create").await?;
    let new = TypeEncryption {
        id: Uuid::new_v4(),
        volume_type_id,
        provider: request.provider.unwrap_or_default(),
        control_location: request.control_location.unwrap_or_default(),
        cipher: request.cipher.flatten(),
        key_size: request.key_size.flatten(),
        created_at: now_us(),
        updated_at: None,
    };
    match type_encryption::insert(&mut tx, &new).await {
        Err(database::Error::Constraint(_)) => {
            return Err(Error::Invalid(format!(
                "Volume type encryption for type {volume_type_id} already exists."
            )));
        }
        inserted => inserted?,
    }
    let specs = json!({
        "provider": new.provider,
        "control_location": new.control_location,
        "cipher": new.cipher,
        "key_size": new.key_size,
    });
    let notices = &service.notices;
    notices
        .type_encryption(&mut tx, volume_type_id, ("specs", specs), context)
        .await?;
    tx.commit().await?;
    Ok(new)
}

/// Changes what the request names.
pub async fn update(
    service: &VolumeService,
    context: &RequestContext,
    volume_type_id: Uuid,
    request: Request,
) -> Result<()> {
    let mut tx = service.database.begin().await?;
    refuse_used(&mut tx, volume_type_id, "update").await?;
    let mut changed = type_encryption::get(&mut tx, volume_type_id)
        .await?
        .ok_or_else(|| none(volume_type_id))?;
    if let Some(provider) = request.provider {
        changed.provider = provider;
    }
    if let Some(control_location) = request.control_location {
        changed.control_location = control_location;
    }
    if let Some(cipher) = request.cipher {
        changed.cipher = cipher;
    }
    if let Some(key_size) = request.key_size {
        changed.key_size = key_size;
    }
    type_encryption::update(&mut tx, &changed).await?;
    let id = changed.id.to_string();
    let notices = &service.notices;
    notices
        .type_encryption(&mut tx, volume_type_id, ("id", id.into()), context)
        .await?;
    Ok(tx.commit().await?)
}

/// New volumes of the type are not encrypted any more.
pub async fn delete(service: &VolumeService, volume_type_id: Uuid) -> Result<()> {
    let mut tx = service.database.begin().await?;
    refuse_used(&mut tx, volume_type_id, "delete").await?;
    if !type_encryption::delete(&mut tx, volume_type_id).await? {
        return Err(none(volume_type_id));
    }
    Ok(tx.commit().await?)
}
