//! Files that a GPU reads by itself: GPUDirect Storage through cuFile.
//!
//! Bytes go from the disk to the device without passing the processor's memory where the kernel has
//! the module nvidia-fs; without it the library copies them itself, which is no faster than what
//! we do and is left alone unless it is asked for.

use std::ffi::{c_int, c_uint, c_void};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use calor_device::DeviceError;
use libloading::Library;
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};
use thiserror::Error;

use crate::api::CUdeviceptr;
use crate::device::KIND;
use crate::library::{Libraries, LibraryName, Missing, SearchPath};

/// When files are read straight into the device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectStorage {
    /// Where the system has nvidia-fs, and for what is not in the page cache: out of that the
    /// other way is faster than disks are.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Wherever cuFile is, also where it copies through memory of its own. For tests.
    Always,
}

/// Bytes that one thread reads at a time: enough for a disk, and shares for several threads.
const SHARE_BYTES: u64 = 4 << 20;
/// Most threads that read.
const THREADS_MAX: usize = 8;
/// Bytes between places where the page cache is looked into.
const LOOK_BYTES: u64 = 16 << 20;

/// What cuFile's functions return: its own code, and the driver's.
#[repr(C)]
#[derive(Clone, Copy)]
struct Status {
    error: c_int,
    driver: c_int,
}

impl Status {
    fn done(self, call: &'static str) -> Result<(), Unread> {
        let Self { error, driver } = self;
        if error == 0 { Ok(()) } else { Err(Unread::Refused { call, error, driver }) }
    }
}

/// Why a file cannot be read so.
#[derive(Debug, Error)]
enum Unread {
    /// There is no library.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// It does not open, or lacks a function.
    #[error(transparent)]
    Library(#[from] libloading::Error),
    /// What one of its functions said.
    #[error("{call} says {error}, the driver {driver}")]
    Refused {
        /// The function.
        call: &'static str,
        /// The library's code.
        error: c_int,
        /// The driver's.
        driver: c_int,
    },
    /// The file cannot be opened or read.
    #[error(transparent)]
    System(#[from] io::Error),
    /// It is shorter than what is to be read.
    #[error("the file ends {left} bytes too early")]
    Ended {
        /// What is not there.
        left: u64,
    },
}

impl From<&Unread> for DeviceError {
    fn from(why: &Unread) -> Self {
        Self::File { kind: KIND, why: why.to_string() }
    }
}

/// `CUfileDescr_t` for a file descriptor of the system.
#[repr(C)]
struct Description {
    kind: c_uint,
    handle: DescriptionHandle,
    operations: *const c_void,
}

#[repr(C)]
union DescriptionHandle {
    descriptor: RawFd,
    /// As large as the library's.
    pointer: *mut c_void,
}

/// `CU_FILE_HANDLE_TYPE_OPAQUE_FD`.
const OPAQUE_DESCRIPTOR: c_uint = 1;

type Registered = *mut c_void;

/// The library's functions that are called here.
struct CuFile {
    register: unsafe extern "C" fn(*mut Registered, *mut Description) -> Status,
    deregister: unsafe extern "C" fn(Registered),
    read: unsafe extern "C" fn(Registered, *mut c_void, usize, i64, i64) -> isize,
}

impl CuFile {
    /// Opens the library's driver, once for the process. A context is current.
    fn open(place: &Path) -> Result<Self, Unread> {
        // SAFETY: it is in the process already, so that nothing of it runs now.
        let library = unsafe { Library::new(place) }?;
        // The functions are used as long as the process lives.
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: the types are those of cufile.h, which has kept them since its first version.
        let (open, register, deregister, read) = unsafe {
            (
                *symbol::<unsafe extern "C" fn() -> Status>(library, "cuFileDriverOpen")?,
                *symbol(library, "cuFileHandleRegister")?,
                *symbol(library, "cuFileHandleDeregister")?,
                *symbol(library, "cuFileRead")?,
            )
        };
        // SAFETY: it takes nothing, and may be called at any time.
        unsafe { open() }.done("cuFileDriverOpen")?;
        Ok(Self { register, deregister, read })
    }
}

/// # Safety
/// The function has the type `T`.
unsafe fn symbol<T>(
    library: &'static Library,
    name: &str,
) -> Result<libloading::Symbol<'static, T>, libloading::Error> {
    // SAFETY: the caller's promise.
    unsafe { library.get(name.as_bytes()) }
}

/// The way of a device's files.
pub(crate) struct Files {
    mode: DirectStorage,
    place: Result<PathBuf, Missing>,
}

/// A part of a file and its address on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) at: u64,
    pub(crate) to: CUdeviceptr,
    pub(crate) len: u64,
}

