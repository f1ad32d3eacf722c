//! Buffers, and the pinned memory through which bytes go in and out.

use std::ffi::c_void;
use std::sync::Arc;

use calor_device::{BufferId, DeviceError, Memory, Span};

use crate::api::{self, CUdeviceptr, CUevent, CUstream, Failed};
use crate::device::{Block, Handle, Shared, State};

/// Bytes of one pinned slot. Large enough that the copy engine stays busy while the host fills
/// the next one, and that threads which help pay for their start; pinning takes 0.7 ms a MiB.
const SLOT_BYTES: usize = 8 << 20;

/// Slots of the ring that goes in.
const SLOTS_IN: usize = 3;

/// Bytes that one thread copies into a slot.
const SHARE_BYTES: usize = 2 << 20;

/// The device's memory.
pub(crate) struct CudaMemory(pub(crate) Arc<Shared>);

impl Memory for CudaMemory {
    fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceError> {
        let mut state = self.0.enter()?;
        let left_bytes = self.0.limit_bytes.saturating_sub(state.used_bytes);
        if left_bytes < bytes {
            return Err(DeviceError::OutOfMemory { want_bytes: bytes, left_bytes });
        }
        let block = Block::new(bytes).map_err(|err| self.0.failed(&mut state, err, bytes))?;
        state.used_bytes += bytes;
        let index = state.buffers.insert(block);
        Ok(BufferId { index, generation: self.0.generation })
    }

    fn free(&mut self, buffer: BufferId) -> Result<(), DeviceError> {
        let mut state = self.0.enter()?;
        self.0.block(&state, buffer)?;
        // SAFETY: the stream is alive. Copies and runs in flight may still use the buffer.
        unsafe { api::synchronize(self.0.stream.raw()) }
            .map_err(|err| self.0.failed(&mut state, err, 0))?;
        if let Some(block) = state.buffers.remove(buffer.index) {
            state.used_bytes -= block.len;
        }
        Ok(())
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let mut state = self.0.enter()?;
        let span = Span { buffer, offset, len: bytes.len() as u64 };
        let to = self.place(&state, span)?;
        let stream = self.0.stream.raw();
        let State { staging, .. } = &mut *state;
        staging.write(to, bytes, stream).map_err(|err| self.0.failed(&mut state, err, 0))
    }

    fn read(&mut self, buffer: BufferId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        let mut state = self.0.enter()?;
        let span = Span { buffer, offset, len: out.len() as u64 };
        let from = self.place(&state, span)?;
        let stream = self.0.stream.raw();
        let State { staging, .. } = &mut *state;
        staging.read(from, out, stream).map_err(|err| self.0.failed(&mut state, err, 0))
    }
}

impl CudaMemory {
    /// Where a span lies; a span of no length is looked at as well.
    fn place(&self, state: &State, span: Span) -> Result<CUdeviceptr, DeviceError> {
        let block = self.0.block(state, span.buffer)?;
        if span.len == 0 && block.len < span.offset {
            let Span { offset, .. } = span;
            return Err(DeviceError::Span { offset, end: offset, len: block.len });
        }
        self.0.address(state, span)
    }
}

/// Pinned memory of one slot.
#[derive(Debug)]
struct Slot {
    at: Handle<*mut c_void>,
    /// Happened when the device has read what was last in it.
    free: Handle<CUevent>,
}

