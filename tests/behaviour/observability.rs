//! What an operator sees: INFO, MEM.STATS, MEM.REPORT, and the alerts.

use std::time::{Duration, Instant};

use redis::Value;
use serde_json::Value as Json;

use crate::client::{Client, Reply, words};
use crate::harness::{Server, now_ms, pause_ms, wait_until};

/// Settings with which alerts come soon, and only those that a test asks for.
const QUIET: [&str; 6] = [
    "engram.alert-interval 1",
    "engram.alert-memory 0",
    "engram.alert-hit-rate 0",
    "engram.alert-evictions 0",
    "engram.alert-queue 0",
    "engram.alert-latency 0",
];

/// A subscriber of the alerts.
struct Listener(Client);

impl Listener {
    fn of(server: &Server) -> Listener {
        let mut client = server.client();
        client.send_only(&words!["SUBSCRIBE", "engram:alerts"]);
        client.receive().unwrap();
        Listener(client)
    }

    /// The next alert, which must be this one.
    #[track_caller]
    fn hear(&mut self, what: &str, space: Option<&str>, over: bool) -> Json {
        let news = self.0.receive().unwrap().items();
        assert_eq!((news[0].text(), news[1].text()), ("message".to_owned(), "engram:alerts".to_owned()));
        let json: Json = serde_json::from_str(&news[2].text()).unwrap();
        assert_eq!(
            (json["what"].as_str(), json["space"].as_str(), json["over"].as_bool()),
            (Some(what), space, Some(over)),
            "{json}"
        );
        assert_eq!(json["db"].as_i64(), space.map(|_| 0), "{json}");
        assert!(json["value"].is_number() && json["threshold"].is_number(), "{json}");
        assert!(json["at"].as_u64().unwrap().abs_diff(now_ms()) < 10_000, "{json}");
        json
    }
}

fn number(client: &mut Client, field: &str) -> u64 {
    client.info(field).parse().unwrap_or_else(|_| panic!("{field} is no number"))
}

#[test]
fn info_counts_what_all_spaces_did_and_how_long_it_took() {
    let server = Server::with_text(&["engram.model random-q4_0.gguf"]);
    server.wait_for_models(1);
    let mut client = server.client();
    const OPERATIONS: [&str; 7] = ["store", "recall", "embed", "generate", "first_token", "consolidate", "context"];
    for operation in OPERATIONS {
        for part in ["count", "p50_usec", "p99_usec"] {
            assert_eq!(number(&mut client, &format!("engram_{operation}_{part}")), 0, "{operation}");
        }
    }
    client.ok("MEM.STORE k 'Ada keeps two hens' ID 1-0 TIER working IMPORTANCE 0.9");
    client.ok("MEM.STORE other 'Ada keeps two hens'");
    client.ok("MEM.STORE other 'Ada keeps two hens'");
    client.ok("MEM.STORE other b NOEMBED");
    assert!(client.err("MEM.STORE other c ID 0-0 NOEMBED").starts_with("ERR"));
    client.ok("MEM.RECALL k 'which animals?'");
    client.ok("MEM.RECALL k 'which animals?' MINSCORE 0.99 MODE dense");
    client.ok("MEM.CONSOLIDATE k");
    client.ok("MEM.CONSOLIDATE k DRYRUN");
    client.ok("MEM.CONTEXT k QUERY animals");
    client.ok("MEM.CONTEXT k QUERY animals");
    client.ok("GEMMA.GENERATE hello MAXTOKENS 3");
    client.ok("DEL other");
    for (operation, count) in OPERATIONS.into_iter().zip([4, 2, 4, 1, 1, 1, 2]) {
        let [counted, p50, p99] =
            ["count", "p50_usec", "p99_usec"].map(|part| number(&mut client, &format!("engram_{operation}_{part}")));
        assert_eq!(counted, count, "{operation}");
        assert!(p50 <= p99 && p99 < 30_000_000, "{operation}: {p50} {p99}");
        assert!(p99 > 0 || operation == "context", "{operation}");
    }
    for (counter, count) in [
        ("stores", 3),
        ("duplicates", 1),
        ("hits", 1),
        ("misses", 1),
        ("promotions", 1),
        ("merges", 0),
        ("evictions", 0),
    ] {
        // What a context shows is noted like a recall.
        let noted = if counter == "hits" { number(&mut client, "engram_context_count") } else { 0 };
        assert_eq!(number(&mut client, &format!("engram_{counter}")), count + noted, "{counter}");
    }
    // Every line is a name and a value, and each name is there once.
    let info = client.ok("INFO engram").text();
    let mut names: Vec<&str> = Vec::new();
    for line in info.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, _) = line.split_once(':').unwrap();
        assert!(name.starts_with("engram_") && !names.contains(&name), "{line}");
        names.push(name);
    }
    let waits = server.begin("MEM.RECALL k 'which animals were there?'");
    waits.finish().unwrap();
    assert_eq!(number(&mut client, "engram_recall_count"), 3);
}

