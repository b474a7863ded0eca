//! Patterns over the words of a sentence.
//!
//! A pattern is written as text, `@ live|reside in <place>`, and held against a sentence at every place. Its parts:
//!
//! | part | matches |
//! |---|---|
//! | `word`, `a\|b` | the word, one of the words (see [`super::tokens`]: `be`, `have` and `do` stand for all forms of the present) |
//! | `{class}` | one of the words of a class: see [`CLASSES`](super::rules::CLASSES) |
//! | `word?` | the same, or nothing |
//! | `@` | who it is about: `I`, `we`, a name, `my sister Eva`, or nobody where a sentence leaves the subject out |
//! | `@me` | the speaker alone |
//! | `<kind>` | a value of a kind, which is taken out: see [`Kind`] |
//! | `...`, `....` | up to six words of the same clause; with marks between them |
//! | `^`, `$` | the beginning and the end of a clause |
//!
//! Adverbs may stand between any two parts, and what is said like one: "these days", ", sadly,". A value is as long as its kind allows, and has no second try: patterns are tried one by one, so what a
//! shorter value would match is a pattern of its own.

use super::lexicon as lex;
use super::rules::CLASSES;
use super::tokens::{Sentence, Token, in_set, singular};
use std::ops::Range;

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A place: words in capitals.
    Place,
    /// A company or a school: words in capitals, with what joins them.
    Org,
    /// The name of a person or an animal.
    Name,
    /// An occupation: up to five words, the last of them in the list.
    Occupation,
    /// An age in years.
    Age,
    /// A date.
    Date,
    /// A language.
    Language,
    /// A relation: wife, brother, friend.
    Relation,
    /// A kind of animal, with what describes it.
    Pet,
    /// A durable thing, with what describes it.
    Thing,
    /// A sport, an instrument, a game.
    Game,
    /// A diet.
    Diet,
    /// A product or a language that is used.
    Tool,
    /// Any noun phrase.
    Noun,
    /// A noun phrase that begins with a word in -ing.
    Doing,
    /// One to three words: what is a favorite, what has a date.
    Short,
    /// An [`Org`](Kind::Org) that is told by its capitals.
    Company,
    /// A product of the list, not just a word in capitals.
    Product,
    /// A vehicle or an instrument: what is "mine" because I own it.
    Vehicle,
    /// What one does, from its verb on.
    Verb,
    /// What one does, in up to four words.
    Phrase,
    /// A noun phrase that begins with a word in -ing and has a word in capitals: a journey, a race.
    Trip,
    /// An occupation where nothing else can stand ("work as a …"): told by its ending where it is in no list.
    Job,
    /// A kind of workplace: "a law firm", "the birth centre".
    Workplace,
    /// What has a date: a noun phrase whose head is in a list.
    Event,
    /// An allergy by its food: what describes it left out.
    Allergen,
    /// An [`Org`](Kind::Org) that is a school by its name.
    School,
    /// A trip, and where it goes.
    Journey,
    /// What is studied: a noun phrase whose head is in a list.
    Discipline,
    /// What people are allergic to: a noun phrase whose head is in a list.
    Trigger,
    /// An [`Org`](Kind::Org) that can be nothing but an employer by its name.
    Employer,
}

impl Kind {
    /// Whether it takes every value that another takes.
    #[cfg(test)]
    fn takes(self, other: Kind) -> bool {
        use Kind::*;
        matches!(
            (self, other),
            (Job, Occupation)
                | (Org, Company | School | Employer)
                | (Company, Employer)
                | (Noun, Doing | Discipline | Trigger)
                | (Tool, Product)
                | (Doing, Trip)
        )
    }

    fn named(name: &str) -> Option<Kind> {
        use Kind::*;
        Some(match name {
            "place" => Place,
            "org" => Org,
            "name" => Name,
            "occupation" => Occupation,
            "age" => Age,
            "date" => Date,
            "language" => Language,
            "relation" => Relation,
            "pet" => Pet,
            "thing" => Thing,
            "game" => Game,
            "diet" => Diet,
            "tool" => Tool,
            "noun" => Noun,
            "doing" => Doing,
            "short" => Short,
            "product" => Product,
            "company" => Company,
            "phrase" => Phrase,
            "vehicle" => Vehicle,
            "verb" => Verb,
            "trip" => Trip,
            "job" => Job,
            "workplace" => Workplace,
            "event" => Event,
            "allergen" => Allergen,
            "school" => School,
            "journey" => Journey,
            "discipline" => Discipline,
            "trigger" => Trigger,
            "employer" => Employer,
            _ => return None,
        })
    }
}

#[derive(Debug)]
enum Part {
    Words(Vec<&'static str>, bool),
    Subject { speaker: bool },
    Value(Kind),
    Gap { marks: bool },
    Begin,
    End,
}

/// A pattern, read.
#[derive(Debug)]
pub(super) struct Pattern(Vec<Part>);

/// Who a match is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    /// Who speaks.
    Speaker,
    /// Tokens of the sentence: a name.
    Named(Range<usize>),
    /// Who was spoken of before: a `he` or `she` without a name in its sentence.
    Before,
}

/// A place of a sentence where a pattern holds.
#[derive(Debug, Clone)]
pub(super) struct Match {
    pub subject: Subject,
    /// The token behind the subject.
    pub verb: usize,
    /// The values, as tokens of the sentence.
    pub values: Vec<(Kind, Range<usize>)>,
    pub tokens: Range<usize>,
}

/// Words that a gap takes at most.
const GAP: usize = 6;
/// Words that no gap takes: what stands behind them is denied, no more than like it, or of somebody else.
const TURNING: &str =
    "not never no hardly barely neither nor than basically practically virtually essentially you he she they who whose";

