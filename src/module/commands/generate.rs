//! GEMMA.GENERATE and GEMMA.GENERATE_RO: a prompt, recalled memories beside it if asked, and an answer token by token.
//!
//! One [`Run`] per job: recall and prompt are a task of the pool; then the model's engine has it, which generates all its answers together, step by step.
//! Before every step it looks whether it was cancelled (GEMMA.CANCEL, or every client that waited has left and NOWAIT was not
//! given) or its TIMEOUT is over; both end with the text so far, not with an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engram_inference::constraint::{Grammar, LONGEST_SCHEMA};
use engram_inference::engine::{Owner, Request as Generate};
use engram_inference::gemma::{Gemma, Role, Turn};
use engram_inference::generation::{Finish, Generation, Scored, Step};
use engram_inference::pool::{Advance, Priority, Task};
use engram_inference::sampler::{MOST_BIASED, Sampling};
use engram_inference::tokenizer::Tokenizer;
use engram_memory::{Hit, MemoryId, Whereabouts};

use super::chat::{self, Chat};
use super::paths::{Answerer, Paths, Plan};
use super::recall::{Origin, Search};
use super::{Outcome, answer_for, fields};
use crate::commit::{self, Ran};
use crate::ffi::{self, Ctx, Level};
use crate::grammar::{Parsed, printable};
use crate::jobs::{self, Job, Started};
use crate::latency::Operation;
use crate::models::{self, Counter, Embedding, Text};
use crate::reply::{Error, Value};
use crate::streams::{self, StreamWriter};

/// What a PROFILE stands for, where an option does not say otherwise.
#[derive(Clone, Copy)]
struct Profile {
    name: &'static str,
    /// Tokens of prompt and answer.
    context: usize,
    max_tokens: usize,
    temperature: f32,
    memories: usize,
    /// Whether it stands for more than a short answer.
    ample: bool,
}

/// What each of [`crate::config::PROFILES`] stands for.
const PROFILES: [Profile; 4] = [
    Profile { name: "speed", context: 4_096, max_tokens: 512, temperature: 0.7, memories: 3, ample: false },
    Profile { name: "balanced", context: 8_192, max_tokens: 1_024, temperature: 0.7, memories: 5, ample: false },
    Profile { name: "quality", context: 16_384, max_tokens: 2_048, temperature: 0.8, memories: 10, ample: true },
    Profile { name: "research", context: 32_768, max_tokens: 4_096, temperature: 0.6, memories: 20, ample: true },
];
/// Memories recalled when neither K nor PROFILE is given.
const MEMORIES: usize = 5;
/// The context that memories are fitted into when PROFILE is not given.
const CONTEXT: usize = 8_192;
/// Of the context a prompt with memories may take so many tenths: the rest is for the answer.
const PROMPT_TENTHS: usize = 7;
/// The field of the reply for LOGPROBS.
const LOGPROBS: &str = "logprobs";
/// Memories left out that are named; of more than these the number is said.
const NAMED: usize = 10;
/// The longest piece of a vocabulary, for a bound on prompts before they are tokenised.
const LONGEST_PIECE: usize = 256;
/// The priority of what nobody waits for.
pub const LOW: i32 = -1;
/// Progress is reported every so many steps.
const REPORT_EVERY: u64 = 8;

/// Tokens generated since the start, of all jobs.
pub static TOKENS: AtomicU64 = AtomicU64::new(0);
/// Generations that ended, however.
pub static ENDED: AtomicU64 = AtomicU64::new(0);
/// Tokens that were guessed ahead since the start.
pub static GUESSED: AtomicU64 = AtomicU64::new(0);
/// Those of them that were right.
pub static GUESSED_RIGHT: AtomicU64 = AtomicU64::new(0);
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
    let mut start = Start::of(ctx, args, prompt)?;
    if let Some(key) = args.opt_key("memory") {
        start = start.with_memories(ctx, key);
    }
    let search = match args.opt_key("memory") {
        Some(key) => match Search::begin(ctx, key, args, start.memories())? {
            Some(mut search) => {
                search.look_for(prompt.to_owned())?;
                Some(search)
            }
            None => None,
        },
        None => None,
    };
    let question = search.as_ref().map_or_else(|| Text::query(prompt), |search| search.question(prompt));
    let nowait = args.flag("nowait");
    let started = jobs::start(ctx, "GEMMA.GENERATE", args.opt_text("job"), args.fingerprint(), nowait)?;
    let job = match started {
        Started::Existing(job) => job,
        Started::New(job) => {
            let mut start = start.with_stream(ctx, args, &job);
            start.request.memory_key_missing = args.opt_key("memory").is_some() && search.is_none();
            // Block first: a job that ended before its client waited would still be found, but one that fails at once should answer this client.
            let flow = answer_for(ctx, &job, nowait);
            start.run(job, search, Embedding::of(question), None);
            return flow;
        }
    };
    answer_for(ctx, &job, nowait)
}

