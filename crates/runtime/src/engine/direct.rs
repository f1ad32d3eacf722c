//! Weights that a device reads out of their files by itself, and what it then says of them.
//!
//! Nobody on the host sees their bytes, so the device takes their digests where they arrived: of
//! the same parts that readers take them of, which the source compares with its record.

use calor_device::{CodeId, DeviceError, FileRead, Memory, Span, Step, Word};
use calor_kernel::{Digest, Source, Unit};
use calor_telemetry::Stopwatch;

use super::Engine;
use super::loading::{Batch, Course, Target, WeightsReport};
use super::reader::Load;
use crate::error::RuntimeError;
use crate::source::{PART_LEN, Stored, WeightSource};

/// Bytes of a part's digest.
pub(super) const DIGEST_BYTES: u64 = 32;

/// The kernel that takes them.
pub(super) fn unit() -> Unit {
    let params = vec![("part_bytes", 4 * PART_LEN as i64)];
    Unit::Source(Source { name: "digest_parts", params })
}

/// Where a weight of so many elements lies, if the device reads it better by itself.
pub(super) fn stored<'a>(
    memory: &dyn Memory,
    source: &'a dyn WeightSource,
    name: &str,
    count: usize,
) -> Option<Stored<'a>> {
    // A part that is the whole has another digest, and is read before a file is opened for it.
    if count <= PART_LEN {
        return None;
    }
    let stored = source.stored(name)?;
    memory.reads_file(stored.file, stored.at, 4 * count as u64).then_some(stored)
}

/// Bytes of the digests of a weight.
pub(super) fn digests_bytes(count: usize) -> u64 {
    count.div_ceil(PART_LEN) as u64 * DIGEST_BYTES
}

/// Digests of what the device has read of a round.
pub(super) fn steps(course: &Course<'_>, batch: &Batch) -> Vec<Step> {
    let Some(code) = course.digester else { return Vec::new() };
    let loads = batch.loads.clone().filter(|it| course.work.loads[*it].direct.is_some());
    let step = |load: usize| {
        let Target { span, digests, .. } = course.targets[load];
        step(code, course.work.loads[load].count, span, digests)
    };
    loads.map(step).collect()
}

/// Digests of a weight in `span`, to `digests`.
fn step(code: CodeId, count: usize, span: Span, digests: Span) -> Step {
    let words = [count.div_ceil(PART_LEN) as i64, 4 * count as i64];
    let words = words.map(Word::Fixed).to_vec();
    Step::Launch { code, words, args: vec![span, digests] }
}

/// Digests out of the bytes that the device wrote.
fn digests_in(bytes: &[u8]) -> Vec<Digest> {
    bytes.as_chunks().0.iter().map(|it| Digest(*it)).collect()
}

impl Engine {
    /// Has the device read what it reads by itself, file by file.
    pub(super) fn read_files(
        &mut self,
        batch: &Batch,
        course: &mut Course<'_>,
        report: &mut WeightsReport,
    ) -> Result<(), RuntimeError> {
        let loads = &course.work.loads;
        let of_batch = batch.loads.clone();
        let direct: Vec<(usize, Stored<'_>)> =
            of_batch.filter_map(|it| Some((it, loads[it].direct?))).collect();
        for of_file in direct.chunk_by(|a, b| std::ptr::eq(a.1.file, b.1.file)) {
            let Some((_, Stored { file, .. })) = of_file.first() else { continue };
            let read = |(load, stored): &(usize, Stored<'_>)| {
                let Span { buffer, offset, .. } = course.targets[*load].span;
                let len = 4 * loads[*load].count as u64;
                FileRead { at: stored.at, to: Span { buffer, offset, len } }
            };
            let reads: Vec<FileRead> = of_file.iter().map(read).collect();
            let watch = Stopwatch::start();
            let came = self.device.memory.read_file(file, &reads);
            report.waited_ns += watch.elapsed_ns();
            match came {
                Ok(()) => report.direct_bytes += reads.iter().map(|it| it.to.len).sum::<u64>(),
                Err(DeviceError::File { .. }) => {
                    for (load, _) in of_file {
                        self.read_here(*load, course)?;
                    }
                }
                Err(err) => return Err(err.into()),
            }
        }
        Ok(())
    }

    /// Reads a weight through memory of the host, because the device could not.
    fn read_here(&mut self, load: usize, course: &Course<'_>) -> Result<(), RuntimeError> {
        let Load { name, count, .. } = course.work.loads[load];
        let Some(source) = course.source else { return Ok(()) };
        let Span { buffer, offset, .. } = course.targets[load].span;
        let mut part = vec![0.0; PART_LEN.min(count)];
        for first in (0..count).step_by(PART_LEN) {
            let part = &mut part[..PART_LEN.min(count - first)];
            // Its digest is taken on the device all the same.
            source.read(name, first, part).map_err(|err| course.failed(load, err))?;
            let offset = offset + 4 * first as u64;
            self.device.memory.write(buffer, offset, bytemuck::cast_slice(part))?;
        }
        Ok(())
    }

    /// Compares the digests of what the device has read with what was recorded.
    pub(super) fn judge_digests(&mut self, course: &Course<'_>) -> Result<(), RuntimeError> {
        let direct = course.targets.iter().enumerate().filter(|it| 0 < it.1.digests.len);
        for (load, Target { digests, .. }) in direct {
            let Some(source) = course.source else { continue };
            let mut found = vec![0; digests.len as usize];
            self.device.memory.read(digests.buffer, digests.offset, &mut found)?;
            let parts = digests_in(&found);
            let checked = source.check(course.work.loads[load].name, &parts);
            checked.map_err(|err| course.failed(load, err))?;
        }
        Ok(())
    }
}
