//! A memory space: the data, its indexes, and the one way to change them.
//!
//! What can be frozen (memories, vectors, settings) is in a [`Snapshot`]; the space holds the current one and beside it the
//! indexes, which only its owner needs. All indexes but that of the ids have one shape, an ordered set of (key, id): by time, by
//! expiry, by retention, by duplicate hash. So each is read in order or by range, ties break by id, and nothing depends on a
//! hash function's seed. The retention index may be out of date in one direction only: a use raises the value of a memory and
//! leaves the index alone, so the key in the index is at most the true one (see `evict`).

use crate::effect::{Applied, Counters, Effect, Patch, Removal};
use crate::entry::{Entry, block, check_time, check_unit};
use crate::filter::{self, Filter};
use crate::settings::Settings;
use crate::slots::Slot;
use crate::snapshot::{Selection, Snapshot, check_dimension};
use crate::text::{duplicate_hash, normalised};
use crate::tier::TIERS;
use crate::vectors::{self, RowId, Rows, VectorCounts};
use crate::{Error, MemoryId, Millis, Result, Tier, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An index: memories in the order of a key.
pub(crate) type Order = BTreeSet<(u64, MemoryId)>;

/// The part of an index between two keys, both included.
pub(crate) fn keys(from: u64, to: u64) -> std::ops::RangeInclusive<(u64, MemoryId)> {
    (from, MemoryId::ZERO)..=(to, MemoryId::MAX)
}

/// Bytes of the indexes per memory: nodes of the ordered sets, which are a little over half full when filled in order (measured
/// by the test `usage`).
const INDEX_BYTES: usize = 260;

#[derive(Default)]
pub(crate) struct TierIndex {
    pub count: usize,
    pub pinned: usize,
    pub bytes: usize,
    /// By expiry, those that have one.
    pub expiry: Order,
    /// By a lower bound of the retention key, those that are not pinned.
    pub retention: Order,
}

/// The keys under which a slot stands in the indexes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Keys {
    pub retention: u64,
    pub hash: u64,
}

/// A memory space.
#[derive(Default)]
pub struct Space {
    pub(crate) view: Snapshot,
    pub(crate) ids: BTreeMap<MemoryId, u32>,
    pub(crate) slot_keys: Vec<Keys>,
    pub(crate) free_slots: Vec<u32>,
    pub(crate) timeline: Order,
    pub(crate) duplicates: Order,
    pub(crate) tiers: [TierIndex; TIERS],
    /// How many memories have a META field of this name.
    pub(crate) meta_names: BTreeMap<Box<str>, usize>,
    pub(crate) vector_counts: VectorCounts,
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

    /// How many memories it holds, expired ones that have not been removed included.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds no memory.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The model that made the vectors; None if they are the caller's own, or there are none yet.
    pub fn model(&self) -> Option<&str> {
        self.view.model()
    }

