//! Files of f32 tensors in the safetensors layout, with a BLAKE3 digest of every byte.
//!
//! Written to a temporary file in the same directory and renamed, so that a reader sees a whole
//! file or none. Read by positioned reads after the digest was verified. What the tensors mean
//! is not known here.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use calor_weights::digest_of;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use tempfile::NamedTempFile;

use crate::error::{EmbeddingError, EmbeddingResult, FormatFault};

/// Name and shape of a tensor of f32 elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// Its name in the file.
    pub name: String,
    /// Its extents, slowest first.
    pub shape: Vec<usize>,
}

impl TensorShape {
    /// Product of the extents.
    pub fn element_count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A file that is being written; nothing is visible before [`TensorFileWriter::finish`].
#[derive(Debug)]
pub struct TensorFileWriter {
    path: PathBuf,
    out: BufWriter<NamedTempFile>,
    digest: blake3::Hasher,
    digest_offset_bytes: u64,
    left_bytes: u64,
}

impl TensorFileWriter {
    /// Opens a temporary file beside `path` and writes the header. Elements follow by
    /// [`TensorFileWriter::write`], tensor after tensor in the order given here.
    ///
    /// # Errors
    /// [`EmbeddingError::IoError`].
    pub fn create(
        path: &Path,
        tensors: &[TensorShape],
        notes: &[(&str, String)],
    ) -> EmbeddingResult<Self> {
        let header = header_of(tensors, notes);
        let digest_place = find(&header, DIGEST_NONE.as_bytes());
        let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
        let file = NamedTempFile::new_in(directory.unwrap_or(Path::new(".")))
            .map_err(|err| io_error(path, err))?;
        let mut out = Self {
            path: path.to_owned(),
            out: BufWriter::with_capacity(1 << 20, file),
            digest: blake3::Hasher::new(),
            digest_offset_bytes: 8 + digest_place.unwrap_or(0) as u64,
            left_bytes: tensors.iter().map(|it| 4 * it.element_count() as u64).sum(),
        };
        out.put(&(header.len() as u64).to_le_bytes())?;
        out.put(&header)?;
        Ok(out)
    }

    /// Appends elements.
    ///
    /// # Errors
    /// [`EmbeddingError::IoError`]; [`EmbeddingError::SerializationError`] beyond the announced
    /// elements.
    pub fn write(&mut self, elements: &[f32]) -> EmbeddingResult<()> {
        let bytes = 4 * elements.len() as u64;
        if self.left_bytes < bytes {
            let fault = FormatFault::Length { want_bytes: self.left_bytes, got_bytes: bytes };
            return Err(bad_file(&self.path, fault));
        }
        self.left_bytes -= bytes;
        let mut buffer = [0_u8; 16 << 10];
        for chunk in elements.chunks(buffer.len() / 4) {
            for (place, it) in buffer.as_chunks_mut::<4>().0.iter_mut().zip(chunk) {
                *place = it.to_le_bytes();
            }
            self.put(&buffer[..4 * chunk.len()])?;
        }
        Ok(())
    }

    /// Writes the digest, flushes to the disk and renames into place. The digest comes back.
    ///
    /// # Errors
    /// [`EmbeddingError::IoError`]; [`EmbeddingError::SerializationError`] when elements are
    /// missing.
    pub fn finish(mut self) -> EmbeddingResult<[u8; 32]> {
        if self.left_bytes != 0 {
            let fault = FormatFault::Length { want_bytes: self.left_bytes, got_bytes: 0 };
            return Err(bad_file(&self.path, fault));
        }
        let digest = self.digest.finalize();
        let path = self.path;
        self.out
            .seek(SeekFrom::Start(self.digest_offset_bytes))
            .and_then(|_| self.out.write_all(digest.to_hex().as_bytes()))
            .map_err(|err| io_error(&path, err))?;
        let file = self.out.into_inner().map_err(|err| io_error(&path, err.into_error()))?;
        file.as_file().sync_all().map_err(|err| io_error(&path, err))?;
        file.persist(&path).map_err(|err| io_error(&path, err.error))?;
        Ok(*digest.as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> EmbeddingResult<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes).map_err(|err| io_error(&self.path, err))
    }
}

/// Whether a file must carry a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestRule {
    /// A file without one is refused.
    Required,
    /// Verified where it is there: for files of other producers.
    IfPresent,
}

/// A file whose header was understood and whose digest was verified.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    data_offset_bytes: u64,
    metadata: Metadata,
    digest: Option<[u8; 32]>,
}

