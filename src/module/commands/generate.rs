//! GEMMA.GENERATE and GEMMA.GENERATE_RO: a prompt, recalled memories beside it if asked, and an answer token by token.
//!
//! One [`Run`] per job on the pool, in steps: recall and prompt first, then a chunk of the prompt or one token at a time, so that any number of
//! generations advance evenly. Between steps it looks whether it was cancelled (GEMMA.CANCEL, or every client that waited has left and NOWAIT was not
//! given) or its TIMEOUT is over; both end with the text so far, not with an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engram_inference::gemma::{Gemma, Role, Turn};
use engram_inference::generation::{Finish, Generation, Step};
use engram_inference::pool::{Advance, Priority, Task};
use engram_inference::sampler::Sampling;
use engram_memory::{Hit, Whereabouts};

use super::recall::Search;
use super::{Outcome, answer_for, fields};
use crate::commit::{self, Ran};
use crate::ffi::{self, Ctx, Level};
use crate::grammar::Parsed;
use crate::jobs::{self, Job, Started};
use crate::models::{self, Embedding, Text};
use crate::reply::{Error, Value};
use crate::streams::{self, StreamWriter};

/// Memories recalled when K is not given.
const MEMORIES: usize = 5;
/// The longest piece of a vocabulary, for a bound on prompts before they are tokenised.
const LONGEST_PIECE: usize = 256;
/// Progress is reported every so many steps.
const REPORT_EVERY: u64 = 8;

/// Tokens generated since the start, of all jobs.
pub static TOKENS: AtomicU64 = AtomicU64::new(0);
/// Generations that ended, however.
pub static ENDED: AtomicU64 = AtomicU64::new(0);
/// Microseconds spent in steps that made tokens.
pub static DECODE_MICROS: AtomicU64 = AtomicU64::new(0);

/// `GEMMA.GENERATE prompt [...]`, `GEMMA.GENERATE_RO` the same without STREAM.
pub fn generate(ctx: Ctx, args: &Parsed) -> Outcome {
    if ctx.must_not_block() {
        return Err(Error::err(
            "GEMMA.GENERATE takes seconds and is refused inside MULTI, scripts and functions: call it outside; MEM.STORE and MEM.RECALL of text work here",
        ));
    }
    let prompt = args.text("prompt");
    let (model, gemma) = models::gemma(args.opt_text("model"))?;
    let context = gemma.info().context;
    let longest = context.saturating_mul(LONGEST_PIECE);
    if prompt.len() > longest {
        return Err(Error::err(format!(
            "the prompt has {} bytes, more than the context of {context} tokens can hold",
            prompt.len()
        )));
    }
    let sampling = sampling(args)?;
    let search = match args.opt_key("memory") {
        Some(key) => match Search::begin(ctx, key, args, MEMORIES)? {
            Some(mut search) => {
                search.look_for(prompt.to_owned())?;
                Some(search)
            }
            None => None,
        },
        None => None,
    };
    let question = search.as_ref().map_or_else(|| Text::plain(prompt), |search| search.question(prompt));
    let nowait = args.flag("nowait");
    let started = jobs::start(ctx, "GEMMA.GENERATE", args.opt_text("job"), args.fingerprint(), nowait)?;
    let job = match started {
        Started::Existing(job) => {
            if nowait {
                job.detach();
            }
            job
        }
        Started::New(job) => {
            let stream = args.opt_key("stream").map(|key| StreamWriter::new(ctx, key, &job.id));
            let run = Run {
                job: job.clone(),
                request: Request {
                    prompt: prompt.to_owned(),
                    system: args.opt_text("system").map(str::to_owned),
                    raw: args.flag("raw"),
                    asked_max: args.opt_usize("maxtokens"),
                    sampling,
                    memory_key_missing: args.opt_key("memory").is_some() && search.is_none(),
                },
                model,
                gemma,
                search,
                stream,
                deadline: args.opt_u64("timeout").map(|ms| Instant::now() + Duration::from_millis(ms)),
                phase: Phase::Prepare(Embedding::of(question)),
                hits: Vec::new(),
                notes: Vec::new(),
                steps: 0,
            };
            // Block first: a job that ended before its client waited would still be found, but one that fails at once should answer this client.
            let flow = answer_for(ctx, &job, nowait);
            models::spawn(Priority::Normal, run);
            return flow;
        }
    };
    answer_for(ctx, &job, nowait)
}

fn sampling(args: &Parsed) -> Result<Sampling, Error> {
    let default = Sampling::default();
    let sampling = Sampling {
        max_tokens: args.opt_usize("maxtokens").unwrap_or(default.max_tokens),
        temperature: args.opt_f64("temperature").map_or(default.temperature, |t| t as f32),
        top_k: args.opt_usize("topk").unwrap_or(default.top_k),
        top_p: args.opt_f64("topp").map_or(default.top_p, |p| p as f32),
        min_p: args.opt_f64("minp").map_or(default.min_p, |p| p as f32),
        repeat: args.opt_f64("repeat").map_or(default.repeat, |r| r as f32),
        seed: args.opt_u64("seed").unwrap_or_else(fresh_seed),
        stop: args.list("stop").iter().map(|s| (*s).to_owned()).collect(),
    };
    sampling.check().map_err(|e| Error::err(e.to_string()))?;
    Ok(sampling)
}

