//! Random operations beside a naive model: a list of memories and the rules of the requirements, written down again without
//! any index. After every operation the space must hold what the model holds, a second space that got the effects as bytes must
//! equal it, and what it saves must load to the same.

use crate::support::*;
use engram_memory::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

#[derive(Debug, Clone, PartialEq)]
struct Memory {
    tier: Tier,
    content: String,
    kind: String,
    importance: f64,
    session: Option<String>,
    expires: Option<Millis>,
    own_expiry: bool,
    pinned: bool,
    at: Millis,
    accessed: Millis,
    uses: u32,
    vectors: Vec<Vec<f32>>,
    shade: Option<i64>,
    heat: Heat,
    created: Millis,
    entered: Millis,
}

/// The rules, naively.
struct Model {
    memories: BTreeMap<MemoryId, Memory>,
    capacity: [usize; 5],
    ttl: [u64; 5],
    last: MemoryId,
}

impl Model {
    fn purge(&mut self, now: Millis) {
        self.memories.retain(|_, memory| memory.expires.is_none_or(|at| at > now));
    }

    fn value(&self, memory: &Memory) -> f64 {
        let ttl = self.ttl[memory.tier as usize];
        let half_life = (if ttl == 0 { 30 * DAY } else { ttl * 1000 }) as f64;
        let worth = memory.importance.max(0.001) * (1.0 + f64::from(memory.uses).ln_1p());
        worth.log2() + memory.accessed as f64 / half_life
    }

    /// Takes from a tier what is over its capacity. False if pins forbid.
    fn make_room(&mut self, tier: Tier, entering: usize, spared: Option<MemoryId>) -> bool {
        let capacity = self.capacity[tier as usize];
        let held = self.memories.values().filter(|memory| memory.tier == tier).count();
        let excess = (held + entering).saturating_sub(capacity);
        let mut victims: Vec<(f64, MemoryId)> = self
            .memories
            .iter()
            .filter(|(id, memory)| memory.tier == tier && !memory.pinned && Some(**id) != spared)
            .map(|(id, memory)| (self.value(memory), *id))
            .collect();
        victims.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        if capacity == 0 {
            return true;
        }
        if victims.len() < excess {
            return false;
        }
        for (_, id) in victims.into_iter().take(excess) {
            self.memories.remove(&id);
        }
        true
    }

    fn expiry(&self, tier: Tier, now: Millis) -> Option<Millis> {
        let ttl = self.ttl[tier as usize];
        (ttl > 0).then(|| now + ttl * 1000)
    }

    fn next_id(&mut self, now: Millis) -> MemoryId {
        self.last = if now > self.last.ms {
            MemoryId { ms: now, seq: 0 }
        } else {
            MemoryId { ms: self.last.ms, seq: self.last.seq + 1 }
        };
        self.last
    }
}

/// What a snapshot shows: id, score, and the rest in words.
type Shown = Vec<(MemoryId, f64, String)>;

/// Says the seed of a simulation that fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation failed with seed {}", self.0);
        }
    }
}

struct Simulation {
    random: Random,
    now: Millis,
    dim: usize,
    space: Space,
    twin: Space,
    model: Model,
    /// When heat was looked at, and the uses of memories then.
    look: Option<(Millis, BTreeMap<MemoryId, u32>)>,
    /// The vectors that memories were stored with.
    fine: BTreeMap<MemoryId, Vec<Vec<f32>>>,
    /// Snapshots and what they showed when they were taken.
    frozen: Vec<(Snapshot, Millis, Vec<f32>, Shown)>,
}