impl Pattern {
    /// Reads a pattern; None if it has a kind or a class that is none.
    pub(super) fn read(text: &'static str) -> Option<Pattern> {
        let class = |word: &'static str| match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
            Some(name) => CLASSES.iter().find(|(class, _)| *class == name).map(|(_, words)| words.split(' ').collect()),
            None => Some(vec![word]),
        };
        let part = |part: &'static str| {
            Some(match part {
                "@" => Part::Subject { speaker: false },
                "@me" => Part::Subject { speaker: true },
                "..." => Part::Gap { marks: false },
                "...." => Part::Gap { marks: true },
                "^" => Part::Begin,
                "$" => Part::End,
                _ => match part.strip_prefix('<').and_then(|part| part.strip_suffix('>')) {
                    Some(kind) => Part::Value(Kind::named(kind)?),
                    None => {
                        let (words, optional) = part.strip_suffix('?').map_or((part, false), |words| (words, true));
                        Part::Words(words.split('|').map(class).collect::<Option<Vec<_>>>()?.concat(), optional)
                    }
                },
            })
        };
        text.split_whitespace().map(part).collect::<Option<Vec<Part>>>().map(Pattern)
    }

    /// Whether it holds wherever another does: part by part it takes what that takes.
    #[cfg(test)]
    pub(super) fn covers(&self, other: &Pattern) -> bool {
        fn covers(own: &[Part], other: &[Part]) -> bool {
            // What may be missing, and a gap that takes nothing.
            let passed = matches!(own, [Part::Words(_, true) | Part::Gap { .. }, ..])
                && covers(own.get(1..).unwrap_or_default(), other);
            passed
                || match (own, other) {
                    ([], []) => true,
                    ([a, own @ ..], [b, other @ ..]) => {
                        let same = match (a, b) {
                            (Part::Words(a, a_may), Part::Words(b, b_may)) => {
                                (*a_may || !b_may) && b.iter().all(|word| a.contains(word))
                            }
                            (Part::Subject { speaker: a }, Part::Subject { speaker: b }) => a == b,
                            (Part::Value(a), Part::Value(b)) => a == b || a.takes(*b),
                            (Part::Gap { marks: a }, Part::Gap { marks: b }) => a == b,
                            (Part::Begin, Part::Begin) | (Part::End, Part::End) => true,
                            _ => false,
                        };
                        same && covers(own, other)
                    }
                    _ => false,
                }
        }
        covers(&self.0, &other.0)
    }

    /// Of the words that the pattern needs those that fewest sentences have: `common` ones weigh most.
    pub(super) fn rarest(&self, common: &[&str]) -> Option<&[&'static str]> {
        let needed = self.0.iter().filter_map(|part| match part {
            Part::Words(words, false) => Some(words.as_slice()),
            _ => None,
        });
        needed.min_by_key(|words| words.iter().map(|word| if common.contains(word) { 50 } else { 1 }).sum::<usize>())
    }

    /// Whether the sentence has the words that the pattern needs: nearly always it has not.
    pub(super) fn may_hold(&self, sentence: &Sentence) -> bool {
        self.0.iter().all(|part| match part {
            Part::Words(words, false) => words.iter().any(|word| sentence.words.contains(*word)),
            _ => true,
        })
    }

    /// Whether it says itself whom it is about: by a subject, or by a word of the first person.
    pub(super) fn is_personal(&self) -> bool {
        self.0.iter().any(|part| match part {
            Part::Subject { .. } => true,
            Part::Words(words, _) => words.iter().any(|word| one_of(word, "i we my our me us")),
            _ => false,
        })
    }

    /// Where the pattern first holds from a token on.
    pub(super) fn find(&self, sentence: &Sentence, from: usize) -> Option<Match> {
        (from..sentence.tokens.len()).find_map(|at| {
            let mut found = Match { subject: Subject::Speaker, verb: at, values: Vec::new(), tokens: at..at };
            found.tokens.end = self.matches(sentence, at, 0, &mut found)?;
            Some(found)
        })
    }

    /// Holds the parts from `part` on against the tokens from `at` on; gives the token behind.
    fn matches(&self, sentence: &Sentence, at: usize, part: usize, found: &mut Match) -> Option<usize> {
        let Some(current) = self.0.get(part) else { return Some(at) };
        let tokens = &sentence.tokens;
        if let Some(end) = self.one(sentence, at, part, current, found) {
            return Some(end);
        }
        // An adverb in between, but not in front of the first part.
        let skipped = match filler(tokens, at) {
            0 => usize::from(is_perfect(tokens, at)),
            words => words,
        };
        if part > 0 && skipped > 0 { self.matches(sentence, at + skipped, part, found) } else { None }
    }

    fn one(&self, sentence: &Sentence, at: usize, part: usize, current: &Part, found: &mut Match) -> Option<usize> {
        let tokens = &sentence.tokens;
        match current {
            Part::Words(words, optional) => {
                if let Some(token) = tokens.get(at)
                    && words.iter().any(|word| token.is(word))
                    && let Some(end) = self.matches(sentence, at + 1, part + 1, found)
                {
                    return Some(end);
                }
                if *optional { self.matches(sentence, at, part + 1, found) } else { None }
            }
            Part::Subject { speaker } => subjects(sentence, at).into_iter().find_map(|(subject, end)| {
                if *speaker && subject != Subject::Speaker {
                    return None;
                }
                (found.subject, found.verb) = (subject, end);
                if !agrees(tokens, at, end, &found.subject) {
                    return None;
                }
                self.matches(sentence, end, part + 1, found)
            }),
            Part::Value(kind) => {
                // Written small, a name is only told by what stands in front of it.
                if part == 0 && sentence.small && *kind == Kind::Name {
                    return None;
                }
                let (value, end) = value(sentence, at, *kind)?;
                found.values.push((*kind, value));
                let matched = self.matches(sentence, end, part + 1, found);
                if matched.is_none() {
                    found.values.pop();
                }
                matched
            }
            Part::Gap { marks } => (0..=GAP).find_map(|skipped| {
                let clear = tokens
                    .get(at..at + skipped)?
                    .iter()
                    .all(|token| *marks || !(token.ends_clause() || one_of(token.word.as_str(), TURNING)));
                if clear { self.matches(sentence, at + skipped, part + 1, found) } else { None }
            }),
            Part::Begin => {
                let begins = at == 0 || tokens.get(at - 1).is_some_and(begins_clause);
                if begins { self.matches(sentence, at, part + 1, found) } else { None }
            }
            Part::End => {
                let ends = tokens.get(at).is_none_or(|token| {
                    token.ends_clause()
                        || one_of(token.word.as_str(), "and but so because since lol haha btw fr if or when")
                });
                if ends { self.matches(sentence, at, part + 1, found) } else { None }
            }
        }
    }
}

