//! A results package: one folder or archive with raw samples, what they show, and a manifest with
//! a digest of every file.
//!
//! Opening a package believes nothing: names, sizes, digests and versions are checked, and the
//! summary is computed again from the samples. What does not hold is a reason to refuse.

mod content;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::error::MeasureError;
use crate::pair;
use crate::program::{Likeness, Program};
use crate::record::{Sample, read_samples};
use crate::report;
use crate::suite::Suite;
use crate::summary::{Summary, summarize};
use content::Content;

/// Name and version of a manifest.
pub const PACKAGE_SCHEMA: &str = "calor.package";
/// Grows when a file changes meaning or goes.
pub const PACKAGE_MAJOR: u32 = 1;
/// Name and version of the file that says what was run.
pub const RUN_SCHEMA: &str = "calor.bench-run/1.0";
/// What was run.
pub const RUN_FILE: &str = "run.json";
/// The suite as it was read.
pub const SUITE_FILE: &str = "suite.toml";
/// Where it was run.
pub const ENVIRONMENT_FILE: &str = "environment.json";
/// What it shows.
pub const SUMMARY_FILE: &str = "summary.json";
/// Every file with its digest.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The report for people.
pub const REPORT_FILE: &str = "report.html";

/// The file of a case's samples.
pub fn sample_file(case: &str) -> String {
    format!("raw/{}.jsonl", case.replace(' ', "_"))
}

/// Every file of a package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `calor.package/1.0`.
    pub schema: String,
    /// The suite.
    pub suite: String,
    /// The commit that was measured, if it is known.
    pub commit: Option<String>,
    /// Whether files differed from it; nothing where nobody looked.
    pub dirty: Option<bool>,
    /// Samples in all.
    pub sample_count: usize,
    /// Files by their paths.
    pub files: BTreeMap<String, FileEntry>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its size.
    pub size_bytes: u64,
    /// Its digest.
    pub blake3: String,
}

/// A package that was checked.
#[derive(Clone, Debug)]
pub struct Package {
    /// Every file.
    pub manifest: Manifest,
    /// What was run.
    pub run: Json,
    /// Where.
    pub environment: Json,
    /// The suite; a pair's three arms if it is one.
    pub suite: Suite,
    /// Every process.
    pub samples: Vec<Sample>,
    /// What they show.
    pub summary: Summary,
}

impl Package {
    /// Whether it compares two builds.
    pub fn is_pair(&self) -> bool {
        self.run["kind"] == "pair"
    }

    /// Whether what was measured is a commit without changes.
    pub fn is_clean(&self) -> bool {
        self.manifest.commit.is_some() && self.manifest.dirty == Some(false)
    }

    /// What the two programs of a pair have in common, where that was looked at.
    pub fn likeness(&self) -> Option<Likeness> {
        let side = |name: &str| -> Option<Program> {
            serde_json::from_value(self.run["revision"]["sides"][name].clone()).ok()
        };
        Some(side("base")?.likeness(&side("head")?))
    }

    /// When it was run, in seconds since 1970.
    pub fn started_s(&self) -> u64 {
        self.run["started_s"].as_u64().unwrap_or(0)
    }
}

/// Writes summary, pictures, report and manifest beside the samples in `folder`.
///
/// # Errors
/// When the folder holds no run, or something cannot be read, drawn or written.
pub fn seal(folder: &Path) -> Result<Package, MeasureError> {
    let content = Content::folder(folder)?;
    let (run, environment, suite) = described(folder, &content)?;
    let samples = samples(folder, &content)?;
    let summary = summarize(&suite, &samples);
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::write(&path, bytes))
            .map_err(|err| MeasureError::io("write", &path)(err))
    };
    let text = serde_json::to_string_pretty(&summary).map_err(|err| broken(folder, &err))?;
    write(SUMMARY_FILE, format!("{text}\n").as_bytes())?;
    let of = |name: &str| run["revision"][name].clone();
    let mut package = Package {
        manifest: Manifest {
            schema: format!("{PACKAGE_SCHEMA}/{PACKAGE_MAJOR}.0"),
            suite: suite.name.clone(),
            commit: of("commit").as_str().map(str::to_owned),
            dirty: of("dirty").as_bool(),
            sample_count: samples.len(),
            files: BTreeMap::new(),
        },
        run,
        environment,
        suite,
        samples,
        summary,
    };
    for picture in report::pictures(&package)? {
        write(&format!("plots/{}.svg", picture.name), picture.svg.as_bytes())?;
        write(&format!("plots/{}.png", picture.name), &picture.png)?;
    }
    write(REPORT_FILE, report::page(&package)?.as_bytes())?;
    for (name, bytes) in &Content::folder(folder)?.files {
        let entry = FileEntry {
            size_bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        };
        package.manifest.files.insert(name.clone(), entry);
    }
    let text =
        serde_json::to_string_pretty(&package.manifest).map_err(|err| broken(folder, &err))?;
    write(MANIFEST_FILE, format!("{text}\n").as_bytes())?;
    Ok(package)
}

