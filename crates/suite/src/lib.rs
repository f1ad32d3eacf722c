//! Checks of whole models on any device.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a check ends at the first surprise")]

pub mod bench;
mod decoder;
mod golden;
mod large;
mod outside;

pub use decoder::check_decoders;
pub use golden::Golden;
pub use large::{check_attention, check_products};
pub use outside::sealed_runs;
