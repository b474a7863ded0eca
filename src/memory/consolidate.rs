//! Consolidation: what expires, merges, rises and gives way.
//!
//! It runs in two halves. [`Snapshot::plan_consolidation`] walks everything, on any thread, and writes down steps with the
//! entries that each was decided on. [`Space::decide_step`] turns one step into effects on the thread that owns the space, if
//! those entries still stand unchanged but for their use, and gives nothing if not. One step is
//! one atomic unit of bounded work; between two of them the space serves others. Every step is worked out on its own, so a
//! stale plan is incomplete, never wrong.

use crate::claims::{self, Claim, FactRules, Findings, Revised, Revision};
use crate::columns::Cell;
use crate::effect::{Effect, Patch, Removal};
use crate::entry::{Entry, Marks, Superseded, check_unit};
use crate::episodes::{self, Summary};
use crate::graph;
use crate::records::Link;
use crate::rows;
use crate::snapshot::Snapshot;
use crate::space::{Space, hash_of, is_hidden, removals};
use crate::text::normalised;
use crate::{Error, MemoryId, Millis, Result, Tier, limits};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Memories that are marked in one step.
const MARK_UNIT: usize = 256;
/// Merged memories that a reason names; the rest are counted.
const NAMED: usize = 3;

/// What to consolidate.
#[derive(Debug, Clone, Default)]
pub struct Consolidate {
    /// Only promotions out of this tier.
    pub from: Option<Tier>,
    /// Only promotions into this tier.
    pub to: Option<Tier>,
    /// Importance from which a memory is promoted; None = the setting.
    pub threshold: Option<f64>,
    /// Cosine from which memories are merged, above 0; None = the setting, where 0 = equal text only.
    pub dedup: Option<f64>,
    /// At most so many changes; None = [`limits::PLAN_STEPS`].
    pub limit: Option<usize>,
    /// What facts mean to each other.
    pub rules: FactRules,
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A memory rises into a tier.
    Promote {
        /// The memory.
        id: MemoryId,
        /// The tier that it leaves.
        from: Tier,
        /// The tier that it enters.
        to: Tier,
    },
    /// Duplicates become one.
    Merge {
        /// The memory that stays.
        keep: MemoryId,
        /// Those that go into it.
        drop: Vec<MemoryId>,
    },
    /// A memory leaves a tier that is over its capacity.
    Evict {
        /// The memory.
        id: MemoryId,
    },
    /// A memory whose time is over goes.
    Expire {
        /// The memory.
        id: MemoryId,
    },
    /// The facts of one subject and attribute are brought into order.
    Revise(Box<Revision>),
    /// A memory says what turns of a session come to.
    Summarize(Box<Summary>),
    /// A memory is linked to others.
    Link(Vec<graph::Link>),
    /// It is noted what has been done with memories: nobody sees it.
    Mark(Vec<MemoryId>, Marks),
}

/// A change with its reason and what it was decided on.
#[derive(Debug, Clone)]
pub struct Step {
    /// The change.
    pub change: Change,
    /// Why, in words.
    pub reason: String,
    /// The memories as the plan saw them, the one that stays first.
    read: Vec<Arc<Entry>>,
}

impl Step {
    /// The memory that it is about first.
    pub fn memory(&self) -> Option<MemoryId> {
        self.memories().next()
    }

    /// The memories that it was decided on.
    pub fn memories(&self) -> impl Iterator<Item = MemoryId> {
        self.read.iter().map(|entry| entry.id)
    }
}

/// The steps of a consolidation, in the order in which they are to be taken.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The steps; no memory is in two of them.
    pub steps: Vec<Step>,
    /// Whether the limit on changes or on comparisons cut it short: another run finds more.
    pub cut_short: bool,
}

/// A memory that may state facts, and the turns in front of it in its session.
#[derive(Debug, Clone)]
pub struct Unread {
    /// The memory.
    pub entry: Arc<Entry>,
    /// The turns before it, the nearest first, at most [`TURNS_BEFORE`].
    pub before: Vec<Arc<Entry>>,
}

