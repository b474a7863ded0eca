//! Keys and values of one text.
//!
//! They lie in pages of [`PAGE`] positions at fixed places of the text, in half precision, as `kernels::attention` reads them:
//! for each layer and head the keys, number by number with the positions side by side, then the values, position by position.
//! Layers that see everything and layers that see a window have pages of their own. A page of the second kind is let go as soon
//! as no later position sees it, so those layers hold a window and not the text; that is their ring.
//!
//! A page that is full is never written again, and pages are shared by counting: a text that begins as another did takes the
//! other's pages ([`super::prefix`]). The last page, which grows, is copied by the one who writes to it first.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::Error;
use crate::kernels::PAGE;
use crate::memory::MappedVec;
use crate::team::Shared;

use super::config::{Config, LayerShape};
use super::source::Family;

/// Where the layers' keys and values are.
pub(crate) struct Layout {
    layers: Vec<Place>,
    /// Bytes of a page of the layers that see everything, and of those that see a window.
    bytes: [usize; 2],
    /// Positions that the second kind sees.
    window: usize,
    /// A page of a kind that has no layer.
    nothing: Page,
}

/// Those of one layer.
#[derive(Clone, Copy, Debug)]
struct Place {
    local: bool,
    /// Where its first head begins in a page.
    start: usize,
    /// Bytes of the keys, or the values, of one head in a page.
    part: usize,
}

impl Layout {
    pub(super) fn new(config: &Config) -> Result<Layout, Error> {
        if config.family == Family::Embedding {
            // No later token looks at a layer that is done: all layers have the same place, one after the other.
            let place = |shape: &LayerShape| Place { local: false, start: 0, part: 2 * PAGE * shape.head_dim };
            let layers = config.shapes.iter().map(place).collect();
            let bytes = [4 * PAGE * config.most(|s| s.head_dim * s.kv_heads), 0];
            return Ok(Layout { layers, bytes, window: 1, nothing: Arc::new(MappedVec::zeroed(0)?) });
        }
        let mut bytes = [0; 2];
        let mut layers: Vec<Place> = Vec::with_capacity(config.layers);
        for (index, shape) in config.shapes.iter().enumerate() {
            // A layer without keys and values of its own has those of an earlier one.
            if let Some(place) = layers.get(shape.kv_source).copied().filter(|_| shape.kv_source != index) {
                layers.push(place);
                continue;
            }
            let (local, part) = (shape.window.is_some(), 2 * PAGE * shape.head_dim);
            let start = &mut bytes[usize::from(local)];
            layers.push(Place { local, start: *start, part });
            *start += 2 * part * shape.kv_heads;
        }
        let window = config.shapes.iter().filter_map(|shape| shape.window).max().unwrap_or(1);
        Ok(Layout { layers, bytes, window, nothing: Arc::new(MappedVec::zeroed(0)?) })
    }

    /// Bytes that one more position costs in the layers that keep all of them.
    pub(super) fn bytes_per_token(&self) -> usize {
        self.bytes[0] / PAGE
    }

    /// Bytes of a page of each kind.
    pub(super) fn page_bytes(&self) -> [usize; 2] {
        self.bytes
    }

    /// The first page that the layers of the second kind need for a position `at` and later ones.
    fn first_seen(&self, at: usize) -> usize {
        at.saturating_sub(self.window.saturating_sub(1)) / PAGE
    }

    /// Bytes that a text of `len` positions holds while it grows.
    #[cfg(test)]
    pub(super) fn bytes_for(&self, len: usize) -> u64 {
        let all = len.div_ceil(PAGE);
        // A window that begins within a page touches one page more than it fills.
        let some = all.min(self.window.div_ceil(PAGE) + 1);
        (all * self.bytes[0] + some * self.bytes[1]) as u64
    }
}

/// The keys and values of [`PAGE`] positions in all layers of a kind.
pub(super) type Page = Arc<MappedVec<u8>>;

/// Pages of one kind of layer.
#[derive(Clone, Default)]
struct Pages {
    held: VecDeque<Page>,
    /// The number of the first one.
    first: usize,
}

/// The keys and values of a text.
pub(crate) struct KvCache {
    layout: Arc<Layout>,
    pages: [Pages; 2],
}

/// Places of keys and values that several threads write and read in one step: each position of a layer is written by one of
/// them, in one region, and read in later ones.
pub(super) struct Places {
    /// Page by page; the first has this number.
    pages: [(Vec<Shared<u8>>, usize); 2],
}

impl KvCache {
    pub(super) fn new(layout: Arc<Layout>) -> KvCache {
        KvCache { layout, pages: [Pages::default(), Pages::default()] }
    }

