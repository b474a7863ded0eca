//! How much of what is asked about later an extractive summary holds, on LoCoMo (`--locomo FILE`; the format is that of `quality.rs`), in this
//! process: nothing but the summaries themselves, by MiniLM's tokens and vectors.
//!
//! A question's evidence are turns. Of each, two figures: whether a sentence of it is in the summary (touched), and the share of its words that say
//! something which are there with it (words); means over all questions but those with a false premise. The first alone could be had by collecting
//! scraps, the second alone by keeping a few long turns whole.
//!
//! Summaries are made of a whole conversation at once, of a conversation as it runs (at 25 turns that are not covered, ten are, by a summary of the
//! summary so far and of them), and of each session by itself. Beside them, with the same labels and the same budget: the first sentences, and
//! sentences at random. Weights were searched on the conversations named in `SEARCHED_ON`; the others stand apart, but were looked at when the last weights were picked by hand, so they are not wholly
//! unseen.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use engram_agent::{Candidates, Role, Turn, sentences};
use engram_inference::{Encoder, Scratch};
use engram_memory::{Language, MemoryId, words};
use serde_json::Value;

use crate::Outcome;
use crate::report::{Cell, Report, Table, doing, number, progress};
use crate::texts::Random;

const SEARCHED_ON: [&str; 2] = ["conv-26", "conv-42"];
/// Tokens of a summary of a conversation, and of one of a session.
const CONVERSATION: usize = 1_000;
const SESSION: usize = 150;
/// At so many turns that the summary does not cover it moves on, and leaves so many.
const UNCOVERED: usize = 25;
const LEFT: usize = 15;
/// Draws of the sentences at random.
const DRAWS: u64 = 10;

struct Said {
    id: String,
    session: String,
    speaker: String,
    at: u64,
    content: String,
    /// The turn's sentences as a summary shows them, what stands in front of them, and the words of each.
    sentences: Vec<String>,
    label: String,
    terms: Vec<BTreeSet<u32>>,
}

#[derive(Default)]
struct Conversation {
    name: String,
    turns: Vec<Said>,
    /// The evidence of all questions, as often as it is asked for.
    evidence: Vec<String>,
}

fn turn(said: &Said) -> Turn<'_> {
    Turn {
        id: MemoryId::ZERO,
        role: Role::User,
        speaker: Some(&said.speaker),
        at: said.at,
        importance: 0.5,
        content: &said.content,
    }
}

fn terms(text: &str) -> BTreeSet<u32> {
    words(text, Language::English).into_iter().map(|word| word.term).collect()
}

fn conversations(path: &Path) -> Outcome<Vec<Conversation>> {
    let mut all: Vec<Conversation> = Vec::new();
    for line in std::fs::read_to_string(path)?.lines().filter(|line| !line.trim().is_empty()) {
        let object: Value = serde_json::from_str(line)?;
        let text = |field: &str| -> Outcome<String> {
            let text = object[field].as_str().ok_or_else(|| format!("'{field}' is missing or no text in {object}"))?;
            Ok(text.to_owned())
        };
        let name = text("conv")?;
        let at = all.iter().position(|known| known.name == name).unwrap_or_else(|| {
            all.push(Conversation { name, ..Conversation::default() });
            all.len() - 1
        });
        if text("type")? == "memory" {
            let content = match object["caption"].as_str() {
                Some(caption) => format!("{} [shares: {caption}]", text("text")?),
                None => text("text")?,
            };
            let mut said = Said {
                id: text("id")?,
                session: object["session"].to_string(),
                speaker: text("speaker")?,
                at: object["ts"].as_u64().ok_or("'ts' is missing or no time in seconds")? * 1_000,
                content,
                sentences: Vec::new(),
                label: String::new(),
                terms: Vec::new(),
            };
            let alone = Candidates::new(None, &[turn(&said)]);
            said.sentences = alone.texts().map(str::to_owned).collect();
            let whole = alone.select(None, Language::English, usize::MAX / 2, &str::len);
            said.label = whole.split_once("): ").map(|(label, _)| format!("{label}): ")).unwrap_or_default();
            said.terms = said.sentences.iter().map(|sentence| terms(sentence)).collect();
            all[at].turns.push(said);
        } else if object["category"] != 5 {
            let evidence = object["evidence"].as_array().ok_or("'evidence' is missing or no list")?;
            all[at].evidence.extend(evidence.iter().filter_map(|id| id.as_str().map(str::to_owned)));
        }
    }
    Ok(all)
}

/// Sums over evidence.
#[derive(Clone, Copy, Default)]
struct Score {
    asked: f64,
    touched: f64,
    words: f64,
}

impl Score {
    fn add(&mut self, other: Score) {
        self.asked += other.asked;
        self.touched += other.touched;
        self.words += other.words;
    }

