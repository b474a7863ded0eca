//! Storing, reading, changing and forgetting memories: the replies in both protocols, and what counts as a duplicate.

use redis::Value;

use crate::client::{Client, Reply, blob, words};
use crate::harness::{Server, now_ms};

const EVERYTHING: &str = "MEM.STORE k 'Ada wrote the first program' ID 5000-1 VALUES 2 3 4 TIER long_term IMPORTANCE 0.8 CONFIDENCE 0.9 TYPE event \
     OUTCOME task_completed SPEAKER Ada SESSION s1 SOURCE book FROM 2 4-0 4-1 AT 1700000000000 TTL 1000 PIN TAGS 2 history code META '{\"page\":7}'";

fn both(server: &Server) -> [Client; 2] {
    [server.client(), server.client3()]
}

#[test]
fn a_memory_has_every_field_in_the_order_of_the_contract_in_both_protocols() {
    let server = Server::plain(&[]);
    let before = now_ms();
    assert_eq!(server.client().ok(EVERYTHING).text(), "5000-1");
    let after = now_ms();
    for mut client in both(&server) {
        let memory = &client.ok("MEM.GET k 5000-1").items()[0];
        let names = "id tier type content importance confidence at session speaker source outcome tags meta from created entered accessed uses expires \
                     pinned heat vectors precision template";
        assert_eq!(memory.names().join(" "), names);
        for (name, text) in [
            ("id", "5000-1"),
            ("tier", "long_term"),
            ("type", "event"),
            ("content", "Ada wrote the first program"),
            ("session", "s1"),
            ("speaker", "Ada"),
            ("source", "book"),
            ("outcome", "task_completed"),
            ("meta", "{\"page\":7}"),
        ] {
            assert_eq!(memory.field(name).text(), text, "{name}");
        }
        assert_eq!((memory.field("importance").float(), memory.field("confidence").float()), (0.8, 0.9));
        assert_eq!(memory.field("tags").texts(), ["history", "code"]);
        assert_eq!(memory.field("from").texts(), ["4-0", "4-1"]);
        for (name, number) in [("at", 1_700_000_000_000), ("pinned", 1), ("vectors", 1), ("template", 0), ("uses", 0)] {
            assert_eq!(memory.field(name).int(), number, "{name}");
        }
        let created = memory.field("created").int() as u64;
        assert!((before..=after).contains(&created), "created {created} is not between {before} and {after}");
        assert_eq!(memory.field("entered").int() as u64, created);
        assert_eq!(memory.field("expires").int() as u64, created + 1_000_000);
    }
}

#[test]
fn maps_doubles_and_nulls_are_native_in_resp3_and_flat_in_resp2() {
    let server = Server::plain(&[]);
    let [mut two, mut three] = both(&server);
    two.ok(EVERYTHING);
    let Value::Map(fields) = &three.ok("MEM.GET k 5000-1").items()[0] else { panic!("not a map in RESP3") };
    assert!(fields.iter().any(|(name, value)| name.text() == "importance" && *value == Value::Double(0.8)));
    let flat = two.ok("MEM.GET k 5000-1").items()[0].items();
    let place = flat.iter().position(|item| matches!(item, Value::BulkString(name) if name == b"importance")).unwrap();
    assert_eq!(flat[place + 1], Value::BulkString(b"0.8".to_vec()), "a double in RESP2 is its shortest digits");
    for client in [&mut two, &mut three] {
        assert_eq!(client.ok("MEM.GET k 9-9 5000-1").items()[0], Value::Nil);
        assert!(client.ok("MEM.STATS missing").is_nil());
    }
    assert!(matches!(three.ok("MEM.CONFIG GET k"), Value::Map(_)));
    assert!(matches!(three.ok("MEM.STATS k"), Value::Map(_)));
}

#[test]
fn defaults_are_those_of_the_contract_and_unset_fields_are_absent() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let before = now_ms();
    let id = client.ok("MEM.STORE k hello NOEMBED").text();
    let memory = &client.ok(&format!("MEM.GET k {id}")).items()[0];
    assert_eq!(
        memory.names().join(" "),
        "id tier type content importance confidence at created entered accessed uses expires pinned heat vectors template"
    );
    assert_eq!((memory.field("tier").text(), memory.field("type").text()), ("short_term".into(), "fact".into()));
    assert_eq!(memory.field("confidence").float(), 1.0);
    assert_eq!((memory.field("pinned").int(), memory.field("vectors").int()), (0, 0));
    assert_eq!(memory.field("at").int(), memory.field("created").int());
    assert_eq!(memory.field("expires").int() - memory.field("created").int(), 86_400_000);
    let (ms, seq) = id.split_once('-').unwrap();
    assert!(ms.parse::<u64>().unwrap() >= before && seq.parse::<u64>().is_ok(), "{id}");
}

