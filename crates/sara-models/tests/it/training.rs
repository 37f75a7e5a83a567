//! Training and adapters of PEFT, from the files of `tests/golden`: the loop's own step, compared by what it changes.

use std::collections::BTreeMap;

use burn::module::{AutodiffModule, Module, ModuleVisitor, Param};
use burn::nn::Linear;
use burn::optim::GradientsParams;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use sara_core::low_rank::{BranchConfig, linear};
use sara_core::methods::adalora::AdaloraConfig;
use sara_core::methods::lora::LoraConfig;
use sara_core::parameters::{Path, Tensors, collect, restore};
use sara_core::{
    Adapter, AnyAdapter, Delta, LayerOps, MethodConfig, Noise, Pass, Progress, RankPlan, Role, Seed, Seen,
    Site, Target, Targets, Trainable,
};
use sara_models::adapted::Adapted;
use sara_models::architecture::Architecture;
use sara_models::classify::evaluate::evaluate;
use sara_models::classify::{Batch, Classify, ClassifyLoss, Dataset, Gold, Item, Lengths, Report, classify};
use sara_models::encoder::EncoderCheckpoint;
use sara_models::encoder::Loaded;
use sara_models::encoder::config::EncoderConfig;
use sara_models::encoder::head::Head;
use sara_models::encoder::{Encoder, Inputs};
use sara_models::run::OptimizerConfig;
use sara_models::train::optimizer::{AdamWConfig, Optimizer};
use sara_models::train::{Options, StepOptions, Stepped, Trained, step};

use super::model::{NOISE, Stored, assert_close, fixture, floats, golden_inputs, ints, stored};

type Train = Autodiff<Flex>;
/// Values by their name in PEFT's file, each tensor flat in torch's order.
pub(crate) type Named = BTreeMap<String, Vec<f32>>;

const BASE: &str = "roberta-cls3";
/// The largest difference of an update, of the tensor's largest update. An error in a formula is many times that, another
/// order of summation a hundredth.
const UPDATE: f32 = 1e-2;
/// Largest difference of a gradient, of the tensor's largest: twenty times what summing in another order does.
const GRADIENT: f32 = 1e-4;
/// Largest relative difference of a loss or a norm.
const LOSS: f64 = 1e-4;
/// A gradient below this share of its tensor's largest is rounding, and the first step of Adam blows it up to full size.
const ROUNDING: f32 = 1e-5;

pub(crate) const ADAMW: AdamWConfig =
    AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

#[test]
fn ten_steps_of_lora_are_those_of_peft() {
    let _noise = NOISE.lock().unwrap();
    let golden = stored(&fixture("training-lora/golden.safetensors"));
    let initial = fixture("training-lora/initial");
    let Adapted { checkpoint, model, mut trained, .. } =
        Adapted::<Train, EncoderConfig>::open(&fixture(BASE), Some(&initial), &FlexDevice).unwrap();
    let linears = checkpoint.config.linears();
    let names = |tensors: Tensors| in_peft(tensors, &linears, ".weight");
    let start = names(collect(&trained));
    let (losses, norms) = (floats(&golden["losses"]), floats(&golden["gradient_norms"]));
    let batches = batches(&golden, model.pad_id());
    let mut optimizer = Optimizer::new(ADAMW);
    let objective = ClassifyLoss { model: &model };
    for at in 0..10 {
        let progress = Progress { step: at, total: 10 };
        let options = StepOptions { progress, learning_rate: 1e-3, clip_norm: 1.0, seed: Seed(0) };
        let stepped;
        (trained, stepped) =
            step(&objective, trained, &mut optimizer, &batches[2 * at..][..2], &mut (), &options).unwrap();
        assert_near(
            stepped.loss,
            f64::midpoint(losses[2 * at].into(), losses[2 * at + 1].into()),
            "loss",
            at,
        );
        assert_near(stepped.gradient_norm, norms[at].into(), "norm", at);
        if at == 0 {
            let gradients = names(gradients(&trained, &stepped));
            assert_gradients(&golden, &gradients, 12);
            assert_updates(&golden, "step1.", &start, &names(collect(&trained)), 12);
        }
    }
    assert_updates(&golden, "step10.", &start, &names(collect(&trained)), 12);

    let small = at_rounding_level(&golden);
    assert_eq!(
        small,
        ["classifier.dense.weight", "classifier.dense.weight"],
        "they are compared all the same"
    );
}

