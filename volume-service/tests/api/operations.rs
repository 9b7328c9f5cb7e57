//! Services, pools, zones, extensions, filters, messages.

use serde_json::json;
use volume_service::db::messages::{self, Action, Detail, NewMessage, Resource};

use crate::world::{ADMIN, MEMBER, POOL, PROJECT, STRANGER, World};

#[tokio::test]
async fn services_are_listed_disabled_and_enabled() {
    let world = World::new().await;
    world
        .get(MEMBER, "/os-services")
        .send()
        .await
        .fault(403, "forbidden");
    let body = world
        .get(ADMIN, "/os-services?binary=cinder-volume")
        .send()
        .await
        .expect(200);
    let service = &body["services"][0];
    assert_eq!(service["host"], "host@store");
    assert_eq!(
        (&service["status"], &service["state"]),
        (&json!("enabled"), &json!("up"))
    );
    assert_eq!(service["backend_state"], "up");
    assert_eq!(service["frozen"], false);
    let body = json!({"host": "host@store", "binary": "cinder-volume", "disabled_reason": "why"});
    let echo = world
        .put(ADMIN, "/os-services/disable-log-reason", body.clone())
        .send()
        .await
        .expect(200);
    assert_eq!(echo["disabled"], true);
    let listed = world
        .get(ADMIN, "/os-services?host=host@store")
        .send()
        .await
        .expect(200);
    assert_eq!(listed["services"][0]["disabled_reason"], "why");
    world
        .put(ADMIN, "/os-services/enable", body)
        .send()
        .await
        .fault(400, "badRequest");
    let body = json!({"host": "host@store", "binary": "cinder-volume"});
    world
        .put(ADMIN, "/os-services/enable", body)
        .send()
        .await
        .expect(200);
    let listed = world
        .get(ADMIN, "/os-services?host=host@store")
        .send()
        .await
        .expect(200);
    assert_eq!(
        (
            &listed["services"][0]["status"],
            &listed["services"][0]["disabled_reason"]
        ),
        (&json!("enabled"), &json!(null))
    );
    let unknown = json!({"host": "nowhere", "binary": "cinder-volume"});
    world
        .put(ADMIN, "/os-services/disable", unknown)
        .send()
        .await
        .fault(404, "itemNotFound");
    world
        .put(ADMIN, "/os-services/dance", json!({}))
        .send()
        .await
        .fault(404, "itemNotFound");
    world
        .put(ADMIN, "/os-services/enable", json!({"host": "h"}))
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn pools_zones_extensions_filters() {
    let world = World::new().await;
    let body = world
        .get(ADMIN, "/scheduler-stats/get_pools?detail=true")
        .send()
        .await
        .expect(200);
    assert_eq!(body["pools"][0]["name"], POOL);
    assert_eq!(
        body["pools"][0]["capabilities"]["volume_backend_name"],
        "store"
    );
    let body = world
        .get(ADMIN, "/scheduler-stats/get_pools")
        .send()
        .await
        .expect(200);
    assert_eq!(body, json!({"pools": [{"name": POOL}]}));
    let body = world
        .get(MEMBER, "/os-availability-zone")
        .send()
        .await
        .expect(200);
    assert_eq!(
        body,
        json!({"availabilityZoneInfo": [{"zoneName": "nova", "zoneState": {"available": true}}]})
    );
    let body = world.get(MEMBER, "/extensions").send().await.expect(200);
    assert!(
        body["extensions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["alias"] == "os-quota-sets")
    );
    world
        .get(MEMBER, "/extensions/backups")
        .send()
        .await
        .expect(200);
    world
        .get(MEMBER, "/extensions/none")
        .send()
        .await
        .fault(404, "itemNotFound");
    let body = world
        .get(MEMBER, "/resource_filters?resource=backup")
        .send()
        .await
        .expect(200);
    assert_eq!(
        body,
        json!({"resource_filters": [{"resource": "backup", "filters": ["name", "status", "volume_id"]}]})
    );
}

#[tokio::test]
async fn messages_are_shown_to_their_project_and_deleted() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let mut tx = world.service.database.begin().await.unwrap();
    let message = NewMessage {
        project_id: PROJECT,
        request_id: Some("req-1"),
        resource: Resource::Volume,
        resource_id: volume.parse().unwrap(),
        action: Action::ScheduleAllocateVolume,
        detail: Detail::NoBackendAvailable,
    };
    let id = messages::insert(&mut tx, message).await.unwrap();
    tx.commit().await.unwrap();
    let path = format!("/messages/{id}");
    let body = world.get(MEMBER, &path).send().await.expect(200);
    let message = &body["message"];
    assert_eq!(message["event_id"], "VOLUME_VOLUME_001_003");
    assert_eq!(
        message["user_message"],
        "schedule allocate volume:Could not find any available weighted backend."
    );
    assert_eq!(message["resource_uuid"], volume);
    for query in [
        "",
        "?event_id=VOLUME_VOLUME_001_003",
        "?resource_type=volume",
        &format!("?resource_uuid={volume}"),
    ] {
        let body = world
            .get(MEMBER, &format!("/messages{query}"))
            .send()
            .await
            .expect(200);
        assert_eq!(body["messages"].as_array().unwrap().len(), 1, "{query}");
    }
    for (token, count) in [(STRANGER, 0), ("admin@bbbb0000", 1)] {
        let body = world.get(token, "/messages").send().await.expect(200);
        assert_eq!(body["messages"].as_array().unwrap().len(), count, "{token}");
    }
    world
        .get(STRANGER, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
    world
        .get(MEMBER, &path)
        .version(2)
        .send()
        .await
        .fault(404, "itemNotFound");
    world.delete(MEMBER, &path).send().await.expect(204);
    world
        .get(MEMBER, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn the_root_tells_the_versions_without_a_token() {
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    let world = World::new().await;
    let request = http::Request::get("/")
        .header("host", "h:1")
        .body(axum::body::Body::empty())
        .unwrap();
    let response = world.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 300);
    let body: serde_json::Value =
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(body["versions"][0]["id"], "v3.0");
    assert_eq!(body["versions"][0]["min_version"], "3.0");
}
