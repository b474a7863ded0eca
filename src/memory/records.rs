//! The memories of a space by slot: numbers in columns, texts in pages.
//!
//! Slots come in chunks: numbers [`CHUNK`] apart, of which the first [`ROWS`] are slots and the others never used. A chunk holds one column per field; a column is shared with snapshots and copied when it is
//! written to, so a promotion copies three columns of a chunk (a few KiB) once after each snapshot and nothing else. Slots of memories
//! that went are used again. What refers to other structures (text, vectors, lexical document, the turns before and behind it in its
//! session) is plain 4-byte arrays beside the columns.
//!
//! Use (last access, count) is in atomics that snapshots share: noting it copies nothing, and who reads beside it sees the old
//! or the new count.
//!
//! META fields at the top level get columns of their own, at most [`META_COLUMNS`] names per chunk, so that nobody can make a
//! chunk grow without bound by inventing names; what has no column is read from the text.

pub(crate) mod staged;

use crate::columns::{Cell, Column, Tags};
use crate::entry::{Entry, Marks, Meta, Passage, Superseded, block};
use crate::filter::{self, Field, FieldSource, List, MetaColumn, Value, Words};
use crate::graph::{Edge, LinkCounts};
use crate::heat::Heat;
use crate::packing::Dictionary;
use crate::record::{self, Record};
use crate::rows::RowId;
use crate::texts::{self, Place, TextCounts, Texts};
use crate::tokens::Signs;
use crate::{MemoryId, Millis, Tier, limits};
use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The distance from a chunk's first slot to that of the next: a power of two, so that a bitmap of slots takes whole words of a chunk.
pub(crate) const CHUNK: usize = 1024;
/// Slots of a chunk: as many as leave room for the two counts of an `Arc` in 1,024 bytes of one each. With all 1,024 the allocator
/// would round an array of 1, 4 or 8 bytes a row up by a quarter.
pub(crate) const ROWS: usize = CHUNK - 2 * size_of::<usize>();
const FIRST_CHUNK: usize = 16;
/// META names of a chunk that get a column.
const META_COLUMNS: usize = 32;
/// No text, no row, no document, no neighbour.
const NONE: u32 = u32::MAX;

/// The columns of a chunk, by place.
#[derive(Clone, Copy)]
enum Name {
    /// The id in two parts.
    Ms,
    Seq,
    /// The tier as its name, for filters, and as its index.
    Tier,
    TierIndex,
    Kind,
    Importance,
    Confidence,
    Outcome,
    At,
    /// Milliseconds from the time of the id: hardly ever any.
    Created,
    /// Milliseconds from `Created`.
    Entered,
    Expires,
    OwnExpiry,
    Pinned,
    Session,
    Speaker,
    Role,
    Source,
    Template,
    Windows,
    /// The AT of what superseded it.
    SupersededAt,
    /// The document that it is a chunk of, which of its chunks, and of how many.
    Doc,
    Position,
    Total,
    /// Whether its vectors are still to be made.
    Awaits,
    /// What consolidation has done with it, as bits.
    Marks,
    /// The heat as its name, for filters.
    Heat,
    /// Words of the content that count for something.
    Words,
    /// Of a turn in the record of its session, whether the session holds it: see `session`.
    Held,
}

const NAMES: usize = Name::Held as usize + 1;

/// The references of a chunk, by place.
#[derive(Clone, Copy)]
pub(crate) enum Link {
    /// The record in the texts.
    Text,
    /// The row of the first vector.
    Row,
    /// The lexical document.
    Document,
    /// The signs of the word vectors.
    Signs,
    /// The turn before it in its session.
    Previous,
    /// The turn behind it in its session.
    Next,
}

const LINKS: usize = Link::Next as usize + 1;

/// 4 bytes per slot, or none if no slot has any.
#[derive(Clone, Default)]
struct Links(Option<Arc<[u32]>>);

impl Links {
    fn get(&self, row: usize) -> Option<u32> {
        self.0.as_ref()?.get(row).copied().filter(|link| *link != NONE)
    }

    fn set(&mut self, row: usize, link: Option<u32>, rows: usize) {
        let link = link.unwrap_or(NONE);
        match &mut self.0 {
            None if link == NONE => {}
            None => {
                let mut links = vec![NONE; rows];
                if let Some(place) = links.get_mut(row) {
                    *place = link;
                }
                self.0 = Some(links.into());
            }
            Some(links) => {
                if links.get(row).is_some_and(|old| *old != link)
                    && let Some(place) = Arc::make_mut(links).get_mut(row)
                {
                    *place = link;
                }
            }
        }
    }

    fn grow(&mut self, rows: usize) {
        if let Some(links) = &mut self.0 {
            *links = links.iter().copied().chain(std::iter::repeat(NONE)).take(rows).collect();
        }
    }

    fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |links| block(size_of_val(&**links) + 2 * size_of::<usize>()))
    }
}

/// Last access and count of uses, per slot.
#[derive(Default)]
struct Uses {
    accessed: Box<[AtomicU64]>,
    uses: Box<[AtomicU32]>,
}

impl Uses {
    fn grown(&self, rows: usize) -> Uses {
        let get = |row: usize| self.get(row);
        Uses {
            accessed: (0..rows).map(|row| AtomicU64::new(get(row).0)).collect(),
            uses: (0..rows).map(|row| AtomicU32::new(get(row).1)).collect(),
        }
    }

