//! What every program has to give before the right to build is given up: the same as the smallest.

use super::PipelineCore;
use crate::embedding::cosine;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::input::{ModelInput, Role};
use crate::packing::{Bucket, PackItem};
use crate::programs::Programs;
use crate::slots::{NeuralModel, NeuralText};
use crate::tower::{TextTower, TowerOutput};

/// What every bucket is run with: what it says does not matter.
pub(crate) const CHECK_TEXTS: [&str; 2] =
    ["The river froze over before the first boats could leave the harbour.", "A short note."];

impl PipelineCore {
    /// A text through every program of all models gives what the towers one by one give.
    pub(super) fn check_forms(&mut self, want: f64) -> EmbeddingResult<()> {
        let Some(mut forms) = self.forms.take() else { return Ok(()) };
        let together = std::mem::take(&mut forms.together);
        let inputs = CHECK_TEXTS.map(ModelInput::text);
        let inputs = inputs.into_iter().collect::<EmbeddingResult<Vec<_>>>()?;
        let mut fused: Option<Vec<f32>> = None;
        // First without, then with each of the programs that hold all models alone.
        let mut left = vec![None];
        left.extend(together.into_iter().map(Some));
        let mut kept = Vec::new();
        for form in left {
            let token_count = form.as_ref().map_or(0, |it| it.room.token_count);
            forms.together = form.into_iter().collect();
            self.forms = Some(forms);
            let outputs = self.embed_batch(&inputs, 0);
            let lost = || EmbeddingError::InternalError { place: "forms", source: None };
            forms = self.forms.take().ok_or_else(lost)?;
            kept.append(&mut forms.together);
            let mut got = Vec::new();
            for output in outputs? {
                let output = output?;
                got.extend_from_slice(output.embeddings.as_slice().unwrap_or_default());
            }
            let Some(wanted) = &fused else {
                fused = Some(got);
                continue;
            };
            let cosine = cosine(&got, wanted);
            if cosine < want {
                let model = "all models".to_owned();
                return Err(EmbeddingError::WarmupMismatch { model, token_count, cosine, want });
            }
        }
        forms.together = kept;
        self.forms = Some(forms);
        Ok(())
    }
}

/// Runs every program of one model.
pub(super) fn check_model(model: &mut NeuralModel, programs: &mut Programs) -> EmbeddingResult<()> {
    let texts = CHECK_TEXTS.map(|text| NeuralText { text, role: Role::Passage });
    let prepared = texts.iter().map(|it| model.host().prepare(it));
    let prepared = prepared.collect::<EmbeddingResult<Vec<_>>>()?;
    let items: Vec<PackItem<'_>> = prepared.iter().map(|it| it.item()).collect();
    check_buckets(model.tower_mut(), programs, &items)?;
    model.image_mut().map_or(Ok(()), |it| it.check(programs))
}

/// Runs items in every bucket of a tower that holds them; each must give what the smallest gives.
pub(crate) fn check_buckets(
    tower: &mut TextTower,
    programs: &mut Programs,
    items: &[PackItem<'_>],
) -> EmbeddingResult<()> {
    let want = tower.spec().precision.cosine_min();
    let token_count: usize = items.iter().map(|it| it.ids.len()).sum();
    let mut smallest: Option<Vec<TowerOutput>> = None;
    for bucket in tower.ladder().to_vec() {
        if bucket.token_count < token_count || bucket.sequence_count < items.len() {
            continue;
        }
        let got = tower.run_in(programs, bucket, items)?;
        match &smallest {
            None => smallest = Some(got),
            Some(wanted) => same(&tower.spec().label, bucket, &got, wanted, want)?,
        }
    }
    Ok(())
}

fn same(
    model: &str,
    bucket: Bucket,
    got: &[TowerOutput],
    wanted: &[TowerOutput],
    want: f64,
) -> EmbeddingResult<()> {
    for (got, wanted) in got.iter().zip(wanted) {
        for (got, wanted) in got.items.iter().zip(&wanted.items) {
            let cosine = cosine(got, wanted);
            if cosine < want || !got.iter().all(|it| it.is_finite()) {
                let (model, token_count) = (model.to_owned(), bucket.token_count);
                return Err(EmbeddingError::WarmupMismatch { model, token_count, cosine, want });
            }
        }
    }
    Ok(())
}
