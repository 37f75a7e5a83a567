//! The tensors of a checkpoint's safetensors files, memory-mapped, and their conversion to and from f32.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use burn::tensor::TensorData;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use sara_core::store::TensorFile;
use sara_ops::buffer::transpose;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};

/// A checkpoint in one file.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The list of files of a checkpoint in several.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// Checkpoints as torch saves them.
const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
/// What a file of Git LFS begins with where its content was not fetched.
const POINTER: &[u8] = b"version https://git-lfs";

/// Opens a file, unless it is a pointer to one.
fn open_file(path: &Path) -> Result<TensorFile> {
    let mut start = [0; POINTER.len()];
    let is_pointer =
        fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == POINTER;
    if is_pointer {
        return Err(Error::format(
            path,
            "is a pointer of Git LFS and not the file itself; fetch it: git lfs pull",
        ));
    }
    Ok(TensorFile::open(path)?)
}

/// Every tensor of a checkpoint, by name. Nothing is read before it is asked for.
#[derive(Debug)]
pub struct Weights {
    /// The file that was opened: the single one, or the index.
    path: PathBuf,
    files: Vec<TensorFile>,
    /// Which file holds a tensor.
    file_of: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(deserialize_with = "each_once")]
    weight_map: BTreeMap<String, String>,
}

/// A map of which no key may stand there twice.
fn each_once<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<BTreeMap<String, String>, D::Error> {
    struct EachOnce;

    impl<'de> Visitor<'de> for EachOnce {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a file for each tensor")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut entries: M) -> std::result::Result<Self::Value, M::Error> {
            let mut map = BTreeMap::new();
            while let Some((tensor, file)) = entries.next_entry::<String, String>()? {
                if map.contains_key(&tensor) {
                    return Err(M::Error::custom(format!(
                        "names `{tensor}` twice; save the checkpoint again"
                    )));
                }
                map.insert(tensor, file);
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(EachOnce)
}

impl Weights {
    /// Opens `model.safetensors`, or the files that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`], naming the file.
    pub fn open(dir: &Path) -> Result<Self> {
        let (single, index) = (dir.join(SINGLE_FILE), dir.join(INDEX_FILE));
        if !single.exists() && index.exists() {
            return Self::open_sharded(dir, index);
        }
        if !single.exists() {
            let pickled = PICKLED.iter().find(|name| dir.join(name).exists());
            let remedy = match pickled {
                Some(name) => format!(
                    "only {name}, which runs code when it is read; convert it with transformers: \
                     AutoModel.from_pretrained(\"{0}\").save_pretrained(\"{0}\")",
                    dir.display()
                ),
                None => "save the checkpoint as safetensors".to_owned(),
            };
            let problem = format!("no {SINGLE_FILE} and no {INDEX_FILE} in this directory; {remedy}");
            return Err(Error::format(dir, problem));
        }
        let file = open_file(&single)?;
        let file_of = file.names().map(|name| (name, 0)).collect();
        Ok(Self { path: single, files: vec![file], file_of })
    }

    fn open_sharded(dir: &Path, path: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let index: Index = serde_json::from_str(&text).map_err(|error| Error::format(&path, error))?;
        let (mut files, mut opened, mut file_of) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for (tensor, name) in index.weight_map {
            let number = match opened.get(&name) {
                Some(&number) => number,
                None if Path::new(&name).file_name().is_none_or(|file| file != name.as_str()) => {
                    return Err(Error::format(
                        &path,
                        format!("`{name}` is not the name of a file beside it"),
                    ));
                }
                None => {
                    files.push(open_file(&dir.join(&name))?);
                    opened.insert(name.clone(), files.len() - 1);
                    files.len() - 1
                }
            };
            if files[number].tensor(&tensor).is_none() {
                return Err(Error::format(
                    &path,
                    format!("`{tensor}` is not in {name}, where the index puts it"),
                ));
            }
            file_of.insert(tensor, number);
        }
        // A buffer in a file of the index that the index does not name is of no use to anyone.
        Ok(Self { path, files, file_of })
    }

    /// The file that was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.file_of.keys().map(String::as_str)
    }

    /// The tensor `name` as it lies in the file.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.files[*self.file_of.get(name)?].tensor(name)
    }

    /// Gives back the memory that reading the tensor `name` took: whoever has copied it does not pay for it twice.
    ///
    /// It may be read again all the same, from the file.
    pub fn release(&self, name: &str) {
        if let Some(&number) = self.file_of.get(name) {
            self.files[number].release(name);
        }
    }
}

