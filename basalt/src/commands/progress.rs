//! A bar on a terminal for what takes long; nothing where stderr is none.

use std::io::{IsTerminal, stderr};
use std::time::Instant;

use super::store::shown_bytes;

const WIDTH: u64 = 30;

/// Gone from the terminal when it is dropped.
pub struct ProgressBar {
    /// What is done with the bytes; empty: nothing is shown.
    verb: &'static str,
    began: Instant,
    is_terminal: bool,
}

impl ProgressBar {
    pub fn new(verb: &'static str) -> Self {
        ProgressBar {
            verb,
            began: Instant::now(),
            is_terminal: stderr().is_terminal() && !verb.is_empty(),
        }
    }

    pub fn show(&mut self, done_bytes: u64, all_bytes: u64) {
        if self.is_terminal {
            let seconds = self.began.elapsed().as_secs();
            eprint!("\r\x1b[K{}", bar(self.verb, done_bytes, all_bytes, seconds));
        }
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}

fn bar(verb: &str, done_bytes: u64, all_bytes: u64, seconds: u64) -> String {
    let share = |of: u64| {
        let wide = u128::from(done_bytes) * u128::from(of);
        let share = wide.checked_div(u128::from(all_bytes));
        share.map_or(of, |share| share.min(of.into()) as u64)
    };
    let full = "#".repeat(share(WIDTH) as usize);
    let rate = done_bytes.checked_div(seconds).unwrap_or(done_bytes);
    format!(
        "[{full:<30}] {:>3}% {verb} {} of {}, {}/s",
        share(100),
        shown_bytes(done_bytes),
        shown_bytes(all_bytes),
        shown_bytes(rate)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_long_as_what_is_done() {
        let half = bar("compared", 1 << 29, 1 << 30, 4);
        let wanted = format!(
            "[{:<30}]  50% compared 512.0 MiB of 1.0 GiB, 128.0 MiB/s",
            "#".repeat(15)
        );
        assert_eq!(half, wanted);
        assert!(bar("compared", 0, 0, 0).contains("100%"));
        assert!(bar("compared", u64::MAX, 5, 0).contains("100%"));
    }
}
