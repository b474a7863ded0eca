//! Facts that can contradict each other: how what was learned becomes memory.
//!
//! A fact is a memory whose META says `subject`, `attribute` and `value`, whoever wrote it: the extractor, or a caller. Facts of one subject and attribute
//! belong together; of an attribute with many values at once, those of one value, for no others bear on each other. [`Snapshot::plan_consolidation`] brings each such
//! group into order, in one step that is committed as a whole:
//!
//! * What says the same is one fact: the first stands, and gains sources and confidence.
//! * Of an attribute with one value at a time the newest counts. The older one is superseded: out of recall, and still there for HISTORY and ASOF. What is
//!   said late about an earlier time becomes history at once.
//! * A fact that has ended supersedes the one that it ends, and the opposite of a taste supersedes the taste.
//! * A weak newcomer does not overwrite what is confirmed: both stand until one of them is confirmed, and the report says so.
//!
//! What is the same, single or opposite is for the caller to say ([`FactRules`]): the engine knows no words.
//!
//! **Confidence.** Of independent sources that each are right with probability *p* at least one is right with 1 - ∏(1 - p): so another source raises the
//! confidence of a fact. It stays below 1, which is what callers give.
//!
//! Rejected: facts as a kind of their own beside memories (recall, tiers, forgetting and export would all need to know them), and finding contradictions
//! by similarity (`Ann lives in Rome` is as similar to `Bo lives in Rome`).

use crate::derived;
use crate::effect::{Effect, Patch};
use crate::entry::{Entry, Marks, Meta, Superseded};
use crate::episodes::Summary;
use crate::graph::Link;
use crate::space::{Space, duplicate_item, hash_of};
use crate::store::{Beside, Dedup, NewMemory};
use crate::text::normalised;
use crate::{MemoryId, Millis, Tier, limits};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// From this confidence on a fact is confirmed.
const CONFIRMED: f64 = 0.9;
/// So far below a confirmed fact a contradiction is weak.
const WEAKER: f64 = 0.15;
/// The most that sources can make of a confidence.
const MOST_CONFIDENT: f64 = 0.99;
/// Facts of one group that a step brings into order, at most half of them new; what is beyond waits for the next run.
const GROUP: usize = 64;

/// What a fact says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Who or what it is about.
    pub subject: String,
    /// What is said of it.
    pub attribute: String,
    /// The value.
    pub value: String,
    /// Whether it is so no more.
    pub ended: bool,
}

