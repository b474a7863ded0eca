//! What a space was at one moment, and everything that reads all of it: selection, counting, and, in `recall`, recall.
//!
//! A snapshot is a few pointers. Taking one costs nothing that grows, it can be sent to another thread, and it sees what stood
//! when it was taken while the space goes on (see `records`, `rows` and `lexical`). It has no index: whatever it does walks columns or
//! blocks, which is what belongs off the main thread once there are many.

use crate::bitmap::Bitmap;
use crate::entry::Entry;
use crate::filter::Filter;
use crate::lexical::{Analyser, Postings};
use crate::records::Records;
use crate::reindex::Indexing;
use crate::rows::{Index, Rows, Vector};
use crate::settings::{Eviction, Settings};
use crate::space::{Key, SUPERSEDED, hash_of};
use crate::{Error, MemoryId, Millis, Precision, Result, Tier};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A frozen view of a space. Cloning and dropping are cheap, unless it is the last to hold what the space has left behind.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub(crate) records: Records,
    /// None until the first vector fixes the dimension.
    pub(crate) rows: Option<Rows>,
    /// How often `rows` has been replaced as a whole: an index is of one such time.
    pub(crate) rows_era: u64,
    pub(crate) lexical: Postings,
    /// By which settings `lexical` was made: not yet those of `settings` while the words are being indexed anew.
    pub(crate) indexing: Indexing,
    pub(crate) settings: Arc<Settings>,
    pub(crate) model: Option<Arc<str>>,
    /// When the first memory expires, and how many are superseded: as they were when it was taken.
    pub(crate) next_expiry: Option<Millis>,
    pub(crate) superseded: usize,
    /// How many links there were.
    pub(crate) links: usize,
    /// The memory that it was taken for, and its slot, if there was such a one.
    pub(crate) known: Option<(MemoryId, Option<u32>)>,
}

/// An index over the vectors of a space, built beside it.
#[derive(Clone)]
pub struct VectorIndex {
    pub(crate) index: Arc<Index>,
    pub(crate) era: u64,
}

/// Which memories to list by time.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// The earliest time.
    pub start: Bound<Millis>,
    /// The latest time.
    pub end: Bound<Millis>,
    /// The latest first.
    pub reverse: bool,
    /// How many at most.
    pub count: Option<usize>,
    /// Those that pass.
    pub filter: Option<Filter>,
}

impl Timeline {
    /// The earliest and the latest time, both included; None if no time is between.
    pub(crate) fn ends(&self) -> Option<(Millis, Millis)> {
        let first = match self.start {
            Bound::Included(at) => at,
            Bound::Excluded(at) => at.checked_add(1)?,
            Bound::Unbounded => 0,
        };
        let last = match self.end {
            Bound::Included(at) => at,
            Bound::Excluded(at) => at.checked_sub(1)?,
            Bound::Unbounded => Millis::MAX,
        };
        (first <= last).then_some((first, last))
    }
}

/// Which memories to forget, or to list.
#[derive(Debug, Clone)]
pub enum Selection {
    /// These, as far as they exist.
    Ids(Vec<MemoryId>),
    /// Those that pass.
    Filter(Filter),
    /// A tier.
    Tier(Tier),
    /// A session.
    Session(String),
}

impl Snapshot {
    /// The ids of what a selection takes, in order.
    pub fn select(&self, now: Millis, selection: &Selection) -> Vec<MemoryId> {
        let mut ids: Vec<MemoryId> = match selection {
            // A long list is looked up, not searched once per memory.
            Selection::Ids(ids) => {
                let wanted: std::collections::BTreeSet<MemoryId> = ids.iter().copied().collect();
                self.live(now).map(|slot| self.id(slot)).filter(|id| wanted.contains(id)).collect()
            }
            Selection::Filter(filter) => self.passing(now, filter).iter().map(|slot| self.id(slot)).collect(),
            Selection::Tier(tier) => {
                self.live(now).filter(|slot| self.records.tier(*slot) == *tier).map(|slot| self.id(slot)).collect()
            }
            Selection::Session(session) => {
                self.passing(now, &Filter::session(session)).iter().map(|slot| self.id(slot)).collect()
            }
        };
        ids.sort_unstable();
        ids
    }

