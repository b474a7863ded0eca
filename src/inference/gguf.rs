//! GGUF model files: metadata and tensors, checked against the file before anything relies on them.
//!
//! candle-core reads the format. Before it does, [`check_header`] walks the bytes itself: candle trusts a few things that a
//! hostile file can use (an alignment of zero divides by zero, a metadata array of bytes grows to 24 bytes per element,
//! nested arrays recurse, broken UTF-8 is silently replaced, a repeated name silently wins). After it, every tensor's extent
//! is checked against the file's length. Plain weights are never copied: a [`Matrix`] points into the
//! mapped file; quantised ones are packed, and their part of the file let go.

mod header;

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};

use crate::Error;
use crate::kernels::{self, kernels};
use crate::memory::{Arena, MappedFile, MappedVec};
use crate::packed::Quant;
use crate::product::{Format, Matrix};

/// An open GGUF file.
pub struct Gguf {
    file: Arc<MappedFile>,
    content: Content,
}

impl Gguf {
    /// Opens and checks the file at `path`; errors name it.
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        let file = Arc::new(MappedFile::open(path)?);
        Gguf::read(file).map_err(|e| e.at(path.display()))
    }

    fn read(file: Arc<MappedFile>) -> Result<Gguf, Error> {
        header::check(&file)?;
        let content =
            Content::read(&mut Cursor::new(&file[..])).map_err(|e| Error::new(format!("GGUF header: {e}")))?;
        Ok(Gguf { file, content })
    }

    /// The mapped file.
    pub fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }

    /// All metadata, for the tokenizer.
    pub fn metadata(&self) -> &HashMap<String, Value> {
        &self.content.metadata
    }

    /// The string under `key`, `None` when there is no such key.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(wrong(key, other, "a string")),
        }
    }

    /// The non-negative whole number under `key`, of any integer type.
    pub fn count(&self, key: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.content.metadata.get(key) else { return Ok(None) };
        whole(value).map(Some).ok_or_else(|| wrong(key, value, "a whole number of at least 0"))
    }

    /// The non-negative whole numbers under `key`, one for each of `len` layers: an array of them, or one number for all.
    pub fn counts(&self, key: &str, len: usize) -> Result<Option<Vec<u64>>, Error> {
        let Some(Value::Array(items)) = self.content.metadata.get(key) else {
            return Ok(self.count(key)?.map(|n| vec![n; len]));
        };
        if items.len() != len {
            return Err(Error::new(format!("metadata {key} has {} entries for {len} layers", items.len())));
        }
        let one = |v| whole(v).ok_or_else(|| wrong(key, v, "an array of whole numbers of at least 0"));
        items.iter().map(one).collect::<Result<_, _>>().map(Some)
    }

    /// The finite number under `key`, of any numeric type.
    pub fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(&Value::F32(v)) if v.is_finite() => Ok(Some(f64::from(v))),
            Some(&Value::F64(v)) if v.is_finite() => Ok(Some(v)),
            Some(value) => match self.count(key) {
                Ok(n) => Ok(n.map(|v| v as f64)),
                Err(_) => Err(wrong(key, value, "a finite number")),
            },
        }
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, tensor: &str) -> bool {
        self.content.tensor_infos.contains_key(tensor)
    }

    /// The numbers in all tensors together.
    pub fn parameters(&self) -> u64 {
        self.content.tensor_infos.values().map(|t| t.shape.elem_count() as u64).sum()
    }

    /// Rows and columns of a tensor of two dimensions.
    pub fn shape(&self, tensor: &str) -> Result<(usize, usize), Error> {
        match *self.info(tensor)?.shape.dims() {
            [rows, cols] => Ok((rows, cols)),
            ref other => Err(Error::new(format!("tensor {tensor} has {} dimensions, expected 2", other.len()))),
        }
    }

    /// The bytes that the matrices of the file together take in an [`Arena`], but for those of `except`.
    pub fn arena_bytes(&self, except: &[&str]) -> Result<usize, Error> {
        let mut all = 0usize;
        for (name, info) in self.content.tensor_infos.iter().filter(|(name, _)| !except.contains(&name.as_str())) {
            if let [rows, cols] = *info.shape.dims()
                && let Ok(format) = self.format(name)
            {
                // What does not fit is refused by name when it is read.
                all = all.saturating_add(format.arena_bytes(rows, cols).unwrap_or(0));
            }
        }
        if all > self.file.len().saturating_mul(2) {
            return Err(Error::new("the tensors are larger than the file: it is cut off, or its header is wrong"));
        }
        Ok(all)
    }

    /// The tensor as a matrix of exactly this shape, packed into `arena` if it is quantised, else used where it lies in the
    /// file.
    pub fn matrix(&self, tensor: &str, rows: usize, cols: usize, arena: &Arena) -> Result<Matrix, Error> {
        let found = self.info(tensor)?.shape.dims();
        if found != [rows, cols] {
            return Err(Error::new(format!("tensor {tensor} has shape {found:?}, expected [{rows}, {cols}]")));
        }
        self.leading_rows(tensor, rows, cols, arena)
    }

    /// The first `rows` rows of a tensor that has at least as many, each of `cols` numbers, likewise.
    pub fn leading_rows(&self, tensor: &str, rows: usize, cols: usize, arena: &Arena) -> Result<Matrix, Error> {
        let (range, format) = self.rows(tensor, rows, cols)?;
        Matrix::in_file(&self.file, range, format, rows, cols, arena).map_err(|e| e.at(format_args!("tensor {tensor}")))
    }

    /// The same, used where they lie in the file however they are encoded: for single rows, not for products.
    pub fn mapped_rows(&self, tensor: &str, rows: usize, cols: usize) -> Result<Matrix, Error> {
        let (range, format) = self.rows(tensor, rows, cols)?;
        Matrix::table(&self.file, range, format, rows, cols).map_err(|e| e.at(format_args!("tensor {tensor}")))
    }

    fn rows(&self, tensor: &str, rows: usize, cols: usize) -> Result<(Range<usize>, Format), Error> {
        let found = self.info(tensor)?.shape.dims();
        if !matches!(*found, [most, wide] if most >= rows && wide == cols) {
            return Err(Error::new(format!("tensor {tensor} has shape {found:?}, expected [{rows} or more, {cols}]")));
        }
        let format = self.format(tensor)?;
        let bytes = format.row_bytes(cols).and_then(|b| b.checked_mul(rows)).ok_or_else(|| {
            let (name, block) = (format.name(), format.block_len());
            Error::new(format!("tensor {tensor}: {name} needs rows of whole blocks of {block} numbers, found {cols}"))
        })?;
        let start = self.start(tensor, bytes)?;
        Ok((start..start + bytes, format))
    }

    /// The tensor as `len` plain numbers, copied.
    pub fn vector(&self, tensor: &str, len: usize) -> Result<MappedVec<f32>, Error> {
        let info = self.info(tensor)?;
        if info.shape.dims() != [len] {
            let found = info.shape.dims();
            return Err(Error::new(format!("tensor {tensor} has shape {found:?}, expected [{len}]")));
        }
        let Format::Plain(format) = self.format(tensor)? else {
            return Err(Error::new(format!("tensor {tensor} is quantised; a vector is F32, F16 or BF16")));
        };
        let bytes = format.row_bytes(len).ok_or_else(|| Error::new(format!("tensor {tensor} is too large")))?;
        let start = self.start(tensor, bytes)?;
        let mut out = MappedVec::zeroed(len)?;
        kernels().decode_row(format, &self.file[start..start + bytes], &mut out);
        Ok(out)
    }

    fn info(&self, tensor: &str) -> Result<&candle_core::quantized::gguf_file::TensorInfo, Error> {
        self.content.tensor_infos.get(tensor).ok_or_else(|| Error::new(format!("tensor {tensor} is missing")))
    }

    /// How a tensor is encoded, an error when this crate has no arithmetic for it.
    pub fn format(&self, tensor: &str) -> Result<Format, Error> {
        Ok(match self.info(tensor)?.ggml_dtype {
            GgmlDType::F32 => Format::Plain(kernels::Format::F32),
            GgmlDType::F16 => Format::Plain(kernels::Format::F16),
            GgmlDType::BF16 => Format::Plain(kernels::Format::BF16),
            GgmlDType::Q8_0 => Format::Quant(Quant::Q8_0),
            GgmlDType::Q4_0 => Format::Quant(Quant::Q4_0),
            GgmlDType::Q4_1 => Format::Quant(Quant::Q4_1),
            GgmlDType::Q5_0 => Format::Quant(Quant::Q5_0),
            GgmlDType::Q5_1 => Format::Quant(Quant::Q5_1),
            GgmlDType::Q4K => Format::Quant(Quant::Q4_K),
            GgmlDType::Q5K => Format::Quant(Quant::Q5_K),
            GgmlDType::Q6K => Format::Quant(Quant::Q6_K),
            other => {
                return Err(Error::new(format!(
                    "tensor {tensor} is in format {other:?}; accepted are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, \
                     Q5_K and Q6_K"
                )));
            }
        })
    }

    /// Where a tensor of `bytes` bytes begins in the file.
    fn start(&self, tensor: &str, bytes: usize) -> Result<usize, Error> {
        let offset = self.info(tensor)?.offset;
        let start = self.content.tensor_data_offset.checked_add(offset);
        let end = start.and_then(|s| s.checked_add(bytes as u64));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.file.len() as u64 => Ok(start as usize),
            _ => Err(Error::new(format!(
                "tensor {tensor} needs {bytes} bytes at offset {offset} of the data, which begins at byte {} of a file of {} \
                 bytes: the file is cut off or its header is wrong",
                self.content.tensor_data_offset,
                self.file.len()
            ))),
        }
    }
}

fn whole(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(v) => Some(u64::from(v)),
        Value::U16(v) => Some(u64::from(v)),
        Value::U32(v) => Some(u64::from(v)),
        Value::U64(v) => Some(v),
        Value::I8(v) => u64::try_from(v).ok(),
        Value::I16(v) => u64::try_from(v).ok(),
        Value::I32(v) => u64::try_from(v).ok(),
        Value::I64(v) => u64::try_from(v).ok(),
        _ => None,
    }
}

fn wrong(key: &str, value: &Value, expected: &str) -> Error {
    let found = match value {
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::String(_) => "a string".to_owned(),
        other => format!("{other:?}"),
    };
    Error::new(format!("metadata {key} is {found}, expected {expected}"))
}

#[cfg(test)]
pub(crate) mod tests;
