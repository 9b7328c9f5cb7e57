//! SQLite: one file, one writer, nothing to install.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteQueryResult,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{
    Arguments, AssertSqlSafe, Column, Executor, Row as _, Sqlite, Transaction, TypeInfo, ValueRef,
};

use super::{Dialect, Pools, RowsAffected, not_portable};
use crate::{Error, Result, Value};

/// How long a writer waits for the one before it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// Readers; each holds a small page cache, so few.
const READERS: u32 = 4;
/// Page cache of one connection, in KiB (negative: SQLite's notation for KiB).
const CACHE_KIB: &str = "-2048";

/// SQLite's primary result codes that mean "try again later".
const SQLITE_BUSY: i64 = 5;
const SQLITE_LOCKED: i64 = 6;
const SQLITE_READONLY: i64 = 8;
const SQLITE_IOERR: i64 = 10;
const SQLITE_FULL: i64 = 13;
const SQLITE_CANTOPEN: i64 = 14;

/// Opens the file, made where it is missing.
pub(crate) async fn open(path: &str) -> Result<Pools<Sqlite>> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(200)
        .pragma("cache_size", CACHE_KIB);
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(BUSY_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options.clone())
        .await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(BUSY_TIMEOUT)
        .test_before_acquire(false)
        .max_lifetime(None)
        .connect_with(options.pragma("query_only", "1"))
        .await?;
    Ok(Pools { writer, readers })
}

/// Whether a result code means that the same may work later.
pub(crate) fn is_passing(code: &str) -> bool {
    let primary = code.parse::<i64>().unwrap_or(0) & 0xff;
    matches!(
        primary,
        SQLITE_BUSY
            | SQLITE_LOCKED
            | SQLITE_READONLY
            | SQLITE_IOERR
            | SQLITE_FULL
            | SQLITE_CANTOPEN
    )
}

impl RowsAffected for SqliteQueryResult {
    fn count(&self) -> u64 {
        self.rows_affected()
    }
}

impl Dialect for Sqlite {
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    const TAKE_TURN: Option<&'static str> = None;

    fn statement<'s>(sql: &'s str, _: &[Value]) -> Cow<'s, str> {
        Cow::Borrowed(sql)
    }

    fn arguments(params: &[Value]) -> Result<SqliteArguments> {
        let mut arguments = SqliteArguments::default();
        for value in params {
            match value {
                Value::Null => arguments.add(None::<i64>),
                Value::Int(int) => arguments.add(*int),
                Value::Text(text) => arguments.add(text.clone()),
            }
            .map_err(|error| Error::Other(error.to_string()))?;
        }
        Ok(arguments)
    }

    fn decode(row: &SqliteRow, position: usize) -> Result<Value> {
        let raw = row.try_get_raw(position)?;
        if raw.is_null() {
            return Ok(Value::Null);
        }
        let type_info = raw.type_info().into_owned();
        match type_info.name() {
            "INTEGER" | "BOOLEAN" | "NULL" => Ok(Value::Int(row.try_get_unchecked(position)?)),
            "TEXT" => Ok(Value::Text(row.try_get_unchecked(position)?)),
            other => Err(not_portable(row.column(position).name(), other)),
        }
    }

    async fn migrate(tx: &mut Transaction<'static, Self>, _: i64, script: &str) -> Result<()> {
        let script = sqlx::raw_sql(AssertSqlSafe(script.to_owned()));
        (&mut **tx).execute(script).await?;
        Ok(())
    }
}
