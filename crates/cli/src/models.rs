//! `calor models`: the store of models and where they come from.

mod pull;

use calor_telemetry::{Origin, Recorder, Stopwatch};
use calor_weights::{Dtype, Manifest, SYNTH_MODELS, SynthModel, SynthOptions, SynthProfile, synth};
use serde_json::{Value as Json, json};

pub(crate) use pull::{ensure, pull};

use calor_embed::{ModelId, Profile};

use crate::{
    answer,
    arguments::{
        DtypeWord, ModelsArguments, ModelsCommand, PullArguments, SynthArguments, SynthWord,
    },
    environment::Environment,
    exit::{Exit, Failure},
    progress::FileBars,
    recording::Recording,
};

/// The revision that models have in the store unless another is named.
pub(crate) const REVISION: &str = "main";

/// Runs one of the commands.
///
/// # Errors
/// What the store or a source says.
pub(crate) fn run(
    arguments: &ModelsArguments,
    environment: &Environment,
    recording: &Recording,
    quiet: bool,
) -> Result<Exit, Failure> {
    let json = arguments.json;
    let recorder = recording.recorder();
    match &arguments.command {
        ModelsCommand::List => list(environment, json),
        ModelsCommand::Pull(it) => pull_all(it, environment, &*recorder, quiet, json),
        ModelsCommand::Import { name, dir, revision } => {
            let mut bars = FileBars::new(quiet);
            let store = environment.store()?;
            let watch = Stopwatch::start();
            let pulled = store.import(name, revision, dir, &mut bars)?;
            drop(bars);
            if !pulled.attempts.is_empty() {
                recorder.record(pull::brought(&pulled, Origin::Disk, watch));
            }
            tell(
                json,
                &pulled.manifest,
                if pulled.attempts.is_empty() { "is there" } else { "imported" },
            )
        }
        ModelsCommand::Verify { names, revision } => verify(environment, names, revision, json),
        ModelsCommand::Remove { name, revision } => {
            let store = environment.store()?;
            let manifest = store.manifest(name, revision)?;
            store.remove(name, revision)?;
            tell(json, &manifest, "removed")
        }
        ModelsCommand::Synth(it) => write_synthetic(it, quiet, json),
    }
}

fn tell(json: bool, manifest: &Manifest, what: &str) -> Result<Exit, Failure> {
    if json {
        answer::line(manifest_json(manifest))?;
    } else {
        answer::line(format!(
            "{} {what} ({})",
            manifest.name,
            answer::bytes(manifest.total_bytes())
        ))?;
    }
    Ok(Exit::Done)
}

fn manifest_json(manifest: &Manifest) -> Json {
    json!({
        "name": manifest.name,
        "revision": manifest.revision,
        "source": manifest.source,
        "file_count": manifest.files.len(),
        "total_bytes": manifest.total_bytes(),
        "tensor_count": manifest.tensors.len(),
    })
}

fn list(environment: &Environment, json: bool) -> Result<Exit, Failure> {
    let store = environment.store()?;
    let there = store.list()?;
    let all: Vec<ModelId> = ModelId::iter().collect();
    let mut missing = Vec::new();
    for profile in [Profile::Mini, Profile::Full] {
        for need in profile.needs(&all) {
            if there.iter().all(|it| it.name != need.name) {
                missing.push((profile.name(), need));
            }
        }
    }
    if json {
        let models: Vec<Json> = there.iter().map(manifest_json).collect();
        let missing: Vec<Json> = missing
            .iter()
            .map(|(profile, need)| {
                json!({ "name": need.name, "profile": profile, "repository": need.repository })
            })
            .collect();
        answer::line(json!({ "models": models, "missing": missing }))?;
        return Ok(Exit::Done);
    }
    for it in &there {
        let size = answer::bytes(it.total_bytes());
        answer::line(format!("{:<36} {:<10} {size:>10}  {}", it.name, it.revision, it.source))?;
    }
    for (profile, need) in missing {
        let how = format!("missing; calor models pull {}", need.name);
        answer::line(format!("{:<36} {profile:<10} {:>10}  {how}", need.name, "-"))?;
    }
    Ok(Exit::Done)
}

fn pull_all(
    arguments: &PullArguments,
    environment: &Environment,
    recorder: &dyn Recorder,
    quiet: bool,
    json: bool,
) -> Result<Exit, Failure> {
    let PullArguments { names, profile, source, revision } = arguments;
    let mut wanted = names.clone();
    if let Some(name) = profile {
        let Some(profile) = Profile::by_name(name).filter(|it| *it != Profile::Random) else {
            return Err(Failure::usage(format!("no profile to pull is called `{name}`"))
                .hint("there are mini and full"));
        };
        let all: Vec<ModelId> = ModelId::iter().collect();
        wanted.extend(profile.needs(&all).iter().map(|it| it.name.to_owned()));
    }
    for name in wanted {
        let pulled = pull(environment, &name, revision, source, recorder, quiet)?;
        let what = if pulled.attempts.is_empty() { "is there" } else { "pulled" };
        tell(json, &pulled.manifest, what)?;
    }
    Ok(Exit::Done)
}

fn verify(
    environment: &Environment,
    names: &[String],
    revision: &str,
    json: bool,
) -> Result<Exit, Failure> {
    let store = environment.store()?;
    let named = names.iter().map(|it| (it.clone(), revision.to_owned())).collect();
    let all: Vec<(String, String)> = match names.is_empty() {
        true => store.list()?.into_iter().map(|it| (it.name, it.revision)).collect(),
        false => named,
    };
    for (name, revision) in all {
        let manifest = store.verify(&name, &revision)?;
        tell(json, &manifest, "is as it was pulled")?;
    }
    Ok(Exit::Done)
}

fn write_synthetic(arguments: &SynthArguments, quiet: bool, json: bool) -> Result<Exit, Failure> {
    let SynthArguments { profile, seed, dtype, models, dir } = arguments;
    let named = |name: &String| {
        let found = SYNTH_MODELS
            .iter()
            .find(|it| it.name == name.as_str() || it.slot.eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let there: Vec<&str> = SYNTH_MODELS.iter().map(|it| it.name).collect();
            Failure::usage(format!("no synthetic model is called `{name}`"))
                .hint(format!("there are {}", there.join(", ")))
        })
    };
    let models: Vec<&SynthModel> = match models.is_empty() {
        true => SYNTH_MODELS.iter().collect(),
        false => models.iter().map(named).collect::<Result<_, _>>()?,
    };
    let options = SynthOptions {
        profile: match profile {
            SynthWord::Full => SynthProfile::Full,
            SynthWord::Tiny => SynthProfile::Tiny,
        },
        seed: *seed,
        dtype: match dtype {
            DtypeWord::F32 => Dtype::F32,
            DtypeWord::F16 => Dtype::F16,
            DtypeWord::Bf16 => Dtype::Bf16,
        },
        models: &models,
    };
    let mut bars = FileBars::new(quiet);
    let paths = synth(&options, dir, &mut bars)?;
    drop(bars);
    for path in paths {
        match json {
            true => answer::line(json!({ "path": path.display().to_string() }))?,
            false => answer::line(path.display())?,
        }
    }
    Ok(Exit::Done)
}
