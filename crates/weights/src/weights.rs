//! A checkpoint under canonical names: every tensor found, checked and readable.
//!
//! What the names are is in `names.rs`. Values are read on request and never changed.

use std::{collections::BTreeMap, fs::File, ops::Range, sync::OnceLock};

use crate::{
    Checkpoint, Dtype, EncoderConfig, Family, ModelConfig, WeightsError,
    config::HIDDEN_LEN_MAX,
    names::{MlmNames, Need, PREFIXES, mlm_names, project_name, tower_needs},
};

/// A checkpoint under canonical names. Every tensor that the configuration asks for is there
/// and has the right shape; that was proven by [`Weights::bind`].
///
/// Matrices are `[out, in]`: a linear layer is `x · weightᵀ + bias`. In a gated block the
/// activation is applied to `gate`, whatever the family calls it.
#[derive(Debug)]
pub struct Weights {
    checkpoint: Checkpoint,
    rows: BTreeMap<String, Bound>,
    head: Head,
}

/// What follows the encoder, as found in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Nothing.
    None,
    /// `head.mlm.*`: a dense layer, the activation, a norm and a decoder to the vocabulary.
    /// SPLADE's, and what pre-trained encoders still carry.
    MaskedLm,
    /// `head.project.*` on every row: ColBERT.
    TokenProjection {
        /// Width of the result.
        out_len: usize,
    },
    /// `head.project.*` on the first row: CodeT5+.
    FirstTokenProjection {
        /// Width of the result.
        out_len: usize,
    },
    /// `text.head.project.weight` and `vision.head.project.weight`: CLIP.
    SharedProjection {
        /// Width of the shared space.
        out_len: usize,
    },
}

/// Where a canonical tensor is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name in the checkpoint.
    pub stored: String,
    /// Rows of the stored tensor, along its outermost dimension.
    pub rows: Range<usize>,
}

#[derive(Debug)]
struct Bound {
    shape: Vec<usize>,
    dtype: Dtype,
    source: Source,
    /// Elements of the stored tensor.
    part: Range<usize>,
    whole: bool,
    digest: OnceLock<[u8; 32]>,
}

impl Weights {
    /// Finds every tensor of `config` in `checkpoint` and checks its shape.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`] or [`WeightsError::TensorShape`] for the first tensor
    /// that is absent or has another shape, [`WeightsError::NotFloat`] for one that holds no
    /// floats.
    pub fn bind(checkpoint: Checkpoint, config: &ModelConfig) -> Result<Self, WeightsError> {
        let mut binder = Binder { checkpoint: &checkpoint, prefix: "", rows: BTreeMap::new() };
        let head = binder.bind_all(config)?;
        let rows = binder.rows;
        Ok(Self { checkpoint, rows, head })
    }

