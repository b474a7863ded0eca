//! One memory, as a value.
//!
//! A space keeps memories apart: numbers in columns, texts in pages, vectors in rows. This is the whole of one: what a store
//! decides, what an effect carries, what a read gives back. Rejected: keeping memories in this form (700 bytes each, and a filter
//! would chase a pointer for every one).

use crate::document::STAGED;
use crate::filter::BUILT_IN;
use crate::heat::Heat;
use crate::{Error, MemoryId, Millis, Result, Tier, limits};
use serde_json::{Map, Value};

/// The JSON object of META.
pub type Meta = Map<String, Value>;

/// What took the place of a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superseded {
    /// The memory that superseded it.
    pub by: MemoryId,
    /// The AT of that memory: from then on it counts.
    pub at: Millis,
}

/// Where a chunk stands in the document that it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The document's name.
    pub doc: Box<str>,
    /// Which of its chunks it is, from 0.
    pub position: u32,
    /// How many chunks the document has.
    pub total: u32,
    /// The first of the bytes of the document's text that it holds.
    pub start: u64,
    /// The byte behind the last.
    pub end: u64,
}

impl Passage {
    fn check(&self) -> Result<()> {
        check_name("the document's name", &self.doc)?;
        if self.position >= self.total || self.total as usize > limits::CHUNKS || self.start > self.end {
            return Err(Error::new(format!(
                "chunk {} of {} from byte {} to {}: that is no place in a document of at most {} chunks",
                self.position,
                self.total,
                self.start,
                self.end,
                limits::CHUNKS
            )));
        }
        Ok(())
    }
}

/// A memory. Unset texts are None, never empty.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The id.
    pub id: MemoryId,
    /// The tier.
    pub tier: Tier,
    /// The text.
    pub content: Box<str>,
    /// TYPE: fact, context, preference, event, insight, summary, message, chunk or the caller's own.
    pub kind: Box<str>,
    /// Importance, 0 to 1.
    pub importance: f64,
    /// Confidence, 0 to 1.
    pub confidence: f64,
    /// OUTCOME.
    pub outcome: Option<Box<str>>,
    /// SESSION.
    pub session: Option<Box<str>>,
    /// SPEAKER.
    pub speaker: Option<Box<str>>,
    /// Role of a turn: user, assistant, system, tool.
    pub role: Option<Box<str>>,
    /// SOURCE.
    pub source: Option<Box<str>>,
    /// FROM: what this was made from.
    pub from: Vec<MemoryId>,
    /// AT: when it happened.
    pub at: Millis,
    /// When it was stored.
    pub created: Millis,
    /// When it entered its tier.
    pub entered: Millis,
    /// When it expires: from this millisecond on it is gone.
    pub expires: Option<Millis>,
    /// Whether the caller gave TTL or PERSIST: then a promotion keeps the expiry.
    pub own_expiry: bool,
    /// PIN: never evicted.
    pub pinned: bool,
    /// TAGS, without repetition, in the order given.
    pub tags: Vec<Box<str>>,
    /// META.
    pub meta: Option<Meta>,
    /// The memory whose place it took.
    pub supersedes: Option<MemoryId>,
    /// What took its place.
    pub superseded: Option<Superseded>,
    /// Where it stands in a document, if it is a chunk of one.
    pub passage: Option<Box<Passage>>,
    /// Tokens of the content as they were counted when it came; 0 = they were not.
    pub tokens: u32,
    /// Whether its vectors are still to be made: it was stored before its content was embedded.
    pub awaits: bool,
    /// What consolidation has done with it.
    pub marks: Marks,
    /// The text that was embedded: 0 = its vectors, if any, are the caller's, else the version of the template.
    pub template: u16,
    /// How many vectors it has: 0 = none, more than one = windows of a long text.
    pub windows: u16,
    /// How readily it lies.
    pub heat: Heat,
    /// When it was last used: stored, recalled or stored again as a duplicate.
    pub accessed: Millis,
    /// How often it was recalled or stored again.
    pub uses: u32,
}

/// What consolidation has done with a memory and need not do again, until its content changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// Facts have been extracted from it, or it is one. Of a summary: from the turns that it sums up.
    pub read: bool,
    /// A summary has been made of it and others.
    pub summed: bool,
    /// Links to what resembles it have been looked for.
    pub linked: bool,
}

