//! Filling buffers from a source of weights, and running what prepares them.
//!
//! Threads read ahead; this one hands bytes to the device and starts each round of steps behind
//! them. A device does all of it in order, so nothing is waited for before the end.

use std::ops::Range;
use std::time::Duration;

use calor_device::{BufferId, CodeId, Held, HostMemory, PreparedId, Span, Step, Ticket};
use calor_kernel::Digest;
use calor_telemetry::Stopwatch;
use calor_telemetry::event::Memory as Purpose;

use super::direct;
use super::proof::{self, Sums};
use super::reader::{self, Ending, Filled, Job, Load, Piece, Reading, Window};
use super::schedule::Schedule;
use super::weights::Shared;
use super::{Engine, ProgramSpec, device_step, identity};
use crate::error::RuntimeError;
use crate::kernel::KernelHandle;
use crate::plan::{BufferKind, BufferRow, Place, Plan, PlanSpan};
use crate::source::{SourceError, Stored, WeightSource};

/// Longest that all steps of a prelude may take.
const DEADLINE: Duration = Duration::from_secs(600);

/// What was loaded so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightsReport {
    /// Bytes read from sources, as `f32`.
    pub read_bytes: u64,
    /// Of these, bytes whose digests were compared with recorded ones.
    pub checked_bytes: u64,
    /// Of these, bytes that were summed again on the device, or digested there.
    pub proven_bytes: u64,
    /// Of these, bytes that the device read out of their files by itself.
    pub direct_bytes: u64,
    /// Host time from the first read to the last step's end, programs one after the other.
    pub wall_ns: u64,
    /// Of this, time in which the loader had nothing to hand on: reading was slower.
    pub waited_ns: u64,
    /// Of this, time in which it handed bytes to the device.
    pub written_ns: u64,
}

impl WeightsReport {
    pub(super) fn add(&mut self, other: Self) {
        let Self { read_bytes, checked_bytes, proven_bytes, direct_bytes, .. } = other;
        let Self { wall_ns, waited_ns, written_ns, .. } = other;
        self.read_bytes += read_bytes;
        self.checked_bytes += checked_bytes;
        self.proven_bytes += proven_bytes;
        self.direct_bytes += direct_bytes;
        self.wall_ns += wall_ns;
        self.waited_ns += waited_ns;
        self.written_ns += written_ns;
    }
}

/// What only the loading itself holds.
#[derive(Default)]
struct Temporary {
    buffers: Vec<(BufferId, u64)>,
    prepared: Vec<PreparedId>,
    /// The last run that was started.
    last: Option<Ticket>,
    report: WeightsReport,
}

/// A weight on its way.
pub(super) struct Target {
    pub(super) span: Span,
    /// Where its sums lie on the device; of no length where nothing is proven.
    sums: Span,
    /// What they must be.
    want: Vec<Sums>,
    parts: Vec<Option<Digest>>,
    read_len: usize,
    /// Where its digests lie on the device; of no length where a reader takes them.
    pub(super) digests: Span,
}

/// What the steps are made of.
pub(super) struct Course<'a> {
    plan: &'a Plan,
    codes: &'a [CodeId],
    pub(super) work: &'a Work<'a>,
    pub(super) source: Option<&'a dyn WeightSource>,
    spans: Vec<Option<Span>>,
    pub(super) targets: Vec<Target>,
    /// The code that sums, where weights are proven.
    prover: Option<CodeId>,
    /// The code that digests, where the device reads files.
    pub(super) digester: Option<CodeId>,
}

/// A round with its own loads and jobs.
pub(super) struct Batch {
    constants: Vec<usize>,
    pub(super) loads: Range<usize>,
    jobs: Range<usize>,
    steps: Vec<usize>,
}

/// Everything that is to be loaded, in order.
#[derive(Default)]
pub(super) struct Work<'a> {
    pub(super) loads: Vec<Load<'a>>,
    /// Index in the plan of each load.
    buffers: Vec<usize>,
    jobs: Vec<Job>,
    batches: Vec<Batch>,
}

