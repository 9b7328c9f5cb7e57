//! `basalt db status|sync|check`: the schema and what the database holds.

use std::io::{Write, stdout};
use std::path::Path;

use database::migrate;
use database::{Database, params};

use super::shown_time;
use crate::config::Settings;
use crate::error::{Error, Result};

/// Prints where the database is, which schema it has, and how many flows are in which state.
pub async fn status(database: &Database, data_dir: &Path, settings: &Settings) -> Result<()> {
    let applied = database
        .fetch_all(
            "SELECT number, name, applied_at FROM schema_migrations ORDER BY number",
            params![],
        )
        .await?;
    let pending = migrate::pending(database).await?.len();
    let newest = applied
        .last()
        .map_or(Ok(0), |row| row.get::<i64>("number"))?;
    let flows = database
        .fetch_all(
            "SELECT state, COUNT(*) AS n FROM flows GROUP BY state ORDER BY state",
            params![],
        )
        .await?;
    let mut output = stdout().lock();
    match &settings.database_url {
        // The URL may hold a password.
        Some(_) => writeln!(output, "database   [database] connection")?,
        None => writeln!(
            output,
            "database   {}",
            data_dir.join("basalt.sqlite").display()
        )?,
    }
    for row in &applied {
        let (name, at): (String, i64) = (row.get("name")?, row.get("applied_at")?);
        writeln!(output, "migration  {name}, applied {}", shown_time(at))?;
    }
    writeln!(
        output,
        "schema     {}",
        match pending {
            0 if newest > migrate::newest_known() =>
                "a newer release's, on which this one can run".to_owned(),
            0 => "up to date".to_owned(),
            pending => format!("{pending} migrations behind; the next start applies them"),
        }
    )?;
    for row in &flows {
        let (state, count): (String, i64) = (row.get("state")?, row.get("n")?);
        writeln!(output, "flows      {count} {state}")?;
    }
    Ok(())
}

/// Applies the pending migrations and says which.
pub async fn sync(database: &Database) -> Result<()> {
    let pending = migrate::pending(database).await?;
    migrate::run(database).await?;
    let mut output = stdout().lock();
    for migration in pending {
        writeln!(output, "applied {}", migration.name)?;
    }
    writeln!(output, "the schema is up to date")?;
    Ok(())
}

/// Says whether the schema is this release's, without changing it.
pub async fn check(database: &Database) -> Result<()> {
    match migrate::pending(database).await?.len() {
        0 => Ok(writeln!(stdout().lock(), "the schema is up to date")?),
        migrations => Err(Error::SchemaBehind { migrations }),
    }
}
