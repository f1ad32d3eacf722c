//! What follows the layers: projections, pooling, term weights, slots.

use calor_ir::nn::{self, PoolKind};
use calor_ir::{Binary, DType, Fold, Graph, GraphError, Role, Shape, Type, ValueId};
use calor_weights::Head;

use super::{
    Builder, L2_EPS, Made, Rows, SPLADE_CHUNK_LEN, SlotKind, SlotMap, TextOutputs, activation,
};
use crate::pooling::Pooling;

impl Builder<'_> {
    pub(super) fn text_head(
        &mut self,
        x: ValueId,
        head: Head,
        rows: &Rows,
        outputs: &TextOutputs,
    ) -> Result<(), GraphError> {
        let config = self.config;
        let mut x = if config.final_norm { self.norm(x, "final.norm")? } else { x };
        if let (true, Head::TokenProjection { out_len }) = (outputs.project, head) {
            x = self.projection(x, out_len)?;
            x = self.g.cast(x, DType::F32)?;
            x = nn::l2_normalize(&mut self.g, x, L2_EPS)?;
        }
        if let Some(slot) = &outputs.token_slot {
            let in_len = self.g.shape(x).last();
            let mapped = self.slot(x, in_len, slot)?;
            self.tokens(mapped, rows, outputs)?;
            if outputs.pooling == Pooling::None {
                return Ok(());
            }
        }
        let (lo, hi) = (rows.seg_lo, rows.seg_hi);
        // Rows that are summed are cast before, rows that are picked after: there are fewer.
        if matches!(outputs.pooling, Pooling::None | Pooling::Mean) {
            x = self.g.cast(x, DType::F32)?;
        }
        let g = &mut self.g;
        let mut pooled = match outputs.pooling {
            Pooling::None => {
                let by_row = outputs.normalize && !matches!(head, Head::TokenProjection { .. });
                let x = if by_row { nn::l2_normalize(g, x, L2_EPS)? } else { x };
                return self.tokens(x, rows, outputs);
            }
            Pooling::Mean => nn::pool(g, x, lo, hi, PoolKind::Mean)?,
            Pooling::First => nn::pool(g, x, lo, hi, PoolKind::First)?,
            Pooling::Last => nn::pool(g, x, lo, hi, PoolKind::Last)?,
            Pooling::Max => nn::pool(g, x, lo, hi, PoolKind::Max)?,
            Pooling::Eos { id } => {
                let ids = rows.ids.unwrap_or(rows.lo);
                nn::pool_eos(g, x, ids, lo, hi, id as i32)?
            }
            Pooling::LargestId => {
                let row = largest_id_row(g, rows)?;
                g.gather(x, 0, row)?
            }
            Pooling::Splade => self.splade(x, rows)?,
        };
        pooled = self.g.cast(pooled, DType::F32)?;
        if let (true, Head::FirstTokenProjection { out_len } | Head::SharedProjection { out_len }) =
            (outputs.project, head)
        {
            pooled = self.projection(pooled, out_len)?;
        }
        let in_len = self.g.shape(pooled).last();
        for slot in &outputs.slots {
            let mapped = self.slot(pooled, in_len, slot)?;
            self.g.output(&slot.name, mapped);
        }
        // A slot that holds the vector itself leaves in its place.
        if outputs.slots.iter().any(|it| matches!(it.kind, SlotKind::Same | SlotKind::Padded)) {
            return Ok(());
        }
        if outputs.normalize {
            pooled = nn::l2_normalize(&mut self.g, pooled, L2_EPS)?;
        }
        self.g.output("pooled", pooled);
        Ok(())
    }

    /// Token rows, and the direction of their mean where it is wanted. The mean's length does not
    /// matter, so the rows are summed.
    fn tokens(&mut self, x: ValueId, rows: &Rows, outputs: &TextOutputs) -> Result<(), GraphError> {
        let g = &mut self.g;
        g.output("tokens", x);
        let (Some(name), Some(keep)) = (&outputs.token_mean, rows.keep) else { return Ok(()) };
        let keep = g.reshape(keep, &[rows.count, 1])?;
        let kept = g.binary(Binary::Mul, x, keep)?;
        let sum = nn::pool(g, kept, rows.seg_lo, rows.seg_hi, PoolKind::Sum)?;
        let mean = nn::l2_normalize(g, sum, L2_EPS)?;
        g.output(name, mean);
        Ok(())
    }

    fn slot(&mut self, x: ValueId, in_len: usize, slot: &SlotMap) -> Made {
        let name = format!("project.{}", slot.name);
        let g = &mut self.g;
        let sizes = match slot.kind {
            SlotKind::Same => return nn::l2_normalize(g, x, L2_EPS),
            SlotKind::Padded => {
                let n = g.shape(x).sizes()[0];
                let zero = g.scalar(DType::F32, 0.0)?;
                let zeros = g.broadcast_to(zero, Shape::new(&[n, slot.out_len - in_len]))?;
                let padded = g.concat(1, &[x, zeros])?;
                return nn::l2_normalize(g, padded, L2_EPS);
            }
            SlotKind::Mapped => [slot.out_len, in_len],
            SlotKind::MappedByRows => [in_len, slot.out_len],
        };
        let mut weight = g.input(&name, Role::Weight, Type::new(DType::F32, &sizes));
        let mut x = x;
        if slot.kind == SlotKind::MappedByRows {
            // A matrix as large as a layer's, so it is in the type of the layers. There rows are
            // whole pieces of 16 bytes.
            weight = g.permute(weight, &[1, 0])?;
            let dtype = self.precision.rows();
            x = widened(g, x, dtype)?;
            weight = widened(g, weight, dtype)?;
        }
        let dtype = g.ty(x).dtype;
        let weight = g.cast(weight, dtype)?;
        let mapped = nn::linear(g, x, weight, None, nn::Activation::None)?;
        let mapped = g.cast(mapped, DType::F32)?;
        nn::l2_normalize(g, mapped, L2_EPS)
    }

    fn projection(&mut self, x: ValueId, out_len: usize) -> Made {
        let in_len = self.g.shape(x).last();
        let has_bias = self.config.family == calor_weights::Family::T5;
        self.linear(x, "head.project", [out_len, in_len], has_bias, nn::Activation::None)
    }

    fn splade(&mut self, x: ValueId, rows: &Rows) -> Made {
        let config = self.config;
        let hidden = config.hidden_len;
        let act = activation(config.activation);
        let x = self.linear(x, "head.mlm.dense", [hidden, hidden], true, act)?;
        let x = self.norm(x, "head.mlm.norm")?;
        let vocab = config.vocab_count;
        let weight = self.weight_for(x, "head.mlm.decoder.weight", &[vocab, hidden])?;
        let bias = self.weight_for(x, "head.mlm.decoder.bias", &[vocab])?;
        let (lo, hi) = (rows.seg_lo, rows.seg_hi);
        nn::splade_pool(&mut self.g, x, [weight, bias], lo, hi, SPLADE_CHUNK_LEN)
    }
}

