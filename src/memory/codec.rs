//! Effects as bytes: one form for snapshot files, the append-only file, replication, DUMP and the fuzzer.
//!
//! A batch is a version byte and effects until its end; an effect is a tag byte and its fields in order. Whole numbers are
//! LEB128 (7 bits per byte, lowest first), floats their little-endian bits, texts and lists have their length in front, options
//! a 0 or 1, META is its JSON text. A memory has a bit set in front of its fields; those that have their usual value (a creation at the
//! time of the id, no session, an importance of 0.5) are left out: 40 bytes of memory instead of 110 beside a vector of 384. The bytes may come from anyone: each length is checked against its limit and against the
//! bytes that are left before anything is allocated for it, each value against its range. What the space must agree to (does the
//! memory exist, does the dimension fit) is checked when the effect is applied.
//!
//! Rejected: a self-describing form (three times the size, and its freedom would have to be checked too) and a length per effect
//! for skipping unknown ones: a reader that skips a change it does not know holds other data than its primary.

use crate::document::Document;
use crate::effect::{Counters, Effect, Patch, Removal, Staged};
use crate::entry::{Entry, Marks, Meta, Passage, Superseded};
use crate::graph::Link;
use crate::heat::Heat;
use crate::rows::{Precision, Vector};
use crate::session::{SessionPatch, Summary};
use crate::tokens::Signs;
use crate::{Error, MemoryId, Millis, Result, Tier, limits};

/// The version of the form that is written. Readers take this one.
pub const VERSION: u8 = 2;

mod tag {
    pub const MODEL: u8 = 1;
    pub const PUT: u8 = 2;
    pub const PATCH: u8 = 3;
    pub const REMOVE: u8 = 4;
    pub const DUPLICATE: u8 = 5;
    pub const USE: u8 = 6;
    pub const SET: u8 = 7;
    pub const COUNTERS: u8 = 8;
    pub const LAST_ID: u8 = 9;
    pub const STAGE: u8 = 10;
    pub const STAGED: u8 = 11;
    pub const SWITCH: u8 = 12;
    pub const UNSTAGE: u8 = 13;
    pub const SESSION: u8 = 14;
    pub const TURNS: u8 = 15;
    pub const END_SESSION: u8 = 16;
    pub const DOCUMENT: u8 = 17;
    pub const SHOW_DOCUMENT: u8 = 18;
    pub const DROP_DOCUMENT: u8 = 19;
    pub const LINK: u8 = 20;
    pub const UNLINK: u8 = 21;
    pub const MARK: u8 = 22;
    pub const HEAT: u8 = 23;
    pub const DICTIONARY: u8 = 24;
}

/// Writes effects as one batch behind what `out` holds.
pub fn encode_batch<'a>(effects: impl IntoIterator<Item = &'a Effect>, out: &mut Vec<u8>) {
    out.push(VERSION);
    for effect in effects {
        effect.encode(out);
    }
}

/// Reads a batch. Errors say what was wrong and at which byte.
pub fn decode_batch(bytes: &[u8]) -> Result<Vec<Effect>> {
    let mut reader = Reader { bytes, at: 0 };
    let version = reader.byte()?;
    if version != VERSION {
        return Err(Error::new(format!("effects of version {version}: this build reads version {VERSION}")));
    }
    let mut effects = Vec::new();
    while reader.at < bytes.len() {
        effects.push(reader.effect()?);
    }
    Ok(effects)
}

