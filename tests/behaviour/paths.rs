//! The two paths of an answer: FALLBACK, the fast model of short questions, what readers of a stream see, and what is counted.

use std::sync::Arc;

use engram_inference::gemma::{Gemma, LoadOptions, Progress};
use redis::Value;

use crate::client::{Client, Reply, words};
use crate::copy_questions::{answered, auroc, hard, simple};
use crate::harness::{Server, test_file, wait_until};

/// The first answers whatever it is asked, unsure of each token; the second knows how to copy a memory, and is sure of it.
const UNSURE: &str = "random-q4_0.gguf";
const SURE: &str = "copy.gguf";
const QUESTION: &str =
    "Memories:\n- The door code is 5512.\n- The wifi password is marlin42.\n\nWhat is the wifi password?";
const RIGHT: &str = "I remember: The wifi password is marlin42.";

/// A server with both; without MODEL the unsure one answers.
fn server(lines: &[&str]) -> Server {
    let models = format!("engram.model \"unsure={UNSURE} sure={SURE}\"");
    let server = Server::plain(&[&[models.as_str()], lines].concat());
    server.wait_for_models(2);
    server
}

/// `GEMMA.GENERATE` of the question, greedy.
fn ask(client: &mut Client, options: &str) -> Value {
    let options = crate::client::split(options);
    client.ok_words(&[words!["GEMMA.GENERATE", QUESTION, "TEMPERATURE", 0, "MAXTOKENS", 40], options].concat())
}

fn counted(client: &mut Client, field: &str) -> i64 {
    client.info(&format!("engram_{field}")).parse().unwrap()
}

/// The entries of a stream: their fields in order.
fn entries(client: &mut Client, key: &str) -> Vec<Vec<(String, String)>> {
    let entries = client.ok(&format!("XRANGE {key} - +")).items();
    let fields =
        |entry: &Value| entry.items()[1].pairs().into_iter().map(|(name, value)| (name, value.text())).collect();
    entries.iter().map(fields).collect()
}

fn text_of(entries: &[Vec<(String, String)>]) -> String {
    entries.iter().filter(|entry| entry[0].0 == "text").flatten().map(|(_, text)| text.as_str()).collect()
}

#[test]
fn without_a_default_the_model_behind_every_call_answers() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for (name, file) in [("unsure", UNSURE), ("sure", SURE)] {
        client.ok(&format!("GEMMA.LOAD {name} {file}"));
    }
    assert!(client.err("GEMMA.GENERATE hello").contains("several models are loaded"));
    client.ok("CONFIG SET engram.fast-model unsure engram.fallback-model sure");
    let reply = ask(&mut client, "");
    assert_eq!((reply.field("model").text(), reply.field("text").text()), ("sure".into(), RIGHT.into()));
    client.ok("GEMMA.UNLOAD sure");
    assert!(client.err("GEMMA.GENERATE hello MODEL sure").starts_with("NOMODEL"));
}

#[test]
fn a_default_that_could_not_be_loaded_is_said_and_not_replaced() {
    let models = format!("engram.model \"usual=missing.gguf sure={SURE}\"");
    let server = Server::plain(&[&models, "engram.fallback-model sure"]);
    server.wait_for_models(1);
    let error = server.client().err("GEMMA.GENERATE hello");
    assert!(error.starts_with("NOMODEL") && error.contains("missing.gguf"), "{error}");
}

