//! What a space was at one moment, and everything that reads all of it: recall, selection, counting.
//!
//! A snapshot is a few pointers. Taking one costs nothing that grows, it can be sent to another thread, and it sees what stood
//! when it was taken while the space goes on (see `slots` and `vectors`). It has no index: whatever it does walks all memories
//! or all vectors, which is what belongs off the main thread.

use crate::entry::Entry;
use crate::filter::Filter;
use crate::settings::{Eviction, Settings};
use crate::slots::Slots;
use crate::vectors::{self, Vectors};
use crate::{Error, MemoryId, Millis, Result, Tier, limits};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A frozen view of a space. Cloning and dropping are cheap, unless it is the last to hold what the space has left behind.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub(crate) slots: Slots,
    pub(crate) vectors: Vectors,
    pub(crate) settings: Arc<Settings>,
    pub(crate) model: Option<Arc<str>>,
}

/// A recall: the memories nearest to a vector.
#[derive(Debug, Clone, Default)]
pub struct Recall {
    /// The query; several are the windows of a long one, and a memory scores as its best pair. At least one.
    pub queries: Vec<Vec<f32>>,
    /// How many results, 1 to [`limits::K`].
    pub k: usize,
    /// Only these tiers.
    pub tiers: Option<Vec<Tier>>,
    /// Only what passes.
    pub filter: Option<Filter>,
    /// Only with at least this cosine.
    pub min_score: Option<f64>,
    /// Only of this session.
    pub session: Option<String>,
    /// Only what happened at this time or later.
    pub since: Option<Millis>,
    /// Only what happened at this time or earlier.
    pub until: Option<Millis>,
}

impl Recall {
    /// Whether a memory is among those asked for, its score aside. The cheap questions come first.
    fn admits(&self, now: Millis, entry: &Entry) -> bool {
        !entry.is_expired(now)
            && self.tiers.as_ref().is_none_or(|tiers| tiers.contains(&entry.tier))
            && self.session.as_ref().is_none_or(|session| entry.session.as_deref() == Some(session))
            && self.since.is_none_or(|since| entry.at >= since)
            && self.until.is_none_or(|until| entry.at <= until)
            && self.filter.as_ref().is_none_or(|filter| filter.matches(entry))
    }
}

/// One result of a recall.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The memory, as it was when the snapshot was taken.
    pub entry: Arc<Entry>,
    /// What the order follows.
    pub score: f64,
    /// The cosine, -1 to 1.
    pub similarity: f64,
    slot: u32,
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

impl Selection {
    fn takes(&self, entry: &Entry) -> bool {
        match self {
            Selection::Ids(ids) => ids.contains(&entry.id),
            Selection::Filter(filter) => filter.matches(entry),
            Selection::Tier(tier) => entry.tier == *tier,
            Selection::Session(session) => entry.session.as_deref() == Some(session),
        }
    }
}

impl Snapshot {
    /// The memories nearest to the query by cosine, best first, equal ones by id: exactly K if as many are admitted. Every
    /// vector is compared; what cannot enter the result any more is not looked at further, so a filter costs little.
    ///
    /// Errors: a query of the wrong length or without a direction, K out of range.
    pub fn recall(&self, now: Millis, recall: &Recall) -> Result<Vec<Hit>> {
        if recall.k == 0 || recall.k > limits::K {
            return Err(Error::new(format!("K is {}: it takes 1 to {}", recall.k, limits::K)));
        }
        if recall.queries.is_empty() || recall.queries.len() > limits::QUERIES {
            return Err(Error::new(format!(
                "a recall takes 1 to {} query vectors, not {}",
                limits::QUERIES,
                recall.queries.len()
            )));
        }
        let Some(dim) = self.vectors.dim() else { return Ok(Vec::new()) };
        let queries: Vec<Vec<f32>> =
            recall.queries.iter().map(|query| self.query(query, dim)).collect::<Result<_>>()?;
        let best = self.nearest(&queries, recall.k, recall.min_score, |entry| recall.admits(now, entry));
        Ok(best
            .into_iter()
            .filter_map(|(score, slot)| {
                let entry = self.slots.get(slot)?.entry.clone();
                Some(Hit { entry, score, similarity: score, slot })
            })
            .collect())
    }

    fn query(&self, query: &[f32], dim: usize) -> Result<Vec<f32>> {
        check_dimension(query.len(), dim)?;
        vectors::normalised(query).map(|query| self.vectors.padded(&query)).ok_or_else(no_direction)
    }

    /// The K best slots by their best vector, best first, ties by id. Queries are of length one and padded.
    pub(crate) fn nearest(
        &self,
        queries: &[Vec<f32>],
        k: usize,
        min_score: Option<f64>,
        mut admits: impl FnMut(&Entry) -> bool,
    ) -> Vec<(f64, u32)> {
        let mut best = Best::new(k, min_score);
        self.vectors.for_each(|slot, row| {
            // Rounding may lead a little beyond the range of a cosine.
            let score = queries.iter().map(|query| vectors::dot(query, row)).fold(f64::MIN, f64::max).clamp(-1.0, 1.0);
            if best.may_take(score)
                && let Some(place) = self.slots.get(slot)
                && best.would_take(score, place.entry.id, slot)
                && admits(&place.entry)
            {
                best.take(score, place.entry.id, slot);
            }
        });
        best.into_sorted()
    }