    /// How many memories there are, or pass.
    pub fn count(&self, now: Millis, filter: Option<&Filter>) -> usize {
        match filter {
            None => self.live(now).count(),
            Some(filter) => self.passing(now, filter).count(),
        }
    }

    /// The memories in these slots that have not expired and pass.
    pub fn entries(&self, now: Millis, slots: &[u32], filter: Option<&Filter>) -> Vec<Entry> {
        slots.iter().filter_map(|slot| self.passing_entry(now, *slot, filter)).collect()
    }

    /// The same, each with how its vectors are kept.
    pub fn entries_as_kept(
        &self,
        now: Millis,
        slots: &[u32],
        filter: Option<&Filter>,
    ) -> Vec<(Entry, Option<Precision>)> {
        let kept = |slot: &u32| Some((self.passing_entry(now, *slot, filter)?, self.row_precision(*slot)));
        slots.iter().filter_map(kept).collect()
    }

    pub(crate) fn passing_entry(&self, now: Millis, slot: u32, filter: Option<&Filter>) -> Option<Entry> {
        let passes = !self.records.is_expired(slot, now) && filter.is_none_or(|filter| self.passes(slot, filter));
        passes.then(|| self.records.entry(slot)).flatten()
    }

    /// Memories by when they happened, equal times by id. Looks at all.
    pub fn timeline(&self, now: Millis, timeline: &Timeline) -> Vec<Entry> {
        let Some((first, last)) = timeline.ends() else { return Vec::new() };
        let between = Filter::between(Some(first), Some(last));
        let filter = Filter::all([between].into_iter().chain(timeline.filter.clone()).collect());
        let mut keys: Vec<(Key, u32)> =
            self.passing(now, &filter).iter().map(|slot| (self.time_key(slot), slot)).collect();
        let order = |a: &(Key, u32), b: &(Key, u32)| if timeline.reverse { b.cmp(a) } else { a.cmp(b) };
        let count = timeline.count.unwrap_or(keys.len());
        if (1..keys.len()).contains(&count) {
            keys.select_nth_unstable_by(count - 1, order);
        }
        keys.truncate(count);
        keys.sort_unstable_by(order);
        keys.iter().filter_map(|(_, slot)| self.records.entry(*slot)).collect()
    }

    /// The slots of memories that have not expired and pass, exactly.
    pub(crate) fn passing(&self, now: Millis, filter: &Filter) -> Bitmap {
        self.scan(&Filter::all(vec![Filter::unexpired(now), filter.clone()]), true)
    }

    /// The slots that pass a filter. Unless it is to be exact, texts are compared by their hashes only (see [`Filter::is_exact`]).
    pub(crate) fn scan(&self, filter: &Filter, exact: bool) -> Bitmap {
        let mut words = Vec::with_capacity(self.records.slots().div_ceil(64).next_multiple_of(16));
        for chunk in self.records.chunks() {
            let mut alive = chunk.filled();
            filter.scan(&chunk, &mut alive, exact);
            words.extend_from_slice(&alive);
        }
        Bitmap::from_words(words)
    }

    /// Whether the memory in a slot passes a filter, exactly.
    pub(crate) fn passes(&self, slot: u32, filter: &Filter) -> bool {
        self.records.view(slot).is_some_and(|memory| filter.accepts(&memory))
    }

    /// The slots of the memories that have not expired, in no order that means anything.
    pub(crate) fn live(&self, now: Millis) -> impl Iterator<Item = u32> {
        self.records.iter().filter(move |slot| !self.records.is_expired(*slot, now))
    }

    /// The id of the memory in a slot; `0-0` if it is empty.
    pub(crate) fn id(&self, slot: u32) -> MemoryId {
        self.records.id(slot).unwrap_or_default()
    }

    /// The shelf on which a memory stands.
    pub(crate) fn shelf_of(&self, slot: u32) -> usize {
        match self.records.superseded_at(slot) {
            Some(_) => SUPERSEDED,
            None => self.records.tier(slot).index(),
        }
    }

    /// When it happened, then its id.
    pub(crate) fn time_key(&self, slot: u32) -> Key {
        (self.records.at(slot), self.id(slot))
    }

