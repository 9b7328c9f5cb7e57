//! Whether to look out for the next event or to sleep.

use std::time::{Duration, Instant};

use super::mailbox::Mailbox;
use super::ring::Ring;

/// The longest look-out.
pub(super) const MOST_LOOKOUT: Duration = Duration::from_micros(100);
const FIRST_LOOKOUT: Duration = Duration::from_micros(8);
/// Looks between two looks at the clock.
const LOOKS: usize = 32;

/// Learns from the last waits how long to look out: longer when a little more would have spared a
/// sleep, not at all when the wait was long.
#[derive(Default)]
pub(super) struct Lookout {
    most: Duration,
    began: Option<Instant>,
}

impl Lookout {
    /// Hands over what was ordered; true when something has happened in time.
    pub fn look_out(&mut self, ring: &mut Ring, mailbox: &Mailbox) -> bool {
        if self.most.is_zero() {
            // The clock is read for one wait in a row of short ones only.
            self.began = Some(Instant::now());
            return false;
        }
        ring.submit();
        let began = Instant::now();
        self.began = Some(began);
        loop {
            for _ in 0..LOOKS {
                if ring.may_have_events() {
                    ring.submit();
                    return ring.has_events();
                }
                if mailbox.is_full() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if began.elapsed() >= self.most {
                return false;
            }
        }
    }

    /// The look-out was in vain.
    pub fn slept(&mut self) {
        let waited = self.began.map_or(MOST_LOOKOUT, |began| began.elapsed());
        self.most = match waited <= MOST_LOOKOUT {
            true => (self.most * 2).clamp(FIRST_LOOKOUT, MOST_LOOKOUT),
            false => Duration::ZERO,
        };
    }
}
