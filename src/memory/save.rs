//! The whole space as bytes: to be loaded again, and to be compared.

use crate::codec::{self, VERSION, encode_put, put_entry_data};
use crate::effect::Effect;
use crate::space::Space;

impl Space {
    /// Writes the space as batches of effects ([`crate::decode_batch`]) of at most about `max_chunk` bytes, a single memory
    /// being the least. Applying them to an empty space gives this one, use and counters included. The same space gives the same
    /// bytes. Takes no lock and starts nothing: fit for a forked child.
    pub fn encode_state(&self, max_chunk: usize, sink: &mut dyn FnMut(&[u8])) {
        let mut out = vec![VERSION];
        for (name, value) in self.settings("*") {
            Effect::Set { name: name.into(), value }.encode(&mut out);
        }
        if let Some(dim) = self.dim() {
            Effect::Model { model: self.model().map(String::from), dim: dim as u32 }.encode(&mut out);
        }
        let mut effect = Vec::new();
        let dim = self.dim().unwrap_or(0);
        for slot in self.ids.values().filter_map(|slot| self.view.slots.get(*slot)) {
            let rows = slot.rows.as_slice();
            effect.clear();
            encode_put(&mut effect, &slot.entry, rows.len(), dim, rows.iter().map(|row| self.view.vectors.row(*row)));
            if out.len() > 1 && out.len() + effect.len() > max_chunk {
                sink(&out);
                out.truncate(1);
            }
            out.extend_from_slice(&effect);
        }
        // Behind the memories: putting them counts.
        Effect::Counters(self.counters()).encode(&mut out);
        if self.last_id.is_valid() {
            Effect::LastId(self.last_id).encode(&mut out);
        }
        sink(&out);
    }

    /// Gives the bytes that two spaces of the same content share: settings, model, ids seen, memories in order with their
    /// vectors. Use, counters and the place in memory are not in it.
    pub fn digest(&self, sink: &mut dyn FnMut(&[u8])) {
        let mut out = Vec::new();
        for (name, value) in self.settings("*") {
            Effect::Set { name: name.into(), value }.encode(&mut out);
        }
        Effect::Model { model: self.model().map(String::from), dim: self.dim().unwrap_or(0) as u32 }.encode(&mut out);
        Effect::LastId(self.last_id).encode(&mut out);
        sink(&out);
        for slot in self.ids.values().filter_map(|slot| self.view.slots.get(*slot)) {
            out.clear();
            put_entry_data(&mut out, &slot.entry);
            let rows = slot.rows.as_slice();
            codec::put_vectors(
                &mut out,
                rows.len(),
                self.dim().unwrap_or(0),
                rows.iter().map(|row| self.view.vectors.row(*row)),
            );
            sink(&out);
        }
    }
}
