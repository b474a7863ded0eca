//! Commands that change a space without a model: FORGET, PROMOTE, CONFIG and the internal APPLY.

use engram_memory::{Effect, Entry, MemoryId, Selection, Space, Tier};

use super::{Flow, Outcome, SELECT_INLINE, fields, read, target, write};
use crate::commit::{self, Needs, Ran, Stop};
use crate::datatype::{self, Found, Held};
use crate::ffi::{self, Ctx, Key, Mode, Str, api, flags};
use crate::grammar::Parsed;
use crate::jobs::{Place, Waiter};
use crate::keyspace;
use crate::models;
use crate::reply::{Error, Value};

/// `MEM.FORGET key id... | FILTER expr | TIER t | DOC d | SESSION s [DRYRUN]`
pub fn forget(ctx: Ctx, args: &Parsed) -> Outcome {
    if let Some(doc) = args.opt_text("doc") {
        return forget_document(ctx, args.key("key"), doc, args.flag("dryrun"));
    }
    fields::check_filter(args)?;
    let tier = args.opt_text("tier").map(Tier::parse).transpose()?;
    let select = |space: &Space| -> Result<Selection, Error> {
        Ok(match (fields::filter(space, args)?, tier, args.opt_text("session")) {
            (Some(filter), ..) => Selection::Filter(filter),
            (None, Some(tier), _) => Selection::Tier(tier),
            (None, None, Some(session)) => Selection::Session(session.to_owned()),
            (None, None, None) => Selection::Ids(args.ids("id").to_vec()),
        })
    };
    let key = args.key("key");
    let found = read(ctx, key, |held| Ok((select(&held.space)?, held.space.snapshot(), held.space.len())))?;
    let dry = args.flag("dryrun");
    let Some((selection, snapshot, memories)) = found else {
        return Ok(if dry { Value::Array(Vec::new()) } else { Value::from(0i64) }.into());
    };
    let inline = memories <= SELECT_INLINE || matches!(selection, Selection::Ids(_)) || ctx.must_not_block();
    if dry && inline {
        return Ok(listed(snapshot.with_derived(&snapshot.select(ffi::now(), &selection))).into());
    }
    if inline {
        // Shared with nobody, or every write below would copy what it touches.
        drop(snapshot);
        let count = write(ctx, key, Needs::FREE, |space, now| {
            let ids = space.forget(now, &selection);
            let mut effects = end_of_record(space, &selection);
            effects.extend(space.forget_effects(&ids));
            Ok((space.with_derived(&ids).len(), effects))
        })?;
        return Ok(Value::from(count).into());
    }
    let target = target(ctx, key)?;
    let place = Place::take()?;
    if !dry && matches!(selection, Selection::Session(_)) {
        // Now: a turn that comes from here on begins another conversation, which stays.
        write(ctx, key, Needs::FREE, |space, _| Ok(((), end_of_record(space, &selection))))?;
    }
    // Accepted: it goes on if the client leaves.
    let waiter = Waiter::block(ctx, 0, || {});
    models::spawn_once(move || {
        waiter.work_begins();
        let selected = snapshot.select(ffi::now(), &selection);
        let ids = if dry { snapshot.with_derived(&selected) } else { selected };
        drop(snapshot);
        waiter.work_ends();
        #[cfg(feature = "latch")]
        crate::latch::pass();
        if dry {
            return waiter.answer(Ok(listed(ids)));
        }
        let mut forgotten = 0;
        let mut left = ids.into_iter();
        let mut waiting = Some((waiter, place));
        commit::submit(move |ctx| {
            if ffi::is_paused() {
                return Ran::Later;
            }
            let unit: Vec<MemoryId> = left.by_ref().take(FORGET_UNIT).collect();
            let committed = commit::commit(ctx, &target, Needs::FREE, |space, now| {
                // What was changed meanwhile and is not selected any more stays.
                let ids: Vec<MemoryId> = unit
                    .iter()
                    .copied()
                    .filter(|id| space.get(now, *id).is_some_and(|entry| selects(&selection, &entry)))
                    .collect();
                let gone = space.with_derived(&ids).len();
                Ok((gone, space.forget_effects(&ids)))
            });
            let answer = match committed {
                Ok(count) => {
                    forgotten += count;
                    if left.len() > 0 {
                        return Ran::Again;
                    }
                    Ok(Value::from(forgotten))
                }
                Err(Stop::Never(error)) => Err(error),
                // Cannot be: the pause was looked at above, under the same lock.
                Err(Stop::Later) => Err(Error::err("the server is paused: retry")),
            };
            if let Some((waiter, _place)) = waiting.take() {
                waiter.answer(answer);
            }
            Ran::Done
        });
    });
    Ok(Flow::Later)
}

