//! The machine that a benchmark ran on, as far as it says. Nothing where it does not.

use std::fs::read_to_string;

/// What decides how fast a machine is, and what else it was doing.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// The processor's own name.
    pub cpu: Option<String>,
    /// Instructions that kernels may use.
    pub flags: Vec<&'static str>,
    /// Processors that this process may use, as the system lists them: `0-3,8`.
    pub allowed: Option<String>,
    /// Release of the operating system's kernel.
    pub kernel: Option<String>,
    /// Who chooses the clock.
    pub governor: Option<String>,
    /// Memory of the machine.
    pub memory_bytes: Option<u64>,
    /// Mean number of runnable threads over the last minute.
    pub load: Option<f64>,
}

static FLAGS: &[&str] = &["avx2", "fma", "f16c", "avx512f", "avx512_vnni", "amx_tile", "asimd"];

impl Host {
    /// This machine, now.
    pub fn here() -> Self {
        let cpu = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let have = field(&cpu, "flags").or_else(|| field(&cpu, "Features")).unwrap_or_default();
        let text = |path| read_to_string(path).ok().map(|it: String| it.trim().to_owned());
        let memory = read_to_string("/proc/meminfo").unwrap_or_default();
        let load = text("/proc/loadavg");
        Self {
            cpu: field(&cpu, "model name").map(str::to_owned),
            flags: FLAGS
                .iter()
                .copied()
                .filter(|it| have.split(' ').any(|own| own == *it))
                .collect(),
            allowed: status("Cpus_allowed_list"),
            kernel: text("/proc/sys/kernel/osrelease"),
            governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_bytes: field(&memory, "MemTotal").and_then(kib_as_bytes),
            load: load.and_then(|it| it.split(' ').next()?.parse().ok()),
        }
    }
}

/// Most memory that this process ever had resident, since [`forget_peak`] if that worked.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    kib_as_bytes(&status("VmHWM")?)
}

/// Starts the peak anew where the system lets a process do that.
pub(crate) fn forget_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn status(name: &str) -> Option<String> {
    field(&read_to_string("/proc/self/status").ok()?, name).map(str::to_owned)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn kib_as_bytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[test]
fn fields_are_found_by_whole_names() {
    let text = "MemTotalX: 1 kB\nMemTotal:\t 2048 kB\n";
    assert_eq!(field(text, "MemTotal").and_then(kib_as_bytes), Some(2 << 20));
    assert_eq!(field(text, "Total"), None);
    assert_eq!(kib_as_bytes("12 pages"), None);
}

#[test]
fn a_process_has_a_peak() {
    if cfg!(target_os = "linux") {
        assert!(0 < peak_rss_bytes().unwrap());
    }
}