impl Claim {
    /// What the META of a memory claims; None if it has no such fields, or is a turn or a chunk.
    pub fn of(entry: &Entry) -> Option<Claim> {
        let meta = entry.meta.as_ref().filter(|_| entry.role.is_none() && entry.passage.is_none())?;
        let text = |name: &str| meta.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Claim {
            subject: text("subject")?,
            attribute: text("attribute")?,
            value: text("value")?,
            ended: meta.get("ended").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// META that claims it.
    pub fn meta(&self) -> Meta {
        let mut meta = Meta::new();
        for (name, text) in [("subject", &self.subject), ("attribute", &self.attribute), ("value", &self.value)] {
            meta.insert(name.to_owned(), Value::from(text.as_str()));
        }
        if self.ended {
            meta.insert("ended".to_owned(), Value::from(true));
        }
        meta
    }

    /// Whether both say the same, in other letters at most.
    pub(crate) fn is_same(&self, other: &Claim) -> bool {
        self.says_as(other)
            && self.ended == other.ended
            && self.attribute.eq_ignore_ascii_case(&other.attribute)
            && normalised(&self.subject) == normalised(&other.subject)
    }

    fn says_as(&self, other: &Claim) -> bool {
        normalised(&self.value) == normalised(&other.value)
    }

    /// The META of a memory with what it claims noted in it. None where the memory has a field of one of these names for something of its own, or no room.
    pub(crate) fn noted_in(&self, entry: &Entry) -> Option<Meta> {
        let mut meta = entry.meta.clone().unwrap_or_default();
        if ["subject", "attribute", "value", "ended"].iter().any(|name| meta.contains_key(*name)) {
            return None;
        }
        meta.extend(self.meta());
        let entry = Entry { meta: Some(meta), ..entry.clone() };
        entry.check().is_ok().then_some(entry.meta)?
    }
}

/// What the words of facts mean to each other.
#[derive(Debug, Clone, Copy)]
pub struct FactRules {
    /// Whether an attribute has one value at a time.
    pub is_single: fn(&str) -> bool,
    /// The attribute of which this one is the opposite, if there is one.
    pub opposite: fn(&str) -> Option<&'static str>,
}

impl Default for FactRules {
    /// Every attribute has one value at a time, and none an opposite.
    fn default() -> FactRules {
        FactRules { is_single: |_| true, opposite: |_| None }
    }
}

/// A fact that a memory states.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What it says.
    pub claim: Claim,
    /// The same as a sentence: the content of the memory that it becomes.
    pub content: String,
    /// TYPE of that memory.
    pub kind: &'static str,
    /// Its tier.
    pub tier: Tier,
    /// Its importance.
    pub importance: f64,
    /// How sure it is, by this source alone.
    pub confidence: f64,
    /// What states it.
    pub source: Arc<Entry>,
}

impl PartialEq for Finding {
    /// The same statement of the same memory.
    fn eq(&self, other: &Finding) -> bool {
        (&self.claim, &self.content, self.source.id) == (&other.claim, &other.content, other.source.id)
    }
}

/// What was found out beforehand, by reading memories, embedding and asking models: what a plan needs and the engine cannot know.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// The facts, in the order of their sources.
    pub facts: Vec<Finding>,
    /// Facts that callers stored as plain text, and what they say.
    pub described: Vec<(Arc<Entry>, Claim)>,
    /// What was read, whether it states something or not.
    pub read: Vec<Arc<Entry>>,
    /// What turns come to: see [`crate::Episode`].
    pub summaries: Vec<Summary>,
    /// Memories and what they are to be linked to: see [`crate::Kin`].
    pub kin: Vec<(Arc<Entry>, Vec<Link>)>,
    /// Whether new memories wait for vectors: the space is embedded.
    pub embedded: bool,
}

impl Findings {
    /// What plain texts of callers were found to say.
    pub(crate) fn claims(&self) -> BTreeMap<MemoryId, &Claim> {
        self.described.iter().map(|(entry, claim)| (entry.id, claim)).collect()
    }
}

/// A memory that a revision makes.
#[derive(Debug, Clone, PartialEq)]
pub struct NewFact {
    /// Its first source, and what is the same with all.
    pub finding: Finding,
    /// The other sources.
    pub more: Vec<MemoryId>,
    /// How sure it is by all of them.
    pub confidence: f64,
}

/// A fact in a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// One that stands.
    Standing(MemoryId),
    /// One of [`Revision::new`].
    New(usize),
}

/// What becomes of the facts of one subject and attribute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Revision {
    /// Facts that are new, in order of time.
    pub new: Vec<NewFact>,
    /// Facts that gain sources: the sources that they have then, and their confidence.
    pub confirmed: Vec<(MemoryId, Vec<MemoryId>, f64)>,
    /// What is superseded, by what, and from when on.
    pub superseded: Vec<(Who, Who, Millis)>,
    /// New facts that contradict a confirmed one and stand beside it.
    pub contested: Vec<(usize, Who)>,
    /// What the facts of callers say, to be noted in their META.
    pub described: Vec<(MemoryId, Claim)>,
    /// Whether new memories wait for vectors.
    pub embedded: bool,
}

impl Revision {
    fn is_empty(&self) -> bool {
        self.new.is_empty() && self.confirmed.is_empty() && self.superseded.is_empty() && self.described.is_empty()
    }
}

/// What becomes of a group.
pub(crate) struct Revised {
    /// None if all is well.
    pub revision: Option<Revision>,
    /// The memories that this was decided on.
    pub read: Vec<Arc<Entry>>,
    /// What was to be noted or learned and was more than a step takes: the memories that say it.
    pub left: Vec<MemoryId>,
    /// Whether facts that stand were not looked at.
    pub cut: bool,
}

