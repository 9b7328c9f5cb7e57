//! Negotiation and requests as the specification has them.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::io::AsyncReadExt;

use super::client::{Client, name_and_infos, query};
use super::{SIZE, Server, volume};
use crate::memory::MemoryStore;
use crate::nbd::Options;
use crate::nbd::wire::{
    chunk, command, command_flag as flag, info, option, option_reply as rep,
    transmission_flag as export_flag,
};

#[tokio::test]
async fn info_tells_size_flags_and_block_sizes() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let replies = client
        .ask(option::INFO, &name_and_infos("volume-x", &[info::NAME]))
        .await
        .unwrap();
    let kinds: Vec<u16> = replies
        .iter()
        .map(|(_, data)| data.clone().get_u16())
        .collect();
    assert_eq!(kinds, [info::EXPORT, info::NAME, info::BLOCK_SIZE]);
    assert_eq!(&replies[1].1[2..], b"volume-x");
    assert_eq!(
        replies[2].1.slice(2..),
        [1_u32, 4096, 32 << 20].map(u32::to_be_bytes).concat()
    );

    client.structured().await;
    let (size, flags) = client.go("volumes/volume-x@snapshot-s").await.unwrap();
    assert_eq!(size, SIZE);
    assert_ne!(flags & export_flag::READ_ONLY, 0);
    assert_ne!(flags & export_flag::CAN_MULTI_CONN, 0);
    assert_ne!(flags & export_flag::SEND_DF, 0);
    assert_ne!(flags & export_flag::SEND_CACHE, 0);
    let changes = export_flag::SEND_TRIM | export_flag::SEND_WRITE_ZEROES;
    assert_eq!(flags & (changes | export_flag::SEND_FAST_ZERO), 0);
}

#[tokio::test]
async fn options_are_refused_by_name_and_the_client_may_go_on() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    for name in [
        "",
        "volume-y",
        "volume-x@other",
        "nopool/volume-x",
        "a/b/c",
        "volume-x@snapshot-s@again",
    ] {
        let (kind, text) = client.go(name).await.unwrap_err();
        assert_eq!(kind, rep::ERR_UNKNOWN, "{name}");
        assert!(text.contains(name), "{text}");
    }
    let refused = [
        (5, Vec::new(), rep::ERR_UNSUPPORTED),
        (option::EXTENDED_HEADERS, vec![0], rep::ERR_INVALID),
        (99, vec![1, 2, 3], rep::ERR_UNSUPPORTED),
        (option::LIST, vec![0], rep::ERR_INVALID),
        (option::STRUCTURED_REPLY, vec![0], rep::ERR_INVALID),
        (option::GO, vec![], rep::ERR_INVALID),
        (option::GO, vec![0, 0, 0, 9, b'v'], rep::ERR_INVALID),
        (
            option::GO,
            [name_and_infos("volume-x", &[]), vec![0]].concat(),
            rep::ERR_INVALID,
        ),
        (option::GO, vec![0, 0, 0, 1, 0xff, 0, 0], rep::ERR_INVALID),
        (
            option::SET_META_CONTEXT,
            query("volume-x", &["base:allocation"]),
            rep::ERR_INVALID,
        ),
    ];
    for (option, data, kind) in refused {
        assert_eq!(
            client.ask(option, &data).await.unwrap_err().0,
            kind,
            "option {option} with {data:?}"
        );
    }
    client.structured().await;
    let refused = [
        (query("volume-y", &[]), rep::ERR_UNKNOWN),
        (vec![0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], rep::ERR_INVALID),
        (
            [query("volume-x", &["base:allocation"]), vec![7]].concat(),
            rep::ERR_INVALID,
        ),
    ];
    for (data, kind) in refused {
        assert_eq!(
            client
                .ask(option::LIST_META_CONTEXT, &data)
                .await
                .unwrap_err()
                .0,
            kind,
            "{data:?}"
        );
    }
    assert!(client.go("volume-x").await.is_ok());
}