impl Marks {
    /// All of them, in the order of their bits.
    pub(crate) const ALL: Marks = Marks { read: true, summed: true, linked: true };
    /// Read alone.
    pub(crate) const READ: Marks = Marks { read: true, summed: false, linked: false };
    /// Summed up alone.
    pub(crate) const SUMMED: Marks = Marks { read: false, summed: true, linked: false };
    /// Linked alone.
    pub(crate) const LINKED: Marks = Marks { read: false, summed: false, linked: true };

    /// As bits.
    pub(crate) fn bits(self) -> u8 {
        u8::from(self.read) | u8::from(self.summed) << 1 | u8::from(self.linked) << 2
    }

    /// From bits; None if there is one that means nothing.
    pub(crate) fn from_bits(bits: u8) -> Option<Marks> {
        let there = |bit: u8| bits & bit != 0;
        (bits <= Marks::ALL.bits()).then(|| Marks { read: there(1), summed: there(2), linked: there(4) })
    }

    /// These with others set, or taken away.
    pub(crate) fn with(self, others: Marks, on: bool) -> Marks {
        let either = |own: bool, other: bool| if other { on } else { own };
        Marks {
            read: either(self.read, others.read),
            summed: either(self.summed, others.summed),
            linked: either(self.linked, others.linked),
        }
    }
}

impl Entry {
    /// Whether it is gone at `now`.
    pub fn is_expired(&self, now: Millis) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Whether it is the same memory in all but its use, its heat and its marks.
    pub(crate) fn is_same(&self, other: &Entry) -> bool {
        let vectors = |entry: &Entry| (entry.awaits, entry.template, entry.windows, entry.tokens);
        self.says_same(other) && vectors(self) == vectors(other)
    }

    /// The same, whatever vectors it has or waits for, and whether its tokens have been counted: both are made behind the reply.
    pub(crate) fn says_same(&self, other: &Entry) -> bool {
        let (a, b) = (self, other);
        a.id == b.id
            && a.tier == b.tier
            && a.content == b.content
            && a.kind == b.kind
            && (a.importance, a.confidence) == (b.importance, b.confidence)
            && (&a.outcome, &a.session, &a.speaker) == (&b.outcome, &b.session, &b.speaker)
            && (&a.role, &a.source) == (&b.role, &b.source)
            && a.from == b.from
            && (a.at, a.created, a.entered, a.expires) == (b.at, b.created, b.entered, b.expires)
            && (a.own_expiry, a.pinned) == (b.own_expiry, b.pinned)
            && a.tags == b.tags
            && a.meta == b.meta
            && (a.supersedes, a.superseded) == (b.supersedes, b.superseded)
            && a.passage == b.passage
    }

    /// Checks everything that a memory must fulfil, whether it comes from a command, a file or the network.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.id.is_valid() {
            return Err(Error::new(format!(
                "{} is not a memory id: ids lie between 0-1 and {}-n",
                self.id,
                limits::TIME_MS
            )));
        }
        check_content(&self.content)?;
        check_name("TYPE", &self.kind)?;
        for (field, value) in
            [("OUTCOME", &self.outcome), ("SESSION", &self.session), ("SPEAKER", &self.speaker), ("ROLE", &self.role)]
        {
            if let Some(value) = value {
                check_name(field, value)?;
            }
        }
        if let Some(source) = &self.source {
            check_length("SOURCE", source, limits::SOURCE_BYTES)?;
        }
        check_unit("IMPORTANCE", self.importance)?;
        check_unit("CONFIDENCE", self.confidence)?;
        for (field, time) in
            [("AT", self.at), ("created", self.created), ("entered", self.entered), ("accessed", self.accessed)]
        {
            check_time(field, time)?;
        }
        if let Some(expires) = self.expires {
            check_time("expires", expires)?;
        }
        if self.from.len() > limits::FROM {
            return Err(Error::new(format!("FROM: {} ids, at most {} are accepted", self.from.len(), limits::FROM)));
        }
        if let Some(id) = self.from.iter().find(|id| !id.is_valid()) {
            return Err(Error::new(format!("FROM: {id} is not a memory id")));
        }
        for id in [self.supersedes, self.superseded.map(|superseded| superseded.by)].into_iter().flatten() {
            if !id.is_valid() || id == self.id {
                return Err(Error::new(format!("SUPERSEDES: {id} is not the id of another memory")));
            }
        }
        if let Some(superseded) = self.superseded {
            check_time("superseded", superseded.at)?;
        }
        if let Some(passage) = &self.passage {
            passage.check()?;
        }
        if self.passage.is_none() && self.expires == Some(STAGED) {
            return Err(Error::new("only the chunk of a document can be staged"));
        }
        if self.awaits && self.windows > 0 {
            return Err(Error::new("a memory that has its vectors awaits none"));
        }
        check_tags(&self.tags)?;
        if let Some(meta) = &self.meta {
            check_meta(meta)?;
        }
        Ok(())
    }
}

