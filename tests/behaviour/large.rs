//! Spaces large enough that looking at every memory is no work for the main thread: the same answers, and the same rules when something happens
//! meanwhile.

use crate::client::{Client, Reply, blob, words};
use crate::digest::Pair;
use crate::harness::{Server, pause_ms, wait_until};

const MEMORIES: u64 = 3_000;

/// Memories `1-0`, `2-0` …: importance n % 10 / 10, session n % 3, AT n, META n % 7.
fn fill(client: &mut Client) {
    client.ok("MEM.CONFIG SET k short_term.capacity 0");
    let mut command = words!["MEM.MSTORE", "k"];
    for n in 1..=MEMORIES {
        command.push(
            format!(
                "{{\"id\":\"{n}-0\",\"content\":\"memory {n}\",\"noembed\":true,\"importance\":0.{},\"session\":\"s{}\",\"at\":{n},\"meta\":{{\"n\":{}}}}}",
                n % 10,
                n % 3,
                n % 7
            )
            .into_bytes(),
        );
    }
    assert_eq!(client.ok_words(&command).items().len() as u64, MEMORIES);
}

fn ids(matches: impl Fn(u64) -> bool) -> Vec<String> {
    (1..=MEMORIES).filter(|n| matches(*n)).map(|n| format!("{n}-0")).collect()
}

#[test]
fn filters_select_the_same_inside_and_outside_a_transaction() {
    let server = Server::plain(&["engram.threads 2"]);
    let mut client = server.client();
    fill(&mut client);
    let expected = ids(|n| n % 7 == 3 && n % 10 >= 5);
    let filter = "FILTER '.n == 3 and .importance >= 0.5'";
    let check = |count: i64, timeline: Vec<String>, dry: Vec<String>, scan: &redis::Value| {
        assert_eq!(count as usize, expected.len());
        assert_eq!(timeline, expected);
        assert_eq!(dry, expected);
        let step = scan.items();
        assert_eq!(step[0].text(), "2500-0");
        let within = step[1].items().iter().map(|m| m.field("id").text()).collect::<Vec<_>>();
        assert_eq!(within, ids(|n| n <= 2_500 && n % 7 == 3 && n % 10 >= 5));
    };
    let listed = |reply: &redis::Value| reply.items().iter().map(|m| m.field("id").text()).collect::<Vec<_>>();
    check(
        client.ok(&format!("MEM.COUNT k {filter}")).int(),
        client.ids(&format!("MEM.TIMELINE k - + {filter}")),
        client.ok(&format!("MEM.FORGET k {filter} DRYRUN")).texts(),
        &client.ok(&format!("MEM.SCAN k 0 COUNT 2500 {filter}")),
    );
    client.ok("MULTI");
    client.ok(&format!("MEM.COUNT k {filter}"));
    client.ok(&format!("MEM.TIMELINE k - + {filter}"));
    client.ok(&format!("MEM.FORGET k {filter} DRYRUN"));
    client.ok(&format!("MEM.SCAN k 0 COUNT 2500 {filter}"));
    let replies = client.ok("EXEC").items();
    check(replies[0].int(), listed(&replies[1]), replies[2].texts(), &replies[3]);
    assert_eq!(client.ids("MEM.TIMELINE k - +"), ids(|_| true));
    let rest = client.ok("MEM.SCAN k 2500-0 COUNT 2500").items();
    assert_eq!((rest[0].text(), rest[1].items().len()), ("0".to_owned(), 500));
    let some = client.ids(&format!("MEM.TIMELINE k 100 (2000 REV COUNT 5 {filter}"));
    let mut reversed: Vec<String> = ids(|n| (100..2_000).contains(&n) && n % 7 == 3 && n % 10 >= 5);
    reversed.reverse();
    assert_eq!(some, reversed[..5]);
    assert!(client.err("MEM.COUNT k FILTER '.importence > 1'").contains("did you mean .importance?"));
    assert!(client.err("MEM.FORGET k FILTER '.importence > 1'").contains("did you mean .importance?"));
    assert_eq!(client.count("k") as u64, MEMORIES);
}

