//! Files that hold one packed file, as image services take them: gzip and zip.

mod zip;

use std::fmt;
use std::io::{self, BufReader, Read, Seek};

use flate2::bufread::MultiGzDecoder;

/// Bytes of a file that [`Archive::detect`] needs.
pub const ARCHIVE_DETECT_BYTES: usize = 5;
/// Packed bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// What a file is packed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    Gzip,
    Zip,
    /// Told apart, but not read.
    Lha,
}

impl Archive {
    /// By the first bytes of a file; `None`: it is not packed.
    pub fn detect(head: &[u8]) -> Option<Self> {
        if head.starts_with(b"\x1f\x8b\x08") {
            Some(Archive::Gzip)
        } else if head.starts_with(b"PK\x03\x04") {
            Some(Archive::Zip)
        } else if head.get(2..).is_some_and(|head| head.starts_with(b"-lh")) {
            Some(Archive::Lha)
        } else {
            None
        }
    }

    /// The packed file. Reading blocks as the source does, and ends with `InvalidData` or
    /// `UnexpectedEof` where the archive is damaged. Holds about 1.2 MiB, whatever comes out.
    /// Errors: a damaged archive, one that holds another number of files than one, and
    /// `Unsupported`.
    pub fn unpack<R: Read + Seek + Send + 'static>(
        self,
        source: R,
    ) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Archive::Gzip => {
                let packed = BufReader::with_capacity(BUFFER_BYTES, source);
                Ok(Box::new(MultiGzDecoder::new(packed)))
            }
            Archive::Zip => zip::open(source),
            Archive::Lha => Err(unsupported("lha archives cannot be read")),
        }
    }
}

impl fmt::Display for Archive {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Archive::Gzip => "gzip",
            Archive::Zip => "zip",
            Archive::Lha => "lha",
        })
    }
}

fn unsupported(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, reason.into())
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the archive is damaged: {reason}"),
    )
}
