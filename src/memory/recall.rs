//! Recall: from a question to the memories that answer it.
//!
//! 1. **What is admitted.** Lifetimes, supersession, tiers, times, session and the filter become one filter, which runs over the columns
//!    into a set of slots before anything is compared; so K results come back if K are admitted. Texts are compared by hash
//!    there, and the results are checked against the records at the end.
//! 2. **Candidates.** The best [`CANDIDATES`] by vector (`rows`) and the best by words (`lexical`), and the turns around them.
//! 3. **Base score** of a memory: `0.5·(cos − 0.3)/0.6 + 0.5·1.9·bm25/(2·ln(1 + N))`, 1.9 being BM25's k1 + 1. Both terms are on a scale of their own that no statistics
//!    of the space enter but N: equal on replicas, and the same whatever the filter, K and size of the candidates.
//! 4. **What is around.** A turn gets 0.4 of what the vector of the turn before it in its session says (answers follow what they answer) and 0.2 of
//!    those one behind, two before and two behind; and its words and theirs, weighed the same, make up one text for BM25.
//! 5. **Priors.** Turns that say little rank lower: `0.3·min(1, ln(1 + words)/ln 21)`. If the question names exactly one speaker of
//!    the candidates, memories by that one get 0.2.
//! 6. **Word by word**: for the best [`RERANKED`] of these the cosine gives way to what their words say (`tokens`): the mean, by idf, over the
//!    question's words of the best cosine with a word of the memory. Word scores are shifted so that their mean over these candidates is that of the
//!    cosines, and steps 4 and 5 are repeated.
//! 7. **By wish**: recency, importance, use; outcomes that are preferred; then what links lead to (`graph`); then variety (MMR).
//!
//! With links the score is an activation: a memory's own relevance, scaled so that the best has 1 and what is below 0 at worst 0, and what comes to it over links, of
//! which the K best are the beginning. What links lead to passes the same restrictions, but for the least cosine: it need not be like the question.
//!
//! Step 4 and the second prior are void without sessions and speakers. The constants are round numbers on the plateau of those that were
//! chosen leaving one conversation out at a time.
//!
//! By vector alone (no text, or `Mode::Dense`) the score is the cosine, by words alone it is BM25, and neither is mixed with anything unless asked for.
//!
//! Rejected: scores standardised by mean and deviation over the space (better by nothing that was measurable, and a replica, a filter or a
//! hundred more memories would change every score); ranks instead of scores (reciprocal rank fusion loses .02 of recall@10); pseudo-relevance
//! feedback (loses everywhere).

mod hybrid;

use crate::bitmap::Bitmap;
use crate::entry::Entry;
use crate::filter::Filter;
use crate::graph::{Via, Walk, check_depth};
use crate::lexical::{self, Bm25, DocId};
use crate::records::Link;
use crate::rows::{Among, Effort, Query, RowId, Rows, Search};
use crate::snapshot::{Snapshot, check_dimension, no_direction, normalised};
use crate::tokens::QueryWord;
use crate::{Error, MemoryId, Millis, Result, Tier, limits};
use std::collections::HashMap;

/// The best by vector and by words that are looked at more closely.
const CANDIDATES: usize = 100;
/// Where use counts in full.
const MANY_USES: f64 = 100.0;
/// Days in which recency halves, unless the caller says otherwise.
const HALF_LIFE_DAYS: u64 = 30;
/// Scores that lie closer together are as far apart as this where an outcome is preferred, which then decides between equal ones.
const LEAST_SPREAD: f64 = 1e-6;
/// A filter is selective when it admits less than one in so many: then its memories are looked up, not the blocks scanned.
const SELECTIVE: usize = 16;

/// What a recall goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Vectors alone.
    Dense,
    /// Words alone.
    Lexical,
    /// Both, and what the turns around say.
    Hybrid,
}

