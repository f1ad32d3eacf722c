//! Small graphs drawn from a counter: the same seed always gives the same graph.
//!
//! Values stay within reach of `f32` and no step is discontinuous in a float, so every way of
//! computing a graph gives the oracle's numbers within a small tolerance.

use calor_ir::{
    Binary, CaseBuilder, DType, DotDims, Fold, GraphError, OpCase, Prim, Unary, ValueId,
};

/// A deterministic stream of numbers.
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// The next number below `end`.
    ///
    /// # Panics
    /// When `end` is zero.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Most elements of a value.
const ELEMENT_COUNT_MAX: usize = 4096;

/// The graph of a seed, with `node_count` draws after its inputs.
///
/// # Panics
/// When a drawn node is refused: a bug in the generator.
pub fn random_graph(seed: u64, node_count: usize) -> OpCase {
    let mut draw = Draw {
        case: CaseBuilder::new(&format!("seed {seed}")).tolerance(2e-4),
        next: Numbers::new(seed),
        values: Vec::new(),
        index_count: 0,
    };
    for at in 0..3 {
        let rank = 1 + draw.next.below(3);
        let sizes: Vec<usize> = (0..rank).map(|_| draw.next.of(&[1, 2, 3, 4, 5, 8])).collect();
        let value = draw.case.random(&format!("x{at}"), DType::F32, &sizes);
        draw.values.push(value);
    }
    for _ in 0..node_count {
        let value = draw.node().unwrap_or_else(|err| panic!("seed {seed}: {err}"));
        if let Some(value) = value {
            draw.values.push(value);
        }
    }
    let last = draw.values.len() - 1;
    let mut outputs = vec![draw.values[last]];
    for _ in 0..draw.next.below(3) {
        outputs.push(draw.values[3 + draw.next.below(last - 2)]);
    }
    draw.case.finish(Ok(outputs))
}

struct Draw {
    case: CaseBuilder,
    next: Numbers,
    values: Vec<ValueId>,
    index_count: usize,
}

impl Draw {
    /// A value, a late one more likely than an early one.
    fn pick(&mut self) -> ValueId {
        let count = self.values.len();
        let (a, b) = (self.next.below(count), self.next.below(count));
        self.values[a.max(b)]
    }

    fn sizes(&self, x: ValueId) -> Vec<usize> {
        self.case.graph.shape(x).sizes().to_vec()
    }

    /// One more value, or nothing where the draw does not fit.
    fn node(&mut self) -> Result<Option<ValueId>, GraphError> {
        let x = self.pick();
        match self.next.below(14) {
            0 => self.unary(x).map(Some),
            1 | 2 => self.binary(x).map(Some),
            3 => self.reshape(x).map(Some),
            4 => self.permute(x).map(Some),
            5 => self.slice(x),
            6 => self.pad(x),
            7 => self.concat(x),
            8 => self.gather(x),
            9 => self.reduce(x),
            10 => self.dot(x),
            11 => self.scatter(x),
            12 => self.softmax(x),
            _ => self.scan(x),
        }
    }

    fn unary(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        let op = self.next.of(&[Unary::Tanh, Unary::Sin, Unary::Neg, Unary::Abs, Unary::Erf]);
        self.case.graph.unary(op, x)
    }

    fn binary(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        let op = self.next.of(&[Binary::Add, Binary::Sub, Binary::Mul, Binary::Max, Binary::Min]);
        let fits = |this: &Self, y: ValueId| {
            let (a, b) = (this.sizes(x), this.sizes(y));
            let pairs = a.iter().rev().zip(b.iter().rev());
            let joint: usize = {
                let (long, short) = if a.len() < b.len() { (&b, &a) } else { (&a, &b) };
                let lead: usize = long[..long.len() - short.len()].iter().product();
                pairs.clone().map(|(a, b)| a.max(b)).product::<usize>() * lead
            };
            pairs.clone().all(|(a, b)| a == b || *a == 1 || *b == 1) && joint <= ELEMENT_COUNT_MAX
        };
        let others: Vec<ValueId> =
            self.values.iter().copied().filter(|it| fits(self, *it)).collect();
        let y = self.next.of(&others);
        let y = self.case.graph.binary(op, x, y)?;
        // Products of products would grow without end.
        if op == Binary::Mul { self.case.graph.unary(Unary::Tanh, y) } else { Ok(y) }
    }

