//! Who may come in: requests are counted, and tokens, which are what work costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::options::Limits;
use crate::refusal::Refusal;

/// Longest time that a refused request is told to wait, in seconds.
const RETRY_AFTER_S_MAX: u64 = 60;

/// The door.
#[derive(Debug)]
pub(crate) struct Admission {
    request_count_max: usize,
    token_count_max: usize,
    request_count: AtomicUsize,
    token_count: AtomicUsize,
    /// Tokens of a second, as measured lately.
    tokens_per_s: AtomicU64,
}

/// Room for one request; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    token_count: usize,
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            request_count_max: limits.request_count_max,
            token_count_max: limits.token_count_max,
            request_count: AtomicUsize::new(0),
            token_count: AtomicUsize::new(0),
            tokens_per_s: AtomicU64::new(0),
        }
    }

    /// Room for a request of so many tokens. One that has more than all the room there is comes in
    /// when nothing else is there.
    pub(crate) fn enter(self: &Arc<Self>, token_count: usize) -> Result<Permit, Refusal> {
        let one_more = |it: usize| (it < self.request_count_max).then_some(it + 1);
        if self.request_count.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_err() {
            return Err(self.overloaded(token_count));
        }
        let more = |it: usize| {
            let sum = it.saturating_add(token_count);
            (sum <= self.token_count_max || it == 0).then_some(sum)
        };
        if self.token_count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
            self.request_count.fetch_sub(1, Ordering::AcqRel);
            return Err(self.overloaded(token_count));
        }
        Ok(Permit { admission: self.clone(), token_count })
    }

    /// Requests inside.
    pub(crate) fn request_count(&self) -> usize {
        self.request_count.load(Ordering::Acquire)
    }

    /// Tokens inside.
    pub(crate) fn token_count(&self) -> usize {
        self.token_count.load(Ordering::Acquire)
    }

    /// Tells how quickly tokens are computed: the recent past counts for three quarters.
    pub(crate) fn observe(&self, token_count: usize, wall_ns: u64) {
        let now = token_count as u64 * 1_000_000_000 / wall_ns.max(1);
        let mixed = |it: u64| Some(if it == 0 { now } else { it - it / 4 + now / 4 });
        // The update cannot be refused.
        let _ = self.tokens_per_s.fetch_update(Ordering::AcqRel, Ordering::Acquire, mixed);
    }

    /// What is inside takes about this long; until then more is refused.
    fn overloaded(&self, token_count: usize) -> Refusal {
        let ahead = self.token_count().saturating_add(token_count) as u64;
        let rate = self.tokens_per_s.load(Ordering::Acquire);
        let seconds = if rate == 0 { 1 } else { ahead.div_ceil(rate) };
        Refusal::Overloaded { retry_after_s: seconds.clamp(1, RETRY_AFTER_S_MAX) }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.token_count.fetch_sub(self.token_count, Ordering::AcqRel);
        self.admission.request_count.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(request_count_max: usize, token_count_max: usize) -> Arc<Admission> {
        let limits = Limits {
            payload_bytes_max: 1,
            client_batch_max: 1,
            request_count_max,
            token_count_max,
            connection_count_max: 1,
        };
        Arc::new(Admission::new(&limits))
    }

    #[test]
    fn room_is_counted_in_requests_and_tokens_and_comes_back() {
        let door = admission(2, 100);
        let first = door.enter(60).unwrap();
        assert!(door.enter(60).is_err());
        assert_eq!(door.request_count(), 1, "a refused request leaves nothing behind");
        let second = door.enter(40).unwrap();
        assert!(door.enter(0).is_err(), "a third request");
        drop(first);
        assert_eq!((door.request_count(), door.token_count()), (1, 40));
        drop(second);
        assert_eq!((door.request_count(), door.token_count()), (0, 0));
    }

    #[test]
    fn a_request_larger_than_all_room_comes_in_alone() {
        let door = admission(8, 100);
        let large = door.enter(500).unwrap();
        assert!(door.enter(1).is_err());
        drop(large);
        let _small = door.enter(1).unwrap();
        assert!(door.enter(500).is_err());
    }

    #[track_caller]
    fn check(rate: usize, want_s: u64) {
        let door = admission(8, 1_000);
        let _inside = door.enter(1_000).unwrap();
        door.observe(rate, 1_000_000_000);
        match door.enter(1_000) {
            Err(Refusal::Overloaded { retry_after_s }) => assert_eq!(retry_after_s, want_s),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_wait_that_is_named_follows_what_is_inside() {
        check(0, 1);
        check(2_000, 1);
        check(500, 4);
        check(1, RETRY_AFTER_S_MAX);
    }

    #[test]
    fn nothing_leaks_under_many_threads() {
        let door = admission(8, 100);
        std::thread::scope(|scope| {
            for seed in 0..8 {
                let door = &door;
                scope.spawn(move || {
                    for step in 0..2_000 {
                        let permit = door.enter((seed * 31 + step * 17) % 70);
                        assert!(door.request_count() <= 8);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!((door.request_count(), door.token_count()), (0, 0));
    }
}