/// What is said like an adverb, in several words.
const FILLERS: [&[&str]; 15] = [
    &["these", "days"],
    &["right", "now"],
    &["at", "the", "moment"],
    &["at", "the", "minute"],
    &["by", "the", "way"],
    &["of", "course"],
    &["for", "now"],
    &["in", "fact"],
    &["at", "last"],
    &["as", "well"],
    &["by", "now"],
    &["after", "all"],
    &["you", "know"],
    &["to", "be", "honest"],
    &["a", "bit"],
];

/// How many tokens from one on are an adverb, or what stands for one, with the commas around it.
pub(super) fn filler(tokens: &[Token], at: usize) -> usize {
    let word = |at: usize| tokens.get(at).map_or("", |token| token.word.as_str());
    // "I do love figs."
    let stressed = word(at) == "do" && tokens.get(at + 1).is_some_and(is_base);
    if lex::ADVERBS.contains(word(at)) || stressed {
        return 1;
    }
    if word(at) == "," {
        let inside = filler(tokens, at + 1);
        return if inside > 0 && word(at + 1 + inside) == "," { inside + 2 } else { 0 };
    }
    let phrase = FILLERS.iter().find(|phrase| phrase.iter().enumerate().all(|(n, part)| word(at + n) == *part));
    phrase.map_or(0, |phrase| phrase.len())
}

/// Whether a `have` only makes the tense of the verb behind it.
fn is_perfect(tokens: &[Token], at: usize) -> bool {
    let verb = (at + 1..tokens.len())
        .find(|at| tokens.get(*at).is_some_and(|token| !lex::ADVERBS.contains(token.word.as_str())));
    let verb = verb.and_then(|at| tokens.get(at)).map_or("", |token| token.word.as_str());
    tokens.get(at).is_some_and(|token| token.is("have"))
        && (verb.ends_with("ed")
            || one_of(
                verb,
                "left quit sold got bought lost become gone taken given thrown kept grown begun swapped broken put moved ditched",
            ))
}

/// Whether the verb at `verb` is of the person of its subject, which stands from `at` on.
fn agrees(tokens: &[Token], at: usize, verb: usize, subject: &Subject) -> bool {
    let verb_at = (verb..tokens.len())
        .find(|at| tokens.get(*at).is_some_and(|token| !lex::ADVERBS.contains(token.word.as_str())));
    let Some(token) = verb_at.and_then(|at| tokens.get(at)) else { return false };
    let third = one_of(
        token.raw.as_str(),
        "is has does lives works plays speaks studies uses owns loves likes hates enjoys prefers drives adores detests teaches goes keeps runs rides grows comes attends",
    );
    let base = is_base(token);
    match subject {
        // Where the subject is left out, "like" is hardly ever the verb, and "use Postgres" tells somebody to.
        Subject::Speaker => {
            !(third
                || verb == at
                    && one_of(
                        token.raw.as_str(),
                        "like can use run keep go drive eat play take ride grow come attend speak study",
                    ))
        }
        Subject::Named(_) | Subject::Before => !base,
    }
}

/// Whether it is a verb of the first person that facts are said with.
fn is_base(token: &Token) -> bool {
    one_of(
        token.raw.as_str(),
        "live work play speak study use own love like hate enjoy prefer drive have am do run eat keep go get know adore detest teach ride grow come attend",
    )
}

fn begins_clause(token: &Token) -> bool {
    token.ends_clause() || one_of(token.word.as_str(), "and but so because since or plus that")
}

/// Who a clause that begins at a token may be about, and where what is said of them begins.
fn subjects(sentence: &Sentence, at: usize) -> Vec<(Subject, usize)> {
    let tokens = &sentence.tokens;
    let Some(token) = tokens.get(at) else { return Vec::new() };
    let mut found = Vec::new();
    if token.is("i") || token.is("we") {
        found.push((Subject::Speaker, at + 1));
        return found;
    }
    if let Some(name) = name(sentence, at).filter(|_| {
        !sentence.small
            && !is_behind_preposition(tokens, at)
            // "Old Bessie" is hardly a person.
            && !at.checked_sub(1).and_then(|at| tokens.get(at)).is_some_and(|token| one_of(token.word.as_str(), "old ol the this that"))
            && !at.checked_sub(1).is_some_and(|at| is_proper(sentence, at))
    }) {
        let end = skip_comma(tokens, name.end, &name);
        // "Left the Acme yesterday": a verb has a capital as well where a sentence begins with it.
        let verb = name.len() == 1 && at == 0;
        found.push((Subject::Named(name), end));
        if verb {
            found.push((Subject::Speaker, at));
        }
        return found;
    }
    // "My sister Eva lives in Rome", "our son Sami, he's allergic".
    if (token.is("my") || token.is("our"))
        && let Some((relation, _)) = value(sentence, at + 1, Kind::Relation)
        && let Some(name) = name(sentence, skip(tokens, relation.end))
    {
        // "My dad, Henrik, turned 70."
        let apposed = tokens.get(relation.end).is_some_and(|token| token.is(","))
            && tokens.get(name.end).is_some_and(|token| token.is(","));
        let end = skip_comma(tokens, name.end, &name);
        let end = if apposed && end == name.end { end + 1 } else { end };
        found.push((Subject::Named(name), end));
        return found;
    }
    if token.is("he") || token.is("she") {
        found.extend(pronoun(sentence, at).map(|subject| (subject, at + 1)));
        return found;
    }
    // Nobody is named: of the clause in front, or of the speaker where a sentence begins so.
    let third = one_of(token.raw.as_str(), "is has does lives works plays speaks studies uses owns loves likes hates");
    let before = at.checked_sub(1).and_then(|before| tokens.get(before));
    if before.is_some_and(|before| one_of(before.word.as_str(), "and , but then")) {
        let explicit = (0..at).rev().find_map(|at| {
            let token = tokens.get(at)?;
            if token.is("i") || token.is("we") {
                return Some(Subject::Speaker);
            }
            if one_of(token.word.as_str(), "you they he she who it") {
                return Some(Subject::Named(0..0));
            }
            None
        });
        // "Eva lives in Lyon and plays the cello."
        if third && before.is_some_and(|before| before.is("and")) {
            found.extend(
                pronoun(sentence, at).filter(|_| explicit != Some(Subject::Speaker)).map(|subject| (subject, at)),
            );
        }
        match explicit {
            Some(Subject::Speaker) if !third => found.push((Subject::Speaker, at)),
            Some(_) => {}
            None if !third && (at <= 4 || is_elided(tokens)) => found.push((Subject::Speaker, at)),
            None => {}
        }
    } else if !third && before.is_none_or(Token::ends_clause) {
        found.push((Subject::Speaker, at));
    }
    found
}