    /// Makes room for the positions `from..to`, which follow those that there are, and lets go what none of them sees.
    pub(super) fn reserve(&mut self, from: usize, to: usize) -> Result<(), Error> {
        let seen = self.layout.first_seen(from);
        let local = &mut self.pages[1];
        while local.first < seen && local.held.pop_front().is_some() {
            local.first += 1;
        }
        for (pages, bytes) in self.pages.iter_mut().zip(self.layout.bytes) {
            if bytes == 0 {
                continue;
            }
            // What is written must be this text's alone.
            if let Some(last) = pages.held.get_mut((from / PAGE).wrapping_sub(pages.first))
                && Arc::get_mut(last).is_none()
            {
                *last = Arc::new(MappedVec::copy_of(last)?);
            }
            while pages.first + pages.held.len() < to.div_ceil(PAGE) {
                pages.held.push_back(Arc::new(MappedVec::zeroed(bytes)?));
            }
        }
        Ok(())
    }

    /// Forgets everything and makes room for `len` positions, in the pages that there are: the places behind them hold nothing that
    /// was written before.
    pub(super) fn restart(&mut self, len: usize) -> Result<(), Error> {
        self.reserve(0, len)?;
        for pages in self.pages.iter_mut().filter(|_| !len.is_multiple_of(PAGE)) {
            if let Some(last) = pages.held.get_mut(len / PAGE).and_then(Arc::get_mut) {
                last.fill(0);
            }
        }
        Ok(())
    }

    /// The places of all positions, the reserved ones among them.
    pub(super) fn places(&mut self) -> Places {
        let place = |pages: &Pages| (pages.held.iter().map(|page| page.shared()).collect(), pages.first);
        Places { pages: [place(&self.pages[0]), place(&self.pages[1])] }
    }

    /// Page number `number` of both kinds of layer, if both are still here.
    pub(super) fn page(&self, number: usize) -> Option<[Page; 2]> {
        let page = |kind: usize| match self.layout.bytes[kind] {
            0 => Some(Arc::clone(&self.layout.nothing)),
            _ => {
                let pages = &self.pages[kind];
                pages.held.get(number.checked_sub(pages.first)?).cloned()
            }
        };
        Some([page(0)?, page(1)?])
    }

    /// Keys and values of the first `len` positions, of which these are all pages.
    pub(super) fn of_pages(layout: Arc<Layout>, all: Vec<[Page; 2]>, len: usize) -> KvCache {
        let seen = layout.first_seen(len);
        let mut pages = [Pages::default(), Pages { held: VecDeque::new(), first: seen }];
        for (number, [global, local]) in all.into_iter().enumerate() {
            if layout.bytes[0] > 0 {
                pages[0].held.push_back(global);
            }
            if layout.bytes[1] > 0 && number >= seen {
                pages[1].held.push_back(local);
            }
        }
        KvCache { layout, pages }
    }

    /// Bytes held now.
    pub(super) fn bytes(&self) -> u64 {
        self.pages.iter().flat_map(|pages| &pages.held).map(|page| page.bytes()).sum()
    }
}

impl Layout {
    /// Writes the key and the value of a position of one head.
    ///
    /// # Safety
    /// The position must be one of `places`, whose cache must not be changed meanwhile, and nobody else may use it.
    pub(super) unsafe fn write(
        &self,
        places: &Places,
        layer: usize,
        head: usize,
        at: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let place = self.layers[layer];
        let (pages, first) = &places.pages[usize::from(place.local)];
        let page = &pages[at / PAGE - first];
        let start = place.start + 2 * head * place.part;
        let (row, d) = (at % PAGE, key.len());
        assert!(2 * d * PAGE == place.part && value.len() == d);
        // SAFETY: the head's keys and values lie in the page, by the way the layout was made; only this position's places in
        // them are written, which are the caller's.
        unsafe {
            for (j, key) in key.iter().enumerate() {
                let bits = half::f16::from_f32(*key).to_le_bytes();
                page.slice(start + 2 * (j * PAGE + row), 2).copy_from_slice(&bits);
            }
            let to = page.slice(start + place.part + 2 * row * d, 2 * d);
            for (to, value) in to.as_chunks_mut::<2>().0.iter_mut().zip(value) {
                *to = half::f16::from_f32(*value).to_le_bytes();
            }
        }
    }

    /// The keys and the values of a head in page number `page`.
    ///
    /// # Safety
    /// The page must be one of `places`, whose cache must not be changed meanwhile, and nobody may write to this layer.
    pub(super) unsafe fn read<'a>(
        &self,
        places: &'a Places,
        layer: usize,
        head: usize,
        page: usize,
    ) -> (&'a [u8], &'a [u8]) {
        let place = self.layers[layer];
        let (pages, first) = &places.pages[usize::from(place.local)];
        let start = place.start + 2 * head * place.part;
        // SAFETY: the head's keys and values lie in the page; nobody writes to them, by the caller's promise.
        unsafe { pages[page - first].slice(start, 2 * place.part).split_at(place.part) }
    }
}
