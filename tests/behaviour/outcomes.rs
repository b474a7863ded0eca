//! Outcomes told from words and preferred in recall, and importance where nobody gives one.

use redis::Value;

use crate::client::{Client, Reply, words};
use crate::digest::Pair;
use crate::harness::Server;

/// The memory of an id.
fn get(client: &mut Client, id: &str) -> Value {
    client.ok(&format!("MEM.GET k {id}")).items().swap_remove(0)
}

fn outcome(client: &mut Client, id: &str) -> Option<String> {
    get(client, id).maybe("outcome").map(|outcome| outcome.text())
}

fn importance(client: &mut Client, id: &str) -> f64 {
    get(client, id).field("importance").float()
}

fn append(client: &mut Client, role: &str, content: &str, options: &str) -> String {
    let mut command = words!["MEM.SESSION", "APPEND", "k", "s", role, content];
    command.extend(options.split_whitespace().map(|word| word.as_bytes().to_vec()));
    client.ok_words(&command).text()
}

#[test]
fn an_outcome_is_told_from_words_in_both_protocols() {
    let server = Server::plain(&[]);
    for mut client in [server.client(), server.client3()] {
        for (text, expected, told) in [
            ("Okay, all done!", Some("task_completed"), "all done"),
            ("okay, done, but WAIT", Some("distracted"), "wait"),
            ("Sounds good. Let’s do it", Some("re_engaged"), "sounds good|let's do it"),
            ("I haven't finished it", None, ""),
            ("an abandoned house", None, ""),
            ("", None, ""),
        ] {
            let reply = client.ok_words(&words!["MEM.OUTCOME", text]);
            assert_eq!(reply.names(), ["outcome", "words"]);
            let outcome = reply.field("outcome");
            assert_eq!((!outcome.is_nil()).then(|| outcome.text()).as_deref(), expected, "{text}");
            assert_eq!(reply.field("words").texts().join("|"), told, "{text}");
        }
        let long = "done ".repeat(100_000);
        assert_eq!(client.ok_words(&words!["MEM.OUTCOME", long]).field("words").texts(), ["done"]);
    }
    let mut three = server.client3();
    assert!(matches!(three.ok("MEM.OUTCOME done"), Value::Map(_)));
    three.ok("MULTI");
    three.ok("MEM.OUTCOME done");
    assert_eq!(three.ok("EXEC").items()[0].field("outcome").text(), "task_completed");
    three.ok("CONFIG SET engram.max-content-bytes 10");
    assert!(three.err_words(&words!["MEM.OUTCOME", "x".repeat(11)]).contains("engram.max-content-bytes"));
}

#[test]
fn the_lists_are_settings_that_are_checked_and_count_at_once() {
    let server = Server::plain(&["engram.outcome-re-engaged \"jawohl, los geht's\""]);
    let mut client = server.client();
    let told = |client: &mut Client, text: &str| {
        let outcome = client.ok_words(&words!["MEM.OUTCOME", text]).field("outcome");
        if outcome.is_nil() { String::new() } else { outcome.text() }
    };
    assert_eq!((told(&mut client, "okay"), told(&mut client, "Los geht’s!")), (String::new(), "re_engaged".into()));
    let get =
        |client: &mut Client, name: &str| client.ok(&format!("CONFIG GET engram.outcome-{name}")).items()[1].text();
    assert_eq!(
        get(&mut client, "task-completed"),
        "done, finished, completed, all done, finished it, got it done, accomplished, finished the task"
    );
    assert_eq!(
        get(&mut client, "distracted"),
        "wait, hold on, what was I doing, lost track, forgot, distracted, off track"
    );
    client.ok("CONFIG SET engram.outcome-task-completed 'fertig, alles fertig'");
    assert_eq!(told(&mut client, "done"), "");
    assert_eq!(client.ok("MEM.OUTCOME 'alles fertig'").field("words").texts(), ["alles fertig"]);
    client.ok("CONFIG SET engram.outcome-task-completed ''");
    assert_eq!(told(&mut client, "alles fertig"), "");
    let many = vec!["x"; 257].join(",");
    for (list, part) in [
        ("done,,over", "has no word"),
        ("!", "has no word"),
        ("a b c d e f g h i", "at most 8"),
        (many.as_str(), "more than 256 phrases"),
        (&"x".repeat(9000), "bytes"),
    ] {
        for name in ["distracted", "task-completed", "re-engaged"] {
            let error = client.err_words(&words!["CONFIG", "SET", format!("engram.outcome-{name}"), list]);
            assert!(error.starts_with("ERR") && error.contains(part), "{name} {part}: {error}");
        }
    }
    assert_eq!(told(&mut client, "jawohl"), "re_engaged", "what was refused changes nothing");
}

