//! Moving a space to other vectors: by hand, and at random beside a model that knows what every memory was last embedded as.

use crate::support::*;
use engram_memory::*;
use std::collections::BTreeMap;

const DIM: usize = 6;

/// An encoder: one vector per word.
fn encode(text: &str, dim: usize) -> Vec<Vec<f32>> {
    let vector = |word: &str| {
        let seed = word.bytes().fold(dim as u64, |seed, byte| Random(seed ^ u64::from(byte)).next());
        Random(seed).vector(dim)
    };
    text.split_whitespace().map(vector).collect()
}

/// What the space keeps of it.
fn kept(windows: &[Vec<f32>], precision: Precision) -> Vec<Vec<f32>> {
    let unit = |window: &Vec<f32>| {
        let norm = window.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        let unit: Vec<f32> = window.iter().map(|x| (f64::from(*x) / norm) as f32).collect();
        Vector::new(&unit, precision).to_f32()
    };
    windows.iter().map(unit).collect()
}

fn made(missing: Vec<Missing>, dim: usize) -> Vec<Embedded> {
    let embed = |memory: Missing| {
        let windows = encode(&memory.text, dim);
        let words = memory.words.map_or(Vec::new(), |_| encode(&memory.text[memory.from..], dim));
        Embedded { memory, windows, words }
    };
    missing.into_iter().map(embed).collect()
}

/// Stages what is missing until nothing is, and switches.
fn finish(space: &mut Space, model: &str, dim: usize) {
    let mut cursor = MemoryId::ZERO;
    while space.reembed_finish().is_none() {
        let (missing, next) = space.reembed_missing(cursor, 2);
        assert!(!missing.is_empty(), "nothing is missing and it is not complete");
        cursor = next;
        let effects = space.reembed_add(model, &made(missing, dim)).unwrap();
        apply(space, &effects);
    }
    let switch = space.reembed_finish().unwrap();
    apply(space, &switch);
    space.check_invariants();
}

fn begin(space: &mut Space, model: &str, dim: usize, precision: Precision) {
    let effects = space.reembed_begin(Some(model), dim, precision).unwrap();
    apply(space, &effects);
}

#[test]
fn every_memory_is_embedded_from_its_text() {
    let mut space = precise();
    let own = store(&mut space, T0, with_vector("the caller's own", &[1.0, 0.0, 0.0]));
    let bare = store(&mut space, T0, memory("no vector yet"));
    let spoken = NewMemory { speaker: Some("Ada".into()), at: Some(0), ..memory("hello there") };
    let spoken = store(&mut space, T0, spoken);
    let before = digest(&space);
    begin(&mut space, "mini", DIM, Precision::F32);
    let (missing, cursor) = space.reembed_missing(MemoryId::ZERO, 10);
    assert_eq!(cursor, MemoryId::ZERO);
    let texts: Vec<_> = missing.iter().map(|memory| (memory.id, &*memory.text, memory.own)).collect();
    let expected = [
        (own, "the caller's own", true),
        (bare, "no vector yet", false),
        (spoken, "On 1 January 1970, Ada said: hello there", false),
    ];
    assert_eq!(texts, expected);
    let effects = space.reembed_add("mini", &made(missing[..1].to_vec(), DIM)).unwrap();
    apply(&mut space, &effects);
    assert_eq!((space.staged(), space.reembed_finish().is_none()), (Some(1), true));
    // Nothing of it is seen.
    assert_eq!(digest(&space), before);
    assert_eq!((space.dim(), space.model()), (Some(3), None));
    assert_eq!(contents(&recall(&space, T0, &[1.0, 0.0, 0.0], 5)), ["the caller's own"]);
    finish(&mut space, "mini", DIM);
    assert_eq!((space.dim(), space.model(), space.staged()), (Some(DIM), Some("mini"), None));
    for (id, text, _) in expected {
        assert_eq!(space.vectors(id), kept(&encode(text, DIM), Precision::F32));
    }
    assert!(space.take_retired().is_some() && space.take_retired().is_none());
    // Stores go on in the new model.
    let windows = encode("one more", DIM);
    let vectors = Vectors::Embedded { model: "mini".into(), template: 2, windows, words: Vec::new() };
    store(&mut space, T0, NewMemory { vectors, ..memory("one more") });
    space.check_invariants();
}

