//! Grammars against an independent validator, on vocabularies of all kinds.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::gemma::tests::model;
use crate::generation::{Finish, Generation, Step};

/// JSON Schema as its specification says it, one keyword after the other, on a parsed value. Shares nothing with what it checks.
fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(schema) = schema else { return schema == &Value::Bool(true) };
    let number = |word: &str| schema.get(word).and_then(Value::as_f64);
    let within = |n: f64, least: &str, most: &str| {
        number(least).is_none_or(|least| n >= least) && number(most).is_none_or(|most| n <= most)
    };
    let same = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    };
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        _ => value.is_object(),
    };
    let holds = |word: &str, fits: &dyn Fn(&Value) -> bool| schema.get(word).is_none_or(fits);
    let count = |word: &str| {
        schema.get(word).and_then(Value::as_array).map(|all| all.iter().filter(|s| valid(root, s, value)).count())
    };
    let typed = match value {
        Value::String(text) => within(text.chars().count() as f64, "minLength", "maxLength"),
        Value::Number(n) => {
            let n = n.as_f64().unwrap();
            within(n, "minimum", "maximum")
                && number("exclusiveMinimum").is_none_or(|least| n > least)
                && number("exclusiveMaximum").is_none_or(|most| n < most)
        }
        Value::Array(items) => {
            let prefix = schema.get("prefixItems").and_then(Value::as_array).cloned().unwrap_or_default();
            within(items.len() as f64, "minItems", "maxItems")
                && items.iter().enumerate().all(|(i, item)| match prefix.get(i).or(schema.get("items")) {
                    Some(schema) => valid(root, schema, item),
                    None => true,
                })
        }
        Value::Object(members) => {
            let declared = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
            within(members.len() as f64, "minProperties", "maxProperties")
                && holds("required", &|names| {
                    names.as_array().unwrap().iter().all(|name| members.contains_key(name.as_str().unwrap()))
                })
                && members.iter().all(|(name, member)| {
                    match declared.get(name).or(schema.get("additionalProperties")) {
                        Some(schema) => valid(root, schema, member),
                        None => true,
                    }
                })
        }
        _ => true,
    };
    typed
        && holds("type", &|t| match t {
            Value::String(name) => is(name),
            names => names.as_array().unwrap().iter().any(|name| is(name.as_str().unwrap())),
        })
        && holds("const", &|wanted| same(wanted, value))
        && holds("enum", &|values| values.as_array().unwrap().iter().any(|wanted| same(wanted, value)))
        && holds("$ref", &|to| valid(root, root.pointer(&to.as_str().unwrap()[1..]).unwrap(), value))
        && holds("allOf", &|_| count("allOf") == schema.get("allOf").and_then(Value::as_array).map(Vec::len))
        && count("anyOf") != Some(0)
        && count("oneOf").is_none_or(|n| n == 1)
}

/// A source of decisions.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// A schema that most often can be satisfied.
fn random_schema(dice: &mut Dice, depth: usize) -> Value {
    let below = |dice: &mut Dice| random_schema(dice, depth.saturating_sub(1));
    let name = |dice: &mut Dice| ["a", "ab", "abc", "name", "é\"q\\", "▁x", "\n", "0"][dice.below(8)].to_owned();
    match dice.below(if depth == 0 { 7 } else { 13 }) {
        0 => json!({"type": ["null", "boolean"]}),
        1 => json!({"enum": [1, 12, 1.5, "x", "xy", "▁", null, "\u{1}é"]}),
        2 => {
            let text = ["yes", "no \"quoted\"", "日本"][dice.below(3)];
            json!({"const": text})
        }
        3 => {
            let least = dice.below(4);
            json!({"type": "string", "minLength": least, "maxLength": least + dice.below(6)})
        }
        4 => {
            let low = dice.below(2000) as i64 - 1000;
            json!({"type": "integer", "minimum": low, "maximum": low + dice.below(300) as i64})
        }
        5 => json!({"type": "number", "exclusiveMinimum": dice.below(10), "maximum": 10.5}),
        6 => json!({"type": ["string", "number"], "minimum": 0}),
        7 => {
            let least = dice.below(3);
            json!({"type": "array", "items": below(dice), "minItems": least, "maxItems": least + dice.below(3)})
        }
        8 => {
            json!({"type": "array", "prefixItems": [below(dice), below(dice)], "items": dice.below(2) == 0, "minItems": dice.below(3)})
        }
        9 => {
            let mut properties = Map::new();
            for _ in 0..dice.below(5) {
                properties.insert(name(dice), below(dice));
            }
            let required: Vec<String> = properties.keys().filter(|_| dice.below(2) == 0).cloned().collect();
            let mut schema = json!({"type": "object", "properties": properties, "required": required});
            match dice.below(4) {
                0 => schema["additionalProperties"] = json!(false),
                1 => schema["additionalProperties"] = below(dice),
                2 => schema["minProperties"] = json!(dice.below(3)),
                _ => {}
            }
            schema
        }
        10 => json!({"anyOf": [below(dice), below(dice)]}),
        11 => json!({"allOf": [below(dice), {"maxLength": 4, "maxItems": 3, "maxProperties": 4, "minimum": -5}]}),
        _ => {
            json!({"oneOf": [{"type": "object", "properties": {"kind": {"const": "a"}, "x": below(dice)}, "required": ["kind"]},
            {"type": "object", "properties": {"kind": {"const": "b"}, "y": below(dice)}, "required": ["kind", "y"]}]})
        }
    }
}

