//! Every write command goes through the shared digest check; and what the generic key commands do to a space.

use std::collections::BTreeSet;

use crate::client::{Client, Reply, words};
use crate::digest::{Pair, rewrite_aof};
use crate::harness::{Server, pause_ms, wait_until};

/// A write command, and commands that use it in every way, on keys whose names begin with its own.
type Case = (&'static str, fn(&mut Client) -> Vec<&'static str>);

const CASES: &[Case] = &[
    ("mem.store", |c| {
        c.ok("MEM.STORE store:a 'first text' ID 100-1 VALUES 3 1 2 3 IMPORTANCE 0.9 TYPE event TIER long_term AT 5 SPEAKER Ada SESSION s SOURCE x OUTCOME y");
        c.ok("MEM.STORE store:a 'pinned' VALUES 3 1 0 0 PIN PERSIST TAGS 2 a b META '{\"a\":{\"b\":[1,null,\"x\"]}}' FROM 1 100-1 CONFIDENCE 0.25");
        c.ok("MEM.STORE store:a 'first text' SESSION s SPEAKER Ada IMPORTANCE 1 NOEMBED");
        c.ok("MEM.STORE store:a 'ttl' TTL 5000 NOEMBED");
        for n in 0..15 {
            c.ok(&format!("MEM.STORE store:b 'text {n}' TIER working NOEMBED IMPORTANCE 0.{}", n * 7 % 10));
        }
        c.ok("MEM.STORE store:c 'as it was' ID 1-0 VALUES 2 1 0 AT 5");
        c.ok("MEM.STORE store:c 'as it is' ID 2-0 VALUES 2 0 1 AT 9 SUPERSEDES 1-0");
        c.ok("MEM.STORE store:c 'to be' ID 3-0 NOEMBED AT 12 SUPERSEDES 2-0 FROM 1 1-0");
        vec!["store:a", "store:b", "store:c"]
    }),
    ("mem.mstore", |c| {
        c.ok("MEM.MSTORE mstore:a '{\"content\":\"one\",\"vector\":[1,2]}' '{\"content\":\"two\",\"noembed\":true,\"role\":\"user\"}' '{\"content\":\"one\",\"vector\":[3,4]}'");
        vec!["mstore:a"]
    }),
    ("mem.update", |c| {
        c.ok("MEM.STORE update:a text ID 1-1 VALUES 2 1 0 SPEAKER Ada TAGS 1 a");
        c.ok("MEM.STORE update:a other ID 1-2 VALUES 2 1 0");
        c.ok("MEM.UPDATE update:a 1-1 CONTENT new VALUES 2 0 1 IMPORTANCE 0.3 TIER semantic SPEAKER '' META '{\"x\":1}' TAGS 1 b AT 9 PIN");
        c.ok("MEM.UPDATE update:a 1-2 CONTENT bare NOEMBED TTL 1000 CONFIDENCE 0.5 TYPE event OUTCOME o SOURCE s SESSION q FROM 1 1-1");
        vec!["update:a"]
    }),
    ("mem.forget", |c| {
        for n in 1..=6 {
            c.ok(&format!("MEM.STORE forget:a text-{n} ID {n}-0 VALUES 2 {n} 1 IMPORTANCE 0.{n} SESSION s{}", n % 2));
        }
        c.ok("MEM.FORGET forget:a 1-0 2-0");
        c.ok("MEM.FORGET forget:a FILTER '.importance > 0.5'");
        c.ok("MEM.FORGET forget:a SESSION s1");
        c.ok("MEM.STORE forget:b text NOEMBED");
        c.ok("MEM.FORGET forget:b TIER short_term");
        vec!["forget:a", "forget:b"]
    }),
    ("mem.promote", |c| {
        c.ok("MEM.CONFIG SET promote:a semantic.capacity 1");
        c.ok("MEM.STORE promote:a a ID 1-0 TIER semantic NOEMBED IMPORTANCE 0.1");
        c.ok("MEM.STORE promote:a b ID 2-0 VALUES 1 1");
        c.ok("MEM.PROMOTE promote:a 2-0 semantic");
        vec!["promote:a"]
    }),
    ("mem.link", |c| {
        for id in ["1-0", "2-0", "3-0"] {
            c.ok(&format!("MEM.STORE link:a text-{id} ID {id} NOEMBED"));
        }
        c.ok("MEM.LINK link:a 1-0 2-0 REL knows");
        c.ok("MEM.LINK link:a 2-0 3-0 REL 'part of' WEIGHT 0.25");
        c.ok("MEM.LINK link:a 2-0 1-0 REL knows WEIGHT 0.5");
        c.ok("MEM.LINK link:a 2-0 1-0 REL knows WEIGHT 0.75");
        vec!["link:a"]
    }),
    ("mem.unlink", |c| {
        for id in ["1-0", "2-0", "3-0"] {
            c.ok(&format!("MEM.STORE unlink:a text-{id} ID {id} NOEMBED"));
        }
        for (to, rel) in [("2-0", "a"), ("2-0", "b"), ("3-0", "a"), ("3-0", "b")] {
            c.ok(&format!("MEM.LINK unlink:a 1-0 {to} REL {rel}"));
        }
        assert_eq!(c.ok("MEM.UNLINK unlink:a 1-0 2-0 REL a").int(), 1);
        assert_eq!(c.ok("MEM.UNLINK unlink:a 1-0 3-0").int(), 2);
        vec!["unlink:a"]
    }),
    ("mem.config|set", |c| {
        for n in 0..8 {
            c.ok(&format!("MEM.STORE set:a text-{n} NOEMBED IMPORTANCE 0.{n}"));
        }
        c.ok("MEM.CONFIG SET set:a short_term.capacity 3 eviction fifo dedup 0.875 working.ttl 5m consolidate-threshold 0.1 max-memory 10mb");
        c.ok("MEM.CONFIG SET set:empty dedup 0 precision f16 template plain lexical off language german token-vectors off ranking around,length");
        vec!["set:a", "set:empty"]
    }),
    ("mem.config|preset", |c| {
        c.ok("MEM.CONFIG PRESET preset:a research");
        vec!["preset:a"]
    }),
    ("mem.consolidate", |c| {
        for (id, rest) in [
            ("1-0", "TIER working IMPORTANCE 0.9"),
            ("2-0", "IMPORTANCE 0.8 TAGS 1 a"),
            ("3-0", "TAGS 1 b NODEDUP"),
            ("4-0", "TIER long_term IMPORTANCE 1"),
        ] {
            c.ok(&format!(
                "MEM.STORE consolidate:a same ID {id} VALUES 2 1 0 SESSION {} {rest}",
                if id == "3-0" { "2-0" } else { id }
            ));
        }
        let report = c.ok("MEM.CONSOLIDATE consolidate:a");
        assert!(report.field("promoted").int() > 0 && report.field("merged").int() > 0, "{report:?}");
        vec!["consolidate:a"]
    }),
    ("mem.reflect", |c| {
        c.ok("MEM.SESSION APPEND reflect:a s assistant 'Let us begin.'");
        c.ok("MEM.SESSION APPEND reflect:a s user 'I finished it.'");
        assert!(c.ok("MEM.REFLECT reflect:a SESSION s").field("content").text().starts_with("The user got it done"));
        vec!["reflect:a"]
    }),
    ("mem.reembed", |c| {
        c.ok("MEM.CONFIG SET reembed:a precision f32");
        for n in 1..=90 {
            c.ok(&format!("MEM.STORE reembed:a text-{n} ID {n}-0 VALUES 3 {n} 1 0.5"));
        }
        c.ok("MEM.STORE reembed:a bare ID 91-0 NOEMBED");
        let report = c.ok("MEM.REEMBED reembed:a PRECISION f16");
        assert_eq!((report.field("memories").int(), report.field("precision").text()), (91, "f16".into()));
        vec!["reembed:a"]
    }),
    ("mem.apply", |c| {
        // What the other cases replicate is this command; from a client it is refused and makes nothing.
        assert!(c.err("MEM.APPLY apply:a x").contains("clients cannot call it"));
        assert_eq!(c.ok("EXISTS apply:a").int(), 0);
        vec![]
    }),
    ("gemma.generate", |c| {
        c.ok("GEMMA.GENERATE hello MAXTOKENS 20 SEED 1 STREAM generate:stream");
        c.ok("GEMMA.GENERATE hello MAXTOKENS 20 SEED 1 STREAM generate:other STOP 1 zzz TEMPERATURE 0");
        vec!["generate:stream", "generate:other"]
    }),
    ("gemma.chat", |c| {
        c.ok("GEMMA.CHAT chat:a s hello MAXTOKENS 8 SEED 1");
        c.ok("GEMMA.CHAT chat:a s 'and again' MAXTOKENS 2000 TIMEOUT 1");
        vec!["chat:a"]
    }),
    ("mem.session|append", |c| {
        c.ok(
            "MEM.SESSION APPEND append:a s user hello ID 1-0 AT 5 SPEAKER Ada IMPORTANCE 0.9 TAGS 1 a META '{\"x\":1}'",
        );
        c.ok("MEM.SESSION APPEND append:a s assistant hi");
        c.ok("MEM.SESSION APPEND append:a t tool 42");
        vec!["append:a"]
    }),
    ("mem.session|set", |c| {
        c.ok("MEM.SESSION SET set:session s topic x state y");
        c.ok("MEM.SESSION SET set:session s state '' mood z");
        vec!["set:session"]
    }),
    ("mem.session|touch", |c| {
        c.ok("MEM.SESSION SET touch:a s topic x");
        c.ok("MEM.CONFIG SET touch:a session.ttl 0");
        c.ok("MEM.SESSION TOUCH touch:a s");
        vec!["touch:a"]
    }),
    ("mem.session|copy", |c| {
        c.ok("MEM.SESSION APPEND copy:a s user hello");
        c.ok("MEM.SESSION APPEND copy:a t user other");
        c.ok("MEM.SESSION COPY copy:a s t REPLACE");
        c.ok("MEM.SESSION COPY copy:a s u");
        vec!["copy:a"]
    }),
    ("mem.session|clear", |c| {
        c.ok("MEM.SESSION SET clear:a s topic x");
        c.ok("MEM.SESSION APPEND clear:a s user hello");
        c.ok("MEM.SESSION CLEAR clear:a s");
        vec!["clear:a"]
    }),
    ("mem.session|del", |c| {
        c.ok("MEM.SESSION APPEND del:a s user hello");
        c.ok("MEM.SESSION APPEND del:a t user hello");
        c.ok("MEM.SESSION DEL del:a s");
        vec!["del:a"]
    }),
    ("mem.session|import", |c| {
        let json = r#"{"history":[{"role":"user","content":"a","id":"7-0"},{"user":"b","assistant":"c","timestamp":9}],
                       "summary":{"text":"s","turns":1},"fields":{"f":"v"},"metadata":{"m":[1]}}"#;
        c.ok_words(&crate::client::words!["MEM.SESSION", "IMPORT", "import:session", "s", json]);
        vec!["import:session"]
    }),
    ("mem.session|summarize", |c| {
        for n in 0..9 {
            c.ok(&format!("MEM.SESSION APPEND summarize:a s user 'the number of this turn is {n}'"));
        }
        c.ok("MEM.SESSION SUMMARIZE summarize:a s KEEP 2");
        vec!["summarize:a"]
    }),
    ("mem.import", |c| {
        c.ok("MEM.STORE import:from text VALUES 2 1 0 TAGS 1 a");
        c.ok("MEM.SESSION APPEND import:from s user hello");
        let lines = c.ok("MEM.EXPORT import:from 0").items()[1].texts();
        let mut words = crate::client::words!["MEM.IMPORT", "import:a"];
        words.extend(lines.into_iter().map(String::into_bytes));
        c.ok_words(&words);
        vec!["import:from", "import:a"]
    }),
    ("mem.ingest", |c| {
        // Without an encoder it is refused and makes nothing; with one it is checked with the documents.
        assert!(c.err("MEM.INGEST ingest:a doc text").starts_with("NOMODEL"));
        assert_eq!(c.ok("EXISTS ingest:a").int(), 0);
        vec![]
    }),
];

