//! Reading a GGUF header.
//!
//! Layout (little endian): magic `GGUF`, u32 version, u64 tensors, u64 pairs; each pair a string key, u32 type, value; each
//! tensor a string name, u32 dimensions, u64 sizes, u32 type, u64 offset; padding to the alignment; the data. A string is a
//! u64 length and bytes; an array is a u32 type, u64 length and its elements.
//!
//! One walk checks everything and notes where the values lie; a [`Value`] is read where it lies when it is asked for. So a
//! vocabulary of a quarter of a million pieces and as many merges costs a glance at each string and no memory. candle-core's
//! reader, which the tests compare with, makes a `String` of each, and trusts a few things that a hostile file can use: an alignment of zero divides
//! by zero, nested arrays recurse, broken UTF-8 is silently replaced, a repeated name silently wins.

use std::collections::HashMap;
use std::ops::Range;

use crate::Error;

/// More tensors than any model of the family has.
const MOST_TENSORS: u64 = 1 << 16;
/// More metadata pairs than any converter writes.
const MOST_PAIRS: u64 = 1 << 14;
/// Elements of all metadata arrays together: eight vocabularies of 262,144 pieces with three arrays each.
const MOST_ELEMENTS: u64 = 6 << 20;
/// The largest alignment of tensor data; converters write 32.
const MOST_ALIGNMENT: u64 = 1 << 16;

const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A header that has been checked.
pub(super) struct Header {
    pub(super) metadata: HashMap<Box<str>, Field>,
    pub(super) tensors: HashMap<Box<str>, Tensor>,
    /// Where the data of the tensors begins.
    pub(super) data: u64,
}

/// Where a value lies in the file, and its type.
pub(super) struct Field {
    kind: u32,
    range: Range<usize>,
}

/// What is said of a tensor.
pub(super) struct Tensor {
    /// Its sizes, the one that is contiguous last.
    pub(super) sizes: Vec<usize>,
    /// The number of its encoding.
    pub(super) format: u32,
    /// Where it begins in the data.
    pub(super) offset: u64,
}

/// A value of the metadata, in the file.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// An unsigned byte.
    U8(u8),
    /// A signed byte.
    I8(i8),
    /// Two bytes, unsigned.
    U16(u16),
    /// Two bytes, signed.
    I16(i16),
    /// Four bytes, unsigned.
    U32(u32),
    /// Four bytes, signed.
    I32(i32),
    /// Eight bytes, unsigned.
    U64(u64),
    /// Eight bytes, signed.
    I64(i64),
    /// A number of single precision.
    F32(f32),
    /// A number of double precision.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Text(&'a str),
    /// An array.
    List(List<'a>),
}

/// An array of the metadata, in the file.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    kind: u32,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> List<'a> {
    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its elements.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + Clone + use<'a> {
        let (kind, mut walk) = (self.kind, Walk { bytes: self.bytes, at: 0 });
        // They were checked: none is missing unless the file has changed since.
        (0..self.len).map_while(move |_| walk.value("", kind, &mut 0).ok())
    }
}

impl Header {
    /// Reads the header of a file with these bytes.
    pub(super) fn read(bytes: &[u8]) -> Result<Header, Error> {
        if bytes.get(..4) != Some(b"GGUF") {
            return Err(Error::new("not a GGUF file: it does not begin with the letters GGUF"));
        }
        let mut walk = Walk { bytes, at: 4 };
        let version = walk.u32("version")?;
        if version != 2 && version != 3 {
            return Err(Error::new(format!("GGUF version {version} is not supported; accepted are 2 and 3")));
        }
        let count = walk.u64("tensor count")?;
        let pairs = walk.u64("metadata count")?;
        if count > MOST_TENSORS {
            return Err(Error::new(format!("{count} tensors are more than the {MOST_TENSORS} accepted")));
        }
        if pairs > MOST_PAIRS {
            return Err(Error::new(format!("{pairs} metadata entries are more than the {MOST_PAIRS} accepted")));
        }
        let (mut elements, mut alignment) = (0, 32);
        let mut metadata = HashMap::new();
        for _ in 0..pairs {
            let key = walk.string("metadata key")?;
            let kind = walk.u32(key)?;
            let start = walk.at;
            if metadata.contains_key(key) {
                return Err(Error::new(format!("metadata {key} occurs twice")));
            }
            if key == "general.alignment" {
                alignment = if kind == 4 { u64::from(walk.u32(key)?) } else { 0 };
                if !alignment.is_power_of_two() || alignment > MOST_ALIGNMENT {
                    return Err(Error::new(format!(
                        "metadata general.alignment must be a u32 and a power of two up to {MOST_ALIGNMENT}"
                    )));
                }
            } else if let Value::List(list) = walk.value(key, kind, &mut elements)?
                && matches!(list.kind, BOOL | STRING)
            {
                // Of other types every bit pattern is a value.
                let mut inside = Walk { bytes: &bytes[..walk.at], at: walk.at - list.bytes.len() };
                for _ in 0..list.len {
                    inside.value(key, list.kind, &mut 0)?;
                }
            }
            metadata.insert(key.into(), Field { kind, range: start..walk.at });
        }
        let mut tensors = HashMap::new();
        for _ in 0..count {
            let (name, tensor) = walk.tensor(alignment)?;
            if tensors.insert(Box::from(name), tensor).is_some() {
                return Err(Error::new(format!("tensor {name} occurs twice")));
            }
        }
        Ok(Header { metadata, tensors, data: (walk.at as u64).next_multiple_of(alignment) })
    }

