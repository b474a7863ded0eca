//! The models of this server: one text encoder, any number of Gemma models by name, the pool that runs them and the cache of embeddings.
//!
//! Models are local to a node: what is loaded comes from the configuration (`engram.embedder`, `engram.model`) and GEMMA.LOAD, never from the data set.
//! Loading runs on the pool; work that needs the encoder meanwhile goes back to the end of the pool's queue until it is there, or is told LOADING where
//! waiting is not possible. A task never waits on a lock for it: with one thread, the load would be queued behind the task that waits.
//!
//! Locks here are held for a few assignments.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use engram_agent::{WindowTokens, WordVector, word_vectors};
use engram_inference::cache::Cache;
use engram_inference::embedder::Spanned;
use engram_inference::engine::Engine;
use engram_inference::gemma::{Gemma, LoadOptions, Progress, Stats};
use engram_inference::pool::{Advance, Pool, Priority, Task};
use engram_inference::{Embedder, Encoded as EncodedWindow, Purpose, Window};
use engram_memory::{Language, Missing};

use crate::config;
use crate::ffi::{self, Ctx, Level};
use crate::jobs::Waiter;
use crate::reply::{Error, Value};

/// What a text became.
pub struct TextVectors {
    /// One vector per window.
    pub windows: Vec<Vec<f32>>,
    /// The vectors of its words, if they were wanted.
    pub words: Vec<WordVector>,
}

impl TextVectors {
    /// The bytes that they take on the heap, nearly.
    fn bytes(&self) -> usize {
        let windows = self.windows.iter().map(|window| size_of::<Vec<f32>>() + size_of_val(&**window));
        // The vector of a word has the length of that of a window, a byte for each number.
        let word = size_of::<WordVector>() + self.windows.first().map_or(0, Vec::len);
        size_of::<TextVectors>() + windows.sum::<usize>() + self.words.len() * word
    }
}

/// What a text became, shared with the cache.
pub type Vectors = Arc<TextVectors>;

/// A text to embed.
#[derive(Clone)]
pub struct Text {
    text: String,
    purpose: Purpose,
    /// The language of its words and the byte from which on they get vectors; None = they get none.
    words: Option<(Language, usize)>,
}

impl Text {
    /// A text that others may look for, of which only the whole counts.
    pub fn document(text: impl Into<String>) -> Text {
        Text { text: text.into(), purpose: Purpose::Document, words: None }
    }

    /// A text that is looked for, of which only the whole counts.
    pub fn query(text: impl Into<String>) -> Text {
        Text { purpose: Purpose::Query, ..Text::document(text) }
    }

    /// That of a memory that a space wants embedded.
    pub fn of(memory: &Missing) -> Text {
        let text = Text::document(memory.text.as_str());
        match memory.words {
            Some(language) => text.with_words(memory.from, language),
            None => text,
        }
    }

    /// The same text, whose words from byte `from` on count too.
    pub fn with_words(self, from: usize, language: Language) -> Text {
        Text { words: Some((language, from)), ..self }
    }

