//! SentencePiece byte-pair encoding, as the Gemma family's vocabularies use it.
//!
//! Written out here rather than taken from the `tokenizers` crate, because the contract is equality with SentencePiece
//! and that crate differs in three places that matter: it parses control tokens out of any text (a memory holding
//! `<end_of_turn>` would end the turn), it looks for user-defined pieces before spaces become `▁`, and it merges by
//! rank of a pair where SentencePiece merges by the score of the merged piece.
//!
//! How a text becomes ids:
//! 1. Every space becomes `▁` (U+2581). Nothing else is normalised, and no space is put in front.
//! 2. The text is cut into symbols: the longest user-defined piece that starts here (a run of newlines or of spaces,
//!    say), which stays whole, or else one character.
//! 3. Of all neighbouring symbols whose concatenation is a piece, the pair with the highest score is merged, the
//!    leftmost of equals, until none is left. A heap holds the candidates; one whose symbols have changed since is
//!    recognised by its length and dropped.
//! 4. A symbol that is no piece becomes its UTF-8 bytes' pieces (`<0xE2>`), or the unknown piece where the vocabulary
//!    has no byte pieces.
//!
//! The vocabulary lies in one string with offsets and an open-addressing table of ids, not in a `HashMap<String, u32>`:
//! a quarter of a million small allocations would land in the server's allocator.

use crate::error::Error;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};

mod load;
#[cfg(test)]
mod tests;

/// What stands for a space inside pieces.
const SPACE: char = '\u{2581}';
/// What SentencePiece decodes the unknown piece to.
const UNKNOWN_SURFACE: &str = " \u{2047} ";
/// More pieces than any vocabulary has; bounds what a file can make the tokenizer allocate.
const MAX_PIECES: usize = 1 << 22;

/// What a piece is for. The numbers of the GGUF key `tokenizer.ggml.token_type` are 1 to 6 in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary piece of text.
    Normal,
    /// Stands for what no piece covers.
    Unknown,
    /// Structure, such as the start of a turn. Never comes out of a text, decodes to nothing.
    Control,
    /// A text that is always kept whole.
    UserDefined,
    /// Known but never used.
    Unused,
    /// One byte, written `<0xNN>`.
    Byte,
}

/// The parts of a vocabulary, to build a [`Tokenizer`] from. The position in `pieces` is the id.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// Text, score and kind of each piece. Among candidates the higher score is merged first.
    pub pieces: Vec<(String, f32, Kind)>,
    /// The id that begins a text.
    pub bos: Option<u32>,
    /// The id that ends a text.
    pub eos: Option<u32>,
}

/// A SentencePiece vocabulary with its encoder and decoder. Immutable: share it freely between threads.
pub struct Tokenizer {
    /// All pieces, one after the other.
    text: String,
    /// Piece `i` is `text[offsets[i]..offsets[i + 1]]`.
    offsets: Vec<u32>,
    scores: Vec<f32>,
    kinds: Vec<Kind>,
    /// Open addressing with linear probing: id + 1, or 0 for a free slot. At most half full.
    table: Vec<u32>,
    /// Keyed, so that no file can choose pieces that all collide.
    hasher: RandomState,
    /// Bytes of the longest piece that merging can produce.
    longest: usize,
    /// See [`Tokenizer::lines_are_apart`].
    lines_apart: bool,
    /// User-defined pieces in byte order, for the longest-match search.
    defined: Vec<u32>,
    /// User-defined and control pieces in byte order.
    defined_and_control: Vec<u32>,
    /// The pieces of the 256 bytes, if the vocabulary has byte fallback.
    bytes: Option<Box<[u32; 256]>>,
    unknown: Option<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
}

/// A stretch of the text in the doubly linked list that merging works on; `len` 0 once it was merged away.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    previous: usize,
    next: usize,
    /// A user-defined or control piece: its id. It takes no part in merging.
    fixed: Option<u32>,
}

/// The end of the linked list.
const NONE: usize = usize::MAX;

/// A pair that could be merged, ordered by score, then leftmost first.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

