//! Scores: BM25 of every document that has a term of the query.
//!
//! Two passes: the first finds the postings of every term in every segment and counts the living, which gives the idf; the second
//! adds up, term by term, in an array of one segment that lives in the fastest cache.

use super::postings::{DOCS, DocId, Posting, Postings, is_dead};
use crate::MemoryId;
use crate::bitmap::Bitmap;
use std::cmp::Ordering;
use std::ops::Range;

/// Different terms of a query that count: the first ones.
pub(crate) const QUERY_TERMS: usize = 256;
/// How often at most a term of the query counts.
const QUERY_TIMES: u32 = 16;

/// The two parameters of BM25, both finite and not negative, `b` at most 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bm25 {
    /// How much a term says that occurs again.
    pub k1: f32,
    /// How much longer documents are held to say less.
    pub b: f32,
}

impl Default for Bm25 {
    fn default() -> Self {
        Bm25 { k1: 0.9, b: 0.4 }
    }
}

/// A term of a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Term {
    /// The term.
    pub hash: u32,
    /// How often it counts.
    pub times: u32,
    /// How many living documents have it.
    pub df: u32,
    /// ln(1 + (N − df + 0.5) / (df + 0.5))
    pub idf: f32,
}

impl Term {
    fn weight(&self) -> f32 {
        self.idf * self.times as f32
    }
}

/// A query and what a space knows about its terms: enough to score a document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Query {
    /// Its different terms, in the order in which they first occur.
    pub terms: Vec<Term>,
    /// What a document's length does: `norm + slope * length` beside the frequency of the term.
    norm: f32,
    slope: f32,
}

/// What one term adds to the score of a document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Part {
    /// The term.
    pub hash: u32,
    /// How often the document has it.
    pub times: u32,
    /// Its idf.
    pub idf: f32,
    /// What it adds.
    pub part: f32,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lexical {
    /// The query with what is known about its terms.
    pub query: Query,
    /// The owner and the score, above 0, of every document that has a term and is admitted; in no order that means anything.
    pub hits: Vec<(u32, f32)>,
}

/// How often some documents have the terms of a query.
pub(crate) struct Frequencies {
    terms: usize,
    times: Vec<f32>,
    norms: Vec<f32>,
}

impl Frequencies {
    fn set(&mut self, place: usize, term: usize, times: f32) {
        if let Some(to) = self.times.get_mut(place * self.terms + term) {
            *to = times;
        }
    }

    fn set_norm(&mut self, place: usize, norm: f32) {
        if let Some(to) = self.norms.get_mut(place) {
            *to = norm;
        }
    }

    /// How often a document has each term of the query, by its place among those asked for.
    pub(crate) fn of(&self, place: usize) -> &[f32] {
        self.times.get(place * self.terms..(place + 1) * self.terms).unwrap_or(&[])
    }

    /// The score of a text as long as that document which has the terms so many times.
    pub(crate) fn score(&self, query: &Query, place: usize, times: &[f32]) -> f32 {
        let norm = self.norms.get(place).copied().unwrap_or(0.0);
        let parts = query.terms.iter().zip(times).filter(|(_, times)| **times > 0.0);
        parts.fold(0.0, |score, (term, times)| score + Query::part(term.weight(), *times, norm))
    }
}

impl Lexical {
    /// The best by score, best first, ties by id.
    pub(crate) fn best(&self, limit: usize, id: impl Fn(u32) -> MemoryId) -> Vec<(u32, f32)> {
        if limit == 0 {
            return Vec::new();
        }
        let order = |a: &(u32, f32), b: &(u32, f32)| match b.1.total_cmp(&a.1) {
            Ordering::Equal => id(a.0).cmp(&id(b.0)),
            other => other,
        };
        let room = limit.saturating_mul(2).min(self.hits.len());
        let mut best: Vec<(u32, f32)> = Vec::with_capacity(room);
        let mut floor = 0.0;
        for hit in &self.hits {
            if hit.1 < floor {
                continue;
            }
            best.push(*hit);
            if best.len() / 2 >= limit {
                let (_, worst, _) = best.select_nth_unstable_by(limit - 1, order);
                floor = worst.1;
                best.truncate(limit);
            }
        }
        best.sort_unstable_by(order);
        best.truncate(limit);
        best
    }
}

