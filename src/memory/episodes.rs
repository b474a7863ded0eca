//! Summaries of what was said: the turns of a session, so many at a time, become one episodic memory that outlives them.
//!
//! [`Snapshot::episodes`] names the turns that are due: of each session the oldest that are in no summary yet, in groups of `turns-to-summary`, in the order of
//! time. What they come to is for the caller to write; a plan with it ([`crate::Findings`]) has a step that stores it and marks its turns, if these still
//! say what was read. Turns remain as they are. The summary names all of them in FROM and is linked to each (see `derived`).
//!
//! From so many summaries as `summaries-to-facts` says facts are learned: those turns of theirs that nobody has read are read ([`Snapshot::distillable`]), also where
//! the space's `extract` is off. Facts come from what was said, never from a summary: what a model wrote is no source.

use crate::columns::Cell;
use crate::consolidate::Unread;
use crate::derived;
use crate::effect::Effect;
use crate::entry::{Entry, Marks};
use crate::snapshot::Snapshot;
use crate::space::{Space, is_hidden};
use crate::store::{Dedup, NewMemory};
use crate::{Error, MemoryId, Millis, Result, Tier};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// TYPE of a summary.
pub(crate) const KIND: &str = "summary";
/// How sure a summary is that a model wrote.
const WRITTEN: f64 = 0.8;

/// Turns of one session that are to be summed up, in the order of time.
#[derive(Debug, Clone)]
pub struct Episode {
    /// The session.
    pub session: Box<str>,
    /// The turns; never none.
    pub turns: Vec<Arc<Entry>>,
}

/// What an episode comes to.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The session.
    pub session: Box<str>,
    /// What was read for it, in the order of time.
    pub turns: Vec<Arc<Entry>>,
    /// The text.
    pub text: Box<str>,
    /// How important it is.
    pub importance: f64,
    /// The language model that wrote it; None = sentences taken from the turns.
    pub model: Option<Box<str>>,
    /// Whether it waits for a vector: the space is embedded.
    pub embedded: bool,
}

impl PartialEq for Summary {
    /// The same text about the same turns.
    fn eq(&self, other: &Summary) -> bool {
        let ids = |summary: &Summary| summary.turns.iter().map(|turn| turn.id).collect::<Vec<MemoryId>>();
        (&self.session, &self.text, &self.model) == (&other.session, &other.text, &other.model)
            && ids(self) == ids(other)
    }
}

impl Summary {
    pub(crate) fn reason(&self) -> String {
        let by = self.model.as_ref().map_or(String::new(), |model| format!(", by {model}"));
        format!("{} turns of session {}{by}: {}", self.turns.len(), self.session, self.text)
    }
}

impl Snapshot {
    /// The turns that are due to be summed up, at most `limit` groups of them, those that ended first before others.
    pub fn episodes(&self, now: Millis, limit: usize) -> Vec<Episode> {
        let size = usize::try_from(self.settings.turns_to_summary).unwrap_or(usize::MAX);
        if size == 0 {
            return Vec::new();
        }
        let records = &self.records;
        let mut by_session: BTreeMap<Cell, Vec<u32>> = BTreeMap::new();
        let due = |slot: &u32| {
            records.has_role(*slot)
                && !records.marks(*slot).summed
                && records.superseded_at(*slot).is_none()
                && !records.is_expired(*slot, now)
                && !is_hidden(self, *slot)
        };
        for slot in records.iter().filter(due) {
            by_session.entry(records.session(slot)).or_default().push(slot);
        }
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for (session, mut slots) in by_session {
            if session != Cell::MISSING && slots.len() >= size {
                slots.sort_unstable_by_key(|slot| self.time_key(*slot));
                groups.extend(slots.chunks_exact(size).map(<[u32]>::to_vec));
            }
        }
        groups.sort_unstable_by_key(|group| group.last().map(|slot| self.time_key(*slot)));
        groups.truncate(limit);
        let episode = |group: Vec<u32>| {
            let turns: Vec<Arc<Entry>> =
                group.into_iter().map(|slot| records.entry(slot).map(Arc::new)).collect::<Option<_>>()?;
            let session = turns.first()?.session.clone()?;
            // Two names of one hash: never, but it must not mix them.
            turns.iter().all(|turn| turn.session.as_ref() == Some(&session)).then_some(Episode { session, turns })
        };
        groups.into_iter().filter_map(episode).collect()
    }

    /// Summaries from which facts are to be learned, and those of their turns that nobody has read; none until there are enough.
    pub fn distillable(&self, now: Millis) -> (Vec<Arc<Entry>>, Vec<Unread>) {
        let enough = usize::try_from(self.settings.summaries_to_facts).unwrap_or(usize::MAX);
        let kind = Cell::text(KIND);
        let undistilled = |slot: &u32| {
            self.records.kind(*slot) == kind
                && !self.records.has_role(*slot)
                && !self.records.marks(*slot).read
                && self.records.superseded_at(*slot).is_none()
                && !self.records.is_expired(*slot, now)
        };
        let mut slots: Vec<u32> = self.records.iter().filter(undistilled).collect();
        if enough == 0 || slots.len() < enough {
            return (Vec::new(), Vec::new());
        }
        slots.sort_unstable_by_key(|slot| self.id(*slot));
        slots.truncate(enough);
        let summaries: Vec<Arc<Entry>> =
            slots.into_iter().filter_map(|slot| self.records.entry(slot)).map(Arc::new).collect();
        let turns: BTreeSet<MemoryId> = summaries.iter().flat_map(|summary| summary.from.iter().copied()).collect();
        let unread = self.unread_among(now, usize::MAX, |slot| turns.contains(&self.id(slot)));
        (summaries, unread)
    }
}

impl Space {
    /// The effects of a summary whose turns stand as they were read.
    ///
    /// Errors: one of the turns is in another summary by now; those of a store.
    pub(crate) fn sum_up(&self, now: Millis, summary: &Summary) -> Result<Vec<Effect>> {
        let ids: Vec<MemoryId> = summary.turns.iter().map(|turn| turn.id).collect();
        let summed = |id: &MemoryId| self.slot(*id).is_some_and(|slot| self.view.records.marks(slot).summed);
        if ids.iter().any(summed) {
            return Err(Error::new("a turn is in another summary"));
        }
        let meta =
            summary.model.as_ref().map(|model| std::iter::once(("model".to_owned(), Value::from(&**model))).collect());
        let new = NewMemory {
            tier: Some(Tier::Episodic),
            content: summary.text.to_string(),
            importance: Some(summary.importance),
            confidence: summary.model.as_ref().map(|_| WRITTEN),
            kind: Some(KIND.to_owned()),
            session: Some(summary.session.to_string()),
            from: ids.clone(),
            at: summary.turns.last().map(|turn| turn.at),
            meta,
            dedup: Dedup::Off,
            awaits: summary.embedded,
            ..NewMemory::default()
        };
        let (made, mut effects) = self.store_many(now, vec![new])?;
        for made in made {
            derived::link_all(self, now, &mut effects, made, &ids, derived::SUMMED_UP);
        }
        effects.push(Effect::Mark { ids, marks: Marks::SUMMED, on: true });
        Ok(effects)
    }
}
