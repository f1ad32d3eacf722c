//! Whether each model's vectors in its precision are close enough to those in f32, before anything
//! is served, and how much quicker they come.

use std::collections::BTreeMap;

use calor_telemetry::clock::Stopwatch;
use serde::{Deserialize, Serialize};

use super::{LostModels, PipelineCore, PipelineOptions};
use crate::closeness::Closeness;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::input::Role;
use crate::model_id::ModelId;
use crate::precision::InferencePrecision;
use crate::profile::Need;
use crate::slots::{NeuralModel, NeuralText};

/// What is compared: enough texts for a mean, of several kinds and lengths.
const TEXTS: [&str; 8] = [
    "The river froze over before the first boats could leave the harbour.",
    "fn main() { println!(\"{}\", 6 * 7); }",
    "Warum ist der Himmel blau?",
    "A short note.",
    "Heat flows from the warmer body to the colder one until both are alike.",
    "42",
    "The committee postponed its decision, because two of the five members had not received the \
     report in time, and the others would not vote without them.",
    "Ship the red boxes first, then the blue ones.",
];
/// Runs of which the quickest counts.
const RUN_COUNT: usize = 3;

/// What happens to a model whose vectors in its precision are too far from those in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionRule {
    /// Nothing is compared.
    Unchecked,
    /// As [`PrecisionRule::Refuse`] of fp8 and int8, which keep four digits; wider ones are not
    /// compared, as that takes each model in f32 as well.
    #[default]
    Narrow,
    /// The pipeline is refused in the model's name.
    Refuse,
    /// The model runs in the next wider precision that is close enough, f32 at last.
    Widen,
}

impl PrecisionRule {
    /// Whether models that are to run in a precision are compared.
    pub fn compares(self, wanted: InferencePrecision) -> bool {
        match self {
            Self::Unchecked => false,
            Self::Narrow => wanted.is_narrow(),
            Self::Refuse | Self::Widen => wanted != InferencePrecision::FP32,
        }
    }
}

/// How close a model is in its precision, and what that is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionResult {
    /// Which model.
    pub model_id: ModelId,
    /// The precision that was asked for.
    pub wanted: InferencePrecision,
    /// The one that it runs in: another only where [`PrecisionRule::Widen`] allows it.
    pub used: InferencePrecision,
    /// Least cosines to f32 in the precision that it runs in.
    pub closeness: Closeness,
    /// How many times quicker than f32 its checkpoint is in it, for eight texts at once.
    pub speed_factor: f64,
}

/// What a checkpoint gives in one precision.
struct Measured {
    vectors: BTreeMap<ModelId, Vec<Vec<f32>>>,
    wall_ns: u64,
}

impl PipelineCore {
    /// Compares every neural model in its precision with itself in f32, checkpoint by checkpoint,
    /// and measures both. Nothing is compared in f32. `cosine_min` asks for more or less than the
    /// precision promises.
    ///
    /// # Errors
    /// [`EmbeddingError::PrecisionTooFar`] for the first model that is too far from f32, where the
    /// rule does not allow a wider precision; [`EmbeddingError::NotWarm`] once nothing is built any
    /// more; what the device says.
    pub fn check_precision(
        &mut self,
        rule: PrecisionRule,
        cosine_min: Option<f64>,
    ) -> EmbeddingResult<Vec<PrecisionResult>> {
        let mut results = Vec::new();
        if rule.compares(self.options.precision) {
            for index in 0..self.neural.len() {
                results.extend(self.judge(index, rule, cosine_min)?);
            }
        }
        Ok(results)
    }

    /// As [`PipelineCore::check_precision`], but a checkpoint that is too far from f32 or fails is
    /// unloaded, and the others stay.
    ///
    /// # Errors
    /// What the device says, and the last checkpoint's fault when none is left.
    pub fn check_precision_each(
        &mut self,
        rule: PrecisionRule,
        cosine_min: Option<f64>,
    ) -> EmbeddingResult<(Vec<PrecisionResult>, Vec<LostModels>)> {
        let (mut results, mut lost) = (Vec::new(), Vec::new());
        let mut index = 0;
        while rule.compares(self.options.precision) && index < self.neural.len() {
            match self.judge(index, rule, cosine_min) {
                Ok(judged) => {
                    results.extend(judged);
                    index += 1;
                }
                Err(source) => {
                    let model_ids = self.unload_checkpoint(index)?;
                    if self.loaded.is_empty() {
                        return Err(source);
                    }
                    lost.push(LostModels { model_ids, source });
                }
            }
        }
        Ok((results, lost))
    }