/// As far back as a story or a game is looked for that a turn may be part of: one that goes on shows itself more often.
pub const TURNS_BEFORE: usize = 3;

impl Snapshot {
    /// Facts that others have superseded.
    fn history(&self, now: Millis) -> impl Iterator<Item = Arc<Entry>> {
        let slots = self.records.iter().filter(move |slot| {
            self.records.superseded_at(*slot).is_some()
                && !self.records.is_expired(*slot, now)
                && !is_hidden(self, *slot)
        });
        slots.filter_map(|slot| self.records.entry(slot)).filter(|entry| Claim::of(entry).is_some()).map(Arc::new)
    }

    /// Memories that nobody has read for facts, in the order of their ids: what users said, and plain texts that callers stored; `limit` at most.
    pub fn unread(&self, now: Millis, limit: usize) -> Vec<Unread> {
        self.unread_among(now, limit, |_| true)
    }

    /// The same, of those in some slots.
    pub(crate) fn unread_among(&self, now: Millis, limit: usize, admits: impl Fn(u32) -> bool) -> Vec<Unread> {
        let user = Cell::text("user");
        let states = |slot: &u32| {
            let records = &self.records;
            let role = records.role(*slot);
            !records.marks(*slot).read
                && (role == user || role == Cell::MISSING)
                && !records.is_chunk(*slot)
                && records.superseded_at(*slot).is_none()
                && !records.is_expired(*slot, now)
                && admits(*slot)
        };
        let mut slots: Vec<u32> = self.records.iter().filter(states).collect();
        slots.sort_unstable_by_key(|slot| self.id(*slot));
        slots.truncate(limit);
        // Turns of one session stand before many: each is made once.
        let mut made: HashMap<u32, Option<Arc<Entry>>> = HashMap::new();
        let mut entry = |slot: u32| made.entry(slot).or_insert_with(|| self.records.entry(slot).map(Arc::new)).clone();
        let previous = |slot: &u32| self.records.link(*slot, Link::Previous);
        let read = |slot: u32| {
            let before = std::iter::successors(previous(&slot), previous).take(TURNS_BEFORE);
            let before = before.map_while(&mut entry).collect();
            Some(Unread { entry: entry(slot)?, before })
        };
        slots.into_iter().filter_map(read).collect()
    }

    /// Plans a consolidation: what has expired goes; duplicates (equal text, or similar) of one session and speaker merge, turns
    /// of a conversation never; facts that contradict each other are brought into order, with those that reading memories has found (see `claims`);
    /// memories at or above the threshold rise one tier, those first that would expire before the next
    /// run; tiers over capacity give up their lowest. Equal snapshots give equal plans.
    ///
    /// Merging by similarity compares every pair of one session and speaker: quadratic, and bounded by
    /// [`limits::MERGE_COMPARISONS`].
    ///
    /// Errors: a threshold or a cosine out of range, tiers between which nothing rises.
    pub fn plan_consolidation(&self, now: Millis, what: &Consolidate, findings: &Findings) -> Result<Plan> {
        let threshold = what.threshold.unwrap_or(self.settings.consolidate_threshold);
        check_unit("THRESHOLD", threshold)?;
        let dedup = match what.dedup {
            Some(f) if f > 0.0 && f <= 1.0 => f,
            Some(f) => return Err(Error::new(format!("DEDUP is {f}: it takes a cosine above 0 and up to 1"))),
            None => self.settings.dedup,
        };
        check_way(what.from, what.to)?;
        // What is superseded is history: it neither rises nor merges, and expires by itself.
        let mut entries: Vec<(Arc<Entry>, u32)> = self
            .records
            .iter()
            .filter_map(|slot| Some((Arc::new(self.records.entry(slot)?), slot)))
            .filter(|(entry, slot)| entry.superseded.is_none() && !is_hidden(self, *slot))
            .collect();
        entries.sort_unstable_by_key(|(entry, _)| entry.id);
        let mut planner = Planner {
            view: self,
            now,
            taken: BTreeSet::new(),
            postponed: BTreeSet::new(),
            plan: Plan::default(),
            limit: what.limit.unwrap_or(limits::PLAN_STEPS).min(limits::PLAN_STEPS),
        };
        planner.expire(&entries);
        entries.retain(|(entry, _)| !entry.is_expired(now));
        planner.merge_equal(&entries);
        if dedup > 0.0 {
            planner.merge_similar(&entries, dedup, findings);
        }
        planner.revise(&entries, findings, what.rules);
        planner.promote(&entries, threshold, what);
        planner.evict(&entries);
        planner.summarize(findings);
        planner.link(findings);
        planner.mark(findings);
        Ok(planner.plan)
    }
}

