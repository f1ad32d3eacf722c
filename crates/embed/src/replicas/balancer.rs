//! How much each device has to do, and which has least.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{EmbeddingError, EmbeddingResult};

/// Multi-GPU load balancer. Loads are in whatever its users count work in; tokens are best.
#[derive(Debug)]
pub struct MultiGpuBalancer {
    devices: Vec<DeviceState>,
    loads: Vec<AtomicU64>,
    /// Held while a device is chosen and its load raised, so that two callers do not choose alike.
    choosing: Mutex<()>,
}

#[derive(Debug)]
struct DeviceState {
    /// The driver's number.
    ordinal: usize,
    is_lost: AtomicBool,
}

/// Work on its way through a device; the load falls when this is dropped, however that happens.
#[derive(Debug)]
pub struct LoadGuard {
    balancer: Arc<MultiGpuBalancer>,
    gpu_idx: usize,
    load: u64,
}

impl LoadGuard {
    /// Which device, counted from 0 among those of the balancer.
    pub fn gpu_idx(&self) -> usize {
        self.gpu_idx
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.balancer.record_complete(self.gpu_idx, self.load);
    }
}

impl MultiGpuBalancer {
    /// For devices with these numbers of their driver, all idle.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] for no device, and for one that is named twice.
    pub fn new(ordinals: &[usize]) -> EmbeddingResult<Self> {
        let refused = |value: String, want| {
            Err(EmbeddingError::ConfigError { field: "ordinals", value, want })
        };
        if ordinals.is_empty() {
            return refused("none".into(), "at least one device is needed");
        }
        let twice = |(at, it): &(usize, &usize)| ordinals[..*at].contains(it);
        if let Some((_, it)) = ordinals.iter().enumerate().find(twice) {
            return refused(it.to_string(), "each device may be named once");
        }
        let device = |it: &usize| DeviceState { ordinal: *it, is_lost: AtomicBool::new(false) };
        Ok(Self {
            devices: ordinals.iter().map(device).collect(),
            loads: ordinals.iter().map(|_| AtomicU64::new(0)).collect(),
            choosing: Mutex::new(()),
        })
    }

    /// Devices, lost ones included.
    pub fn gpu_count(&self) -> usize {
        self.devices.len()
    }

    /// Devices that are not lost.
    pub fn live_count(&self) -> usize {
        (0..self.devices.len()).filter(|it| !self.is_lost(*it)).count()
    }

    /// Whether the device takes no more work; there is none for a place where there is none.
    pub fn is_lost(&self, gpu_idx: usize) -> bool {
        self.devices.get(gpu_idx).is_none_or(|it| it.is_lost.load(Ordering::Acquire))
    }

    /// The driver's number of a device; none for a place where there is none.
    pub fn ordinal(&self, gpu_idx: usize) -> Option<usize> {
        self.devices.get(gpu_idx).map(|it| it.ordinal)
    }

    /// The device with the least load, the first of several, and its driver's number; none when
    /// all are lost. Whoever means to use it asks [`MultiGpuBalancer::reserve`] instead.
    pub fn least_loaded_gpu(&self) -> Option<(usize, usize)> {
        let live = self.devices.iter().enumerate();
        let live = live.filter(|(_, it)| !it.is_lost.load(Ordering::Acquire));
        let load = |at: usize| self.loads[at].load(Ordering::Acquire);
        live.min_by_key(|(at, _)| load(*at)).map(|(at, it)| (at, it.ordinal))
    }

    /// Chooses the device with the least load and raises its load, as one step.
    ///
    /// # Errors
    /// [`EmbeddingError::NotInitialized`] when all are lost.
    pub fn reserve(self: &Arc<Self>, load: u64) -> EmbeddingResult<LoadGuard> {
        let _one = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        let all_lost = EmbeddingError::NotInitialized { what: "any device: all are lost" };
        let (gpu_idx, _) = self.least_loaded_gpu().ok_or(all_lost)?;
        self.record_submit(gpu_idx, load);
        Ok(LoadGuard { balancer: self.clone(), gpu_idx, load })
    }

    /// Raises the load of this device. None where there is no such device, or it is lost.
    pub fn reserve_on(self: &Arc<Self>, gpu_idx: usize, load: u64) -> Option<LoadGuard> {
        let device = self.devices.get(gpu_idx)?;
        if device.is_lost.load(Ordering::Acquire) {
            return None;
        }
        self.record_submit(gpu_idx, load);
        Some(LoadGuard { balancer: self.clone(), gpu_idx, load })
    }

