//! Storing and changing memories: from what a command says to effects.
//!
//! A store of one memory is a batch of one. A batch is decided against the space as it stands plus what the batch has decided
//! so far (ids, duplicates, the model), and what must give way is found once, at its end; so all of it is applied or nothing.

use crate::document::STAGED;
use crate::effect::{Effect, Patch, Removal};
use crate::entry::{Entry, Marks, Meta, Passage, Superseded, check_time};
use crate::filter::Filter;
use crate::heat::Heat;
use crate::rows::{self, Among, Effort, Precision, Search, Vector};
use crate::snapshot::{check_dimension, no_direction, normalised as unit_vector};
use crate::space::{Space, check_vector_bytes, duplicate_item, hash_of, removals};
use crate::text::normalised;
use crate::tokens::Signs;
use crate::{Error, MemoryId, Millis, Result, Tier, limits};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Most similar memories that are compared window by window when a store looks for a duplicate.
const ALIKE: usize = 8;

/// The vectors of a memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Vectors {
    /// None: it is not found by vector.
    #[default]
    None,
    /// The caller's own, of any length but zero.
    Given(Vec<f32>),
    /// Made from the content by a model.
    Embedded {
        /// The model.
        model: String,
        /// The version of the text that was embedded, from 1: 1 = the bare content.
        template: u16,
        /// One vector per window of the content, at least one.
        windows: Vec<Vec<f32>>,
        /// Vectors of the content's words (see [`crate::words`]), in order; none if they are not wanted.
        words: Vec<Vec<f32>>,
    },
}

/// How long a memory lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ttl {
    /// As long as its tier says, from entering it.
    #[default]
    Tier,
    /// So many seconds from now, whatever the tier.
    Seconds(u64),
    /// For good, whatever the tier.
    Persist,
}

/// What counts as stored already, within one session and speaker.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Dedup {
    /// Equal normalised text, and similarity if the setting `dedup` says so.
    #[default]
    Default,
    /// Equal normalised text.
    Exact,
    /// Equal normalised text, or at least this cosine (each window with its counterpart), above 0 and up to 1.
    Similar(f64),
    /// Nothing.
    Off,
}

/// A memory to be stored. Unset fields get the defaults of STORE.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are those of Entry and the options of MEM.STORE")]
pub struct NewMemory {
    pub tier: Option<Tier>,
    pub id: Option<MemoryId>,
    pub content: String,
    pub vectors: Vectors,
    pub importance: Option<f64>,
    pub confidence: Option<f64>,
    pub kind: Option<String>,
    pub outcome: Option<String>,
    pub session: Option<String>,
    pub speaker: Option<String>,
    pub role: Option<String>,
    pub source: Option<String>,
    pub from: Vec<MemoryId>,
    pub at: Option<Millis>,
    pub ttl: Ttl,
    pub pinned: bool,
    pub tags: Vec<String>,
    pub meta: Option<Meta>,
    /// The memory whose place it takes: that one goes out of recall and stays readable. Never a duplicate of it.
    pub supersedes: Option<MemoryId>,
    pub dedup: Dedup,
    /// Tokens of the content; 0 = not counted.
    pub tokens: u32,
    /// Whether its vectors will be made later: it comes without them.
    pub awaits: bool,
    /// Where it stands in a document that is being staged: nobody sees it until that is shown.
    pub passage: Option<Passage>,
    /// Whether it is a turn that the record of its session will hold: it takes no place of its tier.
    pub held: bool,
    /// What consolidation need not do with it.
    pub marks: Marks,
}

/// What a store decided.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The id of the memory, or of the one that stood already.
    pub id: MemoryId,
    /// Whether one stood already.
    pub duplicate: bool,
    /// What to apply.
    pub effects: Vec<Effect>,
}

