//! Targets by name, and plans.

use std::collections::BTreeSet;

use sara_core::methods::lora::LoraConfig;
use sara_core::{Error, Method as _, ModelShape, NoWeights, RankPlan, Role, Seed, Site, Target, Targets};

const SHAPE: ModelShape = ModelShape { n_layers: 2, n_heads: 1, n_kv_heads: 1, head_dim: 4 };

/// Two blocks of an encoder whose names are hard to tell apart.
fn encoder() -> Vec<Target> {
    let names = [
        (Role::Query, "attention.self.query"),
        (Role::Value, "attention.self.value"),
        (Role::Output, "attention.output.dense"),
        (Role::Up, "intermediate.dense"),
        (Role::Down, "output.dense"),
    ];
    (0..2)
        .flat_map(|layer| {
            names.map(|(role, name)| Target {
                site: Site { layer, role },
                name: format!("bert.encoder.layer.{layer}.{name}"),
                d_in: 4,
                d_out: 8,
            })
        })
        .collect()
}

fn selected(names: &[&str]) -> Vec<String> {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    Targets::Named(names).select(&encoder()).unwrap().iter().map(|target| target.site.to_string()).collect()
}

#[test]
fn names_select_by_the_end_of_a_path() {
    assert_eq!(selected(&["value", "query"]), ["0-query", "0-value", "1-query", "1-value"]);
    // As in PEFT: a name is an end of the path, wherever it starts.
    assert_eq!(selected(&["output.dense"]), ["0-output", "0-down", "1-output", "1-down"]);
    assert_eq!(selected(&["attention.output.dense"]), ["0-output", "1-output"]);
    assert_eq!(selected(&["bert.encoder.layer.1.attention.self.query"]), ["1-query"]);
    assert_eq!(selected(&["query", "query"]), ["0-query", "1-query"]);
    assert_eq!(Targets::AllLinear.select(&encoder()).unwrap(), encoder());
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    for name in ["q_proj", "uery", "", "encoder"] {
        let error = Targets::Named(vec!["query".into(), name.into()]).select(&encoder()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "target `{name}` matches no linear layer of this model; its names are query, value, \
                 attention.output.dense, intermediate.dense, output.dense, or \"all-linear\""
            )
        );
    }
}

#[test]
fn ranks_are_checked() {
    let plan = |rank| RankPlan::constant(&encoder(), rank);
    assert_eq!(plan(4).unwrap().total(), 40);
    for rank in [0, 5] {
        let error = plan(rank).unwrap_err();
        assert!(matches!(error, Error::Rank { .. }));
        let expected = format!(
            "rank: rank {rank} at bert.encoder.layer.0.attention.self.query (4 -> 8) is not in 1..=4"
        );
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    let mut twice = plan(2).unwrap();
    twice.check().unwrap();
    twice.sites.push(twice.sites[0].clone());
    assert!(twice.check().unwrap_err().to_string().contains("planned twice"));
    let wide = LoraConfig { rank: 9, ..LoraConfig::default() };
    assert!(wide.plan::<burn_flex::Flex>(SHAPE, &encoder(), &mut NoWeights).is_err());
}

#[test]
fn a_seed_does_not_depend_on_what_was_drawn_before() {
    let device = burn_flex::FlexDevice;
    let draw = |seed: u64, path: &str| {
        let value = Seed(seed).normal::<burn_flex::Flex, 1>(path, [5], 1.0, &device);
        value.val().into_data().to_vec::<f32>().unwrap()
    };
    let (a, b) = (draw(1, "a"), draw(1, "b"));
    assert_eq!((draw(1, "b"), draw(1, "a")), (b.clone(), a.clone()));
    assert!(a != b && a != draw(2, "a"));
    // A longer draw begins with the shorter one: shapes do not disturb each other either.
    let long = Seed(1).normal::<burn_flex::Flex, 1>("a", [9], 1.0, &device).val().into_data();
    assert_eq!(long.to_vec::<f32>().unwrap()[..5], a);
    assert_eq!(Seed(1).of_draw(3, 2, "a"), Seed(1).of_draw(3, 2, "a"));
    let all = [(0, 1, "a"), (1, 0, "a"), (0, 1, "b"), (11, 0, "a"), (1, 10, "a")];
    let all: BTreeSet<u64> = all.map(|(step, micro, path)| Seed(1).of_draw(step, micro, path)).into();
    assert_eq!(all.len(), 5);
}

#[test]
fn first_values_have_the_deviation_they_claim() {
    const DRAWS: usize = 20_000;
    /// Five deviations of an estimate from so many draws, relative.
    const SAMPLING: f64 = 5.0 / 200.0;
    let device = burn_flex::FlexDevice;
    let spread =
        |values: Vec<f32>| (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / DRAWS as f64).sqrt();
    let normal = Seed(1).normal::<burn_flex::Flex, 1>("a", [DRAWS], 0.02, &device).val().into_data();
    let uniform = Seed(1).uniform::<burn_flex::Flex, 1>("a", [DRAWS], 0.5, &device).val().into_data();
    let (normal, uniform) = (normal.to_vec::<f32>().unwrap(), uniform.to_vec::<f32>().unwrap());
    assert!(uniform.iter().all(|value| value.abs() <= 0.5));
    assert!((spread(normal) / 0.02 - 1.0).abs() < SAMPLING);
    assert!((spread(uniform) / (0.5 / 3f64.sqrt()) - 1.0).abs() < SAMPLING);
}

#[test]
#[should_panic(expected = "a record has an entry for each of the sites")]
fn a_record_of_fewer_sites_is_refused() {
    use burn::module::Module;
    use sara_core::SiteMap;
    type Linear = burn::nn::Linear<burn_flex::Flex>;
    let linear = || burn::nn::LinearConfig::new(2, 3).init(&burn_flex::FlexDevice);
    let sites = |n: usize| -> SiteMap<burn_flex::Flex, Linear> {
        (0..n).map(|layer| (Site { layer, role: Role::Up }, linear())).collect()
    };
    let _ = sites(2).load_record(sites(1).into_record());
}
