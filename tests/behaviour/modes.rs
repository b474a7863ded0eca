//! Recall by words, by likeness and by what the caller weighs; what it says about itself; and what it does without an encoder.

use redis::Value;

use crate::client::{Client, Reply};
use crate::harness::Server;

fn turns(client: &mut Client) {
    for (n, text) in [
        "the cat sat on the mat",
        "dogs chase cats in the garden",
        "the train to Berlin leaves at noon",
        "a garden of roses",
    ]
    .iter()
    .enumerate()
    {
        client.ok(&format!("MEM.STORE k '{text}' ID {}-0 NOEMBED AT {} IMPORTANCE 0.{}", n + 1, n + 1, 9 - n));
    }
}

#[test]
fn without_an_encoder_text_is_found_by_its_words_and_the_reply_says_so() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    turns(&mut client);
    let before: u64 = client.info("engram_recalls_without_encoder").parse().unwrap();
    for mode in ["", "MODE hybrid", "MODE lexical"] {
        assert_eq!(client.ids(&format!("MEM.RECALL k 'trains to Berlin' {mode} K 1")), ["3-0"], "{mode}");
    }
    let after: u64 = client.info("engram_recalls_without_encoder").parse().unwrap();
    assert_eq!(after - before, 2, "MODE lexical wants no encoder");
    let found = client.ok("MEM.RECALL k 'trains to Berlin' EXPLAIN K 1").items()[0].clone();
    assert!(found.field("similarity").is_nil());
    let explain = found.field("explain");
    assert!(explain.field("note").text().contains("encoder"));
    assert_eq!(explain.field("path").text(), "none");
    assert!(explain.field("words").names().contains(&"berlin".to_owned()), "{explain:?}");
    let lexical = client.ok("MEM.RECALL k 'trains to Berlin' MODE lexical EXPLAIN").items()[0].clone();
    assert_eq!(lexical.field("explain").maybe("note"), None);
    // Scores by words are BM25: above 1, and MINSCORE bounds them.
    let score = lexical.field("score").float();
    assert!(client.ids(&format!("MEM.RECALL k 'trains to Berlin' MODE lexical MINSCORE {}", score + 0.1)).is_empty());
    assert!(client.err("MEM.RECALL k x MINSCORE 1.5").contains("MODE lexical"));
    let error = client.err("MEM.RECALL k 'trains to Berlin' MODE dense");
    assert!(error.starts_with("NOMODEL"), "{error}");
    // A space without an index of words has nothing to go by.
    client.ok("MEM.CONFIG SET k lexical off");
    assert!(client.err("MEM.RECALL k 'trains to Berlin'").starts_with("NOMODEL"));
    assert!(client.err("MEM.RECALL k 'trains to Berlin' MODE lexical").contains("lexical is off"));
}

#[test]
fn a_space_of_foreign_vectors_is_searched_by_words() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE k 'the cat sat' ID 1-0 VALUES 2 1 0");
    client.ok("MEM.STORE k 'a train leaves' ID 2-0 VALUES 2 0 1");
    let found = client.ok("MEM.RECALL k 'which train' EXPLAIN").items();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].field("id").text(), "2-0");
    assert!(found[0].field("explain").field("note").text().contains("caller's own"));
    let error = client.err("MEM.RECALL k 'which train' MODE dense");
    assert!(error.starts_with("ERR") && error.contains("VECTOR"), "{error}");
}

#[test]
fn like_finds_what_is_like_a_memory_and_not_itself() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for (id, vector) in [("1-0", "1 0"), ("2-0", "0.9 0.1"), ("3-0", "0 1")] {
        client.ok(&format!("MEM.STORE k text-{id} ID {id} VALUES 2 {vector}"));
    }
    assert_eq!(client.ids("MEM.RECALL k LIKE 1-0 MODE dense"), ["2-0", "3-0"]);
    assert_eq!(client.ids("MEM.RECALL k LIKE 3-0 MODE dense K 1"), ["2-0"]);
    assert!(client.err("MEM.RECALL k LIKE 7-7").contains("no such memory"));
    assert!(client.err("MEM.RECALL k LIKE x").contains("LIKE is 'x'"));
    assert!(client.err("MEM.RECALL k words LIKE 1-0").contains("exclude each other"));
    assert!(client.ok("MEM.RECALL none LIKE 1-0").items().is_empty());
    // Inside a transaction too.
    client.ok("MULTI");
    client.ok("MEM.RECALL k LIKE 1-0 MODE dense");
    assert_eq!(client.ok("EXEC").items()[0].items().len(), 2);
}

