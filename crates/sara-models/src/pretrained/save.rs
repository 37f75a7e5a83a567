//! Writing a checkpoint with other weights: the base's files again, the linear layers and the head replaced.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use burn::tensor::TensorData;
use burn::tensor::backend::Backend;
use safetensors::View;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use sara_core::Backbone;
use sara_core::error::{Error as CoreError, Result as CoreResult};
use serde_json::{Value, json};

use super::{Checkpoint, HEAD};
use crate::config;
use crate::encoder::Encoder;
use crate::error::Error;
use crate::heads::Head;
use crate::weights::{INDEX_FILE, SINGLE_FILE, encode, weight_to_file};

/// Bytes of tensors in one file, as transformers 4 splits them.
const SHARD_BYTES: usize = 5_000_000_000;

/// What is copied as it is, where the base has it.
const TOKENIZER_FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
];

impl Checkpoint {
    /// Writes this checkpoint with the linear layers of `model` in place of its own, and with `head` and the names of
    /// its labels, if given, in place of whatever head it has.
    ///
    /// Every other tensor keeps its bytes, every replaced one the dtype of the base. `out_dir` appears only when it is
    /// complete.
    ///
    /// # Errors
    /// [`Error::Core`] where `out_dir` exists, cannot be written, or the head does not fit its labels.
    pub fn save_merged<B: Backend>(
        &self,
        out_dir: &Path,
        model: &Encoder<B>,
        head: Option<(&Head<B>, &[String])>,
    ) -> Result<(), Error> {
        if out_dir.exists() {
            return Err(
                CoreError::format(out_dir, "exists already; remove it or choose another place").into()
            );
        }
        if let Some((head, labels)) = head.filter(|(head, labels)| head.n_labels() != labels.len()) {
            let problem = format!("{} names for a head of {} labels", labels.len(), head.n_labels());
            return Err(CoreError::format(out_dir, problem).into());
        }
        let parent =
            out_dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let io = |source| CoreError::io(out_dir, source);
        fs::create_dir_all(parent).map_err(io)?;
        // A directory inside the temporary one: only there the usual permissions apply.
        let temporary = tempfile::Builder::new().prefix(".merged-").tempdir_in(parent).map_err(io)?;
        let made = temporary.path().join("model");
        fs::create_dir(&made).map_err(io)?;

        self.write_config(&made, head.map(|(_, labels)| labels))?;
        for name in TOKENIZER_FILES {
            let from = self.dir.join(name);
            if from.exists() {
                fs::copy(&from, made.join(name)).map_err(|source| CoreError::io(&from, source))?;
            }
        }
        write_shards(&made, &self.pieces(model, head.map(|(head, _)| head)), SHARD_BYTES)?;
        fs::rename(&made, out_dir).map_err(io)?;
        Ok(())
    }

    fn write_config(&self, to: &Path, labels: Option<&[String]>) -> CoreResult<()> {
        let (from, to) = (self.dir.join(config::FILE), to.join(config::FILE));
        let text = fs::read(&from).map_err(|source| CoreError::io(&from, source))?;
        let mut config: Value =
            serde_json::from_slice(&text).map_err(|error| CoreError::format(&from, error))?;
        if let (Some(labels), Some(config)) = (labels, config.as_object_mut()) {
            let numbered = || labels.iter().enumerate();
            let by_id = numbered().map(|(i, name)| (i.to_string(), json!(name)));
            let by_name = numbered().map(|(i, name)| (name.clone(), json!(i)));
            config.insert("architectures".to_owned(), json!([self.config.family.classifier_architecture()]));
            config.insert("id2label".to_owned(), Value::Object(by_id.collect()));
            config.insert("label2id".to_owned(), Value::Object(by_name.collect()));
            // Both follow from the labels; what the base says is of its own head.
            config.shift_remove("num_labels");
            config.shift_remove("problem_type");
        }
        let text = format!("{config:#}\n");
        fs::write(&to, text).map_err(|source| CoreError::io(&to, source))
    }