fn broken(path: &Path, err: &serde_json::Error) -> MeasureError {
    MeasureError::refused(path, err)
}

/// Opens a folder or a `.zip` and checks everything in it.
///
/// # Errors
/// [`MeasureError::Refused`] with the first thing that does not hold.
pub fn open(path: &Path) -> Result<Package, MeasureError> {
    let refused = |what: String| MeasureError::refused(path, what);
    let content = Content::read(path)?;
    let bytes = content.manifest.as_ref();
    let bytes = bytes.ok_or_else(|| refused(format!("it has no {MANIFEST_FILE}")))?;
    check_version(path, bytes)?;
    let manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|err| refused(format!("{MANIFEST_FILE}: {err}")))?;
    for (name, entry) in &manifest.files {
        let bytes = content.files.get(name);
        let bytes = bytes.ok_or_else(|| refused(format!("`{name}` is missing")))?;
        if bytes.len() as u64 != entry.size_bytes {
            let len = bytes.len();
            return Err(refused(format!("`{name}` has {len} bytes, not {}", entry.size_bytes)));
        }
        if blake3::hash(bytes).to_hex().as_str() != entry.blake3 {
            return Err(refused(format!("`{name}` has another digest than the manifest says")));
        }
    }
    if let Some(extra) = content.files.keys().find(|it| !manifest.files.contains_key(*it)) {
        return Err(refused(format!("`{extra}` is not in the manifest")));
    }
    let (run, environment, suite) = described(path, &content)?;
    let samples = samples(path, &content)?;
    if samples.is_empty() || samples.len() != manifest.sample_count {
        let (found, said) = (samples.len(), manifest.sample_count);
        return Err(refused(format!("{found} samples are there, {said} are said to be")));
    }
    if manifest.commit.as_deref() != run["revision"]["commit"].as_str()
        || manifest.dirty != run["revision"]["dirty"].as_bool()
    {
        return Err(refused("manifest and run name different revisions".into()));
    }
    let summary = summarize(&suite, &samples);
    let said = content.files.get(SUMMARY_FILE);
    let said = said.ok_or_else(|| refused(format!("it has no {SUMMARY_FILE}")))?;
    let said: Json = serde_json::from_slice(said).map_err(|err| broken(path, &err))?;
    let computed = serde_json::to_value(&summary).map_err(|err| broken(path, &err))?;
    if let Some(place) = difference(&said, &computed, "summary") {
        return Err(refused(format!("{place} does not follow from the samples")));
    }
    Ok(Package { manifest, run, environment, suite, samples, summary })
}

/// Writes the package in `folder`, which must hold, as one archive. The same package gives the
/// same bytes.
///
/// # Errors
/// When the package does not hold or the archive cannot be written.
pub fn archive(folder: &Path, to: &Path) -> Result<(), MeasureError> {
    let package = open(folder)?;
    let content = Content::read(folder)?;
    let io = |err: std::io::Error| MeasureError::io("write", to)(err);
    let mut out = zip::ZipWriter::new(std::fs::File::create(to).map_err(io)?);
    let options = zip::write::SimpleFileOptions::default();
    let names = package.manifest.files.keys().map(|it| (it.as_str(), content.files.get(it)));
    for (name, bytes) in names.chain([(MANIFEST_FILE, content.manifest.as_ref())]) {
        let zipped = |err: zip::result::ZipError| io(std::io::Error::other(err));
        out.start_file(name, options).map_err(zipped)?;
        out.write_all(bytes.map_or(&[], Vec::as_slice)).map_err(io)?;
    }
    out.finish().map_err(|err| io(std::io::Error::other(err)))?;
    Ok(())
}

