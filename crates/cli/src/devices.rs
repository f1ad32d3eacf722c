//! The devices of this build: the only place that names them, and where a wish becomes one.

use std::fmt;
use std::str::FromStr;

use calor_device::{Device, DeviceError, Driver, Profile};
use calor_device_cpu::CpuDriver;
use calor_device_cuda::{CudaDriver, CudaOptions, DirectStorage, SearchPath};

use crate::environment::Environment;
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
pub(crate) static PRESENT: &[Kind] = &[Kind::Cpu, Kind::Cuda];

/// One machine of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    kind: Kind,
    /// Its number; the first if none was given.
    ordinal: Option<usize>,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ordinal {
            Some(ordinal) => write!(f, "{}:{ordinal}", self.kind.name()),
            None => f.write_str(self.kind.name()),
        }
    }
}

/// What the user asked for: one machine, or the first of several that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// This one, never another.
    Exactly(Machine),
    /// The first of these; a choice that the user wrote down.
    FirstOf(Vec<Machine>),
}

impl Wish {
    /// The first machine of a kind.
    pub(crate) fn first(kind: Kind) -> Self {
        Self::Exactly(Machine { kind, ordinal: None })
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(machine) => machine.fmt(f),
            Self::FirstOf(machines) => {
                for (place, machine) in machines.iter().enumerate() {
                    let comma = if place == 0 { "" } else { "," };
                    write!(f, "{comma}{machine}")?;
                }
                Ok(())
            }
        }
    }
}

impl Wish {
    /// The number of the NVIDIA GPU that is wished for; none for anything else.
    pub(crate) fn gpu_number(&self) -> Option<u32> {
        match self {
            Self::Exactly(it) if it.kind == Kind::Cuda => {
                u32::try_from(it.ordinal.unwrap_or(0)).ok()
            }
            Self::Exactly(_) | Self::FirstOf(_) => None,
        }
    }
}

/// Refuses a GPU that is named twice: it would hold everything twice. The processor may be.
///
/// # Errors
/// In its name.
pub(crate) fn check_distinct(wishes: &[Wish]) -> Result<(), Failure> {
    for (place, wish) in wishes.iter().enumerate() {
        let number = |it: &Wish| match it {
            Wish::Exactly(it) if it.kind != Kind::Cpu => {
                Some((it.kind.name(), it.ordinal.unwrap_or(0)))
            }
            Wish::Exactly(_) | Wish::FirstOf(_) => None,
        };
        let own = number(wish);
        if own.is_some() && wishes[..place].iter().any(|it| number(it) == own) {
            return Err(Failure::usage(format!("`{wish}` is named twice"))
                .why("a device holds the models once"));
        }
    }
    Ok(())
}

impl FromStr for Wish {
    type Err = NotADevice;

    fn from_str(text: &str) -> Result<Self, NotADevice> {
        let machines: Vec<Machine> =
            text.split(',').map(|it| machine(it.trim())).collect::<Result<_, _>>()?;
        match machines[..] {
            [one] => Ok(Self::Exactly(one)),
            _ => Ok(Self::FirstOf(machines)),
        }
    }
}

fn machine(text: &str) -> Result<Machine, NotADevice> {
    let (name, number) = match text.split_once(':') {
        Some((name, number)) => (name, Some(number)),
        None => (text, None),
    };
    let kind = Kind::ALL.into_iter().find(|it| it.name() == name);
    let kind = kind.ok_or_else(|| NotADevice::Name { name: name.to_owned() })?;
    let ordinal = match number {
        Some(_) if kind == Kind::Cpu => return Err(NotADevice::OneProcessor),
        Some(number) if number.bytes().all(|it| it.is_ascii_digit()) => number.parse().ok(),
        Some(_) | None => None,
    };
    match (number, ordinal) {
        (Some(number), None) => {
            Err(NotADevice::Number { number: number.to_owned(), name: kind.name() })
        }
        (_, ordinal) => Ok(Machine { kind, ordinal }),
    }
}

/// A word that is no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotADevice {
    /// No kind has this name.
    #[error("no device is called `{name}`; there are cpu, cuda and wgpu")]
    Name { name: String },
    /// What stands behind the colon.
    #[error("`{number}` is not the number of a GPU; write {name}:0 for the first")]
    Number { number: String, name: &'static str },
    /// The processor has no numbers.
    #[error("the processor has no number; write cpu, and `--threads` for a part of it")]
    OneProcessor,
}

/// Why one machine does not open.
#[derive(Debug)]
enum Refusal {
    /// This build cannot drive it.
    NotBuilt,
    /// It is not here.
    Absent(String),
    /// There are machines of its kind, and fewer than its number says.
    Number { count: usize },
    /// It is here and does not open.
    Broken(DeviceError),
}

