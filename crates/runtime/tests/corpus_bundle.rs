//! Replays the fuzz corpus of `bundle`.

#[path = "../../../fuzz/bodies/bundle.rs"]
mod body;

#[test]
fn corpus_is_replayed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/bundle");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        body::replay(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "the corpus is empty");
}
