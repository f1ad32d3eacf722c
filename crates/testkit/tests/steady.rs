//! A sealed session in steady state allocates nothing, plans nothing and compiles nothing.
#![expect(unsafe_code, reason = "a counting allocator is one by definition")]
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use calor_device::Driver;
use calor_device_cpu::CpuDriver;
use calor_embed::InferencePrecision;
use calor_embed::encoder::{Pooling, TextOutputs, text_graph};
use calor_embed::packing::Bucket;
use calor_kernel::Digest;
use calor_runtime::{Build, Choices, ProgramSpec, Session, WeightSource};
use calor_telemetry::counter::Plain;
use calor_telemetry::{Counters, Event, Null, Record, Recorder, Ring};
use calor_weights::{Head, ModelConfig};

/// Counts what every thread of the process asks the heap for.
struct Counting;

static ASKED: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on unchanged; counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Small numbers that differ from place to place.
struct Numbers;

impl WeightSource for Numbers {
    fn identity(&self) -> Digest {
        Digest([7; 32])
    }

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for (at, it) in out.iter_mut().enumerate() {
            let mixed = (first + at).wrapping_mul(2_654_435_761).wrapping_add(name.len() * 97);
            *it = ((mixed >> 8) % 2001) as f32 / 20_000.0 - 0.05;
        }
        Ok(())
    }
}

struct Slots {
    inputs: Vec<(usize, Vec<i32>)>,
    output: usize,
}

/// One request: inputs in, a run with fewer rows than the bucket has, vectors out.
fn request(
    session: &mut Session,
    program: calor_runtime::ProgramId,
    slots: &Slots,
    out: &mut [u8],
) {
    for (slot, values) in &slots.inputs {
        session.write(program, *slot, bytemuck::cast_slice(values)).unwrap();
    }
    session.run(program, &[40, 2], Duration::from_secs(60)).unwrap();
    session.read(program, slots.output, out).unwrap();
}

/// 200 requests of a sealed session that records to `recorder`: nothing is planned, compiled or
/// asked of the heap, whoever listens.
fn steady(recorder: Arc<dyn Recorder>) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/longformer/config.json");
    let config = ModelConfig::from_file(golden).unwrap().text.unwrap();
    let bucket = Bucket::of_tokens(64);
    let outputs = TextOutputs {
        pooling: Pooling::Mean,
        project: false,
        normalize: true,
        slots: Vec::new(),
        token_slot: None,
        token_mean: None,
    };
    let precision = InferencePrecision::FP32;
    let graph = text_graph(&config, Head::None, "", bucket, &outputs, precision).unwrap();
    let driver = CpuDriver { threads: 2, level: None, memory_bytes: None, profile: None };
    let counters = Arc::new(Counters::new());
    let device = driver.open(0).unwrap();
    let mut build = Build::new(device, u64::MAX, counters.clone(), recorder);
    let lane = build.lane();
    let program = build
        .program(&ProgramSpec {
            label: "steady",
            token_count_max: 64,
            sequence_count_max: 8,
            lane,
            graph: &graph,
            source: Some(Arc::new(Numbers)),
            choices: &Choices::default(),
            channels: &[],
        })
        .unwrap();
    let mut session = build.seal().unwrap();

    let plan = session.plan(program);
    let row = |name: &str, value: &dyn Fn(usize) -> i32, count: usize| {
        plan.input_index(name).map(|slot| (slot, (0..count).map(value).collect::<Vec<i32>>()))
    };
    let half = |at: usize| i32::from(at >= 20) * 20;
    let inputs = [
        row("ids", &|at| (at * 7 % 800) as i32, 64),
        row("positions", &|at| (at % 20 + 2) as i32, 64),
        row("types", &|_| 0, 64),
        row("segment", &|at| i32::from(at >= 20), 64),
        row("lo", &|at| if at < 40 { half(at) } else { 0 }, 64),
        row("hi", &|at| if at < 40 { half(at) + 20 } else { 0 }, 64),
        row("seg_lo", &|at| [0, 20].get(at).copied().unwrap_or(40), 8),
        row("seg_hi", &|at| [20, 40].get(at).copied().unwrap_or(40), 8),
    ];
    let output = plan.output_index("pooled").unwrap();
    let slots = Slots { inputs: inputs.into_iter().flatten().collect(), output };
    let mut first = vec![0; 2 * 64 * 4];
    let mut out = first.clone();
    for _ in 0..3 {
        request(&mut session, program, &slots, &mut first);
    }

    let scope = counters.snapshot();
    let before = ASKED.load(Ordering::SeqCst);
    for _ in 0..200 {
        request(&mut session, program, &slots, &mut out);
    }
    let asked = ASKED.load(Ordering::SeqCst) - before;
    let change = counters.snapshot().since(&scope);
    assert_eq!(asked, 0, "heap allocations in 200 requests");
    assert_eq!(out, first, "the same request gives the same bits");
    assert!(first.iter().any(|it| *it != 0));
    assert_eq!(change.get(Plain::Programs), 200);
    for counter in [Plain::Plans, Plain::Compiles, Plain::Loads, Plain::Allocations] {
        assert_eq!(change.get(counter), 0, "{counter:?}");
    }
}

/// One test for both: the count is of the whole process.
#[test]
fn a_sealed_session_allocates_nothing_with_telemetry_off_and_on() {
    steady(Arc::new(Null));
    let ring = Arc::new(Ring::new(4, 64));
    steady(ring.clone());
    let ran = |it: &&Record| matches!(it.event, Event::ProgramRan { .. });
    assert_eq!(ring.records().iter().filter(ran).count(), 64, "it listened until the end");
    assert!(0 < ring.overwritten_count(), "and was full");
}
