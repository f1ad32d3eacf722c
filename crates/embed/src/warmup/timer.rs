//! Waiting for a future no longer than a time, without an executor.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use calor_telemetry::clock::now_ns;

/// How waiting ended.
#[derive(Debug, PartialEq)]
pub(super) enum Waited<T> {
    /// In time.
    Done(T),
    /// Too late; the future was dropped.
    TimedOut,
    /// With a panic, whose message this is.
    Panicked(String),
}

/// Polls `future` until it ends, panics, or the clock shows `until_ns`.
pub(super) async fn until<F: Future>(until_ns: u64, future: F) -> Waited<F::Output> {
    let mut future = pin!(future);
    let alarm = Alarm::start(until_ns);
    let waited = std::future::poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        match polled {
            Ok(Poll::Ready(output)) => Poll::Ready(Waited::Done(output)),
            Err(payload) => Poll::Ready(Waited::Panicked(message(payload.as_ref()))),
            Ok(Poll::Pending) => match alarm.has_rung(context.waker()) {
                true => Poll::Ready(Waited::TimedOut),
                false => Poll::Pending,
            },
        }
    });
    waited.await
}

fn message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// A thread that wakes a waker once; it ends with its owner.
struct Alarm(Arc<Bell>);

#[derive(Default)]
struct Bell {
    state: Mutex<BellState>,
    changed: Condvar,
}

#[derive(Default)]
struct BellState {
    rung: bool,
    dropped: bool,
    waker: Option<Waker>,
}

impl Alarm {
    fn start(until_ns: u64) -> Self {
        let bell = Arc::new(Bell::default());
        let own = bell.clone();
        let body = move || own.wait(until_ns);
        if std::thread::Builder::new().name("calor-alarm".into()).spawn(body).is_err() {
            // Without a thread nothing is waited for: late beats never.
            bell.state.lock().unwrap_or_else(PoisonError::into_inner).rung = true;
        }
        Self(bell)
    }

    fn has_rung(&self, waker: &Waker) -> bool {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waker = Some(waker.clone());
        state.rung
    }
}

impl Bell {
    fn wait(&self, until_ns: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.dropped {
                return;
            }
            let now = now_ns();
            if until_ns <= now {
                state.rung = true;
                if let Some(waker) = state.waker.take() {
                    waker.wake();
                }
                return;
            }
            let wait = Duration::from_nanos(until_ns - now);
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).dropped = true;
        self.0.changed.notify_one();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end on this thread: for callers without an executor.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn waiting_ends_in_time_late_or_with_a_panic() {
    let soon = || now_ns() + 20_000_000;
    assert_eq!(block_on(until(soon(), async { 7 })), Waited::Done(7));
    assert_eq!(block_on(until(soon(), std::future::pending::<()>())), Waited::TimedOut);
    let panics = async { panic!("as told") };
    assert_eq!(block_on(until::<_>(soon(), panics)), Waited::<()>::Panicked("as told".into()));
    assert_eq!(block_on(until(0, std::future::pending::<()>())), Waited::TimedOut);
}
