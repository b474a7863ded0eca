//! A scan over columns, in all their forms, against the plain evaluator.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::plan::{Cells, relate};
use super::table::Part;
use super::{BUILT_IN, Comparison, Field, FieldSource, Filter, Value, Words};
use crate::columns::{Cell, Column};
use crate::entry::{Entry, Marks, Meta, Passage, Superseded};
use crate::heat::Heat;
use crate::{MemoryId, Tier};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value as Json, json};
use std::sync::Arc;

const TEXTS: [&str; 8] = ["", "tea", "te", "drama", "long_term", "semantic", "it's \"so\"", "größe"];
const NAMES: [&str; 6] = ["year", "genre", "mixed", "list", "all", "rare"];
const NOW: u64 = 1_700_000_000_000;

/// Two bits of hash: many texts collide.
fn coarse(text: &str) -> Cell {
    Cell::hashed(text, text.bytes().map(u64::from).sum::<u64>() & 3)
}

fn any_json() -> impl Strategy<Value = Json> {
    let scalar = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Json::from),
        (0..4i32).prop_map(Json::from),
        select(&[0.5, -1.0, -0.0, 1e300, 1984.0, 9_007_199_254_740_993.0, NOW as f64][..]).prop_map(Json::from),
        select(&TEXTS[..]).prop_map(Json::from),
    ];
    scalar.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Json::from),
            inner.prop_map(|value| json!({ "a": value })),
        ]
    })
}

fn any_text() -> impl Strategy<Value = Box<str>> {
    select(&TEXTS[1..]).prop_map(Box::from)
}

fn any_meta() -> impl Strategy<Value = Option<Meta>> {
    let year = proptest::option::of(prop_oneof![(1980..1990).prop_map(Json::from), any_json()]);
    let genre = proptest::option::of(select(&TEXTS[..]).prop_map(Json::from));
    let list = proptest::option::of(proptest::collection::vec(any_json(), 0..3).prop_map(Json::from));
    let rare = proptest::option::weighted(0.02, any_json());
    (year, genre, proptest::option::of(any_json()), list, rare).prop_map(|(year, genre, mixed, list, rare)| {
        let fields = [("year", year), ("genre", genre), ("mixed", mixed), ("list", list), ("rare", rare)];
        let meta: Meta = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        let all = ("all".to_owned(), json!(1));
        (!meta.is_empty()).then(|| meta.into_iter().chain([all]).collect())
    })
}

fn any_entry() -> impl Strategy<Value = Arc<Entry>> {
    let texts = (any_text(), any_text(), proptest::option::of(any_text()), proptest::option::of(any_text()));
    let times = (0..100_000u64, 0..10_000_000_000u64, proptest::option::of(0..5000u64), 0..3u32);
    let rest = (0..Tier::ALL.len(), 0..=4u8, any::<bool>(), proptest::collection::vec(any_text(), 0..4), any_meta());
    (texts, times, rest).prop_map(|((content, kind, session, source), (created, at, expires, uses), rest)| {
        let (tier, importance, pinned, tags, meta) = rest;
        Arc::new(Entry {
            id: MemoryId { ms: NOW, seq: created },
            tier: Tier::ALL[tier],
            content,
            kind,
            importance: f64::from(importance) / 4.0,
            confidence: 1.0,
            outcome: session.clone(),
            speaker: source.clone(),
            role: None,
            session,
            source,
            from: Vec::new(),
            at: at * 1000,
            created: NOW + created,
            entered: NOW,
            expires: expires.map(|expires| NOW + expires),
            own_expiry: false,
            pinned,
            tags,
            meta,
            supersedes: None,
            superseded: expires.filter(|n| n % 3 == 0).map(|n| Superseded { by: MemoryId { ms: 1, seq: 1 }, at: n }),
            passage: (uses % 2 == 0).then(|| {
                let doc = if uses % 4 == 0 { "a" } else { "b" };
                Box::new(Passage { doc: doc.into(), position: uses, total: 9, start: 0, end: 1 })
            }),
            tokens: 0,
            awaits: false,
            marks: Marks::default(),
            heat: [Heat::Hot, Heat::Warm, Heat::Cold][created as usize % 3],
            template: 0,
            windows: 0,
            accessed: NOW + created,
            uses,
        })
    })
}

