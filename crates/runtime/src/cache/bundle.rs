//! Many entries in one file that moves between machines, with a digest over all.
//!
//! Magic, format version, zero, number of entries; each entry as its length and its bytes in the
//! form of `envelope`, in the order of digests; BLAKE3 of everything before. Equal entries make
//! equal files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use calor_device::ArtifactKey;
use calor_kernel::Digest;

use super::directory::{Directory, write};
use super::envelope::{self, FORMAT, Flaw};
use super::error::CacheError;

/// Most bytes of a bundle; those of a dozen models stay far below.
pub const BUNDLE_BYTES_MAX: u64 = 256 << 20;

const MAGIC: &[u8; 8] = b"calrbnd\n";
const HEADER_LEN: usize = 16;
const DIGEST_LEN: usize = 32;

/// Entries that travel together, each of them whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    entries: BTreeMap<Digest, Vec<u8>>,
}

impl Bundle {
    /// The entries with these digests of `directory`.
    ///
    /// # Errors
    /// When one is not there or damaged, or they are more than a bundle may hold.
    pub fn of(directory: &Directory, digests: &[Digest]) -> Result<Self, CacheError> {
        let mut bundle = Self::default();
        for digest in digests {
            let place = directory.place_of(*digest);
            let read = directory.read(*digest).map_err(|it| CacheError::io("read", &place, it))?;
            let bytes = read.ok_or(CacheError::NoEntry { digest: *digest })?;
            match envelope::decode(&bytes).map(|it| it.key.digest()) {
                Ok(found) if found == *digest => {}
                found => {
                    let flaw = found.err().unwrap_or(Flaw::Misplaced);
                    return Err(CacheError::Bundle { path: place, flaw });
                }
            }
            bundle.entries.insert(*digest, bytes);
        }
        if BUNDLE_BYTES_MAX < bundle.size_bytes() {
            let path = directory.path().to_owned();
            return Err(CacheError::Bundle { path, flaw: Flaw::TooLarge });
        }
        Ok(bundle)
    }

