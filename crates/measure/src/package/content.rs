//! Files of a folder or an archive, read with limits and without following anything.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};

use super::MANIFEST_FILE;
use crate::error::MeasureError;

/// Most files of a package.
const FILE_COUNT_MAX: usize = 10_000;
/// Most bytes of one file.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Most bytes of all files.
const ALL_BYTES_MAX: u64 = 256 << 20;

/// What a package holds, by path with `/`.
pub(super) struct Content {
    pub(super) manifest: Option<Vec<u8>>,
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

impl Content {
    /// Of a folder, or of a file that is an archive.
    pub(super) fn read(path: &Path) -> Result<Self, MeasureError> {
        if path.is_dir() { Self::folder(path) } else { Self::archive(path) }
    }

    pub(super) fn folder(path: &Path) -> Result<Self, MeasureError> {
        let mut out = Collector::new(path);
        let mut folders = vec![path.to_owned()];
        while let Some(folder) = folders.pop() {
            let io = |err| MeasureError::io("read", &folder)(err);
            for entry in std::fs::read_dir(&folder).map_err(io)? {
                let entry = entry.map_err(io)?;
                let kind = entry.file_type().map_err(io)?;
                let inner = entry.path();
                let name = inner.strip_prefix(path).unwrap_or(&inner);
                let name = name.to_string_lossy().replace('\\', "/");
                if kind.is_dir() {
                    // Left by a run that has not ended.
                    if name != "work" {
                        folders.push(inner);
                    }
                } else if kind.is_file() {
                    let file = std::fs::File::open(&inner).map_err(io)?;
                    out.add(&name, file)?;
                } else {
                    return Err(MeasureError::refused(path, format!("`{name}` is no plain file")));
                }
            }
        }
        Ok(out.content)
    }

    fn archive(path: &Path) -> Result<Self, MeasureError> {
        let refused = |err: zip::result::ZipError| MeasureError::refused(path, err);
        let file = std::fs::File::open(path).map_err(MeasureError::io("open", path))?;
        let mut archive = zip::ZipArchive::new(file).map_err(refused)?;
        let mut out = Collector::new(path);
        for index in 0..archive.len() {
            let entry = archive.by_index(index).map_err(refused)?;
            let name = entry.name().map_err(refused)?.into_owned();
            if entry.is_dir() {
                continue;
            }
            if entry.is_symlink() {
                return Err(MeasureError::refused(path, format!("`{name}` is a link")));
            }
            out.add(&name, entry)?;
        }
        Ok(out.content)
    }
}

struct Collector<'a> {
    path: &'a Path,
    bytes: u64,
    content: Content,
}

impl<'a> Collector<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, bytes: 0, content: Content { manifest: None, files: BTreeMap::new() } }
    }

    fn add(&mut self, name: &str, from: impl Read) -> Result<(), MeasureError> {
        let refused = |what: String| Err(MeasureError::refused(self.path, what));
        if !is_plain(name) {
            return refused(format!("`{}` is not a path inside", name.escape_default()));
        }
        if FILE_COUNT_MAX <= self.content.files.len() {
            return refused(format!("over {FILE_COUNT_MAX} files"));
        }
        let mut bytes = Vec::new();
        let read = from.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
        if let Err(err) = read {
            return refused(format!("`{name}`: {err}"));
        }
        let len = bytes.len() as u64;
        self.bytes += len;
        if FILE_BYTES_MAX < len || ALL_BYTES_MAX < self.bytes {
            return refused(format!("`{name}` is too large"));
        }
        if name == MANIFEST_FILE {
            self.content.manifest = Some(bytes);
        } else if self.content.files.insert(name.to_owned(), bytes).is_some() {
            return refused(format!("`{name}` is there twice"));
        }
        Ok(())
    }
}

/// Whether a path leads down, and is written in one way only.
fn is_plain(name: &str) -> bool {
    let fits = |it: char| it.is_ascii_alphanumeric() || "/-_. ".contains(it);
    !name.is_empty()
        && name.len() <= 240
        && name.chars().all(fits)
        && !name.contains("//")
        && !name.ends_with('/')
        && Path::new(name).components().all(|it| matches!(it, Component::Normal(_)))
        && !name.split('/').any(|it| it == "." || it == "..")
}

#[test]
fn paths_lead_down() {
    for good in ["raw/a.jsonl", "report.html", "plots/a b-1.svg"] {
        assert!(is_plain(good), "{good}");
    }
    for bad in ["", "/etc/x", "../x", "a/../x", "a//b", "./x", "a/", "c:\\x", "a\0b", "ü"] {
        assert!(!is_plain(bad), "{bad:?}");
    }
}