impl Mode {
    /// All modes with their names.
    pub const ALL: [(Mode, &'static str); 3] =
        [(Mode::Dense, "dense"), (Mode::Lexical, "lexical"), (Mode::Hybrid, "hybrid")];
}

/// How much relevance, recency, importance and use count, each a share of their sum.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "each is the weight of what it names")]
pub struct Weights {
    pub relevance: f64,
    pub recency: f64,
    pub importance: f64,
    pub usage: f64,
}

/// A recall: what to look for, among what, and in which order.
#[derive(Debug, Clone, Default)]
pub struct Recall {
    /// The words to look for.
    pub text: Option<String>,
    /// The query vectors: those of the windows of `text`, or the caller's own. A memory scores as its best pair.
    pub queries: Vec<Vec<f32>>,
    /// The vectors of the words of `text`: with them the best candidates are looked at word by word.
    pub words: Vec<QueryWord>,
    /// Look for what is like this memory, which is left out itself: its text and vectors take the place of `text` and `queries`.
    pub like: Option<MemoryId>,
    /// What to go by; None = both where there is a text and there are vectors, else what there is.
    pub mode: Option<Mode>,
    /// How many results, 1 to [`limits::K`].
    pub k: usize,
    /// Only these tiers.
    pub tiers: Option<Vec<Tier>>,
    /// Only what passes.
    pub filter: Option<Filter>,
    /// Only with at least this cosine; by words alone, this BM25 score.
    pub min_score: Option<f64>,
    /// Only of this session.
    pub session: Option<String>,
    /// Only what happened at this time or later.
    pub since: Option<Millis>,
    /// Only what happened at this time or earlier.
    pub until: Option<Millis>,
    /// As things stood at this time: what had happened, and had not been superseded, by then.
    pub as_of: Option<Millis>,
    /// What else counts besides relevance.
    pub weights: Option<Weights>,
    /// Seconds in which recency halves; None = 30 days.
    pub half_life: Option<u64>,
    /// Outcomes to prefer, each by which share of the spread of the scores: -1 to 1, not 0. At most [`limits::PREFERENCES`], none twice.
    pub prefer: Vec<(String, f64)>,
    /// Relevance against variety, 0 to 1: 1 = relevance alone.
    pub mmr: Option<f64>,
    /// Follow links from the best so far, 1 to [`limits::LINK_DEPTH`] one behind the other.
    pub expand: Option<usize>,
    /// Compare every vector in full.
    pub exact: bool,
    /// Say how each score came about.
    pub explain: bool,
}

/// One result of a recall.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The memory, as it was when the snapshot was taken.
    pub entry: Entry,
    /// What the order follows.
    pub score: f64,
    /// The cosine, -1 to 1; None without a vector on either side.
    pub similarity: Option<f64>,
    /// The parts of the score by name, if asked for; behind them the words that were found, each as `word:` and the stem.
    pub parts: Vec<(String, f64)>,
    /// The link over which most came to it, if links were followed and something did.
    pub via: Option<Box<Via>>,
    slot: u32,
}

/// Which memory a hit is.
#[derive(Debug, Clone, Copy)]
pub struct Whereabouts {
    /// Its id.
    pub id: MemoryId,
    pub(crate) slot: u32,
}

impl Hit {
    /// Which memory it is: what is left to know of a hit when its texts are in a reply.
    pub fn whereabouts(&self) -> Whereabouts {
        Whereabouts { id: self.entry.id, slot: self.slot }
    }
}

/// What a recall found, and how.
#[derive(Debug, Clone, Default)]
pub struct Recalled {
    /// Best first, equal ones by id.
    pub hits: Vec<Hit>,
    /// How vectors were searched: exact, one-bit, index, listed; none without them.
    pub path: &'static str,
    /// Memories that the restrictions admitted, if there were any.
    pub admitted: Option<usize>,
    /// Vectors that were looked at, in whatever precision, and those that were compared in full.
    pub compared: usize,
    /// Vectors that were compared in full.
    pub rescored: usize,
    /// Memories in which a word was found.
    pub matched: usize,
}

/// What a recall may find: its restrictions, worked out. Valid for the snapshot, the time and the recall it was made from.
pub struct Admitted {
    restriction: Option<Filter>,
    slots: Option<Bitmap>,
}

/// A memory on its way into the results.
#[derive(Clone)]
struct Candidate {
    slot: u32,
    id: MemoryId,
    score: f64,
    /// Parts of the score, if they are to be explained.
    parts: Vec<(&'static str, f64)>,
    /// The link that led to it, or lifted it.
    via: Option<Box<Via>>,
}

impl Candidate {
    fn add(&mut self, name: &'static str, part: f64) {
        self.score += part;
        self.parts.push((name, part));
    }
}

/// Best first, equal ones by id. Scores are never NaN; -0.0 and 0.0 are one.
fn by_score(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    (b.score + 0.0).total_cmp(&(a.score + 0.0)).then(a.id.cmp(&b.id))
}

/// A recall whose restrictions and questions have been worked out.
struct Run<'a> {
    view: &'a Snapshot,
    recall: &'a Recall,
    now: Millis,
    /// Vectors and the questions for them, where there are any.
    dense: Option<(&'a Rows, Vec<Query>)>,
    /// The words of the question, analysed.
    text: Option<String>,
    terms: Vec<u32>,
    admitted: Option<Bitmap>,
    restriction: Option<Filter>,
    /// Whether `admitted` relied on hashes of texts.
    inexact: bool,
    /// The memory that the others are to be like.
    like: Option<u32>,
    found: Recalled,
}

impl Snapshot {
    /// Looks for memories. K results come back if K are admitted and have what the mode goes by.
    ///
    /// Errors: nothing to look for, a query of the wrong length or without a direction, K or a weight out of range, an unknown memory to be alike.
    pub fn recall(&self, now: Millis, recall: &Recall) -> Result<Recalled> {
        self.recall_among(now, recall, self.admit(now, recall))
    }

