//! What a consolidation finds out before it plans: facts that memories state, what turns come to, what belongs together.
//!
//! All of it is read from a snapshot on the pool, a piece per step; a language model, where one is to read or to write, is asked in between, behind what callers wait for. What was found goes
//! into the plan, whose steps check that what was read still stands.

use std::collections::VecDeque;
use std::sync::Arc;

use engram_agent::{FactRequest, Refused, fact_requests, findings};
use engram_inference::constraint::Grammar;
use engram_inference::gemma::{Role, Turn as Spoken};
use engram_inference::generation::{Finish, Generation};
use engram_inference::sampler::Sampling;
use engram_memory::{Episode, EpisodeSummary, Findings, Kin, Snapshot, Unread};

use crate::ask::Question;
use crate::commands::context::counted;
use crate::commands::store::estimated_importance;
use crate::models::{self, Counter};
use crate::reply::Error;
use crate::summing::{self, Source, Summing};

/// Memories that one run reads for facts.
const READ: usize = 2_000;
/// The same where a model reads them.
const READ_BY_MODEL: usize = 256;
/// Of these, in one step.
const READ_STEP: usize = 32;
/// Of a model's context the turns and what it is told about them may take so many tenths; the rest is for the answer.
const PROMPT_TENTHS: usize = 5;
/// Summaries that one run makes.
const SUMMARIES: usize = 32;
/// Tokens of a summary: it fits into the window of the encoder, so that one vector is all of it.
const SUMMARY_TOKENS: usize = 200;
/// Memories for which one run looks for what belongs to them.
const LINKED: usize = 1_000;
/// Of these, in one step.
const LINK_STEP: usize = 8;
/// What a model that sums up is told.
const INSTRUCTION: &str = "Below are turns of a conversation. Write what happened in a few short sentences, for somebody who will read it in a year. Keep who said what, names, \
    numbers, dates, decisions and preferences. Leave out greetings. Write the summary only.";

/// What to find out.
#[derive(Debug, Clone, Default)]
pub struct What {
    /// Facts.
    pub extract: bool,
    /// Summaries, and the facts in what they sum up.
    pub summarize: bool,
    /// Links.
    pub link: bool,
    /// The model that reads and writes; None = what the settings say.
    pub model: Option<String>,
}

/// Whether a memory that is made now waits for vectors: where texts of the space get some.
pub fn waits_for_vectors(snapshot: &Snapshot) -> bool {
    match models::embedder() {
        Ok(encoder) => snapshot.dim().is_none() || snapshot.model() == Some(encoder.name()),
        Err(_) => snapshot.model().is_some(),
    }
}

/// A finding out under way.
pub struct Learning {
    pub found: Findings,
    refused: Vec<Refused>,
    notes: Vec<String>,
    snapshot: Snapshot,
    what: What,
    now: u64,
    begun: bool,
    unread: VecDeque<Unread>,
    /// The model that reads besides the patterns, what it is asked, and what it is being asked.
    reader: Option<String>,
    requests: VecDeque<FactRequest>,
    asking: Option<FactRequest>,
    episodes: VecDeque<Episode>,
    summing: Option<(Box<str>, Summing)>,
    kin: Option<Kin>,
}

/// What a step came to.
pub enum Progress {
    /// There is more to do.
    More,
    /// A model of this name is to be asked.
    Ask(String, Box<Question>),
    /// All is found out.
    Done,
}

impl Learning {
    /// Of what is in a snapshot.
    pub fn new(snapshot: Snapshot, now: u64, what: What) -> Learning {
        Learning {
            found: Findings::default(),
            refused: Vec::new(),
            notes: Vec::new(),
            snapshot,
            what,
            now,
            begun: false,
            unread: VecDeque::new(),
            reader: None,
            requests: VecDeque::new(),
            asking: None,
            episodes: VecDeque::new(),
            summing: None,
            kin: None,
        }
    }

    /// Whether no step has been taken.
    pub fn is_new(&self) -> bool {
        !self.begun
    }

    /// Looks what there is to do.
    fn begin(&mut self) {
        let Learning { snapshot, what, now, found, .. } = self;
        self.begun = true;
        if what.extract || what.summarize {
            found.embedded = waits_for_vectors(snapshot);
        }
        let setting = Some(&*snapshot.settings().extract_model).filter(|name| !name.is_empty());
        self.reader = what.model.clone().or(setting.map(str::to_owned));
        let room = if self.reader.is_some() { READ_BY_MODEL } else { READ };
        if what.extract {
            self.unread.extend(snapshot.unread(*now, room));
        }
        if what.summarize {
            let (summaries, mut turns) = snapshot.distillable(*now);
            let known: Vec<_> = self.unread.iter().map(|unread| unread.entry.id).collect();
            turns.retain(|turn| known.binary_search(&turn.entry.id).is_err());
            // The summaries have been read when all their turns have.
            let left = room - self.unread.len().min(room);
            if turns.len() <= left {
                found.read.extend(summaries);
            }
            self.unread.extend(turns.into_iter().take(left));
            self.episodes.extend(snapshot.episodes(*now, SUMMARIES));
        }
        if let Some(name) = &self.reader {
            match requests(name, self.unread.make_contiguous()) {
                Ok(requests) => self.requests = requests.into(),
                Err(why) => self.notes.push(format!("patterns read for facts alone: {}", why.message)),
            }
        }
        if what.link {
            self.kin = Kin::new(snapshot.clone(), *now, LINKED);
        }
    }

