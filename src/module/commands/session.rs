//! MEM.SESSION: conversations, turn by turn.
//!
//! A turn is answered before its vector is there (see `fill`): it is in the history and in recall by words at once, and a recall by vector waits for it.
//! So are its tokens, by the tokenizer that the server has then; where nothing is embedded they are counted when it comes, those of a long turn on the pool.

use engram_memory::{Entry, NewTurn, Session, Space, Summary, TURN};

use super::store::default_importance;
use super::summarize;
use super::transcript::{self, Transcript};
use super::{Flow, Outcome, check_size, read, target, write};
use crate::commit::{self, Needs, Ran, Stop};
use crate::config;
use crate::datatype::{self, Found};
use crate::ffi::{self, Ctx, Key, Mode, Str};
use crate::fill;
use crate::grammar::Parsed;
use crate::jobs::{Place, Waiter};
use crate::models::{self, Counter};
use crate::reply::{Error, Value};

/// Bytes of text whose tokens are counted on the main thread: some ten microseconds.
const COUNTED_INLINE: usize = 2_048;

/// `MEM.SESSION APPEND key session role content [...]`
pub fn append(ctx: Ctx, args: &Parsed) -> Outcome {
    let content = args.text("content");
    check_size(content, "content")?;
    let role = args.text("role");
    let turn = NewTurn {
        role: role.to_owned(),
        content: content.to_owned(),
        id: args.opt_id("id"),
        at: args.opt_u64("at"),
        speaker: args.opt_text("speaker").map(str::to_owned),
        importance: args.opt_f64("importance"),
        outcome: args.opt_text("outcome").map(str::to_owned).or_else(|| outcome_of(role, content)),
        tags: args.list("tags").iter().map(|tag| (*tag).to_owned()).collect(),
        meta: args.object("meta").cloned(),
        tokens: 0,
        awaits: true,
    };
    let session = args.text("session").to_owned();
    counted(ctx, args.key("key"), session.clone(), Count::Whenever, vec![turn], move |space, now, turns| {
        let (ids, effects) = space.append(now, &session, turns)?;
        let id = ids.first().map_or(Value::Null, |id| Value::from(id.to_string()));
        Ok((id, effects))
    })
}

/// The outcome that a turn tells by itself: a user's. What is detected is stored with the turn, so that replicas, and a server with other words, keep it.
pub fn outcome_of(role: &str, content: &str) -> Option<String> {
    let detected = if role == "user" { config::outcomes().detect(content) } else { None };
    detected.map(|detected| detected.outcome.to_owned())
}

/// `MEM.OUTCOME text`
pub fn outcome(_ctx: Ctx, args: &Parsed) -> Outcome {
    let text = args.text("text");
    check_size(text, "the text")?;
    let detected = config::outcomes().detect(text);
    let outcome = detected.as_ref().map_or(Value::Null, |detected| Value::from(detected.outcome));
    let words = detected.into_iter().flat_map(|detected| detected.words).map(Value::from).collect();
    Ok(Value::map(vec![("outcome", outcome), ("words", Value::Array(words))]).into())
}

/// When the tokens of turns are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    /// Before they are stored.
    Now,
    /// When they are embedded, if they are.
    Whenever,
}

