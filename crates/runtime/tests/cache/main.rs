//! The store of artifacts: what it keeps, what it refuses, and what it survives.
//!
//! Needs a file system, and processes of its own. Those that a test starts are this program
//! again, told by a variable to do the test's other part.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod builds;
mod damage;
mod faults;
mod fixture;
mod killed;
mod store;
