//! What operators see and do: services, hosts, pools, capabilities, clusters, cleanup, logs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::json;
use volume_service::db::{clusters, services};
use volume_service::logs::{Level, LogLevels};

use crate::world::{ADMIN, MEMBER, POOL, PROJECT, World};

#[tokio::test]
async fn hosts_show_what_projects_have_on_them() {
    let world = World::new().await;
    let volume = world.volume(3).await;
    world.volume(2).await;
    world.snapshot(&volume).await;
    let hosts = world.get(ADMIN, "/os-hosts").send().await.expect(200);
    let names = hosts["hosts"].as_array().unwrap().iter().map(|host| {
        assert_eq!(host["service-status"], "available");
        assert_eq!(host["service-state"], "enabled");
        (
            host["service"].as_str().unwrap(),
            host["host_name"].as_str().unwrap(),
        )
    });
    assert!(
        names
            .collect::<Vec<_>>()
            .contains(&("cinder-volume", "host@store"))
    );
    let host = world
        .get(ADMIN, "/os-hosts/host@store")
        .send()
        .await
        .expect(200);
    let resource = |project: &str| {
        json!({"resource": {"host": "host@store", "project": project, "volume_count": "2",
            "total_volume_gb": "5", "snapshot_count": "1", "total_snapshot_gb": "3"}})
    };
    assert_eq!(
        host,
        json!({"host": [resource("(total)"), resource(PROJECT)]})
    );
    world
        .get(ADMIN, "/os-hosts/host")
        .send()
        .await
        .fault(404, "itemNotFound");
    world
        .get(MEMBER, "/os-hosts")
        .send()
        .await
        .fault(403, "forbidden");
}

#[tokio::test]
async fn services_are_enabled_disabled_frozen_and_thawed() {
    let world = World::new().await;
    let act = async |action: &str, body| {
        let path = format!("/os-services/{action}");
        world.put(ADMIN, &path, body).send().await
    };
    let one = json!({"host": "host@store", "binary": "cinder-volume"});
    let disabled = act("disable", one.clone()).await.expect(200);
    assert_eq!(disabled["status"], "disabled");
    assert!(disabled.get("disabled_reason").is_none());
    let enabled = act("enable", one).await.expect(200);
    assert_eq!(
        (enabled["status"].as_str(), &enabled["disabled_reason"]),
        (Some("enabled"), &json!(null))
    );
    act("freeze", json!({"host": "nobody"}))
        .await
        .fault(400, "badRequest");
    act("thaw", json!({"host": "host@store"}))
        .await
        .fault(400, "badRequest");
    let volume = world.volume(1).await;
    act("freeze", json!({"host": "host@store"}))
        .await
        .expect(200);
    let list = world
        .get(ADMIN, "/os-services?binary=cinder-volume")
        .send()
        .await
        .expect(200);
    let service = &list["services"][0];
    assert_eq!(
        (&service["frozen"], &service["status"]),
        (&json!(true), &json!("disabled"))
    );
    let text = world
        .delete(MEMBER, &format!("/volumes/{volume}"))
        .send()
        .await
        .fault(400, "badRequest");
    assert!(text.contains("frozen"), "{text}");
    act("thaw", json!({"host": "host@store"})).await.expect(200);
    world
        .delete(MEMBER, &format!("/volumes/{volume}"))
        .send()
        .await
        .expect(202);
    let text = act("failover_host", json!({"host": "host@store"}))
        .await
        .fault(400, "badRequest");
    assert!(text.contains("not-capable"), "{text}");
    act("failover", json!({"host": "a", "cluster": "b"}))
        .await
        .fault(400, "badRequest");
    act("nonsense", json!({})).await.fault(404, "itemNotFound");
}

