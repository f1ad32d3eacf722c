//! NF4 in a checkpoint, as bitsandbytes stores it: the codes under the weight's name, and beside
//! it the scales, the table of entries and a description in JSON.

use std::fmt::Write as _;

use serde::Deserialize;

use super::{BLOCK, CODEBOOK, NESTED_BLOCK, Nested, Nf4, Nf4Problem, NibbleOrder, Scales};
use crate::names::nf4::{ABSMAX, NESTED_ABSMAX, NESTED_MAP, QUANT_MAP, STATE};
use crate::{Checkpoint, Dtype, WeightsError};

/// Largest description that is read.
const STATE_BYTES_MAX: usize = 64 << 10;

/// A tensor as it is stored: name, type, dimensions, little-endian bytes.
pub type StoredTensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// The description. Its fields are those of the format.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

// tidy: table
const DTYPES: [(&str, Dtype); 3] =
    [("float32", Dtype::F32), ("float16", Dtype::F16), ("bfloat16", Dtype::Bf16)];

impl Checkpoint {
    /// Whether the tensor stored as `name` is one of four bits an element.
    pub fn is_nf4(&self, name: &str) -> bool {
        self.tensor(&format!("{name}{STATE}")).is_some()
    }

    /// Reads the tensor of four bits an element that is stored as `name`.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read_bytes`], and [`WeightsError::Nf4`] when a part has not the
    /// wanted type or size, or the format is a relative that is not read.
    pub fn read_nf4(&self, name: &str) -> Result<Nf4, WeightsError> {
        let wrong = |problem| WeightsError::Nf4 { tensor: name.into(), problem };
        let state = self.part(name, STATE, Dtype::U8)?;
        if STATE_BYTES_MAX < state.len() {
            let (what, want, found) = ("bytes of state", STATE_BYTES_MAX, state.len());
            return Err(wrong(Nf4Problem::Count { what, want, found }));
        }
        let state: State = serde_json::from_slice(&state)
            .map_err(|err| wrong(Nf4Problem::State { line: err.line(), column: err.column() }))?;
        let dtype = state.check().map_err(wrong)?;
        let count = state.shape.iter().try_fold(1_usize, |all, it| all.checked_mul(*it));
        if count.is_none() {
            let (field, want) = ("shape", "one that fits into memory".into());
            let found = format!("{:?}", state.shape);
            return Err(wrong(Nf4Problem::Format { field, want, found }));
        }
        let codes = self.part(name, "", Dtype::U8)?;
        if floats(&self.part(name, QUANT_MAP, Dtype::F32)?) != CODEBOOK {
            let tensor = format!("{name}{QUANT_MAP}");
            return Err(wrong(Nf4Problem::Codebook { tensor }));
        }
        let scales = match state.nested_offset {
            None => Scales::Plain(floats(&self.part(name, ABSMAX, Dtype::F32)?)),
            Some(offset) => {
                let map = floats(&self.part(name, NESTED_MAP, Dtype::F32)?);
                let found = map.len();
                let map = map.try_into().map_err(|_| {
                    wrong(Nf4Problem::Count { what: "entries of the map", want: 256, found })
                })?;
                Scales::Nested(Nested {
                    codes: self.part(name, ABSMAX, Dtype::U8)?,
                    map,
                    absmax: floats(&self.part(name, NESTED_ABSMAX, Dtype::F32)?),
                    offset: offset as f32,
                })
            }
        };
        Nf4::from_parts(NibbleOrder::HighFirst, codes, scales, &state.shape, dtype).map_err(wrong)
    }

    /// Bytes of a tensor beside `name`, which must be of this type.
    fn part(&self, name: &str, ending: &str, want: Dtype) -> Result<Vec<u8>, WeightsError> {
        let tensor = format!("{name}{ending}");
        let info = self.tensor(&tensor);
        let info = info.ok_or_else(|| WeightsError::UnknownTensor { tensor: tensor.clone() })?;
        if info.dtype != want {
            let problem = Nf4Problem::Type { tensor, want, found: info.dtype };
            return Err(WeightsError::Nf4 { tensor: name.into(), problem });
        }
        let mut bytes = vec![0; (info.range.end - info.range.start) as usize];
        self.read_bytes(&tensor, &mut bytes)?;
        Ok(bytes)
    }
}

