//! Lanes: threads that carry connections to a store from end to end.
//!
//! A lane reads a client's requests, has them carried out, and sends the replies, and hands
//! nothing to another thread on the way. It runs the connections' futures, and one io_uring tells
//! it what its sockets and files have done, so that a request costs two waits at most: one for
//! itself and one for the disk.
//!
//! One round: the tasks that are awake run; what they left for later, [`defer`], goes on, once
//! for all of them; then everything that was ordered is handed to the kernel in one call, which
//! returns when something has happened.
//!
//! **Promises.** A lane never just waits for a lock: [`lock`] goes on with files' orders and ends,
//! so whoever holds the lock may wait for them. Waiting costs no processor
//! time, except that a lane whose last waits were short looks out for the next event for at most
//! [`MOST_LOOKOUT`] before it sleeps: a sleep costs more than that.

mod files;
mod lookout;
mod mailbox;
mod ring;
mod slots;
mod stream;
mod tasks;

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LockResult, Mutex, MutexGuard, TryLockError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) use files::{Done, FileAction, FileOrder, FileOwner};
pub(crate) use stream::LaneStream;
pub(crate) use tasks::Running;

use lookout::Lookout;
use mailbox::Mailbox;
use ring::{Event, Ring};
use stream::{Direction, SocketState};
use tasks::Tasks;

#[cfg(doc)]
use lookout::MOST_LOOKOUT;

/// More lanes than this only move work between processors.
const MOST_LANES: usize = 8;
/// How often a lane looks whether a lock has come free before it does something else meanwhile.
const LOCK_TRIES: usize = 200;
const LOCK_PAUSE: Duration = Duration::from_micros(50);

/// Work that several tasks leave for the end of the round, to have it done once.
pub(crate) trait Deferred: Send + Sync {
    fn go_on(&self);
}

/// Threads that run connections. Dropping them ends what runs on them.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Lane>,
    next_task: AtomicU64,
}

#[derive(Debug)]
struct Lane {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

impl Lanes {
    /// One for each processor, at most 8. Must be called within a tokio runtime, whose timers
    /// the tasks use. Errors: io_uring is not allowed, or there are no threads left.
    ///
    /// The kernel holds `held` open, too, until all orders have ended: those of a process that was
    /// killed go on without it, and must not meet those of the next.
    pub fn start(held: Option<&File>) -> io::Result<Lanes> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let mut lanes = Lanes {
            lanes: Vec::new(),
            next_task: AtomicU64::new(0),
        };
        for number in 0..count.min(MOST_LANES) {
            let held = held.map(File::try_clone).transpose()?;
            lanes.lanes.push(start(number, held)?);
        }
        Ok(lanes)
    }

    /// Runs a future on the lane with the fewest tasks.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> Running {
        let mailboxes = self.lanes.iter().map(|lane| &lane.mailbox);
        let task = self.next_task.fetch_add(1, Ordering::Relaxed);
        match mailboxes.min_by_key(|mailbox| mailbox.tasks()) {
            Some(mailbox) => Running::start(mailbox, task, future),
            None => Running::ended(),
        }
    }

    /// Hands orders to this thread's ring, or, where it is no lane, to the first lane's.
    pub(crate) fn carry_out(&self, orders: &mut Vec<FileOrder>) {
        if let Some(core) = current() {
            let mut ring = core.ring.borrow_mut();
            orders.drain(..).for_each(|order| ring.order(order));
        } else if let Some(first) = self.lanes.first() {
            first.mailbox.send(|mail| mail.orders.append(orders));
        }
    }

    /// Lets go of what is held, soon.
    pub(crate) fn let_go(&self) {
        for lane in &self.lanes {
            lane.mailbox.send(|mail| mail.let_go = true);
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.mailbox.send(|mail| mail.stop = true);
        }
        for lane in &mut self.lanes {
            if let Some(thread) = lane.thread.take()
                && thread.thread().id() != std::thread::current().id()
            {
                let _ = thread.join();
            }
        }
    }
}

fn start(number: usize, held: Option<File>) -> io::Result<Lane> {
    let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    let mailbox = Arc::new(Mailbox::new()?);
    let (begun, beginning) = mpsc::sync_channel(1);
    let carried = Arc::clone(&mailbox);
    let thread = std::thread::Builder::new().name(format!("lane-{number}"));
    let thread = thread.spawn(move || {
        // A ring belongs to the thread that makes it.
        let ring = match Ring::new(&carried, held) {
            Ok(ring) => ring,
            Err(error) => return drop(begun.send(Err(error))),
        };
        let core = Rc::new(Core {
            mailbox: carried,
            ring: RefCell::new(ring),
            woken: RefCell::default(),
            deferred: RefCell::default(),
            events: RefCell::default(),
        });
        CURRENT.set(Some(Rc::clone(&core)));
        let _ = begun.send(Ok(()));
        let _timers = runtime.enter();
        core.run();
        CURRENT.set(None);
    })?;
    beginning.recv().map_err(io::Error::other)??;
    Ok(Lane {
        mailbox,
        thread: Some(thread),
    })
}