    /// Works out what a recall may find: the part of it that looks at every memory's fields.
    pub fn admit(&self, now: Millis, recall: &Recall) -> Admitted {
        let restriction = self.restriction(now, recall);
        let slots = restriction.as_ref().map(|filter| self.scan(filter, false));
        Admitted { restriction, slots }
    }

    /// [`Snapshot::recall`] with its first part done.
    pub fn recall_among(&self, now: Millis, recall: &Recall, admitted: Admitted) -> Result<Recalled> {
        recall.check()?;
        let mut run = Run::begin(self, now, recall, admitted)?;
        let recalled = run.run()?;
        // A filter that relied on hashes let something in that does not pass: once in a million years, or by an adversary's work.
        if recalled.hits.len() < recall.k && run.rejected(&recalled) {
            run.admitted = run.restriction.as_ref().map(|filter| self.scan(filter, true));
            return run.run();
        }
        Ok(recalled)
    }

    /// About how many nanoseconds it takes to work out what a recall may find: with [`Snapshot::recall_nanos`] it decides whether a recall is run at
    /// once or on another thread.
    pub fn admit_nanos(&self, recall: &Recall) -> u64 {
        let slots = self.records.slots() as u64;
        match &recall.filter {
            Some(_) => 5_000 + slots,
            None => slots / 4,
        }
    }

