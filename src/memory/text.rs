//! Text as deduplication sees it.

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// The normalised text: Unicode lowercase, runs of white space collapsed to one space, trimmed. Two memories of the same
/// session and speaker whose normalised texts are equal are duplicates.
pub fn normalised(text: &str) -> String {
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
        assert_eq!(normalised(" \n "), "");
        assert_ne!(normalised("a b"), normalised("ab"));
    }

    #[test]
    fn hash_separates_fields() {
        assert_ne!(duplicate_hash("ab", None, None), duplicate_hash("a", Some("b"), None));
        assert_ne!(duplicate_hash("a", Some("b"), None), duplicate_hash("a", None, Some("b")));
        assert_ne!(duplicate_hash("a", Some(""), None), duplicate_hash("a", None, None));
    }
}