    /// Work went to a device; nothing where there is no such device.
    pub fn record_submit(&self, gpu_idx: usize, batch_size: u64) {
        let more = |it: u64| Some(it.saturating_add(batch_size));
        if let Some(load) = self.loads.get(gpu_idx) {
            // The change cannot be refused.
            let _ = load.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        }
    }

    /// Work came back from a device. The load does not fall below zero.
    pub fn record_complete(&self, gpu_idx: usize, batch_size: u64) {
        let less = |it: u64| Some(it.saturating_sub(batch_size));
        if let Some(load) = self.loads.get(gpu_idx) {
            // The change cannot be refused.
            let _ = load.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        }
    }

    /// What a device has to do.
    pub fn load(&self, gpu_idx: usize) -> u64 {
        self.loads.get(gpu_idx).map_or(0, |it| it.load(Ordering::Acquire))
    }

    /// The device takes no more work.
    pub fn mark_lost(&self, gpu_idx: usize) {
        self.set_lost(gpu_idx, true);
    }

    /// The device was opened anew, and takes work again.
    pub fn restore(&self, gpu_idx: usize) {
        self.set_lost(gpu_idx, false);
    }

    fn set_lost(&self, gpu_idx: usize, is_lost: bool) {
        if let Some(device) = self.devices.get(gpu_idx) {
            device.is_lost.store(is_lost, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer(ordinals: &[usize]) -> Arc<MultiGpuBalancer> {
        Arc::new(MultiGpuBalancer::new(ordinals).unwrap())
    }

    #[test]
    fn no_device_and_one_twice_are_refused() {
        assert!(MultiGpuBalancer::new(&[]).is_err());
        assert!(MultiGpuBalancer::new(&[0, 2, 0]).is_err());
    }

    #[test]
    fn the_least_loaded_is_chosen_and_numbers_stay_true() {
        let balancer = balancer(&[0, 3, 7]);
        let first = balancer.reserve(10).unwrap();
        let second = balancer.reserve(5).unwrap();
        assert_eq!((first.gpu_idx(), second.gpu_idx()), (0, 1));
        assert_eq!(balancer.least_loaded_gpu(), Some((2, 7)));
        let third = balancer.reserve(20).unwrap();
        assert_eq!(balancer.least_loaded_gpu(), Some((1, 3)));
        balancer.mark_lost(1);
        assert_eq!(balancer.least_loaded_gpu(), Some((0, 0)));
        assert_eq!((balancer.gpu_count(), balancer.live_count()), (3, 2));
        assert!(balancer.reserve_on(1, 1).is_none() && balancer.reserve_on(9, 1).is_none());
        drop((first, second, third));
        assert_eq!([0, 1, 2].map(|it| balancer.load(it)), [0; 3]);
        balancer.restore(1);
        assert_eq!(balancer.ordinal(1), Some(3));
        assert_eq!(balancer.live_count(), 3);
    }

    #[test]
    fn a_load_neither_leaks_nor_falls_below_zero() {
        let balancer = balancer(&[0]);
        balancer.record_complete(0, 9);
        assert_eq!(balancer.load(0), 0);
        balancer.record_submit(0, u64::MAX);
        balancer.record_submit(0, 1);
        assert_eq!(balancer.load(0), u64::MAX);
        balancer.record_complete(0, u64::MAX);
        balancer.record_submit(5, 1); // There is no such device.
        let own = balancer.clone();
        let panicked = std::thread::spawn(move || {
            let _guard = own.reserve(3).unwrap();
            panic!("in the middle of work");
        });
        assert!(panicked.join().is_err());
        assert_eq!(balancer.load(0), 0);
        balancer.mark_lost(0);
        assert!(balancer.reserve(1).is_err());
    }

    #[test]
    fn callers_at_once_do_not_choose_one_device() {
        let balancer = balancer(&[0, 1, 2, 3]);
        for _ in 0..50 {
            let guards: Vec<LoadGuard> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| balancer.reserve(1).unwrap())).collect();
                threads.into_iter().map(|it| it.join().unwrap()).collect()
            });
            let mut chosen: Vec<usize> = guards.iter().map(LoadGuard::gpu_idx).collect();
            chosen.sort_unstable();
            assert_eq!(chosen, [0, 1, 2, 3]);
        }
    }
}
