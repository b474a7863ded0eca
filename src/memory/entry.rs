//! One memory.
//!
//! An entry is shared (`Arc<Entry>`) between the space, its snapshots and the results of recalls, and never changes once
//! shared: a change makes a new entry, so pointer equality says whether anything happened. The exception is the two use
//! counters, which are atomics outside digest and replication: noting a use must not copy a page.

use crate::filter::BUILT_IN;
use crate::{Error, MemoryId, Millis, Result, Tier, limits};
use serde_json::{Map, Value};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The JSON object of META.
pub type Meta = Map<String, Value>;

/// A memory. Unset texts are None, never empty.
#[derive(Debug)]
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
    /// The embedding template: 0 = its vectors, if any, are the caller's; 1 = the bare content, embedded.
    pub template: u16,
    /// How many vectors it has: 0 = none, more than one = windows of a long text.
    pub windows: u16,
    pub(crate) accessed: AtomicU64,
    pub(crate) uses: AtomicU32,
}

impl Clone for Entry {
    fn clone(&self) -> Self {
        Entry {
            id: self.id,
            tier: self.tier,
            content: self.content.clone(),
            kind: self.kind.clone(),
            importance: self.importance,
            confidence: self.confidence,
            outcome: self.outcome.clone(),
            session: self.session.clone(),
            speaker: self.speaker.clone(),
            role: self.role.clone(),
            source: self.source.clone(),
            from: self.from.clone(),
            at: self.at,
            created: self.created,
            entered: self.entered,
            expires: self.expires,
            own_expiry: self.own_expiry,
            pinned: self.pinned,
            tags: self.tags.clone(),
            meta: self.meta.clone(),
            template: self.template,
            windows: self.windows,
            accessed: AtomicU64::new(self.accessed()),
            uses: AtomicU32::new(self.uses()),
        }
    }
}

impl Entry {
    /// When it was last used: stored, recalled or stored again as a duplicate.
    pub fn accessed(&self) -> Millis {
        self.accessed.load(Relaxed)
    }

    /// How often it was recalled or stored again.
    pub fn uses(&self) -> u32 {
        self.uses.load(Relaxed)
    }

    /// Notes a use at `now`. Only the owner of the space calls it; who reads beside it sees the old or the new count.
    pub(crate) fn touch(&self, now: Millis) {
        self.accessed.store(self.accessed().max(now), Relaxed);
        self.uses.store(self.uses().saturating_add(1), Relaxed);
    }

    /// Whether it is gone at `now`.
    pub fn is_expired(&self, now: Millis) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// The bytes it takes, itself and what it points to; vectors and indexes not counted.
    pub(crate) fn bytes(&self) -> usize {
        let optional = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| block(text.len()));
        block(size_of::<Entry>() + 16)
            + block(self.content.len())
            + block(self.kind.len())
            + optional(&self.outcome)
            + optional(&self.session)
            + optional(&self.speaker)
            + optional(&self.role)
            + optional(&self.source)
            + block(self.from.len() * size_of::<MemoryId>())
            + block(self.tags.len() * size_of::<Box<str>>())
            + self.tags.iter().map(|tag| block(tag.len())).sum::<usize>()
            + self.meta.as_ref().map_or(0, map_bytes)
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
            [("AT", self.at), ("created", self.created), ("entered", self.entered), ("accessed", self.accessed())]
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

fn check_name(field: &str, value: &str) -> Result<()> {
    check_length(field, value, limits::NAME_BYTES)
}

fn check_length(field: &str, value: &str, limit: usize) -> Result<()> {
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

fn check_meta(meta: &Meta) -> Result<()> {
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

fn map_bytes(map: &Meta) -> usize {
    // serde_json with preserve_order: an index map, 8 bytes of table and one bucket of hash, key and value per field.
    let bucket = size_of::<String>() + size_of::<Value>() + 16;
    64 + map.iter().map(|(name, value)| bucket + block(name.len()) + json_bytes(value)).sum::<usize>()
}

fn json_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => block(text.len()),
        Value::Array(items) => block(items.len() * size_of::<Value>()) + items.iter().map(json_bytes).sum::<usize>(),
        Value::Object(map) => map_bytes(map),
        _ => 0,
    }
}
