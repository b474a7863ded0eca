//! Numbers about a space.

use crate::effect::Counters;
use crate::heat::HeatStats;
use crate::space::{Key, SUPERSEDED, Space};
use crate::{MemoryId, Millis, Precision, Tier};

/// Numbers about a tier. What has expired is not in them, whether it has been removed or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TierStats {
    /// The tier.
    pub tier: Tier,
    /// Memories.
    pub count: usize,
    /// Those of them that are pinned.
    pub pinned: usize,
    /// Memories that it holds; 0 = unlimited.
    pub capacity: u64,
    /// Count by capacity; 0 if that is unlimited.
    pub utilisation: f64,
    /// Bytes of its memories with their indexes and vectors.
    pub bytes: usize,
}

/// Numbers about a space.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// Per tier, in order.
    pub tiers: Vec<TierStats>,
    /// Memories, superseded ones apart.
    pub count: usize,
    /// Memories whose place another has taken: kept for `ASOF` and MEM.HISTORY, and counted against no capacity.
    pub superseded: usize,
    /// Bytes of all memories with their indexes and vectors.
    pub bytes: usize,
    /// Memories and their bytes by heat, in the order of [`Heat::ALL`]; what has expired and not been removed is in them.
    pub heats: [HeatStats; 3],
    /// Bytes that the space takes in all: [`Space::memory_usage`].
    pub memory: usize,
    /// The same by part: see [`Space::memory_parts`].
    pub memory_parts: [(&'static str, usize); 9],
    /// Records of sessions.
    pub sessions: usize,
    /// Documents that are shown.
    pub documents: usize,
    /// Links between memories: see [`Space::links`].
    pub links: usize,
    /// Memories whose vectors are still to be made.
    pub awaiting: usize,
    /// What it counted.
    pub counters: Counters,
    /// Hits by recalls; None before the first.
    pub hit_rate: Option<f64>,
    /// Vectors: more than memories where long texts have several, fewer where some have none.
    pub vectors: usize,
    /// The dimension, once it is fixed.
    pub dim: Option<usize>,
    /// The model, if one made the vectors.
    pub model: Option<String>,
    /// How vectors are kept.
    pub precision: Precision,
}

impl Space {
    /// The numbers, exact at `now`. Takes time for the tiers and for what has expired and not been removed, not for the rest.
    pub fn stats(&self, now: Millis) -> Stats {
        let tiers: Vec<TierStats> = Tier::ALL.into_iter().map(|tier| self.tier_stats(tier, now)).collect();
        let counters = self.counters();
        let recalls = counters.hits.saturating_add(counters.misses);
        Stats {
            count: tiers.iter().map(|tier| tier.count).sum(),
            superseded: self.live_count(SUPERSEDED, now),
            bytes: tiers.iter().map(|tier| tier.bytes).sum::<usize>() + self.shelves[SUPERSEDED].bytes,
            heats: self.heats(),
            memory: self.memory_usage(),
            memory_parts: self.memory_parts(),
            hit_rate: (recalls > 0).then(|| counters.hits as f64 / recalls as f64),
            sessions: self.sessions(now).count(),
            documents: self.documents().count(),
            links: self.links(),
            awaiting: self.awaiting.len(),
            counters,
            vectors: self.rows.live,
            dim: self.dim(),
            model: self.model().map(String::from),
            precision: self.view.precision(),
            tiers,
        }
    }

    fn tier_stats(&self, tier: Tier, now: Millis) -> TierStats {
        let index = &self.shelves[tier.index()];
        let end: Key = (now.saturating_add(1), MemoryId::ZERO);
        let expired = || index.expiry.range((0, MemoryId::ZERO), end, |slot| self.view.expiry_key(slot));
        let count = index.count - expired().count();
        let capacity = self.config().tier(tier).capacity;
        TierStats {
            tier,
            count,
            pinned: index.pinned - expired().filter(|slot| self.view.records.is_pinned(*slot)).count(),
            capacity,
            utilisation: if capacity == 0 { 0.0 } else { count as f64 / capacity as f64 },
            bytes: index.bytes - expired().map(|slot| self.slot_cost(slot)).sum::<usize>(),
        }
    }
}
