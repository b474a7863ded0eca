//! One answer: a prompt read in chunks, then token after token, one step at a time.
//!
//! Whoever drives a [`Generation`] decides when its next step runs, so any number of them share threads fairly ([`crate::pool`])
//! and one can be dropped between any two steps. Text comes out as soon as it is certain: whole characters, and nothing that
//! may turn out to be the beginning of a stop string.

mod lookup;
mod text;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Error;
use crate::constraint::{Constraint, Grammar};
use crate::gemma::{BATCH, Gemma, KvCache, Logits, Part, Sequence, Workspace};
use crate::sampler::{Sampler, Sampling};
use crate::team::Lead;
use lookup::Lookup;
use text::Text;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn.
    Stop,
    /// A stop string was about to appear.
    StopString,
    /// The most tokens, or the end of the context, was reached.
    Length,
}

impl Finish {
    /// `stop`, `stop_string` or `length`.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::StopString => "stop_string",
            Finish::Length => "length",
        }
    }
}

/// What a step left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to do.
    Running,
    /// The answer is complete; further steps change nothing.
    Done(Finish),
}

/// Time spent inside the steps of a generation, not waiting between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Reading the prompt and choosing the first token.
    pub prefill: Duration,
    /// All tokens after the first.
    pub decode: Duration,
}

/// How likely a token of an answer was, in the model's own eyes: before any setting of the sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored<'a> {
    /// The token.
    pub token: u32,
    /// The natural logarithm of its probability.
    pub log_probability: f64,
    /// The tokens that were likeliest in its place, the likeliest first, with theirs.
    pub likeliest: &'a [(u32, f64)],
}

/// An answer in the making.
pub struct Generation {
    model: Arc<Gemma>,
    sequence: Sequence,
    sampling: Sampling,
    sampler: Sampler,
    prompt: Vec<u32>,
    read: usize,
    /// Tokens of the prompt whose keys and values were there.
    reused: usize,
    generated: Vec<u32>,
    /// The last token, and what may come behind it.
    pending: Vec<u32>,
    /// None where nothing is guessed.
    lookup: Option<Lookup>,
    /// Tokens that were guessed, and how many of them were chosen.
    guesses: (usize, usize),
    /// The tokens of the answer, without those of thoughts, and the logarithms of the probabilities that the model gave them.
    said: Vec<u32>,
    log_probabilities: Vec<f64>,
    /// For each of them the likeliest tokens, as many as the sampling asks for or the vocabulary has.
    likeliest: Vec<(u32, f64)>,
    text: Text,
    constraint: Option<Constraint>,
    timings: Timings,
    finish: Option<Finish>,
}

impl Generation {
    /// Prepares an answer to `prompt`, which must have at least one token and leave room for one more in the context.
    pub fn new(model: Arc<Gemma>, prompt: Vec<u32>, sampling: Sampling) -> Result<Generation, Error> {
        Generation::constrained(model, prompt, sampling, None)
    }

    /// The same with a grammar that the text will satisfy, which excludes stop strings. Refused where the shortest text of the grammar takes more tokens
    /// than there is room for.
    pub fn constrained(
        model: Arc<Gemma>,
        prompt: Vec<u32>,
        sampling: Sampling,
        grammar: Option<Arc<Grammar>>,
    ) -> Result<Generation, Error> {
        sampling.check()?;
        if grammar.is_some() && !sampling.stop.is_empty() {
            return Err(Error::new("stop strings would cut a text that has to satisfy a grammar"));
        }
        let vocabulary = model.tokenizer().vocabulary_size();
        if let Some((token, _)) = sampling.bias.iter().find(|(token, _)| *token as usize >= vocabulary) {
            return Err(Error::new(format!("the bias is of token {token}; the vocabulary has {vocabulary}")));
        }
        let (context, len) = (model.info().context, prompt.len());
        if len == 0 {
            return Err(Error::new("the prompt has no tokens"));
        }
        if len >= context {
            return Err(Error::new(format!(
                "the prompt has {len} tokens; the context of {context} takes at most {} and the answer",
                context - 1
            )));
        }
        let capacity = context.min(len.saturating_add(sampling.max_tokens));
        // The last token is never fed back: it needs no place.
        let room = sampling.max_tokens.min(context - len + 1);
        // What satisfies a grammar is all text.
        let channel = model.tokenizer().channel().filter(|_| grammar.is_none());
        let constraint = grammar.map(|grammar| Constraint::new(grammar, model.pieces()?, room)).transpose()?;
        Ok(Generation {
            sequence: Sequence::new(Arc::clone(&model), capacity)?,
            text: Text::new(sampling.stop.clone(), channel, &prompt),
            sampling,
            sampler: Sampler::new(),
            prompt,
            read: 0,
            reused: 0,
            generated: Vec::new(),
            pending: Vec::new(),
            lookup: None,
            guesses: (0, 0),
            constraint,
            said: Vec::new(),
            log_probabilities: Vec::new(),
            likeliest: Vec::new(),
            timings: Timings::default(),
            finish: None,
            model,
        })
    }

