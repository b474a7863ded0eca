//! Which questions a small model may answer: told by the words and the shape of the question alone, before anything is generated.
//!
//! Most of what an agent is asked is one fact that stands in its memories: when, where, who, what is the … of …. A small model reads that off as well as a large one, at a
//! tenth of the cost; and where it does not, its confidence tells, and the large one answers after all. So the two errors do not weigh the same. A hard question sent to
//! the small model costs one short answer that is thrown away, if the confidence is low, and a wrong answer if it is not. An easy one sent to the large model costs its
//! time, always. Both are bounded; when in doubt the rules choose the large model, because a wrong answer is worse than a late one.
//!
//! **A short factual question** is one sentence of at most [`WORDS`] words, which begins as such questions do (a question word, `how` with a measure, `is`, `did` and the like,
//! or `tell me the …`, after any greeting), asks one thing, and has no word that wants more than a fact: a reason, a comparison, an opinion, advice, a text to be written.
//! * `why`, and `how` without a measure, ask for an explanation. `should`, `would`, `could`, `if` ask for a judgement.
//! * `and` or `or` before a question word, two question marks, or two sentences are two questions: two facts have to be found and put together.
//! * What does not ask (a remark, an order) is for the large model: the small one is for reading facts off.
//!
//! The words are English. A question in another language begins with none of them and goes to the large model, which costs time and nothing else.
//!
//! Rejected: a classifier over the embedding (the encoder would have to run first, and nobody could be told why); the length of the prompt alone ("Why?" is the shortest and
//! hardest of questions); asking the small model itself (that is an answer's time for a yes or no). `labelled.txt` has what a person would decide, and was written first.
//!
//! They agree with it on 91 of 91 questions, and on 31 of the 40 of `later.txt`, which was written and scored once after them: what they miss is mostly a question that has the words of a short one
//! and wants several facts ("What did I do last week?"). Whether the small model knew enough is then for its confidence to tell.

/// Words of a short question, at most: the longest of the labelled short ones has 11; beyond some fifteen, questions have conditions and clauses.
const WORDS: usize = 16;
/// Bytes of one, at most: nothing longer is looked at.
const BYTES: usize = 200;

/// Said before a question, and nothing of it.
const GREETINGS: [&str; 9] = ["hey", "hi", "hello", "so", "please", "ok", "okay", "well", "sorry"];
/// Ask for what comes behind them.
const ASKING: [&[&str]; 10] = [
    &["tell", "me"],
    &["remind", "me"],
    &["do", "you", "know"],
    &["do", "you", "remember"],
    &["can", "you", "tell", "me"],
    &["could", "you", "tell", "me"],
    &["can", "you", "remind", "me"],
    &["could", "you", "remind", "me"],
    &["i", "wonder"],
    &["i", "forgot"],
];
/// Ask for one thing.
const WHICH: [&str; 10] = ["who", "whom", "whose", "when", "where", "what", "which", "who's", "what's", "where's"];
/// Behind `how`, ask for a measure.
const MEASURES: [&str; 18] = [
    "old", "tall", "far", "many", "much", "long", "big", "high", "heavy", "often", "deep", "wide", "large", "fast",
    "late", "early", "soon", "cold",
];
/// Begin a question that yes or no answers.
const WHETHER: [&str; 12] = ["is", "are", "was", "were", "do", "does", "did", "has", "have", "had", "isn't", "aren't"];
/// Begin what `tell me` is followed by.
const NAMING: [&str; 8] = ["the", "my", "our", "his", "her", "their", "its", "your"];
/// May stand before a question word: `in which year`.
const BEFORE: [&str; 8] = ["in", "on", "at", "for", "with", "from", "to", "by"];
/// Want more than a fact, wherever they stand.
const MORE: [&str; 62] = [
    "why",
    "explain",
    "explanation",
    "compare",
    "comparison",
    "difference",
    "differences",
    "differ",
    "versus",
    "vs",
    "pros",
    "cons",
    "advantages",
    "disadvantages",
    "better",
    "best",
    "worse",
    "worst",
    "should",
    "would",
    "could",
    "if",
    "think",
    "opinion",
    "recommend",
    "suggest",
    "advice",
    "idea",
    "ideas",
    "plan",
    "describe",
    "summarise",
    "summarize",
    "summary",
    "overview",
    "history",
    "story",
    "list",
    "write",
    "draft",
    "translate",
    "poem",
    "essay",
    "steps",
    "meaning",
    "happen",
    "happens",
    "happened",
    "following",
    "analyse",
    "analyze",
    "reason",
    "reasons",
    "cause",
    "causes",
    "improve",
    "about",
    "prove",
    "derive",
    "calculate",
    "solve",
    "everything",
];
/// Between two numbers, make a sum of them.
const OPERATORS: [&str; 8] = ["times", "plus", "minus", "divided", "multiplied", "+", "*", "/"];

