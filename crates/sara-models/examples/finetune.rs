//! Fine-tune a RoBERTa or BERT from Hugging Face inside your own program.
//!
//! `cargo run --release --example finetune -- MODEL_DIR`; without a directory it takes the built-in demo's model.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::{Path, PathBuf};

use burn_flex::{Flex, FlexDevice};
use sara_core::methods::sara::SaraConfig;
use sara_core::{MethodConfig, Targets};
use sara_models::classify::FineTune;
use sara_models::data::Examples;

/// Who acts, the larger or the smaller animal? Trains on `labelled` and answers for `texts`.
pub(crate) fn finetune(
    model_dir: &Path,
    labelled: &[(&str, &str)],
    texts: &[&str],
) -> sara_models::Result<Vec<String>> {
    // The rank of each layer comes from the singular values of its weight.
    let mut how = FineTune::by(MethodConfig::Sara(SaraConfig::default()));
    how.targets = Targets::AllLinear;
    how.options.optimizer.learning_rate = Some(3e-3);
    how.options.optimizer.batch_size = 8;
    how.options.optimizer.epochs = Some(20);

    // Another backend and its device here, and everything runs there.
    let tuned = how.run::<Flex>(model_dir, &Examples::labelled(labelled.iter().copied()), &FlexDevice)?;

    // Folded into the weights, the adapter costs nothing any more.
    let tuned = tuned.merge()?;
    Ok(tuned.classify(texts)?.into_iter().map(str::to_owned).collect())
}

pub(crate) const LABELLED: [(&str, &str); 16] = [
    ("the elephant chased the mouse .", "large"),
    ("the ant pushed the bear .", "small"),
    ("the horse was called by the bee .", "small"),
    ("the snail was washed by the cow .", "large"),
    ("the bear called the ant .", "large"),
    ("the mouse chased the elephant .", "small"),
    ("the cow washed the snail .", "large"),
    ("the bee pushed the horse .", "small"),
    ("the elephant was pushed by the ant .", "small"),
    ("the mouse was called by the bear .", "large"),
    ("the horse pushed the bee .", "large"),
    ("the snail called the cow .", "small"),
    ("the ant was chased by the elephant .", "large"),
    ("the bear was washed by the mouse .", "small"),
    ("the cow was called by the snail .", "small"),
    ("the bee was pushed by the horse .", "large"),
];
/// Not among those it is trained on.
pub(crate) const TEXTS: [(&str, &str); 4] = [
    ("the elephant washed the bee .", "large"),
    ("the snail chased the horse .", "small"),
    ("the bear pushed the mouse .", "large"),
    ("the ant called the cow .", "small"),
];

fn main() -> sara_models::Result<()> {
    let built_in = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/model");
    let model_dir = std::env::args().nth(1).map_or_else(|| PathBuf::from(built_in), PathBuf::from);
    let answers = finetune(&model_dir, &LABELLED, &TEXTS.map(|(text, _)| text))?;
    for ((text, label), answer) in TEXTS.iter().zip(answers) {
        println!("{text:<36} {label:<6} -> {answer}");
    }
    Ok(())
}
