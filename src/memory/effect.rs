//! What happened to a space, decided.
//!
//! Every change of a space is an effect, and [`crate::Space::apply`] is the only way to make one: on the primary that decided
//! it, on a replica, from an append-only file, from a snapshot file. So an effect carries results (ids, times, vectors), never
//! causes, and applying the same effects to two spaces makes them the same.

use crate::document::{Document, STAGED};
use crate::entry::{Entry, Marks, Meta, Superseded};
use crate::graph::Link;
use crate::heat::Heat;
use crate::rows::{Precision, Vector};
use crate::session::SessionPatch;
use crate::tokens::Signs;
use crate::{MemoryId, Millis, Tier};

/// One change of a space.
#[derive(Debug, Clone)]
pub enum Effect {
    /// The model (None = the caller's own vectors) and the dimension, fixed before the first vector.
    Model {
        /// The model that made the vectors.
        model: Option<String>,
        /// The length of every vector.
        dim: u32,
        /// How they are kept.
        precision: Precision,
    },
    /// A memory as it is stored.
    Put {
        /// The memory.
        entry: Box<Entry>,
        /// Its vectors, as the space keeps them.
        vectors: Vec<Vector>,
        /// Its word vectors, if the space keeps them.
        signs: Signs,
    },
    /// Changed fields of a memory.
    Patch {
        /// The memory.
        id: MemoryId,
        /// What changed.
        patch: Box<Patch>,
    },
    /// Memories that go. Those that are gone already are passed over.
    Remove {
        /// At most [`crate::limits::EFFECT_IDS`].
        ids: Vec<MemoryId>,
        /// Why.
        reason: Removal,
    },
    /// A memory was stored again: its importance and use, as they are then.
    Duplicate {
        /// The memory that stands.
        id: MemoryId,
        /// Its importance.
        importance: f64,
        /// Its last use.
        accessed: Millis,
        /// Its number of uses.
        uses: u32,
    },
    /// The use of memories, as it is then: (id, last use, number of uses).
    Use(Vec<(MemoryId, Millis, u32)>),
    /// A setting, in its canonical form.
    Set {
        /// The name.
        name: String,
        /// The value.
        value: String,
    },
    /// The counters of the space, when it is loaded.
    Counters(Counters),
    /// The largest id seen, which may be that of a memory long gone.
    LastId(MemoryId),
    /// Vectors of another kind will be staged, none so far: what was staged is dropped (see `reembed`).
    Stage {
        /// The model that makes them.
        model: Option<String>,
        /// The length of every vector.
        dim: u32,
        /// How they are kept.
        precision: Precision,
    },
    /// The vectors that memories will have, in place of those that were staged of them. Memories that are gone are passed over.
    Staged(Vec<Staged>),
    /// What is staged takes the place of all vectors.
    Switch,
    /// What is staged is dropped.
    Unstage,
    /// The record of a session changes, or is made.
    Session(Box<SessionPatch>),
    /// Memories become turns of a session, in this order, behind those that it has.
    Turns {
        /// The session.
        session: Box<str>,
        /// At most [`crate::limits::EFFECT_IDS`].
        ids: Vec<MemoryId>,
    },
    /// The record of a session goes.
    EndSession {
        /// The session.
        name: Box<str>,
        /// And its turns with it.
        turns: bool,
    },
    /// Memories get marks, or lose them. Those that are gone are passed over.
    Mark {
        /// At most [`crate::limits::EFFECT_IDS`].
        ids: Vec<MemoryId>,
        /// Which; the others stay as they are.
        marks: Marks,
        /// Whether they get them.
        on: bool,
    },
    /// Memories that have a heat from now on; what that does to them follows from what they are (see `heat`). Those that are gone are passed over. At most
    /// [`limits::EFFECT_IDS`](crate::limits::EFFECT_IDS).
    Heat {
        /// The heat.
        to: Heat,
        /// The memories.
        ids: Vec<MemoryId>,
    },
    /// What the texts of the space have in common: those that become cold from now on are packed by it.
    Dictionary(Box<[u8]>),
    /// Chunks of a document will be put, none so far: what was staged of it is dropped (see `document`).
    Document(Box<Document>),
    /// A document that is staged is shown, in place of the one that had its name.
    ShowDocument {
        /// The document.
        name: Box<str>,
        /// When its chunks expire.
        expires: Option<Millis>,
    },
    /// A document goes.
    DropDocument {
        /// The document.
        name: Box<str>,
        /// What is staged of it, rather than what is shown.
        staged: bool,
    },
    /// A link between two memories that stand, in place of the one between them of its name.
    Link(Box<Link>),
    /// Links that go. Those that are gone already are passed over.
    Unlink {
        /// The memory that they go out from.
        from: MemoryId,
        /// The memory that they go to.
        to: MemoryId,
        /// Their name; None: all.
        rel: Option<Box<str>>,
    },
}

/// The vectors that a memory will have.
#[derive(Debug, Clone, PartialEq)]
pub struct Staged {
    /// The memory.
    pub id: MemoryId,
    /// The text that was embedded; 0 = no model made them.
    pub template: u16,
    /// One per window.
    pub vectors: Vec<Vector>,
    /// The signs of its word vectors.
    pub signs: Signs,
}

