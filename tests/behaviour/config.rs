//! Settings of a space, and settings of the server.

use crate::client::Reply;
use crate::harness::{Server, wait_until};

/// Requirements, table "Tiers", and issue 2.
const DEFAULTS: &str = "working.capacity=10 working.ttl=3600 short_term.capacity=100 short_term.ttl=86400 long_term.capacity=10000 \
     long_term.ttl=2592000 episodic.capacity=1000 episodic.ttl=7776000 semantic.capacity=5000 semantic.ttl=0 \
     working.half-life=0 short_term.half-life=0 long_term.half-life=0 episodic.half-life=0 semantic.half-life=0 eviction=value max-memory=0 precision=i8 template=spoken lexical=on language=english token-vectors=auto ranking=all dedup=0 importance=estimate \
     consolidate-interval=300 consolidate-threshold=0.7 extract=on extract-model= link=on turns-to-summary=30 summaries-to-facts=50 \
     hot-age=604800 hot-uses=5 warm-age=2592000 warm-uses=2 heat-interval=3600 compress=on session.ttl=86400 session.turns=100 context-tokens=4000 \
    context-cache-ttl=300 summarize-at=25 summarize-keep=15 summary-tokens=1000 summary-model= chunk=512 overlap=50";

fn settings(reply: &redis::Value) -> String {
    reply.pairs().iter().map(|(name, value)| format!("{name}={}", value.text())).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_settings_of_a_space_have_the_defaults_of_the_requirements() {
    let server = Server::plain(&[]);
    for mut client in [server.client(), server.client3()] {
        client.ok("FLUSHALL");
        client.ok("MEM.STORE k a NOEMBED");
        assert_eq!(settings(&client.ok("MEM.CONFIG GET k")), DEFAULTS);
        assert_eq!(
            settings(&client.ok("MEM.CONFIG GET k WORKING.*")),
            "working.capacity=10 working.ttl=3600 working.half-life=0"
        );
        assert_eq!(settings(&client.ok("MEM.CONFIG GET k nothing")), "");
        client.ok("MEM.CONFIG SET k working.ttl 30m EVICTION FIFO max-memory 100mb dedup .95");
        assert_eq!(settings(&client.ok("MEM.CONFIG GET k working.ttl")), "working.ttl=1800");
        assert_eq!(settings(&client.ok("MEM.CONFIG GET k eviction")), "eviction=fifo");
        assert_eq!(settings(&client.ok("MEM.CONFIG GET k max-memory")), "max-memory=104857600");
        assert_eq!(settings(&client.ok("MEM.CONFIG GET k dedup")), "dedup=0.95");
    }
}

#[test]
fn settings_are_all_or_nothing_and_make_the_space() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for (line, part) in [
        ("MEM.CONFIG SET k working.ttl 5 working.size 5", "unknown setting 'working.size'"),
        ("MEM.CONFIG SET k working.ttl 5 workin.ttl 5", "did you mean working.ttl?"),
        ("MEM.CONFIG SET k working.ttl 5 dedup 1.5", "a number from 0 to 1"),
        ("MEM.CONFIG SET k working.ttl 5 dedup nan", "a number from 0 to 1"),
        ("MEM.CONFIG SET k working.ttl 5 semantic.ttl -1", "seconds"),
        ("MEM.CONFIG SET k working.ttl 5 semantic.ttl 5y", "seconds"),
        ("MEM.CONFIG SET k working.ttl 5 eviction lru", "value or fifo"),
        ("MEM.CONFIG SET k working.ttl 5 working.capacity 99999999999999999999", "number of memories"),
        ("MEM.CONFIG SET k working.ttl 5 max-memory 1tb", "bytes"),
        ("MEM.CONFIG SET k working.ttl 5 importance high", "estimate, or a number from 0 to 1"),
        ("MEM.CONFIG SET k working.ttl", "has no value"),
        ("MEM.CONFIG PRESET k robot", "default, chatbot, research or personal"),
        ("MEM.CONFIG FROB k", "unknown subcommand"),
    ] {
        let error = client.err(line);
        assert!(error.starts_with("ERR") && error.contains(part), "{line}: {error}");
        assert_eq!(client.ok("EXISTS k").int(), 0, "{line}: nothing has happened");
    }
    client.ok("MEM.CONFIG SET k working.ttl 3600");
    assert_eq!(client.ok("EXISTS k").int(), 1, "a space may be empty");
    assert_eq!(client.ok("TYPE k").text(), "engram-ms");
    client.ok("MEM.CONFIG PRESET other chatbot");
    assert_eq!(client.ok("EXISTS other").int(), 1);
}

