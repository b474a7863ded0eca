//! What consolidation made of other memories, and what becomes of it when those are forgotten.
//!
//! A fact, a summary or an insight names what it was made of in FROM, and has a link [`REL`] with a reason to each of these that stands. When a source
//! expires or is evicted, what was made of it stays: that is what it was made for. When somebody *forgets* a source, or gives it another content, what was
//! made of it must not go on saying what was to be forgotten:
//!
//! * A fact loses the source, and some of its confidence; one without sources goes.
//! * A summary or an insight holds words of all its sources: it goes whole, and what it was made of besides may be summed up anew.
//! * What was made of those that go, goes on by the same rule.
//!
//! Links of callers, who give no reason, take nothing along, whatever their name.
//!
//! Rejected: looking for FROM in all memories (a forget would parse every record), and an index of sources of its own (links are one already, and people can see them).

use crate::claims::Claim;
use crate::effect::{Effect, Patch, Removal};
use crate::entry::{Entry, Marks};
use crate::graph::Link;
use crate::snapshot::Snapshot;
use crate::space::{Space, removals};
use crate::{MemoryId, Millis, limits};
use std::collections::{BTreeMap, BTreeSet};

/// The name of the link from what was made to what it was made of.
pub(crate) const REL: &str = "from";
/// Why there is a link to a turn: of a fact, a summary, and an insight.
pub(crate) const LEARNED: &str = "it says so";
pub(crate) const SUMMED_UP: &str = "it is summed up";
pub(crate) const REFLECTED: &str = "it was reflected upon";

/// What forgetting takes along.
#[derive(Debug, Default)]
struct Consequences {
    /// All that goes: what was to be forgotten, and what was made of it alone.
    gone: BTreeSet<MemoryId>,
    /// Facts that lose sources.
    weakened: Vec<(MemoryId, Patch)>,
    /// What may be summed up anew.
    unsummed: BTreeSet<MemoryId>,
}

/// Adds the effects that link a memory to what it was made of, as far as both ends stand behind these effects and have room.
pub(crate) fn link_all(
    space: &Space,
    now: Millis,
    effects: &mut Vec<Effect>,
    made: MemoryId,
    from: &[MemoryId],
    reason: &'static str,
) {
    let removed: BTreeSet<MemoryId> = effects
        .iter()
        .filter_map(|effect| if let Effect::Remove { ids, .. } = effect { Some(ids) } else { None })
        .flatten()
        .copied()
        .collect();
    let old = space.slot(made).map_or(0, |slot| space.view.records.edges(slot).len());
    let link = |to: &MemoryId| Link {
        from: made,
        to: *to,
        rel: REL.into(),
        weight: 1.0,
        at: now,
        reason: Some(reason.into()),
    };
    let mut room = (limits::LINKS / 2).saturating_sub(old);
    for to in from.iter().filter(|to| **to != made && !removed.contains(*to)) {
        if room > 0 && space.has_room_for_links(*to, effects) && space.link_between(made, *to, REL).is_none() {
            effects.push(Effect::Link(Box::new(link(to))));
            room -= 1;
        }
    }
}

impl Snapshot {
    /// The memories that consolidation made of the one in a slot.
    pub(crate) fn made_of(&self, slot: u32) -> impl Iterator<Item = (u32, Entry)> {
        let edges = self.records.edges(slot).iter();
        let made = edges.filter(|edge| !edge.outgoing && *edge.rel == *REL && edge.reason.is_some());
        made.filter_map(|edge| Some((edge.other, self.records.entry(edge.other)?)))
    }

