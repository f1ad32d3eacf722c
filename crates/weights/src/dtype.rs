//! Element types as safetensors names them, and their exact widening to f32.
//!
//! Only widening lives here; rounding to a narrower type belongs to whoever uploads.

use half::{bf16, f16};

/// Type of a stored element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the safetensors format")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E4m3,
    F8E5m2,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    I64,
    U64,
    F64,
}

// tidy: table
const NAMES: &[(&str, Dtype, u64)] = &[
    ("BOOL", Dtype::Bool, 1),
    ("U8", Dtype::U8, 1),
    ("I8", Dtype::I8, 1),
    ("F8_E4M3", Dtype::F8E4m3, 1),
    ("F8_E5M2", Dtype::F8E5m2, 1),
    ("I16", Dtype::I16, 2),
    ("U16", Dtype::U16, 2),
    ("F16", Dtype::F16, 2),
    ("BF16", Dtype::Bf16, 2),
    ("I32", Dtype::I32, 4),
    ("U32", Dtype::U32, 4),
    ("F32", Dtype::F32, 4),
    ("I64", Dtype::I64, 8),
    ("U64", Dtype::U64, 8),
    ("F64", Dtype::F64, 8),
];

impl Dtype {
    /// The type that a safetensors header calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(it, ..)| *it == name).map(|(_, dtype, _)| *dtype)
    }

    /// Its name in a safetensors header.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Bytes of one element.
    pub fn element_bytes(self) -> u64 {
        self.row().2
    }

    /// Whether [`widen`] takes it.
    pub(crate) fn widens(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    fn row(self) -> &'static (&'static str, Self, u64) {
        // Every variant has a row, in order of declaration; a test holds this.
        &NAMES[self as usize]
    }
}

/// Writes the little-endian elements of `bytes` to `out` as f32, exactly.
///
/// # Panics
/// When `dtype` is not F32, F16 or Bf16, or the lengths differ: a bug in the caller.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    assert!(dtype.widens());
    assert_eq!(bytes.len() as u64, out.len() as u64 * dtype.element_bytes());
    if dtype == Dtype::F32 {
        for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*raw);
        }
    } else if dtype == Dtype::F16 {
        for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *value = f16::from_le_bytes(*raw).to_f32();
        }
    } else {
        for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *value = bf16::from_le_bytes(*raw).to_f32();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_of_declaration() {
        for (index, (name, dtype, _)) in NAMES.iter().enumerate() {
            assert_eq!(*dtype as usize, index);
            assert_eq!(Dtype::from_name(name), Some(*dtype));
            assert_eq!(dtype.name(), *name);
        }
    }

    #[track_caller]
    fn check_all_16_bit(dtype: Dtype, widened: impl Fn(u16) -> f32) {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut out = vec![0.0; 1 << 16];
        widen(dtype, &bytes, &mut out);
        for (bits, value) in (0..=u16::MAX).zip(out) {
            assert_eq!(value.to_bits(), widened(bits).to_bits(), "{dtype:?} {bits:#06x}");
        }
    }

    #[test]
    fn every_half_widens_as_the_reference_does() {
        check_all_16_bit(Dtype::F16, |bits| f16::from_bits(bits).to_f32());
        check_all_16_bit(Dtype::Bf16, |bits| bf16::from_bits(bits).to_f32());
    }
}