    fn cells(&self) -> [Cell; 2] {
        [self.touched, self.words].map(|sum| number(sum / self.asked, 3))
    }
}

/// What of the evidence among these turns is in a summary, given as pairs of label and sentence.
fn score(turns: &[Said], evidence: &[String], summary: &HashSet<(&str, &str)>) -> Score {
    let mut score = Score::default();
    for said in evidence.iter().filter_map(|id| turns.iter().find(|turn| turn.id == *id)) {
        let held = |at: &usize| summary.contains(&(said.label.as_str(), said.sentences[*at].as_str()));
        let held: Vec<usize> = (0..said.sentences.len()).filter(held).collect();
        let found: BTreeSet<u32> = held.iter().flat_map(|at| said.terms[*at].iter().copied()).collect();
        let all: BTreeSet<u32> = said.terms.iter().flatten().copied().collect();
        score.asked += 1.0;
        score.touched += f64::from(u8::from(!held.is_empty()));
        score.words += found.len() as f64 / all.len().max(1) as f64;
    }
    score
}

/// The labels and sentences of a summary.
fn parsed(summary: &str) -> HashSet<(&str, &str)> {
    let mut found = HashSet::new();
    for line in summary.lines() {
        let at = line.find("): ").map_or(0, |at| at + 3);
        let (label, said) = line.split_at(at);
        found.extend(sentences(said).into_iter().map(|range| (label, &said[range])));
    }
    found
}

/// Sentences in this order while they fit; `pass_over` goes on behind one that does not.
fn filled<'a>(
    order: impl Iterator<Item = (&'a Said, usize)>,
    budget: usize,
    pass_over: bool,
    count: &dyn Fn(&str) -> usize,
) -> HashSet<(&'a str, &'a str)> {
    let (mut taken, mut labels, mut left) = (HashSet::new(), HashSet::new(), budget);
    for (said, at) in order {
        let (label, sentence) = (said.label.as_str(), said.sentences[at].as_str());
        let cost = count(sentence) + if labels.contains(label) { 0 } else { count(label) };
        if cost <= left {
            left -= cost;
            labels.insert(label);
            taken.insert((label, sentence));
        } else if !pass_over {
            break;
        }
    }
    taken
}

/// MiniLM, and every vector that was asked for.
struct Embedder {
    encoder: Encoder,
    scratch: Scratch,
    known: HashMap<String, Vec<f32>>,
}

impl Embedder {
    fn vectors(&mut self, texts: &[&str]) -> Outcome<Vec<Vec<f32>>> {
        let mut vectors = Vec::with_capacity(texts.len());
        for text in texts {
            if !self.known.contains_key(*text) {
                let windows = self.encoder.windows(text);
                let first = self.encoder.encode(&windows[..1], &mut self.scratch)?.remove(0);
                self.known.insert((*text).to_owned(), first);
            }
            vectors.push(self.known[*text].clone());
        }
        Ok(vectors)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Vectors,
    Words,
    First,
    AtRandom,
}

const WAYS: [(Way, &str); 4] = [
    (Way::Vectors, "extractive, by vectors"),
    (Way::Words, "extractive, by words"),
    (Way::First, "first sentences"),
    (Way::AtRandom, "sentences at random"),
];

struct Bench {
    embedder: Embedder,
}

impl Bench {
    fn summary(&mut self, way: Way, previous: Option<&str>, turns: &[Said], budget: usize) -> Outcome<String> {
        let turns: Vec<Turn> = turns.iter().map(turn).collect();
        let candidates = Candidates::new(previous, &turns);
        let vectors = match way {
            Way::Vectors => Some(self.embedder.vectors(&candidates.texts().collect::<Vec<_>>())?),
            _ => None,
        };
        let count = |text: &str| self.embedder.encoder.tokens(text).len();
        Ok(candidates.select(vectors.as_deref(), Language::English, budget, &count))
    }

    /// What a way keeps of these turns at once.
    fn at_once(&mut self, way: Way, turns: &[Said], evidence: &[String], budget: usize) -> Outcome<Score> {
        let each = || turns.iter().flat_map(|said| (0..said.sentences.len()).map(move |at| (said, at)));
        let count = |text: &str| self.embedder.encoder.tokens(text).len();
        match way {
            Way::First => Ok(score(turns, evidence, &filled(each(), budget, false, &count))),
            Way::AtRandom => {
                let mut sum = Score::default();
                for seed in 0..DRAWS {
                    let mut random = Random::new(seed);
                    let mut order: Vec<(&Said, usize)> = each().collect();
                    for at in (1..order.len()).rev() {
                        order.swap(at, random.below(at + 1));
                    }
                    sum.add(score(turns, evidence, &filled(order.into_iter(), budget, true, &count)));
                }
                Ok(sum)
            }
            Way::Vectors | Way::Words => {
                let text = self.summary(way, None, turns, budget)?;
                Ok(score(turns, evidence, &parsed(&text)))
            }
        }
    }

