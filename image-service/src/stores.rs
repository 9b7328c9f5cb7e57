//! The stores that keep image data: a pool each, or, read only, the web.
//!
//! With `enabled_backends` the stores have ids that clients choose by, and every location says in
//! its metadata which store it lies in. Without, there is one store that has no id. Staged data
//! lies in a pool of its own beside them. Each store holds its own engine, so that one may lie in
//! another cluster than the next.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;

use storage::{ImageSpec, ImageStore, SnapshotSpec};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::image::{Location, STORE_SNAPSHOT};
use crate::location;
use crate::options::{Options, StoreKind, StoreOptions};

/// Bounds of `rbd_store_chunk_size`: a transfer holds up to three chunks.
const CHUNK_BYTES_MIN: usize = 64 << 10;
const CHUNK_BYTES_MAX: usize = 16 << 20;
/// The key of a location's metadata that names its store.
const STORE_KEY: &str = "store";

/// The engines that the stores lie in.
#[derive(Clone)]
pub struct Engines {
    /// Of the default store, of staged data, and of the stores that are not in `by_id`.
    pub default: Arc<dyn ImageStore>,
    pub by_id: BTreeMap<String, Arc<dyn ImageStore>>,
}

impl<E: ImageStore> From<Arc<E>> for Engines {
    fn from(engine: Arc<E>) -> Self {
        Engines {
            default: engine,
            by_id: BTreeMap::new(),
        }
    }
}

/// A pool of an engine that keeps image data as `<id>@snap`.
#[derive(Clone)]
pub struct Pool {
    pub engine: Arc<dyn ImageStore>,
    pub name: String,
    /// Bytes that a transfer reads or writes at a time.
    pub chunk_bytes: usize,
}

impl Pool {
    fn new(engine: &Arc<dyn ImageStore>, name: &str, chunk_bytes: usize) -> Self {
        Pool {
            engine: Arc::clone(engine),
            name: name.to_owned(),
            chunk_bytes: chunk_bytes.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX),
        }
    }

    /// Data is named by its image's id; staged data that is worked on has names of its own.
    pub fn image(&self, name: impl Display) -> ImageSpec {
        ImageSpec::new(&self.name, name.to_string())
    }

    pub fn snapshot(&self, name: impl Display) -> SnapshotSpec {
        self.image(name).at(STORE_SNAPSHOT)
    }

    /// The URL of an image's data in this pool.
    pub fn url(&self, id: Uuid) -> String {
        location::url(self.engine.fsid(), &self.snapshot(id))
    }

    fn holds(&self, fsid: &str, snapshot: &SnapshotSpec) -> bool {
        fsid == self.engine.fsid() && snapshot.image.pool == self.name
    }
}

/// One store.
pub struct Store {
    /// `None`: the only store, which clients do not choose.
    pub id: Option<String>,
    pub description: String,
    /// Stores of a higher weight are read from first.
    pub weight: i64,
    /// `None`: the web, which can only be read.
    pub pool: Option<Pool>,
}

