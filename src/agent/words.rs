//! Word vectors: from what an encoder says of tokens to what a space keeps of words.
//!
//! A word's vector is the mean of its tokens' vectors, each made one long. Of a text only the words that say something get one
//! (`engram_memory::words`). They are rounded to bytes at once, wherever they go, so that a vector out of a cache is the one that was made.

use engram_memory::{Language, QueryWord, words};
use std::ops::Range;

/// The tokens of one window of a text.
pub struct WindowTokens<'a> {
    /// The bytes of the text that each token stands for; empty for the edges of the window.
    pub spans: &'a [Range<usize>],
    /// Their vectors, one after the other.
    pub vectors: &'a [f32],
}

/// A word's term and vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordVector {
    term: u32,
    codes: Box<[i8]>,
}

impl WordVector {
    /// The word as a recall takes it.
    pub fn query_word(&self) -> QueryWord {
        QueryWord { term: self.term, vector: self.vector() }
    }

    /// The vector, of any length.
    pub fn vector(&self) -> Vec<f32> {
        self.codes.iter().map(|code| f32::from(*code)).collect()
    }

    /// The bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.codes.len() + size_of::<WordVector>()
    }
}

/// The vectors of the words of `text` that begin at or behind byte `from`, in order, from the tokens of its windows.
pub fn word_vectors(text: &str, from: usize, language: Language, windows: &[WindowTokens]) -> Vec<WordVector> {
    let content = text.get(from..).unwrap_or("");
    let mut words: Vec<(Range<usize>, u32, Vec<f32>)> = words(content, language)
        .into_iter()
        .map(|word| (word.range.start + from..word.range.end + from, word.term, Vec::new()))
        .collect();
    for window in windows {
        let dim = window.vectors.len() / window.spans.len().max(1);
        for (span, vector) in window.spans.iter().zip(window.vectors.chunks_exact(dim.max(1))) {
            // Words do not overlap and are in order: the last that begins before the token's end.
            let at = words.partition_point(|(word, ..)| word.start < span.end);
            let Some((word, _, sum)) = at.checked_sub(1).and_then(|at| words.get_mut(at)) else { continue };
            if span.is_empty() || span.start >= word.end {
                continue;
            }
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            sum.resize(dim, 0.0);
            sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x / length);
        }
    }
    let whole = words.into_iter().filter(|(_, _, sum)| sum.iter().any(|x| *x != 0.0));
    whole.map(|(_, term, sum)| WordVector { term, codes: rounded(&sum) }).collect()
}

/// A vector as bytes: its largest part becomes 127.
fn rounded(vector: &[f32]) -> Box<[i8]> {
    let largest = vector.iter().fold(0.0f32, |largest, x| largest.max(x.abs())).max(f32::MIN_POSITIVE);
    // In range by the division, and `as` saturates.
    vector.iter().map(|x| (x / largest * 127.0).round() as i8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_the_mean_of_its_tokens() {
        let text = "On Monday, Ann said: The sardines were grilled";
        let from = text.find("The").unwrap_or(0);
        let (fish, grilled) = (text.find("sardines").unwrap_or(0), text.find("grilled").unwrap_or(0));
        let spans = [0..0, 3..9, fish..fish + 3, fish + 3..fish + 8, grilled..grilled + 7, 46..46];
        let vectors = [9.0, 9.0, 5.0, 5.0, 4.0, 0.0, 0.0, 2.0, -3.0, 0.0, 9.0, 9.0];
        let words = word_vectors(text, from, Language::English, &[WindowTokens { spans: &spans, vectors: &vectors }]);
        // Neither what stands in front of the content nor stop words.
        assert_eq!(words.iter().map(WordVector::vector).collect::<Vec<_>>(), [vec![127.0, 127.0], vec![-127.0, 0.0]]);
        let terms = engram_memory::words("sardines grilled", Language::English);
        assert_eq!(
            words.iter().map(|word| word.term).collect::<Vec<_>>(),
            terms.iter().map(|word| word.term).collect::<Vec<_>>()
        );
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a window of one token has one span")]
    fn a_word_cut_by_windows_and_texts_without_words() {
        let window = |spans: &'static [Range<usize>], vectors: &'static [f32]| WindowTokens { spans, vectors };
        let windows = [window(&[0..3], &[1.0, 0.0]), window(&[3..6], &[0.0, 1.0])];
        assert_eq!(
            word_vectors("abcdef", 0, Language::None, &windows).first().map(WordVector::vector),
            Some(vec![127.0, 127.0])
        );
        assert_eq!(word_vectors("", 0, Language::English, &[]), []);
        assert_eq!(word_vectors("abc", 99, Language::English, &windows), []);
    }
}
