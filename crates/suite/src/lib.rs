//! Checks of whole models on any device.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a check ends at the first surprise")]

pub mod bench;
mod golden;
mod large;
pub mod weights;

pub use golden::Golden;
pub use large::{check_attention, check_products};
