//! Precision and recall of the extraction of facts, with and without a language model, on turns with labels.
//!
//! `cargo run --release -p engram-agent --example score_extraction -- tests/data/extraction/dev.jsonl [--model GGUF] [--oracle] [--adversary N] [--show]`
//! `… --example score_extraction -- tests/data/extraction/locomo.jsonl --locomo FILE`: labels of turns whose texts are not shipped
//!
//! A fact that was found is right if subject, attribute and `ended` are those of a label of its turn and the value is one that the label accepts: one has all
//! the words of the other, articles apart, and at least half as many. Each label counts once. `--show` lists what was missed and what was wrong.
//!
//! With `--model` the turns are also shown to a model, and three things are scored: the patterns, what the model finds and the gate lets through, and both
//! together. `--oracle` puts the best model in its place, one that proposes what the labels say: what comes out is the most that any model can add. `--adversary` puts the worst model in its place: one that proposes, of every turn, every run of up to three words as the value of every
//! attribute of everybody who may be meant, begun and ended, with the right citation; of these some N for each turn, evenly chosen. What comes out says how much the gate holds without any help.

use engram_agent::{Fact, FactRequest, Refused, fact_requests, findings};
use engram_inference::constraint::Grammar;
use engram_inference::gemma::{Gemma, LoadOptions, Progress, Role, Turn, Workspace};
use engram_inference::generation::{Generation, Step};
use engram_inference::sampler::Sampling;
use engram_memory::{Dedup, Entry, Findings, MemoryId, NewMemory, Space, TURNS_BEFORE, Unread};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

type Failure = Box<dyn std::error::Error>;

/// Tokens of a prompt for the model.
const BUDGET: usize = 1_024;

struct Label {
    fact: Fact,
    accepted: Vec<String>,
}

/// A turn and what it states.
struct Labelled {
    id: String,
    entry: Arc<Entry>,
    before: Vec<Arc<Entry>>,
    facts: Vec<Label>,
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn words(value: &str) -> Vec<String> {
    let articles = ["a", "an", "the", "my", "our", "some"];
    value
        .to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty() && !articles.contains(word))
        .map(|word| word.strip_suffix('s').filter(|one| one.len() > 2).unwrap_or(word).to_owned())
        .collect()
}

fn alike(a: &str, b: &str) -> bool {
    let (a, b) = (words(a), words(b));
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    !short.is_empty() && short.iter().all(|word| long.contains(word)) && short.len() * 2 >= long.len()
}

fn is_right(found: &Fact, label: &Label) -> bool {
    let same = match (found.attribute.strip_prefix("date of "), label.fact.attribute.strip_prefix("date of ")) {
        (Some(found), Some(label)) => words(found).iter().any(|word| words(label).contains(word)),
        _ => found.attribute == label.fact.attribute,
    };
    same && found.ended == label.fact.ended
        && found.subject.eq_ignore_ascii_case(&label.fact.subject)
        && label.accepted.iter().any(|value| alike(&found.value, value))
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (mut files, mut model, mut locomo) = (Vec::new(), None, None);
    let (mut show, mut oracle, mut adversary) = (false, false, None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--show" => show = true,
            "--oracle" => oracle = true,
            "--locomo" => locomo = Some(arguments.next().ok_or("--locomo takes a file")?),
            "--adversary" => adversary = Some(arguments.next().ok_or("--adversary takes a number")?.parse()?),
            "--model" => model = Some(Model::load(Path::new(&arguments.next().ok_or("--model takes a file")?))?),
            _ => files.push(argument),
        }
    }
    for path in files {
        let lines = json_lines(&path)?;
        let turns = turns(&match &locomo {
            Some(texts) => labels_with_texts(&lines, &json_lines(texts)?)?,
            None => lines,
        })?;
        let unread: Vec<Unread> =
            turns.iter().map(|turn| Unread { entry: turn.entry.clone(), before: turn.before.clone() }).collect();
        let patterns = findings(&unread, false).0;
        score(
            &format!("{path}: patterns"),
            &turns,
            &patterns,
            show && model.is_none() && !oracle && adversary.is_none(),
        );
        if let Some(model) = &mut model {
            let (mut alone, mut union, mut refused) = (Findings::default(), patterns.clone(), Vec::new());
            let count = |text: &str| model.gemma.tokenizer().encode(text).len();
            for request in fact_requests(&unread, &count, BUDGET) {
                let answer = model.answer(&request)?;
                request.read(&answer, &mut alone, &mut refused);
                request.read(&answer, &mut union, &mut Vec::new());
            }
            score(&format!("{path}: model"), &turns, &alone, false);
            score(&format!("{path}: union"), &turns, &union, show);
            count_refused(&refused);
        }
        if oracle {
            let (mut union, mut refused) = (patterns.clone(), Vec::new());
            for (request, turn) in alone(&unread, &turns) {
                let facts: Vec<Value> = turn.facts.iter().map(|label| proposal(&label.fact)).collect();
                request.read(&json!({ "facts": facts }).to_string(), &mut union, &mut refused);
            }
            score(&format!("{path}: union with the best model"), &turns, &union, show);
            count_refused(&refused);
        }
        if let Some(most) = adversary {
            let (mut union, mut refused, mut proposed) = (patterns.clone(), Vec::new(), 0);
            for (request, turn) in alone(&unread, &turns) {
                for answer in lies(&turn.entry, &request.schema, most)? {
                    proposed += answer.len();
                    request.read(&json!({ "facts": answer }).to_string(), &mut union, &mut refused);
                }
            }
            score(&format!("{path}: union with the worst model"), &turns, &union, show);
            println!("  of {proposed} proposals {} were let through, repetitions included", proposed - refused.len());
            count_refused(&refused);
        }
    }
    Ok(())
}

