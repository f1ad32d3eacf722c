//! `calor cache`: compiled code that is kept between runs, looked at and moved.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use calor_device::ArtifactKind;
use calor_kernel::Digest;
use calor_runtime::cache::{
    ArtifactStore, Bundle, CacheError, Directory, Layer, MEMORY_BYTES_MAX, Row, StoreOptions,
};
use calor_telemetry::{Counters, Recorder};
use serde_json::{Value as Json, json};

use crate::{
    answer,
    arguments::{CacheArguments, CacheCommand, KeepArguments},
    environment::{Environment, now_s},
    exit::{Exit, Failure},
};

/// How long another process that compiles the same is waited for.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(30);

/// The store that a run keeps compiled code in.
///
/// # Errors
/// When a layer that was named cannot be used. A folder that cannot be used is no error.
pub(crate) fn open_store(
    keep: &KeepArguments,
    environment: &Environment,
    counters: Arc<Counters>,
    recorder: Arc<dyn Recorder>,
) -> Result<Arc<ArtifactStore>, Failure> {
    let layers = keep.cache_layer.iter().map(|it| Layer::open(it)).collect::<Result<_, _>>()?;
    let options = StoreOptions {
        folder: environment.cache_dir(keep.cache_dir.as_deref()).map(Path::to_owned),
        layers,
        disk_bytes_max: keep.cache_size.saturating_mul(1 << 20),
        memory_bytes_max: MEMORY_BYTES_MAX,
        lock_wait_max: LOCK_WAIT_MAX,
    };
    Ok(Arc::new(ArtifactStore::open(options, counters, recorder)))
}

/// Runs one of the commands.
///
/// # Errors
/// When the folder or a file cannot be used.
pub(crate) fn run(
    arguments: &CacheArguments,
    environment: &Environment,
    quiet: bool,
) -> Result<Exit, Failure> {
    let folder = environment.cache_dir(arguments.cache_dir.as_deref()).ok_or_else(|| {
        Failure::usage("no folder for compiled code")
            .hint("set CALOR_CACHE_DIR to a folder of yours, or name one with `--cache-dir`")
    })?;
    let json = arguments.json;
    match &arguments.command {
        CacheCommand::List { target } => list(folder, target.as_deref(), json),
        CacheCommand::Verify => verify(folder, json),
        CacheCommand::Export { file, target, key } => {
            let rows = chosen(rows(folder)?, target.as_deref(), key)?;
            export(folder, file, &rows, json, quiet)
        }
        CacheCommand::Import { file } => import(folder, file, json),
        CacheCommand::Clear => clear(folder, json, quiet),
    }
}

/// Every entry of a folder; none where there is no folder.
fn rows(folder: &Path) -> Result<Vec<Row>, Failure> {
    match Directory::open_existing(folder)? {
        Some(directory) => Ok(directory.inventory()?),
        None => Ok(Vec::new()),
    }
}

/// Whether an entry is for an architecture or a model. Of an algorithm both are the target.
fn is_for(row: &Row, target: &str) -> bool {
    let Ok(content) = &row.content else { return false };
    let own = content.target.as_str();
    let model_before = own.strip_suffix(target).is_some_and(|it| it.ends_with(' '));
    let arch_behind = own.strip_prefix(target).is_some_and(|it| it.starts_with(' '));
    own == target || model_before || arch_behind
}

fn list(folder: &Path, target: Option<&str>, json: bool) -> Result<Exit, Failure> {
    let mut rows = rows(folder)?;
    rows.retain(|row| target.is_none_or(|it| is_for(row, it)));
    let size_bytes: u64 = rows.iter().map(|it| it.size_bytes).sum();
    if json {
        let entries: Vec<Json> = rows.iter().map(row_json).collect();
        let path = folder.display().to_string();
        let answer = json!({ "directory": path, "size_bytes": size_bytes, "entries": entries });
        answer::line(answer)?;
        return Ok(Exit::Done);
    }
    if rows.is_empty() {
        answer::line(format!("nothing is kept in {}", folder.display()))?;
        return Ok(Exit::Done);
    }
    let mut table =
        vec![["key", "kind", "target", "producer", "bytes", "used", "label"].map(str::to_owned)];
    table.extend(rows.iter().map(cells));
    print_table(&table)?;
    let (count, size) = (rows.len(), answer::bytes(size_bytes));
    answer::line(format!("{count} entries, {size}, in {}", folder.display()))?;
    Ok(Exit::Done)
}

