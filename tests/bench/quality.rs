//! How well recall finds what is asked for, text in and text out through the server, on data that is not shipped:
//!
//! * LoCoMo (`--locomo FILE`): long conversations with questions whose evidence is known. One JSON object a line: `{"type": "memory", "conv", "id",
//!   "session", "speaker", "ts" (seconds), "text", "caption"}` and `{"type": "query", "conv", "q", "question", "category", "evidence": [ids]}`. Each
//!   conversation is a space; every turn is stored by MEM.STORE with SPEAKER, AT and SESSION, as a chat application would, a shared picture's caption at its
//!   end as `[shares: …]`.
//! * XQuAD (`--xquad FILE`, the format of SQuAD): questions about paragraphs. All paragraphs are one space without speakers and sessions.
//!
//! The turns and questions of LoCoMo are in `locomo10.json` of the repository snap-research/locomo (CC BY-NC 4.0); its dates are times of day on a day, so
//! the turns of a session follow each other by half a minute. XQuAD is `xquad.en.json` of google-deepmind/xquad (CC BY-SA 4.0).
//!
//! Nothing is tuned here: the server's defaults are asked, and what it offers beside them (a mode, token vectors) where it has it. recall@k is the share of
//! the evidence among the first k, MRR the mean of one over the rank of the first evidence; questions of category 5 (whose premise is false) are reported
//! apart.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

use redis::{Connection, Value as Reply};
use serde_json::{Value, json};

use crate::Outcome;
use crate::report::{Cell, Report, Table, doing, median, none, number, progress};
use crate::server::Server;
use crate::texts::Random;
use crate::world::brief;

/// How far down a ranking is looked at.
const DEPTH: usize = 100;
const RESAMPLES: usize = 2_000;
/// Ways to ask: what it is called, settings of the space, settings that change only how it is asked, and words at the end of MEM.RECALL. The last ones
/// put the ranking together part by part.
const WAYS: [Way; 9] = [
    Way { name: "defaults", stored: &[], asked: &[], words: &[] },
    Way { name: "no token vectors", stored: &["token-vectors", "off"], asked: &[], words: &[] },
    Way { name: "token vectors", stored: &["token-vectors", "on"], asked: &[], words: &[] },
    Way { name: "dense alone", stored: &[], asked: &[], words: &["MODE", "dense"] },
    Way { name: "lexical alone", stored: &[], asked: &[], words: &["MODE", "lexical"] },
    Way { name: "vector and words", stored: &[], asked: &["ranking", "none"], words: &[] },
    Way { name: "… and what is around", stored: &[], asked: &["ranking", "around"], words: &[] },
    Way { name: "… and length", stored: &[], asked: &["ranking", "around,length"], words: &[] },
    Way { name: "… and speaker", stored: &[], asked: &["ranking", "around,length,speaker"], words: &[] },
];

struct Way {
    name: &'static str,
    stored: &'static [&'static str],
    asked: &'static [&'static str],
    words: &'static [&'static str],
}

/// What a question got: the place of its evidence in the ranking.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Score {
    at1: f64,
    at10: f64,
    reciprocal: f64,
}

/// Scores a ranking: repeated ids count once, where they first stand.
fn score(evidence: &[String], ranked: &[String]) -> Score {
    let mut first: Vec<&String> = Vec::new();
    for id in ranked {
        if !first.contains(&id) {
            first.push(id);
        }
    }
    let mut wanted: Vec<&String> = evidence.iter().collect();
    wanted.sort();
    wanted.dedup();
    let share = |k: usize| first.iter().take(k).filter(|id| wanted.contains(id)).count() as f64 / wanted.len() as f64;
    let rank = first.iter().position(|id| wanted.contains(id));
    Score { at1: share(1), at10: share(10), reciprocal: rank.map_or(0.0, |rank| 1.0 / (rank + 1) as f64) }
}

fn mean(scores: &[Score], of: impl Fn(&Score) -> f64) -> f64 {
    scores.iter().map(of).sum::<f64>() / scores.len() as f64
}

