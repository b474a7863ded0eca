//! Vectors for memories that were stored, and their writers answered, before their content was embedded (turns of sessions, imports).
//!
//! One task per space goes back and forth: on the main thread, through the commit path, it takes the memories that wait and gives those it has embedded
//! their vectors, as effects of their own; on the pool it embeds. That a memory waits is part of the memory, so whoever finds one that nobody works
//! on (the timer of a restarted or promoted primary, or of one that has got an encoder) begins.
//!
//! Who searches a space must find the turns that were appended before: it [waits](until_filled) until those have their vectors. It never waits for what
//! cannot come: without an encoder, or with another than the space's, nothing is under way and nobody is held.
//!
//! Rejected: waiting on a pool thread (as many recalls as threads, and none is left to embed), and waiting for all that is appended meanwhile as well (a
//! steady writer would starve every reader).

use std::collections::{HashMap, VecDeque};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engram_agent::WordVector;
use engram_inference::pool::{Advance, Priority, Task};
use engram_memory::{Embedded, MemoryId, Missing, limits};

use crate::commands::Flow;
use crate::commit::{self, Expect, Needs, Ran, Stop, Target};
use crate::datatype::{self, Found, Held, Underway};
use crate::ffi::{self, Ctx, Key, Level, Mode, Str};
use crate::grammar::{self, Parsed};
use crate::jobs::{Place, Waiter};
use crate::models::{self, Counter, Embedding, Text};
use crate::reply::Error;

/// Memories that are embedded between two commits.
const BATCH: usize = 16;
/// Up to so many that wait are embedded before other work: somebody will ask for them soon. More are an import.
const SOON: usize = 64;
/// How long nothing is tried after it has failed.
const REST: Duration = Duration::from_secs(5);

type Then = Box<dyn FnOnce(Ctx) + Send>;

/// What waits, by incarnation of the space, each with the last memory that it waits for.
type Waiting = HashMap<u64, Vec<(MemoryId, Then)>>;

static WAITING: LazyLock<Mutex<Waiting>> = LazyLock::new(Mutex::default);

/// Held for a few plain operations only.
fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the vectors made that memories of a space wait for, if there are such, nobody does it already and it can be done. On the main thread of a primary.
pub fn begin(held: &Held, db: i32, key: &[u8]) {
    let space = &held.space;
    if space.awaiting() == 0 || held.fill_rests_until.get().is_some_and(|until| until > Instant::now()) {
        return;
    }
    let fits = match models::embedder() {
        Ok(encoder) => space.dim().is_none() || space.model() == Some(encoder.name()),
        // Being loaded: its name is looked at when it is there.
        Err(error) => error.code == "LOADING",
    };
    let Some(underway) = Some(()).filter(|()| fits).and_then(|()| held.filling.set()) else { return };
    let target = Target { db, key: key.into(), expect: Expect::Incarnation(held.incarnation) };
    let run = Box::new(Run {
        target,
        incarnation: held.incarnation,
        model: None,
        texts: VecDeque::new(),
        current: None,
        made: Vec::new(),
        many: space.awaiting() > SOON,
        _underway: underway,
    });
    run.on_main_thread(Ok(()));
}

/// Runs a command that searches a space: at once, or once the turns that were appended before it have their vectors. `run` gets the client that waits, if
/// it had to be blocked, and takes it when it answers later; else what it comes to is answered here.
pub fn searched(
    ctx: Ctx,
    key: &[u8],
    args: &Parsed,
    run: fn(Ctx, &Parsed, &mut Option<Waiter>) -> Result<Flow, Error>,
) -> Result<Flow, Error> {
    let name = Str::new(key);
    if !ctx.must_not_block()
        && let Found::Space(held) = datatype::find(&mut Key::open(ctx, &name, Mode::Peek))
        && held.filling.is_set()
        && held.space.awaiting() > 0
    {
        let (command, words, db) = (args.command(), args.owned(), ctx.db());
        // It waits in the queue like any other work; the search takes its own place, if it needs one.
        let place = Place::take()?;
        let waiter = Waiter::block(ctx, 0, || {});
        let again = move |ctx: Ctx| {
            drop(place);
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let mut waiter = Some(waiter);
            if !ctx.select(db) {
                return;
            }
            let outcome = grammar::parse(command, &words).and_then(|args| run(ctx, &args, &mut waiter));
            if let Some(waiter) = waiter {
                match outcome {
                    Ok(Flow::Reply(value)) => waiter.answer(Ok(value)),
                    Ok(Flow::Later) => {}
                    Err(error) => waiter.answer(Err(error)),
                }
            }
        };
        if let Some(at_once) = until_filled(held, again) {
            // Cannot be: something waits, and is being worked on.
            at_once(ctx);
        }
        return Ok(Flow::Later);
    }
    run(ctx, args, &mut None)
}

/// Gives `then` back if every memory of the space has its vectors, or will not get them soon; else keeps it, to be called on the main thread once those that
/// wait now have theirs, or have failed to get them.
pub fn until_filled<T: FnOnce(Ctx) + Send + 'static>(held: &Held, then: T) -> Option<T> {
    let last = held.space.last_awaiting().filter(|_| held.filling.is_set());
    let Some(last) = last else { return Some(then) };
    waiting().entry(held.incarnation).or_default().push((last, Box::new(then)));
    None
}

