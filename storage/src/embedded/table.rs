//! A table of the catalogue: what is committed (redb), what is being committed (`frozen`), and
//! what changed since (`active`), read as one. Changes of a call that fails are undone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use crate::{Error, Result};

type Bytes = &'static [u8];
/// New values; `None`: removed.
pub(super) type Changes<K, V> = BTreeMap<K, Option<Arc<V>>>;

/// Values kept in memory per table beside those that changed.
const CACHED_VALUES: usize = 512;

/// A key with a byte form that sorts as it does.
pub(super) trait Key: Ord + Clone + Hash {
    fn to_bytes(&self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl Key for u64 {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }
}

impl Key for Vec<u8> {
    fn to_bytes(&self) -> Vec<u8> {
        self.clone()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(bytes.to_vec())
    }
}

/// A value with an explicit byte layout.
pub(super) trait Value: Sized {
    fn encode(&self, out: &mut Vec<u8>);
    /// `None`: no valid layout.
    fn decode(bytes: &[u8]) -> Option<Self>;
    /// Memory that a changed value takes, about.
    fn cost_bytes(&self) -> usize;
}

impl Value for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(bytes.to_vec())
    }

    fn cost_bytes(&self) -> usize {
        self.len()
    }
}

impl Value for u32 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    fn cost_bytes(&self) -> usize {
        4
    }
}

/// The checksum in front of a stored value also covers where the value belongs.
fn checksum(table: &str, key: &[u8], payload: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(table.as_bytes());
    digest.update(key);
    digest.update(payload);
    digest.finalize() as u32
}

/// An error of the catalogue's file as the crate's.
pub(super) fn redb_error(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Corrupted(detail) => corrupt(detail),
        other => Error::Unavailable(format!("catalogue: {other}")),
    }
}

/// Damage in the catalogue; whoever knows the image and the offset fills them in.
pub(super) fn corrupt(detail: impl Into<String>) -> Error {
    Error::Corrupt {
        image: "catalogue".into(),
        offset: 0,
        detail: detail.into(),
    }
}

pub(super) struct Table<K, V> {
    name: &'static str,
    committed: Option<ReadOnlyTable<Bytes, Bytes>>,
    frozen: Arc<Changes<K, V>>,
    active: Changes<K, V>,
    /// What `active` held before each change of the current call.
    undo: Vec<(K, Option<Option<Arc<V>>>)>,
    cost_bytes: usize,
    /// Committed values read before, absent ones too: two generations, the older one is dropped.
    recent: HashMap<K, Option<Arc<V>>>,
    older: HashMap<K, Option<Arc<V>>>,
}

impl<K: Key, V: Value> Table<K, V> {
    pub(super) fn new(name: &'static str) -> Self {
        Table {
            name,
            committed: None,
            frozen: Arc::default(),
            active: BTreeMap::new(),
            undo: Vec::new(),
            cost_bytes: 0,
            recent: HashMap::new(),
            older: HashMap::new(),
        }
    }

    /// Reads from this transaction from now on. What was frozen is in it.
    pub(super) fn publish(&mut self, transaction: &ReadTransaction) -> Result<()> {
        let definition: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new(self.name);
        self.committed = Some(transaction.open_table(definition).map_err(redb_error)?);
        let frozen = std::mem::take(&mut self.frozen);
        for (key, value) in frozen.iter() {
            self.remember(key.clone(), value.clone());
        }
        Ok(())
    }

    /// Lets go of the catalogue's file.
    pub(super) fn detach(&mut self) {
        self.committed = None;
    }

    fn remember(&mut self, key: K, value: Option<Arc<V>>) {
        if self.recent.len() >= CACHED_VALUES {
            self.older = std::mem::take(&mut self.recent);
        }
        self.older.remove(&key);
        self.recent.insert(key, value);
    }

    fn load(&self, key: &[u8]) -> Result<Option<Arc<V>>> {
        let Some(table) = &self.committed else {
            return Err(Error::Unavailable("it is closed".into()));
        };
        let Some(guard) = table.get(key).map_err(redb_error)? else {
            return Ok(None);
        };
        self.decode(key, guard.value()).map(Some)
    }

    fn decode(&self, key: &[u8], stored: &[u8]) -> Result<Arc<V>> {
        let broken = || corrupt(format!("table {}, key {key:02x?}", self.name));
        let (sum, payload) = stored.split_first_chunk::<4>().ok_or_else(broken)?;
        if u32::from_le_bytes(*sum) != checksum(self.name, key, payload) {
            return Err(broken());
        }
        V::decode(payload).map(Arc::new).ok_or_else(broken)
    }