impl Effect {
    /// Writes the effect. Several after a version byte are a batch: see [`encode_batch`].
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Effect::Model { model, dim, precision } => put_kind(out, tag::MODEL, model, *dim, *precision),
            Effect::Put { entry, vectors, signs } => {
                encode_put(out, entry, |out| {
                    put_vectors(out, vectors);
                    put_signs(out, signs);
                });
            }
            Effect::Patch { id, patch } => {
                out.push(tag::PATCH);
                put_id(out, *id);
                put_patch(out, patch);
            }
            Effect::Remove { ids, reason } => {
                out.push(tag::REMOVE);
                out.push(*reason as u8);
                put_list(out, ids, |out, id| put_id(out, *id));
            }
            Effect::Duplicate { id, importance, accessed, uses } => {
                out.push(tag::DUPLICATE);
                put_id(out, *id);
                put_f64(out, *importance);
                put(out, *accessed);
                put(out, u64::from(*uses));
            }
            Effect::Use(uses) => {
                out.push(tag::USE);
                put_list(out, uses, |out, (id, accessed, uses)| {
                    put_id(out, *id);
                    put(out, *accessed);
                    put(out, u64::from(*uses));
                });
            }
            Effect::Set { name, value } => {
                out.push(tag::SET);
                put_text(out, name);
                put_text(out, value);
            }
            Effect::Counters(counters) => {
                out.push(tag::COUNTERS);
                let c = counters;
                for n in [c.hits, c.misses, c.stores, c.duplicates, c.evictions, c.promotions, c.expirations, c.merges]
                {
                    put(out, n);
                }
            }
            Effect::LastId(id) => {
                out.push(tag::LAST_ID);
                put_id(out, *id);
            }
            Effect::Stage { model, dim, precision } => put_kind(out, tag::STAGE, model, *dim, *precision),
            Effect::Staged(staged) => {
                out.push(tag::STAGED);
                put_list(out, staged, |out, staged| {
                    put_staged(out, staged.id, staged.template, |out| {
                        put_vectors(out, &staged.vectors);
                        put_signs(out, &staged.signs);
                    });
                });
            }
            Effect::Switch => out.push(tag::SWITCH),
            Effect::Unstage => out.push(tag::UNSTAGE),
            Effect::Session(patch) => put_session(out, patch),
            Effect::Turns { session, ids } => {
                out.push(tag::TURNS);
                put_text(out, session);
                put_list(out, ids, |out, id| put_id(out, *id));
            }
            Effect::EndSession { name, turns } => {
                out.push(tag::END_SESSION);
                put_text(out, name);
                out.push(u8::from(*turns));
            }
            Effect::Mark { ids, marks, on } => {
                out.push(tag::MARK);
                out.push(marks.bits());
                out.push(u8::from(*on));
                put_list(out, ids, |out, id| put_id(out, *id));
            }
            Effect::Heat { to, ids } => {
                out.push(tag::HEAT);
                out.push(*to as u8);
                put_list(out, ids, |out, id| put_id(out, *id));
            }
            Effect::Dictionary(bytes) => put_dictionary(out, bytes),
            Effect::Document(document) => put_document(out, document),
            Effect::ShowDocument { name, expires } => {
                out.push(tag::SHOW_DOCUMENT);
                put_text(out, name);
                put_time(out, *expires);
            }
            Effect::DropDocument { name, staged } => {
                out.push(tag::DROP_DOCUMENT);
                put_text(out, name);
                out.push(u8::from(*staged));
            }
            Effect::Link(link) => put_link(out, link),
            Effect::Unlink { from, to, rel } => {
                out.push(tag::UNLINK);
                put_id(out, *from);
                put_id(out, *to);
                put_name(out, rel);
            }
        }
    }
}

/// Writes a DICTIONARY without an [`Effect`] around it.
pub(crate) fn put_dictionary(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(tag::DICTIONARY);
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes a PUT without an [`Effect`] around it: a space saves itself without copying its vectors.
pub(crate) fn encode_put(out: &mut Vec<u8>, entry: &Entry, put_vectors: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag::PUT);
    put_entry_data(out, entry);
    put(out, entry.accessed);
    put(out, u64::from(entry.uses));
    put_vectors(out);
}

/// Writes a STAGED of one memory, for the same reason.
pub(crate) fn encode_staged(out: &mut Vec<u8>, id: MemoryId, template: u16, put_vectors: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag::STAGED);
    put(out, 1);
    put_staged(out, id, template, put_vectors);
}

fn put_staged(out: &mut Vec<u8>, id: MemoryId, template: u16, put_vectors: impl FnOnce(&mut Vec<u8>)) {
    put_id(out, id);
    put(out, u64::from(template));
    put_vectors(out);
}

fn put_session(out: &mut Vec<u8>, patch: &SessionPatch) {
    out.push(tag::SESSION);
    put_text(out, &patch.name);
    put(out, patch.created);
    put_time(out, patch.expires);
    put_list(out, &patch.fields, |out, (name, value)| {
        put_text(out, name);
        put_name(out, value);
    });
    put_option(out, &patch.meta, put_meta);
    put_option(out, &patch.summary, |out, summary| {
        put_option(out, summary, |out, summary| {
            put_text(out, &summary.text);
            put(out, summary.tokens.into());
            put(out, summary.covered as u64);
            put(out, summary.at);
            put_name(out, &summary.model);
        });
    });
}