/// Counts the tokens of turns that have none, here or on the pool, then commits what `decide` makes of them, and has their vectors made.
fn counted(
    ctx: Ctx,
    key: &[u8],
    session: String,
    count: Count,
    mut turns: Vec<NewTurn>,
    decide: impl FnOnce(&Space, u64, Vec<NewTurn>) -> Result<(Value, Vec<engram_memory::Effect>), Error> + Send + 'static,
) -> Outcome {
    let counter = Counter::current();
    // Where they are embedded behind the reply, that counts them too.
    let own = read(ctx, key, |held| Ok(held.space.dim().is_some() && held.space.model().is_none()))?;
    let later = own != Some(true) && models::expect_embedder().is_ok();
    let to_count = |turn: &&NewTurn| turn.tokens == 0 && !(later && count == Count::Whenever);
    let long = turns.iter().filter(to_count).map(|turn| turn.content.len()).sum::<usize>();
    if long == 0 {
        let value = write(ctx, key, Needs::STORE, |space, now| decide(space, now, fitting(space, turns)))?;
        after_append(ctx, key, &session, None);
        return Ok(value.into());
    }
    if long <= COUNTED_INLINE || ctx.must_not_block() {
        // In a transaction a long text is measured, not counted: nothing may keep the server there.
        let counter = if long <= COUNTED_INLINE { counter } else { Counter::Estimate };
        count_all(&counter, &mut turns);
        let value = write(ctx, key, Needs::STORE, |space, now| decide(space, now, fitting(space, turns)))?;
        after_append(ctx, key, &session, None);
        return Ok(value.into());
    }
    let (target, place) = (target(ctx, key)?, Place::take()?);
    // An accepted turn is stored even if its client leaves.
    let waiter = Waiter::block(ctx, 0, || {});
    models::spawn_once(move || {
        waiter.work_begins();
        count_all(&counter, &mut turns);
        waiter.work_ends();
        let mut work = Some((waiter, place, turns, decide));
        commit::submit(move |ctx| {
            if ffi::is_paused() {
                return Ran::Later;
            }
            let Some((waiter, _place, turns, decide)) = work.take() else { return Ran::Done };
            let stored =
                commit::commit(ctx, &target, Needs::STORE, |space, now| decide(space, now, fitting(space, turns)));
            match stored {
                Ok(value) => {
                    after_append(ctx, &target.key, &session, None);
                    waiter.answer(Ok(value));
                }
                Err(Stop::Never(error)) => waiter.answer(Err(error)),
                // Cannot be: the pause was looked at above, under the same lock.
                Err(Stop::Later) => waiter.answer(Err(Error::err("the server is paused: retry"))),
            }
            Ran::Done
        });
    });
    Ok(Flow::Later)
}

fn count_all(counter: &Counter, turns: &mut [NewTurn]) {
    for turn in turns.iter_mut().filter(|turn| turn.tokens == 0) {
        turn.tokens = u32::try_from(counter.count(&turn.content)).unwrap_or(u32::MAX).max(1);
    }
}

/// Turns as the space wants them. In one of the caller's own vectors no text is embedded: turns are found by their words there. And what nobody gave an
/// importance gets one.
pub fn fitting(space: &Space, mut turns: Vec<NewTurn>) -> Vec<NewTurn> {
    let embeds = space.dim().is_none() || space.model().is_some();
    for turn in &mut turns {
        turn.awaits &= embeds;
        turn.importance.get_or_insert_with(|| default_importance(space, &turn.content, TURN, Some(turn.role.as_str())));
    }
    turns
}

/// Has the vectors of new turns made, and the summary moved forward if that is due: also if a prompt had room for no more than `fitted` turns. On the main thread, in the database of the key.
pub fn after_append(ctx: Ctx, key: &[u8], session: &str, fitted: Option<usize>) {
    let name = Str::new(key);
    if let Found::Space(held) = datatype::find(&mut Key::open(ctx, &name, Mode::Peek)) {
        fill::begin(held, ctx.db(), key);
        summarize::begin_if_due(held, ffi::now(), ctx.db(), key, session, fitted);
    }
}

/// `MEM.SESSION HISTORY key session [COUNT n] [TOKENS n]`
pub fn history(ctx: Ctx, args: &Parsed) -> Outcome {
    let (now, session) = (ffi::now(), args.text("session"));
    let count = args.opt_usize("count").unwrap_or(usize::MAX);
    let budget = args.opt_u64("tokens").unwrap_or(u64::MAX);
    let turns = read(ctx, args.key("key"), |held| {
        let there = held.space.session(now, session).map_or(0, Session::turns);
        let mut turns = held.space.turns(now, session, there.saturating_sub(count));
        let mut spent = 0u64;
        let fit = turns.iter().rev().take_while(|(_, turn)| {
            spent = spent.saturating_add(tokens_of(turn));
            spent <= budget
        });
        let fit = fit.count();
        Ok(turns.split_off(turns.len() - fit))
    })?;
    Ok(Value::Array(turns.unwrap_or_default().into_iter().map(|(_, turn)| turn_fields(turn)).collect()).into())
}

/// The tokens of a turn; estimated for a moment where they are counted behind the reply.
fn tokens_of(turn: &Entry) -> u64 {
    if turn.tokens > 0 { turn.tokens.into() } else { Counter::Estimate.count(&turn.content) as u64 }
}

