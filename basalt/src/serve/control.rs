//! `control.sock` in the folder of each embedded store: how `basalt store` reaches a store that this
//! server uses. Only the folder's owner can connect.
//!
//! A connection carries one call, a line of JSON; answered by lines of progress and a last line
//! with the answer or the error. When the caller goes away, the call ends.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage::embedded::{EmbeddedStore, Progress};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::store_calls::{Answer, Call};

/// The socket's name in the folder of the store.
pub const SOCKET: &str = "control.sock";
const BACKLOG: u32 = 16;
const LONGEST_CALL_BYTES: u64 = 64 << 10;
/// How long a caller may take to say what it wants.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// A line that goes back to the caller.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Progress { done_bytes: u64, all_bytes: u64 },
    Done(Answer),
    Failed(String),
}

/// Listens in the folder of a store until `stop`. A server without it serves all the same.
pub fn start(folder: &Path, store: Arc<EmbeddedStore>, stop: &CancellationToken) -> JoinHandle<()> {
    let path = folder.join(SOCKET);
    let stop = stop.clone();
    tokio::spawn(async move {
        let listener = match listen(&path) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "basalt store cannot reach this server");
                return;
            }
        };
        let serving = serve(listener, store, &stop);
        stop.run_until_cancelled(serving).await;
        let _ = std::fs::remove_file(&path);
    })
}

/// The store's lock is ours, so a socket that is there is of a process that is gone.
fn listen(path: &PathBuf) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    // Before listening: nobody can connect while the mode is still the umask's.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)
}

async fn serve(listener: UnixListener, store: Arc<EmbeddedStore>, stop: &CancellationToken) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (store, stop) = (Arc::clone(&store), stop.clone());
                tokio::spawn(async move {
                    let answering = answer(stream, &store);
                    if let Some(Err(error)) = stop.run_until_cancelled(answering).await {
                        tracing::debug!(%error, "a caller of the control socket went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot take a caller");
                tokio::time::sleep(PROGRESS_INTERVAL).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, store: &EmbeddedStore) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading.take(LONGEST_CALL_BYTES));
    let mut line = String::new();
    tokio::time::timeout(CALL_TIMEOUT, reading.read_line(&mut line)).await??;
    let call: Call = match serde_json::from_str(&line) {
        Ok(call) => call,
        Err(error) => return send(&mut writing, &Line::Failed(error.to_string())).await,
    };
    tracing::info!(?call, "called by the control socket");
    let progress = Arc::new(Progress::default());
    let mut carried_out = std::pin::pin!(call.carry_out(store, Arc::clone(&progress)));
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            done = &mut carried_out => {
                let last = match done {
                    Ok(answer) => Line::Done(answer),
                    Err(error) => Line::Failed(error.to_string()),
                };
                return send(&mut writing, &last).await;
            }
            _ = ticks.tick() => {
                let (done_bytes, all_bytes) = progress.bytes();
                send(&mut writing, &Line::Progress { done_bytes, all_bytes }).await?;
            }
        }
    }
}

async fn send(writing: &mut (impl AsyncWriteExt + Unpin), line: &Line) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    writing.write_all(&bytes).await
}
