use std::ops::Bound;

use proptest::prelude::*;

use engram_memory::{MemoryId, limits};

use super::*;
use crate::table;

/// Parses a line of words; the title tells the command.
fn try_words<'a>(words: &[&'a [u8]]) -> Result<Parsed<'a>, String> {
    let name = String::from_utf8_lossy(words[0]).to_ascii_lowercase();
    let command = table::find(&name).unwrap_or_else(|| {
        table::find(&format!("{name}|{}", String::from_utf8_lossy(words[1]).to_ascii_lowercase())).unwrap()
    });
    parse(command, words).map_err(|e| e.line())
}

fn try_line(line: &str) -> Result<Parsed<'_>, String> {
    try_words(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
}

fn ok(line: &str) -> Parsed<'_> {
    try_line(line).unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn refused(line: &str) -> String {
    try_line(line).map(|p| panic!("{line} was accepted: {p:?}")).unwrap_err()
}

#[test]
fn values_that_each_mean_something_else() {
    let parsed = ok("mem.recall k words WEIGHTS 1 0.5 0 2 PREFER done -0.5 MMR 0.1 prefer ok 1");
    assert_eq!(parsed.opt_numbers("weights"), Some([1.0, 0.5, 0.0, 2.0]));
    assert_eq!(parsed.weighted("prefer"), [("done", -0.5), ("ok", 1.0)]);
    assert_eq!(parsed.opt_f64("mmr"), Some(0.1));
    assert_eq!(ok("mem.recall k words").weighted("prefer"), []);
    let eight = (0..8).map(|n| format!(" PREFER o{n} 0.5")).collect::<String>();
    assert_eq!(ok(&format!("mem.recall k words{eight}")).weighted("prefer").len(), 8);
    assert!(refused(&format!("mem.recall k words{eight} PREFER o8 1")).contains("PREFER is given more than 8 times"));
    assert!(refused("mem.recall k words PREFER done 0.5 PREFER ok").contains("PREFER needs 2 values"));
    assert!(refused("mem.recall k words PREFER done 1.5").contains("a number from -1 to 1"));
    assert_eq!(ok("mem.recall k words").opt_numbers::<4>("weights"), None);
    assert!(refused("mem.recall k words WEIGHTS 1 1").contains("WEIGHTS needs 4 values: relevance (a number from 0"));
    assert!(refused("mem.recall k words WEIGHTS 1 1 MMR 0.1").contains("the importance of WEIGHTS is 'MMR'"));
    assert!(refused("mem.recall k words PREFER done often").contains("the weight of PREFER is 'often'"));
}

#[test]
fn options_in_front_of_objects() {
    for line in ["mem.import k {} {} REPLACE", "mem.import k replace {} {}"] {
        assert!(ok(line).flag("replace") && ok(line).objects("json").len() == 2, "{line}");
    }
    assert!(refused("mem.import k REPLACE {} REPLACE").contains("REPLACE is given twice"));
    assert!(refused("mem.import k REPLACE").contains("<json> is missing"));
    assert!(refused("mem.import k REPLCE {}").contains("not valid JSON"));
    assert!(!ok("mem.import k {}").flag("replace"));
}

#[test]
fn options_in_any_order_and_any_case() {
    let parsed = ok("mem.store k hello NODEDUP tags 2 a b TIER Long_Term importance 0.25 PiN at 17 from 2 1-0 2-0");
    assert_eq!(parsed.key("key"), b"k");
    assert_eq!(parsed.text("content"), "hello");
    assert_eq!(parsed.opt_text("tier"), Some("long_term"));
    assert_eq!(parsed.list("tags"), ["a", "b"]);
    assert_eq!(parsed.opt_f64("importance"), Some(0.25));
    assert_eq!(parsed.opt_u64("at"), Some(17));
    assert_eq!(parsed.ids("from"), [MemoryId { ms: 1, seq: 0 }, MemoryId { ms: 2, seq: 0 }]);
    assert!(parsed.flag("pin") && parsed.flag("nodedup") && !parsed.flag("persist"));
    assert_eq!((parsed.opt_text("session"), parsed.opt_f64("confidence"), parsed.vector()), (None, None, None));
}

