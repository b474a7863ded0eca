//! Jobs in the middle of a failover, and keys whose slot moves while a job is at work.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply, words};
use crate::cluster::{Cluster, name};
use crate::harness::{Pending, Server, pause_ms, wait_until};

const WITH_TEXT: &str = "engram.embedder all-MiniLM-L6-v2";

/// Starts a job on `key` and waits until it is held: a consolidation, or a store of text.
fn hold(server: &Server, key: &str, text: Option<&str>) -> Pending {
    server.close_latch();
    let pending = match text {
        Some(text) => server.begin_words(words!["MEM.STORE", key, text]),
        None => server.begin_words(words!["MEM.CONSOLIDATE", key]),
    };
    server.wait_held(1);
    pending
}

fn fill(client: &mut Client, key: &str) {
    client.ok_words(&words![
        "MEM.STORE",
        key,
        "what stands",
        "ID",
        "1-0",
        "TIER",
        "working",
        "IMPORTANCE",
        0.9,
        "NOEMBED"
    ]);
}

fn tier(client: &mut Client, key: &str) -> String {
    client.ok_words(&words!["MEM.GET", key, "1-0"]).items()[0].field("tier").text()
}

fn expect_demoted(pending: Pending) {
    let error = pending.finish().expect_err("a replica takes no writes");
    assert!(error.starts_with("UNBLOCKED") || error.starts_with("READONLY"), "{error}");
}

#[test]
fn after_a_failover_the_old_primary_writes_nothing_and_is_what_the_new_one_is() {
    let primary = Server::with_text(&["engram.threads 3"]);
    let replica = Server::plain(&[&format!("replicaof 127.0.0.1 {}", primary.port)]);
    replica.wait_for_link();
    let mut client = primary.client();
    for text in [None, Some("a text on the way")] {
        client.ok("DEL k");
        fill(&mut client, "k");
        replica.wait_for_offset(&primary);
        let pending = hold(&primary, "k", text);
        client.ok("FAILOVER");
        wait_until("the roles have changed", || client.info("role") == "slave");
        primary.open_latch();
        expect_demoted(pending);
        primary.wait_for_link();
        let mut new = replica.client();
        new.ok("MEM.STORE k 'written to the new primary' NOEMBED");
        primary.wait_for_offset(&replica);
        assert_eq!(client.digest("k"), new.digest("k"));
        assert_eq!((tier(&mut client, "k"), client.count("k")), ("working".to_owned(), 2));
        // And back, for the next round.
        new.ok("FAILOVER");
        wait_until("the roles are as before", || client.info("role") == "master");
        replica.wait_for_link();
    }
}

#[test]
fn a_failover_that_is_given_up_lets_the_job_write() {
    let primary = Server::plain(&["engram.threads 3"]);
    let replica = primary.replica(&[]);
    let mut client = primary.client();
    fill(&mut client, "k");
    replica.wait_for_offset(&primary);
    let pending = hold(&primary, "k", None);
    // A replica that does not answer keeps the failover, and with it the pause, going until the timeout.
    let signal =
        |name: &str| assert!(Command::new("kill").args([name, &replica.pid().to_string()]).status().unwrap().success());
    signal("-STOP");
    client.ok("SET something new");
    client.ok("FAILOVER TIMEOUT 700");
    primary.open_latch();
    pause_ms(300);
    assert_eq!(tier(&mut client, "k"), "working", "nothing is written while it lasts");
    assert!(!pending.is_done());
    let report = pending.finish().unwrap();
    signal("-CONT");
    assert_eq!(report.field("promoted").int(), 1);
    replica.wait_for_offset(&primary);
    assert_eq!(replica.client().digest("k"), client.digest("k"));
}

/// A key of a slot of the first of two nodes.
fn key_of_first(cluster: &Cluster, name: &str) -> (String, i64) {
    let mut client = cluster.nodes[0].client();
    (0..)
        .map(|n| format!("{name}{n}"))
        .find_map(|key| {
            let slot = client.ok(&format!("CLUSTER KEYSLOT {key}")).int();
            (slot < 8_192).then_some((key, slot))
        })
        .unwrap()
}

