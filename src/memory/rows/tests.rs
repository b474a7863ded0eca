//! Rows against a plain list of vectors.

#![allow(clippy::type_complexity, reason = "a closure's type says it best where it is used once")]

use super::*;
use crate::MemoryId;
use crate::bitmap::Bitmap;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::AtomicBool;

/// Numbers that look random and are the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// About normal.
    fn normal(&mut self) -> f32 {
        (0..4).map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32 - 0.5).sum::<f32>() * 1.732
    }

    fn unit(&mut self, dim: usize) -> Vec<f32> {
        let vector: Vec<f32> = (0..dim).map(|_| self.normal()).collect();
        unit(vector)
    }

    /// A vector at some angle from another.
    fn near(&mut self, vector: &[f32], noise: f32) -> Vec<f32> {
        let other = self.unit(vector.len());
        unit(vector.iter().zip(other).map(|(x, y)| x + noise * y).collect())
    }
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32;
    vector.iter_mut().for_each(|x| *x /= norm);
    vector
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Held by tests that compare the bits of floats, against the test that changes the kernels.
static KERNELS: RwLock<()> = RwLock::new(());

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::I8];

/// The age of a memory has nothing to do with its slot.
fn id_of(slot: u32) -> MemoryId {
    MemoryId { ms: 1 + u64::from(slot.wrapping_mul(2_654_435_761) % 1000), seq: u64::from(slot) }
}

fn search(rows: &Rows, query: &[f32], limit: usize, among: Among<'_>, effort: Effort) -> Found {
    rows.search(&Search { queries: &[rows.query(query)], limit, among, floor: None, effort, id_of: &id_of })
}

/// What a space would keep: slots with their vectors, and where they are.
struct Model {
    rows: Rows,
    counts: RowCounts,
    slots: BTreeMap<u32, Vec<(RowId, Vector)>>,
    next: u32,
    /// Whether every third memory has cooled.
    cools: bool,
}

impl Model {
    fn new(dim: usize, precision: Precision) -> Model {
        Model {
            rows: Rows::new(dim, precision),
            counts: RowCounts::default(),
            slots: BTreeMap::new(),
            next: 0,
            cools: false,
        }
    }

    fn add(&mut self, windows: &[Vec<f32>]) -> u32 {
        let slot = self.next;
        self.next += 1;
        for window in windows {
            let cold = self.cools && slot % 3 == 2;
            let vector = Vector::new(window, if cold { Precision::I4 } else { self.rows.precision() });
            let row = self.rows.append(&mut self.counts, slot, &vector);
            self.slots.entry(slot).or_default().push((row, vector));
        }
        slot
    }

    fn remove(&mut self, slot: u32) {
        for (row, _) in self.slots.remove(&slot).unwrap_or_default() {
            self.rows.kill(&mut self.counts, row);
        }
    }

    fn compact(&mut self, budget: usize) -> bool {
        let Some(moves) = self.rows.compactable(&mut self.counts, budget) else { return false };
        for (owner, row) in moves {
            let vector = self.rows.vector(row).unwrap();
            let moved = self.rows.append(&mut self.counts, owner, &vector);
            self.rows.kill(&mut self.counts, row);
            let place = self.slots.get_mut(&owner).unwrap().iter_mut().find(|(at, _)| *at == row).unwrap();
            assert_eq!(place.1, vector);
            place.0 = moved;
        }
        true
    }

    fn check(&self) {
        let live = self.slots.values().map(Vec::len).sum::<usize>();
        assert_eq!((self.counts.live, self.counts.dead, self.counts.bytes), self.rows.recount());
        assert_eq!((live, live), (self.counts.live, self.rows.len()));
        for (slot, rows) in &self.slots {
            for (row, vector) in rows {
                assert_eq!(self.rows.owner(*row), Some(*slot));
                assert_eq!(self.rows.vector(*row).as_ref(), Some(vector));
                let (mut bytes, mut expected) = (Vec::new(), Vec::new());
                self.rows.append_bytes(*row, &mut bytes);
                vector.write(&mut expected);
                assert_eq!(bytes, expected);
                assert_eq!(Vector::read(&bytes, vector.dim(), vector.precision()), *vector);
            }
        }
    }

    /// The answer by comparing all in f64.
    fn best(&self, queries: &[Vec<f32>], limit: usize, admits: impl Fn(u32) -> bool) -> Vec<(f64, u32)> {
        let score = |rows: &[(RowId, Vector)]| {
            let pairs =
                rows.iter().flat_map(|(_, vector)| queries.iter().map(move |query| dot(query, &vector.to_f32())));
            pairs.fold(f64::MIN, f64::max)
        };
        let mut all: Vec<(f64, u32)> =
            self.slots.iter().filter(|(slot, _)| admits(**slot)).map(|(slot, rows)| (score(rows), *slot)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(id_of(a.1).cmp(&id_of(b.1))));
        all.truncate(limit);
        all
    }
}

