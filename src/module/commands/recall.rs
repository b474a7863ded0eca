//! MEM.RECALL: memories by meaning.
//!
//! A recall works on a snapshot taken when the command is read, so it sees every write before it and none after. Small spaces are scanned at once on the
//! main thread; larger ones, and texts that have to be embedded first, on the pool. Use is noted on the main thread when the reply is written, and only
//! if the space is still the one that was read.

use engram_memory::{Hit, MemoryId, Recall, Snapshot, Tier};

use super::{Flow, Outcome, check_size, fields, read};
use crate::datatype::{self, Found};
use crate::ffi::{self, Ctx, Key, Mode, Str};
use crate::grammar::Parsed;
use crate::jobs::{Place, Waiter};
use crate::models::{self, Windows};
use crate::reply::{Error, Value};

/// Results when K is not given.
const K: usize = 10;
/// Floats scanned on the main thread at most: about a fifth of a millisecond.
const INLINE_FLOATS: usize = 2_000_000;

/// Where a snapshot came from: enough to note use there, if it still stands.
#[derive(Clone)]
pub struct Origin {
    db: i32,
    key: Box<[u8]>,
    incarnation: u64,
}

impl Origin {
    /// Notes that a recall found these memories. On the main thread.
    pub fn note(&self, ctx: Ctx, found: &[MemoryId], touch: bool) {
        let db = ctx.db();
        if !ctx.select(self.db) {
            return;
        }
        let name = Str::new(&self.key);
        let mut key = Key::open(ctx, &name, Mode::Peek);
        if let Found::Space(held) = datatype::find(&mut key)
            && held.incarnation == self.incarnation
        {
            let now = ffi::now();
            held.space.note_recall(!found.is_empty());
            if touch {
                found.iter().for_each(|id| held.touch(*id, now));
            }
        }
        ctx.select(db);
    }
}

/// A frozen space and what to look for in it.
pub struct Search {
    snapshot: Snapshot,
    memories: usize,
    /// Everything but the query vectors.
    recall: Recall,
    /// Where it came from.
    pub origin: Origin,
}

impl Search {
    /// Reads the options that MEM.RECALL and `MEMORY` share. None if there is no such space.
    pub fn begin(ctx: Ctx, key: &[u8], args: &Parsed, default_k: usize) -> Result<Option<Search>, Error> {
        fields::check_filter(args)?;
        let tiers = match args.list("tiers") {
            [] => None,
            names => Some(names.iter().map(|name| Tier::parse(name)).collect::<Result<Vec<_>, _>>()?),
        };
        read(ctx, key, |held| {
            Ok(Search {
                recall: Recall {
                    queries: Vec::new(),
                    k: args.opt_usize("k").unwrap_or(default_k),
                    tiers,
                    filter: fields::filter(&held.space, args)?,
                    min_score: args.opt_f64("minscore"),
                    session: args.opt_text("session").map(str::to_owned),
                    since: args.opt_u64("since"),
                    until: args.opt_u64("until"),
                },
                origin: Origin { db: ctx.db(), key: key.into(), incarnation: held.incarnation },
                snapshot: held.space.snapshot(),
                memories: held.space.len(),
            })
        })
    }

    /// Whether text can be looked for in this space, with the encoder of this server.
    pub fn expect_text(&self) -> Result<(), Error> {
        models::expect_embedder()?;
        if self.snapshot.dim().is_none() {
            return Ok(());
        }
        match self.snapshot.model() {
            None => Err(Error::err(
                "this space holds the caller's own vectors, which no model made: recall by VECTOR or VALUES",
            )),
            Some(_) => match models::embedder() {
                Ok(encoder) => self.expect_model(encoder.name()),
                // Being loaded: looked at again when the text has been embedded.
                Err(_) => Ok(()),
            },
        }
    }

