//! The values of a match: cut out, listed, and looked at for what their attribute takes.

use super::attributes::{is_person, relation_of};
use super::grammar::{self, Kind, Match, one_of};
use super::lexicon;
use super::rules::{Finds, Rule};
use super::tokens::{self, Sentence, Token};
use std::ops::Range;

/// What a match says: attribute, value, whether it has ended.
pub(super) fn facts_of(rule: &Rule, sentence: &Sentence, text: &str, matched: &Match) -> Vec<(String, String, bool)> {
    let value_of = |range: &Range<usize>| text_of(text, &sentence.tokens, range).to_owned();
    let last = matched.values.last().map(|(kind, range)| (*kind, range.clone()));
    match rule.finds {
        Finds::Is("plan") => {
            plan(sentence, text, matched).into_iter().map(|value| ("plan".to_owned(), value, false)).collect()
        }
        Finds::Is("pet") => {
            // A name says more than the kind.
            let names: Vec<&(Kind, Range<usize>)> =
                matched.values.iter().filter(|(kind, _)| *kind == Kind::Name).collect();
            let mut values: Vec<String> = names.iter().map(|(_, range)| value_of(range)).collect();
            if let Some((_, range)) = names.last().filter(|(_, range)| range.end == matched.tokens.end) {
                values.extend(others(sentence, range, Kind::Name).iter().map(value_of));
            }
            if values.is_empty() {
                values.extend(last.map(|(_, range)| value_of(&range)));
            }
            values.into_iter().map(|value| ("pet".to_owned(), value, false)).collect()
        }
        Finds::Is(attribute) | Finds::Ended(attribute) => {
            // Of a pattern with two values the second is the one that counts now.
            let Some((kind, range)) = (match (attribute, matched.values.as_slice()) {
                ("pet", values) => values.iter().find(|(kind, _)| *kind == Kind::Name).cloned(),
                // "Ship mechanic at Fehmarn Ferries", "at Warwick studying law".
                ("works_as", values) => {
                    values.iter().rfind(|(kind, _)| !matches!(kind, Kind::Company | Kind::Org | Kind::Name)).cloned()
                }
                ("studies_at", values) => values.iter().rfind(|(kind, _)| *kind != Kind::Discipline).cloned(),
                _ => last,
            }) else {
                return Vec::new();
            };
            let ended = matches!(rule.finds, Finds::Ended(_));
            let first = sentence.tokens.get(range.start).map_or("", |token| token.word.as_str());
            // "I switched from Chrome to Firefox" says what is used now; nobody studies Firefox, nor is allergic to Mondays.
            let behind = sentence.tokens.get(range.end).map_or("", |token| token.word.as_str());
            if (attribute == "uses" && ended && behind == "to")
                || (attribute == "studies" && lexicon::TOOLS.contains(first))
                // "I turned 30 pages."
                || (attribute == "age" && behind.ends_with('s') && !one_of(behind, "years yrs this was"))
            {
                return Vec::new();
            }
            let front = range
                .start
                .checked_sub(1)
                .map_or("", |at| sentence.tokens.get(at).map_or("", |token| token.word.as_str()));
            // "I study the map", "a bike for my niece".
            let gift = behind == "for"
                && (range.end + 1..range.end + 4).any(|at| {
                    sentence.tokens.get(at).is_some_and(|token| {
                        let word = tokens::singular(token.word.as_str());
                        lexicon::RELATIONS.contains(word)
                            || lexicon::KIN.contains(word)
                            || one_of(word, "him her them kid parent grandson granddaughter girl boy")
                    })
                });
            let study = range
                .start
                .checked_sub(2)
                .and_then(|at| sentence.tokens.get(at))
                .is_some_and(|token| one_of(token.word.as_str(), "study studying"));
            let after =
                |at: usize, list: &str| sentence.tokens.get(at).is_some_and(|token| one_of(token.word.as_str(), list));
            if (attribute == "studies" && study && one_of(front, "the a my our some this"))
                || (attribute == "owns" && gift)
                // "I work out at Fitness First."
                || (attribute == "works_at" && after(matched.verb + 1, "out"))
                // "London style timetables."
                || (attribute == "lives_in" && one_of(behind, "style time standards rules"))
                // "A vegan or dead."
                || (matches!(attribute, "diet" | "works_as") && behind == "or")
                // "A doctor of nothing."
                || (attribute == "works_as" && behind == "of" && after(range.end + 1, "nothing none bad my this chaos"))
                // "We're 20 now in the group."
                || (attribute == "age" && sentence.tokens.get(matched.tokens.start).is_some_and(|token| token.is("we")))
                // "My boat is the bath."
                || (attribute == "owns"
                    && kind == Kind::Vehicle
                    && behind == "be"
                    && after(range.end + 1, "a an the")
                    && grammar::value(sentence, range.end + 1, Kind::Thing).is_none())
                || (attribute == "owns" && value_of(&range).starts_with("other "))
                // "A nurse to my houseplants."
                || (attribute == "works_as" && behind == "to" && after(range.end + 1, "my our these those"))
                || (is_person(attribute) && front == "be" && is_adjective(&value_of(&range)))
            {
                return Vec::new();
            }
            let mut values = vec![value_of(&range)];
            if rule.list && !ended && range.end == matched.tokens.end && !(attribute == "owns" && kind == Kind::Noun) {
                values.extend(others(sentence, &range, kind).iter().map(value_of));
            }
            if matches!(attribute, "likes" | "dislikes") {
                values.retain(|_| is_taste(sentence, &range));
            }
            // "Living in Bremen and Ferran, my partner": a place is nobody.
            let front = range.start.checked_sub(1).and_then(|at| sentence.tokens.get(at));
            if is_person(attribute) && front.is_some_and(|token| one_of(&token.word, "in at from near")) {
                return Vec::new();
            }
            // "Allergic to hills, mornings and paying."
            if attribute == "allergic_to" && values.iter().any(|value| is_dull(value)) {
                return Vec::new();
            }
            values.into_iter().map(|value| (attribute.to_owned(), value, ended)).collect()
        }
        Finds::Favorite => match matched.values.as_slice() {
            // "my favorite part" is of what was just told.
            [(Kind::Short, thing), _] | [_, (Kind::Short, thing)]
                if value_of(thing).split(' ').any(|word| one_of(word, "part bit moment of")) =>
            {
                Vec::new()
            }
            [(Kind::Short, thing), (_, value)] | [(_, value), (Kind::Short, thing)] => {
                vec![(format!("favorite {}", value_of(thing).to_lowercase()), value_of(value), false)]
            }
            _ => Vec::new(),
        },
        Finds::DateOf => match matched.values.as_slice() {
            // "We're getting married on 3 May."
            _ if sentence.words.contains("cancelled") || sentence.words.contains("canceled") => Vec::new(),
            [(Kind::Date, date)] => vec![("date of wedding".to_owned(), value_of(date), false)],
            [(_, thing), (_, value)] => {
                let thing = value_of(thing).to_lowercase();
                if one_of(
                    &thing,
                    "thing date day time it one start end rest today tomorrow yesterday price invoice bill total",
                ) {
                    return Vec::new();
                }
                let thing = thing
                    .trim_start_matches("new ")
                    .trim_start_matches("note ")
                    .trim_start_matches("the ")
                    .trim_start_matches("my ");
                if thing.contains("birthday") || thing.contains("bday") {
                    return vec![("birthday".to_owned(), value_of(value), false)];
                }
                vec![(format!("date of {}", thing.strip_suffix(" date").unwrap_or(thing)), value_of(value), false)]
            }
            _ => Vec::new(),
        },
        Finds::Related | Finds::RelatedEnded => {
            let relation = matched.values.iter().find(|(kind, _)| *kind == Kind::Relation);
            let name = matched.values.iter().find(|(kind, _)| *kind == Kind::Name);
            let (Some((_, relation)), Some((_, name))) = (relation, name) else { return Vec::new() };
            let word = sentence.tokens.get(relation.start).map_or("", |token| token.word.as_str());
            let Some(attribute) = relation_of(tokens::singular(word)) else { return Vec::new() };
            // "My friend Google."
            let first = value_of(name).to_lowercase();
            if lexicon::FIRMS.contains(first.as_str()) || one_of(&first, "siri alexa coffee wine chocolate beer tea") {
                return Vec::new();
            }
            let mut names = vec![value_of(name)];
            if tokens::singular(word) != word {
                names.extend(others(sentence, name, Kind::Name).iter().map(value_of));
            }
            // "Tom is my brother's friend."
            if name.start < relation.start
                && sentence.tokens.get(relation.end).is_some_and(|token| token.raw == "'s")
                && !sentence.tokens.get(relation.end + 1).is_some_and(|token| token.is("name"))
            {
                return Vec::new();
            }
            // "At Google, that's my brother"; "my brother is Catholic".
            let front = |range: &Range<usize>| {
                range
                    .start
                    .checked_sub(1)
                    .and_then(|at| sentence.tokens.get(at))
                    .map_or("", |token| token.word.as_str())
            };
            if (name.start < relation.start && one_of(front(name), "in at from to near"))
                || (one_of(front(name), "be 's") && is_adjective(&value_of(name)))
            {
                return Vec::new();
            }
            let ended = rule.finds == Finds::RelatedEnded;
            names.into_iter().map(|name| (attribute.to_owned(), name, ended)).collect()
        }
        Finds::Unrelated => last.map(|(_, range)| ("partner".to_owned(), value_of(&range), true)).into_iter().collect(),
    }
}

