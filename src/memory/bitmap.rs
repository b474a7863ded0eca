//! A set of slots: one bit each, 64 to a word.

/// A set of slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// No slot of `0..slots`.
    pub(crate) fn none(slots: usize) -> Bitmap {
        Bitmap { words: vec![0; slots.div_ceil(64)] }
    }

    /// From words, bit 0 of word 0 being slot 0.
    pub(crate) fn from_words(words: Vec<u64>) -> Bitmap {
        Bitmap { words }
    }

    /// Whether a slot is in it.
    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.words.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    #[allow(dead_code, reason = "tests and measurements make sets by hand")]
    /// Puts a slot into it; one behind the last changes nothing.
    pub(crate) fn insert(&mut self, slot: u32) {
        if let Some(word) = self.words.get_mut(slot as usize / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Takes a slot out of it.
    pub(crate) fn remove(&mut self, slot: u32) {
        if let Some(word) = self.words.get_mut(slot as usize / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// How many slots are in it.
    pub(crate) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The slots in it, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().enumerate().flat_map(|(n, &word)| Ones(word).map(move |bit| n as u32 * 64 + bit))
    }
}

/// The places of the ones in a word, ascending.
struct Ones(u64);

impl Iterator for Ones {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let bit = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (bit < 64).then_some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in() {
        let slots = [0, 1, 63, 64, 127, 199];
        let mut bitmap = Bitmap::none(200);
        slots.iter().for_each(|slot| bitmap.insert(*slot));
        bitmap.insert(100);
        bitmap.insert(5000);
        bitmap.remove(100);
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), slots);
        assert_eq!(bitmap.count(), slots.len());
        assert!(bitmap.contains(64) && !bitmap.contains(65) && !bitmap.contains(5000));
        assert_eq!(Bitmap::from_words(vec![0b101]).iter().collect::<Vec<_>>(), [0, 2]);
    }
}
