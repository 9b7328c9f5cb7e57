//! The doorbell: wakes workers at once instead of at their next sweep.

use std::sync::Arc;

use tokio::sync::watch;

/// Wakes workers. Clones ring the same bell, and any number of workers may listen to one. A
/// lost ring costs a second: every worker sweeps.
#[derive(Debug, Clone)]
pub struct Doorbell(Arc<watch::Sender<u64>>);

impl Default for Doorbell {
    fn default() -> Self {
        Doorbell::new()
    }
}

impl Doorbell {
    /// A bell that no worker listens to yet; give it to [`crate::WorkerBuilder::doorbell`].
    pub fn new() -> Self {
        Doorbell(Arc::new(watch::Sender::new(0)))
    }

    /// There may be work: ring after the commit that inserted it. Never blocks.
    pub fn wake(&self) {
        self.0.send_modify(|rings| *rings = rings.wrapping_add(1));
    }

    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
