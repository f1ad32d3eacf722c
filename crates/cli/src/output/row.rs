//! A result as the writers see it: who it is of, and cells under columns.

use calor_embed::{SparseVector, TokenMatrix};
use serde_json::{Map, Value as Json};

use super::OutputError;

/// A column of results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name in the file.
    pub name: String,
    /// What its cells are.
    pub kind: ColumnKind,
}

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// A vector of `len` elements.
    Dense {
        /// Elements.
        len: usize,
    },
    /// One vector of `dim` elements for each token.
    Tokens {
        /// Elements of a token's vector.
        dim: usize,
    },
    /// Weighted terms.
    Sparse,
}

/// One result of an item.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A vector.
    Dense(Vec<f32>),
    /// A vector for each token.
    Tokens(TokenMatrix),
    /// Weighted terms.
    Sparse(SparseVector),
    /// The item has no such result, and that is no failure.
    Absent,
}

/// The results of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The item's place among all items, failed ones counted too.
    pub item_index: usize,
    /// What its source calls it, else where it stood.
    pub id: String,
    /// xxh64 of its content.
    pub content_hash: u64,
    /// The text or program, where it is one.
    pub text: Option<String>,
    /// Cells in the columns' order.
    pub cells: Vec<Cell>,
    /// What else is known of it; only formats with free fields keep it.
    pub details: Map<String, Json>,
}

impl Row {
    /// The content's hash as in files: 16 hexadecimal digits.
    pub fn hash_text(&self) -> String {
        format!("{:016x}", self.content_hash)
    }

    /// Whether the item lacks one of the results.
    pub fn has_gaps(&self) -> bool {
        self.cells.contains(&Cell::Absent)
    }

    /// Refuses gaps, for formats that cannot show them.
    pub(super) fn without_gaps(&self, columns: &[Column]) -> Result<(), OutputError> {
        match self.cells.iter().position(|it| *it == Cell::Absent) {
            Some(place) => {
                let (row_index, column) = (self.item_index, columns[place].name.clone());
                Err(OutputError::Misfit { row_index, column })
            }
            None => Ok(()),
        }
    }

    /// Proves that the cells are as `columns` say.
    pub(super) fn check(&self, columns: &[Column]) -> Result<(), OutputError> {
        let fits = |column: &Column, cell: Option<&Cell>| match (column.kind, cell) {
            (ColumnKind::Dense { len }, Some(Cell::Dense(it))) => it.len() == len,
            (ColumnKind::Tokens { dim }, Some(Cell::Tokens(it))) => it.dimension() == dim,
            (ColumnKind::Sparse, Some(Cell::Sparse(_))) | (_, Some(Cell::Absent)) => true,
            (ColumnKind::Dense { .. } | ColumnKind::Tokens { .. } | ColumnKind::Sparse, _) => false,
        };
        for (index, column) in columns.iter().enumerate() {
            if !fits(column, self.cells.get(index)) {
                let (row_index, column) = (self.item_index, column.name.clone());
                return Err(OutputError::Misfit { row_index, column });
            }
        }
        Ok(())
    }
}

/// How a file came about: a name and a text.
pub type Note = (&'static str, String);