    /// The value under `key` in the file with these bytes, whose header this is.
    pub(super) fn get<'a>(&self, bytes: &'a [u8], key: &str) -> Option<Value<'a>> {
        let field = self.metadata.get(key)?;
        Walk { bytes: bytes.get(field.range.clone())?, at: 0 }.value(key, field.kind, &mut 0).ok()
    }
}

#[derive(Clone)]
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    #[inline]
    fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = usize::try_from(len).ok().and_then(|len| rest.get(..len)) else {
            let (at, left) = (self.at, rest.len());
            return Err(Error::new(format!(
                "the file ends within {what}: {len} bytes needed at byte {at}, {left} left"
            )));
        };
        self.at += taken.len();
        Ok(taken)
    }

    #[inline]
    fn number<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        Ok(self.take(N as u64, what)?.first_chunk().copied().unwrap_or([0; N]))
    }

    fn u32(&mut self, what: &str) -> Result<u32, Error> {
        self.number(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Error> {
        self.number(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<&'a str, Error> {
        let len = self.u64(what)?;
        let at = self.at;
        // Some converters end strings with a NUL.
        std::str::from_utf8(self.take(len, what)?)
            .map(|text| text.trim_end_matches('\0'))
            .map_err(|_| Error::new(format!("a string in {what} at byte {at} is not valid UTF-8")))
    }

    /// A value of a type. The elements of a list are counted and not looked at, but for where they end.
    fn value(&mut self, key: &str, kind: u32, elements: &mut u64) -> Result<Value<'a>, Error> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.number(key)?)),
            1 => Value::I8(i8::from_le_bytes(self.number(key)?)),
            2 => Value::U16(u16::from_le_bytes(self.number(key)?)),
            3 => Value::I16(i16::from_le_bytes(self.number(key)?)),
            4 => Value::U32(u32::from_le_bytes(self.number(key)?)),
            5 => Value::I32(i32::from_le_bytes(self.number(key)?)),
            6 => Value::F32(f32::from_le_bytes(self.number(key)?)),
            BOOL => match self.number(key)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    return Err(Error::new(format!("metadata {key} has a bool of {other}, which is neither 0 nor 1")));
                }
            },
            STRING => Value::Text(self.string(key)?),
            ARRAY => {
                let kind = self.u32(key)?;
                let len = self.u64(key)?;
                *elements = elements.saturating_add(len);
                if *elements > MOST_ELEMENTS {
                    return Err(Error::new(format!(
                        "metadata {key}: arrays of more than {MOST_ELEMENTS} elements in all are not accepted"
                    )));
                }
                let start = self.at;
                match kind {
                    STRING => {
                        for _ in 0..len {
                            let bytes = self.u64(key)?;
                            self.take(bytes, key)?;
                        }
                    }
                    ARRAY => {
                        return Err(Error::new(format!("metadata {key} is an array of arrays, which is not accepted")));
                    }
                    _ => {
                        self.take(len * scalar_bytes(key, kind)?, key)?;
                    }
                }
                // At most MOST_ELEMENTS.
                Value::List(List { kind, len: len as usize, bytes: &self.bytes[start..self.at] })
            }
            10 => Value::U64(u64::from_le_bytes(self.number(key)?)),
            11 => Value::I64(i64::from_le_bytes(self.number(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.number(key)?)),
            _ => return Err(unknown(key, kind)),
        })
    }

    fn tensor(&mut self, alignment: u64) -> Result<(&'a str, Tensor), Error> {
        let name = self.string("tensor name")?;
        let dimensions = self.u32(name)?;
        if !(1..=4).contains(&dimensions) {
            return Err(Error::new(format!("tensor {name} has {dimensions} dimensions; accepted are 1 to 4")));
        }
        let mut numbers: u64 = 1;
        let mut sizes = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let size = self.u64(name)?;
            // 2^48 numbers keep every later product of sizes far from overflow.
            numbers = match numbers.checked_mul(size) {
                Some(n) if (1..=1 << 48).contains(&n) => n,
                _ => return Err(Error::new(format!("tensor {name} has a size of {size} among its dimensions"))),
            };
            sizes.push(size as usize);
        }
        // The file has the contiguous one first.
        sizes.reverse();
        let format = self.u32(name)?;
        // The formats that have a name; `Gguf::format` says which of them a model may use.
        if !matches!(format, 0..=3 | 6..=15 | 30) {
            return Err(Error::new(format!(
                "tensor {name} is in GGML format number {format}; accepted are F32, F16, BF16, Q8_0 and Q4_0"
            )));
        }
        let offset = self.u64(name)?;
        if !offset.is_multiple_of(alignment) {
            return Err(Error::new(format!("tensor {name} begins at {offset}, which is no multiple of {alignment}")));
        }
        Ok((name, Tensor { sizes, format, offset }))
    }
}

fn scalar_bytes(key: &str, kind: u32) -> Result<u64, Error> {
    match kind {
        0 | 1 | BOOL => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(unknown(key, kind)),
    }
}

fn unknown(key: &str, kind: u32) -> Error {
    Error::new(format!("metadata {key} has the unknown type {kind}"))
}