/// A generation that has been asked for, before it begins.
pub struct Start {
    request: Request,
    plan: Plan,
    /// Whose it is.
    user: String,
    /// Only what has the same user and the same memories shares keys and values.
    scope: String,
    stream: Option<Arc<StreamWriter>>,
    asked: Instant,
    deadline: Option<Instant>,
}

impl Start {
    /// Reads the options that GEMMA.GENERATE and GEMMA.CHAT share.
    pub fn of(ctx: Ctx, args: &Parsed, prompt: &str) -> Result<Start, Error> {
        let profile = args.opt_text("profile").and_then(|name| PROFILES.into_iter().find(|p| p.name == name));
        let form = form(args)?;
        let plan = Plan::of(args, profile.map(|profile| (profile.name, profile.ample)), prompt)?;
        let context = plan.context();
        let longest = context.saturating_mul(LONGEST_PIECE);
        if prompt.len() > longest {
            return Err(Error::err(format!(
                "the prompt has {} bytes, more than the context of {context} tokens can hold",
                prompt.len()
            )));
        }
        let request = Request {
            prompt: prompt.to_owned(),
            system: args.opt_text("system").map(str::to_owned),
            raw: args.flag("raw"),
            asked_max: args.opt_usize("maxtokens"),
            profile,
            form,
            sampling: sampling(args, profile, plan.first.engine.model().tokenizer())?,
            second_bias: plan.paths.as_ref().and_then(Paths::second).map_or_else(
                || Ok(Vec::new()),
                |Answerer { name, engine }| {
                    bias(args, engine.model().tokenizer()).map_err(|mut error| {
                        error.message.push_str(&format!(" (of the model {name}, which answers if the first does not)"));
                        error
                    })
                },
            )?,
            log_probabilities: args.given("logprobs"),
            priority: match args.opt_text("priority") {
                Some("low") => LOW,
                Some("high") => 1,
                _ => 0,
            },
            memory_key_missing: false,
        };
        let asked = Instant::now();
        let deadline = args.opt_u64("timeout").map(|ms| asked + Duration::from_millis(ms));
        let user = ctx.user();
        Ok(Start { request, plan, scope: models::scope_of_user(&user), user, stream: None, asked, deadline })
    }

    /// The same with the stream that is asked for: written as the client of `ctx` could.
    pub fn with_stream(mut self, ctx: Ctx, args: &Parsed, job: &Job) -> Start {
        self.stream = args.opt_key("stream").map(|key| StreamWriter::new(ctx, key, &job.id));
        self
    }

    /// The same with memories of this space in its prompt.
    pub fn with_memories(mut self, ctx: Ctx, key: &[u8]) -> Start {
        self.scope = models::scope_in_space(ctx.db(), key, &self.user);
        self
    }

    /// What counts tokens as the model that answers first does.
    pub fn counter(&self) -> Counter {
        let Answerer { name, engine } = &self.plan.first;
        Counter::of(name.clone(), engine.model().clone())
    }

    /// Tokens that a prompt may have at most, whoever answers.
    pub fn context(&self) -> usize {
        self.plan.context()
    }

    /// Memories to recall where K is not given.
    pub fn memories(&self) -> usize {
        self.request.profile.map_or(MEMORIES, |profile| profile.memories)
    }

    /// Hands it to the pool.
    pub fn run(self, job: Arc<Job>, search: Option<Search>, question: Embedding, chat: Option<Chat>) {
        let Start { request, plan, user, scope, stream, asked, deadline } = self;
        let Plan { first, paths } = plan;
        if let Some(paths) = &paths {
            paths.begin();
        }
        let run = Run {
            job,
            request,
            model: first,
            paths,
            user,
            scope,
            search,
            question,
            origin: None,
            stream,
            asked,
            begun: false,
            deadline,
            found: Vec::new(),
            hits: Vec::new(),
            chat,
            notes: Vec::new(),
            steps: 0,
        };
        models::spawn(Priority::Normal, Preparing(Some(Box::new(run))));
    }
}

