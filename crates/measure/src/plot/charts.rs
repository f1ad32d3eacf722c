//! The charts: lines with bands on logarithmic axes, quantiles, bars, a roofline, a history.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::{range, short, steps, ticks};
use super::{FAINT, FONT, INK, LINES, PAPER, Paint, Painted, Picture, QUIET, picture};
use crate::error::MeasureError;

/// A line with a band around it.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Its place among [`LINES`]: the same arm has the same colour in every picture.
    pub(crate) colour: usize,
    /// Place, middle, and the band's ends.
    pub(crate) points: Vec<Band>,
}

/// A value with its interval at a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Band {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// A bar with its words.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) start: f64,
    pub(crate) len: f64,
    pub(crate) text: String,
    pub(crate) colour: usize,
}

/// One series over runs, with places where it changed.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) labels: Vec<String>,
    pub(crate) values: Vec<f64>,
    pub(crate) changes: Vec<usize>,
    pub(crate) unit: String,
}

struct Lines<'a> {
    x: &'a str,
    y: &'a str,
    series: &'a [Series],
    x_is_log: bool,
    /// A line across, where nothing differs.
    even: Option<f64>,
    dots: bool,
    /// How many of the series are lines; the others are points without an order.
    joined_count: usize,
}

/// How often faster ours is, over sizes, with intervals.
pub(crate) fn speedups(
    name: &str,
    title: &str,
    unit: &str,
    series: &[Series],
) -> Result<Picture, MeasureError> {
    let (y, joined_count) = ("times as fast as", series.len());
    let lines =
        Lines { x: unit, y, series, x_is_log: true, even: Some(1.0), dots: true, joined_count };
    picture(name, title, &lines)
}

/// Milliseconds of a call over sizes.
pub(crate) fn scaling(
    name: &str,
    title: &str,
    unit: &str,
    series: &[Series],
) -> Result<Picture, MeasureError> {
    let (x, y, joined_count) = (unit, "ms", series.len());
    let lines = Lines { x, y, series, x_is_log: true, even: None, dots: true, joined_count };
    picture(name, title, &lines)
}

/// Quantiles of times, in milliseconds.
pub(crate) fn latencies(
    name: &str,
    title: &str,
    series: &[Series],
) -> Result<Picture, MeasureError> {
    let (x, y, joined_count) = ("part of all calls, %", "ms", series.len());
    let lines = Lines { x, y, series, x_is_log: false, even: None, dots: false, joined_count };
    picture(name, title, &lines)
}

/// Operations in a second over operations a byte, under what the machine can do: the first series
/// is the roof.
pub(crate) fn rooflines(
    name: &str,
    title: &str,
    series: &[Series],
) -> Result<Picture, MeasureError> {
    let (x, y, joined_count) = ("operations a byte", "Gop/s", 1);
    let lines = Lines { x, y, series, x_is_log: true, even: None, dots: true, joined_count };
    picture(name, title, &lines)
}

impl Paint for Lines<'_> {
    fn paint<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Painted {
        let all = || self.series.iter().flat_map(|it| &it.points);
        let ys = all().flat_map(|it| [it.y, it.low, it.high]).chain(self.even);
        let (Some(x), Some(y)) = (range(all().map(|it| it.x)), range(ys)) else {
            return area.fill(&PAPER).map_err(|err| err.to_string());
        };
        match self.x_is_log {
            true => self.on(area, (x.0..x.1).log_scale(), (y.0..y.1).log_scale(), (x, y)),
            false => self.on(area, 0.0..100.0, (y.0..y.1).log_scale(), ((0.0, 100.0), y)),
        }
    }
}

type Chart<'a, B, X, Y> = ChartContext<'a, B, Cartesian2d<X, Y>>;

