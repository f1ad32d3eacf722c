//! Which values have rows that follow the request.
//!
//! A value carries the label of a live count when rows at or past that count are padding: nobody
//! reads them into a row that counts, so a device may leave them uncomputed. Labels start at
//! inputs and pass through whatever works row by row; a value that is read across rows in another
//! way loses its label, and so does everything that it is computed from.

use calor_ir::composite::{
    attention, embedding, experts, gated_linear, gelu, layer_norm, linear, pool, quantize_rows,
    quick_gelu, relu, rms_norm, rope, scaled_linear, silu, softmax, splade_pool, tf32_linear,
};
use calor_ir::{Composite, Graph, Node, Op, Prim, Role, ValueId};

/// For each value: the count that bounds its first dimension, if any.
pub(super) fn live_counts(graph: &Graph) -> Vec<Option<u8>> {
    let (mut labels, mut whole) = labels(graph, &rule_of);
    for state in graph.states() {
        whole[state.next.index()] = true;
    }
    // What is needed whole must be computed from whole values.
    for node in graph.nodes().iter().rev() {
        if node.results().any(|it| whole[it.index()]) {
            node.inputs.iter().for_each(|it| whole[it.index()] = true);
        }
    }
    for (label, whole) in labels.iter_mut().zip(whole) {
        if whole {
            *label = None;
        }
    }
    labels
}

/// For each value: the count that its rows follow, whether or not its padding may be left out.
pub(super) fn row_counts(graph: &Graph) -> Vec<Option<u8>> {
    let lead = |value: &ValueId| graph.shape(*value).sizes().first().copied();
    let rule = |graph: &Graph, node: &Node| {
        let same = node.results().all(|it| lead(&it) == node.inputs.first().and_then(lead));
        match (rule_of(graph, node), &node.op) {
            // Nothing is known of it but that it gives a row for a row.
            (Rule::All(Reads::Across), Op::Composite(..)) if same => Rule::Only(0),
            (rule, _) => rule,
        }
    };
    labels(graph, &rule).0
}

/// For each value: the count that its rows follow, and whether it is read across rows.
fn labels(graph: &Graph, rule_of: &dyn Fn(&Graph, &Node) -> Rule) -> (Vec<Option<u8>>, Vec<bool>) {
    let mut labels = vec![None; graph.value_count()];
    let mut whole = vec![false; graph.value_count()];
    for node in graph.nodes() {
        let rule = rule_of(graph, node);
        let mut label = match &node.op {
            Op::Input(input) => input.live.filter(|_| input.role == Role::Data),
            Op::Prim(_) | Op::Composite(..) => None,
        };
        let mut clash = false;
        for (index, value) in node.inputs.iter().enumerate() {
            match (rule.of(index), labels[value.index()]) {
                (Reads::ByRow, Some(own)) => {
                    clash |= label.is_some_and(|it| it != own);
                    label = Some(own);
                }
                (Reads::Across, Some(_)) => whole[value.index()] = true,
                (Reads::ByRow | Reads::Across | Reads::Interval, _) => {}
            }
        }
        if clash {
            label = None;
            node.inputs.iter().for_each(|it| whole[it.index()] = true);
        }
        for value in node.results() {
            labels[value.index()] = label;
        }
    }
    (labels, whole)
}

/// How an argument's rows are used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// Row by row: row `i` of the result sees row `i` only.
    ByRow,
    /// By index intervals or lists that stay inside the live rows.
    Interval,
    /// Every row.
    Across,
}

enum Rule {
    /// Every argument alike.
    All(Reads),
    /// These first, the rest across.
    First(&'static [Reads]),
    /// One argument by row, the rest across.
    Only(usize),
}

impl Rule {
    fn of(&self, index: usize) -> Reads {
        match self {
            Self::All(reads) => *reads,
            Self::First(list) => list.get(index).copied().unwrap_or(Reads::Across),
            Self::Only(only) if *only == index => Reads::ByRow,
            Self::Only(_) => Reads::Across,
        }
    }
}

fn rule_of(graph: &Graph, node: &Node) -> Rule {
    let rows = |keeps: bool| Rule::All(if keeps { Reads::ByRow } else { Reads::Across });
    let lead = |value: ValueId| graph.shape(value).sizes().first().copied();
    let prim = match &node.op {
        Op::Input(_) => return rows(true),
        Op::Composite(composite, _) => return composite_rule(composite),
        Op::Prim(prim) => prim,
    };
    match prim {
        Prim::Unary(_) | Prim::Binary(_) | Prim::Select | Prim::Cast(_) => rows(true),
        Prim::Constant(_) | Prim::Iota { .. } => rows(true),
        Prim::Philox => Rule::Only(1),
        Prim::Broadcast { axes, shape } => {
            let same = lead(node.inputs[0]) == shape.sizes().first().copied();
            rows(axes.first() == Some(&0) && same)
        }
        Prim::Reshape(to) => rows(lead(node.inputs[0]) == to.sizes().first().copied()),
        Prim::Permute(axes) => rows(axes.first() == Some(&0)),
        Prim::Slice { start, limit, step } => {
            let all = limit.first().copied() == lead(node.inputs[0]);
            rows(start.first() == Some(&0) && step.first() == Some(&1) && all)
        }
        Prim::Pad { low, high, .. } => rows(low.first() == Some(&0) && high.first() == Some(&0)),
        Prim::Concat { axis } | Prim::Reduce { axis, .. } | Prim::LinearScan { axis } => {
            rows(*axis != 0)
        }
        // Indices of rows that count point at rows that count.
        Prim::Gather { axis: 0 } => Rule::First(&[Reads::Interval, Reads::ByRow]),
        Prim::Gather { .. } => Rule::Only(0),
        Prim::ScatterAdd { .. } => rows(false),
        Prim::Dot(dims) => {
            let free = dims.batch.is_empty() && dims.contract.iter().all(|pair| pair.0 != 0);
            if free { Rule::Only(0) } else { rows(false) }
        }
    }
}

fn composite_rule(composite: &'static Composite) -> Rule {
    use Reads::{Across, ByRow, Interval};
    let is = |other: &[&'static Composite]| other.iter().any(|it| composite.is(it));
    if composite.is(&attention::ATTENTION) {
        // q, k, v, lo, hi, then extra or bias: a table is not labelled, an index row is.
        Rule::First(&[ByRow, Interval, Interval, ByRow, ByRow, ByRow, Across])
    } else if is(&[&pool::POOL]) {
        Rule::First(&[Interval, ByRow, ByRow])
    } else if is(&[&splade_pool::SPLADE_POOL]) {
        Rule::First(&[Interval, Across, Across, ByRow, ByRow])
    } else if is(&[&experts::EXPERTS]) {
        Rule::First(&[ByRow, ByRow])
    } else if is(&[&embedding::EMBEDDING]) {
        Rule::First(&[Interval, ByRow])
    } else if is(&[&rope::ROPE, &scaled_linear::FP8_LINEAR, &scaled_linear::INT8_LINEAR]) {
        Rule::First(&[ByRow, ByRow])
    } else if is(&[
        &linear::LINEAR,
        &gated_linear::GATED_LINEAR,
        &tf32_linear::TF32_LINEAR,
        &quantize_rows::QUANTIZE_ROWS,
        &softmax::SOFTMAX,
        &layer_norm::LAYER_NORM,
        &rms_norm::RMS_NORM,
        &gelu::GELU,
        &quick_gelu::QUICK_GELU,
        &relu::RELU,
        &silu::SILU,
    ]) {
        Rule::Only(0)
    } else {
        Rule::All(Across)
    }
}