/// What a filter has on either side of an operator.
fn any_operand() -> impl Strategy<Value = String> {
    let fields: Vec<String> = BUILT_IN.iter().map(|name| format!(".{}", name.name)).collect();
    let names = NAMES.iter().map(|name| format!(".{name}"));
    let literals =
        ["0", "1", "-1", "0.5", "1984", "true", "false", "null", "''", "[]", "1e300", "9007199254740992", ".nobody"];
    let texts = TEXTS.iter().map(|text| json!(text).to_string());
    let times = [NOW, NOW + 50_000, NOW + 1000, 5_000_000_000_000].map(|time| time.to_string());
    let lists = [
        "['tea', 1, null]",
        "['long_term', 'semantic']",
        "[0.5, 0.25, true, 1985, 1984, 1983, 1700000000000]",
        "['tea', 'te']",
        "['te', 'drama', 'x', 'y', 'z', 'semantic', '', 'tea']",
        "[false]",
        "[null]",
    ];
    let parts: Vec<String> = literals.into_iter().chain(lists).map(String::from).chain(texts).chain(times).collect();
    prop_oneof![3 => select(fields), 3 => select(names.collect::<Vec<_>>()), 4 => select(parts)]
}

fn any_filter() -> impl Strategy<Value = String> {
    let tagged = any_text().prop_map(|text| format!("({} in .tags)", Json::from(&*text)));
    prop_oneof![9 => any_operand(), 1 => tagged].prop_recursive(4, 30, 3, |inner| {
        let compare = select(&["==", "!=", "<", "<=", ">", ">=", "in", "=="][..]);
        let calculate = select(&["+", "-", "*", "/", "%", "**"][..]);
        let pair = || (inner.clone(), inner.clone());
        prop_oneof![
            6 => (any_operand(), compare.clone(), any_operand()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            2 => (inner.clone(), compare, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            1 => (inner.clone(), calculate, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            1 => inner.clone().prop_map(|a| format!("(-{a})")),
            2 => inner.clone().prop_map(|a| format!("(not {a})")),
            2 => pair().prop_map(|(a, b)| format!("({a} and {b})")),
            2 => pair().prop_map(|(a, b)| format!("({a} or {b})")),
            1 => (pair(), inner.clone()).prop_map(|((a, b), c)| format!("({a} and {b} and not {c})")),
        ]
    })
}

/// Other forms of the same column: what a sequence of sets makes of it, cells as they are, and cells that say less.
fn other_form(column: &Column, rows: usize, form: u8) -> Column {
    let mut cells = vec![Cell::MISSING; rows];
    column.read(0, &mut cells);
    match form {
        0 => return column.clone(),
        1 => {
            let mut set = Column::default();
            for (row, cell) in cells.iter().enumerate().rev() {
                set.set(row, *cell, rows);
            }
            return set;
        }
        2 => {}
        3 => cells.iter_mut().filter(|cell| cell.is_text() || cell.is_list()).for_each(|cell| *cell = Cell::OTHER),
        _ => cells.iter_mut().step_by(3).for_each(|cell| *cell = Cell::UNREAD),
    }
    Column::any(&cells)
}

fn passing(filter: &Filter, part: &Part, alive: Words, exact: bool) -> Vec<usize> {
    let mut alive = alive;
    filter.scan(part, &mut alive, exact);
    (0..1024).filter(|row| alive[row / 64] >> (row % 64) & 1 == 1).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_scan_is_the_evaluator_for_every_row(
        kinds in proptest::collection::vec(any_entry(), 1..40),
        picks in prop_oneof![
            4 => proptest::collection::vec(any::<Index>(), 1..150),
            1 => proptest::collection::vec(any::<Index>(), 1024),
        ],
        filters in proptest::collection::vec(any_filter(), 30),
        forms in proptest::collection::vec(0..6u8, 30),
        word in any::<u64>(),
    ) {
        let entries: Vec<_> = picks.iter().map(|pick| pick.get(&kinds).clone()).collect();
        for (n, text_cell) in [Cell::text, coarse].into_iter().enumerate() {
            let mut part = Part::new(&entries, text_cell);
            if (word % 3 + n as u64).is_multiple_of(3) {
                let cells: Vec<Cell> = entries.iter().map(|entry| entry.field(Field::Tags).cell_by(text_cell)).collect();
                part.columns.push((Field::Tags, Column::of(&cells)));
                part.tags = None;
            }
            let mut form = forms.iter().copied().cycle();
            part.columns.retain_mut(|(_, column)| {
                let form = form.next().unwrap();
                *column = other_form(column, entries.len(), form);
                form < 5
            });
            let names: Vec<Box<str>> = part.meta.keys().cloned().collect();
            for name in names {
                let form = form.next().unwrap();
                let column = part.meta.get_mut(&name).unwrap();
                *column = other_form(column, entries.len(), form);
                if form == 5 {
                    part.meta.remove(&name);
                    part.hidden.push(name);
                }
            }
            for text in &filters {
                let filter = Filter::parse_with(text, text_cell).unwrap();
                let alive: Words = std::array::from_fn(|w| if w % 3 == 2 { word } else { u64::MAX });
                let expected: Vec<usize> = (0..entries.len())
                    .filter(|row| alive[row / 64] >> (row % 64) & 1 == 1 && filter.matches(&entries[*row]))
                    .collect();
                prop_assert_eq!(&passing(&filter, &part, alive, true), &expected, "{}", text);
                if filter.is_exact() || text_cell("x") == Cell::text("x") {
                    prop_assert_eq!(&passing(&filter, &part, alive, false), &expected, "{}, not exact", text);
                }
            }
        }
    }

    /// What cells decide about two values, the values bear out.
    #[test]
    fn cells_relate_as_their_values(a in any_json(), b in any_json()) {
        let cells = (Value::json(&a).cell(), Value::json(&b).cell());
        let meta = json!({ "a": a, "b": b }).as_object().cloned().unwrap();
        for (comparison, sign) in [
            (Comparison::Equal, "=="), (Comparison::NotEqual, "!="), (Comparison::Less, "<"), (Comparison::LessOrEqual, "<="),
            (Comparison::Greater, ">"), (Comparison::GreaterOrEqual, ">="), (Comparison::In, "in"),
        ] {
            let truth = Filter::parse(&format!(".a {sign} .b")).unwrap().accepts(&OnlyMeta(&meta));
            let told = relate(comparison, cells.0, cells.1, true);
            prop_assert!(told == super::plan::Truth::Open || told == truth.into(),
                "{a} {sign} {b}: {told:?}");
        }
    }
}

struct OnlyMeta<'a>(&'a Meta);

impl FieldSource for OnlyMeta<'_> {
    fn field(&self, _: Field) -> Value<'_> {
        Value::Missing
    }

    fn meta(&self, name: &str) -> Value<'_> {
        self.0.get(name).map_or(Value::Missing, Value::json)
    }
}