    pub(super) fn get(&mut self, key: &K) -> Result<Option<Arc<V>>> {
        if let Some(value) = self.active.get(key).or_else(|| self.frozen.get(key)) {
            return Ok(value.clone());
        }
        if let Some(value) = self.recent.get(key) {
            return Ok(value.clone());
        }
        let value = match self.older.get(key) {
            Some(value) => value.clone(),
            None => self.load(&key.to_bytes())?,
        };
        self.remember(key.clone(), value.clone());
        Ok(value)
    }

    /// Sets or removes a value; part of the current call until [`Table::keep`] or [`Table::revert`].
    pub(super) fn put(&mut self, key: K, value: Option<Arc<V>>) {
        self.cost_bytes += 64 + value.as_ref().map_or(0, |value| value.cost_bytes());
        let before = self.active.insert(key.clone(), value);
        self.undo.push((key, before));
    }

    pub(super) fn set(&mut self, key: K, value: V) {
        self.put(key, Some(Arc::new(value)));
    }

    /// The call succeeded. Answers whether it changed anything.
    pub(super) fn keep(&mut self) -> bool {
        let changed = !self.undo.is_empty();
        self.undo.clear();
        changed
    }

    /// The call failed: as if it had not been.
    pub(super) fn revert(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(value) => self.active.insert(key, value),
                None => self.active.remove(&key),
            };
        }
    }

    pub(super) fn cost_bytes(&self) -> usize {
        self.cost_bytes
    }

    /// Everything changed so far goes into the next commit; later changes into the one after.
    pub(super) fn freeze(&mut self) -> Arc<Changes<K, V>> {
        self.cost_bytes = 0;
        self.frozen = Arc::new(std::mem::take(&mut self.active));
        Arc::clone(&self.frozen)
    }

    /// Writes frozen changes into a transaction.
    pub(super) fn apply(
        name: &'static str,
        changes: &Changes<K, V>,
        transaction: &WriteTransaction,
    ) -> Result<()> {
        let definition: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new(name);
        let mut table = transaction.open_table(definition).map_err(redb_error)?;
        let mut stored = Vec::new();
        for (key, value) in changes {
            let key = key.to_bytes();
            let Some(value) = value else {
                table.remove(key.as_slice()).map_err(redb_error)?;
                continue;
            };
            stored.clear();
            stored.extend_from_slice(&[0; 4]);
            value.encode(&mut stored);
            let sum = checksum(name, &key, stored.get(4..).unwrap_or_default());
            stored.splice(..4, sum.to_le_bytes());
            table
                .insert(key.as_slice(), stored.as_slice())
                .map_err(redb_error)?;
        }
        Ok(())
    }

    /// All keys and values of a range of keys, in order.
    pub(super) fn range(&self, from: K, to: K) -> Result<Vec<(K, Arc<V>)>> {
        let Some(table) = &self.committed else {
            return Err(Error::Unavailable("it is closed".into()));
        };
        let mut found: BTreeMap<K, Arc<V>> = BTreeMap::new();
        let (low, high) = (from.to_bytes(), to.to_bytes());
        for item in table
            .range(low.as_slice()..high.as_slice())
            .map_err(redb_error)?
        {
            let (key, value) = item.map_err(redb_error)?;
            let parsed = K::from_bytes(key.value())
                .ok_or_else(|| corrupt(format!("table {}: a key", self.name)))?;
            if self.active.contains_key(&parsed) || self.frozen.contains_key(&parsed) {
                continue;
            }
            found.insert(parsed, self.decode(key.value(), value.value())?);
        }
        for layer in [&*self.frozen, &self.active] {
            for (key, value) in layer.range(from.clone()..to.clone()) {
                match value {
                    Some(value) => found.insert(key.clone(), Arc::clone(value)),
                    None => found.remove(key),
                };
            }
        }
        Ok(found.into_iter().collect())
    }

    /// All keys, without looking at the values.
    pub(super) fn keys(&self) -> Result<Vec<K>> {
        let Some(table) = &self.committed else {
            return Err(Error::Unavailable("it is closed".into()));
        };
        let mut keys = BTreeSet::new();
        for item in table.iter().map_err(redb_error)? {
            let (key, _) = item.map_err(redb_error)?;
            let parsed = K::from_bytes(key.value());
            keys.insert(parsed.ok_or_else(|| corrupt(format!("table {}: a key", self.name)))?);
        }
        for layer in [&*self.frozen, &self.active] {
            for (key, value) in layer {
                match value {
                    Some(_) => keys.insert(key.clone()),
                    None => keys.remove(key),
                };
            }
        }
        Ok(keys.into_iter().collect())
    }
}
