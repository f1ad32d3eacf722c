//! The pipeline as its callers see it: values on the processor, life on the null device.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod criteria;
mod fixture;
mod forms;
mod lifecycle;
mod placed;
mod registry;
mod replicas;
mod values;
mod warmup;
