//! Members of shared images.

use serde_json::{Value, json};

use crate::support::{ADMIN, ALICE, BOB, World};

const CAROL: &str = "carol:member,reader";

async fn listed(world: &World, token: &str, query: &str) -> usize {
    let list = world
        .get(token, &format!("/v2/images{query}"))
        .await
        .expect(200)
        .json();
    list["images"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_member_is_asked_and_answers() {
    let world = World::new().await;
    let id = world.create_raw(ALICE).await;
    let members = format!("/v2/images/{id}/members");
    let bob = format!("{members}/bob");
    world.upload(ALICE, &id, "data").await.expect(204);
    let member = world
        .post(ALICE, &members, json!({"member": "bob"}))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&member["member_id"], &member["status"]),
        (&json!("bob"), &json!("pending"))
    );
    assert_eq!(
        (&member["image_id"], &member["schema"]),
        (&json!(id), &json!("/v2/schemas/member"))
    );
    world
        .post(ALICE, &members, json!({"member": "bob"}))
        .await
        .expect(409);
    world
        .post(ALICE, &members, json!({"member": "carol"}))
        .await
        .expect(200);

    world
        .get(BOB, &format!("/v2/images/{id}"))
        .await
        .expect(200);
    assert_eq!(
        world
            .get(BOB, &format!("/v2/images/{id}/file"))
            .await
            .expect(200)
            .bytes,
        "data"
    );
    assert_eq!(listed(&world, BOB, "").await, 0);
    assert_eq!(listed(&world, BOB, "?member_status=pending").await, 1);
    assert_eq!(
        listed(&world, BOB, "?member_status=all&visibility=shared").await,
        1
    );
    world
        .put(ALICE, &bob, json!({"status": "accepted"}))
        .await
        .expect(403);
    world
        .put(CAROL, &bob, json!({"status": "accepted"}))
        .await
        .expect(404);
    world
        .put(BOB, &bob, json!({"status": "perhaps"}))
        .await
        .expect(400);
    world.put(BOB, &bob, json!({})).await.expect(400);
    let answered = world
        .put(BOB, &bob, json!({"status": "accepted"}))
        .await
        .expect(200)
        .json();
    assert_eq!(answered["status"], "accepted");
    assert_eq!(listed(&world, BOB, "").await, 1);

    let seen = |list: Value| list["members"].as_array().unwrap().len();
    assert_eq!(seen(world.get(ALICE, &members).await.expect(200).json()), 2);
    assert_eq!(seen(world.get(ADMIN, &members).await.expect(200).json()), 2);
    assert_eq!(seen(world.get(BOB, &members).await.expect(200).json()), 1);
    world
        .get(BOB, &format!("{members}/carol"))
        .await
        .expect(404);
    world.get(BOB, &bob).await.expect(200);

    // A member may look and download, and that is all.
    world
        .delete(BOB, &format!("/v2/images/{id}"))
        .await
        .expect(403);
    world
        .post(BOB, &members, json!({"member": "dave"}))
        .await
        .expect(403);
    world.delete(BOB, &bob).await.expect(403);
    world.delete(ALICE, &bob).await.expect(204);
    world.delete(ALICE, &bob).await.expect(404);
    world
        .get(BOB, &format!("/v2/images/{id}"))
        .await
        .expect(404);
}

#[tokio::test]
async fn only_shared_images_have_members() {
    let world = World::new().await;
    for (visibility, bobs) in [("private", 404), ("community", 403)] {
        let id = world.create(ALICE, json!({"visibility": visibility})).await;
        let members = format!("/v2/images/{id}/members");
        world.get(ALICE, &members).await.expect(403);
        world
            .post(ALICE, &members, json!({"member": "bob"}))
            .await
            .expect(403);
        world.get(BOB, &members).await.expect(bobs);
    }
    let id = world.create(ALICE, json!({})).await;
    let members = format!("/v2/images/{id}/members");
    for bad in [
        Value::Null,
        json!([]),
        json!({"member": ""}),
        json!({"member": 5}),
        json!({"member": "x".repeat(256)}),
    ] {
        world.post(ALICE, &members, bad).await.expect(400);
    }
    for n in 0..128 {
        world
            .post(ALICE, &members, json!({"member": format!("m{n}")}))
            .await
            .expect(200);
    }
    world
        .post(ALICE, &members, json!({"member": "one more"}))
        .await
        .expect(413);
}
