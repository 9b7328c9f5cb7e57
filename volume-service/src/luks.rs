//! LUKS 1: the header of an encrypted volume, and its sectors.
//!
//! Contract: the LUKS On-Disk Format Specification 1.2. A header of [`PAYLOAD_OFFSET_BYTES`] names
//! the cipher and keeps the master key, split into 4,000 stripes and encrypted by a passphrase;
//! behind it lie sectors of 512 bytes, encrypted by the master key in XTS mode, each with its
//! number as tweak. What is written here opens with cryptsetup and with QEMU's driver.

mod sectors;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use sectors::{Encrypted, Xts};

/// Where the first sector is.
pub const PAYLOAD_OFFSET_BYTES: u64 = 2 << 20;
pub(crate) const SECTOR_BYTES: usize = 512;

const MAGIC: &[u8] = b"LUKS\xba\xbe";
const VERSION: u16 = 1;
const SLOT_ACTIVE: u32 = 0x00AC_71F3;
const SLOT_UNUSED: u32 = 0x0000_DEAD;
const SLOTS: usize = 8;
const STRIPES: usize = 4000;
/// Key material begins at multiples of this.
const ALIGNMENT_BYTES: usize = 4096;
/// Of PBKDF2. The passphrase is a random key, which no search finds however fast a trial is.
const ITERATIONS: u32 = 2000;
const SALT_BYTES: usize = 32;
/// More iterations than a header may ask for: about a minute of hashing.
const MAX_ITERATIONS: u32 = 20_000_000;
/// Where a header's fixed part ends.
const FIXED_BYTES: usize = 592;
/// Where the first key slot is described, and how far the slots lie apart.
const FIRST_SLOT: usize = 208;
const SLOT_FIELDS_BYTES: usize = 48;
/// No payload begins later: a header of eight slots of the longest keys takes a quarter of it.
pub const MAX_HEADER_BYTES: usize = 16 << 20;
const DIGEST_BYTES: usize = 20;

/// Why a volume cannot be encrypted as its type says.
#[derive(Debug, thiserror::Error)]
pub enum Unsupported {
    #[error("cipher {0:?} is not supported, only aes-xts-plain64 is")]
    Cipher(String),
    #[error("a key of {0} bits is not supported, only 256 and 512 are")]
    KeySize(u32),
}

/// The bits of the two keys of XTS together, if this cipher and size can be written.
pub fn check(cipher: &str, key_bits: u32) -> Result<(), Unsupported> {
    if cipher != "aes-xts-plain64" {
        return Err(Unsupported::Cipher(cipher.to_owned()));
    }
    if ![256, 512].contains(&key_bits) {
        return Err(Unsupported::KeySize(key_bits));
    }
    Ok(())
}

/// Why a volume cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("there is no LUKS header")]
    NoHeader,
    #[error("the LUKS header is damaged")]
    Damaged,
    #[error("the LUKS header names {0}, which is not supported")]
    Unsupported(String),
    #[error("no key slot opens with the key")]
    WrongKey,
}

/// How many bytes from the beginning of an image [`open`] needs: where the payload begins.
///
/// Errors: those of a header that cannot be read. `start`: at least the first sector or two.
pub fn payload_offset(start: &[u8]) -> Result<usize, OpenError> {
    let start = start.get(..FIXED_BYTES).ok_or(OpenError::NoHeader)?;
    if !start.starts_with(MAGIC) {
        return Err(OpenError::NoHeader);
    }
    let version = u16::from_be_bytes([start[6], start[7]]);
    if version != VERSION {
        return Err(OpenError::Unsupported(format!("version {version}")));
    }
    let expected = [(8, "aes"), (40, "xts-plain64"), (72, "sha256")];
    for (at, known) in expected {
        let name = text(start, at);
        if name != known {
            return Err(OpenError::Unsupported(name));
        }
    }
    let offset = number(start, 104)? as usize * SECTOR_BYTES;
    if (FIXED_BYTES..=MAX_HEADER_BYTES).contains(&offset) {
        Ok(offset)
    } else {
        Err(OpenError::Damaged)
    }
}

