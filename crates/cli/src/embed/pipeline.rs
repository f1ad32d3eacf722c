//! Twelve models and their fusion, as the run's engine.

use std::sync::Arc;

use calor_embed::{
    CONCATENATED_LEN, EmbeddingError, EmbeddingResult, FUSED_LEN, ModelId, ModelInput,
    MultiGpuBalancer, MultiGpuPipeline, PipelineCore, PipelineOptions, PipelineOutput,
};
use calor_runtime::Build;
use serde_json::{Map, Value as Json, json};

use super::{
    Engine, Made,
    checkpoint::{about_machine, long_tokens, open_build, threads},
    places::names,
    recipe::Recipe,
    table::Table,
};
use crate::{
    answer,
    arguments::{EmbedArguments, RunArguments, TooLong, VectorWord},
    environment::{Environment, now_s},
    exit::Failure,
    input::Content,
    output::{Cell, Column, ColumnKind, OutputFormat},
    recording::Recording,
};

/// Which results are wanted, and what happens to long texts.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) vectors: Vec<VectorWord>,
    pub(crate) on_too_long: TooLong,
}

impl Wanted {
    /// As the user says, else everything where it has room and the fused vector where not.
    pub(super) fn of(arguments: &EmbedArguments, format: Option<OutputFormat>) -> Self {
        use VectorWord as V;
        let all = vec![V::Fused, V::Slots, V::Sparse, V::Tokens];
        let some_models = !arguments.run.models.is_empty();
        let vectors = match format {
            _ if !arguments.vectors.is_empty() => arguments.vectors.clone(),
            None | Some(OutputFormat::Jsonl) => all,
            Some(_) if arguments.json => all,
            Some(_) if some_models && !arguments.run.allow_partial => vec![V::Slots],
            Some(_) => vec![V::Fused],
        };
        Self { vectors, on_too_long: arguments.inputs.on_too_long }
    }

    /// Whether E6 and E12 may be asked for in their own forms: a search by a slot does.
    fn own_forms(&self) -> bool {
        let is_whole = |it: &VectorWord| matches!(it, VectorWord::Fused | VectorWord::Concatenated);
        !self.vectors.iter().all(is_whole)
    }
}

/// A pipeline at work, on one device or on several that hold the same.
pub(crate) struct PipelineEngine {
    replicas: MultiGpuPipeline,
    /// Devices by name.
    names: Vec<String>,
    columns: Vec<Column>,
    parts: Vec<Part>,
    now_s: Option<i64>,
    thread_count: usize,
    /// Models in use, with the place that each came from.
    sources: Vec<String>,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Fused,
    Concatenated,
    Slot(ModelId),
    Sparse,
    Tokens,
}

impl PipelineEngine {
    /// Opens the profile on the device of each run; what it needs is pulled where it is not there.
    /// Runs differ in nothing else.
    ///
    /// # Panics
    /// For no run.
    pub(crate) fn open(
        runs: &[RunArguments],
        wanted: Wanted,
        environment: &Environment,
        recording: &Recording,
        quiet: bool,
    ) -> Result<Self, Failure> {
        let run = &runs[0];
        let models = Recipe::models(run);
        let fuses = models.len() == ModelId::iter().len() || run.allow_partial;
        let parts = parts(&wanted.vectors, &models, fuses)?;
        // Before anything is pulled: a device that is not there ends the run.
        let builds: Vec<Build> = runs
            .iter()
            .map(|it| open_build(it, environment, recording))
            .collect::<Result<_, _>>()?;
        let recipe = Recipe::of(run, environment, &*recording.recorder(), quiet)?;
        let open = |build: Build| -> Result<PipelineCore, Failure> {
            let mut options = recipe.options(build.signature());
            options.long_text = long_tokens(wanted.on_too_long);
            options.own_forms = wanted.own_forms();
            Ok(PipelineCore::open(build, options)?)
        };
        let cores = builds.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let ordinals: Vec<usize> = (0..cores.len()).collect();
        let replicas = MultiGpuPipeline::new(Arc::new(MultiGpuBalancer::new(&ordinals)?), cores)?;
        let columns = parts.iter().map(|it| it.column()).collect();
        let thread_count = runs.iter().map(|it| threads(it).get()).sum();
        let (names, sources) = (names(runs), recipe.sources().to_vec());
        Ok(Self { replicas, names, columns, parts, now_s: run.now, thread_count, sources })
    }

    fn options(&self) -> &PipelineOptions {
        self.replicas.cores()[0].options()
    }

    /// Embeds inputs; one bad input fails alone.
    pub(crate) fn outputs(
        &mut self,
        inputs: &[ModelInput],
    ) -> Result<Vec<EmbeddingResult<PipelineOutput>>, Failure> {
        let now_s = self.now_s.unwrap_or_else(now_s);
        let live_count = self.replicas.balancer().live_count();
        let outputs = self.replicas.embed_batch(inputs, now_s)?;
        if self.replicas.balancer().live_count() < live_count {
            for (name, fault) in self.names.iter().zip(self.replicas.faults()) {
                let told = fault.iter().map(|why| format!("calor: lost {name} ({why})"));
                told.for_each(answer::remark);
            }
        }
        Ok(outputs)
    }

    /// What each device did.
    fn describe_devices(&self) -> Json {
        let replicas = &self.replicas;
        let row = |(place, name): (usize, &String)| {
            let programs = replicas.cores()[place].programs();
            json!({
                "name": name,
                "device_model": programs.signature().model,
                "memory_bytes": programs.memory().total_bytes(),
                "item_count": replicas.item_counts()[place],
                "lost": replicas.faults()[place],
            })
        };
        self.names.iter().enumerate().map(row).collect()
    }

