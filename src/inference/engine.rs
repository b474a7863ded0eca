//! The engine: all answers of one model, a step at a time, in one batch.
//!
//! An [`Engine`] is at most one task in the pool. A step takes the next token of every answer that is being generated and a piece
//! of the prompts that are being read, and sends them through the model together: the weights are read once for all of them. So
//! answers join and leave at any step, and a prompt delays the others by a piece at most. Between layers the pool's short tasks
//! get their turn.
//!
//! **Who is next.** [`ACTIVE`] answers are in the batch; the others wait for a place, by priority and fair shares (`turns`).
//! Prompts get the rows that are left in turn.
//!
//! **What is not read twice.** A text that begins as another did goes on from its keys and values ([`Limits`]), until what it was
//! made of is gone ([`Engine::forget`]). And an answer
//! that repeats what has stood in its text is guessed ahead, and checked, while few answers share the batch.
//!
//! **Who says what.** The engine knows nothing of clients. Whoever submits an answer brings an [`Owner`], which is asked before
//! every step whether to go on and told after every step what came of it. No lock is held while it is asked or told.
//!
//! Rejected: one task per answer with products of its own (eight answers read the weights eight times); a thread that belongs
//! to the engine (two models would fight for the cores that the pool shares out); preempting an answer for one that is more
//! urgent (its keys and values would stay in memory all the same).

mod turns;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::Error;
use crate::gemma::prefix::Prefixes;
use crate::gemma::{BATCH, Gemma, LOGITS, Limits, Part, Stats, Workspace};
use crate::generation::{Generation, Step};
use crate::packed::FEW;
use crate::pool::{Advance, Pool, Priority, Task};
use turns::{Claim, Turns};

/// Answers in a batch.
pub const ACTIVE: usize = 16;
/// Rows of prompts in a batch with answers that are being generated, which wait for them.
const BESIDE: usize = 32;
/// Multiplications of a step that only reads prompts, about: what a cancellation or a new answer waits for.
const WORK: usize = 20_000_000_000;

/// The other side of an answer.
pub trait Owner: Send {
    /// Whether to go on with it; asked before every step, also while it waits. If not, it is dropped after this call.
    fn goes_on(&mut self, generation: &mut Generation) -> bool;

    /// What a step left behind. After [`Step::Done`] or an error it is dropped.
    fn stepped(&mut self, generation: &mut Generation, step: Result<Step, Error>);

    /// A panic ended the engine's step; everything is dropped after this call.
    fn panicked(&mut self, message: &str);
}

/// An answer to be generated.
pub struct Request {
    /// The answer.
    pub generation: Generation,
    /// Whose it is, for a fair share: a user, a tenant.
    pub tenant: String,
    /// Only answers of one scope share keys and values; those of none keep nothing.
    pub scope: Option<String>,
    /// Higher comes first.
    pub priority: i32,
    /// What is asked and told.
    pub owner: Box<dyn Owner>,
}

/// How much an engine has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Answers in the batch.
    pub active: usize,
    /// Answers that wait for a place in it.
    pub waiting: usize,
}

/// The answers of one model.
pub struct Engine {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
}

struct Shared {
    model: Arc<Gemma>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    arrivals: u64,
    active: usize,
    /// Whether a task runs; with answers there is always one.
    running: bool,
    /// The workspace, between two tasks.
    workspace: Option<Workspace>,
    /// What is kept of texts, between two steps.
    prefixes: Option<Prefixes>,
    /// How much of it, from the next step on.
    limits: Limits,
    /// What there is of it.
    kept: Stats,
    /// Why less is kept than was asked for.
    trouble: Option<Error>,
    /// How scopes begin of which nothing is kept any more, from the next step on.
    forgotten: Vec<String>,
    turns: Turns,
}

struct Waiting {
    request: Request,
    arrival: u64,
    /// The step at which it arrived.
    since: u64,
}

impl Engine {
    /// An engine for a model; it uses the pool while there are answers.
    pub fn new(model: Arc<Gemma>, pool: Arc<Pool>) -> Engine {
        let state = State { prefixes: Some(Prefixes::new(Arc::clone(model.layout()))), ..State::default() };
        Engine { shared: Arc::new(Shared { model, state: Mutex::new(state) }), pool }
    }

    /// Changes how much of texts is kept, from now on: at once if nothing runs, else with the next step. An error that this
    /// leads to is for [`Engine::trouble`].
    pub fn limit(&self, limits: Limits) {
        let mut state = lock(&self.shared.state);
        state.limits = limits;
        if let Some(mut prefixes) = state.prefixes.take() {
            state.apply(&mut prefixes);
            state.prefixes = Some(prefixes);
        }
    }

