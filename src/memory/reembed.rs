//! Moving a space to vectors of another model, length or precision.
//!
//! The new vectors are staged beside the old ones, a few memories at a time, in rows of their own that nothing reads; recall
//! goes on by the old ones. Once every memory is staged, one effect exchanges the two, which takes pointers per chunk and not time per
//! memory. What changes meanwhile takes back what was staged of it: a new text, new vectors, another template. So "complete" is a
//! comparison of two numbers, and who stages has only to ask again what is missing until nothing is.
//!
//! What is staged is in files and on replicas, though nobody sees it: a replica that synchronises in the middle, or a server whose
//! append-only file was rewritten in the middle, is sent the rest and the exchange, and must come out equal. It is not in the
//! digest. Nothing here knows who stages: whoever finds something staged that nobody works on (a restarted or promoted primary)
//! drops it.
//!
//! Rejected: leaving the staged set out of files and carrying all vectors in the exchange (a unit of work as large as the space),
//! replacing vector by vector (queries of one model would meet vectors of two), and a second space beside the first (twice the
//! memory for all of it, and every change to be made twice).

use crate::effect::{Effect, Staged};
use crate::heat::Heat;
use crate::lexical::Language;
use crate::records::staged::Places;
use crate::rows::{Precision, RowCounts, Rows, Vector};
use crate::settings::Settings;
use crate::snapshot::{check_dimension, no_direction, normalised};
use crate::space::{Space, check_kind, check_vectors_of, vectors_cost};
use crate::tier::TIERS;
use crate::tokens::Signs;
use crate::{Error, MemoryId, Result, codec, limits};
use std::sync::Arc;

/// Memories that one step looks at, staged ones included.
const LOOKED_AT: usize = 4096;
/// Bytes of text that one step gives, a single memory being the least.
const TEXT_BYTES: usize = 256 * 1024;
/// Numbers that one step converts to another precision.
const CONVERTED: usize = 64 * 1024;

/// Vectors that are to take the place of those in force.
pub(crate) struct Staging {
    model: Option<Arc<str>>,
    pub rows: Rows,
    pub counts: RowCounts,
    pub places: Places,
    /// What they cost, per shelf and by heat.
    pub bytes: [usize; TIERS + 1],
    pub heats: [usize; 3],
}

impl Staging {
    fn new(model: Option<Arc<str>>, dim: usize, precision: Precision) -> Staging {
        Staging {
            model,
            rows: Rows::new(dim, precision),
            counts: RowCounts::default(),
            places: Places::default(),
            bytes: [0; TIERS + 1],
            heats: [0; 3],
        }
    }

    /// A clone that may be written to as well.
    pub(crate) fn copy(&self) -> Staging {
        Staging {
            model: self.model.clone(),
            rows: self.rows.clone(),
            counts: self.counts.clone(),
            places: self.places.copy(),
            bytes: self.bytes,
            heats: self.heats,
        }
    }

    /// What the staged vectors of a memory cost.
    pub(crate) fn cost(&self, slot: u32) -> usize {
        vectors_cost(
            self.places.windows(slot),
            self.rows.row_bytes(self.precision_of(slot)),
            self.places.signs(slot).len(),
        )
    }

    /// How the staged vectors of a memory are kept.
    fn precision_of(&self, slot: u32) -> Precision {
        let mut first = None;
        self.places.each_row(slot, |row| first = first.or(Some(self.rows.precision_of(row))));
        first.unwrap_or(self.rows.precision())
    }

    /// Counts what the staged vectors of a memory cost.
    pub(crate) fn add(&mut self, shelf: usize, heat: Heat, slot: u32) {
        let cost = self.cost(slot);
        self.bytes[shelf] += cost;
        self.heats[heat as usize] += cost;
    }

    /// Counts it no longer.
    pub(crate) fn take(&mut self, shelf: usize, heat: Heat, slot: u32) {
        let cost = self.cost(slot);
        self.bytes[shelf] -= cost;
        self.heats[heat as usize] -= cost;
    }

    /// The effect that began it.
    pub(crate) fn begun(&self) -> Effect {
        Effect::Stage {
            model: self.model.as_deref().map(String::from),
            dim: self.rows.dim() as u32,
            precision: self.rows.precision(),
        }
    }

    /// The staged vectors of a memory and of its words, from where they lie.
    pub(crate) fn put_vectors(&self, slot: u32, out: &mut Vec<u8>) {
        codec::put_vectors_head(out, self.places.windows(slot), self.rows.dim(), self.precision_of(slot));
        self.places.each_row(slot, |row| self.rows.append_bytes(row, out));
        let signs = self.places.signs(slot);
        codec::put_signs_head(out, signs.len() / size_of::<u64>());
        out.extend_from_slice(signs);
    }

