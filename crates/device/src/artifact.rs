//! Compiled code outside a device, and where it is kept.
//!
//! A device knows what decides the bytes of its code; it says so in an [`ArtifactKey`] and asks
//! an [`Artifacts`] before it compiles. Nobody else writes such a key.

use calor_kernel::{Canonical, Digest};

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
    /// The architecture that it is made for, exactly; for an algorithm the device's model
    /// before it.
    pub target: String,
    /// Compiler or library that makes it, with its version.
    pub producer: String,
    /// Digest of what it is made from: text, entry and options, or a call's canonical bytes.
    pub body: Digest,
    /// For people; not compared.
    pub label: String,
}

impl ArtifactKey {
    /// Grows when the bytes below change their meaning; entries kept before are then not found.
    const FORMAT: u16 = 1;

    /// Everything that is compared, as bytes that mean the same in every process.
    pub fn canonical(&self) -> Vec<u8> {
        let Self { kind, target, producer, body, label: _ } = self;
        let mut out = Canonical::new("artifact", Self::FORMAT);
        out.u8(match kind {
            ArtifactKind::Kernel => 1,
            ArtifactKind::Algorithm => 2,
        });
        out.text(target).text(producer).bytes(&body.0);
        out.finish()
    }

    /// Digest of [`ArtifactKey::canonical`]: what an entry is called on a disk.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.canonical())
    }
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
pub trait Artifacts: Send + Sync {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(target: &str, producer: &str) -> ArtifactKey {
        ArtifactKey {
            kind: ArtifactKind::Kernel,
            target: target.into(),
            producer: producer.into(),
            body: Digest([7; 32]),
            label: "for people".into(),
        }
    }

    #[test]
    fn canonical_bytes_are_pinned() {
        let bytes = key("sm_90", "nvrtc 12.9").canonical();
        assert_eq!(bytes.len(), 8 + 8 + 2 + 1 + (8 + 5) + (8 + 10) + (8 + 32));
        assert_eq!(
            key("sm_90", "nvrtc 12.9").digest().to_string(),
            "4dd748add4d84fc71216ad8d11bdafbc221e9bf4963c1989b45b05b73ba2f8b9"
        );
    }

    #[test]
    fn keys_are_equal_where_their_bytes_are() {
        let mut keys = Vec::new();
        for kind in [ArtifactKind::Kernel, ArtifactKind::Algorithm] {
            for target in ["", "sm_9", "sm_90", "sm_90a"] {
                for producer in ["", "0x", "x", "ax"] {
                    for body in [Digest([0; 32]), Digest([1; 32])] {
                        for label in ["a", "b"] {
                            let (target, producer) = (target.into(), producer.into());
                            let label = label.into();
                            keys.push(ArtifactKey { kind, target, producer, body, label });
                        }
                    }
                }
            }
        }
        for a in &keys {
            for b in &keys {
                assert_eq!(a == b, a.canonical() == b.canonical(), "{a:?} {b:?}");
                assert_eq!(a == b, a.digest() == b.digest(), "{a:?} {b:?}");
            }
        }
    }
}
