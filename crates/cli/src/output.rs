//! Writers of results: .jsonl, .npy, .parquet and .safetensors, whole or not at all.
//!
//! A writer knows columns and rows, not models. Everything is written in a folder beside the
//! target, fsynced and renamed; a failure or an interruption leaves nothing under the target's
//! name.

mod fault;
mod jsonl;
mod npy;
mod parquet;
mod row;
mod safetensors;
mod spool;
mod staged;

use std::path::Path;

pub use fault::OutputError;
pub use jsonl::row_to_json;
pub use row::{Cell, Column, ColumnKind, Note, Row};

use staged::Staged;

/// Formats of result files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// One JSON object a line.
    Jsonl,
    /// One NumPy array, `[N, D]`.
    Npy,
    /// Parquet with list columns.
    Parquet,
    /// Named tensors.
    Safetensors,
}

/// Extensions of result files, in the order in which messages list them.
pub static FORMATS: &[(&str, OutputFormat)] = &[
    ("jsonl", OutputFormat::Jsonl),
    ("npy", OutputFormat::Npy),
    ("parquet", OutputFormat::Parquet),
    ("safetensors", OutputFormat::Safetensors),
];

impl OutputFormat {
    /// By the file's extension.
    ///
    /// # Errors
    /// [`OutputError::UnknownFormat`].
    pub fn of_path(path: &Path) -> Result<Self, OutputError> {
        let extension = path.extension().and_then(|it| it.to_str()).unwrap_or_default();
        let found = FORMATS.iter().find(|(name, _)| extension.eq_ignore_ascii_case(name));
        found.map(|it| it.1).ok_or_else(|| OutputError::UnknownFormat { path: path.into() })
    }

    /// Whether a file of this format can hold such columns.
    ///
    /// # Errors
    /// [`OutputError::OneVector`], [`OutputError::NoRoomFor`].
    pub fn check(self, columns: &[Column]) -> Result<(), OutputError> {
        let dense = |it: &Column| matches!(it.kind, ColumnKind::Dense { .. });
        match self {
            Self::Jsonl | Self::Parquet => Ok(()),
            Self::Npy => match columns {
                [one] if dense(one) => Ok(()),
                _ => Err(OutputError::OneVector {
                    columns: columns.iter().map(|it| it.name.clone()).collect(),
                }),
            },
            Self::Safetensors => {
                let sparse = columns.iter().find(|it| it.kind == ColumnKind::Sparse);
                sparse.map_or(Ok(()), |it| {
                    let column = it.name.clone();
                    Err(OutputError::NoRoomFor { column, format: "safetensors" })
                })
            }
        }
    }
}

/// A result file that is being written.
pub struct OutputFile {
    staged: Staged,
    sink: Box<dyn Sink>,
}

/// What every format does.
trait Sink {
    /// Takes a row whose cells are as the columns say.
    fn write(&mut self, row: &Row) -> Result<(), OutputError>;

    /// Writes what is left. `notes` say how the file came about.
    fn finish(self: Box<Self>, notes: &[Note]) -> Result<(), OutputError>;
}

/// A target that can be written, before its columns are known.
pub struct Reserved {
    format: OutputFormat,
    staged: Staged,
}

impl Reserved {
    /// The target's format.
    pub fn format(&self) -> OutputFormat {
        self.format
    }

    /// Begins the file.
    ///
    /// # Errors
    /// [`OutputError`] for columns that do not fit the format, and a full disk.
    pub fn start(self, columns: &[Column]) -> Result<OutputFile, OutputError> {
        let Self { format, mut staged } = self;
        format.check(columns)?;
        let target = staged.target().to_owned();
        let sink = Self::sink(format, &mut staged, columns).map_err(|it| it.about(&target))?;
        Ok(OutputFile { staged, sink })
    }

    fn sink(
        format: OutputFormat,
        staged: &mut Staged,
        columns: &[Column],
    ) -> Result<Box<dyn Sink>, OutputError> {
        Ok(match format {
            OutputFormat::Jsonl => Box::new(jsonl::Lines::create(staged.main(), columns)?),
            OutputFormat::Npy => {
                let notes = staged.beside("json");
                Box::new(npy::Array::create(staged.main(), notes, &columns[0])?)
            }
            OutputFormat::Parquet => Box::new(parquet::Table::create(staged.main(), columns)?),
            OutputFormat::Safetensors => {
                Box::new(safetensors::Tensors::create(staged.main(), columns)?)
            }
        })
    }
}

impl OutputFile {
    /// Opens a temporary folder beside `path`; nothing is visible before
    /// [`OutputFile::finish`].
    ///
    /// # Errors
    /// [`OutputError`] for an unknown format and a folder that cannot be written.
    pub fn reserve(path: &Path) -> Result<Reserved, OutputError> {
        let format = OutputFormat::of_path(path)?;
        Ok(Reserved { format, staged: Staged::create(path)? })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// [`OutputError::DiskFull`], [`OutputError::Io`]; [`OutputError::Misfit`] for a cell that
    /// is not as its column says.
    pub fn write(&mut self, row: &Row) -> Result<(), OutputError> {
        self.sink.write(row).map_err(|it| it.about(self.staged.target()))
    }

    /// Ends the file, makes it durable and gives it its name.
    ///
    /// # Errors
    /// [`OutputError::DiskFull`], [`OutputError::Io`].
    pub fn finish(self, notes: &[Note]) -> Result<(), OutputError> {
        self.sink.finish(notes).map_err(|it| it.about(self.staged.target()))?;
        self.staged.publish()
    }
}

#[cfg(test)]
mod tests;