fn check_content(content: &str) -> Result<()> {
    if content.trim().is_empty() {
        return Err(Error::new("the content is empty: a memory needs at least one character that is not white space"));
    }
    if content.len() > limits::CONTENT_BYTES {
        return Err(Error::new(format!(
            "the content has {} bytes: a memory takes at most {}",
            content.len(),
            limits::CONTENT_BYTES
        )));
    }
    Ok(())
}

pub(crate) fn check_name(field: &str, value: &str) -> Result<()> {
    check_length(field, value, limits::NAME_BYTES)
}

pub(crate) fn check_length(field: &str, value: &str, limit: usize) -> Result<()> {
    if value.is_empty() || value.len() > limit {
        return Err(Error::new(format!("{field} has {} bytes: it takes 1 to {limit}", value.len())));
    }
    Ok(())
}

pub(crate) fn check_unit(field: &str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(Error::new(format!("{field} is {value}: it takes a number from 0 to 1")))
    }
}

pub(crate) fn check_time(field: &str, value: Millis) -> Result<()> {
    if value <= limits::TIME_MS {
        Ok(())
    } else {
        Err(Error::new(format!("{field} is {value}: it takes Unix milliseconds up to {}", limits::TIME_MS)))
    }
}

fn check_tags(tags: &[Box<str>]) -> Result<()> {
    if tags.len() > limits::TAGS {
        return Err(Error::new(format!("TAGS: {} tags, at most {} are accepted", tags.len(), limits::TAGS)));
    }
    for (n, tag) in tags.iter().enumerate() {
        check_length(&format!("tag {}", n + 1), tag, limits::TAG_BYTES)?;
    }
    Ok(())
}

pub(crate) fn check_meta(meta: &Meta) -> Result<()> {
    if meta.len() > limits::META_FIELDS {
        return Err(Error::new(format!("META: {} fields, at most {} are accepted", meta.len(), limits::META_FIELDS)));
    }
    for name in meta.keys() {
        check_meta_name(name)?;
    }
    let mut budget = limits::META_BYTES;
    meta.iter()
        .all(|(name, value)| {
            json_fits(value, limits::META_DEPTH - 1, &mut budget) && spend(&mut budget, name.len() + 4)
        })
        .then_some(())
        .ok_or_else(|| {
            Error::new(format!(
                "META is too large: it takes at most {} bytes and {} levels of nesting",
                limits::META_BYTES,
                limits::META_DEPTH
            ))
        })
}

/// Every field of a filter has one meaning, so META may not use a name that the language has.
fn check_meta_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > limits::META_NAME_BYTES {
        return Err(Error::new(format!("META: a field name has 1 to {} bytes", limits::META_NAME_BYTES)));
    }
    if name.starts_with('_') {
        return Err(Error::new(format!(
            "META: '{name}' is reserved, as every name that begins with _: use another name"
        )));
    }
    let Some(field) = BUILT_IN.iter().find(|field| field.name == name) else { return Ok(()) };
    Err(Error::new(format!("META: '{name}' is a built-in name: {}", field.instead)))
}

fn spend(budget: &mut usize, bytes: usize) -> bool {
    match budget.checked_sub(bytes) {
        Some(left) => {
            *budget = left;
            true
        }
        None => false,
    }
}

/// Whether a value nests within `depth` levels and within the bytes left; its size is that of its JSON text, nearly.
fn json_fits(value: &Value, depth: usize, budget: &mut usize) -> bool {
    match value {
        Value::Null | Value::Bool(_) => spend(budget, 5),
        Value::Number(_) => spend(budget, 8),
        Value::String(text) => spend(budget, text.len() + 3),
        Value::Array(items) => {
            depth > 0 && spend(budget, 3) && items.iter().all(|item| json_fits(item, depth - 1, budget))
        }
        Value::Object(map) => {
            depth > 0
                && spend(budget, 3)
                && map.iter().all(|(name, value)| spend(budget, name.len() + 4) && json_fits(value, depth - 1, budget))
        }
    }
}

/// The bytes that the allocator sets aside for a block of `bytes`: multiples of 16 up to 128, above that four sizes per doubling
/// (jemalloc's size classes).
pub(crate) fn block(bytes: usize) -> usize {
    match bytes {
        0..=128 => bytes.next_multiple_of(16),
        _ => bytes.next_multiple_of(bytes.next_power_of_two() / 8),
    }
}