impl TensorFile {
    /// Headers beyond this are refused unread.
    pub const HEADER_BYTES_MAX: u64 = 8 << 20;

    /// Opens `path`, reads it once from end to end and verifies its digest.
    ///
    /// # Errors
    /// [`EmbeddingError::IoError`]; [`EmbeddingError::SerializationError`] for a file that is
    /// none of these, is cut or damaged, or lacks a demanded digest.
    pub fn open(path: &Path, rule: DigestRule) -> EmbeddingResult<Self> {
        let mut file = File::open(path).map_err(|err| io_error(path, err))?;
        let file_bytes = file.metadata().map_err(|err| io_error(path, err))?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|_| bad_file(path, FormatFault::Magic))?;
        let header_bytes = u64::from_le_bytes(length);
        if Self::HEADER_BYTES_MAX < header_bytes || file_bytes < 8 + header_bytes {
            return Err(bad_file(path, FormatFault::Header));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(|err| io_error(path, err))?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|_| bad_file(path, FormatFault::Header))?;
        let data_offset_bytes = 8 + header_bytes;
        let want_bytes = data_offset_bytes + metadata.data_len() as u64;
        if file_bytes != want_bytes {
            let fault = FormatFault::Length { want_bytes, got_bytes: file_bytes };
            return Err(bad_file(path, fault));
        }
        let mut out =
            Self { path: path.to_owned(), file, data_offset_bytes, metadata, digest: None };
        out.digest = out.verify(header, rule)?;
        Ok(out)
    }

    /// The verified digest of the whole file.
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }

    /// A note that the producer left.
    pub fn note(&self, name: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(name).map(String::as_str)
    }

    /// Whether the tensor is there.
    pub fn contains(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// Refuses files without this tensor of f32 elements in this shape.
    ///
    /// # Errors
    /// [`EmbeddingError::SerializationError`] that names the tensor.
    pub fn require(&self, tensor: &TensorShape) -> EmbeddingResult<()> {
        let fault = match self.metadata.info(&tensor.name) {
            None => FormatFault::MissingTensor,
            Some(it) if it.dtype != Dtype::F32 || it.shape != tensor.shape => {
                FormatFault::TensorShape
            }
            Some(_) => return Ok(()),
        };
        let what = format!("`{}` in {}", tensor.name, self.path.display());
        Err(EmbeddingError::SerializationError { what, fault })
    }

    /// Reads elements of a tensor from element `first` on.
    ///
    /// # Errors
    /// [`EmbeddingError::IoError`]; [`EmbeddingError::SerializationError`] for a tensor that is
    /// not there, is no f32 or ends earlier.
    pub fn read(&self, name: &str, first: usize, out: &mut [f32]) -> EmbeddingResult<()> {
        let Some(info) = self.metadata.info(name) else {
            return Err(bad_file(&self.path, FormatFault::MissingTensor));
        };
        let (start, end) = info.data_offsets;
        let got_count = (end - start) / 4;
        if info.dtype != Dtype::F32 || got_count < first + out.len() {
            return Err(bad_file(&self.path, FormatFault::TensorShape));
        }
        let offset_bytes = self.data_offset_bytes + (start + 4 * first) as u64;
        let bytes = bytemuck::cast_slice_mut(out);
        read_at(&self.file, bytes, offset_bytes).map_err(|err| io_error(&self.path, err))?;
        if cfg!(target_endian = "big") {
            out.iter_mut().for_each(|it| *it = f32::from_bits(it.to_bits().swap_bytes()));
        }
        Ok(())
    }

    /// Hashes the header with the digest's place blanked, then the elements.
    fn verify(
        &mut self,
        mut header: Vec<u8>,
        rule: DigestRule,
    ) -> EmbeddingResult<Option<[u8; 32]>> {
        let wrong = || bad_file(&self.path, FormatFault::Digest);
        let Some(stored) = self.note(DIGEST_NOTE).map(str::to_owned) else {
            return if rule == DigestRule::Required { Err(wrong()) } else { Ok(None) };
        };
        let stored_digest = blake3::Hash::from_hex(&stored).map_err(|_| wrong())?;
        let place = find(&header, stored.as_bytes()).ok_or_else(wrong)?;
        header[place..place + stored.len()].copy_from_slice(DIGEST_NONE.as_bytes());

        let mut start = (header.len() as u64).to_le_bytes().to_vec();
        start.extend(header);
        let (start_bytes, data_bytes) = (start.len() as u64, self.metadata.data_len() as u64);
        let digest = digest_of(start_bytes + data_bytes, |first, out| {
            let inside = start.get(first as usize..).unwrap_or_default();
            let (blanked, rest) = out.split_at_mut(inside.len().min(out.len()));
            blanked.copy_from_slice(&inside[..blanked.len()]);
            read_at(&self.file, rest, first + blanked.len() as u64)
        });
        let digest = digest.map_err(|err| io_error(&self.path, err))?;
        if stored_digest == digest { Ok(Some(digest)) } else { Err(wrong()) }
    }
}