#[test]
fn forgetting_many_is_the_same_on_replica_aof_and_rdb() {
    let pair = Pair::start(&["engram.embedder \"\"", "engram.threads 2"]);
    let mut client = pair.primary.client();
    fill(&mut client);
    assert_eq!(client.ok("MEM.FORGET k FILTER '.n < 3'").int() as usize, ids(|n| n % 7 < 3).len());
    assert_eq!(client.ok("MEM.FORGET k SESSION s1").int() as usize, ids(|n| n % 7 >= 3 && n % 3 == 1).len());
    assert_eq!(client.ids("MEM.TIMELINE k - +"), ids(|n| n % 7 >= 3 && n % 3 != 1));
    pair.check_persistent(&["k"]);
}

#[test]
fn a_much_lower_capacity_comes_to_hold_soon() {
    let pair = Pair::start(&["engram.embedder \"\"", "engram.threads 2"]);
    let mut client = pair.primary.client();
    fill(&mut client);
    client.ok("MEM.UPDATE k 1-0 PIN");
    client.ok("MEM.UPDATE k 2-0 PIN");
    assert!(client.err("MEM.CONFIG SET k short_term.capacity 1").contains("2 pinned memories"));
    client.ok("MEM.CONFIG SET k short_term.capacity 50");
    // A store takes its part of it.
    client.ok("MEM.STORE k 'came since' ID 9999-0 IMPORTANCE 1 NOEMBED");
    wait_until("the capacity holds", || client.count("k") == 50);
    let left = client.ids("MEM.TIMELINE k - +");
    assert!(["1-0", "2-0", "9999-0"].iter().all(|id| left.contains(&(*id).to_owned())));
    assert!(left.iter().all(|id| ["1-0", "2-0"].contains(&id.as_str()) || id.ends_with("9-0")), "{left:?}");
    assert_eq!(client.ok("MEM.STATS k").field("evictions").int() as u64, MEMORIES + 1 - 50);
    pair.check_persistent(&["k"]);
}

#[test]
fn many_that_expire_at_once_go_soon() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k short_term.ttl 1");
    fill(&mut client);
    wait_until("they are gone", || client.ok("MEM.STATS k").field("expirations").int() as u64 == MEMORIES);
    assert_eq!(client.count("k"), 0);
}

#[test]
fn a_copy_goes_its_own_way() {
    let pair = Pair::start(&["engram.embedder \"\"", "engram.threads 2"]);
    let mut client = pair.primary.client();
    fill(&mut client);
    client.ok_words(&words!["MEM.STORE", "k", "with a vector", "ID", "9000-0", "VECTOR", blob(&[1.0, 2.0])]);
    client.ok("COPY k l");
    let before = client.digest("k");
    assert_eq!(client.digest("l"), before);
    // Both write what they shared until now, in turns.
    for n in 0..200 {
        let (own, other) = if n % 2 == 0 { ("k", "l") } else { ("l", "k") };
        client.ok(&format!("MEM.FORGET {own} {}-0", n + 1));
        client.ok(&format!("MEM.UPDATE {other} {}-0 CONTENT 'changed in {other}' NOEMBED", n + 1));
        client.ok_words(&words![
            "MEM.STORE",
            own,
            format!("new in {own}: {n}"),
            "ID",
            format!("{}-0", 10_000 + n),
            "VECTOR",
            blob(&[1.0, n as f32])
        ]);
    }
    for (key, odd) in [("k", 1), ("l", 0)] {
        assert_eq!(client.count(key) as u64, MEMORIES + 1);
        for n in 0..200 {
            let found = client.ok(&format!("MEM.GET {key} {}-0 {}-0", n + 1, 10_000 + n)).items();
            assert_eq!(found.iter().map(Reply::is_nil).collect::<Vec<_>>(), [n % 2 != odd, n % 2 == odd], "{key} {n}");
            if n % 2 == odd {
                assert_eq!(found[0].field("content").text(), format!("changed in {key}"));
            } else {
                assert_eq!(found[1].field("content").text(), format!("new in {key}: {n}"));
            }
        }
    }
    pair.check_persistent(&["k", "l"]);
    client.ok("DEL k");
    assert_eq!(client.count("l") as u64, MEMORIES + 1);
    pair.check_persistent(&["l"]);
}