impl Lines<'_> {
    fn on<B, X, Y>(
        &self,
        area: &DrawingArea<B, Shift>,
        x: X,
        y: Y,
        (x_range, y_range): ((f64, f64), (f64, f64)),
    ) -> Painted
    where
        B: DrawingBackend,
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let fault = |err: DrawingAreaErrorKind<B::ErrorType>| err.to_string();
        area.fill(&PAPER).map_err(fault)?;
        let mut chart = ChartBuilder::on(area)
            .margin(16)
            .margin_right(170)
            .x_label_area_size(60)
            .y_label_area_size(84)
            .build_cartesian_2d(x, y)
            .map_err(fault)?;
        self.axes(area, &mut chart, x_range, y_range)?;
        if let Some(even) = self.even {
            let line = [(x_range.0, even), (x_range.1, even)];
            chart.draw_series([PathElement::new(line, QUIET)]).map_err(fault)?;
        }
        let clamp = |it: f64| it.clamp(y_range.0, y_range.1);
        for (index, series) in self.series.iter().enumerate() {
            let is_joined = index < self.joined_count;
            let colour = LINES[series.colour % LINES.len()];
            let points = &series.points;
            let there = points.iter().rev().map(|it| (it.x, clamp(it.low)));
            let outline: Vec<(f64, f64)> =
                points.iter().map(|it| (it.x, clamp(it.high))).chain(there).collect();
            if is_joined && 1 < points.len() {
                let band = Polygon::new(outline, colour.mix(0.14));
                chart.draw_series([band]).map_err(fault)?;
            }
            let line: Vec<(f64, f64)> = points.iter().map(|it| (it.x, it.y)).collect();
            if is_joined {
                let style = colour.stroke_width(3);
                chart.draw_series([PathElement::new(line.clone(), style)]).map_err(fault)?;
            }
            if self.dots {
                let dots = line.iter().map(|it| Circle::new(*it, 4, colour.filled()));
                chart.draw_series(dots).map_err(fault)?;
            }
        }
        self.names(area, &chart, x_range, y_range)
    }

    /// Lines and numbers at round places of our own: a logarithmic axis has few of its own.
    fn axes<B: DrawingBackend, X, Y>(
        &self,
        area: &DrawingArea<B, Shift>,
        chart: &mut Chart<'_, B, X, Y>,
        x_range: (f64, f64),
        y_range: (f64, f64),
    ) -> Painted
    where
        X: Ranged<ValueType = f64>,
        Y: Ranged<ValueType = f64>,
    {
        let fault = |err: DrawingAreaErrorKind<B::ErrorType>| err.to_string();
        let text = |size: i32, colour: &RGBColor| (FONT, size).into_font().color(colour);
        let origin = area.get_base_pixel();
        let pixel = |chart: &Chart<'_, B, X, Y>, at: (f64, f64)| {
            let (x, y) = chart.backend_coord(&at);
            (x - origin.0, y - origin.1)
        };
        let x_ticks =
            if self.x_is_log { ticks(x_range) } else { vec![0.0, 25.0, 50.0, 75.0, 100.0] };
        for at in x_ticks {
            let line = [(at, y_range.0), (at, y_range.1)];
            chart.draw_series([PathElement::new(line, FAINT)]).map_err(fault)?;
            let (x, y) = pixel(chart, (at, y_range.0));
            let style = text(19, &QUIET).pos(Pos::new(HPos::Center, VPos::Center));
            area.draw(&Text::new(short(at), (x, y + 18), style)).map_err(fault)?;
        }
        for at in ticks(y_range) {
            let line = [(x_range.0, at), (x_range.1, at)];
            chart.draw_series([PathElement::new(line, FAINT)]).map_err(fault)?;
            let (x, y) = pixel(chart, (x_range.0, at));
            let style = text(19, &QUIET).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(short(at), (x - 10, y), style)).map_err(fault)?;
        }
        let (left, bottom) = pixel(chart, (x_range.0, y_range.0));
        let (right, _) = pixel(chart, (x_range.1, y_range.0));
        let style = text(19, &INK).pos(Pos::new(HPos::Center, VPos::Center));
        area.draw(&Text::new(self.x, (left + (right - left) / 2, bottom + 46), style.clone()))
            .map_err(fault)?;
        let turned = style.transform(FontTransform::Rotate270);
        area.draw(&Text::new(self.y, (18, bottom / 2), turned)).map_err(fault)?;
        Ok(())
    }

    /// Names stand beside the ends of their lines; those that would meet are moved apart.
    fn names<B: DrawingBackend, X, Y>(
        &self,
        area: &DrawingArea<B, Shift>,
        chart: &Chart<'_, B, X, Y>,
        x_range: (f64, f64),
        y_range: (f64, f64),
    ) -> Painted
    where
        X: Ranged<ValueType = f64>,
        Y: Ranged<ValueType = f64>,
    {
        let fault = |err: DrawingAreaErrorKind<B::ErrorType>| err.to_string();
        let text = |size: i32, colour: &RGBColor| (FONT, size).into_font().color(colour);
        let origin = area.get_base_pixel();
        let ends = self.series.iter().enumerate();
        let mut places: Vec<(i32, usize)> = ends
            .filter_map(|(index, it)| {
                let last = it.points.last()?;
                Some((chart.backend_coord(&(last.x, last.y)).1, index))
            })
            .collect();
        places.sort_unstable();
        let mut free_from = 0;
        for (y, index) in places {
            let y = y.max(free_from);
            free_from = y + 22;
            let (right, _) = chart.backend_coord(&(x_range.1, y_range.0));
            let colour = LINES[self.series[index].colour % LINES.len()];
            let style = text(19, &colour).pos(Pos::new(HPos::Left, VPos::Center));
            let place = (right - origin.0 + 8, y - origin.1);
            area.draw(&Text::new(cut(&self.series[index].name, 20), place, style))
                .map_err(fault)?;
        }
        Ok(())
    }
}