/// Whether anything rises from a tier into the other.
fn check_way(from: Option<Tier>, to: Option<Tier>) -> Result<()> {
    use Tier::{Episodic, LongTerm, Semantic, ShortTerm, Working};
    let ways = [(Working, ShortTerm), (ShortTerm, LongTerm), (LongTerm, Episodic), (LongTerm, Semantic)];
    if ways.iter().any(|(out, into)| from.is_none_or(|from| from == *out) && to.is_none_or(|to| to == *into)) {
        return Ok(());
    }
    let given = [from.map(|tier| format!("FROM {tier}")), to.map(|tier| format!("TO {tier}"))];
    Err(Error::new(format!(
        "{}: nothing rises that way. One run takes memories from working to short_term, from short_term to long_term, and from long_term to episodic or semantic",
        given.into_iter().flatten().collect::<Vec<_>>().join(" ")
    )))
}

struct Planner<'a> {
    view: &'a Snapshot,
    now: Millis,
    /// Memories that have their step.
    taken: BTreeSet<MemoryId>,
    /// Memories that state facts for which there was no step: they are to be read again.
    postponed: BTreeSet<MemoryId>,
    plan: Plan,
    limit: usize,
}

type Entries = [(Arc<Entry>, u32)];

impl Planner<'_> {
    fn step(&mut self, change: Change, reason: String, read: Vec<Arc<Entry>>) {
        if self.plan.steps.len() >= self.limit {
            self.plan.cut_short = true;
            return;
        }
        self.taken.extend(read.iter().map(|entry| entry.id));
        self.plan.steps.push(Step { change, reason, read });
    }

    fn expire(&mut self, entries: &Entries) {
        for (entry, _) in entries {
            if entry.is_expired(self.now) {
                let reason = format!("its time in {} was over", entry.tier);
                self.step(Change::Expire { id: entry.id }, reason, vec![entry.clone()]);
            }
        }
    }

    /// Memories that could be merged, the best to keep first: higher importance, then older. Turns and chunks stand where they stand.
    fn mergeable<'e>(&self, entries: &'e Entries) -> Vec<&'e (Arc<Entry>, u32)> {
        let mut free: Vec<_> = entries
            .iter()
            .filter(|(entry, _)| entry.role.is_none() && entry.passage.is_none() && !self.taken.contains(&entry.id))
            .collect();
        free.sort_by(|(a, _), (b, _)| b.importance.total_cmp(&a.importance).then(a.id.cmp(&b.id)));
        free
    }

    fn merge(&mut self, group: Vec<Arc<Entry>>, how: &str) {
        let Some((keep, rest)) = group.split_first() else { return };
        let mut members = vec![keep.clone()];
        for entry in rest {
            if members.len() > limits::MERGE_GROUP {
                self.plan.cut_short = true;
                break;
            }
            // What a memory came from and is tagged with must fit into the one that stays, whole.
            members.push(entry.clone());
            if merged(keep, members.get(1..).unwrap_or(&[])).check().is_err() {
                members.pop();
            }
        }
        if members.len() > 1 {
            let drop: Vec<MemoryId> = members.iter().skip(1).map(|entry| entry.id).collect();
            let named: Vec<String> = drop.iter().take(NAMED).map(MemoryId::to_string).collect();
            let more = drop.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let reason = format!("{how} {}{more}", named.join(", "));
            self.step(Change::Merge { keep: keep.id, drop }, reason, members);
        }
    }

    fn merge_equal(&mut self, entries: &Entries) {
        let mut groups: BTreeMap<u32, Vec<Arc<Entry>>> = BTreeMap::new();
        for (entry, _) in self.mergeable(entries) {
            groups
                .entry(hash_of(&entry.content, entry.session.as_deref(), entry.speaker.as_deref()))
                .or_default()
                .push(entry.clone());
        }
        for mut group in groups.into_values() {
            // Equal hashes are nearly always equal texts; what differs from the first is looked at again.
            while group.len() > 1 {
                let Some(first) = group.first() else { break };
                let text = normalised(&first.content);
                let equal = |entry: &Arc<Entry>| same_owner(entry, first) && normalised(&entry.content) == text;
                let (same, other) = group.iter().cloned().partition(equal);
                self.merge(same, "the same text as");
                group = other;
            }
        }
    }

    /// Facts merge with none that says something else, however alike: "Ann's birthday is 4 May" is nearly "Ann's birthday is 5 May".
    fn merge_similar(&mut self, entries: &Entries, least: f64, findings: &Findings) {
        let described = findings.claims();
        let claim =
            |entry: &Entry| Claim::of(entry).or_else(|| described.get(&entry.id).map(|claim| Claim::clone(claim)));
        type Owner<'e> = (Option<&'e str>, Option<&'e str>);
        let mut groups: BTreeMap<Owner, Vec<&(Arc<Entry>, u32)>> = BTreeMap::new();
        for member in self.mergeable(entries) {
            let (entry, _) = member;
            if entry.windows > 0 {
                groups.entry((entry.session.as_deref(), entry.speaker.as_deref())).or_default().push(member);
            }
        }
        let mut comparisons = 0;
        for group in groups.values() {
            for (n, (keep, slot)) in group.iter().enumerate() {
                if self.taken.contains(&keep.id) {
                    continue;
                }
                let vectors = self.view.stored_vectors(*slot);
                let kept = claim(keep);
                let mut alike = vec![keep.clone()];
                for (entry, slot) in group.iter().skip(n + 1) {
                    if entry.windows != keep.windows || self.taken.contains(&entry.id) {
                        continue;
                    }
                    comparisons += vectors.len();
                    if comparisons > limits::MERGE_COMPARISONS {
                        self.plan.cut_short = true;
                        return;
                    }
                    let others = self.view.stored_vectors(*slot);
                    if rows::pair_similarity(&vectors, &others).is_some_and(|cosine| cosine >= least)
                        && match (&kept, claim(entry)) {
                            (Some(one), Some(other)) => one.is_same(&other),
                            (one, other) => one.is_some() == other.is_some(),
                        }
                    {
                        alike.push(entry.clone());
                    }
                }
                self.merge(alike, &format!("a cosine of {least} or more to"));
            }
        }
    }

    fn revise(&mut self, entries: &Entries, findings: &Findings, rules: FactRules) {
        let history = self.view.history(self.now);
        let standing = entries.iter().map(|(entry, _)| entry.clone()).chain(history);
        for ((_, attribute, _), group) in claims::groups(standing, findings, rules) {
            let sources: Vec<MemoryId> = group.sources().collect();
            let busy = group.members().any(|id| self.taken.contains(&id));
            let Revised { revision, read, left, cut } = group.revise(rules, findings.embedded);
            let waits = revision.is_some() && (busy || self.plan.steps.len() >= self.limit);
            let rest = if waits { sources } else { left };
            self.plan.cut_short |= cut || waits || !rest.is_empty();
            self.postponed.extend(rest);
            if let Some(revision) = revision.filter(|_| !busy) {
                self.step(Change::Revise(Box::new(revision)), format!("what is known of {attribute}"), read);
            }
        }
    }

    /// What is to be summed up is not looked at by any other step but that which reads it: turns neither merge nor give way to facts.
    fn summarize(&mut self, findings: &Findings) {
        for summary in &findings.summaries {
            let reason = summary.reason();
            self.step(Change::Summarize(Box::new(summary.clone())), reason, summary.turns.clone());
        }
    }

    fn link(&mut self, findings: &Findings) {
        for (entry, links) in findings.kin.iter().filter(|(_, links)| !links.is_empty()) {
            if self.taken.contains(&entry.id) {
                continue;
            }
            let reasons: Vec<String> = links.iter().map(graph::Link::in_words).collect();
            self.step(Change::Link(links.clone()), reasons.join("; "), vec![entry.clone()]);
        }
    }

    /// What was read is not read again, except where a fact of it found no step; nor is looked for what resembles it.
    fn mark(&mut self, findings: &Findings) {
        let read = findings.read.iter().filter(|entry| !is_among(entry, &self.postponed)).cloned();
        self.mark_as(Marks::READ, read.collect());
        let alone = findings.kin.iter().filter(|(_, links)| links.is_empty());
        self.mark_as(Marks::LINKED, alone.map(|(entry, _)| entry.clone()).collect());
    }

    fn mark_as(&mut self, marks: Marks, done: Vec<Arc<Entry>>) {
        for entries in done.chunks(MARK_UNIT) {
            let ids = entries.iter().map(|entry| entry.id).collect();
            // Not a change that anyone sees: it counts against no limit.
            self.plan.steps.push(Step {
                change: Change::Mark(ids, marks),
                reason: String::new(),
                read: entries.to_vec(),
            });
        }
    }

    fn promote(&mut self, entries: &Entries, threshold: f64, what: &Consolidate) {
        let next_run = self.now.saturating_add(self.view.settings.consolidate_interval.saturating_mul(1000));
        let mut rising: Vec<(&Arc<Entry>, Tier, Millis)> = entries
            .iter()
            .filter(|(entry, _)| entry.importance >= threshold && !self.taken.contains(&entry.id))
            .filter_map(|(entry, _)| Some((entry, entry.tier.promotion(&entry.kind)?)))
            .filter(|(entry, target)| {
                what.from.is_none_or(|from| entry.tier == from) && what.to.is_none_or(|to| *target == to)
            })
            .map(|(entry, target)| (entry, target, entry.expires.filter(|at| *at <= next_run).unwrap_or(Millis::MAX)))
            .collect();
        rising.sort_by(|(a, _, a_ends), (b, _, b_ends)| {
            a_ends.cmp(b_ends).then(b.importance.total_cmp(&a.importance)).then(a.id.cmp(&b.id))
        });
        for (entry, to, ends) in rising {
            let soon = if ends < Millis::MAX { " and it would expire before the next run" } else { "" };
            let reason = format!("importance {} is at least {threshold}{soon}", entry.importance);
            self.step(Change::Promote { id: entry.id, from: entry.tier, to }, reason, vec![entry.clone()]);
        }
    }

    fn evict(&mut self, entries: &Entries) {
        for tier in Tier::ALL {
            let Some(capacity) = self.view.settings.capacity(tier) else { continue };
            let of_tier = |(entry, slot): &&(Arc<Entry>, u32)| {
                entry.tier == tier && (entry.pinned || !self.view.records.is_kept(*slot))
            };
            let standing: Vec<&(Arc<Entry>, u32)> = entries.iter().filter(of_tier).collect();
            let excess = standing.len().saturating_sub(capacity);
            let mut lowest: Vec<_> =
                standing.into_iter().filter(|(entry, _)| !entry.pinned && !self.taken.contains(&entry.id)).collect();
            lowest.sort_by_key(|(entry, slot)| (self.view.retention(*slot), entry.id));
            for (entry, _) in lowest.into_iter().take(excess) {
                let reason =
                    format!("{tier} is over its capacity of {capacity} and this has the lowest retention value");
                self.step(Change::Evict { id: entry.id }, reason, vec![entry.clone()]);
            }
        }
    }
}

