//! Generation with a model of a real shape, and what other clients feel of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engram_inference::gemma::{BATCH, Gemma, LoadOptions, Part, Progress, Role, Sequence, Turn, Workspace};
use engram_inference::generation::{Generation, Step};
use engram_inference::packed::FEW;
use engram_inference::sampler::Sampling;
use engram_inference::team::Lead;
use redis::{Connection, Value};

use crate::Outcome;
use crate::measure::pings;
use crate::paths;
use crate::random_gemma;
use crate::report::{Report, Table, doing, median, ms, none, number, percentile, times};
use crate::server::Server;
use crate::texts;
use crate::wire::{command, saturate};

/// Speed of prompt and answer, and PING beside two generations.
pub fn generation(report: &mut Report, quick: bool) -> Outcome<()> {
    let server = Server::plain()?;
    let c = &mut server.connect()?;
    // Speed depends on shapes, not on what the weights know: random ones in the real shape of Gemma 3 270M, with a small vocabulary's text.
    doing("writing a model of the shape of Gemma 3 270M, Q8_0, random weights");
    let file = server.model_dir().join("bench-270m-q8_0.gguf");
    random_gemma::write(&file, &random_gemma::GEMMA_3_270M, &random_gemma::Q8_0)?;
    redis::cmd("GEMMA.LOAD").arg("bench").arg("bench-270m-q8_0.gguf").query::<()>(c)?;
    let prompt = texts::sentences(if quick { 8 } else { 40 }).join(" ");
    let tokens = if quick { 16 } else { 128 };
    let generate = |c: &mut Connection, seed: usize| -> Outcome<Vec<(String, Value)>> {
        let mut cmd = redis::cmd("GEMMA.GENERATE");
        // Another beginning each time, so that all of it is read.
        cmd.arg(format!("{seed}: {prompt}")).arg("MAXTOKENS").arg(tokens).arg("SEED").arg(seed);
        let reply: Vec<(String, Value)> = cmd.query(c)?;
        Ok(reply)
    };
    let figure = |reply: &[(String, Value)], field: &str| -> Outcome<f64> {
        let (_, value) = reply.iter().find(|(name, _)| name == field).ok_or("a field is missing in the reply")?;
        Ok(redis::from_redis_value_ref(value)?)
    };
    let (mut decode, mut prefill) = (Vec::new(), Vec::new());
    for seed in 0..if quick { 1 } else { 5 } {
        let reply = generate(c, seed)?;
        decode.push(figure(&reply, "tokens_per_second")?);
        prefill.push(figure(&reply, "prompt_tokens_per_second")?);
    }
    let mut table = Table::new(
        "generation",
        "Generation, shape of Gemma 3 270M Q8_0, one thread",
        &["what", "tokens/s", "p50 ms", "p99.9 ms"],
    );
    table.row(["GEMMA.GENERATE: prompt".into(), number(median(&prefill), 1), none(), none()]);
    table.row(["GEMMA.GENERATE: answer".into(), number(median(&decode), 1), none(), none()]);
    doing("PING while two generations run");
    let quiet = pings(c, Duration::from_secs(if quick { 1 } else { 5 }), || false)?;
    let busy = std::thread::scope(|scope| -> Outcome<Vec<f64>> {
        let workers: Vec<_> = (0..2)
            .map(|seed| {
                let mut c = server.connect()?;
                Ok(scope.spawn(move || generate(&mut c, 100 + seed).map(drop).map_err(|e| e.to_string())))
            })
            .collect::<Outcome<_>>()?;
        let busy = pings(c, Duration::from_secs(120), || workers.iter().all(|w| w.is_finished()))?;
        for worker in workers {
            worker.join().map_err(|_| "a generation panicked")??;
        }
        Ok(busy)
    })?;
    for (name, mut times) in [("PING, idle server", quiet), ("PING while two generations run", busy)] {
        let (p50, p999) = (percentile(&mut times, 0.5), percentile(&mut times, 0.999));
        table.row([name.into(), none(), ms(p50), ms(p999)]);
    }
    report.table(table);
    second_turn(report, c, quick)?;
    beside_traffic(report, &server, quick)?;
    quoting(report, quick)?;
    paths::paths(report, quick)
}

/// A reply of GEMMA.GENERATE with these options.
fn generated(c: &mut Connection, prompt: &str, options: &[&str]) -> Outcome<Vec<(String, Value)>> {
    let mut cmd = redis::cmd("GEMMA.GENERATE");
    cmd.arg(prompt).arg(options);
    Ok(cmd.query(c)?)
}

fn field(reply: &[(String, Value)], name: &str) -> Outcome<f64> {
    let (_, value) = reply.iter().find(|(field, _)| field == name).ok_or("a field is missing in the reply")?;
    Ok(redis::from_redis_value_ref(value)?)
}

