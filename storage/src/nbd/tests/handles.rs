//! Connections over handles that wait, fail and lie.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::duplex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::client::Client;
use crate::nbd::exports::Export;
use crate::nbd::negotiation::Session;
use crate::nbd::reply::Replies;
use crate::nbd::transmission::Transmission;
use crate::nbd::wire::command;
use crate::{Error, Extent, ImageHandle, Result};

/// Reads fail by their offset; writes wait for a permit.
struct Scripted {
    writes: Semaphore,
}

#[async_trait]
impl ImageHandle for Scripted {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }

    fn read_only(&self) -> bool {
        false
    }

    async fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        match offset {
            0 => Ok(vec![1; length].into()),
            1 => Ok(Bytes::new()),
            2 => Err(Error::Corrupt {
                image: "a/b".into(),
                offset,
                detail: "checksum".into(),
            }),
            3 => Err(Error::ReadOnly("a/b".into())),
            4 => Err(Error::Unavailable("away".into())),
            _ => panic!("a broken engine"),
        }
    }

    async fn write(&self, _offset: u64, _data: Bytes) -> Result<()> {
        match self.writes.acquire().await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Unavailable("closed".into())),
        }
    }

    async fn discard(&self, _offset: u64, _length: u64) -> Result<()> {
        Err(Error::OutOfSpace)
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn extents(&self, _offset: u64, _length: u64, _limit: usize) -> Result<Vec<Extent>> {
        Ok(Vec::new())
    }
}

struct Connection {
    client: Client,
    handle: Arc<Scripted>,
    stop: watch::Sender<bool>,
    running: JoinHandle<io::Result<()>>,
}

fn connect() -> Connection {
    let (ours, theirs) = duplex(64 * 1024);
    let (reader, writer) = tokio::io::split(theirs);
    let handle = Arc::new(Scripted {
        writes: Semaphore::new(0),
    });
    let export = Export {
        name: "a/b".into(),
        handle: Arc::clone(&handle) as Arc<dyn ImageHandle>,
    };
    let session = Session {
        export,
        structured_replies: true,
        block_status: true,
    };
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(async move {
        let (replies, mut sending) = Replies::start(writer);
        let mut transmission = Transmission::new(reader, session, replies, stopping);
        let ended = transmission.run().await;
        transmission.finish().await;
        sending.join_next().await.unwrap().unwrap()?;
        ended
    });
    let (reader, writer) = tokio::io::split(ours);
    let client = Client {
        reader: Box::new(reader),
        writer: Box::new(writer),
    };
    Connection {
        client,
        handle,
        stop,
        running,
    }
}

#[tokio::test]
async fn failures_have_their_errno() {
    let Connection {
        mut client,
        stop: _stop,
        ..
    } = connect();
    for (offset, errno) in [(0, 0), (1, 5), (2, 5), (3, 1), (4, 5)] {
        client.send(0, command::READ, offset, offset, 8, &[]).await;
        let answer = client.reply().await;
        assert_eq!((answer.cookie, answer.error), (offset, errno));
    }
    client.send(0, command::TRIM, 9, 0, 8, &[]).await;
    assert_eq!(client.reply().await.error, 28);
    client.send(0, command::BLOCK_STATUS, 9, 0, 8, &[]).await;
    assert_eq!(client.reply().await.error, 5, "an engine without an answer");
}

#[tokio::test]
async fn a_panic_in_the_engine_is_an_error_of_that_request() {
    let Connection {
        mut client,
        stop: _stop,
        ..
    } = connect();
    client.send(0, command::READ, 1, 99, 8, &[]).await;
    let answer = client.reply().await;
    assert_eq!((answer.cookie, answer.error), (1, 5));
    client.send(0, command::READ, 2, 0, 8, &[]).await;
    assert_eq!(client.reply().await.error, 0);
}

#[tokio::test]
async fn shutdown_finishes_what_runs_and_refuses_what_comes() {
    let Connection {
        mut client,
        handle,
        stop,
        running,
    } = connect();
    client.send(0, command::WRITE, 1, 0, 4, b"data").await;
    client.send(0, command::READ, 2, 0, 4, &[]).await;
    // The read overtakes the write, which has started, too.
    assert_eq!(client.reply().await.cookie, 2);
    stop.send_replace(true);
    client.send(0, command::WRITE, 3, 0, 4, b"late").await;
    client.send(0, command::READ, 4, 0, 4, &[]).await;
    for cookie in [3, 4] {
        let answer = client.reply().await;
        assert_eq!((answer.cookie, answer.error), (cookie, 108));
    }
    handle.writes.add_permits(1000);
    let answer = client.reply().await;
    assert_eq!(
        (answer.cookie, answer.error),
        (1, 0),
        "what ran is finished"
    );
    while !running.is_finished() {
        tokio::task::yield_now().await;
    }
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let Connection {
        mut client,
        handle,
        stop: _stop,
        ..
    } = connect();
    let mut sender = Client {
        reader: Box::new(tokio::io::empty()),
        writer: client.writer,
    };
    let sending = tokio::spawn(async move {
        for cookie in 0..10_000 {
            sender
                .send(0, command::WRITE, cookie, 0, 4096, &[1; 4096])
                .await;
        }
    });
    // 40 MB do not fit the pipe, so the sender can only end if the server reads on without limit.
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
    assert!(!sending.is_finished());
    handle.writes.add_permits(1);
    client.writer = Box::new(tokio::io::sink());
    for _ in 0..10_000 {
        assert_eq!(client.reply().await.error, 0);
    }
    sending.await.unwrap();
}