    /// Drops what is kept of texts for scopes that begin so: what they were made of is gone. Answers that wait or run now end as they
    /// would have, and nothing of them is kept. At once if nothing runs, else with the next step.
    pub fn forget(&self, beginning: &str) {
        let mut state = lock(&self.shared.state);
        if state.running {
            if !state.forgotten.iter().any(|known| known == beginning) {
                state.forgotten.push(beginning.to_owned());
            }
        } else if let Some(mut prefixes) = state.prefixes.take() {
            prefixes.forget(beginning);
            state.kept = prefixes.stats();
            state.prefixes = Some(prefixes);
        }
    }

    /// What is kept of texts, and what came of it.
    pub fn kept(&self) -> Stats {
        lock(&self.shared.state).kept
    }

    /// Why less is kept than was asked for; told once.
    pub fn trouble(&self) -> Option<Error> {
        lock(&self.shared.state).trouble.take()
    }

    /// The model.
    pub fn model(&self) -> &Arc<Gemma> {
        &self.shared.model
    }

    /// What it has to do.
    pub fn load(&self) -> Load {
        let state = lock(&self.shared.state);
        Load { active: state.active, waiting: state.waiting.len() }
    }

    /// Adds an answer.
    pub fn submit(&self, request: Request) {
        let mut state = lock(&self.shared.state);
        let arrival = state.arrivals;
        state.arrivals += 1;
        let since = state.turns.now();
        state.waiting.push(Waiting { request, arrival, since });
        if !std::mem::replace(&mut state.running, true) {
            let (workspace, prefixes) = (state.workspace.take(), state.prefixes.take());
            drop(state);
            let (shared, pool) = (Arc::clone(&self.shared), Arc::clone(&self.pool));
            let prefixes = prefixes.unwrap_or_else(|| Prefixes::new(Arc::clone(shared.model.layout())));
            let steps = Steps { shared, pool, workspace, prefixes, active: Vec::new(), turn: 0 };
            self.pool.spawn(Priority::Normal, Box::new(steps));
        }
    }
}