impl Tokenizer {
    /// Builds the tokenizer. A text that occurs twice belongs to its lowest id.
    ///
    /// # Errors
    /// The vocabulary is empty or too large, a score is not a number, a byte piece is malformed, some but not all bytes
    /// have a piece, neither byte pieces nor an unknown piece exist, or `bos` or `eos` is not an id of it.
    pub fn new(vocabulary: Vocabulary) -> Result<Tokenizer, Error> {
        let Vocabulary { pieces, bos, eos } = vocabulary;
        let count = pieces.len();
        if count == 0 || count > MAX_PIECES {
            return Err(Error::new(format!(
                "the tokenizer's vocabulary has {count} pieces; 1 to {MAX_PIECES} are accepted"
            )));
        }
        for (name, id) in [("bos", bos), ("eos", eos)] {
            if let Some(id) = id.filter(|id| *id as usize >= count) {
                return Err(Error::new(format!(
                    "the tokenizer's {name} id is {id}, but its vocabulary has only {count} pieces"
                )));
            }
        }
        let mut tokenizer = Tokenizer {
            text: String::new(),
            offsets: Vec::with_capacity(count + 1),
            scores: Vec::with_capacity(count),
            kinds: Vec::with_capacity(count),
            table: vec![0; (count * 2).next_power_of_two()],
            hasher: RandomState::new(),
            longest: 0,
            lines_apart: false,
            defined: Vec::new(),
            defined_and_control: Vec::new(),
            bytes: None,
            unknown: None,
            bos,
            eos,
        };
        tokenizer.offsets.push(0);
        let mut bytes: [Option<u32>; 256] = [None; 256];
        for (id, (piece, score, kind)) in (0u32..).zip(pieces) {
            if score.is_nan() {
                return Err(Error::new(format!("the score of the tokenizer's piece {id} is not a number")));
            }
            // A converter may have written the spaces of user-defined pieces as spaces.
            let piece = if kind == Kind::UserDefined { piece.replace(' ', "\u{2581}") } else { piece };
            tokenizer.text.push_str(&piece);
            let end = u32::try_from(tokenizer.text.len())
                .map_err(|_| Error::new("the tokenizer's pieces are longer than 4 GiB together"))?;
            tokenizer.offsets.push(end);
            tokenizer.scores.push(score + 0.0); // -0 becomes 0: the two must compare equal
            tokenizer.kinds.push(kind);
            match kind {
                Kind::Byte => {
                    let value = byte_value(&piece).ok_or_else(|| {
                        Error::new(format!(
                            "the tokenizer's byte piece {id} is {piece:?}; <0x00> to <0xFF> are accepted"
                        ))
                    })?;
                    bytes[usize::from(value)].get_or_insert(id);
                }
                Kind::Unknown => {
                    tokenizer.unknown.get_or_insert(id);
                }
                Kind::Normal | Kind::UserDefined | Kind::Unused => {
                    tokenizer.longest = tokenizer.longest.max(piece.len());
                }
                Kind::Control => {}
            }
            if tokenizer.insert(&piece, id) {
                if kind == Kind::UserDefined {
                    tokenizer.defined.push(id);
                }
                if matches!(kind, Kind::UserDefined | Kind::Control) {
                    tokenizer.defined_and_control.push(id);
                }
            }
        }
        if let Some(missing) = bytes.iter().position(Option::is_none) {
            if bytes.iter().any(Option::is_some) {
                return Err(Error::new(format!(
                    "the tokenizer has byte pieces but lacks <0x{missing:02X}>; all 256 or none are accepted"
                )));
            }
            if tokenizer.unknown.is_none() {
                return Err(Error::new("the tokenizer has neither byte pieces nor an unknown piece"));
            }
        } else {
            tokenizer.bytes = Some(Box::new(bytes.map(Option::unwrap_or_default)));
        }
        let mixes = |id: u32| {
            let piece = tokenizer.slice(id);
            piece.contains('\n') && piece.contains(|char| char != '\n')
        };
        tokenizer.lines_apart = tokenizer.bytes.is_some() && !(0..count as u32).any(mixes);
        tokenizer.defined = tokenizer.in_byte_order(&tokenizer.defined);
        tokenizer.defined_and_control = tokenizer.in_byte_order(&tokenizer.defined_and_control);
        Ok(tokenizer)
    }

    fn in_byte_order(&self, ids: &[u32]) -> Vec<u32> {
        let mut sorted = ids.to_vec();
        sorted.sort_by(|a, b| self.slice(*a).cmp(self.slice(*b)));
        sorted
    }

    /// The slot at which the search for `piece` begins.
    fn slot(&self, piece: &str) -> usize {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(piece.as_bytes());
        hasher.finish() as usize & (self.table.len() - 1)
    }

    /// Enters a piece in the table; false if its text is empty or already there.
    fn insert(&mut self, piece: &str, id: u32) -> bool {
        if piece.is_empty() {
            return false;
        }
        let mut slot = self.slot(piece);
        loop {
            match self.table[slot] {
                0 => {
                    self.table[slot] = id + 1;
                    return true;
                }
                taken if self.slice(taken - 1) == piece => return false,
                _ => slot = (slot + 1) & (self.table.len() - 1),
            }
        }
    }

