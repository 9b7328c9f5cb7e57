//! The conformance suite: what every engine must do, compared with the oracle
//! [`MemoryStore`](crate::memory::MemoryStore). Engines call [`run`] from their tests.

mod cases;
mod compare;
mod random;

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Error, ImageStore, MAX_IMAGE_BYTES};

/// How the suite gets at an engine.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Opens the store; after it was closed, the same store again.
    async fn open(&self) -> Result<Arc<dyn ImageStore>, Error>;
    fn limits(&self) -> Limits {
        Limits::default()
    }
    /// Called now and then on a store in rest: a check of its own.
    async fn check(&self, _store: &Arc<dyn ImageStore>) -> Result<(), Failure> {
        Ok(())
    }
}

/// What an engine did wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure(format!("unexpected error: {error}"))
    }
}

/// The outcome of a part of the suite.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Fails with a text unless the condition holds.
pub fn ensure(holds: bool, text: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(Failure(text())) }
}

/// What the suite may expect of an engine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest image to make; a power of two.
    pub image_bytes: u64,
    /// [`ImageStore::capacity`] counts at once what was written and removed.
    pub counts_at_once: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            image_bytes: MAX_IMAGE_BYTES,
            counts_at_once: true,
        }
    }
}

/// How much to do.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    pub seed: u64,
    /// Random operations.
    pub steps: u32,
}

/// Runs the whole suite: the cases, then random operations. The store must be empty, and is
/// empty and closed afterwards.
pub async fn run(engine: &dyn Engine, effort: Effort) -> Outcome {
    cases::run(engine).await?;
    random::run(engine, effort).await
}

/// A small deterministic random number generator (xorshift64*).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number, of 56 bits.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    /// A number below `end`; 0 for 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    /// Bytes without a pattern; the same again for the same state.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.number().to_le_bytes());
        words.flatten().take(length).collect()
    }
}
