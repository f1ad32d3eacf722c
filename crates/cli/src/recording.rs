//! Events and counters of a run: kept while it goes on, written where the user asked for them.
//!
//! Nothing leaves the machine. Without any flag the last events of each thread are kept in memory
//! of fixed size, and a summary of the last run is left in the store for `calor accel-info`;
//! `--no-telemetry` leaves out both.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use calor_device::Signature;
use calor_measure::environment::{Gpus, Told, capture, peak_host_bytes};
use calor_telemetry::{
    Counters, Log, Null, Record, Recorder, Ring, Snapshot, Stopwatch, clock, counter::Plain, jsonl,
    run, run::RunFacts, trace,
};
use serde_json::{Map, Value as Json, json};

use crate::{
    arguments::{NamesWord, TelemetryArguments},
    environment::Environment,
    exit::{Exit, Failure},
    version::{REVISION, VERSION},
};

/// Records of each thread that are kept when no file was asked for.
const RING_RECORD_COUNT: usize = 4096;
/// Records of each thread that a command without an end keeps for a file.
const FILE_RECORD_COUNT: usize = 1 << 16;
/// Threads that a ring has room for.
const RING_THREAD_COUNT: usize = 16;
/// The summary of the last run, in the store.
const LAST_RUN: &str = "telemetry/last-run.json";

/// The events and counters of a run.
#[derive(Clone)]
pub(crate) struct Recording {
    program: &'static str,
    /// What the command's flags come to, as [`crate::settings::told`] has them.
    options: Json,
    wanted: TelemetryArguments,
    kept: Kept,
    /// Counters of the run.
    pub(crate) counters: Arc<Counters>,
    start: Snapshot,
    watch: Stopwatch,
    started_s: u64,
    energy_mj: Option<u64>,
    /// Devices that were opened, with what compiles and computes there.
    devices: Arc<Mutex<Vec<Json>>>,
}

/// Where events are kept while the run goes on.
#[derive(Clone)]
pub(crate) enum Kept {
    /// All of them, for a file.
    All(Arc<Log>),
    /// The last ones.
    Last(Arc<Ring>),
    /// None.
    Nothing,
}

impl Kept {
    fn records(&self) -> Vec<Record> {
        match self {
            Self::All(log) => log.records(),
            Self::Last(ring) => ring.records(),
            Self::Nothing => Vec::new(),
        }
    }

    fn lost_count(&self) -> u64 {
        match self {
            Self::Last(ring) => ring.overwritten_count(),
            Self::All(_) | Self::Nothing => 0,
        }
    }
}

impl Recording {
    /// Starts to keep what the flags ask for; `program` is the command's name. What would grow for
    /// ever, because the command `is_endless`, is cut to the last events.
    pub(crate) fn start(
        wanted: &TelemetryArguments,
        program: &'static str,
        options: Json,
        is_endless: bool,
    ) -> Self {
        let for_files = wanted.names_a_file();
        let counters = Arc::new(Counters::new());
        let ring = |count| Ring::new(RING_THREAD_COUNT, count).counted_in(counters.clone());
        let last = |count| Kept::Last(Arc::new(ring(count)));
        let kept = match (wanted.no_telemetry, for_files) {
            (true, _) => Kept::Nothing,
            (false, true) if is_endless => last(FILE_RECORD_COUNT),
            (false, true) => Kept::All(Arc::new(Log::new())),
            (false, false) => last(RING_RECORD_COUNT),
        };
        Self {
            program,
            options,
            wanted: wanted.clone(),
            kept,
            start: counters.snapshot(),
            counters,
            watch: Stopwatch::start(),
            started_s: clock::unix_s(),
            energy_mj: if for_files { Gpus::open().energy_mj() } else { None },
            devices: Arc::default(),
        }
    }

    /// For commands that record nothing of their own.
    pub(crate) fn off() -> Self {
        let wanted = TelemetryArguments {
            telemetry: None,
            trace: None,
            telemetry_kernels: false,
            telemetry_names: NamesWord::Current,
            telemetry_socket: None,
            no_telemetry: true,
        };
        Self::start(&wanted, "", Json::Null, false)
    }

    /// Whether every event is kept until the end.
    pub(crate) fn is_for_files(&self) -> bool {
        self.wanted.names_a_file()
    }

    /// Whether every step of a program is an event.
    pub(crate) fn times_steps(&self) -> bool {
        self.wanted.telemetry_kernels
    }

    /// Notes a device that was opened; the same one is noted once.
    pub(crate) fn opened(&self, device: &Signature) {
        let versions: Map<String, Json> =
            device.versions.iter().map(|(name, it)| (name.clone(), it.clone().into())).collect();
        let row = json!({
            "kind": device.kind, "model": device.model, "arch": device.arch,
            "memory_bytes": device.memory_bytes, "versions": versions,
        });
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if !devices.contains(&row) {
            devices.push(row);
        }
    }