/// Writes random bytes that the machine allows, ends by its completion, and gives the text.
fn random_text(machine: &Machine, dice: &mut Dice, most: usize) -> String {
    let (mut threads, mut next, mut text) = (vec![machine.start()], Vec::new(), Vec::new());
    for _ in 0..most {
        if threads.iter().any(|t| machine.complete(t)) && dice.below(4) == 0 {
            return String::from_utf8(text).unwrap();
        }
        let mut possible = Vec::new();
        for byte in 0..=255 {
            machine.step(&threads, byte, &mut next);
            if !next.is_empty() {
                possible.push(byte);
            }
        }
        let structure: Vec<u8> = possible.iter().copied().filter(|b| b"\"{}[]:,\\".contains(b)).collect();
        let from = if structure.is_empty() || dice.below(3) == 0 { &possible } else { &structure };
        if from.is_empty() {
            assert!(threads.iter().any(|t| machine.complete(t)), "a dead end: {:?}", String::from_utf8_lossy(&text));
            return String::from_utf8(text).unwrap();
        }
        let byte = from[dice.below(from.len())];
        machine.step(&threads, byte, &mut next);
        std::mem::swap(&mut threads, &mut next);
        text.push(byte);
    }
    machine.finish(&threads[dice.below(threads.len())], &mut text);
    String::from_utf8(text).unwrap()
}

fn check(schema: &Value, text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text} of {schema}"));
    assert!(valid(schema, schema, &value), "{text} does not satisfy {schema}");
}

#[test]
fn whatever_the_machine_allows_and_completes_is_valid() {
    let mut refused = 0;
    for seed in 0..3000 {
        let mut dice = Dice(seed);
        let schema = random_schema(&mut dice, 3);
        let Ok(grammar) = Grammar::schema(&schema.to_string()) else {
            refused += 1;
            continue;
        };
        for most in [0, 3, 10, 30, 80, 300] {
            check(&schema, &random_text(&grammar.machine, &mut dice, most));
        }
    }
    assert!(refused < 500, "{refused} of 3000 were refused");
    let json = Grammar::json().unwrap();
    for seed in 0..500 {
        let text = random_text(&json.machine, &mut Dice(seed), 1 + seed as usize % 400);
        assert!(matches!(serde_json::from_str(&text).unwrap(), Value::Array(_) | Value::Object(_)), "{text}");
    }
}

/// Whether the machine allows this text.
fn allows(schema: &Value, text: &str) -> bool {
    let grammar = Grammar::schema(&schema.to_string()).unwrap();
    let (mut threads, mut next) = (vec![grammar.machine.start()], Vec::new());
    for byte in text.bytes() {
        grammar.machine.step(&threads, byte, &mut next);
        std::mem::swap(&mut threads, &mut next);
    }
    threads.iter().any(|t| grammar.machine.complete(t))
}

