//! The monotonic clock: nanoseconds since the process first asked.
//!
//! Nothing that is measured may jump when a machine's clock is set; the time of day is for labels.

use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the first call in this process. Never goes back.
pub fn now_ns() -> u64 {
    let now = read();
    let since = now.saturating_duration_since(*START.get_or_init(|| now));
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The time of day, in seconds since 1970. For labels and ages; lengths are measured by
/// [`now_ns`].
#[expect(clippy::disallowed_methods, reason = "the clock that everything else asks")]
pub fn unix_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |it| it.as_secs())
}

/// One running measurement.
///
/// ```
/// let watch = calor_telemetry::Stopwatch::start();
/// let first_ns = watch.elapsed_ns();
/// assert!(first_ns <= watch.elapsed_ns());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    start_ns: u64,
}

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { start_ns: now_ns() }
    }

    /// When it was started, on the clock of [`now_ns`].
    pub fn start_ns(self) -> u64 {
        self.start_ns
    }

    /// Nanoseconds since the start.
    pub fn elapsed_ns(self) -> u64 {
        now_ns().saturating_sub(self.start_ns)
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock that everything else asks")]
fn read() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back() {
        let mut last_ns = now_ns();
        for _ in 0..1_000 {
            let next_ns = now_ns();
            assert!(last_ns <= next_ns);
            last_ns = next_ns;
        }
    }

    #[test]
    fn a_stopwatch_counts_real_time() {
        let watch = Stopwatch::start();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(2_000_000 <= watch.elapsed_ns());
    }
}
