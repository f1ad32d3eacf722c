//! The attention block of a layer: projections, intervals, global rows, distance biases.

use calor_ir::nn::{self, AttentionOptions, RopeStyle};
use calor_ir::{Binary, DType, GraphError, Literal, Prim, Shape, ValueId};
use calor_weights::{Position, RelativeBias};

use super::{Builder, Made, Rows};

impl Builder<'_> {
    /// `residual + o(attention(x))`.
    pub(super) fn attention(
        &mut self,
        x: ValueId,
        residual: ValueId,
        layer: usize,
        rows: &Rows,
        bias: Option<ValueId>,
    ) -> Made {
        let config = self.config;
        let (h, d) = (config.head_count, config.head_len);
        let name = |part: &str| format!("layer.{layer}.attn.{part}");
        let [mut q, mut k, v, of_first @ ..] =
            self.queries_keys_values(x, layer, rows.count, rows.segment.is_some())?;
        if let (Position::Rope { thetas }, Some(positions)) = (&config.position, rows.positions) {
            let theta = thetas[layer];
            q = nn::rope(&mut self.g, q, positions, theta, RopeStyle::Half)?;
            k = nn::rope(&mut self.g, k, positions, theta, RopeStyle::Half)?;
        }
        let [lo, hi] = self.interval(rows, config.windows[layer])?;
        let scale = config.attention_scale.unwrap_or(1.0 / (d as f64).sqrt());
        let windowed = config.windows[layer].is_some();
        let extra = (config.global_first && windowed).then_some(rows.lo);
        let options = AttentionOptions { lo, hi, extra, bias, scale };
        let mut mixed = nn::attention(&mut self.g, q, k, v, &options)?;
        if let Some(segment) = rows.segment {
            mixed = self.global_rows(x, of_first, mixed, layer, rows, segment, scale)?;
        }
        let mixed = self.g.reshape(mixed, &[rows.count, h * d])?;
        let sizes = [config.hidden_len, h * d];
        let out = self.layer_linear(
            mixed,
            &name("o"),
            sizes,
            config.attn_out_bias,
            nn::Activation::None,
        )?;
        self.g.add(out, residual)
    }

    /// One product for queries, keys and values, and with `global` for the keys and values that the
    /// first rows see: their weights are joined once, when they are loaded.
    fn queries_keys_values(
        &mut self,
        x: ValueId,
        layer: usize,
        count: usize,
        global: bool,
    ) -> Result<[ValueId; 5], GraphError> {
        let config = self.config;
        let (h, hkv, d) = (config.head_count, config.kv_head_count, config.head_len);
        let hidden = config.hidden_len;
        let parts = [("q", h), ("k", hkv), ("v", hkv), ("k_global", h), ("v_global", h)];
        let parts = &parts[..if global { 5 } else { 3 }];
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        for (part, heads) in parts {
            let name = format!("layer.{layer}.attn.{part}");
            weights.push(self.weight(&format!("{name}.weight"), &[heads * d, hidden]));
            if config.qkv_bias {
                biases.push(self.weight(&format!("{name}.bias"), &[heads * d]));
            }
        }
        let all = self.product(x, &weights, &biases, nn::Activation::None)?;
        let mut start = 0;
        let mut out = [all; 5];
        for (slot, (_, heads)) in out.iter_mut().zip(parts) {
            let part = self.g.slice(all, 1, start, start + heads * d)?;
            *slot = self.g.reshape(part, &[count, *heads, d])?;
            start += heads * d;
        }
        Ok(out)
    }

    /// The keys of each row: its sequence, up to itself when causal, within the window.
    fn interval(&mut self, rows: &Rows, window: Option<usize>) -> Result<[ValueId; 2], GraphError> {
        let causal = self.config.causal;
        let (mut lo, mut hi) = (rows.lo, rows.hi);
        if window.is_none() && !causal {
            return Ok([lo, hi]);
        }
        let g = &mut self.g;
        let row = g.iota(DType::I32, &[rows.count], 0)?;
        if let Some(reach) = window {
            let first = g.with_number(Binary::Sub, row, reach as f64)?;
            lo = g.binary(Binary::Max, lo, first)?;
        }
        let reach = if causal { Some(0) } else { window };
        if let Some(reach) = reach {
            let end = g.with_number(Binary::Add, row, reach as f64 + 1.0)?;
            hi = g.binary(Binary::Min, hi, end)?;
        }
        Ok([lo, hi])
    }

    /// The first row of each sequence sees all of it through projections of its own, of which
    /// `[k, v]` are there.
    #[expect(clippy::too_many_arguments, reason = "all of them differ from layer to layer")]
    fn global_rows(
        &mut self,
        x: ValueId,
        [k, v]: [ValueId; 2],
        mixed: ValueId,
        layer: usize,
        rows: &Rows,
        segment: ValueId,
        scale: f64,
    ) -> Made {
        let config = self.config;
        let (h, d, hidden) = (config.head_count, config.head_len, config.hidden_len);
        let count = self.g.shape(rows.seg_lo).element_count();
        let name = |part: &str| format!("layer.{layer}.attn.{part}_global");
        let plain = nn::Activation::None;
        let sizes = [h * d, hidden];
        let first = self.g.gather(x, 0, rows.seg_lo)?;
        let q = self.layer_linear(first, &name("q"), sizes, config.qkv_bias, plain)?;
        let q = self.g.reshape(q, &[count, h, d])?;
        let (lo, hi) = (rows.seg_lo, rows.seg_hi);
        let options = AttentionOptions { lo, hi, extra: None, bias: None, scale };
        let global = nn::attention(&mut self.g, q, k, v, &options)?;
        let spread = self.g.gather(global, 0, segment)?;
        let row = self.g.iota(DType::I32, &[rows.count], 0)?;
        let is_first = self.g.binary(Binary::Eq, row, rows.lo)?;
        let is_first = self.g.reshape(is_first, &[rows.count, 1, 1])?;
        self.g.select(is_first, spread, mixed)
    }

    /// T5's buckets as a row for each distance: made once, from the table.
    pub(super) fn distance_table(&mut self, relative: RelativeBias) -> Made {
        let heads = self.config.head_count;
        let table = self.weight("attn.relative_bias", &[relative.bucket_count, heads]);
        let reach = relative.max_distance as i64;
        let values: Vec<f64> =
            (-reach..=reach).map(|it| distance_bucket(it, relative) as f64).collect();
        let shape = Shape::new(&[values.len()]);
        let literal = Literal { dtype: DType::I32, shape, values };
        let buckets = self.g.prim(Prim::Constant(literal), &[])?;
        self.g.gather(table, 0, buckets)
    }
}

