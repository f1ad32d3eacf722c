//! The safetensors container: a length word, a JSON header, tensor bytes.
//!
//! Parses headers of files that may be hostile, and writes files in one pass. Knows nothing of
//! models, names or where tensors go.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
};

use crate::{Dtype, RangeProblem, WeightsError};

/// Longest header that is read, in bytes. The format's reference reader has the same limit.
pub const HEADER_BYTES_MAX: u64 = 100 << 20;

/// Most dimensions of a tensor.
pub const RANK_MAX: usize = 8;

/// One tensor as the header describes it, after every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Stored name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub begin_bytes: u64,
    /// Byte after the last, in the file.
    pub end_bytes: u64,
}

/// Reads and checks the header of `file`, whose path is only for messages.
///
/// Cost: reads the header alone, whatever the size of the file.
///
/// # Errors
/// [`WeightsError::Truncated`], [`WeightsError::HeaderLength`], [`WeightsError::NotUtf8`],
/// [`WeightsError::Json`], [`WeightsError::DuplicateTensor`], [`WeightsError::UnknownDtype`]
/// and [`WeightsError::TensorRange`], each for what its name says.
pub fn read_header(path: &Path, file: &File) -> Result<Vec<Entry>, WeightsError> {
    let io = |source| WeightsError::io("read", path, source);
    let file_bytes = file.metadata().map_err(io)?.len();
    if file_bytes < 8 {
        let path = path.to_owned();
        return Err(WeightsError::Truncated { path, want_bytes: 8, found_bytes: file_bytes });
    }
    let mut word = [0; 8];
    read_at(path, file, &mut word, 0)?;
    let header_bytes = u64::from_le_bytes(word);
    if HEADER_BYTES_MAX.min(file_bytes - 8) < header_bytes {
        let limit_bytes = HEADER_BYTES_MAX.min(file_bytes - 8);
        return Err(WeightsError::HeaderLength { path: path.into(), header_bytes, limit_bytes });
    }
    let mut text = vec![0; header_bytes as usize];
    read_at(path, file, &mut text, 8)?;
    let data_begin = 8 + header_bytes;
    check_header(path, &text, data_begin, file_bytes - data_begin)
}

/// Fills `out` from `begin_bytes` on; a file that ends before is [`WeightsError::Truncated`].
pub(crate) fn read_at(
    path: &Path,
    file: &File,
    out: &mut [u8],
    begin_bytes: u64,
) -> Result<(), WeightsError> {
    file.read_exact_at(out, begin_bytes).map_err(|source| match source.kind() {
        std::io::ErrorKind::UnexpectedEof => WeightsError::Truncated {
            path: path.into(),
            want_bytes: begin_bytes + out.len() as u64,
            found_bytes: file.metadata().map_or(0, |it| it.len()),
        },
        _ => WeightsError::io("read", path, source),
    })
}

/// Checks header `text` of a file whose data has `data_bytes` bytes from `data_begin` on.
fn check_header(
    path: &Path,
    text: &[u8],
    data_begin: u64,
    data_bytes: u64,
) -> Result<Vec<Entry>, WeightsError> {
    let text = std::str::from_utf8(text).map_err(|bad| WeightsError::NotUtf8 {
        path: path.into(),
        valid_bytes: bad.valid_up_to(),
    })?;
    let header: Header = serde_json::from_str(text)
        .map_err(|source| WeightsError::Json { path: path.into(), source })?;

    let mut seen = std::collections::HashSet::new();
    let mut entries = Vec::with_capacity(header.rows.len());
    for (name, row) in &header.rows {
        if !seen.insert(name.as_str()) {
            let tensor = name.clone();
            return Err(WeightsError::DuplicateTensor { path: path.into(), tensor });
        }
        let Some(row) = row else { continue }; // The free-form metadata is no tensor.
        let dtype = Dtype::from_name(&row.dtype).ok_or_else(|| WeightsError::UnknownDtype {
            path: path.into(),
            tensor: name.clone(),
            dtype: row.dtype.clone(),
        })?;
        let shape = check_row(row, dtype, data_bytes).map_err(|problem| {
            WeightsError::TensorRange { path: path.into(), tensor: name.clone(), problem }
        })?;
        let [begin, end] = row.data_offsets;
        entries.push(Entry {
            name: name.clone(),
            dtype,
            shape,
            begin_bytes: data_begin + begin,
            end_bytes: data_begin + end,
        });
    }

    entries.sort_by_key(|it| (it.begin_bytes, it.end_bytes));
    for pair in entries.windows(2) {
        if pair[1].begin_bytes < pair[0].end_bytes {
            return Err(WeightsError::TensorRange {
                path: path.into(),
                tensor: pair[1].name.clone(),
                problem: RangeProblem::Overlap { other: pair[0].name.clone() },
            });
        }
    }
    Ok(entries)
}

