//! Runs a suite: fresh processes in mirrored random orders, every answer checked, every sample on
//! the disk before the next process starts, so that a run that was killed goes on where it ended.

mod process;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use calor_telemetry::clock;
use serde_json::{Map, Value as Json, json};

use crate::answer::{Answer, difference};
use crate::environment::Probe;
use crate::error::MeasureError;
use crate::package::{ENVIRONMENT_FILE, RUN_FILE, RUN_SCHEMA, SUITE_FILE, sample_file};
use crate::pair;
use crate::record::{Outcome, Phase, Sample, SampleFile, read_samples};
use crate::stats::{Draw, interval_of, median};
use crate::suite::{Arm, Case, Observation, Point, Suite, UnknownWord, filled};
use process::{Ran, Start};

/// What is run, and where it is kept.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// The suite, already a pair if two programs are compared.
    pub suite: &'a Suite,
    /// The suite's file as it was read.
    pub suite_text: &'a str,
    /// Values of words: `program`, `python` and whatever else commands use.
    pub words: &'a BTreeMap<String, String>,
    /// These cases alone; all if none is named.
    pub cases: &'a [String],
    /// These arms alone; all if none is named.
    pub arms: &'a [String],
    /// Folder of the package; made if it is not there.
    pub output: &'a Path,
    /// Folder that processes start in.
    pub root: &'a Path,
    /// What is measured: commit and whether files differ from it.
    pub revision: Json,
    /// Whether `base` and `head` are one suite's arms in two builds.
    pub is_pair: bool,
    /// The machine, as [`crate::environment::capture`] found it.
    pub environment: &'a Json,
}

/// Sees how far a run is, and may stop it between two processes.
pub trait Progress {
    /// `done` of at most `most` processes have ended; `text` says what runs next.
    fn step(&mut self, done: usize, most: usize, text: &str) -> ControlFlow<()>;
}

impl Progress for () {
    fn step(&mut self, _done: usize, _most: usize, _text: &str) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Runs every case, or what is left of it. Failures of processes are samples; they end nothing.
///
/// # Errors
/// When the folder holds another run or cannot be used, when a command cannot be written down,
/// and [`MeasureError::Stopped`].
pub fn run(job: &Job<'_>, progress: &mut dyn Progress) -> Result<(), MeasureError> {
    prepare(job)?;
    let cases: Vec<&Case> = job
        .suite
        .cases
        .iter()
        .filter(|it| job.cases.is_empty() || job.cases.contains(&it.name))
        .collect();
    let mut most = 0;
    for case in &cases {
        let arms = job.arms_of(case);
        // Every command is complete before the first one runs.
        for (name, arm) in &arms {
            for point in &case.points {
                job.start(case, point, name, arm, Path::new("."), 1)?;
            }
        }
        let rounds = job.suite.rounds_of(case);
        let batches = if job.is_pair { 2 } else { 1 };
        let each = 1 + arms.len() * (rounds.cold_count + batches * rounds.count_max) as usize;
        most += case.points.len() * each;
    }
    let mut runner = Runner { job, progress, probe: Probe::open(), done: 0, most };
    for case in cases {
        runner.case(case)?;
    }
    let work = job.output.join(WORK_FOLDER);
    if work.is_dir() {
        std::fs::remove_dir_all(&work).map_err(MeasureError::io("remove", &work))?;
    }
    Ok(())
}

/// What processes keep while a run goes on; no part of the package.
const WORK_FOLDER: &str = "work";

/// Makes the folder, or checks that it holds the same run.
fn prepare(job: &Job<'_>) -> Result<(), MeasureError> {
    let raw = job.output.join("raw");
    std::fs::create_dir_all(&raw).map_err(MeasureError::io("create", &raw))?;
    let identity = job.identity();
    let path = job.output.join(RUN_FILE);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let found: Json = serde_json::from_slice(&bytes).unwrap_or(Json::Null);
            for field in
                ["schema", "suite_blake3", "words", "arms", "kind", "revision", "fingerprint"]
            {
                if found[field] != identity[field] {
                    let what = format!("`{field}` is {}, not {}", found[field], identity[field]);
                    return Err(MeasureError::OtherRun { path: job.output.into(), what });
                }
            }
            Ok(())
        }
        Err(_) => {
            write(&job.output.join(SUITE_FILE), job.suite_text)?;
            write(&job.output.join(ENVIRONMENT_FILE), &format!("{:#}\n", job.environment))?;
            write(&path, &format!("{identity:#}\n"))
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), MeasureError> {
    std::fs::write(path, text).map_err(MeasureError::io("write", path))
}

impl Job<'_> {
    fn identity(&self) -> Json {
        json!({
            "schema": RUN_SCHEMA,
            "suite": self.suite.name,
            "suite_blake3": blake3::hash(self.suite_text.as_bytes()).to_hex().as_str(),
            "kind": if self.is_pair { "pair" } else { "suite" },
            "words": self.told_words(),
            "arms": self.arms,
            "cases": self.cases,
            "revision": self.revision,
            "fingerprint": self.environment["fingerprint"],
            "started_s": clock::unix_s(),
        })
    }

