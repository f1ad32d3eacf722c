//! Device memory that was given back and waits for the next request of its size.
//!
//! It serves what comes and goes beside a plan: boundaries and states. Arenas are planned and
//! weights are of their own size, so neither passes through it.

use std::collections::HashMap;
use std::sync::Arc;

use calor_device::{BufferId, DeviceError, Memory};
use calor_telemetry::counter::{CacheCount, Counter, Plain};
use calor_telemetry::{Cache, Counters};

/// What a pool has done since it was made, or since [`GpuMemoryPool::reset_stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Buffers lent.
    pub allocations: u64,
    /// Of these, buffers that waited in the pool.
    pub cache_hits: u64,
    /// Of these, buffers that the device had to make.
    pub cache_misses: u64,
    /// Buffers given back.
    pub deallocations: u64,
    /// Most bytes that the pool held at once, lent and waiting.
    pub peak_memory: u64,
    /// Bytes that the device had to make.
    pub bytes_from_gpu: u64,
    /// Bytes that waited in the pool.
    pub bytes_from_pool: u64,
}

impl PoolStats {
    /// Share of requests that the device did not see; 0 without requests.
    pub fn hit_rate(&self) -> f64 {
        share(self.cache_hits, self.cache_misses)
    }

    /// Share of bytes that the device did not make; 0 without requests.
    pub fn efficiency(&self) -> f64 {
        share(self.bytes_from_pool, self.bytes_from_gpu)
    }
}

fn share(part: u64, rest: u64) -> f64 {
    if part + rest == 0 { 0.0 } else { part as f64 / (part + rest) as f64 }
}

/// A buffer in use.
#[derive(Clone, Copy, Debug)]
struct Lent {
    asked_bytes: u64,
    granted_bytes: u64,
}

/// Buffers of seven sizes. A request gets the smallest that is large enough; a larger one than all
/// of them is made as it is, and freed when it comes back.
///
/// Whatever a device does for one caller happens in one order, so a buffer that comes back may be
/// lent again at once: what is written into it waits for whoever still reads it.
#[derive(Debug)]
pub struct GpuMemoryPool {
    kept: [Vec<BufferId>; Self::BUCKET_SIZES.len()],
    lent: HashMap<BufferId, Lent>,
    lent_bytes: u64,
    asked_bytes: u64,
    kept_bytes: u64,
    limit_bytes: u64,
    stats: PoolStats,
    counters: Arc<Counters>,
}

