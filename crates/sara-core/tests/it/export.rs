//! PEFT directories: what stands in them, and that importing gives back the same change.

use std::fs;
use std::path::Path;

use burn::module::{AutodiffModule as _, Module};
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use sara_core::export::peft::{PeftExport, PeftHead, Profile, export};
use sara_core::import::peft::{ImportedPeft, import};
use sara_core::store::read_safetensors;
use sara_core::{
    Adapter, AnyAdapter, Backbone, Change, Delta, Error, LayerOps, NoWeights, Pass, Role, Site, Target,
};
use serde_json::{Value, json};

use crate::noise::noised;
use crate::tiny::{D_INNER, D_MODEL, Form, Merge, SHAPE, Tiny, cases, data, linears};

const PROFILES: [Profile; 2] = [Profile::Portable, Profile::Compact];

fn head() -> PeftHead {
    PeftHead {
        tensors: vec![
            ("classifier.dense.weight".into(), data("head.weight", [3, 4])),
            ("classifier.dense.bias".into(), data("head.bias", [3])),
        ],
        modules_to_save: vec!["classifier".into()],
    }
}

/// What the head answers, as whoever exports describes it.
fn task() -> Value {
    json!({"classes": ["a", "b"]})
}

fn exported(
    adapter: &impl Adapter<Flex>,
    head: &PeftHead,
    profile: Profile,
    dest: &Path,
) -> Result<usize, Error> {
    let about = PeftExport {
        linears: &linears(),
        head,
        base: "tiny-base",
        task_type: Some("SEQ_CLS"),
        task: &task(),
        profile,
    };
    export(&Tiny::<Flex>::new(&FlexDevice), adapter, &about, dest)
}

fn config(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
}

/// The change at each site, on the host; empty where there is none.
fn changes(adapter: &impl Adapter<Flex>) -> Vec<Vec<f32>> {
    Tiny::<Flex>::new(&FlexDevice)
        .linears()
        .into_iter()
        .map(|(site, linear)| {
            let delta = adapter.delta(site, linear).unwrap();
            delta.map_or(Vec::new(), |delta| delta.weight.dense().into_data().to_vec().unwrap())
        })
        .collect()
}

fn rebuilt(imported: &ImportedPeft) -> AnyAdapter<Flex> {
    imported.stored.build(&mut NoWeights, &FlexDevice).unwrap()
}

/// An adapter with one pair at each site, of its own rank; none where the rank is `None`.
#[derive(Module, Debug)]
struct Pairs<B: Backend> {
    pairs: Vec<Option<(Tensor<B, 2>, Tensor<B, 2>)>>,
}

impl Pairs<Flex> {
    fn of(ranks: [Option<usize>; 4]) -> Self {
        let pairs = ranks.iter().zip(linears()).map(|(rank, Target { site, d_in, d_out, .. })| {
            let tensor = |data: TensorData| Tensor::from_data(data, &FlexDevice);
            rank.map(|rank| match rank {
                0 => (Tensor::zeros([d_in, 0], &FlexDevice), Tensor::zeros([0, d_out], &FlexDevice)),
                _ => (
                    tensor(data(&format!("{site}.down"), [d_in, rank])),
                    tensor(data(&format!("{site}.up"), [rank, d_out])),
                ),
            })
        });
        Self { pairs: pairs.collect() }
    }
}

impl<B: LayerOps> Adapter<B> for Pairs<B> {
    fn project(&self, _: Site, base: &Linear<B>, x: Tensor<B, 3>, _: &Pass<B>) -> Tensor<B, 3> {
        base.forward(x)
    }

    fn delta(&self, site: Site, _base: &Linear<B>) -> Result<Option<Delta<B>>, Error> {
        let index = linears().iter().position(|target| target.site == site).unwrap();
        let change = self.pairs[index].clone().map(|(down, up)| Change::LowRank { down, up });
        Ok(change.map(|weight| Delta { weight, bias: None }))
    }
}

