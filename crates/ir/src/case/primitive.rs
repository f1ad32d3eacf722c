//! Cases that cover every primitive.

use crate::case::{CaseBuilder, OpCase};
use crate::dtype::DType;
use crate::graph::{GraphError, ValueId};
use crate::op::{Binary, DotDims, Fold, Literal, Prim, Unary};
use crate::shape::Shape;

/// Cases in which every primitive occurs, on the types that matter most for it.
pub fn primitive_cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for op in Unary::ALL {
        unary(op, &mut out);
    }
    for op in Binary::ALL {
        binary(op, &mut out);
    }
    out.extend([select(), philox(), chain()]);
    casts(&mut out);
    sources(&mut out);
    layouts(&mut out);
    indexed(&mut out);
    folds(&mut out);
    dots(&mut out);
    scans(&mut out);
    out
}

/// The case of one primitive on these values.
fn of(mut case: CaseBuilder, prim: Prim, inputs: &[ValueId]) -> OpCase {
    let result = case.graph.prim(prim, inputs);
    case.finish(result.map(|it| vec![it]))
}

fn unary(op: Unary, out: &mut Vec<OpCase>) {
    if op.accepts(DType::F32) {
        for (name, sizes) in [("", &[3, 5][..]), (" of one", &[]), (" of many", &[1030])] {
            let mut case = CaseBuilder::new(&format!("{}{name}", op.name()));
            let low = if matches!(op, Unary::Log | Unary::Sqrt) { 0.1 } else { -3.0 };
            let x = case.random_in("x", DType::F32, sizes, low, 3.0);
            out.push(of(case, Prim::Unary(op), &[x]));
        }
    }
    if op.accepts(DType::I32) {
        let mut case = CaseBuilder::new(&format!("{} of whole numbers", op.name()));
        let x = case.indices("x", &[0, 1, -1, 7, -8, i32::MIN, i32::MAX]);
        out.push(of(case, Prim::Unary(op), &[x]));
    }
    if op.accepts(DType::Bool) {
        let mut case = CaseBuilder::new(&format!("{} of flags", op.name()));
        let x = case.values("x", DType::Bool, &[3], &[0.0, 1.0, 1.0]);
        out.push(of(case, Prim::Unary(op), &[x]));
    }
}

fn binary(op: Binary, out: &mut Vec<OpCase>) {
    if op.accepts(DType::F32) {
        for (name, sizes) in [("", &[3, 5][..]), (" of one", &[]), (" of many", &[1030])] {
            let mut case = CaseBuilder::new(&format!("{}{name}", op.name())).tolerance(2e-5);
            let low = if op == Binary::Pow { 0.2 } else { -3.0 };
            let a = case.random_in("a", DType::F32, sizes, low, 3.0);
            let b = case.random_in("b", DType::F32, sizes, 0.5, 2.0);
            out.push(of(case, Prim::Binary(op), &[a, b]));
        }
        let mut case = CaseBuilder::new(&format!("{} of f16", op.name())).tolerance(4e-3);
        let a = case.random_in("a", DType::F16, &[9], 0.2, 3.0);
        let b = case.random_in("b", DType::F16, &[9], 0.5, 2.0);
        out.push(of(case, Prim::Binary(op), &[a, b]));
    }
    if op.accepts(DType::I32) {
        let mut case = CaseBuilder::new(&format!("{} of whole numbers", op.name()));
        let a = case.indices("a", &[7, -7, 7, -7, 5, i32::MAX, i32::MIN, 0, -1, 12]);
        let b = case.indices("b", &[3, 3, -3, -3, 0, 2, -1, 33, 31, 12]);
        out.push(of(case, Prim::Binary(op), &[a, b]));
        let mut case = CaseBuilder::new(&format!("{} of u32", op.name()));
        let big = f64::from(u32::MAX);
        let a = case.values("a", DType::U32, &[5], &[big, 0.0, 1.0, 2_147_483_648.0, 3.0]);
        let b = case.values("b", DType::U32, &[5], &[big, 1.0, 31.0, 1.0, 0.0]);
        out.push(of(case, Prim::Binary(op), &[a, b]));
    }
    if op.accepts(DType::Bool) {
        let mut case = CaseBuilder::new(&format!("{} of flags", op.name()));
        let a = case.values("a", DType::Bool, &[4], &[0.0, 0.0, 1.0, 1.0]);
        let b = case.values("b", DType::Bool, &[4], &[0.0, 1.0, 0.0, 1.0]);
        out.push(of(case, Prim::Binary(op), &[a, b]));
    }
}

fn select() -> OpCase {
    let mut case = CaseBuilder::new("select");
    let flags: Vec<f64> = (0..15).map(|it| f64::from(it % 2)).collect();
    let condition = case.values("condition", DType::Bool, &[3, 5], &flags);
    let a = case.random("a", DType::F32, &[3, 5]);
    let b = case.random("b", DType::F32, &[3, 5]);
    of(case, Prim::Select, &[condition, a, b])
}

