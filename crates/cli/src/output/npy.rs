//! Results as one NumPy array of f32, `[N, D]`, and its notes in a `.npy.json` beside it.

use std::{
    fs::{self, File},
    io::{BufWriter, Seek, SeekFrom, Write},
    path::PathBuf,
};

use serde_json::{Map, Value as Json};

use super::{Cell, Column, ColumnKind, Note, OutputError, Row, Sink, spool::write_f32};

/// Bytes before the elements: room for any shape, and a multiple of 64 as the format asks.
const HEADER_BYTES: usize = 128;

/// An array whose first extent is filled in at the end.
pub(super) struct Array {
    path: PathBuf,
    notes_path: PathBuf,
    out: BufWriter<File>,
    column: Column,
    row_count: usize,
    ids: Vec<Json>,
}

impl Array {
    pub(super) fn create(
        path: PathBuf,
        notes_path: PathBuf,
        column: &Column,
    ) -> Result<Self, OutputError> {
        let io = |err| OutputError::io(&path, err);
        let file = File::create_new(&path).map_err(io)?;
        let mut out = BufWriter::with_capacity(1 << 18, file);
        out.write_all(&[0; HEADER_BYTES]).map_err(io)?;
        let column = column.clone();
        Ok(Self { path, notes_path, out, column, row_count: 0, ids: Vec::new() })
    }
}

impl Sink for Array {
    fn write(&mut self, row: &Row) -> Result<(), OutputError> {
        let columns = std::slice::from_ref(&self.column);
        row.check(columns)?;
        row.without_gaps(columns)?;
        if let Some(Cell::Dense(elements)) = row.cells.first() {
            write_f32(&mut self.out, elements).map_err(|err| OutputError::io(&self.path, err))?;
        }
        self.row_count += 1;
        self.ids.push(row.id.as_str().into());
        Ok(())
    }

    fn finish(mut self: Box<Self>, notes: &[Note]) -> Result<(), OutputError> {
        let io = |err| OutputError::io(&self.path, err);
        let len = match self.column.kind {
            ColumnKind::Dense { len } => len,
            ColumnKind::Tokens { .. } | ColumnKind::Sparse => 0,
        };
        self.out.seek(SeekFrom::Start(0)).map_err(io)?;
        self.out.write_all(&header(self.row_count, len)).map_err(io)?;
        self.out.flush().map_err(io)?;
        let mut all: Map<String, Json> =
            notes.iter().map(|(name, text)| ((*name).into(), text.as_str().into())).collect();
        all.insert("ids".into(), Json::Array(self.ids));
        fs::write(&self.notes_path, format!("{:#}\n", Json::Object(all)))
            .map_err(|err| OutputError::io(&self.notes_path, err))
    }
}

/// The format's version 1.0 header for `[rows, len]` elements.
fn header(row_count: usize, len: usize) -> [u8; HEADER_BYTES] {
    let mut out = [b' '; HEADER_BYTES];
    out[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    out[8..10].copy_from_slice(&((HEADER_BYTES - 10) as u16).to_le_bytes());
    let text =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({row_count}, {len}), }}");
    out[10..10 + text.len()].copy_from_slice(text.as_bytes());
    out[HEADER_BYTES - 1] = b'\n';
    out
}

#[test]
fn the_header_has_room_for_any_shape() {
    let found = header(usize::MAX, usize::MAX);
    assert_eq!(found.len() % 64, 0);
    assert!(found.ends_with(b"\n") && found.starts_with(b"\x93NUMPY"));
}
