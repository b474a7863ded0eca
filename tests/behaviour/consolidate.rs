//! MEM.CONSOLIDATE: what rises, merges, gives way and goes, by call and by timer, and the dry run that says so first.

use redis::Value;

use crate::client::{Client, Reply, words};
use crate::harness::{Server, pause_ms, wait_until};

fn tier(client: &mut Client, id: &str) -> String {
    client.ok(&format!("MEM.GET k {id}")).items()[0].field("tier").text()
}

const FIELDS: &str = "dry_run promoted merged evicted expired learned confirmed superseded contested described summarized linked skipped refused notes changes";

#[test]
fn the_important_rise_one_tier_per_run() {
    let server = Server::plain(&[]);
    for mut client in [server.client(), server.client3()] {
        client.ok("FLUSHALL");
        for (id, rest) in [
            ("1-0", "TIER working IMPORTANCE 0.7"),
            ("2-0", "TIER working IMPORTANCE 0.69"),
            ("3-0", "TIER short_term IMPORTANCE 0.9 TYPE event"),
            ("4-0", "TIER long_term IMPORTANCE 0.9 TYPE event"),
            ("5-0", "TIER long_term IMPORTANCE 0.9 TYPE fact"),
            ("6-0", "TIER long_term IMPORTANCE 0.9 TYPE chunk"),
            ("7-0", "TIER semantic IMPORTANCE 1"),
            ("8-0", "TIER working IMPORTANCE 1 TTL 100"),
        ] {
            client.ok(&format!("MEM.STORE k text-{id} ID {id} NOEMBED {rest}"));
        }
        let digest = client.digest("k");
        let dry = client.ok("MEM.CONSOLIDATE k DRYRUN");
        assert_eq!(client.digest("k"), digest, "a dry run changes nothing");
        assert_eq!(dry.names().join(" "), FIELDS);
        assert_eq!((dry.field("dry_run").int(), dry.field("promoted").int()), (1, 5));
        let own = client.ok("MEM.GET k 8-0").items()[0].field("expires").int();
        let report = client.ok("MEM.CONSOLIDATE k");
        assert_eq!(report.names().join(" "), FIELDS);
        assert_eq!(
            (report.field("dry_run").int(), report.field("promoted").int(), report.field("skipped").int()),
            (0, 5, 0)
        );
        assert_eq!(dry.field("changes"), report.field("changes"), "the dry run said what would happen");
        let change = &report.field("changes").items()[0];
        assert_eq!(change.names(), ["change", "id", "reason"]);
        assert!(change.field("reason").text().contains("importance"), "{change:?}");
        for (id, expected) in [
            ("1-0", "short_term"),
            ("2-0", "working"),
            ("3-0", "long_term"),
            ("4-0", "episodic"),
            ("5-0", "semantic"),
            ("6-0", "long_term"),
            ("7-0", "semantic"),
            ("8-0", "short_term"),
        ] {
            assert_eq!(tier(&mut client, id), expected, "{id}");
        }
        assert_eq!(
            client.ok("MEM.GET k 8-0").items()[0].field("expires").int(),
            own,
            "a lifetime of its own goes with it"
        );
        let memory = &client.ok("MEM.GET k 1-0").items()[0];
        assert_eq!(
            memory.field("expires").int() - memory.field("entered").int(),
            86_400_000,
            "the lifetime counts from entering the tier"
        );
        assert_eq!(client.ok("MEM.STATS k").field("promotions").int(), 5);
    }
}

