//! The driver's interface as small functions that give typed errors.
//!
//! Everything that the bindings could panic about is looked up first by [`load`].

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use calor_device::DeviceError;
use cudarc::driver::sys::{self, CUresult};

pub(crate) use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute as Attribute, CUdeviceptr, CUevent, CUfunction,
    CUfunction_attribute as FunctionAttribute, CUgraph, CUgraphExec, CUmodule, CUstream,
};

use crate::device::KIND;

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
pub(crate) fn load() -> Result<(), String> {
    // SAFETY: the library was found before; asking for it again opens no other one.
    let library = unsafe {
        if !sys::is_culib_present() {
            return Err("libcuda is not found by its bare name".into());
        }
        sys::culib()
    };
    for symbol in SYMBOLS {
        // SAFETY: the symbol is only looked up, not called.
        let found = unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) };
        if found.is_err() {
            return Err(format!("the driver is too old: it has no {symbol}"));
        }
    }
    // SAFETY: the first call into the driver; the flags must be 0.
    done(unsafe { sys::cuInit(0) }).map_err(Failed::text)
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

pub(crate) fn stream(priority: i32) -> Outcome<CUstream> {
    let mut stream = ptr::null_mut();
    let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
    // SAFETY: the pointer is valid for a write.
    done(unsafe { sys::cuStreamCreateWithPriority(&raw mut stream, flags, priority) })?;
    Ok(stream)
}

/// # Safety
/// The stream is alive and not used any more.
pub(crate) unsafe fn drop_stream(stream: CUstream) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuStreamDestroy_v2(stream) })
}

/// # Safety
/// The stream is alive.
pub(crate) unsafe fn synchronize(stream: CUstream) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuStreamSynchronize(stream) })
}

/// # Safety
/// The stream is alive. The same thread ends the capture.
pub(crate) unsafe fn begin_capture(stream: CUstream) -> Outcome<()> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuStreamBeginCapture_v2(stream, mode) })
}

/// # Safety
/// The stream is being captured by this thread.
pub(crate) unsafe fn end_capture(stream: CUstream) -> Outcome<CUgraph> {
    let mut graph = ptr::null_mut();
    // SAFETY: the caller's promise; the pointer is valid for a write.
    done(unsafe { sys::cuStreamEndCapture(stream, &raw mut graph) })?;
    Ok(graph)
}

/// # Safety
/// The graph is alive.
pub(crate) unsafe fn instantiate(graph: CUgraph) -> Outcome<CUgraphExec> {
    let mut exec = ptr::null_mut();
    // SAFETY: the caller's promise; the pointer is valid for a write.
    done(unsafe { sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0) })?;
    Ok(exec)
}

/// # Safety
/// The graph is alive and not used any more.
pub(crate) unsafe fn drop_graph(graph: CUgraph) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuGraphDestroy(graph) })
}

/// # Safety
/// The graph is alive and not in flight.
pub(crate) unsafe fn drop_exec(exec: CUgraphExec) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuGraphExecDestroy(exec) })
}

/// # Safety
/// Graph and stream are alive.
pub(crate) unsafe fn upload(exec: CUgraphExec, stream: CUstream) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuGraphUpload(exec, stream) })
}

/// # Safety
/// Graph and stream are alive, and so is everything that the graph touches until it has run.
pub(crate) unsafe fn launch_graph(exec: CUgraphExec, stream: CUstream) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuGraphLaunch(exec, stream) })
}

/// An event; with times, or cheaper without.
pub(crate) fn event(timed: bool) -> Outcome<CUevent> {
    let mut event = ptr::null_mut();
    let flags = match timed {
        true => sys::CUevent_flags_enum::CU_EVENT_DEFAULT,
        false => sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING,
    };
    // SAFETY: the pointer is valid for a write.
    done(unsafe { sys::cuEventCreate(&raw mut event, flags as u32) })?;
    Ok(event)
}

/// # Safety
/// The event is alive and not used any more.
pub(crate) unsafe fn drop_event(event: CUevent) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuEventDestroy_v2(event) })
}

/// # Safety
/// Both are alive.
pub(crate) unsafe fn record(event: CUevent, stream: CUstream) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuEventRecord(event, stream) })
}

/// Whether an event has happened.
///
/// # Safety
/// The event is alive.
pub(crate) unsafe fn has_happened(event: CUevent) -> Outcome<bool> {
    // SAFETY: the caller's promise.
    match done(unsafe { sys::cuEventQuery(event) }) {
        Ok(()) => Ok(true),
        Err(Failed(CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
        Err(failed) => Err(failed),
    }
}

/// Milliseconds between two events.
///
/// # Safety
/// Both are alive, have times and have happened.
pub(crate) unsafe fn elapsed_ms(from: CUevent, to: CUevent) -> Outcome<f32> {
    type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
    static ELAPSED: OnceLock<Option<Elapsed>> = OnceLock::new();
    // The bindings have only a newer name, which drivers before 12.8 do not know.
    let found = ELAPSED.get_or_init(|| {
        // SAFETY: the function has had this type in every driver.
        let symbol = unsafe { sys::culib().get::<Elapsed>(b"cuEventElapsedTime") };
        symbol.ok().map(|it| *it)
    });
    let elapsed = found.ok_or(Failed(CUresult::CUDA_ERROR_NOT_SUPPORTED))?;
    let mut ms = 0.0;
    // SAFETY: the caller's promise; the pointer is valid for a write.
    done(unsafe { elapsed(&raw mut ms, from, to) })?;
    Ok(ms)
}

/// # Safety
/// `image` is a whole ELF image: the driver takes no length.
pub(crate) unsafe fn load_module(image: &[u8]) -> Outcome<CUmodule> {
    let mut module = ptr::null_mut();
    // SAFETY: the caller's promise; the pointer is valid for a write.
    done(unsafe { sys::cuModuleLoadData(&raw mut module, image.as_ptr().cast()) })?;
    Ok(module)
}

/// # Safety
/// No function of it is used any more, by no graph either.
pub(crate) unsafe fn unload_module(module: CUmodule) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuModuleUnload(module) })
}

