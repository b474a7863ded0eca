//! What is wrong with a space: duplicates, contradictions, facts without ground, and what is stale. It reads and changes nothing.
//!
//! Duplicates and contradictions are what a consolidation would settle now, and contradictions that it leaves standing because one side is confirmed. So
//! an audit after a consolidation shows what needs a person.

use crate::claims::{self, Claim, FactRules, Findings, Topic};
use crate::consolidate::{Change, Consolidate};
use crate::entry::Entry;
use crate::episodes;
use crate::settings::Eviction;
use crate::snapshot::Snapshot;
use crate::text::normalised;
use crate::{MemoryId, Millis, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A memory of a tier without a lifetime is stale when nobody has used it for so long.
const LONG: Millis = 180 * 86_400_000;
/// Below this importance what nobody uses is stale.
const UNIMPORTANT: f64 = 0.5;
/// How long it is so what is said of an age or a plan.
const YEAR: Millis = 365 * 86_400_000;

/// Memories with something wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// The memories, in order.
    pub ids: Vec<MemoryId>,
    /// What is wrong with them.
    pub reason: String,
}

/// What an audit found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// Memories that say the same.
    pub duplicates: Vec<Flaw>,
    /// Facts of which one at most can be so.
    pub contradictory: Vec<Flaw>,
    /// What says where it came from, and nothing of that stands; facts that their sources do not say.
    pub ungrounded: Vec<Flaw>,
    /// What has not been used for long, may not be so any more, or has vectors of an older kind.
    pub stale: Vec<Flaw>,
}

impl Snapshot {
    /// Audits the space. `is_grounded` says whether the first text has its words from the second.
    pub fn audit(&self, now: Millis, rules: FactRules, is_grounded: &dyn Fn(&str, &str) -> bool) -> Result<Audit> {
        let mut audit = Audit::default();
        let plan =
            self.plan_consolidation(now, &Consolidate { rules, ..Consolidate::default() }, &Findings::default())?;
        for step in &plan.steps {
            if let Change::Merge { keep, drop } = &step.change {
                let mut ids = vec![*keep];
                ids.extend(drop);
                ids.sort_unstable();
                audit.duplicates.push(Flaw { ids, reason: step.reason.clone() });
            }
        }
        let entries: Vec<Entry> = self
            .records
            .iter()
            .filter(|slot| !self.records.is_expired(*slot, now) && self.records.superseded_at(*slot).is_none())
            .filter_map(|slot| self.records.entry(slot))
            .collect();
        audit.contradictory = contradictory(&entries, rules);
        let slots: HashMap<MemoryId, u32> = self.records.iter().map(|slot| (self.id(slot), slot)).collect();
        for entry in &entries {
            let add = |reason: String| Flaw { ids: vec![entry.id], reason };
            if let Some(reason) = self.ground(now, entry, &slots, is_grounded) {
                audit.ungrounded.push(add(reason));
            }
            if let Some(reason) = self.staleness(now, entry) {
                audit.stale.push(add(reason));
            }
        }
        for list in [&mut audit.duplicates, &mut audit.ungrounded, &mut audit.stale] {
            list.sort_by(|a, b| a.ids.cmp(&b.ids));
        }
        Ok(audit)
    }

    /// Why a memory that says where it came from has no ground.
    fn ground(
        &self,
        now: Millis,
        entry: &Entry,
        slots: &HashMap<MemoryId, u32>,
        is_grounded: &dyn Fn(&str, &str) -> bool,
    ) -> Option<String> {
        // Summaries are made to outlive their turns.
        if entry.from.is_empty() || *entry.kind == *episodes::KIND {
            return None;
        }
        let stands = |id: &MemoryId| slots.get(id).copied().filter(|slot| !self.records.is_expired(*slot, now));
        let sources: Vec<u32> = entry.from.iter().filter_map(stands).collect();
        if sources.is_empty() {
            let number = entry.from.len();
            return Some(format!("none of the {number} memories that it was made from stands"));
        }
        let claim = Claim::of(entry)?;
        let says = |slot: &u32| {
            self.records.record(*slot).is_some_and(|record| is_grounded(&claim.value, &record.content.text()))
        };
        (!sources.iter().any(says)).then(|| format!("no memory that it was made from says '{}'", claim.value))
    }

    fn staleness(&self, now: Millis, entry: &Entry) -> Option<String> {
        if let Some(claim) = Claim::of(entry)
            && matches!(&*claim.attribute, "age" | "plan")
            && now.saturating_sub(entry.at) > YEAR
        {
            return Some(format!("what is said of {} holds no longer than a year", claim.attribute));
        }
        let template = self.settings.template.version();
        if entry.template != 0 && entry.template != template {
            return Some(format!("it was embedded by template {}, and now it would be by {template}", entry.template));
        }
        let life = self.settings.tier(entry.tier).ttl.saturating_mul(1000);
        let rest = if life > 0 { life } else { LONG };
        let unused = now.saturating_sub(entry.accessed.max(entry.created));
        let by_value = self.settings.eviction == Eviction::Value;
        (by_value && !entry.pinned && entry.importance < UNIMPORTANT && unused > rest)
            .then(|| format!("importance {} and not used for {} days", entry.importance, unused / 86_400_000))
    }
}

/// Facts that exclude each other and stand: several values of what has one at a time, or a taste and its opposite.
fn contradictory(entries: &[Entry], rules: FactRules) -> Vec<Flaw> {
    let mut groups: BTreeMap<Topic, Vec<(&Entry, Claim)>> = BTreeMap::new();
    for entry in entries {
        if let Some(claim) = Claim::of(entry).filter(|claim| !claim.ended) {
            groups.entry(claims::topic(&claim, rules)).or_default().push((entry, claim));
        }
    }
    let several = groups.into_iter().filter_map(|((subject, attribute, _), facts)| {
        let distinct = |text: fn(&Claim) -> &str| -> BTreeSet<String> {
            facts.iter().map(|(_, claim)| normalised(text(claim))).collect()
        };
        let joined = |texts: &BTreeSet<String>| texts.iter().map(String::as_str).collect::<Vec<_>>().join(", and ");
        let (values, attributes) = (distinct(|claim| &claim.value), distinct(|claim| &claim.attribute));
        let reason = match (values.len(), attributes.len()) {
            (..=1, ..=1) => return None,
            (..=1, _) => format!("{subject} is said to be one that {} {}", joined(&attributes), joined(&values)),
            _ => format!("{attribute} of {subject} is said to be {}", joined(&values)),
        };
        let mut ids: Vec<MemoryId> = facts.iter().map(|(entry, _)| entry.id).collect();
        ids.sort_unstable();
        Some(Flaw { ids, reason })
    });
    several.collect()
}
