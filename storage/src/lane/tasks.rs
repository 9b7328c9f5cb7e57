//! The futures that a lane runs.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::oneshot;

use super::current;
use super::mailbox::Mailbox;
use super::slots::Slots;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task on its way to its lane.
pub(super) struct NewTask {
    number: u64,
    work: Work,
}

/// A task of a lane, seen from outside: resolves when it has ended. Dropping it cancels the task.
pub(crate) struct Running {
    ended: oneshot::Receiver<()>,
    cancel: Option<(Arc<Mailbox>, u64)>,
}

/// Counts a task as long as it is there.
struct Counted(Arc<Mailbox>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.discount_task();
    }
}

impl Running {
    pub(super) fn start(
        mailbox: &Arc<Mailbox>,
        number: u64,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Running {
        let (end, ended) = oneshot::channel();
        mailbox.count_task();
        let counted = Counted(Arc::clone(mailbox));
        let work = Box::pin(async move {
            // Dropped with the task, however it ends.
            let _kept: (oneshot::Sender<()>, Counted) = (end, counted);
            future.await;
        });
        mailbox.send(|mail| mail.tasks.push(NewTask { number, work }));
        Running {
            ended,
            cancel: Some((Arc::clone(mailbox), number)),
        }
    }

    pub(super) fn ended() -> Running {
        Running {
            ended: oneshot::channel().1,
            cancel: None,
        }
    }
}

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let ended = Pin::new(&mut self.ended).poll(context).map(drop);
        if ended.is_ready() {
            self.cancel = None;
        }
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some((mailbox, number)) = self.cancel.take() {
            mailbox.send(|mail| mail.cancelled.push(number));
        }
    }
}

struct TaskWaker {
    mailbox: Arc<Mailbox>,
    place: usize,
    /// It is in the list already.
    awake: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.awake.swap(true, Ordering::AcqRel) {
            return;
        }
        match current() {
            Some(core) if Arc::ptr_eq(&core.mailbox, &self.mailbox) => {
                core.woken.borrow_mut().push(self.place);
            }
            _ => self.mailbox.send(|mail| mail.woken.push(self.place)),
        }
    }
}

struct Task {
    number: u64,
    work: Work,
    state: Arc<TaskWaker>,
    waker: Waker,
}

pub(super) struct Tasks {
    mailbox: Arc<Mailbox>,
    slots: Slots<Task>,
    running: Vec<usize>,
}

impl Tasks {
    pub fn new(mailbox: &Arc<Mailbox>) -> Tasks {
        Tasks {
            mailbox: Arc::clone(mailbox),
            slots: Slots::default(),
            running: Vec::new(),
        }
    }

    pub fn add(&mut self, tasks: Vec<NewTask>, woken: &RefCell<Vec<usize>>) {
        for NewTask { number, work } in tasks {
            let place = self.slots.insert_with(|place| {
                let state = Arc::new(TaskWaker {
                    mailbox: Arc::clone(&self.mailbox),
                    place,
                    awake: AtomicBool::new(true),
                });
                Task {
                    number,
                    work,
                    waker: Waker::from(Arc::clone(&state)),
                    state,
                }
            });
            woken.borrow_mut().push(place);
        }
    }

    pub fn cancel(&mut self, numbers: &[u64]) {
        for number in numbers {
            let found = self.slots.iter().find(|(_, task)| task.number == *number);
            if let Some(place) = found.map(|(place, _)| place) {
                self.slots.remove(place);
            }
        }
    }

    /// Runs every task that is awake once.
    pub fn run_woken(&mut self, woken: &RefCell<Vec<usize>>) {
        std::mem::swap(&mut self.running, &mut *woken.borrow_mut());
        for place in self.running.drain(..) {
            // A waker of whoever had the place before wakes in vain.
            let Some(task) = self.slots.get_mut(place) else {
                continue;
            };
            task.state.awake.store(false, Ordering::Release);
            let mut context = Context::from_waker(&task.waker);
            let work = AssertUnwindSafe(|| task.work.as_mut().poll(&mut context));
            // The panic hook has told where; the connection ends, the others go on.
            if !matches!(std::panic::catch_unwind(work), Ok(Poll::Pending)) {
                drop(self.slots.remove(place));
            }
        }
    }
}
