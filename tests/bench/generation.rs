//! Generation with a model of a real shape, and what other clients feel of it.

use std::time::Duration;

use redis::{Connection, Value};

use crate::Outcome;
use crate::measure::pings;
use crate::random_gemma;
use crate::report::{Report, Table, doing, median, ms, none, number, percentile};
use crate::server::Server;
use crate::texts;

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
        cmd.arg(&prompt).arg("MAXTOKENS").arg(tokens).arg("SEED").arg(seed);
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
    Ok(())
}
