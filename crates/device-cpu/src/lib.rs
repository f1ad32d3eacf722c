//! The processor as a device: threads, vectors and the native kernels.
//!
//! [`CpuDriver`] opens it. Underneath, kernels take views of floats and a [`Pool`]; they
//! allocate nothing and know no graph.
#![expect(unsafe_code, reason = "vector instructions and shared buffers; every block says why")]

pub mod activation;
pub mod attention;
pub mod claims;
mod code;
mod compile;
mod decode;
mod device;
mod driver;
pub mod experts;
pub mod gemm;
mod memory;
mod native;
mod queue;
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
pub use claims::CLAIMS;
pub use driver::CpuDriver;
pub use memory::ALIGN_BYTES;
pub use native::native_name;
pub use simd::Level;
pub use threads::{Pool, TaskPanicked};
pub use view::{Aligned, Input, Rows, RowsMut};
