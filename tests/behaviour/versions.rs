//! Memories that supersede others: what recall shows, what stays readable, and what the setting of precision and template does to what is stored.

use crate::client::{Reply, words};
use crate::harness::Server;

#[test]
fn what_is_superseded_goes_out_of_recall_and_stays_readable() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE k 'Ada lives in Paris' ID 1-0 VALUES 2 1 0 AT 100");
    client.ok("MEM.STORE k 'Ada lives in Rome' ID 2-0 VALUES 2 1 0.1 AT 200 SUPERSEDES 1-0");
    client.ok("MEM.MSTORE k '{\"content\":\"Ada lives in Oslo\",\"id\":\"3-0\",\"vector\":[1,0.2],\"at\":300,\"supersedes\":\"2-0\"}'");
    for (options, expected) in [
        ("", vec!["3-0"]),
        ("ASOF 99", vec![]),
        ("ASOF 100", vec!["1-0"]),
        ("ASOF 199", vec!["1-0"]),
        ("ASOF 200", vec!["2-0"]),
        ("ASOF 5000", vec!["3-0"]),
    ] {
        assert_eq!(client.ids(&format!("MEM.RECALL k VALUES 2 1 0 {options}")), expected, "{options}");
        assert_eq!(
            client.ids(&format!("MEM.RECALL k 'where does Ada live' MODE lexical {options}")),
            expected,
            "{options}"
        );
    }
    let old = &client.ok("MEM.GET k 1-0").items()[0];
    assert_eq!(old.field("superseded").field("by").text(), "2-0");
    assert_eq!(old.field("superseded").field("at").int(), 200);
    assert_eq!(old.maybe("supersedes"), None);
    let new = &client.ok("MEM.RECALL k VALUES 2 1 0").items()[0];
    assert_eq!(new.field("supersedes").text(), "2-0");
    assert_eq!(client.ok("MEM.STATS k").field("superseded").int(), 2);
    assert_eq!(client.ok("MEM.COUNT k FILTER '.superseded >= 0'").int(), 2);
    for (line, sentence) in [
        ("MEM.STORE k more VALUES 2 1 0 SUPERSEDES 9-9", "9-9"),
        ("MEM.STORE k more VALUES 2 1 0 SUPERSEDES 1-0", "superseded by 2-0 already"),
        ("MEM.STORE k more VALUES 2 1 0 SUPERSEDES x", "SUPERSEDES is 'x'"),
    ] {
        let error = client.err(line);
        assert!(error.contains(sentence), "{line}: {error}");
    }
}

#[test]
fn history_shows_every_version_oldest_first_and_where_they_came_from() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE k 'I moved to Rome' ID 1-0 NOEMBED AT 10 SPEAKER Ada SESSION s");
    client.ok("MEM.STORE k 'Paris was nice' ID 2-0 NOEMBED AT 5 SPEAKER Ada SESSION s");
    client.ok("MEM.STORE k 'Ada lives in Paris' ID 3-0 NOEMBED AT 6 FROM 2 2-0 7-7");
    client.ok("MEM.STORE k 'Ada lives in Rome' ID 4-0 NOEMBED AT 11 FROM 1 1-0 SUPERSEDES 3-0");
    for mut client in [server.client(), server.client3()] {
        for id in ["3-0", "4-0"] {
            let history = client.ok(&format!("MEM.HISTORY k {id}"));
            assert_eq!(history.names(), ["id", "current", "versions", "sources"]);
            assert_eq!((history.field("id").text(), history.field("current").text()), (id.into(), "4-0".into()));
            let versions = history.field("versions").items();
            let ids: Vec<String> = versions.iter().map(|version| version.field("id").text()).collect();
            assert_eq!(ids, ["3-0", "4-0"]);
            assert_eq!(versions[0].field("superseded").field("by").text(), "4-0");
            assert_eq!(versions[0].field("from").texts(), ["2-0", "7-7"]);
            let sources = history.field("sources").items();
            let contents: Vec<String> = sources.iter().map(|source| source.field("content").text()).collect();
            assert_eq!(contents, ["Paris was nice", "I moved to Rome"], "what stands of them, in the order of time");
        }
    }
    let alone = client.ok("MEM.HISTORY k 1-0");
    assert_eq!(alone.field("versions").items().len(), 1);
    assert!(alone.field("sources").items().is_empty());
    assert_eq!(client.err("MEM.HISTORY k 8-8"), "ERR no such memory: 8-8");
    assert!(client.ok("MEM.HISTORY none 1-0").is_nil());
    // A version that was forgotten ends the chain; what stands still names it.
    client.ok("MEM.FORGET k 3-0");
    let history = client.ok("MEM.HISTORY k 4-0");
    assert_eq!(history.field("versions").items().len(), 1);
}

