//! Which vectors each memory and its words will have, set apart from the records until one step shows them.
//!
//! The same columns as a chunk has for the vectors that are in force. So showing them exchanges a few pointers per chunk, however
//! many memories there are, and until then no snapshot holds them and no write copies them.

use super::{FIRST_CHUNK, Link, Links, Name, ROWS, RecordCounts, Records, Windows, locate, signs_at, words_cell};
use crate::columns::{Cell, Column};
use crate::lexical::DocId;
use crate::rows::RowId;
use crate::texts::{Place, TextCounts, Texts};
use crate::tokens::Signs;
use std::sync::Arc;

/// The vectors of the memories of one chunk. A memory is staged if it has a template here, which is 0 for vectors that no model
/// made.
#[derive(Clone, Default)]
struct Staged {
    /// Slots that it has room for.
    rows: usize,
    first: Links,
    count: Column,
    template: Column,
    windows: Windows,
    signs: Links,
}

impl Staged {
    fn grow(&mut self, rows: usize) {
        self.first.grow(rows);
        self.signs.grow(rows);
        for row in self.rows..rows {
            // A column that grows leaves open what its new rows hold.
            self.count.set(row, Cell::MISSING, rows);
            self.template.set(row, Cell::MISSING, rows);
        }
        self.rows = rows;
    }

    fn set(&mut self, row: usize, template: Cell, count: Cell, rows: &[RowId], signs: Option<Place>) {
        let room = self.rows;
        self.template.set(row, template, room);
        self.count.set(row, count, room);
        self.first.set(row, rows.first().map(|row| row.number()), room);
        self.signs.set(row, signs.map(|place| place.0), room);
        if rows.len() > 1 {
            self.windows.insert(row as u16, rows.into());
        } else {
            self.windows.remove(&(row as u16));
        }
    }
}

/// The staged vectors of all memories.
#[derive(Default)]
pub(crate) struct Places {
    chunks: Vec<Staged>,
    signs: Texts,
    /// Bytes of signs.
    pub counts: TextCounts,
    len: usize,
}

impl Places {
    /// A clone that may be written to as well.
    pub(crate) fn copy(&self) -> Places {
        let signs = self.signs.copy(&self.counts);
        Places { chunks: self.chunks.clone(), signs, counts: self.counts.clone(), len: self.len }
    }

    /// How many memories are staged.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn chunk(&self, slot: u32) -> Option<(&Staged, usize)> {
        let (at, row) = locate(slot);
        Some((self.chunks.get(at)?, row))
    }

    /// The text that was embedded of a memory; None if it is not staged.
    pub(crate) fn template(&self, slot: u32) -> Option<u16> {
        let (chunk, row) = self.chunk(slot)?;
        chunk.template.whole(row).map(|template| template as u16)
    }

    /// How many vectors it will have.
    pub(crate) fn windows(&self, slot: u32) -> usize {
        self.chunk(slot).and_then(|(chunk, row)| chunk.count.whole(row)).map_or(0, |count| count as usize)
    }

    /// Calls `f` with the row of each of its vectors, in the order of its windows.
    pub(crate) fn each_row(&self, slot: u32, mut f: impl FnMut(RowId)) {
        let Some((chunk, row)) = self.chunk(slot) else { return };
        match chunk.windows.get(&(row as u16)) {
            Some(rows) => rows.iter().copied().for_each(f),
            None => {
                if let Some(first) = chunk.first.get(row) {
                    f(RowId::from_number(first));
                }
            }
        }
    }

    /// The signs of its word vectors, as bytes.
    pub(crate) fn signs(&self, slot: u32) -> &[u8] {
        let place = self.chunk(slot).and_then(|(chunk, row)| chunk.signs.get(row));
        place.map_or(&[], |place| signs_at(&self.signs, Place(place)))
    }

    /// Stages a memory that is not.
    pub(crate) fn put(&mut self, slot: u32, template: u16, rows: &[RowId], signs: &Signs) {
        let (at, row) = locate(slot);
        if at >= self.chunks.len() {
            self.chunks.resize_with(at + 1, Staged::default);
        }
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        if row >= chunk.rows {
            chunk.grow(if at == 0 { (row + 1).next_power_of_two().clamp(FIRST_CHUNK, ROWS) } else { ROWS });
        }
        let signs = super::append_signs(&mut self.signs, &mut self.counts, &mut Vec::new(), signs);
        chunk.set(row, Cell::whole(u64::from(template)), Cell::whole(rows.len() as u64), rows, signs);
        self.len += 1;
    }

    /// Takes back what was staged of a memory.
    pub(crate) fn remove(&mut self, slot: u32) {
        let (at, row) = locate(slot);
        if self.template(slot).is_none() {
            return;
        }
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        if let Some(signs) = chunk.signs.get(row) {
            super::kill_signs(&mut self.signs, &mut self.counts, Place(signs));
        }
        chunk.set(row, Cell::MISSING, Cell::MISSING, &[], None);
        self.len -= 1;
    }

    /// Bytes on the heap, nearly. Walks the chunks.
    pub(crate) fn bytes(&self) -> usize {
        let windows = |chunk: &Staged| chunk.windows.values().map(|rows| 48 + size_of_val(&**rows)).sum::<usize>();
        let of = |chunk: &Staged| {
            size_of::<Staged>()
                + chunk.first.bytes()
                + chunk.count.bytes()
                + chunk.template.bytes()
                + windows(chunk)
                + chunk.signs.bytes()
        };
        self.chunks.iter().map(of).sum::<usize>() + self.counts.bytes
    }

    /// What was set apart for signs, given up.
    pub(crate) fn into_signs(self) -> Texts {
        self.signs
    }

    /// Bytes of the signs, counted: to check the kept figure.
    pub(crate) fn recount(&self) -> usize {
        self.signs.recount()
    }
}