    /// About how many nanoseconds the rest takes; without `admitted` as if everything were.
    pub fn recall_nanos(&self, recall: &Recall, admitted: Option<&Admitted>) -> u64 {
        let slots = self.records.slots() as u64;
        let queries = recall.queries.len().max(usize::from(recall.like.is_some())) as u64;
        let row = self.rows.as_ref().map_or(0, |rows| (rows.dim() / 48).max(1)) as u64;
        let few = admitted.and_then(|admitted| Some(admitted.slots.as_ref()?.count()));
        let few = few.filter(|few| few * SELECTIVE < self.records.slots());
        // In codes here and there some 5 ns a vector of 48 bytes of signs, in bits one after the other a fifth of a nanosecond; in full, whatever the
        // precision, some thirty.
        let dense = match few {
            Some(few) => slots / 16 + few as u64 * (row * 8 + 20),
            None if recall.exact => slots * row * 4,
            None => 20_000 + slots * row / 5,
        };
        // What is around is worked out for every word of the question, and a memory that others are to be like is a long one.
        let bytes = match (&recall.text, recall.like) {
            (Some(text), _) => text.len(),
            (None, Some(like)) => {
                let slot = self.known.filter(|(known, _)| *known == like).and_then(|(_, slot)| slot);
                slot.and_then(|slot| self.records.record(slot)).map_or(0, |record| record.content.len())
            }
            (None, None) => 0,
        };
        let terms = (bytes / 5).min(lexical::QUERY_TERMS) as u64;
        let by_words = terms > 0 && self.settings.lexical && recall.mode != Some(Mode::Dense);
        let words = if by_words { 40_000 + terms * (10_000 + slots / 2) } else { 0 };
        // Some fifty nanoseconds a link that is followed, and never more links than there are.
        let links = |depth: usize| {
            let memories = recall.k.min(crate::graph::FRONTIER) + depth.saturating_sub(1) * crate::graph::FRONTIER;
            (2 * self.links * depth).min(memories * limits::LINKS)
        };
        let expanded = recall.expand.map_or(0, |depth| 20_000 + links(depth) as u64 * 50);
        // Each that is taken is compared with all others, each window with each.
        let windows = self.rows.as_ref().map_or(0, |rows| rows.len().div_ceil(self.records.slots().max(1))) as u64;
        let candidates = CANDIDATES.max(recall.k).min(self.records.slots()) as u64;
        let varied = recall.mmr.map_or(0, |_| recall.k as u64 * candidates * windows * windows * row * 5);
        15_000 + dense * queries + words + expanded + varied + recall.k as u64 * 1_000
    }

    /// What restricts a recall, as one filter; None if nothing does.
    fn restriction(&self, now: Millis, recall: &Recall) -> Option<Filter> {
        let mut all = Vec::new();
        if self.next_expiry.is_some_and(|expires| expires <= now) {
            all.push(Filter::unexpired(now));
        }
        match recall.as_of {
            Some(at) => all.push(Filter::as_of(at)),
            None if self.superseded > 0 => all.push(Filter::current()),
            None => {}
        }
        all.extend(recall.tiers.as_deref().map(Filter::tiers));
        all.extend(recall.session.as_deref().map(Filter::session));
        if recall.since.is_some() || recall.until.is_some() {
            all.push(Filter::between(recall.since, recall.until));
        }
        all.extend(recall.filter.clone());
        (!all.is_empty()).then(|| Filter::all(all))
    }

    /// The vectors of a result, of length one.
    pub fn vectors(&self, hit: &Hit) -> Vec<Vec<f32>> {
        self.stored_vectors(hit.slot).iter().map(crate::rows::Vector::to_f32).collect()
    }

