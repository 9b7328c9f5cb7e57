//! The few value types that every dialect stores alike.

use uuid::Uuid;

/// A parameter or a column value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    /// BIGINT; booleans are 0 and 1, times are microseconds since the epoch.
    Int(i64),
    Text(String),
}

macro_rules! from_int {
    ($($int:ty),+) => { $(
        impl From<$int> for Value {
            fn from(value: $int) -> Self {
                Value::Int(i64::from(value))
            }
        }
    )+ };
}
from_int!(i64, i32, i16, u32, u16, u8, bool);

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Text(value)
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        Value::Text(value.clone())
    }
}

impl From<Uuid> for Value {
    fn from(value: Uuid) -> Self {
        Value::Text(value.to_string())
    }
}

impl From<&Uuid> for Value {
    fn from(value: &Uuid) -> Self {
        Value::Text(value.to_string())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

impl<T> From<&Option<T>> for Value
where
    T: Clone + Into<Value>,
{
    fn from(value: &Option<T>) -> Self {
        value.clone().into()
    }
}

/// A type that a column can be read as. The error is the reason alone; the row adds the column.
pub trait FromValue: Sized {
    fn from_value(value: &Value) -> Result<Self, String>;
}

impl FromValue for i64 {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Int(int) => Ok(*int),
            other => Err(format!("expected an integer, found {other:?}")),
        }
    }
}

macro_rules! narrow_int {
    ($($int:ty),+) => { $(
        impl FromValue for $int {
            fn from_value(value: &Value) -> Result<Self, String> {
                let wide = i64::from_value(value)?;
                <$int>::try_from(wide).map_err(|_| format!("{wide} is out of range"))
            }
        }
    )+ };
}
narrow_int!(i32, u32, u64, u16, u8);

impl FromValue for bool {
    fn from_value(value: &Value) -> Result<Self, String> {
        i64::from_value(value).map(|int| int != 0)
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            other => Err(format!("expected text, found {other:?}")),
        }
    }
}

impl FromValue for Uuid {
    fn from_value(value: &Value) -> Result<Self, String> {
        let text = String::from_value(value)?;
        Uuid::parse_str(text.trim()).map_err(|error| error.to_string())
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(None),
            present => T::from_value(present).map(Some),
        }
    }
}