    /// Canonical names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rows.keys().map(String::as_str)
    }

    /// Whether the model has the canonical tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.rows.contains_key(name)
    }

    /// Shape of the canonical tensor `name`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.rows.get(name).map(|it| it.shape.as_slice())
    }

    /// Element type as stored.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.rows.get(name).map(|it| it.dtype)
    }

    /// Where the canonical tensor `name` is stored.
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.rows.get(name).map(|it| &it.source)
    }

    /// What follows the encoder.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The files behind the names.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Stored names that no canonical tensor uses, sorted. Buffers and poolers are usual; a
    /// whole layer here means that config.json and the file disagree.
    pub fn unused(&self) -> Vec<&str> {
        let used: std::collections::BTreeSet<&str> =
            self.rows.values().map(|it| it.source.stored.as_str()).collect();
        let mut out: Vec<&str> =
            self.checkpoint.tensors().map(|it| it.0).filter(|it| !used.contains(it)).collect();
        out.sort_unstable();
        out
    }

    /// Reads a canonical tensor as f32, row-major; f16 and bf16 are widened exactly.
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`], [`WeightsError::Truncated`], [`WeightsError::Io`].
    ///
    /// # Panics
    /// When `out` has not as many elements as the tensor.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<(), WeightsError> {
        let row = self.row(name)?;
        self.checkpoint.read_f32_part(&row.source.stored, row.part.clone(), out)
    }

    /// Reads elements `first..first + out.len()` of a canonical tensor as f32, row-major.
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`], [`WeightsError::Truncated`], [`WeightsError::Io`].
    ///
    /// # Panics
    /// When the elements leave the tensor.
    pub fn read_f32_from(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), WeightsError> {
        let row = self.row(name)?;
        let start = row.part.start + first;
        assert!(start + out.len() <= row.part.end, "elements of `{name}`");
        self.checkpoint.read_f32_part(&row.source.stored, start..start + out.len(), out)
    }

    /// Reads as [`Weights::read_f32_from`], and takes the digest of the stored bytes where one was
    /// recorded for exactly this tensor: for [`Weights::check_parts`]. Parts are of one length, a
    /// power of two of at least 1024 elements, but for the last.
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`], [`WeightsError::Truncated`], [`WeightsError::Io`].
    ///
    /// # Panics
    /// When the elements leave the tensor.
    pub fn read_f32_digested(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<Option<[u8; 32]>, WeightsError> {
        let row = self.row(name)?;
        if !row.whole {
            return self.read_f32_from(name, first, out).map(|()| None);
        }
        let part = first..first + out.len();
        self.checkpoint.read_f32_part_digested(&row.source.stored, part, out)
    }

    /// The file in which a canonical tensor lies as f32, and its first byte there; none where it is
    /// a part of a stored one, of another type or without a recorded digest.
    pub fn stored_f32(&self, name: &str) -> Option<(&File, u64)> {
        let row = self.rows.get(name).filter(|it| it.whole)?;
        self.checkpoint.stored_f32(&row.source.stored).ok()?
    }

    /// Compares the digests of all parts of a canonical tensor, in order, with what was recorded.
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`], [`WeightsError::Tampered`].
    pub fn check_parts(&self, name: &str, parts: &[[u8; 32]]) -> Result<(), WeightsError> {
        self.checkpoint.check_parts(&self.row(name)?.source.stored, parts)
    }

    /// Reads the stored bytes of a canonical tensor, of its [`Weights::dtype`].
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`], [`WeightsError::Truncated`], [`WeightsError::Io`].
    ///
    /// # Panics
    /// When `out` is not as long as the tensor.
    pub fn read_bytes(&self, name: &str, out: &mut [u8]) -> Result<(), WeightsError> {
        let row = self.row(name)?;
        self.checkpoint.read_bytes_part(&row.source.stored, row.part.clone(), out)
    }

    /// BLAKE3 of the stored bytes of a canonical tensor. Two names with the same bytes have
    /// the same digest. Taken from the record of [`Checkpoint::with_recorded_digests`], else
    /// computed once and kept.
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`], [`WeightsError::Truncated`], [`WeightsError::Io`].
    pub fn digest(&self, name: &str) -> Result<[u8; 32], WeightsError> {
        let row = self.row(name)?;
        if let Some(digest) = row.digest.get() {
            return Ok(*digest);
        }
        let digest = match row.whole {
            true => self.checkpoint.tensor_digest(&row.source.stored)?,
            false => self.checkpoint.part_digest(&row.source.stored, row.part.clone())?,
        };
        Ok(*row.digest.get_or_init(|| digest))
    }

    fn row(&self, name: &str) -> Result<&Bound, WeightsError> {
        self.rows.get(name).ok_or_else(|| WeightsError::UnknownTensor { tensor: name.into() })
    }
}

struct Binder<'a> {
    checkpoint: &'a Checkpoint,
    prefix: &'static str,
    rows: BTreeMap<String, Bound>,
}