#[tokio::test]
async fn capabilities_are_the_pools_own() {
    let world = World::new().await;
    for host in ["host@store", POOL] {
        let path = format!("/capabilities/{}", host.replace('#', "%23"));
        let shown = world.get(ADMIN, &path).send().await.expect(200);
        assert_eq!(
            shown["namespace"],
            format!("OS::Storage::Capabilities::{host}")
        );
        assert_eq!(shown["volume_backend_name"], "store");
        assert_eq!(shown["properties"]["thin_provisioning"]["type"], "boolean");
    }
    world
        .get(ADMIN, "/capabilities/nobody")
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn pools_can_be_asked_for_by_type() {
    let world = World::new().await;
    let names = async |query: &str| {
        let path = format!("/scheduler-stats/get_pools?{query}");
        let pools = world.get(ADMIN, &path).send().await.expect(200);
        let pools = pools["pools"].as_array().unwrap().clone();
        pools
            .iter()
            .map(|pool| pool["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for (name, backend) in [("here", "store"), ("there", "elsewhere")] {
        let body =
            json!({"volume_type": {"name": name, "extra_specs": {"volume_backend_name": backend}}});
        world.post(ADMIN, "/types", body).send().await.expect(200);
    }
    assert_eq!(names("volume_type=here").await, [POOL]);
    assert_eq!(names("volume_type=there").await, [""; 0]);
    assert_eq!(names("name=nothing").await, [""; 0]);
    world
        .get(ADMIN, "/scheduler-stats/get_pools?volume_type=none")
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn clusters_are_listed_shown_and_disabled() {
    let world = World::new().await;
    let mut tx = world.service.database.begin().await.unwrap();
    clusters::ensure(&mut tx, "c@store", services::VOLUME)
        .await
        .unwrap();
    services::set_cluster(&mut tx, services::VOLUME, "host@store", Some("c@store"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let volume = world.volume(1).await;
    let path = format!("/volumes/{volume}");
    let shown = world.get(ADMIN, &path).send().await.expect(200);
    assert_eq!(shown["volume"]["cluster_name"], "c@store#volumes");
    let shown = world.get(ADMIN, &path).version(60).send().await.expect(200);
    assert!(shown["volume"].get("cluster_name").is_none());
    let list = world.get(ADMIN, "/clusters").send().await.expect(200);
    assert_eq!(
        list["clusters"],
        json!([{"name": "c@store", "binary": "cinder-volume", "state": "up", "status": "enabled",
            "replication_status": "not-capable", "frozen": false, "active_backend_id": null}])
    );
    let shown = world
        .get(ADMIN, "/clusters/c@store")
        .send()
        .await
        .expect(200);
    assert_eq!(
        (
            &shown["cluster"]["num_hosts"],
            &shown["cluster"]["num_down_hosts"]
        ),
        (&json!(1), &json!(0))
    );
    world
        .get(ADMIN, "/clusters/other")
        .send()
        .await
        .fault(404, "itemNotFound");
    world
        .get(ADMIN, "/clusters")
        .version(6)
        .send()
        .await
        .fault(404, "itemNotFound");
    let body = json!({"name": "c@store", "disabled_reason": "tired"});
    let changed = world
        .put(ADMIN, "/clusters/disable", body)
        .send()
        .await
        .expect(200);
    assert_eq!(changed["cluster"]["status"], "disabled");
    assert_eq!(changed["cluster"]["disabled_reason"], "tired");
    let list = world
        .get(ADMIN, "/os-services?binary=cinder-volume")
        .send()
        .await
        .expect(200);
    assert_eq!(list["services"][0]["cluster"], "c@store");
    assert!(
        volume_service::scheduler::candidates(&world.service)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_cleanup_rings_those_that_can_do_it() {
    let world = World::new().await;
    world.rung();
    let body = json!({"binary": "cinder-volume"});
    let answer = world
        .post(ADMIN, "/workers/cleanup", body.clone())
        .send()
        .await
        .expect(202);
    assert_eq!(answer, json!({"cleaning": [], "unavailable": []}));
    let body = json!({"binary": "cinder-volume", "is_up": true});
    let answer = world
        .post(ADMIN, "/workers/cleanup", body)
        .send()
        .await
        .expect(202);
    assert_eq!(answer["cleaning"][0]["host"], "host@store");
    assert_eq!(answer["unavailable"], json!([]));
    assert!(world.rung().contains(&format!("volume:{POOL}")));
    world
        .service
        .database
        .execute("UPDATE volume_services SET heartbeat_at = 0", &[])
        .await
        .unwrap();
    let answer = world
        .post(ADMIN, "/workers/cleanup", json!({"is_up": false}))
        .send()
        .await
        .expect(202);
    assert_eq!(answer["cleaning"], json!([]));
    assert_eq!(answer["unavailable"].as_array().unwrap().len(), 2);
    for refused in [
        json!({"x": 1}),
        json!({"binary": "cinder-api"}),
        json!({"resource_id": uuid::Uuid::new_v4()}),
    ] {
        world
            .post(ADMIN, "/workers/cleanup", refused)
            .send()
            .await
            .fault(400, "badRequest");
    }
    let made = world
        .post(MEMBER, "/volumes", json!({"volume": {"size": 1}}))
        .send()
        .await
        .expect(202);
    let sql = "UPDATE flows SET queue = ?";
    let queue = database::params![format!("volume:{POOL}")];
    world.service.database.execute(sql, queue).await.unwrap();
    let body = json!({"resource_id": made["volume"]["id"], "resource_type": "Volume"});
    let answer = world
        .post(ADMIN, "/workers/cleanup", body)
        .send()
        .await
        .expect(202);
    assert_eq!(answer["unavailable"][0]["host"], "host@store");
    assert_eq!(answer["unavailable"].as_array().unwrap().len(), 1);
}

#[derive(Default)]
struct Log(Mutex<BTreeMap<String, Level>>);

impl LogLevels for Log {
    fn levels(&self) -> BTreeMap<String, Level> {
        self.0.lock().unwrap().clone()
    }

    fn set(&self, prefix: &str, level: Level) {
        self.0.lock().unwrap().insert(prefix.to_owned(), level);
    }
}

#[tokio::test]
async fn log_levels_are_read_and_set() {
    let log = Arc::new(Log::default());
    let world = World::new().await.with_logs(log.clone());
    let put = async |action: &str, body| {
        let path = format!("/os-services/{action}");
        world.put(ADMIN, &path, body).send().await
    };
    let body = json!({"binary": "cinder-volume", "server": "localhost@none", "prefix": "cinder", "level": "debug"});
    put("set-log", body).await.expect(202);
    assert!(log.levels().is_empty(), "no such server");
    let body = json!({"binary": "*", "prefix": "cinder.flows", "level": "debug"});
    put("set-log", body).await.expect(202);
    assert_eq!(
        log.levels(),
        BTreeMap::from([("volume_service::flows".to_owned(), Level::Debug)])
    );
    let levels = put("get-log", json!({"binary": "cinder-api"}))
        .await
        .expect(200);
    assert_eq!(
        levels["log_levels"][0]["levels"],
        json!({"volume_service.flows": "DEBUG"})
    );
    put("set-log", json!({"level": "loud"}))
        .await
        .fault(400, "badRequest");
    put("set-log", json!({"binary": "nova-api", "level": "info"}))
        .await
        .fault(400, "badRequest");
    let path = "/os-services/get-log";
    world
        .put(ADMIN, path, json!({}))
        .version(31)
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn backup_records_are_exported_and_imported() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let body = json!({"backup": {"volume_id": volume, "name": "b", "metadata": {"k": "v"}}});
    let made = world
        .post(MEMBER, "/backups", body)
        .send()
        .await
        .expect(202);
    let id = made["backup"]["id"].as_str().unwrap();
    let path = format!("/backups/{id}/export_record");
    world
        .get(ADMIN, &path)
        .send()
        .await
        .fault(400, "badRequest");
    world.set("backups", id, "available").await;
    world
        .get(MEMBER, &path)
        .send()
        .await
        .fault(403, "forbidden");
    let record = world.get(ADMIN, &path).send().await.expect(200);
    let import = "/backups/import_record";
    let text = world
        .post(ADMIN, import, record.clone())
        .send()
        .await
        .fault(400, "badRequest");
    assert!(text.contains("exists"), "{text}");
    let sql = "UPDATE backups SET deleted_at = 1 WHERE id = ?";
    world
        .service
        .database
        .execute(sql, database::params![id])
        .await
        .unwrap();
    let mut foreign = record.clone();
    foreign["backup-record"]["backup_service"] = "cinder.backup.drivers.swift".into();
    world
        .post(ADMIN, import, foreign)
        .send()
        .await
        .fault(503, "serviceUnavailable");
    let imported = world.post(ADMIN, import, record).send().await.expect(201);
    assert_eq!(imported["backup"]["id"], id);
    let shown = world
        .get(ADMIN, &format!("/backups/{id}"))
        .send()
        .await
        .expect(200);
    assert_eq!(shown["backup"]["status"], "available");
    assert_eq!(shown["backup"]["name"], "b");
    assert_eq!(shown["backup"]["metadata"], json!({"k": "v"}));
    let broken = json!({"backup-record": {"backup_service": "x", "backup_url": "#"}});
    world
        .post(ADMIN, import, broken)
        .send()
        .await
        .fault(400, "badRequest");
}
