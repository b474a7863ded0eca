//! Heat: what is neither young nor used takes less room.
//!
//! A memory is *hot*, *warm* or *cold*. Hot is as it was stored. A warm one has vectors of bytes at most; a cold one vectors of half-bytes, its text packed
//! (see `packing`), and of the vectors of its words [`COLD_WORDS`] instead of one each. All are found, read, filtered and exported alike.
//!
//! **The rule** is looked at every `heat-interval` seconds. A memory stays hot while it is younger than `hot-age` or was used `hot-uses` times since the last look, warm by
//! `warm-age` and `warm-uses` likewise, and is cold otherwise; a cold one that was used at all is warm again. It is as old as its stay in its tier: what
//! rises begins anew.
//!
//! **What is coarse was fine once, and can be again.** Cooling a vector cannot be undone by what is left of it, only by the model that made it, from the text. So
//! only vectors of a model become coarser; what a caller brought stays to the last bit, whatever its heat. A memory that warms up has its plain text
//! at once, and its vectors when they have been made anew ([`Space::revive`]); until then it says so: its `precision` is shown wherever it is not the space's.
//!
//! **"Used since the last look"** is the count of uses less what it was then, kept as two bytes a memory beside the space ([`Seen`]), with the time of that look. It is not saved:
//! who has no such look, a server that has just started or been promoted, takes what was last used within the interval to have been used as often as it ever was. Rejected: a
//! column of counts (four bytes a memory, in snapshots and files, for what matters to one server), and the time of the last use alone (once would be as good as
//! often).
//!
//! **Decided once.** A [`HeatPlan`] is made on any thread, over a snapshot; [`Space::decide_heat`] turns one unit of it into an effect on the primary, which says nothing but which
//! memories have which heat. What that means is worked out by everybody from what they hold: the numbers of a coarse vector follow from those of
//! the fine one, in whole numbers and in an order that does not depend on the processor. So a unit is a few dozen bytes to replicate, and cools some memories
//! in some 20 µs each. Under pressure the primary cools without a plan, oldest first ([`Space::cool`]).
//!
//! **Why these forms.** On LoCoMo, evidence recall@10 of the defaults is .815; with all memories cold .813. Half-bytes cost it less than .001; of
//! the word vectors the mean of all takes 48 bytes instead of 634 and keeps most of what they are worth. Rejected: dropping word vectors (.803), those of the rarest
//! words alone (three of them .792), fewer dimensions of each (a third of them .809 for twice the bytes), codes from a codebook trained on the space (product quantisation at 8
//! bytes a word .796, 1,024 centroids .809 and 48 KiB a space).

use crate::effect::{Effect, Patch};
use crate::entry::Entry;
use crate::packing::{self, Dictionary};
use crate::reembed::{Embedded, Missing};
use crate::rows::{Precision, Vector};
use crate::snapshot::{Snapshot, check_dimension, no_direction, normalised};
use crate::space::{Space, check_vectors_of, is_hidden};
use crate::tokens::Signs;
use crate::{Error, MemoryId, Millis, Result, limits};
use std::fmt;
use std::sync::Arc;

/// Word vectors that a cold memory keeps: each the mean of as many neighbours; one is the mean of all.
pub(crate) const COLD_WORDS: usize = 1;
/// Memories of a unit, and bytes of their texts and rows of their vectors, a single memory being the least: what the main thread does in well under half a millisecond.
const UNIT: usize = 4;
const UNIT_BYTES: usize = 32 * 1024;
const UNIT_ROWS: usize = 32;
/// Memories that a step of [`Space::cool`] looks at.
const LOOKED_AT: usize = 1024;

/// How readily a memory lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heat {
    /// As it was stored.
    #[default]
    Hot,
    /// Vectors of bytes at most.
    Warm,
    /// Vectors of half-bytes, packed text.
    Cold,
}

impl Heat {
    /// All of them, in the order of their codes in files.
    pub const ALL: [Heat; 3] = [Heat::Hot, Heat::Warm, Heat::Cold];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Heat::Hot => "hot",
            Heat::Warm => "warm",
            Heat::Cold => "cold",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Heat> {
        Heat::ALL.into_iter().find(|heat| heat.name() == name)
    }

