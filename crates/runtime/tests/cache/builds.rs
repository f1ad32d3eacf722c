//! Builds over a store: what was compiled once is not compiled again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use calor_device::null::NullDriver;
use calor_device::{
    Artifact, ArtifactKey, ArtifactKind, Artifacts, CodeId, Compiled, Compiler, Device,
    DeviceError, Driver, Found, Held,
};
use calor_ir::{Binary, CheckedGraph, DType, Fold, Graph, Role, Type};
use calor_kernel::{InstrOp, Unit, examples};
use calor_runtime::cache::{Bundle, Directory, Layer, StoreOptions};
use calor_runtime::{Build, Choices, LaneId, ProgramId, ProgramSpec, RuntimeError};
use calor_telemetry::counter::Plain;
use calor_telemetry::{Cache, CacheCount, Counter, Counters, Event, Log, Null, Origin, Recorder};

use crate::fixture::{Kept, options};

const NULL: NullDriver = NullDriver { claims: &[], memory_bytes: 1 << 24 };

/// Sums that need several kernels; another `seed` makes others.
fn graph(kernels: usize, seed: f64) -> CheckedGraph {
    let mut g = Graph::new();
    let ty = Type::new(DType::F32, &[8, 64]);
    let mut x = g.input("x", Role::Data, ty);
    for at in 0..kernels {
        let y = g.with_number(Binary::Mul, x, seed + at as f64).unwrap();
        g.output(&format!("y{at}"), y);
        let sum = g.reduce(Fold::Sum, y, 1).unwrap();
        let sum = g.reshape(sum, &[8, 1]).unwrap();
        let sum = g.broadcast_to(sum, ty.shape).unwrap();
        x = g.add(x, sum).unwrap();
    }
    g.output("x", x);
    g.check().unwrap()
}

fn spec<'a>(lane: LaneId, graph: &'a CheckedGraph, choices: &'a Choices) -> ProgramSpec<'a> {
    ProgramSpec {
        label: "cached",
        token_count_max: 8,
        sequence_count_max: 1,
        lane,
        graph,
        source: None,
        choices,
        channels: &[],
    }
}

fn add(build: &mut Build, graph: &CheckedGraph) -> Result<ProgramId, RuntimeError> {
    let lane = build.lane();
    build.program(&spec(lane, graph, &Choices::default()))
}

struct Built {
    counters: Arc<Counters>,
    origins: Vec<Origin>,
}

impl Built {
    fn count(&self, plain: Plain) -> u64 {
        self.counters.snapshot().get(plain)
    }
}

/// Builds the same two programs over a store, seals, and runs.
fn built(options: StoreOptions) -> Built {
    let (counters, log) = (Arc::new(Counters::new()), Arc::new(Log::new()));
    let store = Arc::new(Kept::open(options).store);
    let recorder: Arc<dyn Recorder> = log.clone();
    let mut build = Build::new(NULL.open(0).unwrap(), 1 << 24, counters.clone(), recorder)
        .with_artifacts(store);
    let programs = [3, 5].map(|it| add(&mut build, &graph(it, 2.0)).unwrap());
    let mut session = build.seal().unwrap();
    programs.iter().for_each(|it| session.run(*it, &[], Duration::ZERO).unwrap());
    let origin = |event: &Event| match event {
        Event::Compiled { origin, .. } => Some(*origin),
        _ => None,
    };
    let origins = log.records().iter().filter_map(|it| origin(&it.event)).collect();
    Built { counters, origins }
}

#[test]
fn the_second_build_over_a_folder_compiles_nothing() {
    let root = tempfile::tempdir().unwrap();
    let first = built(options(root.path()));
    let unit_count = first.origins.len();
    assert!(4 < unit_count, "{unit_count}");
    assert_eq!(first.origins, vec![Origin::Made; unit_count]);
    assert_eq!(first.count(Plain::Compiles), unit_count as u64);
    let second = built(options(root.path()));
    assert_eq!(second.origins, vec![Origin::Disk; unit_count]);
    assert_eq!([Plain::Compiles, Plain::Loads].map(|it| second.count(it)), [0, unit_count as u64]);
}

fn exported(folder: &Path) -> Bundle {
    built(options(folder));
    let directory = Directory::open(folder).unwrap();
    let digests: Vec<_> = directory.inventory().unwrap().iter().map(|it| it.digest).collect();
    Bundle::of(&directory, &digests).unwrap()
}

