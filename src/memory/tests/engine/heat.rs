//! Heat: packed texts and coarse vectors through files, copies, exports and compaction.

use crate::support::*;
use engram_memory::*;

const COUNT: usize = 400;

fn text(n: usize) -> String {
    let what = ["the garden by the lake", "a trip to the mountains", "her sister in Lisbon", "the old piano"][n % 4];
    format!("Number {n}: Melanie and Caroline talked about {what} for a long while, and then about the weather")
}

fn vector(n: usize, dim: usize) -> Vec<f32> {
    (0..dim).map(|d| ((n * 37 + d * d * 11) % 1009) as f32 - 504.0).collect()
}

fn new(n: usize, dim: usize) -> NewMemory {
    NewMemory {
        content: text(n),
        tier: Some(Tier::LongTerm),
        session: Some(format!("s{}", n % 3)),
        vectors: Vectors::Embedded {
            model: "m".into(),
            template: 1,
            windows: vec![vector(n, dim)],
            words: (0..5).map(|word| vector(n + word, dim)).collect(),
        },
        ..NewMemory::default()
    }
}

/// Looks at heat and does what is due.
fn look(space: &mut Space, now: Millis) -> HeatPlan {
    let mut plan = space.snapshot().plan_heat(now, &space.seen());
    apply(space, &plan.begin());
    for unit in &plan.units {
        let effects = space.decide_heat(now, unit);
        apply(space, &sent(&effects));
    }
    space.set_seen(std::mem::take(&mut plan.seen));
    plan
}

/// A space whose memories have all cooled, and the time.
fn cold(dim: usize) -> (Space, Millis) {
    let mut space = Space::new();
    for n in 0..COUNT {
        let stored = space.store(T0, new(n, dim)).unwrap();
        apply(&mut space, &stored.effects);
    }
    let now = T0 + 29 * DAY;
    let effects = space.set(now, "warm-age", "10d").unwrap();
    apply(&mut space, &effects);
    look(&mut space, now);
    assert_eq!(space.heats()[Heat::Cold as usize].count, COUNT);
    (space, now)
}

fn contents(space: &Space, now: Millis) -> Vec<String> {
    space.scan(now, MemoryId::ZERO, COUNT, None).1.into_iter().map(|entry| entry.content.into()).collect()
}

#[test]
fn cold_memories_take_less_and_are_what_they_were() {
    let mut hot = Space::new();
    for n in 0..COUNT {
        let stored = hot.store(T0, new(n, 384)).unwrap();
        apply(&mut hot, &stored.effects);
    }
    let before = hot.memory_usage();
    let (mut space, now) = cold(384);
    while space.compact_step(100) {}
    space.check_invariants();
    assert!(space.memory_usage() * 5 < before * 3, "{} of {before} bytes", space.memory_usage());
    assert_eq!(contents(&space, now), (0..COUNT).map(text).collect::<Vec<_>>());
    let found = Filter::parse("'Number 17:' in .content and .heat == 'cold'").unwrap();
    assert_eq!(space.count(now, Some(&found)), 1);
    for dense in [true, false] {
        let recall =
            Recall { text: (!dense).then(|| text(123)), queries: vec![vector(123, 384)], k: 1, ..Recall::default() };
        let hits = space.snapshot().recall(now, &recall).unwrap().hits;
        assert_eq!(&*hits[0].entry.content, text(123));
        assert!(hits[0].similarity.unwrap() > 0.98);
    }
    // A look that finds nothing to do does nothing.
    let again = look(&mut space, now);
    assert!(again.units.is_empty() && again.coarse.is_empty());
}

#[test]
fn heat_travels_with_the_space() {
    let (space, now) = cold(70);
    let saved = state(&space, 1000);
    let loaded = load(&saved);
    loaded.check_invariants();
    assert!(digest(&loaded) == digest(&space) && state(&loaded, 1000) == saved);
    assert_eq!(contents(&loaded, now), contents(&space, now));
    // What is loaded is packed as well.
    let texts = |space: &Space| space.memory_parts().iter().find(|(part, _)| *part == "texts").unwrap().1;
    assert!(texts(&loaded) <= texts(&space));
    let mut copy = space.copy();
    copy.check_invariants();
    let effects = copy.update(
        now,
        space.scan(now, MemoryId::ZERO, 1, None).1[0].id,
        Update { content: Some("new".into()), vectors: Some(Vectors::None), ..Update::default() },
    );
    apply(&mut copy, &effects.unwrap());
    copy.check_invariants();
    assert_eq!((copy.heats()[0].count, space.heats()[0].count), (1, 0));
    assert_eq!(contents(&space, now)[0], text(0));
}

