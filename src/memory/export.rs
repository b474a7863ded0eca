//! A whole space as lines of JSON, a page at a time. `import` reads them back.
//!
//! Each line is an object of one member, which says what the line is. A line needs nothing but the lines before it:
//!
//! | line | what it is |
//! |---|---|
//! | `space` | the first: `format` (1), the `settings` by name, the largest id seen; once there are vectors, their `model` (absent = the caller's own), `dimensions` and `precision` |
//! | `session` | the record of a session: `id`, `created`, `expires`, `metadata`, `fields` |
//! | `turn` | a memory that is the next turn of its session, behind the record and in the order in which the turns came |
//! | `summary` | what the turns of a session come to, behind them: `session`, `text`, `tokens`, `turns` (how many it covers), `at`, `model` |
//! | `document` | the record of a document, in front of its chunks: `name`, `type`, `source`, `at`, `created`, `bytes`, `tokens`, `chunks`, `meta` |
//! | `memory` | any other memory, in the order of ids |
//! | `link` | a link between two memories, behind all of them, by the ids of both and the name: `from`, `to`, `rel`, `weight`, `at`, `reason` |
//! | `counters` | the last: what the space has counted |
//!
//! A memory has the names that MEM.GET and MEM.MSTORE know, and what they do not show: `own_expiry` (TTL or PERSIST was given), `read` (facts have been extracted from it), `vectors` (one per
//! window) and `token_vectors` (the signs of word vectors), both as the space keeps them, little endian, in Base64, so that they come back bit
//! for bit. A memory without vectors has `noembed`: false if it waits for them. Unset texts and lists are absent. The same space always gives the
//! same lines, and what they are read into gives them again, byte for byte, in pages of whatever size.
//!
//! **The walk.** Sessions first: what a session holds takes no place of its tier, so a turn must be held when it comes, or a full tier would push it out
//! before its session follows. Then all memories that are no turn of a session that lives, by id, and their links; the record of a document stands in front of every run of its
//! chunks, so that no list of documents is needed that might be out of date. A cursor says behind what the next page begins, what kind of vectors the first line spoke of, and the largest id at the start:
//! what comes later is not in the export, so a steady writer does not keep the walk from ending. What stands from start to end comes exactly once; only
//! turns may come again, which an import passes over: as memories if their session ends on the way, or if the last one of a page is forgotten before the next
//! page and the ids of its session do not rise.
//!
//! **The work.** [`Space::export`] finds places in indexes and takes a snapshot, a few microseconds per hundred lines on the main thread; [`Exported::lines`]
//! writes the text, on whatever thread. A page ends after a number of lines or about [`PAGE_BYTES`], a single memory, with the document that it
//! begins, being the least.
//!
//! What is staged or hidden, and what has expired, is not in an export.
//!
//! Rejected: the turns of a session as a list of ids behind all memories (not held until it comes, and a turn that is appended on the way is in the list and not among
//! the memories), vectors as JSON numbers (four times the text, and bytes would not come back as they are), the codec's own bytes (nobody can read or edit them).

use crate::base64;
use crate::document::Document;
use crate::effect::Counters;
use crate::entry::Entry;
use crate::graph::Link;
use crate::heat::Heat;
use crate::session::{Session, Summary};
use crate::snapshot::Snapshot;
use crate::space::{Space, is_hidden};
use crate::{Error, MemoryId, Millis, Precision, Result};
use serde_json::{Map, Value, json};
use siphasher::sip::SipHasher13;
use std::hash::{Hash, Hasher};
use std::ops::Bound;

/// The version of the lines.
pub(crate) const FORMAT: u64 = 1;
/// Bytes from which a page ends, by estimate.
const PAGE_BYTES: usize = 1 << 20;
/// Memories and sessions that one page looks at beside those that it gives.
const LOOKED_AT: usize = 4096;
/// Bytes of a memory's line beside its texts and vectors, nearly.
const LINE_BYTES: usize = 320;

/// A page of an export, not yet written.
pub struct Exported {
    view: Snapshot,
    pieces: Vec<Piece>,
    bytes: usize,
    next: String,
}

enum Piece {
    Line(String),
    Memory { slot: u32, turn: bool },
}

