//! The two paths of an answer: what confidence is worth, how long each path takes, and what a large model does not have to generate.
//!
//! Who is right is told by the small trained model, which copies facts; what a path costs, by random weights in the shapes of Gemma 3 270M and 1B.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engram_inference::gemma::{Gemma, LoadOptions, Progress};
use redis::{Connection, Value};

use crate::Outcome;
use crate::copy_questions::{Question, answered, auroc, hard, simple};
use crate::random_gemma;
use crate::report::{Report, Table, doing, median, number};
use crate::server::Server;

/// Tokens that an answer to a simple question may have.
const MAX_TOKENS: &str = "48";

/// What is asked for before an answer of the small trained model stands, and what else could be. It is sure of nearly all it says, as such models are: its right answers have 0.98 on average.
const BELOW: f64 = 0.95;
const LEVELS: [f64; 4] = [0.5, 0.9, BELOW, 0.98];

/// The three figures.
pub fn paths(report: &mut Report, quick: bool) -> Outcome<()> {
    confidence(report, quick)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let server = Server::engram(&[])?;
    server.wait_for_embedder()?;
    let c = &mut server.connect()?;
    for (name, shape, format) in [
        ("fast", &random_gemma::GEMMA_3_270M, &random_gemma::Q4_0),
        ("large", &random_gemma::GEMMA_3_1B, &random_gemma::Q8_0),
    ] {
        doing(&format!("a model of the shape of Gemma 3 {}, {}, random weights", shape.name, format.name));
        let file = random_gemma::cached(&root.join("../.cache/gemma"), shape, format)?;
        std::os::unix::fs::symlink(file.canonicalize()?, server.model_dir().join(format!("{name}.gguf")))?;
        redis::cmd("GEMMA.LOAD").arg(name).arg(format!("{name}.gguf")).query::<()>(c)?;
    }
    times_of_paths(report, c, quick)?;
    std::os::unix::fs::symlink(
        root.join("models/copy.gguf").canonicalize()?,
        server.model_dir().join("paths-copy.gguf"),
    )?;
    redis::cmd("GEMMA.LOAD").arg("copy").arg("paths-copy.gguf").query::<()>(c)?;
    savings(report, &server, c, quick)
}

/// Whether a right answer has a higher confidence than a wrong one.
fn confidence(report: &mut Report, quick: bool) -> Outcome<()> {
    doing("the confidence of answers to 200 hard questions");
    let copy = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/copy.gguf");
    let model = Arc::new(Gemma::load(&copy, &LoadOptions::default(), &Progress::default())?);
    let answers = answered(&model, &hard(if quick { 50 } else { 200 }))?;
    let mean = |right: bool| {
        let of: Vec<f64> = answers.iter().filter(|(_, is)| *is == right).map(|(confidence, _)| *confidence).collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    let (right, area) = (answers.iter().filter(|(_, right)| *right).count(), auroc(&answers));
    let mut table = Table::new(
        "confidence",
        "Confidence of answers that copy a memory (hard questions, the small trained model, greedy)",
        &["questions", "right", "mean confidence if right", "if wrong", "AUROC"],
    );
    table.row([
        number(answers.len() as f64, 0),
        number(right as f64, 0),
        number(mean(true), 3),
        number(mean(false), 3),
        number(area, 3),
    ]);
    report.table(table);
    report.target("confidence of right and wrong answers, AUROC", "≥ 0.7", format!("{area:.2}"), area >= 0.7);
    Ok(())
}

type Reply = Vec<(String, Value)>;

fn field<'a>(reply: &'a Reply, name: &str) -> Outcome<&'a Value> {
    Ok(&reply.iter().find(|(field, _)| field == name).ok_or("a field is missing in the reply")?.1)
}

/// An answer of 32 tokens, by either model.
fn times_of_paths(report: &mut Report, c: &mut Connection, quick: bool) -> Outcome<()> {
    doing("an answer of 32 tokens on either path");
    let question = "What is the name of the street in which the old library was?";
    let mut seconds = [Vec::new(), Vec::new()];
    for round in 0..if quick { 2 } else { 5 } {
        for (model, seconds) in ["fast", "large"].into_iter().zip(&mut seconds) {
            let began = Instant::now();
            let reply: Reply = redis::cmd("GEMMA.GENERATE")
                .arg(format!("{round}: {question}"))
                .arg(&["MODEL", model, "MAXTOKENS", "32", "TEMPERATURE", "0"])
                .query(c)?;
            let tokens: usize = redis::from_redis_value_ref(field(&reply, "tokens")?)?;
            // Random weights may end an answer: what counts is a token's time.
            seconds.push(began.elapsed().as_secs_f64() * 32.0 / tokens.max(1) as f64);
        }
    }
    let [fast, slow] = seconds.each_ref().map(|seconds| median(seconds));
    let mut table = Table::new("paths", "An answer of 32 tokens to a short question", &["path", "s"]);
    table.row(["fast: shape of Gemma 3 270M, Q4_0".into(), number(fast, 2)]);
    table.row(["slow: shape of Gemma 3 1B, Q8_0".into(), number(slow, 2)]);
    report.table(table);
    report.target(
        "32 tokens on the fast path, where the slow one takes 2 s",
        "≤ 0.3 s",
        format!("{fast:.2} s, {:.2} of {slow:.2} s", fast / slow),
        fast <= 0.3,
    );
    Ok(())
}