/// The same owners with nearly the same scores, best first; owners of nearly equal scores may have changed places.
fn assert_same(found: &[(f64, u32)], expected: &[(f64, u32)]) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a.0 - b.0).abs() < 2e-5, "{found:?} {expected:?}");
    }
    for pair in found.windows(2) {
        assert!(pair[0].0 > pair[1].0 || pair[0].0 == pair[1].0 && id_of(pair[0].1) < id_of(pair[1].1));
    }
}

fn share(found: &[(f64, u32)], expected: &[(f64, u32)]) -> usize {
    expected.iter().filter(|(_, owner)| found.iter().any(|(_, other)| other == owner)).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn exact_search_is_exact(seed in any::<u64>(), dim in prop::sample::select(&[1usize, 3, 64, 65, 100, 129, 384][..]), precision in prop::sample::select(&PRECISIONS[..])) {
        let _steady = KERNELS.read().unwrap();
        let mut random = Random(seed);
        let mut model = Model { cools: random.below(2) == 0, ..Model::new(dim, precision) };
        let mut frozen: Option<(Rows, Vec<f32>, Vec<(f64, u32)>)> = None;
        for step in 0..random.below(300) {
            match random.below(10) {
                0..=5 => {
                    let windows: Vec<Vec<f32>> = (0..1 + random.below(3)).map(|_| random.unit(dim)).collect();
                    model.add(&windows);
                }
                6..=7 => {
                    let at = random.below(model.slots.len().max(1));
                    if let Some(slot) = model.slots.keys().nth(at).copied() {
                        model.remove(slot);
                    }
                }
                _ => {
                    model.compact(1 + random.below(20));
                }
            }
            if step % 50 == 20 {
                let query = random.unit(dim);
                let hits = search(&model.rows, &query, 5, Among::All, Effort::Exact).hits;
                frozen = Some((model.rows.clone(), query, hits));
            }
        }
        model.check();
        let queries: Vec<Vec<f32>> = (0..1 + random.below(3)).map(|_| random.unit(dim)).collect();
        let prepared: Vec<Query> = queries.iter().map(|query| model.rows.query(query)).collect();
        let limit = 1 + random.below(12);
        let mut admitted = Bitmap::none(model.next as usize);
        (0..model.next).filter(|_| random.below(2) == 0).for_each(|slot| admitted.insert(slot));
        let listed: Vec<RowId> = model.slots.iter().filter(|(slot, _)| admitted.contains(**slot)).flat_map(|(_, rows)| rows.iter().map(|row| row.0)).collect();
        for effort in [Effort::Exact, Effort::Auto] {
            let run = |among, floor| model.rows.search(&Search { queries: &prepared, limit, among, floor, effort, id_of: &id_of });
            let all = run(Among::All, None);
            assert_eq!((all.path, all.compared), (Path::Exact, model.rows.len()));
            assert_same(&all.hits, &model.best(&queries, limit, |_| true));
            let expected = model.best(&queries, limit, |slot| admitted.contains(slot));
            assert_same(&run(Among::Admitted(&admitted), None).hits, &expected);
            assert_eq!(run(Among::Rows(&listed), None).hits, run(Among::Admitted(&admitted), None).hits);
            let floor = all.hits.get(2).map_or(0.5, |hit| hit.0);
            let above: Vec<(f64, u32)> = all.hits.iter().copied().filter(|hit| hit.0 >= floor).collect();
            assert_eq!(run(Among::All, Some(floor)).hits, above);
        }
        if let Some((rows, query, hits)) = frozen {
            assert_eq!(search(&rows, &query, 5, Among::All, Effort::Exact).hits, hits);
        }
    }

    #[test]
    fn vectors_keep_their_direction(seed in any::<u64>(), dim in 1usize..500, precision in prop::sample::select(&Precision::KEPT[..])) {
        let _steady = KERNELS.read().unwrap();
        let mut random = Random(seed);
        let (a, b) = (random.unit(dim), random.unit(dim));
        let (x, y) = (Vector::new(&a, precision), Vector::new(&b, precision));
        x.check().unwrap();
        assert_eq!((x.precision(), x.dim()), (precision, dim));
        assert!((dot(&x.to_f32(), &x.to_f32()) - 1.0).abs() < 1e-5);
        assert!(dot(&a, &x.to_f32()) > if precision == Precision::I4 { 0.97 } else { 0.999 });
        assert!((x.cosine(&x.clone()) - 1.0).abs() < 1e-6);
        assert_eq!(x.cosine(&y), y.cosine(&x));
        assert!((x.cosine(&y) - dot(&x.to_f32(), &y.to_f32())).abs() < 1e-5);
        let mut rows = Rows::new(dim, precision);
        let row = rows.append(&mut RowCounts::default(), 0, &x);
        assert!((rows.score(&rows.query(&x.to_f32()), row) - 1.0).abs() < 5e-5);
        // A query has 16 bits a dimension: off by half a step in each, in the same direction at worst.
        assert!((rows.score(&rows.query(&b), row) - dot(&b, &x.to_f32())).abs() < 5e-5);
    }
}

