//! Short answers: a fact is in them with the question before.

use super::grammar::{self, Kind, one_of};
use super::values::{others, text_of};
use super::{Fact, is_single, lexicon, parts, source, tokens};
use crate::context::Turn;
use std::ops::Range;

/// What a question asks for: the attribute, what its answer is, and phrases of the question. Of a phrase that begins with a question word the words may
/// stand apart: "where … live".
const QUESTIONS: &[(&str, Kind, &[&str])] = &[
    (
        "name",
        Kind::Name,
        &[
            "your name",
            "call you",
            "speaking with",
            "speaking to",
            "am i talking to",
            "who am i",
            "who is this",
            "who's this",
        ],
    ),
    (
        "lives_in",
        Kind::Place,
        &[
            "where live",
            "where based",
            "where living",
            "where stay",
            "which city",
            "what city",
            "where home",
            "where moved",
            "where move",
            "where settled",
            "where these days",
            "which town",
            "where start from",
        ],
    ),
    ("from", Kind::Place, &["where from", "where grow up", "where born", "hometown", "where raised"]),
    (
        "works_as",
        Kind::Job,
        &[
            "what you do",
            "your job",
            "occupation",
            "profession",
            "for a living",
            "for work",
            "your role",
            "your title",
            "line of work",
        ],
    ),
    (
        "works_at",
        Kind::Org,
        &[
            "where work",
            "who work for",
            "which company",
            "what company",
            "employer",
            "which hospital",
            "where working",
            "which firm",
        ],
    ),
    (
        "studies_at",
        Kind::Org,
        &[
            "which uni",
            "what uni",
            "which school",
            "what school",
            "which college",
            "what college",
            "where study",
            "where studying",
            "where did you end up",
            "which university",
        ],
    ),
    (
        "studies",
        Kind::Noun,
        &["what study", "what studying", "your major", "what major", "your degree", "what degree", "your course"],
    ),
    ("age", Kind::Age, &["how old", "your age"]),
    ("birthday", Kind::Date, &["your birthday", "were you born", "date of birth", "birth date", "when birthday"]),
    (
        "allergic_to",
        Kind::Noun,
        &[
            "any allergies",
            "allergic to",
            "are you allergic",
            "your allergies",
            "have allergies",
            "what allergies",
            "which allergies",
        ],
    ),
    ("speaks", Kind::Language, &["languages", "language speak", "what speak"]),
    ("diet", Kind::Diet, &["diet", "dietary", "eat meat", "vegetarian", "vegan", "what eat", "restrictions"]),
    ("plays", Kind::Game, &["instrument", "what play", "which sport", "what sport", "do you play"]),
    (
        "pet",
        Kind::Name,
        &["dog's name", "cat's name", "dog called", "cat called", "pet's name", "name dog", "name cat", "pet called"],
    ),
    (
        "uses",
        Kind::Product,
        &[
            "what use",
            "which editor",
            "what editor",
            "which database",
            "what database",
            "your stack",
            "what stack",
            "which framework",
            "which language",
            "what language",
            "what running on",
        ],
    ),
];

/// A short answer to a question of the turn before: at the beginning of the turn, or of its second sentence behind a short first one ("Close, but no.").
pub(super) fn answer(before: &Turn, text: &str, speaker: &str, small: bool) -> Vec<Fact> {
    let asked = before.content.to_lowercase();
    let question = asked
        .split_inclusive(['.', '!', '?', '\n', ':'])
        .rfind(|part| part.trim_end().ends_with('?'))
        .unwrap_or_default();
    let words: Vec<&str> = question.split(|c: char| !(c.is_alphanumeric() || c == '\'')).collect();
    let asks = |phrase: &&str| {
        question.contains(*phrase)
            || (one_of(phrase.split(' ').next().unwrap_or_default(), "where who what which when how language name")
                && phrase.split(' ').all(|word| words.contains(&word)))
    };
    let Some((attribute, kind, _)) = QUESTIONS.iter().find(|(.., phrases)| phrases.iter().any(&asks)) else {
        return Vec::new();
    };
    let single = is_single(attribute);
    for range in parts(text).into_iter().take(2) {
        let sentence = tokens::sentence(text, range.clone(), small);
        if sentence.asks || source::is_ironic(text, text.get(range).unwrap_or_default()) {
            return Vec::new();
        }
        let begins = sentence.tokens.iter().position(|token| {
            !token.mark
                && !lexicon::ADVERBS.contains(token.word.as_str())
                && !one_of(
                    token.word.as_str(),
                    "yep yes yeah no well um uh oh ha haha sure only in it be 's at to on a an the you that i",
                )
        });
        let Some(start) = begins else { continue };
        // Without capital letters a school is told by its name alone.
        let kind = if sentence.small && *attribute == "studies_at" { &Kind::School } else { kind };
        if let Some((range, end)) = grammar::value(&sentence, start, *kind) {
            let alone = sentence.tokens.get(end).is_none_or(|token| {
                token.ends_clause()
                    || one_of(token.word.as_str(), "be and now please since for at with these in mostly")
            });
            if alone {
                let mut values = vec![range.clone()];
                if !single {
                    values.extend(others(&sentence, &range, *kind));
                }
                let fact = |range: &Range<usize>| Fact {
                    subject: speaker.to_owned(),
                    attribute: (*attribute).to_owned(),
                    value: text_of(text, &sentence.tokens, range).to_owned(),
                    ended: false,
                };
                return values.iter().map(fact).collect();
            }
        }
        if sentence.tokens.len() > 6 {
            break;
        }
    }
    Vec::new()
}