struct Run {
    target: Target,
    incarnation: u64,
    /// The model that made what is in `made`.
    model: Option<String>,
    texts: VecDeque<Missing>,
    current: Option<(Missing, Embedding)>,
    /// With the tokens of the content.
    made: Vec<(Embedded, u32)>,
    many: bool,
    _underway: Underway,
}

impl Run {
    fn on_main_thread(self: Box<Run>, worked: Result<(), Error>) {
        let (mut run, mut worked) = (Some(self), Some(worked));
        commit::submit(move |ctx| {
            if ffi::is_paused() {
                return Ran::Later;
            }
            let Some(mut this) = run.take() else { return Ran::Done };
            let turn = worked.take().unwrap_or(Ok(())).map_err(Stop::Never).and_then(|()| this.unit(ctx));
            match turn {
                Ok(first) => {
                    release(ctx, this.incarnation, first);
                    if !this.texts.is_empty() {
                        let priority = if this.many { Priority::Normal } else { Priority::High };
                        models::spawn(priority, Step(Some(this)));
                    }
                }
                Err(Stop::Later) => {
                    run = Some(this);
                    return Ran::Later;
                }
                Err(Stop::Never(error)) => {
                    ffi::log(
                        Level::Verbose,
                        &format!("engram: making vectors that were missing failed: {}", error.line()),
                    );
                    rest(ctx, &this.target, this.incarnation);
                    release(ctx, this.incarnation, None);
                }
            }
            Ran::Done
        });
    }

    /// Gives the space what has been embedded and takes what is missing next. Tells the first memory that still waits.
    fn unit(&mut self, ctx: Ctx) -> Result<Option<MemoryId>, Stop> {
        let (made, model) = (std::mem::take(&mut self.made), self.model.take());
        if let Some(model) = model {
            commit::commit(ctx, &self.target, Needs::CHANGE, |space, now| Ok(((), space.fill(now, &model, made)?)))?;
        }
        let missing = commit::commit(ctx, &self.target, Needs::FREE, |space, now| {
            Ok((space.first_awaiting(now, BATCH), Vec::new()))
        })?;
        let first = missing.first().map(|missing| missing.id);
        self.texts = missing.into();
        Ok(first)
    }

    /// One step on the pool: a window of a text. True if there is something for the main thread.
    fn embed(&mut self) -> Result<bool, Error> {
        let Some((memory, embedding)) = &mut self.current else {
            let Some(next) = self.texts.pop_front() else { return Ok(true) };
            let text = Text::of(&next);
            self.current = Some((next, Embedding::of(text)));
            return Ok(false);
        };
        let (windows, words) = match embedding.step() {
            Ok(None) => return Ok(false),
            Ok(Some((encoder, vectors))) => {
                self.model = Some(encoder.name().to_owned());
                (vectors.windows.clone(), vectors.words.iter().map(WordVector::vector).collect())
            }
            // A window takes a byte at least: such a text is left without a vector.
            Err(_) if memory.text.len() > limits::WINDOWS && models::is_too_long(&memory.text) => {
                self.model = models::embedder().ok().map(|encoder| encoder.name().to_owned());
                (Vec::new(), Vec::new())
            }
            Err(error) => return Err(error),
        };
        self.made.extend(self.current.take().map(|(memory, _)| {
            let tokens = Counter::current().count(memory.text.get(memory.from..).unwrap_or_default());
            (Embedded { memory, windows, words }, u32::try_from(tokens).unwrap_or(u32::MAX))
        }));
        Ok(self.texts.is_empty())
    }
}

/// Calls what waits for nothing any more. `first` is the first memory that still has no vectors; None: none is worked on.
fn release(ctx: Ctx, incarnation: u64, first: Option<MemoryId>) {
    let ready: Vec<Then> = {
        let mut waiting = waiting();
        let Some(those) = waiting.get_mut(&incarnation) else { return };
        let all = std::mem::take(those);
        let (ready, rest): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(last, _)| first.is_none_or(|first| first > *last));
        if rest.is_empty() {
            waiting.remove(&incarnation);
        } else {
            *those = rest;
        }
        ready.into_iter().map(|(_, then)| then).collect()
    };
    ready.into_iter().for_each(|then| then(ctx));
}

/// Notes in the space, if it still stands, that trying again at once is of no use.
fn rest(ctx: Ctx, target: &Target, incarnation: u64) {
    let name = Str::new(&target.key);
    if ctx.select(target.db)
        && let Found::Space(held) = datatype::find(&mut Key::open(ctx, &name, Mode::Peek))
        && held.incarnation == incarnation
    {
        held.fill_rests_until.set(Some(Instant::now() + REST));
    }
}

/// The embedding of what waits, on the pool.
struct Step(Option<Box<Run>>);

impl Step {
    fn hand_over(&mut self, worked: Result<(), Error>) {
        if let Some(run) = self.0.take() {
            run.on_main_thread(worked);
        }
    }
}

impl Task for Step {
    fn step(&mut self) -> Advance {
        let Some(run) = &mut self.0 else { return Advance::Done };
        match run.embed() {
            Ok(false) => return Advance::Again,
            Ok(true) => {
                #[cfg(feature = "latch")]
                crate::latch::pass();
                self.hand_over(Ok(()));
            }
            Err(error) => self.hand_over(Err(error)),
        }
        Advance::Done
    }

    fn panicked(&mut self, message: &str) {
        ffi::log(Level::Warning, &format!("engram: a panic while embedding ({message}); please report it"));
        self.hand_over(Err(Error::err("embedding failed with an internal error; the server's log has more")));
    }
}
