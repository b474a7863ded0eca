//! Outcomes: what came of it, told from what a user says next.
//!
//! Three lists of words and phrases stand for three outcomes. A text has the outcome of the first list of which something is said in it, in this order:
//! distracted, then task_completed, then re_engaged. Who says "okay, done, but wait" has lost the thread, whatever else was done; and "okay" goes with anything.
//!
//! * **Whole words, case folded.** "abandoned" is not "done". A word is letters and digits, with apostrophes of any kind within; what stands between the words of a phrase does
//!   not matter, so "off-track" is "off track", but no phrase reaches over a mark that ends a clause. Of phrases that begin at one word the longest is taken.
//! * **Negation.** A phrase does not count if at most [`REACH`] words in front of it, in the same clause, a word says no ("not", "never", anything that ends in "n't") or not yet ("almost",
//!   "half"). A clause ends with `. , ; : ! ?`, a bracket, a dash between spaces, a line, and in front of "and", "but" and their like: "not tired, done" and "did not rest but finished" are done,
//!   "haven't really got it all done" is not. "No" at the head of a clause is an answer and denies nothing behind it ("no wait"), except in "no one", "no more" and "no longer". A phrase may hold
//!   a negation of its own: only what stands in front of it counts.
//! * **What is read** are the first [`READ`] bytes. Who pastes more says nothing by it, and no text keeps the server waiting: some ten microseconds per kilobyte, whatever the text.
//!
//! Rejected: a language model, which would keep a turn waiting that is stored in microseconds; stems ("finish" as "finished"), which make orders and wishes into deeds;
//! questions and conditions ("done?", "when you are ready"), which cannot be told from careless punctuation: who needs that has lists of their own, and says it with OUTCOME.

use std::collections::HashMap;
use std::iter;

/// Bytes of a text that are read.
pub const READ: usize = 8 * 1024;
/// Words in front of a phrase that may deny it.
const REACH: usize = 6;
/// Phrases of one list.
const PHRASES: usize = 256;
/// Words of one phrase.
const WORDS: usize = 8;
/// Bytes of one list.
const BYTES: usize = 8 * 1024;

/// The outcomes that are detected, the one that prevails first.
pub const OUTCOMES: [&str; 3] = ["distracted", "task_completed", "re_engaged"];
/// What tells each, unless somebody says otherwise; in the order of [`OUTCOMES`].
pub const DEFAULT_LISTS: [&str; 3] = [
    "wait, hold on, what was I doing, lost track, forgot, distracted, off track",
    "done, finished, completed, all done, finished it, got it done, accomplished, finished the task",
    "okay, ok, sounds good, let's do it, yes, yeah, sure, alright, ready, let's go, I'll do it",
];

/// Say no, or not yet. Beside them whatever ends in "n't", and "no" where it is no answer.
const NEGATORS: [&str; 34] = [
    "not", "never", "none", "nothing", "nobody", "nowhere", "neither", "nor", "without", "cannot", "hardly", "barely",
    "scarcely", "almost", "nearly", "half", "partly", "far", "dont", "doesnt", "didnt", "isnt", "arent", "wasnt",
    "werent", "havent", "hasnt", "hadnt", "cant", "couldnt", "wont", "wouldnt", "shouldnt", "aint",
];
/// Begin a clause.
const CONJUNCTIONS: [&str; 6] = ["and", "but", "because", "though", "although", "however"];

/// What a text says came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// One of [`OUTCOMES`].
    pub outcome: &'static str,
    /// The phrases of its list that the text has, in the order of the text, each once.
    pub words: Vec<String>,
}

/// The lists, made ready to be looked for.
#[derive(Debug, Clone, Default)]
pub struct Outcomes {
    /// In the order of [`OUTCOMES`]: phrases, as words, by their first word, the longest first.
    lists: [HashMap<String, Vec<Vec<String>>>; 3],
}

impl Outcomes {
    /// From lists with commas between phrases, in the order of [`OUTCOMES`]. An empty list has nothing to look for.
    ///
    /// Errors: those of [`check`].
    pub fn new(lists: [&str; 3]) -> Result<Outcomes, String> {
        let [distracted, task_completed, re_engaged] = lists.map(parse);
        Ok(Outcomes { lists: [distracted?, task_completed?, re_engaged?] })
    }

