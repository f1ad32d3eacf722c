//! Checkpoints as sources of weights, with maps of our own beside them.

use std::collections::BTreeMap;
use std::sync::Arc;

use calor_kernel::{Canonical, Digest};
use calor_runtime::{SourceError, Stored, WeightSource};
use calor_weights::Weights;

use crate::error::{EmbeddingError, EmbeddingResult};
use crate::tensor_file::TensorFile;

/// The weights of a checkpoint, and matrices that belong to no checkpoint.
pub struct CheckpointSource {
    weights: Arc<Weights>,
    extra: BTreeMap<String, Arc<Vec<f32>>>,
    files: BTreeMap<String, (TensorFile, &'static str)>,
    identity: Digest,
}

impl std::fmt::Debug for CheckpointSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckpointSource").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl CheckpointSource {
    /// The weights of a checkpoint. Its identity is what a store recorded of its contents, else
    /// its place: two sources of one identity share their buffers.
    pub fn new(weights: Arc<Weights>) -> Self {
        let dir = weights.checkpoint().dir();
        let mut out = Canonical::new("checkpoint", 2);
        match weights.checkpoint().content_digest() {
            Some(digest) => out.u8(1).bytes(&digest),
            None => {
                let place = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
                out.u8(0).text(&place.to_string_lossy())
            }
        };
        let identity = Digest::of(&out.finish());
        Self { weights, extra: BTreeMap::new(), files: BTreeMap::new(), identity }
    }

    /// With one more matrix, row-major, under a name that no checkpoint uses.
    #[must_use]
    pub fn with(mut self, name: &str, matrix: Arc<Vec<f32>>) -> Self {
        let mut out = Canonical::new("with", 1);
        out.bytes(&self.identity.0).text(name).bytes(bytemuck::cast_slice(&matrix));
        self.identity = Digest::of(&out.finish());
        self.extra.insert(name.to_owned(), matrix);
        self
    }

    /// With one more matrix under a name that no checkpoint uses: the tensor `stored` of a file.
    ///
    /// # Errors
    /// [`EmbeddingError::InternalError`] for a file that was opened without its digest.
    pub fn with_file(
        mut self,
        name: &str,
        file: TensorFile,
        stored: &'static str,
    ) -> EmbeddingResult<Self> {
        let digest = file.digest().ok_or(EmbeddingError::InternalError {
            place: "digest of a file of weights",
            source: None,
        })?;
        let mut out = Canonical::new("with file", 1);
        out.bytes(&self.identity.0).text(name).bytes(&digest).text(stored);
        self.identity = Digest::of(&out.finish());
        self.files.insert(name.to_owned(), (file, stored));
        Ok(self)
    }

    /// The checkpoint's weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }
}

impl WeightSource for CheckpointSource {
    fn identity(&self) -> Digest {
        self.identity
    }

    fn read(&self, name: &str, first: usize, out: &mut [f32]) -> Result<(), SourceError> {
        match (self.extra.get(name), self.files.get(name)) {
            (Some(matrix), _) => copy(matrix, first, out),
            (None, Some((file, stored))) => Ok(file.read(stored, first, out)?),
            (None, None) => Ok(self.weights.read_f32_from(name, first, out)?),
        }
    }

    fn read_part(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<Option<Digest>, SourceError> {
        // The digests of files beside the checkpoint were compared when they were opened.
        if self.extra.contains_key(name) || self.files.contains_key(name) {
            return self.read(name, first, out).map(|()| None);
        }
        Ok(self.weights.read_f32_digested(name, first, out)?.map(Digest))
    }

    fn stored(&self, name: &str) -> Option<Stored<'_>> {
        if self.extra.contains_key(name) || self.files.contains_key(name) {
            return None;
        }
        self.weights.stored_f32(name).map(|(file, at)| Stored { file, at })
    }

    fn check(&self, name: &str, parts: &[Digest]) -> Result<(), SourceError> {
        let parts: Vec<[u8; 32]> = parts.iter().map(|it| it.0).collect();
        Ok(self.weights.check_parts(name, &parts)?)
    }
}

fn copy(matrix: &[f32], first: usize, out: &mut [f32]) -> Result<(), SourceError> {
    let part = matrix.get(first..first + out.len()).ok_or_else(|| {
        Box::new(EmbeddingError::DimensionMismatch {
            what: "a map beside the checkpoint",
            want_len: first + out.len(),
            got_len: matrix.len(),
        })
    })?;
    out.copy_from_slice(part);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use calor_weights::{Checkpoint, Store, StoreOptions};

    use super::*;

    fn source(dir: &Path) -> CheckpointSource {
        let checkpoint = Checkpoint::open(dir).unwrap();
        let config = checkpoint.config().unwrap();
        CheckpointSource::new(Arc::new(Weights::bind(checkpoint, &config).unwrap()))
    }

    #[test]
    fn what_has_equal_contents_is_one_source() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), StoreOptions { model_bytes_max: 1 << 30 }).unwrap();
        let import = |name: &str, revision: &str| {
            store.import(name, revision, golden.join(name), &mut ()).unwrap().dir
        };
        let [one, again] = ["1", "2"].map(|it| source(&import("bert", it)).identity());
        assert_eq!(one, again, "programs of both share their weights");
        assert_ne!(one, source(&import("mpnet", "1")).identity());
        let loose = source(&golden.join("bert")).identity();
        assert_ne!(one, loose, "without a record the place stands for the contents");
        assert_eq!(loose, source(&golden.join("bert/../bert")).identity());
    }

    #[test]
    fn a_tampered_weight_is_refused_when_it_is_loaded() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/bert");
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), StoreOptions { model_bytes_max: 1 << 30 }).unwrap();
        let dir = store.import("bert", "1", golden, &mut ()).unwrap().dir;
        let path = dir.join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let name = "embed.token";
        let read = |source: &CheckpointSource| {
            let mut out = vec![0.0; source.weights.shape(name).unwrap().iter().product()];
            let part = source.read_part(name, 0, &mut out).unwrap().unwrap();
            source.check(name, &[part])
        };
        read(&source(&dir)).unwrap();
        let stored = &source(&dir).weights.source(name).unwrap().stored.clone();
        let at = source(&dir).weights.checkpoint().tensor(stored).unwrap().range.start as usize;
        bytes[at + 6] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        let refused = read(&source(&dir)).unwrap_err();
        assert!(refused.to_string().contains("model.safetensors"), "{refused}");
    }
}
