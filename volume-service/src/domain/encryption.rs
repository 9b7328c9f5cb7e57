//! The keys of encrypted volumes: made, copied and deleted with the rows that name them.
//!
//! No two volumes share a key, so that each can be deleted with its volume: a clone has a copy.

use rest::RequestContext;
use uuid::Uuid;

use super::volume_source::Found;
use crate::db::type_encryption::{self, TypeEncryption};
use crate::db::volume_types;
use crate::db::volumes::Volume;
use crate::flows::Encryption;
use crate::keys::KeyError;
use crate::{Error, Result, VolumeService, luks};

/// Encryptors that write LUKS 1, by the names they have had.
const LUKS: &[&str] = &[
    "luks",
    "luks1",
    "LuksEncryptor",
    "nova.volume.encryptors.luks.LuksEncryptor",
    "os_brick.encryptors.luks.LuksEncryptor",
];
/// Of types that name none.
const DEFAULT_CIPHER: &str = "aes-xts-plain64";
const DEFAULT_KEY_BITS: u32 = 256;

/// Algorithm and bits of the keys of a type.
fn key_of(of: &TypeEncryption) -> Result<(&str, u32)> {
    if !LUKS.contains(&of.provider.as_str()) {
        return Err(Error::Invalid(format!(
            "Unsupported encryption provider: {}.",
            of.provider
        )));
    }
    let cipher = of.cipher.as_deref().unwrap_or(DEFAULT_CIPHER);
    let bits = of.key_size.and_then(|bits| u32::try_from(bits).ok());
    let bits = bits.unwrap_or(DEFAULT_KEY_BITS);
    luks::check(cipher, bits)
        .map_err(|error| Error::Invalid(format!("Invalid encryption spec: {error}.")))?;
    Ok((cipher.split('-').next().unwrap_or_default(), bits))
}

/// What the client is told is terse: the reason may be about secrets.
fn failed(error: &KeyError) -> Error {
    tracing::error!(%error, "the key manager did not do it");
    Error::Invalid("Key manager error".to_owned())
}

/// A key for a new volume of this type: a copy of its source's, or a new one. `None`: volumes of
/// the type are not encrypted.
pub async fn key_for(
    service: &VolumeService,
    context: &RequestContext,
    volume_type_id: Uuid,
    source_key: Option<Uuid>,
) -> Result<Option<Encryption>> {
    let Some(of) = type_encryption::get(&service.database, volume_type_id).await? else {
        return Ok(None);
    };
    let specs = volume_types::extra_specs(&service.database, volume_type_id).await?;
    if super::volume_create::is_multiattach_spec(&specs) {
        return Err(Error::invalid_volume(
            "Multiattach cannot be used with encrypted volumes.",
        ));
    }
    let (algorithm, key_bits) = key_of(&of)?;
    let (keys, token) = (&service.keys, &context.token);
    let made = match source_key {
        Some(source) => keys.copy(token, source, algorithm).await,
        None => keys.create(token, algorithm, key_bits).await,
    };
    let key_id = made.map_err(|error| failed(&error))?;
    Ok(Some(Encryption { key_id, key_bits }))
}

/// A copy of the key of a volume or backup, for whoever asks.
pub async fn copy(
    service: &VolumeService,
    context: &RequestContext,
    key_id: Option<Uuid>,
) -> Result<Option<Uuid>> {
    let Some(key_id) = key_id else {
        return Ok(None);
    };
    let copied = service.keys.copy(&context.token, key_id, "aes").await;
    copied.map(Some).map_err(|error| failed(&error))
}

/// A copy, for the accepter of a volume, of a key that only its giver and the service may read.
pub async fn take_over(
    service: &VolumeService,
    context: &RequestContext,
    key_id: Option<Uuid>,
) -> Result<Option<Uuid>> {
    let Some(key_id) = key_id else {
        return Ok(None);
    };
    let copied = service.keys.hand_over(&context.token, key_id, "aes").await;
    copied.map(Some).map_err(|error| failed(&error))
}

/// How an encrypted volume is formatted anew, with the key that it has.
pub async fn of_volume(service: &VolumeService, volume: &Volume) -> Result<Option<Encryption>> {
    let Some(key_id) = volume.encryption_key_id else {
        return Ok(None);
    };
    let of = type_encryption::get(&service.database, volume.volume_type_id).await?;
    let of = of.ok_or_else(|| super::type_encryption::none(volume.volume_type_id))?;
    let (_, key_bits) = key_of(&of)?;
    Ok(Some(Encryption { key_id, key_bits }))
}

/// Deletes a key that nothing names any more. One that cannot be deleted stays, and is logged.
pub async fn forget(service: &VolumeService, context: &RequestContext, key_id: Option<Uuid>) {
    let Some(key_id) = key_id else { return };
    if let Err(error) = service.keys.delete(&context.token, key_id).await {
        tracing::warn!(key = %key_id, %error, "a key that is not needed any more stays");
    }
}

/// Refuses a type that encrypts otherwise than the source, where the source's bytes become the
/// volume's as they are.
pub(super) async fn check_source(
    service: &VolumeService,
    volume_type_id: Uuid,
    source: &Found,
) -> Result<()> {
    if !source.is_copied_as_is() {
        return Ok(());
    }
    let of = type_encryption::get(&service.database, volume_type_id).await?;
    let alike = match source.volume_type_id() {
        Some(id) if id == volume_type_id => true,
        Some(id) => {
            let of_source = type_encryption::get(&service.database, id).await?;
            of_source.as_ref().map(settings) == of.as_ref().map(settings)
        }
        None => of.is_some() == source.encryption_key_id().is_some(),
    };
    if alike {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "Invalid volume_type provided: {volume_type_id} (requested type is not compatible with the \
         encryption of the source; recommend omitting the type argument)."
    )))
}

/// What makes volumes of two types readable in the same way.
pub(super) fn settings(of: &TypeEncryption) -> (&str, Option<&str>, Option<i64>, &str) {
    (
        &of.provider,
        of.cipher.as_deref(),
        of.key_size,
        &of.control_location,
    )
}
