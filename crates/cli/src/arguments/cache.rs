//! Flags of `calor cache`, and those of every command that compiles.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Where compiled code is kept.
#[derive(Clone, Debug, Args)]
pub(crate) struct KeepArguments {
    /// Keep compiled code in this folder instead of CALOR_CACHE_DIR or the platform's cache
    /// folder.
    #[arg(long, value_name = "DIR", help_heading = "Machine")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Most MiB of compiled code on the disk; nothing is kept there if it is 0.
    #[arg(long, value_name = "MIB", default_value_t = CACHE_MIB, help_heading = "Machine")]
    pub(crate) cache_size: u64,
    /// Look here first, and never write here: a cache folder, or a file of `calor cache export`.
    /// May be repeated.
    #[arg(long, value_name = "PATH", help_heading = "Machine")]
    pub(crate) cache_layer: Vec<PathBuf>,
}

const CACHE_MIB: u64 = calor_runtime::cache::DISK_BYTES_MAX >> 20;

/// `calor cache`.
#[derive(Debug, Args)]
pub(crate) struct CacheArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
    /// Answer as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The folder; CALOR_CACHE_DIR or the platform's cache folder if not given.
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) cache_dir: Option<PathBuf>,
}

/// Commands on the cache of compiled code.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List what is kept.
    List {
        /// Only for this architecture or device model.
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
    },
    /// Read every entry and say which are damaged; changes nothing.
    Verify,
    /// Write entries to one file that another machine can import.
    #[command(after_help = "\
Examples:
  calor cache export kernels.calor
  calor cache export kernels.calor --target sm_90a
  calor cache export two.calor --key 0a1b2c3d --key 4e5f6071")]
    Export {
        /// The file.
        file: PathBuf,
        /// Only for this architecture or device model.
        #[arg(long, value_name = "NAME", conflicts_with = "key")]
        target: Option<String>,
        /// Only this entry, by the first digits that `calor cache list` shows. May be repeated.
        #[arg(long, value_name = "DIGITS")]
        key: Vec<String>,
    },
    /// Take the entries of an exported file; a damaged file is refused whole.
    Import {
        /// The file.
        file: PathBuf,
    },
    /// Remove what is kept, and nothing else.
    Clear,
}