impl Exported {
    /// The cursor of the next page; `0` at the end.
    pub fn next(&self) -> &str {
        &self.next
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes of the lines, nearly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes the lines.
    pub fn lines(self) -> Vec<String> {
        let view = &self.view;
        let line = |piece: Piece| match piece {
            Piece::Line(line) => Some(line),
            Piece::Memory { slot, turn } => memory_line(view, slot, turn),
        };
        self.pieces.into_iter().filter_map(line).collect()
    }
}

/// Behind what a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Nothing.
    Start,
    /// The session of this name and all of its turns.
    Session(Box<str>),
    /// The record of the session of this name, and this of its turns.
    Turn(Box<str>, MemoryId),
    /// The memory of this id and all sessions.
    Memory(MemoryId),
    /// The link from this memory to that one, of this name, and all memories; `0-0` for that one: all links of this memory.
    Link(MemoryId, MemoryId, Box<str>),
}

/// Where an export goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cursor {
    /// A hash of the kind of vectors when it began, which the first line says.
    kind: u32,
    /// The largest id when it began.
    bound: MemoryId,
    stage: Stage,
}

impl Cursor {
    fn write(&self) -> String {
        // `0-0` is no id that reads back.
        let id = |id: MemoryId| if id == MemoryId::ZERO { "0".to_owned() } else { id.to_string() };
        let (kind, bound) = (self.kind, id(self.bound));
        match &self.stage {
            Stage::Start => "0".to_owned(),
            Stage::Session(name) => format!("s:{kind}:{bound}:{}", base64::encode(name.as_bytes())),
            Stage::Turn(name, turn) => format!("t:{kind}:{bound}:{}:{}", id(*turn), base64::encode(name.as_bytes())),
            Stage::Memory(last) => format!("m:{kind}:{bound}:{}", id(*last)),
            Stage::Link(from, to, rel) => {
                format!("l:{kind}:{bound}:{}:{}:{}", id(*from), id(*to), base64::encode(rel.as_bytes()))
            }
        }
    }

    fn read(text: &str) -> Option<Cursor> {
        let id = |text: &str| if text == "0" { Some(MemoryId::ZERO) } else { text.parse().ok() };
        let name = |text: &str| String::from_utf8(base64::decode(text)?).ok().map(String::into_boxed_str);
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let (kind, bound, stage) = match parts[..] {
            ["s", kind, bound, session] => (kind, bound, Stage::Session(name(session)?)),
            ["t", kind, bound, turn, session] => (kind, bound, Stage::Turn(name(session)?, id(turn)?)),
            ["m", kind, bound, last] => (kind, bound, Stage::Memory(id(last)?)),
            ["l", kind, bound, from, to, rel] => (kind, bound, Stage::Link(id(from)?, id(to)?, name(rel)?)),
            _ => return None,
        };
        Some(Cursor { kind: kind.parse().ok()?, bound: id(bound)?, stage })
    }
}

/// A page that is being filled.
struct Page<'a> {
    space: &'a Space,
    now: Millis,
    bound: MemoryId,
    /// Lines that it may still get, and places that may still be looked at.
    lines: usize,
    looks: usize,
    bytes: usize,
    pieces: Vec<Piece>,
}

impl Space {
    /// One step of an export: up to `count` lines (two at least) behind the cursor, which is `0` at the start, and the cursor of the next step. Fewer lines, or none, may
    /// come before the end.
    ///
    /// Errors: a text that is no cursor; STALE if the space has other vectors than its first line said.
    pub fn export(&self, now: Millis, cursor: &str, count: usize) -> Result<Exported> {
        let cursor = match cursor {
            "0" => Some(Cursor { kind: self.kind(), bound: self.last_id, stage: Stage::Start }),
            text => Cursor::read(text),
        };
        let Some(Cursor { kind, bound, mut stage }) = cursor else {
            return Err(Error::new("the cursor is not one that MEM.EXPORT gave: begin with 0"));
        };
        if kind != self.kind() {
            return Err(Error::with_code(
                "STALE",
                "the space has got vectors of another kind since the export began: begin again with 0",
            ));
        }
        let lines = count.max(1);
        let mut page = Page {
            space: self,
            now,
            bound,
            lines,
            looks: lines.saturating_add(LOOKED_AT),
            bytes: 0,
            pieces: Vec::new(),
        };
        let next = loop {
            if page.is_full() {
                break Cursor { kind, bound, stage }.write();
            }
            match page.step(stage) {
                Some(further) => stage = further,
                None => break "0".to_owned(),
            }
        };
        let Page { pieces, bytes, .. } = page;
        Ok(Exported { view: self.snapshot(), pieces, bytes, next })
    }

    /// A hash of what its vectors are.
    fn kind(&self) -> u32 {
        let mut hasher = SipHasher13::new();
        (self.model(), self.dim(), self.view.precision().name()).hash(&mut hasher);
        hasher.finish() as u32
    }

    fn is_turn(&self, now: Millis, slot: u32) -> bool {
        let records = &self.view.records;
        let session = || records.record(slot).and_then(|record| record.session);
        records.held(slot).is_some() && session().is_some_and(|session| self.session(now, session).is_some())
    }
}

