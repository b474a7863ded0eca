//! The memories of a space by slot: chunks of 256, copied on write.
//!
//! A snapshot holds the directory. The first change after it copies the directory (one pointer per 256 memories) and the chunk
//! it touches (6 KiB); later ones only the chunks that they are first to touch.

use crate::entry::Entry;
use crate::vectors::Rows;
use std::sync::Arc;

const CHUNK: usize = 256;

/// One place: a memory and where its vectors are.
#[derive(Clone)]
pub(crate) struct Slot {
    pub entry: Arc<Entry>,
    pub rows: Rows,
}

type Chunk = Vec<Option<Slot>>;

/// The slots; cloning is O(1).
#[derive(Clone, Default)]
pub(crate) struct Slots {
    chunks: Arc<Vec<Arc<Chunk>>>,
}

impl Slots {
    pub(crate) fn get(&self, slot: u32) -> Option<&Slot> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)?.as_ref()
    }

    /// The number of slots, empty ones included.
    pub(crate) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Fills or empties a slot; one behind the last is appended.
    pub(crate) fn set(&mut self, slot: u32, value: Option<Slot>) {
        let chunks = Arc::make_mut(&mut self.chunks);
        let (chunk, place) = (slot as usize / CHUNK, slot as usize % CHUNK);
        if chunk == chunks.len() {
            chunks.push(Arc::default());
        }
        let Some(chunk) = chunks.get_mut(chunk).map(Arc::make_mut) else { return };
        match chunk.get_mut(place) {
            Some(old) => *old = value,
            None => chunk.push(value),
        }
    }

    /// All memories, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().flatten())
    }

    /// The bytes of the slots themselves.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.len() * size_of::<Arc<Chunk>>() + self.chunks.len() * CHUNK * size_of::<Option<Slot>>()
    }
}