impl Query {
    /// What a document has of one term, given how often it has it and [`Query::norm`]. Above 0, so that a score of 0 means none.
    #[inline]
    fn part(weight: f32, times: f32, norm: f32) -> f32 {
        (weight * times / (times + norm)).max(f32::MIN_POSITIVE)
    }

    /// What the length of a document does to its scores.
    #[inline]
    fn norm(&self, length: u16) -> f32 {
        self.norm + self.slope * f32::from(length)
    }
}

/// The sums of one segment.
struct Sums {
    scores: [f32; DOCS],
    norms: [f32; DOCS],
    /// The documents with a score, in the first `found` places; twice as long, so that a place can be written before it counts.
    touched: [u16; 2 * DOCS],
    found: usize,
}

impl Sums {
    fn new() -> Box<Sums> {
        Box::new(Sums { scores: [0.0; DOCS], norms: [0.0; DOCS], touched: [0; 2 * DOCS], found: 0 })
    }

    fn set_norms(&mut self, query: &Query, first: usize, lengths: &[u16]) {
        for (norm, length) in self.norms.iter_mut().skip(first).zip(lengths) {
            *norm = query.norm(*length);
        }
    }

    #[inline]
    fn add(&mut self, weight: f32, posting: Posting) {
        let doc = posting.doc() % DOCS;
        let score = &mut self.scores[doc];
        // Without a branch: the document is written down every time and counts the first.
        self.touched[self.found % (2 * DOCS)] = doc as u16;
        self.found += usize::from(*score == 0.0);
        *score += Query::part(weight, posting.times(), self.norms[doc]);
    }

    /// Gives every document with its score to `f` and is empty again.
    fn drain(&mut self, mut f: impl FnMut(usize, f32)) {
        for doc in self.touched.iter().take(self.found) {
            let doc = usize::from(*doc) % DOCS;
            f(doc, std::mem::take(&mut self.scores[doc]));
        }
        self.found = 0;
    }
}

impl Postings {
    /// What a term that `df` of the living documents have says about a document.
    pub(crate) fn idf(&self, df: f64) -> f64 {
        ((self.docs() as f64 - df + 0.5) / (df + 0.5)).ln_1p()
    }

    /// Scores every document that has a term of the query and whose owner is admitted. The terms are analysed; what a filter
    /// admits changes no score.
    pub(crate) fn search(&self, terms: &[u32], bm25: &Bm25, among: Option<&Bitmap>) -> Lexical {
        let mut query = self.query(terms, bm25);
        let n = query.terms.len();
        // For every segment the postings of every term, and the same for the tail, gathered.
        let mut ranges = Vec::with_capacity(self.segments().len() * n);
        let mut homes = Vec::with_capacity(n);
        for segment in self.segments().iter() {
            let before = ranges.len();
            segment.body.find_all(query.terms.iter().map(|term| term.hash), &mut homes, &mut ranges);
            for (term, range) in query.terms.iter_mut().zip(ranges.iter().skip(before)) {
                term.df += segment.living(range.clone());
            }
        }
        let mut tail = Vec::new();
        for (at, term) in query.terms.iter_mut().enumerate() {
            self.tail().find(term.hash, |posting| {
                term.df += 1;
                tail.push((at, posting));
            });
        }
        for term in &mut query.terms {
            term.idf = self.idf(f64::from(term.df)) as f32;
        }

        let found: usize = query.terms.iter().map(|term| term.df as usize).sum();
        let mut hits = Vec::with_capacity(found.min(self.docs()));
        let mut hit = |owner: Option<&u32>, score: f32| {
            if let Some(&owner) = owner
                && !is_dead(owner)
                && among.is_none_or(|among| among.contains(owner))
            {
                hits.push((owner, score));
            }
        };
        let mut sums = Sums::new();
        for (segment, ranges) in self.segments().iter().zip(ranges.chunks(n.max(1))) {
            if ranges.iter().all(Range::is_empty) {
                continue;
            }
            sums.set_norms(&query, 0, &segment.body.lengths);
            for (term, range) in query.terms.iter().zip(ranges) {
                let weight = term.weight();
                segment.body.postings(range.clone()).iter().for_each(|posting| sums.add(weight, *posting));
            }
            sums.drain(|doc, score| hit(segment.owners.get(doc), score));
        }
        if !tail.is_empty() {
            let mut owners = Vec::with_capacity(DOCS);
            for (first, chunk) in self.tail().chunks() {
                sums.set_norms(&query, first, &chunk.lengths);
                owners.extend_from_slice(&chunk.owners);
            }
            for (at, posting) in tail {
                sums.add(query.terms.get(at).map_or(0.0, Term::weight), posting);
            }
            sums.drain(|doc, score| hit(owners.get(doc), score));
        }
        Lexical { query, hits }
    }

