//! Numbered migrations, applied in order, each once, each in a transaction of its own.

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
];

const CREATE_VERSIONS: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    number BIGINT NOT NULL PRIMARY KEY, name VARCHAR(255) NOT NULL, applied_at BIGINT NOT NULL)";

/// Where schema changes end the transaction, another process may have noted it first.
const NOTE: &str = "INSERT INTO schema_migrations (number, name, applied_at)
    SELECT n, name, applied_at FROM (SELECT ? AS n, ? AS name, ? AS applied_at) one
    WHERE NOT EXISTS (SELECT 1 FROM schema_migrations WHERE number = ?)";

/// The migrations that [`run`] would apply.
///
/// Errors: [`Error::Schema`] when the database was made by a newer release.
pub async fn pending(database: &Database) -> Result<&'static [Migration]> {
    let names = database
        .fetch_all("SELECT MAX(number) AS n FROM schema_migrations", params![])
        .await;
    match names {
        Ok(rows) => after(rows.first().map_or(Ok(None), |row| row.get("n"))?),
        // Without the table nothing has been applied; whatever else is wrong, `run` says.
        Err(Error::Other(_)) => Ok(MIGRATIONS),
        Err(error) => Err(error),
    }
}

/// The migrations after the newest that was applied.
fn after(newest: Option<i64>) -> Result<&'static [Migration]> {
    let newest = newest.unwrap_or(0);
    let known = MIGRATIONS.last().map_or(0, |migration| migration.number);
    if newest > known {
        return Err(Error::Schema(format!(
            "the database is at migration {newest}, this release knows {known}: start the newer release"
        )));
    }
    let applied = MIGRATIONS.partition_point(|migration| migration.number <= newest);
    Ok(&MIGRATIONS[applied..])
}

/// Brings the schema to this release. Idempotent; safe when several processes start at once.
///
/// Errors: [`Error::Schema`] when the database was made by a newer release.
pub async fn run(database: &Database) -> Result<()> {
    let mut tx = database.begin().await?;
    tx.execute(CREATE_VERSIONS, params![]).await?;
    let newest = tx.fetch_one("SELECT MAX(number) AS n FROM schema_migrations", params![]);
    for migration in after(newest.await?.get("n")?)? {
        tx.migrate(migration.number, migration.sql).await?;
        let noted = params![migration.number, migration.name, now_us(), migration.number];
        match tx.execute(NOTE, noted).await {
            // Noted by another process at the same moment: see `NOTE`.
            Err(Error::Constraint(_)) => {}
            other => drop(other?),
        }
    }
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
}
