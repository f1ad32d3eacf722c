//! Compiled code that outlives a build: in memory, in a folder, and in files that move between
//! machines.
//!
//! [`ArtifactStore`] is what a device asks. It gives what it kept and verified, and has the rest
//! made once, however many ask. What goes wrong with its folder is counted and never stops work.
//! Keys are made by devices; nothing here decides what is compiled.

mod bundle;
mod clean;
mod directory;
mod envelope;
mod error;
mod flight;
mod inventory;
mod layer;
mod lock;
mod memory;
mod store;
mod table;
mod tally;

pub use bundle::{BUNDLE_BYTES_MAX, Bundle};
pub use clean::Cleared;
pub use directory::{DIRECTORY_NAME, Directory, ENTRY_BYTES_MAX};
pub use envelope::{Envelope, Flaw};
pub use error::CacheError;
pub use inventory::{Row, Usage};
pub use layer::Layer;
pub use store::{ArtifactStore, DISK_BYTES_MAX, MEMORY_BYTES_MAX, StoreOptions};
pub use table::{CACHES, CacheRow};
