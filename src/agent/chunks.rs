//! From a document to chunks that an encoder can take.
//!
//! A chunk is a piece of the text of at most so many tokens, counted by the encoder's own tokenizer on the very content that will be embedded. It
//! ends where a reader would pause: in front of a heading, between paragraphs, else between sentences, else between words, else between tokens;
//! whichever of the first is found in the last part of what fits. Where a section goes on in the next chunk, that one repeats the last whole
//! sentences, and every chunk begins with the path of the headings above it, because neither a search nor a reader knows otherwise what "It takes two
//! hours" is about.
//!
//! **Passes.** One pass over the lines finds the blocks: headings, fenced code and tables (kept whole where they fit), and paragraphs. Then
//! [`Chunker::next`] makes one chunk after the other. The tokenizer sees the text in pieces of some kilobytes, each once, to find how far a chunk can
//! reach, and each finished chunk once, because the tokens of a piece are not those of the same words elsewhere: a chunk that turns out too large
//! gets a nearer end. So a megabyte takes linear time and memory for a few pieces, and whoever drives it can stop, or say how far it is, between two
//! chunks.
//!
//! A byte limit stands beside that of tokens: a tokenizer may take ten kilobytes without a space for one token, and such a chunk serves nobody.
//!
//! Rejected: a Markdown library (the blocks are all that matters, and a document may be anything), splitting recursively by separators (it counts
//! what it cuts again and again, and knows no heading), and counting the tokens of sentences and adding them up (not exact).

use crate::sentences::sentences;
use engram_memory::{Error, Result};
use std::ops::Range;
use unicode_segmentation::GraphemeCursor;

/// The bytes of a text that each of its tokens stands for, in order and without special tokens: a tokenizer, as far as chunks go.
pub type Spans<'a> = dyn Fn(&str) -> Vec<Range<usize>> + 'a;

/// Bytes of a text that are tokenised at once.
const PIECE: usize = 8 << 10;
/// Bytes that a token may stand for, on average over a chunk.
const TOKEN_BYTES: usize = 64;
/// In which last part of a chunk a border of each kind is looked for: what must be full before it.
const FULL_BEFORE_HEADING: f64 = 0.5;
const FULL_BEFORE_PARAGRAPH: f64 = 0.7;
const FULL_BEFORE_SENTENCE: f64 = 0.6;
const FULL_BEFORE_WORD: f64 = 0.5;
/// Rather than within a sentence a chunk ends where the last block or sentence began, if this much is full.
const FULL_BEFORE_ANY: f64 = 0.25;

/// A piece of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// What is embedded, stored and shown: the path of the headings above as a line of its own, if there are any, and the piece of the source.
    pub content: String,
    /// Where the piece begins in the source, in bytes.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// The tokens of the content.
    pub tokens: usize,
}

/// Cuts a text into chunks, one at a time.
pub struct Chunker<'a> {
    text: &'a str,
    size: usize,
    overlap: usize,
    spans_of: &'a Spans<'a>,
    blocks: Vec<Block>,
    /// Where the next chunk begins; everything before `covered` is in a chunk already.
    start: usize,
    covered: usize,
    /// The tokens of `text[..read]` from `start` on, with some before it until they are dropped.
    tokens: Vec<Range<usize>>,
    read: usize,
    path: Path,
    /// The sentences of the block that was last looked into.
    cached: Option<(usize, Vec<Range<usize>>)>,
    failed: bool,
}

/// The headings above the next chunk.
#[derive(Default)]
struct Path {
    /// The block that is looked at next.
    next: usize,
    /// Level and title, from the top.
    titles: Vec<(u8, Range<usize>)>,
    /// The titles that `line` was made of.
    shown: Vec<Range<usize>>,
    line: String,
    tokens: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    kind: Kind,
    range: Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Heading {
        level: u8,
        title: Range<usize>,
    },
    /// Fenced code, a table, the fields at the head of a file: kept in one piece where it fits.
    Whole,
    Prose,
}

