//! Pictures: what they say, that nothing overlaps, that files appear whole or not at all.

use sara_models::Error;
use sara_models::plot::{
    Curves, Metric, Point, SiteRank, SiteShares, SiteSpectrum, loss, loss_svg, ranks, ranks_svg, shares,
    spectra, spectra_svg,
};

/// Two boxes of text may touch by this many pixels: the estimate of a width is on the safe side.
const TOUCH: f64 = 0.5;

#[derive(Debug)]
struct Text {
    content: String,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let start = element.find(&format!(" {name}=\""))? + name.len() + 3;
    element[start..].split('"').next()
}

fn number(element: &str, name: &str) -> f64 {
    attribute(element, name)
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {element}"))
}

/// The upright and level texts of a picture, with the boxes they fill.
fn texts(svg: &str) -> Vec<Text> {
    svg.lines()
        .filter(|line| line.starts_with("<text x="))
        .map(|line| {
            let content = line.split('>').nth(1).unwrap().split('<').next().unwrap().to_owned();
            let (x, y, size) = (number(line, "x"), number(line, "y"), number(line, "font-size"));
            let width = 0.56 * size * content.chars().count() as f64;
            let left = match attribute(line, "text-anchor") {
                Some("middle") => x - width / 2.0,
                Some("end") => x - width,
                _ => x,
            };
            Text { content, left, right: left + width, top: y - 0.75 * size, bottom: y }
        })
        .collect()
}

fn check(svg: &str) -> Vec<Text> {
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    let texts = texts(svg);
    for (index, a) in texts.iter().enumerate() {
        assert!(a.left > 0.0 && a.right < 800.0 && a.top > 0.0, "outside the picture: {a:?}");
        for b in &texts[index + 1..] {
            let wide = a.right.min(b.right) - a.left.max(b.left);
            let high = a.bottom.min(b.bottom) - a.top.max(b.top);
            assert!(wide < TOUCH || high < TOUCH, "overlap: {a:?} {b:?}");
        }
    }
    texts
}

fn contents(texts: &[Text]) -> Vec<&str> {
    texts.iter().map(|text| text.content.as_str()).collect()
}

fn falling(steps: usize) -> Vec<Point> {
    let noise = |step: usize| ((step * 7919 + 13) % 101) as f64 / 101.0 - 0.5;
    (1..=steps)
        .map(|step| {
            let value = 0.15 + 0.6 * (-4.0 * step as f64 / steps as f64).exp() + 0.2 * noise(step);
            Point { step, value }
        })
        .collect()
}

fn curves<'a>(train: &'a [Point], valid: &'a [Point], metric: &'a [Point]) -> Curves<'a> {
    Curves {
        title: "runs/first: sara on <roberta> & co",
        train,
        valid,
        metric: Some(Metric { name: "accuracy", points: metric }),
    }
}

const ROLES: [&str; 7] = ["query", "key", "value", "output", "gate", "up", "down"];

fn sites(
    layers: usize,
    roles: usize,
    rank: impl Fn(usize, usize) -> usize,
) -> Vec<(String, usize, &'static str, usize)> {
    (0..layers)
        .flat_map(|layer| (0..roles).map(move |role| (layer, role)))
        .map(|(layer, role)| {
            (format!("layers.{layer}-{}", ROLES[role]), layer, ROLES[role], rank(layer, role))
        })
        .collect()
}