    fn reshape(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        let mut sizes = self.sizes(x);
        match self.next.below(4) {
            0 => sizes = vec![sizes.iter().product()],
            1 if sizes.len() > 1 => {
                let at = self.next.below(sizes.len() - 1);
                let size = sizes.remove(at);
                sizes[at] *= size;
            }
            2 if sizes.len() < 5 => {
                let at = self.next.below(sizes.len() + 1);
                sizes.insert(at, 1);
            }
            _ => {
                let even = sizes.iter().position(|it| *it > 2 && *it % 2 == 0);
                if let Some(at) = even.filter(|_| sizes.len() < 5) {
                    sizes[at] /= 2;
                    sizes.insert(at + self.next.below(2), 2);
                }
            }
        }
        self.case.graph.reshape(x, &sizes)
    }

    fn permute(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        let rank = self.sizes(x).len();
        let mut axes: Vec<usize> = (0..rank).collect();
        for at in 0..rank {
            axes.swap(at, at + self.next.below(rank - at));
        }
        self.case.graph.permute(x, &axes)
    }

    fn slice(&mut self, x: ValueId) -> Result<Option<ValueId>, GraphError> {
        let sizes = self.sizes(x);
        let start: Vec<usize> = sizes.iter().map(|it| self.next.below((*it).max(1))).collect();
        let limit: Vec<usize> = start
            .iter()
            .zip(&sizes)
            .map(|(start, size)| (start + 1 + self.next.below(size - start)).min(*size))
            .collect();
        let step: Vec<usize> = sizes.iter().map(|_| 1 + self.next.below(2)).collect();
        self.case.graph.prim(Prim::Slice { start, limit, step }, &[x]).map(Some)
    }

    fn pad(&mut self, x: ValueId) -> Result<Option<ValueId>, GraphError> {
        let sizes = self.sizes(x);
        if ELEMENT_COUNT_MAX / 8 < sizes.iter().product() {
            return Ok(None);
        }
        let low = sizes.iter().map(|_| self.next.below(3) / 2).collect();
        let high = sizes.iter().map(|_| self.next.below(2)).collect();
        let value = self.next.of(&[0.0, 0.0, 0.5]);
        self.case.graph.prim(Prim::Pad { low, high, value }, &[x]).map(Some)
    }

    fn concat(&mut self, x: ValueId) -> Result<Option<ValueId>, GraphError> {
        let sizes = self.sizes(x);
        if sizes.is_empty() || ELEMENT_COUNT_MAX / 4 < sizes.iter().product() {
            return Ok(None);
        }
        let axis = self.next.below(sizes.len());
        let fits = |it: &ValueId| {
            let other = self.sizes(*it);
            other.len() == sizes.len()
                && (0..sizes.len()).all(|at| at == axis || other[at] == sizes[at])
                && other[axis] <= 16
        };
        let others: Vec<ValueId> = self.values.iter().copied().filter(fits).collect();
        let mut parts = vec![x];
        for _ in 0..=self.next.below(2) {
            if !others.is_empty() {
                parts.push(self.next.of(&others));
            }
        }
        self.case.graph.concat(axis, &parts).map(Some)
    }

    fn indices(&mut self, count: usize, end: usize) -> ValueId {
        // Some are out of range: they are clamped.
        let values: Vec<i32> = (0..count).map(|_| self.next.below(end + 2) as i32 - 1).collect();
        self.index_count += 1;
        self.case.indices(&format!("index{}", self.index_count), &values)
    }

