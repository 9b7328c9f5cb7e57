//! Broken clients: the server must answer or close, and go on serving others.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Server;
use crate::nbd::wire::{self, command, option};

/// Sends bytes, closes the sending side and reads until the server closes.
async fn send_and_close(server: &Server, bytes: &[u8]) {
    let mut stream = UnixStream::connect(&server.socket).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"NBDMAGICIHAVEOPT"));
}

async fn still_serves(server: &Server) {
    assert!(server.connect().await.go("volume-x").await.is_ok());
}

fn option_bytes(option: u32, claimed: u32, data: &[u8]) -> Vec<u8> {
    [
        &wire::OPTION_MAGIC.to_be_bytes()[..],
        &option.to_be_bytes(),
        &claimed.to_be_bytes(),
        data,
    ]
    .concat()
}

fn request_bytes(flags: u16, command: u16, offset: u64, length: u32) -> Vec<u8> {
    let magic = wire::REQUEST_MAGIC.to_be_bytes();
    [
        &magic[..],
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &[7; 8],
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}

/// Everything up to the first request.
fn handshake() -> Vec<u8> {
    let go = super::client::name_and_infos("volume-x", &[]);
    [
        3_u32.to_be_bytes().to_vec(),
        option_bytes(option::GO, go.len() as u32, &go),
    ]
    .concat()
}

#[tokio::test]
async fn truncated_handshakes_and_requests() {
    let server = Server::start().await;
    let mut whole = handshake();
    whole.extend(request_bytes(0, command::WRITE, 0, 100));
    whole.extend([1; 100]);
    for length in 0..whole.len() {
        send_and_close(&server, &whole[..length]).await;
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn absurd_lengths() {
    let server = Server::start().await;
    for length in [65_537, 1 << 20, u32::MAX] {
        let bytes = [
            3_u32.to_be_bytes().to_vec(),
            option_bytes(option::GO, length, b"x"),
        ]
        .concat();
        send_and_close(&server, &bytes).await;
    }
    for length in [(32 << 20) + 1, u32::MAX] {
        for command in 0..10 {
            send_and_close(
                &server,
                &[handshake(), request_bytes(0, command, 0, length)].concat(),
            )
            .await;
        }
    }
    let endless: Vec<u8> = (0..2000)
        .flat_map(|_| option_bytes(option::LIST, 1, b"x"))
        .collect();
    send_and_close(&server, &[3_u32.to_be_bytes().to_vec(), endless].concat()).await;
    still_serves(&server).await;
}

#[tokio::test]
async fn unknown_client_flags() {
    let server = Server::start().await;
    for flags in [0_u32, 2, 4, u32::MAX] {
        send_and_close(
            &server,
            &[
                flags.to_be_bytes().to_vec(),
                option_bytes(option::LIST, 0, &[]),
            ]
            .concat(),
        )
        .await;
    }
    still_serves(&server).await;
}

fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0..16_u32, Just(0), Just(u32::MAX), any::<u32>()];
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        bytes.clone(),
        (number.clone(), number.clone(), bytes.clone())
            .prop_map(|(option, claimed, data)| option_bytes(option, claimed, &data)),
        (number.clone(), bytes).prop_map(|(option, data)| option_bytes(
            option,
            data.len() as u32,
            &data
        )),
        (any::<u16>(), 0..10_u16, 0..20_u64, number).prop_map(
            |(flags, command, offset, length)| {
                request_bytes(
                    if flags % 3 == 0 { flags } else { 0 },
                    command,
                    offset << 20,
                    length,
                )
            }
        ),
        Just(handshake()[4..].to_vec()),
        Just(option_bytes(option::STRUCTURED_REPLY, 0, &[])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn random_conversations(conversations in proptest::collection::vec((any::<bool>(), proptest::collection::vec(fragment(), 0..12)), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::start().await;
            for (polite, fragments) in conversations {
                let start = if polite { 3_u32.to_be_bytes().to_vec() } else { Vec::new() };
                send_and_close(&server, &[start, fragments.concat()].concat()).await;
            }
            still_serves(&server).await;
            // Ends only when every connection has: none hangs, and none has panicked.
            server.stop().await;
        });
    }
}
