//! What of CUDA is here: its libraries, the driver's version, the GPUs. No GPU is opened.

use calor_device::{DeviceError, Driver};
use calor_device_cuda::{CudaOptions, Libraries, LibraryName};
use serde_json::{Value as Json, json};

use super::{Finding, precisions};
use crate::{devices, environment::Environment};

/// What was looked at.
pub(super) struct Section {
    libraries: Libraries,
    /// The driver's CUDA version and the GPUs, or why there are none.
    machine: Result<((u32, u32), Vec<Gpu>), DeviceError>,
    /// What is wrong with the variable that says how weights are read, if something is.
    storage: Option<String>,
}

/// A GPU that was not opened.
struct Gpu {
    name: String,
    /// What models can run in on it.
    precisions: Vec<&'static str>,
}

impl Section {
    /// Looks for libraries and asks the driver.
    pub(super) fn look(environment: &Environment) -> Self {
        let libraries = Libraries::find(&LibraryName::ALL, &devices::cuda_path(environment));
        let driver = devices::cuda_driver(environment, CudaOptions::default());
        let machine = driver.version().and_then(|version| {
            // No GPU is an answer of the driver, told from one that is broken by its version.
            let count = driver.count()?;
            let gpu = |it| {
                let precisions = precisions(driver.claims(it)?);
                Ok::<_, DeviceError>(Gpu { name: driver.name(it)?, precisions })
            };
            Ok((version, (0..count).map(gpu).collect::<Result<_, _>>()?))
        });
        let storage = devices::direct_storage(environment).err().map(|it| it.reason());
        Self { libraries, machine, storage }
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut out = Vec::new();
        for library in self.libraries.rows() {
            let title = library.name.title();
            out.push(match &library.place {
                Ok(path) => Finding::good(title, path.display().to_string()),
                Err(why) => {
                    let found = format!("not found ({why})");
                    Finding::bad(title, found, library.name.cost_of_absence())
                }
            });
        }
        out.extend(
            self.storage.as_ref().map(|why| {
                Finding::bad("direct storage", why.clone(), "`--device cuda` is refused")
            }),
        );
        out.push(match &self.machine {
            Ok((_, gpus)) if gpus.is_empty() => Finding::bad(
                "GPUs",
                "the driver is here, and there is no GPU",
                "`--device cuda` is refused; `--device cpu` works",
            ),
            Ok(((major, minor), gpus)) => {
                let numbered = gpus.iter().enumerate().map(|(at, Gpu { name, precisions })| {
                    format!("cuda:{at} {name}: {}", precisions.join(", "))
                });
                let gpus = numbered.collect::<Vec<_>>().join("; ");
                Finding::good("GPUs", format!("{gpus} (driver for CUDA {major}.{minor})"))
            }
            Err(why) => Finding::bad(
                "GPUs",
                why.to_string(),
                "`--device cuda` is refused; `--device cpu` works",
            ),
        });
        out
    }

    pub(super) fn to_json(&self) -> Json {
        let libraries: Vec<Json> = self
            .libraries
            .rows()
            .iter()
            .map(|it| {
                let (path, why) = match &it.place {
                    Ok(path) => (Some(path.display().to_string()), None),
                    Err(why) => (None, Some(why.to_string())),
                };
                let cost = why.as_ref().map(|_| it.name.cost_of_absence());
                json!({ "name": it.name.title(), "path": path, "why": why, "cost": cost })
            })
            .collect();
        let (version, gpus, why) = match &self.machine {
            Ok(((major, minor), gpus)) => (Some(format!("{major}.{minor}")), &gpus[..], None),
            Err(why) => (None, &[][..], Some(why.to_string())),
        };
        let names: Vec<&str> = gpus.iter().map(|it| &*it.name).collect();
        let precisions: Vec<&[&str]> = gpus.iter().map(|it| &*it.precisions).collect();
        json!({
            "libraries": libraries, "driver_version": version, "gpus": names,
            "precisions": precisions, "why": why,
        })
    }
}
