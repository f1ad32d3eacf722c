//! Opens GPUs.

use std::sync::Arc;

use calor_device::{Claim, Device, DeviceError, Driver, Profile, Signature};

use crate::api::{self, Attribute, CUdevice, Failed};
use crate::arch::Arch;
use crate::claims::{claims, without_fp8};
use crate::compile::CudaCompiler;
use crate::device::{Context, KIND, Parts, Shared, Stream};
use crate::files::{DirectStorage, Files};
use crate::gemm::Blas;
use crate::library::{Libraries, LibraryName, Missing, SearchPath};
use crate::memory::CudaMemory;
use crate::nvrtc::Nvrtc;
use crate::queue::CudaQueue;

/// Oldest architecture that kernels are written for.
const OLDEST: (i32, i32) = (7, 5);

/// What a driver is told.
#[derive(Clone, Debug, Default)]
pub struct CudaOptions {
    /// Where libraries are looked for, besides the loader's own places.
    pub path: SearchPath,
    /// Most bytes of buffers; what the GPU has if nothing is said.
    pub memory_bytes: Option<u64>,
    /// Whether programs are launched step by step instead of as captured graphs.
    pub eager: bool,
    /// Leave cuBLASLt alone: products run on generated kernels.
    pub without_vendor_library: bool,
    /// Compile for the plain architecture: nothing that is an architecture's own is used, such as
    /// the warpgroup products and the copy engine's forms of sm_90a.
    pub plain_arch: bool,
    /// Make the library's handle on a thread of its own when a device is opened: for a process that
    /// will load programs with products.
    pub early_library: bool,
    /// When files are read straight into the device's memory.
    pub direct_storage: DirectStorage,
    /// Claim no products in fp8.
    pub without_fp8: bool,
    /// The compiler whose kept kernels are used where there is none here.
    pub kept_producer: Option<String>,
    /// Where times of steps go, if anywhere. A device with one does not capture.
    pub profile: Option<Profile>,
}

/// The machine's NVIDIA GPUs.
#[derive(Clone, Debug)]
pub struct CudaDriver {
    options: CudaOptions,
    libraries: Libraries,
}

impl CudaDriver {
    /// Looks for the libraries. That none is there is said when a device is asked for.
    pub fn new(options: CudaOptions) -> Self {
        let mut names = vec![LibraryName::Driver, LibraryName::Nvrtc];
        if !options.without_vendor_library {
            names.push(LibraryName::CublasLt);
        }
        let libraries = Libraries::find(&names, &options.path);
        Self { options, libraries }
    }

    /// What it was told.
    pub fn options(&self) -> &CudaOptions {
        &self.options
    }

    /// What was found.
    pub fn libraries(&self) -> &Libraries {
        &self.libraries
    }

    /// The CUDA version of the machine's driver, as in (13, 0).
    ///
    /// # Errors
    /// [`DeviceError::Absent`] with the reason.
    pub fn version(&self) -> Result<(u32, u32), DeviceError> {
        self.start()?;
        let version = api::version().map_err(|err| absent(err.text()))?.unsigned_abs();
        Ok((version / 1000, version % 1000 / 10))
    }

    /// The model of a GPU, as its driver names it. Nothing is opened.
    ///
    /// # Errors
    /// [`DeviceError::Absent`] with the reason.
    pub fn name(&self, ordinal: usize) -> Result<String, DeviceError> {
        self.start()?;
        let name = api::device(ordinal).and_then(api::device_name);
        name.map_err(|err| absent(err.text()))
    }

    /// What a GPU would claim. Nothing is opened.
    ///
    /// # Errors
    /// [`DeviceError::Absent`] with the reason.
    pub fn claims(&self, ordinal: usize) -> Result<&'static [Claim], DeviceError> {
        self.start()?;
        let device = api::device(ordinal).map_err(|err| absent(err.text()))?;
        Ok(self.claims_of(self.arch(device)?))
    }

    fn claims_of(&self, arch: Arch) -> &'static [Claim] {
        let all = claims(arch, self.libraries.has(LibraryName::CublasLt));
        if self.options.without_fp8 { without_fp8(all) } else { all }
    }

    /// What code for a GPU is compiled for.
    fn arch(&self, device: CUdevice) -> Result<Arch, DeviceError> {
        let attribute =
            |it| api::device_attribute(device, it).map_err(|err: Failed| absent(err.text()));
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if (major, minor) < OLDEST {
            let (a, b) = OLDEST;
            let why = format!("compute capability {major}.{minor} is older than {a}.{b}");
            return Err(absent(why));
        }
        let own = Arch::of_device(major.unsigned_abs(), minor.unsigned_abs());
        Ok(if self.options.plain_arch { own.without_features() } else { own })
    }

    fn start(&self) -> Result<(), DeviceError> {
        if let Some(why) = self.libraries.why_not(LibraryName::Driver) {
            return Err(absent(format!("the NVIDIA driver is not installed: {why}")));
        }
        api::load().map_err(|why| absent(format!("the driver cannot be used: {why}")))
    }
}

