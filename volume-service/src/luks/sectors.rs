//! The sectors of an encrypted volume: AES in XTS mode, and an image that encrypts what is
//! written to it.

use std::sync::Arc;

use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use aes::{Aes128, Aes256};
use async_trait::async_trait;
use bytes::Bytes;
use storage::{Error, Extent, ExtentKind, ImageHandle, Result};

use super::{PAYLOAD_OFFSET_BYTES, SECTOR_BYTES};

const BLOCK_BYTES: usize = 16;
/// Zeroes are encrypted and written in pieces of this.
const ZERO_PIECE_BYTES: usize = 1 << 20;

/// The cipher of the data, and that of the tweaks.
enum Keys {
    Aes128(Box<(Aes128, Aes128)>),
    Aes256(Box<(Aes256, Aes256)>),
}

/// The cipher of sectors: `aes-xts-plain64`.
pub struct Xts(Keys);

impl Xts {
    /// The first half of the key encrypts data, the second the tweaks. `None`: of another size
    /// than 256 or 512 bits.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        let (data, tweak) = key.split_at(key.len() / 2);
        let keys = match key.len() {
            32 => Keys::Aes128(Box::new((
                Aes128::new_from_slice(data).ok()?,
                Aes128::new_from_slice(tweak).ok()?,
            ))),
            64 => Keys::Aes256(Box::new((
                Aes256::new_from_slice(data).ok()?,
                Aes256::new_from_slice(tweak).ok()?,
            ))),
            _ => return None,
        };
        Some(Xts(keys))
    }

    /// Encrypts whole sectors in place; `sector` is the number of the first.
    pub(crate) fn encrypt(&self, sector: u64, data: &mut [u8]) {
        self.each(sector, data, true);
    }

    pub(super) fn decrypt(&self, sector: u64, data: &mut [u8]) {
        self.each(sector, data, false);
    }

    fn each(&self, first: u64, data: &mut [u8], encrypts: bool) {
        for (number, sector) in (first..).zip(data.chunks_exact_mut(SECTOR_BYTES)) {
            match &self.0 {
                Keys::Aes128(keys) => crypt(&keys.0, &keys.1, number, sector, encrypts),
                Keys::Aes256(keys) => crypt(&keys.0, &keys.1, number, sector, encrypts),
            }
        }
    }
}

fn crypt<C>(data: &C, tweak: &C, number: u64, sector: &mut [u8], encrypts: bool)
where
    C: BlockEncrypt
        + BlockDecrypt
        + aes::cipher::BlockSizeUser<BlockSize = aes::cipher::consts::U16>,
{
    let mut mask = [0; BLOCK_BYTES];
    mask[..8].copy_from_slice(&number.to_le_bytes());
    tweak.encrypt_block(GenericArray::from_mut_slice(&mut mask));
    let mut mask = u128::from_le_bytes(mask);
    // All blocks of a sector at once: the cipher then works on several in parallel.
    let mut masks = [0u128; SECTOR_BYTES / BLOCK_BYTES];
    for (place, block) in masks.iter_mut().zip(sector.chunks_exact_mut(BLOCK_BYTES)) {
        *place = mask;
        xor(block, mask);
        // Times x in GF(2^128).
        mask = (mask << 1) ^ ((mask >> 127) * 0x87);
    }
    let mut blocks = [GenericArray::default(); SECTOR_BYTES / BLOCK_BYTES];
    for (place, block) in blocks.iter_mut().zip(sector.chunks_exact(BLOCK_BYTES)) {
        place.copy_from_slice(block);
    }
    if encrypts {
        data.encrypt_blocks(&mut blocks);
    } else {
        data.decrypt_blocks(&mut blocks);
    }
    let places = sector.chunks_exact_mut(BLOCK_BYTES);
    for ((place, block), mask) in places.zip(&blocks).zip(masks) {
        place.copy_from_slice(block);
        xor(place, mask);
    }
}

fn xor(block: &mut [u8], mask: u128) {
    for (byte, with) in block.iter_mut().zip(mask.to_le_bytes()) {
        *byte ^= with;
    }
}

/// The disk in an encrypted image: what is written to it is encrypted behind the header. What was
/// never written reads as anything.
pub struct Encrypted {
    inner: Arc<dyn ImageHandle>,
    cipher: Xts,
    payload_offset_bytes: u64,
}

impl Encrypted {
    /// `cipher` as the image's header, one of this service, has it.
    pub fn new(inner: Arc<dyn ImageHandle>, cipher: Xts) -> Self {
        Self::behind(inner, cipher, PAYLOAD_OFFSET_BYTES)
    }

    /// Behind a header of this length.
    pub fn behind(inner: Arc<dyn ImageHandle>, cipher: Xts, payload_offset_bytes: u64) -> Self {
        Encrypted {
            inner,
            cipher,
            payload_offset_bytes,
        }
    }

