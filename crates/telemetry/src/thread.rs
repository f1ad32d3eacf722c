//! Small numbers for threads, and the names that traces show for them.
//!
//! The number picks a counter shard and a ring; the name is kept when a thread first records.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

static NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

const UNNUMBERED: u32 = u32::MAX;

thread_local! {
    static INDEX: Cell<u32> = const { Cell::new(UNNUMBERED) };
}

/// This thread's number: dense, in order of first use, never given out again.
///
/// The first call in a thread allocates its name; later calls read a thread-local cell.
#[inline]
pub fn index() -> u32 {
    // A thread that is being torn down has no cell left; it shares the first number.
    INDEX
        .try_with(|cell| if cell.get() == UNNUMBERED { number(cell) } else { cell.get() })
        .unwrap_or(0)
}

/// The name of thread `index`: what it was called when it first recorded, else its number.
pub fn name(index: u32) -> String {
    let names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names.get(index as usize).cloned().unwrap_or_else(|| format!("thread {index}"))
}

#[cold]
fn number(cell: &Cell<u32>) -> u32 {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let index = u32::try_from(names.len()).unwrap_or(0);
    let name = std::thread::current().name().map(str::to_owned);
    names.push(name.unwrap_or_else(|| format!("thread {index}")));
    cell.set(index);
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_stable_and_its_own() {
        let here = index();
        assert_eq!(here, index());
        let there = std::thread::Builder::new().name("lane 7".into()).spawn(index).unwrap();
        let there = there.join().unwrap();
        assert_ne!(here, there);
        assert_eq!(name(there), "lane 7");
    }
}