fn philox() -> OpCase {
    let mut case = CaseBuilder::new("philox");
    let key = case.values("key", DType::U32, &[2], &[42.0, f64::from(u32::MAX)]);
    let counters = [0.0, 1.0, 2.0, 1e9, f64::from(u32::MAX), 0.0];
    let counter = case.values("counter", DType::U32, &[2, 3], &counters);
    of(case, Prim::Philox, &[key, counter])
}

/// A chain of several primitives, so that a device fuses at least once.
fn chain() -> OpCase {
    let mut case = CaseBuilder::new("a chain");
    let x = case.random_in("x", DType::F32, &[4, 33], -3.0, 3.0);
    let g = &mut case.graph;
    let mut build = || -> Result<Vec<ValueId>, GraphError> {
        let floor = g.unary(Unary::Floor, x)?;
        let rest = g.sub(x, floor)?;
        let scaled = g.with_number(Binary::Mul, rest, 0.5)?;
        let bent = g.unary(Unary::Tanh, scaled)?;
        let sum = g.reduce_rows(Fold::Sum, bent)?;
        Ok(vec![g.mul(x, sum)?])
    };
    let result = build();
    case.finish(result)
}

fn casts(out: &mut Vec<OpCase>) {
    let numbers = [0.0, 1.0, -1.0, 2.5, -2.5, 300.7, 0.1, 1e-3, -70000.0];
    for to in DType::ALL {
        let mut case = CaseBuilder::new(&format!("cast f32 to {to}")).tolerance(1e-6);
        let x = case.values("x", DType::F32, &[9], &numbers);
        out.push(of(case, Prim::Cast(to), &[x]));
    }
    for from in DType::ALL {
        let mut case = CaseBuilder::new(&format!("cast {from} to f32")).tolerance(1e-6);
        let x = case.values("x", from, &[9], &numbers);
        out.push(of(case, Prim::Cast(DType::F32), &[x]));
    }
    let mut case = CaseBuilder::new("cast i32 to u8");
    let x = case.indices("x", &[-1, 256, 511, 5]);
    out.push(of(case, Prim::Cast(DType::U8), &[x]));
}

fn sources(out: &mut Vec<OpCase>) {
    let shape = Shape::new(&[2, 3]);
    for (name, values) in [("constant", vec![0.5, -1.0, 2.0, 3.0, 1e-7, 1e7]), ("splat", vec![0.1])]
    {
        let literal = Literal { dtype: DType::F32, shape, values };
        out.push(of(CaseBuilder::new(name), Prim::Constant(literal), &[]));
    }
    for (axis, dtype) in [(0, DType::I32), (1, DType::U8), (1, DType::I64)] {
        let case = CaseBuilder::new(&format!("iota along {axis} of {dtype}"));
        out.push(of(case, Prim::Iota { dtype, shape, axis }, &[]));
    }
}

fn layouts(out: &mut Vec<OpCase>) {
    let x = |case: &mut CaseBuilder| case.random("x", DType::F32, &[2, 3, 4]);
    let slice = |start: [usize; 3], limit: [usize; 3], step: [usize; 3]| Prim::Slice {
        start: start.to_vec(),
        limit: limit.to_vec(),
        step: step.to_vec(),
    };
    let broadcast = |sizes: &[usize], axes: &[usize]| Prim::Broadcast {
        shape: Shape::new(sizes),
        axes: axes.to_vec(),
    };
    for (name, prim) in [
        ("broadcast in front", broadcast(&[5, 2, 3, 4], &[1, 2, 3])),
        ("broadcast between", broadcast(&[2, 2, 3, 5, 4], &[0, 2, 4])),
        ("reshape", Prim::Reshape(Shape::new(&[6, 4]))),
        ("permute", Prim::Permute(vec![2, 0, 1])),
        ("permute back", Prim::Permute(vec![0, 2, 1])),
        ("slice", slice([0, 1, 1], [2, 3, 3], [1, 1, 1])),
        ("slice in steps", slice([0, 0, 1], [2, 3, 4], [1, 2, 2])),
        ("slice of nothing", slice([1, 1, 1], [1, 3, 3], [1, 1, 1])),
        ("pad", Prim::Pad { low: vec![1, 0, 2], high: vec![0, 1, 0], value: -1.5 }),
    ] {
        let mut case = CaseBuilder::new(name);
        let x = x(&mut case);
        out.push(of(case, prim, &[x]));
    }
    let mut case = CaseBuilder::new("broadcast of size one");
    let x = case.random("x", DType::F32, &[3, 1]);
    out.push(of(case, broadcast(&[2, 3, 4], &[1, 2]), &[x]));
    for (name, axis, others) in
        [("concat rows", 0, [[4, 3], [1, 3]]), ("concat columns", 1, [[2, 1], [2, 5]])]
    {
        let mut case = CaseBuilder::new(name);
        let parts = [
            case.random("a", DType::F32, &[2, 3]),
            case.random("b", DType::F32, &others[0]),
            case.random("c", DType::F32, &others[1]),
        ];
        out.push(of(case, Prim::Concat { axis }, &parts));
    }
}

