//! The postings against a naive model: random additions, removals, compactions and snapshots.

use super::*;
use crate::MemoryId;
use crate::bitmap::Bitmap;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The documents by owner, each a list of terms.
type Model = BTreeMap<u32, Vec<u32>>;

#[derive(Default)]
struct Space {
    postings: Postings,
    counts: LexicalCounts,
    /// The living, with their terms and places.
    model: Model,
    ids: BTreeMap<u32, DocId>,
    next: u32,
}

impl Space {
    fn add(&mut self, terms: Vec<u32>) {
        let id = self.postings.add(&mut self.counts, self.next, &terms);
        assert_ne!(id, DocId::NONE);
        assert_eq!(DocId::from_number(id.number()), id);
        self.ids.insert(self.next, id);
        self.model.insert(self.next, terms);
        self.next += 1;
    }

    fn remove(&mut self, owner: u32) {
        self.model.remove(&owner);
        if let Some(id) = self.ids.remove(&owner) {
            self.postings.remove(&mut self.counts, id);
            let before = self.postings.docs();
            assert!(self.postings.explain(&self.postings.search(&[1], &Bm25::default(), None).query, id).is_empty());
            self.postings.remove(&mut self.counts, id);
            assert_eq!(self.postings.docs(), before, "a second removal changes nothing");
        }
    }

    fn compact(&mut self) -> bool {
        let moved = self.postings.compact(&mut self.counts, 1);
        for (owner, id) in &moved {
            assert!(self.ids.insert(*owner, *id).is_some());
        }
        !moved.is_empty()
    }

    fn check_counts(&self) {
        let (docs, length, dead, bytes) = self.postings.recount();
        assert_eq!((docs, dead, bytes), (self.model.len(), self.counts.dead(), self.counts.bytes()));
        assert_eq!((docs, docs), (self.postings.docs(), self.counts.documents()));
        assert_eq!(length as f64 / docs.max(1) as f64, self.postings.mean_length());
    }
}

/// BM25 as the books have it.
fn naive(model: &Model, query: &[u32], bm25: &Bm25) -> BTreeMap<u32, f64> {
    let n = model.len() as f64;
    let mean = model.values().map(Vec::len).sum::<usize>() as f64 / n.max(1.0);
    let count = |terms: &[u32], term: u32| terms.iter().filter(|each| **each == term).count() as f64;
    let mut scores = BTreeMap::new();
    for term in query {
        let df = model.values().filter(|terms| terms.contains(term)).count() as f64;
        let idf = (1.0 + (n - df + 0.5) / (df + 0.5)).ln();
        for (owner, terms) in model {
            let tf = count(terms, *term);
            if tf > 0.0 {
                let (k1, b) = (f64::from(bm25.k1), f64::from(bm25.b));
                let norm = k1 * (1.0 - b + b * terms.len() as f64 / mean);
                *scores.entry(*owner).or_insert(0.0) += idf * tf / (tf + norm);
            }
        }
    }
    scores
}

