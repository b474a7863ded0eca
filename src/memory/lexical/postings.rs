//! The documents: where they lie, how they come and go. See the essay of the module for the design.

use super::paged::Paged;
use crate::entry::block;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// Documents of a segment: ten bits of a posting name one.
pub(super) const DOCS: usize = 1 << DOC_BITS;
const DOC_BITS: u32 = 10;
/// Postings at which a tail is sealed whatever its documents: it bounds how long that takes. The last document may lead beyond it.
pub(super) const POSTINGS: usize = 16_384;
/// Documents of a chunk of the tail, which is what an addition copies when a snapshot holds it.
const CHUNK: usize = 64;
/// Bits of a posting for how often the term occurs.
const TF_BITS: u32 = 6;
/// One slot of a directory stays free for so many terms.
const FREE: usize = 8;
/// Slots of a segment's directory that share a base: their postings, at most one per document, are counted in 16 bits.
const BASE: usize = 64;
const _: () = assert!(BASE * DOCS <= 1 << 16 && DOC_BITS + TF_BITS == 16 && DOCS.is_multiple_of(CHUNK));
/// Segments: what is left of the 32 bits of a [`DocId`], less one so that no document has the number of [`DocId::NONE`].
const SEGMENTS: usize = (1 << (u32::BITS - DOC_BITS)) - 1;
/// The owner of a document that belongs to nobody.
const DEAD: u32 = u32::MAX;

/// Where a document is: the number of its segment and its own within that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DocId(u32);

impl DocId {
    /// No document: what a text gets when there is no room (above four billion documents), and a memory that has none.
    pub(crate) const NONE: DocId = DocId(u32::MAX);

    /// The number that stands for it in a record.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// The document with a number.
    pub(crate) fn from_number(number: u32) -> DocId {
        DocId(number)
    }

    fn new(segment: u32, doc: usize) -> DocId {
        DocId(segment << DOC_BITS | doc as u32)
    }

    pub(super) fn segment(self) -> u32 {
        self.0 >> DOC_BITS
    }

    pub(super) fn doc(self) -> usize {
        self.0 as usize % DOCS
    }
}

/// A document of a segment and how often a term occurs in it: ten bits and six.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Posting(u16);

impl Posting {
    fn new(doc: usize, times: u8) -> Posting {
        Posting((doc << TF_BITS) as u16 | u16::from(times))
    }

    #[inline]
    pub(super) fn doc(self) -> usize {
        usize::from(self.0 >> TF_BITS)
    }

    /// How often the term occurs: exact up to 32, above that one of four values per doubling, at most 8,192.
    #[inline]
    pub(super) fn times(self) -> f32 {
        TIMES[usize::from(self.0) % TIMES.len()]
    }
}

/// How often a term occurs, by the six bits that say so.
static TIMES: [f32; 1 << TF_BITS] = {
    let mut times = [0.0; 1 << TF_BITS];
    let mut code = 0;
    while code < times.len() {
        times[code] = if code < 32 { (code + 1) as f32 } else { ((5 + code % 4) << ((code - 32) / 4 + 3)) as f32 };
        code += 1;
    }
    times
};

/// The bits for the greatest value that is not above `times`.
fn times_code(times: usize) -> u8 {
    match times {
        0..=32 => times.saturating_sub(1) as u8,
        _ => TIMES.partition_point(|value| *value <= times as f32).saturating_sub(1) as u8,
    }
}

/// Up to [`CHUNK`] documents in forward form.
#[derive(Clone, Default)]
pub(super) struct Chunk {
    pub(super) owners: Vec<u32>,
    pub(super) lengths: Vec<u16>,
    /// Where the terms of each document end.
    ends: Vec<u32>,
    /// The terms of each document, ascending.
    terms: Vec<u32>,
    times: Vec<u8>,
}