fn cells(row: &Row) -> [String; 7] {
    let (key, size) = (row.digest.short(), answer::bytes(row.size_bytes));
    let used = format!("{} ago", duration(age_s(row)));
    match &row.content {
        Ok(it) => {
            let kind = kind_name(it.kind).to_owned();
            let (target, producer) = (it.target.clone(), it.producer.clone());
            [key, kind, target, producer, size, used, it.label.clone()]
        }
        Err(flaw) => {
            let none = || "-".to_owned();
            [key, "damaged".to_owned(), none(), none(), size, used, flaw.to_string()]
        }
    }
}

fn print_table(rows: &[[String; 7]]) -> Result<(), Failure> {
    let width = |at: usize| rows.iter().map(|it| it[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    for row in rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Numbers to the right, words to the left.
            line += &match at {
                4 | 5 => format!("{cell:>width$}  "),
                _ => format!("{cell:<width$}  "),
            };
        }
        answer::line(line.trim_end())?;
    }
    Ok(())
}

fn row_json(row: &Row) -> Json {
    let mut out = json!({
        "key": row.digest.to_string(),
        "size_bytes": row.size_bytes,
        "used_s_ago": age_s(row),
        "flaw": row.content.as_ref().err().map(ToString::to_string),
    });
    if let Ok(key) = &row.content {
        out["kind"] = kind_name(key.kind).into();
        out["target"] = key.target.as_str().into();
        out["producer"] = key.producer.as_str().into();
        out["label"] = key.label.as_str().into();
        out["body"] = key.body.to_string().into();
    }
    out
}

fn kind_name(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::Kernel => "kernel",
        ArtifactKind::Algorithm => "algorithm",
    }
}

fn age_s(row: &Row) -> u64 {
    let used = row.used.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |it| it.as_secs());
    u64::try_from(now_s()).unwrap_or(0).saturating_sub(used)
}

/// Seconds in the largest unit that leaves at least one.
fn duration(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let unit = units.into_iter().find(|it| it.1 <= seconds).unwrap_or(("s", 1));
    format!("{} {}", seconds / unit.1, unit.0)
}

fn verify(folder: &Path, json: bool) -> Result<Exit, Failure> {
    let rows = rows(folder)?;
    let damaged: Vec<&Row> =
        rows.iter().filter(|it| it.content.as_ref().is_err_and(|it| it.is_damage())).collect();
    if json {
        let damaged: Vec<Json> = damaged.iter().map(|it| row_json(it)).collect();
        answer::line(json!({ "entry_count": rows.len(), "damaged": damaged }))?;
    } else {
        for row in &damaged {
            if let Err(flaw) = &row.content {
                answer::line(format!("{} is damaged: {flaw}", row.digest))?;
            }
        }
        let whole = rows.len() - damaged.len();
        answer::line(format!("{whole} of {} entries are whole", rows.len()))?;
    }
    Ok(if damaged.is_empty() { Exit::Done } else { Exit::SomeItems })
}

fn chosen(rows: Vec<Row>, target: Option<&str>, keys: &[String]) -> Result<Vec<Row>, Failure> {
    if keys.is_empty() {
        return Ok(rows
            .into_iter()
            .filter(|row| target.is_none_or(|it| is_for(row, it)))
            .collect());
    }
    let mut chosen = Vec::new();
    for digits in keys {
        let has = |row: &&Row| row.digest.to_string().starts_with(&digits.to_lowercase());
        let found: Vec<&Row> = rows.iter().filter(has).collect();
        match found.as_slice() {
            [one] => chosen.push((*one).clone()),
            [] => {
                return Err(Failure::usage(format!("no entry starts with `{digits}`"))
                    .hint("`calor cache list` shows all"));
            }
            [_, ..] => {
                let what = format!("{} entries start with `{digits}`", found.len());
                return Err(Failure::usage(what).hint("write more digits"));
            }
        }
    }
    Ok(chosen)
}

