//! MEM.INGEST, MEM.DOCS and forgetting a document: chunks, replacement at once, and what a failure leaves.

use crate::client::{Client, Reply, words};
use crate::digest::Pair;
use crate::harness::{Server, pause_ms, wait_until};

/// A handbook with so many sections under two chapters.
fn handbook(sections: usize, word: &str) -> String {
    let mut text = "# Handbook\n\nWhat everybody should know.\n\n".to_owned();
    for section in 0..sections {
        text.push_str(&format!("## Machine {section}\n\n"));
        for step in 0..12 {
            text.push_str(&format!(
                "Step {step} of machine {section}: turn the {word} handle slowly until the lamp with the number {step} is green. \
                 Then wait for a while.\n\n"
            ));
        }
    }
    text
}

fn ingest(client: &mut Client, name: &str, text: &str) -> redis::Value {
    client.ok_words(&words!["MEM.INGEST", "k", name, text])
}

fn chunks(client: &mut Client, name: &str) -> Vec<redis::Value> {
    let mut chunks = client.ok(&format!("MEM.TIMELINE k - + FILTER '.doc == \"{name}\"'")).items();
    chunks.sort_by_key(|chunk| chunk.field("position").int());
    chunks
}

#[test]
fn a_document_becomes_chunks_that_are_found() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    let text = handbook(8, "red");
    let reply = client.ok_words(&words![
        "MEM.INGEST",
        "k",
        "book",
        text,
        "SOURCE",
        "shelf",
        "AT",
        "1700000000000",
        "TAGS",
        "1",
        "manual",
        "META",
        "{\"year\":1999}"
    ]);
    let count = reply.field("chunks").int();
    assert!(count > 4, "{reply:?}");
    assert_eq!(reply.names(), ["doc", "chunks", "tokens"]);
    let found = chunks(&mut client, "book");
    assert_eq!(found.len() as i64, count);
    for (n, chunk) in found.iter().enumerate() {
        assert_eq!((chunk.field("position").int(), chunk.field("total").int()), (n as i64, count));
        assert_eq!((chunk.field("tier").text(), chunk.field("type").text()), ("long_term".into(), "chunk".into()));
        assert_eq!((chunk.field("source").text(), chunk.field("at").int()), ("shelf".into(), 1_700_000_000_000));
        assert_eq!(
            (chunk.field("tags").texts().join(","), chunk.field("meta").text()),
            ("manual".into(), "{\"year\":1999}".into())
        );
        // The piece of the source is the content, behind the path of headings above it.
        let piece = &text[chunk.field("start").int() as usize..chunk.field("end").int() as usize];
        assert!(chunk.field("content").text().ends_with(piece.trim_end()), "chunk {n}");
        assert!((1..=512).contains(&chunk.field("tokens").int()));
    }
    assert!(found[1].field("content").text().starts_with("Handbook"), "a heading travels with its chunk");
    let hit = &client.ok("MEM.RECALL k 'how is machine 5 operated' K 1").items()[0];
    assert_eq!(hit.field("doc").text(), "book");
    assert!(hit.field("content").text().contains("achine 5"));
    let docs = client.ok("MEM.DOCS k");
    let row = &docs.items()[0];
    assert_eq!(
        (row.field("doc").text(), row.field("chunks").int(), row.field("standing").int()),
        ("book".into(), count, count)
    );
    assert_eq!((row.field("bytes").int(), row.field("source").text()), (text.len() as i64, "shelf".into()));
    // A name of the server's, and chunks of another size.
    let other = client.ok_words(&words![
        "MEM.INGEST",
        "k",
        "*",
        text,
        "CHUNK",
        "60",
        "OVERLAP",
        "0",
        "TIER",
        "semantic",
        "TYPE",
        "manual"
    ]);
    assert!(other.field("chunks").int() > 3 * count);
    let name = other.field("doc").text();
    let chunk = &chunks(&mut client, &name)[0];
    assert_eq!((chunk.field("type").text(), chunk.field("tier").text()), ("manual".into(), "semantic".into()));
    // Forgotten.
    let ids = client.ok("MEM.FORGET k DOC book DRYRUN").items().len() as i64;
    assert_eq!((ids, client.ok("MEM.FORGET k DOC book").int()), (count, count));
    assert_eq!(client.ok("MEM.COUNT k FILTER '.doc == \"book\"'").int(), 0);
    assert_eq!(client.ok("MEM.FORGET k DOC book").int(), 0);
    assert_eq!(client.ok("MEM.DOCS k").items().len(), 1);
}

