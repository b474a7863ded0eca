//! MEM.REEMBED: a space moves to the encoder of this server or to another precision, is read and written meanwhile, and is never half moved.

use crate::client::{Client, Reply, words};
use crate::digest::{Pair, rewrite_aof};
use crate::harness::{Pending, Server, wait_until};

const WITH_TEXT: &str = "engram.embedder all-MiniLM-L6-v2";
const FIELDS: &str = "memories embedded replaced too_long model dimensions precision";

/// Memories without vectors, in one call.
fn store_bare(client: &mut Client, count: usize) {
    let mut command = words!["MEM.MSTORE", "k"];
    for n in 1..=count {
        let content = format!("note number {n} about the harbour");
        command.push(format!("{{\"id\":\"{n}-0\",\"content\":\"{content}\",\"noembed\":true}}").into_bytes());
    }
    client.ok("MEM.CONFIG SET k short_term.capacity 0");
    client.ok_words(&command);
}

/// Begins and waits until the first embeddings are made and not yet staged.
fn hold(server: &Server, line: &str) -> Pending {
    server.close_latch();
    let run = server.begin(line);
    server.wait_held(1);
    run
}

fn memory_vectors(client: &mut Client, id: &str) -> i64 {
    client.ok(&format!("MEM.GET k {id}")).items()[0].maybe("vectors").map_or(0, |count| count.int())
}

/// Whether something is staged, by what it takes.
fn staged_bytes(client: &mut Client) -> i64 {
    client.ok("MEM.STATS k").field("bytes_by_part").field("staged").int()
}

#[test]
fn a_space_without_vectors_gets_them() {
    let server = Server::with_text(&[]);
    for mut client in [server.client(), server.client3()] {
        client.ok("FLUSHALL");
        client.ok("MEM.STORE k 'Caroline adopted a small brown puppy.' ID 1-0 NOEMBED");
        client.ok("MEM.STORE k 'The train leaves at a quarter to eight.' ID 2-0 NOEMBED SPEAKER Gustav");
        let report = client.ok("MEM.REEMBED k");
        assert_eq!(report.names().join(" "), FIELDS);
        assert_eq!((report.field("memories").int(), report.field("embedded").int()), (2, 2));
        assert_eq!((report.field("replaced").int(), report.field("too_long").int()), (0, 0));
        assert_eq!(
            (report.field("model").text(), report.field("dimensions").int(), report.field("precision").text()),
            ("all-MiniLM-L6-v2".into(), 384, "i8".into())
        );
        assert_eq!(client.ids("MEM.RECALL k 'who got a dog?' MODE dense K 1"), ["1-0"]);
        // What it made is what a store makes.
        client.ok("MEM.STORE other 'The train leaves at a quarter to eight.' ID 2-0 AT 2 SPEAKER Gustav");
        client.ok("MEM.UPDATE k 2-0 AT 2");
        client.ok("MEM.REEMBED k");
        let vector = |client: &mut Client, key: &str| {
            client.ok(&format!("MEM.RECALL {key} 'a train' MODE dense K 1 WITHVECTORS")).items()[0]
                .field("vector")
                .raw()
        };
        assert_eq!(vector(&mut client, "k"), vector(&mut client, "other"));
    }
}

#[test]
fn own_vectors_give_way_to_embeddings_and_the_reply_says_so() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE k 'an own vector' ID 1-0 VALUES 3 1 2 3");
    client.ok("MEM.STORE k 'and none' ID 2-0 NOEMBED");
    assert!(client.err("MEM.RECALL k 'a text' MODE dense").contains("own"));
    let report = client.ok("MEM.REEMBED k MODEL all-MiniLM-L6-v2 PRECISION f32");
    assert_eq!((report.field("embedded").int(), report.field("replaced").int()), (2, 1));
    let stats = client.ok("MEM.STATS k");
    assert_eq!(
        (stats.field("dimensions").int(), stats.field("vectors").int(), stats.field("precision").text()),
        (384, 2, "f32".into())
    );
    assert_eq!(client.ok("MEM.CONFIG GET k precision").field("precision").text(), "f32");
    assert_eq!(client.ids("MEM.RECALL k 'an own vector' MODE dense K 1"), ["1-0"]);
    client.ok("MEM.STORE k 'stores go on in the new model'");
}