#[test]
fn vectors_from_outside_are_checked() {
    for (vector, is_good) in [
        (Vector::F32([0.6, 0.8].into()), true),
        (Vector::F32([0.6, 0.9].into()), false),
        (Vector::F32([f32::NAN, 0.8].into()), false),
        (Vector::F32([f32::INFINITY, 0.8].into()), false),
        (Vector::F32([].into()), false),
        (Vector::F16([0x3c00, 0].into()), true),
        (Vector::F16([0x7c00, 0].into()), false),
        (Vector::F16([0x7e00, 0].into()), false),
        (Vector::I8([0, -127].into()), true),
        (Vector::I8([0, 0].into()), false),
        (Vector::I8([1, -128].into()), false),
        (Vector::I8([].into()), false),
    ] {
        assert_eq!(vector.check().is_ok(), is_good, "{vector:?}");
    }
    for precision in PRECISIONS {
        assert_eq!(precision.name().parse::<Precision>().unwrap(), precision);
    }
    assert!("i4".parse::<Precision>().unwrap_err().message().contains("f32, f16 and i8"));
    assert_eq!(Vector::new(&[1.0], Precision::I8).cosine(&Vector::new(&[1.0, 0.0], Precision::I8)), 0.0);
}

/// A space of topics with close and less close neighbours.
fn topics(random: &mut Random, model: &mut Model, n: usize) -> Vec<Vec<f32>> {
    let dim = model.rows.dim();
    let centres: Vec<Vec<f32>> = (0..n / 50).map(|_| random.unit(dim)).collect();
    for _ in 0..n {
        let centre = random.below(centres.len());
        let vector = random.near(&centres[centre], 0.9);
        model.add(&[vector]);
    }
    let query = |_| {
        let centre = random.below(centres.len());
        random.near(&centres[centre], 0.9)
    };
    (0..20).map(query).collect()
}

impl Random {
    fn half(&mut self) -> bool {
        self.next() >> 63 == 1
    }
}

#[test]
fn signs_find_the_nearest() {
    let _steady = KERNELS.read().unwrap();
    for precision in PRECISIONS {
        let mut random = Random(1);
        let mut model = Model::new(256, precision);
        let queries = topics(&mut random, &mut model, 6000);
        for slot in 0..6000 {
            if slot % 7 == 0 {
                model.remove(slot);
            }
        }
        let mut admitted = Bitmap::none(6000);
        (0..6000).filter(|_| random.half()).for_each(|slot| admitted.insert(slot));
        let (mut right, mut right_admitted) = (0, 0);
        for query in &queries {
            let found = search(&model.rows, query, 10, Among::All, Effort::Auto);
            assert_eq!(found.path, Path::OneBit);
            assert!(found.rescored < 3000);
            right += share(&found.hits, &search(&model.rows, query, 10, Among::All, Effort::Exact).hits);
            let found = search(&model.rows, query, 10, Among::Admitted(&admitted), Effort::Auto);
            assert!(found.hits.iter().all(|(_, owner)| admitted.contains(*owner)));
            right_admitted +=
                share(&found.hits, &search(&model.rows, query, 10, Among::Admitted(&admitted), Effort::Exact).hits);
        }
        assert!(right >= 198 && right_admitted >= 198, "{precision}: {right} {right_admitted} of 200");
    }
}

/// Where rows lie shows nowhere.
#[test]
fn compaction_changes_no_answer() {
    let mut random = Random(2);
    let mut model = Model::new(128, Precision::I8);
    let queries = topics(&mut random, &mut model, 4000);
    // Equal vectors, so that ties are at stake.
    let same = random.unit(128);
    (0..40).for_each(|_| {
        model.add(std::slice::from_ref(&same));
    });
    for slot in 0..4000 {
        if slot % 3 == 0 {
            model.remove(slot);
        }
    }
    let answers = |model: &Model| -> Vec<Vec<(f64, u32)>> {
        queries
            .iter()
            .chain([&same])
            .map(|query| search(&model.rows, query, 10, Among::All, Effort::Auto).hits)
            .collect()
    };
    let before = answers(&model);
    assert_eq!(before.last().unwrap().len(), 10);
    let bytes = model.counts.bytes;
    while model.compact(100) {}
    model.check();
    assert!(model.counts.bytes < bytes && model.counts.dead * 3 < model.counts.live);
    assert_eq!(answers(&model), before);
}

