//! Every method trains on a GPU as it does on the CPU.

use burn::module::AutodiffModule;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_wgpu::Wgpu;
use sara_core::methods::lora::LoraConfig;
use sara_core::parameters::{collect, restore};
use sara_core::{LayerOps, MethodConfig, Seed, Targets};
use sara_models::architecture::Architecture;
use sara_models::causal_lm::generate::{Limits, answers};
use sara_models::causal_lm::{CausalLm, Kept, Packing, causal_lm};
use sara_models::checkpoint::WeightType;
use sara_models::classify::{Classify, classify};
use sara_models::decoder::{DecoderCheckpoint, LoadedDecoder};
use sara_models::encoder::{EncoderCheckpoint, Loaded};
use sara_models::run::OptimizerConfig;
use sara_models::train::{Journal, NoHead, Options, StepRecord, Trained};
use sara_svd::SvdOps;
use serde_json::{Value, json};

use super::model::{NOISE, fixture};
use super::training::six_items;
use super::writers::{Log, dataset, golden_items};

/// Largest relative difference of a loss.
const LOSS: f64 = 1e-3;
/// The least that a method must change the ten losses of the head alone, relative.
const MOVED: f64 = 1e-2;
/// A logit so high that its gate is open whatever is drawn.
const OPEN: f32 = 40.0;

/// What changes within ten steps changes within these: budgets, prunings, penalties.
fn configuration(method: &str) -> Value {
    match method {
        "mo_sara" => json!({"share": 0.5}),
        "adalora" => {
            json!({"initial_rank": 4, "target_rank": 2, "initial_steps": 2, "final_steps": 2, "interval": 2})
        }
        "prilora" => json!({"first_rank": 2, "last_rank": 4, "prune_every": 3}),
        "lorta" => json!({"rank": 4}),
        _ => json!({}),
    }
}

#[test]
fn ten_steps_of_every_method_are_those_of_the_cpu() {
    let _noise = NOISE.lock().unwrap();
    let alone = losses::<Flex>(None);
    for name in MethodConfig::NAMES {
        let method: MethodConfig = serde_json::from_value(json!({*name: configuration(name)})).unwrap();
        let (cpu, gpu) = (losses::<Flex>(Some(&method)), losses::<Wgpu<f32, i32>>(Some(&method)));
        assert_eq!([cpu.len(), gpu.len()], [10; 2]);
        for (step, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
            assert!((cpu - gpu).abs() < LOSS * cpu, "{name}, step {step}: {gpu}, on the CPU {cpu}");
        }
        let moved =
            cpu.iter().zip(&alone).map(|(cpu, alone)| (cpu - alone).abs() / alone).fold(0.0, f64::max);
        assert!(moved > MOVED, "{name} changes the losses of the head alone by {moved}");
    }
}

/// The losses of ten steps with nothing left to chance.
fn losses<B: LayerOps + SvdOps>(method: Option<&MethodConfig>) -> Vec<f64> {
    /// Keeps the losses.
    struct Losses(Vec<f64>);

    impl<T> Journal<T> for Losses {
        fn step(&mut self, record: &StepRecord, _total: usize) -> sara_models::Result<()> {
            self.0.push(record.loss);
            Ok(())
        }
    }

    let device = B::Device::default();
    let checkpoint = EncoderCheckpoint::open(&fixture("roberta-cls3")).unwrap();
    let Loaded { model, head, .. } = checkpoint.load::<Autodiff<B>>(3, Seed(0), &device).unwrap();
    let adapter = method.map(|method| {
        let targets = Targets::Named(vec!["query".into(), "value".into()]);
        let (adapter, _) = checkpoint.new_adapter::<Autodiff<B>>(method, &targets, Seed(0), &device).unwrap();
        let mut state = collect(&adapter);
        for (path, values) in &mut state {
            if path.ends_with("gates") {
                values.as_mut_slice::<f32>().unwrap().fill(OPEN);
            }
        }
        restore(adapter, &state, "open gates").unwrap()
    });
    let data = six_items();
    // So high that ten steps of every adapter show beside those of the head.
    let optimizer = OptimizerConfig {
        learning_rate: Some(2e-2),
        head_learning_rate: Some(1e-3),
        batch_size: 6,
        max_steps: Some(10),
        ..OptimizerConfig::default()
    };
    let options = Options { optimizer, shuffle: false, ..Options::default() };
    let task = Classify { model: &model, train: &data, valid: None, options };
    let mut journal = Losses(Vec::new());
    classify(&task, Trained::new(adapter, head), None, &mut journal).unwrap();
    journal.0
}

/// Ten steps of LoRA beside a decoder, and what it then writes.
#[test]
fn a_decoder_trains_and_writes_as_on_the_cpu() {
    let _noise = NOISE.lock().unwrap();
    for (name, weight_type) in [
        ("llama-gqa", WeightType::F32),
        ("llama-blocks", WeightType::Int8),
        ("llama-blocks", WeightType::Int4),
    ] {
        let (cpu, on_cpu) = trained_decoder::<Flex>(name, weight_type);
        let (gpu, on_gpu) = trained_decoder::<Wgpu<f32, i32>>(name, weight_type);
        assert_eq!([cpu.len(), gpu.len()], [10; 2]);
        for (step, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
            assert!((cpu - gpu).abs() < LOSS * cpu, "{name}, step {step}: {gpu}, on the CPU {cpu}");
        }
        assert!((cpu[9] - cpu[0]).abs() > MOVED * cpu[0], "{name}: {cpu:?}");
        assert_eq!((on_cpu[0].len(), &on_gpu), (12, &on_cpu), "tokens of {name}");
    }
}

/// The losses of ten steps on two texts, and the likeliest tokens behind their beginnings afterwards.
fn trained_decoder<B: LayerOps + SvdOps>(name: &str, weight_type: WeightType) -> (Vec<f64>, Vec<Vec<u32>>) {
    let device = B::Device::default();
    let checkpoint = DecoderCheckpoint::open(&fixture(name)).unwrap();
    let LoadedDecoder { model, .. } = checkpoint.load::<Autodiff<B>>(weight_type, &device).unwrap();
    let lora = MethodConfig::Lora(LoraConfig { rank: 2, ..LoraConfig::default() });
    let targets = checkpoint.config.default_targets();
    let (adapter, _) = checkpoint.new_adapter::<Autodiff<B>>(&lora, &targets, Seed(0), &device).unwrap();
    let data = dataset(golden_items()[..2].to_vec());
    let optimizer = OptimizerConfig {
        learning_rate: Some(2e-2),
        batch_size: 2,
        max_steps: Some(10),
        ..OptimizerConfig::default()
    };
    let options = Options { optimizer, shuffle: false, ..Options::default() };
    let task = CausalLm {
        model: &model,
        train: &data,
        valid: None,
        packing: Packing::Alone,
        kept: Kept::All,
        options,
    };
    let mut log = Log(Vec::new(), Vec::new());
    let outcome = causal_lm(&task, Trained::new(adapter, NoHead::default()), None, &mut log).unwrap();
    let limits = Limits { max_new_tokens: 12, ..Limits::default() };
    let prompts = [&data.items[0].ids[..3], &data.items[1].ids[..5]];
    let written = answers(&model.valid(), &outcome.trained.adapter.valid(), &prompts, &limits).unwrap();
    (log.1, written)
}