    /// How the vectors of such a memory are kept in a space of this precision, if a model made them.
    fn precision(self, space: Precision) -> Precision {
        match self {
            Heat::Hot => space,
            Heat::Warm => space.coarser(Precision::I8),
            Heat::Cold => Precision::I4,
        }
    }
}

impl fmt::Display for Heat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many memories of a heat there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeatStats {
    /// Memories.
    pub count: usize,
    /// Their bytes, with their indexes and vectors.
    pub bytes: usize,
    /// Bytes of that which are vectors, and which words take, as on a shelf.
    pub(crate) vectors: usize,
    pub(crate) words: usize,
}

/// The uses of memories as they were at a time.
#[derive(Debug, Default)]
pub struct Seen {
    /// When; 0 = never.
    at: Millis,
    /// The lowest bits of the count by slot: more than 65,535 uses between two looks are taken for fewer.
    uses: Vec<u16>,
}

impl Seen {
    pub(crate) fn bytes(&self) -> usize {
        self.uses.capacity() * size_of::<u16>()
    }
}

/// Memories that are to have a heat.
#[derive(Debug, Clone)]
pub struct HeatUnit {
    to: Heat,
    /// When that was decided.
    at: Millis,
    /// Each with the heat that it had.
    memories: Vec<(MemoryId, Heat)>,
}

/// What a look at all memories found.
#[derive(Debug, Default)]
pub struct HeatPlan {
    /// A dictionary to begin with.
    dictionary: Option<Box<[u8]>>,
    /// What is to be done, unit by unit.
    pub units: Vec<HeatUnit>,
    /// Memories whose vectors are coarser than their heat asks for, once the units are done.
    pub coarse: Vec<MemoryId>,
    /// The uses that were seen: for [`Space::set_seen`].
    pub seen: Seen,
}

impl HeatPlan {
    /// The effect to begin with: a dictionary, where one is due.
    pub fn begin(&mut self) -> Vec<Effect> {
        self.dictionary.take().map(Effect::Dictionary).into_iter().collect()
    }
}

/// Who gathers units.
struct Gatherer<'a> {
    view: &'a Snapshot,
    at: Millis,
    units: Vec<HeatUnit>,
    /// By heat, what is being gathered.
    open: [Open; 3],
}

/// A unit that is being gathered.
#[derive(Default)]
struct Open {
    memories: Vec<(MemoryId, Heat)>,
    /// Bytes of their texts.
    bytes: usize,
    rows: usize,
}

impl Gatherer<'_> {
    fn add(&mut self, to: Heat, slot: u32, from: Heat) {
        let records = &self.view.records;
        let text = records.record(slot).map_or(0, |record| record.content.len());
        let rows = records.windows(slot);
        let open = &self.open[to as usize];
        let full = open.memories.len() == UNIT || open.bytes + text > UNIT_BYTES || open.rows + rows > UNIT_ROWS;
        if full && !open.memories.is_empty() {
            self.close(to);
        }
        let open = &mut self.open[to as usize];
        open.memories.push((self.view.id(slot), from));
        open.bytes += text;
        open.rows += rows;
    }

    fn close(&mut self, to: Heat) {
        let Open { memories, .. } = std::mem::take(&mut self.open[to as usize]);
        if !memories.is_empty() {
            self.units.push(HeatUnit { to, at: self.at, memories });
        }
    }
}

impl Snapshot {
    /// How often a memory was used since it was looked at.
    fn used_since(&self, now: Millis, seen: &Seen, slot: u32) -> u64 {
        let (accessed, uses) = self.records.usage(slot);
        if seen.at == 0 {
            let within = accessed.saturating_add(self.settings.heat_interval.saturating_mul(1000)) >= now;
            return if within { uses.into() } else { 0 };
        }
        if accessed <= seen.at {
            return 0;
        }
        // It was not there then: its place may have been another's.
        if self.records.created(slot) >= seen.at {
            return uses.into();
        }
        let before = seen.uses.get(slot as usize).copied().unwrap_or(0);
        u64::from((uses as u16).wrapping_sub(before)).max(1)
    }