    fn made(&self, output: &PipelineOutput) -> Made {
        let options = self.options();
        let mut details = Map::new();
        if let Some(fused) = &output.fused {
            details.insert("expert_weights".into(), json!(fused.expert_weights));
            details.insert("selected_experts".into(), json!(fused.selected_experts));
        }
        let missing = output.embeddings.missing_models();
        let missing: Vec<&str> = missing.iter().map(|it| it.as_str()).collect();
        details.insert("missing_models".into(), json!(missing));
        details.insert("timestamp_defaulted".into(), output.flags.timestamp_defaulted.into());
        details.insert("latency_us".into(), output.embeddings.total_latency_us().into());
        details.insert("profile".into(), options.profile.name().into());
        details.insert("untrained".into(), json!(options.profile.untrained()));
        Made {
            cells: self.parts.iter().map(|it| it.cell(output)).collect(),
            details,
            table: Table::twelve(output),
            truncated: output.flags.truncated,
            cut: output.cut,
            token_count: 0,
        }
    }
}

impl Part {
    fn column(self) -> Column {
        let dense = |name: &str, len| Column { name: name.into(), kind: ColumnKind::Dense { len } };
        match self {
            Self::Fused => dense("fused", FUSED_LEN),
            Self::Concatenated => dense("concatenated", CONCATENATED_LEN),
            Self::Slot(model) => dense(model.as_str(), model.slot_dimension()),
            Self::Sparse => Column { name: "sparse_terms".into(), kind: ColumnKind::Sparse },
            Self::Tokens => {
                let dim = ModelId::LateInteraction.native_dimension();
                Column { name: "tokens".into(), kind: ColumnKind::Tokens { dim } }
            }
        }
    }

    fn cell(self, output: &PipelineOutput) -> Cell {
        let PipelineOutput { embeddings, fused, sparse, tokens, .. } = output;
        let found = match self {
            Self::Fused => fused.as_ref().map(|it| Cell::Dense(it.vector.clone())),
            Self::Concatenated => embeddings.as_slice().map(|it| Cell::Dense(it.to_vec())),
            Self::Slot(model) => embeddings.get(model).map(|it| Cell::Dense(it.vector.clone())),
            Self::Sparse => sparse.clone().map(Cell::Sparse),
            Self::Tokens => tokens.clone().map(Cell::Tokens),
        };
        found.unwrap_or(Cell::Absent)
    }
}

impl Engine for PipelineEngine {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn embed(&mut self, items: &[&Content]) -> Result<Vec<EmbeddingResult<Made>>, Failure> {
        let inputs: Vec<EmbeddingResult<ModelInput>> =
            items.iter().map(|it| model_input(it)).collect();
        let good: Vec<ModelInput> =
            inputs.iter().filter_map(|it| it.as_ref().ok().cloned()).collect();
        let mut outputs = self.outputs(&good)?.into_iter();
        let lost = || EmbeddingError::InternalError { place: "pipeline run", source: None };
        Ok(inputs
            .into_iter()
            .map(|input| {
                input?;
                let output = outputs.next().unwrap_or_else(|| Err(lost()))?;
                Ok(self.made(&output))
            })
            .collect())
    }

    fn describe(&self) -> Map<String, Json> {
        let options = self.options();
        let cores = self.replicas.cores();
        let models: Vec<&str> = options.models.iter().map(|it| it.as_str()).collect();
        let mut about = Map::new();
        about.insert("profile".into(), options.profile.name().into());
        about.insert("models".into(), json!(models));
        about.insert("checkpoints".into(), json!(self.sources));
        about.insert("precision".into(), options.precision.word().into());
        about_machine(cores[0].programs(), &mut about);
        if 1 < cores.len() {
            about.insert("devices".into(), self.describe_devices());
        }
        about.insert("thread_count".into(), self.thread_count.into());
        about.insert("untrained".into(), json!(options.profile.untrained()));
        about
    }
}

/// An item as the pipeline takes it.
pub(crate) fn model_input(content: &Content) -> EmbeddingResult<ModelInput> {
    match content {
        Content::Text { text, instruction } => {
            ModelInput::text_with_instruction(text, instruction.clone())
        }
        Content::Code { text, language } => ModelInput::code(text, language),
        Content::Image { bytes, format } => ModelInput::image(bytes.clone(), *format),
        Content::Ids(_) => Err(EmbeddingError::ConfigError {
            field: "input_ids",
            value: "a list of ids".into(),
            want: "ids belong to one tokenizer; use them with `--checkpoint`",
        }),
    }
}

fn parts(vectors: &[VectorWord], models: &[ModelId], fuses: bool) -> Result<Vec<Part>, Failure> {
    let named = |part: Part, there: bool| there.then_some(part);
    let mut out = Vec::new();
    for word in vectors {
        match word {
            VectorWord::Fused => out.extend(named(Part::Fused, fuses)),
            VectorWord::Concatenated => out.extend(named(Part::Concatenated, fuses)),
            VectorWord::Slots => out.extend(models.iter().map(|it| Part::Slot(*it))),
            VectorWord::Sparse => {
                out.extend(named(Part::Sparse, models.contains(&ModelId::Sparse)));
            }
            VectorWord::Tokens => {
                out.extend(named(Part::Tokens, models.contains(&ModelId::LateInteraction)));
            }
        }
    }
    if out.is_empty() {
        return Err(Failure::usage("nothing of what is wanted is made by these models")
            .why("the fused vector needs all twelve models")
            .hint("leave out `--models`, add `--allow-partial`, or use `--vectors slots`"));
    }
    Ok(out)
}
