//! Language models in training: loss, gradients and updates are those of PEFT, whatever the batches are made of.

use std::num::NonZeroUsize;

use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use sara_core::parameters::collect;
use sara_core::{AnyAdapter, MethodConfig, Progress, Seed, Targets};
use sara_models::adapted::{Adapted, Writer};
use sara_models::architecture::Architecture;
use sara_models::causal_lm::evaluate::{evaluate, score};
use sara_models::causal_lm::{Batch, CausalLm, CausalLoss, Dataset, Item, Kept, Packing, Report, causal_lm};
use sara_models::checkpoint::WeightType;
use sara_models::decoder::DecoderCheckpoint;
use sara_models::decoder::config::DecoderConfig;
use sara_models::run::OptimizerConfig;
use sara_models::train::optimizer::Optimizer;
use sara_models::train::{Journal, NoHead, Options, Snapshot, StepOptions, StepRecord, Trained, step};

use serde_json::json;

use super::model::{NOISE, fixture, floats, ints, stored};
use super::training::{ADAMW, assert_gradients, assert_near, assert_updates, gradients, in_peft};

type Train = Autodiff<Flex>;

const BASE: &str = "llama-gqa";

fn opened() -> (Writer<Train>, Trained<Train, AnyAdapter<Train>, NoHead<Train>>) {
    let initial = fixture("causal-lora/initial");
    let mut writer =
        Adapted::<Train, DecoderConfig>::open(&fixture(BASE), Some(&initial), &FlexDevice).unwrap();
    let adapter = writer.trained.adapter.take().unwrap();
    (writer, Trained::new(adapter, NoHead::default()))
}

/// The rows of the golden batches: tokens that count, and which of them are labels.
pub(crate) fn golden_items() -> Vec<Item> {
    let golden = stored(&fixture("causal-lora/golden.safetensors"));
    let [ids, mask, labels] =
        ["input_ids", "attention_mask", "labels"].map(|key| ints(&golden[&format!("batches.{key}")]));
    let row = |row: usize| {
        let at = row * 12..(row + 1) * 12;
        let length = mask[at.clone()].iter().filter(|&&counts| counts == 1).count();
        let (ids, labels) = (&ids[at.clone()][..length], &labels[at][..length]);
        Item {
            ids: ids.iter().map(|&id| id as u32).collect(),
            trained: labels.iter().enumerate().map(|(place, &label)| place > 0 && label != -100).collect(),
        }
    };
    (0..ids.len() / 12).map(row).collect()
}

pub(crate) fn dataset(items: Vec<Item>) -> Dataset {
    let n = items.len();
    let report = Report { path: "in memory".into(), examples: n, ..Report::default() };
    Dataset { items, places: (0..n).collect(), lines: (1..=n).collect(), report }
}

fn alone(items: &[Item]) -> Batch {
    Batch::new(&items.iter().map(|item| vec![item]).collect::<Vec<_>>())
}

#[test]
fn twenty_steps_of_lora_are_those_of_peft() {
    let golden = stored(&fixture("causal-lora/golden.safetensors"));
    let (writer, mut trained) = opened();
    let linears = writer.checkpoint.config.linears();
    let start = in_peft(collect(&trained), &linears, ".weight");
    let (losses, norms) = (floats(&golden["losses"]), floats(&golden["gradient_norms"]));
    let (tokens, items) = (ints(&golden["tokens"]), golden_items());
    let mut optimizer = Optimizer::new(ADAMW);
    let objective = CausalLoss { model: &writer.model, kept: Kept::All };
    for at in 0..20 {
        let batches: Vec<Batch> = (0..2).map(|half| alone(&items[4 * at + 2 * half..][..2])).collect();
        for (batch, &tokens) in batches.iter().zip(&tokens[2 * at..]) {
            assert_eq!(batch.targets.len(), tokens as usize);
        }
        let options = StepOptions {
            progress: Progress { step: at, total: 20 },
            learning_rate: 1e-3 * (20 - at) as f64 / 20.0,
            clip_norm: 1.0,
            seed: Seed(0),
        };
        let stepped;
        (trained, stepped) = step(&objective, trained, &mut optimizer, &batches, &mut (), &options).unwrap();
        assert_near(stepped.loss, losses[at].into(), "loss", at);
        assert_near(stepped.gradient_norm, norms[at].into(), "norm", at);
        if at == 0 {
            assert_gradients(&golden, &in_peft(gradients(&trained, &stepped), &linears, ".weight"), 8);
            assert_updates(&golden, "step1.", &start, &in_peft(collect(&trained), &linears, ".weight"), 8);
        }
    }
    assert_updates(&golden, "step20.", &start, &in_peft(collect(&trained), &linears, ".weight"), 8);
}

