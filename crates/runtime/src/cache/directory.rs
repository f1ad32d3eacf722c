//! The folder of entries: who may use it, how an entry is read, written and moved aside.
//!
//! Knows files and bytes. What the bytes mean is in `envelope`, what is old in `clean`.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use calor_kernel::Digest;

use super::error::CacheError;

/// What the folder of entries is called inside the folder that the user names. The number is the
/// version of the form, so that builds with another one live beside it.
pub const DIRECTORY_NAME: &str = "artifacts-v1";
/// Most bytes of one entry.
pub const ENTRY_BYTES_MAX: u64 = 256 << 20;

/// Entries that were moved aside.
pub(super) const QUARANTINE: &str = "quarantine";
/// Files that processes lock.
pub(super) const LOCKS: &str = "locks";
/// What files start with before they are renamed to their place.
pub(super) const TEMPORARY: &str = ".tmp-";
/// Others than the owner may write.
const SHARED: u32 = 0o022;

static TEMPORARY_COUNT: AtomicU64 = AtomicU64::new(0);

/// A folder of entries that was found fit to run code from.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Opens the folder of entries inside `parent`, making both private to the user where they
    /// are not there.
    ///
    /// # Errors
    /// When it cannot be made, belongs to somebody else, or others may write to it.
    pub fn open(parent: &Path) -> Result<Self, CacheError> {
        let path = parent.join(DIRECTORY_NAME);
        for folder in [parent, &path] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|it| CacheError::io("create", folder, it))?;
            check(folder, &[user()])?;
        }
        let mode = fs::metadata(&path).map(|it| it.mode() & 0o777);
        if mode.is_ok_and(|it| it & 0o077 != 0) {
            let private = fs::set_permissions(&path, Permissions::from_mode(0o700));
            private.map_err(|it| CacheError::io("make private", &path, it))?;
        }
        Ok(Self { path })
    }

    /// Opens the folder of entries inside `parent` if there is one; makes and changes nothing.
    /// It may belong to the system, as in a container's image.
    ///
    /// # Errors
    /// When it belongs to another user or others may write to it.
    pub fn open_existing(parent: &Path) -> Result<Option<Self>, CacheError> {
        let path = parent.join(DIRECTORY_NAME);
        match fs::symlink_metadata(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(CacheError::io("open", &path, err)),
            Ok(_) => {}
        }
        for folder in [parent, &path] {
            check(folder, &[user(), 0])?;
        }
        Ok(Some(Self { path }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn place_of(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.path.join(&name[..2]).join(name)
    }

    pub(super) fn lock_of(&self, digest: Digest) -> PathBuf {
        self.path.join(LOCKS).join(digest.to_string())
    }

    /// All bytes of an entry; none where there is none.
    pub(super) fn read(&self, digest: Digest) -> io::Result<Option<Vec<u8>>> {
        match read(&self.place_of(digest)) {
            Ok(bytes) => Ok(Some(bytes)),
            // It was never there, or vanished meanwhile.
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Remembers that an entry was used, without writing to it.
    pub(super) fn touch(&self, digest: Digest) {
        // Where this is not allowed, the entry merely looks older than it is.
        let _ = File::open(self.place_of(digest)).and_then(|it| it.set_modified(now()));
    }

    /// Writes beside the place and renames, so that nobody sees half an entry.
    pub(super) fn write(&self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        let place = self.place_of(digest);
        match write(&place, bytes) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                let shard = place.parent().unwrap_or(&self.path);
                private_folder(shard)?;
                self.make_lock_folder()?;
                write(&place, bytes)
            }
            done => done,
        }
    }

    /// Moves an entry out of the way, with what is wrong with it. It is then looked at by people
    /// only, and goes when newer ones need the room.
    pub(super) fn set_aside(&self, digest: Digest, word: &str, why: &str) -> io::Result<()> {
        let folder = self.path.join(QUARANTINE);
        private_folder(&folder)?;
        let aside = folder.join(format!("{digest}.{word}"));
        match fs::rename(self.place_of(digest), &aside) {
            // Somebody else did it, or wrote it anew under our eyes.
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => done?,
        }
        let _ = File::open(&aside).and_then(|it| it.set_modified(now()));
        // The reason is for people; without room for it the entry is aside all the same.
        let _ = fs::write(folder.join(format!("{digest}.{word}.txt")), format!("{why}\n"));
        self.bound_quarantine()
    }

    pub(super) fn make_lock_folder(&self) -> io::Result<()> {
        private_folder(&self.path.join(LOCKS))
    }
}

/// The time of day, by which files are told old from new.
#[expect(clippy::disallowed_methods, reason = "files are dated by the time of day")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// The bytes of a file, if it is not larger than an entry may be.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    // One byte too many tells a file that is too large from one that just fits.
    let mut bytes = Vec::with_capacity(len.min(ENTRY_BYTES_MAX) as usize + 1);
    file.take(ENTRY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file of its own in the same folder, and renames it to `place`.
pub(super) fn write(place: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = place.parent().unwrap_or(Path::new("."));
    let count = TEMPORARY_COUNT.fetch_add(1, Ordering::Relaxed);
    let mut file = tempfile::Builder::new()
        .prefix(&format!("{TEMPORARY}{}-{count}-", std::process::id()))
        .rand_bytes(12)
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(place).map_err(|it| it.error)?;
    Ok(())
}

fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn check(path: &Path, owners: &[u32]) -> Result<(), CacheError> {
    let about = fs::metadata(path).map_err(|it| CacheError::io("open", path, it))?;
    let path = path.to_owned();
    if !about.is_dir() {
        return Err(CacheError::NoFolder { path });
    }
    let (owner, mode) = (about.uid(), about.mode() & 0o777);
    if !owners.contains(&owner) {
        return Err(CacheError::ForeignOwner { path, owner, user: user() });
    }
    if mode & SHARED != 0 {
        return Err(CacheError::Shared { path, mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest([byte; 32])
    }

    #[test]
    fn a_new_folder_is_private() {
        let root = tempfile::tempdir().unwrap();
        let parent = root.path().join("a/b");
        assert!(Directory::open_existing(&parent).unwrap().is_none());
        let directory = Directory::open(&parent).unwrap();
        directory.write(digest(7), b"x").unwrap();
        for path in ["", "artifacts-v1", "artifacts-v1/07"] {
            let mode = fs::metadata(parent.join(path)).unwrap().mode() & 0o777;
            assert_eq!(mode, 0o700, "{path}: {mode:o}");
        }
        let mode = fs::metadata(directory.place_of(digest(7))).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600, "{mode:o}");
        assert!(Directory::open_existing(&parent).unwrap().is_some());
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        Directory::open(&parent).unwrap();
        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_folder_that_others_write_to_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for (inside, mode) in [("", 0o777), ("", 0o770), ("artifacts-v1", 0o702)] {
            let parent = root.path().join(format!("{inside}{mode:o}"));
            Directory::open(&parent).unwrap();
            fs::set_permissions(parent.join(inside), Permissions::from_mode(mode)).unwrap();
            let refused = Directory::open(&parent).unwrap_err();
            assert!(matches!(refused, CacheError::Shared { mode: it, .. } if it == mode));
            assert!(refused.to_string().contains("chmod go-w"), "{refused}");
            let refused = Directory::open_existing(&parent).unwrap_err();
            assert!(matches!(refused, CacheError::Shared { .. }));
        }
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let refused = check(root.path(), &[user() + 1]).unwrap_err();
        assert!(matches!(refused, CacheError::ForeignOwner { owner, .. } if owner == user()));
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(check(&file, &[user()]), Err(CacheError::NoFolder { .. })));
        assert!(matches!(Directory::open(&file), Err(CacheError::Io { .. })));
    }

    #[test]
    fn an_entry_is_written_whole_and_leaves_nothing_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        assert_eq!(directory.read(digest(1)).unwrap(), None);
        for bytes in [b"one".as_slice(), b"another"] {
            directory.write(digest(1), bytes).unwrap();
            assert_eq!(directory.read(digest(1)).unwrap().as_deref(), Some(bytes));
        }
        let names = fs::read_dir(directory.path().join("01")).unwrap().count();
        assert_eq!(names, 1);
    }

    #[test]
    fn what_is_moved_aside_says_why() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        directory.write(digest(1), b"bad").unwrap();
        directory.set_aside(digest(1), "corrupt", "its digest is wrong").unwrap();
        directory.set_aside(digest(1), "corrupt", "twice").unwrap();
        assert_eq!(directory.read(digest(1)).unwrap(), None);
        let aside = directory.path().join(QUARANTINE).join(format!("{}.corrupt", digest(1)));
        assert_eq!(fs::read(&aside).unwrap(), b"bad");
        let why = fs::read_to_string(aside.with_extension("corrupt.txt")).unwrap();
        assert_eq!(why, "its digest is wrong\n");
    }
}
