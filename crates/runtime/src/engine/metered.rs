//! A device's memory with a count of what is held. Not a pool: it decides nothing.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use calor_device::{BufferId, DeviceError, FileRead, HostMemory, Memory};
use calor_telemetry::Counters;
use calor_telemetry::counter::Plain;

/// Passes everything on, and counts the bytes of buffers that are alive and the most that were.
pub(super) struct Metered {
    memory: Box<dyn Memory>,
    counters: Arc<Counters>,
    sizes: HashMap<BufferId, u64>,
    held_bytes: u64,
    peak_bytes: u64,
}

impl Metered {
    pub(super) fn new(memory: Box<dyn Memory>, counters: Arc<Counters>) -> Self {
        Self { memory, counters, sizes: HashMap::new(), held_bytes: 0, peak_bytes: 0 }
    }
}

impl Memory for Metered {
    fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceError> {
        let buffer = self.memory.alloc(bytes)?;
        self.sizes.insert(buffer, bytes);
        self.held_bytes += bytes;
        self.counters.add(Plain::DeviceBytes, bytes);
        if self.peak_bytes < self.held_bytes {
            self.counters.add(Plain::PeakDeviceBytes, self.held_bytes - self.peak_bytes);
            self.peak_bytes = self.held_bytes;
        }
        Ok(buffer)
    }

    fn free(&mut self, buffer: BufferId) -> Result<(), DeviceError> {
        self.memory.free(buffer)?;
        let bytes = self.sizes.remove(&buffer).unwrap_or(0);
        self.held_bytes -= bytes;
        self.counters.lower(Plain::DeviceBytes, bytes);
        Ok(())
    }

    fn host(&mut self, count: usize) -> Result<Box<dyn HostMemory>, DeviceError> {
        self.memory.host(count)
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.memory.write(buffer, offset, bytes)
    }

    fn read(&mut self, buffer: BufferId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        self.memory.read(buffer, offset, out)
    }

    fn reads_file(&self, file: &File, at: u64, len: u64) -> bool {
        self.memory.reads_file(file, at, len)
    }

    fn read_file(&mut self, file: &File, reads: &[FileRead]) -> Result<(), DeviceError> {
        self.memory.read_file(file, reads)
    }
}

/// Bytes of one purpose, as a counter shows them.
pub(super) struct Level {
    counters: Arc<Counters>,
    counter: Plain,
    held_bytes: u64,
}

impl Level {
    pub(super) fn new(counters: &Arc<Counters>, counter: Plain) -> Self {
        Self { counters: counters.clone(), counter, held_bytes: 0 }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.held_bytes += bytes;
        self.counters.add(self.counter, bytes);
    }

    pub(super) fn lower(&mut self, bytes: u64) {
        self.held_bytes -= bytes;
        self.counters.lower(self.counter, bytes);
    }
}

impl Drop for Level {
    /// What is still held goes with its device.
    fn drop(&mut self) {
        self.counters.lower(self.counter, self.held_bytes);
    }
}

impl Drop for Metered {
    /// What a device still holds goes with it.
    fn drop(&mut self) {
        self.counters.lower(Plain::DeviceBytes, self.held_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calor_device::Driver;
    use calor_device::null::NullDriver;

    #[test]
    fn the_most_that_was_held_stays_when_it_is_given_back() {
        let counters = Arc::new(Counters::new());
        let memory = NullDriver { claims: &[], memory_bytes: 1000 }.open(0).unwrap().memory;
        let mut metered = Metered::new(memory, counters.clone());
        let held = || {
            let now = counters.snapshot();
            (now.get(Plain::DeviceBytes), now.get(Plain::PeakDeviceBytes))
        };
        let one = metered.alloc(300).unwrap();
        let two = metered.alloc(400).unwrap();
        assert!(metered.alloc(400).is_err());
        assert_eq!(held(), (700, 700), "what was refused is not held");
        metered.free(one).unwrap();
        assert!(metered.free(one).is_err());
        assert_eq!(held(), (400, 700));
        metered.free(two).unwrap();
        metered.alloc(600).unwrap();
        assert_eq!(held(), (600, 700));
        drop(metered);
        assert_eq!(held(), (0, 700));
    }
}
