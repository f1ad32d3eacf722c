//! Modules, functions, launches, and matrices for the copy engine.

use std::ffi::{CStr, c_void};
use std::ptr;

use cudarc::driver::sys::{self, CUresult};

use super::{
    CUdeviceptr, CUfunction, CUmodule, CUstream, Failed, FunctionAttribute, Outcome, done,
};

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
