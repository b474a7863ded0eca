//! The context of a prompt: what a model is shown of a conversation and of what is remembered, within a budget of tokens.
//!
//! **Order of claims.** The caller's instruction, the newest turn and the question are always in; if they alone exceed the budget, that is an error
//! which says who takes what. Then come the running summary up to a quarter of the budget, the newest turns up to half of what is left, the memories by rank (one that is too long
//! is passed over), the remaining turns from new to old without a gap, older turns that matter, and the rest of the summary. Whatever stays out is in [`Context::dropped`]
//! with the reason.
//!
//! **The budget is a hard limit of the whole text.** Each part is counted once and their sum decides who gets in; but the tokens of a text are not
//! the sum of those of its parts, so the whole is counted at the end, and while it is too long the last claims are given up. So it holds for any
//! tokenizer, and one that adds up exactly costs one count of each part and one of the whole.
//!
//! **How it reads.** One list per kind of part, every item on lines of its own ([`crate::fence`]):
//!
//! ```text
//! {instruction}
//!
//! Summary:
//! - Ann (8 May 2023): I adopted a dog.
//!
//! Memories:
//! - (handbook.md, part 3) The warranty lasts two years.
//! - [2023-05-08] Ann: The dog is called Bo.
//! - Ann: He likes carrots.
//!
//! Earlier turns:
//! - [2023-05-09] user (Ann): Never call me before noon.
//!
//! Conversation:
//! - [2023-06-01] user (Ann): What does Bo like?
//!
//! Question: What does the dog like?
//! ```
//!
//! Memories stand in the order of time, not of rank: "the next day" and "not any more" are understood only in that order, the rank has done its work
//! by choosing, and one date serves all items of a day (a date is up to twelve tokens). Parts of documents stand first, each document's in its own
//! order. Rejected: rank order (a newer statement above the older one that it corrects), and the best memory last (it helps some models and breaks
//! the order of time for all).

use crate::fence::{push_fenced, push_line};
use crate::summary;
use engram_memory::{Entry, Error, MemoryId, Millis, Result, date, normalised};
use std::collections::{HashMap, HashSet};

/// Older turns of at least this importance are shown while there is room.
pub const IMPORTANT: f64 = 0.7;

/// Who speaks in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Assistant,
    /// Instructions.
    System,
    /// What a tool answered.
    Tool,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 4] = [Role::User, Role::Assistant, Role::System, Role::Tool];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::System => "system",
            Role::Tool => "tool",
        }
    }

    /// From a name, in any case.
    pub fn parse(text: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| text.eq_ignore_ascii_case(role.name()))
    }
}

/// A turn of a session.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn<'a> {
    /// Its id as a memory.
    pub id: MemoryId,
    /// Who speaks.
    pub role: Role,
    /// The name of who speaks.
    pub speaker: Option<&'a str>,
    /// When.
    pub at: Millis,
    /// Importance, 0 to 1.
    pub importance: f64,
    /// What was said.
    pub content: &'a str,
}

impl<'a> Turn<'a> {
    /// A memory as a turn; of one without a role it is taken that a user said it.
    pub fn of(entry: &'a Entry) -> Turn<'a> {
        Turn {
            id: entry.id,
            role: entry.role.as_deref().and_then(Role::parse).unwrap_or(Role::User),
            speaker: entry.speaker.as_deref(),
            at: entry.at,
            importance: entry.importance,
            content: &entry.content,
        }
    }
}

/// A recalled memory, or a part of a document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory<'a> {
    /// Its id.
    pub id: MemoryId,
    /// The name of who said it.
    pub speaker: Option<&'a str>,
    /// When it happened.
    pub at: Millis,
    /// The document that it is a part of.
    pub doc: Option<&'a str>,
    /// Which part, from 0.
    pub position: Option<u64>,
    /// The text.
    pub content: &'a str,
}