    /// Words without the folders of this machine.
    fn told_words(&self) -> Json {
        let told = |value: &String| match Path::new(value) {
            path if path.is_absolute() => {
                path.file_name().map_or(String::new(), |it| it.to_string_lossy().into_owned())
            }
            _ => value.clone(),
        };
        let words: Map<String, Json> =
            self.words.iter().map(|(name, value)| (name.clone(), told(value).into())).collect();
        words.into()
    }

    fn arms_of<'s>(&'s self, case: &'s Case) -> Vec<(&'s str, &'s Arm)> {
        let mut arms = self.suite.arms_of(case);
        arms.retain(|it| self.arms.is_empty() || self.arms.iter().any(|arm| arm == it.0));
        arms
    }

    fn start(
        &self,
        case: &Case,
        point: &Point,
        name: &str,
        arm: &Arm,
        cache: &Path,
        sample_count: u32,
    ) -> Result<Start, MeasureError> {
        let rounds = self.suite.rounds_of(case);
        let get = |word: &str| match word {
            "case" => Some(case.name.clone()),
            "size" => Some(point.size.to_string()),
            "items" => Some(point.item_count().to_string()),
            "tokens" => Some(point.tokens.to_string()),
            "samples" => Some(sample_count.to_string()),
            "cache" => Some(cache.display().to_string()),
            _ => [&point.words, &case.words, self.words, &self.suite.words]
                .iter()
                .find_map(|it| it.get(word).cloned()),
        };
        let fill = |text: &String| {
            filled(text, &get).map_err(|UnknownWord(word)| MeasureError::NoWord {
                case: case.name.clone(),
                arm: name.to_owned(),
                word,
            })
        };
        let command: Vec<String> = arm.command.iter().map(fill).collect::<Result<_, _>>()?;
        let variable = |(name, value): (&String, &String)| Ok((name.clone(), fill(value)?));
        let environment = arm.environment.iter().map(variable).collect::<Result<_, _>>()?;
        Ok(Start {
            command,
            environment,
            folder: self.root.to_owned(),
            timeout: Duration::from_secs(rounds.timeout_s),
        })
    }
}

struct Runner<'a> {
    job: &'a Job<'a>,
    progress: &'a mut dyn Progress,
    probe: Probe,
    done: usize,
    most: usize,
}

/// One case on its way.
struct Course<'a> {
    case: &'a Case,
    path: PathBuf,
    file: SampleFile,
    samples: Vec<Sample>,
}

/// A process that is to be started.
#[derive(Clone, Copy)]
struct Turn<'a> {
    point: &'a Point,
    arm: (&'a str, &'a Arm),
    phase: Phase,
    batch: u32,
    round: u32,
    order: u32,
}