#[test]
fn a_coarser_precision_needs_no_model_and_a_finer_one_does() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k precision f32");
    client.ok("MEM.STORE k a ID 1-0 VALUES 2 3 4");
    client.ok("MEM.STORE k b ID 2-0 NOEMBED");
    let report = client.ok("MEM.REEMBED k PRECISION i8");
    assert_eq!(report.names().join(" "), FIELDS);
    assert_eq!((report.field("embedded").int(), report.field("precision").text()), (0, "i8".into()));
    assert!(report.field("model").is_nil());
    assert_eq!((memory_vectors(&mut client, "1-0"), memory_vectors(&mut client, "2-0")), (1, 0));
    assert_eq!(client.ids("MEM.RECALL k VALUES 2 3 4 K 1"), ["1-0"]);
    let error = client.err("MEM.REEMBED k PRECISION f16");
    assert!(error.contains("the caller's own") && error.contains("MODEL"), "{error}");
    assert!(client.err("MEM.REEMBED k").starts_with("NOMODEL"));
    assert!(client.err("MEM.REEMBED k PRECISION f8").contains("f8"));
    assert!(client.err("MEM.REEMBED missing").contains("no such space"));
    client.ok("SET string x");
    assert!(client.err("MEM.REEMBED string").starts_with("WRONGTYPE"));
    client.ok("MULTI");
    client.ok("MEM.REEMBED k PRECISION i8");
    let replies = client.ok("EXEC").items();
    assert!(format!("{:?}", replies[0]).contains("refused inside MULTI"), "{replies:?}");
    let error = client.err_words(&words!["EVAL", "return redis.call('MEM.REEMBED', KEYS[1])", 1, "k"]);
    assert!(error.contains("refused inside MULTI"), "{error}");
}

#[test]
fn another_model_than_the_one_here_is_refused_by_name() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE k text NOEMBED");
    let error = client.err("MEM.REEMBED k MODEL other");
    assert!(error.starts_with("NOMODEL") && error.contains("all-MiniLM-L6-v2") && error.contains("other"), "{error}");
    assert_eq!(client.ok("GEMMA.JOBS").items().len(), 0);
}