/// Fields to change; None = as before, the inner None of an optional field = unset.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are those of Entry and the options of MEM.UPDATE")]
pub struct Update {
    pub content: Option<String>,
    /// New vectors. A new content needs them: the old ones are of the old text. [`Vectors::None`] drops them.
    pub vectors: Option<Vectors>,
    pub tier: Option<Tier>,
    pub importance: Option<f64>,
    pub confidence: Option<f64>,
    pub kind: Option<String>,
    pub outcome: Option<Option<String>>,
    pub session: Option<Option<String>>,
    pub speaker: Option<Option<String>>,
    pub role: Option<Option<String>>,
    pub source: Option<Option<String>>,
    pub from: Option<Vec<MemoryId>>,
    pub at: Option<Millis>,
    /// Counts from the change; [`Ttl::Tier`] gives the tier's lifetime anew and takes back one of its own.
    pub ttl: Option<Ttl>,
    pub pinned: Option<bool>,
    pub tags: Option<Vec<String>>,
    pub meta: Option<Option<Meta>>,
    /// Of the content; a new content without them has none that are counted.
    pub tokens: Option<u32>,
}

/// The model and the dimension that a space has, or that a batch is about to fix.
struct Fixed {
    model: Option<String>,
    dim: Option<usize>,
    precision: Precision,
    /// Whether the batch fixes it.
    new: bool,
    /// Whether words get vectors.
    words: bool,
}

impl Fixed {
    fn of(space: &Space) -> Fixed {
        Fixed {
            model: space.model().map(String::from),
            dim: space.dim(),
            precision: space.view.precision(),
            new: false,
            words: space.takes_token_vectors(),
        }
    }

    /// Checks vectors against the space, fixing its model and dimension if they are the first, and makes them what the space
    /// keeps. Gives them with their template.
    fn take(&mut self, vectors: Vectors) -> Result<(u16, Vec<Vector>, Signs)> {
        let (model, template, windows, words) = match vectors {
            Vectors::None => return Ok((0, Vec::new(), Signs::default())),
            Vectors::Given(vector) => (None, 0, vec![vector], Vec::new()),
            Vectors::Embedded { model, template, windows, words } => {
                if template == 0 || windows.is_empty() || model.is_empty() || model.len() > limits::MODEL_BYTES {
                    return Err(Error::new(
                        "an embedding needs a model's name, a template from 1 and at least one vector",
                    ));
                }
                (Some(model), template, windows, words)
            }
        };
        let len = windows.first().map_or(0, Vec::len);
        if len == 0 || len > limits::DIMENSIONS {
            return Err(Error::new(format!("the vector has {len} dimensions: it takes 1 to {}", limits::DIMENSIONS)));
        }
        match (self.dim, &model) {
            (None, _) => *self = Fixed { model, dim: Some(len), new: true, ..*self },
            (Some(dim), Some(model)) => match &self.model {
                None => {
                    return Err(Error::new(format!(
                        "this space holds the caller's own vectors of {dim} dimensions, which no model made: give a VECTOR \
                         of that length or VALUES, or NOEMBED, or have MEM.REEMBED embed it"
                    )));
                }
                Some(own) if own != model => {
                    return Err(Error::new(format!(
                        "this space is embedded by the model {own}, the text was embedded by {model}: the two do not compare; \
                         MEM.REEMBED moves the space"
                    )));
                }
                Some(_) => {}
            },
            (Some(_), None) => {}
        }
        let dim = self.dim.unwrap_or(len);
        check_vector_bytes(windows.len(), dim)?;
        let normalise = |window: Vec<f32>| {
            check_dimension(window.len(), dim)?;
            let unit = unit_vector(&window).ok_or_else(no_direction)?;
            Ok(Vector::new(&unit, self.precision))
        };
        if words.len() > limits::TOKEN_VECTORS {
            return Err(Error::new(format!(
                "{} word vectors: at most {} are accepted",
                words.len(),
                limits::TOKEN_VECTORS
            )));
        }
        words.iter().try_for_each(|word| check_dimension(word.len(), dim))?;
        let signs = if self.words { Signs::new(&words) } else { Signs::default() };
        Ok((template, windows.into_iter().map(normalise).collect::<Result<_>>()?, signs))
    }

    fn effect(&self) -> Option<Effect> {
        let dim = self.dim.filter(|_| self.new)?;
        Some(Effect::Model { model: self.model.clone(), dim: dim as u32, precision: self.precision })
    }
}

