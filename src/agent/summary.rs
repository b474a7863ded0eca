//! Extractive summaries: the sentences of a conversation that say most, within a number of tokens, without a language model.
//!
//! A summary runs: what it is made of are the turns that it shall cover now and its own sentences so far. So it is text with a shape that is read
//! back: a line per speaker and day, `Ann (8 May 2023): I adopted a dog. He is old.`, in order of time. A summary that a language model or a person
//! wrote is read too: its lines have no label then, and keep none.
//!
//! **What a sentence is worth** is mostly a matter of the sentence itself, so that an old one is not measured by what has come since: how many
//! different words say something in it, whether it has numbers, names, speaks of the speaker or of who listens, is a question; how important its turn
//! is; and how far it is from the middle of all. Then sentences are taken one by one, the best per square root of tokens first (per token would take
//! nothing but scraps), each made less by how much it repeats what is taken.
//!
//! **Far from the middle is better.** Summaries are usually taken from the middle, where sentences resemble most others (LexRank, centroids): right
//! for an article, where all talk about one thing. In a conversation the middle is what is said all the time, thanks and wishes. On LoCoMo each step
//! from centrality to its opposite covers more of the turns that questions ask about, in the conversations that weights were searched on
//! and in the others (`tests/bench/summaries.rs` measures it). Where each sentence stood in its turn, and how rare its words are, made little difference
//! and is not looked at.
//!
//! Sentences are compared by their vectors, or by their words (TF-IDF) where there is no encoder; that costs little.

use crate::context::Turn;
use crate::fence::push_line;
use crate::sentences::{is_line_break, is_terminated, sentences};
use engram_memory::{Language, date, words};
use std::collections::HashMap;

/// What features of a sentence add to the logarithm of its words.
const NUMBER: f64 = 0.6;
const NAME: f64 = 0.5;
/// Names beyond these add nothing.
const NAMES: usize = 2;
const FIRST_PERSON: f64 = 0.5;
const SECOND_PERSON: f64 = -0.5;
const MIDDLE: f64 = -1.0;
/// What a question is worth, beside a statement.
const QUESTION: f64 = 0.3;
/// Above this similarity a sentence repeats another: at 1 nothing is left of it.
const REPEATED: f64 = 0.7;
/// Tokens that every sentence is taken to have more than it has.
const OVERHEAD: f64 = 10.0;
/// The least that a sentence is worth.
const LEAST: f64 = 0.01;

const I: [&str; 12] = ["i", "i'm", "i've", "i'll", "i'd", "me", "my", "mine", "we", "we're", "our", "us"];
const YOU: [&str; 7] = ["you", "you're", "you've", "you'll", "you'd", "your", "yours"];

/// The sentences that a summary can be made of.
///
/// Made from the summary so far and the turns to cover; the caller has [`texts`](Candidates::texts) embedded, if it can, and
/// [`select`](Candidates::select)s.
pub struct Candidates {
    sentences: Vec<Sentence>,
    labels: Vec<String>,
}

struct Sentence {
    text: String,
    /// Whose and when: a place in the labels, which are in order of time.
    label: usize,
    importance: f64,
}

impl Candidates {
    /// From the summary so far and the turns that come behind it, in order of time.
    pub fn new(previous: Option<&str>, turns: &[Turn]) -> Candidates {
        let mut made = Candidates { sentences: Vec::new(), labels: Vec::new() };
        let mut known: HashMap<String, usize> = HashMap::new();
        for (label, said) in lines(previous.unwrap_or_default()) {
            // Lines without a label stay lines of their own.
            let at = match label.and_then(|label| known.get(label)) {
                Some(at) => *at,
                None => made.add_label(label.unwrap_or_default(), &mut known),
            };
            said.into_iter().for_each(|sentence| made.add(sentence, at, 0.5));
        }
        for turn in turns {
            let mut label = String::new();
            push_line(&mut label, turn.speaker.unwrap_or(turn.role.name()));
            label.push_str(&format!(" ({}): ", date::words(turn.at)));
            let at = match known.get(&label) {
                Some(at) => *at,
                None => made.add_label(&label, &mut known),
            };
            for range in sentences(turn.content) {
                made.add(turn.content.get(range).unwrap_or_default(), at, turn.importance);
            }
        }
        made
    }