/// A turn as a history shows it.
fn turn_fields(turn: Entry) -> Value {
    let tokens = tokens_of(&turn);
    let mut fields = vec![
        ("id", Value::from(turn.id.to_string())),
        ("role", Value::from(turn.role.map_or_else(String::new, String::from))),
        ("content", Value::from(String::from(turn.content))),
        ("tokens", Value::from(tokens)),
        ("at", Value::from(turn.at)),
        ("importance", Value::Double(turn.importance)),
    ];
    for (name, text) in [("speaker", turn.speaker), ("outcome", turn.outcome)] {
        fields.extend(text.map(|text| (name, Value::from(String::from(text)))));
    }
    if !turn.tags.is_empty() {
        fields.push(("tags", Value::Array(turn.tags.into_iter().map(|tag| Value::from(String::from(tag))).collect())));
    }
    if let Some(meta) = turn.meta {
        fields.push(("meta", Value::from(serde_json::Value::Object(meta).to_string())));
    }
    Value::map(fields)
}

/// `MEM.SESSION LIST key`
pub fn list(ctx: Ctx, args: &Parsed) -> Outcome {
    let now = ffi::now();
    let sessions = read(ctx, args.key("key"), |held| {
        let row = |(name, session): (&str, &Session)| {
            let mut fields = vec![("session", Value::from(name)), ("turns", Value::from(session.turns()))];
            fields.extend(times(session));
            Value::map(fields)
        };
        Ok(held.space.sessions(now).map(row).collect())
    })?;
    Ok(Value::Array(sessions.unwrap_or_default()).into())
}