/// Whether a memory that was read is to be read again: it, or, of a summary, a turn beneath it.
fn is_among(read: &Entry, again: &BTreeSet<MemoryId>) -> bool {
    again.contains(&read.id) || (*read.kind == *episodes::KIND && read.from.iter().any(|turn| again.contains(turn)))
}

fn same_owner(a: &Entry, b: &Entry) -> bool {
    a.session == b.session && a.speaker == b.speaker
}

/// What becomes of the first when the others go into it: the larger importance and confidence, pins, tags and provenance of all,
/// and the longest life with its tier, so that a merge never shortens what was to be kept.
fn merged(keep: &Entry, rest: &[Arc<Entry>]) -> Entry {
    let mut result = keep.clone();
    for entry in rest {
        result.importance = result.importance.max(entry.importance);
        result.confidence = result.confidence.max(entry.confidence);
        result.pinned |= entry.pinned;
        let tags: Vec<_> = entry.tags.iter().filter(|tag| !result.tags.contains(tag)).cloned().collect();
        result.tags.extend(tags);
        let from: Vec<_> = entry.from.iter().filter(|id| !result.from.contains(id)).copied().collect();
        result.from.extend(from);
        let life = |entry: &Entry| (entry.expires.unwrap_or(Millis::MAX), entry.tier);
        if life(entry) > life(&result) {
            (result.tier, result.entered) = (entry.tier, entry.entered);
            (result.expires, result.own_expiry) = (entry.expires, entry.own_expiry);
        }
    }
    result.from.retain(|id| *id != keep.id);
    result
}

