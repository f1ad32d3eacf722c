//! Results as JSON lines; each line says for itself how it came about.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::PathBuf,
};

use serde_json::{Map, Value as Json, json};

use super::{Cell, Column, Note, OutputError, Row, Sink};

/// A file of JSON lines.
pub(super) struct Lines {
    path: PathBuf,
    columns: Vec<Column>,
    out: BufWriter<File>,
}

impl Lines {
    pub(super) fn create(path: PathBuf, columns: &[Column]) -> Result<Self, OutputError> {
        let file = File::create_new(&path).map_err(|err| OutputError::io(&path, err))?;
        let out = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { path, columns: columns.to_vec(), out })
    }
}

impl Sink for Lines {
    fn write(&mut self, row: &Row) -> Result<(), OutputError> {
        row.check(&self.columns)?;
        let line = row_to_json(row, &self.columns);
        writeln!(self.out, "{line}").map_err(|err| OutputError::io(&self.path, err))
    }

    fn finish(mut self: Box<Self>, _notes: &[Note]) -> Result<(), OutputError> {
        self.out.flush().map_err(|err| OutputError::io(&self.path, err))
    }
}

/// A result as one JSON object. A dense cell is a list, tokens are a list of lists, weighted
/// terms are `{"indices", "values"}`; each is under its column's name.
pub fn row_to_json(row: &Row, columns: &[Column]) -> Json {
    let mut out = Map::new();
    out.insert("id".into(), row.id.as_str().into());
    out.insert("item_index".into(), row.item_index.into());
    out.insert("content_hash".into(), row.hash_text().into());
    if let Some(text) = &row.text {
        out.insert("text".into(), text.as_str().into());
    }
    for (column, cell) in columns.iter().zip(&row.cells) {
        out.insert(column.name.clone(), cell_to_json(cell));
    }
    out.extend(row.details.clone());
    Json::Object(out)
}

fn cell_to_json(cell: &Cell) -> Json {
    match cell {
        Cell::Absent => Json::Null,
        Cell::Dense(elements) => json!(elements),
        Cell::Tokens(matrix) => Json::Array(matrix.rows().map(|it| json!(it)).collect()),
        Cell::Sparse(it) => json!({ "indices": it.indices(), "values": it.values() }),
    }
}