#[test]
fn from_to_threshold_and_limit_bound_it() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for n in 1..=4 {
        client.ok(&format!("MEM.STORE k w{n} ID {n}-0 NOEMBED TIER working IMPORTANCE 0.{n}"));
        client.ok(&format!("MEM.STORE k s{n} ID {n}-1 NOEMBED TIER short_term IMPORTANCE 0.{n}"));
    }
    let promoted = |client: &mut Client, rest: &str| {
        let report = client.ok(&format!("MEM.CONSOLIDATE k {rest}"));
        report.field("changes").items().iter().map(|change| change.field("id").text()).collect::<Vec<_>>()
    };
    assert!(promoted(&mut client, "").is_empty());
    assert_eq!(promoted(&mut client, "THRESHOLD 0.3 FROM working DRYRUN"), ["4-0", "3-0"], "the more important first");
    assert_eq!(promoted(&mut client, "THRESHOLD 0.3 TO long_term DRYRUN"), ["4-1", "3-1"]);
    assert_eq!(promoted(&mut client, "THRESHOLD 0.3 LIMIT 3 DRYRUN").len(), 3);
    let notes = |client: &mut Client, limit: usize| {
        client.ok(&format!("MEM.CONSOLIDATE k THRESHOLD 0.3 LIMIT {limit} DRYRUN")).field("notes").texts()
    };
    assert!(notes(&mut client, 3)[0].contains("LIMIT") && notes(&mut client, 4).is_empty());
    for nowhere in ["FROM semantic", "TO working", "FROM working TO long_term"] {
        let error = client.err(&format!("MEM.CONSOLIDATE k {nowhere}"));
        assert!(error.starts_with(&format!("ERR {nowhere}: nothing rises that way")), "{error}");
    }
    client.ok("MEM.CONFIG SET k consolidate-threshold 0.4");
    assert_eq!(promoted(&mut client, ""), ["4-0", "4-1"]);
    assert_eq!((tier(&mut client, "4-0"), tier(&mut client, "4-1")), ("short_term".into(), "long_term".into()));
}

#[test]
fn duplicates_become_one_that_keeps_the_best_of_each() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for (id, rest) in [
        ("1-0", "TAGS 1 a IMPORTANCE 0.2 CONFIDENCE 0.4 FROM 1 9-1"),
        ("2-0", "TAGS 1 b IMPORTANCE 0.6 CONFIDENCE 0.2 TIER semantic"),
        ("3-0", "TAGS 1 c IMPORTANCE 0.1 CONFIDENCE 0.1 PIN FROM 1 9-2"),
        ("4-0", "SESSION s"),
    ] {
        client.ok(&format!("MEM.STORE k 'The same  TEXT' ID {id} VALUES 2 1 0 NODEDUP {rest}"));
    }
    let report = client.ok("MEM.CONSOLIDATE k");
    assert_eq!((report.field("merged").int(), client.count("k")), (2, 2), "not across sessions");
    let memory = &client.ok("MEM.GET k 2-0").items()[0];
    assert_eq!(
        (memory.field("importance").float(), memory.field("confidence").float(), memory.field("pinned").int()),
        (0.6, 0.4, 1)
    );
    let mut tags = memory.field("tags").texts();
    tags.sort();
    assert_eq!(tags, ["a", "b", "c"]);
    let mut from = memory.field("from").texts();
    from.sort();
    assert_eq!(from, ["9-1", "9-2"]);
    assert_eq!(client.ok("MEM.STATS k").field("merges").int(), 2);
    // By similarity only where asked for.
    client.ok("DEL k");
    for (id, values) in [("1-0", "1 0"), ("2-0", "0.999 0.02"), ("3-0", "0 1")] {
        client.ok(&format!("MEM.STORE k text-{id} ID {id} VALUES 2 {values}"));
    }
    assert_eq!(client.ok("MEM.CONSOLIDATE k").field("merged").int(), 0);
    assert_eq!(client.ok("MEM.CONSOLIDATE k DEDUP 0.99 DRYRUN").field("merged").int(), 1);
    assert_eq!(client.ok("MEM.CONSOLIDATE k DEDUP 0.99").field("merged").int(), 1);
    assert_eq!(client.ids("MEM.TIMELINE k - +"), ["1-0", "3-0"]);
}