    fn get(&self, row: usize) -> (Millis, u32) {
        match (self.accessed.get(row), self.uses.get(row)) {
            (Some(accessed), Some(uses)) => (accessed.load(Relaxed), uses.load(Relaxed)),
            _ => (0, 0),
        }
    }

    fn set(&self, row: usize, accessed: Millis, uses: u32) {
        if let (Some(a), Some(u)) = (self.accessed.get(row), self.uses.get(row)) {
            a.store(accessed, Relaxed);
            u.store(uses, Relaxed);
        }
    }
}

/// Rows of memories with several vectors, by place in the chunk.
type Windows = BTreeMap<u16, Arc<[RowId]>>;

/// Links of the memories that have some, by place in the chunk: see `graph`.
type Edges = BTreeMap<u16, Arc<[Edge]>>;

#[derive(Clone, Default)]
pub(crate) struct Chunk {
    /// Slots that it has room for.
    rows: usize,
    /// Slots that were ever filled.
    len: usize,
    /// The slots that hold a memory, those that have a text, as bits: what every scan starts from.
    filled: Words,
    columns: [Column; NAMES],
    tags: Tags,
    links: [Links; LINKS],
    meta: Vec<(Arc<str>, Column)>,
    /// Whether META names came that found no place in `meta`.
    more_meta: bool,
    windows: Arc<Windows>,
    edges: Arc<Edges>,
    uses: Arc<Uses>,
}

impl Chunk {
    fn set_filled(&mut self, row: usize, filled: bool) {
        if let Some(word) = self.filled.get_mut(row / 64) {
            *word = *word & !(1 << (row % 64)) | u64::from(filled) << (row % 64);
        }
    }

    fn is_filled(&self, row: usize) -> bool {
        self.filled.get(row / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    fn cell(&self, name: Name, row: usize) -> Cell {
        self.columns[name as usize].get(row)
    }

    fn whole(&self, name: Name, row: usize) -> Option<u64> {
        self.columns[name as usize].whole(row)
    }

    fn set(&mut self, name: Name, row: usize, cell: Cell) {
        let column = &mut self.columns[name as usize];
        if self.len == 1 {
            // The first memory fills the column: those that follow mostly have the same, and set what they have otherwise.
            *column = Column::Same(cell);
        } else if column.get(row) != cell {
            column.set(row, cell, self.rows);
        }
    }

    fn id(&self, row: usize) -> Option<MemoryId> {
        Some(MemoryId { ms: self.whole(Name::Ms, row)?, seq: self.whole(Name::Seq, row)? })
    }

    fn created(&self, row: usize) -> Millis {
        let ms = self.whole(Name::Ms, row).unwrap_or(0) as f64;
        (ms + self.cell(Name::Created, row).as_number().unwrap_or(0.0)) as u64
    }

    fn grow(&mut self, rows: usize) {
        self.columns.iter_mut().for_each(|column| column.grow(rows));
        self.meta.iter_mut().for_each(|(_, column)| column.grow(rows));
        self.links.iter_mut().for_each(|links| links.grow(rows));
        self.uses = Arc::new(self.uses.grown(rows));
        self.rows = rows;
    }

    fn bytes(&self) -> usize {
        let columns = self.columns.iter().chain(self.meta.iter().map(|(_, column)| column));
        block(size_of::<Chunk>() + 2 * size_of::<usize>())
            + columns.map(Column::bytes).sum::<usize>()
            + self.tags.bytes()
            + self.links.iter().map(Links::bytes).sum::<usize>()
            + block(self.rows * size_of::<AtomicU64>())
            + block(self.rows * size_of::<AtomicU32>())
            + self.meta.capacity() * size_of::<(Arc<str>, Column)>()
            + self.windows.values().map(|rows| 48 + size_of_val(&**rows)).sum::<usize>()
    }
}

/// All memories; cloning is O(1) and freezes what is seen.
#[derive(Clone, Default)]
pub(crate) struct Records {
    chunks: Arc<Vec<Arc<Chunk>>>,
    texts: Texts,
    /// The signs of word vectors: a number of bytes, and they.
    signs: Texts,
    /// What contents of cold memories were packed by: the last is in use, where any is to be packed.
    dictionaries: Arc<Vec<Arc<Dictionary>>>,
    /// Whether contents stay plain.
    plain: bool,
}

/// What the owner of the space keeps about its memories besides them.
#[derive(Clone, Default)]
pub(crate) struct RecordCounts {
    pub texts: TextCounts,
    pub signs: TextCounts,
    pub links: LinkCounts,
    free: Vec<u32>,
    /// Scratch for a record that is being written.
    record: Vec<u8>,
}

impl RecordCounts {
    fn pages(&mut self, link: Link) -> &mut TextCounts {
        match link {
            Link::Signs => &mut self.signs,
            _ => &mut self.texts,
        }
    }

    /// Slots that stand empty.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }
}

/// Bytes in front of the signs of a memory that say how many follow.
const SIGNS_HEAD: usize = 4;

fn signs_at(signs: &Texts, place: Place) -> &[u8] {
    let bytes = signs.at(place);
    let Some((head, rest)) = bytes.split_first_chunk::<SIGNS_HEAD>() else { return &[] };
    rest.get(..u32::from_le_bytes(*head) as usize).unwrap_or(&[])
}

/// Writes signs, if there are any, with their length in front.
fn append_signs(pages: &mut Texts, counts: &mut TextCounts, scratch: &mut Vec<u8>, signs: &Signs) -> Option<Place> {
    if signs.is_empty() || !pages.has_room(counts) {
        return None;
    }
    scratch.clear();
    scratch.extend_from_slice(&((signs.len() * size_of::<u64>()) as u32).to_le_bytes());
    signs.write(scratch);
    Some(pages.append(counts, scratch))
}

fn kill_signs(pages: &mut Texts, counts: &mut TextCounts, place: Place) {
    let size = SIGNS_HEAD + signs_at(pages, place).len();
    pages.kill(counts, place, size);
}

fn locate(slot: u32) -> (usize, usize) {
    (slot as usize / CHUNK, slot as usize % CHUNK)
}

fn words_cell(words: Option<usize>) -> Cell {
    // What is long enough is long enough, and a small number takes a byte.
    words.map_or(Cell::MISSING, |words| Cell::whole(words.min(200) as u64))
}

fn marks_of(cell: Cell) -> Marks {
    cell.as_whole().and_then(|bits| Marks::from_bits(u8::try_from(bits).ok()?)).unwrap_or_default()
}

/// Missing where there are none: the column of a chunk without marks is one cell.
fn cell_of(marks: Marks) -> Cell {
    if marks == Marks::default() { Cell::MISSING } else { Cell::whole(u64::from(marks.bits())) }
}

fn text_cell(text: Option<&str>) -> Cell {
    text.map_or(Cell::MISSING, Cell::text)
}

fn optional(value: Option<u64>) -> Cell {
    value.map_or(Cell::MISSING, Cell::whole)
}

impl Records {
    /// A clone that may be written to as well: use is counted apart from now on.
    pub(crate) fn copy(&self, counts: &RecordCounts) -> Records {
        let own = |chunk: &Arc<Chunk>| {
            let uses = Arc::new(chunk.uses.grown(chunk.rows));
            Arc::new(Chunk { uses, ..Chunk::clone(chunk) })
        };
        Records {
            chunks: Arc::new(self.chunks.iter().map(own).collect()),
            texts: self.texts.copy(&counts.texts),
            signs: self.signs.copy(&counts.signs),
            dictionaries: self.dictionaries.clone(),
            plain: self.plain,
        }
    }

    /// What contents of cold memories were packed by, the last in use.
    pub(crate) fn dictionaries(&self) -> &[Arc<Dictionary>] {
        &self.dictionaries
    }

    /// Packs contents by another dictionary from now on.
    pub(crate) fn add_dictionary(&mut self, dictionary: Dictionary) {
        Arc::make_mut(&mut self.dictionaries).push(Arc::new(dictionary));
    }

    /// Sets whether contents that are written stay plain.
    pub(crate) fn set_plain(&mut self, plain: bool) {
        self.plain = plain;
    }

    /// How readily it lies.
    pub(crate) fn heat(&self, slot: u32) -> Heat {
        let cell = self.cell(slot, Name::Heat);
        // Nearly all are hot or cold, and asking costs a hash of a few bytes.
        let is = |heat: &Heat| cell == Cell::text(heat.name());
        [Heat::Hot, Heat::Cold, Heat::Warm].into_iter().find(is).unwrap_or_default()
    }

    fn chunk(&self, slot: u32) -> Option<(&Chunk, usize)> {
        let (chunk, row) = locate(slot);
        Some((self.chunks.get(chunk)?, row))
    }

    /// One above the highest slot.
    pub(crate) fn slots(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len)
    }

    /// How many slots there are, empty ones included.
    pub(crate) fn count(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * ROWS + last.len)
    }

