//! Answers that are JSON, and JSON that satisfies a schema, whatever the model would rather say.
//!
//! Before each token a [`Constraint`] gives the sampler the set of pieces after which the text can still become valid, so the sampler's settings mean what
//! they always mean, among those. Three parts do it: [`schema`] normalises a JSON Schema into alternatives by type, [`machine`] follows the text through
//! them byte by byte, and [`pieces`] runs a vocabulary past the machine.
//!
//! The text is always whole. The machine knows a short completion of every state, so an answer that would not fit into the tokens that are left is steered:
//! a token after which the completion would no longer fit is taken back, and once only the completion fits, it is what is written. A schema whose short
//! text does not fit from the beginning is refused.
//!
//! What is written is a subset of what the schema allows, chosen so that it can be checked in one pass and reads well: one space may follow a comma or a
//! colon, and no other white space; members come in the order of `properties`, members of other names last and only where `additionalProperties` says so
//! or nothing is declared; numbers have at most 15 digits and no exponent; levels end at 32.
//!
//! Rejected: the crate llguidance. It is fast and knows more keywords; but what its interface gives is the set of pieces that may come next, and at a limit of
//! tokens it stops: there is no shortest completion to end a text by, so one that runs out of tokens would be cut. And it brings a regular-expression engine and an
//! Earley parser, where JSON needs a stack.

mod machine;
mod number;
mod pieces;
mod schema;

use std::sync::Arc;

pub use machine::DEEPEST;
use machine::{Machine, Thread};
pub use pieces::Pieces;
use pieces::Walk;
pub use schema::{ACCEPTED, ANNOTATIONS};

use crate::Error;
use crate::gemma::Logits;
use crate::sampler::{Choice, Sampler, Sampling};
use crate::tokenizer::Tokenizer;

/// Bytes of a schema.
pub const LONGEST_SCHEMA: usize = 64 << 10;
/// Tokens that are tried before the short completion is written, when few are left.
const ATTEMPTS: usize = 4;

/// What texts must be: compiled once, shared by any number of generations.
pub struct Grammar {
    machine: Machine,
}

impl Grammar {
    /// Any JSON object or array.
    pub fn json() -> Result<Grammar, Error> {
        Ok(Grammar { machine: Machine::new(&schema::anything()?)? })
    }

    /// What satisfies this JSON Schema. The error says where it is broken, contradictory, or uses a keyword that is not supported.
    pub fn schema(text: &str) -> Result<Grammar, Error> {
        if text.len() > LONGEST_SCHEMA {
            return Err(Error::new(format!(
                "the schema has {} bytes; at most {LONGEST_SCHEMA} are accepted",
                text.len()
            )));
        }
        let value = serde_json::from_str(text).map_err(|e| Error::new(format!("the schema is not JSON: {e}")))?;
        Ok(Grammar { machine: Machine::new(&schema::read(&value)?)? })
    }
}

/// One answer under a grammar.
pub(crate) struct Constraint {
    grammar: Arc<Grammar>,
    pieces: Arc<Pieces>,
    threads: Vec<Thread>,
    next: Vec<Thread>,
    set: Vec<u32>,
    walk: Walk,
    /// A short completion of the text so far.
    completion: Vec<u8>,
    /// The rest of what is written because nothing else fits, last token first.
    closing: Option<Vec<u32>>,
    steered: bool,
}

impl Constraint {
    /// An answer of at most `tokens` tokens.
    pub(crate) fn new(grammar: Arc<Grammar>, pieces: Arc<Pieces>, tokens: usize) -> Result<Constraint, Error> {
        let threads = vec![grammar.machine.start()];
        let mut completion = Vec::new();
        grammar.machine.finish(&threads[0], &mut completion);
        if completion.len() > tokens {
            let needed = pieces.spell(&completion).len();
            if needed > tokens {
                return Err(Error::new(format!(
                    "the shortest answer that the schema allows takes {needed} tokens, and there is room for {tokens}"
                )));
            }
        }
        Ok(Constraint {
            set: vec![0; pieces.words()],
            grammar,
            pieces,
            threads,
            next: Vec::new(),
            walk: Walk::default(),
            completion,
            closing: None,
            steered: false,
        })
    }

