//! Manifests of decoders for GPUs, without one: what is planned, loaded, written and compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use calor_device::Driver;
use calor_device::null::NullDriver;
use calor_ir::{CheckedGraph, DecoderBlock, LowRank};
use calor_kernel::{InstrOp, Unit};
use calor_telemetry::{Counters, Null};
use calor_testkit::check_plan;
use calor_testkit::decoders::{REAL, variants};
use calor_testkit::prewarm::module_faults;
use calor_testkit::runtime::{
    Build, Capabilities, Choices, ForwardKernelCache, KernelKey, Plan, PlanStep, ProgramSpec,
    RuntimeError, plan,
};

use crate::arch::Arch;
use crate::claims::claims;
use crate::compile::of_loop;
use crate::sources::{self, Written};

const HOPPER: Arch = Arch::of_device(9, 0);
/// Multiprocessors of the GPU that is planned for.
const SM_COUNT: u32 = 132;

fn planned(library: bool, graph: &CheckedGraph) -> Plan {
    let capabilities = Capabilities { claims: claims(HOPPER, library), parallel_count: SM_COUNT };
    plan(graph, &capabilities, &Choices::default()).unwrap()
}

/// Both graphs of each block, with the library and without.
fn plans(blocks: &[DecoderBlock]) -> Vec<Plan> {
    let mut all = Vec::new();
    for block in blocks {
        for library in [true, false] {
            all.push(planned(library, &block.forward().unwrap()));
        }
        // Nothing of a derivative is claimed, so the library changes nothing there.
        all.push(planned(true, &block.backward().unwrap()));
    }
    all
}

/// A kernel's text and how it is launched; nothing for a call, which is chosen on a GPU.
fn written(unit: &Unit) -> Option<Written> {
    match unit {
        Unit::Loop(program) => Some(of_loop(program, HOPPER).unwrap()),
        Unit::Source(source) => Some(sources::write(source, HOPPER, SM_COUNT).unwrap()),
        Unit::Call(_) => None,
    }
}

fn cache(library: bool, quota_bytes: u64) -> ForwardKernelCache {
    let driver = NullDriver { claims: claims(HOPPER, library), memory_bytes: 1 << 40 };
    let device = driver.open(0).unwrap();
    let counters = Arc::new(Counters::new());
    ForwardKernelCache::new(Build::new(device, quota_bytes, counters, Arc::new(Null)))
}

#[test]
fn modules_are_what_programs_launch_with_the_library_and_without() {
    for (name, block) in REAL {
        for block in variants(block) {
            let modules = [true, false].map(|library| {
                let mut cache = cache(library, u64::MAX);
                cache.pre_warm_for_model(&block).unwrap();
                cache.pre_warm_lora_backward(&block).unwrap();
                let forward = cache.plan(&block.forward().unwrap()).unwrap();
                let backward = cache.plan(&block.backward().unwrap()).unwrap();
                let faults = module_faults(&cache.modules(), &[&forward, &backward]);
                assert_eq!(faults, [""; 0], "{name}, {block:?}, {library}");
                let calls = |it: &&Unit| matches!(it, Unit::Call(_));
                let called = forward.units.iter().filter(calls).count();
                assert_eq!(library, 0 < called, "{name}: {called} calls");
                (cache.modules(), forward)
            });
            // Warmed for one, run with the other: both too many and too few are noticed.
            let faults = module_faults(&modules[0].0, &[&modules[1].1]).join("\n");
            assert!(faults.contains("nothing launches") && faults.contains("was not loaded"));
        }
    }
}

#[test]
fn factors_of_low_rank_add_their_own_modules_only() {
    for (name, block) in REAL {
        let units = |rank| {
            let block = DecoderBlock { low_rank: LowRank { rank, alpha: 32.0 }, ..block };
            let plan = planned(true, &block.forward().unwrap());
            plan.units.into_iter().map(|it| (KernelKey::of(&it), it)).collect::<BTreeMap<_, _>>()
        };
        let (without, mut with) = (units(0), units(16));
        with.retain(|key, _| !without.contains_key(key));
        let labels: Vec<String> = with.values().map(Unit::label).collect();
        assert!(!labels.is_empty() && labels.len() <= 7, "{name}: {labels:?}");
    }
}

/// Where one key has two bodies; a line for each.
fn key_faults(units: &[Unit], key: impl Fn(&Unit) -> KernelKey) -> Vec<String> {
    let mut bodies: BTreeMap<KernelKey, Written> = BTreeMap::new();
    let mut faults = Vec::new();
    for unit in units {
        let Some(body) = written(unit) else { continue };
        let known = bodies.entry(key(unit)).or_insert_with(|| body.clone());
        if *known != body {
            faults.push(format!("{} has the key of another body", unit.label()));
        }
    }
    faults
}

/// Distinct units over what checkpoints, batches and training change.
fn grid() -> Vec<Unit> {
    let mut units: BTreeMap<KernelKey, Unit> = BTreeMap::new();
    for (_, block) in REAL {
        for block in variants(block) {
            for (rope_theta, token_count_max) in [(1e4, 512), (5e5, 512), (1e6, 512), (1e6, 64)] {
                let block = DecoderBlock { rope_theta, token_count_max, ..block };
                for library in [true, false] {
                    let plan = planned(library, &block.forward().unwrap());
                    units.extend(plan.units.into_iter().map(|it| (KernelKey::of(&it), it)));
                }
            }
        }
    }
    units.into_values().collect()
}

