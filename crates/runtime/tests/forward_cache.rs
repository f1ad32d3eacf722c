//! The forward kernel cache, and the contracts that it was specified with. Each contract is also
//! broken on purpose, to see that its check notices.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use calor_device::null::NullDriver;
use calor_device::{
    Artifact, Artifacts, CodeId, Compiled, Compiler, Device, DeviceError, Driver, Held, NoArtifacts,
};
use calor_device_cpu::CpuDriver;
use calor_ir::{CheckedGraph, DecoderBlock, LowRank};
use calor_kernel::{Unit, examples};
use calor_runtime::{
    Build, Choices, ContextId, ForwardKernelCache, ForwardKernelCaches, KernelKey, LaneId,
    ProgramSpec, RuntimeError,
};
use calor_telemetry::counter::Plain;
use calor_telemetry::{Counters, Null};
use calor_testkit::contract::check_targets;
use calor_testkit::decoders::{Order, SMALL, SeededWeights, Served, serve};
use calor_testkit::prewarm::{Door, Doors, module_faults, order_faults};

const NULL: NullDriver = NullDriver { claims: &[], memory_bytes: 1 << 30 };
const CPU: CpuDriver =
    CpuDriver { threads: 2, level: None, memory_bytes: Some(1 << 30), profile: None };

fn build(device: Device) -> (Build, Arc<Counters>) {
    let counters = Arc::new(Counters::new());
    (Build::new(device, 1 << 30, counters.clone(), Arc::new(Null)), counters)
}

fn cache(driver: &dyn Driver) -> (ForwardKernelCache, Arc<Counters>) {
    let (build, counters) = build(driver.open(0).unwrap());
    (ForwardKernelCache::new(build), counters)
}

fn spec<'a>(lane: LaneId, graph: &'a CheckedGraph, choices: &'a Choices) -> ProgramSpec<'a> {
    ProgramSpec {
        label: "block",
        token_count_max: SMALL.token_count_max as u32,
        sequence_count_max: 1,
        lane,
        graph,
        source: Some(Arc::new(SeededWeights)),
        choices,
        channels: &[],
    }
}

fn unit(at: usize) -> Unit {
    Unit::Loop(examples::all()[at].program.clone())
}

fn graphs() -> [CheckedGraph; 2] {
    [SMALL.forward().unwrap(), SMALL.backward().unwrap()]
}

#[test]
fn a_kernel_is_compiled_once_and_found_by_its_own_key() {
    let (mut cache, counters) = cache(&NULL);
    let kernel = unit(0);
    assert!(cache.get_cached(KernelKey::of(&kernel)).is_none());
    let made = cache.get_or_compile(&kernel).unwrap();
    let again = cache.get_or_compile(&kernel).unwrap();
    let found = cache.get_cached(made.key()).unwrap();
    assert_eq!([made.code(), made.code()], [again.code(), found.clone().code()]);
    assert!(cache.get_cached(KernelKey::of(&unit(1))).is_none());
    assert_eq!(counters.snapshot().get(Plain::Compiles), 1);
}

#[test]
fn the_target_is_the_devices_and_admits_no_other() {
    let (cache, _) = cache(&NULL);
    let target = cache.sm_target();
    assert_eq!(target.to_string(), NULL.open(0).unwrap().signature.arch);
    assert!(target.admits("null"));
    assert!(["", "nul", "null ", "sm_90"].iter().all(|it| !target.admits(it)));
    assert_eq!(cache.cublas(), None);
}

#[test]
fn the_library_is_what_the_device_names() {
    let mut device = NULL.open(0).unwrap();
    device.signature.versions.push(("products".into(), "cublaslt 13.1".into()));
    let cache = ForwardKernelCache::new(build(device).0);
    assert_eq!(cache.cublas(), Some("cublaslt 13.1"));
}