/// All equal, all random, all but one dimension zero: nothing that signs could tell apart.
#[test]
fn hostile_vectors_are_found_too() {
    let mut random = Random(4);
    let hostile: [&dyn Fn(&mut Random, usize) -> Vec<f32>; 3] =
        [&|_, _| unit(vec![1.0; 160]), &|random, _| random.unit(160), &|random, n| {
            let mut vector = vec![0.0; 160];
            vector[n % 160] = 1.0;
            vector[random.below(160)] += 0.5;
            unit(vector)
        }];
    for make in hostile {
        let mut model = Model::new(160, Precision::I8);
        for n in 0..3000 {
            let vector = make(&mut random, n);
            model.add(&[vector]);
        }
        let (mut right, mut all) = (0.0, 0.0);
        for n in 0..20 {
            let query = make(&mut random, n * 7);
            let found = search(&model.rows, &query, 10, Among::All, Effort::Auto).hits;
            let exact = search(&model.rows, &query, 10, Among::All, Effort::Exact).hits;
            assert_eq!(found.len(), 10);
            // Equally good ones count: which of them are seen is up to their signs.
            right += found.iter().filter(|hit| hit.0 >= exact[9].0).count() as f64;
            all += 10.0;
        }
        assert!(right / all >= 0.97, "{right} of {all}");
    }
}

