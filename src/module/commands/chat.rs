//! GEMMA.CHAT: one round trip for a turn of a conversation. The user's turn is stored, memories are recalled, the prompt is assembled of the session and of them, the
//! answer is generated and stored as the next turn.
//!
//! Four stations. The pool counts the message's tokens. The main thread stores the turn, as an effect that is replicated whatever comes after, and waits until the vectors of
//! turns are there; then it takes from the space what the prompt is made of. The pool recalls and generates (`generate`). The main thread stores the answer, or marks the turn as
//! unanswered if there is none, and only then replies.
//!
//! **Order.** Two chats in one session are answered one after the other: the second waits, not stored yet, until the first has its answer, so that turns alternate and the second sees
//! the first. Whoever is at work holds an [`InOrder`]; dropping it, however the work ended, lets the next one begin.
//!
//! A session that is deleted meanwhile gets no answer stored; one whose time ends meanwhile begins anew with the answer. Both are said in the reply.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use engram_memory::{MemoryId, NewTurn, Update};

use super::context::Material;
use super::generate::{self, Start};
use super::recall::Search;
use super::session::{after_append, fitting, outcome_of};
use super::{Outcome, answer_for, check_size, expect_memory, read, target};
use crate::commit::{self, Expect, Needs, Ran, Target};
use crate::datatype::{self, Found};
use crate::ffi::{self, Ctx, Key, Mode, Str};
use crate::fill;
use crate::grammar::{self, Command, Parsed};
use crate::jobs::{self, Job, Started};
use crate::models::{self, Counter, Embedding, Text};
use crate::reply::{Error, Value};

/// The tag of a user's turn that got no answer.
const UNANSWERED: &str = "unanswered";

type Begin = Box<dyn FnOnce(Ctx) + Send>;

/// A session: database, key, name.
type Place = (i32, Box<[u8]>, String);

/// Who waits in sessions in which somebody is being answered.
static WAITING: LazyLock<Mutex<HashMap<Place, VecDeque<Begin>>>> = LazyLock::new(Mutex::default);

/// Held for a few plain operations only.
fn waiting() -> MutexGuard<'static, HashMap<Place, VecDeque<Begin>>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to be answered in a session, until it is dropped.
pub struct InOrder(Place);

impl Drop for InOrder {
    fn drop(&mut self) {
        let place = self.0.clone();
        commit::submit(move |ctx| {
            let next = {
                let mut waiting = waiting();
                let next = waiting.get_mut(&place).and_then(VecDeque::pop_front);
                if next.is_none() {
                    waiting.remove(&place);
                }
                next
            };
            if let Some(next) = next {
                next(ctx);
            }
            Ran::Done
        });
    }
}

/// Calls `begin` once nobody else is being answered in the session: now, or on the main thread later.
fn in_order(ctx: Ctx, place: Place, begin: impl FnOnce(Ctx, InOrder) + Send + 'static) {
    let order = InOrder(place.clone());
    if let Some(queue) = waiting().get_mut(&place) {
        queue.push_back(Box::new(move |ctx| begin(ctx, order)));
        return;
    }
    waiting().insert(place, VecDeque::new());
    begin(ctx, order);
}

/// `GEMMA.CHAT key session message [options of GEMMA.GENERATE]`
pub fn chat(ctx: Ctx, args: &Parsed) -> Outcome {
    if ctx.must_not_block() {
        return Err(Error::err(
            "GEMMA.CHAT takes seconds and is refused inside MULTI, scripts and functions: call it outside",
        ));
    }
    let (key, session, message) = (args.key("key"), args.text("session"), args.text("message"));
    check_size(message, "the message")?;
    let start = Start::of(ctx, args, message)?.with_memories(ctx, args.key("key"));
    expect_memory(ctx)?;
    let target = target(ctx, key)?;
    let nowait = args.flag("nowait");
    let job = match jobs::start(ctx, "GEMMA.CHAT", args.opt_text("job"), args.fingerprint(), nowait)? {
        Started::Existing(job) => job,
        Started::New(job) => {
            let turn = Asked {
                job: job.clone(),
                target,
                session: session.to_owned(),
                message: message.to_owned(),
                tokens: 0,
                start: start.with_stream(ctx, args, &job),
                command: args.command(),
                words: args.owned(),
            };
            let flow = answer_for(ctx, &job, nowait);
            models::spawn_once(move || turn.count());
            return flow;
        }
    };
    answer_for(ctx, &job, nowait)
}

/// A message on its way into its session.
struct Asked {
    job: Arc<Job>,
    target: Target,
    session: String,
    message: String,
    tokens: u32,
    start: Start,
    command: &'static Command,
    words: Vec<Vec<u8>>,
}

