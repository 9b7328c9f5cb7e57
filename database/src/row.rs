//! A row that was read, column by name.

use std::sync::Arc;

use crate::{Error, FromValue, Result, Value};

/// One row of a result; cheap to clone column names, owned values.
#[derive(Debug, Clone)]
pub struct Row {
    pub(crate) columns: Arc<[String]>,
    pub(crate) values: Vec<Value>,
}

impl Row {
    /// The value of `column` as `T`; [`Error::Decode`] names the column that does not fit.
    pub fn get<T: FromValue>(&self, column: &str) -> Result<T> {
        let decode = |reason: String| Error::Decode {
            column: column.to_owned(),
            reason,
        };
        let position = self.columns.iter().position(|name| name == column);
        let position = position.ok_or_else(|| decode("not in the result".to_owned()))?;
        T::from_value(&self.values[position]).map_err(decode)
    }
}
