//! The graph of a text.

use super::lexer::{Lexer, float, short};
use super::printer::role_name;
use super::{HEADER, TEXT_BYTES_MAX, TEXT_NODE_COUNT_MAX, TextError, TextFault};
use crate::composite::{Attr, Attrs, VOCABULARY, composite_by_name};
use crate::graph::{Graph, GraphError, Input, Op, Role, Type, ValueId};
use crate::op::{Binary, DotDims, Fold, Literal, Prim, Unary};

impl From<GraphError> for TextFault {
    fn from(source: GraphError) -> Self {
        Self::Graph(source)
    }
}

pub(super) fn parse(text: &str) -> Result<Graph, TextError> {
    let at = |line: usize, fault: TextFault| TextError { line, fault };
    if TEXT_BYTES_MAX < text.len() {
        return Err(at(1, TextFault::TooMany { what: "bytes" }));
    }
    let mut lines = text.lines().enumerate();
    if lines.next().map(|(_, line)| line.trim()) != Some(HEADER) {
        return Err(at(1, TextFault::Syntax { want: "`calor graph 1`" }));
    }
    let mut graph = Graph::new();
    for (index, line) in lines {
        let mut lexer = Lexer::new(line);
        if !lexer.is_empty() {
            statement(&mut graph, &mut lexer).map_err(|fault| at(index + 1, fault))?;
        }
    }
    Ok(graph)
}

fn statement(graph: &mut Graph, line: &mut Lexer<'_>) -> Result<(), TextFault> {
    let count = graph.value_count();
    if line.sees("%") {
        node(graph, line)?;
    } else {
        match line.name()? {
            "segment" => {
                let segment = u32::try_from(line.index()?);
                graph.set_segment(segment.map_err(|_| TextFault::TooMany { what: "segments" })?);
            }
            "output" => {
                let name = line.quoted()?;
                let value = line.value(count)?;
                graph.output(&name, value);
            }
            "state" => {
                let input = line.value(count)?;
                let next = line.value(count)?;
                graph.state(input, next);
            }
            name => return Err(TextFault::Unknown { what: "statement", name: short(name) }),
        }
    }
    if line.is_empty() { Ok(()) } else { Err(TextFault::Syntax { want: "the end of the line" }) }
}

/// `%3 = op{attributes} %0 %1 : type`.
fn node(graph: &mut Graph, line: &mut Lexer<'_>) -> Result<(), TextFault> {
    if TEXT_NODE_COUNT_MAX <= graph.nodes().len() {
        return Err(TextFault::TooMany { what: "nodes" });
    }
    let first = graph.value_count();
    let mut result_count = 0;
    while line.take("%") {
        let index = line.index()?;
        if index != first + result_count {
            return Err(TextFault::Value { index });
        }
        result_count += 1;
    }
    line.want("=")?;
    if line.take("@") {
        composite(graph, line)?;
    } else {
        let name = line.name()?;
        if name == "input" { input(graph, line)? } else { primitive(graph, line, name)? }
    }
    if graph.value_count() != first + result_count {
        return Err(TextFault::Syntax { want: "as many results as the operation gives" });
    }
    Ok(())
}

fn input(graph: &mut Graph, line: &mut Lexer<'_>) -> Result<(), TextFault> {
    let name = line.quoted()?;
    let word = line.name()?;
    let role =
        [Role::Data, Role::Weight, Role::State].into_iter().find(|it| role_name(*it) == word);
    let role = role.ok_or_else(|| TextFault::Unknown { what: "role", name: short(word) })?;
    let live = if line.take("live=") {
        let count = u8::try_from(line.index()?);
        Some(count.map_err(|_| TextFault::TooMany { what: "live counts" })?)
    } else {
        None
    };
    line.want(":")?;
    let ty = line.ty()?;
    graph.push_input(Input { name, role, live }, ty);
    Ok(())
}

fn composite(graph: &mut Graph, line: &mut Lexer<'_>) -> Result<(), TextFault> {
    let name = line.name()?;
    let unknown = || TextFault::Unknown { what: "composite", name: short(name) };
    let composite = composite_by_name(name).ok_or_else(unknown)?;
    let mut attrs = Attrs::NONE;
    if line.take("{") {
        while !line.take("}") {
            if VOCABULARY.len() <= attrs.0.len() {
                return Err(TextFault::TooMany { what: "attributes" });
            }
            let name = word(line.name()?, "attribute")?;
            line.want("=")?;
            attrs.0.push((name, attr(line.scalar()?)?));
        }
    }
    let arguments = arguments(graph, line)?;
    for value in graph.composite(composite, attrs, &arguments)? {
        if line.ty()? != graph.ty(value) {
            return Err(TextFault::Type);
        }
    }
    Ok(())
}

fn attr(text: &str) -> Result<Attr, TextFault> {
    if let Ok(value) = text.parse::<i64>() {
        return Ok(Attr::Int(value));
    }
    match float(text) {
        Some(value) => Ok(Attr::Float(value)),
        None => Ok(Attr::Word(word(text, "word")?)),
    }
}

