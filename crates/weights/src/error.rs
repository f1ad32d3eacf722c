//! Everything that can be wrong with a checkpoint, a configuration, a store or a source.
//!
//! Facts only: a caller can match on them, and the message is built from them.

use std::{io, path::PathBuf};

use crate::{dtype::Dtype, nf4::Nf4Problem, source::Attempt};

/// Why weights could not be found, read, checked or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file system has no room, or the user's quota on it is used up.
    #[error("no space left to write {}", path.display())]
    DiskFull {
        /// The file that could not be written.
        path: PathBuf,
    },
    /// The directory lacks a file that every checkpoint has.
    #[error("{} does not exist", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// The directory has a pickle and no safetensors file.
    #[error("{origin} has only {file}: convert it to safetensors first; pickles are never read")]
    OnlyPickle {
        /// Directory, repository or package.
        origin: String,
        /// The pickle.
        file: String,
    },
    /// A file ended before the bytes that it promises.
    #[error("{} is cut short: {want_bytes} bytes wanted, {found_bytes} found", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that the header or the manifest promises.
        want_bytes: u64,
        /// Bytes that are there; a lower bound when the file was cut while it was read.
        found_bytes: u64,
    },
    /// The length word of a safetensors header is absurd.
    #[error("{}: header of {header_bytes} bytes, at most {limit_bytes} allowed", path.display())]
    HeaderLength {
        /// The file.
        path: PathBuf,
        /// The length that the file claims.
        header_bytes: u64,
        /// The smaller of the format's limit and what the file holds.
        limit_bytes: u64,
    },
    /// Text that must be JSON is not, or is not of the wanted form.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// Text is not UTF-8.
    #[error("{} is not UTF-8 after {valid_bytes} bytes", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Bytes before the first bad one.
        valid_bytes: usize,
    },
    /// A text file is larger than any real one.
    #[error("{} has {found_bytes} bytes, at most {limit_bytes} allowed", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        found_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The same tensor is described twice, within a file or across shards.
    #[error("{}: tensor `{tensor}` appears twice", path.display())]
    DuplicateTensor {
        /// The file with the second description.
        path: PathBuf,
        /// The stored name.
        tensor: String,
    },
    /// A tensor has a type that this version does not know.
    #[error("{}: tensor `{tensor}` has unknown dtype `{dtype}`", path.display())]
    UnknownDtype {
        /// The file.
        path: PathBuf,
        /// The stored name.
        tensor: String,
        /// The type's name in the header.
        dtype: String,
    },
    /// A tensor's byte range contradicts its shape, the file or another tensor.
    #[error("{}: tensor `{tensor}` {problem}", path.display())]
    TensorRange {
        /// The file.
        path: PathBuf,
        /// The stored name.
        tensor: String,
        /// The contradiction.
        problem: RangeProblem,
    },
    /// The index names a shard outside its directory.
    #[error("{}: shard path `{shard}` leaves the directory", path.display())]
    ShardPath {
        /// The index file.
        path: PathBuf,
        /// The path as written.
        shard: String,
    },
    /// The index says that a shard holds a tensor, and it does not.
    #[error("{}: `{tensor}` is not in shard `{shard}`", path.display())]
    ShardTensor {
        /// The index file.
        path: PathBuf,
        /// The stored name.
        tensor: String,
        /// The shard.
        shard: String,
    },
    /// No tensor has this name.
    #[error("no tensor is named `{tensor}`")]
    UnknownTensor {
        /// The name asked for.
        tensor: String,
    },
    /// The tensor's type cannot be read as f32.
    #[error("tensor `{tensor}` is {dtype:?}, not a float of 16 or 32 bits")]
    NotFloat {
        /// The stored name.
        tensor: String,
        /// Its type.
        dtype: Dtype,
    },
    /// The tensor is not one of four bits an element, or a relative that is not read.
    #[error("tensor `{tensor}`: {problem}")]
    Nf4 {
        /// The stored name.
        tensor: String,
        /// What is wrong with it.
        problem: Nf4Problem,
    },
    /// The model needs a tensor that the checkpoint lacks.
    #[error("{}: no tensor for `{tensor}`; looked for {candidates:?}", path.display())]
    MissingTensor {
        /// Our name.
        tensor: String,
        /// Names under which the family publishes it.
        candidates: Vec<String>,
        /// The checkpoint's directory.
        path: PathBuf,
    },
    /// The tensor is there, with another shape.
    #[error("`{tensor}` (stored as `{stored}`) has shape {found:?}, the model needs {want:?}")]
    TensorShape {
        /// Our name.
        tensor: String,
        /// The stored name.
        stored: String,
        /// Shape that the configuration implies.
        want: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// The architecture is none of ours.
    #[error("model type `{model_type}` is not supported; supported are {supported:?}")]
    UnsupportedFamily {
        /// `model_type` of config.json.
        model_type: String,
        /// All supported values.
        supported: &'static [&'static str],
    },
    /// A field of a configuration file is absent, absurd or unsupported.
    #[error("{}: field `{field}` {problem}", path.display())]
    Field {
        /// The configuration file.
        path: PathBuf,
        /// Dotted path of the field.
        field: String,
        /// What is wrong with it.
        problem: FieldProblem,
    },
    /// A file's bytes are not those that were recorded.
    #[error("{} was changed: recorded {want}, found {found}", path.display())]
    Tampered {
        /// The file.
        path: PathBuf,
        /// Recorded BLAKE3 digest, hexadecimal.
        want: String,
        /// Digest of what is there.
        found: String,
    },
    /// A file is in the model's directory that was not there when it was pulled.
    #[error("{} is not listed in the manifest", path.display())]
    Unlisted {
        /// The file.
        path: PathBuf,
    },
    /// A model or revision name that cannot be a directory name.
    #[error("`{name}` is not a name: letters, digits, `.`, `_`, `-`, one `/`, at most 96 bytes")]
    BadName {
        /// The name as given.
        name: String,
    },
    /// The store has no such model.
    #[error("the store has no model `{name}` at revision `{revision}`")]
    NotInStore {
        /// The model.
        name: String,
        /// The revision.
        revision: String,
    },
    /// A path inside a source leaves the directory that it is unpacked into.
    #[error("{origin}: path `{entry}` leaves the directory")]
    EntryPath {
        /// Directory, repository or package.
        origin: String,
        /// The path as written.
        entry: String,
    },
    /// The model is larger than the caller allows.
    #[error("{origin}: more than {limit_bytes} bytes")]
    OverQuota {
        /// Directory, repository or package.
        origin: String,
        /// The caller's limit.
        limit_bytes: u64,
    },
    /// The source holds no directory with config.json and model.safetensors.
    #[error("{origin} carries no model: no config.json beside model.safetensors")]
    NoModel {
        /// Directory, repository or package.
        origin: String,
    },
    /// The source needs the network, and the caller forbade it.
    #[error("{origin} needs the network, and offline was asked for")]
    Offline {
        /// The source.
        origin: String,
    },
    /// The hub or the network failed.
    #[error("{origin}: {file}: {source}")]
    Hub {
        /// Repository and revision.
        origin: String,
        /// The file, or `info` for the list of files.
        file: String,
        /// The client's answer.
        source: Box<hf_hub::api::sync::ApiError>,
    },
    /// None of the known pip commands can be started.
    #[error("no pip found; tried {tried:?}")]
    NoPip {
        /// Command lines, in order.
        tried: Vec<String>,
    },
    /// pip ran and failed.
    #[error("`{command}` failed: {stderr}")]
    Pip {
        /// The command line.
        command: String,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// The archive cannot be read.
    #[error("{}: {source}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The reader's answer.
        source: zip::result::ZipError,
    },
    /// Every source was tried, and none had the model.
    #[error("no source has `{name}`: {}", attempts.iter().map(ToString::to_string)
        .collect::<Vec<_>>().join("; "))]
    NoSource {
        /// The model.
        name: String,
        /// What each source answered, in order.
        attempts: Vec<Attempt>,
    },
    /// The caller's progress callback asked to stop.
    #[error("{origin}: cancelled")]
    Cancelled {
        /// The source that was at work.
        origin: String,
    },
}

