//! The pipeline over HTTP and gRPC: one process, one port, ready only when it is warm.
//!
//! Requests of every protocol come down to inputs in a bounded queue ([`options`] says how
//! large); one thread owns the models and runs batches. What opens the models is passed in
//! ([`engine::Opener`]): no device, no file of settings and no environment is known here.
#![forbid(unsafe_code)]

mod admission;
mod batcher;
pub mod blocking;
mod counting;
pub mod engine;
mod grpc;
mod http;
mod lifecycle;
mod listen;
pub mod load;
mod metrics;
mod operations;
pub mod options;
mod progress;
mod readiness;
mod refusal;
mod results;
mod server;
mod service;
mod traces;
mod wire;

pub use engine::{Engine, Opened, Opener};
pub use options::{ServerOptions, Target};
pub use progress::Progress;
pub use readiness::Phase;
pub use server::{Ended, Handle, Server, ServerError};