    /// The next token, with `left` tokens left including this one. It may be one that ends the answer.
    pub(crate) fn choose(
        &mut self,
        tokenizer: &Tokenizer,
        sampler: &mut Sampler,
        logits: &mut Logits<'_>,
        history: &[u32],
        sampling: &Sampling,
        left: usize,
    ) -> Result<Choice, Error> {
        if self.closing.is_none() {
            self.allowed();
            // A completion has at most as many tokens as bytes.
            let fits = |bytes: &[u8], pieces: &Pieces| bytes.len() < left || pieces.spell(bytes).len() < left;
            let attempts = if fits(&self.completion, &self.pieces) { ATTEMPTS } else { 0 };
            for _ in 0..attempts {
                let choice = sampler.choose_of(logits, history, sampling, Some(&self.set));
                if self.pieces.ends().contains(&choice.token) {
                    return Ok(choice);
                }
                if !self.follow(tokenizer, choice.token) {
                    break;
                }
                let mut completion = Vec::new();
                self.finish(&self.next, &mut completion);
                if fits(&completion, &self.pieces) {
                    self.completion = completion;
                    std::mem::swap(&mut self.threads, &mut self.next);
                    return Ok(choice);
                }
                self.steered = true;
                if let Some(word) = self.set.get_mut(choice.token as usize / 32) {
                    *word &= !(1 << (choice.token % 32));
                }
            }
            let mut tokens = self.pieces.spell(&self.completion);
            tokens.reverse();
            self.steered |= !tokens.is_empty();
            self.closing = Some(tokens);
        }
        let next = self.closing.as_mut().and_then(Vec::pop);
        let token = next.or_else(|| self.pieces.ends().first().copied());
        let token = token.filter(|&token| next.is_none() || self.follow(tokenizer, token));
        let Some(token) = token else { return Err(Error::new("no token of the vocabulary may follow")) };
        if next.is_some() {
            std::mem::swap(&mut self.threads, &mut self.next);
        }
        self.set.fill(0);
        if let Some(word) = self.set.get_mut(token as usize / 32) {
            *word |= 1 << (token % 32);
        }
        Ok(sampler.choose_of(logits, history, sampling, Some(&self.set)))
    }

    /// Sets the pieces that may follow.
    fn allowed(&mut self) {
        self.pieces.allowed(&self.grammar.machine, &self.threads, &mut self.walk, &mut self.set);
        if self.complete() {
            for &token in self.pieces.ends() {
                if let Some(word) = self.set.get_mut(token as usize / 32) {
                    *word |= 1 << (token % 32);
                }
            }
        }
    }

    /// The readings after a token, in `next`; false if there are none.
    fn follow(&mut self, tokenizer: &Tokenizer, token: u32) -> bool {
        let mut threads = self.threads.clone();
        for byte in tokenizer.written(token).unwrap_or_default() {
            self.grammar.machine.step(&threads, byte, &mut self.next);
            std::mem::swap(&mut threads, &mut self.next);
        }
        self.next = threads;
        !self.next.is_empty()
    }

    /// The shortest of the completions of these readings.
    fn finish(&self, threads: &[Thread], out: &mut Vec<u8>) {
        for (i, thread) in threads.iter().enumerate() {
            let mut other = Vec::new();
            self.grammar.machine.finish(thread, &mut other);
            if i == 0 || other.len() < out.len() {
                *out = other;
            }
        }
    }

    /// Whether the text so far is valid.
    fn complete(&self) -> bool {
        self.threads.iter().any(|thread| self.grammar.machine.complete(thread))
    }

    /// Whether the text is valid and nothing more will follow.
    pub(crate) fn ended(&self) -> bool {
        self.threads.iter().all(Machine::ended) || self.closing.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether it was made to end because the tokens would not have been enough.
    pub(crate) fn steered(&self) -> bool {
        self.steered
    }
}

#[cfg(test)]
mod tests;