/// Whether a sentence begins with a verb, its subject left out: "got my licence and bought a boat".
fn is_elided(tokens: &[Token]) -> bool {
    tokens.first().is_some_and(|first| {
        let word = first.word.as_str();
        (word.ends_with("ed") && word.len() > 4)
            || one_of(word, "got went took had been left quit sold bought finally just moved")
    })
}

fn skip(tokens: &[Token], at: usize) -> usize {
    if tokens.get(at).is_some_and(|token| token.is(",") || token.is("-") || token.is("(")) { at + 1 } else { at }
}

/// "Eva, she …", "Eva, who …": what is said of Eva may stand behind a comma and a pronoun.
fn skip_comma(tokens: &[Token], at: usize, name: &Range<usize>) -> usize {
    let pronoun = |at: usize| tokens.get(at).is_some_and(|token| one_of(token.word.as_str(), "he she who"));
    let comma = tokens.get(at).is_some_and(|token| token.is(","));
    match name.end == at {
        true if comma && pronoun(at + 1) => at + 2,
        true if tokens.get(at).is_some_and(|token| token.is("who")) => at + 1,
        _ => at,
    }
}

/// Whether what stands at a token is where, with whom or from whom, not who.
fn is_behind_preposition(tokens: &[Token], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| tokens.get(before));
    before.is_some_and(|before| one_of(before.word.as_str(), "in at from to near of with for on by about into"))
}

/// Whom a `he` or `she` means: the one name in front of it, or whoever was spoken of before.
fn pronoun(sentence: &Sentence, at: usize) -> Option<Subject> {
    if sentence.small {
        return Some(Subject::Before);
    }
    let mut named =
        (0..at).filter(|at| !is_behind_preposition(&sentence.tokens, *at)).filter_map(|at| name(sentence, at));
    let Some(first) = named.next() else { return Some(Subject::Before) };
    let end = first.end;
    named.find(|other| other.start >= end).is_none().then_some(Subject::Named(first))
}

