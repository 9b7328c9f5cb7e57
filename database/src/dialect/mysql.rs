//! MariaDB (10.6 or newer) and MySQL (8.0 or newer), alone or as a Galera cluster.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use sqlx::mysql::{
    MySqlArguments, MySqlConnectOptions, MySqlConnection, MySqlPoolOptions, MySqlQueryResult,
    MySqlRow,
};
use sqlx::{
    Arguments, AssertSqlSafe, Column, Executor, MySql, Row as _, Transaction, TypeInfo, ValueRef,
};

use super::{Dialect, Pools, RowsAffected, not_portable, replace_words, statements};
use crate::{Error, Result, Value};

/// Connections that read.
const READERS: u32 = 8;
/// How long one waits for a connection, and a writer for the one before it.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// Portable SQL quotes with '"', joins text with '||' and is told of values that do not fit.
/// Where the server is a MariaDB, a process that froze in the middle of a transaction does not
/// hold up the others for longer than ten seconds.
const SESSION: &str = "SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT,STRICT_ALL_TABLES,\
NO_ENGINE_SUBSTITUTION,NO_BACKSLASH_ESCAPES', innodb_lock_wait_timeout = 30 \
/*M! , idle_transaction_timeout = 10 */; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
/// The row that every writer changes first: it makes writers wait for each other, and in a
/// Galera cluster the later of two that began on different nodes is refused.
const TURN: &str = "CREATE TABLE IF NOT EXISTS writers_turn (id INT NOT NULL PRIMARY KEY, \
taken BIGINT NOT NULL) ENGINE=InnoDB; INSERT IGNORE INTO writers_turn (id, taken) VALUES (1, 0)";
/// Which statement of a migration that was cut off comes next: here each ends its transaction.
const STEPS: &str = "CREATE TABLE IF NOT EXISTS schema_migration_steps (number BIGINT NOT NULL \
PRIMARY KEY, done BIGINT NOT NULL) ENGINE=InnoDB";
/// One process migrates at a time; the lock ends with its connection, too.
const ALONE: &str = "DO GET_LOCK('basalt_migrations', 300)";
const NOT_ALONE: &str = "DO RELEASE_LOCK('basalt_migrations')";

/// Opens `url` (`mysql://user:password@host:port/database`).
pub(crate) async fn open(url: &str) -> Result<Pools<MySql>> {
    let options = MySqlConnectOptions::from_str(url).map_err(crate::connection::bad_url)?;
    let options = options.charset("utf8mb4").collation("utf8mb4_bin");
    let pool = |session: &'static str| {
        MySqlPoolOptions::new()
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    connection.execute(sqlx::raw_sql(SESSION)).await?;
                    connection.execute(sqlx::raw_sql(session)).await?;
                    Ok(())
                })
            })
    };
    let writer = pool("SET SESSION TRANSACTION READ WRITE")
        .max_connections(1)
        .connect_with(options.clone())
        .await?;
    writer.execute(sqlx::raw_sql(TURN)).await?;
    let readers = pool("SET SESSION TRANSACTION READ ONLY")
        .max_connections(READERS)
        .connect_with(options)
        .await?;
    Ok(Pools { writer, readers })
}

/// Whether an error number means that the same may work later.
pub(crate) fn is_passing(number: u16) -> bool {
    matches!(
        number,
        1021                 // disk full
        | 1040 | 1203 | 1226 // too many connections
        | 1047               // Galera: this node is not ready
        | 1053 | 1152 | 1184 | 1927 // the server stops, the connection was killed
        | 1205 | 1213        // lock wait timeout, deadlock (also Galera's certification)
        | 1290 | 1792 | 1836 // read-only
        | 1317 | 3024        // the statement was cut off
        | 4031 // idle for too long
    )
}

/// What tells that a statement of a migration had been done when the process was killed: the
/// table, column or index is there already, or is gone.
fn is_done_already(error: &sqlx::Error) -> bool {
    let number = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>())
        .map(sqlx::mysql::MySqlDatabaseError::number);
    matches!(number, Some(1050 | 1051 | 1060 | 1061 | 1062 | 1091 | 1146))
}

impl RowsAffected for MySqlQueryResult {
    fn count(&self) -> u64 {
        self.rows_affected()
    }
}

impl Dialect for MySql {
    const BEGIN: &'static str = "START TRANSACTION";
    const TAKE_TURN: Option<&'static str> =
        Some("UPDATE writers_turn SET taken = taken + 1 WHERE id = 1");

