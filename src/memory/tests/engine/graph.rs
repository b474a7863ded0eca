//! Links: against a list of them and the rules written down again, and what a walk over them finds.

use crate::support::*;
use engram_memory::*;
use std::collections::{BTreeMap, BTreeSet};

const RELS: [&str; 3] = ["mentions", "causes", "mentions more"];

fn id(n: u64) -> MemoryId {
    MemoryId { ms: T0 + n, seq: 0 }
}

/// A space of `count` memories, the n-th under `id(n)`.
fn filled(count: u64) -> Space {
    let mut space = precise();
    for tier in Tier::ALL {
        let effects = space.set(T0, &format!("{tier}.capacity"), "0").unwrap();
        apply(&mut space, &effects);
    }
    for n in 0..count {
        store(&mut space, T0 + n, NewMemory { tier: Some(Tier::Semantic), ..memory(&format!("number {n}")) });
    }
    space
}

fn link(space: &mut Space, from: u64, to: u64, rel: &str, weight: f64) {
    let effects = space.link(T0, id(from), id(to), rel, weight, None).unwrap();
    apply(space, &sent(&effects));
    space.check_invariants();
}

fn related(space: &Space, of: u64, rel: Option<&str>, depth: usize) -> Vec<(u64, f64)> {
    let found = space.snapshot_for(id(of)).related(T0, id(of), rel, depth, 100).unwrap();
    found.iter().map(|related| (related.entry.id.ms - T0, related.via.activation)).collect()
}

/// Links as a list: from, to and name; weight, time and reason.
type Links = BTreeMap<(MemoryId, MemoryId, String), (f64, Millis, Option<String>)>;

/// What activation comes to which memory, by the rules at the head of `graph.rs`.
fn spread(
    links: &Links,
    start: MemoryId,
    rel: Option<&str>,
    depth: usize,
    stands: &dyn Fn(MemoryId) -> bool,
    reachable: &dyn Fn(MemoryId) -> bool,
) -> BTreeMap<MemoryId, f64> {
    let mut level = BTreeMap::from([(start, 0)]);
    let mut received: BTreeMap<MemoryId, f64> = BTreeMap::new();
    for hop in 1..=depth {
        let passing: Vec<(MemoryId, f64)> = level
            .iter()
            .filter(|(_, level)| **level + 1 == hop)
            .map(|(id, _)| (*id, received.get(id).copied().unwrap_or(0.0) + f64::from(*id == start)))
            .collect();
        for (from, activation) in passing {
            let ends = |(a, b, name): &(MemoryId, MemoryId, String), weight: f64| {
                let other = if *a == from { *b } else { *a };
                (*a == from || *b == from).then(|| (other, name.clone(), weight))
            };
            let own: Vec<_> = links.iter().filter_map(|(key, value)| ends(key, value.0)).collect();
            let fan = own.iter().filter(|(other, ..)| stands(*other)).count().max(1) as f64;
            for (other, _, weight) in own.iter().filter(|(_, name, _)| rel.is_none_or(|rel| rel == name)) {
                if *other != start && reachable(*other) && level.get(other).is_none_or(|level| level + 1 >= hop) {
                    level.entry(*other).or_insert(hop);
                    *received.entry(*other).or_default() += activation * 0.5 * weight / fan.sqrt();
                }
            }
        }
    }
    received
}

struct Naive {
    random: Random,
    now: Millis,
    space: Space,
    twin: Space,
    links: Links,
}

impl Naive {
    fn new(seed: u64) -> Naive {
        Naive { random: Random(seed), now: T0, space: filled(0), twin: filled(0), links: Links::new() }
    }

    fn carry_out(&mut self, effects: &[Effect]) {
        apply(&mut self.space, effects);
        apply(&mut self.twin, &sent(effects));
    }

    fn standing(&self) -> BTreeMap<MemoryId, Entry> {
        self.space.scan(self.now, MemoryId::ZERO, 1000, None).1.into_iter().map(|entry| (entry.id, entry)).collect()
    }

