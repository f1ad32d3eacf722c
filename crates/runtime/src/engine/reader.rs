//! Threads that read weights ahead of the loader, in the loader's order.
//!
//! A job is as much of one or more weights as is written to the device at once. Each thread takes
//! the next job, reads it part by part, so that a part is still near the processor when its
//! digest and sums are taken, and hands it over. At most a few more jobs than threads are ahead.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use calor_device::HostMemory;
use calor_kernel::Digest;

use super::proof::{self, Sums};
use super::schedule::ALIGN_BYTES;
use crate::source::{PART_LEN, SourceError, Stored, WeightSource};

/// Elements of a job: long enough that the bus is busy, and short, as memory that a device reads
/// takes half a millisecond a MiB to come by.
pub(super) const JOB_LEN: usize = 1 << 20;
const _: () = assert!(JOB_LEN.is_multiple_of(PART_LEN), "a part lies in one job");
/// Elements between which pieces of a job begin: as buffers in the hall do.
const ALIGN_LEN: usize = ALIGN_BYTES as usize / 4;
/// Most threads that read. More are not faster than what takes their bytes.
const THREADS_MAX: usize = 8;
/// Jobs that may be read or waiting beyond one for each thread.
const AHEAD: usize = 2;

/// A weight to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load<'a> {
    pub(super) name: &'a str,
    pub(super) count: usize,
    /// Where the device reads it by itself, if it does: no reader does then.
    pub(super) direct: Option<Stored<'a>>,
}

/// Elements of one weight in a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Which weight.
    pub(super) load: usize,
    /// Its first element.
    pub(super) first: usize,
    pub(super) len: usize,
    /// Where it begins in the job's memory.
    pub(super) at: usize,
}

/// Pieces that are read together.
pub(super) type Job = Vec<Piece>;

/// Jobs for the weights of one round, numbered from `first` on.
pub(super) fn jobs(loads: &[Load<'_>], first: usize) -> Vec<Job> {
    let mut out = Vec::new();
    let (mut job, mut used): (Job, usize) = (Vec::new(), 0);
    let read = loads.iter().enumerate().filter(|it| it.1.direct.is_none());
    for (load, Load { count, .. }) in read {
        for start in (0..*count).step_by(JOB_LEN) {
            let len = JOB_LEN.min(count - start);
            if JOB_LEN < used + len {
                out.push(std::mem::take(&mut job));
                used = 0;
            }
            job.push(Piece { load: first + load, first: start, len, at: used });
            used = (used + len).next_multiple_of(ALIGN_LEN);
        }
    }
    if !job.is_empty() {
        out.push(job);
    }
    out
}

/// A job that was read.
pub(super) struct Filled {
    /// The job's memory.
    pub(super) elements: Box<dyn HostMemory>,
    /// For each piece, digests of its parts where the source has something to compare them with.
    pub(super) parts: Vec<Vec<Option<Digest>>>,
    /// For each piece, the sums of its rows where they are wanted.
    pub(super) sums: Vec<Vec<Sums>>,
}

/// What the threads do.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) source: &'a dyn WeightSource,
    pub(super) loads: &'a [Load<'a>],
    pub(super) jobs: &'a [Job],
    /// Whether sums are wanted.
    pub(super) sums: bool,
}

/// Why a weight was not read: which, and what the source said.
pub(super) type Unread = (usize, SourceError);

/// What readers and loader share.
#[derive(Default)]
pub(super) struct Window {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Jobs given to readers.
    given: usize,
    /// Jobs that the loader has taken.
    taken: usize,
    ready: BTreeMap<usize, Result<Filled, Unread>>,
    spare: Vec<Box<dyn HostMemory>>,
    ended: bool,
}

/// Threads that read so many jobs.
fn thread_count(job_count: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    processors.min(THREADS_MAX).min(job_count)
}

/// Jobs of so many that are read or wait at a time: each has memory of its own.
pub(super) fn ahead_max(job_count: usize) -> usize {
    (thread_count(job_count) + AHEAD).min(job_count)
}