fn check(model: &Model, postings: &Postings, ids: &BTreeMap<u32, DocId>, query: &[u32]) {
    let bm25 = Bm25::default();
    let found = postings.search(query, &bm25, None);
    let expected = naive(model, query, &bm25);
    let scores: BTreeMap<u32, f32> = found.hits.iter().copied().collect();
    assert_eq!(scores.len(), found.hits.len(), "no owner twice");
    assert_eq!(scores.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (owner, score) in &scores {
        let expected = expected[owner];
        assert!((f64::from(*score) - expected).abs() < 1e-4 * expected, "{score} for {expected}");
    }
    for term in &found.query.terms {
        assert_eq!(term.df as usize, model.values().filter(|terms| terms.contains(&term.hash)).count());
    }
    let docs: Vec<Option<DocId>> = ids.values().map(|id| Some(*id)).chain([None]).collect();
    let frequencies = postings.frequencies(&found.query, &docs);
    assert_eq!(frequencies.score(&found.query, ids.len(), frequencies.of(ids.len())), 0.0);
    for (place, (owner, id)) in ids.iter().enumerate() {
        let score = frequencies.score(&found.query, place, frequencies.of(place));
        assert_eq!(score.to_bits(), scores.get(owner).copied().unwrap_or(0.0).to_bits());
        let parts = postings.explain(&found.query, *id);
        assert_eq!(parts.iter().fold(0.0, |sum, part| sum + part.part).to_bits(), score.to_bits());
        assert!(
            parts
                .iter()
                .all(|part| part.times as usize == model[owner].iter().filter(|term| **term == part.hash).count())
        );
    }
    // The same documents elsewhere have the same scores to the bit, and so has a part of them behind a filter.
    let (mut other, mut counts) = (Postings::default(), LexicalCounts::default());
    for (owner, terms) in model.iter().rev() {
        other.add(&mut counts, *owner, terms);
    }
    let elsewhere = other.search(query, &bm25, None);
    assert_eq!(elsewhere.hits.into_iter().collect::<BTreeMap<u32, f32>>(), scores);
    let mut some = Bitmap::none(1 << 14);
    model.keys().filter(|owner| *owner % 3 == 0).for_each(|owner| some.insert(*owner));
    let admitted = postings.search(query, &bm25, Some(&some));
    assert_eq!(admitted.query, found.query);
    assert_eq!(
        admitted.hits.into_iter().collect::<BTreeMap<u32, f32>>(),
        scores.iter().filter(|(owner, _)| *owner % 3 == 0).map(|(owner, score)| (*owner, *score)).collect()
    );
    // Ids fall as owners rise, so that ties show who decides them.
    let id = |owner: u32| MemoryId { ms: u64::from(u32::MAX - owner), seq: 0 };
    let mut order: Vec<(u32, f32)> = found.hits.clone();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(id(a.0).cmp(&id(b.0))));
    for limit in [0, 1, 7, 100_000] {
        assert_eq!(found.best(limit, id), order.get(..limit.min(order.len())).unwrap());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add {
        documents: usize,
        words: usize,
        vocabulary: u32,
    },
    /// Those whose owner, multiplied, falls below.
    Remove {
        below: u32,
        salt: u32,
    },
    Compact,
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..700_usize, 0..14_usize, 1..400_u32)
            .prop_map(|(documents, words, vocabulary)| Step::Add { documents, words, vocabulary }),
        1 => (1..3_usize, 300..3000_usize).prop_map(|(documents, words)| Step::Add { documents, words, vocabulary: 90_000 }),
        3 => (0..100_u32, any::<u32>()).prop_map(|(below, salt)| Step::Remove { below, salt }),
        2 => Just(Step::Compact),
        2 => Just(Step::Snapshot),
    ]
}

/// Terms spread over all hashes, small ones frequent.
fn term(number: u32) -> u32 {
    number.wrapping_mul(2_654_435_769)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn agrees_with_the_naive_model(steps in prop::collection::vec(step(), 1..16), seed in any::<u64>()) {
        let mut space = Space::default();
        let mut seed = seed;
        let mut random = move |below: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u32 % below
        };
        let mut snapshots: Vec<(Postings, Model, BTreeMap<u32, DocId>)> = Vec::new();
        for step in steps {
            match step {
                Step::Add { documents, words, vocabulary } => {
                    for _ in 0..documents {
                        let words = (0..words).map(|_| term(random(vocabulary).min(random(vocabulary)))).collect();
                        space.add(words);
                    }
                }
                Step::Remove { below, salt } => {
                    let owners: Vec<u32> = space.model.keys().copied().collect();
                    let gone = |owner: &u32| (owner ^ salt).wrapping_mul(0x9e37_79b9) >> 16 & 1023 < below * 10;
                    owners.into_iter().filter(gone).for_each(|owner| space.remove(owner));
                }
                Step::Compact => while space.compact() {},
                Step::Snapshot => snapshots.push((space.postings.clone(), space.model.clone(), space.ids.clone())),
            }
            space.check_counts();
        }
        snapshots.push((space.postings.clone(), space.model.clone(), space.ids.clone()));
        let query = [term(3), term(0), term(17), term(3), term(200), term(80_000), 7];
        for (postings, model, ids) in &snapshots {
            check(model, postings, ids, &query);
        }
        drop(snapshots);
        let owners: Vec<u32> = space.model.keys().copied().collect();
        owners.into_iter().for_each(|owner| space.remove(owner));
        while space.compact() {}
        space.check_counts();
        prop_assert_eq!((space.counts.bytes(), space.counts.dead()), (0, 0));
    }
}

