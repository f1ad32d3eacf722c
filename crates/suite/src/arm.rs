//! An encoder of real size as an arm: what `calor-measure` runs in a process of its own, beside
//! `bench/baselines/encoders.py` with the same weights and ids.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use calor_device::{Driver, Signature};
use calor_ir::CheckedGraph;
use calor_measure::answer::{Answer, WarmupStep, done_line, first_line, probes};
use calor_measure::harness::Progress;
use calor_measure::order::{Order, Revision};
use calor_runtime::{Build, Choices, LaneId, ProgramSpec};
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::counter::{CacheCount, Plain};
use calor_telemetry::{Cache, Counter, Counters, Null, Snapshot};

use crate::bench::{ENCODERS, Encoder, Seeded, artifacts_counted};

/// How long runs warm up at least.
const WARM_NS: u64 = 300_000_000;
/// Runs that warm up at least.
const WARM_COUNT_MIN: usize = 10;

/// Builds the encoder called `name`, runs it and answers in lines of JSON.
///
/// # Errors
/// When nothing can be written, or no encoder has this name.
///
/// # Panics
/// When it does not build or run, or a run gives other bits than the first.
pub fn answer(
    driver: &dyn Driver,
    name: &str,
    sample_count: usize,
    folder: &Path,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let encoder = ENCODERS.iter().find(|it| it.name == name);
    let encoder = encoder.ok_or_else(|| std::io::Error::other(format!("no encoder `{name}`")))?;
    let counters = Arc::new(Counters::new());
    let graph = encoder.graph().unwrap_or_else(|err| panic!("{name}: {err}"));
    let device = driver.open(0).unwrap();
    let signature = device.signature.clone();
    let store = artifacts_counted(folder, counters.clone());
    let mut build =
        Build::new(device, u64::MAX, counters.clone(), Arc::new(Null)).with_artifacts(store);
    let lane = build.lane();
    let watch = Stopwatch::start();
    let spec = spec(encoder, lane, &graph);
    let program = build.program(&spec).unwrap_or_else(|err| panic!("{name}: {err}"));
    let build_ns = watch.elapsed_ns();
    let watch = Stopwatch::start();
    let mut session = build.seal().unwrap();
    let seal_ns = watch.elapsed_ns();
    let sealed = counters.snapshot();
    let watch = Stopwatch::start();
    let first = encoder.run(&mut session, program);
    let first_ns = watch.elapsed_ns();
    writeln!(out, "{}", first_line())?;
    out.flush()?;
    let mut run = || encoder.run(&mut session, program);
    let settle_ns = settle(&mut run, &first);
    let samples_ns = (0..sample_count).map(|_| timed(&mut run, &first)).collect();
    let end = counters.snapshot();
    let plan = session.plan(program);
    let (moved_bytes, flops) = (plan.cost().0, encoder.work(plan));
    let step = |name: &str, wall_ns| WarmupStep { name: name.to_owned(), wall_ns };
    let wide: Vec<f64> = first.iter().map(|it| f64::from(*it)).collect();
    let held = session.memory();
    let readings = readings(&sealed, &end, session.plan(program).steps.len());
    let answer = Answer {
        first_ns,
        samples_ns,
        runs_per_sample_count: 1,
        item_count: encoder.sequences as u64,
        token_count: encoder.rows() as u64,
        values: probes(&wide),
        counters: readings,
        versions: versions(&signature, encoder),
        device: Some(signature.model),
        peak_host_bytes: calor_measure::environment::peak_host_bytes(),
        peak_device_bytes: Some(held.weights_bytes + held.arena_bytes + held.boundary_bytes),
        moved_bytes: Some(moved_bytes),
        flop_count: Some(flops),
        warmup: vec![
            step("build", build_ns),
            step("seal", seal_ns),
            step("first run", first_ns),
            step("settle", settle_ns),
        ],
        ..Answer::default()
    };
    writeln!(out, "{}", done_line(&answer))
}

/// A suite that is run with this program as its own arm.
#[derive(Clone, Debug)]
pub struct Request {
    /// The suite's file.
    pub suite: PathBuf,
    /// Folder of the package.
    pub output: PathBuf,
    /// Python of the baselines.
    pub python: String,
    /// Where NVIDIA's libraries are, if not in the usual places.
    pub libraries: Option<PathBuf>,
    /// Commit of this program; `-dirty` behind it where files differed, nothing where unknown.
    pub revision: String,
    /// These cases alone; all if none is named.
    pub cases: Vec<String>,
}