    /// The query without what the postings say.
    fn query(&self, hashes: &[u32], bm25: &Bm25) -> Query {
        let mut terms: Vec<Term> = Vec::new();
        for hash in hashes {
            if let Some(term) = terms.iter_mut().find(|term| term.hash == *hash) {
                term.times = (term.times + 1).min(QUERY_TIMES);
            } else if terms.len() < QUERY_TERMS {
                terms.push(Term { hash: *hash, times: 1, df: 0, idf: 0.0 });
            }
        }
        // Where all documents are empty nothing is found, and the mean does not matter.
        let slope = f64::from(bm25.k1) * f64::from(bm25.b) / self.mean_length().max(f64::MIN_POSITIVE);
        Query { terms, norm: bm25.k1 * (1.0 - bm25.b), slope: slope as f32 }
    }

    /// How often each of some documents has each term of the query. Many at once: in a segment with any of them, the postings of the query's terms are
    /// walked once, which takes less than looking for each document among them.
    pub(crate) fn frequencies(&self, query: &Query, docs: &[Option<DocId>]) -> Frequencies {
        let terms = query.terms.len();
        let mut found =
            Frequencies { terms, times: vec![0.0; docs.len() * terms], norms: vec![query.norm(0); docs.len()] };
        let mut order: Vec<(DocId, usize)> =
            docs.iter().enumerate().filter_map(|(place, id)| Some(((*id)?, place))).collect();
        order.sort_unstable();
        let hashes = || query.terms.iter().map(|term| term.hash);
        let (mut homes, mut ranges) = (Vec::new(), Vec::new());
        // Where the documents of a segment are among `docs`; 0 = not at all.
        let mut places = vec![0u32; DOCS];
        for docs in order.chunk_by(|a, b| a.0.segment() == b.0.segment()) {
            let number = docs.first().map_or(u32::MAX, |(id, _)| id.segment());
            let Some(segment) = self.sealed(number) else {
                for (id, place) in docs {
                    let Some(document) = self.document(*id) else { continue };
                    found.set_norm(*place, query.norm(document.length));
                    for (term, hash) in hashes().enumerate() {
                        found.set(*place, term, document.find(hash).map_or(0.0, |posting| posting.times()));
                    }
                }
                continue;
            };
            for (id, place) in docs {
                if let (Some(length), Some(to)) = (segment.body.lengths.get(id.doc()), places.get_mut(id.doc())) {
                    *to = *place as u32 + 1;
                    found.set_norm(*place, query.norm(*length));
                }
            }
            ranges.clear();
            segment.body.find_all(hashes(), &mut homes, &mut ranges);
            for (term, range) in ranges.iter().enumerate() {
                for posting in segment.body.postings(range.clone()) {
                    if let Some(place) = places.get(posting.doc()).filter(|place| **place > 0) {
                        found.set(*place as usize - 1, term, posting.times());
                    }
                }
            }
            for (id, _) in docs {
                places.iter_mut().skip(id.doc()).take(1).for_each(|place| *place = 0);
            }
        }
        found
    }

    /// What every term of the query that a document has adds to its score.
    pub(crate) fn explain(&self, query: &Query, id: DocId) -> Vec<Part> {
        self.parts(query, id).collect()
    }

    fn parts(&self, query: &Query, id: DocId) -> impl Iterator<Item = Part> {
        let document = self.document(id);
        query.terms.iter().filter_map(move |term| {
            let document = document.as_ref()?;
            let times = document.find(term.hash)?.times();
            let part = Query::part(term.weight(), times, query.norm(document.length));
            Some(Part { hash: term.hash, times: times as u32, idf: term.idf, part })
        })
    }
}
