//! Attention over key intervals.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{sizes, want, want_float};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, DotDims, Fold, Unary};

/// Each query row against the keys `lo <= j < hi` and its extra key, in one softmax.
///
/// Arguments: `q, k, v, lo, hi`, then `extra` when the flag `extra` is set, then the distance
/// table `bias` when the flag `bias` is set. An extra key of -1 is none, and one inside the
/// interval counts once. Row `clamp(j - i, -r, r) + r` of the table is added to the score of query
/// row `i` and key `j`. Head `i` uses key head `i / (h / hkv)`. A row without keys gives 0.
///
/// Attributes: `scale: float`, `extra`, `bias`, `lse`: flags. Shapes: `q: [tq, h, d]`,
/// `k: [tk, hkv, d]`, `v: [tk, hkv, dv]`, `lo`, `hi` and `extra: i32 [tq]`,
/// `bias: f32 [2r + 1, h]`, result `[tq, h, dv]` and, with `lse`, the logarithm of the sum of
/// exponentials `[tq, h]` in the wide type (minus infinity without keys).
pub static ATTENTION: Composite = Composite {
    name: "attention",
    about: "softmax attention of each row over an interval of keys",
    meaning: Meaning::Expand(expand),
    cases,
};

/// The score of a masked key: finite, and below every score that can occur.
const MASKED: f64 = -1e30;

struct Sizes {
    tq: usize,
    tk: usize,
    h: usize,
    hkv: usize,
    group: usize,
    d: usize,
    dv: usize,
}

/// The arguments by name, checked.
struct Arguments {
    q: ValueId,
    k: ValueId,
    v: ValueId,
    lo: ValueId,
    hi: ValueId,
    extra: Option<ValueId>,
    bias: Option<ValueId>,
    at: Sizes,
}

impl Arguments {
    fn of(g: &Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Self, GraphError> {
        let op = ATTENTION.name;
        let (has_extra, has_bias) = (attrs.need_flag(op, "extra")?, attrs.need_flag(op, "bias")?);
        let wrong = || g.refuse(op, inputs, "wrong number of arguments");
        let (&[q, k, v, lo, hi], rest) = inputs.split_first_chunk::<5>().ok_or_else(wrong)?;
        let (extra, bias) = match (rest, has_extra, has_bias) {
            (&[], false, false) => (None, None),
            (&[extra], true, false) => (Some(extra), None),
            (&[bias], false, true) => (None, Some(bias)),
            (&[extra, bias], true, true) => (Some(extra), Some(bias)),
            _ => return Err(wrong()),
        };
        let [tq, h, d] = sizes(g, op, q)?;
        let [tk, hkv, dv] = sizes(g, op, v)?;
        want_float(g, op, q)?;
        let dtype = g.ty(q).dtype;
        want(g, op, k, dtype, &[tk, hkv, d])?;
        want(g, op, v, dtype, &[tk, hkv, dv])?;
        for row in [Some(lo), Some(hi), extra].into_iter().flatten() {
            want(g, op, row, DType::I32, &[tq])?;
        }
        if hkv == 0 || h % hkv != 0 {
            return Err(g.refuse(op, inputs, "the heads are no multiple of the key heads"));
        }
        let at = Sizes { tq, tk, h, hkv, group: h / hkv, d, dv };
        Ok(Self { q, k, v, lo, hi, extra, bias, at })
    }
}

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = ATTENTION.name;
    let scale = attrs.need_float(op, "scale")?;
    let with_lse = attrs.need_flag(op, "lse")?;
    let arguments = Arguments::of(g, attrs, inputs)?;
    let Sizes { tq, h, dv, .. } = arguments.at;
    let dtype = g.ty(arguments.q).dtype;
    let wide = dtype.wide();

    let scores = masked_scores(g, &arguments, scale)?;
    let largest = g.reduce_rows(Fold::Max, scores)?;
    let below = g.sub(scores, largest)?;
    let power = g.unary(Unary::Exp, below)?;
    let sum = g.reduce_rows(Fold::Sum, power)?;
    let v = g.cast(arguments.v, wide)?;
    let dims = DotDims { batch: vec![(0, 1)], contract: vec![(3, 0)], out: wide };
    let mixed = g.dot(power, v, dims)?;
    let mixed = g.div(mixed, sum)?;