#[test]
fn nothing_to_find() {
    let (mut postings, mut counts) = (Postings::default(), LexicalCounts::default());
    let found = |postings: &Postings, query: &[u32]| postings.search(query, &Bm25::default(), None).hits;
    assert_eq!(found(&postings, &[1, 2]), []);
    let empty = postings.add(&mut counts, 0, &[]);
    assert_eq!(found(&postings, &[1, 2]), []);
    assert_eq!(found(&postings, &[]), []);
    assert_eq!(postings.explain(&postings.search(&[1], &Bm25::default(), None).query, empty), []);
    postings.remove(&mut counts, DocId::NONE);
    postings.remove(&mut counts, DocId::from_number(77));
    assert_eq!(postings.docs(), 1);
}

/// Terms of which all are alike but in their last bits, which the homes cannot tell apart; and the outermost ones.
#[test]
fn chosen_hashes() {
    let mut space = Space::default();
    for n in 0..1024_u32 {
        space.add(vec![0, u32::MAX, 0xffff_0000 | n, n, 0x8000_0000 | n]);
    }
    check(&space.model, &space.postings, &space.ids, &[0, u32::MAX, 5, 0x8000_0001, 0xffff_03ff, 0x7fff_ffff, 1 << 20]);
}

/// A text of a megabyte has its own segment, its frequencies are kept roughly, and its death is worth a compaction.
#[test]
fn a_very_long_document() {
    let mut space = Space::default();
    space.add(vec![term(1), term(2)]);
    space.add((0..200_000).map(|n| term(if n % 2 == 0 { 1 } else { n })).collect());
    space.check_counts();
    space.add(vec![term(1), term(5)]);
    let found = space.postings.search(&[term(1), term(199_999)], &Bm25::default(), None);
    assert_eq!(found.hits.len(), 3);
    let times = |owner: u32| space.postings.explain(&found.query, space.ids[&owner])[0].times;
    assert_eq!((times(0), times(1), times(2)), (1, 8192, 1));
    space.remove(1);
    assert!(space.compact());
    space.check_counts();
    assert_eq!(space.counts.dead(), 0);
    assert!(space.counts.bytes() < 4096);
    check(&space.model, &space.postings, &space.ids, &[term(1), term(5)]);
}

#[test]
fn queries_are_bounded() {
    let mut space = Space::default();
    space.add((0..1000).map(term).collect());
    let query: Vec<u32> = (0..1000).map(term).chain(std::iter::repeat_n(term(0), 1000)).collect();
    let found = space.postings.search(&query, &Bm25::default(), None);
    assert_eq!(found.query.terms.len(), search::QUERY_TERMS);
    assert_eq!(found.query.terms[0].times, 16);
}

#[test]
fn small_spaces_stay_small() {
    let mut space = Space::default();
    (0..5).for_each(|n| space.add((n..n + 10).map(term).collect()));
    assert!(space.counts.bytes() < 1200, "{}", space.counts.bytes());
}

#[test]
fn shared_with_other_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Postings>();
    let mut space = Space::default();
    (0..3000).for_each(|n| space.add((n..n + 10).map(term).collect()));
    let snapshot = space.postings.clone();
    let expected = snapshot.search(&[term(50), term(2000)], &Bm25::default(), None);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            (0..50)
                .for_each(|_| assert_eq!(snapshot.search(&[term(50), term(2000)], &Bm25::default(), None), expected));
        });
        (0..3000).for_each(|n| {
            space.remove(n);
            space.add(vec![term(50)]);
            space.compact();
        });
        reader.join().unwrap();
    });
    space.check_counts();
}
