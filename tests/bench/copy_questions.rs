//! Questions that the small trained model answers by copying, and how well its confidence tells right answers from wrong ones.
//!
//! The model learnt to repeat the memory that a question is about. Among five memories with values of one word it mostly does: those are the simple questions. The hard ones are hard in the
//! ways in which recall is hard: up to 24 memories, most of them about the same people or the same attribute, and values of several invented words and long codes. A fixed seed makes
//! them; nothing of them stands in a training text but the common words.

use std::sync::Arc;

use engram_inference::gemma::{Gemma, Role, Turn, Workspace};
use engram_inference::generation::{Generation, Step};
use engram_inference::sampler::Sampling;

/// What the memories say of somebody, and how it is asked for.
const ATTRIBUTES: [&str; 24] = [
    "favourite colour",
    "favourite food",
    "door code",
    "wifi password",
    "phone number",
    "middle name",
    "locker number",
    "home town",
    "best friend",
    "lucky number",
    "shoe size",
    "secret word",
    "licence plate",
    "flight number",
    "alarm code",
    "nickname",
    "blood type",
    "street address",
    "lead singer",
    "spare key",
    "email password",
    "old teacher",
    "main street",
    "second language",
];
const ONSETS: [&str; 24] = [
    "b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gr", "pl", "st", "th", "sh",
    "w", "h", "qu",
];
const VOWELS: [&str; 9] = ["a", "e", "i", "o", "u", "ai", "ea", "oo", "ou"];
const CODAS: [&str; 12] = ["", "n", "r", "l", "s", "", "m", "nd", "", "ck", "rt", ""];

/// One question.
pub struct Question {
    /// What is known; one of them answers it.
    pub memories: Vec<String>,
    /// What is asked.
    pub text: String,
    /// The value that the right memory has.
    pub expect: String,
}

impl Question {
    /// The user's turn, in the shape that the model was trained on.
    pub fn prompt(&self) -> String {
        let memories: String = self.memories.iter().map(|memory| format!("- {memory}\n")).collect();
        format!("Memories:\n{memories}\n{}", self.text)
    }
}

/// Hard questions, the same each time.
pub fn hard(count: usize) -> Vec<Question> {
    let mut random = Random(20);
    let mut ask = || {
        let memories = 4 + random.below(21);
        question(&mut random, memories, Random::value)
    };
    (0..count).map(|_| ask()).collect()
}

/// Simple questions, the same each time.
pub fn simple(count: usize) -> Vec<Question> {
    let mut random = Random(40);
    (0..count).map(|_| question(&mut random, 5, Random::name)).collect()
}

/// The confidence of the greedy answer to each question, and whether it is right: has the value.
pub fn answered(model: &Arc<Gemma>, questions: &[Question]) -> Result<Vec<(f64, bool)>, engram_inference::Error> {
    let mut work = Workspace::new(Arc::clone(model))?;
    let mut answer = |question: &Question| {
        let prompt = model.prompt(&[Turn { role: Role::User, text: &question.prompt() }])?;
        let greedy = Sampling { temperature: 0.0, max_tokens: 96, ..Sampling::default() };
        let mut generation = Generation::new(Arc::clone(model), prompt, greedy)?;
        while generation.step(&mut work)? == Step::Running {}
        Ok((generation.confidence().0, generation.text().contains(&question.expect)))
    };
    questions.iter().map(&mut answer).collect()
}

/// How well confidence tells right from wrong: the share of pairs of a right and a wrong answer in which the right one has the higher, ties by half.
pub fn auroc(answers: &[(f64, bool)]) -> f64 {
    let of =
        |right: bool| answers.iter().filter(move |(_, is_right)| *is_right == right).map(|(confidence, _)| *confidence);
    let pairs = of(true).flat_map(|right| of(false).map(move |wrong| (right, wrong)));
    let (mut all, mut won) = (0.0, 0.0);
    for (right, wrong) in pairs {
        all += 1.0;
        won += match right.total_cmp(&wrong) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
    }
    won / all
}

/// A generator of numbers that is the same everywhere: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    /// A word of two to four syllables.
    fn word(&mut self) -> String {
        (0..2 + self.below(3)).map(|_| [self.of(&ONSETS), self.of(&VOWELS), self.of(&CODAS)].concat()).collect()
    }

    fn name(&mut self) -> String {
        let word = self.word();
        word[..1].to_uppercase() + &word[1..]
    }

    /// What an attribute is set to: one to three words, or a code.
    fn value(&mut self) -> String {
        match self.below(4) {
            0 => self.word(),
            1 => format!("{} {}", self.name(), self.name()),
            2 => format!("{}-{}-{}", self.word(), self.next() % 100_000, self.name()),
            _ => format!("{}{}{}", self.name(), self.next() % 1_000_000, self.word()),
        }
    }
}

/// One question, among so many memories of three people.
fn question(random: &mut Random, memories: usize, value: fn(&mut Random) -> String) -> Question {
    let people: Vec<String> = (0..3).map(|_| random.name()).collect();
    let mut stated: Vec<(String, &str, String)> = Vec::new();
    while stated.len() < memories {
        let (who, what) = (people[random.below(people.len())].clone(), random.of(&ATTRIBUTES));
        if !stated.iter().any(|(known, of, _)| *known == who && *of == what) {
            stated.push((who, what, value(random)));
        }
    }
    let (who, what, expect) = stated[random.below(stated.len())].clone();
    let state = |(who, what, value): &(String, &str, String)| match random.below(3) {
        0 => format!("The {what} of {who} is {value}."),
        1 => format!("{who}'s {what} is {value}."),
        _ => format!("{who}: My {what} is {value}."),
    };
    let memories = stated.iter().map(state).collect();
    let text = match random.below(3) {
        0 => format!("What is the {what} of {who}?"),
        1 => format!("What is {who}'s {what}?"),
        _ => format!("Tell me {who}'s {what}."),
    };
    Question { memories, text, expect }
}
