//! The pool of device memory, on the null device and on the processor.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use calor_device::null::NullDriver;
use calor_device::{BufferId, DeviceError, Driver, Memory};
use calor_device_cpu::CpuDriver;
use calor_ir::{Binary, CheckedGraph, DType, Graph, Role, Type};
use calor_runtime::{Build, Choices, GpuMemoryPool, LaneId, PoolStats, ProgramId, ProgramSpec};
use calor_telemetry::counter::Plain;
use calor_telemetry::{Cache, CacheCount, Counter, Counters, Null};

const CPU: CpuDriver =
    CpuDriver { threads: 1, level: None, memory_bytes: Some(1 << 30), profile: None };

fn memory(bytes: u64) -> Box<dyn Memory> {
    NullDriver { claims: &[], memory_bytes: bytes }.open(0).unwrap().memory
}

fn pool(limit_bytes: u64) -> (GpuMemoryPool, Arc<Counters>) {
    let counters = Arc::new(Counters::new());
    (GpuMemoryPool::new(limit_bytes, counters.clone()), counters)
}

#[test]
fn sizes_are_those_of_the_specification() {
    assert_eq!(
        GpuMemoryPool::BUCKET_SIZES,
        [4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216]
    );
    assert_eq!(GpuMemoryPool::KEPT_BYTES_MAX, 89_473_024);
    for (asked, granted) in
        [(0, 4_096), (1, 4_096), (4_096, 4_096), (4_097, 16_384), (16 << 20, 16 << 20)]
    {
        assert_eq!(GpuMemoryPool::granted_bytes(asked), granted);
    }
    let large = (16 << 20) + 1;
    assert_eq!(GpuMemoryPool::granted_bytes(large), large);
}

#[test]
fn what_comes_back_is_lent_again() {
    for mut memory in [memory(1 << 30), CPU.open(0).unwrap().memory] {
        let (mut pool, counters) = pool(1 << 30);
        let memory = &mut *memory;
        let first = pool.allocate(memory, 5_000).unwrap();
        let other = pool.allocate(memory, 5_000).unwrap();
        assert_ne!(first, other);
        memory.write(first, 16_383, &[7]).unwrap();
        assert!(memory.write(first, 16_384, &[7]).is_err(), "it is as large as its bucket");
        pool.deallocate(memory, first).unwrap();
        assert!(matches!(pool.deallocate(memory, first), Err(DeviceError::Stale { .. })));
        assert_eq!(pool.allocate(memory, 16_384).unwrap(), first);
        let small = pool.allocate(memory, 100).unwrap();
        assert!(![first, other].contains(&small), "another size is another buffer");
        assert_eq!(
            pool.stats(),
            PoolStats {
                allocations: 4,
                cache_hits: 1,
                cache_misses: 3,
                deallocations: 1,
                peak_memory: 2 * 16_384 + 4_096,
                bytes_from_gpu: 2 * 16_384 + 4_096,
                bytes_from_pool: 16_384,
            }
        );
        assert!((pool.stats().hit_rate() - 0.25).abs() < 1e-12);
        assert!((pool.stats().efficiency() - 16_384.0 / 53_248.0).abs() < 1e-12);
        let count = |count| counters.snapshot().get(Counter::Cache(Cache::BufferPool, count));
        assert_eq!(
            [CacheCount::Hits, CacheCount::Misses, CacheCount::Inserts].map(count),
            [1, 3, 1]
        );
        assert_eq!(counters.snapshot().get(Plain::Allocations), 3);
        pool.reset_stats();
        assert_eq!(pool.stats().hit_rate(), 0.0);
        assert_eq!(pool.stats().peak_memory, pool.allocated_bytes());
    }
}

#[test]
fn the_largest_wait_nowhere_and_of_the_rest_few() {
    let (mut pool, counters) = pool(1 << 30);
    let mut memory = memory(1 << 30);
    let large = pool.allocate(&mut *memory, 17 << 20).unwrap();
    pool.deallocate(&mut *memory, large).unwrap();
    assert_eq!(pool.allocated_bytes(), 0);
    assert!(memory.write(large, 0, &[0]).is_err(), "it is the device's again");
    let buffers: Vec<BufferId> =
        (0..6).map(|_| pool.allocate(&mut *memory, 4_096).unwrap()).collect();
    for buffer in buffers {
        pool.deallocate(&mut *memory, buffer).unwrap();
    }
    assert_eq!(pool.cached_buffers(), GpuMemoryPool::KEPT_PER_BUCKET_MAX);
    let evictions = Counter::Cache(Cache::BufferPool, CacheCount::Evictions);
    assert_eq!(counters.snapshot().get(evictions), 2);
    pool.prime(&mut *memory).unwrap();
    assert_eq!(pool.allocated_bytes(), GpuMemoryPool::KEPT_BYTES_MAX);
    pool.clear(&mut *memory).unwrap();
    assert_eq!([pool.allocated_bytes(), pool.idle_bytes()], [0, 0]);
}

