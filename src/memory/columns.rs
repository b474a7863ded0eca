//! Columns: one field of up to 1,024 memories, side by side.
//!
//! A filter asks one field of many memories. Reading records for that costs a cache miss each; here the field of a chunk of
//! slots is one small array, and most fields of most chunks are smaller still. A value is a [`Cell`] of 64 bits, and a
//! [`Column`] keeps cells in the smallest of four forms: one cell for all rows (a tier, a session of one chat, what nobody
//! set), a byte per row into a dictionary (types, speakers, importances), four bytes per row above a base (times), eight bytes
//! per row (anything). A column changes its form when a value comes that the form cannot say, and so needs no schema.
//!
//! A cell says numbers, booleans, null and absence in full. Of a text it keeps 48 bits of hash, of a list a 48-bit Bloom word:
//! enough to tell most values apart, never to prove two equal. The fixed key lets an adversary make two texts with one hash;
//! so who needs certainty reads the record (see `filter::scan`).
//!
//! Tags, many per memory, are pairs of a tag and a row ([`Tags`]).
//!
//! Columns are shared with snapshots and copied on write: cloning is O(1), a change to a shared column copies that column of
//! that chunk (at most 10 KiB).
//!
//! Rejected: a column per type, chosen by the field (META has no types, and a dictionary serves texts and numbers alike);
//! interned texts, exact at once (an interner counts references on every write and is one more thing to save, to replicate
//! and to fork; a hash needs nothing); null bitmaps (absence is one more cell, or one offset that no number takes);
//! compressing further, such as bits per code (a byte compares 16 to 64 rows per instruction as it is).

use crate::entry::block;
use siphasher::sip::SipHasher13;
use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

/// A value in 64 bits. A finite number is its own bits; everything else is a NaN whose top 16 bits say what it is, above
/// everything that arithmetic makes:
///
/// | top 16 bits | the lower 48 |
/// |---|---|
/// | `ffff` | a text: its hash, 0 for the empty one alone |
/// | `fffe` | a list: a Bloom word of its items, 0 for the empty one alone |
/// | `fffd` | missing, null, false, true, other, unread |
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Cell(u64);

/// The bits of a text above its hash.
pub(crate) const TEXT: u64 = 0xffff << 48;
/// The bits of a list above its Bloom word.
pub(crate) const LIST: u64 = 0xfffe << 48;
const NAMED: u64 = 0xfffd << 48;
const LOW_48: u64 = (1 << 48) - 1;

impl Cell {
    /// The memory does not have the field.
    pub(crate) const MISSING: Cell = Cell(NAMED);
    /// JSON's null.
    pub(crate) const NULL: Cell = Cell(NAMED | 1);
    /// False.
    pub(crate) const FALSE: Cell = Cell(NAMED | 2);
    /// True.
    pub(crate) const TRUE: Cell = Cell(NAMED | 3);
    /// A text, a list or an object; the record says which and what.
    pub(crate) const OTHER: Cell = Cell(NAMED | 4);
    /// Nothing is known here: ask the record.
    pub(crate) const UNREAD: Cell = Cell(NAMED | 5);
    /// The text of no characters.
    pub(crate) const EMPTY_TEXT: Cell = Cell(TEXT);
    /// The list of no items.
    pub(crate) const EMPTY_LIST: Cell = Cell(LIST);

    /// A number. One that is not finite is missing, as in the filter language; the two zeros are one.
    pub(crate) fn number(number: f64) -> Cell {
        if number.is_finite() { Cell((number + 0.0).to_bits()) } else { Cell::MISSING }
    }

    /// A whole number up to 2^53: a time, a count.
    pub(crate) fn whole(whole: u64) -> Cell {
        Cell::number(whole as f64)
    }

    /// A boolean.
    pub(crate) fn bool(bool: bool) -> Cell {
        if bool { Cell::TRUE } else { Cell::FALSE }
    }

    /// A text, of which 48 bits of hash remain.
    pub(crate) fn text(text: &str) -> Cell {
        let mut hasher = SipHasher13::new_with_keys(0x656e_6772_616d, 1);
        hasher.write(text.as_bytes());
        Cell::hashed(text, hasher.finish())
    }