/// The processor, for benchmarks that open it themselves.
pub(crate) fn cpu_driver(threads: std::num::NonZeroUsize) -> CpuDriver {
    CpuDriver { threads: threads.get(), level: None, memory_bytes: None, profile: None }
}

/// Where NVIDIA's libraries are looked for.
pub(crate) fn cuda_path(environment: &Environment) -> SearchPath {
    SearchPath::usual(&environment.cuda_toolkits, &environment.python_environments)
}

/// When GPUs read weights by themselves: what `CALOR_DIRECT_STORAGE` says.
///
/// # Errors
/// For a word that says nothing.
pub(crate) fn direct_storage(environment: &Environment) -> Result<DirectStorage, Failure> {
    match environment.direct_storage.as_deref() {
        None | Some("" | "auto") => Ok(DirectStorage::Auto),
        Some("off") => Ok(DirectStorage::Off),
        Some("always") => Ok(DirectStorage::Always),
        Some(word) => {
            let what =
                format!("CALOR_DIRECT_STORAGE is `{word}`, which is not auto, off or always");
            Err(Failure::usage(what))
        }
    }
}

/// NVIDIA's GPUs, with libraries from where they usually are.
pub(crate) fn cuda_driver(environment: &Environment, options: CudaOptions) -> CudaDriver {
    CudaDriver::new(CudaOptions { path: cuda_path(environment), ..options })
}

/// Opens what the user asked for, and nothing else. Of a list it is the first that is there; one
/// that is there and does not open ends the search. Times of steps go to `profile`.
///
/// # Errors
/// When it is not there or does not open.
pub(crate) fn open(
    wish: &Wish,
    threads: usize,
    memory_bytes: Option<u64>,
    environment: &Environment,
    profile: Option<&Profile>,
) -> Result<Device, Failure> {
    let machines = match wish {
        Wish::Exactly(one) => std::slice::from_ref(one),
        Wish::FirstOf(several) => several.as_slice(),
    };
    let mut refusals = Vec::new();
    for machine in machines {
        let opened = match machine.kind {
            Kind::Cpu => {
                let profile = profile.cloned();
                let cpu = CpuDriver { threads, level: None, memory_bytes, profile };
                open_with(&cpu, *machine)
            }
            Kind::Cuda => {
                let direct_storage = direct_storage(environment)?;
                let options = CudaOptions {
                    memory_bytes,
                    early_library: true,
                    direct_storage,
                    profile: profile.cloned(),
                    ..CudaOptions::default()
                };
                open_with(&cuda_driver(environment, options), *machine)
            }
            Kind::Wgpu => Err(Refusal::NotBuilt),
        };
        match opened {
            Ok(device) => return Ok(device),
            Err(refusal @ Refusal::Broken(_)) => return Err(failure(*machine, refusal)),
            Err(refusal) => refusals.push((*machine, refusal)),
        }
    }
    Err(none_of(refusals))
}

fn open_with(driver: &dyn Driver, machine: Machine) -> Result<Device, Refusal> {
    let refusal = |err| match err {
        DeviceError::Absent { why, .. } => Refusal::Absent(why),
        err => Refusal::Broken(err),
    };
    let ordinal = machine.ordinal.unwrap_or(0);
    match driver.count().map_err(refusal)? {
        count if 0 < count && count <= ordinal => Err(Refusal::Number { count }),
        _ => driver.open(ordinal).map_err(refusal),
    }
}

/// What becomes of a wish when nothing of it is there.
fn none_of(mut refusals: Vec<(Machine, Refusal)>) -> Failure {
    if let [_] = refusals[..]
        && let Some((machine, refusal)) = refusals.pop()
    {
        return failure(machine, refusal);
    }
    let names: Vec<String> = refusals.iter().map(|it| it.0.to_string()).collect();
    let reason = |(machine, refusal): &(Machine, Refusal)| match refusal {
        Refusal::NotBuilt => format!("{machine}: not in this build"),
        Refusal::Absent(why) => format!("{machine}: {why}"),
        Refusal::Number { count } => format!("{machine}: there are {count}, counted from 0"),
        Refusal::Broken(err) => format!("{machine}: {err}"),
    };
    Failure::new(Exit::Environment, format!("none of {} is here", names.join(", ")))
        .why(refusals.iter().map(reason).collect::<Vec<_>>().join("; "))
        .hint("`calor doctor` says what is missing; `--device cpu` runs on the processor")
}

