//! The `engram` section of INFO: numbers by name, each counted since the start of the server, or as it is now.

use std::ffi::{CString, c_int};
use std::panic::catch_unwind;
use std::sync::atomic::Ordering::Relaxed;

use engram_memory::Heat;
use redis_module::raw;

use crate::alerts::{self, Active, What};
use crate::commands::{chat, consolidate, generate, paths, recall, reflect, summarize};
use crate::ffi::{Ctx, api};
use crate::latency::Operation;
use crate::{commit, config, heat, jobs, keyspace, maintain, models, pressure, totals};

/// Alerts that have a line of their own, at most.
const ALERTS_LISTED: usize = 32;

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

        section(ctx, "counters");
        let counted = totals::counters();
        number(ctx, "hits", counted.hits);
        number(ctx, "misses", counted.misses);
        number(ctx, "stores", counted.stores);
        number(ctx, "duplicates", counted.duplicates);
        number(ctx, "merges", counted.merges);
        number(ctx, "promotions", counted.promotions);
        number(ctx, "evictions", counted.evictions);
        number(ctx, "expirations", counted.expirations);

        section(ctx, "latency");
        for operation in Operation::ALL {
            let (name, told) = (operation.name(), operation.summary());
            number(ctx, &format!("{name}_count"), told.count);
            number(ctx, &format!("{name}_p50_usec"), told.p50);
            number(ctx, &format!("{name}_p99_usec"), told.p99);
        }

        section(ctx, "heat");
        for heat in Heat::ALL {
            let (memories, bytes) = heat::total(heat);
            number(ctx, &format!("{heat}_memories"), memories);
            number(ctx, &format!("{heat}_bytes"), bytes);
        }
        number(ctx, "heat_looks", heat::RUNS.load(Relaxed));
        for heat in Heat::ALL {
            number(ctx, &format!("became_{heat}"), heat::given(heat));
        }
        number(ctx, "revived", heat::REVIVED.load(Relaxed));

        section(ctx, "pressure");
        number(ctx, "pressure", u64::from(pressure::is_on()));
        let given_up = pressure::given_up();
        number(ctx, "given_up_memories", given_up.memories);
        number(ctx, "given_up_bytes", given_up.bytes);
        number(ctx, "cooled_memories", given_up.cooled);

        section(ctx, "alerts");
        let active = alerts::active(None);
        number(ctx, "alerts_begun", alerts::begun());
        number(ctx, "alerts_active", active.len() as u64);
        for what in What::ALL {
            let active = active.iter().filter(|alert| alert.what == what).count();
            number(ctx, &format!("alerts_{}", what.name()), active as u64);
        }
        for (i, alert) in active.iter().take(ALERTS_LISTED).enumerate() {
            let Active { what, place, since, value, threshold } = alert;
            let (what, db) = (what.name(), place.as_ref().map_or(-1, |place| place.db));
            // The name last, for it may hold anything.
            let space = alert.space().unwrap_or_default();
            let line = format!("what={what},value={value},threshold={threshold},since={since},db={db},space={space}");
            text(ctx, &format!("alert{i}"), &line);
        }

        section(ctx, "jobs");
        number(ctx, "queued", jobs::queued());
        number(ctx, "queue_limit", config::queue_limit() as u64);
        number(ctx, "blocked_clients", jobs::blocked_clients() as u64);
        number(ctx, "commits_waiting", commit::waiting() as u64);
        number(ctx, "reindex_steps", maintain::REINDEX_STEPS.load(Relaxed));

        section(ctx, "learning");
        number(ctx, "maintenance", u64::from(config::maintains()));
        number(ctx, "consolidations", consolidate::RUNS.load(Relaxed));
        number(ctx, "last_consolidation", consolidate::LAST.load(Relaxed));
        number(ctx, "facts_learned", consolidate::LEARNED.load(Relaxed));
        number(ctx, "statements_refused", consolidate::REFUSED.load(Relaxed));
        number(ctx, "episodes_summed_up", consolidate::SUMMED_UP.load(Relaxed));
        number(ctx, "links_found", consolidate::LINKED.load(Relaxed));
        number(ctx, "insights", reflect::MADE.load(Relaxed));
        number(ctx, "summaries", summarize::MADE.load(Relaxed));

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

        section(ctx, "paths");
        for (name, count) in paths::counts() {
            number(ctx, name, count);
        }
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