    /// The text of a piece that is known to exist.
    fn slice(&self, id: u32) -> &str {
        let id = id as usize;
        &self.text[self.offsets[id] as usize..self.offsets[id + 1] as usize]
    }

    /// The id of a piece, written as in the vocabulary: `▁the`, `<start_of_turn>`, `<0x0A>`.
    pub fn token_id(&self, piece: &str) -> Option<u32> {
        let mut slot = self.slot(piece);
        loop {
            match self.table[slot] {
                0 => return None,
                taken if self.slice(taken - 1) == piece => return Some(taken - 1),
                _ => slot = (slot + 1) & (self.table.len() - 1),
            }
        }
    }

    /// The text of a piece as in the vocabulary, or none if there is no such id.
    pub fn piece(&self, id: u32) -> Option<&str> {
        ((id as usize) < self.kinds.len()).then(|| self.slice(id))
    }

    /// The bytes that a piece adds to a text; none for a piece that is no text.
    pub fn written(&self, id: u32) -> Option<Vec<u8>> {
        match self.kind(id)? {
            Kind::Byte => byte_value(self.slice(id)).map(|byte| vec![byte]),
            Kind::Normal | Kind::UserDefined => Some(self.slice(id).replace(SPACE, " ").into_bytes()),
            Kind::Unknown | Kind::Control | Kind::Unused => None,
        }
    }

    /// What the piece is for, or none if there is no such id.
    pub fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    /// Whether a text's tokens are those of its lines, each with the newlines that end it: no piece has a newline and anything else in it.
    pub fn lines_are_apart(&self) -> bool {
        self.lines_apart
    }

    /// How many pieces there are; ids are below it.
    pub fn vocabulary_size(&self) -> usize {
        self.kinds.len()
    }

    /// The id that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The id that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The id of `<start_of_turn>`.
    pub fn start_of_turn(&self) -> Option<u32> {
        self.control("<start_of_turn>")
    }

    /// The id of `<end_of_turn>`.
    pub fn end_of_turn(&self) -> Option<u32> {
        self.control("<end_of_turn>")
    }

    fn control(&self, piece: &str) -> Option<u32> {
        self.token_id(piece).filter(|id| self.kind(*id) == Some(Kind::Control))
    }