fn export(
    folder: &Path,
    file: &Path,
    rows: &[Row],
    json: bool,
    quiet: bool,
) -> Result<Exit, Failure> {
    let whole: Vec<Digest> =
        rows.iter().filter(|it| it.content.is_ok()).map(|it| it.digest).collect();
    let damaged = rows.len() - whole.len();
    if whole.is_empty() {
        return Err(Failure::usage("there is nothing to export")
            .why(format!("no such entry is kept in {}", folder.display())));
    }
    let directory = Directory::open_existing(folder)?;
    let directory = directory.ok_or_else(|| Failure::internal("the folder vanished"))?;
    let bundle = Bundle::of(&directory, &whole)?;
    bundle.write(file)?;
    tell(&bundle, file, "exported", json)?;
    if 0 < damaged && !quiet {
        answer::remark(format!("{damaged} damaged entries were left out: `calor cache verify`"));
    }
    Ok(if damaged == 0 { Exit::Done } else { Exit::SomeItems })
}

/// Exports what is kept for the architecture or model of a device, and remarks on it.
///
/// # Errors
/// When nothing is kept for it, or the file cannot be written.
pub(crate) fn export_for(
    keep: &KeepArguments,
    environment: &Environment,
    file: &Path,
    targets: &[&str],
    quiet: bool,
) -> Result<(), Failure> {
    let folder = environment.cache_dir(keep.cache_dir.as_deref()).ok_or_else(|| {
        Failure::usage("no folder for compiled code")
            .hint("set CALOR_CACHE_DIR to a folder of yours, or name one with `--cache-dir`")
    })?;
    let rows = rows(folder)?;
    let fits = |it: &&Row| it.content.is_ok() && targets.iter().any(|target| is_for(it, target));
    let chosen: Vec<Digest> = rows.iter().filter(fits).map(|it| it.digest).collect();
    if chosen.is_empty() {
        return Err(Failure::new(Exit::Environment, "there is nothing to export")
            .why(format!("nothing is kept for {}", targets.join(" or ")))
            .hint(
                "code for a processor is part of the command; only GPUs have code that is kept",
            ));
    }
    let directory = Directory::open_existing(folder)?;
    let directory = directory.ok_or_else(|| Failure::internal("the folder vanished"))?;
    let bundle = Bundle::of(&directory, &chosen)?;
    bundle.write(file)?;
    if !quiet {
        let (count, size) = (bundle.entry_count(), answer::bytes(bundle.size_bytes()));
        answer::remark(format!("exported {count} entries ({size}): {}", file.display()));
    }
    Ok(())
}

fn import(folder: &Path, file: &Path, json: bool) -> Result<Exit, Failure> {
    let bundle = Bundle::read(file)?;
    bundle.import(&Directory::open(folder)?)?;
    tell(&bundle, folder, "imported", json)?;
    Ok(Exit::Done)
}

fn tell(bundle: &Bundle, place: &Path, what: &str, json: bool) -> Result<(), Failure> {
    let (count, size_bytes) = (bundle.entry_count(), bundle.size_bytes());
    let path = place.display().to_string();
    if json {
        let answer = json!({ "entry_count": count, "size_bytes": size_bytes, "path": path });
        return answer::line(answer);
    }
    let mut targets: Vec<String> = bundle.keys().into_iter().map(|it| it.target).collect();
    targets.sort();
    targets.dedup();
    let (size, targets) = (answer::bytes(size_bytes), targets.join(", "));
    answer::line(format!("{what} {count} entries ({size}) for {targets}: {path}"))
}

