//! The command's readers: any bytes give items, each with its place, or a typed error.

use std::path::Path;

use calor_cli::input::{InputError, InputItem, ReadLimits, read_csv, read_jsonl, read_txt};

/// Runs one input; the first byte picks the reader. Panics when a promise is broken.
pub(crate) fn replay(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let limits = ReadLimits { text_bytes_max: 64, record_bytes_max: 256, ..ReadLimits::STANDARD };
    match kind % 4 {
        0 => drain(read_jsonl(data, "fuzz", Path::new("/nowhere"), limits)),
        1 => {
            if let Ok(items) = read_csv(data, "fuzz", "text", limits) {
                drain(items);
            }
        }
        2 => drain(read_txt(data, "fuzz", limits)),
        // The parquet crate may panic on a hostile file; the reader catches that, which a fuzzer
        // that aborts on every panic cannot see.
        _ if cfg!(fuzzing) => {}
        _ => {
            let bytes = bytes::Bytes::copy_from_slice(data);
            if let Ok(items) = calor_cli::input::read_parquet(bytes, "fuzz", "text", limits) {
                drain(items);
            }
        }
    }
}

fn drain(items: impl Iterator<Item = Result<InputItem, InputError>>) {
    // An error of the source ends the stream.
    let mut ended = false;
    for item in items {
        assert!(!ended, "an item after the end");
        ended = item.is_err();
    }
}
