//! Rank by layer and role.

use super::canvas::{Anchor, Canvas, INK, MUTED, SMALLEST_TYPE, WIDTH, ink_on, shade, text_width};
use super::distinct;

const TOP: f64 = 84.0;
/// Cells are not larger than this, however few there are.
const LARGEST_CELL: f64 = 54.0;
const MOST_ROWS_HEIGHT: f64 = 340.0;
/// Room at the right for the scale of colours.
const RIGHT: f64 = WIDTH - 96.0;
const NO_ADAPTER: &str = "#f1f3f5";

/// The rank of one adapted site.
#[derive(Debug, Clone, Copy)]
pub struct SiteRank<'a> {
    /// The site's name, shown when the cell is pointed at.
    pub name: &'a str,
    /// Its layer.
    pub layer: usize,
    /// Its role, which names the row.
    pub role: &'a str,
    /// Its rank.
    pub rank: usize,
}

/// Draws one row of cells per role and one column per layer, darker for a higher rank.
pub fn ranks(sites: &[SiteRank<'_>]) -> String {
    let roles = distinct(sites.iter().map(|site| site.role));
    let first = sites.iter().map(|site| site.layer).min().unwrap_or(0);
    let layers = sites.iter().map(|site| site.layer + 1 - first).max().unwrap_or(0);
    let low = sites.iter().map(|site| site.rank).min().unwrap_or(0);
    let high = sites.iter().map(|site| site.rank).max().unwrap_or(0);

    let longest = roles.iter().map(|role| text_width(role, 12.0)).fold(0.0, f64::max);
    let left = 52.0 + longest;
    let width = ((RIGHT - left) / layers.max(1) as f64).min(LARGEST_CELL);
    let height = (MOST_ROWS_HEIGHT / roles.len().max(1) as f64).min(LARGEST_CELL * 0.8);
    let bottom = TOP + height * roles.len() as f64;
    let right = left + width * layers as f64;

    let mut canvas = Canvas::new(bottom + 62.0, "Rank by layer and role", &summary(sites, low, high));
    for (row, role) in roles.iter().enumerate() {
        let y = TOP + height * row as f64;
        canvas.text(left - 10.0, y + height / 2.0 + 4.0, 12.0, Anchor::End, INK, role);
        for column in 0..layers {
            canvas.rect(left + width * column as f64 + 0.5, y + 0.5, width - 1.0, height - 1.0, NO_ADAPTER);
        }
    }
    let digits = high.to_string();
    let type_size = (12.0 * (width - 3.0) / text_width(&digits, 12.0)).min(height - 4.0).min(12.0);
    for site in sites {
        let row = roles.iter().position(|role| *role == site.role).unwrap_or(0);
        let (x, y) = (left + width * (site.layer - first) as f64, TOP + height * row as f64);
        let position = if high > low { (site.rank - low) as f64 / (high - low) as f64 } else { 0.6 };
        let name = format!("{}: rank {}", site.name, site.rank);
        canvas.cell(x + 0.5, y + 0.5, width - 1.0, height - 1.0, &shade(position), &name);
        if type_size >= SMALLEST_TYPE {
            let fill = ink_on(position);
            let baseline = y + height / 2.0 + 0.36 * type_size;
            canvas.text(x + width / 2.0, baseline, type_size, Anchor::Middle, fill, &site.rank.to_string());
        }
    }

    let last = (first + layers).saturating_sub(1).to_string();
    let every = ((text_width(&last, 11.0) + 5.0) / width).ceil() as usize;
    for column in (0..layers).step_by(every.max(1)) {
        let x = left + width * (column as f64 + 0.5);
        canvas.text(x, bottom + 17.0, 11.0, Anchor::Middle, MUTED, &(first + column).to_string());
    }
    canvas.text(f64::midpoint(left, right), bottom + 40.0, 12.0, Anchor::Middle, INK, "layer");
    if high > low {
        // One row alone is too low for the numbers at both ends.
        let scale = (TOP, bottom.max(TOP + 40.0));
        canvas.shades(right + 28.0, scale, "rank", &low.to_string(), &high.to_string());
    }
    canvas.finish()
}

fn summary(sites: &[SiteRank<'_>], low: usize, high: usize) -> String {
    let sum: usize = sites.iter().map(|site| site.rank).sum();
    let plural = if sites.len() == 1 { "site" } else { "sites" };
    let range = if high > low { format!("ranks {low} to {high}") } else { format!("rank {high} each") };
    format!("{} {plural}, {range}, {sum} together", sites.len())
}
