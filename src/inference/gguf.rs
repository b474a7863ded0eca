//! GGUF model files: metadata and tensors, checked against the file before anything relies on them.
//!
//! The header is read by this crate ([`header`]); every tensor's extent is checked against the file's length when it is asked for. Metadata stays where it
//! lies in the mapped file: a vocabulary never becomes a quarter of a million strings on the server's heap. Weights are packed, and their part of the
//! file is let go.

mod header;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::Error;
use crate::kernels::{self, kernels};
use crate::loading::Loader;
use crate::memory::{MappedFile, MappedVec};
use crate::packed::Quant;
use crate::product::{Format, Matrix};
use header::{Header, Tensor};
pub use header::{List, Value};

/// An open GGUF file.
pub struct Gguf {
    file: Arc<MappedFile>,
    header: Header,
}

impl Gguf {
    /// Opens and checks the file at `path`; errors name it.
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        let file = Arc::new(MappedFile::open(path)?);
        Gguf::read(file).map_err(|e| e.at(path.display()))
    }

    fn read(file: Arc<MappedFile>) -> Result<Gguf, Error> {
        let header = Header::read(&file)?;
        Ok(Gguf { file, header })
    }

    /// The mapped file.
    pub fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }

    /// The value under `key`, `None` when there is no such key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.header.get(&self.file, key)
    }

    /// The string under `key`, `None` when there is no such key.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(s)) => Ok(Some(s)),
            Some(other) => Err(wrong(key, other, "a string")),
        }
    }

    /// The non-negative whole number under `key`, of any integer type.
    pub fn count(&self, key: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        whole(value).map(Some).ok_or_else(|| wrong(key, value, "a whole number of at least 0"))
    }

    /// The non-negative whole numbers under `key`, one for each of `len` layers: an array of them, or one number for all.
    pub fn counts(&self, key: &str, len: usize) -> Result<Option<Vec<u64>>, Error> {
        let Some(Value::List(items)) = self.get(key) else {
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
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(v)) if v.is_finite() => Ok(Some(f64::from(v))),
            Some(Value::F64(v)) if v.is_finite() => Ok(Some(v)),
            Some(value) => match self.count(key) {
                Ok(n) => Ok(n.map(|v| v as f64)),
                Err(_) => Err(wrong(key, value, "a finite number")),
            },
        }
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, tensor: &str) -> bool {
        self.header.tensors.contains_key(tensor)
    }

    /// The numbers in all tensors together.
    pub fn parameters(&self) -> u64 {
        self.header.tensors.values().map(|t| t.sizes.iter().product::<usize>() as u64).sum()
    }

    /// Rows and columns of a tensor of two dimensions.
    pub fn shape(&self, tensor: &str) -> Result<(usize, usize), Error> {
        match *self.info(tensor)?.sizes {
            [rows, cols] => Ok((rows, cols)),
            ref other => Err(Error::new(format!("tensor {tensor} has {} dimensions, expected 2", other.len()))),
        }
    }

    /// The bytes that the matrices of the file together take in an [`Arena`](crate::memory::Arena), but for those of `except`.
    pub fn arena_bytes(&self, except: &[&str]) -> Result<usize, Error> {
        let mut all = 0usize;
        for (name, info) in self.header.tensors.iter().filter(|(name, _)| !except.contains(&&***name)) {
            if let [rows, cols] = *info.sizes
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

    /// The tensor as a matrix of exactly this shape, packed.
    pub fn matrix(&self, tensor: &str, rows: usize, cols: usize, loader: &Loader<'_>) -> Result<Matrix, Error> {
        let found = &*self.info(tensor)?.sizes;
        if found != [rows, cols] {
            return Err(Error::new(format!("tensor {tensor} has shape {found:?}, expected [{rows}, {cols}]")));
        }
        self.leading_rows(tensor, rows, cols, loader)
    }

    /// The first `rows` rows of a tensor that has at least as many, each of `cols` numbers, likewise.
    pub fn leading_rows(&self, tensor: &str, rows: usize, cols: usize, loader: &Loader<'_>) -> Result<Matrix, Error> {
        let (range, format) = self.rows(tensor, rows, cols)?;
        Matrix::in_file(&self.file, range, format, rows, cols, loader)
            .map_err(|e| e.at(format_args!("tensor {tensor}")))
    }

    /// The same in planes, where the format can be and there are at least `planes_from` of them: a head, of whose many products few
    /// matter.
    pub fn head(
        &self,
        tensor: &str,
        rows: usize,
        cols: usize,
        planes_from: usize,
        loader: &Loader<'_>,
    ) -> Result<Matrix, Error> {
        if rows < planes_from {
            return self.leading_rows(tensor, rows, cols, loader);
        }
        let (range, format) = self.rows(tensor, rows, cols)?;
        Matrix::in_planes(&self.file, range, format, rows, cols, loader)
            .map_err(|e| e.at(format_args!("tensor {tensor}")))
    }

    /// The same, used where they lie in the file: for single rows, not for products.
    pub fn mapped_rows(&self, tensor: &str, rows: usize, cols: usize) -> Result<Matrix, Error> {
        let (range, format) = self.rows(tensor, rows, cols)?;
        Matrix::table(&self.file, range, format, rows, cols).map_err(|e| e.at(format_args!("tensor {tensor}")))
    }

    fn rows(&self, tensor: &str, rows: usize, cols: usize) -> Result<(Range<usize>, Format), Error> {
        let found = &*self.info(tensor)?.sizes;
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
        if info.sizes != [len] {
            let found = &info.sizes;
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

    fn info(&self, tensor: &str) -> Result<&Tensor, Error> {
        self.header.tensors.get(tensor).ok_or_else(|| Error::new(format!("tensor {tensor} is missing")))
    }

    /// How a tensor is encoded, an error when this crate has no arithmetic for it.
    pub fn format(&self, tensor: &str) -> Result<Format, Error> {
        let other = match self.info(tensor)?.format {
            0 => return Ok(Format::Plain(kernels::Format::F32)),
            1 => return Ok(Format::Plain(kernels::Format::F16)),
            30 => return Ok(Format::Plain(kernels::Format::BF16)),
            8 => return Ok(Format::Quant(Quant::Q8_0)),
            2 => return Ok(Format::Quant(Quant::Q4_0)),
            3 => return Ok(Format::Quant(Quant::Q4_1)),
            6 => return Ok(Format::Quant(Quant::Q5_0)),
            7 => return Ok(Format::Quant(Quant::Q5_1)),
            12 => return Ok(Format::Quant(Quant::Q4_K)),
            13 => return Ok(Format::Quant(Quant::Q5_K)),
            14 => return Ok(Format::Quant(Quant::Q6_K)),
            9 => "Q8_1",
            10 => "Q2_K",
            11 => "Q3_K",
            _ => "Q8_K",
        };
        Err(Error::new(format!(
            "tensor {tensor} is in format {other}; accepted are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K"
        )))
    }

    /// Where a tensor of `bytes` bytes begins in the file.
    fn start(&self, tensor: &str, bytes: usize) -> Result<usize, Error> {
        let offset = self.info(tensor)?.offset;
        let start = self.header.data.checked_add(offset);
        let end = start.and_then(|s| s.checked_add(bytes as u64));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.file.len() as u64 => Ok(start as usize),
            _ => Err(Error::new(format!(
                "tensor {tensor} needs {bytes} bytes at offset {offset} of the data, which begins at byte {} of a file of {} \
                 bytes: the file is cut off or its header is wrong",
                self.header.data,
                self.file.len()
            ))),
        }
    }
}

fn whole(value: Value) -> Option<u64> {
    match value {
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

fn wrong(key: &str, value: Value, expected: &str) -> Error {
    let found = match value {
        Value::List(items) => format!("an array of {}", items.len()),
        Value::Text(_) => "a string".to_owned(),
        other => format!("{other:?}"),
    };
    Error::new(format!("metadata {key} is {found}, expected {expected}"))
}

#[cfg(test)]
pub(crate) mod tests;
