//! Comma-separated values with a header: a column of texts, with `id`, `instruction` and
//! `language` beside it where they are there.

use std::{io::BufRead, sync::Arc};

use csv_core::{ReadFieldResult, Reader};

use super::{
    Content, InputError, InputItem, ItemFault, Place, ReadLimits, item::admit,
    lines::BYTE_ORDER_MARK,
};

/// Reads a table; `column` names the texts. A row with a `language` is code.
///
/// # Errors
/// [`InputError::NoColumn`], [`InputError::HeaderTooLong`], [`InputError::Read`].
pub fn read_csv<R: BufRead>(
    input: R,
    source: &str,
    column: &str,
    limits: ReadLimits,
) -> Result<impl Iterator<Item = Result<InputItem, InputError>> + use<R>, InputError> {
    Table::open(input, source, column, limits)
}

/// Columns by number, as the header names them.
#[derive(Clone, Copy, Debug)]
struct Columns {
    text: usize,
    id: Option<usize>,
    instruction: Option<usize>,
    language: Option<usize>,
}

/// Cells of one row that are wanted; the others are counted and dropped.
#[derive(Default)]
struct Row {
    line: u64,
    cells: Vec<(usize, Vec<u8>, bool)>,
    cell_count: usize,
}

struct Table<R> {
    input: R,
    reader: Reader,
    source: Arc<str>,
    limits: ReadLimits,
    columns: Columns,
    /// Line ends that the reader did not see.
    skipped_count: u64,
    ended: bool,
}

impl<R: BufRead> Table<R> {
    fn open(
        mut input: R,
        source: &str,
        column: &str,
        limits: ReadLimits,
    ) -> Result<Self, InputError> {
        let io = |err| InputError::read(source, err);
        let mark = input.fill_buf().map_err(io)?.starts_with(BYTE_ORDER_MARK);
        if mark {
            input.consume(BYTE_ORDER_MARK.len());
        }
        let columns = Columns { text: 0, id: None, instruction: None, language: None };
        let mut reader = Reader::new();
        reader.set_line(1);
        let mut table = Self {
            input,
            reader,
            source: source.into(),
            limits,
            columns,
            skipped_count: 0,
            ended: false,
        };
        let header = table.row(None).map_err(io)?.unwrap_or_default();
        if header.cells.iter().any(|it| it.2) {
            let (place, limit_bytes) = (source.to_owned(), limits.record_bytes_max);
            return Err(InputError::HeaderTooLong { place, limit_bytes });
        }
        let found: Vec<String> =
            header.cells.iter().map(|it| String::from_utf8_lossy(&it.1).trim().into()).collect();
        let find = |name: &str| found.iter().position(|it| it == name);
        let Some(text) = find(column) else {
            let (place, column) = (source.to_owned(), column.to_owned());
            return Err(InputError::NoColumn { place, column, found });
        };
        let other = |name: &str| find(name).filter(|it| *it != text);
        table.columns = Columns {
            text,
            id: other("id"),
            instruction: other("instruction"),
            language: other("language"),
        };
        Ok(table)
    }