/// At most `len` characters.
fn cut(text: &str, len: usize) -> String {
    match text.chars().count() <= len {
        true => text.to_owned(),
        false => text.chars().take(len - 1).chain(['…']).collect(),
    }
}

struct Bars<'a> {
    bars: &'a [Bar],
    unit: &'a str,
}

/// Bars beside each other, each with its words.
pub(crate) fn bars(
    name: &str,
    title: &str,
    unit: &str,
    rows: &[Bar],
) -> Result<Picture, MeasureError> {
    picture(name, title, &Bars { bars: rows, unit })
}

/// Steps one after another.
pub(crate) fn waterfall(
    name: &str,
    title: &str,
    steps: &[(String, f64)],
) -> Result<Picture, MeasureError> {
    let mut start = 0.0;
    let bar = |(index, (step, ms)): (usize, &(String, f64))| {
        let text = format!("{} ms", short(*ms));
        let bar = Bar { name: step.clone(), start, len: *ms, text, colour: index };
        start += ms;
        bar
    };
    let rows: Vec<Bar> = steps.iter().enumerate().map(bar).collect();
    bars(name, title, "ms", &rows)
}

impl Paint for Bars<'_> {
    fn size(&self) -> (u32, u32) {
        (super::SIZE.0, 60 + 46 * self.bars.len().clamp(1, 30) as u32)
    }

    fn paint<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Painted {
        let fault = |err: DrawingAreaErrorKind<B::ErrorType>| err.to_string();
        area.fill(&PAPER).map_err(fault)?;
        let (width, height) = area.dim_in_pixel();
        let (left, right, top, bottom) = (240.0, 130.0, 16.0, 44.0);
        let most = self.bars.iter().map(|it| it.start + it.len).fold(0.0, f64::max);
        if most <= 0.0 || self.bars.is_empty() {
            return Ok(());
        }
        let wide = f64::from(width) - left - right;
        let row = ((f64::from(height) - top - bottom) / self.bars.len() as f64).min(44.0);
        let place = |value: f64| (left + wide * value / most) as i32;
        let text = |size: i32, colour: &RGBColor, at: HPos| {
            let style = (FONT, size).into_font().color(colour);
            style.pos(Pos::new(at, VPos::Center))
        };
        for value in steps(most) {
            let x = place(value);
            let foot = (top + row * self.bars.len() as f64) as i32;
            let line = PathElement::new([(x, top as i32), (x, foot)], FAINT);
            area.draw(&line).map_err(fault)?;
            let label = format!("{} {}", short(value), self.unit);
            let style = text(17, &QUIET, HPos::Center);
            area.draw(&Text::new(label, (x, foot + 18), style)).map_err(fault)?;
        }
        for (index, bar) in self.bars.iter().enumerate() {
            let y = top + row * index as f64;
            let (from, to) = (place(bar.start), place(bar.start + bar.len));
            let corners =
                [(from, (y + row * 0.18) as i32), (to.max(from + 2), (y + row * 0.82) as i32)];
            let colour = LINES[bar.colour % LINES.len()];
            area.draw(&Rectangle::new(corners, colour.filled())).map_err(fault)?;
            let middle = (y + row / 2.0) as i32;
            let name = Text::new(
                cut(&bar.name, 26),
                (left as i32 - 10, middle),
                text(19, &INK, HPos::Right),
            );
            area.draw(&name).map_err(fault)?;
            let words = Text::new(
                cut(&bar.text, 16),
                (to.max(from + 2) + 8, middle),
                text(17, &QUIET, HPos::Left),
            );
            area.draw(&words).map_err(fault)?;
        }
        Ok(())
    }
}

/// One series over runs, oldest first, with its changes.
pub(crate) fn history(name: &str, title: &str, row: &History) -> Result<Picture, MeasureError> {
    picture(name, title, row)
}

