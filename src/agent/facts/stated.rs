//! Whether a sentence states what a pattern finds in it: not asks, supposes, denies, tells of somebody else or of a while ago.

use super::attributes::is_person;
use super::grammar::{Match, one_of};
use super::lexicon;
use super::rules::{Finds, Rule};
use super::tokens::{Sentence, Token};
use std::ops::Range;

/// The token with which a sentence begins to ask: 0 if it does so from its beginning, or asks whether what it says is so.
pub(super) fn question(sentence: &Sentence) -> usize {
    let word = |at: usize| sentence.tokens.get(at).map_or("", |token| token.word.as_str());
    let asks = |at: usize| {
        let joined = (at..at + 2).take_while(|at| one_of(word(*at), "so and but then also ok")).count();
        let first = word(at + joined);
        let behind = at + joined + 1 + usize::from(word(at + joined + 1) == "not");
        let inverted = one_of(word(behind), "you i we it he she they that this there the my your any");
        one_of(first, "what which who whom whose where when why how any anyone anybody thoughts ideas suggestions")
            || (inverted && one_of(first, "be do did can could would should will have shall was may might"))
    };
    if asks(0) || one_of(word(0), "you do did have be") {
        return 0;
    }
    let begins = (1..sentence.tokens.len())
        .find(|at| (one_of(word(at - 1), ", - ; : ( …") || one_of(word(*at), "so and but")) && asks(*at))
        .unwrap_or(0);
    // "…, don't I?"
    let tag = sentence.tokens.len() - begins <= 5 && (begins..sentence.tokens.len()).any(|at| word(at) == "not");
    if tag { 0 } else { begins }
}