#[tokio::test]
async fn contexts_are_listed_and_set() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.structured().await;
    for (patterns, listed, set) in [
        (&[][..], 1, 0),
        (&["base:"], 1, 0),
        (&["base:allocation"], 1, 1),
        (&["qemu:dirty-bitmap:a", "base:allocation"], 1, 1),
        (&["other:"], 0, 0),
    ] {
        let data = query("volume-x", patterns);
        assert_eq!(
            client
                .ask(option::LIST_META_CONTEXT, &data)
                .await
                .unwrap()
                .len(),
            listed,
            "{patterns:?}"
        );
        assert_eq!(
            client
                .ask(option::SET_META_CONTEXT, &data)
                .await
                .unwrap()
                .len(),
            set,
            "{patterns:?}"
        );
    }
    // Selected for another export: does not count.
    client.allocation("volume-x@snapshot-s").await;
    client.go("volume-x").await.unwrap();
    client.send(0, command::BLOCK_STATUS, 1, 0, 4096, &[]).await;
    assert_eq!(client.reply().await.error, 22);
}

#[tokio::test]
async fn list_abort_and_the_old_export_name() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let listed = client.ask(option::LIST, &[]).await.unwrap();
    assert_eq!(
        listed,
        [(rep::SERVER, Bytes::from_static(b"\0\0\0\x08volume-x"))]
    );
    client.ask(option::ABORT, &[]).await.unwrap();
    assert!(client.is_closed().await);

    let mut client = server.connect().await;
    client.option(option::EXPORT_NAME, b"volume-x").await;
    assert_eq!(client.reader.read_u64().await.unwrap(), SIZE);
    client.reader.read_u16().await.unwrap();
    client.send(0, command::READ, 7, 10, 20, &[]).await;
    assert_eq!(client.simple(20).await.data, Bytes::from(vec![0; 20]));
    client.send(0, command::DISCONNECT, 8, 0, 0, &[]).await;
    assert!(client.is_closed().await);

    let mut client = server.connect().await;
    client.option(option::EXPORT_NAME, b"volume-y").await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn what_is_written_is_read_by_the_store_and_by_others() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.connect().await, server.connect().await);
    client.structured().await;
    client.allocation("volume-x").await;
    client.go("volume-x").await.unwrap();
    other.go("volumes/volume-x").await.unwrap();

    client
        .send(flag::FUA, command::WRITE, 1, 4095, 5, b"hello")
        .await;
    client.send(0, command::FLUSH, 2, 0, 0, &[]).await;
    let mut cookies =
        [client.reply().await, client.reply().await].map(|answer| (answer.cookie, answer.error));
    cookies.sort();
    assert_eq!(cookies, [(1, 0), (2, 0)]);
    other.send(0, command::READ, 3, 4094, 7, &[]).await;
    assert_eq!(&other.simple(7).await.data[..], b"\0hello\0");

    client
        .send(flag::REQ_ONE, command::BLOCK_STATUS, 4, 0, SIZE as u32, &[])
        .await;
    let one = client.reply().await;
    assert_eq!((one.cookie, one.data.len()), (4, 12));
    client
        .send(0, command::BLOCK_STATUS, 5, 0, SIZE as u32, &[])
        .await;
    let mut status = client.reply().await.data;
    assert_eq!(status.get_u32(), 1);
    let extents: Vec<(u32, u32)> = std::iter::from_fn(|| {
        status
            .has_remaining()
            .then(|| (status.get_u32(), status.get_u32()))
    })
    .collect();
    assert_eq!(extents, [(8192, 0), (SIZE as u32 - 8192, 3)]);

    let zeroes = flag::NO_HOLE | flag::FAST_ZERO | flag::FUA;
    client
        .send(zeroes, command::WRITE_ZEROES, 6, 4096, 2, &[])
        .await;
    assert_eq!(client.reply().await.error, 0);
    client.send(0, command::CACHE, 6, 0, SIZE as u32, &[]).await;
    assert_eq!(client.reply().await.error, 0);
    client.send(flag::DF, command::READ, 7, 4094, 7, &[]).await;
    assert_eq!(&client.reply().await.data[..], b"\0h\0\0lo\0");
    client.send(flag::FUA, command::TRIM, 8, 0, 8192, &[]).await;
    assert_eq!(client.reply().await.error, 0);
    let handle = server.store.open(&volume(), None).await.unwrap();
    assert_eq!(
        handle.read(0, 8192).await.unwrap(),
        Bytes::from(vec![0; 8192])
    );
}

