//! GEMMA.GENERATE: answers from memories, the golden text, sampling, the ends of an answer, jobs, and many at once.

use std::fs;

use redis::Value;
use serde_json::Value as Json;

use crate::client::{Client, Reply, words};
use crate::harness::{Server, pause_ms, test_file, wait_until};

/// Its greedy text never ends by itself, so an answer is as long as asked for.
const RANDOM: &str = "random-q4_0.gguf";
const FIELDS: &str = "text finish_reason prompt_tokens reused_tokens tokens prompt_tokens_per_second tokens_per_second seed confidence reason model memories notes";

fn golden(name: &str) -> Json {
    serde_json::from_slice(&fs::read(test_file("golden").join(name)).unwrap()).unwrap()
}

/// Stores a memory; `Name: text` was said by somebody.
fn remember(client: &mut Client, key: &str, memory: &str) {
    match memory.split_once(": ") {
        Some((speaker, text)) => client.ok_words(&words!["MEM.STORE", key, text, "SPEAKER", speaker]),
        None => client.ok_words(&words!["MEM.STORE", key, memory]),
    };
}

#[test]
fn it_answers_from_memories_it_was_never_trained_on_and_follows_them_when_they_change() {
    let server = Server::with_text(&["engram.model copy.gguf"]);
    server.wait_for_models(1);
    let mut client = server.client();
    let facts = golden("copy_facts.json");
    let (mut right, mut followed, mut log) = (0, 0, Vec::new());
    for (n, fact) in facts.as_array().unwrap().iter().enumerate() {
        let text = |name: &str| fact[name].as_str().unwrap();
        for (key, memory) in [(format!("as{n}"), text("fact")), (format!("altered{n}"), text("altered_fact"))] {
            remember(&mut client, &key, memory);
            for distractor in fact["distractors"].as_array().unwrap() {
                remember(&mut client, &key, distractor.as_str().unwrap());
            }
        }
        let mut ask = |key: String| {
            let reply = client.ok_words(&words![
                "GEMMA.GENERATE",
                text("question"),
                "MEMORY",
                key,
                "TEMPERATURE",
                0,
                "MAXTOKENS",
                64
            ]);
            assert_eq!(reply.field("memories").items().len(), 5);
            reply.field("text").text()
        };
        let (answer, altered) = (ask(format!("as{n}")), ask(format!("altered{n}")));
        right += usize::from(answer.contains(text("expect")));
        followed += usize::from(altered.contains(text("altered_expect")) && !altered.contains(text("expect")));
        log.push(format!("{} -> {answer} | {altered}", text("question")));
    }
    assert!(right >= 8, "{right} of 10 are right:\n{}", log.join("\n"));
    assert!(followed >= 8, "{followed} of 10 follow the altered memory:\n{}", log.join("\n"));
    // Without memories it does not know; which memories it saw is in the reply.
    let reply = client.ok("GEMMA.GENERATE 'What is the capital of Brelin?' TEMPERATURE 0");
    assert!(!reply.field("text").text().contains("Tavora"));
    let reply = client.ok("GEMMA.GENERATE 'What is the capital of Brelin?' MEMORY as0 K 1 TEMPERATURE 0");
    let memory = &reply.field("memories").items()[0];
    assert_eq!(memory.names(), ["id", "similarity"]);
    let id = memory.field("id").text();
    assert_eq!(client.contents(&format!("MEM.GET as0 {id}")), ["The capital of Brelin is Tavora."]);
    assert!(reply.field("text").text().contains("Tavora"), "{reply:?}");
    assert!(
        client.ok(&format!("MEM.GET as0 {id}")).items()[0].field("uses").int() >= 2,
        "being recalled into a prompt is use"
    );
    for (rest, count) in [("FILTER '.importance > 0.9'", 0), ("MINSCORE 0.99", 0), ("SESSION s", 0), ("K 2", 2)] {
        let reply = client.ok(&format!("GEMMA.GENERATE 'What is the capital?' MEMORY as0 {rest} MAXTOKENS 2"));
        assert_eq!(reply.field("memories").items().len(), count, "{rest}");
    }
    let reply = client.ok("GEMMA.GENERATE 'What is the capital?' MEMORY missing MAXTOKENS 2");
    assert!(reply.field("notes").texts()[0].contains("does not exist"));
}