    fn any(&mut self) -> MemoryId {
        let ids: Vec<MemoryId> = self.standing().into_keys().collect();
        if ids.is_empty() { MemoryId { ms: 1, seq: 1 } } else { *self.random.pick(&ids) }
    }

    fn step(&mut self) {
        let now = self.now;
        match self.random.below(20) {
            0..=4 => {
                let supersedes = (self.random.chance(10) && !self.standing().is_empty()).then(|| self.any());
                let new = NewMemory {
                    tier: Some(*self.random.pick(&[Tier::Working, Tier::Semantic])),
                    ttl: if self.random.chance(20) { Ttl::Seconds(1 + self.random.next() % 60) } else { Ttl::Tier },
                    dedup: Dedup::Off,
                    supersedes,
                    ..memory(&format!("text {}", self.random.below(40)))
                };
                let Ok(stored) = self.space.store(now, new) else { return };
                self.carry_out(&stored.effects);
            }
            5..=11 => {
                let (from, to) = (self.any(), self.any());
                let rel = *self.random.pick(&RELS);
                let weight = (1 + self.random.below(4)) as f64 / 4.0;
                let reason = self.random.chance(20).then_some("because");
                let decided = self.space.link(now, from, to, rel, weight, reason);
                if from == to {
                    assert!(decided.unwrap_err().message().contains("itself"));
                    return;
                }
                let value = (weight, now, reason.map(str::to_owned));
                let old = self.links.get(&(from, to, rel.to_owned()));
                let decided = decided.unwrap();
                if old.is_some_and(|old| (old.0, &old.2) == (value.0, &value.2)) {
                    assert!(decided.is_empty(), "it is there already");
                    return;
                }
                self.links.insert((from, to, rel.to_owned()), value);
                self.carry_out(&decided);
            }
            12 => {
                let (from, to) = self.some_ends();
                let rel = self.random.chance(50).then(|| *self.random.pick(&RELS));
                let before = self.links.len();
                let Ok((taken, effects)) = self.space.unlink(now, from, to, rel) else { return };
                self.links.retain(|(a, b, name), _| (*a, *b) != (from, to) || rel.is_some_and(|rel| rel != name));
                assert_eq!(taken, before - self.links.len());
                self.carry_out(&effects);
            }
            13 => {
                let gone = self.any();
                let effects = self.space.forget_effects(&[gone]);
                self.forgotten(&[gone]);
                self.carry_out(&effects);
            }
            14 => self.now += self.random.next() % 30_000,
            15 => {
                let effects = self.space.trim(now, 100);
                self.carry_out(&effects);
            }
            16 => self.merge(),
            17 => {
                let copy = self.space.copy();
                self.twin = if self.random.chance(50) { copy } else { std::mem::replace(&mut self.space, copy) };
            }
            18 => {
                let other = self.any();
                let effects = self.space.promote(now, other, Tier::Semantic).unwrap_or_default();
                self.carry_out(&effects);
            }
            _ => self.check_walk(),
        }
        self.check();
    }

    fn some_ends(&mut self) -> (MemoryId, MemoryId) {
        let ends: Vec<(MemoryId, MemoryId)> = self.links.keys().map(|(from, to, _)| (*from, *to)).collect();
        if ends.is_empty() { (self.any(), self.any()) } else { *self.random.pick(&ends) }
    }

    fn forgotten(&mut self, ids: &[MemoryId]) {
        self.links.retain(|(from, to, _), _| !ids.contains(from) && !ids.contains(to));
    }