/// What a lane's thread works with.
struct Core {
    mailbox: Arc<Mailbox>,
    ring: RefCell<Ring>,
    /// Tasks that are awake.
    woken: RefCell<Vec<usize>>,
    deferred: RefCell<Vec<Arc<dyn Deferred>>>,
    events: RefCell<Vec<Event>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

fn current() -> Option<Rc<Core>> {
    let found = CURRENT.try_with(|current| current.borrow().clone());
    found.ok().flatten()
}

/// Whether this thread is a lane.
pub(crate) fn is_lane() -> bool {
    current().is_some()
}

/// Has the work go on at the end of this round. False: this thread is no lane.
pub(crate) fn defer(work: &Arc<impl Deferred + 'static>) -> bool {
    match current() {
        Some(core) => {
            core.defer(Arc::clone(work) as Arc<dyn Deferred>);
            true
        }
        None => false,
    }
}

/// Goes on with files' orders and ends, and waits for an end up to `most`. False: this thread is
/// no lane.
pub(crate) fn attend(most: Duration) -> bool {
    match current() {
        Some(core) => {
            // Whoever is waited for may have sent them.
            let orders = core.mailbox.take_orders();
            let mut ring = core.ring.borrow_mut();
            orders.into_iter().for_each(|order| ring.order(order));
            ring.wait(Some(most));
            drop(ring);
            core.take_events();
            true
        }
        None => false,
    }
}

/// Locks. On a lane, files' orders and ends go on while it waits.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> LockResult<MutexGuard<'_, T>> {
    if !is_lane() {
        return mutex.lock();
    }
    for tries in 1.. {
        match mutex.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Err(poisoned),
            Err(TryLockError::WouldBlock) if tries % LOCK_TRIES == 0 => {
                attend(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
        }
    }
    mutex.lock()
}

/// Has a socket's next change of this kind noticed.
fn arm(socket: &Arc<SocketState>, direction: Direction) -> io::Result<()> {
    let core = current().ok_or(io::ErrorKind::Unsupported)?;
    core.ring.borrow_mut().arm(socket, direction);
    Ok(())
}

impl Core {
    fn run(&self) {
        let mut tasks = Tasks::new(&self.mailbox);
        // Clients and disks are different in what they take.
        let mut lookouts = <[Lookout; 2]>::default();
        loop {
            tasks.run_woken(&self.woken);
            let deferred = self.deferred.take();
            deferred.iter().for_each(|work| work.go_on());
            if let Some(mail) = self.mailbox.take() {
                let mut ring = self.ring.borrow_mut();
                mail.orders.into_iter().for_each(|order| ring.order(order));
                drop(ring);
                self.woken.borrow_mut().extend(mail.woken);
                tasks.add(mail.tasks, &self.woken);
                tasks.cancel(&mail.cancelled);
                if mail.let_go {
                    self.ring.borrow_mut().let_go();
                }
                if mail.stop {
                    return self.end(tasks);
                }
            }
            let idle = self.woken.borrow().is_empty() && self.deferred.borrow().is_empty();
            let disk = self.ring.borrow().files_under_way() > 0;
            self.rest(idle, &mut lookouts[usize::from(disk)]);
            self.take_events();
        }
    }

    /// Hands over what was ordered, and waits for something to happen if there is nothing to do.
    fn rest(&self, idle: bool, lookout: &mut Lookout) {
        let mut ring = self.ring.borrow_mut();
        if !idle {
            return ring.submit();
        }
        let came = lookout.look_out(&mut ring, &self.mailbox);
        if !came && self.mailbox.fall_asleep() {
            ring.wait(None);
            self.mailbox.wake_up();
            lookout.slept();
        }
    }

    /// Tells everybody what has happened.
    fn take_events(&self) {
        let mut events = self.events.take();
        self.ring.borrow_mut().reap(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Bell => self.ring.borrow_mut().hear(&self.mailbox),
                Event::Ready(socket, direction) => socket.set_ready(direction),
                Event::Done(owner, done) => {
                    owner.done(done);
                    if let Some(work) = owner.waits() {
                        self.defer(work);
                    }
                }
            }
        }
        self.events.replace(events);
    }

    fn defer(&self, work: Arc<dyn Deferred>) {
        let mut deferred = self.deferred.borrow_mut();
        let known =
            |other: &Arc<dyn Deferred>| std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(&work));
        if !deferred.iter().any(known) {
            deferred.push(work);
        }
    }

    /// Files come to their end; sockets are closed.
    fn end(&self, tasks: Tasks) {
        drop(tasks);
        while self.ring.borrow().files_under_way() > 0 {
            self.ring.borrow_mut().wait(None);
            self.take_events();
        }
        self.deferred.take().iter().for_each(|work| work.go_on());
    }
}

#[cfg(test)]
mod tests;
