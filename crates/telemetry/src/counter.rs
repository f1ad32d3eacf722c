//! The table of counters, and sharded atomics behind it.
//!
//! A counter costs one relaxed addition to a line of memory that other threads rarely touch.
//! Shares and rates are not counters; whoever reads a snapshot computes them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::event::Cache;
use crate::thread;

/// Whether a counter only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// A total since the start.
    Total,
    /// A level that also falls.
    Level,
}

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
}

/// One row of the registry.
#[derive(Clone, Copy, Debug)]
pub struct CounterSpec {
    /// Dotted name, without the unit.
    pub name: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// Whether it only grows.
    pub growth: Growth,
    /// What it means.
    pub doc: &'static str,
}

impl CounterSpec {
    /// The name that a scrape shows: `_bytes` for bytes, `_total` for totals.
    pub fn prometheus(&self) -> String {
        let unit = match self.unit {
            Unit::Bytes => "_bytes",
            Unit::Count => "",
        };
        let total = match self.growth {
            Growth::Total => "_total",
            Growth::Level => "",
        };
        format!("{}{unit}{total}", self.name.replace('.', "_"))
    }
}

macro_rules! counters {
    ($table:ident, $(#[doc = $enum_doc:literal])+ $enum:ident {
        $( $(#[doc = $doc:literal])+ $counter:ident as $name:literal, $unit:ident, $growth:ident; )+
    }) => {
        $(#[doc = $enum_doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $enum { $( $(#[doc = $doc])+ $counter, )+ }

        impl $enum {
            /// Every value, in table order.
            pub const ALL: &'static [Self] = &[ $( Self::$counter, )+ ];
        }

        static $table: &[CounterSpec] = &[ $( CounterSpec {
            name: $name,
            unit: Unit::$unit,
            growth: Growth::$growth,
            doc: concat!($($doc),+),
        }, )+ ];
    };
}

counters! {
    PLAIN,
    /// A counter of its own. Those of caches are [`Counter::Cache`].
    Plain {
        /// Programs run to their end.
        Programs as "calor.programs", Count, Total;
        /// Kernels launched, as plan constants times runs.
        Kernels as "calor.kernels", Count, Total;
        /// Bytes read and written by kernels, as plan constants times runs.
        MovedBytes as "calor.moved", Bytes, Total;
        /// Multiplications and additions of matrix products and attention on live rows.
        Flops as "calor.flops", Count, Total;
        /// Writes of inputs to a device.
        Uploads as "calor.uploads", Count, Total;
        /// Bytes of inputs written to a device.
        UploadedBytes as "calor.uploaded", Bytes, Total;
        /// Reads of results from a device.
        Downloads as "calor.downloads", Count, Total;
        /// Bytes of results read from a device.
        DownloadedBytes as "calor.downloaded", Bytes, Total;
        /// Live tokens that programs computed.
        Tokens as "calor.tokens", Count, Total;
        /// Tokens of padding that programs had room for.
        PaddingTokens as "calor.tokens.padding", Count, Total;
        /// Requests answered.
        Requests as "calor.requests", Count, Total;
        /// Inputs refused.
        Refusals as "calor.refusals", Count, Total;
        /// Inputs cut to what a model takes.
        Truncations as "calor.truncations", Count, Total;
        /// Plans made.
        Plans as "calor.plans", Count, Total;
        /// Nodes of the graphs that were planned.
        PlannedNodes as "calor.plans.nodes", Count, Total;
        /// Steps of the plans made; fewer than nodes by what was fused and folded.
        PlannedSteps as "calor.plans.steps", Count, Total;
        /// Kernels compiled.
        Compiles as "calor.compiles", Count, Total;
        /// Modules loaded.
        Loads as "calor.loads", Count, Total;
        /// Programs prepared: bound to their memory and captured where a device captures.
        Preparations as "calor.preparations", Count, Total;
        /// Allocations while building was allowed.
        Allocations as "calor.allocations", Count, Total;
        /// Allocations after the seal; anything but zero is a defect.
        SealedAllocations as "calor.allocations.sealed", Count, Total;
        /// Memory held for interior values of programs.
        ArenaBytes as "calor.memory.arena", Bytes, Level;
        /// Memory held for weights.
        WeightsBytes as "calor.memory.weights", Bytes, Level;
        /// Memory that a pool granted beyond what was asked, because sizes are rounded up.
        PoolSlackBytes as "calor.memory.pool.slack", Bytes, Level;
        /// Memory of a device that its buffers hold, those that wait in a pool among them.
        DeviceBytes as "calor.memory.device", Bytes, Level;
        /// The most that it was; for several devices the sum of theirs.
        PeakDeviceBytes as "calor.memory.device.peak", Bytes, Level;
        /// Records that a ring overwrote.
        LostRecords as "calor.telemetry.lost", Count, Total;
    }
}

counters! {
    PER_CACHE,
    /// A counter that every cache has.
    CacheCount {
        /// Asked, and nothing had to be made.
        Hits as "calor.cache.hits", Count, Total;
        /// Asked, and it had to be made.
        Misses as "calor.cache.misses", Count, Total;
        /// Entries put in.
        Inserts as "calor.cache.inserts", Count, Total;
        /// Entries dropped to stay within the bound.
        Evictions as "calor.cache.evictions", Count, Total;
        /// Entries moved aside because they were damaged or a device refused them.
        Rejections as "calor.cache.rejections", Count, Total;
        /// Entries found damaged or cut off.
        Corrupt as "calor.cache.corrupt", Count, Total;
        /// Entries of another format version; left for the build that wrote them.
        Stale as "calor.cache.stale", Count, Total;
        /// Entries of another architecture or kind; left where they are.
        Foreign as "calor.cache.foreign", Count, Total;
        /// Times that the place where entries are kept failed; work went on without it.
        Faults as "calor.cache.faults", Count, Total;
        /// Size of the entries held.
        Bytes as "calor.cache.usage", Bytes, Level;
    }
}

/// Names a counter. Turning it into a place in memory is arithmetic, not a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// One of its own.
    Plain(Plain),
    /// One of a cache.
    Cache(Cache, CacheCount),
}

impl From<Plain> for Counter {
    fn from(plain: Plain) -> Self {
        Self::Plain(plain)
    }
}

impl Counter {
    /// Every counter, in the order of snapshots.
    pub fn all() -> impl Iterator<Item = Self> {
        let plain = Plain::ALL.iter().map(|it| Self::Plain(*it));
        let per_cache =
            |cache: Cache| CacheCount::ALL.iter().map(move |it| Self::Cache(cache, *it));
        plain.chain(Cache::ALL.iter().flat_map(move |cache| per_cache(*cache)))
    }

    /// Its row in the registry.
    pub fn spec(self) -> &'static CounterSpec {
        match self {
            Self::Plain(plain) => &PLAIN[plain as usize],
            Self::Cache(_, count) => &PER_CACHE[count as usize],
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Plain(plain) => plain as usize,
            Self::Cache(cache, count) => {
                Plain::ALL.len() + cache as usize * CacheCount::ALL.len() + count as usize
            }
        }
    }
}

/// Rows of the registry: the plain counters, then those that every cache has.
pub fn registry() -> (&'static [CounterSpec], &'static [CounterSpec]) {
    (PLAIN, PER_CACHE)
}

/// How many counters there are.
pub const COUNTER_COUNT: usize = Plain::ALL.len() + Cache::ALL.len() * CacheCount::ALL.len();

/// Threads are spread over this many shards.
const SHARD_COUNT: usize = 16;
const _: () = assert!(SHARD_COUNT.is_power_of_two(), "shards are picked by a mask");

/// The counters of one owner: a session, a build, a process.
///
/// Sessions that must not see each other's counts have their own; [`Snapshot::plus`] adds them.
///
/// ```
/// use calor_telemetry::{Counters, counter::Plain};
/// let counters = Counters::new();
/// let scope = counters.scope();
/// counters.add(Plain::Tokens, 32);
/// assert_eq!(scope.change().get(Plain::Tokens), 32);
/// assert_eq!(scope.change().get(Plain::Compiles), 0);
/// ```
#[derive(Debug)]
pub struct Counters {
    shards: [Shard; SHARD_COUNT],
}

/// One thread's part of every counter, on cache lines (and prefetched pairs) of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Shard([AtomicU64; COUNTER_COUNT]);

impl Counters {
    /// All zero. Usable in a `static`.
    pub const fn new() -> Self {
        Self {
            shards: [const { Shard([const { AtomicU64::new(0) }; COUNTER_COUNT]) }; SHARD_COUNT],
        }
    }

    /// Adds `amount`.
    #[inline]
    pub fn add(&self, counter: impl Into<Counter>, amount: u64) {
        self.cell(counter.into()).fetch_add(amount, Ordering::Relaxed);
    }

    /// Adds one.
    #[inline]
    pub fn increment(&self, counter: impl Into<Counter>) {
        self.add(counter, 1);
    }

    /// Lowers a level by `amount`.
    ///
    /// # Panics
    /// When the counter is a total: totals only grow.
    #[inline]
    pub fn lower(&self, counter: impl Into<Counter>, amount: u64) {
        let counter = counter.into();
        assert_eq!(counter.spec().growth, Growth::Level, "{counter:?} only grows");
        // Another shard may hold the addition; the sum over shards wraps back.
        self.cell(counter).fetch_sub(amount, Ordering::Relaxed);
    }

    /// Counts one question to `cache`.
    #[inline]
    pub fn cache_asked(&self, cache: Cache, hit: bool) {
        let count = if hit { CacheCount::Hits } else { CacheCount::Misses };
        self.add(Counter::Cache(cache, count), 1);
    }

    /// Every counter now. Additions that run beside it may or may not be in it.
    pub fn snapshot(&self) -> Snapshot {
        let mut sums = [0_u64; COUNTER_COUNT];
        for shard in &self.shards {
            for (sum, cell) in sums.iter_mut().zip(&shard.0) {
                *sum = sum.wrapping_add(cell.load(Ordering::Relaxed));
            }
        }
        Snapshot(sums)
    }

    /// Starts to watch what changes from here on.
    pub fn scope(&self) -> Scope<'_> {
        Scope { counters: self, before: self.snapshot() }
    }

    #[inline]
    fn cell(&self, counter: Counter) -> &AtomicU64 {
        &self.shards[thread::index() as usize & (SHARD_COUNT - 1)].0[counter.index()]
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

/// A reading of every counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot([u64; COUNTER_COUNT]);

impl Snapshot {
    /// One counter's value.
    pub fn get(&self, counter: impl Into<Counter>) -> u64 {
        self.0[counter.into().index()]
    }

    /// What changed since `earlier`, a reading of the same counters.
    pub fn since(&self, earlier: &Self) -> Change {
        let mut change = [0_i64; COUNTER_COUNT];
        for (out, (now, before)) in change.iter_mut().zip(self.0.iter().zip(&earlier.0)) {
            *out = now.wrapping_sub(*before).cast_signed();
        }
        Change(change)
    }

    /// The sum of two owners' readings.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sums = self.0;
        for (sum, more) in sums.iter_mut().zip(&other.0) {
            *sum = sum.wrapping_add(*more);
        }
        Self(sums)
    }
}

/// The difference of two readings; levels may have fallen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change([i64; COUNTER_COUNT]);

impl Change {
    /// How much one counter changed.
    pub fn get(&self, counter: impl Into<Counter>) -> i64 {
        self.0[counter.into().index()]
    }

    /// Counters that changed, in table order, with their change.
    pub fn changed(&self) -> impl Iterator<Item = (Counter, i64)> + '_ {
        Counter::all().zip(self.0.iter().copied()).filter(|(_, change)| *change != 0)
    }
}