    /// Where the image has something, with `Zero` for what was never written and so reads as
    /// anything; offsets are the disk's.
    pub async fn written(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>> {
        self.check(offset, length)?;
        let start = self.payload_offset_bytes;
        let mut extents = self.inner.extents(start + offset, length, limit).await?;
        for extent in &mut extents {
            extent.offset -= start;
        }
        Ok(extents)
    }

    /// The whole sectors around a range: the first one's number, and their bytes in the clear.
    async fn sectors(&self, offset: u64, length: usize) -> Result<(u64, Vec<u8>)> {
        let first = offset / SECTOR_BYTES as u64;
        let skipped = (offset % SECTOR_BYTES as u64) as usize;
        let whole = (skipped + length).next_multiple_of(SECTOR_BYTES);
        let at = self.payload_offset_bytes + first * SECTOR_BYTES as u64;
        let mut data = self.inner.read(at, whole).await?.to_vec();
        self.cipher.decrypt(first, &mut data);
        Ok((first, data))
    }

    fn check(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size_bytes() => Ok(()),
            _ => Err(Error::Invalid("the range passes the end".to_owned())),
        }
    }

    async fn write_sectors(&self, first: u64, mut data: Vec<u8>) -> Result<()> {
        self.cipher.encrypt(first, &mut data);
        let at = self.payload_offset_bytes + first * SECTOR_BYTES as u64;
        self.inner.write(at, data.into()).await
    }
}

#[async_trait]
impl ImageHandle for Encrypted {
    fn size_bytes(&self) -> u64 {
        let behind = self
            .inner
            .size_bytes()
            .saturating_sub(self.payload_offset_bytes);
        behind - behind % SECTOR_BYTES as u64
    }

    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    async fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        self.check(offset, length as u64)?;
        let (_, data) = self.sectors(offset, length).await?;
        let skipped = (offset % SECTOR_BYTES as u64) as usize;
        Ok(Bytes::from(data).slice(skipped..skipped + length))
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        let skipped = (offset % SECTOR_BYTES as u64) as usize;
        if skipped == 0 && data.len().is_multiple_of(SECTOR_BYTES) {
            return self
                .write_sectors(offset / SECTOR_BYTES as u64, data.to_vec())
                .await;
        }
        let (first, mut sectors) = self.sectors(offset, data.len()).await?;
        if let Some(place) = sectors.get_mut(skipped..skipped + data.len()) {
            place.copy_from_slice(&data);
        }
        self.write_sectors(first, sectors).await
    }

    /// Writes zeroes, encrypted: the image cannot tell them from data.
    async fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.check(offset, length)?;
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let piece = (end - at).min(ZERO_PIECE_BYTES as u64);
            self.write(at, vec![0; piece as usize].into()).await?;
            at += piece;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    async fn extents(&self, offset: u64, length: u64, _limit: usize) -> Result<Vec<Extent>> {
        self.check(offset, length)?;
        Ok(vec![Extent {
            offset,
            length,
            kind: ExtentKind::Data,
        }])
    }
}

#[cfg(test)]
mod tests {
    use storage::memory::MemoryStore;
    use storage::{ImageSpec, ImageStore};

    use super::*;

    #[test]
    fn a_sector_of_the_standard() {
        // IEEE 1619, vector 4 begins so: a sector that counts up, keys of digits of e and pi.
        let key: Vec<u8> = [
            0x27182818284590452353602874713526u128,
            0x31415926535897932384626433832795,
        ]
        .iter()
        .flat_map(|half| half.to_be_bytes())
        .collect();
        let mut sector: Vec<u8> = (0..512u32).map(|n| n as u8).collect();
        let clear = sector.clone();
        let cipher = Xts::new(&key).unwrap();
        cipher.encrypt(0, &mut sector);
        assert_eq!(
            sector[..16],
            0x27a7479befa1d476489f308cd4cfa6e2u128.to_be_bytes()
        );
        cipher.decrypt(0, &mut sector);
        assert_eq!(sector, clear);
    }

    #[tokio::test]
    async fn what_is_written_anywhere_is_read_there() {
        let store = MemoryStore::new();
        store.ensure_pool("p").await.unwrap();
        let image = ImageSpec::new("p", "i");
        store
            .create(&image, PAYLOAD_OFFSET_BYTES + 4096)
            .await
            .unwrap();
        let inner = store.open(&image, None).await.unwrap();
        let disk = Encrypted::new(inner.clone(), Xts::new(&[7; 64]).unwrap());
        assert_eq!(disk.size_bytes(), 4096);
        disk.discard(0, 4096).await.unwrap();
        for (offset, byte, length) in [(0, 1, 512), (700, 2, 600), (4095, 3, 1)] {
            disk.write(offset, vec![byte; length].into()).await.unwrap();
            let read = disk.read(offset, length).await.unwrap();
            assert!(read.iter().all(|one| *one == byte));
        }
        assert_eq!(disk.read(699, 1).await.unwrap()[0], 0);
        assert_eq!(disk.read(1300, 1).await.unwrap()[0], 0);
        assert!(disk.write(4096, vec![1].into()).await.is_err());
        let raw = inner.read(PAYLOAD_OFFSET_BYTES, 512).await.unwrap();
        assert!(raw.iter().any(|byte| *byte != 1));
    }
}