impl Runner<'_> {
    fn case(&mut self, case: &Case) -> Result<(), MeasureError> {
        let path = self.job.output.join(sample_file(&case.name));
        let file = SampleFile::open(&path)?;
        let kept = std::fs::File::open(&path).map_err(MeasureError::io("open", &path))?;
        let samples = read_samples(&path, kept)?;
        let mut course = Course { case, path, file, samples };
        for point in &case.points {
            self.point(&mut course, point)?;
        }
        Ok(())
    }

    fn point(&mut self, course: &mut Course<'_>, point: &Point) -> Result<(), MeasureError> {
        let job = self.job;
        let arms = job.suite.arms_of(course.case);
        let reference = arms.iter().find(|it| it.0 == course.case.reference).copied();
        let Some(reference) = reference else { return Ok(()) };
        let turn =
            Turn { point, arm: reference, phase: Phase::Reference, batch: 0, round: 0, order: 0 };
        self.turn(course, turn)?;
        // Nothing is timed that could not be checked.
        if course.reference(point).is_none() {
            return Ok(());
        }
        let rounds = job.suite.rounds_of(course.case);
        for round in 0..rounds.cold_count {
            self.round(course, point, Phase::Cold, 0, round)?;
        }
        for round in 0..rounds.count_max {
            if rounds.count_min <= round && course.is_narrow(job, point, rounds.spread_max) {
                break;
            }
            self.round(course, point, Phase::Warm, 0, round)?;
        }
        let Suite { observation, seed, .. } = job.suite;
        let is_unsure =
            || pair::needs_confirmation(&course.samples, point.size, *observation, *seed);
        if job.is_pair && is_unsure() {
            for round in 0..rounds.count_min {
                self.round(course, point, Phase::Warm, 1, round)?;
            }
        }
        Ok(())
    }

    fn round(
        &mut self,
        course: &mut Course<'_>,
        point: &Point,
        phase: Phase,
        batch: u32,
        round: u32,
    ) -> Result<(), MeasureError> {
        let job = self.job;
        let mut arms = job.arms_of(course.case);
        // Each odd round is the mirror of the one before it: A B, then B A.
        let name = format!("{}/{}/{phase:?}/{batch}/{}", course.case.name, point.size, round / 2);
        Draw::named(job.suite.seed, &name).shuffle(&mut arms);
        if round % 2 == 1 {
            arms.reverse();
        }
        for (order, arm) in (0..).zip(arms) {
            self.turn(course, Turn { point, arm, phase, batch, round, order })?;
        }
        Ok(())
    }

    fn turn(&mut self, course: &mut Course<'_>, turn: Turn<'_>) -> Result<(), MeasureError> {
        self.done += 1;
        // A point that failed is a failed point; trying again would only wait again.
        if course.has(turn) || course.has_failed(turn) {
            return Ok(());
        }
        let Turn { point, arm: (name, arm), phase, .. } = turn;
        let case = course.case;
        let text = format!("{} {} {name} ({phase:?} {})", case.name, point.size, turn.round + 1);
        self.check_stop(&text)?;
        let cache = self.cache(case, name, phase)?;
        let samples = match phase {
            Phase::Reference | Phase::Cold => 1,
            Phase::Warm => self.job.suite.rounds_of(case).sample_count,
        };
        let start = self.job.start(case, point, name, arm, &cache, samples)?;
        let (before, at_s) = (self.probe.now(), clock::unix_s());
        let ran = process::run(&start);
        // An interrupt ends processes too; what it ended is no sample.
        self.check_stop(&text)?;
        let (outcome, why) = course.judge(turn, samples, &ran);
        let mut more = Map::new();
        more.insert("before".into(), before);
        more.insert("after".into(), self.probe.now());
        let sample = Sample {
            schema: Sample::schema(),
            case: case.name.clone(),
            size: point.size,
            arm: name.to_owned(),
            phase,
            batch_index: turn.batch,
            round_index: turn.round,
            order_index: turn.order,
            at_s,
            outcome,
            why,
            process_ns: ran.process_ns,
            to_first_ns: ran.to_first_ns,
            answer: ran.answer,
            more,
        };
        course.file.append(&course.path, &sample)?;
        course.samples.push(sample);
        Ok(())
    }

    fn check_stop(&mut self, text: &str) -> Result<(), MeasureError> {
        match self.progress.step(self.done, self.most, text) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(MeasureError::Stopped),
        }
    }

    /// Where a process keeps what it makes: anew when it is to start from nothing.
    fn cache(&self, case: &Case, arm: &str, phase: Phase) -> Result<PathBuf, MeasureError> {
        let work = self.job.output.join(WORK_FOLDER);
        let folder = match phase {
            Phase::Cold => work.join("cold"),
            Phase::Reference | Phase::Warm => work.join("kept").join(&case.name).join(arm),
        };
        if phase == Phase::Cold && folder.is_dir() {
            std::fs::remove_dir_all(&folder).map_err(MeasureError::io("empty", &folder))?;
        }
        std::fs::create_dir_all(&folder).map_err(MeasureError::io("create", &folder))?;
        std::path::absolute(&folder).map_err(MeasureError::io("find", &folder))
    }
}

