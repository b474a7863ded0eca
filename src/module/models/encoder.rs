//! The text encoder of this server and its loads, of which the newest counts.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engram_inference::Embedder;

use super::files::{check_embedder_name, existing, path_of};
use super::{cache, gemma, lock, spawn_once};
use crate::config;
use crate::ffi::{self, Level};
use crate::reply::{Error, Value};

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
pub(super) fn load_embedder() {
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
    gemma::free_name(name)?;
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
pub(super) fn unload_embedder(name: &str) -> bool {
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

/// The number of the newest load.
pub(super) fn load_number() -> u64 {
    EMBEDDER_LOAD.load(Ordering::Acquire)
}

/// What GEMMA.MODELS says of it.
pub(super) fn describe() -> Value {
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
    Value::map(encoder)
}
