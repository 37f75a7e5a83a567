//! Shapes, text and axes; lengths are pixels at the picture's natural size.

use std::fmt::Write;

/// Width of every picture.
pub(super) const WIDTH: f64 = 800.0;
/// Numbers in smaller type than this are left out.
pub(super) const SMALLEST_TYPE: f64 = 7.0;
pub(super) const INK: &str = "#1f2933";
pub(super) const MUTED: &str = "#52606d";
const GRID: &str = "#e4e7eb";

/// From the smallest to the largest of something ordered: light to dark, readable without colour vision.
const SCALE: [[f64; 3]; 5] = [
    [196.0, 223.0, 240.0],
    [146.0, 197.0, 222.0],
    [67.0, 147.0, 195.0],
    [33.0, 102.0, 172.0],
    [5.0, 48.0, 97.0],
];

/// Where a text stands relative to its point.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture being drawn; what comes later covers what came before.
pub(super) struct Canvas {
    height: f64,
    body: String,
}

impl Canvas {
    /// An empty picture with a title and a line of explanation below it.
    pub(super) fn new(height: f64, title: &str, subtitle: &str) -> Self {
        let mut canvas = Self { height, body: String::new() };
        canvas.push(format_args!("<title>{}</title>", escape(title)));
        canvas.rect(0.0, 0.0, WIDTH, height, "#ffffff");
        canvas.push(format_args!(
            r#"<text x="20" y="28" font-size="17" font-weight="600" fill="{INK}">{}</text>"#,
            escape(title)
        ));
        canvas.text(20.0, 48.0, 12.0, Anchor::Start, MUTED, subtitle);
        canvas
    }

    pub(super) fn finish(self) -> String {
        let Self { height, body } = self;
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}" font-family="system-ui, 'DejaVu Sans', sans-serif">
{body}</svg>
"#
        )
    }

    pub(super) fn text(&mut self, x: f64, y: f64, size: f64, anchor: Anchor, fill: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.push(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size:.1}" text-anchor="{anchor}" fill="{fill}">{text}</text>"#
        ));
    }

    /// The name of a vertical axis, read from below.
    pub(super) fn upright(&mut self, x: f64, y: f64, text: &str) {
        let text = escape(text);
        self.push(format_args!(
            r#"<text transform="translate({x:.1} {y:.1}) rotate(-90)" font-size="12" text-anchor="middle" fill="{INK}">{text}</text>"#
        ));
    }

    pub(super) fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        self.push(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{fill}"/>"#
        ));
    }

    /// A rectangle that a viewer names when pointed at.
    pub(super) fn cell(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str, name: &str) {
        let name = escape(name);
        self.push(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2" fill="{fill}"><title>{name}</title></rect>"#
        ));
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{stroke}"/>"#
        ));
    }

    pub(super) fn curve(&mut self, points: impl IntoIterator<Item = (f64, f64)>, stroke: &str, width: f64) {
        let points: Vec<_> = points.into_iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.push(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{stroke}" stroke-width="{width}" stroke-linejoin="round"/>"#,
            points.join(" ")
        ));
    }

    /// A point with a white rim, which keeps it apart from curves below it.
    pub(super) fn dot(&mut self, (x, y): (f64, f64), radius: f64, fill: &str) {
        self.push(format_args!(
            r##"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="{fill}" stroke="#ffffff" stroke-width="{:.1}"/>"##,
            radius / 5.0
        ));
    }

    /// The colours of [`shade`] from `top` to `bottom`, with the values at both ends.
    pub(super) fn shades(&mut self, x: f64, (top, bottom): (f64, f64), name: &str, low: &str, high: &str) {
        const PARTS: usize = 24;
        let part = (bottom - top) / PARTS as f64;
        for index in 0..PARTS {
            let position = (index as f64 + 0.5) / PARTS as f64;
            // Half a pixel more closes the seam between two parts.
            self.rect(x, bottom - part * (index as f64 + 1.0), 14.0, part + 0.5, &shade(position));
        }
        self.text(x, top - 8.0, 11.0, Anchor::Start, INK, name);
        self.text(x + 19.0, top + 9.0, 11.0, Anchor::Start, MUTED, high);
        self.text(x + 19.0, bottom - 1.0, 11.0, Anchor::Start, MUTED, low);
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{element}");
    }
}

/// The rectangle of a diagram and the ranges of its two axes.
pub(super) struct Axes {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
    pub(super) x: Range,
    pub(super) y: Range,
}

/// What an axis covers.
#[derive(Clone, Copy)]
pub(super) enum Range {
    Linear(f64, f64),
    /// Linear, with ticks at whole numbers alone.
    Whole(f64, f64),
    /// Decimal logarithm; both ends are positive.
    Logarithmic(f64, f64),
}