    pub(crate) fn memory_usage(&self) -> usize {
        size_of::<Staging>() + self.counts.bytes + self.places.bytes()
    }

    fn remove(&mut self, slot: u32) {
        let (rows, counts) = (&mut self.rows, &mut self.counts);
        self.places.each_row(slot, |row| rows.kill(counts, row));
        self.places.remove(slot);
    }
}

/// Vectors, or an index of words, that are in force no longer. Dropping them frees much at once: best on another thread.
#[derive(Default)]
pub struct Retired(Vec<Box<dyn Send + Sync>>);

impl Retired {
    pub(crate) fn push(&mut self, value: Box<impl Send + Sync + 'static>) {
        self.0.push(value);
    }
}

/// How a space comes to other vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Its vectors are made coarser as they are; no model is needed, and what has no vector gets none.
    Convert(Precision),
    /// Every memory is embedded from its text.
    Embed {
        /// The model that must do it, if the space can only stay with its own.
        model: Option<String>,
        /// How the vectors are kept.
        precision: Precision,
    },
}

/// A memory that is to be embedded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The memory.
    pub id: MemoryId,
    /// The text to embed.
    pub text: String,
    /// The byte of the text at which the content begins.
    pub from: usize,
    /// If its words get vectors too, their language.
    pub words: Option<Language>,
    /// Whether the caller's own vectors give way to the embedding.
    pub own: bool,
}

/// What a model made of such a memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// The memory, as it was asked for.
    pub memory: Missing,
    /// One vector per window; none if the text cannot be embedded.
    pub windows: Vec<Vec<f32>>,
    /// The vectors of its words, in order; none if they are not wanted.
    pub words: Vec<Vec<f32>>,
}

impl Space {
    /// How the space moves when asked for a model, or another precision, or neither.
    ///
    /// Errors: a finer precision for vectors that no model can make anew.
    pub fn reembed_way(&self, other_model: bool, precision: Option<Precision>) -> Result<Way> {
        let now = self.view.precision();
        let Some(wanted) = precision.filter(|_| !other_model && self.view.rows.is_some()) else {
            return Ok(Way::Embed { model: None, precision: precision.unwrap_or(now) });
        };
        // From fine to coarse.
        if wanted as u8 >= now as u8 {
            return Ok(Way::Convert(wanted));
        }
        match self.model() {
            Some(model) => Ok(Way::Embed { model: Some(model.into()), precision: wanted }),
            None => Err(Error::new(format!(
                "the vectors of this space are the caller's own, kept as {now}: {wanted} cannot be made of them; name a MODEL to \
                 embed the texts, or store the vectors anew in another space"
            ))),
        }
    }

    /// Decides to stage vectors of this kind. What was staged is dropped.
    pub fn reembed_begin(&self, model: Option<&str>, dim: usize, precision: Precision) -> Result<Vec<Effect>> {
        check_kind(model, dim)?;
        Ok(vec![Effect::Stage { model: model.map(String::from), dim: dim as u32, precision }])
    }

    /// The number of memories whose vectors are staged; None if nothing is being staged.
    pub fn staged(&self) -> Option<usize> {
        self.staging.as_ref().map(|staging| staging.places.len())
    }

    /// Up to `limit` memories behind `cursor`, in the order of ids, that are not staged, and the cursor of the next step, which
    /// is [`MemoryId::ZERO`] at the end. Fewer may come before the end: a step is short.
    pub fn reembed_missing(&self, cursor: MemoryId, limit: usize) -> (Vec<Missing>, MemoryId) {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let words = self.stages_words();
        let cursor = self.walk_missing(cursor, |slot| {
            if let Some(missing) = self.missing_of(slot, words) {
                bytes += missing.text.len();
                found.push(missing);
            }
            found.len() < limit && bytes < TEXT_BYTES
        });
        (found, cursor)
    }