impl Page<'_> {
    fn is_full(&self) -> bool {
        self.lines == 0 || self.looks == 0 || self.bytes >= PAGE_BYTES
    }

    fn line(&mut self, kind: &str, value: Value) {
        let line = written(kind, value);
        self.bytes += line.len();
        self.lines = self.lines.saturating_sub(1);
        self.pieces.push(Piece::Line(line));
    }

    fn memory(&mut self, slot: u32, turn: bool) {
        let records = &self.space.view.records;
        let texts = records.record(slot).map_or(0, |record| record.len);
        let row = self.space.view.rows.as_ref().map_or(0, |rows| rows.precision().bytes(rows.dim()));
        let vectors = records.windows(slot) * row + records.signs(slot).len();
        self.bytes += LINE_BYTES + texts + vectors.div_ceil(3) * 4;
        self.lines = self.lines.saturating_sub(1);
        self.pieces.push(Piece::Memory { slot, turn });
    }

    /// Goes on as far as the page has room, within one stage. None at the end.
    fn step(&mut self, stage: Stage) -> Option<Stage> {
        match stage {
            Stage::Start => {
                self.line("space", space_json(self.space));
                Some(Stage::Session("".into()))
            }
            Stage::Session(name) => Some(self.sessions(name)),
            Stage::Turn(name, turn) => Some(self.turns(name, turn)),
            Stage::Memory(last) => Some(self.memories(last)),
            Stage::Link(from, to, rel) => self.links(from, to, rel),
        }
    }

    fn sessions(&mut self, after: Box<str>) -> Stage {
        let mut last = after.clone();
        for (name, session) in self.space.sessions.range::<str, _>((Bound::Excluded(&*after), Bound::Unbounded)) {
            if self.looks == 0 {
                return Stage::Session(last);
            }
            self.looks -= 1;
            last.clone_from(name);
            if self.space.session(self.now, name).is_some() {
                self.line("session", session_json(name, session));
                return Stage::Turn(last, MemoryId::ZERO);
            }
        }
        Stage::Memory(MemoryId::ZERO)
    }

    fn turns(&mut self, name: Box<str>, after: MemoryId) -> Stage {
        let Some(session) = self.space.session(self.now, &name) else { return Stage::Session(name) };
        let slots = session.turn_slots();
        let id = |slot: &u32| self.space.view.id(*slot);
        // The order only loses and grows at its end. If the last one that was given has gone, it is found by ids, which mostly rise; if they do not, all
        // come again, which an import passes over.
        let last = self.space.slot(after).and_then(|slot| slots.iter().position(|turn| *turn == slot));
        let first = match last {
            Some(last) => last + 1,
            None if slots.is_sorted_by_key(id) => slots.partition_point(|slot| id(slot) <= after),
            None => 0,
        };
        let mut last_id = after;
        for slot in slots.iter().skip(first) {
            if self.is_full() {
                return Stage::Turn(name, last_id);
            }
            self.looks -= 1;
            last_id = self.space.view.id(*slot);
            if self.is_given(*slot) {
                self.memory(*slot, true);
            }
        }
        if let Some(summary) = session.summary() {
            if self.is_full() {
                return Stage::Turn(name, last_id);
            }
            let covered = slots.iter().take(summary.covered).filter(|slot| self.is_given(**slot)).count();
            self.line("summary", summary_json(&name, summary, covered));
        }
        Stage::Session(name)
    }

    fn memories(&mut self, after: MemoryId) -> Stage {
        let view = &self.space.view;
        let key = |slot| view.id(slot);
        let mut before = self.space.ids.range(MemoryId::ZERO, after.next(), key).next_back();
        let mut last = after;
        for slot in self.space.ids.range_from(after.next(), key) {
            let id = view.id(slot);
            if id > self.bound {
                break;
            }
            if self.is_full() {
                return Stage::Memory(last);
            }
            self.looks -= 1;
            if self.is_given(slot) && !self.space.is_turn(self.now, slot) {
                if let Some(document) = self.begins(before, slot) {
                    // The two are not parted: the next page would begin with the document again.
                    if self.lines < 2 && !self.pieces.is_empty() {
                        self.lines = 0;
                        return Stage::Memory(last);
                    }
                    self.line("document", document_json(document));
                }
                self.memory(slot, false);
            }
            last = id;
            before = Some(slot);
        }
        Stage::Link(MemoryId::ZERO, MemoryId::ZERO, "".into())
    }

    fn links(&mut self, from: MemoryId, to: MemoryId, rel: Box<str>) -> Option<Stage> {
        let space = self.space;
        let first = if to == MemoryId::ZERO { from.next() } else { from };
        let given = (from, to, rel);
        let mut last = given.clone();
        // A space without links is not walked for them.
        let slots = (space.links() > 0).then(|| space.ids.range_from(first, |slot| space.view.id(slot)));
        for slot in slots.into_iter().flatten() {
            let id = space.view.id(slot);
            if id > self.bound {
                break;
            }
            if self.is_full() {
                return Some(Stage::Link(last.0, last.1, last.2));
            }
            self.looks -= 1;
            let links = if self.is_given(slot) { space.links_from(id) } else { Vec::new() };
            for link in links {
                let other = space.slot(link.to).is_some_and(|other| self.is_given(other));
                let place = (link.from, link.to, link.rel.clone());
                if !other || place <= given {
                    continue;
                }
                if self.is_full() {
                    return Some(Stage::Link(last.0, last.1, last.2));
                }
                self.line("link", link_json(&link));
                last = place;
            }
            last = (id, MemoryId::ZERO, "".into());
        }
        if self.is_full() {
            return Some(Stage::Link(last.0, last.1, last.2));
        }
        self.line("counters", counters_json(&self.space.counters()));
        None
    }

    /// Whether a memory can be in the export.
    fn is_given(&self, slot: u32) -> bool {
        let view = &self.space.view;
        view.id(slot) <= self.bound && !view.records.is_expired(slot, self.now) && !is_hidden(view, slot)
    }

    /// The document whose run of chunks a memory begins.
    fn begins(&self, before: Option<u32>, slot: u32) -> Option<&Document> {
        let records = &self.space.view.records;
        let doc = |slot: u32| records.record(slot).and_then(|record| record.doc);
        let own = doc(slot)?;
        let goes_on = before.is_some_and(|before| self.is_given(before) && doc(before) == Some(own));
        self.space.document(own).filter(|_| !goes_on)
    }
}

