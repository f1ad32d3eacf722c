//! The contract of a device: spans, stale ids, lack of memory, live words, targets of code.

use std::time::Duration;

use calor_device::{
    Artifact, BufferId, Device, DeviceError, Driver, Held, Memory, Span, Step, Word,
};
use calor_ir::DType;
use calor_kernel::{Access, Address, Arg, Instr, InstrOp, Level, LoopProgram, Reg, Store, Unit};

const DEADLINE: Duration = Duration::from_secs(30);

fn open(driver: &dyn Driver) -> Device {
    driver.open(0).unwrap_or_else(|err| panic!("the device does not open: {err}"))
}

#[track_caller]
fn ok<T>(result: Result<T, DeviceError>) -> T {
    result.unwrap_or_else(|err| panic!("{err}"))
}

fn whole(buffer: BufferId, len: u64) -> Span {
    Span { buffer, offset: 0, len }
}

/// Round trips, spans, stale ids and refusals of memory.
///
/// # Panics
/// When the device breaks the contract.
pub fn check_memory(driver: &dyn Driver) {
    let mut device = open(driver);
    let memory = &mut device.memory;
    let buffer = ok(memory.alloc(1000));
    let bytes: Vec<u8> = (0..1000_u32).map(|it| it as u8).collect();
    ok(memory.write(buffer, 0, &bytes));
    ok(memory.write(buffer, 10, &[7, 8, 9]));
    let mut out = vec![0; 5];
    ok(memory.read(buffer, 9, &mut out));
    assert_eq!(out, [9, 7, 8, 9, 13], "bytes come back as they were written");
    ok(memory.write(buffer, 1000, &[]));

    assert!(
        matches!(memory.write(buffer, 999, &[0; 2]), Err(DeviceError::Span { len: 1000, .. })),
        "a write past the end is refused"
    );
    assert!(
        matches!(memory.read(buffer, u64::MAX, &mut out), Err(DeviceError::Span { .. })),
        "an offset that overflows is refused"
    );
    let gone = ok(memory.alloc(16));
    ok(memory.free(gone));
    assert!(matches!(memory.free(gone), Err(DeviceError::Stale { .. })), "no second free");
    assert!(matches!(memory.write(gone, 0, &[1]), Err(DeviceError::Stale { .. })));
    assert!(matches!(memory.read(gone, 0, &mut out), Err(DeviceError::Stale { .. })));
    let other = ok(memory.alloc(16));
    assert_ne!(other, gone, "ids are not used twice");
    let older = BufferId { generation: other.generation.wrapping_sub(1), ..other };
    assert!(matches!(memory.write(older, 0, &[1]), Err(DeviceError::Stale { .. })));

    let want_bytes = 1 << 60;
    match memory.alloc(want_bytes) {
        Err(DeviceError::OutOfMemory { want_bytes: said, left_bytes }) => {
            assert_eq!(said, want_bytes);
            assert!(left_bytes < want_bytes);
        }
        other => panic!("an exbibyte is given: {other:?}"),
    }
    ok(memory.read(buffer, 0, &mut out));
    check_host_memory(&mut **memory);
}

/// Long and short parts of host memory that the device gave arrive, and the memory is the caller's
/// again once a write has returned.
fn check_host_memory(memory: &mut dyn Memory) {
    const COUNT: usize = 1 << 18;
    let mut host = ok(memory.host(COUNT));
    assert_eq!(host.len(), COUNT);
    let buffer = ok(memory.alloc(4 * COUNT as u64));
    for round in 0..4_u16 {
        for first in [3, COUNT - 5] {
            let values = (0..u16::MAX).cycle();
            host.iter_mut().zip(values).for_each(|(it, at)| *it = f32::from(at) + f32::from(round));
            let want: Vec<u8> = host[first..].iter().flat_map(|it| it.to_ne_bytes()).collect();
            ok(memory.write(buffer, 4 * first as u64, bytemuck::cast_slice(&host[first..])));
            host.fill(-1.0);
            let mut out = vec![0; want.len()];
            ok(memory.read(buffer, 4 * first as u64, &mut out));
            assert!(out == want, "round {round}: what was written from {first} on comes back");
        }
    }
}