/// Six short texts of three classes.
pub(crate) fn six_items() -> Dataset {
    let item = |row: usize| Item {
        ids: vec![0, 5 + row as u32, 9, 2],
        types: vec![0; 4],
        target: Gold::Class(row % 3),
    };
    let report = Report {
        path: "in memory".into(),
        examples: 6,
        max_tokens: 4,
        tokens: Lengths { min: 4, p25: 4, p50: 4, p75: 4, p95: 4, max: 4 },
        ..Report::default()
    };
    Dataset { items: (0..6).map(item).collect(), places: (0..6).collect(), lines: (1..=6).collect(), report }
}

/// The fixture's model, and a new LoRA beside each of its layers.
fn lora_everywhere() -> (Encoder<Train>, Trained<Train, AnyAdapter<Train>, Head<Train>>) {
    let checkpoint = EncoderCheckpoint::open(&fixture(BASE)).unwrap();
    let Loaded { model, head, .. } = checkpoint.load::<Train>(3, Seed(0), &FlexDevice).unwrap();
    let method = MethodConfig::Lora(LoraConfig { rank: 2, ..LoraConfig::default() });
    let (adapter, _) = checkpoint.new_adapter(&method, &Targets::AllLinear, Seed(0), &FlexDevice).unwrap();
    (model, Trained::new(adapter, head))
}

/// Decay so strong that a spared parameter cannot be mistaken for one that decayed.
#[test]
fn the_backbone_never_moves_and_biases_do_not_decay() {
    let _noise = NOISE.lock().unwrap();
    let (model, start) = lora_everywhere();
    let data = six_items();
    let run = |weight_decay: f64| {
        let optimizer = OptimizerConfig {
            weight_decay,
            learning_rate: Some(1e-3),
            batch_size: 6,
            max_steps: Some(1),
            warmup_ratio: 0.0,
            ..OptimizerConfig::default()
        };
        let options = Options { optimizer, ..Options::default() };
        let before = (collect(&model), collect(&start));
        let task = Classify { model: &model, train: &data, valid: None, options };
        let outcome = classify(&task, start.clone(), None, &mut ()).unwrap();
        // The fused kernels write in place where they may.
        assert!(collect(&model) == before.0, "the backbone's values, bit for bit");
        assert!(collect(&outcome.trained) != before.1);
        collect(&outcome.trained)
    };
    let (still, decayed) = (run(0.0), run(100.0));
    for (path, values) in &still {
        // `up` starts at zero, where nothing can decay.
        let spared = matches!(path.rsplit('.').next(), Some("bias" | "up"));
        assert_eq!(values == &decayed[path], spared, "{path} is the same with and without decay");
    }
}

const SQUARES: &str = "squares";
const ROLES: [Role; 6] = [Role::Query, Role::Key, Role::Value, Role::Output, Role::Up, Role::Down];

/// What a run file refuses, and code can ask for all the same.
#[test]
fn what_cannot_be_trained_on_is_an_error() {
    let checkpoint = EncoderCheckpoint::open(&fixture(BASE)).unwrap();
    let Loaded { model, head, .. } = checkpoint.load::<Train>(3, Seed(0), &FlexDevice).unwrap();
    let run = |train: &Dataset, valid: Option<&Dataset>, optimizer: OptimizerConfig| {
        let options = Options { optimizer, ..Options::default() };
        let task = Classify { model: &model, train, valid, options };
        let trained = Trained::new(None::<AnyAdapter<Train>>, head.clone());
        classify(&task, trained, None, &mut ()).unwrap_err().to_string()
    };
    let default = || OptimizerConfig { max_steps: Some(1), ..OptimizerConfig::default() };
    let good = six_items();
    let none = OptimizerConfig { batch_size: 0, ..default() };
    assert_eq!(run(&good, None, none), "optimizer.batch_size = 0: expected 1 or more");
    let none = OptimizerConfig { accumulate: 0, ..default() };
    assert_eq!(run(&good, None, none), "optimizer.accumulate = 0: expected 1 or more");

    let mut unlabelled = good.clone();
    unlabelled.items[4].target = Gold::None;
    let expected = "in memory: 1 of its 6 examples have no answer to learn from or to compare with";
    assert_eq!(run(&unlabelled, None, default()), expected);
    assert_eq!(run(&good, Some(&unlabelled), default()), expected);
    let mut mixed = good.clone();
    mixed.items[5].target = Gold::Values(vec![0.5]);
    assert_eq!(run(&mixed, None, default()), expected);
    let mut beyond = good.clone();
    beyond.items[2].target = Gold::Class(3);
    assert!(run(&beyond, None, default()).starts_with("class 3 has no logit in a head of 3 labels"));
    let empty = Dataset { items: Vec::new(), ..good.clone() };
    assert_eq!(run(&empty, None, default()), "there are no examples; give at least one");

    let trained = Trained::new(None::<AnyAdapter<Train>>, head.clone());
    let (model, trained) = (model.valid(), trained.valid());
    let evaluated = evaluate(&model, &trained, &unlabelled, std::num::NonZeroUsize::MIN);
    assert_eq!(evaluated.unwrap_err().to_string(), expected);
    assert!(evaluate(&model, &trained, &empty, std::num::NonZeroUsize::MIN).is_err());
}

