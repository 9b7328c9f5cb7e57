//! SIGINT and SIGTERM: the first asks for an orderly stop, the second ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell shows for a process that Ctrl-C ended.
const EXIT_INTERRUPTED: i32 = 130;

/// Watches for signals from now on; the token is cancelled by the first one.
pub fn watch() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        next(&mut interrupt, &mut terminate).await;
        tracing::info!("stopping: waiting for what runs; a second signal ends it at once");
        token.cancel();
        next(&mut interrupt, &mut terminate).await;
        tracing::warn!("stopped by a second signal; the next start resumes what ran");
        std::process::exit(EXIT_INTERRUPTED);
    });
    Ok(stop)
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
