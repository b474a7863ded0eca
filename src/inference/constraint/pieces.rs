//! A vocabulary by the bytes that its pieces write, and which of them a machine lets through.
//!
//! All pieces form one trie, laid out in the order of a walk through it: three words per node (byte and depth, where its subtree ends, where its tokens
//! end), so a walk reads memory from left to right and leaves out a subtree by one jump. A state inside a string would walk nearly all of it, for nearly
//! every piece may follow there. So pieces without a quote, a backslash, a control character or half a character, which such a state takes or leaves by
//! their length alone, are known as a set, and a second trie holds only the others.
//!
//! Both lie in mappings of their own, and so does what they are made from: 9 MB for a vocabulary of a quarter of a million, made in 0.14 s.
//!
//! Rejected: trying the pieces in the order of their logits until enough are allowed. It is cheaper where the model follows the schema by itself, and
//! walks the whole vocabulary, piece by piece, where it does not, which is when the constraint matters.

use super::machine::{Machine, Room, Thread};
use crate::Error;
use crate::memory::MappedVec;
use crate::tokenizer::{Kind, Tokenizer};

/// Bytes of a piece that is used. Longer ones are runs of blanks and the like.
const LONGEST: usize = 128;
/// Words of a node.
const WORDS: usize = 3;

/// The pieces of one vocabulary.
pub struct Pieces {
    all: Trie,
    /// Those that a string takes or leaves by more than their length.
    special: Trie,
    /// For each other piece its bytes and characters, 16 bits each; 0 for special ones and those that are never written.
    lengths: MappedVec<u32>,
    /// The other pieces as a set.
    plain: MappedVec<u32>,
    /// What ends an answer.
    ends: Vec<u32>,
}

struct Trie {
    nodes: MappedVec<u32>,
    tokens: MappedVec<u32>,
}

/// What the pieces write, while the tries are made.
struct Texts {
    bytes: MappedVec<u8>,
    /// Piece `id` writes `bytes[starts[id]..starts[id + 1]]`.
    starts: MappedVec<u32>,
}

impl Texts {
    fn of(&self, id: u32) -> &[u8] {
        let bound = |i: usize| self.starts.get(i).map_or(0, |&start| start as usize);
        self.bytes.get(bound(id as usize)..bound(id as usize + 1)).unwrap_or_default()
    }
}

/// What a walk needs between calls: the readings at each depth.
#[derive(Default)]
pub(super) struct Walk {
    levels: Vec<Vec<Thread>>,
}

impl Pieces {
    /// The pieces of a vocabulary. One without pieces for single bytes is refused: it may lack what a schema spells out.
    pub fn new(tokenizer: &Tokenizer) -> Result<Pieces, Error> {
        let size = u32::try_from(tokenizer.vocabulary_size()).unwrap_or(u32::MAX);
        let written = |id: u32| tokenizer.written(id).filter(|bytes| (1..=LONGEST).contains(&bytes.len()));
        let (mut singles, mut used, mut total) = (0, 0, 0);
        for id in 0..size {
            singles += usize::from(tokenizer.kind(id) == Some(Kind::Byte));
            if let Some(bytes) = written(id) {
                (used, total) = (used + 1, total + bytes.len());
            }
        }
        if singles < 256 {
            return Err(Error::new(
                "the model's vocabulary has no pieces for single bytes, which FORMAT and SCHEMA need",
            ));
        }
        let mut texts = Texts { bytes: MappedVec::zeroed(total)?, starts: MappedVec::zeroed(size as usize + 1)? };
        let mut order = MappedVec::<u32>::zeroed(used)?;
        let mut lengths = MappedVec::zeroed(size as usize)?;
        let mut plain = MappedVec::zeroed((size as usize).div_ceil(32))?;
        let (mut start, mut slots) = (0, order.iter_mut());
        for id in 0..size {
            if let Some(bytes) = written(id)
                && let Some(slot) = slots.next()
            {
                *slot = id;
                texts.bytes[start..start + bytes.len()].copy_from_slice(&bytes);
                start += bytes.len();
                let text = std::str::from_utf8(&bytes).ok();
                let text = text.filter(|text| !text.bytes().any(|b| b < 0x20 || b == b'"' || b == b'\\'));
                if let Some(text) = text {
                    lengths[id as usize] = (text.chars().count() as u32) << 16 | text.len() as u32;
                    plain[id as usize / 32] |= 1 << (id % 32);
                }
            }
            texts.starts[id as usize + 1] = start as u32;
        }
        // Of pieces that write the same, one that is no byte is found first.
        let key = |id: &u32| (texts.of(*id), tokenizer.kind(*id) == Some(Kind::Byte), *id);
        order.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        let all = Trie::new(&texts, || order.iter().copied())?;
        let special = Trie::new(&texts, || order.iter().copied().filter(|id| lengths[*id as usize] == 0))?;
        let ends = tokenizer.ends().to_vec();
        Ok(Pieces { all, special, lengths, plain, ends })
    }

    /// Words of a set of pieces.
    pub(super) fn words(&self) -> usize {
        self.plain.len()
    }

