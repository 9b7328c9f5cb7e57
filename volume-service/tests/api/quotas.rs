//! Quotas: texts, sums, per-type limits, and the limit under concurrency.

use serde_json::{Value, json};
use volume_service::Options;

use crate::groups::{group, member, types};
use crate::world::{ADMIN, Answer, MEMBER, PROJECT, World};

async fn limit(world: &World, limits: Value) {
    let body = json!({"quota_set": limits});
    world
        .put(ADMIN, &format!("/os-quota-sets/{PROJECT}"), body)
        .send()
        .await
        .expect(200);
}

async fn create(world: &World, volume: Value) -> Answer {
    world
        .post(MEMBER, "/volumes", json!({"volume": volume}))
        .send()
        .await
}

#[tokio::test]
async fn the_texts_name_the_resource() {
    let world = World::new().await;
    limit(&world, json!({"gigabytes": 5, "volumes": 2, "snapshots": 0, "per_volume_gigabytes": 4, "backups": 0})).await;
    let text = create(&world, json!({"size": 5}))
        .await
        .fault(413, "overLimit");
    assert_eq!(
        text,
        "Requested volume size 5G is larger than maximum allowed limit 4G."
    );
    let volume = world.volume(3).await;
    let answer = create(&world, json!({"size": 3})).await;
    assert_eq!(answer.headers["retry-after"], "0");
    assert_eq!(
        answer.fault(413, "overLimit"),
        "Requested volume or snapshot exceeds allowed gigabytes quota. Requested 3G, quota is 5G and 3G has been consumed."
    );
    world.volume(1).await;
    let text = create(&world, json!({"size": 1}))
        .await
        .fault(413, "overLimit");
    assert_eq!(
        text,
        "Maximum number of volumes allowed (2) exceeded for quota 'volumes'."
    );
    let body = json!({"snapshot": {"volume_id": volume}});
    world
        .post(MEMBER, "/snapshots", body.clone())
        .send()
        .await
        .fault(413, "overLimit");
    limit(&world, json!({"gigabytes": 100})).await;
    let text = world
        .post(MEMBER, "/snapshots", body)
        .send()
        .await
        .fault(413, "overLimit");
    assert_eq!(text, "Maximum number of snapshots allowed (0) exceeded");
    let body = json!({"backup": {"volume_id": volume}});
    let text = world
        .post(MEMBER, "/backups", body)
        .send()
        .await
        .fault(413, "overLimit");
    assert_eq!(text, "Maximum number of backups allowed (0) exceeded");
    limit(&world, json!({"backups": 5, "backup_gigabytes": 2})).await;
    let body = json!({"backup": {"volume_id": volume}});
    let text = world
        .post(MEMBER, "/backups", body)
        .send()
        .await
        .fault(413, "overLimit");
    assert!(
        text.starts_with("Requested backup exceeds allowed Backup gigabytes quota."),
        "{text}"
    );
}

#[tokio::test]
async fn usage_is_what_the_rows_say() {
    let world = World::new().await;
    let first = world.volume(3).await;
    world.volume(2).await;
    world.snapshot(&first).await;
    let usage = async || -> Value {
        let path = format!("/os-quota-sets/{PROJECT}?usage=True");
        world.get(MEMBER, &path).send().await.expect(200)["quota_set"].clone()
    };
    let set = usage().await;
    assert_eq!(set["id"], PROJECT);
    assert_eq!(
        set["volumes"],
        json!({"limit": 10, "in_use": 2, "reserved": 0})
    );
    assert_eq!(
        set["gigabytes"],
        json!({"limit": 1000, "in_use": 8, "reserved": 0})
    );
    assert_eq!(
        set["snapshots___DEFAULT__"],
        json!({"limit": -1, "in_use": 1, "reserved": 0})
    );
    let body = world.get(MEMBER, "/limits").send().await.expect(200);
    assert_eq!(body["limits"]["absolute"]["totalGigabytesUsed"], 8);
    assert_eq!(body["limits"]["absolute"]["maxTotalVolumes"], 10);
    world.forget_volume(&first).await;
    assert_eq!(usage().await["volumes"]["in_use"], 1);
    let below = json!({"quota_set": {"gigabytes": 4}});
    let text = world
        .put(ADMIN, &format!("/os-quota-sets/{PROJECT}"), below)
        .send()
        .await
        .fault(400, "badRequest");
    assert!(text.contains("Current usage is 5"), "{text}");
}

