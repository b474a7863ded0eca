//! Byte-pair encoding as the Gemma family's vocabularies use it: SentencePiece's up to Gemma 3, by a list of merges from Gemma 4 on.
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
//! 3. Of all neighbouring symbols that may merge the best pair does, the leftmost of equals, until none is left. With scores any two
//!    may whose concatenation is a piece, the one with the highest score first; with a list those in it, in its order. With a list, moreover,
//!    nothing merges between a newline and anything else, and a run of newlines that is a piece is that piece, as llama.cpp has it for
//!    Gemma 4.
//! 4. A symbol that is no piece becomes its UTF-8 bytes' pieces (`<0xE2>`), or the unknown piece where the vocabulary
//!    has no byte pieces.
//!
//! Between the second step and the third the text is cut into stretches, mostly words, wherever the vocabulary lets nothing merge across, and a stretch
//! that is a piece which is known to come out of its own text is done with one look-up. What is known is found out at the first meeting and kept in two
//! bits for each piece. The tables are in [`pieces`] and [`merges`].

use crate::error::Error;
use merges::{Merges, Scratch, can_merge};
use pieces::{Pieces, Whole};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, Ordering};

mod load;
mod merges;
mod pieces;
mod sentencepiece;
#[cfg(test)]
mod tests;

/// What stands for a space inside pieces.
pub(crate) const SPACE: char = '\u{2581}';
/// What SentencePiece decodes the unknown piece to, unless a model says otherwise.
const UNKNOWN_SURFACE: &str = " \u{2047} ";
/// Control pieces that begin a turn, that end one, and that end a generation besides; the first of each that a vocabulary has is used. Gemma 4 ends its
/// turn for the answer of a tool by `<|tool_response>`.
const START_OF_TURN: [&str; 2] = ["<start_of_turn>", "<|turn>"];
const END_OF_TURN: [&str; 2] = ["<end_of_turn>", "<turn|>"];
const TOOL_RESPONSE: &str = "<|tool_response>";
/// Control pieces that open and close what a model says beside its answer.
pub(crate) const CHANNEL: [&str; 2] = ["<|channel>", "<channel|>"];
/// The most bytes that are merged as one: positions are 32 bits. A longer text is cut.
const MOST_AT_ONCE: usize = 1 << 31;

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

impl Kind {
    const ALL: [Kind; 6] = [Kind::Normal, Kind::Unknown, Kind::Control, Kind::UserDefined, Kind::Unused, Kind::Byte];

    /// By the number that GGUF and SentencePiece give it.
    fn numbered(number: i64) -> Option<Kind> {
        Kind::ALL.get(usize::try_from(number.checked_sub(1)?).ok()?).copied()
    }
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

/// Pairs that merge, as a file gives them.
type List<'a> = Box<dyn Iterator<Item = Result<(&'a str, &'a str), Error>> + 'a>;

/// What a file says of a vocabulary.
struct Parts<'a> {
    pieces: Vec<(&'a str, f32, Kind)>,
    /// The pairs that merge, best first; without them the scores say it.
    merges: Option<List<'a>>,
    bos: Option<u32>,
    eos: Option<u32>,
    /// More ids that end a generation.
    ends: Vec<u32>,
    /// What the unknown piece decodes to.
    unknown: &'a str,
}

/// A vocabulary with its encoder and decoder. Immutable: share it freely between threads.
pub struct Tokenizer {
    pieces: Pieces,
    merges: Merges,
    /// Bytes of the longest piece that merging can produce.
    longest: usize,
    /// For each piece two bits: whether it comes out of its own text, and whether that is known.
    itself: Box<[AtomicU32]>,
    /// Newlines never merge with anything else, see the module's third step.
    lines: bool,
    /// See [`Tokenizer::lines_are_apart`].
    lines_apart: bool,
    /// User-defined pieces.
    defined: Whole,
    /// User-defined and control pieces.
    defined_and_control: Whole,
    /// The pieces of the 256 bytes, if the vocabulary has byte fallback.
    bytes: Option<Box<[u32; 256]>>,
    unknown: Option<u32>,
    unknown_surface: Box<str>,
    bos: Option<u32>,
    eos: Option<u32>,
    ends: Vec<u32>,
}

impl Tokenizer {
    /// Builds the tokenizer. A text that occurs twice belongs to its lowest id.
    ///
    /// # Errors
    /// The vocabulary is empty or too large, a score is not a number, a byte piece is malformed, some but not all bytes
    /// have a piece, neither byte pieces nor an unknown piece exist, or `bos` or `eos` is not an id of it.
    pub fn new(vocabulary: Vocabulary) -> Result<Tokenizer, Error> {
        let Vocabulary { pieces, bos, eos } = vocabulary;
        let pieces = pieces.iter().map(|(text, score, kind)| (text.as_str(), *score, *kind)).collect();
        Tokenizer::build(Parts { pieces, merges: None, bos, eos, ends: Vec::new(), unknown: UNKNOWN_SURFACE })
    }