impl Files {
    /// Looks for the library. Nothing of it runs before a file is read.
    pub(crate) fn find(mode: DirectStorage, path: &SearchPath) -> Self {
        let place = match mode {
            DirectStorage::Off => Err(Missing::NotAsked),
            DirectStorage::Auto => {
                Libraries::find(&[LibraryName::Cufile], path).place(LibraryName::Cufile)
            }
            DirectStorage::Always => Libraries::find_without_module(LibraryName::Cufile, path),
        };
        Self { mode, place }
    }

    /// Whether bytes of a file are better read so.
    pub(crate) fn are_for(&self, file: &File, at: u64, len: u64) -> bool {
        let is_wanted = match self.mode {
            DirectStorage::Off => false,
            DirectStorage::Always => true,
            DirectStorage::Auto => self.place.is_ok() && !is_cached(file, at, len),
        };
        is_wanted && self.place.is_ok()
    }

    /// Reads parts of a file, by several threads; `enter` makes the device's context a thread's.
    ///
    /// # Safety
    /// Every part's address has room for it, and nothing uses that until this returns.
    pub(crate) unsafe fn read(
        &self,
        file: &File,
        parts: &[Part],
        enter: &(dyn Fn() -> Result<(), DeviceError> + Sync),
    ) -> Result<(), DeviceError> {
        let failed = |why: Unread| DeviceError::from(&why);
        let place = self.place.as_ref().map_err(|why| failed(why.clone().into()))?;
        let library = of_process(place)?;
        let own = for_device(file).map_err(|err| failed(err.into()))?;
        let registered = OpenFile::new(library, own.as_ref().unwrap_or(file)).map_err(failed)?;
        let shares: Vec<Part> = parts.iter().flat_map(|it| shares_of(*it)).collect();
        let left = Mutex::new(shares.iter());
        let run = || {
            enter()?;
            loop {
                let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(share) = next else { return Ok(()) };
                // SAFETY: the caller's promise, for a share of a part.
                unsafe { registered.read(*share) }.map_err(failed)?;
            }
        };
        std::thread::scope(|scope| {
            let others = THREADS_MAX.min(shares.len()).saturating_sub(1);
            let threads: Vec<_> = (0..others).map(|_| scope.spawn(run)).collect();
            let own = run();
            let joined = threads.into_iter().map(|it| it.join().expect("no panic"));
            joined.fold(own, Result::and)
        })
    }
}

/// The library, whose driver is opened once; why it does not open is kept too.
fn of_process(place: &Path) -> Result<&'static CuFile, &'static Unread> {
    static FOUND: OnceLock<Result<CuFile, Unread>> = OnceLock::new();
    FOUND.get_or_init(|| CuFile::open(place)).as_ref()
}

/// A file that the library knows; forgotten with the value.
struct OpenFile {
    library: &'static CuFile,
    handle: Registered,
}

// SAFETY: the library lets several threads read by one handle.
unsafe impl Sync for OpenFile {}

impl OpenFile {
    fn new(library: &'static CuFile, file: &File) -> Result<Self, Unread> {
        let mut handle = ptr::null_mut();
        let mut description = Description {
            kind: OPAQUE_DESCRIPTOR,
            handle: DescriptionHandle { descriptor: file.as_raw_fd() },
            operations: ptr::null(),
        };
        // SAFETY: the pointers are valid, and the file is open for as long as the handle is used.
        unsafe { (library.register)(&raw mut handle, &raw mut description) }
            .done("cuFileHandleRegister")?;
        Ok(Self { library, handle })
    }

