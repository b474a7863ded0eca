//! Which pairs of symbols merge, in which order, and the merging.
//!
//! A symbol is a piece or a character that is no piece by itself; both have numbers. A pair that merges has a rank (the lowest merges first, the leftmost
//! of equals) and gives a piece. All pairs lie in one open-addressing table of twelve bytes a slot: two numbers of 21 bits with the rank's 22 bits split
//! above them, and the number of the piece. So a step of merging hashes one word, where a table of texts would hash and compare the bytes of both symbols.
//!
//! A stretch of up to [`SHORT`] characters, which is nearly every word, is merged in arrays on the stack by looking for the lowest rank again and again;
//! a longer one in a linked list, with the ranks in a tree of sixteen branches, each node the least of those below it: so a megabyte of one letter takes
//! n log n, and mostly less, as a change goes up only as far as it changes the least.
//!
//! [`Merges::joined`] says where a text can be cut: a merge brings the last byte of its left part beside the first byte of its right one, so where no
//! merge does so for the two bytes at hand, nothing is ever merged across. It needs 8 KB. `▁` counts as a byte of its own where it is the second, because
//! the first byte of its three also begins quotation marks and dashes, and the places before `▁` are where words begin.
//!
//! Rejected: a heap of (rank, position) for the long ones. It holds what no longer merges, too, and took five times as long. A cache of words in each thread. It needs a bound, an eviction and a place to live, and knowing which pieces come out of their own text,
//! two bits for each, serves four of five words.

use super::Kind;
use super::pieces::{GROUP, ID_BITS, Mixer, Pieces};
use crate::Error;
use crate::memory::{MappedVec, fetch};
use std::collections::HashMap;

/// More pairs than any vocabulary has: half a million belong to a quarter of a million pieces.
const MAX_MERGES: usize = 1 << 21;
/// Bytes of the longest piece that may come out of merging where the parts are not listed: every place to cut it is tried.
const MAX_LENGTH: usize = 512;
/// Characters that are merged on the stack.
const SHORT: usize = 32;
const LOW: u32 = (1 << ID_BITS) - 1;
/// Bits of a rank in each of the first two words of a slot.
const RANK_BITS: u32 = 32 - ID_BITS;

/// No symbol, such as a character that is in no pair; no place; and the rank of what does not merge.
const NONE: u32 = u32::MAX;
/// Above the number of a piece that is kept whole.
const FIXED: u32 = 1 << 31;
/// What stands for `▁` where the second byte is looked at; no byte of UTF-8.
const SPACE_BYTE: u8 = 0xff;
/// Pairs by which a slot is asked for before it is filled.
const AHEAD: usize = 16;

/// The byte that a text begins with, or what stands for it.
fn first_byte(text: &str) -> u8 {
    if text.starts_with('▁') { SPACE_BYTE } else { text.as_bytes().first().copied().unwrap_or_default() }
}

/// A pair and what it gives.
struct Merge {
    left: u32,
    right: u32,
    rank: u32,
    piece: u32,
    /// The last byte of the left part and the first of the right one, with [`SPACE_BYTE`] for a `▁` there.
    join: (u8, u8),
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
    ranks: Ranks,
    /// What an unused piece was last made from.
    parts: HashMap<u32, (u32, u32)>,
}

/// A place in the doubly linked list.
struct Symbol {
    id: u32,
    start: u32,
    previous: u32,
    next: u32,
    /// What the pair that begins here gives.
    piece: u32,
}

/// Branches of a node of [`Ranks`]: the ranks of a node are one line of the cache.
const BRANCHES: usize = 16;

/// The ranks of the pairs that begin at each place, and the least of each sixteen of them, and so on up to one node.
#[derive(Default)]
struct Ranks {
    /// From the ranks to the root.
    levels: Vec<Vec<[u32; BRANCHES]>>,
}

fn least(node: &[u32; BRANCHES]) -> u32 {
    node.iter().copied().fold(NONE, u32::min)
}