    /// Passes over empty lines and the rest of a two-byte line end, so that the next row's line
    /// is known.
    fn skip_line_ends(&mut self) -> std::io::Result<()> {
        loop {
            match self.input.fill_buf().map(|it| it.first().copied()) {
                Ok(Some(b'\n')) => self.skipped_count += 1,
                Ok(Some(b'\r')) => {}
                Ok(Some(_) | None) => return Ok(()),
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err),
            }
            self.input.consume(1);
        }
    }

    /// The next row: all cells where `wanted` is none, else those of its columns.
    fn row(&mut self, wanted: Option<Columns>) -> std::io::Result<Option<Row>> {
        let limit = self.limits.record_bytes_max;
        let keeps = |index: usize| match wanted {
            None => index < COLUMN_COUNT_MAX,
            Some(Columns { text, id, instruction, language }) => {
                index == text || [id, instruction, language].contains(&Some(index))
            }
        };
        self.skip_line_ends()?;
        let line = self.reader.line() + self.skipped_count;
        let mut row = Row { line, ..Row::default() };
        let (mut cell, mut cut) = (Vec::new(), false);
        let mut out = [0; 4096];
        loop {
            let input = match self.input.fill_buf() {
                Ok(it) => it,
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err),
            };
            let (result, read_len, written_len) = self.reader.read_field(input, &mut out);
            self.input.consume(read_len);
            if keeps(row.cell_count) {
                let room = limit.saturating_sub(cell.len()).min(written_len);
                cut |= room < written_len;
                cell.extend_from_slice(&out[..room]);
            }
            match result {
                ReadFieldResult::InputEmpty | ReadFieldResult::OutputFull => {}
                ReadFieldResult::End => return Ok(None),
                ReadFieldResult::Field { record_end } => {
                    if keeps(row.cell_count) {
                        row.cells.push((row.cell_count, std::mem::take(&mut cell), cut));
                    }
                    cut = false;
                    row.cell_count += 1;
                    if record_end {
                        return Ok(Some(row));
                    }
                }
            }
        }
    }

    fn item(&self, mut row: Row) -> InputItem {
        let mut item = InputItem::new(Place::line(&self.source, row.line), Err(ItemFault::NoCell));
        let Columns { text, id, instruction, language } = self.columns;
        let mut take = |index: Option<usize>| {
            let place = row.cells.iter().position(|it| Some(it.0) == index)?;
            let (_, bytes, cut) = row.cells.swap_remove(place);
            (!bytes.is_empty()).then_some((bytes, cut))
        };
        let mut companion = |index| match take(index) {
            None => Ok(None),
            Some((bytes, cut)) => admit(bytes, cut, &self.limits).map(|it| Some(it.0)),
        };
        let (id, instruction, language) =
            match (companion(id), companion(instruction), companion(language)) {
                (Ok(id), Ok(instruction), Ok(language)) => (id, instruction, language),
                (Err(fault), _, _) | (_, Err(fault), _) | (_, _, Err(fault)) => {
                    item.content = Err(fault);
                    return item;
                }
            };
        item.id = id;
        let Some((bytes, cut)) = take(Some(text)) else {
            item.content =
                Err(if text < row.cell_count { ItemFault::Empty } else { ItemFault::NoCell });
            return item;
        };
        item.content = admit(bytes, cut, &self.limits).map(|(text, cut)| {
            item.truncated = cut;
            match language {
                Some(language) => Content::Code { text, language },
                None => Content::Text { text, instruction },
            }
        });
        item
    }
}

/// Columns of a header that are looked at.
const COLUMN_COUNT_MAX: usize = 4096;

impl<R: BufRead> Iterator for Table<R> {
    type Item = Result<InputItem, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.row(Some(self.columns)) {
            Ok(Some(row)) => Some(Ok(self.item(row))),
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(err) => {
                self.ended = true;
                Some(Err(InputError::read(&self.source, err)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &[u8], want: &[&str]) {
        let limits = ReadLimits { text_bytes_max: 8, record_bytes_max: 40, ..ReadLimits::STANDARD };
        for buffer_len in [3, 7, 1000] {
            let input = std::io::BufReader::with_capacity(buffer_len, text);
            let items = match read_csv(input, "f", "text", limits) {
                Ok(it) => it.map(Result::unwrap).collect(),
                Err(err) => {
                    assert_eq!([err.to_string().as_str()], want);
                    continue;
                }
            };
            let items: Vec<InputItem> = items;
            let found: Vec<String> = items
                .iter()
                .map(|it| match &it.content {
                    Ok(content) => format!("{} {:?} {content:?}", it.place, it.id),
                    Err(fault) => format!("{} {fault}", it.place),
                })
                .collect();
            assert_eq!(found, want, "in steps of {buffer_len}");
        }
    }

    #[test]
    fn columns_are_found_and_quotes_understood() {
        check(
            b"id,text,language\r\n1,\"a, \"\"b\"\"\",\n,\"x\ny\",rust\n",
            &[
                r#"f:2 Some("1") Text { text: "a, \"b\"", instruction: None }"#,
                r#"f:3 None Code { text: "x\ny", language: "rust" }"#,
            ],
        );
        check(b"\xef\xbb\xbftext\na\n", &[r#"f:2 None Text { text: "a", instruction: None }"#]);
    }

    #[test]
    fn bad_rows_fail_alone() {
        check(
            b"id,text\n1\n2,\n3,\xff\n4,a\0\n5,123456789\n6,z\n",
            &[
                "f:2 the row has no text",
                "f:3 the text is empty",
                "f:4 byte 0 is not UTF-8",
                "f:5 byte 1 is NUL",
                r#"f:6 Some("5") Text { text: "12345678", instruction: None }"#,
                r#"f:7 Some("6") Text { text: "z", instruction: None }"#,
            ],
        );
    }

    #[test]
    fn a_table_without_the_column_is_an_error_of_the_run() {
        check(b"a,b\n1,2\n", &[r#"f: no column `text` of texts; it has ["a", "b"]"#]);
        check(b"", &["f: no column `text` of texts; it has []"]);
        check(&[b'x'; 100], &["f: the header is longer than 40 bytes"]);
    }

    #[test]
    fn a_quote_that_never_closes_is_one_long_row() {
        let mut text = b"text\n\"a\n".to_vec();
        text.extend([b'x'; 10_000]);
        check(&text, &["f:2 None Text { text: \"a\\nxxxxxx\", instruction: None }"]);
    }
}