    let half = g.scalar(wide, MASKED / 2.0)?;
    let has_keys = g.binary(Binary::Lt, half, largest)?;
    let zero = g.scalar(wide, 0.0)?;
    let mixed = g.select(has_keys, mixed, zero)?;
    let out = g.permute(mixed, &[1, 0, 2, 3])?;
    let out = g.reshape(out, &[tq, h, dv])?;
    let mut results = vec![g.cast(out, dtype)?];
    if with_lse {
        let log = g.unary(Unary::Log, sum)?;
        let lse = g.add(largest, log)?;
        let nothing = g.scalar(wide, f64::NEG_INFINITY)?;
        let lse = g.select(has_keys, lse, nothing)?;
        let lse = g.permute(lse, &[1, 0, 2, 3])?;
        results.push(g.reshape(lse, &[tq, h])?);
    }
    Ok(results)
}

/// The score of each pair of rows, masked where the key is not seen: [hkv, tq, group, tk].
fn masked_scores(g: &mut Graph, x: &Arguments, scale: f64) -> Result<ValueId, GraphError> {
    let Sizes { tq, tk, hkv, group, d, .. } = x.at;
    let wide = g.ty(x.q).dtype.wide();
    let grouped = g.reshape(x.q, &[tq, hkv, group, d])?;
    let dims = DotDims { batch: vec![(1, 1)], contract: vec![(3, 2)], out: wide };
    let scores = g.dot(grouped, x.k, dims)?;
    let mut scores = g.with_number(Binary::Mul, scores, scale)?;
    if let Some(table) = x.bias {
        let bias = distance_bias(g, table, &x.at)?;
        let bias = g.cast(bias, wide)?;
        scores = g.add(scores, bias)?;
    }
    let mask = key_mask(g, x)?;
    let mask = g.reshape(mask, &[1, tq, 1, tk])?;
    let low = g.scalar(wide, MASKED)?;
    g.select(mask, scores, low)
}

/// Which keys each row sees: [tq, tk].
fn key_mask(g: &mut Graph, x: &Arguments) -> Result<ValueId, GraphError> {
    let Arguments { at, lo, hi, extra, .. } = x;
    let key = g.iota(DType::I32, &[at.tq, at.tk], 1)?;
    let lo = g.reshape(*lo, &[at.tq, 1])?;
    let hi = g.reshape(*hi, &[at.tq, 1])?;
    let from = g.binary(Binary::Le, lo, key)?;
    let below = g.binary(Binary::Lt, key, hi)?;
    let inside = g.binary(Binary::And, from, below)?;
    let Some(extra) = extra else { return Ok(inside) };
    let extra = g.reshape(*extra, &[at.tq, 1])?;
    let named = g.binary(Binary::Eq, key, extra)?;
    g.binary(Binary::Or, inside, named)
}

/// The bias of each pair of rows: [hkv, tq, group, tk].
fn distance_bias(g: &mut Graph, table: ValueId, at: &Sizes) -> Result<ValueId, GraphError> {
    let [rows, _] = sizes(g, ATTENTION.name, table)?;
    want(g, ATTENTION.name, table, DType::F32, &[rows, at.h])?;
    if rows.is_multiple_of(2) || i32::MAX as usize <= rows {
        return Err(g.refuse(ATTENTION.name, &[table], "the distance table has 2r + 1 rows"));
    }
    let reach = (rows / 2) as f64;
    let key = g.iota(DType::I32, &[at.tq, at.tk], 1)?;
    let query = g.iota(DType::I32, &[at.tq, at.tk], 0)?;
    let distance = g.sub(key, query)?;
    let distance = g.with_number(Binary::Max, distance, -reach)?;
    let distance = g.with_number(Binary::Min, distance, reach)?;
    let row = g.with_number(Binary::Add, distance, reach)?;
    let bias = g.gather(table, 0, row)?; // [tq, tk, h]
    let bias = g.reshape(bias, &[at.tq, at.tk, at.hkv, at.group])?;
    g.permute(bias, &[2, 0, 3, 1])
}

fn attrs(d: usize, extra: bool, bias: bool, lse: bool) -> Attrs {
    Attrs::NONE
        .float("scale", 1.0 / (d as f64).sqrt())
        .int("extra", i64::from(extra))
        .int("bias", i64::from(bias))
        .int("lse", i64::from(lse))
}

