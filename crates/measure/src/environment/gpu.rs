//! NVIDIA GPUs as NVML describes them; none where there is no driver.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use serde_json::{Value as Json, json};

/// The GPUs of this machine, if its driver answers.
#[derive(Debug)]
pub struct Gpus(Option<Nvml>);

impl Gpus {
    /// Asks the driver.
    pub fn open() -> Self {
        Self(Nvml::init().ok())
    }

    /// Asks the driver only if there is a reason to.
    pub fn open_if(wanted: bool) -> Self {
        if wanted { Self::open() } else { Self(None) }
    }

    fn each<T>(&self, f: impl Fn(&nvml_wrapper::Device<'_>, &Nvml) -> T) -> Vec<T> {
        let Some(nvml) = &self.0 else { return Vec::new() };
        let count = nvml.device_count().unwrap_or(0);
        let devices = (0..count).filter_map(|it| nvml.device_by_index(it).ok());
        devices.map(|it| f(&it, nvml)).collect()
    }

    /// What they are.
    pub fn describe(&self) -> Json {
        self.each(|gpu, nvml| {
            let capability = gpu.cuda_compute_capability().ok();
            // Another machine's number is nobody's business; whether it is the same one is.
            let uuid =
                gpu.uuid().ok().map(|it| blake3::hash(it.as_bytes()).to_hex()[..16].to_owned());
            json!({
                "model": gpu.name().ok(),
                "uuid_blake3": uuid,
                "arch": capability.map(|it| format!("sm_{}{}", it.major, it.minor)),
                "memory_bytes": gpu.memory_info().ok().map(|it| it.total),
                "ecc": gpu.is_ecc_enabled().ok().map(|it| it.currently_enabled),
                "driver": nvml.sys_driver_version().ok(),
                "cuda": nvml.sys_cuda_driver_version().ok(),
                "sm_mhz_max": gpu.max_clock_info(Clock::SM).ok(),
                "memory_mhz_max": gpu.max_clock_info(Clock::Memory).ok(),
                "power_cap_mw": gpu.enforced_power_limit().ok(),
                "mig": gpu.mig_mode().ok().map(|it| it.current),
                "persistent": gpu.is_in_persistent_mode().ok(),
                "processes": gpu.running_compute_processes_count().ok(),
                "pcie_generation": gpu.current_pcie_link_gen().ok(),
                "pcie_width": gpu.current_pcie_link_width().ok(),
            })
        })
        .into()
    }

    /// Clock of the processors of one, now; nothing where the driver does not tell. The number is
    /// the driver's, which counts GPUs that a process does not see as well.
    pub fn clock_mhz(&self, index: u32) -> Option<u32> {
        self.0.as_ref()?.device_by_index(index).ok()?.clock_info(Clock::SM).ok()
    }

    /// What they are doing.
    pub fn state(&self) -> Vec<Json> {
        self.each(|gpu, _| {
            json!({
                "sm_mhz": gpu.clock_info(Clock::SM).ok(),
                "memory_mhz": gpu.clock_info(Clock::Memory).ok(),
                "power_mw": gpu.power_usage().ok(),
                "temperature_c": gpu.temperature(TemperatureSensor::Gpu).ok(),
                "throttled_by": gpu.current_throttle_reasons().ok().map(|it| it.bits()),
                "energy_mj": gpu.total_energy_consumption().ok(),
            })
        })
    }

    /// Energy that each has taken since its driver was loaded.
    pub fn energy_mj(&self) -> Option<u64> {
        let all = self.each(|gpu, _| gpu.total_energy_consumption().ok());
        all.into_iter().flatten().reduce(|a, b| a + b)
    }
}

#[test]
fn a_machine_without_a_driver_has_none() {
    let none = Gpus(None);
    assert_eq!(none.describe(), json!([]));
    assert!(none.state().is_empty() && none.energy_mj().is_none());
}
