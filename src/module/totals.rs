//! What all spaces together counted since the start of the server, for INFO and the alerts.
//!
//! A space has counters of its own, which live as long as its data, are saved and replicated, and go with it. Their sum would fall with every DEL and
//! would have to be gathered from all keys; these only rise, as whoever scrapes INFO expects of a counter. Counted is what this server decided: what
//! comes from a primary, from a file or from the append-only file is not.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use engram_memory::Counters;

static HITS: AtomicU64 = AtomicU64::new(0);
static MISSES: AtomicU64 = AtomicU64::new(0);
static STORES: AtomicU64 = AtomicU64::new(0);
static DUPLICATES: AtomicU64 = AtomicU64::new(0);
static EVICTIONS: AtomicU64 = AtomicU64::new(0);
static PROMOTIONS: AtomicU64 = AtomicU64::new(0);
static EXPIRATIONS: AtomicU64 = AtomicU64::new(0);
static MERGES: AtomicU64 = AtomicU64::new(0);

/// A recall found something, or nothing.
pub fn note_recall(hit: bool) {
    (if hit { &HITS } else { &MISSES }).fetch_add(1, Relaxed);
}

/// A commit took the counters of a space from `before` to `after`.
pub fn add(before: &Counters, after: &Counters) {
    for (total, before, after) in [
        (&STORES, before.stores, after.stores),
        (&DUPLICATES, before.duplicates, after.duplicates),
        (&EVICTIONS, before.evictions, after.evictions),
        (&PROMOTIONS, before.promotions, after.promotions),
        (&EXPIRATIONS, before.expirations, after.expirations),
        (&MERGES, before.merges, after.merges),
    ] {
        // Hits and misses are counted where they happen.
        if after > before {
            total.fetch_add(after - before, Relaxed);
        }
    }
}

/// The totals.
pub fn counters() -> Counters {
    Counters {
        hits: HITS.load(Relaxed),
        misses: MISSES.load(Relaxed),
        stores: STORES.load(Relaxed),
        duplicates: DUPLICATES.load(Relaxed),
        evictions: EVICTIONS.load(Relaxed),
        promotions: PROMOTIONS.load(Relaxed),
        expirations: EXPIRATIONS.load(Relaxed),
        merges: MERGES.load(Relaxed),
    }
}
