//! Several devices with the same models each: who takes which work, and what happens when one is
//! lost.
//!
//! A device is known by the number that its driver gave it, also when others before it are gone.
//! Nothing here opens a device: replicas come in as models.

mod balancer;
mod bulk;
mod embedder;
mod pipeline;

pub use balancer::{LoadGuard, MultiGpuBalancer};
pub use embedder::MultiGpuEmbedder;
pub use pipeline::MultiGpuPipeline;