impl Store {
    /// The id, or `""` where the store has none.
    pub fn name(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    /// A location in this store.
    pub fn location(&self, url: String) -> Location {
        let mut location = Location {
            url,
            metadata: serde_json::Map::new(),
        };
        self.mark(&mut location);
        location
    }

    /// Writes the store's id into the location's metadata.
    pub fn mark(&self, location: &mut Location) {
        if let Some(id) = &self.id {
            let id = serde_json::Value::String(id.clone());
            location.metadata.insert(STORE_KEY.to_owned(), id);
        }
    }
}

/// All stores; there is a default one among them, and it can be written.
pub struct Stores {
    all: Vec<Store>,
    /// Names the default store.
    default_id: Option<String>,
    pub staging: Pool,
}

impl Stores {
    /// The stores of the options. Errors: the options contradict each other.
    pub fn new(engines: &Engines, options: &Options) -> Result<Self> {
        let engine = &engines.default;
        let chunk_bytes = options.rbd_store_chunk_size;
        let all: Vec<Store> = if options.enabled_backends.is_empty() {
            vec![Store {
                id: None,
                description: String::new(),
                weight: 0,
                pool: Some(Pool::new(engine, &options.rbd_store_pool, chunk_bytes)),
            }]
        } else {
            let store = |options: &StoreOptions| Store {
                id: Some(options.id.clone()),
                description: options.store_description.clone(),
                weight: options.weight,
                pool: match &options.kind {
                    StoreKind::Http => None,
                    StoreKind::Rbd { pool, chunk_bytes } => {
                        let engine = engines.by_id.get(&options.id).unwrap_or(engine);
                        Some(Pool::new(engine, pool, *chunk_bytes))
                    }
                },
            };
            options.enabled_backends.iter().map(store).collect()
        };
        let staging = Pool::new(engine, &options.staging_pool, chunk_bytes);
        check_pools(&all, &staging)?;
        let default_id = match &options.default_backend {
            Some(id) => Some(id.clone()),
            None => all.first().and_then(|store| store.id.clone()),
        };
        let stores = Stores {
            all,
            default_id,
            staging,
        };
        match stores.choose_pool(None) {
            Ok(_) => Ok(stores),
            Err(reason) => Err(Error::BadRequest(format!("default_backend: {reason}"))),
        }
    }

    /// Whether clients choose stores by id.
    pub fn have_ids(&self) -> bool {
        self.all.iter().any(|store| store.id.is_some())
    }

    pub fn all(&self) -> &[Store] {
        &self.all
    }

    pub fn is_default(&self, store: &Store) -> bool {
        store.id == self.default_id
    }

    /// `None`, or an empty name: the default store. `Err`: there is no such store.
    pub fn choose(&self, id: Option<&str>) -> Result<&Store, String> {
        let wanted = id.filter(|id| !id.is_empty());
        let wanted = wanted.or(self.default_id.as_deref());
        self.all
            .iter()
            .find(|store| store.id.as_deref() == wanted)
            .ok_or_else(|| unknown(wanted))
    }

    /// As [`Stores::choose`], for writing.
    pub fn choose_pool(&self, id: Option<&str>) -> Result<(&Store, &Pool), String> {
        let store = self.choose(id)?;
        match &store.pool {
            Some(pool) => Ok((store, pool)),
            None => Err(format!("Store {} is read-only.", store.name())),
        }
    }

    /// Every pool that may hold data of an image.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.all
            .iter()
            .filter_map(|store| store.pool.as_ref())
            .chain([&self.staging])
    }

    /// The ids of the stores that can be written.
    pub fn writable_ids(&self) -> Vec<String> {
        let writable = self.all.iter().filter(|store| store.pool.is_some());
        writable.map(|store| store.name().to_owned()).collect()
    }

    /// The store that a URL lies in, with the snapshot it names; `None`: in none of them.
    pub fn of_url(&self, url: &str) -> Option<(&Store, Option<(&Pool, SnapshotSpec)>)> {
        if url.starts_with("http://") || url.starts_with("https://") {
            let web = self.all.iter().find(|store| store.pool.is_none())?;
            return Some((web, None));
        }
        let (fsid, snapshot) = location::parse(url)?;
        self.all.iter().find_map(|store| {
            let pool = store.pool.as_ref()?;
            let holds = pool.holds(&fsid, &snapshot);
            holds.then(|| (store, Some((pool, snapshot.clone()))))
        })
    }

    /// The pool that holds this image's own data at the URL. `None` for data of somebody else,
    /// which goes on living when the location goes.
    pub fn own_pool(&self, url: &str, id: Uuid) -> Option<(&Store, &Pool)> {
        let (store, at) = self.of_url(url)?;
        let (pool, snapshot) = at?;
        (snapshot.image == pool.image(id)).then_some((store, pool))
    }

    /// Heaviest store first, otherwise in their order.
    pub fn sort(&self, locations: &mut [Location]) {
        if self.have_ids() {
            locations.sort_by_key(|location| std::cmp::Reverse(self.weight(location)));
        }
    }

