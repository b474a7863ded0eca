//! What gives way: expiry, eviction from full tiers, memory pressure; and the settings that bound them.
//!
//! Decisions only: each gives the effects that carry it out. Each gives few: where much has to go at once, because a setting has changed or the time of many
//! is over, what cannot wait goes with the change and with every store, and the rest by [`Space::trim`], a little at a time.

use crate::document::STAGED;
use crate::effect::{Effect, Removal};
use crate::entry::Entry;
use crate::session::GONE;
use crate::settings::{NAMES, Settings};
use crate::sorted::Sorted;
use crate::space::{Key, SUPERSEDED, Space, removals, retention_key};
use crate::{Error, MemoryId, Millis, Result, Tier};
use std::collections::{BTreeSet, BinaryHeap};

/// Memories that a change of settings, or a store beside those that it must, evicts from a tier over its capacity.
const AT_ONCE: usize = 64;

impl Space {
    /// Whether [`Space::trim`] may have something to do. Looks at counts alone.
    pub fn wants_trimming(&self, now: Millis) -> bool {
        self.next_expiry().is_some_and(|at| at <= now)
            || self.next_session_end().is_some_and(|at| at <= now)
            || Tier::ALL.into_iter().any(|tier| self.excess(now, tier) > 0)
    }

    /// The effects that take away up to `limit` memories whose time is over, or, if there are none, for which a tier has no place.
    pub fn trim(&self, now: Millis, limit: usize) -> Vec<Effect> {
        let expired = self.expire_due(now, limit);
        if !expired.is_empty() {
            return expired;
        }
        let ended = self.end_sessions(now, limit);
        if !ended.is_empty() {
            return ended;
        }
        let mut victims = Vec::new();
        for tier in Tier::ALL {
            let excess = self.excess(now, tier).min(limit - victims.len());
            victims.extend(self.lowest(tier.index(), now, excess, &BTreeSet::new()));
        }
        removals(&victims, Removal::Evicted)
    }

    /// How many memories of a tier are beyond its capacity, and can go.
    fn excess(&self, now: Millis, tier: Tier) -> usize {
        let (Some(capacity), Some(shelf)) = (self.view.settings.capacity(tier), self.shelves.get(tier.index())) else {
            return 0;
        };
        if shelf.count <= capacity || shelf.count == shelf.pinned + shelf.held {
            return 0;
        }
        self.occupied(tier, now).saturating_sub(capacity)
    }

    /// The effects that take away up to `limit` memories whose time is over.
    pub fn expire_due(&self, now: Millis, limit: usize) -> Vec<Effect> {
        let (mut gone, mut expired) = (Vec::new(), Vec::new());
        for slot in self.expiring_until(now).take(limit) {
            let of_its_own = self.view.records.expires(slot).is_some_and(|expires| expires > GONE);
            if of_its_own { &mut expired } else { &mut gone }.push(self.view.id(slot));
        }
        let mut effects = removals(&gone, Removal::Forgotten);
        effects.extend(removals(&expired, Removal::Expired));
        effects
    }

    /// The memories that have expired at `now`, chunks that are not shown yet apart.
    fn expiring_until(&self, now: Millis) -> impl Iterator<Item = u32> {
        let end: Key = (now.saturating_add(1), MemoryId::ZERO);
        self.shelves.iter().flat_map(move |shelf| {
            let expiry = |slot| self.view.expiry_key(slot);
            let gone = shelf.expiry.range((GONE, MemoryId::ZERO), (STAGED, MemoryId::ZERO), expiry);
            gone.chain(shelf.expiry.range((STAGED + 1, MemoryId::ZERO), end, expiry))
        })
    }

    /// When the next memory expires: what nobody sees counts as well.
    pub(crate) fn first_expiry(&self) -> Option<Millis> {
        self.shelves.iter().filter_map(|shelf| self.view.records.expires(shelf.expiry.first()?)).min()
    }

