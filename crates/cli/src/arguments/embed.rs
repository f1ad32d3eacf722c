//! Flags of `calor embed` and `calor search`.

use std::{num::NonZeroUsize, path::PathBuf};

use calor_embed::{ModelId, Profile};
use clap::{Args, ValueEnum};

use super::KeepArguments;
use crate::devices::{NotADevice, Wish};

/// `calor embed`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calor embed \"a text\" \"another\"
  calor embed --input texts.jsonl --output out.npy
  calor embed --input texts.csv --column body --json > out.jsonl
  calor embed --checkpoint DIR --pool mean --input texts.txt --output out.safetensors
  cat texts.txt | calor embed --output out.parquet
  calor embed --profile full --devices cuda:0,cuda:1 --input texts.jsonl --output out.npy

Lines of a .jsonl file: {\"text\": …, \"instruction\": …}, {\"code\": …, \"language\": …},
{\"input_ids\": […]} (with --checkpoint), {\"image\": \"path\"}; each with an optional \"id\".
An instruction: role:query or role:passage, timestamp:2024-05-01T12:00:00Z, separated by `;`.")]
pub(crate) struct EmbedArguments {
    #[command(flatten)]
    pub(crate) inputs: InputArguments,
    #[command(flatten)]
    pub(crate) checkpoint: CheckpointArguments,
    #[command(flatten)]
    pub(crate) run: RunArguments,
    /// Share the items over these devices, such as cuda:0,cuda:1: each holds all models, and takes
    /// the next items when it is free; one that fails leaves its items to the others. May be
    /// repeated; cpu may be named more than once.
    #[arg(long, value_name = "DEVICE", value_delimiter = ',', value_parser = device,
        conflicts_with_all = ["device", "checkpoint"], help_heading = "Machine")]
    pub(crate) devices: Vec<Wish>,
    /// Embed the first 16 items in f32 as well, and report how far their vectors are from those; a
    /// model that is too far away is an error. Costs a second set of weights and programs on the
    /// device, and is always done in fp8 and int8.
    #[arg(long, help_heading = "Output")]
    pub(crate) check_precision: bool,
    /// Write vectors here: .jsonl, .npy, .parquet or .safetensors.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Print one line of JSON for each item.
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Write the report here, as JSON; standard error gets it with `--json` otherwise.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) report: Option<PathBuf>,
    /// What to write: all for .jsonl and `--json`, else the fused vector.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Output",
        conflicts_with = "checkpoint"
    )]
    pub(crate) vectors: Vec<VectorWord>,
}

/// Where items come from.
#[derive(Clone, Debug, Args)]
pub(crate) struct InputArguments {
    /// Texts, and files by name: a word that ends in a known extension is a file. Standard
    /// input is read where there are none and no `--input`.
    #[arg(value_name = "TEXT")]
    pub(crate) texts: Vec<String>,
    /// Read .txt, .jsonl, .csv, .parquet or an image; `-` is standard input. May be repeated.
    #[arg(long, short, value_name = "FILE", help_heading = "Input")]
    pub(crate) input: Vec<PathBuf>,
    /// Read every input as this, whatever its name.
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Input")]
    pub(crate) format: Option<FormatWord>,
    /// The column of texts in .csv and .parquet.
    #[arg(long, value_name = "NAME", default_value = "text", help_heading = "Input")]
    pub(crate) column: String,
    /// What happens to a text over the limits.
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value = "truncate",
        help_heading = "Input"
    )]
    pub(crate) on_too_long: TooLong,
    /// Most bytes of one text.
    #[arg(long, value_name = "BYTES", default_value = "65536", help_heading = "Input")]
    pub(crate) max_bytes: NonZeroUsize,
    /// Instruction for texts that bring none.
    #[arg(long, value_name = "TEXT", help_heading = "Input")]
    pub(crate) instruction: Option<String>,
}

