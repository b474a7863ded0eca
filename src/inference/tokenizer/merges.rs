//! Which pairs of symbols merge, in which order, and the merging.
//!
//! A symbol is a piece or a character that is no piece by itself; both have numbers. A pair that merges has a rank (the lowest merges first, the leftmost
//! of equals) and gives a piece. All pairs lie in one open-addressing table of twelve bytes a slot: two numbers of 21 bits with the rank's 22 bits split
//! above them, and the number of the piece. So a step of merging hashes one word, where a table of texts would hash and compare the bytes of both symbols.
//!
//! A stretch of up to [`SHORT`] characters, which is nearly every word, is merged in arrays on the stack by looking for the lowest rank again and again;
//! a longer one in a linked list with a heap of (rank, position), so that a megabyte of one letter takes n log n. An entry of the heap is stale when the
//! pair that begins there now has another rank; when it has the same one, the entry serves as well as a new one.
//!
//! [`Merges::joined`] says where a text can be cut: a merge brings the last byte of its left part beside the first byte of its right one, so where no
//! merge does so for the two bytes at hand, nothing is ever merged across. It needs 8 KB. `▁` counts as a byte of its own where it is the second, because
//! the first byte of its three also begins quotation marks and dashes, and the places before `▁` are where words begin.
//!
//! Rejected: a cache of words in each thread. It needs a bound, an eviction and a place to live, and knowing which pieces come out of their own text,
//! two bits for each, serves four of five words.

use super::Kind;
use super::pieces::{ID_BITS, Mixer, Pieces};
use crate::Error;
use crate::memory::MappedVec;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// More pairs than any vocabulary has: half a million belong to a quarter of a million pieces.
const MAX_MERGES: usize = 1 << 21;
/// Bytes of the longest piece that may come out of merging where the parts are not listed: every place to cut it is tried.
const MAX_LENGTH: usize = 512;
/// Characters that are merged on the stack.
const SHORT: usize = 32;
const LOW: u32 = (1 << ID_BITS) - 1;
/// Bits of a rank in each of the first two words of a slot.
const RANK_BITS: u32 = 32 - ID_BITS;

/// No symbol: a character that is in no pair, and a place in the list whose symbol was merged away.
const NONE: u32 = u32::MAX;
/// Above the number of a piece that is kept whole.
const FIXED: u32 = 1 << 31;
/// What stands for `▁` where the second byte is looked at; no byte of UTF-8.
const SPACE_BYTE: u8 = 0xff;

/// A pair and what it gives.
struct Merge {
    left: u32,
    right: u32,
    rank: u32,
    piece: u32,
}

pub(super) struct Merges {
    /// `left | rank's low bits`, `right | rank's high bits`, `piece + 1` or 0 for a free slot.
    slots: MappedVec<u32>,
    mixer: Mixer,
    characters: Characters,
    /// For each last byte of a left part, the first bytes of the right ones.
    joins: Box<[[u64; 4]]>,
    /// Whether merging can give an unused piece, which is then taken apart again.
    unused: bool,
}

/// What merging works with, kept from one stretch of a text to the next.
#[derive(Default)]
pub(super) struct Scratch {
    list: Vec<Symbol>,
    heap: BinaryHeap<Reverse<u64>>,
    /// What an unused piece was last made from.
    parts: HashMap<u32, (u32, u32)>,
}

/// A place in the doubly linked list.
struct Symbol {
    id: u32,
    start: u32,
    previous: u32,
    next: u32,
    /// Of the pair that begins here.
    rank: u32,
    piece: u32,
}

/// Whether merging may give the piece.
pub(super) fn can_merge(kind: Option<Kind>) -> bool {
    matches!(kind, Some(Kind::Normal | Kind::UserDefined | Kind::Unused))
}

/// Numbers the symbols of parts while a table is made.
struct Symbols<'a> {
    pieces: &'a Pieces,
    /// Characters that are no piece, or none that merging may give.
    others: HashMap<char, u32>,
}

impl Symbols<'_> {
    fn piece(&self, text: &str) -> Option<u32> {
        self.pieces.find(text.as_bytes()).filter(|id| can_merge(self.pieces.kind(*id)))
    }

    /// The number of a part: a piece or any single character.
    fn number(&mut self, text: &str) -> Option<u32> {
        self.piece(text).or_else(|| {
            let mut characters = text.chars();
            let character = characters.next().filter(|_| characters.next().is_none())?;
            let next = (self.pieces.len() + self.others.len()) as u32;
            Some(*self.others.entry(character).or_insert(next))
        })
    }
}