    /// A text with the hash given.
    pub(crate) fn hashed(text: &str, hash: u64) -> Cell {
        match text {
            "" => Cell::EMPTY_TEXT,
            _ => Cell(TEXT | (hash & LOW_48).max(1)),
        }
    }

    /// A list, of which a Bloom word of its items remains: TAGS, an array of META.
    pub(crate) fn list(items: impl Iterator<Item = Cell>) -> Cell {
        items.fold(Cell::EMPTY_LIST, |list, item| Cell(list.0 | item.bloom()))
    }

    /// The three bits that a list which has this item has set.
    pub(crate) fn bloom(self) -> u64 {
        // Items that compare as equal must have the same bits, and what is in a list inside the list is not looked at.
        let item = match self {
            Cell::TRUE => Cell::number(1.0),
            Cell::FALSE => Cell::number(0.0),
            cell if cell.is_list() => Cell::OTHER,
            cell => cell,
        };
        let mixed = (item.0 ^ (item.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bit = |shift: u32| 1 << ((((mixed >> shift) & 0xffff) * 48) >> 16);
        bit(48) | bit(32) | bit(16)
    }

    /// The bits.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// The number that it is; booleans are none.
    pub(crate) fn as_number(self) -> Option<f64> {
        (self.0 < NAMED).then(|| f64::from_bits(self.0))
    }

    /// The whole number of 0 to 2^53 that it is.
    pub(crate) fn as_whole(self) -> Option<u64> {
        let number = self.as_number()?;
        let whole = number as u64;
        (whole as f64 == number && whole <= 1 << 53).then_some(whole)
    }

    /// Whether it is a text by its hash.
    pub(crate) fn is_text(self) -> bool {
        self.0 >= TEXT
    }

    /// Whether it is a list by its Bloom word.
    pub(crate) fn is_list(self) -> bool {
        self.0 & TEXT == LIST
    }

    /// Its bit in [`Kinds`].
    fn kind(self) -> Kinds {
        match self.0 {
            TEXT.. => Kinds::TEXT,
            LIST.. => Kinds::LIST,
            NAMED.. => Kinds(1 << ((self.0 & 7) + 3)),
            _ => Kinds::NUMBER,
        }
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Cell::MISSING => f.write_str("missing"),
            Cell::NULL => f.write_str("null"),
            Cell::FALSE => f.write_str("false"),
            Cell::TRUE => f.write_str("true"),
            Cell::OTHER => f.write_str("other"),
            Cell::UNREAD => f.write_str("unread"),
            cell if cell.is_text() => write!(f, "text:{:x}", cell.0 & LOW_48),
            cell if cell.is_list() => write!(f, "list:{:x}", cell.0 & LOW_48),
            cell => write!(f, "{:?}", f64::from_bits(cell.0)),
        }
    }
}

/// A set of kinds of cells: what a column may hold, so that a test need not look for what is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kinds(u16);

impl Kinds {
    /// All kinds.
    pub(crate) const ALL: Kinds = Kinds(u16::MAX);
    /// Numbers, booleans not among them.
    pub(crate) const NUMBER: Kinds = Kinds(1);
    /// Texts by their hash.
    pub(crate) const TEXT: Kinds = Kinds(2);
    /// Lists by their Bloom word.
    pub(crate) const LIST: Kinds = Kinds(4);

    /// Whether it has the kind of this cell.
    pub(crate) fn has(self, cell: Cell) -> bool {
        self.meet(cell.kind())
    }

