//! Whatever is done to a file, nobody gets wrong bytes, and what is bad is made anew once.

use std::fs;
use std::path::{Path, PathBuf};

use calor_device::{ArtifactKey, ArtifactKind, Found};
use calor_kernel::Digest;
use calor_runtime::cache::{Directory, Flaw};
use calor_telemetry::{CacheCount, EntryFlaw, Event};

use crate::fixture::{Kept, key, payload, sized};

fn place(folder: &Path, key: &ArtifactKey) -> PathBuf {
    let name = key.digest().to_string();
    folder.join("artifacts-v1").join(&name[..2]).join(name)
}

/// What the events say was wrong.
fn flaws(kept: &Kept) -> Vec<EntryFlaw> {
    let flaw = |event: &Event| match event {
        Event::CacheEntryFlawed { flaw, .. } => Some(*flaw),
        Event::CacheStorageFailed { fault, .. } => panic!("{fault:?}"),
        _ => None,
    };
    kept.log.records().iter().filter_map(|it| flaw(&it.event)).collect()
}

/// Puts `bytes` where `key` should be: they are moved aside, and the entry is made once.
#[track_caller]
fn check_damage(folder: &Path, key: &ArtifactKey, bytes: &[u8], about: &str) {
    let file = place(folder, key);
    let before = fs::read(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    let kept = Kept::at(folder);
    assert_eq!(kept.get(key), Found::Made, "{about}");
    assert_eq!(flaws(&kept), [EntryFlaw::Corrupt], "{about}");
    let counts = [CacheCount::Corrupt, CacheCount::Rejections, CacheCount::Inserts];
    assert_eq!(counts.map(|it| kept.count(it)), [1; 3], "{about}");
    assert_eq!(fs::read(&file).unwrap(), before, "{about}");
    let aside = folder.join("artifacts-v1/quarantine").join(format!("{}.corrupt", key.digest()));
    assert_eq!(fs::read(aside).unwrap(), bytes, "{about}");
    assert_eq!(Kept::at(folder).get(key), Found::Kept, "{about}");
}

#[test]
fn every_byte_of_an_entry_is_covered() {
    let root = tempfile::tempdir().unwrap();
    let key = sized(1, 40);
    Kept::at(root.path()).get(&key);
    let whole = fs::read(place(root.path(), &key)).unwrap();
    // The format version has its own meaning, and its own test.
    for at in (0..8).chain(10..whole.len()) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        check_damage(root.path(), &key, &bytes, &format!("byte {at}"));
    }
}

#[test]
fn an_entry_that_is_cut_off_is_made_anew() {
    let root = tempfile::tempdir().unwrap();
    for (key, step) in [(key(1), 64), (sized(2, 50_000), 1024)] {
        Kept::at(root.path()).get(&key);
        let whole = fs::read(place(root.path(), &key)).unwrap();
        for len in (0..whole.len()).step_by(step).chain([whole.len() - 1]) {
            check_damage(root.path(), &key, &whole[..len], &format!("{len} bytes"));
        }
        check_damage(root.path(), &key, &[whole, vec![0]].concat(), "one byte too many");
    }
}

#[test]
fn another_format_is_left_to_the_build_that_wrote_it() {
    let root = tempfile::tempdir().unwrap();
    Kept::at(root.path()).get(&key(1));
    let file = place(root.path(), &key(1));
    let mut other = fs::read(&file).unwrap();
    other[8] = 2;
    fs::write(&file, &other).unwrap();
    let kept = Kept::at(root.path());
    assert_eq!([kept.get(&key(1)), kept.get(&key(1))], [Found::Made, Found::Kept]);
    assert_eq!(flaws(&kept), [EntryFlaw::Stale]);
    let counts = [CacheCount::Stale, CacheCount::Rejections, CacheCount::Corrupt];
    assert_eq!(counts.map(|it| kept.count(it)), [1, 0, 0]);
    assert_eq!(fs::read(&file).unwrap(), other);
}

/// An entry under another one's name.
fn check_swapped(found: &ArtifactKey, flaw: EntryFlaw, count: CacheCount) {
    let root = tempfile::tempdir().unwrap();
    let asked = key(1);
    for key in [&asked, found] {
        Kept::at(root.path()).get(key);
    }
    let bytes = fs::read(place(root.path(), found)).unwrap();
    fs::write(place(root.path(), &asked), &bytes).unwrap();
    let rows = Directory::open(root.path()).unwrap().inventory().unwrap();
    let row = rows.iter().find(|it| it.digest == asked.digest()).unwrap();
    assert_eq!(row.content.as_ref().unwrap_err(), &Flaw::Misplaced);
    let kept = Kept::at(root.path());
    assert_eq!(kept.get(&asked), Found::Made);
    assert_eq!((flaws(&kept), kept.count(count)), (vec![flaw], 1));
    let is_left = fs::read(place(root.path(), &asked)).unwrap() == bytes;
    assert_eq!(is_left, flaw == EntryFlaw::Foreign);
    assert_eq!(kept.get(found), Found::Kept);
}

#[test]
fn code_for_another_machine_is_never_given() {
    let target = "sm_90a".to_owned();
    check_swapped(&ArtifactKey { target, ..key(1) }, EntryFlaw::Foreign, CacheCount::Foreign);
    let kind = ArtifactKind::Algorithm;
    check_swapped(&ArtifactKey { kind, ..key(1) }, EntryFlaw::Foreign, CacheCount::Foreign);
}

#[test]
fn an_entry_of_another_text_or_maker_is_an_alarm() {
    let producer = "maker 1.1".to_owned();
    check_swapped(&ArtifactKey { producer, ..key(1) }, EntryFlaw::Misplaced, CacheCount::Corrupt);
    let body = Digest([1; 32]);
    check_swapped(&ArtifactKey { body, ..key(1) }, EntryFlaw::Misplaced, CacheCount::Corrupt);
}

#[test]
fn damage_in_a_layer_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let (below, folder) = (root.path().join("below"), root.path().join("folder"));
    Kept::at(&below).get(&key(1));
    fs::write(place(&below, &key(1)), "bad").unwrap();
    let layers = vec![calor_runtime::cache::Layer::open(&below).unwrap()];
    let options = || calor_runtime::cache::StoreOptions {
        layers: layers.clone(),
        ..crate::fixture::options(&folder)
    };
    let found = [(); 2].map(|()| Kept::open(options()).get(&key(1)));
    assert_eq!(found, [Found::Made, Found::Kept]);
    assert_eq!(fs::read(place(&below, &key(1))).unwrap(), b"bad");
}

#[test]
fn an_inventory_names_what_is_damaged_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let kept = Kept::at(root.path());
    for number in 0..4 {
        kept.get(&key(number));
    }
    let bytes = [&payload(&key(9))[..]].concat();
    fs::write(place(root.path(), &key(2)), &bytes).unwrap();
    let rows = kept.store.directory().unwrap().inventory().unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        match row.content {
            Ok(key) => assert_eq!(key.digest(), row.digest),
            Err(flaw) => assert_eq!((flaw, row.digest), (Flaw::Magic, key(2).digest())),
        }
    }
    assert_eq!(fs::read(place(root.path(), &key(2))).unwrap(), bytes);
}
