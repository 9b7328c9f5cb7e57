//! The database layer: one portable way to run SQL, whatever the server.
//!
//! **Promises.** Statements are written once, in portable SQL with `?` placeholders
//! (CHAR(36) ids, BIGINT microseconds, SMALLINT booleans, JSON as TEXT; no RETURNING, no
//! upserts, no arrays). Every write happens in a [`Tx`]; a `Tx` that is dropped without
//! [`Tx::commit`] leaves nothing. A commit that returned is on stable storage.
//!
//! **Relies on.** SQLite (bundled) in WAL mode with `synchronous=FULL`, PostgreSQL, or MariaDB
//! and MySQL with InnoDB; one connection that writes and a pool of readers. Write transactions
//! take turns on each of them, across processes (`BEGIN IMMEDIATE`, an advisory lock, a row that
//! each changes first): they read and then decide, so they are written for one writer at a time.
//! What differs between servers lives in `dialect`; nothing else may know which server it
//! talks to.
//!
//! **On a crash.** A transaction either committed or never was. A process that froze in the middle
//! of one loses it after ten seconds, so that the others go on.

mod connection;
mod dialect;
mod error;
pub mod migrate;
mod row;
pub mod testing;
mod value;

pub use connection::{Database, Tx};
pub use error::{Error, Result};
pub use row::Row;
pub use value::{FromValue, Value};

/// Builds the parameter list of a statement: `params![id, "available", size_gib]`.
#[macro_export]
macro_rules! params {
    () => { &[] as &[$crate::Value] };
    ($($value:expr),+ $(,)?) => { &[$($crate::Value::from($value)),+][..] };
}

/// Now, in microseconds since the Unix epoch: the unit of every time column.
pub fn now_us() -> i64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |elapsed| {
        i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
    })
}
