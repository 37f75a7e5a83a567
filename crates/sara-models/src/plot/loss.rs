//! Loss and a validation metric over steps.

use super::canvas::{Anchor, Axes, Canvas, INK, MUTED, Range, WIDTH, text_width};

const HEIGHT: f64 = 500.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = WIDTH - 24.0;
const TRAIN_RAW: &str = "#a9c9ee";
const TRAIN: &str = "#1b5fb4";
const VALID: &str = "#d1570c";
const METRIC: &str = "#2b7a3d";
/// More points than this are averaged before drawing: the picture has no more columns.
const MOST_POINTS: usize = 1500;
/// The smoothed line reaches over one part of this many of the points to either side.
const PARTS: usize = 50;

/// One value of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The optimizer step.
    pub step: usize,
    /// The value; one that is not finite leaves a gap.
    pub value: f64,
}

/// A validation metric over steps.
#[derive(Debug, Clone, Copy)]
pub struct Metric<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its values.
    pub points: &'a [Point],
}

/// What [`loss`] draws; each of the curves may be empty.
#[derive(Debug, Clone, Copy)]
pub struct Curves<'a> {
    /// The heading, for example the name of the run.
    pub title: &'a str,
    /// Training loss.
    pub train: &'a [Point],
    /// Validation loss.
    pub valid: &'a [Point],
    /// A validation metric, drawn below on the same steps.
    pub metric: Option<Metric<'a>>,
}

/// Draws training loss as it was and smoothed, validation loss, and below them a metric.
pub fn loss(curves: &Curves<'_>) -> String {
    let metric = curves.metric.filter(|metric| !metric.points.is_empty());
    let every = curves.train.iter().chain(curves.valid).chain(metric.iter().flat_map(|metric| metric.points));
    let steps = Range::whole(every.map(|point| point.step));
    let losses = Range::around(curves.train.iter().chain(curves.valid).map(|point| point.value));
    let bottom = if metric.is_some() { 300.0 } else { 444.0 };
    let axes = Axes { left: LEFT, right: RIGHT, top: 84.0, bottom, x: steps, y: losses };

    let mut canvas = Canvas::new(HEIGHT, curves.title, &summary(curves));
    axes.draw(&mut canvas);
    canvas.upright(22.0, f64::midpoint(axes.top, axes.bottom), "loss");
    let mut legend = Legend { x: LEFT };

    let (train, per_point) = averaged(curves.train);
    if !train.is_empty() {
        let name =
            if per_point > 1 { format!("training, mean of {per_point}") } else { "training".to_owned() };
        draw(&mut canvas, &axes, &train, TRAIN_RAW, 1.0);
        legend.add(&mut canvas, TRAIN_RAW, &name);
        let reach = train.len() / PARTS;
        if reach > 0 {
            draw(&mut canvas, &axes, &smoothed(&train, reach), TRAIN, 2.0);
            let steps = (2 * reach + 1) * per_point;
            legend.add(&mut canvas, TRAIN, &format!("training, mean of {steps}"));
        }
    }
    if !curves.valid.is_empty() {
        draw_dotted(&mut canvas, &axes, curves.valid, VALID);
        legend.add(&mut canvas, VALID, "validation");
    }
    if let Some(metric) = metric {
        let values = Range::around(metric.points.iter().map(|point| point.value));
        let axes = Axes { top: 340.0, bottom: 444.0, y: values, ..axes };
        axes.draw(&mut canvas);
        canvas.upright(22.0, f64::midpoint(axes.top, axes.bottom), metric.name);
        draw_dotted(&mut canvas, &axes, metric.points, METRIC);
        legend.add(&mut canvas, METRIC, &format!("validation {}", metric.name));
    }
    canvas.text(f64::midpoint(LEFT, RIGHT), 484.0, 12.0, Anchor::Middle, INK, "optimizer step");
    canvas.finish()
}

fn summary(curves: &Curves<'_>) -> String {
    let least = |points: &[Point]| {
        let finite = points.iter().filter(|point| point.value.is_finite());
        finite.copied().reduce(|best, point| if point.value < best.value { point } else { best })
    };
    match (least(curves.valid), curves.train.last()) {
        (Some(best), _) => format!("lowest validation loss {:.4} at step {}", best.value, best.step),
        (None, Some(last)) => format!("training loss {:.4} at step {}", last.value, last.step),
        (None, None) => "no steps yet".to_owned(),
    }
}

/// The keys of the curves in one line above the diagram.
struct Legend {
    x: f64,
}

impl Legend {
    fn add(&mut self, canvas: &mut Canvas, stroke: &str, name: &str) {
        canvas.curve([(self.x, 66.0), (self.x + 18.0, 66.0)], stroke, 3.0);
        canvas.text(self.x + 24.0, 70.0, 11.0, Anchor::Start, MUTED, name);
        self.x += 24.0 + text_width(name, 11.0) + 18.0;
    }
}

fn draw(canvas: &mut Canvas, axes: &Axes, points: &[Point], stroke: &str, width: f64) {
    for run in points.split(|point| !point.value.is_finite()).filter(|run| !run.is_empty()) {
        canvas.curve(run.iter().map(|point| axes.place(point.step as f64, point.value)), stroke, width);
    }
}

fn draw_dotted(canvas: &mut Canvas, axes: &Axes, points: &[Point], stroke: &str) {
    draw(canvas, axes, points, stroke, 1.5);
    for point in points.iter().filter(|point| point.value.is_finite()) {
        canvas.dot(axes.place(point.step as f64, point.value), 3.5, stroke);
    }
}

/// Means of neighbours, so that at most [`MOST_POINTS`] are left, and how many make one.
fn averaged(points: &[Point]) -> (Vec<Point>, usize) {
    let per_point = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |part: &[Point]| Point {
        step: part.iter().map(|point| point.step).sum::<usize>() / part.len(),
        value: part.iter().map(|point| point.value).sum::<f64>() / part.len() as f64,
    };
    (points.chunks(per_point).map(mean).collect(), per_point)
}

/// The mean of the finite values within `reach` of each point, near both ends within less.
fn smoothed(points: &[Point], reach: usize) -> Vec<Point> {
    let around = |(index, point): (usize, &Point)| {
        let reach = reach.min(index).min(points.len() - 1 - index);
        let near = points[index - reach..=index + reach].iter().map(|point| point.value);
        let (sum, count) =
            near.filter(|v| v.is_finite()).fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        Point { step: point.step, value: sum / count }
    };
    points.iter().enumerate().map(around).collect()
}
