use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;

fn on_lane(socket: UnixStream) -> LaneStream {
    socket.set_nonblocking(true).unwrap();
    LaneStream::new(OwnedFd::from(socket))
}

#[tokio::test]
async fn a_socket_is_served_until_its_client_leaves() {
    let lanes = Lanes::start(None).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let running = lanes.spawn(async move {
        let mut stream = on_lane(theirs);
        let mut all = vec![0; 1 << 20];
        // More than a socket holds, both ways.
        stream.read_exact(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
        assert_eq!(stream.read(&mut all).await.unwrap(), 0);
    });
    let sent: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    let client = std::thread::spawn(move || {
        ours.write_all(&sent).unwrap();
        let mut back = vec![0; sent.len()];
        ours.read_exact(&mut back).unwrap();
        assert_eq!(back, sent);
    });
    running.await;
    client.join().unwrap();
}

#[tokio::test]
async fn a_cancelled_task_closes_its_socket() {
    let lanes = Lanes::start(None).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let running = lanes.spawn(async move {
        let mut stream = on_lane(theirs);
        stream.write_all(b"here").await.unwrap();
        let _ = stream.read_u8().await;
    });
    let mut word = [0; 4];
    ours.read_exact(&mut word).unwrap();
    drop(running);
    assert_eq!(ours.read(&mut word).unwrap(), 0);
}

#[tokio::test]
async fn others_go_on_when_a_task_panics() {
    let lanes = Lanes::start(None).unwrap();
    let (wake, woken) = oneshot::channel::<()>();
    let steady: Vec<Running> = (0..lanes.lanes.len() * 2)
        .map(|_| lanes.spawn(tokio::time::sleep(Duration::from_millis(20))))
        .collect();
    lanes.spawn(async { panic!("on purpose") }).await;
    let waits = lanes.spawn(async { woken.await.unwrap() });
    wake.send(()).unwrap();
    waits.await;
    for running in steady {
        running.await;
    }
}

struct Counter(AtomicUsize);

impl Deferred for Counter {
    fn go_on(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn what_is_deferred_in_one_round_goes_on_once() {
    let lanes = Lanes::start(None).unwrap();
    let counter = Arc::new(Counter(AtomicUsize::new(0)));
    assert!(!defer(&counter), "this is no lane");
    let inner = Arc::clone(&counter);
    lanes
        .spawn(async move {
            assert!(defer(&inner) && defer(&inner));
            assert_eq!(inner.0.load(Ordering::SeqCst), 0);
            tokio::task::yield_now().await;
            // A wait in another round.
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(inner.0.load(Ordering::SeqCst), 1);
        })
        .await;
    assert_eq!(counter.0.load(Ordering::SeqCst), 1);
}

/// Hears of one order.
struct Hearer(Mutex<mpsc::Sender<Done>>);

impl FileOwner for Hearer {
    fn done(&self, done: Done) {
        self.0.lock().unwrap().send(done).unwrap();
    }

    fn waits(&self) -> Option<Arc<dyn Deferred>> {
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_a_lock_may_wait_for_files_of_a_lane_that_wants_it() {
    let lanes = Lanes::start(None).unwrap();
    let file = Arc::new(tempfile::tempfile().unwrap());
    let (heard, hears) = mpsc::channel();
    let owner: Arc<dyn FileOwner> = Arc::new(Hearer(Mutex::new(heard)));
    let order = |tag| FileOrder {
        tag,
        file: Arc::clone(&file),
        offset: 0,
        action: FileAction::Write(BytesMut::from(&b"data"[..])),
        owner: Arc::clone(&owner),
    };
    let mutex = Arc::new(Mutex::new(()));
    let held = mutex.lock().unwrap();
    let waiting: Vec<Running> = (0..lanes.lanes.len() as u64)
        .map(|tag| {
            let (wanted, own) = (Arc::clone(&mutex), order(tag));
            lanes.spawn(async move {
                current().unwrap().ring.borrow_mut().order(own);
                drop(lock(&wanted).unwrap());
            })
        })
        .collect();
    // All lanes wait for the lock by now, or soon.
    let wait = || tokio::task::block_in_place(|| hears.recv()).unwrap();
    for _ in &waiting {
        assert!(wait().result.is_ok());
    }
    lanes.carry_out(&mut vec![order(1000)]);
    let done = wait();
    assert!(done.tag == 1000 && done.result.is_ok());
    drop(held);
    for running in waiting {
        running.await;
    }
}

#[tokio::test]
async fn orders_from_outside_are_carried_out() {
    let lanes = Lanes::start(None).unwrap();
    let file = Arc::new(tempfile::tempfile().unwrap());
    let (heard, hears) = mpsc::channel();
    let owner: Arc<dyn FileOwner> = Arc::new(Hearer(Mutex::new(heard)));
    let order = |tag, action| FileOrder {
        tag,
        file: Arc::clone(&file),
        offset: 0,
        action,
        owner: Arc::clone(&owner),
    };
    let write = FileAction::Write(BytesMut::from(&b"some data"[..]));
    lanes.carry_out(&mut vec![order(1, write)]);
    assert!(hears.recv().unwrap().result.is_ok());
    let read = FileAction::Read(BytesMut::with_capacity(9), 9);
    lanes.carry_out(&mut vec![order(2, read), order(3, FileAction::Sync)]);
    let mut done = [hears.recv().unwrap(), hears.recv().unwrap()];
    done.sort_by_key(|done| done.tag);
    assert_eq!(&done[0].buffer[..], b"some data");
    assert!(done[1].result.is_ok());
    let beyond = FileAction::Read(BytesMut::with_capacity(20), 20);
    lanes.carry_out(&mut vec![order(4, beyond)]);
    assert!(hears.recv().unwrap().result.is_err());
}
