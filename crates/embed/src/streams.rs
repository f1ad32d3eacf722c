//! Batches in flight: while one is computed, the next is made ready and the previous one is handed
//! on.
//!
//! A stream is a place where one batch is computed at a time. Which queues and copies a device
//! uses for that is its own business; here are the threads that keep it from waiting for the host.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::error::{EmbeddingError, EmbeddingResult};

/// Streams for computing, in turn, and one each way for what comes in and goes out.
#[derive(Debug)]
pub struct StreamPool {
    stream_count: NonZeroUsize,
    current_idx: AtomicUsize,
    in_flight_count: Mutex<usize>,
    changed: Condvar,
}

/// One of a pool's streams for computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComputeStream {
    /// From 0 on.
    pub index: usize,
}

impl StreamPool {
    /// A pool of so many streams for computing.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] for none.
    pub fn new(num_streams: usize) -> EmbeddingResult<Self> {
        let stream_count = NonZeroUsize::new(num_streams).ok_or(EmbeddingError::ConfigError {
            field: "num_streams",
            value: "0".into(),
            want: "it must be at least 1",
        })?;
        Ok(Self {
            stream_count,
            current_idx: AtomicUsize::new(0),
            in_flight_count: Mutex::new(0),
            changed: Condvar::new(),
        })
    }

    /// How many streams compute.
    pub fn stream_count(&self) -> usize {
        self.stream_count.get()
    }

    /// The stream whose turn it is.
    pub fn next_compute_stream(&self) -> ComputeStream {
        let turn = self.current_idx.fetch_add(1, Ordering::Relaxed);
        ComputeStream { index: turn % self.stream_count }
    }