/// The middle 95 % of the means of resampled questions.
fn interval(scores: &[Score], of: impl Fn(&Score) -> f64) -> (f64, f64) {
    let mut random = Random::new(0);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| (0..scores.len()).map(|_| of(&scores[random.below(scores.len())])).sum::<f64>() / scores.len() as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    (means[RESAMPLES / 40], means[RESAMPLES - 1 - RESAMPLES / 40])
}

/// A text to be stored, under the name that the data gives it.
pub struct Turn {
    /// That name.
    pub id: String,
    /// The text.
    pub content: String,
    /// Who said it, where and when: nothing of a paragraph.
    pub said: Option<Said>,
}

/// The circumstances of a turn.
pub struct Said {
    /// The name of the speaker.
    pub speaker: String,
    /// The session.
    pub session: String,
    /// When, in Unix milliseconds.
    pub at: String,
}

impl Turn {
    /// The content and the options of MEM.STORE.
    fn words(&self) -> Vec<&str> {
        let said = self.said.iter();
        let options = said.flat_map(|said| ["SPEAKER", &said.speaker, "SESSION", &said.session, "AT", &said.at]);
        std::iter::once(self.content.as_str()).chain(options).collect()
    }
}

/// A question about a collection.
pub struct Question {
    id: Value,
    /// What is asked.
    pub text: String,
    /// 5 if its premise is false.
    pub category: u64,
    /// The names of the texts that answer it.
    pub evidence: Vec<String>,
}

/// Texts that belong together, and questions about them.
#[derive(Default)]
pub struct Collection {
    /// What the data calls it.
    pub name: String,
    /// The texts, in their order.
    pub turns: Vec<Turn>,
    /// The questions.
    pub questions: Vec<Question>,
}

fn text<'a>(object: &'a Value, field: &str) -> Outcome<&'a str> {
    object[field].as_str().ok_or_else(|| format!("'{field}' is missing or no text in {object}").into())
}

/// The conversations of a file of LoCoMo.
pub fn locomo(path: &Path) -> Outcome<Vec<Collection>> {
    let mut all: Vec<Collection> = Vec::new();
    for line in std::fs::read_to_string(path)?.lines().filter(|line| !line.trim().is_empty()) {
        let object: Value = serde_json::from_str(line)?;
        let name = text(&object, "conv")?;
        let at = all.iter().position(|c| c.name == name).unwrap_or_else(|| {
            all.push(Collection { name: name.to_owned(), ..Collection::default() });
            all.len() - 1
        });
        if text(&object, "type")? == "memory" {
            let content = match object["caption"].as_str() {
                Some(caption) => format!("{} [shares: {caption}]", text(&object, "text")?),
                None => text(&object, "text")?.to_owned(),
            };
            let seconds = object["ts"].as_u64().ok_or("'ts' is missing or no time in seconds")?;
            let said = Said {
                speaker: text(&object, "speaker")?.to_owned(),
                session: object["session"].to_string(),
                at: (seconds * 1_000).to_string(),
            };
            all[at].turns.push(Turn { id: text(&object, "id")?.to_owned(), content, said: Some(said) });
        } else {
            let evidence = object["evidence"].as_array().ok_or("'evidence' is missing or no list")?;
            all[at].questions.push(Question {
                id: object["q"].clone(),
                text: text(&object, "question")?.to_owned(),
                category: object["category"].as_u64().ok_or("'category' is missing or no number")?,
                evidence: evidence.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect(),
            });
        }
    }
    Ok(all)
}

fn xquad(path: &Path) -> Outcome<Vec<Collection>> {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let mut all = Collection { name: "xquad".to_owned(), ..Collection::default() };
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    for paragraph in list(&file, "data").iter().flat_map(|article| list(article, "paragraphs")) {
        let id = all.turns.len().to_string();
        all.turns.push(Turn { id: id.clone(), content: text(&paragraph, "context")?.to_owned(), said: None });
        for question in list(&paragraph, "qas") {
            let evidence = vec![id.clone()];
            let text = text(&question, "question")?.to_owned();
            all.questions.push(Question { id: question["id"].clone(), text, category: 1, evidence });
        }
    }
    Ok(vec![all])
}

/// A collection in a space of the server.
struct Stored {
    key: String,
    /// The data's name of each memory.
    names: HashMap<String, String>,
}

