//! Where the sentences of a text begin and end.
//!
//! One pass over the characters. A sentence ends behind a terminator (`.`, `!`, `?`, `…`, those of Chinese, Japanese, Hindi, Arabic …) with the
//! quotes and brackets that close behind it, if white space or the end follows, or at once where a script puts no spaces; and at a line break that is
//! one of meaning: an empty line, a list item, a line that was not merely wrapped. A full stop is none behind an abbreviation, an initial, the number
//! of a list item, or in front of a small letter.
//!
//! Rejected: the sentence borders of UAX 29 as they are (a border behind `Dr.` and at every wrapped line; correcting them takes the same rules as
//! finding them), and trained models (megabytes for a few points).

use std::ops::Range;

/// Abbreviations that a sentence goes on behind, in small letters, sorted, without their last full stop.
const ABBREVIATIONS: [&str; 58] = [
    "abb", "al", "approx", "apr", "aug", "bd", "bzw", "ca", "capt", "cf", "col", "cpl", "d.h", "dec", "dept", "dipl",
    "dr", "e.g", "eds", "eq", "est", "evtl", "feb", "fig", "figs", "gen", "ggf", "gov", "hr", "i.e", "inkl", "jan",
    "jr", "jul", "jun", "lt", "messrs", "mr", "mrs", "ms", "nov", "nr", "oct", "p.s", "ph.d", "pp", "prof", "rev",
    "sen", "sep", "sept", "sgt", "sr", "st", "u.a", "viz", "vs", "z.b",
];
/// Abbreviations only in front of a number: without one, "No." is a sentence.
const BEFORE_NUMBERS: [&str; 6] = ["art", "ch", "no", "p", "sec", "vol"];
/// A line at least this long was wrapped, not ended, if nothing else speaks for its end.
const WRAPPED: usize = 60;

/// The sentences of a text as byte ranges: in order, without white space around them, none empty. What is between two is white space.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut line = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        if is_line_break(char) {
            let mut next = at + char.len_utf8();
            if let Some((end, _)) = chars.next_if(|(_, next)| char == '\r' && *next == '\n') {
                next = end + 1;
            }
            if ends_line(text, line..at, next) {
                push(text, start..at, &mut found);
                start = next;
            }
            line = next;
        } else if is_terminator(char) {
            let mut end = at + char.len_utf8();
            let mut alone = true;
            while let Some((_, more)) = chars.next_if(|(_, next)| is_terminator(*next)) {
                (alone, end) = (false, end + more.len_utf8());
            }
            let mut closed = false;
            while let Some((_, more)) = chars.next_if(|(_, next)| is_closer(*next)) {
                (closed, end) = (true, end + more.len_utf8());
            }
            let spaced = !is_unspaced_terminator(char);
            if spaced && chars.peek().is_some_and(|(_, next)| !next.is_whitespace()) {
                continue;
            }
            let follows = rest(text, end).chars().find(|next| !next.is_whitespace());
            let goes_on = match char {
                '.' if alone => is_abbreviated(text, start.max(line)..at, line, follows),
                _ => false,
            };
            let small = follows.is_some_and(char::is_lowercase) && (closed || matches!(char, '.' | '…'));
            if !(spaced && (goes_on || small)) {
                push(text, start..end, &mut found);
                start = end;
            }
        }
    }
    push(text, start..text.len(), &mut found);
    found
}

fn rest(text: &str, from: usize) -> &str {
    text.get(from..).unwrap_or_default()
}

fn push(text: &str, range: Range<usize>, found: &mut Vec<Range<usize>>) {
    let part = text.get(range.clone()).unwrap_or_default();
    let start = range.start + part.len() - part.trim_start().len();
    let end = start + part.trim().len();
    if start < end {
        found.push(start..end);
    }
}

