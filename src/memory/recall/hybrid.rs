//! By vector and words, and by what is around: steps 2 to 6 of a recall.
//!
//! Some hundred memories have a part in it, and most of them lend their score to several others. So everything that is known about them lies in arrays in
//! the order of their slots ([`Scope`]), each number is worked out once, and turns refer to each other by their place there. Rejected: looking scores up in
//! maps as they are needed, which took two thirds of the time of a recall.

use super::{CANDIDATES, Candidate, Run};
use crate::columns::Cell;
use crate::lexical::{self, Bm25, DocId, Lexical};
use crate::records::Link;
use crate::tokens::Question;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// Candidates that are looked at word by word, and the way from a word score that says nothing to one that says everything.
const RERANKED: usize = 50;
const WORD_RANGE: f64 = 0.4;
/// Shares of vector and words in the base score.
const DENSE: f64 = 0.5;
const WORDS: f64 = 0.5;
/// The cosine of what has nothing to do with a question, and the way from there to a cosine that says everything.
const COSINE_ZERO: f64 = 0.3;
const COSINE_RANGE: f64 = 0.6;
/// What a turn gets of those around it: one before, one behind, two before, two behind.
const AROUND: [f64; 4] = [0.4, 0.2, 0.2, 0.2];
/// What saying something counts for, and how many words are enough.
const LENGTH: f64 = 0.3;
const ENOUGH_WORDS: f64 = 20.0;
/// What being by the speaker who is asked about counts for.
const SPEAKER: f64 = 0.2;

/// A candidate by the places of the turns around it.
struct Member {
    place: u32,
    around: [Option<u32>; 4],
    /// The priors.
    length: Option<f64>,
    speaker: bool,
}

/// The memories that have a part in a recall: the candidates and the turns around them.
struct Scope<'r, 'a> {
    run: &'r Run<'a>,
    /// Their slots.
    slots: Vec<u32>,
    /// The best cosine of each with the question, if it has a vector.
    cosines: Vec<Option<f64>>,
    /// What the vector of each says, from 0 (nothing to do with the question) to about 1, or the words' vectors in its place.
    dense: Vec<f64>,
    /// What the words of each member say, by its place, and what they say together with those of the turns around it.
    words: Vec<[f64; 2]>,
    /// The candidates.
    members: Vec<Member>,
}

impl Run<'_> {
    /// By vector and words, and what is around; at most `limit`.
    pub(super) fn hybrid(&mut self, limit: usize) -> Vec<Candidate> {
        let enough = CANDIDATES.max(self.recall.k.saturating_mul(2));
        let nearest = self.search(enough, None);
        let lexical = self.view.lexical.search(&self.terms, &Bm25::default(), self.admitted.as_ref());
        self.found.matched = lexical.hits.len();
        let best = lexical.best(enough, |slot| self.view.id(slot));
        let mut pool: Vec<u32> =
            nearest.iter().map(|(_, slot)| *slot).chain(best.iter().map(|(slot, _)| *slot)).collect();
        pool.sort_unstable();
        pool.dedup();

        let mut scope = Scope::new(self, &pool, &nearest, &lexical);
        if self.view.settings.ranking.speaker {
            scope.prefer_speaker();
        }
        if let Some(least) = self.recall.min_score {
            let cosines = &scope.cosines;
            let cosine = |member: &Member| cosines.get(member.place as usize).copied().flatten();
            scope.members.retain(|member| cosine(member).is_some_and(|cosine| cosine >= least));
        }
        let mut candidates = scope.best(RERANKED.max(limit));
        let top: Vec<usize> = candidates.iter().take(RERANKED).map(|candidate| candidate.place).collect();
        if scope.go_by_words(&top, &lexical) {
            candidates = scope.best(limit);
        }
        candidates.truncate(limit);
        candidates.into_iter().map(|ranked| scope.candidate(&ranked)).collect()
    }

    /// The turns around one in its session: one before, one behind, two before, two behind; none if the space is not ranked by them.
    fn around(&self, slot: u32) -> [Option<u32>; 4] {
        if !self.view.settings.ranking.around {
            return [None; 4];
        }
        let step = |slot: Option<u32>, link| self.view.records.link(slot?, link);
        let (before, behind) = (step(Some(slot), Link::Previous), step(Some(slot), Link::Next));
        [before, behind, step(before, Link::Previous), step(behind, Link::Next)]
    }
}

/// A member and its score.
struct Ranked {
    member: usize,
    place: usize,
    score: f64,
}