#[test]
fn reads_of_a_missing_key_are_empty_and_changes_say_so() {
    let server = Server::plain(&[]);
    for mut client in both(&server) {
        assert_eq!(client.ok("MEM.GET k 1-1 2-2").items(), [Value::Nil, Value::Nil]);
        assert_eq!(client.count("k"), 0);
        assert_eq!(client.ok("MEM.FORGET k 1-1").int(), 0);
        assert!(client.ok("MEM.FORGET k TIER working DRYRUN").items().is_empty());
        assert!(client.ok("MEM.RECALL k VALUES 2 1 0").items().is_empty());
        assert!(client.ok("MEM.TIMELINE k - +").items().is_empty());
        let scan = client.ok("MEM.SCAN k 0").items();
        assert_eq!((scan[0].text(), scan[1].items().len()), ("0".to_owned(), 0));
        for change in ["MEM.UPDATE k 1-1 IMPORTANCE 1", "MEM.PROMOTE k 1-1 semantic", "MEM.CONSOLIDATE k"] {
            assert_eq!(client.err(change), "ERR no such space", "{change}");
        }
        assert_eq!(client.ok("EXISTS k").int(), 0, "none of these makes a key");
    }
}

#[test]
fn an_id_of_ones_own_is_kept_and_later_ids_lie_above_it() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let far = now_ms() + 1_000_000;
    assert_eq!(client.ok(&format!("MEM.STORE k future ID {far}-7 NOEMBED")).text(), format!("{far}-7"));
    let next = client.ok("MEM.STORE k next NOEMBED").text();
    let (ms, seq) = next.split_once('-').unwrap();
    assert!((ms.parse::<u64>().unwrap(), seq.parse::<u64>().unwrap()) > (far, 7), "{next}");
    assert_eq!(client.ok("MEM.STORE k past ID 3-0 NOEMBED").text(), "3-0", "a given one need not be the largest");
    assert_eq!(client.ok("MEM.STORE k past ID 3-0 NOEMBED").text(), "3-0", "the same content again returns the id");
    let digest = client.digest("k");
    let error = client.err("MEM.STORE k other ID 3-0 NOEMBED");
    assert!(error.starts_with("ERR id exists, use MEM.UPDATE"), "{error}");
    assert_eq!(client.digest("k"), digest);
    client.ok("MEM.FORGET k 3-0");
    client.ok(&format!("MEM.FORGET k {next}"));
    let after = client.ok("MEM.STORE k again NOEMBED").text();
    assert_ne!(after, next, "an id is never given twice by the server");
}

#[test]
fn the_same_text_of_one_session_and_speaker_is_stored_once() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let first = client.ok("MEM.STORE k 'Ada  likes   Tea' IMPORTANCE 0.4 NOEMBED").text();
    assert_eq!(
        client.ok("MEM.STORE k ' ada likes tea ' IMPORTANCE 0.9 NOEMBED").text(),
        first,
        "case and spaces do not count"
    );
    assert_eq!(client.ok("MEM.STORE k 'ada likes tea' IMPORTANCE 0.1 NOEMBED").text(), first);
    let memory = &client.ok(&format!("MEM.GET k {first}")).items()[0];
    assert_eq!(memory.field("content").text(), "Ada  likes   Tea", "the first wording stays");
    assert_eq!(
        (memory.field("importance").float(), memory.field("uses").int()),
        (0.9, 2),
        "the larger importance, used twice"
    );
    for other in ["SESSION s", "SPEAKER Ada", "NODEDUP", "SESSION s SPEAKER Ada"] {
        assert_ne!(client.ok(&format!("MEM.STORE k 'ada likes tea' NOEMBED {other}")).text(), first, "{other}");
    }
    assert_eq!(client.count("k"), 5);
    let stats = client.ok("MEM.STATS k");
    assert_eq!((stats.field("stores").int(), stats.field("duplicates").int()), (5, 2));
}

#[test]
fn dedup_by_similarity_is_asked_for_by_call_or_setting() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let first = client.ok("MEM.STORE k one VALUES 2 1 0").text();
    assert_ne!(client.ok("MEM.STORE k two VALUES 2 1 0.01").text(), first, "off by default");
    assert_eq!(client.ok("MEM.STORE k three VALUES 2 1 0 DEDUP 0.99").text(), first);
    assert_ne!(client.ok("MEM.STORE k four VALUES 2 0.7 0.7 DEDUP 0.99").text(), first);
    client.ok("MEM.CONFIG SET k dedup 0.999");
    assert_eq!(client.ok("MEM.STORE k five VALUES 2 2 0").text(), first, "length does not matter, direction does");
    assert_ne!(client.ok("MEM.STORE k six VALUES 2 1 0 NODEDUP").text(), first);
    assert_ne!(client.ok("MEM.STORE k seven VALUES 2 1 0 SESSION s").text(), first);
}

