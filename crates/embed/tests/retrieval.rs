//! Retrieval with the mini profile: the trunk ranks as sentence-transformers does, and every slot
//! ranks as well as it did when its floor was written.
//!
//! 512 passages and 128 questions, each with one right answer, from the documentation of Python
//! packages (data/retrieval/sources.json says which). Data and reference score:
//! scripts/make_retrieval.py. The table is also written to target/retrieval.json.

#[path = "trunk/store.rs"]
mod store;

use std::path::Path;

use calor_embed::embedder::{EmbedItem, EmbedOutput};
use calor_embed::search::{DenseIndex, Hit, nearest_max_sim, nearest_sparse};
use calor_embed::{ModelId, ModelInput, PipelineOutput, SparseVector, TokenMatrix};
use serde_json::{Value, json};

/// Ranks that count.
const RANKS: usize = 10;
/// How far the trunk may be from the reference.
const TRUNK_TOLERANCE: f64 = 0.001;
/// How far a slot that is an orthonormal map of the trunk may be from the trunk.
const SLOT_TOLERANCE: f64 = 0.02;
/// 2026-01-01: the batch's own time.
const NOW_S: i64 = 1_767_225_600;

/// What is ranked by, and a floor a little below what was measured. All texts have one time, so
/// E2 to E4 cannot tell them apart; E9 binds letters to their places in the text and ranks texts
/// of other wording as chance does (0.009).
// tidy: table
static FLOORS: &[(&str, f64)] = &[
    ("trunk", 0.84),
    ("semantic", 0.84),
    ("temporal_recent", 0.0),
    ("temporal_periodic", 0.0),
    ("temporal_positional", 0.0),
    ("causal", 0.84),
    ("sparse", 0.61),
    ("code", 0.84),
    ("graph", 0.84),
    ("hdc", 0.0),
    ("multimodal", 0.84),
    ("entity", 0.84),
    ("late_interaction", 0.77),
    ("sparse, dot", 0.57),
    ("late_interaction, MaxSim", 0.835),
    ("fused", 0.49),
];

/// Slots that are maps of the trunk's mean.
const OF_TRUNK: [ModelId; 6] = [
    ModelId::Semantic,
    ModelId::Causal,
    ModelId::Code,
    ModelId::Graph,
    ModelId::Multimodal,
    ModelId::Entity,
];

/// Passages, questions, and the passage that answers each.
struct Set {
    passages: Vec<String>,
    questions: Vec<String>,
    answers: Vec<usize>,
}

impl Set {
    fn read() -> Self {
        let rows = |text: &str| -> Vec<Value> {
            text.lines().map(|it| serde_json::from_str(it).expect("JSON")).collect()
        };
        let text = |it: &Value| it["text"].as_str().expect("a text").to_owned();
        let passages = rows(include_str!("data/retrieval/passages.jsonl"));
        let questions = rows(include_str!("data/retrieval/queries.jsonl"));
        let place = |question: &Value| {
            let found = passages.iter().position(|it| it["id"] == question["relevant"]);
            found.expect("the answer is a passage")
        };
        Self {
            answers: questions.iter().map(place).collect(),
            questions: questions.iter().map(text).collect(),
            passages: passages.iter().map(text).collect(),
        }
    }

    /// Mean over the questions of 1 / log2(1 + rank of the answer), nothing beyond
    /// [`RANKS`]: nDCG@10 where each question has one answer.
    fn ndcg(&self, nearest: impl Fn(usize) -> Vec<Hit>) -> f64 {
        let gain = |(question, answer): (usize, &usize)| {
            let hits = nearest(question);
            let place = hits.iter().take(RANKS).position(|it| it.row_index == *answer);
            place.map_or(0.0, |it| 1.0 / (it as f64 + 2.0).log2())
        };
        let total: f64 = self.answers.iter().enumerate().map(gain).sum();
        total / self.answers.len() as f64
    }

    /// The same for vectors of passages, then questions.
    fn ndcg_dense(&self, vectors: &[Vec<f32>]) -> f64 {
        let (passages, questions) = vectors.split_at(self.passages.len());
        let index = DenseIndex::new(passages.concat(), passages[0].len()).expect("rows");
        self.ndcg(|at| index.nearest(&questions[at], RANKS).expect("a row"))
    }

    /// Passages, then questions.
    fn texts(&self) -> impl Iterator<Item = &String> {
        self.passages.iter().chain(&self.questions)
    }
}

