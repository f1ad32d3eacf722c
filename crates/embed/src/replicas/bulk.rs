//! A batch in pieces that devices take when they are free. Knows no model: what a device does with
//! a piece is passed in.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use super::balancer::MultiGpuBalancer;
use crate::error::{EmbeddingError, EmbeddingResult, Fault};
use crate::input::ModelInput;
use crate::model::BoxFuture;

/// Pieces for each device: enough that a quick one takes work from a slow one.
const PIECES_PER_DEVICE: usize = 4;
/// Most inputs of a piece.
const PIECE_LEN_MAX: usize = 64;

/// What runs pieces on one device.
pub(super) trait Replica<T> {
    fn run<'a>(
        &'a mut self,
        inputs: &'a [ModelInput],
    ) -> BoxFuture<'a, EmbeddingResult<Vec<EmbeddingResult<T>>>>;
}

/// A batch on its way over several devices; a result of each input is a `T`.
pub(super) struct Bulk<'a, T> {
    balancer: &'a Arc<MultiGpuBalancer>,
    batch: Mutex<Batch<T>>,
}

/// A part of a batch.
#[derive(Clone, Debug)]
struct Piece {
    /// Place of its first input.
    start: usize,
    inputs: Vec<ModelInput>,
}

/// What the devices share while a batch runs.
struct Batch<T> {
    queue: VecDeque<Piece>,
    results: Vec<Option<EmbeddingResult<T>>>,
    /// What the last lost device said.
    fault: Option<EmbeddingError>,
}

/// Refuses another number of replicas than devices.
///
/// # Errors
/// [`EmbeddingError::DimensionMismatch`].
pub(super) fn check_count(balancer: &MultiGpuBalancer, got_len: usize) -> EmbeddingResult<()> {
    let want_len = balancer.gpu_count();
    match got_len == want_len {
        true => Ok(()),
        false => Err(EmbeddingError::DimensionMismatch { what: "replicas", want_len, got_len }),
    }
}

impl<'a, T> Bulk<'a, T> {
    /// In pieces; an input that is none has its result.
    pub(super) fn new(
        balancer: &'a Arc<MultiGpuBalancer>,
        inputs: impl Iterator<Item = EmbeddingResult<ModelInput>>,
    ) -> Self {
        let (mut results, mut good) = (Vec::new(), Vec::new());
        for (place, input) in inputs.enumerate() {
            match input {
                Ok(input) => {
                    good.push((place, input));
                    results.push(None);
                }
                Err(err) => results.push(Some(Err(err))),
            }
        }
        let queue = pieces(balancer, good);
        Self { balancer, batch: Mutex::new(Batch { queue, results, fault: None }) }
    }

    /// Whether there is work and somebody to do it. A piece may come back after the others found
    /// nothing more to do.
    pub(super) fn has_more(&self) -> bool {
        0 < self.balancer.live_count() && !self.lock().queue.is_empty()
    }

    /// What one device does: the next piece, until there is none or it is lost.
    pub(super) async fn lane(&self, gpu_idx: usize, replica: &mut impl Replica<T>) {
        loop {
            let Some(piece) = self.lock().queue.pop_front() else { return };
            let cost = piece.inputs.iter().map(|it| 1 + it.content_bytes().len() as u64 / 4).sum();
            let Some(_guard) = self.balancer.reserve_on(gpu_idx, cost) else {
                self.lock().queue.push_front(piece);
                return;
            };
            let done = unwinding(replica.run(&piece.inputs)).await;
            match done {
                Ok(done) if done.len() == piece.inputs.len() => {
                    let mut batch = self.lock();
                    for (place, result) in (piece.start..).zip(done) {
                        batch.results[place] = Some(result);
                    }
                }
                failed => {
                    let fault = failed.err().unwrap_or(EmbeddingError::InternalError {
                        place: "the number of a replica's results",
                        source: None,
                    });
                    if is_lost(&fault) {
                        self.balancer.mark_lost(gpu_idx);
                        let mut batch = self.lock();
                        batch.queue.push_front(piece);
                        batch.fault = Some(fault);
                        return;
                    }
                    self.lock().refuse(&piece, fault);
                }
            }
        }
    }

    /// One result for each input, in their order.
    ///
    /// # Errors
    /// When all devices are lost: what the last of them said.
    pub(super) fn finish(self) -> EmbeddingResult<Vec<EmbeddingResult<T>>> {
        let Batch { results, fault, queue } =
            self.batch.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !queue.is_empty() {
            let lost = EmbeddingError::NotInitialized { what: "any device: all are lost" };
            return Err(fault.unwrap_or(lost));
        }
        let lost = || EmbeddingError::InternalError { place: "a piece of a batch", source: None };
        Ok(results.into_iter().map(|it| it.unwrap_or_else(|| Err(lost()))).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Batch<T>> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Neighbours together, as many pieces as keep every device busy to the end.
fn pieces(balancer: &MultiGpuBalancer, inputs: Vec<(usize, ModelInput)>) -> VecDeque<Piece> {
    let wanted = PIECES_PER_DEVICE * balancer.live_count().max(1);
    let len = inputs.len().div_ceil(wanted).clamp(1, PIECE_LEN_MAX);
    let mut pieces: VecDeque<Piece> = VecDeque::new();
    for (place, input) in inputs {
        match pieces.back_mut() {
            Some(last) if last.inputs.len() < len && last.end() == place => {
                last.inputs.push(input);
            }
            _ => pieces.push_back(Piece { start: place, inputs: vec![input] }),
        }
    }
    pieces
}

impl<T> Batch<T> {
    /// Gives every input of a piece the error of the whole: the first the error itself, the others
    /// its words, because an error cannot be copied with its cause.
    fn refuse(&mut self, piece: &Piece, fault: EmbeddingError) {
        let words = fault.to_string();
        let other = |item_index| EmbeddingError::BatchError {
            item_index,
            source: Box::new(EmbeddingError::GpuError { source: words.clone().into() }),
        };
        let faults = std::iter::once(fault).chain((piece.start + 1..).map(other));
        for (place, fault) in (piece.start..piece.end()).zip(faults) {
            self.results[place] = Some(Err(fault));
        }
    }
}

impl Piece {
    fn end(&self) -> usize {
        self.start + self.inputs.len()
    }
}

/// Whether a replica that says this is of no use any more.
fn is_lost(err: &EmbeddingError) -> bool {
    let ours = matches!(err.fault(), Fault::Environment | Fault::Internal | Fault::Configuration);
    ours && !matches!(err, EmbeddingError::Overloaded { .. })
}

/// Polls a future; a panic in it is an error.
async fn unwinding<T>(mut future: BoxFuture<'_, EmbeddingResult<T>>) -> EmbeddingResult<T> {
    let panicked =
        || EmbeddingError::InternalError { place: "a replica that panicked", source: None };
    std::future::poll_fn(move |context| {
        catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)))
            .unwrap_or_else(|_| Poll::Ready(Err(panicked())))
    })
    .await
}

/// Runs futures at once until all have ended.
pub(super) async fn join<F: Future<Output = ()> + Unpin>(futures: &mut [F]) {
    let mut ended = vec![false; futures.len()];
    std::future::poll_fn(|context| {
        for (future, ended) in futures.iter_mut().zip(&mut ended) {
            *ended = *ended || Pin::new(future).poll(context).is_ready();
        }
        if ended.iter().all(|it| *it) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
