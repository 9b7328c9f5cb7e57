//! The NBD export of the store: on the Unix socket, and on TCP where it is configured.

use std::sync::Arc;

use storage::ImageStore;
use storage::nbd::{Listener, OpenToAll, Options, Tls};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use volume_service::export_admission::AttachedVolumes;

use super::Node;
use crate::config::{ConfigError, backends};
use crate::error::Result;

/// Everything that can fail about the exports, done.
pub struct Exports {
    /// The node's.
    store: Option<Arc<dyn ImageStore>>,
    unix: Options,
    tcp: Options,
}

impl Exports {
    /// Errors: certificates that are missing or broken, with the option and the file.
    pub fn prepare(node: &Node) -> Result<Self> {
        let settings = &node.settings.nbd;
        let tls = settings.tls.as_ref().map(|(folder, verify_peer)| {
            Tls::from_folder(folder, *verify_peer)
                .map_err(|error| ConfigError::option("nbd", "tls_x509_cert_dir", error.to_string()))
        });
        let backends = backends::volume_backends(&node.config, &node.stores)?;
        let pool = backends.into_iter().next().map(|backend| backend.pool);
        let pool = pool.unwrap_or_else(|| "volumes".to_owned());
        let options = |is_open: bool| {
            let plain = is_open.then(|| OpenToAll {
                default_pool: pool.clone(),
            });
            Options {
                max_connections: settings.max_connections,
                admission: Arc::new(AttachedVolumes {
                    database: node.database.clone(),
                    plain,
                    verify_host: settings.tls_verify_host,
                }),
                tls: None,
                stall_timeout: settings.stall_timeout,
                idle_timeout: settings.idle_timeout,
            }
        };
        Ok(Exports {
            store: node.stores.node.clone(),
            unix: options(settings.unix_is_open),
            tcp: Options {
                tls: tls.transpose()?,
                ..options(settings.tcp_is_open)
            },
        })
    }

    /// Serves until `stop`: the node's store on `listeners`, the others on theirs.
    pub fn start(
        self,
        listeners: Vec<Listener>,
        own_stores: Vec<(Listener, Arc<dyn ImageStore>)>,
        stop: &CancellationToken,
    ) -> Vec<JoinHandle<()>> {
        let store = self.store.clone();
        let node = listeners
            .into_iter()
            .filter_map(|listener| Some((listener, store.clone()?)));
        let serve = |(listener, store): (Listener, Arc<dyn ImageStore>)| {
            let is_tcp = listener.tcp_address().is_some();
            let options = if is_tcp { &self.tcp } else { &self.unix };
            tokio::spawn(storage::nbd::serve(
                listener,
                store,
                options.clone(),
                stop.clone().cancelled_owned(),
            ))
        };
        node.chain(own_stores).map(serve).collect()
    }
}
