//! Loading, listing and unloading models, and what is refused as one.

use std::fs;
use std::os::unix::fs::symlink;

use crate::client::{Reply, words};
use crate::harness::Server;

#[test]
fn models_are_loaded_named_listed_and_unloaded() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let error = client.err("GEMMA.GENERATE hello");
    assert!(error.starts_with("NOMODEL") && error.contains("GEMMA.LOAD"), "{error}");
    for format in ["f32", "f16", "bf16", "q8_0", "q4_0"] {
        assert_eq!(client.ok(&format!("GEMMA.LOAD {format} random-{format}.gguf")).text(), "OK");
        assert_eq!(
            client.ok(&format!("GEMMA.GENERATE hello MODEL {format} MAXTOKENS 4")).field("model").text(),
            format
        );
    }
    for mut client in [server.client(), server.client3()] {
        let models = client.ok("GEMMA.MODELS").items();
        let names: Vec<String> = models[1..].iter().map(|model| model.field("name").text()).collect();
        assert_eq!(names, ["bf16", "f16", "f32", "q4_0", "q8_0"]);
        for model in &models[1..] {
            let expected = "name kind path state default architecture quantization parameters layers vocabulary context trained_context file_bytes mapped_bytes \
                            kv_bytes_per_token kv_format generating waiting";
            assert_eq!(model.names().join(" "), expected);
            assert_eq!(
                (model.field("state").text(), model.field("layers").int(), model.field("vocabulary").int()),
                ("ready".into(), 7, 2_048)
            );
            assert!(model.field("architecture").text().contains("gemma3"));
            assert_eq!(model.field("quantization").text().to_lowercase(), model.field("name").text());
        }
    }
    let error = client.err("GEMMA.GENERATE hello");
    assert!(error.contains("several models are loaded") && error.contains("MODEL"), "{error}");
    assert!(client.err("GEMMA.LOAD f32 random-f16.gguf").contains("GEMMA.UNLOAD f32"), "a name in use is kept");
    for name in ["f16", "bf16", "q8_0", "q4_0"] {
        client.ok(&format!("GEMMA.UNLOAD {name}"));
    }
    assert!(client.err("GEMMA.UNLOAD f16").starts_with("NOMODEL"));
    assert_eq!(
        client.ok("GEMMA.GENERATE hello MAXTOKENS 2").field("model").text(),
        "f32",
        "the only one is the default"
    );
    let error = client.err("GEMMA.GENERATE hello MODEL f16");
    assert!(error.starts_with("NOMODEL") && error.contains("loaded: f32"), "{error}");
    // What the context is can be chosen, and bounds the answer.
    client.ok("GEMMA.LOAD small random-f32.gguf CONTEXT 32");
    let reply = client.ok("GEMMA.GENERATE hello MODEL small TEMPERATURE 0");
    // The last token is made from a full context and takes no place in it.
    assert_eq!(reply.field("prompt_tokens").int() + reply.field("tokens").int(), 33);
    assert_eq!(
        client.ok("GEMMA.TOKENIZE hello MODEL f32 COUNT").int(),
        client.ok("GEMMA.TOKENIZE hello MODEL f32").items().len() as i64
    );
}

#[test]
fn keys_and_values_are_held_as_the_load_or_the_setting_says() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("GEMMA.LOAD whole random-f32.gguf");
    client.ok("GEMMA.LOAD chosen random-f32.gguf KV q8");
    client.ok("CONFIG SET engram.kv-format q8");
    client.ok("GEMMA.LOAD set random-f32.gguf");
    client.ok("GEMMA.LOAD both random-f32.gguf KV bf16");
    let models = client.ok("GEMMA.MODELS").items();
    let held = |name: &str| {
        let model = models.iter().find(|model| model.field("name").text() == name).unwrap();
        (model.field("kv_format").text(), model.field("kv_bytes_per_token").int())
    };
    let (format, bytes) = held("whole");
    assert_eq!((format.as_str(), held("both")), ("bf16", ("bf16".to_owned(), bytes)));
    assert_eq!(held("set"), held("chosen"));
    let (format, packed) = held("set");
    assert!(format == "q8" && packed < bytes * 6 / 10, "{packed} of {bytes}");
    // The same answer whatever is read again, in either format.
    for name in ["whole", "set"] {
        let ask = format!("GEMMA.GENERATE hello MODEL {name} TEMPERATURE 0 MAXTOKENS 100");
        let first = client.ok(&ask);
        assert_eq!(client.ok(&ask).field("text").text(), first.field("text").text(), "{name}");
    }
    assert!(client.err("GEMMA.LOAD x random-f32.gguf KV q4").contains("bf16, q8"));
    assert!(client.err("GEMMA.LOAD x embeddinggemma EMBEDDING KV q8").contains("leave them out"));
    assert!(client.err("CONFIG SET engram.kv-format q4").contains("bf16 and q8"));
}

#[test]
fn a_model_that_is_unloaded_ends_its_generations_in_peace() {
    let server = Server::with_model("random-q4_0.gguf", &["engram.threads 1"]);
    let mut client = server.client();
    let whole = client.ok("GEMMA.GENERATE hello TEMPERATURE 0 MAXTOKENS 400").field("text");
    for n in 0..5 {
        client.ok(&format!("GEMMA.GENERATE hello TEMPERATURE 0 MAXTOKENS 400 NOWAIT JOB j{n}"));
    }
    client.ok("GEMMA.UNLOAD random-q4_0");
    assert!(client.err("GEMMA.GENERATE hello").starts_with("NOMODEL"));
    for n in 0..5 {
        assert_eq!(client.ok(&format!("GEMMA.RESULT j{n}")).field("text"), whole);
    }
}