/// What a chat's prompt is fitted into.
pub struct Prompt<'a> {
    /// Tokens that it may take, the template's included.
    pub most: usize,
    /// What was recalled.
    pub hits: &'a [Hit],
    gemma: &'a Gemma,
}

impl Prompt<'_> {
    /// Whether the model's template has turns for instructions.
    pub fn has_system_role(&self) -> bool {
        self.gemma.has_system_role()
    }

    /// The tokens of a conversation.
    pub fn tokens(&self, turns: &[(engram_agent::Role, String)]) -> Result<Vec<u32>, Error> {
        let role = |role: engram_agent::Role| match role {
            engram_agent::Role::System => Role::System,
            engram_agent::Role::Assistant => Role::Model,
            engram_agent::Role::User | engram_agent::Role::Tool => Role::User,
        };
        let spoken: Vec<Turn> = turns.iter().map(|(who, text)| Turn { role: role(*who), text }).collect();
        self.gemma.prompt(&spoken).map_err(|e| Error::err(e.to_string()))
    }
}

/// A chat's prompt.
pub struct Fitted {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// The memories in it.
    pub shown: Vec<MemoryId>,
    /// How many turns are in it.
    pub turns: usize,
    /// What had no room, by kind.
    pub left_out: Vec<&'static str>,
}

/// What FORMAT and SCHEMA ask for. A schema is compiled on the pool; here only its size is looked at.
fn form(args: &Parsed) -> Result<Form, Error> {
    let form = match (args.opt_text("format"), args.opt_text("schema")) {
        (None, None) => return Ok(Form::Free),
        (_, Some(schema)) if schema.len() > LONGEST_SCHEMA => {
            let bytes = schema.len();
            return Err(Error::err(format!("SCHEMA has {bytes} bytes; at most {LONGEST_SCHEMA} are accepted")));
        }
        (_, Some(schema)) => Form::Schema(schema.to_owned()),
        (Some(_), None) => Form::Json,
    };
    if !args.list("stop").is_empty() {
        return Err(Error::err(
            "STOP is not possible together with FORMAT or SCHEMA: a stop string would cut the text, and it would no longer be valid",
        ));
    }
    Ok(form)
}

fn sampling(args: &Parsed, profile: Option<Profile>, tokenizer: &Tokenizer) -> Result<Sampling, Error> {
    let mut default = Sampling::default();
    if let Some(profile) = profile {
        (default.max_tokens, default.temperature) = (profile.max_tokens, profile.temperature);
    }
    let sampling = Sampling {
        max_tokens: args.opt_usize("maxtokens").unwrap_or(default.max_tokens),
        temperature: args.opt_f64("temperature").map_or(default.temperature, |t| t as f32),
        top_k: args.opt_usize("topk").unwrap_or(default.top_k),
        top_p: args.opt_f64("topp").map_or(default.top_p, |p| p as f32),
        min_p: args.opt_f64("minp").map_or(default.min_p, |p| p as f32),
        repeat: args.opt_f64("repeat").map_or(default.repeat, |r| r as f32),
        seed: args.opt_u64("seed").unwrap_or_else(fresh_seed),
        stop: args.list("stop").iter().map(|s| (*s).to_owned()).collect(),
        bias: bias(args, tokenizer)?,
        alternatives: args.opt_usize("logprobs").unwrap_or(0),
    };
    sampling.check().map_err(|e| Error::err(e.to_string()))?;
    Ok(sampling)
}

/// What LOGITBIAS says, by tokens.
fn bias(args: &Parsed, tokenizer: &Tokenizer) -> Result<Vec<(u32, f32)>, Error> {
    let Some(object) = args.object("logitbias") else { return Ok(Vec::new()) };
    let refused = |why: String| Error::err(format!("LOGITBIAS: {why}"));
    if object.len() > MOST_BIASED {
        return Err(refused(format!("{} tokens; at most {MOST_BIASED} are accepted", object.len())));
    }
    let mut all = Vec::with_capacity(object.len());
    for (name, value) in object {
        let token = biased(name, tokenizer).map_err(refused)?;
        let value = value.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        let value = value.ok_or_else(|| {
            refused(format!("the bias of '{}' is no number from -100 to 100", printable(name.as_bytes())))
        })?;
        all.push((token, value as f32, name));
    }
    all.sort_by_key(|(token, ..)| *token);
    if let Some(((token, _, a), (_, _, b))) = all.iter().zip(all.iter().skip(1)).find(|(a, b)| a.0 == b.0) {
        let [a, b] = [a, b].map(|name| printable(name.as_bytes()));
        return Err(refused(format!("'{a}' and '{b}' are both token {token}: give it once")));
    }
    Ok(all.into_iter().map(|(token, bias, _)| (token, bias)).collect())
}