    /// The chunks, in order.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = ChunkView<'_>> {
        self.chunks.iter().enumerate().map(|(n, chunk)| ChunkView { records: self, chunk, first: (n * CHUNK) as u32 })
    }

    /// The slots that hold a memory.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        self.chunks.iter().enumerate().flat_map(|(n, chunk)| {
            (0..chunk.len).filter(|row| chunk.is_filled(*row)).map(move |row| (n * CHUNK + row) as u32)
        })
    }

    /// The id of the memory in a slot; None if it is empty.
    pub(crate) fn id(&self, slot: u32) -> Option<MemoryId> {
        let (chunk, row) = self.chunk(slot)?;
        if chunk.is_filled(row) { chunk.id(row) } else { None }
    }

    fn at_of(&self, slot: u32, name: Name) -> Option<u64> {
        let (chunk, row) = self.chunk(slot)?;
        chunk.whole(name, row)
    }

    /// AT.
    pub(crate) fn at(&self, slot: u32) -> Millis {
        self.at_of(slot, Name::At).unwrap_or(0)
    }

    /// When it expires.
    pub(crate) fn expires(&self, slot: u32) -> Option<Millis> {
        self.at_of(slot, Name::Expires)
    }

    /// Whether it is gone at `now`.
    pub(crate) fn is_expired(&self, slot: u32, now: Millis) -> bool {
        self.expires(slot).is_some_and(|expires| expires <= now)
    }

    /// The tier.
    pub(crate) fn tier(&self, slot: u32) -> Tier {
        self.at_of(slot, Name::TierIndex).and_then(|index| Tier::at(index as usize)).unwrap_or(Tier::ShortTerm)
    }

    /// From when on another has taken its place.
    pub(crate) fn superseded_at(&self, slot: u32) -> Option<Millis> {
        self.at_of(slot, Name::SupersededAt)
    }

    /// PIN.
    pub(crate) fn is_pinned(&self, slot: u32) -> bool {
        self.chunk(slot).is_some_and(|(chunk, row)| chunk.cell(Name::Pinned, row) == Cell::TRUE)
    }

    /// Whether it is never evicted: pinned, or held by its session.
    pub(crate) fn is_kept(&self, slot: u32) -> bool {
        self.is_pinned(slot) || self.held(slot) == Some(true)
    }

    /// Of a turn in the record of its session, whether the session holds it; None for anything else.
    pub(crate) fn held(&self, slot: u32) -> Option<bool> {
        match self.cell(slot, Name::Held) {
            Cell::TRUE => Some(true),
            Cell::FALSE => Some(false),
            _ => None,
        }
    }

    /// Notes that it is a turn in the record of its session, and whether that holds it; None: it is none.
    pub(crate) fn set_held(&mut self, slot: u32, held: Option<bool>) {
        let cell = held.map_or(Cell::MISSING, Cell::bool);
        self.change(slot, |chunk, row| chunk.set(Name::Held, row, cell));
    }

    /// Whether its vectors are still to be made.
    pub(crate) fn awaits(&self, slot: u32) -> bool {
        self.cell(slot, Name::Awaits) == Cell::TRUE
    }

    /// Notes that its vectors are there, or will never be.
    pub(crate) fn set_awaits(&mut self, slot: u32, awaits: bool) {
        self.change(slot, |chunk, row| chunk.set(Name::Awaits, row, Cell::bool(awaits)));
    }

    /// What consolidation has done with it.
    pub(crate) fn marks(&self, slot: u32) -> Marks {
        marks_of(self.cell(slot, Name::Marks))
    }

    /// Sets marks, or takes them away.
    pub(crate) fn mark(&mut self, slot: u32, marks: Marks, on: bool) {
        self.change(slot, |chunk, row| {
            let marks = marks_of(chunk.cell(Name::Marks, row)).with(marks, on);
            chunk.set(Name::Marks, row, cell_of(marks));
        });
    }

    /// Sets when it expires.
    pub(crate) fn set_expires(&mut self, slot: u32, expires: Option<Millis>) {
        self.change(slot, |chunk, row| chunk.set(Name::Expires, row, optional(expires)));
    }

    /// The cell of its TYPE: equal ones are nearly always equal texts.
    pub(crate) fn kind(&self, slot: u32) -> Cell {
        self.cell(slot, Name::Kind)
    }

    /// The same of its session.
    pub(crate) fn session(&self, slot: u32) -> Cell {
        self.cell(slot, Name::Session)
    }

    /// The same of its role.
    pub(crate) fn role(&self, slot: u32) -> Cell {
        self.cell(slot, Name::Role)
    }

    /// Whether it is a turn.
    pub(crate) fn has_role(&self, slot: u32) -> bool {
        self.cell(slot, Name::Role) != Cell::MISSING
    }

    /// Whether it is a chunk of a document.
    pub(crate) fn is_chunk(&self, slot: u32) -> bool {
        self.cell(slot, Name::Doc) != Cell::MISSING
    }

    /// IMPORTANCE.
    pub(crate) fn importance(&self, slot: u32) -> f64 {
        self.chunk(slot).and_then(|(chunk, row)| chunk.cell(Name::Importance, row).as_number()).unwrap_or(0.0)
    }

    /// When it was stored.
    pub(crate) fn created(&self, slot: u32) -> Millis {
        self.chunk(slot).map_or(0, |(chunk, row)| chunk.created(row))
    }

    /// When it entered its tier.
    pub(crate) fn entered(&self, slot: u32) -> Millis {
        let entered = self.chunk(slot).and_then(|(chunk, row)| chunk.cell(Name::Entered, row).as_number());
        (self.created(slot) as f64 + entered.unwrap_or(0.0)) as u64
    }

    /// How many vectors it has.
    pub(crate) fn windows(&self, slot: u32) -> usize {
        self.at_of(slot, Name::Windows).map_or(0, |windows| windows as usize)
    }

    /// Words of the content that count for something, if they were counted.
    pub(crate) fn words(&self, slot: u32) -> Option<f64> {
        let (chunk, row) = self.chunk(slot)?;
        chunk.cell(Name::Words, row).as_number()
    }

    /// Sets the number of words; None if they were not counted.
    pub(crate) fn set_words(&mut self, slot: u32, words: Option<usize>) {
        let cell = words_cell(words);
        self.change(slot, |chunk, row| chunk.set(Name::Words, row, cell));
    }

    /// The cells of session and speaker: equal ones are nearly always equal texts.
    pub(crate) fn owner_cells(&self, slot: u32) -> (Cell, Cell) {
        self.chunk(slot).map_or((Cell::MISSING, Cell::MISSING), |(chunk, row)| {
            (chunk.cell(Name::Session, row), chunk.cell(Name::Speaker, row))
        })
    }

    /// The texts.
    pub(crate) fn record(&self, slot: u32) -> Option<Record<'_>> {
        let (chunk, row) = self.chunk(slot)?;
        let place = chunk.links[Link::Text as usize].get(row)?;
        Some(Record::read(self.texts.at(Place(place)), &self.dictionaries))
    }

    /// A memory for the plain evaluator of filters.
    pub(crate) fn view(&self, slot: u32) -> Option<MemoryView<'_>> {
        let record = self.record(slot)?;
        Some(MemoryView {
            records: self,
            slot,
            record,
            content: OnceCell::new(),
            tags: OnceCell::new(),
            meta: OnceCell::new(),
        })
    }

    fn cell(&self, slot: u32, name: Name) -> Cell {
        self.chunk(slot).map_or(Cell::MISSING, |(chunk, row)| chunk.cell(name, row))
    }

    /// The whole memory.
    pub(crate) fn entry(&self, slot: u32) -> Option<Entry> {
        let (chunk, row) = self.chunk(slot)?;
        let id = chunk.id(row)?;
        let record = self.record(slot)?;
        let number = |name: Name| chunk.cell(name, row).as_number().unwrap_or(0.0);
        let (accessed, uses) = chunk.uses.get(row);
        let superseded_at = chunk.whole(Name::SupersededAt, row);
        Some(Entry {
            id,
            tier: self.tier(slot),
            content: record.content.text().into(),
            kind: record.kind.into(),
            importance: number(Name::Importance),
            confidence: number(Name::Confidence),
            outcome: record.outcome.map(Into::into),
            session: record.session.map(Into::into),
            speaker: record.speaker.map(Into::into),
            role: record.role.map(Into::into),
            source: record.source.map(Into::into),
            from: record.from().collect(),
            at: chunk.whole(Name::At, row).unwrap_or(0),
            created: chunk.created(row),
            entered: self.entered(slot),
            expires: chunk.whole(Name::Expires, row),
            own_expiry: chunk.cell(Name::OwnExpiry, row) == Cell::TRUE,
            pinned: chunk.cell(Name::Pinned, row) == Cell::TRUE,
            tags: record.tags().map(Into::into).collect(),
            meta: record.meta(),
            supersedes: record.supersedes,
            superseded: record.superseded_by.zip(superseded_at).map(|(by, at)| Superseded { by, at }),
            passage: record.passage().map(Box::new),
            tokens: record.tokens,
            awaits: chunk.cell(Name::Awaits, row) == Cell::TRUE,
            marks: marks_of(chunk.cell(Name::Marks, row)),
            heat: self.heat(slot),
            template: number(Name::Template) as u16,
            windows: number(Name::Windows) as u16,
            accessed,
            uses,
        })
    }

    /// Last access and number of uses.
    pub(crate) fn usage(&self, slot: u32) -> (Millis, u32) {
        self.chunk(slot).map_or((0, 0), |(chunk, row)| chunk.uses.get(row))
    }

    /// Sets last access and number of uses. Only the owner of the space calls it; who reads beside it sees the old or the new.
    pub(crate) fn set_usage(&self, slot: u32, accessed: Millis, uses: u32) {
        if let Some((chunk, row)) = self.chunk(slot) {
            chunk.uses.set(row, accessed, uses);
        }
    }

    /// A reference of a memory.
    pub(crate) fn link(&self, slot: u32, link: Link) -> Option<u32> {
        let (chunk, row) = self.chunk(slot)?;
        chunk.links[link as usize].get(row)
    }

    /// Sets a reference of a memory.
    pub(crate) fn set_link(&mut self, slot: u32, link: Link, to: Option<u32>) {
        if self.link(slot, link) != to {
            self.change(slot, |chunk, row| {
                let rows = chunk.rows;
                chunk.links[link as usize].set(row, to, rows);
            });
        }
    }

    /// Calls `f` with the row of each vector of a memory, in the order of its windows.
    pub(crate) fn each_row(&self, slot: u32, mut f: impl FnMut(RowId)) {
        let Some((chunk, row)) = self.chunk(slot) else { return };
        match chunk.windows.get(&(row as u16)) {
            Some(rows) => rows.iter().copied().for_each(f),
            None => {
                if let Some(first) = chunk.links[Link::Row as usize].get(row) {
                    f(RowId::from_number(first));
                }
            }
        }
    }

    /// The rows of its vectors, in the order of its windows.
    pub(crate) fn rows(&self, slot: u32) -> Vec<RowId> {
        let mut rows = Vec::new();
        self.each_row(slot, |row| rows.push(row));
        rows
    }

    /// Sets the rows of its vectors.
    pub(crate) fn set_rows(&mut self, slot: u32, rows: &[RowId]) {
        self.change(slot, |chunk, row| {
            let place = row as u16;
            let room = chunk.rows;
            chunk.links[Link::Row as usize].set(row, rows.first().map(|row| row.number()), room);
            chunk.set(Name::Windows, row, Cell::whole(rows.len() as u64));
            if rows.len() > 1 {
                Arc::make_mut(&mut chunk.windows).insert(place, rows.into());
            } else if chunk.windows.contains_key(&place) {
                Arc::make_mut(&mut chunk.windows).remove(&place);
            }
        });
    }

    /// The links of a memory, in the order that `graph` keeps.
    pub(crate) fn edges(&self, slot: u32) -> &[Edge] {
        self.chunk(slot).and_then(|(chunk, row)| chunk.edges.get(&(row as u16))).map_or(&[], |edges| edges)
    }

    /// Sets the links of a memory.
    pub(crate) fn set_edges(&mut self, counts: &mut RecordCounts, slot: u32, edges: Vec<Edge>) {
        counts.links.remove(self.edges(slot));
        counts.links.add(&edges);
        self.change(slot, |chunk, row| {
            let (place, all) = (row as u16, Arc::make_mut(&mut chunk.edges));
            if edges.is_empty() {
                all.remove(&place);
            } else {
                all.insert(place, edges.into());
            }
        });
    }

    fn change(&mut self, slot: u32, f: impl FnOnce(&mut Chunk, usize)) {
        let (at, row) = locate(slot);
        if let Some(chunk) = Arc::make_mut(&mut self.chunks).get_mut(at).map(Arc::make_mut) {
            f(chunk, row);
        }
    }

    /// The signs of the word vectors of a memory, as bytes.
    pub(crate) fn signs(&self, slot: u32) -> &[u8] {
        self.link(slot, Link::Signs).map_or(&[], |place| signs_at(&self.signs, Place(place)))
    }

    /// Sets the signs of the word vectors of a memory; empty = none.
    pub(crate) fn set_signs(&mut self, counts: &mut RecordCounts, slot: u32, signs: &Signs) {
        if let Some(old) = self.link(slot, Link::Signs).map(Place) {
            kill_signs(&mut self.signs, &mut counts.signs, old);
            self.set_link(slot, Link::Signs, None);
        }
        if let Some(place) = append_signs(&mut self.signs, &mut counts.signs, &mut counts.record, signs) {
            self.set_link(slot, Link::Signs, Some(place.0));
        }
    }

    /// Whether another memory can be put, whatever the size of its texts.
    pub(crate) fn has_room(&self, counts: &RecordCounts) -> bool {
        self.count() - counts.free.len() < limits::MEMORIES && self.texts.has_room(&counts.texts)
    }

    /// Puts a memory into a free slot and tells which. Its vectors and other references are set apart.
    pub(crate) fn put(&mut self, counts: &mut RecordCounts, entry: &Entry) -> u32 {
        let behind = || match self.chunks.last() {
            Some(last) if last.len < ROWS => self.slots(),
            _ => self.chunks.len() * CHUNK,
        };
        let slot = counts.free.pop().unwrap_or_else(|| behind() as u32);
        let (at, row) = locate(slot);
        let chunks = Arc::make_mut(&mut self.chunks);
        if at == chunks.len() {
            // Chunks behind the first begin whole: a space that has come so far goes on.
            let mut chunk = Chunk::default();
            chunk.grow(if at == 0 { FIRST_CHUNK } else { ROWS });
            chunks.push(Arc::new(chunk));
        }
        if let Some(chunk) = chunks.get_mut(at).map(Arc::make_mut) {
            if row >= chunk.rows {
                chunk.grow((chunk.rows * 4).min(ROWS));
            }
            chunk.len = chunk.len.max(row + 1);
            chunk.uses.set(row, entry.accessed, entry.uses);
        }
        self.write(counts, slot, entry);
        self.set_held(slot, None);
        slot
    }

    /// Writes what an entry says over what the slot holds: columns that change, and the texts if they do.
    pub(crate) fn write(&mut self, counts: &mut RecordCounts, slot: u32, entry: &Entry) {
        let mut bytes = std::mem::take(&mut counts.record);
        bytes.clear();
        let packs = entry.heat == Heat::Cold && !self.plain;
        record::write(entry, if packs { &self.dictionaries } else { &[] }, &mut bytes);
        let old = self.link(slot, Link::Text).map(Place);
        let old_len = self.record(slot).map_or(0, |record| record.len);
        let same = old.is_some_and(|place| old_len == bytes.len() && self.texts.at(place).starts_with(&bytes));
        let text = match old {
            Some(place) if same => place,
            _ => self.texts.append(&mut counts.texts, &bytes),
        };
        if let Some(old) = old.filter(|_| !same) {
            self.texts.kill(&mut counts.texts, old, old_len.next_multiple_of(4));
        }
        counts.record = bytes;
        self.change(slot, |chunk, row| {
            let rows = chunk.rows;
            chunk.links[Link::Text as usize].set(row, Some(text.0), rows);
            chunk.set_filled(row, true);
            for (name, cell) in cells(entry) {
                chunk.set(name, row, cell);
            }
            chunk.tags.set(row, entry.tags.iter().map(|tag| Cell::text(tag)));
            write_meta(chunk, row, entry);
        });
    }

    /// Empties a slot.
    pub(crate) fn clear(&mut self, counts: &mut RecordCounts, slot: u32) {
        if let (Some(place), Some(record)) = (self.link(slot, Link::Text), self.record(slot)) {
            let size = record.len.next_multiple_of(4);
            self.texts.kill(&mut counts.texts, Place(place), size);
        }
        self.set_signs(counts, slot, &Signs::default());
        // The cells stay as they are: a slot without a text is empty, and the next memory overwrites them.
        self.change(slot, |chunk, row| {
            let (rows, place) = (chunk.rows, row as u16);
            chunk.tags.set(row, []);
            chunk.links.iter_mut().for_each(|links| links.set(row, None, rows));
            chunk.set_filled(row, false);
            if chunk.windows.contains_key(&place) {
                Arc::make_mut(&mut chunk.windows).remove(&place);
            }
        });
        counts.free.push(slot);
    }

    /// Moves up to `budget` records or signs out of a page that is dead for more than half. False when there is none.
    pub(crate) fn compact(&mut self, counts: &mut RecordCounts, budget: usize) -> bool {
        self.compact_pages(counts, Link::Text, budget) || self.compact_pages(counts, Link::Signs, budget)
    }

    fn compact_pages(&mut self, counts: &mut RecordCounts, link: Link, budget: usize) -> bool {
        let Some(page) = self.pages(link).compactable(counts.pages(link)) else { return false };
        let within = |slot: &u32| self.link(*slot, link).is_some_and(|place| page.contains(&Place(place)));
        let living: Vec<u32> = self.iter().filter(within).take(budget.max(1)).collect();
        for slot in living {
            let Some(place) = self.link(slot, link).map(Place) else { continue };
            let len = match link {
                Link::Signs => SIGNS_HEAD + self.signs(slot).len(),
                _ => self.record(slot).map_or(0, |record| record.len),
            };
            let (pages, counts) = (self.pages(link), counts.pages(link));
            let bytes = pages.at(place).get(..len).unwrap_or(&[]).to_vec();
            let moved = pages.append(counts, &bytes);
            pages.kill(counts, place, texts::size(&bytes));
            self.set_link(slot, link, Some(moved.0));
        }
        true
    }

    /// The pages that a reference leads to.
    fn pages(&mut self, link: Link) -> &mut Texts {
        match link {
            Link::Signs => &mut self.signs,
            _ => &mut self.texts,
        }
    }

    /// Bytes of all chunks, texts apart. Walks the chunks.
    pub(crate) fn bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.bytes()).sum();
        self.chunks.capacity() * size_of::<Arc<Chunk>>() + chunks
    }

    /// Bytes of the dictionaries.
    pub(crate) fn dictionary_bytes(&self) -> usize {
        self.dictionaries.iter().map(|dictionary| block(dictionary.bytes().len()) + 48).sum()
    }

    /// The links, counted wherever a list of them is: to check the kept figures.
    pub(crate) fn recount_links(&self) -> LinkCounts {
        let mut counts = LinkCounts::default();
        self.chunks.iter().flat_map(|chunk| chunk.edges.values()).for_each(|edges| counts.add(edges));
        counts
    }

    /// Bytes of the texts and of the signs, counted: to check the kept figures.
    pub(crate) fn recount(&self) -> (usize, usize) {
        (self.texts.recount(), self.signs.recount())
    }
}