    /// The vectors of a result.
    pub fn vectors(&self, hit: &Hit) -> Vec<&[f32]> {
        self.slots
            .get(hit.slot)
            .map_or(Vec::new(), |slot| slot.rows.as_slice().iter().map(|row| self.vectors.row(*row)).collect())
    }

    /// The ids of what a selection takes, in order.
    pub fn select(&self, now: Millis, selection: &Selection) -> Vec<MemoryId> {
        let mut ids: Vec<MemoryId> = match selection {
            // A long list is looked up, not searched once per memory.
            Selection::Ids(ids) => {
                let wanted: BTreeSet<MemoryId> = ids.iter().copied().collect();
                self.live(now).filter(|entry| wanted.contains(&entry.id)).map(|entry| entry.id).collect()
            }
            _ => self.live(now).filter(|entry| selection.takes(entry)).map(|entry| entry.id).collect(),
        };
        ids.sort_unstable();
        ids
    }

    /// How many memories there are, or pass.
    pub fn count(&self, now: Millis, filter: Option<&Filter>) -> usize {
        self.live(now).filter(|entry| filter.is_none_or(|filter| filter.matches(entry))).count()
    }

    /// The memories that have not expired, in no order.
    pub(crate) fn live(&self, now: Millis) -> impl Iterator<Item = &Arc<Entry>> {
        self.slots.iter().map(|slot| &slot.entry).filter(move |entry| !entry.is_expired(now))
    }

    /// The key by which a memory is kept: the lowest goes first.
    ///
    /// By value, importance × (1 + ln(1 + uses)) halves with every half-life since the last use. Its logarithm is the
    /// logarithm at the last use plus that time over the half-life, less a term that is the same for all: so the order does not
    /// depend on the time at which one asks, and an index can hold it.
    pub(crate) fn retention(&self, entry: &Entry) -> u64 {
        match self.settings.eviction {
            Eviction::Fifo => entry.entered,
            Eviction::Value => {
                let worth = entry.importance.max(0.001) * (1.0 + f64::from(entry.uses()).ln_1p());
                ordered_bits(worth.log2() + entry.accessed() as f64 / self.settings.half_life_ms(entry.tier))
            }
        }
    }

    /// The model that made the vectors; None if they are the caller's own, or there are none yet.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// The dimension, once a vector has fixed it.
    pub fn dim(&self) -> Option<usize> {
        self.vectors.dim()
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

/// A float as bits that order as it does (IEEE 754 total order).
pub(crate) fn ordered_bits(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// The K best so far. A memory with several vectors is in it once, with the best score seen; one that fell out comes back with
/// a better vector, so the order of the rows does not show.
struct Best {
    k: usize,
    /// Worst first: score, then the larger id.
    order: BTreeSet<(u64, Reverse<MemoryId>, u32)>,
    scores: HashMap<u32, f64>,
    /// The least score that can still enter.
    floor: f64,
}

impl Best {
    fn new(k: usize, min_score: Option<f64>) -> Best {
        Best { k, order: BTreeSet::new(), scores: HashMap::new(), floor: min_score.unwrap_or(f64::MIN) }
    }

    /// Without looking at the memory. A score that is not a number never enters.
    fn may_take(&self, score: f64) -> bool {
        score >= self.floor
    }

    fn would_take(&self, score: f64, id: MemoryId, slot: u32) -> bool {
        match self.scores.get(&slot) {
            Some(old) => score > *old,
            None if self.order.len() < self.k => true,
            None => self.order.first().is_some_and(|worst| (ordered_bits(score + 0.0), Reverse(id), slot) > *worst),
        }
    }

    fn take(&mut self, score: f64, id: MemoryId, slot: u32) {
        // -0.0 and 0.0 are one score.
        let score = score + 0.0;
        if let Some(old) = self.scores.insert(slot, score) {
            self.order.remove(&(ordered_bits(old), Reverse(id), slot));
        }
        self.order.insert((ordered_bits(score), Reverse(id), slot));
        if self.order.len() > self.k
            && let Some((_, _, slot)) = self.order.pop_first()
        {
            self.scores.remove(&slot);
        }
        if self.order.len() == self.k
            && let Some(worst) = self.order.first().and_then(|(_, _, slot)| self.scores.get(slot))
        {
            self.floor = self.floor.max(*worst);
        }
    }

    fn into_sorted(self) -> Vec<(f64, u32)> {
        self.order.iter().rev().filter_map(|(_, _, slot)| Some((*self.scores.get(slot)?, *slot))).collect()
    }
}
