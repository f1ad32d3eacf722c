//! device-cpu
#![expect(unsafe_code, reason = "SIMD and shared buffers; every block states its promise")]
