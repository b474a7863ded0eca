//! MEM.REFLECT: what a session has taught becomes an insight with its sources.

use redis::Value;

use crate::client::{Client, Reply, words};
use crate::digest::Pair;
use crate::harness::Server;

const WITHOUT_ENCODER: &[&str] = &["engram.embedder \"\""];

fn say(client: &mut Client, session: &str, role: &str, at: u64, text: &str) -> String {
    client.ok_words(&words!["MEM.SESSION", "APPEND", "k", session, role, text, "SPEAKER", "Ann", "AT", at]).text()
}

#[test]
fn a_session_teaches_what_worked_what_did_not_and_what_to_keep_in_mind() {
    let server = Server::plain(WITHOUT_ENCODER);
    for mut client in [server.client(), server.client3()] {
        client.ok("FLUSHALL");
        say(&mut client, "s", "user", 1_000, "I'm allergic to nuts, help me plan a dinner.");
        let links = say(&mut client, "s", "assistant", 2_000, "Here are forty recipes. Read them all.");
        let lost = say(&mut client, "s", "user", 3_000, "Wait, what was I doing?");
        let steps = say(&mut client, "s", "assistant", 4_000, "Let us do it in three steps.");
        let done = say(&mut client, "s", "user", 5_000, "All done.");
        say(&mut client, "empty", "user", 6_000, "The sky was grey.");
        client.ok("MEM.CONSOLIDATE k EXTRACT");
        let fact = client.ok("MEM.TIMELINE k - + FILTER '.tier == \"semantic\"'").items()[0].field("id").text();
        let digest = client.digest("k");
        let dry = client.ok("MEM.REFLECT k SESSION s DRYRUN");
        assert_eq!(client.digest("k"), digest, "a dry run changes nothing");
        let made = client.ok("MEM.REFLECT k SESSION s");
        assert_eq!(made.names(), ["id", "content", "from", "model", "notes"]);
        let text = "Ann got it done after \"Let us do it in three steps\", but lost the thread after \"Here are forty recipes\"; \
                    next time do it the first way. Keep in mind that Ann is allergic to nuts.";
        assert_eq!((made.field("content").text(), dry.field("content").text()), (text.into(), text.into()));
        assert_eq!(made.field("from").texts(), [done, steps, lost, links.clone(), fact.clone()]);
        let id = made.field("id").text();
        let insight = &client.ok(&format!("MEM.GET k {id}")).items()[0];
        for (field, value) in [("type", "insight"), ("tier", "semantic"), ("session", "s"), ("content", text)] {
            assert_eq!(insight.field(field).text(), value);
        }
        assert_eq!(insight.field("at").int(), 5_000);
        let related = client.ok(&format!("MEM.RELATED k {id}"));
        assert_eq!(related.items().len(), 5);
        assert_eq!(related.items()[0].field("reason").text(), "it was reflected upon");
        // What is known is not said again; without anything else there is nothing to learn.
        let again = client.ok("MEM.REFLECT k SESSION s").field("content").text();
        assert!(again.ends_with("do it the first way."), "{again}");
        let nothing = client.ok("MEM.REFLECT k SESSION empty");
        assert_eq!((nothing.field("id"), nothing.field("content")), (Value::Nil, Value::Nil));
        assert!(nothing.field("notes").texts()[0].starts_with("there is nothing to learn"));
        // The same again is the one that stands.
        let twice = client.ok("MEM.REFLECT k SESSION s");
        assert_eq!(twice.field("notes").texts(), ["this insight was there already"]);
        // Forgetting what it quotes takes it along.
        client.ok(&format!("MEM.FORGET k {links}"));
        assert_eq!(client.ok("MEM.COUNT k FILTER '.type == \"insight\"'").int(), 0);
        assert_eq!(client.ok(&format!("MEM.COUNT k FILTER '.id == \"{fact}\"'")).int(), 1);
        assert!(client.err("MEM.REFLECT k SESSION none").contains("session none has no turns"));
        assert!(client.err("MEM.REFLECT none SESSION s").contains("no such space"));
        assert!(client.err("MEM.REFLECT k SESSION s MODEL none").starts_with("NOMODEL"));
        assert!(client.err("MEM.REFLECT k").contains("SESSION"));
    }
}

#[test]
fn what_a_model_writes_is_kept_only_if_it_is_about_the_session() {
    // It writes noise, whatever it is told.
    let server = Server::with_text(&["engram.model random-q4_0.gguf"]);
    server.wait_for_models(1);
    let mut client = server.client();
    say(&mut client, "s", "user", 1_000, "Please keep answers short.");
    say(&mut client, "s", "assistant", 2_000, "Short it is.");
    say(&mut client, "s", "user", 3_000, "Perfect, finished.");
    let made = client.ok("MEM.REFLECT k SESSION s MODEL random-q4_0");
    assert_eq!(made.field("model"), Value::Nil, "{made:?}");
    let notes = made.field("notes").texts();
    assert!(notes[0].starts_with("made of outcomes and facts: what the model wrote was not kept: "), "{notes:?}");
    assert!(made.field("content").text().starts_with("Ann got it done after \"Short it is\""), "{made:?}");
}

#[test]
fn insights_survive_and_are_the_same_everywhere() {
    let pair = Pair::start(WITHOUT_ENCODER);
    let mut client = pair.primary.client();
    say(&mut client, "s", "assistant", 1_000, "Let us do it in three steps.");
    say(&mut client, "s", "user", 2_000, "I finished it.");
    assert_ne!(client.ok("MEM.REFLECT k SESSION s").field("id"), Value::Nil);
    pair.check_persistent(&["k"]);
}
