//! Products by cuBLASLt: algorithms chosen by measurement once, kept, and bound without asking.
//!
//! The library's matrices are column-major, so `C [m, n] = A [m, k] · Wᵀ` is asked for as
//! `Cᵀ [n, m] = W [n, k] · Aᵀ`, which is the form that every type has.

use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

use calor_device::{
    Artifact, ArtifactKey, ArtifactKind, Artifacts, Compiled, DeviceError, Span, Word,
};
use calor_ir::DType;
use calor_kernel::{Activation, Call, Unit};
use cudarc::cublaslt::sys::{self, cublasStatus_t};

use crate::api::{self, CUdeviceptr, CUstream, Failed};
use crate::code::{Kernel, Launch, most};
use crate::compile;
use crate::device::{Block, Handle, KIND, Shared, State};
use crate::library::{Libraries, LibraryName};
use crate::sources::{self, NoKernel};

/// What an artifact of a product starts with; the last digit counts formats.
const FORMAT: &[u8; 8] = b"calcub01";

/// Candidates that are measured for a shape.
const CANDIDATES: usize = 12;

/// Runs of a candidate; the median counts.
const TRIALS: usize = 7;

/// A later candidate must be this much faster than an earlier one, so that near ties do not flip
/// between machines that are alike.
const HYSTERESIS: f32 = 0.97;

/// Bytes that a pointer is a multiple of, at least; what the library is told.
const ALIGN_BYTES: u32 = 16;

/// `CUBLAS_OP_T`, which the bindings of this library leave out.
const TRANSPOSED: i32 = 1;

/// Functions that are called here.
const SYMBOLS: &[&str] = &[
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

/// The library with its handle, which is made when it is first needed: that takes a while.
#[derive(Debug)]
pub(crate) struct Blas {
    version: usize,
    handle: OnceLock<Result<Handle<sys::cublasLtHandle_t>, String>>,
}

impl Blas {
    /// The library, or why there is none.
    pub(crate) fn find(libraries: &Libraries) -> Result<Self, String> {
        if let Some(why) = libraries.why_not(LibraryName::CublasLt) {
            return Err(why);
        }
        // SAFETY: the library is in the process already.
        let library = unsafe {
            if !sys::is_culib_present() {
                return Err("cuBLASLt is not found by its bare name".into());
            }
            sys::culib()
        };
        for symbol in SYMBOLS {
            // SAFETY: the symbol is only looked up, not called.
            if unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) }.is_err() {
                return Err(format!("cuBLASLt is too old: it has no {symbol}"));
            }
        }
        // SAFETY: it takes nothing.
        let version = unsafe { sys::cublasLtGetVersion() };
        Ok(Self { version, handle: OnceLock::new() })
    }

    /// Name and version: part of the key of an algorithm.
    pub(crate) fn identity(&self) -> String {
        format!("cublaslt {}", self.version)
    }

    /// The handle, with the context current.
    fn handle(&self) -> Result<sys::cublasLtHandle_t, String> {
        let made = self.handle.get_or_init(|| {
            let mut handle = ptr::null_mut();
            // SAFETY: the pointer is valid for a write.
            ok(unsafe { sys::cublasLtCreate(&raw mut handle) })?;
            Ok(Handle(handle))
        });
        made.clone().map(|it| it.0)
    }
}

fn ok(status: cublasStatus_t) -> Result<(), String> {
    match status {
        cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        other => Err(format!("cuBLASLt: {other:?}")),
    }
}

/// The workspace that products may use on an architecture, as the library's manual advises.
pub(crate) const fn workspace_bytes(major: u32) -> u64 {
    if 9 <= major { 32 << 20 } else { 4 << 20 }
}

/// A product as the library sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    rows: u32,
    n: u32,
    k: u32,
    dtype: DType,
    bias: bool,
    activation: Activation,
    residual: bool,
}