/// A memory that the batch will store.
struct Pending {
    entry: Entry,
    vectors: Vec<Vector>,
    signs: Signs,
    text: String,
    hash: u32,
    held: bool,
}

struct Batch<'a> {
    space: &'a Space,
    now: Millis,
    fixed: Fixed,
    last: MemoryId,
    pending: Vec<Pending>,
    /// Where in `pending` an id is, and the pending ones of a hash.
    by_id: BTreeMap<MemoryId, usize>,
    by_hash: BTreeMap<u32, Vec<usize>>,
    /// Memories that stand and were stored again, with their importance and uses by now.
    standing: BTreeMap<MemoryId, (f64, u32)>,
    duplicates: Vec<Effect>,
    /// Expired memories whose ids are given again.
    replaced: BTreeSet<MemoryId>,
    /// Memories that stand and are superseded by one of the batch.
    superseded: BTreeMap<MemoryId, Superseded>,
    beside: &'a Beside,
}

/// What else happens in the step that stores: memories that are to stay, and those that leave their tier because something takes their place.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    pub spared: BTreeSet<MemoryId>,
    pub leaving: BTreeSet<MemoryId>,
}

impl Space {
    /// Decides a store: the id, whether it is a duplicate, and the effects, which fix the model, take away what has expired or
    /// must give way, and put the memory or raise the one that stands. Nothing is changed.
    ///
    /// Errors: a field out of range, an id in use, vectors that do not fit the space, a tier full of pins, `max-memory` (OOM).
    pub fn store(&self, now: Millis, new: NewMemory) -> Result<Stored> {
        let (ids, effects) = self.store_many(now, vec![new])?;
        let id = ids.first().copied().ok_or_else(|| Error::new("nothing to store"))?;
        let duplicate = effects.iter().any(|effect| matches!(effect, Effect::Duplicate { .. }));
        Ok(Stored { id, duplicate, effects })
    }

    /// Decides the store of several memories: all or nothing. The ids are in the order of the memories; a duplicate has the id
    /// of the one that stands, which may be one of this call. Errors name the place in the list.
    pub fn store_many(&self, now: Millis, new: Vec<NewMemory>) -> Result<(Vec<MemoryId>, Vec<Effect>)> {
        self.store_beside(now, new, &Beside::default())
    }

    /// The same, beside other effects of one step.
    pub(crate) fn store_beside(
        &self,
        now: Millis,
        new: Vec<NewMemory>,
        beside: &Beside,
    ) -> Result<(Vec<MemoryId>, Vec<Effect>)> {
        if new.len() > limits::BATCH {
            return Err(Error::new(format!("{} memories at once: at most {} are accepted", new.len(), limits::BATCH)));
        }
        check_time("the time", now)?;
        let given = new.iter().filter_map(|new| new.id).max();
        let mut batch = Batch {
            space: self,
            now,
            fixed: Fixed::of(self),
            // Ids of the server lie above all that are given, in this call too.
            last: self.last_id.max(given.filter(|id| id.is_valid()).unwrap_or_default()),
            pending: Vec::new(),
            by_id: BTreeMap::new(),
            by_hash: BTreeMap::new(),
            standing: BTreeMap::new(),
            duplicates: Vec::new(),
            replaced: BTreeSet::new(),
            superseded: BTreeMap::new(),
            beside,
        };
        let several = new.len() > 1;
        let mut ids = Vec::with_capacity(new.len());
        for (n, memory) in new.into_iter().enumerate() {
            let id = batch.add(memory).map_err(|error| {
                if several { Error::with_code(error.code(), format!("memory {}: {error}", n + 1)) } else { error }
            })?;
            ids.push(id);
        }
        Ok((ids, batch.finish()?))
    }

