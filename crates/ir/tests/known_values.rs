//! The oracle against numbers worked out by hand or by a direct loop.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calor_ir::composite::COMPOSITES;
use calor_ir::oracle::{OracleError, Tensor, eval};
use calor_ir::{CaseBuilder, Composite, DType, Graph, OpCase, Prim, Role, Type, Unary, nn};

fn outputs(case: &OpCase) -> Vec<Tensor> {
    eval(&case.graph, &case.inputs).unwrap().outputs
}

fn composite(name: &str) -> &'static Composite {
    COMPOSITES.iter().copied().find(|it| it.name == name).unwrap()
}

#[track_caller]
fn assert_near(place: &str, want: &[f64], got: &[f64]) {
    assert_within(1e-9, place, want, got);
}

/// Literals of a graph are rounded to their type, so a loop in `f64` agrees to that type only.
#[track_caller]
fn assert_within(tolerance: f64, place: &str, want: &[f64], got: &[f64]) {
    assert_eq!(want.len(), got.len(), "{place}");
    for (at, (a, b)) in want.iter().zip(got).enumerate() {
        assert!(a == b || (a - b).abs() <= tolerance * a.abs().max(1.0), "{place} [{at}]: {a} {b}");
    }
}

/// The only output of a graph that `build` makes of one input.
#[track_caller]
fn check(
    sizes: &[usize],
    x: &[f64],
    build: impl FnOnce(&mut Graph, calor_ir::ValueId) -> nn::Layer,
    want: &[f64],
) {
    let mut case = CaseBuilder::new("known");
    let input = case.values("x", DType::F64, sizes, x);
    let result = build(&mut case.graph, input);
    let case = case.finish(result.map(|it| vec![it]));
    assert_near("known", want, &outputs(&case)[0].data);
}

#[test]
fn small_rows() {
    let ln = |x: f64| x.ln();
    check(&[1, 3], &[ln(1.0), ln(2.0), ln(5.0)], nn::softmax, &[0.125, 0.25, 0.625]);
    check(&[2], &[3.0, 4.0], |g, x| nn::l2_normalize(g, x, 1e-12), &[0.6, 0.8]);
    check(&[2], &[3.0, 4.0], |g, x| nn::l2_normalize(g, x, 50.0), &[0.06, 0.08]);
    check(
        &[1, 2],
        &[1.0, 3.0],
        |g, x| {
            let weight = g.scalar(DType::F64, 2.0)?;
            let weight = g.broadcast_to(weight, calor_ir::Shape::new(&[2]))?;
            nn::layer_norm(g, x, weight, Some(weight), 0.0)
        },
        &[0.0, 4.0],
    );
    let relu = calor_ir::composite::activation::Activation::Relu;
    check(&[3], &[-1.0, 0.0, 2.0], |g, x| nn::activate(g, x, relu), &[0.0, 0.0, 2.0]);
    let gelu = calor_ir::composite::activation::Activation::Gelu;
    check(&[1], &[1.0], |g, x| nn::activate(g, x, gelu), &[0.841_344_746_068_542_9]);
    let tanh = calor_ir::composite::activation::Activation::GeluTanh;
    check(&[1], &[1.0], |g, x| nn::activate(g, x, tanh), &[0.841_191_990_608_276_1]);
    let silu = calor_ir::composite::activation::Activation::Silu;
    check(&[1], &[1.0], |g, x| nn::activate(g, x, silu), &[0.731_058_578_630_004_9]);
    let quick = calor_ir::composite::activation::Activation::QuickGelu;
    check(&[1], &[1.0], |g, x| nn::activate(g, x, quick), &[0.845_795_765_625_653_1]);
    check(
        &[1, 2],
        &[0.0, 0.0],
        |g, x| {
            let label = g.iota(DType::I32, &[1], 0)?;
            nn::cross_entropy(g, x, label)
        },
        &[2.0_f64.ln()],
    );
}

