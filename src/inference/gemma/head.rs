//! The head: the logits of a whole vocabulary, of which few matter.
//!
//! A head in planes ([`crate::packed::Planes`]) gives every row that is wanted its logits roughly, from half of the bytes. Who chooses a token then says
//! what the choice can depend on, and [`Logits::reach`] makes it exact: the `keep` likeliest of the whole vocabulary, or of the
//! tokens that a grammar allows, and some tokens by name. So a choice is the one that exact logits lead to, and what is computed for
//! a row depends on that row and its choice alone, not on what shares the batch.
//!
//! **Which ones.** A *stretch* is 256 logits, a group of tiles. The highest logit of each of the `keep` best stretches is computed exactly, with its tile;
//! the `keep`-th largest of what is then exact is a bound that `keep` tokens reach, so a token whose rough logit lies further below it than
//! errors go is not among the likeliest, and the tiles of all others are computed. Exact values on one side, so errors count
//! once. A greedy choice looks at some thirty tiles of sixteen thousand, one among the 64 likeliest at some hundreds.
//!
//! **How far errors go.** Eight times the deviation that `planes` derives. It rests on lower nibbles that know nothing of their weights; so
//! every tile that is made exact is held against it, and where errors are larger than they should be, all bounds grow with
//! them: eight times what was seen in the mean, or twice the largest. Bent logits (a cap) lie closer together, so the same bound is good for them.
//!
//! **The others** keep their rough logits, for the sum that probabilities are told by. A rough logit has an error of expectation 0 and
//! some deviation `σ`, so its exponential is too large by `exp(σ²/2)` in the mean: `σ²/2` is subtracted from all. What is left are the
//! errors of tokens with a large share of the sum, so the sampler asks for some of the likeliest in any case.
//!
//! Rejected: exact logits for all as soon as several texts share a batch (rows would depend on the batch); the set of a grammar
//! before the product (the choice itself needs it only afterwards, and there it is known for tokens that were guessed, too).

use std::ops::Range;
use std::sync::Arc;

use super::forward::{Own, Workspace, cut, scratch};
use crate::Error;
use crate::kernels::kernels;
use crate::memory::MappedVec;
use crate::packed::{GROUP, Planes, Rows, Sketch, path};
use crate::product::TILE;
use crate::team::{Lead, Shared};

/// Logits that are looked at one by one only where the largest of them can matter: those of a group of tiles.
const STRETCH: usize = GROUP * TILE;
/// Deviations that no error reaches.
const FACTOR: f32 = 8.0;
/// What stands for the spread of a tile that is exact.
const EXACT: f32 = -1.0;

/// The logits of one token of a batch.
pub struct Logits<'a> {
    work: &'a mut Workspace,
    row: usize,
    lead: &'a Lead<'a>,
}

impl<'a> Logits<'a> {
    /// Those of row `row` of a workspace.
    pub(super) fn new(work: &'a mut Workspace, row: usize, lead: &'a Lead<'a>) -> Logits<'a> {
        Logits { work, row, lead }
    }

    /// One for every token. Those that [`Logits::reach`] was not asked for may be rough.
    pub fn values(&self) -> &[f32] {
        self.work.logits(self.row)
    }

    /// Makes exact what the `keep` likeliest tokens are, among those `within` a set with a bit for each or all, and what these
    /// `tokens` have. All others are then below those.
    pub fn reach(&mut self, keep: usize, tokens: impl IntoIterator<Item = u32>, within: Option<&[u32]>) {
        let model = Arc::clone(&self.work.model);
        let Some(planes) = model.output().planes() else { return };
        let Workspace { head, logits, likely, scratch: all, .. } = &mut *self.work;
        let Some(&place) = likely.places.get(self.row).filter(|place| **place >= likely.whole) else { return };
        let stride = planes.rows();
        let mut row = Row {
            planes,
            x: head.quantised(),
            sketch: &likely.sketch,
            place,
            values: &mut logits[place * stride..(place + 1) * stride],
            spreads: &mut likely.spreads[place * likely.each..(place + 1) * likely.each],
            seen: &mut likely.seen[place],
            lists: &mut likely.lists,
            cap: model.config().final_cap,
            lead: self.lead,
            scratch: scratch(all),
            computed: &mut likely.computed,
        };
        row.reach(keep.max(1), tokens, within);
    }
}

/// What a workspace has for its rough logits.
pub(super) struct Head {
    /// Where the logits of each row that was wanted are: those that were wanted exactly are the first.
    places: Vec<usize>,
    /// How many those are.
    whole: usize,
    sketch: Sketch,
    /// How far the rough logits of each tile spread around the exact ones, row after row; [`EXACT`] where they are exact.
    spreads: MappedVec<f32>,
    each: usize,
    seen: Vec<Seen>,
    lists: Lists,
    /// Tiles made exact.
    computed: u64,
}

/// Errors in units of what was to be expected.
#[derive(Clone, Copy, Default)]
struct Seen {
    count: u32,
    squares: f32,
    largest: f32,
}

/// Lists that keep their room from token to token.
#[derive(Default)]
struct Lists {
    /// Tiles to be made exact, and what is seen there.
    tiles: Vec<u32>,
    found: Vec<Seen>,
    /// The highest logit of each stretch, and the stretches in the order of that.
    peaks: Vec<f32>,
    order: Vec<u32>,
    /// The tiles of the highest, and their logits.
    best: Vec<u32>,
    exact: Vec<f32>,
}

impl Head {
    /// For up to `wanted` rows of a head, which may lie in planes.
    pub(super) fn new(planes: Option<&Planes>, wanted: usize) -> Result<Head, Error> {
        let each = planes.map_or(0, |planes| planes.groups() * GROUP);
        Ok(Head {
            places: Vec::new(),
            whole: 0,
            sketch: Sketch::default(),
            spreads: MappedVec::zeroed(wanted * each)?,
            each,
            seen: vec![Seen::default(); wanted],
            lists: Lists::default(),
            computed: 0,
        })
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.spreads.bytes()
    }