fn absent(why: String) -> DeviceError {
    DeviceError::Absent { kind: KIND, why }
}

impl Driver for CudaDriver {
    fn count(&self) -> Result<usize, DeviceError> {
        self.start()?;
        api::device_count().map_err(|err| absent(err.text()))
    }

    fn open(&self, ordinal: usize) -> Result<Device, DeviceError> {
        let count = self.count()?;
        if count <= ordinal {
            return Err(absent(match count {
                0 => "the driver is here, and there is no GPU".into(),
                1 => format!("there is one GPU, number 0, and none of number {ordinal}"),
                _ => format!("there are {count} GPUs, numbers 0 to {}", count - 1),
            }));
        }
        self.open_it(ordinal)
    }
}

impl CudaDriver {
    fn open_it(&self, ordinal: usize) -> Result<Device, DeviceError> {
        let failed = |err: Failed| absent(err.text());
        let device = api::device(ordinal).map_err(failed)?;
        let attribute = |it| api::device_attribute(device, it).map_err(failed);
        let sm_count = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let arch = self.arch(device)?;
        let model = api::device_name(device).map_err(failed)?;
        let context = Context::open(device).map_err(failed)?;
        let (free_bytes, _) = api::memory_info().map_err(failed)?;
        let limit_bytes = self.options.memory_bytes.unwrap_or(free_bytes).min(free_bytes);
        let nvrtc = Nvrtc::find(&self.libraries);
        let mut blas = Blas::find(&self.libraries);
        if let Ok(blas) = &mut blas
            && self.options.early_library
        {
            blas.start(&context);
        }
        let producer = match (&nvrtc, &self.options.kept_producer) {
            (Ok(nvrtc), _) => nvrtc.identity(),
            (Err(_), Some(kept)) => kept.clone(),
            (Err(_), None) => "no compiler".into(),
        };
        let signature = Signature {
            kind: KIND,
            model: model.clone(),
            arch: arch.to_string(),
            versions: self.versions(&producer, &blas)?,
            memory_bytes: limit_bytes,
            parallel_count: sm_count.unsigned_abs(),
        };
        let parts = Parts {
            stream: Stream::new(0).map_err(failed)?,
            loads: Stream::new(0).map_err(failed)?,
            context,
            arch,
            producer,
            model,
            sm_count: sm_count.unsigned_abs(),
            limit_bytes,
            nvrtc,
            blas,
            capture: !self.options.eager,
            files: Files::find(self.options.direct_storage, &self.options.path),
        };
        let shared = Arc::new(Shared::new(parts).map_err(failed)?);
        let profile = self.options.profile.clone();
        Ok(Device {
            memory: Box::new(CudaMemory(Arc::clone(&shared))),
            compiler: Arc::new(CudaCompiler(Arc::clone(&shared))),
            queue: Box::new(CudaQueue { shared, profile }),
            claims: self.claims_of(arch),
            signature,
        })
    }

    fn versions(
        &self,
        producer: &str,
        blas: &Result<Blas, Missing>,
    ) -> Result<Vec<(String, String)>, DeviceError> {
        let (major, minor) = self.version()?;
        let mut versions = vec![
            ("calor-device-cuda".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("driver".to_owned(), format!("{major}.{minor}")),
            ("compiler".to_owned(), producer.to_owned()),
        ];
        if let Ok(blas) = blas {
            versions.push(("products".to_owned(), blas.identity()));
        }
        Ok(versions)
    }
}

#[test]
fn a_machine_without_a_gpu_says_why() {
    let driver = CudaDriver::new(CudaOptions::default());
    let why = match driver.open(9999) {
        Err(DeviceError::Absent { kind: "cuda", why }) => why,
        other => panic!("{other:?}"),
    };
    assert!(why.contains("driver") || why.contains("GPU"), "{why}");
}
