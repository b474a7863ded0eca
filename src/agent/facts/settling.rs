//! What is left of the facts of a turn where one says what another says better.

use super::{Fact, lexicon};

/// Takes out what another fact says better.
pub(super) fn settle(facts: &mut Vec<Fact>) {
    let all = facts.clone();
    facts.retain(|fact| {
        let ended = !fact.ended
            && all.iter().any(|other| {
                other.ended
                    && other.subject == fact.subject
                    && other.attribute == fact.attribute
                    && other.value.eq_ignore_ascii_case(&fact.value)
            });
        let longer = all.iter().any(|other| {
            other.subject == fact.subject
                && other.attribute == fact.attribute
                && other.ended == fact.ended
                && other.value.len() > fact.value.len()
                && other.value.to_lowercase().contains(&fact.value.to_lowercase())
        });
        // "I don't like olives any more" ends a taste, and is no other one.
        let gone_off = fact.attribute == "dislikes"
            && all.iter().any(|other| {
                other.ended
                    && other.attribute == "likes"
                    && other.subject == fact.subject
                    && other.value.eq_ignore_ascii_case(&fact.value)
            });
        // "I moved back to Poland and live in Gdańsk now": what has one value at a time has the one that was said last.
        let later = |at: usize| all.iter().skip(at + 1);
        let at = all.iter().position(|other| other == fact).unwrap_or(0);
        let outdone = !fact.ended
            && fact.attribute == "lives_in"
            && later(at).any(|other| !other.ended && other.attribute == "lives_in" && other.subject == fact.subject);
        // "I'm a Rome girl since May": the same home is where one lives now.
        let home = fact.attribute == "from"
            && all.iter().any(|other| other.attribute == "lives_in" && other.value == fact.value);
        // "I start at Durham University": who studies there does not work there.
        let student = fact.attribute == "works_at"
            && all.iter().any(|other| {
                other.attribute == "studies_at" && other.subject == fact.subject && other.value == fact.value
            });
        // "I left Ostrava Steel": a firm, not a person.
        let firm = fact.attribute == "partner"
            && fact.ended
            && all.iter().any(|other| other.attribute == "works_at" && other.ended && other.value == fact.value);
        // "I have an exam on 4 May": the date says that it is planned.
        let dated = fact.attribute == "plan"
            && !fact.ended
            && all.iter().any(|other| {
                let of = other.attribute.strip_prefix("date of ").unwrap_or_default();
                let small = fact.value.to_lowercase();
                !of.is_empty()
                    && (small == of
                        || small.ends_with(&format!(" {of}"))
                        || (of == "wedding" && small == "getting married"))
            });
        // A pet by its kind, where there is one by its name.
        let kind = fact.attribute == "pet"
            && !fact.value.starts_with(char::is_uppercase)
            && all.iter().any(|other| {
                other.attribute == "pet" && other.subject == fact.subject && other.value.starts_with(char::is_uppercase)
            });
        // "We moved to Kubernetes": what is a tool is no place.
        let tool = fact.attribute == "lives_in"
            && all.iter().any(|other| {
                other.attribute == "uses"
                    && other.value == fact.value
                    && lexicon::TOOLS.contains(other.value.to_lowercase().as_str())
            });
        // A language that is spoken, a sport and an animal are no tools; nor is where one lives.
        let place = fact.attribute == "uses"
            && all.iter().any(|other| other.attribute == "lives_in" && other.value == fact.value)
            && !lexicon::TOOLS.contains(fact.value.to_lowercase().as_str());
        !(ended || longer || tool || place || kind || home || student || firm || gone_off || outdone || dated)
    });
}
