//! Vectors of texts that were embedded before: least recently used out first, counted in texts and in bytes.
//!
//! A text takes as many bytes as its vectors, from one and a half kilobytes to twenty times that where its words have vectors too.
//! So a capacity in texts alone would promise nothing: it stands for [`BYTES_PER_TEXT`] bytes a text as well, and whichever is
//! reached first counts. The text used last is always kept, whatever it takes.
//!
//! The key is a 128-bit hash of model and text under a key drawn at random for the process, so a text's own bytes are not
//! kept and nobody can construct two texts that share an entry; two texts that share one by chance would need some 2⁶⁴ of
//! them. The lock is held for a look-up or an insertion, never while a model runs: two threads that miss the same text at
//! the same time both embed it, to the same bits.

use lru::LruCache;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many texts a cache holds unless told otherwise.
pub const DEFAULT_CAPACITY: usize = 10_000;

/// Bytes that a text may take on average: 32 MiB for as many texts as a cache holds unless told otherwise.
pub const BYTES_PER_TEXT: usize = (32 << 20) / DEFAULT_CAPACITY;

/// What an entry takes beside its value: its key, and its places in the list and the map.
const ENTRY_BYTES: usize = 80;

/// A cache of embeddings, shared between threads: for a model and a text what the caller made of them, cheap to clone.
pub struct Cache<V> {
    keys: (u64, u64),
    inner: Mutex<Inner<V>>,
}

struct Inner<V> {
    /// Never full by its own account: `capacity` decides, so that 0 is possible.
    texts: LruCache<u128, (V, usize)>,
    /// What they take.
    bytes: usize,
    capacity: usize,
    hits: u64,
    misses: u64,
}

/// What a cache has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Look-ups that found their text.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Texts held now.
    pub texts: usize,
    /// Texts held at most.
    pub capacity: usize,
    /// Bytes that they take, nearly.
    pub bytes: usize,
}

impl<V: Clone> Default for Cache<V> {
    fn default() -> Cache<V> {
        Cache::new(DEFAULT_CAPACITY)
    }
}

impl<V: Clone> Cache<V> {
    /// An empty cache for at most `capacity` texts; 0 keeps nothing.
    pub fn new(capacity: usize) -> Cache<V> {
        let random = RandomState::new();
        Cache {
            keys: (random.hash_one(0u8), random.hash_one(1u8)),
            inner: Mutex::new(Inner { texts: LruCache::unbounded(), bytes: 0, capacity, hits: 0, misses: 0 }),
        }
    }

    /// The vectors of `text` by the model of that name, if they are there; counts a hit or a miss.
    pub fn get(&self, model: &str, text: &str) -> Option<V> {
        let key = self.key(model, text);
        let mut inner = self.lock();
        let found = inner.texts.get(&key).map(|(vectors, _)| vectors.clone());
        match found {
            Some(_) => inner.hits += 1,
            None => inner.misses += 1,
        }
        found
    }

    /// Keeps the vectors of `text`, which take `bytes`, dropping the texts that were not asked for the longest if the cache is full.
    pub fn insert(&self, model: &str, text: &str, vectors: V, bytes: usize) {
        let key = self.key(model, text);
        let bytes = bytes + ENTRY_BYTES;
        let mut inner = self.lock();
        inner.bytes += bytes;
        if let Some((_, before)) = inner.texts.put(key, (vectors, bytes)) {
            inner.bytes -= before;
        }
        inner.trim();
    }

    /// Sets how many texts are held at most, dropping what is over it; 0 keeps nothing.
    pub fn set_capacity(&self, capacity: usize) {
        let mut inner = self.lock();
        inner.capacity = capacity;
        inner.trim();
    }

    /// Drops all texts; the counters stay.
    pub fn clear(&self) {
        let mut inner = self.lock();
        inner.texts.clear();
        inner.bytes = 0;
    }

