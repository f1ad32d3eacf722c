//! Opens the processor as a device.

use std::sync::Arc;

use calor_device::{Device, DeviceError, Driver, Profile, Signature};

use crate::claims::CLAIMS;
use crate::compile::CpuCompiler;
use crate::device::{KIND, Shared};
use crate::memory::CpuMemory;
use crate::queue::CpuQueue;
use crate::simd::Level;
use crate::threads::Pool;

/// Memory of a machine that does not say.
const MEMORY_BYTES_UNKNOWN: u64 = 8 << 30;

/// The processor; one device, opened as often as wanted, each time with threads of its own.
#[derive(Clone, Debug)]
pub struct CpuDriver {
    /// Threads that compute, the caller's included.
    pub threads: usize,
    /// Instructions to use; the machine's best if nothing is said.
    pub level: Option<Level>,
    /// Most bytes of buffers; the machine's memory if nothing is said.
    pub memory_bytes: Option<u64>,
    /// Where times of steps go, if anywhere.
    pub profile: Option<Profile>,
}

impl Driver for CpuDriver {
    fn count(&self) -> Result<usize, DeviceError> {
        Ok(1)
    }

    fn open(&self, ordinal: usize) -> Result<Device, DeviceError> {
        let absent = |why: String| DeviceError::Absent { kind: KIND, why };
        if ordinal != 0 {
            return Err(absent(format!("there is one, not number {ordinal}")));
        }
        if self.threads == 0 || crate::threads::THREAD_COUNT_MAX < self.threads {
            return Err(absent(format!("{} threads were asked for", self.threads)));
        }
        let pool = Pool::new(self.threads).map_err(|err| absent(err.to_string()))?;
        let level = self.level.unwrap_or_else(Level::detect);
        let memory_bytes = self
            .memory_bytes
            .or_else(|| machine_memory_bytes(&read("/proc/meminfo")))
            .unwrap_or(MEMORY_BYTES_UNKNOWN);
        let shared = Arc::new(Shared::new(pool, level, memory_bytes, self.profile.clone()));
        let signature = Signature {
            kind: KIND,
            model: machine_model(&read("/proc/cpuinfo")).unwrap_or_else(|| "unknown".into()),
            arch: shared.arch.into(),
            versions: vec![("calor-device-cpu".into(), env!("CARGO_PKG_VERSION").into())],
            memory_bytes: shared.budget.limit_bytes(),
            parallel_count: self.threads as u32,
        };
        Ok(Device {
            memory: Box::new(CpuMemory(Arc::clone(&shared))),
            compiler: Arc::new(CpuCompiler(Arc::clone(&shared))),
            queue: Box::new(CpuQueue(shared)),
            claims: CLAIMS,
            signature,
        })
    }
}

/// Nothing where the system does not say.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn machine_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|it| it.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().into())
}

fn machine_memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|it| it.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[test]
fn the_machine_describes_itself() {
    assert_eq!(machine_memory_bytes("MemTotal:  2048 kB\nMemFree: 1 kB"), Some(2 << 20));
    assert_eq!(machine_memory_bytes(""), None);
    assert_eq!(machine_model("model name\t: Some CPU\n"), Some("Some CPU".into()));
}
