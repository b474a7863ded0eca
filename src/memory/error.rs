//! What went wrong, as a sentence for the person who typed the command.

use std::fmt;

/// An error: a code, which is the first word of a Redis error reply, and a sentence that says what was wrong, where, and
/// what is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    code: &'static str,
    message: String,
}

/// The engine's results.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of the general code `ERR`.
    pub fn new(message: impl Into<String>) -> Self {
        Error { code: "ERR", message: message.into() }
    }

    /// An error of another code.
    pub fn with_code(code: &'static str, message: impl Into<String>) -> Self {
        Error { code, message: message.into() }
    }

    /// `ERR no such memory`, with the id.
    pub(crate) fn no_such_memory(id: crate::MemoryId) -> Self {
        Error::new(format!("no such memory: {id}"))
    }

    /// The error code: `ERR` unless a client is expected to react to it (`OOM`).
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The sentence, without the code.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The name of `names` that is nearest to `wrong` by edit distance, if it is near enough to be what was meant.
pub(crate) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    names
        .map(|name| (edit_distance(&wrong, name), name))
        .filter(|(distance, name)| *distance <= (name.len().max(wrong.len()) / 2).max(1))
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein distance in characters, compared without case; the first 64 characters of each.
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.to_lowercase().chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &from) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (&to, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let best = (diagonal + usize::from(from != to)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances() {
        for (a, b, distance) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("tier", "tier", 0),
            ("tear", "tier", 2),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} {a}");
        }
    }

    #[test]
    fn nearest_name() {
        let names = ["importance", "tier", "tags"];
        assert_eq!(nearest("importence", names.into_iter()), Some("importance"));
        assert_eq!(nearest("TIERS", names.into_iter()), Some("tier"));
        assert_eq!(nearest("zzzzzzzzzz", names.into_iter()), None);
    }
}