#[test]
fn an_unsure_answer_is_given_up_for_that_of_the_second_model() {
    let server = server(&[]);
    for mut client in [server.client(), server.client3()] {
        let before: Vec<i64> = COUNTED.iter().map(|field| counted(&mut client, field)).collect();
        let plain = ask(&mut client, "");
        assert_eq!(plain.maybe("path"), None, "one path is no path");
        let reply = ask(&mut client, "FALLBACK sure BELOW 0.9");
        assert_eq!((reply.field("text").text(), reply.field("model").text()), (RIGHT.into(), "sure".into()));
        assert_eq!(reply.field("path").text(), "slow");
        let given_up = reply.field("given_up");
        assert_eq!(given_up.names(), ["model", "text", "tokens", "confidence", "reason"]);
        assert_eq!(given_up.field("model").text(), "unsure");
        for field in ["text", "reason"] {
            assert_eq!(given_up.field(field).text(), plain.field(field).text(), "{field}");
        }
        assert_eq!(given_up.field("confidence").float(), plain.field("confidence").float());
        let route = reply.field("route").text();
        assert!(
            route.starts_with("unsure was not sure enough: 0.") && route.ends_with("at least 0.9 is asked for"),
            "{route}"
        );
        // The prompt is the other model's own.
        let alone = ask(&mut client, "MODEL sure");
        assert_eq!(reply.field("prompt_tokens"), alone.field("prompt_tokens"));
        assert_eq!(reply.field("tokens"), alone.field("tokens"));

        // The first answer stands where it is sure enough, and where nothing else is asked for.
        let stands = ask(&mut client, "MODEL sure FALLBACK unsure BELOW 0.9");
        assert_eq!((stands.field("text").text(), stands.field("model").text()), (RIGHT.into(), "sure".into()));
        assert_eq!(stands.field("path").text(), "fast");
        assert!(stands.field("given_up").is_nil());
        assert!(stands.field("route").text().starts_with("sure was sure enough: 0.9"), "{stands:?}");
        let never = ask(&mut client, "FALLBACK sure BELOW 0");
        assert_eq!((never.field("model").text(), never.field("path").text()), ("unsure".into(), "fast".into()));
        assert_eq!(never.field("text"), plain.field("text"));

        let (fast, slow, gone) = (&[&stands, &never], &reply, given_up.field("tokens").int());
        let tokens: i64 = fast.iter().map(|reply| reply.field("tokens").int()).sum();
        let expected = [0, 0, 2, 1, 1, 0, tokens + gone, slow.field("tokens").int(), tokens];
        for ((field, before), expected) in COUNTED.iter().zip(before).zip(expected) {
            assert_eq!(counted(&mut client, field) - before, expected, "{field}");
        }
    }
    // The fields are there once, in order, also on a server that may only be read.
    let mut client = server.client();
    let reply = client.ok("GEMMA.GENERATE_RO hello MAXTOKENS 2 FALLBACK sure BELOW 1");
    assert_eq!((reply.field("model").text(), reply.field("path").text()), ("sure".into(), "slow".into()));
    let names = reply.names().join(" ");
    assert!(names.ends_with("confidence reason model path route given_up memories notes"), "{names}");
}

const COUNTED: [&str; 9] = [
    "routed_fast",
    "routed_slow",
    "fast_answers",
    "slow_answers",
    "fallbacks",
    "fallbacks_unable",
    "fast_tokens",
    "slow_tokens",
    "saved_tokens",
];

#[test]
fn wrong_options_teach_and_nothing_is_generated() {
    let server = server(&[]);
    let mut client = server.client();
    for (options, prefix, part) in [
        ("FALLBACK missing BELOW 0.5", "NOMODEL", "no model 'missing' (loaded: sure, unsure)"),
        ("FALLBACK unsure BELOW 0.5", "ERR", "is the model that answers first"),
        ("MODEL sure FALLBACK sure", "ERR", "is the model that answers first"),
        ("FALLBACK sure BELOW 1.5", "ERR", "0 to 1"),
        ("FALLBACK sure BELOW often", "ERR", "0 to 1"),
        ("FALLBACK sure BELOW nan", "ERR", "0 to 1"),
        ("BELOW 0.5", "ERR", "FALLBACK"),
        ("FALLBACK", "ERR", "FALLBACK"),
    ] {
        for command in ["GEMMA.GENERATE hello", "GEMMA.GENERATE_RO hello", "GEMMA.CHAT k s hello"] {
            let error = client.err(&format!("{command} {options}"));
            assert!(error.starts_with(prefix) && error.contains(part), "{command} {options}: {error}");
        }
    }
    assert_eq!(client.ok("EXISTS k").int(), 0);
    assert_eq!((counted(&mut client, "generations"), counted(&mut client, "tokens")), (0, 0));
    // What a setting names is checked when it is used.
    for (setting, call) in [
        ("fallback-model", "GEMMA.GENERATE hello MAXTOKENS 2"),
        ("fast-model", "GEMMA.GENERATE 'What is the wifi password?' MAXTOKENS 2"),
    ] {
        client.ok(&format!("CONFIG SET engram.{setting} missing"));
        let error = client.err(call);
        assert!(error.starts_with("NOMODEL") && error.contains(&format!("engram.{setting} names it")), "{error}");
        client.ok(&format!("CONFIG SET engram.{setting} ''"));
    }
    for below in ["1.1", "-1", "nan", "much", "''"] {
        let error = client.err(&format!("CONFIG SET engram.fallback-below {below}"));
        assert!(error.contains("a number from 0 to 1"), "{error}");
    }
}

