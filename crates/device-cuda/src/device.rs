//! What the parts of an open device share: a context, a stream, and tables of what is alive.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use calor_device::{BufferId, DeviceError, Span};

use crate::api::{self, CUcontext, CUdevice, CUdeviceptr, CUstream, Failed};
use crate::arch::Arch;
use crate::code::Code;
use crate::files::Files;
use crate::gemm::Blas;
use crate::library::Missing;
use crate::memory::Staging;
use crate::nvrtc::Nvrtc;
use crate::queue::{Program, Runs};
use crate::streams::Sides;

/// The kind of these devices.
pub(crate) const KIND: &str = "cuda";

/// A handle of the driver that any thread may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle<T>(pub(crate) T);

// SAFETY: handles of the driver name objects that it guards itself; a thread makes the context
// current before it uses one, and the tables' lock orders uses.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

/// The primary context of a GPU, given back when the last owner goes.
#[derive(Debug)]
pub(crate) struct Context {
    device: CUdevice,
    raw: Handle<CUcontext>,
}

impl Context {
    pub(crate) fn open(device: CUdevice) -> Result<Self, Failed> {
        let raw = Handle(api::retain_context(device)?);
        let context = Self { device, raw };
        context.enter()?;
        Ok(context)
    }

    pub(crate) fn raw(&self) -> Handle<CUcontext> {
        self.raw
    }

    /// Makes it the calling thread's.
    pub(crate) fn enter(&self) -> Result<(), Failed> {
        enter(self.raw)
    }
}

/// Makes a context the calling thread's. Its owner outlives the call.
pub(crate) fn enter(context: Handle<CUcontext>) -> Result<(), Failed> {
    api::enter(context.0)
}

impl Drop for Context {
    fn drop(&mut self) {
        // Nothing can be done where even this fails.
        let _ = api::release_context(self.device);
    }
}

/// Device memory; given back with the value.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) at: CUdeviceptr,
    pub(crate) len: u64,
}

impl Block {
    pub(crate) fn new(len: u64) -> Result<Self, Failed> {
        // The driver refuses nothing; a block of one byte stands for it.
        Ok(Self { at: api::alloc(len.max(1))?, len })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the block's owner has waited for whatever used it.
        let _ = unsafe { api::free(self.at) };
    }
}

/// Things by number; a number is not given twice.
#[derive(Debug)]
pub(crate) struct Table<T> {
    next: u32,
    rows: HashMap<u32, T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { next: 0, rows: HashMap::new() }
    }
}

impl<T> Table<T> {
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        let index = self.next;
        self.next += 1;
        self.rows.insert(index, value);
        index
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.rows.get(&index)
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.rows.get_mut(&index)
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        self.rows.remove(&index)
    }
}

/// What is alive on the device. Fields are dropped in order: programs before what they use.
pub(crate) struct State {
    pub(crate) programs: Table<Program>,
    pub(crate) runs: Runs,
    pub(crate) codes: Table<Arc<Code>>,
    pub(crate) sides: Sides,
    /// Memory of the library's own trials; gone once nothing compiles.
    pub(crate) trial: Option<Arc<Block>>,
    pub(crate) buffers: Table<Block>,
    pub(crate) used_bytes: u64,
    pub(crate) lost: Option<String>,
}

/// An open device.
pub(crate) struct Shared {
    // The state goes first: its parts need the context.
    state: Mutex<State>,
    /// Apart from the tables, so that code can be loaded while bytes are copied.
    staging: Mutex<Staging>,
    /// Where pinned memory lies that callers have.
    pinned: Mutex<Vec<Range<usize>>>,
    pub(crate) blas: Result<Blas, Missing>,
    pub(crate) nvrtc: Result<Nvrtc, Missing>,
    pub(crate) stream: Stream,
    /// Where the library's kernels run first, beside what the device's own stream does.
    pub(crate) loads: Stream,
    pub(crate) arch: Arch,
    /// The compiler that makes kernels here, or made the kept ones: part of their keys.
    pub(crate) producer: String,
    pub(crate) model: String,
    pub(crate) sm_count: u32,
    pub(crate) limit_bytes: u64,
    pub(crate) generation: u32,
    pub(crate) capture: bool,
    pub(crate) files: Files,
    pub(crate) context: Context,
}

/// A stream of its own; destroyed with the value.
#[derive(Debug)]
pub(crate) struct Stream(Handle<CUstream>);

