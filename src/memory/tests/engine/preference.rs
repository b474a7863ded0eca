//! Recall that prefers outcomes, against a model that knows nothing of how a search goes.

use crate::support::*;
use engram_memory::*;
use proptest::prelude::*;

const OUTCOMES: [&str; 4] = ["task_completed", "re_engaged", "distracted", "own"];
const WORDS: [&str; 6] = ["river", "garden", "engine", "letter", "winter", "bread"];

/// Some memories with vectors, words, outcomes, importances, and now and then a session.
fn space_of(seed: u64, memories: usize) -> Space {
    let mut random = Random(seed);
    let mut space = precise();
    for n in 0..memories {
        // Some are as near as others.
        let vector = if random.chance(30) { vec![1.0, 0.5, 0.25] } else { random.vector(3) };
        let words: Vec<&str> = (0..1 + random.below(4)).map(|_| *random.pick(&WORDS)).collect();
        let new = NewMemory {
            outcome: random.chance(60).then(|| (*random.pick(&OUTCOMES)).to_owned()),
            importance: Some(random.unit()),
            session: random.chance(40).then(|| "s".to_owned()),
            vectors: Vectors::Embedded { model: "m".into(), template: 1, windows: vec![vector], words: vec![] },
            dedup: Dedup::Off,
            tier: Some(Tier::Semantic),
            ..memory(&format!("{} {n}", words.join(" ")))
        };
        store(&mut space, T0 + n as u64, new);
    }
    space
}

fn by_score(a: &(f64, MemoryId), b: &(f64, MemoryId)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// All scores without a preference, the share of their spread added to those with the outcome, in order.
    #[test]
    fn ranks_are_those_of_the_definition(
        seed in any::<u64>(),
        memories in 0usize..60,
        k in 1usize..40,
        mode in prop::option::of(prop::sample::select(vec![Mode::Dense, Mode::Lexical, Mode::Hybrid])),
        wanted in prop::collection::vec((0usize..4, prop::sample::select(vec![-1.0, -0.4, 0.01, 0.5, 1.0])), 1..4),
        weighed in any::<bool>(),
        floor in prop::option::of(-0.5f64..0.9),
    ) {
        let space = space_of(seed, memories);
        let mut prefer: Vec<(String, f64)> = wanted.into_iter().map(|(n, weight)| (OUTCOMES[n].to_owned(), weight)).collect();
        prefer.sort_by(|a, b| a.0.cmp(&b.0));
        prefer.dedup_by(|a, b| a.0 == b.0);
        let plain = Recall {
            text: Some("the river in winter".into()),
            queries: vec![vec![1.0, 0.25, 0.0]],
            mode,
            k: 1000,
            min_score: floor,
            weights: weighed.then_some(Weights { relevance: 2.0, recency: 0.0, importance: 1.0, usage: 0.0 }),
            explain: true,
            ..Recall::default()
        };
        let snapshot = space.snapshot();
        let all = snapshot.recall(T0 + DAY, &plain).unwrap().hits;
        let scores = || all.iter().map(|hit| hit.score);
        let spread = (scores().fold(f64::MIN, f64::max) - scores().fold(f64::MAX, f64::min)).max(1e-6);
        let by = |hit: &Hit| {
            let outcome = hit.entry.outcome.as_deref();
            prefer.iter().find(|(wanted, _)| Some(wanted.as_str()) == outcome).map(|(_, weight)| weight * spread)
        };
        let mut expected: Vec<(f64, MemoryId)> =
            all.iter().map(|hit| (by(hit).map_or(hit.score, |part| hit.score + part), hit.entry.id)).collect();
        expected.sort_by(by_score);
        expected.truncate(k);

        let preferring = Recall { prefer: prefer.clone(), k, ..plain.clone() };
        let found = snapshot.recall(T0 + DAY, &preferring).unwrap().hits;
        let ranked: Vec<(f64, MemoryId)> = found.iter().map(|hit| (hit.score, hit.entry.id)).collect();
        prop_assert_eq!(ranked, expected);
        prop_assert_eq!(found.len(), k.min(all.len()), "as many as without a preference");
        for hit in &found {
            let same = all.iter().find(|other| other.entry.id == hit.entry.id).unwrap();
            prop_assert_eq!(hit.similarity, same.similarity);
            let part = hit.parts.iter().find(|(name, _)| name == "outcome").map(|(_, part)| *part);
            prop_assert_eq!(part, by(hit));
            let sum: f64 = hit.parts.iter().filter(|(name, _)| !name.starts_with("word:")).map(|(_, part)| part).sum();
            prop_assert!((sum - hit.score).abs() < 1e-9);
        }
        // Relevance alone keeps the order; variety takes no result away.
        let order = |mmr| {
            let hits = snapshot.recall(T0 + DAY, &Recall { mmr: Some(mmr), ..preferring.clone() }).unwrap().hits;
            hits.iter().map(|hit| hit.entry.id).collect::<Vec<_>>()
        };
        prop_assert_eq!(order(0.3).len(), found.len());
        prop_assert_eq!(order(1.0), found.iter().map(|hit| hit.entry.id).collect::<Vec<_>>());
    }
}

/// A preference is for what is found: of more than are looked at more closely K come back all the same, and K changes no score.
#[test]
fn many_memories() {
    let space = space_of(7, 400);
    for mode in [Mode::Dense, Mode::Lexical, Mode::Hybrid] {
        let recall = Recall {
            text: Some("river bread".into()),
            queries: vec![vec![1.0, 0.25, 0.0]],
            mode: Some(mode),
            prefer: vec![("own".into(), 1.0), ("distracted".into(), -1.0)],
            ..Recall::default()
        };
        let ask = |k| space.snapshot().recall(T0 + DAY, &Recall { k, ..recall.clone() }).unwrap().hits;
        let (few, more) = (ask(10), ask(20));
        assert_eq!((few.len(), more.len()), (10, 20), "{mode:?}");
        for (a, b) in few.iter().zip(&more) {
            assert_eq!((a.entry.id, a.score.to_bits()), (b.entry.id, b.score.to_bits()), "{mode:?}");
        }
        assert_eq!(few[0].entry.outcome.as_deref(), Some("own"), "{mode:?}");
    }
}