impl Chunk {
    fn bytes(&self) -> usize {
        block(size_of::<Chunk>() + 16)
            + block(self.owners.capacity() * size_of::<u32>())
            + block(self.lengths.capacity() * size_of::<u16>())
            + block(self.ends.capacity() * size_of::<u32>())
            + block(self.terms.capacity() * size_of::<u32>())
            + block(self.times.capacity())
    }

    /// The places of a document's terms.
    fn range(&self, doc: usize) -> Range<usize> {
        let end = |doc: usize| self.ends.get(doc).map_or(self.terms.len(), |end| *end as usize);
        doc.checked_sub(1).map_or(0, end)..end(doc)
    }

    /// Calls `f` with the living documents that have a term, `first` being the number of the chunk's first.
    fn find(&self, first: usize, term: u32, mut f: impl FnMut(Posting)) {
        const STEP: usize = 32;
        for (step, terms) in self.terms.chunks(STEP).enumerate() {
            // Without a branch per term, so that it compiles to comparisons of whole registers.
            if !terms.iter().fold(false, |found, each| found | (*each == term)) {
                continue;
            }
            for place in (step * STEP..).zip(terms).filter(|(_, each)| **each == term).map(|(place, _)| place) {
                let doc = self.ends.partition_point(|end| *end as usize <= place);
                if self.owners.get(doc).is_some_and(|owner| *owner != DEAD)
                    && let Some(times) = self.times.get(place)
                {
                    f(Posting::new(first + doc, *times));
                }
            }
        }
    }
}

/// The documents that are not sealed yet.
#[derive(Clone, Default)]
pub(super) struct Tail {
    /// The number that the segment will have, and documents have already. None as long as there are none.
    number: Option<u32>,
    chunks: Arc<Vec<Arc<Chunk>>>,
    docs: usize,
    live: usize,
    postings: usize,
}

impl Tail {
    /// Its chunks, each with the number of its first document.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (usize, &Chunk)> {
        self.chunks.iter().enumerate().map(|(n, chunk)| (n * CHUNK, &**chunk))
    }

    /// Calls `f` with the living documents that have a term.
    pub(super) fn find(&self, term: u32, mut f: impl FnMut(Posting)) {
        self.chunks().for_each(|(first, chunk)| chunk.find(first, term, &mut f));
    }

    fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes()).sum()
    }
}

/// Sealed documents. Nothing in it changes but which are alive.
#[derive(Clone, Default)]
pub(super) struct Segment {
    /// The slot of each document, or [`DEAD`]. In a box, because the allocator rounds 4 KiB and an `Arc`'s counters up to 5 KiB.
    pub(super) owners: Arc<Box<[u32]>>,
    pub(super) body: Arc<Body>,
    pub(super) live: u32,
    /// The lengths of the documents that died since it was sealed, together.
    dead_length: u32,
}

#[derive(Default)]
pub(super) struct Body {
    /// The length of each document.
    pub(super) lengths: Box<[u16]>,
    /// The directory: the terms, ascending. Each is at its [`Body::home`] or, where others are in the way, behind them; a slot that
    /// stays free repeats the term before it and has no postings. So one cache line tells mostly where a term is, or that it is not.
    terms: Box<[u32]>,
    /// The slots that homes are spread over; the directory may be longer by what the last terms are displaced.
    slots: u32,
    /// Where the postings of each slot start, counted from the base of its [`BASE`] slots.
    starts: Box<[u16]>,
    bases: Box<[u32]>,
    postings: Box<[Posting]>,
    /// The lengths of the documents whose postings are here, together.
    length: u32,
}

impl Body {
    /// The first place at which a term can be in a directory of so many slots: terms are hashes, evenly spread.
    fn home(term: u32, slots: usize) -> usize {
        ((u64::from(term) * slots as u64) >> 32) as usize
    }

    /// Where the postings of a term are.
    pub(super) fn find(&self, term: u32) -> Range<u32> {
        self.find_from(Body::home(term, self.slots as usize), term)
    }

