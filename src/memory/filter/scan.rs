//! A filter over columns: which of a chunk's 1,024 slots pass, as 16 words of bits.
//!
//! The plan is run column by column. A test of one column against a constant takes the column in the form it has: one answer
//! for all rows, one per dictionary entry and then bytes against codes, offsets against a window, cells against cells; loops
//! without branches, which the compiler turns into vector instructions, 64 rows to a word. Expressions over several fields are
//! worked out 64 cells at a time. The result is two sets: rows that pass, and rows that are still open; an `and` hands only
//! what is left to its next part. Open rows, and only those, are read as records and given to the plain evaluator, whole: a
//! record costs a cache miss, the few predicates decided twice cost nothing beside it.
//!
//! Texts are compared by 48 bits of hash. With `exact`, rows whose hash is equal are open, so that the record decides, for
//! `==` and `!=` and under any `not`: nothing rests on a hash. Without, equal hashes are equal texts, and a collision (one in
//! 10^14, unless somebody worked for it) lets a row pass or not that should not or should. A recall then asks the plain
//! evaluator about its few hits (unless [`super::Filter::is_exact`]), so that a hit is never wrong; what is left is that a
//! memory with a text made to collide with another one may be missed by `!=`.
//!
//! Rejected: bytecode over rows (a dispatch per row and operator costs more than the comparison); masks instead of sets of
//! rows left (skipping a word of 64 saves what matters, and at one per cent most words are empty); asking the record per
//! predicate instead of for the whole filter (the same cache miss, several times).

use super::eval::{self, FieldSource};
use super::plan::{Cells, Expression, FEW, Plan, Predicate, Test, Truth, number, relate};
use super::{Field, Node};
use crate::columns::{Cell, Column, Kinds, LIST, TEXT, Tags};
use std::borrow::Cow;

/// The slots of a chunk.
pub(crate) const ROWS: usize = 1024;
const WORDS: usize = ROWS / 64;

/// A set of rows of a chunk.
pub(crate) type Words = [u64; WORDS];

/// What a chunk has of a field of META.
pub(crate) enum MetaColumn<'a> {
    /// Its column.
    Column(&'a Column),
    /// No memory of this chunk has the field.
    Absent,
    /// The records know.
    Unknown,
}

/// A chunk of memories, as a scan reads it.
pub(crate) trait Chunk {
    /// How many rows it has, at most [`ROWS`].
    fn rows(&self) -> usize;
    /// The column of a built-in field, which may be made for the scan. None where only the records know. Asked about every
    /// field but the id and the content, and for one scan several times if the filter names the field more than once.
    fn column(&self, field: Field) -> Option<Cow<'_, Column>>;
    /// The tags. None where only the records, or the lists in the column of the tags, know.
    fn tags(&self) -> Option<&Tags>;
    /// The column of a field of META.
    fn meta(&self, name: &str) -> MetaColumn<'_>;
    /// The memory of a row; without one, the row does not pass where the columns leave it open.
    fn record(&self, row: usize) -> Option<impl FieldSource + '_>;
}

/// Rows that pass and rows that are open; no row is both.
#[derive(Clone, Copy)]
struct Found {
    yes: Words,
    open: Words,
}

const NO_ROWS: Words = [0; WORDS];

impl Found {
    const NOTHING: Found = Found { yes: NO_ROWS, open: NO_ROWS };
}

fn add(rows: &mut Words, more: &Words) {
    rows.iter_mut().zip(more).for_each(|(word, more)| *word |= more);
}

fn keep(rows: &mut Words, only: &Words) {
    rows.iter_mut().zip(only).for_each(|(word, only)| *word &= only);
}

fn take_away(rows: &mut Words, less: &Words) {
    rows.iter_mut().zip(less).for_each(|(word, less)| *word &= !less);
}

/// The rows before `end`.
fn first(end: usize) -> Words {
    std::array::from_fn(|w| match end.saturating_sub(w * 64) {
        0 => 0,
        rows @ 1..64 => (1 << rows) - 1,
        _ => u64::MAX,
    })
}

