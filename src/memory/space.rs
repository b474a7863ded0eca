//! A memory space: the data, its indexes, and the one way to change them.
//!
//! What can be frozen (memories, vectors, words, settings) is in a [`Snapshot`]; the space holds the current one and beside it the
//! indexes, which only its owner needs. All indexes have one shape, a set of slots in the order of a key that is read from the
//! columns (`sorted`): by id, by time, by expiry, by retention, by duplicate hash. So each is read in order or by range, ties break by
//! id, and nothing depends on a hash function's seed. The retention index may be out of date in one direction only: a use raises
//! the value of a memory and leaves the index alone, so the key in the index is at most the true one (see `evict`).
//!
//! A memory that another has superseded leaves the shelf of its tier for one of its own: it counts against no capacity.

use crate::document::{STAGED, Shelved};
use crate::effect::{Applied, Counters, Effect, Patch, Removal};
use crate::entry::{Entry, check_time, check_unit};
use crate::filter::{self, Filter};
use crate::graph::edges_bytes;
use crate::heat::{HeatStats, Seen};
use crate::lexical::LexicalCounts;
use crate::recall::Whereabouts;
use crate::record;
use crate::records::{Link, RecordCounts};
use crate::reembed::{Retired, Staging};
use crate::reindex::Reindexing;
use crate::rows::{RowCounts, RowId, Rows, Vector};
use crate::session::Session;
use crate::settings::{Settings, TokenVectors};
use crate::snapshot::{Selection, Snapshot, Timeline, VectorIndex, check_dimension};
use crate::sorted::Sorted;
use crate::text::{duplicate_hash, normalised};
use crate::tier::TIERS;
use crate::tokens::Signs;
use crate::{Error, MemoryId, Millis, Precision, Result, Tier, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What an index orders by: a number, then the id.
pub(crate) type Key = (u64, MemoryId);

/// Bytes of columns, references and indexes per memory (measured by the test `usage`).
const FIXED_BYTES: usize = 96;
/// Bytes of the lexical index per byte of content, nearly: 4 to 5 per word.
const LEXICAL_NUMERATOR: usize = 4;
const LEXICAL_DENOMINATOR: usize = 5;

/// The memories of a tier, or all that are superseded.
#[derive(Clone, Default)]
pub(crate) struct Shelf {
    pub count: usize,
    pub pinned: usize,
    /// Turns that their session holds, pinned ones apart: they take no place.
    pub held: usize,
    pub bytes: usize,
    /// Bytes of vectors, which are in `bytes` too.
    pub vectors: usize,
    /// Bytes that words take, which are in `bytes` while they are indexed.
    pub words: usize,
    /// By expiry, those that have one.
    pub expiry: Sorted<u32, Key>,
    /// By a lower bound of the retention key, those that can be evicted.
    pub retention: Sorted<u32, Key>,
}

/// The shelf of what is superseded, behind those of the tiers.
pub(crate) const SUPERSEDED: usize = TIERS;

/// A memory space.
#[derive(Default)]
pub struct Space {
    pub(crate) view: Snapshot,
    pub(crate) records: RecordCounts,
    pub(crate) rows: RowCounts,
    pub(crate) lexical: LexicalCounts,
    /// The vectors that will take the place of those in the view.
    pub(crate) staging: Option<Box<Staging>>,
    /// The index of words that will take the place of that in the view.
    pub(crate) reindexing: Option<Box<Reindexing>>,
    /// Vectors and indexes that wait to be freed.
    pub(crate) retired: Retired,
    pub(crate) ids: Sorted<u32, MemoryId>,
    pub(crate) timeline: Sorted<u32, Key>,
    /// Duplicate hash in the upper half, slot in the lower.
    pub(crate) duplicates: Sorted<u64, u64>,
    /// Whether the space is being loaded, and its orders by text and by value are left for the end (see [`crate::Loader`]).
    pub(crate) loading: bool,
    /// The memories of each session by time, chunks of documents apart.
    pub(crate) by_session: BTreeMap<Box<str>, Sorted<u32, Key>>,
    /// The records of sessions, and which of them ends when.
    pub(crate) sessions: BTreeMap<Box<str>, Session>,
    pub(crate) session_ends: BTreeSet<(Millis, Box<str>)>,
    /// Documents that are shown, and those that are being staged.
    pub(crate) documents: BTreeMap<Box<str>, Shelved>,
    pub(crate) staged_documents: BTreeMap<Box<str>, Shelved>,
    /// Memories whose vectors are still to be made.
    pub(crate) awaiting: BTreeSet<MemoryId>,
    /// The key under which a slot stands in the retention index.
    pub(crate) retention: Vec<u64>,
    pub(crate) shelves: [Shelf; TIERS + 1],
    /// Memories and their bytes by heat, and the uses of memories when their heat was last looked at.
    pub(crate) heats: [HeatStats; 3],
    pub(crate) seen: Arc<Seen>,
    /// How many memories have a META field of this name.
    pub(crate) meta_names: BTreeMap<Box<str>, usize>,
    /// The largest id seen, `0-0` before the first.
    pub(crate) last_id: MemoryId,
    counters: Counters,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Space {
    /// An empty space with the default settings.
    pub fn new() -> Space {
        Space::default()
    }

    /// Another space of the same content. The two share what snapshots share (vectors, texts, columns, words) until one of them changes it; only the
    /// indexes and the counts of use, a few dozen bytes per memory, are copied at once.
    pub fn copy(&self) -> Space {
        let view = Snapshot { records: self.view.records.copy(&self.records), ..self.view.clone() };
        let mut copy = Space {
            view,
            records: self.records.clone(),
            rows: self.rows.clone(),
            lexical: self.lexical.clone(),
            staging: self.staging.as_ref().map(|staging| Box::new(staging.copy())),
            reindexing: None,
            retired: Retired::default(),
            ids: self.ids.clone(),
            timeline: self.timeline.clone(),
            duplicates: self.duplicates.clone(),
            loading: self.loading,
            by_session: self.by_session.clone(),
            sessions: self.sessions.clone(),
            session_ends: self.session_ends.clone(),
            documents: self.documents.clone(),
            staged_documents: self.staged_documents.clone(),
            awaiting: self.awaiting.clone(),
            retention: self.retention.clone(),
            shelves: self.shelves.clone(),
            heats: self.heats,
            seen: self.seen.clone(),
            meta_names: self.meta_names.clone(),
            last_id: self.last_id,
            counters: self.counters,
            hits: AtomicU64::new(self.hits.load(Relaxed)),
            misses: AtomicU64::new(self.misses.load(Relaxed)),
        };
        // If words are being indexed anew, the copy begins from the start.
        copy.reindex();
        copy
    }

    /// How many memories it holds, expired and superseded ones included.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds no memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The model that made the vectors; None if they are the caller's own, or there are none yet.
    pub fn model(&self) -> Option<&str> {
        self.view.model()
    }

    /// The dimension, once it is fixed.
    pub fn dim(&self) -> Option<usize> {
        self.view.dim()
    }

    /// The settings.
    pub fn config(&self) -> &Settings {
        self.view.settings()
    }

    /// The settings whose names match a glob pattern (`*`, `?`), with their canonical values.
    pub fn settings(&self, pattern: &str) -> Vec<(&'static str, String)> {
        self.view.settings.matching(pattern)
    }

    /// What it is now, frozen.
    pub fn snapshot(&self) -> Snapshot {
        let mut view = self.view.clone();
        view.next_expiry = self.first_expiry();
        view.superseded = self.shelves[SUPERSEDED].count;
        view.links = self.links();
        view
    }

    /// The same, for a recall of what is like this memory: a snapshot has no index to find it by.
    pub fn snapshot_for(&self, id: MemoryId) -> Snapshot {
        Snapshot { known: Some((id, self.slot(id))), ..self.snapshot() }
    }

    pub(crate) fn slot(&self, id: MemoryId) -> Option<u32> {
        self.ids.find(id, |slot| self.view.id(slot))
    }

    /// A memory, unless it has expired.
    pub fn get(&self, now: Millis, id: MemoryId) -> Option<Entry> {
        self.view.records.entry(self.standing(now, id)?)
    }

    /// The slot of a memory, unless it has expired.
    pub(crate) fn standing(&self, now: Millis, id: MemoryId) -> Option<u32> {
        self.slot(id).filter(|slot| !self.view.records.is_expired(*slot, now))
    }

    /// The slot of a memory that must be there.
    pub(crate) fn existing(&self, now: Millis, id: MemoryId) -> Result<(u32, Entry)> {
        let slot = self.standing(now, id);
        slot.and_then(|slot| Some((slot, self.view.records.entry(slot)?))).ok_or_else(|| Error::no_such_memory(id))
    }

    /// The vectors of a memory, of length one: one per window, none without an embedding.
    pub fn vectors(&self, id: MemoryId) -> Vec<Vec<f32>> {
        self.slot(id).map_or(Vec::new(), |slot| self.stored_vectors(slot).iter().map(Vector::to_f32).collect())
    }

    /// Whether a memory that is stored now gets word vectors: by the setting, and as long as those that there are leave room.
    pub fn takes_token_vectors(&self) -> bool {
        self.takes_token_vectors_beside(self.records.signs.live)
    }

    /// The same where those that there are take so many bytes.
    pub(crate) fn takes_token_vectors_beside(&self, bytes: usize) -> bool {
        match self.config().token_vectors {
            TokenVectors::On => true,
            TokenVectors::Off => false,
            TokenVectors::Auto => bytes < limits::AUTO_TOKEN_VECTOR_BYTES,
        }
    }

    /// The word vectors as they are kept.
    pub(crate) fn stored_signs(&self, slot: u32) -> Signs {
        Signs::read(self.view.records.signs(slot))
    }

    /// The vectors as they are kept.
    pub(crate) fn stored_vectors(&self, slot: u32) -> Vec<Vector> {
        self.view.stored_vectors(slot)
    }

    /// Notes that a memory was used.
    pub fn touch(&self, id: MemoryId, now: Millis) {
        self.touch_slot(self.slot(id), now);
    }

    /// Notes that what a recall found was used: without a search if it still is where it was.
    pub fn touch_found(&self, found: Whereabouts, now: Millis) {
        let slot = Some(found.slot).filter(|slot| self.view.records.id(*slot) == Some(found.id));
        self.touch_slot(slot.or_else(|| self.slot(found.id)), now);
    }

    fn touch_slot(&self, slot: Option<u32>, now: Millis) {
        if let Some(slot) = slot {
            let (accessed, uses) = self.view.records.usage(slot);
            self.view.records.set_usage(slot, accessed.max(now), uses.saturating_add(1));
        }
    }

    /// Last access and number of uses of a memory.
    pub fn usage(&self, id: MemoryId) -> Option<(Millis, u32)> {
        Some(self.view.records.usage(self.slot(id)?))
    }

    /// Notes a recall: whether it had a result.
    pub fn note_recall(&self, hit: bool) {
        (if hit { &self.hits } else { &self.misses }).fetch_add(1, Relaxed);
    }

    /// What the space has counted since it was made.
    pub fn counters(&self) -> Counters {
        Counters { hits: self.hits.load(Relaxed), misses: self.misses.load(Relaxed), ..self.counters }
    }

    /// Reads a filter and checks that every name in it is built in or borne by a memory, unless the space is empty.
    pub fn filter(&self, text: &str) -> Result<Filter> {
        let filter = Filter::parse(text)?;
        if !self.is_empty()
            && let Some(unknown) = filter.meta_names().into_iter().find(|name| !self.meta_names.contains_key(*name))
        {
            return Err(filter::unknown_field(unknown, self.meta_names.keys().map(|name| &**name)));
        }
        Ok(filter)
    }

    /// One step of a scan in the order of ids: looks at up to `count` memories behind the cursor ([`MemoryId::ZERO`] = from the
    /// start) and gives those that pass, and the cursor of the next step, which is `ZERO` at the end. What stands from start to
    /// end is given exactly once.
    pub fn scan(&self, now: Millis, cursor: MemoryId, count: usize, filter: Option<&Filter>) -> (MemoryId, Vec<Entry>) {
        let (next, slots) = self.scan_slots(cursor, count);
        (next, self.view.entries(now, &slots, filter))
    }

    /// The step of [`Space::scan`] that needs the index: the cursor of the next step, and the places of the memories to look at, for
    /// [`Snapshot::entries`].
    pub fn scan_slots(&self, cursor: MemoryId, count: usize) -> (MemoryId, Vec<u32>) {
        // Ids are whole numbers, so the one behind the cursor is the next possible one.
        let mut behind = self.ids.range_from(cursor.next(), |slot| self.view.id(slot));
        let slots: Vec<u32> = behind.by_ref().take(count.max(1)).collect();
        let last = slots.last().map(|slot| self.view.id(*slot));
        (last.filter(|_| behind.next().is_some()).unwrap_or(MemoryId::ZERO), slots)
    }

    /// How many memories there are, or pass.
    pub fn count(&self, now: Millis, filter: Option<&Filter>) -> usize {
        match filter {
            None => (0..self.shelves.len()).map(|shelf| self.live_count(shelf, now)).sum(),
            Some(_) => self.snapshot().count(now, filter),
        }
    }

    /// Memories by when they happened, equal times by id: found in the index, if that takes looking at no more than `looks` of them; None if it takes
    /// more ([`Snapshot::timeline`] then looks at them all).
    pub fn timeline(&self, now: Millis, timeline: &Timeline, looks: usize) -> Option<Vec<Entry>> {
        let Some((first, last)) = timeline.ends() else { return Some(Vec::new()) };
        let mut range =
            self.timeline.range((first, MemoryId::ZERO), (last, MemoryId::MAX), |slot| self.view.time_key(slot));
        let mut next = || if timeline.reverse { range.next_back() } else { range.next() };
        let mut found = Vec::new();
        for look in 0.. {
            if look > looks {
                return None;
            }
            if timeline.count.is_some_and(|count| found.len() >= count) {
                return Some(found);
            }
            let Some(slot) = next() else { return Some(found) };
            found.extend(self.view.passing_entry(now, slot, timeline.filter.as_ref()));
        }
        None
    }

    /// The ids that a selection takes, in order.
    pub fn forget(&self, now: Millis, selection: &Selection) -> Vec<MemoryId> {
        match selection {
            Selection::Ids(ids) => {
                let ids: BTreeSet<MemoryId> =
                    ids.iter().copied().filter(|id| self.standing(now, *id).is_some()).collect();
                ids.into_iter().collect()
            }
            _ => self.view.select(now, selection),
        }
    }

    /// How many memories of a shelf have not expired.
    pub(crate) fn live_count(&self, shelf: usize, now: Millis) -> usize {
        let Some(shelf) = self.shelves.get(shelf) else { return 0 };
        shelf.count
            - shelf.expiry.count_below((now.saturating_add(1), MemoryId::ZERO), |slot| self.view.expiry_key(slot))
    }

    /// Bytes that a memory takes, nearly: itself, its place in the indexes, its vectors, its words.
    pub(crate) fn cost(&self, content: usize, record: usize, vectors: usize) -> usize {
        let words = if self.view.indexing.lexical { words_cost(content) } else { 0 };
        FIXED_BYTES + record + vectors + words
    }

    /// Bytes that a memory would take, nearly.
    pub(crate) fn entry_cost(&self, entry: &Entry, signs: &Signs, row_bytes: usize) -> usize {
        let mut record = Vec::with_capacity(entry.content.len() + 256);
        record::write(entry, &[], &mut record);
        let signs = signs.len() * size_of::<u64>();
        let vectors = vectors_cost(entry.windows.into(), row_bytes, signs);
        self.cost(entry.content.len(), record.len().next_multiple_of(4), vectors)
    }

    /// Bytes that the memory in a slot takes, nearly, with its ends of its links.
    pub(crate) fn slot_cost(&self, slot: u32) -> usize {
        let Some(record) = self.view.records.record(slot) else { return 0 };
        let links = edges_bytes(self.view.records.edges(slot));
        self.cost(record.content.len(), record.len.next_multiple_of(4), self.slot_vectors_cost(slot)) + links
    }

    /// Bytes of that which are its vectors.
    pub(crate) fn slot_vectors_cost(&self, slot: u32) -> usize {
        let records = &self.view.records;
        let row_bytes = self
            .view
            .rows
            .as_ref()
            .map_or(0, |rows| rows.row_bytes(self.view.row_precision(slot).unwrap_or(rows.precision())));
        vectors_cost(records.windows(slot), row_bytes, records.signs(slot).len())
    }

    /// Bytes of that which its words take in the index, or would.
    fn slot_words_cost(&self, slot: u32) -> usize {
        self.view.records.record(slot).map_or(0, |record| words_cost(record.content.len()))
    }

    /// Bytes of all memories with their indexes and vectors, nearly, without the room that is kept for more: what `max-memory` bounds.
    pub fn live_bytes(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.bytes).sum()
    }

    /// Bytes that the space takes, with the room that is kept for more and what is dead and not yet given back. Walks the chunks.
    pub fn memory_usage(&self) -> usize {
        size_of::<Space>() + self.memory_parts().iter().map(|(_, bytes)| bytes).sum::<usize>()
    }

    /// The same by part: columns, texts, vectors, word vectors, the words' index, the indexes by id, time, expiry, value, text and session, records of sessions and documents,
    /// links, and what is staged.
    pub fn memory_parts(&self) -> [(&'static str, usize); 9] {
        let shelves = self.shelves.iter().map(|shelf| shelf.expiry.bytes() + shelf.retention.bytes());
        let sessions = self.by_session.iter().map(|(name, order)| 64 + name.len() + order.bytes());
        let names = self.meta_names.keys().map(|name| 48 + name.len());
        let orders = self.ids.bytes() + self.timeline.bytes() + self.duplicates.bytes();
        let keys = self.retention.capacity() * size_of::<u64>() + self.seen.bytes();
        let staged = self.staging.as_ref().map_or(0, |staging| staging.memory_usage());
        let reindexed = self.reindexing.as_ref().map_or(0, |reindexing| reindexing.memory_usage());
        [
            ("columns", self.view.records.bytes()),
            ("texts", self.records.texts.bytes + self.view.records.dictionary_bytes()),
            ("vectors", self.rows.bytes),
            ("token_vectors", self.records.signs.bytes),
            ("words", self.lexical.bytes()),
            ("indexes", orders + keys + shelves.sum::<usize>() + sessions.sum::<usize>() + names.sum::<usize>()),
            ("sessions", self.sessions_bytes() + self.documents_bytes() + 32 * self.awaiting.len()),
            ("links", self.records.links.bytes),
            ("staged", staged + reindexed),
        ]
    }

    /// How many allocations freeing the space takes, nearly.
    pub fn free_effort(&self) -> usize {
        self.view.records.slots() / 32
            + self.by_session.len()
            + self.sessions.len()
            + self.documents.len()
            + 2 * self.links()
            + 1
    }

    /// Bytes of one row, now or once a first vector of `dim` is there.
    pub(crate) fn row_bytes_of(&self, dim: usize) -> usize {
        match &self.view.rows {
            Some(rows) => rows.row_bytes(rows.precision()),
            None if dim == 0 => 0,
            None => Rows::new(dim, self.config().precision).row_bytes(self.config().precision),
        }
    }

    /// Moves up to `budget` vectors, records or documents together, out of blocks of which much is dead. False when there is none left. No
    /// result shows it.
    pub fn compact_step(&mut self, budget: usize) -> bool {
        self.compact_rows(budget)
            || self.view.records.compact(&mut self.records, budget)
            || self.compact_documents(budget)
    }

    fn compact_rows(&mut self, budget: usize) -> bool {
        let Some(rows) = &mut self.view.rows else { return false };
        let Some(moving) = rows.compactable(&mut self.rows, budget) else { return false };
        for (owner, row) in moving {
            let Some(vector) = rows.vector(row) else { continue };
            let moved = rows.append(&mut self.rows, owner, &vector);
            rows.kill(&mut self.rows, row);
            let mut own = self.view.records.rows(owner);
            own.iter_mut().filter(|old| **old == row).for_each(|old| *old = moved);
            self.view.records.set_rows(owner, &own);
        }
        true
    }

    fn compact_documents(&mut self, budget: usize) -> bool {
        let moved = self.view.lexical.compact(&mut self.lexical, budget);
        for (owner, document) in &moved {
            self.view.records.set_link(*owner, Link::Document, Some(document.number()));
        }
        !moved.is_empty()
    }

    /// Whether recall would be faster with an index over the vectors, or with a newer one: for [`Snapshot::build_index`]. If the last one is not `rested`,
    /// only if it would be much faster.
    pub fn wants_index(&self, rested: bool) -> bool {
        self.view.rows.as_ref().is_some_and(|rows| rows.wants_index(rested))
    }

    /// Searches with an index from now on, unless it was built of vectors that have been replaced since. Gives what is of no use any more: dropping it frees
    /// much at once, which is best done on another thread.
    pub fn install_index(&mut self, built: VectorIndex) -> Option<VectorIndex> {
        let era = built.era;
        match &mut self.view.rows {
            Some(rows) if era == self.view.rows_era => {
                let old = rows.set_index(&mut self.rows, Some(built.index));
                old.map(|index| VectorIndex { index, era })
            }
            _ => Some(built),
        }
    }

    /// Applies an effect, whoever it comes from. An effect that the space cannot take gives an error and changes nothing.
    pub fn apply(&mut self, effect: &Effect) -> Result<Applied> {
        if self.loading && !effect.only_adds() && !self.is_empty() {
            self.end_loading();
        }
        let memories = match effect {
            Effect::Model { model, dim, precision } => {
                self.fix_model(model.as_deref(), *dim as usize, *precision).map(|()| 0)?
            }
            Effect::Put { entry, vectors, signs } => self.put(entry, vectors, signs).map(|()| 1)?,
            Effect::Patch { id, patch } => self.patch(*id, patch).map(|()| 1)?,
            Effect::Remove { ids, reason } => self.remove_all(ids, *reason),
            Effect::Duplicate { id, importance, accessed, uses } => {
                check_unit("IMPORTANCE", *importance)?;
                check_time("accessed", *accessed)?;
                let slot = self.slot(*id).ok_or_else(|| Error::no_such_memory(*id))?;
                if self.view.records.importance(slot) != *importance {
                    self.patch(*id, &Patch { importance: Some(*importance), ..Patch::default() })?;
                }
                self.set_use(*id, *accessed, *uses);
                self.counters.duplicates = self.counters.duplicates.saturating_add(1);
                1
            }
            Effect::Use(uses) => {
                for (_, accessed, _) in uses {
                    check_time("accessed", *accessed)?;
                }
                uses.iter().for_each(|(id, accessed, uses)| self.set_use(*id, *accessed, *uses));
                0
            }
            Effect::Set { name, value } => self.set_setting(name, value).map(|()| 0)?,
            Effect::Counters(counters) => {
                self.counters = *counters;
                self.hits.store(counters.hits, Relaxed);
                self.misses.store(counters.misses, Relaxed);
                0
            }
            Effect::LastId(id) => {
                if !id.is_valid() {
                    return Err(Error::new(format!("{id} is not a memory id")));
                }
                self.last_id = self.last_id.max(*id);
                0
            }
            Effect::Stage { model, dim, precision } => {
                self.begin_staging(model.as_deref(), *dim as usize, *precision).map(|()| 0)?
            }
            Effect::Staged(staged) => self.stage_all(staged).map(|()| 0)?,
            Effect::Switch => self.switch()?,
            Effect::Unstage => {
                self.drop_staged();
                0
            }
            Effect::Session(patch) => self.patch_session(patch).map(|()| 0)?,
            Effect::Turns { session, ids } => self.add_turns(session, ids).map(|()| 0)?,
            Effect::EndSession { name, turns } => self.end_session(name, *turns),
            Effect::Mark { ids, marks, on } => {
                for slot in ids.iter().filter_map(|id| self.slot(*id)).collect::<Vec<u32>>() {
                    self.view.records.mark(slot, *marks, *on);
                }
                0
            }
            Effect::Heat { to, ids } => self.set_heat(*to, ids),
            Effect::Dictionary(bytes) => self.add_dictionary(bytes).map(|()| 0)?,
            Effect::Document(document) => self.begin_staging_document(document).map(|()| 0)?,
            Effect::ShowDocument { name, expires } => self.show_staged_document(name, *expires)?,
            Effect::DropDocument { name, staged } => self.drop_document(name, *staged),
            Effect::Link(link) => self.put_link(link).map(|()| 0)?,
            Effect::Unlink { from, to, rel } => {
                self.take_links(*from, *to, rel.as_deref());
                0
            }
        };
        Ok(Applied { memories })
    }

    fn fix_model(&mut self, model: Option<&str>, dim: usize, precision: Precision) -> Result<()> {
        check_kind(model, dim)?;
        if let Some(rows) = &self.view.rows {
            if (rows.dim(), rows.precision(), self.model()) != (dim, precision, model) {
                return Err(Error::new("the model and the dimension of the space are fixed already, and others"));
            }
            return Ok(());
        }
        self.view.rows = Some(Rows::new(dim, precision));
        self.view.rows_era += 1;
        self.view.model = model.map(Arc::from);
        Ok(())
    }

    /// Vectors from outside must fit before any of them is written.
    fn check_vectors(&self, vectors: &[Vector], template: u16, signs: &Signs) -> Result<()> {
        if vectors.is_empty() && signs.is_empty() {
            return Ok(());
        }
        let Some(rows) = &self.view.rows else {
            return Err(Error::new("a vector before the dimension of the space was fixed"));
        };
        if template != 0 && self.view.model.is_none() {
            return Err(Error::new("an embedding in a space whose vectors are the caller's own"));
        }
        check_vectors_of(vectors, signs, rows)
    }

    fn put(&mut self, entry: &Entry, vectors: &[Vector], signs: &Signs) -> Result<()> {
        entry.check()?;
        self.check_vectors(vectors, entry.template, signs)?;
        self.check_passage(entry)?;
        if usize::from(entry.windows) != vectors.len() {
            return Err(Error::new(format!("a memory of {} vectors came with {}", entry.windows, vectors.len())));
        }
        if entry.id <= self.last_id && self.slot(entry.id).is_some() {
            return Err(Error::new(format!("id {} exists", entry.id)));
        }
        if !self.view.records.has_room(&self.records) {
            return Err(Error::with_code(
                "OOM",
                format!(
                    "the space is full: it holds {} memories, at most {} and 16 GiB of texts",
                    self.len(),
                    limits::MEMORIES
                ),
            ));
        }
        let slot = self.view.records.put(&mut self.records, entry);
        self.append_all(slot, vectors);
        self.view.records.set_signs(&mut self.records, slot, signs);
        self.add_document(slot);
        self.enter(slot);
        self.join_document(entry, slot);
        self.last_id = self.last_id.max(entry.id);
        self.counters.stores = self.counters.stores.saturating_add(1);
        self.refresh_retention(self.shelf_of(slot));
        Ok(())
    }

    pub(crate) fn append_all(&mut self, slot: u32, vectors: &[Vector]) {
        let Some(rows) = &mut self.view.rows else { return self.view.records.set_rows(slot, &[]) };
        let places: Vec<RowId> = vectors.iter().map(|vector| rows.append(&mut self.rows, slot, vector)).collect();
        self.view.records.set_rows(slot, &places);
    }

    pub(crate) fn kill_all(&mut self, slot: u32) {
        let Some(rows) = &mut self.view.rows else { return };
        let counts = &mut self.rows;
        self.view.records.each_row(slot, |row| rows.kill(counts, row));
    }

    fn patch(&mut self, id: MemoryId, patch: &Patch) -> Result<()> {
        let Some((slot, old)) = self.slot(id).and_then(|slot| Some((slot, self.view.records.entry(slot)?))) else {
            return Err(Error::no_such_memory(id));
        };
        let new = patch.applied_to(&old);
        new.check()?;
        // A chunk is hidden or shown with its document.
        let hidden = |expires: Option<Millis>| expires.is_some_and(|expires| expires <= STAGED);
        if old.passage.is_some() && old.expires != new.expires && (hidden(old.expires) || hidden(new.expires)) {
            return Err(Error::new(format!("{id} is a chunk: its document alone hides and shows it")));
        }
        if let Some((template, vectors, signs)) = &patch.vectors {
            self.check_vectors(vectors, *template, signs)?;
        }
        let indexed = old.content != new.content || (old.at, &old.speaker) != (new.at, &new.speaker);
        if old.session != new.session {
            self.leave_record(slot, false);
        } else if old.content != new.content {
            self.reword_turn(slot);
        }
        self.leave(slot);
        if indexed {
            self.remove_document(slot);
        }
        if indexed || patch.vectors.is_some() {
            // What was staged is of the old text or of the old vectors.
            self.unstage_slot(slot);
        }
        self.view.records.write(&mut self.records, slot, &new);
        if let Some((_, vectors, signs)) = &patch.vectors {
            self.kill_all(slot);
            self.append_all(slot, vectors);
            self.view.records.set_signs(&mut self.records, slot, signs);
        }
        if indexed {
            self.add_document(slot);
        }
        if new.tier != old.tier {
            self.counters.promotions = self.counters.promotions.saturating_add(1);
        }
        self.enter(slot);
        self.refresh_retention(self.shelf_of(slot));
        Ok(())
    }

    fn remove_all(&mut self, ids: &[MemoryId], reason: Removal) -> usize {
        let mut removed = 0;
        for id in ids {
            let Some(slot) = self.slot(*id) else { continue };
            let shelf = self.shelf_of(slot);
            self.cut_links(slot);
            self.leave_record(slot, reason == Removal::Forgotten);
            self.leave_document(slot);
            self.leave(slot);
            self.remove_document(slot);
            self.kill_all(slot);
            self.unstage_slot(slot);
            self.view.records.clear(&mut self.records, slot);
            self.refresh_retention(shelf);
            removed += 1;
        }
        let counter = match reason {
            Removal::Evicted => &mut self.counters.evictions,
            Removal::Expired => &mut self.counters.expirations,
            Removal::Merged => &mut self.counters.merges,
            Removal::Forgotten => return removed,
        };
        *counter = counter.saturating_add(removed as u64);
        removed
    }

    fn set_use(&self, id: MemoryId, accessed: Millis, uses: u32) {
        // Never less than is known: the retention index holds lower bounds.
        if let Some(slot) = self.slot(id) {
            let (known_accessed, known_uses) = self.view.records.usage(slot);
            self.view.records.set_usage(slot, accessed.max(known_accessed), uses.max(known_uses));
        }
    }

    fn set_setting(&mut self, name: &str, value: &str) -> Result<()> {
        let mut settings = Settings::clone(&self.view.settings);
        let old = settings.clone();
        settings.set(name, value)?;
        self.view.settings = Arc::new(settings);
        let settings = self.view.settings.clone();
        for tier in Tier::ALL {
            if settings.eviction != old.eviction || settings.half_life_ms(tier) != old.half_life_ms(tier) {
                self.rebuild_retention(tier.index());
                self.rebuild_retention(SUPERSEDED);
            }
        }
        if settings.template != old.template {
            // What is staged is of other texts: all over again.
            self.restage();
        }
        self.view.records.set_plain(!settings.compress);
        if settings.session_turns != old.session_turns {
            self.hold_all_turns();
        }
        self.reindex();
        Ok(())
    }

    /// The shelf on which a memory stands.
    pub(crate) fn shelf_of(&self, slot: u32) -> usize {
        self.view.shelf_of(slot)
    }

    /// Counts what a memory takes where it stands.
    pub(crate) fn add_cost(&mut self, slot: u32) {
        let (cost, vectors, words) = (self.slot_cost(slot), self.slot_vectors_cost(slot), self.slot_words_cost(slot));
        let index = &mut self.shelves[self.view.shelf_of(slot)];
        index.bytes += cost;
        index.vectors += vectors;
        index.words += words;
        let heat = &mut self.heats[self.view.records.heat(slot) as usize];
        heat.count += 1;
        heat.bytes += cost;
        heat.vectors += vectors;
        heat.words += words;
    }

    /// Counts it no longer.
    pub(crate) fn take_cost(&mut self, slot: u32) {
        let (cost, vectors, words) = (self.slot_cost(slot), self.slot_vectors_cost(slot), self.slot_words_cost(slot));
        let index = &mut self.shelves[self.view.shelf_of(slot)];
        index.bytes -= cost;
        index.vectors -= vectors;
        index.words -= words;
        let heat = &mut self.heats[self.view.records.heat(slot) as usize];
        heat.count -= 1;
        heat.bytes -= cost;
        heat.vectors -= vectors;
        heat.words -= words;
    }

    /// Puts a memory that stands in its slot into every index.
    fn enter(&mut self, slot: u32) {
        let retention = self.view.retention(slot);
        self.add_cost(slot);
        let shelf = self.shelf_of(slot);
        if let Some(staging) = &mut self.staging {
            staging.add(shelf, self.view.records.heat(slot), slot);
        }
        if self.retention.len() <= slot as usize {
            if self.retention.len() == self.retention.capacity() {
                // By an eighth: doubling would keep up to 8 bytes per memory for nothing.
                self.retention.reserve_exact((self.retention.len() / 8).max(16));
            }
            self.retention.resize(slot as usize + 1, 0);
        }
        self.retention[slot as usize] = retention;
        let view = &self.view;
        self.ids.insert(slot, |slot| view.id(slot));
        self.timeline.insert(slot, |slot| view.time_key(slot));
        let index = &mut self.shelves[shelf];
        index.count += 1;
        if view.records.expires(slot).is_some() {
            index.expiry.insert(slot, |slot| view.expiry_key(slot));
        }
        let (pinned, kept) = (view.records.is_pinned(slot), view.records.is_kept(slot));
        index.pinned += usize::from(pinned);
        index.held += usize::from(kept && !pinned);
        if view.records.awaits(slot) {
            self.awaiting.insert(view.id(slot));
        }
        let chunk = view.records.is_chunk(slot);
        if !self.loading {
            if !chunk {
                self.duplicates.insert(duplicate_item(view.duplicate_hash(slot), slot), |item| item);
            }
            if !kept && !is_staged(view, slot) {
                let keys = &self.retention;
                index.retention.insert(slot, |slot| retention_key(view, keys, slot));
            }
        }
        let Some(record) = view.records.record(slot) else { return };
        for name in record.meta().iter().flat_map(|meta| meta.keys()) {
            match self.meta_names.get_mut(name.as_str()) {
                Some(n) => *n += 1,
                None => {
                    self.meta_names.insert(name.as_str().into(), 1);
                }
            }
        }
        if let Some(session) = record.session.filter(|_| !chunk).map(Box::from) {
            self.join_session(session, slot);
        }
    }

    /// Takes a memory out of every index; what stands in its slot stays.
    fn leave(&mut self, slot: u32) {
        self.take_cost(slot);
        let shelf = self.shelf_of(slot);
        if let Some(staging) = &mut self.staging {
            staging.take(shelf, self.view.records.heat(slot), slot);
        }
        let view = &self.view;
        self.ids.remove(slot, |slot| view.id(slot));
        self.timeline.remove(slot, |slot| view.time_key(slot));
        let chunk = view.records.is_chunk(slot);
        if !chunk {
            self.duplicates.remove(duplicate_item(view.duplicate_hash(slot), slot), |item| item);
        }
        if view.records.awaits(slot) {
            self.awaiting.remove(&view.id(slot));
        }
        let index = &mut self.shelves[shelf];
        index.count -= 1;
        if view.records.expires(slot).is_some() {
            index.expiry.remove(slot, |slot| view.expiry_key(slot));
        }
        let (pinned, kept) = (view.records.is_pinned(slot), view.records.is_kept(slot));
        index.pinned -= usize::from(pinned);
        index.held -= usize::from(kept && !pinned);
        if !kept && !is_staged(view, slot) {
            let keys = &self.retention;
            index.retention.remove(slot, |slot| retention_key(view, keys, slot));
        }
        let Some(record) = view.records.record(slot) else { return };
        for name in record.meta().iter().flat_map(|meta| meta.keys()) {
            if let Some(n) = self.meta_names.get_mut(name.as_str()) {
                *n -= 1;
                if *n == 0 {
                    self.meta_names.remove(name.as_str());
                }
            }
        }
        if let Some(session) = record.session.filter(|_| !chunk).map(Box::<str>::from) {
            self.leave_session(&session, slot);
        }
    }

    /// Puts a turn between its neighbours in time.
    fn join_session(&mut self, session: Box<str>, slot: u32) {
        let order = self.by_session.entry(session).or_default();
        let view = &self.view;
        let key = |slot| view.time_key(slot);
        order.insert(slot, key);
        let next = order.range_from(key(slot), key).nth(1);
        let previous = match next {
            Some(next) => view.records.link(next, Link::Previous),
            // The last of all: the one that was the last before it.
            None => order.range((0, MemoryId::ZERO), key(slot), key).next_back(),
        };
        self.tie(previous, Some(slot));
        self.tie(Some(slot), next);
    }

    fn leave_session(&mut self, session: &str, slot: u32) {
        let Some(order) = self.by_session.get_mut(session) else { return };
        order.remove(slot, |slot| self.view.time_key(slot));
        if order.len() == 0 {
            self.by_session.remove(session);
        }
        let records = &mut self.view.records;
        let (previous, next) = (records.link(slot, Link::Previous), records.link(slot, Link::Next));
        records.set_link(slot, Link::Previous, None);
        records.set_link(slot, Link::Next, None);
        self.tie(previous, next);
    }

    /// Makes two turns neighbours; None is the end of the session.
    fn tie(&mut self, previous: Option<u32>, next: Option<u32>) {
        if let Some(previous) = previous {
            self.view.records.set_link(previous, Link::Next, next);
        }
        if let Some(next) = next {
            self.view.records.set_link(next, Link::Previous, previous);
        }
    }

    /// Sets whether a session holds a memory; see [`crate::records::Records::set_held`].
    pub(crate) fn hold(&mut self, slot: u32, held: Option<bool>) {
        let was = self.view.records.held(slot) == Some(true);
        self.view.records.set_held(slot, held);
        let is = held == Some(true);
        if was == is || self.view.records.is_pinned(slot) {
            return;
        }
        let shelf = self.shelf_of(slot);
        if is {
            let (view, keys) = (&self.view, &self.retention);
            let index = &mut self.shelves[shelf];
            index.held += 1;
            index.retention.remove(slot, |slot| retention_key(view, keys, slot));
        } else {
            self.shelves[shelf].held -= 1;
            self.offer(slot);
        }
    }

    /// Makes a memory one that can be evicted, unless it is kept: a turn that is held no longer, a chunk that has been staged. Its key is computed anew:
    /// the settings that it follows from may have changed while it stood in no order.
    pub(crate) fn offer(&mut self, slot: u32) {
        if self.view.records.is_kept(slot) {
            return;
        }
        if let Some(key) = self.retention.get_mut(slot as usize) {
            *key = self.view.retention(slot);
        }
        let shelf = self.shelf_of(slot);
        let (view, keys) = (&self.view, &self.retention);
        self.shelves[shelf].retention.insert(slot, |slot| retention_key(view, keys, slot));
    }

    /// Sets when a memory expires, as no patch does: of chunks that are hidden or shown, and turns that go with their session.
    pub(crate) fn reexpire(&mut self, slot: u32, expires: Option<Millis>) {
        let shelf = self.shelf_of(slot);
        if self.view.records.expires(slot).is_some() {
            let view = &self.view;
            self.shelves[shelf].expiry.remove(slot, |slot| view.expiry_key(slot));
        }
        self.view.records.set_expires(slot, expires);
        if expires.is_some() {
            let view = &self.view;
            self.shelves[shelf].expiry.insert(slot, |slot| view.expiry_key(slot));
        }
    }

    /// Brings the lowest keys of a shelf's retention index up to date, a few with every change, so that uses never pile up
    /// in front of an eviction.
    fn refresh_retention(&mut self, shelf: usize) {
        for _ in 0..4 {
            let Some(slot) = self.shelves[shelf].retention.first() else { return };
            let true_key = self.view.retention(slot);
            if self.retention[slot as usize] == true_key {
                return;
            }
            self.move_retention(shelf, slot, true_key);
        }
    }

    fn move_retention(&mut self, shelf: usize, slot: u32, key: u64) {
        let (view, keys) = (&self.view, &mut self.retention);
        let index = &mut self.shelves[shelf].retention;
        index.remove(slot, |slot| retention_key(view, keys, slot));
        keys[slot as usize] = key;
        index.insert(slot, |slot| retention_key(view, keys, slot));
    }

    fn rebuild_retention(&mut self, shelf: usize) {
        let slots: Vec<u32> = self.shelves[shelf].retention.iter().collect();
        slots.iter().for_each(|slot| self.retention[*slot as usize] = self.view.retention(*slot));
        self.order_retention(shelf, slots);
    }

    /// Makes the retention index of a shelf of its slots, in any order, by the keys that they have.
    fn order_retention(&mut self, shelf: usize, mut slots: Vec<u32>) {
        let key = |slot: u32| retention_key(&self.view, &self.retention, slot);
        slots.sort_by_cached_key(|slot| key(*slot));
        self.shelves[shelf].retention = Sorted::of(&slots, key);
    }

    /// Builds what was left for the end of loading: sorting all at once is several times faster than finding each its place.
    pub(crate) fn end_loading(&mut self) {
        if !std::mem::take(&mut self.loading) {
            return;
        }
        let view = &self.view;
        let mut shelves: [Vec<u32>; TIERS + 1] = Default::default();
        let mut duplicates = Vec::with_capacity(self.len());
        for slot in view.records.iter() {
            if !view.records.is_chunk(slot) {
                duplicates.push(duplicate_item(view.duplicate_hash(slot), slot));
            }
            if !view.records.is_kept(slot) && !is_staged(view, slot) {
                shelves[self.shelf_of(slot)].push(slot);
            }
        }
        duplicates.sort_unstable();
        self.duplicates = Sorted::of(&duplicates, |item| item);
        shelves.into_iter().enumerate().for_each(|(shelf, slots)| self.order_retention(shelf, slots));
    }
}

/// Bytes that a content takes in the index of words, nearly.
fn words_cost(content: usize) -> usize {
    content * LEXICAL_NUMERATOR / LEXICAL_DENOMINATOR
}

/// Bytes that the vectors of a memory and of its words take, nearly.
pub(crate) fn vectors_cost(windows: usize, row_bytes: usize, signs: usize) -> usize {
    let places = if windows > 1 { 48 + windows * size_of::<RowId>() } else { 0 };
    places + windows * row_bytes + signs
}

/// Whether a memory is not shown yet, or has gone already: nobody sees it, and the digest neither.
pub(crate) fn is_hidden(view: &Snapshot, slot: u32) -> bool {
    view.records.expires(slot).is_some_and(|expires| expires <= STAGED)
}

/// Whether a memory is a chunk of a document that is not shown yet: nothing decides about it.
pub(crate) fn is_staged(view: &Snapshot, slot: u32) -> bool {
    view.records.expires(slot) == Some(STAGED) && view.records.is_chunk(slot)
}

/// The key of a slot in the retention index.
pub(crate) fn retention_key(view: &Snapshot, keys: &[u64], slot: u32) -> Key {
    (keys.get(slot as usize).copied().unwrap_or(0), view.id(slot))
}

/// A slot in the index of duplicates.
pub(crate) fn duplicate_item(hash: u32, slot: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(slot)
}

/// What vectors of a space are: a model's or nobody's, of a length.
pub(crate) fn check_kind(model: Option<&str>, dim: usize) -> Result<()> {
    if dim == 0 || dim > limits::DIMENSIONS {
        return Err(Error::new(format!("{dim} dimensions: a vector has 1 to {}", limits::DIMENSIONS)));
    }
    if model.is_some_and(|model| model.is_empty() || model.len() > limits::MODEL_BYTES) {
        return Err(Error::new(format!("a model's name has 1 to {} bytes", limits::MODEL_BYTES)));
    }
    Ok(())
}

/// Whether the vectors of an effect are what these rows hold.
pub(crate) fn check_vectors_of(vectors: &[Vector], signs: &Signs, rows: &Rows) -> Result<()> {
    check_vector_bytes(vectors.len(), rows.dim())?;
    let first = vectors.first().map(Vector::precision);
    for vector in vectors {
        check_dimension(vector.dim(), rows.dim())?;
        // What has cooled is coarser.
        let (is, space) = (vector.precision(), rows.precision());
        if is != space && !(is as u8 > space as u8 && is as u8 >= Precision::I8 as u8)
            || first.is_some_and(|first| first != is)
        {
            return Err(Error::new("a vector in an effect is not of the precision of the space"));
        }
        vector.check()?;
    }
    signs.check(rows.dim())
}

pub(crate) fn check_vector_bytes(count: usize, dim: usize) -> Result<()> {
    let bytes = count * dim * size_of::<f32>();
    if count > limits::WINDOWS || bytes > limits::VECTOR_BYTES {
        return Err(Error::new(format!(
            "{count} vectors of {dim} dimensions: a memory takes at most {} and {} bytes of them",
            limits::WINDOWS,
            limits::VECTOR_BYTES
        )));
    }
    Ok(())
}

/// The upper half of the duplicate hash: what the index keeps.
pub(crate) fn hash_of(content: &str, session: Option<&str>, speaker: Option<&str>) -> u32 {
    (duplicate_hash(&normalised(content), session, speaker) >> 32) as u32
}

/// The effects that remove memories, of a bounded length each.
pub(crate) fn removals(ids: &[MemoryId], reason: Removal) -> Vec<Effect> {
    ids.chunks(limits::EFFECT_IDS).map(|ids| Effect::Remove { ids: ids.to_vec(), reason }).collect()
}
