//! Commands that look at memories without ranking them: GET, SCAN, COUNT, TIMELINE, STATS.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use engram_memory::{Entry, Heat, MemoryId, Space, Tier, Timeline, limits};

use super::{Flow, Outcome, SELECT_INLINE, fields, read};
use crate::ffi::{self, Ctx};
use crate::grammar::Parsed;
use crate::jobs::{Place, Waiter};
use crate::models;
use crate::reply::{Error, Value};

/// `MEM.GET key id [id ...]`
pub fn get(ctx: Ctx, args: &Parsed) -> Outcome {
    let ids = args.ids("id");
    let now = ffi::now();
    let found = read(ctx, args.key("key"), |held| {
        Ok(ids
            .iter()
            .map(|id| {
                let entry = held.space.get(now, *id);
                entry.map_or(Value::Null, |entry| fields::all_fields(entry, held.space.precision_of(*id)))
            })
            .collect::<Vec<_>>())
    })?;
    Ok(Value::Array(found.unwrap_or_else(|| ids.iter().map(|_| Value::Null).collect())).into())
}

/// `MEM.HISTORY key id`: the versions that `id` is one of, oldest first, and the memories they were made from, as far as they stand.
pub fn history(ctx: Ctx, args: &Parsed) -> Outcome {
    let (id, now) = (args.id("id"), ffi::now());
    let found = read(ctx, args.key("key"), |held| {
        let asked = held.space.get(now, id).ok_or_else(|| Error::err(format!("no such memory: {id}")))?;
        let versions = versions(&held.space, now, asked);
        let ids: BTreeSet<MemoryId> = versions.iter().flat_map(|version| version.from.iter().copied()).collect();
        let sources: BTreeMap<(u64, MemoryId), Entry> = ids
            .into_iter()
            .take(limits::K)
            .filter_map(|id| held.space.get(now, id))
            .map(|source| ((source.at, source.id), source))
            .collect();
        let field = |entry: Entry| {
            let from = fields::from_field(&entry).into_iter().collect();
            fields::result_fields(entry, None, from)
        };
        Ok(Value::map(vec![
            ("id", Value::from(id.to_string())),
            ("current", versions.back().map_or(Value::Null, |last| Value::from(last.id.to_string()))),
            ("versions", Value::Array(versions.into_iter().map(field).collect())),
            ("sources", Value::Array(sources.into_values().map(field).collect())),
        ]))
    })?;
    Ok(found.unwrap_or(Value::Null).into())
}

/// What a memory superseded and what superseded it, oldest first. It ends where a version has been forgotten, and after [`limits::K`] versions:
/// the one at the end then still says which comes next.
///
/// One that took the place of several has them in one line behind it, and each of them knows it: so the way leads to the newest first, and back from there.
fn versions(space: &Space, now: u64, asked: Entry) -> VecDeque<Entry> {
    let id = asked.id;
    let newer = line(space, now, asked, |entry| entry.superseded.map(|superseded| superseded.by));
    let back = newer.back().cloned().map(|newest| line(space, now, newest, |entry| entry.supersedes));
    match back {
        Some(back) if back.iter().any(|version| version.id == id) => back.into_iter().rev().collect(),
        _ => {
            let older = newer.front().cloned().map(|asked| line(space, now, asked, |entry| entry.supersedes));
            older.into_iter().flatten().skip(1).fold(newer, |mut versions, older| {
                versions.push_front(older);
                versions
            })
        }
    }
}

/// A memory, and one after the other those that `next` leads to.
fn line(space: &Space, now: u64, first: Entry, next: fn(&Entry) -> Option<MemoryId>) -> VecDeque<Entry> {
    let mut seen = BTreeSet::from([first.id]);
    let mut line = VecDeque::from([first]);
    while line.len() <= limits::K {
        let following = line.back().and_then(next).filter(|id| seen.insert(*id));
        let Some(following) = following.and_then(|id| space.get(now, id)) else { break };
        line.push_back(following);
    }
    line
}

/// Memories that one step of MEM.SCAN looks at.
const SCAN_COUNT: usize = 10;

/// `MEM.SCAN key cursor [COUNT n] [FILTER expr]`
pub fn scan(ctx: Ctx, args: &Parsed) -> Outcome {
    let cursor = args.id("cursor");
    let count = args.opt_usize("count").unwrap_or(SCAN_COUNT);
    fields::check_filter(args)?;
    let now = ffi::now();
    let step = read(ctx, args.key("key"), |held| {
        let filter = fields::filter(&held.space, args)?;
        let (next, slots) = held.space.scan_slots(cursor, count);
        Ok((held.space.snapshot(), filter, next, slots))
    })?;
    let (snapshot, filter, next, slots) = step.unwrap_or_default();
    let next = if next == MemoryId::ZERO { "0".to_owned() } else { next.to_string() };
    let inline = slots.len() <= SHOWN_INLINE;
    answer(ctx, inline, move || {
        let entries = snapshot.entries_as_kept(now, &slots, filter.as_ref());
        let entries = entries.into_iter().map(|(entry, precision)| fields::all_fields(entry, precision));
        Ok(Value::Array(vec![Value::from(next), Value::Array(entries.collect())]))
    })
}

/// Memories that are looked at and written out on the main thread at most, in the order of an index: about a tenth of a millisecond.
const SHOWN_INLINE: usize = 100;

