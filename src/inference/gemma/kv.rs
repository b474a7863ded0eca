//! Keys and values of one text.
//!
//! They lie in pages of [`PAGE`] positions at fixed places of the text, for each layer and head the keys, then the values: in bf16
//! as `kernels::attention` reads them, or in 8 bits ([`KvFormat::Q8`]) in the same order, to which it unpacks a page when it
//! comes to it. Every 32 numbers of a position then share a scale, the largest of them divided by 127; scales lie behind the
//! keys and behind the values.
//! Layers that see everything and layers that see a window have pages of their own. A page of the second kind is let go as soon
//! as no later position sees it, so those layers hold a window and not the text; that is their ring.
//!
//! A page that is full is never written again, and pages are shared by counting: a text that begins as another did takes the
//! other's pages ([`super::prefix`]). The last page, which grows, is copied by the one who writes to it first. Pages are cut from
//! large ones of the system ([`crate::memory::Slabs`]).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::Error;
use crate::kernels::{AttentionKernels, PAGE};
use crate::memory::{SlabPiece, Slabs};
use crate::team::Shared;

use super::config::{Config, LayerShape};
use super::source::Family;

/// How keys and values are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// Two bytes a number.
    #[default]
    Bf16,
    /// One byte a number, and a scale for every 32: 53 % of the room. A token takes longer by what unpacking costs, and answers
    /// can differ from those with the other format.
    Q8,
}

impl KvFormat {
    /// All formats.
    pub const ALL: [KvFormat; 2] = [KvFormat::Bf16, KvFormat::Q8];

    /// `bf16` or `q8`.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::Bf16 => "bf16",
            KvFormat::Q8 => "q8",
        }
    }

    /// The format of this name.
    pub fn of(name: &str) -> Option<KvFormat> {
        KvFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Bytes of the keys, or the values, of a page of one head.
    fn part(self, head_dim: usize) -> usize {
        match self {
            KvFormat::Bf16 => 2 * PAGE * head_dim,
            KvFormat::Q8 => PAGE * (head_dim + 2 * head_dim.div_ceil(GROUP)),
        }
    }
}

/// Numbers of a position that share a scale.
const GROUP: usize = 32;

/// Where the layers' keys and values are.
pub(crate) struct Layout {
    format: KvFormat,
    layers: Vec<Place>,
    /// Bytes of a page of the layers that see everything, and of those that see a window.
    bytes: [usize; 2],
    /// Where pages come from.
    slabs: [Arc<Slabs>; 2],
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
    pub(super) fn new(config: &Config, format: KvFormat) -> Result<Layout, Error> {
        if config.family == Family::Embedding {
            // No later token looks at a layer that is done: all layers have the same place, one after the other.
            let place = |shape: &LayerShape| Place { local: false, start: 0, part: format.part(shape.head_dim) };
            let layers = config.shapes.iter().map(place).collect();
            let bytes = [2 * config.most(|s| format.part(s.head_dim) * s.kv_heads), 0];
            return Layout::of(format, layers, bytes, 1);
        }
        let mut bytes = [0; 2];
        let mut layers: Vec<Place> = Vec::with_capacity(config.layers);
        for (index, shape) in config.shapes.iter().enumerate() {
            // A layer without keys and values of its own has those of an earlier one.
            if let Some(place) = layers.get(shape.kv_source).copied().filter(|_| shape.kv_source != index) {
                layers.push(place);
                continue;
            }
            let (local, part) = (shape.window.is_some(), format.part(shape.head_dim));
            let start = &mut bytes[usize::from(local)];
            layers.push(Place { local, start: *start, part });
            *start += 2 * part * shape.kv_heads;
        }
        let window = config.shapes.iter().filter_map(|shape| shape.window).max().unwrap_or(1);
        Layout::of(format, layers, bytes, window)
    }

    fn of(format: KvFormat, layers: Vec<Place>, bytes: [usize; 2], window: usize) -> Result<Layout, Error> {
        let nothing = Arc::new(Slabs::new(0).take()?);
        Ok(Layout { format, layers, bytes, slabs: bytes.map(Slabs::new), window, nothing })
    }

