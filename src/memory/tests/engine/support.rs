//! What the tests share.

use engram_memory::{
    Effect, Entry, Error, Hit, Loader, MemoryId, Millis, NewMemory, Recall, Removal, Space, Tier, Vectors,
    decode_batch, encode_batch,
};

pub const T0: Millis = 1_700_000_000_000;
pub const HOUR: Millis = 3_600_000;
pub const DAY: Millis = 24 * HOUR;

/// A small generator of numbers (splitmix64), so that a seed says everything.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn vector(&mut self, dim: usize) -> Vec<f32> {
        (0..dim).map(|_| (self.unit() * 2.0 - 1.0) as f32).collect()
    }
}

/// A space that keeps its vectors as they are given.
pub fn precise() -> Space {
    let mut space = Space::new();
    space.apply(&Effect::Set { name: "precision".into(), value: "f32".into() }).unwrap();
    space
}

pub fn memory(content: &str) -> NewMemory {
    NewMemory { content: content.into(), ..NewMemory::default() }
}

pub fn with_vector(content: &str, vector: &[f32]) -> NewMemory {
    NewMemory { vectors: Vectors::Given(vector.to_vec()), ..memory(content) }
}

pub fn apply(space: &mut Space, effects: &[Effect]) {
    for effect in effects {
        space.apply(effect).unwrap();
    }
}

pub fn store(space: &mut Space, now: Millis, new: NewMemory) -> MemoryId {
    let stored = space.store(now, new).unwrap();
    apply(space, &stored.effects);
    stored.id
}

pub fn refused(space: &Space, now: Millis, new: NewMemory) -> Error {
    let before = digest(space);
    let error = space.store(now, new).unwrap_err();
    assert_eq!(digest(space), before);
    error
}

pub fn get(space: &Space, now: Millis, id: MemoryId) -> Entry {
    space.get(now, id).unwrap()
}

pub fn digest(space: &Space) -> Vec<u8> {
    let mut bytes = Vec::new();
    space.digest(&mut |part| bytes.extend_from_slice(part));
    bytes
}

pub fn state(space: &Space, chunk: usize) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    space.encode_state(chunk, &mut |bytes| chunks.push(bytes.to_vec()));
    chunks
}

pub fn load(chunks: &[Vec<u8>]) -> Space {
    let mut loader = Loader::default();
    chunks.iter().for_each(|chunk| loader.apply(chunk).unwrap());
    loader.finish()
}

/// The effects as another process gets them.
pub fn sent(effects: &[Effect]) -> Vec<Effect> {
    let mut bytes = Vec::new();
    encode_batch(effects, &mut bytes);
    decode_batch(&bytes).unwrap()
}

pub fn removed(effects: &[Effect], why: Removal) -> Vec<MemoryId> {
    let of = |effect: &Effect| match effect {
        Effect::Remove { ids, reason } if *reason == why => ids.clone(),
        _ => Vec::new(),
    };
    effects.iter().flat_map(of).collect()
}

pub fn count(space: &Space, now: Millis, tier: Tier) -> usize {
    space.stats(now).tiers[tier as usize].count
}

pub fn recall(space: &Space, now: Millis, query: &[f32], k: usize) -> Vec<Hit> {
    space.snapshot().recall(now, &Recall { queries: vec![query.to_vec()], k, ..Recall::default() }).unwrap().hits
}

pub fn contents(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| &*hit.entry.content).collect()
}