    /// The heat that a memory should have.
    fn due_heat(&self, now: Millis, seen: &Seen, slot: u32) -> Heat {
        let settings = &self.settings;
        let age = now.saturating_sub(self.records.created(slot).max(self.records.entered(slot)));
        let used = self.used_since(now, seen, slot);
        if age < settings.hot_age.saturating_mul(1000) || used >= settings.hot_uses {
            Heat::Hot
        } else if age < settings.warm_age.saturating_mul(1000)
            || used >= settings.warm_uses
            // Any use warms up what is cold.
            || used > 0 && self.records.heat(slot) == Heat::Cold
        {
            Heat::Warm
        } else {
            Heat::Cold
        }
    }

    /// Whether a memory has a form that it should not have at its heat, and can be given the right one with what there is.
    fn is_unformed(&self, heat: Heat, slot: u32, dictionary: Option<&Dictionary>) -> bool {
        let wanted = heat.precision(self.precision());
        let coarser = |precision: Precision| (precision as u8) < wanted as u8;
        if self.records.template(slot) != 0
            && (self.row_precision(slot).is_some_and(coarser)
                || heat == Heat::Cold
                    && Signs::read(self.records.signs(slot)).is_finer(COLD_WORDS, self.dim().unwrap_or(0)))
        {
            return true;
        }
        let Some(content) = self.records.record(slot).map(|record| record.content) else { return false };
        match heat {
            Heat::Cold if self.settings.compress => {
                !content.is_packed() && dictionary.is_some_and(|dictionary| dictionary.pack(&content.text()).is_some())
            }
            _ => content.is_packed(),
        }
    }

    /// How the vectors of a memory are kept; None without any.
    pub(crate) fn row_precision(&self, slot: u32) -> Option<Precision> {
        let rows = self.rows.as_ref()?;
        let mut first = None;
        self.records.each_row(slot, |row| first = first.or(Some(rows.precision_of(row))));
        first
    }

    /// Whether the vectors of a memory are coarser than its heat asks for, and its text can give it others.
    fn is_coarse(&self, slot: u32, heat: Heat) -> bool {
        let wanted = heat.precision(self.precision());
        self.records.template(slot) != 0 && self.row_precision(slot).is_some_and(|is| is as u8 > wanted as u8)
    }

    /// Whether nothing is decided about its heat: its vectors are still to be made, or nobody sees it.
    fn has_no_heat(&self, slot: u32) -> bool {
        self.records.awaits(slot) || is_hidden(self, slot)
    }

    /// Looks at all memories: which should be hotter or colder. `seen` is the last such look. Trains a dictionary if one is due, which takes some tenths of a second: for
    /// a thread of its own.
    pub fn plan_heat(&self, now: Millis, seen: &Seen) -> HeatPlan {
        let mut plan = HeatPlan::default();
        let mut text = 0;
        let slots: Vec<(u32, Heat)> = self
            .live(now)
            .filter(|slot| !self.has_no_heat(*slot))
            .map(|slot| {
                text += self.records.record(slot).map_or(0, |record| record.content.len());
                (slot, self.due_heat(now, seen, slot))
            })
            .collect();
        if self.settings.compress && slots.iter().any(|(_, heat)| *heat == Heat::Cold) {
            plan.dictionary = self.new_dictionary(text, &slots).map(Vec::into_boxed_slice);
        }
        let new = plan.dictionary.as_ref().and_then(|bytes| Dictionary::new(bytes).ok());
        let dictionary = new.as_ref().or(self.records.dictionaries().last().map(|last| &**last));
        let mut gatherer = Gatherer { view: self, at: now, units: Vec::new(), open: Default::default() };
        for (slot, heat) in &slots {
            let is = self.records.heat(*slot);
            if is != *heat || self.is_unformed(*heat, *slot, dictionary) {
                gatherer.add(*heat, *slot, is);
            }
            if self.is_coarse(*slot, *heat) {
                plan.coarse.push(self.id(*slot));
            }
        }
        Heat::ALL.into_iter().for_each(|heat| gatherer.close(heat));
        plan.units = gatherer.units;
        let uses = (0..self.records.slots()).map(|slot| self.records.usage(slot as u32).1 as u16).collect();
        plan.seen = Seen { at: now, uses };
        plan
    }