#[test]
fn keys_are_equal_where_bodies_are() {
    let units = grid();
    assert_eq!(key_faults(&units, KernelKey::of), [""; 0]);
    // What is generated has no key twice. Sources whose tiles agree share an artifact.
    let mut keys: BTreeMap<String, KernelKey> = BTreeMap::new();
    for unit in units.iter().filter(|it| matches!(it, Unit::Loop(_))) {
        let Some(Written { text, form }) = written(unit) else { continue };
        let body = format!("{text}{form:?}");
        let key = KernelKey::of(unit);
        let other = keys.insert(body, key);
        assert!(other.is_none_or(|it| it == key), "two keys, one body: {}", unit.label());
    }
    assert!(10 < keys.len(), "{}", keys.len());
}

#[test]
fn a_key_that_forgets_numbers_is_noticed() {
    // As if epsilons and angles were left out: they are constants of the text.
    let forgetful = |unit: &Unit| {
        let mut unit = unit.clone();
        match &mut unit {
            Unit::Loop(program) => {
                for instr in &mut program.body {
                    if let InstrOp::Const(value) = &mut instr.op {
                        *value = 0.0;
                    }
                }
            }
            Unit::Source(source) => source.params.retain(|(name, _)| *name != "eps"),
            Unit::Call(_) => {}
        }
        KernelKey::of(&unit)
    };
    assert!(!key_faults(&grid(), forgetful).is_empty());
}

#[test]
fn no_plan_loads_one_body_twice() {
    for (name, block) in REAL {
        for plan in plans(&variants(block)) {
            let mut bodies = BTreeSet::new();
            for unit in &plan.units {
                let Some(Written { text, form }) = written(unit) else { continue };
                assert!(bodies.insert(format!("{text}{form:?}")), "{name}: {}", unit.label());
            }
        }
    }
}

const POSITIONS: usize = 32_768;

#[test]
fn nothing_overflows_at_32768_positions() {
    for (name, block) in REAL {
        let low_rank = LowRank { rank: 16, alpha: 32.0 };
        let block = DecoderBlock { token_count_max: POSITIONS, low_rank, ..block };
        for library in [true, false] {
            let plan = planned(library, &block.forward().unwrap());
            check_plan(&plan).unwrap_or_else(|err| panic!("{name}: {err}"));
            launches_fit(name, &plan);
        }
    }
}

fn launches_fit(name: &str, plan: &Plan) {
    for step in plan.prelude.iter().chain(&plan.steps) {
        let PlanStep::Run { unit, words, .. } = step else { continue };
        let unit = &plan.units[*unit as usize];
        let words: Vec<i64> = words.iter().map(|it| crate::code::most(*it)).collect();
        let place = || format!("{name}, {}: {words:?}", unit.label());
        // The fourth word of rotary positions holds the bits of theta.
        let is_extent = |at: usize| at != 3 || unit.label() != "rope";
        let mut extents = words.iter().enumerate().filter(|it| is_extent(it.0));
        assert!(extents.all(|it| (0..i64::from(u32::MAX)).contains(it.1)), "{}", place());
        let Some(Written { form, .. }) = written(unit) else { continue };
        let [x, y, z] = form.geometry.grid(&words);
        assert!(x < i32::MAX as u32 && y <= 65_535 && z <= 65_535, "{}: {x} {y} {z}", place());
    }
}

#[test]
fn scores_of_32768_positions_are_counted_in_full_and_refused() {
    let (_, block) = REAL[0];
    let block = DecoderBlock { token_count_max: POSITIONS, ..block };
    let mut cache = cache(true, 40 << 30);
    let graph = block.backward().unwrap();
    let plan = cache.plan(&graph).unwrap();
    // One number for each pair of rows and each head does not fit 32 bits.
    let scores = (block.head_count * POSITIONS * POSITIONS * 4) as u64;
    assert!(scores <= plan.arena_bytes, "{} of {scores}", plan.arena_bytes);
    let build = cache.build_mut();
    let lane = build.lane();
    let refused = build.program(&ProgramSpec {
        label: "backward",
        token_count_max: POSITIONS as u32,
        sequence_count_max: 1,
        lane,
        graph: &graph,
        source: None,
        choices: &Choices::default(),
        channels: &[],
    });
    let Err(RuntimeError::Quota { wanted, .. }) = refused else { panic!("{refused:?}") };
    let want_bytes = wanted.total_bytes();
    assert!(scores <= want_bytes);
}

#[test]
fn every_module_of_every_manifest_compiles() {
    let Some(nvrtc) = crate::nvrtc::of_tests() else {
        return calor_testkit::skip("SKIPPED device-cuda::manifest: CALOR_NVRTC is not set");
    };
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for (_, block) in REAL {
        for plan in plans(&variants(block)) {
            for unit in &plan.units {
                texts.extend(written(unit).map(|it| (it.text, unit.label())));
            }
        }
    }
    let texts: Vec<(String, String)> = texts.into_iter().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((text, label)) = texts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let image = nvrtc.compile(text, HOPPER);
            assert!(image.is_ok(), "{label}: {}", image.unwrap_err().0);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    println!("{} distinct kernels", texts.len());
}
