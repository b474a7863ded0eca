//! Links between memories that belong together, found by consolidation.
//!
//! Turns and chunks have their neighbours; everything else (facts, insights, summaries, what callers stored) is looked at once, when it has its vector, and again when
//! it says something else:
//!
//! * `similar`: to the [`SIMILAR`] memories nearest to it from a cosine of [`NEAR`] on; the cosine is the weight. That is what a spreading recall goes along.
//! * `about`: from a fact to the facts about what it names. "Ann's wife is Maria" leads to what is known of Maria, which no vector knows.
//!
//! Each carries its reason in words.

use crate::claims::Claim;
use crate::effect::Effect;
use crate::entry::{Entry, Marks};
use crate::filter::Filter;
use crate::graph::Link;
use crate::recall::{Mode, Recall};
use crate::snapshot::Snapshot;
use crate::space::{Space, is_hidden};
use crate::text::normalised;
use crate::{MemoryId, Millis, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The names of the links.
pub(crate) const RELS: [&str; 2] = ["similar", "about"];
const SIMILARITY: &str = RELS[0];
const SUBJECT: &str = RELS[1];
/// Similar memories that one is linked to.
const SIMILAR: usize = 3;
/// Cosine from which they are.
const NEAR: f64 = 0.7;
/// Facts about one subject that a fact is linked to, and facts that name it.
const ABOUT: usize = 8;
/// The weight of such a link.
const ABOUT_WEIGHT: f64 = 0.8;

/// Looks for what belongs together in a snapshot, one memory after the other.
pub struct Kin {
    view: Snapshot,
    now: Millis,
    filter: Option<Filter>,
    /// The memories that are to be looked at, by slot, the next one last.
    left: Vec<u32>,
    /// Pairs that have been found: which of the two was looked at first is no matter.
    found: BTreeSet<(MemoryId, MemoryId, &'static str)>,
    /// Facts that stand, by subject and by value.
    by_subject: BTreeMap<String, Vec<MemoryId>>,
    by_value: BTreeMap<String, Vec<MemoryId>>,
}

impl Kin {
    /// Of the memories for which nobody has looked yet, in the order of their ids, at most `limit`; those whose vectors are being made wait. Reads the facts of the snapshot: a
    /// microsecond for each memory that is neither turn nor chunk. None if there is nothing to look at.
    pub fn new(view: Snapshot, now: Millis, limit: usize) -> Option<Kin> {
        let due = |slot: &u32| !view.records.marks(*slot).linked && !view.records.awaits(*slot);
        let mut left: Vec<u32> = view.alone(now).filter(due).collect();
        if left.is_empty() {
            return None;
        }
        left.sort_unstable_by_key(|slot| view.id(*slot));
        left.truncate(limit);
        left.reverse();
        let (mut by_subject, mut by_value) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        let mut facts: Vec<Entry> = view.alone(now).filter_map(|slot| view.records.entry(slot)).collect();
        facts.sort_unstable_by(|a, b| b.importance.total_cmp(&a.importance).then(a.id.cmp(&b.id)));
        for fact in facts {
            let Some(claim) = Claim::of(&fact) else { continue };
            by_subject.entry(normalised(&claim.subject)).or_default().push(fact.id);
            by_value.entry(normalised(&claim.value)).or_default().push(fact.id);
        }
        // Neither turns nor chunks: those fields are what only they have.
        let filter =
            Filter::parse(r#"not (.role in ["user", "assistant", "system", "tool"]) and not (.position >= 0)"#);
        let (filter, found) = (filter.ok(), BTreeSet::new());
        Some(Kin { view, now, filter, left, found, by_subject, by_value })
    }

    fn links(&self, entry: &Entry) -> Vec<Link> {
        let mut links = Vec::new();
        let mut link = |from: MemoryId, to: MemoryId, rel: &str, weight: f64, reason: String| {
            let reason = Some(reason.into_boxed_str()).filter(|reason| reason.len() <= limits::REASON_BYTES);
            links.push(Link { from, to, rel: rel.into(), weight, at: self.now, reason });
        };
        if let Some(claim) = Claim::of(entry) {
            let known = |map: &BTreeMap<String, Vec<MemoryId>>, name: &str| {
                let others = map.get(&normalised(name)).into_iter().flatten().copied();
                others.filter(|id| *id != entry.id).take(ABOUT).collect::<Vec<MemoryId>>()
            };
            for to in known(&self.by_subject, &claim.value) {
                link(entry.id, to, SUBJECT, ABOUT_WEIGHT, format!("it says more of {}", claim.value));
            }
            for from in known(&self.by_value, &claim.subject) {
                link(from, entry.id, SUBJECT, ABOUT_WEIGHT, format!("it says more of {}", claim.subject));
            }
        }
        if entry.windows > 0 {
            let recall = Recall {
                like: Some(entry.id),
                mode: Some(Mode::Dense),
                k: SIMILAR,
                filter: self.filter.clone(),
                min_score: Some(NEAR),
                ..Recall::default()
            };
            for hit in self.view.recall(self.now, &recall).map(|recalled| recalled.hits).unwrap_or_default() {
                let Some(cosine) = hit.similarity else { continue };
                let reason = format!("a cosine of {cosine:.2}");
                link(entry.id, hit.entry.id, SIMILARITY, (cosine * 100.0).round().clamp(1.0, 100.0) / 100.0, reason);
            }
        }
        links
    }
}

impl Iterator for Kin {
    type Item = (Arc<Entry>, Vec<Link>);

    /// The next memory, and the links that it is to have besides those that it has.
    fn next(&mut self) -> Option<Self::Item> {
        let slot = self.left.pop()?;
        let Some(entry) = self.view.records.entry(slot) else { return self.next() };
        // So that a recall of what is like it need not look for it among all.
        self.view.known = Some((entry.id, Some(slot)));
        let mut links = self.links(&entry);
        let edges = self.view.records.edges(slot);
        links.retain(|link| {
            let other = if link.from == entry.id { link.to } else { link.from };
            let there = edges.iter().any(|edge| *edge.rel == *link.rel && self.view.id(edge.other) == other);
            let rel = if *link.rel == *SIMILARITY { SIMILARITY } else { SUBJECT };
            !there && self.found.insert((entry.id.min(other), entry.id.max(other), rel))
        });
        Some((Arc::new(entry), links))
    }
}

impl Snapshot {
    /// Slots of what is neither a turn nor a chunk, and stands.
    fn alone(&self, now: Millis) -> impl Iterator<Item = u32> {
        let records = &self.records;
        let alone = move |slot: &u32| {
            !records.has_role(*slot)
                && !records.is_chunk(*slot)
                && records.superseded_at(*slot).is_none()
                && !records.is_expired(*slot, now)
                && !is_hidden(self, *slot)
        };
        records.iter().filter(alone)
    }
}

impl Space {
    /// The effects of linking a memory, as far as both ends stand and have room.
    pub(crate) fn link_kin(&self, now: Millis, id: MemoryId, links: &[Link]) -> Vec<Effect> {
        let mut effects = Vec::new();
        for link in links {
            let ends = [link.from, link.to];
            if ends.iter().all(|end| self.standing(now, *end).is_some() && self.has_room_for_links(*end, &effects))
                && self.link_between(link.from, link.to, &link.rel).is_none()
            {
                effects.push(Effect::Link(Box::new(link.clone())));
            }
        }
        effects.push(Effect::Mark { ids: vec![id], marks: Marks::LINKED, on: true });
        effects
    }

    /// The effects that take the links which consolidation found for a memory: it says something else.
    pub(crate) fn unlink_kin(&self, id: MemoryId) -> Vec<Effect> {
        let links = self.slot(id).into_iter().flat_map(|slot| self.links_of(slot));
        let found = links.filter(|link| RELS.contains(&&*link.rel) && link.reason.is_some());
        found.map(|Link { from, to, rel, .. }| Effect::Unlink { from, to, rel: Some(rel) }).collect()
    }
}