    fn merge(&mut self) {
        let plan =
            self.space.snapshot().plan_consolidation(self.now, &Consolidate::default(), &Findings::default()).unwrap();
        for step in &plan.steps {
            let Some(effects) = self.space.decide_step(self.now, step, &mut BTreeSet::new()) else { continue };
            if let Change::Merge { keep, drop } = &step.change {
                let mut moved = Links::new();
                let into = |id: MemoryId| if drop.contains(&id) { *keep } else { id };
                // What the one that stays has, then of the others in their order: the first of the strongest.
                let rank = |id: &MemoryId| drop.iter().position(|gone| gone == id).map_or(0, |n| n + 1);
                let mut all: Vec<_> = std::mem::take(&mut self.links).into_iter().collect();
                all.sort_by_key(|((from, to, _), _)| rank(from).max(rank(to)));
                for ((from, to, rel), value) in all {
                    let (from, to) = (into(from), into(to));
                    if from != to {
                        let best = moved.entry((from, to, rel)).or_insert_with(|| value.clone());
                        if value.0 > best.0 {
                            *best = value;
                        }
                    }
                }
                self.links = moved;
            }
            self.carry_out(&effects);
        }
    }

    fn check_walk(&mut self) {
        let start = self.any();
        let rel = self.random.chance(40).then(|| *self.random.pick(&RELS));
        let depth = 1 + self.random.below(3);
        let standing = self.standing();
        let Ok(found) = self.space.snapshot().related(self.now, start, rel, depth, 1000) else {
            return assert!(standing.is_empty());
        };
        let same = self.twin.copy().snapshot_for(start).related(self.now, start, rel, depth, 1000).unwrap();
        let keys =
            |found: &[Related]| found.iter().map(|related| (related.entry.id, related.via.clone())).collect::<Vec<_>>();
        assert_eq!(keys(&found), keys(&same), "the place in memory shows");
        let stands = |id| standing.contains_key(&id);
        let reachable = |id| standing.get(&id).is_some_and(|entry| entry.superseded.is_none());
        let expected = spread(&self.links, start, rel, depth, &stands, &reachable);
        assert_eq!(
            found.iter().map(|related| related.entry.id).collect::<BTreeSet<_>>(),
            expected.keys().copied().collect()
        );
        for pair in found.windows(2) {
            assert!((-pair[0].via.activation, pair[0].entry.id) < (-pair[1].via.activation, pair[1].entry.id));
        }
        for related in &found {
            let via = &related.via;
            assert!((via.activation - expected[&related.entry.id]).abs() < 1e-12);
            let (from, to) = if via.outgoing { (via.from, related.entry.id) } else { (related.entry.id, via.from) };
            let value = &self.links[&(from, to, via.rel.to_string())];
            assert_eq!((via.weight, via.at, via.reason.as_deref()), (value.0, value.1, value.2.as_deref()));
        }
    }

    fn check(&self) {
        self.space.check_invariants();
        let standing = self.standing();
        let mut links = Links::new();
        for id in standing.keys() {
            for link in self.space.links_from(*id) {
                links.insert(
                    (link.from, link.to, link.rel.into()),
                    (link.weight, link.at, link.reason.map(String::from)),
                );
            }
        }
        links.retain(|(_, to, _), _| standing.contains_key(to));
        let mut expected = self.links.clone();
        expected.retain(|(from, to, _), _| standing.contains_key(from) && standing.contains_key(to));
        assert_eq!(links, expected);
        assert!(digest(&self.twin) == digest(&self.space), "the twin differs");
        let saved = state(&self.space, 300);
        let loaded = load(&saved);
        loaded.check_invariants();
        assert!(digest(&loaded) == digest(&self.space) && state(&loaded, 300) == saved, "what was saved differs");
        assert_eq!((loaded.links(), loaded.live_bytes()), (self.space.links(), self.space.live_bytes()));
    }
}

#[test]
fn random_links() {
    for seed in 0..60 {
        let mut naive = Naive::new(seed);
        for _ in 0..200 {
            naive.step();
        }
    }
}

