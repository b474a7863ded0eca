//! MEM.SESSION: turns, fields, lifetimes, export and import, and vectors that come after the reply.

use serde_json::{Value as Json, json};

use crate::client::{Client, Reply, words};
use crate::digest::Pair;
use crate::harness::{Server, pause_ms, wait_until};

fn append(client: &mut Client, session: &str, role: &str, content: &str) -> String {
    client.ok_words(&words!["MEM.SESSION", "APPEND", "k", session, role, content]).text()
}

fn history(client: &mut Client, session: &str) -> Vec<String> {
    let turns = client.ok(&format!("MEM.SESSION HISTORY k {session}"));
    turns.items().iter().map(|turn| turn.field("content").text()).collect()
}

fn wait_for_vectors(client: &mut Client) {
    wait_until("all turns have their vectors", || client.ok("MEM.STATS k").field("awaiting").int() == 0);
}

#[test]
fn a_conversation_from_its_first_turn_to_its_end() {
    let server = Server::plain(&[]);
    for mut client in [server.client(), server.client3()] {
        client.ok("FLUSHALL");
        for read in ["HISTORY k s", "LIST k"] {
            assert!(client.ok(&format!("MEM.SESSION {read}")).items().is_empty(), "{read} of nothing");
        }
        for read in ["INFO k s", "EXPORT k s", "SUMMARY k s"] {
            assert!(client.ok(&format!("MEM.SESSION {read}")).is_nil(), "{read} of nothing");
        }
        let first = append(&mut client, "s", "user", "I would like to book a table for two");
        let second = client
            .ok("MEM.SESSION APPEND k s assistant 'For which day?' AT 1700000000000 SPEAKER Waiter IMPORTANCE 0.8 TAGS 1 question META '{\"lang\":\"en\"}'")
            .text();
        let turns = client.ok("MEM.SESSION HISTORY k s");
        let [one, two] = &turns.items()[..] else { panic!("{turns:?}") };
        assert_eq!((one.field("id").text(), one.field("role").text()), (first.clone(), "user".into()));
        assert_eq!(two.names().join(" "), "id role content tokens at importance speaker tags meta");
        assert_eq!((two.field("id").text(), two.field("at").int()), (second, 1_700_000_000_000));
        assert_eq!(
            (two.field("speaker").text(), two.field("meta").text()),
            ("Waiter".into(), "{\"lang\":\"en\"}".into())
        );
        assert_eq!(one.field("tokens").int(), 9, "characters by four, where there is no tokenizer");
        // A turn is a memory.
        let memory = &client.ok(&format!("MEM.GET k {first}")).items()[0];
        let expected = [("tier", "episodic"), ("type", "message"), ("role", "user"), ("session", "s")];
        expected.iter().for_each(|(name, text)| assert_eq!(memory.field(name).text(), *text, "{name}"));
        assert_eq!(client.ok("MEM.RECALL k table MODE lexical").items()[0].field("id").text(), first);
        assert_eq!(client.ok("MEM.COUNT k FILTER '.role == \"assistant\" and .session == \"s\"'").int(), 1);
        // Fields.
        client.ok("MEM.SESSION SET k s topic dinner state asking");
        client.ok("MEM.SESSION SET k s state ''");
        assert_eq!(client.ok("MEM.SESSION GET k s").names(), ["topic"]);
        let some = client.ok("MEM.SESSION GET k s topic state");
        assert_eq!((some.items()[0].text(), some.items()[1].is_nil()), ("dinner".into(), true));
        let info = client.ok("MEM.SESSION INFO k s");
        assert_eq!((info.field("turns").int(), info.field("covered").int(), info.field("fields").int()), (2, 0, 1));
        assert_eq!(info.field("counted_by").text(), "estimated");
        let hour = 3_600_000;
        let left = info.field("expires").int() - info.field("created").int();
        assert!((23 * hour..25 * hour).contains(&left), "a session lives for 24 hours: {left}");
        // Parts of a history.
        (0..5).for_each(|n| drop(append(&mut client, "s", "user", &format!("turn {n}"))));
        assert_eq!(client.ok("MEM.SESSION HISTORY k s COUNT 2").items().len(), 2);
        assert_eq!(client.ok("MEM.SESSION HISTORY k s TOKENS 5").items().len(), 2);
        assert_eq!(client.ok("MEM.SESSION HISTORY k s TOKENS 0").items().len(), 0);
        // Copied, cleared, deleted.
        assert_eq!(client.ok("MEM.SESSION COPY k s t").int(), 7);
        assert_eq!(history(&mut client, "t"), history(&mut client, "s"));
        assert!(client.err("MEM.SESSION COPY k s t").contains("REPLACE"));
        client.ok("MEM.SESSION COPY k s t REPLACE");
        assert_eq!(client.ok("MEM.SESSION CLEAR k s").int(), 7);
        assert_eq!(
            (history(&mut client, "s").len(), client.ok("MEM.SESSION GET k s topic").items()[0].text()),
            (0, "dinner".into())
        );
        let list = client.ok("MEM.SESSION LIST k");
        let names: Vec<(String, i64)> =
            list.items().iter().map(|row| (row.field("session").text(), row.field("turns").int())).collect();
        assert_eq!(names, [("s".to_owned(), 0), ("t".to_owned(), 7)]);
        assert_eq!(client.ok("MEM.SESSION DEL k t").int(), 1);
        assert_eq!(client.ok("MEM.SESSION DEL k t").int(), 0);
        assert_eq!(client.ok("MEM.SESSION DEL nothing t").int(), 0);
        assert_eq!(client.ok("MEM.COUNT k").int(), 0, "the turns of both have gone");
    }
}

