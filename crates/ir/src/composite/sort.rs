//! Sorting, which has no expansion.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{GraphError, Type};
use crate::oracle::Tensor;

/// The numbers of each row in ascending order; a NaN comes last.
///
/// Shapes: `x` and the result are `[.., n]`.
pub static SORT: Composite = Composite {
    name: "sort",
    about: "rows in ascending order",
    meaning: Meaning::Opaque { infer, eval },
    cases,
};

fn infer(_attrs: &Attrs, types: &[Type]) -> Result<Vec<Type>, GraphError> {
    match types {
        [x] if x.shape.rank() > 0 => Ok(vec![*x]),
        _ => {
            let why = "wants one argument that is no scalar";
            Err(GraphError::Types { op: SORT.name.into(), got: types.to_vec(), why })
        }
    }
}

fn eval(_attrs: &Attrs, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut out = inputs[0].clone();
    let len = out.ty.shape.last();
    if len > 0 {
        for row in out.data.chunks_mut(len) {
            row.sort_by(|a, b| a.is_nan().cmp(&b.is_nan()).then(a.total_cmp(b)));
        }
    }
    vec![out]
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, dtype, sizes) in [
        ("rows", DType::F32, &[4, 16][..]),
        ("odd", DType::F32, &[2, 3, 7]),
        ("one", DType::F32, &[3, 1]),
    ] {
        let mut case = CaseBuilder::new(name);
        let x = case.random_in("x", dtype, sizes, -100.0, 100.0);
        case.constant("x");
        out.push(case.of(&SORT, Attrs::NONE, &[x]));
    }
    let mut case = CaseBuilder::new("whole numbers, with ties");
    let x = case.values("x", DType::I32, &[2, 4], &[3.0, -1.0, 3.0, 0.0, 2.0, 2.0, 2.0, -7.0]);
    out.push(case.of(&SORT, Attrs::NONE, &[x]));
    out
}
