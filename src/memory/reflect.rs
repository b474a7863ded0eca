//! Insights: what a session has taught. The engine gathers what there is to reflect upon, and keeps what comes of it with its sources; the words are the caller's.

use crate::columns::Cell;
use crate::derived;
use crate::effect::Effect;
use crate::entry::Entry;
use crate::snapshot::Snapshot;
use crate::space::{Space, is_hidden};
use crate::store::{NewMemory, Stored};
use crate::{Error, MemoryId, Millis, Result, limits};
use std::collections::BTreeMap;
use std::sync::Arc;

/// TYPE of an insight.
const KIND: &str = "insight";
/// Turns that are looked at: the newest of the session.
const TURNS: usize = 200;
/// Earlier insights that are looked at: those of the session, then the newest of others.
const INSIGHTS: usize = 20;

/// What there is to reflect upon.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The turns of the session, in the order of time.
    pub turns: Vec<Arc<Entry>>,
    /// Facts that were learned from them, the most important first.
    pub facts: Vec<Arc<Entry>>,
    /// What was learned by reflection before: of this session, then of others, the newest first.
    pub insights: Vec<Arc<Entry>>,
}

impl Told {
    /// All of it.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.turns.iter().chain(&self.facts).chain(&self.insights)
    }
}

impl Snapshot {
    /// What there is to reflect upon in a session. Looks at every memory.
    pub fn told(&self, now: Millis, session: &str) -> Told {
        let records = &self.records;
        let (name, kind) = (Cell::text(session), Cell::text(KIND));
        let stands = |slot: &u32| {
            records.superseded_at(*slot).is_none() && !records.is_expired(*slot, now) && !is_hidden(self, *slot)
        };
        let read = |slot: u32| records.entry(slot).map(Arc::new);
        let (mut turns, mut insights) = (Vec::new(), Vec::new());
        for slot in records.iter().filter(stands) {
            if records.has_role(slot) && records.session(slot) == name {
                turns.push(slot);
            } else if records.kind(slot) == kind && !records.has_role(slot) {
                insights.push(slot);
            }
        }
        turns.sort_unstable_by_key(|slot| self.time_key(*slot));
        turns.drain(..turns.len().saturating_sub(TURNS));
        insights.sort_unstable_by_key(|slot| (records.session(*slot) != name, std::cmp::Reverse(self.time_key(*slot))));
        insights.truncate(INSIGHTS);
        let learned = turns.iter().flat_map(|slot| self.made_of(*slot));
        let facts: BTreeMap<MemoryId, Entry> = learned
            .filter(|(slot, made)| stands(slot) && crate::Claim::of(made).is_some())
            .map(|(_, made)| (made.id, made))
            .collect();
        let mut facts: Vec<Arc<Entry>> = facts.into_values().map(Arc::new).collect();
        facts.sort_by(|a, b| b.importance.total_cmp(&a.importance).then(a.id.cmp(&b.id)));
        let same = |entry: &Arc<Entry>| entry.session.as_deref() == Some(session);
        Told {
            turns: turns.into_iter().filter_map(read).filter(same).collect(),
            facts,
            insights: insights.into_iter().filter_map(read).collect(),
        }
    }
}

impl Space {
    /// Decides to store an insight, linked to what it was drawn from. The same insight of the same session again is the one that stands.
    ///
    /// Errors: what was read for it does not stand as it was read; those of a store.
    pub fn store_insight(&self, now: Millis, told: &Told, insight: NewMemory) -> Result<Stored> {
        let stands = |read: &Arc<Entry>| self.get(now, read.id).is_some_and(|entry| entry.content == read.content);
        if !told.all().all(stands) {
            return Err(Error::new("something that was reflected upon has changed meanwhile: retry"));
        }
        let from: Vec<MemoryId> = insight.from.iter().copied().take(limits::FROM).collect();
        let mut stored = self.store(now, NewMemory { kind: Some(KIND.to_owned()), ..insight })?;
        let effects: &mut Vec<Effect> = &mut stored.effects;
        derived::link_all(self, now, effects, stored.id, &from, derived::REFLECTED);
        Ok(stored)
    }
}