    /// Tiles made exact.
    pub(super) fn computed(&self) -> u64 {
        self.computed
    }

    /// Where the logits of a row that was wanted are.
    pub(super) fn place(&self, row: usize) -> usize {
        self.places[row]
    }

    /// Gives places to rows, of which some are wanted exactly; all, without planes. How many those are.
    pub(super) fn arrange(&mut self, exact: impl Iterator<Item = bool> + Clone) -> usize {
        let exact = exact.map(|exact| exact || self.each == 0);
        self.whole = exact.clone().filter(|exact| *exact).count();
        let (mut first, mut second) = (0, self.whole);
        self.places.clear();
        self.places.extend(exact.map(|exact| {
            let next = if exact { &mut first } else { &mut second };
            *next += 1;
            *next - 1
        }));
        self.whole
    }

    /// The rough logits of `rows` of `x`, each row `planes.rows()` of them.
    pub(super) fn rough(
        &mut self,
        planes: &Planes,
        x: &Rows,
        rows: Range<usize>,
        logits: &mut [f32],
        cap: Option<f32>,
        lead: &Lead<'_>,
    ) {
        let (groups, stride, each) = (planes.groups(), planes.rows(), self.each);
        assert!(logits.len() >= rows.end * stride && self.spreads.len() >= rows.end * each);
        self.sketch.set(x);
        self.seen[rows.clone()].fill(Seen::default());
        let (sketch, spreads, logits) = (&self.sketch, Shared::of(&mut self.spreads), Shared::of(logits));
        let pieces = cut(groups, planes.group_bytes(), lead);
        lead.run(pieces.len(), &|piece, _| {
            for group in pieces[piece].clone() {
                let tiles = group * GROUP..planes.tiles().min((group + 1) * GROUP);
                // SAFETY: the logits and spreads of these rows and this group, which no other piece has; there is room for them by
                // the assertion.
                unsafe {
                    planes.coarse(path(), tiles, x, sketch, rows.clone(), logits.at(rows.start * stride), stride);
                    for row in rows.clone() {
                        let first = group * STRETCH;
                        let spread = planes.spreads(group, sketch, row);
                        spreads.slice(row * each + group * GROUP, GROUP).copy_from_slice(&spread);
                        let logits = logits.slice(row * stride + first, STRETCH.min(stride - first));
                        for (logits, spread) in logits.chunks_mut(TILE).zip(spread) {
                            let shift = planes.excess(spread);
                            logits.iter_mut().for_each(|logit| *logit -= shift);
                        }
                        if let Some(cap) = cap {
                            kernels().bend(logits, cap);
                        }
                    }
                }
            }
        });
    }
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.count += other.count;
        self.squares += other.squares;
        self.largest = self.largest.max(other.largest);
    }

