//! cuBLASLt itself: its handle, descriptors, candidates, and the call.

use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use cudarc::cublaslt::sys::{self, cublasStatus_t};

use thiserror::Error;

use super::Shape;
use crate::api::{CUdeviceptr, CUstream};
use crate::device::{self, Context, Handle};
use crate::library::{Libraries, LibraryName, Missing};

/// Candidates that are measured for a shape.
pub(super) const CANDIDATES: usize = 12;

/// Bytes that a pointer is a multiple of, at least; what the library is told.
pub(super) const ALIGN_BYTES: u32 = 16;

/// `CUBLAS_OP_T`, which the bindings of this library leave out.
pub(super) const TRANSPOSED: i32 = 1;

/// Functions that are called here.
pub(super) const SYMBOLS: &[&str] = &[
    "cublasLtCreate",
    "cublasLtGetVersion",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoCheck",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
];

/// Why the library does not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Refused {
    /// What it answered.
    #[error("cuBLASLt: {0:?}")]
    Status(cublasStatus_t),
    /// It has no products of the type.
    #[error("a type that cuBLASLt has no products of")]
    Type,
}

/// The library with its handle, which is made when it is first needed or, if that is asked for,
/// on a thread of its own from the start: it takes a third of a second.
#[derive(Debug)]
pub(crate) struct Blas {
    version: usize,
    handle: Arc<OnceLock<Made>>,
    starting: Option<JoinHandle<()>>,
}

type Made = Result<Handle<sys::cublasLtHandle_t>, Refused>;

fn make_handle() -> Made {
    let mut handle = ptr::null_mut();
    // SAFETY: the pointer is valid for a write.
    ok(unsafe { sys::cublasLtCreate(&raw mut handle) })?;
    Ok(Handle(handle))
}

impl Drop for Blas {
    fn drop(&mut self) {
        // The thread uses the context, which goes after this.
        if let Some(thread) = self.starting.take() {
            let _ = thread.join();
        }
    }
}

impl Blas {
    /// The library, or why there is none.
    pub(crate) fn find(libraries: &Libraries) -> Result<Self, Missing> {
        if let Some(why) = libraries.why_not(LibraryName::CublasLt) {
            return Err(why);
        }
        // SAFETY: the library is in the process already.
        let library = unsafe {
            if !sys::is_culib_present() {
                return Err(Missing::Nameless);
            }
            sys::culib()
        };
        for symbol in SYMBOLS {
            // SAFETY: the symbol is only looked up, not called.
            if unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) }.is_err() {
                return Err(Missing::TooOld { symbol });
            }
        }
        // SAFETY: it takes nothing.
        let version = unsafe { sys::cublasLtGetVersion() };
        Ok(Self { version, handle: Arc::default(), starting: None })
    }

    /// Name and version: part of the key of an algorithm.
    pub(crate) fn identity(&self) -> String {
        format!("cublaslt {}", self.version)
    }

    /// Makes the handle on a thread of its own; whoever needs it earlier waits for it.
    pub(crate) fn start(&mut self, context: &Context) {
        let (handle, context) = (Arc::clone(&self.handle), context.raw());
        let work = move || {
            if device::enter(context).is_ok() {
                handle.get_or_init(make_handle);
            }
        };
        // Without a thread it is made when it is needed.
        self.starting = std::thread::Builder::new().name("calor-cublaslt".into()).spawn(work).ok();
    }

    /// The handle, with the context current.
    pub(super) fn handle(&self) -> Result<sys::cublasLtHandle_t, Refused> {
        self.handle.get_or_init(make_handle).map(|it| it.0)
    }
}

pub(super) fn ok(status: cublasStatus_t) -> Result<(), Refused> {
    match status {
        cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        other => Err(Refused::Status(other)),
    }
}

/// The workspace that products may use on an architecture, as the library's manual advises.
pub(crate) const fn workspace_bytes(major: u32) -> u64 {
    if 9 <= major { 32 << 20 } else { 4 << 20 }
}

/// Rows apart by so many elements, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Strides {
    pub(super) rows: u64,
    pub(super) a: i64,
    pub(super) c: i64,
    pub(super) residual: i64,
}

/// Descriptors of one product; destroyed with the value.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) operation: Handle<sys::cublasLtMatmulDesc_t>,
    pub(super) w: Layout,
    pub(super) a: Layout,
    pub(super) residual: Layout,
    pub(super) c: Layout,
}

#[derive(Debug)]
pub(super) struct Layout(pub(super) Handle<sys::cublasLtMatrixLayout_t>);

impl Layout {
    pub(super) fn new(
        data: sys::cudaDataType_t,
        rows: u64,
        cols: u64,
        stride: i64,
    ) -> Result<Self, Refused> {
        let mut layout = ptr::null_mut();
        // SAFETY: the pointer is valid for a write.
        ok(unsafe { sys::cublasLtMatrixLayoutCreate(&raw mut layout, data, rows, cols, stride) })?;
        Ok(Self(Handle(layout)))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: nobody else has the layout.
        unsafe { sys::cublasLtMatrixLayoutDestroy(self.0.0) };
    }
}

impl Drop for Described {
    fn drop(&mut self) {
        // SAFETY: nobody else has the descriptor.
        unsafe { sys::cublasLtMatmulDescDestroy(self.operation.0) };
    }
}

