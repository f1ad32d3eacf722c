//! Encoders of real size with seeded weights: how long building, the first run and later runs
//! take, and which steps take the time.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use calor_device::{Artifacts, Driver, NoArtifacts, Profile};
use calor_ir::{CheckedGraph, DType, Graph, GraphError, Role, Type, ValueId, nn};
use calor_kernel::{Canonical, Digest};
use calor_runtime::cache::{ArtifactStore, DISK_BYTES_MAX, MEMORY_BYTES_MAX, StoreOptions};
use calor_runtime::{
    Build, Choices, Plan, PlanStep, ProgramId, ProgramSpec, Session, WeightSource,
};
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::counter::Plain;
use calor_telemetry::{Counters, Null};

/// An encoder of the BERT family and what it is given.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    /// For people.
    pub name: &'static str,
    /// Layers.
    pub layers: usize,
    /// Length of a hidden row.
    pub hidden: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Length of an inner row.
    pub inner: usize,
    /// Sequences.
    pub sequences: usize,
    /// Tokens of each.
    pub length: usize,
    /// Type of weights and of the rows between products.
    pub dtype: DType,
    /// Type of one byte that the layers' products are in, if not that of the rows.
    pub codes: Option<DType>,
}

/// The sizes that are asked for.
pub const ENCODERS: &[Encoder] = &[
    bert("large 1x32", 24, 1024, 1, 32),
    bert("large 1x512", 24, 1024, 1, 512),
    bert("large 32x257", 24, 1024, 32, 257),
    bert("large 32x512", 24, 1024, 32, 512),
    in_fp8(bert("large 32x512 fp8", 24, 1024, 32, 512)),
    bert("base 1x32", 12, 768, 1, 32),
    bert("base 320x50", 12, 768, 320, 50),
    bert("base 32x512", 12, 768, 32, 512),
    bert("minilm 64x128", 6, 384, 64, 128),
];

const fn bert(
    name: &'static str,
    layers: usize,
    hidden: usize,
    sequences: usize,
    length: usize,
) -> Encoder {
    let heads = if hidden == 384 { 12 } else { hidden / 64 };
    let (inner, dtype) = (4 * hidden, DType::BF16);
    Encoder { name, layers, hidden, heads, inner, sequences, length, dtype, codes: None }
}

const fn in_fp8(encoder: Encoder) -> Encoder {
    Encoder { codes: Some(DType::F8E4M3), ..encoder }
}

/// Rows of the table of words.
const WORDS: usize = 30_522;

/// What was measured.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Kernels and algorithms that were made, not found.
    pub compiles: u64,
    /// Planning, compiling, loading and weights.
    pub build_ns: u64,
    /// Capture and upload.
    pub seal_ns: u64,
    /// Each run with its inputs and outputs, in order.
    pub runs_ns: Vec<u64>,
    /// Operations of one run's products and attention.
    pub flops: f64,
    /// Name of each step.
    pub steps: Vec<String>,
}

impl Figures {
    /// Every figure, with the samples as they were taken.
    pub fn to_json(&self, encoder: &Encoder) -> serde_json::Value {
        let Self { compiles, build_ns, seal_ns, runs_ns, flops, .. } = self;
        serde_json::json!({
            "encoder": encoder.name, "layers": encoder.layers, "hidden": encoder.hidden,
            "sequences": encoder.sequences, "length": encoder.length,
            "dtype": encoder.dtype.name(), "codes": encoder.codes.map(DType::name),
            "compiles": compiles, "build_ns": build_ns,
            "seal_ns": seal_ns, "flops": flops, "runs_ns": runs_ns,
        })
    }

    /// The median of the runs behind the first ten.
    pub fn median_ns(&self) -> u64 {
        let mut later: Vec<u64> = self.runs_ns.iter().skip(10).copied().collect();
        later.sort_unstable();
        later.get(later.len() / 2).copied().unwrap_or(0)
    }
}

