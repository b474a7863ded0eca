//! What the language models keep of prompts (keys and values), and when they forget it.
//!
//! Prompts share what is kept within a scope only. There are two kinds: a user's, for prompts that nothing of the data set stands in, and a user's in a
//! space, for those with its memories. The second kind begins with the database and the key, so that all of it can be dropped when the space is gone from
//! there, by whichever way, or when a text of it is forgotten or changed.
//!
//! A space tells so by [`forget_space`], on the main thread or the one that frees values; the pool does it. A prompt that is put together in this very moment may
//! still be kept after it; it is dropped with the next one.

use std::collections::BTreeSet;
use std::sync::Mutex;

use engram_inference::engine::Engine;
use engram_inference::gemma::Stats;

use super::gemma::engines;
use super::{lock, ready, spawn_once};
use crate::config;
use crate::ffi::{self, Level};

/// Tells an engine how much of texts it keeps.
pub(super) fn limit_prefixes(engine: &Engine) {
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

/// Tells all engines.
pub(super) fn limit_all() {
    engines().iter().for_each(|engine| limit_prefixes(engine));
}

/// Where what is kept of prompts is shared that have nothing of the data set in them. A database has a number, so no scope in a space begins like this.
pub fn scope_of_user(user: &str) -> String {
    format!("\0{user}")
}

/// Where what is kept of prompts with texts of a space is shared. No user's name has a NUL in it.
pub fn scope_in_space(db: i32, key: &[u8], user: &str) -> String {
    beginning(db, key) + user
}

/// How all scopes in a space begin.
fn beginning(db: i32, key: &[u8]) -> String {
    format!("{db}\0{}\0", key.escape_ascii())
}

/// Has all models forget what they keep of prompts with texts of this space, soon.
pub fn forget_space(db: i32, key: &[u8]) {
    static FORGOTTEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if ready() == 0 {
        return;
    }
    let mut forgotten = lock(&FORGOTTEN);
    let first = forgotten.is_empty();
    forgotten.insert(beginning(db, key));
    drop(forgotten);
    // Letting go of pages takes a while: not on this thread.
    if first {
        spawn_once(|| {
            let forgotten = std::mem::take(&mut *lock(&FORGOTTEN));
            for engine in engines() {
                forgotten.iter().for_each(|beginning| engine.forget(beginning));
            }
        });
    }
}
