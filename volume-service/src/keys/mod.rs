//! The keys of encrypted volumes: where they are made and kept.
//!
//! The key of a volume is only named in its row. The API makes, copies and deletes keys with the
//! user's token, so that they are the user's; flows read them with the service's.

mod barbican;

use rest::Secret;
use uuid::Uuid;

pub use barbican::Client;

/// The id under which [`KeyManager::Fixed`] knows its only key.
pub const FIXED_KEY_ID: Uuid = Uuid::nil();
/// The longest key of any cipher.
const MAX_KEY_BYTES: usize = 64;

/// Why there is no key. The text names no secret.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("no key manager is configured")]
    Absent,
    #[error("key {0} could not be found")]
    NotFound(Uuid),
    #[error("the key manager is unavailable: {0}")]
    Unavailable(String),
}

/// A key as it is: what goes into a LUKS key slot is its text in hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    pub fn new(bytes: Vec<u8>) -> Self {
        Key(bytes)
    }

    /// A random key.
    fn random(bits: u32) -> Result<Self, KeyError> {
        let length = usize::try_from(bits / 8).unwrap_or(MAX_KEY_BYTES);
        let mut bytes = vec![0; length.clamp(1, MAX_KEY_BYTES)];
        getrandom::fill(&mut bytes).map_err(|error| KeyError::Unavailable(error.to_string()))?;
        Ok(Key(bytes))
    }

    /// What Nova and Cinder open the volume with.
    pub fn passphrase(&self) -> Secret {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        Secret::new(digits)
    }

    fn bits(&self) -> usize {
        self.0.len() * 8
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(***)")
    }
}

/// `[key_manager] backend`
#[derive(Clone, Default)]
pub enum KeyManager {
    /// Volumes of encrypted types are refused.
    #[default]
    Absent,
    /// `cinder.keymgr.conf_key_mgr.ConfKeyManager`: one key for all, from the configuration.
    Fixed(Key),
    Barbican(Client),
}

impl KeyManager {
    /// A new key of the owner of `token`; its id.
    pub async fn create(
        &self,
        token: &Secret,
        algorithm: &str,
        bits: u32,
    ) -> Result<Uuid, KeyError> {
        match self {
            KeyManager::Absent => Err(KeyError::Absent),
            KeyManager::Fixed(_) => Ok(FIXED_KEY_ID),
            KeyManager::Barbican(client) => {
                client.store(token, &Key::random(bits)?, algorithm).await
            }
        }
    }

    /// A copy of a key that the owner of `token` may read; its id.
    pub async fn copy(&self, token: &Secret, id: Uuid, algorithm: &str) -> Result<Uuid, KeyError> {
        let key = match self {
            KeyManager::Barbican(client) => client.get(id, token).await?,
            _ => self.get(id).await?,
        };
        self.store(token, &key, algorithm).await
    }

    /// A copy, for the owner of `token`, of a key that only the service may read; its id.
    pub async fn hand_over(
        &self,
        token: &Secret,
        id: Uuid,
        algorithm: &str,
    ) -> Result<Uuid, KeyError> {
        let key = self.get(id).await?;
        self.store(token, &key, algorithm).await
    }

    async fn store(&self, token: &Secret, key: &Key, algorithm: &str) -> Result<Uuid, KeyError> {
        match self {
            KeyManager::Absent => Err(KeyError::Absent),
            KeyManager::Fixed(_) => Ok(FIXED_KEY_ID),
            KeyManager::Barbican(client) => client.store(token, key, algorithm).await,
        }
    }

    /// The key, as the service may read it.
    pub async fn get(&self, id: Uuid) -> Result<Key, KeyError> {
        match self {
            KeyManager::Absent => Err(KeyError::Absent),
            KeyManager::Fixed(key) if id == FIXED_KEY_ID => Ok(key.clone()),
            KeyManager::Fixed(_) => Err(KeyError::NotFound(id)),
            KeyManager::Barbican(client) => client.get_as_service(id).await,
        }
    }

    /// Deletes a key, by `token` or else as the service; one that is gone is no error.
    pub async fn delete(&self, token: &Secret, id: Uuid) -> Result<(), KeyError> {
        match self {
            KeyManager::Absent | KeyManager::Fixed(_) => Ok(()),
            KeyManager::Barbican(client) => client.delete(token, id).await,
        }
    }

    /// [`KeyManager::delete`] where no user is there.
    pub async fn delete_as_service(&self, id: Uuid) -> Result<(), KeyError> {
        match self {
            KeyManager::Absent | KeyManager::Fixed(_) => Ok(()),
            KeyManager::Barbican(client) => client.delete_as_service(id).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fixed_key_is_every_key() {
        let manager = KeyManager::Fixed(Key::new(vec![0x0a, 0xff]));
        let token = Secret::new("t");
        let id = manager.create(&token, "aes", 256).await.unwrap();
        assert_eq!(manager.copy(&token, id, "aes").await.unwrap(), id);
        assert_eq!(manager.get(id).await.unwrap().passphrase().expose(), "0aff");
        manager.delete(&token, id).await.unwrap();
        let other = Uuid::from_u128(1);
        assert!(matches!(
            manager.get(other).await,
            Err(KeyError::NotFound(_))
        ));
        assert!(matches!(
            KeyManager::Absent.create(&token, "aes", 256).await,
            Err(KeyError::Absent)
        ));
    }

    #[test]
    fn no_key_is_shown() {
        assert_eq!(format!("{:?}", Key::new(vec![1])), "Key(***)");
    }
}
