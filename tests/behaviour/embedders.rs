//! EmbeddingGemma as the text encoder: loaded by command or setting, its prompts, lengths of vectors, and spaces of another model.

use std::os::unix::fs::symlink;

use crate::client::{Client, Reply, words};
use crate::harness::{Server, test_file};

/// Names in the order of GEMMA.MODELS: the encoder is the first.
fn encoder(client: &mut Client) -> redis::Value {
    client.ok("GEMMA.MODELS").items()[0].clone()
}

fn vector(value: &redis::Value) -> Vec<f64> {
    value.items().iter().map(Reply::float).collect()
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|four| f64::from(f32::from_le_bytes(*four))).collect()
}

fn embed(client: &mut Client, text: &str, query: bool) -> Vec<f64> {
    let mut line = words!["GEMMA.EMBED", 1, text];
    if query {
        line.extend(words!["QUERY"]);
    }
    vector(&client.ok_words(&line).items()[0].items()[0])
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn texts_are_stored_and_found_with_embeddinggemma() {
    let server = Server::plain(&[]);
    symlink(test_file("models/embeddinggemma"), server.models().join("embeddinggemma")).unwrap();
    let mut client = server.client();
    assert_eq!(client.ok("GEMMA.LOAD e embeddinggemma.gguf EMBEDDING DIM 32").text(), "OK");
    let model = encoder(&mut client);
    for (field, expected) in [("name", "e:32"), ("kind", "embedding"), ("state", "ready"), ("precision", "bf16")] {
        assert_eq!(model.field(field).text(), expected, "{field}");
    }
    assert_eq!((model.field("dimensions").int(), model.field("window").int()), (32, 512));
    client.ok("MEM.CONFIG SET k precision f32");
    client.ok("MEM.STORE k 'the ladder is in the shed' ID 1-0");
    client.ok("MEM.STORE k 'the bus leaves at nine' ID 2-0");
    client.ok("MEM.STORE k 'a cat sleeps on the old oven' ID 3-0");
    let stats = client.ok("MEM.STATS k");
    assert_eq!((stats.field("model").text(), stats.field("model_here").text()), ("e:32".into(), "yes".into()));
    assert_eq!((stats.field("dimensions").int(), stats.field("vectors").int()), (32, 3));
    // A question has another vector than what may answer it, of length 1 both, and the cache tells them apart.
    let question = "where is the ladder?";
    let (query, document) = (embed(&mut client, question, true), embed(&mut client, question, false));
    assert!(dot(&query, &document) < 0.9999 && (dot(&query, &query) - 1.0).abs() < 1e-4);
    assert_eq!(embed(&mut client, question, true), query);
    // It is the question's that memories are compared with, and the order is that of the similarities.
    let found = client.ok_words(&words!["MEM.RECALL", "k", question, "MODE", "dense", "WITHVECTORS"]).items();
    assert_eq!(found.len(), 3);
    for memory in &found {
        let similarity = dot(&query, &floats(&memory.field("vector").raw()));
        assert!((memory.field("similarity").float() - similarity).abs() < 1e-3, "{similarity}: {memory:?}");
    }
    // Words count too, by their terms and by what the encoder says of their tokens.
    let hybrid = client.ok("MEM.RECALL k 'ladder shed' MODE hybrid K 1").items();
    assert_eq!(hybrid[0].field("id").text(), "1-0");
    // In a transaction it is embedded in place, to the same bits.
    client.ok("MULTI");
    client.ok_words(&words!["GEMMA.EMBED", 1, question, "QUERY"]);
    client.ok("MEM.STORE k 'inside a transaction' ID 4-0");
    let replies = client.ok("EXEC").items();
    assert_eq!(vector(&replies[0].items()[0].items()[0]), query);
    // A text of several windows has several vectors.
    let long = "the old ladder ".repeat(400);
    let windows = client.ok_words(&words!["GEMMA.EMBED", 1, long]).items()[0].items();
    assert!(windows.len() > 2 && windows.iter().all(|window| window.items().len() == 32));
    // The chunks of a document are counted in its tokens.
    let text = std::fs::read_to_string(test_file("data/lighthouse.txt")).unwrap();
    client.ok_words(&words!["MEM.INGEST", "book", "lighthouse", text, "CHUNK", 128, "OVERLAP", 16]);
    let chunks = client.ok("MEM.RECALL book lamp MODE dense K 100").items();
    assert!(chunks.len() > 10);
    for chunk in &chunks {
        let tokens = client.ok_words(&words!["GEMMA.TOKENIZE", chunk.field("content").text(), "COUNT"]).int();
        assert!((8..=128).contains(&tokens), "{tokens}: {chunk:?}");
    }
    // The published folder of the same model by the setting, under the same name: the space takes it.
    let digest = client.digest("k");
    client.ok("DEBUG RELOAD");
    assert_eq!(client.digest("k"), digest);
    client.ok("CONFIG SET engram.embedder e=embeddinggemma:32");
    server.wait_for_encoder();
    assert_eq!(encoder(&mut client).field("name").text(), "e:32");
    assert!(dot(&embed(&mut client, question, true), &query) > 0.9999);
    assert_eq!(client.ok("MEM.RECALL k ladder MODE dense").items().len(), 4);
}

#[test]
fn spaces_of_another_model_or_length_are_refused_by_name_until_they_move() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE mini 'made by another model' ID 1-0");
    client.ok("GEMMA.LOAD e embeddinggemma.gguf EMBEDDING");
    client.ok("MEM.STORE k 'the whole vector' ID 1-0");
    assert_eq!(client.ok("MEM.STATS k").field("dimensions").int(), 64);
    client.ok("CONFIG SET engram.embedder e=embeddinggemma.gguf:16");
    server.wait_for_encoder();
    for (key, model) in [("mini", "all-MiniLM-L6-v2"), ("k", "e")] {
        for line in [format!("MEM.RECALL {key} TEXT words MODE dense"), format!("MEM.STORE {key} 'more text'")] {
            let error = client.err(&line);
            assert!(error.contains(model) && error.contains("e:16"), "{line}: {error}");
        }
        assert_eq!(client.ok(&format!("MEM.STATS {key}")).field("model_here").text(), "no");
    }
    let report = client.ok("MEM.REEMBED k MODEL e:16");
    assert_eq!(report.field("embedded").int(), 1);
    let stats = client.ok("MEM.STATS k");
    assert_eq!((stats.field("dimensions").int(), stats.field("model").text()), (16, "e:16".into()));
    client.ok("MEM.STORE k 'more text'");
}