#[test]
fn greedy_text_is_the_golden_text() {
    let server = Server::with_model("random-f32.gguf", &[]);
    let golden = golden("gemma_logits.json");
    let greedy = golden["greedy"]["text"].as_str().unwrap();
    for mut client in [server.client(), server.client3()] {
        let command =
            words!["GEMMA.GENERATE", golden["prompt"].as_str().unwrap(), "RAW", "TEMPERATURE", 0, "MAXTOKENS", 64];
        let reply = client.ok_words(&command);
        assert_eq!(reply.names().join(" "), FIELDS);
        assert_eq!(reply.field("text").text(), greedy);
        assert_eq!((reply.field("finish_reason").text(), reply.field("tokens").int()), ("length".into(), 64));
        assert_eq!(reply.field("prompt_tokens").int() as usize, golden["tokens"].as_array().unwrap().len());
        assert!((0.0..=1.0).contains(&reply.field("confidence").float()));
        assert!(!reply.field("reason").text().is_empty());
        assert!(reply.field("tokens_per_second").float() > 0.0);
        assert_eq!(reply.field("model").text(), "random-f32");
    }
    assert!(matches!(server.client3().ok("GEMMA.GENERATE hi MAXTOKENS 1"), Value::Map(_)));
    // The chat template makes another prompt than RAW, and a system text a longer one.
    let mut client = server.client();
    let tokens = |client: &mut Client, rest: &str| {
        client.ok(&format!("GEMMA.GENERATE hello MAXTOKENS 1 {rest}")).field("prompt_tokens").int()
    };
    let (chat, raw, system) =
        (tokens(&mut client, ""), tokens(&mut client, "RAW"), tokens(&mut client, "SYSTEM 'Be brief.'"));
    assert!(raw < chat && chat < system, "{raw} {chat} {system}");
    // Control tokens in a text are text, but in RAW they are what they are.
    let injected = client.ok("GEMMA.GENERATE '<end_of_turn>' MAXTOKENS 1").field("prompt_tokens").int();
    let plain = client.ok("GEMMA.GENERATE 'x' MAXTOKENS 1").field("prompt_tokens").int();
    assert!(injected > plain + 2, "{injected} {plain}");
    assert_eq!(client.ok("GEMMA.GENERATE '<end_of_turn>' RAW MAXTOKENS 1").field("prompt_tokens").int(), 2);
}

#[test]
fn a_seed_gives_the_same_text_alone_and_beside_others() {
    let server = Server::with_model(RANDOM, &["engram.threads 2"]);
    let mut client = server.client();
    let command = |seed: u64| {
        words![
            "GEMMA.GENERATE",
            "Tell me something",
            "SEED",
            seed,
            "TEMPERATURE",
            1.0,
            "TOPK",
            40,
            "TOPP",
            0.9,
            "MAXTOKENS",
            60
        ]
    };
    let alone: Vec<String> = (0..4).map(|seed| client.ok_words(&command(seed)).field("text").text()).collect();
    assert!(alone.iter().any(|text| *text != alone[0]), "different seeds differ");
    let together: Vec<_> = (0..8).map(|n| server.begin_words(command(n % 4))).collect();
    for (n, pending) in together.into_iter().enumerate() {
        let reply = pending.finish().unwrap();
        assert_eq!(reply.field("text").text(), alone[n % 4], "seed {}", n % 4);
        assert_eq!(reply.field("seed").int() as usize, n % 4);
    }
    // A seed that was drawn is in the reply and gives the same again.
    let drawn = client.ok("GEMMA.GENERATE 'Tell me something' TEMPERATURE 1 MAXTOKENS 40");
    let again = client.ok(&format!(
        "GEMMA.GENERATE 'Tell me something' TEMPERATURE 1 MAXTOKENS 40 SEED {}",
        drawn.field("seed").int()
    ));
    assert_eq!(again.field("text"), drawn.field("text"));
    let other = client.ok("GEMMA.GENERATE 'Tell me something' TEMPERATURE 1 MAXTOKENS 40");
    assert_ne!(other.field("seed"), drawn.field("seed"));
}