    /// Decides a change. The effects are few, or none if nothing would change.
    ///
    /// Errors: no such memory, a field out of range, new content without its vectors, and those of a store.
    pub fn update(&self, now: Millis, id: MemoryId, update: Update) -> Result<Vec<Effect>> {
        fn changed<T: PartialEq>(new: Option<T>, old: &T) -> Option<T> {
            new.filter(|new| new != old)
        }
        fn name(new: Option<Option<String>>, old: &Option<Box<str>>) -> Option<Option<Box<str>>> {
            changed(new.map(|new| new.map(Into::into)), old)
        }
        check_time("the time", now)?;
        let (slot, entry) = self.existing(now, id)?;
        let entry = &entry;
        let mut fixed = Fixed::of(self);
        let content = changed(update.content.map(Into::into), &entry.content);
        if content.is_some() && update.vectors.is_none() {
            return Err(Error::new("the content is new and its vectors are not: give both, or none at all"));
        }
        let vectors = update.vectors.map(|vectors| fixed.take(vectors)).transpose()?;
        let vectors = vectors.filter(|(template, vectors, signs)| {
            entry.awaits
                || *template != entry.template
                || self.stored_vectors(slot) != *vectors
                || self.stored_signs(slot) != *signs
        });
        let tier = changed(update.tier, &entry.tier);
        let settings = self.config();
        let expiry = match update.ttl {
            Some(ttl) => Some(expiry(settings.expiry(tier.unwrap_or(entry.tier), now), ttl, now)?),
            None if entry.own_expiry => None,
            None => tier.map(|tier| (settings.expiry(tier, now), false)),
        };
        // Those of the old content say nothing of the new one.
        let tokens = update.tokens.or(content.is_some().then_some(0));
        let patch = Patch {
            content,
            vectors,
            tier: tier.map(|tier| (tier, now)),
            expiry: changed(expiry, &(entry.expires, entry.own_expiry)),
            kind: changed(update.kind.map(Into::into), &entry.kind),
            importance: changed(update.importance, &entry.importance),
            confidence: changed(update.confidence, &entry.confidence),
            outcome: name(update.outcome, &entry.outcome),
            session: name(update.session, &entry.session),
            speaker: name(update.speaker, &entry.speaker),
            role: name(update.role, &entry.role),
            source: name(update.source, &entry.source),
            from: changed(update.from, &entry.from),
            at: changed(update.at, &entry.at),
            pinned: changed(update.pinned, &entry.pinned),
            tags: changed(update.tags.map(distinct), &entry.tags),
            meta: changed(update.meta, &entry.meta),
            tokens: changed(tokens, &entry.tokens),
            ..Patch::default()
        };
        if patch == Patch::default() {
            return Ok(Vec::new());
        }
        patch.applied_to(entry).check()?;
        let mut effects: Vec<Effect> = fixed.effect().into_iter().collect();
        if patch.content.is_some() {
            effects.extend(self.reword_effects(id));
        }
        if let Some(tier) = tier.filter(|_| entry.superseded.is_none()) {
            effects.extend(removals(&self.make_room(now, tier, 1, &BTreeSet::from([id]))?, Removal::Evicted));
        }
        effects.push(Effect::Patch { id, patch: Box::new(patch) });
        Ok(effects)
    }
}

/// When a memory expires and whether the caller said so.
fn expiry(of_tier: Option<Millis>, ttl: Ttl, now: Millis) -> Result<(Option<Millis>, bool)> {
    Ok(match ttl {
        Ttl::Tier => (of_tier, false),
        Ttl::Persist => (None, true),
        Ttl::Seconds(seconds) if (1..=limits::TTL_SECONDS).contains(&seconds) => {
            (Some(now.saturating_add(seconds * 1000).min(limits::TIME_MS)), true)
        }
        Ttl::Seconds(seconds) => {
            return Err(Error::new(format!("TTL is {seconds}: it takes 1 to {} seconds", limits::TTL_SECONDS)));
        }
    })
}

/// Tags are a set; the order is that of the first mention.
pub(crate) fn distinct(tags: Vec<String>) -> Vec<Box<str>> {
    let mut seen = BTreeSet::new();
    let mut tags: Vec<Box<str>> = tags.into_iter().filter(|tag| seen.insert(tag.clone())).map(Into::into).collect();
    tags.shrink_to_fit();
    tags
}

