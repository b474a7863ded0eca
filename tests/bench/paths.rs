//! The two paths of an answer: what confidence is worth, how long each path takes, and what a large model does not have to generate.
//!
//! Who is right is told by the small trained model, which copies facts; what a path costs, by random weights in the shapes of Gemma 3 270M and 1B.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engram_inference::gemma::{Gemma, LoadOptions, Progress};
use redis::{Connection, Value};

use crate::Outcome;
use crate::copy_questions::{answered, auroc, hard, simple};
use crate::random_gemma;
use crate::report::{Report, Table, doing, median, none, number};
use crate::server::Server;

/// What is asked for before an answer of the small trained model stands. It is sure of nearly all it says, as such models are: its right answers have 0.98 on average.
const BELOW: &str = "0.95";

/// The three figures.
pub fn paths(report: &mut Report, quick: bool) -> Outcome<()> {
    confidence(report, quick)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let server = Server::engram(&["--engram.fallback-below", BELOW])?;
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

/// Of the tokens of simple questions' answers, those that the large model did not have to generate.
fn savings(report: &mut Report, server: &Server, c: &mut Connection, quick: bool) -> Outcome<()> {
    doing("simple questions on the fast path, and the large model behind it");
    let questions = simple(if quick { 20 } else { 100 });
    redis::cmd("CONFIG").arg(&["SET", "engram.fast-model", "copy", "engram.fallback-model", "large"]).query::<()>(c)?;
    let (mut right, mut fast) = (0, 0);
    for (n, question) in questions.iter().enumerate() {
        let key = format!("paths{n}");
        for memory in &question.memories {
            redis::cmd("MEM.STORE").arg(&key).arg(memory).query::<()>(c)?;
        }
        let reply: Reply = redis::cmd("GEMMA.GENERATE")
            .arg(&question.text)
            .arg(&["MEMORY", &key, "TEMPERATURE", "0", "MAXTOKENS", "48"])
            .query(c)?;
        let text = |name: &str| -> Outcome<String> { Ok(redis::from_redis_value_ref(field(&reply, name)?)?) };
        if text("path")? == "fast" {
            fast += 1;
            right += usize::from(text("text")?.contains(&question.expect));
        }
    }
    let counted = |name: &str| server.number("engram_paths", &format!("engram_{name}"));
    let (saved, slow) = (counted("saved_tokens")?, counted("slow_tokens")?);
    let share = 100.0 * saved / (saved + slow);
    let mut table = Table::new(
        "savings",
        "Simple questions, the small trained model on the fast path, random weights in the shape of Gemma 3 1B behind it",
        &["what", "questions", "right", "tokens"],
    );
    table.row(["fast path".into(), number(f64::from(fast), 0), number(right as f64, 0), number(saved, 0)]);
    table.row(["slow path".into(), number((questions.len() as f64) - f64::from(fast), 0), none(), number(slow, 0)]);
    table.note(format!("The answer of the fast path stands from a confidence of {BELOW} on."));
    report.table(table);
    report.target(
        "simple questions' tokens that the large model did not generate",
        "≥ 90 %",
        format!("{share:.0} %"),
        share >= 90.0,
    );
    Ok(())
}