#[test]
fn turns_of_users_have_the_outcome_that_they_tell_or_the_one_that_is_given() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let done = append(&mut client, "user", "All done, thanks", "");
    let given = append(&mut client, "user", "All done, thanks a lot", "OUTCOME celebrated");
    let none = append(&mut client, "user", "I have not finished it", "");
    let other = append(&mut client, "assistant", "Done!", "");
    let named = append(&mut client, "tool", "exit code 0", "OUTCOME task_completed");
    for (id, expected) in [
        (&done, Some("task_completed")),
        (&given, Some("celebrated")),
        (&none, None),
        (&other, None),
        (&named, Some("task_completed")),
    ] {
        assert_eq!(outcome(&mut client, id).as_deref(), expected);
    }
    let turns = client.ok("MEM.SESSION HISTORY k s").items();
    assert_eq!(turns[0].names().join(" "), "id role content tokens at importance outcome");
    assert_eq!((turns[1].field("outcome").text(), turns[2].maybe("outcome").is_none()), ("celebrated".into(), true));
    assert_eq!(
        client.ids("MEM.RECALL k done MODE lexical FILTER '.outcome == \"celebrated\"'"),
        std::slice::from_ref(&given)
    );
    // Every way keeps it: a change of another field, a copy, JSON out and in, a store.
    client.ok(&format!("MEM.UPDATE k {given} IMPORTANCE 0.9"));
    assert_eq!(outcome(&mut client, &given).as_deref(), Some("celebrated"));
    client.ok("MEM.SESSION COPY k s t");
    assert_eq!(client.count_of("'.session == \"t\" and .outcome == \"task_completed\"'"), 2);
    let json = client.ok("MEM.SESSION EXPORT k s").text();
    client.ok("MEM.SESSION DEL k s");
    client.ok_words(&words!["MEM.SESSION", "IMPORT", "k", "s", json]);
    assert_eq!(client.ok("MEM.SESSION EXPORT k s").text(), json);
    assert!(json.contains("\"outcome\": \"celebrated\""));
    assert_eq!(outcome(&mut client, &none), None);
    let stored = client.ok("MEM.STORE k 'All done here' NOEMBED").text();
    assert_eq!(outcome(&mut client, &stored), None, "a memory is nobody's turn");
    client.ok(&format!("MEM.UPDATE k {stored} OUTCOME distracted"));
    assert_eq!(outcome(&mut client, &stored).as_deref(), Some("distracted"));
    let many = client.ok("MEM.MSTORE k '{\"content\":\"a\",\"noembed\":true,\"outcome\":\"won\"}'").texts();
    assert_eq!(outcome(&mut client, &many[0]).as_deref(), Some("won"));
    // As lines of JSON.
    let page = client.ok("MEM.EXPORT k 0").items().remove(1).texts();
    let mut import = words!["MEM.IMPORT", "l"];
    import.extend(page.into_iter().map(String::into_bytes));
    client.ok_words(&import);
    assert_eq!(client.ok("MEM.COUNT l FILTER '.outcome == \"celebrated\"'").int(), 2);
    let long = "x".repeat(257);
    let error = client.err_words(&words!["MEM.SESSION", "APPEND", "k", "s", "user", "hi", "OUTCOME", long]);
    assert!(error.contains("OUTCOME"), "{error}");
}