#[test]
fn every_low_rank_method_comes_back_as_the_same_change() {
    for case in cases() {
        for profile in PROFILES {
            let folder = tempfile::tempdir().unwrap();
            let dir = folder.path().join("peft");
            let adapter = noised(case.init::<Autodiff<Flex>>(1, &FlexDevice), 2).valid();
            let exported = exported(&adapter, &head(), profile, &dir);
            match (case.laws.merge, case.laws.form) {
                (Merge::Refused, _) => {
                    assert!(matches!(exported, Err(Error::NotMergeable { .. })), "{}", case.name);
                    continue;
                }
                (Merge::Equals, Form::Dense) => {
                    assert!(matches!(exported, Err(Error::NotExportable { .. })), "{}", case.name);
                    continue;
                }
                (Merge::Equals, Form::LowRank | Form::Blocks) => exported.unwrap(),
            };
            let changes_of = changes(&adapter);
            let values = changes_of.iter().flatten();
            // Blocks have zeros between them: half of all values, at two blocks.
            let share = if case.laws.form == Form::Blocks { 2 } else { 1 };
            assert_eq!(values.clone().filter(|&&value| value != 0.0).count() * share, values.count());
            let imported = import(&dir, &linears(), SHAPE).unwrap();
            // Bit for bit: padding is left out again, and the scale of the imported pair is one.
            assert_eq!(changes(&rebuilt(&imported)), changes(&adapter), "{} {profile:?}", case.name);
            let mut expected = head().tensors;
            expected.reverse();
            assert_eq!(imported.head, expected);
            assert_eq!(imported.stored.manifest.head, ["classifier"]);
            assert_eq!(imported.stored.manifest.base, "tiny-base");
            assert_eq!(imported.stored.manifest.task, task());
            assert_eq!(imported.task_type.as_deref(), Some("SEQ_CLS"));
        }
    }
}

#[test]
fn sites_without_rank_are_in_neither_file() {
    let adapter = Pairs::of([Some(2), None, Some(0), Some(4)]);
    for profile in PROFILES {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("peft");
        assert_eq!(exported(&adapter, &PeftHead::default(), profile, &dir).unwrap(), 4);
        let names: Vec<String> =
            read_safetensors(&dir.join("adapter_model.safetensors")).unwrap().into_keys().collect();
        let prefix = "base_model.model.tiny.layers";
        let expected = [
            format!("{prefix}.0.attention.query.lora_A.weight"),
            format!("{prefix}.0.attention.query.lora_B.weight"),
            format!("{prefix}.1.output.dense.lora_A.weight"),
            format!("{prefix}.1.output.dense.lora_B.weight"),
        ];
        assert_eq!(names, expected);
        assert_eq!(
            config(&dir)["target_modules"],
            json!(["tiny.layers.0.attention.query", "tiny.layers.1.output.dense"])
        );
        let about = import(&dir, &linears(), SHAPE);
        // The task is a classification, and there is no head.
        assert!(about.unwrap_err().to_string().contains("no tensor of a head"));
    }
}

