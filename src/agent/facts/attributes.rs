//! What facts are of: the attributes, how each is said, and which values say nothing.

use super::grammar::one_of;
use super::tokens::singular;
use super::{Fact, lexicon};

/// How an attribute is said, and how many values it has at once.
pub(super) struct Attribute {
    pub name: &'static str,
    /// The sentence, now and when it has ended: `{s}` is the subject, `{v}` the value, `{a}` the value with its article.
    says: [&'static str; 2],
    single: bool,
    /// Values that end with one of these words say nothing of anybody, or not in earnest.
    idle: &'static str,
}

impl Attribute {
    const fn idle(mut self, words: &'static str) -> Attribute {
        self.idle = words;
        self
    }
}

const fn attribute(name: &'static str, single: bool, now: &'static str, ended: &'static str) -> Attribute {
    Attribute { name, says: [now, ended], single, idle: "" }
}

/// Where nobody lives, nor comes from.
const NOWHERE: &str = "hr it marketing sales support finance legal engineering mars venus heaven hell earth atlantis wonderland narnia hogwarts mordor moria gotham slack fear hope denial";
/// What is no taste.
const VAGUE: &str =
    "fridays weekends payday morning night evening theme playing escaping one ones kind sort type stuff thing things";
/// Favorites that are praise or blame, not tastes.
const PRAISED: &str = "thing colleague person enemy excuse problem mistake human";

pub(super) const ATTRIBUTES: [Attribute; 31] = [
    attribute("name", true, "{s}'s name is {v}.", "{s}'s name is no longer {v}."),
    attribute("age", true, "{s} is {v} years old.", "{s} is no longer {v} years old."),
    attribute("birthday", true, "{s}'s birthday is {v}.", "{s}'s birthday is not {v}."),
    attribute("lives_in", true, "{s} lives in {v}.", "{s} no longer lives in {v}.").idle(NOWHERE),
    attribute("from", true, "{s} comes from {v}.", "{s} does not come from {v}.").idle(NOWHERE),
    attribute("works_as", true, "{s} works as {a}.", "{s} no longer works as {a}."),
    attribute("works_at", true, "{s} works at {v}.", "{s} no longer works at {v}."),
    attribute("studies", true, "{s} studies {v}.", "{s} no longer studies {v}.").idle("time hard lot people"),
    attribute("studies_at", true, "{s} studies at {v}.", "{s} no longer studies at {v}."),
    attribute("diet", true, "{s}'s diet is {v}.", "{s}'s diet is no longer {v}."),
    attribute("wife", true, "{s}'s wife is {v}.", "{s}'s wife is no longer {v}."),
    attribute("husband", true, "{s}'s husband is {v}.", "{s}'s husband is no longer {v}."),
    attribute("partner", true, "{s}'s partner is {v}.", "{s}'s partner is no longer {v}."),
    attribute("likes", false, "{s} likes {v}.", "{s} no longer likes {v}.").idle(VAGUE),
    attribute("dislikes", false, "{s} dislikes {v}.", "{s} no longer dislikes {v}.").idle(VAGUE),
    attribute("allergic_to", false, "{s} is allergic to {v}.", "{s} is no longer allergic to {v}."),
    attribute("speaks", false, "{s} speaks {v}.", "{s} no longer speaks {v}."),
    attribute("plays", false, "{s} plays {v}.", "{s} no longer plays {v}."),
    attribute("owns", false, "{s} owns {a}.", "{s} no longer owns {a}.").idle(
        "yacht yachts jet jets island islands castle castles spaceship spaceships unicorn unicorns dragon dragons",
    ),
    attribute("uses", false, "{s} uses {v}.", "{s} no longer uses {v}."),
    attribute("pet", false, "{s} has a pet: {v}.", "{s} no longer has this pet: {v}.")
        .idle("mouse mice chicken chickens lab python fish pig duck rat boxer boxers pointer setter bird goose snake"),
    attribute("plan", false, "{s} plans this: {v}.", "{s} no longer plans this: {v}.")
        .idle("newsletter account trial subscription updates service website site app list waitlist alerts emails"),
    attribute("brother", false, "{s}'s brother is {v}.", "{s}'s brother is not {v}."),
    attribute("sister", false, "{s}'s sister is {v}.", "{s}'s sister is not {v}."),
    attribute("son", false, "{s}'s son is {v}.", "{s}'s son is not {v}."),
    attribute("daughter", false, "{s}'s daughter is {v}.", "{s}'s daughter is not {v}."),
    attribute("mother", true, "{s}'s mother is {v}.", "{s}'s mother is not {v}."),
    attribute("father", true, "{s}'s father is {v}.", "{s}'s father is not {v}."),
    attribute("friend", false, "{s}'s friend is {v}.", "{s}'s friend is no longer {v}."),
    attribute("roommate", false, "{s}'s roommate is {v}.", "{s}'s roommate is no longer {v}."),
    attribute("boss", true, "{s}'s boss is {v}.", "{s}'s boss is no longer {v}."),
];

/// Whether an attribute's value is a person.
pub(super) fn is_person(attribute: &str) -> bool {
    one_of(attribute, "wife husband partner brother sister son daughter mother father friend roommate boss")
}

/// The attribute that a word for a relation stands for, if there is one.
pub(super) fn relation_of(word: &str) -> Option<&'static str> {
    Some(match word {
        "wife" => "wife",
        "husband" => "husband",
        "brother" => "brother",
        "sister" => "sister",
        "son" | "boy" | "lad" => "son",
        "daughter" | "girl" => "daughter",
        "mother" | "mum" | "mom" | "mam" | "mama" | "mommy" => "mother",
        "father" | "dad" | "papa" | "daddy" => "father",
        "roommate" | "roomie" | "flatmate" | "housemate" => "roommate",
        "boss" | "manager" | "supervisor" => "boss",
        "friend" | "bestie" | "mate" | "buddy" | "pal" => "friend",
        "partner" | "boyfriend" | "girlfriend" | "fiance" | "fiancé" | "fiancee" | "fiancée" | "spouse" => "partner",
        _ => return None,
    })
}

