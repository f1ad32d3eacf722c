//! Norms of rows, with the sum in front of them and the narrowing behind.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::composite::layer_norm;
use calor_ir::{Binary, NodeId, Op, Prim, ValueId};
use calor_kernel::{Source, Unit};

use super::{composite_of, fits, results, sizes};
use crate::sources::{NORM_ROWS_FEW, NORM_TERMS_MAX, is_norm_len, type_number};

/// A norm: what it is of, and what it is scaled and shifted by.
pub(super) struct Norm {
    pub(super) x: ValueId,
    pub(super) gain: ValueId,
    pub(super) shift: Option<ValueId>,
    pub(super) eps: f64,
    /// Whether the mean is taken off: a layer norm.
    pub(super) centred: bool,
}

impl Norm {
    /// The norm that a node is.
    pub(super) fn of(site: &Site<'_>, node: NodeId) -> Option<Self> {
        let (composite, attrs) = composite_of(site, node)?;
        let (x, gain, shift) = match site.graph().node(node).inputs[..] {
            [x, gain] => (x, gain, None),
            [x, gain, shift] => (x, gain, Some(shift)),
            _ => return None,
        };
        let eps = attrs.get_float("eps").filter(|it| it.is_finite())?;
        Some(Self { x, gain, shift, eps, centred: composite.is(&layer_norm::LAYER_NORM) })
    }
}

/// What is added up in front of a norm.
#[derive(Clone, Copy)]
enum Term {
    Rows(ValueId),
    Table { table: ValueId, indices: ValueId },
}

pub(super) fn offer(site: &Site<'_>) -> Option<Offer> {
    let norm = Norm::of(site, site.node())?;
    let graph = site.graph();
    let [y] = results(site)[..] else { return None };
    let k = fits(graph.shape(norm.x).sizes().last().copied()?)?;
    let gain_type = graph.ty(norm.gain).dtype;
    if !is_norm_len(k) || norm.shift.is_some_and(|it| graph.ty(it).dtype != gain_type) {
        return None;
    }
    let Sum { terms, absorbs } = sum(site, norm.x)?;
    let mut absorbed = absorbs;
    let (result, narrowed) = narrowed(site, y);
    absorbed.extend(narrowed);

    let mut args = Vec::new();
    let mut words = vec![OfferWord::OuterRows { value: norm.x, inner: 1 }];
    let mut tables = 0;
    for (at, term) in terms.iter().enumerate() {
        match *term {
            Term::Rows(rows) => {
                args.push(OfferArg::Read(rows, Layout::Dense));
                words.push(OfferWord::Fixed(0));
            }
            Term::Table { table, indices } => {
                tables |= 1 << at;
                args.extend([table, indices].map(|it| OfferArg::Read(it, Layout::Dense)));
                words.push(OfferWord::Fixed(sizes::<2>(site, table)?[0] as i64));
            }
        }
    }
    let vectors = [Some(norm.gain), norm.shift];
    args.extend(vectors.iter().flatten().map(|it| OfferArg::Read(*it, Layout::Dense)));
    args.push(OfferArg::Write(result));
    // A sum that others read as well is written on the way.
    let keeps_sum = 1 < terms.len() && !site.is_read_once(norm.x);
    args.extend(keeps_sum.then_some(OfferArg::Write(norm.x)));
    let params = vec![
        ("k", i64::from(k)),
        ("in", type_number(graph.ty(norm.x).dtype)?.into()),
        ("out", type_number(graph.ty(result).dtype)?.into()),
        ("gain", type_number(gain_type)?.into()),
        ("centred", norm.centred.into()),
        ("bias", norm.shift.is_some().into()),
        ("eps", norm.eps.to_bits().cast_signed()),
        ("terms", terms.len() as i64),
        ("tables", tables),
        ("sum", keeps_sum.into()),
        ("early", vectors.iter().flatten().all(|it| site.is_constant(*it)).into()),
        ("few", (graph.shape(norm.x).element_count() / k as usize <= NORM_ROWS_FEW).into()),
    ];
    let unit = Unit::Source(Source { name: "norm", params });
    Some(Offer { unit, words, args, absorbs: absorbed })
}

/// The rows that are normed, and the nodes that add them up.
struct Sum {
    terms: Vec<Term>,
    absorbs: Vec<NodeId>,
}

/// The terms of `x`; nothing where generated code makes one of them for this norm alone: that can
/// make the norm as well, and saves writing it.
fn sum(site: &Site<'_>, x: ValueId) -> Option<Sum> {
    let mut found = Sum { terms: Vec::new(), absorbs: Vec::new() };
    let mut open = vec![x];
    while let Some(value) = open.pop() {
        let is_read_once = site.is_read_once(value);
        let Some((node, Op::Prim(prim))) = site.maker(value) else {
            found.terms.push(Term::Rows(value));
            continue;
        };
        match (prim, site.graph().node(node).inputs[..].first_chunk()) {
            (Prim::Binary(Binary::Add), Some(&[a, b]))
                if a != b && (is_read_once || value == x) =>
            {
                open.extend([b, a]);
                found.absorbs.push(node);
            }
            (Prim::Gather { axis: 0 }, Some(&[table, indices])) if is_read_once => {
                let [_, _] = sizes(site, table)?;
                let [_] = sizes(site, indices)?;
                found.terms.push(Term::Table { table, indices });
                found.absorbs.push(node);
            }
            (prim, _) if is_read_once && !matches!(prim, Prim::Reshape(_)) => return None,
            // It lies in memory in any case.
            _ => found.terms.push(Term::Rows(value)),
        }
    }
    (found.terms.len() <= NORM_TERMS_MAX).then_some(found)
}

/// The result in the type that its only reader casts it to, if that is narrower, and the cast.
fn narrowed(site: &Site<'_>, y: ValueId) -> (ValueId, Option<NodeId>) {
    let size = |value| site.graph().ty(value).dtype.size_bytes();
    if let Some((node, Op::Prim(Prim::Cast(to)))) = site.only_user(y) {
        let cast = site.graph().node(node).result();
        if type_number(*to).is_some() && size(cast) < size(y) {
            return (cast, Some(node));
        }
    }
    (y, None)
}
