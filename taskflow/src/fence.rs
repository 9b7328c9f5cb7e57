//! Shutting out a worker that lost its flows but may still be at work on one.

use async_trait::async_trait;

/// Keeps a worker from changing anything outside the database. Asked when a flow is taken over
/// whose worker let the lease run out: that may be frozen rather than dead, and wake up in the
/// middle of a task. (The journal needs no fence: its writes name the claim.)
#[async_trait]
pub trait Fence: Send + Sync + 'static {
    /// Returns when nothing that `owner` has begun can take effect any more. Where that cannot be
    /// had, logs so and returns as well, for waiting would help nobody.
    async fn shut_out(&self, owner: &str);
}