    /// When the next memory expires, or has gone already and is to be taken away.
    pub fn next_expiry(&self) -> Option<Millis> {
        let first = self.shelves.iter().filter_map(|shelf| {
            let expiry = |slot| self.view.expiry_key(slot);
            let first = shelf.expiry.first().filter(|slot| self.view.records.expires(*slot) != Some(STAGED));
            first.or_else(|| shelf.expiry.range_from((STAGED + 1, MemoryId::ZERO), expiry).next())
        });
        first.filter_map(|slot| self.view.records.expires(slot)).min()
    }

    /// How many places of a tier are taken at `now`: what a session holds takes none.
    pub(crate) fn occupied(&self, tier: Tier, now: Millis) -> usize {
        let held = self.shelves.get(tier.index()).map_or(0, |shelf| shelf.held);
        self.live_count(tier.index(), now).saturating_sub(held)
    }

    /// The effects that free `bytes` bytes, if so many can be: first what is superseded, then from the working tier upward, the
    /// lowest retention value first, never semantic, never pinned.
    pub fn shrink(&self, now: Millis, bytes: usize) -> Vec<Effect> {
        removals(&self.shrinkable(now, bytes, &BTreeSet::new()).0, Removal::Evicted)
    }

    /// What [`Space::shrink`] would take, and the bytes that this frees.
    pub(crate) fn shrinkable(&self, now: Millis, bytes: usize, spared: &BTreeSet<MemoryId>) -> (Vec<MemoryId>, usize) {
        let (mut victims, mut freed) = (Vec::new(), 0);
        let tiers = [Tier::Working, Tier::ShortTerm, Tier::LongTerm, Tier::Episodic].map(Tier::index);
        for shelf in std::iter::once(SUPERSEDED).chain(tiers) {
            let mut wanted = 16;
            let (mut taken, mut with_tier) = (Vec::new(), freed);
            while with_tier < bytes {
                let lowest = self.lowest(shelf, now, wanted, spared);
                (taken, with_tier) = (Vec::new(), freed);
                let exhausted = lowest.len() < wanted;
                for id in lowest {
                    if with_tier >= bytes {
                        break;
                    }
                    with_tier += self.slot(id).map_or(0, |slot| self.slot_cost(slot));
                    taken.push(id);
                }
                if exhausted {
                    break;
                }
                wanted *= 2;
            }
            victims.append(&mut taken);
            freed = with_tier;
        }
        (victims, freed)
    }

    /// Up to `wanted` memories of a shelf with the lowest retention keys, lowest first; never pinned or expired ones, nor those
    /// to be spared.
    ///
    /// The index holds lower bounds. So it is read in its order, each true key computed, and reading ends when the next bound
    /// is above the largest key that would be taken.
    pub(crate) fn lowest(
        &self,
        shelf: usize,
        now: Millis,
        wanted: usize,
        spared: &BTreeSet<MemoryId>,
    ) -> Vec<MemoryId> {
        let mut taken: BinaryHeap<Key> = BinaryHeap::new();
        let index = self.shelves.get(shelf).map(|shelf| &shelf.retention).filter(|_| wanted > 0);
        for slot in index.into_iter().flat_map(Sorted::iter) {
            let bound = retention_key(&self.view, &self.retention, slot);
            if taken.len() == wanted && taken.peek().is_some_and(|highest| bound > *highest) {
                break;
            }
            let (_, id) = bound;
            if self.view.records.is_expired(slot, now) || spared.contains(&id) {
                continue;
            }
            taken.push((self.view.retention(slot), id));
            if taken.len() > wanted {
                taken.pop();
            }
        }
        taken.into_sorted_vec().into_iter().map(|(_, id)| id).collect()
    }

    /// The memories that leave a tier so that `entering` more fit into it. Of a tier that is over its capacity already a few more than that leave.
    pub(crate) fn make_room(
        &self,
        now: Millis,
        tier: Tier,
        entering: usize,
        spared: &BTreeSet<MemoryId>,
    ) -> Result<Vec<MemoryId>> {
        let Some(capacity) = self.view.settings.capacity(tier) else { return Ok(Vec::new()) };
        if entering > capacity {
            return Err(Error::new(format!("tier {tier} holds {capacity} memories: {entering} at once do not fit")));
        }
        let excess = (self.occupied(tier, now) + entering).saturating_sub(capacity).min(entering + AT_ONCE);
        let victims = self.lowest(tier.index(), now, excess, spared);
        if victims.len() < excess {
            return Err(Error::new(format!(
                "tier {tier} is full: all of its {capacity} places are taken by memories that are pinned or stored by this \
                 call; unpin or forget one, or raise {tier}.capacity"
            )));
        }
        Ok(victims)
    }

