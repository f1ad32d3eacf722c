//! The devices of this build: the only place that names them, and where a wish becomes one.

use std::str::FromStr;

use calor_device::{Device, Driver};
use calor_device_cpu::CpuDriver;

use crate::exit::{Exit, Failure};

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// A GPU through WebGPU.
    Wgpu,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Cpu, Self::Cuda, Self::Wgpu];

    /// As users write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
        }
    }
}

/// Kinds that this build can drive.
pub(crate) static PRESENT: &[Kind] = &[Kind::Cpu];

/// What the user asked for: one kind, or the first of several that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// This one, never another.
    Exactly(Kind),
    /// The first of these; a choice that the user wrote down.
    FirstOf(Vec<Kind>),
}

impl FromStr for Wish {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        let kind = |name: &str| {
            let found = Kind::ALL.into_iter().find(|it| it.name() == name.trim());
            found.ok_or_else(|| UnknownDevice { name: name.trim().to_owned() })
        };
        match text.split(',').map(kind).collect::<Result<Vec<_>, _>>()?.as_slice() {
            [one] => Ok(Self::Exactly(*one)),
            several => Ok(Self::FirstOf(several.to_vec())),
        }
    }
}

/// A name that is no device's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no device is called `{name}`; there are cpu, cuda and wgpu")]
pub(crate) struct UnknownDevice {
    name: String,
}

/// Nothing of what was wished for is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoDevice {
    wish: Wish,
    present: Vec<Kind>,
}

impl From<NoDevice> for Failure {
    fn from(err: NoDevice) -> Self {
        let names =
            |kinds: &[Kind]| kinds.iter().map(|it| it.name()).collect::<Vec<_>>().join(", ");
        let wished = match &err.wish {
            Wish::Exactly(kind) => kind.name().to_owned(),
            Wish::FirstOf(kinds) => names(kinds),
        };
        let there = names(&err.present);
        Self::new(Exit::Environment, format!("this build has no device `{wished}`"))
            .why("nothing is run on another device than the one asked for")
            .hint(format!("it has: {there}; choose one with `--device`"))
    }
}

/// `FirstOf` is a choice that the user wrote down; `Exactly` is never widened.
pub(crate) fn resolve(wish: &Wish, present: &[Kind]) -> Result<Kind, NoDevice> {
    let found = match wish {
        Wish::Exactly(kind) => present.contains(kind).then_some(*kind),
        Wish::FirstOf(kinds) => kinds.iter().copied().find(|it| present.contains(it)),
    };
    found.ok_or_else(|| NoDevice { wish: wish.clone(), present: present.to_vec() })
}

/// The processor, for benchmarks that open it themselves.
pub(crate) fn cpu_driver(threads: std::num::NonZeroUsize) -> CpuDriver {
    CpuDriver { threads: threads.get(), level: None, memory_bytes: None, profile: None }
}

/// Opens what the user asked for.
///
/// # Errors
/// When it is not there or does not open.
pub(crate) fn open(
    wish: &Wish,
    threads: usize,
    memory_bytes: Option<u64>,
) -> Result<Device, Failure> {
    let driver: Box<dyn Driver> = match resolve(wish, PRESENT)? {
        Kind::Cpu => Box::new(CpuDriver { threads, level: None, memory_bytes, profile: None }),
        kind @ (Kind::Cuda | Kind::Wgpu) => {
            let present = PRESENT.to_vec();
            return Err(NoDevice { wish: Wish::Exactly(kind), present }.into());
        }
    };
    driver.open(0).map_err(|err| {
        Failure::new(Exit::Environment, "the device does not open").why(crate::exit::chain(&err))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_means_exactly() {
        let cpu = &[Kind::Cpu];
        assert_eq!(resolve(&"cuda,cpu".parse().unwrap(), cpu), Ok(Kind::Cpu));
        assert!(resolve(&"cuda".parse().unwrap(), cpu).is_err());
        let failure = Failure::from(resolve(&Wish::Exactly(Kind::Cuda), cpu).unwrap_err());
        assert_eq!(failure.exit, Exit::Environment);
        assert!(failure.to_string().contains("this build has no device `cuda`"), "{failure}");
        assert!("tpu".parse::<Wish>().is_err());
    }
}
