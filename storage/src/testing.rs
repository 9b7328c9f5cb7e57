//! Stores for tests of what uses the trait: in memory, or on the cluster that
//! `BASALT_TEST_CEPH_CONF` names.
//!
//! The cluster is one for tests (`tests/ceph` starts it) and is emptied before each store, so
//! tests there run one at a time. Beside the trait, Ceph's own client says what lies in it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A harness for tests: a panic is its verdict.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::ceph::{CephOptions, CephStore};
use crate::memory::MemoryStore;
use crate::{Error, ImageSpec, ImageStore, SnapshotInfo};

/// The variable with the path of a cluster's `ceph.conf`, for tests that may empty its pools.
const CLUSTER: &str = "BASALT_TEST_CEPH_CONF";
/// For what a cluster does some time later.
const PAUSE: Duration = Duration::from_millis(50);
const MOST_PAUSES: usize = 600;

/// A store without anything in it.
pub struct TestStore {
    store: Arc<dyn ImageStore>,
    cluster: Option<CephStore>,
}

impl Deref for TestStore {
    type Target = Arc<dyn ImageStore>;

    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

impl TestStore {
    /// `memory`, or a client of the cluster that the environment names.
    pub async fn new(memory: MemoryStore) -> Self {
        if conf().is_none() {
            return Self::of(Arc::new(memory));
        }
        let cluster = connect().await;
        empty(&cluster).await;
        TestStore {
            store: Arc::new(cluster.clone()),
            cluster: Some(cluster),
        }
    }

    /// A store of an engine that the test is about.
    pub fn of(store: Arc<dyn ImageStore>) -> Self {
        let cluster = None;
        TestStore { store, cluster }
    }

    /// As if this process had been killed, and the next one had shut it out: whatever it had open
    /// in the cluster is nobody's, and it has to connect anew. Memory has no such thing.
    pub async fn crash(&self) {
        let Some(cluster) = &self.cluster else { return };
        let addresses = cluster.client_addresses().borrow().clone();
        let next = connect().await;
        next.fence(&addresses).await.unwrap();
        next.close().await.unwrap();
        let mut was_shut_out = false;
        for _ in 0..MOST_PAUSES {
            match cluster.images("volumes").await {
                Ok(_) if was_shut_out => return,
                Ok(_) => tokio::time::sleep(PAUSE).await,
                Err(_) => was_shut_out = true,
            }
        }
        panic!("the client is not shut out");
    }

    /// Panics unless Ceph's own client shows the images, snapshots and clones that the trait shows,
    /// and nothing beside them: no trash, no snapshot that only waits for its clones, and no part of
    /// an image that has no name.
    pub async fn audit(&self) {
        let Some(cluster) = &self.cluster else { return };
        let held = held_by_the_cluster().await;
        for pool in cluster.pools().await.unwrap() {
            let held = &held[&pool];
            assert_eq!(texts(&held["trash"]), BTreeSet::new(), "trash of {pool}");
            assert_eq!(
                texts(&held["remains"]),
                BTreeSet::new(),
                "parts of images in {pool}"
            );
            let names = cluster.images(&pool).await.unwrap();
            let images = held["images"].as_object().unwrap();
            assert!(
                images.keys().eq(&names),
                "{pool} has {images:?}, not {names:?}"
            );
            for (name, held) in images {
                let shown = snapshots_of(cluster, &ImageSpec::new(&pool, name)).await;
                assert_eq!(*held, shown, "snapshots of {pool}/{name} with their clones");
            }
        }
    }
}

/// The names of the clones by the name of the snapshot.
async fn snapshots_of(cluster: &CephStore, image: &ImageSpec) -> Value {
    let mut snapshots = serde_json::Map::new();
    for SnapshotInfo { name, .. } in cluster.info(image).await.unwrap().snapshots {
        let clones = cluster.children(&image.at(&name)).await.unwrap();
        let clones: Vec<_> = clones.into_iter().map(|clone| clone.image).collect();
        snapshots.insert(name, clones.into());
    }
    snapshots.into()
}

fn texts(list: &Value) -> BTreeSet<String> {
    let text = |one: &Value| one.as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(text).collect()
}

/// By pool: the images with their snapshots and clones, the trash, and objects of other images.
async fn held_by_the_cluster() -> Value {
    const SCRIPT: &str = include_str!("testing/held.py");
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-c").arg(SCRIPT).arg(conf().unwrap());
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn conf() -> Option<PathBuf> {
    std::env::var_os(CLUSTER).map(PathBuf::from)
}

async fn connect() -> CephStore {
    let options = CephOptions {
        conf: conf(),
        ..CephOptions::default()
    };
    CephStore::connect(options).await.unwrap()
}

/// Removes everything, children before their parents; then nothing of RBD's is left, either.
async fn empty(cluster: &CephStore) {
    for pool in cluster.pools().await.unwrap() {
        for object in cluster.objects(&pool).await.unwrap() {
            cluster.remove_object(&pool, &object).await.unwrap();
        }
    }
    for _ in 0..MOST_PAUSES {
        let mut is_empty = true;
        for pool in cluster.pools().await.unwrap() {
            is_empty &= thin_out(cluster, &pool).await;
        }
        if is_empty {
            return no_remains().await;
        }
    }
    panic!("the cluster cannot be emptied");
}

/// Removes what nothing hangs on; whether that was all.
async fn thin_out(cluster: &CephStore, pool: &str) -> bool {
    cluster.purge(pool).await.unwrap();
    let names = cluster.images(pool).await.unwrap();
    for name in &names {
        let image = ImageSpec::new(pool, name);
        for snapshot in cluster.info(&image).await.unwrap().snapshots {
            let snapshot = image.at(snapshot.name);
            match cluster.unprotect_snapshot(&snapshot).await {
                Ok(()) => cluster.remove_snapshot(&snapshot).await.unwrap(),
                Err(Error::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        match cluster.remove(&image).await {
            Ok(()) | Err(Error::HasSnapshots { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    names.is_empty()
}

/// Whatever a removal forgot. Data of removed snapshots goes some time later.
async fn no_remains() {
    let mut held = Value::Null;
    for _ in 0..MOST_PAUSES {
        held = held_by_the_cluster().await;
        let mut pools = held.as_object().unwrap().values();
        let is_empty = |kind: &Value| kind.as_array().unwrap().is_empty();
        if pools.all(|pool| {
            ["remains", "data"]
                .iter()
                .all(|kind| is_empty(&pool[*kind]))
        }) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("a part of an image is left: {held}");
}