    /// Where the postings of every term are, in their order. Their places in the directory are touched together, so that the
    /// memory answers for all of them at once.
    pub(super) fn find_all(
        &self,
        terms: impl Iterator<Item = u32> + Clone,
        homes: &mut Vec<(usize, bool)>,
        out: &mut Vec<Range<u32>>,
    ) {
        homes.clear();
        homes.extend(terms.clone().map(|term| {
            let home = Body::home(term, self.slots as usize);
            (home, self.terms.get(home).is_some_and(|at| *at <= term))
        }));
        // Nothing lies before its home, so a greater term there says that this one is nowhere.
        let find =
            |(term, &(home, may_be)): (u32, &(usize, bool))| if may_be { self.find_from(home, term) } else { 0..0 };
        out.extend(terms.zip(homes.iter()).map(find));
    }

    fn find_from(&self, home: usize, term: u32) -> Range<u32> {
        // A few steps, unless somebody chose words for their hashes.
        const STEPS: usize = 64;
        let near = self.terms.get(home..).unwrap_or(&[]);
        let at = match near.iter().take(STEPS).position(|at| *at >= term) {
            Some(at) => home + at,
            None => home + near.partition_point(|at| *at < term),
        };
        if self.terms.get(at) == Some(&term) { self.start(at)..self.start(at + 1) } else { 0..0 }
    }

    /// Where the postings of the term at a place start: behind the last, their end.
    fn start(&self, at: usize) -> u32 {
        match (self.bases.get(at / BASE), self.starts.get(at)) {
            (Some(base), Some(start)) => base + u32::from(*start),
            _ => self.postings.len() as u32,
        }
    }

    pub(super) fn postings(&self, range: Range<u32>) -> &[Posting] {
        self.postings.get(range.start as usize..range.end as usize).unwrap_or(&[])
    }

    fn bytes(&self) -> usize {
        block(size_of::<Body>() + 16)
            + block(self.lengths.len() * size_of::<u16>())
            + block(self.terms.len() * size_of::<u32>())
            + block(self.starts.len() * size_of::<u16>())
            + block(self.bases.len() * size_of::<u32>())
            + block(self.postings.len() * size_of::<Posting>())
    }
}

impl Segment {
    /// Inverts a tail. The dead keep their numbers and lose their postings.
    fn seal(tail: &Tail) -> Segment {
        let mut owners = Vec::with_capacity(tail.docs);
        let mut lengths = Vec::with_capacity(tail.docs);
        let mut keys = Vec::with_capacity(tail.postings);
        let mut length = 0;
        for (first, chunk) in tail.chunks() {
            owners.extend_from_slice(&chunk.owners);
            lengths.extend_from_slice(&chunk.lengths);
            for (doc, (owner, own_length)) in chunk.owners.iter().zip(&chunk.lengths).enumerate() {
                let range = chunk.range(doc);
                if *owner != DEAD
                    && let (Some(terms), Some(times)) = (chunk.terms.get(range.clone()), chunk.times.get(range))
                {
                    length += u32::from(*own_length);
                    keys.extend(
                        terms.iter().zip(times).map(|(term, times)| Key::new(*term, Posting::new(first + doc, *times))),
                    );
                }
            }
        }
        // Keys come in the order of documents and every pass keeps the order of what it finds equal, so the terms alone decide.
        let mut other = vec![Key(0); keys.len()];
        sort_pass(&keys, &mut other, Key::TERM, 11);
        sort_pass(&other, &mut keys, Key::TERM + 11, 11);
        sort_pass(&keys, &mut other, Key::TERM + 22, 10);
        let keys = other;

        let distinct = keys.chunk_by(|a, b| a.term() == b.term()).count();
        let slots = distinct + distinct / FREE;
        let mut terms = Vec::with_capacity(slots + FREE);
        let mut starts = Vec::with_capacity(slots + FREE);
        let mut bases: Vec<u32> = Vec::with_capacity(slots / BASE + 1);
        let mut put = |term: u32, place: u32| {
            if terms.len().is_multiple_of(BASE) {
                bases.push(place);
            }
            terms.push(term);
            starts.push((place - bases.last().copied().unwrap_or(0)) as u16);
            terms.len()
        };
        let (mut place, mut filled, mut last) = (0, 0, 0);
        for run in keys.chunk_by(|a, b| a.term() == b.term()) {
            let term = run.first().map_or(0, |key| key.term());
            while filled < Body::home(term, slots) {
                filled = put(last, place);
            }
            filled = put(term, place);
            place += run.len() as u32;
            last = term;
        }
        let body = Body {
            lengths: lengths.into(),
            terms: terms.into(),
            slots: slots as u32,
            starts: starts.into(),
            bases: bases.into(),
            postings: keys.iter().map(|key| key.posting()).collect(),
            length,
        };
        Segment { owners: Arc::new(owners.into()), body: Arc::new(body), live: tail.live as u32, dead_length: 0 }
    }

