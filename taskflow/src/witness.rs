//! Writing down that flows begin and end, in the journal's own transactions.

use async_trait::async_trait;
use database::Tx;

use crate::FlowInfo;

/// How a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All that was asked is done.
    Succeeded,
    /// It failed, and nothing is left of it.
    Reverted,
    /// It waits for the operator.
    Parked,
}

/// Writes something down exactly when a flow begins or ends: its writes and the journal's become
/// durable together, or neither does. Notifications are told from here.
///
/// An error is treated as one of the journal: what was to be recorded is not, and comes again.
#[async_trait]
pub trait Witness: Send + Sync + 'static {
    /// A worker takes the flow up for the first time.
    async fn began(&self, flow: &FlowInfo, tx: &mut Tx) -> database::Result<()>;

    /// The last record of the flow; the flow's own writes of this transaction are done.
    async fn ended(&self, flow: &FlowInfo, ending: Ending, tx: &mut Tx) -> database::Result<()>;
}