impl Asked {
    /// Counts the message's tokens, on the pool, and gets in line.
    fn count(mut self) {
        let tokens = self.start.counter().count(&self.message);
        self.tokens = u32::try_from(tokens).unwrap_or(u32::MAX).max(1);
        let mut asked = Some(self);
        commit::submit(move |ctx| {
            if let Some(asked) = asked.take() {
                let place = (asked.target.db, asked.target.key.clone(), asked.session.clone());
                in_order(ctx, place, |ctx, order| asked.store(ctx, order));
            }
            Ran::Done
        });
    }

    /// Stores the turn, on the main thread; what it is answered with is gathered when the vectors are there.
    fn store(self, _ctx: Ctx, order: InOrder) {
        let mut work = Some((self, order));
        // In a unit of its own: it may have to wait for a pause to end.
        commit::submit(move |ctx| {
            if ffi::is_paused() {
                return Ran::Later;
            }
            let Some((mut asked, order)) = work.take() else { return Ran::Done };
            let job = asked.job.clone();
            match asked.append(ctx) {
                Ok(turn) => asked.answer_when_filled(ctx, turn, order),
                Err(error) => job.finish(Err(error)),
            }
            Ran::Done
        });
    }

    fn append(&mut self, ctx: Ctx) -> Result<MemoryId, Error> {
        if self.job.is_cancelled() {
            return Err(Error::new("CANCELLED", "cancelled before its turn came; nothing was stored"));
        }
        let turn = NewTurn {
            role: "user".to_owned(),
            content: self.message.clone(),
            outcome: outcome_of("user", &self.message),
            tokens: self.tokens,
            awaits: true,
            ..NewTurn::default()
        };
        let ids = commit::commit(ctx, &self.target, Needs::STORE, |space, now| {
            Ok(space.append(now, &self.session, fitting(space, vec![turn]))?)
        });
        let turn = ids.map_err(Error::from)?.first().copied().ok_or_else(|| Error::err("the turn was not stored"))?;
        let name = Str::new(&self.target.key);
        // From here on the work belongs to the space that stands there now.
        if let Found::Space(held) = datatype::find(&mut Key::open(ctx, &name, Mode::Peek)) {
            self.target.expect = Expect::Incarnation(held.incarnation);
        }
        after_append(ctx, &self.target.key, &self.session, None);
        Ok(turn)
    }

    fn answer_when_filled(self, ctx: Ctx, turn: MemoryId, order: InOrder) {
        let key = self.target.key.clone();
        let answer = move |ctx: Ctx| self.answer(ctx, turn, order);
        let at_once = match datatype::find(&mut Key::open(ctx, &Str::new(&key), Mode::Peek)) {
            Found::Space(held) => fill::until_filled(held, answer),
            _ => Some(answer),
        };
        if let Some(answer) = at_once {
            answer(ctx);
        }
    }

    /// Takes from the space what the prompt is made of, and has the answer generated.
    fn answer(self, ctx: Ctx, turn: MemoryId, order: InOrder) {
        ctx.select(self.target.db);
        let gathered = self.gather(ctx);
        let settle = Settle {
            target: self.target,
            session: self.session,
            turn,
            counter: self.start.counter(),
            fitted: None,
            _order: order,
        };
        match gathered {
            Ok((material, search, question)) => {
                self.start.run(self.job, search, Embedding::of(question), Some(Chat { material, settle }));
            }
            Err(error) => {
                self.job.finish(settle.settle(ctx, Err(error), None));
            }
        }
    }

    fn gather(&self, ctx: Ctx) -> Result<(Material, Option<Search>, Text), Error> {
        let words: Vec<&[u8]> = self.words.iter().map(Vec::as_slice).collect();
        let args = grammar::parse(self.command, &words)?;
        let material = read(ctx, &self.target.key, |held| {
            if self.target.expect != Expect::Incarnation(held.incarnation) {
                return Err(Error::new("STALE", "the space was replaced meanwhile: retry"));
            }
            Ok(Material::of(&held.space, ffi::now(), Some(&self.session), self.start.context()))
        })?;
        let mut material = material.ok_or_else(|| Error::err("the space was deleted meanwhile"))?;
        material.instruction = args.opt_text("system").map(str::to_owned);
        let mut search = Search::begin(ctx, &self.target.key, &args, self.start.memories())?;
        if let Some(search) = &mut search {
            search.everywhere();
            search.look_for(self.message.clone())?;
        }
        let question =
            search.as_ref().map_or_else(|| Text::query(self.message.as_str()), |search| search.question(&self.message));
        Ok((material, search, question))
    }
}

/// What makes a generation a chat: what its prompt is made of, and what becomes of its answer.
pub struct Chat {
    pub material: Material,
    pub settle: Settle,
}

/// What becomes of an answer.
pub struct Settle {
    target: Target,
    session: String,
    /// The user's turn.
    turn: MemoryId,
    /// Counts tokens as the model does that answers.
    pub counter: Counter,
    /// The turns that the prompt had room for, if it had not for all.
    pub fitted: Option<usize>,
    _order: InOrder,
}