    /// The pieces that end an answer.
    pub(super) fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The set of pieces whose bytes may follow.
    pub(super) fn allowed(&self, machine: &Machine, threads: &[Thread], walk: &mut Walk, set: &mut [u32]) {
        set.fill(0);
        let mut others = Vec::new();
        for thread in threads {
            let room = machine.room(thread);
            match room {
                Room::Characters(room) if room > LONGEST as u32 => {
                    set.iter_mut().zip(self.plain.iter()).for_each(|(to, plain)| *to |= plain);
                }
                Room::Characters(room) => self.shorter(set, |length| length >> 16 <= room),
                Room::Bytes(room) => self.shorter(set, |length| (length & 0xffff) as usize <= room),
                Room::None => {}
            }
            if matches!(room, Room::None | Room::Bytes(0)) {
                others.push(thread.clone());
            } else {
                self.special.walk(machine, std::slice::from_ref(thread), walk, set);
            }
        }
        if !others.is_empty() {
            self.all.walk(machine, &others, walk, set);
        }
    }

    fn shorter(&self, set: &mut [u32], fits: impl Fn(u32) -> bool) {
        for (to, lengths) in set.iter_mut().zip(self.lengths.chunks(32)) {
            for (bit, &length) in lengths.iter().enumerate() {
                *to |= u32::from(length > 0 && fits(length)) << bit;
            }
        }
    }

    /// The bytes as pieces, the longest that fits first; all 256 bytes are pieces, so there always is one.
    pub(super) fn spell(&self, mut bytes: &[u8]) -> Vec<u32> {
        let mut tokens = Vec::new();
        while let Some((token, len)) = self.all.longest(bytes) {
            tokens.push(token);
            bytes = bytes.get(len..).unwrap_or_default();
        }
        tokens
    }
}

impl Trie {
    /// A trie of pieces in the order of their bytes. They are read twice: the first time to count.
    fn new<I: Iterator<Item = u32>>(texts: &Texts, pieces: impl Fn() -> I) -> Result<Trie, Error> {
        let common = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let (mut count, mut last): (_, &[u8]) = ([0, 0], &[]);
        for id in pieces() {
            let bytes = texts.of(id);
            count = [count[0] + bytes.len() - common(bytes, last), count[1] + 1];
            last = bytes;
        }
        let mut trie = Trie { nodes: MappedVec::zeroed(count[0] * WORDS)?, tokens: MappedVec::zeroed(count[1])? };
        let (nodes, _) = trie.nodes.as_chunks_mut::<WORDS>();
        // The nodes from the root to the last piece.
        let mut path: Vec<usize> = Vec::new();
        let mut made = 0;
        last = &[];
        for (place, id) in pieces().enumerate() {
            let bytes = texts.of(id);
            for closed in path.drain(common(bytes, last)..) {
                nodes[closed][1] = made as u32;
            }
            for (depth, byte) in bytes.iter().enumerate().skip(path.len()) {
                path.push(made);
                nodes[made] = [u32::from(*byte) | (depth as u32) << 8, 0, place as u32];
                made += 1;
            }
            trie.tokens[place] = id;
            if let Some(node) = path.last() {
                nodes[*node][2] = place as u32 + 1;
            }
            last = bytes;
        }
        for closed in path {
            nodes[closed][1] = made as u32;
        }
        Ok(trie)
    }

    fn node(&self, index: usize) -> Option<(u8, usize, usize, std::ops::Range<usize>)> {
        let (nodes, _) = self.nodes.as_chunks::<WORDS>();
        let [label, end, to] = *nodes.get(index)?;
        let from = index.checked_sub(1).and_then(|before| nodes.get(before)).map_or(0, |before| before[2]);
        Some((label as u8, (label >> 8) as usize, end as usize, from as usize..to as usize))
    }

    /// Adds to `set` the pieces that may follow.
    fn walk(&self, machine: &Machine, threads: &[Thread], walk: &mut Walk, set: &mut [u32]) {
        walk.levels.resize_with(LONGEST + 1, Vec::new);
        if let Some(first) = walk.levels.first_mut() {
            first.clear();
            first.extend_from_slice(threads);
        }
        let mut index = 0;
        while let Some((byte, depth, end, tokens)) = self.node(index) {
            let Some([from, to]) = walk.levels.get_disjoint_mut([depth, depth + 1]).ok() else { return };
            machine.step(from, byte, to);
            if to.is_empty() {
                index = end;
                continue;
            }
            for &token in self.tokens.get(tokens).unwrap_or_default() {
                if let Some(word) = set.get_mut(token as usize / 32) {
                    *word |= 1 << (token % 32);
                }
            }
            index += 1;
        }
    }

    /// The longest piece that these bytes begin with, and its length.
    fn longest(&self, bytes: &[u8]) -> Option<(u32, usize)> {
        let (mut index, mut depth, mut end, mut found) = (0, 0, usize::MAX, None);
        while index < end
            && let Some((byte, _, after, tokens)) = self.node(index)
            && let Some(wanted) = bytes.get(depth)
        {
            if byte != *wanted {
                index = after;
                continue;
            }
            depth += 1;
            found = self.tokens.get(tokens).and_then(|t| t.first()).map(|&token| (token, depth)).or(found);
            (index, end) = (index + 1, after);
        }
        found
    }
}