impl Batch<'_> {
    fn add(&mut self, new: NewMemory) -> Result<MemoryId> {
        let (template, vectors, signs) = self.fixed.take(new.vectors)?;
        let similar = match new.dedup {
            Dedup::Similar(f) if f > 0.0 && f <= 1.0 => Some(f),
            Dedup::Similar(f) => {
                return Err(Error::new(format!("DEDUP is {f}: it takes a cosine above 0 and up to 1")));
            }
            Dedup::Default => Some(self.space.config().dedup).filter(|f| *f > 0.0),
            Dedup::Exact | Dedup::Off => None,
        };
        let tier = new.tier.unwrap_or(Tier::ShortTerm);
        let (expires, own_expiry) = match new.passage {
            Some(_) => (Some(STAGED), false),
            None => expiry(self.space.config().expiry(tier, self.now), new.ttl, self.now)?,
        };
        let entry = Entry {
            // A place until it is certain that the memory is new; valid, so that the checks see the other fields.
            id: new.id.unwrap_or(MemoryId { ms: 0, seq: 1 }),
            tier,
            content: new.content.into(),
            kind: new.kind.map_or_else(|| "fact".into(), Into::into),
            importance: new.importance.unwrap_or(0.5),
            confidence: new.confidence.unwrap_or(1.0),
            outcome: new.outcome.map(Into::into),
            session: new.session.map(Into::into),
            speaker: new.speaker.map(Into::into),
            role: new.role.map(Into::into),
            source: new.source.map(Into::into),
            from: new.from,
            at: new.at.unwrap_or(self.now),
            created: self.now,
            entered: self.now,
            expires,
            own_expiry,
            pinned: new.pinned,
            tags: distinct(new.tags),
            meta: new.meta,
            supersedes: new.supersedes,
            superseded: None,
            passage: new.passage.map(Box::new),
            tokens: new.tokens,
            awaits: new.awaits && vectors.is_empty(),
            marks: new.marks,
            heat: Heat::Hot,
            template,
            windows: vectors.len() as u16,
            accessed: self.now,
            uses: 0,
        };
        entry.check()?;
        if let Some(id) = new.id
            && let Some(id) = self.given_id(id, &entry.content)?
        {
            return Ok(self.again(id, entry.importance));
        }
        let text = normalised(&entry.content);
        let hash = hash_of(&entry.content, entry.session.as_deref(), entry.speaker.as_deref());
        let mut pending = Pending { entry, vectors, signs, text, hash, held: new.held };
        if new.dedup != Dedup::Off
            && new.supersedes.is_none()
            && let Some(id) = self.equal(&pending).or_else(|| self.similar(&pending, similar?))
        {
            return Ok(self.again(id, pending.entry.importance));
        }
        if new.id.is_none() {
            let id = self.last.following(self.now).ok_or_else(|| Error::new("the ids of this space are used up"))?;
            pending.entry.id = id;
            self.last = id;
        }
        let id = pending.entry.id;
        if let Some(old) = new.supersedes {
            self.supersede(old, Superseded { by: id, at: pending.entry.at })?;
        }
        self.by_id.insert(id, self.pending.len());
        self.by_hash.entry(hash).or_default().push(self.pending.len());
        self.pending.push(pending);
        Ok(id)
    }

    /// Notes that a memory of the space, or of the batch, gives its place to a new one.
    fn supersede(&mut self, old: MemoryId, by: Superseded) -> Result<()> {
        let taken = |by: &Superseded| {
            Error::new(format!("SUPERSEDES: {old} was superseded by {} already: supersede that one", by.by))
        };
        if let Some(pending) = self.by_id.get(&old).and_then(|n| self.pending.get_mut(*n)) {
            return match pending.entry.superseded.replace(by) {
                Some(earlier) => Err(taken(&earlier)),
                None => Ok(()),
            };
        }
        let (_, entry) = self.space.existing(self.now, old)?;
        match entry.superseded.or(self.superseded.insert(old, by)) {
            Some(earlier) => Err(taken(&earlier)),
            None => Ok(()),
        }
    }

    /// Checks that a given id is unused; gives it back if the same content stands there already.
    fn given_id(&mut self, id: MemoryId, content: &str) -> Result<Option<MemoryId>> {
        let records = &self.space.view.records;
        let standing = match (self.by_id.get(&id), self.space.slot(id)) {
            (Some(n), _) => self.pending.get(*n).map(|pending| Cow::Borrowed(&*pending.entry.content)),
            (None, Some(slot)) if records.is_expired(slot, self.now) => {
                self.replaced.insert(id);
                None
            }
            (None, slot) => slot.and_then(|slot| records.record(slot)).map(|record| record.content.text()),
        };
        match standing {
            None => Ok(None),
            Some(standing) if *standing == *content => Ok(Some(id)),
            Some(_) => Err(Error::new(format!("id exists, use MEM.UPDATE: {id} holds another content"))),
        }
    }

    /// The oldest memory that has the same normalised text, session and speaker, of those that stand before those of the batch. What is
    /// superseded does not count: the same may become true again.
    fn equal(&self, new: &Pending) -> Option<MemoryId> {
        let view = &self.space.view;
        let stands = |slot: &u32| {
            !view.records.is_expired(*slot, self.now)
                && view.records.superseded_at(*slot).is_none()
                && view.records.record(*slot).is_some_and(|record| {
                    record.session == new.entry.session.as_deref()
                        && record.speaker == new.entry.speaker.as_deref()
                        && normalised(&record.content.text()) == new.text
                })
        };
        let (first, last) = (duplicate_item(new.hash, 0), duplicate_item(new.hash, u32::MAX));
        let hashed = self.space.duplicates.range(first, last, |item| item).map(|item| item as u32);
        let standing = hashed.filter(stands).map(|slot| view.id(slot)).min();
        standing.filter(|id| !self.superseded.contains_key(id)).or_else(|| {
            let pending = self.by_hash.get(&new.hash)?.iter().filter_map(|n| self.pending.get(*n));
            let same = |old: &&Pending| {
                old.entry.session == new.entry.session
                    && old.entry.speaker == new.entry.speaker
                    && old.entry.superseded.is_none()
                    && old.text == new.text
            };
            pending.filter(same).map(|old| old.entry.id).min()
        })
    }

    /// The most similar memory of the same session and speaker, if it is similar enough.
    fn similar(&self, new: &Pending, least: f64) -> Option<MemoryId> {
        let first = new.vectors.first()?;
        let view = &self.space.view;
        let enough = |old: &[Vector]| rows::pair_similarity(old, &new.vectors).is_some_and(|cosine| cosine >= least);
        if let Some(rows) = &view.rows {
            let owner = Filter::owner(new.entry.session.as_deref(), new.entry.speaker.as_deref());
            let filter = Filter::all(vec![Filter::unexpired(self.now), Filter::current(), owner]);
            let admitted = view.scan(&filter, false);
            let found = rows.search(&Search {
                queries: &[rows.query(&first.to_f32())],
                limit: ALIKE,
                among: Among::Admitted(&admitted),
                floor: Some(least - 1e-3),
                effort: Effort::Auto,
                id_of: &|slot| view.id(slot),
            });
            let stands = |slot: &u32| {
                view.passes(*slot, &filter)
                    && !self.superseded.contains_key(&view.id(*slot))
                    && enough(&view.stored_vectors(*slot))
            };
            if let Some(slot) = found.hits.iter().map(|(_, slot)| *slot).find(stands) {
                return Some(view.id(slot));
            }
        }
        let alike = |old: &&Pending| {
            old.entry.session == new.entry.session
                && old.entry.speaker == new.entry.speaker
                && old.entry.superseded.is_none()
                && enough(&old.vectors)
        };
        self.pending.iter().find(alike).map(|old| old.entry.id)
    }

    /// Notes that a memory is stored again.
    fn again(&mut self, id: MemoryId, importance: f64) -> MemoryId {
        if let Some(pending) = self.by_id.get(&id).and_then(|n| self.pending.get_mut(*n)) {
            pending.entry.importance = pending.entry.importance.max(importance);
            pending.entry.accessed = pending.entry.accessed.max(self.now);
            pending.entry.uses = pending.entry.uses.saturating_add(1);
            return id;
        }
        let Some(entry) = self.space.get(self.now, id) else { return id };
        let (standing, uses) = self.standing.entry(id).or_insert((entry.importance, entry.uses));
        *standing = standing.max(importance);
        *uses = uses.saturating_add(1);
        let accessed = entry.accessed.max(self.now);
        self.duplicates.push(Effect::Duplicate { id, importance: *standing, accessed, uses: *uses });
        id
    }

    /// What must give way, and all effects in the order in which they apply.
    fn finish(mut self) -> Result<Vec<Effect>> {
        let space = self.space;
        let Beside { spared, leaving: others } = self.beside;
        let stay = self.standing.keys().chain(self.superseded.keys()).chain(spared);
        let mut spared: BTreeSet<MemoryId> = stay.copied().collect();
        let mut victims = Vec::new();
        for tier in Tier::ALL {
            // A turn is held by its session, a chunk is not there yet: neither takes a place now.
            let of_tier = |entry: &Entry| entry.tier == tier && entry.superseded.is_none() && entry.passage.is_none();
            let entering = self.pending.iter().filter(|pending| !pending.held && of_tier(&pending.entry)).count();
            // What is superseded leaves its place in the tier.
            let leaves = |id: &&MemoryId| space.slot(**id).is_some_and(|slot| space.shelf_of(slot) == tier.index());
            let leaving = self.superseded.keys().chain(others).filter(leaves).count();
            if entering > leaving {
                victims.extend(space.make_room(self.now, tier, entering - leaving, &spared)?);
            }
        }
        if space.len() + self.pending.len() > limits::MEMORIES + victims.len() {
            return Err(Error::with_code("OOM", format!("a space holds at most {} memories", limits::MEMORIES)));
        }
        let max = usize::try_from(space.config().max_memory).unwrap_or(usize::MAX);
        if max > 0 && !self.pending.is_empty() {
            let row_bytes = space.row_bytes_of(self.fixed.dim.unwrap_or(0));
            let cost = |new: &Pending| space.entry_cost(&new.entry, &new.signs, row_bytes);
            let entering = self.pending.iter().map(cost).sum::<usize>();
            let leaving: usize =
                victims.iter().filter_map(|id| space.slot(*id)).map(|slot| space.slot_cost(slot)).sum();
            let excess = (space.live_bytes() + entering).saturating_sub(leaving).saturating_sub(max);
            if excess > 0 {
                // Of a space that is over its limit already only some more than this call needs: the rest goes by and by.
                let excess = excess.min(entering + limits::SHRUNK_IN_PASSING);
                spared.extend(&victims);
                let (more, freed) = space.shrinkable(self.now, excess, &spared);
                if freed < excess {
                    return Err(Error::with_code(
                        "OOM",
                        format!(
                            "the space is at its max-memory of {max} bytes, and what it holds is semantic, pinned or stored by \
                             this call: forget some of it, or raise max-memory"
                        ),
                    ));
                }
                victims.extend(more);
            }
        }
        let mut effects = space.expire_due(self.now, limits::EXPIRE_IN_PASSING);
        effects.extend(removals(&self.replaced.iter().copied().collect::<Vec<_>>(), Removal::Expired));
        effects.extend(removals(&victims, Removal::Evicted));
        effects.extend(self.fixed.effect().filter(|_| self.pending.iter().any(|pending| pending.entry.windows > 0)));
        effects.append(&mut self.duplicates);
        for (id, superseded) in self.superseded {
            let patch = Patch { superseded: Some(Some(superseded)), ..Patch::default() };
            effects.push(Effect::Patch { id, patch: Box::new(patch) });
        }
        let put = |pending: Pending| Effect::Put {
            entry: Box::new(pending.entry),
            vectors: pending.vectors,
            signs: pending.signs,
        };
        effects.extend(self.pending.into_iter().map(put));
        Ok(effects)
    }
}
