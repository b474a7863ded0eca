//! From memories to findings: what a consolidation is told of the facts that memories state.

use super::{Fact, Refusal, extract, is_single, lexicon};
use crate::context::Turn;
use engram_memory::{Claim, Entry, FactRules, Finding, Findings, MemoryId, Tier, Unread};
use std::sync::Arc;

/// Bytes of a text without a speaker that may be one fact: of a longer one nobody can say what it claims.
const ONE_FACT: usize = 240;
/// How sure a fact is that somebody says of himself, and one that is said of another.
const OF_ONESELF: f64 = 0.9;
const OF_OTHERS: f64 = 0.7;

/// What was not taken from a memory, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The memory.
    pub id: MemoryId,
    /// Why.
    pub why: Refusal,
    /// The part of the text.
    pub text: String,
}

/// Reads memories. `embedded`: whether those of the space have vectors that a model makes.
pub fn findings(unread: &[Unread], embedded: bool) -> (Findings, Vec<Refused>) {
    let mut found = Findings { embedded, ..Findings::default() };
    let mut refused = Vec::new();
    for Unread { entry, before } in unread {
        found.read.push(entry.clone());
        if Claim::of(entry).is_some() {
            continue;
        }
        let said = is_said(entry);
        let plain =
            matches!(&*entry.kind, "fact" | "preference" | "context" | "event") && entry.content.len() <= ONE_FACT;
        if !said && !plain {
            continue;
        }
        let before: Vec<_> = before.iter().map(|before| Turn::of(before)).collect();
        let read = extract(&Turn::of(entry), &before);
        for (why, range) in read.refused {
            let text = entry.content.get(range).unwrap_or_default().chars().take(80).collect();
            refused.push(Refused { id: entry.id, why, text });
        }
        if said {
            // Nobody needs "Ann's name is Ann": whoever has a name as a speaker is known by it.
            let news = read.facts.into_iter().filter(|fact| fact.attribute != "name" || fact.subject != fact.value);
            found.facts.extend(news.map(|fact| {
                let confidence = if is_own(&fact, entry) { OF_ONESELF } else { OF_OTHERS };
                finding(fact, confidence, entry)
            }));
        } else if let [fact] = read.facts.as_slice() {
            // A caller's own words for one fact: they stand, and what they claim is noted beside them.
            found.described.push((entry.clone(), claim_of(fact.clone())));
        }
    }
    (found, refused)
}

/// What attributes mean to each other.
pub fn fact_rules() -> FactRules {
    FactRules {
        is_single,
        opposite: |attribute| match attribute {
            "likes" => Some("dislikes"),
            "dislikes" => Some("likes"),
            _ => None,
        },
    }
}

/// Whether a memory is what somebody said, rather than a caller's own words.
pub(super) fn is_said(entry: &Entry) -> bool {
    entry.role.is_some() || &*entry.kind == "message"
}

/// A fact as a memory that it becomes.
pub(super) fn finding(fact: Fact, confidence: f64, source: &Arc<Entry>) -> Finding {
    Finding {
        content: fact.sentence(),
        kind: kind_of(&fact.attribute),
        tier: if fact.attribute == "plan" { Tier::Episodic } else { Tier::Semantic },
        importance: importance_of(&fact.attribute),
        confidence,
        claim: claim_of(fact),
        source: source.clone(),
    }
}

fn claim_of(fact: Fact) -> Claim {
    Claim { subject: fact.subject, attribute: fact.attribute, value: fact.value, ended: fact.ended }
}

fn is_own(fact: &Fact, entry: &Entry) -> bool {
    fact.subject == entry.speaker.as_deref().unwrap_or(lexicon::NOBODY)
}

/// TYPE of the memory that a fact becomes.
fn kind_of(attribute: &str) -> &'static str {
    match attribute {
        "likes" | "dislikes" | "diet" => "preference",
        "plan" => "event",
        _ if attribute.starts_with("favorite ") => "preference",
        _ => "fact",
    }
}

/// What harms most if it is forgotten counts most.
fn importance_of(attribute: &str) -> f64 {
    match attribute {
        "allergic_to" => 0.9,
        "name" | "birthday" | "diet" | "wife" | "husband" | "partner" | "son" | "daughter" | "mother" | "father"
        | "brother" | "sister" => 0.8,
        "lives_in" | "works_as" | "works_at" | "from" | "studies" | "studies_at" | "age" | "speaks" | "pet" => 0.75,
        _ if attribute.starts_with("date of ") => 0.7,
        _ => 0.6,
    }
}