/// What a group is about: the subject, the attribute, and the value of an attribute that has many at once.
pub(crate) type Topic = (String, String, Option<String>);

/// The facts of one topic, those that stand and those that were found.
#[derive(Default)]
pub(crate) struct Group {
    standing: Vec<(Arc<Entry>, Claim, bool)>,
    found: Vec<Finding>,
}

/// A fact while a group is brought into order.
struct Fact {
    who: Who,
    claim: Claim,
    at: Millis,
    confidence: f64,
    sources: Vec<MemoryId>,
    grown: bool,
    /// What follows it, and when.
    until: Option<(Who, Millis)>,
    /// The same, of what followed it and is not there any more, or corrected it from the beginning: it stays history.
    over: Option<(Who, Millis)>,
}

/// What a claim is about; an attribute and its opposite are one.
pub(crate) fn topic(claim: &Claim, rules: FactRules) -> Topic {
    let attribute = claim.attribute.to_lowercase();
    let opposite = (rules.opposite)(&attribute);
    let single = (rules.is_single)(&attribute) || opposite.is_some_and(rules.is_single);
    let value = (!single).then(|| normalised(&claim.value));
    let first = opposite.filter(|other| *other < attribute.as_str()).map(str::to_owned);
    (normalised(&claim.subject), first.unwrap_or(attribute), value)
}

/// Facts by topic.
pub(crate) fn groups(
    entries: impl Iterator<Item = Arc<Entry>>,
    findings: &Findings,
    rules: FactRules,
) -> BTreeMap<Topic, Group> {
    let described = findings.claims();
    let mut groups: BTreeMap<_, Group> = BTreeMap::new();
    for entry in entries {
        let noted = Claim::of(&entry);
        let fresh = noted.is_none();
        let described = || described.get(&entry.id).filter(|claim| claim.noted_in(&entry).is_some());
        if let Some(claim) = noted.or_else(|| described().map(|claim| Claim::clone(claim))) {
            groups.entry(topic(&claim, rules)).or_default().standing.push((entry, claim, fresh));
        }
    }
    for finding in &findings.facts {
        groups.entry(topic(&finding.claim, rules)).or_default().found.push(finding.clone());
    }
    groups
}

impl Group {
    /// The memories that were read for something which is to be noted or learned here.
    pub(crate) fn sources(&self) -> impl Iterator<Item = MemoryId> {
        let fresh = self.standing.iter().filter(|(.., fresh)| *fresh).map(|(entry, ..)| entry.id);
        self.found.iter().map(|finding| finding.source.id).chain(fresh)
    }

    /// The facts that stand.
    pub(crate) fn members(&self) -> impl Iterator<Item = MemoryId> {
        self.standing.iter().map(|(entry, ..)| entry.id)
    }