/// The token that is meant: `#id`, or a text that is one token.
fn biased(name: &str, tokenizer: &Tokenizer) -> Result<u32, String> {
    let shown = printable(name.as_bytes());
    if let Some(digits) =
        name.strip_prefix('#').filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    {
        let pieces = tokenizer.vocabulary_size();
        let id = digits.parse().ok().filter(|id| (*id as usize) < pieces);
        return id.ok_or_else(|| format!("there is no token {shown}; the vocabulary has {pieces}, from #0"));
    }
    // No text that is one token is longer.
    if name.len() > LONGEST_PIECE {
        return Err(format!("'{shown}' has {} bytes, more than any token", name.len()));
    }
    match *tokenizer.encode(name) {
        [token] => Ok(token),
        // Structure, which a text is never read as.
        ref tokens => tokenizer.control(name).ok_or_else(|| {
            let ids: Vec<String> = tokens.iter().take(8).map(|id| format!("#{id}")).collect();
            let (count, list) = (tokens.len(), ids.join(" "));
            format!("'{shown}' is {count} tokens ({list}); accepted are texts that are one token, and #id")
        }),
    }
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
    profile: Option<Profile>,
    form: Form,
    sampling: Sampling,
    /// LOGITBIAS in the vocabulary of the model that answers if the first does not.
    second_bias: Vec<(u32, f32)>,
    /// Whether the reply has those of the tokens.
    log_probabilities: bool,
    priority: i32,
    memory_key_missing: bool,
}

/// What the answer has to be.
enum Form {
    Free,
    /// Any JSON object or array.
    Json,
    /// What satisfies this JSON Schema.
    Schema(String),
    Ready(Arc<Grammar>),
}

impl Form {
    /// Compiles what is not compiled yet.
    fn grammar(&mut self) -> Result<Option<Arc<Grammar>>, Error> {
        let (option, made) = match self {
            Form::Free => return Ok(None),
            Form::Ready(grammar) => return Ok(Some(grammar.clone())),
            Form::Json => ("FORMAT", Grammar::json()),
            Form::Schema(schema) => ("SCHEMA", Grammar::schema(schema)),
        };
        let grammar = Arc::new(made.map_err(|e| Error::err(format!("{option}: {e}")))?);
        *self = Form::Ready(grammar.clone());
        Ok(Some(grammar))
    }
}

/// One call: an answer, or two of which the second is the one.
struct Run {
    job: Arc<Job>,
    request: Request,
    /// Who answers now.
    model: Answerer,
    /// Where there are two paths.
    paths: Option<Paths>,
    /// Whose it is.
    user: String,
    /// Of what keys and values may be kept.
    scope: String,
    search: Option<Search>,
    /// The prompt on its way to the vectors that memories are recalled by.
    question: Embedding,
    /// Where memories were recalled, until it is noted there which are used.
    origin: Option<Origin>,
    stream: Option<Arc<StreamWriter>>,
    /// When the command came.
    asked: Instant,
    /// Whether there is a first token.
    begun: bool,
    deadline: Option<Instant>,
    /// What was recalled, as long as a prompt is to be made of it.
    found: Vec<Hit>,
    /// What of it is in the prompt.
    hits: Vec<Hit>,
    /// If it is a turn of a conversation.
    chat: Option<Chat>,
    notes: Vec<String>,
    steps: u64,
}

/// A generation before its first step.
struct Preparing(Option<Box<Run>>);

impl Task for Preparing {
    fn step(&mut self) -> Advance {
        let Some(mut run) = self.0.take() else { return Advance::Done };
        if let Some(reason) = run.early() {
            run.end(Ok(reason), None);
            return Advance::Done;
        }
        match run.recall() {
            Ok(true) => {}
            Ok(false) => {
                self.0 = Some(run);
                return Advance::Again;
            }
            Err(error) => {
                run.end(Err(error), None);
                return Advance::Done;
            }
        }
        match run.begin() {
            Ok(generation) => {
                let engine = run.model.engine.clone();
                let (tenant, scope, priority) = (run.user.clone(), Some(run.scope.clone()), run.request.priority);
                let owner = Box::new(Answering(Some(run)));
                engine.submit(Generate { generation, tenant, scope, priority, owner });
            }
            Err(error) if run.falls_back(&error, None) => {
                self.0 = Some(run);
                return Advance::Again;
            }
            Err(error) => run.end(Err(error), None),
        }
        Advance::Done
    }