fn failure(machine: Machine, refusal: Refusal) -> Failure {
    let built = || PRESENT.iter().map(|it| it.name()).collect::<Vec<_>>().join(", ");
    match refusal {
        Refusal::NotBuilt => {
            let what = format!("this build has no device `{}`", machine.kind.name());
            Failure::new(Exit::Environment, what)
                .why("nothing is run on another device than the one asked for")
                .hint(format!("it has: {}; choose one with `--device`", built()))
        }
        Refusal::Absent(why) => {
            Failure::new(Exit::Environment, format!("there is no device `{machine}`"))
                .why(why)
                .hint("`calor doctor` says what is missing; `--device cpu` runs on the processor")
        }
        Refusal::Number { count: 1 } => {
            Failure::usage(format!("there is no device `{machine}`, only one GPU"))
                .hint(format!("use {}:0", machine.kind.name()))
        }
        Refusal::Number { count } => {
            let name = machine.kind.name();
            Failure::usage(format!("there is no device `{machine}`, only {count} GPUs"))
                .hint(format!("use one of {name}:0 to {name}:{}", count - 1))
        }
        Refusal::Broken(err) => {
            Failure::new(Exit::Environment, format!("the device `{machine}` does not open"))
                .why(crate::exit::chain(&err))
        }
    }
}

#[cfg(test)]
mod tests {
    use calor_device::null::NullDriver;

    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        match text.parse::<Wish>() {
            Ok(Wish::Exactly(one)) => assert_eq!(one.to_string(), want, "for {text}"),
            Ok(Wish::FirstOf(all)) => {
                let all: Vec<String> = all.iter().map(Machine::to_string).collect();
                assert_eq!(all.join(" then "), want, "for {text}");
            }
            Err(err) => assert!(err.to_string().contains(want), "for {text}: {err}"),
        }
    }

    #[test]
    fn a_word_for_direct_storage_means_something() {
        let said = |word: Option<&str>| {
            let direct_storage = word.map(str::to_owned);
            super::direct_storage(&Environment { direct_storage, ..Environment::default() })
        };
        for (word, want) in [
            (None, DirectStorage::Auto),
            (Some("auto"), DirectStorage::Auto),
            (Some("off"), DirectStorage::Off),
            (Some("always"), DirectStorage::Always),
        ] {
            assert_eq!(said(word).ok(), Some(want), "{word:?}");
        }
        let why = said(Some("yes")).unwrap_err().to_string();
        assert!(why.contains("`yes`") && why.contains("auto, off or always"), "{why}");
    }

    #[test]
    fn a_wish_names_machines() {
        check("cuda", "cuda");
        check("cuda:3", "cuda:3");
        check("cuda:1, cpu", "cuda:1 then cpu");
        check("tpu", "no device is called `tpu`");
        for number in ["x", "", "-1", "+1", "0x1", "99999999999999999999"] {
            check(&format!("cuda:{number}"), "write cuda:0 for the first");
        }
        check("cpu:1", "the processor has no number");
        check("cuda,", "no device is called ``");
    }

    #[track_caller]
    fn fails(wish: &str, environment: &Environment, exit: Exit, want: &str) {
        let failure = open(&wish.parse().unwrap(), 1, None, environment, None).unwrap_err();
        assert_eq!(failure.exit, exit, "{failure}");
        assert!(failure.to_string().contains(want), "{failure}");
    }

    #[test]
    fn nothing_stands_in_for_another() {
        let environment = Environment::default();
        fails("wgpu", &environment, Exit::Environment, "this build has no device `wgpu`");
        fails("wgpu,wgpu:1", &environment, Exit::Environment, "wgpu:1: not in this build");
        let device = open(&"wgpu,cpu".parse().unwrap(), 1, None, &environment, None).unwrap();
        assert_eq!(device.signature.kind, "cpu");
    }

    #[test]
    fn a_number_beyond_the_last_is_the_users_fault() {
        let null = NullDriver { claims: &[], memory_bytes: 1 };
        let machine = Machine { kind: Kind::Cuda, ordinal: Some(1) };
        let refusal = open_with(&null, machine).unwrap_err();
        let failure = failure(machine, refusal);
        assert_eq!(failure.exit, Exit::Usage, "{failure}");
        assert!(failure.to_string().contains("use cuda:0"), "{failure}");
    }

    #[test]
    fn an_absent_machine_is_the_environments_fault() {
        let machine = Machine { kind: Kind::Cuda, ordinal: None };
        let failure = failure(machine, Refusal::Absent("the driver is not installed".into()));
        assert_eq!(failure.exit, Exit::Environment);
        assert!(failure.to_string().contains("(the driver is not installed)"), "{failure}");
        assert!(failure.to_string().contains("`--device cpu`"), "{failure}");
    }
}