/// # Safety
/// The module is alive as long as the function is used.
pub(crate) unsafe fn function(module: CUmodule, entry: &CStr) -> Outcome<CUfunction> {
    let mut function = ptr::null_mut();
    // SAFETY: the caller's promise; the pointer is valid for a write.
    done(unsafe { sys::cuModuleGetFunction(&raw mut function, module, entry.as_ptr()) })?;
    Ok(function)
}

/// # Safety
/// The function is alive.
pub(crate) unsafe fn set_function(
    function: CUfunction,
    attribute: FunctionAttribute,
    value: i32,
) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuFuncSetAttribute(function, attribute, value) })
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaunchShape {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    /// May begin before the kernel in front of it has ended; it waits itself where it must.
    pub(crate) dependent: bool,
    /// Blocks of a cluster along x; 1 for none.
    pub(crate) cluster: u32,
}

/// # Safety
/// `params` points to one value for each parameter of the function, of its type; the buffers
/// that they name live until the kernel has ended.
pub(crate) unsafe fn launch(
    function: CUfunction,
    shape: &LaunchShape,
    params: &mut [*mut c_void],
    stream: CUstream,
) -> Outcome<()> {
    let mut attributes: [sys::CUlaunchAttribute; 2] =
        // SAFETY: a plain C structure of integers; zero is a value of each.
        unsafe { std::mem::zeroed() };
    let mut count = 0;
    if shape.dependent {
        let it = &mut attributes[count];
        it.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        it.value.programmaticStreamSerializationAllowed = 1;
        count += 1;
    }
    if 1 < shape.cluster {
        let it = &mut attributes[count];
        it.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        let dims = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: shape.cluster, y: 1, z: 1 };
        it.value.clusterDim = dims;
        count += 1;
    }
    let config = sys::CUlaunchConfig {
        gridDimX: shape.grid[0],
        gridDimY: shape.grid[1],
        gridDimZ: shape.grid[2],
        blockDimX: shape.block[0],
        blockDimY: shape.block[1],
        blockDimZ: shape.block[2],
        sharedMemBytes: shape.shared_bytes,
        hStream: stream,
        attrs: attributes.as_mut_ptr(),
        numAttrs: count as u32,
    };
    // SAFETY: the caller's promise; the attributes outlive the call.
    done(unsafe {
        sys::cuLaunchKernelEx(&raw const config, function, params.as_mut_ptr(), ptr::null_mut())
    })
}

/// A type that the copy engine moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapElement {
    F16,
    Bf16,
    Byte,
}

/// A matrix for the copy engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub(crate) at: CUdeviceptr,
    pub(crate) element: MapElement,
    pub(crate) cols: u64,
    pub(crate) rows: u64,
    pub(crate) stride_bytes: u64,
    pub(crate) tile: [u32; 2],
    pub(crate) promoted: bool,
}

/// What the driver makes of a matrix; passed to kernels by value.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorMap([u64; 16]);

/// Encodes a matrix of rank 2 with lines of 128 bytes swizzled and zeros outside.
pub(crate) fn tensor_map(matrix: &Matrix) -> Outcome<TensorMap> {
    use sys::CUtensorMapDataType as Data;
    use sys::CUtensorMapL2promotion as Promotion;
    // SAFETY: the symbol is only looked up, not called.
    let known = unsafe { sys::culib().get::<unsafe extern "C" fn()>(b"cuTensorMapEncodeTiled") };
    if known.is_err() {
        return Err(Failed(CUresult::CUDA_ERROR_NOT_SUPPORTED));
    }
    let data = match matrix.element {
        MapElement::F16 => Data::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        MapElement::Bf16 => Data::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        MapElement::Byte => Data::CU_TENSOR_MAP_DATA_TYPE_UINT8,
    };
    let promotion = match matrix.promoted {
        true => Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        false => Promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
    };
    let mut map = TensorMap([0; 16]);
    let extents = [matrix.cols, matrix.rows];
    let strides = [matrix.stride_bytes];
    let steps = [1_u32, 1];
    // SAFETY: the map is 128 bytes aligned to 64, and the arrays are of rank 2 and 1; the address
    // is only stored.
    done(unsafe {
        sys::cuTensorMapEncodeTiled(
            (&raw mut map).cast(),
            data,
            2,
            matrix.at as *mut c_void,
            extents.as_ptr(),
            strides.as_ptr(),
            matrix.tile.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            promotion,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    })?;
    Ok(map)
}