/// What a context is made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts<'a> {
    /// The caller's instruction, shown as it is.
    pub system: Option<&'a str>,
    /// The running summary.
    pub summary: Option<&'a str>,
    /// The turns that the summary does not cover, the newest last.
    pub turns: &'a [Turn<'a>],
    /// Older turns that may be worth showing, the newest last; those of importance below [`IMPORTANT`] are not.
    pub older: &'a [Turn<'a>],
    /// What was recalled, the best first.
    pub memories: &'a [Memory<'a>],
    /// What the model is asked, unless the newest turn is the question.
    pub question: Option<&'a str>,
}

/// What the model is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Context<'a> {
    /// The caller's instruction.
    pub system: Option<&'a str>,
    /// The lines of the summary.
    pub summary: Vec<String>,
    /// The memories, in the order in which they are shown.
    pub memories: Vec<&'a Memory<'a>>,
    /// Older turns that matter, the newest last.
    pub earlier: Vec<&'a Turn<'a>>,
    /// The turns, the newest last, without a gap.
    pub turns: Vec<&'a Turn<'a>>,
    /// The question.
    pub question: Option<&'a str>,
    /// The tokens of [`text`](Context::text).
    pub tokens: usize,
    /// What was left out, in the order of the claims.
    pub dropped: Vec<Dropped>,
}

/// Something that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// "summary", "turn", "memory" or "older turn".
    pub what: &'static str,
    /// Its id; a summary has none.
    pub id: Option<MemoryId>,
    /// Why, as a sentence.
    pub reason: String,
}

/// Something optional that got in, by its place in its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Sentence(usize),
    Turn(usize),
    Memory(usize),
    Older(usize),
}

/// The summary may take this part of the budget before others have had theirs: a quarter, a thousand tokens of the usual four.
const SUMMARY_PART: usize = 4;

const SUMMARY: &str = "Summary:\n";
const MEMORIES: &str = "Memories:\n";
const EARLIER: &str = "Earlier turns:\n";
const CONVERSATION: &str = "Conversation:\n";

/// Makes the context of at most `budget` tokens by `count`.
///
/// # Errors
/// What must be in does not fit: the sentence says what takes how many tokens.
pub fn assemble<'a>(parts: &Parts<'a>, budget: usize, count: &dyn Fn(&str) -> usize) -> Result<Context<'a>> {
    let mut assembly = Assembly::new(parts, budget, count)?;
    let untold = assembly.take_summary(assembly.sentences.len(), budget / SUMMARY_PART);
    let older_turns = assembly.take_turns(parts.turns.len().saturating_sub(1), assembly.left / 2);
    assembly.take_memories();
    let unseen = assembly.take_turns(older_turns, assembly.left);
    assembly.take_older(unseen);
    assembly.take_summary(untold, assembly.left);
    Ok(assembly.finish())
}

