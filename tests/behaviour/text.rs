//! Text through the sentence encoder: stored and recalled by meaning, anywhere a command can stand.

use redis::Value;

use crate::client::{Client, Reply, words};
use crate::harness::Server;

#[test]
fn a_text_is_recalled_by_its_meaning_in_one_round_trip_each() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    for text in [
        "Caroline adopted a small brown puppy last week.",
        "The train to Hallein leaves at a quarter to eight.",
        "Priya must never eat walnuts or she gets ill.",
        "Gustav plays the bassoon in an orchestra.",
    ] {
        client.ok_words(&words!["MEM.STORE", "k", text]);
    }
    for (query, part) in [
        ("Who got a dog?", "puppy"),
        ("When does the railway depart?", "Hallein"),
        ("nut allergy", "walnuts"),
        ("musical instrument", "bassoon"),
    ] {
        let best = &client.ok_words(&words!["MEM.RECALL", "k", query, "K", 1]).items()[0];
        assert!(best.field("content").text().contains(part), "{query}: {best:?}");
        assert!(best.field("similarity").float() > 0.2);
        let as_option = &client.ok_words(&words!["MEM.RECALL", "k", "TEXT", query, "K", 1]).items()[0];
        assert_eq!(as_option.field("id"), best.field("id"));
    }
    let stats = client.ok("MEM.STATS k");
    assert_eq!(
        (stats.field("model").text(), stats.field("model_here").text()),
        ("all-MiniLM-L6-v2".into(), "yes".into())
    );
    assert_eq!((stats.field("dimensions").int(), stats.field("vectors").int()), (384, 4));
}

#[test]
fn embed_gives_what_store_uses() {
    let server = Server::with_text(&[]);
    for mut client in [server.client(), server.client3()] {
        client.ok("FLUSHALL");
        client.ok("MEM.CONFIG SET k precision f32");
        let text = "The quick brown fox";
        client.ok_words(&words!["MEM.STORE", "k", text]);
        let stored = client.ok_words(&words!["MEM.RECALL", "k", text, "WITHVECTORS"]).items()[0].field("vector").raw();
        let embedded = client.ok_words(&words!["GEMMA.EMBED", 2, text, "other", "BLOB"]).items();
        assert_eq!((embedded.len(), embedded[0].items().len()), (2, 1));
        // Storing makes the length one, to the last bit.
        let floats =
            |bytes: &[u8]| -> Vec<f32> { bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect() };
        let same = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(same(&floats(&embedded[0].items()[0].raw()), &floats(&stored)));
        let numbers = client.ok_words(&words!["GEMMA.EMBED", 1, text]).items()[0].items()[0].items();
        let vector: Vec<f32> = numbers.iter().map(|n| n.float() as f32).collect();
        assert!(same(&vector, &floats(&stored)));
        // A vector of the right length is taken into a model's space.
        client.ok_words(&words!["MEM.STORE", "k", "the caller's own", "VECTOR", stored]);
        assert!(client.err("MEM.STORE k short VALUES 2 1 0").contains("384"));
    }
    let mut client = server.client();
    assert!(client.err("GEMMA.EMBED 1 text MODEL other").starts_with("NOMODEL"));
    let tokens = client.ok("GEMMA.TOKENIZE 'Hello world'").items().len() as i64;
    assert_eq!((tokens, client.ok("GEMMA.TOKENIZE 'Hello world' COUNT").int()), (2, 2));
}

#[test]
fn a_text_longer_than_the_window_is_found_by_any_part_of_it() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    let filler =
        "The committee met on a grey afternoon and talked at length about budgets, roofs and drains. ".repeat(40);
    let long = format!("{filler} At the very end a purple elephant danced on the piano. ");
    let id = client.ok_words(&words!["MEM.STORE", "k", &long]).text();
    client.ok_words(&words!["MEM.STORE", "k", "A note about gardening tools."]);
    let memory = &client.ok(&format!("MEM.GET k {id}")).items()[0];
    assert!(memory.field("vectors").int() >= 3, "{}", memory.field("vectors").int());
    assert_eq!(memory.field("content").text(), long, "nothing is cut off");
    let best = &client.ok("MEM.RECALL k 'an elephant dancing on a piano' K 2").items();
    assert_eq!((best[0].field("id").text(), best.len()), (id, 2), "a memory comes once, by its best window");
    let query = client.ok("GEMMA.EMBED 1 'an elephant dancing on a piano'").items()[0].items()[0].items();
    let windows = client.ok_words(&words!["GEMMA.EMBED", 1, &long]).items()[0].items();
    let cosine = |window: &Value| window.items().iter().zip(&query).map(|(a, b)| a.float() * b.float()).sum::<f64>();
    let nearest = windows.iter().map(cosine).fold(f64::MIN, f64::max);
    assert!((best[0].field("similarity").float() - nearest).abs() < 0.01, "{nearest}");
    assert!(cosine(windows.last().unwrap()) > cosine(&windows[0]) + 0.1, "the last part is the one that it is about");
    // A query longer than the window, too.
    assert_eq!(client.ok_words(&words!["MEM.RECALL", "k", &long, "K", 1]).items()[0].field("content").text(), long);
}

