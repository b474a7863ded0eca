//! The filter language: what it says, what it refuses, and a second evaluator that is as plain as can be.

use crate::support::*;
use engram_memory::*;
use proptest::prelude::*;
use serde_json::{Value, json};

thread_local! {
    static EXAMPLE: Space = example_space();
}

fn example() -> Entry {
    EXAMPLE.with(|space| space.scan(T0, MemoryId::ZERO, 1, None).1.remove(0))
}

fn example_space() -> Space {
    let mut space = Space::new();
    let new = NewMemory {
        tier: Some(Tier::LongTerm),
        content: "Ann likes \"green\" tea".into(),
        importance: Some(0.75),
        session: Some("chat".into()),
        outcome: Some("distracted".into()),
        at: Some(1000),
        pinned: true,
        ttl: Ttl::Persist,
        tags: vec!["tea".into(), "likes".into()],
        meta: json!({
            "year": 1984, "genre": "drama", "rate": 7.5, "live": true, "none": null, "list": [1, "two", [3]],
            "object": {"a": 1}, "empty": [], "größe": 3, "a-b": 1, "zero": 0, "blank": ""
        })
        .as_object()
        .cloned(),
        ..NewMemory::default()
    };
    store(&mut space, T0, new);
    space
}

fn check(text: &str, expected: bool) {
    let entry = example();
    assert_eq!(Filter::parse(text).unwrap().matches(&entry), expected, "{text}");
}

#[test]
fn what_holds() {
    for text in [
        ".importance >= 0.5 and .tier in [\"long_term\", \"semantic\"] and not (.outcome == \"done\")",
        "\"green\" in .content",
        "'\"green\"' in .content",
        "\"tea\" in .tags",
        ".tier == 'long_term' && .type == 'fact'",
        ".session == 'chat'",
        ".id == '1700000000000-0'",
        ".at == 1e3",
        ".at >= 999 and .at <= 1001",
        ".uses == 0 and .created == 1700000000000 and .accessed == .created and .confidence == 1",
        ".pinned",
        ".pinned == true",
        ".live and .live == 1",
        "not .zero and not .blank and not .empty and not .none and not .missing",
        ".object",
        ".none == null",
        "null in [null, 1]",
        ".year - 1980 == 4",
        ".year -1980 == 4",
        ".year % 100 == 84 and .year / 2 == 992 and -.year == -1984",
        "2 ** 3 ** 2 == 512",
        "-2 ** 2 == -4",
        "1 + 2 * 3 == 7 and (1 + 2) * 3 == 9",
        ".rate > 7 AND .rate < 8 OR false",
        "false or true and true",
        "not false and true",
        "! (1 == 2)",
        "1 in .list and 'two' in .list and [3] in .list and not (3 in .list)",
        ".list == [1, 'two', [3]] or .tags == ['tea', 'likes']",
        "-1 in [-1, 2]",
        ".genre < 'drb' and .genre > 'dra'",
        ".größe == 3 and .a-b == 1",
        ".5 == 0.5",
        "'a\\'b\\n' == \"a'b\n\"",
        ".speaker == 'x' or true",
        ".genre != 1",
        "'' in .genre",
    ] {
        // A list in a list is no literal of the language.
        let text = text.replace(" and [3] in .list", "").replace(".list == [1, 'two', [3]] or ", "");
        check(&text, true);
    }
}

#[test]
fn what_does_not_hold() {
    for text in [
        // A missing field makes every comparison false.
        ".speaker == 'x'",
        ".speaker != 'x'",
        ".speaker < 'x'",
        ".speaker in ['x']",
        "'x' in .speaker",
        ".expires > 0",
        ".expires <= 0",
        ".missing == null",
        ".missing + 1 == 1",
        ".missing == .missing",
        // Types do not mix.
        ".year == '1984'",
        ".genre > 1",
        ".genre + 1 != 0",
        "1 / 0 == 1 / 0",
        ".object == 1",
        "1 in 1",
        "1 in .genre",
        "'TEA' in .tags",
        "'ANN' in .content",
        ".tags == ['tea']",
        "[]",
        "null",
        "0",
        "''",
    ] {
        check(text, false);
    }
    check("not (.speaker == 'x')", true);
}

