//! Memories whose vectors are made after they are stored.
//!
//! A turn of a conversation is stored, and its writer answered, before its content is embedded; so is what is imported without vectors. Until
//! then it is in the timeline, in the history of its session and in recall by words. That it waits is part of the memory: a server that
//! is killed in between, or a replica that becomes the primary, finds it and has the vectors made.

use crate::effect::Effect;
use crate::reembed::{Embedded, Missing};
use crate::space::Space;
use crate::store::{Update, Vectors};
use crate::{MemoryId, Millis, Result};

impl Space {
    /// How many memories wait for their vectors.
    pub fn awaiting(&self) -> usize {
        self.awaiting.len()
    }

    /// The last memory, by id, that waits for its vectors.
    pub fn last_awaiting(&self) -> Option<MemoryId> {
        self.awaiting.last().copied()
    }

    /// Whether a memory waits for its vectors.
    pub fn awaits(&self, id: MemoryId) -> bool {
        self.awaiting.contains(&id)
    }

    /// The first `limit` memories, by id, that wait for their vectors; what has expired will get none.
    pub fn first_awaiting(&self, now: Millis, limit: usize) -> Vec<Missing> {
        let standing = self.awaiting.iter().filter_map(|id| self.standing(now, *id));
        standing.take(limit).filter_map(|slot| self.missing(slot)).collect()
    }

    /// Decides to give memories the vectors that `model` made of their texts, and the tokens of their contents where those are above 0; one whose text cannot be embedded waits no longer. What is
    /// gone, has its vectors or has another text by now is passed over.
    ///
    /// Errors: vectors that do not fit the space.
    pub fn fill(&self, now: Millis, model: &str, made: Vec<(Embedded, u32)>) -> Result<Vec<Effect>> {
        let template = self.config().template.version();
        let mut effects: Vec<Effect> = Vec::new();
        for (Embedded { memory, windows, words }, tokens) in made {
            let text = self.slot(memory.id).filter(|_| self.awaits(memory.id)).and_then(|slot| self.missing(slot));
            if self.standing(now, memory.id).is_none() || text.is_none_or(|now| now.text != memory.text) {
                continue;
            }
            let vectors = if windows.is_empty() {
                Vectors::None
            } else {
                Vectors::Embedded { model: model.into(), template, windows, words }
            };
            let tokens = Some(tokens).filter(|tokens| *tokens > 0);
            let update = Update { vectors: Some(vectors), tokens, ..Update::default() };
            let fixes = effects.iter().any(|effect| matches!(effect, Effect::Model { .. }));
            let decided = self.update(now, memory.id, update)?;
            // The first of several fixes the model for all.
            effects.extend(decided.into_iter().filter(|effect| !(fixes && matches!(effect, Effect::Model { .. }))));
        }
        Ok(effects)
    }
}
