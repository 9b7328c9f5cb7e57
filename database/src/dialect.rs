//! Everything that differs between database servers.
//!
//! Statements reach this module as portable SQL. Today there is one server, SQLite; a further
//! one adds its placeholder style, its column decoding and its error codes here.

use sqlx::sqlite::SqliteRow;
use sqlx::{Column, Row as _, TypeInfo, ValueRef};

use crate::{Error, Result, Value};

/// SQLite's primary result codes that mean "try again later".
const SQLITE_BUSY: i64 = 5;
const SQLITE_LOCKED: i64 = 6;
const SQLITE_READONLY: i64 = 8;
const SQLITE_IOERR: i64 = 10;
const SQLITE_FULL: i64 = 13;
const SQLITE_CANTOPEN: i64 = 14;

/// Sorts a server's error code into what the caller can do.
pub(crate) fn classify(error: &dyn sqlx::error::DatabaseError) -> Error {
    let code = error
        .code()
        .and_then(|code| code.parse::<i64>().ok())
        .unwrap_or(0)
        & 0xff;
    let message = format!("{} (code {code})", error.message());
    match code {
        SQLITE_BUSY | SQLITE_LOCKED | SQLITE_READONLY | SQLITE_IOERR | SQLITE_FULL
        | SQLITE_CANTOPEN => Error::Unavailable(message),
        _ => Error::Other(message),
    }
}

/// One column of a SQLite row as a portable value.
pub(crate) fn decode(row: &SqliteRow, position: usize) -> Result<Value> {
    let raw = row.try_get_raw(position)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let type_info = raw.type_info().into_owned();
    match type_info.name() {
        "INTEGER" | "BOOLEAN" | "NULL" => Ok(Value::Int(row.try_get_unchecked(position)?)),
        "TEXT" => Ok(Value::Text(row.try_get_unchecked(position)?)),
        other => Err(Error::Decode {
            column: row.column(position).name().to_owned(),
            reason: format!("type {other} is not portable"),
        }),
    }
}
