//! MEM.RECALL: memories by meaning and by words.
//!
//! A recall works on a snapshot taken when the command is read, so it sees every write before it and none after. Use is noted on the main thread when the
//! reply is written, and only if the space is still the one that was read.
//!
//! Where it runs: on the pool, if it is long or its text has to be embedded first; else on the main thread, which answers a client that is alone the soonest.
//! But what takes [`WORTH_MOVING`] is moved to the pool too where others would wait for it (see `traffic`): several clients that recall share all cores, and
//! a write never waits for more than the handing over.
//!
//! A text whose vector cannot be had here (no encoder, another model, vectors that no model made) is looked for by its words alone; EXPLAIN says so and
//! INFO counts it. Only MODE dense is refused then. Rejected: refusing the recall unless it asks for words, for an agent is better served by what can
//! be found than by an error that it cannot mend.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use engram_agent::WordVector;
use engram_memory::{Admitted, Hit, Mode as By, Recall, Recalled, Snapshot, Tier, TokenVectors, Weights, Whereabouts};

use super::{Flow, Outcome, check_size, fields, graph, read};
use crate::alerts;
use crate::datatype::{self, Found, Held};
use crate::ffi::{self, Ctx, Key, Mode, Str};
use crate::fill;
use crate::grammar::Parsed;
use crate::jobs::{self, Place, Waiter};
use crate::latency::Operation;
use crate::models::{self, Text, Vectors};
use crate::reply::{Error, Value};
use crate::traffic;

/// Results when K is not given.
const K: usize = 10;
/// A search that takes longer than this goes to the pool, in nanoseconds.
const INLINE_NANOS: u64 = 300_000;
/// One that takes this long does too where it keeps others waiting: handing it over and back costs some 20,000.
const WORTH_MOVING: u64 = 80_000;
/// Recalls of that kind which wait for a thread, at most: beyond, the main thread lends a hand.
const WAITING: usize = 16;

/// Recalls by how vectors were searched, under the names that INFO has for them.
static PATHS: [(&str, &str, AtomicU64); 5] = [
    ("exact", "recalls_exact", AtomicU64::new(0)),
    ("one-bit", "recalls_one_bit", AtomicU64::new(0)),
    ("index", "recalls_index", AtomicU64::new(0)),
    ("listed", "recalls_listed", AtomicU64::new(0)),
    ("none", "recalls_by_words", AtomicU64::new(0)),
];
/// Short recalls that are on the pool now.
static MOVED: AtomicUsize = AtomicUsize::new(0);
/// Recalls that were run on the pool, apart from those whose text had to be embedded first.
pub static ON_THE_POOL: AtomicU64 = AtomicU64::new(0);
/// Recalls of a text that was looked for by its words because its vector could not be had.
pub static WITHOUT_ENCODER: AtomicU64 = AtomicU64::new(0);

/// Recalls by path, for INFO.
pub fn paths() -> impl Iterator<Item = (&'static str, u64)> {
    PATHS.iter().map(|(_, name, count)| (*name, count.load(Relaxed)))
}

/// Where a snapshot came from: enough to note use there, if it still stands.
#[derive(Clone)]
pub struct Origin {
    db: i32,
    key: Box<[u8]>,
    incarnation: u64,
}

impl Origin {
    /// That of what is read of a space now.
    pub fn of(ctx: Ctx, key: &[u8], held: &Held) -> Origin {
        Origin { db: ctx.db(), key: key.into(), incarnation: held.incarnation }
    }

    /// Notes that a recall found these memories. On the main thread.
    pub fn note(&self, ctx: Ctx, found: &[Whereabouts], touch: bool) {
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
            alerts::note_recall(held, !found.is_empty());
            if touch {
                found.iter().for_each(|found| held.touch(*found, now));
            }
        }
        ctx.select(db);
    }
}

/// A frozen space and what to look for in it.
pub struct Search {
    snapshot: Snapshot,
    recall: Recall,
    /// What it may find, once that was worked out, and the time that holds for.
    admitted: Option<(u64, Admitted)>,
    /// Whether the vectors of the text have still to be made.
    wants_vectors: bool,
    /// Why a text is looked for by its words alone, if not by the caller's wish.
    by_words_because: Option<&'static str>,
    began: Instant,
    /// How long its vectors took, waiting included.
    embed_micros: u64,
    /// Where it came from.
    pub origin: Origin,
}

