//! The connection pools and the write transaction.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{Arguments, AssertSqlSafe, Column, Executor, Row as _, Sqlite, Transaction};

use crate::{Error, Result, Row, Value, dialect};

/// How long a writer waits for the one before it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// Readers; each holds a small page cache, so few.
const READERS: u32 = 4;
/// Page cache of one connection, in KiB (negative: SQLite's notation for KiB).
const CACHE_KIB: &str = "-2048";

/// An open database. Cheap to clone; clones share the pools.
#[derive(Debug, Clone)]
pub struct Database {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Database {
    /// Opens `url` (`sqlite:///absolute/path` or `sqlite://relative/path`, oslo.db's
    /// `[database] connection`), creating an SQLite file that is not there.
    ///
    /// Errors: [`Error::Unavailable`] where the file cannot be opened or written,
    /// [`Error::Schema`] for a server that is not supported.
    pub async fn open(url: &str) -> Result<Self> {
        let path = url.strip_prefix("sqlite://").ok_or_else(|| {
            let scheme = url.split(':').next().unwrap_or_default();
            Error::Schema(format!(
                "[database] connection: {scheme} is not supported yet, use sqlite"
            ))
        })?;
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
        Ok(Database { writer, readers })
    }

    /// Begins a write transaction; it waits for the writer before it.
    pub async fn begin(&self) -> Result<Tx> {
        let inner = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Tx { inner })
    }

    /// Reads all rows, in a snapshot of its own.
    pub async fn fetch_all(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        fetch(&self.readers, sql, params).await
    }

    /// Reads at most one row.
    pub async fn fetch_optional(&self, sql: &str, params: &[Value]) -> Result<Option<Row>> {
        Ok(self.fetch_all(sql, params).await?.into_iter().next())
    }

    /// Reads the one row; [`Error::NoRow`] where there is none.
    pub async fn fetch_one(&self, sql: &str, params: &[Value]) -> Result<Row> {
        self.fetch_optional(sql, params).await?.ok_or(Error::NoRow)
    }

    /// Runs one statement in a transaction of its own; returns the number of rows it changed.
    pub async fn execute(&self, sql: &str, params: &[Value]) -> Result<u64> {
        let mut tx = self.begin().await?;
        let changed = tx.execute(sql, params).await?;
        tx.commit().await?;
        Ok(changed)
    }

    /// Waits for what runs and closes every connection.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// A write transaction. Dropped without [`Tx::commit`], it is rolled back.
#[derive(Debug)]
pub struct Tx {
    inner: Transaction<'static, Sqlite>,
}

impl Tx {
    /// Runs one statement; returns the number of rows it changed.
    pub async fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64> {
        let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments(params)?);
        Ok(self.inner.execute(query).await?.rows_affected())
    }

    /// Runs several statements separated by `;`, without parameters (migrations).
    pub(crate) async fn execute_script(&mut self, sql: &str) -> Result<()> {
        self.inner
            .execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())))
            .await?;
        Ok(())
    }

    /// Reads all rows, as this transaction sees them.
    pub async fn fetch_all(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        fetch(&mut *self.inner, sql, params).await
    }

    /// Reads at most one row.
    pub async fn fetch_optional(&mut self, sql: &str, params: &[Value]) -> Result<Option<Row>> {
        Ok(self.fetch_all(sql, params).await?.into_iter().next())
    }

    /// Reads the one row; [`Error::NoRow`] where there is none.
    pub async fn fetch_one(&mut self, sql: &str, params: &[Value]) -> Result<Row> {
        self.fetch_optional(sql, params).await?.ok_or(Error::NoRow)
    }

    /// Makes everything durable; when this returns `Ok`, a crash cannot take it back.
    pub async fn commit(self) -> Result<()> {
        Ok(self.inner.commit().await?)
    }

    /// Takes everything back.
    pub async fn rollback(self) -> Result<()> {
        Ok(self.inner.rollback().await?)
    }
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

async fn fetch<'c, E>(executor: E, sql: &str, params: &[Value]) -> Result<Vec<Row>>
where
    E: Executor<'c, Database = Sqlite>,
{
    let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments(params)?);
    let rows: Vec<SqliteRow> = executor.fetch_all(query).await?;
    let Some(first) = rows.first() else {
        return Ok(Vec::new());
    };
    let columns: Arc<[String]> = first
        .columns()
        .iter()
        .map(|column| column.name().to_owned())
        .collect();
    let read = |row: &SqliteRow| {
        let values = (0..columns.len()).map(|position| dialect::decode(row, position));
        Ok(Row {
            columns: columns.clone(),
            values: values.collect::<Result<_>>()?,
        })
    };
    rows.iter().map(read).collect()
}
