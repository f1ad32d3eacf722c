//! Device memory, pinned memory, and copies between them.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys;

use super::{CUdeviceptr, CUstream, Outcome, done};

/// Bytes that are free, and all.
pub(crate) fn memory_info() -> Outcome<(u64, u64)> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: the pointers are valid for writes.
    done(unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
    Ok((free as u64, total as u64))
}

pub(crate) fn alloc(bytes: u64) -> Outcome<CUdeviceptr> {
    let mut at = 0;
    // SAFETY: the pointer is valid for a write.
    done(unsafe { sys::cuMemAlloc_v2(&raw mut at, bytes as usize) })?;
    Ok(at)
}

/// # Safety
/// Nothing may use the memory any more.
pub(crate) unsafe fn free(at: CUdeviceptr) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuMemFree_v2(at) })
}

/// Pinned memory that the host reads and writes at full speed.
pub(crate) fn alloc_pinned(bytes: usize) -> Outcome<*mut c_void> {
    let mut at = ptr::null_mut();
    // SAFETY: the pointer is valid for a write.
    done(unsafe { sys::cuMemHostAlloc(&raw mut at, bytes, 0) })?;
    Ok(at)
}

/// # Safety
/// Nothing may use the memory any more.
pub(crate) unsafe fn free_pinned(at: *mut c_void) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuMemFreeHost(at) })
}

/// # Safety
/// `from` holds `bytes` bytes until the copy has ended, and `to` is device memory of that length.
pub(crate) unsafe fn copy_in(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, bytes, stream) })
}

/// # Safety
/// `to` has room for `bytes` bytes until the copy has ended, and `from` is device memory of that
/// length.
pub(crate) unsafe fn copy_out(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, bytes, stream) })
}

/// # Safety
/// Both are device memory of that length.
pub(crate) unsafe fn copy_on(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, stream) })
}

/// # Safety
/// `to` is device memory of that length.
pub(crate) unsafe fn fill(
    to: CUdeviceptr,
    byte: u8,
    bytes: usize,
    stream: CUstream,
) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuMemsetD8Async(to, byte, bytes, stream) })
}