    /// Decides to stage the vectors that `model` made of these texts, one per window. What is gone or has another text by now is
    /// passed over.
    ///
    /// Errors: STALE if other vectors or none are being staged; vectors of the wrong length or without a direction.
    pub fn reembed_add(&self, model: &str, made: &[Embedded]) -> Result<Vec<Effect>> {
        let staging = self.staging.as_ref().filter(|staging| staging.model.as_deref() == Some(model));
        let Some(staging) = staging else {
            return Err(Error::with_code("STALE", "the space is not being moved to this model any longer: retry"));
        };
        let template = self.config().template.version();
        let mut staged = Vec::with_capacity(made.len());
        for Embedded { memory, windows, words } in made {
            let now = self.slot(memory.id).and_then(|slot| self.embedded_text(slot));
            if now.is_none_or(|(text, _)| text != memory.text) {
                continue;
            }
            let vector = |window: &Vec<f32>| {
                check_dimension(window.len(), staging.rows.dim())?;
                Ok(Vector::new(&normalised(window).ok_or_else(no_direction)?, staging.rows.precision()))
            };
            let vectors: Vec<Vector> = windows.iter().map(vector).collect::<Result<_>>()?;
            if words.len() > limits::TOKEN_VECTORS {
                return Err(Error::new(format!(
                    "{} word vectors: at most {} are accepted",
                    words.len(),
                    limits::TOKEN_VECTORS
                )));
            }
            words.iter().try_for_each(|word| check_dimension(word.len(), staging.rows.dim()))?;
            let signs = if self.stages_words() { Signs::new(words) } else { Signs::default() };
            check_vectors_of(&vectors, &signs, &staging.rows)?;
            staged.push(Staged {
                id: memory.id,
                template: if vectors.is_empty() { 0 } else { template },
                vectors,
                signs,
            });
        }
        Ok(staged.chunks(limits::STAGED).map(|staged| Effect::Staged(staged.to_vec())).collect())
    }

    /// Decides to stage the vectors of some memories behind `cursor` as they are, in the staged precision; gives the cursor of
    /// the next step, which is [`MemoryId::ZERO`] at the end.
    ///
    /// Errors: STALE if nothing is being staged, or vectors of another length.
    pub fn reembed_convert(&self, cursor: MemoryId) -> Result<(Vec<Effect>, MemoryId)> {
        let staging = self.staging.as_ref().filter(|staging| self.dim().is_none_or(|dim| dim == staging.rows.dim()));
        let Some(staging) = staging else {
            return Err(Error::with_code(
                "STALE",
                "the vectors of the space are not being converted any longer: retry",
            ));
        };
        let (mut staged, mut numbers) = (Vec::new(), 0);
        let cursor = self.walk_missing(cursor, |slot| {
            let as_kept = self.view.stored_vectors(slot);
            numbers += as_kept.len() * staging.rows.dim();
            let vectors = as_kept.into_iter().map(|vector| vector.coarsened(staging.rows.precision())).collect();
            let (template, signs) = (self.view.records.template(slot), self.stored_signs(slot));
            staged.push(Staged { id: self.view.id(slot), template, vectors, signs });
            numbers < CONVERTED && staged.len() < LOOKED_AT / 4
        });
        let effects = staged.chunks(limits::STAGED).map(|staged| Effect::Staged(staged.to_vec())).collect();
        Ok((effects, cursor))
    }

    /// Decides to put the staged vectors into force; None while a memory is missing.
    pub fn reembed_finish(&self) -> Option<Vec<Effect>> {
        (self.staged()? == self.len()).then(|| vec![Effect::Switch])
    }

    /// Decides to drop what is staged.
    pub fn reembed_cancel(&self) -> Vec<Effect> {
        self.staging.iter().map(|_| Effect::Unstage).collect()
    }

    /// What is in force no longer since the last call, to be dropped elsewhere.
    pub fn take_retired(&mut self) -> Option<Retired> {
        (!self.retired.0.is_empty()).then(|| std::mem::take(&mut self.retired))
    }

    /// Calls `f` with the slots behind the cursor that are not staged until it answers false, and gives the next cursor.
    fn walk_missing(&self, cursor: MemoryId, mut f: impl FnMut(u32) -> bool) -> MemoryId {
        let Some(staging) = &self.staging else { return MemoryId::ZERO };
        let mut last = cursor;
        let mut behind = self.ids.range_from(cursor.next(), |slot| self.view.id(slot));
        for slot in behind.by_ref().take(LOOKED_AT) {
            last = self.view.id(slot);
            if staging.places.template(slot).is_none() && !f(slot) {
                break;
            }
        }
        if behind.next().is_none() { MemoryId::ZERO } else { last }
    }

    /// A memory to be embedded for the vectors that are in force.
    pub(crate) fn missing(&self, slot: u32) -> Option<Missing> {
        self.missing_of(slot, self.config().lexical && self.takes_token_vectors())
    }

    fn missing_of(&self, slot: u32, words: bool) -> Option<Missing> {
        let (text, from) = self.embedded_text(slot)?;
        let own = self.view.records.windows(slot) > 0 && self.view.records.template(slot) == 0;
        let words = words.then_some(self.config().language);
        Some(Missing { id: self.view.id(slot), text, from, words, own })
    }