#[test]
fn every_write_command_leaves_the_same_on_replica_aof_rdb_dump_and_copy() {
    let pair = Pair::start(&["engram.embedder \"\"", "engram.model random-q4_0.gguf"]);
    pair.primary.wait_for_models(1);
    let mut client = pair.primary.client();
    let mut writes = BTreeSet::new();
    for name in client.ok("COMMAND LIST FILTERBY MODULE engram").texts() {
        let found = client.ok(&format!("COMMAND INFO {name}")).items()[0].items();
        let mut rows = vec![found.clone()];
        rows.extend(found[9].items().iter().map(Reply::items));
        for row in rows {
            if row[2].texts().iter().any(|flag| flag == "write") {
                writes.insert(row[0].text());
            }
        }
    }
    let covered: BTreeSet<String> = CASES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(writes, covered, "every write command has a case, and every case is of a write command");
    let mut keys = Vec::new();
    for (name, case) in CASES {
        let made = case(&mut client);
        let first = name.split(['.', '|']).next_back().unwrap();
        assert!(made.iter().all(|key| key.starts_with(first)), "{name}");
        keys.extend(made);
    }
    pair.check_persistent(&keys);
    // And it still works: the loaded space takes the next memory and finds the old one.
    assert_eq!(client.ids("MEM.RECALL store:a VALUES 3 1 2 3 K 1"), ["100-1"]);
    client.ok("MEM.STORE store:a more VALUES 3 0 0 1");
}

