//! MEM.EXPORT and MEM.IMPORT: a whole space as lines of JSON, from one server to another.

use std::fs;
use std::process::{Command, Stdio};

use redis::Value;
use serde_json::{Value as Json, json};

use crate::client::{Client, Reply, words};
use crate::digest::Pair;
use crate::harness::{Server, root, wait_until};

/// All lines of a space, in pages of `count`.
fn export(client: &mut Client, key: &str, count: usize) -> Vec<String> {
    let (mut lines, mut cursor) = (Vec::new(), "0".to_owned());
    for _ in 0..10_000 {
        let page = client.ok_words(&words!["MEM.EXPORT", key, cursor, "COUNT", count]).items();
        cursor = page[0].text();
        let more = page[1].texts();
        assert!(more.len() <= count);
        lines.extend(more);
        if cursor == "0" {
            return lines;
        }
    }
    panic!("an export without an end");
}

fn command<T: AsRef<str>>(key: &str, replace: bool, lines: &[T]) -> Vec<Vec<u8>> {
    let mut words = words!["MEM.IMPORT", key];
    words.extend(replace.then(|| b"REPLACE".to_vec()));
    words.extend(lines.iter().map(|line| line.as_ref().as_bytes().to_vec()));
    words
}

/// Takes lines in calls of `size`; gives how many changed something.
fn import(client: &mut Client, key: &str, lines: &[String], size: usize) -> i64 {
    let replies = lines.chunks(size).map(|lines| client.ok_words(&command(key, false, lines)));
    replies.map(|reply: Value| reply.field("written").int()).sum()
}

/// A space of memories by vector, of all tiers, and conversations.
fn fill(client: &mut Client) {
    client.ok("MEM.CONFIG SET k dedup 0.999 short_term.capacity 500 session.turns 5");
    for n in 0..60 {
        let tier = ["working", "short_term", "long_term", "episodic", "semantic"][n % 5];
        let vector = format!("VALUES 3 {} {} 1", n % 7, n % 11);
        let vector = if n % 4 == 0 { "NOEMBED" } else { &vector };
        client.ok(&format!(
            "MEM.STORE k 'fact {n} \"quoted\"' TIER {tier} IMPORTANCE 0.{n:02} SPEAKER Ann TAGS 2 a t{n} META '{{\"n\":[{n},0.1]}}' NODEDUP {vector}"
        ));
    }
    let first = client.ok("MEM.STORE k 'she lives in Rome' VALUES 3 1 0 0 TTL 5000").text();
    client.ok(&format!("MEM.STORE k 'she lives in Oslo' VALUES 3 1 0 0.5 PIN SUPERSEDES {first}"));
    for n in 0..25 {
        client.ok(&format!("MEM.SESSION APPEND k s{} user 'turn {n}' AT {}", n % 3, 1000 + n));
    }
    client.ok("MEM.SESSION SET k s0 topic 'a b'");
    client.ok("MEM.RECALL k 'fact 7' K 3");
}

#[test]
fn a_space_comes_back_byte_for_byte_on_another_server() {
    let (server, pair) = (Server::plain(&[]), Pair::start(&["engram.embedder \"\""]));
    let (mut client, mut there) = (server.client(), pair.primary.client());
    fill(&mut client);
    let lines = export(&mut client, "k", 7);
    assert_eq!(export(&mut client, "k", 10_000), lines, "pages of another size");
    assert_eq!(export(&mut server.client3(), "k", 100), lines);
    let written = import(&mut there, "k", &lines, 9);
    assert!(written >= 90, "{written} of {} lines", lines.len());
    assert_eq!(there.digest("k"), client.digest("k"));
    assert_eq!(export(&mut there, "k", 11), lines);
    assert_eq!(import(&mut there, "k", &lines, 50), 0, "what is there is passed over");
    pair.check_persistent(&["k"]);
    assert_eq!(export(&mut there, "k", 11), lines, "after all that, use and counters included");
    pair.replica.wait_for_offset(&pair.primary);
    assert_eq!(export(&mut pair.replica.client(), "k", 100), lines, "a replica exports the same");
    let ask = "MEM.RECALL k 'fact 7' K 5 NOTOUCH";
    assert_eq!(there.ids(ask), client.ids(ask));
    // A line is what the documentation says.
    let kinds: Vec<String> = lines
        .iter()
        .map(|line| serde_json::from_str::<Json>(line).unwrap().as_object().unwrap().keys().next().unwrap().clone())
        .collect();
    assert_eq!(
        (&*kinds[0], &*kinds[1], &*kinds[2], &*kinds[kinds.len() - 1]),
        ("space", "session", "turn", "counters")
    );
    assert_eq!(kinds.iter().filter(|kind| *kind == "turn").count(), 25);
}