#[test]
fn what_a_link_takes() {
    let mut space = filled(400);
    let refused = |space: &Space, from, to, rel: &str, weight| {
        space.link(T0, from, to, rel, weight, None).unwrap_err().message().to_owned()
    };
    let (a, b, none) = (id(0), id(1), MemoryId { ms: 1, seq: 1 });
    assert!(refused(&space, a, none, "r", 1.0).contains("no such memory: 1-1"));
    assert!(refused(&space, none, b, "r", 1.0).contains("no such memory: 1-1"));
    assert!(refused(&space, a, a, "r", 1.0).contains("itself"));
    for weight in [0.0, -0.5, 1.1, f64::NAN, f64::INFINITY] {
        assert!(refused(&space, a, b, "r", weight).contains("above 0 and up to 1"));
    }
    assert!(refused(&space, a, b, "", 1.0).contains("REL"));
    assert!(refused(&space, a, b, &"r".repeat(257), 1.0).contains("256"));
    let long = space.link(T0, a, b, "r", 1.0, Some(&"r".repeat(257)));
    assert!(long.unwrap_err().message().contains("reason"));
    for n in 1..=256 {
        link(&mut space, if n % 2 == 0 { 0 } else { n }, if n % 2 == 0 { n } else { 0 }, "r", 1.0);
    }
    assert!(
        refused(&space, a, id(300), "r", 1.0).contains("256 links")
            && refused(&space, id(300), a, "r", 1.0).contains("MEM.UNLINK")
    );
    let before = digest(&space);
    let more =
        Effect::Link(Box::new(Link { from: a, to: id(300), rel: "r".into(), weight: 1.0, at: T0, reason: None }));
    assert!(space.apply(&more).is_err() && digest(&space) == before);
    // To change one is no new one.
    link(&mut space, 0, 2, "r", 0.5);
    assert_eq!((space.links(), space.links_from(a).len()), (256, 128));
    assert_eq!(space.links_from(a)[0], Link { from: a, to: id(2), rel: "r".into(), weight: 0.5, at: T0, reason: None });
    let depth = |depth, k| space.snapshot().related(T0, a, None, depth, k).unwrap_err().message().to_owned();
    assert!(depth(0, 1).contains("1 to 3") && depth(4, 1).contains("DEPTH") && depth(1, 0).contains("K is 0"));
    assert!(space.snapshot().related(T0, none, None, 1, 1).unwrap_err().message().contains("no such memory"));
    let effects = space.forget_effects(&[a]);
    apply(&mut space, &effects);
    assert_eq!((space.links(), space.memory_parts()[7]), (0, ("links", 0)));
}

/// A full memory takes of a merge the strongest that fit.
#[test]
fn a_merge_moves_links() {
    let mut space = filled(600);
    let again = |importance, n: u64| NewMemory {
        importance: Some(importance),
        tier: Some(Tier::Semantic),
        dedup: Dedup::Off,
        id: Some(id(n)),
        ..memory("twice")
    };
    for (importance, n) in [(0.9, 1000), (0.1, 1001)] {
        store(&mut space, T0, again(importance, n));
    }
    for n in 0..200 {
        link(&mut space, 1000, n, "r", 0.5);
        link(&mut space, n + 100, 1001, "r", 0.25 + (n % 3) as f64 / 4.0);
    }
    link(&mut space, 1000, 1001, "same", 1.0);
    link(&mut space, 1001, 0, "r", 1.0);
    let plan = space.snapshot().plan_consolidation(T0 + 2000, &Consolidate::default(), &Findings::default()).unwrap();
    let merge = plan.steps.iter().find(|step| matches!(step.change, Change::Merge { .. })).unwrap();
    let effects = sent(&space.decide_step(T0 + 2000, merge, &mut BTreeSet::new()).unwrap());
    apply(&mut space, &effects);
    space.check_invariants();
    let into: usize = (0..600).map(|n| space.links_from(id(n)).len()).sum();
    let from = space.links_from(id(1000));
    assert_eq!((from.len(), into), (200, 56), "256 in all");
    assert_eq!((from[0].weight, from[1].weight), (1.0, 0.5), "the stronger of two");
    assert!((0..600).flat_map(|n| space.links_from(id(n))).all(|link| link.weight == 0.75 && link.to == id(1000)));
}

