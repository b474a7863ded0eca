//! GEMMA.CHAT: turns stored and answered in order, what is remembered in the prompt, and what a failure leaves.

use crate::client::{Client, Reply, words};
use crate::digest::Pair;
use crate::harness::{Server, pause_ms, wait_until};

fn roles(client: &mut Client, session: &str) -> Vec<String> {
    let turns = client.ok(&format!("MEM.SESSION HISTORY k {session}"));
    turns.items().iter().map(|turn| turn.field("role").text()).collect()
}

#[test]
fn one_command_stores_recalls_answers_and_stores() {
    let server = Server::with_model("copy.gguf", &[]);
    for mut client in [server.client(), server.client3()] {
        client.ok("FLUSHALL");
        client.ok("MEM.STORE k 'The code of the safe is 4711' NOEMBED");
        let reply = client.ok("GEMMA.CHAT k s 'What is the code of the safe?' TEMPERATURE 0 MAXTOKENS 20");
        assert_eq!(
            reply.names().join(" "),
            "text finish_reason prompt_tokens reused_tokens tokens prompt_tokens_per_second tokens_per_second seed confidence reason model memories \
             turn answer notes"
        );
        let turns = client.ok("MEM.SESSION HISTORY k s");
        let [asked, answered] = &turns.items()[..] else { panic!("{turns:?}") };
        assert_eq!((asked.field("id"), answered.field("id")), (reply.field("turn"), reply.field("answer")));
        assert_eq!(asked.field("content").text(), "What is the code of the safe?");
        assert_eq!(answered.field("content").text(), reply.field("text").text().trim());
        assert_eq!((asked.field("role").text(), answered.field("role").text()), ("user".into(), "assistant".into()));
        assert_eq!(reply.field("memories").items().len(), 1, "the memory is recalled by its words");
        // The next turn has the first two in its prompt.
        let next = client.ok("GEMMA.CHAT k s 'And again?' TEMPERATURE 0 MAXTOKENS 5");
        assert!(next.field("prompt_tokens").int() > reply.field("prompt_tokens").int());
        assert_eq!(roles(&mut client, "s"), ["user", "assistant", "user", "assistant"]);
        // The same state and seed, the same answer; another session knows nothing of this one's turns but what is recalled.
        let other = client.ok("GEMMA.CHAT k t 'Hello' TEMPERATURE 0 MAXTOKENS 5 FILTER '.type == \"fact\"'");
        assert!(other.field("prompt_tokens").int() < next.field("prompt_tokens").int());
    }
}

#[test]
fn a_chat_is_saved_and_replicated() {
    let pair = Pair::start(&["engram.embedder \"\"", "engram.model random-q8_0.gguf"]);
    pair.primary.wait_for_models(1);
    let mut client = pair.primary.client();
    client.ok("GEMMA.CHAT k s 'Good morning' MAXTOKENS 8 SEED 1");
    client.ok("GEMMA.CHAT k s 'What now?' MAXTOKENS 8 SEED 2 FORMAT JSON");
    client.ok("GEMMA.CHAT k s 'Too slow' MAXTOKENS 2000 TIMEOUT 1");
    pair.check_persistent(&["k"]);
    assert!(roles(&mut pair.replica.client(), "s").len() >= 4);
    assert!(pair.replica.client().err("GEMMA.CHAT k s 'on a replica'").starts_with("READONLY"));
}

#[test]
fn what_is_kept_of_prompts_goes_with_what_stood_in_them() {
    let server = Server::with_model("random-q8_0.gguf", &[]);
    let mut client = server.client();
    let kept = |client: &mut Client| client.info("engram_prefix_memory_bytes").parse::<u64>().unwrap();
    client.ok("GEMMA.GENERATE hello MAXTOKENS 4");
    wait_until("a prompt is kept", || kept(&mut client) > 0);
    let own = kept(&mut client);
    for way in [
        "DEL k",
        "UNLINK k",
        "SET k another",
        "RENAME k l",
        "PEXPIRE k 1",
        "SWAPDB 0 1",
        "FLUSHALL ASYNC",
        "MEM.FORGET k ",
        "MEM.UPDATE k ",
        "MEM.SESSION DEL k s",
    ] {
        let id = client.ok("MEM.STORE k 'The code of the safe is 4711' NOEMBED").text();
        client.ok("GEMMA.CHAT k s 'What is the code?' MAXTOKENS 4 SEED 1");
        wait_until("the prompt with the memory is kept", || kept(&mut client) > own);
        match way {
            "MEM.FORGET k " => client.ok(&format!("{way}{id}")),
            "MEM.UPDATE k " => client.ok(&format!("{way}{id} CONTENT 'The code of the safe is 1174' NOEMBED")),
            _ => client.ok(way),
        };
        wait_until(&format!("nothing of it is kept after {way}"), || kept(&mut client) == own);
        client.ok("FLUSHALL");
    }
}