    /// Whether two sets have a kind in common.
    pub(crate) fn meet(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    fn and(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }
}

/// The values of one field in a chunk. Copied on write; cloning is O(1).
///
/// A row must be set whenever its slot is filled: until then it reads as missing or as what fills the column.
#[derive(Debug, Clone)]
pub(crate) enum Column {
    /// All rows have this cell.
    Same(Cell),
    /// A byte per row: the place of its cell in the dictionary.
    Few { dictionary: Arc<[Cell]>, codes: Arc<[u8]> },
    /// Whole numbers as their distance from a base; [`Column::GAP`] is a row without one.
    Near { base: u64, offsets: Arc<[u32]> },
    /// Eight bytes per row, and the kinds that came by.
    Any { cells: Arc<[Cell]>, kinds: Kinds },
}

impl Default for Column {
    fn default() -> Column {
        Column::Same(Cell::MISSING)
    }
}

/// The most cells of a dictionary: a code has 256 values.
const DICTIONARY: usize = 256;
/// The most cells of a dictionary that is made anew, so that the next few sets find room in it.
const FRESH_DICTIONARY: usize = 192;
/// Whole numbers from here on are times rather than counts or ranks: hardly two rows will have the same, so a dictionary would
/// be filled in vain.
const TIMES: u64 = 1 << 20;

impl Column {
    /// The offset of a row that is missing.
    pub(crate) const GAP: u32 = u32::MAX;

    /// The smallest column of these cells.
    pub(crate) fn of(cells: &[Cell]) -> Column {
        let first = cells.first().copied().unwrap_or(Cell::MISSING);
        if cells.iter().all(|cell| *cell == first) {
            return Column::Same(first);
        }
        let few = Column::few(cells);
        let near = Column::near(cells);
        match (few, near) {
            (Some(few), Some(near)) => {
                if few.bytes() <= near.bytes() {
                    few
                } else {
                    near
                }
            }
            (Some(column), None) | (None, Some(column)) => column,
            (None, None) => Column::any(cells),
        }
    }

    fn few(cells: &[Cell]) -> Option<Column> {
        let mut dictionary: Vec<Cell> = Vec::new();
        let mut codes = Vec::with_capacity(cells.len());
        let mut last = (Cell::MISSING, None);
        for &cell in cells {
            let code = match last {
                (before, Some(code)) if before == cell => code,
                _ => match place(&dictionary, cell) {
                    Some(code) => code,
                    None if dictionary.len() == FRESH_DICTIONARY => return None,
                    None => {
                        dictionary.push(cell);
                        (dictionary.len() - 1) as u8
                    }
                },
            };
            last = (cell, Some(code));
            codes.push(code);
        }
        Some(Column::Few { dictionary: dictionary.into(), codes: codes.into() })
    }

    fn near(cells: &[Cell]) -> Option<Column> {
        let (mut low, mut high) = (u64::MAX, 0);
        for &cell in cells.iter().filter(|cell| **cell != Cell::MISSING) {
            let whole = cell.as_whole()?;
            (low, high) = (low.min(whole), high.max(whole));
        }
        let base = base(low, high)?;
        let offsets = cells.iter().map(|cell| cell.as_whole().map_or(Column::GAP, |whole| (whole - base) as u32));
        Some(Column::Near { base, offsets: offsets.collect() })
    }

    /// These cells in the form that takes any.
    pub(crate) fn any(cells: &[Cell]) -> Column {
        let kinds = cells.iter().fold(Kinds(0), |kinds, cell| kinds.and(cell.kind()));
        Column::Any { cells: cells.into(), kinds }
    }

    /// The cell of a row; missing behind the last.
    pub(crate) fn get(&self, row: usize) -> Cell {
        match self {
            Column::Same(cell) => Some(*cell),
            Column::Few { dictionary, codes } => {
                codes.get(row).and_then(|code| dictionary.get(*code as usize)).copied()
            }
            Column::Near { base, offsets } => offsets.get(row).map(|offset| near_cell(*base, *offset)),
            Column::Any { cells, .. } => cells.get(row).copied(),
        }
        .unwrap_or(Cell::MISSING)
    }

    /// The whole number of a row, if that is what it has.
    pub(crate) fn whole(&self, row: usize) -> Option<u64> {
        match self {
            Column::Near { base, offsets } => {
                offsets.get(row).filter(|offset| **offset != Column::GAP).map(|offset| base + u64::from(*offset))
            }
            _ => self.get(row).as_whole(),
        }
    }