#[test]
fn fragmentation_is_counted() {
    let (mut pool, counters) = pool(1 << 30);
    let mut memory = memory(1 << 30);
    let slack = || counters.snapshot().get(Plain::PoolSlackBytes);
    let buffer = pool.allocate(&mut *memory, 5_000).unwrap();
    assert_eq!([slack(), pool.idle_bytes()], [11_384, 11_384]);
    pool.deallocate(&mut *memory, buffer).unwrap();
    assert_eq!([slack(), pool.idle_bytes()], [0, 16_384]);
}

#[test]
fn a_limit_holds_and_what_waits_makes_room_first() {
    let (mut pool, _) = pool(40_000);
    let mut memory = memory(1 << 30);
    let buffer = pool.allocate(&mut *memory, 16_384).unwrap();
    pool.allocate(&mut *memory, 16_384).unwrap();
    assert_eq!(pool.available_bytes(), 40_000 - 2 * 16_384);
    let refused = pool.allocate(&mut *memory, 16_384);
    assert!(matches!(
        refused,
        Err(DeviceError::OutOfMemory { want_bytes: 16_384, left_bytes: 7_232 })
    ));
    pool.deallocate(&mut *memory, buffer).unwrap();
    // 16 KiB wait; they are freed for what would not fit beside them.
    for _ in 0..5 {
        pool.allocate(&mut *memory, 4_096).unwrap();
    }
    assert_eq!([pool.cached_buffers() as u64, pool.allocated_bytes()], [0, 36_864]);
    let half = GpuMemoryPool::with_default_limit(1 << 20, Arc::new(Counters::new()));
    assert_eq!(half.available_bytes(), 3 << 18);
}

#[test]
fn a_device_without_room_gets_back_what_waits() {
    let (mut pool, _) = pool(u64::MAX);
    let mut memory = memory(100_000);
    let buffer = pool.allocate(&mut *memory, 65_536).unwrap();
    pool.deallocate(&mut *memory, buffer).unwrap();
    assert_eq!(pool.cached_buffers(), 1);
    for _ in 0..5 {
        pool.allocate(&mut *memory, 16_384).unwrap();
    }
    assert_eq!(pool.cached_buffers(), 0, "it was freed for the others");
    assert!(matches!(
        pool.allocate(&mut *memory, 65_536),
        Err(DeviceError::OutOfMemory { want_bytes: 65_536, .. })
    ));
}

/// `state + x` in each run.
fn graph(rows: usize) -> CheckedGraph {
    let mut g = Graph::new();
    let ty = Type::new(DType::F32, &[rows, 64]);
    let (x, state) = (g.input("x", Role::Data, ty), g.input("state", Role::State, ty));
    let next = g.binary(Binary::Add, x, state).unwrap();
    g.state(state, next);
    g.output("y", next);
    g.check().unwrap()
}

fn program(build: &mut Build, lane: LaneId, rows: usize) -> ProgramId {
    let graph = graph(rows);
    let spec = ProgramSpec {
        label: "pooled",
        token_count_max: rows as u32,
        sequence_count_max: 1,
        lane,
        graph: &graph,
        source: None,
        choices: &Choices::default(),
        channels: &[],
    };
    build.program(&spec).unwrap()
}

/// What a program gives for ones.
fn run(build: &mut Build, program: ProgramId) -> Vec<u8> {
    let plan = build.plan(program).clone();
    let (x, y) = (plan.input_index("x").unwrap(), plan.output_index("y").unwrap());
    let mut out = vec![0; plan.buffers[y].size_bytes() as usize];
    let ones: Vec<u8> = (0..out.len() / 4).flat_map(|_| 1.0_f32.to_le_bytes()).collect();
    build.write(program, x, &ones).unwrap();
    build.run(program, &[], Duration::from_secs(10)).unwrap();
    build.read(program, y, &mut out).unwrap();
    out
}

#[test]
fn a_build_lends_states_and_boundaries_again_and_clean() {
    let counters = Arc::new(Counters::new());
    let device = CPU.open(0).unwrap();
    let mut build = Build::new(device, 1 << 30, counters.clone(), Arc::new(Null));
    let (lane, other) = (build.lane(), build.lane());
    let keeper = program(&mut build, other, 8);
    let first = program(&mut build, lane, 64);
    let want = run(&mut build, first);
    let twos = run(&mut build, first);
    assert_ne!(want, twos, "the state moved on");
    let scope = counters.scope();
    build.remove(first).unwrap();
    let second = program(&mut build, lane, 64);
    let hits = Counter::Cache(Cache::BufferPool, CacheCount::Hits);
    assert_eq!(scope.change().get(hits), 2, "state and boundary");
    assert_eq!(run(&mut build, second), want, "a state begins with zeros");
    assert!(0 < build.memory().pool_bytes);
    build.remove(second).unwrap();
    build.remove(keeper).unwrap();
    assert_eq!(build.memory().total_bytes(), 0, "the last one takes the pool along");
}