    fn statement<'s>(sql: &'s str, _: &[Value]) -> Cow<'s, str> {
        Cow::Borrowed(sql)
    }

    fn arguments(params: &[Value]) -> Result<MySqlArguments> {
        let mut arguments = MySqlArguments::default();
        for value in params {
            match value {
                Value::Null => arguments.add(None::<i64>),
                Value::Int(int) => arguments.add(*int),
                Value::Text(text) => arguments.add(text.as_str()),
            }
            .map_err(|error| Error::Other(error.to_string()))?;
        }
        Ok(arguments)
    }

    fn decode(row: &MySqlRow, position: usize) -> Result<Value> {
        let raw = row.try_get_raw(position)?;
        if raw.is_null() {
            return Ok(Value::Null);
        }
        let type_info = raw.type_info().into_owned();
        match type_info.name() {
            "BOOLEAN" | "TINYINT" | "SMALLINT" | "INT" | "MEDIUMINT" | "BIGINT" => {
                Ok(Value::Int(row.try_get_unchecked(position)?))
            }
            // Text that is compared by bytes is told as binary by MariaDB.
            "CHAR" | "VARCHAR" | "TINYTEXT" | "TEXT" | "MEDIUMTEXT" | "LONGTEXT" | "BINARY"
            | "VARBINARY" | "TINYBLOB" | "BLOB" | "MEDIUMBLOB" | "LONGBLOB" => {
                Ok(Value::Text(row.try_get_unchecked(position)?))
            }
            // SUM of BIGINTs, as digits.
            "DECIMAL" => {
                let digits: String = row.try_get_unchecked(position)?;
                let whole = digits.parse();
                whole
                    .map(Value::Int)
                    .map_err(|_| not_portable(row.column(position).name(), "DECIMAL"))
            }
            other => Err(not_portable(row.column(position).name(), other)),
        }
    }

    /// Each statement that changes the schema commits, and so gives the writer's turn away.
    async fn migrate(tx: &mut Transaction<'static, Self>, number: i64, script: &str) -> Result<()> {
        let connection = &mut **tx;
        connection.execute(sqlx::raw_sql(ALONE)).await?;
        connection.execute(sqlx::raw_sql(STEPS)).await?;
        let first = format!(
            "INSERT IGNORE INTO schema_migration_steps (number, done) VALUES ({number}, 0)"
        );
        connection
            .execute(sqlx::raw_sql(AssertSqlSafe(first)))
            .await?;
        let done = format!("SELECT done FROM schema_migration_steps WHERE number = {number}");
        let done = connection
            .fetch_one(sqlx::raw_sql(AssertSqlSafe(done)))
            .await?;
        let done: i64 = done.try_get_unchecked(0)?;
        let done = usize::try_from(done).unwrap_or(0);
        for (position, statement) in statements(script).iter().enumerate().skip(done) {
            let statement = match statement.strip_prefix("DROP INDEX ") {
                Some(index) => drop_index(connection, index).await?,
                None => own_types(statement),
            };
            let statement = sqlx::raw_sql(AssertSqlSafe(statement));
            match connection.execute(statement).await {
                Err(error) if position == done && is_done_already(&error) => {}
                other => {
                    other?;
                }
            }
            let step = format!(
                "UPDATE schema_migration_steps SET done = {} WHERE number = {number}",
                position + 1
            );
            connection
                .execute(sqlx::raw_sql(AssertSqlSafe(step)))
                .await?;
            // What changed no schema has not been committed yet.
            connection.execute(sqlx::raw_sql("COMMIT")).await?;
        }
        connection.execute(sqlx::raw_sql(NOT_ALONE)).await?;
        Ok(())
    }
}

/// An index is dropped from its table here. Without one, a statement that finds nothing to do.
async fn drop_index(connection: &mut MySqlConnection, index: &str) -> Result<String> {
    let find = format!(
        "SELECT TABLE_NAME FROM information_schema.STATISTICS \
         WHERE TABLE_SCHEMA = DATABASE() AND INDEX_NAME = '{index}' LIMIT 1"
    );
    let found = connection
        .fetch_optional(sqlx::raw_sql(AssertSqlSafe(find)))
        .await?;
    let table = found.map(|row| row.try_get_unchecked::<String, _>(0));
    Ok(match table.transpose()? {
        Some(table) => format!("DROP INDEX {index} ON {table}"),
        None => "DO 0".to_owned(),
    })
}

/// TEXT ends at 64 KiB here, and tables must say how text is stored and compared.
fn own_types(statement: &str) -> String {
    let statement = replace_words(statement, |word| (word == "TEXT").then_some("LONGTEXT"));
    if statement.starts_with("CREATE TABLE") {
        format!("{statement} ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin")
    } else {
        statement
    }
}