/// Copies, fills, edges, and refusals of spans and stale ids.
///
/// # Panics
/// When the device breaks the contract.
pub fn check_queue(driver: &dyn Driver) {
    let mut device = open(driver);
    let (a, b) = (ok(device.memory.alloc(64)), ok(device.memory.alloc(64)));
    ok(device.memory.write(a, 0, &[1; 64]));
    let fill = |buffer, offset, len, byte| Step::Fill { to: Span { buffer, offset, len }, byte };
    let copy = |from, to| Step::Copy { from, to };
    let part = |buffer, offset, len| Span { buffer, offset, len };
    let steps = [
        fill(a, 8, 8, 5),
        copy(part(a, 0, 32), part(b, 32, 32)),
        fill(b, 0, 32, 9),
        copy(part(b, 24, 16), part(a, 48, 16)),
    ];
    let prepared = ok(device.queue.prepare(&steps, &[(0, 1), (1, 3), (2, 3)], None));
    for _ in 0..3 {
        let ticket = ok(device.queue.run(prepared));
        ok(device.queue.wait(ticket, DEADLINE));
    }
    let mut out = [0; 64];
    ok(device.memory.read(b, 0, &mut out));
    let row = |byte: u8, len: usize| vec![byte; len];
    assert_eq!(out.to_vec(), [row(9, 32), row(1, 8), row(5, 8), row(1, 16)].concat());
    ok(device.memory.read(a, 0, &mut out));
    assert_eq!(out[48..].to_vec(), [row(9, 8), row(1, 8)].concat());

    // Nobody waits: each write is behind the run before it, and the read behind all.
    let last = ok(device.queue.prepare(&[copy(part(a, 0, 32), part(b, 0, 32))], &[], None));
    for byte in [3, 4] {
        ok(device.memory.write(a, 0, &[byte; 32]));
        ok(device.queue.run(last));
        ok(device.memory.write(a, 0, &[7; 32]));
    }
    ok(device.memory.read(b, 0, &mut out));
    assert_eq!(out[..32].to_vec(), row(4, 32), "a write does not overtake a run");
    ok(device.compiler.release(Held::Prepared(last)));

    let refused = |device: &mut Device, steps: &[Step], edges: &[(u32, u32)]| {
        device.queue.prepare(steps, edges, None).is_err()
    };
    assert!(refused(&mut device, &[fill(a, 60, 8, 0)], &[]), "a span past the end");
    let uneven = copy(part(a, 0, 8), part(b, 0, 9));
    assert!(refused(&mut device, &[uneven], &[]), "a copy of other length");
    let two = [fill(a, 0, 1, 0), fill(a, 0, 1, 1)];
    assert!(refused(&mut device, &two, &[(1, 0)]), "an edge backwards");
    assert!(refused(&mut device, &two, &[(0, 2)]), "an edge to nowhere");
    ok(device.compiler.release(Held::Prepared(prepared)));
    assert!(
        matches!(device.queue.run(prepared), Err(DeviceError::Stale { .. })),
        "a released program does not run"
    );
    ok(device.memory.free(a));
    assert!(refused(&mut device, &[fill(a, 0, 1, 0)], &[]), "a freed buffer is not filled");
}

/// `out[row, lane] = in[row, lane] + 1` for as many rows as the first launch word says.
fn add_one(width: u32) -> LoopProgram {
    let address = |word| Address { word, lane_stride: 1, terms: Vec::new() };
    let dtype = DType::F32;
    let instr = |op, level| Instr { op, level, dtype };
    LoopProgram {
        rank: 1,
        width,
        args: vec![Arg { dtype, access: Access::Read }, Arg { dtype, access: Access::Write }],
        body: vec![
            instr(InstrOp::Load { arg: 0, address: address(1), guard: None }, Level::Lane),
            instr(InstrOp::Const(1.0), Level::Row),
            instr(InstrOp::Binary(calor_ir::Binary::Add, Reg(0), Reg(1)), Level::Lane),
        ],
        bounds: None,
        stores: vec![Store { arg: 1, address: address(4), value: Reg(2), add: false }],
        word_count: 7,
    }
}

