//! The levels of the process's log, as operators read and set them while it runs.

use std::collections::BTreeMap;

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Python's names, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_uppercase().as_str() {
            "CRITICAL" | "FATAL" | "ERROR" => Level::Error,
            "WARNING" | "WARN" => Level::Warning,
            "INFO" => Level::Info,
            "DEBUG" => Level::Debug,
            "TRACE" => Level::Trace,
            _ => return None,
        })
    }

    /// As the API shows it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "ERROR",
            Level::Warning => "WARNING",
            Level::Info => "INFO",
            Level::Debug => "DEBUG",
            Level::Trace => "TRACE",
        }
    }
}

/// The process's log. Targets are module paths (`volume_service::scheduler`).
pub trait LogLevels: Send + Sync + 'static {
    /// The targets that have a level of their own; `""` is everything else.
    fn levels(&self) -> BTreeMap<String, Level>;

    /// Everything whose target begins with `prefix` logs at `level` from now on; `""`: all.
    fn set(&self, prefix: &str, level: Level);
}

/// A process whose log is not ours to change.
pub struct NoLog;

impl LogLevels for NoLog {
    fn levels(&self) -> BTreeMap<String, Level> {
        BTreeMap::new()
    }

    fn set(&self, _: &str, _: Level) {}
}