impl GpuMemoryPool {
    /// Bytes of the buffers that are kept.
    pub const BUCKET_SIZES: [u64; 7] =
        [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

    /// Most buffers of one size that wait.
    pub const KEPT_PER_BUCKET_MAX: usize = 4;

    /// Most bytes that wait.
    pub const KEPT_BYTES_MAX: u64 = {
        let mut sum = 0;
        let mut at = 0;
        while at < Self::BUCKET_SIZES.len() {
            sum += Self::BUCKET_SIZES[at] * Self::KEPT_PER_BUCKET_MAX as u64;
            at += 1;
        }
        sum
    };

    /// A pool that holds at most `limit_bytes`, lent and waiting.
    pub fn new(limit_bytes: u64, counters: Arc<Counters>) -> Self {
        Self {
            kept: Default::default(),
            lent: HashMap::new(),
            lent_bytes: 0,
            asked_bytes: 0,
            kept_bytes: 0,
            limit_bytes,
            stats: PoolStats::default(),
            counters,
        }
    }

    /// A pool that holds at most three quarters of what a device has free.
    pub fn with_default_limit(free_bytes: u64, counters: Arc<Counters>) -> Self {
        Self::new(free_bytes / 4 * 3, counters)
    }

    /// Bytes of the buffer that a request for `bytes` gets.
    pub fn granted_bytes(bytes: u64) -> u64 {
        bucket_of(bytes).map_or(bytes, |it| Self::BUCKET_SIZES[it])
    }

    /// A buffer of at least `bytes` with unspecified contents.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] when the limit would be exceeded, or the device has not
    /// enough even after everything that waited was freed.
    pub fn allocate(
        &mut self,
        memory: &mut dyn Memory,
        bytes: u64,
    ) -> Result<BufferId, DeviceError> {
        let granted_bytes = Self::granted_bytes(bytes);
        let waiting = bucket_of(bytes).and_then(|it| self.kept[it].pop());
        let buffer = match waiting {
            Some(buffer) => {
                self.kept_bytes -= granted_bytes;
                self.counters.lower(USAGE, granted_bytes);
                self.stats.cache_hits += 1;
                self.stats.bytes_from_pool += granted_bytes;
                buffer
            }
            None => {
                let buffer = self.make(memory, granted_bytes)?;
                self.stats.cache_misses += 1;
                self.stats.bytes_from_gpu += granted_bytes;
                self.counters.increment(Plain::Allocations);
                buffer
            }
        };
        self.counters.cache_asked(Cache::BufferPool, waiting.is_some());
        self.lent.insert(buffer, Lent { asked_bytes: bytes, granted_bytes });
        self.lent_bytes += granted_bytes;
        self.asked_bytes += bytes;
        self.counters.add(Plain::PoolSlackBytes, granted_bytes - bytes);
        self.stats.allocations += 1;
        self.stats.peak_memory = self.stats.peak_memory.max(self.allocated_bytes());
        Ok(buffer)
    }

    /// A new buffer, for which what waits makes room.
    fn make(&mut self, memory: &mut dyn Memory, bytes: u64) -> Result<BufferId, DeviceError> {
        let left_bytes = self.limit_bytes.saturating_sub(self.lent_bytes);
        if left_bytes < bytes {
            return Err(DeviceError::OutOfMemory { want_bytes: bytes, left_bytes });
        }
        self.shrink_to(memory, left_bytes - bytes)?;
        match memory.alloc(bytes.max(1)) {
            Err(DeviceError::OutOfMemory { .. }) if 0 < self.kept_bytes => {
                self.clear(memory)?;
                memory.alloc(bytes.max(1))
            }
            made => made,
        }
    }

    /// Takes a buffer back. It waits, unless it is larger than every bucket or enough of its size
    /// wait already.
    ///
    /// # Errors
    /// [`DeviceError::Stale`] for a buffer that is not lent.
    pub fn deallocate(
        &mut self,
        memory: &mut dyn Memory,
        buffer: BufferId,
    ) -> Result<(), DeviceError> {
        let stale = DeviceError::Stale { what: "pooled buffer" };
        let Lent { asked_bytes, granted_bytes } = self.lent.remove(&buffer).ok_or(stale)?;
        self.lent_bytes -= granted_bytes;
        self.asked_bytes -= asked_bytes;
        self.counters.lower(Plain::PoolSlackBytes, granted_bytes - asked_bytes);
        self.stats.deallocations += 1;
        let bucket = bucket_of(granted_bytes);
        let Some(kept) = bucket.map(|it| &mut self.kept[it]) else { return memory.free(buffer) };
        if Self::KEPT_PER_BUCKET_MAX <= kept.len() {
            self.count(CacheCount::Evictions);
            return memory.free(buffer);
        }
        kept.push(buffer);
        self.kept_bytes += granted_bytes;
        self.count(CacheCount::Inserts);
        self.counters.add(USAGE, granted_bytes);
        Ok(())
    }

    /// Has as many buffers of each size wait as may, so that later requests find them.
    ///
    /// # Errors
    /// As [`GpuMemoryPool::allocate`]; then what was made waits.
    pub fn prime(&mut self, memory: &mut dyn Memory) -> Result<(), DeviceError> {
        let mut lent = Vec::new();
        let mut made = Ok(());
        for bytes in Self::BUCKET_SIZES {
            for _ in 0..Self::KEPT_PER_BUCKET_MAX {
                match self.allocate(memory, bytes) {
                    Ok(buffer) => lent.push(buffer),
                    Err(err) => made = Err(err),
                }
            }
        }
        lent.into_iter().try_for_each(|it| self.deallocate(memory, it))?;
        made
    }

    /// Has buffers of each size wait that were really written, small ones first, as many as may and
    /// as `left_bytes` more are room for. All of them are held at once. A device that has no more
    /// ends it. The bytes that wait then.
    ///
    /// # Errors
    /// What the device says of a write; what was made waits then, too.
    pub fn prime_within(
        &mut self,
        memory: &mut dyn Memory,
        left_bytes: u64,
    ) -> Result<u64, DeviceError> {
        let (mut lent, mut left_bytes, mut primed) = (Vec::new(), left_bytes, Ok(()));
        'sizes: for (at, bytes) in Self::BUCKET_SIZES.into_iter().enumerate() {
            let zeros = vec![0_u8; usize::try_from(bytes).unwrap_or(usize::MAX)];
            for _ in 0..Self::KEPT_PER_BUCKET_MAX {
                let made_bytes = if self.kept[at].is_empty() { bytes } else { 0 };
                if left_bytes < made_bytes {
                    break 'sizes;
                }
                match self.allocate(memory, bytes) {
                    Ok(buffer) => lent.push(buffer),
                    Err(DeviceError::OutOfMemory { .. }) => break 'sizes,
                    Err(err) => {
                        primed = Err(err);
                        break 'sizes;
                    }
                }
                left_bytes -= made_bytes;
                if let Some(Err(err)) = lent.last().map(|it| memory.write(*it, 0, &zeros)) {
                    primed = Err(err);
                    break 'sizes;
                }
            }
        }
        lent.into_iter().try_for_each(|it| self.deallocate(memory, it))?;
        primed.map(|()| self.kept_bytes)
    }

