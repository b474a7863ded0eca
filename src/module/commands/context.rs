//! MEM.CONTEXT: what a model should be shown of a conversation and of what is remembered, within a budget of tokens.
//!
//! What goes in is taken from the space on the main thread, in one go, so that it is of one state: the session's summary and its turns, and a snapshot to recall from. The
//! recall and the assembly (`engram_agent::assemble`) run on the pool. The result is kept with the space until a write changes that, for `context-cache-ttl` seconds at most.
//!
//! Tokens are counted by the tokenizer that the server has for its language model, else by the text encoder's, else estimated; the reply says by which. A turn of a thousand
//! contexts is counted once: counts are kept by text (see [`counted`]).

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engram_agent::{Context, IMPORTANT, Memory, Parts, Turn};
use engram_memory::{Entry, Hit, MemoryId, Session, Space, Whereabouts};
use serde_json::{Value as Json, json};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::recall::{Origin, Search};
use super::{Flow, Outcome, check_size, read};
use crate::ffi::{self, Ctx};
use crate::fill;
use crate::grammar::Parsed;
use crate::jobs::{self, Place, Waiter};
use crate::latency::Operation;
use crate::models::{self, Counter, Text};
use crate::reply::{Error, Value};

/// Tokens of budget for each memory that is recalled when K is not given: what a short memory takes.
const TOKENS_PER_MEMORY: usize = 24;
/// Tokens of budget for each turn that is looked at: the least that a turn takes.
const TOKENS_PER_TURN: usize = 4;
/// Memories recalled when K is not given, at least and at most.
const RECALLED: std::ops::RangeInclusive<usize> = 10..=400;
/// Contexts that are kept per space.
const KEPT: usize = 32;

/// The assembled contexts of a space, as long as nothing has changed it.
#[derive(Clone, Default)]
pub struct Contexts(Arc<Mutex<Cache>>);

#[derive(Default)]
struct Cache {
    /// How often the space has been changed.
    version: u64,
    known: HashMap<u128, Known>,
}

#[derive(Clone)]
struct Known {
    made: Instant,
    /// When the first thing ends that may be in the context.
    until: Option<u64>,
    reply: Value,
    found: Vec<Whereabouts>,
}

impl Contexts {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The space has changed.
    pub fn invalidate(&self) {
        let mut cache = self.cache();
        cache.version += 1;
        cache.known.clear();
    }

    fn version(&self) -> u64 {
        self.cache().version
    }

    fn get(&self, request: u128, ttl: u64, now: u64) -> Option<Known> {
        let mut cache = self.cache();
        let known = cache.known.get(&request)?;
        if known.made.elapsed() < Duration::from_secs(ttl) && known.until.is_none_or(|until| until > now) {
            return Some(known.clone());
        }
        cache.known.remove(&request);
        None
    }

    /// Keeps a context that was made of the space as it was at `version`.
    fn put(&self, version: u64, request: u128, known: Known) {
        let mut cache = self.cache();
        if cache.version != version {
            return;
        }
        if cache.known.len() >= KEPT
            && let Some(oldest) = cache.known.iter().min_by_key(|(_, known)| known.made).map(|(request, _)| *request)
        {
            cache.known.remove(&oldest);
        }
        cache.known.insert(request, known);
    }
}

/// What a context is made of besides what is recalled.
#[derive(Default)]
pub struct Material {
    /// The caller's instruction.
    pub instruction: Option<String>,
    /// What is asked, unless the newest turn asks it.
    pub question: Option<String>,
    summary: Option<String>,
    /// Turns that the summary does not cover.
    turns: Vec<Entry>,
    /// Older ones of them that are more than the budget can hold anyway.
    unread: usize,
    /// Turns that it covers, and that matter.
    older: Vec<Entry>,
    /// The session that was asked for, if there is none of that name.
    missing: Option<String>,
}

impl Material {
    /// What a space has of a session, as far as a budget of so many tokens can hold it.
    pub fn of(space: &Space, now: u64, session: Option<&str>, budget: usize) -> Material {
        let Some(name) = session else { return Material::default() };
        let Some(record) = space.session(now, name) else {
            return Material { missing: Some(name.to_owned()), ..Material::default() };
        };
        let covered = record.covered();
        let mut older: Vec<Entry> = Vec::new();
        if covered > 0 {
            // Of a long session the newest turns that matter, as many as its window has turns.
            let window = usize::try_from(space.config().session_turns).unwrap_or(usize::MAX);
            let from = Session::turns(record).saturating_sub(window.max(1)).min(covered);
            let before = space.turns(now, name, from).into_iter().take_while(|(n, _)| *n < covered);
            older = before.map(|(_, turn)| turn).filter(|turn| turn.importance >= IMPORTANT).collect();
        }
        let most = (budget / TOKENS_PER_TURN).max(1);
        let from = covered.max(Session::turns(record).saturating_sub(most));
        Material {
            summary: record.summary().map(|summary| summary.text.to_string()),
            turns: space.turns(now, name, from).into_iter().map(|(_, turn)| turn).collect(),
            unread: from - covered,
            older,
            ..Material::default()
        }
    }

