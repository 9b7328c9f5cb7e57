//! What Nova does with volumes, call by call and in its order; and the compute service that the
//! block storage service asks back.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use rest::Secret;
use rest::http_client::Tls;
use rest::identity::{IdentityError, TokenSource};
use serde_json::{Value, json};
use uuid::Uuid;
use volume_service::Options;
use volume_service::compute::{Client, Compute};

use crate::world::{ADMIN, Answer, MEMBER, POOL, SERVICE, World};

struct Token;

#[async_trait]
impl TokenSource for Token {
    async fn token(&self) -> Result<Secret, IdentityError> {
        Ok(Secret::new("service"))
    }
}

/// A server that is not there.
const ELSEWHERE: &str = "00000000-0000-0000-0000-00000000dead";

/// Which server has which volume through which attachment, as Nova would say.
#[derive(Clone, Default)]
struct FakeNova(Arc<Mutex<Vec<(String, String, String)>>>);

impl FakeNova {
    async fn serve(&self) -> Compute {
        type Ids = Path<(String, String)>;
        async fn show(
            State(nova): State<FakeNova>,
            Path((server, volume)): Ids,
        ) -> (StatusCode, Json<Value>) {
            let known = nova.0.lock().unwrap();
            let found = known.iter().find(|one| one.0 == server && one.1 == volume);
            match found {
                Some((_, _, attachment)) => {
                    let shown = json!({"volumeAttachment": {"attachment_id": attachment, "volumeId": volume}});
                    (StatusCode::OK, Json(shown))
                }
                None => (
                    StatusCode::NOT_FOUND,
                    Json(json!({"itemNotFound": {"code": 404}})),
                ),
            }
        }
        async fn server(Path(server): Path<String>) -> (StatusCode, Json<Value>) {
            match server.as_str() {
                ELSEWHERE => (
                    StatusCode::NOT_FOUND,
                    Json(json!({"itemNotFound": {"code": 404}})),
                ),
                server => {
                    let shown =
                        json!({"server": {"id": server, "OS-EXT-SRV-ATTR:host": "compute-1"}});
                    (StatusCode::OK, Json(shown))
                }
            }
        }
        async fn event() -> Json<Value> {
            Json(json!({"events": []}))
        }
        let router = Router::new()
            .route(
                "/v2.1/servers/{server}/os-volume_attachments/{volume}",
                get(show),
            )
            .route("/v2.1/servers/{server}", get(server))
            .route("/v2.1/os-server-external-events", post(event))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v2.1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Compute::At(Client::new(&url, &Tls::default(), Arc::new(Token)).unwrap())
    }

    fn has(&self, server: &str, volume: &str, attachment: &str) {
        let entry = (server.to_owned(), volume.to_owned(), attachment.to_owned());
        self.0.lock().unwrap().push(entry);
    }
}

/// A world with a Nova, and a server of it.
pub struct Cloud {
    pub world: World,
    nova: FakeNova,
    pub server: String,
}

impl Cloud {
    async fn new() -> Self {
        let nova = FakeNova::default();
        let world = World::beside(nova.serve().await, Options::default()).await;
        Cloud {
            world,
            nova,
            server: Uuid::new_v4().to_string(),
        }
    }

    async fn reserve(&self, volume: &str, server: &str) -> String {
        let body = json!({"attachment": {"volume_uuid": volume, "instance_uuid": server}});
        let body = self
            .world
            .post(MEMBER, "/attachments", body)
            .version(44)
            .send()
            .await
            .expect(200);
        assert_eq!(body["attachment"]["status"], "reserved");
        assert_eq!(body["attachment"]["connection_info"], json!({}));
        body["attachment"]["id"].as_str().unwrap().to_owned()
    }

    async fn connect(&self, attachment: &str, host: &str) -> Answer {
        let connector = json!({
            "host": host, "mountpoint": "/dev/vdb", "platform": "x86_64", "os_type": "linux",
            "ip": "10.0.0.5", "multipath": false, "initiator": "iqn.1993-08.org.debian:01:c",
        });
        let body = json!({"attachment": {"connector": connector}});
        let path = format!("/attachments/{attachment}");
        self.world.put(MEMBER, &path, body).version(44).send().await
    }