fn put_document(out: &mut Vec<u8>, document: &Document) {
    out.push(tag::DOCUMENT);
    put_text(out, &document.name);
    put_name(out, &document.kind);
    put_name(out, &document.source);
    [document.at, document.created, document.bytes, document.tokens, document.chunks.into()]
        .into_iter()
        .for_each(|number| put(out, number));
    put_meta(out, &document.meta);
}

fn put_link(out: &mut Vec<u8>, link: &Link) {
    out.push(tag::LINK);
    put_id(out, link.from);
    put_id(out, link.to);
    put_text(out, &link.rel);
    put_f64(out, link.weight);
    put(out, link.at);
    put_name(out, &link.reason);
}

fn put_time(out: &mut Vec<u8>, time: Option<Millis>) {
    put_option(out, &time, |out, time| put(out, *time));
}

/// What vectors are: their model, length and precision.
fn put_kind(out: &mut Vec<u8>, tag: u8, model: &Option<String>, dim: u32, precision: Precision) {
    out.push(tag);
    put_option(out, model, |out, model| put_text(out, model));
    put(out, u64::from(dim));
    out.push(precision as u8);
}

pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_id(out: &mut Vec<u8>, id: MemoryId) {
    put(out, id.ms);
    put(out, id.seq);
}

fn put_option<T>(out: &mut Vec<u8>, value: &Option<T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            put(out, value);
        }
    }
}

fn put_list<T>(out: &mut Vec<u8>, items: &[T], mut put_item: impl FnMut(&mut Vec<u8>, &T)) {
    put(out, items.len() as u64);
    for item in items {
        put_item(out, item);
    }
}

fn put_name(out: &mut Vec<u8>, name: &Option<Box<str>>) {
    put_option(out, name, |out, name| put_text(out, name));
}

fn put_meta(out: &mut Vec<u8>, meta: &Option<Meta>) {
    put_option(out, meta, put_meta_text);
}

fn put_meta_text(out: &mut Vec<u8>, meta: &Meta) {
    // A JSON map with text keys always has a text.
    put_text(out, &serde_json::to_string(meta).unwrap_or_else(|_| "{}".into()));
}

/// What stands in front of the vectors of a memory: how many, of what length and precision.
pub(crate) fn put_vectors_head(out: &mut Vec<u8>, count: usize, dim: usize, precision: Precision) {
    put(out, count as u64);
    if count > 0 {
        put(out, dim as u64);
        out.push(precision as u8);
    }
}

fn put_vectors(out: &mut Vec<u8>, vectors: &[Vector]) {
    let head = vectors.first().map_or((0, Precision::default()), |vector| (vector.dim(), vector.precision()));
    put_vectors_head(out, vectors.len(), head.0, head.1);
    vectors.iter().for_each(|vector| vector.write(out));
}

/// What stands in front of the signs of word vectors: how many words of 64.
pub(crate) fn put_signs_head(out: &mut Vec<u8>, words: usize) {
    put(out, words as u64);
}

fn put_signs(out: &mut Vec<u8>, signs: &Signs) {
    put_signs_head(out, signs.len());
    signs.write(out);
}

/// The fields of a memory that do not have their usual value; a record in memory (`record`) marks its texts by the same bits.
pub(crate) mod has {
    pub const KIND: u64 = 1;
    pub const OUTCOME: u64 = 1 << 1;
    pub const SESSION: u64 = 1 << 2;
    pub const SPEAKER: u64 = 1 << 3;
    pub const ROLE: u64 = 1 << 4;
    pub const SOURCE: u64 = 1 << 5;
    pub const FROM: u64 = 1 << 6;
    pub const TAGS: u64 = 1 << 7;
    pub const META: u64 = 1 << 8;
    pub const SUPERSEDES: u64 = 1 << 9;
    pub const SUPERSEDED: u64 = 1 << 10;
    pub const IMPORTANCE: u64 = 1 << 11;
    pub const CONFIDENCE: u64 = 1 << 12;
    pub const AT: u64 = 1 << 13;
    pub const CREATED: u64 = 1 << 14;
    pub const ENTERED: u64 = 1 << 15;
    pub const EXPIRES: u64 = 1 << 16;
    pub const OWN_EXPIRY: u64 = 1 << 17;
    pub const PINNED: u64 = 1 << 18;
    pub const PASSAGE: u64 = 1 << 19;
    pub const TOKENS: u64 = 1 << 20;
    pub const AWAITS: u64 = 1 << 21;
    pub const READ: u64 = 1 << 22;
    pub const SUMMED: u64 = 1 << 23;
    pub const LINKED: u64 = 1 << 24;
    pub const HEAT: u64 = 1 << 25;
    pub const ALL: u64 = (1 << 26) - 1;
}

