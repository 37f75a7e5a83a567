//! The library's example, run as it stands.

#[path = "../../examples/finetune.rs"]
#[expect(dead_code, reason = "its `main` is for the command line")]
mod example;

use burn_flex::{Flex, FlexDevice};
use sara_core::MethodConfig;
use sara_core::methods::lora::LoraConfig;
use sara_models::classify::FineTune;
use sara_models::data::Examples;

use super::model::fixture;

#[test]
fn the_example_answers_for_texts_that_it_was_not_trained_on() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/model");
    let answers =
        example::finetune(model.as_ref(), &example::LABELLED, &example::TEXTS.map(|(text, _)| text)).unwrap();
    assert_eq!(answers, example::TEXTS.map(|(_, label)| label));
}

/// A head that is there already has classes, and the data do not rename its logits.
#[test]
fn a_checkpoint_with_a_head_fixes_the_classes() {
    let mut how = FineTune::by(MethodConfig::Lora(LoraConfig { rank: 2, ..LoraConfig::default() }));
    how.options.optimizer.max_steps = Some(1);
    let tune = |labelled: &[(&str, &str)]| {
        let examples = Examples::labelled(labelled.iter().copied());
        how.run::<Flex>(&fixture("roberta-cls3"), &examples, &FlexDevice)
    };
    let tuned = tune(&[("good", "positive"), ("bad", "negative")]).unwrap();
    assert_eq!(tuned.adapted.answer.classes, ["negative", "neutral", "positive"]);
    let error = tune(&[("good", "fine"), ("bad", "poor")]).unwrap_err().to_string();
    assert!(error.contains("label `fine` is unknown to the checkpoint"), "{error}");
}
