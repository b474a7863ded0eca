//! Whatever happens to a key, a client or the server while a job is at work, the outcome is one of those stated here: nothing is half done, nothing is
//! written in the wrong place, and no key comes back.
//!
//! The latch holds a job at the point where its work is done and its result not yet committed. What the whole data set is after the act is compared
//! with what it is after the job has ended.

use redis::Value;

use crate::client::{Client, Reply, words};
use crate::harness::{Pending, Server, pause_ms, wait_until};

/// What is done meanwhile.
type Act = (&'static str, fn(&mut Client));

/// A job that writes, on a space `k` with one memory that can rise.
#[derive(Clone, Copy, Debug)]
enum Work {
    Store,
    MStore,
    Update,
    Consolidate,
}

const ALL: [Work; 4] = [Work::Store, Work::MStore, Work::Update, Work::Consolidate];

/// Starts the job and waits until it is held.
fn hold(server: &Server, work: Work, name: &str) -> Pending {
    server.close_latch();
    let pending = match work {
        Work::Store => server.begin_words(words!["MEM.STORE", "k", format!("new text of {name}")]),
        Work::MStore => server.begin_words(words!["MEM.MSTORE", "k", format!("{{\"content\":\"batch of {name}\"}}")]),
        Work::Update => {
            server.begin_words(words!["MEM.UPDATE", "k", "1-0", "CONTENT", format!("other text of {name}")])
        }
        Work::Consolidate => server.begin("MEM.CONSOLIDATE k"),
    };
    server.wait_held(1);
    pending
}

/// Whether the job's write stands in the space at `key`.
fn is_done(client: &mut Client, key: &str, work: Work) -> bool {
    match work {
        Work::Store | Work::MStore => client.count(key) == 2,
        Work::Update => {
            client.ok(&format!("MEM.GET {key} 1-0")).items()[0].field("content").text().starts_with("other text")
        }
        Work::Consolidate => client.ok(&format!("MEM.GET {key} 1-0")).items()[0].field("tier").text() == "short_term",
    }
}

fn fresh(client: &mut Client) {
    client.ok("FLUSHALL");
    client.ok("MEM.STORE k 'what stands' ID 1-0 TIER working IMPORTANCE 0.9");
}

#[test]
fn a_space_that_is_gone_or_another_is_stale_and_nothing_is_written() {
    let server = Server::with_text(&["engram.threads 2", "appendonly yes", "appendfsync no"]);
    let mut client = server.client();
    let acts: [Act; 12] = [
        ("DEL", |c| drop(c.ok("DEL k"))),
        ("UNLINK", |c| drop(c.ok("UNLINK k"))),
        ("RENAME", |c| drop(c.ok("RENAME k l"))),
        ("RENAME over it", |c| {
            c.ok("MEM.STORE l 'another space' NOEMBED");
            c.ok("RENAME l k");
        }),
        ("SET over it", |c| drop(c.ok("SET k value"))),
        ("MOVE", |c| drop(c.ok("MOVE k 9"))),
        ("SWAPDB", |c| drop(c.ok("SWAPDB 0 1"))),
        ("SWAPDB with another of its name", |c| {
            c.ok("COPY k k DB 1");
            c.ok("SWAPDB 0 1");
        }),
        ("FLUSHALL ASYNC", |c| drop(c.ok("FLUSHALL ASYNC"))),
        ("DEL and a new one", |c| {
            c.ok("DEL k");
            c.ok("MEM.STORE k 'what stands' ID 1-0 TIER working IMPORTANCE 0.9 NOEMBED");
        }),
        ("RESTORE REPLACE", |c| {
            let dump = c.ok("DUMP k").raw();
            c.ok_words(&words!["RESTORE", "k", 0, dump, "REPLACE"]);
        }),
        ("PEXPIRE", |c| {
            c.ok("PEXPIRE k 1");
            wait_until("the key has expired", || c.ok("EXISTS k").int() == 0);
        }),
    ];
    for (act, run) in acts {
        for work in ALL {
            fresh(&mut client);
            let pending = hold(&server, work, act);
            run(&mut client);
            let after = client.ok("DEBUG DIGEST").text();
            server.open_latch();
            let error = pending.finish().expect_err("it must not be written");
            assert!(error.starts_with("STALE ") && error.contains("nothing was written"), "{act}, {work:?}: {error}");
            assert_eq!(client.ok("DEBUG DIGEST").text(), after, "{act}, {work:?}");
        }
    }
    // Reloads give every space a new identity, with the same content.
    for act in ["DEBUG RELOAD", "DEBUG LOADAOF"] {
        for work in ALL {
            fresh(&mut client);
            let before = client.ok("DEBUG DIGEST").text();
            let pending = hold(&server, work, act);
            client.ok(act);
            server.open_latch();
            let error = pending.finish().expect_err("it must not be written");
            assert!(error.starts_with("STALE "), "{act}, {work:?}: {error}");
            assert_eq!(client.ok("DEBUG DIGEST").text(), before, "{act}, {work:?}");
        }
    }
}

#[test]
fn what_leaves_the_space_in_its_place_is_no_obstacle() {
    let server = Server::with_text(&["engram.threads 2"]);
    let mut client = server.client();
    let acts: [Act; 4] = [
        ("COPY", |c| drop(c.ok("COPY k l"))),
        ("RENAME there and back", |c| {
            c.ok("RENAME k l");
            c.ok("RENAME l k");
        }),
        ("another write", |c| drop(c.ok("MEM.CONFIG SET k dedup 0.99"))),
        ("SWAPDB twice", |c| {
            c.ok("SWAPDB 0 1");
            c.ok("SWAPDB 0 1");
        }),
    ];
    for (act, run) in acts {
        for work in ALL {
            fresh(&mut client);
            let pending = hold(&server, work, act);
            run(&mut client);
            server.open_latch();
            let reply = pending.finish();
            assert!(reply.is_ok(), "{act}, {work:?}: {reply:?}");
            assert!(is_done(&mut client, "k", work), "{act}, {work:?}");
            if act == "COPY" {
                assert!(!is_done(&mut client, "l", work), "{work:?}: a copy is what stood when it was made");
            }
        }
    }
}

#[test]
fn a_store_that_began_on_no_key_writes_to_what_stands_there_by_then() {
    let server = Server::with_text(&["engram.threads 2"]);
    let mut client = server.client();
    for (act, line, count) in [
        ("nothing", "PING", 1),
        ("another store", "MEM.STORE k 'came first' NOEMBED", 2),
        ("a space restored under the name", "RENAME other k", 2),
        (
            "a key that came and went",
            "EVAL 'redis.call(\"SET\", KEYS[1], 1); return redis.call(\"DEL\", KEYS[1])' 1 k",
            1,
        ),
    ] {
        client.ok("FLUSHALL");
        client.ok("MEM.STORE other 'an older one' NOEMBED");
        let pending = hold(&server, Work::Store, act);
        assert_eq!(client.ok("EXISTS k").int(), 0);
        client.ok(line);
        server.open_latch();
        assert!(pending.finish().unwrap().text().contains('-'));
        assert_eq!(client.count("k"), count, "{act}");
    }
    client.ok("FLUSHALL");
    let pending = hold(&server, Work::Store, "a string");
    client.ok("SET k value");
    server.open_latch();
    assert!(pending.finish().unwrap_err().starts_with("WRONGTYPE"));
    assert_eq!(client.ok("GET k").text(), "value");
    // A foreign space that appeared does not take its text.
    client.ok("FLUSHALL");
    let pending = hold(&server, Work::Store, "a foreign space");
    client.ok("MEM.STORE k own VALUES 2 1 0");
    let digest = client.digest("k");
    server.open_latch();
    assert!(pending.finish().unwrap_err().starts_with("ERR"));
    assert_eq!(client.digest("k"), digest);
}

#[test]
fn it_is_written_to_the_database_it_was_sent_to() {
    let server = Server::with_text(&["engram.threads 2"]);
    let mut client = server.client();
    let mut other = server.client();
    other.ok("SELECT 4");
    server.close_latch();
    other.send_only(&words!["MEM.STORE", "k", "a text for database four"]);
    server.wait_held(1);
    server.open_latch();
    other.receive().unwrap();
    assert_eq!((client.count("k"), other.count("k")), (0, 1));
}

#[test]
fn an_accepted_write_is_kept_when_its_client_has_gone() {
    let server = Server::with_text(&["engram.threads 2"]);
    let mut client = server.client();
    for work in [Work::Store, Work::MStore, Work::Update] {
        fresh(&mut client);
        let pending = hold(&server, work, "a killed client");
        assert_eq!(client.ok(&format!("CLIENT KILL ID {}", pending.id)).int(), 1);
        assert!(pending.finish().unwrap_err().starts_with("CONNECTION"));
        server.open_latch();
        wait_until("it is written", || is_done(&mut client, "k", work));
        for how in ["TIMEOUT", "ERROR"] {
            fresh(&mut client);
            let pending = hold(&server, work, &format!("a client unblocked by {how}"));
            assert_eq!(client.ok(&format!("CLIENT UNBLOCK {} {how}", pending.id)).int(), 1);
            assert!(pending.finish().unwrap_err().starts_with("UNBLOCKED"), "{work:?} {how}");
            server.open_latch();
            wait_until("it is written", || is_done(&mut client, "k", work));
        }
    }
    // Nobody waits for a consolidation any more: it is cancelled.
    fresh(&mut client);
    let pending = hold(&server, Work::Consolidate, "");
    client.ok(&format!("CLIENT KILL ID {}", pending.id));
    server.wait_held(1);
    wait_until("the killed client is gone", || pending.is_done());
    server.open_latch();
    wait_until("the job has ended", || client.ok("GEMMA.JOBS").items()[0].field("state").text() == "failed");
    assert!(!is_done(&mut client, "k", Work::Consolidate));
    // Unless it was started to go on alone.
    fresh(&mut client);
    server.close_latch();
    let mut leaving = server.client();
    leaving.ok("MEM.CONSOLIDATE k NOWAIT");
    server.wait_held(1);
    drop(leaving);
    server.open_latch();
    wait_until("it is written", || is_done(&mut client, "k", Work::Consolidate));
}

#[test]
fn a_paused_server_writes_nothing_until_the_pause_ends() {
    let server = Server::with_text(&["engram.threads 2"]);
    let mut client = server.client();
    let _replica = server.replica(&[]);
    for work in ALL {
        fresh(&mut client);
        let pending = hold(&server, work, "a pause");
        let digest = client.digest("k");
        client.ok("CLIENT PAUSE 60000 WRITE");
        server.open_latch();
        pause_ms(250);
        assert_eq!(client.digest("k"), digest, "{work:?}");
        assert!(!pending.is_done(), "{work:?}: it is answered when it is written");
        assert_ne!(client.info("engram_commits_waiting"), "0");
        client.ok("CLIENT UNPAUSE");
        pending.finish().unwrap();
        assert!(is_done(&mut client, "k", work), "{work:?}");
    }
    // The same when even reads are held back; the pause ends by itself.
    fresh(&mut client);
    let pending = hold(&server, Work::Store, "a pause of all");
    server.open_latch();
    client.ok("CLIENT PAUSE 300 ALL");
    pending.finish().unwrap();
    assert!(is_done(&mut client, "k", Work::Store));
    // What is checked, is checked when the pause has ended: a key that expires meanwhile is gone by then.
    fresh(&mut client);
    let pending = hold(&server, Work::Store, "a key that expires in the pause");
    client.ok("PEXPIRE k 100");
    client.ok("CLIENT PAUSE 60000 WRITE");
    server.open_latch();
    pause_ms(200);
    assert!(!pending.is_done());
    client.ok("CLIENT UNPAUSE");
    assert!(pending.finish().unwrap_err().starts_with("STALE"));
    assert_eq!(client.ok("EXISTS k").int(), 0);
}

#[test]
fn what_no_longer_fits_into_memory_is_refused_at_the_commit() {
    let server = Server::with_text(&["engram.threads 2"]);
    let mut client = server.client();
    for work in [Work::Store, Work::MStore, Work::Update] {
        fresh(&mut client);
        // Under pressure the timer gives up what is not pinned.
        client.ok("MEM.UPDATE k 1-0 PIN");
        let digest = client.digest("k");
        let pending = hold(&server, work, "no memory");
        client.ok("CONFIG SET maxmemory 1");
        server.open_latch();
        assert!(pending.finish().unwrap_err().starts_with("OOM"), "{work:?}");
        client.ok("CONFIG SET maxmemory 0");
        assert_eq!(client.digest("k"), digest);
    }
}

#[test]
fn a_power_cut_leaves_what_was_committed() {
    let mut server = Server::with_text(&["engram.threads 2", "appendonly yes", "appendfsync always"]);
    for work in ALL {
        let mut client = server.client();
        fresh(&mut client);
        let digest = client.digest("k");
        let pending = hold(&server, work, "a power cut");
        server.kill();
        assert!(pending.finish().unwrap_err().starts_with("CONNECTION"));
        server.restart(&[]);
        server.wait_for_encoder();
        assert_eq!(server.client().digest("k"), digest, "{work:?}");
    }
}

#[test]
fn a_demoted_server_writes_nothing_more() {
    let server = Server::with_text(&["engram.threads 4"]);
    let other = Server::plain(&[]);
    other.client().ok("SET from other");
    let mut client = server.client();
    for work in ALL {
        fresh(&mut client);
        let pending = hold(&server, work, "a demotion");
        client.ok(&format!("REPLICAOF 127.0.0.1 {}", other.port));
        server.open_latch();
        let reply = pending.finish();
        // The server unblocks clients that wait when it becomes a replica; if the job was first, it was refused.
        let error = reply.expect_err("a replica takes no writes");
        assert!(error.starts_with("UNBLOCKED") || error.starts_with("READONLY"), "{work:?}: {error}");
        server.wait_for_link();
        assert_eq!(
            client.ok("DEBUG DIGEST").text(),
            other.client().ok("DEBUG DIGEST").text(),
            "{work:?}: the replica is what its primary is"
        );
        client.ok("REPLICAOF NO ONE");
    }
}

#[test]
fn timer_steps_obey_the_same_rules() {
    let server = Server::plain(&["engram.threads 2"]);
    let mut client = server.client();
    let make = |client: &mut Client| {
        client.ok("FLUSHALL");
        client.ok("MEM.STORE k rising ID 1-0 TIER working IMPORTANCE 0.9 NOEMBED");
    };
    let hold_timer = |client: &mut Client| {
        make(client);
        server.close_latch();
        client.ok("MEM.CONFIG SET k consolidate-interval 1");
        server.wait_held(1);
        // One run is enough.
        client.ok("MEM.CONFIG SET k consolidate-interval 0");
    };
    for act in ["DEL k", "RENAME k l", "SET k value", "FLUSHALL ASYNC", "SWAPDB 0 1"] {
        hold_timer(&mut client);
        client.ok(act);
        let after = client.ok("DEBUG DIGEST").text();
        server.open_latch();
        server.wait_held(0);
        pause_ms(30);
        assert_eq!(client.ok("DEBUG DIGEST").text(), after, "{act}");
    }
    hold_timer(&mut client);
    client.ok("CLIENT PAUSE 60000 WRITE");
    server.open_latch();
    pause_ms(150);
    assert_eq!(client.ok("MEM.GET k 1-0").items()[0].field("tier").text(), "working");
    client.ok("CLIENT UNPAUSE");
    wait_until("it has risen", || client.ok("MEM.GET k 1-0").items()[0].field("tier").text() == "short_term");
    // Expiry waits for the end of a pause too, and hides meanwhile.
    client.ok("MEM.STORE k short ID 2-0 TTL 1 NOEMBED");
    client.ok("CLIENT PAUSE 60000 WRITE");
    pause_ms(1_150);
    assert_eq!((client.count("k"), client.ok("MEM.STATS k").field("expirations").int()), (1, 0));
    client.ok("CLIENT UNPAUSE");
    wait_until("it is taken away", || client.ok("MEM.STATS k").field("expirations").int() == 1);
}

#[test]
fn the_queue_has_a_limit_and_says_so() {
    let server = Server::with_text(&["engram.threads 2", "engram.queue-limit 2"]);
    let mut client = server.client();
    client.ok("MEM.STORE standing 'has a vector'");
    server.close_latch();
    let first = server.begin("MEM.STORE k 'the first'");
    let second = server.begin("MEM.STORE k 'the second'");
    server.wait_held(2);
    let third = client.err("MEM.STORE k 'the third'");
    assert!(third.starts_with("QUEUEFULL") && third.contains("engram.queue-limit is 2"), "{third}");
    client.ok("MEM.STORE k 'takes no place' NOEMBED");
    assert!(client.err("MEM.RECALL standing 'anything new'").starts_with("QUEUEFULL"));
    assert!(client.err("MEM.MSTORE k '{\"content\":\"fourth\"}'").starts_with("QUEUEFULL"));
    assert!(client.err("GEMMA.EMBED 1 'the fifth'").starts_with("QUEUEFULL"));
    assert_eq!(client.info("engram_queued"), "2");
    server.open_latch();
    first.finish().unwrap();
    second.finish().unwrap();
    client.ok("MEM.STORE k 'the third'");
    assert_eq!(client.count("k"), 4);
    assert_eq!(client.info("engram_queued"), "0");
}

#[test]
fn waiting_clients_are_seen_by_slowlog_and_info() {
    let server = Server::with_text(&["engram.threads 2", "slowlog-log-slower-than 0"]);
    let mut client = server.client();
    server.close_latch();
    let pending = server.begin("MEM.STORE k 'seen while it waits'");
    server.wait_held(1);
    assert_eq!(client.info("blocked_clients"), "1");
    assert_eq!(client.info("engram_blocked_clients"), "1");
    server.open_latch();
    assert!(matches!(pending.finish(), Ok(Value::BulkString(_))));
    let slow = client.ok("SLOWLOG GET 50").items();
    let mine =
        slow.iter().map(Reply::items).find(|entry| entry[3].texts()[0] == "MEM.STORE").expect("it is in the slowlog");
    assert!(mine[2].int() > 200, "the time of the encoder is in it: {} µs", mine[2].int());
}