    fn build(parts: Parts<'_>) -> Result<Tokenizer, Error> {
        let Parts { pieces: given, merges, bos, eos, ends, unknown: unknown_surface } = parts;
        if let Some(id) = given.iter().position(|(_, score, _)| score.is_nan()) {
            return Err(Error::new(format!("the score of the tokenizer's piece {id} is not a number")));
        }
        let pieces = Pieces::new(given.iter().map(|(text, _, kind)| (spelled(text, *kind), *kind)))?;
        let count = pieces.len();
        let named = [("bos", bos), ("eos", eos)].into_iter().chain(ends.iter().map(|id| ("end", Some(*id))));
        for (name, id) in named {
            if let Some(id) = id.filter(|id| *id as usize >= count) {
                return Err(Error::new(format!(
                    "the tokenizer's {name} id is {id}, but its vocabulary has only {count} pieces"
                )));
            }
        }
        let (mut bytes, mut unknown, mut longest) = ([None; 256], None, 0);
        let (mut defined, mut control, mut mixed) = (Vec::new(), Vec::new(), false);
        for id in 0..count as u32 {
            let text = pieces.bytes(id);
            let Some(kind) = pieces.kind(id) else { continue };
            match kind {
                Kind::Byte => {
                    let piece = pieces.text(id);
                    let value = byte_value(piece).ok_or_else(|| {
                        Error::new(format!(
                            "the tokenizer's byte piece {id} is {piece:?}; <0x00> to <0xFF> are accepted"
                        ))
                    })?;
                    bytes[usize::from(value)].get_or_insert(id);
                }
                Kind::Unknown => {
                    unknown.get_or_insert(id);
                }
                Kind::Normal | Kind::UserDefined | Kind::Unused => longest = longest.max(text.len()),
                Kind::Control => {}
            }
            if text.contains(&b'\n') {
                mixed |= text.iter().any(|byte| *byte != b'\n');
            }
            if matches!(kind, Kind::UserDefined | Kind::Control) && pieces.find(text) == Some(id) {
                if kind == Kind::UserDefined { &mut defined } else { &mut control }.push(id);
            }
        }
        let missing = bytes.iter().position(Option::is_none);
        let bytes = match missing {
            None => Some(Box::new(bytes.map(Option::unwrap_or_default))),
            Some(missing) if bytes.iter().any(Option::is_some) => {
                return Err(Error::new(format!(
                    "the tokenizer has byte pieces but lacks <0x{missing:02X}>; all 256 or none are accepted"
                )));
            }
            Some(_) if unknown.is_none() => {
                return Err(Error::new("the tokenizer has neither byte pieces nor an unknown piece"));
            }
            Some(_) => None,
        };
        let lines = merges.is_some();
        let merges = match merges {
            Some(list) => Merges::by_list(&pieces, list)?,
            None => {
                let scores: Vec<f32> = given.iter().map(|(_, score, _)| *score).collect();
                Merges::by_score(&pieces, &scores)?
            }
        };
        let mut tokenizer = Tokenizer {
            merges,
            longest,
            itself: (0..count.div_ceil(16)).map(|_| AtomicU32::new(0)).collect(),
            lines,
            lines_apart: bytes.is_some() && !mixed,
            defined: Whole::new(&pieces, defined.clone()),
            defined_and_control: Whole::new(&pieces, [defined, control].concat()),
            pieces,
            bytes,
            unknown,
            unknown_surface: unknown_surface.into(),
            bos,
            eos,
            ends: Vec::new(),
        };
        let known = eos.into_iter().chain(tokenizer.end_of_turn()).chain(tokenizer.control(TOOL_RESPONSE)).chain(ends);
        let mut all = Vec::new();
        for id in known {
            if !all.contains(&id) {
                all.push(id);
            }
        }
        tokenizer.ends = all;
        Ok(tokenizer)
    }