#[test]
fn a_large_forgetting_obeys_the_rules_of_jobs() {
    let server = Server::plain(&["engram.threads 2"]);
    let mut client = server.client();
    for act in ["DEL k", "RENAME k l", "SET k value", "FLUSHALL ASYNC", "SWAPDB 0 1", "DEBUG RELOAD"] {
        client.ok("FLUSHALL");
        fill(&mut client);
        server.close_latch();
        let pending = server.begin("MEM.FORGET k SESSION s1");
        server.wait_held(1);
        client.ok(act);
        let after = client.ok("DEBUG DIGEST").text();
        server.open_latch();
        let error = pending.finish().expect_err("nothing may be forgotten");
        assert!(error.starts_with("STALE"), "{act}: {error}");
        assert_eq!(client.ok("DEBUG DIGEST").text(), after, "{act}");
    }
    client.ok("FLUSHALL");
    fill(&mut client);
    server.close_latch();
    let pending = server.begin("MEM.FORGET k FILTER '.importance >= 0.5'");
    server.wait_held(1);
    // What does not match any more stays, and what came since as well.
    client.ok("MEM.UPDATE k 5-0 IMPORTANCE 0.1");
    client.ok("MEM.FORGET k 6-0");
    client.ok("MEM.STORE k 'came since' ID 9999-0 IMPORTANCE 0.9 NOEMBED");
    client.ok("CLIENT PAUSE 60000 WRITE");
    server.open_latch();
    pause_ms(200);
    assert_eq!(client.count("k") as u64, MEMORIES);
    client.ok("CLIENT UNPAUSE");
    let gone = ids(|n| n % 10 >= 5).len() as i64 - 2;
    assert_eq!(pending.finish().unwrap().int(), gone);
    assert_eq!(client.count("k"), MEMORIES as i64 - gone);
    assert_eq!(client.ok("MEM.GET k 5-0 9999-0").items().iter().filter(|m| !m.is_nil()).count(), 2);
    // It goes on when its client has gone.
    server.close_latch();
    let pending = server.begin("MEM.FORGET k FILTER '.importance < 0.5'");
    server.wait_held(1);
    client.ok(&format!("CLIENT KILL ID {}", pending.id));
    pending.finish().unwrap_err();
    server.open_latch();
    crate::harness::wait_until("they are forgotten", || client.count("k") == 1);
}

/// The thread that builds an index stops when its space goes. Short vectors are the slowest to tell apart by signs, so it would take long.
#[test]
fn an_index_is_not_built_for_a_space_that_has_gone() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k short_term.capacity 0 lexical off");
    for batch in 0..101 {
        let mut command = words!["MEM.MSTORE", "k"];
        command.extend((0..3_000).map(|n| {
            let n = batch * 3_000 + n;
            format!("{{\"content\":\"{n}\",\"vector\":[{},{}]}}", n % 997 - 500, n % 1_009 - 300).into_bytes()
        }));
        client.ok_words(&command);
    }
    let building = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.flatten().any(|task| name(task).trim() == "engram-index")
    };
    wait_until("an index is being built", building);
    client.ok("DEL k");
    let began = std::time::Instant::now();
    wait_until("the thread has gone", || !building());
    assert!(began.elapsed().as_secs() < 2, "{:?}", began.elapsed());
    assert!(!server.log().contains("built the index"));
}