fn clear(folder: &Path, json: bool, quiet: bool) -> Result<Exit, Failure> {
    let cleared = match Directory::open_existing(folder)? {
        Some(directory) => directory.clear()?,
        None => calor_runtime::cache::Cleared::default(),
    };
    let left: Vec<String> = cleared.left.iter().map(|it| it.display().to_string()).collect();
    let (count, size_bytes) = (cleared.entry_count, cleared.removed_bytes);
    if json {
        answer::line(json!({ "entry_count": count, "size_bytes": size_bytes, "left": left }))?;
        return Ok(Exit::Done);
    }
    let size = answer::bytes(size_bytes);
    answer::line(format!("removed {count} entries ({size}) from {}", folder.display()))?;
    for path in left.iter().filter(|_| !quiet) {
        answer::remark(format!("{path} is not the cache's and was left"));
    }
    Ok(Exit::Done)
}

impl From<CacheError> for Failure {
    fn from(err: CacheError) -> Self {
        let what = err.to_string();
        match err {
            CacheError::Io { source, .. } => Self::new(Exit::Environment, what).why(source),
            CacheError::Shared { .. }
            | CacheError::ForeignOwner { .. }
            | CacheError::NoFolder { .. } => Self::new(Exit::Environment, what)
                .hint("code is loaded from a private folder only: name one with `--cache-dir`"),
            CacheError::Bundle { .. } => Self::new(Exit::Input, what),
            CacheError::NoEntry { .. } => Self::new(Exit::Usage, what),
            _ => Self::internal(what),
        }
    }
}

/// What a look at the folder gives, for `calor doctor`.
pub(crate) fn describe(folder: Option<&Path>) -> Result<String, (String, &'static str)> {
    let Some(folder) = folder else {
        let remedy = "compiled code is not kept: set CALOR_CACHE_DIR to a folder of yours";
        return Err(("no folder".to_owned(), remedy));
    };
    let refused = |err: CacheError| {
        let failure = Failure::from(err).to_string();
        let what = failure.lines().next().unwrap_or_default().trim_start_matches("calor: ");
        let remedy = "compiled code is not kept: set CALOR_CACHE_DIR to a private folder";
        (what.to_owned(), remedy)
    };
    let path: PathBuf = folder.to_owned();
    let Some(directory) = Directory::open_existing(folder).map_err(refused)? else {
        return Ok(format!("{} (nothing is kept yet)", path.display()));
    };
    let usage = directory.usage().map_err(refused)?;
    let size = answer::bytes(usage.size_bytes);
    let aside = match usage.quarantine_count {
        0 => String::new(),
        count => format!(", {count} moved aside"),
    };
    Ok(format!("{} ({} entries, {size}{aside})", path.display(), usage.entry_count))
}

#[test]
fn ages_are_short() {
    let ages = [0, 59, 60, 7_199, 86_400 * 3].map(duration);
    assert_eq!(ages, ["0 s", "59 s", "1 min", "1 h", "3 d"]);
}

#[test]
fn an_algorithm_is_for_its_architecture_and_its_model() {
    let row = |target: &str| Row {
        digest: Digest([0; 32]),
        size_bytes: 1,
        used: SystemTime::UNIX_EPOCH,
        content: Ok(calor_device::ArtifactKey {
            kind: ArtifactKind::Algorithm,
            target: target.into(),
            producer: String::new(),
            body: Digest([0; 32]),
            label: String::new(),
        }),
    };
    let algorithm = row("NVIDIA H200 sm_90a");
    for (target, want) in [
        ("sm_90a", true),
        ("NVIDIA H200", true),
        ("NVIDIA H200 sm_90a", true),
        ("sm_90", false),
        ("NVIDIA H20", false),
        ("0a", false),
    ] {
        assert_eq!(is_for(&algorithm, target), want, "{target}");
    }
    assert!(is_for(&row("sm_90a"), "sm_90a") && !is_for(&row("sm_90a"), "sm_90"));
}