/// Query, key and value inputs.
fn rows(
    case: &mut CaseBuilder,
    dtype: DType,
    [tq, h, d]: [usize; 3],
    [tk, hkv, dv]: [usize; 3],
) -> Vec<ValueId> {
    let q = case.random_in("q", dtype, &[tq, h, d], -2.0, 2.0);
    let k = case.random_in("k", dtype, &[tk, hkv, d], -2.0, 2.0);
    vec![q, k, case.random("v", dtype, &[tk, hkv, dv])]
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    // Two sequences of three and four rows, packed; then a padding row.
    let lo = [0, 0, 0, 3, 3, 3, 3, 0];
    for (name, hi, lse) in [
        ("two sequences", [3, 3, 3, 7, 7, 7, 7, 0], false),
        ("causal, with sums", [1, 2, 3, 4, 5, 6, 7, 0], true),
    ] {
        let mut case = CaseBuilder::new(name).tolerance(1e-4);
        let mut inputs = rows(&mut case, DType::F32, [8, 2, 4], [8, 2, 4]);
        inputs.push(case.indices("lo", &lo));
        inputs.push(case.indices("hi", &hi));
        let case = if lse {
            finite_sums(case, &inputs)
        } else {
            case.of(&ATTENTION, attrs(4, false, false, false), &inputs)
        };
        out.push(case);
    }
    let mut case = CaseBuilder::new("sums of empty rows");
    let mut inputs = rows(&mut case, DType::F32, [2, 1, 4], [3, 1, 4]);
    inputs.push(case.indices("lo", &[0, 2]));
    inputs.push(case.indices("hi", &[3, 2]));
    for name in ["q", "k", "v"] {
        case.constant(name);
    }
    out.push(case.of(&ATTENTION, attrs(4, false, false, true), &inputs));

    let mut case = CaseBuilder::new("grouped heads, other keys").tolerance(1e-4);
    let mut inputs = rows(&mut case, DType::F32, [3, 6, 5], [7, 2, 3]);
    inputs.push(case.indices("lo", &[0, 2, -4]));
    inputs.push(case.indices("hi", &[7, 3, 100]));
    out.push(case.of(&ATTENTION, attrs(5, false, false, false), &inputs));

    let mut case = CaseBuilder::new("sliding window with an extra key").tolerance(1e-4);
    let mut inputs = rows(&mut case, DType::F32, [7, 2, 4], [7, 2, 4]);
    inputs.push(case.indices("lo", &[0, 0, 1, 2, 3, 4, 5]));
    inputs.push(case.indices("hi", &[2, 3, 4, 5, 6, 7, 5]));
    inputs.push(case.indices("extra", &[0, 0, 0, -1, 0, 6, 0]));
    out.push(case.of(&ATTENTION, attrs(4, true, false, false), &inputs));

    let mut case = CaseBuilder::new("distance table").tolerance(1e-4);
    let mut inputs = rows(&mut case, DType::F32, [6, 2, 4], [6, 2, 4]);
    inputs.push(case.indices("lo", &[0; 6]));
    inputs.push(case.indices("hi", &[6; 6]));
    inputs.push(case.indices("extra", &[-1; 6]));
    inputs.push(case.random("bias", DType::F32, &[7, 2]));
    out.push(case.of(&ATTENTION, attrs(1, true, true, false), &inputs));

    let mut case = CaseBuilder::new("bf16").tolerance(2e-2);
    let mut inputs = rows(&mut case, DType::BF16, [5, 1, 8], [5, 1, 8]);
    inputs.push(case.indices("lo", &[0; 5]));
    inputs.push(case.indices("hi", &[5, 4, 3, 2, 1]));
    out.push(case.of(&ATTENTION, attrs(8, false, false, false), &inputs));
    out
}

/// With `lse`, which is infinite for the last row: only the rows before leave the graph.
fn finite_sums(mut case: CaseBuilder, inputs: &[ValueId]) -> OpCase {
    let results = case.graph.composite(&ATTENTION, attrs(4, false, false, true), inputs);
    let outputs = results.and_then(|results| {
        let rows = case.graph.shape(results[1]).sizes()[0];
        let sums = case.graph.slice(results[1], 0, 0, rows - 1)?;
        Ok(vec![results[0], sums])
    });
    case.finish(outputs)
}