#[test]
fn how_activation_spreads() {
    let mut space = filled(10);
    // 0 -> 1 (1), 2 -> 0 (0.5); 1 -> 3 (1), 2 -> 3 (1); 3 -> 4.
    for (from, to, weight) in [(0, 1, 1.0), (2, 0, 0.5), (1, 3, 1.0), (2, 3, 1.0), (3, 4, 1.0)] {
        link(&mut space, from, to, "r", weight);
    }
    let near = |found: Vec<(u64, f64)>, expected: &[(u64, f64)]| {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-12, "{found:?} {expected:?}");
        }
    };
    let root = |n: f64| 0.5 / n.sqrt();
    let (one, two) = (root(2.0), root(2.0) * 0.5);
    near(related(&space, 0, None, 1), &[(1, one), (2, two)]);
    let three = one * root(2.0) + two * root(2.0);
    near(related(&space, 0, None, 2), &[(1, one), (3, three), (2, two)]);
    near(related(&space, 0, None, 3), &[(1, one), (3, three), (2, two), (4, three * root(3.0))]);
    near(related(&space, 0, Some("other"), 3), &[]);
    // Superseded: neither reached nor gone through.
    let new = NewMemory { supersedes: Some(id(3)), ..memory("newer") };
    store(&mut space, T0, new);
    near(related(&space, 0, None, 3), &[(1, one), (2, two)]);
    // One begins from it all the same.
    assert_eq!(related(&space, 3, None, 1).len(), 3);
}

fn vectors() -> Space {
    let mut space = precise();
    for (n, vector) in [[1.0, 0.0], [0.9, 0.3], [0.5, 0.8], [0.1, 1.0], [-1.0, 0.1], [-0.9, 0.4]].iter().enumerate() {
        let new = NewMemory {
            tier: Some(if n == 4 { Tier::Episodic } else { Tier::Semantic }),
            session: (n == 5).then(|| "s".into()),
            ..with_vector(&format!("number {n}"), vector)
        };
        store(&mut space, T0 + n as u64, new);
    }
    space
}

fn found(space: &Space, recall: Recall) -> Vec<u64> {
    let hits = space.snapshot().recall(T0, &recall).unwrap().hits;
    hits.iter().map(|hit| hit.entry.id.ms - T0).collect()
}