    /// What memories are recalled by, if nothing else is said: the newest turn of a user.
    pub fn newest_question(&self) -> Option<&str> {
        self.turns.iter().rev().find(|turn| turn.role.as_deref() == Some("user")).map(|turn| &*turn.content)
    }

    /// Assembles the context and hands it to `with`.
    pub fn assemble<T>(
        &self,
        hits: &[Hit],
        budget: usize,
        count: &dyn Fn(&str) -> usize,
        with: impl FnOnce(&Context) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let turns: Vec<Turn> = self.turns.iter().map(Turn::of).collect();
        let older: Vec<Turn> = self.older.iter().map(Turn::of).collect();
        let memories: Vec<Memory> = hits.iter().map(|hit| memory_of(&hit.entry)).collect();
        let parts = Parts {
            system: self.instruction.as_deref(),
            summary: self.summary.as_deref(),
            turns: &turns,
            older: &older,
            memories: &memories,
            question: self.question.as_deref(),
        };
        let context = engram_agent::assemble(&parts, budget, count)?;
        with(&context)
    }
}

fn memory_of(entry: &Entry) -> Memory<'_> {
    let passage = entry.passage.as_deref();
    Memory {
        id: entry.id,
        speaker: entry.speaker.as_deref(),
        at: entry.at,
        doc: passage.map(|passage| &*passage.doc),
        position: passage.map(|passage| u64::from(passage.position)),
        content: &entry.content,
    }
}

/// Tokens of texts that were counted: the newest texts by the bytes that are hashed to them.
static COUNTS: LazyLock<Mutex<lru::LruCache<u128, u32>>> = LazyLock::new(|| {
    Mutex::new(lru::LruCache::new(std::num::NonZeroUsize::new(COUNTS_KEPT).unwrap_or(std::num::NonZeroUsize::MIN)))
});
/// Texts whose tokens are known, at most: some megabytes.
const COUNTS_KEPT: usize = 65_536;
/// A text shorter than this is counted as quickly as it is looked up.
const WORTH_KEEPING: usize = 16;

/// Counts a text's tokens. Where they are those of its lines, every line is counted once: a whole of lines that were counted is then a matter of looking them up.
pub fn counted(counter: &Counter, text: &str) -> usize {
    if matches!(counter, Counter::Estimate) {
        return counter.count(text);
    }
    if !counter.lines_are_apart() {
        return count_once(counter, text);
    }
    let (mut tokens, mut rest) = (0, text);
    while !rest.is_empty() {
        // The newlines that follow belong to the line.
        let line = rest.find('\n').unwrap_or(rest.len());
        let end = line + rest[line..].len() - rest[line..].trim_start_matches('\n').len();
        let (piece, behind) = rest.split_at(end);
        tokens += count_once(counter, piece);
        rest = behind;
    }
    tokens
}

fn count_once(counter: &Counter, text: &str) -> usize {
    if text.len() < WORTH_KEEPING {
        return counter.count(text);
    }
    let mut hasher = SipHasher13::new();
    hasher.write_u64(counter.identity());
    hasher.write(text.as_bytes());
    let key = hasher.finish128().as_u128();
    let known = COUNTS.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
    if let Some(known) = known {
        return known as usize;
    }
    let tokens = counter.count(text);
    if let Ok(tokens) = u32::try_from(tokens) {
        COUNTS.lock().unwrap_or_else(PoisonError::into_inner).put(key, tokens);
    }
    tokens
}

/// `MEM.CONTEXT key [QUERY text] [SESSION s] [TOKENS n] [K n] [FILTER expr] [MINSCORE f] [INSTRUCTION text] [FORMAT text|json]`
pub fn context(ctx: Ctx, args: &Parsed) -> Outcome {
    fill::searched(ctx, args.key("key"), args, run)
}

/// What is needed to make a context and to remember it.
struct Making {
    material: Material,
    search: Option<Search>,
    budget: usize,
    counter: Counter,
    json: bool,
    contexts: Contexts,
    version: u64,
    request: u128,
    ttl: u64,
    until: Option<u64>,
    /// When the command came.
    began: Instant,
}