impl Search {
    /// Reads the options that MEM.RECALL and `MEMORY` share, and those that only the first has. None if there is no such space.
    pub fn begin(ctx: Ctx, key: &[u8], args: &Parsed, default_k: usize) -> Result<Option<Search>, Error> {
        let began = Instant::now();
        fields::check_filter(args)?;
        let tiers = match args.list("tiers") {
            [] => None,
            names => Some(names.iter().map(|name| Tier::parse(name)).collect::<Result<Vec<_>, _>>()?),
        };
        let mode = args.opt_text("mode").and_then(|name| By::ALL.into_iter().find(|(_, known)| *known == name));
        let weights = args.opt_numbers("weights").map(|[relevance, recency, importance, usage]| Weights {
            relevance,
            recency,
            importance,
            usage,
        });
        read(ctx, key, |held| {
            let recall = Recall {
                like: args.opt_id("like"),
                mode: mode.map(|(mode, _)| mode),
                k: args.opt_usize("k").unwrap_or(default_k),
                tiers,
                filter: fields::filter(&held.space, args)?,
                min_score: args.opt_f64("minscore"),
                session: args.opt_text("session").map(str::to_owned),
                since: args.opt_u64("since"),
                until: args.opt_u64("until"),
                as_of: args.opt_u64("asof"),
                weights,
                half_life: args.opt_u64("halflife"),
                prefer: args.weighted("prefer").into_iter().map(|(outcome, by)| (outcome.to_owned(), by)).collect(),
                mmr: args.opt_f64("mmr"),
                expand: args.opt_usize("expand"),
                exact: args.flag("exact"),
                explain: args.flag("explain"),
                ..Recall::default()
            };
            Ok(Search {
                admitted: None,
                wants_vectors: false,
                by_words_because: None,
                began,
                embed_micros: 0,
                origin: Origin::of(ctx, key, held),
                snapshot: recall.like.map_or_else(|| held.space.snapshot(), |id| held.space.snapshot_for(id)),
                recall,
            })
        })
    }

    /// Looks in the whole space, whatever session was named.
    pub fn everywhere(&mut self) {
        self.recall.session = None;
    }

    /// Looks for a text: by its vectors too, where they can be had and are of use. Errors where it can be looked for in no way.
    pub fn look_for(&mut self, text: String) -> Result<(), Error> {
        self.recall.text = Some(text);
        if self.recall.mode == Some(By::Lexical) {
            return Ok(());
        }
        if self.snapshot.dim().is_some() && self.snapshot.model().is_none() {
            return self.go_by_words(
                "the vectors of this space are the caller's own, which no model made",
                Error::err(
                    "this space holds the caller's own vectors, which no model made: recall by VECTOR or VALUES, with MODE lexical, or have MEM.REEMBED embed it",
                ),
            );
        }
        if let Err(error) = models::expect_embedder() {
            return self.go_by_words("there is no text encoder", error);
        }
        // A space without vectors has nothing that the text's would be compared with.
        self.wants_vectors = self.snapshot.dim().is_some();
        match models::embedder() {
            Ok(encoder) if self.wants_vectors => self.expect_model(encoder.name()),
            // Being loaded: looked at again when the text has been embedded.
            _ => Ok(()),
        }
    }

    /// The text as the encoder is to take it: with its words, where memories have theirs.
    pub fn question(&self, text: &str) -> Text {
        let settings = self.snapshot.settings();
        let words = settings.lexical
            && settings.token_vectors != TokenVectors::Off
            && settings.ranking.token_vectors
            && self.recall.mode != Some(By::Dense);
        if words { Text::query(text).with_words(0, settings.language) } else { Text::query(text) }
    }

    /// Whether the vectors of the text have still to be made.
    pub fn wants_vectors(&self) -> bool {
        self.wants_vectors
    }

    /// What embedding the text came to: the model's name and the vectors.
    pub fn embedded(&mut self, embedded: Result<(String, Vectors), Error>) -> Result<(), Error> {
        self.embed_micros = micros(self.began);
        self.wants_vectors = false;
        match embedded {
            Ok((model, vectors)) => {
                self.recall.queries.clone_from(&vectors.windows);
                self.recall.words = vectors.words.iter().map(WordVector::query_word).collect();
                self.expect_model(&model)
            }
            Err(error) if error.code == "NOMODEL" => self.go_by_words("there is no text encoder", error),
            Err(error) => Err(error),
        }
    }

    /// Vectors of another model than the space's say nothing here.
    fn expect_model(&mut self, embedded_by: &str) -> Result<(), Error> {
        let Some(model) = self.snapshot.model().filter(|model| *model != embedded_by) else { return Ok(()) };
        let error = Error::new(
            "NOMODEL",
            format!(
                "this space is embedded by '{model}', this server has '{embedded_by}' (engram.embedder): recall by VECTOR or with MODE lexical, load that model, or move the space to this one by MEM.REEMBED"
            ),
        );
        self.go_by_words("the model of this space is not on this server", error)
    }

    /// Leaves the vectors out, or fails with `otherwise` where there are no words to go by.
    fn go_by_words(&mut self, because: &'static str, otherwise: Error) -> Result<(), Error> {
        if self.recall.mode == Some(By::Dense) || !self.snapshot.settings().lexical {
            return Err(otherwise);
        }
        self.recall.queries.clear();
        self.wants_vectors = false;
        self.by_words_because = Some(because);
        Ok(())
    }

