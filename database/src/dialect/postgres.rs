//! PostgreSQL (13 or newer).

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{
    PgArgumentBuffer, PgArguments, PgConnectOptions, PgPoolOptions, PgQueryResult, PgRow,
    PgTypeInfo, PgValueFormat,
};
use sqlx::{
    Arguments, AssertSqlSafe, Column, Encode, Executor, Postgres, Row as _, Transaction, Type,
    TypeInfo, ValueRef,
};

use super::{Dialect, Pools, RowsAffected, not_portable, replace_words, statements};
use crate::{Error, Result, Value};

/// Connections that read; each is a process of the server.
const READERS: u32 = 8;
/// How long one waits for a connection, and a writer for the one before it.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// A process that froze in the middle of a transaction must not hold up the others for longer.
const SESSION: [(&str, &str); 3] = [
    ("idle_in_transaction_session_timeout", "10s"),
    ("lock_timeout", "30s"),
    ("statement_timeout", "120s"),
];

/// Opens `url`, which is libpq's (`postgresql://user:password@host:port/database?sslmode=…`).
pub(crate) async fn open(url: &str) -> Result<Pools<Postgres>> {
    let options = PgConnectOptions::from_str(url).map_err(crate::connection::bad_url)?;
    let options = options.application_name("basalt").options(SESSION);
    let pool = || PgPoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT);
    let writer = pool()
        .max_connections(1)
        .connect_with(options.clone())
        .await?;
    let readers = options.options([("default_transaction_read_only", "on")]);
    let readers = pool()
        .max_connections(READERS)
        .connect_with(readers)
        .await?;
    Ok(Pools { writer, readers })
}

/// Whether a SQLSTATE means that the same may work later.
pub(crate) fn is_passing(code: &str) -> bool {
    const CLASSES: [&str; 5] = [
        "08", // the connection was lost
        "40", // serialization failure, deadlock
        "53", // out of connections, memory, disk
        "57", // the server stops or starts, the statement was cancelled
        "58", // the server's own input and output
    ];
    const CODES: [&str; 3] = [
        "55P03", // lock_timeout
        "25P03", // idle_in_transaction_session_timeout
        "25006", // read-only: a standby
    ];
    CODES.contains(&code) || CLASSES.iter().any(|class| code.starts_with(class))
}

/// Text or NULL whose type the server takes from where it stands: a VARCHAR compared with a
/// parameter that says it is TEXT would not use its index.
struct Untyped<'v>(Option<&'v str>);

impl Type<Postgres> for Untyped<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl<'q> Encode<'q, Postgres> for Untyped<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match self.0 {
            Some(text) => <&str as Encode<Postgres>>::encode(text, buffer),
            None => Ok(IsNull::Yes),
        }
    }
}

impl RowsAffected for PgQueryResult {
    fn count(&self) -> u64 {
        self.rows_affected()
    }
}

impl Dialect for Postgres {
    const BEGIN: &'static str = "BEGIN";
    const TAKE_TURN: Option<&'static str> = Some("SELECT pg_advisory_xact_lock(7019252463)");

    /// `?` becomes `$1`; integers say that they are, so that a statement prepared with a NULL in
    /// their place is another one.
    fn statement<'s>(sql: &'s str, params: &[Value]) -> Cow<'s, str> {
        if params.is_empty() {
            return Cow::Borrowed(sql);
        }
        let mut out = String::with_capacity(sql.len() + 8 * params.len());
        let mut quoted = false;
        let mut position = 0;
        for c in sql.chars() {
            quoted ^= c == '\'';
            if c != '?' || quoted {
                out.push(c);
                continue;
            }
            let is_int = matches!(params.get(position), Some(Value::Int(_)));
            position += 1;
            out.push_str(&format!(
                "${position}{}",
                if is_int { "::BIGINT" } else { "" }
            ));
        }
        Cow::Owned(out)
    }

    fn arguments(params: &[Value]) -> Result<PgArguments> {
        let mut arguments = PgArguments::default();
        for value in params {
            match value {
                Value::Null => arguments.add(Untyped(None)),
                Value::Int(int) => arguments.add(*int),
                // PostgreSQL's text has no NUL; a value with one equals nothing that is stored.
                Value::Text(text) if text.contains('\0') => {
                    return Err(Error::Constraint("text must not contain NUL".to_owned()));
                }
                Value::Text(text) => arguments.add(Untyped(Some(text))),
            }
            .map_err(|error| Error::Other(error.to_string()))?;
        }
        Ok(arguments)
    }

    fn decode(row: &PgRow, position: usize) -> Result<Value> {
        let raw = row.try_get_raw(position)?;
        if raw.is_null() {
            return Ok(Value::Null);
        }
        let type_info = raw.type_info().into_owned();
        match type_info.name() {
            "INT8" => Ok(Value::Int(row.try_get_unchecked(position)?)),
            "INT4" => Ok(Value::Int(
                row.try_get_unchecked::<i32, _>(position)?.into(),
            )),
            "INT2" => Ok(Value::Int(
                row.try_get_unchecked::<i16, _>(position)?.into(),
            )),
            "BOOL" => Ok(Value::Int(
                row.try_get_unchecked::<bool, _>(position)?.into(),
            )),
            "TEXT" | "VARCHAR" | "CHAR" => Ok(Value::Text(row.try_get_unchecked(position)?)),
            "NUMERIC" if raw.format() == PgValueFormat::Binary => {
                let bytes = raw
                    .as_bytes()
                    .map_err(|error| Error::Other(error.to_string()))?;
                let whole = whole_number(bytes);
                whole
                    .map(Value::Int)
                    .ok_or_else(|| not_portable(row.column(position).name(), "NUMERIC"))
            }
            other => Err(not_portable(row.column(position).name(), other)),
        }
    }

    async fn migrate(tx: &mut Transaction<'static, Self>, _: i64, script: &str) -> Result<()> {
        for statement in statements(script) {
            let statement = sqlx::raw_sql(AssertSqlSafe(own_types(&statement)));
            (&mut **tx).execute(statement).await?;
        }
        Ok(())
    }
}