#[test]
fn mstore_takes_all_or_none() {
    let server = Server::plain(&[]);
    for mut client in both(&server) {
        client.ok("FLUSHALL");
        let ids = client.ok(
            "MEM.MSTORE k '{\"content\":\"one\",\"vector\":[1,0],\"tier\":\"working\",\"importance\":0.75,\"meta\":{\"n\":1},\"tags\":[\"a\"]}' \
             '{\"content\":\"two\",\"noembed\":true,\"session\":\"s\",\"role\":\"user\",\"at\":5,\"pinned\":true,\"persist\":true}' \
             '{\"content\":\" ONE \",\"vector\":[0,1]}'",
        );
        let ids = ids.texts();
        assert_eq!((ids.len(), &ids[0]), (3, &ids[2]), "a duplicate within the call has the id of the first");
        let memories = client.ok(&format!("MEM.GET k {} {}", ids[0], ids[1])).items();
        assert_eq!(
            (memories[0].field("tier").text(), memories[0].field("importance").float()),
            ("working".into(), 0.75)
        );
        assert_eq!(memories[0].field("meta").text(), "{\"n\":1}");
        assert_eq!((memories[1].field("role").text(), memories[1].field("at").int()), ("user".into(), 5));
        assert!(memories[1].maybe("expires").is_none());
        let digest = client.digest("k");
        let error = client.err("MEM.MSTORE k '{\"content\":\"good\",\"noembed\":true}' '{\"content\":\"bad\",\"noembed\":true,\"importance\":2}'");
        assert!(error.contains("memory 2") && error.contains("IMPORTANCE") && error.contains("0 to 1"), "{error}");
        assert_eq!(client.digest("k"), digest, "nothing of it is stored");
    }
}

#[test]
fn update_changes_what_it_names_and_nothing_else() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok(EVERYTHING);
    let before = client.ok("MEM.GET k 5000-1").items()[0].pairs();
    assert_eq!(client.ok("MEM.UPDATE k 5000-1 IMPORTANCE 0.1 META '{\"x\":[1]}' TAGS 1 new SPEAKER ''"), Value::Okay);
    let after = client.ok("MEM.GET k 5000-1").items()[0].clone();
    for (name, value) in before {
        match name.as_str() {
            "importance" => assert_eq!(after.field("importance").float(), 0.1),
            "meta" => assert_eq!(after.field("meta").text(), "{\"x\":[1]}", "META replaces"),
            "tags" => assert_eq!(after.field("tags").texts(), ["new"]),
            "speaker" => assert!(after.maybe("speaker").is_none(), "an empty text unsets"),
            name => assert_eq!(after.field(name), value, "{name}"),
        }
    }
    let digest = client.digest("k");
    assert_eq!(client.ok("MEM.UPDATE k 5000-1 IMPORTANCE 0.1"), Value::Okay);
    assert_eq!(client.digest("k"), digest, "the same again changes nothing");
    assert_eq!(client.err("MEM.UPDATE k 6-6 IMPORTANCE 0.1"), "ERR no such memory: 6-6");
    // New content needs a new vector, or none: the old one is of the old text.
    client.ok("MEM.UPDATE k 5000-1 CONTENT other VALUES 2 0 1");
    let found = &client.ok("MEM.RECALL k VALUES 2 0 1 WITHVECTORS").items()[0];
    assert_eq!((found.field("content").text(), found.field("vector").raw()), ("other".into(), blob(&[0.0, 1.0])));
    client.ok("MEM.UPDATE k 5000-1 CONTENT third NOEMBED");
    assert!(client.ok("MEM.RECALL k VALUES 2 0 1").items().is_empty());
    client.ok("MEM.UPDATE k 5000-1 PERSIST TIER semantic AT 17");
    let memory = &client.ok("MEM.GET k 5000-1").items()[0];
    assert_eq!((memory.field("tier").text(), memory.field("at").int()), ("semantic".into(), 17));
    assert!(memory.maybe("expires").is_none());
}

