//! Keys and values of one generation.
//!
//! Both kinds of layer keep them in pages of [`PAGE`] positions. Global layers get another page whenever the positions reach
//! it, so a short conversation in a long context costs what it uses. Local layers see only the last `window` positions:
//! they have as many pages as a window and a chunk can touch at once, and go round. One page is one mapping for all layers
//! of its kind, laid out `[layer][key or value][head][position][head_dim]`, so that a head's positions are consecutive rows
//! for the kernels.

use crate::Error;
use crate::memory::MappedVec;

use super::CHUNK;
use super::config::Config;

/// Positions per page.
pub(super) const PAGE: usize = 128;

pub(super) struct KvCache {
    local: Pages,
    global: Pages,
    /// For each layer: whether it is local, and its number among its kind.
    place: Vec<(bool, usize)>,
    kv_heads: usize,
    head_dim: usize,
}

struct Pages {
    held: Vec<MappedVec<f32>>,
    /// Page `n` of the positions lies in `held[n % most]`.
    most: usize,
    /// Numbers in one page.
    len: usize,
}

/// Keys or values.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Keys,
    Values,
}

impl KvCache {
    /// An empty cache for positions below `capacity`.
    pub(super) fn new(config: &Config, capacity: usize) -> KvCache {
        let locals = config.local.iter().filter(|&&local| local).count();
        let per_layer = 2 * config.kv_heads * PAGE * config.head_dim;
        let all = capacity.div_ceil(PAGE).max(1);
        // A window and a chunk that begin within a page touch at most one page more than they fill.
        let ring = (config.window + CHUNK).div_ceil(PAGE) + 1;
        let mut counts = [0, 0];
        let place = config.local.iter().map(|&local| {
            let count = &mut counts[usize::from(local)];
            *count += 1;
            (local, *count - 1)
        });
        KvCache {
            place: place.collect(),
            local: Pages { held: Vec::new(), most: ring.min(all), len: locals * per_layer },
            global: Pages { held: Vec::new(), most: all, len: (config.layers - locals) * per_layer },
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// Makes room for all positions below `end`.
    pub(super) fn reserve(&mut self, end: usize) -> Result<(), Error> {
        for pages in [&mut self.local, &mut self.global] {
            let need = end.div_ceil(PAGE).min(pages.most);
            while pages.held.len() < need {
                pages.held.push(MappedVec::zeroed(pages.len)?);
            }
        }
        Ok(())
    }

    fn at(&self, layer: usize, part: Part, head: usize, position: usize) -> (bool, usize, usize) {
        let (local, number) = self.place[layer];
        let pages = if local { &self.local } else { &self.global };
        let block = (number * 2 + part as usize) * self.kv_heads + head;
        (local, position / PAGE % pages.most, (block * PAGE + position % PAGE) * self.head_dim)
    }

    /// Where a position's key or value is written.
    pub(super) fn row_mut(&mut self, layer: usize, part: Part, head: usize, position: usize) -> &mut [f32] {
        let (local, page, start) = self.at(layer, part, head, position);
        let pages = if local { &mut self.local } else { &mut self.global };
        &mut pages.held[page][start..start + self.head_dim]
    }

    /// The rows of positions `first .. end`, which lie in one page, one after the other.
    pub(super) fn rows(&self, layer: usize, part: Part, head: usize, first: usize, end: usize) -> &[f32] {
        let (local, page, start) = self.at(layer, part, head, first);
        let pages = if local { &self.local } else { &self.global };
        &pages.held[page][start..start + (end - first) * self.head_dim]
    }

    /// Bytes held now.
    pub(super) fn bytes(&self) -> u64 {
        self.local.held.iter().chain(&self.global.held).map(MappedVec::bytes).sum()
    }
}
