//! Upload and download.

use axum::body::Body;
use axum::http::Method;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use image_service::Options;
use md5::{Digest, Md5};
use serde_json::{Value, json};
use storage::memory::MemoryStore;
use storage::{ImageSpec, ImageStore};
use tokio::sync::mpsc;

use crate::support::{ADMIN, ALICE, World};

/// Bytes that do not repeat with any block size, with a hole in the middle.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut data: Vec<u8> = (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    data[length / 3..length / 2].fill(0);
    data
}

fn small_chunks() -> Options {
    Options {
        rbd_store_chunk_size: 100_000,
        ..Options::default()
    }
}

/// A body of unknown length in pieces of an odd size.
fn chunked(data: Vec<u8>) -> Body {
    let pieces: Vec<_> = data
        .chunks(7_777)
        .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)))
        .collect();
    Body::from_stream(stream::iter(pieces))
}

fn md5_hex(data: &[u8]) -> String {
    Md5::digest(data)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[tokio::test]
async fn what_goes_in_comes_out() {
    let world = World::with(small_chunks(), MemoryStore::new()).await;
    for length in [1, 99_999, 100_000, 1_234_567] {
        for chunks in [false, true] {
            let data = sample(length);
            let id = world.create_raw(ALICE).await;
            let body = if chunks {
                chunked(data.clone())
            } else {
                Body::from(data.clone())
            };
            world.upload(ALICE, &id, body).await.expect(204);
            let image = world.show(&id).await;
            assert_eq!(image["status"], "active");
            assert_eq!(
                (&image["size"], &image["virtual_size"]),
                (&json!(length), &json!(length))
            );
            assert_eq!(image["checksum"], md5_hex(&data));
            assert_eq!(image["os_hash_algo"], "sha512");
            assert_eq!(image["os_hash_value"].as_str().unwrap().len(), 128);
            let answer = world
                .get(ALICE, &format!("/v2/images/{id}/file"))
                .await
                .expect(200);
            assert!(answer.bytes == data, "{length} bytes differ");
            assert_eq!(answer.header("content-length"), length.to_string());
            assert_eq!(answer.header("content-md5"), md5_hex(&data));
            assert_eq!(answer.header("content-type"), "application/octet-stream");
            let info = world
                .store
                .info(&ImageSpec::new("images", &id))
                .await
                .unwrap();
            assert_eq!(info.size_bytes, length as u64);
            assert_eq!(info.snapshots.len(), 1);
            assert_eq!(
                (info.snapshots[0].name.as_str(), info.snapshots[0].protected),
                ("snap", true)
            );
        }
    }
}

#[tokio::test]
async fn an_empty_image() {
    let world = World::new().await;
    let id = world.create_raw(ALICE).await;
    world.upload(ALICE, &id, Body::empty()).await.expect(204);
    assert_eq!(world.show(&id).await["size"], 0);
    assert_eq!(
        world
            .get(ALICE, &format!("/v2/images/{id}/file"))
            .await
            .expect(200)
            .bytes,
        ""
    );
}

#[tokio::test]
async fn ranges_of_a_download() {
    let world = World::with(small_chunks(), MemoryStore::new()).await;
    let data = sample(250_000);
    let id = world.create_raw(ALICE).await;
    world.upload(ALICE, &id, data.clone()).await.expect(204);
    let path = format!("/v2/images/{id}/file");
    let ranged = async |range: &str| {
        let request = World::request(ALICE, Method::GET, &path).header("range", range);
        world.send(request.body(Body::empty()).unwrap()).await
    };
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=99999-200001", 99_999, 200_002),
        ("bytes=249999-", 249_999, 250_000),
        ("bytes=-10", 249_990, 250_000),
        ("bytes=5-9999999", 5, 250_000),
    ] {
        let answer = ranged(range).await.expect(206);
        assert!(answer.bytes == data[start..end], "{range}");
        assert_eq!(
            answer.header("content-range"),
            format!("bytes {start}-{}/250000", end - 1)
        );
        assert_eq!(answer.header("content-length"), (end - start).to_string());
    }
    for range in ["bytes=250000-", "bytes=2-1", "bytes=x"] {
        let answer = ranged(range).await.expect(416);
        assert_eq!(answer.header("content-range"), "bytes */250000");
    }
    ranged("bytes=0-1,5-6").await.expect(400);
}

