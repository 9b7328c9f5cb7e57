//! `basalt db status`: the schema and what the database holds.

use std::io::{Write, stdout};
use std::path::Path;

use database::migrate::MIGRATIONS;
use database::{Database, params};

use super::shown_time;
use crate::config::Settings;
use crate::error::Result;

/// Prints where the database is, which schema it has, and how many flows are in which state.
pub async fn status(database: &Database, data_dir: &Path, settings: &Settings) -> Result<()> {
    let applied = database
        .fetch_all(
            "SELECT number, name, applied_at FROM schema_migrations ORDER BY number",
            params![],
        )
        .await?;
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
    let pending = MIGRATIONS.len().saturating_sub(applied.len());
    writeln!(
        output,
        "schema     {}",
        match pending {
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
