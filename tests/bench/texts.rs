//! Sentences that are all different and look like what people tell an assistant, and random numbers; both the same in every run.

/// A small generator (splitmix64, Steele et al. 2014).
pub struct Random(u64);

impl Random {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A number from 0 to 1.
    pub fn fraction(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// About normally distributed: a sum of four uniform numbers, enough to spread directions evenly.
    pub fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.fraction() - 0.5).sum()
    }

    /// Four numbers, about normally distributed with deviation one: sums of four 16-bit numbers each.
    pub fn normals(&mut self) -> [f32; 4] {
        [0; 4].map(|_: u8| {
            let bits = self.next();
            let sum: u32 = (0..4).map(|part| (bits >> (16 * part)) as u32 & 0xffff).sum();
            (sum as f32 / 65_536.0 - 2.0) * 1.732_050_8
        })
    }
}

const WHO: [&str; 12] = [
    "Caroline",
    "Melanie",
    "my brother",
    "our neighbour",
    "the new manager",
    "Tom",
    "Aisha",
    "her doctor",
    "the landlord",
    "Jonas",
    "my coach",
    "the vet",
];
const DID: [&str; 14] = [
    "wants to visit",
    "talked about",
    "is allergic to",
    "bought",
    "forgot",
    "recommended",
    "is worried about",
    "prefers",
    "sold",
    "paints",
    "teaches",
    "repaired",
    "is writing about",
    "dreams of",
];
const WHAT: [&str; 16] = [
    "a red bicycle",
    "the pottery class",
    "peanuts",
    "a cabin by the lake",
    "the quarterly report",
    "an old piano",
    "the charity race",
    "wild mushrooms",
    "a second-hand telescope",
    "the garden fence",
    "her grandmother's recipes",
    "a trip to Lisbon",
    "the school play",
    "a rescue dog",
    "the broken boiler",
    "night trains",
];
const WHEN: [&str; 10] = [
    "last Tuesday",
    "since the summer",
    "before the holidays",
    "every other weekend",
    "in early May",
    "after work",
    "during the storm",
    "two years ago",
    "this morning",
    "on her birthday",
];

/// `n` sentences of ten to sixteen words; a number in each keeps them apart.
pub fn sentences(n: usize) -> Vec<String> {
    let mut random = Random::new(42);
    (0..n)
        .map(|i| {
            let mut of = |words: &[&'static str]| words[random.below(words.len())];
            format!("{} {} {} {} and {} {}, note {i}.", of(&WHO), of(&DID), of(&WHAT), of(&WHEN), of(&DID), of(&WHAT))
        })
        .collect()
}
