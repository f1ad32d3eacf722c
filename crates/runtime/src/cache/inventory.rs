//! What a folder of entries holds, for people: every entry read and verified.

use std::time::SystemTime;

use calor_device::ArtifactKey;
use calor_kernel::Digest;

use super::directory::Directory;
use super::envelope::{self, Flaw};
use super::error::CacheError;

/// One entry.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub digest: Digest,
    /// Bytes of its file.
    pub size_bytes: u64,
    /// When it was written or used last.
    pub used: SystemTime,
    /// What it is, or what is wrong with it.
    pub content: Result<ArtifactKey, Flaw>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Entries.
    pub entry_count: u64,
    /// Bytes of them.
    pub size_bytes: u64,
    /// Entries that were moved aside.
    pub quarantine_count: u64,
}

impl Directory {
    /// Every entry, read and verified, in the order of digests. Changes nothing.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn inventory(&self) -> Result<Vec<Row>, CacheError> {
        let failed = |it| CacheError::io("read", self.path(), it);
        let mut rows = Vec::new();
        for entry in self.entries().map_err(failed)? {
            let Some(bytes) = self.read(entry.digest).map_err(failed)? else { continue };
            let content = envelope::decode(&bytes).and_then(|it| {
                let is_it = it.key.digest() == entry.digest;
                if is_it { Ok(it.key) } else { Err(Flaw::Misplaced) }
            });
            let (digest, size_bytes) = (entry.digest, entry.size_bytes);
            rows.push(Row { digest, size_bytes, used: entry.modified, content });
        }
        Ok(rows)
    }

    /// How much there is, without reading it.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn usage(&self) -> Result<Usage, CacheError> {
        let failed = |it| CacheError::io("read", self.path(), it);
        let entries = self.entries().map_err(failed)?;
        Ok(Usage {
            entry_count: entries.len() as u64,
            size_bytes: entries.iter().map(|it| it.size_bytes).sum(),
            quarantine_count: self.quarantine_count().map_err(failed)?,
        })
    }
}
