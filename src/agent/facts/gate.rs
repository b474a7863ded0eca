//! The gate: whether a turn says what a model claims that it says.
//!
//! A model may propose anything: it errs, it is led by what it reads, and its weights are somebody else's. So what it proposes is a question that the
//! gate answers from the turn alone, and nothing about the model makes the answer kinder. A proposal passes in one of two ways:
//!
//! * The patterns read the same in the turn: same subject and attribute, one value within the other.
//! * The words of one sentence say it, in any form that has no pattern: the value stands there word for word, and is whole and of the attribute's kind
//!   (a place, a name, an occupation: [`grammar`]); a word that expresses the attribute ([`SIGNS`]) stands near it; who it is about stands
//!   near both; and nothing between these says that it is asked, supposed, denied, meant otherwise, or said of somebody else.
//!
//! What passes is put in the turn's words, not in the model's. And where the patterns read something else in the turn (another value of an attribute that
//! has one, the same value for another attribute) the proposal falls: two readings of one sentence are one too many.
//!
//! The measure is the worst model there can be, one that proposes every value for every attribute of everybody: `score_extraction --adversary` puts all of
//! that through the gate, and what comes out must still be as precise as what is allowed to be remembered.
//!
//! Rejected: asking a second model whether the first was right (it can be talked into the same error by the same text); similarity of vectors between
//! fact and turn ("I sold the car" is as near to "owns car" as "I own a car"); word overlap alone ([`super::is_grounded`]: it lets every shuffle of the
//! turn's words through); binding a name to "my brother" across sentences (right when the name is his, and nothing tells when it is not).

use super::attributes::relation_of;
use super::grammar::{self, Kind, one_of};
use super::lexicon as lex;
use super::source::{self, Refusal};
use super::stated::is_supposed;
use super::tokens::{self, Sentence, Token, in_set};
use super::values::{is_taste, text_of};
use super::{Fact, extract, is_single, parts};
use crate::context::{Role, Turn};
use std::ops::Range;

/// How an attribute is expressed where no pattern holds.
struct Sign {
    attribute: &'static str,
    /// What its values are.
    kinds: &'static [Kind],
    /// One of these stands near the value.
    words: &'static str,
    /// With at most so many words between them.
    reach: usize,
    /// What stands in front of a value, articles and adverbs apart; nothing if that does not matter.
    behind: &'static str,
}

const fn sign(
    attribute: &'static str,
    kinds: &'static [Kind],
    words: &'static str,
    reach: usize,
    behind: &'static str,
) -> Sign {
    Sign { attribute, kinds, words, reach, behind }
}

/// Attributes that are not in the list are only for patterns.
const SIGNS: &[Sign] = &[
    sign("age", &[Kind::Age], "turn turned turning birthday aged", 2, ""),
    sign("birthday", &[Kind::Date], "birthday born", 5, ""),
    sign(
        "lives_in",
        &[Kind::Place],
        "live living relocated settled home flat apartment house address resident rent renting",
        5,
        "in to near",
    ),
    sign("from", &[Kind::Place], "born raised grew hometown originally native", 3, "in from near"),
    sign(
        "works_as",
        &[Kind::Occupation],
        "work working job career profession hired promoted shift title position became employed qualified trained",
        5,
        "as to be",
    ),
    sign(
        "works_at",
        &[Kind::Org],
        "work working job hired employed employer shift office joined",
        5,
        "at for with by joined",
    ),
    sign("studies", &[Kind::Noun], "study studying degree major majoring", 1, "study studying in"),
    sign("studies_at", &[Kind::Org], "study studying student uni university college school campus", 5, "at to into"),
    sign("diet", &[Kind::Diet], "eat eating went gone turned cook stay keep", 3, ""),
    sign("allergic_to", &[Kind::Noun], "allergic allergy", 1, "to a an"),
    sign("speaks", &[Kind::Language], "speak speaking fluent native bilingual tongue language", 4, ""),
    sign(
        "plays",
        &[Kind::Game],
        "play playing practice practise practising lessons lesson team band club tournament training league",
        3,
        "",
    ),
    sign("owns", &[Kind::Thing], "own bought inherited mine ours", 3, "a an my our the own"),
    sign(
        "uses",
        &[Kind::Product],
        "use using run running switched migrated stack backend built deploy on",
        3,
        "use using run running to with on be in",
    ),
    sign("likes", &[Kind::Doing, Kind::Noun], "love loved adore enjoy", 1, "love loved adore enjoy"),
    sign(
        "dislikes",
        &[Kind::Doing, Kind::Noun],
        "hate detest loathe despise dislike abide stand bear",
        1,
        "hate detest loathe despise dislike abide stand bear",
    ),
];