/// Moves the slot from the first node to the second, keys and all, in the steps that redis-cli takes; `until` says how far.
fn move_slot(cluster: &Cluster, slot: i64, key: Option<&str>, finish: bool) {
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    let (mut source, mut target) = (from.client(), to.client());
    target.ok(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", name(from)));
    source.ok(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", name(to)));
    if let Some(key) = key {
        assert_eq!(source.ok(&format!("MIGRATE 127.0.0.1 {} {key} 0 5000", to.port)).text(), "OK");
    }
    if finish {
        let owner = name(to);
        target.ok(&format!("CLUSTER SETSLOT {slot} NODE {owner}"));
        source.ok(&format!("CLUSTER SETSLOT {slot} NODE {owner}"));
    }
}

#[test]
fn a_key_whose_slot_has_moved_is_not_written_where_it_was() {
    let cluster = Cluster::start(2, &[WITH_TEXT, "engram.threads 3", "engram.model random-q4_0.gguf"]);
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    from.wait_for_encoder();
    from.wait_for_models(1);
    let mut source = from.client();
    let mut target = to.client();
    // The key has gone with its slot, or has gone and the slot is still on its way.
    for (n, finish) in [(0, true), (1, false)] {
        for text in [None, Some(format!("moving text {n}"))] {
            let (key, slot) = key_of_first(&cluster, &format!("gone{n}{}", text.is_some()));
            fill(&mut source, &key);
            let digest = source.digest(&key);
            let pending = hold(from, &key, text.as_deref());
            move_slot(&cluster, slot, Some(&key), finish);
            from.open_latch();
            let error = pending.finish().unwrap_err();
            assert!(
                error.starts_with("STALE") || error.starts_with("MOVED") || error.starts_with("UNBLOCKED"),
                "{error}"
            );
            target.ok("ASKING");
            assert_eq!(target.digest(&key), digest, "it is there as it was");
            assert_eq!(source.ok("DBSIZE").int(), 0, "and not here again");
        }
    }
    // A key that never was is not made where its slot no longer is, nor where it is about to leave.
    for (n, finish) in [(0, true), (1, false)] {
        let (key, slot) = key_of_first(&cluster, &format!("new{n}"));
        let pending = hold(from, &key, Some(&format!("new text {n}")));
        move_slot(&cluster, slot, None, finish);
        from.open_latch();
        let error = pending.finish().unwrap_err();
        assert!(error.starts_with("STALE") || error.starts_with("MOVED") || error.starts_with("UNBLOCKED"), "{error}");
        assert_eq!(source.ok("DBSIZE").int(), 0);
    }
    // A key that has not gone yet is written: it goes with it.
    let (key, slot) = key_of_first(&cluster, "staying");
    fill(&mut source, &key);
    let pending = hold(from, &key, Some("written on the way"));
    move_slot(&cluster, slot, None, false);
    from.open_latch();
    pending.finish().unwrap();
    assert_eq!(source.count(&key), 2);
    source.ok(&format!("CLUSTER SETSLOT {slot} STABLE"));
    source.ok("FLUSHALL");
    // The same for the last entry of a stream.
    let (key, slot) = key_of_first(&cluster, "stream");
    from.close_latch();
    let pending = from.begin_words(words!["GEMMA.GENERATE", "hello", "MAXTOKENS", 8, "SEED", 1, "STREAM", &key]);
    from.wait_held(1);
    let entries = source.ok_words(&words!["XLEN", &key]).int();
    move_slot(&cluster, slot, Some(&key), true);
    from.open_latch();
    if let Ok(reply) = pending.finish() {
        assert!(reply.field("notes").texts().iter().any(|note| note.contains("stream is incomplete")), "{reply:?}");
    }
    assert_eq!(source.ok("DBSIZE").int(), 0);
    assert_eq!(target.ok_words(&words!["XLEN", &key]).int(), entries);
}

#[test]
fn cluster_failover_in_the_middle_of_a_job() {
    let cluster = Cluster::start(3, &["engram.embedder \"\"", "engram.threads 3"]);
    let replica = cluster.replica_of(0, &["engram.embedder \"\""]);
    let primary = &cluster.nodes[0];
    let mut client = primary.client();
    let key =
        (0..).map(|n| format!("k{n}")).find(|key| client.ok(&format!("CLUSTER KEYSLOT {key}")).int() < 5_000).unwrap();
    fill(&mut client, &key);
    replica.wait_for_offset(primary);
    let pending = hold(primary, &key, None);
    let mut heir = replica.client();
    // Votes come in five seconds or the failover is given up, as on a busy machine: its operator asks again then.
    let mut asked = None::<Instant>;
    wait_until("the replica has taken over", || {
        let done = heir.info("role") == "master";
        if !done && asked.is_none_or(|at| at.elapsed() > Duration::from_secs(6)) {
            heir.ok("CLUSTER FAILOVER");
            asked = Some(Instant::now());
        }
        done
    });
    wait_until("the old primary follows it", || client.info("role") == "slave");
    primary.open_latch();
    let error = pending.finish().expect_err("a replica takes no writes");
    assert!(["UNBLOCKED", "READONLY", "STALE", "MOVED"].iter().any(|code| error.starts_with(code)), "{error}");
    primary.wait_for_link();
    heir.ok_words(&words!["MEM.STORE", &key, "written to the new primary", "NOEMBED"]);
    primary.wait_for_offset(&replica);
    assert_eq!(tier(&mut heir, &key), "working");
    client.ok("READONLY");
    assert_eq!(client.digest(&key), heir.digest(&key));
}

#[test]
fn a_cluster_routes_every_command_by_its_keys() {
    let cluster = Cluster::start(2, &["engram.embedder \"\"", "engram.model random-q4_0.gguf"]);
    cluster.nodes[0].wait_for_models(1);
    let mut client = cluster.nodes[0].client();
    let foreign =
        (0..).map(|n| format!("f{n}")).find(|key| client.ok(&format!("CLUSTER KEYSLOT {key}")).int() >= 8_192).unwrap();
    let (own, _) = key_of_first(&cluster, "own");
    client.ok_words(&words!["MEM.STORE", &own, "text", "NOEMBED"]);
    for line in [
        format!("MEM.STORE {foreign} text NOEMBED"),
        format!("MEM.COUNT {foreign}"),
        format!("MEM.CONFIG SET {foreign} dedup 0"),
        format!("GEMMA.GENERATE hello STREAM {foreign}"),
        format!("GEMMA.GENERATE_RO hello MEMORY {foreign}"),
    ] {
        assert!(client.err(&line).starts_with("MOVED"), "{line}");
    }
    assert!(client.err(&format!("GEMMA.GENERATE hello STREAM {own} MEMORY {foreign}")).starts_with("CROSSSLOT"));
    client.ok("GEMMA.GENERATE hello MAXTOKENS 2");
    client.ok(&format!("GEMMA.GENERATE MEMORY MAXTOKENS 2 STREAM {{{own}}}s")).field("text");
}
