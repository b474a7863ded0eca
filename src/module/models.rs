//! The models of this server: one text encoder, any number of Gemma models by name, the pool that runs them and the cache of embeddings.
//!
//! Models are local to a node: what is loaded comes from the configuration (`engram.embedder`, `engram.model`) and GEMMA.LOAD, never from the data set.
//! Loading runs on the pool; work that needs the encoder meanwhile goes back to the end of the pool's queue until it is there, or is told LOADING where
//! waiting is not possible. A task never waits on a lock for it: with one thread, the load would be queued behind the task that waits.
//!
//! * `pool`: the threads.
//! * `files`: what may be loaded, and under which names.
//! * `encoder`: the text encoder and its loads; `embedding`: texts on their way to vectors, in the background; `inline`: the same in place.
//! * `gemma`: the language models and their loads; `kept`: what they keep of prompts, and when they forget it.
//! * `counter`: what counts tokens.
//!
//! Locks here are held for a few assignments.

mod counter;
mod embedding;
mod encoder;
mod files;
mod gemma;
mod inline;
mod kept;
mod pool;

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config;
use crate::ffi::{Ctx, Level};
use crate::reply::{Error, Value};

pub use counter::Counter;
pub use embedding::{
    EMBED_MICROS, EMBED_TEXTS, Embedded, Embedding, Text, TextVectors, Vectors, all_cached, cache, embed_in_background,
    has_too_many_windows, is_too_long,
};
pub use encoder::{embedder, embedder_state, expect_embedder, load_named_embedder, wait_for_embedder};
pub use gemma::{default_name, engine, gemma, load_gemma, ready, unload};
pub use inline::embed_inline;
pub use kept::{forget_space, kept, scope_in_space, scope_of_user};
pub use pool::{pool_load, spawn, spawn_once};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the threads and loads what the configuration names. Called once, at load.
pub fn start(ctx: Ctx) -> Result<(), Error> {
    pool::start()?;
    config::on_embedder_change(encoder::load_embedder);
    config::on_cache_change(|texts| cache().set_capacity(texts));
    // Letting go of much takes milliseconds: not on this thread.
    config::on_prefix_change(|_| spawn_once(kept::limit_all));
    encoder::load_embedder();
    for (name, path) in config::models() {
        if let Err(error) = load_gemma(&name, &path, None, None, None, |_| {}) {
            ctx.log(Level::Warning, &format!("engram: engram.model: {}", error.message));
            gemma::note_failed(&name, &path, error);
        }
    }
    Ok(())
}

/// GEMMA.MODELS: the encoder and every Gemma model.
pub fn describe() -> Value {
    let mut all = vec![encoder::describe()];
    all.extend(gemma::describe());
    Value::Array(all)
}
