//! The library's example, run as it stands.

#[path = "../../examples/finetune.rs"]
#[expect(dead_code, reason = "its `main` is for the command line")]
mod example;

#[test]
fn the_example_learns_its_texts() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/model");
    let texts = [
        ("the elephant chased the mouse .", "large"),
        ("the ant pushed the bear .", "small"),
        ("the horse was called by the bee .", "small"),
        ("the snail was washed by the cow .", "large"),
    ];
    let answers = example::finetune(model.as_ref(), &texts).unwrap();
    assert_eq!(answers, texts.map(|(_, label)| label));
}
