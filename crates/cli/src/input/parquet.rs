//! A string column of a Parquet file, with `id`, `instruction` and `language` beside it where
//! they are there. Read in batches of rows; a row group is never held whole.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parquet::{
    basic::Type as PhysicalType,
    column::reader::{ColumnReaderImpl, get_typed_column_reader},
    data_type::{ByteArray, ByteArrayType},
    errors::Result as ParquetResult,
    file::{
        reader::{ChunkReader, FileReader},
        serialized_reader::SerializedFileReader,
    },
};

use super::{Content, InputError, InputItem, ItemFault, Place, ReadLimits, item::admit};

/// Reads the texts of `column`. A row with a `language` is code.
///
/// # Errors
/// [`InputError::NotParquet`]; [`InputError::NoColumn`] unless there is a flat column of
/// strings with that name.
pub fn read_parquet<R: ChunkReader + 'static>(
    input: R,
    source: &str,
    column: &str,
    limits: ReadLimits,
) -> Result<impl Iterator<Item = Result<InputItem, InputError>> + use<R>, InputError> {
    let not = |reason| InputError::NotParquet { place: source.to_owned(), reason };
    let reader = guarded(|| SerializedFileReader::new(input)).map_err(not)?;
    let columns = reader.metadata().file_metadata().schema_descr().columns().to_vec();
    let texts = |it: &&parquet::schema::types::ColumnDescPtr| {
        it.physical_type() == PhysicalType::BYTE_ARRAY && it.max_rep_level() == 0
    };
    let find = |name: &str| {
        columns.iter().position(|it| texts(&it) && it.path().parts() == [name.to_owned()])
    };
    let Some(text) = find(column) else {
        let found = columns.iter().filter(texts).map(|it| it.path().string()).collect();
        let (place, column) = (source.to_owned(), column.to_owned());
        return Err(InputError::NoColumn { place, column, found });
    };
    let other = |name| find(name).filter(|it| *it != text);
    let indexes = [Some(text), other("id"), other("instruction"), other("language")];
    let nullable = |index: usize| columns[index].max_def_level();
    Ok(Rows {
        levels: indexes.map(|it| it.map_or(0, nullable)),
        indexes,
        reader,
        source: source.into(),
        limits,
        group_index: 0,
        left_count: 0,
        row_count: 0,
        open: [None, None, None, None],
        cells: Default::default(),
        ended: false,
    })
}

/// Rows that are read at once.
const BATCH_LEN: usize = 128;

type Reader = ColumnReaderImpl<ByteArrayType>;

/// Four columns, of which all but the texts may be absent.
struct Rows<R: ChunkReader> {
    reader: SerializedFileReader<R>,
    source: Arc<str>,
    limits: ReadLimits,
    indexes: [Option<usize>; 4],
    /// The definition level of a cell that is there.
    levels: [i16; 4],
    group_index: usize,
    /// Rows of the group that are not read yet.
    left_count: u64,
    row_count: u64,
    open: [Option<Reader>; 4],
    cells: [VecDeque<Option<ByteArray>>; 4],
    ended: bool,
}

impl<R: ChunkReader + 'static> Rows<R> {
    /// Reads a batch of every column; false at the end.
    fn fill(&mut self) -> Result<bool, Damage> {
        while self.left_count == 0 {
            if self.reader.num_row_groups() <= self.group_index {
                return Ok(false);
            }
            let group = guarded(|| self.reader.get_row_group(self.group_index))?;
            self.left_count = u64::try_from(group.metadata().num_rows()).unwrap_or(0);
            for (slot, index) in self.indexes.iter().enumerate() {
                let open = |index: usize| {
                    guarded(|| group.get_column_reader(index).map(get_typed_column_reader))
                };
                self.open[slot] = index.map(open).transpose()?;
            }
            self.group_index += 1;
        }
        let wanted = BATCH_LEN.min(usize::try_from(self.left_count).unwrap_or(BATCH_LEN));
        for slot in 0..4 {
            let Some(reader) = &mut self.open[slot] else { continue };
            let level = self.levels[slot];
            let read = guarded(|| read_batch(reader, level, wanted))?;
            if read.len() != wanted {
                return Err("a column has fewer rows than its group".into());
            }
            self.cells[slot].extend(read);
        }
        self.left_count -= wanted as u64;
        Ok(true)
    }

    fn item(&mut self) -> InputItem {
        self.row_count += 1;
        let place = Place::row(&self.source, self.row_count);
        let mut item = InputItem::new(place, Err(ItemFault::NoCell));
        let limits = self.limits;
        let [text, id, instruction, language] =
            std::array::from_fn(|slot| self.cells[slot].pop_front().flatten());
        let companion = |cell: Option<ByteArray>| match cell {
            Some(it) if !it.is_empty() => {
                admit(it.data().to_vec(), false, &limits).map(|it| Some(it.0))
            }
            _ => Ok(None),
        };
        let content = (|| {
            item.id = companion(id)?;
            let (instruction, language) = (companion(instruction)?, companion(language)?);
            let bytes = text.ok_or(ItemFault::NoCell)?;
            // One byte more than allowed is enough to see that there is more.
            let kept = bytes.len().min(limits.text_bytes_max + 1);
            let (text, cut) = admit(bytes.data()[..kept].to_vec(), false, &limits)?;
            item.truncated = cut;
            Ok(match language {
                Some(language) => Content::Code { text, language },
                None => Content::Text { text, instruction },
            })
        })();
        item.content = content;
        item
    }
}

/// `wanted` cells of a column, or as many as there are.
fn read_batch(
    reader: &mut Reader,
    level: i16,
    wanted: usize,
) -> ParquetResult<Vec<Option<ByteArray>>> {
    let mut out = Vec::with_capacity(wanted);
    while out.len() < wanted {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let left = wanted - out.len();
        let levels_out = if level > 0 { Some(&mut levels) } else { None };
        let (count, _, _) = reader.read_records(left, levels_out, None, &mut values)?;
        if count == 0 {
            break;
        }
        let mut values = values.into_iter();
        match level {
            0 => out.extend(values.map(Some)),
            _ => {
                out.extend(levels.iter().map(|it| if *it == level { values.next() } else { None }))
            }
        }
    }
    Ok(out)
}

impl<R: ChunkReader + 'static> Iterator for Rows<R> {
    type Item = Result<InputItem, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        if self.cells[0].is_empty() {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => {
                    self.ended = true;
                    return None;
                }
                Err(reason) => {
                    self.ended = true;
                    let (place, row_count) = (self.source.to_string(), self.row_count);
                    return Some(Err(InputError::DamagedParquet { place, row_count, reason }));
                }
            }
        }
        Some(Ok(self.item()))
    }
}

/// What a reader of foreign bytes says, in its own words.
type Damage = String;

/// Runs the library on bytes of unknown origin: its panics on damaged files become errors.
fn guarded<T>(work: impl FnOnce() -> ParquetResult<T>) -> Result<T, Damage> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(it)) => Ok(it),
        Ok(Err(err)) => Err(err.to_string()),
        Err(_) => Err("the decoder gave up".into()),
    }
}