#[test]
fn many_long_vectors_are_compared_exactly_off_the_main_thread() {
    let server = Server::plain(&["engram.threads 2"]);
    let mut client = server.client();
    const DIMENSIONS: usize = 16_384;
    client.ok("MEM.CONFIG SET k short_term.capacity 0");
    let vector =
        |n: usize| -> Vec<f32> { (0..DIMENSIONS).map(|i| ((i * (2 * n + 1) + n * n) % 97) as f32 - 48.0).collect() };
    for n in 0..140 {
        client.ok_words(&words![
            "MEM.STORE",
            "k",
            format!("memory {n}"),
            "ID",
            format!("{}-0", n + 1),
            "VECTOR",
            blob(&vector(n))
        ]);
    }
    let query = vector(1_000);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let mut expected: Vec<(f64, String)> = (0..140)
        .map(|n| {
            let v = vector(n);
            (dot(&query, &v) / (dot(&query, &query) * dot(&v, &v)).sqrt(), format!("{}-0", n + 1))
        })
        .collect();
    expected.sort_by(|a, b| b.0.total_cmp(&a.0));
    let recall = words!["MEM.RECALL", "k", "VECTOR", blob(&query), "K", 20];
    let check = |reply: &redis::Value| {
        let found = reply.items();
        assert_eq!(found.len(), 20);
        for (memory, (cosine, id)) in found.iter().zip(&expected) {
            assert!((memory.field("similarity").float() - cosine).abs() < 0.01, "{id}");
        }
    };
    check(&client.ok_words(&recall));
    let uses: i64 = (1..=140).map(|n| client.ok(&format!("MEM.GET k {n}-0")).items()[0].field("uses").int()).sum();
    assert_eq!(uses, 20, "use is noted when the reply is written");
    // What was asked before is answered from what stood then.
    for _ in 0..5 {
        client.send_only(&recall);
        client.send_only(&words!["PING"]);
    }
    let mut other = server.client();
    other.ok("DEL k");
    for _ in 0..5 {
        let reply = client.receive().unwrap();
        if !reply.items().is_empty() {
            check(&reply);
        }
        client.receive().unwrap();
    }
}

#[test]
fn many_comparisons_by_similarity_are_refused_in_one_command() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    fill(&mut client);
    client.ok_words(&words!["MEM.STORE", "k", "the first vector", "VECTOR", blob(&[1.0; 16_384])]);
    let items = |n: usize| {
        let mut command = words!["MEM.MSTORE", "k"];
        command.extend(
            (0..n).map(|i| format!("{{\"content\":\"one of {n}, {i}\",\"noembed\":true,\"dedup\":0.9}}").into_bytes()),
        );
        command
    };
    let error = client.err_words(&items(10));
    assert!(error.contains("send at most 8 of them at once"), "{error}");
    assert_eq!(client.count("k"), MEMORIES as i64 + 1);
    client.ok_words(&items(5));
    assert_eq!(client.count("k"), MEMORIES as i64 + 6);
}

#[test]
fn a_recall_makes_room_for_others_and_finds_the_same() {
    const DIM: usize = 8_192;
    let server = Server::plain(&["engram.threads 2", "engram.queue-limit 1"]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k short_term.capacity 0");
    let vector =
        |n: usize| -> Vec<f32> { (0..DIM).map(|i| ((i * 31 + n * 97 + i * n) % 1_009) as f32 - 500.0).collect() };
    for n in 0..2_000 {
        client.send_only(&words!["MEM.STORE", "k", format!("memory {n}"), "VECTOR", blob(&vector(n))]);
    }
    (0..2_000).for_each(|_| assert!(client.receive().unwrap().text().contains('-')));
    let recall = |client: &mut Client, n: usize| {
        let found = client.ok_words(&words!["MEM.RECALL", "k", "VECTOR", blob(&vector(n)), "K", 20]).items();
        found.iter().map(|hit| (hit.field("id").text(), hit.field("score").text())).collect::<Vec<_>>()
    };
    let pooled = |client: &mut Client| client.info("engram_recalls_on_the_pool").parse::<u64>().unwrap();
    // Alone, after a pause: on the main thread.
    pause_ms(50);
    let before = pooled(&mut client);
    let alone: Vec<_> = (0..50).map(|n| recall(&mut client, n)).collect();
    assert_eq!(pooled(&mut client), before);
    assert_eq!(alone.iter().map(Vec::len).collect::<Vec<_>>(), [20; 50], "{:?}", client.count("k"));
    // Beside others, one of whom writes: on the pool too.
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = server.client();
                    (0..50).map(|n| recall(&mut client, n)).collect::<Vec<_>>()
                })
            })
            .collect();
        for n in 0..200 {
            client.ok(&format!("MEM.STORE other 'memory {n}' NOEMBED"));
        }
        readers.into_iter().for_each(|reader| assert_eq!(reader.join().unwrap(), alone));
    });
    assert!(pooled(&mut client) > before);
    // What was found counts as used, wherever it was looked for.
    let id = &alone[0][0].0;
    assert!(client.ok(&format!("MEM.GET k {id}")).items()[0].field("uses").int() >= 4);
}