    /// What is left of a conversation that was summarised as it went on.
    fn running(&mut self, way: Way, turns: &[Said], evidence: &[String], budget: usize) -> Outcome<Score> {
        let (mut summary, mut covered) = (String::new(), 0);
        for end in 1..=turns.len() {
            let until = if end == turns.len() { end } else { end.saturating_sub(LEFT) };
            if end - covered >= UNCOVERED || end == turns.len() {
                summary = self.summary(way, Some(&summary), &turns[covered..until], budget)?;
                covered = until;
            }
        }
        Ok(score(turns, evidence, &parsed(&summary)))
    }
}

/// The section.
pub fn summaries(report: &mut Report, locomo: Option<&Path>, root: &Path, quick: bool) -> Outcome<()> {
    const WHAT: &str = "Evidence in a running extractive summary of 1,000 tokens (LoCoMo, conversations not searched on), touched and words";
    let Some(path) = locomo else {
        report.skipped("Summaries: LoCoMo is not shipped; name its file with --locomo");
        report.unmeasured(WHAT, "> first sentences and sentences at random", "no data: --locomo FILE");
        return Ok(());
    };
    let models = std::env::var_os("ENGRAM_MODEL_DIR").map_or_else(|| root.join("models"), PathBuf::from);
    let encoder = Encoder::load(&models.join("all-MiniLM-L6-v2"))
        .map_err(|error| format!("there is no encoder: run scripts/fetch-embedder ({error})"))?;
    let embedder = Embedder { encoder, scratch: Scratch::default(), known: HashMap::new() };
    let mut bench = Bench { embedder };
    let mut all = conversations(path)?;
    if quick {
        all.truncate(2);
    }
    let title = format!("Summaries of LoCoMo, {} conversations", all.len());
    let columns = ["what", "how", "touched", "words", "touched, searched on", "words, searched on"];
    let mut table = Table::new("summaries", title, &columns);
    table.note(format!(
        "Of the turns that questions ask for: the share of which a sentence is in the summary, and the share of their words that is. {CONVERSATION} tokens for a \
         conversation, {SESSION} for a session, names and dates included. Weights were searched on {}, which stand apart, and picked with a look at all; at random: mean of {DRAWS} draws.",
        SEARCHED_ON.join(" and "),
    ));
    let kinds = ["conversation, running", "conversation, at once", "session"];
    let mut found: HashMap<(&str, &str), [f64; 2]> = HashMap::new();
    for kind in kinds {
        doing(&format!("summaries: {kind}"));
        for (way, name) in WAYS {
            if kind == kinds[0] && matches!(way, Way::First | Way::AtRandom) {
                continue;
            }
            let (mut others, mut tuned) = (Score::default(), Score::default());
            for (done, conversation) in all.iter().enumerate() {
                let Conversation { name: which, turns, evidence } = conversation;
                let mut sum = Score::default();
                if kind == kinds[0] {
                    sum.add(bench.running(way, turns, evidence, CONVERSATION)?);
                } else if kind == kinds[1] {
                    sum.add(bench.at_once(way, turns, evidence, CONVERSATION)?);
                } else {
                    for session in turns.chunk_by(|a, b| a.session == b.session) {
                        sum.add(bench.at_once(way, session, evidence, SESSION)?);
                    }
                }
                if SEARCHED_ON.contains(&which.as_str()) {
                    tuned.add(sum)
                } else {
                    others.add(sum)
                }
                progress(&format!("{kind}, {name}"), done + 1, all.len());
            }
            found.insert((kind, name), [others.touched, others.words].map(|sum| sum / others.asked));
            let mut cells = vec![kind.into(), name.into()];
            cells.extend(others.cells());
            cells.extend(tuned.cells());
            table.row(cells);
        }
    }
    let of = |kind: usize, way: usize| found.get(&(kinds[kind], WAYS[way].1)).copied().unwrap_or([f64::NAN; 2]);
    let (ours, first, random) = (of(0, 0), of(1, 2), of(1, 3));
    let least = [0, 1].map(|figure| first[figure].max(random[figure]));
    report.target(
        WHAT,
        &format!("> {:.3}, > {:.3}: the better of first sentences and sentences at random", least[0], least[1]),
        format!("{:.3}, {:.3}", ours[0], ours[1]),
        ours[0] > least[0] && ours[1] > least[1],
    );
    report.table(table);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_taken_apart() {
        let found = parsed("Ann (8 May 2023): One. Two!\nThree.");
        assert_eq!(
            found,
            HashSet::from([("Ann (8 May 2023): ", "One."), ("Ann (8 May 2023): ", "Two!"), ("", "Three.")])
        );
    }
}