    /// What it takes along to forget the memories in these slots; or, if they only change what they say, what no longer holds then.
    fn consequences(&self, slots: &[u32], forgotten: bool) -> Consequences {
        let mut found = Consequences::default();
        let mut sources: BTreeSet<MemoryId> = slots.iter().map(|slot| self.id(*slot)).collect();
        let mut weakened: BTreeMap<MemoryId, Entry> = BTreeMap::new();
        let mut open = slots.to_vec();
        while let Some(slot) = open.pop() {
            for (slot, made) in self.made_of(slot) {
                if sources.contains(&made.id) {
                    continue;
                }
                let is_fact = Claim::of(&made).is_some();
                if is_fact && made.from.iter().any(|from| !sources.contains(from)) {
                    weakened.insert(made.id, made);
                    continue;
                }
                sources.insert(made.id);
                open.push(slot);
                weakened.remove(&made.id);
                if !is_fact {
                    found.unsummed.extend(made.from);
                }
            }
        }
        found.unsummed.retain(|id| !sources.contains(id));
        for (id, made) in weakened {
            let from: Vec<MemoryId> = made.from.iter().copied().filter(|from| !sources.contains(from)).collect();
            // As if all sources were equally sure: of n that leave a doubt d, each leaves its n-th root.
            let share = from.len() as f64 / made.from.len().max(1) as f64;
            let confidence = Some(1.0 - (1.0 - made.confidence).powf(share)).filter(|_| made.confidence < 1.0);
            found.weakened.push((id, Patch { from: Some(from), confidence, ..Patch::default() }));
        }
        if !forgotten {
            sources.retain(|id| !slots.iter().any(|slot| self.id(*slot) == *id));
        }
        found.gone = sources;
        found
    }

    /// These memories, and those that forgetting them takes along, in order. Looks at every memory.
    pub fn with_derived(&self, ids: &[MemoryId]) -> Vec<MemoryId> {
        let ids: BTreeSet<MemoryId> = ids.iter().copied().collect();
        let slots: Vec<u32> = self.records.iter().filter(|slot| ids.contains(&self.id(*slot))).collect();
        self.consequences(&slots, true).gone.into_iter().collect()
    }
}

impl Space {
    /// The same as [`Snapshot::with_derived`], at the cost of these memories alone.
    pub fn with_derived(&self, ids: &[MemoryId]) -> Vec<MemoryId> {
        self.consequences(ids, true).gone.into_iter().collect()
    }

    /// The effects that forget memories and what consolidation made of them alone; what is gone already is passed over. Each effect can be applied
    /// by itself, so a long list may be taken in pieces.
    pub fn forget_effects(&self, ids: &[MemoryId]) -> Vec<Effect> {
        self.carried_out(self.consequences(ids, true))
    }

    /// The effects of forgetting memories on what was made of them, where those themselves go by other effects.
    pub(crate) fn aftermath(&self, slots: &[u32]) -> Vec<Effect> {
        let mut what = self.view.consequences(slots, true);
        let themselves: BTreeSet<MemoryId> = slots.iter().map(|slot| self.view.id(*slot)).collect();
        what.gone.retain(|id| !themselves.contains(id));
        self.carried_out(what)
    }

    /// The effects of a memory's saying something else, on what was made of it and what it was linked to for what it said.
    pub(crate) fn reword_effects(&self, id: MemoryId) -> Vec<Effect> {
        let mut effects = self.carried_out(self.consequences(&[id], false));
        effects.extend(self.unlink_kin(id));
        effects
    }

    fn consequences(&self, ids: &[MemoryId], forgotten: bool) -> Consequences {
        let slots: Vec<u32> = ids.iter().filter_map(|id| self.slot(*id)).collect();
        self.view.consequences(&slots, forgotten)
    }

    fn carried_out(&self, what: Consequences) -> Vec<Effect> {
        let gone: Vec<MemoryId> = what.gone.into_iter().collect();
        let mut effects = removals(&gone, Removal::Forgotten);
        effects.extend(what.weakened.into_iter().map(|(id, patch)| Effect::Patch { id, patch: Box::new(patch) }));
        let unsummed: Vec<MemoryId> = what.unsummed.into_iter().filter(|id| self.slot(*id).is_some()).collect();
        effects.extend(unsummed.chunks(limits::EFFECT_IDS).map(|ids| Effect::Mark {
            ids: ids.to_vec(),
            marks: Marks::SUMMED,
            on: false,
        }));
        effects
    }
}