#[test]
fn a_value_may_look_like_a_keyword() {
    let parsed = ok("MEM.STORE k TIER SESSION tier TAGS 2 TAGS n");
    assert_eq!(parsed.text("content"), "TIER");
    assert_eq!(parsed.opt_text("session"), Some("tier"));
    assert_eq!(parsed.list("tags"), ["TAGS", "n"]);
    let parsed = ok("GEMMA.GENERATE memory SYSTEM MEMORY STOP 1 STREAM MEMORY mine STREAM out");
    assert_eq!((parsed.opt_key("memory"), parsed.opt_key("stream")), (Some(&b"mine"[..]), Some(&b"out"[..])));
    assert_eq!((parsed.position("memory"), parsed.position("stream")), (Some(8), Some(10)));
}

#[test]
fn recall_takes_a_text_or_a_vector() {
    assert_eq!(ok("MEM.RECALL k hello K 3").text("text"), "hello");
    assert_eq!(ok("MEM.RECALL k K K 3").text("text"), "K");
    assert_eq!(ok("MEM.RECALL k text VALUES").text("text"), "VALUES");
    assert_eq!(ok("MEM.RECALL k values 2 1 -0.5").vector(), Some(&[1.0, -0.5][..]));
    let blob = [1.5f32.to_le_bytes(), 2f32.to_le_bytes()].concat();
    let parsed = try_words(&[b"MEM.RECALL", b"k", b"VECTOR", &blob]).unwrap();
    assert_eq!(parsed.vector(), Some(&[1.5, 2.0][..]));
    assert_eq!(parsed.opt_text("text"), None);
    assert_eq!(
        refused("MEM.RECALL k"),
        "ERR MEM.RECALL: one of <text>, TEXT, VECTOR, VALUES, LIKE is needed; usage: MEM.RECALL key [text] [option ...]"
    );
    assert_eq!(
        refused("MEM.RECALL k hi VALUES 1 1"),
        "ERR MEM.RECALL: <text> and VALUES exclude each other: give one of them"
    );
    assert_eq!(refused("MEM.RECALL k hi TEXT ho"), "ERR MEM.RECALL: TEXT is given twice");
}

#[test]
fn forget_takes_one_way_to_choose() {
    assert_eq!(ok("MEM.FORGET k 1-0 2-5 DRYRUN").ids("id").len(), 2);
    assert_eq!(ok("MEM.FORGET k DRYRUN TIER working").opt_text("tier"), Some("working"));
    assert!(refused("MEM.FORGET k").contains("one of <id>, FILTER, TIER, DOC, SESSION is needed"));
    assert!(refused("MEM.FORGET k DRYRUN").contains("one of <id>, FILTER, TIER, DOC, SESSION is needed"));
    assert!(refused("MEM.FORGET k 1-0 TIER working").contains("<id> and TIER exclude each other"));
    assert!(
        refused("MEM.FORGET k 1-0 x")
            .starts_with("ERR MEM.FORGET: value 2 of 2 of <id> is 'x': accepted is a memory id")
    );
}

#[test]
fn the_other_shapes() {
    assert_eq!(
        ok("MEM.CONFIG SET k eviction fifo dedup 0.9").pairs("name").collect::<Vec<_>>(),
        [("eviction", "fifo"), ("dedup", "0.9")]
    );
    assert_eq!(ok("mem.config get k").opt_text("pattern"), None);
    assert_eq!(ok("GEMMA.EMBED 2 MODEL b MODEL m").list("text"), ["MODEL", "b"]);
    assert_eq!(ok("MEM.MSTORE k {\"content\":\"a\"} {}").objects("json").len(), 2);
    assert_eq!(ok("MEM.STORE k c META {\"a\":1}").object("meta").map(Object::len), Some(1));
    assert_eq!(ok("MEM.SCAN k 0").id("cursor"), MemoryId::ZERO);
    let parsed = ok("MEM.TIMELINE k - (50 REV");
    assert_eq!((parsed.bound("start"), parsed.bound("end")), (Bound::Included(0), Bound::Excluded(50)));
    assert_eq!(ok("MEM.TIMELINE k 7 +").bound("end"), Bound::Included(u64::MAX));
    assert_eq!(try_words(&[b"mem.apply", b"k", b"\xff\0"]).unwrap().blob("blob"), b"\xff\0");
    assert!(ok("GEMMA.TOKENIZE COUNT count").flag("count"));
}