    /// The text that is embedded of a memory, and where in it the content begins.
    fn embedded_text(&self, slot: u32) -> Option<(String, usize)> {
        let record = self.view.records.record(slot)?;
        let at = self.view.records.at(slot);
        let content = record.content.text();
        let text = self.config().template.render(&content, record.speaker, at).into_owned();
        let content_at = text.len() - content.len();
        Some((text, content_at))
    }

    /// Whether the words of what is staged now get vectors: as for a store, by what is staged.
    fn stages_words(&self) -> bool {
        let staged = self.staging.as_ref().map_or(0, |staging| staging.places.counts.live);
        self.config().lexical && self.takes_token_vectors_beside(staged)
    }

    pub(crate) fn begin_staging(&mut self, model: Option<&str>, dim: usize, precision: Precision) -> Result<()> {
        check_kind(model, dim)?;
        self.drop_staged();
        self.staging = Some(Box::new(Staging::new(model.map(Arc::from), dim, precision)));
        Ok(())
    }

    pub(crate) fn stage_all(&mut self, staged: &[Staged]) -> Result<()> {
        let Some(staging) = &self.staging else {
            return Err(Error::new("staged vectors where nothing is being staged"));
        };
        for Staged { template, vectors, signs, .. } in staged {
            if *template != 0 && staging.model.is_none() {
                return Err(Error::new("an embedding among vectors that no model made"));
            }
            check_vectors_of(vectors, signs, &staging.rows)?;
        }
        for Staged { id, template, vectors, signs } in staged {
            let Some(slot) = self.slot(*id) else { continue };
            let (shelf, heat) = (self.shelf_of(slot), self.view.records.heat(slot));
            let Some(staging) = &mut self.staging else { continue };
            staging.take(shelf, heat, slot);
            staging.remove(slot);
            let rows: Vec<_> =
                vectors.iter().map(|vector| staging.rows.append(&mut staging.counts, slot, vector)).collect();
            staging.places.put(slot, *template, &rows, signs);
            staging.add(shelf, heat, slot);
        }
        Ok(())
    }

    /// Takes back what was staged of a memory that stands in no index at this moment.
    pub(crate) fn unstage_slot(&mut self, slot: u32) {
        if let Some(staging) = &mut self.staging {
            staging.remove(slot);
        }
    }

    /// Begins anew with vectors of the same kind.
    pub(crate) fn restage(&mut self) {
        if let Some(staging) = self.drop_staged() {
            self.staging = Some(Box::new(Staging::new(staging.0, staging.1, staging.2)));
        }
    }

    /// Drops what is staged and tells of which kind it was.
    pub(crate) fn drop_staged(&mut self) -> Option<(Option<Arc<str>>, usize, Precision)> {
        let staging = self.staging.take()?;
        let kind = (staging.model, staging.rows.dim(), staging.rows.precision());
        self.retired.push(Box::new((staging.rows, staging.places.into_signs())));
        Some(kind)
    }

    /// Puts the staged vectors into force.
    pub(crate) fn switch(&mut self) -> Result<usize> {
        let Some(staging) = self.staging.take() else {
            return Err(Error::new("a switch to staged vectors where nothing is being staged"));
        };
        let Staging { model, rows, counts, places, bytes, heats } = *staging;
        let memories = places.len();
        if self.config().precision != rows.precision() {
            let mut settings = Settings::clone(&self.view.settings);
            settings.precision = rows.precision();
            self.view.settings = Arc::new(settings);
        }
        let signs = self.view.records.show(&mut self.records, places);
        self.view.model = model;
        self.retired.push(Box::new((self.view.rows.replace(rows), signs)));
        self.view.rows_era += 1;
        self.rows = counts;
        for (shelf, vectors) in self.shelves.iter_mut().zip(bytes) {
            shelf.bytes = shelf.bytes - shelf.vectors + vectors;
            shelf.vectors = vectors;
        }
        for (heat, vectors) in self.heats.iter_mut().zip(heats) {
            heat.bytes = heat.bytes - heat.vectors + vectors;
            heat.vectors = vectors;
        }
        let made: Vec<MemoryId> = std::mem::take(&mut self.awaiting).into_iter().collect();
        for id in made {
            let Some(slot) = self.slot(id) else { continue };
            if self.view.records.windows(slot) > 0 {
                self.view.records.set_awaits(slot, false);
            } else {
                self.awaiting.insert(id);
            }
        }
        Ok(memories)
    }
}
