//! Writing a checkpoint with other weights: the base's files again, the linear layers and the head replaced.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use burn::tensor::backend::Backend;
use safetensors::View;
use safetensors::tensor::{Dtype, TensorView};
use sara_core::Backbone;
use sara_core::parameters::Tensors;
use sara_core::store::{replace_dir, write_views};
use sara_ops::packed::is_packed;
use serde_json::{Value, json};

use super::Checkpoint;
use crate::architecture::{Architecture, CONFIG};
use crate::checkpoint::weights::{INDEX_FILE, SINGLE_FILE, encode, fits, in_file_order};
use crate::error::{Error, Result};

/// Bytes of tensors in one file, as transformers 4 splits them.
const SHARD_BYTES: usize = 5_000_000_000;

/// What is copied as it is, where the base has it.
const COPIED_FILES: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
];

/// A folder of which the files are copied likewise.
const COPIED_FOLDER: &str = "additional_chat_templates";

/// A task head as a checkpoint has it.
#[derive(Debug, Clone)]
pub struct SavedHead {
    /// Its tensors, by their names in a Hugging Face model.
    pub tensors: Tensors,
    /// What the names of the tensors begin with in whose place they come.
    pub replaces: &'static str,
    /// What `config.json` says of the head: keys with their values, or without one where they go.
    pub config: BTreeMap<String, Option<Value>>,
}

impl<A: Architecture> Checkpoint<A> {
    /// Writes this checkpoint with the linear layers of `model` in place of its own, and with `head`, if given, in place
    /// of whatever head it has.
    ///
    /// Every other tensor keeps its bytes, every replaced one the dtype of the base. `out_dir` appears only when it is
    /// complete; a directory that is there already is replaced.
    ///
    /// # Errors
    /// [`Error::Format`] where `out_dir` is this checkpoint's own, [`Error::Core`] where the model's weights are in 8 or 4
    /// bits, [`Error::Mismatch`] where a value does not fit the dtype, or what writing said.
    pub fn save_merged<B: Backend>(
        &self,
        out_dir: &Path,
        model: &impl Backbone<B>,
        head: Option<&SavedHead>,
    ) -> Result<()> {
        if out_dir.canonicalize().is_ok_and(|out| self.dir.canonicalize().is_ok_and(|own| own == out)) {
            return Err(Error::format(
                out_dir,
                "is the checkpoint that is merged into; choose another place",
            ));
        }
        let mut linears = model.linears().into_iter();
        if let Some((site, _)) = linears.find(|(_, linear)| is_packed(linear.weight.dtype())) {
            return Err(sara_core::Error::Packed { site }.into());
        }
        let pieces = self.pieces(model, head);
        replace_dir(out_dir, |made| {
            self.write_config(made, head)?;
            self.copy_files(made)?;
            write_shards(made, &pieces, SHARD_BYTES)?;
            let overflowed = pieces.iter().filter(|(_, piece)| piece.overflowed.get());
            let mismatches: Vec<String> =
                overflowed.map(|(name, piece)| format!("{name}: not finite in {}", piece.dtype)).collect();
            if mismatches.is_empty() {
                return Ok(());
            }
            Err(Error::Mismatch { what: out_dir.display().to_string(), mismatches })
        })
    }

