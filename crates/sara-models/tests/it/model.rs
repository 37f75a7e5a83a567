//! The encoders against transformers, on the small checkpoints of `tests/golden`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use sara_core::{AnyAdapter, MethodConfig, Pass, RankPlan, Seed};
use sara_models::adapted::Answer;
use sara_models::architecture::Architecture;
use sara_models::data::Task;
use sara_models::encoder::EncoderCheckpoint;
use sara_models::encoder::Inputs;
use sara_models::encoder::Loaded;
use sara_ops::LayerOps;

mod config;
mod found;
mod heads;
mod loading;
mod merged;
mod parity;

/// Held by tests that draw noise on a device: its generator is one for the whole process.
pub(crate) static NOISE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// f32 against f32 in another order of summation, on values up to 4: the library's own attention kernels differ by 2e-6.
const PARITY: f32 = 1e-4;

/// Every checkpoint with the number of its labels; those without a head get as many.
const FIXTURES: [(&str, usize); 8] = [
    ("roberta-cls3", 3),
    ("roberta-reg", 1),
    ("roberta-mlm", 2),
    ("bert-cls3", 3),
    ("bert-reg", 1),
    ("bert-bare", 2),
    ("roberta-multi", 3),
    ("bert-reg2", 2),
];

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Tensors of a safetensors file by name: type, shape, bytes.
pub(crate) type Stored = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

pub(crate) fn stored(path: &Path) -> Stored {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let entry = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
        (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    file.iter().map(entry).collect()
}

pub(crate) fn floats((dtype, _, bytes): &(safetensors::Dtype, Vec<usize>, Vec<u8>)) -> Vec<f32> {
    assert_eq!(*dtype, safetensors::Dtype::F32);
    bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
}

pub(crate) fn ints((dtype, _, bytes): &(safetensors::Dtype, Vec<usize>, Vec<u8>)) -> Vec<i32> {
    assert_eq!(*dtype, safetensors::Dtype::I64);
    bytes.as_chunks().0.iter().map(|&value| i64::from_le_bytes(value) as i32).collect()
}

/// A copy of the fixture `base` whose one weight file is what `change` makes of it.
fn changed(base: &str, change: impl FnOnce(&mut Stored)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture(base).join(file), dir.path().join(file)).unwrap();
    }
    let mut tensors = stored(&fixture(base).join("model.safetensors"));
    change(&mut tensors);
    write(&tensors, &dir.path().join("model.safetensors"));
    dir
}

pub(crate) fn write(tensors: &Stored, path: &Path) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The batch of a fixture, from the names its README gives them.
pub(crate) fn golden_inputs<B: Backend>(
    checkpoint: &EncoderCheckpoint,
    golden: &Stored,
    device: &B::Device,
) -> Inputs<B> {
    let (_, shape, _) = &golden["input_ids"];
    let mask = ints(&golden["attention_mask"]).into_iter().map(|value| value == 1).collect();
    let (ids, types) = (ints(&golden["input_ids"]), ints(&golden["token_type_ids"]));
    Inputs::new(&checkpoint.config, ids, types, mask, [shape[0], shape[1]], device).unwrap()
}

/// A classifier's answer with these names.
fn answer(labels: &[String]) -> Answer {
    Answer { task: Task::Classify, classes: labels.to_vec() }
}

/// An adapter that adapts nothing.
fn no_adapter<B: LayerOps>(checkpoint: &EncoderCheckpoint, device: &B::Device) -> AnyAdapter<B> {
    let lora = MethodConfig::all().remove(0);
    lora.init(checkpoint.config.shape(), &RankPlan::default(), Seed(0), device).unwrap()
}

/// Hidden states and logits of the fixture's own batch.
fn outputs<B: LayerOps>(
    checkpoint: &EncoderCheckpoint,
    loaded: &Loaded<B>,
    inputs: &Inputs<B>,
) -> [TensorData; 2] {
    let pass = Pass::evaluation();
    let adapter = no_adapter::<B>(checkpoint, &B::Device::default());
    let hidden: Tensor<B, 3> = loaded.model.forward(inputs, &adapter, &pass);
    // By the shorter way, of the first token alone.
    let logits = loaded.head.forward(loaded.model.first_token(inputs, &adapter, &pass), &pass);
    [hidden.into_data(), logits.into_data()]
}

#[track_caller]
pub(crate) fn assert_close(found: &TensorData, expected: &[f32], what: &str) {
    let found: Vec<f32> = found.iter().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= PARITY, "{what}: differs by {worst}");
    // Values that all lie within the tolerance of zero would prove nothing.
    assert!(expected.iter().any(|value| value.abs() > 0.1), "{what}: expected values are all near zero");
}