    /// The cells of the rows from `from` on, as many as `out` takes; missing behind the last.
    pub(crate) fn read(&self, from: usize, out: &mut [Cell]) {
        fn copy<T: Copy>(source: &[T], from: usize, out: &mut [Cell], cell: impl Fn(T) -> Cell) {
            let source = source.get(from..).unwrap_or_default();
            for (n, out) in out.iter_mut().enumerate() {
                *out = source.get(n).map_or(Cell::MISSING, |value| cell(*value));
            }
        }
        match self {
            Column::Same(cell) => out.fill(*cell),
            Column::Few { dictionary, codes } => {
                copy(codes, from, out, |code| dictionary.get(code as usize).copied().unwrap_or(Cell::MISSING));
            }
            Column::Near { base, offsets } => copy(offsets, from, out, |offset| near_cell(*base, offset)),
            Column::Any { cells, .. } => copy(cells, from, out, |cell| cell),
        }
    }

    /// Gives a row its cell, in a chunk that has room for `rows` by now. Nothing is copied if the row has it already.
    pub(crate) fn set(&mut self, row: usize, cell: Cell, rows: usize) {
        if self.get(row) == cell && row < self.rows().unwrap_or(usize::MAX) {
            return;
        }
        self.grow(rows.max(row + 1));
        match self {
            Column::Few { dictionary, codes } => {
                let code = place(dictionary, cell).or_else(|| {
                    // One more cell: the dictionary is copied, which happens at most 255 times per chunk.
                    let code = u8::try_from(dictionary.len()).ok()?;
                    *dictionary = dictionary.iter().copied().chain([cell]).collect();
                    Some(code)
                });
                if let Some(code) = code
                    && let Some(place) = Arc::make_mut(codes).get_mut(row)
                {
                    *place = code;
                    return;
                }
            }
            Column::Near { base, offsets } => {
                let offset = match cell {
                    Cell::MISSING => Some(Column::GAP),
                    _ => cell.as_whole().and_then(|whole| u32::try_from(whole.checked_sub(*base)?).ok()),
                };
                // The cell in hand has an offset other than the gap, unless it is missing.
                let offset = offset.filter(|offset| (*offset == Column::GAP) == (cell == Cell::MISSING));
                if let Some(offset) = offset
                    && let Some(place) = Arc::make_mut(offsets).get_mut(row)
                {
                    *place = offset;
                    return;
                }
            }
            Column::Any { cells, kinds } => {
                *kinds = kinds.and(cell.kind());
                if let Some(place) = Arc::make_mut(cells).get_mut(row) {
                    *place = cell;
                }
                return;
            }
            Column::Same(_) => {}
        }
        self.change(row, cell, rows);
    }

    /// Sets a row by the way of another form.
    #[cold]
    fn change(&mut self, row: usize, cell: Cell, rows: usize) {
        let mut cells = vec![Cell::MISSING; self.rows().unwrap_or(rows).max(row + 1)];
        self.read(0, &mut cells);
        if let Some(place) = cells.get_mut(row) {
            *place = cell;
        }
        let times = cells.iter().all(|cell| *cell == Cell::MISSING || cell.as_whole().is_some_and(|n| n >= TIMES));
        *self = match self {
            // A second cell: what it is tells whether many more will follow.
            Column::Same(_) if times => Column::near(&cells).unwrap_or_else(|| Column::any(&cells)),
            // A number that the window does not reach: another window, or none.
            Column::Near { .. } => Column::near(&cells).unwrap_or_else(|| Column::any(&cells)),
            _ => Column::of(&cells),
        };
    }

    /// Makes room for `rows`; the new ones wait to be set.
    pub(crate) fn grow(&mut self, rows: usize) {
        fn longer<T: Copy>(values: &mut Arc<[T]>, rows: usize, fill: T) {
            *values = values.iter().copied().chain(std::iter::repeat_n(fill, rows - values.len())).collect();
        }
        if self.rows().is_none_or(|now| now >= rows) {
            return;
        }
        match self {
            Column::Same(_) => {}
            Column::Few { codes, .. } => longer(codes, rows, 0),
            Column::Near { offsets, .. } => longer(offsets, rows, Column::GAP),
            Column::Any { cells, kinds } => {
                *kinds = kinds.and(Cell::MISSING.kind());
                longer(cells, rows, Cell::MISSING);
            }
        }
    }