fn written(kind: &str, value: Value) -> String {
    let mut line = Map::new();
    line.insert(kind.to_owned(), value);
    Value::Object(line).to_string()
}

/// The members of an object, in order; what is unset is left out.
#[derive(Default)]
struct Members(Map<String, Value>);

impl Members {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }

    /// A flag that is false unless it is there.
    fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.put(name, true);
        }
    }

    fn meta(&mut self, name: &str, value: Option<&Map<String, Value>>) {
        if let Some(value) = value {
            self.put(name, value.clone());
        }
    }
}

fn space_json(space: &Space) -> Value {
    let mut members = Members::default();
    members.put("format", FORMAT);
    if let Some(dim) = space.dim() {
        members.text("model", space.model());
        members.put("dimensions", dim);
        members.put("precision", space.view.precision().name());
    }
    if space.last_id.is_valid() {
        members.put("last_id", space.last_id.to_string());
    }
    let settings: Map<String, Value> =
        space.settings("*").into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    members.put("settings", settings);
    Value::Object(members.0)
}

fn session_json(name: &str, session: &Session) -> Value {
    let mut members = Members::default();
    members.put("id", name);
    members.put("created", session.created());
    members.put("expires", session.expires());
    members.meta("metadata", session.meta());
    let fields: Map<String, Value> =
        session.fields().iter().map(|(name, value)| (String::from(&**name), Value::from(&**value))).collect();
    if !fields.is_empty() {
        members.put("fields", fields);
    }
    Value::Object(members.0)
}

fn summary_json(name: &str, summary: &Summary, covered: usize) -> Value {
    let mut members = Members::default();
    members.put("session", name);
    members.put("text", &*summary.text);
    members.put("tokens", summary.tokens);
    members.put("turns", covered);
    members.put("at", summary.at);
    members.text("model", summary.model.as_deref());
    Value::Object(members.0)
}

fn document_json(document: &Document) -> Value {
    let mut members = Members::default();
    members.put("name", &*document.name);
    members.text("type", document.kind.as_deref());
    members.text("source", document.source.as_deref());
    members.put("at", document.at);
    members.put("created", document.created);
    members.put("bytes", document.bytes);
    members.put("tokens", document.tokens);
    members.put("chunks", document.chunks);
    members.meta("meta", document.meta.as_ref());
    Value::Object(members.0)
}

fn link_json(link: &Link) -> Value {
    let mut members = Members::default();
    members.put("from", link.from.to_string());
    members.put("to", link.to.to_string());
    members.put("rel", &*link.rel);
    members.put("weight", link.weight);
    members.put("at", link.at);
    members.text("reason", link.reason.as_deref());
    Value::Object(members.0)
}

