//! What recording costs a request: with the ring that commands and servers have, and without, in
//! turn in one process.
//!
//! A round computes each side twice, in an order that is drawn and then turned round, so that what
//! drifts falls on all alike. A block of rounds is one pair, by its medians; blocks are decided as
//! pairs of processes are, with a side that is off like the first as the control.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use calor_measure::pair::{Batch, Rule, Shown, Verdict, verdict};
use calor_measure::stats::{Draw, median};
use calor_runtime::Build;
use calor_telemetry::{Event, Label, Null, Record, Recorder, Ring, Stopwatch};

use crate::arm::{ArmContext, ArmRow, ArmSizes, Call, Opening, warm_up};
use crate::error::BenchError;
use crate::measure::digest_of;
use crate::scenario::Done;

/// Part of a request that recording may cost.
pub const OVERHEAD_MAX: f64 = 0.01;

/// As every command and server has it.
const RING_THREAD_COUNT: usize = 16;
const RING_RECORD_COUNT: usize = 4096;
/// Calls of a recorder that is off, to know what one costs.
const OFF_CALL_COUNT: u64 = 1_000_000;
/// Off, on, and off again.
const SIDES: [bool; 3] = [false, true, false];

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverheadSizes {
    /// Blocks of a batch: pairs that decide.
    pub block_count: usize,
    /// Nanoseconds of a batch, about: a block has as many rounds as fit, and at least one.
    pub batch_ns: u64,
    /// Seed of orders and resamples.
    pub seed: u64,
}

/// What recording costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Overhead {
    /// A request without recording: the middle of all blocks.
    pub request_ns: f64,
    /// Events of a request.
    pub event_count: u64,
    /// What a call of a recorder that is off takes.
    pub off_call_ns: f64,
    /// What the first batch of pairs shows.
    pub shown: Shown,
    /// Of both batches; a second one is taken where the first shows a change.
    pub verdict: Verdict,
}

impl Overhead {
    /// The part of a request that the ring costs: lower end, middle, upper end.
    pub fn parts(&self) -> [f64; 3] {
        let effect = self.shown.effect;
        [effect.low, effect.middle, effect.high].map(f64::exp_m1)
    }

    /// The part of a request that calls of a recorder cost when it is off.
    pub fn off_part(&self) -> f64 {
        self.event_count as f64 * self.off_call_ns / self.request_ns
    }

    /// Whether the ring costs no more than it may; nothing where the samples do not say.
    pub fn holds(&self) -> Option<bool> {
        let [low, _, high] = self.parts();
        match self.verdict {
            Verdict::Contaminated => None,
            _ if high <= OVERHEAD_MAX => Some(true),
            _ if OVERHEAD_MAX < low => Some(false),
            _ => None,
        }
    }
}

/// A recorder whose ring can be left out. Off it costs at least what [`Null`] does.
struct Switch {
    is_on: AtomicBool,
    ring: Ring,
}

impl Recorder for Switch {
    fn accept(&self, record: &Record) {
        if self.is_on.load(Ordering::Relaxed) {
            self.ring.accept(record);
        }
    }

    fn record(&self, event: Event) {
        if self.is_on.load(Ordering::Relaxed) {
            self.ring.record(event);
        }
    }
}

impl Switch {
    fn written_count(&self) -> u64 {
        self.ring.overwritten_count() + self.ring.records().len() as u64
    }
}

/// Opens `row` and measures its requests; the recorder of `context` is not used.
///
/// # Errors
/// What the arm says, a call whose result differs from the first among that, and
/// [`BenchError::Wrong`] for too few blocks.
pub fn overhead(
    row: &ArmRow,
    context: ArmContext,
    sizes: OverheadSizes,
) -> Result<Overhead, BenchError> {
    let ring = Ring::new(RING_THREAD_COUNT, RING_RECORD_COUNT);
    let switch = Arc::new(Switch { is_on: AtomicBool::new(true), ring });
    let ArmContext { device, artifacts, counters, .. } = context;
    let build = Build::new(device, u64::MAX, counters.clone(), switch.clone());
    let build = build.with_artifacts(artifacts);
    let arm_sizes = ArmSizes {
        size: usize::try_from(context.size).unwrap_or(usize::MAX),
        checkpoint: context.checkpoint,
        text_tokens: context.text_tokens,
        batch_tokens_max: context.batch_tokens_max,
        thread_count: context.thread_count,
    };
    let mut arm = (row.open)(Opening { build, counters, context: &arm_sizes })?;
    let wrong = |what| BenchError::Wrong { scenario: row.name.to_owned(), what };
    let digest = digest_of(arm.call()?.values);
    let check = |done: Done| match digest_of(done.values) {
        it if it == digest && it.is_some() => Ok(()),
        _ => Err(wrong("a call gave another result than the first")),
    };
    let (_, call_ns, _) = warm_up(&mut *arm, &check)?;
    let before_count = switch.written_count();
    let requests_ns = call_ns.max(1).saturating_mul(2 * SIDES.len() as u64);
    let round_count = sizes.batch_ns / sizes.block_count.max(1) as u64 / requests_ns;
    let mut requests = Requests {
        arm: &mut *arm,
        switch: &switch,
        check: &check,
        block_count: sizes.block_count,
        round_count: round_count.max(1),
    };
    requests.one(true)?;
    let event_count = switch.written_count() - before_count;

    let mut draw = Draw::new(sizes.seed);
    let rule = Rule { effect_min: OVERHEAD_MAX, ..Rule::STANDARD };
    let first = requests.batch(&mut draw)?;
    let shown = first.shows(&rule, &mut draw).ok_or_else(|| wrong("too few blocks"))?;
    let is_change = matches!(shown.verdict, Verdict::Slower | Verdict::Faster);
    let second = match is_change {
        true => requests.batch(&mut draw)?.shows(&rule, &mut draw),
        false => None,
    };
    let off: Vec<f64> = first.rounds.iter().map(|it| it[0]).collect();
    Ok(Overhead {
        request_ns: median(&off).ok_or_else(|| wrong("too few blocks"))?,
        event_count,
        off_call_ns: off_call_ns(),
        verdict: verdict(Some(&shown), second.as_ref()),
        shown,
    })
}