/// The usual values.
pub(crate) const KIND: &str = "fact";
const IMPORTANCE: f64 = 0.5;
const CONFIDENCE: f64 = 1.0;

/// The bytes of an entry without its use: the digest is made of them too.
pub(crate) fn put_entry_data(out: &mut Vec<u8>, entry: &Entry) {
    let fields = [
        (has::KIND, &*entry.kind != KIND),
        (has::OUTCOME, entry.outcome.is_some()),
        (has::SESSION, entry.session.is_some()),
        (has::SPEAKER, entry.speaker.is_some()),
        (has::ROLE, entry.role.is_some()),
        (has::SOURCE, entry.source.is_some()),
        (has::FROM, !entry.from.is_empty()),
        (has::TAGS, !entry.tags.is_empty()),
        (has::META, entry.meta.is_some()),
        (has::SUPERSEDES, entry.supersedes.is_some()),
        (has::SUPERSEDED, entry.superseded.is_some()),
        (has::IMPORTANCE, entry.importance != IMPORTANCE),
        (has::CONFIDENCE, entry.confidence != CONFIDENCE),
        (has::AT, entry.at != entry.id.ms),
        (has::CREATED, entry.created != entry.id.ms),
        (has::ENTERED, entry.entered != entry.created),
        (has::EXPIRES, entry.expires.is_some()),
        (has::OWN_EXPIRY, entry.own_expiry),
        (has::PINNED, entry.pinned),
        (has::PASSAGE, entry.passage.is_some()),
        (has::TOKENS, entry.tokens > 0),
        (has::AWAITS, entry.awaits),
        (has::READ, entry.marks.read),
        (has::SUMMED, entry.marks.summed),
        (has::LINKED, entry.marks.linked),
        (has::HEAT, entry.heat != Heat::Hot),
    ];
    put(out, fields.iter().filter(|(_, there)| *there).map(|(bit, _)| bit).sum());
    put_id(out, entry.id);
    out.push(entry.tier as u8);
    put(out, u64::from(entry.template));
    put_text(out, &entry.content);
    let there = |field: u64| fields.iter().any(|(bit, there)| *bit == field && *there);
    if there(has::KIND) {
        put_text(out, &entry.kind);
    }
    for name in [&entry.outcome, &entry.session, &entry.speaker, &entry.role, &entry.source].into_iter().flatten() {
        put_text(out, name);
    }
    if there(has::FROM) {
        put_list(out, &entry.from, |out, id| put_id(out, *id));
    }
    if there(has::TAGS) {
        put_list(out, &entry.tags, |out, tag| put_text(out, tag));
    }
    if let Some(meta) = &entry.meta {
        put_meta_text(out, meta);
    }
    if let Some(id) = entry.supersedes {
        put_id(out, id);
    }
    if let Some(superseded) = entry.superseded {
        put_superseded(out, &superseded);
    }
    for (field, value) in [(has::IMPORTANCE, entry.importance), (has::CONFIDENCE, entry.confidence)] {
        if there(field) {
            put_f64(out, value);
        }
    }
    for (field, time) in [(has::AT, entry.at), (has::CREATED, entry.created), (has::ENTERED, entry.entered)] {
        if there(field) {
            put(out, time);
        }
    }
    if let Some(expires) = entry.expires {
        put(out, expires);
    }
    if let Some(passage) = &entry.passage {
        put_passage(out, passage);
    }
    if entry.tokens > 0 {
        put(out, entry.tokens.into());
    }
    if there(has::HEAT) {
        out.push(entry.heat as u8);
    }
}

pub(crate) fn put_passage(out: &mut Vec<u8>, passage: &Passage) {
    put_text(out, &passage.doc);
    let Passage { position, total, start, end, .. } = *passage;
    [position.into(), total.into(), start, end].into_iter().for_each(|number| put(out, number));
}

fn put_superseded(out: &mut Vec<u8>, superseded: &Superseded) {
    put_id(out, superseded.by);
    put(out, superseded.at);
}

