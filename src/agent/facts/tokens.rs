//! Sentences as words that patterns can be held against.
//!
//! A contraction gives the words that it stands for (`I'm` is `i be`, `dont` is `do not`), the forms of *be*, *have* and *do* in the present are one word
//! each, and what chats shorten is written out. A word keeps where it stands in the text: values are cut from there, as they were written.

use super::lexicon::{self, Set};
use std::collections::HashSet;
use std::ops::Range;

/// A word or a mark of a sentence.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// What it stands for, in small letters.
    pub word: String,
    /// As it is written, in small letters: for forms that `word` makes equal.
    pub raw: String,
    /// Bytes of the text.
    pub range: Range<usize>,
    /// Whether it begins with a capital letter.
    pub capital: bool,
    /// Whether it is no word.
    pub mark: bool,
}

impl Token {
    pub(super) fn is(&self, word: &str) -> bool {
        match self.word.as_str() {
            // Of these only what stands around them tells which it is.
            "'s" => matches!(word, "'s" | "be" | "have"),
            "'d" => matches!(word, "'d" | "would" | "had"),
            own => own == word,
        }
    }

    /// Whether it ends what is said in one go.
    pub(super) fn ends_clause(&self) -> bool {
        self.mark && !matches!(self.word.as_str(), "'" | "*" | "%" | "+" | "/")
    }
}

/// A sentence as tokens.
#[derive(Debug)]
pub(super) struct Sentence {
    pub tokens: Vec<Token>,
    /// The words of all tokens, and what they may stand for: a pattern that needs another one is not tried.
    pub words: HashSet<String>,
    /// Whether it asks.
    pub asks: bool,
    /// Whether it is written without capital letters, so that names cannot be told by them.
    pub small: bool,
}

/// Short for other words: in small letters, without apostrophes of any kind.
const SHORT: &[(&str, &[&str])] = &[
    ("im", &["i", "be"]),
    ("i'm", &["i", "be"]),
    ("ive", &["i", "have"]),
    ("i'll", &["i", "will"]),
    ("id", &["i", "would"]),
    ("imma", &["i", "will"]),
    ("dont", &["do", "not"]),
    ("doesnt", &["do", "not"]),
    ("didnt", &["did", "not"]),
    ("cant", &["can", "not"]),
    ("can't", &["can", "not"]),
    ("cannot", &["can", "not"]),
    ("wont", &["will", "not"]),
    ("won't", &["will", "not"]),
    ("isnt", &["be", "not"]),
    ("arent", &["be", "not"]),
    ("aint", &["be", "not"]),
    ("ain't", &["be", "not"]),
    ("wasnt", &["was", "not"]),
    ("havent", &["have", "not"]),
    ("hasnt", &["have", "not"]),
    ("wouldnt", &["would", "not"]),
    ("couldnt", &["could", "not"]),
    ("shouldnt", &["should", "not"]),
    ("thats", &["that", "be"]),
    ("whats", &["what", "be"]),
    ("hes", &["he", "be"]),
    ("shes", &["she", "be"]),
    ("theyre", &["they", "be"]),
    ("youre", &["you", "be"]),
    ("were", &["was"]),
    ("am", &["be"]),
    ("is", &["be"]),
    ("are", &["be"]),
    ("'m", &["be"]),
    ("'re", &["be"]),
    ("has", &["have"]),
    ("'ve", &["have"]),
    ("does", &["do"]),
    ("'ll", &["will"]),
    ("lives", &["live"]),
    ("works", &["work"]),
    ("plays", &["play"]),
    ("speaks", &["speak"]),
    ("studies", &["study"]),
    ("uses", &["use"]),
    ("owns", &["own"]),
    ("loves", &["love"]),
    ("likes", &["like"]),
    ("hates", &["hate"]),
    ("fav", &["favorite"]),
    ("fave", &["favorite"]),
    ("favourite", &["favorite"]),
    ("favs", &["favorite"]),
    ("u", &["you"]),
    ("ur", &["your"]),
    ("wanna", &["want", "to"]),
    ("gonna", &["going", "to"]),
    ("bday", &["birthday"]),
    ("b-day", &["birthday"]),
    ("weve", &["we", "have"]),
    ("iam", &["i", "be"]),
    ("i'ma", &["i", "will"]),
    ("theres", &["there", "be"]),
    ("wouldve", &["would", "have"]),
    ("shouldve", &["should", "have"]),
    ("couldve", &["could", "have"]),
    ("adores", &["adore"]),
    ("enjoys", &["enjoy"]),
    ("detests", &["detest"]),
    ("prefers", &["prefer"]),
    ("drives", &["drive"]),
    ("rides", &["ride"]),
    ("teaches", &["teach"]),
    ("attends", &["attend"]),
    ("runs", &["run"]),
    ("favorites", &["favorite"]),
    ("favourites", &["favorite"]),
    ("favorit", &["favorite"]),
    ("favourit", &["favorite"]),
    ("n", &["and"]),
    ("bf", &["boyfriend"]),
    ("gf", &["girlfriend"]),
    ("hubby", &["husband"]),
    ("bro", &["brother"]),
    ("sis", &["sister"]),
    ("bff", &["friend"]),
    ("flatmates", &["flatmate"]),
    ("alergic", &["allergic"]),
    ("roomate", &["roommate"]),
    ("roomates", &["roommate"]),
    ("room-mate", &["roommate"]),
    ("flat-mate", &["flatmate"]),
    ("vegeterian", &["vegetarian"]),
    ("definately", &["definitely"]),
    ("realy", &["really"]),
    ("becuase", &["because"]),
    ("cuz", &["because"]),
    ("coz", &["because"]),
    ("studing", &["studying"]),
];