#[test]
fn portable_pads_and_compact_lists() {
    let adapter = Pairs::of([Some(2), Some(1), Some(3), Some(5)]);
    let folder = tempfile::tempdir().unwrap();
    let [portable, compact] = PROFILES.map(|profile| {
        let dir = folder.path().join(format!("{profile:?}"));
        assert_eq!(exported(&adapter, &head(), profile, &dir).unwrap(), 5);
        (config(&dir), read_safetensors(&dir.join("adapter_model.safetensors")).unwrap())
    });
    let paths = [
        r"tiny\.layers\.0\.attention\.query",
        r"tiny\.layers\.0\.output\.dense",
        r"tiny\.layers\.1\.attention\.query",
        r"tiny\.layers\.1\.output\.dense",
    ];
    let ranks = json!({paths[0]: 2, paths[1]: 1, paths[2]: 3, paths[3]: 5});
    let expected = |patterns: &Value| {
        json!({
            "alpha_pattern": patterns, "auto_mapping": {"sara": task()}, "base_model_name_or_path": "tiny-base", "bias": "none", "exclude_modules": null,
            "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "layers_pattern": null,
            "layers_to_transform": null, "lora_alpha": 5, "lora_dropout": 0.0, "modules_to_save": ["classifier"],
            "peft_type": "LORA", "peft_version": "0.21.2", "r": 5, "rank_pattern": patterns, "revision": null,
            "target_modules": ["query", "dense"], "task_type": "SEQ_CLS", "use_dora": false, "use_rslora": false,
        })
    };
    assert_eq!(portable.0, expected(&json!({})));
    assert_eq!(compact.0, expected(&ranks));

    let key = |factor: &str| format!("base_model.model.tiny.layers.0.attention.query.lora_{factor}.weight");
    let (a, b) = (&compact.1[&key("A")], &compact.1[&key("B")]);
    assert_eq!((a.shape.as_slice(), b.shape.as_slice()), ([2, D_MODEL].as_slice(), [D_INNER, 2].as_slice()));
    let (wide_a, wide_b) = (&portable.1[&key("A")], &portable.1[&key("B")]);
    assert_eq!(
        (wide_a.shape.as_slice(), wide_b.shape.as_slice()),
        ([5, D_MODEL].as_slice(), [D_INNER, 5].as_slice())
    );
    let (a, wide_a) = (a.to_vec::<f32>().unwrap(), wide_a.to_vec::<f32>().unwrap());
    assert_eq!(wide_a[..2 * D_MODEL], a);
    assert!(wide_a[2 * D_MODEL..].iter().all(|&value| value == 0.0));
    let (b, wide_b) = (b.to_vec::<f32>().unwrap(), wide_b.to_vec::<f32>().unwrap());
    for (row, wide) in b.chunks(2).zip(wide_b.chunks(5)) {
        assert_eq!(wide, [row, &[0.0; 3]].concat());
    }
    // `lora_A` is `down` transposed.
    let down = data("0-query.down", [D_MODEL, 2]).to_vec::<f32>().unwrap();
    assert_eq!((a[1], a[D_MODEL]), (down[2], down[1]));
}

#[test]
fn what_is_no_pair_is_refused() {
    #[derive(Module, Debug)]
    struct Odd<B: Backend> {
        delta: Delta2<B>,
    }
    #[derive(Module, Debug)]
    struct Delta2<B: Backend> {
        weight: Option<Tensor<B, 2>>,
        bias: Option<Tensor<B, 1>>,
    }
    impl<B: LayerOps> Adapter<B> for Odd<B> {
        fn project(&self, _: Site, base: &Linear<B>, x: Tensor<B, 3>, _: &Pass<B>) -> Tensor<B, 3> {
            base.forward(x)
        }
        fn delta(&self, site: Site, base: &Linear<B>) -> Result<Option<Delta<B>>, Error> {
            if site.role != Role::Query {
                return Ok(None);
            }
            let [d_in, d_out] = base.weight.dims();
            let device = base.weight.device();
            let weight = match &self.delta.weight {
                Some(change) => Change::Dense(change.clone()),
                None => Change::LowRank {
                    down: Tensor::ones([d_in, 1], &device),
                    up: Tensor::ones([1, d_out], &device),
                },
            };
            Ok(Some(Delta { weight, bias: self.delta.bias.clone() }))
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("peft");
    let error = |weight, bias| {
        let error =
            exported(&Odd { delta: Delta2 { weight, bias } }, &head(), Profile::Portable, &dir).unwrap_err();
        assert!(matches!(error, Error::NotExportable { .. }));
        assert!(!dir.exists());
        error.to_string()
    };
    let dense = error(Some(Tensor::ones([D_MODEL, D_INNER], &FlexDevice)), None);
    assert_eq!(
        dense,
        "this adapter cannot be exported to PEFT: its change of tiny.layers.0.attention.query is not low-rank; \
         export the merged model instead"
    );
    assert!(error(None, Some(Tensor::ones([D_INNER], &FlexDevice))).contains("bias"));

    let mut infinite = Pairs::of([Some(1), None, None, None]);
    infinite.pairs[0] = infinite.pairs[0].take().map(|(down, up)| (down, up / 0.0));
    let error = exported(&infinite, &head(), Profile::Compact, &dir).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");
    assert!(exported(&Pairs::of([None; 4]), &head(), Profile::Compact, &dir).is_err());
    assert!(!dir.exists());
}
