//! The database and the write transaction, whatever the server.

use sqlx::{MySql, Postgres, Sqlite, Transaction};

use crate::dialect::{self, Dialect, Pools, mysql, postgres, sqlite};
use crate::{Error, Result, Row, Value};

/// An open database. Cheap to clone; clones share the pools.
#[derive(Debug, Clone)]
pub struct Database {
    server: Server,
}

#[derive(Debug, Clone)]
enum Server {
    Sqlite(Pools<Sqlite>),
    Postgres(Pools<Postgres>),
    MySql(Pools<MySql>),
}

/// The same future for whichever server there is. On the heap: it is that of three drivers, and
/// every caller's own future would hold it.
macro_rules! on_each {
    ($kind:ident, $value:expr, $inner:ident => $body:expr) => {
        match $value {
            $kind::Sqlite($inner) => Box::pin($body).await,
            $kind::Postgres($inner) => Box::pin($body).await,
            $kind::MySql($inner) => Box::pin($body).await,
        }
    };
}

impl Database {
    /// Opens `url`, oslo.db's `[database] connection`: `sqlite:///absolute/path` (or
    /// `sqlite://relative/path`), `mysql+pymysql://user:password@host/database`,
    /// `postgresql://user:password@host/database`; Python's drivers in it are passed over.
    /// An SQLite file that is not there is created; on a server the database must exist.
    ///
    /// Errors: [`Error::Unavailable`] where it cannot be reached or written,
    /// [`Error::Schema`] for an address that is not understood.
    pub async fn open(url: &str) -> Result<Self> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| Error::Schema("[database] connection: not an address".to_owned()))?;
        let server = match scheme.split('+').next().unwrap_or_default() {
            "sqlite" => Server::Sqlite(sqlite::open(rest).await?),
            "postgresql" | "postgres" => {
                Server::Postgres(postgres::open(&format!("postgresql://{rest}")).await?)
            }
            "mysql" | "mariadb" => Server::MySql(mysql::open(&format!("mysql://{rest}")).await?),
            other => {
                return Err(Error::Schema(format!(
                    "[database] connection: {other} is not supported, use sqlite, postgresql or mysql"
                )));
            }
        };
        Ok(Database { server })
    }

    /// Begins a write transaction; it waits for the writer before it, in whichever process.
    pub async fn begin(&self) -> Result<Tx> {
        let inner = match &self.server {
            Server::Sqlite(pools) => Inner::Sqlite(Box::pin(pools.begin_patiently()).await?),
            Server::Postgres(pools) => Inner::Postgres(Box::pin(pools.begin_patiently()).await?),
            Server::MySql(pools) => Inner::MySql(Box::pin(pools.begin_patiently()).await?),
        };
        Ok(Tx { inner })
    }

    /// Reads all rows, in a snapshot of its own.
    pub async fn fetch_all(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        on_each!(Server, &self.server, pools => pools.fetch(sql, params))
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

    /// Runs a statement that no transaction may hold (`CREATE DATABASE`).
    pub(crate) async fn outside_of_transactions(&self, sql: &str) -> Result<()> {
        on_each!(Server, &self.server, pools => pools.outside_of_transactions(sql))
    }

    /// Waits for what runs and closes every connection.
    pub async fn close(&self) {
        on_each!(Server, &self.server, pools => pools.close());
    }
}

/// A write transaction. Dropped without [`Tx::commit`], it is rolled back.
#[derive(Debug)]
pub struct Tx {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
    MySql(Transaction<'static, MySql>),
}

impl Tx {
    /// Runs one statement; returns the number of rows it changed (a row that was set to what it
    /// had counts).
    pub async fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64> {
        on_each!(Inner, &mut self.inner, tx => dialect::execute_in(tx, sql, params))
    }

    /// Runs one migration. Where a change of the schema commits, a migration that was cut off
    /// goes on at its next statement.
    pub(crate) async fn migrate(&mut self, number: i64, script: &str) -> Result<()> {
        match &mut self.inner {
            Inner::Sqlite(tx) => Box::pin(Sqlite::migrate(tx, number, script)).await,
            Inner::Postgres(tx) => Box::pin(Postgres::migrate(tx, number, script)).await,
            Inner::MySql(tx) => Box::pin(MySql::migrate(tx, number, script)).await,
        }
    }

    /// Reads all rows, as this transaction sees them.
    pub async fn fetch_all(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        on_each!(Inner, &mut self.inner, tx => dialect::fetch_in(tx, sql, params))
    }

    /// Reads at most one row.
    pub async fn fetch_optional(&mut self, sql: &str, params: &[Value]) -> Result<Option<Row>> {
        Ok(self.fetch_all(sql, params).await?.into_iter().next())
    }

    /// Reads the one row; [`Error::NoRow`] where there is none.
    pub async fn fetch_one(&mut self, sql: &str, params: &[Value]) -> Result<Row> {
        self.fetch_optional(sql, params).await?.ok_or(Error::NoRow)
    }

    /// Makes everything durable; when this returns `Ok`, a crash cannot take it back. Where a
    /// server is lost while it commits, nobody knows: then it is [`Error::Unavailable`].
    pub async fn commit(self) -> Result<()> {
        on_each!(Inner, self.inner, tx => tx.commit())?;
        Ok(())
    }

    /// Takes everything back.
    pub async fn rollback(self) -> Result<()> {
        on_each!(Inner, self.inner, tx => tx.rollback())?;
        Ok(())
    }
}

/// An address that cannot be read. The message does not repeat it: a password may stand in it.
pub(crate) fn bad_url(_: sqlx::Error) -> Error {
    Error::Schema(
        "[database] connection: not an address that the server's client understands".to_owned(),
    )
}