    /// Whether vectors of this model compare with those of the space.
    pub fn expect_model(&self, embedded_by: &str) -> Result<(), Error> {
        match self.snapshot.model() {
            Some(model) if model != embedded_by => Err(Error::new(
                "NOMODEL",
                format!(
                    "this space is embedded by '{model}', this server has '{embedded_by}' (engram.embedder): recall by VECTOR, or load that model"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Whether the scan is short enough for the main thread.
    fn is_short(&self, queries: usize) -> bool {
        // A memory has one row at least; long ones have more, and are few among many.
        self.memories.saturating_mul(self.snapshot.dim().unwrap_or(0)).saturating_mul(queries) <= INLINE_FLOATS
    }

    /// The best memories for these query vectors, one per window of the query.
    pub fn run(&self, queries: Vec<Vec<f32>>) -> Result<Vec<Hit>, Error> {
        if self.snapshot.dim().is_none() {
            return Ok(Vec::new());
        }
        Ok(self.snapshot.recall(ffi::now(), &Recall { queries, ..self.recall.clone() })?)
    }

    fn reply(&self, hits: &[Hit], with_vectors: bool) -> Value {
        let reply = |hit: &Hit| {
            // The first window's vector: what MEM.STORE by VECTOR would take back.
            let vector = || {
                self.snapshot.vectors(hit).first().map(|v| v.iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<u8>>())
            };
            fields::result_fields(
                &hit.entry,
                Some((hit.score, Some(hit.similarity))),
                with_vectors.then(vector).flatten(),
            )
        };
        Value::Array(hits.iter().map(reply).collect())
    }
}

/// The ids of hits.
pub fn ids(hits: &[Hit]) -> Vec<MemoryId> {
    hits.iter().map(|hit| hit.entry.id).collect()
}

/// `MEM.RECALL key text | TEXT text | VECTOR blob | VALUES n v... [...]`
pub fn recall(ctx: Ctx, args: &Parsed) -> Outcome {
    let text = args.opt_text("text").map(str::to_owned);
    text.as_deref().map_or(Ok(()), |text| check_size(text, "the text"))?;
    let Some(search) = Search::begin(ctx, args.key("key"), args, K)? else {
        return Ok(Value::Array(Vec::new()).into());
    };
    let options = Options { with_vectors: args.flag("withvectors"), touch: !args.flag("notouch") };
    if let Some(vector) = args.vector().map(<[f32]>::to_vec) {
        if search.is_short(1) || ctx.must_not_block() {
            return now(ctx, &search, vec![vector], options);
        }
        return later(ctx, search, Query::Vectors(vec![vector]), options);
    }
    let Some(text) = text else {
        return Err(Error::err("MEM.RECALL needs what to look for: a text, TEXT text, VECTOR blob or VALUES n v..."));
    };
    search.expect_text()?;
    let texts = [text];
    let embedded = if ctx.must_not_block() {
        Some(models::embed_inline(ctx, &[texts[0].as_str()])?)
    } else {
        models::all_cached(&texts)
    };
    let [text] = texts;
    match embedded.and_then(|e| e.texts.into_iter().next()) {
        Some(windows) if search.is_short(windows.len()) || ctx.must_not_block() => {
            now(ctx, &search, windows.to_vec(), options)
        }
        Some(windows) => later(ctx, search, Query::Vectors(windows.to_vec()), options),
        None => later(ctx, search, Query::Text(text), options),
    }
}

#[derive(Clone, Copy)]
struct Options {
    with_vectors: bool,
    touch: bool,
}

enum Query {
    Text(String),
    Vectors(Vec<Vec<f32>>),
}

fn now(ctx: Ctx, search: &Search, queries: Vec<Vec<f32>>, options: Options) -> Outcome {
    let hits = search.run(queries)?;
    search.origin.note(ctx, &ids(&hits), options.touch);
    Ok(search.reply(&hits, options.with_vectors).into())
}

fn later(ctx: Ctx, search: Search, query: Query, options: Options) -> Outcome {
    let place = Place::take()?;
    let waiter = Waiter::block(ctx, 0, || {});
    let finish = move |search: Search, waiter: Waiter, queries: Result<Vec<Vec<f32>>, Error>| {
        waiter.work_begins();
        let found = queries.and_then(|queries| search.run(queries));
        waiter.work_ends();
        match found {
            Ok(hits) => {
                let (origin, found) = (search.origin.clone(), ids(&hits));
                let reply = search.reply(&hits, options.with_vectors);
                waiter.answer_then(Ok(reply), move |ctx| origin.note(ctx, &found, options.touch));
            }
            Err(error) => waiter.answer(Err(error)),
        }
        drop(place);
    };
    match query {
        Query::Vectors(queries) => models::spawn_once(move || finish(search, waiter, Ok(queries))),
        Query::Text(text) => models::embed_in_background(vec![text], waiter, move |embedded, waiter| {
            let windows = embedded.and_then(|e| {
                search.expect_model(&e.model)?;
                Ok(e.texts.into_iter().next().map_or_else(Vec::new, |w: Windows| w.to_vec()))
            });
            finish(search, waiter, windows);
        }),
    }
    Ok(Flow::Later)
}