/// CHAR(36) pads and compares in its own way, and text is sorted by bytes as on the others.
fn own_types(statement: &str) -> String {
    let varchar = replace_words(statement, |word| match word {
        "CHAR" => Some("VARCHAR"),
        "TEXT" => Some("TEXT COLLATE \"C\""),
        _ => None,
    });
    // The length stands between the type and its collation.
    let mut out = String::with_capacity(varchar.len() + 256);
    let mut rest = varchar.as_str();
    while let Some(start) = rest.find("VARCHAR(") {
        let end = rest[start..]
            .find(')')
            .map_or(rest.len(), |close| start + close + 1);
        out.push_str(&rest[..end]);
        out.push_str(" COLLATE \"C\"");
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// SUM of BIGINTs is a NUMERIC: 16-bit groups of four decimal digits behind a header of number
/// of groups, weight of the first, sign and scale. None where it has a fraction or no i64 holds it.
fn whole_number(bytes: &[u8]) -> Option<i64> {
    let mut words = bytes
        .chunks_exact(2)
        .map(|pair| i16::from_be_bytes([pair[0], pair[1]]));
    let (groups, weight, sign) = (words.next()?, words.next()?, words.next()?);
    words.next()?;
    let digits: Vec<i16> = words.collect();
    let negative = match sign.cast_unsigned() {
        0 => false,
        0x4000 => true,
        _ => return None,
    };
    if groups < 0
        || digits.len() != usize::try_from(groups).ok()?
        || groups > weight.checked_add(1)?
    {
        return None;
    }
    let mut number: i128 = 0;
    for position in 0..=i32::from(weight) {
        let digit = digits
            .get(usize::try_from(position).ok()?)
            .copied()
            .unwrap_or(0);
        number = number.checked_mul(10_000)?.checked_add(i128::from(digit))?;
    }
    i64::try_from(if negative { -number } else { number }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_outside_of_quotes() {
        let params = [Value::Int(1), Value::Null, Value::Text("x".to_owned())];
        let sql = Postgres::statement("a = ? AND b = '?' AND c IN (?, ?)", &params);
        assert_eq!(sql, "a = $1::BIGINT AND b = '?' AND c IN ($2, $3)");
    }

    #[test]
    fn types_of_migrations_are_replaced() {
        let sql = own_types(
            "CREATE TABLE a (id CHAR(36) NOT NULL, b VARCHAR(255), c TEXT DEFAULT 'TEXT')",
        );
        assert_eq!(
            sql,
            "CREATE TABLE a (id VARCHAR(36) COLLATE \"C\" NOT NULL, b VARCHAR(255) COLLATE \"C\", \
             c TEXT COLLATE \"C\" DEFAULT 'TEXT')"
        );
    }

    #[test]
    fn sums_are_whole_numbers() {
        let numeric = |words: &[i16]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            whole_number(&bytes)
        };
        assert_eq!(numeric(&[0, 0, 0, 0]), Some(0));
        assert_eq!(numeric(&[1, 0, 0, 0, 7]), Some(7));
        assert_eq!(numeric(&[1, 1, 0, 0, 5]), Some(50_000));
        assert_eq!(numeric(&[2, 1, 0x4000, 0, 5, 1]), Some(-50_001));
        assert_eq!(numeric(&[2, 0, 0, 1, 5, 1]), None);
        assert_eq!(numeric(&[1, 30_000, 0, 0, 1]), None);
        assert_eq!(numeric(&[5, 0]), None);
    }
}