/// One checkpoint by itself.
#[derive(Clone, Debug, Args)]
pub(crate) struct CheckpointArguments {
    /// Embed with this Hugging Face folder alone.
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "One checkpoint",
        conflicts_with_all =
            ["profile", "models", "models_dir", "allow_partial", "reference_time", "now"]
    )]
    pub(crate) checkpoint: Option<PathBuf>,
    /// How rows become a vector; the checkpoint's own way if not given.
    #[arg(long, value_enum, help_heading = "One checkpoint", requires = "checkpoint")]
    pub(crate) pool: Option<PoolWord>,
    /// Whether vectors are divided by their length; the checkpoint's own way if not given.
    #[arg(
        long,
        value_name = "BOOL",
        help_heading = "One checkpoint",
        requires = "checkpoint",
        action = clap::ArgAction::Set
    )]
    pub(crate) normalize: Option<bool>,
    /// Most tokens of one text.
    #[arg(long, value_name = "N", help_heading = "One checkpoint", requires = "checkpoint")]
    pub(crate) max_tokens: Option<NonZeroUsize>,
}

/// What runs, and where.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArguments {
    /// Which models serve the twelve slots: mini, full or random.
    #[arg(
        long,
        value_name = "NAME",
        value_parser = profile,
        default_value = "mini",
        help_heading = "Models"
    )]
    pub(crate) profile: Profile,
    /// Run these models only, by number or name: e1,e5,entity.
    #[arg(
        long,
        value_name = "LIST",
        value_parser = model,
        value_delimiter = ',',
        help_heading = "Models"
    )]
    pub(crate) models: Vec<ModelId>,
    /// Fuse although models are missing; their slots are zero and listed.
    #[arg(long, help_heading = "Models")]
    pub(crate) allow_partial: bool,
    /// A folder of checkpoints, as `calor models synth` writes it, instead of the store.
    #[arg(long, value_name = "DIR", help_heading = "Models")]
    pub(crate) models_dir: Option<PathBuf>,
    /// Precision of the models' products: auto is bf16 on cuda from compute capability 8.0, else
    /// f32. What leaves is f32. `calor doctor` says which a device has.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Models")]
    pub(crate) precision: PrecisionWord,
    /// The time that ages are measured against: 2024-05-01T12:00:00Z or seconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Models")]
    pub(crate) reference_time: Option<i64>,
    /// The time of texts that name none; the clock's if not given.
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Models")]
    pub(crate) now: Option<i64>,
    /// Device: cpu, cuda or cuda:N; a list such as cuda,cpu means the first that is there.
    #[arg(
        long,
        value_name = "KIND",
        value_parser = device,
        default_value = "cpu",
        help_heading = "Machine"
    )]
    pub(crate) device: Wish,
    /// Threads; all processors if not given.
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Most MiB of memory for weights and results on the device.
    #[arg(long, value_name = "MIB", help_heading = "Machine")]
    pub(crate) memory: Option<u64>,
    /// Most tokens in one run of a program.
    #[arg(long, value_name = "N", default_value_t = 4096, help_heading = "Machine")]
    pub(crate) batch_tokens: usize,
    #[command(flatten)]
    pub(crate) keep: KeepArguments,
}

/// `calor search`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calor search \"how do I bake bread\" --corpus texts.jsonl
  calor embed --input texts.jsonl --output corpus.jsonl
  calor search \"bread\" --corpus corpus.jsonl --by e12 --top 3

A corpus of texts is embedded first; one that `calor embed --output` wrote is used as it is.")]
pub(crate) struct SearchArguments {
    /// What to look for.
    #[arg(value_name = "QUERY")]
    pub(crate) query: String,
    /// Texts in any format that `calor embed` reads, or what it wrote as .jsonl.
    #[arg(long, value_name = "FILE")]
    pub(crate) corpus: PathBuf,
    /// The column of texts in .csv and .parquet.
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub(crate) column: String,
    /// Compare by the fused vector, or by one model: e6 by inner product, e12 by MaxSim.
    #[arg(long, value_name = "WHAT", value_parser = search_by, default_value = "fused")]
    pub(crate) by: SearchBy,
    /// How many to show.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) top: usize,
    /// Answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunArguments,
}