/// The values of a tensor in f32; `None` for types other than f64, f32, f16 and bf16.
pub fn to_f32(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::F64 => decode(bytes, |b| f64::from_le_bytes(b) as f32),
        Dtype::F32 => decode(bytes, f32::from_le_bytes),
        Dtype::F16 => decode(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => decode(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        _ => return None,
    })
}

/// The same for a matrix `[rows, columns]`, transposed to `[columns, rows]` on the way.
pub fn to_f32_transposed(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let (bytes, &[rows, columns]) = (view.data(), view.shape()) else { return None };
    Some(match view.dtype() {
        Dtype::F64 => transpose(rows, columns, at(bytes, |b| f64::from_le_bytes(b) as f32)),
        Dtype::F32 => transpose(rows, columns, at(bytes, f32::from_le_bytes)),
        Dtype::F16 => transpose(rows, columns, at(bytes, |b| f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => transpose(rows, columns, at(bytes, |b| bf16::from_le_bytes(b).to_f32())),
        _ => return None,
    })
}

/// Whether [`to_f32`] reads its type.
pub(crate) fn is_float(view: &TensorView<'_>) -> bool {
    matches!(view.dtype(), Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// One row of a matrix, written to `out`; what [`to_f32`] does not read stays as it is.
pub(crate) fn row_to_f32(view: &TensorView<'_>, row: usize, out: &mut [f32]) {
    fn write<const N: usize>(bytes: &[u8], row: usize, out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
        let values = &bytes.as_chunks().0[row * out.len()..];
        out.iter_mut().zip(values).for_each(|(out, &chunk)| *out = value(chunk));
    }
    let bytes = view.data();
    match view.dtype() {
        Dtype::F64 => write(bytes, row, out, |b| f64::from_le_bytes(b) as f32),
        Dtype::F32 => write(bytes, row, out, f32::from_le_bytes),
        Dtype::F16 => write(bytes, row, out, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => write(bytes, row, out, |b| bf16::from_le_bytes(b).to_f32()),
        _ => {}
    }
}

/// The values of a tensor in bf16, rounded where the file has more digits.
pub(crate) fn to_bf16(view: &TensorView<'_>) -> Option<Vec<bf16>> {
    match view.dtype() {
        Dtype::BF16 => {
            Some(view.data().as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes)).collect())
        }
        _ => Some(to_f32(view)?.into_iter().map(bf16::from_f32).collect()),
    }
}

/// The same in f16.
pub(crate) fn to_f16(view: &TensorView<'_>) -> Option<Vec<f16>> {
    match view.dtype() {
        Dtype::F16 => {
            Some(view.data().as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes)).collect())
        }
        _ => Some(to_f32(view)?.into_iter().map(f16::from_f32).collect()),
    }
}

/// A weight as burn holds it, `[d_in, d_out]`, in the orientation of Hugging Face, `[d_out, d_in]`.
pub fn in_file_order(weight: &TensorData) -> TensorData {
    let [rows, columns] = [weight.shape[0], weight.shape[1]];
    let values = floats(weight);
    TensorData::new(transpose(rows, columns, |i| values[i]), [columns, rows])
}

/// The bytes of f32 values as f16, bf16 or f64; in any other case as f32.
pub fn encode(values: &TensorData, dtype: Dtype) -> Vec<u8> {
    let values = floats(values);
    match dtype {
        Dtype::F16 => pack(&values, |value| f16::from_f32(value).to_le_bytes()),
        Dtype::BF16 => pack(&values, |value| bf16::from_f32(value).to_le_bytes()),
        Dtype::F64 => pack(&values, |value| f64::from(value).to_le_bytes()),
        _ => pack(&values, f32::to_le_bytes),
    }
}

/// True if every value is finite, also after [`encode`].
pub fn fits(values: &TensorData, dtype: Dtype) -> bool {
    let limit = match dtype {
        Dtype::F16 => f16::MAX.to_f32(),
        Dtype::BF16 => bf16::MAX.to_f32(),
        _ => f32::MAX,
    };
    floats(values).iter().all(|value| value.abs() <= limit)
}

fn floats(data: &TensorData) -> Cow<'_, [f32]> {
    data.as_slice().map_or_else(|_| data.iter().collect(), Cow::Borrowed)
}

fn pack<const N: usize>(values: &[f32], bytes: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    values.iter().map(|&value| bytes(value)).collect::<Vec<_>>().into_flattened()
}

fn decode<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&chunk| value(chunk)).collect()
}

/// The value at an index of little-endian bytes.
fn at<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> impl Fn(usize) -> f32 {
    let chunks = bytes.as_chunks().0;
    move |index| value(chunks[index])
}