#[test]
fn turns_of_a_conversation_never_merge() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for id in ["1-0", "2-0"] {
        client.ok(&format!(
            "MEM.MSTORE k '{{\"id\":\"{id}\",\"content\":\"yes\",\"role\":\"user\",\"session\":\"s\",\"noembed\":true,\"dedup\":false}}'"
        ));
    }
    assert_eq!(client.ok("MEM.CONSOLIDATE k").field("merged").int(), 0);
    assert_eq!(client.count("k"), 2);
}

#[test]
fn the_timer_consolidates_as_the_settings_say() {
    let server = Server::plain(&["notify-keyspace-events KEA"]);
    let mut client = server.client();
    let mut watcher = server.client();
    watcher.send_only(&words!["SUBSCRIBE", "__keyevent@0__:mem.promote"]);
    watcher.receive().unwrap();
    client.ok("MEM.STORE k event ID 1-0 NOEMBED TIER working IMPORTANCE 0.9");
    client.ok("MEM.STORE other event ID 1-0 NOEMBED TIER working IMPORTANCE 0.9");
    client.ok("MEM.CONFIG SET other consolidate-interval 0");
    client.ok("MEM.CONFIG SET k consolidate-interval 1");
    wait_until("it has risen twice", || tier(&mut client, "1-0") == "long_term");
    let news = watcher.receive().unwrap().items();
    assert_eq!(news[2].text(), "k");
    assert_eq!(client.ok("MEM.GET other 1-0").items()[0].field("tier").text(), "working", "0 = none");
    assert!(client.info("engram_consolidations").parse::<u64>().unwrap() >= 2);
}

#[test]
fn it_runs_as_a_job_with_a_name() {
    let server = Server::plain(&["engram.threads 2"]);
    let mut client = server.client();
    client.ok("MEM.STORE k event ID 1-0 NOEMBED TIER working IMPORTANCE 0.9");
    server.close_latch();
    assert_eq!(client.ok("MEM.CONSOLIDATE k JOB night NOWAIT").field("job").text(), "night");
    server.wait_held(1);
    assert_eq!(
        client.ok("MEM.CONSOLIDATE k NOWAIT JOB night").field("job").text(),
        "night",
        "the same request attaches"
    );
    assert!(client.err("MEM.CONSOLIDATE k JOB night LIMIT 3").contains("another request"));
    let job = &client.ok("GEMMA.JOBS").items()[0];
    assert_eq!(
        (job.field("id").text(), job.field("command").text(), job.field("state").text()),
        ("night".into(), "MEM.CONSOLIDATE".into(), "running".into())
    );
    assert!(client.ok("GEMMA.RESULT night TIMEOUT 20").is_nil());
    server.open_latch();
    assert_eq!(client.ok("GEMMA.RESULT night").field("promoted").int(), 1);
    assert_eq!(client.ok("GEMMA.RESULT night").field("promoted").int(), 1, "a result can be fetched again");
    assert_eq!(
        client.ok("MEM.CONSOLIDATE k JOB night").field("promoted").int(),
        1,
        "attaching to what has ended gives its result"
    );
    assert_eq!(tier(&mut client, "1-0"), "short_term");
}