/// The tokens of a part of a text that is one sentence.
pub(super) fn sentence(text: &str, range: Range<usize>, small: bool) -> Sentence {
    let mut tokens = Vec::new();
    let part = text.get(range.clone()).unwrap_or_default();
    let mut chars = part.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        if char.is_whitespace() {
            continue;
        }
        let start = range.start + at;
        if !char.is_alphanumeric() && char != '#' {
            let word = match char {
                '’' | '‘' | '\'' => "'".to_owned(),
                '–' | '—' => "-".to_owned(),
                other => other.to_string(),
            };
            tokens.push(Token {
                raw: word.clone(),
                word,
                range: start..start + char.len_utf8(),
                capital: false,
                mark: true,
            });
            continue;
        }
        let mut end = at + char.len_utf8();
        while let Some((at, next)) = chars.peek().copied() {
            let after = part.get(at + next.len_utf8()..).and_then(|rest| rest.chars().next());
            let joins = matches!(next, '\'' | '’' | '-' | '&' | '.' | '/' | '_' | '+' | '#' | ':' | ',')
                && match next {
                    // "C++", "C#".
                    '+' | '#' => after.is_none_or(|after| !after.is_alphanumeric() || after == '+'),
                    // "3.14", "10:30", "1,000"; "Node.js", "example.com".
                    '.' => after.is_some_and(char::is_alphanumeric),
                    ':' | ',' => {
                        part.get(..at).is_some_and(|before| before.ends_with(|c: char| c.is_ascii_digit()))
                            && after.is_some_and(|after| after.is_ascii_digit())
                    }
                    _ => after.is_some_and(char::is_alphanumeric),
                };
            if !(next.is_alphanumeric() || joins || is_combining(next)) {
                break;
            }
            end = at + next.len_utf8();
            chars.next();
        }
        // "St. Mary's".
        let abbreviated = part
            .get(at..end)
            .is_some_and(|word| matches!(word, "St" | "Dr" | "Mr" | "Mrs" | "Ms" | "Mt" | "Ft" | "Prof"));
        if abbreviated && chars.next_if(|(_, next)| *next == '.').is_some() {
            end += 1;
        }
        push_word(part.get(at..end).unwrap_or_default(), start, &mut tokens);
    }
    let asks = part.trim_end_matches(['"', '”', ')', ' ']).ends_with('?');
    let words = tokens.iter().flat_map(|token| match token.word.as_str() {
        "'s" => ["'s", "be", "have"].map(str::to_owned).to_vec(),
        "'d" => ["'d", "would", "had"].map(str::to_owned).to_vec(),
        word => vec![word.to_owned()],
    });
    Sentence { words: words.collect(), tokens, asks, small }
}

fn is_combining(char: char) -> bool {
    matches!(char, '\u{300}'..='\u{36f}')
}

fn push_word(written: &str, start: usize, tokens: &mut Vec<Token>) {
    let raw = written.to_lowercase().replace('’', "'");
    let capital = written.starts_with(char::is_uppercase);
    let end = start + written.len();
    let mut push = |word: &str, raw: &str, range: Range<usize>, capital: bool| {
        tokens.push(Token { word: word.to_owned(), raw: raw.to_owned(), range, capital, mark: false });
    };
    if let Some((_, words)) = SHORT.iter().find(|(short, _)| *short == raw) {
        words.iter().for_each(|word| push(word, &raw, start..end, capital && words.len() == 1));
        return;
    }
    if let Some(stem) = raw.strip_suffix("n't").filter(|stem| !stem.is_empty()) {
        let stem =
            SHORT.iter().find(|(short, _)| *short == stem).map_or(stem, |(_, words)| words.first().unwrap_or(&stem));
        push(stem, stem, start..end, false);
        push("not", "not", end..end, false);
        return;
    }
    // Names and nouns with what hangs on them: the mark is as long in bytes as it is written.
    for suffix in ["'s", "'m", "'re", "'ve", "'ll", "'d"] {
        let Some(stem) = raw.strip_suffix(suffix).filter(|stem| !stem.is_empty()) else { continue };
        let Some(cut) = written.char_indices().rev().find(|(_, c)| matches!(c, '\'' | '’')).map(|(at, _)| start + at)
        else {
            continue;
        };
        let word =
            SHORT.iter().find(|(short, words)| *short == stem && words.len() == 1).and_then(|(_, words)| words.first());
        push(word.unwrap_or(&stem), stem, start..cut, capital);
        let second = match suffix {
            "'s" => "'s",
            "'m" | "'re" => "be",
            "'ve" => "have",
            "'ll" => "will",
            _ => "'d",
        };
        push(second, suffix, cut..end, false);
        return;
    }
    push(&raw, &raw, start..end, capital);
}

/// The word without the ending of a plural, if it has one.
pub(super) fn singular(word: &str) -> &str {
    match word {
        "mice" => "mouse",
        "wolves" => "wolf",
        "geese" => "goose",
        _ => match word.strip_suffix('s') {
            Some(one) if one.len() > 2 && !one.ends_with('s') && !one.ends_with("ie") && !one.ends_with('u') => one,
            _ => word,
        },
    }
}

/// Whether a word, or the singular of it, is in a set.
pub(super) fn in_set(set: &Set, word: &str) -> bool {
    set.contains(word)
        || set.contains(singular(word))
        || word.strip_suffix("ies").is_some_and(|y| lexicon::with_y(set, y))
}