impl Request {
    /// Runs the suite, or what is left of it, and seals the package; whether every process ended
    /// well.
    ///
    /// # Errors
    /// When the suite cannot be read or run, or nothing can be written.
    pub fn run(&self, out: &mut dyn Write) -> Result<bool, Box<dyn Error + Send + Sync>> {
        let program = std::env::current_exe()?;
        let libraries = self.libraries.as_deref().unwrap_or(Path::new("."));
        let words = [
            ("program", program.display().to_string()),
            ("python", self.python.clone()),
            ("device", "cuda".to_owned()),
            ("libraries", libraries.display().to_string()),
        ];
        let commit = self.revision.trim_end_matches("-dirty");
        let is_known = !commit.is_empty();
        let revision = Revision {
            commit: is_known.then(|| commit.to_owned()),
            dirty: is_known.then(|| commit != self.revision),
            program_blake3: None,
            sides: None,
        };
        let order = Order {
            suite: self.suite.clone(),
            output: self.output.clone(),
            root: ".".into(),
            words: words.into_iter().map(|it| (it.0.to_owned(), it.1)).collect(),
            cases: self.cases.clone(),
            arms: Vec::new(),
            pairs: None,
            revision: revision.with_program(&program),
            variables: BTreeMap::new(),
        };
        let package = order.execute(&mut Lines(out))?;
        let failed = package.samples.iter().filter(|it| it.good().is_none()).count();
        let count = package.samples.len();
        writeln!(out, "{count} processes, {failed} failed, in {}", self.output.display())?;
        Ok(failed == 0)
    }
}

/// Progress as lines, for a terminal that is far away.
struct Lines<'a>(&'a mut dyn Write);

impl Progress for Lines<'_> {
    fn step(&mut self, done: usize, most: usize, text: &str) -> ControlFlow<()> {
        let told = writeln!(self.0, "{done} of at most {most}: {text}");
        // Where nobody listens any more there is no reason to go on.
        if told.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// Runs until times have settled; how long that took.
fn settle(run: &mut dyn FnMut() -> Vec<f32>, first: &[f32]) -> u64 {
    let watch = Stopwatch::start();
    let mut count = 0;
    while count < WARM_COUNT_MIN || watch.elapsed_ns() < WARM_NS {
        timed(run, first);
        count += 1;
    }
    watch.elapsed_ns()
}

/// Nanoseconds of a run, whose bits are then compared with those of the first.
fn timed(run: &mut dyn FnMut() -> Vec<f32>, first: &[f32]) -> u64 {
    let watch = Stopwatch::start();
    let vectors = run();
    let ns = watch.elapsed_ns();
    assert!(vectors == first, "a run gives other bits than the first");
    ns
}

fn spec<'a>(encoder: &'a Encoder, lane: LaneId, graph: &'a CheckedGraph) -> ProgramSpec<'a> {
    static CHOICES: LazyLock<Choices> = LazyLock::new(Choices::default);
    ProgramSpec {
        label: encoder.name,
        token_count_max: encoder.rows() as u32,
        sequence_count_max: encoder.sequences as u32,
        lane,
        graph,
        source: Some(Arc::new(Seeded)),
        choices: &CHOICES,
        channels: &[],
    }
}

/// What gates ask for.
fn readings(sealed: &Snapshot, end: &Snapshot, steps: usize) -> BTreeMap<String, i64> {
    let since = end.since(sealed);
    let mut out = BTreeMap::from([
        ("calor.compiles".to_owned(), end.get(Plain::Compiles).cast_signed()),
        ("steady.calor.compiles".to_owned(), since.get(Plain::Compiles)),
        ("steady.calor.allocations".to_owned(), since.get(Plain::Allocations)),
        ("plan.steps".to_owned(), steps as i64),
    ]);
    for cache in [Cache::KernelArtifact, Cache::LibraryAlgorithm] {
        for count in [CacheCount::Hits, CacheCount::Misses] {
            let counter = Counter::Cache(cache, count);
            let name = format!("{}{{{}}}", counter.spec().name, cache.name());
            out.insert(name, end.get(counter).cast_signed());
        }
    }
    out
}

fn versions(signature: &Signature, encoder: &Encoder) -> BTreeMap<String, String> {
    let own = [("calor", env!("CARGO_PKG_VERSION")), ("precision", encoder.dtype.name())];
    let own = own.into_iter().map(|it| (it.0.to_owned(), it.1.to_owned()));
    signature.versions.iter().map(|it| (it.0.clone(), it.1.clone())).chain(own).collect()
}

/// The baseline computes the same: numbers of `encoders.py eager "tiny 3x5" --dtype float32`.
#[test]
fn the_baseline_computes_the_same() {
    use calor_device_cpu::CpuDriver;
    use calor_ir::DType;
    const WANT: [f64; 8] =
        [-0.010501, 0.088388, -0.051634, -0.075546, -0.155925, 0.057931, 0.113960, -0.150392];
    let encoder = Encoder {
        name: "tiny 3x5",
        layers: 2,
        hidden: 128,
        heads: 2,
        inner: 512,
        sequences: 3,
        length: 5,
        dtype: DType::F32,
        codes: None,
    };
    let graph = encoder.graph().unwrap();
    let driver = CpuDriver { threads: 2, level: None, memory_bytes: None, profile: None };
    let device = driver.open(0).unwrap();
    let mut build = Build::new(device, u64::MAX, Arc::new(Counters::new()), Arc::new(Null));
    let lane = build.lane();
    let program = build.program(&spec(&encoder, lane, &graph)).unwrap();
    let mut session = build.seal().unwrap();
    let vectors = encoder.run(&mut session, program);
    let wide: Vec<f64> = vectors.iter().map(|it| f64::from(*it)).collect();
    for (got, want) in probes(&wide).iter().zip(WANT) {
        assert!((got - want).abs() < 1e-4, "{got}, not {want}");
    }
}