fn site_ranks<'a>(sites: &'a [(String, usize, &'static str, usize)]) -> Vec<SiteRank<'a>> {
    sites
        .iter()
        .map(|(name, layer, role, rank)| SiteRank { name, layer: *layer, role, rank: *rank })
        .collect()
}

#[test]
fn loss_names_curves_axes_and_the_best_step() {
    let (train, valid) = (falling(400), falling(400).into_iter().step_by(50).collect::<Vec<_>>());
    let metric: Vec<_> = valid.iter().map(|point| Point { value: 1.0 - point.value, ..*point }).collect();
    let svg = loss(&curves(&train, &valid, &metric));
    let texts = check(&svg);
    let contents = contents(&texts);
    for expected in [
        "training",
        "training, mean of 17",
        "validation",
        "validation accuracy",
        "optimizer step",
        "400",
        "100",
    ] {
        assert!(contents.contains(&expected), "{expected} is not in {contents:?}");
    }
    assert!(svg.contains(">loss</text>") && svg.contains(">accuracy</text>"));
    let best = valid.iter().min_by(|a, b| a.value.total_cmp(&b.value)).unwrap();
    assert!(
        contents
            .contains(&format!("lowest validation loss {:.4} at step {}", best.value, best.step).as_str())
    );
    assert!(svg.contains("sara on &lt;roberta&gt; &amp; co"), "the title must be escaped");
    assert_eq!(svg.matches("<circle").count(), valid.len() + metric.len());
}

#[test]
fn loss_of_few_odd_or_no_points_is_still_a_picture() {
    for train in
        [vec![], falling(1), falling(2), falling(30), vec![Point { step: 5, value: 0.0 }; 3], falling(5000)]
    {
        check(&loss(&Curves { title: "odd", train: &train, valid: &[], metric: None }));
        check(&loss(&curves(&train, &train[..train.len().min(1)], &[])));
    }
    let mut broken = falling(50);
    broken[20].value = f64::NAN;
    broken[30].value = f64::INFINITY;
    let svg = loss(&Curves { title: "gaps", train: &broken, valid: &broken, metric: None });
    check(&svg);
    assert_eq!(svg.matches("<circle").count(), 48);
}

#[test]
fn higher_loss_is_drawn_higher_and_later_steps_further_right() {
    let valid =
        [Point { step: 10, value: 2.0 }, Point { step: 20, value: 1.0 }, Point { step: 30, value: 1.5 }];
    let svg = loss(&Curves { title: "order", train: &[], valid: &valid, metric: None });
    let dots: Vec<_> = svg
        .lines()
        .filter(|line| line.starts_with("<circle"))
        .map(|dot| (number(dot, "cx"), number(dot, "cy")))
        .collect();
    assert!(dots[0].0 < dots[1].0 && dots[1].0 < dots[2].0, "{dots:?}");
    assert!(dots[0].1 < dots[2].1 && dots[2].1 < dots[1].1, "{dots:?}");
    let middle = f64::midpoint(dots[0].1, dots[1].1);
    assert!((dots[2].1 - middle).abs() <= 0.1, "half way between 1 and 2, to the digit written");
}

#[test]
fn ranks_show_every_site_without_overlap() {
    for layers in [1, 2, 5, 12, 24, 36, 80] {
        for roles in 1..=ROLES.len() {
            let sites = sites(layers, roles, |layer, role| 3 + 11 * layer + 2 * role);
            let svg = ranks(&site_ranks(&sites));
            check(&svg);
            for (name, _, _, rank) in &sites {
                assert!(svg.contains(&format!("<title>{name}: rank {rank}</title>")), "{name}");
            }
        }
    }
}

#[test]
fn ranks_stand_in_the_row_of_their_role_and_the_column_of_their_layer() {
    let sites = sites(12, 2, |layer, role| 100 + 10 * layer + role);
    let texts = check(&ranks(&site_ranks(&sites)));
    let find = |content: &str| texts.iter().find(|text| text.content == content).unwrap();
    let middle = |text: &Text| (f64::midpoint(text.left, text.right), f64::midpoint(text.top, text.bottom));
    for (_, layer, role, rank) in &sites {
        let (x, y) = middle(find(&rank.to_string()));
        assert!((x - middle(find(&layer.to_string())).0).abs() < 1.0, "column of {rank}");
        assert!((y - middle(find(role)).1).abs() < 3.0, "row of {rank}");
    }
    let rank_to_fill = |rank: usize| {
        let svg = ranks(&site_ranks(&sites));
        let cell = svg.lines().find(|line| line.contains(&format!(": rank {rank}<"))).unwrap();
        attribute(cell, "fill").unwrap().to_owned()
    };
    assert!(
        rank_to_fill(100) > rank_to_fill(150) && rank_to_fill(150) > rank_to_fill(211),
        "darker for more"
    );
}

#[test]
fn equal_ranks_and_no_sites_are_pictures_too() {
    check(&ranks(&[]));
    let sites = sites(6, 2, |_, _| 8);
    let svg = ranks(&site_ranks(&sites));
    assert!(contents(&check(&svg)).contains(&"12 sites, rank 8 each, 96 together"));
}

#[test]
fn spectra_mark_the_rank_on_the_curve() {
    let values: Vec<f64> = (0..64).map(|index| 5.0 * 0.9f64.powi(index)).collect();
    let svg = spectra(&[SiteSpectrum { layer: 3, role: "query", values: &values, rank: 10 }]);
    check(&svg);
    let dot = svg.lines().find(|line| line.starts_with("<circle")).unwrap();
    let curve = attribute(svg.lines().find(|line| line.starts_with("<polyline")).unwrap(), "points").unwrap();
    let point = format!("{},{}", attribute(dot, "cx").unwrap(), attribute(dot, "cy").unwrap());
    assert_eq!(
        curve.split(' ').position(|place| place == point),
        Some(9),
        "value number 10 is the tenth point"
    );
    let (first, last) = (curve.split(' ').next().unwrap(), curve.split(' ').next_back().unwrap());
    assert_eq!(first, "64.0,88.0", "the largest is 1, at the top left");
    assert!(last.starts_with("716.0,"), "number 64 of 64 is at the right: {last}");
}

#[test]
fn spectra_of_any_shape_are_pictures() {
    check(&spectra(&[]));
    let zero = [0.0; 8];
    check(&spectra(&[SiteSpectrum { layer: 0, role: "query", values: &zero, rank: 1 }]));
    check(&spectra(&[SiteSpectrum { layer: 0, role: "query", values: &[f64::NAN, 1.0], rank: 9 }]));
    for roles in 1..=ROLES.len() {
        let values: Vec<f64> = (1..768).map(|index| 1.0 / f64::from(index).sqrt()).collect();
        let site =
            |role: usize, layer| SiteSpectrum { layer, role: ROLES[role], values: &values, rank: 20 + layer };
        let sites: Vec<_> = (0..roles)
            .flat_map(|role| (0..36).map(move |layer| (role, layer)))
            .map(|(r, l)| site(r, l))
            .collect();
        let svg = spectra(&sites);
        check(&svg);
        assert_eq!(svg.matches("<circle").count(), sites.len());
        assert_eq!(svg.matches("<polyline").count(), sites.len());
    }
}

#[test]
fn shares_fill_the_bar_of_their_site() {
    for (sites, experts) in [(0, 0), (1, 2), (24, 5), (72, 3), (500, 40)] {
        let total = (experts * (experts + 1) / 2) as f64;
        let site = |i: usize| SiteShares {
            name: format!("layers.{i}-query"),
            shares: (1..=experts).map(|expert| expert as f64 / total).collect(),
        };
        let sites: Vec<_> = (0..sites).map(site).collect();
        let svg = shares(&sites);
        check(&svg);
        let bars: Vec<_> = svg.lines().filter(|line| line.contains("rx=\"2\"")).collect();
        assert_eq!(bars.len(), sites.len() * experts);
        for (at, bar) in bars.iter().enumerate() {
            let expert = at % experts;
            let percent = 100.0 * (expert + 1) as f64 / total;
            assert!(bar.contains(&format!(
                "layers.{}-query, expert {}: {percent:.1} %",
                at / experts,
                expert + 1
            )));
            let (first, last) = (bars[at - expert], bars[at - expert + experts - 1]);
            let whole = number(last, "x") + number(last, "width") - number(first, "x");
            assert!((number(bar, "width") / whole - percent / 100.0).abs() < 2e-3, "{bar}");
        }
    }
}

#[test]
fn files_are_written_whole_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let sites = sites(2, 2, |layer, role| 1 + layer + role);
    ranks_svg(&dir.path().join("ranks.svg"), &site_ranks(&sites)).unwrap();
    loss_svg(&dir.path().join("loss.svg"), &curves(&falling(20), &[], &[])).unwrap();
    spectra_svg(&dir.path().join("spectra.svg"), &[]).unwrap();
    let path = dir.path().join("ranks.svg");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), ranks(&site_ranks(&sites)));
    ranks_svg(&path, &[]).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), ranks(&[]), "an old file is replaced");
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["loss.svg", "ranks.svg", "spectra.svg"]);
}

#[test]
fn a_file_that_cannot_be_written_is_named_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing/loss.svg");
    let error = ranks_svg(&path, &[]).unwrap_err();
    assert!(
        matches!(&error, Error::Core(sara_core::Error::Io { path: named, .. }) if *named == path.parent().unwrap())
    );
    let message = error.to_string();
    assert!(
        message.starts_with(&format!("{}: ", path.parent().unwrap().display())) && !message.contains('\n'),
        "{message}"
    );

    // A directory stands in the way of the rename: it stays, and the temporary file goes.
    let taken = dir.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    ranks_svg(&taken, &[]).unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn others_may_read_what_the_umask_lets_them() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (ours, plain) = (dir.path().join("ours"), dir.path().join("plain"));
    ranks_svg(&ours, &[]).unwrap();
    std::fs::write(&plain, b"x").unwrap();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
}
