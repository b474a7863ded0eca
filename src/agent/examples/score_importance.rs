//! How well the estimated importance of turns tells those that answer questions from the others.
//!
//! `cargo run --release -p engram-agent --example score_importance -- FILE [--show]`
//!
//! FILE has LoCoMo in the form described at the head of `tests/bench/quality.rs`: turns as lines with `"type": "memory"`, questions with `"type": "query"` and the turns that answer
//! them as `evidence`. Printed are the mean of both kinds, the area under the curve (how often a turn that answers has more than one that does not, ties half), the same
//! for the number of characters, and the share of turns from 0.7 on. `--show` lists those.

use engram_agent::{Role, importance};
use serde_json::Value;
use std::collections::HashSet;

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// How often a value of the first kind is above one of the second, ties half.
fn area(values: &[(bool, f64)]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (mut wins, mut below) = (0.0, 0.0);
    for alike in sorted.chunk_by(|a, b| a.1 == b.1) {
        let yes = alike.iter().filter(|(yes, _)| *yes).count() as f64;
        let no = alike.len() as f64 - yes;
        wins += yes * (below + no / 2.0);
        below += no;
    }
    let yes = values.iter().filter(|(yes, _)| *yes).count() as f64;
    wins / (yes * (values.len() as f64 - yes)).max(1.0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let show = arguments.iter().any(|argument| argument == "--show");
    for path in arguments.iter().filter(|argument| !argument.starts_with("--")) {
        let lines = std::fs::read_to_string(path)?;
        let lines = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let evidence: HashSet<(&str, &str)> = lines
            .iter()
            .filter(|line| text(line, "type") == "query")
            .flat_map(|query| {
                let turns = query.get("evidence").and_then(Value::as_array).into_iter().flatten();
                turns.filter_map(|turn| Some((text(query, "conv"), turn.as_str()?)))
            })
            .collect();
        let (mut worth, mut length) = (Vec::new(), Vec::new());
        for turn in lines.iter().filter(|line| text(line, "type") == "memory") {
            let answers = evidence.contains(&(text(turn, "conv"), text(turn, "id")));
            let said = text(turn, "text");
            let estimated = importance(said, "message", Some(Role::User));
            if show && estimated >= 0.7 {
                println!("{estimated:.2} {} {said}", if answers { '+' } else { '-' });
            }
            worth.push((answers, estimated));
            length.push((answers, said.chars().count() as f64));
        }
        let mean = |wanted: bool| {
            let of: Vec<f64> =
                worth.iter().filter(|(answers, _)| *answers == wanted).map(|(_, worth)| *worth).collect();
            (of.len(), of.iter().sum::<f64>() / of.len().max(1) as f64)
        };
        let ((yes, mean_yes), (no, mean_no)) = (mean(true), mean(false));
        println!("{yes} turns that answer: mean {mean_yes:.3}; {no} others: mean {mean_no:.3}");
        println!("area under the curve: importance {:.3}, characters {:.3}", area(&worth), area(&length));
        let high = |wanted: bool| worth.iter().filter(|(yes, worth)| *yes == wanted && *worth >= 0.7).count();
        println!("from 0.7 on: {} of those that answer, {} of the others", high(true), high(false));
    }
    Ok(())
}