    /// A dictionary, if there is none for this much text and room for one.
    fn new_dictionary(&self, text: usize, slots: &[(u32, Heat)]) -> Option<Vec<u8>> {
        let worth = packing::worth(text)?;
        let known = self.records.dictionaries();
        let last = known.last().map_or(0, |last| last.bytes().len());
        if known.len() >= limits::DICTIONARIES || worth < last.saturating_mul(packing::GROWN) {
            return None;
        }
        let every = packing::sparseness(text);
        let sample =
            slots.iter().step_by(every).filter_map(|(slot, _)| Some(self.records.record(*slot)?.content.text()));
        packing::train(text, sample)
    }
}

impl Space {
    /// The last look at all memories.
    pub fn seen(&self) -> Arc<Seen> {
        self.seen.clone()
    }

    /// Notes a look at all memories.
    pub fn set_seen(&mut self, seen: Seen) {
        self.seen = Arc::new(seen);
    }

    /// Memories and their bytes by heat.
    pub fn heats(&self) -> [HeatStats; 3] {
        self.heats
    }

    /// How the vectors of a memory are kept; None without any.
    pub fn precision_of(&self, id: MemoryId) -> Option<Precision> {
        self.view.row_precision(self.slot(id)?)
    }

    /// Decides to give memories the heat that was planned. What has gone, was used since, or has another heat by now is passed over.
    pub fn decide_heat(&self, now: Millis, unit: &HeatUnit) -> Vec<Effect> {
        let due = |(id, from): &(MemoryId, Heat)| {
            let slot = self.standing(now, *id).filter(|slot| !self.view.has_no_heat(*slot))?;
            let used = self.view.records.usage(slot).0 > unit.at;
            (self.view.records.heat(slot) == *from && !(used && unit.to > *from)).then_some(*id)
        };
        let ids: Vec<MemoryId> = unit.memories.iter().filter_map(due).collect();
        if ids.is_empty() { Vec::new() } else { vec![Effect::Heat { to: unit.to, ids }] }
    }

    /// Decides to cool memories without a plan, oldest first, those used since the last look spared; behind `cursor`, in one short step. Gives the cursor of the
    /// next, which is [`MemoryId::ZERO`] at the end.
    pub fn cool(&self, now: Millis, cursor: MemoryId) -> (Vec<Effect>, MemoryId) {
        let mut gatherer = Gatherer { view: &self.view, at: now, units: Vec::new(), open: Default::default() };
        let mut last = cursor;
        let mut behind = self.ids.range_from(cursor.next(), |slot| self.view.id(slot));
        for slot in behind.by_ref().take(LOOKED_AT) {
            last = self.view.id(slot);
            let heat = self.view.records.heat(slot);
            let spared = self.view.has_no_heat(slot) || self.view.used_since(now, &self.seen, slot) > 0;
            if heat == Heat::Cold || spared || self.view.records.is_expired(slot, now) {
                continue;
            }
            gatherer.add(Heat::Cold, slot, heat);
            if gatherer.open[Heat::Cold as usize].memories.len() == UNIT || !gatherer.units.is_empty() {
                break;
            }
        }
        gatherer.close(Heat::Cold);
        let next = if behind.next().is_none() { MemoryId::ZERO } else { last };
        (gatherer.units.iter().flat_map(|unit| self.decide_heat(now, unit)).collect(), next)
    }

