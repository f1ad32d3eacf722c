//! An encoded picture as the numbers that a vision tower takes.
//!
//! Decode, convert to RGB, shorter side to the tower's size with Pillow's own bicubic resampling
//! (horizontal then vertical, 8-bit fixed point, anti-aliased), centre crop, scale, normalise,
//! CHW. Only the pixels that survive the crop are computed.

use std::io::Cursor;

use image::{ImageError, ImageReader, Limits};

use crate::error::{EmbeddingError, EmbeddingResult, ImageFault};
use crate::input::ImageFormat;

/// What a picture may cost to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Most pixels in a row.
    pub width_max: u32,
    /// Most rows.
    pub height_max: u32,
    /// Most bytes that the decoder may hold.
    pub decode_bytes_max: u64,
}

impl ImageLimits {
    /// 16,384 × 16,384 pixels, 256 MiB: an 8K frame passes, a decompression bomb does not.
    pub const STANDARD: Self =
        Self { width_max: 16_384, height_max: 16_384, decode_bytes_max: 256 << 20 };
}

/// How a vision tower wants its pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImagePreparation {
    /// Pixels of each side after the crop.
    pub side_len: usize,
    /// Subtracted from each channel after scaling to 0 … 1.
    pub mean: [f64; 3],
    /// Divides each channel afterwards.
    pub deviation: [f64; 3],
}

impl ImagePreparation {
    /// CLIP's: 224 pixels and its training set's moments.
    pub const CLIP: Self = Self {
        side_len: 224,
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        deviation: [0.268_629_54, 0.261_302_58, 0.275_777_11],
    };

    /// Elements of one prepared picture.
    pub fn element_count(&self) -> usize {
        3 * self.side_len * self.side_len
    }

    /// Decodes and prepares a picture. Shape of the result: `[3, side, side]`.
    ///
    /// # Errors
    /// [`EmbeddingError::InvalidImage`]; [`EmbeddingError::ConfigError`] for a side of zero or
    /// a deviation that is not positive.
    pub fn prepare(
        &self,
        bytes: &[u8],
        format: ImageFormat,
        limits: &ImageLimits,
    ) -> EmbeddingResult<Vec<f32>> {
        self.check()?;
        let cropped = decode(bytes, format, limits)?.resized_crop(self.side_len)?;
        let mut out = vec![0.0; self.element_count()];
        self.normalize_into(&cropped, &mut out);
        Ok(out)
    }

    /// Scales, normalises and turns pixels into planes.
    ///
    /// Shapes: `pixels: [side, side, 3]`, `out: [3, side, side]`.
    ///
    /// # Panics
    /// When the slices do not have these sizes: that is a bug in the caller.
    pub fn normalize_into(&self, pixels: &[u8], out: &mut [f32]) {
        assert_eq!(pixels.len(), self.element_count());
        assert_eq!(out.len(), self.element_count());

        for (channel, plane) in out.chunks_exact_mut(self.side_len * self.side_len).enumerate() {
            let (mean, deviation) = (self.mean[channel], self.deviation[channel]);
            let value: [f32; 256] =
                std::array::from_fn(|it| ((it as f64 / 255.0 - mean) / deviation) as f32);
            for (it, pixel) in plane.iter_mut().zip(pixels.as_chunks::<3>().0) {
                *it = value[usize::from(pixel[channel])];
            }
        }
    }

    fn check(&self) -> EmbeddingResult<()> {
        let config = |field, value, want| Err(EmbeddingError::ConfigError { field, value, want });
        if self.side_len == 0 || 4_096 < self.side_len {
            return config("side_len", self.side_len.to_string(), "it must be within 1..=4096");
        }
        for it in self.deviation {
            if !(it.is_finite() && 0.0 < it) {
                return config("deviation", it.to_string(), "it must be finite and positive");
            }
        }
        Ok(())
    }
}

