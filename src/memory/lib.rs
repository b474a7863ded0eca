//! The memory engine: spaces of tiered memories with vectors, filters, a lifecycle and a codec.
//!
//! Pure Rust: it knows no Redis, no model, no clock, no thread and no environment. The caller gives the time, the vectors and
//! takes what is decided; so the same calls give the same bytes, and everything can be simulated, replayed and fuzzed.
//!
//! A [`Space`] is what one key holds. Methods that take `&self` decide and give [`Effect`]s; [`Space::apply`] carries them out,
//! here, on a replica or from a file. [`Space::snapshot`] freezes it for threads that read all of it: recall, selection,
//! consolidation.
//!
//! ```
//! use engram_memory::{NewMemory, Recall, Space, Vectors};
//!
//! let mut space = Space::new();
//! let new = NewMemory { content: "The cat sat.".into(), vectors: Vectors::Given(vec![1.0, 2.0]), ..NewMemory::default() };
//! let stored = space.store(1_700_000_000_000, new)?;
//! for effect in &stored.effects {
//!     space.apply(effect)?;
//! }
//! let recall = Recall { queries: vec![vec![1.0, 2.0]], k: 10, ..Recall::default() };
//! let hits = space.snapshot().recall(1_700_000_000_000, &recall)?.hits;
//! assert_eq!(hits[0].entry.id, stored.id);
//! # Ok::<(), engram_memory::Error>(())
//! ```

pub mod date;
pub mod limits;

mod audit;
mod awaiting;
mod base64;
mod bitmap;
mod claims;
mod codec;
mod columns;
mod consolidate;
mod derived;
mod document;
mod effect;
mod entry;
mod episodes;
mod error;
mod evict;
mod export;
mod filter;
mod graph;
mod heat;
mod id;
mod import;
mod invariants;
mod kernels;
mod kin;
mod lexical;

mod packing;
mod recall;
mod record;
mod records;
mod reembed;
mod reflect;
mod reindex;
mod rows;
mod save;
mod session;
mod settings;
mod snapshot;
mod sorted;
mod space;
mod stats;
mod store;
mod text;
mod texts;
mod tier;
mod tokens;

pub use audit::{Audit, Flaw};
pub use claims::{Claim, FactRules, Finding, Findings, NewFact, Revision, Who};
pub use codec::{VERSION, decode_batch, encode_batch};
pub use consolidate::{Change, Consolidate, Plan, Step, TURNS_BEFORE, Unread};
pub use document::{ChunkFields, Document, NewChunk};
pub use effect::{Applied, Counters, Effect, Patch, Removal, Staged};
pub use entry::{Entry, Marks, Meta, Passage, Superseded};
pub use episodes::{Episode, Summary as EpisodeSummary};
pub use error::{Error, Result};
pub use export::Exported;
pub use filter::Filter;
pub use graph::{Link, Related, Via};
pub use heat::{Heat, HeatPlan, HeatStats, HeatUnit, Seen};
pub use id::{MemoryId, Millis};
pub use import::Imported;
pub use kin::Kin;
pub use lexical::{Language, Word, words};
pub use recall::{Admitted, Hit, Mode, Recall, Recalled, Weights, Whereabouts};
pub use reembed::{Embedded, Missing, Retired, Way};
pub use reflect::Told;
pub use rows::{Precision, Vector};
pub use save::Loader;
pub use session::{NewSession, NewTurn, ROLES, Session, SessionPatch, Summary, TURN};
pub use settings::{Eviction, Importance, NAMES as SETTINGS, Ranking, Settings, TierSettings, TokenVectors};
pub use snapshot::{Selection, Snapshot, Timeline, VectorIndex};
pub use space::Space;
pub use stats::{Stats, TierStats};
pub use store::{Dedup, NewMemory, Stored, Ttl, Update, Vectors};
pub use text::{Template, normalised};
pub use tier::Tier;
pub use tokens::{QueryWord, Signs};
