//! The best owners of a search so far.

use crate::MemoryId;

/// Keeps the best `limit` owners by their best score, ties by smaller id, of any number of scored rows in any order.
///
/// Rows that beat the threshold are collected, and now and then cut down to the best: a row costs a comparison, not a heap's way.
pub(super) struct Best<'a> {
    limit: usize,
    /// What a row must reach: the floor, then the last of `limit` owners.
    threshold: f64,
    rows: Vec<(f64, u32)>,
    /// Rows up to here are the best owners, once each.
    settled: usize,
    id_of: &'a dyn Fn(u32) -> MemoryId,
}

impl<'a> Best<'a> {
    pub(super) fn new(limit: usize, floor: Option<f64>, id_of: &'a dyn Fn(u32) -> MemoryId) -> Best<'a> {
        Best { limit, threshold: floor.unwrap_or(f64::NEG_INFINITY), rows: Vec::new(), settled: 0, id_of }
    }

    #[inline]
    pub(super) fn push(&mut self, score: f64, owner: u32) {
        if score >= self.threshold {
            self.rows.push((score, owner));
            if self.rows.len() >= 2 * self.limit + 64 {
                self.settle();
            }
        }
    }

    /// Cuts down to the best owners. Gives what a row must reach to be one of them: minus infinity while anything is welcome.
    pub(super) fn settle(&mut self) -> f64 {
        if self.rows.len() > self.settled {
            // The best row of each owner.
            self.rows.sort_unstable_by(|a, b| a.1.cmp(&b.1).then(b.0.total_cmp(&a.0)));
            self.rows.dedup_by_key(|row| row.1);
            if let Some(last) = self.limit.checked_sub(1)
                && last < self.rows.len()
            {
                let score = self.rows.select_nth_unstable_by(last, |a, b| b.0.total_cmp(&a.0)).1.0;
                self.threshold = self.threshold.max(score);
                if self.rows.len() > self.limit {
                    self.break_ties(score);
                }
            }
            self.settled = self.rows.len();
        }
        self.threshold
    }

    /// Keeps the rows above a score, and of those that have it the ones of the smallest ids, `limit` in all.
    fn break_ties(&mut self, score: f64) {
        let mut tied: Vec<(MemoryId, u32)> = Vec::new();
        let ties = self.rows.iter().filter(|row| row.0 == score).count();
        let above = self.rows.iter().filter(|row| row.0 > score).count();
        let wanted = self.limit - above;
        if ties > wanted {
            tied.extend(self.rows.iter().filter(|row| row.0 == score).map(|row| ((self.id_of)(row.1), row.1)));
            tied.sort_unstable();
            tied.truncate(wanted);
            self.rows.retain(|row| row.0 > score);
            self.rows.extend(tied.iter().map(|(_, owner)| (score, *owner)));
        } else {
            self.rows.retain(|row| row.0 >= score);
        }
    }

    /// How many owners there are, as of the last [`Best::settle`].
    pub(super) fn len(&self) -> usize {
        self.settled
    }

    /// The best owners, best first, ties by smaller id.
    pub(super) fn finish(mut self) -> Vec<(f64, u32)> {
        self.settle();
        self.rows.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        for tied in self.rows.chunk_by_mut(|a, b| a.0 == b.0).filter(|tied| tied.len() > 1) {
            tied.sort_by_cached_key(|row| (self.id_of)(row.1));
        }
        self.rows
    }
}
