//! An arm: a process that opens something, computes it again and again, checks every result
//! against the first and answers with samples.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use calor_device::{Artifacts, Device};
use calor_kernel::Digest;
use calor_measure::answer::{Answer, WarmupStep, probes};
use calor_runtime::Build;
use calor_telemetry::counter::{CacheCount, Plain};
use calor_telemetry::{Cache, Change, Counter, Counters, Recorder, Stopwatch};

use crate::arms::ARMS;
use crate::counts::{Uncounted, heap_of, instructions_of};
use crate::error::BenchError;
use crate::host::peak_rss_bytes;
use crate::measure::digest_of;
use crate::scenario::Done;

/// What an arm is given. Every choice is the caller's.
pub struct ArmContext {
    /// The device that computes; the arm's alone.
    pub device: Device,
    /// Keeps what is compiled.
    pub artifacts: Arc<dyn Artifacts>,
    /// Counts what happens.
    pub counters: Arc<Counters>,
    /// Takes events.
    pub recorder: Arc<dyn Recorder>,
    /// How large; what it counts is the arm's.
    pub size: u64,
    /// Samples behind warming up.
    pub sample_count: u32,
    /// Directory of a checkpoint, for arms that embed.
    pub checkpoint: Option<PathBuf>,
    /// Tokens of each text, for arms that embed.
    pub text_tokens: usize,
    /// Most tokens in one program run.
    pub batch_tokens_max: usize,
    /// Threads that tokenize.
    pub thread_count: NonZeroUsize,
}

impl std::fmt::Debug for ArmContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArmContext").field("size", &self.size).finish_non_exhaustive()
    }
}

/// One row of the registry of arms.
#[derive(Debug)]
pub struct ArmRow {
    /// Its name.
    pub name: &'static str,
    /// What it computes and what its size counts, in a line.
    pub about: &'static str,
    pub(crate) open: fn(Opening<'_>) -> Result<Box<dyn Call>, BenchError>,
}

/// What an arm's function is given.
pub(crate) struct Opening<'a> {
    pub(crate) build: Build,
    pub(crate) counters: Arc<Counters>,
    pub(crate) context: &'a ArmSizes,
}

/// Sizes and places of [`ArmContext`].
pub(crate) struct ArmSizes {
    pub(crate) size: usize,
    pub(crate) checkpoint: Option<PathBuf>,
    pub(crate) text_tokens: usize,
    pub(crate) batch_tokens_max: usize,
    pub(crate) thread_count: NonZeroUsize,
}

/// Something that can be computed again.
pub(crate) trait Call {
    /// Computes it, and says what was computed.
    fn call(&mut self) -> Result<Done, BenchError>;

    /// Bytes moved and operations of one call, where a plan says.
    fn cost(&self) -> Option<(u64, u64)>;

    /// Bytes on the device.
    fn device_bytes(&self) -> Option<u64>;
}

/// The arm called `name`.
pub fn arm_by_name(name: &str) -> Option<&'static ArmRow> {
    ARMS.iter().find(|it| it.name == name)
}

/// How long calls warm up at least, and how often at most.
const WARM_NS: u64 = 200_000_000;
const WARM_CALL_COUNT_MAX: usize = 200;
/// A sample repeats its call until it takes about so long: clocks cost time too.
const SAMPLE_NS: u64 = 200_000;
/// Most calls in one sample.
const RUN_COUNT_MAX: u64 = 10_000;

