//! The text of a graph.

use std::fmt::Write;

use super::HEADER;
use crate::composite::Attr;
use crate::graph::{Graph, Input, Node, Op, Role, ValueId};
use crate::op::{DotDims, Prim};

pub(super) fn print(graph: &Graph) -> String {
    let mut out = String::from(HEADER);
    out.push('\n');
    let mut segment = 0;
    for node in graph.nodes() {
        if node.segment != segment {
            segment = node.segment;
            line(&mut out, format_args!("segment {segment}"));
        }
        line(&mut out, format_args!("{}", node_text(graph, node)));
    }
    for output in graph.outputs() {
        let name = quoted(&output.name);
        line(&mut out, format_args!("output {name} %{}", output.value.index()));
    }
    for state in graph.states() {
        let (input, next) = (state.input.index(), state.next.index());
        line(&mut out, format_args!("state %{input} %{next}"));
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

fn node_text(graph: &Graph, node: &Node) -> String {
    let results: Vec<ValueId> = node.results().collect();
    let op = match &node.op {
        Op::Input(input) => input_text(input),
        Op::Prim(prim) => format!("{}{}", prim.name(), braces(&prim_attributes(prim))),
        Op::Composite(composite, attrs) => {
            let all: Vec<String> =
                attrs.0.iter().map(|(name, value)| format!("{name}={}", attr(value))).collect();
            format!("@{}{}", composite.name, braces(&all))
        }
    };
    let values = |ids: &[ValueId]| {
        ids.iter().map(|it| format!("%{}", it.index())).collect::<Vec<_>>().join(" ")
    };
    let types: Vec<String> = results.iter().map(|it| graph.ty(*it).to_string()).collect();
    let space = if node.inputs.is_empty() { "" } else { " " };
    let arguments = values(&node.inputs);
    format!("{} = {op}{space}{arguments} : {}", values(&results), types.join(" "))
}

fn input_text(input: &Input) -> String {
    let Input { name, role, live } = input;
    let live = live.map_or_else(String::new, |it| format!(" live={it}"));
    format!("input {} {}{live}", quoted(name), role_name(*role))
}

pub(super) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Data => "data",
        Role::Weight => "weight",
        Role::State => "state",
    }
}

fn braces(attributes: &[String]) -> String {
    if attributes.is_empty() { String::new() } else { format!("{{{}}}", attributes.join(" ")) }
}

fn attr(value: &Attr) -> String {
    match value {
        Attr::Int(value) => value.to_string(),
        Attr::Float(value) => number(*value),
        Attr::Word(word) => (*word).into(),
    }
}

/// What the result's type and the arguments do not say.
fn prim_attributes(prim: &Prim) -> Vec<String> {
    match prim {
        Prim::Unary(_)
        | Prim::Binary(_)
        | Prim::Select
        | Prim::Cast(_)
        | Prim::Philox
        | Prim::Reshape(_) => vec![],
        Prim::Constant(literal) => {
            let values: Vec<String> = literal.values.iter().map(|it| number(*it)).collect();
            vec![format!("values=[{}]", values.join(" "))]
        }
        Prim::Broadcast { axes, .. } | Prim::Permute(axes) => vec![format!("axes={}", list(axes))],
        Prim::Slice { start, limit, step } => vec![
            format!("start={}", list(start)),
            format!("limit={}", list(limit)),
            format!("step={}", list(step)),
        ],
        Prim::Pad { low, high, value } => vec![
            format!("low={}", list(low)),
            format!("high={}", list(high)),
            format!("value={}", number(*value)),
        ],
        Prim::Iota { axis, .. }
        | Prim::Concat { axis }
        | Prim::Gather { axis }
        | Prim::ScatterAdd { axis }
        | Prim::Reduce { axis, .. }
        | Prim::LinearScan { axis } => vec![format!("axis={axis}")],
        Prim::Dot(DotDims { batch, contract, .. }) => {
            let pairs = |pairs: &[(usize, usize)]| {
                list(&pairs.iter().flat_map(|(a, b)| [*a, *b]).collect::<Vec<_>>())
            };
            vec![format!("batch={}", pairs(batch)), format!("contract={}", pairs(contract))]
        }
    }
}

fn list(values: &[usize]) -> String {
    let all: Vec<String> = values.iter().map(usize::to_string).collect();
    format!("[{}]", all.join(" "))
}

/// The shortest text that reads back as the same number; never that of a whole number.
fn number(value: f64) -> String {
    if value.is_nan() { "nan".into() } else { format!("{value:?}") }
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
