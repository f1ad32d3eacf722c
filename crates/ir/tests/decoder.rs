//! The decoder block against direct loops, and its derivative against differences.

use calor_ir::decoder::LOW_RANK_NAMES;
use calor_ir::oracle::{Tensor, eval};
use calor_ir::{CheckedGraph, DType, DecoderBlock, LowRank, Type};

/// Heads together are wider than a row, and share keys.
const BLOCK: DecoderBlock = DecoderBlock {
    hidden_len: 8,
    inner_len: 10,
    head_count: 4,
    key_head_count: 2,
    head_len: 6,
    token_count_max: 5,
    norm_eps: 1e-2,
    rope_theta: 100.0,
    dtype: DType::F64,
    qkv_bias: true,
    head_norms: true,
    low_rank: LowRank { rank: 2, alpha: 3.0 },
};

/// Two sequences of three and two rows.
fn number(name: &str, at: usize) -> f64 {
    let first = [0, 0, 0, 3, 3];
    match name {
        "positions" => (at - first[at]) as f64,
        "lo" => first[at] as f64,
        "hi" => (at + 1) as f64,
        _ => {
            let seed = name.bytes().fold(7, |sum: usize, it| sum * 31 % 9973 + usize::from(it));
            let unit = f64::from(((seed * 131 + at * 7919 + at * at * 17) % 2003) as u32) / 2003.0;
            // Factors that are exact in the type of weights.
            (((unit - 0.5) * 1024.0).round() / 1024.0)
                + if name.contains("norm") { 1.0 } else { 0.0 }
        }
    }
}

fn inputs(graph: &CheckedGraph) -> Vec<Tensor> {
    let tensor = |name: &str, ty: Type| {
        let values: Vec<f64> = (0..ty.shape.element_count()).map(|at| number(name, at)).collect();
        Tensor::new(ty.dtype, ty.shape.sizes(), &values)
    };
    let graph = graph.graph();
    graph.inputs().map(|(value, input)| tensor(&input.name, graph.ty(value))).collect()
}

fn vector(name: &str, len: usize) -> Vec<f64> {
    (0..len).map(|at| number(name, at)).collect()
}

fn product(name: &str, x: &[f64], to: usize) -> Vec<f64> {
    let row = |row: usize| (0..x.len()).map(|at| number(name, row * x.len() + at) * x[at]).sum();
    (0..to).map(row).collect()
}

fn norm(name: &str, x: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|it| it * it).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + BLOCK.norm_eps).sqrt();
    x.iter().enumerate().map(|(at, it)| it * scale * number(name, at)).collect()
}

fn heads(name: &str, x: &[f64], count: usize, position: Option<f64>) -> Vec<Vec<f64>> {
    let d = BLOCK.head_len;
    let mut y = product(name, x, count * d);
    for (at, y) in y.iter_mut().enumerate() {
        *y += number(&format!("{name}.bias"), at);
    }
    if name != "k" {
        let narrow = product(&format!("{name}.low_rank_a"), x, BLOCK.low_rank.rank);
        let wide = product(&format!("{name}.low_rank_b"), &narrow, count * d);
        let scale = BLOCK.low_rank.alpha / BLOCK.low_rank.rank as f64;
        y.iter_mut().zip(wide).for_each(|(y, wide)| *y += scale * wide);
    }
    let turn = |head: &[f64]| {
        let Some(position) = position else { return head.to_vec() };
        let head = norm(&format!("{name}.norm"), head);
        let mut out = head.clone();
        for i in 0..d / 2 {
            let angle = position * BLOCK.rope_theta.powf(-2.0 * i as f64 / d as f64);
            let (a, b) = (head[i], head[i + d / 2]);
            out[i] = a * angle.cos() - b * angle.sin();
            out[i + d / 2] = b * angle.cos() + a * angle.sin();
        }
        out
    };
    y.chunks_exact(d).map(turn).collect()
}

