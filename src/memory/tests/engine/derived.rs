//! What consolidation makes of turns, beside a random life of those turns: forgotten, reworded, expired, their session cleared. However it goes, nothing stands that was made
//! of the forgotten, nothing is made twice, and a space that got the effects as bytes, or was saved and loaded, is the same.

use crate::support::*;
use engram_memory::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SESSIONS: [&str; 2] = ["s", "t"];

struct Life {
    random: Random,
    now: Millis,
    space: Space,
    twin: Space,
    /// Turns that were forgotten.
    forgotten: BTreeSet<MemoryId>,
    /// What nobody may quote any more: what they said, and what reworded ones did.
    unsaid: BTreeSet<String>,
    steps: BTreeMap<&'static str, usize>,
}

impl Life {
    fn new(seed: u64) -> Life {
        let mut life = Life {
            random: Random(seed),
            now: T0,
            space: Space::new(),
            twin: Space::new(),
            forgotten: BTreeSet::new(),
            unsaid: BTreeSet::new(),
            steps: BTreeMap::new(),
        };
        for (name, value) in [("turns-to-summary", "3"), ("summaries-to-facts", "2"), ("episodic.capacity", "40")] {
            let effects = life.space.set(T0, name, value).unwrap();
            life.carry_out(&effects);
        }
        life
    }

    fn carry_out(&mut self, effects: &[Effect]) {
        apply(&mut self.space, effects);
        apply(&mut self.twin, &sent(effects));
    }

    fn standing(&self) -> Vec<Entry> {
        self.space.scan(self.now, MemoryId::ZERO, 10_000, None).1
    }

    fn a_turn(&mut self) -> Option<Entry> {
        let turns: Vec<Entry> = self.standing().into_iter().filter(|entry| entry.role.is_some()).collect();
        (!turns.is_empty()).then(|| self.random.pick(&turns).clone())
    }

    fn words(&mut self) -> String {
        format!(
            "{} is {} ({})",
            self.random.pick(&["ann", "bo"]),
            self.random.pick(&["bo", "ann", "2", "3"]),
            self.random.next()
        )
    }

    fn step(&mut self) {
        self.now += 1 + self.random.next() % 5_000;
        let now = self.now;
        match self.random.below(20) {
            0..=9 => {
                let new = NewMemory {
                    tier: Some(Tier::Episodic),
                    role: Some("user".into()),
                    session: Some((*self.random.pick(&SESSIONS)).into()),
                    ttl: if self.random.chance(20) { Ttl::Seconds(1 + self.random.next() % 60) } else { Ttl::Tier },
                    dedup: Dedup::Off,
                    ..memory(&self.words())
                };
                let effects = self.space.store(now, new).unwrap().effects;
                self.carry_out(&effects);
            }
            10..=13 => self.consolidate(),
            14 | 15 => {
                let Some(turn) = self.a_turn() else { return };
                let more = if self.random.chance(30) { self.a_turn() } else { None };
                let ids: Vec<MemoryId> = std::iter::once(&turn).chain(&more).map(|turn| turn.id).collect();
                let (all, effects) = (self.space.with_derived(&ids), self.space.forget_effects(&ids));
                assert_eq!(self.space.snapshot().with_derived(&ids), all, "the dry run says the same");
                self.carry_out(&effects);
                assert!(all.iter().all(|id| self.space.get(now, *id).is_none()));
                for turn in std::iter::once(turn).chain(more) {
                    self.forgotten.insert(turn.id);
                    self.unsaid.insert(turn.content.into());
                }
            }
            16 => {
                let Some(turn) = self.a_turn() else { return };
                let update = Update { content: Some(self.words()), vectors: Some(Vectors::None), ..Update::default() };
                let effects = self.space.update(now, turn.id, update).unwrap();
                self.carry_out(&effects);
                self.unsaid.insert(turn.content.into());
            }
            17 if self.random.chance(20) => {
                let session = *self.random.pick(&SESSIONS);
                let turns = self
                    .standing()
                    .into_iter()
                    .filter(|entry| entry.role.is_some() && entry.session.as_deref() == Some(session));
                for turn in turns {
                    self.forgotten.insert(turn.id);
                    self.unsaid.insert(turn.content.into());
                }
                let effects = self.space.delete_session(now, session).1;
                self.carry_out(&effects);
            }
            18 => {
                let effects = self.space.trim(now, 100);
                self.carry_out(&effects);
            }
            _ => self.reflect(),
        }
        self.check();
    }

