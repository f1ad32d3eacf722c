//! Several packages on one page: each figure over time with its changes, and the newest table.

use maud::{Markup, html};

use super::page::{figures, framed, time};
use crate::error::MeasureError;
use crate::history::{self, Track};
use crate::package::Package;
use crate::plot::{self, History, Picture};

/// The page of `packages`, in any order.
///
/// # Errors
/// When a picture cannot be drawn.
pub fn dashboard(packages: &[Package]) -> Result<String, MeasureError> {
    let (tracks, left_out) = history::tracks(packages);
    let mut pictures: Vec<Picture> = Vec::new();
    for track in &tracks {
        pictures.push(picture(track)?);
    }
    let mut ordered: Vec<&Package> = packages.iter().collect();
    ordered.sort_by_key(|it| it.started_s());
    let body = html! {
        h1 { "Measurements over time" }
        p.about { (packages.len()) " packages, oldest first." }
        @if 0 < left_out {
            p.flag {
                (left_out) " of them ran on a machine unlike the newest one's; their figures do "
                "not continue the others and are left out of the curves."
            }
        }
        (runs(&ordered))
        (changes(&tracks))
        h2 { "Figures" }
        (figures(&pictures))
    };
    Ok(framed("Measurements over time", &body))
}

fn picture(track: &Track) -> Result<Picture, MeasureError> {
    let Track { case, size, arm, labels, values_ns, changes } = track;
    let row = History {
        labels: labels.clone(),
        values: values_ns.iter().map(|it| it / 1e6).collect(),
        changes: changes.iter().map(|it| it.index).collect(),
        unit: "ms".into(),
    };
    plot::history(&format!("{case}_{size}_{arm}"), &format!("{case} at {size}, {arm}"), &row)
}

fn runs(packages: &[&Package]) -> Markup {
    html! {
        div.scroll { table.sorts {
            thead { tr {
                th { "commit" } th.word { "suite" } th.word { "state" } th { "processes" }
                th { "suite over baselines" }
            } }
            tbody { @for it in packages.iter().rev() {
                tr {
                    td { (history::label(it)) }
                    td.word { (it.suite.name) @if it.is_pair() { " (pair)" } }
                    td.word {
                        @if it.is_clean() { "as committed" }
                        @else { span.bad { "with changes" } }
                    }
                    td { (it.samples.len()) }
                    td {
                        @for (arm, overall) in &it.summary.baselines {
                            @if let Some(area) = overall.area {
                                (arm) " " (format!("{:.2}×", area.middle)) "  "
                            }
                        }
                    }
                }
            } }
        } }
    }
}

fn changes(tracks: &[Track]) -> Markup {
    let rows: Vec<_> =
        tracks.iter().flat_map(|track| track.changes.iter().map(move |it| (track, it))).collect();
    html! {
        h2 { "Changes" }
        @if rows.is_empty() {
            p.quiet { "None was found. The last one or two packages cannot be judged yet." }
        } @else {
            div.scroll { table.sorts {
                thead { tr {
                    th { "case" } th { "size" } th.word { "arm" } th.word { "first at" }
                    th { "before" } th { "after" } th { "change" }
                } }
                tbody { @for (track, it) in &rows {
                    @let part = it.after_ns / it.before_ns - 1.0;
                    tr {
                        td { (track.case) } td { (track.size) } td.word { (track.arm) }
                        td.word { (track.labels[it.index]) }
                        td { (time(it.before_ns)) } td { (time(it.after_ns)) }
                        td data-value=(part) {
                            span class=(if part < 0.0 { "good" } else { "bad" }) {
                                (format!("{:+.1} %", 100.0 * part))
                            }
                        }
                    }
                } }
            } }
        }
    }
}
