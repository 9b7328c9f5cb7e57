//! The hashes of image data.

use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

/// A hash of `os_hash_algo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
    Md5,
}

impl Algorithm {
    pub const WORDS: [&'static str; 4] = ["sha1", "sha256", "sha512", "md5"];

    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "sha1" => Some(Algorithm::Sha1),
            "sha256" => Some(Algorithm::Sha256),
            "sha512" => Some(Algorithm::Sha512),
            "md5" => Some(Algorithm::Md5),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha1 => "sha1",
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
            Algorithm::Md5 => "md5",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
            Algorithm::Md5 => 16,
        }
    }

    /// Whether `value` can be such a hash; the reason if not, in Glance's words.
    pub fn check_value(self, name: &str, value: &str) -> Result<(), String> {
        if !value.bytes().all(|byte| byte.is_ascii_hexdigit()) || !value.len().is_multiple_of(2) {
            return Err(format!("{name} ({value}) is not a valid hexadecimal value"));
        }
        if value.len() != 2 * self.bytes() {
            return Err(format!(
                "{name}: ({value}) is not the correct size for ({}) (should be ({}) bytes)",
                self.as_str(),
                self.bytes()
            ));
        }
        Ok(())
    }
}

/// A running hash.
pub enum Hash {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
    Md5(Md5),
}

impl Hash {
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha1 => Hash::Sha1(Sha1::default()),
            Algorithm::Sha256 => Hash::Sha256(Sha256::default()),
            Algorithm::Sha512 => Hash::Sha512(Sha512::default()),
            Algorithm::Md5 => Hash::Md5(Md5::default()),
        }
    }

    pub fn feed(&mut self, data: &[u8]) {
        match self {
            Hash::Sha1(hash) => hash.update(data),
            Hash::Sha256(hash) => hash.update(data),
            Hash::Sha512(hash) => hash.update(data),
            Hash::Md5(hash) => hash.update(data),
        }
    }

    /// In hex.
    pub fn finish(self) -> String {
        match self {
            Hash::Sha1(hash) => hex(&hash.finalize()),
            Hash::Sha256(hash) => hex(&hash.finalize()),
            Hash::Sha512(hash) => hex(&hash.finalize()),
            Hash::Md5(hash) => hex(&hash.finalize()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_hashes_and_checks_its_length() {
        let known = [
            ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("md5", "900150983cd24fb0d6963f7d28e17f72"),
            (
                "sha256",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
        ];
        for (word, value) in known {
            let algorithm = Algorithm::parse(word).unwrap();
            let mut hash = Hash::new(algorithm);
            hash.feed(b"a");
            hash.feed(b"bc");
            assert_eq!(hash.finish(), value);
            assert_eq!(algorithm.check_value("os_hash_value", value), Ok(()));
            assert!(Algorithm::Sha512.check_value("x", value).is_err());
        }
        for word in Algorithm::WORDS {
            assert_eq!(Algorithm::parse(word).unwrap().as_str(), word);
        }
        assert!(Algorithm::Md5.check_value("x", &"g".repeat(32)).is_err());
    }
}