/// Builds the encoder, runs it `runs` times and checks that its vectors are unit vectors.
///
/// # Panics
/// When it does not build or run, or a vector is no unit vector.
pub fn measure(
    driver: &dyn Driver,
    encoder: &Encoder,
    runs: usize,
    artifacts: Arc<dyn Artifacts>,
) -> Figures {
    let graph = encoder.graph().unwrap_or_else(|err| panic!("{}: {err}", encoder.name));
    let counters = Arc::new(Counters::new());
    let device = driver.open(0).unwrap();
    let mut build = Build::new(device, u64::MAX, counters.clone(), Arc::new(Null));
    build = build.with_artifacts(artifacts);
    let lane = build.lane();
    let watch = Stopwatch::start();
    let program = build
        .program(&ProgramSpec {
            label: encoder.name,
            token_count_max: encoder.rows() as u32,
            sequence_count_max: encoder.sequences as u32,
            lane,
            graph: &graph,
            source: Some(Arc::new(Seeded)),
            choices: &Choices::default(),
            channels: &[],
        })
        .unwrap_or_else(|err| panic!("{}: {err}", encoder.name));
    let build_ns = watch.elapsed_ns();
    let watch = Stopwatch::start();
    let mut session = build.seal().unwrap();
    let seal_ns = watch.elapsed_ns();
    let plan = session.plan(program);
    let steps = plan.steps.iter().map(|it| match it {
        PlanStep::Run { unit, .. } => plan.units[*unit as usize].label(),
        PlanStep::Copy { .. } => "copy".into(),
    });
    let steps = steps.collect();
    let mut runs_ns = Vec::with_capacity(runs);
    let mut first = Vec::new();
    for at in 0..runs {
        let watch = Stopwatch::start();
        let vectors = encoder.run(&mut session, program);
        runs_ns.push(watch.elapsed_ns());
        if at == 0 {
            first = vectors;
        } else {
            assert!(first == vectors, "{}: run {at} gives other bits", encoder.name);
        }
    }
    for vector in first.chunks_exact(encoder.hidden) {
        let length: f32 = vector.iter().map(|it| it * it).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-3, "{}: a vector of length {length}", encoder.name);
    }
    let compiles = counters.snapshot().get(Plain::Compiles);
    Figures { compiles, build_ns, seal_ns, runs_ns, flops: encoder.flops(), steps }
}

/// Compiled code that is kept in `folder`.
pub(crate) fn artifacts(folder: &Path) -> Arc<dyn Artifacts> {
    artifacts_counted(folder, Arc::new(Counters::new()))
}

/// The same, counted by `counters`.
pub(crate) fn artifacts_counted(folder: &Path, counters: Arc<Counters>) -> Arc<dyn Artifacts> {
    let options = StoreOptions {
        folder: Some(folder.to_owned()),
        layers: Vec::new(),
        disk_bytes_max: DISK_BYTES_MAX,
        memory_bytes_max: MEMORY_BYTES_MAX,
        lock_wait_max: Duration::from_secs(5),
    };
    Arc::new(ArtifactStore::open(options, counters, Arc::new(Null)))
}

/// Measures every encoder whose name has one of `names` in it, and prints a line for each.
/// Compiled code is kept in `folder`; `record` gets a line of JSON with every sample.
///
/// # Errors
/// When nothing can be written.
///
/// # Panics
/// As [`measure`].
pub fn table(
    driver: &dyn Driver,
    names: &[String],
    folder: &Path,
    out: &mut dyn Write,
    record: &mut dyn Write,
) -> std::io::Result<()> {
    let store = artifacts(folder);
    writeln!(
        out,
        "encoder           compiles  build ms  seal ms  first us  median us  TFLOP/s  tokens/s"
    )?;
    for encoder in ENCODERS {
        if !names.is_empty() && !names.iter().any(|it| encoder.name.contains(&**it)) {
            continue;
        }
        let it = measure(driver, encoder, 200, store.clone());
        let median = it.median_ns() as f64;
        writeln!(record, "{}", it.to_json(encoder))?;
        writeln!(
            out,
            "{:<17} {:>8} {:>9.0} {:>8.1} {:>9.0} {:>10.1} {:>8.1} {:>9.0}",
            encoder.name,
            it.compiles,
            it.build_ns as f64 / 1e6,
            it.seal_ns as f64 / 1e6,
            it.runs_ns[0] as f64 / 1e3,
            median / 1e3,
            it.flops / median / 1e3,
            encoder.rows() as f64 / median * 1e9,
        )?;
    }
    Ok(())
}

/// Times of one run's steps, added up by name, the longest first. The driver's device was opened
/// with `profile`, so its programs run step by step.
///
/// # Errors
/// When nothing can be written.
///
/// # Panics
/// As [`measure`].
pub fn steps(
    driver: &dyn Driver,
    profile: &Profile,
    names: &[String],
    out: &mut dyn Write,
) -> std::io::Result<()> {
    for encoder in ENCODERS {
        if !names.is_empty() && !names.iter().any(|it| encoder.name.contains(&**it)) {
            continue;
        }
        let figures = measure(driver, encoder, 3, Arc::new(NoArtifacts));
        let Some(last) = profile.take().pop() else { continue };
        let labels = figures.steps.iter().map(String::as_str);
        let steps: Vec<(&str, u64)> = labels.zip(last.steps.iter().map(|it| it.1)).collect();
        write_steps(out, encoder.name, &steps)?;
    }
    Ok(())
}