#[test]
fn bad_input_gets_a_sentence() {
    for (line, sentence) in [
        ("MEM.STORE", "MEM.STORE: <key> is missing (a key); usage: MEM.STORE key content [option ...]"),
        ("MEM.STORE k", "MEM.STORE: <content> is missing (UTF-8 text); usage: MEM.STORE key content [option ...]"),
        (
            "MEM.GET k",
            "MEM.GET: <id> is missing (a memory id, <milliseconds>-<number>); usage: MEM.GET key id [id ...]",
        ),
        (
            "MEM.STORE k c TIER",
            "MEM.STORE: TIER needs a value: one of working, short_term, long_term, episodic, semantic",
        ),
        (
            "MEM.STORE k c TIER deep",
            "MEM.STORE: TIER is 'deep': accepted is one of working, short_term, long_term, episodic, semantic",
        ),
        ("MEM.STORE k c PIN TIER working PIN", "MEM.STORE: PIN is given twice"),
        ("MEM.STORE k c IMPORTANCE 1.5", "MEM.STORE: IMPORTANCE is '1.5': accepted is a number from 0 to 1"),
        ("MEM.STORE k c IMPORTANCE nan", "MEM.STORE: IMPORTANCE is 'nan': accepted is a number from 0 to 1"),
        ("MEM.STORE k c IMPORTANCE inf", "MEM.STORE: IMPORTANCE is 'inf': accepted is a number from 0 to 1"),
        ("MEM.STORE k c ID 5", "MEM.STORE: ID is '5': accepted is a memory id, <milliseconds>-<number>"),
        ("MEM.STORE k c TTL 5 PERSIST", "MEM.STORE: TTL and PERSIST exclude each other: give one of them"),
        ("MEM.STORE k c NOEMBED VALUES 1 1", "MEM.STORE: VALUES and NOEMBED exclude each other: give one of them"),
        ("MEM.STORE k c TAGS 3 a b", "MEM.STORE: TAGS announces 3 values (tag), but only 2 follow"),
        ("MEM.STORE k c TAGS 0", "MEM.STORE: the count of TAGS is '0': accepted is an integer from 1 to 128"),
        ("MEM.STORE k c TAGS", "MEM.STORE: TAGS needs a count from 1 to 128 and that many values, each UTF-8 text"),
        ("MEM.STORE k c META [1]", "MEM.STORE: META is '[1]': accepted is a JSON object"),
        (
            "MEM.STORE k c VALUES 3 1 NaN 2",
            "MEM.STORE: value 2 of 3 of VALUES is 'NaN': accepted is a finite 32-bit float",
        ),
        (
            "MEM.STORE k c VALUES 2 1e39 2",
            "MEM.STORE: value 1 of 2 of VALUES is '1e39': accepted is a finite 32-bit float",
        ),
        (
            "MEM.STORE k c VECTOR abc",
            "MEM.STORE: VECTOR is 3 bytes long: accepted is a multiple of 4, little-endian 32-bit floats",
        ),
        ("MEM.SCAN k x", "MEM.SCAN: <cursor> is 'x': accepted is 0 to begin, or the cursor of the last reply"),
        ("MEM.UPDATE k 1-0 NOEMBED", "MEM.UPDATE: NOEMBED is only possible together with CONTENT"),
        ("GEMMA.GENERATE p K 3", "GEMMA.GENERATE: K is only possible together with MEMORY"),
        ("GEMMA.CANCEL a b", "GEMMA.CANCEL: 'b' is one argument too many; usage: GEMMA.CANCEL job"),
        ("GEMMA.MODELS x", "GEMMA.MODELS: 'x' is one argument too many; usage: GEMMA.MODELS"),
        (
            "MEM.CONFIG SET k a",
            "MEM.CONFIG SET: 'a' has no value; usage: MEM.CONFIG SET key name value [name value ...]",
        ),
        (
            "MEM.CONFIG SET k",
            "MEM.CONFIG SET: <name> is missing (UTF-8 text); usage: MEM.CONFIG SET key name value [name value ...]",
        ),
    ] {
        assert_eq!(refused(line), format!("ERR {sentence}"));
    }
    assert!(
        refused("MEM.STORE k c META {\"a\":}")
            .starts_with("ERR MEM.STORE: META is not valid JSON (expected value at line 1 column 6)")
    );
    assert_eq!(
        refused("GEMMA.GENERATE_RO p STREAM s").split(" (accepted").next(),
        Some("ERR GEMMA.GENERATE_RO: unknown option 'STREAM'")
    );
}

#[test]
fn an_unknown_option_names_the_nearest_and_the_list() {
    let error = refused("MEM.COUNT k FLITER x");
    assert_eq!(error, "ERR MEM.COUNT: unknown option 'FLITER', did you mean FILTER? (accepted: FILTER)");
    assert!(
        refused("MEM.STORE k c tire x").contains("unknown option 'tire', did you mean TIER? (accepted: TIER, ID, ")
    );
    assert!(refused("MEM.STORE k c frobnicate").contains("unknown option 'frobnicate' (accepted: "));
}

