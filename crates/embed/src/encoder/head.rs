//! What follows the layers: projections, pooling, term weights, slots.

use calor_ir::nn::{self, PoolKind};
use calor_ir::{Binary, DType, Fold, Graph, GraphError, Role, Type, ValueId};
use calor_weights::Head;

use super::{Builder, L2_EPS, Made, Rows, SPLADE_CHUNK_LEN, SlotMap, TextOutputs, activation};
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
        let hidden = config.hidden_len;
        let mut x = if config.final_norm { self.norm(x, "final.norm")? } else { x };
        if let Some(slot) = &outputs.token_slot {
            let mapped = self.slot(x, hidden, slot)?;
            self.g.output(&slot.name, mapped);
        }
        if let (true, Head::TokenProjection { out_len }) = (outputs.project, head) {
            x = self.projection(x, out_len)?;
            x = self.g.cast(x, DType::F32)?;
            x = nn::l2_normalize(&mut self.g, x, L2_EPS)?;
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
                g.output("tokens", x);
                return Ok(());
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
        if outputs.normalize {
            pooled = nn::l2_normalize(&mut self.g, pooled, L2_EPS)?;
        }
        self.g.output("pooled", pooled);
        Ok(())
    }

    fn slot(&mut self, x: ValueId, in_len: usize, slot: &SlotMap) -> Made {
        let name = format!("project.{}", slot.name);
        let ty = Type::new(DType::F32, &[slot.out_len, in_len]);
        let weight = self.g.input(&name, Role::Weight, ty);
        let dtype = self.g.ty(x).dtype;
        let weight = self.g.cast(weight, dtype)?;
        let mapped = nn::linear(&mut self.g, x, weight, None, nn::Activation::None)?;
        let mapped = self.g.cast(mapped, DType::F32)?;
        nn::l2_normalize(&mut self.g, mapped, L2_EPS)
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
