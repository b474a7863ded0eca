//! Safetensors files: tensors by name, checked against the file before anything relies on them.
//!
//! A file is a u64 length, a JSON header of that length (name, type, shape and extent of every tensor) and the data. The
//! `safetensors` crate, through candle-core, reads the header and checks what a hostile one could use: extents must agree
//! with shape and type without overflow, follow each other without gaps or overlaps, and end with the file. It takes headers
//! of up to 100 MB, which become several times that in the server's heap, so the length is checked here before. A name that
//! occurs twice leaves a gap, or means the same bytes.
//!
//! Large models are several files with an index, which says only what the headers say again: it is read for the names of the
//! files, and every name in the headers must be there once.
//!
//! Rejected: candle's own mapped reader (it maps without our type's note on files that shrink, and hands out copies).

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use candle_core::safetensors::SliceSafetensors;
use serde::Deserialize;

use crate::Error;
use crate::folder::{json, stays_inside};
use crate::kernels::{Format, kernels};
use crate::loading::Loader;
use crate::memory::{MappedFile, MappedVec};
use crate::product::{self, Matrix};

/// A header of a model of the family has 200 bytes for each of at most some thousand tensors.
const MAX_HEADER: u64 = 16 << 20;
/// More files than any model of the family has.
const MAX_FILES: usize = 256;

/// The tensors of one model.
pub(crate) struct Safetensors {
    files: Vec<Arc<MappedFile>>,
    tensors: HashMap<String, Tensor>,
    /// What stands before the names that are asked for.
    prefix: &'static str,
}

struct Tensor {
    file: usize,
    range: Range<usize>,
    shape: Vec<usize>,
    /// How it is encoded, or the name of a type that this crate has no arithmetic for.
    format: Result<Format, String>,
}