    fn panicked(&mut self, message: &str) {
        if let Some(run) = &mut self.0 {
            run.panicked(message);
        }
    }
}

/// A generation in the hands of an engine; empty once it has ended or gone to another model.
struct Answering(Option<Box<Run>>);

impl Owner for Answering {
    fn goes_on(&mut self, generation: &mut Generation) -> bool {
        let Some(run) = &mut self.0 else { return false };
        let early = run.early();
        if let Some(reason) = early {
            run.end(Ok(reason), Some(generation));
        }
        early.is_none()
    }

    fn stepped(&mut self, generation: &mut Generation, step: Result<Step, engram_inference::Error>) {
        let Some(run) = &mut self.0 else { return };
        run.stepped(generation);
        let falls_back = match step {
            Ok(Step::Running) => return,
            Ok(Step::Done(finish)) => {
                let falls_back = run.is_unsure(generation);
                if !falls_back {
                    run.note_end(generation, finish);
                    run.end(Ok(finish.name()), Some(generation));
                }
                falls_back
            }
            Err(error) => {
                let error = Error::err(format!("generation failed: {error}"));
                let falls_back = run.falls_back(&error, Some(generation));
                if !falls_back {
                    run.end(Err(error), Some(generation));
                }
                falls_back
            }
        };
        if let Some(run) = self.0.take_if(|_| falls_back) {
            models::spawn(Priority::Normal, Preparing(Some(run)));
        }
    }

    fn panicked(&mut self, message: &str) {
        if let Some(run) = &mut self.0 {
            run.panicked(message);
        }
    }
}