/// One step on all of these, in micro-batches as given; returns the trained values and the loss.
fn after(batches: &[Batch]) -> (Vec<f32>, f64) {
    let (writer, trained) = opened();
    let options = StepOptions {
        progress: Progress { step: 0, total: 1 },
        learning_rate: 1e-3,
        clip_norm: 1.0,
        seed: Seed(0),
    };
    let objective = CausalLoss { model: &writer.model, kept: Kept::All };
    let (trained, stepped) =
        step(&objective, trained, &mut Optimizer::new(ADAMW), batches, &mut (), &options).unwrap();
    (
        collect(&trained).into_values().flat_map(|data| data.iter::<f32>().collect::<Vec<_>>()).collect(),
        stepped.loss,
    )
}

/// Adam's first step is as large as the rate whatever the gradient is, so a wrong weight of a micro-batch shows in full.
#[test]
fn batches_of_any_make_give_one_update() {
    let items = &golden_items()[..4];
    let lengths: Vec<usize> = items.iter().map(|item| item.ids.len()).collect();
    assert!(lengths.iter().any(|&length| length != lengths[0]), "{lengths:?}");
    let whole = after(&[alone(items)]);
    let four: Vec<Batch> = items.iter().map(|item| alone(std::slice::from_ref(item))).collect();
    let packed = Batch::new(&[items[..3].iter().collect(), items[3..].iter().collect()]);
    assert_eq!((packed.rows, packed.targets.len()), (2, alone(items).targets.len()));
    for (what, batches, tolerance) in [("accumulated", four, 1e-5), ("packed", vec![packed], 1e-4)] {
        let (found, loss) = after(&batches);
        for (found, expected) in found.iter().zip(&whole.0) {
            // Of an update of 1e-3, unless the value itself has no more digits.
            let allowed = f32::max(tolerance * 1e-3, expected.abs() * f32::EPSILON);
            assert!((found - expected).abs() <= allowed, "{what}: {found}, {expected}");
        }
        assert!((loss - whole.1).abs() < 1e-6 * whole.1, "{what}: {loss}, {}", whole.1);
    }
}

/// Every method, with dropout and penalties: what is computed again is what was computed the first time.
#[test]
fn blocks_computed_again_give_the_same_bits() {
    let _noise = NOISE.lock().unwrap();
    let items = golden_items();
    let batches = [alone(&items[..2]), alone(&items[2..4])];
    let checkpoint = DecoderCheckpoint::open(&fixture(BASE)).unwrap();
    // The file has 16 bits, which stay as they are.
    let model = checkpoint.load::<Train>(WeightType::Checkpoint, &FlexDevice).unwrap().model;
    for name in MethodConfig::NAMES {
        let configuration = match *name {
            "mo_sara" | "sara" => json!({"share": 0.3, "dropout": 0.3}),
            "lorta" | "lora" | "melora" => json!({"rank": 4, "dropout": 0.3}),
            "prilora" => json!({"first_rank": 2, "last_rank": 4, "prune_every": 1, "dropout": 0.3}),
            "adalora" => {
                json!({"initial_rank": 4, "target_rank": 2, "initial_steps": 0, "final_steps": 1, "interval": 1, "dropout": 0.3})
            }
            _ => json!({}),
        };
        let method: MethodConfig = serde_json::from_value(json!({*name: configuration}))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let run = |kept: Kept| {
            // Keys and values are narrower here, and the method shares its factors.
            let targets = match *name {
                "lorta" => Targets::Named(vec!["q_proj".to_owned()]),
                _ => Targets::AllLinear,
            };
            let (adapter, _) =
                checkpoint.new_adapter::<Train>(&method, &targets, Seed(0), &FlexDevice).unwrap();
            let mut trained = Trained::new(adapter, NoHead::default());
            let mut optimizer = Optimizer::new(ADAMW);
            let objective = CausalLoss { model: &model, kept };
            let mut found = Vec::new();
            for at in 0..3 {
                let options = StepOptions {
                    progress: Progress { step: at, total: 3 },
                    learning_rate: 1e-2,
                    clip_norm: 1.0,
                    seed: Seed(0),
                };
                let stepped;
                (trained, stepped) =
                    step(&objective, trained, &mut optimizer, &batches, &mut (), &options).unwrap();
                found.push((stepped.loss, stepped.gradient_norm, gradients(&trained, &stepped)));
            }
            (found, collect(&trained))
        };
        let (all, blocks) = (run(Kept::All), run(Kept::Blocks));
        for (step, (all, blocks)) in all.0.iter().zip(&blocks.0).enumerate() {
            assert!(all.2.len() > 1, "{name}");
            for (path, gradient) in &all.2 {
                let difference = gradient
                    .iter::<f32>()
                    .zip(blocks.2[path].iter::<f32>())
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                let largest = gradient.iter::<f32>().fold(0.0, |max: f32, x| max.max(x.abs()));
                assert!(gradient == &blocks.2[path], "{name}, step {step}: {path} {difference} of {largest}");
            }
            assert!(all.0.to_bits() == blocks.0.to_bits() && all.1.to_bits() == blocks.1.to_bits(), "{name}");
        }
        assert!(all.1 == blocks.1, "{name}");
    }
}