fn trunk_vectors(trunk: &Path, set: &Set) -> Vec<Vec<f32>> {
    let items: Vec<EmbedItem> = set.texts().map(|it| EmbedItem::Text(it.clone())).collect();
    let results = store::embedder(trunk).embed(&items).expect("the device works");
    let vector = |it: EmbedOutput| match it {
        EmbedOutput::Vector(vector) => vector,
        EmbedOutput::Tokens(_) => panic!("the trunk pools"),
    };
    results.into_iter().map(|it| vector(it.expect("a good text").output)).collect()
}

fn pipeline_outputs(trunk: &Path, set: &Set) -> Vec<PipelineOutput> {
    let made = tempfile::tempdir().expect("a folder");
    let mut core = store::pipeline(trunk, made.path());
    let inputs = |texts: &[String], role: &str| -> Vec<ModelInput> {
        let input = |it: &String| ModelInput::text_with_instruction(it.clone(), Some(role.into()));
        texts.iter().map(|it| input(it).expect("a good text")).collect()
    };
    let inputs =
        [inputs(&set.passages, "role:passage"), inputs(&set.questions, "role:query")].concat();
    let results = core.embed_batch(&inputs, NOW_S).expect("the device works");
    results.into_iter().map(|it| it.expect("a good text")).collect()
}

/// What is ranked by, and how well.
fn measure(trunk: &Path, set: &Set) -> Vec<(&'static str, f64)> {
    let mut table = vec![("trunk", set.ndcg_dense(&trunk_vectors(trunk, set)))];
    let outputs = pipeline_outputs(trunk, set);
    for model in ModelId::iter() {
        let slot = |it: &PipelineOutput| it.embeddings.get_slice(model).expect("a slot").to_vec();
        let vectors: Vec<Vec<f32>> = outputs.iter().map(slot).collect();
        table.push((model.as_str(), set.ndcg_dense(&vectors)));
    }
    let count = set.passages.len();
    let sparse: Vec<SparseVector> =
        outputs.iter().map(|it| it.sparse.clone().expect("E6")).collect();
    let by_dot = set.ndcg(|at| nearest_sparse(&sparse[count + at], &sparse[..count], RANKS));
    table.push(("sparse, dot", by_dot));
    let tokens: Vec<TokenMatrix> =
        outputs.iter().map(|it| it.tokens.clone().expect("E12")).collect();
    let by_max_sim = set.ndcg(|at| {
        nearest_max_sim(&tokens[count + at], &tokens[..count], RANKS).expect("rows of one length")
    });
    table.push(("late_interaction, MaxSim", by_max_sim));
    let fused = |it: &PipelineOutput| it.fused.as_ref().expect("fused").vector.clone();
    let vectors: Vec<Vec<f32>> = outputs.iter().map(fused).collect();
    table.push(("fused", set.ndcg_dense(&vectors)));
    table
}

#[test]
fn every_slot_ranks_as_well_as_it_did() {
    let trunk = match store::trunk() {
        Ok(trunk) => trunk,
        Err(attempt) => return eprintln!("SKIPPED embed::retrieval: {attempt}"),
    };
    let set = Set::read();
    let head: Value = serde_json::from_str(include_str!("data/retrieval/reference.json")).unwrap();
    let want = head["ndcg_at_10"].as_f64().unwrap();
    assert_eq!(head["passage_count"], set.passages.len());
    assert_eq!(head["query_count"], set.questions.len());
    let table = measure(&trunk, &set);

    println!("{:<28} nDCG@{RANKS}", "ranked by");
    println!("{:<28} {want:.4}", "sentence-transformers");
    table.iter().for_each(|(name, got)| println!("{name:<28} {got:.4}"));
    let rows: serde_json::Map<String, Value> =
        table.iter().map(|(name, got)| ((*name).to_owned(), json!(got))).collect();
    let report = json!({
        "passage_count": set.passages.len(),
        "query_count": set.questions.len(),
        "reference_ndcg_at_10": want,
        "ndcg_at_10": rows,
    });
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    std::fs::write(target.join("retrieval.json"), format!("{report:#}\n")).unwrap();

    let of = |name: &str| table.iter().find(|it| it.0 == name).unwrap().1;
    let trunk = of("trunk");
    assert!((trunk - want).abs() <= TRUNK_TOLERANCE, "trunk {trunk}, reference {want}");
    for model in OF_TRUNK {
        let got = of(model.as_str());
        assert!((got - trunk).abs() <= SLOT_TOLERANCE, "{model} {got}, trunk {trunk}");
    }
    assert_eq!(FLOORS.len(), table.len());
    for (name, floor) in FLOORS {
        assert!(*floor <= of(name), "{name}: {} is below {floor}", of(name));
    }
}