/// What texts are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SearchBy {
    /// The fused vector.
    Fused,
    /// One model.
    Model(ModelId),
}

impl SearchBy {
    /// As users write it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Fused => "fused".into(),
            Self::Model(model) => short_name(model),
        }
    }
}

/// `e1` … `e12`.
pub(crate) fn short_name(model: ModelId) -> String {
    format!("e{}", model.index() + 1)
}

/// Formats by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatWord {
    /// One text a line.
    Txt,
    /// One JSON object a line.
    Jsonl,
    /// A table with a header.
    Csv,
    /// Parquet.
    Parquet,
}

/// What happens to long texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TooLong {
    /// Cut, and say so.
    Truncate,
    /// Fail, each by itself.
    Refuse,
}

/// Kinds of pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PoolWord {
    /// The mean of all rows.
    Mean,
    /// The first row.
    First,
    /// The last row.
    Last,
    /// The row of the first end-of-text token.
    Eos,
    /// The largest value of each column.
    Max,
    /// Term weights over the vocabulary.
    Splade,
    /// The rows themselves.
    None,
}

/// Precisions that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionWord {
    /// What the device does best: bf16 on cuda, f32 on cpu.
    Auto,
    /// 32-bit floats throughout.
    F32,
    /// 32-bit floats, multiplied with eleven digits on tensor cores.
    Tf32,
    /// Brain floats.
    Bf16,
    /// 16-bit floats; T5 refuses them.
    F16,
    /// Floats of one byte with scales, between rows in bf16.
    Fp8,
    /// Whole numbers of one byte with scales, between rows in bf16.
    Int8,
}

/// Parts of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum VectorWord {
    /// The fused vector, 1536.
    Fused,
    /// Every model's slot.
    Slots,
    /// All slots side by side, 8320.
    Concatenated,
    /// E6 as weighted terms.
    Sparse,
    /// E12, one vector a token.
    Tokens,
}

fn profile(name: &str) -> Result<Profile, UnknownName> {
    Profile::by_name(name)
        .ok_or_else(|| UnknownName { name: name.into(), there: "mini, full, random" })
}

pub(super) fn model(name: &str) -> Result<ModelId, UnknownName> {
    let lower = name.trim().to_ascii_lowercase();
    let found = ModelId::iter().find(|it| short_name(*it) == lower || it.as_str() == lower);
    found.ok_or_else(|| UnknownName { name: name.into(), there: "e1 to e12 and their names" })
}

fn search_by(name: &str) -> Result<SearchBy, UnknownName> {
    if name.eq_ignore_ascii_case("fused") {
        return Ok(SearchBy::Fused);
    }
    let there = "fused and e1 to e12";
    model(name).map(SearchBy::Model).map_err(|err| UnknownName { there, ..err })
}

pub(super) fn device(name: &str) -> Result<Wish, NotADevice> {
    name.parse()
}

/// A name that is none of a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no `{name}`; there are {there}")]
pub(crate) struct UnknownName {
    pub(super) name: String,
    pub(super) there: &'static str,
}

/// Seconds since 1970, or a time of day as instructions write it.
fn time(text: &str) -> Result<i64, calor_embed::EmbeddingError> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let found = calor_embed::input::Directives::parse(&format!("timestamp:{text}"))?;
    Ok(found.epoch_s.unwrap_or_default())
}

#[test]
fn times_and_models_are_understood_in_both_forms() {
    assert_eq!(time("86400").unwrap(), 86_400);
    assert_eq!(time("1970-01-02T00:00:00Z").unwrap(), 86_400);
    assert!(time("yesterday").is_err());
    assert_eq!(model("E12").unwrap(), ModelId::LateInteraction);
    assert_eq!(model("entity").unwrap(), ModelId::Entity);
    assert!(model("e0").is_err());
}