impl<'a> Chunker<'a> {
    /// Chunks of at most `size` tokens, each repeating at most `overlap` of the one before.
    ///
    /// # Errors
    /// `size` is 0, or `overlap` is not below it.
    pub fn new(text: &'a str, size: usize, overlap: usize, spans_of: &'a Spans<'a>) -> Result<Chunker<'a>> {
        if size == 0 {
            return Err(Error::new("the chunk size is 0: it takes at least 1 token"));
        }
        if overlap >= size {
            return Err(Error::new(format!(
                "the overlap is {overlap} tokens and the chunk size {size}: the overlap must be smaller"
            )));
        }
        let text = text.trim_end();
        let start = text.len() - text.trim_start().len();
        Ok(Chunker {
            text,
            size,
            overlap,
            spans_of,
            blocks: blocks(text),
            start,
            covered: start,
            tokens: Vec::new(),
            read: start,
            path: Path::default(),
            cached: None,
            failed: false,
        })
    }

    /// How many bytes of the text are in chunks that were given.
    pub fn position(&self) -> usize {
        self.covered
    }

    fn slice(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).unwrap_or_default()
    }

    /// The next chunk, which begins at `self.start`, and where the text goes on behind it; None if an overlap leaves no room for anything new.
    fn cut(&mut self) -> Result<Option<(Chunk, usize)>> {
        self.look_up();
        let line = std::mem::take(&mut self.path.line);
        let made = match self.cut_below(&line, self.path.tokens) {
            // Better without its headings than not at all.
            Err(_) if !line.is_empty() => self.cut_below("", 0),
            made => made,
        };
        self.path.line = line;
        made
    }

    fn cut_below(&mut self, line: &str, line_tokens: usize) -> Result<Option<(Chunk, usize)>> {
        let mut room = self.size.saturating_sub(line_tokens);
        let mut most_bytes = self.size.saturating_mul(TOKEN_BYTES);
        let first_bytes = self.slice(self.start..self.text.len()).chars().next().map_or(0, char::len_utf8);
        loop {
            let hard = self.reach(room, most_bytes);
            let border = self.border(hard, room);
            if border.is_none() && self.start < self.covered {
                return Ok(None);
            }
            // Nothing fits by the tokens of the text around it; what a single character takes alone is still to be seen.
            let border = border.unwrap_or(self.start + first_bytes);
            let piece = self.slice(self.start..border).trim_end();
            let content = [line, piece].concat();
            let tokens = (self.spans_of)(&content).len();
            if tokens <= self.size {
                let rest = self.slice(border..self.text.len());
                let next = self.text.len() - rest.trim_start().len();
                let end = self.start + piece.len();
                return Ok(Some((Chunk { content, start: self.start, end, tokens }, next)));
            }
            if piece.len() <= first_bytes {
                return Err(Error::new(format!(
                    "the character at byte {} has {tokens} tokens, more than a chunk of {} takes",
                    self.start, self.size
                )));
            }
            // The tokens of the content are not those of the text around it: try again with less.
            let excess = tokens - self.size;
            (room, most_bytes) = match room > excess {
                true => (room - excess, piece.len() - 1),
                false => (room, (piece.len() / 2).max(first_bytes)),
            };
        }
    }

    /// Where the text ends that has `room` tokens from the start on, and at most so many bytes.
    fn reach(&mut self, room: usize, most_bytes: usize) -> usize {
        let first = self.tokens.partition_point(|token| token.start < self.start);
        self.tokens.drain(..first);
        while self.tokens.len() <= room && self.read < self.text.len() {
            self.tokenise();
        }
        let hard = self.tokens.get(room).map_or(self.text.len(), |token| token.start);
        let hard = floor(self.text, hard.min(self.start.saturating_add(most_bytes)));
        // White space behind it costs nothing, and a paragraph that ends there has ended.
        let rest = self.slice(hard..self.text.len());
        if hard > self.start { hard + rest.len() - rest.trim_start().len() } else { hard }
    }

