//! The pieces of a vocabulary: their texts and kinds, and the id of a text.
//!
//! The texts lie in one mapping with offsets, and beside them an open-addressing table of ids, not a `HashMap<String, u32>`: a quarter of a million small
//! allocations would land in the server's allocator. A slot of the table holds an id and eleven bits of the text's hash, so that a text that is no piece
//! seldom costs a look at another's.

use super::Kind;
use crate::Error;
use crate::memory::{MappedVec, fetch};
use std::hash::{BuildHasher, RandomState};

/// Texts that are asked for before they are looked for.
pub(super) const GROUP: usize = 16;
/// More pieces than any vocabulary has; bounds what a file can make the tokenizer allocate.
pub(super) const MAX_PIECES: usize = 1 << 20;
/// Bits of the number of a symbol: as many as pieces, and nearly as many again for characters that are none.
pub(super) const ID_BITS: u32 = 21;
const ID_MASK: u32 = (1 << ID_BITS) - 1;

/// A keyed hash, so that no file can choose pieces or pairs that all collide: the folded product with a secret number, which takes a piece in a few
/// cycles where SipHash takes twenty nanoseconds.
#[derive(Clone, Copy)]
pub(super) struct Mixer {
    start: u64,
    factor: u64,
}

impl Mixer {
    pub(super) fn new() -> Mixer {
        let random = RandomState::new();
        Mixer { start: random.hash_one(0u8), factor: random.hash_one(1u8) | 1 }
    }

    fn fold(self, word: u64) -> u64 {
        let product = u128::from(word) * u128::from(self.factor);
        product as u64 ^ (product >> 64) as u64
    }

    pub(super) fn word(self, word: u64) -> u64 {
        self.fold(word ^ self.start)
    }

    fn bytes(self, bytes: &[u8]) -> u64 {
        let mut hash = self.start ^ bytes.len() as u64;
        // The last word overlaps the one before it; a text shorter than a word is read as two halves that may overlap.
        let last = if let Some(last) = bytes.last_chunk::<8>() {
            let (words, _) = bytes[..bytes.len() - 1].as_chunks::<8>();
            for word in words {
                hash = self.fold(hash ^ u64::from_le_bytes(*word));
            }
            u64::from_le_bytes(*last)
        } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32
        } else {
            bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
        };
        self.fold(hash ^ last)
    }
}

/// The pieces by their ids.
pub(super) struct Pieces {
    /// All texts, one after the other.
    text: MappedVec<u8>,
    /// Piece `i` is `text[offsets[i]..offsets[i + 1]]`.
    offsets: MappedVec<u32>,
    kinds: MappedVec<u8>,
    /// Open addressing with linear probing, at most half full: some of the hash above the id + 1, or 0 for a free slot.
    table: MappedVec<u32>,
    mixer: Mixer,
}

