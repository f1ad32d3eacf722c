//! Weights: read from their source, prepared once, shared by key between programs.

use std::time::Duration;

use calor_device::{BufferId, CodeId, Held, Span};
use calor_kernel::Digest;
use calor_telemetry::event::{Event, Memory as Purpose};
use calor_telemetry::{Label, Stopwatch};

use super::{Engine, ProgramSpec, buffers_of, device_step, identity, needed_by_steps};
use crate::error::RuntimeError;
use crate::plan::{BufferKind, BufferRow, Place, Plan, PlanSpan, PlanStep};

/// Elements that are read from a weight source at once.
const CHUNK_LEN: usize = 1 << 18;
/// A buffer that programs share.
pub(super) struct Shared {
    pub(super) buffer: BufferId,
    pub(super) bytes: u64,
    pub(super) kept: bool,
}

impl Engine {
    pub(super) fn free_shared(&mut self, key: (Digest, Digest)) -> Result<(), RuntimeError> {
        if let Some(shared) = self.shared.remove(&key) {
            self.device.memory.free(shared.buffer)?;
            self.report.weights_bytes -= shared.bytes;
        }
        Ok(())
    }

    /// Makes every weight-only buffer that the program needs, and drops what only the way there
    /// needed. Each raw weight is loaded right before its first use and freed after its last, so
    /// that never two whole copies of the weights exist.
    pub(super) fn prelude(
        &mut self,
        spec: &ProgramSpec<'_>,
        plan: &Plan,
        codes: &[CodeId],
    ) -> Result<Vec<Option<BufferId>>, RuntimeError> {
        let watch = Stopwatch::start();
        let before = self.report.weights_bytes;
        let identity = identity(spec);
        let needed = needed_by_steps(plan);
        let key = |index: usize| plan.buffers[index].key.map(|key| (identity, key));
        let mut last_use = vec![None; plan.buffers.len()];
        for (at, step) in plan.prelude.iter().enumerate() {
            for index in buffers_of(step.reads()).chain(buffers_of(step.writes())) {
                last_use[index] = Some(at);
            }
        }
        for (at, step) in plan.prelude.iter().enumerate() {
            let made = buffers_of(step.writes())
                .all(|index| key(index).is_some_and(|it| self.shared.contains_key(&it)));
            if made && !self.half_made(plan, at) {
                continue;
            }
            if !self.is_wanted(plan, at, &needed, identity) {
                continue;
            }
            for index in buffers_of(step.reads()).chain(buffers_of(step.writes())) {
                self.materialise(spec, plan, index, identity)?;
            }
            self.run_once(plan, step, codes, identity)?;
            for index in 0..plan.buffers.len() {
                if last_use[index] == Some(at)
                    && !needed[index]
                    && let Some(key) = key(index)
                    && self.shared.get(&key).is_some_and(|it| !it.kept)
                {
                    self.free_shared(key)?;
                }
            }
        }
        let mut buffers = vec![None; plan.buffers.len()];
        for index in 0..plan.buffers.len() {
            if let Some(key) = key(index).filter(|_| needed[index]) {
                self.materialise(spec, plan, index, identity)?;
                if let Some(shared) = self.shared.get_mut(&key) {
                    shared.kept = true;
                    buffers[index] = Some(shared.buffer);
                }
            }
        }
        let size_bytes = self.report.weights_bytes - before.min(self.report.weights_bytes);
        if size_bytes > 0 {
            let (model, device) = (Label::of(spec.label), self.device_label);
            let wall_ns = watch.elapsed_ns();
            self.recorder.record(Event::WeightsLoaded { model, device, size_bytes, wall_ns });
        }
        Ok(buffers)
    }

    /// Whether an earlier prelude step of this plan writes the same buffer: a value made by
    /// several kernels is made by all of them or none.
    pub(super) fn half_made(&self, plan: &Plan, at: usize) -> bool {
        let writes: Vec<usize> = buffers_of(plan.prelude[at].writes()).collect();
        plan.prelude[..at]
            .iter()
            .any(|step| buffers_of(step.writes()).any(|index| writes.contains(&index)))
    }

    /// Whether a step's result is needed by the program, or by a prelude step that is.
    pub(super) fn is_wanted(
        &self,
        plan: &Plan,
        at: usize,
        needed: &[bool],
        identity: Digest,
    ) -> bool {
        let exists = |index: usize| {
            plan.buffers[index].key.is_some_and(|key| self.shared.contains_key(&(identity, key)))
        };
        buffers_of(plan.prelude[at].writes()).any(|index| {
            needed[index]
                || (at + 1..plan.prelude.len()).any(|later| {
                    let step = &plan.prelude[later];
                    buffers_of(step.reads()).any(|it| it == index)
                        && !buffers_of(step.writes()).all(exists)
                        && self.is_wanted(plan, later, needed, identity)
                })
        })
    }

    pub(super) fn materialise(
        &mut self,
        spec: &ProgramSpec<'_>,
        plan: &Plan,
        index: usize,
        identity: Digest,
    ) -> Result<(), RuntimeError> {
        let row = &plan.buffers[index];
        let Some(key) = row.key else { return Ok(()) };
        if self.shared.contains_key(&(identity, key)) {
            return Ok(());
        }
        let bytes = row.size_bytes();
        let buffer = self.alloc(bytes, Purpose::Weights)?;
        self.shared.insert((identity, key), Shared { buffer, bytes, kept: false });
        match &row.kind {
            BufferKind::Weight { name } => self.load(spec, name, row, buffer),
            BufferKind::Constant { bytes } => Ok(self.device.memory.write(buffer, 0, bytes)?),
            BufferKind::Input { .. }
            | BufferKind::Output { .. }
            | BufferKind::State { .. }
            | BufferKind::Prepared => Ok(()),
        }
    }

    pub(super) fn load(
        &mut self,
        spec: &ProgramSpec<'_>,
        name: &str,
        row: &BufferRow,
        buffer: BufferId,
    ) -> Result<(), RuntimeError> {
        let Some(source) = &spec.source else {
            return Err(RuntimeError::NoSource { program: spec.label.to_owned() });
        };
        let count = row.ty.shape.element_count();
        let mut chunk = vec![0.0_f32; CHUNK_LEN.min(count)];
        let mut first = 0;
        while first < count {
            let chunk = &mut chunk[..CHUNK_LEN.min(count - first)];
            source
                .read(name, first, chunk)
                .map_err(|source| RuntimeError::Weight { name: name.to_owned(), source })?;
            self.device.memory.write(buffer, first as u64 * 4, bytemuck::cast_slice(chunk))?;
            first += chunk.len();
        }
        Ok(())
    }

    pub(super) fn run_once(
        &mut self,
        plan: &Plan,
        step: &PlanStep,
        codes: &[CodeId],
        identity: Digest,
    ) -> Result<(), RuntimeError> {
        let span = |span: &PlanSpan| {
            let Place::Buffer(index) = span.place else { return None };
            let key = plan.buffers[index as usize].key?;
            let buffer = self.shared.get(&(identity, key))?.buffer;
            Some(Span { buffer, offset: span.offset, len: span.len })
        };
        let step = device_step(plan, step, codes, 0, &span);
        let prepared = self.device.queue.prepare(&[step], &[], None)?;
        let ticket = self.device.queue.run(prepared)?;
        self.device.queue.wait(ticket, Duration::from_secs(600))?;
        Ok(self.device.compiler.release(Held::Prepared(prepared))?)
    }
}