/// The head goes at a rate of its own, the adapter does not notice.
#[test]
fn the_head_has_its_own_rate() {
    let _noise = NOISE.lock().unwrap();
    let (model, start) = lora_everywhere();
    let data = six_items();
    let run = |learning_rate: f64, head_learning_rate: Option<f64>| {
        let optimizer = OptimizerConfig {
            learning_rate: Some(learning_rate),
            head_learning_rate,
            weight_decay: 0.1,
            warmup_ratio: 0.0,
            max_steps: Some(1),
            ..OptimizerConfig::default()
        };
        let options = Options { optimizer, ..Options::default() };
        let task = Classify { model: &model, train: &data, valid: None, options };
        let outcome = classify(&task, start.clone(), None, &mut ()).unwrap();
        let all = collect(&outcome.trained);
        let (head, adapter): (Tensors, Tensors) =
            all.into_iter().partition(|(path, _)| path.starts_with("head."));
        (head, adapter)
    };
    let ((slow_head, slow), (fast_head, fast)) = (run(1e-3, None), run(4e-3, None));
    let (head, adapter) = run(1e-3, Some(4e-3));
    assert!(head == fast_head && adapter == slow);
    assert!(slow_head != fast_head && slow != fast);
}

/// Adapts nothing, and records what every layer sees.
#[derive(Module, Debug)]
struct Recorder<B: Backend> {
    unused: Option<Param<Tensor<B, 1>>>,
    #[module(skip)]
    squares: BTreeMap<Site, Vec<f32>>,
}

impl<B: LayerOps> Adapter<B> for Recorder<B> {
    fn project(&self, site: Site, base: &Linear<B>, x: Tensor<B, 3>, pass: &Pass<B>) -> Tensor<B, 3> {
        pass.record_sum(site, SQUARES, || pass.sum_over_tokens(x.clone().powi_scalar(2)));
        linear(base, x)
    }

    fn delta(&self, _site: Site, _base: &Linear<B>) -> sara_core::Result<Option<Delta<B>>> {
        Ok(None)
    }

    fn records(&self) -> bool {
        true
    }
}

impl Trainable<Train> for Recorder<Train> {
    fn after_step(self, _grads: &GradientsParams, seen: &Seen<Flex>, _progress: Progress) -> Self {
        let sites = (0..2).flat_map(|layer| ROLES.map(|role| Site { layer, role }));
        let squares = |site| Some((site, floats_of(&seen.sum(site, SQUARES)?.to_data())));
        Self { squares: sites.filter_map(squares).collect(), ..self }
    }
}

fn floats_of(data: &TensorData) -> Vec<f32> {
    data.iter().collect()
}