#[test]
fn what_the_timer_writes_goes_the_same_way() {
    let pair = Pair::start(&["engram.embedder \"\""]);
    let mut client = pair.primary.client();
    client.ok("MEM.CONFIG SET k consolidate-interval 1");
    client.ok("MEM.STORE k rising TIER working IMPORTANCE 0.9 VALUES 2 1 0");
    client.ok("MEM.STORE k expiring TTL 1 NOEMBED");
    wait_until("both have happened", || {
        let stats = client.ok("MEM.STATS k");
        stats.field("promotions").int() == 2 && stats.field("expirations").int() == 1
    });
    client.ok("MEM.CONFIG SET k consolidate-interval 0");
    pair.check_persistent(&["k"]);
}

#[test]
fn a_space_of_many_chunks_is_saved_and_loaded_whole() {
    let pair = Pair::start(&["engram.embedder \"\""]);
    let mut client = pair.primary.client();
    client.ok("MEM.CONFIG SET k short_term.capacity 0");
    let text = "x".repeat(3_000);
    for batch in 0..20 {
        let mut command = words!["MEM.MSTORE", "k"];
        for n in 0..50 {
            let vector: Vec<String> = (0..64).map(|i| format!("{}", (n * 31 + i * batch + 1) % 17)).collect();
            command.push(
                format!("{{\"content\":\"{batch}-{n} {text}\",\"vector\":[1,{}]}}", vector.join(",")).into_bytes(),
            );
        }
        client.ok_words(&command);
    }
    assert_eq!(client.count("k"), 1_000);
    pair.check_persistent(&["k"]);
}