#[tokio::test]
async fn uploads_that_may_not_begin() {
    let world = World::new().await;
    let id = world.create_raw(ALICE).await;
    let put = async |id: &str, headers: &[(&str, &str)]| {
        let mut request = World::request(ALICE, Method::PUT, &format!("/v2/images/{id}/file"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        world.send(request.body(Body::from("data")).unwrap()).await
    };
    let octets = ("content-type", "application/octet-stream");
    put(&id, &[]).await.expect(415);
    put(&id, &[("content-type", "application/json")])
        .await
        .expect(415);
    put(&id, &[octets, ("x-openstack-image-size", "-1")])
        .await
        .expect(400);
    put(&id, &[octets, ("x-openstack-image-size", "x")])
        .await
        .expect(400);
    put(
        &id,
        &[
            octets,
            ("x-openstack-image-size", "5"),
            ("content-length", "4"),
        ],
    )
    .await
    .expect(400);
    put(&id, &[octets, ("x-openstack-image-size", "99999999999999")])
        .await
        .expect(413);
    put("2f1f7e0d-5d24-4bd5-8bd6-5ac65cf0c7a6", &[octets])
        .await
        .expect(404);
    let bare = world.create(ALICE, json!({})).await;
    put(&bare, &[octets]).await.expect(400);
    world
        .get(ALICE, &format!("/v2/images/{id}/file"))
        .await
        .expect(204);
    put(&id, &[octets]).await.expect(204);
    put(&id, &[octets]).await.expect(409);
}

/// The image is as before the upload, the store empty, and the next upload works.
async fn assert_nothing_left(world: &World, id: &str) {
    let image = world.show(id).await;
    assert_eq!(image["status"], "queued");
    for key in [
        "size",
        "virtual_size",
        "checksum",
        "os_hash_algo",
        "os_hash_value",
    ] {
        assert_eq!(image[key], Value::Null, "{key}");
    }
    assert_eq!(world.stored().await, [""; 0]);
    assert_eq!(world.store.capacity("images").await.unwrap().used_bytes, 0);
    world.upload(ALICE, id, "small").await.expect(204);
    assert_eq!(world.show(id).await["status"], "active");
}

#[tokio::test]
async fn another_number_of_bytes_than_announced() {
    let world = World::with(small_chunks(), MemoryStore::new()).await;
    for announced in [300_001, 299_999, 10] {
        let id = world.create_raw(ALICE).await;
        let request = World::request(ALICE, Method::PUT, &format!("/v2/images/{id}/file"))
            .header("content-type", "application/octet-stream")
            .header("x-openstack-image-size", announced);
        world
            .send(request.body(chunked(sample(300_000))).unwrap())
            .await
            .expect(400);
        assert_nothing_left(&world, &id).await;
        world
            .delete(ALICE, &format!("/v2/images/{id}"))
            .await
            .expect(204);
        world.wait_until_store_is_empty().await;
    }
}

#[tokio::test]
async fn a_stream_that_breaks() {
    let world = World::with(small_chunks(), MemoryStore::new()).await;
    let id = world.create_raw(ALICE).await;
    let good = stream::iter(vec![Ok(Bytes::from(sample(250_000)))]);
    let broken = good.chain(stream::iter(vec![Err(std::io::Error::other("reset"))]));
    world
        .upload(ALICE, &id, Body::from_stream(broken))
        .await
        .expect(400);
    assert_nothing_left(&world, &id).await;
}

/// A body that sends what the test gives it.
fn fed() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let pieces = stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(piece), receiver))
    });
    (sender, Body::from_stream(pieces))
}

