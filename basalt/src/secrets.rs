//! The secrets of the dev identity: made at random at the first start, kept in
//! `DIR/secrets.json`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data_dir::replace_file;
use crate::error::{Error, Result};

/// Never printed; `Debug` is left out on purpose.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    pub admin_password: String,
    /// Of the user `demo`.
    pub demo_password: String,
    /// Signs tokens: 64 hexadecimal digits.
    pub token_key: String,
}

impl Secrets {
    /// Reads the file, or makes it. A damaged file is an error and stays as it is: new secrets
    /// would lock its users out.
    pub fn load_or_make(path: &Path) -> Result<Self> {
        let failed = |reason: String| Error::Secrets {
            path: path.to_owned(),
            reason,
        };
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| failed(reason(&error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secrets = Self::random().map_err(|error| failed(error.to_string()))?;
                let text =
                    serde_json::to_vec_pretty(&secrets).map_err(|error| failed(reason(&error)))?;
                replace_file(path, &text).map_err(|error| failed(error.to_string()))?;
                Ok(secrets)
            }
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The token key's bytes.
    pub fn signing_key(&self) -> Result<[u8; 32]> {
        let mut key = [0; 32];
        let digits = self.token_key.as_bytes();
        let pairs = digits.chunks_exact(2).map(|pair| {
            std::str::from_utf8(pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        });
        let bytes: Vec<u8> = pairs.flatten().collect();
        if digits.len() != 64 || bytes.len() != key.len() {
            return Err(Error::Start(
                "secrets.json: token_key must be 64 hexadecimal digits".to_owned(),
            ));
        }
        key.copy_from_slice(&bytes);
        Ok(key)
    }

    fn random() -> Result<Self, getrandom::Error> {
        Ok(Secrets {
            admin_password: random_hex::<12>()?,
            demo_password: random_hex::<12>()?,
            token_key: random_hex::<32>()?,
        })
    }
}

/// Where the file is broken, without quoting what stands there.
fn reason(error: &serde_json::Error) -> String {
    format!(
        "damaged at line {}, column {}",
        error.line(),
        error.column()
    )
}

fn random_hex<const BYTES: usize>() -> Result<String, getrandom::Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_then_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.json");
        let made = Secrets::load_or_make(&path).unwrap_or_else(|error| panic!("{error}"));
        let read = Secrets::load_or_make(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(made == read);
        assert_eq!((made.admin_password.len(), made.token_key.len()), (24, 64));
        assert_ne!(made.admin_password, made.demo_password);
        assert_ne!(made.signing_key().unwrap_or_default(), [0; 32]);
        let short = Secrets {
            token_key: "ü".repeat(32),
            ..made
        };
        assert!(short.signing_key().is_err());
    }

    #[test]
    fn a_damaged_file_is_left_alone_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.json");
        std::fs::write(&path, "{\"admin_password\": \"hunter2\"").unwrap();
        let error = Secrets::load_or_make(&path).err().unwrap().to_string();
        assert!(
            error.contains("secrets.json") && !error.contains("hunter2"),
            "{error}"
        );
        assert_eq!(
            std::fs::read(&path).unwrap(),
            b"{\"admin_password\": \"hunter2\""
        );
    }
}
