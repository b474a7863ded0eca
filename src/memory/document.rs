//! Documents: texts that came in as chunks, which are memories, and what is known of them as a whole.
//!
//! A document comes in piece by piece, and is seen at once or not at all. Its chunks are put as they are made, vectors and words
//! included, with an expiry in the past: what every reader has to pass over anyway. They stand in no index that decides
//! (retention, duplicates). One effect shows them all and hides those of the document that had the name before: per chunk it
//! moves a number in one index and writes a column, a microsecond. What was hidden for good is taken away bit by bit.
//!
//! What is being staged is in files and on replicas, for the reasons that `reembed` gives, and not in the digest. Whoever finds a document staged
//! that nobody works on drops it.
//!
//! Rejected: holding the chunks back until all are embedded and putting them together (five milliseconds of the main thread for a
//! megabyte of text, and its vectors twice in memory); a flag of their own for hidden chunks (every filter, count and walk would have to know it).

use crate::effect::Effect;
use crate::entry::{Entry, Meta, Passage, check_length, check_meta, check_name, check_time};
use crate::session::GONE;
use crate::space::Space;
use crate::store::{Dedup, NewMemory, Vectors};
use crate::{Error, MemoryId, Millis, Result, Tier, limits};

/// The expiry of a chunk that is not shown yet.
pub(crate) const STAGED: Millis = 1;

/// A document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its name.
    pub name: Box<str>,
    /// TYPE of the document: text, markdown or the caller's own.
    pub kind: Option<Box<str>>,
    /// Where it came from.
    pub source: Option<Box<str>>,
    /// When it happened.
    pub at: Millis,
    /// When it came in.
    pub created: Millis,
    /// Bytes of its text.
    pub bytes: u64,
    /// Tokens of its text.
    pub tokens: u64,
    /// How many chunks it was cut into.
    pub chunks: u32,
    /// The caller's JSON about it.
    pub meta: Option<Meta>,
}

impl Document {
    pub(crate) fn check(&self) -> Result<()> {
        check_name("the document's name", &self.name)?;
        if let Some(kind) = &self.kind {
            check_name("TYPE", kind)?;
        }
        if let Some(source) = &self.source {
            check_length("SOURCE", source, limits::SOURCE_BYTES)?;
        }
        check_time("AT", self.at)?;
        check_time("created", self.created)?;
        if let Some(meta) = &self.meta {
            check_meta(meta)?;
        }
        if self.chunks as usize > limits::CHUNKS {
            return Err(Error::new(format!("a document has at most {} chunks", limits::CHUNKS)));
        }
        Ok(())
    }
}

/// A document and its chunks that stand.
#[derive(Debug, Clone)]
pub(crate) struct Shelved {
    pub document: Document,
    /// By position, unless some came late.
    pub slots: Vec<u32>,
}

/// A chunk of a document that is being staged.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are those of Entry and Passage")]
pub struct NewChunk {
    pub content: String,
    pub vectors: Vectors,
    pub position: u32,
    pub start: u64,
    pub end: u64,
    pub tokens: u32,
}

/// What the chunks of a document have in common.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are those of Entry")]
pub struct ChunkFields {
    pub tier: Option<Tier>,
    pub kind: Option<String>,
    pub session: Option<String>,
    pub tags: Vec<String>,
    pub importance: Option<f64>,
}

impl Space {
    /// The documents that are shown, by name, each with the number of its chunks that stand.
    pub fn documents(&self) -> impl Iterator<Item = (&Document, usize)> {
        self.documents.values().map(|shelved| (&shelved.document, shelved.slots.len()))
    }

    /// A document that is shown.
    pub fn document(&self, name: &str) -> Option<&Document> {
        self.documents.get(name).map(|shelved| &shelved.document)
    }

    /// The names of the documents that are being staged, each with the number of its chunks by now.
    pub fn staged_documents(&self) -> impl Iterator<Item = (&str, usize)> {
        self.staged_documents.iter().map(|(name, shelved)| (&**name, shelved.slots.len()))
    }

