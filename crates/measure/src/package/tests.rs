//! Packages that hold and packages that lie.

use serde_json::json;

use super::*;
use crate::record::SampleFile;
use crate::record::tests::sample;
use crate::suite::tests::SMALL;

/// A sealed package in a folder, from made samples with `factor` between ours and its peer.
pub(crate) fn made(folder: &Path, factor: u64, started_s: u64) -> Package {
    std::fs::create_dir_all(folder.join("raw")).unwrap();
    std::fs::write(folder.join(SUITE_FILE), SMALL).unwrap();
    let run = json!({
        "schema": RUN_SCHEMA,
        "suite": "small",
        "suite_blake3": blake3::hash(SMALL.as_bytes()).to_hex().as_str(),
        "kind": "suite",
        "revision": { "commit": "0123456789ab", "dirty": false },
        "started_s": started_s,
    });
    let environment = json!({ "host": { "cpu": "a <script>alert(1)</script> processor" },
        "gpus": [], "fingerprint": { "host": { "cpu": "a" }, "gpus": [] } });
    std::fs::write(folder.join(RUN_FILE), run.to_string()).unwrap();
    std::fs::write(folder.join(ENVIRONMENT_FILE), environment.to_string()).unwrap();
    let path = folder.join(sample_file("c"));
    let mut file = SampleFile::open(&path).unwrap();
    for round in 0..6 {
        for size in [1, 10] {
            let noise = u64::from(round * 7 % 5);
            file.append(&path, &sample("ours", size, round, 1_000_000 * size + noise)).unwrap();
            let ns = 1_000_000 * size * factor + noise;
            file.append(&path, &sample("peer", size, round, ns)).unwrap();
        }
    }
    seal(folder).unwrap()
}

#[test]
fn a_package_holds_what_was_measured_in_a_folder_and_in_an_archive() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("p");
    let sealed = made(&folder, 2, 1);
    let opened = open(&folder).unwrap();
    assert_eq!((&opened.summary, &opened.manifest), (&sealed.summary, &sealed.manifest));
    assert!(opened.is_clean() && !opened.is_pair());
    for name in ["plots/c_speedup.svg", "plots/c_scaling.png", "report.html", "summary.json"] {
        assert!(opened.manifest.files.contains_key(name), "{name}");
    }
    let path = place.path().join("p.zip");
    archive(&folder, &path).unwrap();
    assert_eq!(open(&path).unwrap().summary, sealed.summary);
    // Sealing again changes no byte.
    let before = std::fs::read(folder.join(MANIFEST_FILE)).unwrap();
    seal(&folder).unwrap();
    assert_eq!(std::fs::read(folder.join(MANIFEST_FILE)).unwrap(), before);
}

fn zip_of(folder: &Path, to: &Path, extra: &[(&str, &[u8])]) {
    let mut out = zip::ZipWriter::new(std::fs::File::create(to).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    let content = Content::folder(folder).unwrap();
    let manifest = content.manifest.unwrap();
    let files = content.files.iter().map(|it| (it.0.as_str(), it.1.as_slice()));
    for (name, bytes) in files.chain([(MANIFEST_FILE, &manifest[..])]).chain(extra.iter().copied())
    {
        out.start_file(name, options).unwrap();
        out.write_all(bytes).unwrap();
    }
    out.finish().unwrap();
}

#[track_caller]
fn check(harm: impl Fn(&Path), want: &str) {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("p");
    made(&folder, 2, 1);
    harm(&folder);
    let err = open(&folder).unwrap_err().to_string();
    assert!(err.contains(want), "wanted `{want}`, got `{err}`");
}

fn edit(folder: &Path, name: &str, from: &str, to: &str) {
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{name} has no `{from}`");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Makes the manifest agree with what lies there, as a forger would.
fn forge(folder: &Path) {
    let mut manifest: Manifest =
        serde_json::from_slice(&std::fs::read(folder.join(MANIFEST_FILE)).unwrap()).unwrap();
    manifest.files.clear();
    for (name, bytes) in Content::folder(folder).unwrap().files {
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        manifest.files.insert(name, FileEntry { size_bytes: bytes.len() as u64, blake3 });
    }
    let text = serde_json::to_string(&manifest).unwrap();
    std::fs::write(folder.join(MANIFEST_FILE), text).unwrap();
}

#[test]
fn what_does_not_hold_is_refused_with_its_reason() {
    let remove = |name: &'static str| move |it: &Path| std::fs::remove_file(it.join(name)).unwrap();
    check(remove(MANIFEST_FILE), "no manifest.json");
    check(remove("raw/c.jsonl"), "`raw/c.jsonl` is missing");
    check(remove("plots/c_speedup.svg"), "is missing");
    check(|it| edit(it, "raw/c.jsonl", "1000001", "1000002"), "another digest");
    check(|it| edit(it, "raw/c.jsonl", "1000001", "10000"), "bytes, not");
    check(|it| std::fs::write(it.join("more.txt"), "x").unwrap(), "not in the manifest");
    check(|it| edit(it, MANIFEST_FILE, "calor.package/1.0", "calor.package/2.0"), "later than 1");
    check(|it| edit(it, MANIFEST_FILE, "calor.package/1.0", "tea/1.0"), "unknown");
    check(|it| std::fs::write(it.join(MANIFEST_FILE), "{").unwrap(), "manifest.json");
    let forged = |name: &'static str, from: &'static str, to: &'static str| {
        move |it: &Path| {
            edit(it, name, from, to);
            forge(it);
        }
    };
    check(forged("summary.json", "\"middle\"", "\"muddle\""), "does not follow");
    check(forged("raw/c.jsonl", "1000001", "1000009"), "does not follow");
    check(forged("suite.toml", "for tests", "for praise"), "another suite");
    check(forged("run.json", "bench-run/1.0", "bench-run/3.0"), "bench-run/3.0");
    check(forged("raw/c.jsonl", "calor.sample/1.0", "calor.sample/2.0"), "later than 1");
    check(forged("raw/c.jsonl", "\"case\":\"c\"", "\"case\":\"d\""), "a sample of `d`");
    check(forged("run.json", "0123456789ab", "ffffffffffff"), "different revisions");
    check(
        |it| {
            let path = it.join("raw/c.jsonl");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, &text[..text.len() - 40]).unwrap();
            forge(it);
        },
        "cut off",
    );
}