    fn add_label(&mut self, label: &str, known: &mut HashMap<String, usize>) -> usize {
        if !label.is_empty() {
            known.insert(label.to_owned(), self.labels.len());
        }
        self.labels.push(label.to_owned());
        self.labels.len() - 1
    }

    fn add(&mut self, sentence: &str, label: usize, importance: f64) {
        let mut text = String::with_capacity(sentence.len() + 1);
        push_line(&mut text, without_marker(sentence));
        if text.is_empty() {
            return;
        }
        if !is_terminated(&text) {
            // So that it is a sentence again when the summary is read.
            text.push('.');
        }
        self.sentences.push(Sentence { text, label, importance });
    }

    /// The sentences, to be embedded.
    pub fn texts(&self) -> impl ExactSizeIterator<Item = &str> {
        self.sentences.iter().map(|sentence| sentence.text.as_str())
    }

    /// The summary: at most `budget` tokens by `count`. `vectors` are those of [`texts`](Candidates::texts), one for each, of any length; without
    /// them, or with another number of them, words are compared. The same candidates give the same summary.
    pub fn select(
        &self,
        vectors: Option<&[Vec<f32>]>,
        language: Language,
        budget: usize,
        count: &dyn Fn(&str) -> usize,
    ) -> String {
        let terms: Vec<Vec<u32>> = self
            .texts()
            .map(|text| {
                let mut terms: Vec<u32> = words(text, language).into_iter().map(|word| word.term).collect();
                terms.sort_unstable();
                terms.dedup();
                terms
            })
            .collect();
        let space = match vectors.filter(|vectors| vectors.len() == self.sentences.len()) {
            Some(vectors) => Points::dense(vectors),
            None => Points::sparse(&terms),
        };
        let middle = space.to_middle();
        let worth = self.sentences.iter().zip(&terms).zip(middle).map(|((sentence, terms), middle)| {
            (sentence.worth(terms.len(), language) + MIDDLE * middle).max(LEAST) * sentence.weight()
        });
        let mut chosen = self.choose(&worth.collect::<Vec<f64>>(), &space, budget, count);
        // The parts add up only nearly.
        loop {
            let text = self.render(&chosen);
            if chosen.is_empty() || count(&text) <= budget {
                return text;
            }
            chosen.pop();
        }
    }

    /// The places of the sentences that are taken, the best first.
    fn choose(&self, worth: &[f64], space: &Points, budget: usize, count: &dyn Fn(&str) -> usize) -> Vec<usize> {
        let costs: Vec<usize> = self.texts().map(count).collect();
        let mut label_costs: Vec<usize> = self.labels.iter().map(|label| count(label) + 1).collect();
        let mut repeats = vec![0.0_f64; self.sentences.len()];
        let mut open = vec![true; self.sentences.len()];
        let (mut chosen, mut left) = (Vec::new(), budget);
        loop {
            let mut best: Option<(f64, usize, usize)> = None;
            for (at, sentence) in self.sentences.iter().enumerate() {
                let parts =
                    (open.get(at), costs.get(at), label_costs.get(sentence.label), worth.get(at), repeats.get(at));
                let (Some(true), Some(cost), Some(label), Some(worth), Some(repeats)) = parts else { continue };
                let cost = cost + label;
                let novelty = 1.0 - ((repeats - REPEATED) / (1.0 - REPEATED)).clamp(0.0, 1.0);
                let gain = worth * novelty / (cost as f64 + OVERHEAD).sqrt();
                if cost <= left && gain > best.map_or(0.0, |(gain, ..)| gain) {
                    best = Some((gain, at, cost));
                }
            }
            let Some((_, at, cost)) = best else { return chosen };
            chosen.push(at);
            left -= cost;
            if let Some(open) = open.get_mut(at) {
                *open = false;
            }
            if let Some(label) = self.sentences.get(at).and_then(|sentence| label_costs.get_mut(sentence.label)) {
                *label = 0;
            }
            for (other, repeats) in repeats.iter_mut().enumerate() {
                *repeats = repeats.max(space.similarity(at, other));
            }
        }
    }