fn indexed(out: &mut Vec<OpCase>) {
    for (axis, name) in [(0, "rows"), (1, "columns")] {
        let mut case = CaseBuilder::new(&format!("gather {name}"));
        let table = case.random("table", DType::F32, &[4, 5]);
        let rows = [0.0, 3.0, -2.0, 9.0, 1.0, 1.0];
        let indices = case.values("indices", DType::I32, &[2, 3], &rows);
        out.push(of(case, Prim::Gather { axis }, &[table, indices]));

        let mut case = CaseBuilder::new(&format!("scatter_add {name}"));
        let base = case.random("base", DType::F32, &[4, 5]);
        let indices = case.indices("indices", &[2, 0, 2, -1, 70, 2]);
        let sizes = if axis == 0 { [6, 5] } else { [4, 6] };
        let updates = case.random("updates", DType::F32, &sizes);
        out.push(of(case, Prim::ScatterAdd { axis }, &[base, indices, updates]));
    }
}

fn folds(out: &mut Vec<OpCase>) {
    for fold in Fold::ALL {
        for (axis, sizes) in [(0, &[7, 5][..]), (1, &[3, 4, 2]), (1, &[3, 1030]), (0, &[1])] {
            let mut case = CaseBuilder::new(&format!("{} of {sizes:?} along {axis}", fold.name()));
            case = case.tolerance(1e-4);
            let x = case.random("x", DType::F32, sizes);
            out.push(of(case, Prim::Reduce { fold, axis }, &[x]));
        }
        let mut case = CaseBuilder::new(&format!("{} of whole numbers", fold.name()));
        let x = case.indices("x", &[i32::MAX, 5, -3, 1]);
        out.push(of(case, Prim::Reduce { fold, axis: 0 }, &[x]));
    }
    let mut case = CaseBuilder::new("sum of nothing");
    let x = case.random("x", DType::F32, &[3, 0]);
    out.push(of(case, Prim::Reduce { fold: Fold::Sum, axis: 1 }, &[x]));
}

fn dots(out: &mut Vec<OpCase>) {
    let plain = |batch: &[(usize, usize)], contract: &[(usize, usize)]| {
        let (batch, contract) = (batch.to_vec(), contract.to_vec());
        Prim::Dot(DotDims { batch, contract, out: DType::F32 })
    };
    for (name, left, right, prim) in [
        ("matrices", &[5, 7][..], &[7, 3][..], plain(&[], &[(1, 0)])),
        ("rows by rows", &[4, 8], &[6, 8], plain(&[], &[(1, 1)])),
        ("batched", &[2, 5, 3], &[2, 3, 4], plain(&[(0, 0)], &[(2, 1)])),
        ("batch inside", &[5, 2, 3], &[4, 2, 3], plain(&[(1, 1)], &[(2, 2)])),
        ("two summed", &[2, 3, 4], &[4, 5, 3], plain(&[], &[(1, 2), (2, 0)])),
        ("outer product", &[3], &[4], plain(&[], &[])),
        ("inner product", &[9], &[9], plain(&[], &[(0, 0)])),
    ] {
        let mut case = CaseBuilder::new(&format!("dot, {name}"));
        let a = case.random("a", DType::F32, left);
        let b = case.random("b", DType::F32, right);
        out.push(of(case, prim, &[a, b]));
    }
    let mut case = CaseBuilder::new("dot, bf16 into f32").tolerance(1e-4);
    let a = case.random("a", DType::BF16, &[17, 40]);
    let b = case.random("b", DType::BF16, &[19, 40]);
    out.push(of(case, plain(&[], &[(1, 1)]), &[a, b]));
}

fn scans(out: &mut Vec<OpCase>) {
    for (name, sizes, initial, axis) in [
        ("rows", &[6, 3][..], &[3][..], 0),
        ("columns", &[3, 17], &[3], 1),
        ("one step", &[2, 1, 3], &[2, 3], 1),
    ] {
        let mut case = CaseBuilder::new(&format!("linear_scan over {name}"));
        let a = case.random("a", DType::F32, sizes);
        let b = case.random("b", DType::F32, sizes);
        let initial = case.random("initial", DType::F32, initial);
        out.push(of(case, Prim::LinearScan { axis }, &[a, b, initial]));
    }
}

#[test]
fn every_primitive_has_a_case() {
    use crate::graph::Op;
    let mut seen = std::collections::BTreeSet::new();
    for case in primitive_cases() {
        for node in case.graph.graph().nodes() {
            if let Op::Prim(prim) = &node.op {
                seen.insert(prim.name());
            }
        }
    }
    assert_eq!(seen.len(), Unary::ALL.len() + Binary::ALL.len() + Fold::ALL.len() + 15);
    assert_eq!(seen.len(), crate::op::PRIMITIVE_COUNT_MAX);
}