/// RGB pixels of 8 bits, row by row: `[height, width, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// Decodes the first frame to RGB. Transparency is dropped, not blended, as Pillow does.
///
/// # Errors
/// [`EmbeddingError::InvalidImage`] for bytes of another format, bytes that do not decode, and
/// pictures over the limits.
pub fn decode(
    bytes: &[u8],
    format: ImageFormat,
    limits: &ImageLimits,
) -> EmbeddingResult<RgbImage> {
    let format = match format {
        ImageFormat::Png => image::ImageFormat::Png,
        ImageFormat::Jpeg => image::ImageFormat::Jpeg,
        ImageFormat::WebP => image::ImageFormat::WebP,
        ImageFormat::Gif => image::ImageFormat::Gif,
    };
    if image::guess_format(bytes).ok() != Some(format) {
        return Err(invalid(ImageFault::OtherFormat, None));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut decoder_limits = Limits::no_limits();
    decoder_limits.max_image_width = Some(limits.width_max);
    decoder_limits.max_image_height = Some(limits.height_max);
    decoder_limits.max_alloc = Some(limits.decode_bytes_max);
    reader.limits(decoder_limits);
    let decoded = reader.decode().map_err(|err| {
        let fault = match &err {
            ImageError::Limits(_) => ImageFault::OverLimits,
            ImageError::Decoding(_)
            | ImageError::Encoding(_)
            | ImageError::Parameter(_)
            | ImageError::Unsupported(_)
            | ImageError::IoError(_) => ImageFault::Undecodable,
        };
        invalid(fault, Some(err))
    })?;
    let rgb = decoded.into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    RgbImage::new(width, height, rgb.into_raw())
}

impl RgbImage {
    /// From pixels row by row. Shape: `pixels: [height, width, 3]`.
    ///
    /// # Errors
    /// [`EmbeddingError::InvalidDimension`] for a side of zero;
    /// [`EmbeddingError::DimensionMismatch`].
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> EmbeddingResult<Self> {
        if width == 0 || height == 0 {
            return Err(EmbeddingError::InvalidDimension { what: "image side", got_len: 0 });
        }
        let (want_len, got_len) = (3 * width * height, pixels.len());
        if want_len != got_len {
            let what = "image pixels";
            return Err(EmbeddingError::DimensionMismatch { what, want_len, got_len });
        }
        Ok(Self { width, height, pixels })
    }

    /// Pixels of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Resamples so that the shorter side has `side_len` pixels (the longer one
    /// ⌊side · long / short⌋) and cuts the middle out. Shape of the result: `[side, side, 3]`.
    ///
    /// # Errors
    /// [`EmbeddingError::InvalidDimension`] for a side of zero.
    pub fn resized_crop(&self, side_len: usize) -> EmbeddingResult<Vec<u8>> {
        if side_len == 0 {
            return Err(EmbeddingError::InvalidDimension { what: "image side", got_len: 0 });
        }
        let short = self.width.min(self.height);
        let resized = |len: usize| if len == short { side_len } else { side_len * len / short };
        let columns = Axis::new(self.width, resized(self.width), side_len);
        let rows = Axis::new(self.height, resized(self.height), side_len);
        let rows_needed = rows.source_range();

        // Horizontal first, only over the source rows that the second pass looks at.
        let row_bytes = 3 * side_len;
        let mut between = vec![0; rows_needed.len() * row_bytes];
        for (out, source_row) in between.chunks_exact_mut(row_bytes).zip(rows_needed.clone()) {
            let source = &self.pixels[source_row * 3 * self.width..][..3 * self.width];
            for (pixel, window) in out.as_chunks_mut::<3>().0.iter_mut().zip(&columns.windows) {
                *pixel = window.sum(|index| 3 * index, source);
            }
        }
        let mut out = vec![0; side_len * row_bytes];
        for (out_row, window) in out.chunks_exact_mut(row_bytes).zip(&rows.windows) {
            for (column, pixel) in out_row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let place = |index| (index - rows_needed.start) * row_bytes + 3 * column;
                *pixel = window.sum(place, &between);
            }
        }
        Ok(out)
    }
}