    /// The text of these sentences: a line per label, both in order of time.
    fn render(&self, chosen: &[usize]) -> String {
        let mut chosen: Vec<(usize, usize)> =
            chosen.iter().filter_map(|at| self.sentences.get(*at).map(|sentence| (sentence.label, *at))).collect();
        chosen.sort_unstable();
        let mut text = String::new();
        let mut line = None;
        for (label, at) in chosen {
            if line != Some(label) {
                if line.is_some() {
                    text.push('\n');
                }
                text.push_str(self.labels.get(label).map_or("", String::as_str));
            } else {
                text.push(' ');
            }
            line = Some(label);
            text.push_str(self.sentences.get(at).map_or("", |sentence| sentence.text.as_str()));
        }
        text
    }
}

impl Sentence {
    /// What the sentence itself is worth, with so many different words that say something.
    fn worth(&self, terms: usize, language: Language) -> f64 {
        let mut worth = (1.0 + terms as f64).ln();
        if self.text.contains(char::is_numeric) {
            worth += NUMBER;
        }
        let word = |word: &'_ str| word.trim_matches(|char: char| !char.is_alphanumeric()).to_owned();
        let words: Vec<String> = self.text.split_whitespace().map(word).collect();
        let is_name = |pair: &&[String]| {
            let [before, word] = pair else { return false };
            let mut letters = word.chars();
            // Behind a name stands its second part; "I" is none.
            !before.is_empty()
                && letters.next().is_some_and(char::is_uppercase)
                && letters.next().is_some_and(char::is_lowercase)
        };
        worth += NAME * words.windows(2).filter(is_name).count().min(NAMES) as f64;
        if language == Language::English {
            let has =
                |list: &[&str]| words.iter().any(|word| list.contains(&word.to_lowercase().replace('’', "'").as_str()));
            worth += if has(&I) { FIRST_PERSON } else { 0.0 } + if has(&YOU) { SECOND_PERSON } else { 0.0 };
        }
        worth
    }

    /// What that is multiplied by.
    fn weight(&self) -> f64 {
        let closing = |char: char| !char.is_alphanumeric() && !matches!(char, '?' | '？' | '؟');
        let question = self.text.trim_end_matches(closing).ends_with(['?', '？', '؟']);
        (0.5 + self.importance) * if question { QUESTION } else { 1.0 }
    }
}

/// Sentences as points, by which they are compared.
enum Points {
    Dense(Vec<Vec<f32>>),
    /// Words in order with their weights.
    Sparse(Vec<Vec<(u32, f32)>>),
}

impl Points {
    fn dense(vectors: &[Vec<f32>]) -> Points {
        let unit = |vector: &Vec<f32>| {
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            vector.iter().map(|x| x / length).collect()
        };
        Points::Dense(vectors.iter().map(unit).collect())
    }

    fn sparse(terms: &[Vec<u32>]) -> Points {
        let mut holders: HashMap<u32, usize> = HashMap::new();
        terms.iter().flatten().for_each(|term| *holders.entry(*term).or_default() += 1);
        let rarity = |term: &u32| (1.0 + terms.len() as f32 / holders.get(term).copied().unwrap_or(1) as f32).ln();
        let unit = |terms: &Vec<u32>| {
            let weights: Vec<f32> = terms.iter().map(rarity).collect();
            let length = weights.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            terms.iter().zip(weights).map(|(term, weight)| (*term, weight / length)).collect()
        };
        Points::Sparse(terms.iter().map(unit).collect())
    }

    fn similarity(&self, a: usize, b: usize) -> f64 {
        let product: Option<f32> = match self {
            Points::Dense(all) => all.get(a).zip(all.get(b)).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum()),
            Points::Sparse(all) => all.get(a).zip(all.get(b)).map(|(a, b)| {
                let weight = |term: &u32| b.binary_search_by_key(term, |(term, _)| *term).ok().and_then(|at| b.get(at));
                a.iter().filter_map(|(term, x)| weight(term).map(|(_, y)| x * y)).sum()
            }),
        };
        product.unwrap_or_default().into()
    }

    /// The cosine of each to the middle of all.
    fn to_middle(&self) -> Vec<f64> {
        match self {
            Points::Dense(all) => {
                let mut middle: Vec<f32> = vec![0.0; all.iter().map(Vec::len).max().unwrap_or_default()];
                for vector in all {
                    middle.iter_mut().zip(vector).for_each(|(middle, x)| *middle += x);
                }
                let length = middle.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                let cosine = |vector: &Vec<f32>| middle.iter().zip(vector).map(|(m, x)| m * x).sum::<f32>() / length;
                all.iter().map(|vector| cosine(vector).into()).collect()
            }
            Points::Sparse(all) => {
                // In order of the words, so that the same sentences give the same sums.
                let mut middle: std::collections::BTreeMap<u32, f32> = std::collections::BTreeMap::new();
                all.iter().flatten().for_each(|(term, x)| *middle.entry(*term).or_default() += x);
                let length = middle.values().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                let weight = |term: &u32| middle.get(term).copied().unwrap_or_default();
                let cosine = |vector: &Vec<(u32, f32)>| vector.iter().map(|(t, x)| weight(t) * x).sum::<f32>() / length;
                all.iter().map(|vector| cosine(vector).into()).collect()
            }
        }
    }
}

