//! Behaviour tests: one module per behaviour, against real servers that load the module.
//!
//! What they need is named by the environment, and what is missing is a failing test, never a skipped one:
//! * `ENGRAM_MODULE`: the module, built with the feature `latch` (default: `target/debug/libengram.so` of the workspace);
//! * `REDIS_SERVER`: the server (default: `redis-server`);
//! * `ENGRAM_MODEL_DIR`: the folder that holds `all-MiniLM-L6-v2` (default: `models` of the workspace).
//!
//! `harness` starts and stops servers, `client` speaks to them, `digest` is the check that every write command goes through: what stands in a
//! key must be the same after a reload, in the AOF, on a replica, and in a copy.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that meets the unexpected fails by panicking")]

mod client;
mod cluster;
#[path = "../bench/copy_questions.rs"]
mod copy_questions;
mod digest;
mod harness;

mod access;
mod bad_files;
mod bad_input;
mod chat;
mod config;
mod consolidate;
mod constrained;
mod context;
mod conversations;
mod derived;
mod documents;
mod embedders;
mod export;
mod facts;
mod failover;
mod filters;
mod generate;
mod graph;
mod heat;
mod jobs;
mod large;
mod lifecycle;
mod memory_limit;
mod models;
mod modes;
mod observability;
mod observers;
mod outcomes;
mod paths;
mod persistence;
mod ranking;
mod recall;
mod reembed;
mod reflect;
mod serve;
mod sessions;
mod store;
mod streams;
mod summaries;
mod text;
mod versions;
