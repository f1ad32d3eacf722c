//! Loop programs: a native kernel where the program is one that we know, else the interpreter.

use calor_kernel::LoopProgram;

use super::{Code, Launch, Machine, NoCode, aligned};
use crate::native::Native;
use crate::threads::TaskPanicked;
use crate::vm::{Buffer, Interpreted, Register, WorkerScratch};

#[derive(Debug)]
struct LoopCode {
    interpreted: Interpreted,
    native: Option<Native>,
    rank: usize,
    word_count: usize,
    /// Bytes of an element of each argument.
    element_bytes: Vec<usize>,
}

pub(super) fn new(program: &LoopProgram) -> Result<Box<dyn Code>, NoCode> {
    program.check().map_err(|err| NoCode::Wrong(err.to_string()))?;
    let interpreted = Interpreted::new(program)
        .map_err(|err| NoCode::Unsupported(format!("{} on {}", err.what, err.dtype)))?;
    Ok(Box::new(LoopCode {
        interpreted,
        native: Native::of(program),
        rank: usize::from(program.rank),
        word_count: program.word_count as usize,
        element_bytes: program.args.iter().map(|it| it.dtype.size_bytes()).collect(),
    }))
}

impl LoopCode {
    fn worker_bytes(&self) -> usize {
        let registers = self.interpreted.register_count() * size_of::<Register>();
        registers.next_multiple_of(64) + self.interpreted.scratch_bytes().next_multiple_of(64)
    }
}

impl Code for LoopCode {
    fn check(&self, words: &[i64], buffers: &[Buffer]) -> Result<(), &'static str> {
        if words.len() != self.word_count {
            return Err("the words are not those of the loop program");
        }
        if words[..self.rank].iter().any(|it| *it < 0) {
            return Err("an extent is negative");
        }
        if buffers.len() != self.element_bytes.len() {
            return Err("the arguments are not those of the loop program");
        }
        if !buffers.iter().zip(&self.element_bytes).all(|(it, bytes)| aligned(it, *bytes)) {
            return Err("an argument does not start on an element");
        }
        Ok(())
    }

    fn scratch_bytes(&self, machine: Machine, _words: &[i64]) -> usize {
        machine.thread_count * self.worker_bytes()
    }

    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), TaskPanicked> {
        let Launch { pool, level, words, buffers, scratch } = launch;
        if let Some(native) = &self.native {
            // SAFETY: the caller's promise.
            if let Some(outcome) = unsafe { native.run(launch) } {
                return outcome;
            }
        }
        let each = self.worker_bytes();
        assert!(each * pool.thread_count() <= scratch.len_bytes, "scratch is too short");
        let start = SharedScratch(scratch.start);
        let registers_bytes =
            (self.interpreted.register_count() * size_of::<Register>()).next_multiple_of(64);
        let of_worker = |worker_index: usize| {
            let start = start.at(worker_index * each);
            WorkerScratch { registers: start.cast(), bytes: start.wrapping_add(registers_bytes) }
        };
        // SAFETY: each worker has a part of the scratch; the rest is the caller's promise.
        unsafe { self.interpreted.run(pool, *level, words, buffers, &of_worker) }
    }
}

/// Scratch that workers cut their own parts from.
struct SharedScratch(*mut u8);

// SAFETY: it is an address; the parts that workers take are disjoint.
unsafe impl Sync for SharedScratch {}

impl SharedScratch {
    fn at(&self, offset: usize) -> *mut u8 {
        self.0.wrapping_add(offset)
    }
}