/// The first row of each sequence that holds its largest id, `i32 [N]`.
fn largest_id_row(g: &mut Graph, rows: &Rows) -> Made {
    let ids = rows.ids.unwrap_or(rows.lo);
    let n = g.shape(rows.seg_lo).element_count();
    let sizes = [n, rows.count];
    let row = g.iota(DType::I32, &sizes, 1)?;
    let lo = g.reshape(rows.seg_lo, &[n, 1])?;
    let hi = g.reshape(rows.seg_hi, &[n, 1])?;
    let after = g.binary(Binary::Le, lo, row)?;
    let before = g.binary(Binary::Lt, row, hi)?;
    let inside = g.binary(Binary::And, after, before)?;
    let ids = g.reshape(ids, &[1, rows.count])?;
    let nothing = g.scalar(DType::I32, -1.0)?;
    let own = g.select(inside, ids, nothing)?;
    let largest = g.reduce_rows(Fold::Max, own)?;
    let is_largest = g.binary(Binary::Eq, own, largest)?;
    let found = g.binary(Binary::And, inside, is_largest)?;
    let past = g.scalar(DType::I32, rows.count as f64)?;
    let at = g.select(found, row, past)?;
    g.reduce(Fold::Min, at, 1)
}

/// Rows in a type, with zeros behind them up to a multiple of eight where it is not f32.
fn widened(g: &mut Graph, x: ValueId, dtype: DType) -> Made {
    let x = g.cast(x, dtype)?;
    let (rows, len) = (g.shape(x).sizes()[0], g.shape(x).last());
    let more = len.next_multiple_of(8) - len;
    if dtype == DType::F32 || more == 0 {
        return Ok(x);
    }
    let zero = g.scalar(dtype, 0.0)?;
    let zeros = g.broadcast_to(zero, Shape::new(&[rows, more]))?;
    g.concat(1, &[x, zeros])
}