#[test]
fn readers_of_a_stream_see_only_the_answer_that_stands() {
    let server = server(&[]);
    let mut client = server.client();
    for (key, options) in [("given-up", "FALLBACK sure BELOW 0.9"), ("stands", "FALLBACK sure BELOW 0.0001")] {
        let reply = ask(&mut client, &format!("{options} STREAM {key}"));
        let all = entries(&mut client, key);
        assert_eq!(text_of(&all), reply.field("text").text(), "{key}");
        assert_eq!(all[0][0].0, "job");
        assert_eq!(all.iter().filter(|entry| entry[0].0 == "job" || entry[0].0 == "done").count(), 2, "{key}");
        let last = all.last().unwrap();
        let field = |name: &str| last.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap();
        assert_eq!((field("path"), field("model")), (reply.field("path").text(), reply.field("model").text()));
        assert_eq!(field("given_up").is_empty(), key == "stands");
    }
    // Until it is known which one stands, nobody sees any of it.
    client.ok("GEMMA.GENERATE hello MAXTOKENS 400 TEMPERATURE 0 FALLBACK sure BELOW 0.00001 STREAM s NOWAIT JOB j");
    wait_until("it has begun", || client.ok("EXISTS s").int() == 1);
    client.ok("GEMMA.CANCEL j");
    let reply = client.ok("GEMMA.RESULT j TIMEOUT 20000");
    let all = entries(&mut client, "s");
    assert_eq!(text_of(&all), reply.field("text").text(), "what is in the reply is in the stream");
    assert!(all.iter().filter(|entry| entry[0].0 == "text").count() <= 1, "{all:?}");
}

#[test]
fn one_deadline_and_one_cancellation_end_either_path() {
    let server = server(&["engram.threads 1"]);
    let mut client = server.client();
    // On the fast path: the text so far, and no second answer.
    let late = client.ok("GEMMA.GENERATE hello MAXTOKENS 480 TIMEOUT 1 FALLBACK sure BELOW 1");
    assert_eq!((late.field("finish_reason").text(), late.field("path").text()), ("timeout".into(), "fast".into()));
    assert_eq!(late.field("route").text(), "it ended before its confidence was known");
    // On the slow path, whose model never ends by itself: the text so far of that one.
    let call = "GEMMA.GENERATE hello MAXTOKENS 480 MODEL sure TEMPERATURE 0 FALLBACK unsure BELOW 1";
    client.ok(&format!("{call} NOWAIT JOB j"));
    wait_until("the second model answers", || {
        let jobs = client.ok("GEMMA.JOBS").items();
        let job = jobs.iter().find(|job| job.field("id").text() == "j").unwrap();
        job.field("state").text() == "done" || job.maybe("model").is_some_and(|model| model.text() == "unsure")
    });
    client.ok("GEMMA.CANCEL j");
    let reply = client.ok("GEMMA.RESULT j TIMEOUT 20000");
    assert_eq!((reply.field("path").text(), reply.field("model").text()), ("slow".into(), "unsure".into()));
    assert!(["cancelled", "length"].contains(&reply.field("finish_reason").text().as_str()), "{reply:?}");
    assert_eq!(reply.field("given_up").field("model").text(), "sure");
    // The deadline is the call's, not each model's.
    let began = std::time::Instant::now();
    let late = client.ok(&format!("{call} TIMEOUT 10"));
    assert!(began.elapsed().as_millis() < 2_000);
    assert!(["timeout", "length"].contains(&late.field("finish_reason").text().as_str()));
    assert_eq!(counted(&mut client, "generations"), 3);
}

#[test]
fn a_prompt_that_the_first_model_cannot_hold_goes_to_the_second() {
    let server = server(&[]);
    let mut client = server.client();
    // 512 tokens in the one, 2,048 in the other.
    let long = "word ".repeat(700);
    let reply = client.ok_words(&words!["GEMMA.GENERATE", &long, "MAXTOKENS", 2, "FALLBACK", "sure", "BELOW", "0.01"]);
    assert_eq!((reply.field("model").text(), reply.field("path").text()), ("sure".into(), "slow".into()));
    let route = reply.field("route").text();
    assert!(route.starts_with("unsure could not answer") && route.contains("512"), "{route}");
    assert_eq!(reply.field("given_up").field("tokens").int(), 0);
    assert_eq!((counted(&mut client, "fallbacks"), counted(&mut client, "fallbacks_unable")), (1, 1));
    let error = client.err_words(&words!["GEMMA.GENERATE", "word ".repeat(4_000), "FALLBACK", "sure"]);
    assert!(error.contains("2048"), "{error}");
}

