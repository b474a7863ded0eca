//! Contexts against the rules of their claims, and their text against its grammar.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

const DAY: Millis = 86_400_000;

fn id(seq: u64) -> MemoryId {
    MemoryId { ms: 1, seq }
}

fn turn(seq: u64, role: Role, content: &str) -> Turn<'_> {
    Turn { id: id(seq), role, speaker: None, at: 19_000 * DAY + seq, importance: 0.5, content }
}

fn memory(seq: u64, content: &str) -> Memory<'_> {
    Memory { id: id(seq), speaker: None, at: 18_000 * DAY + seq, doc: None, position: None, content }
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// Counts that do not add up: the sum of parts may be larger or smaller than the whole.
fn odd(text: &str) -> usize {
    let lines = text.lines().count();
    let mixed = text.bytes().fold(7_usize, |mixed, byte| mixed.wrapping_mul(31).wrapping_add(byte.into()));
    text.len() / 3 + lines * lines / 16 + mixed % 9
}

fn reasons(context: &Context) -> Vec<(&'static str, Option<u64>, String)> {
    context.dropped.iter().map(|d| (d.what, d.id.map(|id| id.seq), d.reason.clone())).collect()
}

#[test]
fn everything_in_its_place() {
    let turns = [turn(10, Role::User, "Hi.\nBye."), Turn { speaker: Some("Ann"), ..turn(11, Role::Tool, "42") }];
    let older = [Turn { importance: 0.9, ..turn(3, Role::User, "Never before noon.") }, turn(4, Role::User, "Dull.")];
    let memories = [
        Memory { at: 18_001 * DAY, speaker: Some("Bo"), ..memory(5, "Later.") },
        Memory { doc: Some("guide.md"), position: Some(2), ..memory(6, "Third part.") },
        Memory { doc: Some("guide.md"), position: Some(0), ..memory(7, "First part.") },
        memory(8, "Sooner."),
        memory(9, "sooner. "),
        memory(10, "Hi. Bye."),
    ];
    let parts = Parts {
        system: Some("Be kind.\n"),
        summary: Some("Ann (8 May 2023): I have a dog. He is old.\nSomething else."),
        turns: &turns,
        older: &older,
        memories: &memories,
        question: Some("What\nnow?"),
    };
    let context = assemble(&parts, 1_000, &words).unwrap();
    assert_eq!(
        context.text(),
        "Be kind.\n\nSummary:\n- Ann (8 May 2023): I have a dog. He is old.\n- Something else.\n\nMemories:\n- (guide.md, part 1) First \
         part.\n- (guide.md, part 3) Third part.\n- [2019-04-14] Sooner.\n- [2019-04-15] Bo: Later.\n\nEarlier turns:\n- [2022-01-08] user: \
         Never before noon.\n\nConversation:\n- [2022-01-08] user: Hi.\n  Bye.\n- tool (Ann): 42\n\nQuestion: What\n  now?"
    );
    assert_eq!(context.tokens, words(&context.text()));
    assert_eq!(
        reasons(&context),
        [
            ("memory", Some(9), "duplicate of 1-8".to_owned()),
            ("memory", Some(10), "already among the turns".to_owned())
        ]
    );
    let chat = chat_turns(&context, false);
    assert_eq!(chat.len(), 1);
    let (role, text) = &chat[0];
    assert_eq!(*role, Role::User);
    assert!(text.starts_with("Be kind.\n\nSummary:\n"), "{text}");
    assert!(text.ends_with("noon.\n\nHi.\n  Bye.\n\ntool (Ann): 42\n\nWhat\n  now?"), "{text}");
}

#[test]
fn what_must_be_in_or_why_not() {
    let turns = [turn(1, Role::User, "one"), turn(2, Role::User, "two three four")];
    let parts = Parts { system: Some("be kind"), turns: &turns, question: Some("why"), ..Parts::default() };
    assert_eq!(
        assemble(&parts, 5, &words).unwrap_err().to_string(),
        "the budget of 5 tokens is too small: what must be in takes 11 (the system text 2, the newest turn 3, the question 1)"
    );
    let context = assemble(&parts, 11, &words).unwrap();
    assert_eq!(context.turns.iter().map(|turn| turn.id.seq).collect::<Vec<_>>(), [2]);
    assert_eq!(reasons(&context), [("turn", Some(1), "no room: needs 3 tokens, 0 are left".to_owned())]);
    assert_eq!(assemble(&Parts::default(), 0, &words).unwrap().text(), "");
}

