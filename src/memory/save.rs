//! The whole space as bytes: to be loaded again, and to be compared.

use crate::Result;
use crate::codec::{self, VERSION, decode_batch, encode_put, put_entry_data};
use crate::effect::Effect;
use crate::space::{Space, is_hidden};

/// A space on its way in. It takes the batches that [`Space::encode_state`] gave, or any others, and builds at the end what is
/// built faster of all memories at once.
pub struct Loader {
    space: Space,
}

impl Default for Loader {
    fn default() -> Loader {
        let mut space = Space::new();
        space.loading = true;
        Loader { space }
    }
}

impl Loader {
    /// Applies a batch of effects.
    pub fn apply(&mut self, batch: &[u8]) -> Result<()> {
        decode_batch(batch)?.iter().try_for_each(|effect| self.space.apply(effect).map(drop))
    }

    /// The space.
    pub fn finish(mut self) -> Space {
        self.space.end_loading();
        self.space
    }
}

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
            Effect::Model { model: self.model().map(String::from), dim: dim as u32, precision: self.view.precision() }
                .encode(&mut out);
        }
        let mut effect = Vec::new();
        let mut write = |out: &mut Vec<u8>, effect: &mut Vec<u8>| {
            if out.len() > 1 && out.len() + effect.len() > max_chunk {
                sink(out);
                out.truncate(1);
            }
            out.append(effect);
        };
        for dictionary in self.view.records.dictionaries() {
            codec::put_dictionary(&mut effect, dictionary.bytes());
            write(&mut out, &mut effect);
        }
        self.save_documents(&mut |saved| {
            saved.encode(&mut effect);
            write(&mut out, &mut effect);
        });
        for slot in self.ids.iter() {
            let Some(entry) = self.view.records.entry(slot) else { continue };
            encode_put(&mut effect, &entry, |out| self.put_vectors(slot, out));
            write(&mut out, &mut effect);
        }
        // A replica that begins with these bytes, or a server whose append-only file does, is sent the rest of what is being staged.
        if let Some(staging) = &self.staging {
            staging.begun().encode(&mut effect);
            write(&mut out, &mut effect);
            for slot in self.ids.iter() {
                let Some(template) = staging.places.template(slot) else { continue };
                codec::encode_staged(&mut effect, self.view.id(slot), template, |out| staging.put_vectors(slot, out));
                write(&mut out, &mut effect);
            }
        }
        for slot in self.ids.iter() {
            for link in self.outgoing(slot) {
                Effect::Link(Box::new(link)).encode(&mut effect);
                write(&mut out, &mut effect);
            }
        }
        self.save_sessions(&mut |saved| {
            saved.encode(&mut effect);
            write(&mut out, &mut effect);
        });
        // Behind the memories: putting them counts.
        Effect::Counters(self.counters()).encode(&mut out);
        if self.last_id.is_valid() {
            Effect::LastId(self.last_id).encode(&mut out);
        }
        sink(&out);
    }

    /// Gives the bytes that two spaces of the same content share: settings, model, ids seen, sessions, documents, memories in order with their
    /// heat and vectors and the links that go out from them. Use, how texts are packed, counters, what is staged or hidden and the place in memory are not in it.
    pub fn digest(&self, sink: &mut dyn FnMut(&[u8])) {
        let mut out = Vec::new();
        for (name, value) in self.settings("*") {
            Effect::Set { name: name.into(), value }.encode(&mut out);
        }
        let dim = self.dim().unwrap_or(0) as u32;
        Effect::Model { model: self.model().map(String::from), dim, precision: self.view.precision() }.encode(&mut out);
        Effect::LastId(self.last_id).encode(&mut out);
        sink(&out);
        let mut record = |effect: Effect| {
            out.clear();
            effect.encode(&mut out);
            sink(&out);
        };
        self.save_sessions(&mut record);
        for document in self.documents.values() {
            record(Effect::Document(Box::new(document.document.clone())));
        }
        for slot in self.ids.iter().filter(|slot| !is_hidden(&self.view, *slot)) {
            let Some(entry) = self.view.records.entry(slot) else { continue };
            out.clear();
            put_entry_data(&mut out, &entry);
            self.put_vectors(slot, &mut out);
            for link in self.shown_outgoing(slot) {
                Effect::Link(Box::new(link)).encode(&mut out);
            }
            sink(&out);
        }
    }

    /// The vectors of a memory and of its words, from where they lie.
    fn put_vectors(&self, slot: u32, out: &mut Vec<u8>) {
        let precision = self.view.row_precision(slot).unwrap_or(self.view.precision());
        codec::put_vectors_head(out, self.view.records.windows(slot), self.dim().unwrap_or(0), precision);
        if let Some(rows) = &self.view.rows {
            self.view.records.each_row(slot, |row| rows.append_bytes(row, out));
        }
        let signs = self.view.records.signs(slot);
        codec::put_signs_head(out, signs.len() / size_of::<u64>());
        out.extend_from_slice(signs);
    }
}
