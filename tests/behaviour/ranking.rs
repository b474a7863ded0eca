//! The ranking of text, end to end: encoder, word vectors, words, neighbours and priors against an independent implementation.

use crate::client::{Reply, words};
use crate::harness::Server;

/// What bf16 in the encoder, bytes in the rows and another list of stop words may make of a score; the scores lie between 0 and 2.
const NEAR: f64 = 0.03;

#[test]
fn scores_are_those_of_the_reference() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../golden/ranking.json")).unwrap();
    let server = Server::with_text(&[]);
    let mut client = server.client();
    let memories = golden["memories"].as_array().unwrap();
    for (space, setting) in [("lean", "token-vectors off"), ("full", "token-vectors on")] {
        client.ok(&format!("MEM.CONFIG SET {space} {setting} precision f32"));
        for (n, memory) in memories.iter().enumerate() {
            let id = format!("{}-0", n + 1);
            let mut command = words!["MEM.STORE", space, memory["content"].as_str().unwrap(), "ID", id];
            for (option, field) in [("SPEAKER", "speaker"), ("SESSION", "session")] {
                if let Some(value) = memory[field].as_str() {
                    command.extend(words![option, value]);
                }
            }
            if let Some(seconds) = memory["at"].as_u64() {
                command.extend(words!["AT", seconds * 1000]);
            }
            client.ok_words(&command);
        }
        for question in golden["questions"].as_array().unwrap() {
            let text = question["text"].as_str().unwrap();
            let found = client.ok_words(&words!["MEM.RECALL", space, text, "K", 12]).items();
            assert_eq!(found.len(), 12, "{space}: {text}");
            for hit in &found {
                let id = hit.field("id").text();
                let n: usize = id.split_once('-').unwrap().0.parse().unwrap();
                let expected = question[space][n - 1].as_f64().unwrap();
                let score = hit.field("score").float();
                assert!((score - expected).abs() < NEAR, "{space}: {text}: {id} has {score}, not {expected}");
            }
        }
    }
    // The word vectors are what they are said to take.
    let parts = client.ok("MEM.STATS full").field("bytes_by_part");
    assert!(parts.field("token_vectors").int() > 0);
    assert_eq!(client.ok("MEM.STATS lean").field("bytes_by_part").field("token_vectors").int(), 0);
}
