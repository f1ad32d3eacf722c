//! Finding NVIDIA's libraries without a panic, and saying what is missing and what that costs.
//!
//! The bindings look a library up by bare names and panic when none is there. So every library
//! is opened here first, by full path where the loader would not find it; a library that is in
//! the process is then found under its bare name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::Library as Loaded;
use thiserror::Error;

/// A library that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LibraryName {
    /// The driver, libcuda.
    Driver,
    /// The run-time compiler.
    Nvrtc,
    /// Matrix products.
    CublasLt,
    /// Convolutions and attention.
    Cudnn,
    /// Work of several GPUs.
    Nccl,
    /// Clocks, power, temperatures.
    Nvml,
    /// Files straight to the GPU.
    Cufile,
}

impl LibraryName {
    /// Every library, in declaration order.
    pub const ALL: [Self; 7] = [
        Self::Driver,
        Self::Nvrtc,
        Self::CublasLt,
        Self::Cudnn,
        Self::Nccl,
        Self::Nvml,
        Self::Cufile,
    ];

    /// The name that people use.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Driver => "CUDA driver",
            Self::Nvrtc => "NVRTC",
            Self::CublasLt => "cuBLASLt",
            Self::Cudnn => "cuDNN",
            Self::Nccl => "NCCL",
            Self::Nvml => "NVML",
            Self::Cufile => "cuFile",
        }
    }

    /// What cannot be done without it.
    pub const fn cost_of_absence(self) -> &'static str {
        match self {
            Self::Driver => "no NVIDIA GPU can be used",
            Self::Nvrtc => "kernels can only come from the cache or a bundle",
            Self::CublasLt => "products run on our own kernels",
            Self::Cudnn => "attention runs on our own kernels alone",
            Self::Nccl => "several GPUs work as replicas only",
            Self::Nvml => "clocks and energy are not reported",
            Self::Cufile => "nothing: weights go through pinned memory, at the speed of the bus",
        }
    }

    /// File names, newest first. The bindings try the same major versions.
    const fn files(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &["libcuda.so.1", "libcuda.so"],
            Self::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12"],
            Self::CublasLt => &["libcublasLt.so.13", "libcublasLt.so.12"],
            Self::Cudnn => &["libcudnn.so.9"],
            Self::Nccl => &["libnccl.so.2"],
            Self::Nvml => &["libnvidia-ml.so.1"],
            Self::Cufile => &["libcufile.so.0"],
        }
    }

    /// What must be in the process before it, by the beginning of the file name.
    const fn companions(self) -> &'static [&'static str] {
        match self {
            // It opens its builtins by their bare name.
            Self::Nvrtc => &["libnvrtc-builtins.so."],
            Self::CublasLt => &["libcudart.so."],
            Self::Driver | Self::Cudnn | Self::Nccl | Self::Nvml | Self::Cufile => &[],
        }
    }

    /// What the kernel must have for it to be of use.
    const fn module(self) -> Option<&'static str> {
        match self {
            // Without it the library copies through memory of its own.
            Self::Cufile => Some("nvidia-fs"),
            Self::Driver | Self::Nvrtc | Self::CublasLt | Self::Cudnn | Self::Nccl | Self::Nvml => {
                None
            }
        }
    }
}

/// Folders that are looked into, besides the loader's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchPath {
    /// Folders, first come first served.
    pub folders: Vec<PathBuf>,
}

