//! One maker for a key at a time: the others wait for what it makes.
//!
//! A maker that unwinds lands nothing, and a waiter takes its place.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use calor_device::DeviceError;

/// What a maker leaves for those who wait.
pub(super) type Landed = Result<Arc<[u8]>, DeviceError>;

/// One making, on its way.
#[derive(Debug, Default)]
pub(super) struct Flight {
    state: Mutex<State>,
    landed: Condvar,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    InTheAir,
    Landed(Landed),
    Lost,
}

impl Flight {
    /// Waits for the end; `None` when the maker unwound.
    pub(super) fn wait(&self) -> Option<Landed> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*state {
                State::InTheAir => {
                    state = self.landed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                State::Landed(landed) => return Some(landed.clone()),
                State::Lost => return None,
            }
        }
    }

    /// Wakes everyone who waits, with `None` when there is nothing to give.
    pub(super) fn land(&self, landed: Option<Landed>) {
        let state = landed.map_or(State::Lost, State::Landed);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.landed.notify_all();
    }
}
