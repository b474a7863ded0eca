//! Recall: order, filters, windows, bounds, many rows.

use crate::support::*;
use engram_memory::*;

fn ask(space: &Space, recall: Recall) -> Vec<MemoryId> {
    space.snapshot().recall(T0, &recall).unwrap().hits.iter().map(|hit| hit.entry.id).collect()
}

fn large(dim: usize, count: usize) -> (Space, Random, Vec<MemoryId>) {
    let mut random = Random(7);
    let mut space = precise();
    let ids = (0..count)
        .map(|n| {
            let new = NewMemory { tier: Some(Tier::LongTerm), ..with_vector(&format!("m{n}"), &random.vector(dim)) };
            store(&mut space, T0 + n as u64, new)
        })
        .collect();
    (space, random, ids)
}

#[test]
fn order_and_scores() {
    let mut space = precise();
    assert!(recall(&space, T0, &[1.0, 0.0], 5).is_empty());
    let ids: Vec<MemoryId> = [[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [5.0, 5.0]]
        .iter()
        .enumerate()
        .map(|(n, vector)| store(&mut space, T0, with_vector(&format!("m{n}"), vector)))
        .collect();
    store(&mut space, T0, memory("no vector"));
    let hits = recall(&space, T0, &[3.0, 0.0], 10);
    let order: Vec<MemoryId> = hits.iter().map(|hit| hit.entry.id).collect();
    assert_eq!(order, [ids[1], ids[0], ids[3], ids[4], ids[2]], "equal scores by id");
    assert_eq!((hits[0].similarity, hits[4].similarity), (Some(1.0), Some(-1.0)));
    assert!((hits[1].similarity.unwrap() - 0.5f64.sqrt()).abs() < 1e-6);
    // Ties at the edge: the lower ids are in.
    for k in 1..=5 {
        assert_eq!(recall(&space, T0, &[3.0, 0.0], k).iter().map(|hit| hit.entry.id).collect::<Vec<_>>(), order[..k]);
    }
    let query = || Recall { queries: vec![vec![1.0, 0.0]], k: 10, ..Recall::default() };
    assert_eq!(ask(&space, Recall { min_score: Some(0.9), ..query() }), [ids[1]]);
    assert_eq!(ask(&space, Recall { min_score: Some(1.0), ..query() }), [ids[1]]);
    assert_eq!(
        ask(&space, Recall { queries: vec![vec![1.0, 0.0], vec![-1.0, 0.0]], k: 2, ..Recall::default() }),
        [ids[1], ids[2]]
    );
    let hit = &hits[1];
    assert_eq!(space.snapshot().vectors(hit).len(), 1);
}

#[test]
fn what_is_asked_for() {
    let mut space = precise();
    let mut add = |n: u64, tier, session: Option<&str>, at, tags: &[&str]| {
        let new = NewMemory {
            tier: Some(tier),
            session: session.map(Into::into),
            at: Some(at),
            tags: tags.iter().map(|tag| (*tag).into()).collect(),
            ..with_vector(&format!("m{n}"), &[1.0, n as f32])
        };
        store(&mut space, T0, new)
    };
    let a = add(0, Tier::Working, Some("s"), 10, &["x"]);
    let b = add(1, Tier::LongTerm, None, 20, &["x", "y"]);
    let c = add(2, Tier::Semantic, Some("t"), 30, &[]);
    let query = || Recall { queries: vec![vec![1.0, 0.0]], k: 10, ..Recall::default() };
    assert_eq!(ask(&space, query()), [a, b, c]);
    assert_eq!(ask(&space, Recall { tiers: Some(vec![Tier::Semantic, Tier::Working]), ..query() }), [a, c]);
    assert_eq!(ask(&space, Recall { tiers: Some(vec![]), ..query() }), []);
    assert_eq!(ask(&space, Recall { session: Some("t".into()), ..query() }), [c]);
    assert_eq!(ask(&space, Recall { since: Some(20), ..query() }), [b, c]);
    assert_eq!(ask(&space, Recall { until: Some(20), ..query() }), [a, b]);
    let filter = Some(space.filter("'x' in .tags and .at > 10").unwrap());
    assert_eq!(ask(&space, Recall { filter, ..query() }), [b]);
}

#[test]
fn bad_questions() {
    let mut space = precise();
    store(&mut space, T0, with_vector("a", &[1.0, 0.0]));
    let says = |queries: Vec<Vec<f32>>, k, text: &str| {
        let error = space.snapshot().recall(T0, &Recall { queries, k, ..Recall::default() }).unwrap_err();
        assert!(error.message().contains(text), "{error}");
    };
    says(vec![vec![1.0]], 1, "the vector has 1 dimensions: those of this space have 2");
    says(vec![vec![0.0, 0.0]], 1, "no direction");
    says(vec![vec![f32::NAN, 0.0]], 1, "no direction");
    says(vec![], 1, "needs what to look for");
    says(vec![vec![1.0, 0.0]], 0, "K is 0");
    says(vec![vec![1.0, 0.0]], 10_001, "K is 10001");
}

#[test]
fn the_best_window_counts() {
    let mut space = precise();
    let windows = |windows: &[[f32; 2]]| Vectors::Embedded {
        model: "m".into(),
        template: 1,
        windows: windows.iter().map(|window| window.to_vec()).collect(),
        words: vec![],
    };
    let long = NewMemory { vectors: windows(&[[0.0, 1.0], [1.0, 0.1], [-1.0, 0.0]]), ..memory("long") };
    let long = store(&mut space, T0, long);
    let short = store(&mut space, T0, NewMemory { vectors: windows(&[[1.0, 0.5]]), ..memory("short") });
    let query = || Recall { queries: vec![vec![1.0, 0.0]], k: 10, ..Recall::default() };
    assert_eq!(ask(&space, query()), [long, short], "once, by its best");
    assert_eq!(ask(&space, Recall { k: 1, ..query() }), [long]);
    // It fell out by its first window and comes back by its second, whatever the order.
    assert_eq!(ask(&space, Recall { queries: vec![vec![0.0, -1.0]], k: 1, ..Recall::default() }), [long]);
}

/// Every K of a larger space against a sort of all scores, with and without a filter, before and after removals and compaction.
#[test]
fn against_a_sort_of_everything() {
    let (mut space, mut random, ids) = large(20, 2500);
    for round in 0..3 {
        let query = random.vector(20);
        let every = recall(&space, T0, &query, 10_000);
        assert_eq!(every.len(), space.len());
        for hit in &every {
            let vector = space.vectors(hit.entry.id)[0].clone();
            let norm = query.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let exact = vector.iter().zip(&query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / norm;
            assert!((hit.score - exact).abs() < 1e-6);
        }
        let mut sorted: Vec<(f64, MemoryId)> = every.iter().map(|hit| (hit.score, hit.entry.id)).collect();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for k in [1, 2, 10, 100, 2000] {
            let top: Vec<(f64, MemoryId)> =
                recall(&space, T0, &query, k).iter().map(|hit| (hit.score, hit.entry.id)).collect();
            assert_eq!(top, sorted[..k.min(sorted.len())]);
            let filter = space.filter("'7' in .content").unwrap();
            let hits = Recall { queries: vec![query.clone()], k, filter: Some(filter.clone()), ..Recall::default() };
            let expected: Vec<MemoryId> =
                every.iter().filter(|hit| filter.matches(&hit.entry)).map(|hit| hit.entry.id).take(k).collect();
            assert_eq!(ask(&space, hits), expected);
        }
        if round == 0 {
            let gone: Vec<MemoryId> = ids.iter().copied().filter(|_| random.chance(60)).collect();
            let effects = space.forget_effects(&gone);
            apply(&mut space, &effects);
        } else if round == 1 {
            let before = space.memory_usage();
            let mut steps = 0;
            while space.compact_step(100) {
                steps += 1;
            }
            assert!(steps > 5 && space.memory_usage() < before);
        }
        space.check_invariants();
    }
}

/// A snapshot that was taken for a memory knows where it is; it need not look.
#[test]
fn a_snapshot_for_a_memory() {
    let mut space = Space::new();
    let ids: Vec<MemoryId> =
        (0..50).map(|n| store(&mut space, T0 + n, with_vector(&format!("m{n}"), &[1.0, n as f32]))).collect();
    let gone = space.forget_effects(&ids[10..11]);
    apply(&mut space, &gone);
    for (n, id) in ids.iter().enumerate() {
        let like = Recall { like: Some(*id), k: 5, ..Recall::default() };
        let shown = |snapshot: Snapshot, now| {
            snapshot.recall(now, &like).map(|found| found.hits.iter().map(|hit| hit.entry.id).collect::<Vec<_>>())
        };
        let looked = shown(space.snapshot(), T0);
        assert_eq!(shown(space.snapshot_for(*id), T0), looked);
        // Taken for another, it looks.
        assert_eq!(shown(space.snapshot_for(ids[3]), T0), looked);
        assert_eq!(looked.is_err(), n == 10);
        assert!(shown(space.snapshot_for(*id), T0 + 365 * DAY).is_err(), "expired");
    }
}