#[test]
fn a_precision_alone_goes_down_as_it_is_and_up_by_the_model() {
    let mut space = precise();
    let id = store(&mut space, T0, with_vector("a", &[3.0, 4.0]));
    let bare = store(&mut space, T0, memory("b"));
    assert_eq!(space.reembed_way(false, Some(Precision::I8)), Ok(Way::Convert(Precision::I8)));
    let effects = space.reembed_begin(space.model(), 2, Precision::I8).unwrap();
    apply(&mut space, &effects);
    let (effects, cursor) = space.reembed_convert(MemoryId::ZERO).unwrap();
    assert_eq!(cursor, MemoryId::ZERO);
    apply(&mut space, &effects);
    let switch = space.reembed_finish().unwrap();
    apply(&mut space, &switch);
    space.check_invariants();
    assert_eq!(space.vectors(id), kept(&[vec![3.0, 4.0]], Precision::I8));
    assert!(space.vectors(bare).is_empty());
    assert_eq!(space.config().precision, Precision::I8);
    // What was lost does not come back, but by a model.
    let error = space.reembed_way(false, Some(Precision::F16)).unwrap_err();
    assert!(error.message().contains("MODEL"), "{error}");
    let embed = |model, precision| Ok(Way::Embed { model, precision });
    assert_eq!(space.reembed_way(true, Some(Precision::F16)), embed(None, Precision::F16));
    assert_eq!(space.reembed_way(false, None), embed(None, Precision::I8));
    begin(&mut space, "mini", DIM, Precision::I8);
    finish(&mut space, "mini", DIM);
    assert_eq!(space.reembed_way(false, Some(Precision::F32)), embed(Some("mini".into()), Precision::F32));
    assert_eq!(Space::new().reembed_way(false, Some(Precision::F32)), embed(None, Precision::F32));
}

#[test]
fn what_is_not_begun_is_refused() {
    let mut space = Space::new();
    store(&mut space, T0, memory("a"));
    assert!(space.apply(&Effect::Switch).is_err());
    assert!(space.apply(&Effect::Staged(Vec::new())).is_err());
    assert!(space.reembed_finish().is_none() && space.reembed_cancel().is_empty());
    assert_eq!(space.reembed_add("mini", &[]).unwrap_err().code(), "STALE");
    assert_eq!(space.reembed_convert(MemoryId::ZERO).unwrap_err().code(), "STALE");
    assert!(space.reembed_begin(Some("mini"), 0, Precision::I8).is_err());
    begin(&mut space, "mini", DIM, Precision::I8);
    let (missing, _) = space.reembed_missing(MemoryId::ZERO, 1);
    for bad in [vec![0.0; DIM], vec![1.0; DIM + 1], vec![f32::NAN; DIM]] {
        let memory = missing[0].clone();
        assert!(space.reembed_add("mini", &[Embedded { memory, windows: vec![bad], words: Vec::new() }]).is_err());
    }
    assert_eq!(space.reembed_add("maxi", &[]).unwrap_err().code(), "STALE");
    // Of another precision, of another length.
    for vector in
        [Vector::new(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], Precision::F32), Vector::new(&[1.0, 0.0], Precision::I8)]
    {
        let staged = Staged { id: missing[0].id, template: 1, vectors: vec![vector], signs: Signs::default() };
        assert!(space.apply(&Effect::Staged(vec![staged])).is_err());
    }
    space.check_invariants();
}

/// What the random walk expects of a memory.
#[derive(Debug, Clone)]
struct Expected {
    text: String,
    vectors: Vec<Vec<f32>>,
}

struct Walk {
    random: Random,
    space: Space,
    /// Gets every effect as bytes.
    twin: Space,
    expected: BTreeMap<MemoryId, Expected>,
    /// The model's number, if one made the vectors.
    model: usize,
    dim: usize,
    precision: Precision,
    /// The model, dimension and precision that are being staged; no model for a conversion.
    staging: Option<(Option<usize>, usize, Precision)>,
    cursor: MemoryId,
    switches: usize,
}