/// One direction of the resampling: the windows of the output pixels inside the crop.
struct Axis {
    windows: Vec<Window>,
}

impl Axis {
    fn new(source_len: usize, resized_len: usize, crop_len: usize) -> Self {
        let first = (resized_len - crop_len) / 2;
        let windows = (first..first + crop_len)
            .map(|index| Window::new(source_len, resized_len, index))
            .collect();
        Self { windows }
    }

    fn source_range(&self) -> std::ops::Range<usize> {
        let start = self.windows.iter().map(|it| it.first).min().unwrap_or(0);
        let end = self.windows.iter().map(|it| it.first + it.weights.len()).max().unwrap_or(0);
        start..end
    }
}

/// The source pixels that make an output pixel, and their weights in 1 / 2²².
struct Window {
    first: usize,
    weights: Vec<i32>,
}

impl Window {
    const PRECISION_BITS: u32 = 22;

    fn new(source_len: usize, resized_len: usize, index: usize) -> Self {
        if source_len == resized_len {
            return Self { first: index, weights: vec![1 << Self::PRECISION_BITS] };
        }
        let scale = source_len as f64 / resized_len as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let center = (index as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(source_len);
        let mut weights: Vec<f64> =
            (first..end).map(|it| bicubic((it as f64 - center + 0.5) * (1.0 / stretch))).collect();
        let sum: f64 = weights.iter().sum();
        if sum != 0.0 {
            for it in &mut weights {
                *it /= sum;
            }
        }
        let fixed = |it: &f64| {
            let value = it * f64::from(1 << Self::PRECISION_BITS);
            (if value < 0.0 { value - 0.5 } else { value + 0.5 }) as i32
        };
        Self { first, weights: weights.iter().map(fixed).collect() }
    }

    /// `place(index)` is where source pixel `index` starts in `bytes`.
    fn sum(&self, place: impl Fn(usize) -> usize, bytes: &[u8]) -> [u8; 3] {
        let mut sums = [1_i32 << (Self::PRECISION_BITS - 1); 3];
        for (offset, weight) in self.weights.iter().enumerate() {
            let pixel = &bytes[place(self.first + offset)..][..3];
            for (sum, it) in sums.iter_mut().zip(pixel) {
                *sum = sum.wrapping_add(i32::from(*it).wrapping_mul(*weight));
            }
        }
        sums.map(|it| (it >> Self::PRECISION_BITS).clamp(0, 255) as u8)
    }
}

/// Keys' cubic with a = −0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn invalid(fault: ImageFault, source: Option<ImageError>) -> EmbeddingError {
    EmbeddingError::InvalidImage { fault, source: source.map(|it| Box::new(it) as _) }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! data {
        ($name:literal) => {
            include_bytes!(concat!("../tests/data/", $name))
        };
    }

    fn decoded(bytes: &[u8], format: ImageFormat) -> RgbImage {
        decode(bytes, format, &ImageLimits::STANDARD).unwrap()
    }