struct Assembly<'a, 'p> {
    parts: &'p Parts<'a>,
    count: &'p dyn Fn(&str) -> usize,
    budget: usize,
    left: usize,
    /// The sentences of the summary, each with the number of its line.
    sentences: Vec<(usize, &'a str)>,
    labels: Vec<Option<&'a str>>,
    /// What got in and its tokens, in the order of the claims.
    taken: Vec<(Claim, usize)>,
    /// The days whose date is paid for, per list.
    days: HashSet<(&'static str, u64)>,
    dropped: Vec<(Claim, String)>,
    /// Memories that gave their place to the turn that they are.
    replaced: Vec<(usize, usize)>,
    summary_dropped: Option<String>,
}

impl<'a, 'p> Assembly<'a, 'p> {
    fn new(parts: &'p Parts<'a>, budget: usize, count: &'p dyn Fn(&str) -> usize) -> Result<Assembly<'a, 'p>> {
        let mut labels = Vec::new();
        let mut sentences = Vec::new();
        for (line, (label, said)) in summary::lines(parts.summary.unwrap_or_default()).into_iter().enumerate() {
            labels.push(label);
            sentences.extend(said.into_iter().map(|sentence| (line, sentence)));
        }
        let mut assembly = Assembly {
            parts,
            count,
            budget,
            left: budget,
            sentences,
            labels,
            taken: Vec::new(),
            days: HashSet::new(),
            dropped: Vec::new(),
            replaced: Vec::new(),
            summary_dropped: None,
        };
        let least = assembly.context();
        let needed = count(&least.text());
        if needed > budget {
            let mut who = Vec::new();
            let mut takes = |what: &str, text: Option<&str>| {
                if let Some(text) = text.filter(|text| !text.is_empty()) {
                    who.push(format!("the {what} {}", count(text)));
                }
            };
            takes("system text", least.system);
            takes("newest turn", least.turns.last().map(|turn| turn.content));
            takes("question", least.question);
            return Err(Error::new(format!(
                "the budget of {budget} tokens is too small: what must be in takes {needed} ({})",
                who.join(", ")
            )));
        }
        assembly.left = budget - needed;
        assembly.days.extend(least.turns.iter().map(|turn| (CONVERSATION, day(turn.at))));
        Ok(assembly)
    }

    /// The tokens that an item adds to a list: its line, the date if it is the first of its day, the heading if it is the first.
    fn cost(&self, list: &'static str, first: bool, at: Option<Millis>, item: &str) -> usize {
        let date = at.filter(|at| !self.days.contains(&(list, day(*at)))).map_or(0, |at| (self.count)(&date_label(at)));
        let heading = if first { (self.count)(list) + (self.count)("\n") } else { 0 };
        (self.count)(item) + date + heading
    }

    fn holds(&self, kind: fn(&Claim) -> bool) -> bool {
        self.taken.iter().any(|(claim, _)| kind(claim))
    }

    fn take(&mut self, claim: Claim, list: &'static str, at: Option<Millis>, cost: usize) {
        self.left = self.left.saturating_sub(cost);
        self.days.extend(at.map(|at| (list, day(at))));
        self.taken.push((claim, cost));
    }

    fn no_room(&self, cost: usize, left: usize) -> String {
        format!("no room: needs {cost} tokens, {left} are left")
    }

    /// Sentences of the summary from the one before `end` back, for at most `most` tokens; gives the place of the oldest that got in, or `end`.
    fn take_summary(&mut self, end: usize, most: usize) -> usize {
        let mut room = most.min(self.left);
        for (at, (line, sentence)) in self.sentences.clone().into_iter().enumerate().take(end).rev() {
            // The name in front of a line is paid for with the line's last sentence, which comes first.
            let opens = self.sentences.get(at + 1).is_none_or(|(next, _)| *next != line);
            let label = if opens { self.labels.get(line).copied().flatten() } else { None };
            let item = match opens {
                true => format!("- {}{sentence}\n", label.unwrap_or_default()),
                false => format!(" {sentence}"),
            };
            let all = self.sentences.len();
            let cost = self.cost(SUMMARY, at + 1 == all, None, &item);
            if cost > room {
                let why = self.no_room(cost, room);
                self.summary_dropped = Some(format!("its oldest {} of {all} sentences: {why}", at + 1));
                return at + 1;
            }
            room -= cost;
            self.take(Claim::Sentence(at), SUMMARY, None, cost);
        }
        self.summary_dropped = None;
        0
    }

    /// Turns from the one before `end` back, for at most `most` tokens; gives the place of the oldest that got in, or `end`.
    fn take_turns(&mut self, end: usize, most: usize) -> usize {
        let mut left = most.min(self.left);
        for at in (0..end).rev() {
            let Some(turn) = self.parts.turns.get(at) else { break };
            let cost = self.cost(CONVERSATION, false, Some(turn.at), &turn_line(turn));
            // A memory that is this turn gives its place to it.
            let same = |(claim, _): &(Claim, usize)| match claim {
                Claim::Memory(rank) => self.parts.memories.get(*rank).is_some_and(|memory| memory.id == turn.id),
                _ => false,
            };
            let memory = self.taken.iter().position(same);
            let gained = memory.and_then(|memory| self.taken.get(memory)).map_or(0, |(_, cost)| *cost);
            if cost > left + gained {
                return at + 1;
            }
            if let Some(memory) = memory
                && let (Claim::Memory(rank), _) = self.taken.remove(memory)
            {
                self.replaced.push((rank, at));
                self.left += gained;
                left += gained;
            }
            left -= cost;
            self.take(Claim::Turn(at), CONVERSATION, Some(turn.at), cost);
        }
        0
    }

    fn take_memories(&mut self) {
        let newest = self.parts.turns.last().map(|turn| turn.id);
        let mut known: HashMap<String, MemoryId> = HashMap::new();
        for (rank, memory) in self.parts.memories.iter().enumerate() {
            let claim = Claim::Memory(rank);
            let shown = |(claim, _): &(Claim, usize)| match claim {
                Claim::Turn(at) => self.parts.turns.get(*at).is_some_and(|turn| turn.id == memory.id),
                _ => false,
            };
            if newest == Some(memory.id) || self.taken.iter().any(shown) {
                self.dropped.push((claim, ALREADY_A_TURN.to_owned()));
                continue;
            }
            let text = normalised(memory.content);
            if let Some(first) = known.get(&text) {
                self.dropped.push((claim, format!("duplicate of {first}")));
                continue;
            }
            let at = if memory.doc.is_none() { Some(memory.at) } else { None };
            let first = !self.holds(|claim| matches!(claim, Claim::Memory(_)));
            let cost = self.cost(MEMORIES, first, at, &memory_line(memory));
            if cost > self.left {
                self.dropped.push((claim, self.no_room(cost, self.left)));
                continue;
            }
            known.insert(text, memory.id);
            self.take(claim, MEMORIES, at, cost);
        }
    }

    /// Turns that matter: of those that had no room in their order, up to `unseen`, and older ones.
    fn take_older(&mut self, unseen: usize) {
        let left_out = self.parts.turns.iter().take(unseen.min(self.parts.turns.len().saturating_sub(1)));
        let mut candidates: Vec<(usize, &Turn)> =
            self.all_older().take(self.parts.older.len()).chain(left_out).enumerate().collect();
        candidates.retain(|(_, turn)| turn.importance >= IMPORTANT);
        // The most important first, of equal ones the newest.
        candidates.sort_by(|a, b| b.1.importance.total_cmp(&a.1.importance).then(b.0.cmp(&a.0)));
        for (at, turn) in candidates {
            let claim = Claim::Older(at);
            let shown = |(claim, _): &(Claim, usize)| match claim {
                Claim::Memory(rank) => self.parts.memories.get(*rank).is_some_and(|memory| memory.id == turn.id),
                _ => false,
            };
            if self.taken.iter().any(shown) {
                self.dropped.push((claim, "already among the memories".to_owned()));
                continue;
            }
            let first = !self.holds(|claim| matches!(claim, Claim::Older(_)));
            let cost = self.cost(EARLIER, first, Some(turn.at), &turn_line(turn));
            if cost > self.left {
                self.dropped.push((claim, self.no_room(cost, self.left)));
                continue;
            }
            self.take(claim, EARLIER, Some(turn.at), cost);
        }
    }

    /// Older turns, then the session's, which are newer: what [`Claim::Older`] counts in.
    fn all_older(&self) -> impl Iterator<Item = &'a Turn<'a>> + use<'a> {
        self.parts.older.iter().chain(self.parts.turns)
    }

    /// What is shown if this is all.
    fn context(&self) -> Context<'a> {
        let parts = self.parts;
        let (mut sentences, mut turns, mut memories, mut older) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (claim, _) in &self.taken {
            match *claim {
                Claim::Sentence(at) => sentences.push(at),
                Claim::Turn(at) => turns.push(at),
                Claim::Memory(rank) => memories.push(rank),
                Claim::Older(at) => older.push(at),
            }
        }
        sentences.sort_unstable();
        let mut summary: Vec<(usize, String)> = Vec::new();
        for (line, sentence) in sentences.into_iter().filter_map(|at| self.sentences.get(at)) {
            match summary.last_mut().filter(|(last, _)| last == line) {
                Some((_, text)) => {
                    text.push(' ');
                    text.push_str(sentence);
                }
                None => {
                    let label = self.labels.get(*line).copied().flatten().unwrap_or_default();
                    summary.push((*line, format!("{label}{sentence}")));
                }
            }
        }
        turns.extend(parts.turns.len().checked_sub(1));
        turns.sort_unstable();
        older.sort_unstable();
        Context {
            system: parts.system,
            summary: summary.into_iter().map(|(_, text)| text).collect(),
            memories: in_order(parts.memories, memories),
            earlier: older.into_iter().filter_map(|at| self.all_older().nth(at)).collect(),
            turns: turns.into_iter().filter_map(|at| parts.turns.get(at)).collect(),
            question: parts.question,
            tokens: 0,
            dropped: Vec::new(),
        }
    }

