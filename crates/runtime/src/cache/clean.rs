//! What leaves the folder of entries: the oldest past the bound, what killed writers left, and
//! everything when the user says so.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use calor_device::ArtifactKind;
use calor_kernel::Digest;

use super::directory::{Directory, LOCKS, QUARANTINE, TEMPORARY, now};
use super::envelope;
use super::error::CacheError;
use super::lock::{self, Asked};

/// A file that a writer left is dead when it is older than this.
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(3600);
/// Most entries that are kept aside, with their reasons.
const QUARANTINE_COUNT_MAX: usize = 64;
/// Most bytes that are kept aside.
const QUARANTINE_BYTES_MAX: u64 = 64 << 20;
/// The file that whoever cleans up holds locked.
const CLEANING: &str = "cleaning";

/// An entry's file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) digest: Digest,
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
    pub(super) modified: SystemTime,
}

/// What cleaning up did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Swept {
    /// Kinds of the entries that went; those whose kind cannot be told count as kernels.
    pub(super) removed: Vec<ArtifactKind>,
    /// Bytes of those that stay.
    pub(super) left_bytes: u64,
}

/// What clearing did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Entries that are gone.
    pub entry_count: u64,
    /// Bytes of them and of everything else that is gone.
    pub removed_bytes: u64,
    /// What was in the folder and is not the cache's; it stays.
    pub left: Vec<PathBuf>,
}