#[test]
fn rotation_by_position() {
    for (style, want) in [
        (nn::RopeStyle::Half, [1.0, 2.0, 3.0, 4.0]),
        (nn::RopeStyle::Interleaved, [1.0, 2.0, 3.0, 4.0]),
    ] {
        check(
            &[1, 1, 4],
            &want,
            |g, x| {
                let zero = g.iota(DType::I32, &[1], 0)?;
                nn::rope(g, x, zero, 10_000.0, style)
            },
            &want,
        );
    }
    let (c, s) = (1.0_f64.cos(), 1.0_f64.sin());
    check(
        &[2, 1, 2],
        &[5.0, 6.0, 1.0, 2.0],
        |g, x| {
            let positions = g.iota(DType::I32, &[2], 0)?;
            nn::rope(g, x, positions, 10_000.0, nn::RopeStyle::Half)
        },
        &[5.0, 6.0, c - 2.0 * s, 2.0 * c + s],
    );
}

/// Attention by loops over rows, heads and keys.
fn attention(case: &OpCase) -> (Vec<f64>, Vec<f64>) {
    let graph = case.graph.graph();
    let of = |name: &str| {
        let at = graph.inputs().position(|(_, it)| it.name == name);
        at.map(|it| &case.inputs[it])
    };
    let (q, k, v) = (of("q").unwrap(), of("k").unwrap(), of("v").unwrap());
    let (lo, hi) = (of("lo").unwrap(), of("hi").unwrap());
    let [tq, h, d] = *q.ty.shape.sizes() else { panic!() };
    let [tk, hkv, dv] = *v.ty.shape.sizes() else { panic!() };
    let scale = graph.nodes().iter().find_map(|node| match &node.op {
        calor_ir::Op::Composite(_, attrs) => attrs.get_float("scale"),
        calor_ir::Op::Input(_) | calor_ir::Op::Prim(_) => None,
    });
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for i in 0..tq {
        for head in 0..h {
            let kv = head / (h / hkv);
            let mut scored = Vec::new();
            for j in 0..tk {
                let extra = of("extra").is_some_and(|it| it.data[i] == j as f64);
                let inside = lo.data[i] <= j as f64 && (j as f64) < hi.data[i];
                if !(inside || extra) {
                    continue;
                }
                let mut score: f64 = (0..d)
                    .map(|it| q.data[(i * h + head) * d + it] * k.data[(j * hkv + kv) * d + it])
                    .sum();
                score *= scale.unwrap();
                if let Some(bias) = of("bias") {
                    let reach = bias.ty.shape.sizes()[0] as i64 / 2;
                    let row = (j as i64 - i as i64).clamp(-reach, reach) + reach;
                    score += bias.data[row as usize * h + head];
                }
                scored.push((j, score));
            }
            let sum: f64 = scored.iter().map(|(_, score)| score.exp()).sum();
            lse.push(sum.ln());
            for it in 0..dv {
                let mixed: f64 = scored
                    .iter()
                    .map(|(j, score)| score.exp() * v.data[(j * hkv + kv) * dv + it])
                    .sum();
                out.push(if scored.is_empty() { 0.0 } else { mixed / sum });
            }
        }
    }
    (out, lse)
}

#[test]
fn attention_by_loops() {
    for case in (composite("attention").cases)() {
        let (want, want_lse) = attention(&case);
        let got = outputs(&case);
        let narrow = case.inputs[0].ty.dtype != DType::F32;
        assert_within(if narrow { 1e-2 } else { 1e-7 }, &case.name, &want, &got[0].data);
        if let Some(lse) = got.get(1) {
            assert_within(1e-7, &case.name, &want_lse[..lse.data.len()], &lse.data);
        }
    }
}