    /// Where events go.
    pub(crate) fn recorder(&self) -> Arc<dyn Recorder> {
        match &self.kept {
            Kept::All(log) => log.clone(),
            Kept::Last(ring) => ring.clone(),
            Kept::Nothing => Arc::new(Null),
        }
    }

    /// What a live process needs to answer for this run.
    pub(crate) fn view(&self) -> View {
        View {
            program: self.program,
            options: self.options.clone(),
            started_s: self.started_s,
            kept: self.kept.clone(),
            counters: self.counters.clone(),
            legacy_names: self.wanted.telemetry_names == NamesWord::Legacy,
        }
    }

    /// Writes the files that were asked for, and leaves a summary in the store.
    ///
    /// # Errors
    /// When a file that was asked for cannot be written.
    pub(crate) fn finish(self, environment: &Environment) -> Result<(), Failure> {
        if self.wanted.no_telemetry {
            return Ok(());
        }
        let records = self.kept.records();
        let change = self.counters.snapshot().since(&self.start);
        let for_files = self.is_for_files();
        let energy = Gpus::open_if(self.energy_mj.is_some()).energy_mj();
        let mut machine = match for_files {
            true => capture(&Told {
                code: json!({ "revision": REVISION, "version": VERSION }),
                variables: &environment.measured,
                options: self.options.clone(),
            }),
            false => Json::Null,
        };
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !devices.is_empty() {
            machine["devices"] = devices.into();
        }
        let facts = RunFacts {
            wall_ns: self.watch.elapsed_ns(),
            environment: machine,
            peak_host_bytes: peak_host_bytes(),
            energy_mj: energy.zip(self.energy_mj).map(|(end, start)| end.saturating_sub(start)),
            ..self.view().facts(0)
        };
        let document = run::document(&facts, &change, &records);
        if let Some(path) = &self.wanted.telemetry {
            write(path, &text(path, &document, &records))?;
        }
        if let Some(path) = &self.wanted.trace {
            trace::write(path, &records).map_err(|err| cannot_write(path, err))?;
        }
        // The summary is a convenience: a store that cannot be written is no reason to fail.
        if let Some(path) = last_run(environment) {
            let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            let _ = folder.and_then(|()| write_whole(&path, &format!("{document:#}\n")));
        }
        Ok(())
    }
}

/// What answers for a run from another thread.
#[derive(Clone)]
pub(crate) struct View {
    program: &'static str,
    options: Json,
    started_s: u64,
    kept: Kept,
    counters: Arc<Counters>,
    legacy_names: bool,
}

impl View {
    /// A reading now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.counters.snapshot()
    }

    /// The document of what happened since `since`, a reading at `since_ns`.
    pub(crate) fn document(&self, since: &Snapshot, since_ns: u64) -> Json {
        let mut records = self.kept.records();
        records.retain(|it| since_ns <= it.at_ns);
        let facts = RunFacts {
            peak_host_bytes: peak_host_bytes(),
            ..self.facts(clock::now_ns().saturating_sub(since_ns))
        };
        run::document(&facts, &self.counters.snapshot().since(since), &records)
    }

    fn facts(&self, wall_ns: u64) -> RunFacts {
        RunFacts {
            run_id: format!("{}-{}", self.started_s, std::process::id()),
            started_s: self.started_s,
            program: self.program.into(),
            version: VERSION.into(),
            revision: (!REVISION.is_empty()).then(|| REVISION.into()),
            wall_ns,
            environment: Json::Null,
            options: self.options.clone(),
            peak_host_bytes: None,
            // Nothing was held on a device by a command that opened none.
            peak_device_bytes: Some(self.counters.snapshot().get(Plain::PeakDeviceBytes))
                .filter(|it| 0 < *it),
            energy_mj: None,
            lost_record_count: self.kept.lost_count(),
            legacy_names: self.legacy_names,
        }
    }
}

/// Where the summary of the last run lies; nowhere without a store.
pub(crate) fn last_run(environment: &Environment) -> Option<PathBuf> {
    Some(environment.root().ok()?.join(LAST_RUN))
}

/// The document alone for `.json`, else every event as a line and the document behind them.
fn text(path: &Path, document: &Json, records: &[Record]) -> String {
    if path.extension().is_some_and(|it| it == "json") {
        return format!("{document:#}\n");
    }
    let mut text = String::new();
    for record in records {
        text.push_str(&jsonl::to_line(record));
        text.push('\n');
    }
    text + &document.to_string() + "\n"
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|err| cannot_write(path, err))
}

/// Beside its place first, so that a reader never sees half of it.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // The first failure is the one that counts.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn cannot_write(path: &Path, err: std::io::Error) -> Failure {
    Failure::new(Exit::Environment, format!("cannot write {}", path.display())).why(err)
}
