//! Serves one volume of memory over NBD: the smallest use of the export, and the way to measure
//! the protocol without a disk.
//!
//! `cargo run --release -p storage --example nbd_memory -- SOCKET SIZE_MIB`

use std::sync::Arc;

use storage::memory::MemoryStore;
use storage::nbd::{self, Listener, Options};
use storage::{ImageSpec, ImageStore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(socket), Some(size_mib)) = (arguments.next(), arguments.next()) else {
        return Err("usage: nbd_memory SOCKET SIZE_MIB".into());
    };
    let store = Arc::new(MemoryStore::new());
    store.ensure_pool("volumes").await?;
    let volume = ImageSpec::new("volumes", "volume-1");
    store
        .create(&volume, size_mib.parse::<u64>()? << 20)
        .await?;
    let listener = Listener::unix(&socket).await?;
    println!("nbd+unix:///volume-1?socket={socket}");
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    nbd::serve(listener, store, Options::default(), stop).await;
    Ok(())
}
