//! The text of an answer while it grows, and its stop strings.
//!
//! What a model says in a channel ([`Tokenizer::channel`]) is a thought: no part of the text.

use crate::tokenizer::{Detokenizer, Tokenizer};

/// Text of which a part is final. The rest may still become a stop string, or a character whose bytes are not all there.
pub(super) struct Text {
    detokenizer: Detokenizer,
    stop: Vec<String>,
    text: String,
    /// Up to here it is final.
    fixed: usize,
    taken: usize,
    stopped: bool,
    /// The tokens that open and close a channel.
    channel: Option<[u32; 2]>,
    /// In a channel.
    hidden: bool,
}

impl Text {
    /// A text with these stop strings. `before` is the prompt: it may have opened a channel.
    pub(super) fn new(stop: Vec<String>, channel: Option<[u32; 2]>, before: &[u32]) -> Text {
        let last = channel.and_then(|channel| before.iter().rev().find(|token| channel.contains(token)));
        let hidden = channel.is_some_and(|[open, _]| last == Some(&open));
        let (detokenizer, text) = (Detokenizer::default(), String::new());
        Text { detokenizer, stop, text, fixed: 0, taken: 0, stopped: false, channel, hidden }
    }

    /// Whether a token that comes next is one of the answer, not of a thought.
    pub(super) fn says(&self, token: u32) -> bool {
        !self.hidden && !self.channel.is_some_and(|channel| channel.contains(&token))
    }