/// The times of steps, added up by name, the longest first.
pub(crate) fn write_steps(
    out: &mut dyn Write,
    what: &str,
    steps: &[(&str, u64)],
) -> std::io::Result<()> {
    let mut sums: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for (name, ns) in steps {
        let sum = sums.entry(name).or_default();
        *sum = (sum.0 + 1, sum.1 + ns);
    }
    let mut rows: Vec<_> = sums.into_iter().collect();
    rows.sort_by_key(|(_, (_, ns))| std::cmp::Reverse(*ns));
    let all: u64 = steps.iter().map(|it| it.1).sum();
    writeln!(out, "{what}: {:.1} us in {} steps", all as f64 / 1e3, steps.len())?;
    for (name, (count, ns)) in rows {
        let (sum, each) = (ns as f64 / 1e3, ns as f64 / 1e3 / count as f64);
        writeln!(out, "  {count:>4} x {each:>8.1} = {sum:>9.1} us  {name}")?;
    }
    Ok(())
}

impl Encoder {
    /// Packed rows of a run.
    pub fn rows(&self) -> usize {
        self.sequences * self.length
    }

    fn flops(&self) -> f64 {
        let (h, inner) = (self.hidden as f64, self.inner as f64);
        let products = 2.0 * (4.0 * h * h + 2.0 * h * inner);
        let attention = 4.0 * self.length as f64 * h;
        self.layers as f64 * self.rows() as f64 * (products + attention)
    }

    pub(crate) fn graph(&self) -> Result<CheckedGraph, GraphError> {
        let mut g = Graph::new();
        let (rows, hidden) = (self.rows(), self.hidden);
        let ids = g.live_input("ids", 0, Type::new(DType::I32, &[rows]));
        let lo = g.live_input("lo", 0, Type::new(DType::I32, &[rows]));
        let hi = g.live_input("hi", 0, Type::new(DType::I32, &[rows]));
        let first = g.live_input("first", 1, Type::new(DType::I32, &[self.sequences]));
        let last = g.live_input("last", 1, Type::new(DType::I32, &[self.sequences]));
        let mut weights = Weights { count: 0, dtype: self.dtype, codes: self.codes };
        let words = weights.exact(&mut g, &[WORDS, hidden]);
        let x = nn::embedding(&mut g, words, ids)?;
        let mut x = weights.norm(&mut g, x)?;
        x = g.cast(x, self.dtype)?;
        let head = hidden / self.heads;
        for _ in 0..self.layers {
            let none = nn::Activation::None;
            let qkv = weights.linear(&mut g, x, 3 * hidden, none)?;
            let mut part = |at: usize| -> Result<ValueId, GraphError> {
                let part = g.slice(qkv, 1, at * hidden, (at + 1) * hidden)?;
                g.reshape(part, &[rows, self.heads, head])
            };
            let (q, k, v) = (part(0)?, part(1)?, part(2)?);
            let scale = 1.0 / (head as f64).sqrt();
            let options = nn::AttentionOptions { lo, hi, extra: None, bias: None, scale };
            let mixed = nn::attention(&mut g, q, k, v, &options)?;
            let mixed = g.reshape(mixed, &[rows, hidden])?;
            let mixed = weights.linear(&mut g, mixed, hidden, none)?;
            let sum = g.add(mixed, x)?;
            x = weights.norm(&mut g, sum)?;
            let inner = weights.linear(&mut g, x, self.inner, nn::Activation::Gelu)?;
            let outer = weights.linear(&mut g, inner, hidden, none)?;
            let sum = g.add(outer, x)?;
            x = weights.norm(&mut g, sum)?;
        }
        let x = g.cast(x, DType::F32)?;
        let pooled = nn::pool(&mut g, x, first, last, nn::PoolKind::Mean)?;
        let pooled = nn::l2_normalize(&mut g, pooled, 1e-12)?;
        g.output("pooled", pooled);
        g.check()
    }