/// More values of a kind behind one: "nuts, eggs and shellfish".
pub(super) fn others(sentence: &Sentence, first: &Range<usize>, kind: Kind) -> Vec<Range<usize>> {
    let from = first.end;
    let mut found = Vec::new();
    let first_doing = sentence.tokens.get(first.start).is_some_and(|token| token.word.ends_with("ing"));
    let mut at = from;
    loop {
        // "Italian and Ladin, properly, and English".
        let mut next = at;
        let mut joined = false;
        while let Some(token) = sentence.tokens.get(next) {
            if one_of(token.word.as_str(), ", and & plus or") {
                joined = true;
                next += 1;
            } else {
                match grammar::filler(&sentence.tokens, next) {
                    0 => break,
                    words => next += words,
                }
            }
        }
        if !joined {
            return found;
        }
        // "and also", "and a bit of".
        loop {
            let word = |at: usize| sentence.tokens.get(at).map_or("", |token| token.word.as_str());
            next += match (word(next), word(next + 1), word(next + 2)) {
                ("a", "bit" | "little" | "smattering" | "touch", "of") | ("a", "little", "bit") => 3,
                ("a", "little", _) | ("some", "basic", _) => 2,
                // What was passed over as an adverb: "a bit of".
                ("of", ..) => 1,
                ("some" | "then" | "especially" | "above" | "enough" | "passable" | "decent", ..) => 1,
                _ if lexicon::ADVERBS.contains(word(next)) => 1,
                _ => break,
            };
        }
        let Some((range, end)) = grammar::value(sentence, next, kind) else { return found };
        let open = matches!(kind, Kind::Noun | Kind::Doing);
        let ends = sentence
            .tokens
            .get(end)
            .is_none_or(|token| token.ends_clause() || one_of(&token.word, "and so because since but"));
        // Of noun phrases only what cannot be the next statement.
        let doing = |at: usize| sentence.tokens.get(at).is_some_and(|token| token.word.ends_with("ing"));
        let like_first = doing(range.start) == first_doing && first.len() <= if first_doing { 5 } else { 3 };
        if open && (!ends || range.len() > 2 || !like_first) {
            return found;
        }
        found.push(range);
        at = end;
    }
}

