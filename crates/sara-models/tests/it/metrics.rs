//! Metrics against scikit-learn and scipy, and where those warn.

use sara_models::classify::metrics::{
    accuracy, classification, largest, macro_f1, matthews, pearson, regression, spearman,
};
use sara_models::train::metrics::Metrics;

/// Both sides sum in f64, in another order.
const ROUNDING: f64 = 1e-14;

fn assert_near(found: Option<f64>, expected: f64) {
    assert!(
        found.is_some_and(|found| (found - expected).abs() <= ROUNDING),
        "{found:?}, expected {expected}"
    );
}

#[test]
fn four_classes() {
    let labels = [0, 1, 2, 2, 1, 0, 0, 3, 2, 1];
    let predictions = [0, 2, 2, 1, 1, 0, 2, 2, 2, 1];
    assert_near(accuracy(&predictions, &labels), 0.6);
    assert_near(macro_f1(&predictions, &labels), 0.491_666_666_666_666_7);
    assert_near(matthews(&predictions, &labels), 0.449_013_255_066_937_23);
}

#[test]
fn two_classes() {
    let (labels, predictions) = ([1, 0, 1, 1, 0, 0], [1, 0, 0, 1, 0, 1]);
    assert_near(macro_f1(&predictions, &labels), 2.0 / 3.0);
    assert_near(matthews(&predictions, &labels), 1.0 / 3.0);
    let (labels, predictions) = ([1, 0, 1, 1, 0], [0, 1, 0, 0, 1]);
    assert_near(macro_f1(&predictions, &labels), 0.0);
    assert_near(matthews(&predictions, &labels), -1.0);
}

#[test]
fn a_class_that_was_only_predicted_counts() {
    assert_near(macro_f1(&[0, 4, 1], &[0, 0, 1]), 0.555_555_555_555_555_5);
    assert_near(matthews(&[0, 4, 1], &[0, 0, 1]), 0.612_372_435_695_794_6);
}

#[test]
fn one_class_leaves_matthews_at_zero() {
    assert_near(matthews(&[1, 1, 1], &[1, 1, 1]), 0.0);
    assert_near(macro_f1(&[1, 1, 1], &[1, 1, 1]), 1.0);
    assert_near(matthews(&[1, 1, 1, 1], &[0, 1, 0, 1]), 0.0);
    assert_near(macro_f1(&[1, 1, 1, 1], &[0, 1, 0, 1]), 1.0 / 3.0);
}

#[test]
fn correlations_with_ties() {
    let x = [1.5, 2.0, 2.0, 3.25, -1.0, 0.5, 2.0, 4.0];
    let y = [1.0, 2.5, 2.0, 2.5, -0.5, 1.0, 0.25, 9.0];
    assert_near(pearson(&x, &y), 0.771_943_331_731_662_5);
    assert_near(spearman(&x, &y), 0.827_223_537_194_031_4);
    let negated: Vec<f64> = x.iter().map(|value| -3.0 * value).collect();
    assert_near(pearson(&x, &negated), -1.0);
    // The two zeros are one value, so they share a rank.
    assert_near(spearman(&[0.0, -0.0, 1.0], &[5.0, 5.0, 6.0]), 1.0);
}

#[test]
fn what_is_undefined_is_none() {
    assert_eq!(accuracy(&[], &[]), None);
    assert_eq!(macro_f1(&[], &[]), None);
    assert_eq!(matthews(&[], &[]), None);
    for correlation in [pearson, spearman] {
        assert_eq!(correlation(&[], &[]), None);
        assert_eq!(correlation(&[1.0], &[2.0]), None);
        assert_eq!(correlation(&[0.1; 7], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), None);
        assert_eq!(correlation(&[1.0, 2.0, 3.0], &[0.1; 3]), None);
        assert_eq!(correlation(&[1.0, f64::NAN, 3.0], &[1.0, 2.0, 3.0]), None);
    }
}

#[test]
fn logits_are_read_row_by_row() {
    // Read by column, the second example would be class 0.
    let metrics = classification(&[2.0, 1.0, 0.0, -1.0, -3.0, -0.5], &[0, 2], 3);
    assert_eq!(metrics.value("accuracy"), Some(1.0));
    let metrics = classification(&[2.0, 1.0, 0.0, -1.0, -3.0, -0.5], &[0, 1], 3);
    assert_eq!(metrics.value("accuracy"), Some(0.5));
    assert_eq!(largest(&[1.0, 3.0, 3.0]), 1);
    assert_eq!(largest(&[f32::NAN, -7.0]), 1);
}

#[test]
fn json_has_a_stable_order_and_null_for_none() {
    let metrics = classification(&[0.0, 1.0, 1.0, 0.0], &[1, 1], 2);
    let json = serde_json::to_string(&metrics).unwrap();
    assert_eq!(json, r#"{"accuracy":0.5,"macro_f1":0.3333333333333333,"matthews":0.0}"#);
    let undefined = regression(&[[1.0], [1.0]], &[[1.0], [2.0]]);
    let json = serde_json::to_string(&undefined).unwrap();
    assert_eq!(json, r#"{"pearson":null,"spearman":null}"#);
    assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap(), undefined);
}

#[test]
fn the_better_model_wins_by_the_primary_metric() {
    let with = |name: &str, value: f64| {
        let mut metrics = Metrics::default();
        metrics.insert(name, Some(value));
        metrics
    };
    assert!(with("accuracy", 0.8).beats(&with("accuracy", 0.7)));
    assert!(!with("accuracy", 0.7).beats(&with("accuracy", 0.7)));
    let also = |loss: f64| {
        let mut metrics = with("accuracy", 0.7);
        metrics.insert("loss", Some(loss));
        metrics
    };
    assert!(also(0.2).beats(&also(0.3)), "of equals the one of lower loss");
    assert!(!also(0.3).beats(&also(0.2)) && !also(0.2).beats(&also(0.2)));
    assert!(with("loss", 0.2).beats(&with("loss", 0.3)));
    assert!(with("pearson", -0.5).beats(&with("pearson", f64::NAN)));
    assert!(!with("pearson", f64::NAN).beats(&with("pearson", -0.5)));
    let mut both = with("loss", 9.0);
    both.insert("accuracy", Some(0.9));
    assert_eq!(both.score(), Some(0.9));
}