    /// Counts the whole, and gives up the last claims while it is too long.
    fn finish(mut self) -> Context<'a> {
        let mut given_up = false;
        let mut context = loop {
            let mut context = self.context();
            context.tokens = (self.count)(&context.text());
            if context.tokens <= self.budget || self.taken.is_empty() {
                break context;
            }
            let mut excess = context.tokens - self.budget;
            let why = format!("no room: the whole has {excess} tokens more than the budget");
            while let Some((claim, cost)) = self.taken.pop() {
                match claim {
                    Claim::Sentence(_) => given_up = true,
                    _ => self.dropped.push((claim, why.clone())),
                }
                excess = excess.saturating_sub(cost);
                if excess == 0 {
                    break;
                }
            }
        };
        if given_up {
            let kept = self.taken.iter().filter(|(claim, _)| matches!(claim, Claim::Sentence(_))).count();
            let all = self.sentences.len();
            self.summary_dropped = Some(format!("its oldest {} of {all} sentences: no room", all - kept));
        }
        context.dropped = self.account(&context);
        context
    }

    /// Everything that is not in the context, with the reason.
    fn account(mut self, context: &Context<'a>) -> Vec<Dropped> {
        let mut all = Vec::new();
        all.extend(self.summary_dropped.take().map(|reason| Dropped { what: "summary", id: None, reason }));
        let shown = context.turns.len();
        let earlier: HashSet<MemoryId> = context.earlier.iter().map(|turn| turn.id).collect();
        for (at, turn) in self.parts.turns.iter().enumerate().rev().skip(shown) {
            if earlier.contains(&turn.id) {
                continue;
            }
            let given_up = self.dropped.iter().find(|(claim, _)| *claim == Claim::Turn(at));
            let reason = given_up.map_or_else(
                || match at + shown + 1 == self.parts.turns.len() {
                    true => self.no_room((self.count)(&turn_line(turn)), self.left),
                    false => "a newer turn has no room, and turns are shown without a gap".to_owned(),
                },
                |(_, reason)| reason.clone(),
            );
            all.push(Dropped { what: "turn", id: Some(turn.id), reason });
        }
        for (rank, at) in std::mem::take(&mut self.replaced) {
            let is_shown = at + shown >= self.parts.turns.len();
            let reason = if is_shown { ALREADY_A_TURN } else { "no room: neither as a memory nor as a turn" };
            self.dropped.push((Claim::Memory(rank), reason.to_owned()));
        }
        let mut memories: Vec<(usize, String)> = Vec::new();
        let mut older: Vec<(usize, String)> = Vec::new();
        for (claim, reason) in std::mem::take(&mut self.dropped) {
            match claim {
                Claim::Memory(rank) => memories.push((rank, reason)),
                // The session's own turns are told of above.
                Claim::Older(at) if at < self.parts.older.len() => older.push((at, reason)),
                _ => {}
            }
        }
        memories.sort_by_key(|(rank, _)| *rank);
        older.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let id_of = |rank: usize| self.parts.memories.get(rank).map(|memory| memory.id);
        all.extend(memories.into_iter().map(|(rank, reason)| Dropped { what: "memory", id: id_of(rank), reason }));
        let id_of = |at: usize| self.parts.older.get(at).map(|turn| turn.id);
        all.extend(older.into_iter().map(|(at, reason)| Dropped { what: "older turn", id: id_of(at), reason }));
        all
    }
}