/// Opens `row`, computes once, calls `first`, warms up and takes the samples.
///
/// # Errors
/// Whatever keeps it from a whole answer, a call whose result or amount differs among that.
pub fn run_arm(
    row: &ArmRow,
    context: ArmContext,
    first: &mut dyn FnMut(),
) -> Result<Answer, BenchError> {
    let ArmContext { device, artifacts, counters, recorder, size, sample_count, .. } = context;
    let signature = device.signature.clone();
    let sizes = ArmSizes {
        size: usize::try_from(size).unwrap_or(usize::MAX),
        checkpoint: context.checkpoint,
        text_tokens: context.text_tokens,
        batch_tokens_max: context.batch_tokens_max,
        thread_count: context.thread_count,
    };
    let start = counters.snapshot();
    let watch = Stopwatch::start();
    let build = Build::new(device, u64::MAX, counters.clone(), recorder);
    let build = build.with_artifacts(artifacts);
    let opening = Opening { build, counters: counters.clone(), context: &sizes };
    let mut arm = (row.open)(opening)?;
    let open_ns = watch.elapsed_ns();
    let watch = Stopwatch::start();
    let done = arm.call()?;
    let first_ns = watch.elapsed_ns();
    first();
    let wrong = |what| BenchError::Wrong { scenario: row.name.to_owned(), what };
    let values = probes(&done.values);
    let (items, tokens) = (done.item_count, done.token_count);
    let digest = digest_of(done.values).ok_or_else(|| wrong("no finite numbers"))?;
    let check = |done: Done| {
        let amount = (done.item_count, done.token_count);
        match digest_of(done.values).ok_or_else(|| wrong("no finite numbers"))? {
            it if it != digest => Err(wrong("a call gave another result than the first")),
            _ if amount != (items, tokens) => Err(wrong("a call computed another amount")),
            _ => Ok(()),
        }
    };
    let (settle_ns, call_ns, warm_count) = warm_up(&mut *arm, &check)?;
    let run_count = (SAMPLE_NS / call_ns.max(1)).clamp(1, RUN_COUNT_MAX);
    let steady = counters.snapshot();
    let samples_ns = sampled(&mut *arm, sample_count, run_count, &check)?;
    let end = counters.snapshot();
    let (host, uncounted) = host_counts(&mut *arm)?;
    let calls = u64::from(sample_count) * run_count;
    let step = |(name, wall_ns): (&str, u64)| WarmupStep { name: name.to_owned(), wall_ns };
    let warmup = [("open", open_ns), ("first call", first_ns), ("settle", settle_ns)].map(step);
    let cost = arm.cost();
    Ok(Answer {
        first_ns,
        samples_ns,
        runs_per_sample_count: run_count,
        item_count: items,
        token_count: tokens,
        values,
        counters: readings(&end.since(&start), &end.since(&steady), calls)
            .chain([("warm.calls".to_owned(), warm_count as i64)])
            .chain(host)
            .collect(),
        uncounted,
        versions: signature.versions.iter().map(|it| (it.0.clone(), it.1.clone())).collect(),
        device: Some(signature.model.clone()),
        peak_host_bytes: peak_rss_bytes(),
        peak_device_bytes: arm.device_bytes(),
        moved_bytes: cost.map(|it| it.0),
        flop_count: cost.map(|it| it.1),
        warmup: warmup.to_vec(),
        ..Answer::default()
    })
}

/// What one more call asks of the host, as counters, and why some of it is not known.
type HostCounts = (Vec<(String, i64)>, BTreeMap<String, String>);

/// One call each, behind the samples: counting costs time.
fn host_counts(arm: &mut dyn Call) -> Result<HostCounts, BenchError> {
    let (mut found, mut uncounted) = (Vec::new(), BTreeMap::new());
    let mut done = Ok(());
    let mut call = || done = std::mem::replace(&mut done, Ok(())).and(arm.call().map(drop));
    match heap_of(&mut call) {
        Ok((count, bytes)) => {
            found.push((HEAP_ALLOCATIONS.to_owned(), count.cast_signed()));
            found.push((HEAP_BYTES.to_owned(), bytes.cast_signed()));
        }
        Err(Uncounted(why)) => {
            uncounted.insert(HEAP_ALLOCATIONS.to_owned(), why.clone());
            uncounted.insert(HEAP_BYTES.to_owned(), why);
        }
    }
    match instructions_of(&mut call) {
        Ok(count) => found.push((INSTRUCTIONS.to_owned(), count.cast_signed())),
        Err(Uncounted(why)) => {
            uncounted.insert(INSTRUCTIONS.to_owned(), why);
        }
    }
    done.map(|()| (found, uncounted))
}

