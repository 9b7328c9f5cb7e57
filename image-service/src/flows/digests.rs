//! The hashes of data that streams by, and what it is: each is computed on a lane of its own, off
//! the async workers, so that they run side by side.

use bytes::Bytes;
use image_formats::{Inspection, Inspector};
use taskflow::TaskError;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::hashing::{Algorithm, Hash};

/// Pieces that wait for a lane.
const QUEUED_PIECES: usize = 2;

/// What all of the data came to.
pub struct Digested {
    pub inspection: Inspection,
    pub md5_hex: String,
    /// Of the algorithm that was asked for.
    pub hash_hex: String,
}

/// The running digests. Dropping them ends their lanes.
pub struct Digests {
    md5: Lane<(Hash, Inspector)>,
    /// `None`: MD5 is all that was asked for.
    second: Option<Lane<Hash>>,
}

impl Digests {
    /// MD5, this hash and an inspection.
    pub fn start(algorithm: Algorithm) -> Self {
        let md5 = (Hash::new(Algorithm::Md5), Inspector::new());
        let second = (algorithm != Algorithm::Md5).then(|| Hash::new(algorithm));
        Digests {
            md5: Lane::start(md5, |(hash, inspector), piece| {
                hash.feed(piece);
                inspector.feed(piece);
            }),
            second: second.map(|hash| Lane::start(hash, |hash, piece| hash.feed(piece))),
        }
    }

    /// Waits while a lane is behind.
    pub async fn feed(&self, piece: Bytes) -> Result<(), TaskError> {
        self.md5.feed(piece.clone()).await?;
        match &self.second {
            Some(lane) => lane.feed(piece).await,
            None => Ok(()),
        }
    }

    pub async fn finish(self) -> Result<Digested, TaskError> {
        let (md5, inspector) = self.md5.finish().await?;
        let md5_hex = md5.finish();
        let hash_hex = match self.second {
            Some(lane) => lane.finish().await?.finish(),
            None => md5_hex.clone(),
        };
        Ok(Digested {
            inspection: inspector.finish(),
            md5_hex,
            hash_hex,
        })
    }
}

/// A state that pieces are fed to in order. A lane that is idle holds no thread.
struct Lane<S> {
    pieces: mpsc::Sender<Bytes>,
    state: JoinHandle<Result<S, JoinError>>,
}

impl<S: Send + 'static> Lane<S> {
    fn start(state: S, feed: fn(&mut S, &[u8])) -> Self {
        let (pieces, queue) = mpsc::channel(QUEUED_PIECES);
        Lane {
            pieces,
            state: tokio::spawn(run(state, queue, feed)),
        }
    }

    async fn feed(&self, piece: Bytes) -> Result<(), TaskError> {
        // The lane ends early only by a panic.
        let sent = self.pieces.send(piece).await;
        sent.map_err(|_| TaskError::new(TaskError::PANIC, "a hash ended before its data"))
    }

    async fn finish(self) -> Result<S, TaskError> {
        drop(self.pieces);
        let state = self.state.await.and_then(|state| state);
        state.map_err(|error| TaskError::new(TaskError::PANIC, error.to_string()))
    }
}

async fn run<S: Send + 'static>(
    mut state: S,
    mut queue: mpsc::Receiver<Bytes>,
    feed: fn(&mut S, &[u8]),
) -> Result<S, JoinError> {
    while let Some(piece) = queue.recv().await {
        let fed = spawn_blocking(move || {
            feed(&mut state, &piece);
            // What came meanwhile needs no further change of threads.
            while let Ok(piece) = queue.try_recv() {
                feed(&mut state, &piece);
            }
            (state, queue)
        });
        (state, queue) = fed.await?;
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_are_digested_in_order() {
        for algorithm in [Algorithm::Sha256, Algorithm::Md5] {
            let digests = Digests::start(algorithm);
            let (mut md5, mut second) = (Hash::new(Algorithm::Md5), Hash::new(algorithm));
            for number in 0..100_u8 {
                let piece = vec![number; 1000];
                md5.feed(&piece);
                second.feed(&piece);
                digests.feed(Bytes::from(piece)).await.unwrap();
            }
            let digested = digests.finish().await.unwrap();
            assert_eq!(digested.md5_hex, md5.finish());
            assert_eq!(digested.hash_hex, second.finish());
            assert_eq!(digested.inspection.size_bytes, 100_000);
        }
    }
}
