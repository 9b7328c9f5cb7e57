//! Revoked tokens, until they would have expired anyway; in memory only.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// More than a dev machine ever revokes within the life of a token.
const MAX_REVOKED: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Revocations {
    /// Expiry (microseconds) by audit id.
    expiry_by_id: RwLock<HashMap<String, i64>>,
}

impl Revocations {
    pub fn contains(&self, audit_id: &str) -> bool {
        let held = self
            .expiry_by_id
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        held.contains_key(audit_id)
    }

    /// Refuses the token from now on. When the table is full, expired entries go first and then
    /// the one that expires next.
    pub fn add(&self, audit_id: &str, expires_at_us: i64, now_us: i64) {
        let mut held = self
            .expiry_by_id
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MAX_REVOKED {
            held.retain(|_, expiry| *expiry > now_us);
        }
        if held.len() >= MAX_REVOKED
            && let Some(first) = held.iter().min_by_key(|(_, expiry)| **expiry)
        {
            let first = first.0.clone();
            held.remove(&first);
        }
        held.insert(audit_id.to_owned(), expires_at_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stays_bounded() {
        let revocations = Revocations::default();
        for n in 0..MAX_REVOKED as i64 {
            revocations.add(&n.to_string(), 1000 + n, 0);
        }
        revocations.add("more", 5, 0);
        assert!(revocations.contains("more") && revocations.contains("1"));
        assert!(!revocations.contains("0"), "the first to expire makes room");
        revocations.add("late", i64::MAX, 2000);
        assert!(!revocations.contains("999"), "expired entries go");
        assert!(revocations.expiry_by_id.read().unwrap().len() <= MAX_REVOKED);
    }
}