    /// Counters and sizes.
    pub fn stats(&self) -> CacheStats {
        let inner = self.lock();
        CacheStats {
            hits: inner.hits,
            misses: inner.misses,
            texts: inner.texts.len(),
            capacity: inner.capacity,
            bytes: inner.bytes,
        }
    }

    /// A cache is whole between any two of its steps, so one whose holder panicked is still good.
    fn lock(&self) -> MutexGuard<'_, Inner<V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, model: &str, text: &str) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hasher.write_u64(model.len() as u64);
        hasher.write(model.as_bytes());
        hasher.write(text.as_bytes());
        hasher.finish128().as_u128()
    }
}

impl<V> Inner<V> {
    fn trim(&mut self) {
        let most = self.capacity.saturating_mul(BYTES_PER_TEXT);
        while self.texts.len() > self.capacity || (self.bytes > most && self.texts.len() > 1) {
            let Some((_, (_, bytes))) = self.texts.pop_lru() else { return };
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(value: f32) -> Vec<f32> {
        vec![value]
    }

    #[test]
    fn keeps_what_was_used_last_and_counts() {
        let cache = Cache::new(2);
        assert_eq!(cache.get("m", "a"), None);
        cache.insert("m", "a", vectors(1.0), 4);
        cache.insert("m", "b", vectors(2.0), 4);
        assert_eq!(cache.get("m", "a"), Some(vectors(1.0)));
        cache.insert("m", "c", vectors(3.0), 4);
        assert_eq!(cache.get("m", "b"), None);
        assert_eq!(cache.get("m", "a"), Some(vectors(1.0)));
        assert_eq!(cache.get("m", "c"), Some(vectors(3.0)));
        let bytes = 2 * (4 + ENTRY_BYTES);
        assert_eq!(cache.stats(), CacheStats { hits: 3, misses: 2, texts: 2, capacity: 2, bytes });
    }

    #[test]
    fn model_and_text_are_both_the_key() {
        let cache = Cache::default();
        cache.insert("ab", "c", vectors(1.0), 4);
        assert_eq!(cache.get("a", "bc"), None);
        assert_eq!(cache.get("ab", ""), None);
        assert_eq!(cache.get("ab", "c"), Some(vectors(1.0)));
        assert_eq!(cache.stats().capacity, 10_000);
    }

    #[test]
    fn bytes_count_as_well() {
        let cache = Cache::new(100);
        for n in 0..100 {
            cache.insert("m", &n.to_string(), vectors(0.0), 4 * BYTES_PER_TEXT);
        }
        let held = cache.stats();
        assert!(held.texts == 24 && held.bytes <= 100 * BYTES_PER_TEXT, "{held:?}");
        assert!(cache.get("m", "99").is_some() && cache.get("m", "75").is_none());
        // The same text again takes the place of itself.
        cache.insert("m", "99", vectors(1.0), 10);
        assert_eq!(cache.stats().bytes, held.bytes - 4 * BYTES_PER_TEXT + 10);
        cache.insert("m", "huge", vectors(2.0), 1000 * BYTES_PER_TEXT);
        assert_eq!((cache.stats().texts, cache.get("m", "huge")), (1, Some(vectors(2.0))));
        cache.clear();
        assert_eq!(cache.stats().bytes, 0);
    }

    #[test]
    fn the_capacity_can_change() {
        let cache = Cache::new(3);
        for text in ["a", "b", "c"] {
            cache.insert("m", text, vectors(0.0), 4);
        }
        cache.set_capacity(1);
        assert_eq!(cache.stats().texts, 1);
        assert!(cache.get("m", "c").is_some());
        cache.set_capacity(0);
        cache.insert("m", "d", vectors(0.0), 4);
        assert_eq!(cache.stats().texts, 0);
        cache.set_capacity(2);
        cache.insert("m", "e", vectors(0.0), 4);
        cache.clear();
        assert_eq!(cache.get("m", "e"), None);
    }
}
