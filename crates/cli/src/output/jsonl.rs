//! Results as JSON lines; each line says for itself how it came about.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::PathBuf,
};

use serde::ser::{Serialize, SerializeMap, Serializer};

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

/// A result as one JSON object on one line. A dense cell is a list, tokens are a list of lists,
/// weighted terms are `{"indices", "values"}`; each is under its column's name.
pub fn row_to_json(row: &Row, columns: &[Column]) -> String {
    serde_json::to_string(&Line { row, columns }).expect("text keys and finite depth")
}

/// In the order in which people read; numbers with the digits that an f32 has.
struct Line<'a> {
    row: &'a Row,
    columns: &'a [Column],
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Row { item_index, id, content_hash: _, text, cells, details } = self.row;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", id)?;
        map.serialize_entry("item_index", item_index)?;
        map.serialize_entry("content_hash", &self.row.hash_text())?;
        if let Some(text) = text {
            map.serialize_entry("text", text)?;
        }
        for (name, value) in details {
            map.serialize_entry(name, value)?;
        }
        for (column, cell) in self.columns.iter().zip(cells) {
            map.serialize_entry(&column.name, &CellValue(cell))?;
        }
        map.end()
    }
}

struct CellValue<'a>(&'a Cell);

impl Serialize for CellValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Cell::Absent => serializer.serialize_none(),
            Cell::Dense(elements) => elements.serialize(serializer),
            Cell::Tokens(matrix) => serializer.collect_seq(matrix.rows()),
            Cell::Sparse(it) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("indices", it.indices())?;
                map.serialize_entry("values", it.values())?;
                map.end()
            }
        }
    }
}