    fn owner(&self, doc: usize) -> u32 {
        self.owners.get(doc).copied().unwrap_or(DEAD)
    }

    /// How many living documents a range of postings names.
    pub(super) fn living(&self, range: Range<u32>) -> u32 {
        if self.live as usize == self.owners.len() {
            return range.len() as u32;
        }
        self.body.postings(range).iter().filter(|posting| self.owner(posting.doc()) != DEAD).count() as u32
    }

    /// Whether it is alive and a quarter of it is dead: of its documents, or of their postings, nearly.
    fn is_wasteful(&self) -> bool {
        let dead = self.owners.len() - self.live as usize;
        let worth = |dead: u64, all: u64| dead > 0 && dead * 4 >= all;
        self.live > 0
            && (worth(dead as u64, self.owners.len() as u64)
                || worth(u64::from(self.dead_length), u64::from(self.body.length)))
    }

    fn bytes(&self) -> usize {
        if self.owners.is_empty() {
            return 0;
        }
        self.body.bytes() + block(self.owners.len() * size_of::<u32>()) + block(size_of::<Box<[u32]>>() + 16)
    }
}

/// A posting on its way into or out of a segment, with its term above it.
#[derive(Clone, Copy)]
struct Key(u64);

impl Key {
    /// Where the bits of the term and of the document begin.
    const TERM: u32 = 16;
    const DOC: u32 = TF_BITS;

    fn new(term: u32, posting: Posting) -> Key {
        Key(u64::from(term) << Key::TERM | u64::from(posting.0))
    }

    fn term(self) -> u32 {
        (self.0 >> Key::TERM) as u32
    }

    fn posting(self) -> Posting {
        Posting(self.0 as u16)
    }

    fn times_code(self) -> u8 {
        self.0 as u8 % (1 << TF_BITS)
    }
}

/// Sorts by `bits` bits, keeping the order of what is equal there. Both slices have one length.
fn sort_pass(from: &[Key], to: &mut [Key], shift: u32, bits: u32) {
    let digit = |key: &Key| (key.0 >> shift) as usize & ((1 << bits) - 1) & 2047;
    let mut places = [0_u32; 2048];
    from.iter().for_each(|key| places[digit(key)] += 1);
    let mut sum = 0;
    for place in &mut places {
        sum += std::mem::replace(place, sum);
    }
    for key in from {
        let place = &mut places[digit(key)];
        if let Some(to) = to.get_mut(*place as usize) {
            *to = *key;
        }
        *place += 1;
    }
}

/// All documents of a space. Cloning is O(1) and freezes what is seen.
#[derive(Clone, Default)]
pub(crate) struct Postings {
    segments: Paged<Segment>,
    tail: Tail,
    /// Living documents.
    docs: usize,
    /// Their lengths together.
    length: u64,
}