/// Requests about one turn each.
fn alone<'t>(unread: &'t [Unread], turns: &'t [Labelled]) -> impl Iterator<Item = (FactRequest, &'t Labelled)> {
    unread
        .chunks(1)
        .zip(turns)
        .flat_map(|(unread, turn)| fact_requests(unread, &|_| 0, 1).into_iter().map(move |request| (request, turn)))
}

/// A label as a model would write it.
fn proposal(fact: &Fact) -> Value {
    let of = |prefix: &str| fact.attribute.strip_prefix(prefix);
    let (attribute, of) = match (of("favorite "), of("date of ")) {
        (Some(of), _) => ("favorite", Some(of)),
        (_, Some(of)) => ("date", Some(of)),
        _ => (fact.attribute.as_str(), None),
    };
    json!({"subject": fact.subject, "attribute": attribute, "of": of, "value": fact.value, "ended": fact.ended, "turns": [1]})
}

fn json_lines(path: &str) -> Result<Vec<Value>, Failure> {
    let lines = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// The turns of LoCoMo, each with what the labels say of it. A label names its turn and says where in the text its value and other wordings of it stand, as bytes from and to; `of` names
/// an earlier turn where they stand in that one. Subject is the speaker, or stands in the text as well. Turns without a label state nothing.
fn labels_with_texts(labels: &[Value], lines: &[Value]) -> Result<Vec<Value>, Failure> {
    let said = |line: &&Value| text(line, "type") == "memory";
    let texts: BTreeMap<(&str, &str), &str> =
        lines.iter().filter(said).map(|line| ((text(line, "conv"), text(line, "id")), text(line, "text"))).collect();
    let mut facts: BTreeMap<(&str, &str), Vec<Value>> = BTreeMap::new();
    for label in labels {
        let (conversation, turn) = (text(label, "conversation"), text(label, "turn"));
        let of = label.get("of").and_then(Value::as_str).unwrap_or(turn);
        let wording = |range: &Value| -> Result<Value, Failure> {
            let range: (usize, usize) = serde_json::from_value(range.clone())?;
            let found = texts.get(&(conversation, of)).and_then(|text| text.get(range.0..range.1));
            Ok(Value::from(
                found
                    .ok_or_else(|| format!("{conversation} {of} has no bytes {range:?}: another edition of LoCoMo?"))?,
            ))
        };
        let mut fact = label.clone();
        for name in ["value", "subject"] {
            if let Some(range) = label.get(name) {
                fact[name] = wording(range)?;
            }
        }
        let others = label.get("accept").and_then(Value::as_array).into_iter().flatten();
        fact["accept"] = Value::Array(others.map(wording).collect::<Result<_, _>>()?);
        facts.entry((conversation, turn)).or_default().push(fact);
    }
    let mut turns = Vec::new();
    for line in lines.iter().filter(said) {
        let (conversation, id) = (text(line, "conv"), text(line, "id"));
        let mut facts = facts.remove(&(conversation, id)).unwrap_or_default();
        for fact in &mut facts {
            if fact.get("subject").is_none() {
                fact["subject"] = line["speaker"].clone();
            }
        }
        turns.push(json!({
            "id": format!("{conversation} {id}"), "conversation": format!("{conversation} {}", line["session"]), "role": "user",
            "speaker": line["speaker"], "text": line["text"], "facts": facts,
        }));
    }
    match facts.keys().next() {
        Some((conversation, turn)) => Err(format!("there is no turn {turn} of {conversation}").into()),
        None => Ok(turns),
    }
}

fn turns(lines: &[Value]) -> Result<Vec<Labelled>, Failure> {
    let mut space = Space::new();
    let mut turns: Vec<Labelled> = Vec::new();
    let mut last = String::new();
    for line in lines {
        let conversation = text(line, "conversation").to_owned();
        let before = turns.last().filter(|_| conversation == last);
        let before = before.map_or_else(Vec::new, |turn| {
            std::iter::once(&turn.entry).chain(&turn.before).take(TURNS_BEFORE).cloned().collect()
        });
        last.clone_from(&conversation);
        let new = NewMemory {
            content: text(line, "text").to_owned(),
            role: Some(text(line, "role").to_owned()),
            speaker: Some(text(line, "speaker").to_owned()),
            session: Some(conversation),
            dedup: Dedup::Off,
            ..NewMemory::default()
        };
        // Turns that are stored are never empty; these state nothing.
        let content = new.content.clone();
        let now = 1_700_000_000_000 + turns.len() as u64;
        let stored = space.store(
            now,
            NewMemory { content: if content.trim().is_empty() { "…".to_owned() } else { content }, ..new },
        )?;
        for effect in &stored.effects {
            space.apply(effect)?;
        }
        let entry = space.get(now, stored.id).ok_or("what was stored is not there")?;
        let facts = line.get("facts").and_then(Value::as_array).into_iter().flatten().map(label).collect();
        turns.push(Labelled { id: text(line, "id").to_owned(), entry: Arc::new(entry), before, facts });
    }
    Ok(turns)
}

fn label(label: &Value) -> Label {
    let accepted = label.get("accept").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    Label {
        accepted: accepted.chain([text(label, "value")]).map(str::to_owned).collect(),
        fact: Fact {
            subject: text(label, "subject").to_owned(),
            attribute: text(label, "attribute").to_owned(),
            value: text(label, "value").to_owned(),
            ended: label.get("ended").and_then(Value::as_bool).unwrap_or(false),
        },
    }
}

fn score(name: &str, turns: &[Labelled], findings: &Findings, show: bool) {
    let (mut right, mut found, mut labelled) = (0, 0, 0);
    let (mut quiet, mut noisy) = (0, 0);
    let mut by_attribute: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let mut by_turn: BTreeMap<MemoryId, Vec<Fact>> = BTreeMap::new();
    for finding in &findings.facts {
        let claim = finding.claim.clone();
        let fact = Fact { subject: claim.subject, attribute: claim.attribute, value: claim.value, ended: claim.ended };
        by_turn.entry(finding.source.id).or_default().push(fact);
    }
    let list = |what: &str, turn: &Labelled, fact: &Fact| {
        let ended = if fact.ended { " | ended" } else { "" };
        println!(
            "{what} {} {} | {} | {}{ended}  <- {}",
            turn.id, fact.subject, fact.attribute, fact.value, turn.entry.content
        );
    };
    for turn in turns {
        let facts = by_turn.get(&turn.entry.id).map_or(&[][..], Vec::as_slice);
        let mut labels: Vec<&Label> = turn.facts.iter().collect();
        if labels.is_empty() {
            quiet += 1;
            noisy += usize::from(!facts.is_empty());
        }
        labelled += labels.len();
        found += facts.len();
        for label in &labels {
            by_attribute.entry(&label.fact.attribute).or_default()[2] += 1;
        }
        for fact in facts {
            let entry = by_attribute.entry(&fact.attribute).or_default();
            entry[1] += 1;
            match labels.iter().position(|label| is_right(fact, label)) {
                Some(at) => {
                    right += 1;
                    entry[0] += 1;
                    labels.remove(at);
                }
                None if show => list("WRONG ", turn, fact),
                None => {}
            }
        }
        if show {
            labels.iter().for_each(|label| list("MISSED", turn, &label.fact));
        }
    }
    if show {
        for (attribute, [right, found, labelled]) in &by_attribute {
            println!("{attribute:<24} right {right:>3} of {found:>3} found, {labelled:>3} labelled");
        }
    }
    let percent = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
    println!(
        "{name}: precision {:.1} % ({right} of {found}), recall {:.1} % ({right} of {labelled}); of {quiet} turns without a fact {noisy} gave one",
        percent(right, found),
        percent(right, labelled)
    );
}

fn count_refused(refused: &[Refused]) {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for refused in refused {
        *reasons.entry(refused.why.name()).or_default() += 1;
    }
    let listed: Vec<String> = reasons.iter().map(|(why, count)| format!("{why} {count}")).collect();
    println!("  refused: {}", if listed.is_empty() { "nothing".to_owned() } else { listed.join(", ") });
}

/// A model that writes facts.
struct Model {
    gemma: Arc<Gemma>,
    work: Workspace,
}

impl Model {
    fn load(path: &Path) -> Result<Model, Failure> {
        let gemma = Arc::new(Gemma::load(path, &LoadOptions::default(), &Progress::default())?);
        Ok(Model { work: Workspace::new(gemma.clone())?, gemma })
    }

    fn answer(&mut self, request: &FactRequest) -> Result<String, Failure> {
        let prompt = self.gemma.prompt(&[Turn { role: Role::User, text: &request.prompt }])?;
        let sampling = Sampling { temperature: 0.0, max_tokens: request.max_tokens, ..Sampling::default() };
        let grammar = Arc::new(Grammar::schema(&request.schema)?);
        let mut generation = Generation::constrained(self.gemma.clone(), prompt, sampling, Some(grammar))?;
        while let Step::Running = generation.step(&mut self.work)? {}
        Ok(generation.take_text())
    }
}

/// Everything that could be said of a turn, in answers of some hundred facts.
fn lies(entry: &Entry, schema: &str, most: usize) -> Result<Vec<Vec<Value>>, Failure> {
    let schema: Value = serde_json::from_str(schema)?;
    let attributes = schema.pointer("/properties/facts/items/properties/attribute/enum").and_then(Value::as_array);
    let attributes: Vec<&str> = attributes.into_iter().flatten().filter_map(Value::as_str).collect();
    let words: Vec<&str> = entry
        .content
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric() && c != '+' && c != '#'))
        .collect();
    let names = words.iter().map(|word| word.trim_end_matches("'s").trim_end_matches("’s"));
    let mut subjects: BTreeSet<&str> = names.filter(|word| word.starts_with(char::is_uppercase)).collect();
    subjects.extend(entry.speaker.as_deref());
    subjects.insert("user");
    let mut all = Vec::new();
    for length in 1..=3 {
        for (at, run) in words.windows(length).enumerate() {
            let value = run.join(" ");
            for subject in &subjects {
                for attribute in &attributes {
                    for ended in [false, true] {
                        let fact = |of: Option<&str>| json!({"subject": subject, "attribute": attribute, "of": of, "value": value, "ended": ended, "turns": [1]});
                        if matches!(*attribute, "favorite" | "date") {
                            // Of words nearby.
                            let near =
                                words.get(at.saturating_sub(3)..(at + length + 3).min(words.len())).unwrap_or(&[]);
                            all.extend(
                                (1..=2).flat_map(|length| near.windows(length)).map(|of| fact(Some(&of.join(" ")))),
                            );
                        } else {
                            all.push(fact(None));
                        }
                    }
                }
            }
        }
    }
    // Spread by a multiplicative hash, which keeps step with none of the loops.
    let share = (most as u64).saturating_mul(1 << 32) / all.len().max(1) as u64;
    let chosen = |n: usize| (n as u64).wrapping_mul(2_654_435_761) & 0xffff_ffff < share;
    let all: Vec<Value> = all.into_iter().enumerate().filter(|(n, _)| chosen(*n)).map(|(_, lie)| lie).collect();
    // What a reader keeps within one answer.
    Ok(all.chunks(400).map(<[Value]>::to_vec).collect())
}