/// Words that say that it is over.
const ENDINGS: &str = "anymore longer used quit left sold stopped dropped gave ditched cancelled over ex former lost died dead stolen gone moved out off done until was were had";
/// Words that deny.
const DENIALS: &str = "not never no nobody none without neither nor hardly barely cannot instead";
/// Who else a sentence may be about.
const STRANGERS: &str = "you he she they it your his her their its him them who someone somebody everyone everybody people anyone another other others guy woman man neighbour neighbor colleague";
/// Who a speaker is in his own words.
const SELF: &str = "i we my our me us mine ours";

/// A turn that may state something, read once for any number of proposals.
pub(super) struct Ground<'t> {
    speaker: &'t str,
    spoken: String,
    sentences: Vec<Sentence>,
    /// What the patterns find, and the words of each value.
    facts: Vec<(Fact, Vec<String>)>,
}

impl<'t> Ground<'t> {
    /// Reads a turn, with those before it. An error says why it is no source.
    pub(super) fn of(turn: &Turn<'t>, before: &[Turn]) -> Result<Ground<'t>, Refusal> {
        if turn.role != Role::User {
            return Err(Refusal::Uncited);
        }
        let spoken = source::heard(turn, before)?;
        let small = !spoken.split_whitespace().any(|word| word.starts_with(char::is_uppercase));
        let plain =
            |range: &Range<usize>| spoken.get(range.clone()).is_some_and(|text| !source::is_ironic(&spoken, text));
        let sentences = parts(&spoken).into_iter().filter(plain);
        let sentences = sentences
            .map(|range| tokens::sentence(&spoken, range, small))
            .filter(|sentence| sentence.tokens.len() <= source::LONG_SENTENCE);
        let sentences = sentences.filter(|sentence| !sentence.asks).collect();
        let facts = extract(turn, before).facts.into_iter();
        let facts = facts.map(|fact| (words_of(&fact.value), fact)).map(|(words, fact)| (fact, words)).collect();
        Ok(Ground { speaker: turn.speaker.unwrap_or(lex::NOBODY), sentences, facts, spoken })
    }

    /// The fact as the turn says it, or why it does not say it.
    pub(super) fn supports(&self, proposed: &Fact) -> Result<Fact, Refusal> {
        let own = proposed.subject.eq_ignore_ascii_case(self.speaker)
            || one_of(&proposed.subject.to_lowercase(), "user i me speaker");
        let subject = if own { self.speaker } else { &proposed.subject };
        let wanted = words_of(&proposed.value);
        let same = |read: &Fact| read.subject.eq_ignore_ascii_case(subject) && read.attribute == proposed.attribute;
        for (read, words) in &self.facts {
            if same(read) && read.ended == proposed.ended && is_part(words, &wanted) {
                return Ok(read.clone());
            }
        }
        let contradicts = |(read, words): &(Fact, Vec<String>)| {
            is_part(words, &wanted) || (same(read) && is_single(&read.attribute) && !read.ended && !proposed.ended)
        };
        if wanted.is_empty() || self.facts.iter().any(contradicts) {
            return Err(Refusal::Ungrounded);
        }
        // Of several reasons the one of the sentence that comes closest.
        let mut why = Refusal::Ungrounded;
        for sentence in &self.sentences {
            match self.said_in(sentence, &wanted, proposed, own) {
                Ok(value) => {
                    return Ok(Fact { subject: subject.to_owned(), value: value.to_owned(), ..proposed.clone() });
                }
                Err(Refusal::Supposed) => why = Refusal::Supposed,
                Err(_) => {}
            }
        }
        Err(why)
    }

    /// The value as a sentence has it, if the sentence says the fact.
    fn said_in(&self, sentence: &Sentence, wanted: &[String], proposed: &Fact, own: bool) -> Result<&str, Refusal> {
        let mut why = Refusal::Ungrounded;
        for at in 0..sentence.tokens.len() {
            let there = sentence.tokens.get(at..at + wanted.len());
            if !there.is_some_and(|there| there.iter().map(|token| &token.word).eq(wanted)) {
                continue;
            }
            let Some((value, sign)) = expressed(sentence, at..at + wanted.len(), &proposed.attribute) else { continue };
            let Some(span) = (if own {
                own_span(sentence, &value, &sign)
            } else {
                named_span(sentence, &proposed.subject, &value, &sign)
            }) else {
                continue;
            };
            // The patterns know how far a hedge reaches; a model gets nothing by one, wherever it stands before the end.
            let hedges = |token: &Token| {
                let word = token.word.as_str();
                [&lex::HEDGES, &lex::CONDITIONS, &lex::REPORTS].into_iter().any(|words| words.contains(word))
            };
            let before = sentence.tokens.get(..span.end).unwrap_or(&[]);
            if is_supposed(sentence, &span, &proposed.attribute) || before.iter().any(hedges) {
                why = Refusal::Supposed;
                continue;
            }
            if has_ended(sentence, &span, &value, &sign, &proposed.attribute) != Some(proposed.ended) {
                continue;
            }
            return Ok(text_of(&self.spoken, &sentence.tokens, &value));
        }
        Err(why)
    }
}

/// Whether one value stands in the other, word for word.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    is_part(&words_of(a), &words_of(b))
}