    /// Takes in the tokens of the next piece of the text, which ends in front of white space if it can.
    fn tokenise(&mut self) {
        let most = floor(self.text, self.read + PIECE);
        let end = if most == self.text.len() {
            most
        } else {
            let half = floor(self.text, self.read + PIECE / 2);
            self.slice(half..most).rfind(char::is_whitespace).map_or(most, |at| half + at)
        };
        for span in (self.spans_of)(self.slice(self.read..end)) {
            let least = self.tokens.last().map_or(self.read, |last| last.start);
            let start = (self.read + span.start).clamp(least, end);
            self.tokens.push(start..(self.read + span.end).clamp(start, end));
        }
        self.read = end;
    }

    /// The best border up to `hard` that adds something to what is covered.
    fn border(&mut self, hard: usize, room: usize) -> Option<usize> {
        let covered = self.covered.max(self.start);
        if hard <= covered {
            return None;
        }
        if hard == self.text.len() {
            return Some(hard);
        }
        let (start, reach) = (self.start, (hard - self.start) as f64);
        let behind = |full: f64| covered.max(start + (reach * full) as usize);
        let last = self.blocks.partition_point(|block| block.range.start <= hard);
        if let Some(border) = self.latest_border(last, behind(FULL_BEFORE_HEADING), true) {
            return Some(border);
        }
        let cut = last.checked_sub(1);
        let block = cut.and_then(|at| self.blocks.get(at)).filter(|block| block.range.end > hard).cloned();
        if let (Some(at), Some(block)) = (cut, &block)
            && block.kind == Kind::Whole
            && self.fits(block, room)
        {
            if let Some(border) = self.latest_border(at + 1, covered, false) {
                return Some(border);
            }
            if start < covered {
                return None;
            }
        }
        if let Some(border) = self.latest_border(last, behind(FULL_BEFORE_PARAGRAPH), false) {
            return Some(border);
        }
        if let (Some(at), Some(block)) = (cut, block) {
            // Where the block begins was looked at.
            let least = behind(FULL_BEFORE_SENTENCE).max(block.range.start);
            let parts = self.parts(at);
            let before = parts.partition_point(|part| part.start <= hard);
            if let Some(part) = before.checked_sub(1).and_then(|at| parts.get(at)).filter(|part| part.start > least) {
                return Some(part.start);
            }
        }
        if let Some(border) = self.latest_border(last, behind(FULL_BEFORE_ANY), false) {
            return Some(border);
        }
        let least = floor(self.text, behind(FULL_BEFORE_WORD));
        let tail = self.slice(least..hard);
        if let Some((at, space)) = tail.char_indices().rev().find(|(_, char)| char.is_whitespace())
            && least + at > covered
        {
            return Some(least + at + space.len_utf8());
        }
        Some(self.whole_character(covered, hard))
    }

    /// Where the last of the first `before` blocks begins that begins behind `least` and not right below a heading, which belongs to it.
    fn latest_border(&self, before: usize, least: usize, only_headings: bool) -> Option<usize> {
        let is_heading = |at: usize| self.blocks.get(at).is_some_and(Block::is_heading);
        (0..before)
            .rev()
            .map_while(|at| Some((at, self.blocks.get(at)?.range.start)).filter(|(_, start)| *start > least))
            .find(|(at, _)| (!only_headings || is_heading(*at)) && !at.checked_sub(1).is_some_and(is_heading))
            .map(|(_, start)| start)
    }

    /// The last place up to `hard` between two characters as readers see them, if there is one behind `least`.
    fn whole_character(&self, least: usize, hard: usize) -> usize {
        // Nobody looks further back or ahead: a "character" may be a megabyte of accents.
        let from = floor(self.text, hard.saturating_sub(128).max(least));
        let around = self.slice(from..floor(self.text, hard + 64));
        let mut cursor = GraphemeCursor::new(hard - from, around.len(), true);
        match cursor.is_boundary(around, 0) {
            Ok(false) => match cursor.prev_boundary(around, 0) {
                Ok(Some(at)) if from + at > least => from + at,
                _ => hard,
            },
            _ => hard,
        }
    }

