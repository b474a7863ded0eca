//! What a consolidation says that it did.

use std::sync::atomic::Ordering;
use std::time::Instant;

use engram_agent::Refused;
use engram_memory::{Change, MemoryId, Step, Who};

use super::{LAST, LEARNED, LINKED, Made, RUNS, SUMMED_UP};
use crate::commit::{Expect, Target};
use crate::datatype::{self, Consolidated, Found};
use crate::ffi::{self, Ctx, Key, Mode, Str};
use crate::latency::Operation;
use crate::reply::Value;

/// Changes, and refusals, listed in a reply, at most; all are counted.
const LISTED: usize = 1_000;

/// What a consolidation did, or would do.
#[derive(Default)]
pub struct Report {
    dry: bool,
    /// How many changes there were of each kind, in the order of [`KINDS`].
    counts: [u64; KINDS.len()],
    skipped: u64,
    pub changes: u64,
    listed: Vec<Value>,
    refused: Vec<Refused>,
    /// Why something is not as it was asked for.
    pub notes: Vec<String>,
}

/// The kinds of changes as they are counted, and as they are listed.
const KINDS: [(&str, &str); 11] = [
    ("promoted", "promote"),
    ("merged", "merge"),
    ("evicted", "evict"),
    ("expired", "expire"),
    ("learned", "learn"),
    ("confirmed", "confirm"),
    ("superseded", "supersede"),
    ("contested", "contest"),
    ("described", "describe"),
    ("summarized", "summarize"),
    ("linked", "link"),
];

impl Report {
    /// Of nothing yet.
    pub fn new(dry: bool, refused: Vec<Refused>, notes: Vec<String>) -> Report {
        Report { dry, refused, notes, ..Report::default() }
    }

    /// A limit left something for another run.
    pub fn is_cut_short(&mut self) {
        self.notes.push("more was to be done than one run does, or LIMIT allows: another one goes on".to_owned());
    }

    /// What would have added to the space was left out.
    pub fn is_short_of_memory(&mut self) {
        let note = "memory is short (`maxmemory`): what adds memories or links was skipped, and is looked at again in the next run";
        if !self.notes.iter().any(|said| said == note) {
            self.notes.push(note.to_owned());
        }
    }

    /// Adds a step: what it made, None if it was not due any more.
    pub fn add(&mut self, step: &Step, made: Option<&Made>) {
        let Some(made) = made else {
            self.skipped += 1;
            return;
        };
        let reason = || step.reason.clone();
        match &step.change {
            Change::Promote { id, .. } => self.change("promote", 1, Some(*id), reason()),
            Change::Merge { keep, drop } => self.change("merge", drop.len() as u64, Some(*keep), reason()),
            Change::Evict { id } => self.change("evict", 1, Some(*id), reason()),
            Change::Expire { id } => self.change("expire", 1, Some(*id), reason()),
            Change::Mark(..) => {}
            Change::Summarize(_) => self.change("summarize", 1, made.memories.first().copied(), reason()),
            Change::Link(links) => {
                let number = if self.dry { links.len() as u64 } else { made.links };
                if number > 0 {
                    self.change("link", number, step.memory(), reason());
                }
            }
            Change::Revise(revision) => {
                let id_of = |who: Who| match who {
                    Who::Standing(id) => Some(id),
                    Who::New(n) => made.memories.get(n).copied(),
                };
                let says = |who: Who| match who {
                    Who::Standing(id) => id.to_string(),
                    Who::New(n) => revision.new.get(n).map_or(String::new(), |fact| {
                        let sure = (fact.confidence * 100.0).round();
                        format!("\"{}\", which {} says ({sure} % sure)", fact.finding.content, fact.finding.source.id)
                    }),
                };
                for n in 0..revision.new.len() {
                    self.change("learn", 1, id_of(Who::New(n)), says(Who::New(n)));
                }
                for (id, from, _) in &revision.confirmed {
                    let last = from.last().map_or(String::new(), MemoryId::to_string);
                    self.change("confirm", 1, Some(*id), format!("{last} says the same: {} sources", from.len()));
                }
                for (old, by, _) in &revision.superseded {
                    let reason = match old {
                        Who::Standing(_) => format!("by {}", says(*by)),
                        Who::New(_) => format!("{} by {}", says(*old), says(*by)),
                    };
                    self.change("supersede", 1, id_of(*old), reason);
                }
                for (new, old) in &revision.contested {
                    let reason =
                        format!("{} contradicts {}, which is confirmed: both stand", says(Who::New(*new)), says(*old));
                    self.change("contest", 1, id_of(Who::New(*new)), reason);
                }
                for (id, claim) in &revision.described {
                    let ended = if claim.ended { " no longer" } else { "" };
                    let reason = format!("it says: {} {}{ended} {}", claim.subject, claim.attribute, claim.value);
                    self.change("describe", 1, Some(*id), reason);
                }
            }
        }
    }

    fn change(&mut self, kind: &'static str, count: u64, id: Option<MemoryId>, reason: String) {
        if let Some((_, counter)) = KINDS.iter().zip(&mut self.counts).find(|((_, listed), _)| *listed == kind) {
            *counter += count;
        }
        self.changes += 1;
        if self.listed.len() < LISTED {
            self.listed.push(Value::map(vec![
                ("change", Value::from(kind)),
                ("id", Value::from(id.map(|id| id.to_string()))),
                ("reason", Value::from(reason)),
            ]));
        }
    }

    /// Notes in the space, if it still stands, that this is what its last consolidation did; how long it took counts too.
    pub fn ended(&self, ctx: Ctx, target: &Target, began: Instant) {
        if self.dry {
            return;
        }
        Operation::Consolidate.ended(began);
        RUNS.fetch_add(1, Ordering::Relaxed);
        LAST.store(ffi::now(), Ordering::Relaxed);
        for (counter, kind) in [(&LEARNED, "learned"), (&SUMMED_UP, "summarized"), (&LINKED, "linked")] {
            let of_kind = KINDS.iter().zip(self.counts).find(|((name, _), _)| *name == kind);
            counter.fetch_add(of_kind.map_or(0, |(_, count)| count), Ordering::Relaxed);
        }
        let name = Str::new(&target.key);
        if ctx.select(target.db)
            && let Found::Space(held) = datatype::find(&mut Key::open(ctx, &name, Mode::Peek))
            && !matches!(target.expect, Expect::Incarnation(began) if began != held.incarnation)
        {
            let changes = KINDS.iter().zip(self.counts).map(|((name, _), count)| (*name, count)).collect();
            held.consolidated = Some(Consolidated { at: ffi::now(), changes });
        }
    }

    pub fn value(self) -> Value {
        let refused = self.refused.iter().take(LISTED).map(|refused| {
            Value::map(vec![
                ("id", Value::from(refused.id.to_string())),
                ("why", Value::from(refused.why.name())),
                ("text", Value::from(refused.text.as_str())),
            ])
        });
        let mut fields = vec![("dry_run", Value::from(i64::from(self.dry)))];
        fields.extend(KINDS.iter().zip(self.counts).map(|((name, _), count)| (*name, Value::from(count))));
        fields.extend([
            ("skipped", Value::from(self.skipped)),
            ("refused", Value::Array(refused.collect())),
            ("notes", Value::Array(self.notes.iter().map(|note| Value::from(note.as_str())).collect())),
            ("changes", Value::Array(self.listed)),
        ]);
        Value::map(fields)
    }
}