/// The cells of an entry; META, the number of windows, that of words and what its session makes of it apart.
fn cells(entry: &Entry) -> [(Name, Cell); NAMES - 3] {
    let passage = entry.passage.as_deref();
    let number = |part: fn(&Passage) -> u32| optional(passage.map(|passage| part(passage).into()));
    [
        (Name::Ms, Cell::whole(entry.id.ms)),
        (Name::Seq, Cell::whole(entry.id.seq)),
        (Name::Tier, Cell::text(entry.tier.name())),
        (Name::TierIndex, Cell::whole(entry.tier.index() as u64)),
        (Name::Kind, Cell::text(&entry.kind)),
        (Name::Importance, Cell::number(entry.importance)),
        (Name::Confidence, Cell::number(entry.confidence)),
        (Name::Outcome, text_cell(entry.outcome.as_deref())),
        (Name::At, Cell::whole(entry.at)),
        (Name::Created, Cell::number(entry.created as f64 - entry.id.ms as f64)),
        (Name::Entered, Cell::number(entry.entered as f64 - entry.created as f64)),
        (Name::Expires, optional(entry.expires)),
        (Name::OwnExpiry, Cell::bool(entry.own_expiry)),
        (Name::Pinned, Cell::bool(entry.pinned)),
        (Name::Session, text_cell(entry.session.as_deref())),
        (Name::Speaker, text_cell(entry.speaker.as_deref())),
        (Name::Role, text_cell(entry.role.as_deref())),
        (Name::Source, text_cell(entry.source.as_deref())),
        (Name::Template, Cell::whole(u64::from(entry.template))),
        (Name::SupersededAt, optional(entry.superseded.map(|superseded| superseded.at))),
        (Name::Doc, text_cell(passage.map(|passage| &*passage.doc))),
        (Name::Position, number(|passage| passage.position)),
        (Name::Total, number(|passage| passage.total)),
        (Name::Awaits, Cell::bool(entry.awaits)),
        (Name::Marks, cell_of(entry.marks)),
        (Name::Heat, Cell::text(entry.heat.name())),
    ]
}