const DIGEST_NOTE: &str = "blake3";
const DIGEST_NONE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// JSON padded with spaces so that the elements are aligned to 8 bytes.
fn header_of(tensors: &[TensorShape], notes: &[(&str, String)]) -> Vec<u8> {
    let mut metadata: HashMap<&str, &str> =
        notes.iter().map(|(name, value)| (*name, value.as_str())).collect();
    metadata.insert(DIGEST_NOTE, DIGEST_NONE);
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), serde_json::json!(metadata));
    let mut start = 0;
    for it in tensors {
        let end = start + 4 * it.element_count();
        let value =
            serde_json::json!({ "dtype": "F32", "shape": it.shape, "data_offsets": [start, end] });
        header.insert(it.name.clone(), value);
        start = end;
    }
    let mut bytes = serde_json::Value::Object(header).to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    bytes
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|it| it == needle)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset_bytes: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset_bytes)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset_bytes: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, offset_bytes)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        offset_bytes += read as u64;
    }
    Ok(())
}

fn io_error(path: &Path, source: std::io::Error) -> EmbeddingError {
    EmbeddingError::IoError { path: path.to_owned(), source }
}

fn bad_file(path: &Path, fault: FormatFault) -> EmbeddingError {
    EmbeddingError::SerializationError { what: path.display().to_string(), fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes() -> Vec<TensorShape> {
        vec![
            TensorShape { name: "b".into(), shape: vec![2, 3] },
            TensorShape { name: "a".into(), shape: vec![5] },
        ]
    }

    fn write(path: &Path) -> [u8; 32] {
        let notes = [("seed", "42".to_owned())];
        let mut out = TensorFileWriter::create(path, &shapes(), &notes).unwrap();
        out.write(&[1.0, 2.0, 3.0]).unwrap();
        out.write(&[4.0, 5.0, 6.0, -1.0]).unwrap();
        out.write(&[-2.0, -3.0, -4.0, -5.0]).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.safetensors");
        let digest = write(&path);
        let file = TensorFile::open(&path, DigestRule::Required).unwrap();
        assert_eq!((file.digest(), file.note("seed")), (Some(digest), Some("42")));
        for it in shapes() {
            file.require(&it).unwrap();
        }
        let mut row = [0.0; 3];
        file.read("b", 3, &mut row).unwrap();
        assert_eq!(row, [4.0, 5.0, 6.0]);
        file.read("a", 2, &mut row).unwrap();
        assert_eq!(row, [-3.0, -4.0, -5.0]);
        assert!(file.read("a", 3, &mut row).is_err());
        assert!(file.require(&TensorShape { name: "a".into(), shape: vec![4] }).is_err());
        assert!(file.require(&TensorShape { name: "c".into(), shape: vec![4] }).is_err());
        let bytes = std::fs::read(&path).unwrap();
        let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(parsed.tensor("b").unwrap().shape(), [2, 3]);
    }

    #[track_caller]
    fn check_damaged(change: impl FnOnce(&mut Vec<u8>)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.safetensors");
        write(&path);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let err = TensorFile::open(&path, DigestRule::Required).unwrap_err();
        assert!(matches!(err, EmbeddingError::SerializationError { .. }), "{err}");
    }

    #[test]
    fn damaged_files_are_refused() {
        check_damaged(|it| *it.last_mut().unwrap() ^= 1);
        check_damaged(|it| it.truncate(it.len() - 4));
        check_damaged(|it| it.push(0));
        check_damaged(|it| it.truncate(5));
        check_damaged(|it| it[7] = 0xFF);
        check_damaged(|it| it[8] = b'x');
        check_damaged(|it| {
            let at = find(it, b"\"42\"").unwrap();
            it[at + 1] = b'5';
        });
    }

    #[test]
    fn unfinished_files_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.safetensors");
        let mut out = TensorFileWriter::create(&path, &shapes(), &[]).unwrap();
        out.write(&[1.0; 4]).unwrap();
        assert!(out.write(&[1.0; 8]).is_err());
        assert!(out.finish().is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