fn store(c: &mut Connection, collection: &Collection, key: &str, settings: &[&str]) -> Outcome<Stored> {
    redis::cmd("MEM.CONFIG")
        .arg(&["SET", key, "long_term.capacity", "0", "long_term.ttl", "0"])
        .arg(settings)
        .query::<()>(c)?;
    let mut names = HashMap::new();
    for (done, turn) in collection.turns.iter().enumerate() {
        let id: String =
            redis::cmd("MEM.STORE").arg(key).arg(turn.words()).arg(&["TIER", "long_term", "NODEDUP"]).query(c)?;
        names.insert(id, turn.id.clone());
        progress(&format!("storing {key}"), done + 1, collection.turns.len());
    }
    Ok(Stored { key: key.to_owned(), names })
}

/// The names of what a question finds, best first.
fn ranked(c: &mut Connection, stored: &Stored, question: &str, more: &[&str]) -> Outcome<Vec<String>> {
    let mut cmd = redis::cmd("MEM.RECALL");
    cmd.arg(&[&stored.key, "TEXT", question]).arg("K").arg(DEPTH).arg("NOTOUCH").arg(more);
    let hits: Vec<HashMap<String, Reply>> = cmd.query(c)?;
    let id = |hit: &HashMap<String, Reply>| -> Outcome<String> {
        Ok(redis::from_redis_value_ref(hit.get("id").ok_or("a result has no id")?)?)
    };
    let mut names = Vec::with_capacity(hits.len());
    for hit in &hits {
        names.extend(stored.names.get(&id(hit)?).cloned());
    }
    Ok(names)
}

/// How long the search of a question takes that has been asked before; None where nothing is found.
fn search_micros(c: &mut Connection, stored: &Stored, question: &str, more: &[&str]) -> Outcome<Option<f64>> {
    let mut cmd = redis::cmd("MEM.RECALL");
    cmd.arg(&[&stored.key, "TEXT", question]).arg(&["K", "10", "NOTOUCH", "EXPLAIN"]).arg(more);
    let hits: Vec<HashMap<String, Reply>> = cmd.query(c)?;
    let Some(explain) = hits.first().and_then(|hit| hit.get("explain")) else { return Ok(None) };
    let explain: HashMap<String, Reply> = redis::from_redis_value_ref(explain)?;
    explain.get("search_usec").map(|micros| Ok(redis::from_redis_value_ref(micros)?)).transpose()
}

/// What a way of asking found, over all collections.
struct Found {
    /// Per collection the scores of the questions that count, then those of category 5.
    scores: Vec<(Vec<Score>, Vec<Score>)>,
    bytes: f64,
    /// The same by part, as MEM.STATS names them.
    parts: Vec<(String, f64)>,
    /// What the searches took by the server's own account, without embedding.
    micros: Vec<f64>,
    ranked: Vec<Value>,
}

/// Stores everything under these settings and asks everything in this way; a refusal of either is an error.
fn ask(server: &Server, collections: &[Collection], way: &Way) -> Outcome<Found> {
    let c = &mut server.connect()?;
    let mut found = Found { scores: Vec::new(), bytes: 0.0, parts: Vec::new(), micros: Vec::new(), ranked: Vec::new() };
    let mut memories = 0;
    for collection in collections {
        // Ways with the same settings ask the same space.
        let key = format!("{} {}", collection.name, way.stored.join(" "));
        let names = format!("names of {key}");
        let there: HashMap<String, String> = redis::cmd("HGETALL").arg(&names).query(c)?;
        let stored = if there.is_empty() {
            let stored = store(c, collection, &key, way.stored)?;
            redis::cmd("HSET").arg(&names).arg(stored.names.iter().collect::<Vec<_>>()).query::<()>(c)?;
            stored
        } else {
            Stored { key, names: there }
        };
        // Said anew every time, so that no way of asking leaves its settings to the next.
        redis::cmd("MEM.CONFIG").arg(&["SET", &stored.key, "ranking", "all"]).arg(way.asked).query::<()>(c)?;
        found.bytes += redis::cmd("MEMORY").arg("USAGE").arg(&stored.key).query::<f64>(c)?;
        memories += stored.names.len();
        let stats: HashMap<String, Reply> = redis::cmd("MEM.STATS").arg(&stored.key).query(c)?;
        let parts = stats.get("bytes_by_part").ok_or("MEM.STATS has no bytes_by_part")?;
        for (part, bytes) in redis::from_redis_value_ref::<Vec<(String, f64)>>(parts)? {
            match found.parts.iter_mut().find(|(known, _)| *known == part) {
                Some((_, sum)) => *sum += bytes,
                None => found.parts.push((part, bytes)),
            }
        }
        let (mut head, mut apart) = (Vec::new(), Vec::new());
        for (done, question) in collection.questions.iter().enumerate() {
            let ranked = ranked(c, &stored, &question.text, way.words)?;
            found.micros.extend(search_micros(c, &stored, &question.text, way.words)?);
            let score = score(&question.evidence, &ranked);
            if question.category == 5 {
                apart.push(score)
            } else {
                head.push(score)
            }
            found.ranked.push(json!({ "conv": collection.name, "q": question.id, "ranked": ranked }));
            progress(&format!("asking {}", collection.name), done + 1, collection.questions.len());
        }
        found.scores.push((head, apart));
    }
    found.bytes /= memories as f64;
    found.parts.iter_mut().for_each(|(_, bytes)| *bytes /= memories as f64);
    Ok(found)
}