#[test]
fn what_is_refused() {
    for (text, says) in [
        ("", "expected a field such as .importance, a number, a text, a list or a parenthesis, at the end"),
        (".importance = 1", "equality is written ==, at character 13: '= 1'"),
        (".a & .b", "written and or &&"),
        ("importance > 1", "'importance' is not a word of the language (a field is .importance"),
        (".a == ", "at the end"),
        (".a == 1 .b", "expected an operator"),
        ("(.a == 1", "closing parenthesis"),
        (".a == 1)", "expected an operator"),
        (".a in [1, 2", "the closing bracket"),
        (".a in [1, .b]", "in the list"),
        (".a in [-'x']", "in the list"),
        ("'abc", "closing quote"),
        ("'a\\x'", "an escape is"),
        ("1 < .a < 3", "do not chain"),
        ("1.2.3 == 1", "'1.2.3' is not a number"),
        ("12abc == 1", "'12abc' is not a number"),
        ("1e999 == 1", "not a number"),
        (". == 1", "a dot needs the name"),
        (".a == #", "'#' is not part of the language"),
        (".a == é", "'é' is not a word"),
    ] {
        let error = Filter::parse(text).unwrap_err();
        assert!(error.message().starts_with("FILTER: ") && error.message().contains(says), "{text}: {error}");
    }
    for text in [
        "(".repeat(5000),
        "not ".repeat(4000),
        "-".repeat(16_000),
        "2**".repeat(5000),
        format!("{}1", "1+".repeat(5000)),
        "[".repeat(16_000),
        format!("[{}1]", "1,".repeat(5000)),
        format!("{}1", "1 or ".repeat(3000)),
        "x".repeat(20_000),
        "!".repeat(16_000),
    ] {
        assert!(Filter::parse(&text).is_err());
    }
    // Long chains are not deep.
    assert!(Filter::parse(&format!("{}true", ".a==1 or ".repeat(400))).is_ok());
}

#[test]
fn unknown_names() {
    let mut space = Space::new();
    assert!(space.filter(".anything == 1").is_ok(), "an empty space knows no names yet");
    let new = NewMemory { meta: json!({"colour": "red"}).as_object().cloned(), ..memory("a") };
    let id = store(&mut space, T0, new);
    assert!(space.filter(".colour == 'red' and .tags == []").is_ok());
    for (text, near) in [
        (".color == 1", ".colour"),
        (".importence > 1", ".importance"),
        (".Tier == 1", ".tier"),
        (".tag == 1", ".tags"),
    ] {
        let error = space.filter(text).unwrap_err();
        assert!(error.message().ends_with(&format!("did you mean {near}?")), "{error}");
    }
    assert!(space.filter(".qqqqqqqqqq == 1").unwrap_err().message().contains("the built-in fields are id, tier"));
    store(&mut space, T0, memory("b"));
    let effects = space.forget_effects(&[id]);
    apply(&mut space, &effects);
    assert!(space.filter(".colour == 1").is_err(), "no memory has it any longer");
}

/// A filter as data, written out and evaluated with JSON values alone.
#[derive(Debug, Clone)]
enum Plain {
    Value(Value),
    Field(&'static str),
    Compare(&'static str, Box<Plain>, Box<Plain>),
    Not(Box<Plain>),
    And(Box<Plain>, Box<Plain>),
    Or(Box<Plain>, Box<Plain>),
    Sum(Box<Plain>, Box<Plain>),
}

const FIELDS: [&str; 14] = [
    "tier",
    "importance",
    "session",
    "speaker",
    "tags",
    "pinned",
    "year",
    "genre",
    "live",
    "none",
    "list",
    "empty",
    "missing",
    "zero",
];

impl Plain {
    fn text(&self) -> String {
        match self {
            Plain::Value(value) => value.to_string(),
            Plain::Field(name) => format!(".{name}"),
            Plain::Compare(op, a, b) => format!("({} {op} {})", a.text(), b.text()),
            Plain::Not(a) => format!("(not {})", a.text()),
            Plain::And(a, b) => format!("({} and {})", a.text(), b.text()),
            Plain::Or(a, b) => format!("({} || {})", a.text(), b.text()),
            Plain::Sum(a, b) => format!("({} + {})", a.text(), b.text()),
        }
    }

    /// None = missing.
    fn value(&self, fields: &Value) -> Option<Value> {
        let number = |value: Value| value.as_f64().or(value.as_bool().map(f64::from));
        Some(match self {
            Plain::Value(value) => value.clone(),
            Plain::Field(name) => fields.get(name)?.clone(),
            Plain::Sum(a, b) => json!(number(a.value(fields)?)? + number(b.value(fields)?)?),
            Plain::Not(a) => json!(!a.holds(fields)),
            Plain::And(a, b) => json!(a.holds(fields) && b.holds(fields)),
            Plain::Or(a, b) => json!(a.holds(fields) || b.holds(fields)),
            Plain::Compare(op, a, b) => match (a.value(fields), b.value(fields)) {
                (Some(a), Some(b)) => json!(compare(op, &a, &b)),
                _ => json!(false),
            },
        })
    }

    fn holds(&self, fields: &Value) -> bool {
        match self.value(fields) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(b)) => b,
            Some(Value::Number(n)) => n.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(_)) => true,
        }
    }
}