impl Merges {
    /// SentencePiece's order: any two symbols merge that together spell a piece, the piece of the highest score first.
    pub(super) fn by_score(pieces: &Pieces, scores: &[f32]) -> Result<Merges, Error> {
        let mut order: Vec<u32> = (0..pieces.len() as u32).filter(|id| can_merge(pieces.kind(*id))).collect();
        let score = |id: u32| scores.get(id as usize).map_or(0.0, |score| score + 0.0); // -0 becomes 0: the two are equal
        order.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
        let mut symbols = Symbols { pieces, others: HashMap::new() };
        let mut merges = Vec::new();
        let (mut rank, mut last) = (0, f32::NAN);
        for piece in order {
            if score(piece).total_cmp(&last).is_ne() {
                (rank, last) = (rank + 1, score(piece));
            }
            let text = pieces.text(piece);
            // The same text under a lower id is the piece.
            if symbols.piece(text) != Some(piece) {
                continue;
            }
            if text.len() > MAX_LENGTH {
                return Err(Error::new(format!(
                    "the tokenizer's piece {piece} has {} bytes; up to {MAX_LENGTH} are accepted",
                    text.len()
                )));
            }
            for (cut, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(cut);
                if let Some(left) = symbols.number(left)
                    && let Some(right) = symbols.number(right)
                {
                    merges.push(Merge { left, right, rank, piece });
                }
            }
            if merges.len() > MAX_MERGES {
                break;
            }
        }
        Merges::new(symbols, merges, false)
    }

