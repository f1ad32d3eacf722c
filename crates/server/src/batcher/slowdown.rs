//! When a device's clock has dropped, so that the next request would find it slow.

/// How often a clock is read while nothing runs.
const LOOK_NS: u64 = 250_000_000;
/// Shortest time between two runs on this account: a device that stays slow is not helped by more.
const PAUSE_NS: u64 = 5_000_000_000;

/// What a device's clock was.
#[derive(Debug, Default)]
pub(super) struct Slowdown {
    most_mhz: u32,
    /// When the clock is read next.
    pub(super) next_ns: u64,
}

impl Slowdown {
    /// Whether the clock is to be read.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        self.next_ns <= now_ns
    }

    /// Takes a reading; whether it is below four fifths of the most that was ever read. After such
    /// a one there is a pause.
    pub(super) fn look(&mut self, now_ns: u64, mhz: Option<u32>) -> bool {
        let mhz = mhz.unwrap_or(self.most_mhz);
        self.most_mhz = self.most_mhz.max(mhz);
        let is_slow = u64::from(mhz) * 5 < u64::from(self.most_mhz) * 4;
        self.next_ns = now_ns.saturating_add(if is_slow { PAUSE_NS } else { LOOK_NS });
        is_slow
    }
}

#[test]
fn a_drop_is_seen_once_and_a_clock_that_cannot_be_read_is_no_drop() {
    let mut slowdown = Slowdown::default();
    assert!(slowdown.is_due(0));
    assert!(!slowdown.look(0, None));
    assert!(!slowdown.look(1, Some(1980)) && !slowdown.is_due(2));
    assert!(!slowdown.look(2, Some(1600)), "a little slower is no drop");
    assert!(!slowdown.look(3, None));
    assert!(slowdown.look(4, Some(345)));
    assert!(!slowdown.is_due(4 + LOOK_NS) && slowdown.is_due(4 + PAUSE_NS));
    assert!(!slowdown.look(5, Some(1980)));
}