#[test]
fn bytes_that_are_no_text_are_named_by_place() {
    let error = |words: &[&[u8]]| try_words(words).unwrap_err();
    assert_eq!(
        error(&[b"MEM.STORE", b"k", b"ab\xffc"]),
        "ERR MEM.STORE: <content> is not valid UTF-8: byte 3 of 4 is wrong"
    );
    let mut blob = [1f32, f32::NAN, 2.0].map(f32::to_le_bytes).concat();
    assert_eq!(
        error(&[b"MEM.RECALL", b"k", b"VECTOR", &blob]),
        "ERR MEM.RECALL: VECTOR is not all finite: component 2 of 3 is NaN"
    );
    blob.clear();
    assert!(error(&[b"MEM.RECALL", b"k", b"VECTOR", &blob]).contains("VECTOR is 0 bytes long"));
    blob.resize(4 * (limits::DIMENSIONS + 1), 0);
    assert!(error(&[b"MEM.RECALL", b"k", b"VECTOR", &blob]).contains("at most 16384 are accepted"));
    let odd = [b'x', b'\n', 0, 0xff];
    assert!(error(&[b"MEM.COUNT", b"k", &odd]).contains("unknown option 'x\u{fffd}\u{fffd}\u{fffd}'"));
    let long = "é".repeat(1_000);
    assert!(error(&[b"MEM.COUNT", b"k", long.as_bytes()]).contains(&format!("'{}…'", "é".repeat(64))));
    assert_eq!(printable("é".repeat(64).as_bytes()), "é".repeat(64));
}

#[test]
fn a_fingerprint_is_that_of_the_request() {
    let print = |line: &str| ok(line).fingerprint();
    let base = print("GEMMA.GENERATE hello SEED 1 TOPK 5");
    assert_eq!(base, print("gemma.generate hello topk 5 SEED 1 JOB j NOWAIT"));
    assert_ne!(base, print("GEMMA.GENERATE hello SEED 1 TOPK 6"));
    assert_ne!(base, print("GEMMA.GENERATE_RO hello SEED 1 TOPK 5"));
    assert_ne!(base, print("GEMMA.GENERATE hello SEED 1 TOPK 5 RAW"));
    assert_ne!(print("GEMMA.EMBED 2 a bc"), print("GEMMA.EMBED 2 ab c"));
}

#[test]
fn the_table_is_consistent() {
    for command in table::callable() {
        let at = command.name;
        assert!(at.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '.' | '|' | '_')), "{at}");
        assert_eq!(table::find(at).map(|c| c.name), Some(at));
        for text in
            [command.summary, command.complexity, command.reply, command.flags, command.categories, command.group]
        {
            assert!(!text.is_empty() && !text.contains('\0'), "{at}: a description is missing");
        }
        assert!(command.summary.ends_with('.') && command.reply.len() > 1, "{at}");
        let write = command.flags.split(' ').any(|f| f == "write");
        assert_eq!(write, command.categories.split(' ').any(|c| c == "write"), "{at}");
        assert_eq!(write, command.keys.iter().any(|k| k.access != Access::Read), "{at}: flags and keys disagree");
        // Positional arguments first, but for a list of objects, before which options may stand; nothing can follow one that takes all the rest but options.
        let objects = |a: &Arg| a.token.is_none() && a.kind == Kind::Object && matches!(a.shape, Shape::Rest(_));
        let positional = command.args.iter().take_while(|a| a.token.is_none()).count();
        assert!(
            command.args[positional..].iter().all(|a| a.token.is_some() || objects(a)),
            "{at}: a positional argument after an option"
        );
        for (i, arg) in command.args.iter().enumerate() {
            assert!(!arg.summary.is_empty(), "{at} {}", arg.name);
            if let Some(token) = arg.token {
                assert_eq!(arg.name, token.to_ascii_lowercase(), "{at}: handlers ask by the token in lower case");
                assert!(arg.optional);
                assert_eq!(command.args.iter().filter(|a| a.token == Some(token)).count(), 1, "{at}: {token} twice");
            } else {
                let last = i + 1 == command.args.len();
                assert!(
                    i < positional && (arg.shape == Shape::One || i + 1 == positional) || last && objects(arg),
                    "{at} {}",
                    arg.name
                );
                assert!(
                    !arg.optional || i + 1 == positional,
                    "{at} {}: only the last positional argument is optional",
                    arg.name
                );
            }
            assert!(arg.requires.is_none_or(|name| command.option(name).is_some()), "{at} {}", arg.name);
            assert_ne!(matches!(arg.kind, Kind::Flag), !arg.value.is_empty(), "{at} {}", arg.name);
        }
        for group in command.one_of {
            assert!(group.names.iter().all(|n| command.args.iter().any(|a| a.name == *n)), "{at}: {:?}", group.names);
        }
        for key in command.keys {
            match key.place {
                Place::Index(i) => assert_eq!(usize::try_from(i).unwrap(), command.words(), "{at}"),
                Place::Option(name) => assert_eq!(command.option(name).unwrap().kind, Kind::Key, "{at}"),
            }
        }
        let keys = command.args.iter().filter(|a| a.kind == Kind::Key).count();
        assert_eq!(keys, command.keys.len(), "{at}: every key argument has a key spec");
    }
}

