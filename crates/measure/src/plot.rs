//! Pictures of a package: each drawn once as SVG and once as PNG by the same code.
//!
//! Colours are those of the light page; a page replaces them by its own variables, see
//! [`Picture::inline`]. The font of the PNG is part of the program, so that text never vanishes.

mod axis;
mod charts;

use std::sync::Once;

use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::style::{FontStyle, RGBColor, register_font};

use crate::error::MeasureError;

pub(crate) use charts::{
    Band, Bar, History, Series, bars, history, latencies, rooflines, scaling, speedups, waterfall,
};

/// Width and usual height of a picture.
pub(crate) const SIZE: (u32, u32) = (760, 420);

/// Name of the font in both forms; the SVG's reader may have a better one.
pub(crate) const FONT: &str = "sans-serif";

/// Colours, and the variables of the page that stand for them.
pub(crate) const PAPER: RGBColor = RGBColor(0xfc, 0xfc, 0xfb);
pub(crate) const INK: RGBColor = RGBColor(0x2b, 0x2a, 0x28);
pub(crate) const FAINT: RGBColor = RGBColor(0xe3, 0xe1, 0xdb);
pub(crate) const QUIET: RGBColor = RGBColor(0x6f, 0x6b, 0x63);
/// One for each line; blind to no common weakness of colour (after Okabe and Ito), and dark enough
/// for words.
pub(crate) const LINES: [RGBColor; 7] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xbb, 0x61, 0x96),
    RGBColor(0xb0, 0x8a, 0x00),
    RGBColor(0x2a, 0x93, 0xd5),
    RGBColor(0x7a, 0x52, 0xc7),
];

/// A picture in both forms.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its file's name without an ending.
    pub name: String,
    /// What it shows, for people who do not see it.
    pub title: String,
    /// Width and height.
    pub size: (u32, u32),
    /// As SVG.
    pub svg: String,
    /// As PNG.
    pub png: Vec<u8>,
}

impl Picture {
    /// The SVG with colours as variables of the page: `--paper`, `--ink`, `--quiet`, `--faint`
    /// and `--line-0` onwards.
    pub fn inline(&self) -> String {
        let hex = |it: &RGBColor| format!("#{:02X}{:02X}{:02X}", it.0, it.1, it.2);
        let mut out = self.svg.clone();
        let named = [(PAPER, "paper"), (INK, "ink"), (QUIET, "quiet"), (FAINT, "faint")];
        for (colour, name) in named {
            out = out.replace(&hex(&colour), &format!("var(--{name})"));
        }
        for (index, colour) in LINES.iter().enumerate() {
            out = out.replace(&hex(colour), &format!("var(--line-{index})"));
        }
        // The page decides how wide it is; what it shows is said beside it.
        let (width, height) = self.size;
        let fixed = format!("<svg width=\"{width}\" height=\"{height}\"");
        out.replacen(&fixed, "<svg role=\"img\"", 1)
    }
}

/// Draws `paint` in both forms.
pub(crate) fn picture<P: Paint>(
    name: &str,
    title: &str,
    paint: &P,
) -> Result<Picture, MeasureError> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        // A font that cannot be read would leave text out; the test of sizes sees that.
        let _ = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
    });
    let fault = |what: String| MeasureError::Plot { name: name.to_owned(), what };
    let size = paint.size();
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        paint.paint(&area).map_err(fault)?;
        area.present().map_err(|err| fault(err.to_string()))?;
    }
    let (width, height) = size;
    let mut pixels = vec![0; (3 * width * height) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        paint.paint(&area).map_err(fault)?;
        area.present().map_err(|err| fault(err.to_string()))?;
    }
    let mut png = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_raw(width, height, pixels);
    let image = image.ok_or_else(|| fault("the picture has another size".into()))?;
    image.write_to(&mut png, image::ImageFormat::Png).map_err(|err| fault(err.to_string()))?;
    let (name, title) = (name.to_owned(), title.to_owned());
    Ok(Picture { name, title, size, svg, png: png.into_inner() })
}

/// Something that can be drawn on any ground.
pub(crate) trait Paint {
    /// Draws itself; the error is for people.
    fn paint<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Painted;

    /// Width and height.
    fn size(&self) -> (u32, u32) {
        SIZE
    }
}

/// Drawn, or why not.
pub(crate) type Painted = std::result::Result<(), PaintFault>;

/// Why something was not drawn, in words: each ground has an error type of its own.
pub(crate) type PaintFault = String;