    /// Every tensor to write, by name.
    fn pieces<'a, B: Backend>(
        &'a self,
        model: &'a Encoder<B>,
        head: Option<&'a Head<B>>,
    ) -> BTreeMap<String, Piece<'a>> {
        // A model with a head has the full names, whatever the base's files have.
        let completed = |name: &str| match head {
            Some(_) if self.prefix.is_empty() => format!("{}.{name}", self.config.family.name()),
            _ => name.to_owned(),
        };
        let mut pieces = BTreeMap::new();
        for name in self.weights.names() {
            let dropped = head.is_some() && (self.ignores(name) || name.starts_with(HEAD));
            if let Some(view) = self.weights.tensor(name).filter(|_| !dropped) {
                pieces.insert(completed(name), Piece::kept(&view));
            }
        }
        for (target, (_, linear)) in self.config.linears().iter().zip(model.linears()) {
            let path = completed(&self.path_of(target));
            let (weight, bias) = (format!("{path}.weight"), format!("{path}.bias"));
            let dtype = |name: &String| pieces.get(name).map_or(Dtype::F32, |piece: &Piece<'_>| piece.dtype);
            let [d_in, d_out] = linear.weight.dims();
            let made = Piece::made(dtype(&weight), vec![d_out, d_in], || {
                weight_to_file(linear.weight.val().into_data())
            });
            let made_bias = linear
                .bias
                .as_ref()
                .map(|param| Piece::made(dtype(&bias), vec![d_out], || param.val().into_data()));
            pieces.insert(weight, made);
            pieces.extend(made_bias.map(|made| (bias, made)));
        }
        // The head takes the dtype of the model around it.
        let dtype =
            self.config.linears().first().and_then(|first| {
                Some(self.weights.tensor(&format!("{}.weight", self.path_of(first)))?.dtype())
            });
        for (name, data) in head.map(Head::tensors).unwrap_or_default() {
            let shape = data.shape.to_vec();
            pieces.insert(name, Piece::made(dtype.unwrap_or(Dtype::F32), shape, move || data.clone()));
        }
        pieces
    }
}

/// A tensor to write: bytes of the base, or values that are read from their device only when it is their turn.
struct Piece<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    source: Source<'a>,
}

enum Source<'a> {
    Kept(&'a [u8]),
    Made(Box<dyn Fn() -> TensorData + 'a>),
}

impl<'a> Piece<'a> {
    fn kept(view: &TensorView<'a>) -> Self {
        Self { dtype: view.dtype(), shape: view.shape().to_vec(), source: Source::Kept(view.data()) }
    }

    fn made(dtype: Dtype, shape: Vec<usize>, values: impl Fn() -> TensorData + 'a) -> Self {
        Self { dtype, shape, source: Source::Made(Box::new(values)) }
    }
}

impl View for &Piece<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.source {
            Source::Kept(bytes) => Cow::Borrowed(bytes),
            Source::Made(values) => Cow::Owned(encode(&values(), self.dtype)),
        }
    }

    fn data_len(&self) -> usize {
        match &self.source {
            Source::Kept(bytes) => bytes.len(),
            Source::Made(_) => self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8,
        }
    }
}

/// Writes one file, or several of at most `limit` bytes of tensors and an index; a larger tensor has a file alone.
fn write_shards(dir: &Path, pieces: &BTreeMap<String, Piece<'_>>, limit: usize) -> CoreResult<()> {
    let mut shards: Vec<Vec<(&String, &Piece<'_>)>> = vec![Vec::new()];
    let (mut filled, mut total) = (0, 0);
    for (name, piece) in pieces {
        let bytes = piece.data_len();
        if filled > 0 && filled + bytes > limit {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        total += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push((name, piece));
        }
    }
    let count = shards.len();
    let mut weight_map = BTreeMap::new();
    for (number, shard) in (1..).zip(shards) {
        let file = match count {
            1 => SINGLE_FILE.to_owned(),
            _ => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
        weight_map.extend(shard.iter().map(|&(name, _)| (name, file.clone())));
        write_file(&dir.join(file), shard)?;
    }
    if count == 1 {
        return Ok(());
    }
    let path = dir.join(INDEX_FILE);
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    fs::write(&path, format!("{index:#}\n")).map_err(|source| CoreError::io(&path, source))
}

fn write_file(path: &Path, tensors: Vec<(&String, &Piece<'_>)>) -> CoreResult<()> {
    // transformers asks for this line.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize_to_file(tensors, Some(metadata), path).map_err(|error| CoreError::format(path, error))?;
    // The crate leaves a file that only its owner may read; let it be as readable as its neighbour.
    let io = |source| CoreError::io(path, source);
    let permissions = fs::metadata(path.with_file_name(config::FILE)).map_err(io)?.permissions();
    fs::set_permissions(path, permissions).map_err(io)
}