/// A seed for a call that names none; it is in the reply, so the answer can be had again.
fn fresh_seed() -> u64 {
    let mut bytes = [0u8; 8];
    ffi::random(&mut bytes);
    // An integer reply is signed.
    u64::from_le_bytes(bytes) >> 1
}

struct Request {
    prompt: String,
    system: Option<String>,
    raw: bool,
    asked_max: Option<usize>,
    sampling: Sampling,
    memory_key_missing: bool,
}

enum Phase {
    /// With the prompt on its way to the vectors that memories are recalled by.
    Prepare(Embedding),
    Answer(Box<Generation>),
    Ended,
}

/// One generation on the pool.
struct Run {
    job: Arc<Job>,
    request: Request,
    model: String,
    gemma: Arc<Gemma>,
    search: Option<Search>,
    stream: Option<Arc<StreamWriter>>,
    deadline: Option<Instant>,
    phase: Phase,
    hits: Vec<Hit>,
    notes: Vec<String>,
    steps: u64,
}

impl Task for Run {
    fn step(&mut self) -> Advance {
        let early = if self.job.is_cancelled() {
            Some("cancelled")
        } else if self.deadline.is_some_and(|d| Instant::now() >= d) {
            Some("timeout")
        } else {
            None
        };
        if let Some(reason) = early {
            self.end(Ok(reason));
            return Advance::Done;
        }
        self.steps += 1;
        let advanced = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Prepare(query) => self.prepare(query),
            Phase::Answer(generation) => self.advance(generation),
            Phase::Ended => return Advance::Done,
        };
        match advanced {
            Ok(None) => Advance::Again,
            Ok(Some(reason)) => {
                self.end(Ok(reason));
                Advance::Done
            }
            Err(error) => {
                self.end(Err(error));
                Advance::Done
            }
        }
    }

    fn panicked(&mut self, message: &str) {
        ffi::log(Level::Warning, &format!("engram: a panic while generating ({message}); please report it"));
        self.end(Err(Error::err("generation failed with an internal error; the server's log has more")));
    }
}