    /// The dimension, once a vector has fixed it.
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
        self.view.clone()
    }

    pub(crate) fn slot(&self, id: MemoryId) -> Option<&Slot> {
        self.view.slots.get(*self.ids.get(&id)?)
    }

    /// A memory, unless it has expired.
    pub fn get(&self, now: Millis, id: MemoryId) -> Option<&Arc<Entry>> {
        self.slot(id).map(|slot| &slot.entry).filter(|entry| !entry.is_expired(now))
    }

    pub(crate) fn existing(&self, now: Millis, id: MemoryId) -> Result<&Arc<Entry>> {
        self.get(now, id).ok_or_else(|| Error::no_such_memory(id))
    }

    /// The vectors of a memory: one per window, none without an embedding.
    pub fn vectors(&self, entry: &Entry) -> Vec<&[f32]> {
        self.slot(entry.id)
            .map_or(Vec::new(), |slot| slot.rows.as_slice().iter().map(|row| self.view.vectors.row(*row)).collect())
    }

    /// Notes that a memory was used.
    pub fn touch(&self, id: MemoryId, now: Millis) {
        if let Some(slot) = self.slot(id) {
            slot.entry.touch(now);
        }
    }

    /// Notes a recall: whether it had a result.
    pub fn note_recall(&self, hit: bool) {
        (if hit { &self.hits } else { &self.misses }).fetch_add(1, Relaxed);
    }

    pub(crate) fn counters(&self) -> Counters {
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
    pub fn scan(
        &self,
        now: Millis,
        cursor: MemoryId,
        count: usize,
        filter: Option<&Filter>,
    ) -> (MemoryId, Vec<Arc<Entry>>) {
        let mut found = Vec::new();
        let mut last = cursor;
        let mut behind = self.ids.range((Bound::Excluded(cursor), Bound::Unbounded));
        for (id, slot) in behind.by_ref().take(count.max(1)) {
            last = *id;
            found.extend(self.passing(now, *slot, filter));
        }
        (if behind.next().is_none() { MemoryId::ZERO } else { last }, found)
    }

    fn passing(&self, now: Millis, slot: u32, filter: Option<&Filter>) -> Option<Arc<Entry>> {
        let entry = &self.view.slots.get(slot)?.entry;
        (!entry.is_expired(now) && filter.is_none_or(|filter| filter.matches(entry))).then(|| entry.clone())
    }

    /// How many memories there are, or pass.
    pub fn count(&self, now: Millis, filter: Option<&Filter>) -> usize {
        match filter {
            None => Tier::ALL.into_iter().map(|tier| self.live_count(tier, now)).sum(),
            Some(_) => self.view.count(now, filter),
        }
    }

    /// Memories by when they happened, equal times by id.
    pub fn timeline(
        &self,
        now: Millis,
        start: Bound<Millis>,
        end: Bound<Millis>,
        reverse: bool,
        count: Option<usize>,
        filter: Option<&Filter>,
    ) -> Vec<Arc<Entry>> {
        let first = match start {
            Bound::Included(at) => Some(at),
            Bound::Excluded(at) => at.checked_add(1),
            Bound::Unbounded => Some(0),
        };
        let last = match end {
            Bound::Included(at) => Some(at),
            Bound::Excluded(at) => at.checked_sub(1),
            Bound::Unbounded => Some(u64::MAX),
        };
        let (Some(first), Some(last)) = (first, last) else { return Vec::new() };
        if first > last {
            return Vec::new();
        }
        let take = |(_, id): &(u64, MemoryId)| self.passing(now, *self.ids.get(id)?, filter);
        let range = self.timeline.range(keys(first, last));
        let count = count.unwrap_or(usize::MAX);
        if reverse {
            range.rev().filter_map(take).take(count).collect()
        } else {
            range.filter_map(take).take(count).collect()
        }
    }

    /// The ids that a selection takes, in order.
    pub fn forget(&self, now: Millis, selection: &Selection) -> Vec<MemoryId> {
        match selection {
            Selection::Ids(ids) => {
                let ids: BTreeSet<MemoryId> = ids.iter().copied().filter(|id| self.get(now, *id).is_some()).collect();
                ids.into_iter().collect()
            }
            _ => self.view.select(now, selection),
        }
    }

    /// The effects that forget memories; those that are gone are passed over. Each effect can be applied by itself, so a long
    /// list may be taken in pieces.
    pub fn forget_effects(&self, ids: &[MemoryId]) -> Vec<Effect> {
        let standing: Vec<MemoryId> = ids.iter().copied().filter(|id| self.ids.contains_key(id)).collect();
        removals(&standing, Removal::Forgotten)
    }

    /// How many memories of a tier have not expired.
    pub(crate) fn live_count(&self, tier: Tier, now: Millis) -> usize {
        let index = &self.tiers[tier.index()];
        index.count - index.expiry.range(keys(0, now)).count()
    }

    /// Bytes that a memory takes: itself, its place in the indexes, its vectors.
    pub(crate) fn cost(&self, entry: &Entry, row_bytes: usize) -> usize {
        let windows = usize::from(entry.windows);
        let places = if windows > 1 { block(windows * size_of::<RowId>() + 16) } else { 0 };
        entry.bytes() + INDEX_BYTES + places + windows * row_bytes
    }

    /// Bytes of all memories with their indexes and vectors, without the room that is kept for more: what `max-memory` bounds.
    pub fn live_bytes(&self) -> usize {
        self.tiers.iter().map(|tier| tier.bytes).sum()
    }

    /// Bytes that the space takes, with the room that is kept for more and vectors that no memory has any longer. O(1).
    pub fn memory_usage(&self) -> usize {
        let rows = self.vector_counts.live * self.view.vectors.row_bytes();
        size_of::<Space>() + self.live_bytes() - rows
            + self.vector_counts.bytes
            + self.view.slots.bytes()
            + self.slot_keys.capacity() * size_of::<Keys>()
    }

    /// How many allocations freeing the space takes, nearly.
    pub fn free_effort(&self) -> usize {
        self.len() * 4 + 1
    }

    /// Bytes of one row, now or once a first vector of `dim` is there.
    pub(crate) fn row_bytes_of(&self, dim: usize) -> usize {
        let mut vectors = self.view.vectors.clone();
        vectors.set_dim(self.dim().unwrap_or(dim));
        vectors.row_bytes()
    }

    /// Moves up to `budget` vectors together, out of blocks that are dead for a quarter or more. False when there is none
    /// left. No result shows it.
    pub fn compact_step(&mut self, budget: usize) -> bool {
        let Some(rows) = self.view.vectors.compactable(&mut self.vector_counts, budget) else { return false };
        for (owner, row) in rows {
            let Some(slot) = self.view.slots.get(owner).cloned() else { continue };
            let vector = self.view.vectors.row(row).to_vec();
            let moved = self.view.vectors.append(&mut self.vector_counts, owner, &vector);
            self.view.vectors.kill(&mut self.vector_counts, row);
            let rows = slot.rows.as_slice().iter().map(|old| if *old == row { moved } else { *old }).collect();
            self.view.slots.set(owner, Some(Slot { entry: slot.entry, rows: Rows::from_vec(rows) }));
        }
        true
    }

    /// Applies an effect, whoever it comes from. An effect that the space cannot take gives an error and changes nothing.
    pub fn apply(&mut self, effect: &Effect) -> Result<Applied> {
        let memories = match effect {
            Effect::Model { model, dim } => self.fix_model(model.as_deref(), *dim as usize).map(|()| 0)?,
            Effect::Put { entry, vectors } => self.put(entry, vectors).map(|()| 1)?,
            Effect::Patch { id, patch } => self.patch(*id, patch).map(|()| 1)?,
            Effect::Remove { ids, reason } => self.remove_all(ids, *reason),
            Effect::Duplicate { id, importance, accessed, uses } => {
                check_unit("IMPORTANCE", *importance)?;
                check_time("accessed", *accessed)?;
                let slot = self.slot(*id).ok_or_else(|| Error::no_such_memory(*id))?;
                if slot.entry.importance != *importance {
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
        };
        Ok(Applied { memories })
    }

    fn fix_model(&mut self, model: Option<&str>, dim: usize) -> Result<()> {
        if dim == 0 || dim > limits::DIMENSIONS {
            return Err(Error::new(format!("{dim} dimensions: a vector has 1 to {}", limits::DIMENSIONS)));
        }
        if model.is_some_and(|model| model.is_empty() || model.len() > limits::MODEL_BYTES) {
            return Err(Error::new(format!("a model's name has 1 to {} bytes", limits::MODEL_BYTES)));
        }
        if let Some(fixed) = self.dim()
            && (fixed, self.model()) != (dim, model)
        {
            return Err(Error::new("the model and the dimension of the space are fixed already, and others"));
        }
        self.view.vectors.set_dim(dim);
        self.view.model = model.map(Arc::from);
        Ok(())
    }

    /// Vectors from outside must fit before any of them is written.
    fn check_vectors(&self, vectors: &[Vec<f32>], template: u16) -> Result<()> {
        if vectors.is_empty() {
            return Ok(());
        }
        let dim = self.dim().ok_or_else(|| Error::new("a vector before the dimension of the space was fixed"))?;
        if template != 0 && self.view.model.is_none() {
            return Err(Error::new("an embedding in a space whose vectors are the caller's own"));
        }
        check_vector_bytes(vectors.len(), dim)?;
        for vector in vectors {
            check_dimension(vector.len(), dim)?;
            if !vectors::is_normalised(vector) {
                return Err(Error::new("a vector in an effect is not of length one"));
            }
        }
        Ok(())
    }

    fn put(&mut self, entry: &Arc<Entry>, vectors: &[Vec<f32>]) -> Result<()> {
        entry.check()?;
        self.check_vectors(vectors, entry.template)?;
        if usize::from(entry.windows) != vectors.len() {
            return Err(Error::new(format!("a memory of {} vectors came with {}", entry.windows, vectors.len())));
        }
        if self.ids.contains_key(&entry.id) {
            return Err(Error::new(format!("id {} exists", entry.id)));
        }
        if self.len() >= limits::MEMORIES {
            return Err(Error::new(format!("the space holds {} memories, and that is the limit", limits::MEMORIES)));
        }
        let slot = self.free_slots.pop().unwrap_or(self.view.slots.len() as u32);
        let rows = self.append_all(slot, vectors);
        let hash = hash_of(entry);
        self.enter(slot, Slot { entry: entry.clone(), rows }, hash);
        self.last_id = self.last_id.max(entry.id);
        self.counters.stores = self.counters.stores.saturating_add(1);
        self.refresh_retention(entry.tier);
        Ok(())
    }

    fn append_all(&mut self, slot: u32, vectors: &[Vec<f32>]) -> Rows {
        Rows::from_vec(
            vectors.iter().map(|vector| self.view.vectors.append(&mut self.vector_counts, slot, vector)).collect(),
        )
    }

    fn kill_all(&mut self, rows: &Rows) {
        for row in rows.as_slice() {
            self.view.vectors.kill(&mut self.vector_counts, *row);
        }
    }

    fn patch(&mut self, id: MemoryId, patch: &Patch) -> Result<()> {
        let (Some(&at), Some(slot)) = (self.ids.get(&id), self.slot(id).cloned()) else {
            return Err(Error::no_such_memory(id));
        };
        let new = patch.applied_to(&slot.entry);
        new.check()?;
        let mut rows = slot.rows.clone();
        let keys = self.slot_keys.get(at as usize).copied().unwrap_or_default();
        let text = patch.content.is_some() || patch.session.is_some() || patch.speaker.is_some();
        let hash = if text { hash_of(&new) } else { keys.hash };
        if let Some((template, vectors)) = &patch.vectors {
            self.check_vectors(vectors, *template)?;
            self.leave(at, &slot);
            self.kill_all(&rows);
            rows = self.append_all(at, vectors);
        } else {
            self.leave(at, &slot);
        }
        if new.tier != slot.entry.tier {
            self.counters.promotions = self.counters.promotions.saturating_add(1);
        }
        let tier = new.tier;
        self.enter(at, Slot { entry: Arc::new(new), rows }, hash);
        self.refresh_retention(tier);
        Ok(())
    }

    fn remove_all(&mut self, ids: &[MemoryId], reason: Removal) -> usize {
        let mut removed = 0;
        for id in ids {
            let (Some(&at), Some(slot)) = (self.ids.get(id), self.slot(*id).cloned()) else { continue };
            self.leave(at, &slot);
            self.kill_all(&slot.rows);
            self.view.slots.set(at, None);
            self.free_slots.push(at);
            self.refresh_retention(slot.entry.tier);
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
        if let Some(slot) = self.slot(id) {
            slot.entry.accessed.store(accessed, Relaxed);
            slot.entry.uses.store(uses, Relaxed);
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
                self.rebuild_retention(tier);
            }
        }
        Ok(())
    }

    /// Puts a memory into a slot and into every index.
    fn enter(&mut self, at: u32, slot: Slot, hash: u64) {
        let entry = slot.entry.clone();
        let retention = self.view.retention(&entry);
        let cost = self.cost(&entry, self.view.vectors.row_bytes());
        self.view.slots.set(at, Some(slot));
        if self.slot_keys.len() <= at as usize {
            self.slot_keys.resize(at as usize + 1, Keys::default());
        }
        self.slot_keys[at as usize] = Keys { retention, hash };
        self.ids.insert(entry.id, at);
        self.timeline.insert((entry.at, entry.id));
        self.duplicates.insert((hash, entry.id));
        let tier = &mut self.tiers[entry.tier.index()];
        tier.count += 1;
        tier.bytes += cost;
        if let Some(expires) = entry.expires {
            tier.expiry.insert((expires, entry.id));
        }
        if entry.pinned {
            tier.pinned += 1;
        } else {
            tier.retention.insert((retention, entry.id));
        }
        for name in entry.meta.iter().flat_map(|meta| meta.keys()) {
            match self.meta_names.get_mut(name.as_str()) {
                Some(n) => *n += 1,
                None => {
                    self.meta_names.insert(name.as_str().into(), 1);
                }
            }
        }
    }

    /// Takes a memory out of every index; its slot and vectors stay.
    fn leave(&mut self, at: u32, slot: &Slot) {
        let entry = &slot.entry;
        let keys = self.slot_keys.get(at as usize).copied().unwrap_or_default();
        let cost = self.cost(entry, self.view.vectors.row_bytes());
        self.ids.remove(&entry.id);
        self.timeline.remove(&(entry.at, entry.id));
        self.duplicates.remove(&(keys.hash, entry.id));
        let tier = &mut self.tiers[entry.tier.index()];
        tier.count -= 1;
        tier.bytes -= cost;
        if let Some(expires) = entry.expires {
            tier.expiry.remove(&(expires, entry.id));
        }
        if entry.pinned {
            tier.pinned -= 1;
        } else {
            tier.retention.remove(&(keys.retention, entry.id));
        }
        for name in entry.meta.iter().flat_map(|meta| meta.keys()) {
            if let Some(n) = self.meta_names.get_mut(name.as_str()) {
                *n -= 1;
                if *n == 0 {
                    self.meta_names.remove(name.as_str());
                }
            }
        }
    }

    /// Brings the lowest keys of a tier's retention index up to date, a few with every change, so that uses never pile up
    /// in front of an eviction.
    fn refresh_retention(&mut self, tier: Tier) {
        for _ in 0..4 {
            let Some(&(key, id)) = self.tiers[tier.index()].retention.first() else { return };
            let Some(&at) = self.ids.get(&id) else { return };
            let Some(true_key) = self.view.slots.get(at).map(|slot| self.view.retention(&slot.entry)) else { return };
            if true_key == key {
                return;
            }
            let index = &mut self.tiers[tier.index()].retention;
            index.remove(&(key, id));
            index.insert((true_key, id));
            self.slot_keys[at as usize].retention = true_key;
        }
    }

    fn rebuild_retention(&mut self, tier: Tier) {
        let ids: Vec<MemoryId> =
            std::mem::take(&mut self.tiers[tier.index()].retention).into_iter().map(|(_, id)| id).collect();
        for id in ids {
            let Some(&at) = self.ids.get(&id) else { continue };
            let Some(key) = self.view.slots.get(at).map(|slot| self.view.retention(&slot.entry)) else { continue };
            self.slot_keys[at as usize].retention = key;
            self.tiers[tier.index()].retention.insert((key, id));
        }
    }
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

pub(crate) fn hash_of(entry: &Entry) -> u64 {
    duplicate_hash(&normalised(&entry.content), entry.session.as_deref(), entry.speaker.as_deref())
}

/// The effects that remove memories, of a bounded length each.
pub(crate) fn removals(ids: &[MemoryId], reason: Removal) -> Vec<Effect> {
    ids.chunks(limits::EFFECT_IDS).map(|ids| Effect::Remove { ids: ids.to_vec(), reason }).collect()
}
