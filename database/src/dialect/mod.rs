//! Everything that differs between database servers, one file each.
//!
//! Statements reach this module as portable SQL; nothing outside knows which server it talks to.

pub(crate) mod mysql;
pub(crate) mod postgres;
pub(crate) mod sqlite;

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Column, Executor, IntoArguments, Pool, Row as _, Transaction};

use crate::{Error, Result, Row, Value};

/// One kind of server.
pub(crate) trait Dialect: sqlx::Database<QueryResult: RowsAffected> {
    /// How a write transaction begins.
    const BEGIN: &'static str;
    /// Run first in every write transaction where `BEGIN` alone does not make writers wait for
    /// each other. Write transactions read and then decide (quota, status changes): they are
    /// written for one writer at a time, whatever number of processes there is.
    const TAKE_TURN: Option<&'static str>;

    /// The statement in this server's spelling, for these parameters.
    fn statement<'s>(sql: &'s str, params: &[Value]) -> Cow<'s, str>;

    /// The parameters as this server takes them.
    fn arguments(params: &[Value]) -> Result<Self::Arguments>;

    /// One column of a row as a portable value.
    fn decode(row: &Self::Row, position: usize) -> Result<Value>;

    /// Runs one migration in the transaction.
    fn migrate(
        tx: &mut Transaction<'static, Self>,
        number: i64,
        script: &str,
    ) -> impl Future<Output = Result<()>> + Send;
}

/// What every server's answer to a statement tells.
pub(crate) trait RowsAffected {
    fn count(&self) -> u64;
}

/// Pauses before a lost connection is tried again: doubled each time, about two seconds in all.
const FIRST_PAUSE: Duration = Duration::from_millis(30);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// The two pools: one writer, as writers wait for each other anyway, and the readers.
#[derive(Debug)]
pub(crate) struct Pools<D: Dialect> {
    pub(crate) writer: Pool<D>,
    pub(crate) readers: Pool<D>,
}

impl<D: Dialect> Clone for Pools<D> {
    fn clone(&self) -> Self {
        Pools {
            writer: self.writer.clone(),
            readers: self.readers.clone(),
        }
    }
}

impl<D: Dialect> Pools<D>
where
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
{
    /// Begins a write transaction, once it is this one's turn.
    pub(crate) async fn begin(&self) -> sqlx::Result<Transaction<'static, D>> {
        let mut tx = self.writer.begin_with(D::BEGIN).await?;
        if let Some(take_turn) = D::TAKE_TURN {
            (&mut *tx).execute(sqlx::raw_sql(take_turn)).await?;
        }
        Ok(tx)
    }

    /// Reads all rows, once more where the connection was lost.
    pub(crate) async fn fetch(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        let statement = D::statement(sql, params);
        let mut pause = FIRST_PAUSE;
        loop {
            let arguments = D::arguments(params)?;
            match fetch::<D, _>(&self.readers, &statement, arguments).await {
                Err(error) if is_lost(&error) && pause < LAST_PAUSE => {}
                rows => return read::<D>(&rows?),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// [`Pools::begin`], once more where the connection was lost: nothing has been done yet.
    pub(crate) async fn begin_patiently(&self) -> Result<Transaction<'static, D>> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.begin().await {
                Err(error) if is_lost(&error) && pause < LAST_PAUSE => {}
                begun => return Ok(begun?),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Runs a statement that no transaction may hold.
    pub(crate) async fn outside_of_transactions(&self, sql: &str) -> Result<()> {
        let statement = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        (&self.writer).execute(statement).await?;
        Ok(())
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Reads all rows.
pub(crate) async fn fetch<'c, D, E>(
    executor: E,
    sql: &str,
    arguments: D::Arguments,
) -> sqlx::Result<Vec<D::Row>>
where
    D: Dialect,
    E: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
{
    let statement = AssertSqlSafe(sql.to_owned());
    executor
        .fetch_all(sqlx::query_with(statement, arguments))
        .await
}

/// The rows as portable values.
pub(crate) fn read<D: Dialect>(rows: &[D::Row]) -> Result<Vec<Row>> {
    let Some(first) = rows.first() else {
        return Ok(Vec::new());
    };
    let names = first
        .columns()
        .iter()
        .map(|column| column.name().to_owned());
    let columns: Arc<[String]> = names.collect();
    let read = |row: &D::Row| {
        let values = (0..columns.len()).map(|position| D::decode(row, position));
        Ok(Row {
            columns: columns.clone(),
            values: values.collect::<Result<_>>()?,
        })
    };
    rows.iter().map(read).collect()
}

/// Reads all rows, as the transaction sees them.
pub(crate) async fn fetch_in<D: Dialect>(
    tx: &mut Transaction<'static, D>,
    sql: &str,
    params: &[Value],
) -> Result<Vec<Row>>
where
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
{
    let statement = D::statement(sql, params);
    read::<D>(&fetch::<D, _>(&mut **tx, &statement, D::arguments(params)?).await?)
}

/// Runs one statement; returns the number of rows it found to change.
pub(crate) async fn execute_in<D: Dialect>(
    tx: &mut Transaction<'static, D>,
    sql: &str,
    params: &[Value],
) -> Result<u64>
where
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
{
    let statement = AssertSqlSafe(D::statement(sql, params).into_owned());
    let query = sqlx::query_with(statement, D::arguments(params)?);
    Ok((&mut **tx).execute(query).await?.count())
}

/// Whether the connection was lost, or refused as the server stops or starts.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => {
            let number = error
                .try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
                .map(sqlx::mysql::MySqlDatabaseError::number);
            match number {
                Some(number) => matches!(number, 1047 | 1053 | 1927 | 4031),
                None => error
                    .code()
                    .is_some_and(|code| code.starts_with("57P") || code.starts_with("08")),
            }
        }
        _ => false,
    }
}

/// Sorts a server's refusal into what the caller can do; constraints are sorted out before.
pub(crate) fn classify(error: &dyn sqlx::error::DatabaseError) -> Error {
    let (try_later, code) =
        if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
            (
                mysql::is_passing(error.number()),
                error.number().to_string(),
            )
        } else {
            let code = error.code().unwrap_or_default().into_owned();
            let postgres = error
                .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                .is_some();
            let passing = if postgres {
                postgres::is_passing
            } else {
                sqlite::is_passing
            };
            (passing(&code), code)
        };
    let message = format!("{} (code {code})", error.message());
    if try_later {
        Error::Unavailable(message)
    } else {
        Error::Other(message)
    }
}

/// A column of a type that no portable statement has.
pub(crate) fn not_portable(column: &str, type_name: &str) -> Error {
    Error::Decode {
        column: column.to_owned(),
        reason: format!("type {type_name} is not portable"),
    }
}

/// Replaces whole words outside of quotes: `word` becomes what `replace` gives for it.
pub(crate) fn replace_words(sql: &str, replace: impl Fn(&str) -> Option<&'static str>) -> String {
    let mut out = String::with_capacity(sql.len() + 64);
    let mut quoted = false;
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (word, after) = rest.split_at(end);
        quoted ^= word == "'";
        match replace(word).filter(|_| !quoted) {
            Some(other) => out.push_str(other),
            None => out.push_str(word),
        }
        rest = after;
    }
    out
}

/// The statements of a migration, without its comments. No statement has a `;` within.
pub(crate) fn statements(script: &str) -> Vec<String> {
    let code = script
        .lines()
        .map(|line| line.split("--").next().unwrap_or(line));
    let code: String = code.collect::<Vec<_>>().join("\n");
    let parts = code
        .split(';')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}
