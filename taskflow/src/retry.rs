//! Retry policies: what happens between a failed attempt and the revert.

/// The longest pause between two attempts; a doubling delay stops growing here.
const LONGEST_DELAY_MS: u64 = 60_000;

/// Whether and when a failed task is executed again before the flow reverts.
/// The attempts are journaled, so a restart does not begin to count anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The first failure reverts the flow.
    Never,
    /// Up to `attempts` executions in all, for failures marked retryable; the delay doubles
    /// after each.
    Times { attempts: u32, delay_ms: u64 },
    /// Every failure is tried again until it succeeds: for work that can only go forward, such
    /// as the second half of a delete. The delay doubles up to a minute.
    Forever { delay_ms: u64 },
}

impl Retry {
    /// Up to `attempts` executions in all, `delay_ms` before the second, doubling.
    pub const fn times(attempts: u32, delay_ms: u64) -> Self {
        Retry::Times { attempts, delay_ms }
    }

    /// Until it succeeds, `delay_ms` before the second execution, doubling up to a minute.
    pub const fn forever(delay_ms: u64) -> Self {
        Retry::Forever { delay_ms }
    }

    /// The pause before the next attempt when `attempts` have failed; `None`: give up.
    pub(crate) fn next_delay_ms(self, attempts: u32, retryable: bool) -> Option<u64> {
        let (allowed, delay_ms) = match self {
            Retry::Never => return None,
            Retry::Times { attempts, delay_ms } => (retryable.then_some(attempts)?, delay_ms),
            Retry::Forever { delay_ms } => (u32::MAX, delay_ms),
        };
        if attempts >= allowed && !matches!(self, Retry::Forever { .. }) {
            return None;
        }
        let doublings = attempts.saturating_sub(1).min(16);
        Some(
            delay_ms
                .saturating_mul(1 << doublings)
                .min(LONGEST_DELAY_MS.max(delay_ms)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_counts_executions_and_asks_for_a_retryable_failure() {
        let retry = Retry::times(3, 100);
        assert_eq!(retry.next_delay_ms(1, true), Some(100));
        assert_eq!(retry.next_delay_ms(2, true), Some(200));
        assert_eq!(retry.next_delay_ms(3, true), None);
        assert_eq!(retry.next_delay_ms(1, false), None);
        assert_eq!(Retry::Never.next_delay_ms(1, true), None);
    }

    #[test]
    fn forever_never_gives_up_and_stops_doubling_at_a_minute() {
        let retry = Retry::forever(1_000);
        assert_eq!(retry.next_delay_ms(1, false), Some(1_000));
        assert_eq!(retry.next_delay_ms(u32::MAX, false), Some(60_000));
        assert_eq!(
            Retry::forever(u64::MAX).next_delay_ms(9, true),
            Some(u64::MAX)
        );
    }
}