    /// Frees what waits, the largest first, until at most `bytes` of it are left.
    ///
    /// # Errors
    /// What the device says.
    pub fn shrink_to(&mut self, memory: &mut dyn Memory, bytes: u64) -> Result<(), DeviceError> {
        for at in (0..self.kept.len()).rev() {
            while bytes < self.kept_bytes {
                let Some(buffer) = self.kept[at].pop() else { break };
                self.kept_bytes -= Self::BUCKET_SIZES[at];
                self.counters.lower(USAGE, Self::BUCKET_SIZES[at]);
                self.count(CacheCount::Evictions);
                memory.free(buffer)?;
            }
        }
        Ok(())
    }

    /// Frees everything that waits.
    ///
    /// # Errors
    /// What the device says.
    pub fn clear(&mut self, memory: &mut dyn Memory) -> Result<(), DeviceError> {
        self.shrink_to(memory, 0)
    }

    /// Bytes that the pool holds, lent and waiting.
    pub fn allocated_bytes(&self) -> u64 {
        self.lent_bytes + self.kept_bytes
    }

    /// Bytes that the limit leaves.
    pub fn available_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.allocated_bytes())
    }

    /// Bytes that the pool holds and nobody asked for: what waits, and what sizes were rounded up.
    pub fn idle_bytes(&self) -> u64 {
        self.allocated_bytes() - self.asked_bytes
    }

    /// Buffers that wait.
    pub fn cached_buffers(&self) -> usize {
        self.kept.iter().map(Vec::len).sum()
    }

    /// What was done.
    pub fn stats(&self) -> PoolStats {
        self.stats
    }

    /// Counts from here on; the peak is what is held now.
    pub fn reset_stats(&mut self) {
        self.stats = PoolStats { peak_memory: self.allocated_bytes(), ..PoolStats::default() };
    }

    fn count(&self, count: CacheCount) {
        self.counters.increment(Counter::Cache(Cache::BufferPool, count));
    }
}

const USAGE: Counter = Counter::Cache(Cache::BufferPool, CacheCount::Bytes);

/// The smallest bucket of at least `bytes`.
fn bucket_of(bytes: u64) -> Option<usize> {
    GpuMemoryPool::BUCKET_SIZES.iter().position(|it| bytes <= *it)
}