/// The last block computes the first token alone, unless somebody wants to see them all.
#[test]
fn a_recording_pass_sees_every_token_in_every_layer() {
    let _noise = NOISE.lock().unwrap();
    let checkpoint = EncoderCheckpoint::open(&fixture(BASE)).unwrap();
    let Loaded { model, head, .. } = checkpoint.load::<Train>(3, Seed(0), &FlexDevice).unwrap();
    let adapter = Recorder::<Train> { unused: None, squares: BTreeMap::new() };
    let golden = stored(&fixture("training-lora/golden.safetensors"));
    let batch = &batches(&golden, model.pad_id())[..1];

    let inputs = Inputs::of_batch(model.config(), batch[0].clone(), &FlexDevice).unwrap();
    let training = || {
        let mut pass = Pass::training(Noise::default());
        pass.set_tokens(inputs.mask.clone());
        pass
    };
    let pass = training().recording();
    let recorded = model.first_token(&inputs, &adapter, &pass);
    let seen = pass.into_seen();
    let short = model.first_token(&inputs, &adapter, &training());
    assert_close(&recorded.into_data(), &floats_of(&short.into_data()), "first token");

    // What every layer saw, over all tokens that count, is what it sees in a full pass.
    let pass = training().recording();
    model.forward(&inputs, &adapter, &pass);
    let full = pass.into_seen();
    let squares = |seen: &Seen<Train>, site| floats_of(&seen.sum(site, SQUARES).unwrap().to_data());
    let sites: Vec<Site> = checkpoint.config.linears().iter().map(|linear| linear.site).collect();
    for &site in &sites {
        assert_eq!(squares(&seen, site), squares(&full, site), "{site}");
    }

    let options = StepOptions {
        progress: Progress { step: 0, total: 1 },
        learning_rate: 1e-3,
        clip_norm: 1.0,
        seed: Seed(0),
    };
    let trained = Trained::new(adapter, head);
    let objective = ClassifyLoss { model: &model };
    let (trained, _) =
        step(&objective, trained, &mut Optimizer::new(ADAMW), batch, &mut (), &options).unwrap();
    for &site in &sites {
        assert_eq!(trained.adapter.squares[&site], squares(&full, site), "{site}");
    }
}

#[test]
fn sixty_steps_of_adalora_are_those_of_peft() {
    let _noise = NOISE.lock().unwrap();
    let golden = stored(&fixture("training-adalora/golden.safetensors"));
    let checkpoint = EncoderCheckpoint::open(&fixture(BASE)).unwrap();
    let linears = checkpoint.config.linears();
    let modules: Vec<String> =
        serde_json::from_slice(&std::fs::read(fixture("training-adalora/modules.json")).unwrap()).unwrap();
    let targets = Targets::Named(modules.clone()).select(&linears).unwrap();
    let (model, mut trained) = adalora_at_its_start(&checkpoint, &targets, &golden);
    let names = |tensors: Tensors| in_peft(tensors, &linears, "");
    let start = names(collect(&trained));
    assert_eq!(start, with_prefix(&golden, "step0."), "the start");

    let [losses, penalties, norms] =
        ["task_losses", "penalties", "gradient_norms"].map(|key| floats(&golden[key]));
    let (budgets, mask_steps) = (ints(&golden["budgets"]), ints(&golden["mask_steps"]));
    let (_, _, zeroed) = &golden["zeroed"];
    let batches = batches(&golden, model.pad_id());
    let mut optimizer = Optimizer::new(ADAMW);
    let objective = ClassifyLoss { model: &model };
    let mut budget = 48;
    for at in 0..60 {
        let progress = Progress { step: at, total: 60 };
        let penalty = trained.adapter.penalty(progress).unwrap().into_scalar();
        assert_near(penalty.into(), penalties[at].into(), "penalty", at);
        let options = StepOptions { progress, learning_rate: 5e-3, clip_norm: 1.0, seed: Seed(0) };
        let stepped;
        (trained, stepped) =
            step(&objective, trained, &mut optimizer, &batches[at % 4..][..1], &mut (), &options).unwrap();
        assert_near(stepped.loss, losses[at].into(), "loss", at);
        assert_near(stepped.gradient_norm, norms[at].into(), "norm", at);

        let now = names(collect(&trained));
        let zero: Vec<u8> =
            modules.iter().flat_map(|m| &now[&format!("{m}.lora_E")]).map(|e| u8::from(*e == 0.0)).collect();
        assert_eq!(zero, zeroed[48 * at..][..48], "components that are off after step {at}");
        if mask_steps.contains(&(at as i32)) || at > 40 {
            budget = budgets[at];
        }
        let kept: f64 = trained.adapter.report().iter().map(|figure| figure.value).sum();
        assert_eq!(kept as i32, budget, "budget after step {at}");
        if at == 0 {
            assert_gradients(&golden, &names(gradients(&trained, &stepped)), 28);
        }
        if [1, 13, 41, 60].contains(&(at + 1)) {
            assert_updates(&golden, &format!("step{}.", at + 1), &start, &now, 28);
        }
    }
}