/// What decrypts the sectors behind a header, from the bytes up to its payload. Takes as long as
/// the header's iterations take.
pub fn open(header: &[u8], passphrase: &str) -> Result<Xts, OpenError> {
    payload_offset(header)?;
    let key_bytes = number(header, 108)? as usize;
    if ![32, 64].contains(&key_bytes) {
        return Err(OpenError::Unsupported(format!(
            "a key of {key_bytes} bytes"
        )));
    }
    let digest = header
        .get(112..112 + DIGEST_BYTES)
        .ok_or(OpenError::Damaged)?;
    let digest_salt = header
        .get(132..132 + SALT_BYTES)
        .ok_or(OpenError::Damaged)?;
    let digest_iterations = iterations(header, 164)?;
    for slot in 0..SLOTS {
        let at = FIRST_SLOT + slot * SLOT_FIELDS_BYTES;
        if number(header, at)? != SLOT_ACTIVE {
            continue;
        }
        let key = slot_key(header, at, key_bytes, passphrase)?;
        let found = pbkdf2(&key, digest_salt, DIGEST_BYTES, digest_iterations);
        if found == digest {
            return Xts::new(&key).ok_or(OpenError::Damaged);
        }
    }
    Err(OpenError::WrongKey)
}

/// What a key slot says the master key is, if `passphrase` is the slot's.
fn slot_key(
    header: &[u8],
    at: usize,
    key_bytes: usize,
    passphrase: &str,
) -> Result<Vec<u8>, OpenError> {
    let salt = header
        .get(at + 8..at + 8 + SALT_BYTES)
        .ok_or(OpenError::Damaged)?;
    let start = number(header, at + 40)? as usize * SECTOR_BYTES;
    if number(header, at + 44)? as usize != STRIPES {
        return Err(OpenError::Damaged);
    }
    let length = (key_bytes * STRIPES).next_multiple_of(SECTOR_BYTES);
    let material = start
        .checked_add(length)
        .and_then(|end| header.get(start..end));
    let mut material = material.ok_or(OpenError::Damaged)?.to_vec();
    let slot_key = pbkdf2(
        passphrase.as_bytes(),
        salt,
        key_bytes,
        iterations(header, at + 4)?,
    );
    let cipher = Xts::new(&slot_key).ok_or(OpenError::Damaged)?;
    cipher.decrypt(0, &mut material);
    material.truncate(key_bytes * STRIPES);
    Ok(merge(&material, key_bytes))
}

/// The text of a field of 32 bytes.
fn text(header: &[u8], at: usize) -> String {
    let field = header.get(at..at + 32).unwrap_or_default();
    let used = field.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(used).into_owned()
}

fn number(header: &[u8], at: usize) -> Result<u32, OpenError> {
    let field = header
        .get(at..at + 4)
        .and_then(|field| field.try_into().ok());
    Ok(u32::from_be_bytes(field.ok_or(OpenError::Damaged)?))
}

fn iterations(header: &[u8], at: usize) -> Result<u32, OpenError> {
    match number(header, at)? {
        found @ 1..=MAX_ITERATIONS => Ok(found),
        _ => Err(OpenError::Damaged),
    }
}

/// A new header, and what encrypts the sectors behind it.
///
/// Errors: the system has no random bytes, or the size is none of [`check`]'s.
pub fn format(passphrase: &str, key_bits: u32) -> std::io::Result<(Vec<u8>, Xts)> {
    let mut master_key = vec![0; (key_bits / 8) as usize];
    random(&mut master_key)?;
    let payload =
        Xts::new(&master_key).ok_or_else(|| std::io::Error::other("the key has the wrong size"))?;
    let (mut digest_salt, mut slot_salt) = ([0; SALT_BYTES], [0; SALT_BYTES]);
    random(&mut digest_salt)?;
    random(&mut slot_salt)?;

    let mut header = vec![0; PAYLOAD_OFFSET_BYTES as usize];
    let mut writer = Writer {
        bytes: &mut header,
        at: 0,
    };
    writer.put(MAGIC, MAGIC.len());
    writer.put(&VERSION.to_be_bytes(), 2);
    writer.put(b"aes", 32);
    writer.put(b"xts-plain64", 32);
    writer.put(b"sha256", 32);
    writer.number((PAYLOAD_OFFSET_BYTES / SECTOR_BYTES as u64) as u32);
    writer.number(master_key.len() as u32);
    let digest = pbkdf2(&master_key, &digest_salt, DIGEST_BYTES, ITERATIONS);
    writer.put(&digest, DIGEST_BYTES);
    writer.put(&digest_salt, SALT_BYTES);
    writer.number(ITERATIONS);
    writer.put(Uuid::new_v4().to_string().as_bytes(), 40);
    for slot in 0..SLOTS {
        writer.number(if slot == 0 { SLOT_ACTIVE } else { SLOT_UNUSED });
        writer.number(if slot == 0 { ITERATIONS } else { 0 });
        writer.put(if slot == 0 { &slot_salt } else { &[] }, SALT_BYTES);
        writer.number((material_offset(slot, master_key.len()) / SECTOR_BYTES) as u32);
        writer.number(STRIPES as u32);
    }

    let mut material = split(&master_key)?;
    material.resize(material.len().next_multiple_of(SECTOR_BYTES), 0);
    let slot_key = pbkdf2(
        passphrase.as_bytes(),
        &slot_salt,
        master_key.len(),
        ITERATIONS,
    );
    let slot_cipher =
        Xts::new(&slot_key).ok_or_else(|| std::io::Error::other("the key has the wrong size"))?;
    slot_cipher.encrypt(0, &mut material);
    let at = material_offset(0, master_key.len());
    if let Some(place) = header.get_mut(at..at + material.len()) {
        place.copy_from_slice(&material);
    }
    Ok((header, payload))
}

