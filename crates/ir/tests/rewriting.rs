//! Expanding, merging and writing down: none of them may change what a graph means.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calor_ir::composite::COMPOSITES;
use calor_ir::oracle::{Tensor, eval};
use calor_ir::text::{TextFault, parse, print};
use calor_ir::{
    CheckedGraph, DType, Graph, Meaning, Op, OpCase, Role, Type, ValueId, dedupe, expand_all,
    expand_once, nn, primitive_cases,
};

fn every_case() -> Vec<(&'static str, OpCase)> {
    let mut out: Vec<_> = primitive_cases().into_iter().map(|it| ("primitive", it)).collect();
    for composite in COMPOSITES {
        out.extend((composite.cases)().into_iter().map(|it| (composite.name, it)));
    }
    out
}

fn outputs(graph: &CheckedGraph, inputs: &[Tensor]) -> Vec<Tensor> {
    eval(graph, inputs).unwrap().outputs
}

/// Equal to the last bits that a different order of the same operations may cost.
#[track_caller]
fn assert_close(place: &str, want: &[Tensor], got: &[Tensor]) {
    assert_eq!(want.len(), got.len(), "{place}");
    for (want, got) in want.iter().zip(got) {
        assert_eq!(want.ty, got.ty, "{place}");
        for (a, b) in want.data.iter().zip(&got.data) {
            let same = a == b || (a.is_nan() && b.is_nan());
            assert!(same || (a - b).abs() <= 1e-12 * a.abs().max(1.0), "{place}: {a} {b}");
        }
    }
}

fn composite_count(graph: &Graph) -> usize {
    graph.nodes().iter().filter(|it| matches!(it.op, Op::Composite(..))).count()
}

#[test]
fn expansion_keeps_values() {
    for (owner, case) in every_case() {
        let place = format!("{owner}, {}", case.name);
        let whole = expand_all(case.graph.graph(), &mut |_, _| false).unwrap();
        for (old, new) in whole.values.iter().enumerate() {
            let old = ValueId::from_index(old);
            assert_eq!(case.graph.graph().ty(old), whole.graph.ty(*new), "{place}");
        }
        let opaque = |op: &Op| match op {
            Op::Composite(it, _) => matches!(it.meaning, Meaning::Opaque { .. }),
            Op::Input(_) | Op::Prim(_) => true,
        };
        assert!(whole.graph.nodes().iter().all(|it| opaque(&it.op)), "{place}");
        let graph = whole.graph.check().unwrap();
        let want = outputs(&case.graph, &case.inputs);
        assert_close(&place, &want, &outputs(&graph, &case.inputs));
        let merged = dedupe(graph.graph());
        assert!(merged.graph.nodes().len() <= graph.graph().nodes().len());
        let again = dedupe(&merged.graph);
        assert_eq!(again.graph.nodes().len(), merged.graph.nodes().len(), "{place}");
        let merged = merged.graph.check().unwrap();
        assert_close(&place, &want, &outputs(&merged, &case.inputs));
    }
}

#[track_caller]
fn check_text(place: &str, graph: &Graph) {
    let text = print(graph);
    let back = parse(&text).unwrap_or_else(|err| panic!("{place}: {err}\n{text}"));
    assert_eq!(print(&back), text, "{place}");
    assert_eq!(back.states(), graph.states());
    assert_eq!(back.outputs(), graph.outputs());
    for (a, b) in back.nodes().iter().zip(graph.nodes()) {
        assert_eq!((&a.inputs, a.segment), (&b.inputs, b.segment), "{place}");
        assert_eq!(format!("{:?}", a.op), format!("{:?}", b.op), "{place}");
    }
}

#[test]
fn text_is_exact() {
    for (owner, case) in every_case() {
        let place = format!("{owner}, {}", case.name);
        check_text(&place, case.graph.graph());
        let graph = expand_all(case.graph.graph(), &mut |_, _| false).unwrap().graph;
        check_text(&place, &graph);
    }
}

/// A graph with a state, a segment, a live input and a name that needs quoting.
fn odd_graph() -> (Graph, [ValueId; 2]) {
    let mut g = Graph::new();
    let x = g.live_input("a \"b\" \\ \n é \u{7f}", 3, Type::new(DType::F32, &[2, 4]));
    let total = g.input("total", Role::State, Type::new(DType::F32, &[2, 4]));
    let shares = nn::softmax(&mut g, x).unwrap();
    g.set_segment(7);
    let again = nn::softmax(&mut g, x).unwrap();
    let next = g.add(total, again).unwrap();
    g.set_segment(0);
    let unused = g.add(x, x).unwrap();
    let same = nn::softmax(&mut g, x).unwrap();
    g.output("shares", shares);
    g.output("same", same);
    g.state(total, next);
    (g, [again, unused])
}

