//! The server against real clients, a client of our own, and broken ones.

mod admission;
mod client;
mod handles;
mod malformed;
mod protocol;
mod qemu;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Listener, Options, serve};
use crate::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::memory::MemoryStore;
use crate::{ImageSpec, ImageStore};
use client::Client;

const SIZE: u64 = 16 << 20;

/// A server on a Unix socket, with a volume of 16 MiB and a snapshot of it.
struct Server {
    store: Arc<dyn ImageStore>,
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
    folder: tempfile::TempDir,
    store_folder: Option<tempfile::TempDir>,
}

impl Server {
    async fn start() -> Server {
        Self::with(Arc::new(MemoryStore::new()), Options::default()).await
    }

    /// Over a store on a disk, whose connections are on lanes.
    async fn on_lanes() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        assert!(store.lanes().is_some());
        let mut server = Self::with(store, Options::default()).await;
        server.store_folder = Some(folder);
        server
    }

    async fn with(store: Arc<dyn ImageStore>, options: Options) -> Server {
        store.ensure_pool("volumes").await.unwrap();
        store.create(&volume(), SIZE).await.unwrap();
        store
            .create_snapshot(&volume().at("snapshot-s"))
            .await
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd.sock");
        let listener = Listener::unix(&socket).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let running = tokio::spawn(serve(listener, Arc::clone(&store), options, shutdown));
        Server {
            store,
            socket,
            stop,
            running,
            folder,
            store_folder: None,
        }
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    async fn connect(&self) -> Client {
        Client::connect(&self.socket).await
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
        if self.store_folder.is_some() {
            self.store.close().await.unwrap();
        }
    }
}

fn volume() -> ImageSpec {
    ImageSpec::new("volumes", "volume-x")
}

#[tokio::test]
async fn the_socket_is_private_replaced_and_removed() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start().await;
    let socket = server.socket.clone();
    assert_eq!(
        std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let second = Listener::unix(&socket).await.unwrap_err();
    assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse);

    let stale = server.folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    drop(Listener::unix(&stale).await.unwrap());
    assert!(!stale.exists());

    let file = server.folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert_eq!(
        Listener::unix(&file).await.unwrap_err().kind(),
        std::io::ErrorKind::AlreadyExists
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");

    server.running.abort();
    let _ = server.running.await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn tcp_serves_as_well() {
    let server = Server::start().await;
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.tcp_address().unwrap();
    let store = Arc::clone(&server.store);
    let running = tokio::spawn(serve(
        listener,
        store,
        Options::default(),
        std::future::pending(),
    ));
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (reader, writer) = stream.into_split();
    let mut client = Client::greet(Box::new(reader), Box::new(writer)).await;
    assert_eq!(client.go("volume-x").await.unwrap().0, SIZE);
    running.abort();
}

#[tokio::test]
async fn connections_over_the_limit_are_closed() {
    let options = Options {
        max_connections: 2,
        ..Options::default()
    };
    let server = Server::with(Arc::new(MemoryStore::new()), options).await;
    let (first, _second) = (server.connect().await, server.connect().await);
    assert!(Client::try_connect(&server.socket).await.is_err());
    drop(first);
    // The server notices the free place when it has seen the first one's end.
    while Client::try_connect(&server.socket).await.is_err() {
        tokio::task::yield_now().await;
    }
}