/// A value of a kind that begins at a token, and the token behind it.
pub(super) fn value(sentence: &Sentence, at: usize, kind: Kind) -> Option<(Range<usize>, usize)> {
    let tokens = &sentence.tokens;
    let word = |at: usize| tokens.get(at).filter(|token| !token.mark).map(|token| token.word.as_str());
    let found = match kind {
        Kind::Name if sentence.small && !is_introduced(tokens, at) => return None,
        Kind::Name => name(sentence, at)?,
        Kind::Place => {
            // "The Hague", but not "the office".
            let article = word(at) == Some("the")
                && (!sentence.small
                    || word(at + 1).is_some_and(|next| {
                        one_of(
                            next,
                            "netherlands states uk us usa philippines hague bronx highlands gambia midlands alps",
                        )
                    }));
            place(sentence, at + usize::from(article))?
        }
        Kind::Org => org(sentence, at)?,
        Kind::Company if sentence.small => return None,
        Kind::Company => org(sentence, at)?,
        Kind::Occupation => occupation(sentence, at)?,
        Kind::Job => occupation(sentence, at).or_else(|| job(sentence, at))?,
        Kind::Workplace => {
            let named = matches!(word(at), Some("a" | "an" | "the" | "my" | "our"));
            let found = named.then(|| described(sentence, at, &lex::WORKPLACES, 4))??;
            is_whole(tokens, found.end).then_some(found)?
        }
        Kind::Event => {
            let found = described(sentence, at, &lex::EVENTS, 4)?;
            let clean = found.clone().all(|at| !word(at).is_some_and(|word| lex::PRONOUNS.contains(word)));
            clean.then_some(found)?
        }
        Kind::School => {
            let found = org(sentence, at)?;
            let school = |at: usize| {
                word(at).is_some_and(|word| {
                    one_of(
                        word,
                        "university uni college school academy institute polytechnic high conservatory conservatoire",
                    )
                })
            };
            found.clone().any(school).then_some(found)?
        }
        Kind::Discipline => {
            let found = described(sentence, at, &lex::DISCIPLINES, 3)?;
            let show = word(found.end) == Some("and") && word(found.end + 1) == Some("order");
            (!show).then_some(found)?
        }
        Kind::Trigger => described(sentence, at, &lex::TRIGGERS, 3)?,
        Kind::Employer => {
            let article = usize::from(word(at) == Some("the"));
            let found = org(sentence, at + article)?;
            let firm =
                |at: usize| word(at).is_some_and(|word| lex::WORKPLACES.contains(word) || lex::FIRMS.contains(word));
            found.clone().any(firm).then_some(found.clone())?
        }
        Kind::Journey => {
            let head = described(sentence, at, &lex::JOURNEYS, 4)?;
            match word(head.end) {
                Some("to" | "across" | "around" | "through" | "in" | "from") => {
                    noun(sentence, head.end + 1, 4).map_or(head.clone(), |to| head.start..to.end)
                }
                _ => head,
            }
        }
        Kind::Allergen => {
            let mut found = noun(sentence, at, 5)?;
            while !found.is_empty()
                && word(found.start).is_some_and(|word| {
                    lex::ADVERBS.contains(word)
                        || one_of(word, "bad nasty serious severe mild terrible awful horrible big huge little slight deadly strong major proper real weird rare ridiculous massive lifelong")
                })
            {
                found.start += 1;
            }
            found
        }
        Kind::Age => age(sentence, at)?,
        Kind::Date => date(sentence, at)?,
        Kind::Language => {
            let long = word(at).is_some_and(|word| lex::LANGUAGES.contains(word));
            // "German", but not "German wines".
            let alone = tokens.get(at + 1).is_none_or(|next| {
                next.mark
                    || [&lex::STOPS, &lex::ADVERBS].iter().any(|set| set.contains(next.word.as_str()))
                    || one_of(next.word.as_str(), "fluently natively badly speaker speakers household together plus")
            });
            (long && alone).then_some(at..at + 1)?
        }
        Kind::Relation => {
            let best = word(at).map_or(0, |word| {
                let described = "best dear old little big older younger elder eldest youngest twin new late good oldest half direct two three both lovely closest former";
                usize::from(one_of(word, described))
            });
            let at = at + best;
            let first = word(at)?;
            (lex::RELATIONS.contains(first) || lex::RELATIONS.contains(singular(first))).then_some(at..at + 1)?
        }
        Kind::Pet => {
            let found = described(sentence, at, &lex::PETS, 4).filter(|found| is_whole(tokens, found.end))?;
            // "A dog's life", "a horse in this race".
            let article = |at: usize| matches!(word(at), Some("a" | "an"));
            let proverb = (article(at) || at.checked_sub(1).is_some_and(article))
                && (tokens.get(found.end).is_some_and(|token| token.raw == "'s")
                    || word(found.end) == Some("in") && matches!(word(found.end + 1), Some("this" | "the" | "that")));
            (!proverb).then_some(found)?
        }
        Kind::Thing => described(sentence, at, &lex::THINGS, 5)?,
        Kind::Vehicle => described(sentence, at, &lex::VEHICLES, 4).filter(|found| is_whole(tokens, found.end))?,
        Kind::Verb => noun(sentence, at, 7)?,
        Kind::Game => {
            let at = if matches!(word(at), Some("the" | "some" | "a" | "my")) { at + 1 } else { at };
            described(sentence, at, &lex::GAMES, 2)?
        }
        Kind::Diet => {
            // Not what a thing is: "vegan brownies".
            let whole = |end: usize| {
                is_whole(tokens, end)
                    || word(end).is_some_and(|word| {
                        one_of(word, "household family home house diet thing person guy girl like myself")
                    })
            };
            let start = (at..at + 2).find(|at| listed(tokens, *at, &lex::DIETS) > 0)?;
            if !whole(start + listed(tokens, start, &lex::DIETS)) {
                return None;
            }
            let between = (at..start)
                .all(|at| matches!(word(at), Some("a" | "an" | "strict" | "full" | "proper" | "lifelong" | "total")));
            between.then_some(start..start + listed(tokens, start, &lex::DIETS))?
        }
        Kind::Tool => tool(sentence, at)?,
        Kind::Noun if word(at).is_some_and(|word| word.ends_with("ing") && word.len() > 4) => doing(sentence, at)?,
        Kind::Noun => noun(sentence, at, 6)?,
        Kind::Doing => doing(sentence, at)?,
        Kind::Trip => {
            let found = doing(sentence, at)?;
            found.clone().any(|at| is_proper(sentence, at)).then_some(found)?
        }
        Kind::Product => {
            let found = tool(sentence, at)?;
            let first = tokens.get(found.start)?;
            lex::TOOLS.contains(first.word.as_str()).then_some(found)?
        }
        Kind::Phrase => {
            let end = (at + 1..at + 6).find(|at| word(*at) == Some("for"))?;
            let plain = (at..end).all(|at| {
                word(at).is_some_and(|word| !lex::PRONOUNS.contains(word) && !one_of(word, "do not would be work"))
            });
            plain.then_some(at..end)?
        }
        Kind::Short => noun(sentence, at, 3).map(|found| {
            let end = (found.start..found.end)
                .find(|at| tokens.get(*at).is_some_and(|token| token.is("be")))
                .unwrap_or(found.end);
            found.start..end
        })?,
    };
    let end = found.end;
    (!found.is_empty()).then_some((found, end))
}

/// Whether a word is in a list of words.
pub(super) fn one_of(word: &str, list: &str) -> bool {
    list.split(' ').any(|listed| listed == word)
}

/// Whether what stands in front of a token says that a name follows.
fn is_introduced(tokens: &[Token], at: usize) -> bool {
    let word = |back: usize| at.checked_sub(back).and_then(|at| tokens.get(at)).map_or("", |token| token.word.as_str());
    let noun = |word: &str| lex::RELATIONS.contains(word) || lex::PETS.contains(word);
    let ahead = |by: usize| tokens.get(at + by).map_or("", |token| token.word.as_str());
    // "dez moved out", "fola isn't my roommate any more".
    let denied = usize::from(ahead(2) == "not");
    let followed = (ahead(1) == "moved" && ahead(2) == "out")
        || (ahead(1) == "be" && one_of(ahead(2 + denied), "my our") && noun(ahead(3 + denied)));
    // "me n dario broke up".
    let parted = word(1) == "and" && one_of(word(2), "me i") && one_of(ahead(1), "broke split");
    one_of(word(1), "named called name me")
        || noun(word(1))
        || (one_of(word(1), ", - ( be 's") && (noun(word(2)) || one_of(word(2), "name")))
        || followed
        || parted
}

/// Whether a token is a word in capitals that may be a name.
fn is_proper(sentence: &Sentence, at: usize) -> bool {
    let Some(token) = sentence.tokens.get(at) else { return false };
    let word = token.word.as_str();
    token.capital
        && !token.mark
        && ![&lex::COMMON, &lex::FANTASIES, &lex::CONDITIONS].iter().any(|set| set.contains(word))
}