    /// Changes a setting. A lower capacity evicts what no longer fits, some of it at once and the rest by [`Space::trim`]; a lifetime counts for what enters the tier from then on;
    /// a lower `max-memory` counts with the next store or [`Space::shrink`].
    ///
    /// Errors: unknown name, a value that the setting does not take, more pinned memories than a capacity would hold.
    pub fn set(&self, now: Millis, name: &str, value: &str) -> Result<Vec<Effect>> {
        let mut settings = Settings::clone(&self.view.settings);
        settings.set(name, value)?;
        self.change_settings(now, &settings)
    }

    /// Sets capacities and lifetimes to those of a preset: default, chatbot, research or personal. Other settings stay.
    pub fn preset(&self, now: Millis, name: &str) -> Result<Vec<Effect>> {
        self.change_settings(now, &self.view.settings.preset(name)?)
    }

    /// How many memories of a shelf are pinned and have not expired.
    fn pinned_count(&self, shelf: usize, now: Millis) -> usize {
        let Some(shelf) = self.shelves.get(shelf).filter(|shelf| shelf.pinned > 0) else { return 0 };
        let end: Key = (now.saturating_add(1), MemoryId::ZERO);
        let expired = shelf.expiry.range((0, MemoryId::ZERO), end, |slot| self.view.expiry_key(slot));
        shelf.pinned - expired.filter(|slot| self.view.records.is_pinned(*slot)).count()
    }

    pub(crate) fn change_settings(&self, now: Millis, new: &Settings) -> Result<Vec<Effect>> {
        if let Some(fixed) = self.view.rows.as_ref().map(|rows| rows.precision())
            && new.precision != fixed
        {
            return Err(Error::new(format!(
                "precision: the vectors of this space are kept as {fixed}; MEM.REEMBED makes them anew in another precision"
            )));
        }
        let mut effects = Vec::new();
        for name in NAMES {
            if let Some(value) = new.get(name)
                && self.view.settings.get(name).as_ref() != Some(&value)
            {
                effects.push(Effect::Set { name: name.into(), value });
            }
        }
        for tier in Tier::ALL {
            let Some(capacity) = new.capacity(tier) else { continue };
            let pinned = self.pinned_count(tier.index(), now);
            if pinned > capacity {
                return Err(Error::new(format!(
                    "tier {tier} has {pinned} pinned memories: a capacity of {capacity} does not hold them"
                )));
            }
            let excess = self.occupied(tier, now).saturating_sub(capacity);
            let victims = self.lowest(tier.index(), now, excess.min(AT_ONCE), &BTreeSet::new());
            effects.extend(removals(&victims, Removal::Evicted));
        }
        Ok(effects)
    }

    /// Moves a memory to a tier, any to any, and evicts there what no longer fits. Its lifetime is the new tier's from now on,
    /// unless the caller gave it one of its own. No effect if it is there already.
    pub fn promote(&self, now: Millis, id: MemoryId, tier: Tier) -> Result<Vec<Effect>> {
        let (_, entry) = self.existing(now, id)?;
        self.move_to(now, &entry, tier)
    }

    pub(crate) fn move_to(&self, now: Millis, entry: &Entry, tier: Tier) -> Result<Vec<Effect>> {
        if entry.tier == tier {
            return Ok(Vec::new());
        }
        // What is superseded takes no place in any tier.
        let entering = usize::from(entry.superseded.is_none());
        let victims = self.make_room(now, tier, entering, &BTreeSet::from([entry.id]))?;
        let expiry = (!entry.own_expiry).then(|| (self.view.settings.expiry(tier, now), false));
        let patch = crate::effect::Patch { tier: Some((tier, now)), expiry, ..Default::default() };
        let mut effects = removals(&victims, Removal::Evicted);
        effects.push(Effect::Patch { id: entry.id, patch: Box::new(patch) });
        Ok(effects)
    }
}
