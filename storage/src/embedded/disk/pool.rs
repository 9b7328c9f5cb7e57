//! Blocking reads and writes on a few threads, where io_uring is not allowed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};

use crate::lane::{Done, FileAction, FileOrder};

const THREADS: usize = 16;

pub(super) struct Pool {
    orders: Option<Sender<FileOrder>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn new() -> io::Result<Self> {
        let (orders, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let start = |number| {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(format!("store-io-{number}"))
                .spawn(move || run(&queue))
        };
        let threads = (0..THREADS).map(start).collect::<io::Result<_>>()?;
        Ok(Pool {
            orders: Some(orders),
            threads,
        })
    }

    pub(super) fn carry_out(&self, orders: &mut Vec<FileOrder>) {
        // The queue lives as long as this sender.
        if let Some(queue) = &self.orders {
            orders.drain(..).for_each(|order| drop(queue.send(order)));
        }
    }
}

impl Drop for Pool {
    /// Lets everything come to its end.
    fn drop(&mut self) {
        self.orders = None;
        let this = std::thread::current().id();
        for thread in self.threads.drain(..) {
            if thread.thread().id() != this {
                let _ = thread.join();
            }
        }
    }
}

fn run(queue: &Mutex<Receiver<FileOrder>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(order) = next else {
            return;
        };
        let owner = Arc::clone(&order.owner);
        owner.done(act(order));
        if let Some(work) = owner.waits() {
            work.go_on();
        }
    }
}

fn act(order: FileOrder) -> Done {
    let file: &File = &order.file;
    let (result, buffer) = match order.action {
        FileAction::Write(buffer) => (file.write_all_at(&buffer, order.offset), buffer),
        FileAction::Gather(buffers) => (write_each(file, &buffers, order.offset), BytesMut::new()),
        FileAction::Read(mut buffer, length) => {
            buffer.resize(length, 0);
            (file.read_exact_at(&mut buffer, order.offset), buffer)
        }
        FileAction::Sync => (file.sync_data(), BytesMut::new()),
    };
    Done {
        tag: order.tag,
        result,
        buffer,
    }
}

fn write_each(file: &File, buffers: &[Bytes], mut offset: u64) -> io::Result<()> {
    for buffer in buffers {
        file.write_all_at(buffer, offset)?;
        offset += buffer.len() as u64;
    }
    Ok(())
}