impl Walk {
    fn name(model: usize) -> String {
        format!("model-{model}")
    }

    fn carry_out(&mut self, effects: &[Effect]) {
        apply(&mut self.space, effects);
        apply(&mut self.twin, &sent(effects));
    }

    fn any(&mut self) -> Option<MemoryId> {
        let ids: Vec<MemoryId> = self.expected.keys().copied().collect();
        (!ids.is_empty()).then(|| *self.random.pick(&ids))
    }

    fn text(&mut self) -> String {
        const WORDS: [&str; 5] = ["tea", "rain", "sea", "plan", "cats"];
        let words = 1 + self.random.below(3);
        let unique = self.random.below(100_000).to_string();
        (0..words).map(|_| *self.random.pick(&WORDS)).chain([&*unique]).collect::<Vec<_>>().join(" ")
    }

    /// Vectors of a new text: by the space's model, the caller's own, or none.
    fn vectors(&mut self, text: &str) -> (Vectors, Vec<Vec<f32>>) {
        match self.random.below(3) {
            0 => (Vectors::None, Vec::new()),
            1 => {
                let own = self.random.vector(self.dim);
                (Vectors::Given(own.clone()), kept(&[own], self.precision))
            }
            _ => {
                let windows = encode(text, self.dim);
                let model = Walk::name(self.model);
                let words = encode(text, self.dim);
                (
                    Vectors::Embedded { model, template: 2, windows: windows.clone(), words },
                    kept(&windows, self.precision),
                )
            }
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..25 => {
                let text = self.text();
                let (vectors, kept) = self.vectors(&text);
                let stored = self.space.store(T0, NewMemory { vectors, ..memory(&text) }).unwrap();
                self.carry_out(&stored.effects);
                self.expected.insert(stored.id, Expected { text, vectors: kept });
            }
            25..40 => {
                let Some(id) = self.any() else { return };
                let mut update = Update::default();
                if self.random.chance(50) {
                    let text = self.text();
                    let (vectors, kept) = self.vectors(&text);
                    update = Update { content: Some(text.clone()), vectors: Some(vectors), ..update };
                    self.expected.insert(id, Expected { text, vectors: kept });
                } else {
                    update.importance = Some(self.random.unit());
                    update.tier = Some(*self.random.pick(&Tier::ALL));
                }
                let effects = self.space.update(T0, id, update).unwrap();
                self.carry_out(&effects);
            }
            40..52 => {
                let Some(id) = self.any() else { return };
                let effects = self.space.forget_effects(&[id]);
                self.carry_out(&effects);
                self.expected.remove(&id);
            }
            52..56 => {
                let dim = 2 + self.random.below(30);
                let precision = *self.random.pick(&Precision::ALL);
                let model = self.random.below(3);
                let effects = self.space.reembed_begin(Some(&Walk::name(model)), dim, precision).unwrap();
                self.carry_out(&effects);
                self.staging = Some((Some(model), dim, precision));
            }
            56..58 => {
                let precision = *self.random.pick(&Precision::ALL);
                let Ok(Way::Convert(precision)) = self.space.reembed_way(false, Some(precision)) else { return };
                let effects = self.space.reembed_begin(self.space.model(), self.dim, precision).unwrap();
                self.carry_out(&effects);
                self.staging = Some((None, self.dim, precision));
            }
            58..85 => self.stage(),
            85..87 => {
                let effects = self.space.reembed_cancel();
                self.carry_out(&effects);
                self.staging = None;
            }
            87..89 => {
                let template = ["plain", "spoken"][self.random.below(2)];
                let effects = self.space.set(T0, "template", template).unwrap();
                self.carry_out(&effects);
            }
            89..92 => {
                // A replica that synchronises, or a restart.
                self.twin = load(&state(&self.space, 200));
            }
            _ => {
                let Some(switch) = self.space.reembed_finish() else { return };
                self.carry_out(&switch);
                self.switched();
            }
        }
    }

