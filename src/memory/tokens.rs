//! Word vectors: what the words of a memory mean where they stand, one bit per dimension.
//!
//! The pass that gives a text its vector gives every token one too, before they are averaged away. The mean of a word's tokens says what
//! the word means in its sentence, and comparing a question's words with a memory's, each with the one nearest to it, tells
//! memories apart that lie side by side as wholes (late interaction; Khattab and Zaharia 2020). Only the first few dozen candidates of a recall are
//! compared so, and for that the signs of the dimensions suffice: 48 bytes per word at 384 dimensions where floats take 1,536.
//!
//! A memory keeps at most [`WORDS`] of them, its content's words that are no stop words; of a longer text neighbours are averaged.
//!
//! Rejected: tokens instead of words (twice as many, nothing gained), a learned or random projection with bytes or half-bytes (more
//! bytes for the same recall, and a matrix to ship), word vectors in the index itself (a hundred times the rows).

use crate::kernels;
use crate::{Error, Result, limits};

/// Word vectors of one memory.
pub(crate) const WORDS: usize = 32;

/// A word of a question.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryWord {
    /// Its term: see [`crate::words`].
    pub term: u32,
    /// What it means there, of any length but zero.
    pub vector: Vec<f32>,
}

/// The signs of a memory's word vectors, `stride` words of 64 for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signs(Box<[u64]>);

/// Words of 64 signs of one vector.
fn stride(dim: usize) -> usize {
    dim.div_ceil(64)
}

impl Signs {
    /// Of word vectors in the order of the text: at most [`WORDS`], by averaging neighbours.
    pub(crate) fn new(words: &[Vec<f32>]) -> Signs {
        let n = words.len();
        let groups = n.min(WORDS);
        let mut signs = Vec::new();
        for group in 0..groups {
            let members = words.get((group * n).div_ceil(groups)..((group + 1) * n).div_ceil(groups)).unwrap_or(&[]);
            let mut sum = vec![0.0f32; members.first().map_or(0, Vec::len)];
            for member in members {
                // Each counts the same, however long.
                let length = member.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                sum.iter_mut().zip(member).for_each(|(sum, x)| *sum += x / length);
            }
            let positive =
                |bits: &[f32]| bits.iter().enumerate().fold(0, |word, (bit, x)| word | u64::from(*x > 0.0) << bit);
            signs.extend(sum.chunks(64).map(positive));
        }
        Signs(signs.into())
    }

    /// Whether there are more than those of `words` vectors of `dim` dimensions.
    pub(crate) fn is_finer(&self, words: usize, dim: usize) -> bool {
        self.0.len() > words * stride(dim)
    }

