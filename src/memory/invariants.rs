//! What must hold in every space, for tests.

use crate::space::{Space, hash_of};
use crate::tier::TIERS;
use std::collections::BTreeMap;

impl Space {
    /// Asserts that every index agrees with the memories, and every count with what it counts.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        let view = &self.view;
        let row_bytes = view.vectors.row_bytes();
        let (mut count, mut pinned, mut bytes, mut expiring) = ([0; TIERS], [0; TIERS], [0; TIERS], [0; TIERS]);
        let mut meta_names: BTreeMap<&str, usize> = BTreeMap::new();
        let mut rows = 0;
        assert_eq!(self.ids.len(), view.slots.iter().count(), "ids and slots");
        assert_eq!(self.ids.len() + self.free_slots.len(), view.slots.len(), "free slots");
        for (id, slot) in &self.ids {
            let keys = self.slot_keys[*slot as usize];
            let slot = view.slots.get(*slot);
            assert!(slot.is_some(), "{id} points to an empty slot");
            let Some(slot) = slot else { continue };
            let entry = &slot.entry;
            let tier = &self.tiers[entry.tier.index()];
            assert_eq!(entry.id, *id);
            assert_eq!(entry.check(), Ok(()));
            assert!(*id <= self.last_id);
            assert_eq!(usize::from(entry.windows), slot.rows.as_slice().len(), "windows of {id}");
            assert!(slot.rows.as_slice().iter().all(|row| Some(view.vectors.row(*row).len()) == self.dim()));
            assert_eq!(hash_of(entry), keys.hash, "hash of {id}");
            assert!(self.timeline.contains(&(entry.at, *id)), "timeline of {id}");
            assert!(self.duplicates.contains(&(keys.hash, *id)), "duplicates of {id}");
            assert_eq!(entry.pinned, !tier.retention.contains(&(keys.retention, *id)), "retention of {id}");
            assert!(keys.retention <= view.retention(entry), "the retention key of {id} is no lower bound");
            assert!(entry.expires.is_none_or(|expires| tier.expiry.contains(&(expires, *id))), "expiry of {id}");
            count[entry.tier.index()] += 1;
            pinned[entry.tier.index()] += usize::from(entry.pinned);
            bytes[entry.tier.index()] += self.cost(entry, row_bytes);
            expiring[entry.tier.index()] += usize::from(entry.expires.is_some());
            rows += slot.rows.as_slice().len();
            for name in entry.meta.iter().flat_map(|meta| meta.keys()) {
                *meta_names.entry(name).or_default() += 1;
            }
        }
        assert_eq!(self.timeline.len(), self.ids.len());
        assert_eq!(self.duplicates.len(), self.ids.len());
        for (n, tier) in self.tiers.iter().enumerate() {
            assert_eq!((tier.count, tier.pinned, tier.bytes), (count[n], pinned[n], bytes[n]), "tier {n}");
            assert_eq!(
                (tier.expiry.len(), tier.retention.len()),
                (expiring[n], count[n] - pinned[n]),
                "indexes of tier {n}"
            );
        }
        assert!(self.meta_names.iter().map(|(name, n)| (&**name, *n)).eq(meta_names), "META names");
        let counts = &self.vector_counts;
        assert_eq!(view.vectors.recount(), (counts.live, counts.dead, counts.bytes), "vectors");
        assert_eq!(counts.live, rows, "living rows");
        let mut owned = 0;
        view.vectors.for_each(|owner, _| {
            owned += 1;
            assert!(view.slots.get(owner).is_some(), "a living row of an empty slot");
        });
        assert_eq!(owned, rows);
    }
}