fn check_row(row: &Row, dtype: Dtype, data_bytes: u64) -> Result<Vec<usize>, RangeProblem> {
    let [begin, end] = row.data_offsets;
    if end < begin {
        return Err(RangeProblem::Reversed { begin, end });
    }
    if data_bytes < end {
        return Err(RangeProblem::PastEnd { end, data_bytes });
    }
    let overflow = || RangeProblem::ShapeOverflow { shape: row.shape.clone() };
    if RANK_MAX < row.shape.len() {
        return Err(overflow());
    }
    let want_bytes = row
        .shape
        .iter()
        .try_fold(dtype.element_bytes(), |product, dim| product.checked_mul(*dim))
        .ok_or_else(overflow)?;
    if want_bytes != end - begin {
        return Err(RangeProblem::Size { want_bytes, found_bytes: end - begin });
    }
    row.shape.iter().map(|dim| usize::try_from(*dim).map_err(|_| overflow())).collect()
}

/// The header's pairs in file order, so that a name which appears twice is seen twice.
struct Header {
    rows: Vec<(String, Option<Row>)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one entry per tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut rows = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<BTreeMap<String, String>>()?;
                        rows.push((name, None));
                    } else {
                        rows.push((name, Some(map.next_value()?)));
                    }
                }
                Ok(Header { rows })
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// A safetensors file that is being written, tensor after tensor, in bounded memory.
pub struct ContainerWriter {
    path: PathBuf,
    file: BufWriter<File>,
    left_bytes: u64,
}

/// One tensor to be written: name, type and dimensions.
pub type Planned = (String, Dtype, Vec<usize>);

impl ContainerWriter {
    /// Creates `path` and writes the header for `tensors`, whose bytes must follow in order.
    ///
    /// # Errors
    /// [`WeightsError::Io`] or [`WeightsError::DiskFull`].
    ///
    /// # Panics
    /// When a size overflows or a name repeats: a bug in the caller.
    pub fn create(path: &Path, tensors: &[Planned]) -> Result<Self, WeightsError> {
        let mut rows = serde_json::Map::new();
        rows.insert("__metadata__".into(), serde_json::json!({ "format": "pt" }));
        let mut end = 0_u64;
        for (name, dtype, shape) in tensors {
            let begin = end;
            let count: u64 = shape.iter().map(|dim| *dim as u64).product();
            end += count * dtype.element_bytes();
            let row = serde_json::json!({
                "dtype": dtype.name(), "shape": shape, "data_offsets": [begin, end],
            });
            assert!(rows.insert(name.clone(), row).is_none(), "`{name}` is planned twice");
        }
        let mut text = serde_json::Value::Object(rows).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let file = File::create(path).map_err(|it| WeightsError::io("create", path, it))?;
        let mut writer = Self {
            path: path.into(),
            file: BufWriter::with_capacity(1 << 20, file),
            left_bytes: end,
        };
        writer.put(&(text.len() as u64).to_le_bytes())?;
        writer.put(&text)?;
        Ok(writer)
    }