impl Settle {
    /// Stores the answer, or marks the turn as unanswered, on the main thread and not while the server is paused. `text` is the answer if it is whole. Gives the
    /// outcome with what is to be said.
    pub fn settle(&self, ctx: Ctx, outcome: Result<Value, Error>, text: Option<&str>) -> Result<Value, Error> {
        let (stored, note) = match text.filter(|text| !text.trim().is_empty()) {
            Some(text) => match self.store(ctx, text) {
                Ok((id, note)) => (id, note),
                Err(error) => {
                    self.mark(ctx);
                    let why = format!("the answer was not stored ({}): {}", error.line(), self.unanswered());
                    (None, Some(why))
                }
            },
            None => {
                self.mark(ctx);
                (None, Some(self.unanswered()))
            }
        };
        match outcome {
            Ok(Value::Map(mut fields)) => {
                let at = fields.iter().position(|(name, _)| name == "notes").unwrap_or(fields.len());
                if let (Some(note), Some((_, Value::Array(notes)))) = (note, fields.get_mut(at)) {
                    notes.push(Value::from(note));
                }
                let answer = stored.map_or(Value::Null, |id| Value::from(id.to_string()));
                fields.insert(at, ("answer".into(), answer));
                fields.insert(at, ("turn".into(), Value::from(self.turn.to_string())));
                Ok(Value::Map(fields))
            }
            Ok(other) => Ok(other),
            Err(mut error) => {
                error.message.push_str(&format!("; {}", note.unwrap_or_default()));
                Err(error)
            }
        }
    }

    fn unanswered(&self) -> String {
        format!("the turn {} stays, marked {UNANSWERED}", self.turn)
    }

    fn store(&self, ctx: Ctx, text: &str) -> Result<(Option<MemoryId>, Option<String>), Error> {
        let text = text.trim();
        let answer = NewTurn {
            role: "assistant".to_owned(),
            content: text.to_owned(),
            tokens: u32::try_from(self.counter.count(text)).unwrap_or(u32::MAX).max(1),
            awaits: true,
            ..NewTurn::default()
        };
        let stored = commit::commit(ctx, &self.target, Needs::CHANGE, |space, now| {
            if space.get(now, self.turn).is_none() {
                let why = "the turn was deleted while it was being answered: the answer is not stored";
                return Ok(((None, Some(why.to_owned())), Vec::new()));
            }
            let anew = space.session(now, &self.session).is_none();
            let note = anew.then(|| {
                format!("session {} ended while this was generated: it begins anew with the answer", self.session)
            });
            let (ids, effects) = space.append(now, &self.session, fitting(space, vec![answer]))?;
            Ok(((ids.first().copied(), note), effects))
        });
        let stored = stored.map_err(Error::from)?;
        if stored.0.is_some() {
            after_append(ctx, &self.target.key, &self.session, self.fitted);
        }
        Ok(stored)
    }

    /// Marks the user's turn, if it still stands.
    fn mark(&self, ctx: Ctx) {
        // Where the space has gone there is nothing to mark.
        let _ = commit::commit(ctx, &self.target, Needs::FREE, |space, now| {
            let Some(entry) = space.get(now, self.turn) else { return Ok(((), Vec::new())) };
            let mut tags: Vec<String> = entry.tags.iter().map(|tag| String::from(&**tag)).collect();
            tags.push(UNANSWERED.to_owned());
            Ok(((), space.update(now, self.turn, Update { tags: Some(tags), ..Update::default() })?))
        });
    }
}

/// Chats that wait for another one in their session.
pub fn waiting_chats() -> usize {
    waiting().values().map(VecDeque::len).sum()
}

/// The prompt of a chat, in the turns of the model's template.
pub fn prompt(chat: &Chat, run: &generate::Prompt) -> Result<generate::Fitted, Error> {
    let counter = &chat.settle.counter;
    let mut budget = run.most;
    for _ in 0..ATTEMPTS {
        let fitted =
            chat.material.assemble(run.hits, budget, &|text| super::context::counted(counter, text), |context| {
                let turns = engram_agent::chat_turns(context, run.has_system_role());
                let tokens = run.tokens(&turns)?;
                let shown = context.memories.iter().map(|memory| memory.id).collect();
                let left_out = context
                    .dropped
                    .iter()
                    .filter(|dropped| dropped.reason.contains("room"))
                    .map(|dropped| dropped.what);
                Ok(generate::Fitted { tokens, shown, turns: context.turns.len(), left_out: left_out.collect() })
            })?;
        if fitted.tokens.len() <= run.most {
            return Ok(fitted);
        }
        // The template takes tokens too.
        budget = budget.saturating_sub(fitted.tokens.len() - run.most).max(1);
    }
    Err(Error::err(format!(
        "the prompt may take {} tokens, and the message with the model's template takes more",
        run.most
    )))
}

/// How often a prompt is assembled for a smaller budget because the template takes tokens too.
const ATTEMPTS: usize = 8;