    /// Gives memories a heat: see [`Effect::Heat`].
    pub(crate) fn set_heat(&mut self, to: Heat, ids: &[MemoryId]) -> usize {
        let mut changed = 0;
        for id in ids {
            let Some((slot, entry)) = self.slot(*id).and_then(|slot| Some((slot, self.view.records.entry(slot)?)))
            else {
                continue;
            };
            self.take_cost(slot);
            // What is staged for it counts by heat too.
            let (shelf, from) = (self.shelf_of(slot), self.view.records.heat(slot));
            if let Some(staging) = &mut self.staging {
                staging.take(shelf, from, slot);
                staging.add(shelf, to, slot);
            }
            let entry = Entry { heat: to, ..entry };
            self.view.records.write(&mut self.records, slot, &entry);
            if entry.template != 0 {
                self.coarsen(slot, to);
            }
            self.add_cost(slot);
            changed += 1;
        }
        changed
    }

    /// Makes the vectors of a memory as coarse as its heat has them; what is coarser already stays.
    fn coarsen(&mut self, slot: u32, to: Heat) {
        let precision = to.precision(self.view.precision());
        if self.view.row_precision(slot).is_some_and(|is| (is as u8) < precision as u8) {
            let vectors: Vec<Vector> =
                self.stored_vectors(slot).into_iter().map(|vector| vector.coarsened(precision)).collect();
            self.kill_all(slot);
            self.append_all(slot, &vectors);
        }
        if to == Heat::Cold {
            let (signs, dim) = (self.stored_signs(slot), self.dim().unwrap_or(0));
            if signs.is_finer(COLD_WORDS, dim) {
                self.view.records.set_signs(&mut self.records, slot, &signs.coarsened(COLD_WORDS, dim));
            }
        }
    }

    /// Takes in a dictionary: see [`Effect::Dictionary`].
    pub(crate) fn add_dictionary(&mut self, bytes: &[u8]) -> Result<()> {
        if self.view.records.dictionaries().len() >= limits::DICTIONARIES {
            return Err(Error::new(format!("a space has at most {} dictionaries", limits::DICTIONARIES)));
        }
        self.view.records.add_dictionary(Dictionary::new(bytes)?);
        Ok(())
    }

    /// Of these memories those whose vectors are coarser than their heat asks for, to be embedded.
    pub fn coarse_texts(&self, now: Millis, ids: &[MemoryId]) -> Vec<Missing> {
        let coarse =
            |slot: &u32| self.view.is_coarse(*slot, self.view.records.heat(*slot)) && !self.view.has_no_heat(*slot);
        let slots = ids.iter().filter_map(|id| self.standing(now, *id)).filter(coarse);
        slots.filter_map(|slot| self.missing(slot)).collect()
    }

    /// Decides to give memories that have warmed up the vectors that `model` made of their texts. What has gone, cooled again or has another text by now is
    /// passed over.
    ///
    /// Errors: vectors that do not fit the space.
    pub fn revive(&self, now: Millis, model: &str, made: Vec<Embedded>) -> Result<Vec<Effect>> {
        if self.model() != Some(model) {
            return Ok(Vec::new());
        }
        let mut effects = Vec::with_capacity(made.len());
        for Embedded { memory, windows, words } in made {
            let Some(slot) = self.standing(now, memory.id) else { continue };
            let heat = self.view.records.heat(slot);
            let same = self.missing(slot).is_some_and(|now| now.text == memory.text);
            if !same || !self.view.is_coarse(slot, heat) || windows.is_empty() {
                continue;
            }
            let Some(rows) = &self.view.rows else { continue };
            let precision = heat.precision(rows.precision());
            let vector = |window: &Vec<f32>| {
                check_dimension(window.len(), rows.dim())?;
                Ok(Vector::new(&normalised(window).ok_or_else(no_direction)?, precision))
            };
            let vectors: Vec<Vector> = windows.iter().map(vector).collect::<Result<_>>()?;
            words.iter().try_for_each(|word| check_dimension(word.len(), rows.dim()))?;
            let signs = Signs::new(&words);
            check_vectors_of(&vectors, &signs, rows)?;
            let patch = Patch { vectors: Some((self.config().template.version(), vectors, signs)), ..Patch::default() };
            effects.push(Effect::Patch { id: memory.id, patch: Box::new(patch) });
        }
        Ok(effects)
    }
}