impl Run {
    /// Why it ends before its time, if it does.
    fn early(&mut self) -> Option<&'static str> {
        let reason = if self.job.is_cancelled() {
            "cancelled"
        } else if self.deadline.is_some_and(|d| Instant::now() >= d) {
            "timeout"
        } else {
            return None;
        };
        if !matches!(self.request.form, Form::Free) {
            self.notes.push(format!("the text was cut ({reason}): it is not whole, and may not be valid"));
        }
        Some(reason)
    }

    fn panicked(&mut self, message: &str) {
        ffi::log(Level::Warning, &format!("engram: a panic while generating ({message}); please report it"));
        self.end(Err(Error::err("generation failed with an internal error; the server's log has more")), None);
    }

    /// Whether the text may still be given up for that of another model: nobody is shown any of it yet.
    fn is_held_back(&self) -> bool {
        self.paths.as_ref().and_then(Paths::second).is_some()
    }

    /// What every step leaves to be done.
    fn stepped(&mut self, generation: &mut Generation) {
        self.steps += 1;
        if !self.is_held_back() {
            self.show_first(generation);
            if let Some(stream) = &self.stream {
                let text = generation.take_text();
                if !text.is_empty() {
                    stream.push(&text);
                }
            }
        }
        if self.steps % REPORT_EVERY == 1 {
            self.job.report(vec![
                ("model", Value::from(self.model.name.as_str())),
                ("prompt_tokens", Value::from(generation.prompt_tokens())),
                ("tokens", Value::from(generation.tokens())),
            ]);
        }
    }

    /// Takes the time of the first token that somebody may see.
    fn show_first(&mut self, generation: &Generation) {
        if !self.begun && generation.tokens() > 0 {
            self.begun = true;
            Operation::FirstToken.ended(self.asked);
        }
    }

    /// Whether a whole answer is given up for that of another model, to which this goes then.
    fn is_unsure(&mut self, generation: &Generation) -> bool {
        let second = self.paths.as_mut().and_then(|paths| paths.judge(&self.model.name, generation));
        self.goes_to(second, Some(generation))
    }

    /// Whether another model answers where this one cannot, to which this goes then.
    fn falls_back(&mut self, error: &Error, generation: Option<&Generation>) -> bool {
        let second = self.paths.as_mut().and_then(|paths| paths.could_not(&self.model.name, error, generation));
        self.goes_to(second, generation)
    }

    /// Begins anew with another model, if there is one.
    fn goes_to(&mut self, second: Option<Answerer>, given_up: Option<&Generation>) -> bool {
        let Some(second) = second else { return false };
        if let Some(generation) = given_up {
            count(generation);
        }
        // What was noted is of the other prompt.
        self.notes.clear();
        self.steps = 0;
        self.request.sampling.bias = std::mem::take(&mut self.request.second_bias);
        if let Some(chat) = &mut self.chat {
            chat.settle.counter = Counter::of(second.name.clone(), second.engine.model().clone());
            chat.settle.fitted = None;
        }
        self.model = second;
        true
    }

    /// Recalls, once. False = there is more to do first.
    fn recall(&mut self) -> Result<bool, Error> {
        // First, for a schema that cannot be kept is an error at once.
        self.request.form.grammar()?;
        let Some(search) = &mut self.search else { return Ok(true) };
        if search.wants_vectors() {
            let stepped = self.question.step().transpose();
            let Some(embedded) = stepped else { return Ok(false) };
            search.embedded(embedded.map(|(encoder, vectors)| (encoder.name().to_owned(), vectors)))?;
        }
        self.found = search.run()?.hits;
        self.origin = self.search.take().map(|search| search.origin);
        Ok(true)
    }

    /// Notes where memories were recalled which of them were used: once, when the prompt is known that the answer is of.
    fn note_use(&mut self) {
        let Some(origin) = self.origin.take() else { return };
        let used: Vec<Whereabouts> = self.hits.iter().map(Hit::whereabouts).collect();
        commit::submit(move |ctx| {
            origin.note(ctx, &used, true);
            Ran::Done
        });
    }

    /// Builds the prompt for the model that answers now, and opens the stream.
    fn begin(&mut self) -> Result<Generation, Error> {
        let grammar = self.request.form.grammar()?;
        if self.request.memory_key_missing {
            self.notes.push("the MEMORY key does not exist: nothing was recalled".to_owned());
        }
        self.hits = if self.is_held_back() { self.found.clone() } else { std::mem::take(&mut self.found) };
        let context = self.context();
        let prompt = if self.chat.is_some() { self.fit_chat(context)? } else { self.fit(context)? };
        if !self.is_held_back() {
            self.note_use();
        }
        if let Some(profile) = self.request.profile
            && prompt.len() >= context
        {
            return Err(Error::err(format!(
                "the prompt has {} tokens, and PROFILE {} has a context of {context}: a shorter prompt or another profile is needed",
                prompt.len(),
                profile.name
            )));
        }
        // The last token is never fed back: it needs no place in the context.
        let hold = if self.request.profile.is_some() { context } else { self.gemma().info().context };
        let room = hold.saturating_sub(prompt.len()) + 1;
        let asked = match (self.request.asked_max, self.request.profile) {
            (Some(asked), _) => Some((asked, format!("MAXTOKENS {asked}"))),
            (None, Some(Profile { name, max_tokens, .. })) => {
                Some((max_tokens, format!("the {max_tokens} tokens of PROFILE {name}")))
            }
            (None, None) => None,
        };
        if let Some((asked, what)) = asked
            && asked > room
        {
            self.notes
                .push(format!("the context of {hold} tokens has room for {room} after the prompt, not for {what}"));
        }
        let mut sampling = self.request.sampling.clone();
        sampling.max_tokens = sampling.max_tokens.min(room);
        let generation = Generation::constrained(self.gemma().clone(), prompt, sampling, grammar)
            .map_err(|e| Error::err(e.to_string()))?;
        if let Some(stream) = &self.stream {
            stream.begin();
        }
        Ok(generation)
    }

    fn gemma(&self) -> &Arc<Gemma> {
        self.model.engine.model()
    }

    /// The context of prompt and answer: the profile's as far as the model holds it, which is noted.
    fn context(&mut self) -> usize {
        let holds = self.gemma().info().context;
        let Some(Profile { name, context, .. }) = self.request.profile else { return holds.min(CONTEXT) };
        if context > holds {
            self.notes.push(format!(
                "profile {name} asks for a context of {context} tokens, model {} holds {holds}: used {holds}",
                self.model.name
            ));
        }
        context.min(holds)
    }

    /// The tokens of a chat's prompt, and of the memories only those that are in it.
    fn fit_chat(&mut self, context: usize) -> Result<Vec<u32>, Error> {
        let Some(chat) = &self.chat else { return Err(Error::err("this is no chat")) };
        let prompt = Prompt { most: context * PROMPT_TENTHS / 10, hits: &self.hits, gemma: self.gemma() };
        let Fitted { tokens, shown, turns, left_out } = chat::prompt(chat, &prompt)?;
        if let Some(chat) = self.chat.as_mut().filter(|_| left_out.contains(&"turn")) {
            chat.settle.fitted = Some(turns);
        }
        self.hits.retain(|hit| shown.contains(&hit.entry.id));
        for what in ["summary", "turn", "memory", "older turn"] {
            let count = left_out.iter().filter(|kind| **kind == what).count();
            if count > 0 {
                self.notes.push(format!("no room in the prompt: {count} x {what}"));
            }
        }
        Ok(tokens)
    }

    /// The prompt's tokens; memories that do not fit into their part of the context are left out, the lowest ranked first, and noted.
    fn fit(&mut self, context: usize) -> Result<Vec<u32>, Error> {
        let most = context * PROMPT_TENTHS / 10;
        let tokens = self.tokens(self.hits.len())?;
        if self.hits.is_empty() || tokens.len() <= most {
            return Ok(tokens);
        }
        // Fewer memories take fewer tokens: how many fit is found by halving. Without any, whether it fits is for the generation to say.
        let (mut fitting, mut too_many, mut kept) = (0, self.hits.len(), self.tokens(0)?);
        while fitting + 1 < too_many {
            let middle = fitting.midpoint(too_many);
            let tokens = self.tokens(middle)?;
            if tokens.len() <= most {
                (fitting, kept) = (middle, tokens);
            } else {
                too_many = middle;
            }
        }
        let left_out = self.hits.split_off(fitting);
        let mut names: Vec<String> = left_out.iter().take(NAMED).map(|hit| hit.entry.id.to_string()).collect();
        if left_out.len() > NAMED {
            names.push(format!("and {} more", left_out.len() - NAMED));
        }
        self.notes.push(format!(
            "{} of {} memories were left out, the lowest ranked ({}): the prompt may take {most} of the context's {context} tokens",
            left_out.len(),
            left_out.len() + fitting,
            names.join(", ")
        ));
        Ok(kept)
    }

    /// The tokens of the prompt with the first `memories` memories.
    fn tokens(&self, memories: usize) -> Result<Vec<u32>, Error> {
        let memories = self.hits.iter().take(memories).map(|hit| &hit.entry);
        let system = self.request.system.as_deref();
        if !self.request.raw {
            let text = engram_agent::user_turn(None, memories, &self.request.prompt);
            let instruction = system.map(|text| Turn { role: Role::System, text });
            let turns: Vec<Turn> = instruction.into_iter().chain([Turn { role: Role::User, text: &text }]).collect();
            return self.gemma().prompt(&turns).map_err(|e| Error::err(e.to_string()));
        }
        let text = engram_agent::user_turn(system, memories, &self.request.prompt);
        let tokenizer = self.gemma().tokenizer();
        let mut tokens: Vec<u32> = tokenizer.bos().into_iter().collect();
        // Structure is the prompt's own: what stands before it, memories above all, is text even where it spells a control token.
        match text.strip_suffix(&self.request.prompt) {
            Some(before) => {
                tokens.extend(tokenizer.encode(before));
                tokens.extend(tokenizer.encode_with_control(&self.request.prompt));
            }
            None => tokens.extend(tokenizer.encode(&text)),
        }
        Ok(tokens)
    }

    /// Notes what a reader should know of how the answer ended.
    fn note_end(&mut self, generation: &Generation, finish: Finish) {
        if generation.closed_early() {
            self.notes.push("the tokens ran out: the text was led to an early end, and is whole and valid".to_owned());
        } else if finish == Finish::Length && generation.tokens() < self.request.sampling.max_tokens {
            let context = self.gemma().info().context;
            self.notes.push(format!("the answer was cut off: the context of {context} tokens is full"));
        }
    }

    /// Ends the job: the stream's last entry first, then everybody who waits.
    fn end(&mut self, result: Result<&'static str, Error>, generation: Option<&Generation>) {
        ENDED.fetch_add(1, Ordering::Relaxed);
        // One that its client gave up says when the client did.
        if matches!(result, Ok(reason) if reason != "cancelled") {
            Operation::Generate.ended(self.asked);
        }
        // What was cancelled, or ran out of time, is no answer.
        let whole = matches!(result, Ok("stop" | "stop_string" | "length"));
        // What was held back until now is what readers get.
        if let Some(generation) = generation {
            count(generation);
            self.show_first(generation);
            if let Some(stream) = &self.stream {
                stream.push(generation.untaken());
            }
        }
        if let Some(paths) = &self.paths {
            paths.end(generation.map_or(0, Generation::tokens), whole);
        }
        if result.is_ok() {
            self.note_use();
        }
        let text = generation.filter(|_| whole).map(|generation| generation.text().to_owned());
        let outcome = result.map(|reason| self.reply(reason, generation));
        #[cfg(feature = "latch")]
        crate::latch::pass();
        let (job, stream, mut chat) = (self.job.clone(), self.stream.take(), self.chat.take());
        if stream.is_none() && chat.is_none() {
            return job.finish(outcome);
        }
        let mut outcome = Some(outcome);
        commit::submit(move |ctx| {
            if ffi::is_paused() {
                return Ran::Later;
            }
            // The answer is stored once, however often the stream has to be tried.
            if let Some(chat) = chat.take() {
                outcome = outcome.take().map(|made| chat.settle.settle(ctx, made, text.as_deref()));
            }
            let Some(made) = &mut outcome else { return Ran::Done };
            if let Some(stream) = &stream {
                let fields = match &*made {
                    // The entry is for whoever reads the text: a log-probability for each token would be many times as long.
                    Ok(reply) => {
                        let mut fields = streams::entry_fields(reply);
                        fields.retain(|(name, _)| name != LOGPROBS);
                        fields
                    }
                    Err(error) => vec![("error".to_owned(), error.line())],
                };
                match stream.end(ctx, &fields) {
                    Err(ran) => return ran,
                    Ok(Some(reason)) => {
                        if let Ok(Value::Map(fields)) = made
                            && let Some((_, Value::Array(notes))) = fields.iter_mut().find(|(name, _)| name == "notes")
                        {
                            notes.push(Value::from(format!("the stream is incomplete: {reason}")));
                        }
                    }
                    Ok(None) => {}
                }
            }
            if let Some(made) = outcome.take() {
                job.finish(made);
            }
            Ran::Done
        });
    }

    fn reply(&self, reason: &'static str, generation: Option<&Generation>) -> Value {
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
        let (text, prompt_tokens, tokens, prefill, decode, confidence, why) = match generation {
            Some(generation) => {
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
            None => (String::new(), 0, 0, None, None, 0.0, "nothing was generated".to_owned()),
        };
        let mut fields = vec![
            ("text", Value::from(text)),
            ("finish_reason", Value::from(reason)),
            ("prompt_tokens", Value::from(prompt_tokens)),
            ("reused_tokens", Value::from(generation.map_or(0, Generation::reused_tokens))),
            ("tokens", Value::from(tokens)),
            ("prompt_tokens_per_second", rate(prefill)),
            ("tokens_per_second", rate(decode)),
            ("seed", Value::from(seed)),
            ("confidence", fields::rounded(confidence)),
            ("reason", Value::from(why)),
        ];
        if self.request.log_probabilities {
            fields.push((LOGPROBS, self.log_probabilities(generation)));
        }
        fields.push(("model", Value::from(self.model.name.as_str())));
        fields.extend(self.paths.iter().flat_map(Paths::fields));
        fields.extend([("memories", Value::Array(memories)), ("notes", texts(&self.notes))]);
        Value::map(fields)
    }

    /// How likely each token of the answer was, and which others were likely.
    fn log_probabilities(&self, generation: Option<&Generation>) -> Value {
        let tokenizer = self.gemma().tokenizer();
        let token = |id: u32, log_probability: f64| {
            let piece = || tokenizer.piece(id).unwrap_or_default().as_bytes().to_vec();
            vec![
                ("id", Value::from(u64::from(id))),
                ("text", Value::Bytes(tokenizer.written(id).unwrap_or_else(piece))),
                ("logprob", fields::rounded(log_probability)),
            ]
        };
        let each = |scored: Scored| {
            let top = scored.likeliest.iter().map(|&(id, log_probability)| Value::map(token(id, log_probability)));
            let mut fields = token(scored.token, scored.log_probability);
            fields.push(("top", Value::Array(top.collect())));
            Value::map(fields)
        };
        Value::Array(generation.into_iter().flat_map(|generation| generation.scored().map(each)).collect())
    }
}

/// Counts what was generated, whatever becomes of it.
fn count(generation: &Generation) {
    let add = |counter: &AtomicU64, by: u64| {
        counter.fetch_add(by, Ordering::Relaxed);
    };
    add(&TOKENS, generation.tokens() as u64);
    add(&DECODE_MICROS, u64::try_from(generation.timings().decode.as_micros()).unwrap_or(u64::MAX));
    let (guessed, right) = generation.guesses();
    add(&GUESSED, guessed as u64);
    add(&GUESSED_RIGHT, right as u64);
}

fn texts(notes: &[String]) -> Value {
    Value::Array(notes.iter().map(|note| Value::from(note.as_str())).collect())
}
