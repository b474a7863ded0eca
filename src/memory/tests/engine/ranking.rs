//! What a recall goes by: vectors, words, what is around, and what the caller wishes.

use crate::support::*;
use engram_memory::*;

fn turn(content: &str, speaker: &str, at: Millis, vector: &[f32]) -> NewMemory {
    NewMemory {
        speaker: Some(speaker.into()),
        session: Some("s".into()),
        at: Some(at),
        tier: Some(Tier::Episodic),
        vectors: Vectors::Embedded { model: "m".into(), template: 2, windows: vec![vector.to_vec()], words: vec![] },
        ..memory(content)
    }
}

fn ask(space: &Space, recall: Recall) -> Vec<Hit> {
    space.snapshot().recall(T0, &recall).unwrap().hits
}

fn query(text: Option<&str>, vector: Option<&[f32]>) -> Recall {
    Recall {
        text: text.map(Into::into),
        queries: vector.map(<[f32]>::to_vec).into_iter().collect(),
        k: 10,
        ..Recall::default()
    }
}

/// Four turns of one session and a memory of none.
fn talk() -> (Space, Vec<MemoryId>) {
    let mut space = precise();
    let day = 1_683_554_160_000;
    let turns = [
        turn("Where did you go on holiday?", "Ann", day, &[0.8, 0.6, 0.0]),
        turn("Lisbon, it was lovely", "Bob", day + 1, &[0.6, 0.0, 0.8]),
        turn("I see", "Ann", day + 2, &[0.0, 0.6, 0.8]),
        turn("We ate grilled sardines by the river every evening", "Bob", day + 3, &[0.0, 0.0, 1.0]),
        NewMemory { vectors: Vectors::None, ..memory("The holiday calendar hangs in the kitchen") },
    ];
    let ids = turns.into_iter().map(|new| store(&mut space, T0, new)).collect();
    (space, ids)
}

fn ids(hits: &[Hit]) -> Vec<MemoryId> {
    hits.iter().map(|hit| hit.entry.id).collect()
}

#[test]
fn words_alone_are_bm25() {
    let (space, id) = talk();
    let hits = ask(&space, query(Some("holidays"), None));
    // Two documents of five have the word; one is shorter (5 words that count, with who and when, against 4).
    assert_eq!(hits.len(), 2);
    assert!(ids(&hits).contains(&id[0]) && ids(&hits).contains(&id[4]));
    assert!(hits.iter().all(|hit| hit.similarity.is_none() && hit.score > 0.0));
    // Who and when are words of the memory too.
    assert_eq!(ids(&ask(&space, query(Some("May"), None))).len(), 4);
    assert_eq!(
        ids(&ask(
            &space,
            Recall { mode: Some(Mode::Lexical), ..query(Some("bob's sardines"), Some(&[1.0, 0.0, 0.0])) }
        ))[0],
        id[3]
    );
    assert!(ask(&space, query(Some("zebra"), None)).is_empty());
    let least = ask(&space, query(Some("holidays"), None))[0].score;
    assert_eq!(ask(&space, Recall { min_score: Some(least), ..query(Some("holidays"), None) }).len(), 1);
}

