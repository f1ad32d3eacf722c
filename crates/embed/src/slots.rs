//! The neural slots of a profile: towers, their tokenizers, and what each model makes of a row.

mod open;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::embedding::{SparseVector, TokenMatrix, normalize_l2};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::image_tower::ImageTower;
use crate::input::Role;
use crate::lexical::lexical_vector;
use crate::model_id::ModelId;
use crate::packing::PackItem;
use crate::pieces::in_pieces;
use crate::profile::Need;
use crate::programs::Programs;
use crate::projection::{OrthonormalMap, SparseProjection, pad_with_zeros};
use crate::tokenizer::{
    ColbertTokenizer, ContentIds, TextTokenizer, TokenCut, TokenLimit, e5_prefix,
};
use crate::tower::{TextTower, weights_bytes};

/// Texts that a thread tokenizes at least.
const TEXTS_EACH_MIN: usize = 4;

/// Seed of the fixed orthonormal maps; each model has its own stream.
const MAP_SEED: u64 = 42;

/// What a neural model makes of one input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SlotVector {
    /// The vector of its slot, normalised.
    pub(crate) vector: Vec<f32>,
    /// E6 in its own form.
    pub(crate) sparse: Option<SparseVector>,
    /// E12 in its own form.
    pub(crate) tokens: Option<TokenMatrix>,
    /// What was cut off the text for this model.
    pub(crate) cut: Option<TokenCut>,
}

/// A text as a neural model sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NeuralText<'a> {
    /// The text.
    pub(crate) text: &'a str,
    /// Query or passage.
    pub(crate) role: Role,
}

/// A checkpoint that serves one slot or, as a trunk, several.
#[derive(Debug)]
pub(crate) struct NeuralModel {
    host: Arc<HostSide>,
    tower: TextTower,
    image: Option<ImageTower>,
}

/// What a checkpoint's models need no device for: texts on their way in, rows on their way out.
#[derive(Debug)]
pub(crate) struct HostSide {
    need: Need,
    models: Vec<ModelId>,
    has_images: bool,
    tokens: Tokens,
    prefix: Prefix,
    limit: TokenLimit,
    sparse: Option<SparseProjection>,
    /// Host-side map of a native vector whose size is not its slot's.
    map: Option<OrthonormalMap>,
    trunk: bool,
    /// Whether the tower's outputs are the slots themselves.
    device_slots: bool,
}

#[derive(Debug)]
enum Tokens {
    Plain(TextTokenizer),
    Colbert(ColbertTokenizer),
}

/// What goes before a text: E5 was trained with a word that tells queries from passages.
#[derive(Debug)]
enum Prefix {
    None,
    /// Ids, where they do not depend on what follows.
    Ids {
        query: Vec<u32>,
        passage: Vec<u32>,
    },
    /// Words that are tokenized with the text.
    Words,
}

/// A tokenized text with what is needed after the run.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) ids: Vec<u32>,
    attended_len: usize,
    pub(crate) keep: Option<Vec<bool>>,
    pub(crate) cut: Option<TokenCut>,
}

impl Prepared {
    /// As a packer takes it.
    pub(crate) fn item(&self) -> PackItem<'_> {
        PackItem { ids: &self.ids, attended_len: self.attended_len, keep: self.keep.as_deref() }
    }
}

/// Rows and their length of an output of a tower, by its name.
type RowsOf<'f, 'r> = &'f dyn Fn(&str) -> Option<(&'r [f32], usize)>;

impl NeuralModel {
    /// What needs no device.
    pub(crate) fn host(&self) -> &Arc<HostSide> {
        &self.host
    }

    pub(crate) fn models(&self) -> &[ModelId] {
        &self.host.models
    }