const ALREADY_A_TURN: &str = "already among the turns";

/// Memories of these ranks in the order in which they are shown: documents as they were ranked, each by position, then the others by time.
fn in_order<'a>(memories: &'a [Memory<'a>], mut ranks: Vec<usize>) -> Vec<&'a Memory<'a>> {
    ranks.sort_unstable();
    let chosen: Vec<&Memory> = ranks.into_iter().filter_map(|rank| memories.get(rank)).collect();
    let mut docs: HashMap<&str, usize> = HashMap::new();
    for (rank, doc) in chosen.iter().enumerate().filter_map(|(rank, memory)| memory.doc.map(|doc| (rank, doc))) {
        docs.entry(doc).or_insert(rank);
    }
    let mut ordered = chosen;
    ordered.sort_by_key(|memory| match memory.doc {
        Some(doc) => {
            (false, docs.get(doc).copied().unwrap_or_default() as u64, memory.position.unwrap_or_default(), memory.id)
        }
        None => (true, memory.at, 0, memory.id),
    });
    ordered
}

fn day(at: Millis) -> u64 {
    at / 86_400_000
}

fn date_label(at: Millis) -> String {
    format!("[{}] ", date::iso(at))
}

fn push_memory(out: &mut String, memory: &Memory) {
    if let Some(doc) = memory.doc {
        out.push('(');
        push_line(out, doc);
        if let Some(position) = memory.position {
            out.push_str(&format!(", part {}", position.saturating_add(1)));
        }
        out.push_str(") ");
    }
    if let Some(speaker) = memory.speaker {
        push_line(out, speaker);
        out.push_str(": ");
    }
    push_fenced(out, memory.content);
}