fn counters_json(counters: &Counters) -> Value {
    json!({
        "hits": counters.hits, "misses": counters.misses, "stores": counters.stores, "duplicates": counters.duplicates,
        "evictions": counters.evictions, "promotions": counters.promotions, "expirations": counters.expirations,
        "merges": counters.merges,
    })
}

fn memory_line(view: &Snapshot, slot: u32, turn: bool) -> Option<String> {
    let entry = view.records.entry(slot)?;
    let mut members = entry_members(&entry);
    let mut bytes = Vec::new();
    let mut vectors: Vec<Value> = Vec::new();
    if let Some(rows) = &view.rows {
        view.records.each_row(slot, |row| {
            bytes.clear();
            rows.append_bytes(row, &mut bytes);
            vectors.push(base64::encode(&bytes).into());
        });
    }
    if vectors.is_empty() {
        members.put("noembed", !entry.awaits);
    } else {
        let precision = view.row_precision(slot).filter(|precision| *precision != view.precision());
        members.text("precision", precision.map(Precision::name));
        members.put("vectors", vectors);
    }
    let signs = view.records.signs(slot);
    if !signs.is_empty() {
        members.put("token_vectors", base64::encode(signs));
    }
    Some(written(if turn { "turn" } else { "memory" }, Value::Object(members.0)))
}

/// All but the vectors.
fn entry_members(entry: &Entry) -> Members {
    let mut members = Members::default();
    members.put("id", entry.id.to_string());
    members.put("tier", entry.tier.name());
    members.put("type", &*entry.kind);
    for (name, text) in [
        ("session", &entry.session),
        ("role", &entry.role),
        ("speaker", &entry.speaker),
        ("source", &entry.source),
        ("outcome", &entry.outcome),
    ] {
        members.text(name, text.as_deref());
    }
    members.put("content", &*entry.content);
    members.put("importance", entry.importance);
    members.put("confidence", entry.confidence);
    members.put("at", entry.at);
    if let Some(passage) = &entry.passage {
        members.put("doc", &*passage.doc);
        members.put("position", passage.position);
        members.put("total", passage.total);
        members.put("start", passage.start);
        members.put("end", passage.end);
    }
    if entry.tokens > 0 {
        members.put("tokens", entry.tokens);
    }
    if !entry.tags.is_empty() {
        members.put("tags", entry.tags.iter().map(|tag| Value::from(&**tag)).collect::<Vec<_>>());
    }
    members.meta("meta", entry.meta.as_ref());
    if !entry.from.is_empty() {
        members.put("from", entry.from.iter().map(|id| Value::from(id.to_string())).collect::<Vec<_>>());
    }
    if let Some(id) = entry.supersedes {
        members.put("supersedes", id.to_string());
    }
    if let Some(superseded) = entry.superseded {
        members.put("superseded", json!({"by": superseded.by.to_string(), "at": superseded.at}));
    }
    members.put("created", entry.created);
    members.put("entered", entry.entered);
    members.put("expires", entry.expires);
    members.flag("own_expiry", entry.own_expiry);
    members.flag("read", entry.marks.read);
    members.flag("summed", entry.marks.summed);
    members.flag("linked", entry.marks.linked);
    members.flag("pinned", entry.pinned);
    members.put("accessed", entry.accessed);
    members.put("uses", entry.uses);
    if entry.heat != Heat::Hot {
        members.put("heat", entry.heat.name());
    }
    if entry.template != 0 {
        members.put("template", entry.template);
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back() {
        let id = MemoryId { ms: 5, seq: 7 };
        for stage in [
            Stage::Session("".into()),
            Stage::Session("a:b \u{1f408}\n".into()),
            Stage::Turn("s".into(), MemoryId::ZERO),
            Stage::Turn("s".into(), id),
            Stage::Memory(MemoryId::ZERO),
            Stage::Memory(id),
            Stage::Link(MemoryId::ZERO, MemoryId::ZERO, "".into()),
            Stage::Link(id, id, "a:b".into()),
        ] {
            for bound in [MemoryId::ZERO, id] {
                let cursor = Cursor { kind: 3, bound, stage: stage.clone() };
                assert_eq!(Cursor::read(&cursor.write()), Some(cursor));
            }
        }
        for text in [
            "",
            "1",
            "s",
            "s:3:0",
            "s:3:0:!",
            "s:3:0:/w==",
            "t:3:0:0",
            "m:3:0:x",
            "m:3:0:0:0",
            "x:3:0:0",
            "m:3:5-7:5",
            "m:-1:0:0",
        ] {
            assert_eq!(Cursor::read(text), None, "{text}");
        }
    }
}
