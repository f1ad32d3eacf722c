//! The interpreter against the reference, for every form, level and number of threads.

use calor_ir::DType;
use calor_kernel::examples::{self, Example};

use super::machine::Register;
use super::*;

const THREAD_COUNTS: [usize; 3] = [1, 2, 5];

/// Memory as the queue gives it: words of eight bytes, so that everything is aligned.
struct Bytes(Vec<u64>);

impl Bytes {
    fn of(dtype: DType, elements: &[f64]) -> Self {
        let mut bytes = Vec::new();
        elements.iter().for_each(|it| dtype.encode(*it, &mut bytes));
        let mut out = Self(vec![0; bytes.len().div_ceil(8)]);
        for (at, byte) in bytes.iter().enumerate() {
            out.0[at / 8] |= u64::from(*byte) << (at % 8 * 8);
        }
        out
    }

    fn buffer(&mut self, len_bytes: usize) -> Buffer {
        Buffer { start: self.0.as_mut_ptr().cast(), len_bytes }
    }

    fn elements(&self, dtype: DType, count: usize) -> Vec<f64> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|it| it.to_le_bytes()).collect();
        bytes.chunks_exact(dtype.size_bytes()).take(count).map(|it| dtype.decode(it)).collect()
    }
}

/// Each worker's registers and bytes.
struct Workers(Vec<(Vec<Register>, Vec<[u64; 8]>)>);

fn run(
    example: &Example,
    interpreted: &Interpreted,
    tape: &Tape,
    level: Level,
    thread_count: usize,
) -> Result<Vec<Vec<f64>>, TaskPanicked> {
    let pool = Pool::new(thread_count).unwrap();
    let mut memory: Vec<Bytes> = Vec::new();
    for (arg, elements) in example.program.args.iter().zip(&example.buffers) {
        memory.push(Bytes::of(arg.dtype, elements));
    }
    let args = example.program.args.iter().zip(&example.buffers);
    let buffers: Vec<Buffer> = memory
        .iter_mut()
        .zip(args.clone())
        .map(|(it, (arg, elements))| it.buffer(elements.len() * arg.dtype.size_bytes()))
        .collect();
    let nowhere = Register { at: std::ptr::null_mut(), step: 0 };
    // Scratch starts full of not-a-numbers, so that nothing relies on what it holds.
    let line = [u64::MAX; 8];
    let mut workers = Workers(Vec::new());
    for _ in 0..thread_count {
        let registers = vec![nowhere; interpreted.register_count()];
        workers.0.push((registers, vec![line; interpreted.scratch_bytes().div_ceil(64) + 1]));
    }
    let places: Vec<[usize; 2]> = workers
        .0
        .iter_mut()
        .map(|(registers, bytes)| {
            let bytes = bytes.as_mut_ptr().cast::<u8>();
            let bytes = bytes.wrapping_add(bytes.align_offset(64));
            [registers.as_mut_ptr().expose_provenance(), bytes.expose_provenance()]
        })
        .collect();
    let scratch = |worker_index: usize| WorkerScratch {
        registers: std::ptr::with_exposed_provenance_mut(places[worker_index][0]),
        bytes: std::ptr::with_exposed_provenance_mut(places[worker_index][1]),
    };
    // SAFETY: each worker has memory of its own and the buffers are this function's.
    unsafe { interpreted.run_tape(tape, &pool, level, &example.words, &buffers, &scratch)? };
    let results = memory.iter().zip(args);
    Ok(results.map(|(it, (arg, elements))| it.elements(arg.dtype, elements.len())).collect())
}

fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-9,
        DType::F32 => 2e-5,
        DType::F16 => 2e-3,
        DType::BF16 => 2e-2,
        DType::F8E4M3 => 0.13,
        DType::Bool | DType::U8 | DType::I8 | DType::I32 | DType::U32 | DType::I64 => 0.0,
    }
}

#[track_caller]
fn check(example: &Example) {
    let mut want = example.buffers.clone();
    calor_kernel::interpret(&example.program, &example.words, &mut want).unwrap();
    let interpreted = Interpreted::new(&example.program).unwrap();
    for (form, tape) in interpreted.tapes().enumerate() {
        for level in Level::available() {
            let mut first: Option<Vec<Vec<f64>>> = None;
            for thread_count in THREAD_COUNTS {
                let got = run(example, &interpreted, tape, level, thread_count).unwrap();
                let at = format!("{} form {form} {level:?}", example.name);
                for (arg, (got, want)) in example.program.args.iter().zip(got.iter().zip(&want)) {
                    // The reference adds long rows in order, which is less exact than here.
                    let more = f64::from(example.program.width.div_ceil(16));
                    close(&at, tolerance(arg.dtype) * more, got, want);
                }
                let bits = |all: &[Vec<f64>]| -> Vec<Vec<u64>> {
                    all.iter().map(|it| it.iter().map(|it| it.to_bits()).collect()).collect()
                };
                let first = first.get_or_insert_with(|| got.clone());
                assert_eq!(bits(first), bits(&got), "{at}: {thread_count} threads");
            }
        }
    }
}

fn close(at: &str, tolerance: f64, got: &[f64], want: &[f64]) {
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got == want || (got.is_nan() && want.is_nan());
        let near = (got - want).abs() <= tolerance * (1.0 + want.abs());
        assert!(same || near, "{at}: element {index} is {got}, not {want}");
    }
}

#[test]
fn examples() {
    for example in examples::all() {
        check(&example);
    }
}

/// The row examples again with other widths: one lane, part of a block, several tiles.
#[test]
fn other_widths() {
    for example in examples::all() {
        for width in [1, 2, 5, 16, 37, 64, 1000, 1024, 1025, 1500, 4099] {
            if let Some(example) = widened(&example, width) {
                check(&example);
            }
        }
    }
}

/// The example with rows of `width`, where its strides and buffers allow that: strides that were
/// the width follow it, and buffers hold as many rows as before.
fn widened(example: &Example, width: u32) -> Option<Example> {
    let mut out = example.clone();
    let (from, to) = (i64::from(example.program.width), i64::from(width));
    if from < 3 {
        return None; // Strides of one and two may mean something else.
    }
    out.program.width = width;
    for word in &mut out.words[usize::from(example.program.rank)..] {
        if *word % from == 0 {
            *word = *word / from * to;
        }
    }
    for (at, buffer) in out.buffers.iter_mut().enumerate() {
        let len = buffer.len();
        if len.is_multiple_of(from as usize) {
            let dtype = example.program.args[at].dtype;
            let number = |at: usize| dtype.round(((at * 37 + 11) % 101) as f64 / 25.0 - 2.0);
            *buffer = (0..len / from as usize * width as usize).map(number).collect();
        }
    }
    let mut tried = out.buffers.clone();
    calor_kernel::interpret(&out.program, &out.words, &mut tried).ok()?;
    Some(out)
}

#[test]
fn leaving_a_buffer_is_an_error() {
    for example in examples::all() {
        let interpreted = Interpreted::new(&example.program).unwrap();
        for arg in 0..example.buffers.len() {
            let mut short = example.clone();
            let len = short.buffers[arg].len() / 2;
            short.buffers[arg].truncate(len);
            let mut tried = short.buffers.clone();
            let outcome = calor_kernel::interpret(&short.program, &short.words, &mut tried);
            for tape in interpreted.tapes() {
                let got = run(&short, &interpreted, tape, Level::detect(), 2);
                assert_eq!(got.is_err(), outcome.is_err(), "{} argument {arg}", example.name);
            }
        }
    }
}