impl<'a> Work<'a> {
    /// `stored` says where the device reads a weight by itself.
    fn of(
        plan: &'a Plan,
        schedule: &Schedule,
        stored: &dyn Fn(&str, usize) -> Option<Stored<'a>>,
    ) -> Self {
        let mut out = Self::default();
        for round in &schedule.rounds {
            let (first_load, first_job) = (out.loads.len(), out.jobs.len());
            let mut constants = Vec::new();
            for index in &round.loads {
                let row = &plan.buffers[*index];
                if let BufferKind::Weight { name } = &row.kind {
                    let count = row.ty.shape.element_count();
                    out.loads.push(Load { name, count, direct: stored(name, count) });
                    out.buffers.push(*index);
                } else {
                    constants.push(*index);
                }
            }
            out.jobs.extend(reader::jobs(&out.loads[first_load..], first_load));
            out.batches.push(Batch {
                constants,
                loads: first_load..out.loads.len(),
                jobs: first_job..out.jobs.len(),
                steps: round.steps.clone(),
            });
        }
        out
    }
}

impl Engine {
    /// Makes what a schedule leaves to do. Buffers of its own stay, also where this fails.
    pub(super) fn load(
        &mut self,
        spec: &ProgramSpec<'_>,
        plan: &Plan,
        codes: &[CodeId],
        schedule: &Schedule,
    ) -> Result<WeightsReport, RuntimeError> {
        let mut temporary = Temporary::default();
        let loaded = self.load_with(spec, plan, codes, schedule, &mut temporary);
        if let Some(last) = temporary.last.filter(|_| loaded.is_err()) {
            // What runs on must not meet memory that is given back. That it failed is known.
            let _ = self.device.queue.wait(last, DEADLINE);
        }
        for prepared in temporary.prepared {
            self.device.compiler.release(Held::Prepared(prepared))?;
        }
        for (buffer, bytes) in temporary.buffers {
            self.device.memory.free(buffer)?;
            self.report.weights_bytes -= bytes;
            self.weights_level.lower(bytes);
        }
        loaded
    }

    fn load_with(
        &mut self,
        spec: &ProgramSpec<'_>,
        plan: &Plan,
        codes: &[CodeId],
        schedule: &Schedule,
        temporary: &mut Temporary,
    ) -> Result<WeightsReport, RuntimeError> {
        let source = spec.source.as_deref();
        let digester = self.digester.as_ref().map(KernelHandle::code);
        let work = {
            let memory = &*self.device.memory;
            let source = source.filter(|_| digester.is_some());
            let stored = |name: &str, count| direct::stored(memory, source?, name, count);
            Work::of(plan, schedule, &stored)
        };
        if source.is_none() && !work.loads.is_empty() {
            return Err(RuntimeError::NoSource { program: spec.label.to_owned() });
        }
        let spans = self.spans(spec, plan, schedule, temporary)?;
        let held = match self.proves_weights && !work.loads.is_empty() {
            true => self.codes_of(&[proof::unit()])?.pop(),
            false => None,
        };
        let prover = held.as_ref().map(KernelHandle::code);
        let targets = self.targets(&work, &spans, prover.is_some(), temporary)?;
        let mut course =
            Course { plan, codes, work: &work, source, spans, targets, prover, digester };
        while self.host.len() < reader::ahead_max(work.jobs.len()) {
            self.host.push(self.device.memory.host(reader::JOB_LEN)?);
        }
        let window = Window::new(std::mem::take(&mut self.host));
        std::thread::scope(|scope| {
            let _ending = Ending(&window);
            if let Some(source) = source {
                let (loads, jobs) = (work.loads.as_slice(), work.jobs.as_slice());
                let reading = Reading { source, loads, jobs, sums: prover.is_some() };
                reading.start(scope, &window);
            }
            let mut batches = work.batches.iter();
            batches.try_for_each(|it| self.batch(it, &mut course, &window, temporary))
        })?;
        self.host = window.into_spare();
        if let Some(last) = temporary.last {
            self.device.queue.wait(last, DEADLINE)?;
        }
        self.judge(&course, temporary.report)
    }

    /// Where each buffer of the plan lies; makes room for those that are not there.
    fn spans(
        &mut self,
        spec: &ProgramSpec<'_>,
        plan: &Plan,
        schedule: &Schedule,
        temporary: &mut Temporary,
    ) -> Result<Vec<Option<Span>>, RuntimeError> {
        let identity = identity(spec);
        for index in &schedule.own {
            let row = &plan.buffers[*index];
            let Some(key) = row.key else { continue };
            let bytes = row.size_bytes();
            let buffer = self.alloc(bytes, Purpose::Weights)?;
            self.shared.insert((identity, key), Shared { buffer, bytes });
        }
        let hall = match schedule.hall_bytes {
            0 => None,
            bytes => Some(self.temporary(bytes, temporary)?),
        };
        let span = |(row, in_hall): (&BufferRow, &Option<u64>)| {
            let len = row.size_bytes();
            match (in_hall, hall) {
                (Some(offset), Some(buffer)) => Some(Span { buffer, offset: *offset, len }),
                _ => {
                    let shared = self.shared.get(&(identity, row.key?))?;
                    Some(Span { buffer: shared.buffer, offset: 0, len })
                }
            }
        };
        Ok(plan.buffers.iter().zip(&schedule.in_hall).map(span).collect())
    }