#[test]
fn every_processor_gives_the_same() {
    let mut random = Random(5);
    let mut model = Model::new(200, Precision::I8);
    let queries = topics(&mut random, &mut model, 3000);
    let _alone = KERNELS.write().unwrap();
    let best = kernels::Kind::current();
    let answers: Vec<Vec<Vec<(f64, u32)>>> = kernels::Kind::available()
        .into_iter()
        .map(|kind| {
            kernels::force(kind);
            let auto = queries.iter().map(|query| search(&model.rows, query, 10, Among::All, Effort::Auto).hits);
            auto.chain(queries.iter().map(|query| search(&model.rows, query, 10, Among::All, Effort::Exact).hits))
                .collect()
        })
        .collect();
    kernels::force(best);
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn readers_see_what_stood() {
    let (send, receive) = std::sync::mpsc::channel::<(Rows, Vec<(f64, u32)>)>();
    let query = Random(7).unit(130);
    let asked = query.clone();
    let reader = std::thread::spawn(move || {
        let mut read = 0;
        for (rows, seen) in receive {
            for effort in [Effort::Exact, Effort::Auto] {
                assert_eq!(search(&rows, &asked, 20, Among::All, effort).hits.first(), seen.first());
                read += 1;
            }
            assert_eq!(search(&rows, &asked, 20, Among::All, Effort::Exact).hits, seen);
        }
        read
    });
    let mut random = Random(8);
    let mut model = Model::new(130, Precision::I8);
    for n in 0..4000 {
        let vector = random.near(&query, 3.0);
        model.add(&[vector]);
        if n % 3 == 0 {
            let gone = random.below(model.next as usize) as u32;
            model.remove(gone);
            model.compact(8);
        }
        if n % 50 == 0 {
            let rows = model.rows.clone();
            let seen = search(&rows, &query, 20, Among::All, Effort::Exact).hits;
            send.send((rows, seen)).unwrap();
        }
    }
    drop(send);
    assert_eq!(reader.join().unwrap(), 160);
    model.check();
}

/// Two clones that both append do not write into each other's rows.
#[test]
fn clones_may_both_append() {
    let mut random = Random(9);
    let mut one = Model::new(70, Precision::F16);
    (0..5).for_each(|_| {
        let vector = random.unit(70);
        one.add(&[vector]);
    });
    let mut other = Rows::clone(&one.rows);
    let mut counts = RowCounts {
        live: one.counts.live,
        bytes: one.counts.bytes,
        tails: one.counts.tails,
        serial: one.counts.serial,
        ..RowCounts::default()
    };
    for _ in 0..40 {
        let (a, b) = (random.unit(70), Vector::new(&random.unit(70), Precision::F16));
        one.add(&[a]);
        let row = other.append(&mut counts, 77, &b);
        assert_eq!(other.vector(row), Some(b));
    }
    one.check();
    assert_eq!((counts.live, counts.dead, counts.bytes), other.recount());
}

#[test]
fn sizes() {
    assert_eq!(Rows::new(384, Precision::I8).row_bytes(Precision::I8), 440);
    assert_eq!(Rows::new(384, Precision::I8).row_bytes(Precision::I4), 200);
    assert_eq!(Rows::new(384, Precision::F16).row_bytes(Precision::F16), 824);
    assert_eq!(Rows::new(384, Precision::F32).row_bytes(Precision::F32), 1592);
    let mut model = Model::new(384, Precision::I8);
    let mut random = Random(10);
    let vector = random.unit(384);
    model.add(std::slice::from_ref(&vector));
    assert!(model.counts.bytes < 4096);
    (0..20_000).for_each(|_| {
        model.add(std::slice::from_ref(&vector));
    });
    assert!(model.counts.bytes / 20_001 < 460, "{}", model.counts.bytes / 20_001);
    // The largest vectors there may be.
    for precision in PRECISIONS {
        let mut large = Model::new(crate::limits::DIMENSIONS, precision);
        for _ in 0..20 {
            let vector = random.unit(crate::limits::DIMENSIONS);
            large.add(&[vector]);
        }
        large.check();
        let query = large.slots[&7][0].1.to_f32();
        assert_eq!(search(&large.rows, &query, 1, Among::All, Effort::Auto).hits[0].1, 7);
    }
    // Nothing asked, nothing there.
    assert!(search(&model.rows, &vector, 0, Among::All, Effort::Auto).hits.is_empty());
    assert!(search(&Rows::new(3, Precision::I8), &[1.0, 0.0, 0.0], 5, Among::All, Effort::Auto).hits.is_empty());
}

#[test]
fn an_index_changes_little() {
    let _steady = KERNELS.read().unwrap();
    for precision in PRECISIONS {
        let mut random = Random(11);
        let mut model = Model::new(192, precision);
        let queries = topics(&mut random, &mut model, 20_000);
        let stop = AtomicBool::new(false);
        assert!(!model.rows.wants_index(true));
        let index = model.rows.clone().build_index(&stop).unwrap();
        let again = model.rows.clone().build_index(&stop).unwrap();
        assert_eq!((&index.rows, &index.signs), (&again.rows, &again.signs));
        let trained = index.trained;
        model.rows.set_index(&mut model.counts, Some(Arc::new(index)));
        assert!(!model.rows.is_stale(10));
        model.check();
        // Some go, some come, some move: the index knows nothing of it.
        for slot in 0..20_000 {
            if slot % 9 == 0 {
                model.remove(slot);
            }
        }
        let mut late = Vec::new();
        for query in &queries {
            let vector = random.near(query, 0.2);
            late.push(model.add(&[vector]));
        }
        for _ in 0..10 {
            model.compact(500);
        }
        model.check();
        let check = |model: &Model, random: &mut Random| {
            let mut right = 0;
            for (query, late) in queries.iter().zip(&late) {
                let found = search(&model.rows, query, 10, Among::All, Effort::Auto);
                assert_eq!(found.path, Path::Index);
                assert_eq!(found.hits.first().unwrap().1, *late);
                right += share(&found.hits, &search(&model.rows, query, 10, Among::All, Effort::Exact).hits);
            }
            assert!(right >= 194, "{precision}: {right} of 200");
            // A filter is answered in full, however few it admits.
            for part in [2, 5, 30, 1000] {
                let mut admitted = Bitmap::none(model.next as usize);
                (0..model.next).filter(|_| random.below(part) == 0).for_each(|slot| admitted.insert(slot));
                let there = model.slots.keys().filter(|slot| admitted.contains(**slot)).count();
                let found = search(&model.rows, &queries[0], 10, Among::Admitted(&admitted), Effort::Auto).hits;
                assert_eq!(found.len(), there.min(10));
                let exact = search(&model.rows, &queries[0], 10, Among::Admitted(&admitted), Effort::Exact).hits;
                assert!(share(&found, &exact) >= 9, "{part}");
            }
        };
        check(&model, &mut random);
        // An index from the old directions finds as well.
        let newer = model.rows.build_index(&stop).unwrap();
        assert_eq!(newer.trained, trained);
        model.rows.set_index(&mut model.counts, Some(Arc::new(newer)));
        check(&model, &mut random);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(model.rows.build_index(&stop).is_none());
        // It goes when there is little left to find.
        for slot in 0..18_000 {
            model.remove(slot);
        }
        assert!(model.rows.index.is_none());
        model.check();
    }
}