/// Records are read only where columns leave a row open.
#[test]
fn what_needs_no_record() {
    struct Blind(Part);

    impl super::Chunk for Blind {
        fn rows(&self) -> usize {
            self.0.rows()
        }

        fn column(&self, field: Field) -> Option<std::borrow::Cow<'_, Column>> {
            self.0.column(field)
        }

        fn tags(&self) -> Option<&crate::columns::Tags> {
            self.0.tags()
        }

        fn meta(&self, name: &str) -> super::MetaColumn<'_> {
            super::Chunk::meta(&self.0, name)
        }

        fn record(&self, row: usize) -> Option<impl FieldSource + '_> {
            assert!(self.0.rows() == usize::MAX, "row {row} was read");
            None::<OnlyMeta>
        }
    }

    let mut runner = TestRunner::deterministic();
    let entries: Vec<_> = (0..200).map(|_| any_entry().new_tree(&mut runner).unwrap().current()).collect();
    let part = Blind(Part::new(&entries, Cell::text));
    for text in [
        ".tier == 'long_term' and .importance >= 0.5",
        ".tier in ['long_term', 'semantic'] or .tier != 'working'",
        ".created > 1700000050000 and .expires <= 1700000002000 and not .pinned",
        ".year % 2 == 0 and .created - .accessed == 0",
        ".importance > 2 and 'x' in .content",
        ".session and .importance",
        ".content > 5 or .id + 1 == 2",
        ".year == 1984 or .year in [1, 2, 3, 4, 5, 6, true, null]",
    ] {
        let filter = Filter::parse(text).unwrap();
        assert!(filter.is_exact(), "{text}");
        let mut alive = [u64::MAX; 16];
        filter.scan(&part, &mut alive, true);
    }
    let filter =
        Filter::parse(".session == 'tea' or .genre != 'tea' or 'te' in .tags or .source in ['tea', 'drama']").unwrap();
    assert!(!filter.is_exact());
    filter.scan(&part, &mut [u64::MAX; 16], false);
}

#[test]
fn many_cells() {
    let mut cells = Cells::default();
    assert!(!cells.contains(Cell::whole(0)));
    for n in 0..2000 {
        cells.push(Cell::whole(n * 3));
        cells.push(Cell::whole(n * 3));
        assert!(
            cells.contains(Cell::whole(0))
                && cells.contains(Cell::whole(n * 3))
                && !cells.contains(Cell::whole(n * 3 + 1))
        );
    }
    assert_eq!(cells.len(), 2000);
    assert!((0..2000).all(|n| cells.contains(Cell::whole(n * 3)) && !cells.contains(Cell::whole(n * 3 + 2))));
}
