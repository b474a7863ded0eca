//! The server's settings `engram.*`: in redis.conf and by CONFIG SET as `engram.threads`, and as arguments of loadmodule as `threads` or `engram.threads`.
//!
//! An argument of loadmodule replaces the default of its setting, so a line in redis.conf still wins over it, and CONFIG REWRITE writes only what differs.
//! Values are kept here, numbers in atomics and texts behind a lock, and may be read from any thread at any time; the server's own copy of a text is made
//! when it asks. Changes are told to whoever registered a hook, on the main thread, after the value has been stored.

use std::ffi::{CStr, CString, c_char, c_int, c_longlong, c_uint, c_void};
use std::sync::atomic::{AtomicI64, AtomicPtr, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use engram_agent::Outcomes;
use engram_inference::gemma::{KvFormat, Limits};
use engram_memory::limits;
use redis_module::raw;

use crate::grammar::printable;
use crate::reply::Error;

/// A setting that is a number.
struct Number {
    name: &'static CStr,
    min: i64,
    max: i64,
    default: i64,
    /// Bytes: accepts `1mb` and the like.
    memory: bool,
    summary: &'static str,
    value: AtomicI64,
    changed: Option<&'static OnceLock<fn(usize)>>,
}

/// A setting that is a text.
struct Text {
    name: &'static CStr,
    default: &'static str,
    summary: &'static str,
    check: fn(&str) -> Result<(), String>,
    value: RwLock<Option<String>>,
    /// What the server was given last when it asked; it copies it, and leaves it to us.
    shown: AtomicPtr<raw::RedisModuleString>,
    /// None: set in the configuration or at load, not afterwards.
    changed: Option<&'static OnceLock<fn()>>,
}

static THREADS_CHANGED: OnceLock<fn(usize)> = OnceLock::new();
static CACHE_CHANGED: OnceLock<fn(usize)> = OnceLock::new();
static PREFIX_CHANGED: OnceLock<fn(usize)> = OnceLock::new();
static EMBEDDER_CHANGED: OnceLock<fn()> = OnceLock::new();
/// Of settings that are read when they are needed: they may change, and nobody has to be told.
static NOBODY_IS_TOLD: OnceLock<fn()> = OnceLock::new();

const fn number(name: &'static CStr, min: i64, max: i64, default: i64, summary: &'static str) -> Number {
    Number { name, min, max, default, memory: false, summary, value: AtomicI64::new(default), changed: None }
}

/// A text that is set at start only: one that may change has a hook for it.
const fn text(
    name: &'static CStr,
    default: &'static str,
    changed: Option<&'static OnceLock<fn()>>,
    check: fn(&str) -> Result<(), String>,
    summary: &'static str,
) -> Text {
    let shown = AtomicPtr::new(std::ptr::null_mut());
    Text { name, default, summary, check, value: RwLock::new(None), shown, changed }
}

/// The largest content of one memory that may be set: what the engine takes, at most 64 MiB.
const CONTENT_MAX: i64 = if limits::CONTENT_BYTES < 64 << 20 { limits::CONTENT_BYTES as i64 } else { 64 << 20 };

/// 0 stands for the default here, which depends on the machine: see [`default_of`].
static THREADS: Number = Number {
    changed: Some(&THREADS_CHANGED),
    ..number(
        c"threads",
        1,
        256,
        0,
        "Threads for embedding and generation. Default: one less than the machine has cores, at least 1.",
    )
};
static QUEUE_LIMIT: Number = number(
    c"queue-limit",
    1,
    1_000_000,
    10_000,
    "Background jobs that may wait or run; more are refused with QUEUEFULL.",
);
static USER_QUEUE_LIMIT: Number = number(
    c"user-queue-limit",
    0,
    1_000_000,
    0,
    "Named jobs (generations, chats, documents, summaries) that one user may have waiting or running; 0 sets no limit of its own.",
);
static MAX_CONTENT_BYTES: Number = Number {
    memory: true,
    ..number(
        c"max-content-bytes",
        1,
        CONTENT_MAX,
        if CONTENT_MAX < 1 << 20 { CONTENT_MAX } else { 1 << 20 },
        "Bytes of one memory's content.",
    )
};
static INLINE_EMBED_TOKENS: Number = number(
    c"inline-embed-tokens",
    0,
    1_000_000,
    256,
    "Tokens that one command inside MULTI, a script or a function may embed, four times that per transaction; 0 switches it off.",
);
static EMBEDDING_CACHE: Number = Number {
    changed: Some(&CACHE_CHANGED),
    ..number(
        c"embedding-cache",
        0,
        10_000_000,
        10_000,
        "Texts whose embeddings are kept, fewer if they take more than 3,355 bytes each on average (by default 32 MiB in all); 0 keeps none.",
    )
};
static PREFIX_MEMORY: Number = Number {
    memory: true,
    changed: Some(&PREFIX_CHANGED),
    ..number(
        c"prefix-memory",
        0,
        1 << 40,
        256 << 20,
        "Bytes of keys and values of texts that each model keeps, so that what begins alike is not read again; 0 keeps none.",
    )
};
static PREFIX_FILE: Number = Number {
    memory: true,
    changed: Some(&PREFIX_CHANGED),
    ..number(
        c"prefix-file",
        0,
        1 << 44,
        0,
        "Bytes of them that each model moves to a file in engram.prefix-dir when there is no room in memory; 0 drops them.",
    )
};
static PREFIX_DIR: Text = text(
    c"prefix-dir",
    ".",
    None,
    any_folder,
    "The folder for the files of engram.prefix-file, which have no name and go with the server.",
);
static STREAM_TTL: Number = number(
    c"stream-ttl",
    1,
    31_536_000,
    3_600,
    "Seconds that a stream written by GEMMA.GENERATE lives after its last entry.",
);
static JOB_TTL: Number = number(c"job-ttl", 1, 31_536_000, 3_600, "Seconds that the result of a finished job is kept.");
static ALERT_INTERVAL: Number = number(
    c"alert-interval",
    0,
    86_400,
    60,
    "Seconds after which server and spaces are compared with the thresholds of the alerts; 0 compares nothing.",
);
static ALERT_MEMORY: Number = number(
    c"alert-memory",
    0,
    100,
    80,
    "Alerts from so many percent of maxmemory, and of a space's max-memory, on; 0 = off, as for the others.",
);
static ALERT_HIT_RATE: Number = number(
    c"alert-hit-rate",
    0,
    100,
    50,
    "Alerts when fewer percent of the last 1,000 recalls found something, of a space or of all.",
);
static ALERT_EVICTIONS: Number = number(
    c"alert-evictions",
    0,
    1_000_000,
    1,
    "Alerts when evictions are more percent of what was stored in an interval, in a space or in all.",
);
static ALERT_QUEUE: Number =
    number(c"alert-queue", 0, 100, 80, "Alerts from so many percent of engram.queue-limit on.");
static ALERT_LATENCY: Number = number(
    c"alert-latency",
    0,
    3_600_000,
    1_000,
    "Alerts when one of a hundred recalls, or generated answers, of an interval took more milliseconds.",
);
static MAX_CONTEXT: Number = number(
    c"max-context",
    16,
    1 << 20,
    8_192,
    "Tokens of prompt and answer that a model is loaded for, unless GEMMA.LOAD says otherwise.",
);
static KV_FORMAT: Text = text(
    c"kv-format",
    "bf16",
    Some(&NOBODY_IS_TOLD),
    |name| KvFormat::of(name).map(drop).ok_or_else(|| "accepted are bf16 and q8".to_owned()),
    "How models that are loaded from now on hold keys and values, unless GEMMA.LOAD says otherwise: bf16, or q8 in half the room.",
);

static MODEL_DIR: Text =
    text(c"model-dir", "models", None, any_folder, "The one folder that models are read from. Set at start only.");
/// The text encoder that scripts/fetch-embedder fetches.
pub const DEFAULT_EMBEDDER: &str = "all-MiniLM-L6-v2";
static EMBEDDER: Text = text(
    c"embedder",
    DEFAULT_EMBEDDER,
    Some(&EMBEDDER_CHANGED),
    any_text,
    "The text encoder, a folder or GGUF file in engram.model-dir: `[name=]path[:dimensions]`; empty for none.",
);
static MODEL: Text = text(
    c"model",
    "",
    None,
    |list| parse_models(list).map(|_| ()),
    "Models to load at start, separated by spaces: `file.gguf` or `name=file.gguf`; the first is the default. Set at start only.",
);

static PROFILE_MODELS: Text = text(
    c"profile-models",
    "",
    Some(&NOBODY_IS_TOLD),
    |list| parse_profile_models(list).map(|_| ()),
    "Models for PROFILE, separated by spaces: `speed=small quality=large`; a profile without one takes the default model.",
);

static MAINTENANCE: Text = text(
    c"maintenance",
    "on",
    Some(&NOBODY_IS_TOLD),
    |value| switch(value).map(|_| ()).ok_or_else(|| "accepted are on and off".to_owned()),
    "Whether spaces are kept by themselves: what has expired goes, tiers keep to their capacities, consolidation runs; off pauses it.",
);

fn switch(value: &str) -> Option<bool> {
    match value {
        _ if value.eq_ignore_ascii_case("on") => Some(true),
        _ if value.eq_ignore_ascii_case("off") => Some(false),
        _ => None,
    }
}

static FAST_MODEL: Text = text(
    c"fast-model",
    "",
    Some(&NOBODY_IS_TOLD),
    any_text,
    "A loaded model that answers short factual questions first, where the call names neither MODEL nor FALLBACK; empty for none.",
);
static FALLBACK_MODEL: Text = text(
    c"fallback-model",
    "",
    Some(&NOBODY_IS_TOLD),
    any_text,
    "A loaded model that answers where another was not sure enough, unless FALLBACK says otherwise; empty for none.",
);
static FALLBACK_BELOW: Text = text(
    c"fallback-below",
    "0.5",
    Some(&NOBODY_IS_TOLD),
    |below| parse_confidence(below).map(drop),
    "The confidence, 0 to 1, below which an answer is given up for that of the other model, unless BELOW says otherwise.",
);

/// A list of words that tell an outcome: the n-th of `engram_agent::OUTCOMES`.
const fn outcome_words(name: &'static CStr, n: usize, summary: &'static str) -> Text {
    text(name, engram_agent::DEFAULT_LISTS[n], Some(&NOBODY_IS_TOLD), engram_agent::check_outcome_words, summary)
}

/// In the order of `engram_agent::OUTCOMES`.
static OUTCOME_WORDS: [Text; 3] = [
    outcome_words(
        c"outcome-distracted",
        0,
        "Words and phrases, with commas between them, by which a user's turn tells that the thread was lost; empty for none.",
    ),
    outcome_words(
        c"outcome-task-completed",
        1,
        "The same for a task that is completed, where nothing tells that the thread was lost.",
    ),
    outcome_words(
        c"outcome-re-engaged",
        2,
        "The same for a user who is with it again, where nothing tells one of the others.",
    ),
];
/// They, ready to be looked for; None until they are asked for, and when one has changed.
static OUTCOMES: RwLock<Option<Arc<Outcomes>>> = RwLock::new(None);

static NUMBERS: [&Number; 17] = [
    &THREADS,
    &QUEUE_LIMIT,
    &USER_QUEUE_LIMIT,
    &MAX_CONTENT_BYTES,
    &INLINE_EMBED_TOKENS,
    &EMBEDDING_CACHE,
    &PREFIX_MEMORY,
    &PREFIX_FILE,
    &STREAM_TTL,
    &JOB_TTL,
    &MAX_CONTEXT,
    &ALERT_INTERVAL,
    &ALERT_MEMORY,
    &ALERT_HIT_RATE,
    &ALERT_EVICTIONS,
    &ALERT_QUEUE,
    &ALERT_LATENCY,
];
static TEXTS: [&Text; 13] = [
    &MODEL_DIR,
    &EMBEDDER,
    &MODEL,
    &PROFILE_MODELS,
    &MAINTENANCE,
    &FAST_MODEL,
    &FALLBACK_MODEL,
    &FALLBACK_BELOW,
    &PREFIX_DIR,
    &KV_FORMAT,
    &OUTCOME_WORDS[0],
    &OUTCOME_WORDS[1],
    &OUTCOME_WORDS[2],
];

/// The one folder that models are read from.
pub fn model_dir() -> String {
    MODEL_DIR.get()
}

/// The text encoder in [`model_dir`], `[name=]path[:dimensions]`; empty for none.
pub fn embedder() -> String {
    EMBEDDER.get()
}

/// The generation models to load at start, as name and file; the first is the default.
pub fn models() -> Vec<(String, String)> {
    // What does not parse is refused when it is set.
    parse_models(&MODEL.get()).unwrap_or_default()
}

/// The model for a profile, if one is set.
pub fn profile_model(profile: &str) -> Option<String> {
    // What does not parse is refused when it is set.
    let models = parse_profile_models(&PROFILE_MODELS.get()).unwrap_or_default();
    models.into_iter().find(|(name, _)| name == profile).map(|(_, model)| model)
}

/// The model that answers short factual questions first, if one is set.
pub fn fast_model() -> Option<String> {
    Some(FAST_MODEL.get()).filter(|name| !name.is_empty())
}

/// The model that answers where another was not sure enough, if one is set.
pub fn fallback_model() -> Option<String> {
    Some(FALLBACK_MODEL.get()).filter(|name| !name.is_empty())
}

/// The confidence below which an answer is given up.
pub fn fallback_below() -> f64 {
    // What does not parse is refused when it is set.
    parse_confidence(&FALLBACK_BELOW.get()).unwrap_or_default()
}

/// Threads for embedding and generation.
pub fn threads() -> usize {
    THREADS.get()
}

/// Background jobs that may wait or run.
pub fn queue_limit() -> usize {
    QUEUE_LIMIT.get()
}

/// Named jobs of one user that may wait or run; 0 = no limit of its own.
pub fn user_queue_limit() -> usize {
    USER_QUEUE_LIMIT.get()
}

/// Bytes of one memory's content.
pub fn max_content_bytes() -> usize {
    MAX_CONTENT_BYTES.get()
}

/// Tokens that one command inside MULTI, a script or a function may embed.
pub fn inline_embed_tokens() -> usize {
    INLINE_EMBED_TOKENS.get()
}

/// Texts whose embeddings are kept.
pub fn embedding_cache() -> usize {
    EMBEDDING_CACHE.get()
}

/// Milliseconds that a stream written by GEMMA.GENERATE lives.
pub fn stream_ttl_ms() -> u64 {
    STREAM_TTL.get() as u64 * 1_000
}

/// Milliseconds that the result of a finished job is kept.
pub fn job_ttl_ms() -> u64 {
    JOB_TTL.get() as u64 * 1_000
}

/// Seconds between two comparisons with the thresholds of the alerts; 0 = none.
pub fn alert_interval() -> u64 {
    ALERT_INTERVAL.get() as u64
}

/// Percent of a memory limit; 0 = off.
pub fn alert_memory() -> usize {
    ALERT_MEMORY.get()
}

/// Percent of recalls that found something; 0 = off.
pub fn alert_hit_rate() -> usize {
    ALERT_HIT_RATE.get()
}

/// Evictions in percent of stores; 0 = off.
pub fn alert_evictions() -> usize {
    ALERT_EVICTIONS.get()
}

/// Percent of the queue; 0 = off.
pub fn alert_queue() -> usize {
    ALERT_QUEUE.get()
}

/// Milliseconds of a p99; 0 = off.
pub fn alert_latency() -> usize {
    ALERT_LATENCY.get()
}

/// Tokens of prompt and answer that a model is loaded for.
pub fn max_context() -> usize {
    MAX_CONTEXT.get()
}

/// What tells the outcome of what a user said.
pub fn outcomes() -> Arc<Outcomes> {
    // Nobody panics while holding the lock.
    if let Some(known) = &*OUTCOMES.read().unwrap_or_else(PoisonError::into_inner) {
        return known.clone();
    }
    let [distracted, task_completed, re_engaged] = &OUTCOME_WORDS;
    let lists = [distracted.get(), task_completed.get(), re_engaged.get()];
    // What is no list is refused when it is set.
    let made = Outcomes::new(lists.each_ref().map(String::as_str)).map(Arc::new).unwrap_or_default();
    *OUTCOMES.write().unwrap_or_else(PoisonError::into_inner) = Some(made.clone());
    made
}

fn forget_outcomes() {
    *OUTCOMES.write().unwrap_or_else(PoisonError::into_inner) = None;
}

/// How models hold keys and values.
pub fn kv_format() -> KvFormat {
    KvFormat::of(&KV_FORMAT.get()).unwrap_or_default()
}

/// Whether spaces are kept by themselves.
pub fn maintains() -> bool {
    switch(&MAINTENANCE.get()).unwrap_or(true)
}

/// How much of keys and values each model keeps.
pub fn prefixes() -> Limits {
    Limits { memory: PREFIX_MEMORY.get() as u64, file: PREFIX_FILE.get() as u64, folder: PREFIX_DIR.get().into() }
}

/// Calls `hook` when it changes how much is kept. The first hook stays.
pub fn on_prefix_change(hook: fn(usize)) {
    let _ = PREFIX_CHANGED.set(hook);
}

/// Calls `hook` with the new number of threads when it changes. The first hook stays.
pub fn on_threads_change(hook: fn(usize)) {
    let _ = THREADS_CHANGED.set(hook);
}

/// Calls `hook` when another text encoder is named. The first hook stays.
pub fn on_embedder_change(hook: fn()) {
    let _ = EMBEDDER_CHANGED.set(hook);
}

/// Calls `hook` with the new number of texts when the size of the embedding cache changes. The first hook stays.
pub fn on_cache_change(hook: fn(usize)) {
    let _ = CACHE_CHANGED.set(hook);
}

impl Number {
    fn get(&self) -> usize {
        let value = self.value.load(Ordering::Relaxed);
        usize::try_from(if value < self.min { default_of(self) } else { value }).unwrap_or(0)
    }
}

impl Text {
    fn get(&self) -> String {
        // Nobody panics while holding the lock.
        let value = self.value.read().unwrap_or_else(PoisonError::into_inner);
        value.clone().unwrap_or_else(|| self.default.to_owned())
    }

    fn set(&self, value: &str) {
        *self.value.write().unwrap_or_else(PoisonError::into_inner) = Some(value.to_owned());
    }
}

fn default_of(number: &Number) -> i64 {
    if number.default >= number.min {
        return number.default;
    }
    // Only the number of threads depends on the machine.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    i64::try_from(cores.saturating_sub(1)).unwrap_or(1).clamp(number.min, number.max)
}

fn any_text(_: &str) -> Result<(), String> {
    Ok(())
}

fn any_folder(path: &str) -> Result<(), String> {
    if path.is_empty() { Err("it is empty: a folder's path is accepted".to_owned()) } else { Ok(()) }
}

/// `name=file` or `file`, separated by spaces. A file without `.gguf` gets it; a model without a name has that of its file.
fn parse_models(list: &str) -> Result<Vec<(String, String)>, String> {
    let mut models: Vec<(String, String)> = Vec::new();
    for word in list.split_whitespace() {
        let (name, file) = word.split_once('=').unwrap_or(("", word));
        let stem = file.strip_suffix(".gguf").unwrap_or(file);
        let name = if word.contains('=') { name } else { stem.rsplit('/').next().unwrap_or(stem) };
        if name.is_empty() || stem.is_empty() {
            return Err(format!("'{word}' is neither file.gguf nor name=file.gguf"));
        }
        if models.iter().any(|(known, _)| known == name) {
            return Err(format!("the name '{name}' is there twice: give one of them another, as name=file.gguf"));
        }
        models.push((name.to_owned(), format!("{stem}.gguf")));
    }
    Ok(models)
}

fn parse_confidence(text: &str) -> Result<f64, String> {
    let confidence = text.parse().ok().filter(|confidence| (0.0..=1.0).contains(confidence));
    confidence.ok_or_else(|| "a number from 0 to 1 is accepted".to_owned())
}

/// The profiles of generation.
pub const PROFILES: &[&str] = &["speed", "balanced", "quality", "research"];

/// `profile=model`, separated by spaces.
fn parse_profile_models(list: &str) -> Result<Vec<(String, String)>, String> {
    let mut models: Vec<(String, String)> = Vec::new();
    for word in list.split_whitespace() {
        let (profile, model) = word.split_once('=').unwrap_or((word, ""));
        if !PROFILES.contains(&profile) || model.is_empty() {
            return Err(format!("'{word}' is not profile=model with one of the profiles {}", PROFILES.join(", ")));
        }
        if models.iter().any(|(known, _)| known == profile) {
            return Err(format!("the profile '{profile}' is there twice"));
        }
        models.push((profile.to_owned(), model.to_owned()));
    }
    Ok(models)
}

/// A number with Redis's units of memory: b, k, kb, m, mb, g, gb.
fn parse_number(word: &str, memory: bool) -> Option<i64> {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match word[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 1,
        _ if !memory => return None,
        "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(factor)
}

/// The arguments of loadmodule, checked: setting and value.
#[derive(Debug, Default, PartialEq)]
struct Arguments(Vec<(&'static CStr, String)>);

impl Arguments {
    fn parse(args: &[&[u8]]) -> Result<Arguments, Error> {
        let mut parsed = Arguments::default();
        let (pairs, odd) = args.as_chunks::<2>();
        if let [last] = odd {
            return Err(Error::err(format!("the module argument '{}' has no value", printable(last))));
        }
        for [name, value] in pairs {
            let shown = printable(name);
            let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
                return Err(Error::err(format!("the module argument '{shown}' or its value is not valid UTF-8")));
            };
            let wanted = name.strip_prefix("engram.").unwrap_or(name);
            let is = |known: &CStr| known.to_bytes() == wanted.as_bytes();
            let refused = |reason: String| {
                Error::err(format!("the module argument {shown} is '{}': {reason}", printable(value.as_bytes())))
            };
            let known = if let Some(number) = NUMBERS.iter().find(|n| is(n.name)) {
                let parsed = parse_number(value, number.memory);
                if !parsed.is_some_and(|v| (number.min..=number.max).contains(&v)) {
                    return Err(refused(format!("an integer from {} to {} is accepted", number.min, number.max)));
                }
                number.name
            } else if let Some(text) = TEXTS.iter().find(|t| is(t.name)) {
                (text.check)(value).map_err(refused)?;
                text.name
            } else {
                let all = NUMBERS.iter().map(|n| n.name).chain(TEXTS.iter().map(|t| t.name));
                let all: Vec<_> = all.map(CStr::to_string_lossy).collect();
                return Err(Error::err(format!("unknown module argument '{shown}' (accepted: {})", all.join(", "))));
            };
            if parsed.of(known).is_some() {
                return Err(Error::err(format!("the module argument {shown} is given twice")));
            }
            parsed.0.push((known, value.to_owned()));
        }
        Ok(parsed)
    }

    fn of(&self, name: &CStr) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

/// Registers all settings and loads their values from the arguments of loadmodule and the server's configuration.
///
/// # Safety
/// `ctx` is the context of `RedisModule_OnLoad`, on the main thread, after the API has been bound.
pub unsafe fn register(ctx: *mut raw::RedisModuleCtx, args: &[&[u8]]) -> Result<(), Error> {
    let args = Arguments::parse(args)?;
    let _ = NOBODY_IS_TOLD.set(forget_outcomes);
    // SAFETY: the API's pointers have been bound; reading them is all that happens here.
    let (string, numeric, load) = unsafe {
        (raw::RedisModule_RegisterStringConfig, raw::RedisModule_RegisterNumericConfig, raw::RedisModule_LoadConfigs)
    };
    let (Some(string), Some(numeric), Some(load)) = (string, numeric, load) else {
        return Err(Error::err("this server has no settings for modules: Redis 7.0 or later is needed"));
    };
    let failed = |name: &CStr| Error::err(format!("the server refused the setting engram.{}", name.to_string_lossy()));
    for number in NUMBERS {
        let default =
            args.of(number.name).and_then(|v| parse_number(v, number.memory)).unwrap_or_else(|| default_of(number));
        let flags = if number.memory { raw::REDISMODULE_CONFIG_MEMORY } else { raw::REDISMODULE_CONFIG_DEFAULT };
        // SAFETY: the caller's context; name and private data are statics; the callbacks match the declared types.
        let registered = unsafe {
            numeric(
                ctx,
                number.name.as_ptr(),
                default,
                flags as c_uint,
                number.min,
                number.max,
                Some(get_number),
                Some(set_number),
                None,
                std::ptr::from_ref(number).cast_mut().cast(),
            )
        };
        if registered != 0 {
            return Err(failed(number.name));
        }
    }
    for text in TEXTS {
        let default = CString::new(args.of(text.name).unwrap_or(text.default)).map_err(|_| failed(text.name))?;
        let flags =
            if text.changed.is_none() { raw::REDISMODULE_CONFIG_IMMUTABLE } else { raw::REDISMODULE_CONFIG_DEFAULT };
        // SAFETY: as above; the server copies the default.
        let registered = unsafe {
            string(
                ctx,
                text.name.as_ptr(),
                default.as_ptr(),
                flags as c_uint,
                Some(get_text),
                Some(set_text),
                None,
                std::ptr::from_ref(text).cast_mut().cast(),
            )
        };
        if registered != 0 {
            return Err(failed(text.name));
        }
    }
    // SAFETY: the caller's context.
    if unsafe { load(ctx) } != 0 {
        return Err(Error::err(
            "a setting engram.* in the server's configuration was refused; the line above says which and why",
        ));
    }
    Ok(())
}

unsafe extern "C" fn get_number(_name: *const c_char, data: *mut c_void) -> c_longlong {
    // SAFETY: the private data is the &'static Number given at registration; only its atomic ever changes.
    let number: &'static Number = unsafe { &*data.cast::<Number>() };
    c_longlong::try_from(number.get()).unwrap_or(c_longlong::MAX)
}

unsafe extern "C" fn set_number(
    _name: *const c_char,
    value: c_longlong,
    data: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: as in get_number.
    let number: &'static Number = unsafe { &*data.cast::<Number>() };
    // The server has checked the bounds.
    number.value.store(value, Ordering::Relaxed);
    guarded(|| {
        if let Some(hook) = number.changed.and_then(OnceLock::get) {
            hook(number.get());
        }
        0
    })
}

unsafe extern "C" fn get_text(_name: *const c_char, data: *mut c_void) -> *mut raw::RedisModuleString {
    // SAFETY: the private data is the &'static Text given at registration; it is changed behind its lock and its atomic only.
    let text: &'static Text = unsafe { &*data.cast::<Text>() };
    let fresh = server_string(&text.get());
    let last = text.shown.swap(fresh, Ordering::Relaxed);
    // SAFETY: the API's pointers are written once, at load.
    if let Some(free) = unsafe { raw::RedisModule_FreeString }
        && !last.is_null()
    {
        // SAFETY: `last` was made by server_string, was swapped out just now, and the server copied it when it asked.
        unsafe { free(std::ptr::null_mut(), last) };
    }
    fresh
}

unsafe extern "C" fn set_text(
    _name: *const c_char,
    value: *mut raw::RedisModuleString,
    data: *mut c_void,
    error: *mut *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: as in get_text.
    let text: &'static Text = unsafe { &*data.cast::<Text>() };
    // SAFETY: the server's string, valid for this call.
    let value = unsafe { crate::ffi::string_bytes(value) };
    let checked = match std::str::from_utf8(value) {
        Err(_) => Err("it is not valid UTF-8".to_owned()),
        Ok(value) if value.contains('\0') => Err("it contains a NUL".to_owned()),
        Ok(value) => (text.check)(value).map(|()| value),
    };
    match checked {
        Ok(value) => {
            text.set(value);
            guarded(|| {
                if let Some(hook) = text.changed.and_then(OnceLock::get) {
                    hook();
                }
                0
            })
        }
        Err(reason) => {
            // SAFETY: the server gives a valid place for the error, and frees what is put there.
            unsafe { *error = server_string(&reason.replace('\0', " ")) };
            1
        }
    }
}

/// Runs a hook; a panic in it must not reach the server.
fn guarded(hook: impl FnOnce() -> c_int) -> c_int {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(hook)).unwrap_or(1)
}

/// A new string of the server's, owned by the caller.
fn server_string(text: &str) -> *mut raw::RedisModuleString {
    // SAFETY: the API's pointers are written once, at load.
    match unsafe { raw::RedisModule_CreateString } {
        // SAFETY: a context is not needed; the buffer is copied.
        Some(create) => unsafe { create(std::ptr::null_mut(), text.as_ptr().cast(), text.len()) },
        None => std::ptr::null_mut(),
    }
}

/// The settings as a Markdown table.
pub fn reference_table() -> String {
    let mut rows: Vec<(String, String)> = Vec::new();
    for n in NUMBERS {
        let default = if n.default < n.min { "cores − 1".to_owned() } else { n.default.to_string() };
        rows.push((
            n.name.to_string_lossy().into_owned(),
            format!("{default} | {} to {} | {}", n.min, n.max, n.summary),
        ));
    }
    for t in TEXTS {
        let default = if t.default.is_empty() { "(empty)" } else { t.default };
        rows.push((t.name.to_string_lossy().into_owned(), format!("{default} | text | {}", t.summary)));
    }
    rows.sort();
    let mut table = String::from("| setting | default | values | |\n|---|---|---|---|\n");
    for (name, rest) in rows {
        table.push_str(&format!("| `engram.{name}` | {rest} |\n"));
    }
    table
}

#[cfg(test)]
mod tests;
