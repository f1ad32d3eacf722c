//! A prepared program runs without asking the heap for anything, on any thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use calor_device::{Device, Driver, PreparedId, Profile, Span, Step, Word};
use calor_device_cpu::CpuDriver;
use calor_ir::DType;
use calor_kernel::{Activation, Call, Source, Unit, examples};

/// Counts what every thread asks for.
struct Counting;

static ASKED_COUNT: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe to write")]
// SAFETY: every call is passed on unchanged; counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED_COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED_COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A step with buffers of so many bytes, and counts that are at their most.
fn step(device: &mut Device, unit: &Unit, words: &[i64], sizes: &[usize]) -> Step {
    let artifact =
        device.compiler.compile(unit, &calor_device::NoArtifacts).expect("code").artifact;
    let code = device.compiler.load(&artifact).expect("code");
    let mut args = Vec::new();
    for size in sizes {
        let len = *size as u64;
        args.push(Span { buffer: device.memory.alloc(len).expect("memory"), offset: 0, len });
    }
    let words = words.iter().map(|it| Word::Fixed(*it)).collect();
    Step::Launch { code, words, args }
}

fn steps(device: &mut Device) -> Vec<Step> {
    let mut steps = Vec::new();
    for example in examples::all() {
        let args = example.program.args.iter().zip(&example.buffers);
        let sizes: Vec<usize> = args.map(|(arg, it)| it.len() * arg.dtype.size_bytes()).collect();
        let unit = Unit::Loop(example.program.clone());
        steps.push(step(device, &unit, &example.words, &sizes));
    }
    let (m, n, k) = (70, 96, 64);
    for packed in [true, false] {
        let gemm = Unit::Call(Call::Gemm {
            rows: 0,
            n: n as u32,
            k: k as u32,
            dtype: DType::F32,
            tf32: false,
            bias: true,
            activation: Activation::Gelu,
            residual: true,
            packed,
        });
        let sizes = [m * k, n * k, n, m * n, m * n].map(|it| 4 * it);
        let words = [m, k, n, n].map(|it| it as i64);
        steps.push(step(device, &gemm, &words, &sizes));
    }
    let params = [("heads", 2), ("kv_heads", 1), ("d", 32), ("scale", 0), ("extra", 1)];
    let flags = [("bias", 0), ("lse", 1), ("reach", 0)];
    let params = params.into_iter().chain(flags).collect();
    let attention = Unit::Source(Source { name: "attention", params });
    let sizes = [m * 64, m * 32, m * 32, m, m, m, m * 64, m * 2].map(|it| 4 * it);
    let words = [m as i64, m as i64, 64, 32, 32];
    steps.push(step(device, &attention, &words, &sizes));
    let params = vec![("e", 4), ("d", 8), ("h", 16), ("o", 8)];
    let experts = Unit::Source(Source { name: "experts", params });
    let sizes = [m * 8, m * 4, 4 * 32 * 8, 4 * 16, 4 * 32 * 16, 4 * 8, m * 8].map(|it| 4 * it);
    steps.push(step(device, &experts, &[m as i64, 8], &sizes));
    steps
}

#[test]
fn a_steady_run_asks_for_nothing() {
    for thread_count in [1, 3] {
        let (mut device, prepared, _) = prepared(thread_count, None);
        // Threads set up what is theirs when they first run, which may be late.
        let mut asked = || {
            let before = ASKED_COUNT.load(Ordering::SeqCst);
            (0..20).for_each(|_| run(&mut device, prepared));
            ASKED_COUNT.load(Ordering::SeqCst) - before
        };
        let least = (0..10).map(|_| asked()).min();
        assert_eq!(least, Some(0), "{thread_count} threads, 20 runs");
    }
}

#[test]
fn a_profile_has_the_time_of_each_step_once() {
    let profile = Profile::new();
    let (mut device, prepared, step_count) = prepared(2, Some(profile.clone()));
    (0..2).for_each(|_| run(&mut device, prepared));
    let runs = profile.take();
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert_eq!((run.program, run.steps.len()), (prepared, step_count));
        assert!(run.steps.iter().all(|(_, ns)| 0 < *ns));
    }
    assert!(profile.take().is_empty());
}

fn prepared(threads: usize, profile: Option<Profile>) -> (Device, PreparedId, usize) {
    let driver = CpuDriver { threads, level: None, memory_bytes: None, profile };
    let mut device = driver.open(0).expect("the processor");
    let steps = steps(&mut device);
    let prepared = device.queue.prepare(&steps, &[], None).expect("a program");
    (device, prepared, steps.len())
}

fn run(device: &mut Device, prepared: PreparedId) {
    let ticket = device.queue.run(prepared).expect("a run");
    device.queue.wait(ticket, Duration::ZERO).expect("its end");
}