/// What all questions of collections find at the defaults, and the bytes of a memory by part.
pub struct Figures {
    /// Recall@10 over the questions that count.
    pub at10: f64,
    /// As MEM.STATS names them.
    pub parts: Vec<(String, f64)>,
}

/// Asks everything at the defaults; stores it before if it is not there, each collection under its name and a space.
pub fn recall_of(server: &Server, collections: &[Collection]) -> Outcome<Figures> {
    let found = ask(server, collections, &WAYS[0])?;
    let all: Vec<Score> = found.scores.iter().flat_map(|(head, _)| head).copied().collect();
    Ok(Figures { at10: mean(&all, |score| score.at10), parts: found.parts })
}

fn table_of(name: &'static str, title: String) -> Table {
    let columns = [
        "what",
        "recall@1",
        "recall@10",
        "its interval",
        "its spread",
        "MRR",
        "interval",
        "spread",
        "MRR, false premise",
        "bytes each",
        "search µs",
    ];
    Table::new(name, title, &columns)
}

/// Runs every way, adds its row, and returns recall@10 and MRR of each that the server has.
fn run(
    report: &mut Report,
    name: &str,
    mut table: Table,
    collections: &[Collection],
    ranked_to: &Path,
) -> Outcome<HashMap<&'static str, (f64, f64)>> {
    let server = Server::engram(&[])?;
    server.wait_for_embedder()?;
    let mut figures = HashMap::new();
    let mut by_part = None;
    for way in &WAYS {
        doing(&format!("{}: {}", table.title(), way.name));
        let found = match ask(&server, collections, way) {
            Ok(found) => found,
            Err(error) if way.name != "defaults" => {
                report.skipped(format!("{}, {}: not available: {}", table.title(), way.name, brief(&*error)));
                continue;
            }
            Err(error) => return Err(error),
        };
        let all: Vec<Score> = found.scores.iter().flat_map(|(head, _)| head).copied().collect();
        let apart: Vec<Score> = found.scores.iter().flat_map(|(_, apart)| apart).copied().collect();
        let summary = |of: fn(&Score) -> f64| -> [Cell; 3] {
            let (low, high) = interval(&all, of);
            let each: Vec<f64> = found.scores.iter().map(|(head, _)| mean(head, of)).collect();
            let middle = each.iter().sum::<f64>() / each.len() as f64;
            let spread = (each.iter().map(|x| (x - middle).powi(2)).sum::<f64>() / (each.len() - 1) as f64).sqrt();
            [number(mean(&all, of), 3), format!("{low:.3}–{high:.3}").into(), number(spread, 3)]
        };
        let mut cells = vec![way.name.into(), number(mean(&all, |s| s.at1), 3)];
        cells.extend(summary(|s| s.at10));
        cells.extend(summary(|s| s.reciprocal));
        cells.push(if apart.is_empty() { none() } else { number(mean(&apart, |s| s.reciprocal), 3) });
        cells.push(number(found.bytes, 0));
        cells.push(number(median(&found.micros), 0));
        table.row(cells);
        figures.insert(way.name, (mean(&all, |s| s.at10), mean(&all, |s| s.reciprocal)));
        if way.name == "defaults" {
            let title = format!("{}: bytes of a memory by part", table.title());
            let mut parts = Table::new(&format!("{name}-bytes"), title, &["part", "bytes each"]);
            parts.note("As MEM.STATS has them, at the defaults. `words` is what BM25 takes, `token_vectors` what the comparison word by word takes.");
            for (part, bytes) in &found.parts {
                parts.row([part.as_str().into(), number(*bytes, 0)]);
            }
            by_part = Some(parts);
            std::fs::create_dir_all(ranked_to.parent().unwrap_or(ranked_to))?;
            let mut file = std::io::BufWriter::new(std::fs::File::create(ranked_to)?);
            for line in &found.ranked {
                writeln!(file, "{line}")?;
            }
            file.flush()?;
            println!("written: {}", ranked_to.display());
        }
    }
    report.table(table);
    by_part.into_iter().for_each(|parts| report.table(parts));
    Ok(figures)
}