#[cfg(unix)]
#[test]
fn links_and_paths_that_lead_out_are_refused() {
    check(
        |it| {
            std::fs::remove_file(it.join("raw/c.jsonl")).unwrap();
            std::os::unix::fs::symlink("/etc/hostname", it.join("raw/c.jsonl")).unwrap();
        },
        "no plain file",
    );
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("p");
    made(&folder, 2, 1);
    for (name, want) in [
        ("../out.txt", "not a path inside"),
        ("/tmp/out.txt", "not a path inside"),
        ("raw/b\u{0}.jsonl", "not a path inside"),
        ("a/./b", "not a path inside"),
    ] {
        let archive = place.path().join("bad.zip");
        zip_of(&folder, &archive, &[(name, b"x")]);
        let err = open(&archive).unwrap_err().to_string();
        assert!(err.contains(want), "{name:?}: {err}");
    }
    std::fs::write(place.path().join("no.zip"), "no archive").unwrap();
    assert!(open(&place.path().join("no.zip")).is_err());
    assert!(open(&place.path().join("absent")).is_err());
}

#[test]
fn archives_that_are_cut_off_or_swell_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("p");
    made(&folder, 2, 1);
    let path = place.path().join("p.zip");
    archive(&folder, &path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let cut = place.path().join("cut.zip");
    for len in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&cut, &whole[..len]).unwrap();
        let err = open(&cut).unwrap_err();
        assert!(matches!(err, MeasureError::Refused { .. }), "{len}: {err}");
    }
    // Bytes that change inside are noticed wherever they are.
    for at in (0..whole.len()).step_by(whole.len() / 23) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        std::fs::write(&cut, &bytes).unwrap();
        if let Ok(package) = open(&cut) {
            let sealed = open(&path).unwrap();
            assert_eq!(package.summary, sealed.summary, "byte {at} is of no part that is read");
            assert_eq!(package.manifest, sealed.manifest, "byte {at}");
        }
    }
    let swollen = place.path().join("swollen.zip");
    zip_of(&folder, &swollen, &[("raw/zeros.jsonl", &vec![0; 65 << 20])]);
    assert!(std::fs::metadata(&swollen).unwrap().len() < 8 << 20);
    let err = open(&swollen).unwrap_err().to_string();
    assert!(err.contains("too large"), "{err}");
}

#[test]
fn content_that_only_costs_is_refused() {
    let deep = |name: &'static str| {
        move |it: &Path| {
            std::fs::write(it.join(name), "[".repeat(200_000)).unwrap();
            if name != MANIFEST_FILE {
                forge(it);
            }
        }
    };
    check(deep(MANIFEST_FILE), "recursion limit");
    check(deep(RUN_FILE), "recursion limit");
    check(deep(SUMMARY_FILE), "recursion limit");
    let long = |it: &Path| {
        let path = it.join("raw/c.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{}\n", " ".repeat(5 << 20))).unwrap();
        forge(it);
    };
    check(long, "longer than");
    // Numbers that are none, and more of everything than a suite may ask for.
    let forged = |name: &'static str, from: &'static str, to: &'static str| {
        move |it: &Path| {
            edit(it, name, from, to);
            forge(it);
        }
    };
    check(forged("raw/c.jsonl", "1000001", "1e999"), "line 1");
    check(forged("raw/c.jsonl", "1000001", "-1"), "line 1");
    check(forged("raw/c.jsonl", "\"size\":1,", "\"size\":1.5,"), "line 1");
}

#[test]
fn the_page_escapes_what_a_package_says_and_needs_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let package = made(&place.path().join("p"), 2, 1);
    let page = std::fs::read_to_string(place.path().join("p").join(REPORT_FILE)).unwrap();
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script>alert"));
    for outside in ["http:", "https:", "@import", "src="] {
        let found = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!found.contains(outside), "{outside}");
    }
    assert_eq!(
        page.matches("<svg").count(),
        package.manifest.files.keys().filter(|it| it.ends_with(".svg")).count()
    );
    let other = made(&place.path().join("q"), 4, 2);
    let all = crate::report::dashboard(&[other, package]).unwrap();
    assert!(all.contains("c at 10, ours"));
}
