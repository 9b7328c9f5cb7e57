//! Logs go to stderr: for people, or one JSON object a line.
//!
//! Without `debug`, warnings and errors show, and what the process itself does (start, stop);
//! with it, requests, flows and their tasks as well. `RUST_LOG` decides alone where it is set.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

const QUIET: &str = "warn,basalt=info";
const DEBUG: &str = "info,basalt=debug,amqp=debug,image_service=debug,rest=debug,storage=debug,taskflow=debug,\
     volume_service=debug,sqlx=warn";

pub fn start(debug: bool, json: bool) {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::new(directives),
        _ => EnvFilter::new(if debug { DEBUG } else { QUIET }),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // It fails only when a subscriber is there already.
    let _ = if json {
        subscriber.json().try_init()
    } else {
        subscriber.try_init()
    };
}