#[test]
fn what_is_warmed_is_what_programs_launch() {
    let (mut cache, counters) = cache(&NULL);
    let count = cache.pre_warm_for_model(&SMALL).unwrap();
    assert_eq!(count, cache.modules().len());
    let forward = cache.plan(&SMALL.forward().unwrap()).unwrap();
    assert_eq!(module_faults(&cache.modules(), &[&forward]), [""; 0]);
    cache.pre_warm_lora_backward(&SMALL).unwrap();
    let backward = cache.plan(&SMALL.backward().unwrap()).unwrap();
    assert_eq!(module_faults(&cache.modules(), &[&forward, &backward]), [""; 0]);

    let scope = counters.scope();
    let (lane, choices, graphs) = (cache.build_mut().lane(), Choices::default(), graphs());
    let specs = graphs.each_ref().map(|it| spec(lane, it, &choices));
    cache.build_mut().programs(&specs).unwrap();
    cache.into_build().seal().unwrap();
    assert_eq!([Plain::Compiles, Plain::Loads].map(|it| scope.change().get(it)), [0, 0]);
}

#[test]
fn a_module_too_many_or_too_few_is_noticed() {
    let (mut cache, _) = cache(&NULL);
    cache.pre_warm_for_model(&SMALL).unwrap();
    let plan = cache.plan(&SMALL.forward().unwrap()).unwrap();
    let mut modules = cache.modules();
    modules.push(KernelKey::of(&unit(0)));
    assert_eq!(module_faults(&modules, &[&plan]).len(), 1);
    modules.drain(..2);
    assert_eq!(module_faults(&modules, &[&plan]).len(), 3);
    // Another epsilon is another kernel: what was warmed for one model does not serve the other.
    let other = DecoderBlock { norm_eps: 1e-5, ..SMALL }.forward().unwrap();
    assert!(!module_faults(&cache.modules(), &[&cache.plan(&other).unwrap()]).is_empty());
}

#[test]
fn without_factors_of_low_rank_the_other_gradients_are_still_warmed() {
    let (mut cache, _) = cache(&NULL);
    let block = DecoderBlock { low_rank: LowRank::NONE, ..SMALL };
    assert!(0 < cache.pre_warm_lora_backward(&block).unwrap());
}

#[test]
fn every_context_has_its_own_cache() {
    let mut caches = ForwardKernelCaches::default();
    let context = |ordinal| ContextId { kind: "null", ordinal };
    let open = || Ok(build(NULL.open(0)?).0);
    let missing = caches.pre_warm_forward_kernels(context(0), &SMALL);
    assert!(matches!(missing, Err(RuntimeError::NoContext { kind: "null", ordinal: 0 })));
    caches.init_forward_kernel_cache(context(0), open).unwrap();
    caches.init_forward_kernel_cache(context(1), open).unwrap();
    caches.pre_warm_forward_kernels(context(0), &SMALL).unwrap();
    assert!(caches.of(context(1)).unwrap().modules().is_empty());
    caches.pre_warm_lora_backward_kernels(context(1), &SMALL).unwrap();
    let warmed = caches.of(context(0)).unwrap().modules();
    // Once more changes nothing, and opens nothing.
    let again = caches.init_forward_kernel_cache(context(0), || panic!("it is open")).unwrap();
    assert_eq!(again.modules(), warmed);
    let absent = caches.init_forward_kernel_cache(context(2), || {
        let why = String::new();
        Err(DeviceError::Absent { kind: "null", why }.into())
    });
    assert!(absent.is_err());
    assert!(caches.of(context(2)).is_err());
}

fn served(driver: &dyn Driver, order: Order) -> Served {
    serve(driver, &graphs(), SMALL.token_count_max, order, Arc::new(NoArtifacts)).unwrap()
}

#[test]
fn code_comes_before_payload_and_a_run_before_the_first_request() {
    for driver in [&NULL as &dyn Driver, &CPU] {
        let served = served(driver, Order::Manifest);
        assert_eq!(order_faults(&served.log), [""; 0]);
        assert_eq!(served.module_faults, [""; 0]);
        assert_eq!(served.late_compiles, 0);
    }
}

#[test]
fn another_order_is_noticed() {
    let faults = |order| order_faults(&served(&NULL, order).log).join("\n");
    assert!(faults(Order::OneByOne).contains("Load after the first payload"));
    assert!(faults(Order::Unrun).contains("had not run before the first request"));
    let mut log = served(&NULL, Order::Manifest).log;
    log.push(Door::Compile);
    assert!(order_faults(&log).join("\n").contains("Compile after the first request"));
}