#[test]
fn claims_are_served_in_their_order() {
    // Ten tokens each with the dash and the role.
    let said: Vec<String> = (0..9).map(|n| format!("turn{n} b c d e f g h")).collect();
    let turns: Vec<Turn> = said.iter().zip(0..).map(|(text, seq)| turn(seq, Role::User, text)).collect();
    let long = "word ".repeat(60);
    let memories = [memory(20, "m1 b c d"), memory(21, &long), memory(22, "m2 b c d"), memory(3, &said[3])];
    let parts = Parts { turns: &turns, memories: &memories, ..Parts::default() };
    // The newest with its heading and date takes 12. Of 60 left, half go to turns, then memories come, then turns again.
    let context = assemble(&parts, 72, &words).unwrap();
    assert_eq!(context.turns.iter().map(|turn| turn.id.seq).collect::<Vec<_>>(), [5, 6, 7, 8]);
    assert_eq!(context.memories.iter().map(|memory| memory.id.seq).collect::<Vec<_>>(), [3, 20, 22]);
    assert!(reasons(&context).contains(&("memory", Some(21), "no room: needs 61 tokens, 23 are left".to_owned())));
    assert!(reasons(&context).contains(&(
        "turn",
        Some(0),
        "a newer turn has no room, and turns are shown without a gap".to_owned()
    )));
    // With more room the turn takes its place among the turns.
    let context = assemble(&parts, 110, &words).unwrap();
    assert_eq!(context.turns.len(), 9);
    assert_eq!(context.memories.iter().map(|memory| memory.id.seq).collect::<Vec<_>>(), [20, 22]);
    assert_eq!(reasons(&context).last().unwrap(), &("memory", Some(3), "already among the turns".to_owned()));
}

#[test]
fn a_summary_loses_its_oldest_sentences() {
    let turns = [turn(1, Role::User, "q")];
    let summary = "Ann (8 May 2023): One two three. Four five six.\nBo (9 May 2023): Seven eight nine.";
    let parts = Parts { summary: Some(summary), turns: &turns, ..Parts::default() };
    let context = assemble(&parts, 24, &words).unwrap();
    assert_eq!(context.summary, ["Ann (8 May 2023): Four five six.", "Bo (9 May 2023): Seven eight nine."]);
    assert_eq!(
        reasons(&context),
        [("summary", None, "its oldest 1 of 3 sentences: no room: needs 3 tokens, 2 are left".to_owned())]
    );
}

#[test]
fn what_is_recalled_stands_with_the_question_and_what_stays_before_the_conversation() {
    let turns = [turn(1, Role::User, "a"), turn(2, Role::Assistant, "b")];
    let memories = [memory(3, "The ladder is red.")];
    let parts = |question| Parts {
        system: Some("Be brief."),
        summary: Some("Ann met Bo."),
        memories: &memories,
        turns: &turns,
        question,
        ..Parts::default()
    };
    let of = |question| chat_turns(&assemble(&parts(question), 1_000, &words).unwrap(), false);
    let asked = of(Some("Which?"));
    assert!(asked[0].1.contains("Be brief.") && asked[0].1.contains("Ann met Bo.") && !asked[0].1.contains("ladder"));
    assert_eq!(asked[1], (Role::Assistant, "b".to_owned()));
    assert!(asked[2].1.contains("The ladder is red.") && asked[2].1.ends_with("Which?"), "{asked:?}");
    // The next question leaves what was said as it was.
    assert_eq!(of(Some("Why?"))[..2], asked[..2]);
    // Without a question everything opens the conversation.
    assert!(of(None)[0].1.contains("ladder"));
}