const WORDS: [&str; 6] = ["tea", "rain", "Rust", "the sea", "a plan", "two cats"];

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut random = Random(seed);
        let dim = *random.pick(&[2, 3, 16, 20]);
        let mut space = precise();
        let model = Model {
            memories: BTreeMap::new(),
            capacity: [3, 6, 12, 5, 4],
            ttl: [3600, 86_400, 30 * 86_400, 90 * 86_400, 0],
            last: MemoryId::ZERO,
        };
        let mut twin = precise();
        for tier in Tier::ALL {
            let effects =
                space.set(T0, &format!("{tier}.capacity"), &model.capacity[tier as usize].to_string()).unwrap();
            apply(&mut space, &effects);
            apply(&mut twin, &sent(&effects));
        }
        for (name, value) in [("hot-age", "2h"), ("hot-uses", "3"), ("warm-age", "6h"), ("warm-uses", "2")] {
            let effects = space.set(T0, name, value).unwrap();
            apply(&mut space, &effects);
            apply(&mut twin, &sent(&effects));
        }
        let (look, fine) = (None, BTreeMap::new());
        Simulation { random, now: T0, dim, space, twin, model, look, fine, frozen: Vec::new() }
    }

    fn carry_out(&mut self, effects: &[Effect]) {
        apply(&mut self.space, effects);
        apply(&mut self.twin, &sent(effects));
    }

    fn any_id(&mut self) -> Option<MemoryId> {
        let ids: Vec<MemoryId> = self.model.memories.keys().copied().collect();
        (!ids.is_empty()).then(|| *self.random.pick(&ids))
    }

    fn any_vector(&mut self) -> Vec<f32> {
        // A coarse grid makes equal scores common; never all zeros.
        let mut vector: Vec<f32> = (0..self.dim).map(|_| self.random.below(3) as f32 - 1.0).collect();
        vector[0] = 1.0 + self.random.below(2) as f32;
        vector
    }

    fn any_content(&mut self) -> String {
        format!("{} {}", self.random.pick(&WORDS), self.random.below(6))
    }

    fn step(&mut self) {
        if self.random.chance(60) {
            self.now += self.random.next() % (2 * HOUR);
        }
        match self.random.below(22) {
            0..=5 => self.store(),
            6 => self.update(),
            7 => self.forget(),
            8 => self.promote(),
            9 => self.expire(),
            10 => self.touch(),
            11 => self.consolidate(),
            12 => self.freeze(),
            13 => while self.space.compact_step(3) {},
            14 => self.resize(),
            15 => self.copy(),
            16 => self.link(),
            17 => self.unlink(),
            18 | 19 => self.heat(),
            20 => self.cool(),
            _ => self.recall(),
        }
    }

    fn store(&mut self) {
        let now = self.now;
        self.model.purge(now);
        let content = self.any_content();
        let windows = self.random.below(4);
        let raw: Vec<Vec<f32>> = (0..windows).map(|_| self.any_vector()).collect();
        let tier = *self.random.pick(&Tier::ALL);
        let session = self.random.chance(30).then(|| format!("s{}", self.random.below(2)));
        let ttl = match self.random.below(6) {
            0 => Ttl::Seconds(1 + self.random.next() % 10_000),
            1 => Ttl::Persist,
            _ => Ttl::Tier,
        };
        let shade = self.random.chance(30).then(|| self.random.below(3) as i64);
        let new = NewMemory {
            content: content.clone(),
            tier: Some(tier),
            importance: Some(self.random.below(11) as f64 / 10.0),
            session: session.clone(),
            kind: Some((*self.random.pick(&["fact", "event", "chunk"])).into()),
            pinned: self.random.chance(8),
            ttl,
            at: self.random.chance(30).then(|| now - self.random.next() % DAY),
            meta: shade.map(|shade| [("shade".to_owned(), serde_json::json!(shade))].into_iter().collect()),
            vectors: if windows == 0 {
                Vectors::None
            } else {
                Vectors::Embedded { model: "m".into(), template: 1, windows: raw.clone(), words: raw.clone() }
            },
            ..NewMemory::default()
        };
        let duplicate = self
            .model
            .memories
            .iter()
            .find(|(_, old)| old.session == session && old.content.to_lowercase() == content.to_lowercase())
            .map(|(id, _)| *id);
        let decided = self.space.store(now, new.clone());
        if let Some(id) = duplicate {
            let decided = decided.unwrap();
            assert!(decided.duplicate);
            assert_eq!(decided.id, id);
            let old = self.model.memories.get_mut(&id).unwrap();
            old.importance = old.importance.max(new.importance.unwrap());
            old.uses += 1;
            old.accessed = now;
            return self.carry_out(&decided.effects);
        }
        if !self.model.make_room(tier, 1, None) {
            assert!(decided.unwrap_err().message().contains("is full"));
            return;
        }
        let decided = decided.unwrap();
        assert!(!decided.duplicate);
        assert_eq!(decided.id, self.model.next_id(now));
        let (expires, own_expiry) = match ttl {
            Ttl::Tier => (self.model.expiry(tier, now), false),
            Ttl::Seconds(seconds) => (Some(now + seconds * 1000), true),
            Ttl::Persist => (None, true),
        };
        let memory = Memory {
            tier,
            content,
            kind: new.kind.unwrap(),
            importance: new.importance.unwrap(),
            session,
            expires,
            own_expiry,
            pinned: new.pinned,
            at: new.at.unwrap_or(now),
            accessed: now,
            uses: 0,
            vectors: raw.iter().map(|vector| unit(vector)).collect(),
            shade,
            heat: Heat::Hot,
            created: now,
            entered: now,
        };
        self.fine.insert(decided.id, raw);
        self.model.memories.insert(decided.id, memory);
        self.carry_out(&decided.effects);
    }

    fn update(&mut self) {
        self.model.purge(self.now);
        let Some(id) = self.any_id() else { return };
        let now = self.now;
        let mut update = Update::default();
        let mut new = self.model.memories[&id].clone();
        if self.random.chance(50) {
            new.importance = self.random.unit();
            update.importance = Some(new.importance);
        }
        if self.random.chance(40) {
            new.content = format!("updated {}", self.random.next());
            update.content = Some(new.content.clone());
            update.vectors = Some(Vectors::None);
            new.vectors = Vec::new();
            new.heat = Heat::Hot;
        }
        if self.random.chance(30) {
            new.pinned = !new.pinned;
            update.pinned = Some(new.pinned);
        }
        if self.random.chance(30) {
            new.session = None;
            update.session = Some(None);
        }
        if self.random.chance(30) {
            new.at = now;
            update.at = Some(now);
        }
        if self.random.chance(20) {
            (new.expires, new.own_expiry) = (Some(now + 5000), true);
            update.ttl = Some(Ttl::Seconds(5));
        }
        let effects = self.space.update(now, id, update).unwrap();
        self.model.memories.insert(id, new);
        self.carry_out(&effects);
    }

    fn forget(&mut self) {
        self.model.purge(self.now);
        let selection = match self.random.below(4) {
            0 => match self.any_id() {
                Some(id) => Selection::Ids(vec![id, MemoryId { ms: 1, seq: 1 }, id]),
                None => return,
            },
            1 => Selection::Session("s0".into()),
            2 if self.random.chance(20) => Selection::Tier(*self.random.pick(&Tier::ALL)),
            _ => Selection::Filter(Filter::parse(".importance < 0.2 and not .pinned").unwrap()),
        };
        let mut expected = Vec::new();
        self.model.memories.retain(|id, memory| {
            let goes = match &selection {
                Selection::Ids(ids) => ids.contains(id),
                Selection::Session(session) => memory.session.as_ref() == Some(session),
                Selection::Tier(tier) => memory.tier == *tier,
                Selection::Filter(_) => memory.importance < 0.2 && !memory.pinned,
            };
            if goes {
                expected.push(*id);
            }
            !goes
        });
        let ids = self.space.forget(self.now, &selection);
        assert_eq!(ids, expected);
        assert_eq!(self.space.snapshot().select(self.now, &selection), expected);
        let effects = self.space.forget_effects(&ids);
        self.carry_out(&effects);
    }

    fn promote(&mut self) {
        self.model.purge(self.now);
        let Some(id) = self.any_id() else { return };
        let tier = *self.random.pick(&Tier::ALL);
        let decided = self.space.promote(self.now, id, tier);
        if self.model.memories[&id].tier == tier {
            assert!(decided.unwrap().is_empty());
            return;
        }
        if !self.model.make_room(tier, 1, Some(id)) {
            assert!(decided.unwrap_err().message().contains("is full"));
            return;
        }
        let expires = self.model.expiry(tier, self.now);
        let memory = self.model.memories.get_mut(&id).unwrap();
        (memory.tier, memory.entered) = (tier, self.now);
        if !memory.own_expiry {
            memory.expires = expires;
        }
        self.carry_out(&decided.unwrap());
    }

    fn expire(&mut self) {
        self.model.purge(self.now);
        loop {
            let effects = self.space.expire_due(self.now, 2);
            if effects.is_empty() {
                break;
            }
            self.carry_out(&effects);
        }
        assert_eq!(self.space.len(), self.model.memories.len());
        assert_eq!(self.space.next_expiry(), self.model.memories.values().filter_map(|memory| memory.expires).min());
    }

    fn touch(&mut self) {
        self.model.purge(self.now);
        for _ in 0..3 {
            let Some(id) = self.any_id() else { return };
            self.space.touch(id, self.now);
            self.twin.touch(id, self.now);
            let memory = self.model.memories.get_mut(&id).unwrap();
            memory.uses += 1;
            memory.accessed = self.now;
        }
    }

    fn link(&mut self) {
        self.model.purge(self.now);
        let (Some(from), Some(to)) = (self.any_id(), self.any_id()) else { return };
        let (rel, weight) = (*self.random.pick(&WORDS), self.random.unit().max(0.1));
        let effects = self.space.link(self.now, from, to, rel, weight, None).unwrap_or_default();
        assert_eq!(effects.is_empty(), from == to);
        self.carry_out(&effects);
    }

    fn unlink(&mut self) {
        self.model.purge(self.now);
        let Some(from) = self.any_id() else { return };
        let Some(link) = self.space.links_from(from).pop() else { return };
        let taken = self.space.unlink(self.now, from, link.to, Some(&link.rel));
        let Ok((taken, effects)) = taken else { return assert!(!self.model.memories.contains_key(&link.to)) };
        assert_eq!(taken, 1);
        self.carry_out(&effects);
        assert!(!self.space.links_from(from).contains(&link));
    }

    /// From now on the twin shares with the space what it can; sometimes the space that goes on is the copy.
    fn copy(&mut self) {
        let copy = self.space.copy();
        copy.check_invariants();
        assert!(state(&copy, 300) == state(&self.space, 300), "the copy differs");
        self.twin = if self.random.chance(50) { copy } else { std::mem::replace(&mut self.space, copy) };
    }

    fn resize(&mut self) {
        self.model.purge(self.now);
        let tier = *self.random.pick(&Tier::ALL);
        let capacity = 2 + self.random.below(10);
        let old = std::mem::replace(&mut self.model.capacity[tier as usize], capacity);
        let decided = self.space.set(self.now, &format!("{tier}.capacity"), &capacity.to_string());
        if !self.model.make_room(tier, 0, None) {
            assert!(decided.unwrap_err().message().contains("pinned"));
            self.model.capacity[tier as usize] = old;
            return;
        }
        self.carry_out(&decided.unwrap());
    }

    /// Every step of a plan over the standing space can be decided, and afterwards what it is for holds. The model takes over
    /// the result: what it says about merging is checked here by its outcome.
    fn consolidate(&mut self) {
        self.model.purge(self.now);
        let before = self.model.memories.clone();
        let dedup = self.random.chance(50).then_some(0.999);
        let what = Consolidate { dedup, ..Consolidate::default() };
        let plan = self.space.snapshot().plan_consolidation(self.now, &what, &Findings::default()).unwrap();
        let again = self.twin.snapshot().plan_consolidation(self.now, &what, &Findings::default()).unwrap();
        assert_eq!(
            plan.steps.iter().map(|step| &step.change).collect::<Vec<_>>(),
            again.steps.iter().map(|step| &step.change).collect::<Vec<_>>()
        );
        for step in &plan.steps {
            if let Some(effects) = self.space.decide_step(self.now, step, &mut BTreeSet::new()) {
                self.carry_out(&effects);
                // What was done is not due again.
                assert!(
                    self.space
                        .decide_step(self.now, step, &mut BTreeSet::new())
                        .is_none_or(|effects| effects.is_empty())
                        || is_merge(step)
                );
            }
        }
        let after = self.entries();
        let ends = |memory: &Memory| memory.expires.unwrap_or(Millis::MAX);
        let mut texts = std::collections::BTreeSet::new();
        for (id, memory) in &after {
            let old = &before[id];
            assert!(texts.insert((normalised(&memory.content), memory.session.clone())), "a duplicate is left");
            assert!(memory.importance >= old.importance && memory.uses >= old.uses && (memory.pinned || !old.pinned));
            assert!(
                memory.tier == old.tier || old.importance >= 0.7 || ends(memory) >= ends(old),
                "{id} changed its tier without a reason"
            );
        }
        assert_eq!(after.len(), self.space.len(), "what has expired is gone");
        self.model.memories = after;
    }

    /// The rule of heat, naively.
    fn due_heat(&self, id: MemoryId, memory: &Memory) -> Heat {
        let used = match &self.look {
            None if memory.accessed + HOUR >= self.now => memory.uses,
            Some((at, _)) if memory.accessed > *at && memory.created >= *at => memory.uses,
            Some((at, seen)) if memory.accessed > *at => (memory.uses - seen.get(&id).copied().unwrap_or(0)).max(1),
            _ => 0,
        };
        let age = self.now - memory.created.max(memory.entered);
        match (age, used) {
            _ if age < 2 * HOUR || used >= 3 => Heat::Hot,
            _ if age < 6 * HOUR || used >= 2 => Heat::Warm,
            (_, 1) if memory.heat == Heat::Cold => Heat::Warm,
            _ => Heat::Cold,
        }
    }

    /// What a change of heat did to the vectors: they say nearly what they said, and the model goes on with them.
    fn take_over_vectors(&mut self) {
        for (id, memory) in &mut self.model.memories {
            let now = self.space.vectors(*id);
            assert_eq!(now.len(), memory.vectors.len());
            assert!(now.iter().zip(&memory.vectors).all(|(a, b)| cosine(a, b) > 0.97), "{now:?} {:?}", memory.vectors);
            memory.vectors = now;
        }
    }

    /// A look at heat: every memory has the heat of the rule afterwards; those that have warmed up get their vectors back.
    fn heat(&mut self) {
        self.model.purge(self.now);
        let due: BTreeMap<MemoryId, Heat> =
            self.model.memories.iter().map(|(id, memory)| (*id, self.due_heat(*id, memory))).collect();
        let mut plan = self.space.snapshot().plan_heat(self.now, &self.space.seen());
        let effects = plan.begin();
        self.carry_out(&effects);
        for unit in &plan.units {
            let effects = self.space.decide_heat(self.now, unit);
            self.carry_out(&effects);
        }
        for (id, memory) in &mut self.model.memories {
            memory.heat = due[id];
            let precision = self.space.precision_of(*id);
            assert!(memory.heat != Heat::Cold || precision.is_none_or(|precision| precision == Precision::I4));
            assert!(memory.heat != Heat::Warm || precision.is_none_or(|precision| precision != Precision::F32));
        }
        self.take_over_vectors();
        let uses = self.model.memories.iter().map(|(id, memory)| (*id, memory.uses)).collect();
        self.look = Some((self.now, uses));
        self.space.set_seen(plan.seen);
        if self.random.chance(50) {
            let missing = self.space.coarse_texts(self.now, &plan.coarse);
            assert_eq!(missing.len(), plan.coarse.len());
            let embedded = |memory: Missing| {
                let windows = self.fine.get(&memory.id)?.clone();
                (!windows.is_empty()).then(|| Embedded { memory, words: windows.clone(), windows })
            };
            let made: Vec<Embedded> = missing.into_iter().filter_map(embedded).collect();
            let ids: Vec<MemoryId> = made.iter().map(|embedded| embedded.memory.id).collect();
            let effects = self.space.revive(self.now, "m", made).unwrap();
            assert_eq!(effects.len(), ids.len());
            self.carry_out(&effects);
            for id in &ids {
                let memory = self.model.memories.get_mut(id).unwrap();
                let hot = memory.heat == Heat::Hot;
                assert_eq!(self.space.precision_of(*id), Some(if hot { Precision::F32 } else { Precision::I8 }));
                let fine: Vec<Vec<f32>> = self.fine[id].iter().map(|vector| unit(vector)).collect();
                memory.vectors = self.space.vectors(*id);
                assert!(memory.vectors.iter().zip(&fine).all(|(a, b)| cosine(a, b) > 0.9999));
            }
            assert!(self.space.coarse_texts(self.now, &ids).is_empty());
        }
        // What was done is not due again.
        let again = self.space.snapshot().plan_heat(self.now, &self.space.seen());
        assert!(again.units.iter().all(|unit| self.space.decide_heat(self.now, unit).iter().all(|effect| matches!(
            effect,
            // Uses count once.
            Effect::Heat { to, .. } if *to > Heat::Hot
        ))));
    }

    /// Under pressure all cools that was not used since the last look.
    fn cool(&mut self) {
        self.model.purge(self.now);
        let spared: Vec<MemoryId> = self
            .model
            .memories
            .iter()
            .filter(|(id, memory)| match &self.look {
                None => memory.accessed + HOUR >= self.now && memory.uses > 0,
                Some((at, seen)) => {
                    let before = if memory.created >= *at { 0 } else { seen.get(id).copied().unwrap_or(0) };
                    memory.accessed > *at && (memory.uses > before || memory.created < *at)
                }
            })
            .map(|(id, _)| *id)
            .collect();
        let mut cursor = MemoryId::ZERO;
        loop {
            let (effects, next) = self.space.cool(self.now, cursor);
            self.carry_out(&effects);
            if next == MemoryId::ZERO {
                break;
            }
            cursor = next;
        }
        for (id, memory) in &mut self.model.memories {
            if !spared.contains(id) {
                memory.heat = Heat::Cold;
            }
        }
        self.take_over_vectors();
    }

    fn freeze(&mut self) {
        self.frozen.truncate(3);
        let query = self.any_vector();
        let snapshot = self.space.snapshot();
        let seen = shown(&snapshot, self.now, &query);
        self.frozen.push((snapshot, self.now, query, seen));
    }

    fn recall(&mut self) {
        self.model.purge(self.now);
        let queries: Vec<Vec<f32>> = (0..1 + self.random.below(2)).map(|_| self.any_vector()).collect();
        let k = 1 + self.random.below(12);
        let tiers = self.random.chance(40).then(|| vec![*self.random.pick(&Tier::ALL), Tier::LongTerm]);
        let filter = self.random.chance(40).then(|| Filter::parse(".shade >= 1 or .importance > 0.6").unwrap());
        let since = self.random.chance(20).then(|| self.now - DAY);
        let min_score = self.random.chance(20).then_some(0.25);
        let recall = Recall {
            queries: queries.clone(),
            k,
            tiers: tiers.clone(),
            filter: filter.clone(),
            since,
            min_score,
            ..Recall::default()
        };
        let hits = self.space.snapshot().recall(self.now, &recall).unwrap().hits;
        let twin = self.twin.snapshot().recall(self.now, &recall).unwrap().hits;
        let keys = |hits: &[Hit]| hits.iter().map(|hit| (hit.entry.id, hit.score.to_bits())).collect::<Vec<_>>();
        assert_eq!(keys(&hits), keys(&twin), "the place in memory shows");

        let mut admitted: BTreeMap<MemoryId, f64> = BTreeMap::new();
        for (id, memory) in &self.model.memories {
            let score =
                memory.vectors.iter().flat_map(|v| queries.iter().map(|q| cosine(v, q))).fold(f64::NAN, f64::max);
            let passes = filter.is_none() || memory.shade.is_some_and(|shade| shade >= 1) || memory.importance > 0.6;
            if passes
                && tiers.as_ref().is_none_or(|tiers| tiers.contains(&memory.tier))
                && since.is_none_or(|since| memory.at >= since)
                && score >= min_score.unwrap_or(-2.0)
            {
                admitted.insert(*id, score);
            }
        }
        assert!(hits.len() <= k);
        if min_score.is_none() {
            assert_eq!(hits.len(), k.min(admitted.len()));
        }
        for hit in &hits {
            let expected = admitted.get(&hit.entry.id).copied().unwrap_or(0.25);
            assert!((hit.similarity.unwrap() - expected).abs() < 1e-5, "{} is not {expected}", hit.score);
        }
        for pair in hits.windows(2) {
            assert!((-pair[0].score, pair[0].entry.id) < (-pair[1].score, pair[1].entry.id), "the order of results");
        }
        if let Some(last) = hits.last().filter(|_| hits.len() == k) {
            let best_left = admitted.iter().filter(|(id, _)| hits.iter().all(|hit| hit.entry.id != **id));
            assert!(
                best_left.map(|(_, score)| *score).fold(f64::MIN, f64::max) <= last.score + 1e-5,
                "a better one is left out"
            );
        }
    }

    fn entries(&self) -> BTreeMap<MemoryId, Memory> {
        let (mut cursor, mut all) = (MemoryId::ZERO, BTreeMap::new());
        loop {
            let (next, entries) = self.space.scan(self.now, cursor, 3, None);
            for entry in entries {
                let memory = Memory {
                    tier: entry.tier,
                    content: entry.content.clone().into(),
                    kind: entry.kind.clone().into(),
                    importance: entry.importance,
                    session: entry.session.clone().map(Into::into),
                    expires: entry.expires,
                    own_expiry: entry.own_expiry,
                    pinned: entry.pinned,
                    at: entry.at,
                    accessed: entry.accessed,
                    uses: entry.uses,
                    vectors: self.space.vectors(entry.id),
                    heat: entry.heat,
                    created: entry.created,
                    entered: entry.entered,
                    shade: entry.meta.as_ref().and_then(|meta| meta.get("shade")).and_then(serde_json::Value::as_i64),
                };
                assert!(all.insert(entry.id, memory).is_none(), "a scan gave {} twice", entry.id);
            }
            if next == MemoryId::ZERO {
                return all;
            }
            cursor = next;
        }
    }

    fn check(&mut self) {
        self.model.purge(self.now);
        self.space.check_invariants();
        assert_eq!(self.entries(), self.model.memories);
        assert_eq!(self.space.count(self.now, None), self.model.memories.len());
        for heat in Heat::ALL {
            let filter = Filter::parse(&format!(".heat == '{}'", heat.name())).unwrap();
            let expected = self.model.memories.values().filter(|memory| memory.heat == heat).count();
            assert_eq!(self.space.count(self.now, Some(&filter)), expected, "{heat}");
        }
        let stats = self.space.stats(self.now);
        for tier in &stats.tiers {
            let held = self.model.memories.values().filter(|memory| memory.tier == tier.tier);
            assert_eq!(tier.count, held.clone().count());
            assert_eq!(tier.pinned, held.filter(|memory| memory.pinned).count());
            assert!(tier.count <= tier.capacity as usize);
        }
        let mut by_time: Vec<(Millis, MemoryId)> =
            self.model.memories.iter().map(|(id, memory)| (memory.at, *id)).collect();
        by_time.sort();
        let all =
            Timeline { start: Bound::Unbounded, end: Bound::Unbounded, reverse: false, count: None, filter: None };
        let timeline = self.space.timeline(self.now, &all, usize::MAX).unwrap();
        assert_eq!(timeline.iter().map(|entry| (entry.at, entry.id)).collect::<Vec<_>>(), by_time);
        // A part of it, found in the index and by looking at all.
        let filter = self.random.chance(50).then(|| Filter::parse(".importance > 0.4").unwrap());
        let mut time = || by_time.get(self.random.below(by_time.len().max(1))).map_or(0, |(at, _)| *at);
        let (start, end) = (Bound::Excluded(time()), Bound::Included(time()));
        let (reverse, count) = (self.random.chance(50), self.random.chance(50).then(|| self.random.below(4)));
        let part = Timeline { start, end, reverse, count, filter };
        let ids = |entries: Vec<Entry>| entries.iter().map(|entry| entry.id).collect::<Vec<_>>();
        let listed = ids(self.space.timeline(self.now, &part, usize::MAX).unwrap());
        assert_eq!(ids(self.space.snapshot().timeline(self.now, &part)), listed);
        assert!(self.space.timeline(self.now, &part, 2).is_none_or(|few| ids(few) == listed));
        assert!(digest(&self.twin) == digest(&self.space), "the twin differs");
        let saved = state(&self.space, 300);
        let loaded = load(&saved);
        loaded.check_invariants();
        assert!(digest(&loaded) == digest(&self.space), "what was saved loads to something else");
        assert_eq!(loaded.stats(self.now).counters, stats.counters);
        assert_eq!(state(&loaded, 300), saved);
        for (snapshot, now, query, seen) in &self.frozen {
            assert_eq!(&shown(snapshot, *now, query), seen, "a snapshot changed");
        }
    }
}

fn is_merge(step: &Step) -> bool {
    matches!(step.change, Change::Merge { .. })
}

fn shown(snapshot: &Snapshot, now: Millis, query: &[f32]) -> Shown {
    let recall = Recall { queries: vec![query.to_vec()], k: 100, ..Recall::default() };
    let hits = snapshot.recall(now, &recall).unwrap().hits;
    let row = |hit: &Hit| {
        let text =
            format!("{} {} {:?} {:?}", hit.entry.content, hit.entry.tier, hit.entry.importance, snapshot.vectors(hit));
        (hit.entry.id, hit.score, text)
    };
    hits.iter().map(row).collect()
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    vector.iter().map(|x| (f64::from(*x) / norm) as f32).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn random_operations() {
    for seed in 0..150 {
        let shown = Seed(seed);
        let mut simulation = Simulation::new(seed);
        for _ in 0..120 {
            simulation.step();
            simulation.check();
        }
        drop(shown);
    }
}
