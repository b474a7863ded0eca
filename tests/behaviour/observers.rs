//! Clients that watch what others do: transactions with WATCH, subscribers of keyspace events, and caches with CLIENT TRACKING. What background work
//! writes reaches them like what a command writes.

use redis::Value;

use crate::client::{Client, Reply, words};
use crate::harness::{Server, pause_ms};

/// Whether a transaction that watched `k` from before `act` is carried out.
fn goes_through(client: &mut Client, act: impl FnOnce()) -> bool {
    client.ok("WATCH k");
    act();
    client.ok("MULTI");
    client.ok("PING");
    !client.ok("EXEC").is_nil()
}

#[test]
fn watched_spaces_are_touched_by_writes_and_by_nothing_else() {
    let server = Server::with_text(&["engram.threads 2"]);
    let mut client = server.client();
    let mut other = server.client();
    other.ok("MEM.STORE k 'what stands' ID 1-0 TIER working IMPORTANCE 0.9");
    for write in [
        "MEM.STORE k 'a new text for the pool'",
        "MEM.STORE k 'another' NOEMBED",
        "MEM.UPDATE k 1-0 CONTENT 'changed on the pool'",
        "MEM.CONSOLIDATE k",
        "MEM.PROMOTE k 1-0 episodic",
        "MEM.CONFIG SET k dedup 0.9",
        "MEM.FORGET k TIER short_term",
    ] {
        assert!(!goes_through(&mut client, || drop(other.ok(write))), "{write} is not seen");
    }
    for read in [
        "MEM.RECALL k 'what stands'",
        "MEM.GET k 1-0",
        "MEM.COUNT k",
        "MEM.STATS k",
        "MEM.REPORT k",
        "MEM.SCAN k 0",
        "MEM.FORGET k 1-0 DRYRUN",
        "MEM.FORGET k 9-9",
        "MEM.UPDATE k 1-0 UNPIN",
        "MEM.CONSOLIDATE k DRYRUN",
    ] {
        assert!(goes_through(&mut client, || drop(other.ok(read))), "{read} is taken for a write");
    }
    assert!(goes_through(&mut client, || pause_ms(250)), "the timer is taken for a write");
    client.ok("MEM.STORE k short TTL 1 NOEMBED");
    assert!(!goes_through(&mut client, || pause_ms(1_300)), "what the timer takes away is not seen");
}

#[test]
fn subscribers_hear_of_background_writes() {
    let server =
        Server::with_text(&["engram.threads 2", "engram.model random-q4_0.gguf", "notify-keyspace-events KEA"]);
    server.wait_for_models(1);
    let mut client = server.client();
    let mut subscriber = server.client();
    subscriber.send_only(&words!["PSUBSCRIBE", "__keyevent@0__:mem.*", "__keyevent@0__:xadd"]);
    for _ in 0..2 {
        subscriber.receive().unwrap();
    }
    let mut hear = |event: &str, key: &str| loop {
        let news = subscriber.receive().unwrap().items();
        if news[2].text() == format!("__keyevent@0__:{event}") {
            assert_eq!(news[3].text(), key);
            return;
        }
    };
    client.ok("MEM.STORE k 'embedded on the pool' TIER working IMPORTANCE 0.9");
    hear("mem.store", "k");
    client.ok("MEM.CONSOLIDATE k");
    hear("mem.promote", "k");
    client.ok("GEMMA.GENERATE hello MAXTOKENS 3 STREAM s");
    hear("xadd", "s");
    client.ok("MEM.STORE k short TTL 1 NOEMBED");
    hear("mem.expire", "k");
}

#[test]
fn caches_are_told_of_background_writes() {
    let server = Server::with_text(&["engram.threads 2"]);
    let mut client = server.client();
    let mut cache = server.client3();
    cache.ok("CLIENT TRACKING ON BCAST");
    client.ok("MEM.STORE k 'embedded on the pool' TIER working IMPORTANCE 0.9");
    let told = cache.receive().unwrap();
    assert!(matches!(&told, Value::Push { data, .. } if data[0].texts() == ["k"]), "{told:?}");
    client.ok("MEM.CONSOLIDATE k");
    assert!(matches!(cache.receive().unwrap(), Value::Push { .. }));
}