#[test]
fn every_change_of_a_session_is_saved_and_replicated() {
    let pair = Pair::start(&["engram.embedder \"\""]);
    let mut client = pair.primary.client();
    for n in 0..30 {
        append(&mut client, "s", if n % 2 == 0 { "user" } else { "assistant" }, &format!("turn number {n}"));
    }
    client.ok("MEM.SESSION SET k s topic numbers mood even");
    client.ok("MEM.SESSION SET k s mood ''");
    client.ok("MEM.SESSION COPY k s t");
    client.ok("MEM.SESSION TOUCH k t");
    append(&mut client, "u", "tool", "42");
    client.ok("MEM.SESSION CLEAR k u");
    append(&mut client, "v", "user", "gone");
    client.ok("MEM.SESSION DEL k v");
    let text = client.ok("MEM.SESSION EXPORT k s").text().replace("\"id\": \"1", "\"id\": \"2");
    client.ok_words(&words!["MEM.SESSION", "IMPORT", "k", "w", text]);
    client.ok("MEM.FORGET k SESSION t");
    append(&mut client, "t", "user", "anew");
    pair.check_persistent(&["k"]);
    assert_eq!(history(&mut client, "s").len(), 30);
    assert_eq!(history(&mut pair.replica.client(), "t"), ["anew"]);
    assert_eq!(history(&mut client, "w").len(), 30);
}

#[test]
fn an_exported_session_comes_back_byte_for_byte() {
    let server = Server::plain(&[]);
    let other = Server::plain(&[]);
    let (mut client, mut there) = (server.client(), other.client());
    append(&mut client, "s", "user", "Ünï \"quoted\"\nand\tmore 🐈");
    client.ok("MEM.SESSION APPEND k s assistant fine AT 5 SPEAKER Bot IMPORTANCE 0.9 TAGS 2 a b META '{\"x\":[1,{\"y\":null}]}'");
    client.ok("MEM.SESSION SET k s topic 'a \"b\"'");
    let text = client.ok("MEM.SESSION EXPORT k s").text();
    assert_eq!(there.ok_words(&words!["MEM.SESSION", "IMPORT", "k", "s", text]).int(), 2);
    assert_eq!(there.ok("MEM.SESSION EXPORT k s").text(), text);
    assert!(there.err_words(&words!["MEM.SESSION", "IMPORT", "k", "s", text]).contains("REPLACE"));
    assert_eq!(there.ok_words(&words!["MEM.SESSION", "IMPORT", "k", "s", text, "REPLACE"]).int(), 2);
    assert_eq!(there.ok("MEM.SESSION EXPORT k s").text(), text);
    // It is what the documentation says, and a person can change it.
    let mut json: Json = serde_json::from_str(&text).unwrap();
    let names = ["id", "total_tokens", "metadata", "summary", "fields", "history"];
    assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), names);
    json["summary"] = json!({"text": "They greeted.", "turns": 1});
    json["metadata"] = json!({"channel": "web"});
    json["history"].as_array_mut().unwrap().push(json!({"role": "user", "content": "by hand"}));
    there.ok_words(&words!["MEM.SESSION", "IMPORT", "k", "s", json.to_string(), "REPLACE"]);
    let summary = there.ok("MEM.SESSION SUMMARY k s");
    assert_eq!((summary.field("summary").text(), summary.field("covered").int()), ("They greeted.".into(), 1));
    assert_eq!(history(&mut there, "s")[2], "by hand");
    // What others write: pairs.
    let pairs =
        json!({"history": [{"user": "Hello", "assistant": "Hi!", "tokens": 4, "timestamp": 7}, {"user": "Bye"}]});
    assert_eq!(there.ok_words(&words!["MEM.SESSION", "IMPORT", "k", "p", pairs.to_string()]).int(), 3);
    let turns = there.ok("MEM.SESSION HISTORY k p");
    let roles: Vec<String> = turns.items().iter().map(|turn| turn.field("role").text()).collect();
    assert_eq!((roles.join(" "), turns.items()[1].field("at").int()), ("user assistant user".into(), 7));
}

