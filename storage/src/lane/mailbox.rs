//! What other threads have for a lane, and the bell that wakes it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::files::FileOrder;
use super::tasks::NewTask;

#[derive(Default)]
pub(super) struct Mail {
    pub tasks: Vec<NewTask>,
    pub woken: Vec<usize>,
    pub cancelled: Vec<u64>,
    pub orders: Vec<FileOrder>,
    pub let_go: bool,
    pub stop: bool,
}

pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    /// There is mail.
    full: AtomicBool,
    /// The lane sleeps, or is about to: it must be woken.
    asleep: AtomicBool,
    bell: OwnedFd,
    tasks: AtomicUsize,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Mailbox")
    }
}

impl Mailbox {
    pub fn new() -> io::Result<Mailbox> {
        Ok(Mailbox {
            mail: Mutex::default(),
            full: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            tasks: AtomicUsize::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn send(&self, put: impl FnOnce(&mut Mail)) {
        put(&mut self.lock());
        self.full.store(true, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // Fails only when the counter is full, and then the bell is ringing.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    pub fn take(&self) -> Option<Mail> {
        self.full
            .swap(false, Ordering::SeqCst)
            .then(|| std::mem::take(&mut *self.lock()))
    }

    /// Only the orders; the rest stays.
    pub fn take_orders(&self) -> Vec<FileOrder> {
        match self.is_full() {
            true => std::mem::take(&mut self.lock().orders),
            false => Vec::new(),
        }
    }

    /// False: there is mail, so this is no time to sleep.
    pub fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        let empty = !self.full.load(Ordering::SeqCst);
        if !empty {
            self.wake_up();
        }
        empty
    }

    pub fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    pub fn bell(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// Stops the bell.
    pub fn hear(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
    }

    /// How many tasks the lane has.
    pub fn tasks(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }

    pub fn count_task(&self) {
        self.tasks.fetch_add(1, Ordering::Relaxed);
    }

    pub fn discount_task(&self) {
        self.tasks.fetch_sub(1, Ordering::Relaxed);
    }
}