#[test]
fn what_runs_by_itself_can_be_paused_and_tells_when_it_ran_last() {
    let server = Server::plain(&["engram.maintenance OFF"]);
    let mut client = server.client();
    let number = |client: &mut Client, name: &str| client.info(name).parse::<u64>().unwrap();
    client.ok("MEM.CONFIG SET k consolidate-interval 1");
    client.ok("MEM.STORE k important IMPORTANCE 0.9 NOEMBED");
    client.ok("MEM.STORE k short TTL 1 NOEMBED");
    pause_ms(2_500);
    assert_eq!((number(&mut client, "engram_consolidations"), number(&mut client, "engram_maintenance")), (0, 0));
    assert!(client.ok("MEM.STATS k").field("consolidated").is_nil());
    // What is over is hidden, and not taken away.
    let stats = client.ok("MEM.STATS k");
    assert_eq!((stats.field("memories").int(), stats.field("expirations").int()), (1, 0));
    // Who calls is served.
    assert_eq!(client.ok("MEM.CONSOLIDATE k TO long_term LIMIT 1 DRYRUN").field("expired").int(), 1);
    assert!(client.err("CONFIG SET engram.maintenance maybe").contains("on and off"));
    client.ok("CONFIG SET engram.maintenance on");
    wait_until("it goes on", || number(&mut client, "engram_last_consolidation") > 0);
    wait_until("what is over goes", || client.ok("MEM.STATS k").field("expirations").int() == 1);
    assert!(client.ok("MEM.STATS k").field("consolidated").int() > 0);
}

#[test]
fn a_memory_that_changed_meanwhile_is_left_for_the_next_run() {
    let server = Server::plain(&["engram.threads 2"]);
    let mut client = server.client();
    client.ok("MEM.STORE k changing ID 1-0 NOEMBED TIER working IMPORTANCE 0.9");
    client.ok("MEM.STORE k going ID 2-0 NOEMBED TIER working IMPORTANCE 0.9");
    client.ok("MEM.STORE k standing ID 3-0 NOEMBED TIER working IMPORTANCE 0.9");
    server.close_latch();
    let run = server.begin("MEM.CONSOLIDATE k");
    server.wait_held(1);
    client.ok("MEM.UPDATE k 1-0 IMPORTANCE 0.1");
    client.ok("MEM.FORGET k 2-0");
    server.open_latch();
    let report = run.finish().unwrap();
    assert_eq!((report.field("promoted").int(), report.field("skipped").int()), (1, 2));
    assert_eq!((tier(&mut client, "1-0"), tier(&mut client, "3-0")), ("working".into(), "short_term".into()));
    assert_eq!(client.ok("MEM.GET k 2-0").items(), [Value::Nil]);
}

#[test]
fn a_cancelled_run_stops_and_says_what_stays() {
    let server = Server::plain(&["engram.threads 2"]);
    let mut client = server.client();
    client.ok("MEM.STORE k event ID 1-0 NOEMBED TIER working IMPORTANCE 0.9");
    server.close_latch();
    let run = server.begin("MEM.CONSOLIDATE k JOB night");
    server.wait_held(1);
    assert_eq!(client.ok("GEMMA.CANCEL night").int(), 1);
    server.open_latch();
    let error = run.finish().unwrap_err();
    assert!(error.starts_with("CANCELLED") && error.contains("0 changes"), "{error}");
    assert_eq!(tier(&mut client, "1-0"), "working");
    assert_eq!(client.ok("GEMMA.CANCEL night").int(), 0);
    assert!(client.err("GEMMA.CANCEL day").contains("no such job: 'day'"));
}

#[test]
fn inside_a_transaction_and_a_script_it_runs_in_place() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE k event ID 1-0 NOEMBED TIER working IMPORTANCE 0.9");
    client.ok("MULTI");
    client.ok("MEM.CONSOLIDATE k");
    client.ok("MEM.CONSOLIDATE k NOWAIT");
    let replies = match client.try_run("EXEC") {
        Ok(replies) => replies.items(),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(replies[0].field("promoted").int(), 1);
    assert!(
        matches!(&replies[1], Value::ServerError(error) if error.details().unwrap_or_default().contains("not possible inside MULTI"))
    );
    assert_eq!(tier(&mut client, "1-0"), "short_term");
    let report = client.ok_words(&words!["EVAL", "return redis.call('MEM.CONSOLIDATE', KEYS[1])", 1, "k"]);
    assert_eq!(report.field("promoted").int(), 1);
    pause_ms(10);
    assert_eq!(tier(&mut client, "1-0"), "long_term");
}