fn run(ctx: Ctx, args: &Parsed, waiting: &mut Option<Waiter>) -> Outcome {
    let (key, now, began) = (args.key("key"), ffi::now(), jobs::began(waiting));
    let (query, session) = (args.opt_text("query"), args.opt_text("session"));
    if query.is_none() && session.is_none() {
        return Err(Error::err(
            "MEM.CONTEXT needs QUERY, for what to remember, or SESSION, for which conversation, or both",
        ));
    }
    query.map_or(Ok(()), |query| check_size(query, "QUERY"))?;
    args.opt_text("instruction").map_or(Ok(()), |text| check_size(text, "INSTRUCTION"))?;
    let counter = Counter::current();
    let found = read(ctx, key, |held| {
        let settings = held.space.config();
        let request = args.fingerprint() ^ u128::from(counter.identity());
        let budget = args.opt_u64("tokens").unwrap_or(settings.context_tokens);
        let known = held.contexts.get(request, settings.context_cache_ttl, now);
        let origin = Origin::of(ctx, key, held);
        if let Some(known) = known {
            return Ok((Err((known, origin)), budget));
        }
        let making = Making {
            material: Material::of(&held.space, now, session, usize::try_from(budget).unwrap_or(usize::MAX)),
            search: None,
            budget: usize::try_from(budget).unwrap_or(usize::MAX),
            counter: Counter::Estimate,
            json: args.opt_text("format") == Some("json"),
            contexts: held.contexts.clone(),
            version: held.contexts.version(),
            request,
            ttl: settings.context_cache_ttl,
            until: first_end(&held.space, now, session),
            began,
        };
        Ok((Ok(making), budget))
    })?;
    let mut making = match found {
        Some((Ok(making), _)) => making,
        Some((Err((known, origin)), _)) => {
            origin.note(ctx, &known.found, true);
            Operation::Context.ended(began);
            return Ok(known.reply.into());
        }
        // Nothing is remembered: the instruction alone.
        None => Making {
            material: Material { missing: session.map(str::to_owned), ..Material::default() },
            search: None,
            budget: args
                .opt_usize("tokens")
                .unwrap_or(usize::try_from(engram_memory::Settings::default().context_tokens).unwrap_or(usize::MAX)),
            counter: Counter::Estimate,
            json: args.opt_text("format") == Some("json"),
            contexts: Contexts::default(),
            version: 0,
            request: 0,
            ttl: 0,
            until: None,
            began,
        },
    };
    making.counter = counter;
    making.material.instruction = args.opt_text("instruction").map(str::to_owned);
    let question = query.or_else(|| making.material.newest_question()).map(str::to_owned);
    let k = (making.budget / TOKENS_PER_MEMORY).clamp(*RECALLED.start(), *RECALLED.end());
    if let Some(question) = &question
        && let Some(mut search) = Search::begin(ctx, key, args, k)?
    {
        search.everywhere();
        search.look_for(question.clone())?;
        making.search = Some(search);
    }
    let text = question.filter(|_| making.search.as_ref().is_some_and(Search::wants_vectors));
    let inline = waiting.is_none() && ctx.must_not_block();
    if let Some(question) = text {
        let texts = [making
            .search
            .as_ref()
            .map_or_else(|| Text::query(question.as_str()), |search| search.question(&question))];
        let embedded = if inline { Some(models::embed_inline(ctx, &texts)?) } else { models::all_cached(&texts) };
        match embedded.and_then(|e| Some((e.model, e.texts.into_iter().next()?))) {
            Some(embedded) => {
                if let Some(search) = &mut making.search {
                    search.embedded(Ok(embedded))?;
                }
            }
            None => {
                let (place, waiter) = (Place::take()?, waiting.take().unwrap_or_else(|| Waiter::block(ctx, 0, || {})));
                models::embed_in_background(texts.into(), waiter, move |embedded, waiter| {
                    let embedded = embedded.and_then(|e| {
                        let vectors =
                            e.texts.into_iter().next().ok_or_else(|| Error::err("there is nothing to embed"))?;
                        Ok((e.model, vectors))
                    });
                    let taken = making.search.as_mut().map_or(Ok(()), |search| search.embedded(embedded));
                    making.finish(taken, waiter);
                    drop(place);
                });
                return Ok(Flow::Later);
            }
        }
    }
    if inline {
        let (reply, found) = making.make()?;
        if let Some(search) = &making.search {
            search.origin.note(ctx, &found, true);
        }
        Operation::Context.ended(began);
        return Ok(reply.into());
    }
    let (place, waiter) = (Place::take()?, waiting.take().unwrap_or_else(|| Waiter::block(ctx, 0, || {})));
    models::spawn_once(move || {
        making.finish(Ok(()), waiter);
        drop(place);
    });
    Ok(Flow::Later)
}