    fn temporary(
        &mut self,
        bytes: u64,
        temporary: &mut Temporary,
    ) -> Result<BufferId, RuntimeError> {
        let buffer = self.alloc(bytes, Purpose::Weights)?;
        temporary.buffers.push((buffer, bytes));
        Ok(buffer)
    }

    fn targets(
        &mut self,
        work: &Work<'_>,
        spans: &[Option<Span>],
        are_proven: bool,
        temporary: &mut Temporary,
    ) -> Result<Vec<Target>, RuntimeError> {
        let sums_bytes = |load: &Load<'_>| match are_proven && load.direct.is_none() {
            true => load.count.div_ceil(proof::ROW_LEN) as u64 * proof::SUMS_BYTES,
            false => 0,
        };
        let digests_bytes = |load: &Load<'_>| match load.direct {
            Some(_) => direct::digests_bytes(load.count),
            None => 0,
        };
        let sums_end: u64 = work.loads.iter().map(sums_bytes).sum();
        let all_bytes: u64 = sums_end + work.loads.iter().map(digests_bytes).sum::<u64>();
        let buffer = match all_bytes {
            0 => None,
            bytes => Some(self.temporary(bytes, temporary)?),
        };
        // Digests lie behind all sums.
        let (mut sums_at, mut digests_at) = (0, sums_end);
        let target = |(load, index): (&Load<'_>, &usize)| {
            let span = spans[*index].expect("a buffer that is loaded has its place");
            let buffer = buffer.unwrap_or(span.buffer);
            let sums = Span { buffer, offset: sums_at, len: sums_bytes(load) };
            let digests = Span { buffer, offset: digests_at, len: digests_bytes(load) };
            sums_at += sums.len;
            digests_at += digests.len;
            Target { span, sums, want: Vec::new(), parts: Vec::new(), read_len: 0, digests }
        };
        Ok(work.loads.iter().zip(&work.buffers).map(target).collect())
    }

    /// Hands the bytes of a round to the device and starts its steps.
    fn batch(
        &mut self,
        batch: &Batch,
        course: &mut Course<'_>,
        window: &Window,
        temporary: &mut Temporary,
    ) -> Result<(), RuntimeError> {
        for index in &batch.constants {
            if let (BufferKind::Constant { bytes }, Some(span)) =
                (&course.plan.buffers[*index].kind, course.spans[*index])
            {
                self.device.memory.write(span.buffer, span.offset, bytes)?;
            }
        }
        self.read_files(batch, course, &mut temporary.report)?;
        for job in &course.work.jobs[batch.jobs.clone()] {
            // Nothing comes when a reader has panicked, and then the scope panics too.
            let watch = Stopwatch::start();
            let Some(filled) = window.take() else { return Ok(()) };
            let waited_ns = watch.elapsed_ns();
            let filled = filled.map_err(|(load, source)| course.failed(load, source))?;
            self.write_job(job, &filled.elements, &course.targets)?;
            temporary.report.waited_ns += waited_ns;
            temporary.report.written_ns += watch.elapsed_ns() - waited_ns;
            window.give_back(course.note(job, filled)?);
        }
        let steps = course.steps(batch);
        if steps.is_empty() {
            return Ok(());
        }
        let edges: Vec<(u32, u32)> = (1..steps.len() as u32).map(|it| (it - 1, it)).collect();
        let prepared = self.device.queue.prepare(&steps, &edges, None)?;
        temporary.prepared.push(prepared);
        temporary.last = Some(self.device.queue.run(prepared)?);
        Ok(())
    }

    /// Neighbours in a job that are neighbours on the device are written at once.
    fn write_job(
        &mut self,
        job: &Job,
        elements: &[f32],
        targets: &[Target],
    ) -> Result<(), RuntimeError> {
        let to = |piece: &Piece| {
            let Span { buffer, offset, .. } = targets[piece.load].span;
            (buffer, offset + 4 * piece.first as u64)
        };
        let meet = |a: &Piece, b: &Piece| {
            let (from, next) = (to(a), to(b));
            (from.0, from.1 + 4 * (b.at - a.at) as u64) == next
        };
        for pieces in job.chunk_by(meet) {
            if let (Some(first), Some(last)) = (pieces.first(), pieces.last()) {
                let (buffer, offset) = to(first);
                let part = &elements[first.at..last.at + last.len];
                self.device.memory.write(buffer, offset, bytemuck::cast_slice(part))?;
            }
        }
        Ok(())
    }

    /// Compares what the device has summed with what was read.
    fn judge(
        &mut self,
        course: &Course<'_>,
        mut report: WeightsReport,
    ) -> Result<WeightsReport, RuntimeError> {
        for (target, load) in course.targets.iter().zip(&course.work.loads) {
            let bytes = 4 * load.count as u64;
            report.read_bytes += bytes;
            if course.source.is_some() && target.parts.iter().all(Option::is_some) {
                report.checked_bytes += bytes;
            }
            if course.prover.is_some() || load.direct.is_some() {
                report.proven_bytes += bytes;
            }
        }
        if course.prover.is_some() {
            self.judge_sums(course)?;
        }
        if course.digester.is_some() {
            self.judge_digests(course)?;
        }
        Ok(report)
    }

    fn judge_sums(&mut self, course: &Course<'_>) -> Result<(), RuntimeError> {
        let len: u64 = course.targets.iter().map(|it| it.sums.len).sum();
        let mut found = vec![[0_u32; 2]; (len / proof::SUMS_BYTES) as usize];
        if let Some(first) = course.targets.first() {
            let out = bytemuck::cast_slice_mut(&mut found);
            self.device.memory.read(first.sums.buffer, 0, out)?;
        }
        let mut rows = found.iter();
        for (target, load) in course.targets.iter().zip(&course.work.loads) {
            let wrong = target.want.iter().position(|want| rows.next() != Some(want));
            if let Some(row) = wrong {
                let (name, element) = (load.name.to_owned(), row * proof::ROW_LEN);
                return Err(RuntimeError::Damaged { name, element });
            }
        }
        Ok(())
    }
}

