//! Guessing the next tokens from those that have stood in the text before.
//!
//! An answer that quotes its prompt goes on as the prompt did. Where the last [`LAST`] tokens have occurred before, what came
//! after them then is guessed to come again, and the model reads the guess together with the last token: the weights are read
//! once for all of them. Each guessed token is then compared with the one that is chosen from the logits in front of it, so the
//! answer is the same as without guessing, token for token. How much is guessed follows how well it went (Saxena 2023 calls it
//! prompt lookup).

use std::collections::HashMap;

/// Tokens that must have occurred before.
const LAST: usize = 3;
/// The least and the most that is guessed.
const SHORT: usize = 3;
const LONG: usize = 15;
/// The longest pause after guesses that were wrong.
const PAUSE: usize = 32;

/// What has stood in the text.
pub(super) struct Lookup {
    text: Vec<u32>,
    /// Where the token behind the last occurrence of some tokens is.
    behind: HashMap<[u32; LAST], usize>,
    /// How much is guessed next.
    length: usize,
    /// Steps without guessing after a wrong guess, and how many of them are left.
    pause: usize,
    left: usize,
}

impl Lookup {
    pub(super) fn new(prompt: &[u32]) -> Lookup {
        let mut lookup = Lookup { text: Vec::new(), behind: HashMap::new(), length: SHORT, pause: 0, left: 0 };
        prompt.iter().for_each(|token| lookup.push(*token));
        lookup
    }

    /// The text goes on with this token.
    pub(super) fn push(&mut self, token: u32) {
        if let Some(last) = self.text.last_chunk() {
            self.behind.insert(*last, self.text.len());
        }
        self.text.push(token);
    }

    /// What may come next, at most `most` tokens; often nothing.
    pub(super) fn guess(&mut self, most: usize) -> &[u32] {
        if self.left > 0 {
            self.left -= 1;
            return &[];
        }
        let found = self.text.last_chunk().and_then(|last| self.behind.get(last));
        let Some(&from) = found else { return &[] };
        let to = self.text.len().min(from + most.min(self.length));
        &self.text[from..to]
    }

    /// Of `guessed` tokens the first `right` were chosen.
    pub(super) fn judge(&mut self, guessed: usize, right: usize) {
        if guessed == 0 {
            return;
        }
        if right == 0 {
            self.pause = (2 * self.pause).clamp(1, PAUSE);
            (self.left, self.length) = (self.pause, SHORT);
        } else {
            self.pause = 0;
            self.length = if right == guessed { (2 * self.length + 1).min(LONG) } else { SHORT };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_the_same_tokens_is_guessed() {
        let mut lookup = Lookup::new(&[1, 2, 3, 4, 5, 6, 1, 2]);
        assert!(lookup.guess(8).is_empty());
        lookup.push(3);
        assert_eq!(lookup.guess(8), [4, 5, 6]);
        assert_eq!(lookup.guess(1), [4]);
        lookup.push(9);
        assert!(lookup.guess(8).is_empty());
        // The last occurrence counts.
        [1, 2, 3, 8, 1, 2, 3].into_iter().for_each(|token| lookup.push(token));
        assert_eq!(lookup.guess(8), [8, 1, 2]);
        assert!(Lookup::new(&[1, 2]).guess(8).is_empty());
        // A guess ends with the text.
        assert_eq!(Lookup::new(&[7, 7, 7, 7]).guess(8), [7]);
    }

    #[test]
    fn right_guesses_grow_and_wrong_ones_pause() {
        let text: Vec<u32> = (0..40).chain(0..3).collect();
        let mut lookup = Lookup::new(&text);
        assert_eq!(lookup.guess(99).len(), SHORT);
        lookup.judge(SHORT, SHORT);
        assert_eq!(lookup.guess(99).len(), 2 * SHORT + 1);
        lookup.judge(7, 7);
        assert_eq!(lookup.guess(99).len(), LONG);
        lookup.judge(LONG, 2);
        assert_eq!(lookup.guess(99).len(), SHORT);
        lookup.judge(SHORT, 0);
        assert!(lookup.guess(99).is_empty());
        assert_eq!(lookup.guess(99).len(), SHORT);
        lookup.judge(SHORT, 0);
        assert_eq!([lookup.guess(9).len(), lookup.guess(9).len(), lookup.guess(9).len()], [0, 0, SHORT]);
    }
}