#[test]
fn what_a_model_would_write_is_allowed() {
    let person = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}}, "extra": {"type": "null"}}, "required": ["name", "age"]});
    assert!(allows(&person, r#"{"name": "Zoë \"Z\" \u00e9\n", "age": 41, "tags": ["a", "b"]}"#));
    assert!(allows(&person, r#"{"name":"","age":0}"#));
    for bad in [
        r#"{"name": "x"}"#,
        r#"{"age": 1, "name": "x"}"#,
        r#"{"name": "x", "age": 01}"#,
        r#"{"name":"x","age":1,"other":1}"#,
    ] {
        assert!(!allows(&person, bad), "{bad}");
    }
    let map = json!({"type": "object", "additionalProperties": {"type": "integer"}});
    assert!(allows(&map, r#"{"one": 1, "two": 2}"#));
    assert!(!allows(&map, r#"{"one": 1, "one": 2}"#), "a name comes once");
    assert!(!allows(&map, r#"{"": 1}"#));
    let tree = json!({"$defs": {"node": {"type": "object", "properties": {"value": {"type": "integer"},
        "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}, "required": ["value", "next"]}}, "$ref": "#/$defs/node"});
    assert!(allows(&tree, r#"{"value": 1, "next": {"value": 2, "next": null}}"#));
    let deep = |n: usize| r#"{"value":1,"next":"#.repeat(n) + "null" + &"}".repeat(n);
    assert!(allows(&tree, &deep(DEEPEST)) && !allows(&tree, &deep(DEEPEST + 1)));
    let merged = json!({"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"minimum": 5}, "b": {"type": "string"}}}]});
    assert!(allows(&merged, r#"{"a": 5, "b": "x"}"#) && !allows(&merged, r#"{"a": 4}"#) && !allows(&merged, "1"));
    assert!(allows(&json!({"enum": [1, 12, {"x": [1, "y"]}]}), r#"{"x": [1, "y"]}"#));
    assert!(allows(&json!(true), "12") && allows(&json!({"type": "string"}), "\"😀\""));
    assert!(!allows(&json!({"type": "string"}), r#""\ud83d""#), "half a surrogate pair");
}

#[test]
fn a_schema_that_cannot_be_kept_is_refused_with_the_place() {
    let message = |schema: Value| Grammar::schema(&schema.to_string()).map(|_| ()).unwrap_err().to_string();
    for (schema, expected) in [
        (json!({"type": "string", "pattern": "a+"}), "the keyword \"pattern\" is not supported (accepted: type, enum"),
        (json!({"properties": {"a": {"format": "date"}}}), "the schema at #/properties/a: the keyword \"format\""),
        (json!({"properties": {"a/b": {"not": {}}}}), "#/properties/a~1b"),
        (json!({"minimum": 2, "maximum": 1}), "lies within minimum, maximum"),
        (json!({"minLength": 2, "maxLength": 1}), "minLength 2 is above maxLength 1"),
        (json!({"items": {"minItems": 3, "maxItems": 2}}), "the schema at #/items: minItems 3 is above maxItems 2"),
        (json!({"enum": []}), "enum is an empty list"),
        (json!(false), "the schema is contradictory: nothing satisfies it at #"),
        (json!({"properties": {"a": false}, "required": ["a"], "type": "object"}), "contradictory"),
        (json!({"type": "object", "required": ["a"], "additionalProperties": false}), "contradictory"),
        (
            json!({"type": "object", "properties": {"a": {"allOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["a"]}),
            "nothing satisfies it at #/properties/a",
        ),
        (
            json!({"type": "object", "minProperties": 2, "properties": {"a": true}, "additionalProperties": false}),
            "as many items or properties",
        ),
        (json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}), "without end"),
        (json!({"$ref": "#"}), "refers to itself"),
        (json!({"$ref": "http://x/y"}), "references within the schema"),
        (json!({"$ref": "#/$defs/x"}), "there is nothing"),
        (json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "may satisfy both alternative 0 and 1"),
        (json!({"type": "text"}), "the type \"text\" is unknown"),
        (json!({"type": []}), "type is an empty list"),
        (json!({"minLength": -1}), "an integer of 0 or more"),
        (json!({"minItems": 100000}), "at most 4096"),
        (
            json!({"type": "array", "minItems": 4096, "items": {"type": "array", "minItems": 4096, "items": {"type": "array", "minItems": 4096}}}),
            "has more than 1048576 bytes",
        ),
        (json!([]), "is a list; a schema is an object"),
        (json!({"items": [true]}), "prefixItems for a list"),
        (json!({"anyOf": vec![json!({"type": "array"}); 100]}), "at most 64"),
    ] {
        let said = message(schema.clone());
        assert!(said.contains(expected), "{schema}: {said}");
    }
    let said = Grammar::schema("{").map(|_| ()).unwrap_err().to_string();
    assert!(said.starts_with("the schema is not JSON"), "{said}");
    assert!(
        Grammar::schema(&" ".repeat(LONGEST_SCHEMA + 1)).map(|_| ()).unwrap_err().to_string().contains("at most 65536")
    );
    // Conjunctions that multiply end soon, and so do references upon references.
    let wide: Vec<Value> = (0..60).map(|i| json!({"type": "object", "properties": {format!("p{i}"): true}})).collect();
    let many: Vec<Value> = (0..6).map(|_| json!({"anyOf": wide})).collect();
    assert!(message(json!({"allOf": many})).contains("too large"));
    let chain: Map<String, Value> =
        (0..1500).map(|i| (format!("d{i}"), json!({"$ref": format!("#/$defs/d{}", i + 1)}))).collect();
    assert!(message(json!({"$defs": chain, "$ref": "#/$defs/d0"})).contains("#/$defs"));
}

/// One answer of a model with random weights.
fn answer(model: &str, grammar: &Arc<Grammar>, temperature: f32, seed: u64, max_tokens: usize) -> Option<Generation> {
    let model = self::model(model);
    let prompt = model.tokenizer().encode(&format!("question {seed}"));
    let sampling = Sampling { temperature, seed, max_tokens, ..Sampling::default() };
    let mut work = crate::gemma::Workspace::new(Arc::clone(&model)).unwrap();
    let mut generation = Generation::constrained(model, prompt, sampling, Some(Arc::clone(grammar))).ok()?;
    while generation.step(&mut work).unwrap() == Step::Running {}
    assert!(generation.tokens() <= max_tokens);
    Some(generation)
}

#[test]
fn a_thousand_answers_of_random_models_are_valid() {
    let models = ["random-f32.gguf", "random-q8_0.gguf", "random-q4_0.gguf", "random-bf16.gguf", "random-f16.gguf"];
    let (mut written, mut seed, mut steered) = (0, 0, 0);
    while written < 1000 {
        seed += 1;
        let mut dice = Dice(seed);
        let schema = random_schema(&mut dice, 2);
        let Ok(grammar) = Grammar::schema(&schema.to_string()) else { continue };
        let temperature = [0.0, 0.7, 1.5][seed as usize % 3];
        let max = [8, 20, 60][seed as usize / 3 % 3];
        let Some(generation) = answer(models[seed as usize % 5], &Arc::new(grammar), temperature, seed, max) else {
            continue;
        };
        check(&schema, generation.text());
        assert_eq!(
            generation.finish() == Some(Finish::Stop),
            !generation.closed_early() && generation.finish() != Some(Finish::Length)
        );
        steered += usize::from(generation.closed_early());
        written += 1;
    }
    assert!(steered > 50, "{steered} answers had too few tokens");
    assert!(seed < 2500, "{seed} schemas for a thousand answers");
    let json = Arc::new(Grammar::json().unwrap());
    for seed in 0..60 {
        let generation = answer(models[seed as usize % 5], &json, 1.0, seed, 2 + seed as usize * 2).unwrap();
        assert!(serde_json::from_str::<Value>(generation.text()).is_ok(), "{}", generation.text());
    }
}

#[test]
fn an_answer_that_cannot_fit_is_refused_and_stop_strings_are() {
    let grammar =
        Arc::new(Grammar::schema(r#"{"const": "a rather long constant that takes more than three tokens"}"#).unwrap());
    let model = model("random-f32.gguf");
    let make = |sampling| Generation::constrained(Arc::clone(&model), vec![2], sampling, Some(Arc::clone(&grammar)));
    let said = make(Sampling { max_tokens: 3, ..Sampling::default() }).map(|_| ()).unwrap_err().to_string();
    assert!(said.contains("there is room for 3"), "{said}");
    let said = make(Sampling { stop: vec!["x".into()], ..Sampling::default() }).map(|_| ()).unwrap_err().to_string();
    assert!(said.contains("stop strings"), "{said}");
}

proptest! {
    /// The set of pieces is what trying each piece by itself says.
    #[test]
    fn the_set_is_what_each_piece_says(seed: u64, most in 0usize..60) {
        let mut dice = Dice(seed);
        let schema = random_schema(&mut dice, 2);
        let Ok(grammar) = Grammar::schema(&schema.to_string()) else { return Ok(()) };
        let model = model("random-f32.gguf");
        let (tokenizer, pieces) = (model.tokenizer(), model.pieces().unwrap());
        let text = random_text(&grammar.machine, &mut dice, most);
        let mut constraint = Constraint::new(Arc::new(grammar), pieces, usize::MAX).unwrap();
        let cut = dice.below(text.len() + 1);
        let mut next = Vec::new();
        for byte in text.as_bytes()[..cut].iter() {
            constraint.grammar.machine.step(&constraint.threads, *byte, &mut next);
            std::mem::swap(&mut constraint.threads, &mut next);
        }
        constraint.allowed();
        let name = constraint.threads.iter().any(|t| matches!(constraint.grammar.machine.room(t), machine::Room::Bytes(_)));
        for id in 0..tokenizer.vocabulary_size() as u32 {
            let written = tokenizer.written(id).filter(|w| !w.is_empty() && w.len() <= 128);
            let expected = match written {
                Some(_) => constraint.follow(tokenizer, id),
                None => constraint.pieces.ends().contains(&id) && constraint.complete(),
            };
            let found = constraint.set[id as usize / 32] >> (id % 32) & 1 == 1;
            prop_assert!(found == expected || name && !found, "{:?} is in the set: {}, after {:?} of {}", tokenizer.piece(id), found, String::from_utf8_lossy(&text.as_bytes()[..cut]), schema);
        }
    }
}