    /// The outcome that a text tells, if any.
    pub fn detect(&self, text: &str) -> Option<Detected> {
        let words = words_of(text);
        let found = OUTCOMES.into_iter().zip(&self.lists).map(|(outcome, list)| (outcome, said(list, &words)));
        let mut found = found.filter(|(_, phrases)| !phrases.is_empty());
        found.next().map(|(outcome, words)| Detected { outcome, words })
    }
}

/// Whether a text is a list of phrases: at most 256 of at most 8 words with commas between them, 8 KiB in all. Errors say what is wrong.
pub fn check(list: &str) -> Result<(), String> {
    parse(list).map(drop)
}

fn parse(list: &str) -> Result<HashMap<String, Vec<Vec<String>>>, String> {
    if list.len() > BYTES {
        return Err(format!("it has {} bytes: at most {BYTES} are accepted", list.len()));
    }
    let mut phrases: HashMap<String, Vec<Vec<String>>> = HashMap::new();
    if list.trim().is_empty() {
        return Ok(phrases);
    }
    for (n, phrase) in list.split(',').enumerate() {
        if n >= PHRASES {
            return Err(format!("it has more than {PHRASES} phrases"));
        }
        let words: Vec<String> = words_of(phrase).into_iter().map(|word| word.text).collect();
        let shown: String = phrase.trim().chars().take(64).collect();
        let Some(first) = words.first() else {
            return Err(format!("'{shown}' has no word: phrases with commas between them are accepted"));
        };
        if words.len() > WORDS {
            return Err(format!("'{shown}' has {} words: a phrase has at most {WORDS}", words.len()));
        }
        let alike = phrases.entry(first.clone()).or_default();
        if !alike.contains(&words) {
            alike.push(words);
        }
    }
    phrases.values_mut().for_each(|alike| alike.sort_by_key(|words| std::cmp::Reverse(words.len())));
    Ok(phrases)
}

/// A word of a text.
#[derive(Debug)]
struct Word {
    /// In small letters.
    text: String,
    /// Whether a mark in front of it ends what was said.
    after_mark: bool,
}

/// The words of what is read of a text.
fn words_of(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut word = String::new();
    let mut after_mark = true;
    let mut before = ' ';
    let read = crate::fence::beginning(text, READ);
    let mut characters = read.chars().chain(iter::once(' ')).peekable();
    while let Some(c) = characters.next() {
        let next = characters.peek().copied().unwrap_or(' ');
        let apostrophe = matches!(c, '\'' | '’' | '‘' | 'ʼ' | '＇');
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        } else if apostrophe && !word.is_empty() && next.is_alphanumeric() {
            word.push('\'');
        } else {
            if !word.is_empty() {
                words.push(Word { text: std::mem::take(&mut word), after_mark });
                after_mark = false;
            }
            after_mark |= ends_clause(before, c, next);
        }
        before = c;
    }
    words
}

/// Whether a character ends what is said in one go. A point or comma in a number does not, and a dash only between spaces.
fn ends_clause(before: char, c: char, next: char) -> bool {
    match c {
        '.' | ',' | ':' => !(before.is_numeric() && next.is_numeric()),
        ';' | '!' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '\n' | '\r' | '…' | '—' | '。' | '，' | '！' | '？' => {
            true
        }
        '-' | '–' => before.is_whitespace() && next.is_whitespace(),
        _ => false,
    }
}

/// The phrases of a list that are said and not denied.
fn said(list: &HashMap<String, Vec<Vec<String>>>, words: &[Word]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(rest) = words.get(at..).filter(|rest| !rest.is_empty()) {
        let stands = |phrase: &&Vec<String>| {
            phrase.len() <= rest.len()
                && phrase
                    .iter()
                    .zip(rest)
                    .enumerate()
                    .all(|(n, (wanted, word))| *wanted == word.text && (n == 0 || !word.after_mark))
        };
        let alike = rest.first().and_then(|first| list.get(&first.text));
        let Some(phrase) = alike.and_then(|alike| alike.iter().find(stands)) else {
            at += 1;
            continue;
        };
        let joined = phrase.join(" ");
        if !is_denied(words, at) && !found.contains(&joined) {
            found.push(joined);
        }
        at += phrase.len();
    }
    found
}

