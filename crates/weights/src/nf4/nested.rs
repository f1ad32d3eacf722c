//! Scales that are quantised themselves, to eight bits (double quantisation).

/// Scales that share a scale.
pub const NESTED_BLOCK: usize = 256;

/// Scales as codes of eight bits: `map[code] · absmax + offset`.
#[derive(Clone, Debug, PartialEq)]
pub struct Nested {
    /// A code for each scale.
    pub codes: Vec<u8>,
    /// What each code stands for.
    pub map: Box<[f32; 256]>,
    /// A scale for each [`NESTED_BLOCK`] codes.
    pub absmax: Vec<f32>,
    /// What is added: the mean of the scales.
    pub offset: f32,
}

impl Nested {
    /// Quantises the difference of each scale to the mean, by [`signed_dynamic_map`].
    pub fn quantize(scales: &[f32]) -> Self {
        let sum: f64 = scales.iter().map(|it| f64::from(*it)).sum();
        let offset = (sum / scales.len().max(1) as f64) as f32;
        let map = signed_dynamic_map();
        let mut codes = Vec::with_capacity(scales.len());
        let mut absmax = Vec::with_capacity(scales.len().div_ceil(NESTED_BLOCK));
        for scales in scales.chunks(NESTED_BLOCK) {
            let most = scales.iter().fold(0.0, |most: f32, it| most.max((it - offset).abs()));
            absmax.push(most);
            let units =
                scales.iter().map(|it| if most == 0.0 { 0.0 } else { (it - offset) / most });
            codes.extend(units.map(|unit| nearest(&map, unit)));
        }
        Self { codes, map: Box::new(map), absmax, offset }
    }

    /// The scales.
    pub fn dequantize(&self) -> Vec<f32> {
        let scale = |(at, code): (usize, &u8)| {
            self.map[usize::from(*code)] * self.absmax[at / NESTED_BLOCK] + self.offset
        };
        self.codes.iter().enumerate().map(scale).collect()
    }
}

/// The code whose value is nearest; the lower one of two.
fn nearest(map: &[f32; 256], unit: f32) -> u8 {
    let above = map.partition_point(|it| *it < unit).clamp(1, 255);
    let below = above - 1;
    if unit - map[below] <= map[above] - unit { below as u8 } else { above as u8 }
}

/// Numbers from -1 to 1 that lie the closer, the smaller they are (Dettmers, arXiv 1511.04561):
/// for each power of ten from -6 to 0 the midpoints of 1, 2, 4 … 64 equal parts of 0.1 to 1, with
/// both signs, then zero and one. Ascending.
pub fn signed_dynamic_map() -> [f32; 256] {
    let mut map = Vec::with_capacity(256);
    for power in 0..7 {
        let parts = 1 << power;
        let step = (1.0 - 0.1_f32) / parts as f32;
        // From the nearer end and rounded once, as PyTorch divides an interval.
        let border = |at: i32| match at < (parts + 1) / 2 {
            true => step.mul_add(at as f32, 0.1),
            false => (-step).mul_add((parts - at) as f32, 1.0),
        };
        let unit = 10_f64.powi(power - 6) as f32;
        for at in 0..parts {
            let value = unit * ((border(at) + border(at + 1)) / 2.0);
            map.extend([value, -value]);
        }
    }
    map.extend([0.0, 1.0]);
    map.sort_by(f32::total_cmp);
    let mut out = [0.0; 256];
    out.copy_from_slice(&map);
    out
}