/// What nobody is allergic to but in jest.
const DULL: &str = "ex boss job life december january people work morning mornings school fun drama nonsense stupid stupidity sport sports exercise exercising cardio running effort bullshit commitment small talk meetings meeting mondays emails email deadlines paperwork spreadsheets responsibility politics bad losing winning waking getting being money housework homework chores cleaning shopping adulting hills paying mistakes";

fn is_dull(value: &str) -> bool {
    let small = value.to_lowercase();
    let first = small.split(' ').next().unwrap_or_default();
    one_of(first, DULL)
        || lexicon::DAYS.contains(tokens::singular(first))
        || (lexicon::TOOLS.contains(first) && first != "latex")
}

/// Whether what is liked is a sort of thing, rather than the one at hand.
pub(super) fn is_taste(sentence: &Sentence, range: &Range<usize>) -> bool {
    let word = |at: usize| sentence.tokens.get(at).map_or("", |token| token.word.as_str());
    let article = range.start.checked_sub(1).map_or("", word);
    let first = word(range.start);
    let vague = one_of(
        first,
        "mine option version answer different big huge massive total complete favorite when seeing hearing idea way fact look talking chatting being having getting thing things stuff new part bit more lot lots such same other next first last how",
    );
    // "The ocean", but not "the dark sky", which is that of a picture.
    let nature = (range.len() == 1 || word(range.start + 1) == "of") && lexicon::NATURE.contains(first)
        // "The Beatles".
        || article == "the" && sentence.tokens.get(range.start).is_some_and(|token| token.capital);
    let vague = match first {
        "being" => range.len() == 1,
        // "Time", but "time travel".
        "time" => range.len() == 1,
        _ => vague,
    };
    let capital = |at: usize| sentence.tokens.get(at).is_some_and(|token| token.capital);
    // "I hate my phone": the one at hand. "Tom's support", but "Charlotte's Web".
    let own = one_of(article, "my our your this that these those his her their its")
        || (word(range.start + 1) == "'s" && !capital(range.start + 2));
    // "I lost my love of music."
    let own = own || sentence.words.contains("lost");
    !vague && !own && (article != "the" && first != "the" || nature)
}

