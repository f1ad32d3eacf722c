//! Choosing an algorithm by measurement, on memory of the device's own.

use std::sync::Arc;

use calor_device::DeviceError;
use cudarc::cublaslt::sys;

use super::Shape;
use super::library::{ALIGN_BYTES, Blas, Described, Places, Refused, Strides};
use super::library::{candidates, multiply, workspace_bytes};
use crate::api::{self, CUstream, Failed};
use crate::device::{Block, KIND, Shared, State};

/// Runs of a candidate; the median counts.
pub(super) const TRIALS: usize = 7;

/// A later candidate must be this much faster than an earlier one, so that near ties do not flip
/// between machines that are alike.
pub(super) const HYSTERESIS: f32 = 0.97;

/// Measures the library's candidates on memory of the device's own.
pub(super) fn choose(
    shared: &Shared,
    blas: &Blas,
    shape: &Shape,
) -> Result<sys::cublasLtMatmulAlgo_t, DeviceError> {
    let mut state = shared.enter()?;
    let failed = |why: Refused| DeviceError::Unsupported { kind: KIND, what: why.to_string() };
    let handle = blas.handle().map_err(failed)?;
    let strides = Strides {
        rows: shape.rows.into(),
        a: shape.k.into(),
        c: shape.n.into(),
        residual: shape.n.into(),
    };
    let (_trial, places) = trial_places(shared, &mut state, shape)?;
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
    best.map(|it| it.1).ok_or_else(|| DeviceError::Unsupported {
        kind: KIND,
        what: format!("{what}: cuBLASLt has no algorithm"),
    })
}

pub(super) fn median_ms(
    stream: CUstream,
    run: &dyn Fn() -> Result<(), Refused>,
) -> Result<f32, Failed> {
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

/// Memory for a trial: operands behind each other, then the workspace. The places are there as
/// long as the block that comes with them.
pub(super) fn trial_places(
    shared: &Shared,
    state: &mut State,
    shape: &Shape,
) -> Result<(Arc<Block>, Places), DeviceError> {
    let bytes = shape.element_bytes();
    let area =
        |rows: u32, cols: u32| (u64::from(rows) * u64::from(cols) * bytes).next_multiple_of(256);
    let (a, w, c) = (area(shape.rows, shape.k), area(shape.n, shape.k), area(shape.rows, shape.n));
    let workspace_bytes = workspace_bytes(shared.arch.major);
    let want = a + w + 2 * c + workspace_bytes;
    let kept = state.trial.take().filter(|it| want <= it.len);
    let block = if let Some(block) = kept {
        block
    } else {
        // Giving the one before back waits for the whole device: few steps, each twice as large,
        // where there is room for that.
        let block = Block::new(want.next_power_of_two()).or_else(|_| Block::new(want));
        let block = block.map_err(|err| shared.failed(state, err, want))?;
        // SAFETY: the block was just made.
        unsafe { api::fill(block.at, 0, block.len as usize, shared.stream.raw()) }
            .map_err(|err| shared.failed(state, err, 0))?;
        Arc::new(block)
    };
    state.trial = Some(Arc::clone(&block));
    let at = block.at;
    let places = Places {
        a: at,
        w: at + a,
        residual: at + a + w,
        c: at + a + w + c,
        workspace: at + a + w + 2 * c,
        workspace_bytes,
    };
    Ok((block, places))
}
