//! Where weights come from.

use calor_kernel::Digest;

/// Weights by the names of graph inputs.
pub trait WeightSource: Send + Sync {
    /// Equal digests mean equal weights: buffers are shared by it.
    fn identity(&self) -> Digest;

    /// Elements `first..first + out.len()` of a weight in row-major order, as `f32`.
    ///
    /// # Errors
    /// What keeps them from being read.
    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}
