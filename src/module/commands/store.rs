//! MEM.STORE, MEM.MSTORE and MEM.UPDATE: embed, deduplicate, index and replicate in one round trip.

use engram_memory::{Dedup, NewMemory, Ttl, Update, Vectors};

use super::{Flow, Outcome, check_size, expect_memory, fields, target, write};
use crate::commit::{self, Needs, Ran, Stop};
use crate::ffi::{self, Ctx};
use crate::grammar::Parsed;
use crate::jobs::{Place, Waiter};
use crate::models::{self, Embedded};
use crate::reply::{Error, Value};

/// The embedding template: 1 = the bare content.
const TEMPLATE: u16 = 1;

/// `MEM.STORE key content [...]`
pub fn store(ctx: Ctx, args: &Parsed) -> Outcome {
    let content = args.text("content");
    check_size(content, "content")?;
    let memory = fields::from_options(args, content)?;
    let text = needs_embedding(args, &memory.vectors).then(|| content.to_owned());
    embed_and_commit(
        ctx,
        args.key("key"),
        Needs::STORE,
        text.into_iter().collect(),
        vec![memory],
        |space, now, mut memories: Vec<NewMemory>, embedded| {
            let Some(mut memory) = memories.pop() else { return Err(Error::err("nothing to store")) };
            if let Some(vectors) = embedded.and_then(|e| e.into_iter().next()) {
                memory.vectors = vectors;
            }
            let stored = space.store(now, memory)?;
            Ok((Value::from(stored.id.to_string()), stored.effects))
        },
    )
}

/// `MEM.MSTORE key json [json ...]`
pub fn mstore(ctx: Ctx, args: &Parsed) -> Outcome {
    let items = args.objects("json");
    let mut memories = Vec::with_capacity(items.len());
    let mut texts = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let (memory, noembed) = fields::from_json(item).map_err(|e| at(i, e))?;
        check_size(&memory.content, "content").map_err(|e| at(i, e))?;
        if !noembed && matches!(memory.vectors, Vectors::None) {
            texts.push(memory.content.clone());
        }
        memories.push((memory, noembed));
    }
    if !texts.is_empty() && ctx.must_not_block() {
        return Err(Error::err(
            "MEM.MSTORE of texts is refused inside MULTI, scripts and functions: use MEM.STORE there, or give every memory a vector or \"noembed\": true",
        ));
    }
    embed_and_commit(
        ctx,
        args.key("key"),
        Needs::STORE,
        texts,
        memories,
        |space, now, memories: Vec<(NewMemory, bool)>, embedded| {
            expect_few_comparisons(space, &memories)?;
            let mut embedded = embedded.unwrap_or_default().into_iter();
            let memories = memories.into_iter().map(|(mut memory, noembed)| {
                if !noembed
                    && matches!(memory.vectors, Vectors::None)
                    && let Some(vectors) = embedded.next()
                {
                    memory.vectors = vectors;
                }
                memory
            });
            let (ids, effects) = space.store_many(now, memories.collect())?;
            Ok((Value::Array(ids.into_iter().map(|id| Value::from(id.to_string())).collect()), effects))
        },
    )
}

/// Numbers that one MEM.MSTORE may compare for similarity on the main thread: some tens of milliseconds.
const SIMILARITY_FLOATS: usize = 400_000_000;

/// Each memory that is deduplicated by similarity is compared with all that stand: many at once, in a large space, would keep everybody waiting.
fn expect_few_comparisons(space: &engram_memory::Space, memories: &[(NewMemory, bool)]) -> Result<(), Error> {
    let by_setting = space.config().dedup > 0.0;
    let similar = memories
        .iter()
        .filter(|(memory, _)| {
            matches!(memory.dedup, Dedup::Similar(_)) || (by_setting && memory.dedup == Dedup::Default)
        })
        .count();
    let each = (space.len() + memories.len()).saturating_mul(space.dim().unwrap_or(0)).max(1);
    if similar.saturating_mul(each) > SIMILARITY_FLOATS {
        return Err(Error::err(format!(
            "{similar} memories to be compared by similarity with {}: send at most {} of them at once",
            space.len(),
            (SIMILARITY_FLOATS / each).max(1)
        )));
    }
    Ok(())
}

