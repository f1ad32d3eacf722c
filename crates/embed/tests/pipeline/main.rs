//! The pipeline as its callers see it: values on the processor, life on the null device.

mod fixture;
mod lifecycle;
mod registry;
mod values;
