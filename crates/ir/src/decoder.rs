//! One block of a decoder as a graph, from a model's configuration; its derivative as another.
//!
//! All blocks of a model have the same kernels, so one stands for all of them. Not here: tokens,
//! the head and where weights come from.

use crate::composite::activation::Activation;
use crate::dtype::DType;
use crate::grad::{GradError, derivative};
use crate::graph::{CheckedGraph, Graph, GraphError, Role, Type, ValueId};
use crate::nn::{self, AttentionOptions, Layer, RopeStyle};
use crate::op::{Binary, Fold};

/// Factors of low rank beside the products of queries and values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRank {
    /// Rows of the first factor; 0 for no factors.
    pub rank: usize,
    /// What the correction is multiplied with, divided by the rank.
    pub alpha: f64,
}

impl LowRank {
    /// No factors.
    pub const NONE: Self = Self { rank: 0, alpha: 0.0 };
}

/// Everything of a model that decides the kernels of its blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecoderBlock {
    /// Width of a hidden row.
    pub hidden_len: usize,
    /// Width of the feed-forward part.
    pub inner_len: usize,
    /// Heads of queries.
    pub head_count: usize,
    /// Heads of keys and values.
    pub key_head_count: usize,
    /// Width of a head; heads together may be wider or narrower than a hidden row.
    pub head_len: usize,
    /// Room for tokens.
    pub token_count_max: usize,
    /// Added to mean squares before their root is taken.
    pub norm_eps: f64,
    /// Base of the angles of positions.
    pub rope_theta: f64,
    /// Type of rows and of the products' weights.
    pub dtype: DType,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether heads of queries and keys are normalised before they are turned.
    pub head_norms: bool,
    /// Factors that are trained.
    pub low_rank: LowRank,
}

/// Inputs that are factors of low rank; the second ones begin as zeros.
pub const LOW_RANK_NAMES: [&str; 4] =
    ["q.low_rank_a", "q.low_rank_b", "v.low_rank_a", "v.low_rank_b"];

impl DecoderBlock {
    /// The block forwards.
    ///
    /// Inputs: `x: [t, hidden]` of the block's type, `positions`, `lo` and `hi: i32 [t]` (row `i`
    /// attends to rows `lo[i] <= j < hi[i]`; causal where `hi[i]` is `i + 1`), which follow live
    /// count 0; the factors of low rank as data in f32; weights in f32. Output: `y`, as `x`.
    ///
    /// # Errors
    /// When the sizes do not fit each other.
    pub fn forward(&self) -> Result<CheckedGraph, GraphError> {
        let mut block = Building::new(self);
        let y = block.block()?;
        block.g.output("y", y);
        block.g.check()
    }

    /// The block forwards again and backwards: for the gradient `dy`, as `x`, of its output.
    ///
    /// Outputs: `loss`, the sum of `y · dy`, which means nothing by itself, then `grad.x` and, if
    /// there are factors of low rank, `grad.` of each.
    ///
    /// # Errors
    /// When the sizes do not fit each other.
    pub fn backward(&self) -> Result<CheckedGraph, GradError> {
        let mut block = Building::new(self);
        let y = block.block()?;
        let g = &mut block.g;
        let dy = g.live_input("dy", 0, g.ty(y));
        let (y, dy) = (g.cast(y, self.dtype.wide())?, g.cast(dy, self.dtype.wide())?);
        let both = g.mul(y, dy)?;
        let flat = g.reshape(both, &[self.token_count_max * self.hidden_len])?;
        let loss = g.reduce(Fold::Sum, flat, 0)?;
        g.output("loss", loss);
        let factors: &[&str] = if self.low_rank.rank == 0 { &[] } else { &LOW_RANK_NAMES };
        derivative(&block.g.check()?, "loss", &[&["x"], factors].concat())
    }
}

struct Building<'a> {
    of: &'a DecoderBlock,
    g: Graph,
}

impl<'a> Building<'a> {
    fn new(of: &'a DecoderBlock) -> Self {
        Self { of, g: Graph::new() }
    }

