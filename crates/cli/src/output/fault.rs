//! Why results could not be written.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A failure of a result file. Nothing is left under its name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The extension says nothing.
    #[error("{}: its format is not known", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// A format of one array, and other or more columns.
    #[error("a .npy file holds one vector an item, not {columns:?}")]
    OneVector {
        /// The columns.
        columns: Vec<String>,
    },
    /// A format without such columns.
    #[error("a .{format} file has no room for `{column}`")]
    NoRoomFor {
        /// The column.
        column: String,
        /// The format.
        format: &'static str,
    },
    /// No file system room, or a quota or limit is reached.
    #[error("no space left to write {}", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// The folder of the file is not there.
    #[error("the folder of {} does not exist", path.display())]
    NoFolder {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// The tensor file's writer refused; a bug.
    #[error("cannot write {}: {source}", path.display())]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: calor_embed::EmbeddingError,
    },
    /// The Parquet writer refused; a bug.
    #[error("cannot write {}: {source}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: parquet::errors::ParquetError,
    },
    /// A row that does not have the columns that were announced; a bug.
    #[error("row {row_index} does not fit column `{column}`")]
    Misfit {
        /// The row's place among the items.
        row_index: usize,
        /// The column.
        column: String,
    },
}

impl OutputError {
    /// Turns a system error into ours; exhausted room becomes [`OutputError::DiskFull`].
    pub(crate) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::DiskFull { path },
            _ => Self::Io { path, source },
        }
    }

    /// The same of `target`: users know that name, not the temporary one.
    pub(super) fn about(self, target: &Path) -> Self {
        let path = target.to_owned();
        match self {
            Self::DiskFull { .. } => Self::DiskFull { path },
            Self::Io { source, .. } => Self::Io { path, source },
            Self::Tensors { source, .. } => Self::Tensors { path, source },
            Self::Parquet { source, .. } => Self::Parquet { path, source },
            Self::UnknownFormat { .. }
            | Self::OneVector { .. }
            | Self::NoRoomFor { .. }
            | Self::NoFolder { .. }
            | Self::Misfit { .. } => self,
        }
    }

    /// Of the Parquet writer; a system error inside it is unpacked.
    pub(super) fn parquet(path: impl Into<PathBuf>, source: parquet::errors::ParquetError) -> Self {
        use parquet::errors::ParquetError;
        let path = path.into();
        match source {
            ParquetError::External(inner) => match inner.downcast::<io::Error>() {
                Ok(inner) => Self::io(path, *inner),
                Err(inner) => Self::Parquet { path, source: ParquetError::External(inner) },
            },
            source => Self::Parquet { path, source },
        }
    }

    /// Of the tensor file's writer; a system error inside it is unpacked.
    pub(super) fn tensors(path: impl Into<PathBuf>, source: calor_embed::EmbeddingError) -> Self {
        match source {
            calor_embed::EmbeddingError::IoError { source, .. } => Self::io(path, source),
            source => Self::Tensors { path: path.into(), source },
        }
    }
}

#[test]
fn exhausted_room_is_its_own_fact() {
    for kind in
        [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge]
    {
        let external = parquet::errors::ParquetError::External(Box::new(io::Error::from(kind)));
        let inner = calor_embed::EmbeddingError::IoError {
            path: "x".into(),
            source: io::Error::from(kind),
        };
        for err in [
            OutputError::io("a", io::Error::from(kind)),
            OutputError::parquet("a", external),
            OutputError::tensors("a", inner),
        ] {
            assert_eq!(err.to_string(), "no space left to write a");
        }
    }
}