impl Space {
    /// The effects of one step of a plan, to be applied together; None if anything that the plan saw has changed, or the step is
    /// no longer due. `passed_over` is carried from step to step: memories of which a fact was not taken in, so that they are read again.
    pub fn decide_step(&self, now: Millis, step: &Step, passed_over: &mut BTreeSet<MemoryId>) -> Option<Vec<Effect>> {
        let effects = self.decide(now, step, passed_over);
        if effects.is_none() && matches!(step.change, Change::Revise(_)) {
            passed_over.extend(step.memories());
        }
        effects
    }

    fn decide(&self, now: Millis, step: &Step, passed_over: &BTreeSet<MemoryId>) -> Option<Vec<Effect>> {
        let now_there = |id: MemoryId| self.view.records.entry(self.slot(id)?);
        // What a memory states does not depend on its vectors, which are made while it is read.
        let of_words =
            matches!(step.change, Change::Revise(_) | Change::Summarize(_) | Change::Link(_) | Change::Mark(..));
        let stands = |read: &Arc<Entry>| {
            let same = |entry: Entry| if of_words { entry.says_same(read) } else { entry.is_same(read) };
            now_there(read.id).is_some_and(same)
        };
        let first = step.read.first()?;
        if let Change::Mark(_, marks) = &step.change {
            let done = |read: &&Arc<Entry>| stands(read) && !(marks.read && is_among(read, passed_over));
            let ids: Vec<MemoryId> = step.read.iter().filter(done).map(|read| read.id).collect();
            let mark = || Effect::Mark { ids: ids.clone(), marks: *marks, on: true };
            return Some((!ids.is_empty()).then(mark).into_iter().collect());
        }
        if !step.read.iter().all(stands) {
            return None;
        }
        let alive = step.read.iter().all(|entry| !entry.is_expired(now));
        match &step.change {
            Change::Expire { id } => (!alive).then(|| removals(&[*id], Removal::Expired)),
            Change::Evict { id } => {
                let over = self
                    .config()
                    .capacity(first.tier)
                    .is_some_and(|capacity| self.occupied(first.tier, now) > capacity);
                (alive && over).then(|| removals(&[*id], Removal::Evicted))
            }
            // A tier full of pins takes nothing: the memory stays where it is.
            Change::Promote { to, .. } if alive => {
                self.move_to(now, first, *to).ok().filter(|effects| !effects.is_empty())
            }
            Change::Merge { keep, drop } if alive => Some(self.merge_effects(*keep, drop, &step.read)),
            // A tier full of pins takes no new fact: it is read again.
            Change::Revise(revision) if alive => {
                // Who has been read meanwhile has had its facts taken in by another run.
                let unread =
                    |read: &Arc<Entry>| now_there(read.id).is_some_and(|entry| entry.marks.read == read.marks.read);
                step.read.iter().all(unread).then(|| self.revise(now, revision).ok()).flatten()
            }
            Change::Summarize(summary) if alive => self.sum_up(now, summary).ok(),
            Change::Link(links) if alive => Some(self.link_kin(now, first.id, links)),
            Change::Promote { .. }
            | Change::Merge { .. }
            | Change::Revise(_)
            | Change::Summarize(_)
            | Change::Link(_)
            | Change::Mark(..) => None,
        }
    }