/// Watches counters from where it was opened.
#[derive(Debug)]
pub struct Scope<'a> {
    counters: &'a Counters,
    before: Snapshot,
}

impl Scope<'_> {
    /// What changed since the scope was opened.
    pub fn change(&self) -> Change {
        self.counters.snapshot().since(&self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Stopwatch;

    /// Budget in `docs/telemetry-events.md`, for optimised builds.
    const INCREMENT_NS_MAX: u64 = 20;

    #[test]
    fn every_counter_has_its_own_place() {
        let places: Vec<usize> = Counter::all().map(Counter::index).collect();
        assert_eq!(places, (0..COUNTER_COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn names_are_unique_and_prefixed() {
        let mut names = std::collections::BTreeSet::new();
        for spec in PLAIN.iter().chain(PER_CACHE) {
            assert!(spec.name.starts_with("calor."), "{}", spec.name);
            assert!(names.insert(spec.prometheus()), "{}", spec.name);
        }
        let hits = Counter::Cache(Cache::Program, CacheCount::Hits);
        assert_eq!(hits.spec().prometheus(), "calor_cache_hits_total");
        assert_eq!(
            Counter::from(Plain::ArenaBytes).spec().prometheus(),
            "calor_memory_arena_bytes"
        );
    }

    #[test]
    fn threads_add_up() {
        let counters = Counters::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| counters.increment(Plain::Kernels)));
            }
        });
        assert_eq!(counters.snapshot().get(Plain::Kernels), 4_000);
    }

    #[test]
    fn a_level_falls_across_threads() {
        let counters = Counters::new();
        counters.add(Plain::ArenaBytes, 512);
        let scope = counters.scope();
        std::thread::scope(|it| it.spawn(|| counters.lower(Plain::ArenaBytes, 500)).join())
            .unwrap();
        assert_eq!(counters.snapshot().get(Plain::ArenaBytes), 12);
        assert_eq!(scope.change().get(Plain::ArenaBytes), -500);
    }

    #[test]
    #[should_panic(expected = "only grows")]
    fn a_total_does_not_fall() {
        Counters::new().lower(Plain::Kernels, 1);
    }

    #[test]
    fn a_scope_sees_only_what_came_after() {
        let counters = Counters::new();
        counters.cache_asked(Cache::KernelArtifact, false);
        let scope = counters.scope();
        counters.cache_asked(Cache::KernelArtifact, true);
        let changed: Vec<_> = scope.change().changed().collect();
        assert_eq!(changed, [(Counter::Cache(Cache::KernelArtifact, CacheCount::Hits), 1)]);
    }

    #[test]
    fn owners_add_up() {
        let (a, b) = (Counters::new(), Counters::new());
        a.add(Plain::Tokens, 2);
        b.add(Plain::Tokens, 3);
        assert_eq!(a.snapshot().plus(&b.snapshot()).get(Plain::Tokens), 5);
    }

    /// The best of many rounds, so that a busy machine does not fail it; unoptimised builds
    /// and emulators get ten times the budget.
    #[test]
    fn an_increment_is_within_its_budget() {
        const ROUND: u64 = 10_000;
        let counters = Counters::new();
        let round_ns = (0..50).map(|_| {
            let watch = Stopwatch::start();
            (0..ROUND).for_each(|_| counters.increment(Plain::Programs));
            watch.elapsed_ns()
        });
        let best_ns = round_ns.min().unwrap() / ROUND;
        let budget_ns = INCREMENT_NS_MAX * if cfg!(debug_assertions) { 10 } else { 1 };
        assert!(best_ns <= budget_ns, "{best_ns} ns an increment");
        assert_eq!(counters.snapshot().get(Plain::Programs), 50 * ROUND);
    }
}
