//! Products by cuBLASLt: algorithms chosen by measurement once, kept, and bound without asking.
//!
//! The library's matrices are column-major, so `C [m, n] = A [m, k] · Wᵀ` is asked for as
//! `Cᵀ [n, m] = W [n, k] · Aᵀ`, which is the form that every type has.

mod library;
mod product;
mod trial;

use calor_device::{Artifact, ArtifactKey, ArtifactKind, Artifacts, Compiled, DeviceError};
use calor_ir::DType;
use calor_kernel::{Activation, Call, Unit};
use cudarc::cublaslt::sys;

use crate::compile;
use crate::device::{KIND, Shared};
use crate::sources::{self, NoKernel};

pub(crate) use library::{Blas, workspace_bytes};
pub(crate) use product::{BoundProduct, Product, load};
use trial::choose;

/// What an artifact of a product starts with; the last digit counts formats.
const FORMAT: &[u8; 8] = b"calcub01";

/// A product as the library sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    rows: u32,
    n: u32,
    k: u32,
    dtype: DType,
    tf32: bool,
    bias: bool,
    activation: Activation,
    residual: bool,
}

impl Shape {
    fn of(call: &Call) -> Option<Self> {
        match *call {
            Call::Gemm { rows, n, k, dtype, tf32, bias, activation, residual, packed: false } => {
                Some(Self { rows, n, k, dtype, tf32, bias, activation, residual })
            }
            Call::Gemm { .. } | Call::Pack { .. } => None,
        }
    }

    /// Whether the library applies the activation itself: before a residual it cannot.
    fn activates(&self) -> bool {
        match self.activation {
            Activation::None => true,
            Activation::Relu | Activation::GeluTanh => !self.residual,
            Activation::Gelu | Activation::QuickGelu | Activation::Silu | Activation::Tanh => false,
        }
    }

    /// Whether the library adds the residual.
    fn adds(&self) -> bool {
        self.residual && self.activation == Activation::None
    }

    fn epilogue(&self) -> sys::cublasLtEpilogue_t {
        use sys::cublasLtEpilogue_t as E;
        let activation = if self.activates() { self.activation } else { Activation::None };
        match (activation, self.bias) {
            (Activation::Relu, false) => E::CUBLASLT_EPILOGUE_RELU,
            (Activation::Relu, true) => E::CUBLASLT_EPILOGUE_RELU_BIAS,
            (Activation::GeluTanh, false) => E::CUBLASLT_EPILOGUE_GELU,
            (Activation::GeluTanh, true) => E::CUBLASLT_EPILOGUE_GELU_BIAS,
            (_, false) => E::CUBLASLT_EPILOGUE_DEFAULT,
            (_, true) => E::CUBLASLT_EPILOGUE_BIAS,
        }
    }

    fn compute(&self) -> sys::cublasComputeType_t {
        match self.tf32 {
            true => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        }
    }

    fn data(&self) -> Option<sys::cudaDataType_t> {
        match self.dtype {
            DType::F32 => Some(sys::cudaDataType_t::CUDA_R_32F),
            DType::F16 => Some(sys::cudaDataType_t::CUDA_R_16F),
            DType::BF16 => Some(sys::cudaDataType_t::CUDA_R_16BF),
            _ => None,
        }
    }

    fn element_bytes(&self) -> u64 {
        if self.dtype == DType::F32 { 4 } else { 2 }
    }
}

/// Whether an artifact's bytes are those of a product.
pub(crate) fn is_product(bytes: &[u8]) -> bool {
    bytes.starts_with(FORMAT)
}

/// A product's artifact: the algorithm that was chosen, and the kernel that ends it.
pub(crate) fn compile(
    shared: &Shared,
    unit: &Unit,
    call: &Call,
    kept: &dyn Artifacts,
) -> Result<Compiled, DeviceError> {
    let unsupported = |what: String| DeviceError::Unsupported { kind: KIND, what };
    let shape = Shape::of(call).ok_or_else(|| unsupported(unit.label()))?;
    if shape.data().is_none() || shape.rows == 0 {
        return Err(unsupported(format!("{} of {}", unit.label(), shape.dtype.name())));
    }
    let blas = shared.blas.as_ref().map_err(|why| unsupported(format!("products: {why}")))?;
    // The kernel that ends it is kept under a key of its own.
    let finish = match shape.activates() && (shape.adds() || !shape.residual) {
        true => None,
        false => {
            let written = sources::finish(shape.n, shape.dtype, shape.activation, shape.residual);
            let written = written.map_err(|err| match err {
                NoKernel::Unsupported(what) => DeviceError::Unsupported { kind: KIND, what },
                NoKernel::Wrong(log) => DeviceError::Compile { label: unit.label(), log },
            })?;
            Some(compile::kernel(shared, &unit.label(), &written, kept)?.artifact.bytes)
        }
    };
    let target = shared.arch.to_string();
    let key = ArtifactKey {
        kind: ArtifactKind::Algorithm,
        target: format!("{} {target}", shared.model),
        producer: format!("{}, {}", blas.identity(), shared.producer),
        body: unit.digest(),
        label: unit.label(),
    };
    let (bytes, found) = kept.get_or_make(&key, &mut || {
        let algorithm = choose(shared, blas, &shape)?;
        let mut bytes = FORMAT.to_vec();
        bytes.extend(shape_bytes(&shape));
        algorithm.data.iter().for_each(|it| bytes.extend(it.to_le_bytes()));
        bytes.extend(finish.as_deref().unwrap_or_default());
        Ok(bytes)
    })?;
    Ok(Compiled { artifact: Artifact { target, bytes }, key: Some(key), found })
}

/// Bytes of a shape in an artifact.
const SHAPE_BYTES: usize = 17;

fn shape_bytes(shape: &Shape) -> [u8; SHAPE_BYTES] {
    let mut out = [0; SHAPE_BYTES];
    out[..4].copy_from_slice(&shape.rows.to_le_bytes());
    out[4..8].copy_from_slice(&shape.n.to_le_bytes());
    out[8..12].copy_from_slice(&shape.k.to_le_bytes());
    out[12] = sources::type_number(shape.dtype).unwrap_or(u32::MAX) as u8;
    out[13] = u8::from(shape.bias);
    out[14] = Activation::ALL.iter().position(|it| *it == shape.activation).unwrap_or(0) as u8;
    out[15] = u8::from(shape.residual);
    out[16] = u8::from(shape.tf32);
    out
}

fn shape_from(bytes: &[u8; SHAPE_BYTES]) -> Option<Shape> {
    let number =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let flag = |at: usize| match bytes[at] {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    };
    let dtype = [DType::F32, DType::F16, DType::BF16].into_iter().nth(bytes[12].into())?;
    let shape = Shape {
        rows: number(0),
        n: number(4),
        k: number(8),
        dtype,
        tf32: flag(16)?,
        bias: flag(13)?,
        activation: *Activation::ALL.get(usize::from(bytes[14]))?,
        residual: flag(15)?,
    };
    (shape.rows != 0 && shape.n != 0 && shape.k != 0).then_some(shape)
}
