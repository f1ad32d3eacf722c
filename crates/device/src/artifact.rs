//! Compiled code outside a device, and where it is kept.
//!
//! A device knows what decides the bytes of its code; it says so in an [`ArtifactKey`] and asks
//! an [`Artifacts`] before it compiles. Nobody else writes such a key.

use calor_kernel::Digest;

use crate::error::DeviceError;

/// Compiled code: what the artifact cache keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The architecture that it runs on, exactly.
    pub target: String,
    /// Code in the device's own format.
    pub bytes: Vec<u8>,
}

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ArtifactKind {
    /// Machine code of a kernel.
    Kernel,
    /// The chosen algorithm of a library call.
    Algorithm,
}

/// Everything that decides an artifact's bytes, and a name for people that does not.
#[derive(Clone, Debug)]
pub struct ArtifactKey {
    /// What it is.
    pub kind: ArtifactKind,
    /// The architecture that it is made for, exactly; for an algorithm the device's model.
    pub target: String,
    /// Compiler or library that makes it, with its version.
    pub producer: String,
    /// Digest of what it is made from: text, entry and options, or a call's canonical bytes.
    pub body: Digest,
    /// For people; not compared.
    pub label: String,
}

impl PartialEq for ArtifactKey {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.target, &self.producer, self.body)
            == (other.kind, &other.target, &other.producer, other.body)
    }
}

impl Eq for ArtifactKey {}

impl std::hash::Hash for ArtifactKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.kind, &self.target, &self.producer, self.body).hash(state);
    }
}

/// Where an artifact came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Made now.
    Made,
    /// Kept from an earlier time.
    Kept,
}

/// Keeps artifacts. Several threads may ask at once.
pub trait Artifacts: Sync {
    /// The bytes of `key`: those that are kept, or those that `make` gives, which are then kept.
    /// One caller makes for a key at a time; the others get what it made.
    ///
    /// # Errors
    /// What `make` says. That nothing can be kept is no error.
    fn get_or_make(
        &self,
        key: &ArtifactKey,
        make: &mut dyn FnMut() -> Result<Vec<u8>, DeviceError>,
    ) -> Result<(Vec<u8>, Found), DeviceError>;

    /// The device could not use the bytes that it got for `key`: they are not given again.
    fn reject(&self, key: &ArtifactKey, why: &DeviceError);
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoArtifacts;

impl Artifacts for NoArtifacts {
    fn get_or_make(
        &self,
        _key: &ArtifactKey,
        make: &mut dyn FnMut() -> Result<Vec<u8>, DeviceError>,
    ) -> Result<(Vec<u8>, Found), DeviceError> {
        Ok((make()?, Found::Made))
    }

    fn reject(&self, _key: &ArtifactKey, _why: &DeviceError) {}
}

/// What compiling a unit gave.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The code.
    pub artifact: Artifact,
    /// Under what it is kept; none where making it again costs nothing.
    pub key: Option<ArtifactKey>,
    /// Where it came from.
    pub found: Found,
}

impl Compiled {
    /// Code that was made now and is not worth keeping.
    pub fn unkept(artifact: Artifact) -> Self {
        Self { artifact, key: None, found: Found::Made }
    }
}
