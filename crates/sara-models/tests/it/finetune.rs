//! The library's example, run as it stands.

#[path = "../../examples/finetune.rs"]
#[expect(dead_code, reason = "its `main` is for the command line")]
mod example;

#[test]
fn the_example_answers_for_texts_that_it_was_not_trained_on() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/model");
    let answers =
        example::finetune(model.as_ref(), &example::LABELLED, &example::TEXTS.map(|(text, _)| text)).unwrap();
    assert_eq!(answers, example::TEXTS.map(|(_, label)| label));
}
