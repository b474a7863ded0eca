//! Embedding in place, where nothing may block.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::embedding::{Embedded, Text, cached, embed_window, finish, windows_of};
use super::{embedder, lock};
use crate::config;
use crate::ffi::{self, Ctx};
use crate::reply::Error;

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
        let (tokens, began) = (text.words.is_some(), Instant::now());
        let embedded = windows.iter().map(|(window, _)| embed_window(&encoder, window, tokens));
        let embedded = embedded.collect::<Result<_, _>>()?;
        done.push(finish(&encoder, text, &windows, embedded, began));
    }
    Ok(Embedded { model: encoder.name().to_owned(), texts: done })
}
