//! Checks of whole models on any device.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a check ends at the first surprise")]

pub mod bench;
mod golden;
mod large;
mod rows;

pub use golden::Golden;
pub use large::{check_attention, check_gates, check_products};
pub use rows::{check_norms, check_pools};