/// Whether a match is said under a condition, as a wish or as another's word.
///
/// How far a word reaches depends on what it is: `might` is of its own clause, `if` of the clause up to the comma, a wish or what another
/// claims of all that follows.
pub(super) fn is_supposed(sentence: &Sentence, at: &Range<usize>, attribute: &str) -> bool {
    let word = |at: usize| sentence.tokens.get(at).map_or("", |token| token.word.as_str());
    let start = (0..at.start).rev().find(|at| one_of(word(*at), "; : - . … but ! ( )")).map_or(0, |at| at + 1);
    // "as if", "like I'm a professor".
    if at.start > start && one_of(word(at.start - 1), "like as than") {
        return true;
    }
    // "Not that I'm a doctor."
    if at.start > start + 1 && word(at.start - 1) == "that" && word(at.start - 2) == "not" {
        return true;
    }
    // "I can say I live in Rome in seven languages."
    let said = at.start - usize::from(at.start > start && word(at.start - 1) == "that");
    if said > start + 1 && word(said - 1) == "say" && one_of(word(said - 2), "can could to") {
        return true;
    }
    // "Write that I'm a nurse", "put down that I live in Rome".
    let written = (start.max(said.saturating_sub(3))..said).find(|at| one_of(word(*at), "write put claim answer type"));
    if said < at.start && written.is_some_and(|verb| verb == start || !one_of(word(verb - 1), "i we")) {
        return true;
    }
    if is_limited(sentence, start..at.start) {
        return true;
    }
    // "In five years I'm the head of risk."
    let later = |at: usize| {
        one_of(word(at), "in within") && (at + 1..at + 4).any(|at| one_of(word(at), "years months decade decades"))
    };
    if attribute != "plan" && !attribute.starts_with("date of") && (start..at.start).any(later) {
        return true;
    }
    // "I tell him I'm a doctor."
    let tells = |told: usize| {
        one_of(word(told), "tell tells told")
            && one_of(word(told + 1), "him her them the everyone people strangers")
            && (told..at.start).all(|at| word(at) != ",")
    };
    if (start..at.start).any(tells) {
        return true;
    }
    // "And then she goes, I'm a dentist."
    if (start..at.start).any(|at| one_of(word(at), "goes went") && word(at + 1) == ",") {
        return true;
    }
    // "Don't call me Tom."
    if attribute == "name" && at.start > start && one_of(word(at.start - 1), "not never") {
        return true;
    }
    // "I never said I like fish."
    let denied =
        |n: usize| one_of(word(n), "said say told claimed mean meant") && n > 0 && one_of(word(n - 1), "never not");
    if (start..at.start).any(denied) {
        return true;
    }
    let speaks = one_of(word(at.start), "i we my our");
    // The clause of a hedge ends with a comma or a conjunction, and a new one begins with who it is about.
    let ends =
        |hedge: usize| speaks && (hedge + 2..at.start).any(|at| one_of(word(at), ", and so because since that as"));
    let comma = |hedge: usize| (hedge + 2..at.start).any(|at| word(at) == ",");
    let before = (start..at.start).any(|hedge| {
        let own = word(hedge);
        // "May" is a month where it has a capital letter.
        let month = own == "may" && sentence.tokens.get(hedge).is_some_and(|token| token.capital);
        let mine = |back: usize| (hedge.saturating_sub(back)..hedge).any(|at| one_of(word(at), "i me we"));
        if month {
            false
        } else if lexicon::HEDGES.contains(own) {
            !ends(hedge)
        } else if lexicon::CONDITIONS.contains(own) {
            // "If you ask me, I love jazz", but not "if I win, I'm going to Rome".
            let asked = (hedge + 2..at.start).any(|at| one_of(word(at), "ask asks asked")) && word(hedge + 1) != "you";
            asked || !(comma(hedge) && attribute != "plan" && !one_of(word(hedge + 1), "i we"))
        } else if lexicon::REPORTS.contains(own) && word(at.start - 1) == "so" && word(at.start - 2) == "," {
            // "My boss wants the story told, so I'm giving a talk": whoever concludes speaks for himself.
            false
        } else if lexicon::REPORTS.contains(own) {
            // What somebody reports of himself is said by him.
            !mine(4)
        } else {
            // "In the real world I'm a nurse."
            lexicon::FANTASIES.contains(own) && hedge.checked_sub(1).map_or("", word) != "real"
        }
    });
    // "I'm going to Rome if I get the visa."
    let behind = attribute == "plan"
        && (at.end..sentence.tokens.len())
            .take_while(|at| !one_of(word(*at), ", . ; -"))
            .any(|at| lexicon::CONDITIONS.contains(word(at)));
    // "…, apparently", "…, just kidding", "…, they say".
    let taken_back = (at.end..sentence.tokens.len()).any(|at| {
        one_of(word(at), "apparently allegedly supposedly kidding jk joking")
            || ((word(at + 1).is_empty() || one_of(word(at + 1), ". , ! ; -"))
                && one_of(word(at), "say says said claims reckons thinks")
                && one_of(at.checked_sub(1).map_or("", word), "he she they people everyone"))
    });
    // "…, I told the guard."
    let told = (at.end..sentence.tokens.len()).any(|at| {
        one_of(word(at), "told tells said says lied claimed claims")
            && at > 1
            && !word(at - 1).is_empty()
            && matches!(word(at - 2), "," | "\"")
            && !one_of(word(at - 1), "who which that")
            && (at + 1..at + 4).any(|at| word(at).is_empty() || one_of(word(at), ". ! ;"))
    });
    before || behind || taken_back || told || is_passing(sentence, at, attribute)
}

/// What narrows a statement until it is none, in front of it: "on paper I'm a plumber", "it's not true that I live in Rome".
const LIMITS: &[&str] = &[
    "on paper",
    "technically",
    "legally",
    "for tax purposes",
    "some days",
    "if anyone asks",
    "if anybody asks",
    "if they ask",
    "compared to",
    "next to",
    "deep down",
    "inside",
    "at heart",
    "to my",
    "around here",
    "in my head",
    "in my mind",
    "in spirit",
    "not true",
    "as far as",
    "untrue",
    "a lie",
    "a myth",
    "i think",
    "i believe",
    "i feel like",
];

/// Whether what stands in front of a statement in its clause narrows it to none.
fn is_limited(sentence: &Sentence, before: Range<usize>) -> bool {
    let words: Vec<&str> = before.filter_map(|at| sentence.tokens.get(at)).map(|token| token.raw.as_str()).collect();
    let text = format!(" {} ", words.join(" "));
    LIMITS.iter().any(|limit| match *limit {
        // Only right in front: "I think I'm a chef".
        "i think" | "i believe" | "i feel like" | "to my" | "inside" => {
            text.trim_end().ends_with(&format!(" {limit}"))
                || (*limit == "to my" && text.starts_with(" to my ") && words.len() == 3)
        }
        _ => text.contains(&format!(" {limit} ")),
    })
}