/// The name of somebody: one to three words in capitals. In texts without capitals one word that is no usual one.
pub(super) fn name(sentence: &Sentence, at: usize) -> Option<Range<usize>> {
    let tokens = &sentence.tokens;
    if sentence.small {
        let word = &tokens.get(at)?;
        let usual = word.mark
            || word.word.len() < 2
            || lex::COMMON.contains(word.word.as_str())
            || lex::STOPS.contains(word.word.as_str())
            || lex::ADVERBS.contains(word.word.as_str())
            || lex::RELATIONS.contains(word.word.as_str())
            || lex::SAID_OF_PEOPLE.contains(word.word.as_str())
            || word.word.ends_with("ing")
            || !word.word.chars().all(char::is_alphabetic);
        return (!usual).then_some(at..at + 1);
    }
    if !is_proper(sentence, at)
        || !tokens.get(at)?.word.chars().all(|c| c.is_alphabetic() || matches!(c, '-' | '\'' | '.'))
    {
        return None;
    }
    let mut end = at + 1;
    while end < at + 4 {
        let joins =
            tokens.get(end).is_some_and(|token| one_of(token.word.as_str(), "de van von der da di la le bin al"));
        if !(is_proper(sentence, end) || joins && (is_proper(sentence, end + 1) || is_proper(sentence, end + 2))) {
            break;
        }
        end += 1;
    }
    Some(at..end)
}

fn place(sentence: &Sentence, at: usize) -> Option<Range<usize>> {
    let tokens = &sentence.tokens;
    let usual = |token: &Token| {
        let word = token.word.as_str();
        token.mark
            || lex::COMMON.contains(word)
            || lex::STOPS.contains(word)
            || lex::ADVERBS.contains(word)
            || lex::MONTHS.contains(word)
            || lex::NUMBERS.contains(word)
            || word.starts_with(|c: char| c.is_ascii_digit())
    };
    let first = tokens.get(at)?;
    if usual(first) || lex::LANGUAGES.contains(first.word.as_str()) {
        // "New York", "Saint Petersburg" begin with usual words.
        let named = one_of(first.word.as_str(), "new old north south east west long")
            && first.capital
            && tokens.get(at + 1).is_some_and(|token| token.capital);
        if !named {
            return None;
        }
    }
    if sentence.small {
        // The word, and the next if it is no usual one and nothing follows.
        let two =
            tokens.get(at + 1).is_some_and(|next| !usual(next)) && tokens.get(at + 2).is_none_or(|next| next.mark);
        return Some(at..at + 1 + usize::from(two));
    }
    if !first.capital {
        return None;
    }
    let mut end = at + 1;
    while let Some(token) = tokens.get(end) {
        if token.capital && !token.mark && (!usual(token) || matches!(token.word.as_str(), "city" | "town" | "new")) {
            end += 1;
        } else if one_of(token.word.as_str(), "de la of upon da do del am an le les on y")
            && tokens.get(end + 1).is_some_and(|next| next.capital && !usual(next))
            && !token.is("on")
        {
            end += 2;
        } else {
            break;
        }
    }
    Some(at..end)
}

fn org(sentence: &Sentence, at: usize) -> Option<Range<usize>> {
    let tokens = &sentence.tokens;
    let at = if tokens.get(at).is_some_and(|token| token.is("the") || token.is("a") || token.is("an")) {
        at + 1
    } else {
        at
    };
    if sentence.small {
        let mut end = at;
        while end < at + 3
            && tokens.get(end).is_some_and(|token| {
                let word = token.word.as_str();
                !token.mark
                    && !lex::STOPS.contains(word)
                    && !lex::ADVERBS.contains(word)
                    && !lex::PRONOUNS.contains(word)
                    && !one_of(word, "home night nights all work work.")
            })
        {
            end += 1;
        }
        return (end > at).then_some(at..end);
    }
    let first = tokens.get(at)?;
    let inner = |token: &Token| {
        token.capital
            && !token.mark
            && !lex::DAYS.contains(token.word.as_str())
            && !lex::MONTHS.contains(token.word.as_str())
    };
    if !inner(first)
        || lex::PRONOUNS.contains(first.word.as_str())
        || one_of(first.word.as_str(), "i christmas easter mum mom dad")
    {
        return None;
    }
    let mut end = at + 1;
    while let Some(token) = tokens.get(end) {
        let next = tokens.get(end + 1);
        let kind = one_of(
            token.word.as_str(),
            "hospice hospital school university clinic bank college bakery museum library restaurant hotel lab academy institute uni dental robotics",
        );
        if kind || (inner(token) && !token.is("i")) {
            end += 1;
        } else if one_of(token.word.as_str(), "& of and for the de 's +")
            && next.is_some_and(|next| inner(next) && !next.is("i") && !lex::COMMON.contains(next.word.as_str()))
        {
            // "Smith and Sons", but not "Halden and Kim": what is joined by "and" must end as firms do.
            if token.is("and")
                && !next.is_some_and(|next| {
                    one_of(next.word.as_str(), "sons co company partners daughters brothers associates")
                })
            {
                break;
            }
            end += 2;
        } else {
            break;
        }
    }
    Some(at..end)
}

fn occupation(sentence: &Sentence, at: usize) -> Option<Range<usize>> {
    let tokens = &sentence.tokens;
    let mut start = at;
    while tokens.get(start).is_some_and(|token| {
        one_of(token.word.as_str(), "a an the new their our your my full-time part-time retired proud certified qualified registered local resident professional freelance self-employed") || (lex::ADVERBS.contains(token.word.as_str()) && !one_of(token.word.as_str(), TURNING))
    }) {
        start += 1;
    }
    // "head of risk".
    if tokens.get(start).is_some_and(|token| token.is("head"))
        && tokens.get(start + 1).is_some_and(|token| token.is("of"))
    {
        let rest = noun(sentence, start + 2, 3)?;
        return Some(start..rest.end);
    }
    let first = tokens.get(start)?;
    let leads = tokens.get(start + 1).is_some_and(|next| one_of(next.word.as_str(), "lead leader"));
    if lex::NO_OCCUPATION.contains(first.word.as_str()) && !leads {
        return None;
    }
    let mut head = None;
    for at in start..start + 5 {
        let Some(token) = tokens.get(at).filter(|token| !token.mark) else { break };
        if lex::STOPS.contains(token.word.as_str()) && !matches!(token.word.as_str(), "of") {
            break;
        }
        // "Basically a therapist."
        if lex::HEDGES.contains(token.word.as_str()) {
            return None;
        }
        let last = token.word.rsplit('-').next().unwrap_or_default();
        let leads = at > start
            && tokens
                .get(at - 1)
                .is_some_and(|before| one_of(before.word.as_str(), "head chief lead senior junior deputy"));
        if in_set(&lex::OCCUPATIONS, &token.word)
            || lex::OCCUPATIONS.contains(last)
            || is_trade(last)
            || (leads && is_agent(last))
            // "A cabinet maker."
            || (last == "maker"
                && at > start
                && tokens.get(at - 1).is_some_and(|of| {
                    !one_of(of.word.as_str(), "decision trouble coffee ice match peace money noise tea bread pasta")
                }))
            || (last == "lead"
                && at > start
                && tokens
                    .get(at - 1)
                    .is_some_and(|of| one_of(of.word.as_str(), "team tech project design squad engineering")))
        {
            head = Some(at + 1);
        }
    }
    Some(start..head?)
}