/// Leaves of `alive` the rows that pass.
pub(super) fn scan(plan: &Plan, root: &Node, chunk: &impl Chunk, alive: &mut Words, exact: bool) {
    keep(alive, &first(chunk.rows()));
    let found = Scan { chunk, exact }.predicate(&plan.root, alive);
    *alive = found.yes;
    for (w, (word, mut open)) in alive.iter_mut().zip(found.open).enumerate() {
        while open != 0 {
            let bit = open.trailing_zeros();
            open &= open - 1;
            let passes = chunk.record(w * 64 + bit as usize).is_some_and(|record| eval::matches(root, &record));
            *word |= u64::from(passes) << bit;
        }
    }
}

struct Scan<'a, C> {
    chunk: &'a C,
    exact: bool,
}

impl<C: Chunk> Scan<'_, C> {
    /// Decides the rows given, and no others.
    fn predicate(&self, predicate: &Predicate, rows: &Words) -> Found {
        match predicate {
            Predicate::Always(yes) => Found { yes: if *yes { *rows } else { NO_ROWS }, open: NO_ROWS },
            Predicate::Not(predicate) => {
                let mut found = self.predicate(predicate, rows);
                let mut no = *rows;
                take_away(&mut no, &found.yes);
                take_away(&mut no, &found.open);
                found.yes = no;
                found
            }
            Predicate::All(predicates) => {
                // Those that no part has refused yet, and those among them that every part let pass.
                let (mut left, mut yes) = (*rows, *rows);
                for predicate in predicates {
                    if left == NO_ROWS {
                        break;
                    }
                    let next = self.predicate(predicate, &left);
                    keep(&mut yes, &next.yes);
                    left = next.yes;
                    add(&mut left, &next.open);
                }
                keep(&mut yes, &left);
                take_away(&mut left, &yes);
                Found { yes, open: left }
            }
            Predicate::Any(predicates) => {
                let mut found = Found::NOTHING;
                let mut left = *rows;
                for predicate in predicates {
                    if left == NO_ROWS {
                        break;
                    }
                    let next = self.predicate(predicate, &left);
                    add(&mut found.yes, &next.yes);
                    add(&mut found.open, &next.open);
                    take_away(&mut left, &next.yes);
                }
                take_away(&mut found.open, &found.yes);
                found
            }
            Predicate::Test(expression, test) => match self.column(expression) {
                Some(column) => test_column(test, &column, self.exact, rows),
                None => self.by_blocks(rows, |from, truths| {
                    let mut cells = [Cell::MISSING; 64];
                    self.read(expression, from, &mut cells);
                    truths.iter_mut().zip(cells).for_each(|(truth, cell)| *truth = test.on(cell, self.exact));
                }),
            },
            Predicate::Tagged(tag, test) => match self.chunk.tags() {
                Some(tags) => {
                    let mut found = Found::NOTHING;
                    find_tag(tags, *tag, rows, if self.exact { &mut found.open } else { &mut found.yes });
                    found
                }
                None => match self.chunk.column(Field::Tags) {
                    Some(column) => test_column(test, &column, self.exact, rows),
                    None => Found { yes: NO_ROWS, open: *rows },
                },
            },
            Predicate::Relate(comparison, a, b) => self.by_blocks(rows, |from, truths| {
                let (mut left, mut right) = ([Cell::MISSING; 64], [Cell::MISSING; 64]);
                self.read(a, from, &mut left);
                self.read(b, from, &mut right);
                for (truth, (a, b)) in truths.iter_mut().zip(left.into_iter().zip(right)) {
                    *truth = relate(*comparison, a, b, self.exact);
                }
            }),
        }
    }

    /// Decides 64 rows at a time, leaving out those without one that matters.
    fn by_blocks(&self, rows: &Words, mut decide: impl FnMut(usize, &mut [Truth; 64])) -> Found {
        let mut found = Found::NOTHING;
        let mut truths = [Truth::No; 64];
        for (w, ((rows, yes), open)) in rows.iter().zip(&mut found.yes).zip(&mut found.open).enumerate() {
            if *rows == 0 {
                continue;
            }
            decide(w * 64, &mut truths);
            for (n, truth) in truths.iter().enumerate() {
                *yes |= u64::from(*truth == Truth::Yes) << n;
                *open |= u64::from(*truth == Truth::Open) << n;
            }
            (*yes, *open) = (*yes & rows, *open & rows);
        }
        found
    }

    /// The column of an expression that is one.
    fn column(&self, expression: &Expression) -> Option<Cow<'_, Column>> {
        Some(match expression {
            Expression::Constant(cell) => Cow::Owned(Column::Same(*cell)),
            Expression::Field(field) => self.chunk.column(*field).unwrap_or(Cow::Owned(Column::Same(Cell::UNREAD))),
            Expression::Meta(name) => match self.chunk.meta(name) {
                MetaColumn::Column(column) => Cow::Borrowed(column),
                MetaColumn::Absent => Cow::Owned(Column::default()),
                MetaColumn::Unknown => Cow::Owned(Column::Same(Cell::UNREAD)),
            },
            Expression::Negate(_) | Expression::Calculate(..) | Expression::Predicate(_) => return None,
        })
    }

    /// The cells of 64 rows.
    fn read(&self, expression: &Expression, from: usize, out: &mut [Cell; 64]) {
        match expression {
            Expression::Constant(_) | Expression::Field(_) | Expression::Meta(_) => {
                if let Some(column) = self.column(expression) {
                    column.read(from, out);
                }
            }
            Expression::Negate(a) => {
                self.read(a, from, out);
                out.iter_mut().for_each(|a| *a = calculate(*a, Cell::TRUE, |a, _| -a));
            }
            Expression::Calculate(op, a, b) => {
                let mut other = [Cell::MISSING; 64];
                self.read(a, from, out);
                self.read(b, from, &mut other);
                out.iter_mut().zip(other).for_each(|(a, b)| *a = calculate(*a, b, |a, b| op.of(a, b)));
            }
            Expression::Predicate(predicate) => {
                let mut rows = NO_ROWS;
                rows.iter_mut().skip(from / 64).take(1).for_each(|word| *word = u64::MAX);
                let found = self.predicate(predicate, &rows);
                let bit = |words: &Words, n: usize| words.get(from / 64).is_some_and(|word| word >> n & 1 == 1);
                for (n, out) in out.iter_mut().enumerate() {
                    *out = if bit(&found.open, n) { Cell::UNREAD } else { Cell::bool(bit(&found.yes, n)) };
                }
            }
        }
    }
}

