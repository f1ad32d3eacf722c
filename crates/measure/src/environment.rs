//! Where a run takes place: processor, memory, system, GPUs, and what else the machine was doing.
//!
//! Nothing is guessed: what the system does not say is null. The fingerprint is what two runs
//! must share to be compared. Variables of the environment come from the caller.

mod gpu;

use std::collections::BTreeMap;
use std::fs::read_to_string;

use calor_telemetry::clock;
use serde_json::{Map, Value as Json, json};

pub use gpu::Gpus;

/// What the caller alone knows.
#[derive(Clone, Debug)]
pub struct Told<'a> {
    /// Commit, dirty flag, build.
    pub code: Json,
    /// Variables of the environment that decide results or times, as they are set.
    pub variables: &'a BTreeMap<String, String>,
    /// What was chosen: device, threads, seeds.
    pub options: Json,
}

/// The machine now, with what the caller knows.
pub fn capture(told: &Told<'_>) -> Json {
    let (host, gpus) = (host(), Gpus::open().describe());
    json!({
        "schema": "calor.environment/1.0",
        "code": told.code,
        "host": host,
        "gpus": gpus,
        "variables": told.variables,
        "options": told.options,
        "fingerprint": fingerprint(&host, &gpus),
        "captured_s": clock::unix_s(),
    })
}

/// What two runs must share to be compared: processor, its limits, GPU, driver, power cap.
fn fingerprint(host: &Json, gpus: &Json) -> Json {
    let of = |from: &Json, names: &[&str]| -> Json {
        let part: Map<String, Json> =
            names.iter().map(|it| ((*it).to_owned(), from[*it].clone())).collect();
        part.into()
    };
    let gpus: Vec<Json> = gpus.as_array().map_or(Vec::new(), |all| {
        let names = ["model", "driver", "power_cap_mw", "memory_bytes", "mig"];
        all.iter().map(|it| of(it, &names)).collect()
    });
    let names = ["cpu", "family", "model", "stepping", "flags", "allowed", "memory_gib"];
    json!({ "host": of(host, &names), "gpus": gpus })
}

/// Fields of two fingerprints that differ, for people; nothing when they may be compared.
pub fn differences(a: &Json, b: &Json) -> Vec<String> {
    let mut out = Vec::new();
    for field in ["host", "gpus"] {
        if a[field] != b[field] {
            match (a[field].as_object(), b[field].as_object()) {
                (Some(one), Some(other)) => {
                    let names = one.keys().filter(|it| one.get(*it) != other.get(*it));
                    out.extend(names.map(|it| format!("{it}: {} and {}", one[it], b[field][it])));
                }
                _ => out.push(format!("{field}: {} and {}", a[field], b[field])),
            }
        }
    }
    out
}

static FLAGS: &[&str] = &[
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "hypervisor",
];

fn host() -> Json {
    let cpu = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = read_to_string("/proc/meminfo").unwrap_or_default();
    let have = field(&cpu, "flags").or_else(|| field(&cpu, "Features")).unwrap_or_default();
    let flags: Vec<&str> =
        FLAGS.iter().copied().filter(|it| have.split(' ').any(|own| own == *it)).collect();
    let memory_bytes = field(&memory, "MemTotal")
        .and_then(|it| it.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024));
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    json!({
        "name": text("/proc/sys/kernel/hostname"),
        "system": std::env::consts::OS,
        "kernel": text("/proc/sys/kernel/osrelease"),
        "cpu": field(&cpu, "model name"),
        "family": field(&cpu, "cpu family"),
        "model": field(&cpu, "model"),
        "stepping": field(&cpu, "stepping"),
        "flags": flags,
        "processors": cpu.lines().filter(|it| it.starts_with("processor")).count(),
        "allowed": field(&status, "Cpus_allowed_list"),
        "smt": text("/sys/devices/system/cpu/smt/control"),
        "governor": text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "boost": text("/sys/devices/system/cpu/cpufreq/boost"),
        "frequency_mhz": field(&cpu, "cpu MHz").and_then(|it| it.parse::<f64>().ok()),
        "temperature_mc": text("/sys/class/thermal/thermal_zone0/temp"),
        "load": text("/proc/loadavg"),
        "uptime_s": text("/proc/uptime").and_then(|it| it.split('.').next()?.parse::<u64>().ok()),
        "aslr": text("/proc/sys/kernel/randomize_va_space"),
        "memory_bytes": memory_bytes,
        // A virtual machine's memory differs by pages from start to start.
        "memory_gib": memory_bytes.map(|it| (it + (1 << 29)) >> 30),
        "numa_nodes": text("/sys/devices/system/node/online"),
        "container_cpu": text("/sys/fs/cgroup/cpu.max"),
        "container_memory": text("/sys/fs/cgroup/memory.max"),
        "steal_ticks": steal_ticks(),
    })
}

/// What changes while a run goes on.
#[derive(Debug)]
pub struct Probe {
    gpus: Gpus,
}

impl Probe {
    /// Opens what can be asked.
    pub fn open() -> Self {
        Self { gpus: Gpus::open() }
    }

    /// Load, stolen time, and clocks, power, temperature and throttling of every GPU.
    pub fn now(&self) -> Json {
        let load = text("/proc/loadavg");
        let mut words = load.as_deref().unwrap_or_default().split(' ');
        let one_minute: Option<f64> = words.next().and_then(|it| it.parse().ok());
        let runnable = words.nth(2).map(str::to_owned);
        let mut out = json!({
            "load": one_minute, "runnable": runnable, "steal_ticks": steal_ticks(),
        });
        let gpus = self.gpus.state();
        if !gpus.is_empty() {
            out["gpus"] = gpus.into();
        }
        out
    }
}

/// Most memory that this process ever had resident, where the system says.
pub fn peak_host_bytes() -> Option<u64> {
    let status = read_to_string("/proc/self/status").ok()?;
    field(&status, "VmHWM")?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn steal_ticks() -> Option<u64> {
    read_to_string("/proc/stat").ok()?.lines().next()?.split_whitespace().nth(8)?.parse().ok()
}

fn text(path: &str) -> Option<String> {
    read_to_string(path).ok().map(|it| it.trim().to_owned())
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(variables: &BTreeMap<String, String>) -> Json {
        capture(&Told { code: json!({"commit": "c"}), variables, options: json!({"threads": 2}) })
    }

    #[test]
    fn a_machine_is_like_itself_and_unlike_another() {
        let variables = BTreeMap::from([("OMP_NUM_THREADS".to_owned(), "2".to_owned())]);
        let (one, again) = (told(&variables), told(&variables));
        assert_eq!(differences(&one["fingerprint"], &again["fingerprint"]), [""; 0]);
        assert_eq!(one["variables"]["OMP_NUM_THREADS"], "2");
        let mut other = one["fingerprint"].clone();
        other["host"]["stepping"] = "another".into();
        let found = differences(&one["fingerprint"], &other);
        assert!(found.len() == 1 && found[0].starts_with("stepping"), "{found:?}");
        other["gpus"] = json!([{ "model": "another" }]);
        assert_eq!(differences(&one["fingerprint"], &other).len(), 2);
    }

    #[test]
    fn what_goes_on_is_seen() {
        let now = Probe::open().now();
        if cfg!(target_os = "linux") {
            assert!(now["load"].is_number() && now["runnable"].is_string(), "{now}");
        }
    }
}