impl<'r, 'a> Scope<'r, 'a> {
    /// The pool, what is around it and admitted, and what is around that.
    fn new(run: &'r Run<'a>, pool: &[u32], nearest: &[(f64, u32)], lexical: &Lexical) -> Scope<'r, 'a> {
        let records = &run.view.records;
        let mut places = Places::with_capacity_and_hasher(8 * pool.len(), BuildHasherDefault::default());
        let mut slots: Vec<u32> = Vec::with_capacity(4 * pool.len());
        let mut place = |slot: u32, slots: &mut Vec<u32>| {
            *places.entry(slot).or_insert_with(|| {
                slots.push(slot);
                slots.len() as u32 - 1
            })
        };
        let admitted = |slot: &u32| run.admitted.as_ref().is_none_or(|admitted| admitted.contains(*slot));
        let mut members = Vec::with_capacity(4 * pool.len());
        let mut joining: Vec<u32> = pool.to_vec();
        joining.extend(pool.iter().flat_map(|slot| run.around(*slot)).flatten().filter(admitted));
        joining.sort_unstable();
        joining.dedup();
        for slot in joining {
            members.push(Member {
                place: place(slot, &mut slots),
                around: run.around(slot).map(|turn| turn.map(|turn| place(turn, &mut slots))),
                length: records
                    .words(slot)
                    .filter(|_| run.view.settings.ranking.length)
                    .map(|words| LENGTH * (words.ln_1p() / ENOUGH_WORDS.ln_1p()).min(1.0)),
                speaker: false,
            });
        }
        let mut cosines = vec![None; slots.len()];
        for (cosine, slot) in nearest {
            if let Some(known) = places.get(slot).and_then(|place| cosines.get_mut(*place as usize)) {
                *known = Some(*cosine);
            }
        }
        if let Some((rows, queries)) = &run.dense {
            let mut wanted = Vec::with_capacity(slots.len());
            for (place, slot) in slots.iter().enumerate().filter(|(place, _)| cosines.get(*place) == Some(&None)) {
                records.each_row(*slot, |row| wanted.push((row, place as u32)));
            }
            rows.each_score(queries, &wanted, |place, score| {
                if let Some(best) = cosines.get_mut(place as usize) {
                    *best = Some(best.map_or(score, |best| best.max(score)));
                }
            });
        }
        let dense = cosines.iter().map(|cosine| cosine.map_or(0.0, |cosine| (cosine - COSINE_ZERO) / COSINE_RANGE));
        let mut scope = Scope { run, dense: dense.collect(), words: Vec::new(), cosines, slots, members };
        scope.score_words(&lexical.query);
        scope
    }

    /// BM25 of every member: of itself, and of itself and the turns around it as one text, in which the words of those count for less. Words that are said
    /// again do not count again in full, which adding up the scores of turns would have them do.
    fn score_words(&mut self, query: &lexical::Query) {
        let view = self.run.view;
        // The index leaves out BM25's constant factor k1 + 1, which changes no order by words alone.
        let factor = 1.0 + f64::from(Bm25::default().k1);
        let scale = 2.0 * (view.lexical.docs() as f64).ln_1p().max(f64::MIN_POSITIVE) / factor;
        self.words = vec![[0.0; 2]; self.slots.len()];
        let document = |slot: &u32| view.records.link(*slot, Link::Document).map(DocId::from_number);
        let documents: Vec<Option<DocId>> = self.slots.iter().map(document).collect();
        let frequencies = view.lexical.frequencies(query, &documents);
        let mut together = Vec::with_capacity(query.terms.len());
        for member in &self.members {
            let place = member.place as usize;
            let own = frequencies.of(place);
            together.clear();
            together.extend_from_slice(own);
            for (turn, weight) in member.around.iter().zip(AROUND) {
                let around = turn.map_or(&[][..], |turn| frequencies.of(turn as usize));
                together.iter_mut().zip(around).for_each(|(sum, times)| *sum += weight as f32 * times);
            }
            let score = |times: &[f32]| WORDS * f64::from(frequencies.score(query, place, times)) / scale;
            if let Some(words) = self.words.get_mut(place) {
                *words = [score(own), score(&together)];
            }
        }
    }