/// Says what is wrong with the version before anything else is looked at.
fn check_version(path: &Path, manifest: &[u8]) -> Result<(), MeasureError> {
    let refused = |what: String| Err(MeasureError::refused(path, what));
    let manifest: Json = match serde_json::from_slice(manifest) {
        Ok(it) => it,
        Err(err) => return refused(format!("{MANIFEST_FILE}: {err}")),
    };
    let schema = manifest["schema"].as_str().unwrap_or_default();
    let version = schema.strip_prefix(PACKAGE_SCHEMA).and_then(|it| it.strip_prefix('/'));
    match version.and_then(|it| it.split('.').next()?.parse::<u32>().ok()) {
        Some(PACKAGE_MAJOR) => Ok(()),
        Some(major) if PACKAGE_MAJOR < major => {
            refused(format!("version {major} is later than {PACKAGE_MAJOR}; update calor"))
        }
        _ => refused(format!("schema `{schema}` is unknown")),
    }
}

/// What was run, where, and its suite.
fn described(path: &Path, content: &Content) -> Result<(Json, Json, Suite), MeasureError> {
    let get = |name: &str| {
        let bytes = content.files.get(name);
        bytes.ok_or_else(|| MeasureError::refused(path, format!("it has no {name}")))
    };
    let read = |name: &str| -> Result<Json, MeasureError> {
        serde_json::from_slice(get(name)?)
            .map_err(|err| MeasureError::refused(path, format!("{name}: {err}")))
    };
    let (run, environment) = (read(RUN_FILE)?, read(ENVIRONMENT_FILE)?);
    if run["schema"] != RUN_SCHEMA {
        let what = format!("{RUN_FILE} has schema {}, not {RUN_SCHEMA}", run["schema"]);
        return Err(MeasureError::refused(path, what));
    }
    let bytes = get(SUITE_FILE)?;
    let text = std::str::from_utf8(bytes)
        .map_err(|_| MeasureError::refused(path, format!("{SUITE_FILE} is no text")))?;
    if run["suite_blake3"] != blake3::hash(bytes).to_hex().as_str() {
        return Err(MeasureError::refused(path, "another suite was run than is kept"));
    }
    let mut suite = Suite::parse(path, text)?;
    if run["kind"] == "pair" {
        let pairs = run["words"]["pairs"].as_str().and_then(|it| it.parse().ok()).unwrap_or(0);
        suite = pair::as_pair(&suite, pairs);
    }
    Ok((run, environment, suite))
}

fn samples(path: &Path, content: &Content) -> Result<Vec<Sample>, MeasureError> {
    let mut out = Vec::new();
    for (name, bytes) in content.files.iter().filter(|it| it.0.starts_with("raw/")) {
        let of_case = read_samples(&path.join(name), &bytes[..])?;
        if let Some(odd) = of_case.iter().find(|it| sample_file(&it.case) != *name) {
            let what = format!("`{name}` holds a sample of `{}`", odd.case);
            return Err(MeasureError::refused(path, what));
        }
        out.extend(of_case);
    }
    Ok(out)
}

/// Where two documents differ by more than arithmetic on another machine may.
fn difference(a: &Json, b: &Json, place: &str) -> Option<String> {
    match (a, b) {
        (Json::Object(one), Json::Object(other)) => {
            if one.len() != other.len() {
                return Some(place.to_owned());
            }
            one.iter().find_map(|(name, value)| {
                let place = format!("{place}.{name}");
                match other.get(name) {
                    Some(other) => difference(value, other, &place),
                    None => Some(place),
                }
            })
        }
        (Json::Array(one), Json::Array(other)) if one.len() == other.len() => {
            let pairs = one.iter().zip(other).enumerate();
            pairs.into_iter().find_map(|(at, (a, b))| difference(a, b, &format!("{place}[{at}]")))
        }
        (Json::Number(one), Json::Number(other)) => {
            let (one, other) = (one.as_f64()?, other.as_f64()?);
            let near = (one - other).abs() <= 1e-9 * one.abs().max(other.abs());
            (!near).then(|| place.to_owned())
        }
        _ => (a != b).then(|| place.to_owned()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
