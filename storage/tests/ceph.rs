//! The engine `ceph` on a real cluster: the conformance suite, what other clients do, hangs.
//!
//! The cluster is given by `BASALT_TEST_CEPH_CONF`; `tests/ceph` starts one and runs these. Its
//! pools `volumes` and `images` must be empty. Without it, these tests are left out.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use storage::ceph::{CephOptions, CephStore};
use storage::conformance::{self, Effort, Engine, Limits};
use storage::{Error, ImageStore};

fn options() -> CephOptions {
    let conf = std::env::var("BASALT_TEST_CEPH_CONF").unwrap();
    CephOptions {
        conf: Some(PathBuf::from(conf)),
        op_timeout: Duration::from_secs(20),
        ..Default::default()
    }
}

struct Cluster(CephOptions);

#[async_trait]
impl Engine for Cluster {
    async fn open(&self) -> Result<Arc<dyn ImageStore>, Error> {
        Ok(Arc::new(CephStore::connect(self.0.clone()).await?))
    }

    fn limits(&self) -> Limits {
        Limits {
            // 262,144 objects: each of them is asked when there is no object map.
            image_bytes: 1 << 40,
            counts_at_once: false,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Ceph cluster: tests/ceph"]
async fn conforms() {
    let seed = std::env::var("BASALT_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let steps = std::env::var("BASALT_TEST_STEPS").map_or(200, |steps| steps.parse().unwrap());
    let cluster = Cluster(options());
    conformance::run(&cluster, Effort { seed, steps })
        .await
        .unwrap();
}