fn put_patch(out: &mut Vec<u8>, patch: &Patch) {
    put_option(out, &patch.content, |out, content| put_text(out, content));
    put_option(out, &patch.vectors, |out, (template, vectors, signs)| {
        put(out, u64::from(*template));
        put_vectors(out, vectors);
        put_signs(out, signs);
    });
    put_option(out, &patch.tier, |out, (tier, entered)| {
        out.push(*tier as u8);
        put(out, *entered);
    });
    put_option(out, &patch.expiry, |out, (expires, own)| {
        put_option(out, expires, |out, expires| put(out, *expires));
        out.push(u8::from(*own));
    });
    put_option(out, &patch.kind, |out, kind| put_text(out, kind));
    put_option(out, &patch.importance, |out, importance| put_f64(out, *importance));
    put_option(out, &patch.confidence, |out, confidence| put_f64(out, *confidence));
    for name in [&patch.outcome, &patch.session, &patch.speaker, &patch.role, &patch.source] {
        put_option(out, name, put_name);
    }
    put_option(out, &patch.from, |out, from| put_list(out, from, |out, id| put_id(out, *id)));
    put_option(out, &patch.at, |out, at| put(out, *at));
    put_option(out, &patch.pinned, |out, pinned| out.push(u8::from(*pinned)));
    put_option(out, &patch.tags, |out, tags| put_list(out, tags, |out, tag| put_text(out, tag)));
    put_option(out, &patch.meta, put_meta);
    put_option(out, &patch.supersedes, |out, id| put_option(out, id, |out, id| put_id(out, *id)));
    put_option(out, &patch.superseded, |out, superseded| put_option(out, superseded, put_superseded));
    put_option(out, &patch.tokens, |out, tokens| put(out, u64::from(*tokens)));
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::new(format!("bad effect: {what}, at byte {} of {}", self.at, self.bytes.len()))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(len);
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => Err(self.error(format!("it ends where {len} more bytes belong"))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        <[u8; N]>::try_from(bytes).map_err(|_| self.error("it is cut off"))
    }

    fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self, field: &str) -> Result<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.error(format!("{field} is {other}, neither 0 nor 1"))),
        }
    }

    fn number(&mut self, field: &str) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(self.error(format!("{field} has more than 64 bits")));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.error(format!("{field} has more than 64 bits")))
    }

    fn below(&mut self, field: &str, limit: usize) -> Result<usize> {
        let value = self.number(field)?;
        usize::try_from(value)
            .ok()
            .filter(|value| *value <= limit)
            .ok_or_else(|| self.error(format!("{field} is {value}, at most {limit} is accepted")))
    }

    fn time(&mut self, field: &str) -> Result<Millis> {
        let value = self.number(field)?;
        if value > limits::TIME_MS {
            return Err(self.error(format!("{field} is {value}, beyond the largest time")));
        }
        Ok(value)
    }

    fn f64(&mut self) -> Result<f64> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    fn text(&mut self, field: &str, limit: usize) -> Result<Box<str>> {
        let len = self.below(field, limit)?;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map(Box::from).map_err(|_| self.error(format!("{field} is not UTF-8")))
    }

    fn option<T>(&mut self, field: &str, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.flag(field)? { read(self).map(Some) } else { Ok(None) }
    }

    /// A list grows as its items are read: its claimed length reserves nothing.
    fn list<T>(&mut self, field: &str, limit: usize, mut read: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let len = self.below(field, limit)?;
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(read(self)?);
        }
        items.shrink_to_fit();
        Ok(items)
    }

    fn id(&mut self) -> Result<MemoryId> {
        let id = MemoryId { ms: self.number("an id's time")?, seq: self.number("an id's number")? };
        if id.is_valid() { Ok(id) } else { Err(self.error(format!("{id} is not a memory id"))) }
    }

    fn tier(&mut self) -> Result<Tier> {
        let index = self.byte()?;
        Tier::at(usize::from(index)).ok_or_else(|| self.error(format!("there is no tier {index}")))
    }

    fn heat(&mut self) -> Result<Heat> {
        let code = self.byte()?;
        Heat::ALL.get(usize::from(code)).copied().ok_or_else(|| self.error(format!("there is no heat {code}")))
    }

    fn template(&mut self) -> Result<u16> {
        self.below("template", usize::from(u16::MAX)).map(|n| n as u16)
    }

    fn u32(&mut self, field: &str) -> Result<u32> {
        self.below(field, u32::MAX as usize).map(|n| n as u32)
    }

    fn uses(&mut self) -> Result<u32> {
        self.u32("uses")
    }

    fn passage(&mut self) -> Result<Passage> {
        Ok(Passage {
            doc: self.text("the document's name", limits::NAME_BYTES)?,
            position: self.u32("the position")?,
            total: self.u32("the number of chunks")?,
            start: self.number("the first byte")?,
            end: self.number("the last byte")?,
        })
    }

    fn name(&mut self, field: &str, limit: usize) -> Result<Option<Box<str>>> {
        self.option(field, |r| r.text(field, limit))
    }

    fn from(&mut self) -> Result<Vec<MemoryId>> {
        self.list("FROM", limits::FROM, Reader::id)
    }

    fn tags(&mut self) -> Result<Vec<Box<str>>> {
        self.list("TAGS", limits::TAGS, |r| r.text("a tag", limits::TAG_BYTES))
    }

    fn meta(&mut self) -> Result<Meta> {
        // The JSON text of what the limit lets through can be longer than the limit: characters are escaped.
        let text = self.text("META", limits::META_BYTES * 6)?;
        serde_json::from_str(&text).map_err(|error| self.error(format!("META is not a JSON object ({error})")))
    }

    fn superseded(&mut self) -> Result<Superseded> {
        Ok(Superseded { by: self.id()?, at: self.time("superseded")? })
    }

    fn precision(&mut self) -> Result<Precision> {
        let code = self.byte()?;
        Precision::of_code(code).ok_or_else(|| self.error(format!("there is no precision {code}")))
    }

    fn vectors(&mut self) -> Result<Vec<Vector>> {
        let count = self.below("the number of vectors", limits::WINDOWS)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let dim = self.below("the dimension", limits::DIMENSIONS)?;
        if dim == 0 {
            return Err(self.error("a vector has at least one dimension"));
        }
        let precision = self.precision()?;
        let size = precision.bytes(dim);
        let bytes = self.take(count * size)?;
        Ok(bytes.chunks_exact(size).map(|row| Vector::read(row, dim, precision)).collect())
    }

    fn signs(&mut self) -> Result<Signs> {
        let words = self.below("the number of signs", Signs::max_words())?;
        Ok(Signs::read(self.take(words * size_of::<u64>())?))
    }

    fn kind(&mut self) -> Result<(Option<String>, u32, Precision)> {
        let model = self.option("model", |r| r.text("model", limits::MODEL_BYTES))?.map(String::from);
        Ok((model, self.below("the dimension", limits::DIMENSIONS)? as u32, self.precision()?))
    }

    fn effect(&mut self) -> Result<Effect> {
        Ok(match self.byte()? {
            tag::MODEL => {
                let (model, dim, precision) = self.kind()?;
                Effect::Model { model, dim, precision }
            }
            tag::PUT => {
                let mut entry = self.entry()?;
                let vectors = self.vectors()?;
                entry.windows = vectors.len() as u16;
                Effect::Put { entry: Box::new(entry), vectors, signs: self.signs()? }
            }
            tag::PATCH => Effect::Patch { id: self.id()?, patch: Box::new(self.patch()?) },
            tag::REMOVE => {
                let reason = self.byte()?;
                let reason = *Removal::ALL
                    .get(usize::from(reason))
                    .ok_or_else(|| self.error(format!("there is no removal for reason {reason}")))?;
                Effect::Remove { reason, ids: self.list("the number of ids", limits::EFFECT_IDS, Reader::id)? }
            }
            tag::DUPLICATE => Effect::Duplicate {
                id: self.id()?,
                importance: self.f64()?,
                accessed: self.time("accessed")?,
                uses: self.uses()?,
            },
            tag::USE => Effect::Use(
                self.list("the number of ids", limits::EFFECT_IDS, |r| Ok((r.id()?, r.time("accessed")?, r.uses()?)))?,
            ),
            tag::SET => Effect::Set {
                name: self.text("a setting's name", limits::NAME_BYTES)?.into(),
                value: self.text("a setting's value", limits::SETTING_BYTES)?.into(),
            },
            tag::COUNTERS => {
                let mut next = || self.number("a counter");
                Effect::Counters(Counters {
                    hits: next()?,
                    misses: next()?,
                    stores: next()?,
                    duplicates: next()?,
                    evictions: next()?,
                    promotions: next()?,
                    expirations: next()?,
                    merges: next()?,
                })
            }
            tag::LAST_ID => Effect::LastId(self.id()?),
            tag::STAGE => {
                let (model, dim, precision) = self.kind()?;
                Effect::Stage { model, dim, precision }
            }
            tag::STAGED => Effect::Staged(self.list("the number of staged memories", limits::STAGED, |r| {
                Ok(Staged { id: r.id()?, template: r.template()?, vectors: r.vectors()?, signs: r.signs()? })
            })?),
            tag::SWITCH => Effect::Switch,
            tag::UNSTAGE => Effect::Unstage,
            tag::SESSION => Effect::Session(Box::new(self.session()?)),
            tag::TURNS => Effect::Turns {
                session: self.text("SESSION", limits::NAME_BYTES)?,
                ids: self.list("the number of ids", limits::EFFECT_IDS, Reader::id)?,
            },
            tag::END_SESSION => {
                Effect::EndSession { name: self.text("SESSION", limits::NAME_BYTES)?, turns: self.flag("the turns")? }
            }
            tag::MARK => Effect::Mark {
                marks: Marks::from_bits(self.byte()?)
                    .ok_or_else(|| self.error("marks that mean nothing".to_owned()))?,
                on: self.flag("whether marks are set")?,
                ids: self.list("the number of ids", limits::EFFECT_IDS, Reader::id)?,
            },
            tag::HEAT => {
                Effect::Heat { to: self.heat()?, ids: self.list("the number of ids", limits::EFFECT_IDS, Reader::id)? }
            }
            tag::DICTIONARY => {
                let len = self.below("the bytes of a dictionary", limits::DICTIONARY_BYTES)?;
                Effect::Dictionary(self.take(len)?.into())
            }
            tag::DOCUMENT => Effect::Document(Box::new(self.document()?)),
            tag::SHOW_DOCUMENT => Effect::ShowDocument {
                name: self.text("the document's name", limits::NAME_BYTES)?,
                expires: self.option("expires", |r| r.time("expires"))?,
            },
            tag::DROP_DOCUMENT => Effect::DropDocument {
                name: self.text("the document's name", limits::NAME_BYTES)?,
                staged: self.flag("staged")?,
            },
            tag::LINK => Effect::Link(Box::new(Link {
                from: self.id()?,
                to: self.id()?,
                rel: self.text("REL", limits::NAME_BYTES)?,
                weight: self.f64()?,
                at: self.time("the time of a link")?,
                reason: self.name("the reason", limits::REASON_BYTES)?,
            })),
            tag::UNLINK => {
                Effect::Unlink { from: self.id()?, to: self.id()?, rel: self.name("REL", limits::NAME_BYTES)? }
            }
            other => return Err(self.error(format!("there is no effect {other}"))),
        })
    }

    fn session(&mut self) -> Result<SessionPatch> {
        Ok(SessionPatch {
            name: self.text("SESSION", limits::NAME_BYTES)?,
            created: self.time("created")?,
            expires: self.option("expires", |r| r.time("expires"))?,
            fields: self.list("the number of fields", limits::SESSION_FIELDS, |r| {
                let name = r.text("a field's name", limits::NAME_BYTES)?;
                Ok((name, r.name("a field's value", limits::SESSION_FIELD_BYTES)?))
            })?,
            meta: self.option("META", |r| r.option("META", Reader::meta))?,
            summary: self.option("summary", |r| r.option("summary", Reader::summary))?,
        })
    }

    fn summary(&mut self) -> Result<Summary> {
        Ok(Summary {
            text: self.text("the summary", limits::SUMMARY_BYTES)?,
            tokens: self.u32("tokens")?,
            covered: self.below("covered turns", limits::TURNS)?,
            at: self.time("the summary's time")?,
            model: self.name("the summary's model", limits::MODEL_BYTES)?,
        })
    }

    fn document(&mut self) -> Result<Document> {
        Ok(Document {
            name: self.text("the document's name", limits::NAME_BYTES)?,
            kind: self.name("TYPE", limits::NAME_BYTES)?,
            source: self.name("SOURCE", limits::SOURCE_BYTES)?,
            at: self.time("AT")?,
            created: self.time("created")?,
            bytes: self.number("bytes")?,
            tokens: self.number("tokens")?,
            chunks: self.below("the number of chunks", limits::CHUNKS)? as u32,
            meta: self.option("META", Reader::meta)?,
        })
    }

    fn entry(&mut self) -> Result<Entry> {
        let fields = self.number("the fields")?;
        if fields & !has::ALL != 0 {
            return Err(self.error(format!("there are fields {:#x} that no memory has", fields & !has::ALL)));
        }
        let there = |field: u64| fields & field != 0;
        let name = |r: &mut Self, field: u64, name: &str, limit: usize| {
            if there(field) { r.text(name, limit).map(Some) } else { Ok(None) }
        };
        let id = self.id()?;
        let tier = self.tier()?;
        let template = self.template()?;
        let content = self.text("the content", limits::CONTENT_BYTES)?;
        let kind = name(self, has::KIND, "TYPE", limits::NAME_BYTES)?.unwrap_or_else(|| KIND.into());
        let outcome = name(self, has::OUTCOME, "OUTCOME", limits::NAME_BYTES)?;
        let session = name(self, has::SESSION, "SESSION", limits::NAME_BYTES)?;
        let speaker = name(self, has::SPEAKER, "SPEAKER", limits::NAME_BYTES)?;
        let role = name(self, has::ROLE, "ROLE", limits::NAME_BYTES)?;
        let source = name(self, has::SOURCE, "SOURCE", limits::SOURCE_BYTES)?;
        let from = if there(has::FROM) { self.from()? } else { Vec::new() };
        let tags = if there(has::TAGS) { self.tags()? } else { Vec::new() };
        let meta = if there(has::META) { Some(self.meta()?) } else { None };
        let supersedes = if there(has::SUPERSEDES) { Some(self.id()?) } else { None };
        let superseded = if there(has::SUPERSEDED) { Some(self.superseded()?) } else { None };
        let importance = if there(has::IMPORTANCE) { self.f64()? } else { IMPORTANCE };
        let confidence = if there(has::CONFIDENCE) { self.f64()? } else { CONFIDENCE };
        let at = if there(has::AT) { self.time("AT")? } else { id.ms };
        let created = if there(has::CREATED) { self.time("created")? } else { id.ms };
        let entered = if there(has::ENTERED) { self.time("entered")? } else { created };
        let expires = if there(has::EXPIRES) { Some(self.time("expires")?) } else { None };
        let passage = if there(has::PASSAGE) { Some(Box::new(self.passage()?)) } else { None };
        let tokens = if there(has::TOKENS) { self.u32("tokens")? } else { 0 };
        let heat = if there(has::HEAT) { self.heat()? } else { Heat::Hot };
        Ok(Entry {
            id,
            tier,
            content,
            kind,
            importance,
            confidence,
            outcome,
            session,
            speaker,
            role,
            source,
            from,
            at,
            created,
            entered,
            expires,
            own_expiry: there(has::OWN_EXPIRY),
            pinned: there(has::PINNED),
            tags,
            meta,
            supersedes,
            superseded,
            passage,
            tokens,
            awaits: there(has::AWAITS),
            marks: Marks { read: there(has::READ), summed: there(has::SUMMED), linked: there(has::LINKED) },
            heat,
            template,
            windows: 0,
            accessed: self.time("accessed")?,
            uses: self.uses()?,
        })
    }

    fn patch(&mut self) -> Result<Patch> {
        Ok(Patch {
            content: self.name("the content", limits::CONTENT_BYTES)?,
            vectors: self.option("vectors", |r| Ok((r.template()?, r.vectors()?, r.signs()?)))?,
            tier: self.option("tier", |r| Ok((r.tier()?, r.time("entered")?)))?,
            expiry: self
                .option("expiry", |r| Ok((r.option("expires", |r| r.time("expires"))?, r.flag("own expiry")?)))?,
            kind: self.name("TYPE", limits::NAME_BYTES)?,
            importance: self.option("IMPORTANCE", Reader::f64)?,
            confidence: self.option("CONFIDENCE", Reader::f64)?,
            outcome: self.option("OUTCOME", |r| r.name("OUTCOME", limits::NAME_BYTES))?,
            session: self.option("SESSION", |r| r.name("SESSION", limits::NAME_BYTES))?,
            speaker: self.option("SPEAKER", |r| r.name("SPEAKER", limits::NAME_BYTES))?,
            role: self.option("ROLE", |r| r.name("ROLE", limits::NAME_BYTES))?,
            source: self.option("SOURCE", |r| r.name("SOURCE", limits::SOURCE_BYTES))?,
            from: self.option("FROM", Reader::from)?,
            at: self.option("AT", |r| r.time("AT"))?,
            pinned: self.option("PIN", |r| r.flag("PIN"))?,
            tags: self.option("TAGS", Reader::tags)?,
            meta: self.option("META", |r| r.option("META", Reader::meta))?,
            supersedes: self.option("SUPERSEDES", |r| r.option("SUPERSEDES", Reader::id))?,
            superseded: self.option("superseded", |r| r.option("superseded", Reader::superseded))?,
            tokens: self.option("tokens", |r| r.u32("tokens"))?,
        })
    }
}