#[test]
fn mstore_embeds_texts_as_a_batch() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    let mut command = words!["MEM.MSTORE", "k"];
    for n in 0..20 {
        command.push(format!("{{\"content\":\"fact number {n} about subject {n}\"}}").into_bytes());
    }
    assert_eq!(client.ok_words(&command).items().len(), 20);
    assert_eq!(client.contents("MEM.RECALL k 'fact number 7 about subject 7' K 1"), ["fact number 7 about subject 7"]);
    let digest = client.digest("k");
    let error = client.err("MEM.MSTORE k '{\"content\":\"good\"}' '{\"content\":\"\"}'");
    assert!(error.contains("memory 2"), "{error}");
    assert_eq!(client.digest("k"), digest);
}

#[test]
fn new_content_is_embedded_again() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE k 'the cat sleeps' ID 1-0");
    client.ok("MEM.STORE k 'stock markets fell' ID 2-0");
    client.ok("MEM.UPDATE k 1-0 CONTENT 'rockets fly to the moon'");
    assert_eq!(client.contents("MEM.RECALL k 'space travel' K 1"), ["rockets fly to the moon"]);
    let cat = client.ok("MEM.RECALL k 'a sleeping cat' K 5 MINSCORE 0.5");
    assert!(cat.items().is_empty(), "{cat:?}");
}

#[test]
fn text_works_inside_transactions_scripts_and_functions() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    client.ok("MULTI");
    client.ok("MEM.STORE k 'the puppy barks'");
    client.ok("MEM.STORE k 'the train leaves'");
    client.ok("MEM.RECALL k 'a dog' K 1");
    client.ok("MEM.UPDATE k 9-9 CONTENT x");
    client.ok("GEMMA.EMBED 1 hello");
    let replies = client.ok("EXEC").items();
    assert_eq!(replies[2].items()[0].field("content").text(), "the puppy barks", "it reads what it wrote");
    assert!(matches!(replies[3], Value::ServerError(_)));
    assert_eq!(replies[4].items()[0].items()[0].items().len(), 384);
    let script = "redis.call('MEM.STORE', KEYS[1], ARGV[1]); return redis.call('MEM.RECALL', KEYS[1], ARGV[2], 'K', 1)";
    let found = client.ok_words(&words!["EVAL", script, 1, "k", "rockets fly to the moon", "space travel"]).items();
    assert_eq!(found[0].field("content").text(), "rockets fly to the moon");
    let library = "#!lua name=memories\nredis.register_function('remember', function(keys, args) return redis.call('MEM.STORE', keys[1], args[1]) end)\n\
                   redis.register_function{function_name='find', callback=function(keys, args) return redis.call('MEM.RECALL', keys[1], args[1], 'K', 1) end, flags={'no-writes'}}";
    client.ok_words(&words!["FUNCTION", "LOAD", library]);
    client.ok("FCALL remember 1 k 'bread is baked in an oven'");
    let found = client.ok("FCALL_RO find 1 k 'a bakery'").items();
    assert_eq!(found[0].field("content").text(), "bread is baked in an oven");
    let found = client
        .ok_words(&words!["EVAL_RO", "return redis.call('MEM.RECALL', KEYS[1], ARGV[1], 'K', 1)", 1, "k", "a dog"])
        .items();
    assert_eq!(found[0].field("content").text(), "the puppy barks");
}

#[test]
fn embedding_in_place_has_limits_that_are_named() {
    let server = Server::with_text(&["engram.inline-embed-tokens 20"]);
    let mut client = server.client();
    let inside = |client: &mut Client, lines: &[String]| -> Vec<Value> {
        client.ok("MULTI");
        lines.iter().for_each(|line| drop(client.ok(line)));
        client.ok("EXEC").items()
    };
    let refused = |reply: &Value| match reply {
        Value::ServerError(error) => format!("{} {}", error.code(), error.details().unwrap_or_default()),
        other => panic!("not refused: {other:?}"),
    };
    let long = format!("MEM.STORE k '{}'", "word ".repeat(40));
    let replies = inside(&mut client, &[long.clone(), "MEM.STORE k short".to_owned()]);
    let error = refused(&replies[0]);
    assert!(
        error.starts_with("INLINELIMIT")
            && error.contains("20 tokens per command")
            && error.contains("engram.inline-embed-tokens"),
        "{error}"
    );
    assert!(matches!(replies[1], Value::BulkString(_)), "the next command goes on");
    // Four times that per transaction: each of these has 12 tokens.
    let lines: Vec<String> = (0..9)
        .map(|n| format!("MEM.STORE k 'a b c d e f g h i {}'", ["j", "k", "l", "m", "n", "o", "p", "q", "r"][n]))
        .collect();
    let replies = inside(&mut client, &lines);
    let stored = replies.iter().filter(|reply| matches!(reply, Value::BulkString(_))).count();
    assert_eq!(stored, 6, "{replies:?}");
    let error = refused(&replies[8]);
    assert!(error.starts_with("INLINELIMIT") && error.contains("80 tokens"), "{error}");
    let replies = inside(&mut client, &["MEM.STORE k 'the next transaction starts anew'".to_owned()]);
    assert!(matches!(replies[0], Value::BulkString(_)), "{replies:?}");
    // Outside there is no limit; what is cached costs nothing inside.
    client.ok(&long);
    assert!(matches!(inside(&mut client, std::slice::from_ref(&long))[0], Value::BulkString(_)));
    let replies = inside(
        &mut client,
        &[
            "MEM.MSTORE k '{\"content\":\"a\"}'".to_owned(),
            "GEMMA.GENERATE hello".to_owned(),
            "GEMMA.LOAD a b".to_owned(),
        ],
    );
    for (reply, part) in
        replies.iter().zip(["MEM.MSTORE of texts is refused inside MULTI", "GEMMA.GENERATE", "GEMMA.LOAD"])
    {
        assert!(refused(reply).contains(part), "{reply:?}");
    }
    client.ok("CONFIG SET engram.inline-embed-tokens 0");
    assert!(refused(&inside(&mut client, &["MEM.STORE k 'something new'".to_owned()])[0]).contains("switched off"));
}

