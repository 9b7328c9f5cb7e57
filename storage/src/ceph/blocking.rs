//! A bounded pool of threads for librbd's blocking calls, apart from the runtime's: a cluster
//! that hangs holds these and nothing else, and the process can end while they wait.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// A thread without work for this long ends.
const IDLE: Duration = Duration::from_secs(20);
const STACK_BYTES: usize = 1 << 20;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
    most_threads: usize,
}

/// Handle to the pool; clones share it.
#[derive(Clone)]
pub(super) struct Blocking(Arc<Shared>);

/// Nobody answered in time; the call may still happen.
#[derive(Debug)]
pub(super) struct Overdue;

impl Blocking {
    pub(super) fn new(most_threads: usize) -> Self {
        Blocking(Arc::new(Shared {
            queue: Mutex::default(),
            bell: Condvar::new(),
            most_threads: most_threads.max(1),
        }))
    }

    /// Runs the call on a thread; one whose caller has gone before it began is left out.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Overdue> {
        let (answer, receiver) = oneshot::channel();
        self.start(Box::new(move || {
            if !answer.is_closed() {
                let _ = answer.send(call());
            }
        }));
        match tokio::time::timeout(limit, receiver).await {
            Ok(Ok(value)) => Ok(value),
            // Too late, or the call panicked.
            Ok(Err(_)) | Err(_) => Err(Overdue),
        }
    }

    /// Runs the call some time; nobody waits.
    pub(super) fn detach(&self, call: impl FnOnce() + Send + 'static) {
        self.start(Box::new(call));
    }

    fn start(&self, job: Job) {
        let mut queue = lock(&self.0.queue);
        queue.jobs.push_back(job);
        if queue.idle >= queue.jobs.len() || queue.threads >= self.0.most_threads {
            self.0.bell.notify_one();
            return;
        }
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new()
            .name("librbd-call".into())
            .stack_size(STACK_BYTES);
        match thread.spawn(move || work(&shared)) {
            Ok(_) => queue.threads += 1,
            // The threads that there are, or the next call's, do it.
            Err(error) => tracing::error!(%error, "no thread for a call of librbd"),
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(shared: &Shared) {
    let mut queue = lock(&shared.queue);
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            drop(queue);
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
                tracing::error!("a call of librbd panicked");
            }
            queue = lock(&shared.queue);
            continue;
        }
        queue.idle += 1;
        let waited = shared.bell.wait_timeout(queue, IDLE);
        let (returned, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        queue = returned;
        queue.idle -= 1;
        if timeout.timed_out() && queue.jobs.is_empty() {
            queue.threads -= 1;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn calls_wait_for_a_free_thread_and_overdue_ones_never_begin() {
        let pool = Blocking::new(1);
        let (release, wait) = std::sync::mpsc::channel::<()>();
        pool.detach(move || wait.recv().unwrap());
        let late = pool.run(Duration::ZERO, || panic!("its caller has gone"));
        assert!(late.await.is_err());
        release.send(()).unwrap();
        assert_eq!(pool.run(LONG, || 7).await.unwrap(), 7);
        assert!(pool.run(LONG, || panic!("a broken call")).await.is_err());
        assert_eq!(pool.run(LONG, || 8).await.unwrap(), 8);
        assert_eq!(lock(&pool.0.queue).threads, 1);
    }
}