    /// When it expires, then its id.
    pub(crate) fn expiry_key(&self, slot: u32) -> Key {
        (self.records.expires(slot).unwrap_or(Millis::MAX), self.id(slot))
    }

    /// The hash by which duplicates are found.
    pub(crate) fn duplicate_hash(&self, slot: u32) -> u32 {
        self.records.record(slot).map_or(0, |record| hash_of(&record.content.text(), record.session, record.speaker))
    }

    /// The vectors as they are kept.
    pub(crate) fn stored_vectors(&self, slot: u32) -> Vec<Vector> {
        let Some(rows) = &self.rows else { return Vec::new() };
        self.records.rows(slot).into_iter().filter_map(|row| rows.vector(row)).collect()
    }

    /// What turns text into the words of the lexical index.
    pub(crate) fn analyser(&self) -> Analyser {
        Analyser::new(self.indexing.language)
    }

    /// The slot of a memory that has not expired. Walks them all, unless the snapshot was taken for it.
    pub(crate) fn find(&self, now: Millis, id: MemoryId) -> Option<u32> {
        match self.known {
            Some((known, slot)) if known == id => slot.filter(|slot| !self.records.is_expired(*slot, now)),
            _ => self.live(now).find(|slot| self.id(*slot) == id),
        }
    }

    /// The slots that hold a memory.
    pub(crate) fn filled(&self) -> Bitmap {
        Bitmap::from_words(self.records.chunks().flat_map(|chunk| chunk.filled()).collect())
    }

    /// The key by which a memory is kept: the lowest goes first.
    ///
    /// By value, importance × (1 + ln(1 + uses)) halves with every half-life since the last use. Its logarithm is the
    /// logarithm at the last use plus that time over the half-life, less a term that is the same for all: so the order does not
    /// depend on the time at which one asks, and an index can hold it.
    pub(crate) fn retention(&self, slot: u32) -> u64 {
        match self.settings.eviction {
            Eviction::Fifo => self.records.entered(slot),
            Eviction::Value => {
                let (accessed, uses) = self.records.usage(slot);
                let worth = self.records.importance(slot).max(0.001) * (1.0 + f64::from(uses).ln_1p());
                ordered_bits(worth.log2() + accessed as f64 / self.settings.half_life_ms(self.records.tier(slot)))
            }
        }
    }

    /// The model that made the vectors; None if they are the caller's own, or there are none yet.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// The dimension, once a vector has fixed it.
    pub fn dim(&self) -> Option<usize> {
        self.rows.as_ref().map(Rows::dim)
    }

    /// The precision of the vectors: that of those there are, else the setting.
    pub fn precision(&self) -> Precision {
        self.rows.as_ref().map_or(self.settings.precision, Rows::precision)
    }

    /// Builds an index over the vectors, for [`crate::Space::install_index`]. Takes seconds: for a thread of its own. None if `stop` was set meanwhile, or
    /// there is nothing to build it of.
    pub fn build_index(&self, stop: &AtomicBool) -> Option<VectorIndex> {
        let index = self.rows.as_ref()?.build_index(stop)?;
        Some(VectorIndex { index: Arc::new(index), era: self.rows_era })
    }

    /// How many memories there are, expired and superseded ones included, nearly: emptied places count.
    pub fn size(&self) -> usize {
        self.records.slots()
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

pub(crate) fn check_dimension(len: usize, dim: usize) -> Result<()> {
    if len == dim {
        Ok(())
    } else {
        Err(Error::new(format!("the vector has {len} dimensions: those of this space have {dim}")))
    }
}

pub(crate) fn no_direction() -> Error {
    Error::new("the vector has no direction: it needs finite numbers, and one of them other than 0")
}

/// A vector of length one in the same direction; None if it has no direction (all zeros) or a number that is not finite.
pub(crate) fn normalised(vector: &[f32]) -> Option<Vec<f32>> {
    // In f64: the squares of f32 neither overflow nor vanish there.
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    (norm.is_finite() && norm > 0.0).then(|| vector.iter().map(|x| (f64::from(*x) / norm) as f32).collect())
}

/// A float as bits that order as it does (IEEE 754 total order).
pub(crate) fn ordered_bits(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}
