//! Entries that a store reads and never writes.

use std::io;
use std::path::Path;
use std::sync::Arc;

use calor_kernel::Digest;

use super::bundle::Bundle;
use super::directory::Directory;
use super::error::CacheError;

/// Entries that are only read.
#[derive(Clone, Debug)]
pub enum Layer {
    /// A folder, as in a container's image.
    Directory(Directory),
    /// A bundle.
    Bundle(Arc<Bundle>),
}

impl Layer {
    /// The folder or bundle at a path.
    ///
    /// # Errors
    /// When a bundle is damaged, or others may write to a folder.
    pub fn open(path: &Path) -> Result<Self, CacheError> {
        if !path.is_dir() {
            return Ok(Self::Bundle(Arc::new(Bundle::read(path)?)));
        }
        let absent = || CacheError::io("open", path, io::ErrorKind::NotFound.into());
        Ok(Self::Directory(Directory::open_existing(path)?.ok_or_else(absent)?))
    }

    pub(super) fn read(&self, digest: Digest) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Directory(directory) => directory.read(digest),
            Self::Bundle(bundle) => Ok(bundle.get(digest).map(<[u8]>::to_vec)),
        }
    }
}
