//! Volumes that servers have on their way to other back-ends: the compute service does as Nova
//! does, call by call, while flows run.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::extract::{Path, State};
use axum::routing::put;
use axum::{Json, Router};
use http::StatusCode;
use rest::Secret;
use rest::http_client::Tls;
use rest::identity::{IdentityError, TokenSource};
use serde_json::{Value, json};
use storage::ImageSpec;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;
use volume_service::Options;
use volume_service::compute::{Client, Compute};
use volume_service::connection::Connection;
use volume_service::db::{connections, exports};

use crate::running::{FIRST, Running, SECOND};
use crate::world::{ADMIN, MEMBER, SERVICE};

struct Token;

#[async_trait]
impl TokenSource for Token {
    async fn token(&self) -> Result<Secret, IdentityError> {
        Ok(Secret::new("service"))
    }
}

/// `PUT servers/{id}/os-volume_attachments/{volume}`, waiting for its answer.
struct Asked {
    server: String,
    volume: String,
    new_volume: String,
    answer: oneshot::Sender<StatusCode>,
}

type Asks = mpsc::UnboundedSender<Asked>;

async fn serve(asks: Asks) -> Compute {
    async fn swap(
        State(asks): State<Arc<Mutex<Asks>>>,
        Path((server, volume)): Path<(String, String)>,
        Json(body): Json<Value>,
    ) -> StatusCode {
        let (answer, answered) = oneshot::channel();
        let new_volume = body["volumeAttachment"]["volumeId"].as_str().unwrap();
        let asked = Asked {
            server,
            volume,
            new_volume: new_volume.to_owned(),
            answer,
        };
        asks.lock().unwrap().send(asked).unwrap_or_default();
        answered.await.unwrap()
    }
    let path = "/v2.1/servers/{server}/os-volume_attachments/{volume}";
    let router = Router::new()
        .route(path, put(swap))
        .with_state(Arc::new(Mutex::new(asks)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v2.1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Compute::At(Client::new(&url, &Tls::default(), Arc::new(Token)).unwrap())
}

/// A cloud with a server that has a volume on the first back-end.
struct Cloud {
    running: Running,
    asked: mpsc::UnboundedReceiver<Asked>,
    server: String,
    volume: String,
    attachment: String,
}

impl Cloud {
    async fn new() -> Self {
        let (asks, asked) = mpsc::unbounded_channel();
        let running = Running::beside(serve(asks).await, Options::default()).await;
        let body = json!({"volume": {"size": 1, "name": "data"}});
        let made = running.world.post(MEMBER, "/volumes", body).send().await;
        let volume = made.expect(202)["volume"]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        running.settle().await;
        let connection = Connection::Nbd {
            socket: Some("/run/nbd.sock".into()),
            address: None,
            tls: false,
        };
        let mut tx = running.world.service.database.begin().await.unwrap();
        connections::report(&mut tx, SECOND, &connection)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let sql = "UPDATE volumes SET host = ? WHERE id = ?";
        let values = database::params![FIRST, &volume];
        let database = &running.world.service.database;
        database.execute(sql, values).await.unwrap();
        let image = ImageSpec::new("volumes", format!("volume-{volume}"));
        for store in &running.stores {
            let _ = store.remove(&image).await;
        }
        running.stores[0].create(&image, 1 << 30).await.unwrap();
        let mut cloud = Cloud {
            running,
            asked,
            server: Uuid::new_v4().to_string(),
            volume,
            attachment: String::new(),
        };
        let volume = cloud.volume.clone();
        cloud.attachment = cloud.attach(&volume).await;
        cloud
    }

    async fn reserve(&self, volume: &str) -> String {
        let body = json!({"attachment": {"volume_uuid": volume, "instance_uuid": self.server}});
        let world = &self.running.world;
        let made = world.post(ADMIN, "/attachments", body).send().await;
        made.expect(200)["attachment"]["id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    async fn connect(&self, attachment: &str) {
        let world = &self.running.world;
        let path = format!("/attachments/{attachment}");
        let body =
            json!({"attachment": {"connector": {"host": "compute-1", "mountpoint": "/dev/vdb"}}});
        world.put(ADMIN, &path, body).send().await.expect(200);
        let complete = json!({"os-complete": attachment});
        let path = format!("{path}/action");
        world.post(ADMIN, &path, complete).send().await.expect(204);
    }

    async fn attach(&self, volume: &str) -> String {
        let attachment = self.reserve(volume).await;
        self.connect(&attachment).await;
        attachment
    }

    async fn detach(&self, attachment: &str) {
        let path = format!("/attachments/{attachment}");
        let call = self.running.world.delete(ADMIN, &path);
        let gone = call.header("x-service-token", SERVICE).send().await;
        gone.expect(200);
    }

    async fn act(&self, volume: &str, body: Value) -> crate::world::Answer {
        let path = format!("/volumes/{volume}/action");
        self.running.world.post(ADMIN, &path, body).send().await
    }

    async fn shown(&self, volume: &str) -> Value {
        let path = format!("/volumes/{volume}");
        let shown = self.running.world.get(ADMIN, &path).send().await;
        shown.expect(200)["volume"].clone()
    }

    async fn images(&self) -> Vec<String> {
        let found = self.running.images().await;
        found.into_iter().map(|(name, _)| name).collect()
    }

    async fn next_ask(&mut self) -> Asked {
        let asked = self.asked.recv().await.unwrap();
        assert_eq!((&asked.server, &asked.volume), (&self.server, &self.volume));
        asked
    }

    /// Nova's swap: reserve, answer, connect, give the old attachment back, complete.
    async fn swap(&mut self) -> (String, String) {
        let asked = self.next_ask().await;
        let begin = json!({"os-begin_detaching": null});
        self.act(&self.volume, begin).await.expect(202);
        let attachment = self.reserve(&asked.new_volume).await;
        asked.answer.send(StatusCode::ACCEPTED).unwrap();
        self.running.settle().await;
        self.connect(&attachment).await;
        self.detach(&self.attachment).await;
        let body = json!({"os-migrate_volume_completion": {"new_volume": asked.new_volume, "error": false}});
        let saved = self.act(&self.volume, body).await.expect(200);
        assert_eq!(saved, json!({"save_volume_id": self.volume}));
        (asked.new_volume, attachment)
    }

    /// The volume is on the second back-end, with the attachment that was made for its target.
    async fn assert_moved(&self, target: &str, attachment: &str) {
        let shown = self.shown(&self.volume).await;
        assert_eq!(shown["status"], "in-use");
        assert_eq!(shown["os-vol-host-attr:host"], SECOND);
        assert_eq!(shown["os-vol-mig-status-attr:migstat"], "success");
        assert_eq!(shown["os-vol-mig-status-attr:name_id"], target);
        let attached = shown["attachments"].as_array().unwrap();
        assert_eq!(attached.len(), 1);
        assert_eq!(attached[0]["attachment_id"], attachment);
        assert_eq!(attached[0]["volume_id"], self.volume);
        let path = format!("/attachments/{attachment}");
        let world = &self.running.world;
        let shown = world.get(ADMIN, &path).send().await.expect(200);
        let info = &shown["attachment"]["connection_info"];
        assert_eq!(info["volume_id"], self.volume);
        let name = info["name"].as_str().unwrap();
        let export = exports::find(&world.service.database, name).await;
        assert_eq!(export.unwrap().unwrap().volume_id.to_string(), self.volume);
        assert_eq!(self.images().await, [format!("volume-{target}")]);
        let gone = world.get(ADMIN, &format!("/volumes/{target}")).send().await;
        gone.fault(404, "itemNotFound");
    }
}

#[tokio::test]
async fn a_volume_migrates_while_a_server_has_it() {
    let mut cloud = Cloud::new().await;
    let body = json!({"os-migrate_volume": {"host": "host@second"}});
    cloud.act(&cloud.volume, body).await.expect(202);
    let (target, attachment) = cloud.swap().await;
    cloud.running.settle().await;
    cloud.assert_moved(&target, &attachment).await;
    // What follows finds the image under its name.
    cloud.detach(&attachment).await;
    let path = format!("/volumes/{}", cloud.volume);
    let shown = cloud.shown(&cloud.volume).await;
    assert_eq!(shown["status"], "available");
    let body = json!({"os-migrate_volume": {"host": "host@store"}});
    cloud.act(&cloud.volume, body).await.expect(202);
    cloud.running.settle().await;
    let shown = cloud.shown(&cloud.volume).await;
    assert_eq!(shown["os-vol-host-attr:host"], FIRST);
    assert_eq!(cloud.images().await, [format!("volume-{target}")]);
    let deleted = cloud.running.world.delete(MEMBER, &path).send().await;
    deleted.expect(202);
    cloud.running.settle().await;
    assert!(cloud.images().await.is_empty());
    cloud.running.stop().await;
}

#[tokio::test]
async fn a_volume_is_retyped_while_a_server_has_it() {
    let mut cloud = Cloud::new().await;
    let world = &cloud.running.world;
    let specs = json!({"volume_backend_name": "second"});
    let body = json!({"volume_type": {"name": "there", "extra_specs": specs}});
    let made = world.post(ADMIN, "/types", body).send().await.expect(200);
    let type_id = made["volume_type"]["id"].clone();
    let body = json!({"os-retype": {"new_type": "there", "migration_policy": "on-demand"}});
    cloud.act(&cloud.volume, body).await.expect(202);
    let (target, attachment) = cloud.swap().await;
    cloud.running.settle().await;
    cloud.assert_moved(&target, &attachment).await;
    assert_eq!(cloud.shown(&cloud.volume).await["volume_type_id"], type_id);
    cloud.running.stop().await;
}

#[tokio::test]
async fn while_a_server_swaps_the_volume_it_is_let_alone() {
    let mut cloud = Cloud::new().await;
    let body = json!({"os-migrate_volume": {"host": "host@second"}});
    cloud.act(&cloud.volume, body.clone()).await.expect(202);
    let asked = cloud.next_ask().await;
    let target = asked.new_volume.clone();
    let attachment = cloud.reserve(&target).await;
    asked.answer.send(StatusCode::ACCEPTED).unwrap();
    cloud.running.settle().await;
    let shown = cloud.shown(&cloud.volume).await;
    assert_eq!(
        (&shown["status"], &shown["migration_status"]),
        (&json!("in-use"), &json!("migrating"))
    );
    for refused in [
        body,
        json!({"os-extend": {"new_size": 2}}),
        json!({"os-force_delete": null}),
    ] {
        let answer = cloud.act(&cloud.volume, refused).await;
        answer.fault(400, "badRequest");
    }
    let world = &cloud.running.world;
    let snapshot = json!({"snapshot": {"volume_id": cloud.volume}});
    let answer = world.post(MEMBER, "/snapshots", snapshot).send().await;
    answer.fault(400, "badRequest");
    // Nobody but operators sees the other volume, which counts for nobody.
    let listed = world.get(MEMBER, "/volumes").send().await.expect(200);
    assert_eq!(listed["volumes"].as_array().unwrap().len(), 1);
    let usage = world.get(MEMBER, "/limits").send().await.expect(200);
    assert_eq!(usage["limits"]["absolute"]["totalVolumesUsed"], 1);
    let wrong = json!({"os-migrate_volume_completion": {"new_volume": cloud.volume}});
    cloud.act(&target, wrong).await.fault(400, "badRequest");

    // The server could not: everything is as before.
    cloud.detach(&attachment).await;
    cloud
        .act(&cloud.volume, json!({"os-roll_detaching": null}))
        .await
        .expect(202);
    let body = json!({"os-migrate_volume_completion": {"new_volume": target, "error": true}});
    let saved = cloud.act(&cloud.volume, body).await.expect(200);
    assert_eq!(saved["save_volume_id"], cloud.volume);
    cloud.running.settle().await;
    let shown = cloud.shown(&cloud.volume).await;
    assert_eq!(
        (&shown["status"], &shown["migration_status"]),
        (&json!("in-use"), &json!("error"))
    );
    assert_eq!(shown["os-vol-host-attr:host"], FIRST);
    assert_eq!(shown["attachments"][0]["attachment_id"], cloud.attachment);
    assert_eq!(cloud.images().await, [format!("volume-{}", cloud.volume)]);
    cloud.running.stop().await;
}

#[tokio::test]
async fn a_server_that_will_not_leaves_the_volume() {
    let mut cloud = Cloud::new().await;
    let body = json!({"os-migrate_volume": {"host": "host@second"}});
    cloud.act(&cloud.volume, body).await.expect(202);
    let asked = cloud.next_ask().await;
    asked.answer.send(StatusCode::CONFLICT).unwrap();
    cloud.running.settle().await;
    let shown = cloud.shown(&cloud.volume).await;
    assert_eq!(
        (&shown["status"], &shown["migration_status"]),
        (&json!("in-use"), &json!("error"))
    );
    assert_eq!(cloud.images().await, [format!("volume-{}", cloud.volume)]);
    cloud.running.stop().await;
}
