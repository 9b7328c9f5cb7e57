//! Many clients at once on the same volumes: what was answered with success has happened, what
//! was refused has not, nothing is stuck, and nothing answers with 5xx.
//!
//! A run is made by its seed, as far as the clients' choices go. `CONCURRENCY_CLIENTS`,
//! `CONCURRENCY_ACTIONS` (of each client) and `CONCURRENCY_SEED` ask for a longer or another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use serde_json::{Value, json};
use volume_service::Options;

use crate::random::{Random, setting};
use crate::running::{FIRST, Running, SECOND};
use crate::world::{ADMIN, Answer, MEMBER, PROJECT, READER, STRANGER};

/// Volumes that are there before the clients begin.
const SHARED_VOLUMES: usize = 24;

/// What must be so at the end, from the answers.
#[derive(Default)]
struct Model {
    volumes: BTreeMap<String, Volume>,
    snapshots: BTreeMap<String, String>,
    deleted_snapshots: BTreeSet<String>,
}

#[derive(Default)]
struct Volume {
    size: u64,
    deleted: bool,
    /// By client: the value that was last written to the client's own key.
    metadata: BTreeMap<String, String>,
    /// Every name that a request has set.
    names: BTreeSet<String>,
}

struct Client<'a> {
    running: &'a Running,
    model: &'a Mutex<Model>,
    random: Random,
    name: String,
    /// Values written so far.
    written: u64,
}

fn options() -> Options {
    Options {
        quota_volumes: -1,
        quota_snapshots: -1,
        quota_gigabytes: -1,
        ..Options::default()
    }
}

#[track_caller]
fn check(answer: Answer, allowed: &[u16]) -> Option<Value> {
    let status = answer.status.as_u16();
    assert!(allowed.contains(&status), "{status}: {}", answer.body);
    (status < 300).then_some(answer.body)
}

impl Client<'_> {
    async fn act(&mut self) {
        match self.random.below(12) {
            0 => self.create().await,
            1 => self.delete().await,
            2 | 3 => self.extend().await,
            4 | 5 => self.write_metadata().await,
            6 => self.rename().await,
            7 => self.snapshot().await,
            8 => self.delete_snapshot().await,
            9 => self.migrate().await,
            10 => self.retype().await,
            _ => self.forbidden().await,
        }
    }

    fn model(&self) -> std::sync::MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    /// A volume that may or may not be there still.
    fn any_volume(&mut self) -> String {
        let ids: Vec<String> = self.model().volumes.keys().cloned().collect();
        self.random.pick(&ids).clone()
    }

    async fn action(&self, id: &str, body: Value, allowed: &[u16]) -> Option<Value> {
        let path = format!("/volumes/{id}/action");
        check(
            self.running.world.post(ADMIN, &path, body).send().await,
            allowed,
        )
    }

    async fn create(&mut self) {
        let size = 1 + self.random.below(3) as u64;
        let mut volume = json!({"size": size});
        if self.random.one_in(3) {
            volume = json!({"source_volid": self.any_volume()});
        }
        let body = json!({"volume": volume});
        let answer = self
            .running
            .world
            .post(MEMBER, "/volumes", body)
            .send()
            .await;
        if let Some(body) = check(answer, &[202, 400, 404]) {
            let made = Volume {
                size: body["volume"]["size"].as_u64().unwrap(),
                ..Volume::default()
            };
            let id = body["volume"]["id"].as_str().unwrap().to_owned();
            self.model().volumes.insert(id, made);
        }
    }

    async fn delete(&mut self) {
        // Most volumes stay, so that there is something to act on.
        if !self.random.one_in(3) {
            return;
        }
        let id = self.any_volume();
        let answer = self.running.world.delete(MEMBER, &format!("/volumes/{id}"));
        if check(answer.send().await, &[202, 400, 404]).is_some() {
            self.model().volumes.get_mut(&id).unwrap().deleted = true;
        }
    }

    async fn extend(&mut self) {
        let id = self.any_volume();
        let more = self.random.below(3) as u64;
        let size = self.model().volumes[&id].size + more;
        let body = json!({"os-extend": {"new_size": size.max(1)}});
        if self.action(&id, body, &[202, 400, 404]).await.is_some() {
            let mut model = self.model();
            let volume = model.volumes.get_mut(&id).unwrap();
            // Answers may be seen in another order than they were given.
            volume.size = volume.size.max(size);
        }
    }

    async fn write_metadata(&mut self) {
        let id = self.any_volume();
        self.written += 1;
        let value = self.written.to_string();
        let mut entry = serde_json::Map::new();
        entry.insert(self.name.clone(), value.clone().into());
        let body = json!({"metadata": entry});
        let path = format!("/volumes/{id}/metadata");
        let answer = self.running.world.post(MEMBER, &path, body).send().await;
        if check(answer, &[200, 400, 404]).is_some() {
            let name = self.name.clone();
            let mut model = self.model();
            let volume = model.volumes.get_mut(&id).unwrap();
            volume.metadata.insert(name, value);
        }
    }

    async fn rename(&mut self) {
        let id = self.any_volume();
        self.written += 1;
        let name = format!("{}-{}", self.name, self.written);
        let body = json!({"volume": {"name": name}});
        let path = format!("/volumes/{id}");
        let answer = self.running.world.put(MEMBER, &path, body).send().await;
        if check(answer, &[200, 400, 404]).is_some() {
            let mut model = self.model();
            model.volumes.get_mut(&id).unwrap().names.insert(name);
        }
    }

    async fn snapshot(&mut self) {
        let volume_id = self.any_volume();
        let body = json!({"snapshot": {"volume_id": volume_id}});
        let answer = self
            .running
            .world
            .post(MEMBER, "/snapshots", body)
            .send()
            .await;
        if let Some(body) = check(answer, &[202, 400, 404]) {
            let id = body["snapshot"]["id"].as_str().unwrap().to_owned();
            self.model().snapshots.insert(id, volume_id);
        }
    }

    async fn delete_snapshot(&mut self) {
        let ids: Vec<String> = self.model().snapshots.keys().cloned().collect();
        if ids.is_empty() {
            return;
        }
        let id = self.random.pick(&ids).clone();
        let answer = self
            .running
            .world
            .delete(MEMBER, &format!("/snapshots/{id}"));
        if check(answer.send().await, &[202, 400, 404]).is_some() {
            self.model().deleted_snapshots.insert(id);
        }
    }

    async fn migrate(&mut self) {
        let id = self.any_volume();
        let host = self
            .random
            .pick(&[FIRST, SECOND, "host@second", "host@gone#volumes"]);
        let lock = self.random.one_in(2);
        let body = json!({"os-migrate_volume": {"host": host, "lock_volume": lock}});
        self.action(&id, body, &[202, 400, 404]).await;
    }

    async fn retype(&mut self) {
        let id = self.any_volume();
        let new_type = self
            .random
            .pick(&["first", "second", "anywhere", "nowhere"]);
        let policy = self.random.pick(&["never", "on-demand"]);
        let body = json!({"os-retype": {"new_type": new_type, "migration_policy": policy}});
        self.action(&id, body, &[202, 400, 404]).await;
    }

    /// What must never be allowed, whatever state the volume is in.
    async fn forbidden(&mut self) {
        let id = self.any_volume();
        let path = format!("/volumes/{id}");
        let world = &self.running.world;
        match self.random.below(5) {
            0 => check(world.delete(READER, &path).send().await, &[403, 404]),
            1 => check(world.get(STRANGER, &path).send().await, &[404]),
            2 => {
                let body = json!({"os-reset_status": {"status": "available"}});
                let path = format!("{path}/action");
                check(world.post(MEMBER, &path, body).send().await, &[403, 404])
            }
            3 => {
                self.action(&id, json!({"os-extend": {"new_size": 0}}), &[400])
                    .await
            }
            _ => {
                let body = json!({"metadata": {"k".repeat(300): "v"}});
                let path = format!("{path}/metadata");
                check(world.put(MEMBER, &path, body).send().await, &[400, 404])
            }
        };
    }
}

