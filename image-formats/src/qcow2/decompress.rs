//! Decompression of single clusters.

use std::io::Read;

use flate2::{Decompress, FlushDecompress};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::header::Compression;
use crate::{Error, Result};

/// No cluster is larger than 2 MiB, so no honest frame asks for more; the format's own
/// recommendation for decoders is 8 MiB.
const MAX_ZSTD_WINDOW_BYTES: u64 = 8 * 1024 * 1024;

/// A decompressor that is used for one cluster after the other.
pub(crate) enum Decompressor {
    Zlib(Decompress),
    Zstd(Box<FrameDecoder>),
}

impl Decompressor {
    pub fn new(compression: Compression) -> Self {
        match compression {
            Compression::Zlib => Decompressor::Zlib(Decompress::new(false)),
            Compression::Zstd => {
                let mut decoder = FrameDecoder::new();
                decoder.set_max_window_size(MAX_ZSTD_WINDOW_BYTES);
                Decompressor::Zstd(Box::new(decoder))
            }
        }
    }

    /// Fills `cluster`. What follows the compressed data in `input` is ignored: its length is
    /// known only in sectors.
    pub fn cluster(&mut self, input: &[u8], cluster: &mut [u8]) -> Result<()> {
        match self {
            Decompressor::Zlib(inflate) => {
                inflate.reset(false);
                // Judged by what came out; the status also tells of unused input.
                let status = inflate.decompress(input, cluster, FlushDecompress::Finish);
                if status.is_err() || inflate.total_out() != cluster.len() as u64 {
                    return Err(broken());
                }
                Ok(())
            }
            Decompressor::Zstd(decoder) => {
                let stream = StreamingDecoder::new_with_decoder(input, decoder.as_mut());
                let mut stream = stream.map_err(|_| broken())?;
                stream.read_exact(cluster).map_err(|_| broken())
            }
        }
    }
}

fn broken() -> Error {
    Error::corrupt("a compressed cluster cannot be decompressed")
}