#[test]
fn it_survives_a_power_cut_with_the_aof() {
    let mut server = Server::plain(&["appendonly yes", "appendfsync always"]);
    let mut client = server.client();
    client.ok("MEM.STORE k kept ID 1-0 VALUES 2 1 0");
    client.ok("MEM.CONFIG SET k dedup 0.5");
    let digest = client.digest("k");
    server.kill();
    server.restart(&[]);
    let mut client = server.client();
    assert_eq!(client.digest("k"), digest);
    rewrite_aof(&mut client);
    client.ok("MEM.STORE k more ID 2-0 VALUES 2 0 1");
    let digest = client.digest("k");
    server.kill();
    server.restart(&[]);
    assert_eq!(server.client().digest("k"), digest, "rewritten part and increments together");
}

#[test]
fn the_generic_key_commands_work_on_a_space() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE k a ID 1-0 VALUES 2 1 0");
    assert_eq!(client.ok("TYPE k").text(), "engram-ms");
    assert_eq!(client.ok("SCAN 0 TYPE engram-ms").items()[1].texts(), ["k"]);
    client.ok("OBJECT ENCODING k");
    client.ok("OBJECT IDLETIME k");
    let small = client.ok("MEMORY USAGE k").int();
    client.ok("MEM.CONFIG SET k short_term.capacity 0");
    for n in 0..500 {
        client.ok(&format!("MEM.STORE k text-{n} VALUES 2 {n} 1"));
    }
    let large = client.ok("MEMORY USAGE k").int();
    assert!(small > 100 && large > small + 500 * 100, "{small} {large}");
    client.ok("RENAME k l");
    client.ok("MOVE l 3");
    client.ok("SELECT 3");
    assert_eq!(client.count("l"), 501);
    client.ok("COPY l m");
    client.ok("MEM.FORGET l TIER short_term");
    assert_eq!((client.count("l"), client.count("m")), (0, 501), "a copy is its own");
    client.ok("PEXPIRE m 30");
    pause_ms(50);
    assert_eq!(client.ok("EXISTS m").int(), 0);
    client.ok("UNLINK l");
    client.ok("MEM.STORE l new VALUES 5 1 0 0 0 0");
    client.ok("SET text value");
    for line in [
        "MEM.STORE text a NOEMBED",
        "MEM.COUNT text",
        "MEM.RECALL text VALUES 1 1",
        "MEM.CONFIG SET text dedup 0",
        "MEM.CONSOLIDATE text",
        "MEM.REFLECT text SESSION s",
        "MEM.STATS text",
    ] {
        assert_eq!(client.err(line), "WRONGTYPE Operation against a key holding the wrong kind of value", "{line}");
    }
    assert!(client.err("GET l").starts_with("WRONGTYPE"));
}