#[test]
fn without_an_encoder_text_is_refused_naming_both_ways_out() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for line in ["MEM.STORE k text", "MEM.MSTORE k '{\"content\":\"text\"}'", "GEMMA.EMBED 1 text"] {
        let error = client.err(line);
        assert!(
            error.starts_with("NOMODEL") && error.contains("VECTOR") && error.contains("NOEMBED"),
            "{line}: {error}"
        );
    }
    assert_eq!(client.ok("EXISTS k").int(), 0);
    client.ok("MEM.STORE k text ID 1-0 NOEMBED");
    assert!(client.err("MEM.RECALL k 'some words' MODE dense").starts_with("NOMODEL"));
    assert!(client.err("MEM.UPDATE k 1-0 CONTENT new").starts_with("NOMODEL"));
    let error = client.ok("GEMMA.MODELS").items()[0].clone();
    assert_eq!((error.field("kind").text(), error.field("state").text()), ("embedding".into(), "none".into()));
    // A name that is no model says so, too, and an encoder can be had while the server runs.
    client.ok("CONFIG SET engram.embedder nothing-here");
    assert!(client.err("MEM.STORE k text").contains("nothing-here"));
    client.ok("CONFIG SET engram.embedder all-MiniLM-L6-v2");
    client.ok("MEM.STORE k 'waits for the encoder that is being loaded'");
    assert_eq!(client.contents("MEM.RECALL k encoder K 1"), ["waits for the encoder that is being loaded"]);
}

#[test]
fn spaces_of_foreign_vectors_take_no_text_and_equal_texts_hit_the_cache() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE foreign text VALUES 2 1 0");
    let digest = client.digest("foreign");
    for line in ["MEM.STORE foreign 'some text'", "MEM.RECALL foreign 'some text' MODE dense"] {
        let error = client.err(line);
        assert!(error.starts_with("ERR") && error.contains("VECTOR"), "{line}: {error}");
    }
    assert_eq!(client.digest("foreign"), digest);
    client.ok("MEM.STORE k 'said twice'");
    let misses = client.info("engram_cache_misses");
    client.ok("MEM.STORE k 'said twice' SESSION other");
    client.ok("MEM.RECALL k 'said twice'");
    assert_eq!(client.info("engram_cache_misses"), misses);
    assert!(client.info("engram_cache_hits").parse::<u64>().unwrap() >= 2);
}

#[test]
fn replicas_and_the_aof_get_vectors_and_need_no_model() {
    let primary = Server::with_text(&["appendonly yes", "aof-use-rdb-preamble no"]);
    let replica = Server::plain(&[&format!("replicaof 127.0.0.1 {}", primary.port)]);
    replica.wait_for_link();
    let mut client = primary.client();
    client.ok("MEM.STORE k 'the puppy barks' ID 1-0");
    client.ok("MEM.STORE k 'the train leaves' ID 2-0");
    let query = client.ok("GEMMA.EMBED 1 'a dog' BLOB").items()[0].items()[0].raw();
    replica.wait_for_offset(&primary);
    let mut reader = replica.client();
    assert_eq!(reader.digest("k"), client.digest("k"));
    let found = reader.ok_words(&words!["MEM.RECALL", "k", "VECTOR", query, "K", 1]).items();
    assert_eq!(found[0].field("id").text(), "1-0");
    assert_eq!(reader.ok("MEM.STATS k").field("model_here").text(), "no");
    let digest = client.digest("k");
    client.ok("DEBUG LOADAOF");
    assert_eq!(client.digest("k"), digest);
    assert_eq!(client.contents("MEM.RECALL k 'a dog' K 1"), ["the puppy barks"]);
}
