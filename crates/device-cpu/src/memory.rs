//! Buffers: zeroed when new, aligned to 256 bytes, shared between the device's parts.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use calor_device::{BufferId, DeviceError, FileRead, HostMemory, Memory, Span, plain_host_memory};

use crate::device::Shared;
use crate::vm::Buffer;

/// What every buffer starts on.
pub const ALIGN_BYTES: usize = 256;

/// What the system's allocator gives at least; asking it for more makes it write the zeros.
const SYSTEM_ALIGN_BYTES: usize = 16;

/// Bytes in use, against a limit.
#[derive(Debug)]
pub(crate) struct Budget {
    used_bytes: AtomicU64,
    limit_bytes: u64,
}

impl Budget {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { used_bytes: AtomicU64::new(0), limit_bytes }
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    fn take(&self, bytes: u64) -> Result<(), DeviceError> {
        let add = |used: u64| used.checked_add(bytes).filter(|it| *it <= self.limit_bytes);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        match self.used_bytes.fetch_update(set, fetch, add) {
            Ok(_) => Ok(()),
            Err(used) => Err(DeviceError::OutOfMemory {
                want_bytes: bytes,
                left_bytes: self.limit_bytes - used,
            }),
        }
    }
}

/// Memory of one buffer; given back when the last program that uses it is gone.
#[derive(Debug)]
pub(crate) struct Allocation {
    block: *mut u8,
    layout: Layout,
    start: *mut u8,
    len_bytes: usize,
    budget: Arc<Budget>,
}

// SAFETY: it owns its memory, as a box does.
unsafe impl Send for Allocation {}
// SAFETY: sharing it gives addresses only; who reads and writes through them holds the device's
// lock.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// Zeroed memory.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] when the budget or the system has no more.
    pub(crate) fn new(bytes: u64, budget: &Arc<Budget>) -> Result<Self, DeviceError> {
        budget.take(bytes)?;
        let none_left = || {
            budget.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
            DeviceError::OutOfMemory { want_bytes: bytes, left_bytes: 0 }
        };
        let len_bytes = usize::try_from(bytes).map_err(|_| none_left())?;
        let layout = len_bytes
            .checked_add(ALIGN_BYTES)
            .and_then(|it| Layout::from_size_align(it, SYSTEM_ALIGN_BYTES).ok())
            .ok_or_else(none_left)?;
        // SAFETY: the layout has a size.
        let block = unsafe { alloc_zeroed(layout) };
        if block.is_null() {
            return Err(none_left());
        }
        let start = block.wrapping_add(block.align_offset(ALIGN_BYTES));
        Ok(Self { block, layout, start, len_bytes, budget: Arc::clone(budget) })
    }

    /// The whole of it.
    pub(crate) fn buffer(&self) -> Buffer {
        Buffer { start: self.start, len_bytes: self.len_bytes }
    }

    /// A piece of it.
    ///
    /// # Errors
    /// [`DeviceError::Span`] when the piece is not inside.
    pub(crate) fn piece(&self, offset: u64, len: u64) -> Result<Buffer, DeviceError> {
        let whole = self.len_bytes as u64;
        match offset.checked_add(len) {
            Some(end) if end <= whole => Ok(Buffer {
                start: self.start.wrapping_add(offset as usize),
                len_bytes: len as usize,
            }),
            end => Err(DeviceError::Span { offset, end: end.unwrap_or(u64::MAX), len: whole }),
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout.
        unsafe { dealloc(self.block, self.layout) };
        self.budget.used_bytes.fetch_sub(self.len_bytes as u64, Ordering::Relaxed);
    }
}

/// The device's memory.
pub(crate) struct CpuMemory(pub(crate) Arc<Shared>);

impl Memory for CpuMemory {
    fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceError> {
        let allocation = Arc::new(Allocation::new(bytes, &self.0.budget)?);
        let mut state = self.0.lock();
        let index = state.buffers.insert(allocation);
        Ok(BufferId { index, generation: self.0.generation })
    }

    fn free(&mut self, buffer: BufferId) -> Result<(), DeviceError> {
        let mut state = self.0.lock();
        self.0.of_this(buffer.generation, "buffer")?;
        state.buffers.remove(buffer.index).ok_or(DeviceError::Stale { what: "buffer" })?;
        Ok(())
    }

    fn host(&mut self, count: usize) -> Result<Box<dyn HostMemory>, DeviceError> {
        Ok(plain_host_memory(count))
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let state = self.0.lock();
        let span = Span { buffer, offset, len: bytes.len() as u64 };
        let (_, piece) = self.0.piece(&state, span)?;
        // SAFETY: the piece is inside its buffer, which no run uses while the lock is held.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), piece.start, bytes.len()) };
        Ok(())
    }

    fn read(&mut self, buffer: BufferId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        let state = self.0.lock();
        let span = Span { buffer, offset, len: out.len() as u64 };
        let (_, piece) = self.0.piece(&state, span)?;
        // SAFETY: the piece is inside its buffer, which no run writes while the lock is held.
        unsafe { std::ptr::copy_nonoverlapping(piece.start, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    fn reads_file(&self, _file: &File, _at: u64, _len: u64) -> bool {
        // Its memory is the host's.
        false
    }

    fn read_file(&mut self, _file: &File, _reads: &[FileRead]) -> Result<(), DeviceError> {
        Err(DeviceError::File { kind: "cpu", why: "its memory is the host's".into() })
    }
}
