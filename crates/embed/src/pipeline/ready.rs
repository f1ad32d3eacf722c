//! From files to a warm pipeline in one go, under a policy that says which models have to be there.

use calor_runtime::Build;

use super::load::fuses;
use super::{
    LostModel, LostModels, PipelineCore, PipelineOptions, PrecisionRule, ReadyReport, Told,
};
use crate::error::EmbeddingResult;
use crate::warmup::ReadyPolicy;

/// A warm pipeline.
#[derive(Debug)]
pub struct Ready {
    /// The pipeline.
    pub core: PipelineCore,
    /// What becoming ready took.
    pub report: ReadyReport,
    /// Models that failed on the way; none where all must be there.
    pub lost: Vec<LostModel>,
}

impl PipelineCore {
    /// Opens, compares and warms every model that the options name. Where the policy allows it, a
    /// checkpoint that fails is lost and the others go on. `told` hears of each.
    ///
    /// # Errors
    /// [`crate::EmbeddingError::TooFewModels`] when what is left is not enough; as
    /// [`PipelineCore::open`], [`PipelineCore::check_precision`] and [`PipelineCore::warm`] where
    /// every model has to be there.
    pub fn ready(
        build: Build,
        options: PipelineOptions,
        policy: &ReadyPolicy,
        rule: PrecisionRule,
        told: &mut dyn FnMut(Told<'_>),
    ) -> EmbeddingResult<Ready> {
        let configured = options.models.clone();
        let fuses = fuses(&options);
        let part = Part { options, fuses, is_part: false };
        let ready = part.ready(build, policy.allows_loss(), rule, told)?;
        policy.check(&configured, &ready.lost)?;
        Ok(ready)
    }
}

/// A pipeline, or what one device holds of it.
pub(super) struct Part {
    pub(super) options: PipelineOptions,
    pub(super) fuses: bool,
    pub(super) is_part: bool,
}

impl Part {
    /// Opens, compares and warms; what fails is lost where that is allowed.
    pub(super) fn ready(
        self,
        build: Build,
        allows_loss: bool,
        rule: PrecisionRule,
        told: &mut dyn FnMut(Told<'_>),
    ) -> EmbeddingResult<Ready> {
        let Self { options, fuses, is_part } = self;
        let (mut core, unopened) = PipelineCore::opened(build, options, fuses)?;
        core.is_part = is_part;
        if !allows_loss {
            if let Some(it) = unopened.into_iter().next() {
                return Err(it.source);
            }
            core.check_precision(rule, None)?;
            let mut warm = |model_ids: &[_], check_ns| told(Told::Warm { model_ids, check_ns });
            let (core, report) = core.warm_telling(&mut warm)?;
            return Ok(Ready { core, report, lost: Vec::new() });
        }
        let mut lost: Vec<LostModel> = Vec::new();
        unopened.iter().for_each(|lost| told(Told::Lost { lost, again: &[] }));
        lost.extend(unopened.iter().flat_map(LostModels::each));
        if let Some(it) = unopened.into_iter().next().filter(|_| core.loaded.is_empty()) {
            return Err(it.source);
        }
        let (_, far) = core.check_precision_each(rule, None)?;
        far.iter().for_each(|lost| told(Told::Lost { lost, again: &[] }));
        lost.extend(far.iter().flat_map(LostModels::each));
        let (core, report, failed) = core.warm_each_telling(told)?;
        lost.extend(failed.iter().flat_map(LostModels::each));
        lost.sort_by_key(|it| it.model_id);
        Ok(Ready { core, report, lost })
    }
}