impl Window {
    /// With memory for the jobs that are ahead.
    pub(super) fn new(spare: Vec<Box<dyn HostMemory>>) -> Self {
        Self { state: Mutex::new(State { spare, ..State::default() }), changed: Condvar::new() }
    }

    /// The memory that came back.
    pub(super) fn into_spare(self) -> Vec<Box<dyn HostMemory>> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).spare
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job's number and memory; none when nothing is left to read.
    fn claim(&self, job_count: usize) -> Option<(usize, Box<dyn HostMemory>)> {
        let mut state = self.state();
        loop {
            if state.ended || job_count <= state.given {
                return None;
            }
            if let Some(elements) = state.spare.pop() {
                state.given += 1;
                return Some((state.given - 1, elements));
            }
            state = self.wait(state);
        }
    }

    fn hand_over(&self, number: usize, filled: Result<Filled, Unread>) {
        self.state().ready.insert(number, filled);
        self.changed.notify_all();
    }

    /// The next job in order, as soon as it is read; none when a reader gave up.
    pub(super) fn take(&self) -> Option<Result<Filled, Unread>> {
        let mut state = self.state();
        loop {
            let number = state.taken;
            if let Some(filled) = state.ready.remove(&number) {
                state.taken += 1;
                self.changed.notify_all();
                return Some(filled);
            }
            if state.ended {
                return None;
            }
            state = self.wait(state);
        }
    }

    /// Takes a job's memory back for another one.
    pub(super) fn give_back(&self, elements: Box<dyn HostMemory>) {
        self.state().spare.push(elements);
        self.changed.notify_all();
    }
}

/// Lets everyone who waits go on when it is dropped: the loader has left, or a reader panicked.
pub(super) struct Ending<'a>(pub(super) &'a Window);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
    }
}

impl<'a> Reading<'a> {
    /// Starts the threads.
    pub(super) fn start<'s>(self, scope: &'s std::thread::Scope<'s, '_>, window: &'s Window)
    where
        'a: 's,
    {
        for _ in 0..thread_count(self.jobs.len()) {
            scope.spawn(move || {
                let ending = Ending(window);
                while let Some((number, elements)) = window.claim(self.jobs.len()) {
                    window.hand_over(number, self.fill(&self.jobs[number], elements));
                }
                // A reader that ends in peace leaves the others alone.
                std::mem::forget(ending);
            });
        }
    }

    fn fill(&self, job: &Job, mut elements: Box<dyn HostMemory>) -> Result<Filled, Unread> {
        let (mut of_parts, mut of_sums) = (Vec::new(), Vec::new());
        for Piece { load, first, len, at } in job {
            let (mut parts, mut sums) = (Vec::new(), Vec::new());
            for (index, part) in elements[*at..at + len].chunks_mut(PART_LEN).enumerate() {
                let first = first + index * PART_LEN;
                let digest = self.source.read_part(self.loads[*load].name, first, part);
                parts.push(digest.map_err(|source| (*load, source))?);
                if self.sums {
                    proof::sums(part, &mut sums);
                }
            }
            of_parts.push(parts);
            of_sums.push(sums);
        }
        Ok(Filled { elements, parts: of_parts, sums: of_sums })
    }
}

#[test]
fn jobs_hold_every_element_once_and_in_order() {
    let counts = [3, 5 * JOB_LEN + 7, 100, 0, JOB_LEN];
    let loads: Vec<Load<'_>> =
        counts.iter().map(|it| Load { name: "w", count: *it, direct: None }).collect();
    let jobs = jobs(&loads, 10);
    let mut seen = vec![0; counts.len()];
    for job in &jobs {
        let mut end = 0;
        for piece in job {
            assert!(end <= piece.at && piece.at.is_multiple_of(ALIGN_LEN), "{piece:?}");
            assert!(piece.first.is_multiple_of(PART_LEN) && 0 < piece.len, "{piece:?}");
            assert_eq!(seen[piece.load - 10], piece.first);
            seen[piece.load - 10] += piece.len;
            end = piece.at + piece.len;
        }
        assert!(end <= JOB_LEN);
    }
    assert_eq!(seen, counts);
}