/// The value of a plan: what is done, without when.
fn plan(sentence: &Sentence, text: &str, matched: &Match) -> Option<String> {
    if let Some((_, range)) = matched.values.last() {
        // An age is no plan.
        if sentence.tokens.get(range.start).is_some_and(|token| token.is("turning")) {
            return None;
        }
        return Some(text_of(text, &sentence.tokens, range).to_owned());
    }
    let tokens = &sentence.tokens;
    // From the word that says what is done up to when.
    let start = matched.tokens.clone().find(|at| {
        tokens.get(*at).is_some_and(|token| {
            token.word.ends_with("ing")
                || one_of(token.word.as_str(), "appointment interview surgery operation exam audition")
        })
    })?;
    let is_time = |at: usize| {
        tokens.get(at).is_some_and(|token| {
            let word = token.word.as_str();
            lexicon::MONTHS.contains(word)
                || lexicon::DAYS.contains(word)
                || is_season(word)
                || word.parse::<u32>().is_ok()
                || one_of(word, "week month year weekend")
        })
    };
    let when = (start + 1..(start + 9).min(tokens.len())).find(|at| {
        tokens.get(*at).is_some_and(|token| one_of(token.word.as_str(), "in next on this from at"))
            && (is_time(at + 1) || is_time(at + 2))
    })?;
    let clear = (start..when).all(|at| tokens.get(at).is_some_and(|token| !token.ends_clause()));
    // "Having my hair cut on Tuesday" is no plan of any weight; surgery is.
    let word = |at: usize| tokens.get(at).map_or("", |token| token.word.as_str());
    let soon = |at: usize| lexicon::DAYS.contains(word(at)) || one_of(word(at), "weekend week");
    let errand = word(start) == "turning"
        || one_of(word(start), "having getting taking leaving giving doing")
            && (soon(when + 1) || soon(when + 2))
            && !(start..when).any(|at| one_of(word(at), "surgery operation exam interview baby audition"));
    // "Retiring", "knee surgery" say enough without more.
    let event = !word(start).ends_with("ing");
    let weighty = event || one_of(word(start), "retiring moving emigrating graduating marrying");
    let described = |at: &usize| {
        event
            && tokens.get(*at).is_some_and(|token| !token.mark)
            && !lexicon::STOPS.contains(word(*at))
            && !lexicon::DETERMINERS.contains(word(*at))
    };
    let from = (matched.verb..start).rev().take_while(described).last().unwrap_or(start);
    (clear && !errand && (weighty || when > start + 1)).then(|| text_of(text, tokens, &(from..when)).to_owned())
}

fn is_season(word: &str) -> bool {
    one_of(word, "spring summer autumn fall winter january december")
}

/// Whether a word in capitals says of what sort somebody is: "I'm Catholic", "I'm Danish".
pub(super) fn is_adjective(word: &str) -> bool {
    let small = word.to_lowercase();
    if one_of(
        &small,
        "eric dominic cedric frederic ludovic vivian marian ian sean jean dean lilian lillian julian fabian sebastian christian adrian damian brian bryan gillian maximilian cian killian trish dorian flavian florian kilian rani",
    ) {
        return false;
    }
    ["ish", "ese", "ian", "ican", "ean", "ic", "ist", "ani", "ean", "aqi"].iter().any(|ending| small.ends_with(ending))
        || one_of(
            &small,
            "french dutch german greek thai swiss czech pakistani israeli iraqi muslim jewish hindu sikh buddhist team aries taurus gemini cancer leo virgo libra scorpio sagittarius capricorn aquarius pisces ok",
        )
}

/// Values of `tokens` as they are written.
pub(super) fn text_of<'t>(text: &'t str, tokens: &[Token], range: &Range<usize>) -> &'t str {
    let part = tokens.get(range.clone()).unwrap_or(&[]);
    match (part.first(), part.last()) {
        (Some(first), Some(last)) => {
            text.get(first.range.start..last.range.end).unwrap_or_default().trim_matches(['.', ',', '!'])
        }
        _ => "",
    }
}