#[test]
fn texts_stay_plain_where_the_setting_says_so() {
    let (mut space, now) = cold(70);
    let packed = space.heats()[Heat::Cold as usize].bytes;
    let effects = space.set(now, "compress", "off").unwrap();
    apply(&mut space, &effects);
    assert_eq!(look(&mut space, now).units.len(), COUNT.div_ceil(4));
    space.check_invariants();
    assert!(space.heats()[Heat::Cold as usize].bytes > packed + COUNT * 30);
    assert_eq!(contents(&space, now)[7], text(7));
    let effects = space.set(now, "compress", "on").unwrap();
    apply(&mut space, &effects);
    look(&mut space, now);
    assert_eq!(space.heats()[Heat::Cold as usize].bytes, packed);
}

#[test]
fn what_is_not_a_models_stays_as_it_came() {
    let mut space = precise();
    for n in 0..20 {
        let given = NewMemory { vectors: Vectors::Given(vector(n, 9)), ..new(n, 9) };
        let stored = space.store(T0, given).unwrap();
        apply(&mut space, &stored.effects);
    }
    let vectors = |space: &Space| {
        space.scan(T0, MemoryId::ZERO, 20, None).1.iter().map(|entry| space.vectors(entry.id)).collect::<Vec<_>>()
    };
    let before = vectors(&space);
    let effects = space.set(T0, "warm-age", "1d").unwrap();
    apply(&mut space, &effects);
    look(&mut space, T0 + 20 * DAY);
    assert_eq!(space.heats()[Heat::Cold as usize].count, 20);
    assert_eq!(vectors(&space), before);
    assert!(look(&mut space, T0 + 20 * DAY).units.is_empty());
}

#[test]
fn moving_to_another_precision_keeps_coarse_vectors_coarse() {
    let (mut space, now) = cold(70);
    let effects = space.reembed_begin(Some("m"), 70, Precision::I8).unwrap();
    apply(&mut space, &effects);
    let mut cursor = MemoryId::ZERO;
    loop {
        let (effects, next) = space.reembed_convert(cursor).unwrap();
        apply(&mut space, &sent(&effects));
        space.check_invariants();
        if next == MemoryId::ZERO {
            break;
        }
        cursor = next;
    }
    let effects = space.reembed_finish().unwrap();
    let before = digest(&space);
    apply(&mut space, &effects);
    space.check_invariants();
    assert!(digest(&space) == before, "half-bytes are no bytes");
    // Vectors made anew are fine until the next look.
    let effects = space.reembed_begin(Some("m"), 70, Precision::I8).unwrap();
    apply(&mut space, &effects);
    let (missing, _) = space.reembed_missing(MemoryId::ZERO, COUNT);
    let made: Vec<Embedded> = missing
        .into_iter()
        .map(|memory| Embedded { memory, windows: vec![vector(1, 70)], words: Vec::new() })
        .collect();
    let effects = space.reembed_add("m", &made).unwrap();
    apply(&mut space, &effects);
    if let Some(effects) = space.reembed_finish() {
        apply(&mut space, &effects);
    }
    space.check_invariants();
    look(&mut space, now);
    space.check_invariants();
}

#[test]
fn an_export_gives_back_what_is_cold() {
    let (space, now) = cold(70);
    let lines: Vec<Meta> = space
        .export(now, "0", 10_000)
        .unwrap()
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.len() > COUNT);
    let mut other = Space::new();
    let (imported, effects) = other.import(now, &lines, false).unwrap();
    assert!(imported.written > COUNT);
    apply(&mut other, &effects);
    other.check_invariants();
    assert!(digest(&other) == digest(&space));
    // Its texts are packed at the next look, by a dictionary of its own.
    look(&mut other, now);
    assert!(digest(&other) == digest(&space));
    assert_eq!(contents(&other, now), contents(&space, now));
}

#[test]
fn hostile_effects_are_refused() {
    let mut space = Space::new();
    for bytes in
        [Vec::new(), vec![0; limits::DICTIONARY_BYTES + 1], vec![0x37, 0xa4, 0x30, 0xec, 1, 2, 3, 4, 5, 6, 7, 8]]
    {
        assert!(space.apply(&Effect::Dictionary(bytes.into())).is_err());
    }
    for _ in 0..limits::DICTIONARIES {
        space.apply(&Effect::Dictionary(b"texts that begin like others".to_vec().into())).unwrap();
    }
    assert!(space.apply(&Effect::Dictionary(b"one more".to_vec().into())).is_err());
    space.apply(&Effect::Heat { to: Heat::Cold, ids: vec![MemoryId { ms: 1, seq: 1 }] }).unwrap();
    space.check_invariants();
}