/// Time to the first token of a prompt of some 2,000 tokens, and of the same prompt with a short turn behind it.
fn second_turn(report: &mut Report, c: &mut Connection, quick: bool) -> Outcome<()> {
    doing("the second turn of a conversation of 2,000 tokens");
    let mut table = Table::new(
        "second-turn",
        "Time to the first token: a prompt, and the same with one more turn",
        &["what", "tokens", "tokens kept from before", "ms"],
    );
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut shown = [[0.0; 2]; 2];
    for round in 0..if quick { 1 } else { 5 } {
        // Another beginning each time: nothing of it is known. The vocabulary of the file has a piece for nearly every letter.
        let mut text = format!("Conversation {round}. ");
        let sentences = texts::sentences(2_000);
        let mut next = sentences.iter().skip(round * 7);
        while text.len() < 2_000 {
            text.push_str(next.next().ok_or("too few sentences")?);
            text.push(' ');
        }
        for (turn, times) in [&mut first, &mut second].into_iter().enumerate() {
            if turn == 1 {
                text.push_str("And what did she say about it then?");
            }
            let began = Instant::now();
            let reply = generated(c, &text, &["MAXTOKENS", "1", "RAW"])?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
            shown[turn] = [field(&reply, "prompt_tokens")?, field(&reply, "reused_tokens")?];
        }
    }
    let (one, two) = (median(&first), median(&second));
    for (name, [tokens, kept], time) in [("first turn", shown[0], one), ("second turn", shown[1], two)] {
        table.row([name.into(), number(tokens, 0), number(kept, 0), ms(time)]);
    }
    report.table(table);
    let aim = "≤ 0.1 ×";
    report.target(
        "first token of a second turn, of that of the first",
        aim,
        format!("{:.3} ×", two / one),
        two <= one / 10.0,
    );
    Ok(())
}

/// What is done until it is told that the traffic is over, and what it saw.
type Work<'a> = dyn FnMut(&dyn Fn() -> bool) -> Outcome<Vec<f64>> + 'a;

/// The answer's speed while a client keeps the server's own thread busy, and PING beside a server without the module.
fn beside_traffic(report: &mut Report, server: &Server, quick: bool) -> Outcome<()> {
    doing("generation while the server's thread is kept busy");
    let time = Duration::from_secs(if quick { 2 } else { 10 });
    let options = ["MAXTOKENS", if quick { "64" } else { "512" }, "SEED", "5"];
    let prompt = "Tell me about the ladder.";
    let speed = |c: &mut Connection| -> Outcome<f64> {
        let reply = generated(c, prompt, &options)?;
        field(&reply, "tokens_per_second")
    };
    let c = &mut server.connect()?;
    let commands = [command(&["SET", "key", "value"]), command(&["GET", "key"])];
    let bare = Server::bare()?;
    // One client with one command under way at a time, as fast as it is answered.
    let under = |port: u16, work: &mut Work<'_>| -> Outcome<Vec<f64>> {
        std::thread::scope(|scope| {
            let traffic = scope.spawn(|| saturate(port, &commands, 1, time).map_err(|e| e.to_string()));
            let seen = work(&|| traffic.is_finished());
            traffic.join().map_err(|_| "the traffic panicked")??;
            seen
        })
    };
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..if quick { 1 } else { 3 } {
        alone.push(speed(c)?);
        beside.extend(under(server.port, &mut |over| {
            let mut seen = Vec::new();
            while !over() {
                seen.push(speed(c)?);
            }
            Ok(seen)
        })?);
    }
    let mut plain = under(bare.port, &mut |over| pings(&mut bare.connect()?, time, over))?;
    let mut generating = std::thread::scope(|scope| -> Outcome<Vec<f64>> {
        let mut other = server.connect()?;
        let answer = scope.spawn(move || speed(&mut other).map_err(|e| e.to_string()));
        let seen = under(server.port, &mut |over| pings(c, time, over))?;
        answer.join().map_err(|_| "a generation panicked")??;
        Ok(seen)
    })?;
    let (quiet, busy) = (median(&alone), median(&beside));
    let mut table = Table::new(
        "busy-core",
        "Generation and SET/GET traffic of one client on the other core",
        &["what", "tokens/s", "p50 ms", "p99.9 ms"],
    );
    table.row(["answer, server idle".into(), number(quiet, 1), none(), none()]);
    table.row(["answer, beside the traffic".into(), number(busy, 1), none(), none()]);
    let with = percentile(&mut generating, 0.999);
    for (name, times) in
        [("PING beside it, no module", &mut plain), ("PING beside it, module, generating", &mut generating)]
    {
        table.row([name.into(), none(), ms(percentile(times, 0.5)), ms(percentile(times, 0.999))]);
    }
    report.table(table);
    report.target(
        "speed of an answer beside traffic, of that alone",
        "≥ 80 %",
        format!("{:.0} %", 100.0 * busy / quiet),
        busy >= 0.8 * quiet,
    );
    report.target("PING p99.9 beside both", "≤ 2 ms", format!("{:.2} ms", with / 1e3), with <= 2e3);
    Ok(())
}