#[tokio::test]
async fn a_client_that_goes_away() {
    let world = World::with(small_chunks(), MemoryStore::new()).await;
    let id = world.create_raw(ALICE).await;
    let (sender, body) = fed();
    {
        let upload = world.upload(ALICE, &id, body);
        let feed = async {
            for _ in 0..3 {
                sender.send(Bytes::from(sample(100_000))).await.unwrap();
            }
            while world.stored().await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        // Dropping the request's future is what the server does when the connection is gone.
        tokio::select! {
            _ = upload => panic!("the body has not ended"),
            () = feed => {}
        }
    }
    while world.show(&id).await["status"] != "queued" {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_nothing_left(&world, &id).await;
}

#[tokio::test]
async fn a_second_upload_and_a_delete_while_data_comes_in() {
    let world = World::with(small_chunks(), MemoryStore::new()).await;
    let id = world.create_raw(ALICE).await;
    let path = format!("/v2/images/{id}");
    let (sender, body) = fed();
    let interfere = async {
        sender.send(Bytes::from(sample(250_000))).await.unwrap();
        while world.show(&id).await["status"] != "saving" {
            tokio::task::yield_now().await;
        }
        world.upload(ALICE, &id, "other").await.expect(409);
        world.get(ALICE, &format!("{path}/file")).await.expect(204);
        world.delete(ALICE, &path).await.expect(204);
        sender.send(Bytes::from(sample(250_000))).await.unwrap();
        drop(sender);
    };
    let (answer, ()) = tokio::join!(world.upload(ALICE, &id, body), interfere);
    answer.expect(410);
    world.get(ADMIN, &path).await.expect(404);
    world.wait_until_store_is_empty().await;
}

#[tokio::test]
async fn a_full_store_and_the_limits() {
    let world = World::with(small_chunks(), MemoryStore::with_capacity_bytes(1 << 20)).await;
    let id = world.create_raw(ALICE).await;
    let answer = world
        .upload(ALICE, &id, chunked(sample(6 << 20)))
        .await
        .expect(413);
    assert!(
        answer.text().contains("Image storage media is full"),
        "{}",
        answer.text()
    );
    assert_nothing_left(&world, &id).await;

    let options = Options {
        image_size_cap: 200_000,
        ..small_chunks()
    };
    let world = World::with(options, MemoryStore::new()).await;
    let id = world.create_raw(ALICE).await;
    world
        .upload(ALICE, &id, chunked(sample(200_001)))
        .await
        .expect(413);
    assert_nothing_left(&world, &id).await;

    let options = Options {
        user_storage_quota: 300_000,
        ..small_chunks()
    };
    let world = World::with(options, MemoryStore::new()).await;
    let (first, second, third) = (
        world.create_raw(ALICE).await,
        world.create_raw(ALICE).await,
        world.create_raw(ALICE).await,
    );
    world
        .upload(ALICE, &first, chunked(sample(200_000)))
        .await
        .expect(204);
    world
        .upload(ALICE, &second, chunked(sample(200_000)))
        .await
        .expect(413);
    world
        .upload(ALICE, &second, chunked(sample(100_000)))
        .await
        .expect(204);
    world
        .upload(ALICE, &third, chunked(sample(1)))
        .await
        .expect(413);
}

#[tokio::test]
async fn data_in_another_format_than_declared() {
    let world = World::new().await;
    let declared = async |format: &str| {
        world
            .create(
                ALICE,
                json!({"disk_format": format, "container_format": "bare"}),
            )
            .await
    };
    let qcow2_head: &[u8] = b"QFI\xfb\0\0\0\x03";
    for (format, data) in [
        ("qcow2", b"plainly not".as_slice()),
        ("qcow2", qcow2_head),
        ("iso", qcow2_head),
        ("ami", qcow2_head),
        ("raw", qcow2_head),
    ] {
        let id = declared(format).await;
        world.upload(ALICE, &id, data).await.expect(415);
        assert_eq!(world.show(&id).await["status"], "queued");
        assert_eq!(world.stored().await, [""; 0]);
    }
    // Another format that is safe may well be somebody's raw data.
    let mut iso = vec![0; 40_000];
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    let id = declared("raw").await;
    world.upload(ALICE, &id, iso).await.expect(204);
    assert_eq!(world.show(&id).await["virtual_size"], 40_000);
}