#[tokio::test]
async fn types_have_limits_of_their_own() {
    let world = World::new().await;
    world
        .post(ADMIN, "/types", json!({"volume_type": {"name": "fast"}}))
        .send()
        .await
        .expect(200);
    limit(&world, json!({"volumes_fast": 1, "gigabytes_fast": 5})).await;
    world
        .volume_with(json!({"size": 3, "volume_type": "fast"}))
        .await;
    let text = create(&world, json!({"size": 3, "volume_type": "fast"}))
        .await
        .fault(413, "overLimit");
    assert!(text.contains("gigabytes_fast"), "{text}");
    let text = create(&world, json!({"size": 1, "volume_type": "fast"}))
        .await
        .fault(413, "overLimit");
    assert_eq!(
        text,
        "Maximum number of volumes allowed (1) exceeded for quota 'volumes_fast'."
    );
    create(&world, json!({"size": 3})).await.expect(202);
}

#[tokio::test]
async fn defaults_come_from_options_and_the_default_class() {
    let options = Options {
        quota_volumes: 1,
        ..Options::default()
    };
    let world = World::with(options).await;
    let path = format!("/os-quota-sets/{PROJECT}");
    let defaults = world
        .get(MEMBER, &format!("{path}/defaults"))
        .send()
        .await
        .expect(200);
    assert_eq!(defaults["quota_set"]["volumes"], 1);
    let class = json!({"quota_class_set": {"volumes": 3}});
    world
        .put(ADMIN, "/os-quota-class-sets/default", class)
        .send()
        .await
        .expect(200);
    assert_eq!(
        world.get(MEMBER, &path).send().await.expect(200)["quota_set"]["volumes"],
        3
    );
    limit(&world, json!({"volumes": 7})).await;
    assert_eq!(
        world.get(MEMBER, &path).send().await.expect(200)["quota_set"]["volumes"],
        7
    );
    world.delete(ADMIN, &path).send().await.expect(200);
    assert_eq!(
        world.get(MEMBER, &path).send().await.expect(200)["quota_set"]["volumes"],
        3
    );
    world
        .get(MEMBER, "/os-quota-sets/bbbb0000")
        .send()
        .await
        .fault(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_never_pass_the_limit() {
    let world = World::new().await;
    limit(&world, json!({"volumes": 7, "gigabytes": 1000})).await;
    let creates = (0..40).map(|_| create(&world, json!({"size": 1})));
    let answers = futures_util::future::join_all(creates).await;
    let made = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(made, 7);
    assert!(
        answers
            .iter()
            .all(|answer| [202, 413].contains(&answer.status.as_u16()))
    );
    let body = world.get(MEMBER, "/volumes").send().await.expect(200);
    assert_eq!(body["volumes"].as_array().unwrap().len(), 7);
    assert_eq!(world.flows().await.len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn volumes_extended_at_once_never_pass_the_limit() {
    let world = World::new().await;
    limit(&world, json!({"volumes": 10, "gigabytes": 12})).await;
    let mut volumes = Vec::new();
    for _ in 0..4 {
        volumes.push(world.volume(1).await);
    }
    // Four of 1 GiB; two may grow by 4 GiB within 12 GiB.
    let extends = volumes.iter().map(|id| {
        let body = json!({"os-extend": {"new_size": 5}});
        world
            .post(MEMBER, &format!("/volumes/{id}/action"), body)
            .send()
    });
    let answers = futures_util::future::join_all(extends).await;
    let statuses: Vec<u16> = answers
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == 202).count(), 2);
    assert_eq!(statuses.iter().filter(|status| **status == 413).count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn limits_of_a_new_type_hold_for_volumes_and_groups_at_once() {
    let world = World::new().await;
    let (volume_type, group_type) = types(&world).await;
    let source = group(&world, &volume_type, &group_type).await;
    for _ in 0..2 {
        member(&world, &source).await;
    }
    limit(
        &world,
        json!({"volumes": 1000, "volumes_vt": 9, "groups": 100}),
    )
    .await;
    // Two volumes are there; copies of the group take two more each, volumes one.
    let copies = (0..8).map(|_| {
        let body = json!({"create-from-src": {"source_group_id": source}});
        world.post(MEMBER, "/groups/action", body).send()
    });
    let volumes = (0..8).map(|_| create(&world, json!({"size": 1, "volume_type": "vt"})));
    let (copies, volumes) = futures_util::future::join(
        futures_util::future::join_all(copies),
        futures_util::future::join_all(volumes),
    )
    .await;
    let made = |answers: &[Answer]| answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(2 + 2 * made(&copies) + made(&volumes), 9);
    let body = world
        .get(MEMBER, &format!("/os-quota-sets/{PROJECT}?usage=True"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["quota_set"]["volumes_vt"]["in_use"], 9);
    assert_eq!(body["quota_set"]["groups"]["in_use"], 1 + made(&copies));
}
