//! GENERATE … STREAM: what readers see, here and on a replica, and what becomes of the stream when something happens to it.

use crate::client::{Client, Reply, words};
use crate::harness::{Pending, Server, pause_ms, wait_until};

const RANDOM: &str = "random-q4_0.gguf";

/// The entries of a stream: their fields in order.
fn entries(client: &mut Client, key: &str) -> Vec<Vec<(String, String)>> {
    let entries = client.ok(&format!("XRANGE {key} - +")).items();
    entries
        .iter()
        .map(|entry| entry.items()[1].pairs().into_iter().map(|(name, value)| (name, value.text())).collect())
        .collect()
}

fn text_of(entries: &[Vec<(String, String)>]) -> String {
    entries.iter().filter(|entry| entry[0].0 == "text").flatten().map(|(_, text)| text.as_str()).collect()
}

/// Starts a generation to the stream `s` and waits until it is held at its end.
fn hold(server: &Server) -> Pending {
    server.close_latch();
    let pending = server.begin("GEMMA.GENERATE hello STREAM s MAXTOKENS 30 TEMPERATURE 0");
    server.wait_held(1);
    pending
}

#[test]
fn a_stream_begins_with_the_job_goes_on_with_text_and_ends_with_the_whole_reply() {
    let server = Server::with_model(RANDOM, &["engram.stream-ttl 100"]);
    let replica = server.replica(&[]);
    let mut client = server.client();
    let mut reader = server.client();
    reader.send_only(&words!["XREAD", "BLOCK", 20_000, "STREAMS", "s", "0"]);
    let reply = client.ok("GEMMA.GENERATE hello STREAM s MAXTOKENS 100 TEMPERATURE 0 JOB named");
    let first = reader.receive().unwrap().items()[0].items()[1].items()[0].items()[1].pairs();
    assert_eq!(
        (first[0].0.as_str(), first[0].1.text()),
        ("job", "named".into()),
        "a reader that blocks is woken by the first entry"
    );
    replica.wait_for_offset(&server);
    for client in [&mut client, &mut replica.client()] {
        let all = entries(client, "s");
        assert_eq!(all[0], [("job".to_owned(), "named".to_owned())]);
        let (last, texts) = (&all[all.len() - 1], &all[1..all.len() - 1]);
        assert!(texts.iter().all(|entry| entry.len() == 1 && entry[0].0 == "text"), "{texts:?}");
        assert_eq!(text_of(texts), reply.field("text").text());
        assert_eq!(last[0], ("done".to_owned(), "1".to_owned()));
        let field =
            |name: &str| last[1..].iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap();
        for name in reply.names() {
            match name.as_str() {
                "memories" | "notes" => assert_eq!(field(&name), "[]"),
                "text" | "finish_reason" | "model" | "reason" => {
                    assert_eq!(field(&name), reply.field(&name).text(), "{name}")
                }
                "tokens" | "prompt_tokens" | "reused_tokens" | "seed" => {
                    assert_eq!(field(&name), reply.field(&name).int().to_string(), "{name}")
                }
                name => assert_eq!(field(name).parse::<f64>().unwrap(), reply.field(name).float(), "{name}"),
            }
        }
        let ttl = client.ok("PTTL s").int();
        assert!((90_000..=100_000).contains(&ttl), "{ttl}");
    }
    assert_eq!(client.digest("s"), replica.client().digest("s"));
    // A second generation goes on in the same stream.
    let before = entries(&mut client, "s").len();
    client.ok("GEMMA.GENERATE hello STREAM s MAXTOKENS 5");
    assert!(entries(&mut client, "s").len() > before + 2);
}

#[test]
fn an_error_is_the_last_entry_too() {
    let server = Server::with_text(&[&format!("engram.model {RANDOM}")]);
    server.wait_for_models(1);
    let mut client = server.client();
    let error = client.err_words(&words!["GEMMA.GENERATE", "word ".repeat(600), "STREAM", "s"]);
    let all = entries(&mut client, "s");
    let last = all.last().expect("readers are told");
    assert_eq!(last[0].0, "done");
    assert_eq!(last[1], ("error".to_owned(), error));
}

