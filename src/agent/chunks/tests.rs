//! Chunks against what they promise, with tokenizers that add up and ones that do not.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

/// Words and signs of their own; a long word is several tokens.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut word = 0;
    for (at, char) in text.char_indices() {
        let end = at + char.len_utf8();
        match spans.last_mut() {
            _ if char.is_whitespace() => word = 0,
            Some(last) if char.is_alphanumeric() && word > 0 && word % 6 != 0 && last.end == at => {
                (last.end, word) = (end, word + 1);
            }
            _ => {
                spans.push(at..end);
                word = if char.is_alphanumeric() { word + 1 } else { 0 };
            }
        }
    }
    spans
}

/// Bytes in pairs from the beginning of the text: what a token is depends on everything before it, and tokens split characters.
fn pairs(text: &str) -> Vec<Range<usize>> {
    (0..text.len()).step_by(2).map(|at| at..(at + 2).min(text.len())).collect()
}

/// A token more for every capital letter, all of them at the place of the first: counts that nobody can predict.
fn odd(text: &str) -> Vec<Range<usize>> {
    let mut spans = words(text);
    let more =
        text.chars().filter(|char| char.is_uppercase()).count() * usize::from(!text.starts_with(char::is_uppercase));
    let first = spans.first().cloned().unwrap_or(0..0);
    spans.splice(0..0, std::iter::repeat_n(first, more));
    spans
}

fn cut(text: &str, size: usize, overlap: usize) -> Vec<Chunk> {
    Chunker::new(text, size, overlap, &words).unwrap().collect::<Result<_>>().unwrap()
}

fn contents(text: &str, size: usize, overlap: usize) -> Vec<String> {
    cut(text, size, overlap).into_iter().map(|chunk| chunk.content).collect()
}

/// Everything that holds for the chunks of any text by any tokenizer.
fn check(text: &str, size: usize, overlap: usize, spans_of: &Spans) -> std::result::Result<(), TestCaseError> {
    let mut chunker = Chunker::new(text, size, overlap, spans_of).unwrap();
    let mut last: Option<Chunk> = None;
    while let Some(chunk) = chunker.next() {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                // Only for a character that does not fit, and the message says which.
                let message = error.to_string();
                let at: usize = message.split(' ').find_map(|word| word.parse().ok()).unwrap();
                let char = text[at..].chars().next().unwrap();
                prop_assert!(spans_of(&char.to_string()).len() > size, "{message}");
                return Ok(());
            }
        };
        let piece = &text[chunk.start..chunk.end];
        prop_assert_eq!(spans_of(&chunk.content).len(), chunk.tokens);
        prop_assert!(chunk.tokens <= size, "{} tokens in {:?}", chunk.tokens, chunk.content);
        prop_assert!(!piece.trim().is_empty());
        prop_assert_eq!(piece.trim_end(), piece);
        let line = chunk.content.strip_suffix(piece).unwrap();
        prop_assert!(line.is_empty() || (line.ends_with('\n') && line.len() > 1 && line.lines().count() == 1));
        let (start, end) = last.as_ref().map_or((0, 0), |last| (last.start, last.end));
        prop_assert!(chunk.end > end && (last.is_none() || chunk.start > start));
        if chunk.start >= end {
            prop_assert!(text[end..chunk.start].trim().is_empty());
        } else {
            prop_assert!(spans_of(&text[chunk.start..end]).len() <= overlap);
        }
        prop_assert!(chunker.position() >= chunk.end);
        last = Some(chunk);
    }
    prop_assert!(text[last.map_or(0, |last| last.end)..].trim().is_empty());
    Ok(())
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    let error = |size, overlap| Chunker::new("x", size, overlap, &words).err().unwrap().to_string();
    assert_eq!(error(0, 0), "the chunk size is 0: it takes at least 1 token");
    assert_eq!(error(50, 60), "the overlap is 60 tokens and the chunk size 50: the overlap must be smaller");
    assert_eq!(cut("", 5, 0), []);
    assert_eq!(cut(" \r\n\t", 5, 0), []);
}

