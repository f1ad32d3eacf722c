//! Checks of whole models on any device.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a check ends at the first surprise")]

pub mod bench;
mod golden;
mod large;

pub use golden::Golden;
pub use large::{check_attention, check_narrow_products, check_products};
