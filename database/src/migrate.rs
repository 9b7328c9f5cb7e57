//! Numbered migrations, applied in order, each once, each in a transaction of its own.
//!
//! **Side by side.** While a release is rolled out, processes of the one before run on the new
//! schema, and may have to start on it. So migrations only add; what is not used any more is
//! dropped a release later. The schema says from which migration on a release can run on it.

use crate::{Database, Error, Result, now_us, params};

/// One numbered migration; the number orders it, the name is for people.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    pub number: i64,
    pub name: &'static str,
    pub sql: &'static str,
}

macro_rules! migrations {
    ($($number:literal $name:literal),+ $(,)?) => {
        &[$(Migration {
            number: $number,
            name: $name,
            sql: include_str!(concat!("../../migrations/", $name, ".sql")),
        }),+]
    };
}

/// Every migration of this release, oldest first. A file that has been released never changes.
pub const MIGRATIONS: &[Migration] = migrations![
    1 "0001_taskflow",
    2 "0002_volume_service",
    3 "0003_image_service",
    4 "0004_volume_extend",
    5 "0005_groups_types",
    6 "0006_attachments",
    7 "0007_backends",
    8 "0008_image_import",
    9 "0009_metadefs",
    10 "0010_encryption_keys",
    12 "0012_notifications",
    13 "0013_volume_name_id",
    14 "0014_succession",
    15 "0015_side_by_side",
];

/// The newest migration that a release must know to run on this release's schema. Whoever adds a
/// migration that changes or drops what the release before uses, sets it to that migration's
/// number: then no process of that release starts any more.
pub const WORKS_FROM: i64 = 14;

const CREATE_VERSIONS: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    number BIGINT NOT NULL PRIMARY KEY, name VARCHAR(255) NOT NULL, applied_at BIGINT NOT NULL)";

/// Where schema changes end the transaction, another process may have noted it first.
const NOTE: &str = "INSERT INTO schema_migrations (number, name, applied_at)
    SELECT n, name, applied_at FROM (SELECT ? AS n, ? AS name, ? AS applied_at) one
    WHERE NOT EXISTS (SELECT 1 FROM schema_migrations WHERE number = ?)";

const SAY_WORKS_FROM: &str = "UPDATE schema_migrations SET works_from = ?
    WHERE number = ? AND (works_from IS NULL OR works_from <> ?)";

/// The migrations that [`run`] would apply; none of them, too, where a newer release has made a
/// schema that this one can run on.
///
/// Errors: [`Error::Schema`] when a newer release has made one that this one cannot run on.
pub async fn pending(database: &Database) -> Result<&'static [Migration]> {
    let names = database
        .fetch_all("SELECT MAX(number) AS n FROM schema_migrations", params![])
        .await;
    let newest = match names {
        Ok(rows) => rows.first().map_or(Ok(None), |row| row.get("n"))?,
        // Without the table nothing has been applied; whatever else is wrong, `run` says.
        Err(Error::Other(_)) => return Ok(MIGRATIONS),
        Err(error) => return Err(error),
    };
    let newest = newest.unwrap_or(0);
    if newest <= newest_known() {
        return Ok(after(newest));
    }
    let works_from = database.fetch_one(READ_WORKS_FROM, params![newest]).await?;
    refuse_unless_known(newest, works_from.get("works_from")?)?;
    Ok(&[])
}

const READ_WORKS_FROM: &str = "SELECT works_from FROM schema_migrations WHERE number = ?";

/// The newest migration of this release.
pub fn newest_known() -> i64 {
    MIGRATIONS.last().map_or(0, |migration| migration.number)
}

/// The migrations after the newest that was applied.
fn after(newest: i64) -> &'static [Migration] {
    let applied = MIGRATIONS.partition_point(|migration| migration.number <= newest);
    &MIGRATIONS[applied..]
}

/// Whether this release can run on the schema of a newer one.
fn refuse_unless_known(newest: i64, works_from: Option<i64>) -> Result<()> {
    let known = newest_known();
    if works_from.is_some_and(|works_from| works_from <= known) {
        return Ok(());
    }
    Err(Error::Schema(format!(
        "the database is at migration {newest}, this release knows {known}: start the newer release"
    )))
}