fn calculate(a: Cell, b: Cell, result: impl Fn(f64, f64) -> f64) -> Cell {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => Cell::number(result(a, b)),
        _ if a == Cell::UNREAD || b == Cell::UNREAD => Cell::UNREAD,
        _ => Cell::MISSING,
    }
}

/// Adds to `found` those of the rows that have a tag.
fn find_tag(tags: &Tags, tag: Cell, rows: &Words, found: &mut Words) {
    for (cells, of) in tags.cells().chunks(64).zip(tags.rows().chunks(64)) {
        let mut hits = match <&[Cell; 64]>::try_from(cells) {
            Ok(cells) => word(cells, |cell| cell == tag),
            Err(_) => cells.iter().enumerate().fold(0, |word, (n, cell)| word | u64::from(*cell == tag) << n),
        };
        while hits != 0 {
            let row = of.get(hits.trailing_zeros() as usize).map_or(0, |row| usize::from(*row));
            hits &= hits - 1;
            if let Some(word) = found.get_mut(row / 64) {
                *word |= 1 << (row % 64);
            }
        }
    }
    keep(found, rows);
}

/// Which of the rows are in the set of a test.
fn test_column(test: &Test, column: &Column, exact: bool, rows: &Words) -> Found {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function was compiled for.
        return unsafe { test_column_avx2(test, column, exact, rows) };
    }
    test_any_column(test, column, exact, rows)
}