#[test]
fn rewriting_respects_states_and_segments() {
    let (graph, [again, unused]) = odd_graph();
    check_text("odd graph", &graph);
    let merged = dedupe(&graph);
    let [shares, same] = [0, 1].map(|it| merged.graph.outputs()[it].value);
    assert_eq!(shares, same, "equal nodes of one segment are merged");
    assert_eq!(composite_count(&merged.graph), 2, "those of different segments are not");
    assert_eq!(merged.graph.nodes().len(), 5, "what nothing needs is dropped");
    assert_eq!(merged.value(unused), None);
    assert!(merged.value(again).is_some());
    assert_eq!(merged.graph.states().len(), 1);
    let whole = expand_all(&merged.graph, &mut |_, _| false).unwrap().graph;
    assert!(whole.nodes().iter().any(|it| it.segment == 7));
    whole.check().unwrap();
}

#[test]
fn kept_composites_stay() {
    for composite in COMPOSITES {
        let case = (composite.cases)().remove(0);
        let graph = case.graph.graph();
        let kept = expand_all(graph, &mut |graph, id| match &graph.node(id).op {
            Op::Composite(it, _) => it.is(composite),
            Op::Input(_) | Op::Prim(_) => panic!("only composites are asked about"),
        });
        assert_eq!(composite_count(&kept.unwrap().graph), 1, "{}", composite.name);
        let once = expand_once(graph, &mut |_, _| false).unwrap().graph;
        assert!(once.nodes().len() >= graph.nodes().len(), "{}", composite.name);
    }
}

#[track_caller]
fn check_fault(body: &str, line: usize, want: impl Fn(&TextFault) -> bool) {
    let err = parse(&format!("calor graph 1\n{body}")).unwrap_err();
    assert!(want(&err.fault), "{err}");
    assert_eq!(err.line, line, "{err}");
}

#[test]
fn bad_text_is_refused_with_its_line() {
    assert_eq!(parse("").unwrap_err().line, 1);
    let x = "%0 = input \"x\" data : f32[2]\n";
    check_fault("what", 2, |it| matches!(it, TextFault::Unknown { .. }));
    check_fault(&format!("{x}%1 = exp %1 : f32[2]"), 3, |it| {
        matches!(it, TextFault::Value { index: 1 })
    });
    check_fault(&format!("{x}%2 = exp %0 : f32[2]"), 3, |it| matches!(it, TextFault::Value { .. }));
    check_fault(&format!("{x}\n%1 = exp %0 : f32[3]"), 4, |it| matches!(it, TextFault::Type));
    check_fault(&format!("{x}%1 = exp{{axis=1}} %0 : f32[2]"), 3, |it| {
        matches!(it, TextFault::Syntax { .. })
    });
    check_fault(&format!("{x}%1 = @softmax{{evil=1}} %0 : f32[2]"), 3, |it| {
        matches!(it, TextFault::Unknown { .. })
    });
    check_fault("%0 = input \"x\" data : f32[18446744073709551615,0]", 2, |it| {
        matches!(it, TextFault::Shape)
    });
    check_fault("%0 = iota{axis=3} : i32[2]", 2, |it| matches!(it, TextFault::Graph(_)));
    check_fault("output \"x", 2, |it| matches!(it, TextFault::Syntax { .. }));
    check_fault("%0 = input \"\\u{110000}\" data : f32[]", 2, |it| {
        matches!(it, TextFault::Syntax { .. })
    });
    let huge = "%0 = input \"x\" data : f32[1099511627776,1]\n\
                %1 = input \"w\" data : f32[1]\n\
                %2 = @splade_pool{chunk=1} %0 %0 %1 %1 %1 : f32[1]";
    check_fault(huge, 4, |it| matches!(it, TextFault::Graph(_)));
    let wide = "%0 = input \"h\" data : f32[1,1]\n\
                %1 = input \"w\" data : f32[5,1]\n\
                %2 = input \"b\" data : f32[5]\n\
                %3 = input \"lo\" data : i32[1099511627776]\n\
                %4 = @splade_pool{chunk=1} %0 %1 %2 %3 %3 : f32[1099511627776,5]";
    check_fault(wide, 6, |it| matches!(it, TextFault::Graph(_)));
}

/// Damaged texts are refused or understood; nothing panics and nothing grows without bound.
#[test]
fn damaged_text_never_panics() {
    let mut seed = 7_u32;
    let mut draw = move |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    let spare = b"0123456789%[]{}=,.:@ \"\\-enf\n";
    for (_, case) in every_case() {
        let whole = expand_once(case.graph.graph(), &mut |_, _| false).unwrap().graph;
        for text in [print(case.graph.graph()), print(&whole)] {
            for _ in 0..12 {
                let mut bytes = text.clone().into_bytes();
                for _ in 0..1 + draw(3) {
                    let at = draw(bytes.len());
                    match draw(3) {
                        0 => bytes[at] = spare[draw(spare.len())],
                        1 => bytes.insert(at, spare[draw(spare.len())]),
                        _ => drop(bytes.remove(at)),
                    }
                }
                let damaged = String::from_utf8_lossy(&bytes);
                if let Ok(graph) = parse(&damaged) {
                    assert_eq!(print(&parse(&print(&graph)).unwrap()), print(&graph));
                }
            }
        }
    }
}