    pub(crate) fn name(&self) -> &'static str {
        self.host.need.name
    }

    pub(crate) fn tower(&self) -> &TextTower {
        &self.tower
    }

    pub(crate) fn tower_mut(&mut self) -> &mut TextTower {
        &mut self.tower
    }

    pub(crate) fn image(&self) -> Option<&ImageTower> {
        self.image.as_ref()
    }

    pub(crate) fn image_mut(&mut self) -> Option<&mut ImageTower> {
        self.image.as_mut()
    }

    /// Gives the device memory of every program back.
    pub(crate) fn release(&mut self, programs: &mut Programs) -> EmbeddingResult<()> {
        self.tower.release(programs)?;
        self.image.as_mut().map_or(Ok(()), |it| it.release(programs))
    }

    /// Device bytes of the weights that its programs bind.
    pub(crate) fn weights_bytes(&self, programs: &Programs) -> u64 {
        let images = self.image.iter().flat_map(ImageTower::programs);
        weights_bytes(programs, self.tower.programs().chain(images))
    }

    /// What each wanted model of the checkpoint makes of each text.
    pub(crate) fn embed(
        &mut self,
        programs: &mut Programs,
        texts: &[NeuralText<'_>],
        wanted: &BTreeSet<ModelId>,
    ) -> EmbeddingResult<Vec<EmbeddingResult<BTreeMap<ModelId, SlotVector>>>> {
        let prepared = in_pieces(texts, TEXTS_EACH_MIN, |it| self.host.prepare(it));
        let good: Vec<&Prepared> = prepared.iter().filter_map(|it| it.as_ref().ok()).collect();
        let items: Vec<PackItem<'_>> = good.iter().map(|it| it.item()).collect();
        let outputs =
            if items.is_empty() { Vec::new() } else { self.tower.run(programs, &items)? };
        let mut rows = (0..good.len()).map(|at| {
            let of = |name: &str| {
                let output = outputs.iter().find(|it| it.name == name)?;
                Some((output.items[at].as_slice(), output.row_len))
            };
            self.host.slots(good[at], wanted, &of)
        });
        let lost = || EmbeddingError::InternalError { place: "tower rows", source: None };
        let mut results = Vec::with_capacity(prepared.len());
        for item in &prepared {
            results.push(match item {
                Ok(_) => rows.next().unwrap_or_else(|| Err(lost())),
                Err(_) => Err(lost()),
            });
        }
        drop(rows);
        for (result, item) in results.iter_mut().zip(prepared) {
            if let Err(err) = item {
                *result = Err(err);
            }
        }
        Ok(results)
    }

    /// One vector for each image.
    pub(crate) fn embed_images(
        &mut self,
        programs: &mut Programs,
        images: &[&[f32]],
    ) -> EmbeddingResult<Vec<SlotVector>> {
        let Some(image) = &mut self.image else {
            return Err(EmbeddingError::InternalError { place: "image tower", source: None });
        };
        let vectors = image.run(programs, images)?;
        vectors
            .into_iter()
            .map(|vector| {
                let vector = self.host.to_slot(ModelId::Multimodal, &vector)?;
                Ok(SlotVector { vector, sparse: None, tokens: None, cut: None })
            })
            .collect()
    }

    /// Side of the images that the vision tower takes.
    pub(crate) fn image_side_len(&self) -> Option<usize> {
        self.image.as_ref().map(|it| it.config().image_len)
    }
}

impl HostSide {
    pub(crate) fn need(&self) -> Need {
        self.need
    }

    pub(crate) fn models(&self) -> &[ModelId] {
        &self.models
    }

    /// The models whose slots the tower leaves on the device, with the outputs' names.
    pub(crate) fn device_slots(&self) -> Vec<(ModelId, String)> {
        let on_device = self.models.iter().filter(|it| self.is_on_device(**it));
        on_device.map(|it| (*it, slot_name(*it))).collect()
    }

    /// Whether the tower leaves the model's slot on the device.
    pub(crate) fn is_on_device(&self, model: ModelId) -> bool {
        self.device_slots
            && self.models.contains(&model)
            && !(self.trunk && model == ModelId::Sparse)
    }

    pub(crate) fn takes_images(&self) -> bool {
        self.has_images
    }