/// When the first thing ends that may be in a context: a memory of the space, or the session.
fn first_end(space: &Space, now: u64, session: Option<&str>) -> Option<u64> {
    let session = session.and_then(|name| space.session(now, name)).and_then(Session::expires);
    space.next_expiry().into_iter().chain(session).min()
}

impl Making {
    /// Makes the context on the pool and answers.
    fn finish(mut self, taken: Result<(), Error>, waiter: Waiter) {
        waiter.work_begins();
        let made = taken.and_then(|()| self.make());
        waiter.work_ends();
        match made {
            Ok((reply, found)) => {
                let origin = self.search.take().map(|search| search.origin);
                Operation::Context.ended(self.began);
                waiter.answer_then(Ok(reply), move |ctx| {
                    if let Some(origin) = origin {
                        origin.note(ctx, &found, true);
                    }
                });
            }
            Err(error) => waiter.answer(Err(error)),
        }
    }

    /// The reply, and the memories that are in it.
    fn make(&mut self) -> Result<(Value, Vec<Whereabouts>), Error> {
        let hits = match &mut self.search {
            Some(search) => search.run()?.hits,
            None => Vec::new(),
        };
        let counter = &self.counter;
        let (reply, shown) = self.material.assemble(&hits, self.budget, &|text| counted(counter, text), |context| {
            let shown: Vec<MemoryId> = context.memories.iter().map(|memory| memory.id).collect();
            let reply = if self.json { self.as_json(context, &hits) } else { self.as_map(context) };
            Ok((reply, shown))
        })?;
        let found: Vec<Whereabouts> =
            hits.iter().filter(|hit| shown.contains(&hit.entry.id)).map(Hit::whereabouts).collect();
        if self.ttl > 0 {
            let known = Known { made: Instant::now(), until: self.until, reply: reply.clone(), found: found.clone() };
            self.contexts.put(self.version, self.request, known);
        }
        Ok((reply, found))
    }

    fn as_map(&self, context: &Context) -> Value {
        let ids = |ids: Vec<MemoryId>| Value::Array(ids.into_iter().map(|id| Value::from(id.to_string())).collect());
        let dropped = self.dropped(context).into_iter().map(|(what, id, reason)| {
            let mut fields = vec![("what", Value::from(what))];
            fields.extend(id.map(|id| ("id", Value::from(id))));
            fields.push(("reason", Value::from(reason)));
            Value::map(fields)
        });
        Value::map(vec![
            ("text", Value::from(context.text())),
            ("tokens", Value::from(context.tokens)),
            ("counted_by", Value::from(self.counter.name())),
            ("memories", ids(context.memories.iter().map(|memory| memory.id).collect())),
            ("turns", ids(context.earlier.iter().chain(&context.turns).map(|turn| turn.id).collect())),
            ("dropped", Value::Array(dropped.collect())),
        ])
    }

    fn dropped(&self, context: &Context) -> Vec<(&'static str, Option<String>, String)> {
        let missing =
            self.material.missing.as_ref().map(|name| ("session", None, format!("there is no session {name}")));
        let dropped = context.dropped.iter();
        let unread = Some(self.material.unread).filter(|unread| *unread > 0);
        let unread =
            unread.map(|unread| ("turn", None, format!("{unread} older turns: the budget could not hold them")));
        missing
            .into_iter()
            .chain(unread)
            .chain(dropped.map(|dropped| (dropped.what, dropped.id.map(|id| id.to_string()), dropped.reason.clone())))
            .collect()
    }

    fn as_json(&self, context: &Context, hits: &[Hit]) -> Value {
        let turn = |turn: &&Turn| json!({"id": turn.id.to_string(), "role": turn.role.name(), "speaker": turn.speaker, "at": turn.at, "content": turn.content});
        let memory = |memory: &&Memory| {
            let score = hits.iter().find(|hit| hit.entry.id == memory.id).map(|hit| hit.score);
            json!({
                "id": memory.id.to_string(), "score": score, "speaker": memory.speaker, "at": memory.at, "doc": memory.doc,
                "position": memory.position, "content": memory.content,
            })
        };
        let dropped = self.dropped(context).into_iter();
        let whole = json!({
            "text": context.text(),
            "tokens": context.tokens,
            "counted_by": self.counter.name(),
            "instruction": context.system,
            "summary": if context.summary.is_empty() { Json::Null } else { Json::from(context.summary.join("\n")) },
            "memories": context.memories.iter().map(memory).collect::<Vec<_>>(),
            "earlier": context.earlier.iter().map(turn).collect::<Vec<_>>(),
            "turns": context.turns.iter().map(turn).collect::<Vec<_>>(),
            "dropped": dropped.map(|(what, id, reason)| json!({"what": what, "id": id, "reason": reason})).collect::<Vec<_>>(),
        });
        Value::from(whole.to_string())
    }
}
