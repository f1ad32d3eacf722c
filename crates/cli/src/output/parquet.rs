//! Results as a Parquet table: `id`, `content_hash`, `text`, then one column or pair of columns
//! for each result, as lists.

use std::{fs::File, path::PathBuf, sync::Arc};

use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, FloatType, Int32Type},
    errors::Result as ParquetResult,
    file::{
        metadata::KeyValue,
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::parser::parse_message_type,
};

use super::{Cell, Column, ColumnKind, Note, OutputError, Row, Sink};

/// Rows of a row group: what is held in memory.
const GROUP_LEN: usize = 256;

/// A table that is being written.
pub(super) struct Table {
    path: PathBuf,
    out: SerializedFileWriter<File>,
    columns: Vec<Column>,
    rows: Vec<Row>,
}

impl Table {
    pub(super) fn create(path: PathBuf, columns: &[Column]) -> Result<Self, OutputError> {
        let file = File::create_new(&path).map_err(|err| OutputError::io(&path, err))?;
        let parquet = |err| OutputError::parquet(&path, err);
        let schema = parse_message_type(&schema(columns)).map_err(parquet)?;
        // Vectors hardly compress; dictionaries and statistics of them are waste.
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .build();
        let out = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))
            .map_err(parquet)?;
        Ok(Self { path, out, columns: columns.to_vec(), rows: Vec::new() })
    }

    fn flush(&mut self) -> Result<(), OutputError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let written = self.write_group();
        self.rows.clear();
        written.map_err(|err| OutputError::parquet(&self.path, err))
    }

    fn write_group(&mut self) -> ParquetResult<()> {
        let mut group = self.out.next_row_group()?;
        let mut next =
            |write: &mut dyn FnMut(&mut SerializedColumnWriter<'_>) -> ParquetResult<()>| {
                match group.next_column()? {
                    Some(mut column) => {
                        write(&mut column)?;
                        column.close()
                    }
                    None => Ok(()),
                }
            };
        let bytes = |it: &str| ByteArray::from(it.as_bytes().to_vec());
        let texts = |get: &dyn Fn(&Row) -> ByteArray| -> Vec<ByteArray> {
            self.rows.iter().map(get).collect()
        };
        let ids = texts(&|row| bytes(&row.id));
        next(&mut |it| put::<ByteArrayType>(it, &ids, None))?;
        let hashes = texts(&|row| bytes(&row.hash_text()));
        next(&mut |it| put::<ByteArrayType>(it, &hashes, None))?;
        let present: Vec<ByteArray> =
            self.rows.iter().filter_map(|row| row.text.as_deref().map(bytes)).collect();
        let levels: Vec<i16> = self.rows.iter().map(|row| i16::from(row.text.is_some())).collect();
        next(&mut |it| put::<ByteArrayType>(it, &present, Some((&levels, None))))?;
        for index in 0..self.columns.len() {
            let cells = || self.rows.iter().map(|row| &row.cells[index]);
            match self.columns[index].kind {
                ColumnKind::Dense { .. } => {
                    let list = List::of(cells().map(|it| [dense(it)]), 1);
                    next(&mut |it| list.put::<FloatType>(it))?;
                }
                ColumnKind::Tokens { .. } => {
                    let list = List::of(cells().map(token_rows), 2);
                    next(&mut |it| list.put::<FloatType>(it))?;
                }
                ColumnKind::Sparse => {
                    let indices: Vec<Vec<i32>> = cells().map(terms).collect();
                    let list = List::of(indices.iter().map(|it| [&it[..]]), 1);
                    next(&mut |it| list.put::<Int32Type>(it))?;
                    let list = List::of(cells().map(|it| [weights(it)]), 1);
                    next(&mut |it| list.put::<FloatType>(it))?;
                }
            }
        }
        group.close()?;
        Ok(())
    }
}