impl Ranks {
    fn fill(&mut self, ranks: impl Iterator<Item = u32>) {
        let mut depth = 0;
        self.put(0, ranks);
        while self.levels[depth].len() > 1 {
            let below = std::mem::take(&mut self.levels[depth]);
            self.put(depth + 1, below.iter().map(least));
            self.levels[depth] = below;
            depth += 1;
        }
        self.levels.truncate(depth + 1);
    }

    /// Makes a level of these numbers.
    fn put(&mut self, depth: usize, numbers: impl Iterator<Item = u32>) {
        if self.levels.len() == depth {
            self.levels.push(Vec::new());
        }
        let level = &mut self.levels[depth];
        level.clear();
        for (at, number) in numbers.enumerate() {
            if at % BRANCHES == 0 {
                level.push([NONE; BRANCHES]);
            }
            level[at / BRANCHES][at % BRANCHES] = number;
        }
    }

    fn set(&mut self, mut at: usize, mut rank: u32) {
        for level in &mut self.levels {
            let Some(node) = level.get_mut(at / BRANCHES) else { return };
            if std::mem::replace(&mut node[at % BRANCHES], rank) == rank {
                return;
            }
            rank = least(node);
            at /= BRANCHES;
        }
    }

    /// The place of the leftmost of the lowest ranks, none if nothing merges.
    fn first(&self) -> Option<usize> {
        let wanted = self.levels.last()?.first().map(least).filter(|rank| *rank != NONE)?;
        let mut at = 0;
        for level in self.levels.iter().rev() {
            at = at * BRANCHES + level.get(at)?.iter().position(|rank| *rank == wanted)?;
        }
        Some(at)
    }
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
        self.piece_asked(self.pieces.ask(text.as_bytes()), text)
    }

    fn piece_asked(&self, hash: u64, text: &str) -> Option<u32> {
        self.pieces.find_asked(hash, text.as_bytes()).filter(|id| can_merge(self.pieces.kind(*id)))
    }

    /// The number of a part: a piece or any single character.
    fn number(&mut self, text: &str) -> Option<u32> {
        self.number_asked(self.pieces.ask(text.as_bytes()), text)
    }

    fn number_asked(&mut self, hash: u64, text: &str) -> Option<u32> {
        self.piece_asked(hash, text).or_else(|| {
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
        let mut merges = Vec::with_capacity(2 * pieces.len());
        let (mut rank, mut last) = (0, f32::NAN);
        let mut asked = Vec::new();
        'all: for group in order.chunks(GROUP) {
            // The piece and the two parts at each place to cut it, as they are looked for below.
            asked.clear();
            for text in group.iter().map(|piece| pieces.text(*piece)) {
                asked.push(pieces.ask(text.as_bytes()));
                for (cut, _) in text.char_indices().skip(1).take_while(|_| text.len() <= MAX_LENGTH) {
                    asked.extend([&text[..cut], &text[cut..]].map(|part| pieces.ask(part.as_bytes())));
                }
            }
            let mut asked = asked.iter().copied();
            for &piece in group {
                if score(piece).total_cmp(&last).is_ne() {
                    (rank, last) = (rank + 1, score(piece));
                }
                let text = pieces.text(piece);
                // The same text under a lower id is the piece.
                let own = asked.next().and_then(|hash| symbols.piece_asked(hash, text)) == Some(piece);
                if own && text.len() > MAX_LENGTH {
                    return Err(Error::new(format!(
                        "the tokenizer's piece {piece} has {} bytes; up to {MAX_LENGTH} are accepted",
                        text.len()
                    )));
                }
                for (cut, _) in text.char_indices().skip(1).take_while(|_| text.len() <= MAX_LENGTH) {
                    let (left, right) = text.split_at(cut);
                    let (Some(of_left), Some(of_right)) = (asked.next(), asked.next()) else { break };
                    if own
                        && let Some(first) = symbols.number_asked(of_left, left)
                        && let Some(second) = symbols.number_asked(of_right, right)
                    {
                        let join = (text.as_bytes()[cut - 1], first_byte(right));
                        merges.push(Merge { left: first, right: second, rank, piece, join });
                    }
                }
                if merges.len() > MAX_MERGES {
                    break 'all;
                }
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
        let mut merges = Vec::with_capacity(list.size_hint().1.unwrap_or_default().min(MAX_MERGES));
        // Pairs that give the same piece mostly stand together.
        let (mut whole, mut piece) = (String::new(), None);
        for (rank, pair) in (0u32..).zip(list) {
            let (left, right) = pair?;
            if whole.len() != left.len() + right.len() || !whole.starts_with(left) || !whole.ends_with(right) {
                whole.clear();
                whole.push_str(left);
                whole.push_str(right);
                piece = symbols.piece(&whole);
            }
            let join = (left.as_bytes().last().copied().unwrap_or_default(), first_byte(right));
            let merge = (symbols.number(left), symbols.number(right), piece);
            let (Some(left), Some(right), Some(piece)) = merge else {
                return Err(Error::new(format!(
                    "merge {rank} of the tokenizer, {left:?} and {right:?}, is not of two pieces to one that text may have"
                )));
            };
            merges.push(Merge { left, right, rank, piece, join });
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
        if lines {
            // A run of newlines is looked up as a whole.
            made.joins[usize::from(b'\n')][0] |= 1 << b'\n';
        }
        for (at, merge) in merges.iter().enumerate() {
            if let Some(next) = merges.get(at + AHEAD) {
                fetch(&made.slots[3 * made.slot(next.left, next.right)]);
            }
            let (last, first) = merge.join;
            if lines && (last == b'\n') != (first == b'\n') {
                continue;
            }
            made.joins[usize::from(last)][usize::from(first >> 6)] |= 1 << (first & 63);
            made.unused |= !lines && pieces.kind(merge.piece) == Some(Kind::Unused);
            made.insert(merge);
        }
        Ok(made)
    }

    fn slot(&self, left: u32, right: u32) -> usize {
        let hash = self.mixer.word(u64::from(left) << 32 | u64::from(right));
        ((u128::from(hash) * (self.slots.len() / 3) as u128) >> 64) as usize
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
        let Scratch { list, ranks, parts } = scratch;
        if let Some(last) = list.last_mut() {
            last.next = NONE;
        }
        // The rank of the pair that begins at `left`.
        let mut pair = |list: &mut [Symbol], left: usize| {
            let right = list[left].next;
            if right == NONE {
                return NONE;
            }
            let (a, b) = (list[left].id, list[right as usize].id);
            let (rank, piece) = self.pair(a, b);
            list[left].piece = piece;
            if self.unused && rank != NONE {
                parts.insert(piece, (a, b));
            }
            rank
        };
        ranks.fill((0..list.len()).map(|left| pair(list, left)));
        while let Some(left) = ranks.first() {
            let right = list[left].next as usize;
            let next = list[right].next;
            (list[left].id, list[left].next) = (list[left].piece, next);
            ranks.set(right, NONE);
            if next != NONE {
                list[next as usize].previous = left as u32;
            }
            ranks.set(left, pair(list, left));
            let previous = list[left].previous;
            if previous != NONE {
                ranks.set(previous as usize, pair(list, previous as usize));
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
        let single = ids.filter(|id| pieces.bytes(*id).len() <= 4).filter_map(|id| {
            let mut characters = pieces.text(id).chars();
            let character = characters.next().filter(|_| characters.next().is_none())?;
            (pieces.find(pieces.bytes(id)) == Some(id) && can_merge(pieces.kind(id))).then_some((character, id))
        });
        let single: Vec<(char, u32)> = single.collect();
        let all = || single.iter().copied().chain(others.iter().map(|(character, id)| (*character, *id)));
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