/// Whether one run of words stands in the other.
fn is_part(a: &[String], b: &[String]) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    !short.is_empty() && long.windows(short.len()).any(|part| part == short)
}

/// The words of a value, without what stands in front of a noun.
fn words_of(value: &str) -> Vec<String> {
    let sentence = tokens::sentence(value, 0..value.len(), false);
    let mut words: Vec<String> = sentence.tokens.into_iter().map(|token| token.word).collect();
    while words.first().is_some_and(|word| lex::DETERMINERS.contains(word.as_str())) {
        words.remove(0);
    }
    while words.last().is_some_and(|word| one_of(word, ". , ! ; :")) {
        words.pop();
    }
    words
}

/// The whole value around the words that were proposed and the word that expresses the attribute, if both are there.
fn expressed(sentence: &Sentence, proposed: Range<usize>, attribute: &str) -> Option<(Range<usize>, Range<usize>)> {
    if let Some(thing) = attribute.strip_prefix("favorite ") {
        return favorite(sentence, proposed, thing);
    }
    if let Some(thing) = attribute.strip_prefix("date of ") {
        return date_of(sentence, proposed, thing);
    }
    if attribute == "pet" {
        return pet(sentence, proposed);
    }
    if let Some(found) = related(sentence, &proposed, attribute) {
        return Some(found);
    }
    // "I have a shellfish allergy": what is said stands behind its value, and the noun is both.
    let names = |at: usize, word: &str| sentence.tokens.get(at).is_some_and(|token| token.is(word));
    if attribute == "allergic_to" && names(proposed.end, "allergy") {
        let known = one_of(introduction(&sentence.tokens, proposed.start), "have has got my our with");
        return known.then(|| (proposed.clone(), proposed.end..proposed.end + 1));
    }
    SIGNS.iter().filter(|sign| sign.attribute == attribute).find_map(|sign| {
        let value = whole(sentence, &proposed, sign.kinds)?;
        if !sign.behind.is_empty() && !one_of(introduction(&sentence.tokens, value.start), sign.behind) {
            return None;
        }
        if attribute == "age" && !is_end(sentence.tokens.get(value.end)) {
            return None;
        }
        if matches!(attribute, "likes" | "dislikes") && !is_taste(sentence, &value) {
            return None;
        }
        let from = value.start.saturating_sub(sign.reach + 1);
        let to = (value.end + sign.reach + 1).min(sentence.tokens.len());
        let near = (from..to).filter(|at| !value.contains(at));
        let mut near = near.filter(|at| sentence.tokens.get(*at).is_some_and(|token| one_of(&token.word, sign.words)));
        near.find(|at| {
            attribute == "birthday" && *at <= value.end + 2 && *at > value.end
                || is_open(&sentence.tokens, &cover(&value, &(*at..at + 1)))
        })
        .map(|at| (value, at..at + 1))
    })
}

