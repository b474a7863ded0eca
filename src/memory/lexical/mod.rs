//! Lexical search: which memories share words with a query, and how much that says (BM25).
//!
//! `analyse` turns text into terms, hashes of 32 bits; nothing behind it knows words. `postings` holds the documents, each with
//! the slot that owns it; `search` scores them.
//!
//! **Where documents lie.** A new document goes into the *tail*, in forward form: its terms in ascending order, each with how often
//! it occurs. When the tail has [`postings::DOCS`] documents or [`postings::POSTINGS`] terms it is *sealed*: inverted, in one go of
//! some 100 µs, into a segment that never changes again: a sorted directory of terms, and for each its documents in ascending order,
//! two bytes each. A removal marks the owner of a document as dead and nothing else; a segment that is dead for a quarter is undone
//! by one step of compaction, its living documents added to the tail again; one that is dead altogether is given back at once.
//! So there are two forms, one way in (the tail) and one way to invert, and every step on the main thread is short.
//!
//! **Snapshots** are clones: O(1), and nothing that they hold changes, because everything is behind an `Arc` and copied on write:
//! the chunk of 64 documents at the end of the tail, the owners of a segment, a page of the list of segments.
//!
//! **Scores** are exact over the living. The number of documents and their mean length are kept; how many documents have a term is
//! counted while its postings are looked up, the dead left out. So no score tells where documents lie, what was removed
//! or what a filter admits, and the sum over the terms of a query is made in the order of the query, for one document as for all:
//! equal spaces give equal bits.
//!
//! Rejected: one growing inverted index (an addition would touch a list per term, a snapshot would have to copy them); segments
//! merged into ever larger ones (either a long pause or a merge on another thread, to save a look-up per segment that costs some
//! ten nanoseconds); compressed lists with skips (at 1,024 documents a segment ten bits name one, and lists are short); skipping
//! documents that cannot be among the best (fusion with the dense scores wants every score).

mod analyse;
mod paged;
mod postings;
mod search;
mod stop;
#[cfg(test)]
mod tests;

pub(crate) use analyse::Analyser;
pub use analyse::Language;
pub(crate) use postings::{DocId, LexicalCounts, Postings};
pub(crate) use search::{Bm25, Lexical, QUERY_TERMS, Query};

/// A word of a text that says something: no stop word, unless there are no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Where it is, in bytes.
    pub range: std::ops::Range<usize>,
    /// What it is found by: the hash of its stem.
    pub term: u32,
}

/// The words of a text that say something, in order: what gets word vectors.
pub fn words(text: &str, language: Language) -> Vec<Word> {
    Analyser::new(language).spans(text).into_iter().map(|(range, term)| Word { range, term }).collect()
}
