//! Singular values of the adapted weights.

use super::canvas::{Anchor, Axes, Canvas, INK, Range, WIDTH, shade};
use super::distinct;

const HEIGHT: f64 = 500.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 84.0;
const TOP: f64 = 88.0;
const BOTTOM: f64 = 444.0;
/// Between two panels: the numbers of the axes stand there.
const GAP: f64 = 46.0;
/// Small and of one colour, for there may be one for each layer.
const DOT: f64 = 2.2;
const CHOSEN: &str = "#d1570c";

/// The singular values of one weight.
#[derive(Debug, Clone, Copy)]
pub struct SiteSpectrum<'a> {
    /// Its layer, shown as a colour.
    pub layer: usize,
    /// Its role, shown as a panel.
    pub role: &'a str,
    /// Singular values, largest first.
    pub values: &'a [f64],
    /// The rank chosen for it, shown as a dot.
    pub rank: usize,
}

/// Draws one panel per role: each singular value over the largest, with a dot at the chosen rank.
pub fn spectra(sites: &[SiteSpectrum<'_>]) -> String {
    let roles = distinct(sites.iter().map(|site| site.role));
    let columns = (roles.len() as f64).sqrt().ceil().max(1.0);
    let rows = (roles.len() as f64 / columns).ceil().max(1.0);
    let width = (RIGHT - LEFT - GAP * (columns - 1.0)) / columns;
    let height = (BOTTOM - TOP - GAP * (rows - 1.0)) / rows;
    let first = sites.iter().map(|site| site.layer).min().unwrap_or(0);
    let last = sites.iter().map(|site| site.layer).max().unwrap_or(0);
    let longest = sites.iter().map(|site| site.values.len()).max().unwrap_or(0).max(2);

    let subtitle =
        "each curve is one weight, divided by its largest singular value; the dot is the chosen rank";
    let mut canvas = Canvas::new(HEIGHT, "Singular values of the adapted weights", subtitle);
    for (index, role) in roles.iter().enumerate() {
        let (column, row) = (index as f64 % columns, (index as f64 / columns).floor());
        let (left, top) = (LEFT + column * (width + GAP), TOP + row * (height + GAP));
        let axes = Axes {
            left,
            right: left + width,
            top,
            bottom: top + height,
            x: Range::Logarithmic(1.0, longest as f64),
            y: Range::Linear(0.0, 1.0),
        };
        axes.draw(&mut canvas);
        canvas.text(left, top - 8.0, 12.0, Anchor::Start, INK, role);
        let mut dots = Vec::new();
        for site in sites.iter().filter(|site| site.role == *role) {
            let Some(curve) = curve(&axes, site.values) else { continue };
            let position = (site.layer - first) as f64 / (last - first).max(1) as f64;
            let stroke = shade(position);
            if let Some(&place) = site.rank.checked_sub(1).and_then(|index| curve.get(index)) {
                dots.push(place);
            }
            canvas.curve(thinned(&curve), &stroke, 1.2);
        }
        for place in dots {
            canvas.dot(place, DOT, CHOSEN);
        }
    }
    canvas.text(f64::midpoint(LEFT, RIGHT), 484.0, 12.0, Anchor::Middle, INK, "number of the singular value");
    canvas.upright(20.0, f64::midpoint(TOP, BOTTOM), "singular value / largest");
    if last > first {
        canvas.shades(RIGHT + 24.0, (TOP, TOP + 120.0), "layer", &first.to_string(), &last.to_string());
    }
    canvas.finish()
}

/// The places of all values; `None` where there is nothing to divide by.
fn curve(axes: &Axes, values: &[f64]) -> Option<Vec<(f64, f64)>> {
    let largest = *values.first().filter(|largest| largest.is_finite() && **largest > 0.0)?;
    let shares = values.iter().map(|value| (value / largest).clamp(0.0, 1.0));
    Some(shares.enumerate().map(|(index, share)| axes.place((index + 1) as f64, share)).collect())
}

/// The places that are a pixel apart or more, and the last.
fn thinned(curve: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    for &place in curve {
        if kept.last().is_none_or(|last| (place.0 - last.0).hypot(place.1 - last.1) >= 1.0) {
            kept.push(place);
        }
    }
    kept.extend(curve.last());
    kept
}