async fn make_types(running: &Running) {
    for (name, backend) in [("first", "store"), ("second", "second"), ("anywhere", "")] {
        let mut volume_type = json!({"name": name});
        if !backend.is_empty() {
            volume_type["extra_specs"] = json!({"volume_backend_name": backend});
        }
        let body = json!({"volume_type": volume_type});
        let made = running.world.post(ADMIN, "/types", body).send().await;
        made.expect(200);
    }
}

async fn make_volumes(running: &Running, model: &Mutex<Model>) {
    for _ in 0..SHARED_VOLUMES {
        let body = json!({"volume": {"size": 1}});
        let made = running.world.post(MEMBER, "/volumes", body).send().await;
        let id = made.expect(202)["volume"]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let volume = Volume {
            size: 1,
            ..Volume::default()
        };
        model.lock().unwrap().volumes.insert(id, volume);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_answered_is_what_is_there() {
    let clients = setting("CONCURRENCY_CLIENTS", 200);
    let actions = setting("CONCURRENCY_ACTIONS", 6);
    let seed = setting("CONCURRENCY_SEED", 7);
    eprintln!("CONCURRENCY_SEED={seed}");
    let running = Running::new(options()).await;
    let model = Arc::new(Mutex::new(Model::default()));
    make_types(&running).await;
    make_volumes(&running, &model).await;
    let acting = (0..clients).map(|number| {
        let mut client = Client {
            running: &running,
            model: &model,
            random: Random::new(seed.wrapping_mul(1_000_003).wrapping_add(number)),
            name: format!("client-{number}"),
            written: 0,
        };
        async move {
            for _ in 0..actions {
                client.act().await;
            }
        }
    });
    join_all(acting).await;
    running.settle().await;
    let model = std::mem::take(&mut *model.lock().unwrap());
    assert_state(&running, &model).await;
    running.stop().await;
}

/// Rows, quota and stores are what the model says.
async fn assert_state(running: &Running, model: &Model) {
    let world = &running.world;
    let mut expected_images = Vec::new();
    for (id, volume) in &model.volumes {
        let found = world.get(ADMIN, &format!("/volumes/{id}")).send().await;
        if volume.deleted {
            found.fault(404, "itemNotFound");
            continue;
        }
        let found = found.expect(200)["volume"].clone();
        let state = found["status"].as_str().unwrap();
        assert_eq!(state, "available", "{found}");
        assert_eq!(found["size"], volume.size, "{found}");
        for (key, value) in &volume.metadata {
            assert_eq!(found["metadata"][key], *value, "{id} {key}");
        }
        assert_eq!(
            found["metadata"].as_object().unwrap().len(),
            volume.metadata.len()
        );
        match found["name"].as_str() {
            Some(name) => assert!(volume.names.contains(name), "{name}"),
            None => assert!(volume.names.is_empty()),
        }
        let moved = found["migration_status"].as_str();
        assert!(matches!(moved, None | Some("success" | "error")), "{found}");
        expected_images.push((format!("volume-{id}"), volume.size));
    }
    expected_images.sort();
    assert_eq!(running.images().await, expected_images);
    let mut live_snapshots = 0u64;
    for (id, volume_id) in &model.snapshots {
        let found = world.get(MEMBER, &format!("/snapshots/{id}")).send().await;
        if model.deleted_snapshots.contains(id) {
            found.fault(404, "itemNotFound");
            continue;
        }
        assert!(!model.volumes[volume_id].deleted, "deleted with a snapshot");
        assert_eq!(found.expect(200)["snapshot"]["status"], "available");
        live_snapshots += 1;
    }
    let path = format!("/os-quota-sets/{PROJECT}?usage=true");
    let usage = world.get(ADMIN, &path).send().await.expect(200)["quota_set"].clone();
    assert_eq!(usage["volumes"]["in_use"], expected_images.len());
    assert_eq!(usage["snapshots"]["in_use"], live_snapshots);
    let placements = "SELECT COUNT(*) AS n FROM volume_placements";
    let left = world
        .service
        .database
        .fetch_one(placements, &[])
        .await
        .unwrap();
    assert_eq!(left.get::<i64>("n").unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn quota_is_exact_under_many_clients() {
    const LIMIT: u64 = 10;
    let rounds = setting("CONCURRENCY_ACTIONS", 6);
    let running = Running::new(Options {
        quota_volumes: LIMIT as i64,
        quota_gigabytes: 15,
        ..options()
    })
    .await;
    let world = &running.world;
    let made = Mutex::new((0u64, BTreeMap::new()));
    let clients = (0..64).map(|number| {
        let made = &made;
        let mut random = Random::new(number);
        async move {
            for _ in 0..rounds {
                let size = 1 + random.below(2) as u64;
                let body = json!({"volume": {"size": size}});
                let answer = world.post(MEMBER, "/volumes", body).send().await;
                if let Some(body) = check(answer, &[202, 413]) {
                    let id = body["volume"]["id"].as_str().unwrap().to_owned();
                    made.lock().unwrap().1.insert(id, size);
                }
                let path = format!("/os-quota-sets/{PROJECT}?usage=true");
                let usage = world.get(ADMIN, &path).send().await.expect(200);
                let usage = &usage["quota_set"];
                assert!(
                    usage["volumes"]["in_use"].as_u64().unwrap() <= LIMIT,
                    "{usage}"
                );
                assert!(
                    usage["gigabytes"]["in_use"].as_u64().unwrap() <= 15,
                    "{usage}"
                );
                let id = made.lock().unwrap().1.keys().next().cloned();
                let Some(id) = id else { continue };
                let answer = world.delete(MEMBER, &format!("/volumes/{id}")).send().await;
                if check(answer, &[202, 400, 404]).is_some() {
                    let mut made = made.lock().unwrap();
                    made.0 += 1;
                    made.1.remove(&id);
                }
            }
        }
    });
    join_all(clients).await;
    running.settle().await;
    let (deleted, left) = std::mem::take(&mut *made.lock().unwrap());
    assert!(deleted > 0 || rounds < 2);
    let path = format!("/os-quota-sets/{PROJECT}?usage=true");
    let usage = world.get(ADMIN, &path).send().await.expect(200)["quota_set"].clone();
    assert_eq!(usage["volumes"]["in_use"], left.len());
    assert_eq!(usage["gigabytes"]["in_use"], left.values().sum::<u64>());
    // At the limit exactly: what is missing can still be made, and not one more.
    for _ in left.len() as u64..LIMIT {
        let limits = usage["gigabytes"]["in_use"].as_u64().unwrap();
        if limits + (LIMIT - left.len() as u64) > 15 {
            break;
        }
        let body = json!({"volume": {"size": 1}});
        world
            .post(MEMBER, "/volumes", body)
            .send()
            .await
            .expect(202);
    }
    running.settle().await;
    running.stop().await;
}