#[test]
fn nothing_and_an_empty_space() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let nothing = client.ok("MEM.EXPORT nothing 0").items();
    assert_eq!((nothing[0].text(), nothing[1].items().len()), ("0".into(), 0));
    assert_eq!(client.ok("EXISTS nothing").int(), 0);
    client.ok("MEM.CONFIG SET k dedup 0.5");
    let lines = export(&mut client, "k", 100);
    assert_eq!(lines.len(), 2);
    assert_eq!(import(&mut client, "new", &lines, 1), 1);
    assert_eq!(client.digest("new"), client.digest("k"));
    client.ok("SET text x");
    assert!(client.err("MEM.EXPORT text 0").starts_with("WRONGTYPE"));
    assert!(client.err("MEM.IMPORT text {\"counters\":{}}").starts_with("WRONGTYPE"));
}

#[test]
fn texts_without_vectors_are_embedded_after_the_reply() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    let lines = [
        json!({"memory": {"content": "The kitten purrs on the warm windowsill"}}).to_string(),
        json!({"memory": {"content": "The invoice for the roof was paid in March"}}).to_string(),
        json!({"memory": {"content": "Nobody looks for this by meaning", "noembed": true}}).to_string(),
        json!({"session": {"id": "s", "fields": {"topic": "cats"}}}).to_string(),
        json!({"turn": {"session": "s", "role": "user", "content": "Whose kitten is it?"}}).to_string(),
    ];
    let reply = client.ok_words(&command("k", false, &lines));
    assert_eq!((reply.field("written").int(), reply.field("unchanged").int()), (5, 0));
    let found = client.contents("MEM.RECALL k 'a young cat in a sunny place' K 1 MODE dense");
    assert_eq!(found, ["The kitten purrs on the warm windowsill"]);
    wait_until("all have their vectors", || client.ok("MEM.STATS k").field("awaiting").int() == 0);
    assert_eq!(client.ok("MEM.STATS k").field("vectors").int(), 3);
    assert_eq!(client.ok("MEM.SESSION HISTORY k s").items().len(), 1);
    // With their vectors and those of their words they go on to a server that has no encoder.
    let lines = export(&mut client, "k", 3);
    assert!(lines.iter().any(|line| line.contains("token_vectors")));
    let other = Server::plain(&[]);
    let mut there = other.client();
    import(&mut there, "k", &lines, 2);
    assert_eq!(there.digest("k"), client.digest("k"));
    assert_eq!(export(&mut there, "k", 100), lines);
    // A space of another model is not mixed in.
    there.ok("MEM.STORE own x VALUES 2 1 0");
    let error = there.err_words(&command("own", true, &lines));
    assert!(error.contains("line 1") && error.contains("all-MiniLM-L6-v2, of 384"), "{error}");
}

#[test]
fn what_is_there_gives_its_place_only_when_told() {
    let pair = Pair::start(&["engram.embedder \"\""]);
    let mut client = pair.primary.client();
    fill(&mut client);
    let mut lines: Vec<Json> =
        export(&mut client, "k", 1000).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let memory = lines.iter_mut().find(|line| line.get("memory").is_some()).unwrap();
    memory["memory"]["content"] = json!("by hand");
    let id = memory["memory"]["id"].as_str().unwrap().to_owned();
    let turn = lines.iter_mut().filter(|line| line.get("turn").is_some()).nth(3).unwrap();
    turn["turn"]["content"] = json!("said otherwise");
    let lines: Vec<String> = lines.iter().map(Json::to_string).collect();
    let before = client.digest("k");
    let error = client.err_words(&command("k", false, &lines));
    assert!(error.contains("exists and is another: give REPLACE"), "{error}");
    assert_eq!(client.digest("k"), before);
    let reply = client.ok_words(&command("k", true, &lines));
    assert_eq!((reply.field("written").int(), reply.field("unchanged").int()), (2, lines.len() as i64 - 2));
    assert_eq!(client.ok(&format!("MEM.GET k {id}")).items()[0].field("content").text(), "by hand");
    assert_eq!(client.ok("MEM.SESSION HISTORY k s0").items()[3].field("content").text(), "said otherwise");
    assert_eq!(export(&mut client, "k", 1000)[..lines.len() - 1], lines[..lines.len() - 1]);
    pair.check_persistent(&["k"]);
}