impl Safetensors {
    /// The tensors of a folder: `model.safetensors`, or the files of `model.safetensors.index.json`.
    pub(crate) fn folder(dir: &Path) -> Result<Safetensors, Error> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: HashMap<String, String>,
        }
        const INDEX: &str = "model.safetensors.index.json";
        let whole = dir.join("model.safetensors");
        if whole.exists() || !dir.join(INDEX).exists() {
            return Safetensors::file(&whole);
        }
        let index: Index = json(&dir.join(INDEX))?;
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        if names.len() > MAX_FILES {
            return Err(Error::new(format!("{} files are more than the {MAX_FILES} accepted", names.len())).at(INDEX));
        }
        let mut all = Safetensors { files: Vec::new(), tensors: HashMap::new(), prefix: "" };
        for name in names {
            if !stays_inside(Path::new(name)) {
                return Err(Error::new(format!("the path {name:?} does not stay in the folder")).at(INDEX));
            }
            all.add(&dir.join(name))?;
        }
        Ok(all)
    }

    /// The tensors of one file; errors name it.
    pub(crate) fn file(path: &Path) -> Result<Safetensors, Error> {
        let mut all = Safetensors { files: Vec::new(), tensors: HashMap::new(), prefix: "" };
        all.add(path)?;
        Ok(all)
    }

    /// The same tensors, asked for without the one of `prefixes` that stands before `name`.
    pub(crate) fn below(mut self, prefixes: &[&'static str], name: &str) -> Safetensors {
        let found = prefixes.iter().find(|prefix| self.tensors.contains_key(&format!("{prefix}{name}")));
        self.prefix = found.copied().unwrap_or_default();
        self
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let place = path.file_name().unwrap_or_default().to_string_lossy();
        let file = Arc::new(MappedFile::open(path)?);
        let tensors = header(&file).map_err(|error| error.at(&place))?;
        for (name, range, shape, format) in tensors {
            let tensor = Tensor { file: self.files.len(), range, shape, format };
            if self.tensors.insert(name.clone(), tensor).is_some() {
                return Err(Error::new(format!("the tensor {name} is in another file too")).at(place));
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// The mapped files.
    pub(crate) fn files(&self) -> &[Arc<MappedFile>] {
        &self.files
    }

    /// The numbers in all tensors below the prefix together.
    pub(crate) fn parameters(&self) -> u64 {
        let of_model = self.tensors.iter().filter(|(name, _)| name.starts_with(self.prefix));
        of_model.map(|(_, tensor)| tensor.shape.iter().product::<usize>() as u64).sum()
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_ok()
    }

    /// The size of each dimension of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize], Error> {
        Ok(&self.get(name)?.shape)
    }

    /// The format and the bytes of the tensor of this name and shape; `None` in `shape` stands for any size.
    pub(crate) fn bytes(&self, name: &str, shape: &[Option<usize>]) -> Result<(Format, &[u8]), Error> {
        let (format, tensor) = self.find(name, shape)?;
        let file = self.files.get(tensor.file).and_then(|file| file.get(tensor.range.clone()));
        file.map(|bytes| (format, bytes)).ok_or_else(|| Error::new(format!("the tensor {name} is outside its file")))
    }

    /// The bytes that the matrices below the prefix together take in an [`Arena`](crate::memory::Arena), but for those of `except`.
    pub(crate) fn arena_bytes(&self, except: &[&str]) -> usize {
        let matrices = self.tensors.iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix(self.prefix).filter(|name| !except.contains(name));
            match (name, tensor.shape.as_slice(), &tensor.format) {
                // What does not fit is refused by name when it is read.
                (Some(_), &[rows, cols], Ok(format)) => product::Format::Plain(*format).arena_bytes(rows, cols),
                _ => None,
            }
        });
        matrices.fold(0, usize::saturating_add)
    }

    /// The tensor as a matrix of exactly this shape, packed.
    pub(crate) fn matrix(&self, name: &str, rows: usize, cols: usize, loader: &Loader<'_>) -> Result<Matrix, Error> {
        self.find(name, &[Some(rows), Some(cols)])?;
        self.leading_rows(name, rows, cols, loader)
    }

    /// The first `rows` rows of a tensor that has at least as many, each of `cols` numbers, likewise.
    pub(crate) fn leading_rows(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        loader: &Loader<'_>,
    ) -> Result<Matrix, Error> {
        let (file, range, format) = self.rows(name, rows, cols)?;
        Matrix::in_file(file, range, format, rows, cols, loader)
            .map_err(|error| error.at(format_args!("the tensor {name}")))
    }

    /// The same, used where they lie in the file: for single rows, not for products.
    pub(crate) fn mapped_rows(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix, Error> {
        let (file, range, format) = self.rows(name, rows, cols)?;
        Matrix::table(file, range, format, rows, cols).map_err(|error| error.at(format_args!("the tensor {name}")))
    }

    fn rows(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<(&Arc<MappedFile>, Range<usize>, product::Format), Error> {
        let (format, tensor) = self.find(name, &[None, Some(cols)])?;
        if tensor.shape.first().is_none_or(|most| *most < rows) {
            return Err(Error::new(format!(
                "the tensor {name} must be [{rows} or more, {cols}]; found {:?}",
                tensor.shape
            )));
        }
        let file = self.files.get(tensor.file).ok_or_else(|| Error::new(format!("the tensor {name} has no file")))?;
        let bytes = format.row_bytes(cols).and_then(|row| row.checked_mul(rows)).filter(|&b| b <= tensor.range.len());
        let bytes =
            bytes.ok_or_else(|| Error::new(format!("the tensor {name} has less bytes than its shape needs")))?;
        let start = tensor.range.start;
        Ok((file, start..start + bytes, product::Format::Plain(format)))
    }

    /// The tensor as `len` plain numbers, copied.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<MappedVec<f32>, Error> {
        let (format, bytes) = self.bytes(name, &[Some(len)])?;
        let mut out = MappedVec::zeroed(len)?;
        kernels().decode_row(format, bytes, &mut out);
        Ok(out)
    }

    fn get(&self, name: &str) -> Result<&Tensor, Error> {
        let tensor = match self.prefix {
            "" => self.tensors.get(name),
            prefix => self.tensors.get(&format!("{prefix}{name}")),
        };
        tensor.ok_or_else(|| Error::new(format!("the tensor {name} is missing")))
    }

    fn find(&self, name: &str, shape: &[Option<usize>]) -> Result<(Format, &Tensor), Error> {
        let tensor = self.get(name)?;
        let found = &tensor.shape;
        if found.len() != shape.len() || found.iter().zip(shape).any(|(found, size)| size.is_some_and(|s| s != *found))
        {
            let sizes: Vec<String> = shape.iter().map(|size| size.map_or("any".into(), |s| s.to_string())).collect();
            return Err(Error::new(format!("the tensor {name} must be [{}]; found {found:?}", sizes.join(", "))));
        }
        match &tensor.format {
            Ok(format) => Ok((*format, tensor)),
            Err(other) => Err(Error::new(format!("the tensor {name} is {other}; F32, F16 and BF16 are supported"))),
        }
    }
}

type Entry = (String, Range<usize>, Vec<usize>, Result<Format, String>);

/// The tensors of a file's header.
fn header(file: &[u8]) -> Result<Vec<Entry>, Error> {
    let Some(length) = file.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Err(Error::new(format!("cannot be read: {} bytes are no safetensors file", file.len())));
    };
    if length > MAX_HEADER {
        return Err(Error::new(format!(
            "cannot be read: a header of {length} bytes; at most {MAX_HEADER} are accepted"
        )));
    }
    let tensors = SliceSafetensors::new(file).map_err(|error| Error::new(format!("cannot be read: {error}")))?;
    let entries = tensors.tensors().into_iter().map(|(name, view)| {
        let format = match DType::try_from(view.dtype()) {
            Ok(DType::F32) => Ok(Format::F32),
            Ok(DType::F16) => Ok(Format::F16),
            Ok(DType::BF16) => Ok(Format::BF16),
            _ => Err(format!("{:?}", view.dtype())),
        };
        let start = view.data().as_ptr() as usize - file.as_ptr() as usize;
        (name, start..start + view.data().len(), view.shape().to_vec(), format)
    });
    Ok(entries.collect())
}

#[cfg(test)]
mod tests;
