//! The processor as a device: threads, vectors and the native kernels.
//!
//! Kernels take views of floats and a [`Pool`]; they allocate nothing and know no graph.
#![expect(unsafe_code, reason = "vector instructions and shared buffers; every block says why")]

pub mod activation;
pub mod attention;
pub mod experts;
pub mod gemm;
pub mod rows;
pub mod simd;
pub mod splade;
pub mod threads;
mod tile;
pub mod view;
mod vm;

#[cfg(test)]
mod sample;

pub use activation::Activation;
pub use simd::Level;
pub use threads::{Pool, TaskPanicked};
pub use view::{Aligned, Input, Rows, RowsMut};
