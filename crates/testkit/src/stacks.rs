//! Encoder stacks of the known families, for planning: real shapes, no weights.
//!
//! Not the models: those live with the embedding code. A stack here has the nodes that decide a
//! plan (projections, attention, norms, activations, pooling) and nothing of a checkpoint.

use calor_ir::composite::activation::Activation;
use calor_ir::nn::{
    self, AttentionOptions, PoolKind, RopeStyle, attention, gated_linear, layer_norm, linear, pool,
    rms_norm, rope,
};
use calor_ir::{CheckedGraph, DType, Graph, GraphError, Role, Type, ValueId};

/// A family of encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Norms after the residuals, learned positions.
    Bert,
    /// Root-mean-square norms before, a table of distances, gated activations.
    T5,
    /// Norms before, causal, quick GELU.
    Clip,
    /// BERT with a window and the first row as an extra key, and global rows.
    Longformer,
    /// Root-mean-square norms before, rotary positions, shared key heads.
    Qwen2,
}

impl Family {
    /// Every family, in declaration order.
    pub const ALL: [Self; 5] = [Self::Bert, Self::T5, Self::Clip, Self::Longformer, Self::Qwen2];
}

/// Sizes of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Its family.
    pub family: Family,
    /// Layers.
    pub layer_count: usize,
    /// Width of the hidden state.
    pub dim_len: usize,
    /// Heads of queries.
    pub head_count: usize,
    /// Heads of keys and values.
    pub key_head_count: usize,
    /// Width between the two halves of a feed-forward block.
    pub inner_len: usize,
    /// Rows of the token table.
    pub vocabulary_len: usize,
    /// Room for tokens.
    pub token_count_max: usize,
    /// Room for sequences.
    pub sequence_count_max: usize,
}

impl Stack {
    /// A small stack of a family, for running.
    pub fn small(family: Family) -> Self {
        Self {
            family,
            layer_count: 2,
            dim_len: 16,
            head_count: 4,
            key_head_count: if family == Family::Qwen2 { 2 } else { 4 },
            inner_len: 24,
            vocabulary_len: 11,
            token_count_max: 12,
            sequence_count_max: 3,
        }
    }

    /// The real size of a family, for planning.
    pub fn real(family: Family) -> Self {
        let (layer_count, dim_len, head_count, key_head_count, inner_len, vocabulary_len) =
            match family {
                Family::Bert => (24, 1024, 16, 16, 4096, 30_522),
                Family::T5 => (12, 768, 12, 12, 2048, 32_128),
                Family::Clip => (12, 768, 12, 12, 3072, 49_408),
                Family::Longformer => (12, 768, 12, 12, 3072, 50_265),
                Family::Qwen2 => (28, 1536, 12, 2, 8960, 151_936),
            };
        Self {
            family,
            layer_count,
            dim_len,
            head_count,
            key_head_count,
            inner_len,
            vocabulary_len,
            token_count_max: 512,
            sequence_count_max: 64,
        }
    }

    /// The graph: output `pooled: [sequences, dim]`.
    ///
    /// # Errors
    /// When the sizes do not fit each other.
    pub fn graph(&self) -> Result<CheckedGraph, GraphError> {
        let mut build = Building { stack: *self, g: Graph::new(), weight_count: 0 };
        let rows = build.rows();
        let mut x = build.embed(&rows)?;
        for _ in 0..self.layer_count {
            x = match self.family {
                Family::Bert | Family::Longformer => build.norm_after(x, &rows)?,
                Family::T5 | Family::Clip | Family::Qwen2 => build.norm_before(x, &rows)?,
            };
        }
        let pooled = pool(&mut build.g, x, rows.segment_lo, rows.segment_hi, PoolKind::Mean)?;
        let pooled = nn::l2_normalize(&mut build.g, pooled, 1e-12)?;
        build.g.output("pooled", pooled);
        build.g.check()
    }
}

/// Data inputs of a packed batch.
struct Rows {
    ids: ValueId,
    positions: ValueId,
    lo: ValueId,
    hi: ValueId,
    first: ValueId,
    segment_lo: ValueId,
    segment_hi: ValueId,
}

struct Building {
    stack: Stack,
    g: Graph,
    weight_count: usize,
}

impl Building {
    fn rows(&mut self) -> Rows {
        let Stack { token_count_max, sequence_count_max, .. } = self.stack;
        let mut token =
            |name| self.g.live_input(name, 0, Type::new(DType::I32, &[token_count_max]));
        let (ids, positions) = (token("ids"), token("positions"));
        let (lo, hi, first) = (token("lo"), token("hi"), token("first"));
        let mut sequence =
            |name| self.g.live_input(name, 1, Type::new(DType::I32, &[sequence_count_max]));
        let (segment_lo, segment_hi) = (sequence("segment_lo"), sequence("segment_hi"));
        Rows { ids, positions, lo, hi, first, segment_lo, segment_hi }
    }

    fn weight(&mut self, sizes: &[usize]) -> ValueId {
        self.weight_count += 1;
        let name = format!("w{}", self.weight_count);
        self.g.input(&name, Role::Weight, Type::new(DType::F32, sizes))
    }

    fn embed(&mut self, rows: &Rows) -> Result<ValueId, GraphError> {
        let Stack { family, vocabulary_len, dim_len, token_count_max, .. } = self.stack;
        let table = self.weight(&[vocabulary_len, dim_len]);
        let x = nn::embedding(&mut self.g, table, rows.ids)?;
        match family {
            Family::T5 | Family::Qwen2 => Ok(x),
            Family::Bert | Family::Longformer | Family::Clip => {
                let positions = self.weight(&[token_count_max, dim_len]);
                let positions = nn::embedding(&mut self.g, positions, rows.positions)?;
                let x = self.g.add(x, positions)?;
                if family == Family::Clip { Ok(x) } else { self.layer_norm(x) }
            }
        }
    }