/// Where the key material of a slot begins.
fn material_offset(slot: usize, key_bytes: usize) -> usize {
    ALIGNMENT_BYTES + slot * (key_bytes * STRIPES).next_multiple_of(ALIGNMENT_BYTES)
}

/// Fields of fixed width, one after the other.
struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    /// `value`, and zeroes up to `width`.
    fn put(&mut self, value: &[u8], width: usize) {
        let end = self.at + value.len().min(width);
        if let Some(place) = self.bytes.get_mut(self.at..end) {
            place.copy_from_slice(&value[..end - self.at]);
        }
        self.at += width;
    }

    fn number(&mut self, value: u32) {
        self.put(&value.to_be_bytes(), 4);
    }
}

fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    getrandom::fill(bytes).map_err(|error| std::io::Error::other(error.to_string()))
}

/// PBKDF2 with HMAC-SHA-256.
fn pbkdf2(secret: &[u8], salt: &[u8], length: usize, iterations: u32) -> Vec<u8> {
    // HMAC takes keys of every length.
    let Ok(keyed) = Hmac::<Sha256>::new_from_slice(secret) else {
        return vec![0; length];
    };
    let mut derived = Vec::with_capacity(length);
    for block in 1u32.. {
        if derived.len() >= length {
            break;
        }
        let mut first = keyed.clone();
        first.update(salt);
        first.update(&block.to_be_bytes());
        let mut last = first.finalize().into_bytes();
        let mut sum = last;
        for _ in 1..iterations {
            let mut next = keyed.clone();
            next.update(&last);
            last = next.finalize().into_bytes();
            for (byte, with) in sum.iter_mut().zip(&last) {
                *byte ^= with;
            }
        }
        derived.extend_from_slice(&sum);
    }
    derived.truncate(length);
    derived
}

/// The anti-forensic splitter: [`STRIPES`] times the key's bytes, all of which are needed to
/// have it back.
fn split(key: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut material = vec![0; key.len() * STRIPES];
    let last = key.len() * (STRIPES - 1);
    random(&mut material[..last])?;
    let mut state = vec![0; key.len()];
    for stripe in material[..last].chunks(key.len()) {
        for (byte, with) in state.iter_mut().zip(stripe) {
            *byte ^= with;
        }
        diffuse(&mut state);
    }
    for ((byte, state), key) in material[last..].iter_mut().zip(&state).zip(key) {
        *byte = state ^ key;
    }
    Ok(material)
}

/// The key that [`split`] has made material of.
fn merge(material: &[u8], key_bytes: usize) -> Vec<u8> {
    let mut state = vec![0; key_bytes];
    let mut stripes = material.chunks(key_bytes).peekable();
    while let Some(stripe) = stripes.next() {
        for (byte, with) in state.iter_mut().zip(stripe) {
            *byte ^= with;
        }
        if stripes.peek().is_some() {
            diffuse(&mut state);
        }
    }
    state
}

