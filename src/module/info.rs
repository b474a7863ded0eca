//! The `engram` section of INFO.

use std::ffi::{CString, c_int};
use std::panic::catch_unwind;

use redis_module::raw;

use crate::commands::{chat, consolidate, generate, recall, summarize};
use crate::ffi::{Ctx, api};
use crate::{commit, config, jobs, keyspace, maintain, models};
use std::sync::atomic::Ordering::Relaxed;

/// Registers the section. Called once, at load.
pub fn register(ctx: Ctx) {
    api!(RedisModule_RegisterInfoFunc(ctx.ptr(), Some(info)) else 1);
}

unsafe extern "C" fn info(ctx: *mut raw::RedisModuleInfoCtx, for_crash_report: c_int) {
    // A crash report may come in the middle of anything, with a lock held: say nothing then.
    if for_crash_report != 0 {
        return;
    }
    let _ = catch_unwind(|| {
        section(ctx, "server");
        let (embedder, state, bytes) = models::embedder_state();
        text(ctx, "embedder", if state == "none" { "" } else { &embedder });
        text(ctx, "embedder_state", state);
        number(ctx, "embedder_bytes", bytes);
        number(ctx, "models_ready", models::ready() as u64);
        number(ctx, "model_mapped_bytes", engram_inference::memory::mapped_bytes());
        number(ctx, "threads", config::threads() as u64);
        number(ctx, "spaces", keyspace::count() as u64);

        section(ctx, "jobs");
        number(ctx, "queued", jobs::queued());
        number(ctx, "queue_limit", config::queue_limit() as u64);
        number(ctx, "blocked_clients", jobs::blocked_clients() as u64);
        number(ctx, "commits_waiting", commit::waiting() as u64);
        number(ctx, "summaries", summarize::MADE.load(Relaxed));
        number(ctx, "consolidations", consolidate::RUNS.load(Relaxed));
        number(ctx, "reindex_steps", maintain::REINDEX_STEPS.load(Relaxed));

        section(ctx, "embedding");
        let cache = models::cache().stats();
        number(ctx, "cache_texts", cache.texts as u64);
        number(ctx, "cache_bytes", cache.bytes as u64);
        number(ctx, "cache_hits", cache.hits);
        number(ctx, "cache_misses", cache.misses);
        number(ctx, "embedded_texts", models::EMBED_TEXTS.load(Relaxed));
        number(ctx, "embedding_usec", models::EMBED_MICROS.load(Relaxed));

        section(ctx, "recall");
        for (path, count) in recall::paths() {
            number(ctx, path, count);
        }
        number(ctx, "recalls_on_the_pool", recall::ON_THE_POOL.load(Relaxed));
        number(ctx, "recalls_without_encoder", recall::WITHOUT_ENCODER.load(Relaxed));

        section(ctx, "generation");
        number(ctx, "generations", generate::ENDED.load(Relaxed));
        number(ctx, "chats_waiting", chat::waiting_chats() as u64);
        number(ctx, "tokens", generate::TOKENS.load(Relaxed));
        number(ctx, "decode_usec", generate::DECODE_MICROS.load(Relaxed));
        number(ctx, "guessed_tokens", generate::GUESSED.load(Relaxed));
        number(ctx, "guessed_right", generate::GUESSED_RIGHT.load(Relaxed));
        let kept = models::kept();
        number(ctx, "prefix_memory_bytes", kept.memory);
        number(ctx, "prefix_file_bytes", kept.file);
        number(ctx, "prefix_hits", kept.hits);
        number(ctx, "prefix_misses", kept.misses);
        number(ctx, "prefix_tokens_saved", kept.tokens);
        number(ctx, "prefix_pages_restored", kept.restored);
        number(ctx, "prefix_pages_dropped", kept.dropped);
    });
}

fn name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}

fn section(ctx: *mut raw::RedisModuleInfoCtx, title: &str) {
    api!(RedisModule_InfoAddSection(ctx, name(title).as_ptr()) else 1);
}

fn number(ctx: *mut raw::RedisModuleInfoCtx, field: &str, value: u64) {
    api!(RedisModule_InfoAddFieldULongLong(ctx, name(field).as_ptr(), value) else 1);
}

fn text(ctx: *mut raw::RedisModuleInfoCtx, field: &str, value: &str) {
    api!(RedisModule_InfoAddFieldCString(ctx, name(field).as_ptr(), name(value).as_ptr()) else 1);
}
