//! Whole conversations and documents of `tests/data`, from the first turn to the question whose answer lies sessions back.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::client::{Client, Reply, words};
use crate::digest::Pair;
use crate::harness::{Server, root, wait_until};

fn data(name: &str) -> String {
    std::fs::read_to_string(root().join("tests/data").join(name)).unwrap()
}

fn conversation(name: &str) -> Json {
    serde_json::from_str(&data(name)).unwrap()
}

/// Appends all turns, each session under its own name or all under one, and gives the ids by the names that the data have for the turns.
fn append_all(client: &mut Client, talk: &Json, one_session: Option<&str>) -> HashMap<String, String> {
    let mut ids = HashMap::new();
    for session in talk["sessions"].as_array().unwrap() {
        let name = one_session.unwrap_or(session["session"].as_str().unwrap());
        for turn in session["turns"].as_array().unwrap() {
            let text = |field: &str| turn[field].as_str().unwrap_or_default();
            let mut words = words![
                "MEM.SESSION",
                "APPEND",
                "k",
                name,
                text("role"),
                text("content"),
                "AT",
                turn["at"].as_u64().unwrap()
            ];
            if !text("speaker").is_empty() {
                words.extend(words!["SPEAKER", text("speaker")]);
            }
            ids.insert(text("id").to_owned(), client.ok_words(&words).text());
        }
    }
    ids
}

/// The share of the questions all of whose evidence is in the context that `ask` gives.
fn answered(client: &mut Client, talk: &Json, ids: &HashMap<String, String>, ask: &str) -> f64 {
    let questions = talk["questions"].as_array().unwrap();
    let found = questions.iter().filter(|question| {
        let mut words = words!["MEM.CONTEXT", "k", "QUERY", question["question"].as_str().unwrap()];
        words.extend(ask.split_whitespace().map(|word| word.as_bytes().to_vec()));
        let context = client.ok_words(&words);
        let shown: Vec<String> = [context.field("memories").texts(), context.field("turns").texts()].concat();
        question["evidence"].as_array().unwrap().iter().all(|turn| shown.contains(&ids[turn.as_str().unwrap()]))
    });
    found.count() as f64 / questions.len() as f64
}

#[test]
fn what_was_said_sessions_ago_is_in_the_context() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    for name in ["kitchen.json", "garden.json"] {
        let talk = conversation(name);
        client.ok("FLUSHALL");
        let ids = append_all(&mut client, &talk, None);
        wait_until("all turns have their vectors", || client.ok("MEM.STATS k").field("awaiting").int() == 0);
        let sessions = client.ok("MEM.SESSION LIST k").items().len();
        assert_eq!(sessions, talk["sessions"].as_array().unwrap().len());
        // A tenth of the conversation fits into 150 tokens.
        let (small, large) =
            (answered(&mut client, &talk, &ids, "TOKENS 150"), answered(&mut client, &talk, &ids, "TOKENS 600"));
        assert!(large >= 0.8 && small >= 0.5, "{name}: {small} of the questions at 150 tokens, {large} at 600");
        // As one long session, with its summary and its last turns in the context too.
        client.ok("FLUSHALL");
        let ids = append_all(&mut client, &talk, Some("all"));
        wait_until("all turns have their vectors", || client.ok("MEM.STATS k").field("awaiting").int() == 0);
        wait_until("the summary is there", || client.ok("MEM.SESSION SUMMARY k all").field("uncovered").int() < 25);
        let share = answered(&mut client, &talk, &ids, "SESSION all TOKENS 1500");
        assert!(share >= 0.9, "{name}: {share} of the questions with the session");
    }
}

#[test]
fn documents_answer_questions_about_them() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    for name in ["handbook.md", "lighthouse.txt"] {
        let text = data(name);
        client.ok_words(&words!["MEM.INGEST", "k", name, text, "CHUNK", "120", "OVERLAP", "20"]);
        let mut chunks = client.ok(&format!("MEM.TIMELINE k - + FILTER '.doc == \"{name}\"'")).items();
        chunks.sort_by_key(|chunk| chunk.field("position").int());
        // Nothing of the text is lost, and what two chunks share is little.
        let mut end = 0;
        for chunk in &chunks {
            let start = chunk.field("start").int() as usize;
            assert!(text[end.min(start)..start].trim().is_empty(), "{name}: bytes {end} to {start} are in no chunk");
            end = end.max(chunk.field("end").int() as usize);
        }
        assert!(text[end..].trim().is_empty());
        // Each section is found by what it is about: a chunk's own first sentence brings it back.
        let sample: Vec<_> = chunks.iter().step_by(7).collect();
        let back = sample.iter().filter(|chunk| {
            let content = chunk.field("content").text();
            let words: Vec<&str> = content.split_whitespace().rev().take(12).collect();
            let question = words.into_iter().rev().collect::<Vec<_>>().join(" ");
            let found = client.ok_words(&words!["MEM.RECALL", "k", question, "K", "3"]);
            found.items().iter().any(|hit| hit.field("id") == chunk.field("id"))
        });
        assert!(back.count() * 10 >= sample.len() * 9);
    }
}

#[test]
fn conversations_documents_and_summaries_survive_together() {
    let pair = Pair::start(&["engram.embedder all-MiniLM-L6-v2"]);
    pair.primary.wait_for_encoder();
    let mut client = pair.primary.client();
    append_all(&mut client, &conversation("kitchen.json"), Some("kitchen"));
    append_all(&mut client, &conversation("garden.json"), None);
    client.ok_words(&words!["MEM.INGEST", "k", "book", data("lighthouse.txt")]);
    client.ok("MEM.SESSION SET k kitchen topic renovation");
    wait_until("everything has settled", || {
        client.ok("MEM.STATS k").field("awaiting").int() == 0
            && client.ok("MEM.SESSION SUMMARY k kitchen").field("uncovered").int() < 25
    });
    pair.check_persistent(&["k"]);
    let exported = client.ok("MEM.SESSION EXPORT k kitchen").text();
    assert_eq!(pair.replica.client().ok("MEM.SESSION EXPORT k kitchen").text(), exported);
}