impl Directory {
    /// Every entry's file, in the order of digests. What vanishes meanwhile is left out.
    pub(super) fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for shard in self.shards()? {
            for (path, about) in files(&shard)? {
                let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default();
                if let Some(digest) = digest_of(name).filter(|it| self.place_of(*it) == path) {
                    let modified = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    entries.push(Entry { digest, path, size_bytes: about.len(), modified });
                }
            }
        }
        entries.sort_by_key(|it| it.digest);
        Ok(entries)
    }

    /// Removes what is dead, and where there are more than `bytes_max` the oldest entries until
    /// at most `bytes_after` are left. `None` when another process is at it.
    pub(super) fn sweep(&self, bytes_max: u64, bytes_after: u64) -> io::Result<Option<Swept>> {
        let _lock = match lock::take(&self.path().join(CLEANING), Duration::ZERO, &|| true) {
            Asked::Ours(lock) | Asked::Waited(lock) => Some(lock),
            Asked::Done => return Ok(None),
            // Where nothing can be locked, two may clean up at once; files only vanish.
            Asked::Without => None,
        };
        self.remove_dead()?;
        let mut entries = self.entries()?;
        let mut left_bytes: u64 = entries.iter().map(|it| it.size_bytes).sum();
        let mut removed = Vec::new();
        let bytes_after = if left_bytes <= bytes_max { left_bytes } else { bytes_after };
        entries.sort_by_key(|it| it.modified);
        for entry in entries {
            if left_bytes <= bytes_after {
                break;
            }
            let kind = kind_of(&entry.path);
            remove(&entry.path)?;
            left_bytes -= entry.size_bytes;
            removed.push(kind.unwrap_or(ArtifactKind::Kernel));
        }
        Ok(Some(Swept { removed, left_bytes }))
    }

    /// Removes everything that is the cache's own. Says what is not, and leaves it.
    ///
    /// # Errors
    /// When something of its own cannot be removed.
    pub fn clear(&self) -> Result<Cleared, CacheError> {
        let failed = |it| CacheError::io("clear", self.path(), it);
        let mut cleared = Cleared::default();
        let mut folders = self.shards().map_err(failed)?;
        folders.extend([self.path().join(QUARANTINE), self.path().join(LOCKS)]);
        for folder in folders {
            self.clear_folder(&folder, &mut cleared).map_err(failed)?;
        }
        remove(&self.path().join(CLEANING)).map_err(failed)?;
        // Whatever is left is somebody else's: the folder then stays.
        if fs::remove_dir(self.path()).is_err() {
            let rest = fs::read_dir(self.path()).into_iter().flatten().flatten();
            let known = |it: &PathBuf| cleared.left.iter().any(|left| left.starts_with(it));
            let rest: Vec<PathBuf> = rest.map(|it| it.path()).filter(|it| !known(it)).collect();
            cleared.left.extend(rest);
        }
        cleared.left.sort();
        Ok(cleared)
    }

    fn clear_folder(&self, folder: &Path, cleared: &mut Cleared) -> io::Result<()> {
        for (path, about) in files(folder)? {
            let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default();
            let stem = name.split('.').next().unwrap_or_default();
            let is_entry = digest_of(name).is_some_and(|it| self.place_of(it) == path);
            let in_shard = folder.parent() == Some(self.path()) && is_shard(folder);
            let is_ours = if in_shard {
                is_entry || name.starts_with(TEMPORARY)
            } else {
                digest_of(stem).is_some()
            };
            if !is_ours {
                continue;
            }
            remove(&path)?;
            cleared.entry_count += u64::from(is_entry);
            cleared.removed_bytes += about.len();
        }
        match fs::remove_dir(folder) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                let rest = fs::read_dir(folder)?.flatten().map(|it| it.path());
                cleared.left.extend(rest);
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps what is aside within its bound.
    pub(super) fn bound_quarantine(&self) -> io::Result<()> {
        let mut aside = files(&self.path().join(QUARANTINE))?;
        let is_reason = |it: &Path| it.extension().is_some_and(|it| it == "txt");
        aside.retain(|it| !is_reason(&it.0));
        aside.sort_by_key(|it| it.1.modified().unwrap_or(SystemTime::UNIX_EPOCH));
        let mut left_bytes: u64 = aside.iter().map(|it| it.1.len()).sum();
        let mut left_count = aside.len();
        for (path, about) in aside {
            if left_count <= QUARANTINE_COUNT_MAX && left_bytes <= QUARANTINE_BYTES_MAX {
                break;
            }
            let mut reason = path.clone().into_os_string();
            reason.push(".txt");
            remove(&path)?;
            remove(Path::new(&reason))?;
            left_count -= 1;
            left_bytes -= about.len();
        }
        Ok(())
    }

    /// How many entries are aside.
    pub(super) fn quarantine_count(&self) -> io::Result<u64> {
        let aside = files(&self.path().join(QUARANTINE))?;
        let entries = aside.iter().filter(|it| it.0.extension().is_none_or(|it| it != "txt"));
        Ok(entries.count() as u64)
    }

    fn remove_dead(&self) -> io::Result<()> {
        let now = now();
        let is_dead = |about: &fs::Metadata| {
            let age = about.modified().ok().and_then(|it| now.duration_since(it).ok());
            age.is_some_and(|it| TEMPORARY_AGE_MAX < it)
        };
        for shard in self.shards()? {
            for (path, about) in files(&shard)? {
                let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default();
                if name.starts_with(TEMPORARY) && is_dead(&about) {
                    remove(&path)?;
                }
            }
        }
        for (path, about) in files(&self.path().join(LOCKS))? {
            if is_dead(&about) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn shards(&self) -> io::Result<Vec<PathBuf>> {
        let all = match fs::read_dir(self.path()) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            all => all?,
        };
        let paths = all.collect::<io::Result<Vec<_>>>()?.into_iter().map(|it| it.path());
        Ok(paths.filter(|it| is_shard(it) && it.is_dir()).collect())
    }
}

fn kind_of(path: &Path) -> Option<ArtifactKind> {
    let mut start = [0; envelope::KIND_END];
    fs::File::open(path).and_then(|mut it| it.read_exact(&mut start)).ok()?;
    envelope::kind_at(&start)
}

fn is_shard(path: &Path) -> bool {
    let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default();
    name.len() == 2 && name.bytes().all(is_hex)
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// The digest that a file's name spells.
pub(super) fn digest_of(name: &str) -> Option<Digest> {
    if name.len() != 64 || !name.bytes().all(is_hex) {
        return None;
    }
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(Digest(digest))
}

/// Plain files of a folder; none where there is no folder. Others may remove some meanwhile.
fn files(folder: &Path) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    let all = match fs::read_dir(folder) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        all => all?,
    };
    let mut found = Vec::new();
    for entry in all {
        let path = entry?.path();
        match fs::symlink_metadata(&path) {
            Ok(about) if about.is_file() => found.push((path, about)),
            Ok(_) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
    }
    Ok(found)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn age(path: &Path, seconds: u64) {
        let then = now() - Duration::from_secs(seconds);
        File::open(path).unwrap().set_modified(then).unwrap();
    }

    fn directory() -> (tempfile::TempDir, Directory) {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        (root, directory)
    }

    fn there(directory: &Directory) -> Vec<u8> {
        directory.entries().unwrap().iter().map(|it| it.digest.0[0]).collect()
    }

    #[test]
    fn names_are_digests() {
        let digest = Digest(std::array::from_fn(|it| (it * 9) as u8));
        assert_eq!(digest_of(&digest.to_string()), Some(digest));
        assert_eq!(digest_of(&digest.to_string().to_uppercase()), None);
        assert_eq!(digest_of("00"), None);
        assert_eq!(digest_of(&"é".repeat(32)), None);
    }

    #[test]
    fn the_oldest_go_past_the_bound() {
        let (_root, directory) = directory();
        for byte in 0..5 {
            directory.write(Digest([byte; 32]), &[0; 100]).unwrap();
            age(&directory.place_of(Digest([byte; 32])), 1000 - u64::from(byte));
        }
        directory.touch(Digest([1; 32]));
        assert!(directory.sweep(500, 0).unwrap().unwrap().removed.is_empty());
        let swept = directory.sweep(499, 250).unwrap().unwrap();
        assert_eq!(swept, Swept { removed: vec![ArtifactKind::Kernel; 3], left_bytes: 200 });
        assert_eq!(there(&directory), [1, 4]);
    }

    #[test]
    fn only_old_temporary_files_go() {
        let (_root, directory) = directory();
        directory.write(Digest([0; 32]), b"x").unwrap();
        let shard = directory.path().join("00");
        for (name, seconds) in [(".tmp-1-0-a", 7200), (".tmp-2-0-b", 60), ("mine", 7200)] {
            fs::write(shard.join(name), "x").unwrap();
            age(&shard.join(name), seconds);
        }
        directory.sweep(100, 100).unwrap().unwrap();
        let mut names: Vec<_> = files(&shard).unwrap().into_iter().map(|it| it.0).collect();
        names.sort();
        let place = directory.place_of(Digest([0; 32]));
        assert_eq!(names, [shard.join(".tmp-2-0-b"), place, shard.join("mine")]);
    }

    #[test]
    fn two_do_not_clean_up_at_once() {
        let (_root, directory) = directory();
        let path = directory.path().join(CLEANING);
        let held = lock::take(&path, Duration::ZERO, &|| false);
        assert!(matches!(held, Asked::Ours(_)));
        assert_eq!(directory.sweep(0, 0).unwrap(), None);
        drop(held);
        assert!(directory.sweep(0, 0).unwrap().is_some());
    }

    #[test]
    fn what_is_aside_is_bounded() {
        let (_root, directory) = directory();
        for byte in 0..=QUARANTINE_COUNT_MAX as u8 {
            directory.write(Digest([byte; 32]), b"bad").unwrap();
            directory.set_aside(Digest([byte; 32]), "corrupt", "why").unwrap();
        }
        assert_eq!(directory.quarantine_count().unwrap(), QUARANTINE_COUNT_MAX as u64);
        let all = files(&directory.path().join(QUARANTINE)).unwrap().len();
        assert_eq!(all, 2 * QUARANTINE_COUNT_MAX);
    }

    #[test]
    fn clearing_leaves_what_is_not_ours() {
        let (root, directory) = directory();
        for byte in 0..3 {
            directory.write(Digest([byte; 32]), b"12345").unwrap();
        }
        directory.set_aside(Digest([0; 32]), "corrupt", "1234").unwrap();
        fs::write(directory.path().join("01/.tmp-1-1-x"), "x").unwrap();
        let mine = [directory.path().join("02/notes"), directory.path().join("letter")];
        mine.iter().for_each(|it| fs::write(it, "mine").unwrap());
        let cleared = directory.clear().unwrap();
        assert_eq!((cleared.entry_count, cleared.removed_bytes), (2, 3 * 5 + 5 + 1));
        assert_eq!(cleared.left, mine);
        assert!(mine.iter().all(|it| it.exists()));
        mine.iter().for_each(|it| fs::remove_file(it).unwrap());
        assert_eq!(directory.clear().unwrap(), Cleared::default());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        assert_eq!(directory.clear().unwrap(), Cleared::default());
    }
}