    /// The snapshot, and the time that counts.
    pub fn snapshot(&self) -> (&Snapshot, u64) {
        (&self.snapshot, self.now)
    }

    /// Lets the snapshot go, and gives what was refused and why something is not as it was asked for.
    pub fn end(self) -> (Vec<Refused>, Vec<String>) {
        (self.refused, self.notes)
    }

    /// What came of the question to a model.
    pub fn answered(&mut self, answer: Result<(String, Finish), Error>, model: String) {
        match (self.asking.take(), &mut self.summing) {
            (Some(request), _) => match answer {
                Ok((text, _)) => request.read(&text, &mut self.found, &mut self.refused),
                Err(why) => self.patterns_alone(&why),
            },
            (None, Some((_, summing))) => summing.written(answer, model),
            (None, None) => {}
        }
    }

    /// One step.
    pub fn advance(&mut self) -> Progress {
        if !self.begun {
            self.begin();
            return Progress::More;
        }
        if !self.unread.is_empty() {
            self.read();
            return Progress::More;
        }
        if let Some(request) = self.requests.pop_front() {
            let name = self.reader.clone().unwrap_or_default();
            match question(&name, &request) {
                Ok(question) => {
                    self.asking = Some(request);
                    return Progress::Ask(name, Box::new(question));
                }
                Err(why) => self.patterns_alone(&why),
            }
            return Progress::More;
        }
        if self.summing.is_some() || !self.episodes.is_empty() {
            return self.sum_up();
        }
        if let Some(kin) = &mut self.kin {
            let before = self.found.kin.len();
            self.found.kin.extend(kin.by_ref().take(LINK_STEP));
            if self.found.kin.len() == before {
                self.kin = None;
            }
            return Progress::More;
        }
        Progress::Done
    }

    /// The model can read no more.
    fn patterns_alone(&mut self, why: &Error) {
        self.requests.clear();
        self.notes.push(format!("patterns read the rest for facts alone: {}", why.message));
    }

    fn read(&mut self) {
        let piece: Vec<Unread> = self.unread.drain(..self.unread.len().min(READ_STEP)).collect();
        let (found, refused) = findings(&piece, self.found.embedded);
        self.found.facts.extend(found.facts);
        self.found.described.extend(found.described);
        self.found.read.extend(found.read);
        self.refused.extend(refused);
    }

    fn sum_up(&mut self) -> Progress {
        let Some((session, mut summing)) = self.summing.take().or_else(|| self.next_summary()) else {
            return Progress::More;
        };
        match summing.advance() {
            summing::Progress::More => {}
            summing::Progress::Ask(name, question) => {
                self.summing = Some((session, summing));
                return Progress::Ask(name, question);
            }
            summing::Progress::Text(text, _, model) => {
                for note in summing.notes {
                    if !self.notes.contains(&note) {
                        self.notes.push(note);
                    }
                }
                if !text.is_empty() {
                    let importance = estimated_importance(self.snapshot.settings(), &text, "summary", None);
                    self.found.summaries.push(EpisodeSummary {
                        session,
                        turns: summing.source.turns,
                        text: text.into(),
                        importance,
                        model: model.map(Into::into),
                        embedded: self.found.embedded,
                    });
                }
                return Progress::More;
            }
        }
        self.summing = Some((session, summing));
        Progress::More
    }

    fn next_summary(&mut self) -> Option<(Box<str>, Summing)> {
        let Episode { session, turns } = self.episodes.pop_front()?;
        let settings = self.snapshot.settings();
        let setting = Some(&*settings.summary_model).filter(|name| !name.is_empty()).map(str::to_owned);
        let source = Source {
            previous: None,
            turns,
            budget: SUMMARY_TOKENS,
            language: settings.language,
            model: self.what.model.clone().or(setting),
            instruction: INSTRUCTION,
        };
        Some((session, Summing::new(source)))
    }
}

/// What a model is to be asked about turns that nobody has read.
fn requests(name: &str, unread: &[Unread]) -> Result<Vec<FactRequest>, Error> {
    let (name, gemma) = models::gemma(Some(name))?;
    let budget = gemma.info().context * PROMPT_TENTHS / 10;
    let counter = Counter::of(name.clone(), gemma);
    let requests = fact_requests(unread, &|text| counted(&counter, text), budget);
    if requests.is_empty() && !fact_requests(unread, &|_| 0, budget).is_empty() {
        return Err(Error::err(format!(
            "half the context of {name}, {budget} tokens, holds no turn with what it is told"
        )));
    }
    Ok(requests)
}

fn question(name: &str, request: &FactRequest) -> Result<Question, Error> {
    let engine = models::engine(name)?;
    let gemma = engine.model().clone();
    let turn = Spoken { role: Role::User, text: &request.prompt };
    let prompt = gemma.prompt(&[turn]).map_err(|e| Error::err(e.to_string()))?;
    let room = gemma.info().context.saturating_sub(prompt.len());
    let sampling =
        Sampling { max_tokens: request.max_tokens.min(room).max(1), temperature: 0.0, ..Sampling::default() };
    let grammar = Grammar::schema(&request.schema).map_err(|e| Error::err(e.to_string()))?;
    let generation = Generation::constrained(gemma, prompt, sampling, Some(Arc::new(grammar)))
        .map_err(|e| Error::err(e.to_string()))?;
    Ok(Question { engine, generation })
}
