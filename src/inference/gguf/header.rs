//! The walk over a GGUF header that makes it safe to hand to candle.
//!
//! Layout (little endian): magic `GGUF`, u32 version, u64 tensors, u64 pairs; each pair a string key, u32 type, value; each
//! tensor a string name, u32 dimensions, u64 sizes, u32 type, u64 offset; padding to the alignment; the data. A string is a
//! u64 length and bytes; an array is a u32 type, u64 length and its elements.

use std::collections::HashSet;

use crate::Error;

/// More tensors than any model of the family has.
const MOST_TENSORS: u64 = 1 << 16;
/// More metadata pairs than any converter writes.
const MOST_PAIRS: u64 = 1 << 14;
/// Elements of all metadata arrays together: eight vocabularies of 262,144 pieces with three arrays each. At 24 bytes each
/// they take at most 150 MB while the file is being read.
const MOST_ELEMENTS: u64 = 6 << 20;
/// The largest alignment of tensor data; converters write 32.
const MOST_ALIGNMENT: u64 = 1 << 16;

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Checks everything that candle's reader takes on trust.
pub(super) fn check(bytes: &[u8]) -> Result<(), Error> {
    let mut walk = Walk { bytes, at: 0 };
    if bytes.get(..4) != Some(b"GGUF") {
        return Err(Error::new("not a GGUF file: it does not begin with the letters GGUF"));
    }
    walk.at = 4;
    let version = walk.u32("version")?;
    if version != 2 && version != 3 {
        return Err(Error::new(format!("GGUF version {version} is not supported; accepted are 2 and 3")));
    }
    let tensors = walk.u64("tensor count")?;
    let pairs = walk.u64("metadata count")?;
    if tensors > MOST_TENSORS {
        return Err(Error::new(format!("{tensors} tensors are more than the {MOST_TENSORS} accepted")));
    }
    if pairs > MOST_PAIRS {
        return Err(Error::new(format!("{pairs} metadata entries are more than the {MOST_PAIRS} accepted")));
    }
    let mut elements = 0;
    let mut alignment = 32;
    let mut names = HashSet::new();
    for _ in 0..pairs {
        let key = walk.string("metadata key")?;
        if !names.insert(key) {
            return Err(Error::new(format!("metadata {key} occurs twice")));
        }
        let kind = walk.u32(key)?;
        if key == "general.alignment" {
            let value = if kind == 4 { u64::from(walk.u32(key)?) } else { 0 };
            if !value.is_power_of_two() || value > MOST_ALIGNMENT {
                return Err(Error::new(format!(
                    "metadata general.alignment must be a u32 and a power of two up to {MOST_ALIGNMENT}"
                )));
            }
            alignment = value;
        } else {
            walk.value(key, kind, &mut elements)?;
        }
    }
    names.clear();
    for _ in 0..tensors {
        walk.tensor(&mut names, alignment)?;
    }
    Ok(())
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len)).ok_or_else(|| {
            let (at, left) = (self.at, rest.len());
            Error::new(format!("the file ends within {what}: {len} bytes needed at byte {at}, {left} left"))
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Error> {
        let bytes = self.take(4, what)?;
        Ok(bytes.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b)))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Error> {
        let bytes = self.take(8, what)?;
        Ok(bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    fn string(&mut self, what: &str) -> Result<&'a str, Error> {
        let len = self.u64(what)?;
        let at = self.at;
        std::str::from_utf8(self.take(len, what)?)
            .map_err(|_| Error::new(format!("a string in {what} at byte {at} is not valid UTF-8")))
    }

    fn value(&mut self, key: &str, kind: u32, elements: &mut u64) -> Result<(), Error> {
        match kind {
            STRING => self.string(key).map(|_| ()),
            ARRAY => {
                let kind = self.u32(key)?;
                let len = self.u64(key)?;
                *elements = elements.saturating_add(len);
                if *elements > MOST_ELEMENTS {
                    return Err(Error::new(format!(
                        "metadata {key}: arrays of more than {MOST_ELEMENTS} elements in all are not accepted"
                    )));
                }
                match kind {
                    STRING => (0..len).try_for_each(|_| self.string(key).map(|_| ())),
                    ARRAY => Err(Error::new(format!("metadata {key} is an array of arrays, which is not accepted"))),
                    _ => self.take(len * scalar_bytes(key, kind)?, key).map(|_| ()),
                }
            }
            _ => self.take(scalar_bytes(key, kind)?, key).map(|_| ()),
        }
    }

    fn tensor(&mut self, names: &mut HashSet<&'a str>, alignment: u64) -> Result<(), Error> {
        let name = self.string("tensor name")?;
        if !names.insert(name) {
            return Err(Error::new(format!("tensor {name} occurs twice")));
        }
        let dimensions = self.u32(name)?;
        if !(1..=4).contains(&dimensions) {
            return Err(Error::new(format!("tensor {name} has {dimensions} dimensions; accepted are 1 to 4")));
        }
        let mut numbers: u64 = 1;
        for _ in 0..dimensions {
            let size = self.u64(name)?;
            // 2^48 numbers keep every later product of sizes far from overflow.
            numbers = match numbers.checked_mul(size) {
                Some(n) if (1..=1 << 48).contains(&n) => n,
                _ => return Err(Error::new(format!("tensor {name} has a size of {size} among its dimensions"))),
            };
        }
        let kind = self.u32(name)?;
        // The formats that candle knows by name; `Gguf::format` says which of them a model may use.
        if !matches!(kind, 0..=3 | 6..=15 | 30) {
            return Err(Error::new(format!(
                "tensor {name} is in GGML format number {kind}; accepted are F32, F16, BF16, Q8_0 and Q4_0"
            )));
        }
        let offset = self.u64(name)?;
        if !offset.is_multiple_of(alignment) {
            return Err(Error::new(format!("tensor {name} begins at {offset}, which is no multiple of {alignment}")));
        }
        Ok(())
    }
}

fn scalar_bytes(key: &str, kind: u32) -> Result<u64, Error> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(Error::new(format!("metadata {key} has the unknown type {kind}"))),
    }
}