    /// At most so many: of neighbours the signs that most of them have.
    pub(crate) fn coarsened(&self, words: usize, dim: usize) -> Signs {
        let stride = stride(dim).max(1);
        let n = self.0.len() / stride;
        let groups = n.min(words);
        let mut signs = Vec::with_capacity(groups * stride);
        for group in 0..groups {
            let members = (group * n).div_ceil(groups)..((group + 1) * n).div_ceil(groups);
            for word in 0..stride {
                let mut counts = [0usize; 64];
                for signs in members.clone().filter_map(|member| self.0.get(member * stride + word)) {
                    counts.iter_mut().enumerate().for_each(|(bit, count)| *count += (signs >> bit & 1) as usize);
                }
                let most = |(bit, count): (usize, &usize)| u64::from(2 * count > members.len()) << bit;
                signs.push(counts.iter().enumerate().map(most).fold(0, |signs, bit| signs | bit));
            }
        }
        Signs(signs.into())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// Checks that they are those of vectors of `dim` dimensions, at most [`WORDS`].
    pub(crate) fn check(&self, dim: usize) -> Result<()> {
        if !self.0.len().is_multiple_of(stride(dim).max(1)) || self.0.len() > WORDS * stride(dim) {
            return Err(Error::new(format!(
                "{} signs are not those of up to {WORDS} words of {dim} dimensions",
                self.0.len() * 64
            )));
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        self.0.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }

    pub(crate) fn read(bytes: &[u8]) -> Signs {
        Signs(bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    /// The most bytes that the signs of a memory take.
    pub(crate) const fn max_words() -> usize {
        WORDS * limits::DIMENSIONS.div_ceil(64)
    }
}

/// The words of a question, ready to be compared with signs.
pub(crate) struct Question {
    words: Vec<Word>,
    weight: f64,
    /// Scratch for the signs of a memory.
    rows: Vec<u64>,
}

/// A word of a question as whole numbers: exact, the same on every processor, and several times faster than floats. What rounding to eight bits
/// loses is little beside what the memory's one bit has lost.
struct Word {
    /// Padded to whole words of signs.
    codes: Vec<i8>,
    /// What a product with signs has to be multiplied with to be the cosine.
    scale: f64,
    weight: f64,
}

impl Word {
    /// None for a vector without a direction.
    fn new(vector: &[f32], weight: f64) -> Option<Word> {
        let largest = vector.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        if !(largest > 0.0 && largest.is_finite()) {
            return None;
        }
        let mut codes: Vec<i8> = vector.iter().map(|x| kernels::rounded(x / largest * 127.0) as i8).collect();
        let square: i64 = codes.iter().map(|code| i64::from(*code) * i64::from(*code)).sum();
        codes.resize(stride(vector.len()) * 64, 0);
        // A vector of ones and minus ones is as long as the root of its dimensions.
        Some(Word { codes, scale: 1.0 / (square as f64 * vector.len() as f64).sqrt(), weight })
    }
}

impl Question {
    /// From words and the weight of each; None if none of them weighs anything.
    pub(crate) fn new(words: &[QueryWord], dim: usize, weight: impl Fn(u32) -> f64) -> Option<Question> {
        let words = words.iter().filter(|word| word.vector.len() == dim);
        let words: Vec<Word> = words.filter_map(|word| Word::new(&word.vector, weight(word.term))).collect();
        let weight = words.iter().map(|word| word.weight).sum();
        (weight > 0.0).then_some(Question { words, weight, rows: Vec::new() })
    }

    /// How well a memory's words answer the question's: the mean over the question's words, by weight, of the best cosine.
    /// None without signs.
    pub(crate) fn compare(&mut self, signs: &[u8]) -> Option<f64> {
        self.rows.clear();
        self.rows.extend(signs.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)));
        let mut sum = 0.0;
        for word in &self.words {
            sum += word.weight * word.scale * f64::from(kernels::best_sign_dot(&word.codes, &self.rows)?);
        }
        Some(sum / self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_nearest_to_its_own_signs() {
        let vector =
            |seed: usize| -> Vec<f32> { (0..100).map(|n| ((n * 37 + seed * 101) % 89) as f32 - 44.0).collect() };
        let signs = Signs::new(&[vector(1), vector(2), vector(3)]);
        assert_eq!(signs.len(), 6);
        assert!(signs.check(100).is_ok() && signs.check(200).is_err());
        let mut bytes = Vec::new();
        signs.write(&mut bytes);
        assert_eq!(Signs::read(&bytes), signs);
        let ask = |seeds: &[usize]| {
            let words: Vec<QueryWord> =
                seeds.iter().map(|seed| QueryWord { term: *seed as u32, vector: vector(*seed) }).collect();
            Question::new(&words, 100, f64::from).unwrap().compare(&bytes).unwrap()
        };
        // The exact mean cosine between a vector and the signs nearest to it.
        let exact = |seed: usize| {
            let v = vector(seed);
            let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
            f64::from(v.iter().map(|x| if *x > 0.0 { *x } else { -*x }).sum::<f32>() / length) / 10.0
        };
        assert!((ask(&[2]) - exact(2)).abs() < 1e-3);
        assert!((ask(&[1, 3]) - (exact(1) + 3.0 * exact(3)) / 4.0).abs() < 1e-3);
        assert!(ask(&[2]) > ask(&[7]) + 0.2);
        assert!(Question::new(&[], 100, |_| 1.0).is_none());
        assert_eq!(
            Question::new(&[QueryWord { term: 1, vector: vector(1) }], 100, |_| 1.0).unwrap().compare(&[]),
            None
        );
    }

    #[test]
    fn coarse_signs_are_those_of_most() {
        let signs = Signs([0b1111, 1, 0b0011, 1, 0b0001, 0, u64::MAX, 7].into());
        assert!(signs.is_finer(2, 100) && !signs.is_finer(4, 100));
        assert_eq!(signs.coarsened(1, 100), Signs([0b0011, 1].into()), "of four, half is not most");
        assert_eq!(signs.coarsened(2, 100), Signs([0b0011, 1, 0b0001, 0].into()));
        assert_eq!(signs.coarsened(9, 100), signs);
        assert!(Signs::default().coarsened(2, 100).is_empty());
    }

    #[test]
    fn long_texts_are_averaged() {
        let words: Vec<Vec<f32>> = (0..100).map(|n| vec![if n < 50 { 1.0 } else { -1.0 }; 64]).collect();
        let signs = Signs::new(&words);
        assert_eq!(signs.len(), WORDS);
        assert_eq!((signs.0[0], signs.0[WORDS - 1]), (u64::MAX, 0));
        assert!(Signs::new(&[]).is_empty());
    }
}