    /// Where it is to run.
    fn lane(&mut self) -> Lane {
        let admitting = self.snapshot.admit_nanos(&self.recall);
        if admitting > INLINE_NANOS {
            return Lane::Pool;
        }
        // What a filter admits says most about how long the rest takes, so a filter that does not take long is run to know.
        if self.recall.filter.is_some() && !(traffic::others_wait() && admitting > WORTH_MOVING) {
            let now = ffi::now();
            self.admitted = Some((now, self.snapshot.admit(now, &self.recall)));
        }
        let admitted = self.admitted.as_ref().map(|(_, admitted)| admitted);
        let nanos = admitting + self.snapshot.recall_nanos(&self.recall, admitted);
        if nanos > INLINE_NANOS {
            return Lane::Pool;
        }
        if nanos < WORTH_MOVING || !traffic::others_wait() {
            return Lane::Here;
        }
        // While others write, it also waits for a thread, as long as all that is before it is as short.
        let (waiting, running, threads) = models::pool_load();
        let room = waiting + running < threads
            || traffic::others_write() && waiting < WAITING && waiting + running <= MOVED.load(Relaxed);
        // A full queue is no reason to refuse what the main thread can do as well.
        if room && let Ok(place) = Place::take() { Lane::Moved(Moved::new(place)) } else { Lane::Here }
    }

    /// Runs the search.
    pub fn run(&mut self) -> Result<Recalled, Error> {
        // Without any vector in the space, what goes by vectors alone finds nothing; the engine would miss the question's.
        if self.recall.mode == Some(By::Dense) && self.snapshot.dim().is_none() && self.recall.like.is_none() {
            return Ok(Recalled { path: "none", ..Recalled::default() });
        }
        let recalled = match self.admitted.take() {
            Some((now, admitted)) => self.snapshot.recall_among(now, &self.recall, admitted)?,
            None => self.snapshot.recall(ffi::now(), &self.recall)?,
        };
        if let Some((_, _, count)) = PATHS.iter().find(|(path, ..)| *path == recalled.path) {
            count.fetch_add(1, Relaxed);
        }
        if self.by_words_because.is_some() {
            WITHOUT_ENCODER.fetch_add(1, Relaxed);
        }
        Ok(recalled)
    }

    /// Runs the search and writes the reply; with it what was found.
    fn answer(&mut self, with_vectors: bool) -> Result<(Value, Vec<Whereabouts>), Error> {
        let started = Instant::now();
        let mut recalled = self.run()?;
        let search_micros = micros(started);
        let hits = std::mem::take(&mut recalled.hits);
        let found = hits.iter().map(Hit::whereabouts).collect();
        let reply = |hit: Hit| {
            let mut more = Vec::new();
            if with_vectors && let Some(vector) = self.snapshot.vectors(&hit).first() {
                // The first window's vector: what MEM.STORE by VECTOR would take back.
                more.push(("vector", Value::Bytes(vector.iter().flat_map(|f| f.to_le_bytes()).collect())));
            }
            if self.recall.explain {
                more.push(("explain", self.explained(&hit, &recalled, search_micros)));
            }
            fields::result_fields(hit.entry, Some((hit.score, hit.similarity)), more)
        };
        Ok((Value::Array(hits.into_iter().map(reply).collect()), found))
    }