/// A byte range that cannot be true.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeProblem {
    /// The range ends before it begins.
    #[error("ends at byte {end} before its begin {begin}")]
    Reversed {
        /// First byte.
        begin: u64,
        /// Byte after the last.
        end: u64,
    },
    /// The range reaches past the data.
    #[error("ends at byte {end} of {data_bytes}")]
    PastEnd {
        /// Byte after the last.
        end: u64,
        /// Bytes after the header.
        data_bytes: u64,
    },
    /// The product of the dimensions does not fit.
    #[error("has shape {shape:?}, whose size overflows")]
    ShapeOverflow {
        /// The dimensions.
        shape: Vec<u64>,
    },
    /// The range is not as long as the shape and dtype say.
    #[error("holds {found_bytes} bytes where shape and dtype need {want_bytes}")]
    Size {
        /// Elements × element size.
        want_bytes: u64,
        /// Length of the range.
        found_bytes: u64,
    },
    /// Two tensors share bytes.
    #[error("overlaps `{other}`")]
    Overlap {
        /// The tensor that begins earlier.
        other: String,
    },
}

/// What is wrong with one configuration field.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldProblem {
    /// The field is not there and has no default.
    #[error("is missing")]
    Missing,
    /// The field has another JSON type.
    #[error("must be {want}")]
    Type {
        /// The wanted type.
        want: &'static str,
    },
    /// The number is outside its limits.
    #[error("is {found}, allowed are {min} to {max}")]
    Range {
        /// The value.
        found: f64,
        /// Least allowed.
        min: f64,
        /// Most allowed.
        max: f64,
    },
    /// The value must divide another field's.
    #[error("is {found}, which does not divide {whole}")]
    NotDivisor {
        /// The value.
        found: usize,
        /// What it must divide.
        whole: usize,
    },
    /// A list has the wrong number of entries.
    #[error("has {found_count} entries, {want_count} wanted")]
    Count {
        /// Wanted entries.
        want_count: usize,
        /// Entries found.
        found_count: usize,
    },
    /// A window must be even, for it has two equal sides.
    #[error("is {found}, which is odd")]
    Odd {
        /// The value.
        found: usize,
    },
    /// The value is legal in the family but means something that is not implemented.
    #[error("is `{found}`, which is not supported")]
    Unsupported {
        /// The value as JSON text.
        found: String,
    },
}

impl WeightsError {
    /// Turns a system error into ours; a full disk becomes [`WeightsError::DiskFull`] and an
    /// absent file [`WeightsError::MissingFile`].
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::NotFound => Self::MissingFile { path },
            _ => Self::Io { action, path, source },
        }
    }
}

#[test]
fn a_full_disk_is_its_own_fact() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        let err = WeightsError::io("write", "a/b", io::Error::from(kind));
        assert_eq!(err.to_string(), "no space left to write a/b");
    }
}