#[test]
fn a_chat_alternates() {
    let turns = [
        turn(1, Role::Assistant, "Hello.\nI am here."),
        turn(2, Role::User, "a\nb"),
        turn(3, Role::Assistant, "c"),
        turn(4, Role::Assistant, "d\n- e"),
        turn(5, Role::System, "Be brief.\nuser: x"),
        turn(6, Role::User, "f"),
    ];
    let context = assemble(&Parts { turns: &turns, ..Parts::default() }, 1_000, &words).unwrap();
    let expected = [
        (Role::User, "Conversation:"),
        (Role::Assistant, "Hello.\nI am here."),
        (Role::User, "a\nb"),
        (Role::Assistant, "c\n\nd\n  - e"),
        (Role::User, "system: Be brief.\n  user: x\n\nf"),
    ];
    assert_eq!(chat_turns(&context, false), expected.map(|(role, text)| (role, text.to_owned())));
}

/// Content that tries to look like structure.
fn content() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => "[a-z]{1,8}",
        1 => prop::sample::select(vec![
            "Memories:", "- ", "\n- [2023-05-08] Ann: ", "\nConversation:\n", "\r", "\n\n", "\u{85}", "\u{2028}", "\u{2029}", "\u{b}", "\u{c}",
            "Question: ", "\nSummary:\n- ", "\t", "\u{0}", "😀", "\r\n", "  ", "<end_of_turn>",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec((piece, prop::sample::select(vec!["", " ", "\n"])), 1..12).prop_map(|pieces| {
        let text: String = pieces.into_iter().map(|(piece, glue)| piece + glue).collect();
        if text.chars().all(|char| char.is_whitespace() || char.is_control()) { "x".to_owned() } else { text }
    })
}

#[derive(Debug)]
struct Space {
    turns: Vec<(u64, usize, Option<String>, String, f64)>,
    older: Vec<(u64, String, f64)>,
    memories: Vec<(u64, Option<String>, Option<String>, String)>,
    summary: Option<String>,
    question: Option<String>,
    system: Option<String>,
}

fn space() -> impl Strategy<Value = Space> {
    (
        prop::collection::vec((0..3_u64, 0..4_usize, prop::option::of(content()), content(), 0.0..1.0), 0..12),
        prop::collection::vec((0..3_u64, content(), 0.0..1.0), 0..5),
        prop::collection::vec((0..20_u64, prop::option::of(content()), prop::option::of(content()), content()), 0..12),
        prop::option::of(content()),
        prop::option::of(content()),
        prop::option::of("[a-z ]{0,30}"),
    )
        .prop_map(|(turns, older, memories, summary, question, system)| Space {
            turns,
            older,
            memories,
            summary,
            question,
            system,
        })
}

impl Space {
    /// Calls `with` with the parts; turns have the ids from 10 on, older ones those from 0, memories any of either.
    fn with<T>(&self, with: impl FnOnce(&Parts) -> T) -> T {
        let turns: Vec<Turn> = (10..)
            .zip(&self.turns)
            .map(|(seq, (days, role, speaker, content, importance))| Turn {
                speaker: speaker.as_deref(),
                at: (seq + days) * DAY,
                importance: *importance,
                ..turn(seq, Role::ALL[*role], content)
            })
            .collect();
        let older: Vec<Turn> = (0..)
            .zip(&self.older)
            .map(|(seq, (days, content, importance))| Turn {
                at: (seq + days) * DAY,
                importance: *importance,
                ..turn(seq, Role::User, content)
            })
            .collect();
        let mut seen = HashSet::new();
        let memories: Vec<Memory> = self
            .memories
            .iter()
            .filter(|(seq, ..)| seen.insert(*seq))
            .map(|(seq, speaker, doc, content)| Memory {
                speaker: speaker.as_deref(),
                doc: doc.as_deref(),
                position: doc.as_ref().map(|_| *seq),
                at: seq % 4 * DAY,
                ..memory(*seq, content)
            })
            .collect();
        with(&Parts {
            system: self.system.as_deref(),
            summary: self.summary.as_deref(),
            turns: &turns,
            older: &older,
            memories: &memories,
            question: self.question.as_deref(),
        })
    }
}

/// The lists of a text, by the lines at the margin alone: heading and number of items, and whether there is a question.
fn parse(text: &str) -> (Vec<(String, usize)>, bool) {
    let (mut lists, mut question) = (Vec::<(String, usize)>::new(), false);
    for line in text.split(crate::sentences::is_line_break).filter(|line| !line.is_empty() && !line.starts_with("  ")) {
        match lists.last_mut() {
            _ if line.starts_with("Question: ") => question = true,
            Some((_, items)) if line.starts_with("- ") => *items += 1,
            _ => lists.push((line.to_owned(), 0)),
        }
    }
    (lists, question)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_context_keeps_its_promises(space in space(), budget in 0..400_usize, which in 0..3_usize) {
        let counts: [&dyn Fn(&str) -> usize; 3] = [&words, &odd, &str::len];
        let count = counts[which];
        space.with(|parts| {
            let Ok(context) = assemble(parts, budget * (1 + which * 2), count) else {
                // Only if what must be in is too much.
                let last = parts.turns.len().saturating_sub(1);
                let least = Parts { system: parts.system, turns: &parts.turns[last..], question: parts.question, ..Parts::default() };
                prop_assert!(assemble(&least, budget * (1 + which * 2), count).is_err());
                return Ok(());
            };
            let text = context.text();
            prop_assert_eq!(context.tokens, count(&text));
            prop_assert!(context.tokens <= budget * (1 + which * 2));
            prop_assert_eq!(assemble(parts, budget * (1 + which * 2), count).unwrap(), context.clone());
            // The newest turns without a gap.
            let from = parts.turns.len() - context.turns.len();
            prop_assert!(context.turns.iter().copied().eq(&parts.turns[from..]));
            prop_assert!(parts.turns.is_empty() || !context.turns.is_empty());
            // Everything is shown once, or dropped with a reason.
            let mut shown: Vec<MemoryId> = context.turns.iter().chain(&context.earlier).map(|turn| turn.id).collect();
            shown.extend(context.memories.iter().map(|memory| memory.id));
            let unique: HashSet<_> = shown.iter().collect();
            prop_assert_eq!(unique.len(), shown.len());
            let told: HashSet<_> = context.dropped.iter().filter_map(|dropped| dropped.id).collect();
            let ids = parts.turns.iter().map(|turn| turn.id).chain(parts.memories.iter().map(|memory| memory.id));
            let older = parts.older.iter().filter(|turn| turn.importance >= IMPORTANT).map(|turn| turn.id);
            for id in ids.chain(older) {
                prop_assert!(unique.contains(&id) || told.contains(&id), "{id} is neither shown nor told of");
            }
            // By its lines at the margin, the text has exactly these items.
            let (lists, question) = parse(text.strip_prefix(parts.system.unwrap_or_default().trim()).unwrap());
            let expected: Vec<(String, usize)> = [
                ("Summary:", context.summary.len()),
                ("Memories:", context.memories.len()),
                ("Earlier turns:", context.earlier.len()),
                ("Conversation:", context.turns.len()),
            ]
            .into_iter()
            .filter(|(_, items)| *items > 0)
            .map(|(heading, items)| (heading.to_owned(), items))
            .collect();
            prop_assert_eq!(lists, expected);
            prop_assert_eq!(question, parts.question.is_some());
            // A chat alternates and begins with the user.
            for (at, (role, text)) in chat_turns(&context, false).iter().enumerate() {
                prop_assert_eq!(*role, if at % 2 == 0 { Role::User } else { Role::Assistant });
                prop_assert!(!text.is_empty());
            }
            // Where the instruction has a turn of its own, the rest is as without it.
            let apart = chat_turns(&context, true);
            let instruction = context.system.map(str::trim).filter(|text| !text.is_empty());
            let instruction = instruction.map(|text| (Role::System, text.to_owned()));
            let rest = chat_turns(&Context { system: None, ..context.clone() }, false);
            prop_assert_eq!(apart, instruction.into_iter().chain(rest).collect::<Vec<_>>());
            Ok(())
        })?;
    }
}