impl Effect {
    /// Whether it takes nothing from where it stands in an order.
    pub(crate) fn only_adds(&self) -> bool {
        use Effect::{Counters, Dictionary, LastId, Link, Mark, Model, Put, Stage, Staged, Unstage, Use};
        matches!(
            self,
            Model { .. }
                | Put { .. }
                | Counters(_)
                | LastId(_)
                | Stage { .. }
                | Staged(_)
                | Unstage
                | Use(_)
                | Link(_)
                | Mark { .. }
                | Dictionary(_)
        )
    }

    /// Whether reads see what it does. They see neither use, by decision, nor what is staged.
    pub fn is_visible(&self) -> bool {
        match self {
            Effect::Use(_) | Effect::Mark { .. } | Effect::Stage { .. } | Effect::Staged(_) | Effect::Unstage => false,
            Effect::Dictionary(_) => false,
            Effect::Document(_) | Effect::DropDocument { staged: true, .. } => false,
            Effect::Put { entry, .. } => entry.expires != Some(STAGED),
            _ => true,
        }
    }
}

/// Why a memory went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The caller said so.
    Forgotten,
    /// Its tier or the space was full.
    Evicted,
    /// Its time was over.
    Expired,
    /// It went into another one.
    Merged,
}

impl Removal {
    /// All reasons, in the order of their codes.
    pub(crate) const ALL: [Removal; 4] = [Removal::Forgotten, Removal::Evicted, Removal::Expired, Removal::Merged];
}

/// Changed fields. None = as before; the inner None of an optional field = unset.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "every field is the field of the same name in Entry")]
pub struct Patch {
    pub content: Option<Box<str>>,
    /// The embedding template, all vectors and the word vectors.
    pub vectors: Option<(u16, Vec<Vector>, Signs)>,
    /// The tier and when it was entered.
    pub tier: Option<(Tier, Millis)>,
    /// When it expires, and whether the caller said so.
    pub expiry: Option<(Option<Millis>, bool)>,
    pub kind: Option<Box<str>>,
    pub importance: Option<f64>,
    pub confidence: Option<f64>,
    pub outcome: Option<Option<Box<str>>>,
    pub session: Option<Option<Box<str>>>,
    pub speaker: Option<Option<Box<str>>>,
    pub role: Option<Option<Box<str>>>,
    pub source: Option<Option<Box<str>>>,
    pub from: Option<Vec<MemoryId>>,
    pub at: Option<Millis>,
    pub pinned: Option<bool>,
    pub tags: Option<Vec<Box<str>>>,
    pub meta: Option<Option<Meta>>,
    pub supersedes: Option<Option<MemoryId>>,
    pub superseded: Option<Option<Superseded>>,
    pub tokens: Option<u32>,
}

impl Patch {
    /// The entry after the patch. `vectors` are the space's to write; here only their number changes.
    pub(crate) fn applied_to(&self, entry: &Entry) -> Entry {
        fn put<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(value) = from {
                *to = value.clone();
            }
        }
        let mut new = entry.clone();
        put(&mut new.content, &self.content);
        put(&mut new.kind, &self.kind);
        put(&mut new.importance, &self.importance);
        put(&mut new.confidence, &self.confidence);
        put(&mut new.outcome, &self.outcome);
        put(&mut new.session, &self.session);
        put(&mut new.speaker, &self.speaker);
        put(&mut new.role, &self.role);
        put(&mut new.source, &self.source);
        put(&mut new.from, &self.from);
        put(&mut new.at, &self.at);
        put(&mut new.pinned, &self.pinned);
        put(&mut new.tags, &self.tags);
        put(&mut new.meta, &self.meta);
        put(&mut new.supersedes, &self.supersedes);
        put(&mut new.superseded, &self.superseded);
        put(&mut new.tokens, &self.tokens);
        if self.content.is_some() {
            new.marks = Marks::default();
        }
        // What is written is as good as new; the vectors of one that has warmed up are no more than it should have.
        if self.content.is_some() || (self.vectors.is_some() && new.heat == Heat::Cold) {
            new.heat = Heat::Hot;
        }
        if let Some((template, vectors, _)) = &self.vectors {
            new.template = *template;
            new.awaits = false;
            new.windows = u16::try_from(vectors.len()).unwrap_or(u16::MAX);
        }
        if let Some((tier, entered)) = self.tier {
            new.tier = tier;
            new.entered = entered;
        }
        if let Some((expires, own)) = self.expiry {
            new.expires = expires;
            new.own_expiry = own;
        }
        new
    }
}

/// What a space counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Recalls with at least one result.
    pub hits: u64,
    /// Recalls without.
    pub misses: u64,
    /// Memories stored.
    pub stores: u64,
    /// Stores that found what they would store.
    pub duplicates: u64,
    /// Memories that gave way to others.
    pub evictions: u64,
    /// Memories that changed their tier.
    pub promotions: u64,
    /// Memories whose time was over.
    pub expirations: u64,
    /// Memories that went into others.
    pub merges: u64,
}

/// What applying an effect did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Memories put, changed or removed.
    pub memories: usize,
}
