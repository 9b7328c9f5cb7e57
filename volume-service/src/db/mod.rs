//! The service's tables: typed rows, inserts, conditional updates, lists. A file per table family.
//!
//! Reads take anything that is a [`Source`]: `&Database` (a snapshot of its own) or `&mut Tx`
//! (what the transaction sees). Writes take the transaction, so that a caller can put a row, its
//! flow and its quota check into one.

pub mod attachments;
pub mod backups;
pub mod change;
pub mod clusters;
pub mod connections;
pub mod default_types;
pub mod exports;
pub mod group_snapshots;
pub mod group_types;
pub mod groups;
pub mod hosts;
pub mod messages;
pub mod metadata;
pub mod placements;
pub mod qos_specs;
pub mod quotas;
pub mod services;
pub mod snapshots;
pub mod status;
pub mod transfers;
pub mod type_encryption;
pub mod usage_audit;
pub mod volume_types;
pub mod volumes;

use database::{Database, Result, Row, Tx, Value};

pub use change::{Change, Outcome};

/// Where a read runs: on its own, or inside a transaction.
#[derive(Debug)]
pub enum Source<'a> {
    Database(&'a Database),
    Tx(&'a mut Tx),
}

impl<'a> From<&'a Database> for Source<'a> {
    fn from(database: &'a Database) -> Self {
        Source::Database(database)
    }
}

impl<'a> From<&'a mut Tx> for Source<'a> {
    fn from(tx: &'a mut Tx) -> Self {
        Source::Tx(tx)
    }
}

impl Source<'_> {
    /// Reads all rows.
    pub async fn fetch_all(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        match self {
            Source::Database(database) => database.fetch_all(sql, params).await,
            Source::Tx(tx) => tx.fetch_all(sql, params).await,
        }
    }

    /// Reads at most one row.
    pub async fn fetch_optional(&mut self, sql: &str, params: &[Value]) -> Result<Option<Row>> {
        Ok(self.fetch_all(sql, params).await?.into_iter().next())
    }

    /// Reads the one row; `Error::NoRow` where there is none.
    pub async fn fetch_one(&mut self, sql: &str, params: &[Value]) -> Result<Row> {
        self.fetch_optional(sql, params)
            .await?
            .ok_or(database::Error::NoRow)
    }
}

/// `?, ?, ?` for an IN list or VALUES of `count` values.
pub(crate) fn placeholders(count: usize) -> String {
    vec!["?"; count].join(", ")
}