#[test]
fn recall_follows_links() {
    let mut space = vectors();
    let plain = Recall { queries: vec![vec![1.0, 0.0]], k: 3, explain: true, ..Recall::default() };
    let expand = |depth| Recall { expand: Some(depth), ..plain.clone() };
    // Without links the order is that of the plain recall, whatever K.
    for k in 1..=6 {
        let plain = Recall { k, ..plain.clone() };
        assert_eq!(found(&space, Recall { k, ..expand(2) }), found(&space, plain));
    }
    assert_eq!(found(&space, plain.clone()), [0, 1, 2]);
    link(&mut space, 0, 4, "causes", 1.0);
    link(&mut space, 5, 4, "mentions", 1.0);
    // The best was 1 and gives a half of it: more than the third is worth.
    let hits = space.snapshot().recall(T0, &expand(1)).unwrap().hits;
    assert_eq!(hits.iter().map(|hit| hit.entry.id.ms - T0).collect::<Vec<_>>(), [0, 1, 2]);
    let all = Recall { k: 6, ..expand(1) };
    let hits = space.snapshot().recall(T0, &all).unwrap().hits;
    let of = |hits: &[Hit], n: u64| hits.iter().find(|hit| hit.entry.id == id(n)).unwrap().clone();
    let linked = of(&hits, 4);
    let via = linked.via.clone().unwrap();
    assert_eq!((via.from, &*via.rel, via.outgoing, via.weight, via.depth), (id(0), "causes", true, 1.0, 0));
    for hit in &hits {
        let sum: f64 = hit.parts.iter().map(|(_, part)| part).sum();
        assert!((sum - hit.score).abs() < 1e-9, "{:?} make up {}", hit.parts, hit.score);
        assert_eq!(hit.via.is_some(), hit.parts.iter().any(|(name, _)| name == "links"));
    }
    assert!((hits[0].score - 1.0).abs() < 1e-12, "the best has 1, for nothing comes back to it");
    // With a least cosine only what is near is found, and what it leads to comes behind it.
    let near = Recall { min_score: Some(0.5), k: 4, ..expand(1) };
    assert_eq!(found(&space, near.clone()), [0, 1, 2, 4].map(|n| n as u64));
    assert_eq!(found(&space, Recall { expand: Some(2), k: 6, ..near.clone() }), [0, 1, 2, 4, 5]);
    // What links lead to passes the same filters, and nothing goes through what does not.
    for recall in [
        Recall { tiers: Some(vec![Tier::Semantic]), ..near.clone() },
        Recall { filter: Some(Filter::parse(".tier == \"semantic\"").unwrap()), ..near.clone() },
        Recall { until: Some(T0 + 3), ..near.clone() },
    ] {
        assert_eq!(found(&space, Recall { expand: Some(3), k: 6, ..recall }), [0, 1, 2]);
    }
    let like = Recall { like: Some(id(4)), queries: Vec::new(), k: 6, ..expand(2) };
    assert!(!found(&space, like).contains(&4), "what others are to be like is left out");
    // Superseded since: neither found nor gone through, unless one asks how things stood before.
    let newer = NewMemory { supersedes: Some(id(4)), at: Some(T0 + 50), ..memory("newer") };
    store(&mut space, T0, newer);
    assert_eq!(found(&space, Recall { expand: Some(3), k: 6, ..near.clone() }), [0, 1, 2]);
    let before = Recall { expand: Some(2), k: 6, as_of: Some(T0 + 10), ..near };
    assert_eq!(found(&space, before), [0, 1, 2, 4, 5]);
    for depth in [0, 4] {
        let error = space.snapshot().recall(T0, &expand(depth)).unwrap_err();
        assert!(error.message().contains("EXPAND") && error.message().contains("1 to 3"));
    }
}

/// A snapshot walks the links that there were.
#[test]
fn snapshots_keep_their_links() {
    let mut space = vectors();
    link(&mut space, 0, 4, "causes", 1.0);
    let snapshot = space.snapshot();
    link(&mut space, 0, 5, "causes", 1.0);
    let (_, effects) = space.unlink(T0, id(0), id(4), None).unwrap();
    apply(&mut space, &effects);
    let of = |snapshot: &Snapshot| {
        let found = snapshot.related(T0, id(0), None, 1, 10).unwrap();
        found.iter().map(|related| related.entry.id.ms - T0).collect::<Vec<_>>()
    };
    assert_eq!((of(&snapshot), of(&space.snapshot())), (vec![4], vec![5]));
    let effects = space.forget_effects(&[id(0), id(5)]);
    apply(&mut space, &effects);
    assert_eq!(of(&snapshot), [4]);
}

/// What links take is counted, and is in what `max-memory` bounds.
#[test]
fn links_take_memory() {
    let mut space = filled(200);
    let (usage, live) = (space.memory_usage(), space.live_bytes());
    let before = crate::counting::held();
    for n in 0..199 {
        link(&mut space, n, n + 1, "mentions", 1.0);
        link(&mut space, n + 1, n, "a name of more than a few bytes", 1.0);
    }
    let real = (crate::counting::held() - before) as f64;
    for said in [space.memory_usage() - usage, space.live_bytes() - live] {
        assert!((said as f64 / real - 1.0).abs() < 0.25, "says {said}, takes {real}");
    }
}