    /// The id of a piece, written as in the vocabulary: `▁the`, `<start_of_turn>`, `<0x0A>`.
    pub fn token_id(&self, piece: &str) -> Option<u32> {
        self.pieces.find(piece.as_bytes())
    }

    /// The text of a piece as in the vocabulary, or none if there is no such id.
    pub fn piece(&self, id: u32) -> Option<&str> {
        ((id as usize) < self.pieces.len()).then(|| self.pieces.text(id))
    }

    /// The bytes that a piece adds to a text; none for a piece that is no text.
    pub fn written(&self, id: u32) -> Option<Vec<u8>> {
        match self.kind(id)? {
            Kind::Byte => byte_value(self.pieces.text(id)).map(|byte| vec![byte]),
            Kind::Normal | Kind::UserDefined => Some(self.pieces.text(id).replace(SPACE, " ").into_bytes()),
            Kind::Unknown | Kind::Control | Kind::Unused => None,
        }
    }

    /// What the piece is for, or none if there is no such id.
    pub fn kind(&self, id: u32) -> Option<Kind> {
        self.pieces.kind(id)
    }

    /// Whether a text's tokens are those of its lines, each with the newlines that end it: no piece has a newline and anything else in it.
    pub fn lines_are_apart(&self) -> bool {
        self.lines_apart
    }

    /// How many pieces there are; ids are below it.
    pub fn vocabulary_size(&self) -> usize {
        self.pieces.len()
    }

    /// The id that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The id that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The id that begins a turn: `<start_of_turn>`, in Gemma 4 `<|turn>`.
    pub fn start_of_turn(&self) -> Option<u32> {
        START_OF_TURN.iter().find_map(|piece| self.control(piece))
    }

    /// The id that ends a turn: `<end_of_turn>`, in Gemma 4 `<turn|>`.
    pub fn end_of_turn(&self) -> Option<u32> {
        END_OF_TURN.iter().find_map(|piece| self.control(piece))
    }

    /// The ids that end a generation: the end of the text, of the turn, Gemma 4's wait for the answer of a tool, and what else the file names.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The id of a control piece: `<|channel>`, `<|think|>`, `<|tool_call>`.
    pub fn control(&self, piece: &str) -> Option<u32> {
        self.token_id(piece).filter(|id| self.kind(*id) == Some(Kind::Control))
    }