/// Where the words of the memories of one chunk are, in an index that is not in force yet.
#[derive(Default)]
struct StagedDocuments {
    rows: usize,
    document: Links,
    words: Column,
}

impl StagedDocuments {
    fn grow(&mut self, rows: usize) {
        self.document.grow(rows);
        self.words.grow(rows);
        self.rows = rows;
    }
}

/// The documents of all memories in an index that is not in force yet.
#[derive(Default)]
pub(crate) struct Documents {
    chunks: Vec<StagedDocuments>,
}

impl Documents {
    /// Notes the document of a memory in a chunk with room for `room`, and how many words its content has.
    pub(crate) fn set(&mut self, slot: u32, room: usize, document: DocId, words: usize) {
        let (at, row) = locate(slot);
        if at >= self.chunks.len() {
            self.chunks.resize_with(at + 1, StagedDocuments::default);
        }
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        if room > chunk.rows {
            chunk.grow(room);
        }
        chunk.document.set(row, Some(document.number()), room);
        chunk.words.set(row, words_cell(Some(words)), room);
    }

    /// Forgets the document of a memory and tells which it was.
    pub(crate) fn take(&mut self, slot: u32) -> Option<DocId> {
        let (at, row) = locate(slot);
        let chunk = self.chunks.get_mut(at)?;
        let document = chunk.document.get(row)?;
        chunk.document.set(row, None, chunk.rows);
        Some(DocId::from_number(document))
    }

    /// How many memories have one. Walks them all.
    pub(crate) fn recount(&self) -> usize {
        let of = |chunk: &StagedDocuments| (0..chunk.rows).filter(|row| chunk.document.get(*row).is_some()).count();
        self.chunks.iter().map(of).sum()
    }

    /// Bytes on the heap, nearly.
    pub(crate) fn bytes(&self) -> usize {
        let of = |chunk: &StagedDocuments| size_of::<StagedDocuments>() + chunk.document.bytes() + chunk.words.bytes();
        self.chunks.iter().map(of).sum()
    }
}

impl Records {
    /// How many slots the chunk of this one has room for.
    pub(crate) fn room(&self, slot: u32) -> usize {
        self.chunk(slot).map_or(0, |(chunk, _)| chunk.rows)
    }

    /// Puts other documents into force. A memory that has none there has none from then on.
    pub(crate) fn show_documents(&mut self, mut documents: Documents) {
        let chunks = Arc::make_mut(&mut self.chunks);
        documents.chunks.resize_with(chunks.len(), StagedDocuments::default);
        for (chunk, mut staged) in chunks.iter_mut().zip(documents.chunks) {
            let chunk = Arc::make_mut(chunk);
            if staged.rows != chunk.rows {
                staged.grow(chunk.rows);
            }
            chunk.links[Link::Document as usize] = staged.document;
            chunk.columns[Name::Words as usize] = staged.words;
        }
    }

    /// The text of a memory that was embedded; 0 = no model made its vectors.
    pub(crate) fn template(&self, slot: u32) -> u16 {
        self.at_of(slot, Name::Template).map_or(0, |template| template as u16)
    }

    /// Puts the staged vectors into force and gives the signs that were. A memory that is not staged has none from then on.
    pub(crate) fn show(&mut self, counts: &mut RecordCounts, mut places: Places) -> Texts {
        counts.signs = places.counts;
        let chunks = Arc::make_mut(&mut self.chunks);
        places.chunks.resize_with(chunks.len(), Staged::default);
        for (chunk, mut staged) in chunks.iter_mut().zip(places.chunks) {
            let chunk = Arc::make_mut(chunk);
            if staged.rows != chunk.rows {
                staged.grow(chunk.rows);
            }
            chunk.links[Link::Row as usize] = staged.first;
            chunk.columns[Name::Windows as usize] = staged.count;
            chunk.columns[Name::Template as usize] = staged.template;
            chunk.links[Link::Signs as usize] = staged.signs;
            chunk.windows = Arc::new(staged.windows);
        }
        std::mem::replace(&mut self.signs, places.signs)
    }
}
