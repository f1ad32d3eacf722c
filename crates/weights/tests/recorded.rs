//! What a store recorded of a model is what reading it is compared with.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use calor_weights::{Checkpoint, Dtype, Store, StoreOptions, Weights, WeightsError};

/// Elements of a part: small, so that small models have several.
const PART_LEN: usize = 1024;

/// Reads a canonical tensor part by part, and compares. Nothing comes back without a record.
fn read(weights: &Weights, name: &str) -> Option<Result<(), WeightsError>> {
    let mut out = vec![0.0; weights.shape(name).unwrap().iter().product()];
    let part = |(at, part): (usize, &mut [f32])| {
        weights.read_f32_digested(name, at * PART_LEN, part).unwrap()
    };
    let parts: Vec<Option<[u8; 32]>> = out.chunks_mut(PART_LEN).enumerate().map(part).collect();
    let mut plain = vec![0.0; out.len()];
    weights.read_f32(name, &mut plain).unwrap();
    assert!(out == plain, "{name}");
    let parts: Option<Vec<[u8; 32]>> = parts.into_iter().collect();
    parts.map(|it| weights.check_parts(name, &it))
}

fn open(dir: &Path) -> Weights {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let config = checkpoint.config().unwrap();
    Weights::bind(checkpoint, &config).unwrap()
}

#[test]
fn parts_are_compared_with_what_was_recorded() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), StoreOptions { model_bytes_max: 1 << 30 }).unwrap();
    for family in ["bert", "modernbert"] {
        let loose = open(&golden.join(family));
        assert_eq!(loose.checkpoint().content_digest(), None);
        let dir = store.import(family, "main", golden.join(family), &mut ()).unwrap().dir;
        let weights = open(&dir);
        let content = weights.checkpoint().content_digest();
        assert!(content.is_some());
        assert_eq!(open(&dir).checkpoint().content_digest(), content);
        let mut checked = 0;
        for name in weights.names() {
            assert!(read(&loose, name).is_none(), "nothing was recorded of {name}");
            let whole = weights.source(name).unwrap().rows.len();
            let stored = &weights.checkpoint().tensor(&weights.source(name).unwrap().stored);
            let is_whole = stored.unwrap().shape.first().is_none_or(|it| *it == whole);
            let found = read(&weights, name);
            assert_eq!(found.is_some(), is_whole, "{name}: a piece has no record of its own");
            checked += usize::from(found.is_some_and(|it| it.is_ok()));
        }
        assert!(10 < checked, "{family}: {checked}");
    }
}

#[test]
fn a_flipped_byte_is_found_and_named() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/bert");
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), StoreOptions { model_bytes_max: 1 << 30 }).unwrap();
    let dir = store.import("bert", "main", golden, &mut ()).unwrap().dir;
    let weights = open(&dir);
    let name = "embed.token";
    assert_eq!(weights.dtype(name), Some(Dtype::F32));
    read(&weights, name).unwrap().unwrap();
    let info = weights.checkpoint().tensor(&weights.source(name).unwrap().stored).unwrap();
    let path = dir.join("model.safetensors");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    for at in [info.range.start, info.range.end - 1] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let refused = read(&weights, name).unwrap().unwrap_err();
        assert!(matches!(&refused, WeightsError::Tampered { path: it, .. } if *it == path));
        file.write_all_at(&byte, at).unwrap();
    }
    read(&weights, name).unwrap().unwrap();
}
