//! From an `errno` of librbd to what a caller can do about it.

use std::fmt::Display;

use super::native::Errno;
use crate::Error;

/// The client was blocklisted: another broke its lock while it could not answer.
const SHUTDOWN: Errno = Errno(108);

/// Whether only a new connection helps.
pub(super) fn needs_reconnect(error: Errno) -> bool {
    error == SHUTDOWN
}

/// The failure of a call on `what`.
pub(super) fn failure(what: impl Display, error: Errno) -> Error {
    match error {
        Errno::NOENT => Error::NotFound(what.to_string()),
        Errno::EXIST => Error::Exists(what.to_string()),
        Errno::BUSY => Error::Busy {
            what: what.to_string(),
            children: Vec::new(),
        },
        Errno::ROFS => Error::ReadOnly(what.to_string()),
        Errno::NOSPC | Errno::DQUOT => Error::OutOfSpace,
        Errno::INVAL | Errno::DOM | Errno::FBIG | Errno::RANGE => {
            Error::Invalid(format!("{what}: {error}"))
        }
        Errno::PERM | Errno::ACCES => Error::Unavailable(format!(
            "{what}: {error}; the Ceph user needs \"profile rbd\" for this pool"
        )),
        Errno::TIMEDOUT => Error::Unavailable(format!("{what}: the cluster does not answer")),
        other => Error::Unavailable(format!("{what}: {other}")),
    }
}