    /// An empty page of a kind.
    pub(super) fn new_page(&self, kind: usize) -> Result<SlabPiece, Error> {
        self.slabs[kind].take()
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
pub(super) type Page = Arc<SlabPiece>;

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
        for (kind, pages) in self.pages.iter_mut().enumerate() {
            if self.layout.bytes[kind] == 0 {
                continue;
            }
            // What is written must be this text's alone.
            if let Some(last) = pages.held.get_mut((from / PAGE).wrapping_sub(pages.first))
                && Arc::get_mut(last).is_none()
            {
                *last = Arc::new(self.layout.slabs[kind].copy_of(last)?);
            }
            while pages.first + pages.held.len() < to.div_ceil(PAGE) {
                pages.held.push_back(Arc::new(self.layout.new_page(kind)?));
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
        self.pages.iter().flat_map(|pages| &pages.held).map(|page| page.len() as u64).sum()
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
        assert!(self.format.part(d) == place.part && value.len() == d);
        // Two numbers of a position are in a cell of the keys, two positions in one of the values.
        let key_at = |j: usize| 2 * (j / 2 * PAGE + row) + j % 2;
        let value_at = |j: usize| 2 * (row / 2 * d + j) + row % 2;
        // SAFETY: the head's keys and values lie in the page, by the way the layout was made; only this position's places in
        // them are written, which are the caller's.
        let put = |at: usize, bytes: &[u8]| unsafe { page.slice(start + at, bytes.len()).copy_from_slice(bytes) };
        match self.format {
            KvFormat::Bf16 => {
                let bits = |x: f32| half::bf16::from_f32(x).to_ne_bytes();
                for (j, (key, value)) in key.iter().zip(value).enumerate() {
                    put(2 * key_at(j), &bits(*key));
                    put(place.part + 2 * value_at(j), &bits(*value));
                }
            }
            KvFormat::Q8 => {
                let groups = d.div_ceil(GROUP);
                for (g, (key, value)) in key.chunks(GROUP).zip(value.chunks(GROUP)).enumerate() {
                    let (key_scale, key_per) = scale(key);
                    let (value_scale, value_per) = scale(value);
                    let byte = |x: f32, per: f32| [(x * per).round_ties_even() as i8 as u8];
                    for (j, (key, value)) in (g * GROUP..).zip(key.iter().zip(value)) {
                        put(key_at(j), &byte(*key, key_per));
                        put(place.part + value_at(j), &byte(*value, value_per));
                    }
                    put(PAGE * d + 2 * (g * PAGE + row), &key_scale.to_ne_bytes());
                    put(place.part + PAGE * d + 2 * (row * groups + g), &value_scale.to_ne_bytes());
                }
            }
        }
    }

    /// Numbers of scratch that [`Layout::read`] needs for heads of `d` numbers.
    pub(super) fn scratch_len(&self, d: usize) -> usize {
        match self.format {
            KvFormat::Bf16 => 0,
            KvFormat::Q8 => PAGE * d,
        }
    }

    /// How they are held.
    pub(super) fn format(&self) -> KvFormat {
        self.format
    }

    /// The cells of the keys and then of the values of a head in page number `page`: where they are, or unpacked into `scratch`.
    ///
    /// # Safety
    /// The page must be one of `places`, whose cache must not be changed meanwhile, and nobody may write to this layer.
    pub(super) unsafe fn read<'a>(
        &self,
        places: &'a Places,
        layer: usize,
        head: usize,
        page: usize,
        kernels: &AttentionKernels,
        scratch: &'a mut [u32],
    ) -> &'a [u32] {
        let place = self.layers[layer];
        let (pages, first) = &places.pages[usize::from(place.local)];
        let start = place.start + 2 * head * place.part;
        // SAFETY: the head's keys and values lie in the page; nobody writes to them, by the caller's promise.
        let bytes: &[u8] = unsafe { pages[page - first].slice(start, 2 * place.part) };
        match self.format {
            KvFormat::Bf16 => cells(bytes),
            KvFormat::Q8 => {
                kernels.unpack(bytes, scratch);
                scratch
            }
        }
    }
}

impl Layout {
    /// The cells of a head in page number `page` that will be read soon, as far as they are there and need no unpacking.
    ///
    /// # Safety
    /// As for [`Layout::read`].
    pub(super) unsafe fn coming<'a>(&self, places: &'a Places, layer: usize, head: usize, page: usize) -> &'a [u32] {
        let place = self.layers[layer];
        let (pages, first) = &places.pages[usize::from(place.local)];
        match pages.get(page - first) {
            Some(page) if self.format == KvFormat::Bf16 => {
                // SAFETY: as in `read`.
                cells(unsafe { page.slice(place.start + 2 * head * place.part, 2 * place.part) })
            }
            _ => &[],
        }
    }
}

/// What a byte of 1 stands for in a group of numbers, and its inverse. Where one of them is no number, neither is the scale: so
/// broken weights stay visible, as in the other format.
fn scale(group: &[f32]) -> (half::bf16, f32) {
    let most = group.iter().fold(0.0f32, |most, x| if x.abs() > most || x.is_nan() { x.abs() } else { most });
    let scale = half::bf16::from_f32(most / 127.0);
    // Rounded down, it lets the largest number become 127.25 at most, which is a byte of 127.
    let per = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    (scale, per)
}

/// The cells that these bytes are.
fn cells(bytes: &[u8]) -> &[u32] {
    // SAFETY: every pattern of bytes is a u32.
    let (before, cells, after) = unsafe { bytes.align_to::<u32>() };
    assert!(before.is_empty() && after.is_empty(), "pages and what lies in them begin at multiples of four bytes");
    cells
}
