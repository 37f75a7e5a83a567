//! The times as bars, on a logarithmic scale.

use std::fmt::Write;

use crate::{Report, Row};

const LABEL: f64 = 330.0;
const BARS: f64 = 420.0;
const LINE: f64 = 18.0;

/// An SVG of one bar for each row.
pub(crate) fn times(report: &Report) -> String {
    let times = report.rows.iter().map(|row| row.median_ms);
    let (least, most) = times.fold((f64::MAX, 0.0_f64), |(low, high), ms| (low.min(ms), high.max(ms)));
    let (low, high) = (least.max(1e-6).log10().floor(), most.max(1e-6).log10().ceil());
    let x = |ms: f64| LABEL + BARS * (ms.max(1e-6).log10() - low) / (high - low).max(1.0);
    let (width, height) = (LABEL + BARS + 90.0, LINE * (report.rows.len() as f64 + 4.0));
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' font-family='sans-serif' font-size='12'>\n<rect width='100%' height='100%' fill='white'/>\n<text x='10' y='18'>median milliseconds on {}, {} threads</text>\n",
        report.device, report.threads
    );
    for decade in low as i32..=high as i32 {
        let at = x(10_f64.powi(decade));
        // A String takes everything.
        let _ = writeln!(
            svg,
            "<line x1='{at:.1}' x2='{at:.1}' y1='{}' y2='{height}' stroke='#ddd'/><text x='{at:.1}' y='{}' text-anchor='middle' fill='#666'>{}</text>",
            2.5 * LINE,
            2.2 * LINE,
            10_f64.powi(decade)
        );
    }
    for (index, row) in report.rows.iter().enumerate() {
        let y = LINE * (index as f64 + 3.0);
        let Row { size, kernel, by, median_ms, .. } = row;
        let fill = if by == "sara" { "#c8553d" } else { "#8a9aa9" };
        let end = x(*median_ms);
        let _ = writeln!(
            svg,
            "<text x='{:.1}' y='{:.1}' text-anchor='end'>{size} {kernel}: {by}</text><rect x='{LABEL}' y='{:.1}' width='{:.1}' height='{:.1}' fill='{fill}'/><text x='{:.1}' y='{:.1}'>{median_ms:.1}</text>",
            LABEL - 8.0,
            y + 0.75 * LINE,
            y + 2.0,
            (end - LABEL).max(1.0),
            LINE - 4.0,
            end + 6.0,
            y + 0.75 * LINE
        );
    }
    svg.push_str("</svg>\n");
    svg
}