    /// The best cosine of any query with any vector of a memory.
    fn cosine(&self, rows: &Rows, queries: &[Query], slot: u32) -> Option<f64> {
        let mut best: Option<f64> = None;
        self.records.each_row(slot, |row: RowId| {
            for query in queries {
                let score = rows.score(query, row);
                best = Some(best.map_or(score, |best| best.max(score)));
            }
        });
        best
    }
}

impl Recall {
    fn check(&self) -> Result<()> {
        if self.k == 0 || self.k > limits::K {
            return Err(Error::new(format!("K is {}: it takes 1 to {}", self.k, limits::K)));
        }
        if self.queries.len() > limits::QUERIES {
            return Err(Error::new(format!(
                "a recall takes 1 to {} query vectors, not {}",
                limits::QUERIES,
                self.queries.len()
            )));
        }
        if self.text.is_none() && self.queries.is_empty() && self.like.is_none() {
            return Err(Error::new("a recall needs what to look for: a text, a vector or a memory"));
        }
        if let Some(weights) = self.weights {
            let all = [weights.relevance, weights.recency, weights.importance, weights.usage];
            if !all.iter().all(|weight| (0.0..=1e6).contains(weight)) || all.iter().sum::<f64>() <= 0.0 {
                return Err(Error::new("WEIGHTS takes four numbers from 0 to 1000000, not all of them 0"));
            }
        }
        if self.half_life.is_some_and(|seconds| seconds == 0 || seconds > limits::TTL_SECONDS) {
            return Err(Error::new(format!("HALFLIFE takes 1 to {} seconds", limits::TTL_SECONDS)));
        }
        if self.prefer.len() > limits::PREFERENCES {
            return Err(Error::new(format!("PREFER stands at most {} times", limits::PREFERENCES)));
        }
        for (n, (outcome, weight)) in self.prefer.iter().enumerate() {
            if !(-1.0..=1.0).contains(weight) || *weight == 0.0 {
                return Err(Error::new(format!("PREFER {weight}: the weight is a number from -1 to 1, and not 0")));
            }
            if self.prefer.iter().take(n).any(|(other, _)| other == outcome) {
                return Err(Error::new(format!("PREFER names the outcome {outcome} twice")));
            }
        }
        if let Some(mmr) = self.mmr
            && !(0.0..=1.0).contains(&mmr)
        {
            return Err(Error::new(format!("MMR is {mmr}: it takes 0 (variety alone) to 1 (relevance alone)")));
        }
        self.expand.map_or(Ok(()), |depth| check_depth("EXPAND", depth))
    }

    /// Whether the order is that of the first search, with nothing mixed in.
    fn is_plain(&self) -> bool {
        self.weights.is_none() && self.prefer.is_empty() && self.mmr.is_none() && self.expand.is_none()
    }
}

impl<'a> Run<'a> {
    fn begin(view: &'a Snapshot, now: Millis, recall: &'a Recall, admitted: Admitted) -> Result<Run<'a>> {
        let Admitted { restriction, slots: admitted } = admitted;
        let like = recall.like.map(|id| view.find(now, id).ok_or_else(|| Error::no_such_memory(id))).transpose()?;
        let queries: Vec<Vec<f32>> = match like {
            Some(slot) => view.stored_vectors(slot).iter().map(crate::rows::Vector::to_f32).collect(),
            None => recall.queries.clone(),
        };
        let text = match like {
            Some(slot) => view.records.record(slot).map(|record| record.content.text().into_owned()),
            None => recall.text.clone(),
        };
        let wanted = |mode: Mode| recall.mode.is_none_or(|wanted| wanted == mode || wanted == Mode::Hybrid);
        let mut dense = None;
        if let Some(rows) = view.rows.as_ref().filter(|_| wanted(Mode::Dense) && !queries.is_empty()) {
            let query = |query: &Vec<f32>| {
                check_dimension(query.len(), rows.dim())?;
                normalised(query).map(|query| rows.query(&query)).ok_or_else(no_direction)
            };
            dense = Some((rows, queries.iter().map(query).collect::<Result<Vec<Query>>>()?));
        }
        let text = text.filter(|_| wanted(Mode::Lexical) && view.settings.lexical);
        if recall.mode == Some(Mode::Lexical) && text.is_none() {
            let why = if view.settings.lexical { "there is no text to look for" } else { "the setting lexical is off" };
            return Err(Error::new(format!("MODE lexical goes by words, and {why}")));
        }
        if recall.mode == Some(Mode::Dense) && queries.is_empty() {
            return Err(Error::new("MODE dense goes by vectors, and there is none to look for"));
        }
        let mut terms = Vec::new();
        if let Some(text) = &text {
            view.analyser().terms(text, &mut terms);
        }
        let inexact = restriction.as_ref().is_some_and(|filter| !filter.is_exact());
        Ok(Run {
            view,
            recall,
            now,
            dense,
            text,
            terms,
            admitted,
            restriction,
            inexact,
            like,
            found: Recalled::default(),
        })
    }

