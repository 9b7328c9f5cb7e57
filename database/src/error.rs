//! What a caller can do about a database failure.

/// The result of every call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A database failure, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A unique or foreign key refused the row: the caller answers "exists" or "in use".
    #[error("the database refused the row: {0}")]
    Constraint(String),
    /// No row where exactly one was asked for.
    #[error("no such row")]
    NoRow,
    /// Locked, out of connections, disk full, connection lost: try again later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// A stored value does not have the shape the code expects: a defect or a damaged file.
    #[error("column {column}: {reason}")]
    Decode { column: String, reason: String },
    /// The schema is newer or older than this program, or was changed by hand.
    #[error("schema: {0}")]
    Schema(String),
    /// Anything else, a defect in a statement for instance.
    #[error("database: {0}")]
    Other(String),
}

impl Error {
    /// A file of SQLite's that cannot be read or written.
    pub(crate) fn from_io(error: std::io::Error) -> Self {
        Error::Unavailable(error.to_string())
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::error::ErrorKind;
        match &error {
            sqlx::Error::RowNotFound => Error::NoRow,
            sqlx::Error::Database(inner) => match inner.kind() {
                ErrorKind::UniqueViolation
                | ErrorKind::ForeignKeyViolation
                | ErrorKind::NotNullViolation
                | ErrorKind::CheckViolation => Error::Constraint(inner.message().to_owned()),
                _ => crate::dialect::classify(inner.as_ref()),
            },
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Error::Unavailable(error.to_string()),
            _ => Error::Other(error.to_string()),
        }
    }
}
