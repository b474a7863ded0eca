//! What counts tokens.

use std::sync::Arc;

use engram_inference::Embedder;
use engram_inference::gemma::Gemma;

use super::{embedder, encoder, gemma};

/// What counts tokens.
#[derive(Clone)]
pub enum Counter {
    /// The tokenizer of a language model, under its name, and the number of its load.
    Gemma(String, Arc<Gemma>, u64),
    /// That of the text encoder, and the number of its load.
    Encoder(Arc<Embedder>, u64),
    /// Characters by four.
    Estimate,
}

impl Counter {
    /// What counts now: the default language model's tokenizer, else the encoder's, else an estimate.
    pub fn current() -> Counter {
        match (gemma::gemma(None), embedder()) {
            (Ok((name, model)), _) => Counter::of(name, model),
            (Err(_), Ok(encoder)) => Counter::Encoder(encoder, encoder::load_number()),
            _ => Counter::Estimate,
        }
    }

    /// The tokenizer of this model.
    pub fn of(name: String, model: Arc<Gemma>) -> Counter {
        let number = gemma::load_number(&name);
        Counter::Gemma(name, model, number)
    }

    /// Its name, as replies show it.
    pub fn name(&self) -> String {
        match self {
            Counter::Gemma(name, ..) => name.clone(),
            Counter::Encoder(encoder, _) => encoder.name().to_owned(),
            Counter::Estimate => "estimated".to_owned(),
        }
    }

    /// Whether a text's tokens are those of its lines, each with the newlines that end it.
    pub fn lines_are_apart(&self) -> bool {
        match self {
            Counter::Gemma(_, gemma, _) => gemma.tokenizer().lines_are_apart(),
            Counter::Encoder(encoder, _) => encoder.lines_are_apart(),
            Counter::Estimate => false,
        }
    }

    /// A number that two of them share only if they count alike.
    pub fn identity(&self) -> u64 {
        match self {
            Counter::Gemma(_, _, number) => 2 * number + 2,
            Counter::Encoder(_, number) => 2 * number + 1,
            Counter::Estimate => 0,
        }
    }

    /// The tokens of a text.
    pub fn count(&self, text: &str) -> usize {
        match self {
            Counter::Gemma(_, gemma, _) => gemma.tokenizer().encode(text).len(),
            Counter::Encoder(encoder, _) => encoder.tokens(text).len(),
            Counter::Estimate => text.chars().count().div_ceil(4),
        }
    }
}
