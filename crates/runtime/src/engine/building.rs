//! Programs from their graphs to their weights, in the order in which memory and compilers want it.

use calor_device::CodeId;
use calor_telemetry::Label;
use calor_telemetry::event::WarmupStep;

use super::direct;
use super::{ALL, Draft, Engine, JoinedSpec, Part, PartSpec, Program, ProgramId, proof};
use crate::error::RuntimeError;
use crate::kernel::KernelHandle;
use crate::plan::BufferKind;

impl Engine {
    /// Plans, compiles and loads code, reserves memory and loads weights, in this order and each
    /// for all programs: code goes in while memory is free, and nothing is compiled once weights
    /// have come. When one cannot be added, none is.
    pub(crate) fn add(&mut self, specs: &[JoinedSpec<'_>]) -> Result<Vec<ProgramId>, RuntimeError> {
        let label = match specs {
            [one] => Label::of(one.label),
            _ => ALL,
        };
        let (drafts, plans_ns) = self.step(WarmupStep::Plan, label, |own| {
            let drafts = own.drafts(specs)?;
            own.within_quota(&drafts)?;
            Ok(drafts)
        })?;
        // Held until the programs hold it: code that nothing uses would give way to more of it.
        let ((handles, _prover), code_ns) = self.step(WarmupStep::Compile, label, |own| {
            let units = drafts.iter().flat_map(|it| &it.plans).flat_map(|it| &it.units);
            let handles = own.codes_of(units)?;
            let prover = match own.proves_weights {
                true => own.codes_of(&[proof::unit()])?.pop(),
                false => None,
            };
            if own.reads_files(&drafts) {
                own.digester = own.codes_of(&[direct::unit()])?.pop();
            }
            Ok((handles, prover))
        })?;
        let ((), memory_ns) = self.step(WarmupStep::Reserve, label, |own| {
            let mut all = drafts.iter();
            all.try_for_each(|it| own.grow(it.lane(), it.arena_bytes, it.boundary.bytes))
        })?;
        let added = self.step(WarmupStep::Weights, label, |own| {
            let mut codes = handles.iter().map(KernelHandle::code);
            own.add_drafts(drafts, &mut codes)
        });
        self.digester = None;
        let (added, weights_ns) = added?;
        self.host.clear();
        self.times.plans_ns += plans_ns;
        self.times.code_ns += code_ns;
        self.times.memory_ns += memory_ns;
        self.times.weights_ns += weights_ns;
        self.release_unused_code()?;
        Ok(added)
    }

    /// Whether the device reads any weight of these out of its file by itself.
    fn reads_files(&self, drafts: &[Draft<'_>]) -> bool {
        drafts.iter().any(|draft| {
            draft.spec.parts.iter().zip(&draft.plans).any(|(part, plan)| {
                let Some(source) = part.spec.source.as_deref() else { return false };
                plan.buffers.iter().any(|row| {
                    let BufferKind::Weight { name } = &row.kind else { return false };
                    let count = row.ty.shape.element_count();
                    direct::stored(&*self.device.memory, source, name, count).is_some()
                })
            })
        })
    }

    /// Every draft, or none.
    fn add_drafts(
        &mut self,
        drafts: Vec<Draft<'_>>,
        codes: &mut dyn Iterator<Item = CodeId>,
    ) -> Result<Vec<ProgramId>, RuntimeError> {
        let mut added = Vec::with_capacity(drafts.len());
        for draft in drafts {
            match self.add_draft(draft, codes) {
                Ok(program) => added.push(program),
                Err(err) => {
                    added.into_iter().try_for_each(|it| self.remove(it))?;
                    self.free_empty_lanes()?;
                    return Err(err);
                }
            }
        }
        Ok(added)
    }

    /// Weights and places of a program whose code is loaded and whose memory is reserved.
    fn add_draft(
        &mut self,
        draft: Draft<'_>,
        codes: &mut dyn Iterator<Item = CodeId>,
    ) -> Result<ProgramId, RuntimeError> {
        let lane = draft.lane();
        let Draft { spec: joined, plans, boundary, bases, .. } = draft;
        let mut parts = Vec::with_capacity(plans.len());
        for (index, (PartSpec { branch, spec }, plan)) in joined.parts.iter().zip(plans).enumerate()
        {
            let codes: Vec<CodeId> = codes.take(plan.units.len()).collect();
            let shared = self.prelude(spec, &plan, &codes)?;
            let bindings = self.bind(spec, &plan, shared, &boundary, index)?;
            parts.push(Part {
                label: Label::of(spec.label),
                branch: *branch,
                bucket: [spec.token_count_max, spec.sequence_count_max],
                digest: plan.digest(),
                moved_bytes: plan.cost().0,
                plan,
                codes,
                bindings,
                arena_base: bases[index],
            });
        }
        parts.iter().for_each(|it| self.codes.pin(&it.codes));
        let label = Label::of(joined.label);
        let program = Program { label, parts, lane: lane.0, prepared: None, removed: false };
        self.programs.push(program);
        Ok(ProgramId(self.programs.len() - 1))
    }
}
