//! How each site's tokens are shared out.

use super::canvas::{Anchor, Canvas, INK, MUTED, SMALLEST_TYPE, WIDTH, ink_on, shade, text_width};

const TOP: f64 = 84.0;
const RIGHT: f64 = WIDTH - 24.0;
/// Bars are not higher than this, however few there are.
const HIGHEST: f64 = 24.0;
const ALL_BARS: f64 = 620.0;

/// The shares of one site, which sum to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteShares {
    /// The site's name.
    pub name: String,
    /// One share for each expert.
    pub shares: Vec<f64>,
}

/// Draws a bar for each site, cut into the shares of the experts.
pub fn shares(sites: &[SiteShares]) -> String {
    let experts = sites.iter().map(|site| site.shares.len()).max().unwrap_or(0);
    let largest = sites.iter().flat_map(|site| &site.shares).fold(0.0, |max: f64, &share| max.max(share));
    let height = (ALL_BARS / sites.len().max(1) as f64).min(HIGHEST);
    let size = (height - 2.0).min(12.0);
    let named = size >= SMALLEST_TYPE;
    let longest = sites.iter().map(|site| text_width(&site.name, size)).fold(0.0, f64::max);
    let left = if named { 32.0 + longest } else { 24.0 };
    let width = RIGHT - left;
    let bottom = TOP + height * sites.len() as f64;
    let summary = format!(
        "{} sites, {experts} experts, the largest share is {:.0} % where {:.0} % would be equal",
        sites.len(),
        100.0 * largest,
        100.0 / experts.max(1) as f64
    );

    let mut canvas = Canvas::new(bottom + 34.0, "Use of the experts", &summary);
    let position = |expert: usize| 0.1 + 0.8 * expert as f64 / (experts.max(2) - 1) as f64;
    let step = width / experts.max(1) as f64;
    let label = |expert: usize| format!("expert {}", expert + 1);
    // Where the names would meet, the pointed-at bars still have them.
    if (0..experts).all(|expert| text_width(&label(expert), 11.0) + 22.0 < step) {
        for expert in 0..experts {
            let x = left + step * expert as f64;
            canvas.rect(x, TOP - 21.0, 11.0, 11.0, &shade(position(expert)));
            canvas.text(x + 16.0, TOP - 11.0, 11.0, Anchor::Start, MUTED, &label(expert));
        }
    }
    for (row, site) in sites.iter().enumerate() {
        let (y, mut x) = (TOP + height * row as f64, left);
        if named {
            canvas.text(left - 8.0, y + height / 2.0 + 0.36 * size, size, Anchor::End, INK, &site.name);
        }
        for (expert, &share) in site.shares.iter().enumerate() {
            let name = format!("{}, expert {}: {:.1} %", site.name, expert + 1, 100.0 * share);
            canvas.cell(x, y + 0.5, width * share, height - 1.0, &shade(position(expert)), &name);
            let percent = format!("{:.0} %", 100.0 * share);
            if named && text_width(&percent, size) + 4.0 < width * share {
                let fill = ink_on(position(expert));
                let middle = x + width * share / 2.0;
                canvas.text(middle, y + height / 2.0 + 0.36 * size, size, Anchor::Middle, fill, &percent);
            }
            x += width * share;
        }
    }
    canvas.text(f64::midpoint(left, RIGHT), bottom + 20.0, 12.0, Anchor::Middle, INK, "share of the tokens");
    canvas.finish()
}