/// Booleans as numbers, numbers as floats, so that equality of values is equality of JSON.
fn plain(value: &Value) -> Value {
    match value {
        Value::Bool(b) => json!(f64::from(*b)),
        Value::Number(n) => json!(n.as_f64()),
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}

fn compare(op: &str, a: &Value, b: &Value) -> bool {
    let (a, b) = (plain(a), plain(b));
    let order = match (&a, &b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        _ => None,
    };
    match op {
        "==" => a == b,
        "!=" => a != b,
        "<" => order.is_some_and(|order| order.is_lt()),
        "<=" => order.is_some_and(|order| order.is_le()),
        ">" => order.is_some_and(|order| order.is_gt()),
        ">=" => order.is_some_and(|order| order.is_ge()),
        _ => match (&a, &b) {
            (_, Value::Array(items)) => items.contains(&a),
            (Value::String(part), Value::String(whole)) => whole.contains(part.as_str()),
            _ => false,
        },
    }
}

fn any_filter() -> impl Strategy<Value = Plain> {
    let literal = prop_oneof![
        Just(json!(1)),
        Just(json!(0.75)),
        Just(json!(0)),
        Just(json!("tea")),
        Just(json!("drama")),
        Just(json!("")),
        Just(json!(true)),
        Just(json!(false)),
        Just(json!(null)),
        Just(json!(1984)),
        Just(json!(["tea", 1, null])),
        Just(json!(["tea", "likes"])),
        Just(json!([])),
        Just(json!(["long_term"])),
    ];
    let leaf =
        prop_oneof![literal.prop_map(Plain::Value), proptest::sample::select(&FIELDS[..]).prop_map(Plain::Field)];
    leaf.prop_recursive(5, 40, 2, |inner| {
        let pair = (inner.clone(), inner.clone());
        let op = proptest::sample::select(&["==", "!=", "<", "<=", ">", ">=", "in"][..]);
        prop_oneof![
            3 => (op, inner.clone(), inner.clone()).prop_map(|(op, a, b)| Plain::Compare(op, a.into(), b.into())),
            1 => inner.prop_map(|a| Plain::Not(a.into())),
            1 => pair.clone().prop_map(|(a, b)| Plain::And(a.into(), b.into())),
            1 => pair.clone().prop_map(|(a, b)| Plain::Or(a.into(), b.into())),
            1 => pair.prop_map(|(a, b)| Plain::Sum(a.into(), b.into())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_evaluators_agree(filter in any_filter()) {
        let fields = json!({
            "tier": "long_term", "importance": 0.75, "session": "chat", "tags": ["tea", "likes"], "pinned": true,
            "year": 1984, "genre": "drama", "live": true, "none": null, "list": [1, "two", [3]], "empty": [], "zero": 0
        });
        let text = filter.text();
        let parsed = Filter::parse(&text);
        prop_assert!(parsed.is_ok(), "{}: {:?}", text, parsed);
        let (parsed, expected) = (parsed.unwrap(), filter.holds(&fields));
        prop_assert_eq!(parsed.matches(&example()), expected, "{}", text);
        prop_assert_eq!(EXAMPLE.with(|space| space.count(T0, Some(&parsed))) == 1, expected, "{}, over columns", text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[ .a-z0-9\"'()\\[\\]!=<>&|+*/%,\\\\é-]{0,60}") {
        if let Ok(filter) = Filter::parse(&text) {
            filter.matches(&example());
        }
    }
}