    /// Decides to begin a document whose chunks enter `tier`. What was staged under its name is dropped.
    ///
    /// Errors: more chunks than the tier has places for.
    pub fn begin_document(&self, document: Document, tier: Tier) -> Result<Vec<Effect>> {
        document.check()?;
        let chunks = document.chunks as usize;
        let pinned = self.shelves.get(tier.index()).map_or(0, |shelf| shelf.pinned);
        if let Some(capacity) = self.config().capacity(tier)
            && chunks + pinned > capacity
        {
            return Err(Error::new(format!(
                "document {} has {chunks} chunks: tier {tier} holds {capacity} memories, {pinned} of them pinned; raise \
                 {tier}.capacity, or name another tier",
                document.name
            )));
        }
        if self.documents.len() + self.staged_documents.len() >= limits::DOCUMENTS {
            return Err(Error::with_code("OOM", format!("a space has at most {} documents", limits::DOCUMENTS)));
        }
        Ok(vec![Effect::Document(Box::new(document))])
    }

    /// Decides to put chunks of a document that is being staged.
    ///
    /// Errors: STALE if it is not, vectors that do not fit the space, OOM over `max-memory`.
    pub fn stage_chunks(
        &self,
        now: Millis,
        name: &str,
        fields: &ChunkFields,
        chunks: Vec<NewChunk>,
    ) -> Result<Vec<Effect>> {
        let Some(Shelved { document, .. }) = self.staged_documents.get(name) else {
            return Err(Error::with_code("STALE", "the document is not being taken in any longer: retry"));
        };
        let new = chunks.into_iter().map(|chunk| NewMemory {
            tier: Some(fields.tier.unwrap_or(Tier::LongTerm)),
            content: chunk.content,
            vectors: chunk.vectors,
            importance: fields.importance,
            kind: Some(fields.kind.clone().unwrap_or_else(|| "chunk".into())),
            session: fields.session.clone(),
            source: document.source.as_deref().map(String::from),
            at: Some(document.at),
            tags: fields.tags.clone(),
            meta: document.meta.clone(),
            tokens: chunk.tokens,
            passage: Some(Passage {
                doc: name.into(),
                position: chunk.position,
                total: document.chunks,
                start: chunk.start,
                end: chunk.end,
            }),
            dedup: Dedup::Off,
            ..NewMemory::default()
        });
        self.store_many(now, new.collect()).map(|(_, effects)| effects)
    }

    /// Decides to show a document of which every chunk is staged.
    pub fn show_document(&self, now: Millis, name: &str) -> Result<Vec<Effect>> {
        let Some(Shelved { document, slots }) = self.staged_documents.get(name) else {
            return Err(Error::with_code("STALE", "the document is not being taken in any longer: retry"));
        };
        if slots.len() != document.chunks as usize {
            return Err(Error::new(format!("document {name} has {} of its {} chunks", slots.len(), document.chunks)));
        }
        let tier = slots.first().map_or(Tier::LongTerm, |slot| self.view.records.tier(*slot));
        Ok(vec![Effect::ShowDocument { name: name.into(), expires: self.config().expiry(tier, now) }])
    }

    /// Decides to drop what is staged of a document.
    pub fn unstage_document(&self, name: &str) -> Vec<Effect> {
        let staged = self.staged_documents.contains_key(name);
        staged.then(|| Effect::DropDocument { name: name.into(), staged: true }).into_iter().collect()
    }

    /// Decides to forget a document. Gives the ids of its chunks.
    pub fn forget_document(&self, now: Millis, name: &str) -> (Vec<MemoryId>, Vec<Effect>) {
        let Some(shelved) = self.documents.get(name) else { return (Vec::new(), Vec::new()) };
        let standing = shelved.slots.iter().filter(|slot| !self.view.records.is_expired(**slot, now));
        let mut ids: Vec<MemoryId> = standing.map(|slot| self.view.id(*slot)).collect();
        ids.sort_unstable();
        (ids, vec![Effect::DropDocument { name: name.into(), staged: false }])
    }

    /// The chunks of a document that stand, in order.
    pub fn chunks(&self, now: Millis, name: &str) -> Vec<Entry> {
        let slots = self.documents.get(name).into_iter().flat_map(|shelved| &shelved.slots);
        let standing = slots.filter(|slot| !self.view.records.is_expired(**slot, now));
        let mut chunks: Vec<Entry> = standing.filter_map(|slot| self.view.records.entry(*slot)).collect();
        chunks.sort_by_key(|chunk| chunk.passage.as_ref().map(|passage| passage.position));
        chunks
    }

