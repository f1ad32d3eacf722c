//! Check functions and device conformance.
//!
//! Every op case runs on a device ([`check_case`]) and, planned without any claim, on the
//! reference interpreter ([`run_on_interpreter`]); both are compared with the oracle. A device
//! crate's whole conformance is one line: [`conformance!`]. Not here: benchmarks.
#![forbid(unsafe_code)]

pub mod compare;
pub mod conformance;
pub mod contract;
pub mod decoders;
pub mod device_case;
pub mod joined;
pub mod prewarm;
pub mod random_graph;
pub mod reference;
pub mod rewrite;
pub mod stacks;
pub mod valid;

/// Plans and programs, for the tests of devices: they lie below this crate.
pub use calor_runtime as runtime;
pub use compare::{Mismatch, agree};
pub use conformance::{Known, check_all, failures};
pub use device_case::{Checked, Failure, check_case};
pub use joined::check_joined;
pub use reference::{Reference, ReferenceError, run_on_interpreter};
pub use valid::check_plan;

/// Says that a test is skipped, where people and the summary of all tests see it.
///
/// # Panics
/// When the log that the summary reads cannot be written.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
#[expect(clippy::disallowed_methods, reason = "the development task says here where its log is")]
pub fn skip(line: &str) {
    use std::io::Write;
    eprintln!("{line}");
    if let Ok(path) = std::env::var("CALOR_SKIP_LOG") {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path);
        log.and_then(|mut it| writeln!(it, "{line}"))
            .unwrap_or_else(|err| panic!("the log of skipped tests: {err}"));
    }
}