    fn inputs(&self) -> [(&'static str, Vec<u8>); 5] {
        let (rows, length) = (self.rows() as i32, self.length as i32);
        let of_rows = |value: &dyn Fn(i32) -> i32| -> Vec<u8> {
            (0..rows).flat_map(|row| value(row).to_le_bytes()).collect()
        };
        let of_sequences = |value: &dyn Fn(i32) -> i32| -> Vec<u8> {
            (0..self.sequences as i32).flat_map(|at| value(at).to_le_bytes()).collect()
        };
        [
            ("ids", of_rows(&|row| (row * 7919 + 13) % WORDS as i32)),
            ("lo", of_rows(&|row| row / length * length)),
            ("hi", of_rows(&|row| (row / length + 1) * length)),
            ("first", of_sequences(&|at| at * length)),
            ("last", of_sequences(&|at| (at + 1) * length)),
        ]
    }

    /// Work of a run, as the plan counts it.
    pub(crate) fn work(&self, plan: &Plan) -> u64 {
        let all = [self.rows() as u32, self.sequences as u32];
        let inputs = self.inputs();
        plan.work.flops(all, all, |slot| {
            let found = inputs.iter().find(|it| plan.input_index(it.0) == Some(slot));
            found.map(|it| it.1.as_slice())
        })
    }

    pub(crate) fn run(&self, session: &mut Session, program: ProgramId) -> Vec<f32> {
        for (name, bytes) in self.inputs() {
            let slot = session.plan(program).input_index(name).unwrap();
            session.write(program, slot, &bytes).unwrap();
        }
        let live = [self.rows() as u32, self.sequences as u32];
        session.run(program, &live, Duration::from_secs(60)).unwrap();
        let slot = session.plan(program).output_index("pooled").unwrap();
        let mut bytes = vec![0; 4 * self.sequences * self.hidden];
        session.read(program, slot, &mut bytes).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect()
    }
}

/// Names the weights of a graph in order.
struct Weights {
    count: usize,
    dtype: DType,
    codes: Option<DType>,
}

impl Weights {
    fn exact(&mut self, g: &mut Graph, sizes: &[usize]) -> ValueId {
        self.count += 1;
        let name = format!("w{}", self.count);
        g.input(&name, Role::Weight, Type::new(DType::F32, sizes))
    }

    fn linear(
        &mut self,
        g: &mut Graph,
        x: ValueId,
        to: usize,
        activation: nn::Activation,
    ) -> Result<ValueId, GraphError> {
        let from = g.shape(x).last();
        let (w, b) = (self.exact(g, &[to, from]), self.exact(g, &[to]));
        let b = g.cast(b, self.dtype)?;
        let Some(codes) = self.codes else {
            let w = g.cast(w, self.dtype)?;
            return nn::linear(g, x, w, Some(b), activation);
        };
        let (x, w) = (nn::quantize_rows(g, x, codes)?, nn::quantize_rows(g, w, codes)?);
        nn::scaled_linear(g, x, w, Some(b), activation, self.dtype)
    }

    fn norm(&mut self, g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
        let size = g.shape(x).last();
        let (w, b) = (self.exact(g, &[size]), self.exact(g, &[size]));
        nn::layer_norm(g, x, w, Some(b), 1e-12)
    }
}

/// Weights that follow from their names: of the size that trained ones have.
pub(crate) struct Seeded;

impl WeightSource for Seeded {
    fn identity(&self) -> Digest {
        Digest::of(&Canonical::new("seeded weights", 1).finish())
    }

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let seed: u64 =
            name.bytes().fold(1469, |sum, it| sum.wrapping_mul(31).wrapping_add(u64::from(it)));
        for (at, to) in out.iter_mut().enumerate() {
            // A step of SplitMix64.
            let place = (first + at + 1) as u64;
            let mut z = seed.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            let unit = (z ^ z >> 31) >> 40;
            *to = (unit as f32 / (1 << 24) as f32 - 0.5) * 0.08;
        }
        Ok(())
    }
}

#[test]
fn every_encoder_has_a_plan() {
    use calor_device::null::NullDriver;
    use calor_device_cuda::{Arch, claims};
    use calor_runtime::{Capabilities, plan};
    let driver = NullDriver { claims: claims(Arch::of_device(9, 0), true), memory_bytes: 1 << 40 };
    for encoder in ENCODERS {
        let device = driver.open(0).unwrap();
        let capabilities = Capabilities { claims: device.claims, parallel_count: 132 };
        let plan = plan(&encoder.graph().unwrap(), &capabilities, &Choices::default()).unwrap();
        // Products, attention and norms, which few rows fold into products; embeddings with their
        // norm, the last norm, and pooling. Before each of the four products rows become codes, if
        // they do.
        calor_testkit::check_plan(&plan).unwrap_or_else(|err| panic!("{err}\n{plan}"));
        let of_layer = match encoder.codes {
            Some(_) => 11,
            None if encoder.rows() <= 64 => 5,
            None => 7,
        };
        assert!(plan.steps.len() <= of_layer * encoder.layers + 3, "{}:\n{plan}", encoder.name);
        assert_eq!(encoder.work(&plan) as f64, encoder.flops(), "{}", encoder.name);
    }
}