    /// How its texts become ids, without the marks of a late interaction.
    pub(crate) fn tokenizer(&self) -> &TextTokenizer {
        match &self.tokens {
            Tokens::Plain(tokenizer) => tokenizer,
            Tokens::Colbert(colbert) => colbert.plain(),
        }
    }

    /// Most tokens of a text.
    pub(crate) fn limit(&self) -> TokenLimit {
        match &self.tokens {
            Tokens::Plain(_) => self.limit,
            Tokens::Colbert(colbert) => {
                let token_count_max = colbert.options().document_len_max;
                TokenLimit { token_count_max, ..self.limit }
            }
        }
    }

    /// Checkpoints of equal kin read the same ids of a text's own.
    pub(crate) fn kin(&self) -> (blake3::Hash, bool) {
        (self.tokenizer().digest(), matches!(self.prefix, Prefix::Words))
    }

    /// Most ids of a text's own that its models take; all where longer texts are refused.
    pub(crate) fn budget(&self) -> Option<usize> {
        match &self.tokens {
            Tokens::Plain(tokenizer) => tokenizer.budget(self.limit, 0),
            Tokens::Colbert(colbert) => Some(colbert.budget()),
        }
    }

    pub(crate) fn prepare(&self, text: &NeuralText<'_>) -> EmbeddingResult<Prepared> {
        self.framed(&self.content(text, self.budget())?, text.role)
    }

    /// The first `budget` ids of a text's own, for this checkpoint and its kin.
    pub(crate) fn content(
        &self,
        text: &NeuralText<'_>,
        budget: Option<usize>,
    ) -> EmbeddingResult<ContentIds> {
        match self.prefix {
            Prefix::Words => {
                let prefixed = format!("{}{}", e5_prefix(text.role), text.text);
                self.tokenizer().content(&prefixed, budget)
            }
            Prefix::None | Prefix::Ids { .. } => self.tokenizer().content(text.text, budget),
        }
    }

    /// A text as the checkpoint's models take it.
    pub(crate) fn framed(&self, content: &ContentIds, role: Role) -> EmbeddingResult<Prepared> {
        let tokenizer = match &self.tokens {
            Tokens::Colbert(colbert) => {
                let tokens = colbert.framed(content, role)?;
                return Ok(Prepared {
                    attended_len: tokens.attended_len,
                    keep: Some(tokens.keep),
                    cut: tokens.cut,
                    ids: tokens.ids,
                });
            }
            Tokens::Plain(tokenizer) => tokenizer,
        };
        let prefix = match (&self.prefix, role) {
            (Prefix::None | Prefix::Words, _) => &[][..],
            (Prefix::Ids { query, .. }, Role::Query) => query,
            (Prefix::Ids { passage, .. }, Role::Passage) => passage,
        };
        let tokens = tokenizer.framed(content, prefix, self.limit)?;
        Ok(Prepared {
            attended_len: tokens.ids.len(),
            keep: None,
            cut: tokens.cut,
            ids: tokens.ids,
        })
    }

