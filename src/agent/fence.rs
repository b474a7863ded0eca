//! How text that others wrote stands in a prompt: as an item of a list, which nothing in it can end.
//!
//! What a reader, or a model, takes for structure begins at the start of a line: a heading, the `- ` of the next item, the name of who speaks. So
//! every line of an item but its first is indented by two spaces, with a line being whatever any program takes for one (CR, LF, vertical tab, form
//! feed, NEL, U+2028, U+2029). Other control characters say nothing to a model and are dropped. Control tokens are the tokenizer's matter: it must
//! read the whole as plain text.
//!
//! Rejected: markers around the text (`<memory>…</memory>`), because the text can contain them, and escaping them costs tokens and reads badly; and
//! joining all lines into one, which destroys lists and code.

use crate::sentences::is_line_break;

/// Appends a text as one line: runs of white space become a space.
pub(crate) fn push_line(out: &mut String, text: &str) {
    let mut first = true;
    for word in text.split_whitespace() {
        let mut rest = word.chars().filter(|char| !char.is_control()).peekable();
        if rest.peek().is_some() {
            if !first {
                out.push(' ');
            }
            first = false;
            out.extend(rest);
        }
    }
}

/// Appends a text so that it stays one item: a text of one line as [`push_line`] does, of one with more the lines behind the first indented by two
/// spaces, with at most one empty line between two.
pub(crate) fn push_fenced(out: &mut String, text: &str) {
    let clean = |line: &str| line.chars().filter(|char| *char == '\t' || !char.is_control()).collect::<String>();
    let mut lines = text.split(is_line_break).map(clean).filter(|line| !line.trim().is_empty()).peekable();
    let first = lines.next().unwrap_or_default();
    if lines.peek().is_none() {
        return push_line(out, &first);
    }
    out.push_str(first.trim());
    // Empty lines are found again in the text itself: "\r\n" is one end of a line, not two.
    let text = text.replace("\r\n", "\n");
    let mut empty = false;
    for line in text.split(is_line_break).map(clean).skip_while(|line| line.trim().is_empty()).skip(1) {
        if line.trim().is_empty() {
            empty = true;
        } else {
            out.push_str(if empty { "\n\n  " } else { "\n  " });
            out.push_str(line.trim_end());
            empty = false;
        }
    }
}

/// The beginning of a text: at most so many bytes, whole characters.
pub(crate) fn beginning(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fenced(text: &str) -> String {
        let mut out = String::new();
        push_fenced(&mut out, text);
        out
    }

    #[test]
    fn one_line_stays_one_and_more_are_indented() {
        for (text, shown) in [
            ("", ""),
            (" a \t b\u{0} ", "a b"),
            ("a\n", "a"),
            ("\r\na\r\nb\r\n", "a\n  b"),
            (
                "a\n\n\n\tb  c\n- d\rMemories:\u{85}e\u{b}f\u{c}g\u{2028}h\u{2029}i",
                "a\n\n  \tb  c\n  - d\n  Memories:\n  e\n  f\n  g\n  h\n  i",
            ),
            ("a\u{1b}[2J\n\u{7}\nb", "a[2J\n\n  b"),
            ("x\u{0}\u{1} \u{2} y", "x y"),
        ] {
            assert_eq!(fenced(text), shown, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn only_the_first_line_begins_at_the_margin(text in "([a-z:]{0,3}|[- \t\r\n\u{0}\u{7f}\u{b}\u{c}\u{85}\u{2028}\u{2029}]|Memories:\n|é){0,40}") {
            let shown = fenced(&text);
            for (at, line) in shown.split(is_line_break).enumerate() {
                prop_assert!(at == 0 || line.is_empty() || line.starts_with("  "));
            }
            prop_assert!(!shown.chars().any(|char| char.is_control() && !matches!(char, '\n' | '\t')));
            prop_assert!(!shown.starts_with(char::is_whitespace) && !shown.ends_with(char::is_whitespace));
            // No word is lost.
            let words = |text: &str| text.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect::<String>();
            prop_assert_eq!(words(&shown), words(&text));
        }
    }
}