    fn run(&mut self) -> Result<Recalled> {
        self.found = Recalled { path: "none", ..Recalled::default() };
        if let Some(like) = self.like {
            let admitted = self.admitted.get_or_insert_with(|| self.view.filled());
            admitted.remove(like);
        }
        self.found.admitted = self.restriction.as_ref().and(self.admitted.as_ref()).map(Bitmap::count);
        let mut candidates = match (self.dense.is_some(), self.text.is_some()) {
            (true, true) => self.hybrid(if self.recall.is_plain() { self.recall.k } else { usize::MAX }),
            (true, false) => self.by_vector(self.wanted()),
            (false, true) => self.by_words(self.wanted()),
            (false, false) => Vec::new(),
        };
        if !self.recall.is_plain() {
            if let Some(weights) = &self.recall.weights {
                candidates.iter_mut().for_each(|candidate| self.weigh(candidate, weights));
                candidates.sort_unstable_by(by_score);
            }
            if !self.recall.prefer.is_empty() {
                self.prefer(&mut candidates);
                candidates.sort_unstable_by(by_score);
            }
        }
        if let Some(depth) = self.recall.expand {
            candidates = self.expanded(candidates, depth);
        }
        let candidates = match self.recall.mmr {
            Some(lambda) => self.varied(candidates, lambda),
            None => candidates,
        };
        let hits = candidates.into_iter().filter(|candidate| self.is_admitted(candidate.slot));
        let hits: Vec<Candidate> = hits.take(self.recall.k).collect();
        let asked = self.asked();
        let hits = hits.into_iter().filter_map(|candidate| self.hit(candidate, asked.as_ref())).collect();
        Ok(Recalled { hits, ..std::mem::take(&mut self.found) })
    }

    /// How many candidates a search by one thing alone gives: K, or more if something else is mixed in afterwards.
    fn wanted(&self) -> usize {
        if self.recall.is_plain() {
            self.recall.k
        } else {
            CANDIDATES.max(self.recall.k.saturating_mul(4)).min(limits::K)
        }
    }

    /// Whether a memory passes beyond doubt: hashes of texts are not proof.
    fn is_admitted(&self, slot: u32) -> bool {
        !self.inexact || self.restriction.as_ref().is_none_or(|filter| self.view.passes(slot, filter))
    }

    /// Whether results were taken out at the end that had been admitted before.
    fn rejected(&self, recalled: &Recalled) -> bool {
        self.inexact && recalled.admitted.is_some_and(|admitted| admitted > recalled.hits.len())
    }

    fn search(&mut self, limit: usize, floor: Option<f64>) -> Vec<(f64, u32)> {
        let Some((rows, queries)) = &self.dense else { return Vec::new() };
        let mut listed = Vec::new();
        let among = match &self.admitted {
            None => Among::All,
            Some(admitted) if admitted.count() * SELECTIVE < self.view.records.slots() => {
                admitted.iter().for_each(|slot| self.view.records.each_row(slot, |row| listed.push(row)));
                Among::Rows(&listed)
            }
            Some(admitted) => Among::Admitted(admitted),
        };
        let effort = if self.recall.exact { Effort::Exact } else { Effort::Auto };
        let id_of = |slot| self.view.id(slot);
        let found = rows.search(&Search { queries, limit, among, floor, effort, id_of: &id_of });
        self.found.path = found.path.name();
        self.found.compared = found.compared;
        self.found.rescored = found.rescored;
        found.hits
    }

    fn candidate(&self, slot: u32, name: &'static str, score: f64) -> Candidate {
        Candidate { slot, id: self.view.id(slot), score, parts: vec![(name, score)], via: None }
    }

    /// By vector alone: the score is the cosine.
    fn by_vector(&mut self, limit: usize) -> Vec<Candidate> {
        let hits = self.search(limit, self.recall.min_score);
        hits.into_iter().map(|(score, slot)| self.candidate(slot, "cosine", score)).collect()
    }