/// Of the tokens that the large model would generate as answers to simple questions, those that it does not have to with a fast path before it.
fn savings(report: &mut Report, server: &Server, c: &mut Connection, quick: bool) -> Outcome<()> {
    doing("simple questions on the fast path, and the large model behind it");
    let questions = simple(if quick { 20 } else { 100 });
    for (n, question) in questions.iter().enumerate() {
        for memory in &question.memories {
            redis::cmd("MEM.STORE").arg(format!("paths{n}")).arg(memory).query::<()>(c)?;
        }
    }
    redis::cmd("CONFIG")
        .arg(&["SET", "engram.fast-model", "copy", "engram.fallback-model", "large", "engram.fallback-below"])
        .arg(BELOW)
        .query::<()>(c)?;
    let mut fell = 0;
    for (n, question) in questions.iter().enumerate() {
        fell += usize::from(text(&ask(c, n, question, &[])?, "path")? != "fast");
    }
    let slow = server.number("engram_paths", "engram_slow_tokens")?;
    redis::cmd("CONFIG").arg(&["SET", "engram.fast-model", "", "engram.fallback-model", ""]).query::<()>(c)?;
    let mut small = Vec::new();
    for (n, question) in questions.iter().enumerate() {
        let reply = ask(c, n, question, &["MODEL", "copy"])?;
        small.push((text(&reply, "confidence")?.parse::<f64>()?, text(&reply, "text")?.contains(&question.expect)));
    }
    doing("the same questions, answered by the large model alone");
    let large = asked_at_once(server, &questions)?;
    let all: f64 = large.iter().sum();
    let mut table = Table::new(
        "savings",
        "Simple questions, the small trained model on the fast path, random weights in the shape of Gemma 3 1B behind it",
        &["BELOW", "answers that stand", "right", "tokens that the large model did not generate"],
    );
    for below in LEVELS {
        let stand = small.iter().zip(&large).filter(|((confidence, _), _)| *confidence >= below);
        let (mut stood, mut right, mut saved) = (0, 0, 0.0);
        for ((_, is_right), tokens) in stand {
            stood += 1;
            right += usize::from(*is_right);
            saved += tokens;
        }
        table.row([
            number(below, 2),
            number(f64::from(stood), 0),
            number(right as f64, 0),
            format!("{:.0} %", 100.0 * saved / all).into(),
        ]);
    }
    table.note(format!(
        "Of the {all:.0} tokens that it generates for all {} questions where there is no fast path. Random weights seldom end an answer before its limit of {MAX_TOKENS} tokens.",
        questions.len()
    ));
    report.table(table);
    let saved = 100.0 * (1.0 - slow / all);
    report.target(
        "simple questions' tokens that the large model did not generate",
        "≥ 90 %",
        format!("{saved:.0} %, {} of {} answers stood", questions.len() - fell, questions.len()),
        saved >= 90.0,
    );
    Ok(())
}

fn text(reply: &Reply, name: &str) -> Outcome<String> {
    Ok(redis::from_redis_value_ref(field(reply, name)?)?)
}

/// The greedy answer to a question, its memories at hand.
fn ask(c: &mut Connection, n: usize, question: &Question, how: &[&str]) -> Outcome<Reply> {
    Ok(redis::cmd("GEMMA.GENERATE")
        .arg(&question.text)
        .arg(&["MEMORY", &format!("paths{n}"), "TEMPERATURE", "0", "MAXTOKENS", MAX_TOKENS])
        .arg(how)
        .query(c)?)
}

/// The tokens of the large model's answer to each question, eight clients asking.
fn asked_at_once(server: &Server, questions: &[Question]) -> Outcome<Vec<f64>> {
    let connections = (0..8).map(|_| server.connect()).collect::<Outcome<Vec<Connection>>>()?;
    let share = questions.len().div_ceil(connections.len());
    let asked = std::thread::scope(|scope| {
        let clients: Vec<_> = connections
            .into_iter()
            .enumerate()
            .map(|(client, mut c)| {
                let mine = questions.iter().enumerate().skip(client * share).take(share);
                let tokens = move || -> Outcome<Vec<f64>> {
                    mine.map(|(n, question)| {
                        Ok(text(&ask(&mut c, n, question, &["MODEL", "large"])?, "tokens")?.parse()?)
                    })
                    .collect()
                };
                scope.spawn(move || tokens().map_err(|error| error.to_string()))
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|_| Err("a client panicked".to_owned())))
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok(asked.concat())
}
