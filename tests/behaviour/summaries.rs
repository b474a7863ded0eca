//! Running summaries: they move forward by themselves, keep what was covered, and never lose a turn.

use crate::client::{Client, Reply, words};
use crate::digest::Pair;
use crate::harness::{Server, wait_until};

const SAID: [&str; 6] = [
    "My daughter Ella was born on the 5th of May 2019 in Lisbon.",
    "Nice!",
    "I work as a nurse in the hospital of Porto since 2015.",
    "How are you?",
    "We will move to Coimbra in September, the flat costs 900 euros.",
    "Thanks a lot.",
];

fn talk(client: &mut Client, turns: usize) {
    for n in 0..turns {
        let role = if n % 2 == 0 { "user" } else { "assistant" };
        client.ok_words(&words!["MEM.SESSION", "APPEND", "k", "s", role, format!("{} ({n})", SAID[n % SAID.len()])]);
    }
}

fn covered(client: &mut Client) -> i64 {
    client.ok("MEM.SESSION SUMMARY k s").field("covered").int()
}

#[test]
fn the_summary_moves_forward_by_itself_and_keeps_what_says_most() {
    for server in [Server::plain(&[]), Server::with_text(&[])] {
        let mut client = server.client();
        talk(&mut client, 24);
        assert_eq!(covered(&mut client), 0, "24 turns are few");
        talk(&mut client, 1);
        wait_until("the summary covers all but 15", || covered(&mut client) == 10);
        let summary = client.ok("MEM.SESSION SUMMARY k s");
        let text = summary.field("summary").text();
        assert!(text.contains("Ella") && text.contains("nurse"), "{text}");
        assert!(summary.field("tokens").int() <= 1000 && summary.field("model").is_nil());
        assert_eq!(summary.field("uncovered").int(), 15);
        // Ten more, and it goes on from there.
        talk(&mut client, 10);
        wait_until("the summary has gone on", || covered(&mut client) == 20);
        let context = client.ok("MEM.CONTEXT k SESSION s").field("text").text();
        assert!(context.contains("Summary:") && context.contains("Conversation:"), "{context}");
        // All turns are still there.
        assert_eq!(client.ok("MEM.SESSION HISTORY k s").items().len(), 35);
    }
}

#[test]
fn a_summary_is_asked_for_and_bounded_and_survives() {
    let pair = Pair::start(&["engram.embedder \"\""]);
    let mut client = pair.primary.client();
    client.ok("MEM.CONFIG SET k summarize-at 0 summary-tokens 40");
    talk(&mut client, 30);
    assert_eq!(covered(&mut client), 0, "summarize-at 0 leaves it to MEM.SESSION SUMMARIZE");
    let made = client.ok("MEM.SESSION SUMMARIZE k s KEEP 4");
    assert_eq!((made.field("covered").int(), made.field("uncovered").int()), (26, 4));
    assert!((1..=40).contains(&made.field("tokens").int()), "{made:?}");
    assert_eq!(
        client.ok("MEM.SESSION SUMMARIZE k s KEEP 4").field("summary"),
        made.field("summary"),
        "there is nothing more to do"
    );
    pair.check_persistent(&["k"]);
    // A turn that is forgotten does not live on in the summary.
    let first = client.ok("MEM.SESSION HISTORY k s").items()[0].field("id").text();
    client.ok(&format!("MEM.FORGET k {first}"));
    assert_eq!(covered(&mut client), 0);
    assert_eq!(client.ok("MEM.SESSION SUMMARIZE k s KEEP 0").field("covered").int(), 29);
    for (line, says) in [
        ("MEM.SESSION SUMMARIZE k nobody", "no such session"),
        ("MEM.SESSION SUMMARIZE nothing s", "no such space"),
        ("MEM.SESSION SUMMARIZE k s MODEL none", "NOMODEL"),
        ("MEM.SESSION SUMMARIZE k s KEEP -1", "KEEP"),
    ] {
        let error = client.err(line);
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn a_model_writes_the_summary_and_sentences_stand_in_for_it() {
    let server = Server::with_model("random-q8_0.gguf", &[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k summarize-at 0 summary-tokens 60");
    talk(&mut client, 3);
    let name = client.ok("GEMMA.MODELS").items().iter().find_map(|row| {
        row.names()
            .contains(&"name".to_owned())
            .then(|| row.field("name").text())
            .filter(|name| name.contains("random"))
    });
    let model = name.unwrap();
    let made = client.ok(&format!("MEM.SESSION SUMMARIZE k s KEEP 0 MODEL {model}"));
    assert_eq!(made.field("covered").int(), 3);
    assert!(made.field("tokens").int() <= 60);
    // Random weights write what they write; if nothing of it could stand, the reply says so.
    let written = !made.field("model").is_nil();
    assert_ne!(written, !made.field("notes").items().is_empty(), "{made:?}");
    // A conversation that the model's context does not hold is summed up by sentences.
    client.ok("MEM.SESSION CLEAR k s");
    talk(&mut client, 180);
    client.ok(&format!("MEM.CONFIG SET k summary-model {model}"));
    let made = client.ok("MEM.SESSION SUMMARIZE k s KEEP 0");
    assert!(made.field("model").is_nil() && made.field("covered").int() == 180, "{made:?}");
    let note = made.field("notes").texts().concat();
    assert!(note.contains("sentences were taken from the turns"), "{note}");
}

#[test]
fn a_turn_that_goes_while_it_is_summed_up_is_in_no_summary() {
    let server = Server::plain(&["engram.threads 1"]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k summarize-at 0");
    talk(&mut client, 6);
    server.close_latch();
    let pending = server.begin("MEM.SESSION SUMMARIZE k s KEEP 0");
    server.wait_held(1);
    let first = client.ok("MEM.SESSION HISTORY k s").items()[0].field("id").text();
    client.ok(&format!("MEM.FORGET k {first}"));
    server.open_latch();
    let made = pending.finish().unwrap();
    assert_eq!(made.field("covered").int(), 5);
    assert!(!made.field("summary").text().contains("Ella"), "{made:?}");
    // And a session that goes meanwhile stays away.
    server.close_latch();
    talk(&mut client, 3);
    let pending = server.begin("MEM.SESSION SUMMARIZE k s KEEP 0");
    server.wait_held(1);
    client.ok("MEM.SESSION DEL k s");
    server.open_latch();
    assert!(pending.finish().unwrap_err().contains("no such session"));
    assert!(client.ok("MEM.SESSION LIST k").items().is_empty());
}