impl Paint for History {
    fn paint<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Painted {
        let fault = |err: DrawingAreaErrorKind<B::ErrorType>| err.to_string();
        area.fill(&PAPER).map_err(fault)?;
        let Some((low, high)) = range(self.values.iter().copied()) else { return Ok(()) };
        let last = (self.values.len() as f64 - 1.0).max(1.0);
        let mut chart = ChartBuilder::on(area)
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(-0.5..last + 0.5, low..high)
            .map_err(fault)?;
        let text = |size: i32, colour: &RGBColor| (FONT, size).into_font().color(colour);
        let label = |at: &f64| {
            let is_whole = (at - at.round()).abs() < 1e-6 && 0.0 <= *at;
            let found = is_whole.then(|| self.labels.get(at.round() as usize)).flatten();
            found.map_or(String::new(), |it| cut(it, 12))
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(QUIET)
            .label_style(text(17, &QUIET))
            .axis_desc_style(text(19, &INK))
            .y_desc(&self.unit)
            .x_labels(self.values.len().clamp(2, 9))
            .x_label_formatter(&label)
            .y_label_formatter(&|it| short(*it))
            .draw()
            .map_err(fault)?;
        let points: Vec<(f64, f64)> =
            self.values.iter().enumerate().map(|(at, it)| (at as f64, *it)).collect();
        for at in &self.changes {
            let x = *at as f64 - 0.5;
            let line = PathElement::new([(x, low), (x, high)], LINES[3].stroke_width(2));
            chart.draw_series([line]).map_err(fault)?;
        }
        chart.draw_series([PathElement::new(points.clone(), LINES[1])]).map_err(fault)?;
        let dots = points.iter().map(|it| Circle::new(*it, 3, LINES[1].filled()));
        chart.draw_series(dots).map_err(fault)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series() -> Series {
        let point = |x: f64| Band { x, y: x.sqrt(), low: x.sqrt() * 0.9, high: x.sqrt() * 1.1 };
        Series { name: "numpy".into(), colour: 1, points: [1.0, 10.0, 1000.0].map(point).to_vec() }
    }

    #[test]
    fn both_forms_hold_lines_and_words_and_are_the_same_each_time() {
        let draw = || speedups("s", "t", "vectors", &[series(), series()]).unwrap();
        let picture = draw();
        assert!(picture.svg.contains("vectors") && picture.svg.contains("numpy"));
        assert!(picture.svg.contains("<polygon") && picture.svg.contains("<polyline"));
        assert_eq!((draw().svg, draw().png), (picture.svg.clone(), picture.png.clone()));
        let inline = picture.inline();
        assert!(inline.contains("var(--line-1)") && inline.contains("var(--paper)"));
        assert!(!inline.contains("#0072B2"), "{inline}");
        // Dark pixels that are letters: the font is there.
        let image = image::load_from_memory(&picture.png).unwrap().to_rgb8();
        let labels = image.enumerate_pixels().filter(|(x, _, it)| *x < 90 && it.0[0] < 0xb0);
        assert!(200 < labels.count());
    }

    #[test]
    fn every_chart_is_drawn_and_nothing_is_no_fault() {
        let bar = |name: &str, len| Bar {
            name: name.into(),
            start: 0.0,
            len,
            text: "2 s".into(),
            colour: 9,
        };
        let row = History {
            labels: ["a", "b", "c"].map(str::to_owned).to_vec(),
            values: vec![1.0, 1.1, 2.0],
            changes: vec![2],
            unit: "ms".into(),
        };
        for picture in [
            latencies("a", "t", &[series()]),
            rooflines("b", "t", &[series()]),
            bars("c", "t", "s", &[bar("one", 1.0), bar("two", 3.0)]),
            waterfall("d", "t", &[("plan".into(), 2.0), ("load".into(), 5.0)]),
            history("e", "t", &row),
        ] {
            let picture = picture.unwrap();
            assert!(1_000 < picture.svg.len() && 1_000 < picture.png.len(), "{}", picture.name);
        }
        speedups("f", "t", "n", &[]).unwrap();
        bars("g", "t", "s", &[]).unwrap();
    }

    #[test]
    fn points_under_a_roof_are_not_joined() {
        let lines = |count: usize| {
            let all: Vec<Series> = (0..count).map(|_| series()).collect();
            let svg = rooflines("r", "t", &all).unwrap().svg;
            let thick = svg.matches("stroke-width=\"3\"").count();
            (thick, svg.matches("<circle").count())
        };
        assert_eq!(lines(1), (1, 3));
        assert_eq!(lines(3), (1, 9));
    }
}