    /// By words alone: the score is BM25.
    fn by_words(&mut self, limit: usize) -> Vec<Candidate> {
        let lexical = self.view.lexical.search(&self.terms, &Bm25::default(), self.admitted.as_ref());
        self.found.matched = lexical.hits.len();
        let least = self.recall.min_score.unwrap_or(f64::MIN);
        let best = lexical.best(limit, |slot| self.view.id(slot));
        let enough = best.into_iter().filter(|(_, score)| f64::from(*score) >= least);
        enough.map(|(slot, score)| self.candidate(slot, "words", f64::from(score))).collect()
    }

    /// Mixes in what the caller wants besides relevance.
    fn weigh(&self, candidate: &mut Candidate, weights: &Weights) {
        let records = &self.view.records;
        let sum = weights.relevance + weights.recency + weights.importance + weights.usage;
        let half_life = self.recall.half_life.unwrap_or(HALF_LIFE_DAYS * 86_400) as f64 * 1000.0;
        let age = self.now.saturating_sub(records.at(candidate.slot)) as f64;
        let (_, uses) = records.usage(candidate.slot);
        let usage = (f64::from(uses).ln_1p() / MANY_USES.ln_1p()).min(1.0);
        let relevance = weights.relevance / sum;
        candidate.parts.iter_mut().for_each(|(_, part)| *part *= relevance);
        candidate.score *= relevance;
        candidate.add("recency", weights.recency / sum * (-age / half_life).exp2());
        candidate.add("importance", weights.importance / sum * records.importance(candidate.slot));
        candidate.add("use", weights.usage / sum * usage);
    }

    /// Adds to memories with a preferred outcome their share of the spread of the scores, which are in order, best first. A cosine, a BM25 score and a
    /// mixture have scales of their own, and what counts in an order are differences: by this measure a weight means the same in every mode. 1 brings
    /// the last to the first. The spread is that of the best [`CANDIDATES`], so that no K changes a score. Nothing is added before the least score has
    /// been asked for, so that admits what it admits without.
    fn prefer(&self, candidates: &mut [Candidate]) {
        let score = |candidate: Option<&Candidate>| candidate.map_or(0.0, |candidate| candidate.score);
        let last = candidates.get(candidates.len().min(CANDIDATES).saturating_sub(1));
        let spread = (score(candidates.first()) - score(last)).max(LEAST_SPREAD);
        for candidate in candidates {
            let Some(outcome) = self.view.records.record(candidate.slot).and_then(|record| record.outcome) else {
                continue;
            };
            if let Some((_, weight)) = self.recall.prefer.iter().find(|(preferred, _)| preferred == outcome) {
                candidate.add("outcome", weight * spread);
            }
        }
    }

    /// Follows links from the K best; see the head of this file.
    fn expanded(&self, mut candidates: Vec<Candidate>, depth: usize) -> Vec<Candidate> {
        candidates.retain(|candidate| self.is_admitted(candidate.slot));
        let best = candidates.first().map_or(0.0, |candidate| candidate.score);
        let floor = candidates.last().map_or(0.0, |candidate| candidate.score).min(0.0);
        // All alike, and none above 0: all are the best.
        let (scale, shift) = if best > floor { (1.0 / (best - floor), -floor / (best - floor)) } else { (0.0, 1.0) };
        for candidate in &mut candidates {
            candidate.parts.iter_mut().for_each(|(_, part)| *part *= scale);
            candidate.score *= scale;
            if shift > 0.0 {
                candidate.add("shift", shift);
            }
        }
        let own: Vec<(u32, f64)> = candidates.iter().map(|candidate| (candidate.slot, candidate.score)).collect();
        let admits = |slot| self.admitted.as_ref().is_none_or(|all| all.contains(slot)) && self.is_admitted(slot);
        let spread = self.view.spread(&Walk { now: self.now, depth, rel: None }, &own, self.recall.k, admits);
        for (n, (slot, id, received, via)) in spread.into_reached(self.view).enumerate() {
            let via = via.map(Box::new);
            match candidates.get_mut(n) {
                Some(candidate) if via.is_some() => {
                    candidate.add("links", received);
                    candidate.via = via;
                }
                Some(_) => {}
                None => candidates.push(Candidate { slot, id, score: received, parts: vec![("links", received)], via }),
            }
        }
        candidates.sort_unstable_by(by_score);
        candidates
    }