#[test]
fn a_bundle_spares_another_machine_the_compiler() {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("from"), root.path().join("to"));
    let bundle = exported(&from);
    bundle.import(&Directory::open(&to).unwrap()).unwrap();
    assert_eq!(built(options(&to)).count(Plain::Compiles), 0);
    let layers = vec![Layer::Bundle(Arc::new(bundle))];
    let alone = StoreOptions { folder: None, layers, ..options(&to) };
    assert_eq!(built(alone).count(Plain::Compiles), 0);
}

#[test]
fn code_that_is_loaded_is_not_compiled_again() {
    let counters = Arc::new(Counters::new());
    let mut build = Build::new(NULL.open(0).unwrap(), 1 << 24, counters.clone(), Arc::new(Null));
    let (lane, choices) = (build.lane(), Choices::default());
    let graph = graph(3, 2.0);
    let spec = spec(lane, &graph, &choices);
    build.program(&spec).unwrap();
    let scope = counters.scope();
    build.program(&spec).unwrap();
    assert_eq!([Plain::Compiles, Plain::Loads].map(|it| scope.change().get(it)), [0, 0]);
}

/// A null device whose compiler does as it is told.
struct Told {
    inner: Arc<dyn Compiler>,
    orders: Arc<Orders>,
}

#[derive(Default)]
struct Orders {
    /// Bytes of an artifact; its unit's own when it is zero.
    artifact_bytes: u64,
    compile_ms: u64,
    /// How many loads of the artifact that comes first are refused.
    refused_loads: AtomicU64,
    first: OnceLock<Vec<u8>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    released: Mutex<Vec<CodeId>>,
}

impl Compiler for Told {
    fn compile(&self, unit: &Unit, kept: &dyn Artifacts) -> Result<Compiled, DeviceError> {
        let now = self.orders.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.orders.most_at_once.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(self.orders.compile_ms));
        self.orders.at_once.fetch_sub(1, Ordering::SeqCst);
        let mut compiled = self.inner.compile(unit, kept)?;
        if self.orders.artifact_bytes != 0 {
            compiled.artifact.bytes = vec![0; self.orders.artifact_bytes as usize];
        }
        Ok(compiled)
    }

    fn load(&self, artifact: &Artifact) -> Result<CodeId, DeviceError> {
        let one_less = |it: u64| it.checked_sub(1);
        let left = &self.orders.refused_loads;
        let is_first = self.orders.first.get_or_init(|| artifact.bytes.clone()) == &artifact.bytes;
        if is_first && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Err(DeviceError::Damaged { why: "it was told so" });
        }
        self.inner.load(artifact)
    }

    fn release(&self, held: Held) -> Result<(), DeviceError> {
        if let Held::Code(code) = held {
            self.orders.released.lock().unwrap().push(code);
        }
        self.inner.release(held)
    }
}

fn told(orders: Orders) -> (Device, Arc<Orders>) {
    let orders = Arc::new(orders);
    let Device { memory, compiler: inner, queue, claims, signature } = NULL.open(0).unwrap();
    let compiler = Arc::new(Told { inner, orders: orders.clone() });
    (Device { memory, compiler, queue, claims, signature }, orders)
}

/// Builds over a store whose entries the device refuses to load `refused` times.
fn refusing(folder: &Path, refused: u64) -> (Result<ProgramId, RuntimeError>, [u64; 3]) {
    let kept = Kept::at(folder);
    let store_counters = kept.counters.clone();
    let counters = Arc::new(Counters::new());
    let (device, _) = told(Orders { refused_loads: refused.into(), ..Orders::default() });
    let mut build = Build::new(device, 1 << 24, counters.clone(), Arc::new(Null))
        .with_artifacts(Arc::new(kept.store));
    let added = add(&mut build, &graph(1, 2.0));
    let rejections = Counter::Cache(Cache::KernelArtifact, CacheCount::Rejections);
    let counts = [
        store_counters.snapshot().get(rejections),
        counters.snapshot().get(Plain::Compiles),
        counters.snapshot().get(Plain::Loads),
    ];
    (added, counts)
}

