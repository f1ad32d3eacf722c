//! The driver's interface as small functions that give typed errors.
//!
//! Everything that the bindings could panic about is looked up first by [`load`].

mod graph;
mod kernel;
mod memory;

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use calor_device::DeviceError;
use cudarc::driver::sys::{self, CUresult};

pub(crate) use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute as Attribute, CUdeviceptr, CUevent, CUfunction,
    CUfunction_attribute as FunctionAttribute, CUgraph, CUgraphExec, CUmodule, CUstream,
};

use crate::device::KIND;
use crate::library::Missing;

pub(crate) use graph::*;
pub(crate) use kernel::*;
pub(crate) use memory::*;

/// Functions that are called here; all are in drivers since CUDA 12.
const SYMBOLS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuStreamCreateWithPriority",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuCtxGetStreamPriorityRange",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
    "cuGraphUpload",
    "cuGraphLaunch",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventElapsedTime",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernelEx",
];

/// A failed call of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed(pub(crate) CUresult);

pub(crate) type Outcome<T> = Result<T, Failed>;

impl Failed {
    /// The driver's own name and sentence.
    pub(crate) fn text(self) -> String {
        let text = |get: unsafe fn(CUresult, *mut *const c_char) -> CUresult| {
            let mut said: *const c_char = ptr::null();
            // SAFETY: the driver writes a pointer to a static string, or null.
            let status = unsafe { get(self.0, &raw mut said) };
            if status != CUresult::CUDA_SUCCESS || said.is_null() {
                return format!("{:?}", self.0);
            }
            // SAFETY: it is one of the driver's static strings.
            unsafe { CStr::from_ptr(said) }.to_string_lossy().into_owned()
        };
        format!("{}: {}", text(sys::cuGetErrorName), text(sys::cuGetErrorString))
    }

    /// Whether nothing on this context can go on.
    pub(crate) fn is_fatal(self) -> bool {
        matches!(
            self.0,
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
                | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
                | CUresult::CUDA_ERROR_ASSERT
                | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
                | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
                | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
                | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
                | CUresult::CUDA_ERROR_INVALID_PC
                | CUresult::CUDA_ERROR_LAUNCH_FAILED
                | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
                | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
                | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
                | CUresult::CUDA_ERROR_DEINITIALIZED
                | CUresult::CUDA_ERROR_EXTERNAL_DEVICE
                | CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE
                | CUresult::CUDA_ERROR_UNKNOWN
        )
    }

    /// Whether an image cannot be used here.
    pub(crate) fn is_image(self) -> bool {
        matches!(
            self.0,
            CUresult::CUDA_ERROR_INVALID_IMAGE
                | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
                | CUresult::CUDA_ERROR_INVALID_PTX
                | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
                | CUresult::CUDA_ERROR_NOT_FOUND
        )
    }

    pub(crate) fn is_out_of_memory(self) -> bool {
        self.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
    }
}

impl From<Failed> for DeviceError {
    fn from(failed: Failed) -> Self {
        Self::Lost { kind: KIND, why: failed.text() }
    }
}

fn done(status: CUresult) -> Outcome<()> {
    if status == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(Failed(status)) }
}

/// Looks up every function and starts the driver.
pub(crate) fn load() -> Result<(), Missing> {
    // SAFETY: the library was found before; asking for it again opens no other one.
    let library = unsafe {
        if !sys::is_culib_present() {
            return Err(Missing::Nameless);
        }
        sys::culib()
    };
    for symbol in SYMBOLS {
        // SAFETY: the symbol is only looked up, not called.
        let found = unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) };
        if found.is_err() {
            return Err(Missing::TooOld { symbol });
        }
    }
    // SAFETY: the first call into the driver; the flags must be 0.
    done(unsafe { sys::cuInit(0) }).map_err(|err| Missing::Refused { status: err.text() })
}

/// The CUDA version that the driver supports, as in 13000.
pub(crate) fn version() -> Outcome<i32> {
    let mut version = 0;
    // SAFETY: the pointer is valid for a write.
    done(unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
    Ok(version)
}

pub(crate) fn device_count() -> Outcome<usize> {
    let mut count = 0;
    // SAFETY: the pointer is valid for a write.
    match done(unsafe { sys::cuDeviceGetCount(&raw mut count) }) {
        Err(Failed(CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
        other => other.map(|()| usize::try_from(count).unwrap_or(0)),
    }
}

pub(crate) fn device(ordinal: usize) -> Outcome<CUdevice> {
    let mut device = 0;
    let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
    // SAFETY: the pointer is valid for a write.
    done(unsafe { sys::cuDeviceGet(&raw mut device, ordinal) })?;
    Ok(device)
}

pub(crate) fn device_name(device: CUdevice) -> Outcome<String> {
    let mut name = [0 as c_char; 256];
    // SAFETY: the buffer is as long as said, and the driver ends the name with NUL.
    done(unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 255, device) })?;
    // SAFETY: the last byte is still NUL.
    Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}

pub(crate) fn device_attribute(device: CUdevice, attribute: Attribute) -> Outcome<i32> {
    let mut value = 0;
    // SAFETY: the pointer is valid for a write.
    done(unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) })?;
    Ok(value)
}

pub(crate) fn retain_context(device: CUdevice) -> Outcome<CUcontext> {
    let mut context = ptr::null_mut();
    // SAFETY: the pointer is valid for a write.
    done(unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) })?;
    Ok(context)
}

pub(crate) fn release_context(device: CUdevice) -> Outcome<()> {
    // SAFETY: the caller retained it once and uses nothing of it any more.
    done(unsafe { sys::cuDevicePrimaryCtxRelease_v2(device) })
}

pub(crate) fn enter(context: CUcontext) -> Outcome<()> {
    // SAFETY: the context is retained as long as its owner lives.
    done(unsafe { sys::cuCtxSetCurrent(context) })
}