/// The block as loops.
fn by_loops() -> Vec<f64> {
    let DecoderBlock { hidden_len, inner_len, head_count, key_head_count, head_len, .. } = BLOCK;
    let tokens = BLOCK.token_count_max;
    let x: Vec<Vec<f64>> =
        vector("x", tokens * hidden_len).chunks_exact(hidden_len).map(<[f64]>::to_vec).collect();
    let normed: Vec<Vec<f64>> = x.iter().map(|it| norm("norm.attention", it)).collect();
    let mut out = Vec::new();
    for t in 0..tokens {
        let rows = number("lo", t) as usize..number("hi", t) as usize;
        let at = |row: usize| Some(number("positions", row));
        let q = heads("q", &normed[t], head_count, at(t));
        let k: Vec<_> =
            rows.clone().map(|it| heads("k", &normed[it], key_head_count, at(it))).collect();
        let v: Vec<_> = rows.map(|it| heads("v", &normed[it], key_head_count, None)).collect();
        let mut mixed = Vec::new();
        for (h, q) in q.iter().enumerate() {
            let kv = h / (head_count / key_head_count);
            let score = |k: &Vec<Vec<f64>>| {
                let dot: f64 = q.iter().zip(&k[kv]).map(|(a, b)| a * b).sum();
                (dot / (head_len as f64).sqrt()).exp()
            };
            let powers: Vec<f64> = k.iter().map(score).collect();
            let sum: f64 = powers.iter().sum();
            let column = |i: usize| powers.iter().zip(&v).map(|(p, v)| p * v[kv][i]).sum::<f64>();
            mixed.extend((0..head_len).map(|i| column(i) / sum));
        }
        let mixed = product("o", &mixed, hidden_len);
        let row: Vec<f64> = mixed.iter().zip(&x[t]).map(|(a, b)| a + b).collect();
        let inner = norm("norm.inner", &row);
        let (gate, up) = (product("gate", &inner, inner_len), product("up", &inner, inner_len));
        let gated = |(gate, up): (&f64, &f64)| gate / (1.0 + (-gate).exp()) * up;
        let inner: Vec<f64> = gate.iter().zip(&up).map(gated).collect();
        let outer = product("down", &inner, hidden_len);
        out.extend(outer.iter().zip(&row).map(|(a, b)| a + b));
    }
    out
}

#[test]
fn a_block_is_what_its_loops_say() {
    let graph = BLOCK.forward().unwrap();
    let found = eval(&graph, &inputs(&graph)).unwrap();
    for (at, (want, got)) in by_loops().iter().zip(&found.outputs[0].data).enumerate() {
        assert!((want - got).abs() < 1e-6, "[{at}] {want} {got}");
    }
}

#[test]
fn zeros_in_the_second_factors_correct_nothing() {
    let zeroed = |graph: &CheckedGraph| {
        let mut all = inputs(graph);
        for (tensor, (_, input)) in all.iter_mut().zip(graph.graph().inputs()) {
            if input.name.ends_with("low_rank_b") {
                tensor.data.fill(0.0);
            }
        }
        eval(graph, &all).unwrap().outputs.remove(0).data
    };
    let with = zeroed(&BLOCK.forward().unwrap());
    let without = DecoderBlock { low_rank: LowRank::NONE, ..BLOCK }.forward().unwrap();
    assert_eq!(with, zeroed(&without));
}

#[test]
fn gradients_are_those_of_differences() {
    let graph = BLOCK.backward().unwrap();
    let given = inputs(&graph);
    let loss = |inputs: &[Tensor]| eval(&graph, inputs).unwrap().outputs[0].data[0];
    let found = eval(&graph, &given).unwrap().outputs;
    let names: Vec<&str> = std::iter::once("x").chain(LOW_RANK_NAMES).collect();
    assert_eq!(found.len(), 1 + names.len());
    for (name, gradient) in names.iter().zip(&found[1..]) {
        let at = graph.graph().inputs().position(|(_, it)| it.name == *name).unwrap();
        for element in (0..gradient.data.len()).step_by(7) {
            let moved = |by: f64| {
                let mut inputs = given.clone();
                inputs[at].data[element] += by;
                loss(&inputs)
            };
            let want = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            let got = gradient.data[element];
            assert!(
                (want - got).abs() < 1e-5 * want.abs().max(1.0),
                "{name}[{element}] {want} {got}"
            );
        }
    }
}

#[test]
fn without_factors_only_the_rows_have_a_gradient() {
    let block = DecoderBlock { low_rank: LowRank::NONE, ..BLOCK };
    let graph = block.backward().unwrap();
    let names: Vec<&str> = graph.graph().outputs().iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["loss", "grad.x"]);
}