#[tokio::test]
async fn bad_requests_have_their_errno_and_the_stream_stays_in_step() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.structured().await;
    client.go("volume-x").await.unwrap();
    let cases: &[(u16, u16, u64, u32, u32)] = &[
        (0, command::READ, SIZE, 1, 22),
        (0, command::READ, u64::MAX, 2, 22),
        (0, command::READ, 0, (32 << 20) + 1, 22),
        (0, command::WRITE, SIZE - 1, 2, 28),
        (0, command::WRITE, u64::MAX, 4, 28),
        (0, command::WRITE_ZEROES, SIZE - 1, 2, 28),
        (0, command::TRIM, SIZE - 1, 2, 22),
        (0, command::TRIM, 0, u32::MAX, 22),
        (0, command::FLUSH, 1, 0, 22),
        (0, command::BLOCK_STATUS, 0, 512, 22),
        (0, command::CACHE, SIZE, 1, 22),
        (0, 8, 0, 512, 22),
        (0, 999, 0, 0, 22),
        (1 << 15, command::WRITE, 0, 3, 22),
        (flag::DF, command::WRITE, 0, 3, 22),
        (flag::FAST_ZERO, command::TRIM, 0, 3, 22),
        (flag::PAYLOAD_LENGTH, command::WRITE, 0, 3, 22),
    ];
    for (number, (flags, command, offset, length, errno)) in cases.iter().enumerate() {
        let payload = vec![
            1;
            if *command == command::WRITE {
                *length as usize
            } else {
                0
            }
        ];
        client
            .send(*flags, *command, number as u64, *offset, *length, &payload)
            .await;
        let answer = client.reply().await;
        assert_eq!(
            (answer.cookie, answer.error),
            (number as u64, *errno),
            "{:?}",
            cases[number]
        );
    }
    for command in [
        command::READ,
        command::TRIM,
        command::WRITE_ZEROES,
        command::WRITE,
    ] {
        client.send(0, command, 50, SIZE, 0, &[]).await;
        assert_eq!(client.reply().await.error, 0, "nothing at the end");
    }

    let mut reader = server.connect().await;
    reader.go("volume-x@snapshot-s").await.unwrap();
    for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
        let payload = [9; 16];
        reader
            .send(
                0,
                command,
                60,
                0,
                16,
                if command == command::WRITE {
                    &payload
                } else {
                    &[]
                },
            )
            .await;
        assert_eq!(reader.simple(0).await.error, 1);
    }
    reader.send(0, command::FLUSH, 61, 0, 0, &[]).await;
    assert_eq!(reader.simple(0).await.error, 0);
}

#[tokio::test]
async fn a_full_store_is_enospc() {
    let server = Server::with(
        Arc::new(MemoryStore::with_capacity_bytes(64 << 10)),
        Options::default(),
    )
    .await;
    let mut client = server.connect().await;
    client.go("volume-x").await.unwrap();
    client
        .send(0, command::WRITE, 1, 0, 1 << 20, &vec![1; 1 << 20])
        .await;
    assert_eq!(client.simple(0).await.error, 28);
}

#[tokio::test]
async fn many_requests_in_flight_are_all_answered() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.structured().await;
    client.go("volume-x").await.unwrap();
    // More than may be in flight, and more than the sockets' buffers hold: both sides must move.
    let mut sender = Client {
        reader: Box::new(tokio::io::empty()),
        writer: client.writer,
    };
    let mut client = Client {
        reader: client.reader,
        writer: Box::new(tokio::io::sink()),
    };
    let sending = tokio::spawn(async move {
        for cookie in 0..2000_u64 {
            sender
                .send(0, command::READ, cookie, (cookie % 15) << 20, 300_000, &[])
                .await;
        }
        sender
    });
    let mut seen = vec![false; 2000];
    for _ in 0..2000 {
        let answer = client.reply().await;
        assert_eq!((answer.error, answer.data.len()), (0, 300_000));
        assert!(!std::mem::replace(&mut seen[answer.cookie as usize], true));
    }
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_refuses_new_ones() {
    idle_connections_end(Server::start().await).await;
    idle_connections_end(Server::on_lanes().await).await;
}

async fn idle_connections_end(server: Server) {
    let (mut idle, mut choosing) = (server.connect().await, server.connect().await);
    idle.go("volume-x").await.unwrap();
    let socket = server.socket.clone();
    server.stop().await;
    assert!(idle.is_closed().await);
    assert!(choosing.is_closed().await);
    assert!(!socket.exists());
}

