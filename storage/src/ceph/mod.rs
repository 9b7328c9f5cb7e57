//! The engine `ceph`: images of RBD through librbd, which is loaded when the first cluster is
//! connected.
//!
//! | File | Is |
//! |---|---|
//! | `native/` | safe types over the C calls; the only unsafe code |
//! | `blocking.rs` | threads for the calls that block |
//! | `connection.rs` | a client of a cluster: connect, reconnect, calls with time limits |
//! | `open_images.rs` | which images are open, and closing them when they are idle |
//! | `store.rs`, `images.rs`, `snapshots.rs` | [`ImageStore`](crate::ImageStore) |
//! | `handle.rs` | reads and writes, asynchronous in librbd |
//! | `differences.rs` | what changed, what is used |
//! | `trash.rs` | removing, now or later |
//! | `monitor.rs` | what monitors know: room in a pool, their addresses |
//!
//! **Names and features** are Cinder's: images have the cluster's `rbd_default_features`, and
//! layering without any. Clones have the format that the cluster chooses: format 2 where its
//! oldest allowed client knows it. Either way a protected snapshot with clones stays, as the
//! trait has it: in format 2, where Ceph would hide the snapshot, this engine looks first.
//!
//! **Time limits.** librados ends each request to a monitor or an OSD after
//! [`CephOptions::op_timeout`], so a call fails with `Unavailable` instead of hanging; when even
//! that fails, the caller is told so a little later and the call keeps its thread. The threads
//! are bounded, and none of them keeps the process from ending.
//!
//! **A client that was blocklisted** (it could not answer while another needed its lock) gets a
//! new connection with the next call; handles that were open answer `Unavailable`.

mod blocking;
mod connection;
mod differences;
mod failure;
mod features;
mod handle;
mod images;
mod monitor;
mod native;
mod open_images;
mod snapshots;
mod store;
mod trash;

use std::path::PathBuf;
use std::time::Duration;

pub use store::CephStore;

/// How to reach a cluster, by the names of Cinder's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CephOptions {
    /// `rbd_cluster_name`
    pub cluster_name: String,
    /// `rbd_user`, without `client.`
    pub user: String,
    /// `rbd_ceph_conf`; `None`: where Ceph looks by itself, `/etc/ceph/<cluster>.conf` first.
    pub conf: Option<PathBuf>,
    /// `rados_connect_timeout`
    pub connect_timeout: Duration,
    /// The longest that a single request to a monitor or OSD may take.
    pub op_timeout: Duration,
    /// Calls of librbd at once; more wait.
    pub threads: usize,
    /// `rbd_concurrent_flatten_operations`
    pub concurrent_flattens: usize,
    /// An image that nobody used for this long is closed.
    pub idle: Duration,
}

impl Default for CephOptions {
    fn default() -> Self {
        CephOptions {
            cluster_name: "ceph".into(),
            user: "admin".into(),
            conf: None,
            connect_timeout: Duration::from_secs(60),
            op_timeout: Duration::from_secs(30),
            threads: 24,
            concurrent_flattens: 3,
            idle: Duration::from_secs(2),
        }
    }
}

impl CephOptions {
    /// The longest that a connect may take.
    fn connect_limit(&self) -> Duration {
        self.connect_timeout + Duration::from_secs(10)
    }

    /// The longest that a call of a few requests may take: librados' own limit comes first.
    fn call_limit(&self) -> Duration {
        self.op_timeout * 3 + Duration::from_secs(5)
    }

    fn client_options(&self) -> Vec<(&'static str, String)> {
        let op_timeout = self.op_timeout.as_secs().max(1).to_string();
        let connect_timeout = self.connect_timeout.as_secs().max(1).to_string();
        vec![
            // Written data is on the cluster: nothing is lost with the process, and a request
            // that ended too late is not one of a cache.
            ("rbd_cache", "false".to_owned()),
            ("rados_osd_op_timeout", op_timeout.clone()),
            ("rados_mon_op_timeout", op_timeout),
            ("client_mount_timeout", connect_timeout),
        ]
    }
}
