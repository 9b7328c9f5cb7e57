//! Everything that a client may say over NBD: handshake, options, requests.
//!
//! The first byte chooses how far the conversation has come when the bytes begin, so that the
//! requests of each form are reached without the fuzzer finding the handshake first. The server
//! must neither panic nor hang, and must end when the client has said everything.

#![no_main]

use std::cell::LazyCell;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use storage::memory::MemoryStore;
use storage::nbd::{Options, Origin, Peer, serve_stream};
use storage::{ImageSpec, ImageStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::{Builder, Runtime};

const VOLUME: &[u8] = b"volume-1";
const VOLUME_BYTES: u64 = 1 << 20;
const PIPE_BYTES: usize = 64 << 10;
/// A conversation of some kilobytes that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(10);

const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;
const EXTENDED_HEADERS: u32 = 11;

struct World {
    runtime: Runtime,
    store: Arc<dyn ImageStore>,
}

thread_local! {
    static WORLD: LazyCell<World> = LazyCell::new(World::new);
}

impl World {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        let store: Arc<dyn ImageStore> = Arc::new(MemoryStore::new());
        let volume = ImageSpec::new("volumes", String::from_utf8_lossy(VOLUME));
        runtime.block_on(async {
            store.ensure_pool("volumes").await.expect("a pool");
            store.create(&volume, VOLUME_BYTES).await.expect("a volume");
        });
        World { runtime, store }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((start, rest)) = data.split_first() else {
        return;
    };
    let said = [&opening(*start), rest].concat();
    WORLD.with(|world| {
        let store = Arc::clone(&world.store);
        let talk = async { tokio::time::timeout(LIMIT, conversation(store, said)).await };
        let ended = world.runtime.block_on(talk);
        assert!(ended.is_ok(), "the server does not end");
    });
});

/// What was said before the fuzzer's bytes.
fn opening(start: u8) -> Vec<u8> {
    let flags = 3_u32.to_be_bytes().to_vec();
    let name = [&(VOLUME.len() as u32).to_be_bytes(), VOLUME].concat();
    let go = option(GO, &[&name[..], &[0, 0]].concat());
    let context = b"base:allocation";
    let query = [
        &name[..],
        &1_u32.to_be_bytes(),
        &(context.len() as u32).to_be_bytes(),
        context,
    ]
    .concat();
    let allocation = option(SET_META_CONTEXT, &query);
    match start % 5 {
        0 => Vec::new(),
        1 => flags,
        2 => [flags, go].concat(),
        3 => [flags, option(STRUCTURED_REPLY, &[]), allocation, go].concat(),
        _ => [flags, option(EXTENDED_HEADERS, &[]), allocation, go].concat(),
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length, data].concat()
}

/// Says everything, hears everything, and waits for the server's end.
async fn conversation(store: Arc<dyn ImageStore>, said: Vec<u8>) {
    let (ours, theirs) = duplex(PIPE_BYTES);
    let peer = Peer {
        origin: Origin::Unix { uid: 0 },
        certificate: None,
    };
    let options = Options::default();
    let server = serve_stream(theirs, peer, store, &options);
    let (mut reader, mut writer) = tokio::io::split(ours);
    let speaking = async {
        // The server may have hung up already.
        let _ = writer.write_all(&said).await;
        let _ = writer.shutdown().await;
    };
    let hearing = async {
        let mut heard = vec![0; PIPE_BYTES];
        while let Ok(1..) = reader.read(&mut heard).await {}
    };
    let _ = tokio::join!(server, speaking, hearing);
}
