//! Values: what an argument accepts, how it is converted, and how a sentence speaks of either.

use std::ops::Bound;

use engram_memory::{MemoryId, limits};
use serde_json::Map;

/// A JSON object.
pub type Object = Map<String, serde_json::Value>;
/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A key: any bytes.
    Key,
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Blob,
    /// A vector as little-endian 32-bit floats, all finite.
    Vector,
    /// One component of a vector, finite.
    Component,
    /// An integer within these bounds, both included.
    Int(i64, i64),
    /// Unix milliseconds.
    Millis,
    /// A finite number within these bounds, both included.
    Float(f64, f64),
    /// One of these words, in any case.
    Choice(&'static [&'static str]),
    /// A memory id, `<ms>-<seq>`.
    Id,
    /// A memory id, or 0 for the start.
    Cursor,
    /// An end of a range of times: `-`, `+`, milliseconds, `(` before them to exclude them.
    Bound,
    /// A JSON object.
    Object,
    /// No value: the token alone says it.
    Flag,
}
/// A value, converted.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item<'a> {
    Flag,
    Bytes(&'a [u8]),
    Text(&'a str),
    Int(i64),
    Float(f64),
    Id(MemoryId),
    Bound(Bound<u64>),
    Object(Object),
    Vector(Vec<f32>),
    Texts(Vec<&'a str>),
    Ids(Vec<MemoryId>),
    Objects(Vec<Object>),
    Row(Vec<Item<'a>>),
    Rows(Vec<Vec<Item<'a>>>),
}
/// Whether `word` is this keyword, in any case.
pub(super) fn is_token(token: &str, word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(token.as_bytes())
}

/// Converts one value, or says what it is and what is accepted.
pub(super) fn convert(kind: Kind, word: &[u8]) -> Result<Item<'_>, String> {
    let refused = || format!("'{}': accepted is {}", printable(word), accepted(kind));
    let text = || {
        std::str::from_utf8(word)
            .map_err(|e| format!("not valid UTF-8: byte {} of {} is wrong", e.valid_up_to() + 1, word.len()))
    };
    Ok(match kind {
        Kind::Key | Kind::Blob => Item::Bytes(word),
        Kind::Flag => Item::Flag,
        Kind::Text => Item::Text(text()?),
        Kind::Choice(words) => Item::Text(words.iter().find(|w| is_token(w, word)).copied().ok_or_else(refused)?),
        Kind::Int(min, max) => Item::Int(integer(word).filter(|n| (min..=max).contains(n)).ok_or_else(refused)?),
        Kind::Millis => Item::Int(time(word).ok_or_else(refused)?),
        Kind::Float(min, max) => {
            let number = std::str::from_utf8(word).ok().and_then(|t| t.parse::<f64>().ok());
            Item::Float(number.filter(|f| (min..=max).contains(f)).ok_or_else(refused)?)
        }
        Kind::Component => {
            let number = std::str::from_utf8(word).ok().and_then(|t| t.parse::<f32>().ok());
            Item::Float(f64::from(number.filter(|f| f.is_finite()).ok_or_else(refused)?))
        }
        Kind::Vector => Item::Vector(vector(word)?),
        Kind::Id => Item::Id(id(word).ok_or_else(refused)?),
        Kind::Cursor if word == b"0" => Item::Id(MemoryId::ZERO),
        Kind::Cursor => Item::Id(id(word).ok_or_else(refused)?),
        Kind::Bound => Item::Bound(match word {
            b"-" => Bound::Included(0),
            b"+" => Bound::Included(u64::MAX),
            [b'(', rest @ ..] => Bound::Excluded(time(rest).ok_or_else(refused)?.unsigned_abs()),
            _ => Bound::Included(time(word).ok_or_else(refused)?.unsigned_abs()),
        }),
        Kind::Object => match serde_json::from_str(text()?) {
            Ok(serde_json::Value::Object(object)) => Item::Object(object),
            Ok(_) => return Err(refused()),
            Err(e) => return Err(format!("not valid JSON ({e}): accepted is {}", accepted(kind))),
        },
    })
}

fn integer(word: &[u8]) -> Option<i64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn time(word: &[u8]) -> Option<i64> {
    integer(word).filter(|ms| u64::try_from(*ms).is_ok_and(|ms| ms <= limits::TIME_MS))
}

fn id(word: &[u8]) -> Option<MemoryId> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// A blob of little-endian 32-bit floats.
fn vector(word: &[u8]) -> Result<Vec<f32>, String> {
    let (numbers, rest) = word.as_chunks::<4>();
    if numbers.is_empty() || !rest.is_empty() {
        return Err(format!("{} bytes long: accepted is a multiple of 4, little-endian 32-bit floats", word.len()));
    }
    if numbers.len() > limits::DIMENSIONS {
        return Err(format!("a vector of {} components: at most {} are accepted", numbers.len(), limits::DIMENSIONS));
    }
    let vector: Vec<f32> = numbers.iter().map(|n| f32::from_le_bytes(*n)).collect();
    match vector.iter().position(|f| !f.is_finite()) {
        Some(i) => Err(format!("not all finite: component {} of {} is {}", i + 1, vector.len(), vector[i])),
        None => Ok(vector),
    }
}

/// What a kind accepts, for a sentence.
pub fn accepted(kind: Kind) -> String {
    match kind {
        Kind::Key => "a key".to_owned(),
        Kind::Text => "UTF-8 text".to_owned(),
        Kind::Blob => "any bytes".to_owned(),
        Kind::Vector => format!("little-endian 32-bit floats, 1 to {} of them", limits::DIMENSIONS),
        Kind::Component => "a finite 32-bit float".to_owned(),
        Kind::Int(min, i64::MAX) => format!("an integer, at least {min}"),
        Kind::Int(min, max) => format!("an integer from {min} to {max}"),
        Kind::Millis => format!("Unix milliseconds, from 0 to {}", limits::TIME_MS),
        Kind::Float(min, max) => format!("a number from {min} to {max}"),
        Kind::Choice(words) => format!("one of {}", words.join(", ")),
        Kind::Id => "a memory id, <milliseconds>-<number>".to_owned(),
        Kind::Cursor => "0 to begin, or the cursor of the last reply".to_owned(),
        Kind::Bound => "Unix milliseconds, ( before them to exclude them, - or +".to_owned(),
        Kind::Object => "a JSON object".to_owned(),
        Kind::Flag => "no value".to_owned(),
    }
}

/// Bytes as a sentence shows them: one printable line of at most 64 characters.
pub fn printable(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    // Four bytes a character at most: the rest need not be looked at.
    let head = &bytes[..bytes.len().min(4 * SHOWN + 4)];
    let text = String::from_utf8_lossy(head);
    let mut shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if head.len() < bytes.len() || text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// The word a typing mistake away from `word`, if there is one.
pub(super) fn nearest<'w>(word: &str, words: &[&'w str]) -> Option<&'w str> {
    if word.len() > 64 {
        return None;
    }
    let ranked = words.iter().map(|w| (distance(word, w), *w)).min_by_key(|(d, _)| *d)?;
    (ranked.0 <= 1 + ranked.1.len() / 4).then_some(ranked.1)
}

/// Edits between two words: insertions, deletions, replacements, and swaps of neighbours (optimal string alignment).
pub(super) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