/// Answers that quote a memory, by the small trained model: tokens guessed ahead, and the time beside one token at a time.
fn quoting(report: &mut Report, quick: bool) -> Outcome<()> {
    doing("answers that quote their context");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(root.join("golden/copy_facts.json"))?)?;
    let facts = facts.as_array().ok_or("copy_facts.json is no list")?;
    let load = |path: &std::path::Path| -> Outcome<Arc<Gemma>> {
        Ok(Arc::new(Gemma::load(path, &LoadOptions::default(), &Progress::default())?))
    };
    let copy = load(&root.join("models/copy.gguf"))?;
    let large =
        load(&random_gemma::cached(&root.join("../.cache/gemma"), &random_gemma::GEMMA_3_270M, &random_gemma::Q8_0)?)?;
    let (mut small_work, mut large_work) = (Workspace::new(Arc::clone(&copy))?, Workspace::new(Arc::clone(&large))?);
    let (mut tokens, mut guessed, mut right) = (0, 0, 0);
    let mut steps = Vec::new();
    for fact in facts.iter().take(if quick { 2 } else { 10 }) {
        let text = |key: &str| fact[key].as_str().unwrap_or_default();
        let others = fact["distractors"].as_array().into_iter().flatten().filter_map(|d| d.as_str());
        let memories: String = std::iter::once(text("fact")).chain(others).map(|m| format!("- {m}\n")).collect();
        let user = format!("Memories:\n{memories}\n{}", text("question"));
        let prompt = copy.prompt(&[Turn { role: Role::User, text: &user }])?;
        let sampling = Sampling { temperature: 0.0, max_tokens: 128, ..Sampling::default() };
        let mut answer = Generation::new(Arc::clone(&copy), prompt, sampling)?;
        let mut done = false;
        while !done {
            let (reading, before) = (answer.is_reading(), answer.tokens());
            let part = answer.part(if reading { BATCH } else { FEW });
            let rows = part.tokens.len();
            small_work.append(&mut [part], &Lead::alone(), &|| {})?;
            done = answer.appended(&mut small_work, 0, &Lead::alone(), Duration::ZERO)? != Step::Running;
            if !reading {
                steps.push((rows, answer.tokens() - before));
            }
        }
        tokens += answer.tokens();
        (guessed, right) = (guessed + answer.guesses().0, right + answer.guesses().1);
    }
    // The same steps with the weights of a real shape: so many rows, so many tokens won.
    let mut cost = [0.0; FEW + 1];
    for (rows, cost) in cost.iter_mut().enumerate().skip(1) {
        let mut times = Vec::new();
        let mut sequence = Sequence::new(Arc::clone(&large), 2_048)?;
        let text: Vec<u32> = (0..rows as u32).map(|i| 1_000 + i).collect();
        for _ in 0..if quick { 5 } else { 40 } {
            let began = Instant::now();
            large_work.append(
                &mut [Part { sequence: &mut sequence, tokens: &text, logits: rows, exact: false }],
                &Lead::alone(),
                &|| {},
            )?;
            for row in 0..rows {
                large_work.of_row(row, &Lead::alone()).reach(1, [], None);
            }
            times.push(began.elapsed().as_secs_f64());
        }
        *cost = median(&times);
    }
    let ahead: f64 = steps.iter().map(|(rows, _)| cost[*rows]).sum();
    let plain: f64 = steps.iter().map(|(_, won)| *won as f64 * cost[1]).sum();
    let mut table = Table::new(
        "quoting",
        "Answers that quote a memory (ten held-out facts, the small trained model)",
        &["tokens", "guessed", "right", "steps", "speed with guessing, shape of 270M Q8_0"],
    );
    table.row([
        number(tokens as f64, 0),
        number(guessed as f64, 0),
        number(right as f64, 0),
        number(steps.len() as f64, 0),
        times(plain / ahead),
    ]);
    table.note("The small model says which guesses are right; what a step of so many rows costs is measured with random weights of the real shape.");
    report.table(table);
    report.target(
        "an answer that quotes its context, beside one token at a time",
        "≥ 1.4 ×",
        format!("{:.2} ×", plain / ahead),
        plain >= 1.4 * ahead,
    );
    Ok(())
}
