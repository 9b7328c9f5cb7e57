//! Logs go to stderr: for people, or one JSON object a line.
//!
//! Without `debug`, warnings and errors show, and what the process itself does (start, stop);
//! with it, requests, flows and their tasks as well. `RUST_LOG` decides alone where it is set.
//! Operators may change the levels while the process runs.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};
use volume_service::logs::{Level, LogLevels};

const QUIET: &str = "warn,basalt=info,notification=info";
const DEBUG: &str = "info,basalt=debug,amqp=debug,image_service=debug,rest=debug,storage=debug,taskflow=debug,\
     volume_service=debug,sqlx=warn";

/// The directives of the filter, and what puts new ones into force.
struct Levels {
    directives: Mutex<Directives>,
    #[expect(
        clippy::type_complexity,
        reason = "the subscriber's own type has no name"
    )]
    reload: Mutex<Option<Box<dyn Fn(EnvFilter) + Send>>>,
}

static LEVELS: LazyLock<Arc<Levels>> = LazyLock::new(|| {
    Arc::new(Levels {
        directives: Mutex::new(Directives::default()),
        reload: Mutex::new(None),
    })
});

/// The levels of this process, for the API.
pub fn levels() -> Arc<dyn LogLevels> {
    LEVELS.clone()
}

pub fn start(debug: bool, json: bool) {
    let text = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => directives,
        _ => if debug { DEBUG } else { QUIET }.to_owned(),
    };
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&text));
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = if json {
        lines.json().boxed()
    } else {
        lines.boxed()
    };
    // It fails only when a subscriber is there already.
    if tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()
        .is_ok()
    {
        *lock(&LEVELS.directives) = Directives::parse(&text);
        *lock(&LEVELS.reload) = Some(Box::new(move |filter| {
            // It fails only when the subscriber is gone, and with it the log.
            let _ = handle.reload(filter);
        }));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogLevels for Levels {
    fn levels(&self) -> BTreeMap<String, Level> {
        lock(&self.directives).levels.clone()
    }

    fn set(&self, prefix: &str, level: Level) {
        let mut directives = lock(&self.directives);
        directives.set(prefix, level);
        if let Some(reload) = lock(&self.reload).as_ref() {
            reload(EnvFilter::new(directives.text()));
        }
    }
}

/// A filter's directives: levels by target (`""`: everything else), and others as they are.
#[derive(Debug, Default, PartialEq)]
struct Directives {
    levels: BTreeMap<String, Level>,
    others: Vec<String>,
}

impl Directives {
    fn parse(text: &str) -> Self {
        let mut directives = Directives::default();
        for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let (target, level) = one.split_once('=').unwrap_or(("", one));
            match Level::parse(level).filter(|_| !target.contains('[')) {
                Some(level) => {
                    directives.levels.insert(target.to_owned(), level);
                }
                None => directives.others.push(one.to_owned()),
            }
        }
        directives
    }

    /// What is below the prefix has no level of its own any more.
    fn set(&mut self, prefix: &str, level: Level) {
        self.levels.retain(|target, _| !target.starts_with(prefix));
        self.levels.insert(prefix.to_owned(), level);
    }

    fn text(&self) -> String {
        let levels = self.levels.iter().map(|(target, level)| {
            let level = match level {
                Level::Error => "error",
                Level::Warning => "warn",
                Level::Info => "info",
                Level::Debug => "debug",
                Level::Trace => "trace",
            };
            if target.is_empty() {
                level.to_owned()
            } else {
                format!("{target}={level}")
            }
        });
        let all: Vec<String> = levels.chain(self.others.iter().cloned()).collect();
        all.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_takes_what_is_below_it_along() {
        let mut directives = Directives::parse("warn,a=info,a::b=debug,c=trace,x[span]=info");
        directives.set("a", Level::Error);
        assert_eq!(directives.text(), "warn,a=error,c=trace,x[span]=info");
        directives.set("", Level::Debug);
        assert_eq!(directives.text(), "debug,x[span]=info");
        assert_eq!(Directives::parse(QUIET).levels[""], Level::Warning);
    }
}
