//! Runs scenarios on the processor and prints one line of JSON for each.
//!
//! Arguments: the checkpoint's directory, threads, the commit, `clean` or `dirty`, and names of
//! scenarios; all of them where no name is given. `first-vector` alone, in place of the names,
//! embeds one text and prints its vector: what `start.first_vector` starts.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use calor_bench::{Child, Context, Revision, SCENARIOS, Size, run};
use calor_device::{Driver, NoArtifacts};
use calor_device_cpu::CpuDriver;
use calor_embed::InferencePrecision;
use calor_embed::embedder::{CheckpointEmbedder, EmbedItem, EmbedOutput, EmbedderOptions};
use calor_embed::input::Role;
use calor_embed::tokenizer::LongTokens;
use calor_runtime::Build;
use calor_telemetry::{Counters, Null};
use serde_json::Value;

const BATCH_TOKENS_MAX: usize = 2048;

const USAGE: &str = "usage: scenario DIR THREADS COMMIT clean|dirty [NAME...]";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.len() == 1 {
        writeln!(std::io::stdout(), "{USAGE}")?;
        return Ok(());
    }
    let [program, dir, threads, commit, state, names @ ..] = arguments.as_slice() else {
        return Err(USAGE.into());
    };
    let driver =
        CpuDriver { threads: threads.parse()?, level: None, memory_bytes: None, profile: None };
    if names == ["first-vector"] {
        return first_vector(&driver, Path::new(dir));
    }
    let child_arguments = [&arguments[1..5], &["first-vector".to_owned()]].concat();
    let child = Child { program: program.into(), arguments: child_arguments, report: None };
    let mut wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    if wanted.is_empty() {
        wanted = SCENARIOS.iter().map(|it| it.name).collect();
    }
    for name in wanted {
        let scratch = tempfile::tempdir()?;
        let context = Context {
            driver: &driver,
            artifacts: Arc::new(NoArtifacts),
            size: Size::Full,
            checkpoint: Some(Path::new(dir)),
            child: Some(&child),
            scratch: scratch.path(),
            batch_tokens_max: BATCH_TOKENS_MAX,
            thread_count: NonZeroUsize::new(driver.threads).ok_or("no threads")?,
            revision: Revision {
                commit: Some(commit.clone()),
                dirty: Some(state.as_str() != "clean"),
            },
            recorder: Arc::new(Null),
        };
        let run = run(name, &context)?;
        write!(std::io::stderr(), "{run}")?;
        writeln!(std::io::stdout(), "{}", run.to_json())?;
    }
    Ok(())
}

fn first_vector(driver: &CpuDriver, dir: &Path) -> Result<(), Box<dyn Error>> {
    let build = Build::new(driver.open(0)?, u64::MAX, Arc::new(Counters::new()), Arc::new(Null));
    let options = EmbedderOptions {
        pooling: None,
        normalize: Some(true),
        sequence_tokens_max: None,
        long_text: LongTokens::Truncate,
        batch_tokens_max: BATCH_TOKENS_MAX,
        thread_count: NonZeroUsize::MIN,
        role: Role::Passage,
        precision: InferencePrecision::FP32,
    };
    let mut embedder = CheckpointEmbedder::open(build, dir, options)?;
    let text = "A process that has just begun.".to_owned();
    for result in embedder.embed(&[EmbedItem::Text(text)])? {
        if let EmbedOutput::Vector(vector) = result?.output {
            writeln!(std::io::stdout(), "{}", Value::from(vector))?;
        }
    }
    Ok(())
}