#[test]
fn what_is_no_session_is_refused_with_a_reason_and_changes_nothing() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let id = append(&mut client, "s", "user", "hello");
    assert_eq!(
        client.ok(&format!("MEM.SESSION APPEND k s user hello ID {id}")).text(),
        id,
        "the same turn again is that turn"
    );
    let before = client.digest("k");
    let foreign = |json: Json| words!["MEM.SESSION", "IMPORT", "k", "new", json.to_string()];
    for (line, says) in [
        ("MEM.SESSION APPEND k s boss hello", "user, assistant, system, tool"),
        ("MEM.SESSION APPEND k s user ''", "the content is empty"),
        (&format!("MEM.SESSION APPEND k s user other ID {id}"), "id exists"),
        (&format!("MEM.SESSION APPEND k t user hello ID {id}"), "id exists"),
        ("MEM.SESSION APPEND k '' user hello", "SESSION has 0 bytes"),
        ("MEM.SESSION IMPORT k new 'no json'", "JSON object"),
        ("MEM.SESSION IMPORT k new '[]'", "JSON object"),
        ("MEM.SESSION TOUCH k nobody", "no such session"),
        ("MEM.SESSION CLEAR k nobody", "no such session"),
        ("MEM.SESSION COPY k nobody t", "no such session"),
        ("MEM.SESSION COPY k s s", "another name"),
        ("MEM.SESSION SET k s lonely", "'lonely' has no value"),
        ("MEM.SESSION HISTORY k s COUNT 0", "COUNT"),
        ("MEM.SESSION NONSENSE k s", "unknown subcommand"),
    ] {
        let error = client.err(line);
        assert!(error.to_lowercase().contains(&says.to_lowercase()), "{line}: {error}");
    }
    for (json, says) in [
        (json!({}), "'history' is missing"),
        (json!({"history": 5}), "an array of turns"),
        (json!({"history": [5]}), "turn 1"),
        (json!({"history": [{"role": "user"}]}), "the content is empty"),
        (json!({"history": [{"role": "boss", "content": "x"}]}), "role 'boss'"),
        (json!({"history": [{"role": "user", "content": "x", "mood": 1}]}), "unknown field 'mood'"),
        (json!({"history": [{"role": "user", "content": "x", "id": "5"}]}), "turn 1"),
        (json!({"history": [{"hello": "x"}]}), "unknown field 'hello'"),
        (json!({"history": [{"tokens": 1}]}), "neither role and content nor user"),
        (json!({"history": [], "summary": {"text": "x", "turns": 3}}), "covers 3"),
        (json!({"history": [], "conversation": []}), "unknown field 'conversation'"),
        (
            json!({"history": [{"role": "user", "content": "x", "id": "7-7"}, {"role": "user", "content": "y", "id": "7-7"}]}),
            "the same id",
        ),
        (json!({"history": [{"role": "user", "content": "x", "id": id}]}), "id exists"),
    ] {
        let error = client.err_words(&foreign(json.clone()));
        assert!(error.contains(says), "{json}: {error}");
    }
    assert_eq!(client.digest("k"), before);
}

