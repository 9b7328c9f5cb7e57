//! Connections over handles that wait, fail and lie.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::io::duplex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::client::Client;
use crate::nbd::admission::Grant;
use crate::nbd::exports::Export;
use crate::nbd::negotiation::Session;
use crate::nbd::reply::Form;
use crate::nbd::transmission::{Patience, transmit};
use crate::nbd::wire::command;
use crate::{Error, Extent, ImageHandle, ImageSpec, Result};

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
    connect_with(Patience {
        stalled: Duration::from_secs(300),
        idle: None,
    })
}

fn connect_with(patience: Patience) -> Connection {
    let (ours, theirs) = duplex(64 * 1024);
    let handle = Arc::new(Scripted {
        writes: Semaphore::new(0),
    });
    let export = Export {
        name: "a/b".into(),
        handle: Arc::clone(&handle) as Arc<dyn ImageHandle>,
        grant: Grant {
            image: ImageSpec::new("a", "b"),
            snapshot: None,
            read_only: false,
        },
    };
    let session = Session {
        export,
        form: Form::Structured,
        block_status: true,
    };
    let (stop, mut stopping) = watch::channel(false);
    let running = tokio::spawn(async move {
        let stop = async {
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        transmit(Box::new(theirs), BytesMut::new(), session, patience, stop).await
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

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_in_the_middle_is_cut_off_and_one_that_waits_is_not() {
    let patience = Patience {
        stalled: Duration::from_secs(60),
        idle: None,
    };
    let mut half = connect_with(patience);
    tokio::io::AsyncWriteExt::write_all(&mut half.client.writer, &[0x25, 0x60])
        .await
        .unwrap();
    let mut payload = connect_with(patience);
    payload
        .client
        .send(0, command::WRITE, 1, 0, 4096, &[1; 100])
        .await;
    let mut deaf = connect_with(patience);
    for cookie in 0..8 {
        // More than the pipe holds, and nobody reads it.
        deaf.client
            .send(0, command::READ, cookie, 0, 100_000, &[])
            .await;
    }
    let mut waiting = connect_with(patience);
    waiting
        .client
        .send(0, command::WRITE, 1, 0, 4, b"data")
        .await;
    let mut idle = connect_with(patience);
    tokio::time::sleep(Duration::from_secs(1000)).await;
    for connection in [half, payload, deaf] {
        let ended = connection.running.await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
    waiting.handle.writes.add_permits(1);
    assert_eq!(waiting.client.reply().await.error, 0);
    idle.client.send(0, command::READ, 1, 0, 4, &[]).await;
    assert_eq!(idle.client.reply().await.error, 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_is_cut_off_where_that_is_wanted() {
    let mut connection = connect_with(Patience {
        stalled: Duration::from_secs(60),
        idle: Some(Duration::from_secs(10)),
    });
    for _ in 0..5 {
        connection.client.send(0, command::READ, 1, 0, 4, &[]).await;
        assert_eq!(connection.client.reply().await.error, 0);
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    connection
        .client
        .send(0, command::WRITE, 2, 0, 4, b"data")
        .await;
    // Not idle: it waits for the store.
    tokio::time::sleep(Duration::from_secs(100)).await;
    connection.handle.writes.add_permits(1);
    assert_eq!(connection.client.reply().await.error, 0);
    assert!(connection.client.is_closed().await);
}