/// The lines of a summary: who said it and when (`Ann (8 May 2023): `), if the line begins with that, and the sentences.
pub(crate) fn lines(summary: &str) -> Vec<(Option<&str>, Vec<&str>)> {
    let lines = summary.split(is_line_break).map(str::trim).filter(|line| !line.is_empty());
    let parted = lines.map(|line| {
        let label = label(line);
        let rest = line.strip_prefix(label.unwrap_or_default()).unwrap_or(line);
        (label, sentences(rest).into_iter().filter_map(|range| rest.get(range)).collect::<Vec<_>>())
    });
    parted.filter(|(_, sentences)| !sentences.is_empty()).collect()
}

/// The name and the day at the beginning of a line of a summary.
fn label(line: &str) -> Option<&str> {
    let (before, _) = line.split_once("): ")?;
    let (_, day) = before.rsplit_once(" (")?;
    if date::is_words(day) { line.get(..before.len() + 3) } else { None }
}

/// A sentence without the sign of a list, a quote or a heading in front of it.
fn without_marker(sentence: &str) -> &str {
    let rest = sentence.trim_start_matches(['-', '*', '+', '•', '#', '>']);
    if rest.starts_with(char::is_whitespace) { rest.trim_start() } else { sentence }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::context::Role;
    use engram_memory::MemoryId;
    use proptest::prelude::*;

    fn turn(speaker: &str, day: u64, content: &'static str) -> Turn<'static> {
        let speaker = Some(if speaker == "Ann" { "Ann" } else { "Bo" });
        Turn { id: MemoryId::ZERO, role: Role::User, speaker, at: day * 86_400_000, importance: 0.5, content }
    }

    fn tokens(text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn summary(previous: Option<&str>, turns: &[Turn], budget: usize) -> String {
        Candidates::new(previous, turns).select(None, Language::English, budget, &tokens)
    }

    #[test]
    fn what_says_something_is_kept_with_who_said_it_and_when() {
        let turns = [
            turn("Ann", 19_485, "Hey! How are you? I adopted a dog from the shelter in Leeds last week."),
            turn("Bo", 19_485, "Wow, that is great! So happy for you!"),
            turn("Ann", 19_485, "Thanks! He is called Max. He's 3 years old"),
            turn("Bo", 19_490, "My sister Eve moved to Norway for her job at Equinor."),
        ];
        assert_eq!(
            summary(None, &turns, 40),
            "Ann (8 May 2023): I adopted a dog from the shelter in Leeds last week. He is called Max. He's 3 years old.\nBo (13 May 2023): My sister Eve \
             moved to Norway for her job at Equinor."
        );
        assert_eq!(summary(None, &turns, 0), "");
        assert_eq!(summary(None, &[], 100), "");
    }

    #[test]
    fn a_summary_is_read_back() {
        let previous = "Ann (8 May 2023): I adopted a dog. He is 3.\nThey met in (of all places) Rome: nobody knew.";
        assert_eq!(summary(Some(previous), &[], 100), previous);
        let more = [turn("Ann", 19_485, "- [shares: a photo of the dog]\n- The dog is 3"), turn("Bo", 19_486, "ok")];
        let next = summary(Some(previous), &more, 100);
        assert_eq!(
            next,
            "Ann (8 May 2023): I adopted a dog. He is 3. [shares: a photo of the dog]. The dog is 3.\nThey met in (of all places) Rome: \
             nobody knew.\nBo (9 May 2023): ok."
        );
        assert_eq!(summary(Some(&next), &[], 100), next);
    }

    #[test]
    fn what_is_said_twice_is_taken_once() {
        let turns = [
            turn("Ann", 1, "The ferry to Oslo leaves at 9 from the old pier."),
            turn("Bo", 1, "The ferry to Oslo leaves at 9 from the old pier."),
            turn("Bo", 2, "Eve paints her boat blue."),
        ];
        let made = summary(None, &turns, 26);
        assert_eq!(made.matches("ferry").count(), 1, "{made}");
        assert!(made.contains("Eve"), "{made}");
        let all = Candidates::new(None, &turns);
        let vectors = [vec![1.0, 0.0], vec![2.0, 0.0], vec![0.0, 1.0]];
        assert_eq!(all.select(Some(&vectors), Language::English, 26, &tokens), made);
        // Importance decides between equals.
        let heavy = [turns[0], Turn { importance: 1.0, ..turns[1] }];
        assert!(summary(None, &heavy, 17).starts_with("Bo"), "{}", summary(None, &heavy, 17));
    }

    /// A conversation of `tests/data`: the turns that questions ask about are in its summary, more than among its first sentences.
    #[test]
    fn real_conversations() {
        for file in [include_str!("../../tests/data/kitchen.json"), include_str!("../../tests/data/garden.json")] {
            let file: serde_json::Value = serde_json::from_str(file).unwrap();
            let said =
                file["sessions"].as_array().unwrap().iter().flat_map(|session| session["turns"].as_array().unwrap());
            let said: Vec<&serde_json::Value> = said.collect();
            let turns: Vec<Turn> = said
                .iter()
                .map(|turn| Turn {
                    id: MemoryId::ZERO,
                    role: Role::parse(turn["role"].as_str().unwrap()).unwrap(),
                    speaker: turn["speaker"].as_str(),
                    at: turn["at"].as_u64().unwrap(),
                    importance: 0.5,
                    content: turn["content"].as_str().unwrap(),
                })
                .collect();
            let asked: Vec<&str> = file["questions"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|question| question["evidence"].as_array().unwrap())
                .map(|id| id.as_str().unwrap())
                .collect();
            let held = |summary: &str| {
                let turns = said.iter().zip(&turns).filter(|(turn, _)| asked.contains(&turn["id"].as_str().unwrap()));
                turns
                    .filter(|(_, turn)| {
                        sentences(turn.content).into_iter().any(|range| summary.contains(&turn.content[range]))
                    })
                    .count()
            };
            // As it runs: ten more turns at a time.
            let mut running = String::new();
            for turns in turns.chunks(10) {
                running = summary(Some(&running), turns, 220);
                assert!(tokens(&running) <= 220);
            }
            let mut first = String::new();
            for turn in &turns {
                if tokens(&first) + tokens(turn.content) <= 220 {
                    first.push_str(turn.content);
                    first.push('\n');
                }
            }
            assert!(
                held(&running) > held(&first),
                "{} and {} of {}:\n{running}",
                held(&running),
                held(&first),
                asked.len()
            );
            // In order of time, every line with who and when.
            let days: Vec<usize> = running
                .lines()
                .map(|line| turns.iter().position(|turn| line.contains(&date::words(turn.at))).unwrap())
                .collect();
            assert!(days.is_sorted());
        }
    }

    proptest! {
        #[test]
        fn a_summary_keeps_its_budget(
            // No numbers and initials: where a sentence ends behind one depends on what follows, which a summary puts together anew.
            texts in prop::collection::vec("([A-Za-z']{2,8}[ .!?\n]{1,2}){0,12}", 0..8),
            previous in prop::option::of("([A-Za-z (May):.\n]{2,20}){0,5}"),
            budget in 0..80_usize,
            letters in any::<bool>(),
        ) {
            let count = |text: &str| if letters { text.len() } else { tokens(text) + text.len() % 3 };
            let turns: Vec<Turn> = texts.iter().map(|text| Turn { content: text, ..turn("Ann", 100, "") }).collect();
            let all = Candidates::new(previous.as_deref(), &turns);
            let made = all.select(None, Language::English, budget, &count);
            prop_assert!(made.is_empty() || count(&made) <= budget);
            prop_assert_eq!(&made, &all.select(None, Language::English, budget, &count));
            // Read again with room enough, nothing is lost.
            let again = Candidates::new(Some(&made), &[]).select(None, Language::English, usize::MAX / 2, &count);
            prop_assert_eq!(again, made);
        }
    }
}
