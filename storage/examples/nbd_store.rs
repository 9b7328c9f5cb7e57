//! Serves one volume of an embedded store over NBD: the way to measure the data path alone.
//!
//! `cargo run --release -p storage --example nbd_store -- FOLDER SOCKET SIZE_MIB`

use std::path::PathBuf;

use storage::embedded::{EmbeddedOptions, EmbeddedStore};
use storage::nbd::{self, Listener, Options};
use storage::{Error, ImageSpec, ImageStore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, socket, size_mib] = arguments.as_slice() else {
        return Err("usage: nbd_store FOLDER SOCKET SIZE_MIB".into());
    };
    let folder = PathBuf::from(folder);
    let store = EmbeddedStore::open(&folder, EmbeddedOptions::default())?;
    store.ensure_pool("volumes").await?;
    let volume = ImageSpec::new("volumes", "volume-1");
    match store.create(&volume, size_mib.parse::<u64>()? << 20).await {
        Ok(()) | Err(Error::Exists(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let listener = Listener::unix(socket).await?;
    println!("nbd+unix:///volume-1?socket={socket}");
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    nbd::serve(listener, store.clone(), Options::default(), stop).await;
    store.close().await?;
    Ok(())
}