/// Forgetting a session is forgetting what its record says of it too: the summary, the fields. Before its turns, which then leave no record.
fn end_of_record(space: &Space, selection: &Selection) -> Vec<Effect> {
    match selection {
        Selection::Session(session) => space.end_record(session),
        _ => Vec::new(),
    }
}

/// A document goes at once, however large: its chunks are hidden, and taken away bit by bit.
fn forget_document(ctx: Ctx, key: &[u8], doc: &str, dry: bool) -> Outcome {
    let ids = read(ctx, key, |held| Ok(held.space.forget_document(ffi::now(), doc).0))?.unwrap_or_default();
    if dry {
        return Ok(listed(ids).into());
    }
    if !ids.is_empty() {
        write(ctx, key, Needs::FREE, |space, now| Ok(((), space.forget_document(now, doc).1)))?;
    }
    Ok(Value::from(ids.len()).into())
}

/// Memories that go in one unit of a large MEM.FORGET.
const FORGET_UNIT: usize = 128;

fn listed(ids: Vec<MemoryId>) -> Value {
    Value::Array(ids.into_iter().map(|id| Value::from(id.to_string())).collect())
}

fn selects(selection: &Selection, entry: &Entry) -> bool {
    match selection {
        Selection::Ids(ids) => ids.contains(&entry.id),
        Selection::Filter(filter) => filter.matches(entry),
        Selection::Tier(tier) => entry.tier == *tier,
        Selection::Session(session) => entry.session.as_deref() == Some(session),
    }
}

/// `MEM.PROMOTE key id tier`
pub fn promote(ctx: Ctx, args: &Parsed) -> Outcome {
    let id = args.id("id");
    let tier = Tier::parse(args.text("tier"))?;
    write(ctx, args.key("key"), Needs::FREE, |space, now| Ok(((), space.promote(now, id, tier)?)))?;
    Ok(Value::Ok.into())
}

/// `MEM.CONFIG GET key [pattern]`
pub fn config_get(ctx: Ctx, args: &Parsed) -> Outcome {
    let pattern = args.opt_text("pattern").unwrap_or("*");
    let settings = read(ctx, args.key("key"), |held| Ok(held.space.settings(pattern)))?.unwrap_or_default();
    Ok(Value::map(settings.into_iter().map(|(name, value)| (name, Value::from(value))).collect()).into())
}

/// `MEM.CONFIG SET key name value [name value ...]`: all or nothing.
pub fn config_set(ctx: Ctx, args: &Parsed) -> Outcome {
    write(ctx, args.key("key"), Needs::SETTINGS, |space, now| {
        // Each pair is decided against the space as it stands; what two of them evict alike goes once.
        let mut effects = Vec::new();
        for (name, value) in args.pairs("name") {
            effects.extend(space.set(now, name, value)?);
        }
        Ok(((), effects))
    })?;
    Ok(Value::Ok.into())
}

/// `MEM.CONFIG PRESET key name`
pub fn config_preset(ctx: Ctx, args: &Parsed) -> Outcome {
    write(ctx, args.key("key"), Needs::SETTINGS, |space, now| Ok(((), space.preset(now, args.text("name"))?)))?;
    Ok(Value::Ok.into())
}

/// `MEM.APPLY key blob`: what replication and the AOF consist of. From anybody else it is refused; from them it is bounded like RESTORE, and hostile
/// bytes change nothing beyond the batch they come in.
pub fn apply(ctx: Ctx, args: &Parsed) -> Outcome {
    if ctx.flags() & (flags::LOADING | flags::REPLICATED) == 0 {
        return Err(Error::err(
            "MEM.APPLY is how the server replicates memories to its replicas and its AOF; clients cannot call it",
        ));
    }
    let name = Str::new(args.key("key"));
    let mut key = Key::open(ctx, &name, Mode::Write);
    match datatype::find(&mut key) {
        Found::WrongType => return Err(Error::wrong_type()),
        Found::Space(held) => {
            held.contexts.invalidate();
            if datatype::apply_batch(&mut held.space, args.blob("blob")).map_err(Error::err)? {
                models::forget_space(ctx.db(), args.key("key"));
            }
        }
        Found::Missing => {
            let mut held = Held::new(Space::new());
            datatype::apply_batch(&mut held.space, args.blob("blob")).map_err(Error::err)?;
            keyspace::note(held.incarnation, ctx.db(), name.bytes());
            if !datatype::put(&key, held) {
                return Err(Error::err("the server refused to create the key"));
            }
        }
    }
    ctx.signal_modified(&name);
    // Passed on to replicas of this replica and to its AOF.
    api!(RedisModule_ReplicateVerbatim(ctx.ptr()) else 0);
    Ok(Value::Ok.into())
}
