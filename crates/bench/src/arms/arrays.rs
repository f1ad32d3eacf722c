//! What programs with arrays do by hand: exact search, pooling, the arithmetic of fusion, and two
//! cases that show what the machine can do. `bench/baselines/arrays.py` does the same in NumPy.

use calor_ir::{CheckedGraph, DType, Fold, Graph, GraphError, Prim, Role, Type, nn};

use super::program::{GraphArm, open};
use crate::arm::{Call, Opening};
use crate::error::BenchError;

/// Length of a vector.
const DIM: usize = 384;
/// Queries of a search.
const QUERY_COUNT: usize = 64;
/// Best vectors of each query.
const BEST_COUNT: usize = 10;
/// Rows of a text.
const TEXT_ROWS: usize = 32;
/// Slots that are fused, and the length of each.
const SLOTS: usize = 12;
const SLOT_DIM: usize = 256;

fn f32s(sizes: &[usize]) -> Type {
    Type::new(DType::F32, sizes)
}

pub(super) fn search(opening: Opening<'_>) -> Result<Box<dyn Call>, BenchError> {
    let graph = || -> Result<CheckedGraph, GraphError> {
        let mut g = Graph::new();
        let queries = g.input("queries", Role::Data, f32s(&[QUERY_COUNT, DIM]));
        let corpus = g.input("corpus", Role::Weight, f32s(&[opening.context.size, DIM]));
        let scores = nn::linear(&mut g, queries, corpus, None, nn::Activation::None)?;
        g.output("scores", scores);
        g.check()
    };
    let arm = GraphArm {
        name: "vectors.search",
        graph: graph()?,
        places: &[("corpus", 0), ("queries", 0x4000_0000)],
        indexes: Vec::new(),
        fresh: &["queries"],
        item_count: opening.context.size as u64,
        finish: best,
    };
    open(arm, opening)
}

/// Scores of the best vectors of each query, the best first.
fn best(scores: &[f32]) -> Vec<f64> {
    let mut out = Vec::with_capacity(QUERY_COUNT * BEST_COUNT);
    for row in scores.chunks_exact(scores.len() / QUERY_COUNT) {
        let mut row = row.to_vec();
        let count = BEST_COUNT.min(row.len());
        row.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
        row.truncate(count);
        row.sort_unstable_by(|a, b| b.total_cmp(a));
        out.extend(row.into_iter().map(f64::from));
    }
    out
}

pub(super) fn pooling(opening: Opening<'_>) -> Result<Box<dyn Call>, BenchError> {
    let rows = opening.context.size;
    let texts = rows / TEXT_ROWS;
    let graph = || -> Result<CheckedGraph, GraphError> {
        let mut g = Graph::new();
        let states = g.input("states", Role::Data, f32s(&[rows, DIM]));
        let lo = g.input("lo", Role::Data, Type::new(DType::I32, &[texts]));
        let hi = g.input("hi", Role::Data, Type::new(DType::I32, &[texts]));
        let pooled = nn::pool(&mut g, states, lo, hi, nn::PoolKind::Mean)?;
        let pooled = nn::l2_normalize(&mut g, pooled, 1e-12)?;
        g.output("pooled", pooled);
        g.check()
    };
    let at = |it: usize| (it * TEXT_ROWS) as i32;
    let arm = GraphArm {
        name: "pooling.mean",
        graph: graph()?,
        places: &[("states", 0)],
        indexes: vec![("lo", (0..texts).map(at).collect()), ("hi", (1..=texts).map(at).collect())],
        fresh: &[],
        item_count: texts as u64,
        finish: all,
    };
    open(arm, opening)
}

pub(super) fn fusion(opening: Opening<'_>) -> Result<Box<dyn Call>, BenchError> {
    let items = opening.context.size;
    let graph = || -> Result<CheckedGraph, GraphError> {
        let mut g = Graph::new();
        let x = g.input("slots", Role::Data, f32s(&[items, SLOTS * SLOT_DIM]));
        let gate = g.input("gate", Role::Weight, f32s(&[SLOTS, SLOTS * SLOT_DIM]));
        let (gain, bias) = (
            g.input("gain", Role::Weight, f32s(&[SLOT_DIM])),
            g.input("bias", Role::Weight, f32s(&[SLOT_DIM])),
        );
        let logits = nn::linear(&mut g, x, gate, None, nn::Activation::None)?;
        let shares = nn::softmax(&mut g, logits)?;
        let x = g.reshape(x, &[items, SLOTS, SLOT_DIM])?;
        let shape = g.shape(x);
        let shares = g.prim(Prim::Broadcast { shape, axes: (0..2).collect() }, &[shares])?;
        let mixed = g.mul(x, shares)?;
        let mixed = g.reduce(Fold::Sum, mixed, 1)?;
        let mixed = nn::layer_norm(&mut g, mixed, gain, Some(bias), 1e-5)?;
        let mixed = nn::l2_normalize(&mut g, mixed, 1e-12)?;
        g.output("fused", mixed);
        g.check()
    };
    let arm = GraphArm {
        name: "fusion.mix",
        graph: graph()?,
        places: &[
            ("slots", 0),
            ("gate", 0x4000_0000),
            ("gain", 0x5000_0000),
            ("bias", 0x6000_0000),
        ],
        indexes: Vec::new(),
        fresh: &["slots"],
        item_count: items as u64,
        finish: all,
    };
    open(arm, opening)
}

pub(super) fn bandwidth(opening: Opening<'_>) -> Result<Box<dyn Call>, BenchError> {
    let len = opening.context.size;
    let graph = || -> Result<CheckedGraph, GraphError> {
        let mut g = Graph::new();
        let x = g.input("x", Role::Data, f32s(&[len / 1024, 1024]));
        // A sum of each row leaves nothing to read back, so all of the time is the pass.
        let sums = g.reduce(Fold::Sum, x, 1)?;
        g.output("sums", sums);
        g.check()
    };
    let arm = GraphArm {
        name: "machine.bandwidth",
        graph: graph()?,
        places: &[("x", 0)],
        indexes: Vec::new(),
        fresh: &[],
        item_count: len as u64,
        finish: all,
    };
    open(arm, opening)
}

pub(super) fn flops(opening: Opening<'_>) -> Result<Box<dyn Call>, BenchError> {
    let n = opening.context.size;
    let graph = || -> Result<CheckedGraph, GraphError> {
        let mut g = Graph::new();
        let x = g.input("x", Role::Data, f32s(&[n, n]));
        let w = g.input("w", Role::Weight, f32s(&[n, n]));
        let y = nn::linear(&mut g, x, w, None, nn::Activation::None)?;
        g.output("y", y);
        g.check()
    };
    let arm = GraphArm {
        name: "machine.flops",
        graph: graph()?,
        places: &[("x", 0), ("w", 0x4000_0000)],
        indexes: Vec::new(),
        fresh: &[],
        item_count: n as u64,
        finish: all,
    };
    open(arm, opening)
}

fn all(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|it| f64::from(*it)).collect()
}

#[test]
fn the_best_come_in_order() {
    let mut scores = vec![0.0; QUERY_COUNT * 12];
    scores[3] = 2.0;
    scores[7] = 5.0;
    let found = best(&scores);
    assert_eq!((found.len(), found[0], found[1], found[2]), (640, 5.0, 2.0, 0.0));
}