#[test]
fn a_chunk_ends_where_a_reader_pauses() {
    let text = "One two three. Four five six. Seven eight nine ten eleven twelve thirteen.";
    assert_eq!(
        contents(text, 10, 0),
        ["One two three. Four five six.", "Seven eight nine ten eleven twelve thirteen."]
    );
    let text = "First paragraph has these words.\r\n\r\nSecond one. It goes on for longer than the rest.";
    assert_eq!(
        contents(text, 8, 0),
        ["First paragraph has these words.", "Second one. It goes on for longer", "than the rest."]
    );
    // A word that is too long is cut between tokens.
    assert_eq!(contents("abcdefghijklmnopqr", 2, 0), ["abcdefghijkl", "mnopqr"]);
}

#[test]
fn a_chunk_repeats_whole_sentences() {
    let text = "Aa bb cc. Dd ee. Ff gg hh. Ii jj kk. Ll mm.";
    assert_eq!(contents(text, 11, 4), ["Aa bb cc. Dd ee. Ff gg hh.", "Ff gg hh. Ii jj kk. Ll mm."]);
    // No sentence is short enough: words.
    assert_eq!(contents("a b c d e f g h i j", 5, 2), ["a b c d e", "d e f g h", "g h i j"]);
}

#[test]
fn headings_travel_with_their_chunks() {
    let text = "# Guide\n\nHello there.\n\n## Install ##\n\nRun it twice now, you all. Then run it again and again.\n\n## Use\nOpen it.\n\nOther\n=====\n\nEnd.\n";
    let all = contents(text, 15, 3);
    assert_eq!(
        all,
        [
            "# Guide\n\nHello there.",
            "Guide\n## Install ##\n\nRun it twice now, you all.",
            "Guide > Install\nyou all. Then run it again and again.",
            "Guide\n## Use\nOpen it.\n\nOther\n=====\n\nEnd.",
        ]
    );
    // The last title counts most, and no more than half of a chunk goes to titles.
    let text = "# A very long title of a book\n\n## Part\n\none two three four five six seven eight nine";
    assert_eq!(contents(text, 6, 0).last().unwrap(), "Part\nsix seven eight nine");
}

#[test]
fn code_and_tables_stay_whole_where_they_fit() {
    let code = "```sh\n# no heading\nmake it all\n```";
    let text = format!("# Top\n\nSome words come first here.\n\n{code}\n\nLast words.");
    let all = contents(&text, 16, 0);
    assert!(all.iter().any(|chunk| chunk.contains(code)), "{all:?}");
    assert!(all.iter().all(|chunk| !chunk.starts_with("no heading")), "{all:?}");
    let table = "| a | b |\n|---|---|\n| c | d |";
    let text = format!("Words before the table stand here.\n\n{table}\n\nWords behind it.");
    let all = contents(&text, 22, 0);
    assert!(all.iter().any(|chunk| chunk.contains(table)), "{all:?}");
    // What does not fit is parted between lines.
    let long = format!("```\n{}```", "let a = b;\n".repeat(9));
    let all = contents(&long, 20, 0);
    assert!(all.len() > 2 && all.iter().skip(1).all(|chunk| chunk.starts_with("let")), "{all:?}");
}

