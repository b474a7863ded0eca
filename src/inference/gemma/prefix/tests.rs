//! Texts that begin as others did: the same logits, the limits, and tenants apart.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;
use crate::gemma::tests::{bits, extend, model};
use crate::gemma::{Gemma, Sequence, Workspace};

struct Bench {
    model: Arc<Gemma>,
    work: Workspace,
    prefixes: Prefixes,
}

impl Bench {
    fn new(pages_in_memory: u64, pages_in_file: u64, folder: &Path) -> Bench {
        let model = model("random-q8_0.gguf");
        let mut prefixes = Prefixes::new(Arc::clone(model.layout()));
        let bytes = prefixes.page_bytes();
        let limits = Limits { memory: pages_in_memory * bytes, file: pages_in_file * bytes, folder: folder.into() };
        prefixes.limit(&limits).unwrap();
        Bench { work: Workspace::new(Arc::clone(&model)).unwrap(), model, prefixes }
    }

    /// Reads a text, with what is kept, and keeps it; gives the last logits and how many tokens were kept.
    fn read(&mut self, tenant: &str, tokens: &[u32]) -> (u64, usize) {
        let mut sequence = Sequence::new(Arc::clone(&self.model), tokens.len()).unwrap();
        let kept = self.prefixes.find(tenant, tokens).map_or(0, |(cache, len)| {
            sequence.resume(cache, len);
            len
        });
        let mut last = Vec::new();
        for piece in tokens[kept..].chunks(30) {
            last = extend(&mut sequence, &mut self.work, piece).unwrap();
            self.prefixes.keep(tenant, &tokens[..sequence.len()], sequence.cache(), false);
        }
        self.prefixes.keep(tenant, tokens, sequence.cache(), true);
        (fingerprint(&last), kept)
    }

    /// The same without anything kept.
    fn afresh(&mut self, tokens: &[u32]) -> u64 {
        let mut sequence = Sequence::new(Arc::clone(&self.model), tokens.len()).unwrap();
        let mut last = Vec::new();
        for piece in tokens.chunks(32) {
            last = extend(&mut sequence, &mut self.work, piece).unwrap();
        }
        fingerprint(&last)
    }

    fn check(&self) {
        let count = |file: bool| {
            let nodes = self.prefixes.nodes.iter().flatten();
            nodes.filter(|node| matches!(node.pages, Place::File(_)) == file).count() as u64
                * self.prefixes.page_bytes()
        };
        let stats = self.prefixes.stats();
        assert_eq!((stats.memory, stats.file), (count(false), count(true)));
        assert!(stats.memory <= self.prefixes.limits.memory && stats.file <= self.prefixes.limits.file);
    }
}

/// A number for the bits of the last logits.
fn fingerprint(rows: &[Vec<f32>]) -> u64 {
    let last = bits(&rows[rows.len() - 1..]).remove(0);
    last.into_iter().fold(7, |all, bits| (all ^ u64::from(bits)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23))
}

fn text(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| 10 + (i * 37 + seed * 101) % 1500).collect()
}

#[test]
fn what_was_read_is_not_read_again_and_gives_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(100, 0, folder.path());
    let conversation = text(1, 300);
    assert_eq!(bench.read("a", &conversation[..200]), (bench.afresh(&conversation[..200]), 0));
    // The next turn: what is new, from the middle of a page on.
    assert_eq!(bench.read("a", &conversation), (bench.afresh(&conversation), 200));
    // The same again: all but the last token.
    assert_eq!(bench.read("a", &conversation), (bench.afresh(&conversation), 299));
    // Another that begins alike, and leaves it within a page.
    let other = [&conversation[..150], &text(7, 90)].concat();
    assert_eq!(bench.read("a", &other), (bench.afresh(&other), 150));
    // The first is what it was.
    assert_eq!(bench.read("a", &conversation), (bench.afresh(&conversation), 299));
    // Another tenant has nothing of it.
    assert_eq!(bench.read("b", &conversation), (bench.afresh(&conversation), 0));
    let stats = bench.prefixes.stats();
    assert_eq!((stats.hits, stats.misses, stats.tokens), (4, 2, 200 + 299 + 150 + 299));
    bench.check();
    bench.prefixes.clear();
    assert_eq!(bench.prefixes.stats().memory, 0);
    assert_eq!(bench.read("a", &conversation), (bench.afresh(&conversation), 0));
}

#[test]
fn pages_go_to_the_file_and_come_back_bit_by_bit() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(3, 20, folder.path());
    let texts: Vec<Vec<u32>> = (0..4).map(|seed| text(seed, 250)).collect();
    for tokens in &texts {
        bench.read("a", tokens);
        bench.check();
    }
    assert!(bench.prefixes.stats().file > 0);
    for tokens in &texts {
        assert_eq!(bench.read("a", tokens), (bench.afresh(tokens), 249));
        bench.check();
    }
    assert!(bench.prefixes.stats().restored > 0);
    // The file has no name. What cannot be read is read anew, and what cannot be written is dropped.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let empty = tempfile::NamedTempFile::new_in(folder.path()).unwrap();
    bench.prefixes.spill.as_mut().unwrap().file = File::open(empty.path()).unwrap();
    for tokens in &texts {
        assert_eq!(bench.read("a", tokens).0, bench.afresh(tokens));
        bench.check();
    }
}

#[test]
fn limits_hold_and_can_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(8, 0, folder.path());
    for seed in 0..10 {
        bench.read("a", &text(seed, 200));
        bench.check();
    }
    assert!(bench.prefixes.stats().dropped > 0);
    // What was used last is there.
    assert_eq!(bench.read("a", &text(9, 200)).1, 199);
    let limits = |memory, file, folder: &Path| Limits { memory, file, folder: folder.into() };
    let bytes = bench.prefixes.page_bytes();
    bench.prefixes.limit(&limits(2 * bytes, 50 * bytes, folder.path())).unwrap();
    bench.check();
    bench.read("a", &text(3, 200));
    bench.check();
    let error = bench.prefixes.limit(&limits(2 * bytes, bytes, Path::new("/nowhere"))).unwrap_err().to_string();
    assert!(error.contains("/nowhere"), "{error}");
    bench.check();
    bench.prefixes.limit(&Limits::default()).unwrap();
    assert_eq!(bench.prefixes.stats().memory, 0);
    assert_eq!(bench.read("a", &text(3, 200)).1, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(25))]

    /// Texts of few different pieces, in any order, with little room: always the logits of a fresh reading.
    #[test]
    fn nothing_that_is_kept_changes_a_logit(
        texts in prop::collection::vec((prop::collection::vec(0u32..3, 1..5), 1usize..70, any::<bool>()), 1..12),
        memory in 0u64..6,
        file in 0u64..6,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(memory, file, folder.path());
        for (pieces, last, tenant) in texts {
            let mut tokens: Vec<u32> = pieces.iter().flat_map(|piece| text(*piece, 64)).collect();
            tokens.truncate(tokens.len() - 64 + last.min(64));
            let tenant = if tenant { "a" } else { "b" };
            prop_assert_eq!(bench.read(tenant, &tokens).0, bench.afresh(&tokens));
            bench.check();
        }
    }
}
