//! A server on a real socket, with models that do as they are told.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod clients;
mod double;
mod events;
mod faults;
mod fixture;
mod fuzz;
mod grpc;
mod http;
mod lifecycle;
mod limits;
mod load;
mod pipeline;
mod placed;
mod places;
mod policy;
mod tls;
mod traces;
