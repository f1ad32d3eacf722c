//! Results as named tensors: a dense column is `[N, D]`, tokens are `tokens.<i>`, `[len, D]`.
//!
//! The number of rows comes first in such a file and is known last, so elements wait in
//! spools.

use std::path::PathBuf;

use calor_embed::tensor_file::{TensorFileWriter, TensorShape};

use super::{Cell, Column, ColumnKind, Note, OutputError, Row, Sink, spool::Spool};

/// The first dense column has this name, whatever its model calls it.
const MAIN: &str = "embeddings";

/// A tensor file whose extents are known at the end.
pub(super) struct Tensors {
    path: PathBuf,
    columns: Vec<Column>,
    spools: Vec<Spool>,
    item_indexes: Vec<usize>,
    /// For each token column, each row's number of tokens.
    token_counts: Vec<Vec<usize>>,
}

impl Tensors {
    pub(super) fn create(path: PathBuf, columns: &[Column]) -> Result<Self, OutputError> {
        let spool = |index: usize| Spool::create(&path.with_file_name(format!("spool{index}")));
        let spools = (0..columns.len()).map(spool).collect::<Result<_, _>>()?;
        let token_counts = vec![Vec::new(); columns.len()];
        Ok(Self { path, columns: columns.to_vec(), spools, item_indexes: Vec::new(), token_counts })
    }

    fn shapes(&self) -> Vec<TensorShape> {
        let mut out = Vec::new();
        let mut is_first = true;
        for (column, counts) in self.columns.iter().zip(&self.token_counts) {
            match column.kind {
                ColumnKind::Dense { len } => {
                    let name = if is_first { MAIN } else { &column.name };
                    is_first = false;
                    let shape = vec![self.item_indexes.len(), len];
                    out.push(TensorShape { name: name.into(), shape });
                }
                ColumnKind::Tokens { dim } => {
                    for (item_index, count) in self.item_indexes.iter().zip(counts) {
                        let name = format!("tokens.{item_index}");
                        out.push(TensorShape { name, shape: vec![*count, dim] });
                    }
                }
                ColumnKind::Sparse => {}
            }
        }
        out
    }
}

impl Sink for Tensors {
    fn write(&mut self, row: &Row) -> Result<(), OutputError> {
        row.check(&self.columns)?;
        row.without_gaps(&self.columns)?;
        for (index, cell) in row.cells.iter().enumerate() {
            match cell {
                Cell::Dense(elements) => self.spools[index].write(elements)?,
                Cell::Tokens(matrix) => {
                    self.spools[index].write(matrix.as_slice())?;
                    self.token_counts[index].push(matrix.token_count());
                }
                Cell::Sparse(_) | Cell::Absent => {}
            }
        }
        self.item_indexes.push(row.item_index);
        Ok(())
    }

    fn finish(self: Box<Self>, notes: &[Note]) -> Result<(), OutputError> {
        let shapes = self.shapes();
        let Self { path, spools, item_indexes, .. } = *self;
        let mut all = notes.to_vec();
        // Rows are items unless some failed.
        if item_indexes.iter().enumerate().any(|(row, item)| row != *item) {
            all.push(("item_indexes", format!("{item_indexes:?}")));
        }
        let tensors = |err| OutputError::tensors(&path, err);
        let mut out = TensorFileWriter::create(&path, &shapes, &all).map_err(tensors)?;
        for spool in spools {
            spool.read(&mut |elements| out.write(elements).map_err(tensors))?;
        }
        out.finish().map_err(tensors)?;
        Ok(())
    }
}