#[test]
fn presets_are_those_of_the_requirements() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for (preset, set) in [
        (
            "chatbot",
            "working.capacity=20 working.ttl=1800 short_term.capacity=200 short_term.ttl=43200 long_term.capacity=5000 long_term.ttl=604800",
        ),
        (
            "research",
            "working.capacity=50 working.ttl=7200 short_term.capacity=500 short_term.ttl=172800 long_term.capacity=20000 long_term.ttl=0 \
             semantic.capacity=10000",
        ),
        ("personal", "working.capacity=30 episodic.capacity=2000 episodic.ttl=31536000"),
        ("default", ""),
    ] {
        client.ok(&format!("MEM.CONFIG PRESET k {preset}"));
        let mut expected: Vec<(String, String)> = DEFAULTS.split_whitespace().map(pair).collect();
        for (name, value) in set.split_whitespace().map(pair) {
            expected.iter_mut().find(|(known, _)| *known == name).unwrap().1 = value;
        }
        let found: Vec<(String, String)> =
            client.ok("MEM.CONFIG GET k").pairs().into_iter().map(|(name, value)| (name, value.text())).collect();
        assert_eq!(found, expected, "{preset}");
    }
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap();
    (name.to_owned(), value.to_owned())
}

#[test]
fn server_settings_are_config_and_module_arguments() {
    let server = Server::plain(&["engram.threads 3", "engram.queue-limit 77"]);
    let mut client = server.client();
    let get = |client: &mut crate::client::Client, name: &str| {
        client.ok(&format!("CONFIG GET engram.{name}")).items()[1].text()
    };
    for (name, value) in [
        ("threads", "3"),
        ("queue-limit", "77"),
        ("embedder", ""),
        ("model", ""),
        ("user-queue-limit", "0"),
        ("max-content-bytes", "1048576"),
        ("inline-embed-tokens", "256"),
        ("embedding-cache", "10000"),
        ("prefix-memory", "268435456"),
        ("prefix-file", "0"),
        ("prefix-dir", "."),
        ("stream-ttl", "3600"),
        ("max-context", "8192"),
        ("kv-format", "bf16"),
        ("maintenance", "on"),
        ("outcome-distracted", "wait, hold on, what was I doing, lost track, forgot, distracted, off track"),
        ("alert-interval", "60"),
        ("alert-memory", "80"),
        ("alert-hit-rate", "50"),
        ("alert-evictions", "1"),
        ("alert-queue", "80"),
        ("alert-latency", "1000"),
        ("fast-model", ""),
        ("fallback-model", ""),
        ("fallback-below", "0.5"),
    ] {
        assert_eq!(get(&mut client, name), value, "{name}");
    }
    assert_eq!(get(&mut client, "model-dir"), server.models().display().to_string());
    client.ok("CONFIG SET engram.max-content-bytes 10");
    let error = client.err("MEM.STORE k 12345678901 NOEMBED");
    assert!(error.contains("11 bytes, at most 10") && error.contains("engram.max-content-bytes"), "{error}");
    client.ok("MEM.STORE k 1234567890 NOEMBED");
    client.ok("CONFIG SET engram.threads 2");
    assert_eq!(client.info("engram_threads"), "2");
    for (name, value) in [
        ("threads", "0"),
        ("threads", "many"),
        ("queue-limit", "0"),
        ("max-content-bytes", "99999999999"),
        ("alert-memory", "101"),
        ("alert-interval", "-1"),
        ("model-dir", "/"),
    ] {
        let error = client.err(&format!("CONFIG SET engram.{name} {value}"));
        assert!(error.starts_with("ERR"), "{name} {value}: {error}");
    }
    client.ok("CONFIG REWRITE");
    let rewritten = std::fs::read_to_string(server.dir().join("redis.conf")).unwrap();
    assert!(rewritten.contains("engram.max-content-bytes 10"), "{rewritten}");
}