#[test]
fn what_is_no_line_is_refused_and_changes_nothing() {
    let server = Server::plain(&["engram.max-content-bytes 100"]);
    let mut client = server.client();
    client.ok("MEM.STORE k 'a fact' VALUES 2 1 0");
    let before = client.digest("k");
    for (line, says) in [
        ("MEM.IMPORT k", "json> is missing"),
        ("MEM.IMPORT k REPLACE", "json> is missing"),
        ("MEM.IMPORT k 'no json'", "not valid JSON"),
        ("MEM.IMPORT k []", "a JSON object"),
        ("MEM.IMPORT k {} REPLACE REPLACE", "twice"),
        ("MEM.IMPORT k {}", "line 1: 0 members"),
        ("MEM.IMPORT k REPLACE {\"id\":\"s\",\"history\":[]}", "line 1: 2 members"),
        ("MEM.IMPORT k {\"vector\":[1]}", "'vector' is no kind of line"),
        (
            "MEM.IMPORT k {\"counters\":{\"hits\":9}} {\"memory\":{\"content\":\"x\",\"tier\":\"up\"}}",
            "line 2: unknown tier",
        ),
        ("MEM.EXPORT k", "cursor> is missing"),
        ("MEM.EXPORT k 1-1", "begin with 0"),
        ("MEM.EXPORT k 0 COUNT 0", "COUNT"),
        ("MEM.EXPORT k 0 COUNT 10001", "COUNT"),
    ] {
        let error = client.err(line);
        assert!(error.contains(says), "{line}: {error}");
    }
    let long = json!({"memory": {"content": "x".repeat(101)}}).to_string();
    let error = client.err_words(&command("k", false, &[long]));
    assert!(error.contains("line 1: content has 101 bytes"), "{error}");
    assert_eq!(client.digest("k"), before);
    assert!(client.err("MEM.IMPORT new {\"memory\":{}}").contains("missing"));
    assert_eq!(client.ok("EXISTS new").int(), 0);
    // Options stand before the lines or behind them.
    client.ok("MEM.IMPORT k {\"memory\":{\"content\":\"one\",\"id\":\"5-5\"}} REPLACE");
    client.ok("MEM.IMPORT k REPLACE {\"memory\":{\"content\":\"two\",\"id\":\"5-5\"}}");
    // In a transaction too.
    client.ok("MULTI");
    client.ok("MEM.IMPORT k {\"memory\":{\"content\":\"three\",\"id\":\"5-6\"}}");
    client.ok("MEM.EXPORT k 0");
    assert_eq!(client.ok("EXEC").items()[1].items()[1].items().len(), 5);
}

#[test]
fn large_pages_leave_the_server_free() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k short_term.capacity 0");
    let text = "word ".repeat(200);
    for first in (0..3000).step_by(500) {
        let lines: Vec<String> = (first..first + 500)
            .map(|n| json!({"memory": {"content": format!("{n} {text}"), "vector": [n, 1, 2]}}).to_string())
            .collect();
        import(&mut client, "k", &lines, 500);
    }
    let mut cursor = "0".to_owned();
    let (mut lines, mut pages) = (0, 0);
    loop {
        let page = client.ok_words(&words!["MEM.EXPORT", "k", cursor, "COUNT", 10_000]).items();
        let bytes: usize = page[1].texts().iter().map(String::len).sum();
        assert!(bytes < 1_200_000, "a page of {bytes} bytes");
        lines += page[1].items().len();
        pages += 1;
        cursor = page[0].text();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(lines, 3002);
    assert!(pages >= 4, "{pages}");
}

#[test]
fn the_scripts_write_a_file_and_read_one() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    fill(&mut client);
    let name = "a key\nof two lines";
    client.ok_words(&words!["RENAME", "k", name]);
    let file = server.dir().join("space.jsonl");
    let run = |script: &str, arguments: &[&str]| {
        let done = Command::new(root().join("scripts").join(script))
            .args(arguments)
            .args(["-p", &server.port.to_string()])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let path = file.to_str().unwrap();
    let (done, said) = run("export", &[name, path]);
    assert!(done && said.contains("lines"), "{said}");
    let lines = export(&mut client, name, 100);
    assert_eq!(fs::read_to_string(&file).unwrap().lines().collect::<Vec<_>>(), lines);
    let (done, said) = run("import", &["copy", path]);
    assert!(done && said.contains(&format!("{} lines", lines.len())), "{said}");
    assert_eq!(client.digest("copy"), client.digest(name));
    let (done, said) = run("import", &["copy", path]);
    assert!(done && said.contains("0 written"), "{said}");
    fs::write(&file, "{\"memory\":{\"content\":\"x\"}}\n{\"memory\":{}}\n").unwrap();
    let (done, said) = run("import", &["new", path]);
    assert!(!done && said.contains("line 2") && said.contains("'content' of a memory is missing"), "{said}");
    let (done, said) = run("export", &["nothing", path]);
    assert!(!done && said.contains("no such space"), "{said}");
}