#[test]
fn an_answer_ends_at_a_stop_string_or_its_length() {
    let server = Server::with_model(RANDOM, &[]);
    let mut client = server.client();
    let whole = client.ok("GEMMA.GENERATE hello TEMPERATURE 0 MAXTOKENS 40").field("text").text();
    let stop: String = whole.chars().filter(|c| c.is_ascii_alphabetic()).skip(10).take(0).collect();
    assert!(stop.is_empty());
    let at = whole.char_indices().map(|(i, _)| i).find(|i| *i > whole.len() / 3).unwrap();
    let stop: String = whole[at..].chars().take(4).collect();
    let first = whole.find(&stop).unwrap();
    let reply = client.ok_words(&words![
        "GEMMA.GENERATE",
        "hello",
        "TEMPERATURE",
        0,
        "MAXTOKENS",
        40,
        "STOP",
        2,
        "never to be seen",
        &stop
    ]);
    assert_eq!(
        (reply.field("text").text(), reply.field("finish_reason").text()),
        (whole[..first].to_owned(), "stop_string".into())
    );
    let reply = client.ok("GEMMA.GENERATE hello TEMPERATURE 0 MAXTOKENS 7");
    assert_eq!((reply.field("tokens").int(), reply.field("finish_reason").text()), (7, "length".into()));
    assert!(whole.starts_with(&reply.field("text").text()));
    // The context ends it too, and says so.
    let reply = client.ok("GEMMA.GENERATE hello TEMPERATURE 0 MAXTOKENS 100000");
    assert_eq!(reply.field("finish_reason").text(), "length");
    // The last token is made from a full context and takes no place in it.
    assert_eq!(reply.field("prompt_tokens").int() + reply.field("tokens").int(), 513);
    let room = format!("512 tokens has room for {} ", reply.field("tokens").int());
    assert!(reply.field("notes").texts().iter().any(|note| note.contains(&room)), "{reply:?}");
}

