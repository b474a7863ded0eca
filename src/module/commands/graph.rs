//! Links between memories: LINK, UNLINK, RELATED.

use engram_memory::{Related, Via};

use super::{Outcome, fields, read, write};
use crate::commit::Needs;
use crate::ffi::{self, Ctx};
use crate::grammar::Parsed;
use crate::reply::{Error, Value};

/// Results when K is not given.
const K: usize = 10;
/// Links that are followed on the main thread at most: about a tenth of a millisecond. More are followed on the pool, over a snapshot.
const INLINE: usize = 1_000;

/// `MEM.LINK key from to REL name [WEIGHT f]`
pub fn link(ctx: Ctx, args: &Parsed) -> Outcome {
    let (from, to) = (args.id("from"), args.id("to"));
    let (rel, weight) = (args.text("rel"), args.opt_f64("weight").unwrap_or(1.0));
    write(ctx, args.key("key"), Needs::CHANGE, |space, now| Ok(((), space.link(now, from, to, rel, weight, None)?)))?;
    Ok(Value::Ok.into())
}

/// `MEM.UNLINK key from to [REL name]`
pub fn unlink(ctx: Ctx, args: &Parsed) -> Outcome {
    let (from, to, rel) = (args.id("from"), args.id("to"), args.opt_text("rel"));
    let key = args.key("key");
    if read(ctx, key, |_| Ok(()))?.is_none() {
        return Ok(Value::from(0i64).into());
    }
    let taken = write(ctx, key, Needs::FREE, |space, now| Ok(space.unlink(now, from, to, rel)?))?;
    Ok(Value::from(taken).into())
}

/// `MEM.RELATED key id [REL name] [DEPTH n] [K n]`
pub fn related(ctx: Ctx, args: &Parsed) -> Outcome {
    let (id, now) = (args.id("id"), ffi::now());
    let (depth, k) = (args.opt_usize("depth").unwrap_or(1), args.opt_usize("k").unwrap_or(K));
    let rel = args.opt_text("rel").map(str::to_owned);
    let found = read(ctx, args.key("key"), |held| Ok((held.space.snapshot_for(id), held.space.links())))?;
    let Some((snapshot, links)) = found else { return Ok(Value::Array(Vec::new()).into()) };
    let find = move || -> Result<Value, Error> {
        let related = snapshot.related(now, id, rel.as_deref(), depth, k)?;
        Ok(Value::Array(related.into_iter().map(shown).collect()))
    };
    super::read::answer(ctx, depth == 1 || links <= INLINE, find)
}

fn shown(related: Related) -> Value {
    let Related { entry, via } = related;
    let mut link = vec![("score", fields::rounded(via.activation))];
    link.extend(link_fields(&via));
    fields::related_fields(entry, link)
}

/// The link over which most came to a memory, as a reply shows it.
pub fn link_fields(via: &Via) -> Vec<(&'static str, Value)> {
    let mut fields = vec![
        ("rel", Value::from(&*via.rel)),
        ("direction", Value::from(if via.outgoing { "out" } else { "in" })),
        ("weight", Value::from(via.weight)),
        ("depth", Value::from(via.depth)),
        ("via", Value::from(via.from.to_string())),
        ("linked", Value::from(via.at)),
    ];
    fields.extend(via.reason.as_deref().map(|reason| ("reason", Value::from(reason))));
    fields
}
