//! Answers one prompt with a local model and prints the speed:
//! `cargo run --release -p engram-inference --example generate -- model.gguf "prompt" [tokens [temperature]]`

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engram_inference::gemma::{Gemma, LoadOptions, Progress, Role, Turn, Workspace};
use engram_inference::generation::{Generation, Step};
use engram_inference::sampler::Sampling;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, prompt, rest @ ..] = arguments.as_slice() else {
        return Err("usage: generate model.gguf \"prompt\" [tokens [temperature]]".into());
    };
    let mut sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    if let Some(tokens) = rest.first() {
        sampling.max_tokens = tokens.parse()?;
    }
    if let Some(temperature) = rest.get(1) {
        sampling.temperature = temperature.parse()?;
    }
    let started = Instant::now();
    let model = Arc::new(Gemma::load(Path::new(path), &LoadOptions::default(), &Progress::default())?);
    eprintln!(
        "{:#?}\nloaded in {:.2} s, kernels {}",
        model.info(),
        started.elapsed().as_secs_f64(),
        engram_inference::kernels::kernels().name
    );
    let ids = model.prompt(&[Turn { role: Role::User, text: prompt }])?;
    let mut work = Workspace::new(Arc::clone(&model))?;
    let mut generation = Generation::new(model, ids, sampling)?;
    let finish = loop {
        let step = generation.step(&mut work)?;
        print!("{}", generation.take_text());
        std::io::stdout().flush()?;
        if let Step::Done(finish) = step {
            break finish;
        }
    };
    println!();
    let (confidence, reason) = generation.confidence();
    eprintln!(
        "{} prompt tokens, {:.1}/s; {} tokens, {:.1}/s; finish {}; confidence {confidence:.2}: {reason}",
        generation.prompt_tokens(),
        generation.prompt_tokens_per_second().unwrap_or(0.0),
        generation.tokens(),
        generation.tokens_per_second().unwrap_or(0.0),
        finish.name(),
    );
    Ok(())
}
