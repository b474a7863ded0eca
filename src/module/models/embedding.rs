//! Texts on their way to vectors, a window per step, and the cache of what they became.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use engram_agent::{WindowTokens, WordVector, word_vectors};
use engram_inference::cache::Cache;
use engram_inference::embedder::Spanned;
use engram_inference::pool::{Advance, Priority, Task};
use engram_inference::{Embedder, Encoded as EncodedWindow, Purpose, Window};
use engram_memory::{Language, Missing};

use super::{embedder, spawn};
use crate::config;
use crate::ffi::{self, Level};
use crate::jobs::Waiter;
use crate::latency::Operation;
use crate::reply::Error;

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
    pub(super) text: String,
    purpose: Purpose,
    /// The language of its words and the byte from which on they get vectors; None = they get none.
    pub(super) words: Option<(Language, usize)>,
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
pub(super) fn windows_of(encoder: &Embedder, text: &Text) -> Vec<Spanned> {
    match text.words {
        Some(_) => encoder.windows_with_spans(&text.text, text.purpose),
        None => encoder.windows(&text.text, text.purpose).into_iter().map(|window| (window, Vec::new())).collect(),
    }
}

/// The vector of a window, and those of its tokens if they are wanted.
pub(super) fn embed_window(encoder: &Embedder, window: &Window, tokens: bool) -> Result<EncodedWindow, Error> {
    let started = Instant::now();
    let encoded = encoder.embed(window, tokens);
    EMBED_MICROS.fetch_add(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    encoded.map_err(|e| Error::err(format!("embedding failed: {e}")))
}

/// What a text has become, once its windows are embedded, the first from `began` on; kept in the cache.
pub(super) fn finish(
    encoder: &Embedder,
    text: &Text,
    windows: &[Spanned],
    embedded: Vec<EncodedWindow>,
    began: Instant,
) -> Vectors {
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
    Operation::Embed.ended(began);
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
    /// When it had its first turn.
    began: Option<Instant>,
}

impl Embedding {
    /// Begins with a text, for the encoder that this server has when it gets its first turn.
    pub fn of(text: Text) -> Embedding {
        Embedding { text, wanted: None, encoder: None, windows: Vec::new(), embedded: Vec::new(), began: None }
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
                    self.began = Some(Instant::now());
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
        let (embedded, began) = (std::mem::take(&mut self.embedded), self.began.unwrap_or_else(Instant::now));
        let vectors = finish(&encoder, &self.text, &self.windows, embedded, began);
        Ok(Some((encoder, vectors)))
    }
}

/// The vectors of a text if they are cached.
pub(super) fn cached(encoder: &Embedder, text: &Text) -> Option<Vectors> {
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