#[test]
fn forms_and_biases_hold_on_both_paths() {
    let server = server(&[]);
    let mut client = server.client();
    let schema = r#"{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}"#;
    let reply = client.ok_words(&words![
        "GEMMA.GENERATE",
        QUESTION,
        "SCHEMA",
        schema,
        "MAXTOKENS",
        30,
        "LOGITBIAS",
        r#"{"1": 2}"#,
        "LOGPROBS",
        1,
        "FALLBACK",
        "sure",
        "BELOW",
        1
    ]);
    assert_eq!(reply.field("path").text(), "slow");
    let made: serde_json::Value = serde_json::from_str(&reply.field("text").text()).unwrap();
    assert!(made["n"].is_i64(), "{made}");
    assert_eq!(reply.field("logprobs").items().len() as i64, reply.field("tokens").int());
    // The text of a bias is looked up in the vocabulary of each.
    let reply =
        client.ok("GEMMA.GENERATE hello MAXTOKENS 3 TEMPERATURE 0 LOGITBIAS '{\"a\": 100}' FALLBACK sure BELOW 1");
    assert_eq!((reply.field("text").text(), reply.field("model").text()), ("aaa".into(), "sure".into()));
}

#[test]
fn a_chat_stores_the_answer_that_stands_and_no_other() {
    let server = Server::with_text(&[&format!("engram.model \"unsure={UNSURE} sure={SURE}\"")]);
    server.wait_for_models(2);
    let mut client = server.client();
    client.ok("MEM.STORE k 'The wifi password is marlin42.' ID 1-0");
    let reply = client
        .ok("GEMMA.CHAT k s 'What is the wifi password?' TEMPERATURE 0 MAXTOKENS 60 FALLBACK sure BELOW 0.9 STREAM t");
    assert_eq!((reply.field("model").text(), reply.field("path").text()), ("sure".into(), "slow".into()));
    let turns = client.ok("MEM.SESSION HISTORY k s").items();
    assert_eq!(turns.len(), 2);
    assert_eq!(turns[1].field("content").text(), reply.field("text").text().trim());
    assert_eq!(turns[1].field("id"), reply.field("answer"));
    assert_eq!(text_of(&entries(&mut client, "t")), reply.field("text").text());
    assert_eq!(reply.field("memories").items()[0].field("id").text(), "1-0");
    assert_eq!(client.ok("MEM.GET k 1-0").items()[0].field("uses").int(), 1, "recalled once, used once");
    // So it is with GENERATE.
    client.ok("MEM.STORE m 'The wifi password is marlin42.' ID 1-0");
    let reply = client
        .ok("GEMMA.GENERATE 'What is the wifi password?' MEMORY m FALLBACK sure BELOW 0.9 TEMPERATURE 0 MAXTOKENS 60");
    assert_eq!(reply.field("path").text(), "slow");
    assert!(reply.field("text").text().contains("marlin42"), "{reply:?}");
    wait_until("its use is noted", || client.ok("MEM.GET m 1-0").items()[0].field("uses").int() == 1);
    // An answer that was given up and whose successor was cut is no answer.
    let cut = client.ok("GEMMA.CHAT k s 'And now?' MAXTOKENS 480 TIMEOUT 1 FALLBACK sure BELOW 1");
    assert!(cut.field("answer").is_nil());
    assert_eq!(client.ok("MEM.SESSION HISTORY k s").items().len(), 3);
}