#[test]
fn it_is_read_and_written_while_it_moves() {
    let server = Server::with_text(&["engram.threads 2"]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k precision f32");
    for (id, values) in [("1-0", "1 0"), ("2-0", "0 1"), ("3-0", "1 1"), ("4-0", "1 2")] {
        client.ok(&format!("MEM.STORE k text-{id} ID {id} VALUES 2 {values}"));
    }
    let before = client.digest("k");
    let run = hold(&server, "MEM.REEMBED k JOB move");
    // Nothing of it is seen, and it breaks no WATCH.
    assert_eq!(client.digest("k"), before);
    assert_eq!(client.ids("MEM.RECALL k VALUES 2 0 1 K 1"), ["2-0"]);
    let error = client.err("MEM.REEMBED k");
    assert!(error.contains("already"), "{error}");
    client.ok("MEM.UPDATE k 1-0 CONTENT 'the puppy is brown' VALUES 2 0.5 0.5");
    client.ok("MEM.FORGET k 2-0");
    client.ok("MEM.STORE k 'a late one' ID 5-0 VALUES 2 5 1");
    client.ok("WATCH k");
    server.open_latch();
    let report = run.finish().unwrap();
    assert_eq!((report.field("memories").int(), report.field("replaced").int()), (4, 6));
    client.ok("MULTI");
    client.ok("PING");
    assert!(client.try_run("EXEC").unwrap().is_nil(), "the switch is a change");
    for id in ["1-0", "3-0", "4-0", "5-0"] {
        assert_eq!(memory_vectors(&mut client, id), 1, "{id}");
    }
    assert_eq!(client.ids("MEM.RECALL k 'a small dog' MODE dense K 1"), ["1-0"], "by the text that it has now");
    assert_eq!(client.ok("GEMMA.RESULT move").field("memories").int(), 4);
}

#[test]
fn cancelled_it_leaves_the_space_as_it_was() {
    let server = Server::with_text(&["engram.threads 2"]);
    let mut client = server.client();
    client.ok("MEM.STORE k text ID 1-0 VALUES 2 1 0");
    let before = client.digest("k");
    let run = hold(&server, "MEM.REEMBED k JOB move");
    assert!(staged_bytes(&mut client) > 0);
    assert_eq!(client.ok("GEMMA.CANCEL move").int(), 1);
    server.open_latch();
    let error = run.finish().unwrap_err();
    assert!(error.starts_with("CANCELLED"), "{error}");
    assert_eq!((client.digest("k"), staged_bytes(&mut client)), (before, 0));
    client.ok("MEM.REEMBED k");
}

#[test]
fn a_space_that_goes_meanwhile_is_not_brought_back() {
    let server = Server::with_text(&["engram.threads 2"]);
    let mut client = server.client();
    for going in ["DEL k", "FLUSHALL", "RENAME k other", "SET k string"] {
        client.ok("FLUSHALL");
        client.ok("MEM.STORE k text NOEMBED");
        let run = hold(&server, "MEM.REEMBED k");
        client.ok(going);
        server.open_latch();
        let error = run.finish().unwrap_err();
        assert!(error.starts_with("STALE"), "{going}: {error}");
        assert_ne!(client.ok("TYPE k").text(), "engram-ms", "{going}");
    }
    // The renamed one is left without what was staged of it.
    client.ok("FLUSHALL");
    client.ok("MEM.STORE old text NOEMBED");
    let run = hold(&server, "MEM.REEMBED old");
    client.ok("RENAME old k");
    server.open_latch();
    run.finish().unwrap_err();
    wait_until("the timer drops what is staged", || staged_bytes(&mut client) == 0);
}

#[test]
fn replicas_and_files_get_the_same_whenever_they_begin() {
    let pair = Pair::start(&[WITH_TEXT, "engram.threads 2"]);
    pair.primary.wait_for_encoder();
    let mut client = pair.primary.client();
    store_bare(&mut client, 150);
    client.ok("MEM.STORE k 'an own vector' VALUES 3 1 2 3");
    let run = hold(&pair.primary, "MEM.REEMBED k MODEL all-MiniLM-L6-v2 PRECISION f16");
    // In the middle: another replica synchronises, and the append-only file begins anew.
    let late = pair.primary.replica(&[]);
    rewrite_aof(&mut client);
    pair.primary.open_latch();
    assert_eq!(run.finish().unwrap().field("memories").int(), 151);
    late.wait_for_offset(&pair.primary);
    assert_eq!(late.client().digest("k"), client.digest("k"));
    pair.check_persistent(&["k"]);
    assert_eq!(client.ids("MEM.RECALL k 'note number 77 about the harbour' MODE dense K 1"), ["77-0"]);
}

#[test]
fn killed_in_the_middle_it_comes_back_as_it_was() {
    let mut server = Server::with_text(&["appendonly yes", "appendfsync always", "engram.threads 2"]);
    let mut client = server.client();
    store_bare(&mut client, 400);
    let digest = client.digest("k");
    client.ok("MEM.REEMBED k JOB move NOWAIT");
    wait_until("some are staged", || {
        client.ok("GEMMA.JOBS").items()[0].maybe("staged").is_some_and(|staged| staged.int() > 0)
    });
    server.kill();
    server.restart(&[]);
    let mut client = server.client();
    assert_eq!(client.digest("k"), digest);
    wait_until("what was staged is dropped", || staged_bytes(&mut client) == 0);
    server.wait_for_encoder();
    assert_eq!(client.ok("MEM.REEMBED k").field("embedded").int(), 400);
}

#[test]
fn a_replica_that_takes_over_drops_what_was_staged() {
    let primary = Server::with_text(&["engram.threads 2"]);
    let mut client = primary.client();
    client.ok("MEM.STORE k text ID 1-0 NOEMBED");
    let replica = primary.replica(&[]);
    let run = hold(&primary, "MEM.REEMBED k");
    replica.wait_for_offset(&primary);
    let mut promoted = replica.client();
    assert!(staged_bytes(&mut promoted) > 0);
    promoted.ok("REPLICAOF NO ONE");
    wait_until("the new primary drops it", || staged_bytes(&mut promoted) == 0);
    primary.open_latch();
    run.finish().unwrap();
}
