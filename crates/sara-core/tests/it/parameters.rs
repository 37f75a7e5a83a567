//! Parameters by path, and the strictness of putting them back.

use burn::tensor::{DType, TensorData};
use sara_core::parameters::{collect, restore};

use crate::tiny::{cases, data};

#[test]
fn paths_name_the_site() {
    let adapter = cases().remove(0).init::<burn_flex::Flex>(1, &burn_flex::FlexDevice);
    let paths: Vec<String> = collect(&adapter).into_keys().collect();
    let expected =
        ["0-output.down", "0-output.up", "0-query.down", "0-query.up", "1-output.down", "1-output.up"];
    let expected: Vec<String> = expected.iter().map(|path| format!("Lora.layers.{path}")).collect();
    assert_eq!(paths[..6], expected);
}

#[test]
fn one_error_lists_every_mismatch() {
    let adapter = cases().remove(0).init::<burn_flex::Flex>(1, &burn_flex::FlexDevice);
    let mut state = collect(&adapter);
    state.remove("Lora.layers.0-query.up").unwrap();
    state.insert("Lora.layers.0-query.down".into(), data("down", [3, 6]));
    let double = state["Lora.layers.1-query.up"].clone().convert_dtype(DType::F64);
    state.insert("Lora.layers.1-query.up".into(), double);
    state.insert("elsewhere".into(), TensorData::from([1.0f32]));
    let error = restore(adapter, &state, "file").unwrap_err().to_string();
    for part in [
        "file: 4 tensors do not fit",
        "Lora.layers.0-query.up: missing, expected [3, 8]",
        "Lora.layers.0-query.down: expected [6, 3] F32, found [3, 6] F32",
        "Lora.layers.1-query.up: expected [3, 8] F32, found [3, 8] F64",
        "elsewhere: unknown",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains('\n'));
}