    /// Adds a token. True when a stop string appeared: the text ends before it.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> bool {
        match self.channel {
            Some([open, _]) if token == open => self.hidden = true,
            Some([_, close]) if token == close => self.hidden = false,
            _ if self.hidden => return false,
            _ => {}
        }
        let new = self.detokenizer.push(tokenizer, token);
        self.add(&new)
    }

    /// No more tokens will come. True when what was held back completes a stop string.
    pub(super) fn finish(&mut self) -> bool {
        if self.stopped {
            return true;
        }
        let rest = self.detokenizer.finish();
        let stopped = self.add(&rest);
        self.fixed = self.text.len();
        stopped
    }

    fn add(&mut self, new: &str) -> bool {
        self.text.push_str(new);
        // The final part cannot contain the beginning of a stop string, so the search begins behind it.
        let open = &self.text[self.fixed..];
        if let Some(at) = self.stop.iter().filter_map(|s| open.find(s.as_str())).min() {
            self.text.truncate(self.fixed + at);
            self.fixed = self.text.len();
            self.stopped = true;
            return true;
        }
        // The longest end of the text that begins a stop string stays open. Both are valid UTF-8, so equal bytes end at
        // the boundary of a character on both sides.
        let bytes = open.as_bytes();
        let held = |s: &String| {
            (1..s.len().min(bytes.len() + 1))
                .rev()
                .find(|&n| s.as_bytes()[..n] == bytes[bytes.len() - n..])
                .unwrap_or(0)
        };
        let held = self.stop.iter().map(held).max().unwrap_or(0);
        let mut fixed = self.text.len() - held;
        while !self.text.is_char_boundary(fixed) {
            fixed -= 1;
        }
        self.fixed = fixed.max(self.fixed);
        false
    }

    /// What is final and was not taken.
    pub(super) fn untaken(&self) -> &str {
        &self.text[self.taken..self.fixed]
    }

    pub(super) fn take(&mut self) -> String {
        let new = self.untaken().to_owned();
        self.taken = self.fixed;
        new
    }

    pub(super) fn fixed(&self) -> &str {
        &self.text[..self.fixed]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(stop: &[&str]) -> Text {
        Text::new(stop.iter().map(|&s| s.to_owned()).collect(), None, &[])
    }

    #[test]
    fn what_may_be_a_stop_string_is_held_back() {
        let mut t = text(&["STOP", "\n\n"]);
        assert!(!t.add("one ST"));
        assert_eq!(t.take(), "one ");
        assert!(!t.add("AR\n"));
        assert_eq!(t.take(), "STAR");
        assert!(!t.add("two"));
        assert_eq!(t.take(), "\ntwo");
        assert!(t.add(" STOPPED"));
        assert_eq!(t.take(), " ");
        assert_eq!(t.fixed(), "one STAR\ntwo ");
    }

    #[test]
    fn the_earliest_stop_string_wins_and_overlaps_are_seen() {
        let mut t = text(&["cd", "bc"]);
        assert!(t.add("abcd"));
        assert_eq!(t.fixed(), "a");
        let mut t = text(&["aab"]);
        assert!(!t.add("aa"));
        assert_eq!(t.take(), "");
        assert!(!t.add("a"));
        assert_eq!(t.take(), "a");
        assert!(t.add("b"));
        assert_eq!(t.fixed(), "a");
    }

    #[test]
    fn thoughts_are_no_text() {
        let file = crate::gemma::tests::tests_dir().join("models/gemma4-vocabulary.gguf");
        let t = Tokenizer::from_gguf(&crate::gguf::Gguf::open(&file).unwrap()).unwrap();
        let ids = |text: &str| t.encode_with_control(text);
        let said = |before: &str, answer: &str, stop: &str| {
            let mut text = Text::new(vec![stop.to_owned()], t.channel(), &ids(before));
            let mut out = String::new();
            for id in ids(answer) {
                let stopped = text.push(&t, id);
                out.push_str(&text.take());
                if stopped {
                    break;
                }
            }
            text.finish();
            out + &text.take()
        };
        let (before, thought) = ("<|turn>model\n", "<|channel>thought\nWho STOP sat?<channel|>");
        assert_eq!(said(before, &format!("{thought}Ann sat."), "STOP"), "Ann sat.");
        assert_eq!(said(before, &format!("Ann{thought} sat.{thought}"), "STOP"), "Ann sat.");
        // A stop string may begin before a thought and end behind it.
        assert_eq!(said(before, &format!("Ann ST{thought}OP sat."), "STOP"), "Ann ");
        assert_eq!(said(before, "Ann.<|channel>thought\nDid she", "STOP"), "Ann.");
        // What the prompt opened is open, what it closed is not.
        assert_eq!(said("<|turn>model\n<|channel>thought\n", "Who?<channel|>Ann.", "STOP"), "Ann.");
        assert_eq!(said("<|turn>model\n<|channel>thought\n<channel|>", "Ann.", "STOP"), "Ann.");
        // Bytes that were no character before a thought are none behind it.
        let mut text = Text::new(Vec::new(), t.channel(), &[]);
        let (byte, rest) = (t.token_id("<0xC3>").unwrap(), t.token_id("<0xA9>").unwrap());
        for id in [vec![byte], ids("<|channel>thought<channel|>"), vec![rest]].concat() {
            text.push(&t, id);
        }
        text.finish();
        assert_eq!(text.take(), "\u{FFFD}\u{FFFD}");
    }

    #[test]
    fn what_was_held_back_comes_out_at_the_end() {
        let mut t = text(&["STOP"]);
        assert!(!t.add("an ST"));
        assert!(!t.finish());
        assert_eq!(t.take(), "an ST");
        let mut t = text(&["é!"]);
        assert!(!t.add("caf"));
        assert!(!t.add("é"));
        assert_eq!(t.take(), "caf");
        assert!(t.add("!"));
        assert_eq!(t.fixed(), "caf");
    }

    #[test]
    fn any_cutting_gives_the_same_text() {
        let whole = "aabaabaaab the end aab";
        for cut in 1..7 {
            for stop in ["aaab", "end", "b t", "zz"] {
                let mut t = text(&[stop]);
                let mut out = String::new();
                for piece in whole.as_bytes().chunks(cut) {
                    let stopped = t.add(std::str::from_utf8(piece).unwrap());
                    out.push_str(&t.take());
                    if stopped {
                        break;
                    }
                }
                t.finish();
                out.push_str(&t.take());
                assert_eq!(out, whole.split(stop).next().unwrap(), "{cut} {stop}");
                assert_eq!(out, t.fixed());
            }
        }
    }
}