    fn layer_norm(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        let (w, b) = (self.weight(&[self.stack.dim_len]), self.weight(&[self.stack.dim_len]));
        layer_norm(&mut self.g, x, w, Some(b), 1e-12)
    }

    fn norm(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        if self.stack.family == Family::Clip {
            return self.layer_norm(x);
        }
        let w = self.weight(&[self.stack.dim_len]);
        rms_norm(&mut self.g, x, w, 1e-6)
    }

    fn project(
        &mut self,
        x: ValueId,
        to: usize,
        activation: Activation,
    ) -> Result<ValueId, GraphError> {
        let from = self.g.shape(x).last();
        let w = self.weight(&[to, from]);
        let has_bias = self.stack.family != Family::T5;
        let bias = if has_bias { Some(self.weight(&[to])) } else { None };
        linear(&mut self.g, x, w, bias, activation)
    }

    fn heads(&mut self, x: ValueId, count: usize) -> Result<ValueId, GraphError> {
        let Stack { dim_len, head_count, token_count_max, .. } = self.stack;
        let head = dim_len / head_count;
        let y = self.project(x, count * head, Activation::None)?;
        self.g.reshape(y, &[token_count_max, count, head])
    }

    fn attend(&mut self, x: ValueId, rows: &Rows) -> Result<ValueId, GraphError> {
        let Stack { family, dim_len, head_count, key_head_count, token_count_max, .. } = self.stack;
        let mut q = self.heads(x, head_count)?;
        let mut k = self.heads(x, key_head_count)?;
        let v = self.heads(x, key_head_count)?;
        if family == Family::Qwen2 {
            q = rope(&mut self.g, q, rows.positions, 1e6, RopeStyle::Half)?;
            k = rope(&mut self.g, k, rows.positions, 1e6, RopeStyle::Half)?;
        }
        let head = dim_len / head_count;
        let scale = if family == Family::T5 { 1.0 } else { 1.0 / (head as f64).sqrt() };
        let table = (family == Family::T5).then(|| self.weight(&[2 * 127 + 1, head_count]));
        let options = AttentionOptions {
            lo: rows.lo,
            hi: rows.hi,
            extra: (family == Family::Longformer).then_some(rows.first),
            bias: table,
            scale,
        };
        let mut y = attention(&mut self.g, q, k, v, &options)?;
        if family == Family::Longformer {
            y = self.global_rows(x, y, rows)?;
        }
        self.g.reshape(y, &[token_count_max, dim_len])
    }

    /// The first row of each sequence attends to all of it, and takes its place.
    fn global_rows(
        &mut self,
        x: ValueId,
        local: ValueId,
        rows: &Rows,
    ) -> Result<ValueId, GraphError> {
        let Stack { dim_len, head_count, sequence_count_max, token_count_max, .. } = self.stack;
        let head = dim_len / head_count;
        let first = self.g.gather(x, 0, rows.segment_lo)?;
        let q = self.project(first, dim_len, Activation::None)?;
        let q = self.g.reshape(q, &[sequence_count_max, head_count, head])?;
        let (k, v) = (self.heads(x, head_count)?, self.heads(x, head_count)?);
        let options = AttentionOptions {
            lo: rows.segment_lo,
            hi: rows.segment_hi,
            extra: None,
            bias: None,
            scale: 1.0 / (head as f64).sqrt(),
        };
        let global = attention(&mut self.g, q, k, v, &options)?;
        // Each row takes the global row of its sequence where it is the first of it.
        let sequence = self.g.gather(global, 0, rows.first)?;
        let index = self.g.iota(DType::I32, &[token_count_max], 0)?;
        let is_first = self.g.binary(calor_ir::Binary::Eq, rows.lo, index)?;
        let is_first = self.g.reshape(is_first, &[token_count_max, 1, 1])?;
        self.g.select(is_first, sequence, local)
    }

    fn feed_forward(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        let Stack { family, dim_len, inner_len, .. } = self.stack;
        let inner = match family {
            Family::Bert | Family::Longformer => self.project(x, inner_len, Activation::Gelu)?,
            Family::Clip => self.project(x, inner_len, Activation::QuickGelu)?,
            Family::T5 | Family::Qwen2 => {
                let activation =
                    if family == Family::T5 { Activation::GeluTanh } else { Activation::Silu };
                let gate = self.weight(&[inner_len, dim_len]);
                let up = self.weight(&[inner_len, dim_len]);
                gated_linear(&mut self.g, x, gate, up, None, activation)?
            }
        };
        self.project(inner, dim_len, Activation::None)
    }

    fn norm_after(&mut self, x: ValueId, rows: &Rows) -> Result<ValueId, GraphError> {
        let y = self.attend(x, rows)?;
        let y = self.project(y, self.stack.dim_len, Activation::None)?;
        let sum = self.g.add(y, x)?;
        let x = self.layer_norm(sum)?;
        let y = self.feed_forward(x)?;
        let sum = self.g.add(y, x)?;
        self.layer_norm(sum)
    }

    fn norm_before(&mut self, x: ValueId, rows: &Rows) -> Result<ValueId, GraphError> {
        let y = self.norm(x)?;
        let y = self.attend(y, rows)?;
        let y = self.project(y, self.stack.dim_len, Activation::None)?;
        let x = self.g.add(y, x)?;
        let y = self.norm(x)?;
        let y = self.feed_forward(y)?;
        self.g.add(y, x)
    }
}
