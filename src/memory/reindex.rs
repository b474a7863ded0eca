//! Indexing the words of a space anew, a few memories at a time.
//!
//! The settings `lexical`, `language` and `template` say how words are indexed. A change of one counts for every memory, and to
//! analyse all of them at once would hold up everybody. So a second index is built beside the one in force, in steps of about a
//! millisecond ([`Space::reindex_step`]), in the order of slots. Recall goes on by the old index and by the settings that it was
//! made by ([`Indexing`], which snapshots carry beside the settings), until the last memory is in the new one; then one step
//! exchanges the two, which takes pointers per chunk and not time per memory. What changes meanwhile in front of the cursor
//! changes in both indexes, what changes behind it in the old one, for the walk comes to it yet.
//!
//! A space of a few memories is done within the first step, which the change itself takes. Turning the index off takes no steps.
//!
//! Nothing of this is in a file or an effect: the setting is, and each server builds for itself, as it does on load, where the
//! settings come before the memories.
//!
//! Rejected: building on another thread from a snapshot (faster by the clock; but every change meanwhile would have to be noted
//! and made up for at the end, in steps again); a cursor in one index (queries would meet words of two languages).

use crate::lexical::{Analyser, DocId, Language, LexicalCounts, Postings};
use crate::records::Link;
use crate::records::staged::Documents;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::space::Space;
use crate::text::Template;

/// What one step may cost, in bytes of text.
const STEP_BYTES: usize = 48 * 1024;
/// What a memory costs besides its bytes.
const MEMORY_BYTES: usize = 64;

/// By which settings words are indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Indexing {
    pub lexical: bool,
    pub language: Language,
    pub template: Template,
}

impl Default for Indexing {
    fn default() -> Indexing {
        Indexing::by(&Settings::default())
    }
}

impl Indexing {
    pub(crate) fn by(settings: &Settings) -> Indexing {
        Indexing { lexical: settings.lexical, language: settings.language, template: settings.template }
    }
}

/// An index of words that is to take the place of the one in force.
pub(crate) struct Reindexing {
    by: Indexing,
    pub postings: Postings,
    pub counts: LexicalCounts,
    pub documents: Documents,
    /// The slots below are in it.
    next: u32,
}

impl Reindexing {
    fn new(by: Indexing) -> Reindexing {
        Reindexing {
            by,
            postings: Postings::default(),
            counts: LexicalCounts::default(),
            documents: Documents::default(),
            next: 0,
        }
    }

    /// Whether the memory in a slot is in it, or would be if there were one.
    pub(crate) fn is_past(&self, slot: u32) -> bool {
        slot < self.next
    }

    /// Indexes the memory in a slot.
    pub(crate) fn add(&mut self, view: &Snapshot, slot: u32, terms: &mut Vec<u32>) {
        let Some(words) = view.terms(&self.by, slot, terms) else { return };
        let document = self.postings.add(&mut self.counts, slot, terms);
        self.documents.set(slot, view.records.room(slot), document, words);
    }

    /// Forgets the memory in a slot.
    pub(crate) fn remove(&mut self, slot: u32) {
        if let Some(document) = self.documents.take(slot) {
            self.postings.remove(&mut self.counts, document);
        }
    }

    pub(crate) fn memory_usage(&self) -> usize {
        size_of::<Reindexing>() + self.counts.bytes() + self.documents.bytes()
    }
}

impl Space {
    /// Whether the words are being indexed anew.
    pub fn is_reindexing(&self) -> bool {
        self.reindexing.is_some()
    }

    /// Begins to index the words by the settings, if they are not.
    pub(crate) fn reindex(&mut self) {
        let by = Indexing::by(&self.view.settings);
        if self.reindexing.as_ref().is_some_and(|reindexing| reindexing.by == by) {
            return;
        }
        if let Some(dropped) = self.reindexing.take() {
            self.retired.push(dropped);
        }
        if self.view.indexing != by {
            self.reindexing = Some(Box::new(Reindexing::new(by)));
            self.reindex_step();
        }
    }

    /// Indexes a few memories by the new settings, in about a millisecond, and puts the index into force when all are in it. False when
    /// there is nothing to do.
    pub fn reindex_step(&mut self) -> bool {
        let Some(mut reindexing) = self.reindexing.take() else { return false };
        let slots = self.view.records.slots() as u32;
        let mut budget = if reindexing.by.lexical { STEP_BYTES } else { usize::MAX };
        if !reindexing.by.lexical {
            reindexing.next = slots;
        }
        let mut terms = Vec::new();
        while reindexing.next < slots && budget > 0 {
            let slot = reindexing.next;
            reindexing.next += 1;
            // To pass over an empty slot costs little, and not nothing.
            let bytes = self.view.records.record(slot).map_or(1, |record| record.content.len() + MEMORY_BYTES);
            budget = budget.saturating_sub(bytes);
            reindexing.add(&self.view, slot, &mut terms);
        }
        if reindexing.next < slots {
            self.reindexing = Some(reindexing);
        } else {
            self.show_words(*reindexing);
        }
        true
    }

    /// Puts another index of words into force.
    fn show_words(&mut self, new: Reindexing) {
        if new.by.lexical != self.view.indexing.lexical {
            for shelf in &mut self.shelves {
                shelf.bytes = if new.by.lexical { shelf.bytes + shelf.words } else { shelf.bytes - shelf.words };
            }
            for heat in &mut self.heats {
                heat.bytes = if new.by.lexical { heat.bytes + heat.words } else { heat.bytes - heat.words };
            }
        }
        self.view.indexing = new.by;
        self.view.records.show_documents(new.documents);
        self.lexical = new.counts;
        let old = std::mem::replace(&mut self.view.lexical, new.postings);
        self.retired.push(Box::new(old));
    }

    /// Puts the words of the memory in a slot into the index, and into the one that is being built.
    pub(crate) fn add_document(&mut self, slot: u32) {
        let mut terms = Vec::new();
        match self.view.terms(&self.view.indexing, slot, &mut terms) {
            Some(words) => {
                let document = self.view.lexical.add(&mut self.lexical, slot, &terms);
                self.view.records.set_words(slot, Some(words));
                self.view.records.set_link(slot, Link::Document, Some(document.number()));
            }
            None => self.view.records.set_words(slot, None),
        }
        if let Some(reindexing) = self.reindexing.as_mut().filter(|reindexing| reindexing.is_past(slot)) {
            reindexing.add(&self.view, slot, &mut terms);
        }
    }

    /// Takes the words of the memory in a slot out of the index, and out of the one that is being built.
    pub(crate) fn remove_document(&mut self, slot: u32) {
        if let Some(document) = self.view.records.link(slot, Link::Document) {
            self.view.lexical.remove(&mut self.lexical, DocId::from_number(document));
            self.view.records.set_link(slot, Link::Document, None);
        }
        if let Some(reindexing) = &mut self.reindexing {
            reindexing.remove(slot);
        }
    }
}

impl Snapshot {
    /// The terms of the memory in a slot, and how many of them are of its content; None if words are not indexed.
    fn terms(&self, by: &Indexing, slot: u32, terms: &mut Vec<u32>) -> Option<usize> {
        terms.clear();
        let record = self.records.record(slot).filter(|_| by.lexical)?;
        let analyser = Analyser::new(by.language);
        analyser.terms(&record.content.text(), terms);
        let words = terms.len();
        if let Some(prefix) = by.template.prefix(record.speaker, self.records.at(slot)) {
            analyser.terms(&prefix, terms);
        }
        Some(words)
    }
}