/// Whether a word that is in no list is an occupation by its ending.
fn is_trade(word: &str) -> bool {
    ["ologist", "ographer", "smith", "wright", "keeper", "maker", "ician", "monger", "therapist"]
        .iter()
        .any(|ending| word.ends_with(ending) && word.len() > ending.len() + 1)
        && !one_of(word, "goalkeeper peacemaker troublemaker timekeeper homemaker matchmaker playmaker")
}

/// Whether a word says who does something.
fn is_agent(word: &str) -> bool {
    word.len() > 4
        && ["er", "or", "ist", "ian", "man", "woman", "ant", "ent", "hand"].iter().any(|end| word.ends_with(end))
}

/// What somebody works as, where nothing but an occupation can stand: up to three words, the last by its ending.
fn job(sentence: &Sentence, at: usize) -> Option<Range<usize>> {
    let found = noun(sentence, at, 3)?;
    let last = sentence.tokens.get(found.end.checked_sub(1)?)?;
    (is_agent(singular(&last.word))
        && !one_of(
            &last.word,
            "newcomer beginner learner owner volunteer winter summer loner loser man woman parent mother father adult person",
        ))
    .then_some(found)
}

fn age(sentence: &Sentence, at: usize) -> Option<Range<usize>> {
    let token = sentence.tokens.get(at)?;
    if let Ok(years) = token.word.parse::<u32>() {
        return (3..=112).contains(&years).then_some(at..at + 1);
    }
    let spelled = token.word.split('-').all(|part| lex::NUMBERS.contains(part))
        && !matches!(token.word.as_str(), "one" | "two" | "hundred");
    if !spelled {
        return None;
    }
    // "forty two".
    let tens = one_of(token.word.as_str(), "twenty thirty forty fifty sixty seventy eighty ninety");
    let ones = sentence
        .tokens
        .get(at + 1)
        .is_some_and(|next| one_of(next.word.as_str(), "one two three four five six seven eight nine"));
    Some(at..at + 1 + usize::from(tens && ones))
}

/// The number of a day: `12`, `3rd`.
fn is_day(word: &str) -> bool {
    if one_of(
        word,
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third twenty-fourth twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first",
    ) {
        return true;
    }
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let ordinal = word.get(digits.len()..).is_some_and(|rest| rest.is_empty() || one_of(rest, "st nd rd th"));
    ordinal && digits.parse::<u32>().is_ok_and(|day| (1..=31).contains(&day))
}

fn is_year(word: &str) -> bool {
    word.len() == 4 && word.parse::<u32>().is_ok_and(|year| (1900..2100).contains(&year))
}