#[test]
fn blocks_of_markdown() {
    let kinds = |text: &str| {
        let name = |block: Block| match block.kind {
            Kind::Heading { level, title } => format!("h{level} {}", &text[title]),
            Kind::Whole => format!("whole {}", block.range.len()),
            Kind::Prose => format!("prose {}", &text[block.range]),
        };
        blocks(text).into_iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(kinds("---\na: b\n---\ntext\n---\n\n---\n"), ["whole 12", "h2 text", "prose ---"]);
    assert_eq!(
        kinds("#no\n####### no\n# \n## C# ##\n    # code"),
        ["prose #no\n####### no", "h1 ", "h2 C#", "prose # code"]
    );
    assert_eq!(kinds("~~~\n# x\n```\n~~~\n- a\n---"), ["whole 15", "prose - a\n---"]);
}

#[test]
fn a_large_text_is_cut_in_linear_time() {
    let one_line = "word and another, then more of it. ".repeat(30_000);
    let without_spaces = "x".repeat(1 << 20);
    let spaces = format!("a{}b", " ".repeat(1 << 20));
    let unknown = |text: &str| if text.is_empty() { Vec::new() } else { std::iter::once(0..text.len()).collect() };
    for text in [&one_line, &without_spaces, &spaces] {
        let chunks = cut(text, 512, 50);
        assert!(chunks.iter().all(|chunk| chunk.tokens <= 512));
        for chunk in Chunker::new(text, 512, 50, &unknown).unwrap() {
            assert!(chunk.unwrap().content.len() <= 512 * TOKEN_BYTES);
        }
    }
}

#[test]
fn characters_are_not_cut() {
    let family = "👨\u{200d}👩\u{200d}👧";
    let by_char = |text: &str| text.char_indices().map(|(at, char)| at..at + char.len_utf8()).collect::<Vec<_>>();
    let text = family.repeat(3);
    let chunks: Vec<Chunk> = Chunker::new(&text, 7, 0, &by_char).unwrap().collect::<Result<_>>().unwrap();
    assert!(chunks.iter().all(|chunk| chunk.content == family), "{chunks:?}");
    let error = Chunker::new("ab😀", 1, 0, &pairs).unwrap().find_map(Result::err).unwrap();
    assert_eq!(error.to_string(), "the character at byte 2 has 2 tokens, more than a chunk of 1 takes");
}

/// The documents of `tests/data`, whole.
#[test]
fn real_documents() {
    let handbook = include_str!("../../../tests/data/handbook.md");
    let account = include_str!("../../../tests/data/lighthouse.txt");
    for (text, size, overlap) in
        [(handbook, 128, 16), (handbook, 512, 50), (account, 128, 16), (account, 512, 50), (account, 20, 5)]
    {
        check(text, size, overlap, &words).unwrap();
        check(&text.replace('\n', "\r\n"), size, overlap, &words).unwrap();
    }
    let chunks = cut(handbook, 256, 30);
    let holding = |what: &str| chunks.iter().find(|chunk| chunk.content.contains(what)).unwrap().content.as_str();
    let first_line = |what: &str| holding(what).lines().next().unwrap();
    let top = "Handbook of the Harrow Ferry Company";
    // A section that is longer than a chunk: its later parts say where they belong.
    assert_eq!(first_line("Passwords are changed when"), format!("{top} > Terminals > The booking system"));
    let code = holding("tern departures cancel");
    assert!(code.contains("```sh\n# On the terminal") && code.contains("--departure 1800H\n```"), "{code}");
    // Tables are whole, and prose ends with a sentence.
    assert!(holding("| Puffin").contains("| ship"));
    let ends = |chunk: &&Chunk| {
        chunk.content.ends_with(['.', '|', '`', '!', ')'])
            || chunk.content.lines().last().unwrap().starts_with(['-', '*'])
    };
    let broken: Vec<&Chunk> = chunks.iter().filter(|chunk| !ends(chunk)).collect();
    assert!(broken.is_empty(), "{broken:?}");
    let chunks = cut(account, 200, 40);
    assert!(chunks.iter().all(|chunk| chunk.content.ends_with(['.', '"', 'N'])), "{chunks:?}");
    // The rest of the text repeats sentences.
    assert!(chunks.windows(2).any(|pair| pair[1].start < pair[0].end));
}

fn document() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => "[A-Za-z,.é ]{0,30}[.!?]?",
        1 => "#{1,4} [A-Za-z ]{0,20}",
        1 => Just("```".to_owned()),
        1 => "\\| [a-z]{1,5} \\| [a-z]{1,5} \\|",
        1 => Just("|---|---|".to_owned()),
        1 => Just("----".to_owned()),
        1 => Just(String::new()),
        1 => "[a-z]{40,60}",
        1 => "[😀é漢字。👩\u{200d}🏽\u{301}]{1,20}",
        1 => "- [a-z ]{0,20}",
    ];
    let end = prop_oneof![3 => Just("\n"), 1 => Just("\r\n"), 1 => Just("\r"), 1 => Just(" "), 1 => Just("\n\n")];
    prop::collection::vec((line, end), 0..25)
        .prop_map(|lines| lines.into_iter().map(|(line, end)| line + end).collect())
}

proptest! {
    #[test]
    fn chunks_keep_their_promises(text in document(), size in 1..40_usize, overlap in 0..12_usize, which in 0..3_usize) {
        let tokenizers: [&Spans; 3] = [&words, &pairs, &odd];
        check(&text, size, overlap.min(size - 1), tokenizers[which])?;
    }

    #[test]
    fn any_text_keeps_them(text in any::<String>(), size in 1..20_usize) {
        check(&text, size, size / 3, &words)?;
    }
}