impl Sink for Table {
    fn write(&mut self, row: &Row) -> Result<(), OutputError> {
        row.check(&self.columns)?;
        self.rows.push(row.clone());
        if self.rows.len() == GROUP_LEN { self.flush() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>, notes: &[Note]) -> Result<(), OutputError> {
        self.flush()?;
        for (name, text) in notes {
            let value = KeyValue::new(format!("calor.{name}"), text.clone());
            self.out.append_key_value_metadata(value);
        }
        let Self { path, out, .. } = *self;
        out.close().map(drop).map_err(|err| OutputError::parquet(path, err))
    }
}

/// The columns in the format's own language.
fn schema(columns: &[Column]) -> String {
    let mut out = String::from(
        "message calor { required binary id (STRING); required binary content_hash (STRING); \
         optional binary text (STRING); ",
    );
    let list = |name: &str, element: &str| {
        format!("required group {name} (LIST) {{ repeated group list {{ {element} }} }} ")
    };
    let float = "required float element;";
    for Column { name, kind } in columns {
        match kind {
            ColumnKind::Dense { .. } => out.push_str(&list(name, float)),
            ColumnKind::Tokens { .. } => out.push_str(&list(name, &list("element", float))),
            ColumnKind::Sparse => {
                let index = "required int32 element (INTEGER(32, false));";
                out.push_str(&list(&format!("{name}_indices"), index));
                out.push_str(&list(&format!("{name}_values"), float));
            }
        }
    }
    out.push('}');
    out
}

/// Lists of lists as the format stores them: elements, and two levels for each.
struct List<T> {
    elements: Vec<T>,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

impl<T: Copy> List<T> {
    /// One entry a row; each entry is its inner lists, of which there is one at `depth` 1.
    fn of<'a, Inner>(rows: impl Iterator<Item = Inner>, depth: i16) -> Self
    where
        Inner: IntoIterator<Item = &'a [T]>,
        T: 'a,
    {
        let mut out = Self { elements: Vec::new(), definition: Vec::new(), repetition: Vec::new() };
        for row in rows {
            let mut repetition = 0;
            for inner in row {
                for element in inner {
                    out.elements.push(*element);
                    out.definition.push(depth);
                    out.repetition.push(repetition);
                    repetition = depth;
                }
                repetition = if repetition == 0 { 0 } else { 1 };
            }
            if repetition == 0 {
                out.definition.push(0); // A row without elements is an empty list.
                out.repetition.push(0);
            }
        }
        out
    }

    fn put<D>(&self, column: &mut SerializedColumnWriter<'_>) -> ParquetResult<()>
    where
        D: parquet::data_type::DataType<T = T>,
    {
        put::<D>(column, &self.elements, Some((&self.definition, Some(&self.repetition))))
    }
}

type Levels<'a> = (&'a [i16], Option<&'a [i16]>);

fn put<D: parquet::data_type::DataType>(
    column: &mut SerializedColumnWriter<'_>,
    values: &[D::T],
    levels: Option<Levels<'_>>,
) -> ParquetResult<()> {
    let (definition, repetition) = levels.map_or((None, None), |it| (Some(it.0), it.1));
    column.typed::<D>().write_batch(values, definition, repetition).map(drop)
}

fn dense(cell: &Cell) -> &[f32] {
    match cell {
        Cell::Dense(elements) => elements,
        Cell::Tokens(_) | Cell::Sparse(_) | Cell::Absent => &[],
    }
}

fn token_rows(cell: &Cell) -> Vec<&[f32]> {
    match cell {
        Cell::Tokens(matrix) => matrix.rows().collect(),
        Cell::Dense(_) | Cell::Sparse(_) | Cell::Absent => Vec::new(),
    }
}

fn terms(cell: &Cell) -> Vec<i32> {
    match cell {
        // The format stores unsigned numbers in the signed type of the same width.
        Cell::Sparse(it) => it.indices().iter().map(|it| it.cast_signed()).collect(),
        Cell::Dense(_) | Cell::Tokens(_) | Cell::Absent => Vec::new(),
    }
}

fn weights(cell: &Cell) -> &[f32] {
    match cell {
        Cell::Sparse(it) => it.values(),
        Cell::Dense(_) | Cell::Tokens(_) | Cell::Absent => &[],
    }
}