    fn copy_files(&self, to: &Path) -> Result<()> {
        let mut names: Vec<PathBuf> = COPIED_FILES.iter().map(PathBuf::from).collect();
        let folder = self.dir.join(COPIED_FOLDER);
        if folder.is_dir() {
            fs::create_dir(to.join(COPIED_FOLDER)).map_err(Error::io(to))?;
            for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
                let entry = entry.map_err(Error::io(&folder))?;
                names.push(Path::new(COPIED_FOLDER).join(entry.file_name()));
            }
        }
        for name in names {
            let from = self.dir.join(&name);
            if from.is_file() {
                fs::copy(&from, to.join(&name)).map_err(Error::io(&from))?;
            }
        }
        Ok(())
    }

    fn write_config(&self, to: &Path, head: Option<&SavedHead>) -> Result<()> {
        let (from, to) = (self.dir.join(CONFIG), to.join(CONFIG));
        let text = fs::read(&from).map_err(Error::io(&from))?;
        let mut config: Value = serde_json::from_slice(&text).map_err(|error| Error::format(&from, error))?;
        if let (Some(head), Some(config)) = (head, config.as_object_mut()) {
            for (key, value) in &head.config {
                match value {
                    Some(value) => _ = config.insert(key.clone(), value.clone()),
                    None => _ = config.shift_remove(key),
                }
            }
        }
        let text = format!("{config:#}\n");
        fs::write(&to, text).map_err(Error::io(&to))
    }

    /// Every tensor to write, by name.
    fn pieces<'a, B: Backend>(
        &'a self,
        model: &'a impl Backbone<B>,
        head: Option<&'a SavedHead>,
    ) -> BTreeMap<String, Piece<'a>> {
        // A model with a head has the full names, whatever the base's files have.
        let completed = |name: &str| match head {
            Some(_) => self.names.completed(name),
            None => name.to_owned(),
        };
        let mut pieces = BTreeMap::new();
        for name in self.weights.names() {
            let replaced = |head: &SavedHead| self.names.completed(name).starts_with(head.replaces);
            let dropped = head.is_some_and(|head| self.leaves_out(name) || replaced(head));
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
                in_file_order(&linear.weight.val().into_data())
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
        for (name, data) in head.into_iter().flat_map(|head| &head.tensors) {
            let shape = data.shape.to_vec();
            let made = Piece::made(dtype.unwrap_or(Dtype::F32), shape, || data.clone());
            pieces.insert(name.clone(), made);
        }
        pieces
    }
}

/// A tensor to write: bytes of the base, or values that are read from their device only when it is their turn.
struct Piece<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    source: Source<'a>,
    /// Set when the values are written and do not all fit into the dtype.
    overflowed: Cell<bool>,
}

enum Source<'a> {
    Kept(&'a [u8]),
    Made(Box<dyn Fn() -> TensorData + 'a>),
}

impl<'a> Piece<'a> {
    fn kept(view: &TensorView<'a>) -> Self {
        Self::new(view.dtype(), view.shape().to_vec(), Source::Kept(view.data()))
    }

    fn made(dtype: Dtype, shape: Vec<usize>, values: impl Fn() -> TensorData + 'a) -> Self {
        Self::new(dtype, shape, Source::Made(Box::new(values)))
    }

    fn new(dtype: Dtype, shape: Vec<usize>, source: Source<'a>) -> Self {
        Self { dtype, shape, source, overflowed: Cell::new(false) }
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
            Source::Made(values) => {
                let values = values();
                self.overflowed.set(!fits(&values, self.dtype));
                Cow::Owned(encode(&values, self.dtype))
            }
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
fn write_shards(dir: &Path, pieces: &BTreeMap<String, Piece<'_>>, limit: usize) -> Result<()> {
    let mut shards: Vec<Vec<(&str, &Piece<'_>)>> = vec![Vec::new()];
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
            shard.push((name.as_str(), piece));
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
        // transformers asks for this line.
        write_views(&dir.join(file), shard, &[("format", "pt")])?;
    }
    if count == 1 {
        return Ok(());
    }
    let path = dir.join(INDEX_FILE);
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    fs::write(&path, format!("{index:#}\n")).map_err(Error::io(&path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::weights::Weights;

    #[test]
    fn shards_keep_to_their_limit_and_open_as_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), "{}").unwrap();
        let values: Vec<Vec<u8>> = [3, 4, 20, 2, 5].iter().map(|&n| (0..4 * n).collect()).collect();
        let named = values.iter().enumerate().map(|(i, bytes)| {
            let piece = Piece::new(Dtype::F32, vec![bytes.len() / 4], Source::Kept(bytes));
            (format!("tensor{i}"), piece)
        });
        let pieces = named.collect();
        write_shards(dir.path(), &pieces, 28).unwrap();

        let weights = Weights::open(dir.path()).unwrap();
        assert!(weights.names().eq(["tensor0", "tensor1", "tensor2", "tensor3", "tensor4"]));
        for (i, bytes) in values.iter().enumerate() {
            assert_eq!(weights.tensor(&format!("tensor{i}")).unwrap().data(), bytes);
        }
        let index: Value = serde_json::from_slice(&fs::read(dir.path().join(INDEX_FILE)).unwrap()).unwrap();
        assert_eq!(index["metadata"]["total_size"], 4 * 34);
        let files = ["1", "1", "2", "3", "3"].map(|n| format!("model-0000{n}-of-00003.safetensors"));
        for (i, file) in files.iter().enumerate() {
            assert_eq!(index["weight_map"][format!("tensor{i}")], **file);
        }
    }
}