    async fn complete(&self, attachment: &str) {
        let path = format!("/attachments/{attachment}/action");
        let body = json!({"os-complete": attachment});
        self.world
            .post(MEMBER, &path, body)
            .version(44)
            .send()
            .await
            .expect(204);
    }

    async fn delete(&self, attachment: &str) -> Value {
        let path = format!("/attachments/{attachment}");
        let call = self.world.delete(MEMBER, &path).version(44);
        call.header("x-service-token", SERVICE)
            .send()
            .await
            .expect(200)
    }

    async fn volume(&self, id: &str) -> Value {
        let body = self
            .world
            .get(ADMIN, &format!("/volumes/{id}"))
            .send()
            .await
            .expect(200);
        body["volume"].clone()
    }

    /// Reserve, connect, complete.
    async fn attach(&self, volume: &str, server: &str, host: &str) -> String {
        let id = self.reserve(volume, server).await;
        self.connect(&id, host).await.expect(200);
        self.complete(&id).await;
        self.nova.has(server, volume, &id);
        id
    }
}

#[tokio::test]
async fn a_server_attaches_and_detaches_a_volume() {
    let cloud = Cloud::new().await;
    let volume = cloud.world.volume(1).await;
    let id = cloud.reserve(&volume, &cloud.server).await;
    assert_eq!(cloud.volume(&volume).await["status"], "reserved");
    let body = cloud.connect(&id, "compute-1").await.expect(200);
    let info = &body["attachment"]["connection_info"];
    assert_eq!(info["driver_volume_type"], "nbd");
    assert_eq!(info["attachment_id"], id);
    assert_eq!(
        (&info["access_mode"], &info["encrypted"]),
        (&json!("rw"), &json!(false))
    );
    assert_eq!(info["enforce_multipath"], false);
    let export = info["name"].as_str().unwrap();
    let start = format!("volume-{volume}.");
    assert!(
        export.starts_with(&start) && export.len() == start.len() + 64,
        "{export}"
    );
    assert_eq!(
        info["uri"],
        format!("nbd+unix:///{export}?socket=/run/nbd.sock")
    );
    assert_eq!(body["attachment"]["attach_mode"], "rw");
    let shown = cloud.volume(&volume).await;
    assert_eq!(
        (&shown["status"], &shown["attachments"]),
        (&json!("attaching"), &json!([]))
    );
    cloud.complete(&id).await;
    cloud.nova.has(&cloud.server, &volume, &id);
    let shown = cloud.volume(&volume).await;
    assert_eq!(shown["status"], "in-use");
    let attached = &shown["attachments"][0];
    assert_eq!(attached["id"], volume);
    assert_eq!(attached["attachment_id"], id);
    assert_eq!(attached["server_id"], cloud.server);
    assert_eq!(
        (&attached["device"], &attached["host_name"]),
        (&json!("/dev/vdb"), &json!("compute-1"))
    );
    assert!(attached["attached_at"].is_string());

    let action = format!("/volumes/{volume}/action");
    let begin = json!({"os-begin_detaching": null});
    cloud
        .world
        .post(MEMBER, &action, begin.clone())
        .send()
        .await
        .expect(202);
    assert_eq!(cloud.volume(&volume).await["status"], "detaching");
    cloud
        .world
        .post(MEMBER, &action, json!({"os-roll_detaching": null}))
        .send()
        .await
        .expect(202);
    assert_eq!(cloud.volume(&volume).await["status"], "in-use");
    cloud
        .world
        .post(MEMBER, &action, begin)
        .send()
        .await
        .expect(202);
    assert_eq!(cloud.delete(&id).await, json!({"attachments": []}));
    let shown = cloud.volume(&volume).await;
    assert_eq!(
        (&shown["status"], &shown["attachments"]),
        (&json!("available"), &json!([]))
    );
    cloud
        .world
        .get(MEMBER, &format!("/attachments/{id}"))
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn users_cannot_take_a_volume_from_a_server_behind_novas_back() {
    let cloud = Cloud::new().await;
    let volume = cloud.world.volume(1).await;
    let id = cloud.attach(&volume, &cloud.server, "compute-1").await;
    let path = format!("/attachments/{id}");
    let action = format!("/volumes/{volume}/action");
    for token in [MEMBER, ADMIN] {
        let text = cloud
            .world
            .delete(token, &path)
            .send()
            .await
            .fault(409, "conflictingRequest");
        assert_eq!(
            text,
            format!(
                "Detach volume from instance {} using the Compute API",
                cloud.server
            )
        );
    }
    for body in [
        json!({"os-detach": {"attachment_id": id}}),
        json!({"os-detach": {}}),
        json!({"os-terminate_connection": {"connector": {"host": "compute-1"}}}),
        json!({"os-force_detach": {"attachment_id": id, "connector": null}}),
    ] {
        cloud
            .world
            .post(ADMIN, &action, body)
            .send()
            .await
            .fault(409, "conflictingRequest");
    }
    // A service token that is none is refused as such.
    let call = cloud
        .world
        .delete(MEMBER, &path)
        .header("x-service-token", MEMBER);
    call.send().await.expect(401);
    assert_eq!(cloud.volume(&volume).await["status"], "in-use");

    // Once the server has another attachment, or none, or is gone, anybody may clean up.
    cloud.nova.0.lock().unwrap().clear();
    cloud
        .nova
        .has(&cloud.server, &volume, &Uuid::new_v4().to_string());
    cloud.world.delete(MEMBER, &path).send().await.expect(200);
    let id = cloud.attach(&volume, &cloud.server, "compute-1").await;
    cloud.nova.0.lock().unwrap().clear();
    cloud
        .world
        .delete(MEMBER, &format!("/attachments/{id}"))
        .send()
        .await
        .expect(200);
    assert_eq!(cloud.volume(&volume).await["status"], "available");
}

#[tokio::test]
async fn a_compute_service_that_is_away_or_unknown_refuses() {
    let world = World::beside(Compute::Unknown, Options::default()).await;
    let away = Client::new("http://127.0.0.1:1/v2.1", &Tls::default(), Arc::new(Token)).unwrap();
    let away = World::beside(Compute::At(away), Options::default()).await;
    for (world, code, key) in [
        (world, 409, "conflictingRequest"),
        (away, 503, "serviceUnavailable"),
    ] {
        let volume = world.volume(1).await;
        let body = json!({"attachment": {
            "volume_uuid": volume, "instance_uuid": Uuid::new_v4(), "connector": {"host": "h"},
        }});
        let body = world
            .post(MEMBER, "/attachments", body)
            .send()
            .await
            .expect(200);
        let path = format!(
            "/attachments/{}",
            body["attachment"]["id"].as_str().unwrap()
        );
        world.delete(MEMBER, &path).send().await.fault(code, key);
        let call = world
            .delete(MEMBER, &path)
            .header("x-service-token", SERVICE);
        call.send().await.expect(200);
    }
}

#[tokio::test]
async fn a_server_boots_from_a_volume_that_is_still_downloading() {
    let cloud = Cloud::new().await;
    let volume = cloud.world.volume(1).await;
    cloud.world.set("volumes", &volume, "downloading").await;
    let id = cloud.reserve(&volume, &cloud.server).await;
    assert_eq!(cloud.volume(&volume).await["status"], "reserved");
    cloud
        .connect(&id, "compute-1")
        .await
        .fault(409, "conflictingRequest");
    // What the flow does when the image has arrived.
    let sql = "UPDATE volumes SET previous_status = NULL WHERE id = ?";
    let values = database::params![&volume];
    cloud
        .world
        .service
        .database
        .execute(sql, values)
        .await
        .unwrap();
    cloud.connect(&id, "compute-1").await.expect(200);
    cloud.complete(&id).await;
    assert_eq!(cloud.volume(&volume).await["status"], "in-use");
    // The server goes with its disk.
    cloud.delete(&id).await;
    cloud
        .world
        .delete(MEMBER, &format!("/volumes/{volume}"))
        .send()
        .await
        .expect(202);
}

async fn multiattach_volume(world: &World) -> String {
    let body =
        json!({"volume_type": {"name": "shared", "extra_specs": {"multiattach": "<is> True"}}});
    world.post(ADMIN, "/types", body).send().await.expect(200);
    world
        .volume_with(json!({"size": 1, "volume_type": "shared"}))
        .await
}

#[tokio::test]
async fn two_servers_share_a_multiattach_volume() {
    let cloud = Cloud::new().await;
    let volume = multiattach_volume(&cloud.world).await;
    let other = Uuid::new_v4().to_string();
    let first = cloud.attach(&volume, &cloud.server, "compute-1").await;
    let second = cloud.reserve(&volume, &other).await;
    assert_eq!(cloud.volume(&volume).await["status"], "reserved");
    cloud.connect(&second, "compute-2").await.expect(200);
    let force = format!("/volumes/{volume}?force=true");
    let text = cloud.world.delete(ADMIN, &force).send().await;
    text.fault(400, "badRequest");
    cloud.complete(&second).await;
    cloud.nova.has(&other, &volume, &second);
    let shown = cloud.volume(&volume).await;
    assert_eq!(shown["status"], "in-use");
    assert_eq!(shown["attachments"].as_array().unwrap().len(), 2);
    let left = cloud.delete(&first).await;
    assert_eq!(left["attachments"][0]["id"], second);
    assert_eq!(cloud.volume(&volume).await["status"], "in-use");
    cloud.delete(&second).await;
    assert_eq!(cloud.volume(&volume).await["status"], "available");
}

#[tokio::test]
async fn a_plain_volume_is_for_one_server() {
    let cloud = Cloud::new().await;
    let volume = cloud.world.volume(1).await;
    let id = cloud.attach(&volume, &cloud.server, "compute-1").await;
    let body = json!({"attachment": {"volume_uuid": volume, "instance_uuid": Uuid::new_v4()}});
    let text = cloud
        .world
        .post(MEMBER, "/attachments", body)
        .send()
        .await
        .fault(400, "badRequest");
    assert!(
        text.contains("status must be available or downloading to reserve"),
        "{text}"
    );
    for refused in [
        json!({"os-reserve": null}),
        json!({"os-extend": {"new_size": 1}}),
    ] {
        let path = format!("/volumes/{volume}/action");
        cloud
            .world
            .post(MEMBER, &path, refused)
            .send()
            .await
            .fault(400, "badRequest");
    }
    let path = format!("/volumes/{volume}");
    cloud
        .world
        .delete(MEMBER, &path)
        .send()
        .await
        .fault(400, "badRequest");
    let force = format!("{path}?force=true");
    cloud
        .world
        .delete(ADMIN, &force)
        .send()
        .await
        .fault(400, "badRequest");
    // A snapshot of it needs `force`, before 3.66.
    let snapshot = |force| json!({"snapshot": {"volume_id": volume, "force": force}});
    let call = cloud
        .world
        .post(MEMBER, "/snapshots", snapshot(false))
        .version(65);
    call.send().await.fault(400, "badRequest");
    let call = cloud
        .world
        .post(MEMBER, "/snapshots", snapshot(true))
        .version(65);
    call.send().await.expect(202);
    cloud.delete(&id).await;
}

#[tokio::test]
async fn a_server_moves_to_another_host() {
    let cloud = Cloud::new().await;
    let volume = cloud.world.volume(1).await;
    let old = cloud.attach(&volume, &cloud.server, "compute-1").await;
    let third = cloud.reserve(&volume, &cloud.server).await;
    // The destination: a second attachment of the same server, with its connector at once.
    let body = json!({"attachment": {
        "volume_uuid": volume, "instance_uuid": cloud.server,
        "connector": {"host": "compute-2", "mountpoint": "/dev/vdb"},
    }});
    let body = cloud
        .world
        .post(MEMBER, "/attachments", body)
        .version(44)
        .send()
        .await
        .expect(200);
    let new = body["attachment"]["id"].as_str().unwrap().to_owned();
    let export = |body: &Value| body["attachment"]["connection_info"]["name"].clone();
    let shown = cloud
        .world
        .get(MEMBER, &format!("/attachments/{old}"))
        .send()
        .await
        .expect(200);
    assert_ne!(
        export(&shown),
        export(&body),
        "each host has its own secret"
    );
    // A third host is one too many.
    let text = cloud
        .connect(&third, "compute-3")
        .await
        .fault(409, "conflictingRequest");
    assert!(text.starts_with("duplicate connectors detected"), "{text}");
    cloud.delete(&third).await;
    // Rolled back once, then done.
    cloud.delete(&new).await;
    assert_eq!(cloud.volume(&volume).await["status"], "in-use");
    let body = json!({"attachment": {
        "volume_uuid": volume, "instance_uuid": cloud.server, "connector": {"host": "compute-2"},
    }});
    let body = cloud
        .world
        .post(MEMBER, "/attachments", body)
        .version(44)
        .send()
        .await
        .expect(200);
    let new = body["attachment"]["id"].as_str().unwrap().to_owned();
    cloud.complete(&new).await;
    cloud.delete(&old).await;
    let shown = cloud.volume(&volume).await;
    assert_eq!(shown["status"], "in-use");
    assert_eq!(shown["attachments"][0]["host_name"], "compute-2");
    cloud.delete(&new).await;
    assert_eq!(cloud.volume(&volume).await["status"], "available");
}

#[tokio::test]
async fn a_shelved_server_keeps_a_reservation() {
    let cloud = Cloud::new().await;
    let volume = cloud.world.volume(1).await;
    let old = cloud.attach(&volume, &cloud.server, "compute-1").await;
    let new = cloud.reserve(&volume, &cloud.server).await;
    cloud.delete(&old).await;
    assert_eq!(cloud.volume(&volume).await["status"], "reserved");
    // Without a connection anybody may give it back.
    cloud
        .world
        .delete(MEMBER, &format!("/attachments/{new}"))
        .send()
        .await
        .expect(200);
    assert_eq!(cloud.volume(&volume).await["status"], "available");
}

#[tokio::test]
async fn a_volume_is_made_where_its_server_runs() {
    let filter = "InstanceLocalityFilter".to_owned();
    let local = Options {
        scheduler_default_filters: vec![filter],
        ..Options::default()
    };
    let nova = FakeNova::default().serve().await;
    let away = Client::new("http://127.0.0.1:1/v2.1", &Tls::default(), Arc::new(Token)).unwrap();
    let server = Uuid::new_v4().to_string();
    for (compute, options, server, pool) in [
        (
            nova.clone(),
            local.clone(),
            &*server,
            Some("compute-1@store#volumes"),
        ),
        (nova.clone(), local.clone(), ELSEWHERE, None),
        (nova.clone(), Options::default(), ELSEWHERE, Some(POOL)),
        (Compute::At(away), local.clone(), &*server, None),
        (Compute::Absent, local.clone(), &*server, None),
    ] {
        let world = World::beside(compute, options).await;
        world.report("compute-1@store#volumes", 5.0).await;
        let hints = json!({"local_to_instance": server});
        let body = json!({"volume": {"size": 1}, "OS-SCH-HNT:scheduler_hints": hints});
        let made = world.post(MEMBER, "/volumes", body).send().await;
        let id = made.expect(202)["volume"]["id"].clone();
        let bell = Arc::new(tokio::sync::Notify::new());
        let scheduler = volume_service::scheduler::Scheduler::new(world.service.clone(), bell);
        assert_eq!(scheduler.schedule_waiting().await.unwrap(), 1);
        let path = format!("/volumes/{}", id.as_str().unwrap());
        let shown = world.get(ADMIN, &path).send().await.expect(200);
        assert_eq!(shown["volume"]["os-vol-host-attr:host"], json!(pool));
        let status = if pool.is_some() { "creating" } else { "error" };
        assert_eq!(shown["volume"]["status"], status);
    }
}
