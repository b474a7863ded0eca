//! When the server runs out of memory: what is refused, what still works, and what the module gives up by itself.

use crate::client::{Client, Reply, words};
use crate::harness::{Server, pause_ms, wait_until};

fn count(client: &mut Client, tier: &str) -> i64 {
    client.ok(&format!("MEM.COUNT k FILTER '.tier == \"{tier}\"'")).int()
}

#[test]
fn under_pressure_stores_are_refused_reads_and_forgetting_work_and_the_permanent_stays() {
    let server = Server::with_model("random-q4_0.gguf", &[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k working.capacity 0");
    for n in 0..40 {
        client.ok(&format!("MEM.STORE k working-{n} TIER working VALUES 2 1 {n}"));
        client.ok(&format!("MEM.STORE k semantic-{n} TIER semantic IMPORTANCE 0 VALUES 2 1 {n}"));
    }
    let id = client.ok("MEM.STORE k pinned PIN NOEMBED").text();
    client.ok("CONFIG SET maxmemory 1");
    for line in [
        "MEM.STORE k more NOEMBED",
        "MEM.STORE new more NOEMBED",
        "MEM.MSTORE k '{\"content\":\"more\",\"noembed\":true}'",
        &format!("MEM.UPDATE k {id} CONTENT longer NOEMBED"),
    ] {
        assert!(client.err(line).starts_with("OOM"), "{line}");
    }
    assert_eq!(client.ok("EXISTS new").int(), 0);
    wait_until("the module has given up what is least worth", || count(&mut client, "working") == 0);
    pause_ms(250);
    assert_eq!((count(&mut client, "semantic"), client.count("k")), (40, 41), "semantic and pinned memories stay");
    assert!(client.ok("MEM.STATS k").field("evictions").int() >= 40);
    assert_eq!(client.ids("MEM.RECALL k VALUES 2 1 0 K 3").len(), 3);
    client.ok(&format!("MEM.PROMOTE k {id} semantic"));
    client.ok("MEM.CONFIG SET k dedup 0.5");
    client.ok("MEM.CONSOLIDATE k");
    assert_eq!(client.ok(&format!("MEM.FORGET k {id}")).int(), 1);
    // An answer is made; its stream is not written.
    match client.try_run("GEMMA.GENERATE hello MAXTOKENS 3 STREAM s") {
        Ok(reply) => assert!(reply.field("notes").texts()[0].contains("OOM"), "{reply:?}"),
        Err(error) => assert!(error.starts_with("OOM"), "{error}"),
    }
    assert_eq!(client.ok("EXISTS s").int(), 0);
    client.ok("CONFIG SET maxmemory 0");
    client.ok("MEM.STORE k more NOEMBED");
}

#[test]
fn a_consolidation_without_room_still_lets_rise_what_matters() {
    let server = Server::plain(&["maxmemory-policy noeviction"]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k consolidate-interval 0");
    client.ok("MEM.STORE k 'I live in Rome.' TYPE message SPEAKER Ann TIER semantic NOEMBED");
    // Pinned, so that the timer does not give it up.
    client.ok("MEM.STORE k keep IMPORTANCE 0.9 TIER long_term TYPE fact PIN NOEMBED");
    client.ok("CONFIG SET maxmemory 1");
    let report = client.ok("MEM.CONSOLIDATE k EXTRACT");
    let counts = ["learned", "skipped", "promoted"].map(|field| report.field(field).int());
    assert_eq!(counts, [0, 1, 1], "{report:?}");
    assert!(report.field("notes").texts()[0].starts_with("memory is short"), "{report:?}");
    client.ok("CONFIG SET maxmemory 0");
    let report = client.ok("MEM.CONSOLIDATE k EXTRACT");
    assert_eq!(report.field("learned").int(), 1, "it is read again: {report:?}");
}

#[test]
fn models_do_not_count_against_the_limit() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let used = |client: &mut Client| client.info("used_memory").parse::<i64>().unwrap();
    let before = used(&mut client);
    for n in 0..8 {
        client.ok(&format!("GEMMA.LOAD m{n} random-f32.gguf"));
        client.ok(&format!("GEMMA.GENERATE hello MODEL m{n} MAXTOKENS 20"));
    }
    let grown = used(&mut client) - before;
    assert!(grown < 8 * 2_132_192 / 2, "eight models of 2 MB have taken {grown} bytes of the server's memory");
}

#[test]
fn a_policy_that_evicts_keys_is_warned_of() {
    let server = Server::plain(&["maxmemory 100mb", "maxmemory-policy allkeys-lru"]);
    wait_until("the log warns", || server.log().contains("maxmemory-policy evicts keys"));
    let quiet = Server::plain(&["maxmemory 100mb"]);
    pause_ms(300);
    assert!(!quiet.log().contains("maxmemory-policy evicts keys"));
}

#[test]
fn deleting_gives_the_memory_back() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let used = |client: &mut Client| client.info("used_memory").parse::<i64>().unwrap();
    let mut command = words!["MEM.MSTORE", "k"];
    for n in 0..5_000 {
        command.push(format!("{{\"content\":\"memory number {n} with some text\",\"vector\":[{n},1,2,3,4,5,6,7],\"meta\":{{\"n\":{n}}}}}").into_bytes());
    }
    // What is made once and kept, such as tables of the word index and the server's own buffers, is there before.
    client.ok("MEM.CONFIG SET k short_term.capacity 0");
    client.ok_words(&command);
    client.ok("DEL k");
    pause_ms(1000);
    let before = used(&mut client);
    client.ok("MEM.CONFIG SET k short_term.capacity 0");
    client.ok_words(&command);
    drop(command);
    let full = used(&mut client) - before;
    let stated = client.ok("MEMORY USAGE k SAMPLES 0").int();
    assert!(full > 1_000_000, "{full}");
    assert!((stated - full).abs() < full / 2, "MEMORY USAGE says {stated}, the server has {full} more");
    client.ok("MEM.FORGET k TIER short_term");
    wait_until("forgetting gives memory back", || used(&mut client) - before < full * 2 / 3);
    client.ok("DEL k");
    wait_until("all of it is back", || used(&mut client) - before < full / 10);
}