    fn weight(&self, location: &Location) -> i64 {
        let id = store_of(location);
        let store = self.all.iter().find(|store| store.id.as_deref() == id);
        store.map_or(0, |store| store.weight)
    }
}

/// The id of the store that a location lies in.
pub fn store_of(location: &Location) -> Option<&str> {
    location.metadata.get(STORE_KEY).and_then(|id| id.as_str())
}

fn unknown(id: Option<&str>) -> String {
    format!("Unknown store {:?}", id.unwrap_or_default())
}

/// Every store needs a pool of its own, or a delete in one would take away the other's data.
fn check_pools(all: &[Store], staging: &Pool) -> Result<()> {
    let mut ids = HashSet::new();
    let mut pools = HashSet::from([(staging.engine.fsid(), staging.name.as_str())]);
    for store in all {
        if !ids.insert(store.name()) || store.name().starts_with("os_glance_") {
            let reason = format!("the store id {:?} is reserved or named twice", store.name());
            return Err(Error::BadRequest(reason));
        }
        if let Some(pool) = &store.pool
            && !pools.insert((pool.engine.fsid(), &pool.name))
        {
            let reason = format!("pool {:?} belongs to two stores", pool.name);
            return Err(Error::BadRequest(reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::memory::MemoryStore;

    fn rbd(id: &str, pool: &str, weight: i64) -> StoreOptions {
        StoreOptions {
            id: id.to_owned(),
            kind: StoreKind::Rbd {
                pool: pool.to_owned(),
                chunk_bytes: 1,
            },
            store_description: String::new(),
            weight,
        }
    }

    fn stores(backends: Vec<StoreOptions>, default: Option<&str>) -> Result<Stores> {
        let engine = Engines::from(Arc::new(MemoryStore::new()));
        let options = Options {
            enabled_backends: backends,
            default_backend: default.map(str::to_owned),
            ..Options::default()
        };
        Stores::new(&engine, &options)
    }

    #[test]
    fn one_store_without_an_id_is_the_default() {
        let stores = stores(Vec::new(), None).unwrap();
        assert!(!stores.have_ids());
        let (store, pool) = stores.choose_pool(None).unwrap();
        assert_eq!((store.name(), pool.name.as_str()), ("", "images"));
        assert!(stores.choose(Some("a")).is_err());
        let id = Uuid::new_v4();
        let url = pool.url(id);
        assert!(stores.own_pool(&url, id).is_some());
        assert!(stores.own_pool(&url, Uuid::new_v4()).is_none());
        assert!(store.location(url).metadata.is_empty());
    }

    #[test]
    fn heavier_stores_come_first() {
        let backends = vec![rbd("a", "pa", 1), rbd("b", "pb", 5), rbd("c", "pc", 5)];
        let stores = stores(backends, Some("b")).unwrap();
        let mut locations: Vec<_> = stores
            .all()
            .iter()
            .map(|store| store.location(String::new()))
            .collect();
        stores.sort(&mut locations);
        let order: Vec<_> = locations.iter().filter_map(store_of).collect();
        assert_eq!(order, ["b", "c", "a"]);
        assert_eq!(stores.choose_pool(None).unwrap().1.name, "pb");
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let http = StoreOptions {
            kind: StoreKind::Http,
            ..rbd("web", "", 0)
        };
        assert!(stores(vec![http.clone()], None).is_err());
        assert!(stores(vec![rbd("a", "p", 0), http], Some("web")).is_err());
        assert!(stores(vec![rbd("a", "p", 0), rbd("b", "p", 0)], None).is_err());
        assert!(stores(vec![rbd("a", "p", 0), rbd("a", "q", 0)], None).is_err());
        assert!(stores(vec![rbd("a", "images-staging", 0)], None).is_err());
        assert!(stores(vec![rbd("a", "p", 0)], Some("b")).is_err());
    }
}