#[test]
fn a_message_of_a_chat_has_its_outcome_and_importance() {
    let server = Server::with_model("random-q8_0.gguf", &[]);
    let mut client = server.client();
    let reply = client.ok("GEMMA.CHAT k s 'I am done: my passport is in the drawer' MAXTOKENS 4 SEED 1");
    let turn = reply.field("turn").text();
    assert_eq!(outcome(&mut client, &turn).as_deref(), Some("task_completed"));
    assert!(importance(&mut client, &turn) >= 0.7);
    if let Some(answer) = reply.maybe("answer").filter(|answer| !answer.is_nil()) {
        let answer = answer.text();
        assert_eq!(outcome(&mut client, &answer), None);
        assert!(importance(&mut client, &answer) < 0.7);
    }
}

/// Replicas, whatever their lists and settings, have what the primary decided.
#[test]
fn what_was_told_is_saved_and_replicated() {
    let pair = Pair::start(&["engram.embedder \"\""]);
    let mut replica = pair.replica.client();
    for name in ["distracted", "task-completed", "re-engaged"] {
        replica.ok(&format!("CONFIG SET engram.outcome-{name} nothing"));
    }
    let mut client = pair.primary.client();
    let turn = append(&mut client, "user", "okay, the password is marlin42", "");
    append(&mut client, "user", "hold on", "");
    append(&mut client, "assistant", "Sure.", "");
    append(&mut client, "user", "never mind", "OUTCOME own IMPORTANCE 1");
    client.ok("MEM.STORE k 'I am allergic to nuts' NOEMBED");
    client.ok("MEM.STORE k 'hello there' NOEMBED OUTCOME distracted");
    client.ok("MEM.MSTORE k '{\"content\":\"Remember the deadline on Friday\",\"noembed\":true}'");
    client.ok("MEM.CONFIG SET k importance 0.25");
    client.ok("MEM.STORE k 'my password is secret' NOEMBED");
    append(&mut client, "user", "all done", "");
    client.ok("MEM.CONSOLIDATE k");
    pair.check_persistent(&["k"]);
    assert_eq!(outcome(&mut replica, &turn).as_deref(), Some("re_engaged"));
    assert_eq!(importance(&mut replica, &turn), importance(&mut client, &turn));
    assert!(replica.ok("MEM.OUTCOME done").field("outcome").is_nil(), "a read of its own");
}

