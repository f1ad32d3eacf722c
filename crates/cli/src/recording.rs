//! Events of a run, kept where the user asked for them.

use std::{path::PathBuf, sync::Arc};

use calor_telemetry::{Counters, Log, Null, Recorder, jsonl, trace};

use crate::{
    arguments::RunArguments,
    exit::{Exit, Failure},
};

/// The events of a run on their way to files.
pub(crate) struct Recording {
    log: Option<Arc<Log>>,
    telemetry: Option<PathBuf>,
    trace: Option<PathBuf>,
    /// Counters of the run.
    pub(crate) counters: Arc<Counters>,
}

impl Recording {
    /// Keeps events only if a file for them was named.
    pub(crate) fn new(arguments: &RunArguments) -> Self {
        let (telemetry, trace) = (arguments.telemetry.clone(), arguments.trace.clone());
        let wanted = telemetry.is_some() || trace.is_some();
        let log = wanted.then(|| Arc::new(Log::new()));
        Self { log, telemetry, trace, counters: Arc::new(Counters::new()) }
    }

    /// Where events go.
    pub(crate) fn recorder(&self) -> Arc<dyn Recorder> {
        match &self.log {
            Some(log) => log.clone(),
            None => Arc::new(Null),
        }
    }

    /// Writes the files that were asked for.
    ///
    /// # Errors
    /// When one cannot be written.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let Some(log) = self.log else { return Ok(()) };
        let records = log.records();
        let failed = |path: &PathBuf, err: std::io::Error| {
            Failure::new(Exit::Environment, format!("cannot write {}", path.display())).why(err)
        };
        if let Some(path) = &self.telemetry {
            let mut text = String::new();
            for record in &records {
                text.push_str(&jsonl::to_line(record));
                text.push('\n');
            }
            std::fs::write(path, text).map_err(|err| failed(path, err))?;
        }
        if let Some(path) = &self.trace {
            trace::write(path, &records).map_err(|err| failed(path, err))?;
        }
        Ok(())
    }
}