#[test]
fn two_chats_in_a_session_are_answered_one_after_the_other() {
    let server = Server::with_model("random-q8_0.gguf", &["engram.threads 3"]);
    let pending: Vec<_> =
        (0..6).map(|n| server.begin(&format!("GEMMA.CHAT k s 'message {n}' MAXTOKENS 30 SEED {n}"))).collect();
    let answers = pending.into_iter().map(|p| p.finish().unwrap()).collect::<Vec<_>>();
    let mut client = server.client();
    let turns = client.ok("MEM.SESSION HISTORY k s").items();
    assert_eq!(turns.len(), 12);
    for pair in turns.chunks(2) {
        assert_eq!((pair[0].field("role").text(), pair[1].field("role").text()), ("user".into(), "assistant".into()));
        let reply = answers.iter().find(|reply| reply.field("turn") == pair[0].field("id")).unwrap();
        assert_eq!(reply.field("answer"), pair[1].field("id"), "each answer follows its own question");
    }
    assert_eq!(client.info("engram_chats_waiting"), "0");
    // Sessions do not wait for each other.
    server.close_latch();
    let one = server.begin("GEMMA.CHAT k a 'hello' MAXTOKENS 3");
    let two = server.begin("GEMMA.CHAT k a 'hello again' MAXTOKENS 3");
    let other = server.begin("GEMMA.CHAT k b 'hello' MAXTOKENS 3");
    wait_until("one chat waits", || client.info("engram_chats_waiting") == "1");
    wait_until("both sessions have their turn", || {
        roles(&mut client, "b").len() == 1 && roles(&mut client, "a").len() == 1
    });
    server.open_latch();
    [one, two, other].into_iter().for_each(|pending| drop(pending.finish().unwrap()));
}

#[test]
fn a_turn_without_an_answer_stays_and_is_marked() {
    let server = Server::with_model("random-q8_0.gguf", &[]);
    let mut client = server.client();
    let late = client.ok("GEMMA.CHAT k s 'Hello' MAXTOKENS 2000 TIMEOUT 1 SEED 1");
    assert_eq!(late.field("finish_reason").text(), "timeout");
    assert!(late.field("answer").is_nil());
    let note = late.field("notes").texts().concat();
    assert!(note.contains(&late.field("turn").text()) && note.contains("marked unanswered"), "{note}");
    let turns = client.ok("MEM.SESSION HISTORY k s").items();
    assert_eq!((turns.len(), turns[0].field("tags").texts().join("")), (1, "unanswered".into()));
    assert_eq!(client.count_of("'\"unanswered\" in .tags'"), 1);
    // Cancelled.
    let pending = server.begin("GEMMA.CHAT k s 'Stop this' MAXTOKENS 2000 JOB j");
    wait_until("the turn is stored", || roles(&mut client, "s").len() == 2);
    client.ok("GEMMA.CANCEL j");
    let reply = pending.finish().unwrap();
    assert_eq!((reply.field("finish_reason").text(), reply.field("answer").is_nil()), ("cancelled".into(), true));
    // A message that the model's context does not hold fails, and the turn stays.
    let error = client.err_words(&words!["GEMMA.CHAT", "k", "s", "word ".repeat(5_000)]);
    assert!(error.contains("the budget of") && error.contains("marked unanswered"), "{error}");
    assert_eq!(client.count_of("'\"unanswered\" in .tags'"), 3);
    // The next chat goes on.
    client.ok("GEMMA.CHAT k s 'And now?' MAXTOKENS 5 SEED 3");
    assert_eq!(roles(&mut client, "s").last().unwrap(), "assistant");
}