#[test]
fn importance_is_estimated_unless_it_is_given_or_fixed() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let stored = |client: &mut Client, rest: &str| {
        let id = client.ok(&format!("MEM.STORE k {rest} NOEMBED NODEDUP")).text();
        importance(client, &id)
    };
    let many = |client: &mut Client, json: &str| {
        let id = client.ok_words(&words!["MEM.MSTORE", "k", json]).texts().remove(0);
        importance(client, &id)
    };
    let plain = stored(&mut client, "'The train leaves from the other platform.'");
    let grave = stored(&mut client, "'I am allergic to penicillin.'");
    assert!((0.4..0.6).contains(&plain) && grave >= 0.7, "{plain} {grave}");
    assert!(stored(&mut client, "Thanks!") < 0.3);
    assert_eq!(stored(&mut client, "'I am allergic to penicillin.' IMPORTANCE 0.2"), 0.2);
    assert!(stored(&mut client, "'Tea in the morning' TYPE preference") > stored(&mut client, "'Tea in the morning'"));
    let allergic = "{\"content\":\"I am allergic to penicillin.\",\"noembed\":true,\"dedup\":false}";
    assert_eq!(many(&mut client, allergic), grave);
    assert_eq!(many(&mut client, "{\"content\":\"Hi\",\"noembed\":true,\"importance\":0.9}"), 0.9);
    let said = append(&mut client, "user", "I am allergic to penicillin.", "");
    let answered = append(&mut client, "assistant", "I am allergic to penicillin.", "");
    let given = append(&mut client, "user", "I am allergic to penicillin.", "IMPORTANCE 0.5");
    assert_eq!(importance(&mut client, &said), grave);
    assert!(importance(&mut client, &answered) < grave);
    assert_eq!(importance(&mut client, &given), 0.5);
    // Only what deserves it is promoted.
    for text in
        ["I am allergic to nuts.", "The train leaves from the other platform.", "I always take the bus.", "Thanks!"]
    {
        client.ok_words(&words!["MEM.STORE", "p", text, "NOEMBED"]);
    }
    client.ok("MEM.CONSOLIDATE p");
    let promoted = client.ok("MEM.SCAN p 0 FILTER '.tier == \"long_term\"'").items()[1].items();
    let promoted: Vec<String> = promoted.iter().map(|memory| memory.field("content").text()).collect();
    assert_eq!(promoted, ["I am allergic to nuts."]);
    // Somebody else's history says nothing of importance; an exported one does.
    client.ok("MEM.SESSION IMPORT k u '{\"history\":[{\"role\":\"user\",\"content\":\"The password is x1\"},{\"role\":\"user\",\"content\":\"all done\",\"importance\":0.3}]}'");
    let turns = client.ok("MEM.SESSION HISTORY k u").items();
    assert!(turns[0].field("importance").float() >= 0.7);
    assert_eq!((turns[1].field("importance").float(), turns[1].maybe("outcome").is_none()), (0.3, true));
    // A change of the content leaves it as it is.
    let id = client.ok("MEM.STORE k 'The shed is green' NOEMBED").text();
    let before = importance(&mut client, &id);
    client.ok(&format!("MEM.UPDATE k {id} CONTENT 'The password is green' NOEMBED"));
    assert_eq!(importance(&mut client, &id), before);
    // A number for all.
    client.ok("MEM.CONFIG SET k importance .5");
    assert_eq!(client.ok("MEM.CONFIG GET k importance").pairs()[0].1.text(), "0.5");
    assert_eq!(stored(&mut client, "'I am allergic to penicillin.'"), 0.5);
    assert_eq!(many(&mut client, "{\"content\":\"Hi there\",\"noembed\":true}"), 0.5);
    let said = append(&mut client, "tool", "42", "");
    assert_eq!(importance(&mut client, &said), 0.5);
    client.ok("MEM.CONFIG SET k importance ESTIMATE");
    assert_eq!(stored(&mut client, "'I am allergic to penicillin.'"), grave);
    for value in ["high", "1.1", "-0.1", "nan", "''"] {
        let error = client.err(&format!("MEM.CONFIG SET k importance {value}"));
        assert!(error.contains("estimate, or a number from 0 to 1"), "{value}: {error}");
    }
}

#[test]
fn a_chunk_and_an_imported_memory_keep_theirs() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    client.ok("MEM.INGEST k d 'The password of the safe is 4711. Never forget it, it is urgent.'");
    let chunk = client.ok("MEM.SCAN k 0 FILTER .doc").items()[1].items().remove(0);
    assert_eq!(chunk.field("importance").float(), 0.5);
    client.ok("MEM.IMPORT k '{\"memory\":{\"content\":\"The password is x1\",\"noembed\":true,\"id\":\"1-1\"}}'");
    client.ok("MEM.IMPORT k '{\"memory\":{\"content\":\"hi\",\"noembed\":true,\"id\":\"1-2\",\"importance\":0.9}}'");
    assert_eq!((importance(&mut client, "1-1"), importance(&mut client, "1-2")), (0.5, 0.9));
}

