//! Work on many items by several threads, where that pays.

use std::sync::LazyLock;

/// What `work` makes of each item, in order. Each thread has `each_min` items or more, and this
/// one works too; of fewer than twice as many it does all.
pub(crate) fn in_pieces<T: Sync, R: Send>(
    items: &[T],
    each_min: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let each = items.len().div_ceil(thread_count()).max(each_min).max(1);
    if items.len() <= each {
        return items.iter().map(work).collect();
    }
    let mut pieces = items.chunks(each);
    let first = pieces.next().unwrap_or_default();
    let work = &work;
    std::thread::scope(|scope| {
        let others: Vec<_> = pieces
            .map(|piece| scope.spawn(move || piece.iter().map(work).collect::<Vec<R>>()))
            .collect();
        let mut made: Vec<R> = Vec::with_capacity(items.len());
        made.extend(first.iter().map(work));
        for other in others {
            match other.join() {
                Ok(more) => made.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        made
    })
}

/// Threads that run at once. Asked once: the answer is in files of the system.
pub(crate) fn thread_count() -> usize {
    static COUNT: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    *COUNT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_worked_on_once_and_in_order() {
        for (count, each_min) in [(0, 1), (1, 4), (7, 3), (64, 1), (65, 8), (3, 0)] {
            let items: Vec<usize> = (0..count).collect();
            let made = in_pieces(&items, each_min, |it| 2 * it);
            assert_eq!(made, items.iter().map(|it| 2 * it).collect::<Vec<_>>(), "{count}");
        }
    }

    #[test]
    fn a_panic_is_passed_on() {
        let items: Vec<usize> = (0..64).collect();
        let run = || in_pieces(&items, 1, |it| assert!(*it != 63, "the last one"));
        assert!(std::panic::catch_unwind(run).is_err());
    }
}
