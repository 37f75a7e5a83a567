//! The safetensors format: a length, a JSON header, the values.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use burn::tensor::{BoolStore, DType, TensorData};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorView};
use safetensors::{Dtype, SafeTensors, View};
use serde_json::{Map, Value, json};

use super::replace::write_through;
use crate::error::{Error, Result};
use crate::parameters::Tensors;

/// A safetensors file, memory-mapped: its header is checked, and no tensor is read before it is asked for.
#[derive(Debug)]
pub struct TensorFile {
    map: Mmap,
    metadata: Metadata,
    /// Where the tensors' bytes begin.
    start: usize,
}

impl TensorFile {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Format`] where the file is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::io(path, source);
        let file = File::open(path).map_err(failed)?;
        #[expect(unsafe_code, reason = "a memory map is a promise about other processes")]
        // SAFETY: the map is read only and private to this value; as with every reader of checkpoints, nobody may
        // shorten or rewrite the file meanwhile.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let (length, metadata) = SafeTensors::read_metadata(&map).map_err(|error| {
            Error::format(path, format!("not a whole safetensors file ({error}); fetch or write it again"))
        })?;
        Ok(Self { map, metadata, start: size_of::<u64>() + length })
    }

    /// The names of all tensors, in the order of their bytes.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.metadata.offset_keys().into_iter()
    }

    /// The tensor `name` as it lies in the file.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let info = self.metadata.info(name)?;
        // The header was checked against the length of the file.
        TensorView::new(info.dtype, info.shape.clone(), &self.map[self.bytes_of(name)?]).ok()
    }

    /// Gives back the memory that reading the tensor `name` took: whoever has copied it does not pay for it twice.
    ///
    /// It may be read again all the same, from the file.
    pub fn release(&self, name: &str) {
        if let Some(bytes) = self.bytes_of(name) {
            self.release_bytes(bytes);
        }
    }

    /// Where the tensor `name` lies in the map.
    fn bytes_of(&self, name: &str) -> Option<Range<usize>> {
        let (begin, end) = self.metadata.info(name)?.data_offsets;
        Some(self.start + begin..self.start + end)
    }

    #[cfg(unix)]
    fn release_bytes(&self, bytes: Range<usize>) {
        #[expect(unsafe_code, reason = "the advice throws away what was written to a map")]
        // SAFETY: nothing was written to this map, it is read only; its pages come again from the file.
        // Advice may be refused; then the memory stays, and nothing else changes.
        let _ = unsafe {
            self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len())
        };
    }

    #[cfg(not(unix))]
    fn release_bytes(&self, _bytes: Range<usize>) {}
}

/// Reads every tensor of a safetensors file.
///
/// # Errors
/// As [`TensorFile::open`], or [`Error::Format`] where the file holds a type that this crate does not know.
pub fn read_safetensors(path: &Path) -> Result<Tensors> {
    let file = TensorFile::open(path)?;
    let read = |name: String| {
        let view = file.tensor(&name)?;
        let data = decode(view.dtype(), view.data(), view.shape()).ok_or_else(|| {
            Error::format(path, format!("{name}: the type {} is not supported", view.dtype()))
        });
        Some(data.map(|data| (name, data)))
    };
    file.names().filter_map(read).collect()
}

/// Writes a safetensors file; the same tensors always give the same bytes.
///
/// # Errors
/// [`Error::Io`], or [`Error::Format`] for a type that the format does not have.
pub fn write_safetensors(path: &Path, tensors: &Tensors, metadata: &[(&str, &str)]) -> Result<()> {
    let held = tensors.iter().map(|(name, data)| {
        let dtype = type_of(data.dtype).ok_or_else(|| {
            Error::format(path, format!("{name}: the type {:?} cannot be stored", data.dtype))
        })?;
        Ok((name.as_str(), Held { data, dtype }))
    });
    write_views(path, held.collect::<Result<_>>()?, metadata)
}

/// The same for tensors whose bytes are made only when it is their turn, in the order of their names.
///
/// # Errors
/// [`Error::Io`].
pub fn write_views<V: View>(path: &Path, mut views: Vec<(&str, V)>, metadata: &[(&str, &str)]) -> Result<()> {
    // Large types first, as every writer does, so that each value is aligned.
    views.sort_by_key(|(_, view)| Reverse(view.dtype().bitsize()));
    let mut header = Map::new();
    if !metadata.is_empty() {
        let entries = metadata.iter().map(|&(key, value)| (key.to_owned(), value.into())).collect();
        header.insert("__metadata__".to_owned(), Value::Object(entries));
    }
    let mut start = 0;
    for (name, view) in &views {
        let end = start + view.data_len();
        let dtype = view.dtype().to_string();
        let entry = json!({"dtype": dtype, "shape": view.shape(), "data_offsets": [start, end]});
        header.insert((*name).to_owned(), entry);
        start = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    write_through(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        views.iter().try_for_each(|(_, view)| file.write_all(&view.data()))
    })
}

/// Values in memory as the format sees them.
struct Held<'a> {
    data: &'a TensorData,
    dtype: Dtype,
}

impl View for Held<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.data.shape.as_slice()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.data.as_bytes())
    }

    fn data_len(&self) -> usize {
        self.data.as_bytes().len()
    }
}

fn type_of(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 | DType::Flex32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool(BoolStore::Native) => Dtype::BOOL,
        DType::Bool(_) | DType::QFloat(_) => return None,
    })
}

/// Values out of their bytes, which need not be aligned.
fn decode(dtype: Dtype, bytes: &[u8], shape: &[usize]) -> Option<TensorData> {
    macro_rules! values {
        ($type:ty) => {{
            let (values, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
            let values: Vec<$type> = values.iter().map(|&value| <$type>::from_le_bytes(value)).collect();
            TensorData::new(values, shape.to_vec())
        }};
    }
    Some(match dtype {
        Dtype::F64 => values!(f64),
        Dtype::F32 => values!(f32),
        Dtype::F16 => values!(f16),
        Dtype::BF16 => values!(bf16),
        Dtype::I64 => values!(i64),
        Dtype::I32 => values!(i32),
        Dtype::I16 => values!(i16),
        Dtype::I8 => values!(i8),
        Dtype::U64 => values!(u64),
        Dtype::U32 => values!(u32),
        Dtype::U16 => values!(u16),
        Dtype::U8 => values!(u8),
        Dtype::BOOL => {
            TensorData::new(bytes.iter().map(|&byte| byte != 0).collect::<Vec<bool>>(), shape.to_vec())
        }
        _ => return None,
    })
}