/// What the owner of the space keeps about its documents besides them.
#[derive(Clone, Default)]
pub(crate) struct LexicalCounts {
    /// Living documents.
    documents: usize,
    /// Documents that belong to nobody and still take room.
    dead: usize,
    /// Bytes of all segments and of the tail.
    bytes: usize,
    /// Numbers of segments that were given back.
    free: Vec<u32>,
    /// Segments that are worth a compaction.
    wasteful: BTreeSet<u32>,
    /// The terms of the document that is being added.
    sorted: Vec<u32>,
}

impl LexicalCounts {
    /// Living documents.
    pub(crate) fn documents(&self) -> usize {
        self.documents
    }

    /// Documents that belong to nobody and still take room.
    pub(crate) fn dead(&self) -> usize {
        self.dead
    }

    /// Bytes of all documents, dead ones included, nearly as the allocator counts them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Postings {
    /// Living documents.
    pub(crate) fn docs(&self) -> usize {
        self.docs
    }

    /// The mean length of the living documents, in terms.
    pub(crate) fn mean_length(&self) -> f64 {
        self.length as f64 / self.docs.max(1) as f64
    }

    pub(super) fn segments(&self) -> &Paged<Segment> {
        &self.segments
    }

    pub(super) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Adds a document: its terms, in any order, each as often as it occurs. The owner is a slot, never `u32::MAX`. Seals the tail
    /// when that is full. [`DocId::NONE`] when there is no room.
    pub(crate) fn add(&mut self, counts: &mut LexicalCounts, owner: u32, terms: &[u32]) -> DocId {
        let mut sorted = std::mem::take(&mut counts.sorted);
        sorted.clear();
        sorted.extend_from_slice(terms);
        sorted.sort_unstable();
        let length = terms.len().min(usize::from(u16::MAX)) as u16;
        let runs = sorted.chunk_by(|a, b| a == b).filter_map(|run| Some((*run.first()?, times_code(run.len()))));
        let id = self.push(counts, owner, length, runs);
        // A memory of a megabyte leaves no half a megabyte behind.
        sorted.shrink_to(POSTINGS);
        counts.sorted = sorted;
        id
    }

    fn push(
        &mut self,
        counts: &mut LexicalCounts,
        owner: u32,
        length: u16,
        terms: impl Iterator<Item = (u32, u8)>,
    ) -> DocId {
        let Some(number) = self.tail.number.or_else(|| self.number(counts)) else { return DocId::NONE };
        let tail = &mut self.tail;
        tail.number = Some(number);
        let doc = tail.docs;
        let chunks = Arc::make_mut(&mut tail.chunks);
        if doc.is_multiple_of(CHUNK) {
            chunks.push(Arc::default());
            counts.bytes += Chunk::default().bytes();
        }
        let Some(chunk) = chunks.last_mut() else { return DocId::NONE };
        let bytes = chunk.bytes();
        let chunk = Arc::make_mut(chunk);
        let before = chunk.terms.len();
        for (term, times) in terms {
            chunk.terms.push(term);
            chunk.times.push(times);
        }
        chunk.ends.push(chunk.terms.len() as u32);
        chunk.lengths.push(length);
        chunk.owners.push(owner);
        let added = chunk.terms.len() - before;
        if chunk.owners.len() == CHUNK {
            chunk.terms.shrink_to_fit();
            chunk.times.shrink_to_fit();
        }
        counts.bytes = counts.bytes + chunk.bytes() - bytes;
        tail.docs += 1;
        tail.live += 1;
        tail.postings += added;
        self.docs += 1;
        self.length += u64::from(length);
        counts.documents += 1;
        if tail.docs == DOCS || tail.postings >= POSTINGS {
            self.seal(counts, number);
        }
        DocId::new(number, doc)
    }

    /// A number for the next segment.
    fn number(&mut self, counts: &mut LexicalCounts) -> Option<u32> {
        counts.free.pop().or_else(|| {
            let number = self.segments.len();
            (number < SEGMENTS).then(|| {
                self.segments.push(Segment::default());
                number as u32
            })
        })
    }

