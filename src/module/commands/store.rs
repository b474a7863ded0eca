//! MEM.STORE, MEM.MSTORE and MEM.UPDATE: embed, deduplicate, index and replicate in one round trip.

use std::time::Instant;

use engram_agent::{Role, WordVector};
use engram_memory::{Dedup, Entry, Importance, Language, NewMemory, Settings, Space, Template, Ttl, Update, Vectors};

use super::{Flow, Outcome, check_size, expect_memory, fields, read, target, write};
use crate::commit::{self, Needs, Ran, Stop};
use crate::ffi::{self, Ctx};
use crate::grammar::Parsed;
use crate::jobs::{Place, Waiter};
use crate::latency::Operation;
use crate::models::{self, Embedded, Text, TextVectors};
use crate::reply::{Error, Value};

/// `MEM.STORE key content [...]`
pub fn store(ctx: Ctx, args: &Parsed) -> Outcome {
    let content = args.text("content");
    check_size(content, "content")?;
    let mut memory = fields::from_options(args, content)?;
    let wording = Wording::at(ctx, args.key("key"))?;
    let text = needs_embedding(args, &memory.vectors).then(|| text_of(wording, &mut memory, ffi::now()));
    embed_and_commit(
        ctx,
        args.key("key"),
        Needs::STORE,
        wording,
        text.into_iter().collect(),
        vec![memory],
        |space, now, mut memories: Vec<NewMemory>, embedded| {
            let Some(mut memory) = memories.pop() else { return Err(Error::err("nothing to store")) };
            if let Some(vectors) = embedded.and_then(|e| e.into_iter().next()) {
                memory.vectors = vectors;
            }
            give_importance(space, &mut memory);
            let stored = space.store(now, memory)?;
            Ok((Value::from(stored.id.to_string()), stored.effects))
        },
    )
}

/// `MEM.MSTORE key json [json ...]`
pub fn mstore(ctx: Ctx, args: &Parsed) -> Outcome {
    let items = args.objects("json");
    let (wording, now) = (Wording::at(ctx, args.key("key"))?, ffi::now());
    let mut memories = Vec::with_capacity(items.len());
    let mut texts = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let (mut memory, noembed) = fields::from_json(item).map_err(|e| at(i, e))?;
        check_size(&memory.content, "content").map_err(|e| at(i, e))?;
        if !noembed && matches!(memory.vectors, Vectors::None) {
            texts.push(text_of(wording, &mut memory, now));
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
        wording,
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
                give_importance(space, &mut memory);
                memory
            });
            let (ids, effects) = space.store_many(now, memories.collect())?;
            Ok((Value::Array(ids.into_iter().map(|id| Value::from(id.to_string())).collect()), effects))
        },
    )
}

/// The importance that a memory, or a turn with its role, has where none is given: what the space says, or what the words are worth.
pub fn default_importance(space: &Space, content: &str, kind: &str, role: Option<&str>) -> f64 {
    estimated_importance(space.config(), content, kind, role)
}

/// The same by the settings of a space.
pub fn estimated_importance(settings: &Settings, content: &str, kind: &str, role: Option<&str>) -> f64 {
    match settings.importance {
        Importance::Fixed(fixed) => fixed,
        Importance::Estimate => engram_agent::importance(content, kind, role.and_then(Role::parse)),
    }
}

fn give_importance(space: &Space, memory: &mut NewMemory) {
    if memory.importance.is_none() {
        let kind = memory.kind.as_deref().unwrap_or("fact");
        memory.importance = Some(default_importance(space, &memory.content, kind, memory.role.as_deref()));
    }
}

/// Numbers that one MEM.MSTORE may compare for similarity on the main thread: some tens of milliseconds.
const SIMILARITY_FLOATS: usize = 400_000_000;