#[test]
fn pools_by_loops() {
    for case in (composite("pool").cases)() {
        let kind = case.name.split(' ').next().unwrap();
        let [x, lo, hi] = &case.inputs[..] else { panic!() };
        let [t, d] = *x.ty.shape.sizes() else { panic!() };
        if x.ty.dtype != DType::F32 {
            continue;
        }
        let mut want = Vec::new();
        for (lo, hi) in lo.data.iter().zip(&hi.data) {
            let rows: Vec<usize> =
                (0..t).filter(|j| *lo <= *j as f64 && (*j as f64) < *hi).collect();
            for column in 0..d {
                let values: Vec<f64> = rows.iter().map(|j| x.data[j * d + column]).collect();
                let sum: f64 = values.iter().sum();
                want.push(match kind {
                    _ if values.is_empty() => 0.0,
                    "mean" => sum / values.len() as f64,
                    "sum" => sum,
                    "max" => values.iter().copied().fold(f64::MIN, f64::max),
                    "min" => values.iter().copied().fold(f64::MAX, f64::min),
                    "first" => values[0],
                    "last" => values[values.len() - 1],
                    _ => panic!("{kind}"),
                });
            }
        }
        assert_near(&case.name, &want, &outputs(&case)[0].data);
    }
}

#[test]
fn choices_and_ties() {
    let cases = (composite("top_k").cases)();
    let ties = outputs(cases.iter().find(|it| it.name == "ties").unwrap());
    let third = 1.0 / 3.0;
    let (small, large) = (f64::from(0.1_f32), f64::from(0.4_f32));
    let sum = small + 2.0 * large;
    let rest = [small / sum, large / sum, 0.0, large / sum];
    assert_near("ties", &[&[third, third, third, 0.0], &rest[..]].concat(), &ties[0].data);
    assert_eq!(ties[1].data, [0.0, 1.0, 2.0, 1.0, 3.0, 0.0]);
    for case in (composite("gate").cases)() {
        let q = &outputs(&case)[0];
        for row in q.data.chunks(q.ty.shape.last()) {
            assert_within(1e-7, &case.name, &[1.0], &[row.iter().sum()]);
        }
    }
    let sorted = outputs(&(composite("sort").cases)().remove(3));
    assert_eq!(sorted[0].data, [-1.0, 0.0, 3.0, 3.0, -7.0, 2.0, 2.0, 2.0]);
}

#[test]
fn heads_of_models() {
    for case in (composite("pool_eos").cases)() {
        let rows: &[usize] = if case.name.starts_with("first") { &[1, 4, 6] } else { &[2, 99, 3] };
        let x = &case.inputs[0].data;
        let want: Vec<f64> = rows
            .iter()
            .flat_map(|row| (0..3).map(move |it| x.get(row * 3 + it).copied().unwrap_or(0.0)))
            .collect();
        assert_near(&case.name, &want, &outputs(&case)[0].data);
    }
    for case in (composite("splade_pool").cases)() {
        let [h, w, bias, lo, hi] = &case.inputs[..] else { panic!() };
        let ([t, k], [v, _]) = (two(h), two(w));
        let mut want = Vec::new();
        for (lo, hi) in lo.data.iter().zip(&hi.data) {
            for term in 0..v {
                let mut best = 0.0_f64;
                for j in (0..t).filter(|j| *lo <= *j as f64 && (*j as f64) < *hi) {
                    let dot: f64 =
                        (0..k).map(|it| h.data[j * k + it] * w.data[term * k + it]).sum();
                    best = best.max(dot + bias.data[term]);
                }
                want.push(best.ln_1p());
            }
        }
        assert_near(&case.name, &want, &outputs(&case)[0].data);
    }
}

fn two(x: &Tensor) -> [usize; 2] {
    x.ty.shape.sizes().try_into().unwrap()
}