fn write_meta(chunk: &mut Chunk, row: usize, entry: &Entry) {
    let value = |name: &str| entry.meta.as_ref().and_then(|meta| meta.get(name));
    let rows = chunk.rows;
    for (name, column) in &mut chunk.meta {
        let cell = value(name).map_or(Cell::MISSING, |value| Value::json(value).cell());
        if column.get(row) != cell {
            column.set(row, cell, rows);
        }
    }
    for (name, value) in entry.meta.iter().flatten() {
        if chunk.meta.iter().any(|(known, _)| **known == **name) {
            continue;
        }
        if chunk.meta.len() >= META_COLUMNS {
            chunk.more_meta = true;
            continue;
        }
        let cell = Value::json(value).cell();
        let column = if chunk.len == 1 {
            Column::Same(cell)
        } else {
            let mut column = Column::default();
            column.set(row, cell, rows);
            column
        };
        chunk.meta.push((name.as_str().into(), column));
    }
}

/// A chunk as a filter sees it.
pub(crate) struct ChunkView<'a> {
    records: &'a Records,
    chunk: &'a Chunk,
    /// The slot of its first row.
    first: u32,
}

impl ChunkView<'_> {
    /// The rows that hold a memory, as bits.
    pub(crate) fn filled(&self) -> Words {
        self.chunk.filled
    }
}