#[test]
fn what_happens_to_the_session_while_it_is_answered() {
    let server = Server::with_model("random-q8_0.gguf", &["engram.threads 2"]);
    let mut client = server.client();
    // Deleted: no answer is stored, nothing comes back.
    server.close_latch();
    let pending = server.begin("GEMMA.CHAT k s 'Hello' MAXTOKENS 3 SEED 1");
    server.wait_held(1);
    client.ok("MEM.SESSION DEL k s");
    server.open_latch();
    let reply = pending.finish().unwrap();
    assert!(reply.field("answer").is_nil());
    assert!(reply.field("notes").texts().concat().contains("deleted while it was being answered"));
    assert!(client.ok("MEM.SESSION INFO k s").is_nil());
    // The whole space.
    server.close_latch();
    let pending = server.begin("GEMMA.CHAT k s 'Hello' MAXTOKENS 3 SEED 1");
    server.wait_held(1);
    client.ok("DEL k");
    server.open_latch();
    let reply = pending.finish().unwrap();
    assert!(reply.field("notes").texts().concat().contains("STALE"), "{reply:?}");
    assert_eq!(client.ok("EXISTS k").int(), 0);
    // Its time ends.
    client.ok("MEM.CONFIG SET k session.ttl 1");
    server.close_latch();
    let pending = server.begin("GEMMA.CHAT k s 'Hello' MAXTOKENS 3 SEED 1");
    server.wait_held(1);
    pause_ms(1_100);
    server.open_latch();
    let reply = pending.finish().unwrap();
    assert!(reply.field("notes").texts().concat().contains("begins anew with the answer"), "{reply:?}");
    assert_eq!(roles(&mut client, "s"), ["assistant"]);
}

#[test]
fn streams_jobs_and_bad_input() {
    let server = Server::with_model("random-q8_0.gguf", &[]);
    let mut client = server.client();
    let job = client.ok("GEMMA.CHAT k s 'Hello' MAXTOKENS 6 SEED 1 STREAM st JOB j NOWAIT").field("job").text();
    assert_eq!(job, "j");
    let reply = client.ok("GEMMA.RESULT j");
    let entries = client.ok("XRANGE st - +").items();
    let last = entries.last().unwrap().items()[1].texts();
    let at = |name: &str| last.iter().position(|field| field == name).map(|at| last[at + 1].clone());
    assert_eq!(at("answer").unwrap(), reply.field("answer").text(), "the stream's last entry has every field");
    // The same request under the same name attaches: nothing is stored twice.
    client.ok("GEMMA.CHAT k s 'Hello' MAXTOKENS 6 SEED 1 STREAM st JOB j");
    assert_eq!(roles(&mut client, "s").len(), 2);
    let before = client.digest("k");
    for (line, says) in [
        ("GEMMA.CHAT k s", "<message> is missing"),
        ("GEMMA.CHAT k '' hello", "SESSION has 0 bytes"),
        ("GEMMA.CHAT k s ''", "the content is empty"),
        ("GEMMA.CHAT k s hello MEMORY other", "unknown option"),
        ("GEMMA.CHAT k s hello MODEL none", "NOMODEL"),
        ("GEMMA.CHAT k s hello SCHEMA '{\"type\":\"string\",\"minLength\":2,\"maxLength\":1}'", "SCHEMA"),
        ("GEMMA.CHAT k s hello TEMPERATURE hot", "TEMPERATURE"),
    ] {
        let error = client.err(line);
        assert!(error.contains(says), "{line}: {error}");
    }
    let unanswered = client.count_of("'\"unanswered\" in .tags'");
    assert_eq!(unanswered, 1, "the schema is looked at when the turn stands");
    assert_ne!(client.digest("k"), before);
    client.ok("SET text x");
    assert!(client.err("GEMMA.CHAT text s hello JOB wrong").starts_with("WRONGTYPE"));
    assert!(client.err("GEMMA.RESULT wrong").contains("no such job"), "what was refused has left no job");
    client.ok("MULTI");
    client.ok("GEMMA.CHAT k s hello");
    let refused = format!("{:?}", client.ok("EXEC"));
    assert!(refused.contains("refused inside MULTI"), "{refused}");
}