impl Course<'_> {
    fn has(&self, turn: Turn<'_>) -> bool {
        let Turn { point, arm: (name, _), phase, batch, round, .. } = turn;
        let key = (point.size, name, phase, batch, round);
        let of = |it: &Sample| {
            (it.size, it.arm.as_str(), it.phase, it.batch_index, it.round_index) == key
        };
        self.samples.iter().any(of)
    }

    fn has_failed(&self, turn: Turn<'_>) -> bool {
        let failed = |it: &&Sample| it.outcome != Outcome::Ok && it.phase != Phase::Reference;
        let mut failed = self.samples.iter().filter(failed);
        failed.any(|it| it.size == turn.point.size && it.arm == turn.arm.0)
    }

    /// The reference's values, if it gave the right ones.
    fn reference(&self, point: &Point) -> Option<&[f64]> {
        let is_it = |it: &&Sample| it.phase == Phase::Reference && it.size == point.size;
        Some(&self.samples.iter().find(is_it)?.good()?.values)
    }

    /// Whether a process did what was asked, and why not.
    fn judge(&self, turn: Turn<'_>, samples: u32, ran: &Ran) -> (Outcome, Option<String>) {
        let Some(answer) = &ran.answer else { return (ran.outcome, ran.why.clone()) };
        let flaw = size_flaw(answer, turn.point, samples)
            .map(|what| (Outcome::WrongSize, Some(what)))
            .or_else(|| {
                let what = self.value_flaw(answer, turn)?;
                Some((Outcome::WrongValue, Some(what)))
            });
        flaw.unwrap_or((Outcome::Ok, None))
    }

    fn value_flaw(&self, answer: &Answer, turn: Turn<'_>) -> Option<String> {
        let tolerance = self.case.tolerance;
        let of = |want: &[f64], got: &[f64], whose: &str| {
            let parts = difference(got, want, tolerance);
            let what = || format!("{parts:.3} times the tolerance away from {whose}");
            (1.0 < parts).then(what)
        };
        if answer.values.iter().any(|it| !it.is_finite()) || answer.values.is_empty() {
            return Some("a value is no number, or there is none".into());
        }
        if turn.phase == Phase::Reference {
            let known = &self.case.expect;
            let got = &answer.values[..known.len().min(answer.values.len())];
            return if known.is_empty() { None } else { of(known, got, "what is known") };
        }
        of(self.reference(turn.point)?, &answer.values, &self.case.reference)
    }

    /// Whether every arm's interval is narrow enough.
    fn is_narrow(&self, job: &Job<'_>, point: &Point, spread_max: f64) -> bool {
        let mut draw = Draw::new(job.suite.seed);
        job.arms_of(self.case).iter().all(|(name, _)| {
            let of =
                |it: &&Sample| it.phase == Phase::Warm && it.size == point.size && it.arm == *name;
            let samples = self.samples.iter().filter(of);
            let values: Vec<f64> =
                samples.filter_map(|it| observed(it, job.suite.observation)).collect();
            let Some(found) = interval_of(&values, 500, &mut draw) else { return true };
            found.high - found.low <= 2.0 * spread_max * found.middle
        })
    }
}

/// What a process counts as, in nanoseconds of one call; nothing unless it ended well.
pub(crate) fn observed(sample: &Sample, observation: Observation) -> Option<f64> {
    let calls = sample.calls_ns();
    match observation {
        Observation::Minimum => calls.iter().copied().min_by(f64::total_cmp),
        Observation::Median => median(&calls),
    }
}

fn size_flaw(answer: &Answer, point: &Point, samples: u32) -> Option<String> {
    let (items, tokens) = (answer.item_count, answer.token_count);
    if items != point.item_count() {
        return Some(format!("{items} items were computed, {} asked for", point.item_count()));
    }
    if point.tokens != 0 && tokens != point.tokens {
        return Some(format!("{tokens} tokens were computed, {} asked for", point.tokens));
    }
    if answer.samples_ns.len() != samples as usize {
        return Some(format!("{} samples, {samples} asked for", answer.samples_ns.len()));
    }
    if answer.samples_ns.contains(&0) || answer.runs_per_sample_count == 0 {
        return Some("a sample took no time".into());
    }
    None
}

#[cfg(test)]
mod tests;
