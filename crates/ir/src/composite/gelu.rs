//! The Gauss error linear unit.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, want_float};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Unary};

/// `x / 2 · (1 + erf(x / √2))`, or with `tanh(√(2/π) (x + 0.044715 x³))` for the error function.
///
/// Attributes: `kind: word`, `erf` or `tanh`. Shapes: `x` and the result are alike.
pub static GELU: Composite = Composite {
    name: "gelu",
    about: "x times the normal distribution function of x",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let [x] = exactly(g, GELU.name, inputs)?;
    want_float(g, GELU.name, x)?;
    let dtype = g.ty(x).dtype;
    let x = g.cast(x, dtype.wide())?;
    let bent = match attrs.need_word(GELU.name, "kind")? {
        "erf" => {
            let scaled = g.with_number(Binary::Mul, x, std::f64::consts::FRAC_1_SQRT_2)?;
            g.unary(Unary::Erf, scaled)?
        }
        "tanh" => {
            let square = g.mul(x, x)?;
            let cube = g.mul(square, x)?;
            let cube = g.with_number(Binary::Mul, cube, 0.044_715)?;
            let sum = g.add(x, cube)?;
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let scaled = g.with_number(Binary::Mul, sum, root)?;
            g.unary(Unary::Tanh, scaled)?
        }
        _ => return Err(GraphError::Attribute { op: GELU.name, name: "kind" }),
    };
    let half = g.with_number(Binary::Mul, x, 0.5)?;
    let lifted = g.with_number(Binary::Add, bent, 1.0)?;
    let y = g.mul(half, lifted)?;
    Ok(vec![g.cast(y, dtype)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for kind in ["erf", "tanh"] {
        let attrs = Attrs::NONE.word("kind", kind);
        for (name, sizes) in [("rows", &[4, 16][..]), ("odd", &[3, 2, 7]), ("scalar", &[])] {
            let mut case = CaseBuilder::new(&format!("{kind} {name}"));
            let x = case.random_in("x", DType::F32, sizes, -4.0, 4.0);
            out.push(case.of(&GELU, attrs.clone(), &[x]));
        }
        let mut case = CaseBuilder::new(&format!("{kind} edges"));
        let x = case.values("x", DType::F32, &[5], &[0.0, 30.0, -30.0, 1e-20, -6.0]);
        out.push(case.of(&GELU, attrs.clone(), &[x]));
        let mut case = CaseBuilder::new(&format!("{kind} bf16")).tolerance(1e-2);
        let x = case.random_in("x", DType::BF16, &[3, 9], -4.0, 4.0);
        out.push(case.of(&GELU, attrs, &[x]));
    }
    out
}