    fn merge_effects(&self, keep: MemoryId, drop: &[MemoryId], members: &[Arc<Entry>]) -> Vec<Effect> {
        fn changed<T: PartialEq>(new: T, old: &T) -> Option<T> {
            Some(new).filter(|new| new != old)
        }
        let Some((old, rest)) = members.split_first() else { return Vec::new() };
        let new = merged(old, rest);
        // Stored without an embedding and again with one: the one that stays gets it.
        let vectors = members.iter().find(|entry| old.windows == 0 && entry.windows > 0).and_then(|entry| {
            let slot = self.slot(entry.id)?;
            Some((entry.template, self.stored_vectors(slot), self.stored_signs(slot)))
        });
        // What one of those that go took the place of, the one that stays takes the place of.
        let stands = |id: &MemoryId| self.slot(*id).and_then(|slot| self.view.records.entry(slot));
        let older: Vec<(Superseded, MemoryId)> = rest
            .iter()
            .filter(|_| old.supersedes.is_none())
            .filter_map(|entry| stands(&entry.supersedes?))
            .filter(|older| !members.iter().any(|member| member.id == older.id))
            .filter_map(|older| Some((older.superseded?, older.id)))
            .filter(|(superseded, _)| drop.contains(&superseded.by))
            .collect();
        let patch = Patch {
            vectors,
            tier: changed((new.tier, new.entered), &(old.tier, old.entered)),
            expiry: changed((new.expires, new.own_expiry), &(old.expires, old.own_expiry)),
            importance: changed(new.importance, &old.importance),
            confidence: changed(new.confidence, &old.confidence),
            pinned: changed(new.pinned, &old.pinned),
            tags: changed(new.tags, &old.tags),
            from: changed(new.from, &old.from),
            supersedes: older.first().map(|(_, older)| Some(*older)),
            ..Patch::default()
        };
        let uses = members
            .iter()
            .fold(0u32, |uses, entry| uses.saturating_add(self.usage(entry.id).map_or(0, |(_, uses)| uses)));
        let accessed =
            members.iter().filter_map(|entry| self.usage(entry.id)).map(|(accessed, _)| accessed).max().unwrap_or(0);
        let mut effects = removals(drop, Removal::Merged);
        effects.extend(self.moved_links(keep, drop));
        if patch != Patch::default() {
            effects.push(Effect::Patch { id: keep, patch: Box::new(patch) });
        }
        // What was made of one of those that go was made of the one that stays.
        let made = drop.iter().filter_map(|id| self.slot(*id)).flat_map(|slot| self.view.made_of(slot));
        let made: BTreeMap<MemoryId, Entry> = made.map(|(_, made)| (made.id, made)).collect();
        for (id, made) in made.into_iter().filter(|(id, _)| !members.iter().any(|member| member.id == *id)) {
            let mut from: Vec<MemoryId> = Vec::new();
            for source in made.from {
                let source = if drop.contains(&source) { keep } else { source };
                if !from.contains(&source) {
                    from.push(source);
                }
            }
            effects.push(Effect::Patch { id, patch: Box::new(Patch { from: Some(from), ..Patch::default() }) });
        }
        effects.extend(older.into_iter().map(|(superseded, id)| {
            let superseded = Some(Some(Superseded { by: keep, ..superseded }));
            Effect::Patch { id, patch: Box::new(Patch { superseded, ..Patch::default() }) }
        }));
        effects.push(Effect::Use(vec![(keep, accessed, uses)]));
        effects
    }
}