    /// What becomes of it.
    ///
    /// All facts are looked at in the order in which they were true, history with them: so what is learned late finds its place in it.
    pub(crate) fn revise(mut self, rules: FactRules, embedded: bool) -> Revised {
        self.standing.sort_by_key(|(entry, ..)| (entry.superseded.is_none(), entry.at, entry.id));
        self.found.sort_by_key(|found| (found.source.at, found.source.id));
        let mut left: Vec<MemoryId> = self.found.iter().skip(GROUP / 2).map(|finding| finding.source.id).collect();
        self.found.truncate(GROUP / 2);
        // Of a long history the oldest is not looked at, nor are the oldest of more facts than a step takes.
        let beyond = self.standing.len().saturating_sub(GROUP - self.found.len());
        let cut = self.standing.iter().take(beyond).any(|(entry, ..)| entry.superseded.is_none());
        left.extend(self.standing.drain(..beyond).filter(|(.., fresh)| *fresh).map(|(entry, ..)| entry.id));
        let there: BTreeSet<MemoryId> = self.standing.iter().map(|(entry, ..)| entry.id).collect();

        let mut revision = Revision { embedded, ..Revision::default() };
        let mut read: Vec<Arc<Entry>> = Vec::new();
        let mut facts: Vec<Fact> = Vec::new();
        for (entry, claim, fresh) in self.standing {
            if fresh {
                revision.described.push((entry.id, claim.clone()));
            }
            facts.push(Fact {
                who: Who::Standing(entry.id),
                claim,
                at: entry.at,
                confidence: entry.confidence,
                sources: entry.from.clone(),
                grown: false,
                until: None,
                over: entry
                    .superseded
                    .filter(|superseded| !there.contains(&superseded.by) || superseded.at <= entry.at)
                    .map(|superseded| (Who::Standing(superseded.by), superseded.at)),
            });
            read.push(entry);
        }
        facts.sort_by_key(|fact| fact.at);
        for finding in self.found {
            if !read.iter().any(|entry| entry.id == finding.source.id) {
                read.push(finding.source.clone());
            }
            let at = finding.source.at;
            settle_all(&mut facts, rules);
            // What is true then, or will be next with nothing else between, and says the same.
            let next = |fact: &Fact| {
                let between = |other: &&Fact| at <= other.at && other.at <= fact.at;
                facts.iter().filter(between).all(|other| other.claim.is_same(&fact.claim))
            };
            let same = |fact: &Fact| {
                fact.claim.is_same(&finding.claim)
                    && fact.until.is_none_or(|(_, until)| at < until)
                    && (fact.at <= at || fact.sources.contains(&finding.source.id) || next(fact))
            };
            let known = facts.iter().position(same);
            if let Some(fact) = known.and_then(|place| facts.get_mut(place)) {
                confirm(fact, &finding, &mut revision);
                continue;
            }
            let fact = Fact {
                who: Who::New(revision.new.len()),
                claim: finding.claim.clone(),
                at,
                confidence: finding.confidence,
                sources: vec![finding.source.id],
                grown: false,
                until: None,
                over: None,
            };
            let confidence = finding.confidence;
            revision.new.push(NewFact { finding, more: Vec::new(), confidence });
            let place = facts.partition_point(|other| other.at <= at);
            facts.insert(place, fact);
        }
        revision.contested = settle_all(&mut facts, rules);
        let now = |id: MemoryId| read.iter().find(|entry| entry.id == id).and_then(|entry| entry.superseded);
        for fact in facts {
            if let Some((by, at)) = fact.until {
                let by_id = if let Who::Standing(id) = by { Some(id) } else { None };
                let known = match fact.who {
                    Who::Standing(id) => now(id).is_some_and(|known| known.at == at && Some(known.by) == by_id),
                    Who::New(_) => false,
                };
                if !known {
                    revision.superseded.push((fact.who, by, at));
                }
            }
            if let Who::Standing(id) = fact.who
                && fact.grown
            {
                revision.confirmed.push((id, fact.sources, fact.confidence));
            }
        }
        Revised { revision: (!revision.is_empty()).then_some(revision), read, left, cut }
    }
}

/// Another source says what a fact says.
fn confirm(fact: &mut Fact, finding: &Finding, revision: &mut Revision) {
    if fact.sources.contains(&finding.source.id) || fact.sources.len() >= limits::FROM {
        return;
    }
    fact.sources.push(finding.source.id);
    fact.grown = true;
    if fact.confidence < MOST_CONFIDENT {
        fact.confidence = (1.0 - (1.0 - fact.confidence) * (1.0 - finding.confidence)).min(MOST_CONFIDENT);
    }
    if let Who::New(n) = fact.who
        && let Some(new) = revision.new.get_mut(n)
    {
        new.more.push(finding.source.id);
        new.confidence = fact.confidence;
    }
}

