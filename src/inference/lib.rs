//! Running models on the CPU, from local files: the Gemma text family and text encoders.
//!
//! The crate knows no Redis and no memory engine. It holds no thread unless a [`pool::Pool`] is made, and keeps weights,
//! key/value caches, activations and scratch in mappings of its own ([`memory`]), outside the process allocator: inside a
//! server that allocator counts against the limit on user data.
//!
//! One rule shapes the arithmetic: the result for one text or one generation is bit-equal whatever else is computed beside
//! it, however its prompt is cut into chunks and on however many threads. [`kernels`] says how.

pub mod cache;
pub mod constraint;
pub mod embedder;
pub mod encoder;
pub mod engine;
pub mod error;
mod folder;
pub mod gemma;
pub mod generation;
pub mod gguf;
pub mod kernels;
pub mod loading;
pub mod memory;
pub mod packed;
pub mod pool;
pub mod product;
mod safetensors;
pub mod sampler;
pub mod team;
pub mod tokenizer;

pub use embedder::{Embedder, Purpose};
pub use encoder::{Encoded, Encoder, Precision, Scratch, Window};
pub use error::Error;
pub use tokenizer::{Detokenizer, Tokenizer};
