//! What the parts of an open device share: threads, buffers, code and programs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use calor_device::{DeviceError, Profile, Span};

use crate::code::Code;
use crate::memory::{Allocation, Budget};
use crate::queue::Program;
use crate::simd::Level;
use crate::threads::Pool;
use crate::vm::Buffer;

/// Kind of this device in signatures and errors.
pub(crate) const KIND: &str = "cpu";

/// One device.
pub(crate) struct Shared {
    pub(crate) pool: Pool,
    pub(crate) level: Level,
    pub(crate) arch: &'static str,
    pub(crate) generation: u32,
    pub(crate) budget: Arc<Budget>,
    pub(crate) profile: Option<Profile>,
    state: Mutex<State>,
}

/// What changes. Held for the length of a run, so that nobody writes what it reads.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) buffers: Slots<Arc<Allocation>>,
    pub(crate) codes: Slots<Arc<dyn Code>>,
    pub(crate) programs: Slots<Program>,
    /// What steps work in; they run one after another.
    pub(crate) scratch: Option<Allocation>,
    pub(crate) run_count: u64,
    /// Runs that failed and nobody has waited for.
    pub(crate) failed: Vec<(u64, DeviceError)>,
}

impl Shared {
    pub(crate) fn new(
        pool: Pool,
        level: Level,
        memory_bytes: u64,
        profile: Option<Profile>,
    ) -> Self {
        static NEXT_GENERATION: AtomicU32 = AtomicU32::new(1);
        Self {
            pool,
            level,
            arch: arch_of(level),
            generation: NEXT_GENERATION.fetch_add(1, Ordering::Relaxed),
            budget: Arc::new(Budget::new(memory_bytes)),
            profile,
            state: Mutex::default(),
        }
    }

    /// A panic inside a run is caught before the lock is given back, so the state is whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an id was given by this device.
    pub(crate) fn of_this(&self, generation: u32, what: &'static str) -> Result<(), DeviceError> {
        if generation == self.generation { Ok(()) } else { Err(DeviceError::Stale { what }) }
    }

    /// A span's bytes, and whose they are.
    pub(crate) fn piece(
        &self,
        state: &State,
        span: Span,
    ) -> Result<(Arc<Allocation>, Buffer), DeviceError> {
        self.of_this(span.buffer.generation, "buffer")?;
        let stale = DeviceError::Stale { what: "buffer" };
        let allocation = state.buffers.get(span.buffer.index).ok_or(stale)?;
        Ok((Arc::clone(allocation), allocation.piece(span.offset, span.len)?))
    }
}

/// The architecture that code is made for.
fn arch_of(level: Level) -> &'static str {
    match level {
        Level::Scalar(_) => "scalar",
        #[cfg(test)]
        Level::Wide(_) => "wide",
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => "x86-64-v3",
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) => "x86-64-v4",
    }
}

/// Things by a number that is never given twice.
pub(crate) struct Slots<T> {
    next: u32,
    things: HashMap<u32, T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { next: 0, things: HashMap::new() }
    }
}

impl<T> Slots<T> {
    pub(crate) fn insert(&mut self, thing: T) -> u32 {
        self.next += 1;
        self.things.insert(self.next, thing);
        self.next
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.things.get(&index)
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.things.get_mut(&index)
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        self.things.remove(&index)
    }
}