/// Whether a naming takes for granted what it says: "my sister Eva" has a sister, whatever else is asked, supposed or told of her.
pub(super) fn is_presupposed(sentence: &Sentence, at: &Range<usize>, attribute: &str) -> bool {
    let word = |at: usize| sentence.tokens.get(at).map_or("", |token| token.word.as_str());
    let named = attribute == "pet" && at.clone().any(|at| sentence.tokens.get(at).is_some_and(|token| token.capital));
    (is_person(attribute) || named)
        && at.len() <= 5
        && one_of(word(at.start), "my our")
        && !at.clone().any(|at| one_of(word(at), "be 's called named , : - name"))
        && !(0..at.start).any(|at| lexicon::REPORTS.contains(word(at)) || lexicon::FANTASIES.contains(word(at)))
}

/// Whether it is so for a while only, or of something borrowed: "I'm the driver tonight", "a dog till Sunday".
fn is_passing(sentence: &Sentence, at: &Range<usize>, attribute: &str) -> bool {
    let word = |at: usize| sentence.tokens.get(at).map_or("", |token| token.word.as_str());
    let end =
        (at.end..sentence.tokens.len()).find(|at| one_of(word(*at), ". ; but and :")).unwrap_or(sentence.tokens.len());
    let has = |list: &str| (at.start..end).any(|at| one_of(word(at), list));
    let spans = |first: &str, last: &str| {
        (at.start..end).any(|at| one_of(word(at), first) && (at + 1..at + 4).any(|at| one_of(word(at), last)))
    };
    let brief = spans("for the this only over", "weekend night evening afternoon day layover week holidays");
    // "A cat on my lap that isn't mine", "a dog at the office".
    let anothers = spans("not", "mine ours") || spans("at", "office work school");
    let until = spans(
        "till until",
        "sunday monday tuesday wednesday thursday friday saturday tomorrow sun mon tue wed thu fri sat",
    );
    match attribute {
        "works_as" => {
            brief
                || has(
                    "tonight kids teenagers children household wedding party sale play musical heart spirit chess boardgame",
                ) && !has("hospital clinic school theatre theater")
        }
        "lives_in" => brief || until || has("layover visiting vacation holiday conference"),
        "owns" | "pet" => {
            brief && !has("bought")
                || attribute == "pet" && anothers
                || until
                || has(
                    "borrowed rented rental loaner loan borrowing renting hired fostering sitting dogsitting neighbour neighbor",
                )
        }
        "diet" => {
            brief
                || until
                || has(
                    "until till when whenever mondays tuesdays wednesdays thursdays fridays saturdays sundays weekdays weekends",
                )
        }
        "likes" | "dislikes" => one_of(word(at.end), "today tonight"),
        _ => false,
    }
}

/// Whether a question is a polite order to keep something in mind: "Could you remember that I'm allergic to nuts?"
pub(super) fn is_request(sentence: &str) -> bool {
    let small = sentence.trim_start().to_lowercase();
    let asked = ["could you", "can you", "would you", "will you"].iter().any(|start| small.starts_with(start));
    asked
        && ["remember", "note", "keep in mind", "bear in mind", "make sure", "mind that"]
            .iter()
            .any(|verb| small.contains(verb))
        && !small.contains(" if ")
}

/// Whether a match that says itself nothing of whom it is about stands in a clause about somebody else: "my friend has a dog named Rex".
pub(super) fn is_of_others(sentence: &Sentence, matched: &Match) -> bool {
    let clause = |token: &Token| token.ends_clause() || one_of(token.word.as_str(), "and but so because");
    let start =
        (0..matched.tokens.start).rev().find(|at| sentence.tokens.get(*at).is_some_and(clause)).map_or(0, |at| at + 1);
    sentence.tokens.get(start..matched.tokens.start).unwrap_or(&[]).iter().any(|token| {
        one_of(
            token.raw.as_str(),
            "he she they you his her their your who has does lives works plays speaks studies uses owns loves likes hates eats teaches runs drives",
        )
    })
}

/// Whether it was so once: "when I turned ten".
pub(super) fn is_past(rule: &Rule, sentence: &Sentence, matched: &Match) -> bool {
    let before = matched.tokens.start.checked_sub(1).and_then(|before| sentence.tokens.get(before));
    let gone = before.is_some_and(|before| {
        one_of(
            before.word.as_str(),
            "donated sold gave lost returned wrecked crashed traded missed miss missing remember remembered",
        )
    });
    gone && matches!(rule.finds, Finds::Is("owns" | "pet"))
        || rule.finds == Finds::Is("age")
            && before.is_some_and(|before| one_of(before.word.as_str(), "when before until till since after"))
}