    /// How a score came about, and how the search went.
    fn explained(&self, hit: &Hit, recalled: &Recalled, search_micros: u64) -> Value {
        let mut parts = Vec::new();
        let mut words = Vec::new();
        for (name, part) in &hit.parts {
            match name.strip_prefix("word:") {
                Some(word) => words.push((word.to_owned(), fields::rounded(*part))),
                None => parts.push((name.clone(), fields::rounded(*part))),
            }
        }
        let mut fields = vec![("parts", Value::map(parts)), ("words", Value::map(words))];
        if let Some(via) = &hit.via {
            let mut link = vec![("activation", fields::rounded(via.activation))];
            link.extend(graph::link_fields(via));
            fields.push(("link", Value::map(link)));
        }
        fields.extend([
            ("path", Value::from(recalled.path)),
            ("compared", Value::from(recalled.compared)),
            ("rescored", Value::from(recalled.rescored)),
            ("admitted", Value::from(recalled.admitted)),
            ("matched", Value::from(recalled.matched)),
            ("embed_usec", Value::from(self.embed_micros)),
            ("search_usec", Value::from(search_micros)),
        ]);
        if let Some(because) = self.by_words_because {
            fields.push(("note", Value::from(format!("looked for by words alone: {because}"))));
        }
        Value::map(fields)
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// `MEM.RECALL key text | TEXT text | VECTOR blob | VALUES n v... | LIKE id [...]`
pub fn recall(ctx: Ctx, args: &Parsed) -> Outcome {
    // Words are found at once.
    if args.opt_text("mode") == Some("lexical") {
        return run(ctx, args, &mut None);
    }
    fill::searched(ctx, args.key("key"), args, run)
}

/// The same for a client that waits already, or for the one of `ctx`.
fn run(ctx: Ctx, args: &Parsed, waiting: &mut Option<Waiter>) -> Outcome {
    let began = jobs::began(waiting);
    let text = args.opt_text("text").map(str::to_owned);
    text.as_deref().map_or(Ok(()), |text| check_size(text, "the text"))?;
    if args.opt_text("mode") != Some("lexical")
        && let Some(score) = args.opt_f64("minscore").filter(|score| *score > 1.0)
    {
        return Err(Error::err(format!(
            "MEM.RECALL: MINSCORE is {score}: accepted is a cosine from -1 to 1, or with MODE lexical a BM25 score"
        )));
    }
    let Some(mut search) = Search::begin(ctx, args.key("key"), args, K)? else {
        return Ok(Value::Array(Vec::new()).into());
    };
    let options = Options { with_vectors: args.flag("withvectors"), touch: !args.flag("notouch"), began };
    search.recall.queries.extend(args.vector().map(<[f32]>::to_vec));
    if let Some(text) = &text {
        search.look_for(text.clone())?;
    }
    let inline = waiting.is_none() && ctx.must_not_block();
    if let Some(text) = text.filter(|_| search.wants_vectors()) {
        let texts = [search.question(&text)];
        let embedded = if inline { Some(models::embed_inline(ctx, &texts)?) } else { models::all_cached(&texts) };
        let Some((model, vectors)) = embedded.and_then(|e| Some((e.model, e.texts.into_iter().next()?))) else {
            let [text] = texts;
            return later(ctx, search, Some(text), options, None, waiting);
        };
        search.embedded(Ok((model, vectors)))?;
    }
    if !inline {
        match search.lane() {
            Lane::Here => {}
            Lane::Pool => return later(ctx, search, None, options, None, waiting),
            Lane::Moved(moved) => return later(ctx, search, None, options, Some(moved), waiting),
        }
    }
    let (reply, found) = search.answer(options.with_vectors)?;
    search.origin.note(ctx, &found, options.touch);
    Operation::Recall.ended(began);
    Ok(reply.into())
}

/// Where a recall runs.
enum Lane {
    /// On the main thread.
    Here,
    /// On the pool, because it is long.
    Pool,
    /// On the pool, because others would wait for it.
    Moved(Moved),
}

/// One of the short recalls that were moved, with its place in the queue; one less when dropped.
struct Moved {
    _place: Place,
}

impl Moved {
    fn new(place: Place) -> Moved {
        MOVED.fetch_add(1, Relaxed);
        Moved { _place: place }
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        MOVED.fetch_sub(1, Relaxed);
    }
}

#[derive(Clone, Copy)]
struct Options {
    with_vectors: bool,
    touch: bool,
    /// When the command came.
    began: Instant,
}

/// Runs the search on the pool, once `text`, if there is one, has been embedded there.
fn later(
    ctx: Ctx,
    search: Search,
    text: Option<Text>,
    options: Options,
    moved: Option<Moved>,
    waiting: &mut Option<Waiter>,
) -> Outcome {
    let place = if moved.is_some() { None } else { Some(Place::take()?) };
    let waiter = waiting.take().unwrap_or_else(|| Waiter::block(ctx, 0, || {}));
    let finish = move |mut search: Search, waiter: Waiter| {
        waiter.work_begins();
        let answered = search.answer(options.with_vectors);
        waiter.work_ends();
        match answered {
            Ok((reply, found)) => {
                let origin = search.origin.clone();
                drop(search);
                Operation::Recall.ended(options.began);
                waiter.answer_then(Ok(reply), move |ctx| origin.note(ctx, &found, options.touch));
            }
            Err(error) => waiter.answer(Err(error)),
        }
        drop(place);
    };
    match text {
        None => {
            ON_THE_POOL.fetch_add(1, Relaxed);
            models::spawn_once(move || {
                finish(search, waiter);
                drop(moved);
            });
        }
        Some(text) => models::embed_in_background(vec![text], waiter, move |embedded, waiter| {
            let mut search = search;
            let embedded = embedded.and_then(|e| {
                let vectors = e.texts.into_iter().next().ok_or_else(|| Error::err("there is nothing to embed"))?;
                Ok((e.model, vectors))
            });
            match search.embedded(embedded) {
                Ok(()) => finish(search, waiter),
                Err(error) => waiter.answer(Err(error)),
            }
        }),
    }
    Ok(Flow::Later)
}