/// A day and a month in either order, with or without a year; a month and a year; figures with marks between them.
fn date(sentence: &Sentence, at: usize) -> Option<Range<usize>> {
    let tokens = &sentence.tokens;
    let word = |at: usize| tokens.get(at).map_or("", |token| token.word.as_str());
    let mut start = at;
    if lex::DAYS.contains(word(start)) {
        start += 1 + usize::from(word(start + 1) == ",");
    }
    start += usize::from(word(start) == "the");
    let first = word(start);
    let figures = |mark: char| {
        let parts: Vec<&str> = first.split(mark).collect();
        parts.len() >= 2
            && parts.len() <= 3
            && parts.iter().all(|part| !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut end = if is_day(first) {
        let month = start + 1 + usize::from(word(start + 1) == "of");
        if !lex::MONTHS.contains(word(month)) {
            return None;
        }
        month + 1
    } else if lex::MONTHS.contains(first)
        && (is_day(word(start + 1)) || (word(start + 1) == "the" && is_day(word(start + 2))))
    {
        start + 2 + usize::from(word(start + 1) == "the")
    } else if (lex::MONTHS.contains(first) && is_year(word(start + 1)))
        || figures('/')
        || (figures('.') && first.matches('.').count() == 2)
        || (figures('-') && first.len() >= 8)
    {
        start + 1
    } else {
        return None;
    };
    if is_year(word(end)) {
        end += 1;
    } else if word(end) == "," && is_year(word(end + 1)) {
        end += 2;
    }
    Some(start..end)
}

/// A noun phrase whose head is in a list: up to `most` words of which the last is the head.
fn described(sentence: &Sentence, at: usize, heads: &lex::Set, most: usize) -> Option<Range<usize>> {
    let tokens = &sentence.tokens;
    let mut start = at;
    while tokens.get(start).is_some_and(|token| {
        lex::DETERMINERS.contains(token.word.as_str())
            || one_of(
                token.word.as_str(),
                "new brand brand-new lovely beautiful trusty beloved little old own second-hand used",
            )
    }) {
        start += 1;
    }
    let mut head = None;
    for at in start..start + most {
        // "Parents' evening."
        if at > start && tokens.get(at).is_some_and(|token| token.is("'")) {
            continue;
        }
        let Some(token) = tokens.get(at).filter(|token| !token.mark) else { break };
        let word = token.word.as_str();
        // "my dad's car" is not mine.
        if word == "'s" && head.is_none() {
            return None;
        }
        let stops = lex::STOPS.contains(word) && !lex::NUMBERS.contains(word);
        if stops
            || lex::DETERMINERS.contains(word)
            || lex::KIN.contains(word)
            || one_of(word, "play playing played do doing watch watching love like hate practise quit stopped started")
        {
            break;
        }
        match listed(tokens, at, heads) {
            0 => {}
            words => head = head.max(Some(at + words)),
        }
    }
    Some(start..head?)
}

/// How many tokens from one on are in a list: "guinea pig" is where the list has `guinea-pig`, "viola da gamba" where it has `viola-da-gamba`.
fn listed(tokens: &[Token], at: usize, set: &lex::Set) -> usize {
    let Some(first) = tokens.get(at).filter(|token| !token.mark) else { return 0 };
    if let Some(second) = tokens.get(at + 1).filter(|token| !token.mark) {
        let two = format!("{}-{}", first.word, second.word);
        if let Some(third) = tokens.get(at + 2).filter(|token| !token.mark)
            && in_set(set, &format!("{two}-{}", third.word))
        {
            return 3;
        }
        if in_set(set, &two) {
            return 2;
        }
    }
    usize::from(in_set(set, &first.word))
}

/// Whether a noun ends in front of a token: "my horse", not "my horse painting".
fn is_whole(tokens: &[Token], at: usize) -> bool {
    tokens.get(at).is_none_or(|token| {
        let word = token.word.as_str();
        token.mark
            || token.capital
            || [&lex::STOPS, &lex::ADVERBS].iter().any(|set| set.contains(word))
            || word.ends_with("ed")
            || (word.ends_with('s') && !word.ends_with("ss"))
            || one_of(word, "named called live lives knows loves hates ate ran got came went slept sat broke bit threw took found knew made kept held fell began cost need needs never again outside lol")
    })
}

fn tool(sentence: &Sentence, at: usize) -> Option<Range<usize>> {
    let tokens = &sentence.tokens;
    let at = if tokens
        .get(at)
        .is_some_and(|token| token.is("a") || token.is("an") || token.is("the") || token.is("my") || token.is("our"))
    {
        at + 1
    } else {
        at
    };
    let token = tokens.get(at)?;
    let known = |token: &Token| lex::TOOLS.contains(token.word.as_str());
    if token.mark || !(known(token) || is_proper(sentence, at)) {
        return None;
    }
    let mut end = at + 1;
    while end < at + 4 {
        let Some(token) = tokens.get(end).filter(|token| !token.mark) else { break };
        let version =
            token.word.starts_with(|c: char| c.is_ascii_digit()) && token.word.len() <= 6 && !token.word.contains(':');
        if version
            || (is_proper(sentence, end) && !lex::MONTHS.contains(token.word.as_str()))
            || (known(token) && token.word.len() > 2)
        {
            end += 1;
        } else {
            break;
        }
    }
    Some(at..end)
}

/// A noun phrase that begins with a word in -ing, with its object: "watching them" is about something else.
fn doing(sentence: &Sentence, at: usize) -> Option<Range<usize>> {
    let word = |at: usize| sentence.tokens.get(at).map_or("", |token| token.word.as_str());
    let first = word(at);
    // "Being outdoors", "being around friends".
    let being = first == "being" && one_of(word(at + 1), "outdoors outside around near alone in on with");
    if !first.ends_with("ing")
        || first.len() < 5
        || one_of(
            first,
            "going trying being having getting doing nothing something everything anything thing kidding feeling saying thinking looking hoping considering wondering working talking seeing hearing",
        ) && word(at + 1) != "on"
            && !being
    {
        return None;
    }
    let found = match being {
        true if lex::STOPS.contains(word(at + 1)) => at..noun(sentence, at + 2, 5)?.end,
        true => at..noun(sentence, at + 1, 6)?.end,
        false => noun(sentence, at, 7)?,
    };
    let pronoun = (first == "making" && word(at + 1) == "sure")
        || (one_of(word(found.end), "it them him her you this that these those us me your up out")
            && word(found.end + 1) != "days");
    (!pronoun).then_some(found)
}

fn next_is_time(tokens: &[Token], at: usize) -> bool {
    tokens.get(at).is_some_and(|token| {
        let word = token.word.as_str();
        lex::MONTHS.contains(word)
            || lex::DAYS.contains(word)
            || one_of(word, "week month year night summer winter autumn spring fall weekend time")
    })
}

/// A noun phrase: what stands in front of a mark, a conjunction, a preposition or a verb that is known as one.
fn noun(sentence: &Sentence, at: usize, most: usize) -> Option<Range<usize>> {
    let tokens = &sentence.tokens;
    let mut start = at;
    while tokens.get(start).is_some_and(|token| lex::DETERMINERS.contains(token.word.as_str())) {
        start += 1;
    }
    let first = tokens.get(start).filter(|token| !token.mark)?;
    // "Bring the band together", "means of transport".
    let begins = one_of(&first.word, "bring means");
    if !begins && [&lex::PRONOUNS, &lex::STOPS, &lex::ADVERBS].iter().any(|set| set.contains(first.word.as_str())) {
        return None;
    }
    let doing = first.word.ends_with("ing");
    let mut end = start + 1;
    while end < start + most {
        let Some(token) = tokens.get(end).filter(|token| !token.mark) else { break };
        let word = token.word.as_str();
        // "a cup of tea", "swimming in cold lakes", "driving at night".
        let joins = word == "of"
            || (doing
                && one_of(
                    word,
                    "in on at with to for my our the a by from into about up out over off around through down across new other",
                ));
        let next = tokens.get(end + 1).is_some_and(|next| {
            !next.mark
                && (!lex::STOPS.contains(next.word.as_str())
                    || one_of(next.word.as_str(), "the a my our with to other"))
        });
        // "Firefox last month".
        if word == "last" && next_is_time(tokens, end + 1) {
            break;
        }
        if lex::STOPS.contains(word)
            && !(joins && next && !lex::PRONOUNS.contains(tokens.get(end + 1).map_or("", |next| next.word.as_str())))
        {
            break;
        }
        end += 1;
    }
    // No phrase ends with what joins.
    while end > start + 1
        && tokens
            .get(end - 1)
            .is_some_and(|last| lex::STOPS.contains(last.word.as_str()) || one_of(last.word.as_str(), "the a my 's"))
    {
        end -= 1;
    }
    Some(start..end)
}