/// Where a question may go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Whether it is short and factual.
    pub fast: bool,
    /// Why, as a part of a sentence: `it …`.
    pub why: &'static str,
}

/// Looks whether a question is a short factual one.
pub fn route(question: &str) -> Routed {
    let slow = |why| Routed { fast: false, why };
    let question = question.trim();
    if question.len() > BYTES || question.contains('\n') {
        return slow("it is long");
    }
    let lower = question.to_lowercase().replace('\u{2019}', "'");
    if has_two_sentences(&lower) {
        return slow("it has several sentences");
    }
    // What holds a word together stays: 7:45, e-mail, what's.
    let words: Vec<&str> = lower
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | '?' | '!' | ';' | '(' | ')' | '"'))
        .map(|word| word.trim_matches(['.', ':', '\'', '-']))
        .filter(|word| !word.is_empty())
        .collect();
    if words.len() > WORDS {
        return slow("it is long");
    }
    let greeted = words.iter().take_while(|word| GREETINGS.contains(word)).count();
    let mut asked = words.get(greeted..).unwrap_or_default();
    let asking = ASKING.into_iter().find(|phrase| asked.starts_with(phrase));
    asked = asked.get(asking.map_or(0, <[_]>::len)..).unwrap_or_default();
    if asked.iter().any(|word| MORE.contains(word)) {
        return slow("it wants more than a fact");
    }
    let is_number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    if asked.windows(2).any(|pair| matches!(pair, [a, b] if is_number(a) && OPERATORS.contains(b))) {
        return slow("it is to be calculated");
    }
    let is_head = |word: &str| WHICH.contains(&word) || word == "how" || WHETHER.contains(&word);
    let joins = |word: &str| word == "and" || word == "or";
    if asked.contains(&"or") || asked.windows(2).any(|pair| matches!(pair, [a, b] if joins(a) && is_head(b))) {
        return slow("it asks several things");
    }
    let fast = |why| Routed { fast: true, why };
    match asked {
        ["how", measure, ..] if MEASURES.contains(measure) => fast("it asks for a measure"),
        ["how", ..] => slow("it asks how"),
        [which, _, ..] if WHICH.contains(which) => fast("it asks for one fact"),
        [before, which, _, ..] if BEFORE.contains(before) && WHICH.contains(which) => fast("it asks for one fact"),
        [whether, _, ..] if asking.is_none() && WHETHER.contains(whether) => fast("yes or no answers it"),
        [naming, _, ..] if asking.is_some() && (NAMING.contains(naming) || naming.ends_with("'s")) => {
            fast("it asks for one fact")
        }
        _ => slow("it is no question of the kind that one fact answers"),
    }
}

/// Whether something comes behind the end of a sentence. A full stop ends none behind a word of up to three letters, which may be an abbreviation.
fn has_two_sentences(text: &str) -> bool {
    let ends = text.match_indices(['?', '!', '.']).filter(|(at, mark)| {
        let (before, behind) = (&text[..*at], &text[at + mark.len()..]);
        let word = before.rsplit(char::is_whitespace).next().unwrap_or_default();
        let ends = *mark != "." || word.chars().count() > 3;
        ends && behind.starts_with(char::is_whitespace) && behind.contains(char::is_alphanumeric)
    });
    ends.count() > 0
}

#[cfg(test)]
mod tests;