#[test]
fn a_session_ends_and_its_turns_stay() {
    let pair = Pair::start(&["engram.embedder \"\""]);
    let mut client = pair.primary.client();
    client.ok("MEM.CONFIG SET k session.ttl 1");
    append(&mut client, "s", "user", "before");
    client.ok("MEM.SESSION SET k s topic x");
    pause_ms(1_100);
    assert!(client.ok("MEM.SESSION INFO k s").is_nil());
    assert!(history(&mut client, "s").is_empty());
    assert!(pair.replica.client().ok("MEM.SESSION INFO k s").is_nil(), "a replica hides it too");
    assert_eq!(client.ok("MEM.COUNT k FILTER '.session == \"s\"'").int(), 1);
    client.ok("MEM.CONFIG SET k session.ttl 1h");
    append(&mut client, "s", "user", "after");
    assert_eq!(history(&mut client, "s"), ["after"]);
    assert!(client.ok("MEM.SESSION GET k s").names().is_empty());
    pair.check_persistent(&["k"]);
    assert_eq!(client.ok("MEM.SESSION DEL k s").int(), 1);
    assert_eq!(client.ok("MEM.COUNT k").int(), 0, "DEL takes the turns of both lives");
}

#[test]
fn the_turns_that_a_session_needs_are_not_evicted() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k episodic.capacity 10 session.turns 20 summarize-at 0");
    for n in 0..50 {
        append(&mut client, "s", "user", &format!("turn {n}"));
        client.ok(&format!("MEM.STORE k 'event {n}' TIER episodic NOEMBED"));
    }
    assert_eq!(history(&mut client, "s").len(), 50, "no summary covers any of them");
    assert_eq!(client.ok("MEM.COUNT k FILTER '.type == \"fact\"'").int(), 10);
    let mut json: Json = serde_json::from_str(&client.ok("MEM.SESSION EXPORT k s").text()).unwrap();
    json["summary"] = json!({"text": "They counted.", "turns": 40});
    client.ok_words(&words!["MEM.SESSION", "IMPORT", "k", "s", json.to_string(), "REPLACE"]);
    wait_until("the tier is within its capacity", || client.ok("MEM.COUNT k").int() == 30);
    let left = history(&mut client, "s");
    assert_eq!(left[left.len() - 20..], (30..50).map(|n| format!("turn {n}")).collect::<Vec<_>>());
}

#[test]
fn a_turn_is_answered_before_it_is_embedded_and_a_recall_waits_for_its_vector() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    append(&mut client, "s", "user", "The invoice for the roof was paid in March");
    wait_for_vectors(&mut client);
    server.close_latch();
    let id = append(&mut client, "s", "assistant", "The kitten purrs on the warm windowsill");
    assert_eq!(client.ok("MEM.SESSION INFO k s").field("without_vectors").int(), 1);
    assert_eq!(client.ok("MEM.RECALL k windowsill MODE lexical").items().len(), 1, "found by its words at once");
    server.wait_held(1);
    let recall = server.begin("MEM.RECALL k 'a young cat in a sunny place' K 1 MODE dense");
    pause_ms(100);
    assert!(!recall.is_done(), "the recall waits for the vector of the turn");
    server.open_latch();
    assert_eq!(recall.finish().unwrap().items()[0].field("id").text(), id);
    wait_for_vectors(&mut client);
    assert_eq!(client.ok(&format!("MEM.GET k {id}")).items()[0].field("vectors").int(), 1);
    // In a transaction nothing waits.
    client.ok("MULTI");
    client.ok("MEM.SESSION APPEND k s user 'And the dog?'");
    client.ok("MEM.RECALL k dog");
    assert_eq!(client.ok("EXEC").items()[1].items().len(), 3);
}