#[test]
fn documents_are_saved_and_replicated() {
    let pair = Pair::start(&["engram.embedder all-MiniLM-L6-v2"]);
    pair.primary.wait_for_encoder();
    let mut client = pair.primary.client();
    ingest(&mut client, "a", &handbook(2, "red"));
    ingest(&mut client, "b", &handbook(1, "blue"));
    ingest(&mut client, "a", &handbook(1, "green"));
    client.ok_words(&words!["MEM.INGEST", "k", "c", handbook(1, "old")]);
    client.ok("MEM.FORGET k DOC c");
    pair.check_persistent(&["k"]);
    let names: Vec<String> =
        pair.replica.client().ok("MEM.DOCS k").items().iter().map(|row| row.field("doc").text()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(chunks(&mut client, "a").iter().all(|chunk| chunk.field("content").text().contains("green")));
}

#[test]
fn the_old_document_is_found_until_the_new_one_is_whole() {
    let server = Server::with_text(&["engram.threads 1"]);
    let mut client = server.client();
    ingest(&mut client, "book", &handbook(2, "red"));
    let before = client.digest("k");
    let standing = client.count("k");
    server.close_latch();
    let pending = server.begin_words(words!["MEM.INGEST", "k", "book", handbook(3, "blue"), "JOB", "j"]);
    // With the latch closed the job is held before its end, its chunks are staged meanwhile.
    server.wait_held(1);
    assert_eq!(client.count("k"), standing);
    assert_eq!(client.digest("k"), before, "what is staged is in no digest");
    assert!(
        client
            .contents("MEM.RECALL k 'the blue handle' K 50 MODE lexical")
            .iter()
            .all(|content| !content.contains("blue"))
    );
    let error = client.err_words(&words!["MEM.INGEST", "k", "book", handbook(1, "grey")]);
    assert!(error.contains("being taken in already"), "{error}");
    let row = client.ok("MEM.DOCS k").items().into_iter().find(|row| row.names().contains(&"state".to_owned()));
    assert_eq!(row.unwrap().field("doc").text(), "book");
    // Other commands are answered, and the space can be saved and loaded: what is staged stays unseen.
    client.ok("MEM.STORE k 'something else' NOEMBED");
    client.ok("MEM.FORGET k FILTER '.content == \"something else\"'");
    server.open_latch();
    pending.finish().unwrap();
    let contents = chunks(&mut client, "book");
    assert!(contents.iter().all(|chunk| chunk.field("content").text().contains("blue")));
    wait_until("the old chunks have gone", || client.count("k") == contents.len() as i64);
}

#[test]
fn a_document_that_fails_leaves_nothing() {
    let mut server = Server::with_text(&["engram.threads 1", "appendonly yes", "appendfsync always"]);
    let mut client = server.client();
    ingest(&mut client, "book", &handbook(2, "red"));
    client.ok("MEM.STORE k 'the last id' ID 9999999999999-0 NOEMBED");
    let before = client.digest("k");
    // Cancelled.
    server.close_latch();
    let pending = server.begin_words(words!["MEM.INGEST", "k", "book", handbook(3, "blue"), "JOB", "j"]);
    server.wait_held(1);
    client.ok("GEMMA.CANCEL j");
    server.open_latch();
    assert!(pending.finish().unwrap_err().contains("nothing of the document was stored"));
    // More than the tier takes.
    client.ok("MEM.CONFIG SET k working.capacity 2");
    let error = client.err_words(&words!["MEM.INGEST", "k", "new", handbook(3, "blue"), "TIER", "working"]);
    assert!(error.contains("raise working.capacity"), "{error}");
    client.ok("MEM.CONFIG SET k working.capacity 10");
    // The key goes in the middle.
    server.close_latch();
    let pending = server.begin_words(words!["MEM.INGEST", "gone", "book", handbook(2, "blue")]);
    server.wait_held(1);
    client.ok("DEL gone");
    server.open_latch();
    assert!(pending.finish().unwrap_err().starts_with("STALE"));
    assert_eq!(client.ok("EXISTS gone").int(), 0);
    // The server dies in the middle.
    server.close_latch();
    let _pending = server.begin_words(words!["MEM.INGEST", "k", "book", handbook(3, "blue")]);
    server.wait_held(1);
    pause_ms(50);
    server.kill();
    server.restart(&[]);
    let mut client = server.client();
    assert_eq!(client.digest("k"), before);
    wait_until("what was staged is dropped", || client.ok("MEM.DOCS k").items().len() == 1);
    assert_eq!(client.digest("k"), before);
}

#[test]
fn what_is_no_document_is_refused_with_a_reason() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    for (words, says) in [
        (words!["MEM.INGEST", "k", "d", ""], "1 to"),
        (words!["MEM.INGEST", "k", "d", " \n "], "not all of them white space"),
        (words!["MEM.INGEST", "k", "", "text"], "the document's name has 0 bytes"),
        (words!["MEM.INGEST", "k", "d", "text", "CHUNK", "40"], "the overlap must be smaller"),
        (words!["MEM.INGEST", "k", "d", "text", "CHUNK", "50", "OVERLAP", "50"], "the overlap must be smaller"),
        (words!["MEM.INGEST", "k", "d", "text", "CHUNK", "0"], "CHUNK"),
        (words!["MEM.INGEST", "k", "d", "text", "META", "[]"], "META"),
        (words!["MEM.INGEST", "k", "d", "text", "META", "{\"tier\":1}"], "built-in name"),
    ] {
        let error = client.err_words(&words);
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(client.ok("EXISTS k").int(), 0, "nothing of it has made a key");
    client.ok("MULTI");
    client.ok("MEM.INGEST k d text");
    let refused = format!("{:?}", client.ok("EXEC"));
    assert!(refused.contains("refused inside MULTI"), "{refused}");
    let plain = Server::plain(&[]);
    assert!(plain.client().err("MEM.INGEST k d text").starts_with("NOMODEL"));
    assert!(client.ok("MEM.DOCS nothing").items().is_empty());
}
