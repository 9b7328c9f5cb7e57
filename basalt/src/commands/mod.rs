//! The operator's commands. They read the data folder beside a running server, or have the
//! server do it (`basalt store`); `basalt policy` needs only the configuration.

pub mod cluster;
pub mod db;
pub mod flows;
pub mod metadefs;
pub mod options;
pub mod policy;
mod progress;
pub mod store;
mod table;
pub mod usage_audit;

use std::path::Path;

use database::Database;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::Settings;
use crate::data_dir::DataDir;
use crate::error::Result;

/// The file of the database, unless the configuration names another one.
const DATABASE: &str = "basalt.sqlite";

/// Opens the database of a folder that a server has made.
pub async fn open_database(data_dir: &Path, settings: &Settings) -> Result<Database> {
    let url = match &settings.database_url {
        Some(url) => url.clone(),
        None => format!(
            "sqlite://{}",
            DataDir::existing(data_dir, DATABASE)?
                .join(DATABASE)
                .display()
        ),
    };
    Ok(Database::open(&url).await?)
}

/// A time column for people and for JSON: RFC 3339 with seconds.
fn shown_time(us: i64) -> String {
    let seconds = us.div_euclid(1_000_000);
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| us.to_string())
}