fn push_turn(out: &mut String, turn: &Turn) {
    out.push_str(turn.role.name());
    if let Some(speaker) = turn.speaker {
        out.push_str(" (");
        push_line(out, speaker);
        out.push(')');
    }
    out.push_str(": ");
    push_fenced(out, turn.content);
}

fn memory_line(memory: &Memory) -> String {
    let mut line = "- ".to_owned();
    push_memory(&mut line, memory);
    line + "\n"
}

fn turn_line(turn: &Turn) -> String {
    let mut line = "- ".to_owned();
    push_turn(&mut line, turn);
    line + "\n"
}

/// Appends a list under its heading; an item of another day than the one above it begins with the date.
fn push_list<T>(
    out: &mut String,
    heading: &str,
    items: impl IntoIterator<Item = T>,
    at: impl Fn(&T) -> Option<Millis>,
    push: impl Fn(&mut String, &T),
) {
    let begin = out.len();
    let mut today = None;
    for item in items {
        if out.len() == begin {
            out.push_str(heading);
        }
        out.push_str("- ");
        if let Some(at) = at(&item)
            && today.replace(day(at)) != Some(day(at))
        {
            out.push_str(&date_label(at));
        }
        push(out, &item);
        out.push('\n');
    }
    if out.len() > begin {
        out.push('\n');
    }
}