#[test]
fn log_probabilities_are_the_models_own_and_a_bias_moves_what_is_chosen() {
    let server = Server::with_model(RANDOM, &[]);
    for mut client in [server.client(), server.client3()] {
        let mut ask = |rest: &str| client.ok(&format!("GEMMA.GENERATE 'Tell me' TEMPERATURE 0 MAXTOKENS 8 {rest}"));
        let plain = ask("");
        let scored = ask("LOGPROBS 3");
        let with_logprobs = FIELDS.replace("reason model", "reason logprobs model");
        assert_eq!((plain.names().join(" "), scored.names().join(" ")), (FIELDS.to_owned(), with_logprobs));
        assert_eq!(plain.field("text").text(), scored.field("text").text());
        let tokens = scored.field("logprobs").items().to_vec();
        assert_eq!(tokens.len() as i64, scored.field("tokens").int());
        let mut mean = 0.0;
        for token in &tokens {
            assert_eq!(token.names(), ["id", "text", "logprob", "top"]);
            let top = token.field("top").items();
            assert_eq!(top.len(), 3);
            // Greedy: the token is the likeliest.
            assert_eq!(top[0].names(), ["id", "text", "logprob"]);
            assert_eq!(top[0].field("id").int(), token.field("id").int());
            assert_eq!(top[0].field("logprob").float(), token.field("logprob").float());
            assert!(top.is_sorted_by(|a, b| a.field("logprob").float() >= b.field("logprob").float()));
            mean += token.field("logprob").float() / tokens.len() as f64;
        }
        assert!((mean.exp() - scored.field("confidence").float()).abs() < 1e-4);
        assert!(ask("LOGPROBS 0").field("logprobs").items()[0].field("top").items().is_empty());

        // Never the first choice: the second is taken, and what is told of it stays what the model thinks.
        let (first, second) = (tokens[0].field("id").int(), tokens[0].field("top").items()[1].field("id").int());
        let other = ask(&format!("LOGPROBS 2 LOGITBIAS '{{\"#{first}\": -100}}'"));
        let token = &other.field("logprobs").items()[0];
        assert_eq!(token.field("id").int(), second);
        assert_eq!(token.field("top").items()[0].field("id").int(), first);
        assert_eq!(token.field("logprob").float(), tokens[0].field("top").items()[1].field("logprob").float());
        assert!(other.field("logprobs").items().iter().all(|token| token.field("id").int() != first));
        // Only these, by text and by number, greedy and drawn.
        for rest in ["", "TEMPERATURE 2 TOPK 0 SEED 7"] {
            let only = client.ok(&format!(
                "GEMMA.GENERATE 'Tell me' MAXTOKENS 12 {rest} LOGPROBS 0 LOGITBIAS '{{\"a\": 100, \"<0x41>\": 100, \"b\": 30}}'"
            ).replace("<0x41>", "#300"));
            let ids: Vec<i64> = only.field("logprobs").items().iter().map(|token| token.field("id").int()).collect();
            let a = client.ok("GEMMA.TOKENIZE a").items()[0].int();
            assert!(ids.len() == 12 && ids.iter().all(|id| *id == a || *id == 300), "{ids:?}");
        }
    }
    // A schema is kept whatever the bias; the stream has the text as before.
    let mut client = server.client();
    let digits: Vec<String> = (0..10).map(|digit| format!("\"{digit}\": -100")).collect();
    let bias = format!("{{{}}}", digits.join(", "));
    let schema = r#"{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}"#;
    let reply = client.ok_words(&words![
        "GEMMA.GENERATE",
        "Tell me",
        "SCHEMA",
        schema,
        "LOGITBIAS",
        bias,
        "LOGPROBS",
        1,
        "MAXTOKENS",
        40,
        "STREAM",
        "s"
    ]);
    let made: Json = serde_json::from_str(&reply.field("text").text()).unwrap();
    assert!(made["n"].is_i64(), "{made}");
    let entries = client.ok("XRANGE s - +");
    let last = entries.items().last().unwrap().items()[1].texts();
    assert!(last.contains(&"confidence".to_owned()) && !last.contains(&"logprobs".to_owned()), "{last:?}");
}

#[test]
fn a_job_can_be_named_listed_attached_to_fetched_and_cancelled() {
    let server = Server::with_model(RANDOM, &["engram.threads 2"]);
    let mut client = server.client();
    server.close_latch();
    let reply = client.ok("GEMMA.GENERATE hello JOB a NOWAIT MAXTOKENS 5 SEED 1");
    assert_eq!((reply.names(), reply.field("job").text()), (vec!["job".to_owned()], "a".into()));
    let attached = server.begin("GEMMA.GENERATE hello JOB a MAXTOKENS 5 SEED 1");
    server.wait_held(1);
    wait_until("the second call waits too", || client.ok("GEMMA.JOBS").items()[0].field("waiting_clients").int() == 1);
    assert!(client.err("GEMMA.GENERATE goodbye JOB a MAXTOKENS 5 SEED 1").contains("another request"));
    assert!(client.ok("GEMMA.RESULT a TIMEOUT 20").is_nil());
    server.open_latch();
    let text = attached.finish().unwrap().field("text").text();
    let job = &client.ok("GEMMA.JOBS").items()[0];
    assert_eq!(
        (job.field("id").text(), job.field("state").text(), job.field("command").text()),
        ("a".into(), "done".into(), "GEMMA.GENERATE".into())
    );
    assert_eq!(client.ok("GEMMA.RESULT a").field("text").text(), text);
    assert_eq!(
        client.ok("GEMMA.GENERATE hello JOB a MAXTOKENS 5 SEED 1").field("text").text(),
        text,
        "it does not run again"
    );
    assert_eq!(client.info("engram_generations"), "1");
    let own = client.ok("GEMMA.GENERATE hello NOWAIT MAXTOKENS 1").field("job").text();
    assert_ne!(own, "a");
    assert_eq!(client.ok(&format!("GEMMA.RESULT {own}")).field("tokens").int(), 1);
    assert!(client.err("GEMMA.RESULT nothing").contains("no such job: 'nothing'"));
    assert_eq!(client.ok("GEMMA.CANCEL a").int(), 0, "it has ended");
    // Inside a transaction nothing waits.
    client.ok("MULTI");
    client.ok("GEMMA.RESULT a");
    assert_eq!(client.ok("EXEC").items()[0].field("text").text(), text);
}