/// Each memory that is deduplicated by similarity is compared with all that stand: many at once, in a large space, would keep everybody waiting.
fn expect_few_comparisons(space: &Space, memories: &[(NewMemory, bool)]) -> Result<(), Error> {
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
    let standing = read(ctx, args.key("key"), |held| Ok((Wording::of(&held.space), held.space.get(ffi::now(), id))))?;
    let (wording, entry) = standing.unwrap_or_else(|| (Wording::of(&Space::new()), None));
    let template = wording.template;
    let text = entry.as_ref().and_then(|entry| new_text(template, entry, &update));
    let content = update.content.as_deref().or(entry.as_ref().map(|entry| &*entry.content)).map_or(0, str::len);
    let embedded_text = text.clone();
    embed_and_commit(
        ctx,
        args.key("key"),
        Needs::CHANGE,
        wording,
        text.map(|text| wording.text(text, content)).into_iter().collect(),
        update,
        move |space, now, mut update: Update, embedded| {
            // Speaker and time may have been changed while the text was embedded.
            let entry = space.get(now, id);
            if embedded_text.is_some() && embedded_text != entry.and_then(|entry| new_text(template, &entry, &update)) {
                return Err(Error::new("STALE", "the memory was changed while its text was being embedded: retry"));
            }
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

/// How a space wants the texts of its memories embedded.
#[derive(Clone, Copy)]
pub struct Wording {
    pub template: Template,
    language: Language,
    /// Whether words get vectors of their own.
    words: bool,
}

impl Wording {
    fn of(space: &Space) -> Wording {
        let settings = space.config();
        Wording {
            template: settings.template,
            language: settings.language,
            words: settings.lexical && space.takes_token_vectors(),
        }
    }

    /// That of the space at `key`, which need not exist.
    pub fn at(ctx: Ctx, key: &[u8]) -> Result<Wording, Error> {
        Ok(read(ctx, key, |held| Ok(Wording::of(&held.space)))?.unwrap_or_else(|| Wording::of(&Space::new())))
    }

    /// What the encoder is given of a chunk of a document.
    pub fn text_of_chunk(self, content: &str, at: u64) -> Text {
        self.text(self.template.render(content, None, at).into_owned(), content.len())
    }

    /// What the encoder is given of a memory whose content is the end of `text`.
    fn text(self, text: String, content: usize) -> Text {
        let from = text.len() - content;
        let text = Text::document(text);
        if self.words { text.with_words(from, self.language) } else { text }
    }
}

/// The text of a new memory that is to be embedded. It happened now, unless the caller says otherwise: its text may name the day.
fn text_of(wording: Wording, memory: &mut NewMemory, now: u64) -> Text {
    let at = *memory.at.get_or_insert(now);
    let text = wording.template.render(&memory.content, memory.speaker.as_deref(), at).into_owned();
    wording.text(text, memory.content.len())
}

/// The text that a change asks to be embedded: of new content, or where another speaker or time changes what was embedded.
fn new_text(template: Template, entry: &Entry, update: &Update) -> Option<String> {
    if update.vectors.is_some() {
        return None;
    }
    let content = update.content.as_deref().unwrap_or(&entry.content);
    let speaker = update.speaker.as_ref().map_or(entry.speaker.as_deref(), |speaker| speaker.as_deref());
    let text = template.render(content, speaker, update.at.unwrap_or(entry.at));
    let was_embedded = entry.template > 0 && entry.windows > 0;
    let changes = || text != template.render(&entry.content, entry.speaker.as_deref(), entry.at);
    (update.content.is_some() || (was_embedded && changes())).then(|| text.into_owned())
}

fn vectors_of(embedded: Embedded, template: Template) -> Vec<Vectors> {
    let model = embedded.model;
    embedded.texts.iter().map(|text| embedding(&model, text, template)).collect()
}

fn embedding(model: &str, text: &TextVectors, template: Template) -> Vectors {
    Vectors::Embedded {
        model: model.to_owned(),
        template: template.version(),
        windows: text.windows.clone(),
        words: text.words.iter().map(WordVector::vector).collect(),
    }
}

/// What a model made of a text that was worded so, as a memory takes it.
pub fn vectors_of_text(model: &str, text: &TextVectors, wording: Wording) -> Vectors {
    embedding(model, text, wording.template)
}

/// Says which of several memories an error is about.
fn at(index: usize, error: Error) -> Error {
    Error::new(error.code, format!("memory {}: {}", index + 1, error.message))
}

/// The common path of everything that stores text: embeds what has to be embedded, at once where it is cached or where nothing may block, else on the
/// pool, and commits if the space still wants them worded so. `decide` gets the vectors of `texts` in their order, None if there were none.
fn embed_and_commit<D: Send + 'static>(
    ctx: Ctx,
    key: &[u8],
    needs: Needs,
    wording: Wording,
    texts: Vec<Text>,
    data: D,
    decide: impl FnOnce(&Space, u64, D, Option<Vec<Vectors>>) -> Result<(Value, Vec<engram_memory::Effect>), Error>
    + Send
    + 'static,
) -> Outcome {
    let began = Instant::now();
    let stored = move |value: Value| {
        Operation::Store.ended(began);
        value
    };
    if texts.is_empty() {
        let written = write(ctx, key, needs, |space, now| decide(space, now, data, None))?;
        return Ok(stored(written).into());
    }
    models::expect_embedder()?;
    expect_memory(ctx)?;
    let target = target(ctx, key)?;
    if !needs.create && target.expect == commit::Expect::Absent {
        return Err(Error::err("no such space"));
    }
    let at_once =
        if ctx.must_not_block() { Some(models::embed_inline(ctx, &texts)?) } else { models::all_cached(&texts) };
    if let Some(embedded) = at_once {
        let vectors = vectors_of(embedded, wording.template);
        let written = write(ctx, key, needs, |space, now| decide(space, now, data, Some(vectors)))?;
        return Ok(stored(written).into());
    }
    let place = Place::take()?;
    // An accepted write commits even if its client leaves: nothing to do when it does.
    let waiter = Waiter::block(ctx, 0, || {});
    let expected = texts.len();
    models::embed_in_background(texts, waiter, move |embedded, waiter| {
        #[cfg(feature = "latch")]
        crate::latch::pass();
        let vectors = match embedded {
            Ok(embedded) => vectors_of(embedded, wording.template),
            Err(error) => return waiter.answer(Err(error)),
        };
        debug_assert_eq!(vectors.len(), expected, "one set of vectors per text");
        let mut work = Some((waiter, place, data, decide, vectors));
        commit::submit(move |ctx| {
            if ffi::is_paused() {
                return Ran::Later;
            }
            let Some((waiter, _place, data, decide, vectors)) = work.take() else { return Ran::Done };
            let decided = commit::commit(ctx, &target, needs, |space, now| {
                if space.config().template != wording.template {
                    return Err(Error::new(
                        "STALE",
                        "the setting template was changed while the text was being embedded: retry",
                    ));
                }
                decide(space, now, data, Some(vectors))
            });
            match decided {
                Ok(value) => waiter.answer(Ok(stored(value))),
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