/// Whether an attribute has one value at a time. Those that are not ours have.
pub fn is_single(attribute: &str) -> bool {
    ATTRIBUTES.iter().find(|known| known.name == attribute).is_none_or(|known| known.single)
}

/// Whether a value says nothing by itself, or nothing that lasts.
pub(super) fn is_idle(fact: &Fact) -> bool {
    let value = fact.value.as_str();
    let small = value.to_lowercase();
    let words: Vec<&str> = small.split_whitespace().collect();
    let known = ATTRIBUTES.iter().find(|known| known.name == fact.attribute);
    // A pet may be called Duck.
    let last = if fact.attribute == "pet" { value } else { small.as_str() }.split(' ').next_back().unwrap_or_default();
    let idle = known.is_some_and(|known| one_of(last, known.idle));
    let points = words.iter().any(|word| one_of(word, "it this that them these those him her you"));
    let other = match fact.attribute.as_str() {
        "likes" => small == "people" || words.iter().any(|word| lexicon::NUISANCES.contains(singular(word))),
        "dislikes" => small == "people",
        // "I'm married to Excel", "sugar and I broke up".
        attribute if is_person(attribute) => {
            lexicon::FIRMS.contains(small.as_str())
                || attribute == "partner"
                    && (lexicon::TOOLS.contains(small.as_str())
                        || one_of(&small, "sugar gluten caffeine coffee nicotine carbs chocolate alcohol meat dairy"))
        }
        "lives_in" | "from" => lexicon::TOOLS.contains(small.as_str()) || lexicon::FIRMS.contains(last),
        // "Having lunch."
        "plan" => {
            lexicon::TOOLS.contains(last)
                || ["running late", "running out", "going to the", "moving the", "moving my", "moving our"]
                    .iter()
                    .any(|errand| small.starts_with(errand))
                || last == "bus"
                || matches!(small.as_str(), "bed" | "sleep" | "evening" | "day" | "week")
                || words.first().is_some_and(|first| one_of(first, "having getting grabbing eating"))
                    && words.iter().any(|word| one_of(word, "breakfast brunch lunch dinner coffee drinks tea pizza"))
        }
        attribute => attribute.strip_prefix("favorite ").is_some_and(|thing| one_of(thing, PRAISED)),
    };
    idle || points || other
}

impl Fact {
    /// The fact as a sentence: what is stored and embedded.
    pub fn sentence(&self) -> String {
        let subject = if self.subject == lexicon::NOBODY { "The user" } else { &self.subject };
        let known = ATTRIBUTES.iter().find(|known| known.name == self.attribute);
        // `favorite color`, `date of wedding`.
        let [now, ended] = known.map_or(["{s}'s {n} is {v}.", "{s}'s {n} is no longer {v}."], |known| known.says);
        let form = if self.ended { ended } else { now };
        let vowel = self.value.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']);
        let bare = self.value.starts_with("head of ")
            || self.value.starts_with(|first: char| first.is_numeric())
            || self.value.ends_with('s');
        let article = match (bare, vowel) {
            (true, _) => "",
            (_, true) => "an ",
            (_, false) => "a ",
        };
        form.replace("{n}", &self.attribute)
            .replace("{s}", subject)
            .replace("{a}", &format!("{article}{}", self.value))
            .replace("{v}", &self.value)
    }
}