#[test]
fn kept_code_that_is_refused_is_made_once_more() {
    let root = tempfile::tempdir().unwrap();
    let (added, [_, unit_count, _]) = refusing(root.path(), 0);
    added.unwrap();
    let (added, counts) = refusing(root.path(), 1);
    added.unwrap();
    assert_eq!(counts, [1, 1, unit_count]);
    let (added, counts) = refusing(root.path(), 0);
    added.unwrap();
    assert_eq!(counts, [0, 0, unit_count], "what was made is kept");
    let (added, counts) = refusing(root.path(), 2);
    assert!(matches!(added, Err(RuntimeError::Device(DeviceError::Damaged { .. }))));
    assert_eq!(counts, [2, 1, unit_count - 1], "refused again is refused");
    let empty = tempfile::tempdir().unwrap();
    let (added, counts) = refusing(empty.path(), 1);
    assert!(added.is_err());
    assert_eq!(&counts[..1], &[1], "what was made now is not made again");
}

#[test]
fn units_are_compiled_at_once() {
    let (device, orders) = told(Orders { compile_ms: 20, ..Orders::default() });
    let mut build = Build::new(device, 1 << 24, Arc::new(Counters::new()), Arc::new(Null));
    add(&mut build, &graph(6, 2.0)).unwrap();
    let processors = std::thread::available_parallelism().unwrap().get();
    let most = orders.most_at_once.load(Ordering::SeqCst);
    assert!(most <= processors && 2.min(processors) <= most, "{most} of {processors}");
}

#[test]
fn unused_code_is_bounded_and_used_code_stays() {
    let counters = Arc::new(Counters::new());
    let (device, orders) = told(Orders { artifact_bytes: 20 << 20, ..Orders::default() });
    let mut build = Build::new(device, 1 << 24, counters.clone(), Arc::new(Null));
    let used = add(&mut build, &graph(1, 1.0)).unwrap();
    let usage = Counter::Cache(Cache::KernelStructural, CacheCount::Bytes);
    let held = || counters.snapshot().get(usage);
    let pinned_bytes = held();
    for seed in 0..6 {
        let program = add(&mut build, &graph(1, 10.0 + f64::from(seed))).unwrap();
        build.remove(program).unwrap();
        assert!(held() <= pinned_bytes + (64 << 20), "{seed}: {}", held());
    }
    let released = orders.released.lock().unwrap().clone();
    assert!(!released.is_empty());
    assert!(released.iter().all(|it| pinned_bytes / (20 << 20) <= u64::from(it.index)));
    assert!(released.is_sorted_by_key(|it| it.index), "the oldest goes first: {released:?}");
    let scope = counters.scope();
    add(&mut build, &graph(1, 15.0)).unwrap();
    assert_eq!(scope.change().get(Plain::Compiles), 0, "the latest is still there");
    build.run(used, &[], Duration::ZERO).unwrap();
}

/// Remembers what every key was given.
#[derive(Default)]
struct Spy(Mutex<HashMap<Vec<u8>, Vec<u8>>>);

impl Artifacts for Spy {
    fn get_or_make(
        &self,
        key: &ArtifactKey,
        make: &mut dyn FnMut() -> Result<Vec<u8>, DeviceError>,
    ) -> Result<(Vec<u8>, Found), DeviceError> {
        let bytes = make()?;
        assert_eq!(key.kind, ArtifactKind::Kernel);
        let known = self.0.lock().unwrap().insert(key.canonical(), bytes.clone());
        assert!(known.is_none_or(|it| it == bytes), "one key, two bodies: {}", key.label);
        Ok((bytes, Found::Made))
    }

    fn reject(&self, _key: &ArtifactKey, _why: &DeviceError) {}
}

#[test]
fn keys_are_equal_where_bodies_are() {
    let compiler = NULL.open(0).unwrap().compiler;
    let spy = Spy::default();
    let mut variants = 0;
    for example in examples::all() {
        for at in 0..=example.program.body.len() {
            let mut program = example.program.clone();
            if let Some(InstrOp::Const(value)) = program.body.get_mut(at).map(|it| &mut it.op) {
                *value += 2.0;
            } else if at < program.body.len() {
                continue;
            }
            variants += 1;
            // Twice: the second time must give the same.
            for _ in 0..2 {
                compiler.compile(&Unit::Loop(program.clone()), &spy).unwrap();
            }
        }
    }
    let kept = spy.0.into_inner().unwrap();
    let bodies: std::collections::HashSet<&Vec<u8>> = kept.values().collect();
    assert_eq!((kept.len(), bodies.len()), (variants, variants));
}