    /// What has to be appended to its text next: some of the prompt, at most `most` tokens; or the last token chosen, and
    /// behind it what may come next, at most `most` together.
    pub fn part(&mut self, most: usize) -> Part<'_> {
        let (tokens, logits) = if self.read < self.prompt.len() {
            let tokens = &self.prompt[self.read..self.prompt.len().min(self.read + most.max(1))];
            (tokens, usize::from(self.read + tokens.len() == self.prompt.len()))
        } else {
            self.pending.clear();
            self.pending.extend(self.generated.last());
            // The last token of an answer is never fed back, nor guessed.
            let room = self.room().saturating_sub(self.generated.len() + 1);
            if most > 1 && room > 0 {
                let lookup = self.lookup.get_or_insert_with(|| {
                    let mut lookup = Lookup::new(&self.prompt);
                    self.generated.iter().for_each(|token| lookup.push(*token));
                    lookup
                });
                self.pending.extend(lookup.guess(room.min(most - 1)));
            }
            (&self.pending[..], self.pending.len())
        };
        Part { sequence: &mut self.sequence, tokens, logits, exact: self.sampling.needs_all() }
    }

    /// Tokens that the answer may have.
    fn room(&self) -> usize {
        self.sampling.max_tokens.min(self.model.info().context + 1 - self.prompt.len())
    }

    /// Begins with keys and values that are there: those of the prompt's first `len` tokens.
    pub(crate) fn resume(&mut self, cache: KvCache, len: usize) {
        self.sequence.resume(cache, len);
        (self.read, self.reused) = (len, len);
    }

    /// The prompt.
    pub(crate) fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// The tokens whose keys and values there are, and those.
    pub(crate) fn held(&self) -> (Vec<u32>, &KvCache) {
        let tokens = self.prompt.iter().chain(&self.generated).take(self.sequence.len()).copied();
        (tokens.collect(), self.sequence.cache())
    }

    /// Whether the prompt is being read.
    pub fn is_reading(&self) -> bool {
        self.read < self.prompt.len()
    }

    /// Tokens of the prompt that have not been read.
    pub fn unread(&self) -> usize {
        self.prompt.len() - self.read
    }

    /// Goes on after a [`part`](Generation::part) was appended, which took `spent`: the logits that it asked for, from row `row`
    /// of the workspace on, lead to the next token.
    pub fn appended(
        &mut self,
        work: &mut Workspace,
        row: usize,
        lead: &Lead<'_>,
        spent: Duration,
    ) -> Result<Step, Error> {
        if let Some(finish) = self.finish {
            return Ok(Step::Done(finish));
        }
        let started = Instant::now();
        let decoding = !self.is_reading();
        let result = self.advance(work, row, lead);
        *(if decoding { &mut self.timings.decode } else { &mut self.timings.prefill }) += spent + started.elapsed();
        result.map(|()| self.finish.map_or(Step::Running, Step::Done))
    }

    /// One step of this answer alone, on this thread, one token at a time.
    pub fn step(&mut self, work: &mut Workspace) -> Result<Step, Error> {
        if let Some(finish) = self.finish {
            return Ok(Step::Done(finish));
        }
        let started = Instant::now();
        let most = if self.is_reading() { BATCH } else { 1 };
        let lead = Lead::alone();
        work.append(&mut [self.part(most)], &lead, &|| {})?;
        self.appended(work, 0, &lead, started.elapsed())
    }

    fn advance(&mut self, work: &mut Workspace, row: usize, lead: &Lead<'_>) -> Result<(), Error> {
        if self.is_reading() {
            self.read = self.sequence.len();
            if self.is_reading() {
                return Ok(());
            }
        }
        let before = self.sequence.len();
        let guessed = self.pending.len().saturating_sub(1);
        let mut right = 0;
        self.choose(&mut work.of_row(row, lead))?;
        // What was guessed stands as long as it is what is chosen.
        while right < guessed && self.finish.is_none() && self.pending.get(right + 1) == self.generated.last() {
            right += 1;
            self.choose(&mut work.of_row(row + right, lead))?;
        }
        self.sequence.truncate(before - (guessed - right));
        if let Some(lookup) = &mut self.lookup {
            lookup.judge(guessed, right);
        }
        self.guesses = (self.guesses.0 + guessed, self.guesses.1 + right);
        Ok(())
    }

    /// Chooses the next token.
    fn choose(&mut self, logits: &mut Logits<'_>) -> Result<(), Error> {
        let room = self.room();
        let tokenizer = self.model.tokenizer();
        let choice = match &mut self.constraint {
            None => self.sampler.choose_of(logits, &self.generated, &self.sampling, None),
            Some(constraint) => {
                let left = room.saturating_sub(self.generated.len());
                constraint.choose(tokenizer, &mut self.sampler, logits, &self.generated, &self.sampling, left)?
            }
        };
        if self.text.says(choice.token) {
            self.said.push(choice.token);
            self.log_probabilities.push(choice.log_probability);
            self.sampler.likeliest_of(logits, self.sampling.alternatives, &mut self.likeliest);
        }
        self.generated.push(choice.token);
        if let Some(lookup) = &mut self.lookup {
            lookup.push(choice.token);
        }
        if tokenizer.ends().contains(&choice.token) {
            self.end(if self.closed_early() { Finish::Length } else { Finish::Stop });
        } else if self.text.push(tokenizer, choice.token) {
            self.end(Finish::StopString);
        } else if self.constraint.as_ref().is_some_and(Constraint::ended) {
            self.end(if self.closed_early() { Finish::Length } else { Finish::Stop });
        } else if self.generated.len() >= room {
            self.end(Finish::Length);
        }
        Ok(())
    }

    fn end(&mut self, finish: Finish) {
        self.finish = Some(if self.text.finish() { Finish::StopString } else { finish });
    }

    /// The text that has become final since the last call.
    pub fn take_text(&mut self) -> String {
        self.text.take()
    }

    /// The text that the next such call gives.
    pub fn untaken(&self) -> &str {
        self.text.untaken()
    }

    /// All final text so far.
    pub fn text(&self) -> &str {
        self.text.fixed()
    }

    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Whether the text was led to its end because its grammar would have needed more tokens: it is whole, and shorter than the model meant it to be.
    pub fn closed_early(&self) -> bool {
        self.constraint.as_ref().is_some_and(Constraint::steered)
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    /// Tokens of the prompt that had been read before, for another answer.
    pub fn reused_tokens(&self) -> usize {
        self.reused
    }

    /// How many tokens were guessed ahead, and how many of them were right.
    pub fn guesses(&self) -> (usize, usize) {
        self.guesses
    }

    /// Tokens generated so far, the one that ends the turn included.
    pub fn tokens(&self) -> usize {
        self.generated.len()
    }

    /// The generated tokens.
    pub fn token_ids(&self) -> &[u32] {
        &self.generated
    }

    /// Where the time went.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Tokens of the prompt read per second, once some were read.
    pub fn prompt_tokens_per_second(&self) -> Option<f64> {
        let seconds = self.timings.prefill.as_secs_f64();
        let read = self.read - self.reused;
        (read > 0 && seconds > 0.0).then(|| read as f64 / seconds)
    }

    /// Tokens decoded per second, once there is one after the first (which belongs to the prompt's time).
    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.timings.decode.as_secs_f64();
        (self.generated.len() > 1 && seconds > 0.0).then(|| (self.generated.len() - 1) as f64 / seconds)
    }

    /// The tokens of the answer, without those of thoughts, and how likely they and their [alternatives](Sampling::alternatives) were.
    pub fn scored(&self) -> impl Iterator<Item = Scored<'_>> {
        let each = self.likeliest.len() / self.said.len().max(1);
        self.said.iter().zip(&self.log_probabilities).enumerate().map(move |(at, (&token, &log_probability))| {
            let likeliest = self.likeliest.get(at * each..(at + 1) * each).unwrap_or_default();
            Scored { token, log_probability, likeliest }
        })
    }

    /// How sure the model was, 0–1: the geometric mean of the probabilities it gave the tokens of the answer, before temperature
    /// and truncation; and a reason that names the weakest stretch of up to eight tokens.
    ///
    /// The mean, for of what one pass can tell it says best whether an answer is right: of 200 questions that the small trained model answers by copying, 125 of them rightly, a
    /// right one had the higher of two confidences in 79 of 100 pairs (AUROC). The mean over the least probable quarter of the tokens did as well, the product of all (which falls with the
    /// length) and the weakest eight in a row a little worse (0.77, 0.75), the least probable token and the smallest distance to the second choice much worse (0.68, 0.64):
    /// where an answer goes wrong, the model is a little less sure from there on, not at one token. Rejected: several answers compared with each other, which say more and cost as many times as much.
    pub fn confidence(&self) -> (f64, String) {
        const STRETCH: usize = 8;
        let all = &self.log_probabilities;
        let mean = |stretch: &[f64]| (stretch.iter().sum::<f64>() / stretch.len() as f64).exp();
        if all.is_empty() {
            return (0.0, "no token was generated".to_owned());
        }
        let overall = mean(all);
        let len = STRETCH.min(all.len());
        let weakest = all.windows(len).map(mean).enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        let (at, least) = weakest.unwrap_or((0, overall));
        let words = self.model.tokenizer().decode(&self.said[at..at + len]);
        let words = words.trim();
        let tokens = if all.len() == 1 { "1 token".to_owned() } else { format!("{} tokens", all.len()) };
        let mut reason = format!("mean token probability {overall:.2} over {tokens}");
        if len < all.len() && !words.is_empty() {
            reason.push_str(&format!("; weakest at \"{words}\" ({least:.2})"));
        }
        (overall, reason)
    }
}

#[cfg(test)]
mod tests;