    /// The ids that open and close a channel of what is no answer: Gemma 4's thoughts.
    pub fn channel(&self) -> Option<[u32; 2]> {
        let [open, close] = CHANNEL;
        Some([self.control(open)?, self.control(close)?])
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

    /// Encodes with the given pieces kept whole.
    fn encode_around(&self, text: &str, whole: &Whole) -> Vec<u32> {
        let text = if text.contains(' ') { Cow::from(text.replace(' ', "\u{2581}")) } else { Cow::from(text) };
        let mut ids = Vec::with_capacity(text.len() / 4);
        let mut scratch = Scratch::default();
        let mut rest: &str = &text;
        while rest.len() > MOST_AT_ONCE {
            let mut cut = MOST_AT_ONCE;
            while !rest.is_char_boundary(cut) {
                cut -= 1;
            }
            let (now, later) = rest.split_at(cut);
            self.encode_stretches(now, whole, &mut scratch, &mut ids);
            rest = later;
        }
        self.encode_stretches(rest, whole, &mut scratch, &mut ids);
        ids
    }

    /// Cuts a text at whole pieces, and between them wherever nothing merges.
    fn encode_stretches(&self, text: &str, whole: &Whole, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        let all = self.merges.needs_all();
        scratch.clear();
        let mut stretch = |range: std::ops::Range<usize>, fixed: Option<u32>, ids: &mut Vec<u32>| {
            let (start, text) = (range.start, &text[range]);
            match (fixed, all) {
                (None, false) => self.encode_stretch(text, scratch, ids),
                (None, true) => self.merges.append(text, start, scratch),
                (Some(id), false) => ids.push(id),
                (Some(id), true) => scratch.append_fixed(id, start),
            }
        };
        let (mut start, mut at) = (0, 0);
        while at < bytes.len() {
            if whole.begins(bytes[at])
                && let Some(id) = whole.longest(&self.pieces, &bytes[at..])
            {
                if start < at {
                    stretch(start..at, None, ids);
                }
                start = at + self.pieces.bytes(id).len();
                stretch(at..start, Some(id), ids);
                at = start;
                continue;
            }
            if start < at && !all && !self.merges.joined(bytes, at) {
                stretch(start..at, None, ids);
                start = at;
            }
            at += 1;
        }
        if start < at {
            stretch(start..at, None, ids);
        }
        if all {
            let mut symbols = Vec::new();
            self.merges.merge_list(text, scratch, |id, text| symbols.push((id, text)));
            for (id, text) in symbols {
                self.give_apart(id, text, scratch, ids);
            }
        }
    }

    /// A stretch that nothing outside merges with.
    fn encode_stretch(&self, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let id = if text.len() <= self.longest { self.pieces.find(text.as_bytes()) } else { None };
        let id = id.filter(|id| can_merge(self.kind(*id)));
        let Some(id) = id else {
            return self.merges.merge(text, scratch, |id, text| self.give(id, text, ids));
        };
        let (word, shift) = (&self.itself[id as usize / 16], id % 16 * 2);
        let known = word.load(Ordering::Relaxed) >> shift & 3;
        if known == 3 || (self.lines && text.starts_with('\n')) {
            return ids.push(id);
        }
        let before = ids.len();
        self.merges.merge(text, scratch, |id, text| self.give(id, text, ids));
        if known == 0 {
            let itself = u32::from(ids[before..] == [id]);
            // Whichever thread writes it, it is the same.
            word.fetch_or((1 | itself << 1) << shift, Ordering::Relaxed);
        }
    }

    /// Appends a symbol that merging has left.
    fn give(&self, id: Option<u32>, text: &str, ids: &mut Vec<u32>) {
        // The number of a character that is no piece is no id.
        match id.filter(|id| (*id as usize) < self.pieces.len()) {
            Some(id) => ids.push(id),
            None => match (&self.bytes, self.unknown) {
                (Some(bytes), _) => ids.extend(text.bytes().map(|byte| bytes[usize::from(byte)])),
                // Neighbouring unknowns are one.
                (None, Some(unknown)) if ids.last() != Some(&unknown) => ids.push(unknown),
                (None, _) => {}
            },
        }
    }

    /// As [`give`](Self::give), with unused pieces taken apart into what they were made from.
    fn give_apart(&self, id: Option<u32>, text: &str, scratch: &Scratch, ids: &mut Vec<u32>) {
        let mut rest = vec![(id, text)];
        while let Some((id, text)) = rest.pop() {
            let unused = id.filter(|id| self.kind(*id) == Some(Kind::Unused));
            match unused.and_then(|id| scratch.parts(id)) {
                Some((left, right)) => {
                    let (a, b) = text.split_at(self.length_of(left, text));
                    rest.extend([(Some(right), b), (Some(left), a)]);
                }
                None => self.give(id, text, ids),
            }
        }
    }

    /// The bytes of a symbol that begins a text.
    fn length_of(&self, symbol: u32, text: &str) -> usize {
        let piece = self.pieces.bytes(symbol).len();
        if piece > 0 { piece } else { text.chars().next().map_or(0, char::len_utf8) }
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

/// The text by which a piece is found: a converter may have written the spaces of user-defined pieces as spaces.
fn spelled(text: &str, kind: Kind) -> Cow<'_, str> {
    if kind == Kind::UserDefined && text.contains(' ') { text.replace(' ', "\u{2581}").into() } else { text.into() }
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
                self.pending.extend(byte_value(tokenizer.pieces.text(id)));
                self.whole_characters()
            }
            Some(Kind::Control) => self.finish(),
            Some(Kind::Normal | Kind::UserDefined | Kind::Unused) => {
                self.finish() + &tokenizer.pieces.text(id).replace(SPACE, " ")
            }
            Some(Kind::Unknown) | None => self.finish() + &tokenizer.unknown_surface,
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