impl State {
    fn apply(&mut self, prefixes: &mut Prefixes) {
        if let Err(error) = prefixes.limit(&self.limits) {
            self.trouble = Some(error);
        }
        self.kept = prefixes.stats();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task that makes the steps.
struct Steps {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    workspace: Option<Workspace>,
    prefixes: Prefixes,
    active: Vec<Request>,
    /// Which prompt gets rows first.
    turn: usize,
}

impl Task for Steps {
    fn step(&mut self) -> Advance {
        let prefixes = &mut self.prefixes;
        self.active.retain_mut(|request| {
            let goes_on = request.owner.goes_on(&mut request.generation);
            if !goes_on {
                keep(prefixes, request, true);
            }
            goes_on
        });
        if !self.admit() {
            return Advance::Done;
        }
        self.advance();
        Advance::Again
    }

    fn panicked(&mut self, message: &str) {
        for request in &mut self.active {
            request.owner.panicked(message);
        }
        self.active.clear();
        let waiting = {
            let mut state = lock(&self.shared.state);
            (state.active, state.running) = (0, false);
            std::mem::take(&mut state.waiting)
        };
        for mut waiting in waiting {
            waiting.request.owner.panicked(message);
        }
    }
}

impl Steps {
    /// Takes those that wait into the batch, as far as there is room. Whether there is anything to do; if not, the task has
    /// given up its place.
    fn admit(&mut self) -> bool {
        // Owners are asked without the lock: they may take a while.
        let mut asked = std::mem::take(&mut lock(&self.shared.state).waiting);
        asked.retain_mut(|waiting| waiting.request.owner.goes_on(&mut waiting.request.generation));
        let before = self.active.len();
        let mut state = lock(&self.shared.state);
        asked.append(&mut state.waiting);
        for beginning in std::mem::take(&mut state.forgotten) {
            self.prefixes.forget(&beginning);
            let waiting = asked.iter_mut().map(|waiting| &mut waiting.request);
            for request in waiting.chain(&mut self.active) {
                request.scope.take_if(|scope| scope.starts_with(&beginning));
            }
        }
        while self.active.len() < ACTIVE && !asked.is_empty() {
            let active = &self.active;
            let claims = asked.iter().map(|Waiting { request, arrival, since }| Claim {
                tenant: &request.tenant,
                priority: request.priority,
                here: active.iter().filter(|other| other.tenant == request.tenant).count(),
                arrival: *arrival,
                since: *since,
            });
            let Some(next) = state.turns.next(claims) else { break };
            self.active.push(asked.swap_remove(next).request);
        }
        state.waiting = asked;
        state.active = self.active.len();
        state.apply(&mut self.prefixes);
        if self.active.is_empty() {
            state.running = false;
            state.workspace = self.workspace.take();
            let empty = Prefixes::new(Arc::clone(self.shared.model.layout()));
            state.prefixes = Some(std::mem::replace(&mut self.prefixes, empty));
        }
        drop(state);
        for Request { generation, scope, .. } in self.active.iter_mut().skip(before) {
            if let Some(scope) = scope
                && let Some((cache, len)) = self.prefixes.find(scope, generation.prompt())
            {
                generation.resume(cache, len);
            }
        }
        !self.active.is_empty()
    }

    /// One batch.
    fn advance(&mut self) {
        let model = &self.shared.model;
        if self.workspace.is_none() {
            match Workspace::new(Arc::clone(model)) {
                Ok(made) => self.workspace = Some(made),
                Err(error) => return self.fail(&error),
            }
        }
        let Some(work) = &mut self.workspace else { return };
        let decoding = self.active.iter().filter(|request| !request.generation.is_reading()).count();
        let mut room = if decoding > 0 { BESIDE } else { (WORK / model.work_per_token().max(1)).clamp(BESIDE, BATCH) };
        // Prompts in turn; an answer that is being generated has its row in any case.
        let reading = self.active.len() - decoding;
        let first = if reading > 0 { self.turn % reading } else { 0 };
        self.turn = self.turn.wrapping_add(1);
        let (mut seen, mut rows) = (0, vec![0; self.active.len()]);
        for pass in 0..2 {
            for (n, request) in self.active.iter().enumerate().filter(|(_, request)| request.generation.is_reading()) {
                let mine = (pass == 0) == (seen % reading.max(1) >= first);
                seen += 1;
                if mine {
                    rows[n] = room.min(request.generation.unread());
                    room -= rows[n];
                }
            }
        }
        // What is guessed costs little as long as the weights are read for it anyway.
        let ahead = if reading == 0 { (FEW / decoding.max(1)).max(1) } else { 1 };
        let started = Instant::now();
        let pool = Arc::clone(&self.pool);
        let lead = pool.lead();
        let mut parts: Vec<Part<'_>> = Vec::with_capacity(self.active.len());
        let mut taken = Vec::with_capacity(self.active.len());
        let (mut wanted, mut total) = (0, 0);
        for (n, request) in self.active.iter_mut().enumerate() {
            if request.generation.is_reading() && rows[n] == 0 {
                continue;
            }
            let part = request.generation.part(if request.generation.is_reading() { rows[n] } else { ahead });
            if total + part.tokens.len() > BATCH || wanted + part.logits > LOGITS {
                continue;
            }
            total += part.tokens.len();
            taken.push((n, wanted));
            wanted += part.logits;
            parts.push(part);
        }
        let appended = work.append(&mut parts, &lead, &|| pool.run_urgent());
        drop(parts);
        if let Err(error) = appended {
            // Mostly for want of memory: what is only kept for later goes.
            self.prefixes.clear();
            return self.fail(&error);
        }
        let spent = started.elapsed();
        let mut ended = Vec::new();
        let mut tokens: HashMap<String, u64> = HashMap::new();
        for (n, row) in taken {
            let Request { generation, owner, tenant, .. } = &mut self.active[n];
            let reading = generation.is_reading();
            let step = generation.appended(work, row, &lead, spent);
            *tokens.entry(tenant.clone()).or_default() += rows[n].max(1) as u64;
            let is_over = !matches!(step, Ok(Step::Running));
            owner.stepped(generation, step);
            if is_over {
                ended.push(n);
            }
            if is_over || reading {
                keep(&mut self.prefixes, &self.active[n], is_over);
            }
        }
        drop(lead);
        for n in ended.into_iter().rev() {
            drop(self.active.remove(n));
        }
        lock(&self.shared.state).turns.step(tokens);
    }

    /// Ends all answers of the batch with an error.
    fn fail(&mut self, error: &Error) {
        for Request { generation, owner, .. } in &mut self.active {
            owner.stepped(generation, Err(error.clone()));
        }
        self.active.clear();
    }
}

/// Keeps what a text has of keys and values for those that begin alike.
fn keep(prefixes: &mut Prefixes, request: &Request, ended: bool) {
    if let Some(scope) = &request.scope {
        let (tokens, cache) = request.generation.held();
        prefixes.keep(scope, &tokens, cache, ended);
    }
}

#[cfg(test)]
mod tests;