    fn seal(&mut self, counts: &mut LexicalCounts, number: u32) {
        let tail = std::mem::take(&mut self.tail);
        let segment = Segment::seal(&tail);
        counts.bytes = counts.bytes + segment.bytes() - tail.bytes();
        if segment.is_wasteful() {
            counts.wasteful.insert(number);
        }
        if let Some(place) = self.segments.get_mut(number as usize) {
            *place = segment;
        }
    }

    /// Marks a document as nobody's.
    pub(crate) fn remove(&mut self, counts: &mut LexicalCounts, id: DocId) {
        let length = if self.tail.number == Some(id.segment()) {
            self.remove_from_tail(counts, id.doc())
        } else {
            self.remove_from_segment(counts, id)
        };
        if let Some(length) = length {
            self.docs -= 1;
            self.length -= u64::from(length);
            counts.documents -= 1;
        }
    }

    fn remove_from_tail(&mut self, counts: &mut LexicalCounts, doc: usize) -> Option<u16> {
        let tail = &mut self.tail;
        let chunk = tail.chunks.get(doc / CHUNK)?;
        let (owner, length) = (*chunk.owners.get(doc % CHUNK)?, *chunk.lengths.get(doc % CHUNK)?);
        if owner == DEAD {
            return None;
        }
        tail.live -= 1;
        counts.dead += 1;
        if tail.live == 0 {
            counts.dead -= tail.docs;
            counts.bytes -= tail.bytes();
            let number = tail.number;
            *tail = Tail { number, ..Tail::default() };
            return Some(length);
        }
        let chunk = Arc::make_mut(&mut tail.chunks).get_mut(doc / CHUNK)?;
        // A copy has no room to spare, so the bytes may change.
        let bytes = chunk.bytes();
        let chunk = Arc::make_mut(chunk);
        *chunk.owners.get_mut(doc % CHUNK)? = DEAD;
        counts.bytes = counts.bytes + chunk.bytes() - bytes;
        Some(length)
    }

    fn remove_from_segment(&mut self, counts: &mut LexicalCounts, id: DocId) -> Option<u16> {
        let at = id.segment() as usize;
        if self.segments.get(at)?.owner(id.doc()) == DEAD {
            return None;
        }
        let segment = self.segments.get_mut(at)?;
        *Arc::make_mut(&mut segment.owners).get_mut(id.doc())? = DEAD;
        let length = *segment.body.lengths.get(id.doc())?;
        segment.live -= 1;
        segment.dead_length += u32::from(length);
        counts.dead += 1;
        if segment.live == 0 {
            self.give_back(counts, id.segment());
        } else if segment.is_wasteful() {
            counts.wasteful.insert(id.segment());
        }
        Some(length)
    }

    /// Gives back a segment that nobody needs.
    fn give_back(&mut self, counts: &mut LexicalCounts, number: u32) {
        let Some(place) = self.segments.get_mut(number as usize) else { return };
        let segment = std::mem::take(place);
        counts.bytes -= segment.bytes();
        counts.dead -= segment.owners.len() - segment.live as usize;
        counts.wasteful.remove(&number);
        counts.free.push(number);
    }

    /// Undoes segments that are dead for a quarter or more, one after the other until `budget` documents have moved: their living
    /// documents go to the tail. Gives the owners of those with their new places; empty when no segment is worth it. A segment
    /// is undone as a whole, in some 200 µs.
    pub(crate) fn compact(&mut self, counts: &mut LexicalCounts, budget: usize) -> Vec<(u32, DocId)> {
        let mut moved = Vec::new();
        while moved.len() < budget && self.undo(counts, &mut moved).is_some() {}
        moved
    }