/// The value of one of these kinds that the words are, or are the head of.
fn whole(sentence: &Sentence, proposed: &Range<usize>, kinds: &[Kind]) -> Option<Range<usize>> {
    kinds.iter().find_map(|kind| {
        (proposed.start.saturating_sub(3)..=proposed.start).find_map(|at| {
            let (range, _) = grammar::value(sentence, at, *kind)?;
            (range.start <= proposed.start && range.end == proposed.end).then_some(range)
        })
    })
}

/// The word in front of a value, articles and adverbs apart.
fn introduction(tokens: &[Token], start: usize) -> &str {
    let before = tokens.get(..start).unwrap_or(&[]).iter().rev();
    let mut before = before.map(|token| token.word.as_str());
    let before = before.find(|word| !lex::DETERMINERS.contains(word) && !lex::ADVERBS.contains(word));
    before.unwrap_or_default()
}

/// Whether nothing follows that a number could count.
fn is_end(token: Option<&Token>) -> bool {
    token.is_none_or(|token| {
        token.mark || one_of(&token.word, "and but so now today yesterday tomorrow in on this last next years")
    })
}

/// Whether a part of a sentence is one clause.
fn is_open(tokens: &[Token], range: &Range<usize>) -> bool {
    tokens.get(range.clone()).is_some_and(|tokens| {
        !tokens.iter().any(|token| token.ends_clause() || one_of(&token.word, "and but or because so since while when"))
    })
}

fn cover(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    a.start.min(b.start)..a.end.max(b.end)
}

/// "My favorite cheese, since last year: Comté."
fn favorite(sentence: &Sentence, proposed: Range<usize>, thing: &str) -> Option<(Range<usize>, Range<usize>)> {
    let tokens = &sentence.tokens;
    let thing = words_of(thing);
    let at = tokens.iter().position(|token| token.is("favorite"))?;
    let end = at + 1 + thing.len();
    let named = tokens.get(at + 1..end)?.iter().map(|token| &token.word).eq(&thing);
    let value = whole(sentence, &proposed, &[Kind::Noun])?;
    let before = value.start.checked_sub(1).and_then(|before| tokens.get(before))?;
    let said = value.start > end && value.start <= end + 6 && (before.is("be") || before.is(":"));
    (named && !thing.is_empty() && said).then_some((value, at..end))
}

/// "The wedding, by the way, is on 3 May."
fn date_of(sentence: &Sentence, proposed: Range<usize>, thing: &str) -> Option<(Range<usize>, Range<usize>)> {
    let tokens = &sentence.tokens;
    let thing = words_of(thing);
    let value = whole(sentence, &proposed, &[Kind::Date])?;
    (1..value.start).find_map(|at| {
        let end = at + thing.len();
        let named = !thing.is_empty() && tokens.get(at..end)?.iter().map(|token| &token.word).eq(&thing);
        let ours = tokens.get(at - 1)?.is("my") || tokens.get(at - 1)?.is("our");
        let noun = grammar::value(sentence, at, Kind::Short).is_some_and(|(noun, _)| noun == (at..end));
        let near = end <= value.start && value.start <= end + 3;
        (named && ours && noun && near).then(|| (value.clone(), at..end))
    })
}

/// A name or a kind of animal, and "my" or "our" in front of the animal.
fn pet(sentence: &Sentence, proposed: Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    let tokens = &sentence.tokens;
    let value = whole(sentence, &proposed, &[Kind::Name])?;
    let animal = |at: &usize| {
        let mine = at.checked_sub(2).map_or(0, |from| from)..*at;
        let mine = tokens.get(mine).is_some_and(|before| before.iter().any(|token| one_of(&token.word, "my our")));
        let of_ours = tokens.get(at + 1).is_some_and(|token| token.is("of"))
            && tokens.get(at + 2).is_some_and(|token| one_of(&token.word, "mine ours"));
        tokens.get(*at).is_some_and(|token| in_set(&lex::PETS, &token.word)) && (mine || of_ours)
    };
    let at = (value.start.saturating_sub(6)..(value.end + 7).min(tokens.len()))
        .filter(|at| !value.contains(at))
        .find(animal)?;
    let between = value.end.min(at + 1)..value.start.max(at);
    (one_name(sentence, &cover(&value, &(at..at + 1))) && only_links(tokens, &between)).then_some((value, at..at + 1))
}