    fn slots<'r>(
        &self,
        item: &Prepared,
        wanted: &BTreeSet<ModelId>,
        of: RowsOf<'_, 'r>,
    ) -> EmbeddingResult<BTreeMap<ModelId, SlotVector>> {
        let lost = || EmbeddingError::InternalError { place: "tower outputs", source: None };
        let cut = item.cut;
        let mut out = BTreeMap::new();
        for model in self.models.iter().copied().filter(|it| wanted.contains(it)) {
            let mut made = SlotVector { vector: Vec::new(), sparse: None, tokens: None, cut };
            match model {
                ModelId::Sparse if self.trunk => {
                    let sparse = self.lexical(&item.ids)?;
                    made.vector = self.projected(&sparse)?;
                    made.sparse = Some(sparse);
                }
                ModelId::Sparse => {
                    let sparse = SparseVector::from_dense(of("pooled").ok_or_else(lost)?.0)?;
                    made.vector = match self.device_slots {
                        true => of(&slot_name(model)).ok_or_else(lost)?.0.to_vec(),
                        false => self.projected(&sparse)?,
                    };
                    made.sparse = Some(sparse);
                }
                ModelId::LateInteraction => {
                    let (rows, row_len) = of("tokens").ok_or_else(lost)?;
                    let matrix = self.token_matrix(rows, row_len, item.keep.as_deref())?;
                    made.vector = match self.device_slots {
                        true => of(&slot_name(model)).ok_or_else(lost)?.0.to_vec(),
                        false => matrix.mean_unit(),
                    };
                    made.tokens = Some(matrix);
                }
                _ if self.trunk || self.device_slots => {
                    made.vector = of(&slot_name(model)).ok_or_else(lost)?.0.to_vec();
                }
                _ => made.vector = self.to_slot(model, of("pooled").ok_or_else(lost)?.0)?,
            }
            out.insert(model, made);
        }
        Ok(out)
    }

    /// E6's slot of terms that were found on the host.
    fn projected(&self, sparse: &SparseVector) -> EmbeddingResult<Vec<f32>> {
        let lost = || EmbeddingError::InternalError { place: "sparse projection", source: None };
        let mut vector = self.sparse.as_ref().ok_or_else(lost)?.apply(sparse)?;
        normalize_l2(&mut vector);
        Ok(vector)
    }

    /// E6's own form and slot where they are made on the host alone.
    pub(crate) fn host_sparse(&self, ids: &[u32]) -> EmbeddingResult<(SparseVector, Vec<f32>)> {
        let sparse = self.lexical(ids)?;
        let vector = self.projected(&sparse)?;
        Ok((sparse, vector))
    }

    /// E12's own form of the rows that count.
    pub(crate) fn token_matrix(
        &self,
        rows: &[f32],
        row_len: usize,
        keep: Option<&[bool]>,
    ) -> EmbeddingResult<TokenMatrix> {
        let rows = match keep {
            Some(keep) => kept(rows, row_len, keep),
            None => rows.to_vec(),
        };
        let rows = self.token_rows(rows, row_len)?;
        TokenMatrix::new(rows, ModelId::LateInteraction.slot_dimension())
    }

    /// Token rows of a checkpoint whose projection has another width than the slot.
    fn token_rows(&self, rows: Vec<f32>, row_len: usize) -> EmbeddingResult<Vec<f32>> {
        let want = ModelId::LateInteraction.slot_dimension();
        if row_len == want {
            return Ok(rows);
        }
        let map = OrthonormalMap::new(MAP_SEED, row_len, want)?;
        let mut out = Vec::with_capacity(rows.len() / row_len * want);
        for row in rows.chunks_exact(row_len) {
            let mut mapped = map.apply(row)?;
            normalize_l2(&mut mapped);
            out.extend(mapped);
        }
        Ok(out)
    }

    fn to_slot(&self, model: ModelId, native: &[f32]) -> EmbeddingResult<Vec<f32>> {
        let mut vector = match &self.map {
            Some(map) => map.apply(native)?,
            None if native.len() < model.slot_dimension() => {
                pad_with_zeros(native, model.slot_dimension())?
            }
            None => native.to_vec(),
        };
        normalize_l2(&mut vector);
        Ok(vector)
    }

    fn lexical(&self, ids: &[u32]) -> EmbeddingResult<SparseVector> {
        let tokenizer = self.tokenizer();
        let special = [tokenizer.opening(), tokenizer.closing()].concat();
        lexical_vector(ids, &special)
    }
}

fn kept(rows: &[f32], row_len: usize, keep: &[bool]) -> Vec<f32> {
    let kept = rows.chunks_exact(row_len).zip(keep).filter(|(_, keep)| **keep);
    kept.flat_map(|(row, _)| row.iter().copied()).collect()
}

/// The output of a model's own map of the trunk.
pub(crate) fn slot_name(model: ModelId) -> String {
    format!("slot.{}", model.as_str())
}
