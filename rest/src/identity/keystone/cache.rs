//! A bounded map whose entries run out.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::Key;

/// Forgets entries that have run out, and the oldest ones where there are too many.
#[derive(Debug)]
pub(super) struct Cache<V> {
    entries: HashMap<Key, Entry<V>>,
    /// Keys in the order of their insertion, with the number of that insertion.
    order: VecDeque<(Key, u64)>,
    inserted: u64,
    most: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    until: Instant,
    number: u64,
}

impl<V: Clone> Cache<V> {
    pub fn new(most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            inserted: 0,
            most,
        }
    }

    pub fn get(&self, key: &Key, now: Instant) -> Option<V> {
        let entry = self.entries.get(key)?;
        (now < entry.until).then(|| entry.value.clone())
    }

    /// Keeps the value until then. Costs no more than the entries that it drops.
    pub fn insert(&mut self, key: Key, value: V, until: Instant, now: Instant) {
        self.inserted += 1;
        let number = self.inserted;
        let entry = Entry {
            value,
            until,
            number,
        };
        self.entries.insert(key, entry);
        self.order.push_back((key, number));
        while let Some((key, number)) = self.order.front() {
            let entry = self.entries.get(key);
            let current = entry.filter(|entry| entry.number == *number);
            let stays = current.is_some_and(|entry| now < entry.until);
            if stays && self.order.len() <= self.most {
                break;
            }
            if current.is_some() {
                self.entries.remove(key);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(number: u8) -> Key {
        [number; 32]
    }

    #[test]
    fn entries_run_out_and_the_oldest_make_room() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut cache = Cache::new(2);
        cache.insert(key(1), "a", at(10), start);
        assert_eq!(cache.get(&key(1), at(9)), Some("a"));
        assert_eq!(cache.get(&key(1), at(10)), None);
        cache.insert(key(2), "b", at(20), at(1));
        cache.insert(key(1), "c", at(20), at(2));
        // The newer value of the same key is not dropped with the older one's place.
        cache.insert(key(3), "d", at(20), at(3));
        assert_eq!(cache.get(&key(2), at(4)), None);
        assert_eq!(cache.get(&key(1), at(4)), Some("c"));
        assert_eq!(cache.get(&key(3), at(4)), Some("d"));
        for number in 0..100 {
            cache.insert(key(number), "x", at(40), at(30));
            assert!(cache.entries.len() <= 2 && cache.order.len() <= 2);
        }
        cache.insert(key(7), "y", at(60), at(50));
        assert_eq!(cache.order.len(), 1);
    }
}
