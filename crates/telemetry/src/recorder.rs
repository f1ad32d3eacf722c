//! Where events go: the recorder seam and the recorders that keep events in memory.
//!
//! A recorder never fails and never blocks its caller on a file; what it cannot keep it
//! counts. Writing lines is `jsonl`, drawing is `trace`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock;
use crate::counter::{Counters, Plain};
use crate::event::Event;
use crate::thread;

/// An event with its time and thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was recorded: for events with a length, their end.
    pub at_ns: u64,
    /// Number of the recording thread, see [`thread::name`].
    pub thread_index: u32,
    /// What happened.
    pub event: Event,
}

impl Record {
    /// `event`, here and now.
    pub fn now(event: Event) -> Self {
        Self { at_ns: clock::now_ns(), thread_index: thread::index(), event }
    }
}

/// Takes events. Shared between threads as `Arc<dyn Recorder>`.
pub trait Recorder: Send + Sync {
    /// Takes a record that already has its time. Must not allocate on a hot path.
    fn accept(&self, record: &Record);

    /// Takes `event`, here and now.
    fn record(&self, event: Event) {
        self.accept(&Record::now(event));
    }
}

/// Takes everything and keeps nothing; does not even read the clock.
#[derive(Clone, Copy, Debug)]
pub struct Null;

impl Recorder for Null {
    fn accept(&self, _record: &Record) {}

    fn record(&self, _event: Event) {}
}

/// Passes each record on to several recorders, with one reading of the clock.
pub struct Tee {
    targets: Vec<Arc<dyn Recorder>>,
}

impl Tee {
    /// Passes on to `targets`, in order.
    pub fn new(targets: Vec<Arc<dyn Recorder>>) -> Self {
        Self { targets }
    }
}

impl Recorder for Tee {
    fn accept(&self, record: &Record) {
        for target in &self.targets {
            target.accept(record);
        }
    }
}

/// Keeps every record. For tests and for runs that end; a server uses a [`Ring`].
#[derive(Debug, Default)]
pub struct Log {
    records: Mutex<Vec<Record>>,
}

impl Log {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of what was recorded, in order.
    pub fn records(&self) -> Vec<Record> {
        hold(&self.records).clone()
    }

    /// A copy of the events alone, in order.
    pub fn events(&self) -> Vec<Event> {
        hold(&self.records).iter().map(|it| it.event).collect()
    }
}

impl Recorder for Log {
    fn accept(&self, record: &Record) {
        hold(&self.records).push(*record);
    }
}

/// The last records of each thread, in memory that is taken once.
///
/// A thread writes to its own slots behind a lock that nobody else holds except while reading;
/// recording neither allocates nor waits for other recording threads. More threads than
/// `thread_count_max` share slots. What is overwritten is counted.
///
/// ```
/// use calor_telemetry::{Cache, Event, Recorder, Ring};
/// let ring = Ring::new(4, 128);
/// ring.record(Event::CacheAsked { cache: Cache::Program, hit: true });
/// assert_eq!(ring.records().len(), 1);
/// assert_eq!(ring.overwritten_count(), 0);
/// ```
#[derive(Debug)]
pub struct Ring {
    lanes: Box<[Lane]>,
    /// Where what is overwritten is counted as well.
    counters: Option<Arc<Counters>>,
}

/// Slots of one thread, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
struct Lane {
    slots: Mutex<Slots>,
}

#[derive(Debug)]
struct Slots {
    records: Vec<Record>,
    capacity: usize,
    written_count: u64,
}

impl Ring {
    /// Room for `record_count_max` records of each of `thread_count_max` threads.
    ///
    /// # Panics
    /// When either is zero.
    pub fn new(thread_count_max: usize, record_count_max: usize) -> Self {
        assert!(0 < thread_count_max && 0 < record_count_max, "a ring needs room");
        let lane = |_| Lane {
            slots: Mutex::new(Slots {
                records: Vec::with_capacity(record_count_max),
                capacity: record_count_max,
                written_count: 0,
            }),
        };
        Self { lanes: (0..thread_count_max).map(lane).collect(), counters: None }
    }