    /// The order of a list of pairs; a pair that occurs twice has the place of the first. No pair with a newline and anything else is used: texts are cut
    /// there before.
    pub(super) fn by_list<'a>(
        pieces: &Pieces,
        list: impl Iterator<Item = Result<(&'a str, &'a str), Error>>,
    ) -> Result<Merges, Error> {
        let mut symbols = Symbols { pieces, others: HashMap::new() };
        let mut merges = Vec::with_capacity(list.size_hint().0.min(MAX_MERGES));
        let mut whole = String::new();
        for (rank, pair) in (0u32..).zip(list) {
            let (left, right) = pair?;
            whole.clear();
            whole.push_str(left);
            whole.push_str(right);
            let merge = (symbols.number(left), symbols.number(right), symbols.piece(&whole));
            let (Some(left), Some(right), Some(piece)) = merge else {
                return Err(Error::new(format!(
                    "merge {rank} of the tokenizer, {left:?} and {right:?}, is not of two pieces to one that text may have"
                )));
            };
            merges.push(Merge { left, right, rank, piece });
            if merges.len() > MAX_MERGES {
                break;
            }
        }
        Merges::new(symbols, merges, true)
    }

    fn new(symbols: Symbols, merges: Vec<Merge>, lines: bool) -> Result<Merges, Error> {
        let Symbols { pieces, others } = symbols;
        if merges.len() > MAX_MERGES || pieces.len() + others.len() > LOW as usize {
            return Err(Error::new(format!(
                "the tokenizer has more than {MAX_MERGES} merges, or more than {LOW} pieces and characters"
            )));
        }
        // At most four sevenths full: a search for a pair that does not merge, which most are, looks at three slots.
        let count = merges.len() + merges.len() * 3 / 4 + 1;
        let characters = Characters::new(pieces, &others)?;
        let mut made = Merges {
            slots: MappedVec::zeroed(count * 3)?,
            mixer: Mixer::new(),
            characters,
            joins: vec![[0; 4]; 256].into_boxed_slice(),
            unused: false,
        };
        let spelled: HashMap<u32, char> = others.into_iter().map(|(character, id)| (id, character)).collect();
        let bytes = |id: u32, buffer: &mut [u8; 4]| match spelled.get(&id) {
            None => {
                let text = pieces.bytes(id);
                (text.first().copied(), text.last().copied(), text.starts_with("▁".as_bytes()))
            }
            Some(character) => {
                let text = character.encode_utf8(buffer).as_bytes();
                (text.first().copied(), text.last().copied(), *character == '▁')
            }
        };
        if lines {
            // A run of newlines is looked up as a whole.
            made.joins[usize::from(b'\n')][0] |= 1 << b'\n';
        }
        let mut buffer = [0; 4];
        for merge in merges {
            let (_, Some(last), _) = bytes(merge.left, &mut buffer) else { continue };
            let (Some(first), _, space) = bytes(merge.right, &mut buffer) else { continue };
            if lines && (last == b'\n') != (first == b'\n') {
                continue;
            }
            let first = if space { SPACE_BYTE } else { first };
            made.joins[usize::from(last)][usize::from(first >> 6)] |= 1 << (first & 63);
            made.unused |= !lines && pieces.kind(merge.piece) == Some(Kind::Unused);
            made.insert(&merge);
        }
        Ok(made)
    }

    fn slot(&self, left: u32, right: u32) -> usize {
        let hash = self.mixer.word(u64::from(left) << 32 | u64::from(right));
        (u128::from(hash) * (self.slots.len() / 3) as u128 >> 64) as usize
    }

    fn insert(&mut self, merge: &Merge) {
        let mut at = self.slot(merge.left, merge.right);
        let (slots, _) = self.slots.as_chunks_mut::<3>();
        loop {
            let [left, right, piece] = slots[at];
            if piece == 0 {
                let (low, high) = (merge.rank << ID_BITS, merge.rank >> RANK_BITS << ID_BITS);
                slots[at] = [merge.left | low, merge.right | high, merge.piece + 1];
                return;
            }
            if (left & LOW, right & LOW) == (merge.left, merge.right) {
                return;
            }
            at = if at + 1 == slots.len() { 0 } else { at + 1 };
        }
    }

    /// The rank of a pair and the piece it gives; the rank `NONE` where it does not merge.
    fn pair(&self, left: u32, right: u32) -> (u32, u32) {
        if left > LOW || right > LOW {
            return (NONE, NONE);
        }
        let mut at = self.slot(left, right);
        let (slots, _) = self.slots.as_chunks::<3>();
        // There always is a free slot.
        loop {
            let [l, r, piece] = slots[at];
            if piece == 0 {
                return (NONE, NONE);
            }
            if (l & LOW, r & LOW) == (left, right) {
                return (l >> ID_BITS | r >> ID_BITS << RANK_BITS, piece - 1);
            }
            at = if at + 1 == slots.len() { 0 } else { at + 1 };
        }
    }

    /// Whether something may be merged across the place before `at`, which lies within a text. Always within a character.
    pub(super) fn joined(&self, text: &[u8], at: usize) -> bool {
        let (last, first) = (text[at - 1], text[at]);
        if first & 0xc0 == 0x80 {
            return true;
        }
        let first = if first == 0xe2 && text[at..].starts_with("▁".as_bytes()) { SPACE_BYTE } else { first };
        self.joins[usize::from(last)][usize::from(first >> 6)] >> (first & 63) & 1 == 1
    }

    /// Whether an unused piece may come out, which is taken apart as it was last made anywhere in the text: then the text cannot be merged in stretches.
    pub(super) fn needs_all(&self) -> bool {
        self.unused
    }

    /// Merges a stretch of a text and gives its symbols in order: the piece if it is one, and what it spells.
    pub(super) fn merge<'t>(&self, text: &'t str, scratch: &mut Scratch, give: impl FnMut(Option<u32>, &'t str)) {
        // Fewer bytes than a count of characters needs no count.
        if text.len() > SHORT && text.chars().nth(SHORT).is_some() {
            scratch.list.clear();
            self.append(text, 0, scratch);
            self.merge_list(text, scratch, give);
        } else {
            self.merge_short(text, give);
        }
    }

    fn merge_short<'t>(&self, text: &'t str, mut give: impl FnMut(Option<u32>, &'t str)) {
        // The end of the text stands after the last start.
        let (mut ids, mut starts) = ([0u32; SHORT], [0u8; SHORT + 1]);
        let (mut ranks, mut pieces) = ([NONE; SHORT], [NONE; SHORT]);
        let mut count = 0;
        for (start, character) in text.char_indices().take(SHORT) {
            (ids[count], starts[count]) = (self.characters.get(character), start as u8);
            count += 1;
        }
        starts[count] = text.len() as u8;
        for at in 1..count {
            (ranks[at - 1], pieces[at - 1]) = self.pair(ids[at - 1], ids[at]);
        }
        loop {
            let (mut best, mut at) = (NONE, 0);
            for (place, rank) in ranks[..count.max(1) - 1].iter().copied().enumerate() {
                if rank < best {
                    (best, at) = (rank, place);
                }
            }
            if best == NONE {
                break;
            }
            ids[at] = pieces[at];
            ids.copy_within(at + 2..count, at + 1);
            starts.copy_within(at + 2..count + 1, at + 1);
            ranks.copy_within(at + 2..count, at + 1);
            pieces.copy_within(at + 2..count, at + 1);
            count -= 1;
            ranks[count - 1] = NONE;
            if at + 1 < count {
                (ranks[at], pieces[at]) = self.pair(ids[at], ids[at + 1]);
            }
            if at > 0 {
                (ranks[at - 1], pieces[at - 1]) = self.pair(ids[at - 1], ids[at]);
            }
        }
        for at in 0..count {
            let id = (ids[at] != NONE).then_some(ids[at]);
            give(id, &text[usize::from(starts[at])..usize::from(starts[at + 1])]);
        }
    }

    /// Appends the characters of a stretch of a text, which begins at `start` in it, to the list.
    pub(super) fn append(&self, stretch: &str, start: usize, scratch: &mut Scratch) {
        let symbol = |(at, character)| ((start + at) as u32, self.characters.get(character));
        scratch.extend(stretch.char_indices().map(symbol));
    }

    /// Merges the symbols of the list, which together are the text.
    pub(super) fn merge_list<'t>(
        &self,
        text: &'t str,
        scratch: &mut Scratch,
        mut give: impl FnMut(Option<u32>, &'t str),
    ) {
        let Scratch { list, heap, parts } = scratch;
        if let Some(last) = list.last_mut() {
            last.next = NONE;
        }
        let mut pair = |list: &mut [Symbol], left: usize, right: usize| {
            let (a, b) = (list[left].id, list[right].id);
            let (rank, piece) = self.pair(a, b);
            (list[left].rank, list[left].piece) = (rank, piece);
            if self.unused && rank != NONE {
                parts.insert(piece, (a, b));
            }
            (rank != NONE).then_some(Reverse(u64::from(rank) << 32 | left as u64))
        };
        let mut first = std::mem::take(heap).into_vec();
        first.clear();
        first.extend((1..list.len()).filter_map(|right| pair(list, right - 1, right)));
        *heap = first.into();
        while let Some(Reverse(entry)) = heap.pop() {
            let (rank, left) = ((entry >> 32) as u32, entry as u32 as usize);
            // One that was merged away has the rank `NONE`.
            if list[left].rank != rank {
                continue;
            }
            let right = list[left].next as usize;
            let next = list[right].next;
            (list[left].id, list[left].next, list[left].rank) = (list[left].piece, next, NONE);
            (list[right].id, list[right].rank) = (NONE, NONE);
            let previous = list[left].previous;
            if next != NONE {
                list[next as usize].previous = left as u32;
                heap.extend(pair(list, left, next as usize));
            }
            if previous != NONE {
                heap.extend(pair(list, previous as usize, left));
            }
        }
        let mut at = if list.is_empty() { NONE } else { 0 };
        while at != NONE {
            let Symbol { id, start, next, .. } = list[at as usize];
            let end = if next == NONE { text.len() } else { list[next as usize].start as usize };
            let spelled = &text[start as usize..end];
            match id {
                NONE => give(None, spelled),
                id if id & FIXED != 0 => give(Some(id & !FIXED), spelled),
                id => give(Some(id), spelled),
            }
            at = next;
        }
    }
}