impl Run {
    /// Recalls, builds the prompt, and opens the stream. None = go on.
    fn prepare(&mut self, mut query: Embedding) -> Result<Option<&'static str>, Error> {
        if let Some(search) = &mut self.search {
            if search.wants_vectors() {
                let stepped = query.step().transpose();
                let Some(embedded) = stepped else {
                    self.phase = Phase::Prepare(query);
                    return Ok(None);
                };
                search.embedded(embedded.map(|(encoder, vectors)| (encoder.name().to_owned(), vectors)))?;
            }
            self.hits = search.run()?.hits;
        }
        if let Some(search) = self.search.take() {
            let origin = search.origin.clone();
            let found: Vec<Whereabouts> = self.hits.iter().map(Hit::whereabouts).collect();
            drop(search);
            commit::submit(move |ctx| {
                origin.note(ctx, &found, true);
                Ran::Done
            });
        }
        if self.request.memory_key_missing {
            self.notes.push("the MEMORY key does not exist: nothing was recalled".to_owned());
        }
        let prompt = self.fit()?;
        // The last token is never fed back: it needs no place in the context.
        let room = self.gemma.info().context.saturating_sub(prompt.len()) + 1;
        if let Some(asked) = self.request.asked_max
            && asked > room
        {
            self.notes.push(format!(
                "the context of {} tokens has room for {room} after the prompt, not for MAXTOKENS {asked}",
                self.gemma.info().context
            ));
        }
        let generation = Generation::new(self.gemma.clone(), prompt, self.request.sampling.clone())
            .map_err(|e| Error::err(e.to_string()))?;
        if let Some(stream) = &self.stream {
            stream.begin();
        }
        self.phase = Phase::Answer(Box::new(generation));
        Ok(None)
    }

    /// The prompt's tokens; memories that do not fit are left out, the least similar first, and noted.
    fn fit(&mut self) -> Result<Vec<u32>, Error> {
        let context = self.gemma.info().context;
        let recalled = self.hits.len();
        loop {
            let memories = self.hits.iter().map(|hit| &hit.entry);
            let text = engram_agent::user_turn(self.request.system.as_deref(), memories, &self.request.prompt);
            let tokens = if self.request.raw {
                let tokenizer = self.gemma.tokenizer();
                let mut tokens: Vec<u32> = tokenizer.bos().into_iter().collect();
                tokens.extend(tokenizer.encode_with_control(&text));
                tokens
            } else {
                self.gemma.prompt(&[Turn { role: Role::User, text: &text }]).map_err(|e| Error::err(e.to_string()))?
            };
            // Without memories, whether it fits is for the generation to say: its error names both numbers.
            if tokens.len() < context || self.hits.is_empty() {
                let left_out = recalled - self.hits.len();
                if left_out > 0 {
                    self.notes.push(format!(
                        "{left_out} of {recalled} memories were left out: the context has {context} tokens"
                    ));
                }
                return Ok(tokens);
            }
            self.hits.pop();
        }
    }

    /// One step of the answer. Some = it ended.
    fn advance(&mut self, mut generation: Box<Generation>) -> Result<Option<&'static str>, Error> {
        let stepped = generation.step().map_err(|e| Error::err(format!("generation failed: {e}")));
        if let Some(stream) = &self.stream {
            let text = generation.take_text();
            if !text.is_empty() {
                stream.push(&text);
            }
        }
        if self.steps % REPORT_EVERY == 1 {
            self.job.report(vec![
                ("model", Value::from(self.model.as_str())),
                ("prompt_tokens", Value::from(generation.prompt_tokens())),
                ("tokens", Value::from(generation.tokens())),
            ]);
        }
        self.phase = Phase::Answer(generation);
        Ok(match stepped? {
            Step::Running => None,
            Step::Done(finish) => {
                if finish == Finish::Length
                    && let Phase::Answer(generation) = &self.phase
                    && generation.tokens() < self.request.sampling.max_tokens
                {
                    self.notes.push(format!(
                        "the answer was cut off: the context of {} tokens is full",
                        self.gemma.info().context
                    ));
                }
                Some(finish.name())
            }
        })
    }

    /// Ends the job: the stream's last entry first, then everybody who waits.
    fn end(&mut self, result: Result<&'static str, Error>) {
        ENDED.fetch_add(1, Ordering::Relaxed);
        let outcome = result.map(|reason| self.reply(reason));
        self.phase = Phase::Ended;
        #[cfg(feature = "latch")]
        crate::latch::pass();
        let job = self.job.clone();
        let Some(stream) = self.stream.take() else { return job.finish(outcome) };
        let mut notes = std::mem::take(&mut self.notes);
        commit::submit(move |ctx| {
            let fields = match &outcome {
                Ok(reply) => streams::entry_fields(reply),
                Err(error) => vec![("error".to_owned(), error.line())],
            };
            match stream.end(ctx, &fields) {
                Err(ran) => ran,
                Ok(stopped) => {
                    let mut outcome = outcome.clone();
                    if let (Some(reason), Ok(Value::Map(fields))) = (stopped, &mut outcome)
                        && let Some((_, value)) = fields.iter_mut().find(|(name, _)| name == "notes")
                    {
                        notes.push(format!("the stream is incomplete: {reason}"));
                        *value = texts(&notes);
                    }
                    job.finish(outcome);
                    Ran::Done
                }
            }
        });
    }

    fn reply(&mut self, reason: &'static str) -> Value {
        let memories = self
            .hits
            .iter()
            .map(|hit| {
                Value::map(vec![
                    ("id", Value::from(hit.entry.id.to_string())),
                    ("similarity", hit.similarity.map_or(Value::Null, fields::rounded)),
                ])
            })
            .collect();
        let seed = i64::try_from(self.request.sampling.seed).unwrap_or(i64::MAX);
        let rate = |tokens_per_second: Option<f64>| {
            Value::Double(tokens_per_second.map_or(0.0, |r| (r * 10.0).round() / 10.0))
        };
        let (text, prompt_tokens, tokens, prefill, decode, confidence, why) = match &mut self.phase {
            Phase::Answer(generation) => {
                let timings = generation.timings();
                TOKENS.fetch_add(generation.tokens() as u64, Ordering::Relaxed);
                DECODE_MICROS
                    .fetch_add(u64::try_from(timings.decode.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
                let (confidence, why) = generation.confidence();
                (
                    generation.text().to_owned(),
                    generation.prompt_tokens(),
                    generation.tokens(),
                    generation.prompt_tokens_per_second(),
                    generation.tokens_per_second(),
                    confidence,
                    why,
                )
            }
            _ => (String::new(), 0, 0, None, None, 0.0, "nothing was generated".to_owned()),
        };
        Value::map(vec![
            ("text", Value::from(text)),
            ("finish_reason", Value::from(reason)),
            ("prompt_tokens", Value::from(prompt_tokens)),
            ("tokens", Value::from(tokens)),
            ("prompt_tokens_per_second", rate(prefill)),
            ("tokens_per_second", rate(decode)),
            ("seed", Value::from(seed)),
            ("confidence", fields::rounded(confidence)),
            ("reason", Value::from(why)),
            ("model", Value::from(self.model.as_str())),
            ("memories", Value::Array(memories)),
            ("notes", texts(&self.notes)),
        ])
    }
}

fn texts(notes: &[String]) -> Value {
    Value::Array(notes.iter().map(|note| Value::from(note.as_str())).collect())
}