/// Brings the schema to this release; leaves that of a newer one alone. Idempotent; safe when
/// several processes start at once.
///
/// Errors: [`Error::Schema`] when a newer release has made one that this one cannot run on.
pub async fn run(database: &Database) -> Result<()> {
    let mut tx = database.begin().await?;
    tx.execute(CREATE_VERSIONS, params![]).await?;
    let newest = tx.fetch_one("SELECT MAX(number) AS n FROM schema_migrations", params![]);
    let newest = newest.await?.get::<Option<i64>>("n")?.unwrap_or(0);
    let known = newest_known();
    if newest > known {
        let works_from = tx.fetch_one(READ_WORKS_FROM, params![newest]).await?;
        return refuse_unless_known(newest, works_from.get("works_from")?);
    }
    for migration in after(newest) {
        tx.migrate(migration.number, migration.sql).await?;
        let noted = params![migration.number, migration.name, now_us(), migration.number];
        match tx.execute(NOTE, noted).await {
            // Noted by another process at the same moment: see `NOTE`.
            Err(Error::Constraint(_)) => {}
            other => drop(other?),
        }
    }
    let said = params![WORKS_FROM, known, WORKS_FROM];
    tx.execute(SAY_WORKS_FROM, said).await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_run_changes_nothing_and_a_newer_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let database = crate::testing::empty_database(folder.path()).await;
        let database = database.unwrap();
        assert_eq!(pending(&database).await.unwrap().len(), MIGRATIONS.len());
        run(&database).await.unwrap();
        run(&database).await.unwrap();
        assert!(pending(&database).await.unwrap().is_empty());
        let count = database.fetch_one("SELECT COUNT(*) AS n FROM schema_migrations", params![]);
        assert_eq!(
            count.await.unwrap().get::<i64>("n").unwrap(),
            MIGRATIONS.len() as i64
        );
        let newer =
            "INSERT INTO schema_migrations (number, name, applied_at) VALUES (9999, 'x', 0)";
        database.execute(newer, params![]).await.unwrap();
        assert!(matches!(run(&database).await, Err(Error::Schema(_))));
        assert!(matches!(pending(&database).await, Err(Error::Schema(_))));
    }

    #[tokio::test]
    async fn a_release_starts_on_the_schema_of_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let database = crate::testing::empty_database(folder.path()).await;
        let database = database.unwrap();
        run(&database).await.unwrap();
        let said = database
            .fetch_one(READ_WORKS_FROM, params![newest_known()])
            .await
            .unwrap();
        let said: Option<i64> = said.get("works_from").unwrap();
        assert_eq!(said, Some(WORKS_FROM));
        let newer = "INSERT INTO schema_migrations (number, name, applied_at, works_from)
            VALUES (?, 'x', 0, ?)";
        let next = newest_known() + 1;
        let row = params![next, newest_known()];
        database.execute(newer, row).await.unwrap();
        run(&database).await.unwrap();
        assert!(pending(&database).await.unwrap().is_empty());
        // The one after next is for those that know the next.
        let row = params![next + 1, next];
        database.execute(newer, row).await.unwrap();
        assert!(matches!(run(&database).await, Err(Error::Schema(_))));
        assert!(matches!(pending(&database).await, Err(Error::Schema(_))));
    }

    /// What a process of the release before would not notice, or `Err` with the statement.
    fn only_adds(sql: &str) -> std::result::Result<(), String> {
        let lines = sql.lines().map(|line| line.split("--").next().unwrap());
        let text = lines.collect::<Vec<_>>().join(" ").to_uppercase();
        let mut new_tables = Vec::new();
        for statement in text.split(';') {
            let words: Vec<&str> = statement.split_whitespace().collect();
            let is_harmless = match words.as_slice() {
                [] => true,
                ["CREATE", "TABLE", name, ..] => {
                    new_tables.push(*name);
                    true
                }
                ["CREATE", "INDEX", ..] => true,
                ["CREATE", "UNIQUE", "INDEX", _, "ON", name, ..] | ["INSERT", "INTO", name, ..] => {
                    new_tables.contains(name)
                }
                ["ALTER", "TABLE", _, "ADD", "COLUMN", _, kind @ ..] => {
                    let not_null = kind.windows(2).any(|pair| pair == ["NOT", "NULL"]);
                    !not_null || kind.contains(&"DEFAULT")
                }
                _ => false,
            };
            if !is_harmless {
                return Err(words.join(" "));
            }
        }
        Ok(())
    }

    #[test]
    fn migrations_only_add() {
        for sql in [
            "ALTER TABLE volumes DROP COLUMN host",
            "ALTER TABLE volumes ADD COLUMN x BIGINT NOT NULL",
            "DROP TABLE volumes",
            "CREATE UNIQUE INDEX one_host ON volumes (host)",
            "UPDATE volumes SET host = NULL",
        ] {
            assert!(only_adds(sql).is_err(), "{sql}");
        }
        for migration in after(WORKS_FROM) {
            only_adds(migration.sql).unwrap_or_else(|statement| {
                panic!(
                    "{}: a process of the release before may break by: {statement}",
                    migration.name
                )
            });
        }
    }
}
