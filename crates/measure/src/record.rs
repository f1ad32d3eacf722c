//! One process of a run as it is kept: the only file that knows the form of raw samples.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::answer::Answer;
use crate::error::MeasureError;

/// Name of the form.
pub const SAMPLE_SCHEMA: &str = "calor.sample";
/// Grows when a field changes meaning or goes.
pub const SAMPLE_MAJOR: u32 = 1;
/// Longest line that is read.
pub const LINE_BYTES_MAX: u64 = 4 << 20;

/// Why a process was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// For its result alone, which the others are compared with.
    Reference,
    /// With an empty folder for what it keeps: from nothing.
    Cold,
    /// With what earlier processes kept: the first call, then the steady state.
    Warm,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Well, with the right result of the right size.
    Ok,
    /// With a failure, or without an answer. Never a fast sample.
    Failed,
    /// It took too long and was ended. Never a slow sample.
    Timeout,
    /// With another result than the reference.
    WrongValue,
    /// With another amount of work than was asked for.
    WrongSize,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// `calor.sample/1.0`.
    pub schema: String,
    /// Its case.
    pub case: String,
    /// The size within the case.
    pub size: u64,
    /// Who computed.
    pub arm: String,
    /// Why it was started.
    pub phase: Phase,
    /// 0, or 1 for the batch that confirms a first one.
    pub batch_index: u32,
    /// The round within the batch.
    pub round_index: u32,
    /// Its place in the round.
    pub order_index: u32,
    /// Seconds since 1970 when it was started.
    pub at_s: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// From its start to its end.
    pub process_ns: u64,
    /// From its start to its first result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_first_ns: Option<u64>,
    /// What it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// What a later version said.
    #[serde(flatten)]
    pub more: Map<String, Json>,
}

impl Sample {
    /// The form's name and version.
    pub fn schema() -> String {
        format!("{SAMPLE_SCHEMA}/{SAMPLE_MAJOR}.0")
    }

    /// The answer of a process that ended well.
    pub fn good(&self) -> Option<&Answer> {
        self.answer.as_ref().filter(|_| self.outcome == Outcome::Ok)
    }

    /// Nanoseconds of one call, for each sample.
    pub fn calls_ns(&self) -> Vec<f64> {
        let Some(answer) = self.good() else { return Vec::new() };
        let runs = answer.runs_per_sample_count.max(1) as f64;
        answer.samples_ns.iter().map(|it| *it as f64 / runs).collect()
    }
}

/// Appends samples to a file; each is whole on the disk before the next process starts.
#[derive(Debug)]
pub struct SampleFile {
    out: File,
}

impl SampleFile {
    /// Opens `path`, and cuts off a last line that was not finished.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, MeasureError> {
        let io = |what| MeasureError::io(what, path);
        if let Ok(bytes) = std::fs::read(path) {
            let whole = bytes.iter().rposition(|it| *it == b'\n').map_or(0, |it| it + 1);
            if whole < bytes.len() {
                let file = OpenOptions::new().write(true).open(path).map_err(io("open"))?;
                file.set_len(whole as u64).map_err(io("cut"))?;
            }
        }
        let out = OpenOptions::new().create(true).append(true).open(path).map_err(io("open"))?;
        Ok(Self { out })
    }

    /// Appends one sample.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&mut self, path: &Path, sample: &Sample) -> Result<(), MeasureError> {
        let mut line = serde_json::to_string(sample)
            .map_err(|err| MeasureError::io("write", path)(std::io::Error::other(err)))?;
        line.push('\n');
        self.out.write_all(line.as_bytes()).map_err(MeasureError::io("write", path))?;
        self.out.sync_data().map_err(MeasureError::io("write", path))
    }
}