#[test]
fn scores_say_where_they_come_from() {
    let (space, id) = talk();
    let hits =
        ask(&space, Recall { explain: true, ..query(Some("Where was Bob on holiday?"), Some(&[1.0, 0.0, 0.0])) });
    assert_eq!(hits.len(), 5, "whatever has a vector or a word, and what is around it");
    for hit in &hits {
        let sum: f64 = hit.parts.iter().filter(|(name, _)| !name.starts_with("word:")).map(|(_, part)| part).sum();
        assert!((sum - hit.score).abs() < 1e-9, "{:?}", hit.parts);
    }
    let hit = |n: usize| hits.iter().find(|hit| hit.entry.id == id[n]).unwrap();
    let part = |n: usize, name: &str| hit(n).parts.iter().find(|(own, _)| own == name).map(|(_, part)| *part);
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
    near(part(0, "vector").unwrap(), 0.5 * (0.8 - 0.3) / 0.6);
    near(part(4, "vector").unwrap(), 0.0);
    near(part(0, "length").unwrap(), 0.3 * 2f64.ln_1p() / 20f64.ln_1p());
    // The answer follows the question: 0.4 of the turn before, 0.2 of the others; and their words count with its own.
    let vector = |n: usize| part(n, "vector").unwrap();
    let (before, behind) = (0.4 * vector(0) + 0.2 * vector(2) + 0.2 * vector(3), 0.2 * vector(1) + 0.2 * vector(2));
    assert!(part(1, "around").unwrap() > before + 0.01, "the turn before says holiday");
    assert!(part(0, "around").unwrap() > behind, "Bob is named by what is behind");
    assert_eq!(part(4, "around"), Some(0.0));
    // Bob is asked about, and he alone.
    assert_eq!((part(1, "speaker"), part(3, "speaker"), part(0, "speaker")), (Some(0.2), Some(0.2), None));
    assert!(part(0, "word:holiday").is_some_and(|part| part > 0.0), "{:?}", hit(0).parts);
    let both = ask(&space, Recall { explain: true, ..query(Some("Ann and Bob"), Some(&[1.0, 0.0, 0.0])) });
    assert!(both.iter().all(|hit| hit.parts.iter().all(|(name, _)| name != "speaker")));
    let unsaid = ask(&space, Recall { explain: true, ..query(Some("zebra"), Some(&[1.0, 0.0, 0.0])) });
    for (n, around) in [(1, before), (0, behind)] {
        let hit = unsaid.iter().find(|hit| hit.entry.id == id[n]).unwrap();
        near(hit.parts.iter().find(|(name, _)| name == "around").unwrap().1, around);
    }
}