/// Starts so many long generations that each takes a while.
fn crowd(server: &Server, count: usize) -> Vec<String> {
    let mut client = server.client();
    (0..count)
        .map(|n| {
            client
                .ok(&format!("GEMMA.GENERATE hello NOWAIT TEMPERATURE 0 MAXTOKENS 480 JOB crowd{n}"))
                .field("job")
                .text()
        })
        .collect()
}

#[test]
fn cancelling_a_timeout_and_leaving_end_an_answer_with_the_text_so_far() {
    let server = Server::with_model(RANDOM, &["engram.threads 1"]);
    let mut client = server.client();
    let whole = client.ok("GEMMA.GENERATE hello TEMPERATURE 0 MAXTOKENS 480").field("text").text();
    let crowd = crowd(&server, 30);
    let cancelled = server.begin("GEMMA.GENERATE hello TEMPERATURE 0 MAXTOKENS 480 JOB x");
    let timed = server.begin("GEMMA.GENERATE hello TEMPERATURE 0 MAXTOKENS 480 TIMEOUT 60");
    let left = server.begin("GEMMA.GENERATE hello TEMPERATURE 0 MAXTOKENS 480 JOB left");
    let progress = |client: &mut Client, id: &str| {
        let jobs = client.ok("GEMMA.JOBS").items();
        jobs.iter()
            .find(|job| job.field("id").text() == id)
            .and_then(|job| job.maybe("tokens"))
            .map_or(0, |tokens| tokens.int())
    };
    wait_until("they have begun", || progress(&mut client, "x") > 0 && progress(&mut client, "left") > 0);
    assert_eq!(client.ok("GEMMA.CANCEL x").int(), 1);
    client.ok(&format!("CLIENT KILL ID {}", left.id));
    for (pending, reason) in [(cancelled, "cancelled"), (timed, "timeout")] {
        let reply = pending.finish().unwrap();
        let text = reply.field("text").text();
        assert_eq!(reply.field("finish_reason").text(), reason);
        assert!(text.len() < whole.len() && whole.starts_with(text.trim_end_matches('\u{fffd}')), "{reason}: {text}");
    }
    assert!(left.finish().unwrap_err().starts_with("CONNECTION"));
    let reply = client.ok("GEMMA.RESULT left");
    assert_eq!(reply.field("finish_reason").text(), "cancelled", "nobody waited for it any more");
    assert!(reply.field("tokens").int() < 480);
    // Those started with NOWAIT go on.
    for id in crowd {
        assert_eq!(client.ok(&format!("GEMMA.RESULT {id}")).field("text").text(), whole, "{id}");
    }
}

#[test]
fn generations_advance_evenly_and_the_server_answers_meanwhile() {
    let server = Server::with_model(RANDOM, &["engram.threads 1"]);
    let mut client = server.client();
    let crowd = crowd(&server, 12);
    let tokens = |client: &mut Client| -> Vec<i64> {
        client.ok("GEMMA.JOBS").items().iter().map(|job| job.maybe("tokens").map_or(0, |tokens| tokens.int())).collect()
    };
    wait_until("all have begun", || tokens(&mut client).iter().all(|tokens| *tokens > 0));
    let before = tokens(&mut client);
    // A short one that comes later does not wait for the long ones, nor do they for it.
    let reply = client.ok("GEMMA.GENERATE hello TEMPERATURE 0 MAXTOKENS 30");
    assert_eq!(reply.field("tokens").int(), 30);
    let after = tokens(&mut client);
    assert!(after[..12].iter().all(|tokens| *tokens < 480), "the long ones are still at work: {after:?}");
    let advanced: Vec<i64> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    let (least, most) = (advanced.iter().min().unwrap(), advanced.iter().max().unwrap());
    // What is shown is up to eight tokens old.
    assert!(*least > 0 && most - least <= 16, "they advance together: {advanced:?}");
    let mut times: Vec<u128> = (0..100)
        .map(|_| {
            let began = std::time::Instant::now();
            client.ok("PING");
            began.elapsed().as_micros()
        })
        .collect();
    times.sort_unstable();
    assert!(times[90] < 20_000, "of 100 PINGs the tenth slowest took {} µs", times[90]);
    for id in crowd {
        client.ok(&format!("GEMMA.RESULT {id}"));
    }
}