    /// Batches between the beginning of their way in and the end of their way out.
    pub fn in_flight_count(&self) -> usize {
        *self.in_flight_count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no batch is in flight.
    pub fn sync_all(&self) {
        let mut count = self.in_flight_count.lock().unwrap_or_else(PoisonError::into_inner);
        while 0 < *count {
            count = self.changed.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn depart(self: &Arc<Self>) -> InFlight {
        *self.in_flight_count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        InFlight(self.clone())
    }
}

/// A batch that is counted until it is dropped.
struct InFlight(Arc<StreamPool>);

impl Drop for InFlight {
    fn drop(&mut self) {
        *self.0.in_flight_count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.changed.notify_all();
    }
}

/// Runs batches so that what the host does for one happens while another is computed.
#[derive(Clone, Debug)]
pub struct OverlappedExecutor {
    pool: Arc<StreamPool>,
}

/// A batch on its way, with its place among the others.
struct Flight<T> {
    place: usize,
    load: T,
    guard: InFlight,
}

impl OverlappedExecutor {
    /// Over the streams of a pool.
    pub fn new(pool: Arc<StreamPool>) -> Self {
        Self { pool }
    }

    /// Its streams.
    pub fn pool(&self) -> &Arc<StreamPool> {
        &self.pool
    }

    /// Takes every batch through `copy_in`, `compute` and `copy_out`, and gives what came of each,
    /// in order. `lanes` are what the streams compute on, one for each; the first is used on the
    /// calling thread. Each step of one lane is done for one batch at a time, and at most one batch
    /// waits between two steps: `n` batches take `n` times the longest step and once the others.
    ///
    /// A batch is taken from `batches` no sooner than the one before it is being computed, or, with
    /// several lanes, handed to its lane.
    ///
    /// # Errors
    /// The first error of `compute`, by place. Batches that were not taken yet are not taken then,
    /// and what came of others is lost.
    ///
    /// # Panics
    /// When there is another number of lanes than of streams, and when a step does.
    pub fn execute_overlapped<T, L: Send, P: Send, C: Send, R: Send, E: Send>(
        &self,
        batches: impl Iterator<Item = T> + Send,
        lanes: &mut [L],
        copy_in: impl FnMut(T) -> P + Send,
        compute: impl Fn(&mut L, P) -> Result<C, E> + Sync,
        copy_out: impl FnMut(C) -> R + Send,
    ) -> Result<Vec<R>, E> {
        assert_eq!(lanes.len(), self.pool.stream_count(), "a lane for each stream");
        let is_over = AtomicBool::new(false);
        let (outwards, done) = sync_channel(1);
        let (failed, failures) = channel();
        let (inwards, arriving): (Vec<_>, Vec<_>) = lanes.iter().map(|_| sync_channel(0)).unzip();
        let mut results = std::thread::scope(|scope| {
            let is_over = &is_over;
            scope.spawn(move || self.bring_in(batches, copy_in, &inwards, is_over));
            let out = scope.spawn(move || bring_out(copy_out, &done));
            let mut work = lanes.iter_mut().zip(arriving);
            let first = work.next();
            for (lane, arriving) in work {
                let (compute, outwards, failed) = (&compute, outwards.clone(), failed.clone());
                scope.spawn(move || {
                    serve(lane, arriving, compute, outwards, failed, is_over);
                });
            }
            if let Some((lane, arriving)) = first {
                serve(lane, arriving, &compute, outwards, failed, is_over);
            }
            out.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        if let Some((_, err)) = failures.try_iter().min_by_key(|it| it.0) {
            return Err(err);
        }
        results.sort_unstable_by_key(|it| it.0);
        Ok(results.into_iter().map(|it| it.1).collect())
    }

    fn bring_in<T, P>(
        &self,
        mut batches: impl Iterator<Item = T>,
        mut copy_in: impl FnMut(T) -> P,
        inwards: &[SyncSender<Flight<P>>],
        is_over: &AtomicBool,
    ) {
        for place in 0.. {
            if is_over.load(Ordering::Acquire) {
                return;
            }
            let Some(batch) = batches.next() else { return };
            let guard = self.pool.depart();
            let stream = self.pool.next_compute_stream();
            let flight = Flight { place, load: copy_in(batch), guard };
            // A lane that has ended wants no more.
            if inwards[stream.index].send(flight).is_err() {
                return;
            }
        }
    }
}

/// Computes what arrives at one lane. Its ends of the ways go with it, so that nobody waits for a
/// lane that panicked.
fn serve<L, P, C, E>(
    lane: &mut L,
    arriving: Receiver<Flight<P>>,
    compute: &(impl Fn(&mut L, P) -> Result<C, E> + Sync),
    outwards: SyncSender<Flight<C>>,
    failed: Sender<(usize, E)>,
    is_over: &AtomicBool,
) {
    let over = Over(is_over);
    for Flight { place, load, guard } in arriving.iter() {
        match compute(lane, load) {
            Ok(load) => {
                if outwards.send(Flight { place, load, guard }).is_err() {
                    return;
                }
            }
            Err(err) => {
                // The other end is alive as long as the call is.
                let _ = failed.send((place, err));
                return;
            }
        }
    }
    std::mem::forget(over);
}

/// Says that no more batches are wanted, unless it is forgotten.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn bring_out<C, R>(
    mut copy_out: impl FnMut(C) -> R,
    done: &Receiver<Flight<C>>,
) -> Vec<(usize, R)> {
    let mut results = Vec::new();
    for Flight { place, load, guard } in done {
        results.push((place, copy_out(load)));
        drop(guard);
    }
    results
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use calor_telemetry::clock::Stopwatch;

    use super::*;

    /// A device of known delays, in milliseconds, and what it was asked to do.
    #[derive(Clone, Copy)]
    struct Delays {
        copy_in_ms: u64,
        compute_ms: u64,
        copy_out_ms: u64,
    }

    impl Delays {
        fn copy_ms(&self) -> u64 {
            self.copy_in_ms + self.copy_out_ms
        }

        /// What batches give, and how long they took.
        fn run(&self, stream_count: usize, batch_count: usize) -> (Vec<usize>, u64) {
            let pool = Arc::new(StreamPool::new(stream_count).unwrap());
            let executor = OverlappedExecutor::new(pool.clone());
            let ms = Duration::from_millis;
            let watch = Stopwatch::start();
            let results: Result<Vec<usize>, ()> = executor.execute_overlapped(
                0..batch_count,
                &mut vec![(); stream_count],
                |batch| {
                    sleep(ms(self.copy_in_ms));
                    batch
                },
                |(), batch| {
                    sleep(ms(self.compute_ms));
                    Ok(batch * batch)
                },
                |square| {
                    sleep(ms(self.copy_out_ms));
                    square
                },
            );
            let wall_ms = watch.elapsed_ns() / 1_000_000;
            pool.sync_all();
            assert_eq!(pool.in_flight_count(), 0);
            (results.unwrap(), wall_ms)
        }
    }

    /// `n` batches take at most `n * max(copy, compute) + copy + compute` and 5 %. A machine that
    /// others use is given three tries; what does not overlap needs half as much again each time.
    #[track_caller]
    fn check(delays: Delays, batch_count: usize) {
        let (copy_ms, compute_ms) = (delays.copy_ms(), delays.compute_ms);
        assert!(3 * compute_ms <= 10 * copy_ms, "there is something to hide");
        let count = batch_count as u64;
        let most_ms = count * copy_ms.max(compute_ms) + copy_ms + compute_ms;
        let most_ms = most_ms + most_ms / 20;
        assert!(most_ms < count * (copy_ms + compute_ms), "one after another would do, too");
        let walls_ms: Vec<u64> = (0..3)
            .map(|_| {
                let (results, wall_ms) = delays.run(1, batch_count);
                assert_eq!(results, (0..batch_count).map(|it| it * it).collect::<Vec<_>>());
                wall_ms
            })
            .collect();
        let least_ms = walls_ms.iter().min().copied().unwrap_or(u64::MAX);
        assert!(least_ms <= most_ms, "{walls_ms:?} of {most_ms} ms");
    }

    #[test]
    fn copies_hide_behind_computing() {
        check(Delays { copy_in_ms: 12, compute_ms: 40, copy_out_ms: 8 }, 12);
    }

    #[test]
    fn computing_hides_behind_copies() {
        check(Delays { copy_in_ms: 30, compute_ms: 20, copy_out_ms: 5 }, 12);
    }

    #[test]
    fn streams_compute_at_once() {
        let delays = Delays { copy_in_ms: 2, compute_ms: 40, copy_out_ms: 2 };
        let (results, two_ms) = delays.run(2, 12);
        assert_eq!(results, (0..12).map(|it| it * it).collect::<Vec<_>>(), "in order all the same");
        assert!(two_ms < 12 * 40, "{two_ms} ms");
    }

    #[test]
    fn no_stream_is_refused_and_turns_are_taken() {
        assert!(matches!(StreamPool::new(0), Err(EmbeddingError::ConfigError { .. })));
        let pool = StreamPool::new(3).unwrap();
        let turns: Vec<usize> = (0..7).map(|_| pool.next_compute_stream().index).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn the_first_error_ends_it_and_nothing_is_in_flight() {
        let pool = Arc::new(StreamPool::new(2).unwrap());
        let executor = OverlappedExecutor::new(pool.clone());
        let taken = AtomicUsize::new(0);
        let batches = (0..1000).inspect(|_| {
            taken.fetch_add(1, Ordering::Relaxed);
        });
        let fails = |(): &mut (), it: usize| if it < 4 { Ok(it) } else { Err(it) };
        let result = executor.execute_overlapped(batches, &mut [(), ()], |it| it, fails, |it| it);
        assert_eq!(result, Err(4));
        assert!(taken.load(Ordering::Relaxed) < 20, "{taken:?}");
        assert_eq!(pool.in_flight_count(), 0);
    }

    #[test]
    fn a_panic_of_any_step_is_the_callers() {
        for step in 0..3 {
            let pool = Arc::new(StreamPool::new(1).unwrap());
            let executor = OverlappedExecutor::new(pool.clone());
            let check = |at: usize, it: usize| {
                assert!(at != step || it != 3, "told to");
                it
            };
            let run = || {
                executor.execute_overlapped(
                    0..8,
                    &mut [()],
                    |it| check(0, it),
                    |(), it| Ok::<usize, ()>(check(1, it)),
                    |it| check(2, it),
                )
            };
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            assert!(outcome.is_err(), "step {step}");
            pool.sync_all();
        }
    }
}