/// `MEM.UPDATE key id [CONTENT text] [...]`
pub fn update(ctx: Ctx, args: &Parsed) -> Outcome {
    let id = args.id("id");
    let content = args.opt_text("content");
    if let Some(content) = content {
        check_size(content, "CONTENT")?;
    }
    let update = fields::update_from_options(args)?;
    let given = !matches!(update.vectors, None | Some(Vectors::None));
    let text = content.filter(|_| !given && !args.flag("noembed")).map(str::to_owned);
    embed_and_commit(
        ctx,
        args.key("key"),
        Needs::CHANGE,
        text.into_iter().collect(),
        update,
        move |space, now, mut update: Update, embedded| {
            if let Some(vectors) = embedded.and_then(|e| e.into_iter().next()) {
                update.vectors = Some(vectors);
            }
            Ok((Value::Ok, space.update(now, id, update)?))
        },
    )
}

/// Whether the text needs the encoder: no vector was given and NOEMBED neither.
fn needs_embedding(args: &Parsed, vectors: &Vectors) -> bool {
    matches!(vectors, Vectors::None) && !args.flag("noembed")
}

fn vectors_of(embedded: Embedded) -> Vec<Vectors> {
    let model = embedded.model;
    embedded
        .texts
        .into_iter()
        .map(|windows| Vectors::Embedded { model: model.clone(), template: TEMPLATE, windows: windows.to_vec() })
        .collect()
}

/// Says which of several memories an error is about.
fn at(index: usize, error: Error) -> Error {
    Error::new(error.code, format!("memory {}: {}", index + 1, error.message))
}

/// The common path of everything that stores text: embeds what has to be embedded, at once where it is cached or where nothing may block, else on the
/// pool, and commits. `decide` gets the vectors of `texts` in their order, None if there were none.
fn embed_and_commit<D: Send + 'static>(
    ctx: Ctx,
    key: &[u8],
    needs: Needs,
    texts: Vec<String>,
    data: D,
    decide: impl FnOnce(
        &engram_memory::Space,
        u64,
        D,
        Option<Vec<Vectors>>,
    ) -> Result<(Value, Vec<engram_memory::Effect>), Error>
    + Send
    + 'static,
) -> Outcome {
    if texts.is_empty() {
        return write(ctx, key, needs, |space, now| decide(space, now, data, None)).map(Flow::from);
    }
    models::expect_embedder()?;
    expect_memory(ctx)?;
    let target = target(ctx, key)?;
    if !needs.create && target.expect == commit::Expect::Absent {
        return Err(Error::err("no such space"));
    }
    let at_once = if ctx.must_not_block() {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Some(models::embed_inline(ctx, &texts)?)
    } else {
        models::all_cached(&texts)
    };
    if let Some(embedded) = at_once {
        let vectors = vectors_of(embedded);
        return write(ctx, key, needs, |space, now| decide(space, now, data, Some(vectors))).map(Flow::from);
    }
    let place = Place::take()?;
    // An accepted write commits even if its client leaves: nothing to do when it does.
    let waiter = Waiter::block(ctx, 0, || {});
    let expected = texts.len();
    models::embed_in_background(texts, waiter, move |embedded, waiter| {
        #[cfg(feature = "latch")]
        crate::latch::pass();
        let vectors = match embedded {
            Ok(embedded) => vectors_of(embedded),
            Err(error) => return waiter.answer(Err(error)),
        };
        debug_assert_eq!(vectors.len(), expected, "one set of vectors per text");
        let mut work = Some((waiter, place, data, decide, vectors));
        commit::submit(move |ctx| {
            if ffi::is_paused() {
                return Ran::Later;
            }
            let Some((waiter, _place, data, decide, vectors)) = work.take() else { return Ran::Done };
            match commit::commit(ctx, &target, needs, |space, now| decide(space, now, data, Some(vectors))) {
                Ok(value) => waiter.answer(Ok(value)),
                Err(Stop::Never(error)) => waiter.answer(Err(error)),
                // Cannot be: the pause was looked at above, under the same lock.
                Err(Stop::Later) => waiter.answer(Err(Error::err("the server is paused: retry"))),
            }
            Ran::Done
        });
    });
    Ok(Flow::Later)
}

/// The lifetime that TTL and PERSIST ask for.
pub fn ttl(args: &Parsed) -> Ttl {
    match args.opt_u64("ttl") {
        Some(seconds) => Ttl::Seconds(seconds),
        None if args.flag("persist") => Ttl::Persist,
        None => Ttl::Tier,
    }
}