/// Both collections, as far as their files are given. Rankings are written into the folder.
pub fn quality(
    report: &mut Report,
    locomo_file: Option<&Path>,
    xquad_file: Option<&Path>,
    folder: &Path,
) -> Outcome<()> {
    const LEAN: (&str, &str) = ("LoCoMo without token vectors, recall@10 and MRR", "≥ 0.775, ≥ 0.58");
    const FULL: (&str, &str) = ("LoCoMo with token vectors, recall@10 and MRR", "≥ 0.79, ≥ 0.60");
    match locomo_file {
        Some(path) => {
            let collections = locomo(path)?;
            let count = |of: fn(&Collection) -> usize| collections.iter().map(of).sum::<usize>();
            let mut table = table_of("locomo", format!("LoCoMo, {} conversations", collections.len()));
            table.note(format!(
                "{} turns, {} questions; text in and text out through the server, top {DEPTH}. Intervals: the middle 95 % over \
                 resampled questions; spread: standard deviation over \
                 conversations. Questions with a false premise are apart. The last rows put the ranking together: each adds a part to the one above, \
                 token vectors make it the defaults. Search: the median of the server's own account at K 10, without embedding, and with what EXPLAIN adds where there are words.",
                count(|c| c.turns.len()),
                count(|c| c.questions.len()),
            ));
            let figures = run(report, "locomo", table, &collections, &folder.join("locomo.ranked.jsonl"))?;
            // A server without the setting has no token vectors: its defaults are lean.
            let lean = figures.get("no token vectors").or_else(|| figures.get("defaults"));
            for ((what, aim), found, least) in
                [(LEAN, lean, (0.775, 0.58)), (FULL, figures.get("token vectors"), (0.79, 0.60))]
            {
                match found {
                    Some((at10, mrr)) => {
                        let met = *at10 >= least.0 && *mrr >= least.1;
                        report.target(what, aim, format!("{at10:.3}, {mrr:.3}"), met);
                    }
                    None => report.unmeasured(what, aim, "not available"),
                }
            }
        }
        None => {
            report.skipped("LoCoMo: not shipped; name its file with --locomo");
            for (what, aim) in [LEAN, FULL] {
                report.unmeasured(what, aim, "no data: --locomo FILE");
            }
        }
    }
    match xquad_file {
        Some(path) => {
            let collections = xquad(path)?;
            let counts = collections.first().map_or((0, 0), |c| (c.turns.len(), c.questions.len()));
            let mut table = table_of("xquad", "XQuAD, question to paragraph".to_owned());
            table.note(format!("{} paragraphs, {} questions; no speakers, no sessions.", counts.0, counts.1));
            run(report, "xquad", table, &collections, &folder.join("xquad.ranked.jsonl"))?;
        }
        None => report.skipped("XQuAD: not shipped; name its file with --xquad"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_counts_where_it_first_stands() {
        let ids = |list: &[&str]| list.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let ranking = ids(&["x", "x", "a", "y", "b"]);
        let score = score(&ids(&["a", "b", "a", "gone"]), &ranking);
        assert_eq!(score, Score { at1: 0.0, at10: 2.0 / 3.0, reciprocal: 0.5 });
    }
}