/// Every character that Unicode has for the end of a line.
pub(crate) fn is_line_break(char: char) -> bool {
    matches!(char, '\n' | '\r' | '\x0b' | '\x0c' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_terminator(char: char) -> bool {
    matches!(char, '.' | '!' | '?' | '…' | '‼' | '⁇' | '⁈' | '⁉' | '।' | '॥' | '؟' | '۔' | '።' | '፧' | '։' | '။')
        || is_unspaced_terminator(char)
}

/// Whether a text ends as a sentence does.
pub(crate) fn is_terminated(text: &str) -> bool {
    text.trim_end_matches(is_closer).ends_with(is_terminator)
}

/// Those of scripts that put no space behind a sentence.
fn is_unspaced_terminator(char: char) -> bool {
    matches!(char, '。' | '！' | '？' | '｡' | '．' | '︒')
}

fn is_closer(char: char) -> bool {
    matches!(
        char,
        '"' | '\'' | '”' | '’' | '»' | '›' | ')' | ']' | '}' | '」' | '』' | '）' | '】' | '》' | '〉' | '*' | '_'
    )
}

/// Whether the full stop at the end of `before` ends no sentence; `line` is where its line begins, `follows` what stands behind it.
fn is_abbreviated(text: &str, before: Range<usize>, line: usize, follows: Option<char>) -> bool {
    let end = before.end;
    let part = text.get(before).unwrap_or_default();
    // The word that the stop belongs to. Longer ones are no abbreviations, so nobody looks back further.
    let from = part.char_indices().rev().take(12).find(|(_, char)| !(char.is_alphanumeric() || *char == '.'));
    let word = match from {
        Some((at, char)) => rest(part, at + char.len_utf8()),
        None if part.chars().nth(12).is_some() => return false,
        None => part,
    };
    let mut letters = word.chars();
    match (letters.next(), letters.next()) {
        (None, _) => return false,
        // An initial: "J. Smith". The pronoun ends a sentence now and then; nobody is called by it so often.
        (Some(only), None) if only.is_uppercase() && only != 'I' => return follows.is_some_and(char::is_uppercase),
        _ => {}
    }
    // The number of a list item, which begins its line. What is in front of it is looked at from its end, where most numbers are told apart at once.
    if word.len() <= 3 && word.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.get(line..end - word.len()).unwrap_or_default().trim_end().is_empty();
    }
    let small = word.to_lowercase();
    if ABBREVIATIONS.binary_search(&small.as_str()).is_ok() {
        return true;
    }
    if BEFORE_NUMBERS.contains(&small.as_str()) {
        return follows.is_some_and(char::is_numeric);
    }
    // "U.S. Army", but "at 5 p.m. We left".
    let dotted = word.split('.').count() > 1 && word.split('.').all(|part| part.chars().nth(1).is_none());
    dotted && word.starts_with(char::is_uppercase)
}

/// Whether the break behind the line `line` ends a sentence; `next` is where the next line begins.
fn ends_line(text: &str, line: Range<usize>, next: usize) -> bool {
    let line = text.get(line).unwrap_or_default().trim();
    let after = rest(text, next);
    let after = after.split_once(is_line_break).map_or(after, |(first, _)| first);
    if line.is_empty() || after.trim().is_empty() || is_marker(after) || is_heading(line) {
        return true;
    }
    let small = after.trim_start().starts_with(char::is_lowercase);
    !(small || line.chars().nth(WRAPPED - 1).is_some())
}

fn is_heading(line: &str) -> bool {
    line.starts_with('#') || line.starts_with('|') || line.starts_with("```") || line.starts_with("~~~")
}

/// Whether a line begins something of its own: a list item, a heading, a quote, a table's row, a fence.
fn is_marker(line: &str) -> bool {
    let line = line.trim_start();
    if is_heading(line) || line.starts_with('>') {
        return true;
    }
    let behind_bullet = line.strip_prefix(['-', '*', '+', '•', '–']);
    let digits = line.len() - line.trim_start_matches(|char: char| char.is_ascii_digit()).len();
    let behind_number = if (1..=3).contains(&digits) { rest(line, digits).strip_prefix(['.', ')']) } else { None };
    behind_bullet.or(behind_number).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(text: &str) -> Vec<&str> {
        sentences(text).into_iter().filter_map(|range| text.get(range)).collect()
    }

    #[test]
    fn the_list_of_abbreviations_is_sorted() {
        assert!(ABBREVIATIONS.is_sorted());
    }

    #[test]
    fn sentences_end_where_a_reader_ends_them() {
        let cases: &[&[&str]] = &[
            &["I met Dr. Smith at 3.14 p.m. on Monday.", "He left."],
            &["We left at 5 p.m.", "Ann stayed."],
            &["Use a list, e.g. this one, i.e. Mine.", "Then stop!", "Why?!", "Well…"],
            &["The U.S. Army and J. R. Smith came.", "So did I.", "Version 1.2.3 is out."],
            &["\"Really?\" she asked.", "\"Yes.\"", "(He nodded.)", "Good."],
            &["See fig. 3 and no. 7.", "No.", "Not now."],
            &["今日は晴れです。", "明日は？", "雨！"],
            &["他说：“好。”", "然后走了。"],
            &["यह एक वाक्य है।", "यह दूसरा है।"],
            &["Visit example.com now.", "Pay $3.50.", "Done"],
            &["wait... what?", "Wait...", "What?"],
        ];
        for case in cases {
            let glue = if case.first().is_some_and(|first| first.contains(['。'])) { "" } else { " " };
            assert_eq!(split(&case.join(glue)), *case);
        }
    }

    #[test]
    fn line_breaks_end_sentences_unless_they_only_wrap() {
        assert_eq!(
            split("# Title\n1. First thing\n2. Second. Third\n- fourth"),
            ["# Title", "1. First thing", "2. Second.", "Third", "- fourth"]
        );
        assert_eq!(split("one thing\r\n\r\nother"), ["one thing", "other"]);
        let wrapped =
            "This is a line of a text that an editor wrapped at some seventy\nColumns, so its sentence goes on.";
        assert_eq!(split(wrapped), [wrapped]);
        assert_eq!(split("milk\nEggs\rBread\u{2028}Salt"), ["milk", "Eggs", "Bread", "Salt"]);
        assert_eq!(split(" \n\t "), Vec::<&str>::new());
    }

    #[test]
    fn a_large_text_takes_linear_time() {
        let spaces = " ".repeat(1 << 19);
        for text in ["1. ".repeat(1 << 17), ". ! ".repeat(1 << 17), "\n- ".repeat(1 << 17), "a".repeat(1 << 19)] {
            sentences(&format!("{spaces}{text}{spaces}"));
        }
    }

    proptest! {
        #[test]
        fn nothing_but_white_space_is_lost(text in "([a-zA-ZéÉ0-9]{1,4}|[.!?…。\"')]|Dr\\.|[ \n\r\t]|\u{2028}|\u{85}|😀){0,60}") {
            let mut end = 0;
            for range in sentences(&text) {
                prop_assert!(text[end..range.start].trim().is_empty());
                let sentence = &text[range.clone()];
                prop_assert!(!sentence.is_empty());
                prop_assert_eq!(sentence.trim(), sentence);
                end = range.end;
            }
            prop_assert!(text[end..].trim().is_empty());
        }

        #[test]
        fn any_text_is_survived(text in any::<String>()) {
            sentences(&text);
        }
    }
}