#[test]
fn what_happens_to_the_stream_is_respected_and_noted() {
    let server = Server::with_model(RANDOM, &["engram.threads 2"]);
    let mut client = server.client();
    type Act = (&'static str, fn(&mut Client));
    let acts: [Act; 6] = [
        ("DEL", |c| drop(c.ok("DEL s"))),
        ("RENAME", |c| drop(c.ok("RENAME s t"))),
        ("SET over it", |c| drop(c.ok("SET s value"))),
        ("SWAPDB", |c| drop(c.ok("SWAPDB 0 1"))),
        ("FLUSHALL ASYNC", |c| drop(c.ok("FLUSHALL ASYNC"))),
        ("MOVE", |c| drop(c.ok("MOVE s 3"))),
    ];
    for (act, run) in acts {
        client.ok("FLUSHALL");
        let pending = hold(&server);
        assert!(client.ok("XLEN s").int() >= 1, "pieces are there before the end");
        run(&mut client);
        let after = client.ok("DEBUG DIGEST").text();
        server.open_latch();
        let reply = pending.finish().unwrap();
        assert_eq!(reply.field("tokens").int(), 30, "{act}: the answer itself is whole");
        assert!(
            reply.field("notes").texts().iter().any(|note| note.contains("the stream is incomplete")),
            "{act}: {reply:?}"
        );
        assert_eq!(client.ok("DEBUG DIGEST").text(), after, "{act}: nothing comes back");
    }
    // A copy is what stood when it was made; the stream itself goes on.
    client.ok("FLUSHALL");
    let pending = hold(&server);
    client.ok("COPY s t");
    server.open_latch();
    assert!(pending.finish().unwrap().field("notes").items().is_empty());
    assert!(client.ok("XLEN s").int() > client.ok("XLEN t").int());
    // Reloading keeps a stream the same stream.
    client.ok("FLUSHALL");
    let pending = hold(&server);
    client.ok("DEBUG RELOAD");
    server.open_latch();
    assert!(pending.finish().unwrap().field("notes").items().is_empty());
    assert_eq!(entries(&mut client, "s").last().unwrap()[0].0, "done");
}

#[test]
fn a_pause_holds_the_pieces_back_and_a_demotion_ends_them() {
    let server = Server::with_model(RANDOM, &["engram.threads 3"]);
    let mut client = server.client();
    let pending = hold(&server);
    let before = client.digest("s");
    client.ok("CLIENT PAUSE 60000 WRITE");
    server.open_latch();
    pause_ms(200);
    assert_eq!(client.digest("s"), before);
    assert!(!pending.is_done());
    client.ok("CLIENT UNPAUSE");
    let reply = pending.finish().unwrap();
    assert_eq!(text_of(&entries(&mut client, "s")), reply.field("text").text(), "nothing is lost");
    // A generation that begins in a pause goes on in it, unseen until it ends; the server asks writes to wait, so it is begun by NOWAIT before.
    let other = Server::plain(&[]);
    client.ok("FLUSHALL");
    let pending = hold(&server);
    client.ok(&format!("REPLICAOF 127.0.0.1 {}", other.port));
    server.open_latch();
    let reply = pending.finish();
    assert!(reply.is_err() || reply.unwrap().field("notes").texts()[0].contains("replica"));
    server.wait_for_link();
    assert_eq!(client.ok("DBSIZE").int(), 0);
}

#[test]
fn cancelling_writes_the_last_entry_and_nothing_after_it() {
    let server = Server::with_model(RANDOM, &["engram.threads 1"]);
    let mut client = server.client();
    // Beside twelve others an answer lasts long enough to be cancelled.
    let crowd = |client: &mut Client, round: usize| {
        for n in 0..12 {
            client.ok(&format!("GEMMA.GENERATE hello NOWAIT TEMPERATURE 0 MAXTOKENS 480 JOB crowd{round}-{n}"));
        }
    };
    crowd(&mut client, 0);
    client.ok("GEMMA.GENERATE hello NOWAIT TEMPERATURE 0 MAXTOKENS 480 STREAM s JOB j");
    wait_until("text comes", || client.ok("XLEN s").int() >= 2);
    client.ok("GEMMA.CANCEL j");
    let reply = client.ok("GEMMA.RESULT j");
    assert_eq!(reply.field("finish_reason").text(), "cancelled");
    let all = entries(&mut client, "s");
    assert_eq!(all.last().unwrap()[0].0, "done");
    assert_eq!(text_of(&all), reply.field("text").text());
    pause_ms(100);
    assert_eq!(entries(&mut client, "s").len(), all.len());
    // A client that leaves, or is unblocked by an operator, cancels its own: the stream says so.
    for (n, act) in ["CLIENT KILL ID", "CLIENT UNBLOCK"].iter().enumerate() {
        crowd(&mut client, n + 1);
        let leaving = server.begin(&format!("GEMMA.GENERATE hello TEMPERATURE 0 MAXTOKENS 480 STREAM t{n}"));
        wait_until("text comes", || client.ok(&format!("XLEN t{n}")).int() >= 2);
        assert_eq!(client.ok(&format!("{act} {}", leaving.id)).int(), 1);
        let error = leaving.finish().unwrap_err();
        assert!(error.starts_with("CONNECTION") || error.starts_with("UNBLOCKED"), "{act}: {error}");
        wait_until("the stream has ended", || entries(&mut client, &format!("t{n}")).last().unwrap()[0].0 == "done");
        let all = entries(&mut client, &format!("t{n}"));
        assert!(all.last().unwrap().contains(&("finish_reason".to_owned(), "cancelled".to_owned())), "{act}: {all:?}");
    }
}

#[test]
fn it_is_written_as_its_client_could() {
    let server = Server::with_model(RANDOM, &["engram.threads 2"]);
    let mut client = server.client();
    client.ok("SET text value");
    let reply = client.try_run("GEMMA.GENERATE hello MAXTOKENS 3 STREAM text");
    match reply {
        Ok(reply) => assert!(reply.field("notes").texts()[0].contains("WRONGTYPE"), "{reply:?}"),
        Err(error) => assert!(error.starts_with("WRONGTYPE"), "{error}"),
    }
    assert_eq!(client.ok("GET text").text(), "value");
    // A user whose right is taken away while it generates writes nothing more.
    client.ok("ACL SETUSER ada on >secret ~s +@all");
    let mut ada = Client::log_in(server.port, false, "ada:secret@").unwrap();
    server.close_latch();
    ada.send_only(&words!["GEMMA.GENERATE", "hello", "STREAM", "s", "MAXTOKENS", 5]);
    server.wait_held(1);
    let before = client.ok("XLEN s").int();
    client.ok("ACL SETUSER ada resetkeys");
    server.open_latch();
    wait_until("it has ended", || client.info("engram_queued") == "0");
    assert_eq!(client.ok("XLEN s").int(), before);
}
