//! Signed claims: `base64url(json) "." base64url(HMAC-SHA256)`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

/// Longer than any token we sign.
const MAX_TOKEN_BYTES: usize = 2048;
/// Binds a signature to this use and form of the key.
const PURPOSE: &[u8] = b"basalt dev token 1\0";

/// What a token says. Short names keep tokens short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    #[serde(rename = "u")]
    pub user_id: String,
    #[serde(rename = "p")]
    pub project_id: Option<String>,
    /// Scoped to the system.
    #[serde(rename = "s")]
    pub system: bool,
    #[serde(rename = "i")]
    pub issued_at_us: i64,
    #[serde(rename = "e")]
    pub expires_at_us: i64,
    /// Its own, and that of the first token of a chain of rescopings.
    #[serde(rename = "a")]
    pub audit_ids: Vec<String>,
    #[serde(rename = "m")]
    pub methods: Vec<String>,
}

impl Claims {
    /// The id of this very token.
    pub fn audit_id(&self) -> &str {
        self.audit_ids.first().map_or("", String::as_str)
    }
}

pub(super) fn new_audit_id() -> String {
    URL_SAFE_NO_PAD.encode(Uuid::new_v4().as_bytes())
}

/// Holds the key, ready for use.
#[derive(Clone)]
pub(super) struct Signer {
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(***)")
    }
}

impl Signer {
    pub fn new(key: &[u8; 32]) -> Self {
        // A key of 32 bytes fits the hash's block, so it is used as it is.
        let mut block = [0; 64];
        block[..32].copy_from_slice(key);
        Self {
            keyed: Hmac::new(&block.into()),
        }
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }

    pub fn sign(&self, claims: &Claims) -> String {
        // Claims are plain texts and numbers, which always have a JSON form.
        let json = serde_json::to_vec(claims).unwrap_or_default();
        let payload = URL_SAFE_NO_PAD.encode(json);
        let tag = self
            .mac(&[PURPOSE, payload.as_bytes()])
            .finalize()
            .into_bytes();
        format!("{payload}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// The claims if we signed them; says nothing about expiry.
    pub fn verify(&self, token: &str) -> Option<Claims> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (payload, tag) = token.split_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        self.mac(&[PURPOSE, payload.as_bytes()])
            .verify_slice(&tag)
            .ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    /// Compares two passwords in a time that does not tell where they differ.
    pub fn same(&self, one: &str, other: &str) -> bool {
        let tag = self
            .mac(&[b"password\0", one.as_bytes()])
            .finalize()
            .into_bytes();
        self.mac(&[b"password\0", other.as_bytes()])
            .verify_slice(&tag)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            user_id: "u".into(),
            project_id: None,
            system: false,
            issued_at_us: 1,
            expires_at_us: 2,
            audit_ids: vec![new_audit_id()],
            methods: vec!["password".into()],
        }
    }

    #[test]
    fn only_what_the_key_signed_is_read() {
        let signer = Signer::new(&[7; 32]);
        let token = signer.sign(&claims());
        assert_eq!(signer.verify(&token).unwrap().user_id, "u");
        assert_eq!(Signer::new(&[8; 32]).verify(&token), None);
        for n in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[n] = if forged[n] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(signer.verify(&forged), None, "{forged}");
        }
        for bad in ["", ".", "a", "a.b", &"a".repeat(10_000)] {
            assert_eq!(signer.verify(bad), None);
        }
    }

    #[test]
    fn passwords_compare() {
        let signer = Signer::new(&[7; 32]);
        assert!(signer.same("a", "a"));
        assert!(!signer.same("a", "b"));
        assert!(!signer.same("a", ""));
    }
}