#[test]
fn every_precision_gives_back_what_was_stored() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let vector: Vec<f32> = (0..64).map(|n| ((n * 37 % 64) as f32 - 31.5) / 32.0).collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    for (precision, tolerance) in [("f32", 1e-6), ("f16", 1e-3), ("i8", 1e-2)] {
        client.ok(&format!("MEM.CONFIG SET {precision} precision {precision}"));
        client.ok_words(&words!["MEM.STORE", precision, "text", "VECTOR", crate::client::blob(&vector)]);
        let stats = client.ok(&format!("MEM.STATS {precision}"));
        assert_eq!(stats.field("precision").text(), precision);
        for exact in [false, true] {
            let mut recall = words!["MEM.RECALL", precision, "VECTOR", crate::client::blob(&vector), "WITHVECTORS"];
            recall.extend(exact.then(|| b"EXACT".to_vec()));
            let found = client.ok_words(&recall).items()[0].clone();
            assert!((found.field("similarity").float() - 1.0).abs() < tolerance);
            let back = found.field("vector").raw();
            let back = back.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            let apart = back.zip(&vector).map(|(a, b)| (a - b / length).abs()).fold(0.0, f32::max);
            assert!(f64::from(apart) < tolerance, "{precision}: {apart}");
        }
        let digest = client.digest(precision);
        client.ok("DEBUG RELOAD");
        assert_eq!(client.digest(precision), digest);
        let dump = client.ok(&format!("DUMP {precision}")).raw();
        client.ok_words(&words!["RESTORE", format!("{precision}:copy"), 0, dump]);
        assert_eq!(client.digest(&format!("{precision}:copy")), digest);
    }
    assert!(client.err("MEM.CONFIG SET k precision f64").contains("f32"));
}

#[test]
fn who_said_it_and_when_is_embedded_as_the_template_says() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    let vector = |client: &mut crate::client::Client, key: &str, id: &str| {
        client
            .ok(&format!("MEM.RECALL {key} LIKE 9-9 WITHVECTORS K 10"))
            .items()
            .iter()
            .find(|found| found.field("id").text() == id)
            .expect("a result")
            .field("vector")
            .raw()
    };
    for key in ["spoken", "plain"] {
        client.ok(&format!("MEM.CONFIG SET {key} template {key}"));
        client.ok(&format!("MEM.STORE {key} 'the question' ID 9-9"));
        client.ok(&format!("MEM.STORE {key} 'I like tea' ID 1-0 AT 1683504000000"));
        client.ok(&format!("MEM.STORE {key} 'I like tea' ID 2-0 AT 1683504000000 SPEAKER Caroline"));
        client.ok(&format!("MEM.STORE {key} 'On 8 May 2023, Caroline said: I like tea' ID 3-0"));
    }
    assert_eq!(vector(&mut client, "plain", "1-0"), vector(&mut client, "plain", "2-0"));
    assert_ne!(vector(&mut client, "spoken", "1-0"), vector(&mut client, "spoken", "2-0"));
    assert_eq!(vector(&mut client, "spoken", "2-0"), vector(&mut client, "spoken", "3-0"));
    // Another speaker or day changes the text, and with it the vector; importance does not.
    let texts = client.info("engram_embedded_texts");
    client.ok("MEM.UPDATE spoken 2-0 IMPORTANCE 0.9");
    client.ok("MEM.UPDATE plain 2-0 SPEAKER Bob");
    assert_eq!(client.info("engram_embedded_texts"), texts);
    client.ok("MEM.UPDATE spoken 2-0 SPEAKER Bob");
    assert_ne!(vector(&mut client, "spoken", "2-0"), vector(&mut client, "spoken", "3-0"));
    client.ok("MEM.UPDATE spoken 2-0 SPEAKER ''");
    assert_eq!(vector(&mut client, "spoken", "2-0"), vector(&mut client, "spoken", "1-0"));
    assert_eq!(client.ok("MEM.GET spoken 2-0").items()[0].field("template").int(), 2);
    assert_eq!(client.ok("MEM.GET plain 2-0").items()[0].field("template").int(), 1);
}

#[test]
fn a_template_that_changes_while_a_text_is_embedded_stops_the_store() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE k first ID 1-0");
    server.close_latch();
    let held = server.begin("MEM.STORE k 'held at the latch' SPEAKER Ada");
    server.wait_held(1);
    client.ok("MEM.CONFIG SET k template plain");
    server.open_latch();
    let error = held.finish().unwrap_err();
    assert!(error.contains("STALE") && error.contains("template"), "{error}");
    assert_eq!(client.count("k"), 1);
}