    /// Appends tensor bytes, little-endian.
    ///
    /// # Errors
    /// [`WeightsError::Io`] or [`WeightsError::DiskFull`].
    ///
    /// # Panics
    /// When more bytes come than the header announced.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WeightsError> {
        self.left_bytes =
            self.left_bytes.checked_sub(bytes.len() as u64).expect("no more than announced");
        self.put(bytes)
    }

    /// Flushes and fsyncs the file.
    ///
    /// # Errors
    /// [`WeightsError::Io`] or [`WeightsError::DiskFull`].
    ///
    /// # Panics
    /// When bytes that the header announced are still to come.
    pub fn finish(mut self) -> Result<(), WeightsError> {
        assert_eq!(self.left_bytes, 0, "{} is incomplete", self.path.display());
        let io = |source| WeightsError::io("write", &self.path, source);
        self.file.flush().map_err(io)?;
        self.file.get_ref().sync_all().map_err(io)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WeightsError> {
        self.file.write_all(bytes).map_err(|it| WeightsError::io("write", &self.path, it))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header check's answer for a file with `text` as header and `data_bytes` of data.
    #[track_caller]
    fn check(text: &str, data_bytes: usize, message: &str) {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len() + data_bytes, 0);
        check_bytes(&bytes, message);
    }

    #[track_caller]
    fn check_bytes(bytes: &[u8], message: &str) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let found = match read_header(&path, &File::open(&path).unwrap()) {
            Ok(entries) => format!("{} tensors", entries.len()),
            Err(err) => err.to_string().replace(path.to_str().unwrap(), "a"),
        };
        assert!(found.contains(message), "wanted `{message}`, got `{found}`");
    }

    #[test]
    fn well_formed_headers_pass() {
        check("{}", 0, "0 tensors");
        check(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8, "1 tensors");
        check(r#"{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}  "#, 4, "1 tensors");
        check(r#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#, 0, "1 tensors");
        check(
            r#"{"__metadata__":{"k":"v"},"b":{"dtype":"BF16","shape":[1],"data_offsets":[2,4]},
                "a":{"dtype":"F16","shape":[1,1],"data_offsets":[0,2]}}"#,
            4,
            "2 tensors",
        );
    }

    // tidy: table
    #[test]
    fn hostile_headers_are_refused() {
        check_bytes(b"", "8 bytes wanted, 0 found");
        check_bytes(b"1234567", "8 bytes wanted, 7 found");
        check_bytes(&u64::MAX.to_le_bytes(), "header of 18446744073709551615 bytes, at most 0");
        check_bytes(&[9, 0, 0, 0, 0, 0, 0, 0, b'{', b'}'], "header of 9 bytes, at most 2");
        check_bytes(&[2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe], "not UTF-8 after 0 bytes");
        check("", 0, "EOF");
        check("[]", 0, "an object with one entry per tensor");
        check("{", 0, "EOF");
        check(r#"{"a":1}"#, 0, "invalid type");
        check(r#"{"a":{"dtype":"F32","shape":[1]}}"#, 4, "missing field `data_offsets`");
        check(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, "invalid value");
        check(r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#, 4, "invalid type");
        check(
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}"#,
            4,
            "unknown field",
        );
        check(r#"{"__metadata__":{"k":1}}"#, 0, "invalid type");
        check(r#"{"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}}"#, 4, "unknown dtype `Q4`");
        check(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4, "before its begin");
        check(
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            3,
            "ends at byte 4 of 3",
        );
        check(
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]}}"#,
            4,
            "ends at byte 18446744073709551615 of 4",
        );
        check(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4, "need 8");
        check(
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#,
            4,
            "overflows",
        );
        check(
            r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#,
            4,
            "overflows",
        );
        let one = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        check(&format!("{{{one},{one}}}"), 4, "`a` appears twice");
        check(
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                "b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            8,
            "tensor `b` overlaps `a`",
        );
    }

    #[test]
    fn what_is_written_is_read_by_us_and_by_the_reference() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let tensors: Vec<Planned> =
            vec![("w".into(), Dtype::F32, vec![2, 1]), ("b".into(), Dtype::Bf16, vec![3])];
        let mut writer = ContainerWriter::create(&path, &tensors).unwrap();
        writer.write(&[1; 8]).unwrap();
        writer.write(&[2; 6]).unwrap();
        writer.finish().unwrap();

        let entries = read_header(&path, &File::open(&path).unwrap()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(entries.len(), reference.len());
        for entry in entries {
            let view = reference.tensor(&entry.name).unwrap();
            assert_eq!(view.shape(), entry.shape);
            assert_eq!(view.data(), &bytes[entry.begin_bytes as usize..entry.end_bytes as usize]);
        }
    }
}