impl Context<'_> {
    /// The whole as one text.
    pub fn text(&self) -> String {
        let mut text = self.standing(false);
        text.push_str(&self.recalled());
        push_list(&mut text, CONVERSATION, &self.turns, |turn| Some(turn.at), |out, turn| push_turn(out, turn));
        if let Some(question) = self.question.filter(|question| !question.is_empty()) {
            text.push_str("Question: ");
            push_fenced(&mut text, question);
        }
        text.truncate(text.trim_end().len());
        text
    }

    /// The caller's instruction, where there is one.
    fn instruction(&self) -> Option<&str> {
        self.system.map(str::trim).filter(|system| !system.is_empty())
    }

    /// What is the same from one question to the next, mostly: the instruction, unless it stands apart, and the summary.
    fn standing(&self, apart: bool) -> String {
        let mut text = String::new();
        if let Some(instruction) = self.instruction().filter(|_| !apart) {
            text.push_str(instruction);
            text.push_str("\n\n");
        }
        push_list(&mut text, SUMMARY, &self.summary, |_| None, |out, line| push_fenced(out, line));
        text
    }

    /// What was looked up for this question: memories and earlier turns.
    fn recalled(&self) -> String {
        let mut text = String::new();
        let dated = |memory: &&Memory| if memory.doc.is_none() { Some(memory.at) } else { None };
        push_list(&mut text, MEMORIES, self.memories.iter().copied(), dated, |out, memory| push_memory(out, memory));
        push_list(&mut text, EARLIER, &self.earlier, |turn| Some(turn.at), |out, turn| push_turn(out, turn));
        text
    }
}

/// The context as turns of a chat in which [`Role::User`] and [`Role::Assistant`] alternate, the user first; the texts are plain, the model's
/// template is the tokenizer's matter.
///
/// Instruction and summary open the first turn, memories and earlier turns the last one, with the question: so a model that keeps what it has
/// read of a conversation reads only what is new. Where the last turn is not the user's, all of them open the first. Where the model has a role for
/// instructions (`apart`), the caller's is a turn of [`Role::System`] before them. What a system or a tool said stands in a user's turn with its role named.
/// Where a turn holds more than the words of one speaker, each piece is fenced as in [`Context::text`] and an empty line stands between two.
pub fn chat_turns(context: &Context, apart: bool) -> Vec<(Role, String)> {
    /// Words of one speaker; `named` if the text says whose.
    struct Piece<'a> {
        label: Option<&'a Turn<'a>>,
        text: &'a str,
    }
    let (standing, recalled) = (context.standing(apart), context.recalled());
    let pieces = context.turns.iter().map(|turn| match turn.role {
        Role::Assistant => (Role::Assistant, Piece { label: None, text: turn.content }),
        Role::User => (Role::User, Piece { label: None, text: turn.content }),
        Role::System | Role::Tool => (Role::User, Piece { label: Some(*turn), text: turn.content }),
    });
    let question = context.question.filter(|question| !question.is_empty());
    let pieces = pieces.chain(question.map(|text| (Role::User, Piece { label: None, text })));
    let mut groups: Vec<(Role, Vec<Piece>)> = vec![(Role::User, Vec::new())];
    for (role, piece) in pieces {
        match groups.last_mut().filter(|(last, _)| *last == role) {
            Some((_, group)) => group.push(piece),
            None => groups.push((role, vec![piece])),
        }
    }
    let place = groups.len() - 1;
    let place = if groups.last().is_some_and(|(role, _)| *role == Role::User) { place } else { 0 };
    let text_of = |(at, (role, group)): (usize, (Role, Vec<Piece>))| {
        let mut text = if at == 0 { standing.clone() } else { String::new() };
        if at == place {
            text.push_str(&recalled);
        }
        if let ([Piece { label: None, text: only }], true) = (group.as_slice(), text.is_empty()) {
            return (role, only.trim().to_owned());
        }
        for piece in &group {
            match piece.label {
                Some(turn) => push_turn(&mut text, turn),
                None => push_fenced(&mut text, piece.text),
            }
            text.push_str("\n\n");
        }
        text.truncate(text.trim_end().len());
        if text.is_empty() {
            // The model's templates want the user to begin.
            text.push_str(CONVERSATION.trim_end());
        }
        (role, text)
    };
    let instruction = context.instruction().filter(|_| apart).map(|text| (Role::System, text.to_owned()));
    instruction.into_iter().chain(groups.into_iter().enumerate().map(text_of)).collect()
}

#[cfg(test)]
mod tests;
