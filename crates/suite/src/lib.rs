//! Checks of whole models on any device.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a check ends at the first surprise")]

pub mod arm;
mod baked;
pub mod bench;
mod decoder;
mod direct;
pub mod first;
mod golden;
pub mod growth;
mod large;
mod nf4;
mod outside;
pub mod parity;
mod partly;
pub mod parts;
pub mod pipeline;
pub mod rate;
pub mod requests;
mod rows;
pub mod soak;
pub mod weights;

pub use baked::check_baked_values;
pub use decoder::check_decoders;
pub use direct::check_direct;
pub use golden::Golden;
pub use large::{check_attention, check_experts, check_gates, check_narrow_products};
pub use large::{check_products, check_splade};
pub use nf4::check_nf4;
pub use outside::sealed_runs;
pub use partly::check_partly_filled;
pub use rows::{check_norms, check_pools};