    /// Bytes of the records of documents.
    pub(crate) fn documents_bytes(&self) -> usize {
        let bytes = |shelved: &Shelved| size_of::<Shelved>() + 64 + shelved.slots.capacity() * size_of::<u32>();
        self.documents.values().chain(self.staged_documents.values()).map(bytes).sum()
    }

    /// The effects of which the records can be made again; in front of the memories.
    pub(crate) fn save_documents(&self, write: &mut dyn FnMut(Effect)) {
        for (name, shelved) in &self.documents {
            write(Effect::Document(Box::new(shelved.document.clone())));
            // The chunks come with what they expire at.
            write(Effect::ShowDocument { name: name.clone(), expires: None });
        }
        for shelved in self.staged_documents.values() {
            write(Effect::Document(Box::new(shelved.document.clone())));
        }
    }

    pub(crate) fn begin_staging_document(&mut self, document: &Document) -> Result<()> {
        document.check()?;
        if self.documents.len() + self.staged_documents.len() >= 2 * limits::DOCUMENTS {
            return Err(Error::with_code("OOM", format!("a space has at most {} documents", limits::DOCUMENTS)));
        }
        self.drop_document(&document.name, true);
        let shelved = Shelved { document: document.clone(), slots: Vec::new() };
        self.staged_documents.insert(document.name.clone(), shelved);
        Ok(())
    }

    /// Whether the chunk can be put: its document is there, or is being staged.
    pub(crate) fn check_passage(&self, entry: &Entry) -> Result<()> {
        let Some(passage) = &entry.passage else { return Ok(()) };
        let documents = if entry.expires == Some(STAGED) { &self.staged_documents } else { &self.documents };
        if entry.expires != Some(GONE) && !documents.contains_key(&passage.doc) {
            return Err(Error::new(format!("a chunk of document {}, which is not there", passage.doc)));
        }
        Ok(())
    }

    /// Puts a chunk into the record of its document.
    pub(crate) fn join_document(&mut self, entry: &Entry, slot: u32) {
        let Some(passage) = &entry.passage else { return };
        let documents = if entry.expires == Some(STAGED) { &mut self.staged_documents } else { &mut self.documents };
        if let Some(shelved) = documents.get_mut(&passage.doc).filter(|_| entry.expires != Some(GONE)) {
            shelved.slots.push(slot);
        }
    }

    /// Takes a chunk that goes out of the record of its document, which goes with its last one.
    pub(crate) fn leave_document(&mut self, slot: u32) {
        if !self.view.records.is_chunk(slot) {
            return;
        }
        let Some(name) = self.view.records.record(slot).and_then(|record| record.doc).map(Box::<str>::from) else {
            return;
        };
        let took = |shelved: &mut Shelved| {
            let n = shelved.slots.iter().position(|other| *other == slot);
            n.map(|n| shelved.slots.remove(n)).is_some()
        };
        if self.documents.get_mut(&name).is_some_and(|shelved| took(shelved) && shelved.slots.is_empty()) {
            self.documents.remove(&name);
        }
        self.staged_documents.get_mut(&name).map(took);
    }

    /// Shows a staged document and hides the one that had its name.
    pub(crate) fn show_staged_document(&mut self, name: &str, expires: Option<Millis>) -> Result<usize> {
        if let Some(expires) = expires {
            check_time("expires", expires)?;
            if expires <= STAGED {
                return Err(Error::new(format!("document {name} is to be shown with the expiry of what is hidden")));
            }
        }
        let Some(shelved) = self.staged_documents.remove(name) else {
            return Err(Error::new(format!("document {name} is to be shown and is not staged")));
        };
        self.drop_document(name, false);
        for slot in &shelved.slots {
            self.reexpire(*slot, expires);
            self.offer(*slot);
        }
        let shown = shelved.slots.len();
        self.documents.insert(name.into(), shelved);
        Ok(shown)
    }

    /// Hides the chunks of a document for good and drops its record.
    pub(crate) fn drop_document(&mut self, name: &str, staged: bool) -> usize {
        let documents = if staged { &mut self.staged_documents } else { &mut self.documents };
        let Some(shelved) = documents.remove(name) else { return 0 };
        for slot in &shelved.slots {
            self.reexpire(*slot, Some(GONE));
            if staged {
                self.offer(*slot);
            }
        }
        shelved.slots.len()
    }
}