#[test]
fn what_cannot_be_an_encoder_is_refused_and_the_one_that_serves_stays() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    for (line, expected) in [
        ("GEMMA.LOAD e embeddinggemma.gguf EMBEDDING DIM 48", "accepted are 64, cut to 32, 16"),
        ("GEMMA.LOAD e all-MiniLM-L6-v2 EMBEDDING DIM 128", "not trained to have them cut"),
        ("GEMMA.LOAD e random-f32.gguf EMBEDDING", "makes text and no embeddings"),
        ("GEMMA.LOAD e embeddinggemma.gguf", "load it with EMBEDDING"),
        ("GEMMA.LOAD e embeddinggemma.gguf DIM 32", "needs EMBEDDING"),
        ("GEMMA.LOAD e embeddinggemma.gguf EMBEDDING CONTEXT 64", "leave them out"),
        ("GEMMA.LOAD e embeddinggemma.gguf EMBEDDING TOKENIZER t.json", "leave them out"),
        ("GEMMA.LOAD e nothing.gguf EMBEDDING", "nothing.gguf"),
        ("GEMMA.LOAD e ../x EMBEDDING", "engram.model-dir"),
        ("GEMMA.LOAD e:32 embeddinggemma.gguf EMBEDDING", "':'"),
        ("GEMMA.LOAD e embeddinggemma.gguf EMBEDDING DIM 0", "DIM"),
    ] {
        let error = client.err(line);
        assert!(error.contains(expected), "{line}: {error}");
    }
    let model = encoder(&mut client);
    assert_eq!((model.field("name").text(), model.field("state").text()), ("all-MiniLM-L6-v2".into(), "ready".into()));
    client.ok("MEM.STORE k text");
    // A name is one model's, and goes when it is unloaded.
    client.ok("GEMMA.LOAD g random-q4_0.gguf");
    assert!(client.err("GEMMA.LOAD g embeddinggemma.gguf EMBEDDING").contains("GEMMA.UNLOAD g"));
    client.ok("GEMMA.LOAD e embeddinggemma.gguf EMBEDDING DIM 16");
    client.ok("GEMMA.EMBED 1 text MODEL e:16");
    assert!(client.err("GEMMA.EMBED 1 text MODEL e").contains("e:16"));
    client.ok("GEMMA.UNLOAD e");
    let error = client.err("MEM.STORE other text");
    assert!(error.starts_with("NOMODEL") && error.contains("GEMMA.UNLOAD e"), "{error}");
    assert!(client.err("GEMMA.UNLOAD e").starts_with("NOMODEL"));
    for setting in ["embeddinggemma.gguf:17", "=embeddinggemma.gguf"] {
        client.ok(&format!("CONFIG SET engram.embedder {setting}"));
        assert!(client.err("MEM.STORE other text").starts_with("NOMODEL"), "{setting}");
    }
}