impl Binder<'_> {
    fn bind_all(&mut self, config: &ModelConfig) -> Result<Head, WeightsError> {
        let mut head = Head::None;
        for (tower, encoder) in config.towers() {
            let needs = tower_needs(config, tower);
            self.find_prefix(&needs[0])?;
            for need in &needs {
                self.bind(need)?;
            }
            let found = self.bind_project(config, encoder, tower)?;
            let found = match found {
                Head::None => self.bind_mlm(encoder, tower)?,
                found => found,
            };
            if found != Head::None {
                head = found;
            }
        }
        Ok(head)
    }

    /// The first tensor of a table is in every checkpoint of its family.
    fn find_prefix(&mut self, anchor: &Need) -> Result<(), WeightsError> {
        let holds = |prefix: &&&str| {
            anchor
                .stored
                .iter()
                .any(|it| self.checkpoint.tensor(&format!("{prefix}{it}")).is_some())
        };
        match PREFIXES.iter().find(holds) {
            Some(prefix) => {
                self.prefix = prefix;
                Ok(())
            }
            None => Err(WeightsError::MissingTensor {
                tensor: anchor.canonical.clone(),
                candidates: PREFIXES
                    .iter()
                    .flat_map(|prefix| anchor.stored.iter().map(move |it| format!("{prefix}{it}")))
                    .collect(),
                path: self.checkpoint.dir().into(),
            }),
        }
    }

    fn bind(&mut self, need: &Need) -> Result<(), WeightsError> {
        // A head stands beside the model, so its names may lack the prefix.
        let prefixed = need.stored.iter().map(|it| format!("{}{it}", self.prefix));
        let bare = need.stored.iter().filter(|_| need.canonical.contains("head.")).cloned();
        let candidates: Vec<String> = prefixed.chain(bare).collect();
        let Some(stored) = candidates.iter().find(|it| self.checkpoint.tensor(it).is_some()) else {
            let (tensor, path) = (need.canonical.clone(), self.checkpoint.dir().into());
            return Err(WeightsError::MissingTensor { tensor, candidates, path });
        };
        let info = self.checkpoint.tensor(stored).expect("just found");
        if info.shape != need.stored_shape {
            return Err(WeightsError::TensorShape {
                tensor: need.canonical.clone(),
                stored: stored.clone(),
                want: need.stored_shape.clone(),
                found: info.shape.clone(),
            });
        }
        if !info.dtype.widens() {
            return Err(WeightsError::NotFloat { tensor: stored.clone(), dtype: info.dtype });
        }
        let row_len: usize = need.shape[1..].iter().product();
        let rows = need.first_row..need.first_row + need.shape[0];
        let part = rows.start * row_len..rows.end * row_len;
        let bound = Bound {
            shape: need.shape.clone(),
            dtype: info.dtype,
            whole: part.len() == info.element_count(),
            source: Source { stored: stored.clone(), rows },
            part,
            digest: OnceLock::new(),
        };
        self.rows.insert(need.canonical.clone(), bound);
        Ok(())
    }

    /// Shape of the stored tensor `name`, with or without the prefix.
    fn stored_shape(&self, name: &str) -> Option<&[usize]> {
        let prefixed = format!("{}{name}", self.prefix);
        let info = self.checkpoint.tensor(&prefixed).or_else(|| self.checkpoint.tensor(name))?;
        Some(&info.shape)
    }

    fn bind_one(
        &mut self,
        canonical: String,
        shape: Vec<usize>,
        stored: &[&str],
    ) -> Result<(), WeightsError> {
        let stored = stored.iter().map(|it| (*it).to_owned()).collect();
        let stored_shape = shape.clone();
        self.bind(&Need { canonical, shape, stored_shape, stored, first_row: 0 })
    }

    fn bind_project(
        &mut self,
        config: &ModelConfig,
        encoder: &EncoderConfig,
        tower: &str,
    ) -> Result<Head, WeightsError> {
        let Some(stem) = project_name(encoder.family, tower) else { return Ok(Head::None) };
        let weight = format!("{stem}.weight");
        let Some(found) = self.stored_shape(&weight) else { return Ok(Head::None) };
        // The width is the configuration's where it has one, else the file's own.
        let stored_len = found.first().copied().unwrap_or(0).min(HIDDEN_LEN_MAX);
        let out_len = config.projection_len.unwrap_or(stored_len).max(1);
        let shape = vec![out_len, encoder.hidden_len];
        self.bind_one(format!("{tower}head.project.weight"), shape, &[&weight])?;
        let bias = format!("{stem}.bias");
        if self.stored_shape(&bias).is_some() {
            self.bind_one(format!("{tower}head.project.bias"), vec![out_len], &[&bias])?;
        }
        Ok(match encoder.family {
            Family::Clip => Head::SharedProjection { out_len },
            Family::T5 => Head::FirstTokenProjection { out_len },
            _ => Head::TokenProjection { out_len },
        })
    }

    fn bind_mlm(&mut self, encoder: &EncoderConfig, tower: &str) -> Result<Head, WeightsError> {
        let Some(names) = mlm_names(encoder.family) else { return Ok(Head::None) };
        let MlmNames { dense, norm, decoder_weight, decoder_bias } = names;
        if self.stored_shape(&format!("{dense}.weight")).is_none() {
            return Ok(Head::None);
        }
        let (hidden, vocab) = (encoder.hidden_len, encoder.vocab_count);
        let name = |part: &str| format!("{tower}head.mlm.{part}");
        let optional_bias = encoder.family == Family::ModernBert;
        for (part, stem, shape) in
            [("dense", dense, vec![hidden, hidden]), ("norm", norm, vec![hidden])]
        {
            let weight = format!("{stem}.weight");
            let older = format!("{stem}.gamma");
            self.bind_one(name(&format!("{part}.weight")), shape, &[&weight, &older])?;
            let (bias, older) = (format!("{stem}.bias"), format!("{stem}.beta"));
            let absent = self.stored_shape(&bias).or(self.stored_shape(&older)).is_none();
            if !(optional_bias && absent) {
                self.bind_one(name(&format!("{part}.bias")), vec![hidden], &[&bias, &older])?;
            }
        }
        let weight = name("decoder.weight");
        match self.stored_shape(decoder_weight).is_some() {
            true => self.bind_one(weight, vec![vocab, hidden], &[decoder_weight])?,
            false => {
                let stored = self.rows[&format!("{tower}embed.token")].source.stored.clone();
                let bare = stored.strip_prefix(self.prefix).unwrap_or(&stored).to_owned();
                self.bind_one(weight, vec![vocab, hidden], &[&bare])?;
            }
        }
        self.bind_one(name("decoder.bias"), vec![vocab], decoder_bias)?;
        Ok(Head::MaskedLm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{ContainerWriter, Planned};
    use std::path::{Path, PathBuf};

    fn golden_root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden")
    }

    fn bind(dir: &Path) -> Result<Weights, WeightsError> {
        let checkpoint = Checkpoint::open(dir)?;
        let config = checkpoint.config()?;
        Weights::bind(checkpoint, &config)
    }

    /// Binds a golden directory: its head, its number of canonical tensors, what is left over.
    #[track_caller]
    fn check(family: &str, head: Head, count: usize, unused: &[&str]) -> Weights {
        let weights = bind(&golden_root().join(family)).unwrap();
        assert_eq!(weights.head(), head, "{family}");
        assert_eq!(weights.unused(), unused, "{family}");
        assert_eq!(weights.names().count(), count, "{family}");
        for name in weights.names() {
            let mut out = vec![f32::NAN; weights.shape(name).unwrap().iter().product()];
            weights.read_f32(name, &mut out).unwrap();
            assert!(out.iter().all(|it| it.is_finite()), "{family} {name}");
            weights.digest(name).unwrap();
        }
        weights
    }

    #[test]
    fn every_golden_directory_is_listed_here() {
        let mut found: Vec<String> = std::fs::read_dir(golden_root())
            .unwrap()
            .map(|it| it.unwrap().path())
            .filter(|it| it.join("config.json").is_file())
            .map(|it| it.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        for family in &found {
            bind(&golden_root().join(family)).unwrap_or_else(|err| panic!("{family}: {err}"));
        }
        for family in ["bert", "clip", "codet5p", "colbert", "longformer", "splade"] {
            assert!(found.iter().any(|it| it == family), "{family}");
        }
    }

    #[test]
    fn goldens_bind_completely() {
        check("bert", Head::None, 5 + 16 * 3, &[]);
        check("longformer", Head::None, 5 + 22 * 2, &[]);
        // The spare bias is the tied twin of the decoder's.
        check("splade", Head::MaskedLm, 5 + 16 * 2 + 6, &["cls.predictions.bias"]);
        check("colbert", Head::TokenProjection { out_len: 32 }, 5 + 16 * 2 + 1, &[]);
        check("codet5p", Head::FirstTokenProjection { out_len: 32 }, 3 + 8 * 3 + 2, &[]);
        let pooler = ["pooler.dense.bias", "pooler.dense.weight"];
        check("roberta", Head::None, 5 + 16 * 2, &pooler);
        check("xlm-roberta", Head::None, 5 + 16 * 3, &pooler);
        check("distilbert", Head::None, 4 + 16 * 3, &[]);
        check("mpnet", Head::None, 5 + 16 * 2, &pooler);
        check("modernbert", Head::None, 3 + 9 * 3 - 1, &[]);
        check("t5-gated", Head::None, 3 + 9 * 2, &[]);
        check("qwen2", Head::None, 2 + 12 * 2, &[]);
        let head = Head::SharedProjection { out_len: 48 };
        check("clip", head, 5 + 16 * 2 + 8 + 16 * 2, &["logit_scale"]);
    }

    #[test]
    fn patches_are_flattened() {
        let weights = check("clip", Head::SharedProjection { out_len: 48 }, 77, &["logit_scale"]);
        assert_eq!(weights.shape("vision.embed.patch"), Some(&[128, 3 * 8 * 8][..]));
        assert_eq!(weights.shape("vision.embed.class"), Some(&[128][..]));
        assert!(weights.has("vision.pre.norm.bias") && weights.has("text.final.norm.weight"));
    }

    /// A directory with `config` and zeros under every first stored name, after `edit`.
    fn write(config: &str, prefix: &str, edit: impl Fn(&mut Vec<Planned>)) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let config = ModelConfig::from_json(Path::new("c"), config).unwrap();
        let mut planned: Vec<Planned> = Vec::new();
        for need in tower_needs(&config, "") {
            let name = format!("{prefix}{}", need.stored[0]);
            if planned.iter().all(|it| it.0 != name) {
                planned.push((name, Dtype::F32, need.stored_shape));
            }
        }
        edit(&mut planned);
        let path = dir.path().join("model.safetensors");
        let mut writer = ContainerWriter::create(&path, &planned).unwrap();
        let mut value = 0.0_f32;
        for (_, dtype, shape) in &planned {
            for _ in 0..shape.iter().product::<usize>() {
                value += 1.0;
                writer.write(&value.to_le_bytes()[..dtype.element_bytes() as usize]).unwrap();
            }
        }
        writer.finish().unwrap();
        dir
    }

    const SIZES: &str = r#""vocab_size":9,"hidden_size":8,"num_hidden_layers":2,
        "num_attention_heads":2,"intermediate_size":6,"max_position_embeddings":12"#;

    fn config(model_type: &str) -> String {
        match model_type {
            "distilbert" => r#"{"model_type":"distilbert","vocab_size":9,"dim":8,"n_layers":2,
                "n_heads":2,"hidden_dim":6,"max_position_embeddings":12}"#
                .into(),
            "t5" => r#"{"model_type":"t5","vocab_size":9,"d_model":8,"num_layers":2,"num_heads":2,
                "d_ff":6,"d_kv":3,"feed_forward_proj":"gated-gelu"}"#
                .into(),
            "qwen2" => format!(r#"{{"model_type":"qwen2","num_key_value_heads":1,{SIZES}}}"#),
            other => format!(r#"{{"model_type":"{other}",{SIZES}}}"#),
        }
    }

    #[test]
    fn every_family_binds_under_its_prefixes() {
        for (model_type, prefix) in [
            ("bert", ""),
            ("bert", "bert."),
            ("roberta", "roberta."),
            ("xlm-roberta", "roberta."),
            ("distilbert", "distilbert."),
            ("mpnet", "mpnet."),
            ("longformer", "longformer."),
            ("t5", ""),
            ("modernbert", "model."),
            ("modernbert", ""),
            ("qwen2", "model."),
            ("qwen2", ""),
            ("bert", "encoder."),
        ] {
            let dir = write(&config(model_type), prefix, |planned| {
                planned.push((format!("{prefix}pooler.dense.weight"), Dtype::F32, vec![8, 8]));
                planned.push((format!("{prefix}embeddings.position_ids"), Dtype::I64, vec![0]));
            });
            let weights = bind(dir.path()).unwrap_or_else(|err| panic!("{model_type}: {err}"));
            assert_eq!(weights.unused().len(), 2, "{model_type} {:?}", weights.unused());
        }
    }

    #[test]
    fn fused_tensors_are_ranges_of_rows() {
        let dir = write(&config("modernbert"), "model.", |_| {});
        let weights = bind(dir.path()).unwrap();
        let mut whole = vec![0.0; 24 * 8];
        weights.checkpoint().read_f32("model.layers.1.attn.Wqkv.weight", &mut whole).unwrap();
        for (index, name) in ["q", "k", "v"].iter().enumerate() {
            let name = format!("layer.1.attn.{name}.weight");
            let mut out = vec![0.0; 64];
            weights.read_f32(&name, &mut out).unwrap();
            assert_eq!(out, whole[index * 64..][..64], "{name}");
            assert_eq!(weights.source(&name).unwrap().rows, index * 8..(index + 1) * 8);
            let mut bytes = vec![0; 256];
            weights.read_bytes(&name, &mut bytes).unwrap();
            assert_eq!(weights.digest(&name).unwrap(), *blake3::hash(&bytes).as_bytes());
        }
        assert_eq!(weights.source("layer.0.ffn.gate.weight").unwrap().rows, 0..6);
        assert_eq!(weights.source("layer.0.ffn.up.weight").unwrap().rows, 6..12);
        assert!(
            !weights.has("layer.0.attn.norm.weight") && weights.has("layer.1.attn.norm.weight")
        );
    }

    #[track_caller]
    fn check_broken(model_type: &str, edit: impl Fn(&mut Vec<Planned>), message: &str) {
        let dir = write(&config(model_type), "", edit);
        let err = bind(dir.path()).unwrap_err().to_string();
        assert!(err.contains(message), "wanted `{message}`, got `{err}`");
    }

    #[test]
    fn what_is_missing_or_misshapen_is_named() {
        let drop = |name: &'static str| {
            move |planned: &mut Vec<Planned>| planned.retain(|it| it.0 != name)
        };
        let reshape = |name: &'static str, shape: &'static [usize]| {
            move |planned: &mut Vec<Planned>| {
                planned.iter_mut().find(|it| it.0 == name).unwrap().2 = shape.to_vec();
            }
        };
        check_broken("bert", drop("encoder.layer.1.output.dense.bias"), "`layer.1.ffn.down.bias`");
        check_broken("bert", drop("embeddings.word_embeddings.weight"), "bert.embeddings.word");
        check_broken(
            "bert",
            reshape("embeddings.LayerNorm.bias", &[7]),
            "(stored as `embeddings.LayerNorm.bias`) has shape [7], the model needs [8]",
        );
        check_broken("modernbert", reshape("layers.0.attn.Wqkv.weight", &[16, 8]), "needs [24, 8]");
        check_broken(
            "longformer",
            drop("encoder.layer.0.attention.self.key_global.weight"),
            "k_global",
        );
        let ints = |planned: &mut Vec<Planned>| planned[0].1 = Dtype::I32;
        check_broken("bert", ints, "is I32, not a float");
        let half_head = |planned: &mut Vec<Planned>| {
            planned.push(("cls.predictions.transform.dense.weight".into(), Dtype::F32, vec![8, 8]));
        };
        check_broken("bert", half_head, "`head.mlm.dense.bias`");
        let bad_linear = |planned: &mut Vec<Planned>| {
            planned.push(("linear.weight".into(), Dtype::F32, vec![4, 9]));
        };
        check_broken("bert", bad_linear, "`head.project.weight`");
    }

    #[test]
    fn older_norm_names_and_tied_decoders_are_found() {
        let dir = write(&config("bert"), "bert.", |planned| {
            for it in planned.iter_mut() {
                it.0 = it.0.replace("LayerNorm.weight", "LayerNorm.gamma");
                it.0 = it.0.replace("LayerNorm.bias", "LayerNorm.beta");
            }
            for (name, shape) in [
                ("transform.dense.weight", vec![8, 8]),
                ("transform.dense.bias", vec![8]),
                ("transform.LayerNorm.gamma", vec![8]),
                ("transform.LayerNorm.beta", vec![8]),
                ("bias", vec![9]),
            ] {
                planned.push((format!("cls.predictions.{name}"), Dtype::F32, shape));
            }
        });
        let weights = bind(dir.path()).unwrap();
        assert_eq!(weights.head(), Head::MaskedLm);
        let tied = weights.source("head.mlm.decoder.weight");
        assert_eq!(tied, weights.source("embed.token"));
        let bias = weights.source("head.mlm.decoder.bias").unwrap();
        assert_eq!(bias.stored, "cls.predictions.bias");
    }
}