impl Described {
    pub(super) fn new(
        shape: &Shape,
        strides: &Strides,
        bias: CUdeviceptr,
    ) -> Result<Self, Refused> {
        let data = shape.data().ok_or(Refused::Type)?;
        let (n, k) = (u64::from(shape.n), u64::from(shape.k));
        let mut operation = ptr::null_mut();
        let compute = shape.compute();
        let scale = sys::cudaDataType_t::CUDA_R_32F;
        // SAFETY: the pointer is valid for a write.
        ok(unsafe { sys::cublasLtMatmulDescCreate(&raw mut operation, compute, scale) })?;
        let residual_stride = if shape.adds() { strides.residual } else { strides.c };
        let described = Self {
            operation: Handle(operation),
            w: Layout::new(data, k, n, i64::from(shape.k))?,
            a: Layout::new(data, k, strides.rows, strides.a)?,
            residual: Layout::new(data, n, strides.rows, residual_stride)?,
            c: Layout::new(data, n, strides.rows, strides.c)?,
        };
        use sys::cublasLtMatmulDescAttributes_t as A;
        described.set(A::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        described.set(A::CUBLASLT_MATMUL_DESC_EPILOGUE, &(shape.epilogue() as u32))?;
        if shape.bias {
            described.set(A::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &(data as u32))?;
            described.set(A::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        Ok(described)
    }

    pub(super) fn set<T>(
        &self,
        name: sys::cublasLtMatmulDescAttributes_t,
        value: &T,
    ) -> Result<(), Refused> {
        let place = ptr::from_ref(value).cast::<c_void>();
        // SAFETY: the attribute is of this type, and copied.
        ok(unsafe {
            sys::cublasLtMatmulDescSetAttribute(self.operation.0, name, place, size_of::<T>())
        })
    }
}

/// What the library writes when it is asked for algorithms.
pub(super) type Candidate = sys::cublasLtMatmulHeuristicResult_t;

/// Algorithms in the order that the library guesses.
pub(super) fn candidates(
    handle: sys::cublasLtHandle_t,
    described: &Described,
    workspace_bytes: u64,
    align_bytes: u32,
) -> Result<Vec<Candidate>, Refused> {
    let mut preference = ptr::null_mut();
    // SAFETY: the pointer is valid for a write.
    ok(unsafe { sys::cublasLtMatmulPreferenceCreate(&raw mut preference) })?;
    use sys::cublasLtMatmulPreferenceAttributes_t as P;
    let set = |name, place: *const c_void, len| {
        // SAFETY: the attribute has this length, and is copied.
        ok(unsafe { sys::cublasLtMatmulPreferenceSetAttribute(preference, name, place, len) })
    };
    let mut outcome =
        set(P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, ptr::from_ref(&workspace_bytes).cast(), 8);
    for name in [
        P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ] {
        outcome = outcome.and_then(|()| set(name, ptr::from_ref(&align_bytes).cast(), 4));
    }
    // SAFETY: plain numbers; zero is a value of each.
    let mut found: [Candidate; CANDIDATES] = unsafe { std::mem::zeroed() };
    let mut count = 0;
    outcome = outcome.and_then(|()| {
        // SAFETY: the descriptors are alive, and there is room for as many results as asked for.
        ok(unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle,
                described.operation.0,
                described.w.0.0,
                described.a.0.0,
                described.residual.0.0,
                described.c.0.0,
                preference,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &raw mut count,
            )
        })
    });
    // SAFETY: it was made above and nobody else has it.
    unsafe { sys::cublasLtMatmulPreferenceDestroy(preference) };
    outcome?;
    let good = |it: &&Candidate| it.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS;
    Ok(found[..count.max(0) as usize].iter().filter(good).copied().collect())
}

/// Where the operands of a product lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) a: CUdeviceptr,
    pub(super) w: CUdeviceptr,
    pub(super) residual: CUdeviceptr,
    pub(super) c: CUdeviceptr,
    pub(super) workspace: CUdeviceptr,
    pub(super) workspace_bytes: u64,
}

/// # Safety
/// The places hold what the descriptors say, until the product has ended.
pub(super) unsafe fn multiply(
    handle: sys::cublasLtHandle_t,
    described: &Described,
    adds: bool,
    algorithm: &sys::cublasLtMatmulAlgo_t,
    places: &Places,
    stream: CUstream,
) -> Result<(), Refused> {
    let (alpha, beta) = (1.0_f32, if adds { 1.0_f32 } else { 0.0 });
    let at = |place: CUdeviceptr| place as *const c_void;
    // SAFETY: the caller's promise; the scalars are read before the call returns.
    ok(unsafe {
        sys::cublasLtMatmul(
            handle,
            described.operation.0,
            ptr::from_ref(&alpha).cast(),
            at(places.w),
            described.w.0.0,
            at(places.a),
            described.a.0.0,
            ptr::from_ref(&beta).cast(),
            at(if adds { places.residual } else { places.c }),
            described.residual.0.0,
            places.c as *mut c_void,
            described.c.0.0,
            algorithm,
            places.workspace as *mut c_void,
            places.workspace_bytes as usize,
            stream.cast(),
        )
    })
}