/// Each block of the digest's length becomes the digest of its number and itself.
fn diffuse(state: &mut [u8]) {
    for (number, block) in state.chunks_mut(Sha256::output_size()).enumerate() {
        let mut hash = Sha256::new();
        hash.update((number as u32).to_be_bytes());
        hash.update(&*block);
        let digest = hash.finalize();
        let length = block.len();
        block.copy_from_slice(&digest[..length]);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// QEMU opens what was written with the passphrase, and reads what was encrypted.
    #[test]
    fn qemu_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.luks");
        for key_bits in [256, 512] {
            check("aes-xts-plain64", key_bits).unwrap();
            let (header, cipher) = format("0a1b", key_bits).unwrap();
            assert_eq!(header.len() as u64, PAYLOAD_OFFSET_BYTES);
            let mut file = header;
            let mut sectors = vec![0x5a; 8 * SECTOR_BYTES];
            sectors.extend([0x77; 8 * SECTOR_BYTES]);
            cipher.encrypt(0, &mut sectors);
            file.extend(sectors);
            std::fs::write(&path, file).unwrap();
            let secret = "secret,id=k,data=0a1b";
            let image = format!("driver=luks,key-secret=k,file.filename={}", path.display());
            let read = Command::new("qemu-io")
                .args([
                    "--object",
                    secret,
                    "--image-opts",
                    "-c",
                    "read -P 0x5a 0 4k",
                ])
                .args(["-c", "read -P 0x77 4k 4k", &image])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&read.stdout).into_owned()
                + &String::from_utf8_lossy(&read.stderr);
            assert_eq!(text.matches("read 4096/4096").count(), 2, "{text}");
            assert!(!text.contains("Pattern verification failed"), "{text}");
        }
    }

    fn opens(header: &[u8], passphrase: &str, sector: &[u8], expected: u8) {
        let mut sector = sector.to_vec();
        open(header, passphrase).unwrap().decrypt(0, &mut sector);
        assert!(sector.iter().all(|byte| *byte == expected));
    }

    #[test]
    fn own_headers_and_those_of_qemu_are_opened() {
        for key_bits in [256, 512] {
            let (header, cipher) = format("0a1b", key_bits).unwrap();
            let mut sector = vec![0x5a; SECTOR_BYTES];
            cipher.encrypt(0, &mut sector);
            assert_eq!(payload_offset(&header).unwrap(), header.len());
            opens(&header, "0a1b", &sector, 0x5a);
            assert!(matches!(open(&header, "0a1c"), Err(OpenError::WrongKey)));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.luks");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "luks", "--object"])
            .arg("secret,id=k,data=0a1b")
            .args(["-o", "key-secret=k,iter-time=10", path.to_str().unwrap()])
            .args(["1M"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let image = format!("driver=luks,key-secret=k,file.filename={}", path.display());
        let written = Command::new("qemu-io")
            .args(["--object", "secret,id=k,data=0a1b", "--image-opts"])
            .args(["-c", "write -P 0x77 0 4k", &image])
            .output()
            .unwrap();
        assert!(written.status.success(), "{written:?}");
        let file = std::fs::read(&path).unwrap();
        let offset = payload_offset(&file).unwrap();
        let sector = &file[offset..offset + SECTOR_BYTES];
        opens(&file[..offset], "0a1b", sector, 0x77);
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let (mut header, _) = format("k", 256).unwrap();
        assert!(matches!(open(&[0; 4096], "k"), Err(OpenError::NoHeader)));
        assert!(matches!(
            open(&header[..100], "k"),
            Err(OpenError::NoHeader)
        ));
        assert!(matches!(
            open(&header[..8192], "k"),
            Err(OpenError::Damaged)
        ));
        for (at, value) in [
            (104, u32::MAX),
            (164, u32::MAX),
            (212, 0),
            (248, u32::MAX),
            (252, 1),
        ] {
            let kept = header[at..at + 4].to_vec();
            header[at..at + 4].copy_from_slice(&value.to_be_bytes());
            assert!(
                matches!(open(&header, "k"), Err(OpenError::Damaged)),
                "{at}"
            );
            header[at..at + 4].copy_from_slice(&kept);
        }
        header[7] = 2;
        assert!(matches!(open(&header, "k"), Err(OpenError::Unsupported(_))));
    }

    #[test]
    fn other_ciphers_are_refused() {
        assert!(check("aes-cbc-essiv", 256).is_err());
        assert!(check("aes-xts-plain64", 128).is_err());
    }
}
