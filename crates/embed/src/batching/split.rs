//! A batch that does not fit into memory is halved, once, and what still does not fit fails alone.

use std::error::Error;

use calor_device::DeviceError;
use calor_runtime::RuntimeError;

use super::BatchResult;
use crate::error::{EmbeddingError, EmbeddingResult};

/// Runs `inputs` with `run`, which gives one result for each. A run that ends for want of memory
/// is repeated in two halves; of a half that fails again each item is given that error.
///
/// # Errors
/// Of the whole batch: whatever else `run` fails with, and the want of memory of one input alone.
pub fn run_split<T, R>(
    inputs: &[T],
    mut run: impl FnMut(&[T]) -> EmbeddingResult<Vec<BatchResult<R>>>,
) -> EmbeddingResult<Vec<BatchResult<R>>> {
    match run(inputs) {
        Err(err) if 1 < inputs.len() && is_out_of_memory(&err) => {
            let (first, second) = inputs.split_at(inputs.len().div_ceil(2));
            let mut results = half(first, &mut run);
            results.extend(half(second, &mut run));
            Ok(results)
        }
        result => result,
    }
}

fn half<T, R>(
    inputs: &[T],
    run: &mut impl FnMut(&[T]) -> EmbeddingResult<Vec<BatchResult<R>>>,
) -> Vec<BatchResult<R>> {
    let err = match run(inputs) {
        Ok(results) => return results,
        Err(err) => err,
    };
    // An error cannot be copied with its cause: the first item keeps it, the others get its words.
    let words = err.to_string();
    let other = |_| Err(EmbeddingError::GpuError { source: words.clone().into() });
    std::iter::once(Err(err)).chain((1..inputs.len()).map(other)).collect()
}

/// Whether an error says that memory was short, at any depth.
pub fn is_out_of_memory(err: &EmbeddingError) -> bool {
    if matches!(err, EmbeddingError::MemoryBudgetExceeded { .. }) {
        return true;
    }
    let mut cause: Option<&(dyn Error + 'static)> = Some(err);
    while let Some(it) = cause {
        let device = it.downcast_ref::<DeviceError>();
        let runtime = it.downcast_ref::<RuntimeError>();
        if matches!(device, Some(DeviceError::OutOfMemory { .. }))
            || matches!(
                runtime,
                Some(
                    RuntimeError::Quota { .. }
                        | RuntimeError::Device(DeviceError::OutOfMemory { .. })
                )
            )
        {
            return true;
        }
        cause = it.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_memory() -> EmbeddingError {
        let source = DeviceError::OutOfMemory { want_bytes: 2, left_bytes: 1 };
        EmbeddingError::GpuError { source: Box::new(RuntimeError::Device(source)) }
    }

    /// Runs `0..count` on a machine with room for `room` items, and says how long each run was.
    fn run(count: usize, room: usize) -> (EmbeddingResult<Vec<BatchResult<usize>>>, Vec<usize>) {
        let inputs: Vec<usize> = (0..count).collect();
        let mut lens = Vec::new();
        let result = run_split(&inputs, |part| {
            lens.push(part.len());
            match part.len() <= room {
                true => Ok(part.iter().map(|it| Ok(*it)).collect()),
                false => Err(no_memory()),
            }
        });
        (result, lens)
    }

    #[test]
    fn a_batch_that_fits_runs_once() {
        let (result, lens) = run(4, 4);
        assert_eq!(lens, [4]);
        assert_eq!(result.unwrap().len(), 4);
    }

    #[test]
    fn a_batch_that_does_not_fit_runs_in_halves_and_in_order() {
        let (result, lens) = run(7, 4);
        assert_eq!(lens, [7, 4, 3]);
        let items: Vec<usize> = result.unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(items, (0..7).collect::<Vec<_>>());
    }

    #[test]
    fn what_does_not_fit_twice_fails_alone() {
        let (result, lens) = run(7, 3);
        assert_eq!(lens, [7, 4, 3], "once, and no further");
        let results = result.unwrap();
        assert!(results[..4].iter().all(|it| matches!(it, Err(EmbeddingError::GpuError { .. }))));
        assert!(results[4..].iter().all(Result::is_ok));
    }

    #[test]
    fn one_input_that_does_not_fit_and_other_failures_are_the_batchs() {
        let (result, lens) = run(1, 0);
        assert!(is_out_of_memory(&result.unwrap_err()) && lens == [1]);
        let mut count = 0;
        let result: EmbeddingResult<Vec<BatchResult<()>>> = run_split(&[1, 2], |_| {
            count += 1;
            Err(EmbeddingError::Cancelled)
        });
        assert!(matches!(result, Err(EmbeddingError::Cancelled)) && count == 1);
    }
}