    /// # Safety
    /// The part's address has room for it, and nothing else uses that.
    unsafe fn read(&self, part: Part) -> Result<(), Unread> {
        let Part { at, to, len } = part;
        let mut done = 0;
        while done < len {
            let base = ptr::without_provenance_mut(to as usize);
            let (left, from, into) = ((len - done) as usize, (at + done) as i64, done as i64);
            // SAFETY: the caller's promise; the handle is alive.
            let got = unsafe { (self.library.read)(self.handle, base, left, from, into) };
            match u64::try_from(got) {
                Ok(0) => return Err(Unread::Ended { left: len - done }),
                Ok(got) => done += got,
                Err(_) if got == -1 => return Err(io::Error::last_os_error().into()),
                Err(_) => {
                    let error = c_int::try_from(got).unwrap_or(c_int::MIN);
                    return Err(Unread::Refused { call: "cuFileRead", error, driver: 0 });
                }
            }
        }
        Ok(())
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // SAFETY: nobody uses the handle after this.
        unsafe { (self.library.deregister)(self.handle) };
    }
}

/// The same file opened past the page cache; none where its file system has no such way, and the
/// library does what it can with the file as it is.
fn for_device(file: &File) -> io::Result<Option<File>> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::DIRECT.bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(own) => Ok(Some(own)),
        Err(err) if err.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(None),
        Err(err) => Err(err),
    }
}

fn shares_of(part: Part) -> impl Iterator<Item = Part> {
    let Part { at, to, len } = part;
    let share = move |first: u64| {
        let len = SHARE_BYTES.min(len - first);
        Part { at: at + first, to: to + first, len }
    };
    (0..len).step_by(SHARE_BYTES as usize).map(share)
}

/// Whether bytes of a file lie in the page cache, as far as a look here and there can tell.
fn is_cached(file: &File, at: u64, len: u64) -> bool {
    let mut looks = (at..at + len).step_by(LOOK_BYTES as usize).chain([at + len.saturating_sub(1)]);
    looks.all(|place| {
        let mut byte = [0];
        let into = &mut [io::IoSliceMut::new(&mut byte)];
        matches!(rustix::io::preadv2(file, into, place, ReadWriteFlags::NOWAIT), Ok(1))
    })
}

#[test]
fn shares_are_the_whole_part() {
    for len in [0, 1, SHARE_BYTES, 3 * SHARE_BYTES + 5] {
        let mut end = 100;
        for Part { at, to, len } in shares_of(Part { at: 100, to: 7100, len }) {
            assert!(at == end && to == at + 7000 && 0 < len && len <= SHARE_BYTES);
            end = at + len;
        }
        assert_eq!(end, 100 + len);
    }
}

#[test]
fn a_file_that_was_just_written_is_in_the_page_cache() {
    let path = std::env::temp_dir().join(format!("calor-cached-{}", std::process::id()));
    std::fs::write(&path, vec![7; 40 << 20]).expect("a file");
    let file = File::open(&path).expect("the file");
    assert!(is_cached(&file, 0, 40 << 20));
    assert!(!is_cached(&file, 0, 41 << 20), "there is nothing behind its end");
    file.sync_all().expect("it is on the disk");
    let advice = rustix::fs::Advice::DontNeed;
    rustix::fs::fadvise(&file, 0, None, advice).expect("the system takes advice");
    let mut byte = [0];
    let into = &mut [io::IoSliceMut::new(&mut byte)];
    // A file system that lies in memory forgets nothing, whatever it is advised.
    if rustix::io::preadv2(&file, into, 20 << 20, ReadWriteFlags::NOWAIT).is_err() {
        assert!(!is_cached(&file, 0, 40 << 20));
    }
    std::fs::remove_file(&path).expect("the file");
}

#[test]
fn without_the_library_a_file_is_refused() {
    let files = Files::find(DirectStorage::Off, &SearchPath::default());
    let file = File::open("/proc/self/exe").expect("this program");
    assert!(!files.are_for(&file, 0, 1 << 20));
    // SAFETY: there is no library, so nothing is written.
    let refused = unsafe { files.read(&file, &[], &|| Ok(())) };
    assert!(matches!(refused, Err(DeviceError::File { .. })), "{refused:?}");
}