#[tokio::test]
async fn extended_headers_have_lengths_of_64_bits() {
    let size = 64_u64 << 30;
    let server = Server::start().await;
    server.store.resize(&volume(), size).await.unwrap();
    let mut client = server.connect().await;
    client.ask(option::EXTENDED_HEADERS, &[]).await.unwrap();
    let late = client.ask(option::STRUCTURED_REPLY, &[]).await;
    assert_eq!(late.unwrap_err().0, rep::ERR_EXTENDED_HEADERS_REQUIRED);
    client.allocation("volume-x").await;
    assert_eq!(client.go("volume-x").await.unwrap().0, size);

    let payload = flag::PAYLOAD_LENGTH | flag::FUA;
    client
        .send_extended(payload, command::WRITE, 1, size - 4096, 4096, &[7; 4096])
        .await;
    let (kind, offset, answer) = client.extended_reply().await;
    assert_eq!((kind, offset, answer.cookie), (chunk::NONE, size - 4096, 1));
    client
        .send_extended(0, command::READ, 2, size - 5, 5, &[])
        .await;
    let (kind, offset, answer) = client.extended_reply().await;
    assert_eq!((kind, offset), (chunk::OFFSET_DATA, size - 5));
    assert_eq!(
        answer.data,
        (size - 5)
            .to_be_bytes()
            .into_iter()
            .chain([7; 5])
            .collect::<Bytes>()
    );

    client
        .send_extended(0, command::BLOCK_STATUS, 3, 0, size, &[])
        .await;
    let (kind, _, mut answer) = client.extended_reply().await;
    assert_eq!(kind, chunk::BLOCK_STATUS_EXTENDED);
    assert_eq!((answer.data.get_u32(), answer.data.get_u32()), (1, 2));
    let extents: Vec<(u64, u64)> = std::iter::from_fn(|| {
        let more = answer.data.has_remaining();
        more.then(|| (answer.data.get_u64(), answer.data.get_u64()))
    })
    .collect();
    assert_eq!(extents, [(size - 4096, 3), (4096, 0)]);

    client
        .send_extended(0, command::WRITE_ZEROES, 4, 0, size, &[])
        .await;
    assert_eq!(client.extended_reply().await.2.error, 0);
    // A payload where none belongs is skipped, and so is one that is refused.
    client
        .send_extended(flag::PAYLOAD_LENGTH, command::TRIM, 5, 0, 100, &[1; 100])
        .await;
    assert_eq!(client.extended_reply().await.2.error, 22);
    client
        .send_extended(flag::PAYLOAD_LENGTH, command::WRITE, 6, size, 3, &[1; 3])
        .await;
    assert_eq!(client.extended_reply().await.2.error, 28);
    client
        .send_extended(0, command::READ, 7, 0, u64::MAX, &[])
        .await;
    assert_eq!(client.extended_reply().await.2.error, 22);
    client
        .send_extended(0, command::DISCONNECT, 8, 0, 0, &[])
        .await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn block_status_pages_through_more_extents_than_fit_an_answer() {
    let server = Server::start().await;
    let handle = server.store.open(&volume(), None).await.unwrap();
    let blocks = SIZE / 4096;
    server.store.resize(&volume(), 4 * SIZE).await.unwrap();
    for block in 0..blocks {
        let data = Bytes::from(vec![1; 4096]);
        handle.write(block * 8192, data).await.unwrap();
    }
    let mut client = server.connect().await;
    client.structured().await;
    client.allocation("volume-x").await;
    client.go("volume-x").await.unwrap();
    let (mut position, mut answers, mut data_bytes) = (0, 0, 0);
    while position < 4 * SIZE {
        let length = (4 * SIZE - position) as u32;
        client
            .send(0, command::BLOCK_STATUS, answers, position, length, &[])
            .await;
        let mut status = client.reply().await.data;
        assert_eq!(status.get_u32(), 1);
        while status.has_remaining() {
            let (length, state) = (status.get_u32(), status.get_u32());
            data_bytes += if state == 0 { u64::from(length) } else { 0 };
            position += u64::from(length);
        }
        answers += 1;
    }
    assert_eq!((position, data_bytes), (4 * SIZE, SIZE));
    assert!(answers > 1);
}

#[tokio::test]
async fn a_grown_volume_has_its_new_size_for_new_clients() {
    let server = Server::start().await;
    let mut old = server.connect().await;
    assert_eq!(old.go("volume-x").await.unwrap().0, SIZE);
    old.send(0, command::READ, 1, SIZE, 1, &[]).await;
    assert_eq!(old.simple(1).await.error, 22);
    server.store.resize(&volume(), 2 * SIZE).await.unwrap();
    let mut new = server.connect().await;
    assert_eq!(new.go("volume-x").await.unwrap().0, 2 * SIZE);
    old.send(0, command::READ, 2, SIZE, 1, &[]).await;
    assert_eq!(old.simple(1).await.error, 0);
}
