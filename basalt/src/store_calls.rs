//! What an operator asks of an embedded store, whether it is open in this process or in a server.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use storage::embedded::{
    DefragmentOptions, DefragmentReport, EmbeddedStore, Progress, ScrubOptions, ScrubReport, Usage,
};
use storage::{ImageSpec, ImageStore};

/// A call; it goes to a server as one line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "call")]
pub enum Call {
    Scrub {
        most_mib_per_second: u64,
    },
    Du,
    Defragment {
        image: ImageSpec,
        most_mib_per_second: u64,
    },
}

/// What it came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    Scrub(ScrubReport),
    Du(StoreUsage),
    Defragment(DefragmentReport),
}

/// What a store keeps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreUsage {
    pub fsid: String,
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub used_bytes: u64,
    /// Snapshots before the head of their image.
    pub usage: Vec<Usage>,
}

impl Call {
    /// Carries the call out, beside whatever else uses the store.
    pub async fn carry_out(
        self,
        store: &EmbeddedStore,
        progress: Arc<Progress>,
    ) -> storage::Result<Answer> {
        Ok(match self {
            Call::Scrub {
                most_mib_per_second,
            } => {
                let options = ScrubOptions {
                    most_bytes_per_second: bytes(most_mib_per_second),
                };
                Answer::Scrub(store.scrub(options, progress).await?)
            }
            Call::Du => {
                let capacity = store.capacity("").await?;
                Answer::Du(StoreUsage {
                    fsid: store.fsid().to_owned(),
                    total_bytes: capacity.total_bytes,
                    free_bytes: capacity.free_bytes,
                    used_bytes: capacity.used_bytes,
                    usage: store.usage().await?,
                })
            }
            Call::Defragment {
                image,
                most_mib_per_second,
            } => {
                let options = DefragmentOptions {
                    most_bytes_per_second: bytes(most_mib_per_second),
                };
                Answer::Defragment(store.defragment(&image, options, progress).await?)
            }
        })
    }
}

/// 0: no limit.
fn bytes(mib: u64) -> Option<u64> {
    (mib > 0).then(|| mib.saturating_mul(1 << 20))
}
