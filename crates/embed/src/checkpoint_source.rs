//! Checkpoints as sources of weights, with maps of our own beside them.

use std::collections::BTreeMap;
use std::sync::Arc;

use calor_kernel::{Canonical, Digest};
use calor_runtime::WeightSource;
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
    /// The weights of a checkpoint. Its identity is its place: two sources of one folder share
    /// their buffers.
    pub fn new(weights: Arc<Weights>) -> Self {
        let dir = weights.checkpoint().dir();
        let place = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
        let mut out = Canonical::new("checkpoint", 1);
        out.text(&place.to_string_lossy());
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

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if let Some(matrix) = self.extra.get(name) {
            let part = matrix.get(first..first + out.len()).ok_or_else(|| {
                Box::new(EmbeddingError::DimensionMismatch {
                    what: "a map beside the checkpoint",
                    want_len: first + out.len(),
                    got_len: matrix.len(),
                })
            })?;
            out.copy_from_slice(part);
            return Ok(());
        }
        if let Some((file, stored)) = self.files.get(name) {
            return Ok(file.read(stored, first, out)?);
        }
        Ok(self.weights.read_f32_from(name, first, out)?)
    }
}