    /// The best by relevance and by difference from those before them: maximal marginal relevance (Carbonell and Goldstein 1998). Relevance
    /// is the share of the score that is farthest from 0, which hardly ever is not the best.
    fn varied(&self, mut candidates: Vec<Candidate>, lambda: f64) -> Vec<Candidate> {
        candidates.truncate(CANDIDATES.max(self.recall.k));
        let farthest = candidates.iter().fold(0.0f64, |farthest, candidate| farthest.max(candidate.score.abs()));
        let relevance = |score: f64| if farthest > 0.0 { score / farthest } else { 0.0 };
        let vectors: Vec<_> = candidates.iter().map(|candidate| self.view.stored_vectors(candidate.slot)).collect();
        // The largest cosine of each with what has been taken.
        let mut alike = vec![0f64; candidates.len()];
        let mut left: Vec<usize> = (0..candidates.len()).collect();
        let mut taken = Vec::new();
        while taken.len() < self.recall.k {
            let value = |n: &usize| lambda * relevance(candidates[*n].score) - (1.0 - lambda) * alike[*n];
            // The candidates are in order, so the first of equal ones is the one with the smaller id.
            let Some(place) =
                (0..left.len()).max_by(|a, b| value(&left[*a]).total_cmp(&value(&left[*b])).then(b.cmp(a)))
            else {
                break;
            };
            let n = left.remove(place);
            let mut candidate = candidates[n].clone();
            let value = value(&n);
            candidate.add("variety", value - candidate.score);
            taken.push(candidate);
            for other in &left {
                let cosine =
                    |a: &crate::rows::Vector| vectors[*other].iter().map(|b| a.cosine(b)).fold(f64::MIN, f64::max);
                let most = vectors[n].iter().map(cosine).fold(f64::MIN, f64::max);
                alike[*other] = alike[*other].max(most);
            }
        }
        taken
    }

    fn hit(&self, candidate: Candidate, asked: Option<&Asked>) -> Option<Hit> {
        let entry = self.view.records.entry(candidate.slot)?;
        let similarity =
            self.dense.as_ref().and_then(|(rows, queries)| self.view.cosine(rows, queries, candidate.slot));
        let mut parts = Vec::new();
        if self.recall.explain {
            parts.extend(candidate.parts.iter().map(|(name, part)| ((*name).to_owned(), *part)));
            parts.extend(asked.into_iter().flat_map(|asked| self.words_found(asked, candidate.slot)));
        }
        Some(Hit { entry, score: candidate.score, similarity, parts, via: candidate.via, slot: candidate.slot })
    }

    /// The words of the question, if the words of the results are to be explained.
    fn asked(&self) -> Option<Asked> {
        let text = self.text.as_ref().filter(|_| self.recall.explain)?;
        let stems = self.view.analyser().words(text).into_iter().map(|(stem, hash)| (hash, stem)).collect();
        let query = self.view.lexical.search(&self.terms, &Bm25::default(), Some(&Bitmap::none(0))).query;
        Some(Asked { stems, query })
    }

    /// The words of the question that a memory has, with what each adds to its BM25 score.
    fn words_found(&self, asked: &Asked, slot: u32) -> Vec<(String, f64)> {
        let Some(document) = self.view.records.link(slot, Link::Document) else { return Vec::new() };
        let parts = self.view.lexical.explain(&asked.query, DocId::from_number(document));
        let name = |hash: u32| format!("word:{}", asked.stems.get(&hash).map_or("", String::as_str));
        parts.into_iter().map(|part| (name(part.hash), f64::from(part.part))).collect()
    }
}

/// The words of a question by their hashes, and what the space knows about them.
struct Asked {
    stems: HashMap<u32, String>,
    query: lexical::Query,
}