#[test]
fn forget_by_id_filter_tier_and_session_with_a_dry_run_first() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for (id, rest) in [
        ("1-0", "TIER working"),
        ("2-0", "TIER working"),
        ("3-0", "SESSION s"),
        ("4-0", "IMPORTANCE 0.1"),
        ("5-0", ""),
        ("6-0", ""),
    ] {
        client.ok(&format!("MEM.STORE k {id} ID {id} NOEMBED {rest}"));
    }
    for (what, ids) in
        [("TIER working", "1-0 2-0"), ("SESSION s", "3-0"), ("FILTER '.importance < 0.3'", "4-0"), ("5-0 9-9", "5-0")]
    {
        let ids: Vec<&str> = ids.split(' ').collect();
        let digest = client.digest("k");
        assert_eq!(client.ok(&format!("MEM.FORGET k {what} DRYRUN")).texts(), ids, "{what}");
        assert_eq!(client.digest("k"), digest, "a dry run changes nothing");
        assert_eq!(client.ok(&format!("MEM.FORGET k {what}")).int(), ids.len() as i64, "{what}");
        assert_eq!(client.ok(&format!("MEM.FORGET k {what}")).int(), 0, "{what} again");
    }
    assert_eq!(client.ids("MEM.TIMELINE k - +"), ["6-0"]);
    assert_eq!(client.ok("MEM.FORGET k 6-0").int(), 1);
    assert_eq!(
        (client.ok("EXISTS k").int(), client.count("k")),
        (1, 0),
        "like a stream, an empty space stays until DEL"
    );
}

#[test]
fn scan_meets_every_memory_once_while_others_come_and_go() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k short_term.capacity 0");
    let stored: Vec<String> =
        (0..57).map(|n| client.ok(&format!("MEM.STORE k text-{n} NOEMBED IMPORTANCE 0.{}", n % 10)).text()).collect();
    let mut met = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let reply = client.ok(&format!("MEM.SCAN k {cursor} COUNT 7")).items();
        met.extend(reply[1].items().iter().map(|memory| memory.field("id").text()));
        cursor = reply[0].text();
        if cursor == "0" {
            break;
        }
        // What is forgotten behind the cursor and stored ahead of it does not disturb the walk.
        client.ok(&format!("MEM.FORGET k {}", met.last().unwrap()));
        client.ok(&format!("MEM.STORE k more-{} NOEMBED", met.len()));
        assert!(met.len() < 200, "the walk does not end");
    }
    let mut once = met.clone();
    once.dedup();
    assert_eq!(once, met, "none twice");
    assert_eq!(met[..stored.len()], stored, "all of them, by id");
    client.ok("DEL k");
    for n in 0..30 {
        client.ok(&format!("MEM.STORE k text-{n} NOEMBED IMPORTANCE 0.{}", n % 10));
    }
    let some = client.ok("MEM.SCAN k 0 COUNT 100 FILTER '.importance >= 0.8'").items()[1].items();
    assert_eq!(some.len(), 6);
    assert_eq!(client.ok("MEM.COUNT k FILTER '.importance >= 0.8'").int(), 6);
    assert_eq!(client.count("k"), 30);
}

#[test]
fn a_timeline_is_ordered_by_when_things_happened() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for (id, at) in [("1-0", 300), ("2-0", 100), ("3-0", 200), ("4-0", 200)] {
        client.ok(&format!("MEM.STORE k text-{id} ID {id} AT {at} NOEMBED IMPORTANCE 0.{at}"));
    }
    for (range, ids) in [
        ("- +", "2-0 3-0 4-0 1-0"),
        ("- + REV", "1-0 4-0 3-0 2-0"),
        ("200 +", "3-0 4-0 1-0"),
        ("(200 +", "1-0"),
        ("- (200", "2-0"),
        ("100 200", "2-0 3-0 4-0"),
        ("100 200 REV COUNT 1", "4-0"),
        ("- + COUNT 2", "2-0 3-0"),
        ("- + FILTER '.importance > 0.15'", "3-0 4-0 1-0"),
        ("300 100", ""),
    ] {
        let expected: Vec<&str> = ids.split_whitespace().collect();
        assert_eq!(client.ids(&format!("MEM.TIMELINE k {range}")), expected, "{range}");
    }
    let memory = &client.ok("MEM.TIMELINE k - + COUNT 1").items()[0];
    assert_eq!(memory.names().join(" "), "id tier type content importance confidence at");
}

#[test]
fn any_text_comes_back_as_it_went_in() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let long = "é".repeat(100_000);
    for text in ["a\r\nb\0c", "  spaces  ", "🦀 Ωmega 한국어 \u{202e}", "{\"json\":1}", &long] {
        let id = client
            .ok_words(&words!["MEM.STORE", "k", text, "NOEMBED", "SOURCE", text.chars().take(9).collect::<String>()])
            .text();
        let memory = &client.ok(&format!("MEM.GET k {id}")).items()[0];
        assert_eq!(memory.field("content").text(), text);
        assert_eq!(memory.field("source").text(), text.chars().take(9).collect::<String>());
    }
}