    /// The ids of a text, as SentencePiece gives them. Neither begin nor end is added, and control pieces that the text
    /// spells out are text like any other.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_around(text, &self.defined)
    }

    /// As [`encode`](Self::encode), except that control pieces spelled out in the text become their ids: for prompts
    /// that are written with their structure.
    pub fn encode_with_control(&self, text: &str) -> Vec<u32> {
        self.encode_around(text, &self.defined_and_control)
    }

    /// Encodes with the given pieces (ids in byte order) kept whole.
    fn encode_around(&self, text: &str, whole: &[u32]) -> Vec<u32> {
        let text = text.replace(' ', "\u{2581}");
        let mut symbols = self.symbols(&text, whole);
        // Only filled where a candidate is an unused piece: how it was made, to take it apart again.
        let mut parts: HashMap<&str, usize> = HashMap::new();
        let mut heap = BinaryHeap::with_capacity(symbols.len());
        for left in 0..symbols.len().saturating_sub(1) {
            heap.extend(self.candidate(&text, &symbols, left, left + 1, &mut parts));
        }
        while let Some(Candidate { left, right, len, .. }) = heap.pop() {
            let (a, b) = (symbols[left], symbols[right]);
            if a.len == 0 || b.len == 0 || a.len + b.len != len {
                continue;
            }
            symbols[left].len = len;
            symbols[left].next = b.next;
            symbols[right].len = 0;
            if b.next != NONE {
                symbols[b.next].previous = left;
                heap.extend(self.candidate(&text, &symbols, left, b.next, &mut parts));
            }
            if a.previous != NONE {
                heap.extend(self.candidate(&text, &symbols, a.previous, left, &mut parts));
            }
        }
        let mut ids = Vec::with_capacity(symbols.len());
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            match symbol.fixed {
                Some(id) => ids.push(id),
                None => self.emit(&text[symbol.start..symbol.start + symbol.len], &parts, &mut ids),
            }
        }
        ids
    }

    /// Cuts a text into the symbols that merging starts from.
    fn symbols(&self, text: &str, whole: &[u32]) -> Vec<Symbol> {
        let mut symbols = Vec::with_capacity(text.len());
        let mut start = 0;
        while let Some(character) = text[start..].chars().next() {
            let fixed = self.longest_prefix(&text[start..], whole);
            let len = fixed.map_or(character.len_utf8(), |id| self.slice(id).len());
            let index = symbols.len();
            symbols.push(Symbol { start, len, previous: index.wrapping_sub(1), next: index + 1, fixed });
            start += len;
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        symbols
    }

    /// The longest of `whole` (ids in byte order) that `text` begins with. Narrows the range of pieces that share the
    /// prefix read so far, byte by byte.
    fn longest_prefix(&self, text: &str, whole: &[u32]) -> Option<u32> {
        let mut range = whole;
        let mut found = None;
        for (depth, byte) in text.bytes().enumerate() {
            let at = |id: &u32| self.slice(*id).as_bytes().get(depth).copied();
            range = &range[range.partition_point(|id| at(id) < Some(byte))..];
            range = &range[..range.partition_point(|id| at(id) <= Some(byte))];
            let first = range.first()?;
            if self.slice(*first).len() == depth + 1 {
                found = Some(*first);
                if range.len() == 1 {
                    break;
                }
            }
        }
        found
    }

    /// The pair as a candidate, if its concatenation is a piece that merging may produce.
    fn candidate<'t>(
        &self,
        text: &'t str,
        symbols: &[Symbol],
        left: usize,
        right: usize,
        parts: &mut HashMap<&'t str, usize>,
    ) -> Option<Candidate> {
        let (a, b) = (symbols[left], symbols[right]);
        let len = a.len + b.len;
        if a.fixed.is_some() || b.fixed.is_some() || len > self.longest {
            return None;
        }
        let merged = &text[a.start..a.start + len];
        let id = self.token_id(merged)?;
        match self.kinds[id as usize] {
            Kind::Normal | Kind::UserDefined => {}
            Kind::Unused => {
                parts.insert(merged, a.len);
            }
            Kind::Unknown | Kind::Control | Kind::Byte => return None,
        }
        Some(Candidate { score: self.scores[id as usize], left, right, len })
    }

    /// Appends the ids of a symbol that merging has left. An unused piece is taken apart into what it was made from.
    fn emit(&self, symbol: &str, parts: &HashMap<&str, usize>, ids: &mut Vec<u32>) {
        let mut rest = vec![symbol];
        while let Some(symbol) = rest.pop() {
            let id = self.token_id(symbol);
            match (id.and_then(|id| self.kind(id)), parts.get(symbol)) {
                (Some(Kind::Unused), Some(cut)) => rest.extend([&symbol[*cut..], &symbol[..*cut]]),
                (Some(Kind::Normal | Kind::UserDefined | Kind::Unused), _) => ids.extend(id),
                (Some(Kind::Unknown | Kind::Control | Kind::Byte) | None, _) => match (&self.bytes, self.unknown) {
                    (Some(bytes), _) => ids.extend(symbol.bytes().map(|byte| bytes[usize::from(byte)])),
                    // Neighbouring unknowns are one.
                    (None, Some(unknown)) if ids.last() != Some(&unknown) => ids.push(unknown),
                    (None, _) => {}
                },
            }
        }
    }

    /// The text of ids. Control pieces give nothing, broken bytes U+FFFD, and an unknown id what SentencePiece writes
    /// for the unknown piece.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut detokenizer = Detokenizer::default();
        let mut text: String = ids.iter().map(|id| detokenizer.push(self, *id)).collect();
        text.push_str(&detokenizer.finish());
        text
    }
}

/// The value of a byte piece `<0xNN>`.
fn byte_value(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        .then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Turns ids into text one by one, holding back bytes that are not yet a whole character.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    /// The beginning of a character: at most three bytes between calls.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Takes the next id and gives the text that is complete with it, often empty or more than one character.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        match tokenizer.kind(id) {
            Some(Kind::Byte) => {
                self.pending.extend(byte_value(tokenizer.slice(id)));
                self.whole_characters()
            }
            Some(Kind::Control) => self.finish(),
            Some(Kind::Normal | Kind::UserDefined | Kind::Unused) => {
                self.finish() + &tokenizer.slice(id).replace(SPACE, " ")
            }
            Some(Kind::Unknown) | None => self.finish() + UNKNOWN_SURFACE,
        }
    }

    /// Gives what is held back, each byte of it as U+FFFD: no further id will complete the character.
    pub fn finish(&mut self) -> String {
        let broken = self.pending.len();
        self.pending.clear();
        "\u{FFFD}".repeat(broken)
    }

    /// Takes whole characters from the pending bytes. As in SentencePiece, each byte that begins no character is one
    /// U+FFFD.
    fn whole_characters(&mut self) -> String {
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let broken = usize::from(error.error_len().is_some());
                    text.extend((0..broken).map(|_| '\u{FFFD}'));
                    self.pending.drain(..valid + broken);
                    if broken == 0 {
                        return text;
                    }
                }
            }
        }
    }
}