impl Shape {
    fn of(call: &Call) -> Option<Self> {
        match *call {
            Call::Gemm { rows, n, k, dtype, bias, activation, residual, packed: false } => {
                Some(Self { rows, n, k, dtype, bias, activation, residual })
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

/// Rows apart by so many elements, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Strides {
    rows: u64,
    a: i64,
    c: i64,
    residual: i64,
}

/// Descriptors of one product; destroyed with the value.
#[derive(Debug)]
struct Described {
    operation: Handle<sys::cublasLtMatmulDesc_t>,
    w: Layout,
    a: Layout,
    residual: Layout,
    c: Layout,
}

#[derive(Debug)]
struct Layout(Handle<sys::cublasLtMatrixLayout_t>);

impl Layout {
    fn new(data: sys::cudaDataType_t, rows: u64, cols: u64, stride: i64) -> Result<Self, String> {
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
    fn new(shape: &Shape, strides: &Strides, bias: CUdeviceptr) -> Result<Self, String> {
        let data = shape.data().ok_or("a type that the library has no products of")?;
        let (n, k) = (u64::from(shape.n), u64::from(shape.k));
        let mut operation = ptr::null_mut();
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
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

    fn set<T>(&self, name: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Result<(), String> {
        let place = ptr::from_ref(value).cast::<c_void>();
        // SAFETY: the attribute is of this type, and copied.
        ok(unsafe {
            sys::cublasLtMatmulDescSetAttribute(self.operation.0, name, place, size_of::<T>())
        })
    }
}

/// What the library writes when it is asked for algorithms.
type Candidate = sys::cublasLtMatmulHeuristicResult_t;

/// Algorithms in the order that the library guesses.
fn candidates(
    handle: sys::cublasLtHandle_t,
    described: &Described,
    workspace_bytes: u64,
    align_bytes: u32,
) -> Result<Vec<Candidate>, String> {
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
struct Places {
    a: CUdeviceptr,
    w: CUdeviceptr,
    residual: CUdeviceptr,
    c: CUdeviceptr,
    workspace: CUdeviceptr,
    workspace_bytes: u64,
}

/// # Safety
/// The places hold what the descriptors say, until the product has ended.
unsafe fn multiply(
    handle: sys::cublasLtHandle_t,
    described: &Described,
    adds: bool,
    algorithm: &sys::cublasLtMatmulAlgo_t,
    places: &Places,
    stream: CUstream,
) -> Result<(), String> {
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
        bias: flag(13)?,
        activation: *Activation::ALL.get(usize::from(bytes[14]))?,
        residual: flag(15)?,
    };
    (shape.rows != 0 && shape.n != 0 && shape.k != 0).then_some(shape)
}

/// Measures the library's candidates on memory of the device's own.
fn choose(
    shared: &Shared,
    blas: &Blas,
    shape: &Shape,
) -> Result<sys::cublasLtMatmulAlgo_t, DeviceError> {
    let mut state = shared.enter()?;
    let failed = |why: String| DeviceError::Unsupported { kind: KIND, what: why };
    let handle = blas.handle().map_err(failed)?;
    let strides = Strides {
        rows: shape.rows.into(),
        a: shape.k.into(),
        c: shape.n.into(),
        residual: shape.n.into(),
    };
    let places = trial_places(shared, &mut state, shape)?;
    let described = Described::new(shape, &strides, places.c).map_err(failed)?;
    let found =
        candidates(handle, &described, places.workspace_bytes, ALIGN_BYTES).map_err(failed)?;
    let mut best: Option<(f32, sys::cublasLtMatmulAlgo_t)> = None;
    for candidate in &found {
        let stream = shared.stream.raw();
        let run = || {
            // SAFETY: the trial memory is large enough, and nothing else uses it.
            unsafe { multiply(handle, &described, shape.adds(), &candidate.algo, &places, stream) }
        };
        // The first run loads the library's kernel.
        if run().is_err() {
            continue;
        }
        let ms = median_ms(stream, &run).map_err(|err| shared.failed(&mut state, err, 0))?;
        if best.is_none_or(|(best_ms, _)| ms < HYSTERESIS * best_ms) {
            best = Some((ms, candidate.algo));
        }
    }
    let what =
        format!("a product {}x{}x{} of {}", shape.rows, shape.n, shape.k, shape.dtype.name());
    best.map(|it| it.1).ok_or_else(|| failed(format!("cuBLASLt has no algorithm for {what}")))
}

fn median_ms(stream: CUstream, run: &dyn Fn() -> Result<(), String>) -> Result<f32, Failed> {
    let (from, to) = (api::event(true)?, api::event(true)?);
    let mut times = [f32::INFINITY; TRIALS];
    let mut outcome = Ok(());
    for time in &mut times {
        // SAFETY: events and stream are alive.
        outcome = unsafe { api::record(from, stream) };
        let ran = run();
        // SAFETY: as above.
        outcome = outcome.and_then(|()| unsafe { api::record(to, stream) });
        // SAFETY: as above.
        outcome = outcome.and_then(|()| unsafe { api::synchronize(stream) });
        if outcome.is_err() {
            break;
        }
        if ran.is_ok() {
            // SAFETY: the stream was waited for, so both have happened.
            *time = unsafe { api::elapsed_ms(from, to) }.unwrap_or(f32::INFINITY);
        }
    }
    for event in [from, to] {
        // SAFETY: nobody else has the events.
        let _ = unsafe { api::drop_event(event) };
    }
    outcome?;
    times.sort_by(f32::total_cmp);
    Ok(times[TRIALS / 2])
}

/// Memory for a trial: operands behind each other, then the workspace.
fn trial_places(shared: &Shared, state: &mut State, shape: &Shape) -> Result<Places, DeviceError> {
    let bytes = shape.element_bytes();
    let area =
        |rows: u32, cols: u32| (u64::from(rows) * u64::from(cols) * bytes).next_multiple_of(256);
    let (a, w, c) = (area(shape.rows, shape.k), area(shape.n, shape.k), area(shape.rows, shape.n));
    let workspace_bytes = workspace_bytes(shared.arch.major);
    let want = a + w + 2 * c + workspace_bytes;
    if state.trial.as_ref().is_none_or(|it| it.len < want) {
        state.trial = None;
        let block = Block::new(want).map_err(|err| shared.failed(state, err, want))?;
        // SAFETY: the block was just made.
        unsafe { api::fill(block.at, 0, want as usize, shared.stream.raw()) }
            .map_err(|err| shared.failed(state, err, 0))?;
        state.trial = Some(block);
    }
    let at = state.trial.as_ref().map_or(0, |it| it.at);
    Ok(Places {
        a: at,
        w: at + a,
        residual: at + a + w,
        c: at + a + w + c,
        workspace: at + a + w + 2 * c,
        workspace_bytes,
    })
}

/// A product that is loaded: its algorithm and the kernel that ends it.
#[derive(Debug)]
pub(crate) struct Product {
    shape: Shape,
    algorithm: sys::cublasLtMatmulAlgo_t,
    finish: Option<Kernel>,
}

/// A product out of an artifact. Runs it once, so that the library's kernel is loaded.
pub(crate) fn load(shared: &Shared, artifact: &Artifact) -> Result<Product, DeviceError> {
    let damaged = |why: &'static str| DeviceError::Damaged { why };
    if !shared.arch.is(&artifact.target) {
        return Err(DeviceError::WrongTarget {
            wanted: shared.arch.to_string(),
            found: artifact.target.clone(),
        });
    }
    let cut = damaged("the product is cut off");
    let rest = artifact.bytes.strip_prefix(FORMAT.as_slice()).ok_or(cut)?;
    let Some((head, rest)) = rest.split_first_chunk::<SHAPE_BYTES>() else {
        return Err(damaged("the product is cut off"));
    };
    let shape = shape_from(head).ok_or(damaged("the product's shape is none"))?;
    let Some((blob, finish)) = rest.split_first_chunk::<64>() else {
        return Err(damaged("the algorithm is cut off"));
    };
    let mut data = [0; 8];
    for (word, bytes) in data.iter_mut().zip(blob.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    let algorithm = sys::cublasLtMatmulAlgo_t { data };
    let finish = match finish {
        [] => None,
        bytes => Some(compile::load_kernel(shared, &artifact.target, bytes)?),
    };
    let product = Product { shape, algorithm, finish };
    product.first_run(shared)?;
    Ok(product)
}

impl Product {
    fn first_run(&self, shared: &Shared) -> Result<(), DeviceError> {
        let mut state = shared.enter()?;
        let lost = |what: String| DeviceError::Unsupported { kind: KIND, what };
        let blas = shared.blas.as_ref().map_err(|why| lost(why.clone()))?;
        let handle = blas.handle().map_err(lost)?;
        let shape = &self.shape;
        let strides = Strides {
            rows: shape.rows.into(),
            a: shape.k.into(),
            c: shape.n.into(),
            residual: shape.n.into(),
        };
        let places = trial_places(shared, &mut state, shape)?;
        let described = Described::new(shape, &strides, places.c).map_err(lost)?;
        let stream = shared.stream.raw();
        let refused = DeviceError::Damaged { why: "the library refuses the algorithm" };
        // SAFETY: the trial memory is large enough, and nothing else uses it.
        unsafe { multiply(handle, &described, shape.adds(), &self.algorithm, &places, stream) }
            .map_err(|_| refused)?;
        // SAFETY: the stream is alive.
        unsafe { api::synchronize(stream) }.map_err(|err| shared.failed(&mut state, err, 0))
    }

    /// The product over real memory, or what does not fit.
    pub(crate) fn bind(
        &self,
        shared: &Shared,
        words: &[Word],
        spans: &[Span],
        places: &[CUdeviceptr],
    ) -> Result<BoundProduct, &'static str> {
        let shape = &self.shape;
        let [rows, a, c, residual] = *words else { return Err("a product takes four words") };
        let strides = [a, c, residual].map(most);
        if most(rows) < 0 || i64::from(shape.rows) < most(rows) || strides.iter().any(|it| *it < 0)
        {
            return Err("the product was made for fewer rows");
        }
        let mut at = places.iter().copied().zip(spans);
        let mut next = || at.next().ok_or("the product takes more buffers");
        let (a_at, _) = next()?;
        let (w_at, w_span) = next()?;
        let bias = if shape.bias { next()?.0 } else { 0 };
        let residual_at = if shape.residual { next()?.0 } else { 0 };
        let (c_at, c_span) = next()?;
        let (workspace, workspace_span) = next()?;
        if at.next().is_some() {
            return Err("the product takes fewer buffers");
        }
        let bytes = shape.element_bytes();
        let [a_stride, c_stride, residual_stride] = strides;
        if w_span.len < u64::from(shape.n) * u64::from(shape.k) * bytes {
            return Err("the weights are too short");
        }
        let rows_most = most(rows).unsigned_abs();
        let last = rows_most.saturating_sub(1) * c_stride.unsigned_abs() + u64::from(shape.n);
        if rows_most != 0 && c_span.len < last * bytes {
            return Err("the product's result is too short");
        }
        let bound =
            Strides { rows: rows_most, a: a_stride, c: c_stride, residual: residual_stride };
        let finish = match &self.finish {
            None => None,
            Some(kernel) => {
                let mut buffers = vec![c_at];
                buffers.extend(shape.residual.then_some(residual_at));
                // Rows that are not live are computed as well: the library knows no live counts.
                let words = [most(rows), c_stride, residual_stride].map(Word::Fixed);
                Some(kernel.bind(&words, buffers, 0)?)
            }
        };
        let described = match rows_most {
            0 => None,
            _ => {
                let made = Described::new(shape, &bound, bias);
                Some(made.map_err(|_| "the library does not describe the product")?)
            }
        };
        let algorithm = match &described {
            Some(described) => self.fitting(shared, described, &[a_at, w_at, residual_at, c_at])?,
            None => self.algorithm,
        };
        Ok(BoundProduct {
            described,
            adds: shape.adds(),
            algorithm,
            places: Places {
                a: a_at,
                w: w_at,
                residual: residual_at,
                c: c_at,
                workspace,
                workspace_bytes: workspace_span.len,
            },
            finish,
        })
    }

    /// The chosen algorithm where it can do these strides and addresses, else the library's first
    /// guess for them. The choice was made for dense rows.
    fn fitting(
        &self,
        shared: &Shared,
        described: &Described,
        places: &[CUdeviceptr],
    ) -> Result<sys::cublasLtMatmulAlgo_t, &'static str> {
        let blas = shared.blas.as_ref().map_err(|_| "there is no cuBLASLt")?;
        let handle = blas.handle().map_err(|_| "there is no handle of cuBLASLt")?;
        let align = places.iter().map(|it| 1_u64 << it.trailing_zeros().min(8)).min();
        let align = align.unwrap_or(1) as u32;
        // SAFETY: plain numbers; zero is a value of each.
        let mut checked: Candidate = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptors are alive; the result is valid for a write.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                handle,
                described.operation.0,
                described.w.0.0,
                described.a.0.0,
                described.residual.0.0,
                described.c.0.0,
                &raw const self.algorithm,
                &raw mut checked,
            )
        };
        if status == cublasStatus_t::CUBLAS_STATUS_SUCCESS && ALIGN_BYTES <= align {
            return Ok(self.algorithm);
        }
        let found = candidates(handle, described, workspace_bytes(shared.arch.major), align);
        let first = found.ok().and_then(|it| it.first().copied());
        first.map(|it| it.algo).ok_or("cuBLASLt has no algorithm for these strides")
    }
}

/// A product with its places.
#[derive(Debug)]
pub(crate) struct BoundProduct {
    /// None where there are no rows.
    described: Option<Described>,
    adds: bool,
    algorithm: sys::cublasLtMatmulAlgo_t,
    places: Places,
    finish: Option<Launch>,
}

impl BoundProduct {
    /// # Safety
    /// The places are alive until the product has ended.
    pub(crate) unsafe fn issue(&mut self, shared: &Shared, stream: CUstream) -> Result<(), Failed> {
        let Some(described) = &self.described else { return Ok(()) };
        let unknown = Failed(cudarc::driver::sys::CUresult::CUDA_ERROR_LAUNCH_FAILED);
        let Ok(blas) = &shared.blas else { return Err(unknown) };
        let handle = blas.handle().map_err(|_| unknown)?;
        // SAFETY: the caller's promise; `bind` has checked the lengths.
        unsafe { multiply(handle, described, self.adds, &self.algorithm, &self.places, stream) }
            .map_err(|_| unknown)?;
        match &mut self.finish {
            // SAFETY: the caller's promise.
            Some(finish) => unsafe { finish.issue(stream) },
            None => Ok(()),
        }
    }
}