#[test]
fn whole_numbers_follow_their_type() {
    let cases = calor_ir::primitive_cases();
    let data =
        |name: &str| outputs(cases.iter().find(|it| it.name == name).unwrap())[0].data.clone();
    let (low, high) = (f64::from(i32::MIN), f64::from(i32::MAX));
    assert_eq!(data("add of whole numbers")[5..7], [-2_147_483_647.0, high]);
    assert_eq!(
        data("div of whole numbers"),
        [2.0, -2.0, -2.0, 2.0, 0.0, 1_073_741_823.0, low, 0.0, 0.0, 1.0]
    );
    assert_eq!(data("rem of whole numbers"), [1.0, 2.0, -2.0, -1.0, 0.0, 1.0, 0.0, 0.0, 30.0, 0.0]);
    assert_eq!(data("shl of whole numbers")[..3], [56.0, -56.0, 0.0]);
    assert_eq!(data("shl of whole numbers")[7..9], [0.0, low]);
    assert_eq!(
        data("shr of whole numbers"),
        [0.0, -1.0, 0.0, -1.0, 5.0, 536_870_911.0, -1.0, 0.0, -1.0, 0.0]
    );
    assert_eq!(data("not of whole numbers"), [-1.0, -2.0, 0.0, -8.0, 7.0, high, low]);
    assert_eq!(data("abs of whole numbers")[5], low);
    assert_eq!(data("sum of whole numbers"), [low + 2.0]);
    assert_eq!(data("mul of u32"), [1.0, 0.0, 31.0, 2_147_483_648.0, 0.0]);
    assert_eq!(data("cast f32 to i8"), [0.0, 1.0, -1.0, 2.0, -2.0, 127.0, 0.0, 0.0, -128.0]);
    assert_eq!(data("cast i32 to u8"), [255.0, 0.0, 255.0, 5.0]);
    assert_eq!(data("sum of nothing"), [0.0; 3]);
    assert_eq!(data("iota along 1 of u8"), [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]);
}

#[test]
fn recurrences_and_states() {
    check(
        &[3],
        &[1.0, 2.0, 3.0],
        |g, x| {
            let half = g.scalar(DType::F64, 0.5)?;
            let half = g.broadcast_to(half, calor_ir::Shape::new(&[3]))?;
            let start = g.scalar(DType::F64, 8.0)?;
            g.prim(Prim::LinearScan { axis: 0 }, &[half, x, start])
        },
        &[5.0, 4.5, 5.25],
    );
    let mut g = Graph::new();
    let count = g.input("count", Role::State, Type::new(DType::F32, &[]));
    let next = g.with_number(calor_ir::Binary::Add, count, 1.0).unwrap();
    g.state(count, next);
    g.output("before", count);
    let graph = g.check().unwrap();
    let found = eval(&graph, &[Tensor::new(DType::F32, &[], &[41.0])]).unwrap();
    assert_eq!((found.outputs[0].data[0], found.next_states[0].data[0]), (41.0, 42.0));
}

#[test]
fn wrong_inputs_are_refused_by_type() {
    let mut g = Graph::new();
    let x = g.input("x", Role::Data, Type::new(DType::F32, &[2]));
    let y = g.unary(Unary::Exp, x).unwrap();
    g.output("y", y);
    let graph = g.check().unwrap();
    assert_eq!(eval(&graph, &[]), Err(OracleError::InputCount { want: 1, got: 0 }));
    let wrong = Tensor::new(DType::F32, &[3], &[0.0; 3]);
    assert!(matches!(eval(&graph, &[wrong]), Err(OracleError::Input { .. })));
    let short = Tensor { ty: Type::new(DType::F32, &[2]), data: vec![0.0] };
    assert!(matches!(eval(&graph, &[short]), Err(OracleError::Input { .. })));
    let mut g = Graph::new();
    let zero = g.scalar(DType::F32, 0.0).unwrap();
    let huge = g.broadcast_to(zero, calor_ir::Shape::new(&[1 << 36])).unwrap();
    g.output("huge", huge);
    assert!(matches!(eval(&g.check().unwrap(), &[]), Err(OracleError::TooLarge { .. })));
}

#[test]
fn bytes_round_trip() {
    for dtype in DType::ALL {
        let tensor = Tensor::new(dtype, &[2, 2], &[0.0, 1.0, -2.5, 300.0]);
        let bytes = tensor.to_bytes();
        assert_eq!(bytes.len(), 4 * dtype.size_bytes());
        assert_eq!(Tensor::from_bytes(tensor.ty, &bytes), tensor);
    }
}