impl filter::Chunk for ChunkView<'_> {
    #[expect(
        clippy::misnamed_getters,
        reason = "a filter's rows are those that were ever filled, not the room for them"
    )]
    fn rows(&self) -> usize {
        self.chunk.len
    }

    fn column(&self, field: Field) -> Option<Cow<'_, Column>> {
        let name = match field {
            Field::Tier => Name::Tier,
            Field::Kind => Name::Kind,
            Field::Importance => Name::Importance,
            Field::Confidence => Name::Confidence,
            Field::Outcome => Name::Outcome,
            Field::At => Name::At,
            Field::Expires => Name::Expires,
            Field::Pinned => Name::Pinned,
            Field::Session => Name::Session,
            Field::Speaker => Name::Speaker,
            Field::Role => Name::Role,
            Field::Source => Name::Source,
            Field::Superseded => Name::SupersededAt,
            Field::Doc => Name::Doc,
            Field::Position => Name::Position,
            Field::Total => Name::Total,
            Field::Heat => Name::Heat,
            Field::Created => return Some(Cow::Owned(self.made(|chunk, row| chunk.created(row)))),
            // Use is live; a column of it is one of this moment.
            Field::Accessed => return Some(Cow::Owned(self.made(|chunk, row| chunk.uses.get(row).0))),
            Field::Uses => return Some(Cow::Owned(self.made(|chunk, row| u64::from(chunk.uses.get(row).1)))),
            Field::Id | Field::Content | Field::Tags => return None,
        };
        Some(Cow::Borrowed(&self.chunk.columns[name as usize]))
    }

    fn tags(&self) -> Option<&Tags> {
        Some(&self.chunk.tags)
    }

    fn meta(&self, name: &str) -> MetaColumn<'_> {
        match self.chunk.meta.iter().find(|(known, _)| **known == *name) {
            Some((_, column)) => MetaColumn::Column(column),
            None if self.chunk.more_meta => MetaColumn::Unknown,
            None => MetaColumn::Absent,
        }
    }

    fn record(&self, row: usize) -> Option<impl FieldSource + '_> {
        self.records.view(self.first + row as u32)
    }
}

