//! The device contract: steps, spans, claims, and the null device.
#![forbid(unsafe_code)]

pub mod claim;
pub mod contract;
pub mod error;
pub mod null;
pub mod step;

pub use claim::{Claim, Layout, Offer, OfferArg, OfferWord, Site};
pub use contract::{
    Artifact, BufferId, CodeId, Compiler, Device, Driver, Held, Memory, PreparedId, Queue,
    Signature, Ticket,
};
pub use error::DeviceError;
pub use step::{Span, Step, Word};
