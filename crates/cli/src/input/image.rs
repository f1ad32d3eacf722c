//! An image file as one item; its bytes are looked at when it is embedded.

use std::{io::Read, path::PathBuf};

use calor_embed::input::ImageFormat;

use super::{Content, ItemFault, ReadLimits};

/// Reads an encoded image.
///
/// # Errors
/// [`ItemFault::Empty`], [`ItemFault::TooLong`], [`ItemFault::Image`].
pub fn read_image(
    input: impl Read,
    format: ImageFormat,
    limits: ReadLimits,
) -> Result<Content, ItemFault> {
    let limit_bytes = limits.image_bytes_max;
    let mut bytes = Vec::new();
    let read = input.take(limit_bytes as u64 + 1).read_to_end(&mut bytes);
    let fault = |err: std::io::Error| ItemFault::Image {
        path: PathBuf::from("image"),
        reason: err.to_string(),
    };
    read.map_err(fault)?;
    match bytes.len() {
        0 => Err(ItemFault::Empty),
        len if limit_bytes < len => Err(ItemFault::TooLong { limit_bytes }),
        _ => Ok(Content::Image { bytes, format }),
    }
}

#[test]
fn images_are_bounded() {
    let limits = ReadLimits { image_bytes_max: 3, ..ReadLimits::STANDARD };
    let read = |bytes: &[u8]| read_image(bytes, ImageFormat::Png, limits);
    assert!(read(b"abc").is_ok());
    assert_eq!(read(b"abcd"), Err(ItemFault::TooLong { limit_bytes: 3 }));
    assert_eq!(read(b""), Err(ItemFault::Empty));
}