    /// The rows that it has room for; None where that costs nothing.
    fn rows(&self) -> Option<usize> {
        match self {
            Column::Same(_) => None,
            Column::Few { codes, .. } => Some(codes.len()),
            Column::Near { offsets, .. } => Some(offsets.len()),
            Column::Any { cells, .. } => Some(cells.len()),
        }
    }

    /// The bytes that it has on the heap, as the allocator counts them.
    pub(crate) fn bytes(&self) -> usize {
        fn shared<T>(values: &Arc<[T]>) -> usize {
            // Beside the values, an Arc has its two counts.
            block(size_of_val::<[T]>(values) + 2 * size_of::<usize>())
        }
        match self {
            Column::Same(_) => 0,
            Column::Few { dictionary, codes } => shared(dictionary) + shared(codes),
            Column::Near { offsets, .. } => shared(offsets),
            Column::Any { cells, .. } => shared(cells),
        }
    }
}

/// The tags of a chunk: every tag of every row as the pair of its cell and the row, in no order. Who looks for a tag compares
/// all of them, four to an instruction; a memory without tags costs nothing, one with three 30 bytes.
///
/// Rejected: a Bloom word per row (in cells of lists, for arrays of META: enough for a tag that few have, but a tag of half of
/// the memories sends half of the records through the cache); sets of tags interned per space; a list of rows per tag, which is
/// faster to read and dearer to keep (most tags of a chunk are rare, and a vector for each costs more than the rows in it).
#[derive(Debug, Clone, Default)]
pub(crate) struct Tags {
    pairs: Option<Arc<Pairs>>,
}

#[derive(Debug, Clone, Default)]
struct Pairs {
    cells: Vec<Cell>,
    rows: Vec<u16>,
}

impl Tags {
    /// Gives a row its tags, none to begin with or to end with.
    pub(crate) fn set(&mut self, row: usize, tags: impl IntoIterator<Item = Cell>) {
        let Ok(row) = u16::try_from(row) else { return };
        let mut tags = tags.into_iter().peekable();
        let had_some = self.rows().contains(&row);
        if !had_some && tags.peek().is_none() {
            return;
        }
        let pairs = Arc::make_mut(self.pairs.get_or_insert_default());
        if had_some {
            let mut of = pairs.rows.iter();
            pairs.cells.retain(|_| of.next() != Some(&row));
            pairs.rows.retain(|of| *of != row);
        }
        pairs.cells.extend(tags);
        pairs.rows.resize(pairs.cells.len(), row);
        if pairs.cells.is_empty() {
            self.pairs = None;
        }
    }

    /// The cells of the tags; as many as [`Tags::rows`].
    pub(crate) fn cells(&self) -> &[Cell] {
        self.pairs.as_ref().map_or(&[], |pairs| &pairs.cells)
    }

    /// The rows that have them, one by one.
    pub(crate) fn rows(&self) -> &[u16] {
        self.pairs.as_ref().map_or(&[], |pairs| &pairs.rows)
    }