/// The bucket of `key position - query position` (Raffel et al. 2020, as published models
/// compute it: in single precision).
fn distance_bucket(distance: i64, relative: RelativeBias) -> usize {
    let RelativeBias { bucket_count, max_distance, bidirectional } = relative;
    let (count, start, steps) = if bidirectional {
        let half = bucket_count / 2;
        (half, if distance > 0 { half } else { 0 }, distance.unsigned_abs() as usize)
    } else {
        (bucket_count, 0, (-distance).max(0) as usize)
    };
    let exact = count / 2;
    if steps < exact {
        return start + steps;
    }
    let ratio = (steps as f32 / exact as f32).ln() / (max_distance as f32 / exact as f32).ln();
    let far = exact + (ratio * (count - exact) as f32) as usize;
    start + far.min(count - 1)
}

#[test]
fn buckets_are_those_of_t5() {
    let relative = RelativeBias { bucket_count: 32, max_distance: 128, bidirectional: true };
    let got: Vec<usize> = [0, -1, -7, -8, -15, -16, -64, -127, -128, -500, 1, 8, 128]
        .map(|it| distance_bucket(it, relative))
        .to_vec();
    assert_eq!(got, [0, 1, 7, 8, 9, 10, 14, 15, 15, 15, 17, 24, 31]);
}
