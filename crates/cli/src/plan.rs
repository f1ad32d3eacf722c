//! `calor plan show`: what would run, as the planner's text.

use std::{num::NonZeroUsize, path::Path};

use calor_embed::{CheckpointEmbedder, packing::Bucket};
use calor_ir::CheckedGraph;
use calor_kernel::Unit;
use calor_runtime::{Capabilities, Choices, Plan, plan};
use calor_weights::WeightsError;
use clap::Parser;

use crate::{
    answer,
    arguments::{Arguments, Command, PlanArguments, PlanCommand, PlanShowArguments},
    devices::{self, NotADevice, Wish},
    embed::open_embedder,
    environment::Environment,
    exit::{Exit, Failure, chain},
    models,
    recording::Recording,
};

/// Runs one of the commands.
///
/// # Errors
/// When the subject cannot be read or planned.
pub(crate) fn run(arguments: &PlanArguments, environment: &Environment) -> Result<Exit, Failure> {
    let PlanCommand::Show(arguments) = &arguments.command;
    let wish: Wish =
        arguments.device.parse().map_err(|err: NotADevice| Failure::usage(err.to_string()))?;
    let all = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = arguments.threads.unwrap_or(all).get();
    let device = devices::open(&wish, threads, None, environment, None)?;
    let capabilities =
        Capabilities { claims: device.claims, parallel_count: device.signature.parallel_count };
    drop(device);
    let graph = graph(arguments, environment)?;
    let plan = plan(&graph, &capabilities, &Choices::default())
        .map_err(|err| Failure::usage("cannot plan the graph").why(chain(&err)))?;
    answer::line(plan.to_string().trim_end())?;
    if arguments.kernels {
        print_kernels(&plan)?;
    }
    Ok(Exit::Done)
}

fn print_kernels(plan: &Plan) -> Result<(), Failure> {
    for (index, unit) in plan.units.iter().enumerate() {
        answer::line(format!("\nu{index} {}", unit.label()))?;
        match unit {
            Unit::Loop(program) => answer::line(program.to_string().trim_end())?,
            Unit::Source(source) => answer::line(format!("{source:?}"))?,
            Unit::Call(call) => answer::line(format!("{call:?}"))?,
        }
    }
    Ok(())
}

fn graph(
    arguments: &PlanShowArguments,
    environment: &Environment,
) -> Result<CheckedGraph, Failure> {
    if let Some(path) = &arguments.graph {
        return read_graph(path);
    }
    let dir = match (&arguments.checkpoint, &arguments.model) {
        (Some(dir), _) => dir.clone(),
        (None, Some(name)) => {
            let store = environment.store()?;
            store.manifest(name, models::REVISION)?;
            store.dir(name, models::REVISION)?
        }
        (None, None) => return Err(Failure::usage("there is nothing to plan")),
    };
    let embedder = embedder(&dir, arguments, environment)?;
    let tower = embedder
        .text_tower()
        .ok_or_else(|| Failure::usage("the checkpoint has no text encoder to plan"))?;
    let mut bucket = Bucket::smallest(tower.ladder(), arguments.tokens, 1)
        .unwrap_or_else(|| Bucket::of_tokens(arguments.tokens.clamp(1, Bucket::TOKENS_MAX)));
    if let Some(count) = arguments.sequences {
        bucket.sequence_count = count.clamp(1, Bucket::SEQUENCES_MAX);
    }
    Ok(tower.graph(bucket)?)
}

/// A checkpoint with its own recipe.
fn embedder(
    dir: &Path,
    arguments: &PlanShowArguments,
    environment: &Environment,
) -> Result<CheckpointEmbedder, Failure> {
    // The flags of a run that nobody changed.
    let line = ["calor", "embed", "x"];
    let Ok(Arguments { command: Command::Embed(mut defaults), .. }) =
        Arguments::try_parse_from(line)
    else {
        return Err(Failure::internal("the defaults of `calor embed` do not parse"));
    };
    defaults.run.keep = arguments.keep.clone();
    let recording = Recording::off();
    let cut = calor_embed::tokenizer::LongTokens::Truncate;
    open_embedder(dir, None, &defaults.run, cut, environment, &recording)
}

fn read_graph(path: &Path) -> Result<CheckedGraph, Failure> {
    let text = std::fs::read(path)
        .map_err(|err| WeightsError::io("read", path, err))
        .map_err(|err| Failure::new(Exit::Input, "cannot read the graph").why(err))?;
    let text = String::from_utf8_lossy(&text);
    let wrong =
        |why: String| Failure::new(Exit::Input, format!("{} is no graph", path.display())).why(why);
    let graph = calor_ir::parse(&text).map_err(|err| wrong(chain(&err)))?;
    graph.check().map_err(|err| wrong(chain(&err)))
}