    /// The bytes that they have on the heap, as the allocator counts them.
    pub(crate) fn bytes(&self) -> usize {
        self.pairs.as_ref().map_or(0, |pairs| {
            block(size_of::<Pairs>() + 2 * size_of::<usize>())
                + block(pairs.cells.capacity() * size_of::<Cell>())
                + block(pairs.rows.capacity() * size_of::<u16>())
        })
    }
}

fn near_cell(base: u64, offset: u32) -> Cell {
    if offset == Column::GAP { Cell::MISSING } else { Cell::whole(base + u64::from(offset)) }
}

/// The base of a window around numbers from `low` to `high`, as far below the lowest as above the highest, so that what comes
/// next is likely within. None if they lie too far apart, or there is none.
fn base(low: u64, high: u64) -> Option<u64> {
    let slack = u64::from(Column::GAP - 1).checked_sub(high.checked_sub(low)?)?;
    Some(low.saturating_sub(slack / 2))
}

/// Where a cell stands in a dictionary. Eight at a time without a branch between them: three times as fast as one by one.
fn place(dictionary: &[Cell], cell: Cell) -> Option<u8> {
    let start =
        dictionary.chunks(8).position(|cells| cells.iter().fold(false, |any, other| any | (*other == cell)))? * 8;
    let within = dictionary.get(start..)?.iter().position(|other| *other == cell)?;
    u8::try_from(start + within).ok()
}

const _: () = assert!(FRESH_DICTIONARY < DICTIONARY && DICTIONARY == u8::MAX as usize + 1);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cells_are_what_they_were_made_of() {
        assert_eq!(Cell::number(-0.0), Cell::number(0.0));
        assert_eq!(Cell::number(f64::NAN), Cell::MISSING);
        assert_eq!(Cell::number(f64::NEG_INFINITY), Cell::MISSING);
        for number in [0.0, 1.5, -1.5, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324] {
            assert_eq!(Cell::number(number).as_number(), Some(number));
        }
        for cell in [Cell::MISSING, Cell::NULL, Cell::FALSE, Cell::TRUE, Cell::OTHER, Cell::text("x"), Cell::EMPTY_LIST]
        {
            assert_eq!((cell.as_number(), cell.as_whole()), (None, None));
        }
        for whole in [0, 1, 1 << 32, 1 << 53] {
            assert_eq!(Cell::whole(whole).as_whole(), Some(whole));
        }
        for number in [-1.0, 0.5, (1u64 << 53) as f64 * 2.0, f64::MAX] {
            assert_eq!(Cell::number(number).as_whole(), None);
        }
        assert_eq!(Cell::text(""), Cell::EMPTY_TEXT);
        assert_ne!(Cell::hashed("x", 0), Cell::EMPTY_TEXT);
        assert_eq!(Cell::text("tea"), Cell::text("tea"));
        assert!(Cell::text("tea").is_text() && !Cell::text("tea").is_list());
    }

    #[test]
    fn lists_keep_the_bits_of_their_items() {
        let items = [Cell::text("a"), Cell::number(2.0), Cell::TRUE, Cell::NULL, Cell::EMPTY_LIST];
        let list = Cell::list(items.into_iter());
        assert!(list.is_list() && list != Cell::EMPTY_LIST);
        assert!(items.iter().all(|item| list.bits() & item.bloom() == item.bloom()));
        assert_eq!(Cell::TRUE.bloom(), Cell::number(1.0).bloom());
        assert_eq!(Cell::FALSE.bloom(), Cell::number(-0.0).bloom());
        let hits = (0..10_000).filter(|n| {
            let bloom = Cell::text(&n.to_string()).bloom();
            Cell::list([Cell::text("a"), Cell::text("b"), Cell::text("c")].into_iter()).bits() & bloom == bloom
        });
        assert!(hits.count() < 200, "of three items, a fiftieth of all others at most");
    }

    #[test]
    fn forms_and_sizes() {
        let filled = |cell: &dyn Fn(usize) -> Cell| {
            let mut column = Column::Same(cell(0));
            (1..1024).for_each(|row| column.set(row, cell(row), 1024));
            (0..1024).for_each(|row| assert_eq!(column.get(row), cell(row)));
            column
        };
        let now = 1_700_000_000_000;
        let same = filled(&|_| Cell::text("long_term"));
        assert!(matches!(same, Column::Same(_)) && same.bytes() == 0);
        let few = filled(&|row| Cell::number((row % 101) as f64 / 100.0));
        assert!(matches!(few, Column::Few { .. }) && few.bytes() <= 2304);
        let times = filled(&|row| Cell::whole(now + row as u64 * 1000));
        assert!(matches!(times, Column::Near { .. }) && times.bytes() <= 5120);
        let some = filled(&|row| if row == 500 { Cell::whole(now) } else { Cell::MISSING });
        assert!(matches!(some, Column::Near { .. }));
        let texts = filled(&|row| Cell::text(&row.to_string()));
        assert!(matches!(texts, Column::Any { .. }) && texts.bytes() <= 10_240);
        let far = filled(&|row| Cell::whole(now + (row as u64) * (1 << 32)));
        assert!(matches!(far, Column::Any { .. }));
        // Times that run in either direction move the window.
        let back = filled(&|row| Cell::whole(now - row as u64 * 4_000_000));
        assert!(matches!(back, Column::Near { .. }));
        // A dictionary sheds what no row has any longer.
        let mut column = Column::default();
        (0..5000).for_each(|n| column.set(n % 100, Cell::whole(n as u64), 1024));
        assert!(matches!(column, Column::Few { .. }));
    }