/// Whether what begins at a word is denied by the words in front of it.
fn is_denied(words: &[Word], at: usize) -> bool {
    for n in (at.saturating_sub(REACH)..at).rev() {
        let (Some(word), Some(behind)) = (words.get(n), words.get(n + 1)) else { return false };
        if behind.after_mark || CONJUNCTIONS.contains(&word.text.as_str()) {
            return false;
        }
        let before = n.checked_sub(1).and_then(|before| words.get(before));
        let head = word.after_mark || before.is_none_or(|before| CONJUNCTIONS.contains(&before.text.as_str()));
        let no = word.text == "no" && (!head || matches!(behind.text.as_str(), "one" | "more" | "longer"));
        if no || word.text.ends_with("n't") || NEGATORS.contains(&word.text.as_str()) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    fn by_default() -> Outcomes {
        Outcomes::new(DEFAULT_LISTS).unwrap()
    }

    fn outcome(text: &str) -> Option<&'static str> {
        by_default().detect(text).map(|detected| detected.outcome)
    }

    fn words(text: &str) -> Vec<String> {
        by_default().detect(text).map(|detected| detected.words).unwrap_or_default()
    }

    #[test]
    fn every_word_of_the_lists_tells_its_outcome() {
        for (name, list) in OUTCOMES.iter().zip(DEFAULT_LISTS) {
            for phrase in list.split(", ") {
                for said in
                    [phrase.to_owned(), phrase.to_uppercase(), format!("Well: {phrase}!"), phrase.replace('\'', "’")]
                {
                    let detected = by_default().detect(&said).unwrap();
                    assert_eq!((detected.outcome, detected.words), (*name, vec![phrase.to_lowercase()]), "{said}");
                }
            }
        }
    }

    #[test]
    fn whole_words() {
        for text in [
            "abandoned",
            "undone",
            "donegal",
            "unfinished",
            "oks",
            "waiter",
            "surely",
            "yesterday",
            "readyish",
            "I've",
            "",
            " ",
            "'",
            "’’",
        ] {
            assert_eq!(outcome(text), None, "{text}");
        }
        for text in
            ["'done'", "\"Done\"", "(done)", "done.", "DONE", "done…", "it is done\nthanks", "well-done", "🎉done🎉"]
        {
            assert_eq!(outcome(text), Some("task_completed"), "{text}");
        }
        assert_eq!(outcome("I'm off-track"), Some("distracted"));
        assert_eq!(outcome("the light is off. Track it"), None, "no phrase reaches over the end of a clause");
        assert_eq!(outcome("Let’s   do\u{a0}it"), Some("re_engaged"));
    }

    #[test]
    fn negation() {
        for text in [
            "not done",
            "I'm not done yet",
            "I haven't finished",
            "I haven’t finished",
            "havent finished it",
            "never finished it",
            "It isn't really all done",
            "I don't think that I have finished it",
            "I am not really quite sure",
            "Nothing is done",
            "almost done",
            "it is half-finished",
            "I can't wait to see it",
            "no one finished the task",
            "there is no task completed",
            "No longer distracted",
            "Neither finished nor completed",
            "without being distracted",
            "I did not get off track",
        ] {
            assert_eq!(outcome(text), None, "{text}");
        }
        for (text, expected) in [
            ("Not tired, done", "task_completed"),
            ("I did not rest but finished", "task_completed"),
            ("I never rest and finished it", "task_completed"),
            ("No, I'm done", "task_completed"),
            ("no wait", "distracted"),
            ("No problem: sure", "re_engaged"),
            ("It is not here. Done", "task_completed"),
            ("not now - done", "task_completed"),
            ("I had not slept at all when at long last I was done", "task_completed"),
            ("not sure, yes", "re_engaged"),
        ] {
            assert_eq!(outcome(text), Some(expected), "{text}");
        }
        assert_eq!(words("not done. Finished it!"), ["finished it"]);
    }

    #[test]
    fn where_several_match() {
        assert_eq!(outcome("okay, done, but wait"), Some("distracted"));
        assert_eq!(outcome("okay, done"), Some("task_completed"));
        assert_eq!(outcome("okay, not done"), Some("re_engaged"));
        assert_eq!(words("All done, finished the task and DONE; done"), ["all done", "finished the task", "done"]);
        assert_eq!(words("ok, yes, ok"), ["ok", "yes"]);
    }

    #[test]
    fn lists_of_ones_own() {
        let own = Outcomes::new(["", "geschafft, FERTIG ,fertig", " "]).unwrap();
        assert_eq!(own.detect("wait, yes, done"), None);
        let detected = own.detect("Endlich fertig! Geschafft.").unwrap();
        assert_eq!((detected.outcome, detected.words), ("task_completed", vec!["fertig".into(), "geschafft".into()]));
        let denying = Outcomes::new(["not interested", "", ""]).unwrap();
        assert_eq!(denying.detect("I'm not interested").map(|detected| detected.outcome), Some("distracted"));
        for (list, part) in [
            ("done,,finished".to_owned(), "has no word"),
            ("done, !?".to_owned(), "has no word"),
            ("a b c d e f g h i".to_owned(), "9 words"),
            ("x".repeat(BYTES + 1), "bytes"),
            (vec!["x"; PHRASES + 1].join(","), "more than 256 phrases"),
        ] {
            assert!(check(&list).unwrap_err().contains(part), "{part}");
            assert!(Outcomes::new([&list, "", ""]).is_err() && Outcomes::new(["", "", &list]).is_err());
        }
        assert_eq!(check(&vec!["x"; PHRASES].join(",")), Ok(()));
    }

    #[test]
    fn hostile_lengths() {
        let long = "x".repeat(1 << 20);
        assert_eq!(outcome(&long), None);
        assert_eq!(outcome(&format!("done {long}")), Some("task_completed"));
        assert_eq!(outcome(&format!("{} done", "x ".repeat(READ))), None, "the head is read");
        assert_eq!(outcome(&"é".repeat(READ)), None);
        assert_eq!(words(&"done ".repeat(READ)), ["done"]);
        assert_eq!(words(&"not ".repeat(READ)), Vec::<String>::new());
        assert_eq!(outcome(&"'".repeat(READ)), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in any::<String>(), lists in any::<[String; 3]>()) {
            by_default().detect(&text);
            if let Ok(own) = Outcomes::new([&lists[0], &lists[1], &lists[2]]) {
                own.detect(&text);
            }
        }

        /// Against the definition, written down as plainly as can be.
        #[test]
        fn detection_is_that_of_the_definition(said in proptest::collection::vec(
            prop::sample::select(vec!["not", "never", "no", "one", "done", "all", "finished", "it", "yes", "wait", "hold", "on", "x", "y", ",", "but", "haven't"]), 0..24)) {
            let text = said.join(" ").replace(" ,", ",");
            let tokens: Vec<&str> = said.clone();
            let mut expected = None;
            for (name, list) in OUTCOMES.iter().zip(DEFAULT_LISTS) {
                let phrases: Vec<Vec<&str>> = list.split(", ").map(|phrase| phrase.split(' ').collect()).collect();
                let mut at = 0;
                while at < tokens.len() && expected.is_none() {
                    let longest = phrases.iter().filter(|phrase| tokens[at..].starts_with(phrase)).map(Vec::len).max();
                    let Some(longest) = longest else { at += 1; continue };
                    let clause: Vec<&str> = tokens[..at].iter().rev().take_while(|token| !matches!(**token, "," | "but")).copied().collect();
                    let denied = clause.iter().enumerate().take(REACH).any(|(n, token)| {
                        let head = n + 1 == clause.len();
                        let behind = if n == 0 { tokens[at] } else { clause[n - 1] };
                        matches!(*token, "not" | "never" | "haven't") || *token == "no" && (!head || behind == "one")
                    });
                    if !denied { expected = Some(*name) }
                    at += longest;
                }
            }
            prop_assert_eq!(outcome(&text), expected, "{}", text);
        }
    }
}
