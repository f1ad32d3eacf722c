//! The safetensors reader: any bytes give a header whose tensors lie inside the file, or a typed
//! error.

use std::io::Write;

/// Runs one input; panics when a promise is broken.
pub(crate) fn replay(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(data).expect("room for it");
    let read = std::fs::File::open(file.path()).expect("it is there");
    let Ok(entries) = calor_weights::container::read_header(file.path(), &read) else { return };
    let mut end = 0;
    let mut ranges: Vec<(u64, u64)> =
        entries.iter().map(|it| (it.begin_bytes, it.end_bytes)).collect();
    ranges.sort_unstable();
    for (from, to) in ranges {
        assert!(end <= from && from <= to && to <= data.len() as u64);
        end = to;
    }
}