#[test]
fn what_a_server_setting_does_not_take_stops_the_start_with_a_reason() {
    for (arguments, part) in [
        ("threads 0", "threads"),
        ("threads lots", "threads"),
        ("thread 2", "thread"),
        ("threads", "threads"),
        ("max-content-bytes 0", "max-content-bytes"),
        ("outcome-re-engaged ,", "outcome-re-engaged"),
    ] {
        let mut server = Server::plain(&[]);
        server.kill();
        server.load_arguments(arguments);
        let log = server.try_restart().expect_err(arguments);
        assert!(log.contains("engram") && log.contains(part), "{arguments}:\n{log}");
    }
    let mut server = Server::plain(&[]);
    server.kill();
    server.load_arguments("threads 3 queue-limit 5");
    server.try_restart().unwrap();
    assert_eq!(server.client().ok("CONFIG GET engram.threads").items()[1].text(), "3");
}

#[test]
fn results_of_jobs_are_kept_for_their_time_and_the_first_model_named_is_the_default() {
    let server = Server::plain(&["engram.model \"a=random-f32.gguf random-q4_0.gguf\"", "engram.job-ttl 1"]);
    server.wait_for_models(2);
    let mut client = server.client();
    let reply = client.ok("GEMMA.GENERATE hello MAXTOKENS 1 JOB j");
    assert_eq!(reply.field("model").text(), "a");
    assert_eq!(client.ok("GEMMA.GENERATE hello MAXTOKENS 1 MODEL random-q4_0").field("model").text(), "random-q4_0");
    client.ok("GEMMA.RESULT j");
    crate::harness::pause_ms(1_100);
    assert!(client.err("GEMMA.RESULT j").contains("no such job"));
    assert!(client.ok("GEMMA.JOBS").items().is_empty());
}

/// What decides over the words of a space counts for all of it, and nobody waits: the words are indexed anew in many steps, and
/// recall goes by the old index until the new one is whole.
#[test]
fn words_are_indexed_anew_while_others_are_served() {
    const MEMORIES: usize = 3000;
    let server = Server::plain(&[]);
    let replica = server.replica(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k short_term.capacity 0");
    let walk = "past the lanes of the old town ".repeat(30);
    for n in 0..MEMORIES {
        client.ok(&format!("MEM.STORE k 'walking home {n} {walk}' NOEMBED"));
    }
    let steps = |client: &mut crate::client::Client| client.info("engram_reindex_steps").parse::<u64>().unwrap();
    let found = |client: &mut crate::client::Client| client.ids("MEM.RECALL k walk K 1 MODE lexical").len();
    assert_eq!(client.ids(&format!("MEM.RECALL k walk K {MEMORIES} MODE lexical")).len(), MEMORIES);

    let begun = steps(&mut client);
    client.ok("MEM.CONFIG SET k language none");
    let (mut old, mut pings) = (0, 0);
    while found(&mut client) == 1 {
        old += 1;
        assert_eq!(client.ok("PING").text(), "PONG");
        pings += 1;
        client.ok(&format!("MEM.STORE k 'walking on {old}' NOEMBED"));
    }
    assert!(old > 0 && pings > 0, "the old words were found meanwhile");
    let took = steps(&mut client) - begun;
    assert!(took > 20, "{took} steps");
    assert_eq!(client.ids(&format!("MEM.RECALL k walking K {} MODE lexical", 2 * MEMORIES)).len(), MEMORIES + old);
    replica.wait_for_offset(&server);
    let mut other = replica.client();
    wait_until("the replica has indexed its words too", || found(&mut other) == 0);
    assert_eq!(other.digest("k"), client.digest("k"));

    // Saved and loaded in the middle: by the new setting from then on.
    client.ok("MEM.CONFIG SET k language english");
    let digest = client.digest("k");
    client.ok("DEBUG RELOAD");
    assert_eq!((found(&mut client), client.digest("k")), (1, digest));
    // Another space may take its place in the middle.
    client.ok("MEM.CONFIG SET k language none");
    client.ok("COPY k l");
    client.ok("DEL k");
    assert_eq!((client.count("l") as usize, found(&mut client)), (MEMORIES + old, 0));
    wait_until("the copy is indexed by the new setting too", || {
        client.ids("MEM.RECALL l walk K 1 MODE lexical").is_empty()
    });
    assert_eq!(client.ids("MEM.RECALL l walking K 1 MODE lexical").len(), 1);
}
