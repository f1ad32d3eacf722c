//! Buffers, and the pinned memory through which bytes go in and out.

use std::ffi::c_void;
use std::fs::File;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use calor_device::{BufferId, DeviceError, FileRead, HostMemory, Memory, Span};

use crate::api::{self, CUdeviceptr, CUevent, CUstream, Failed};
use crate::device::{Block, Handle, Shared, State, enter};
use crate::files::Part;

/// Bytes of one pinned slot. Large enough that the copy engine stays busy while the host fills
/// the next one, and that threads which help pay for their start; pinning takes 0.7 ms a MiB.
const SLOT_BYTES: usize = 8 << 20;

/// Slots of the ring that goes in.
const SLOTS_IN: usize = 3;

/// Bytes that one thread copies into a slot.
const SHARE_BYTES: usize = 2 << 20;

/// Bytes of pinned memory that are read where they are; waiting for fewer costs more than a copy.
const DIRECT_BYTES_MIN: usize = 256 << 10;

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

    fn host(&mut self, count: usize) -> Result<Box<dyn HostMemory>, DeviceError> {
        let mut state = self.0.enter()?;
        // The driver refuses nothing.
        let at = api::alloc_pinned(4 * count.max(1))
            .map_err(|err| self.0.failed(&mut state, err, 4 * count as u64))?;
        drop(state);
        let at = at.cast::<f32>();
        // SAFETY: the block is as long, aligned to a page, and nobody else has it.
        unsafe { at.write_bytes(0, count) };
        self.0.pinned().push(at as usize..at as usize + 4 * count);
        Ok(Box::new(Pinned { at: Handle(at), count, shared: Arc::clone(&self.0) }))
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let span = Span { buffer, offset, len: bytes.len() as u64 };
        let to = self.place(&*self.0.enter()?, span)?;
        let stream = self.0.stream.raw();
        let written = if DIRECT_BYTES_MIN <= bytes.len() && self.is_pinned(bytes) {
            // SAFETY: the place holds the bytes until the stream has been waited for, and the
            // span was checked.
            let copied = unsafe { api::copy_in(to, bytes.as_ptr().cast(), bytes.len(), stream) };
            // SAFETY: the stream is alive.
            copied.and_then(|()| unsafe { api::synchronize(stream) })
        } else {
            self.0.staging().write(to, bytes, stream)
        };
        self.told(written)
    }

    fn read(&mut self, buffer: BufferId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        let span = Span { buffer, offset, len: out.len() as u64 };
        let from = self.place(&*self.0.enter()?, span)?;
        let read = self.0.staging().read(from, out, self.0.stream.raw());
        self.told(read)
    }

    fn reads_file(&self, file: &File, at: u64, len: u64) -> bool {
        self.0.files.are_for(file, at, len)
    }

    fn read_file(&mut self, file: &File, reads: &[FileRead]) -> Result<(), DeviceError> {
        let part = |it: &FileRead| {
            let to = self.place(&*self.0.enter()?, it.to)?;
            Ok(Part { at: it.at, to, len: it.to.len })
        };
        let parts = reads.iter().map(part).collect::<Result<Vec<Part>, DeviceError>>()?;
        // The library knows nothing of the stream's order.
        // SAFETY: the stream is alive.
        self.told(unsafe { api::synchronize(self.0.stream.raw()) })?;
        let context = self.0.context.raw();
        let enter = move || Ok(enter(context)?);
        // SAFETY: the spans were checked, the stream has ended, and buffers are given back through
        // this value alone.
        unsafe { self.0.files.read(file, &parts, &enter) }
    }
}

/// Pinned memory that a caller fills.
struct Pinned {
    at: Handle<*mut f32>,
    count: usize,
    shared: Arc<Shared>,
}

impl Deref for Pinned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the block is as long and was written, and it is this value's alone.
        unsafe { std::slice::from_raw_parts(self.at.0, self.count) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at.0, self.count) }
    }
}

impl HostMemory for Pinned {}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.shared.pinned().retain(|it| it.start != self.at.0 as usize);
        if self.shared.context.enter().is_ok() {
            // SAFETY: `write` has waited for whatever read it.
            let _ = unsafe { api::free_pinned(self.at.0.cast()) };
        }
    }
}

impl CudaMemory {
    /// Whether the device can read these bytes by itself.
    fn is_pinned(&self, bytes: &[u8]) -> bool {
        let Range { start, end } = bytes.as_ptr_range();
        let holds = |it: &Range<usize>| it.start <= start as usize && end as usize <= it.end;
        self.0.pinned().iter().any(holds)
    }

    /// What became of bytes on their way.
    fn told(&self, moved: Result<(), Failed>) -> Result<(), DeviceError> {
        moved.or_else(|err| {
            let mut state = self.0.enter()?;
            Err(self.0.failed(&mut state, err, 0))
        })
    }

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