#[test]
fn lines_of_links() {
    let mut space = vectors();
    link(&mut space, 0, 4, "causes", 0.5);
    link(&mut space, 4, 0, "causes", 1.0);
    let effects = space.link(T0 + 7, id(2), id(1), "mentions", 0.1, Some("the same session")).unwrap();
    apply(&mut space, &effects);
    let lines = |space: &Space| {
        let (mut lines, mut cursor) = (Vec::new(), "0".to_owned());
        loop {
            let page = space.export(T0, &cursor, 2).unwrap();
            assert!(page.len() <= 2);
            cursor = page.next().to_owned();
            lines.extend(page.lines());
            if cursor == "0" {
                return lines;
            }
        }
    };
    let exported = lines(&space);
    let links: Vec<&String> = exported.iter().filter(|line| line.starts_with("{\"link\"")).collect();
    assert_eq!(links.len(), 3);
    let line: serde_json::Value = serde_json::from_str(links[1]).unwrap();
    let (from, to) = (id(2).to_string(), id(1).to_string());
    let expected = serde_json::json!({
        "from": from, "to": to, "rel": "mentions", "weight": 0.1, "at": T0 + 7, "reason": "the same session"
    });
    assert_eq!(line["link"], expected);
    let objects =
        |lines: &[String]| lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Meta>>();
    let mut copy = Space::new();
    let (imported, effects) = copy.import(T0, &objects(&exported), false).unwrap();
    assert_eq!(imported.written, exported.len());
    apply(&mut copy, &sent(&effects));
    copy.check_invariants();
    assert!(digest(&copy) == digest(&space) && lines(&copy) == exported);
    let (again, effects) = copy.import(T0, &objects(&exported), false).unwrap();
    assert_eq!((again.written, effects.len()), (0, 0));
    // A memory that takes the place of another of its id has its links.
    let changed: Vec<String> = exported
        .iter()
        .filter(|line| line.contains("number 4") && line.starts_with("{\"memory\""))
        .map(|line| line.replace("number 4", "number four"))
        .collect();
    let (_, effects) = copy.import(T0, &objects(&changed), true).unwrap();
    apply(&mut copy, &effects);
    copy.check_invariants();
    assert_eq!((&*get(&copy, T0, id(4)).content, copy.links()), ("number four", 3));
    let line = |from: MemoryId, to: MemoryId, rest: &str| {
        format!("{{\"link\":{{\"from\":\"{from}\",\"to\":\"{to}\",\"rel\":\"causes\"{rest}}}}}")
    };
    let refused =
        |copy: &Space, lines: &[String]| copy.import(T0, &objects(lines), false).unwrap_err().message().to_owned();
    assert!(refused(&copy, &[line(id(0), id(4), "")]).contains("line 1: the link from"));
    // An end may have expired since the line was written.
    let (aged, effects) = copy.import(T0, &objects(&[line(id(0), id(99), "")]), false).unwrap();
    assert_eq!((aged.unchanged, effects.len()), (1, 0));
    assert!(refused(&copy, &[line(id(0), id(0), "")]).contains("itself"));
    assert!(refused(&copy, &[line(id(1), id(0), ",\"weight\":2")]).contains("above 0"));
    assert!(refused(&copy, &[line(id(1), id(0), ",\"wieght\":2")]).contains("did you mean weight?"));
    assert!(refused(&copy, &[line(id(1), id(0), ""), line(id(1), id(0), ",\"weight\":0.5")]).contains("twice"));
    let (imported, effects) =
        copy.import(T0, &objects(&[line(id(0), id(4), ""), line(id(4), id(0), "")]), true).unwrap();
    assert_eq!((imported.written, imported.unchanged, effects.len()), (1, 1, 1));
    apply(&mut copy, &effects);
    assert_eq!(copy.links_from(id(0))[0].weight, 1.0);
}