impl Axes {
    /// Grid lines and the numbers beside them.
    pub(super) fn draw(&self, canvas: &mut Canvas) {
        for (value, name) in self.x.ticks((self.right - self.left) / 70.0) {
            let x = self.place_x(value);
            canvas.line((x, self.top), (x, self.bottom), GRID);
            canvas.text(x, self.bottom + 16.0, 11.0, Anchor::Middle, MUTED, &name);
        }
        for (value, name) in self.y.ticks((self.bottom - self.top) / 26.0) {
            let y = self.place_y(value);
            canvas.line((self.left, y), (self.right, y), GRID);
            canvas.text(self.left - 7.0, y + 4.0, 11.0, Anchor::End, MUTED, &name);
        }
        canvas.line((self.left, self.bottom), (self.right, self.bottom), MUTED);
    }

    pub(super) fn place(&self, x: f64, y: f64) -> (f64, f64) {
        (self.place_x(x), self.place_y(y))
    }

    fn place_x(&self, value: f64) -> f64 {
        self.left + self.x.share(value) * (self.right - self.left)
    }

    fn place_y(&self, value: f64) -> f64 {
        self.bottom - self.y.share(value) * (self.bottom - self.top)
    }
}

impl Range {
    /// A linear range that holds all finite values, with some air, and is never empty.
    pub(super) fn around(values: impl Iterator<Item = f64> + Clone) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let low = finite.clone().reduce(f64::min).unwrap_or(0.0);
        let high = finite.reduce(f64::max).unwrap_or(1.0);
        let air = if high > low { 0.05 * (high - low) } else { 0.1 * low.abs().max(1.0) };
        // Losses and metrics that are not negative are shown from 0 at the lowest.
        Self::Linear(if low >= 0.0 { (low - air).max(0.0) } else { low - air }, high + air)
    }

    /// From the smallest to the largest whole number, and never empty.
    pub(super) fn whole(values: impl Iterator<Item = usize> + Clone) -> Self {
        let low = values.clone().min().unwrap_or(0);
        let high = values.max().unwrap_or(0);
        Self::Whole(low as f64, high.max(low + 1) as f64)
    }

    fn share(self, value: f64) -> f64 {
        match self {
            Self::Linear(low, high) | Self::Whole(low, high) => (value - low) / (high - low),
            Self::Logarithmic(low, high) => (value / low).ln() / (high / low).ln(),
        }
    }

    /// At most about `wanted` round values in the range, with their names.
    fn ticks(self, wanted: f64) -> Vec<(f64, String)> {
        match self {
            Self::Linear(low, high) | Self::Whole(low, high) => {
                let least = if matches!(self, Self::Whole(..)) { 1.0 } else { 0.0 };
                let step = round_step(((high - low) / wanted.max(1.0)).max(least));
                let decimals = (-step.log10().floor()).max(0.0) as usize;
                let first = (low / step).ceil() as i64;
                let last = (high / step + 1e-9).floor() as i64;
                let tick = |index: i64| index as f64 * step;
                (first..=last).map(|index| (tick(index), format!("{:.decimals$}", tick(index)))).collect()
            }
            Self::Logarithmic(low, high) => {
                let powers = low.log10().ceil() as i32..=(high.log10() + 1e-9).floor() as i32;
                powers.map(|power| (10f64.powi(power), format!("{}", 10f64.powi(power)))).collect()
            }
        }
    }
}

/// The smallest of 1, 2, 5, 10, .. times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].map(|digit| digit * power).into_iter().find(|step| *step >= least).unwrap_or(10.0 * power)
}

/// The colour at `position`, 0 lightest to 1 darkest.
pub(super) fn shade(position: f64) -> String {
    let scaled = position.clamp(0.0, 1.0) * (SCALE.len() - 1) as f64;
    let lower = (scaled as usize).min(SCALE.len() - 2);
    let [r, g, b]: [u8; 3] = std::array::from_fn(|channel| {
        let (from, to) = (SCALE[lower][channel], SCALE[lower + 1][channel]);
        (from + (to - from) * (scaled - lower as f64)).round() as u8
    });
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// The colour of a number on [`shade`] of this position.
pub(super) fn ink_on(position: f64) -> &'static str {
    /// Dark colours of the scale, from here on, carry white numbers.
    const DARK: f64 = 0.55;
    if position > DARK { "#ffffff" } else { INK }
}

/// About how wide a text is; letters of a plain sans-serif face are seldom wider on average.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    0.62 * size * text.chars().count() as f64
}

fn escape(text: &str) -> String {
    let printable = text.chars().filter(|letter| !letter.is_control()).collect::<String>();
    printable.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
