//! Blocking reads and writes on a few threads, where io_uring is not allowed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::BytesMut;

use super::real::Answers;
use super::{Action, Done, Io};

const THREADS: usize = 16;

type Job = (Io, Arc<File>);

pub(super) struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn new(answers: &Arc<Answers>) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let start = |number| {
            let (answers, queue) = (Arc::clone(answers), Arc::clone(&queue));
            std::thread::Builder::new()
                .name(format!("store-io-{number}"))
                .spawn(move || run(&queue, &answers))
        };
        let threads = (0..THREADS).map(start).collect::<io::Result<_>>()?;
        Ok(Pool {
            jobs: Some(jobs),
            threads,
        })
    }

    pub(super) fn submit(&mut self, io: Io, file: Arc<File>) {
        // The queue lives as long as this sender.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send((io, file));
        }
    }

    /// Lets everything come to its end.
    pub(super) fn stop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(queue: &Mutex<Receiver<Job>>, answers: &Answers) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((io, file)) = next else {
            return;
        };
        let tag = io.tag;
        let (result, buffer) = act(io, &file);
        answers.push(Done {
            tag,
            result,
            buffer,
        });
    }
}

fn act(io: Io, file: &File) -> (io::Result<()>, BytesMut) {
    match io.action {
        Action::Write(buffer) => (file.write_all_at(&buffer, io.offset), buffer),
        Action::Read(mut buffer, length) => {
            buffer.resize(length, 0);
            (file.read_exact_at(&mut buffer, io.offset), buffer)
        }
        Action::Sync => (file.sync_data(), BytesMut::new()),
        // The disk does this on a thread of its own.
        Action::Grow(_) | Action::Fill(_) | Action::GiveBack(_) => {
            (Err(io::ErrorKind::Unsupported.into()), BytesMut::new())
        }
    }
}
