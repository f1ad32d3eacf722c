//! What one call asks of the heap and how many instructions it takes, where this build and this
//! machine count that. Where they do not, the reason: a count that is not there is not zero.
//!
//! Both count the thread that calls; kernels on other threads ask the heap for nothing, which a
//! test of the device says.

/// Why something was not counted, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Uncounted(pub(crate) String);

/// Allocations that `work` makes, and the bytes of them.
#[cfg(feature = "counts")]
pub(crate) fn heap_of(work: impl FnOnce()) -> Result<(u64, u64), Uncounted> {
    let info = allocation_counter::measure(work);
    Ok((info.count_total, info.bytes_total))
}

/// Allocations that `work` makes, and the bytes of them.
#[cfg(not(feature = "counts"))]
pub(crate) fn heap_of(_work: impl FnOnce()) -> Result<(u64, u64), Uncounted> {
    Err(not_built())
}

/// Instructions of `work` outside the system's kernel.
#[cfg(all(feature = "counts", target_os = "linux"))]
pub(crate) fn instructions_of(work: impl FnOnce()) -> Result<u64, Uncounted> {
    use perf_event::{Builder, events::Hardware};
    let fault = |err: std::io::Error| Uncounted(format!("the system does not count them: {err}"));
    let mut counter = Builder::new(Hardware::INSTRUCTIONS).build().map_err(fault)?;
    counter.enable().map_err(fault)?;
    work();
    counter.disable().map_err(fault)?;
    counter.read().map_err(fault)
}

/// Instructions of `work` outside the system's kernel.
#[cfg(not(all(feature = "counts", target_os = "linux")))]
pub(crate) fn instructions_of(_work: impl FnOnce()) -> Result<u64, Uncounted> {
    Err(not_built())
}

#[cfg(not(all(feature = "counts", target_os = "linux")))]
fn not_built() -> Uncounted {
    Uncounted("this build does not count them; it lacks the feature `counts`".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() {
        for size in 1..=3 {
            std::hint::black_box(vec![0_u8; size * 100]);
        }
    }

    #[test]
    fn what_is_counted_is_exact_and_what_is_not_has_a_reason() {
        match heap_of(work) {
            Ok(found) => assert_eq!(found, (3, 600)),
            Err(Uncounted(why)) => assert!(why.contains("`counts`"), "{why}"),
        }
        assert_eq!(heap_of(work).is_ok(), cfg!(feature = "counts"));
        match instructions_of(work) {
            Ok(found) => assert!((100..10_000_000).contains(&found), "{found}"),
            Err(Uncounted(why)) => assert!(why.contains("count them"), "{why}"),
        }
    }
}