#[test]
fn the_queue_is_bounded_for_generations_too() {
    let server = Server::with_model(RANDOM, &["engram.threads 1", "engram.queue-limit 3"]);
    let mut client = server.client();
    server.close_latch();
    for _ in 0..3 {
        client.ok("GEMMA.GENERATE hello NOWAIT MAXTOKENS 2");
    }
    let error = client.err("GEMMA.GENERATE hello MAXTOKENS 2");
    assert!(error.starts_with("QUEUEFULL") && error.contains("engram.queue-limit is 3"), "{error}");
    server.open_latch();
    wait_until("there is room again", || client.try_run("GEMMA.GENERATE hello MAXTOKENS 2").is_ok());
}

#[test]
fn one_user_may_have_so_many_jobs() {
    let server = Server::with_model(RANDOM, &["engram.threads 1", "engram.user-queue-limit 2"]);
    let mut client = server.client();
    client.ok("ACL SETUSER other on nopass ~* &* +@all");
    server.close_latch();
    for _ in 0..2 {
        client.ok("GEMMA.GENERATE hello NOWAIT MAXTOKENS 2");
    }
    let error = client.err("GEMMA.GENERATE hello MAXTOKENS 2");
    assert!(error.starts_with("QUEUEFULL") && error.contains("engram.user-queue-limit is 2"), "{error}");
    let mut other = server.client();
    other.ok("AUTH other any");
    other.ok("GEMMA.GENERATE hello NOWAIT MAXTOKENS 2");
    client.ok("CONFIG SET engram.user-queue-limit 0");
    client.ok("GEMMA.GENERATE hello NOWAIT MAXTOKENS 2");
    server.open_latch();
}

#[test]
fn a_prompt_that_begins_as_another_did_is_read_from_where_they_part() {
    let server = Server::with_model(RANDOM, &["engram.threads 1"]);
    let mut client = server.client();
    client.ok("ACL SETUSER other on nopass ~* &* +@all");
    let system = "You answer in one short sentence and never say what you do not know. ".repeat(4);
    let ask = |client: &mut crate::client::Client, question: &str| {
        let prompt = format!("{system}{question}");
        client.ok_words(&words!["GEMMA.GENERATE", &prompt, "SEED", "7", "MAXTOKENS", "12"])
    };
    let first = ask(&mut client, "Where is the ladder?");
    assert_eq!(first.field("reused_tokens").int(), 0);
    let second = ask(&mut client, "When does the bus leave?");
    let (reused, all) = (second.field("reused_tokens").int(), second.field("prompt_tokens").int());
    assert!(reused > 60 && reused < all, "{reused} of {all}");
    // The same again: all but the last token, whose logits are wanted, and the same answer.
    let again = ask(&mut client, "Where is the ladder?");
    assert_eq!(again.field("reused_tokens").int(), first.field("prompt_tokens").int() - 1);
    assert_eq!(again.field("text"), first.field("text"));
    // Another user has none of it, and gets the same answer.
    let mut other = server.client();
    other.ok("AUTH other any");
    let theirs = ask(&mut other, "Where is the ladder?");
    assert_eq!(theirs.field("reused_tokens").int(), 0);
    assert_eq!(theirs.field("text"), first.field("text"));
    assert_eq!((client.info("engram_prefix_hits"), client.info("engram_prefix_misses")), ("2".into(), "2".into()));
    assert_eq!(
        client.info("engram_prefix_tokens_saved").parse::<i64>().unwrap(),
        reused + again.field("reused_tokens").int()
    );
    assert_ne!(client.info("engram_prefix_memory_bytes"), "0");
    // Little room: what is not used goes to a file and comes back; none: nothing is kept.
    client.ok("CONFIG SET engram.prefix-file 64mb");
    client.ok("CONFIG SET engram.prefix-memory 200000");
    wait_until("pages are in the file", || client.info("engram_prefix_file_bytes") != "0");
    let back = ask(&mut client, "When does the bus leave?");
    assert_eq!((back.field("reused_tokens").int(), back.field("text")), (all - 1, second.field("text")));
    assert_ne!(client.info("engram_prefix_pages_restored"), "0");
    client.ok("CONFIG SET engram.prefix-memory 0");
    wait_until("nothing is kept", || client.info("engram_prefix_memory_bytes") == "0");
    assert_eq!(ask(&mut client, "Where is the ladder?").field("reused_tokens").int(), 0);
}