    fn gather(&mut self, x: ValueId) -> Result<Option<ValueId>, GraphError> {
        let sizes = self.sizes(x);
        if sizes.is_empty() || ELEMENT_COUNT_MAX / 8 < sizes.iter().product() {
            return Ok(None);
        }
        let axis = self.next.below(sizes.len());
        let count = 1 + self.next.below(5);
        let indices = self.indices(count, sizes[axis]);
        self.case.graph.gather(x, axis, indices).map(Some)
    }

    fn scatter(&mut self, x: ValueId) -> Result<Option<ValueId>, GraphError> {
        let mut sizes = self.sizes(x);
        if sizes.is_empty() || ELEMENT_COUNT_MAX / 8 < sizes.iter().product() {
            return Ok(None);
        }
        let axis = self.next.below(sizes.len());
        let indices = self.indices(sizes[axis], 4);
        sizes[axis] = 4;
        let zero = self.case.graph.scalar(DType::F32, 0.25)?;
        let base = self.case.graph.broadcast_to(zero, calor_ir::Shape::new(&sizes))?;
        self.case.graph.prim(Prim::ScatterAdd { axis }, &[base, indices, x]).map(Some)
    }

    fn reduce(&mut self, x: ValueId) -> Result<Option<ValueId>, GraphError> {
        let rank = self.sizes(x).len();
        if rank == 0 {
            return Ok(None);
        }
        let axis = self.next.below(rank);
        let fold = self.next.of(&Fold::ALL);
        self.case.graph.reduce(fold, x, axis).map(Some)
    }

    fn softmax(&mut self, x: ValueId) -> Result<Option<ValueId>, GraphError> {
        if self.sizes(x).is_empty() {
            return Ok(None);
        }
        let bounded = self.case.graph.unary(Unary::Tanh, x)?;
        calor_ir::nn::softmax(&mut self.case.graph, bounded).map(Some)
    }

    fn dot(&mut self, x: ValueId) -> Result<Option<ValueId>, GraphError> {
        let a = self.sizes(x);
        let mut pairs = Vec::new();
        for y in &self.values {
            let b = self.sizes(*y);
            for (i, left) in a.iter().enumerate() {
                for (j, right) in b.iter().enumerate() {
                    let free = a.iter().product::<usize>() / left.max(&1)
                        * (b.iter().product::<usize>() / right.max(&1));
                    let fits = free <= ELEMENT_COUNT_MAX && a.len() + b.len() <= 7;
                    if left == right && fits {
                        pairs.push((*y, i, j));
                    }
                }
            }
        }
        if pairs.is_empty() {
            return Ok(None);
        }
        let (y, i, j) = self.next.of(&pairs);
        let b = self.sizes(y);
        // Sometimes a second pair, joined or kept.
        let second = (0..a.len())
            .flat_map(|k| (0..b.len()).map(move |l| (k, l)))
            .find(|(k, l)| *k != i && *l != j && a[*k] == b[*l]);
        let (mut batch, mut contract) = (Vec::new(), vec![(i, j)]);
        match (second, self.next.below(3)) {
            (Some(pair), 0) => batch.push(pair),
            (Some(pair), 1) => contract.push(pair),
            (Some(_) | None, _) => {}
        }
        let out = DType::F32;
        let y = self.case.graph.dot(x, y, DotDims { batch, contract, out })?;
        self.case.graph.unary(Unary::Tanh, y).map(Some)
    }

    fn scan(&mut self, x: ValueId) -> Result<Option<ValueId>, GraphError> {
        let sizes = self.sizes(x);
        if sizes.is_empty() {
            return Ok(None);
        }
        let axis = self.next.below(sizes.len());
        let factor = self.case.graph.unary(Unary::Sin, x)?;
        let mut rest = sizes.clone();
        rest.remove(axis);
        let zero = self.case.graph.scalar(DType::F32, 0.5)?;
        let initial = self.case.graph.broadcast_to(zero, calor_ir::Shape::new(&rest))?;
        self.case.graph.prim(Prim::LinearScan { axis }, &[factor, x, initial]).map(Some)
    }
}