impl Pieces {
    /// Texts and kinds in the order of their ids. A text that occurs twice belongs to its lowest id; an empty one is never found.
    pub(super) fn new<'a, T: AsRef<str>>(
        pieces: impl Iterator<Item = (T, Kind)> + Clone + 'a,
    ) -> Result<Pieces, Error> {
        let (count, len) =
            pieces.clone().fold((0, 0), |(count, len), (text, _)| (count + 1, len + text.as_ref().len()));
        if count == 0 || count > MAX_PIECES {
            return Err(Error::new(format!(
                "the tokenizer's vocabulary has {count} pieces; 1 to {MAX_PIECES} are accepted"
            )));
        }
        if u32::try_from(len).is_err() {
            return Err(Error::new("the tokenizer's pieces are longer than 4 GiB together"));
        }
        let mut made = Pieces {
            text: MappedVec::zeroed(len)?,
            offsets: MappedVec::zeroed(count + 1)?,
            kinds: MappedVec::zeroed(count)?,
            table: MappedVec::zeroed((count * 2).next_power_of_two())?,
            mixer: Mixer::new(),
        };
        let mut end = 0;
        for (id, (text, kind)) in pieces.enumerate() {
            let text = text.as_ref().as_bytes();
            made.text[end..end + text.len()].copy_from_slice(text);
            end += text.len();
            made.offsets[id + 1] = end as u32;
            made.kinds[id] = kind as u8;
        }
        let mut hashes = Vec::with_capacity(GROUP);
        for first in (0..count as u32).step_by(GROUP) {
            let group = first..(first + GROUP as u32).min(count as u32);
            hashes.clear();
            hashes.extend(group.clone().map(|id| made.ask(made.bytes(id))));
            for (id, hash) in group.zip(&hashes) {
                if let Err((slot, tag)) = made.search(*hash, made.bytes(id)) {
                    made.table[slot] = tag | (id + 1);
                }
            }
        }
        Ok(made)
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The text of a piece, empty if there is no such id.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let bound = |index: usize| self.offsets.get(index).map_or(0, |&offset| offset as usize);
        self.text.get(bound(id as usize)..bound(id as usize + 1)).unwrap_or_default()
    }

    /// As [`bytes`](Self::bytes); every piece was a string.
    pub(super) fn text(&self, id: u32) -> &str {
        std::str::from_utf8(self.bytes(id)).unwrap_or_default()
    }

    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        let number = usize::from(*self.kinds.get(id as usize)?);
        Kind::ALL.get(number).copied()
    }

    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        self.search(self.mixer.bytes(text), text).ok()
    }

    /// The hash of a text that will be looked for. The table is larger than the nearer caches, so whoever has many texts to look for
    /// asks for [`GROUP`] of them first.
    pub(super) fn ask(&self, text: &[u8]) -> u64 {
        let hash = self.mixer.bytes(text);
        fetch(&self.table[hash as usize & (self.table.len() - 1)]);
        hash
    }

    /// As [`find`](Self::find), for a text that was asked for.
    pub(super) fn find_asked(&self, hash: u64, text: &[u8]) -> Option<u32> {
        self.search(hash, text).ok()
    }

    /// The id, or the free slot in which it would be and what stands above the id there.
    fn search(&self, hash: u64, text: &[u8]) -> Result<u32, (usize, u32)> {
        let tag = (hash >> 32) as u32 & !ID_MASK;
        let mask = self.table.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            let taken = self.table[slot];
            if taken == 0 {
                return Err((slot, tag));
            }
            let id = (taken & ID_MASK) - 1;
            if taken & !ID_MASK == tag && self.bytes(id) == text && !text.is_empty() {
                return Ok(id);
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// Pieces that are kept whole wherever a text spells them.
pub(super) struct Whole {
    /// In the order of their bytes.
    ids: Vec<u32>,
    /// For each first byte: where its pieces begin and end in `ids`, and how many bytes they all have in common.
    first: Box<[(u32, u32, u32)]>,
}

impl Whole {
    pub(super) fn new(pieces: &Pieces, mut ids: Vec<u32>) -> Whole {
        ids.sort_by(|a, b| pieces.bytes(*a).cmp(pieces.bytes(*b)));
        let mut first = vec![(0, 0, 0); 256].into_boxed_slice();
        let mut start = 0;
        for group in ids.chunk_by(|a, b| pieces.bytes(*a).first() == pieces.bytes(*b).first()) {
            if let [low, .., high] | [low @ high] = group
                && let Some(byte) = pieces.bytes(*low).first()
            {
                let common = pieces.bytes(*low).iter().zip(pieces.bytes(*high)).take_while(|(a, b)| a == b).count();
                first[usize::from(*byte)] = (start, start + group.len() as u32, common as u32);
            }
            start += group.len() as u32;
        }
        Whole { ids, first }
    }

    /// Whether a piece begins with this byte.
    pub(super) fn begins(&self, byte: u8) -> bool {
        let (start, end, _) = self.first[usize::from(byte)];
        start < end
    }

    /// The longest of them that `text` begins with. Narrows the range of those that share what was read so far, byte by byte.
    pub(super) fn longest(&self, pieces: &Pieces, text: &[u8]) -> Option<u32> {
        let (start, end, common) = self.first[usize::from(*text.first()?)];
        let mut range = self.ids.get(start as usize..end as usize)?;
        let common = common as usize;
        let shared = pieces.bytes(*range.first()?).get(..common)?;
        if !text.starts_with(shared) {
            return None;
        }
        let mut found = range.first().copied().filter(|id| pieces.bytes(*id).len() == common);
        for (depth, byte) in text.iter().copied().enumerate().skip(common) {
            let at = |id: &u32| pieces.bytes(*id).get(depth).copied();
            range = &range[range.partition_point(|id| at(id) < Some(byte))..];
            range = &range[..range.partition_point(|id| at(id) <= Some(byte))];
            let Some(first) = range.first() else { break };
            if pieces.bytes(*first).len() == depth + 1 {
                found = Some(*first);
            }
            if range.len() == 1 && found == Some(*first) {
                break;
            }
        }
        found
    }
}