#[test]
fn a_space_is_ranked_by_what_it_says() {
    let (mut space, id) = talk();
    let names = |space: &Space| {
        let hits =
            ask(space, Recall { explain: true, ..query(Some("Where was Bob on holiday?"), Some(&[1.0, 0.0, 0.0])) });
        let hit = hits.into_iter().find(|hit| hit.entry.id == id[1]).unwrap();
        hit.parts
            .into_iter()
            .filter(|(name, part)| *part != 0.0 && !name.starts_with("word:"))
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    for (ranking, parts) in [
        ("all", vec!["vector", "words", "around", "length", "speaker"]),
        ("speaker,length", vec!["vector", "words", "length", "speaker"]),
        ("around", vec!["vector", "words", "around"]),
        ("none", vec!["vector", "words"]),
    ] {
        space.apply(&Effect::Set { name: "ranking".into(), value: ranking.into() }).unwrap();
        assert_eq!(names(&space), parts, "{ranking}");
    }
}

#[test]
fn a_filter_changes_no_score() {
    let (space, _) = talk();
    let recall = query(Some("Where was Bob on holiday?"), Some(&[1.0, 0.0, 0.0]));
    let all = ask(&space, recall.clone());
    let filter = Some(space.filter(".speaker == 'Bob'").unwrap());
    let some = ask(&space, Recall { filter, k: 2, ..recall });
    assert_eq!(some.len(), 2);
    for hit in some {
        let same = all.iter().find(|other| other.entry.id == hit.entry.id).unwrap();
        assert_eq!(hit.score.to_bits(), same.score.to_bits());
    }
}

#[test]
fn like_a_memory() {
    let (space, id) = talk();
    let hits = ask(&space, Recall { like: Some(id[1]), k: 10, ..Recall::default() });
    assert!(!ids(&hits).contains(&id[1]) && !hits.is_empty());
    let dense = ask(&space, Recall { like: Some(id[3]), mode: Some(Mode::Dense), k: 3, ..Recall::default() });
    assert_eq!(ids(&dense)[0], id[1], "as near as another, and older");
    let nobody = MemoryId { ms: 5, seq: 5 };
    let error = space.snapshot().recall(T0, &Recall { like: Some(nobody), k: 1, ..Recall::default() }).unwrap_err();
    assert!(error.message().contains("no such memory: 5-5"));
}

#[test]
fn wishes() {
    let mut space = precise();
    let new = |content: &str, x: f32, importance, outcome: Option<&str>, at| NewMemory {
        importance: Some(importance),
        outcome: outcome.map(Into::into),
        at: Some(at),
        ..with_vector(content, &[x, (1.0 - x * x).sqrt()])
    };
    let day = 86_400_000;
    let a = store(&mut space, T0, new("a", 0.9, 0.1, None, T0 - 60 * day));
    let b = store(&mut space, T0, new("b", 0.8, 1.0, None, T0 - 30 * day));
    let c = store(&mut space, T0, new("c", 0.7, 0.5, Some("task_completed"), T0));
    let plain = query(None, Some(&[1.0, 0.0]));
    assert_eq!(ids(&ask(&space, plain.clone())), [a, b, c]);
    let weights = |relevance, recency, importance, usage| Recall {
        weights: Some(Weights { relevance, recency, importance, usage }),
        ..plain.clone()
    };
    assert_eq!(ids(&ask(&space, weights(1.0, 0.0, 0.0, 0.0))), [a, b, c]);
    let recent = ask(&space, weights(0.0, 1.0, 0.0, 0.0));
    assert_eq!(ids(&recent), [c, b, a]);
    assert!((recent[1].score - 0.5).abs() < 1e-9 && (recent[2].score - 0.25).abs() < 1e-9, "30 days halve");
    let hourly = ask(&space, Recall { half_life: Some(60 * 86_400), ..weights(0.0, 1.0, 0.0, 0.0) });
    assert!((hourly[2].score - 0.5).abs() < 1e-9);
    assert_eq!(ids(&ask(&space, weights(1.0, 0.0, 1.0, 0.0))), [b, c, a]);
    (0..200).for_each(|n| space.touch(a, T0 + n));
    assert_eq!(ids(&ask(&space, weights(0.0, 0.0, 0.0, 1.0)))[0], a);
    let preferred = Recall { prefer: vec![("task_completed".into(), 0.75)], ..plain.clone() };
    assert_eq!(ids(&ask(&space, preferred)), [a, c, b]);
    for bad in [
        weights(-1.0, 0.0, 0.0, 0.0),
        weights(0.0, 0.0, 0.0, 0.0),
        weights(f64::NAN, 0.0, 0.0, 1.0),
        Recall { half_life: Some(0), ..plain.clone() },
        Recall { mmr: Some(1.5), ..plain.clone() },
        Recall { prefer: vec![("x".into(), f64::INFINITY)], ..plain.clone() },
        Recall { prefer: vec![("x".into(), f64::NAN)], ..plain.clone() },
        Recall { prefer: vec![("x".into(), 1.01)], ..plain.clone() },
        Recall { prefer: vec![("x".into(), -0.0)], ..plain.clone() },
        Recall { prefer: vec![("x".into(), 0.5), ("x".into(), -0.5)], ..plain.clone() },
        Recall { prefer: (0..9).map(|n| (n.to_string(), 0.5)).collect(), ..plain.clone() },
        Recall { mode: Some(Mode::Lexical), ..plain.clone() },
        Recall { queries: vec![], text: Some("a".into()), mode: Some(Mode::Dense), ..plain.clone() },
    ] {
        assert!(space.snapshot().recall(T0, &bad).is_err(), "{bad:?}");
    }
}

#[test]
fn variety() {
    let mut space = precise();
    let at = |degrees: f32| [degrees.to_radians().cos(), degrees.to_radians().sin()];
    let a = store(&mut space, T0, with_vector("a", &at(10.0)));
    let twin = store(&mut space, T0, with_vector("its twin", &at(11.0)));
    let other = store(&mut space, T0, with_vector("another", &at(-40.0)));
    let recall = Recall { k: 2, ..query(None, Some(&at(0.0))) };
    assert_eq!(ids(&ask(&space, recall.clone())), [a, twin]);
    let varied = ask(&space, Recall { mmr: Some(0.5), ..recall.clone() });
    assert_eq!(ids(&varied), [a, other]);
    assert!(varied[0].score >= varied[1].score);
    assert_eq!(ids(&ask(&space, Recall { mmr: Some(1.0), ..recall })), [a, twin]);
}

/// What another memory took the place of is out of recall, and there for whoever asks how things stood.
#[test]
fn superseded() {
    let mut space = precise();
    let at = |content: &str, at, x: f32| NewMemory {
        at: Some(at),
        tier: Some(Tier::Working),
        ..with_vector(content, &[1.0, x])
    };
    let effects = space.set(T0, "working.capacity", "2").unwrap();
    apply(&mut space, &effects);
    let old = store(&mut space, T0, at("lives in Rome", T0 - 100, 0.0));
    let new = store(&mut space, T0 + 1, NewMemory { supersedes: Some(old), ..at("lives in Oslo", T0 - 50, 0.1) });
    let all = |recall: Recall| ids(&ask(&space, recall));
    let recall = query(None, Some(&[1.0, 0.0]));
    assert_eq!(all(recall.clone()), [new]);
    assert_eq!(all(Recall { as_of: Some(T0 - 51), ..recall.clone() }), [old]);
    assert_eq!(all(Recall { as_of: Some(T0 - 50), ..recall.clone() }), [new]);
    assert_eq!(all(Recall { as_of: Some(T0 - 101), ..recall.clone() }), []);
    let entry = space.get(T0, old).unwrap();
    assert_eq!(entry.superseded, Some(Superseded { by: new, at: T0 - 50 }));
    assert_eq!(space.get(T0, new).unwrap().supersedes, Some(old));
    assert_eq!(all(Recall { filter: Some(space.filter(".superseded > 0").unwrap()), ..recall.clone() }), []);
    assert_eq!(space.count(T0, Some(&space.filter(".superseded > 0").unwrap())), 1);
    // It takes no place, and once superseded it cannot be again.
    let third = store(&mut space, T0 + 2, at("likes tea", T0, 0.2));
    assert_eq!((count(&space, T0, Tier::Working), space.stats(T0).superseded, space.len()), (2, 1, 3));
    let error = refused(&space, T0 + 3, NewMemory { supersedes: Some(old), ..at("lives in Paris", T0, 0.0) });
    assert!(error.message().contains(&format!("superseded by {new} already")), "{error}");
    let error = refused(&space, T0 + 3, NewMemory { supersedes: Some(MemoryId { ms: 1, seq: 1 }), ..at("x", T0, 0.0) });
    assert!(error.message().contains("no such memory: 1-1"), "{error}");
    // The tier is full, and the new one takes the place of the one that it supersedes.
    let stored = space.store(T0 + 4, NewMemory { supersedes: Some(third), ..at("likes coffee", T0 + 4, 0.0) }).unwrap();
    assert_eq!(removed(&stored.effects, Removal::Evicted), []);
    apply(&mut space, &stored.effects);
    // The same as the old one may become true again: that is no duplicate.
    let again = NewMemory { supersedes: Some(new), ..at("lives in Rome", T0 + 5, 0.0) };
    let stored = space.store(T0 + 5, again).unwrap();
    assert!(!stored.duplicate);
    apply(&mut space, &stored.effects);
    space.check_invariants();
    let reloaded = load(&state(&space, 1000));
    reloaded.check_invariants();
    assert_eq!(digest(&reloaded), digest(&space));
    assert_eq!(reloaded.stats(T0).superseded, 3);
}

#[test]
fn variety_needs_no_positive_scores() {
    let mut space = precise();
    let ids: Vec<MemoryId> = [("across", [0.0, 1.0]), ("opposite", [-1.0, 0.0]), ("nearly opposite", [-1.0, 0.5])]
        .iter()
        .map(|(content, vector)| store(&mut space, T0, with_vector(content, vector)))
        .collect();
    let hits = ask(&space, Recall { mmr: Some(0.5), ..query(None, Some(&[1.0, 0.0])) });
    assert!(hits.iter().all(|hit| hit.score.is_finite()), "{hits:?}");
    assert_eq!((hits.len(), hits[0].entry.id), (3, ids[0]), "the best by relevance comes first");
}
