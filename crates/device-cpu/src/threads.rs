//! The device's threads: a fixed crew that runs numbered tasks.
//!
//! Knows nothing about kernels. A run allocates nothing, and which worker gets which task is
//! not decided, so a task must not let its worker's number change its result.

use std::{
    cell::{Cell, UnsafeCell},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

/// Most threads that a pool may have.
pub const THREAD_COUNT_MAX: usize = 1024;

/// Turns of the spin loop before a thread sleeps: some tens of microseconds.
const SPIN_TURNS: usize = 600;

/// Fixed workers that run numbered tasks together with the thread that asks.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One run at a time; other callers wait here.
    turn: Mutex<()>,
}

/// A task panicked. The other tasks of its run may not have been run; the pool stays usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskPanicked {
    /// Number of the first task that was seen to panic.
    pub task_index: usize,
    /// What it said, empty when that was not text.
    pub message: String,
}

impl fmt::Display for TaskPanicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} panicked: {}", self.task_index, self.message)
    }
}

impl std::error::Error for TaskPanicked {}

impl Pool {
    /// A pool of `thread_count` threads, the caller's included: it starts one fewer.
    ///
    /// # Errors
    /// When the system refuses a thread; those already started are joined.
    ///
    /// # Panics
    /// When `thread_count` is 0 or above [`THREAD_COUNT_MAX`].
    pub fn new(thread_count: usize) -> std::io::Result<Self> {
        assert!((1..=THREAD_COUNT_MAX).contains(&thread_count));
        let shared = Arc::new(Shared::default());
        let mut pool = Self { shared, workers: Vec::new(), turn: Mutex::new(()) };
        for worker_index in 1..thread_count {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("calor-cpu-{worker_index}"))
                .spawn(move || shared.serve(worker_index))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that take part in a run; worker numbers are below this.
    pub fn thread_count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(task_index, worker_index)` once for each index below `task_count` and returns
    /// when all are done. No two tasks that run at once see the same `worker_index`.
    ///
    /// Cost: no allocation; the caller takes part; with one thread or one task nobody is woken.
    ///
    /// # Errors
    /// [`TaskPanicked`] when a task panicked.
    ///
    /// # Panics
    /// When called from inside a task of any pool: the worker's scratch would be used twice.
    pub fn run(
        &self,
        task_count: usize,
        task: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<(), TaskPanicked> {
        assert!(!IN_TASK.get(), "a task must not start a run");
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        shared.next.store(0, Ordering::Relaxed);
        let job = Job::new(task, task_count);
        if self.workers.is_empty() || task_count <= 1 {
            shared.work(job, 0);
        } else {
            shared.open(job, task_count.min(self.thread_count()) - 1);
            shared.work(job, 0);
            shared.close();
        }
        match lock(&shared.panicked).take() {
            Some(panicked) => Err(panicked),
            None => Ok(()),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.work_waits.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches what its tasks throw, so there is nothing to hear here.
            let _ = worker.join();
        }
    }
}

thread_local! {
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// A run as the workers see it. Valid from `open` until `close` returns.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize, usize) + Sync + 'static),
    task_count: usize,
}

impl Job {
    fn new<'a>(task: &'a (dyn Fn(usize, usize) + Sync + 'a), task_count: usize) -> Self {
        let task: *const (dyn Fn(usize, usize) + Sync + 'a) = task;
        // SAFETY: only the lifetime changes; `Pool::run` does not return while a worker holds
        // the pointer.
        let task = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize, usize) + Sync + 'a),
                *const (dyn Fn(usize, usize) + Sync + 'static),
            >(task)
        };
        Self { task, task_count }
    }
}

/// Bit of [`Shared::state`] that says that workers may join the run.
const OPEN: u64 = 1 << 16;
/// The workers inside the run are counted below [`OPEN`].
const ACTIVE: u64 = OPEN - 1;
/// The run's number stands above.
const EPOCH: u64 = 1 << 32;

#[derive(Default)]
struct Shared {
    /// Run number, whether it is open, how many workers are inside it.
    state: AtomicU64,
    next: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    stop: AtomicBool,
    panicked: Mutex<Option<TaskPanicked>>,
    sleeper_count: AtomicUsize,
    caller_sleeps: AtomicBool,
    sleep: Mutex<()>,
    work_waits: Condvar,
    work_done: Condvar,
}

// SAFETY: `job` is written only while the run is closed and nobody is inside it, and read only
// by workers that are inside; `state` orders the two. The task behind it is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is used only during a run, as above.
unsafe impl Send for Shared {}

impl Shared {
    fn open(&self, job: Job, helper_count: usize) {
        // SAFETY: the run before is closed and empty, so no worker reads the cell.
        unsafe { *self.job.get() = Some(job) };
        let epoch = self.state.load(Ordering::Relaxed) / EPOCH + 1;
        self.state.store(((epoch % EPOCH) * EPOCH) | OPEN, Ordering::SeqCst);
        let sleeper_count = self.sleeper_count.load(Ordering::SeqCst);
        if sleeper_count == 0 {
            return;
        }
        drop(lock(&self.sleep));
        if sleeper_count <= helper_count {
            self.work_waits.notify_all();
        } else {
            for _ in 0..helper_count {
                self.work_waits.notify_one();
            }
        }
    }

    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        for _ in 0..SPIN_TURNS {
            if self.state.load(Ordering::SeqCst) & ACTIVE == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.sleep);
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while self.state.load(Ordering::SeqCst) & ACTIVE != 0 {
            guard = self.work_done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    fn serve(&self, worker_index: usize) {
        let mut seen = 0;
        while let Some(job) = self.join(&mut seen) {
            self.work(job, worker_index);
            let before = self.state.fetch_sub(1, Ordering::SeqCst);
            if before & ACTIVE == 1 && self.caller_sleeps.load(Ordering::SeqCst) {
                drop(lock(&self.sleep));
                self.work_done.notify_all();
            }
        }
    }

    /// Waits for a run that this worker has not been in, and enters it; none means stop.
    fn join(&self, seen: &mut u64) -> Option<Job> {
        for _ in 0..SPIN_TURNS {
            if let Some(job) = self.try_join(seen) {
                return Some(job);
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.sleep);
        self.sleeper_count.fetch_add(1, Ordering::SeqCst);
        let job = loop {
            if self.stop.load(Ordering::SeqCst) {
                break None;
            }
            if let Some(job) = self.try_join(seen) {
                break Some(job);
            }
            guard = self.work_waits.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleeper_count.fetch_sub(1, Ordering::SeqCst);
        job
    }

    fn try_join(&self, seen: &mut u64) -> Option<Job> {
        let mut state = self.state.load(Ordering::SeqCst);
        while state & OPEN != 0 && state / EPOCH != *seen {
            match self.state.compare_exchange_weak(
                state,
                state + 1,
                Ordering::SeqCst,
                Ordering::SeqCst,
            ) {
                Ok(_) => {
                    *seen = state / EPOCH;
                    // SAFETY: this worker is counted in `state`, so the cell is not written.
                    return unsafe { *self.job.get() };
                }
                Err(now) => state = now,
            }
        }
        None
    }

    /// Takes tasks until none is left. After a panic none is.
    fn work(&self, job: Job, worker_index: usize) {
        // SAFETY: the run lasts until every worker has left it, and the task with it.
        let task = unsafe { &*job.task };
        let now = Cell::new(0);
        IN_TASK.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let task_index = self.next.fetch_add(1, Ordering::Relaxed);
                if job.task_count <= task_index {
                    return;
                }
                now.set(task_index);
                task(task_index, worker_index);
            }
        }));
        IN_TASK.set(false);
        if let Err(payload) = outcome {
            self.next.store(job.task_count, Ordering::Relaxed);
            let message = payload.downcast_ref::<String>().cloned();
            let message =
                message.or_else(|| payload.downcast_ref::<&str>().map(|it| (*it).to_owned()));
            let message = message.unwrap_or_default();
            lock(&self.panicked).get_or_insert(TaskPanicked { task_index: now.get(), message });
        }
    }
}

/// Nothing here is left half-written by a panic, so a poisoned lock is as good as another.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(thread_count: usize, task_count: usize) {
        let pool = Pool::new(thread_count).unwrap();
        for _ in 0..50 {
            let counts: Vec<AtomicUsize> = (0..task_count).map(|_| AtomicUsize::new(0)).collect();
            let busy: Vec<AtomicBool> = (0..thread_count).map(|_| AtomicBool::new(false)).collect();
            pool.run(task_count, &|task_index, worker_index| {
                assert!(!busy[worker_index].swap(true, Ordering::SeqCst));
                counts[task_index].fetch_add(1, Ordering::SeqCst);
                busy[worker_index].store(false, Ordering::SeqCst);
            })
            .unwrap();
            assert!(counts.iter().all(|it| it.load(Ordering::SeqCst) == 1));
        }
    }

    #[test]
    fn each_task_runs_once() {
        for thread_count in [1, 2, 3, 8] {
            for task_count in [0, 1, 2, 7, 100] {
                check(thread_count, task_count);
            }
        }
    }

    #[test]
    fn sleeping_workers_are_woken() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let met = std::sync::Barrier::new(3);
            pool.run(3, &|_, _| {
                met.wait();
            })
            .unwrap();
        }
    }

    #[test]
    fn a_slow_worker_is_waited_for() {
        let pool = Pool::new(2).unwrap();
        let done = AtomicUsize::new(0);
        let met = std::sync::Barrier::new(2);
        pool.run(2, &|_, worker_index| {
            met.wait();
            if worker_index == 1 {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            done.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_lives() {
        for thread_count in [1, 2] {
            let pool = Pool::new(thread_count).unwrap();
            for _ in 0..10 {
                let error = pool
                    .run(20, &|task_index, _| assert!(task_index != 7, "no sevens"))
                    .unwrap_err();
                assert_eq!(error, TaskPanicked { task_index: 7, message: "no sevens".into() });
                pool.run(20, &|_, _| ()).unwrap();
            }
        }
    }

    #[test]
    fn a_run_inside_a_task_is_refused() {
        let pool = Pool::new(1).unwrap();
        let error = pool.run(1, &|_, _| pool.run(1, &|_, _| ()).unwrap()).unwrap_err();
        assert_eq!(error.message, "a task must not start a run");
    }

    #[test]
    fn callers_take_turns() {
        let pool = Pool::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(10, &|task_index, _| {
                            sum.fetch_add(task_index, Ordering::SeqCst);
                        })
                        .unwrap();
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 50 * 45);
    }
}