#[test]
fn who_is_urgent_is_answered_first() {
    let server = Server::with_model(RANDOM, &["engram.threads 1"]);
    let mut client = server.client();
    server.close_latch();
    // More than are generated at once, in the order of their arrival; the last one is urgent.
    for n in 0..40 {
        client.ok(&format!("GEMMA.GENERATE hello NOWAIT MAXTOKENS 40 SEED {n} PRIORITY low JOB low{n}"));
    }
    client.ok("GEMMA.GENERATE hello NOWAIT MAXTOKENS 40 SEED 3 PRIORITY high JOB urgent");
    server.open_latch();
    let urgent = client.ok("GEMMA.RESULT urgent TIMEOUT 60000");
    assert_eq!(urgent.field("tokens").int(), 40);
    let listed = client.ok("GEMMA.JOBS").items();
    let open = listed.iter().filter(|job| job.field("state").text() != "done").count();
    assert!(open > 10, "{open} were not answered yet");
    for n in 0..40 {
        client.ok(&format!("GEMMA.CANCEL low{n}"));
    }
    assert!(client.err("GEMMA.GENERATE hello PRIORITY soon").contains("low"));
}

#[test]
fn a_replica_generates_with_generate_ro() {
    let primary = Server::with_text(&[&format!("engram.model {RANDOM}")]);
    primary.wait_for_models(1);
    let mut client = primary.client();
    client.ok("MEM.STORE k 'the sky is green' ID 1-0");
    let replica = primary.replica(&[]);
    replica.wait_for_models(1);
    replica.wait_for_encoder();
    let mut reader = replica.client();
    let line = "GEMMA.GENERATE_RO 'what colour is the sky' MEMORY k SEED 5 MAXTOKENS 10";
    let here = client.ok(line);
    let there = reader.ok(line);
    assert_eq!(here.field("text"), there.field("text"));
    assert_eq!(there.field("memories").items()[0].field("id").text(), "1-0");
    assert!(reader.err("GEMMA.GENERATE hello").starts_with("READONLY"));
    assert!(client.err("GEMMA.GENERATE_RO hello STREAM s").contains("unknown option 'STREAM'"));
    pause_ms(20);
    assert_eq!(reader.digest("k"), client.digest("k"));
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_with_both_numbers_and_memories_make_room() {
    let server = Server::with_text(&[&format!("engram.model {RANDOM}")]);
    server.wait_for_models(1);
    let mut client = server.client();
    let long = "word ".repeat(2_000);
    let error = client.err_words(&words!["GEMMA.GENERATE", &long]);
    assert!(error.starts_with("ERR") && error.contains("512") && error.contains("token"), "{error}");
    let huge = "x".repeat(1_000_000);
    let error = client.err_words(&words!["GEMMA.GENERATE", &huge]);
    assert!(error.contains("512"), "{error}");
    for n in 0..5 {
        client.ok_words(&words!["MEM.STORE", "k", format!("memory {n} {}", "with many words ".repeat(30))]);
    }
    let reply = client.ok("GEMMA.GENERATE 'memory words' MEMORY k K 5 MAXTOKENS 2");
    let kept = reply.field("memories").items().len();
    assert!(kept < 5, "{reply:?}");
    let note = reply.field("notes").texts().join(" ");
    assert!(note.contains(&format!("{} of 5 memories were left out", 5 - kept)), "{note}");
    assert!(reply.field("prompt_tokens").int() < 512);
}
