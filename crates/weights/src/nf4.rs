//! NF4: weights as codes of four bits and a scale for each block, in memory.
//!
//! A tensor is cut, row after row, into blocks of [`BLOCK`] elements, which may cross rows. An
//! element is an entry of [`CODEBOOK`] times the scale of its block. Codes lie as bitsandbytes
//! has them: two in a byte, the even element in the high half.

mod nested;
mod stored;

pub use nested::{NESTED_BLOCK, Nested, signed_dynamic_map};
pub use stored::StoredTensor;

use crate::Dtype;

/// Elements that share a scale.
pub const BLOCK: usize = 64;

/// What each code stands for.
pub const CODEBOOK: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Midpoints of neighbouring entries, as bitsandbytes rounds them: an element has the code that
/// counts the midpoints below it.
const MIDPOINTS: [f32; 15] = [
    -0.848_096_4,
    -0.610_632_9,
    -0.459_995_27,
    -0.339_679_43,
    -0.234_607_41,
    -0.137_911_73,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_25,
    0.203_521_25,
    0.292_013_77,
    0.389_312_54,
    0.501_663_4,
    0.642_786_9,
    0.861_478_4,
];

/// The code of zero.
const ZERO: u8 = 7;

/// Which half of a byte holds the even element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NibbleOrder {
    /// The high half, as in bitsandbytes: the order of [`Nf4`].
    HighFirst,
    /// The low half.
    LowFirst,
}

/// Scales of the blocks, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// As they are.
    Plain(Vec<f32>),
    /// Quantised themselves.
    Nested(Nested),
}

/// A quantised tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4 {
    shape: Vec<usize>,
    dtype: Dtype,
    codes: Vec<u8>,
    scales: Scales,
}

/// Why something is no tensor of four bits an element.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Nf4Problem {
    /// An element is NaN or infinite, so its block has no scale.
    #[error("element {index} is not finite")]
    NotFinite {
        /// Its index, row after row.
        index: usize,
    },
    /// A part has another number of elements than the shape asks for.
    #[error("has {found} {what}, {want} wanted")]
    Count {
        /// The part.
        what: &'static str,
        /// Elements wanted.
        want: usize,
        /// Elements found.
        found: usize,
    },
    /// The tensor beside it is stored in another type.
    #[error("`{tensor}` is stored as {found:?}, {want:?} wanted")]
    Type {
        /// The stored name.
        tensor: String,
        /// The type wanted.
        want: Dtype,
        /// The type found.
        found: Dtype,
    },
    /// The description of the format is not the JSON that is wanted.
    #[error("its state is not readable: line {line}, column {column}")]
    State {
        /// Line of the first surprise.
        line: usize,
        /// Column of the first surprise.
        column: usize,
    },
    /// The format is a relative that is not read.
    #[error("`{field}` is {found}, {want} wanted")]
    Format {
        /// The field of the description.
        field: &'static str,
        /// What is read.
        want: String,
        /// What was found.
        found: String,
    },
    /// The stored table of entries is another one.
    #[error("`{tensor}` is not the table of NF4")]
    Codebook {
        /// The stored name.
        tensor: String,
    },
}

impl Nf4 {
    /// Quantises `values`, which stand for a tensor of type `dtype`, row after row.
    ///
    /// Each element becomes the nearest entry for its block's largest magnitude; the difference is
    /// below 0.16 of that magnitude. A block of zeros has the scale zero and the code of zero.
    ///
    /// # Errors
    /// [`Nf4Problem::NotFinite`] for the first NaN or infinity.
    ///
    /// # Panics
    /// When there are not as many values as the shape says.
    pub fn quantize(values: &[f32], shape: &[usize], dtype: Dtype) -> Result<Self, Nf4Problem> {
        let count: usize = shape.iter().product();
        assert_eq!(values.len(), count);
        if let Some(index) = values.iter().position(|it| !it.is_finite()) {
            return Err(Nf4Problem::NotFinite { index });
        }
        let mut codes = vec![ZERO << 4 | ZERO; count.div_ceil(2)];
        let mut scales = Vec::with_capacity(count.div_ceil(BLOCK));
        for (values, codes) in values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK / 2)) {
            let scale = values.iter().fold(0.0, |most: f32, it| most.max(it.abs()));
            scales.push(scale);
            if scale == 0.0 {
                continue;
            }
            let inverse = scale.recip();
            for (at, value) in values.iter().enumerate() {
                // The smallest scales have no finite inverse.
                let unit = if inverse.is_finite() { value * inverse } else { value / scale };
                let code = MIDPOINTS.iter().filter(|it| **it < unit).count() as u8;
                let byte = &mut codes[at / 2];
                *byte = if at % 2 == 0 { code << 4 | *byte & 15 } else { *byte & 0xf0 | code };
            }
        }
        Ok(Self { shape: shape.into(), dtype, codes, scales: Scales::Plain(scales) })
    }

    /// A tensor that is quantised already, its bytes in either order.
    ///
    /// # Errors
    /// [`Nf4Problem::Count`] when there are more or fewer bytes or scales than the shape says.
    pub fn from_parts(
        order: NibbleOrder,
        mut codes: Vec<u8>,
        scales: Scales,
        shape: &[usize],
        dtype: Dtype,
    ) -> Result<Self, Nf4Problem> {
        let count: usize = shape.iter().product();
        let blocks = count.div_ceil(BLOCK);
        let same = |what, want, found| match want == found {
            true => Ok(()),
            false => Err(Nf4Problem::Count { what, want, found }),
        };
        same("bytes of codes", count.div_ceil(2), codes.len())?;
        match &scales {
            Scales::Plain(scales) => same("scales", blocks, scales.len())?,
            Scales::Nested(nested) => {
                same("scales", blocks, nested.codes.len())?;
                same("nested scales", blocks.div_ceil(NESTED_BLOCK), nested.absmax.len())?;
            }
        }
        if order == NibbleOrder::LowFirst {
            codes.iter_mut().for_each(|it| *it = it.rotate_left(4));
        }
        Ok(Self { shape: shape.into(), dtype, codes, scales })
    }

    /// Dimensions of the tensor that it stands for, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Type of the tensor that it stands for.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Elements of the tensor that it stands for.
    pub fn element_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The codes, two in a byte, the even element in the high half.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The codes with the even element in the half that `order` says.
    pub fn codes_in(&self, order: NibbleOrder) -> Vec<u8> {
        match order {
            NibbleOrder::HighFirst => self.codes.clone(),
            NibbleOrder::LowFirst => self.codes.iter().map(|it| it.rotate_left(4)).collect(),
        }
    }

    /// The scales as they are kept.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// The scale of each block.
    pub fn block_scales(&self) -> Vec<f32> {
        match &self.scales {
            Scales::Plain(scales) => scales.clone(),
            Scales::Nested(nested) => nested.dequantize(),
        }
    }

    /// The same codes with their scales quantised, which takes an eighth of a bit for each element
    /// in place of half a bit.
    #[must_use]
    pub fn nest(self) -> Self {
        let scales = Scales::Nested(Nested::quantize(&self.block_scales()));
        Self { scales, ..self }
    }

    /// The tensor, row after row, before it is rounded to its type.
    pub fn dequantize(&self) -> Vec<f32> {
        let scales = self.block_scales();
        let element = |at: usize| {
            let code = self.codes[at / 2] >> (4 * (1 - at % 2)) & 15;
            CODEBOOK[usize::from(code)] * scales[at / BLOCK]
        };
        (0..self.element_count()).map(element).collect()
    }
}

#[cfg(test)]
mod tests;