    /// Everything that it can find, as a module would: facts of what has not been read, summaries that quote, kin.
    fn consolidate(&mut self) {
        let now = self.now;
        let snapshot = self.space.snapshot();
        let mut findings = Findings::default();
        let (summaries, beneath) = snapshot.distillable(now);
        findings.read.extend(summaries);
        let mut unread = if self.random.chance(70) { snapshot.unread(now, 20) } else { Vec::new() };
        let known: BTreeSet<MemoryId> = unread.iter().map(|unread| unread.entry.id).collect();
        unread.extend(beneath.into_iter().filter(|unread| !known.contains(&unread.entry.id)));
        for Unread { entry, .. } in unread {
            findings.read.push(entry.clone());
            let Some((subject, value)) = entry.content.split_once(" (").and_then(|(said, _)| said.split_once(" is "))
            else {
                continue;
            };
            let claim = Claim { subject: subject.into(), attribute: "x".into(), value: value.into(), ended: false };
            findings.facts.push(Finding {
                content: format!("{subject} x {value}."),
                claim,
                kind: "fact",
                tier: Tier::Semantic,
                importance: 0.6,
                confidence: 0.9,
                source: entry,
            });
        }
        for Episode { session, turns } in snapshot.episodes(now, 3) {
            let text: Vec<&str> = turns.iter().map(|turn| &*turn.content).collect();
            let text = text.join("; ").into();
            findings.summaries.push(EpisodeSummary {
                session,
                turns,
                text,
                importance: 0.5,
                model: None,
                embedded: false,
            });
        }
        findings.kin.extend(Kin::new(snapshot.clone(), now, 50).into_iter().flatten());
        let plan = snapshot.plan_consolidation(now, &Consolidate::default(), &findings).unwrap();
        // Something happens while the plan waits.
        if self.random.chance(30)
            && let Some(turn) = self.a_turn()
        {
            let effects = self.space.forget_effects(&[turn.id]);
            self.carry_out(&effects);
            self.forgotten.insert(turn.id);
            self.unsaid.insert(turn.content.into());
        }
        let mut passed_over = BTreeSet::new();
        for step in &plan.steps {
            if let Some(effects) = self.space.decide_step(now, step, &mut passed_over) {
                let kind = match step.change {
                    Change::Summarize(_) => "summarize",
                    Change::Link(_) => "link",
                    Change::Revise(_) => "revise",
                    _ => "other",
                };
                *self.steps.entry(kind).or_default() += 1;
                self.carry_out(&effects);
            }
        }
    }

    fn reflect(&mut self) {
        let session = *self.random.pick(&SESSIONS);
        let told = self.space.snapshot().told(self.now, session);
        let Some(turn) = told.turns.last() else { return };
        let from = vec![turn.id];
        let insight = NewMemory { tier: Some(Tier::Semantic), from, ..memory(&format!("mind that {}", turn.content)) };
        let stored = self.space.store_insight(self.now, &told, insight).unwrap();
        self.carry_out(&stored.effects);
    }

    fn check(&self) {
        let standing = self.standing();
        let made = standing.iter().filter(|entry| entry.role.is_none() && entry.superseded.is_none());
        let mut summed = BTreeSet::new();
        for entry in made {
            let quoted = self.unsaid.iter().find(|text| entry.content.contains(text.as_str()));
            assert_eq!(quoted, None, "{entry:?}");
            assert!(!entry.from.iter().any(|id| self.forgotten.contains(id)), "{entry:?}");
            assert!(!entry.from.is_empty(), "{} stands on nothing", entry.id);
            if &*entry.kind == "summary" {
                assert_eq!(entry.from.len(), 3);
                assert!(entry.from.iter().all(|id| summed.insert(*id)), "a turn is in two summaries");
            }
        }
        let unsummed = |id: &&MemoryId| self.space.get(self.now, **id).is_some_and(|turn| !turn.marks.summed);
        assert_eq!(summed.iter().find(unsummed), None, "what is in a summary is marked");
        assert_eq!(digest(&self.space), digest(&self.twin));
    }
}

#[test]
fn nothing_stands_that_was_made_of_the_forgotten() {
    let mut steps: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..40 {
        let mut life = Life::new(seed);
        for _ in 0..150 {
            life.step();
        }
        assert_eq!(digest(&load(&state(&life.space, 1000))), digest(&life.space), "seed {seed}");
        life.space.check_invariants();
        for (kind, n) in life.steps {
            *steps.entry(kind).or_default() += n;
        }
    }
    for kind in ["summarize", "link", "revise"] {
        assert!(steps.get(kind).is_some_and(|n| *n > 100), "{steps:?}");
    }
}

#[test]
fn a_fact_that_loses_a_source_loses_what_it_added() {
    let mut space = Space::new();
    let said = |space: &mut Space, n: u64| {
        store(space, T0 + n, NewMemory { role: Some("user".into()), dedup: Dedup::Off, ..memory(&format!("said {n}")) })
    };
    let ids: Vec<MemoryId> = (0..3).map(|n| said(&mut space, n)).collect();
    let claim = Claim { subject: "a".into(), attribute: "b".into(), value: "c".into(), ended: false };
    let finding = |id: &MemoryId| Finding {
        content: "a b c.".into(),
        claim: claim.clone(),
        kind: "fact",
        tier: Tier::Semantic,
        importance: 0.6,
        confidence: 0.7,
        source: Arc::new(space.get(T0 + 9, *id).unwrap()),
    };
    let findings = Findings { facts: ids.iter().map(finding).collect(), ..Findings::default() };
    let plan = space.snapshot().plan_consolidation(T0 + 9, &Consolidate::default(), &findings).unwrap();
    for step in &plan.steps {
        let effects = space.decide_step(T0 + 9, step, &mut BTreeSet::new()).unwrap();
        apply(&mut space, &effects);
    }
    let fact = |space: &Space| {
        let found = space.scan(T0 + 10, MemoryId::ZERO, 100, None).1.into_iter().find(|entry| entry.role.is_none());
        found.map(|entry| ((entry.confidence * 1e6).round() / 1e6, entry.from))
    };
    assert_eq!(fact(&space), Some((0.973, ids.clone())));
    for (gone, left) in [(1, Some((0.91, vec![ids[0], ids[2]]))), (0, Some((0.7, vec![ids[2]]))), (2, None)] {
        let effects = space.forget_effects(&[ids[gone]]);
        apply(&mut space, &effects);
        assert_eq!(fact(&space), left);
    }
}