    #[test]
    fn a_copy_stays_what_it_was() {
        for first in [Cell::MISSING, Cell::text("a"), Cell::whole(1 << 40), Cell::number(0.1)] {
            let mut column = Column::Same(first);
            column.set(1, Cell::whole(1 << 41), 16);
            let copy = column.clone();
            column.set(0, Cell::NULL, 16);
            assert_eq!((copy.get(0), column.get(0)), (first, Cell::NULL));
        }
    }

    #[test]
    fn tags_of_rows() {
        let cells = |texts: &[&str]| texts.iter().map(|text| Cell::text(text)).collect::<Vec<_>>();
        let of = |tags: &Tags, row: u16| {
            let pairs = tags.rows().iter().zip(tags.cells());
            pairs.filter(|(of, _)| **of == row).map(|(_, cell)| *cell).collect::<Vec<_>>()
        };
        let mut tags = Tags::default();
        tags.set(3, []);
        assert_eq!(tags.bytes(), 0);
        tags.set(0, cells(&["a", "b"]));
        tags.set(1023, cells(&["b"]));
        let copy = tags.clone();
        tags.set(0, cells(&["c"]));
        tags.set(7, cells(&["d", "e"]));
        assert_eq!((of(&tags, 0), of(&tags, 7), of(&tags, 1023)), (cells(&["c"]), cells(&["d", "e"]), cells(&["b"])));
        assert_eq!(of(&copy, 0), cells(&["a", "b"]));
        assert!(tags.bytes() > 0);
        [0, 7, 1023].into_iter().for_each(|row| tags.set(row, []));
        assert_eq!((tags.bytes(), tags.rows().len(), copy.rows().len()), (0, 0, 3));
    }

    fn any_cell() -> impl Strategy<Value = Cell> {
        prop_oneof![
            4 => (0..400u64).prop_map(Cell::whole),
            4 => (0..50_000_000u64).prop_map(|n| Cell::whole(1_700_000_000_000 + n * 100)),
            1 => (0..1u64 << 53).prop_map(Cell::whole),
            2 => (0..300u32).prop_map(|n| Cell::text(&n.to_string())),
            1 => any::<f64>().prop_map(Cell::number),
            2 => proptest::sample::select(&[Cell::MISSING, Cell::NULL, Cell::FALSE, Cell::TRUE, Cell::OTHER, Cell::UNREAD][..]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Against a plain array, under sets of few kinds or many, growth and copies.
        #[test]
        fn a_column_is_an_array(
            kinds in proptest::collection::vec(any_cell(), 1..400),
            sets in proptest::collection::vec((0..1024usize, any::<proptest::sample::Index>()), 1..1500),
        ) {
            let mut column = Column::default();
            let mut rows = 16;
            let mut plain = vec![Cell::MISSING; 1024];
            let mut set = [false; 1024];
            let mut copy = None;
            for (n, (row, cell)) in sets.iter().enumerate() {
                if n == sets.len() / 4 || n == sets.len() / 3 || n == sets.len() / 2 {
                    rows *= 4;
                    column.grow(rows);
                    copy = Some((column.clone(), plain.clone(), set));
                }
                let (row, cell) = (row % rows, *cell.get(&kinds));
                column.set(row, cell, rows);
                plain[row] = cell;
                set[row] = true;
            }
            let columns = copy.into_iter().chain([(Column::of(&plain), plain.clone(), [true; 1024]), (column, plain, set)]);
            for (column, plain, set) in columns {
                let mut read = vec![Cell::NULL; 1000];
                column.read(24, &mut read);
                for row in (0..1024).filter(|row| set[*row]) {
                    prop_assert_eq!(column.get(row), plain[row]);
                    prop_assert_eq!(column.whole(row), plain[row].as_whole());
                    prop_assert!(row < 24 || read[row - 24] == plain[row]);
                }
                if let Column::Any { kinds, cells } = &column {
                    prop_assert!(cells.iter().all(|cell| kinds.has(*cell)));
                }
            }
        }
    }
}