#[test]
fn the_order_of_warming_changes_no_bit() {
    let outputs =
        [Order::Manifest, Order::OneByOne, Order::Unrun].map(|it| served(&CPU, it).outputs);
    assert!(outputs[0].iter().any(|it| it.2.iter().any(|it| *it != 0)));
    assert_eq!(outputs[0], outputs[1]);
    assert_eq!(outputs[0], outputs[2]);
}

#[test]
fn a_manifest_that_does_not_fit_leaves_nothing() {
    let (mut build, _) = build(NULL.open(0).unwrap());
    let (lane, choices) = (build.lane(), Choices::default());
    let wide = DecoderBlock { hidden_len: 1 << 13, inner_len: 1 << 14, ..SMALL };
    let graphs = [SMALL.forward().unwrap(), wide.forward().unwrap()];
    let specs = graphs.each_ref().map(|it| spec(lane, it, &choices));
    assert!(matches!(build.programs(&specs), Err(RuntimeError::Quota { .. })));
    assert_eq!(build.memory().total_bytes(), 0);
}

/// A null device that lies about targets.
struct Lying {
    inner: Arc<dyn Compiler>,
    doors: Doors,
    lie: Lie,
}

#[derive(Clone, Copy, PartialEq)]
enum Lie {
    /// It loads whatever it gets.
    LoadsAll,
    /// It looks at the bytes before it looks at the target.
    LooksFirst,
    /// It gives code that says it is for this target.
    Compiles(&'static str),
}

impl Compiler for Lying {
    fn compile(&self, unit: &Unit, kept: &dyn Artifacts) -> Result<Compiled, DeviceError> {
        let mut compiled = self.inner.compile(unit, kept)?;
        if let Lie::Compiles(target) = self.lie {
            compiled.artifact.target = target.into();
        }
        Ok(compiled)
    }

    fn load(&self, artifact: &Artifact) -> Result<CodeId, DeviceError> {
        self.doors.request();
        if self.lie == Lie::LooksFirst && artifact.bytes.len() < 8 {
            return Err(DeviceError::Damaged { why: "it is short" });
        }
        let target =
            if self.lie == Lie::LoadsAll { "null".into() } else { artifact.target.clone() };
        self.inner.load(&Artifact { target, bytes: artifact.bytes.clone() })
    }

    fn release(&self, held: Held) -> Result<(), DeviceError> {
        self.inner.release(held)
    }
}

struct LyingDriver(Lie, Doors);

impl Driver for LyingDriver {
    fn count(&self) -> Result<usize, DeviceError> {
        Ok(1)
    }

    fn open(&self, ordinal: usize) -> Result<Device, DeviceError> {
        let Device { memory, compiler, queue, claims, signature } = NULL.open(ordinal)?;
        let compiler = Arc::new(Lying { inner: compiler, doors: self.1.clone(), lie: self.0 });
        Ok(Device { memory, compiler, queue, claims, signature })
    }
}

#[test]
fn devices_refuse_code_for_another_target() {
    check_targets(&NULL);
    check_targets(&CPU);
}

#[test]
fn a_device_that_lies_about_targets_is_noticed() {
    for lie in [Lie::LoadsAll, Lie::LooksFirst, Lie::Compiles("sm_80")] {
        let driver = LyingDriver(lie, Doors::default());
        assert!(catch_unwind(AssertUnwindSafe(|| check_targets(&driver))).is_err());
    }
}

#[test]
fn code_for_another_target_never_reaches_a_device() {
    for target in ["sm_80", "", "nul"] {
        let driver = LyingDriver(Lie::Compiles(target), Doors::default());
        let (mut cache, _) = cache(&driver);
        let said = cache.get_or_compile(&unit(0)).unwrap_err();
        let RuntimeError::Device(DeviceError::WrongTarget { wanted, found }) = &said else {
            panic!("{said}");
        };
        assert_eq!([wanted.as_str(), found.as_str()], ["null", target]);
        assert!(driver.1.log().is_empty(), "its door was not even knocked at");
    }
}
