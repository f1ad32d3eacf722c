//! The device contract: steps, spans, claims, and the null device.
#![forbid(unsafe_code)]

pub mod artifact;
pub mod claim;
pub mod contract;
pub mod error;
pub mod null;
pub mod profile;
pub mod step;

pub use artifact::{Artifact, ArtifactKey, ArtifactKind, Artifacts, Compiled, Found, NoArtifacts};
pub use claim::{Claim, Layout, Offer, OfferArg, OfferWord, Site};
pub use contract::{
    BufferId, CodeId, Compiler, Device, Driver, FileRead, Held, HostMemory, Memory, PreparedId,
    Queue, Signature, Ticket, plain_host_memory,
};
pub use error::DeviceError;
pub use profile::{Profile, TimedRun};
pub use step::{Span, Step, Word};
