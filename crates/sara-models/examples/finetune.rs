//! Fine-tune a RoBERTa or BERT from Hugging Face inside your own program.
//!
//! `cargo run --release --example finetune -- MODEL_DIR`; without a directory it takes the built-in demo's model.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use burn::module::AutodiffModule;
use burn_autodiff::Autodiff;
use sara_core::methods::sara::SaraConfig;
use sara_core::{AnyAdapter, Backbone, MethodConfig, Seed, Targets};
use sara_models::checkpoint::{Checkpoint, Loaded};
use sara_models::classify::classify;
use sara_models::classify::evaluate::predict;
use sara_models::classify::{Classes, Dataset, Labels};
use sara_models::data::Examples;
use sara_models::run::OptimizerConfig;
use sara_models::tokenizer::Tokenizer;
use sara_models::train::{Options, Trained};

/// The backend: another one here, and everything runs there.
type Device = burn_flex::Flex;

pub(crate) fn finetune(model_dir: &Path, texts: &[(&str, &str)]) -> sara_models::Result<Vec<String>> {
    let device = burn_flex::FlexDevice;
    let checkpoint = Checkpoint::open(model_dir)?;
    let tokenizer = Tokenizer::load(model_dir)?;
    let examples = Examples::labelled(texts.iter().copied());
    let classes = Classes::of_data(&examples)?;
    let data = Dataset::prepare(&examples, &tokenizer, 64, Labels::Classes(&classes))?;

    // The rank of each layer, from the singular values of its weight.
    let targets = Targets::AllLinear.select(&checkpoint.config.linears())?;
    let method = MethodConfig::Sara(SaraConfig { share: 0.1, ..SaraConfig::default() });
    let plan = method.plan(&targets, &mut checkpoint.weight_source::<Device>(&device))?;

    // A small adapter and a head are trained beside the frozen model.
    let n_labels = classes.names().len();
    let Loaded { model, head, .. } = checkpoint.load::<Autodiff<Device>>(n_labels, Seed(0), &device)?;
    let adapter = method.init(checkpoint.config.shape(), &plan, Seed(0), &device)?;
    let optimizer =
        OptimizerConfig { learning_rate: 3e-3, batch_size: 4, epochs: Some(30), ..Default::default() };
    let options = Options { optimizer, ..Options::default() };
    let outcome = classify(&model, Trained { adapter, head }, &data, None, &options, None, &mut ())?;

    // Folded into the weights, the adapter costs nothing any more.
    let Trained { adapter, head } = outcome.trained.valid();
    let (merged, _) = model.valid().merge(&adapter)?;
    let trained = Trained { adapter: None::<AnyAdapter<Device>>, head };
    let logits = predict(&merged, &trained, &data, NonZeroUsize::MIN)?;
    Ok(logits.iter().map(|row| classes.names()[sara_models::train::metrics::largest(row)].clone()).collect())
}

fn main() -> sara_models::Result<()> {
    let built_in = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/model");
    let model_dir = std::env::args().nth(1).map_or_else(|| PathBuf::from(built_in), PathBuf::from);
    let texts = [
        ("the elephant chased the mouse .", "large"),
        ("the ant pushed the bear .", "small"),
        ("the horse was called by the bee .", "small"),
        ("the snail was washed by the cow .", "large"),
    ];
    for ((text, label), answer) in texts.iter().zip(finetune(&model_dir, &texts)?) {
        println!("{text:<36} {label:<6} -> {answer}");
    }
    Ok(())
}