/// A live word is read when a program runs: nothing past the live rows is written.
///
/// # Panics
/// When the device breaks the contract.
pub fn check_live_words(driver: &dyn Driver) {
    let (rows, width) = (6_u64, 4_u32);
    let bytes = rows * u64::from(width) * 4;
    let mut device = open(driver);
    let unit = Unit::Loop(add_one(width));
    let artifact = ok(device.compiler.compile(&unit, &calor_device::NoArtifacts)).artifact;
    let code = ok(device.compiler.load(&artifact));
    let (x, y) = (ok(device.memory.alloc(bytes)), ok(device.memory.alloc(bytes)));
    let live = ok(device.memory.alloc(16));
    let encode = |numbers: &[f64]| {
        let mut out = Vec::new();
        numbers.iter().for_each(|it| DType::F32.encode(*it, &mut out));
        out
    };
    let numbers: Vec<f64> = (0..rows * u64::from(width)).map(|it| it as f64).collect();
    ok(device.memory.write(x, 0, &encode(&numbers)));
    let stride = i64::from(width);
    let mut words = vec![Word::Live { count: 1, scale: 2, max: rows as i64 }];
    words.extend([0, stride, 0, 0, stride, 0].map(Word::Fixed));
    let step = Step::Launch { code, words, args: vec![whole(x, bytes), whole(y, bytes)] };
    let prepared = ok(device.queue.prepare(&[step], &[], Some(whole(live, 16))));
    for (count, rows_written) in [(0_u32, 0_usize), (1, 2), (2, 4), (3, 6), (u32::MAX, 6)] {
        ok(device.memory.write(y, 0, &vec![0; bytes as usize]));
        ok(device.memory.write(live, 4, &count.to_le_bytes()));
        let ticket = ok(device.queue.run(prepared));
        ok(device.queue.wait(ticket, DEADLINE));
        let mut out = vec![0; bytes as usize];
        ok(device.memory.read(y, 0, &mut out));
        let cut = rows_written * width as usize;
        let want = |(at, it): (usize, &f64)| if at < cut { it + 1.0 } else { 0.0 };
        let want: Vec<f64> = numbers.iter().enumerate().map(want).collect();
        assert_eq!(out, encode(&want), "rows for a live count of {count}");
    }
    ok(device.compiler.release(Held::Prepared(prepared)));
    ok(device.compiler.release(Held::Code(code)));
}

/// F-PTX-001: code for another target, or for none, is refused with both names, and before
/// anything looks at its bytes.
///
/// # Panics
/// When the device breaks the contract.
pub fn check_targets(driver: &dyn Driver) {
    let device = open(driver);
    let own = device.signature.arch.clone();
    let unit = Unit::Loop(add_one(4));
    let artifact = ok(device.compiler.compile(&unit, &calor_device::NoArtifacts)).artifact;
    assert_eq!(artifact.target, own, "code is compiled for the device");
    let cut = &own[..own.len() - 1];
    let others = ["", " ", "sm_80", "gfx942", cut, &format!("{own}a"), &format!("{own}\0")];
    for target in others.into_iter().filter(|it| *it != own) {
        // The second one is no code at all: who looks at its bytes says something else.
        for bytes in [artifact.bytes.clone(), vec![0; 3]] {
            let foreign = Artifact { target: target.into(), bytes };
            match device.compiler.load(&foreign) {
                Err(err @ DeviceError::WrongTarget { .. }) => {
                    let said = err.to_string();
                    let names = [format!("`{own}`"), format!("`{target}`")];
                    assert!(names.iter().all(|it| said.contains(it)), "both names: {said}");
                }
                other => panic!("code for `{target}` on `{own}`: {other:?}"),
            }
        }
    }
    let code = ok(device.compiler.load(&artifact));
    ok(device.compiler.release(Held::Code(code)));
}
