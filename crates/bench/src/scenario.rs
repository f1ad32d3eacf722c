//! What a scenario is, what it is given, and how one is run.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calor_device::{Artifacts, Device, Driver};
use calor_runtime::Build;
use calor_telemetry::{Counters, Event, Label, Null, Recorder, Stopwatch};

use crate::error::BenchError;
use crate::host::{Host, forget_peak, peak_rss_bytes};
use crate::measure::{Measure, Unit, digest_of};
use crate::report::{Revision, Run};
use crate::scenarios::SCENARIOS;

/// How large a scenario is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Seconds at most, on an unoptimised build: whether it still runs, not how fast.
    Smoke,
    /// As large as its name says.
    Full,
}

impl Size {
    /// As reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Full => "full",
        }
    }

    /// One value or the other.
    pub(crate) fn pick<T>(self, smoke: T, full: T) -> T {
        match self {
            Self::Smoke => smoke,
            Self::Full => full,
        }
    }
}

/// A program that prints one vector as a line of JSON, among whatever else, and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where it leaves a report as JSON, if it does: `weights` says what it loaded.
    pub report: Option<PathBuf>,
}

/// What a scenario is given. Every choice is the caller's.
pub struct Context<'a> {
    /// Opens the device; its first one is used.
    pub driver: &'a dyn Driver,
    /// Keeps what is compiled.
    pub artifacts: Arc<dyn Artifacts>,
    /// How large.
    pub size: Size,
    /// Directory of a small BERT sentence encoder: all-MiniLM-L6-v2 where figures matter.
    pub checkpoint: Option<&'a Path>,
    /// What `start.first_vector` starts.
    pub child: Option<&'a Child>,
    /// An empty directory for files of the run.
    pub scratch: &'a Path,
    /// Most tokens in one program run.
    pub batch_tokens_max: usize,
    /// Threads that tokenize.
    pub thread_count: NonZeroUsize,
    /// The program that is measured.
    pub revision: Revision,
    /// Is told of each sample of time behind its end; what is measured records nothing.
    pub recorder: Arc<dyn Recorder>,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("size", &self.size)
            .field("checkpoint", &self.checkpoint)
            .finish_non_exhaustive()
    }
}

impl Context<'_> {
    pub(crate) fn checkpoint(&self, scenario: &'static str) -> Result<&Path, BenchError> {
        let what = "the directory of a checkpoint";
        self.checkpoint.ok_or(BenchError::Needs { scenario, what })
    }

    pub(crate) fn open(&self) -> Result<Device, BenchError> {
        Ok(self.driver.open(0)?)
    }

    /// Tells of a sample that has just ended: its place, and what it computed.
    pub(crate) fn sampled(&self, name: &str, sample_index: usize, amount: [u64; 2], wall_ns: u64) {
        self.recorder.record(Event::ScenarioSampled {
            scenario: Label::of(name),
            sample_index: sample_index as u64,
            item_count: amount[0],
            token_count: amount[1],
            wall_ns,
        });
    }

    /// A build of its own on a device of its own, and its counters.
    pub(crate) fn build(&self) -> Result<(Build, Arc<Counters>), BenchError> {
        let counters = Arc::new(Counters::new());
        let build = Build::new(self.open()?, u64::MAX, counters.clone(), Arc::new(Null));
        Ok((build.with_artifacts(self.artifacts.clone()), counters))
    }
}

/// One row of the registry.
#[derive(Debug)]
pub struct Scenario {
    /// Its name; one that ends in `.*` is a family, whose members come after the dot.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    /// Measures it. `member` is what came after a family's dot, if anything.
    pub(crate) measure: fn(&Context<'_>, member: Option<&str>) -> Result<Measured, BenchError>,
}

/// What a scenario gives.
pub(crate) struct Measured {
    /// What was measured.
    pub(crate) measures: Vec<Measure>,
    /// Members of a family that the device cannot do.
    pub(crate) left_out: Vec<String>,
}

impl From<Vec<Measure>> for Measured {
    fn from(measures: Vec<Measure>) -> Self {
        Self { measures, left_out: Vec::new() }
    }
}

/// The scenario called `name`, or whose family `name` is in, and the member.
pub fn scenario_by_name(name: &str) -> Option<(&'static Scenario, Option<&str>)> {
    SCENARIOS.iter().find_map(|it| match it.name.strip_suffix(".*") {
        None => (it.name == name).then_some((it, None)),
        Some(family) => match name.strip_prefix(family)? {
            "" | ".*" => Some((it, None)),
            rest => rest.strip_prefix('.').map(|member| (it, Some(member))),
        },
    })
}

/// Runs the scenario called `name`.
///
/// # Errors
/// [`BenchError::Unknown`] for a name that is none, and whatever keeps it from a whole result:
/// there is no partial one.
pub fn run(name: &str, context: &Context<'_>) -> Result<Run, BenchError> {
    let unknown = || BenchError::Unknown { name: name.to_owned() };
    let (scenario, member) = scenario_by_name(name).ok_or_else(unknown)?;
    let device = context.open()?.signature;
    let host = Host::here();
    forget_peak();
    let Measured { measures, left_out } = (scenario.measure)(context, member)?;
    if measures.is_empty() || measures.iter().any(|it| it.samples.is_empty()) {
        return Err(unknown());
    }
    Ok(Run {
        scenario: name.to_owned(),
        size: context.size,
        device,
        revision: context.revision.clone(),
        options: vec![
            ("batch_tokens_max", context.batch_tokens_max as u64),
            ("thread_count", context.thread_count.get() as u64),
        ],
        host,
        measures,
        left_out,
        peak_rss_bytes: peak_rss_bytes(),
    })
}

/// What one call computed, by the program's own counting.
pub(crate) struct Done {
    pub(crate) item_count: u64,
    pub(crate) token_count: u64,
    pub(crate) values: Vec<f64>,
}

/// How often something is called.
#[derive(Clone, Copy)]
pub(crate) struct Calls {
    pub(crate) warm_count: usize,
    pub(crate) sample_count: usize,
}

/// Times calls one by one: the first by itself, some to warm up, then the samples. All must
/// compute as much, and the last what the first did.
pub(crate) fn timed(
    context: &Context<'_>,
    name: &str,
    calls: Calls,
    mut call: impl FnMut() -> Result<Done, BenchError>,
) -> Result<Measure, BenchError> {
    let wrong = |what| BenchError::Wrong { scenario: name.to_owned(), what };
    let watch = Stopwatch::start();
    let first = call()?;
    let first_ns = watch.elapsed_ns();
    let digest = digest_of(first.values).ok_or_else(|| wrong("no finite numbers"))?;
    let mut samples = Vec::with_capacity(calls.sample_count);
    for index in 0..calls.warm_count + calls.sample_count {
        let watch = Stopwatch::start();
        let done = call()?;
        let ns = watch.elapsed_ns();
        if (done.item_count, done.token_count) != (first.item_count, first.token_count) {
            return Err(wrong("a call computed another amount than the first"));
        }
        if digest_of(done.values) != Some(digest) {
            return Err(wrong("a call gave another result than the first"));
        }
        if calls.warm_count <= index {
            context.sampled(name, samples.len(), [first.item_count, first.token_count], ns);
            samples.push(ns);
        }
    }
    Ok(Measure {
        name: name.to_owned(),
        unit: Unit::Ns,
        samples,
        first: Some(first_ns),
        runs_per_sample_count: 1,
        item_count: first.item_count,
        token_count: first.token_count,
        moved_bytes: None,
        flops: None,
        digest,
    })
}