fn word(text: &str, what: &'static str) -> Result<&'static str, TextFault> {
    let known = VOCABULARY.iter().copied().find(|it| *it == text);
    known.ok_or_else(|| TextFault::Unknown { what, name: short(text) })
}

/// The arguments, and the colon behind them.
fn arguments(graph: &Graph, line: &mut Lexer<'_>) -> Result<Vec<ValueId>, TextFault> {
    let mut out = Vec::new();
    while !line.take(":") {
        out.push(line.value(graph.value_count())?);
    }
    Ok(out)
}

fn primitive(graph: &mut Graph, line: &mut Lexer<'_>, name: &str) -> Result<(), TextFault> {
    let lists = Lists::read(line)?;
    let arguments = arguments(graph, line)?;
    let ty = line.ty()?;
    let prim = prim_of(name, lists, ty)?;
    let value = graph.prim(prim, &arguments)?;
    if graph.ty(value) != ty {
        return Err(TextFault::Type);
    }
    debug_assert!(matches!(graph.op(value), Op::Prim(_)));
    Ok(())
}

/// The attributes of a primitive: lists of sizes and lists of numbers, taken one by one.
struct Lists {
    sizes: Vec<(String, Vec<usize>)>,
    numbers: Vec<(String, Vec<f64>)>,
}

impl Lists {
    fn read(line: &mut Lexer<'_>) -> Result<Self, TextFault> {
        let mut lists = Self { sizes: Vec::new(), numbers: Vec::new() };
        if !line.take("{") {
            return Ok(lists);
        }
        while !line.take("}") {
            let name = line.name()?;
            line.want("=")?;
            match name {
                "values" => lists.numbers.push((name.into(), line.list(Lexer::float)?)),
                "value" => lists.numbers.push((name.into(), vec![line.float()?])),
                "axis" => lists.sizes.push((name.into(), vec![line.index()?])),
                "axes" | "start" | "limit" | "step" | "low" | "high" | "batch" | "contract" => {
                    lists.sizes.push((name.into(), line.list(Lexer::index)?));
                }
                _ => return Err(TextFault::Unknown { what: "attribute", name: short(name) }),
            }
            if 4 < lists.sizes.len() + lists.numbers.len() {
                return Err(TextFault::TooMany { what: "attributes" });
            }
        }
        Ok(lists)
    }

    fn sizes(&mut self, name: &'static str) -> Result<Vec<usize>, TextFault> {
        let at = self.sizes.iter().position(|it| it.0 == name);
        Ok(self.sizes.remove(at.ok_or(TextFault::Syntax { want: name })?).1)
    }

    fn axis(&mut self) -> Result<usize, TextFault> {
        Ok(self.sizes("axis")?[0])
    }

    fn pairs(&mut self, name: &'static str) -> Result<Vec<(usize, usize)>, TextFault> {
        let flat = self.sizes(name)?;
        let (pairs, rest) = flat.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(TextFault::Syntax { want: "pairs of dimensions" });
        }
        Ok(pairs.iter().map(|[a, b]| (*a, *b)).collect())
    }

    fn numbers(&mut self, name: &'static str) -> Result<Vec<f64>, TextFault> {
        let at = self.numbers.iter().position(|it| it.0 == name);
        Ok(self.numbers.remove(at.ok_or(TextFault::Syntax { want: name })?).1)
    }

    fn finish(self) -> Result<(), TextFault> {
        if self.sizes.is_empty() && self.numbers.is_empty() {
            return Ok(());
        }
        Err(TextFault::Syntax { want: "no other attribute" })
    }
}

/// The primitive called `name`; the type of its result says the rest.
fn prim_of(name: &str, mut lists: Lists, ty: Type) -> Result<Prim, TextFault> {
    let Type { dtype, shape } = ty;
    let unary = Unary::ALL.into_iter().find(|it| it.name() == name);
    let binary = Binary::ALL.into_iter().find(|it| it.name() == name);
    let fold = name.strip_prefix("reduce_");
    let fold = fold.and_then(|name| Fold::ALL.into_iter().find(|it| it.name() == name));
    let prim = match name {
        _ if unary.is_some() => unary.map(Prim::Unary),
        _ if binary.is_some() => binary.map(Prim::Binary),
        "select" => Some(Prim::Select),
        "cast" => Some(Prim::Cast(dtype)),
        "constant" => {
            Some(Prim::Constant(Literal { dtype, shape, values: lists.numbers("values")? }))
        }
        "iota" => Some(Prim::Iota { dtype, shape, axis: lists.axis()? }),
        "philox" => Some(Prim::Philox),
        "broadcast" => Some(Prim::Broadcast { shape, axes: lists.sizes("axes")? }),
        "reshape" => Some(Prim::Reshape(shape)),
        "permute" => Some(Prim::Permute(lists.sizes("axes")?)),
        "slice" => Some(Prim::Slice {
            start: lists.sizes("start")?,
            limit: lists.sizes("limit")?,
            step: lists.sizes("step")?,
        }),
        "pad" => {
            let value = lists.numbers("value")?;
            let (low, high) = (lists.sizes("low")?, lists.sizes("high")?);
            Some(Prim::Pad { low, high, value: value[0] })
        }
        "concat" => Some(Prim::Concat { axis: lists.axis()? }),
        "gather" => Some(Prim::Gather { axis: lists.axis()? }),
        "scatter_add" => Some(Prim::ScatterAdd { axis: lists.axis()? }),
        "dot" => {
            let (batch, contract) = (lists.pairs("batch")?, lists.pairs("contract")?);
            Some(Prim::Dot(DotDims { batch, contract, out: dtype }))
        }
        "linear_scan" => Some(Prim::LinearScan { axis: lists.axis()? }),
        _ => match fold {
            Some(fold) => Some(Prim::Reduce { fold, axis: lists.axis()? }),
            None => None,
        },
    };
    lists.finish()?;
    prim.ok_or_else(|| TextFault::Unknown { what: "operation", name: short(name) })
}