impl SearchPath {
    /// The toolkit's usual folders, then the folders of wheels in Python environments: those
    /// given, and the system's.
    pub fn usual(toolkits: &[PathBuf], python_environments: &[PathBuf]) -> Self {
        let mut folders = Vec::new();
        let usual_toolkits = [PathBuf::from("/usr/local/cuda")];
        for root in toolkits.iter().chain(&usual_toolkits) {
            for below in ["lib64", "targets/x86_64-linux/lib", "lib"] {
                folders.push(root.join(below));
            }
        }
        let system =
            [PathBuf::from("/usr/local"), PathBuf::from("/usr"), PathBuf::from("/opt/venv")];
        for root in python_environments.iter().chain(&system) {
            for python in children(&root.join("lib"), "python3") {
                for site in ["site-packages", "dist-packages"] {
                    for package in children(&python.join(site).join("nvidia"), "") {
                        folders.push(package.join("lib"));
                    }
                }
            }
        }
        folders.push(PathBuf::from("/usr/lib/wsl/lib"));
        folders.retain(|it| it.is_dir());
        Self { folders }
    }
}

/// Folders in `dir` whose names begin with `start`, newest name first.
fn children(dir: &Path, start: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|it| it.ok().map(|it| it.path()))
        .filter(|it| it.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)))
        .collect();
    found.sort();
    found.reverse();
    found
}

/// Why a library cannot be called.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Missing {
    /// Nobody looked for it.
    #[error("it was not asked for")]
    NotAsked,
    /// It is nowhere, or does not open.
    #[error("{why}")]
    NotFound {
        /// What the loader said.
        why: String,
    },
    /// The kernel lacks what the library works through.
    #[error("the kernel has no {module} module")]
    NoModule {
        /// The module.
        module: &'static str,
    },
    /// It is in the process and the loader does not know it by its name.
    #[error("it is not found by its bare name")]
    Nameless,
    /// A function that is needed is not in it.
    #[error("it is too old: it has no {symbol}")]
    TooOld {
        /// The function.
        symbol: &'static str,
    },
    /// It does not start.
    #[error("{status}")]
    Refused {
        /// What it said.
        status: String,
    },
}

/// One library as it was found, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Which.
    pub name: LibraryName,
    /// Its file, or the reason that there is none.
    pub place: Result<PathBuf, Missing>,
}

impl Library {
    /// Whether it can be called.
    pub fn is_here(&self) -> bool {
        self.place.is_ok()
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Ok(path) => write!(f, "{}: {}", self.name.title(), path.display()),
            Err(why) => {
                let cost = self.name.cost_of_absence();
                write!(f, "{}: not found ({why}); {cost}", self.name.title())
            }
        }
    }
}

/// The libraries of this process. Opening one keeps it there for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libraries {
    rows: Vec<Library>,
}

/// What was opened: never closed, because the bindings keep pointers into it.
static OPENED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

impl Libraries {
    /// Looks for `names` and opens what is there.
    pub fn find(names: &[LibraryName], path: &SearchPath) -> Self {
        let rows =
            names.iter().map(|name| Library { name: *name, place: open(*name, path) }).collect();
        Self { rows }
    }

    /// Looks for a library that is of some use without its kernel module.
    pub(crate) fn find_without_module(
        name: LibraryName,
        path: &SearchPath,
    ) -> Result<PathBuf, Missing> {
        open_file(name, path)
    }

    /// Where a library is.
    pub(crate) fn place(&self, name: LibraryName) -> Result<PathBuf, Missing> {
        let row = self.rows.iter().find(|it| it.name == name);
        row.map_or(Err(Missing::NotAsked), |it| it.place.clone())
    }

    /// One row for each library that was looked for.
    pub fn rows(&self) -> &[Library] {
        &self.rows
    }

    /// Whether it was looked for and can be called.
    pub fn has(&self, name: LibraryName) -> bool {
        self.rows.iter().any(|it| it.name == name && it.is_here())
    }

    /// Why it cannot be called, if it cannot.
    pub fn why_not(&self, name: LibraryName) -> Option<Missing> {
        self.place(name).err()
    }
}

fn open(name: LibraryName, path: &SearchPath) -> Result<PathBuf, Missing> {
    let is_absent = |it: &&str| !Path::new("/proc/driver").join(it).exists();
    if let Some(module) = name.module().filter(is_absent) {
        return Err(Missing::NoModule { module });
    }
    open_file(name, path)
}