/// Names of these counters in answers.
const HEAP_ALLOCATIONS: &str = "call.heap.allocations";
const HEAP_BYTES: &str = "call.heap.bytes";
const INSTRUCTIONS: &str = "call.instructions";

/// Samples of `run_count` calls each; the last call of each is checked.
fn sampled(
    arm: &mut dyn Call,
    sample_count: u32,
    run_count: u64,
    check: &dyn Fn(Done) -> Result<(), BenchError>,
) -> Result<Vec<u64>, BenchError> {
    let mut samples_ns = Vec::new();
    for _ in 0..sample_count {
        let watch = Stopwatch::start();
        let mut last = arm.call()?;
        for _ in 1..run_count {
            last = arm.call()?;
        }
        samples_ns.push(watch.elapsed_ns());
        check(last)?;
    }
    Ok(samples_ns)
}

/// Calls until times have settled; how long that took, the last call, and how often.
pub(crate) fn warm_up(
    arm: &mut dyn Call,
    check: &dyn Fn(Done) -> Result<(), BenchError>,
) -> Result<(u64, u64, usize), BenchError> {
    let watch = Stopwatch::start();
    let mut call_ns = u64::MAX;
    let mut count = 0;
    while count < 2 || (watch.elapsed_ns() < WARM_NS && count < WARM_CALL_COUNT_MAX) {
        let one = Stopwatch::start();
        let done = arm.call()?;
        call_ns = call_ns.min(one.elapsed_ns());
        check(done)?;
        count += 1;
    }
    Ok((watch.elapsed_ns(), call_ns, count))
}

/// Counters of the whole process, of the samples (`steady.`) and of one call (`call.`, where it
/// is the same for all). Those of caches only where they changed.
fn readings(all: &Change, steady: &Change, calls: u64) -> impl Iterator<Item = (String, i64)> {
    let mut out = Vec::new();
    for counter in Plain::ALL.iter().map(|it| Counter::from(*it)) {
        let name = counter.spec().name;
        out.push((name.to_owned(), all.get(counter)));
        out.push((format!("steady.{name}"), steady.get(counter)));
        let calls = calls.cast_signed();
        if 0 < calls && steady.get(counter) % calls == 0 && steady.get(counter) != 0 {
            out.push((format!("call.{name}"), steady.get(counter) / calls));
        }
    }
    for cache in Cache::ALL {
        for count in CacheCount::ALL {
            let counter = Counter::Cache(*cache, *count);
            if all.get(counter) != 0 {
                let name = format!("{}{{{}}}", counter.spec().name, cache.name());
                out.push((format!("steady.{name}"), steady.get(counter)));
                out.push((name, all.get(counter)));
            }
        }
    }
    out.into_iter()
}

/// Numbers that follow from their places, the same in every language: the finaliser of
/// MurmurHash3 over the place, in 2^-24 parts from -0.5.
pub(crate) fn field(place: u32) -> f32 {
    let mut h = place.wrapping_add(1);
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^= h >> 16;
    (h >> 8) as f32 / (1 << 24) as f32 - 0.5
}

/// A digest that names a field of numbers.
pub(crate) fn field_identity(name: &str) -> Digest {
    Digest::of(&calor_kernel::Canonical::new(name, 1).finish())
}

#[test]
fn the_field_is_the_published_one() {
    let want = [0.317_598_82, 0.191_234_767, 0.523_204_088, 0.143_015_981];
    for (place, want) in (0..).zip(want) {
        assert!((f64::from(field(place)) + 0.5 - want).abs() < 1e-7, "{place}");
    }
}