    fn fits(&self, block: &Block, room: usize) -> bool {
        block.range.len() <= self.size.saturating_mul(TOKEN_BYTES)
            && (self.spans_of)(self.slice(block.range.clone())).len() <= room
    }

    /// The parts of a block that may be parted: sentences, or lines.
    fn parts(&mut self, at: usize) -> &[Range<usize>] {
        if self.cached.as_ref().is_none_or(|(cached, _)| *cached != at) {
            let block = self.blocks.get(at);
            let range = block.map_or(0..0, |block| block.range.clone());
            let (start, text) = (range.start, self.slice(range));
            let parts = match block.map(|block| &block.kind) {
                Some(Kind::Whole) => {
                    lines(text).filter(|line| !line.text.trim().is_empty()).map(|l| l.range()).collect()
                }
                _ => sentences(text),
            };
            let parts = parts.into_iter().map(|part: Range<usize>| part.start + start..part.end + start);
            self.cached = Some((at, parts.collect()));
        }
        self.cached.as_ref().map_or(&[], |(_, parts)| parts)
    }

    /// Where the chunk behind one that ended at `end` begins: with its last sentences, unless a section begins at `border`.
    fn overlap(&mut self, end: usize, border: usize) -> usize {
        let next = self.blocks.partition_point(|block| block.range.start < border);
        if self.overlap == 0
            || self.blocks.get(next).is_some_and(|block| block.range.start == border && block.is_heading())
        {
            return border;
        }
        let behind = self.tokens.partition_point(|token| token.start < end);
        let earliest = self.tokens.get(behind.saturating_sub(self.overlap)).map_or(end, |token| token.start);
        let earliest = earliest.max(self.start + 1);
        let first = self.blocks.partition_point(|block| block.range.end <= earliest);
        let mut starts: Vec<usize> = Vec::new();
        for at in first..next {
            let Some(block) = self.blocks.get(at).cloned() else { break };
            if block.kind == Kind::Whole && block.range.end <= end && block.range.start >= self.start {
                starts.push(block.range.start);
            } else {
                starts.extend(self.parts(at).iter().map(|part| part.start));
            }
        }
        starts.retain(|start| (earliest..end).contains(start));
        if starts.is_empty()
            && let Some(block) = next.checked_sub(1).and_then(|at| self.blocks.get(at))
            && !block.is_heading()
        {
            let from = floor(self.text, earliest.max(block.range.start) - 1);
            let spaces = self.slice(from..end).char_indices().filter(|(_, char)| char.is_whitespace());
            starts =
                spaces.map(|(at, space)| from + at + space.len_utf8()).filter(|start| *start > self.start).collect();
        }
        let fits = |start: &usize| {
            let repeated = self.slice(*start..end);
            !repeated.is_empty()
                && !repeated.starts_with(char::is_whitespace)
                && (self.spans_of)(repeated).len() <= self.overlap
        };
        starts.into_iter().find(fits).unwrap_or(border)
    }

    /// Brings the path of headings to where the next chunk begins.
    fn look_up(&mut self) {
        let mut titles = std::mem::take(&mut self.path.titles);
        while let Some(block) = self.blocks.get(self.path.next).filter(|block| block.range.start < self.start) {
            if let Kind::Heading { level, title } = &block.kind {
                titles.retain(|(above, _)| above < level);
                titles.push((*level, title.clone()));
            }
            self.path.next += 1;
        }
        // A chunk that begins with a heading stands below those above that one.
        let own = match self.blocks.get(self.path.next) {
            Some(Block { kind: Kind::Heading { level, .. }, range }) if range.start == self.start => *level,
            _ => u8::MAX,
        };
        let shown: Vec<Range<usize>> = titles
            .iter()
            .filter(|(level, title)| *level < own && !title.is_empty())
            .map(|(_, title)| title.clone())
            .collect();
        self.path.titles = titles;
        if shown != self.path.shown {
            self.path.line = self.path_line(&shown);
            self.path.tokens = (self.spans_of)(&self.path.line).len();
            self.path.shown = shown;
        }
    }

