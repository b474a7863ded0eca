//! A summary of turns in the making, on the pool: sentences taken from them, or text that a language model writes.
//!
//! [`Summing::advance`] takes one step at a time, of a sentence's embedding at most. Where a model is to write, it gives the [`Question`] and waits for
//! [`Summing::written`]; if the model cannot (not loaded, its context too small, its text too long or empty), sentences are taken after all, and [`Summing::notes`] say why.

use std::sync::Arc;

use engram_agent::{Candidates, Parts, Turn, assemble, sentences};
use engram_inference::gemma::{Role, Turn as Spoken};
use engram_inference::generation::{Finish, Generation};
use engram_inference::sampler::Sampling;
use engram_memory::{Entry, Language};

use crate::ask::Question;
use crate::commands::context::counted;
use crate::models::{self, Counter, Embedding, Text};
use crate::reply::Error;

/// Of a model's context what there is to sum up may take so many tenths.
const PROMPT_TENTHS: usize = 7;

/// What is to be summed up.
pub struct Source {
    /// The summary so far.
    pub previous: Option<String>,
    /// The turns that come behind it, in the order of time.
    pub turns: Vec<Arc<Entry>>,
    /// Tokens of the summary, at most.
    pub budget: usize,
    /// The language of the words.
    pub language: Language,
    /// The model that writes; None = sentences are taken.
    pub model: Option<String>,
    /// What the model is told.
    pub instruction: &'static str,
}

/// A summary in the making.
pub struct Summing {
    /// What it is made of.
    pub source: Source,
    /// Why it is not as it was asked for.
    pub notes: Vec<String>,
    counter: Counter,
    phase: Phase,
}

enum Phase {
    Begin,
    /// A model has written, or why it has not.
    Written(Result<(String, Finish), Error>, String),
    /// Sentences are embedded.
    Embed {
        candidates: Candidates,
        vectors: Vec<Vec<f32>>,
        current: Option<Embedding>,
    },
    /// Sentences are chosen, by their vectors if there are any.
    Choose {
        candidates: Candidates,
        vectors: Option<Vec<Vec<f32>>>,
    },
}

/// What a step came to.
pub enum Progress {
    /// There is more to do.
    More,
    /// A model of this name is to be asked.
    Ask(String, Box<Question>),
    /// The summary, its tokens, and the model that wrote it.
    Text(String, u32, Option<String>),
}

impl Summing {
    /// Begins.
    pub fn new(source: Source) -> Summing {
        Summing { source, notes: Vec::new(), counter: Counter::current(), phase: Phase::Begin }
    }

    /// What came of the question to a model.
    pub fn written(&mut self, result: Result<(String, Finish), Error>, model: String) {
        self.phase = Phase::Written(result, model);
    }

    /// One step.
    pub fn advance(&mut self) -> Progress {
        let source = &self.source;
        let counter = self.counter.clone();
        let count = |text: &str| counted(&counter, text);
        let turns: Vec<Turn> = source.turns.iter().map(|turn| Turn::of(turn)).collect();
        let previous = source.previous.as_deref();
        match std::mem::replace(&mut self.phase, Phase::Begin) {
            Phase::Begin => {
                if let Some(name) = &source.model {
                    match question(name, source) {
                        Ok(question) => return Progress::Ask(name.clone(), Box::new(question)),
                        Err(why) => self.notes.push(format!("sentences were taken from the turns: {}", why.message)),
                    }
                }
                self.phase =
                    Phase::Embed { candidates: Candidates::new(previous, &turns), vectors: Vec::new(), current: None };
            }
            Phase::Written(result, name) => {
                let why = match result {
                    Ok((text, finish)) => match whole(&text, finish, source.budget, &count) {
                        Some(text) => return self.text(text, Some(name)),
                        None => format!("{name} wrote nothing that fits"),
                    },
                    Err(error) => error.message,
                };
                let candidates = Candidates::new(previous, &turns);
                self.notes.push(format!("sentences were taken from the turns: {why}"));
                self.phase = Phase::Embed { candidates, vectors: Vec::new(), current: None };
            }
            Phase::Embed { candidates, mut vectors, mut current } => {
                let embedding = match current.as_mut() {
                    Some(embedding) => embedding,
                    None => {
                        let Some(text) = candidates.texts().nth(vectors.len()) else {
                            self.phase = Phase::Choose { candidates, vectors: Some(vectors) };
                            return Progress::More;
                        };
                        current.insert(Embedding::of(Text::document(text)))
                    }
                };
                match embedding.step() {
                    Ok(None) => {}
                    Ok(Some((_, embedded))) => {
                        vectors.push(embedded.windows.first().cloned().unwrap_or_default());
                        current = None;
                    }
                    // By words, then.
                    Err(_) => {
                        self.phase = Phase::Choose { candidates, vectors: None };
                        return Progress::More;
                    }
                }
                self.phase = Phase::Embed { candidates, vectors, current };
            }
            Phase::Choose { candidates, vectors } => {
                let text = candidates.select(vectors.as_deref(), source.language, source.budget, &count);
                return self.text(text, None);
            }
        }
        Progress::More
    }

    fn text(&self, text: String, model: Option<String>) -> Progress {
        let tokens = u32::try_from(self.counter.count(&text)).unwrap_or(u32::MAX);
        Progress::Text(text, tokens, model)
    }
}

/// The question to a model; what was said is data in its prompt, as in any other.
pub fn question(name: &str, source: &Source) -> Result<Question, Error> {
    let turns: Vec<Turn> = source.turns.iter().map(|turn| Turn::of(turn)).collect();
    let turns = turns.as_slice();
    let engine = models::engine(name)?;
    let gemma = engine.model().clone();
    let counter = Counter::of(name.to_owned(), gemma.clone());
    let room = gemma.info().context * PROMPT_TENTHS / 10;
    let parts =
        Parts { system: Some(source.instruction), summary: source.previous.as_deref(), turns, ..Parts::default() };
    let context = assemble(&parts, room, &|text| counted(&counter, text))?;
    if !context.dropped.is_empty() {
        return Err(Error::err(format!(
            "the context of {name} does not hold the summary so far and {} turns",
            turns.len()
        )));
    }
    let text = context.text();
    let prompt = gemma.prompt(&[Spoken { role: Role::User, text: &text }]).map_err(|e| Error::err(e.to_string()))?;
    let sampling = Sampling {
        max_tokens: source.budget.min(gemma.info().context.saturating_sub(prompt.len())).max(1),
        temperature: 0.0,
        ..Sampling::default()
    };
    let generation = Generation::new(gemma, prompt, sampling).map_err(|e| Error::err(e.to_string()))?;
    Ok(Question { engine, generation })
}

/// What a model wrote, if it can stand: up to its last whole sentence where it ran out of tokens.
pub fn whole(text: &str, finish: Finish, budget: usize, count: &dyn Fn(&str) -> usize) -> Option<String> {
    let text = text.trim();
    let whole = match finish {
        Finish::Length => {
            let sentences = sentences(text);
            let last = sentences.len().checked_sub(2).and_then(|last| sentences.get(last))?;
            text.get(..last.end)?
        }
        _ => text,
    };
    (!whole.trim().is_empty() && count(whole) <= budget).then(|| whole.trim().to_owned())
}
