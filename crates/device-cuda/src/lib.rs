//! NVIDIA GPUs as devices: kernels compiled ahead by NVRTC, GEMM by cuBLASLt, programs captured.
//!
//! [`CudaDriver`] opens them. The program is built without any CUDA toolkit; libraries are looked
//! for when it runs ([`Libraries`]), and what is missing is said by name.
#![expect(unsafe_code, reason = "the driver's C interface; every block says why")]

mod api;
mod arch;
mod claims;
mod code;
mod compile;
mod device;
mod driver;
mod files;
mod form;
mod gemm;
mod library;
#[cfg(test)]
mod manifest;
mod memory;
mod nvrtc;
mod queue;
mod sources;
mod streams;

pub use arch::Arch;
pub use claims::claims;
pub use driver::{CudaDriver, CudaOptions};
pub use files::DirectStorage;
pub use library::{Libraries, Library, LibraryName, Missing, SearchPath};