    /// Counts what is overwritten in `counters` too, as it happens.
    #[must_use]
    pub fn counted_in(self, counters: Arc<Counters>) -> Self {
        Self { counters: Some(counters), ..self }
    }

    /// A copy of what is kept, oldest first.
    pub fn records(&self) -> Vec<Record> {
        let mut all: Vec<Record> = Vec::new();
        for lane in &self.lanes {
            all.extend(&hold(&lane.slots).records);
        }
        all.sort_by_key(|it| it.at_ns);
        all
    }

    /// How many records had to make room for later ones.
    pub fn overwritten_count(&self) -> u64 {
        let lost = |slots: &Slots| slots.written_count - slots.records.len() as u64;
        self.lanes.iter().map(|lane| lost(&hold(&lane.slots))).sum()
    }
}

impl Recorder for Ring {
    fn accept(&self, record: &Record) {
        let lane = &self.lanes[record.thread_index as usize % self.lanes.len()];
        let has_lost = hold(&lane.slots).push(*record);
        if let Some(counters) = self.counters.as_ref().filter(|_| has_lost) {
            counters.increment(Plain::LostRecords);
        }
    }
}

impl Slots {
    /// Whether an older one had to go.
    fn push(&mut self, record: Record) -> bool {
        self.written_count += 1;
        let has_room = self.records.len() < self.capacity;
        if has_room {
            self.records.push(record);
        } else {
            let index = (self.written_count - 1) % self.capacity as u64;
            self.records[index as usize] = record;
        }
        !has_room
    }
}

/// Records are plain values, so a panic elsewhere cannot leave them half written.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Cache;

    fn asked(hit: bool) -> Event {
        Event::CacheAsked { cache: Cache::Bundle, hit }
    }

    #[test]
    fn a_tee_gives_every_target_the_same_record() {
        let (a, b) = (Arc::new(Log::new()), Arc::new(Log::new()));
        let tee: Arc<dyn Recorder> = Arc::new(Tee::new(vec![a.clone(), Arc::new(Null), b.clone()]));
        tee.record(asked(true));
        tee.record(asked(false));
        assert_eq!(a.events(), [asked(true), asked(false)]);
        assert_eq!(a.records(), b.records());
    }

    #[test]
    fn a_ring_keeps_the_last_and_counts_the_lost() {
        let counters = Arc::new(Counters::new());
        let ring = Ring::new(1, 3).counted_in(counters.clone());
        for at_ns in 0..10 {
            ring.accept(&Record { at_ns, thread_index: 0, event: asked(true) });
        }
        let kept: Vec<u64> = ring.records().iter().map(|it| it.at_ns).collect();
        assert_eq!(kept, [7, 8, 9]);
        assert_eq!(ring.overwritten_count(), 7);
        assert_eq!(counters.snapshot().get(Plain::LostRecords), 7);
    }

    #[test]
    fn a_ring_takes_its_memory_once() {
        let ring = Ring::new(1, 16);
        let place = |ring: &Ring| {
            let slots = hold(&ring.lanes[0].slots);
            (slots.records.as_ptr() as usize, slots.records.capacity())
        };
        let before = place(&ring);
        for _ in 0..100 {
            ring.record(asked(true));
        }
        assert_eq!(before, place(&ring));
    }

    #[test]
    fn threads_do_not_lose_each_others_records() {
        let ring = Ring::new(8, 1_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..250).for_each(|_| ring.record(asked(true))));
            }
        });
        assert_eq!(ring.records().len() as u64 + ring.overwritten_count(), 1_000);
        assert_eq!(ring.overwritten_count(), 0);
        assert!(ring.records().is_sorted_by_key(|it| it.at_ns));
    }
}