fn open_file(name: LibraryName, path: &SearchPath) -> Result<PathBuf, Missing> {
    let mut why = Missing::NotAsked;
    for file in name.files() {
        // The loader's own places first: what the user set up wins.
        match load(Path::new(file)) {
            Ok(()) => {
                open_companions(name, path, None);
                return Ok(PathBuf::from(file));
            }
            Err(err) => why = err,
        }
        for folder in &path.folders {
            let whole = folder.join(file);
            if !whole.is_file() {
                continue;
            }
            open_companions(name, path, Some(folder));
            match load(&whole) {
                Ok(()) => return Ok(whole),
                Err(err) => why = err,
            }
        }
    }
    Err(why)
}

/// Opens what a library needs beside it. What is missing shows when the library is opened.
fn open_companions(name: LibraryName, path: &SearchPath, beside: Option<&PathBuf>) {
    for start in name.companions() {
        for folder in beside.into_iter().chain(&path.folders) {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let mut found: Vec<PathBuf> = entries
                .filter_map(|it| it.ok().map(|it| it.path()))
                .filter(|it| {
                    it.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
                })
                .collect();
            found.sort();
            if found.iter().any(|it| load(it).is_ok()) {
                break;
            }
        }
    }
}

fn load(file: &Path) -> Result<(), Missing> {
    // SAFETY: NVIDIA's libraries may be opened by any program; their initialisers only set up
    // their own state.
    let opened =
        unsafe { Loaded::new(file) }.map_err(|err| Missing::NotFound { why: reason(&err) })?;
    OPENED.lock().unwrap_or_else(PoisonError::into_inner).push(opened);
    Ok(())
}

/// What the loader said, which the error itself hides one level down.
fn reason(err: &libloading::Error) -> String {
    match std::error::Error::source(err) {
        Some(source) => source.to_string(),
        None => err.to_string(),
    }
}

#[test]
fn an_absent_library_is_a_row_with_a_reason() {
    let found = Libraries::find(&[LibraryName::Cudnn], &SearchPath { folders: Vec::new() });
    let [row] = found.rows() else { panic!("one row") };
    if let Err(why) = &row.place {
        assert!(why.to_string().contains("libcudnn"), "{why}");
        assert!(row.to_string().contains("attention runs on our own kernels"), "{row}");
    }
    assert_eq!(found.has(LibraryName::Cudnn), row.is_here());
    assert!(found.why_not(LibraryName::Nccl).is_some());
}

#[test]
fn a_library_without_its_module_is_not_opened() {
    let found = Libraries::find(&[LibraryName::Cufile], &SearchPath { folders: Vec::new() });
    match &found.rows()[0].place {
        Ok(_) => assert!(Path::new("/proc/driver/nvidia-fs").exists()),
        Err(why) if !Path::new("/proc/driver/nvidia-fs").exists() => {
            assert_eq!(why.to_string(), "the kernel has no nvidia-fs module");
        }
        Err(why) => assert!(why.to_string().contains("libcufile"), "{why}"),
    }
}

#[test]
fn wheels_are_looked_into() {
    let dir = std::env::temp_dir().join(format!("calor-wheels-{}", std::process::id()));
    let lib = dir.join("lib/python3.12/site-packages/nvidia/cu13/lib");
    std::fs::create_dir_all(&lib).expect("a temporary folder");
    let path = SearchPath::usual(&[], std::slice::from_ref(&dir));
    assert!(path.folders.contains(&lib), "{path:?}");
    // A file that is no library is a reason, not a crash.
    std::fs::write(lib.join("libcudnn.so.9"), b"no library").expect("a file");
    let found = Libraries::find(&[LibraryName::Cudnn], &SearchPath { folders: vec![lib] });
    assert!(
        !found.has(LibraryName::Cudnn)
            || !found.rows()[0].place.as_ref().unwrap().starts_with(&dir)
    );
    std::fs::remove_dir_all(&dir).expect("the folder");
}