    /// Both files are Pillow 11.3's: the input and what Pillow makes of it. Pillow 13 takes the
    /// vertical pass first where that is cheaper, which moves single pixels of tall pictures;
    /// the models were trained on the older order.
    #[track_caller]
    fn check(source: &[u8], format: ImageFormat, want: &[u8]) {
        let want = decoded(want, ImageFormat::Png);
        let got = decoded(source, format).resized_crop(want.width()).unwrap();
        let differing = got.iter().zip(&want.pixels).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 0, "of {} bytes", got.len());
        assert_eq!(got.len(), want.pixels.len());
    }

    #[test]
    fn resampling_is_pillows_bit_for_bit() {
        check(data!("wide.png"), ImageFormat::Png, data!("wide.want.png"));
        check(data!("tall.png"), ImageFormat::Png, data!("tall.want.png"));
        check(data!("grow.png"), ImageFormat::Png, data!("grow.want.png"));
        check(data!("same.png"), ImageFormat::Png, data!("same.want.png"));
        check(data!("thin.png"), ImageFormat::Png, data!("thin.want.png"));
        check(data!("one.png"), ImageFormat::Png, data!("one.want.png"));
        check(data!("height_same.png"), ImageFormat::Png, data!("height_same.want.png"));
        check(data!("big.png"), ImageFormat::Png, data!("big.want.png"));
    }

    #[test]
    fn every_lossless_encoding_gives_the_same_pixels() {
        check(data!("rgba.png"), ImageFormat::Png, data!("wide.want.png"));
        check(data!("lossless.webp"), ImageFormat::WebP, data!("wide.want.png"));
        check(data!("gray.png"), ImageFormat::Png, data!("gray.want.png"));
        check(data!("palette.png"), ImageFormat::Png, data!("palette.want.png"));
        check(data!("palette.gif"), ImageFormat::Gif, data!("palette.want.png"));
    }

    #[test]
    fn jpeg_is_near() {
        let got = decoded(data!("photo.jpg"), ImageFormat::Jpeg);
        let want = decoded(data!("wide.png"), ImageFormat::Png);
        let sum: u64 =
            got.pixels.iter().zip(&want.pixels).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        assert!(sum / (got.pixels.len() as u64) < 8, "mean difference over 8");
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], format: ImageFormat, limits: &ImageLimits, want: ImageFault) {
        match decode(bytes, format, limits) {
            Err(EmbeddingError::InvalidImage { fault, .. }) => assert_eq!(fault, want),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_type() {
        let wide = data!("wide.png");
        let standard = ImageLimits::STANDARD;
        check_refused(wide, ImageFormat::Jpeg, &standard, ImageFault::OtherFormat);
        check_refused(b"nothing", ImageFormat::Png, &standard, ImageFault::OtherFormat);
        check_refused(&[], ImageFormat::Png, &standard, ImageFault::OtherFormat);
        check_refused(&wide[..60], ImageFormat::Png, &standard, ImageFault::Undecodable);
        let narrow = ImageLimits { width_max: 89, ..standard };
        check_refused(wide, ImageFormat::Png, &narrow, ImageFault::OverLimits);
        let small = ImageLimits { decode_bytes_max: 1_000, ..standard };
        check_refused(wide, ImageFormat::Png, &small, ImageFault::OverLimits);
    }

    #[test]
    fn prepared_pictures_are_planes() {
        let preparation = ImagePreparation { side_len: 32, ..ImagePreparation::CLIP };
        let limits = &ImageLimits::STANDARD;
        let got = preparation.prepare(data!("wide.png"), ImageFormat::Png, limits).unwrap();
        let pixels = decoded(data!("wide.want.png"), ImageFormat::Png).pixels;
        for (place, it) in got.iter().enumerate() {
            let (channel, at) = (place / 1_024, place % 1_024);
            let scaled = f64::from(pixels[3 * at + channel]) / 255.0;
            let want = (scaled - preparation.mean[channel]) / preparation.deviation[channel];
            assert!((f64::from(*it) - want).abs() < 1e-6, "element {place}");
        }
        let none = ImagePreparation { side_len: 0, ..ImagePreparation::CLIP };
        assert!(none.prepare(data!("wide.png"), ImageFormat::Png, limits).is_err());
    }

    #[test]
    fn extreme_shapes_cost_no_more_than_the_crop() {
        let line = RgbImage::new(16_384, 1, vec![9; 3 * 16_384]).unwrap();
        assert_eq!(line.resized_crop(224).unwrap(), vec![9; 3 * 224 * 224]);
    }
}
