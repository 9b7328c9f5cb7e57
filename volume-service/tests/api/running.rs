//! A world in which flows run: scheduler, manager and worker beside the router, on two back-ends
//! in memory.

use std::sync::Arc;
use std::time::Duration;

use database::params;
use storage::memory::MemoryStore;
use storage::{ImageSpec, ImageStore};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use volume_service::Options;
use volume_service::compute::Compute;
use volume_service::manager::{Backend, BackupTarget, Duties, Manager};
use volume_service::scheduler::Scheduler;

use crate::world::World;

pub const FIRST: &str = "host@store#volumes";
pub const SECOND: &str = "host@second#volumes";

pub struct Running {
    pub world: World,
    pub stores: [Arc<dyn ImageStore>; 2],
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    pub async fn new(options: Options) -> Self {
        Self::beside(Compute::Absent, options).await
    }

    /// In a cloud with this compute service.
    pub async fn beside(compute: Compute, options: Options) -> Self {
        let options = Options {
            host: "host".to_owned(),
            ..options
        };
        let world = World::beside(compute, options).await;
        let stores: [Arc<dyn ImageStore>; 2] =
            [Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new())];
        let backend = |name: &str, store: &Arc<dyn ImageStore>| {
            (
                name.to_owned(),
                Backend::new(name, store.clone(), "volumes"),
            )
        };
        let manager = Arc::new(Manager {
            duties: Duties::ALL,
            database: world.service.database.clone(),
            host: "host".to_owned(),
            cluster: None,
            availability_zone: "nova".to_owned(),
            options: world.service.options.clone(),
            backends: [backend("store", &stores[0]), backend("second", &stores[1])].into(),
            backups: BackupTarget {
                store: stores[0].clone(),
                pool: "backups".to_owned(),
                max_snapshots: 0,
            },
            images: world.service.images.clone(),
            compute: world.service.compute.clone(),
            notices: world.service.notices.clone(),
            keys: world.service.keys.clone(),
        });
        manager.prepare().await.unwrap();
        manager.report().await.unwrap();
        let stop = CancellationToken::new();
        let scheduler_bell = Arc::new(Notify::new());
        let worker_bell = taskflow::Doorbell::new();
        let scheduler = Scheduler::new(world.service.clone(), scheduler_bell.clone());
        let worker = manager.worker(8, worker_bell.clone()).build();
        world.rings.listen(move || {
            scheduler_bell.notify_one();
            worker_bell.wake();
        });
        let stopped = || stop.clone().cancelled_owned();
        let report = {
            let (manager, stopped) = (manager.clone(), stopped());
            async move { manager.report_until(stopped).await }
        };
        let tasks = vec![
            tokio::spawn(scheduler.run(stopped())),
            tokio::spawn(worker.run(stopped())),
            tokio::spawn(report),
        ];
        Running {
            world,
            stores,
            stop,
            tasks,
        }
    }

    /// Waits until every flow has ended.
    pub async fn settle(&self) {
        let sql =
            "SELECT COUNT(*) AS n FROM flows WHERE state IN ('PENDING', 'RUNNING', 'REVERTING')";
        loop {
            let row = self.world.service.database.fetch_one(sql, params![]);
            if row.await.unwrap().get::<i64>("n").unwrap() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Names of the images of both stores' pools of volumes, with their sizes in GiB.
    pub async fn images(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        for store in &self.stores {
            for name in store.images("volumes").await.unwrap() {
                let info = store.info(&ImageSpec::new("volumes", &name)).await.unwrap();
                found.push((name, info.size_bytes >> 30));
            }
        }
        found.sort();
        found
    }

    pub async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}
