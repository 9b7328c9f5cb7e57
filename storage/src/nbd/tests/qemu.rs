//! QEMU's own tools as clients. They must be there: a skipped test proves nothing.

use std::path::Path;
use std::process::Command;

use super::{SIZE, Server, volume};

/// Runs a tool of qemu-utils beside the server; gives success and both outputs.
async fn tool(program: &'static str, arguments: &[&str]) -> (bool, String) {
    let arguments: Vec<String> = arguments
        .iter()
        .map(|argument| argument.to_string())
        .collect();
    let run = tokio::task::spawn_blocking(move || {
        let output = Command::new(program).args(arguments).output();
        output.unwrap_or_else(|error| {
            panic!("these tests need {program} (Debian package qemu-utils): {error}")
        })
    });
    let output = run.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

async fn succeeds(program: &'static str, arguments: &[&str]) -> String {
    let (success, text) = tool(program, arguments).await;
    assert!(success, "{program} {arguments:?}: {text}");
    text
}

/// qemu-io exits with 0 although a command failed; the text tells.
async fn qemu_io(uri: &str, commands: &[&str]) -> String {
    let mut arguments = vec!["-f", "raw"];
    commands
        .iter()
        .for_each(|command| arguments.extend(["-c", command]));
    arguments.push(uri);
    let text = succeeds("qemu-io", &arguments).await;
    assert!(!text.contains("failed") && !text.contains("rror"), "{text}");
    text
}

fn disk(path: &Path) -> Vec<u8> {
    let mut disk = vec![0; SIZE as usize];
    for (number, block) in disk
        .chunks_mut(4096)
        .enumerate()
        .filter(|(number, _)| number % 7 < 3)
    {
        block.fill((number % 251) as u8 + 1);
    }
    std::fs::write(path, &disk).unwrap();
    disk
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_img_converts_into_compares_and_maps() {
    converts_compares_and_maps(Server::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_img_converts_into_compares_and_maps_on_lanes() {
    converts_compares_and_maps(Server::on_lanes().await).await;
}

async fn converts_compares_and_maps(server: Server) {
    let uri = server.uri("volume-x");
    let raw = server.folder.path().join("disk.raw");
    let name = raw.to_str().unwrap();
    let disk = disk(&raw);
    succeeds(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", name, &uri],
    )
    .await;
    succeeds(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", name, &uri],
    )
    .await;
    let handle = server.store.open(&volume(), None).await.unwrap();
    assert!(
        handle.read(0, SIZE as usize).await.unwrap() == disk,
        "the store has what qemu-img wrote"
    );

    let map = succeeds("qemu-img", &["map", "--output=json", "-f", "raw", &uri]).await;
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let extents = map.as_array().unwrap();
    // Three blocks of data, four of zeroes, over and over; the last block is the first of three.
    assert_eq!(extents.len(), SIZE as usize / 4096 / 7 * 2 + 1);
    assert_eq!(
        (extents[0]["length"].as_u64(), extents[0]["data"].as_bool()),
        (Some(12288), Some(true))
    );
    assert_eq!(
        (extents[1]["length"].as_u64(), extents[1]["data"].as_bool()),
        (Some(16384), Some(false))
    );

    let snapshot = server.uri("volumes/volume-x@snapshot-s");
    let empty = server.folder.path().join("empty.raw");
    std::fs::File::create(&empty)
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    succeeds(
        "qemu-img",
        &[
            "compare",
            "-f",
            "raw",
            "-F",
            "raw",
            empty.to_str().unwrap(),
            &snapshot,
        ],
    )
    .await;
    let (equal, text) = tool(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", name, &snapshot],
    )
    .await;
    assert!(!equal && text.contains("mismatch"), "{text}");

    let copy = server.folder.path().join("copy.qcow2");
    succeeds(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-c",
            &uri,
            copy.to_str().unwrap(),
        ],
    )
    .await;
    succeeds("qemu-img", &["compare", copy.to_str().unwrap(), &uri]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_io_writes_zeroes_discards_and_flushes() {
    let server = Server::start().await;
    let uri = server.uri("volume-x");
    qemu_io(
        &uri,
        &[
            "write -P 170 1000k 3M",
            "write -z 2M 64k",
            "discard 3M 512k",
            "write -f -P 5 511 3",
            "flush",
        ],
    )
    .await;
    qemu_io(
        &uri,
        &[
            "read -P 170 1000k 1048k",
            "read -P 0 2M 64k",
            "read -P 0 3M 512k",
            "read -P 5 511 3",
        ],
    )
    .await;
    qemu_io(
        &uri,
        &[
            "aio_write -P 1 8M 1M",
            "aio_write -P 2 9M 1M",
            "aio_write -P 3 10M 1M",
            "aio_flush",
        ],
    )
    .await;
    let handle = server.store.open(&volume(), None).await.unwrap();
    for (megabyte, value) in [(8, 1), (9, 2), (10, 3)] {
        assert!(handle.read(megabyte << 20, 1 << 20).await.unwrap() == vec![value; 1 << 20]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_is_told_what_is_wrong() {
    let server = Server::start().await;
    let (success, text) = tool("qemu-img", &["info", &server.uri("volume-y")]).await;
    assert!(!success && text.contains("there is no export"), "{text}");
    let (success, text) = tool(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-c",
            "write 0 512",
            &server.uri("volume-x@snapshot-s"),
        ],
    )
    .await;
    assert!(!success && text.contains("Permission denied"), "{text}");
    let info = succeeds(
        "qemu-img",
        &["info", "--output=json", &server.uri("volume-x")],
    )
    .await;
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"].as_u64(), Some(SIZE));
    server.stop().await;
}