impl Scratch {
    /// Forgets what belongs to one text.
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.parts.clear();
    }

    /// Appends a piece that is kept whole and begins at `start`.
    pub(super) fn append_fixed(&mut self, id: u32, start: usize) {
        self.extend(std::iter::once((start as u32, id | FIXED)));
    }

    /// What an unused piece was made from.
    pub(super) fn parts(&self, id: u32) -> Option<(u32, u32)> {
        self.parts.get(&id).copied()
    }

    fn extend(&mut self, symbols: impl Iterator<Item = (u32, u32)>) {
        for (start, id) in symbols {
            let at = self.list.len() as u32;
            self.list.push(Symbol {
                id,
                start,
                previous: at.checked_sub(1).unwrap_or(NONE),
                next: at + 1,
                rank: NONE,
                piece: NONE,
            });
        }
    }
}

/// The symbol of each character, in pages of 256 of which most are absent.
struct Characters {
    /// The number of a page, or 0 for the page without any.
    pages: MappedVec<u16>,
    symbols: MappedVec<u32>,
}

impl Characters {
    fn new(pieces: &Pieces, others: &HashMap<char, u32>) -> Result<Characters, Error> {
        let mut pages = MappedVec::<u16>::zeroed(0x110000 / 256)?;
        let ids = 0..pieces.len() as u32;
        let single = ids.filter_map(|id| {
            let mut characters = pieces.text(id).chars();
            let character = characters.next().filter(|_| characters.next().is_none())?;
            (pieces.find(pieces.bytes(id)) == Some(id) && can_merge(pieces.kind(id))).then_some((character, id))
        });
        let all = || single.clone().chain(others.iter().map(|(character, id)| (*character, *id)));
        let mut count = 1;
        for (character, _) in all() {
            let page = &mut pages[character as usize / 256];
            if *page == 0 {
                *page = count;
                count += 1;
            }
        }
        let mut made = Characters { pages, symbols: MappedVec::zeroed(usize::from(count) * 256)? };
        for (character, id) in all() {
            let place = made.place(character);
            made.symbols[place] = id + 1;
        }
        Ok(made)
    }

    fn place(&self, character: char) -> usize {
        let code = character as usize;
        usize::from(self.pages[code / 256]) * 256 + code % 256
    }

    /// `NONE` for one that is in no pair and no piece.
    fn get(&self, character: char) -> u32 {
        self.symbols[self.place(character)].wrapping_sub(1)
    }
}