    fn stage(&mut self) {
        let Some((model, dim, _)) = self.staging else { return };
        let Some(model) = model else {
            let (effects, cursor) = self.space.reembed_convert(self.cursor).unwrap();
            self.cursor = cursor;
            return self.carry_out(&effects);
        };
        let limit = 1 + self.random.below(8);
        let (missing, cursor) = self.space.reembed_missing(self.cursor, limit);
        self.cursor = cursor;
        let made = made(missing, dim);
        // Something happens while it is embedded.
        if self.random.chance(40)
            && let Some(id) = self.any()
        {
            let effects = self.space.forget_effects(&[id]);
            self.carry_out(&effects);
            self.expected.remove(&id);
        }
        if self.random.chance(40)
            && let Some(id) = self.any()
        {
            let text = self.text();
            let update = Update { content: Some(text.clone()), vectors: Some(Vectors::None), ..Update::default() };
            let effects = self.space.update(T0, id, update).unwrap();
            self.carry_out(&effects);
            self.expected.insert(id, Expected { text, vectors: Vec::new() });
        }
        let effects = self.space.reembed_add(&Walk::name(model), &made).unwrap();
        self.carry_out(&effects);
    }

    fn switched(&mut self) {
        let Some((model, dim, precision)) = self.staging.take() else { panic!("a switch out of nothing") };
        for memory in self.expected.values_mut() {
            memory.vectors = match model {
                Some(_) => kept(&encode(&memory.text, dim), precision),
                None => memory.vectors.iter().map(|vector| Vector::new(vector, precision).to_f32()).collect(),
            };
        }
        self.model = model.unwrap_or(self.model);
        (self.dim, self.precision) = (dim, precision);
        self.switches += 1;
    }

    fn check(&self) {
        assert_eq!(self.space.len(), self.expected.len());
        for (id, memory) in &self.expected {
            assert_eq!(&*get(&self.space, T0, *id).content, memory.text);
            assert_eq!(self.space.vectors(*id), memory.vectors, "vectors of {id}");
        }
        assert_eq!(digest(&self.space), digest(&self.twin));
        assert_eq!(state(&self.space, 500), state(&self.twin, 500));
        self.space.check_invariants();
        self.twin.check_invariants();
    }
}

#[test]
fn random_walks_equal_the_model() {
    let mut switches = 0;
    for seed in 0..60 {
        let mut random = Random(seed);
        let dim = 2 + random.below(10);
        let mut space = Space::new();
        for tier in Tier::ALL {
            space.apply(&Effect::Set { name: format!("{tier}.capacity"), value: "0".into() }).unwrap();
        }
        let model = Effect::Model { model: Some(Walk::name(0)), dim: dim as u32, precision: Precision::I8 };
        space.apply(&model).unwrap();
        let twin = load(&state(&space, 1000));
        let (expected, staging, cursor) = (BTreeMap::new(), None, MemoryId::ZERO);
        let precision = Precision::I8;
        let mut walk = Walk { random, space, twin, expected, model: 0, dim, precision, staging, cursor, switches: 0 };
        for _ in 0..300 {
            walk.step();
            walk.check();
        }
        switches += walk.switches;
    }
    assert!(switches > 100, "{switches} switches");
}

#[test]
fn a_space_of_several_chunks_switches_and_its_snapshots_do_not() {
    // More than one chunk of records, one of them not full; several vectors for some.
    let mut space = precise();
    apply(&mut space, &[Effect::Set { name: "short_term.capacity".into(), value: "0".into() }]);
    let new = |n: usize| memory(&if n.is_multiple_of(7) { format!("two words{n}") } else { format!("word{n}") });
    let (_, effects) = space.store_many(T0, (0..2500).map(new).collect()).unwrap();
    apply(&mut space, &effects);
    let snapshot = space.snapshot();
    begin(&mut space, "mini", DIM, Precision::F32);
    finish(&mut space, "mini", DIM);
    assert_eq!(snapshot.dim(), None);
    assert_eq!(space.stats(T0).vectors, 2500 + 2500usize.div_ceil(7));
    let query = &encode("word2498", DIM)[0];
    assert_eq!(contents(&recall(&space, T0, query, 1)), ["word2498"]);
}
