//! Where weights come from.

use std::fs::File;

use calor_kernel::Digest;

/// Elements of a weight that are read and digested at once. A part of stored bytes of one, two
/// or four bytes each is then a whole subtree of a BLAKE3 digest.
pub const PART_LEN: usize = 1 << 18;

/// Why a weight cannot be read or is not what was recorded.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Where a weight lies.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// The file.
    pub file: &'a File,
    /// Its first byte there.
    pub at: u64,
}

/// Weights by the names of graph inputs. Several threads read at once.
pub trait WeightSource: Send + Sync {
    /// Equal digests mean equal weights: buffers are shared by it.
    fn identity(&self) -> Digest;

    /// Elements `first..first + out.len()` of a weight in row-major order, as `f32`.
    ///
    /// # Errors
    /// What keeps them from being read.
    fn read(&self, name: &str, first: usize, out: &mut [f32]) -> Result<(), SourceError>;

    /// As [`WeightSource::read`] for one part: `first` is a multiple of [`PART_LEN`], and `out` as
    /// long or up to the weight's end. The digest of what is stored comes back where
    /// [`WeightSource::check`] has something to compare it with.
    ///
    /// # Errors
    /// What keeps it from being read.
    fn read_part(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<Option<Digest>, SourceError> {
        self.read(name, first, out).map(|()| None)
    }

    /// Where a weight lies in a file as the elements that [`WeightSource::read`] gives,
    /// little-endian and in their order, if it does and [`WeightSource::check`] has something to
    /// compare its digests with: a device may read it there by itself.
    fn stored(&self, _name: &str) -> Option<Stored<'_>> {
        None
    }

    /// Compares the digests of all parts of a weight, in order, with what was recorded of it.
    ///
    /// # Errors
    /// When they differ.
    fn check(&self, _name: &str, _parts: &[Digest]) -> Result<(), SourceError> {
        Ok(())
    }
}