impl Slot {
    fn new() -> Result<Self, Failed> {
        let free = Handle(api::event(false)?);
        match api::alloc_pinned(SLOT_BYTES) {
            Ok(at) => Ok(Self { at: Handle(at), free }),
            Err(err) => {
                // SAFETY: nobody has seen the event.
                let _ = unsafe { api::drop_event(free.0) };
                Err(err)
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the device was waited for before its state is dropped.
        let _ = unsafe { api::free_pinned(self.at.0) };
        // SAFETY: as above.
        let _ = unsafe { api::drop_event(self.free.0) };
    }
}

/// Copies, by several threads where there is much. One thread alone is slower than the bus.
fn copy(from: &[u8], to: &mut [u8]) {
    if from.len() <= SHARE_BYTES {
        return to.copy_from_slice(from);
    }
    std::thread::scope(|scope| {
        let mut shares = to.chunks_mut(SHARE_BYTES).zip(from.chunks(SHARE_BYTES));
        let own = shares.next();
        for (to, from) in shares {
            scope.spawn(|| to.copy_from_slice(from));
        }
        if let Some((to, from)) = own {
            to.copy_from_slice(from);
        }
    });
}

/// The ways in and out. Bytes in are queued behind what the stream does; bytes out are waited for.
#[derive(Debug)]
pub(crate) struct Staging {
    ring: Vec<Slot>,
    current: usize,
    /// First byte of the current slot that was not handed out.
    used: usize,
    out: Slot,
}

impl Staging {
    pub(crate) fn new() -> Result<Self, Failed> {
        let ring = (0..SLOTS_IN).map(|_| Slot::new()).collect::<Result<_, _>>()?;
        Ok(Self { ring, current: 0, used: 0, out: Slot::new()? })
    }

    fn write(&mut self, to: CUdeviceptr, bytes: &[u8], stream: CUstream) -> Result<(), Failed> {
        let mut to = to;
        let mut bytes = bytes;
        while !bytes.is_empty() {
            if self.used == SLOT_BYTES {
                self.next_slot(stream)?;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(SLOT_BYTES - self.used));
            let slot = self.ring[self.current].at.0;
            // SAFETY: the slot has room behind `used`, which the device has not been told of.
            let place = unsafe { slot.byte_add(self.used) };
            // SAFETY: as above; nobody else sees this room.
            copy(now, unsafe { std::slice::from_raw_parts_mut(place.cast::<u8>(), now.len()) });
            // SAFETY: the place is not written again before the device has read it, and the
            // caller has checked the span behind `to`.
            unsafe { api::copy_in(to, place, now.len(), stream) }?;
            // The next bytes begin on a line of their own.
            self.used = (self.used + now.len()).next_multiple_of(64).min(SLOT_BYTES);
            to += now.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    fn next_slot(&mut self, stream: CUstream) -> Result<(), Failed> {
        // SAFETY: event and stream are alive.
        unsafe { api::record(self.ring[self.current].free.0, stream) }?;
        self.current = (self.current + 1) % self.ring.len();
        self.used = 0;
        // An event that was never recorded has happened.
        // SAFETY: the event is alive.
        while !unsafe { api::has_happened(self.ring[self.current].free.0) }? {
            std::thread::yield_now();
        }
        Ok(())
    }

    fn read(&mut self, from: CUdeviceptr, out: &mut [u8], stream: CUstream) -> Result<(), Failed> {
        for (index, part) in out.chunks_mut(SLOT_BYTES).enumerate() {
            let from = from + (index * SLOT_BYTES) as u64;
            let slot = self.out.at.0;
            // SAFETY: the slot has room for a part, and the caller has checked the span.
            unsafe { api::copy_out(slot, from, part.len(), stream) }?;
            // SAFETY: the stream is alive.
            unsafe { api::synchronize(stream) }?;
            // SAFETY: the copy has ended, so the bytes are there; the two do not overlap.
            unsafe {
                std::ptr::copy_nonoverlapping(slot.cast::<u8>(), part.as_mut_ptr(), part.len());
            }
        }
        Ok(())
    }
}

#[test]
fn a_copy_is_whole_however_many_share_it() {
    for len in [0, 1, SHARE_BYTES, 3 * SHARE_BYTES + 5] {
        let from: Vec<u8> = (0..len).map(|it| (it % 251) as u8).collect();
        let mut to = vec![0; len];
        copy(&from, &mut to);
        assert_eq!(to, from, "{len} bytes");
    }
}
