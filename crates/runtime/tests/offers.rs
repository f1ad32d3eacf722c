//! Offers that take whole composites along: one behind, one in front, and one that is not free.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calor_device::{Claim, Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::composite::{l2_normalize, layer_norm, linear, pool};
use calor_ir::{Binary, Composite, DType, Graph, NodeId, Op, Prim, Role, Type, ValueId, nn};
use calor_kernel::{Source, Unit};
use calor_runtime::{BufferKind, Capabilities, Choices, Plan, PlanStep, plan};
use calor_testkit::check_plan;

fn unit(name: &'static str) -> Unit {
    Unit::Source(Source { name, params: vec![] })
}

fn reads(values: &[ValueId]) -> Vec<OfferArg> {
    values.iter().map(|it| OfferArg::Read(*it, Layout::Dense)).collect()
}

fn result(site: &Site<'_>) -> ValueId {
    site.graph().node(site.node()).result()
}

fn is(op: &Op, composite: &'static Composite) -> bool {
    matches!(op, Op::Composite(it, _) if it.is(composite))
}

/// A norm, with the sum in front of it if nobody else has taken that.
fn norm(site: &Site<'_>) -> Option<Offer> {
    let (&[x], vectors) = site.inputs().split_first_chunk()?;
    let sum = site.maker(x).filter(|(_, it)| matches!(it, Op::Prim(Prim::Binary(Binary::Add))));
    let (mut args, absorbs) = match sum {
        Some((node, _)) => (reads(&site.graph().node(node).inputs), vec![node]),
        None => (reads(&[x]), vec![]),
    };
    args.extend(reads(vectors));
    args.push(OfferArg::Write(result(site)));
    Some(Offer { unit: unit("norm"), words: vec![OfferWord::Fixed(0)], args, absorbs })
}

/// A layer, with the norm in front of it folded into the weights.
fn layer(site: &Site<'_>) -> Option<Offer> {
    let [x, w] = *site.inputs() else { return None };
    let folded = site.maker(x).filter(|(_, it)| is(it, &layer_norm::LAYER_NORM));
    let mut absorbs: Vec<NodeId> = vec![];
    let mut args = match folded {
        Some((node, _)) => {
            let [rows, gain] = site.graph().node(node).inputs[..] else { return None };
            absorbs.push(node);
            let fold = Box::new(unit("fold"));
            let weights = OfferArg::Prepared { values: vec![w, gain], unit: fold, bytes: 64 };
            [reads(&[rows]), vec![weights]].concat()
        }
        None => reads(&[x, w]),
    };
    args.push(OfferArg::Write(result(site)));
    args.extend((folded.is_some() && !site.is_read_once(x)).then_some(OfferArg::Write(x)));
    let name = if folded.is_some() { "normed layer" } else { "layer" };
    Some(Offer { unit: unit(name), words: vec![], args, absorbs })
}

/// Pooling, with the unit length behind it.
fn pooling(site: &Site<'_>) -> Option<Offer> {
    let (node, op) = site.only_user(result(site))?;
    let absorbs = is(op, &l2_normalize::L2_NORMALIZE).then_some(node)?;
    let mut args = reads(site.inputs());
    args.push(OfferArg::Write(site.graph().node(node).result()));
    Some(Offer { unit: unit("unit pool"), words: vec![], args, absorbs: vec![absorbs] })
}

static CLAIMS: &[Claim] = &[
    Claim { composite: &layer_norm::LAYER_NORM, offer: norm },
    Claim { composite: &linear::LINEAR, offer: layer },
    Claim { composite: &pool::POOL, offer: pooling },
];

fn planned(g: Graph) -> Plan {
    let capabilities = Capabilities { claims: CLAIMS, parallel_count: 8 };
    let plan = plan(&g.check().unwrap(), &capabilities, &Choices::default()).unwrap();
    check_plan(&plan).unwrap_or_else(|err| panic!("{err}\n{plan}"));
    plan
}

#[track_caller]
fn check_steps(plan: &Plan, steps: &[PlanStep], want: &[&str]) {
    let label = |step: &PlanStep| match step {
        PlanStep::Run { unit, .. } => match &plan.units[*unit as usize] {
            Unit::Loop(_) => "generated".to_owned(),
            unit => unit.label(),
        },
        PlanStep::Copy { .. } => "copy".to_owned(),
    };
    assert_eq!(steps.iter().map(label).collect::<Vec<_>>(), want, "{plan}");
}

fn rows(g: &mut Graph, name: &str) -> ValueId {
    g.input(name, Role::Data, Type::new(DType::F32, &[6, 4]))
}

fn normed(g: &mut Graph, x: ValueId) -> ValueId {
    let gain = g.input("gain", Role::Weight, Type::new(DType::F32, &[4]));
    nn::layer_norm(g, x, gain, None, 1e-5).unwrap()
}

fn linear_of(g: &mut Graph, x: ValueId) -> ValueId {
    let w = g.input("w", Role::Weight, Type::new(DType::F32, &[4, 4]));
    nn::linear(g, x, w, None, nn::Activation::None).unwrap()
}

#[test]
fn a_norm_that_one_layer_reads_is_gone() {
    let mut g = Graph::new();
    let x = rows(&mut g, "x");
    let y = normed(&mut g, x);
    let y = linear_of(&mut g, y);
    g.output("y", y);
    let plan = planned(g);
    check_steps(&plan, &plan.prelude, &["fold"]);
    check_steps(&plan, &plan.steps, &["normed layer"]);
    let fold = &plan.prelude[0];
    assert_eq!((fold.reads().len(), fold.writes().len()), (2, 1), "{plan}");
    let prepared = |kind: &BufferKind| matches!(kind, BufferKind::Prepared);
    assert_eq!(plan.buffers.iter().filter(|it| prepared(&it.kind)).count(), 1, "{plan}");
}

#[test]
fn a_norm_with_other_readers_is_written_on_the_way() {
    let mut g = Graph::new();
    let x = rows(&mut g, "x");
    let y = normed(&mut g, x);
    let out = linear_of(&mut g, y);
    let sum = g.add(out, y).unwrap();
    g.output("sum", sum);
    let plan = planned(g);
    check_steps(&plan, &plan.steps, &["normed layer", "generated"]);
    assert_eq!(plan.steps[0].writes().len(), 2, "{plan}");
}

#[test]
fn a_norm_that_has_taken_others_along_is_not_free() {
    let mut g = Graph::new();
    let (a, b) = (rows(&mut g, "a"), rows(&mut g, "b"));
    let x = g.add(a, b).unwrap();
    let y = normed(&mut g, x);
    let y = linear_of(&mut g, y);
    g.output("y", y);
    let plan = planned(g);
    check_steps(&plan, &plan.steps, &["norm", "layer"]);
}

#[test]
fn a_composite_behind_is_not_expanded() {
    let mut g = Graph::new();
    let x = rows(&mut g, "x");
    let [lo, hi] = ["lo", "hi"].map(|it| g.input(it, Role::Data, Type::new(DType::I32, &[2])));
    let pooled = nn::pool(&mut g, x, lo, hi, nn::PoolKind::Mean).unwrap();
    let pooled = nn::l2_normalize(&mut g, pooled, 1e-12).unwrap();
    g.output("pooled", pooled);
    let plan = planned(g);
    check_steps(&plan, &plan.steps, &["unit pool"]);
}