    /// The line of these titles, shortened from the front, and the last one at its end, to half of a chunk.
    fn path_line(&self, titles: &[Range<usize>]) -> String {
        let most = self.size / 2;
        for first in 0..titles.len() {
            let titles: Vec<&str> = titles.iter().skip(first).map(|title| self.slice(title.clone())).collect();
            let line = titles.join(" > ") + "\n";
            if line.len() <= self.size.saturating_mul(TOKEN_BYTES) && (self.spans_of)(&line).len() <= most {
                return line;
            }
        }
        let Some(last) = titles.last() else { return String::new() };
        let last = self.slice(last.clone());
        let last = last.get(..floor(last, most.saturating_mul(TOKEN_BYTES))).unwrap_or_default();
        let spans = (self.spans_of)(last);
        (0..most.min(spans.len()))
            .rev()
            .filter_map(|at| spans.get(at).map(|span| floor(last, span.end)))
            .map(|end| last.get(..end).unwrap_or_default().trim_end())
            .filter(|title| !title.is_empty())
            .map(|title| format!("{title}\n"))
            .find(|line| (self.spans_of)(line).len() <= most)
            .unwrap_or_default()
    }
}

impl Iterator for Chunker<'_> {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Result<Chunk>> {
        if self.failed || self.covered >= self.text.len() {
            return None;
        }
        loop {
            match self.cut() {
                Ok(Some((chunk, border))) => {
                    let end = chunk.end;
                    self.covered = border;
                    self.start = self.overlap(end, border);
                    return Some(Ok(chunk));
                }
                // What would be repeated and what is kept whole do not fit together.
                Ok(None) => self.start = self.covered,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Block {
    fn is_heading(&self) -> bool {
        matches!(self.kind, Kind::Heading { .. })
    }
}

/// The last place up to `at` between two characters.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default()
}

struct Line<'a> {
    start: usize,
    text: &'a str,
}

impl<'a> Line<'a> {
    fn range(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }

    /// The text without its indentation, and how many columns that has.
    fn indented(&self) -> (usize, &'a str) {
        let rest = self.text.trim_start_matches([' ', '\t']);
        let columns = self.text.bytes().take(self.text.len() - rest.len());
        (columns.map(|byte| if byte == b'\t' { 4 } else { 1 }).sum(), rest)
    }
}

/// The lines of a text, whatever ends them, without their ends.
fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let start = next?;
        let rest = text.get(start..)?;
        let len = rest.find(['\n', '\r']).unwrap_or(rest.len());
        let behind = rest.get(len..).unwrap_or_default();
        let ending = if behind.starts_with("\r\n") { 2 } else { behind.len().min(1) };
        next = (ending > 0).then_some(start + len + ending);
        Some(Line { start, text: rest.get(..len).unwrap_or_default() })
    })
}