    /// How many deviations errors may go, after these.
    fn factor(self) -> f32 {
        let mean = if self.count > 0 { (self.squares / self.count as f32).sqrt() } else { 0.0 };
        FACTOR.max(FACTOR * mean).max(2.0 * self.largest)
    }
}

/// The logits of one row, on their way to what is wanted.
struct Row<'a> {
    planes: &'a Planes,
    x: &'a Rows,
    sketch: &'a Sketch,
    place: usize,
    values: &'a mut [f32],
    spreads: &'a mut [f32],
    seen: &'a mut Seen,
    lists: &'a mut Lists,
    cap: Option<f32>,
    lead: &'a Lead<'a>,
    scratch: Vec<Own>,
    computed: &'a mut u64,
}

impl Row<'_> {
    fn reach(&mut self, keep: usize, tokens: impl IntoIterator<Item = u32>, within: Option<&[u32]>) {
        let named = tokens.into_iter().filter(|token| (*token as usize) < self.values.len());
        self.lists.tiles.extend(named.map(|token| token / TILE as u32));
        self.lists.tiles.sort_unstable();
        self.lists.tiles.dedup();
        self.compute();
        self.peaks(within);
        let least = self.least(keep, within);
        let mut factor = self.seen.factor();
        loop {
            self.list(least, factor, within);
            if self.lists.tiles.is_empty() {
                break;
            }
            self.compute();
            let grown = self.seen.factor();
            if grown <= factor {
                break;
            }
            factor = grown;
        }
    }

    /// The logits of a tile.
    fn tile(&self, tile: usize) -> &[f32] {
        &self.values[tile * TILE..self.values.len().min((tile + 1) * TILE)]
    }

    /// The highest logit of a tile, of those that may be chosen.
    fn highest(&self, tile: usize, within: Option<&[u32]>) -> f32 {
        match among(within, tile) {
            0 => f32::NEG_INFINITY,
            ALL => kernels().largest(self.tile(tile)),
            some => {
                let chosen = self.tile(tile).iter().enumerate().filter(|(i, _)| some >> i & 1 == 1);
                chosen.fold(f32::NEG_INFINITY, |highest, (_, logit)| highest.max(*logit))
            }
        }
    }

    /// Sets the highest logit of each stretch.
    fn peaks(&mut self, within: Option<&[u32]>) {
        let mut peaks = std::mem::take(&mut self.lists.peaks);
        peaks.clear();
        match within {
            None => peaks.extend(self.values.chunks(STRETCH).map(|stretch| kernels().largest(stretch))),
            Some(_) => peaks.extend((0..self.planes.groups()).map(|group| {
                let tiles = group * GROUP..self.planes.tiles().min((group + 1) * GROUP);
                tiles.fold(f32::NEG_INFINITY, |highest, tile| highest.max(self.highest(tile, within)))
            })),
        }
        self.lists.peaks = peaks;
    }

    /// A number that `keep` exact logits reach, or nothing that is below any.
    fn least(&mut self, keep: usize, within: Option<&[u32]>) -> f32 {
        let Lists { peaks, order, best, .. } = &mut *self.lists;
        order.clear();
        order.extend((0u32..).zip(&*peaks).filter(|(_, peak)| **peak > f32::NEG_INFINITY).map(|(n, _)| n));
        if order.len() < keep {
            return f32::NEG_INFINITY;
        }
        let peak = |n: u32| peaks.get(n as usize).copied().unwrap_or(f32::NEG_INFINITY);
        order.select_nth_unstable_by(keep - 1, |a, b| peak(*b).total_cmp(&peak(*a)).then(a.cmp(b)));
        best.clear();
        let (order, mut best) = (std::mem::take(order), std::mem::take(best));
        for &stretch in &order[..keep] {
            let first = stretch as usize * GROUP;
            let mut tiles = first..self.planes.tiles().min(first + GROUP);
            let peak = self.lists.peaks[stretch as usize];
            best.extend(tiles.find(|tile| self.highest(*tile, within) == peak).map(|tile| tile as u32));
        }
        self.lists.tiles.extend(best.iter().filter(|tile| self.spreads[**tile as usize] != EXACT));
        self.compute();
        let mut exact = std::mem::take(&mut self.lists.exact);
        exact.clear();
        for &tile in &best {
            let some = among(within, tile as usize);
            let chosen = self.tile(tile as usize).iter().enumerate().filter(|(i, _)| some >> i & 1 == 1);
            exact.extend(chosen.map(|(_, logit)| *logit).filter(|logit| !logit.is_nan()));
        }
        let least = match exact.len() < keep {
            true => f32::NEG_INFINITY,
            false => *exact.select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a)).1,
        };
        (self.lists.order, self.lists.best, self.lists.exact) = (order, best, exact);
        least
    }

    /// Lists the tiles that may have a logit as large as `least` and are not exact.
    fn list(&mut self, least: f32, factor: f32, within: Option<&[u32]>) {
        let bound = |spread: f32| factor * spread + self.planes.excess(spread);
        // Where there is a NaN, nothing is certain: it must not be below.
        let below = |logit: f32, spread: f32| logit + bound(spread) < least;
        let mut tiles = std::mem::take(&mut self.lists.tiles);
        for (group, (peak, spreads)) in self.lists.peaks.iter().zip(self.spreads.as_chunks::<GROUP>().0).enumerate() {
            if below(*peak, spreads.iter().copied().fold(0.0, f32::max)) {
                continue;
            }
            let here = (group * GROUP..self.planes.tiles()).zip(spreads);
            let rough = here.filter(|(tile, spread)| **spread != EXACT && among(within, *tile) != 0);
            let near = rough.filter(|(tile, spread)| !below(self.highest(*tile, within), **spread));
            tiles.extend(near.map(|(tile, _)| tile as u32));
        }
        self.lists.tiles = tiles;
    }

    /// Makes the listed tiles exact.
    ///
    /// SAFETY of the block inside: a piece writes the logits of its tiles and what it sees at their places in the list, no tile is
    /// listed twice, and each member of the team has a scratch of its own, with room for two tiles.
    fn compute(&mut self) {
        /// Tiles that are worth a piece.
        const FEW: usize = 4;
        let Row { planes, x, sketch, values, spreads, seen, lists, cap, lead, scratch, computed, .. } = self;
        let (place, cap, Lists { tiles, found, .. }) = (self.place, *cap, &mut **lists);
        tiles.retain(|tile| spreads[*tile as usize] != EXACT);
        found.clear();
        found.resize(tiles.len(), Seen::default());
        let (values, found_at) = (Shared::of(values), Shared::of(found));
        lead.run(tiles.len().div_ceil(FEW), &|piece, member| {
            for at in piece * FEW..tiles.len().min((piece + 1) * FEW) {
                let tile = tiles[at] as usize;
                let count = TILE.min(planes.rows() - tile * TILE);
                let (mut exact, mut rough) = ([0f32; TILE], [0f32; TILE]);
                // Products count from the matrix's first row.
                let back = |to: &mut [f32; TILE]| to.as_mut_ptr().wrapping_sub(tile * TILE);
                // SAFETY: see above.
                unsafe {
                    let (tiles, row, scratch) =
                        (tile..tile + 1, place..place + 1, scratch[member].own(planes.scratch_len()));
                    planes.exact(path(), tiles.clone(), x, row.clone(), back(&mut exact), TILE, scratch);
                    planes.coarse(path(), tiles, x, sketch, row, back(&mut rough), TILE);
                    if spreads[tile] > 0.0 {
                        let errors = exact.iter().zip(rough).map(|(exact, rough)| (exact - rough) / spreads[tile]);
                        let seen = &mut found_at.slice(at, 1)[0];
                        for error in errors.take(count).filter(|error| error.is_finite()) {
                            seen.add(Seen { count: 1, squares: error * error, largest: error.abs() });
                        }
                    }
                    if let Some(cap) = cap {
                        kernels().bend(&mut exact, cap);
                    }
                    values.slice(tile * TILE, count).copy_from_slice(&exact[..count]);
                }
            }
        });
        **computed += tiles.len() as u64;
        // In the order of the list, whoever computed what.
        found.iter().for_each(|found| seen.add(*found));
        tiles.drain(..).for_each(|tile| spreads[tile as usize] = EXACT);
    }
}

/// All rows of a tile.
const ALL: u32 = (1 << TILE) - 1;

/// A bit for each row of a tile that may be chosen.
fn among(within: Option<&[u32]>, tile: usize) -> u32 {
    const PER_WORD: usize = u32::BITS as usize / TILE;
    match within {
        None => ALL,
        Some(set) => set.get(tile / PER_WORD).map_or(0, |word| word >> (tile % PER_WORD * TILE) & ALL),
    }
}

#[cfg(test)]
mod tests;