impl ChunkView<'_> {
    /// A column that is made for a scan.
    fn made(&self, read: impl Fn(&Chunk, usize) -> u64) -> Column {
        let cells: Vec<Cell> = (0..self.chunk.rows).map(|row| Cell::whole(read(self.chunk, row))).collect();
        Column::of(&cells)
    }
}

/// A memory as the plain evaluator of filters sees it: what is asked for is read, and nothing else.
pub(crate) struct MemoryView<'a> {
    records: &'a Records,
    slot: u32,
    record: Record<'a>,
    content: OnceCell<Cow<'a, str>>,
    tags: OnceCell<Vec<&'a str>>,
    meta: OnceCell<Option<Meta>>,
}

impl List for Vec<&str> {
    fn len(&self) -> usize {
        self.len()
    }

    fn item(&self, n: usize) -> Value<'_> {
        self.get(n).map_or(Value::Missing, |text| Value::text(text))
    }
}

impl FieldSource for MemoryView<'_> {
    fn field(&self, field: Field) -> Value<'_> {
        let number = |name| match self.records.cell(self.slot, name).as_number() {
            Some(number) => Value::Number(number),
            None => Value::Missing,
        };
        let (accessed, uses) = self.records.usage(self.slot);
        match field {
            Field::Id => Value::Text(Cow::Owned(self.records.id(self.slot).unwrap_or_default().to_string())),
            Field::Tier => Value::text(self.records.tier(self.slot).name()),
            Field::Kind => Value::text(self.record.kind),
            Field::Content => Value::text(self.content.get_or_init(|| self.record.content.text())),
            Field::Importance => number(Name::Importance),
            Field::Confidence => number(Name::Confidence),
            Field::Outcome => Value::optional(self.record.outcome),
            Field::At => number(Name::At),
            Field::Created => Value::Number(self.records.created(self.slot) as f64),
            Field::Accessed => Value::Number(accessed as f64),
            Field::Uses => Value::Number(f64::from(uses)),
            Field::Expires => number(Name::Expires),
            Field::Pinned => Value::Bool(self.records.is_pinned(self.slot)),
            Field::Session => Value::optional(self.record.session),
            Field::Speaker => Value::optional(self.record.speaker),
            Field::Role => Value::optional(self.record.role),
            Field::Source => Value::optional(self.record.source),
            Field::Tags => Value::List(self.tags.get_or_init(|| self.record.tags().collect())),
            Field::Superseded => number(Name::SupersededAt),
            Field::Doc => Value::optional(self.record.doc),
            Field::Position => number(Name::Position),
            Field::Total => number(Name::Total),
            Field::Heat => Value::text(self.records.heat(self.slot).name()),
        }
    }

    fn meta(&self, name: &str) -> Value<'_> {
        let meta = self.meta.get_or_init(|| self.record.meta());
        meta.as_ref().and_then(|meta| meta.get(name)).map_or(Value::Missing, Value::json)
    }
}
