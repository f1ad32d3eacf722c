//! Rows as codes of one byte with a scale each.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, row_len, want_float};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Fold, Unary};

/// `codes = round(x · (largest / m))` and `scale = m / largest`, where `m` is the largest size in
/// the row, at least 1e-30, and `largest` the highest code. A row's result depends on that row
/// alone. `f8e4m3` rounds to nearest even, `i8` halves up.
///
/// Attributes: `codes: word`, `f8e4m3` or `i8`. Shapes: `x: [.., k]`, results: codes `[.., k]`
/// and scales, `f32 [..]`.
pub static QUANTIZE_ROWS: Composite = Composite {
    name: "quantize_rows",
    about: "rows as codes of one byte, with a scale each",
    meaning: Meaning::Expand(expand),
    cases,
};

/// What stands for the largest size of a row of zeros: it and its quotients are normal numbers.
const LEAST: f64 = 1e-30;

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = QUANTIZE_ROWS.name;
    let [x] = exactly(g, op, inputs)?;
    want_float(g, op, x)?;
    row_len(g, op, x)?;
    let codes = match attrs.need_word(op, "codes")? {
        "f8e4m3" => DType::F8E4M3,
        "i8" => DType::I8,
        _ => return Err(GraphError::Attribute { op, name: "codes" }),
    };
    let highest = codes.highest();
    let outer = g.shape(x).sizes().split_last().map_or(vec![], |it| it.1.to_vec());
    let x = g.cast(x, DType::F32)?;
    let size = g.unary(Unary::Abs, x)?;
    let most = g.reduce_rows(Fold::Max, size)?;
    let most = g.with_number(Binary::Max, most, LEAST)?;
    let scales = g.with_number(Binary::Div, most, highest)?;
    let scales = g.reshape(scales, &outer)?;
    let all = g.scalar(DType::F32, highest)?;
    let factor = g.div(all, most)?;
    let mut scaled = g.mul(x, factor)?;
    if codes == DType::I8 {
        scaled = g.with_number(Binary::Add, scaled, 0.5)?;
        scaled = g.unary(Unary::Floor, scaled)?;
    }
    Ok(vec![g.cast(scaled, codes)?, scales])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, codes, dtype, sizes) in [
        ("fp8", "f8e4m3", DType::F32, &[5, 48][..]),
        ("fp8 of bf16", "f8e4m3", DType::BF16, &[3, 2, 64]),
        ("fp8 of f16, odd", "f8e4m3", DType::F16, &[7, 33]),
        ("fp8, one row", "f8e4m3", DType::BF16, &[16]),
        ("fp8, long rows", "f8e4m3", DType::BF16, &[3, 4104]),
        ("int8", "i8", DType::F32, &[5, 48]),
        ("int8 of bf16", "i8", DType::BF16, &[9, 320]),
    ] {
        let mut case = CaseBuilder::new(name);
        let x = case.random_in("x", dtype, sizes, -40.0, 40.0);
        case.constant("x");
        out.push(case.of(&QUANTIZE_ROWS, Attrs::NONE.word("codes", codes), &[x]));
    }
    let mut case = CaseBuilder::new("a row of zeros, one of tiny numbers");
    let rows: Vec<f64> = (0..32).map(|at| if at < 16 { 0.0 } else { 1e-20 * at as f64 }).collect();
    let x = case.values("x", DType::F32, &[2, 16], &rows);
    out.push(case.of(&QUANTIZE_ROWS, Attrs::NONE.word("codes", "f8e4m3"), &[x]));
    out
}
