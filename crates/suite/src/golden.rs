//! Every reference model: vectors one at a time, packed together, in any order.

use std::path::PathBuf;
use std::sync::Arc;

use calor_device::Driver;
use calor_embed::embedder::{
    CheckpointEmbedder, EmbedItem, EmbedOutput, EmbedderOptions, PoolingChoice,
};
use calor_embed::embedding::cosine;
use calor_embed::input::Role;
use calor_embed::tokenizer::LongTokens;
use calor_embed::{Closeness, EmbeddingError, EmbeddingResult, InferencePrecision};
use calor_runtime::Build;
use calor_telemetry::{Counters, Null};
use safetensors::SafeTensors;

/// Reference models on a device, and how close its results must be.
pub struct Golden<'a> {
    /// Opens the device.
    pub driver: &'a dyn Driver,
    /// Directory of the reference models.
    pub dir: PathBuf,
    /// Largest difference of a number.
    pub tolerance: f32,
    /// Smallest cosine of a vector.
    pub cosine_min: f64,
}

impl std::fmt::Debug for Golden<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Golden").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// One expected tensor and how it is asked for.
struct Row {
    model: &'static str,
    tensor: &'static str,
    pooling: PoolingChoice,
    normalize: bool,
    /// Which list of ids of `case.json`.
    ids: &'static str,
}

const fn row(
    model: &'static str,
    tensor: &'static str,
    pooling: PoolingChoice,
    normalize: bool,
) -> Row {
    Row { model, tensor, pooling, normalize, ids: "input_ids" }
}

const fn pools(model: &'static str) -> [Row; 4] {
    [
        row(model, "mean", PoolingChoice::Mean, false),
        row(model, "mean_norm", PoolingChoice::Mean, true),
        row(model, "cls_norm", PoolingChoice::First, true),
        row(model, "last_norm", PoolingChoice::Last, true),
    ]
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for model in [
        "bert",
        "longformer",
        "roberta",
        "xlm-roberta",
        "distilbert",
        "mpnet",
        "modernbert",
        "t5-gated",
        "qwen2",
    ] {
        rows.extend(pools(model));
    }
    rows.push(row("splade", "splade", PoolingChoice::Splade, false));
    rows.push(row("codet5p", "embedding", PoolingChoice::First, true));
    rows.push(row("codet5p", "mean_norm", PoolingChoice::Mean, true));
    rows.push(row("clip", "text_norm", PoolingChoice::Eos, true));
    let doc = row("colbert", "doc_mean_norm", PoolingChoice::Mean, true);
    rows.push(Row { ids: "doc_ids", ..doc });
    rows
}