/// Requests with and without recording.
struct Requests<'a> {
    arm: &'a mut dyn Call,
    switch: &'a Switch,
    check: &'a dyn Fn(Done) -> Result<(), BenchError>,
    block_count: usize,
    round_count: u64,
}

impl Requests<'_> {
    /// Computes one request, tells of it as commands do, and checks it behind the clock.
    fn one(&mut self, is_on: bool) -> Result<f64, BenchError> {
        self.switch.is_on.store(is_on, Ordering::Relaxed);
        let watch = Stopwatch::start();
        let done = self.arm.call()?;
        self.switch.record(Event::RequestDone {
            model: Label::fixed("checkpoint"),
            item_count: done.item_count,
            token_count: done.token_count,
            wall_ns: watch.elapsed_ns(),
        });
        let ns = watch.elapsed_ns();
        (self.check)(done)?;
        Ok(ns as f64)
    }

    fn batch(&mut self, draw: &mut Draw) -> Result<Batch, BenchError> {
        let mut blocks = Vec::with_capacity(self.block_count);
        for _ in 0..self.block_count {
            let mut times = [const { Vec::new() }; SIDES.len()];
            for _ in 0..self.round_count {
                let mut order = [0, 1, 2];
                order.swap(0, draw.below(3));
                order.swap(1, 1 + draw.below(2));
                let mut sums = [0.0; SIDES.len()];
                for side in order.into_iter().chain(order.into_iter().rev()) {
                    sums[side] += self.one(SIDES[side])?;
                }
                times.iter_mut().zip(sums).for_each(|(times, sum)| times.push(sum / 2.0));
            }
            blocks.push(times.map(|it| median(&it).unwrap_or(f64::NAN)));
        }
        Ok(Batch { rounds: blocks })
    }
}

/// What a call of a recorder that keeps nothing takes, behind the same door as all others.
fn off_call_ns() -> f64 {
    let recorder: Arc<dyn Recorder> = black_box(Arc::new(Null));
    let model = Label::fixed("checkpoint");
    let watch = Stopwatch::start();
    for index in 0..OFF_CALL_COUNT {
        let event = Event::RequestDone { model, item_count: 1, token_count: index, wall_ns: index };
        recorder.record(black_box(event));
    }
    watch.elapsed_ns() as f64 / OFF_CALL_COUNT as f64
}

#[cfg(test)]
mod tests {
    use calor_measure::stats::Interval;

    use super::*;

    fn costs(low: f64, high: f64, verdict: Verdict) -> Overhead {
        let interval = |low: f64, high: f64| {
            let [low, high] = [low, high].map(f64::ln_1p);
            Interval { low, middle: (low + high) / 2.0, high }
        };
        let effect = interval(low, high);
        let control = interval(-0.001, 0.001);
        let shown = Shown { verdict, effect, fastest: 0.0, control, floor: OVERHEAD_MAX.ln_1p() };
        Overhead { request_ns: 1e6, event_count: 2, off_call_ns: 2.0, shown, verdict }
    }

    #[test]
    fn it_holds_where_even_the_upper_end_is_allowed() {
        assert_eq!(costs(-0.002, 0.004, Verdict::Same).holds(), Some(true));
        assert_eq!(costs(0.0, 0.012, Verdict::Unproven).holds(), None);
        assert_eq!(costs(0.02, 0.03, Verdict::Slower).holds(), Some(false));
        assert_eq!(costs(-0.002, 0.004, Verdict::Contaminated).holds(), None);
        assert!((costs(0.0, 0.0, Verdict::Same).off_part() - 4e-6).abs() < 1e-12);
    }

    #[test]
    fn a_switch_keeps_what_comes_while_it_is_on() {
        let switch = Switch { is_on: AtomicBool::new(false), ring: Ring::new(1, 2) };
        let event = Event::CacheAsked { cache: calor_telemetry::Cache::Program, hit: true };
        switch.record(event);
        switch.accept(&Record::now(event));
        assert_eq!(switch.written_count(), 0);
        switch.is_on.store(true, Ordering::Relaxed);
        (0..3).for_each(|_| switch.record(event));
        assert_eq!(switch.written_count(), 3);
    }
}