    fn undo(&mut self, counts: &mut LexicalCounts, moved: &mut Vec<(u32, DocId)>) -> Option<()> {
        let number = *counts.wasteful.first()?;
        let mut segment = self.segments.get(number as usize)?.clone();
        let body = &segment.body;
        let mut keys = Vec::with_capacity(body.postings.len());
        for (at, term) in body.terms.iter().enumerate() {
            let living = body.postings(body.start(at)..body.start(at + 1)).iter();
            let living = living.filter(|posting| segment.owner(posting.doc()) != DEAD);
            keys.extend(living.map(|posting| Key::new(*term, *posting)));
        }
        let mut by_doc = vec![Key(0); keys.len()];
        sort_pass(&keys, &mut by_doc, Key::DOC, DOC_BITS);

        let mut keys = by_doc.iter().peekable();
        for (doc, (owner, length)) in segment.owners.iter().zip(&body.lengths).enumerate() {
            if *owner == DEAD {
                continue;
            }
            self.docs -= 1;
            self.length -= u64::from(*length);
            counts.documents -= 1;
            let terms = std::iter::from_fn(|| keys.next_if(|key| key.posting().doc() == doc));
            let id = self.push(counts, *owner, *length, terms.map(|key| (key.term(), key.times_code())));
            moved.push((*owner, id));
        }
        segment.live = 0;
        self.give_back(counts, number);
        Some(())
    }

    /// The segment of this number; None for the tail.
    pub(super) fn sealed(&self, number: u32) -> Option<&Segment> {
        if self.tail.number == Some(number) { None } else { self.segments.get(number as usize) }
    }

    /// The documents of an id's segment: the owner and length of that one, and how often it has a term.
    pub(super) fn document(&self, id: DocId) -> Option<Document<'_>> {
        let doc = id.doc();
        if self.tail.number == Some(id.segment()) {
            let chunk = self.tail.chunks.get(doc / CHUNK)?;
            let range = chunk.range(doc % CHUNK);
            let length = *chunk.lengths.get(doc % CHUNK)?;
            (*chunk.owners.get(doc % CHUNK)? != DEAD).then_some(())?;
            Some(Document { length, doc, terms: Terms::Tail(chunk.terms.get(range.clone())?, chunk.times.get(range)?) })
        } else {
            let segment = self.segments.get(id.segment() as usize)?;
            (segment.owner(doc) != DEAD).then_some(())?;
            Some(Document { length: *segment.body.lengths.get(doc)?, doc, terms: Terms::Sealed(&segment.body) })
        }
    }

    /// What the kept counts must be, from the documents themselves: living, their lengths, dead, bytes.
    pub(crate) fn recount(&self) -> (usize, u64, usize, usize) {
        let chunks = self.tail.chunks().map(|(_, chunk)| (chunk.owners.as_slice(), chunk.lengths.as_slice()));
        let segments = self.segments.iter().map(|segment| (&**segment.owners, &*segment.body.lengths));
        let (mut docs, mut length, mut dead) = (0, 0, 0);
        for (owners, lengths) in chunks.chain(segments) {
            for (owner, own_length) in owners.iter().zip(lengths) {
                if *owner == DEAD {
                    dead += 1;
                } else {
                    docs += 1;
                    length += u64::from(*own_length);
                }
            }
        }
        (docs, length, dead, self.tail.bytes() + self.segments.iter().map(Segment::bytes).sum::<usize>())
    }
}

/// One living document.
pub(super) struct Document<'a> {
    pub(super) length: u16,
    doc: usize,
    terms: Terms<'a>,
}

enum Terms<'a> {
    Tail(&'a [u32], &'a [u8]),
    Sealed(&'a Body),
}

impl Document<'_> {
    /// Its posting for a term.
    pub(super) fn find(&self, term: u32) -> Option<Posting> {
        match self.terms {
            Terms::Tail(terms, times) => {
                let place = terms.binary_search(&term).ok()?;
                Some(Posting::new(self.doc, *times.get(place)?))
            }
            Terms::Sealed(body) => {
                let postings = body.postings(body.find(term));
                let place = postings.binary_search_by_key(&self.doc, |posting| posting.doc()).ok()?;
                postings.get(place).copied()
            }
        }
    }
}

/// Whether an owner is nobody.
#[inline]
pub(super) fn is_dead(owner: u32) -> bool {
    owner == DEAD
}