/// The same loops in wider instructions: half the time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn test_column_avx2(test: &Test, column: &Column, exact: bool, rows: &Words) -> Found {
    test_any_column(test, column, exact, rows)
}

#[inline(always)]
fn test_any_column(test: &Test, column: &Column, exact: bool, rows: &Words) -> Found {
    match column {
        Column::Same(cell) => match test.on(*cell, exact) {
            Truth::Yes => Found { yes: *rows, open: NO_ROWS },
            Truth::Open => Found { yes: NO_ROWS, open: *rows },
            Truth::No => Found::NOTHING,
        },
        Column::Few { dictionary, codes } => test_codes(test, dictionary, codes, exact, rows),
        Column::Near { base, offsets } => Found { yes: test_offsets(test, *base, offsets, rows), open: NO_ROWS },
        Column::Any { cells, kinds } => test_cells(test, cells, *kinds, exact, rows),
    }
}

/// The dictionary is tested as cells are, and then the codes that pass are looked for.
#[inline(always)]
fn test_codes(test: &Test, dictionary: &[Cell], codes: &[u8], exact: bool, rows: &Words) -> Found {
    // Whole words of 64, so that no entry is tested by itself; what fills them up has no code.
    let mut entries = [Cell::MISSING; 256];
    entries.iter_mut().zip(dictionary).for_each(|(entry, cell)| *entry = *cell);
    let entries = entries.get(..dictionary.len().next_multiple_of(64)).unwrap_or(&entries);
    let passing = test_cells(test, entries, Kinds::ALL, exact, &first(dictionary.len()));
    let rows_with = |wanted: &Words| {
        let mut found = NO_ROWS;
        let count: u32 = wanted.iter().map(|word| word.count_ones()).sum();
        if count as usize == dictionary.len() {
            return *rows;
        }
        if count as usize <= FEW {
            for (w, mut left) in wanted.iter().copied().enumerate() {
                while left != 0 {
                    let wanted = (w * 64) as u8 + left.trailing_zeros() as u8;
                    left &= left - 1;
                    collect(codes, rows, &mut found, |code| code == wanted);
                }
            }
            return found;
        }
        let mut table = [false; 256];
        for (sixty_four, word) in table.chunks_exact_mut(64).zip(wanted) {
            sixty_four.iter_mut().enumerate().for_each(|(n, place)| *place = word >> n & 1 == 1);
        }
        collect(codes, rows, &mut found, |code| table[code as usize]);
        found
    };
    Found { yes: rows_with(&passing.yes), open: rows_with(&passing.open) }
}

/// All cells are whole numbers or missing, so nothing is open.
#[inline(always)]
fn test_offsets(test: &Test, base: u64, offsets: &[u32], rows: &Words) -> Words {
    let mut found = NO_ROWS;
    // The window of offsets in the range: 2^53 and more does not occur, and every whole number below is a number exactly.
    let low = (test.low.max(0.0).ceil() as u64).saturating_sub(base);
    let high = (test.high >= 0.0).then(|| (test.high.floor() as u64).checked_sub(base)).flatten();
    if test.low <= test.high
        && let (Ok(low), Some(high)) = (u32::try_from(low), high)
        && let high = high.min(u64::from(Column::GAP - 1)) as u32
        && let Some(width) = high.checked_sub(low)
    {
        collect(offsets, rows, &mut found, |offset| offset.wrapping_sub(low) <= width);
    }
    if test.cells.len() > FEW {
        collect(offsets, rows, &mut found, |offset| {
            offset != Column::GAP && test.cells.contains(Cell::whole(base + u64::from(offset)))
        });
    } else {
        for whole in test.cells.iter().filter_map(Cell::as_whole) {
            if let Some(Ok(wanted)) = whole.checked_sub(base).map(u32::try_from)
                && wanted != Column::GAP
            {
                collect(offsets, rows, &mut found, |offset| offset == wanted);
            }
        }
    }
    if test.negated {
        let mut rest = NO_ROWS;
        collect(offsets, rows, &mut rest, |offset| offset != Column::GAP);
        take_away(&mut rest, &found);
        return rest;
    }
    found
}