#[test]
fn short_questions_go_to_the_fast_model_and_others_do_not() {
    let server = server(&["engram.fast-model sure", "engram.fallback-below 0.9"]);
    let mut client = server.client();
    let reply = client.ok("GEMMA.GENERATE 'What is the wifi password?' MAXTOKENS 20 TEMPERATURE 0");
    assert_eq!((reply.field("model").text(), reply.field("path").text()), ("sure".into(), "fast".into()));
    let route = reply.field("route").text();
    assert!(route.starts_with("a short question: it asks for one fact; sure was sure enough"), "{route}");
    for (prompt, options, why) in [
        ("Write a poem about the sea.", "", "no short question: it wants more than a fact"),
        ("What is the wifi password?", "FORMAT JSON", "no short question: the answer is to have a form"),
        ("What is the wifi password?", "RAW", "no short question: RAW is no question"),
        ("What is the wifi password?", "PROFILE quality", "no short question: the profile asks for more"),
    ] {
        let reply = client.ok(&format!("GEMMA.GENERATE '{prompt}' MAXTOKENS 8 {options}"));
        assert_eq!((reply.field("model").text(), reply.field("path").text()), ("unsure".into(), "slow".into()));
        assert_eq!(reply.field("route").text(), why);
        assert!(reply.field("given_up").is_nil());
    }
    // Who names a model is not routed.
    let reply = client.ok("GEMMA.GENERATE 'What is the wifi password?' MAXTOKENS 8 MODEL unsure");
    assert_eq!((reply.field("model").text(), reply.maybe("path")), ("unsure".into(), None));
    // What the fast model is not sure of, the default answers.
    client.ok("CONFIG SET engram.fallback-below 1");
    let reply = client.ok("GEMMA.GENERATE 'What is the wifi password?' MAXTOKENS 8");
    assert_eq!((reply.field("model").text(), reply.field("path").text()), ("unsure".into(), "slow".into()));
    assert_eq!(reply.field("given_up").field("model").text(), "sure");
    assert_eq!(["routed_fast", "routed_slow", "fallbacks"].map(|field| counted(&mut client, field)), [2, 4, 1]);

    // With a fallback for all, every call has two paths, but those of that model itself.
    client.ok("CONFIG SET engram.fast-model '' engram.fallback-model sure engram.fallback-below 0.9");
    let reply = ask(&mut client, "");
    assert_eq!((reply.field("model").text(), reply.field("path").text()), ("sure".into(), "slow".into()));
    assert_eq!(ask(&mut client, "MODEL sure").maybe("path"), None);
    assert_eq!(ask(&mut client, "FALLBACK sure BELOW 0").field("model").text(), "unsure");
}

#[test]
fn a_job_with_two_paths_is_one_job() {
    let server = server(&[]);
    let mut client = server.client();
    let call = "GEMMA.GENERATE hello MAXTOKENS 5 SEED 1 FALLBACK sure BELOW 1";
    client.ok(&format!("{call} NOWAIT JOB j"));
    let reply = client.ok("GEMMA.RESULT j TIMEOUT 20000");
    assert_eq!((reply.field("path").text(), reply.field("seed").int()), ("slow".into(), 1));
    assert_eq!(client.ok(&format!("{call} JOB j")).field("text"), reply.field("text"));
    assert!(
        client.err("GEMMA.GENERATE hello MAXTOKENS 5 SEED 1 FALLBACK sure BELOW 0.5 JOB j").contains("another request")
    );
    assert_eq!((counted(&mut client, "generations"), counted(&mut client, "fallbacks")), (1, 1));
    assert_eq!(client.ok("GEMMA.JOBS").items().len(), 1);
}

#[test]
fn confidence_tells_right_answers_from_wrong_ones() {
    let file = test_file("models").join(SURE);
    let model = Arc::new(Gemma::load(&file, &LoadOptions::default(), &Progress::default()).unwrap());
    let answers = answered(&model, &hard(200)).unwrap();
    let right = answers.iter().filter(|(_, right)| *right).count();
    let area = auroc(&answers);
    println!("{right} of 200 are right, AUROC {area:.3}");
    assert!((40..=160).contains(&right), "{right} of 200 are right: both kinds are needed");
    assert!(area >= 0.7, "AUROC {area}");
    assert_eq!(auroc(&[(0.5, true), (0.5, false), (0.9, true), (0.1, false)]), 0.875);
    // Of simple ones more are right, and it is surer.
    let simple = answered(&model, &simple(50)).unwrap();
    let more = simple.iter().filter(|(_, right)| *right).count();
    assert!(more * 4 > right, "{more} of 50 simple ones are right");
    let mean = |answers: &[(f64, bool)]| answers.iter().map(|(sure, _)| sure).sum::<f64>() / answers.len() as f64;
    assert!(mean(&simple) > mean(&answers));
}