fn times(session: &Session) -> [(&'static str, Value); 2] {
    [("created", Value::from(session.created())), ("expires", session.expires().map_or(Value::Null, Value::from))]
}

/// `MEM.SESSION INFO key session`
pub fn info(ctx: Ctx, args: &Parsed) -> Outcome {
    let (now, name) = (ffi::now(), args.text("session"));
    let info = read(ctx, args.key("key"), |held| {
        let Some(session) = held.space.session(now, name) else { return Ok(Value::Null) };
        let (turns, tokens, awaiting) = held.space.turn_counts(now, name);
        let mut fields = vec![
            ("session", Value::from(name)),
            ("turns", Value::from(turns)),
            ("tokens", Value::from(tokens)),
            ("counted_by", Value::from(Counter::current().name())),
            ("covered", Value::from(session.covered())),
            ("summary_tokens", Value::from(session.summary().map_or(0, |summary| u64::from(summary.tokens)))),
            ("fields", Value::from(session.fields().len())),
            ("without_vectors", Value::from(awaiting)),
        ];
        fields.extend(times(session));
        Ok(Value::map(fields))
    })?;
    Ok(info.unwrap_or(Value::Null).into())
}

/// `MEM.SESSION SET key session field value [field value ...]`
pub fn set(ctx: Ctx, args: &Parsed) -> Outcome {
    let pairs = args.pairs("field");
    // As in MEM.UPDATE, an empty text takes a field away.
    let fields = pairs.map(|(name, value)| (name.into(), Some(value.into()).filter(|_| !value.is_empty()))).collect();
    write(ctx, args.key("key"), Needs::STORE, |space, now| {
        Ok(((), space.set_fields(now, args.text("session"), fields)?))
    })?;
    Ok(Value::Ok.into())
}

/// `MEM.SESSION GET key session [field ...]`
pub fn get(ctx: Ctx, args: &Parsed) -> Outcome {
    let (now, wanted) = (ffi::now(), args.list("field"));
    let text = |value: &str| Value::from(value);
    let found = read(ctx, args.key("key"), |held| {
        let session = held.space.session(now, args.text("session"));
        let fields = session.map(Session::fields);
        Ok(if wanted.is_empty() {
            let all = fields.into_iter().flatten().map(|(name, value)| (String::from(&**name), text(value)));
            Value::map(all.collect())
        } else {
            let value =
                |name: &&str| fields.and_then(|fields| fields.get(*name)).map_or(Value::Null, |value| text(value));
            Value::Array(wanted.iter().map(value).collect())
        })
    })?;
    let nothing = || match wanted {
        [] => Value::Map(Vec::new()),
        wanted => Value::Array(wanted.iter().map(|_| Value::Null).collect()),
    };
    Ok(found.unwrap_or_else(nothing).into())
}

/// `MEM.SESSION TOUCH key session`
pub fn touch(ctx: Ctx, args: &Parsed) -> Outcome {
    write(ctx, args.key("key"), Needs::FREE, |space, now| Ok(((), space.touch_session(now, args.text("session"))?)))?;
    Ok(Value::Ok.into())
}

/// `MEM.SESSION COPY key session new [REPLACE]`
pub fn copy(ctx: Ctx, args: &Parsed) -> Outcome {
    let turns = write(ctx, args.key("key"), Needs::CHANGE, |space, now| {
        Ok(space.copy_session(now, args.text("session"), args.text("new"), args.flag("replace"))?)
    })?;
    after_append(ctx, args.key("key"), args.text("new"), None);
    Ok(Value::from(turns).into())
}

/// `MEM.SESSION CLEAR key session`
pub fn clear(ctx: Ctx, args: &Parsed) -> Outcome {
    let turns =
        write(ctx, args.key("key"), Needs::FREE, |space, now| Ok(space.clear_session(now, args.text("session"))?))?;
    Ok(Value::from(turns).into())
}

/// `MEM.SESSION DEL key session`: 1 if there was one.
pub fn delete(ctx: Ctx, args: &Parsed) -> Outcome {
    let key = args.key("key");
    if read(ctx, key, |_| Ok(()))?.is_none() {
        return Ok(Value::from(0i64).into());
    }
    let gone = write(ctx, key, Needs::FREE, |space, now| {
        let (_, effects) = space.delete_session(now, args.text("session"));
        Ok((!effects.is_empty(), effects))
    })?;
    Ok(Value::from(i64::from(gone)).into())
}

/// `MEM.SESSION EXPORT key session`
pub fn export(ctx: Ctx, args: &Parsed) -> Outcome {
    // What is exported is counted.
    fill::searched(ctx, args.key("key"), args, export_now)
}

fn export_now(ctx: Ctx, args: &Parsed, _waiting: &mut Option<Waiter>) -> Outcome {
    let (now, name) = (ffi::now(), args.text("session"));
    let text = read(ctx, args.key("key"), |held| {
        let session = held.space.session(now, name);
        Ok(session.map(|session| transcript::write(name, session, held.space.turns(now, name, 0))))
    })?;
    Ok(text.flatten().map_or(Value::Null, Value::from).into())
}

/// `MEM.SESSION IMPORT key session json [REPLACE]`
pub fn import(ctx: Ctx, args: &Parsed) -> Outcome {
    let json = args.object("json").cloned().unwrap_or_default();
    let Transcript { session, turns } = transcript::read(json)?;
    for turn in &turns {
        check_size(&turn.content, "a turn's content")?;
    }
    let (name, replace) = (args.text("session").to_owned(), args.flag("replace"));
    counted(ctx, args.key("key"), name.clone(), Count::Now, turns, move |space, now, turns| {
        let new = engram_memory::NewSession { turns, ..session };
        let (ids, effects) = space.import_session(now, &name, new, replace)?;
        Ok((Value::from(ids.len()), effects))
    })
}

/// `MEM.SESSION SUMMARY key session`
pub fn summary(ctx: Ctx, args: &Parsed) -> Outcome {
    let (now, name) = (ffi::now(), args.text("session"));
    let found = read(ctx, args.key("key"), |held| {
        let Some(session) = held.space.session(now, name) else { return Ok(Value::Null) };
        Ok(summary_fields(session.summary(), session))
    })?;
    Ok(found.unwrap_or(Value::Null).into())
}

/// A summary as a reply shows it.
pub fn summary_fields(summary: Option<&Summary>, session: &Session) -> Value {
    Value::map(vec![
        ("summary", summary.map_or(Value::Null, |summary| Value::from(&*summary.text))),
        ("tokens", Value::from(summary.map_or(0, |summary| u64::from(summary.tokens)))),
        ("covered", Value::from(session.covered())),
        ("uncovered", Value::from(session.turns() - session.covered())),
        ("model", summary.and_then(|summary| summary.model.as_deref()).map_or(Value::Null, Value::from)),
        ("at", summary.map_or(Value::Null, |summary| Value::from(summary.at))),
    ])
}