/// Reads samples line by line.
///
/// # Errors
/// [`MeasureError::Refused`] for a line that is too long, is no sample, or is of another major
/// version; `path` is for the message.
pub fn read_samples(path: &Path, input: impl std::io::Read) -> Result<Vec<Sample>, MeasureError> {
    let refused =
        |index: usize, what: String| MeasureError::refused(path, format!("line {index}: {what}"));
    let mut reader = BufReader::new(input);
    let mut samples = Vec::new();
    for index in 1.. {
        let mut line = Vec::new();
        let mut limited = std::io::Read::take(&mut reader, LINE_BYTES_MAX + 1);
        let len = limited.read_until(b'\n', &mut line).map_err(MeasureError::io("read", path))?;
        if len == 0 {
            break;
        }
        if LINE_BYTES_MAX < len as u64 {
            return Err(refused(index, format!("longer than {LINE_BYTES_MAX} bytes")));
        }
        if line.last() != Some(&b'\n') {
            return Err(refused(index, "it is cut off".into()));
        }
        let sample: Sample =
            serde_json::from_slice(&line).map_err(|err| refused(index, err.to_string()))?;
        let version = sample.schema.strip_prefix(SAMPLE_SCHEMA).and_then(|it| it.strip_prefix('/'));
        let major = version.and_then(|it| it.split('.').next()?.parse::<u32>().ok());
        match major {
            Some(SAMPLE_MAJOR) => samples.push(sample),
            Some(later) if SAMPLE_MAJOR < later => {
                let what = format!("version {later} is later than {SAMPLE_MAJOR}; update calor");
                return Err(refused(index, what));
            }
            _ => return Err(refused(index, format!("schema `{}` is unknown", sample.schema))),
        }
    }
    Ok(samples)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(arm: &str, size: u64, round: u32, ns: u64) -> Sample {
        Sample {
            schema: Sample::schema(),
            case: "c".into(),
            size,
            arm: arm.into(),
            phase: Phase::Warm,
            batch_index: 0,
            round_index: round,
            order_index: 0,
            at_s: 1,
            outcome: Outcome::Ok,
            why: None,
            process_ns: 10 * ns,
            to_first_ns: Some(5 * ns),
            answer: Some(Answer {
                first_ns: 2 * ns,
                samples_ns: vec![ns + 1, ns, ns + 2],
                runs_per_sample_count: 1,
                item_count: size,
                values: vec![1.0],
                ..Answer::default()
            }),
            more: Map::new(),
        }
    }

    #[test]
    fn a_cut_file_goes_on_behind_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.jsonl");
        let mut file = SampleFile::open(&path).unwrap();
        file.append(&path, &sample("a", 1, 0, 5)).unwrap();
        file.out.write_all(b"{\"schema\":\"calor.sa").unwrap();
        assert!(read_samples(&path, File::open(&path).unwrap()).is_err());
        let mut file = SampleFile::open(&path).unwrap();
        file.append(&path, &sample("a", 1, 1, 6)).unwrap();
        let all = read_samples(&path, File::open(&path).unwrap()).unwrap();
        assert_eq!(all, [sample("a", 1, 0, 5), sample("a", 1, 1, 6)]);
    }

    #[test]
    fn what_a_later_minor_version_says_is_kept_and_a_later_major_refused() {
        let text = serde_json::to_string(&sample("a", 1, 0, 5)).unwrap();
        let path = Path::new("x");
        let minor = text.replace("/1.0", "/1.4").replace("{\"schema\"", "{\"mood\":3,\"schema\"");
        let read = read_samples(path, format!("{minor}\n").as_bytes()).unwrap();
        assert_eq!(read[0].more["mood"], 3);
        assert!(serde_json::to_string(&read[0]).unwrap().contains("\"mood\":3"));
        for (from, to, want) in [
            ("/1.0", "/2.0", "later than 1"),
            ("calor.sample", "calor.tea", "unknown"),
            ("\"warm\"", "\"tepid\"", "tepid"),
        ] {
            let text = text.replace(from, to) + "\n";
            let err = read_samples(path, text.as_bytes()).unwrap_err().to_string();
            assert!(err.contains(want) && err.contains("line 1"), "{err}");
        }
        assert!(read_samples(path, text.as_bytes()).unwrap_err().to_string().contains("cut off"));
    }
}
