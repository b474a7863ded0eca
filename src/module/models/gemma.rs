//! The language models by their names, and their loads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use engram_inference::engine::Engine;
use engram_inference::gemma::{Gemma, KvFormat, LoadOptions, Progress};
use engram_inference::pool::Priority;

use super::encoder::unload_embedder;
use super::files::{check_name, existing, path_of};
use super::kept::limit_prefixes;
use super::pool::{pool, spawn_once_at};
use super::{lock, spawn_once};
use crate::config;
use crate::ffi::{self, Level};
use crate::reply::{Error, Value};

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

/// Loads a model under a name, in the background, and tells `finish` on the pool. A name in use is refused until it is unloaded.
pub fn load_gemma(
    name: &str,
    path: &str,
    tokenizer: Option<&str>,
    context: Option<usize>,
    kv: Option<KvFormat>,
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
    // Not before all others: it takes long, and gives way to short tasks itself.
    spawn_once_at(Priority::Normal, move || {
        let started = Instant::now();
        let most_context = Some(config::max_context());
        let kv = kv.unwrap_or_else(config::kv_format);
        let options = LoadOptions { tokenizer, context, most_context, kv, pool: pool().cloned() };
        // A panic in a loader is a bug, but must not leave the name loading for ever.
        let loaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Gemma::load(&file, &options, &watched)));
        let loaded = match loaded {
            Ok(Ok(gemma)) => match pool() {
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

/// Has a name of the configuration say why there is no model behind it.
pub(super) fn note_failed(name: &str, path: &str, why: Error) {
    let number = GEMMA_LOAD.fetch_add(1, Ordering::AcqRel);
    let failed = || Named { path: path.to_owned(), number, slot: Slot::Failed(why.message) };
    lock(&GEMMAS).entry(name.to_owned()).or_insert_with(failed);
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
pub(super) fn engines() -> Vec<Arc<Engine>> {
    let ready = |named: &Named| match &named.slot {
        Slot::Ready(engine) => Some(engine.clone()),
        _ => None,
    };
    lock(&GEMMAS).values().filter_map(ready).collect()
}

/// A model by name, or the default: the first of `engram.model`, else the only one there is.
pub fn gemma(name: Option<&str>) -> Result<(String, Arc<Gemma>), Error> {
    let name = name.map_or_else(default_name, |name| Ok(name.to_owned()))?;
    engine(&name).map(|engine| (name, engine.model().clone()))
}

/// What generates with a model.
pub fn engine(name: &str) -> Result<Arc<Engine>, Error> {
    let gemmas = lock(&GEMMAS);
    match gemmas.get(name).map(|named| &named.slot) {
        Some(Slot::Ready(engine)) => Ok(engine.clone()),
        Some(Slot::Loading(progress)) => {
            Err(Error::new("LOADING", format!("the model '{name}' is being loaded ({} %): retry", percent(progress))))
        }
        Some(Slot::Failed(reason)) => Err(Error::new("NOMODEL", reason.clone())),
        None => {
            drop(gemmas);
            Err(unknown(name))
        }
    }
}

/// The model that answers where none is named: the first of `engram.model`, else the only one that is loaded.
pub fn default_name() -> Result<String, Error> {
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

/// How many Gemma models are ready.
pub fn ready() -> usize {
    lock(&GEMMAS).values().filter(|named| matches!(named.slot, Slot::Ready(_))).count()
}

/// The number of the load that gave a name its model; 0 where there is none.
pub(super) fn load_number(name: &str) -> u64 {
    lock(&GEMMAS).get(name).map_or(0, |named| named.number)
}

/// Lets go of a name whose load has failed; an error if a model has it.
pub(super) fn free_name(name: &str) -> Result<(), Error> {
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
    Ok(())
}

/// What GEMMA.MODELS says of them.
pub(super) fn describe() -> Vec<Value> {
    let mut all = Vec::new();
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
                    ("kv_format", Value::from(info.kv_format.name())),
                    ("generating", Value::from(load.active)),
                    ("waiting", Value::from(load.waiting)),
                ]);
            }
        }
        all.push(Value::map(fields));
    }
    all
}