#[test]
fn stats_has_the_hit_rate() {
    let server = Server::plain(&[]);
    for mut client in [server.client(), server.client3()] {
        client.ok("FLUSHALL");
        client.ok("MEM.STORE k a VALUES 2 1 0");
        assert!(client.ok("MEM.STATS k").field("hit_rate").is_nil());
        for _ in 0..3 {
            client.ok("MEM.RECALL k VALUES 2 1 0");
        }
        client.ok("MEM.RECALL k VALUES 2 0 1 MINSCORE 0.9");
        assert_eq!(client.ok("MEM.STATS k").field("hit_rate").float(), 0.75);
    }
}

#[test]
fn a_report_is_a_page_of_a_space_and_its_server() {
    let server = Server::with_text(&[]);
    let (mut client, mut other) = (server.client(), server.client3());
    for missing in [client.ok("MEM.REPORT k"), other.ok("MEM.REPORT k")] {
        assert!(missing.is_nil());
    }
    client.ok("SET s text");
    assert!(client.err("MEM.REPORT s").starts_with("WRONGTYPE"));
    assert!(client.err("MEM.REPORT").contains("key"));

    for n in 0..12 {
        client.ok(&format!("MEM.STORE k 'note number {n}' TIER working IMPORTANCE 0.{n}"));
    }
    client.ok("MEM.STORE k 'a pinned one' TIER semantic PIN");
    client.ok("MEM.CONSOLIDATE k");
    client.ok("MEM.RECALL k 'which notes?'");
    client.ok("MEM.CONFIG SET k max-memory 1gb");
    let lines = client.ok("MEM.REPORT k").texts();
    let line = |name: &str| {
        let line = lines.iter().find(|line| line.trim_start().starts_with(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{}", lines.join("\n"))).clone()
    };
    assert!(lines.iter().all(|line| line.chars().count() <= 76), "{}", lines.join("\n"));
    assert!(lines[0].starts_with("k ") && lines[0].contains(" memories · "), "{}", lines[0]);
    assert!(line("vectors by").contains("all-MiniLM-L6-v2, 384 × i8"));
    let stats = client.ok("MEM.STATS k");
    for tier in ["working", "short_term", "long_term", "episodic", "semantic"] {
        let of = stats.field("tiers").field(tier);
        assert!(line(tier).contains(&format!(" {} / ", of.field("count").int())), "{}", line(tier));
        assert!(line(tier).contains(['█', '▏', '░']), "{}", line(tier));
    }
    assert!(line("of these").contains("1 pinned"));
    assert!(line("max-memory").contains("of 1.00 GiB"));
    assert!(line("found").contains("████████████████████ 100 %") && line("found").contains("1 of 1"));
    let promoted = stats.field("promotions").int();
    assert!(
        promoted > 0 && line("consolidated").contains(&format!("ago: {promoted} promoted")),
        "{}",
        line("consolidated")
    );
    assert!(line("stored").contains("13") && line("promoted").contains(&promoted.to_string()));
    for name in ["recall", "store", "embed", "consolidate", "embeddings", "job queue"] {
        line(name);
    }
    assert_eq!(lines.last().unwrap(), "  none");

    let Value::VerbatimString { format, text } = other.ok("MEM.REPORT k") else { panic!("not a verbatim string") };
    assert_eq!(format!("{format:?}"), "Text");
    assert_eq!(text.lines().count(), lines.len());
    assert!(text.starts_with("k ") && text.ends_with("\nAlerts\n  none"), "{text}");
    // Whatever the key is called, a line is a line.
    client.ok_words(&words!["MEM.STORE", b"odd\r\n\0name".as_slice(), "a", "NOEMBED"]);
    let odd = client.ok_words(&words!["MEM.REPORT", b"odd\r\n\0name".as_slice()]).texts();
    assert!(odd[0].starts_with("odd") && odd[0].contains("1 memory"), "{}", odd[0]);
    // In a transaction and on a replica too.
    client.ok("MULTI");
    client.ok("MEM.REPORT k");
    assert_eq!(client.ok("EXEC").items()[0].texts().len(), lines.len());
    let replica = server.replica(&[]);
    let there = replica.client().ok("MEM.REPORT k").texts();
    assert!(
        there[0].starts_with("k ") && there.iter().any(|line| line.contains("not since this server has the space"))
    );
}

#[test]
fn alerts_of_a_space_begin_once_and_are_over_once() {
    let server = Server::plain(&QUIET);
    let mut client = server.client();
    let mut listener = Listener::of(&server);
    for n in 0..4 {
        client.ok(&format!("MEM.STORE k working-{n} TIER working VALUES 2 1 {n}"));
    }

    // The hit rate of the last thousand recalls.
    client.ok("CONFIG SET engram.alert-hit-rate 50");
    let recalls = |client: &mut Client, count: usize, score: &str| {
        let script = "for i = 1, tonumber(ARGV[1]) do redis.call('MEM.RECALL', KEYS[1], 'VALUES', '2', '-1', '0', 'MINSCORE', ARGV[2]) end";
        client.ok_words(&words!["EVAL", script, 1, "k", count, score]);
    };
    recalls(&mut client, 999, "0.9");
    pause_ms(2_300);
    assert_eq!(number(&mut client, "engram_alerts_begun"), 0, "999 recalls are not a thousand");
    recalls(&mut client, 1, "0.9");
    // Of the server as a whole too: whichever is compared first.
    let mut both = [listener.0.receive().unwrap(), listener.0.receive().unwrap()].map(|news| news.items()[2].text());
    both.sort();
    assert!(both.iter().all(|text| text.contains(r#""what":"hit_rate""#) && text.contains(r#""value":0"#)), "{both:?}");
    assert!(
        both.iter().any(|text| text.contains(r#""space":"k""#))
            && both.iter().any(|text| text.contains(r#""space":null"#))
    );
    assert_eq!([number(&mut client, "engram_alerts_active"), number(&mut client, "engram_alerts_hit_rate")], [2, 2]);
    let told = client.info("engram_alert1");
    assert!(told.starts_with("what=hit_rate,value=0,threshold=50,since=") && told.ends_with(",db=0,space=k"), "{told}");
    assert!(
        server.log().contains("engram: alert: space 'k' in database 0: recalls with a result: 0 %, threshold 50 %")
    );
    let page = client.ok("MEM.REPORT k").texts().join("\n");
    assert!(
        page.contains("! recalls with a result: 0 %") && page.contains("! server: recalls with a result: 0 %"),
        "{page}"
    );
    recalls(&mut client, 500, "-1");
    for _ in 0..2 {
        let over = listener.0.receive().unwrap().items()[2].text();
        assert!(over.contains(r#""over":true"#) && over.contains(r#""value":50"#), "{over}");
    }
    assert_eq!([number(&mut client, "engram_alerts_active"), number(&mut client, "engram_alerts_begun")], [0, 2]);
    assert!(server.log().contains("engram: alert over after"));
    client.ok("CONFIG SET engram.alert-hit-rate 0");

    // Memory, of a limit of its own.
    let tiers = client.ok("MEM.STATS k").field("tiers");
    let bytes: i64 = tiers.pairs().iter().map(|(_, tier)| tier.field("bytes").int()).sum();
    client.ok("CONFIG SET engram.alert-memory 80");
    client.ok(&format!("MEM.CONFIG SET k max-memory {}", bytes * 10 / 9));
    let began = listener.hear("memory", Some("k"), false);
    assert!((89.0..=91.0).contains(&began["value"].as_f64().unwrap()) && began["threshold"] == 80.0, "{began}");
    // It goes on, and nothing more is said, until the limit is another.
    pause_ms(2_300);
    client.ok("MEM.CONFIG SET k max-memory 1gb");
    assert!(listener.hear("memory", Some("k"), true)["value"].as_f64().unwrap() < 1.0);

    // Above its limit it gives up memories, the least valuable first.
    let given_up = number(&mut client, "engram_given_up_memories");
    client.ok("CONFIG SET engram.alert-memory 0");
    client.ok(&format!("MEM.CONFIG SET k max-memory {}", bytes / 2));
    listener.hear("pressure", Some("k"), false);
    listener.hear("pressure", Some("k"), true);
    let gone = number(&mut client, "engram_given_up_memories") - given_up;
    assert_eq!((gone as i64, number(&mut client, "engram_pressure")), (4 - client.count("k"), 0));
    assert!(number(&mut client, "engram_given_up_bytes") as i64 >= bytes / 2);

    // Evictions.
    client.ok("CONFIG SET engram.alert-evictions 1");
    client.ok("MEM.CONFIG SET e working.capacity 2");
    // First seen, it has no window yet.
    pause_ms(300);
    for n in 0..4 {
        client.ok(&format!("MEM.STORE e working-{n} TIER working NOEMBED"));
    }
    let mut heard = [listener.0.receive(), listener.0.receive(), listener.0.receive(), listener.0.receive()]
        .map(|news| news.unwrap().items()[2].text());
    heard.sort_by_key(|text| text.contains(r#""over":true"#));
    assert!(heard.iter().all(|text| text.contains(r#""what":"evictions""#)), "{heard:?}");
    assert!(
        heard[..2].iter().all(|text| text.contains(r#""over":false"#) && text.contains(r#""value":50"#)),
        "{heard:?}"
    );
}

#[test]
fn an_alert_ends_with_its_space_and_with_its_setting() {
    let server = Server::plain(&QUIET);
    let mut client = server.client();
    let mut listener = Listener::of(&server);
    client.ok("CONFIG SET engram.alert-memory 1");
    for key in ["a", "b"] {
        client.ok(&format!("MEM.STORE {key} 'a memory' NOEMBED"));
        client.ok(&format!("MEM.CONFIG SET {key} max-memory 4kb"));
        listener.hear("memory", Some(key), false);
    }
    client.ok("DEL a");
    listener.hear("memory", Some("a"), true);
    client.ok("CONFIG SET engram.alert-memory 0");
    listener.hear("memory", Some("b"), true);
    client.ok("CONFIG SET engram.alert-memory 1");
    listener.hear("memory", Some("b"), false);
    // Without comparisons nothing is known.
    client.ok("CONFIG SET engram.alert-interval 0");
    wait_until("no alert is left", || number(&mut client, "engram_alerts_active") == 0);
}

#[test]
fn alerts_of_the_server_tell_of_its_queue_and_its_latencies() {
    let mut lines = QUIET.to_vec();
    lines.extend(["engram.model random-q4_0.gguf", "engram.threads 2", "engram.queue-limit 4"]);
    let server = Server::with_text(&lines);
    server.wait_for_models(1);
    let mut client = server.client();
    let mut listener = Listener::of(&server);

    client.ok("CONFIG SET engram.alert-queue 75");
    client.ok("CONFIG SET engram.queue-limit 2");
    server.close_latch();
    let held: Vec<_> = (0..2).map(|n| server.begin(&format!("MEM.STORE k 'a text of its own {n}'"))).collect();
    server.wait_held(2);
    assert_eq!(listener.hear("queue", None, false)["value"], 100.0);
    server.open_latch();
    listener.hear("queue", None, true);
    held.into_iter().for_each(|held| drop(held.finish().unwrap()));
    client.ok("CONFIG SET engram.alert-queue 0");

    // A recall waits for the turns before it, and the wait counts.
    client.ok("CONFIG SET engram.queue-limit 100");
    server.close_latch();
    client.ok("MEM.SESSION APPEND k s user 'a turn that waits for its vector'");
    server.wait_held(1);
    client.ok("CONFIG SET engram.alert-latency 200");
    let recall = server.begin("MEM.RECALL k 'which turn?'");
    pause_ms(400);
    server.open_latch();
    recall.finish().unwrap();
    assert!(listener.hear("recall_p99", None, false)["value"].as_f64().unwrap() > 380.0);
    listener.hear("recall_p99", None, true);

    client.ok("CONFIG SET engram.alert-latency 1");
    client.ok("GEMMA.GENERATE hello MAXTOKENS 100");
    listener.hear("generate_p99", None, false);
    listener.hear("generate_p99", None, true);
    assert_eq!(number(&mut client, "engram_alerts_begun"), 3);
}

#[test]
fn pressure_is_told_and_counted_and_is_over_when_there_is_room() {
    let mut lines = QUIET.to_vec();
    lines.retain(|line| !line.starts_with("engram.alert-memory"));
    let server = Server::plain(&lines);
    let mut client = server.client();
    let mut listener = Listener::of(&server);
    client.ok("MEM.CONFIG SET k working.capacity 0");
    for n in 0..40 {
        client.ok(&format!("MEM.STORE k working-{n} TIER working NOEMBED"));
        client.ok(&format!("MEM.STORE k semantic-{n} TIER semantic NOEMBED"));
    }
    client.ok("CONFIG SET maxmemory 1");
    let began = listener.hear("pressure", None, false);
    assert!(began["value"].as_f64().unwrap() > 98.0 && began["threshold"] == 98.0, "{began}");
    listener.hear("memory", None, false);
    wait_until("what may go has gone", || number(&mut client, "engram_given_up_memories") == 40);
    assert!(number(&mut client, "engram_given_up_bytes") > 40 * 100);
    assert_eq!((number(&mut client, "engram_pressure"), number(&mut client, "engram_alerts_pressure")), (1, 1));
    let page = client.ok("MEM.REPORT k").texts().join("\n");
    assert!(page.contains("now; 40 memories given up") && page.contains("! server: memory pressure"), "{page}");
    client.ok("CONFIG SET maxmemory 0");
    listener.hear("pressure", None, true);
    listener.hear("memory", None, true);
    assert_eq!((number(&mut client, "engram_pressure"), client.count("k")), (0, 40));
    let log = server.log();
    assert!(log.contains("engram: alert: server: memory pressure, giving up memories: "), "{log}");
    assert!(
        log.contains("engram: memory pressure is over after ")
            && log.contains(" s: 80 memories were cooled and 40 given up, "),
        "{log}"
    );
}

#[test]
fn a_replica_and_a_paused_server_alert_nobody() {
    let server = Server::plain(&QUIET);
    let replica = server.replica(&[]);
    let mut client = server.client();
    let mut there = replica.client();
    let mut listener = Listener::of(&server);
    let mut beside = replica.client();
    beside.send_only(&words!["SUBSCRIBE", "engram:alerts", "end"]);
    for _ in 0..2 {
        beside.receive().unwrap();
    }
    client.ok("MEM.STORE k 'a memory' NOEMBED");
    client.ok("MEM.CONFIG SET k max-memory 4kb");
    pause_ms(1_300);
    client.ok("CLIENT PAUSE 3000 WRITE");
    let paused = Instant::now();
    client.ok("CONFIG SET engram.alert-memory 1");
    there.ok("CONFIG SET engram.alert-memory 1");
    listener.hear("memory", Some("k"), false);
    assert!(paused.elapsed() > Duration::from_millis(2_900), "told after {:?}", paused.elapsed());
    replica.wait_for_offset(&server);
    pause_ms(1_300);
    assert_eq!((number(&mut there, "engram_alerts_begun"), number(&mut there, "engram_alerts_active")), (0, 0));
    there.ok("PUBLISH end over");
    assert_eq!(beside.receive().unwrap().items()[1].text(), "end", "nothing came before");
    assert!(!replica.log().contains("engram: alert"));
    // A primary that becomes a replica knows of no alert; the new one finds out for itself.
    let mut listener = Listener::of(&replica);
    there.ok("REPLICAOF NO ONE");
    client.ok(&format!("REPLICAOF 127.0.0.1 {}", replica.port));
    listener.hear("memory", Some("k"), false);
    wait_until("it stands down", || number(&mut client, "engram_alerts_active") == 0);
}
