//! The safetensors format: a length, a JSON header, the values.

use std::cmp::Reverse;
use std::fs;
use std::io::Write;
use std::path::Path;

use burn::tensor::{BoolStore, DType, TensorData};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::replace::write_through;
use crate::error::{Error, Result};
use crate::parameters::Tensors;

/// Reads every tensor of a safetensors file.
///
/// # Errors
/// [`Error::Io`], or [`Error::Format`] where the file is damaged or holds a type that this crate does not know.
pub fn read_safetensors(path: &Path) -> Result<Tensors> {
    let bytes = fs::read(path).map_err(|source| Error::io(path, source))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| {
        Error::format(path, format!("not a whole safetensors file ({error}); copy or write it again"))
    })?;
    file.iter()
        .map(|(name, view)| {
            let data = decode(view.dtype(), view.data(), view.shape()).ok_or_else(|| {
                Error::format(path, format!("{name}: the type {} is not supported", view.dtype()))
            })?;
            Ok((name.to_owned(), data))
        })
        .collect()
}

/// Writes a safetensors file; the same tensors always give the same bytes.
///
/// # Errors
/// [`Error::Io`], or [`Error::Format`] for a type that the format does not have.
pub fn write_safetensors(path: &Path, tensors: &Tensors, metadata: &[(&str, &str)]) -> Result<()> {
    let mut order: Vec<(&String, &TensorData)> = tensors.iter().collect();
    // Large types first, as every writer does, so that each value is aligned.
    order.sort_by_key(|(_, data)| Reverse(data.dtype.size()));
    let mut header = Map::new();
    if !metadata.is_empty() {
        let entries = metadata.iter().map(|&(key, value)| (key.to_owned(), value.into())).collect();
        header.insert("__metadata__".to_owned(), Value::Object(entries));
    }
    let mut start = 0;
    for (name, data) in &order {
        let dtype = type_name(data.dtype).ok_or_else(|| {
            Error::format(path, format!("{name}: the type {:?} cannot be stored", data.dtype))
        })?;
        let end = start + data.as_bytes().len();
        let entry = json!({"dtype": dtype, "shape": data.shape.as_slice(), "data_offsets": [start, end]});
        header.insert((*name).clone(), entry);
        start = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    write_through(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        order.iter().try_for_each(|(_, data)| file.write_all(data.as_bytes()))
    })
}

fn type_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "F64",
        DType::F32 | DType::Flex32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::I64 => "I64",
        DType::I32 => "I32",
        DType::I16 => "I16",
        DType::I8 => "I8",
        DType::U64 => "U64",
        DType::U32 => "U32",
        DType::U16 => "U16",
        DType::U8 => "U8",
        DType::Bool(BoolStore::Native) => "BOOL",
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