/// A name, and near it "my brother".
fn related(sentence: &Sentence, proposed: &Range<usize>, attribute: &str) -> Option<(Range<usize>, Range<usize>)> {
    let tokens = &sentence.tokens;
    let is_mine = |at: usize| {
        let before = tokens.get(at.saturating_sub(2)..at).unwrap_or(&[]);
        before.iter().any(|token| one_of(&token.word, "my our"))
    };
    let relation = |at: &usize| {
        tokens.get(*at).is_some_and(|token| {
            lex::RELATIONS.contains(token.word.as_str()) && relation_of(&token.word) == Some(attribute) && is_mine(*at)
        })
    };
    let value = whole(sentence, proposed, &[Kind::Name])?;
    let near = value.start.saturating_sub(6)..(value.end + 7).min(tokens.len());
    let at = near.filter(|at| !value.contains(at)).find(relation)?;
    let between = value.end.min(at + 1)..value.start.max(at);
    (one_name(sentence, &cover(&value, &(at..at + 1))) && only_links(tokens, &between)).then_some((value, at..at + 1))
}

/// Whether what stands between a name and what it is the name of only links them.
fn only_links(tokens: &[Token], between: &Range<usize>) -> bool {
    let links = "be 's not , - ( : that this who called named my our the a an old poor dear new little big best good best younger older elder twin lovely one and anymore any more longer no";
    let between = tokens.get(between.clone()).unwrap_or(&[]);
    between.iter().all(|token| one_of(&token.word, links) || lex::ADVERBS.contains(token.word.as_str()))
        && !between.last().is_some_and(|token| token.is("and"))
        && !between.first().is_some_and(|token| token.is("and"))
}

/// Whether a part of a sentence has one name.
fn one_name(sentence: &Sentence, range: &Range<usize>) -> bool {
    let mut at = range.start;
    let mut names = 0;
    while at < range.end {
        match grammar::value(sentence, at, Kind::Name) {
            Some((name, end)) => {
                names += usize::from(name.start < range.end);
                at = end.max(at + 1);
            }
            None => at += 1,
        }
    }
    names == 1
}

/// From the speaker's "I" or "my" to value and sign, if nobody else is spoken of in between.
fn own_span(sentence: &Sentence, value: &Range<usize>, sign: &Range<usize>) -> Option<Range<usize>> {
    let tokens = &sentence.tokens;
    let core = cover(value, sign);
    let person = (core.start.saturating_sub(6)..core.end).rev().filter(|at| !value.contains(at));
    let person = person.filter(|at| tokens.get(*at).is_some_and(|token| one_of(&token.word, SELF)));
    let person = person.max_by_key(|at| *at < core.start).or_else(|| left_out(tokens, &core, sign))?;
    let span = cover(&core, &(person..person + 1));
    let stranger = |at: usize| {
        !value.contains(&at)
            && !sign.contains(&at)
            && (tokens.get(at).is_some_and(|token| one_of(&token.word, STRANGERS))
                || grammar::value(sentence, at, Kind::Name)
                    .is_some_and(|(name, _)| name.start == at && name.end <= value.start)
                    // "We're on GitLab with Docker": a tool is nobody.
                    && grammar::value(sentence, at, Kind::Product).is_none())
    };
    // "My sister lives in Rome" is not about who speaks; "my brother Leo" is, if it is the brother that is meant.
    let others = span.clone().any(|at| {
        !sign.contains(&at) && tokens.get(at).is_some_and(|token| lex::RELATIONS.contains(token.word.as_str()))
    });
    let clear = (person..core.start).all(|at| tokens.get(at).is_some_and(|token| !token.ends_clause()));
    (clear && !others && !span.clone().any(stranger)).then_some(span)
}