/// Until when each fact is so, and what follows it: from the facts in the order of time. Gives the new facts that contradict a confirmed one, with that.
fn settle_all(facts: &mut [Fact], rules: FactRules) -> Vec<(usize, Who)> {
    let mut contested = Vec::new();
    for n in 0..facts.len() {
        let (older, rest) = facts.split_at_mut(n);
        let Some(new) = rest.first_mut() else { break };
        new.until = new.over;
        // What was corrected was never so, and took the place of nothing.
        if new.over.is_some_and(|(_, at)| at <= new.at) {
            continue;
        }
        let single = (rules.is_single)(&new.claim.attribute.to_lowercase());
        for old in older.iter_mut().filter(|old| old.until.is_none()) {
            let same = old.claim.says_as(&new.claim);
            let alike = old.claim.attribute.eq_ignore_ascii_case(&new.claim.attribute);
            let replaces = match (old.claim.ended, new.claim.ended) {
                // It ends what was so, or is so again; or the taste has turned.
                _ if same => old.claim.ended != new.claim.ended || !alike,
                (false, false) => single && alike,
                _ => false,
            };
            let weak =
                old.confidence >= CONFIRMED && new.confidence < CONFIRMED && new.confidence < old.confidence - WEAKER;
            match (replaces, weak) {
                (true, false) => old.until = Some((new.who, new.at)),
                (true, true) => {
                    if let Who::New(n) = new.who {
                        contested.push((n, old.who));
                    }
                }
                (false, _) => {}
            }
        }
    }
    contested
}

impl Space {
    /// Whether a fact stands that was found in the same memory, in the same words.
    fn is_taken_in(&self, now: Millis, finding: &Finding) -> bool {
        let content = finding.content.as_str();
        let hash = hash_of(content, None, None);
        let (first, last) = (duplicate_item(hash, 0), duplicate_item(hash, u32::MAX));
        let mut hashed = self.duplicates.range(first, last, |item| item).map(|item| item as u32);
        hashed.any(|slot| {
            let entry =
                self.view.records.entry(slot).filter(|entry| entry.superseded.is_none() && !entry.is_expired(now));
            entry.is_some_and(|entry| {
                *entry.content == *content && Claim::of(&entry).is_some() && entry.from.contains(&finding.source.id)
            })
        })
    }

    /// When a fact of a revision was so.
    fn said_at(&self, revision: &Revision, ids: &[MemoryId], id: MemoryId) -> Millis {
        let new = ids.iter().zip(&revision.new).find(|(new, _)| **new == id);
        let standing = || self.slot(id).and_then(|slot| self.view.records.entry(slot)).map(|entry| entry.at);
        new.map(|(_, fact)| fact.finding.source.at).or_else(standing).unwrap_or_default()
    }

    /// What each fact takes the place of. One that takes the place of several, now or before, takes that of the last of them, and each of those that of the one
    /// before it: so all stand in one line of versions.
    fn in_line(
        &self,
        revision: &Revision,
        ids: &[MemoryId],
        replaced: BTreeMap<MemoryId, BTreeSet<(Millis, MemoryId)>>,
    ) -> BTreeMap<MemoryId, MemoryId> {
        let there = |id: &MemoryId| self.slot(*id).is_some();
        let known =
            |id: MemoryId| self.slot(id).and_then(|slot| self.view.records.entry(slot)?.supersedes).filter(there);
        let mut line: BTreeMap<MemoryId, MemoryId> = BTreeMap::new();
        let mut between = Vec::new();
        for (by, mut olds) in replaced {
            olds.extend(known(by).map(|old| (self.said_at(revision, ids, old), old)));
            let olds: Vec<MemoryId> = olds.into_iter().map(|(_, old)| old).collect();
            between.extend(olds.windows(2).filter_map(|pair| Some((*pair.get(1)?, *pair.first()?))));
            line.extend(olds.last().map(|last| (by, *last)));
        }
        for (newer, older) in between {
            // Behind all that the newer one has in its line by now, unless the older one is there.
            let back = |id: &MemoryId| line.get(id).copied().or_else(|| known(*id));
            let behind = |id: MemoryId| std::iter::successors(Some(id), back).take(limits::K);
            if let Some(last) = behind(newer).last()
                && !behind(newer).any(|id| id == older)
                && !behind(older).any(|id| id == last)
            {
                line.insert(last, older);
            }
        }
        line
    }

