//! Bodies of requests and answers over HTTP, as they travel. What they mean is elsewhere.

pub(crate) mod fused;
pub(crate) mod native;
pub(crate) mod openai;
pub(crate) mod report;
pub(crate) mod trace;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How vectors travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian 32-bit floats in base64.
    Base64,
}

/// A vector in either form.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Vector {
    /// As numbers.
    Float(Vec<f32>),
    /// As little-endian 32-bit floats in base64.
    Base64(String),
}

impl Vector {
    /// In the form that was asked for.
    pub(crate) fn new(numbers: &[f32], format: EncodingFormat) -> Self {
        match format {
            EncodingFormat::Float => Self::Float(numbers.to_vec()),
            EncodingFormat::Base64 => {
                let mut bytes = Vec::with_capacity(4 * numbers.len());
                numbers.iter().for_each(|it| bytes.extend(it.to_le_bytes()));
                Self::Base64(BASE64.encode(bytes))
            }
        }
    }
}

/// Bytes of a base64 text, with or without `data:…;base64,` in front.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let data = match text.strip_prefix("data:") {
        Some(rest) => rest.split_once(";base64,")?.1,
        None => text,
    };
    BASE64.decode(data.trim()).ok()
}

#[test]
fn vectors_travel_in_both_forms() {
    let numbers = [1.0_f32, -0.5];
    let text = serde_json::to_string(&Vector::new(&numbers, EncodingFormat::Float)).unwrap();
    assert_eq!(text, "[1.0,-0.5]");
    let Vector::Base64(text) = Vector::new(&numbers, EncodingFormat::Base64) else { panic!() };
    assert_eq!(decode_base64(&text).unwrap(), [0, 0, 128, 63, 0, 0, 0, 191]);
    assert_eq!(decode_base64("data:image/png;base64,AAE=").unwrap(), [0, 1]);
    assert!(decode_base64("data:image/png,AAE=").is_none() && decode_base64("*").is_none());
}
