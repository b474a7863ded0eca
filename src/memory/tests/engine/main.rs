//! Tests of the memory engine through its public interface: one binary, a module per behaviour.

#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

mod claims;
mod codec;
mod concurrency;
mod consolidate;
mod conversations;
mod counting;
mod derived;
mod export;
mod filter;
mod graph;
mod heat;
mod preference;
mod ranking;
mod recall;
mod reembed;
mod settings;
mod simulation;
mod store;
mod support;
mod tiers;
mod usage;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;