impl Stream {
    /// A stream that waits for no other. The lower the priority's number, the more urgent.
    pub(crate) fn new(priority: i32) -> Result<Self, Failed> {
        Ok(Self(Handle(api::stream(priority)?)))
    }

    pub(crate) fn raw(&self) -> CUstream {
        self.0.0
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: nobody else has the stream.
        let _ = unsafe { api::drop_stream(self.raw()) };
    }
}

static GENERATION: AtomicU32 = AtomicU32::new(1);

/// What [`Shared::new`] is made of.
pub(crate) struct Parts {
    pub(crate) context: Context,
    pub(crate) stream: Stream,
    pub(crate) loads: Stream,
    pub(crate) arch: Arch,
    pub(crate) producer: String,
    pub(crate) model: String,
    pub(crate) sm_count: u32,
    pub(crate) limit_bytes: u64,
    pub(crate) nvrtc: Result<Nvrtc, Missing>,
    pub(crate) blas: Result<Blas, Missing>,
    pub(crate) capture: bool,
    pub(crate) files: Files,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Result<Self, Failed> {
        let Parts { context, stream, arch, producer, model, sm_count, limit_bytes, .. } = parts;
        let Parts { nvrtc, blas, capture, files, loads, .. } = parts;
        let state = State {
            programs: Table::default(),
            runs: Runs::new()?,
            codes: Table::default(),
            sides: Sides::default(),
            trial: None,
            buffers: Table::default(),
            used_bytes: 0,
            lost: None,
        };
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            state: Mutex::new(state),
            staging: Mutex::new(Staging::new()?),
            pinned: Mutex::default(),
            blas,
            nvrtc,
            stream,
            loads,
            arch,
            producer,
            model,
            sm_count,
            limit_bytes,
            generation,
            capture,
            files,
            context,
        })
    }

    /// The tables, with the context current in this thread.
    pub(crate) fn enter(&self) -> Result<MutexGuard<'_, State>, DeviceError> {
        let state = self.lock();
        if let Some(why) = &state.lost {
            return Err(DeviceError::Lost { kind: KIND, why: why.clone() });
        }
        self.context.enter()?;
        Ok(state)
    }

    /// The ways in and out. Whoever holds the tables does not ask for them.
    pub(crate) fn staging(&self) -> MutexGuard<'_, Staging> {
        // As for the tables.
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pinned(&self) -> MutexGuard<'_, Vec<Range<usize>>> {
        // As for the tables.
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the tables were held is a bug that left them as they were.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The typed form of a failure; one that ends the context is remembered.
    pub(crate) fn failed(&self, state: &mut State, failed: Failed, want_bytes: u64) -> DeviceError {
        if failed.is_out_of_memory() {
            let left_bytes = api::memory_info().map_or(0, |it| it.0);
            return DeviceError::OutOfMemory { want_bytes, left_bytes };
        }
        let why = failed.text();
        if failed.is_fatal() {
            state.lost = Some(why.clone());
        }
        DeviceError::Lost { kind: KIND, why }
    }

    /// Refuses ids of another opening.
    pub(crate) fn of_this(&self, generation: u32, what: &'static str) -> Result<(), DeviceError> {
        if generation == self.generation { Ok(()) } else { Err(DeviceError::Stale { what }) }
    }

    /// Where a span lies; null for one of no length.
    pub(crate) fn address(&self, state: &State, span: Span) -> Result<CUdeviceptr, DeviceError> {
        let Span { buffer, offset, len } = span;
        if len == 0 {
            return Ok(0);
        }
        let block = self.block(state, buffer)?;
        match offset.checked_add(len) {
            Some(end) if end <= block.len => Ok(block.at + offset),
            end => {
                let end = end.unwrap_or(u64::MAX);
                Err(DeviceError::Span { offset, end, len: block.len })
            }
        }
    }

    pub(crate) fn block<'a>(
        &self,
        state: &'a State,
        buffer: BufferId,
    ) -> Result<&'a Block, DeviceError> {
        self.of_this(buffer.generation, "buffer")?;
        state.buffers.get(buffer.index).ok_or(DeviceError::Stale { what: "buffer" })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            for stream in [&self.stream, &self.loads] {
                // SAFETY: the stream is alive. What was in flight must end before memory goes.
                let _ = unsafe { api::synchronize(stream.raw()) };
            }
        }
    }
}