    /// Reads a file of them, all or nothing.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged or has another format.
    pub fn read(path: &Path) -> Result<Self, CacheError> {
        let failed = |it| CacheError::io("read", path, it);
        let file = File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(BUNDLE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        let bundle = Self::parse(&bytes);
        bundle.map_err(|flaw| CacheError::Bundle { path: path.to_owned(), flaw })
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        if BUNDLE_BYTES_MAX < bytes.len() as u64 {
            return Err(Flaw::TooLarge);
        }
        let (header, _) = bytes.split_at_checked(HEADER_LEN).ok_or(Flaw::CutOff)?;
        if !header.starts_with(MAGIC) {
            return Err(Flaw::Magic);
        }
        let found = u16::from_le_bytes([header[8], header[9]]);
        if found != FORMAT {
            return Err(Flaw::Format { found });
        }
        let digest_at = bytes.len().checked_sub(DIGEST_LEN).filter(|it| HEADER_LEN <= *it);
        let (covered, digest) = bytes.split_at(digest_at.ok_or(Flaw::CutOff)?);
        if Digest::of(covered).0 != digest {
            return Err(Flaw::Digest);
        }
        let count = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
        let mut rest = &covered[HEADER_LEN..];
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let (len, after) = rest.split_first_chunk::<8>().ok_or(Flaw::Lengths)?;
            let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| Flaw::Lengths)?;
            let (entry, after) = after.split_at_checked(len).ok_or(Flaw::Lengths)?;
            let digest = envelope::decode(entry)?.key.digest();
            entries.insert(digest, entry.to_vec());
            rest = after;
        }
        if !rest.is_empty() || entries.len() != count as usize {
            return Err(Flaw::Lengths);
        }
        Ok(Self { entries })
    }

    /// The bytes of a file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(FORMAT.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        out.extend((self.entries.len() as u32).to_le_bytes());
        for entry in self.entries.values() {
            out.extend((entry.len() as u64).to_le_bytes());
            out.extend(entry);
        }
        let digest = Digest::of(&out);
        out.extend(digest.0);
        out
    }

    /// Writes a file; it appears whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), CacheError> {
        write(path, &self.bytes()).map_err(|it| CacheError::io("write", path, it))
    }

    /// Puts every entry into a folder.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn import(&self, directory: &Directory) -> Result<(), CacheError> {
        for (digest, bytes) in &self.entries {
            let place = directory.place_of(*digest);
            directory.write(*digest, bytes).map_err(|it| CacheError::io("write", &place, it))?;
        }
        Ok(())
    }

    /// What the entries are, in the order of digests.
    pub fn keys(&self) -> Vec<ArtifactKey> {
        let keys = self.entries.values().map(|it| envelope::decode(it).map(|it| it.key));
        keys.flatten().collect()
    }

    /// How many entries there are.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all entries.
    pub fn size_bytes(&self) -> u64 {
        self.entries.values().map(|it| it.len() as u64).sum()
    }

    pub(super) fn get(&self, digest: Digest) -> Option<&[u8]> {
        self.entries.get(&digest).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calor_device::ArtifactKind;

    fn key(body: u8, target: &str) -> ArtifactKey {
        ArtifactKey {
            kind: ArtifactKind::Kernel,
            target: target.into(),
            producer: "p 1".into(),
            body: Digest([body; 32]),
            label: format!("kernel {body}"),
        }
    }

    fn filled(root: &Path) -> (Directory, Vec<Digest>) {
        let directory = Directory::open(root).unwrap();
        let digests = (0..3)
            .map(|body| {
                let key = key(body, "sm_90");
                let bytes = envelope::encode(&key, &[body; 40]).unwrap();
                directory.write(key.digest(), &bytes).unwrap();
                key.digest()
            })
            .collect();
        (directory, digests)
    }

    #[test]
    fn a_bundle_carries_entries_to_another_folder() {
        let root = tempfile::tempdir().unwrap();
        let (from, digests) = filled(&root.path().join("from"));
        let bundle = Bundle::of(&from, &digests).unwrap();
        let file = root.path().join("b");
        bundle.write(&file).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), bundle.bytes());
        let read = Bundle::read(&file).unwrap();
        assert_eq!(read, bundle);
        assert_eq!((read.entry_count(), read.keys().len()), (3, 3));
        let to = Directory::open(&root.path().join("to")).unwrap();
        read.import(&to).unwrap();
        for digest in &digests {
            assert_eq!(to.read(*digest).unwrap(), from.read(*digest).unwrap());
        }
        let reversed: Vec<Digest> = digests.into_iter().rev().collect();
        assert_eq!(Bundle::of(&to, &reversed).unwrap().bytes(), bundle.bytes());
    }

    #[test]
    fn a_damaged_bundle_is_refused_whole() {
        let root = tempfile::tempdir().unwrap();
        let (from, digests) = filled(root.path());
        let whole = Bundle::of(&from, &digests).unwrap().bytes();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let flaw = Bundle::parse(&bytes).unwrap_err();
            assert_eq!(matches!(flaw, Flaw::Format { .. }), (8..10).contains(&at), "{at}");
            assert!(Bundle::parse(&whole[..at]).is_err(), "{at}");
        }
        let file = root.path().join("b");
        std::fs::write(&file, &whole[..100]).unwrap();
        let refused = Bundle::read(&file).unwrap_err().to_string();
        assert!(refused.ends_with("cannot be imported: its digest is wrong"), "{refused}");
    }

    #[test]
    fn what_is_missing_or_damaged_is_not_exported() {
        let root = tempfile::tempdir().unwrap();
        let (from, digests) = filled(root.path());
        let absent = Digest([9; 32]);
        assert!(matches!(Bundle::of(&from, &[absent]), Err(CacheError::NoEntry { digest })
            if digest == absent));
        from.write(digests[0], b"short").unwrap();
        let refused = Bundle::of(&from, &digests).unwrap_err();
        assert!(matches!(refused, CacheError::Bundle { flaw: Flaw::CutOff, .. }), "{refused}");
        let other = from.read(digests[1]).unwrap().unwrap();
        from.write(digests[0], &other).unwrap();
        let refused = Bundle::of(&from, &digests).unwrap_err();
        assert!(matches!(refused, CacheError::Bundle { flaw: Flaw::Misplaced, .. }), "{refused}");
    }
}