    /// What stands for it in the cache of what this encoder makes: words of another language, or from another place on, are other words, and a text
    /// behind another prompt is another text.
    fn cache_key(&self, encoder: &Embedder) -> Cow<'_, str> {
        let prompt = encoder.prompt(self.purpose);
        match self.words {
            None if prompt.is_empty() => Cow::Borrowed(&self.text),
            None => Cow::Owned(format!("{prompt}\u{1}{}", self.text)),
            Some((language, from)) => {
                Cow::Owned(format!("{prompt}\u{1}{}\u{1}{from}\u{1}{}", language.name(), self.text))
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------------
// The pool

static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
/// The threads leave the processor to the server when both want it.
const NICE: i32 = 10;

/// Starts the threads and loads what the configuration names. Called once, at load.
pub fn start(ctx: Ctx) -> Result<(), Error> {
    let pool = Pool::new(config::threads(), NICE).map_err(|e| Error::err(format!("no threads for models: {e}")))?;
    if POOL.set(Arc::new(pool)).is_err() {
        return Err(Error::err("the module is loaded already"));
    }
    config::on_threads_change(|threads| {
        if let Some(pool) = POOL.get() {
            // Fewer threads are waited for until their steps end, and a step may plan a whole consolidation: not on the main thread.
            std::thread::spawn(move || {
                if let Err(error) = pool.set_threads(threads) {
                    ffi::log(Level::Warning, &format!("engram: engram.threads: {error}"));
                }
            });
        }
    });
    config::on_embedder_change(load_embedder);
    config::on_cache_change(|texts| cache().set_capacity(texts));
    config::on_prefix_change(|_| {
        // Letting go of much takes milliseconds: not on this thread.
        spawn_once(|| {
            for engine in engines() {
                limit_prefixes(&engine);
            }
        });
    });
    load_embedder();
    for (name, path) in config::models() {
        if let Err(error) = load_gemma(&name, &path, None, None, |_| {}) {
            ctx.log(Level::Warning, &format!("engram: engram.model: {}", error.message));
        }
    }
    Ok(())
}

/// Hands work to the pool.
pub fn spawn(priority: Priority, task: impl Task + 'static) {
    if let Some(pool) = POOL.get() {
        pool.spawn(priority, Box::new(task));
    }
}

/// Tasks that wait for a thread, those that one is running, and how many threads there should be: the pool is not asked how many there are, because it
/// answers only when those that end have finished their steps.
pub fn pool_load() -> (usize, usize, usize) {
    POOL.get().map_or((0, 0, 0), |pool| {
        let (waiting, running) = pool.load();
        (waiting, running, config::threads())
    })
}

/// Work of one step, at high priority.
pub fn spawn_once(work: impl FnOnce() + Send + 'static) {
    struct Once<F>(Option<F>);
    impl<F: FnOnce() + Send> Task for Once<F> {
        fn step(&mut self) -> Advance {
            if let Some(work) = self.0.take() {
                work();
            }
            Advance::Done
        }
        fn panicked(&mut self, message: &str) {
            ffi::log(Level::Warning, &format!("engram: a background job panicked ({message}); please report it"));
        }
    }
    spawn(Priority::High, Once(Some(work)));
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------------
// Files

/// The file or folder `name` inside `engram.model-dir`. A name that leads out of it is refused; a link inside it is the administrator's.
pub fn path_of(name: &str) -> Result<PathBuf, Error> {
    let path = Path::new(name);
    if name.is_empty() || name.contains('\0') || !path.components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(Error::err(format!(
            "'{name}' is not a path inside engram.model-dir: give the name of a file or folder below it, without '..' and without a leading '/'"
        )));
    }
    Ok(Path::new(&config::model_dir()).join(path))
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------------
// The encoder

enum State {
    /// Why there is none.
    None(String),
    Loading,
    Ready(Arc<Embedder>),
}

static EMBEDDER: Mutex<State> = Mutex::new(State::None(String::new()));
/// Only the newest load may set the encoder.
static EMBEDDER_LOAD: AtomicU64 = AtomicU64::new(0);

/// Loads the encoder that `engram.embedder` names, in the background.
fn load_embedder() {
    let number = EMBEDDER_LOAD.fetch_add(1, Ordering::AcqRel) + 1;
    let setting = config::embedder();
    if setting.is_empty() {
        set_embedder(number, State::None("engram.embedder is empty".to_owned()));
        return;
    }
    let NamedEmbedder { name, path: file, dim } = NamedEmbedder::parse(&setting);
    let path = match name.map_or(Ok(()), check_embedder_name).and_then(|()| path_of(file)) {
        Ok(path) => path,
        Err(error) => {
            set_embedder(number, State::None(error.message));
            return;
        }
    };
    if !path.exists() {
        let reason = format!(
            "there is no folder or file '{}'; `make demo` or scripts/fetch-embedder fetches {}",
            path.display(),
            config::DEFAULT_EMBEDDER
        );
        ffi::log(Level::Warning, &format!("engram: no text encoder: {reason}"));
        set_embedder(number, State::None(reason));
        return;
    }
    set_embedder(number, State::Loading);
    let name = name.map(str::to_owned);
    spawn_once(move || {
        let to = match read_embedder(&path, name.as_deref(), dim) {
            Ok(encoder) => State::Ready(encoder),
            Err(error) => {
                ffi::log(Level::Warning, &format!("engram: no text encoder: {error}"));
                State::None(error)
            }
        };
        set_embedder(number, to);
    });
}

/// What `engram.embedder` says: `[name=]path[:dim]`.
struct NamedEmbedder<'a> {
    name: Option<&'a str>,
    path: &'a str,
    dim: Option<usize>,
}

impl NamedEmbedder<'_> {
    fn parse(setting: &str) -> NamedEmbedder<'_> {
        let (name, rest) = setting.split_once('=').map_or((None, setting), |(name, rest)| (Some(name), rest));
        let cut = rest.rsplit_once(':').and_then(|(path, dim)| Some((path, dim.parse().ok()?)));
        let (path, dim) = cut.map_or((rest, None), |(path, dim)| (path, Some(dim)));
        NamedEmbedder { name, path, dim }
    }
}

/// Reads an encoder; the log says how long it took.
fn read_embedder(path: &Path, name: Option<&str>, dim: Option<usize>) -> Result<Arc<Embedder>, String> {
    let started = Instant::now();
    // As for Gemma: a panic in a loader must not leave the encoder loading for ever.
    let loaded = std::panic::catch_unwind(|| Embedder::load(path, name, dim).map_err(|error| error.to_string()));
    let encoder = loaded.unwrap_or_else(|_| Err("the loader failed with an internal error".to_owned()))?;
    ffi::log(
        Level::Notice,
        &format!(
            "engram: text encoder {} ready in {} ms ({} dimensions)",
            encoder.name(),
            started.elapsed().as_millis(),
            encoder.dim()
        ),
    );
    Ok(Arc::new(encoder))
}

/// Sets the encoder, if no other load has begun since number `number` did.
fn set_embedder(number: u64, to: State) -> bool {
    let mut embedder = lock(&EMBEDDER);
    let newest = EMBEDDER_LOAD.load(Ordering::Acquire) == number;
    if newest {
        // The path of the same name may hold other weights than before.
        cache().clear();
        *embedder = to;
    }
    newest
}

/// Loads the text encoder by a name, in the background, and tells `finish` on the pool. It takes the place of the one there is, which serves until then and
/// stays where the load fails.
pub fn load_named_embedder(
    name: &str,
    path: &str,
    dim: Option<usize>,
    finish: impl FnOnce(Result<(), Error>) + Send + 'static,
) -> Result<(), Error> {
    check_embedder_name(name)?;
    let file = existing(path)?;
    {
        let mut gemmas = lock(&GEMMAS);
        // A name whose load failed can be used again.
        if gemmas.get(name).is_some_and(|named| matches!(named.slot, Slot::Failed(_))) {
            gemmas.remove(name);
        }
        if gemmas.contains_key(name) {
            return Err(Error::err(format!(
                "a model '{name}' is loaded: GEMMA.UNLOAD {name} first, or choose another name"
            )));
        }
    }
    let (name, before) = (name.to_owned(), EMBEDDER_LOAD.load(Ordering::Acquire));
    spawn_once(move || {
        let loaded = read_embedder(&file, Some(&name), dim);
        let loaded = loaded.map_err(|reason| Error::err(format!("the model '{name}' cannot be loaded: {reason}")));
        let result = loaded.and_then(|encoder| {
            let next = EMBEDDER_LOAD.compare_exchange(before, before + 1, Ordering::AcqRel, Ordering::Acquire);
            if next.is_ok() && set_embedder(before + 1, State::Ready(encoder)) {
                return Ok(());
            }
            Err(Error::err(format!("another text encoder was loaded while '{name}' was being loaded")))
        });
        if let Err(error) = &result {
            ffi::log(Level::Warning, &format!("engram: {}", error.message));
        }
        finish(result);
    });
    Ok(())
}

/// Forgets the encoder of this name; true if it was there.
fn unload_embedder(name: &str) -> bool {
    let mut embedder = lock(&EMBEDDER);
    let named =
        |encoder: &Embedder| encoder.name() == name || encoder.name().rsplit_once(':').is_some_and(|(n, _)| n == name);
    if !matches!(&*embedder, State::Ready(encoder) if named(encoder)) {
        return false;
    }
    EMBEDDER_LOAD.fetch_add(1, Ordering::AcqRel);
    let before = std::mem::replace(&mut *embedder, State::None(format!("GEMMA.UNLOAD {name}")));
    drop(embedder);
    // A large unmapping takes milliseconds: not on this thread.
    spawn_once(move || drop(before));
    true
}

fn none(reason: &str) -> Error {
    Error::new(
        "NOMODEL",
        format!(
            "no text encoder is loaded ({reason}): give the vector with VECTOR or VALUES, or store the text with NOEMBED"
        ),
    )
}

/// The encoder, at once.
pub fn embedder() -> Result<Arc<Embedder>, Error> {
    match &*lock(&EMBEDDER) {
        State::Ready(encoder) => Ok(encoder.clone()),
        State::Loading => {
            Err(Error::new("LOADING", "the text encoder is being loaded, and this cannot wait for it here: retry"))
        }
        State::None(reason) => Err(none(reason)),
    }
}

/// The encoder, waiting while it is being loaded, unless `stop` says so. Not on the main thread, and not on one of the pool, which loads it.
pub fn wait_for_embedder(stop: impl Fn() -> bool) -> Result<Arc<Embedder>, Error> {
    loop {
        match embedder() {
            Err(error) if error.code == "LOADING" && !stop() => std::thread::sleep(Duration::from_millis(5)),
            other => return other,
        }
    }
}

/// An error if there is no encoder and none is being loaded.
pub fn expect_embedder() -> Result<(), Error> {
    match &*lock(&EMBEDDER) {
        State::None(reason) => Err(none(reason)),
        _ => Ok(()),
    }
}

/// A line about the encoder for INFO: name or the reason why there is none.
pub fn embedder_state() -> (String, &'static str, u64) {
    match &*lock(&EMBEDDER) {
        State::Ready(encoder) => (encoder.name().to_owned(), "ready", encoder.mapped_bytes()),
        State::Loading => (config::embedder(), "loading", 0),
        State::None(reason) => (reason.clone(), "none", 0),
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------------
// Embedding

/// The embeddings of recent texts.
pub fn cache() -> &'static Cache<Vectors> {
    static CACHE: OnceLock<Cache<Vectors>> = OnceLock::new();
    CACHE.get_or_init(|| Cache::new(config::embedding_cache()))
}

/// How long embedding took, and how often.
pub static EMBED_TEXTS: AtomicU64 = AtomicU64::new(0);
/// Microseconds spent embedding.
pub static EMBED_MICROS: AtomicU64 = AtomicU64::new(0);

/// Words of a text that is kept in the cache, at most: at 400 bytes each, a page of text would take as much as a hundred questions.
const CACHED_WORDS: usize = 64;

/// The windows of a text; without spans if its words do not count.
fn windows_of(encoder: &Embedder, text: &Text) -> Vec<Spanned> {
    match text.words {
        Some(_) => encoder.windows_with_spans(&text.text, text.purpose),
        None => encoder.windows(&text.text, text.purpose).into_iter().map(|window| (window, Vec::new())).collect(),
    }
}

/// The vector of a window, and those of its tokens if they are wanted.
fn embed_window(encoder: &Embedder, window: &Window, tokens: bool) -> Result<EncodedWindow, Error> {
    let started = Instant::now();
    let encoded = encoder.embed(window, tokens);
    EMBED_MICROS.fetch_add(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    encoded.map_err(|e| Error::err(format!("embedding failed: {e}")))
}

/// What a text has become, once its windows are embedded; kept in the cache.
fn finish(encoder: &Embedder, text: &Text, windows: &[Spanned], embedded: Vec<EncodedWindow>) -> Vectors {
    let words = text.words.map(|(language, from)| {
        let tokens = windows.iter().zip(&embedded);
        let tokens: Vec<WindowTokens> =
            tokens.map(|((_, spans), window)| WindowTokens { spans, vectors: &window.tokens }).collect();
        word_vectors(&text.text, from, language, &tokens)
    });
    let vectors = Arc::new(TextVectors {
        windows: embedded.into_iter().map(|window| window.vector).collect(),
        words: words.unwrap_or_default(),
    });
    EMBED_TEXTS.fetch_add(1, Ordering::Relaxed);
    if vectors.words.len() <= CACHED_WORDS {
        cache().insert(encoder.name(), &text.cache_key(encoder), vectors.clone(), vectors.bytes());
    }
    vectors
}

/// A text on its way to its vectors, one window per step, so that a long text does not keep a thread from others.
pub struct Embedding {
    text: Text,
    wanted: Option<Arc<Embedder>>,
    encoder: Option<Arc<Embedder>>,
    windows: Vec<Spanned>,
    embedded: Vec<EncodedWindow>,
}

impl Embedding {
    /// Begins with a text, for the encoder that this server has when it gets its first turn.
    pub fn of(text: Text) -> Embedding {
        Embedding { text, wanted: None, encoder: None, windows: Vec::new(), embedded: Vec::new() }
    }

    /// The same for this encoder, whatever the server has by then: the texts of one command are embedded by one model.
    fn by(encoder: Arc<Embedder>, text: Text) -> Embedding {
        Embedding { wanted: Some(encoder), ..Embedding::of(text) }
    }

    /// The next step, on a pool thread; the encoder's name and the vectors once they are complete. While the encoder is being loaded a step waits for a
    /// moment only: with one thread, the load is queued behind this very task.
    pub fn step(&mut self) -> Result<Option<(Arc<Embedder>, Vectors)>, Error> {
        let encoder = match &self.encoder {
            Some(encoder) => encoder.clone(),
            None => match self.wanted.clone().map_or_else(embedder, Ok) {
                Ok(encoder) => {
                    if let Some(known) = cached(&encoder, &self.text) {
                        return Ok(Some((encoder, known)));
                    }
                    self.windows = windows_of(&encoder, &self.text);
                    if self.windows.len() > engram_memory::limits::WINDOWS {
                        return Err(Error::err(format!(
                            "the text is too long to embed: {} windows of {} tokens, at most {} are accepted",
                            self.windows.len(),
                            encoder.window(),
                            engram_memory::limits::WINDOWS
                        )));
                    }
                    self.encoder.insert(encoder).clone()
                }
                Err(error) if error.code == "LOADING" => {
                    std::thread::sleep(Duration::from_millis(2));
                    return Ok(None);
                }
                Err(error) => return Err(error),
            },
        };
        if let Some((window, _)) = self.windows.get(self.embedded.len()) {
            self.embedded.push(embed_window(&encoder, window, self.text.words.is_some())?);
        }
        if self.embedded.len() < self.windows.len() {
            return Ok(None);
        }
        let vectors = finish(&encoder, &self.text, &self.windows, std::mem::take(&mut self.embedded));
        Ok(Some((encoder, vectors)))
    }
}

/// The vectors of a text if they are cached.
fn cached(encoder: &Embedder, text: &Text) -> Option<Vectors> {
    cache().get(encoder.name(), &text.cache_key(encoder))
}

/// Whether the text of a memory has more windows than it may have vectors.
pub fn is_too_long(text: &str) -> bool {
    embedder().is_ok_and(|encoder| has_too_many_windows(&encoder, text))
}

/// The same for this encoder.
pub fn has_too_many_windows(encoder: &Embedder, text: &str) -> bool {
    encoder.windows(text, Purpose::Document).len() > engram_memory::limits::WINDOWS
}

/// What counts tokens.
#[derive(Clone)]
pub enum Counter {
    /// The tokenizer of a language model, under its name, and the number of its load.
    Gemma(String, Arc<Gemma>, u64),
    /// That of the text encoder, and the number of its load.
    Encoder(Arc<Embedder>, u64),
    /// Characters by four.
    Estimate,
}

impl Counter {
    /// What counts now: the default language model's tokenizer, else the encoder's, else an estimate.
    pub fn current() -> Counter {
        match (gemma(None), embedder()) {
            (Ok((name, gemma)), _) => Counter::of(name, gemma),
            (Err(_), Ok(encoder)) => Counter::Encoder(encoder, EMBEDDER_LOAD.load(Ordering::Acquire)),
            _ => Counter::Estimate,
        }
    }

    /// The tokenizer of this model.
    pub fn of(name: String, gemma: Arc<Gemma>) -> Counter {
        let number = lock(&GEMMAS).get(&name).map_or(0, |named| named.number);
        Counter::Gemma(name, gemma, number)
    }

    /// Its name, as replies show it.
    pub fn name(&self) -> String {
        match self {
            Counter::Gemma(name, ..) => name.clone(),
            Counter::Encoder(encoder, _) => encoder.name().to_owned(),
            Counter::Estimate => "estimated".to_owned(),
        }
    }

    /// Whether a text's tokens are those of its lines, each with the newlines that end it.
    pub fn lines_are_apart(&self) -> bool {
        match self {
            Counter::Gemma(_, gemma, _) => gemma.tokenizer().lines_are_apart(),
            Counter::Encoder(encoder, _) => encoder.lines_are_apart(),
            Counter::Estimate => false,
        }
    }

    /// A number that two of them share only if they count alike.
    pub fn identity(&self) -> u64 {
        match self {
            Counter::Gemma(_, _, number) => 2 * number + 2,
            Counter::Encoder(_, number) => 2 * number + 1,
            Counter::Estimate => 0,
        }
    }

    /// The tokens of a text.
    pub fn count(&self, text: &str) -> usize {
        match self {
            Counter::Gemma(_, gemma, _) => gemma.tokenizer().encode(text).len(),
            Counter::Encoder(encoder, _) => encoder.tokens(text).len(),
            Counter::Estimate => text.chars().count().div_ceil(4),
        }
    }
}

/// What embedding texts came to.
pub struct Embedded {
    /// The encoder's name.
    pub model: String,
    /// Per text what it became.
    pub texts: Vec<Vectors>,
}

/// Embeds texts on the pool, a window per step so that others get their turn, and hands the result and the waiting client to `finish` there.
pub fn embed_in_background(
    texts: Vec<Text>,
    waiter: Waiter,
    finish: impl FnOnce(Result<Embedded, Error>, Waiter) + Send + 'static,
) {
    struct Embed<F> {
        texts: std::vec::IntoIter<Text>,
        current: Option<Embedding>,
        done: Vec<Vectors>,
        finish: Option<(F, Waiter)>,
    }
    impl<F: FnOnce(Result<Embedded, Error>, Waiter) + Send> Embed<F> {
        fn advance(&mut self) -> Result<Option<Embedded>, Error> {
            let Some(current) = &mut self.current else {
                return Err(Error::err("there is nothing to embed"));
            };
            let Some((encoder, vectors)) = current.step()? else { return Ok(None) };
            self.done.push(vectors);
            self.current = self.texts.next().map(|text| Embedding::by(encoder.clone(), text));
            Ok(self
                .current
                .is_none()
                .then(|| Embedded { model: encoder.name().to_owned(), texts: std::mem::take(&mut self.done) }))
        }

        fn finish(&mut self, result: Result<Embedded, Error>) {
            if let Some((finish, waiter)) = self.finish.take() {
                finish(result, waiter);
            }
        }
    }
    impl<F: FnOnce(Result<Embedded, Error>, Waiter) + Send> Task for Embed<F> {
        fn step(&mut self) -> Advance {
            if let Some((_, waiter)) = &self.finish {
                waiter.work_begins();
            }
            let advanced = self.advance();
            if let Some((_, waiter)) = &self.finish {
                waiter.work_ends();
            }
            match advanced.transpose() {
                None => Advance::Again,
                Some(result) => {
                    self.finish(result);
                    Advance::Done
                }
            }
        }
        fn panicked(&mut self, message: &str) {
            ffi::log(Level::Warning, &format!("engram: a panic while embedding ({message}); please report it"));
            self.finish(Err(Error::err("embedding failed with an internal error; the server's log has more")));
        }
    }
    let mut texts = texts.into_iter();
    let current = texts.next().map(Embedding::of);
    spawn(Priority::High, Embed { texts, current, done: Vec::new(), finish: Some((finish, waiter)) });
}

/// The vectors of all these texts, if every one is cached.
pub fn all_cached(texts: &[Text]) -> Option<Embedded> {
    let encoder = embedder().ok()?;
    let texts = texts.iter().map(|text| cached(&encoder, text)).collect::<Option<Vec<Vectors>>>()?;
    Some(Embedded { model: encoder.name().to_owned(), texts })
}

/// Embeds texts in place, on the main thread, where nothing may block: in MULTI, scripts and functions. Bounded by `engram.inline-embed-tokens` per
/// command and four times that per transaction or script.
///
/// The server does not tell a module where a transaction or script ends; tokens are counted per client until the event loop turns, which is never in the
/// middle of one.
pub fn embed_inline(ctx: Ctx, texts: &[Text]) -> Result<Embedded, Error> {
    static SPENT: Mutex<BTreeMap<u64, usize>> = Mutex::new(BTreeMap::new());
    static ARMED: AtomicBool = AtomicBool::new(false);
    let limit = config::inline_embed_tokens();
    if limit == 0 {
        return Err(Error::new(
            "INLINELIMIT",
            "embedding text inside MULTI, scripts and functions is switched off (engram.inline-embed-tokens is 0)",
        ));
    }
    let encoder = embedder()?;
    let mut command = 0;
    // Every script runs under a client of the server's own: all of one turn share one budget.
    let client = if ctx.has(ffi::flags::LUA) { 0 } else { ffi::client_id(ctx) };
    let mut done = Vec::with_capacity(texts.len());
    for text in texts {
        if let Some(known) = cached(&encoder, text) {
            done.push(known);
            continue;
        }
        // A token has at least one byte: a text far over the limit is refused before it is tokenised.
        let windows = if text.text.len() > limit.saturating_mul(64) { None } else { Some(windows_of(&encoder, text)) };
        let tokens = windows.as_ref().map_or(usize::MAX, |w| w.iter().map(|(w, _)| w.tokens().len()).sum());
        command = tokens.saturating_add(command);
        let mut spent = lock(&SPENT);
        let spent_here = spent.entry(client).or_default();
        let Some(windows) = windows.filter(|_| command <= limit) else {
            return Err(Error::new(
                "INLINELIMIT",
                format!(
                    "inside MULTI, scripts and functions at most {limit} tokens per command are embedded (engram.inline-embed-tokens): send it outside, or give VECTOR or NOEMBED"
                ),
            ));
        };
        if spent_here.saturating_add(tokens) > limit.saturating_mul(4) {
            return Err(Error::new(
                "INLINELIMIT",
                format!(
                    "inside one transaction or script at most {} tokens are embedded (four times engram.inline-embed-tokens): split it, or give VECTOR or NOEMBED",
                    limit * 4
                ),
            ));
        }
        *spent_here += tokens;
        drop(spent);
        if !ARMED.swap(true, Ordering::AcqRel) {
            let armed = ffi::one_shot(|| {
                lock(&SPENT).clear();
                ARMED.store(false, Ordering::Release);
            });
            if !armed {
                ARMED.store(false, Ordering::Release);
            }
        }
        let tokens = text.words.is_some();
        let embedded = windows.iter().map(|(window, _)| embed_window(&encoder, window, tokens));
        let embedded = embedded.collect::<Result<_, _>>()?;
        done.push(finish(&encoder, text, &windows, embedded));
    }
    Ok(Embedded { model: encoder.name().to_owned(), texts: done })
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------------
// Gemma models

enum Slot {
    Loading(Arc<Progress>),
    Ready(Arc<Engine>),
    Failed(String),
}

struct Named {
    path: String,
    number: u64,
    slot: Slot,
}

static GEMMAS: Mutex<BTreeMap<String, Named>> = Mutex::new(BTreeMap::new());
/// Loads are numbered, so that one that was overtaken by UNLOAD or another LOAD changes nothing.
static GEMMA_LOAD: AtomicU64 = AtomicU64::new(0);
/// At most this many models have a name.
const MAX_MODELS: usize = 64;

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > 128 || name.contains(char::is_whitespace) || name.contains(char::is_control) {
        return Err(Error::err("a model's name has 1 to 128 characters, without spaces"));
    }
    Ok(())
}

/// The length of vectors that are cut stands behind the name of their encoder.
fn check_embedder_name(name: &str) -> Result<(), Error> {
    check_name(name)?;
    if name.contains(':') {
        return Err(Error::err("a text encoder's name has no ':', behind which the length of its vectors stands"));
    }
    Ok(())
}

/// A file or folder that is there.
fn existing(path: &str) -> Result<PathBuf, Error> {
    let file = path_of(path)?;
    if !file.exists() {
        return Err(Error::new(
            "NOMODEL",
            format!("there is no file or folder '{path}' in engram.model-dir ('{}')", config::model_dir()),
        ));
    }
    Ok(file)
}

/// Loads a model under a name, in the background, and tells `finish` on the pool. A name in use is refused until it is unloaded.
pub fn load_gemma(
    name: &str,
    path: &str,
    tokenizer: Option<&str>,
    context: Option<usize>,
    finish: impl FnOnce(Result<Arc<Gemma>, Error>) + Send + 'static,
) -> Result<Arc<Progress>, Error> {
    check_name(name)?;
    let file = existing(path)?;
    let tokenizer = tokenizer.map(path_of).transpose()?;
    let progress = Arc::new(Progress::default());
    let number = GEMMA_LOAD.fetch_add(1, Ordering::AcqRel);
    {
        let mut gemmas = lock(&GEMMAS);
        match gemmas.get(name) {
            Some(Named { slot: Slot::Loading(_), .. }) => {
                return Err(Error::err(format!("the model '{name}' is being loaded already")));
            }
            Some(Named { slot: Slot::Ready(_), .. }) => {
                return Err(Error::err(format!(
                    "a model '{name}' is loaded: GEMMA.UNLOAD {name} first, or choose another name"
                )));
            }
            None if gemmas.len() >= MAX_MODELS => {
                return Err(Error::err(format!("{MAX_MODELS} models are loaded, which is the limit")));
            }
            _ => {}
        }
        gemmas.insert(name.to_owned(), Named { path: path.to_owned(), number, slot: Slot::Loading(progress.clone()) });
    }
    let (name, watched) = (name.to_owned(), progress.clone());
    spawn_once(move || {
        let started = Instant::now();
        let options = LoadOptions { tokenizer, context, most_context: Some(config::max_context()) };
        // A panic in a loader is a bug, but must not leave the name loading for ever.
        let loaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Gemma::load(&file, &options, &watched)));
        let loaded = match loaded {
            Ok(Ok(gemma)) => match POOL.get() {
                Some(pool) => {
                    let engine = Arc::new(Engine::new(Arc::new(gemma), pool.clone()));
                    limit_prefixes(&engine);
                    Ok(engine)
                }
                None => Err("there is no pool of threads".to_owned()),
            },
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the loader failed with an internal error".to_owned()),
        };
        let mut gemmas = lock(&GEMMAS);
        let overtaken = gemmas.get(&name).is_none_or(|named| named.number != number);
        let result = match loaded {
            _ if overtaken => Err(Error::err(format!("the model '{name}' was unloaded while it was being loaded"))),
            Ok(engine) => {
                ffi::log(Level::Notice, &format!("engram: model {name} ready in {} ms", started.elapsed().as_millis()));
                Ok(engine)
            }
            Err(reason) => Err(Error::err(format!("the model '{name}' cannot be loaded: {reason}"))),
        };
        if !overtaken && let Some(named) = gemmas.get_mut(&name) {
            named.slot = match &result {
                Ok(engine) => Slot::Ready(engine.clone()),
                Err(error) => Slot::Failed(error.message.clone()),
            };
        }
        drop(gemmas);
        if let Err(error) = &result {
            ffi::log(Level::Warning, &format!("engram: {}", error.message));
        }
        finish(result.map(|engine| engine.model().clone()));
    });
    Ok(progress)
}

/// Forgets a model; generations that run with it keep it until they end.
pub fn unload(name: &str) -> Result<(), Error> {
    let removed = lock(&GEMMAS).remove(name);
    match removed {
        Some(named) => {
            if let Slot::Loading(progress) = &named.slot {
                progress.cancelled.store(true, Ordering::Release);
            }
            // A large unmapping takes milliseconds: not on this thread.
            spawn_once(move || drop(named));
            Ok(())
        }
        None if unload_embedder(name) => Ok(()),
        None => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> Error {
    let names: Vec<String> = lock(&GEMMAS).keys().cloned().collect();
    let loaded = if names.is_empty() { "none is loaded".to_owned() } else { format!("loaded: {}", names.join(", ")) };
    Error::new("NOMODEL", format!("no model '{name}' ({loaded}): GEMMA.LOAD {name} <file> loads one"))
}

/// The engines of all models that are ready.
fn engines() -> Vec<Arc<Engine>> {
    let ready = |named: &Named| match &named.slot {
        Slot::Ready(engine) => Some(engine.clone()),
        _ => None,
    };
    lock(&GEMMAS).values().filter_map(ready).collect()
}

/// Tells an engine how much of texts it keeps.
fn limit_prefixes(engine: &Engine) {
    engine.limit(config::prefixes());
    if let Some(error) = engine.trouble() {
        ffi::log(Level::Warning, &format!("engram: engram.prefix-file: {error}"));
    }
}

/// What the engines keep of texts, all together.
pub fn kept() -> Stats {
    engines().iter().map(|engine| engine.kept()).fold(Stats::default(), |all, one| Stats {
        memory: all.memory + one.memory,
        file: all.file + one.file,
        hits: all.hits + one.hits,
        misses: all.misses + one.misses,
        tokens: all.tokens + one.tokens,
        restored: all.restored + one.restored,
        dropped: all.dropped + one.dropped,
    })
}

/// A model by name, or the default: the first of `engram.model`, else the only one there is.
pub fn gemma(name: Option<&str>) -> Result<(String, Arc<Gemma>), Error> {
    engine(name).map(|(name, engine)| (name, engine.model().clone()))
}

/// What generates with a model, which is looked for as by [`gemma`].
pub fn engine(name: Option<&str>) -> Result<(String, Arc<Engine>), Error> {
    let wanted = match name {
        Some(name) => name.to_owned(),
        None => default_name()?,
    };
    let gemmas = lock(&GEMMAS);
    match gemmas.get(&wanted).map(|named| &named.slot) {
        Some(Slot::Ready(engine)) => Ok((wanted, engine.clone())),
        Some(Slot::Loading(progress)) => {
            Err(Error::new("LOADING", format!("the model '{wanted}' is being loaded ({} %): retry", percent(progress))))
        }
        Some(Slot::Failed(reason)) => Err(Error::new("NOMODEL", reason.clone())),
        None => {
            drop(gemmas);
            Err(unknown(&wanted))
        }
    }
}

fn default_name() -> Result<String, Error> {
    if let Some((name, _)) = config::models().into_iter().next()
        && lock(&GEMMAS).contains_key(&name)
    {
        return Ok(name);
    }
    let gemmas = lock(&GEMMAS);
    let mut names = gemmas.keys();
    match (names.next(), names.next()) {
        (Some(only), None) => Ok(only.clone()),
        (None, _) => Err(Error::new(
            "NOMODEL",
            "no model is loaded: GEMMA.LOAD <name> <file.gguf> loads one from engram.model-dir, engram.model does so at start",
        )),
        (Some(_), Some(_)) => {
            let names: Vec<&str> = gemmas.keys().map(String::as_str).collect();
            Err(Error::err(format!(
                "several models are loaded ({}): name one with MODEL, or set engram.model",
                names.join(", ")
            )))
        }
    }
}

fn percent(progress: &Progress) -> u64 {
    let total = progress.total.load(Ordering::Acquire).max(1);
    progress.done.load(Ordering::Acquire).min(total) * 100 / total
}

/// GEMMA.MODELS: the encoder and every Gemma model.
pub fn describe() -> Value {
    let (embedder, state, bytes) = embedder_state();
    let mut encoder = vec![
        ("name", Value::from(if state == "none" { config::embedder() } else { embedder.clone() })),
        ("kind", Value::from("embedding")),
        ("state", Value::from(state)),
    ];
    if let State::Ready(encoder_ready) = &*lock(&EMBEDDER) {
        encoder.push(("dimensions", Value::from(encoder_ready.dim())));
        encoder.push(("window", Value::from(encoder_ready.window())));
        encoder.push(("precision", Value::from(encoder_ready.precision())));
        encoder.push(("bytes", Value::from(bytes)));
    }
    if state == "none" {
        encoder.push(("reason", Value::from(embedder)));
    }
    let mut all = vec![Value::map(encoder)];
    let default = default_name().ok();
    for (name, named) in lock(&GEMMAS).iter() {
        let mut fields = vec![
            ("name", Value::from(name.as_str())),
            ("kind", Value::from("generation")),
            ("path", Value::from(named.path.as_str())),
        ];
        match &named.slot {
            Slot::Loading(progress) => {
                fields.push(("state", Value::from("loading")));
                fields.push(("percent", Value::from(percent(progress))));
            }
            Slot::Failed(reason) => {
                fields.push(("state", Value::from("failed")));
                fields.push(("reason", Value::from(reason.as_str())));
            }
            Slot::Ready(engine) => {
                let (info, load) = (engine.model().info(), engine.load());
                fields.extend([
                    ("state", Value::from("ready")),
                    ("default", Value::from(i64::from(default.as_deref() == Some(name)))),
                    ("architecture", Value::from(info.architecture.as_str())),
                    ("quantization", Value::from(info.quantization.as_str())),
                    ("parameters", Value::from(info.parameters)),
                    ("layers", Value::from(info.layers)),
                    ("vocabulary", Value::from(info.vocabulary)),
                    ("context", Value::from(info.context)),
                    ("trained_context", Value::from(info.trained_context)),
                    ("file_bytes", Value::from(info.file_bytes)),
                    ("mapped_bytes", Value::from(info.mapped_bytes)),
                    ("kv_bytes_per_token", Value::from(info.kv_bytes_per_token)),
                    ("generating", Value::from(load.active)),
                    ("waiting", Value::from(load.waiting)),
                ]);
            }
        }
        all.push(Value::map(fields));
    }
    Value::Array(all)
}

/// How many Gemma models are ready.
pub fn ready() -> usize {
    lock(&GEMMAS).values().filter(|named| matches!(named.slot, Slot::Ready(_))).count()
}