impl Golden<'_> {
    fn open(&self, row: &Row) -> CheckpointEmbedder {
        self.try_open(row, InferencePrecision::FP32).unwrap()
    }

    fn try_open(
        &self,
        row: &Row,
        precision: InferencePrecision,
    ) -> EmbeddingResult<CheckpointEmbedder> {
        let device = self.driver.open(0).unwrap();
        let build = Build::new(device, u64::MAX, Arc::new(Counters::new()), Arc::new(Null));
        let options = EmbedderOptions {
            pooling: Some(row.pooling),
            normalize: Some(row.normalize),
            sequence_tokens_max: None,
            long_text: LongTokens::Truncate,
            batch_tokens_max: 512,
            thread_count: std::num::NonZeroUsize::MIN,
            role: Role::Passage,
            precision,
        };
        CheckpointEmbedder::open(build, &self.dir.join(row.model), options)
    }

    fn case(&self, model: &str) -> serde_json::Value {
        let text = std::fs::read_to_string(self.dir.join(model).join("case.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn expected(&self, model: &str, tensor: &str) -> (Vec<usize>, Vec<f32>) {
        let bytes = std::fs::read(self.dir.join(model).join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor(tensor).unwrap_or_else(|_| panic!("{model} has no {tensor}"));
        let values = view
            .data()
            .chunks_exact(4)
            .map(|it| f32::from_le_bytes(it.try_into().unwrap()))
            .collect();
        (view.shape().to_vec(), values)
    }

    #[track_caller]
    fn close(&self, got: &[f32], want: &[f32], what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= self.tolerance, "{what}: largest difference {worst}");
        self.alike(got, want, what);
    }

    fn alike(&self, got: &[f32], want: &[f32], what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        let cosine = cosine(got, want);
        assert!(cosine >= self.cosine_min, "{what}: cosine {cosine}");
    }

    /// Pooled vectors: alone, packed together, in another order.
    ///
    /// # Panics
    /// When they are not those of the reference.
    pub fn vectors_are_those_of_the_reference(&self) {
        for row in rows() {
            let (shape, want) = self.expected(row.model, row.tensor);
            let ids = ids(&self.case(row.model), row.ids);
            let items: Vec<EmbedItem> = ids.iter().map(|it| EmbedItem::Ids(it.clone())).collect();
            let width = shape[1];
            let mut embedder = self.open(&row);
            let what = |how: &str, at: usize| format!("{} {} {how} {at}", row.model, row.tensor);
            for (at, item) in items.iter().enumerate() {
                let got = run(&mut embedder, std::slice::from_ref(item));
                self.close(&got[0], &want[at * width..][..width], &what("alone", at));
            }
            let together = run(&mut embedder, &items);
            let backwards: Vec<EmbedItem> = items.iter().rev().cloned().collect();
            let mut reversed = run(&mut embedder, &backwards);
            reversed.reverse();
            for (at, (got, again)) in together.iter().zip(&reversed).enumerate() {
                self.close(got, &want[at * width..][..width], &what("together", at));
                let apart = got.iter().zip(again).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(apart <= 1e-5, "{}: {apart}", what("in another order", at));
            }
        }
    }

    /// The vector of the shortest text of every model and the first image, in another precision;
    /// only cosines are compared. A model that refuses the precision does so by its name.
    ///
    /// # Panics
    /// When they are not those of the reference, or another model refuses than those named.
    pub fn short_vectors_are_close_in(&self, precision: InferencePrecision, refusing: &[&str]) {
        for row in rows() {
            let what = format!("{} {} in {precision}", row.model, row.tensor);
            let mut embedder = match self.try_open(&row, precision) {
                Ok(it) => {
                    assert!(!refusing.contains(&row.model), "{what}: not refused");
                    it
                }
                Err(EmbeddingError::PrecisionRefused { model, .. }) => {
                    assert!(model == row.model && refusing.contains(&row.model), "{what}: refused");
                    continue;
                }
                Err(err) => panic!("{what}: {err}"),
            };
            let (shape, want) = self.expected(row.model, row.tensor);
            let ids = ids(&self.case(row.model), row.ids);
            let Some((at, ids)) = ids.into_iter().enumerate().min_by_key(|it| it.1.len()) else {
                panic!("{what}: no text");
            };
            let got = run(&mut embedder, &[EmbedItem::Ids(ids)]);
            self.alike(&got[0], &want[at * shape[1]..][..shape[1]], &what);
        }
        let row = row("clip", "image_norm", PoolingChoice::Eos, true);
        let mut embedder = self.try_open(&row, precision).unwrap();
        let (shape, pixels) = self.expected("clip", "pixel_values");
        let pixels = pixels[..shape[1] * shape[2] * shape[3]].to_vec();
        let got = run(&mut embedder, &[EmbedItem::Pixels(pixels)]);
        let (_, want) = self.expected("clip", "image_norm");
        self.alike(&got[0], &want[..got[0].len()], &format!("clip image in {precision}"));
    }

    /// All vectors of every model in another precision, each model's packed together; only
    /// cosines are compared: of the vectors as they are, and with the references' mean taken off,
    /// so that what all vectors have in common hides nothing. Vectors that hardly differ from the
    /// mean are left out of the second: what they differ in is below the rounding of bf16 too.
    /// A model with large weights may be one that the precision is refused for; its cosines must
    /// still reach `large_min`, as they are, or a product is wrong. `models` are asked, or all of
    /// them if it is empty. The answer has a line with the least cosines of each.
    ///
    /// # Panics
    /// When they are not those of the reference.
    pub fn vectors_are_close_in(
        &self,
        precision: InferencePrecision,
        large_min: f64,
        models: &[&str],
    ) -> Vec<String> {
        let wanted = |model: &str| models.is_empty() || models.contains(&model);
        let mut lines = Vec::new();
        let mut check = |model: &str, tensor: &str, got: &[Vec<f32>], want: &[Vec<f32>]| {
            let near = Closeness::of(got, want);
            let refused = near.require(model, precision).is_err();
            let allowed = !OF_TRAINED_SIZE.contains(&model) && large_min <= near.plain;
            let word = match (refused, allowed) {
                (false, _) => "ok",
                (true, true) => "refused",
                (true, false) => "FAR",
            };
            let Closeness { plain, centred } = near;
            lines.push(format!("{word:<7} {model} {tensor}: {plain:.6}, centred {centred:.6}"));
        };
        let vectors = |(shape, all): (Vec<usize>, Vec<f32>)| -> Vec<Vec<f32>> {
            all.chunks_exact(shape[1]).map(<[f32]>::to_vec).collect()
        };
        for row in rows().into_iter().filter(|it| wanted(it.model)) {
            let ids = ids(&self.case(row.model), row.ids);
            let items: Vec<EmbedItem> = ids.into_iter().map(EmbedItem::Ids).collect();
            let got = run(&mut self.try_open(&row, precision).unwrap(), &items);
            let want = vectors(self.expected(row.model, row.tensor));
            check(row.model, row.tensor, &got, &want);
        }
        if wanted("clip") {
            let row = row("clip", "image_norm", PoolingChoice::Eos, true);
            let (shape, pixels) = self.expected("clip", "pixel_values");
            let pixels = pixels.chunks_exact(shape[1] * shape[2] * shape[3]);
            let items: Vec<EmbedItem> = pixels.map(|it| EmbedItem::Pixels(it.to_vec())).collect();
            let got = run(&mut self.try_open(&row, precision).unwrap(), &items);
            check(row.model, row.tensor, &got, &vectors(self.expected("clip", "image_norm")));
        }
        let far = lines.iter().any(|it| it.starts_with("FAR"));
        assert!(!far, "{precision}, least cosines:\n{}", lines.join("\n"));
        lines
    }

    /// A precision that the device has no products for is refused in its name.
    ///
    /// # Panics
    /// When it is not.
    pub fn device_refuses(&self, precision: InferencePrecision) {
        let device = self.driver.open(0).unwrap().signature.model;
        for row in rows() {
            match self.try_open(&row, precision) {
                Err(EmbeddingError::PrecisionRefused { model, .. }) => assert_eq!(model, device),
                Err(err) => panic!("{}: {err}", row.model),
                Ok(_) => panic!("{}: not refused", row.model),
            }
        }
    }

    /// One vector for each token.
    ///
    /// # Panics
    /// When they are not those of the reference.
    pub fn token_rows_are_those_of_the_reference(&self) {
        for (model, tensor, list) in [
            ("bert", "tokens_last_text", "input_ids"),
            ("longformer", "tokens_last_text", "input_ids"),
            ("codet5p", "tokens_last_text", "input_ids"),
            ("modernbert", "tokens_last_text", "input_ids"),
            ("qwen2", "tokens_last_text", "input_ids"),
            ("colbert", "doc_tokens_last_text", "doc_ids"),
        ] {
            let mut embedder = self.open(&Row {
                model,
                tensor,
                pooling: PoolingChoice::None,
                normalize: false,
                ids: list,
            });
            let ids = ids(&self.case(model), list);
            let items: Vec<EmbedItem> = ids.into_iter().map(EmbedItem::Ids).collect();
            let got = run(&mut embedder, &items);
            self.close(
                got.last().unwrap(),
                &self.expected(model, tensor).1,
                &format!("{model} {tensor}"),
            );
        }
    }

    /// Sums of largest products of token vectors.
    ///
    /// # Panics
    /// When they are not those of the reference.
    pub fn late_interaction_scores_are_those_of_the_reference(&self) {
        let tokens = |list: &'static str| {
            let mut embedder = self.open(&Row {
                model: "colbert",
                tensor: "maxsim",
                pooling: PoolingChoice::None,
                normalize: true,
                ids: list,
            });
            let ids = ids(&self.case("colbert"), list);
            let items: Vec<EmbedItem> = ids.into_iter().map(EmbedItem::Ids).collect();
            let results = embedder.embed(&items).unwrap();
            let matrix = |it: EmbedOutput| match it {
                EmbedOutput::Tokens(tokens) => tokens,
                EmbedOutput::Vector(_) => panic!("a vector"),
            };
            results.into_iter().map(|it| matrix(it.unwrap().output)).collect::<Vec<_>>()
        };
        let (queries, documents) = (tokens("query_ids"), tokens("doc_ids"));
        let (_, want) = self.expected("colbert", "maxsim");
        for (q, query) in queries.iter().enumerate() {
            for (d, document) in documents.iter().enumerate() {
                let got = query.max_sim(document).unwrap();
                let want = f64::from(want[q * documents.len() + d]);
                // A sum over 32 query tokens.
                assert!((got - want).abs() <= 32.0 * 1e-4, "{q} {d}: {got} {want}");
            }
        }
    }

    /// The image tower.
    ///
    /// # Panics
    /// When they are not those of the reference.
    pub fn images_are_those_of_the_reference(&self) {
        let mut embedder = self.open(&row("clip", "image_norm", PoolingChoice::Eos, true));
        let (shape, pixels) = self.expected("clip", "pixel_values");
        let each = shape[1] * shape[2] * shape[3];
        let items: Vec<EmbedItem> =
            pixels.chunks_exact(each).map(|it| EmbedItem::Pixels(it.to_vec())).collect();
        let (shape, want) = self.expected("clip", "image_norm");
        for (at, got) in run(&mut embedder, &items).iter().enumerate() {
            self.close(got, &want[at * shape[1]..][..shape[1]], &format!("image {at}"));
            let alone = run(&mut embedder, &items[at..=at]);
            self.close(&alone[0], got, &format!("image {at} alone"));
        }
    }
}

/// Reference models whose weights are as large as those of trained ones, about 0.04 at a width of
/// 64. Those of the others are four times as large: each product grows what it is given, errors of
/// rounding too, and softmax is near to a choice. Their cosines tell a wrong product from a right
/// one, and not what a precision costs a trained model.
const OF_TRAINED_SIZE: [&str; 4] = ["bert", "longformer", "splade", "colbert"];

fn ids(case: &serde_json::Value, list: &str) -> Vec<Vec<u32>> {
    serde_json::from_value(case[list].clone()).unwrap()
}

fn vector(output: EmbedOutput) -> Vec<f32> {
    match output {
        EmbedOutput::Vector(vector) => vector,
        EmbedOutput::Tokens(tokens) => tokens.as_slice().to_vec(),
    }
}

fn run(embedder: &mut CheckpointEmbedder, items: &[EmbedItem]) -> Vec<Vec<f32>> {
    let results = embedder.embed(items).unwrap();
    results.into_iter().map(|it| vector(it.unwrap().output)).collect()
}