#[test]
fn imported_adapters_give_the_outputs_of_peft() {
    for (name, base) in [
        ("peft-lora-patterns", "roberta-cls3"),
        ("peft-lora-rs", "bert-cls3"),
        ("peft-adalora", "roberta-cls3"),
        ("peft-adalora-rank0", "roberta-cls3"),
        ("peft-lora-headless", "roberta-cls3"),
    ] {
        let Adapted { checkpoint, model, trained, .. } =
            Adapted::<Flex, EncoderConfig>::open(&fixture(base), Some(&fixture(name)), &FlexDevice).unwrap();
        let golden = stored(&fixture(name).join("golden.safetensors"));
        let inputs = golden_inputs::<Flex>(
            &checkpoint,
            &stored(&fixture(base).join("golden.safetensors")),
            &FlexDevice,
        );
        let pass = Pass::evaluation();
        let hidden = model.forward(&inputs, &trained.adapter, &pass);
        let first = model.first_token(&inputs, &trained.adapter, &pass);
        let logits = trained.head.forward(first, &pass);

        let mask = ints(&golden["attention_mask"]);
        let counted = |values: Vec<f32>| -> Vec<f32> {
            let rows = values.chunks(checkpoint.config.hidden).zip(&mask);
            rows.filter(|(_, counts)| **counts == 1).flat_map(|(row, _)| row.to_vec()).collect()
        };
        let found = counted(hidden.into_data().iter().collect());
        let n = found.len();
        let expected = counted(floats(&golden["last_hidden_state"]));
        assert_close(&TensorData::new(found, [n]), &expected, &format!("{name} hidden"));
        assert_close(&logits.into_data(), &floats(&golden["logits"]), &format!("{name} logits"));
    }
}

/// The adapter with its method's whole state, which PEFT's files lack: the golden values in a new one.
fn adalora_at_its_start(
    checkpoint: &EncoderCheckpoint,
    targets: &[Target],
    golden: &Stored,
) -> (Encoder<Train>, Trained<Train, AnyAdapter<Train>, Head<Train>>) {
    let method = MethodConfig::Adalora(AdaloraConfig {
        initial_rank: 6,
        target_rank: 2,
        branch: BranchConfig { alpha: 8.0, ..BranchConfig::default() },
        initial_steps: Some(10),
        final_steps: Some(20),
        interval: Some(3),
        ..AdaloraConfig::default()
    });
    let plan = RankPlan::constant(targets, 6).unwrap();
    let adapter = method.init::<Train>(checkpoint.config.shape(), &plan, Seed(0), &FlexDevice).unwrap();
    let Loaded { model, head, .. } = checkpoint.load(3, Seed(0), &FlexDevice).unwrap();
    let trained = Trained::new(adapter, head);
    let initial = with_prefix(golden, "step0.");
    let mut tensors = collect(&trained);
    for (path, data) in &mut tensors {
        let Some(name) = peft_name(path, targets, "") else { continue };
        let shape: Vec<usize> = data.shape.to_vec();
        let values = initial[&name].clone();
        // The file holds each matrix turned.
        let turned =
            if let [rows, columns] = shape[..] { transposed(&values, columns, rows) } else { values };
        *data = TensorData::new(turned, shape);
    }
    (model, restore(trained, &tensors, "golden").unwrap())
}

/// One batch for each four rows, in the order of the file.
fn batches(golden: &Stored, pad_id: u32) -> Vec<Batch> {
    let [ids, mask, labels] =
        ["input_ids", "attention_mask", "labels"].map(|key| ints(&golden[&format!("batches.{key}")]));
    let batch = |((ids, mask), labels): ((&[i32], &[i32]), &[i32])| {
        assert!(ids.iter().zip(mask).all(|(&id, &counts)| (id == pad_id as i32) == (counts == 0)));
        Batch {
            ids: ids.to_vec(),
            types: vec![0; 40],
            mask: mask.iter().map(|&counts| counts == 1).collect(),
            rows: 4,
            columns: 10,
            classes: labels.to_vec(),
            values: Vec::new(),
            flags: Vec::new(),
        }
    };
    ids.chunks(40).zip(mask.chunks(40)).zip(labels.chunks(4)).map(batch).collect()
}