#[test]
fn vectors_that_were_missing_when_the_server_died_are_made_by_the_next() {
    let mut server = Server::with_text(&["appendonly yes", "appendfsync always"]);
    server.close_latch();
    let mut client = server.client();
    let id = append(&mut client, "s", "user", "The meeting is on Friday");
    server.wait_held(1);
    server.kill();
    server.restart(&[]);
    server.wait_for_encoder();
    let mut client = server.client();
    assert_eq!(history(&mut client, "s"), ["The meeting is on Friday"]);
    wait_for_vectors(&mut client);
    assert_eq!(client.ok("MEM.RECALL k 'when do we meet' MODE dense").items()[0].field("id").text(), id);
    // And by a replica that becomes the primary.
    let replica = server.replica(&["engram.embedder all-MiniLM-L6-v2"]);
    replica.wait_for_encoder();
    server.close_latch();
    let id = append(&mut client, "s", "user", "It was moved to Monday");
    replica.wait_for_offset(&server);
    let mut other = replica.client();
    assert_eq!(other.ok("MEM.STATS k").field("awaiting").int(), 1);
    other.ok("REPLICAOF NO ONE");
    wait_for_vectors(&mut other);
    assert_eq!(other.ok(&format!("MEM.GET k {id}")).items()[0].field("vectors").int(), 1);
    server.open_latch();
}

#[test]
fn turns_without_an_encoder_are_kept_and_embedded_once_there_is_one() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    append(&mut client, "s", "user", "The train leaves at nine");
    assert_eq!(client.ok("MEM.STATS k").field("awaiting").int(), 1);
    assert_eq!(client.ok("MEM.RECALL k train").items().len(), 1);
    // A space of the caller's own vectors waits for none.
    client.ok("MEM.STORE own x VALUES 2 1 0");
    client.ok("MEM.SESSION APPEND own s user hello");
    assert_eq!(client.ok("MEM.STATS own").field("awaiting").int(), 0);
    client.ok("CONFIG SET engram.embedder all-MiniLM-L6-v2");
    wait_for_vectors(&mut client);
    assert_eq!(client.ok("MEM.RECALL k 'departure time' MODE dense").items().len(), 1);
}

#[test]
fn the_tokens_of_a_turn_are_counted_behind_the_reply() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    let long = "word ".repeat(3_000);
    append(&mut client, "s", "user", &long);
    wait_for_vectors(&mut client);
    let turn = &client.ok("MEM.SESSION HISTORY k s").items()[0].clone();
    assert_eq!(turn.field("tokens").int(), 3_000);
    client.ok("DEL k");
}

#[test]
fn a_session_that_goes_on_while_it_is_forgotten_begins_anew() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k summarize-at 0");
    for batch in 0..3 {
        let turns: Vec<_> =
            (0..500).map(|n| json!({"role": "user", "content": format!("{batch} {n}"), "tokens": 2})).collect();
        let text = json!({"history": turns}).to_string();
        client.ok_words(&words!["MEM.SESSION", "IMPORT", "k", format!("s{batch}"), text]);
    }
    client.ok("MEM.SESSION SET k s0 topic old");
    server.close_latch();
    let forgetting = server.begin("MEM.FORGET k SESSION s0");
    server.wait_held(1);
    append(&mut client, "s0", "user", "something new");
    server.open_latch();
    assert_eq!(forgetting.finish().unwrap().int(), 500);
    assert_eq!(history(&mut client, "s0"), ["something new"]);
    assert!(client.ok("MEM.SESSION GET k s0 topic").items()[0].is_nil());
    assert_eq!(history(&mut client, "s1").len(), 500);
}

#[test]
fn a_reworded_turn_is_in_no_summary() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let turns = ["My card ends in 4711, keep that.", "I will keep that in mind.", "Good, what is for lunch?"];
    let ids: Vec<String> = turns.iter().map(|content| append(&mut client, "s", "user", content)).collect();
    let summary = client.ok("MEM.SESSION SUMMARIZE k s KEEP 1");
    assert!(summary.field("summary").text().contains("4711"));
    client.ok_words(&words!["MEM.UPDATE", "k", &ids[0], "CONTENT", "My card ends in something.", "NOEMBED"]);
    assert!(client.ok("MEM.SESSION SUMMARY k s").field("summary").is_nil());
    assert!(!client.ok("MEM.CONTEXT k SESSION s").field("text").text().contains("4711"));
    let summary = client.ok("MEM.SESSION SUMMARIZE k s KEEP 1");
    assert!(!summary.field("summary").text().contains("4711"));
}