/// Where a sentence begins that leaves out its "I": "can't bear olives".
fn left_out(tokens: &[Token], core: &Range<usize>, sign: &Range<usize>) -> Option<usize> {
    let before = tokens.get(..core.start)?;
    let verb = before.iter().all(|token| one_of(&token.word, "can not just really") || token.is("do"));
    let first = core.start == sign.start && tokens.get(sign.start).is_some_and(|sign| !sign.raw.ends_with('s'));
    (verb && first && !before.is_empty()).then_some(0)
}

/// From a name to value and sign, if nobody else is spoken of in between.
fn named_span(sentence: &Sentence, subject: &str, value: &Range<usize>, sign: &Range<usize>) -> Option<Range<usize>> {
    let tokens = &sentence.tokens;
    let wanted = words_of(subject);
    let core = cover(value, sign);
    let at = (0..core.start).rev().find(|at| {
        let there = tokens.get(*at..at + wanted.len());
        there.is_some_and(|there| there.iter().map(|token| &token.word).eq(&wanted))
    })?;
    let (name, _) = grammar::value(sentence, at, Kind::Name)?;
    let begins = at == 0
        || tokens.get(at - 1).is_some_and(|token| {
            token.ends_clause()
                || one_of(&token.word, "and but so because")
                || lex::RELATIONS.contains(token.word.as_str())
        });
    let rest = behind_apposition(tokens, name.end)..core.start;
    let clear = rest.clone().all(|at| {
        tokens.get(at).is_some_and(|token| {
            !token.ends_clause()
                && !one_of(&token.word, SELF)
                && !one_of(&token.word, STRANGERS)
                && !lex::RELATIONS.contains(token.word.as_str())
                && grammar::value(sentence, at, Kind::Name).is_none()
        })
    });
    let inner = !(core.clone())
        .any(|at| tokens.get(at).is_some_and(|token| one_of(&token.word, SELF) || one_of(&token.word, STRANGERS)));
    (begins && name == (at..at + wanted.len()) && rest.len() <= 4 && clear && inner).then_some(at..core.end)
}

/// The token behind ", that's my daughter,": what is said after it is said of the name in front of it.
fn behind_apposition(tokens: &[Token], at: usize) -> usize {
    let comma = |at: usize| tokens.get(at).is_some_and(|token| token.is(",") || token.is("-"));
    let close = (at + 2..at + 7).find(|at| comma(*at));
    let related = |inside: &[Token]| {
        inside.iter().any(|token| lex::RELATIONS.contains(token.word.as_str()))
            && inside.iter().all(|token| {
                one_of(&token.word, "that be 's my our the dear little big older younger best")
                    || lex::RELATIONS.contains(token.word.as_str())
            })
    };
    close.filter(|close| comma(at) && tokens.get(at + 1..*close).is_some_and(related)).map_or(at, |close| close + 1)
}

/// Whether a part of a sentence says that it is over; None if it denies what is said, or leaves it open.
fn has_ended(
    sentence: &Sentence,
    span: &Range<usize>,
    value: &Range<usize>,
    sign: &Range<usize>,
    attribute: &str,
) -> Option<bool> {
    let tokens = &sentence.tokens;
    // A few words more on both sides, within the clause.
    let ends = |at: &usize| tokens.get(*at).is_some_and(Token::ends_clause);
    let start =
        (span.start.saturating_sub(3)..span.start).rev().find(ends).map_or(span.start.saturating_sub(3), |at| at + 1);
    let last = (span.end + 3).min(tokens.len());
    let end = (span.end..last).find(ends).unwrap_or(last);
    let around = (start..end).filter(|at| !value.contains(at) && !sign.contains(at));
    let around: Vec<&Token> = around.filter_map(|at| tokens.get(at)).collect();
    let has = |list: &str| around.iter().any(|token| one_of(&token.word, list));
    // "I can't abide olives" denies nothing: the verb is of what is not borne.
    let borne = attribute == "dislikes"
        && tokens
            .get(sign.clone())
            .is_some_and(|sign| sign.iter().any(|token| one_of(&token.word, "abide stand bear")));
    let over = has(ENDINGS) || (has("not no") && has("any more"));
    match (has(DENIALS), over) {
        (denied, false) if borne => denied.then_some(false),
        (false, false) => Some(false),
        (true, true) if has("anymore longer more") => Some(true),
        (false, true) if has("used quit sold dropped stopped ditched former ex") => Some(true),
        _ => None,
    }
}