#[test]
fn files_are_read_from_the_one_folder_only() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let models = server.models();
    let real = fs::canonicalize(models.join("random-f32.gguf")).unwrap();
    for path in ["../redis.conf", "/etc/passwd", "a/../../redis.conf", "..", ".", "", "./random-f32.gguf"] {
        let error = client.err_words(&words!["GEMMA.LOAD", "x", path]);
        assert!(error.starts_with("ERR") && error.contains("engram.model-dir"), "{path}: {error}");
    }
    let absolute = client.err_words(&words!["GEMMA.LOAD", "x", real.display().to_string()]);
    assert!(absolute.contains("engram.model-dir"), "{absolute}");
    assert!(client.err_words(&words!["GEMMA.LOAD", "x", "random-f32.gguf\0.gguf"]).starts_with("ERR"));
    symlink("loop-b.gguf", models.join("loop-a.gguf")).unwrap();
    symlink("loop-a.gguf", models.join("loop-b.gguf")).unwrap();
    fs::create_dir(models.join("folder.gguf")).unwrap();
    for missing in ["loop-a.gguf", "nothing.gguf"] {
        let error = client.err(&format!("GEMMA.LOAD x {missing}"));
        assert!(error.starts_with("NOMODEL") && error.contains(missing), "{missing}: {error}");
    }
    assert!(
        client.err("GEMMA.LOAD x folder.gguf").contains("config.json"),
        "a folder may be a model, but not an empty one"
    );
    for tokenizer in ["../redis.conf", "/etc/passwd"] {
        assert!(
            client.err(&format!("GEMMA.LOAD x random-f32.gguf TOKENIZER {tokenizer}")).contains("engram.model-dir")
        );
    }
    // Whether the setting is refused or the encoder: it is not read.
    client.try_run("CONFIG SET engram.embedder ../models/all-MiniLM-L6-v2").ok();
    assert!(client.err("MEM.STORE k text").starts_with("NOMODEL"));
    let listed = client.ok("GEMMA.MODELS").items();
    assert!(listed[1..].iter().all(|model| model.field("state").text() == "failed"), "none of these was loaded");
    // A folder below it and a link in it are the administrator's choice.
    fs::create_dir(models.join("sub")).unwrap();
    symlink(&real, models.join("sub/linked.gguf")).unwrap();
    client.ok("GEMMA.LOAD x sub/linked.gguf");
}

#[test]
fn what_is_no_model_is_refused_with_a_reason_and_the_server_goes_on() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let models = server.models();
    let whole = fs::read(models.join("random-q4_0.gguf")).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(models.join(name), bytes).unwrap();
    put("empty.gguf", b"");
    put("text.gguf", b"This is no model at all, only text of some length to be read.");
    put("header.gguf", &whole[..100]);
    put("half.gguf", &whole[..whole.len() / 2]);
    put("short.gguf", &whole[..whole.len() - 1]);
    let at = whole.windows(6).position(|w| w == b"gemma3").unwrap();
    let mut foreign = whole.clone();
    foreign[at..at + 6].copy_from_slice(b"llama3");
    put("foreign.gguf", &foreign);
    for (n, name) in ["empty", "text", "header", "half", "short", "foreign"].iter().enumerate() {
        let error = client.err(&format!("GEMMA.LOAD m{n} {name}.gguf"));
        assert!(error.starts_with("ERR the model") && error.len() > 50, "{name}: {error}");
        let listed =
            client.ok("GEMMA.MODELS").items().into_iter().find(|m| m.field("name").text() == format!("m{n}")).unwrap();
        assert_eq!(listed.field("state").text(), "failed");
        assert!(!listed.field("reason").text().is_empty());
        assert!(client.err(&format!("GEMMA.GENERATE hello MODEL m{n}")).starts_with("NOMODEL"));
    }
    // A name whose load failed can be used again.
    client.ok("GEMMA.LOAD m0 random-q4_0.gguf");
    client.ok("GEMMA.GENERATE hello MODEL m0 MAXTOKENS 1");
    // A wrong tokenizer file.
    put("tokenizer.json", b"{\"no\":\"tokenizer\"}");
    assert!(client.err("GEMMA.LOAD t random-q4_0.gguf TOKENIZER tokenizer.json").contains("tokenizer"));
    assert!(client.err("GEMMA.LOAD t random-q4_0.gguf TOKENIZER nothing.json").contains("nothing.json"));
}

#[test]
fn bytes_turned_in_a_model_file_never_stop_the_server() {
    let server = Server::plain(&["engram.threads 2"]);
    let mut client = server.client();
    let models = server.models();
    let whole = fs::read(models.join("random-q4_0.gguf")).unwrap();
    let mut random = 88_172_645_463_325_252_u64;
    for n in 0..40 {
        let mut bytes = whole.clone();
        for _ in 0..4 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // The header and the metadata are in the front.
            let at = (random % 4_000) as usize;
            bytes[at] = (random >> 32) as u8;
        }
        fs::write(models.join("turned.gguf"), &bytes).unwrap();
        if client.try_run(&format!("GEMMA.LOAD n{n} turned.gguf")).is_ok() {
            client.try_run(&format!("GEMMA.GENERATE hello MODEL n{n} MAXTOKENS 2")).ok();
        }
        client.ok(&format!("GEMMA.UNLOAD n{n}"));
    }
    client.ok("PING");
}