/// The gradients that the optimizer saw, by path.
pub(crate) fn gradients<M: Module<Train>>(module: &M, stepped: &Stepped) -> Tensors {
    struct Gradients<'a>(Path, &'a GradientsParams, Tensors);
    impl ModuleVisitor<Train> for Gradients<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Train, D>>) {
            if let Some(grad) = self.1.get::<Flex, D>(param.id) {
                self.2.insert(self.0.joined(), grad.into_data());
            }
        }
    }
    let mut visitor = Gradients(Path::default(), &stepped.gradients, Tensors::new());
    module.visit(&mut visitor);
    visitor.2
}

/// What is trained, named and turned as PEFT has it.
pub(crate) fn in_peft(tensors: Tensors, linears: &[Target], suffix: &str) -> Named {
    let named = |(path, data): (String, TensorData)| {
        let values: Vec<f32> = data.iter().collect();
        let values = match data.shape[..] {
            [rows, columns] => transposed(&values, rows, columns),
            _ => values,
        };
        Some((peft_name(&path, linears, suffix)?, values))
    };
    tensors.into_iter().filter_map(named).collect()
}

/// PEFT's name, without its prefix, of the parameter at `path`; `None` for a method's own state.
fn peft_name(path: &str, linears: &[Target], suffix: &str) -> Option<String> {
    if let Some(name) = path.strip_prefix("head.") {
        return Some(format!("classifier.{name}"));
    }
    let (site, factor) = path.split_once("layers.")?.1.split_once('.')?;
    let target = linears.iter().find(|target| target.site.to_string() == site)?;
    let letter = match factor {
        "down" => 'A',
        "scale" => 'E',
        "up" => 'B',
        _ => return None,
    };
    Some(format!("{}.lora_{letter}{suffix}", target.name))
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

fn with_prefix(golden: &Stored, prefix: &str) -> Named {
    let name = |key: &str| Some(key.strip_prefix(prefix)?.strip_prefix("base_model.model.")?.to_owned());
    golden.iter().filter_map(|(key, entry)| Some((name(key)?, floats(entry)))).collect()
}

fn largest(values: impl IntoIterator<Item = f32>) -> f32 {
    values.into_iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

fn differences<'a>(one: &'a [f32], other: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| a - b)
}

#[track_caller]
pub(crate) fn assert_near(found: f64, expected: f64, what: &str, step: usize) {
    let difference = (found - expected).abs() / expected.abs().max(1.0);
    assert!(difference <= LOSS, "{what} of step {step}: {found}, expected {expected}");
}

#[track_caller]
pub(crate) fn assert_gradients(golden: &Stored, found: &Named, count: usize) {
    let expected = with_prefix(golden, "gradient1.");
    assert_eq!(expected.len(), count);
    assert!(expected.keys().eq(found.keys()), "trained: {:?}", found.keys());
    for (name, expected) in &expected {
        let (scale, worst) = (largest(expected.clone()), largest(differences(&found[name], expected)));
        assert!(worst <= GRADIENT * scale, "gradient of {name}: {worst} of {scale}");
    }
}

/// Compares what training has changed since `start`, tensor by tensor.
#[track_caller]
pub(crate) fn assert_updates(golden: &Stored, prefix: &str, start: &Named, found: &Named, count: usize) {
    let expected = with_prefix(golden, prefix);
    assert_eq!(expected.len(), count);
    for (name, expected) in &expected {
        let update = largest(differences(expected, &start[name]));
        let worst = largest(differences(&found[name], expected));
        // Where PEFT has changed nothing in the end (a scale that is off) the values must be equal.
        assert!(
            worst <= UPDATE * update,
            "{prefix}{name}: differs by {worst}, the largest update is {update}"
        );
    }
}

/// The tensor of every element whose first gradient is at rounding level.
fn at_rounding_level(golden: &Stored) -> Vec<String> {
    let small = |(name, values): (String, Vec<f32>)| {
        let scale = largest(values.clone());
        let n = values.iter().filter(|value| value.abs() < ROUNDING * scale).count();
        std::iter::repeat_n(name, n)
    };
    with_prefix(golden, "gradient1.").into_iter().flat_map(small).collect()
}
