//! What ends a command, in one line for the one who started it.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("data folder {}: {reason}", path.display())]
    DataDir { path: PathBuf, reason: String },
    #[error("data folder {}: another basalt process is using it", path.display())]
    DataInUse { path: PathBuf },
    #[error("{}: {reason}", path.display())]
    Secrets { path: PathBuf, reason: String },
    #[error("cannot write {}: {reason}", path.display())]
    Write { path: PathBuf, reason: String },
    /// Names the option, so that the operator knows what to change.
    #[error("cannot listen on {address} (option {option}): {reason}")]
    Listen {
        address: String,
        option: String,
        reason: String,
    },
    #[error("cannot use the database: {0}")]
    Database(#[from] database::Error),
    #[error("store: {0}")]
    Store(#[from] storage::Error),
    /// What the check of the store found.
    #[error("the store is damaged in {places} places")]
    Damaged { places: u64 },
    /// What `basalt db check` found.
    #[error(
        "the schema is {migrations} migrations behind: `basalt db sync`, or the next start, applies them"
    )]
    SchemaBehind { migrations: usize },
    /// A policy rule's answer.
    #[error("the policy refuses")]
    Refused,
    #[error("{0}")]
    Start(String),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Output(#[from] io::Error),
}

impl Error {
    pub fn data_dir(path: &Path, error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::StorageFull => "the disk is full".to_owned(),
            io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied: it must be writable".to_owned(),
            _ => error.to_string(),
        };
        Error::DataDir {
            path: path.to_owned(),
            reason,
        }
    }
}