    /// One checkpoint in its precision beside itself in f32.
    fn judge(
        &mut self,
        index: usize,
        rule: PrecisionRule,
        cosine_min: Option<f64>,
    ) -> EmbeddingResult<impl Iterator<Item = PrecisionResult> + use<>> {
        let wanted = self.options.precision;
        let need = self.neural[index].host().need();
        let exact = self.measure(need, InferencePrecision::FP32)?;
        let mut used = wanted;
        let judged = loop {
            let judged = match used {
                InferencePrecision::FP32 => judged(used, &exact, &exact),
                _ => judged(used, &self.measure(need, used)?, &exact),
            };
            let Some((model_id, far)) = judged.iter().find_map(|it| too_far(it, cosine_min)) else {
                break judged;
            };
            match (rule, wider(used)) {
                (PrecisionRule::Widen, Some(next)) => used = next,
                _ => {
                    let model = format!("{} ({model_id})", need.name);
                    let want = cosine_min.unwrap_or(used.cosine_min());
                    let (precision, cosine) = (used, far);
                    return Err(EmbeddingError::PrecisionTooFar { model, precision, cosine, want });
                }
            }
        };
        if used != wanted {
            let options = PipelineOptions { precision: used, ..self.options.clone() };
            let other = NeuralModel::open(self.lane, need, &options)?;
            std::mem::replace(&mut self.neural[index], other).release(&mut self.programs)?;
            self.renew_front();
            // It is not what the options say any more.
            self.revision = None;
        }
        Ok(judged.into_iter().map(move |it| PrecisionResult { wanted, ..it }))
    }

    /// Opens a checkpoint in a precision, runs the texts, and gives its memory back.
    fn measure(&mut self, need: Need, precision: InferencePrecision) -> EmbeddingResult<Measured> {
        let options = PipelineOptions { precision, ..self.options.clone() };
        let mut model = NeuralModel::open(self.lane, need, &options)?;
        let measured = self.run_texts_of(&mut model);
        let released = model.release(&mut self.programs);
        let measured = measured?;
        released?;
        Ok(measured)
    }

    fn run_texts_of(&mut self, model: &mut NeuralModel) -> EmbeddingResult<Measured> {
        let texts = TEXTS.map(|text| NeuralText { text, role: Role::Passage });
        let wanted = model.models().iter().copied().collect();
        let mut measured = Measured { vectors: BTreeMap::new(), wall_ns: u64::MAX };
        // The first run builds what the others use.
        for run in 0..=RUN_COUNT {
            let watch = Stopwatch::start();
            let rows = model.embed(&mut self.programs, &texts, &wanted)?;
            if 0 < run {
                measured.wall_ns = measured.wall_ns.min(watch.elapsed_ns());
                continue;
            }
            for row in rows {
                for (model_id, slot) in row? {
                    measured.vectors.entry(model_id).or_default().push(slot.vector);
                }
            }
        }
        Ok(measured)
    }
}

/// A row for each model of a checkpoint.
fn judged(used: InferencePrecision, got: &Measured, exact: &Measured) -> Vec<PrecisionResult> {
    let speed_factor = exact.wall_ns as f64 / got.wall_ns.max(1) as f64;
    let row = |(model_id, exact): (&ModelId, &Vec<Vec<f32>>)| PrecisionResult {
        model_id: *model_id,
        wanted: used,
        used,
        closeness: got.vectors.get(model_id).map_or(NOWHERE, |got| Closeness::of(got, exact)),
        speed_factor,
    };
    exact.vectors.iter().map(row).collect()
}

/// Of a model that gives no vectors.
const NOWHERE: Closeness = Closeness { plain: f64::NAN, centred: f64::NAN };

fn too_far(it: &PrecisionResult, cosine_min: Option<f64>) -> Option<(ModelId, f64)> {
    let least = it.closeness.least();
    // f32 is what is compared with; what is no number is not close.
    let is_close =
        it.used == InferencePrecision::FP32 || cosine_min.unwrap_or(it.used.cosine_min()) <= least;
    (!is_close).then_some((it.model_id, least))
}

/// The next precision with more digits that every device runs in.
fn wider(precision: InferencePrecision) -> Option<InferencePrecision> {
    match precision {
        InferencePrecision::FP8 | InferencePrecision::INT8 => Some(InferencePrecision::BF16),
        InferencePrecision::FP16 | InferencePrecision::BF16 | InferencePrecision::TF32 => {
            Some(InferencePrecision::FP32)
        }
        InferencePrecision::FP32 => None,
    }
}

#[test]
fn a_rule_compares_what_may_be_far() {
    use InferencePrecision as P;
    let compared = |rule: PrecisionRule| P::ALL.map(|it| rule.compares(it));
    assert_eq!(compared(PrecisionRule::Unchecked), [false; 6]);
    assert_eq!(P::ALL, [P::FP32, P::TF32, P::FP16, P::BF16, P::FP8, P::INT8]);
    assert_eq!(compared(PrecisionRule::default()), [false, false, false, false, true, true]);
    for rule in [PrecisionRule::Refuse, PrecisionRule::Widen] {
        assert_eq!(compared(rule), [false, true, true, true, true, true]);
    }
}
