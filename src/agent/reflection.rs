//! Reflection: from one session, and what was learned before, one insight of a sentence or two that helps next time.
//!
//! **Without a language model** it is put together from what is known: the outcomes that turns carry (what the user said was done, or lost the thread
//! over), the turns in front of those, and the facts that were learned from the session. Nothing of the kind, nothing learned: a summary is not an insight.
//!
//! **With one** the model writes it from the same material, and [`accept`] looks at it before it is kept: two sentences at most, no names or numbers that the material does not
//! have, words in common with what was said and more so than with the instruction. An insight says more than its sources, so that not every word can be asked for, as of a fact.
//! The turns that share most words with it are its sources.

use crate::outcome::OUTCOMES;
use crate::sentences::sentences;
use engram_memory::{Entry, Language, MemoryId, Told, words};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a model is told. The material follows.
pub const INSTRUCTION: &str = "Below are what was learned before and a conversation. Write one insight from the conversation, in one or two short sentences, that helps next \
    time: what worked or did not, what the user prefers, what to do differently. Be specific. Write the insight only.";

/// Characters of a turn that are quoted.
const QUOTED: usize = 120;
/// Facts that an insight names.
const FACTS: usize = 3;
/// Sentences of an insight.
const SENTENCES: usize = 2;
/// Characters of one that a model wrote.
const LONGEST: usize = 600;
/// Turns that are named as the sources of what a model wrote.
const SOURCES: usize = 8;

/// An insight and what it was drawn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insight {
    /// The text.
    pub text: String,
    /// What it says something of.
    pub from: Vec<MemoryId>,
}

/// The insight that can be had without a language model; None if no turn has an outcome and no fact is new.
pub fn reflect(told: &Told) -> Option<Insight> {
    let mut from: Vec<MemoryId> = Vec::new();
    let [distracted, completed, engaged] = OUTCOMES;
    let mut happened = Vec::new();
    let worked = last_of(told, completed, "got it done").or_else(|| last_of(told, engaged, "went along"));
    for found in [worked, last_of(told, distracted, "lost the thread")].into_iter().flatten() {
        happened.push((found.words, found.failed));
        from.extend(found.from);
    }
    let known: BTreeSet<MemoryId> = told.insights.iter().flat_map(|insight| insight.from.iter().copied()).collect();
    let facts: Vec<&Arc<Entry>> = told.facts.iter().filter(|fact| !known.contains(&fact.id)).take(FACTS).collect();
    if happened.is_empty() && facts.is_empty() {
        return None;
    }
    let user = told.turns.iter().rev().filter(|turn| turn.role.as_deref() == Some("user"));
    let user = user.filter_map(|turn| turn.speaker.as_deref()).next().unwrap_or("The user").to_owned();
    let mut text = String::new();
    if !happened.is_empty() {
        let all: Vec<&str> = happened.iter().map(|(words, _)| words.as_str()).collect();
        text.push_str(&format!("{user} {}", all.join(", but ")));
        text.push(';');
        text.push_str(match happened.as_slice() {
            [_, _] => " next time do it the first way.",
            [(_, true)] => " next time try another way.",
            _ => " next time do it that way again.",
        });
    }
    if !facts.is_empty() {
        let said = facts.iter().map(|fact| fact.content.trim().trim_end_matches('.'));
        let said: Vec<String> = said.map(|fact| format!("that {fact}")).collect();
        text.push_str(if text.is_empty() { "" } else { " " });
        text.push_str(&format!("Keep in mind {}.", said.join(", and ")));
        from.extend(facts.iter().map(|fact| fact.id));
    }
    Some(Insight { text, from })
}

struct Happened {
    words: String,
    failed: bool,
    from: Vec<MemoryId>,
}

/// The last turn of a user with an outcome, what stood in front of it, and how often there was one.
fn last_of(told: &Told, outcome: &str, verb: &str) -> Option<Happened> {
    let is = |turn: &Entry| turn.role.as_deref() == Some("user") && turn.outcome.as_deref() == Some(outcome);
    let times = told.turns.iter().filter(|turn| is(turn)).count();
    let at = told.turns.iter().rposition(|turn| is(turn))?;
    let turn = told.turns.get(at)?;
    let mut from = vec![turn.id];
    let often = if times > 1 { format!(" {times} times, last") } else { String::new() };
    let mut words = format!("{verb}{often}");
    match at.checked_sub(1).and_then(|before| told.turns.get(before)) {
        Some(before) => {
            words.push_str(&format!(" after \"{}\"", quoted(&before.content)));
            from.push(before.id);
        }
        None => words.push_str(&format!(" (\"{}\")", quoted(&turn.content))),
    }
    Some(Happened { words, failed: verb.starts_with("lost"), from })
}

/// The first sentence of a text, in one line, without its full stop, cut at a word if it is long.
fn quoted(text: &str) -> String {
    let first = sentences(text).into_iter().next().and_then(|range| text.get(range)).unwrap_or(text);
    let line: Vec<&str> = first.split_whitespace().collect();
    let line = line.join(" ").replace('"', "'");
    let line = line.trim_end_matches(['.', '!']);
    if line.chars().count() <= QUOTED {
        return line.to_owned();
    }
    let cut: String = line.chars().take(QUOTED).collect();
    format!("{} …", cut.rsplit_once(' ').map_or(cut.as_str(), |(whole, _)| whole))
}