#[test]
fn outcomes_are_preferred_in_every_mode() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    let texts = [
        ("The report on river fish is with the printer", "task_completed"),
        ("The river fish report was laid aside", "distracted"),
        ("Somebody began to write about fish in the river", "re_engaged"),
        ("Bread is baked on Mondays", "task_completed"),
        ("Chairs are stacked in the hall", ""),
    ];
    for (n, (text, outcome)) in texts.into_iter().enumerate() {
        let mut command = words!["MEM.STORE", "k", text, "ID", format!("{}-0", n + 1)];
        if !outcome.is_empty() {
            command.extend(words!["OUTCOME", outcome]);
        }
        client.ok_words(&command);
    }
    for mode in ["MODE dense", "MODE lexical", "MODE hybrid", ""] {
        for wish in ["", "WEIGHTS 2 1 1 1", "EXACT", "FILTER '.importance >= 0'", "MINSCORE 0.1"] {
            let ask = |client: &mut Client, prefer: &str| {
                client
                    .ok(&format!("MEM.RECALL k 'report on river fish' NOTOUCH EXPLAIN {mode} {wish} {prefer}"))
                    .items()
            };
            let plain = ask(&mut client, "");
            let score = |hits: &[Value], id: &str| {
                let hit = hits.iter().find(|hit| hit.field("id").text() == id).unwrap();
                (hit.field("score").float(), hit.field("similarity"))
            };
            let of = |hit: &Value| hit.field("score").float();
            let spread = of(&plain[0]) - of(plain.last().unwrap());
            let found = ask(&mut client, "PREFER distracted 1 PREFER task_completed -0.5");
            assert_eq!(found.len(), plain.len(), "{mode} {wish}");
            assert_eq!(found[0].field("id").text(), "2-0", "{mode} {wish}");
            for hit in &found {
                let (before, similarity) = score(&plain, &hit.field("id").text());
                let share = match hit.maybe("outcome").map(|outcome| outcome.text()).as_deref() {
                    Some("distracted") => 1.0,
                    Some("task_completed") => -0.5,
                    _ => 0.0,
                };
                assert!((hit.field("score").float() - before - share * spread).abs() < 1e-4, "{mode} {wish}: {hit:?}");
                assert_eq!(hit.field("similarity"), similarity, "{mode} {wish}");
                let part = hit.field("explain").field("parts").maybe("outcome").map(|part| part.float());
                assert_eq!(part.is_some(), share != 0.0, "{mode} {wish}");
            }
        }
    }
    let varied = client.ids("MEM.RECALL k 'report on river fish' PREFER distracted 1 MMR 0.8 K 5");
    assert_eq!((varied.len(), varied[0].as_str()), (5, "2-0"));
    let one = client.ids("MEM.RECALL k 'report on river fish' PREFER distracted 1 K 1");
    assert_eq!(one, ["2-0"]);
    for (rest, part) in [
        ("PREFER distracted 0", "not 0"),
        ("PREFER distracted 1.5", "a number from -1 to 1"),
        ("PREFER a 1 PREFER a 1", "twice"),
        (
            "PREFER a 1 PREFER b 1 PREFER c 1 PREFER d 1 PREFER e 1 PREFER f 1 PREFER g 1 PREFER h 1 PREFER i 1",
            "more than 8 times",
        ),
    ] {
        let error = client.err(&format!("MEM.RECALL k fish {rest}"));
        assert!(error.starts_with("ERR") && error.contains(part), "{rest}: {error}");
    }
}

/// A recall that runs on the pool, on a frozen space, prefers as one on the main thread does.
#[test]
fn a_preference_counts_on_the_pool_too() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k short_term.capacity 0");
    for batch in 0..40 {
        let items = (0..500).map(|n| {
            let outcome = if n % 100 == 50 { "won" } else { "lost" };
            let turn = f64::from(batch * 500 + n) / 20_000.0;
            format!(
                "{{\"content\":\"memory {batch} {n}\",\"vector\":[1,{turn}],\"outcome\":\"{outcome}\",\"dedup\":false}}"
            )
        });
        let mut command = words!["MEM.MSTORE", "k"];
        command.extend(items.map(String::into_bytes));
        client.ok_words(&command);
    }
    let on_the_pool = |client: &mut Client| client.info("engram_recalls_on_the_pool").parse::<u64>().unwrap();
    let before = on_the_pool(&mut client);
    let long = "memory ".to_owned() + &"zebra lantern ".repeat(10);
    let found = client.ok(&format!("MEM.RECALL k '{long}' MODE lexical K 20 PREFER won 1")).items();
    assert_eq!(found.len(), 20);
    assert_eq!(found[0].field("outcome").text(), "won");
    assert!(on_the_pool(&mut client) > before);
}
