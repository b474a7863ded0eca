//! The engine: all answers of one model, a step at a time, in one batch.
//!
//! An [`Engine`] is at most one task in the pool. A step takes the next token of every answer that is being generated and a piece
//! of the prompts that are being read, and sends them through the model together: the weights are read once for all of them. So
//! answers join and leave at any step, and a prompt delays the others by a piece at most. Between layers the pool's short tasks
//! get their turn.
//!
//! **Who is next.** [`ACTIVE`] answers are in the batch; the others wait: by priority, then the owner with the fewest answers in
//! the batch and the fewest tokens so far, then in the order of arrival. Prompts get the rows that are left in turn.
//!
//! **Who says what.** The engine knows nothing of clients. Whoever submits an answer brings an [`Owner`], which is asked before
//! every step whether to go on and told after every step what came of it. No lock is held while it is asked or told.
//!
//! Rejected: one task per answer with products of its own (eight answers read the weights eight times); a thread that belongs
//! to the engine (two models would fight for the cores that the pool shares out); preempting an answer for one that is more
//! urgent (its keys and values would stay in memory all the same).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::Error;
use crate::gemma::{BATCH, Gemma, LOGITS, Part, Workspace};
use crate::generation::{Generation, Step};
use crate::pool::{Advance, Pool, Priority, Task};

/// Answers in a batch.
pub const ACTIVE: usize = 16;
/// Rows of prompts in a batch with answers that are being generated, which wait for them.
const BESIDE: usize = 32;
/// Multiplications of a step that only reads prompts, about: what a cancellation or a new answer waits for.
const WORK: usize = 20_000_000_000;
/// Owners whose tokens are remembered.
const KNOWN: usize = 4_096;

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
    /// Tokens of each tenant so far.
    served: HashMap<String, u64>,
}

struct Waiting {
    request: Request,
    arrival: u64,
}

impl Engine {
    /// An engine for a model; it uses the pool while there are answers.
    pub fn new(model: Arc<Gemma>, pool: Arc<Pool>) -> Engine {
        Engine { shared: Arc::new(Shared { model, state: Mutex::default() }), pool }
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
        state.waiting.push(Waiting { request, arrival });
        if !std::mem::replace(&mut state.running, true) {
            let workspace = state.workspace.take();
            drop(state);
            let (shared, pool) = (Arc::clone(&self.shared), Arc::clone(&self.pool));
            self.pool.spawn(Priority::Normal, Box::new(Steps { shared, pool, workspace, active: Vec::new(), turn: 0 }));
        }
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
    active: Vec<Request>,
    /// Which prompt gets rows first.
    turn: usize,
}

impl Task for Steps {
    fn step(&mut self) -> Advance {
        self.active.retain_mut(|request| request.owner.goes_on(&mut request.generation));
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
        let mut state = lock(&self.shared.state);
        asked.append(&mut state.waiting);
        while self.active.len() < ACTIVE && !asked.is_empty() {
            let active = &self.active;
            let served = &state.served;
            let rank = |waiting: &Waiting| {
                let tenant = &waiting.request.tenant;
                let here = active.iter().filter(|request| request.tenant == *tenant).count();
                let tokens = served.get(tenant).copied().unwrap_or(0);
                (std::cmp::Reverse(waiting.request.priority), here, tokens, waiting.arrival)
            };
            let Some(next) = (0..asked.len()).min_by_key(|i| rank(&asked[*i])) else { break };
            self.active.push(asked.swap_remove(next).request);
        }
        state.waiting = asked;
        state.active = self.active.len();
        if self.active.is_empty() {
            state.running = false;
            state.workspace = self.workspace.take();
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
        let started = Instant::now();
        let lead = self.pool.lead();
        let mut parts: Vec<Part<'_>> = Vec::with_capacity(self.active.len());
        let mut taken = Vec::with_capacity(self.active.len());
        let (mut wanted, mut total) = (0, 0);
        for (n, request) in self.active.iter_mut().enumerate() {
            if request.generation.is_reading() && rows[n] == 0 {
                continue;
            }
            let part = request.generation.part(rows[n]);
            if total + part.tokens.len() > BATCH || wanted + part.logits > LOGITS {
                continue;
            }
            total += part.tokens.len();
            taken.push((n, wanted));
            wanted += part.logits;
            parts.push(part);
        }
        let pool = &self.pool;
        let appended = work.append(&mut parts, &lead, &|| pool.run_urgent());
        drop(parts);
        drop(lead);
        if let Err(error) = appended {
            return self.fail(&error);
        }
        let spent = started.elapsed();
        let mut ended = Vec::new();
        let mut tokens: HashMap<String, u64> = HashMap::new();
        for (n, row) in taken {
            let Request { generation, owner, tenant, .. } = &mut self.active[n];
            let before = generation.cost();
            let step = generation.appended(|i| work.logits(row + i), spent);
            *tokens.entry(tenant.clone()).or_default() += generation.cost() - before;
            if !matches!(step, Ok(Step::Running)) {
                ended.push(n);
            }
            owner.stepped(generation, step);
        }
        for n in ended.into_iter().rev() {
            drop(self.active.remove(n));
        }
        let mut state = lock(&self.shared.state);
        if state.served.len() > KNOWN {
            state.served.clear();
        }
        for (tenant, tokens) in tokens {
            *state.served.entry(tenant).or_default() += tokens;
        }
    }

    /// Ends all answers of the batch with an error.
    fn fail(&mut self, error: &Error) {
        for Request { generation, owner, .. } in &mut self.active {
            owner.stepped(generation, Err(error.clone()));
        }
        self.active.clear();
    }
}

#[cfg(test)]
mod tests;