impl Course<'_> {
    pub(super) fn failed(&self, load: usize, source: SourceError) -> RuntimeError {
        RuntimeError::Weight { name: self.work.loads[load].name.to_owned(), source }
    }

    /// Keeps what readers found out about a job, and checks weights that are complete. The job's
    /// memory comes back.
    fn note(&mut self, job: &Job, filled: Filled) -> Result<Box<dyn HostMemory>, RuntimeError> {
        for ((piece, parts), sums) in job.iter().zip(filled.parts).zip(filled.sums) {
            let target = &mut self.targets[piece.load];
            target.parts.extend(parts);
            target.want.extend(sums);
            target.read_len += piece.len;
            let load = &self.work.loads[piece.load];
            let parts: Option<Vec<Digest>> = target.parts.iter().copied().collect();
            if let (Some(source), Some(parts)) = (self.source, parts)
                && target.read_len == load.count
            {
                let checked = source.check(load.name, &parts);
                checked.map_err(|source| self.failed(piece.load, source))?;
            }
        }
        Ok(filled.elements)
    }

    /// The steps of a round: sums of what was read, then its part of the prelude.
    fn steps(&self, batch: &Batch) -> Vec<Step> {
        let mut steps = direct::steps(self, batch);
        if let Some(code) = self.prover {
            let loads = batch.loads.clone().filter(|it| self.work.loads[*it].direct.is_none());
            for load in loads {
                let Target { span, sums, .. } = self.targets[load];
                let launches = proof::launches(self.work.loads[load].count);
                steps.extend(launches.map(|words| {
                    let args = vec![span, sums];
                    Step::Launch { code, words, args }
                }));
            }
        }
        let span = |it: &PlanSpan| {
            let Place::Buffer(index) = it.place else { return None };
            let Span { buffer, offset, .. } = self.spans[index as usize]?;
            Some(Span { buffer, offset: offset + it.offset, len: it.len })
        };
        let of_plan = batch.steps.iter().map(|it| &self.plan.prelude[*it]);
        steps.extend(of_plan.map(|it| device_step(self.plan, it, self.codes, 0, &span)));
        steps
    }
}