impl State {
    /// The type of the tensor, when the format is the one that is read.
    fn check(&self) -> Result<Dtype, Nf4Problem> {
        let same = |field, want: &dyn ToString, found: &dyn ToString| {
            let (want, found) = (want.to_string(), found.to_string());
            if want == found { Ok(()) } else { Err(Nf4Problem::Format { field, want, found }) }
        };
        same("quant_type", &"nf4", &self.quant_type)?;
        same("blocksize", &BLOCK, &self.blocksize)?;
        if self.nested_offset.is_some() {
            let none = String::from("nothing");
            let block = self.nested_blocksize.map_or(none.clone(), |it| it.to_string());
            same("nested_blocksize", &NESTED_BLOCK, &block)?;
            same("nested_dtype", &"float32", self.nested_dtype.as_ref().unwrap_or(&none))?;
        }
        let row = DTYPES.iter().find(|(name, _)| *name == self.dtype);
        row.map(|(_, dtype)| *dtype).ok_or_else(|| Nf4Problem::Format {
            field: "dtype",
            want: "a float of 16 or 32 bits".into(),
            found: self.dtype.clone(),
        })
    }
}

impl Nf4 {
    /// The tensors under which bitsandbytes keeps this one as `name`.
    pub fn stored(&self, name: &str) -> Vec<StoredTensor> {
        let bytes_of = |values: &[f32]| values.iter().flat_map(|it| it.to_le_bytes()).collect();
        let f32s = |ending: &str, values: &[f32]| {
            (format!("{name}{ending}"), Dtype::F32, vec![values.len()], bytes_of(values))
        };
        let u8s = |ending: &str, shape: Vec<usize>, bytes: Vec<u8>| {
            (format!("{name}{ending}"), Dtype::U8, shape, bytes)
        };
        let mut out = vec![
            u8s("", vec![self.codes.len(), 1], self.codes.clone()),
            f32s(QUANT_MAP, &CODEBOOK),
        ];
        match &self.scales {
            Scales::Plain(scales) => out.push(f32s(ABSMAX, scales)),
            Scales::Nested(nested) => {
                out.push(u8s(ABSMAX, vec![nested.codes.len()], nested.codes.clone()));
                out.push(f32s(NESTED_ABSMAX, &nested.absmax));
                out.push(f32s(NESTED_MAP, nested.map.as_slice()));
            }
        }
        let state = self.state().into_bytes();
        out.push(u8s(STATE, vec![state.len()], state));
        out
    }

    /// The description, as Python's `json` writes it.
    fn state(&self) -> String {
        let dtype = DTYPES.iter().find(|(_, it)| *it == self.dtype).map_or("float32", |it| it.0);
        let shape: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        let shape = shape.join(", ");
        let mut out = format!(
            "{{\"quant_type\": \"nf4\", \"blocksize\": {BLOCK}, \"dtype\": \"{dtype}\", \
             \"shape\": [{shape}]"
        );
        if let Scales::Nested(nested) = &self.scales {
            let offset = python_number(f64::from(nested.offset));
            // Writing into a string does not fail.
            let _ = write!(
                out,
                ", \"nested_blocksize\": {NESTED_BLOCK}, \"nested_dtype\": \"float32\", \
                 \"nested_offset\": {offset}"
            );
        }
        out + "}"
    }
}

/// A number as Python writes it: the same digits, with a sign and two digits in the exponent.
fn python_number(value: f64) -> String {
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect()
}

#[test]
fn numbers_are_pythons() {
    for (value, want) in [
        (0.015_625, "0.015625"),
        (1.0, "1.0"),
        (1e-4, "0.0001"),
        (1.5e-5, "1.5e-05"),
        (1e-5, "1e-05"),
        (1e16, "1e+16"),
        (2.5e-300, "2.5e-300"),
    ] {
        assert_eq!(python_number(value), want);
    }
}