/// The blocks of a text, in order. What is between two of them is white space.
fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    // The paragraph being read: its lines so far. A fence or a table being read.
    let mut prose: Vec<Range<usize>> = Vec::new();
    let mut fence: Option<(&str, usize)> = None;
    let mut table = false;
    let front = front_matter(text);
    if front > 0 {
        found.push(Block { kind: Kind::Whole, range: 0..front });
    }
    let flush = |prose: &mut Vec<Range<usize>>, found: &mut Vec<Block>| {
        if let (Some(first), Some(last)) = (prose.first(), prose.last()) {
            found.push(Block { kind: Kind::Prose, range: first.start..last.end });
        }
        prose.clear();
    };
    for line in lines(text).skip_while(|line| line.start < front) {
        let (indent, content) = line.indented();
        if let Some((marker, _)) = fence {
            extend(&mut found, line.range());
            let same = content.trim_end();
            if same.len() >= marker.len() && same.bytes().all(|byte| marker.as_bytes().first() == Some(&byte)) {
                fence = None;
            }
            continue;
        }
        if table && content.contains('|') {
            extend(&mut found, line.range());
            continue;
        }
        table = false;
        let trimmed = content.trim_end();
        let range =
            line.start + line.text.len() - content.len()..line.start + line.text.len() - content.len() + trimmed.len();
        if content.trim().is_empty() {
            flush(&mut prose, &mut found);
        } else if let Some(marker) = fence_marker(content) {
            flush(&mut prose, &mut found);
            found.push(Block { kind: Kind::Whole, range: line.range() });
            fence = Some((marker, line.start));
        } else if let Some((level, title)) = atx(content).filter(|_| indent < 4) {
            flush(&mut prose, &mut found);
            found.push(Block {
                kind: Kind::Heading { level, title: title.start + range.start..title.end + range.start },
                range,
            });
        } else if let (Some(level), [only]) = (underline(trimmed).filter(|_| indent < 4), prose.as_slice())
            && is_title(text.get(only.clone()).unwrap_or_default())
        {
            let kind = Kind::Heading { level, title: only.clone() };
            found.push(Block { kind, range: only.start..range.end });
            prose.clear();
        } else if is_delimiter_row(trimmed)
            && prose.last().is_some_and(|last| text.get(last.clone()).is_some_and(|last| last.contains('|')))
        {
            let head = prose.pop().map_or(range.start, |head| head.start);
            flush(&mut prose, &mut found);
            found.push(Block { kind: Kind::Whole, range: head..range.end });
            table = true;
        } else {
            prose.push(range);
        }
    }
    flush(&mut prose, &mut found);
    found
}

/// The block that is being read goes on.
fn extend(found: &mut [Block], line: Range<usize>) {
    if let Some(block) = found.last_mut() {
        block.range.end = line.end;
    }
}

/// Where the fields at the head of a file end, if it has any: between two lines of three dashes.
fn front_matter(text: &str) -> usize {
    let mut all = lines(text);
    if all.next().is_none_or(|first| first.text.trim_end() != "---") {
        return 0;
    }
    // Fields are few, so a lone line of dashes does not cost a look at the whole text.
    all.take(200)
        .take_while(|line| !line.text.trim().is_empty())
        .find(|line| line.text.trim_end() == "---")
        .map_or(0, |line| line.range().end)
}

/// What opens fenced code: three or more backticks or tildes.
fn fence_marker(content: &str) -> Option<&str> {
    let first = content.chars().next().filter(|first| matches!(first, '`' | '~'))?;
    let info = content.trim_start_matches(first);
    let marker = content.get(..content.len() - info.len())?;
    (marker.len() >= 3 && !(first == '`' && info.contains('`'))).then_some(marker)
}

/// The level of a heading of `#` signs, and where its title is.
fn atx(content: &str) -> Option<(u8, Range<usize>)> {
    let rest = content.trim_start_matches('#');
    let level = content.len() - rest.len();
    if !(1..=6).contains(&level) || !(rest.is_empty() || rest.starts_with([' ', '\t'])) {
        return None;
    }
    let start = content.len() - rest.trim_start().len();
    let title = rest.trim();
    let open = title.trim_end_matches('#');
    let title = if open.is_empty() || open.ends_with([' ', '\t']) { open.trim_end() } else { title };
    Some((u8::try_from(level).ok()?, start..start + title.len()))
}

/// The level that a line gives to the one above it.
fn underline(content: &str) -> Option<u8> {
    match content.as_bytes() {
        [b'=', rest @ ..] if rest.iter().all(|byte| *byte == b'=') => Some(1),
        [b'-', rest @ ..] if !rest.is_empty() && rest.iter().all(|byte| *byte == b'-') => Some(2),
        _ => None,
    }
}

/// Whether a line can be the title above such a line.
fn is_title(line: &str) -> bool {
    !line.starts_with(['|', '>', '-', '*', '+'])
}

fn is_delimiter_row(line: &str) -> bool {
    line.contains('|')
        && line.contains('-')
        && line.bytes().all(|byte| matches!(byte, b'|' | b'-' | b':' | b' ' | b'\t'))
}

#[cfg(test)]
mod tests;
