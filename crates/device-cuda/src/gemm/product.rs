//! A product that is loaded, and bound to real memory.

use calor_device::{Artifact, DeviceError, Span, Word};
use cudarc::cublaslt::sys::{self, cublasStatus_t};

use super::library::{ALIGN_BYTES, Candidate, Described, Places, Refused, Strides};
use super::library::{candidates, multiply, workspace_bytes};
use super::trial::trial_places;
use super::{FORMAT, SHAPE_BYTES, Shape, shape_from};
use crate::api::{self, CUdeviceptr, CUstream, Failed};
use crate::code::{Kernel, Launch, most};
use crate::compile;
use crate::device::{KIND, Shared};

/// A product that is loaded: its algorithm and the kernel that ends it.
#[derive(Debug)]
pub(crate) struct Product {
    shape: Shape,
    algorithm: sys::cublasLtMatmulAlgo_t,
    finish: Option<Kernel>,
}

/// A product out of an artifact. Runs it once, so that the library's kernel is loaded.
pub(crate) fn load(shared: &Shared, artifact: &Artifact) -> Result<Product, DeviceError> {
    let product = read(shared, artifact)?;
    product.first_run(shared)?;
    Ok(product)
}

fn read(shared: &Shared, artifact: &Artifact) -> Result<Product, DeviceError> {
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
    Ok(Product { shape, algorithm, finish })
}

impl Product {
    fn first_run(&self, shared: &Shared) -> Result<(), DeviceError> {
        let lost = |why: Refused| DeviceError::Unsupported { kind: KIND, what: why.to_string() };
        let blas = shared.blas.as_ref().map_err(|why| DeviceError::Unsupported {
            kind: KIND,
            what: format!("products: {why}"),
        })?;
        let shape = &self.shape;
        let strides = Strides {
            rows: shape.rows.into(),
            a: shape.k.into(),
            c: shape.n.into(),
            residual: shape.n.into(),
        };
        let mut state = shared.enter()?;
        let (_trial, places) = trial_places(shared, &mut state, shape)?;
        // Other threads need not wait for the library.
        drop(state);
        let handle = blas.handle().map_err(lost)?;
        let described = Described::new(shape, &strides, places.c).map_err(lost)?;
        let stream = shared.loads.raw();
        let refused = DeviceError::Damaged { why: "the library refuses the algorithm" };
        // SAFETY: the trial memory is large enough, and nothing else uses it.
        unsafe { multiply(handle, &described, shape.adds(), &self.algorithm, &places, stream) }
            .map_err(|_| refused)?;
        // SAFETY: the stream is alive.
        let ended = unsafe { api::synchronize(stream) };
        let mut state = shared.enter()?;
        ended.map_err(|err| shared.failed(&mut state, err, 0))
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
        let found = Operands::of(shape, places, spans)?;
        let Operands { a: (a_at, _), w: (w_at, w_span), bias, residual: residual_at, .. } = found;
        let (c_at, c_span) = found.c;
        let (workspace, workspace_span) = found.workspace;
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
            name: format!("product {rows_most} x {} x {}", shape.n, shape.k),
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

/// The buffers of a product by name.
struct Operands<'a> {
    a: (CUdeviceptr, &'a Span),
    w: (CUdeviceptr, &'a Span),
    bias: CUdeviceptr,
    residual: CUdeviceptr,
    c: (CUdeviceptr, &'a Span),
    workspace: (CUdeviceptr, &'a Span),
}

impl<'a> Operands<'a> {
    fn of(shape: &Shape, places: &[CUdeviceptr], spans: &'a [Span]) -> Result<Self, &'static str> {
        let mut at = places.iter().copied().zip(spans);
        let mut next = || at.next().ok_or("the product takes more buffers");
        let (a, w) = (next()?, next()?);
        let bias = if shape.bias { next()?.0 } else { 0 };
        let residual = if shape.residual { next()?.0 } else { 0 };
        let (c, workspace) = (next()?, next()?);
        match at.next() {
            None => Ok(Self { a, w, bias, residual, c, workspace }),
            Some(_) => Err("the product takes fewer buffers"),
        }
    }
}

/// A product with its places.
#[derive(Debug)]
pub(crate) struct BoundProduct {
    name: String,
    /// None where there are no rows.
    described: Option<Described>,
    adds: bool,
    algorithm: sys::cublasLtMatmulAlgo_t,
    places: Places,
    finish: Option<Launch>,
}

impl BoundProduct {
    /// Rows of the result, columns, and what each sums up.
    pub(crate) fn name(&self) -> String {
        self.name.clone()
    }

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
            Some(finish) => unsafe { finish.issue(stream, false) },
            None => Ok(()),
        }
    }
}