    /// The effects of a revision whose memories stand as they were read.
    pub(crate) fn revise(&self, now: Millis, revision: &Revision) -> crate::Result<Vec<Effect>> {
        let mut ids: Vec<MemoryId> = Vec::new();
        let mut last = self.last_id;
        for _ in &revision.new {
            last = last.following(now).ok_or_else(|| crate::Error::new("the ids of this space are used up"))?;
            ids.push(last);
        }
        // Another run has taken it in, and has not come to note what it read.
        if revision.new.iter().any(|fact| self.is_taken_in(now, &fact.finding)) {
            return Err(crate::Error::new("a fact of this text stands"));
        }
        let id_of = |who: Who| match who {
            Who::Standing(id) => Some(id),
            Who::New(n) => ids.get(n).copied(),
        };
        let mut patches: BTreeMap<MemoryId, Patch> = BTreeMap::new();
        let mut replaced: BTreeMap<MemoryId, BTreeSet<(Millis, MemoryId)>> = BTreeMap::new();
        for (old, by, at) in &revision.superseded {
            let (Some(old), Some(by)) = (id_of(*old), id_of(*by)) else { continue };
            patches.entry(old).or_default().superseded = Some(Some(Superseded { by, at: *at }));
            replaced.entry(by).or_default().insert((self.said_at(revision, &ids, old), old));
        }
        let supersedes = self.in_line(revision, &ids, replaced);
        for (id, from, confidence) in &revision.confirmed {
            let patch = patches.entry(*id).or_default();
            (patch.from, patch.confidence) = (Some(from.clone()), Some(*confidence));
        }
        for (id, claim) in &revision.described {
            let entry = self.slot(*id).and_then(|slot| self.view.records.entry(slot));
            if let Some(meta) = entry.and_then(|entry| claim.noted_in(&entry)) {
                patches.entry(*id).or_default().meta = Some(Some(meta));
            }
        }
        for (by, old) in &supersedes {
            if !ids.contains(by) {
                patches.entry(*by).or_default().supersedes = Some(Some(*old));
            }
        }
        let stored = revision.new.iter().zip(&ids).map(|(fact, id)| NewMemory {
            id: Some(*id),
            tier: Some(fact.finding.tier),
            content: fact.finding.content.clone(),
            importance: Some(fact.finding.importance),
            confidence: Some(fact.confidence),
            kind: Some(fact.finding.kind.to_owned()),
            from: std::iter::once(fact.finding.source.id).chain(fact.more.iter().copied()).collect(),
            at: Some(fact.finding.source.at),
            meta: Some(fact.finding.claim.meta()),
            dedup: Dedup::Off,
            awaits: revision.embedded,
            marks: Marks::READ,
            ..NewMemory::default()
        });
        let stored: Vec<NewMemory> = stored.collect();
        let standing = |who: &Who| if let Who::Standing(id) = who { Some(*id) } else { None };
        let beside = Beside {
            leaving: revision.superseded.iter().filter_map(|(old, ..)| standing(old)).collect(),
            spared: patches.keys().copied().chain(supersedes.keys().copied()).collect(),
        };
        let mut effects = if stored.is_empty() { Vec::new() } else { self.store_beside(now, stored, &beside)?.1 };
        for effect in &mut effects {
            if let Effect::Put { entry, .. } = effect
                && let Some(patch) = patches.remove(&entry.id)
            {
                // A new fact that is history already.
                entry.superseded = patch.superseded.flatten();
            }
            if let Effect::Put { entry, .. } = effect {
                entry.supersedes = supersedes.get(&entry.id).copied();
            }
        }
        let patches = patches.into_iter().filter(|(id, _)| self.slot(*id).is_some());
        effects.extend(patches.map(|(id, patch)| Effect::Patch { id, patch: Box::new(patch) }));
        // What is noted of them makes them others than those that were read: nobody need read them once more.
        let described: Vec<MemoryId> = revision.described.iter().map(|(id, _)| *id).collect();
        if !described.is_empty() {
            effects.push(Effect::Mark { ids: described, marks: Marks::READ, on: true });
        }
        for (fact, id) in revision.new.iter().zip(&ids) {
            let from: Vec<MemoryId> =
                std::iter::once(fact.finding.source.id).chain(fact.more.iter().copied()).collect();
            derived::link_all(self, now, &mut effects, *id, &from, derived::LEARNED);
        }
        for (id, from, _) in &revision.confirmed {
            derived::link_all(self, now, &mut effects, *id, from, derived::LEARNED);
        }
        Ok(effects)
    }
}