#[test]
fn renamed_moved_and_swapped_spaces_are_still_kept_by_the_timer() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for (n, act) in [(1, "RENAME k1 other1"), (2, "MOVE k2 5"), (3, "SWAPDB 0 6")] {
        client.ok(&format!("MEM.STORE k{n} short TTL 1 NOEMBED"));
        client.ok(act);
    }
    // After the swap what was in database 0 is in 6.
    for (db, key) in [(6, "other1"), (5, "k2"), (6, "k3")] {
        client.ok(&format!("SELECT {db}"));
        wait_until("the timer finds it", || client.ok(&format!("MEM.STATS {key}")).field("expirations").int() == 1);
    }
}

#[test]
fn keyspace_events_tell_what_happened() {
    let server = Server::plain(&["notify-keyspace-events KEA"]);
    let mut client = server.client();
    let mut watcher = server.client();
    watcher.send_only(&words!["PSUBSCRIBE", "__keyevent@0__:mem.*"]);
    watcher.receive().unwrap();
    client.ok("MEM.STORE k a ID 1-0 NOEMBED");
    client.ok("MEM.PROMOTE k 1-0 semantic");
    client.ok("MEM.FORGET k 1-0");
    client.ok("MEM.STORE k b ID 2-0 NOEMBED");
    client.ok("MEM.STORE k c SUPERSEDES 2-0 NOEMBED");
    client.ok(r#"MEM.MSTORE k '{"content":"d","id":"3-0","noembed":true}' '{"content":"e","supersedes":"3-0","noembed":true}'"#);
    client.ok("MEM.STORE k f TTL 1 NOEMBED");
    let (store, supersede) = ("mem.store", "mem.supersede");
    for event in [store, "mem.promote", "mem.forget", store, supersede, store, store, supersede, store, "mem.expire"] {
        let news = watcher.receive().unwrap().items();
        assert_eq!((news[2].text(), news[3].text()), (format!("__keyevent@0__:{event}"), "k".to_owned()));
    }
}