/// Looks at what a model wrote. Errors: why it is not kept, in words.
pub fn accept(text: &str, told: &Told) -> Result<Insight, String> {
    let text = text.trim();
    let ranges = sentences(text);
    let end = ranges.get(SENTENCES.min(ranges.len()).wrapping_sub(1)).map(|last| last.end);
    let text = end.and_then(|end| text.get(..end)).unwrap_or_default().trim();
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.chars().count() > LONGEST {
        return Err(format!("it is longer than {LONGEST} characters"));
    }
    let material: String = told
        .all()
        .flat_map(|entry| [entry.speaker.as_deref().unwrap_or_default(), " ", &entry.content, "\n"])
        .collect();
    let terms =
        |text: &str| words(text, Language::English).into_iter().map(|word| word.term).collect::<BTreeSet<u32>>();
    let (own, known) = (terms(text), terms(&material));
    if let Some(stranger) = names_and_numbers(text).find(|word| !terms(word).is_subset(&known)) {
        return Err(format!("nobody said '{stranger}'"));
    }
    let shared = own.intersection(&known).count();
    if shared < 2 || own.intersection(&terms(INSTRUCTION)).count() > shared {
        return Err("it has nothing to do with what was said".to_owned());
    }
    let mut by_overlap: BTreeMap<(usize, MemoryId), MemoryId> = BTreeMap::new();
    for turn in &told.turns {
        let common = terms(&turn.content).intersection(&own).count();
        if common > 0 {
            by_overlap.insert((common, turn.id), turn.id);
        }
    }
    let mut from: Vec<MemoryId> = by_overlap.into_values().rev().take(SOURCES).collect();
    // Names and numbers that none of these has are somebody's, too: what is forgotten with them must not live on here.
    let said = |entry: &Entry| terms(&[entry.speaker.as_deref().unwrap_or_default(), " ", &entry.content].concat());
    let sources = told.all().filter(|entry| from.contains(&entry.id));
    let mut covered: BTreeSet<u32> = sources.flat_map(|entry| said(entry)).collect();
    for word in names_and_numbers(text) {
        if terms(word).is_subset(&covered) {
            continue;
        }
        if let Some(entry) = told.all().find(|entry| terms(word).is_subset(&said(entry))) {
            covered.extend(said(entry));
            from.push(entry.id);
        }
    }
    from.sort_unstable();
    from.dedup();
    if from.is_empty() {
        return Err("it has nothing to do with what was said".to_owned());
    }
    Ok(Insight { text: text.to_owned(), from })
}

/// Words that are invented most easily: those with a capital letter inside of a sentence, and those with digits.
fn names_and_numbers(text: &str) -> impl Iterator<Item = &str> {
    let sentences = sentences(text).into_iter().filter_map(|range| text.get(range));
    sentences.flat_map(|sentence| {
        let words = sentence.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.enumerate().filter_map(|(n, word)| {
            let number = word.contains(|c: char| c.is_ascii_digit());
            let name = n > 0 && word.chars().count() > 1 && word.starts_with(char::is_uppercase);
            (number || name).then_some(word)
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use engram_memory::{NewMemory, Space};

    /// A session in which some turns have an outcome: role, text, outcome.
    fn told(turns: &[(&str, &str, &str)]) -> Told {
        let mut space = Space::new();
        for (n, (role, text, outcome)) in turns.iter().enumerate() {
            let new = NewMemory {
                content: (*text).to_owned(),
                role: Some((*role).to_owned()),
                session: Some("s".to_owned()),
                speaker: (*role == "user").then(|| "Ann".to_owned()),
                outcome: Some((*outcome).to_owned()).filter(|outcome| !outcome.is_empty()),
                dedup: engram_memory::Dedup::Off,
                ..NewMemory::default()
            };
            for effect in space.store(1_000 + n as u64, new).unwrap().effects {
                space.apply(&effect).unwrap();
            }
        }
        space.snapshot().told(2_000, "s")
    }

    #[test]
    fn outcomes_say_what_worked_and_what_did_not() {
        let both = told(&[
            ("assistant", "Here are forty links. Read them all.", ""),
            ("user", "Wait, what was I doing?", "distracted"),
            ("assistant", "Let us split it into three steps!", ""),
            ("user", "Finished it.", "task_completed"),
        ]);
        let insight = reflect(&both).unwrap();
        assert_eq!(
            insight.text,
            "Ann got it done after \"Let us split it into three steps\", but lost the thread after \"Here are forty links\"; next time do it the first way."
        );
        assert_eq!(insight.from.len(), 4);
        let often = told(&[("user", "Wait", "distracted"), ("assistant", "So", ""), ("user", "hold on", "distracted")]);
        assert_eq!(
            reflect(&often).unwrap().text,
            "Ann lost the thread 2 times, last after \"So\"; next time try another way."
        );
        assert_eq!(reflect(&told(&[("user", "Hello.", ""), ("assistant", "Good morning.", "")])), None);
        assert_eq!(reflect(&told(&[])), None);
    }

    #[test]
    fn what_a_model_writes_is_kept_only_if_it_is_about_what_was_said() {
        let said = told(&[
            ("user", "Please keep the answers about my garden in Bern short.", ""),
            ("assistant", "I will keep them short.", ""),
        ]);
        let kept =
            accept(" Keep answers about the garden short. Ann likes that. And a third sentence.", &said).unwrap();
        assert_eq!(kept.text, "Keep answers about the garden short. Ann likes that.");
        assert_eq!(kept.from.len(), 2);
        for (text, why) in [
            ("", "empty"),
            ("  \n", "empty"),
            ("Keep answers about the garden in Paris short.", "'Paris'"),
            ("Keep answers about the garden to 40 words.", "'40'"),
            ("Volcanoes erupt underwater.", "nothing to do"),
            ("Write one insight that helps next time: what worked or did not.", "nothing to do"),
        ] {
            assert!(accept(text, &said).unwrap_err().contains(why), "{text}");
        }
        assert!(accept(&"garden answers ".repeat(60), &said).unwrap_err().contains("longer"));
    }
}
