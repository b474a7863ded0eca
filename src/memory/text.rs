//! Text as deduplication, the embedder and the lexical index see it.

use crate::Millis;
use crate::date;
use siphasher::sip::SipHasher13;
use std::borrow::Cow;
use std::hash::Hasher;

/// What is embedded, and indexed by words, of a memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Template {
    /// The bare content.
    Plain,
    /// Of a memory with a SPEAKER also who said it and when, for that is what questions ask; of others the bare content.
    #[default]
    Spoken,
}

impl Template {
    /// All templates with the names that settings use.
    pub(crate) const ALL: [(Template, &str); 2] = [(Template::Plain, "plain"), (Template::Spoken, "spoken")];

    /// The number by which a memory says how it was embedded, from 1.
    pub fn version(self) -> u16 {
        match self {
            Template::Plain => 1,
            Template::Spoken => 2,
        }
    }

    /// The text to embed: `On 8 May 2023, Caroline said: …`
    pub fn render<'a>(self, content: &'a str, speaker: Option<&str>, at: Millis) -> Cow<'a, str> {
        match (self, speaker) {
            (Template::Spoken, Some(speaker)) => {
                Cow::Owned(format!("On {}, {speaker} said: {content}", date::words(at)))
            }
            _ => Cow::Borrowed(content),
        }
    }

    /// What is indexed by words in front of the content: `8 May 2023 Caroline`.
    pub(crate) fn prefix(self, speaker: Option<&str>, at: Millis) -> Option<String> {
        match (self, speaker) {
            (Template::Spoken, Some(speaker)) => Some(format!("{} {speaker}", date::words(at))),
            _ => None,
        }
    }
}

/// The normalised text: Unicode lowercase, runs of white space collapsed to one space, trimmed. Two memories of the same
/// session and speaker whose normalised texts are equal are duplicates.
pub fn normalised(text: &str) -> String {
    // The usual text has only letters to make small. Looked at as a whole, without a branch per byte.
    let printable = text.bytes().fold(true, |all, byte| all & (b' '..=b'~').contains(&byte));
    let single = text.bytes().zip(text.bytes().skip(1)).fold(true, |all, pair| all & (pair != (b' ', b' ')));
    if printable && single {
        return text.trim_matches(' ').to_ascii_lowercase();
    }
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out.to_lowercase()
}

/// The hash of what makes two memories duplicates. Whoever finds an equal hash still compares the texts, so that a collision
/// costs time and nothing else; the key is fixed, because the same calls must give the same bytes.
pub(crate) fn duplicate_hash(normalised: &str, session: Option<&str>, speaker: Option<&str>) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x656e_6772_616d, 0);
    for part in [Some(normalised), session, speaker] {
        match part {
            Some(part) => {
                hasher.write_u64(part.len() as u64);
                hasher.write(part.as_bytes());
            }
            None => hasher.write_u64(u64::MAX),
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalisation() {
        assert_eq!(normalised("  The\tcat \n\n SAT\u{a0}on  "), "the cat sat on");
        assert_eq!(normalised("ÄRGER"), normalised("ärger"));
        for text in [" The cat", "THE cat ", "The  cat", "the\tcat", "the\u{b}cat", " the cat "] {
            assert_eq!(normalised(text), "the cat");
        }
        assert_eq!(normalised(" \n "), "");
        assert_ne!(normalised("a b"), normalised("ab"));
    }

    #[test]
    fn dates() {
        for (at, expected) in [
            (0, "1 January 1970"),
            (951_782_400_000, "29 February 2000"),
            (951_868_800_000, "1 March 2000"),
            (1_683_554_160_000, "8 May 2023"),
            (1_703_980_799_999, "30 December 2023"),
            (1_704_067_199_999, "31 December 2023"),
            (4_107_542_400_000, "1 March 2100"),
            (crate::limits::TIME_MS, "12 October 287396"),
        ] {
            assert_eq!(date::words(at), expected);
        }
    }

    #[test]
    fn templates() {
        let at = 1_683_554_160_000;
        assert_eq!(Template::Spoken.render("hello", Some("Caroline"), at), "On 8 May 2023, Caroline said: hello");
        assert_eq!(Template::Spoken.render("hello", None, at), "hello");
        assert_eq!(Template::Plain.render("hello", Some("Caroline"), at), "hello");
        assert_eq!(Template::Spoken.prefix(Some("Caroline"), at).as_deref(), Some("8 May 2023 Caroline"));
        assert_eq!((Template::Spoken.prefix(None, at), Template::Plain.prefix(Some("C"), at)), (None, None));
    }

    #[test]
    fn hash_separates_fields() {
        assert_ne!(duplicate_hash("ab", None, None), duplicate_hash("a", Some("b"), None));
        assert_ne!(duplicate_hash("a", Some("b"), None), duplicate_hash("a", None, Some("b")));
        assert_ne!(duplicate_hash("a", Some(""), None), duplicate_hash("a", None, None));
    }
}