/// Words that get somewhere: titles of options, numbers, ids, JSON and noise.
fn word() -> impl Strategy<Value = Vec<u8>> {
    let tokens: Vec<Vec<u8>> =
        table::callable().flat_map(|c| c.args.iter().filter_map(|a| a.token)).map(|t| t.as_bytes().to_vec()).collect();
    prop_oneof![
        4 => prop::sample::select(tokens),
        2 => prop::sample::select(vec!["0", "1", "2", "3", "-1", "0.5", "1e999", "1-0", "{}", "working", "(5", "+", ""])
            .prop_map(|s| s.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ]
}

proptest! {
    /// Whatever comes in, the parser answers, and an error is one line that names the command.
    #[test]
    fn any_arguments_are_answered(which in 0usize..64, words in prop::collection::vec(word(), 0..14)) {
        let command = table::callable().nth(which % table::callable().count()).unwrap();
        let mut argv: Vec<&[u8]> = command.name.split('|').map(str::as_bytes).collect();
        argv.extend(words.iter().map(Vec::as_slice));
        match parse(command, &argv) {
            Ok(parsed) => {
                for group in command.one_of {
                    let given = group.names.iter().filter(|n| parsed.given(n)).count();
                    prop_assert!(given <= 1 && (given == 1 || !group.required));
                }
                for arg in command.args.iter().filter(|a| a.token.is_none() && !a.optional) {
                    prop_assert!(parsed.given(arg.name));
                }
            }
            Err(error) => {
                let line = error.line();
                let start = format!("ERR {}: ", command.title());
                prop_assert!(line.starts_with(&start) && line.len() < 2_000, "{line}");
                prop_assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
    }

    /// What is given is what is read, wherever the options stand.
    #[test]
    fn options_are_read_back(
        content in "\\PC{0,20}",
        importance in 0.0f64..=1.0,
        tags in prop::collection::vec("\\PC{0,8}", 1..5),
        values in prop::collection::vec(-1e6f32..1e6, 1..6),
        order in Just([0usize, 1, 2, 3]).prop_shuffle(),
    ) {
        let groups: [Vec<String>; 4] = [
            vec!["IMPORTANCE".into(), importance.to_string()],
            ["tags".to_owned(), tags.len().to_string()].into_iter().chain(tags.clone()).collect(),
            ["Values".to_owned(), values.len().to_string()].into_iter().chain(values.iter().map(f32::to_string)).collect(),
            vec!["pin".into()],
        ];
        let mut words = vec!["mem.store".to_owned(), "key".to_owned(), content.clone()];
        order.iter().for_each(|i| words.extend(groups[*i].clone()));
        let argv: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
        let parsed = parse(table::find("mem.store").unwrap(), &argv).map_err(|e| TestCaseError::fail(e.line()))?;
        prop_assert_eq!(parsed.text("content"), content);
        prop_assert_eq!(parsed.opt_f64("importance"), Some(importance));
        prop_assert_eq!(parsed.list("tags"), tags.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert_eq!(parsed.vector(), Some(&values[..]));
        prop_assert!(parsed.flag("pin"));
    }

    /// The edit distance is a metric as far as the hint needs it.
    #[test]
    fn distance_is_symmetric_and_zero_for_equals(a in "[A-D]{0,7}", b in "[A-D]{0,7}") {
        let d = value::distance(&a, &b);
        prop_assert_eq!(d, value::distance(&b, &a));
        prop_assert_eq!(d == 0, a == b);
        prop_assert!(d >= a.len().abs_diff(b.len()) && d <= a.len().max(b.len()));
    }
}
