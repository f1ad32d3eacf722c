//! Checks of whole models on any device.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a check ends at the first surprise")]

mod baked;
pub mod bench;
mod golden;
mod large;
mod nf4;

pub use baked::check_baked_values;
pub use golden::Golden;
pub use large::{check_attention, check_products};
pub use nf4::check_nf4;