/// One pass for each part of the test that the column's kinds can fulfil.
#[inline(always)]
fn test_cells(test: &Test, cells: &[Cell], kinds: Kinds, exact: bool, rows: &Words) -> Found {
    let find = |wanted: &Cells, found: &mut Words| {
        if wanted.len() > FEW {
            return collect(cells, rows, found, |cell| wanted.contains(cell));
        }
        for wanted in wanted.iter().filter(|wanted| kinds.has(*wanted)) {
            collect(cells, rows, found, |cell| cell == wanted);
        }
    };
    let Found { mut yes, mut open } = Found::NOTHING;
    if test.low <= test.high && kinds.meet(Kinds::NUMBER) {
        let (low, high) = (test.low, test.high);
        // What is no number is a NaN, which is in no range.
        collect(cells, rows, &mut yes, |cell| {
            let number = f64::from_bits(cell.bits());
            (low <= number) & (number <= high)
        });
    }
    find(&test.cells, &mut yes);
    find(&test.hashed, if exact { &mut open } else { &mut yes });
    if test.texts && kinds.meet(Kinds::TEXT) {
        collect(cells, rows, &mut open, |cell| cell.bits() & TEXT == TEXT);
    }
    if let Some(bits) = test.lists
        && kinds.meet(Kinds::LIST)
    {
        collect(cells, rows, &mut open, |cell| cell.bits() & (TEXT | bits) == LIST | bits);
    }
    if test.other && kinds.has(Cell::OTHER) {
        collect(cells, rows, &mut open, |cell| cell == Cell::OTHER);
    }
    if kinds.has(Cell::UNREAD) {
        collect(cells, rows, &mut open, |cell| cell == Cell::UNREAD);
    }
    take_away(&mut open, &yes);
    if test.negated {
        let mut rest = NO_ROWS;
        collect(cells, rows, &mut rest, |cell| cell != Cell::MISSING);
        take_away(&mut rest, &yes);
        take_away(&mut rest, &open);
        yes = rest;
    }
    Found { yes, open }
}

/// Adds to `found` those of the rows whose value fits.
#[inline(always)]
fn collect<T: Copy>(values: &[T], rows: &Words, found: &mut Words, fits: impl Fn(T) -> bool) {
    for ((values, rows), found) in values.chunks(64).zip(rows).zip(found) {
        if *rows == 0 {
            continue;
        }
        let word = match <&[T; 64]>::try_from(values) {
            Ok(values) => word(values, &fits),
            // The end of a chunk.
            Err(_) => values.chunks(16).enumerate().fold(0, |bits, (n, values)| {
                bits | match <&[T; 16]>::try_from(values) {
                    Ok(values) => word(values, &fits),
                    Err(_) => values.iter().enumerate().fold(0, |bits, (n, value)| bits | u64::from(fits(*value)) << n),
                } << (n * 16)
            }),
        };
        *found |= word & rows;
    }
}

/// A bit for each of up to 64 values, eight or a multiple.
#[inline(always)]
fn word<T: Copy, const N: usize>(values: &[T; N], fits: impl Fn(T) -> bool) -> u64 {
    let mut bytes = [0u8; N];
    bytes.iter_mut().zip(values).for_each(|(byte, value)| *byte = u8::from(fits(*value)));
    // Eight bytes of 0 or 1 become eight bits: the product has byte n at bit 56 + n, and nothing carries into it.
    bytes.chunks_exact(8).enumerate().fold(0, |word, (n, eight)| {
        let eight = eight.iter().rev().fold(0u64, |eight, byte| eight << 8 | u64::from(*byte));
        word | (eight.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (n * 8)
    })
}