    fn block(&mut self) -> Layer {
        let DecoderBlock { hidden_len, inner_len, token_count_max, dtype, .. } = *self.of;
        let x = self.g.live_input("x", 0, Type::new(dtype, &[token_count_max, hidden_len]));
        let mixed = self.attend(x)?;
        let x = self.g.add(mixed, x)?;
        let inner = self.norm("norm.inner", x)?;
        let gate = self.weight("gate", &[inner_len, hidden_len])?;
        let up = self.weight("up", &[inner_len, hidden_len])?;
        let inner = nn::gated_linear(&mut self.g, inner, gate, up, None, Activation::Silu)?;
        let outer = self.product("down", inner, hidden_len, None)?;
        self.g.add(outer, x)
    }

    fn attend(&mut self, x: ValueId) -> Layer {
        let DecoderBlock { hidden_len, head_count, key_head_count, head_len, .. } = *self.of;
        let tokens = self.of.token_count_max;
        let mut row = |name| self.g.live_input(name, 0, Type::new(DType::I32, &[tokens]));
        let (positions, lo, hi) = (row("positions"), row("lo"), row("hi"));
        let normed = self.norm("norm.attention", x)?;
        let q = self.heads("q", normed, head_count, Some(positions), true)?;
        let k = self.heads("k", normed, key_head_count, Some(positions), false)?;
        let v = self.heads("v", normed, key_head_count, None, true)?;
        let scale = 1.0 / (head_len as f64).sqrt();
        let options = AttentionOptions { lo, hi, extra: None, bias: None, scale };
        let mixed = nn::attention(&mut self.g, q, k, v, &options)?;
        let mixed = self.g.reshape(mixed, &[tokens, head_count * head_len])?;
        self.product("o", mixed, hidden_len, None)
    }

    /// Rows as heads, corrected where factors of low rank are, turned where there are positions.
    fn heads(
        &mut self,
        name: &str,
        x: ValueId,
        count: usize,
        positions: Option<ValueId>,
        corrected: bool,
    ) -> Layer {
        let DecoderBlock { head_len, token_count_max, rope_theta, .. } = *self.of;
        let to = count * head_len;
        let bias = match self.of.qkv_bias {
            true => Some(self.weight(&format!("{name}.bias"), &[to])?),
            false => None,
        };
        let mut y = self.product(name, x, to, bias)?;
        if corrected && self.of.low_rank.rank != 0 {
            y = self.correct(name, x, y)?;
        }
        let mut y = self.g.reshape(y, &[token_count_max, count, head_len])?;
        let Some(positions) = positions else { return Ok(y) };
        if self.of.head_norms {
            y = self.norm(&format!("{name}.norm"), y)?;
        }
        nn::rope(&mut self.g, y, positions, rope_theta, RopeStyle::Half)
    }

    /// `y + alpha / rank · x aᵀ bᵀ`.
    fn correct(&mut self, name: &str, x: ValueId, y: ValueId) -> Layer {
        let LowRank { rank, alpha } = self.of.low_rank;
        let (from, to) = (self.g.shape(x).last(), self.g.shape(y).last());
        // They change while the block is trained, so they are not weights.
        let mut factor = |part: &str, sizes: &[usize]| {
            let name = format!("{name}.low_rank_{part}");
            let exact = self.g.input(&name, Role::Data, Type::new(DType::F32, sizes));
            self.g.cast(exact, self.of.dtype)
        };
        let (a, b) = (factor("a", &[rank, from])?, factor("b", &[to, rank])?);
        let narrow = nn::linear(&mut self.g, x, a, None, Activation::None)?;
        let narrow = self.g.with_number(Binary::Mul, narrow, alpha / rank as f64)?;
        let wide = nn::linear(&mut self.g, narrow, b, None, Activation::None)?;
        self.g.add(wide, y)
    }

    /// A product with frozen weights. Each goes through here, so a form that keeps them in fewer
    /// bits takes this function's place.
    fn product(&mut self, name: &str, x: ValueId, to: usize, bias: Option<ValueId>) -> Layer {
        let from = self.g.shape(x).last();
        let w = self.weight(name, &[to, from])?;
        nn::linear(&mut self.g, x, w, bias, Activation::None)
    }

    fn norm(&mut self, name: &str, x: ValueId) -> Layer {
        let len = self.g.shape(x).last();
        let weight = self.g.input(name, Role::Weight, Type::new(DType::F32, &[len]));
        nn::rms_norm(&mut self.g, x, weight, self.of.norm_eps)
    }

    fn weight(&mut self, name: &str, sizes: &[usize]) -> Layer {
        let exact = self.g.input(name, Role::Weight, Type::new(DType::F32, sizes));
        self.g.cast(exact, self.of.dtype)
    }
}