#[test]
fn texts_are_packed_in_their_order_and_none_is_cut() {
    let item = |length: usize| Item { ids: vec![7; length], trained: vec![true; length] };
    let data = dataset([3, 4, 2, 9, 1, 5].map(item).to_vec());
    assert_eq!(data.rows(Packing::Alone), [[0], [1], [2], [3], [4], [5]]);
    assert_eq!(data.rows(Packing::UpTo(9)), [vec![0, 1, 2], vec![3], vec![4, 5]]);
    // The first token of a text is never predicted, not even from the text before it.
    let batch = Batch::new(&[vec![&data.items[0], &data.items[2]]]);
    assert_eq!((batch.from.as_slice(), batch.tokens()), ([0, 1, 3].as_slice(), 5));
}

/// The loss of training is what evaluation says, as are the sums for each text.
#[test]
fn evaluation_and_training_agree() {
    let items = golden_items()[..4].to_vec();
    let (writer, trained) = opened();
    let (_, loss) = after(&[alone(&items)]);
    let (model, adapter) = {
        use burn::module::AutodiffModule;
        (writer.model.valid(), trained.adapter.valid())
    };
    let data = dataset(items);
    let metrics = evaluate(&model, &adapter, &data, NonZeroUsize::MIN.saturating_add(2)).unwrap();
    assert!((metrics.value("loss").unwrap() - loss).abs() < 1e-5 * loss, "{metrics:?} {loss}");
    let perplexity = metrics.value("perplexity").unwrap();
    assert!((perplexity - metrics.value("loss").unwrap().exp()).abs() < 1e-9 * perplexity);
    let scores = score(&model, &adapter, &data, NonZeroUsize::MIN).unwrap();
    let tokens: usize = scores.iter().map(|score| score.tokens).sum();
    let sum: f64 = scores.iter().map(|score| score.logprob).sum();
    assert!((-sum / tokens as f64 - loss).abs() < 1e-5 * loss);
    let hits: usize = scores.iter().map(|score| score.hits).sum();
    assert_eq!(metrics.value("token_accuracy"), Some(hits as f64 / tokens as f64));
}

/// Snapshots, and the loss of each step.
pub(crate) struct Log(pub(crate) Vec<Snapshot>, pub(crate) Vec<f64>);
impl<T> Journal<T> for Log {
    fn snapshot(&mut self, snapshot: &Snapshot) -> sara_models::Result<()> {
        self.0.push(snapshot.clone());
        Ok(())
    }
    fn step(&mut self, record: &StepRecord, _: usize) -> sara_models::Result<()> {
        self.1.push(record.loss);
        Ok(())
    }
}

#[test]
fn the_loop_learns_and_a_resumed_one_is_the_same() {
    let (writer, trained) = opened();
    let data = dataset(golden_items()[..6].to_vec());
    let optimizer = OptimizerConfig {
        learning_rate: Some(3e-2),
        batch_size: 2,
        max_steps: Some(12),
        ..OptimizerConfig::default()
    };
    let options = |stop_after| Options { optimizer: optimizer.clone(), stop_after, ..Options::default() };
    let task = |stop_after| CausalLm {
        model: &writer.model,
        train: &data,
        valid: Some(&data),
        packing: Packing::UpTo(24),
        kept: Kept::All,
        options: options(stop_after),
    };
    let mut whole = Log(Vec::new(), Vec::new());
    let outcome = causal_lm(&task(None), trained.clone(), None, &mut whole).unwrap();
    // An epoch is two steps.
    let [first, last] = [&whole.1[..2], &whole.1[10..]].map(|epoch| epoch.iter().sum::<f64>());
    assert!(last < 0.8 * first, "{:?}", whole.1);
    assert_eq!(outcome.last.as_ref().unwrap().iter().count(), 3);
    let mut first = Log(Vec::new(), Vec::new());
    causal_lm(&task(Some(5)), trained.clone(), None, &mut first).unwrap();
    let snapshot = first.0.pop().unwrap();
    assert_eq!(snapshot.step, 5);
    let resumed = causal_lm(&task(None), trained, Some(snapshot), &mut Log(Vec::new(), Vec::new())).unwrap();
    assert!(collect(&resumed.trained) == collect(&outcome.trained), "bit for bit");
}
