//! MEM.AUDIT: what is wrong with a space.

use engram_agent::{fact_rules, is_grounded};
use engram_memory::Flaw;

use super::{Outcome, read};
use crate::ffi::{self, Ctx};
use crate::grammar::Parsed;
use crate::reply::{Error, Value};

/// Findings of one sort that a reply lists; all are counted.
const LISTED: usize = 1_000;
/// Memories that are audited on the main thread at most, and where nobody may be blocked.
const INLINE: usize = 100;
const UNBLOCKED: usize = 1_000;

/// `MEM.AUDIT key`
pub fn audit(ctx: Ctx, args: &Parsed) -> Outcome {
    let now = ffi::now();
    let Some((snapshot, memories)) = read(ctx, args.key("key"), |held| Ok((held.space.snapshot(), held.space.len())))?
    else {
        return Ok(Value::Null.into());
    };
    if ctx.must_not_block() && memories > UNBLOCKED {
        return Err(Error::new(
            "INLINELIMIT",
            format!("inside MULTI, scripts and functions at most {UNBLOCKED} memories are audited: call it outside"),
        ));
    }
    super::read::answer(ctx, memories <= INLINE, move || {
        let audit = snapshot.audit(now, fact_rules(), &is_grounded)?;
        let sorts = [
            ("duplicates", audit.duplicates),
            ("contradictory", audit.contradictory),
            ("ungrounded", audit.ungrounded),
            ("stale", audit.stale),
        ];
        let counts = sorts.iter().map(|(name, found)| (*name, Value::from(found.len())));
        let mut fields = vec![("memories", Value::from(memories)), ("counts", Value::map(counts.collect()))];
        fields.extend(
            sorts
                .into_iter()
                .map(|(name, found)| (name, Value::Array(found.into_iter().take(LISTED).map(flaw).collect()))),
        );
        Ok(Value::map(fields))
    })
}

fn flaw(found: Flaw) -> Value {
    Value::map(vec![
        ("ids", Value::Array(found.ids.iter().map(|id| Value::from(id.to_string())).collect())),
        ("reason", Value::from(found.reason)),
    ])
}
