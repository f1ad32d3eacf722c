//! Text to machine code, for one exact architecture.

use std::ffi::{CString, c_char, c_int};
use std::ptr;
use std::sync::OnceLock;

use cudarc::nvrtc::sys::{self, nvrtcResult};

use crate::arch::Arch;
use crate::library::{Libraries, LibraryName, Missing};

/// Functions that are called here.
const SYMBOLS: &[&str] = &[
    "nvrtcVersion",
    "nvrtcCreateProgram",
    "nvrtcDestroyProgram",
    "nvrtcCompileProgram",
    "nvrtcGetProgramLogSize",
    "nvrtcGetProgramLog",
    "nvrtcGetCUBINSize",
    "nvrtcGetCUBIN",
    "nvrtcGetErrorString",
];

/// What every kernel is compiled with, besides its architecture.
pub(crate) const OPTIONS: &[&str] = &["--std=c++17", "--minimal"];

/// What the compiler said instead of giving machine code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unmade(pub(crate) String);

/// The compiler of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nvrtc {
    major: i32,
    minor: i32,
}

impl Nvrtc {
    /// The compiler, or why there is none.
    pub(crate) fn find(libraries: &Libraries) -> Result<Self, Missing> {
        static FOUND: OnceLock<Result<(i32, i32), Missing>> = OnceLock::new();
        if let Some(why) = libraries.why_not(LibraryName::Nvrtc) {
            return Err(why);
        }
        let (major, minor) = FOUND.get_or_init(look_up).clone()?;
        Ok(Self { major, minor })
    }

    /// Name and version: part of the key of what it makes.
    pub(crate) fn identity(self) -> String {
        format!("nvrtc {}.{}", self.major, self.minor)
    }

    /// A cubin, or the compiler's log. Several threads may compile at once.
    pub(crate) fn compile(self, text: &str, arch: Arch) -> Result<Vec<u8>, Unmade> {
        let source = CString::new(text).map_err(|_| Unmade("the text has a NUL".into()))?;
        let program = Program::new(&source)?;
        let arch = format!("--gpu-architecture={arch}");
        let options: Vec<CString> = std::iter::once(arch.as_str())
            .chain(OPTIONS.iter().copied())
            .filter_map(|it| CString::new(it).ok())
            .collect();
        let pointers: Vec<*const c_char> = options.iter().map(|it| it.as_ptr()).collect();
        // SAFETY: the program is alive, and the options live until the call is over.
        let status = unsafe {
            sys::nvrtcCompileProgram(program.0, pointers.len() as c_int, pointers.as_ptr())
        };
        if status != nvrtcResult::NVRTC_SUCCESS {
            return Err(Unmade(format!("{status:?}\n{}", program.log())));
        }
        program.cubin()
    }
}

fn look_up() -> Result<(i32, i32), Missing> {
    // SAFETY: the library is in the process already.
    let library = unsafe {
        if !sys::is_culib_present() {
            return Err(Missing::Nameless);
        }
        sys::culib()
    };
    for symbol in SYMBOLS {
        // SAFETY: the symbol is only looked up, not called.
        if unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) }.is_err() {
            return Err(Missing::TooOld { symbol });
        }
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the pointers are valid for writes.
    let status = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    match status {
        nvrtcResult::NVRTC_SUCCESS => Ok((major, minor)),
        other => Err(Missing::Refused { status: format!("{other:?}") }),
    }
}

/// A program of the compiler; destroyed with the value.
struct Program(sys::nvrtcProgram);

impl Program {
    fn new(source: &CString) -> Result<Self, Unmade> {
        let mut program = ptr::null_mut();
        // SAFETY: the source ends with NUL; there are no headers.
        let status = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                source.as_ptr(),
                c"calor.cu".as_ptr(),
                0,
                ptr::null(),
                ptr::null(),
            )
        };
        match status {
            nvrtcResult::NVRTC_SUCCESS => Ok(Self(program)),
            other => Err(Unmade(format!("{other:?}"))),
        }
    }

    fn log(&self) -> String {
        let mut len = 0;
        // SAFETY: the program is alive.
        if unsafe { sys::nvrtcGetProgramLogSize(self.0, &raw mut len) }
            != nvrtcResult::NVRTC_SUCCESS
        {
            return String::new();
        }
        let mut log = vec![0_u8; len];
        // SAFETY: the buffer is as long as the log.
        unsafe { sys::nvrtcGetProgramLog(self.0, log.as_mut_ptr().cast()) };
        String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned()
    }

    fn cubin(&self) -> Result<Vec<u8>, Unmade> {
        let mut len = 0;
        // SAFETY: the program is alive.
        let status = unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut len) };
        if status != nvrtcResult::NVRTC_SUCCESS || len == 0 {
            return Err(Unmade(format!("there is no machine code: {status:?}")));
        }
        let mut cubin = vec![0_u8; len];
        // SAFETY: the buffer is as long as the code.
        let status = unsafe { sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast()) };
        match status {
            nvrtcResult::NVRTC_SUCCESS => Ok(cubin),
            other => Err(Unmade(format!("{other:?}"))),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program is alive and not used after this.
        unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

/// The compiler that tests are told of, if they are.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test is told here where NVRTC is")]
pub(crate) fn of_tests() -> Option<Nvrtc> {
    use crate::library::SearchPath;
    let folder = std::env::var("CALOR_NVRTC").ok();
    let folder = folder.and_then(|it| std::path::Path::new(&it).parent().map(Into::into));
    let path = SearchPath { folders: folder.into_iter().collect() };
    Nvrtc::find(&Libraries::find(&[LibraryName::Nvrtc], &path)).ok()
}