    /// Finds the one speaker of the candidates that the question names, if it names just one. A turn of a speaker whose name is in the question is a
    /// candidate by that word, so the candidates say who could be meant.
    fn prefer_speaker(&mut self) {
        let records = &self.run.view.records;
        let question = words_of(self.run.text.as_deref().unwrap_or(""));
        let slot = |member: &Member| self.slots.get(member.place as usize).copied().unwrap_or(u32::MAX);
        let mut seen: HashSet<Cell, BuildHasherDefault<Spread>> = HashSet::default();
        let mut named: Option<(Cell, &str)> = None;
        for member in &self.members {
            let (_, cell) = records.owner_cells(slot(member));
            if !seen.insert(cell) {
                continue;
            }
            let Some(speaker) = records.record(slot(member)).and_then(|record| record.speaker) else { continue };
            let name = words_of(speaker);
            if !name.is_empty() && question.windows(name.len()).any(|words| words == name) {
                if named.is_some_and(|(_, other)| other != speaker) {
                    return;
                }
                named = Some((cell, speaker));
            }
        }
        let Some((named, _)) = named else { return };
        for member in &mut self.members {
            let slot = self.slots.get(member.place as usize).copied().unwrap_or(u32::MAX);
            member.speaker = records.owner_cells(slot).1 == named;
        }
    }

    fn dense(&self, place: usize) -> f64 {
        DENSE * self.dense.get(place).copied().unwrap_or(0.0)
    }

    fn words(&self, place: usize) -> [f64; 2] {
        self.words.get(place).copied().unwrap_or_default()
    }

    /// The parts of a candidate's score.
    fn parts(&self, member: &Member) -> [Option<(&'static str, f64)>; 5] {
        let place = member.place as usize;
        let turns = member.around.iter().zip(AROUND);
        let dense: f64 = turns.filter_map(|(turn, weight)| Some(weight * self.dense((*turn)? as usize))).sum();
        let [words, together] = self.words(place);
        [
            Some(("vector", self.dense(place))),
            Some(("words", words)),
            Some(("around", dense + (together - words))),
            member.length.map(|length| ("length", length)),
            member.speaker.then_some(("speaker", SPEAKER)),
        ]
    }

    /// The best candidates, best first, equal ones by id.
    fn best(&self, limit: usize) -> Vec<Ranked> {
        let score = |(n, member): (usize, &Member)| Ranked {
            member: n,
            place: member.place as usize,
            score: self.parts(member).iter().flatten().map(|(_, part)| part).sum(),
        };
        let mut ranked: Vec<Ranked> = self.members.iter().enumerate().map(score).collect();
        let id = |ranked: &Ranked| self.slots.get(ranked.place).map(|slot| self.run.view.id(*slot));
        // Scores are never NaN; -0.0 and 0.0 are one.
        let order =
            |a: &Ranked, b: &Ranked| (b.score + 0.0).total_cmp(&(a.score + 0.0)).then_with(|| id(a).cmp(&id(b)));
        if (1..ranked.len()).contains(&limit) {
            ranked.select_nth_unstable_by(limit - 1, order);
            ranked.truncate(limit);
        }
        ranked.sort_unstable_by(order);
        ranked
    }

    /// Lets the word vectors of these speak instead of their cosines. Whether any has some.
    fn go_by_words(&mut self, places: &[usize], lexical: &Lexical) -> bool {
        let view = self.run.view;
        let idf = |term: u32| {
            let found = lexical.query.terms.iter().find(|known| known.hash == term);
            found.map_or_else(|| view.lexical.idf(0.0), |known| f64::from(known.idf))
        };
        let Some(rows) = view.rows.as_ref().filter(|_| view.settings.ranking.token_vectors) else { return false };
        let Some(mut question) = Question::new(&self.run.recall.words, rows.dim(), idf) else { return false };
        let mut scores: Vec<(usize, f64)> = Vec::with_capacity(places.len());
        for place in places {
            let signs = self.slots.get(*place).map_or(&[][..], |slot| view.records.signs(*slot));
            scores.extend(question.compare(signs).map(|score| (*place, score / WORD_RANGE)));
        }
        // Shifted so that their mean is that of what they take the place of.
        let dense = |place: usize| self.dense.get(place).copied().unwrap_or(0.0);
        let shift = scores.iter().map(|(place, score)| dense(*place) - score).sum::<f64>() / scores.len().max(1) as f64;
        for (place, score) in &scores {
            if let Some(dense) = self.dense.get_mut(*place) {
                *dense = score + shift;
            }
        }
        !scores.is_empty()
    }

    fn candidate(&self, ranked: &Ranked) -> Candidate {
        let slot = self.slots.get(ranked.place).copied().unwrap_or(u32::MAX);
        let parts = self.members.get(ranked.member).map(|member| self.parts(member).into_iter().flatten().collect());
        Candidate { slot, id: self.run.view.id(slot), score: ranked.score, parts: parts.unwrap_or_default(), via: None }
    }
}

/// Places by slot. Slots are small numbers that nobody outside chooses, so one multiplication spreads them well enough.
type Places = std::collections::HashMap<u32, u32, BuildHasherDefault<Spread>>;

#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// The words of a short text in lower case, letters and digits alone.
fn words_of(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}
