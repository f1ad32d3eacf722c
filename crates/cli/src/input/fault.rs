//! What can be wrong with an item, and with a whole source.

use std::{io, path::PathBuf};

/// Why one item cannot be embedded. The others are not concerned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ItemFault {
    /// Not UTF-8.
    #[error("byte {byte_index} is not UTF-8")]
    NotUtf8 {
        /// First bad byte, from zero.
        byte_index: usize,
    },
    /// A NUL in a text.
    #[error("byte {byte_index} is NUL")]
    Nul {
        /// Its place, from zero.
        byte_index: usize,
    },
    /// Nothing to embed.
    #[error("the text is empty")]
    Empty,
    /// Longer than the limit, and cutting was not allowed or is not possible.
    #[error("longer than {limit_bytes} bytes")]
    TooLong {
        /// The limit.
        limit_bytes: usize,
    },
    /// A line that is not the JSON that is wanted.
    #[error("not an item as JSON: {reason}, at column {column}")]
    Json {
        /// From one.
        column: usize,
        /// What the parser says.
        reason: String,
    },
    /// None of the fields that hold content.
    #[error("none of the fields `text`, `code`, `input_ids` and `image`")]
    NoContent,
    /// More than one of the fields that hold content.
    #[error("more than one of the fields `text`, `code`, `input_ids` and `image`")]
    TwoContents,
    /// Code without its language, or another companion field that is missing or not wanted.
    #[error("`{field}` {want}")]
    Companion {
        /// The field.
        field: &'static str,
        /// The rule.
        want: &'static str,
    },
    /// A table row without a text.
    #[error("the row has no text")]
    NoCell,
    /// An image that cannot be read.
    #[error("{}: {reason}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// An image of a format that is not known.
    #[error("{}: not .png, .jpg, .webp or .gif", path.display())]
    ImageFormat {
        /// The file.
        path: PathBuf,
    },
}

/// Why a source cannot be read (further).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// No such file.
    #[error("{} does not exist", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// A directory where a file is wanted.
    #[error("{} is a directory", path.display())]
    IsDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The system refuses to open the file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// Reading failed on the way.
    #[error("{place}: {source}")]
    Read {
        /// The source.
        place: String,
        /// What the system says.
        source: io::Error,
    },
    /// The extension says nothing.
    #[error("{}: its format is not known", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// A format that needs a file came from standard input.
    #[error("standard input can be txt, jsonl or csv; other formats need a file")]
    NotAStream,
    /// The table has no such column.
    #[error("{place}: no column `{column}` of texts; it has {found:?}")]
    NoColumn {
        /// The source.
        place: String,
        /// The column asked for.
        column: String,
        /// Those that are there.
        found: Vec<String>,
    },
    /// The header of a table is longer than a record may be.
    #[error("{place}: the header is longer than {limit_bytes} bytes")]
    HeaderTooLong {
        /// The source.
        place: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// Not a Parquet file.
    #[error("{place} is not a Parquet file: {reason}")]
    NotParquet {
        /// The source.
        place: String,
        /// What the reader says.
        reason: String,
    },
    /// A Parquet file that is damaged further down.
    #[error("{place} is damaged after row {row_count}: {reason}")]
    DamagedParquet {
        /// The source.
        place: String,
        /// Rows that were read.
        row_count: u64,
        /// What the reader says.
        reason: String,
    },
}

impl InputError {
    /// Of a file that could not be opened.
    pub(crate) fn file(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Absent { path },
            _ => Self::File { path, source },
        }
    }

    /// Of a source that broke off.
    pub(crate) fn read(place: &str, source: io::Error) -> Self {
        Self::Read { place: place.to_owned(), source }
    }
}