/// Answers with what `make` makes: on the pool, unless that is so short, or the client must not be blocked.
pub(super) fn answer(ctx: Ctx, inline: bool, make: impl FnOnce() -> Result<Value, Error> + Send + 'static) -> Outcome {
    if inline || ctx.must_not_block() {
        return Ok(make()?.into());
    }
    let place = Place::take()?;
    let waiter = Waiter::block(ctx, 0, || {});
    models::spawn_once(move || {
        waiter.work_begins();
        let value = make();
        waiter.work_ends();
        waiter.answer(value);
        drop(place);
    });
    Ok(Flow::Later)
}

/// `MEM.COUNT key [FILTER expr]`
pub fn count(ctx: Ctx, args: &Parsed) -> Outcome {
    fields::check_filter(args)?;
    let now = ffi::now();
    let counted = read(ctx, args.key("key"), |held| {
        let filter = fields::filter(&held.space, args)?;
        if filter.is_none() {
            return Ok(Ok(held.space.count(now, None)));
        }
        Ok(Err((held.space.snapshot(), filter, held.space.len() <= SELECT_INLINE)))
    })?;
    match counted {
        None => Ok(Value::from(0i64).into()),
        Some(Ok(count)) => Ok(Value::from(count).into()),
        Some(Err((snapshot, filter, inline))) => {
            answer(ctx, inline, move || Ok(Value::from(snapshot.count(now, filter.as_ref()))))
        }
    }
}

/// `MEM.TIMELINE key start end [COUNT n] [REV] [FILTER expr]`; as in XREVRANGE the ends change places under REV only in the order of the reply.
pub fn timeline(ctx: Ctx, args: &Parsed) -> Outcome {
    fields::check_filter(args)?;
    let now = ffi::now();
    let found = read(ctx, args.key("key"), |held| {
        let timeline = Timeline {
            start: args.bound("start"),
            end: args.bound("end"),
            reverse: args.flag("rev"),
            count: args.opt_usize("count"),
            filter: fields::filter(&held.space, args)?,
        };
        let looks = if ctx.must_not_block() { usize::MAX } else { SHOWN_INLINE };
        Ok(held.space.timeline(now, &timeline, looks).ok_or_else(|| (held.space.snapshot(), timeline)))
    })?;
    let shown = |entries: Vec<Entry>| {
        Value::Array(entries.into_iter().map(|entry| fields::result_fields(entry, None, Vec::new())).collect())
    };
    match found {
        None => Ok(Value::Array(Vec::new()).into()),
        Some(Ok(entries)) => Ok(shown(entries).into()),
        Some(Err((snapshot, timeline))) => answer(ctx, false, move || Ok(shown(snapshot.timeline(now, &timeline)))),
    }
}

/// `MEM.STATS key`
pub fn stats(ctx: Ctx, args: &Parsed) -> Outcome {
    let now = ffi::now();
    let stats = read(ctx, args.key("key"), |held| {
        let stats = held.space.stats(now);
        let tiers = Tier::ALL
            .into_iter()
            .zip(&stats.tiers)
            .map(|(tier, t)| {
                // Without a capacity there is nothing to be full of.
                let utilisation = if t.capacity == 0 { Value::Null } else { Value::Double(t.utilisation) };
                (
                    tier.name(),
                    Value::map(vec![
                        ("count", Value::from(t.count)),
                        ("capacity", Value::from(t.capacity)),
                        ("utilisation", utilisation),
                        ("bytes", Value::from(t.bytes)),
                        ("pinned", Value::from(t.pinned)),
                    ]),
                )
            })
            .collect();
        let c = stats.counters;
        let (embedder, state, _) = models::embedder_state();
        let here = held
            .space
            .model()
            .map_or("foreign", |model| if state == "ready" && model == embedder { "yes" } else { "no" });
        Ok(Value::map(vec![
            ("memories", Value::from(stats.count)),
            ("superseded", Value::from(stats.superseded)),
            ("sessions", Value::from(stats.sessions)),
            ("documents", Value::from(stats.documents)),
            ("links", Value::from(stats.links)),
            ("awaiting", Value::from(stats.awaiting)),
            ("vectors", Value::from(stats.vectors)),
            ("bytes", Value::from(stats.memory)),
            (
                "bytes_by_part",
                Value::map(stats.memory_parts.iter().map(|(part, n)| (*part, Value::from(*n))).collect()),
            ),
            (
                "heat",
                Value::map(
                    Heat::ALL
                        .into_iter()
                        .zip(stats.heats)
                        .map(|(heat, of)| {
                            let numbers = vec![("count", Value::from(of.count)), ("bytes", Value::from(of.bytes))];
                            (heat.name(), Value::map(numbers))
                        })
                        .collect(),
                ),
            ),
            ("model", held.space.model().map_or(Value::Null, Value::from)),
            ("model_here", if held.space.dim().is_none() { Value::Null } else { Value::from(here) }),
            ("dimensions", held.space.dim().map_or(Value::Null, Value::from)),
            ("precision", Value::from(stats.precision.name())),
            ("tiers", Value::map(tiers)),
            ("hits", Value::from(c.hits)),
            ("misses", Value::from(c.misses)),
            ("hit_rate", stats.hit_rate.map_or(Value::Null, fields::rounded)),
            ("stores", Value::from(c.stores)),
            ("duplicates", Value::from(c.duplicates)),
            ("evictions", Value::from(c.evictions)),
            ("promotions", Value::from(c.promotions)),
            ("expirations", Value::from(c.expirations)),
            ("merges", Value::from(c.merges)),
            ("consolidated", held.consolidated.as_ref().map_or(Value::Null, |last| Value::from(last.at))),
        ]))
    })?;
    Ok(stats.unwrap_or(Value::Null).into())
}