#[test]
fn weights_outcomes_and_variety_change_the_order() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let day = 86_400_000;
    let now = crate::harness::now_ms();
    client.ok(&format!("MEM.STORE k near ID 1-0 VALUES 2 1 0 IMPORTANCE 0.1 AT {} OUTCOME distracted", now - 90 * day));
    client.ok(&format!("MEM.STORE k 'near too' ID 2-0 VALUES 2 1 0.05 IMPORTANCE 0.2 AT {}", now - 60 * day));
    client.ok(&format!("MEM.STORE k far ID 3-0 VALUES 2 0.5 0.8 IMPORTANCE 1 AT {now}"));
    for (options, expected) in [
        ("", ["1-0", "2-0", "3-0"]),
        ("WEIGHTS 1 0 0 0", ["1-0", "2-0", "3-0"]),
        ("WEIGHTS 0 0 1 0", ["3-0", "2-0", "1-0"]),
        ("WEIGHTS 0 1 0 0 HALFLIFE 86400", ["3-0", "2-0", "1-0"]),
        ("PREFER distracted -0.5", ["2-0", "1-0", "3-0"]),
        ("WEIGHTS 0 0 1 0 PREFER distracted 1", ["1-0", "3-0", "2-0"]),
        ("MMR 0.2", ["1-0", "3-0", "2-0"]),
    ] {
        assert_eq!(client.ids(&format!("MEM.RECALL k VALUES 2 1 0 NOTOUCH {options}")), expected, "{options}");
    }
    for (options, sentence) in [
        ("WEIGHTS 1 0 0", "WEIGHTS needs 4 values: relevance"),
        ("WEIGHTS 1 0 0 x", "the use of WEIGHTS is 'x'"),
        ("WEIGHTS 1 0 0 -1", "a number from 0"),
        ("WEIGHTS 0 0 0 0", "not all of them 0"),
        ("HALFLIFE 5", "WEIGHTS"),
        ("WEIGHTS 1 1 1 1 HALFLIFE 0", "HALFLIFE"),
        ("PREFER distracted", "PREFER needs 2 values: outcome"),
        ("PREFER distracted much", "the weight of PREFER is 'much'"),
        ("MMR 1.5", "a number from 0 to 1"),
        ("MODE fuzzy", "one of dense, lexical, hybrid"),
        ("MODE lexical", "no text to look for"),
        ("ASOF yesterday", "ASOF"),
        ("EXPANSE 2", "unknown option 'EXPANSE'"),
    ] {
        let error = client.err(&format!("MEM.RECALL k VALUES 2 1 0 {options}"));
        assert!(error.contains(sentence), "{options}: {error}");
    }
}

#[test]
fn explain_says_how_a_score_came_about_in_both_protocols() {
    let server = Server::with_text(&[]);
    server.client().ok("MEM.STORE k 'the cat sat on the mat' ID 1-0 SPEAKER Ada SESSION s");
    server.client().ok("MEM.STORE k 'the train leaves at noon' ID 2-0 SPEAKER Bob SESSION s");
    for mut client in [server.client(), server.client3()] {
        let plain = client.ok("MEM.RECALL k 'where is the cat'").items();
        assert_eq!(plain[0].maybe("explain"), None);
        for options in ["", "EXACT", "MODE dense", "FILTER '.session == \"s\"'"] {
            let found = client.ok(&format!("MEM.RECALL k 'where is the cat' EXPLAIN {options}")).items()[0].clone();
            assert_eq!(found.field("id").text(), "1-0", "{options}");
            assert_eq!(found.names().last().unwrap(), "explain");
            let explain = found.field("explain");
            assert_eq!(
                explain.names().join(" "),
                "parts words path compared rescored admitted matched embed_usec search_usec"
            );
            let parts: f64 = explain.field("parts").pairs().iter().map(|(_, part)| part.float()).sum();
            assert!(
                (parts - found.field("score").float()).abs() < 1e-4,
                "{options}: the parts make the score: {explain:?}"
            );
            assert_eq!(explain.field("admitted").is_nil(), !options.starts_with("FILTER"));
            assert!(explain.field("compared").int() > 0);
        }
        let dense = client.ok("MEM.RECALL k 'where is the cat' MODE dense").items();
        assert_eq!(dense[0].field("score").float(), dense[0].field("similarity").float());
    }
    let Value::Map(fields) = &server.client3().ok("MEM.RECALL k 'where is the cat' EXPLAIN").items()[0] else {
        panic!("not a map")
    };
    assert!(matches!(fields.last().unwrap().1, Value::Map(_)));
}
